import pytest

from medfinder.search.hybrid import reciprocal_rank_fusion


def test_the_score_is_the_sum_of_reciprocal_ranks() -> None:
    fused = dict(reciprocal_rank_fusion({"a": ["x", "y"], "b": ["y"]}, k=60))
    assert fused["x"] == pytest.approx(1 / 61)
    assert fused["y"] == pytest.approx(1 / 62 + 1 / 61)


def test_what_two_rankers_find_goes_before_what_one_finds() -> None:
    fused = reciprocal_rank_fusion({"a": ["x", "y"], "b": ["z", "y"]})
    assert [i for i, _ in fused] == ["y", "x", "z"]


def test_ties_are_broken_by_id() -> None:
    assert [i for i, _ in reciprocal_rank_fusion({"a": ["b"], "b": ["a"]})] == ["a", "b"]


def test_a_weight_multiplies_a_ranker() -> None:
    fused = reciprocal_rank_fusion({"a": ["x"], "b": ["y"]}, weights={"b": 2.0})
    assert fused[0] == ("y", pytest.approx(2 / 61))


def test_nothing_fuses_to_nothing() -> None:
    assert reciprocal_rank_fusion({}) == []
