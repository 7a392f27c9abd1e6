"""Measures: equal to the mean over every order of tied items, and to sums done by hand."""

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

from medfinder.errors import InputError
from medfinder.ranking import measures
from medfinder.ranking.ranks import Ranks, rank_scores
from reference import measures as reference

KS = (1, 2, 3, 5, 9)
PAIRS: list[tuple[Callable[[Ranks], np.ndarray], Callable[[reference.Order], Fraction]]] = [
    (measures.first_rank, reference.first_rank),
    (measures.reciprocal_rank, reference.reciprocal_rank),
    (measures.average_precision, reference.average_precision),
    *((lambda r, k=k: measures.success_at_k(r, k), reference.success(k)) for k in KS),
    *((lambda r, k=k: measures.recall_at_k(r, k), reference.recall(k)) for k in KS),
    *((lambda r, k=k: measures.precision_at_k(r, k), reference.precision(k)) for k in KS),
    *((lambda r, k=k: measures.reciprocal_rank(r, k), reference.reciprocal_rank_at(k)) for k in KS),
    *((lambda r, k=k: measures.average_precision(r, k), reference.average_precision_at(k)) for k in KS),
]  # fmt: skip


@pytest.mark.parametrize("seed", range(25))
def test_a_measure_is_the_mean_over_every_order_of_ties(seed: int) -> None:
    random = np.random.default_rng(seed)
    n_queries, n_gallery = int(random.integers(1, 6)), int(random.integers(1, 7))
    levels = int(random.integers(1, 5))  # 1: all tied; 4: few ties
    scores = random.integers(levels, size=(n_queries, n_gallery)).astype(np.float32)
    table = random.random((n_queries, n_gallery)) < random.random()
    table[np.arange(n_queries), random.integers(n_gallery, size=n_queries)] = True
    relevant = [set(np.flatnonzero(row).tolist()) for row in table]
    ranks = rank_scores(scores, table)
    for fast, slow in PAIRS:
        truth = [
            reference.expected(slow, line, rows)
            for line, rows in zip(scores.tolist(), relevant, strict=True)
        ]
        np.testing.assert_allclose(fast(ranks), truth, rtol=0, atol=1e-12)
    if table.all(axis=1).any():
        return
    truth = [
        reference.expected(reference.auroc, line, rows)
        for line, rows in zip(scores.tolist(), relevant, strict=True)
    ]
    np.testing.assert_allclose(measures.auroc(ranks), truth, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(15))
def test_ndcg_is_the_mean_over_every_order_of_ties(seed: int) -> None:
    random = np.random.default_rng(seed)
    n_queries, n_gallery = int(random.integers(1, 5)), int(random.integers(1, 7))
    scores = random.integers(int(random.integers(1, 5)), size=(n_queries, n_gallery))
    grades = random.integers(4, size=(n_queries, n_gallery))
    grades[np.arange(n_queries), random.integers(n_gallery, size=n_queries)] = 2
    ranks = rank_scores(scores, grades)
    for k in (None, *KS):
        for gain in ("linear", "exponential"):
            truth = [
                np.mean(
                    [
                        reference.ndcg(order, k, gain == "exponential")
                        for order in reference.graded_orders(line, theirs)
                    ]
                )
                for line, theirs in zip(scores.tolist(), grades.tolist(), strict=True)
            ]
            found = measures.ndcg(ranks, k, gain)
            np.testing.assert_allclose(found, truth, rtol=0, atol=1e-12)


def test_ndcg_by_hand() -> None:
    # Grades in order: 1, 0, 3; the best order would be 3, 1, 0.
    ranks = rank_scores(np.array([[5.0, 4.0, 3.0]]), np.array([[1, 0, 3]]))
    assert measures.ndcg(ranks) == pytest.approx((1 + 3 / 2) / (3 + 1 / np.log2(3)), abs=1e-15)
    exponential = (1 + 7 / 2) / (7 + 1 / np.log2(3))
    assert measures.ndcg(ranks, gain="exponential") == pytest.approx(exponential, abs=1e-15)
    assert measures.ndcg(ranks, 1).tolist() == [1 / 3]


def test_a_gain_of_another_name_is_refused() -> None:
    with pytest.raises(InputError, match="gain must be linear or exponential, got 'log'") as error:
        measures.ndcg(rank_scores(np.eye(3)), gain="log")  # type: ignore[arg-type]
    assert error.value.rule == "option"


def test_a_grade_whose_gain_float64_cannot_hold_is_refused() -> None:
    ranks = rank_scores(np.eye(2), np.array([[1000, 0], [0, 1]]))
    assert measures.ndcg(ranks).tolist() == [1, 1]
    with pytest.raises(InputError, match="A grade of 1000 has too great an exponential") as error:
        measures.ndcg(ranks, gain="exponential")
    assert error.value.rule == "grade"


def cut_off() -> Ranks:
    """Two queries, three places each: of the second query's two relevant items one is lost."""
    starts, better = np.array([0, 1, 3]), np.array([1, 2, 3])
    return Ranks(starts, better, np.zeros(3, np.int64), np.ones(3), n_gallery=3, is_whole=False)


def test_an_item_beyond_a_cut_is_found_at_no_k() -> None:
    ranks = cut_off()
    assert measures.recall_at_k(ranks, 1000).tolist() == [1, 1 / 2]
    assert measures.precision_at_k(ranks, 10).tolist() == [1 / 10, 1 / 10]
    assert measures.success_at_k(ranks, 1000).tolist() == [1, 1]
    assert measures.average_precision(ranks).tolist() == [1 / 2, 1 / 6]
    best = 1 + 1 / np.log2(3)
    assert measures.ndcg(ranks).tolist() == [1 / np.log2(3), 1 / 2 / best]
    assert measures.mean_rank(ranks) == 2.5


def test_a_query_of_which_nothing_is_found_scores_0() -> None:
    ranks = Ranks(np.array([0, 2]), np.array([3, 3]), np.zeros(2, int), np.ones(2), 3, False)
    assert measures.success_at_k(ranks, 1000).tolist() == [0]
    assert measures.reciprocal_rank(ranks).tolist() == [0]
    assert measures.average_precision(ranks).tolist() == [0]
    assert measures.ndcg(ranks).tolist() == [0]


def test_the_place_of_what_was_cut_off_is_unknown() -> None:
    ranks = Ranks(np.array([0, 1, 2]), np.array([0, 3]), np.zeros(2, int), np.ones(2), 3, False)
    text = "The ranking of query 1 ends before its first relevant item, as do 1 in all"
    for measure in (measures.first_rank, measures.mean_rank, measures.median_rank):
        with pytest.raises(InputError, match=text) as error:
            measure(ranks)
        assert error.value.rule == "cut-off"


def test_auroc_needs_whole_rankings() -> None:
    with pytest.raises(InputError, match="AUROC needs whole rankings") as error:
        measures.auroc(cut_off())
    assert error.value.rule == "cut-off"


def test_five_items_one_relevant_by_hand() -> None:
    # Item 2 shares places 2, 3 and 4 with two others; item 4 is last; item 0 is first.
    scores = np.array([[9, 5, 5, 1, 5], [2, 7, 4, 4, 0], [8, 1, 2, 3, 4]])
    ranks = rank_scores(scores, [2, 4, 0])
    assert measures.success_at_k(ranks, 1).tolist() == [0, 0, 1]
    assert measures.success_at_k(ranks, 3).tolist() == [2 / 3, 0, 1]
    assert measures.recall_at_k(ranks, 3).tolist() == [2 / 3, 0, 1]
    assert measures.success_at_k(ranks, 5).tolist() == [1, 1, 1]
    assert measures.precision_at_k(ranks, 4).tolist() == [1 / 4, 0, 1 / 4]
    assert measures.first_rank(ranks).tolist() == [3, 5, 1]
    assert measures.median_rank(ranks) == 3
    assert measures.mean_rank(ranks) == 3
    third = (1 / 2 + 1 / 3 + 1 / 4) / 3
    assert measures.reciprocal_rank(ranks) == pytest.approx([third, 1 / 5, 1], abs=1e-15)
    assert measures.average_precision(ranks) == pytest.approx([third, 1 / 5, 1], abs=1e-15)
    assert measures.auroc(ranks).tolist() == [(1 + 0.5 + 0.5) / 4, 0, 1]


def test_five_items_several_relevant_by_hand() -> None:
    # In order: relevant, other, then a tie of one relevant and one other, then other.
    ranks = rank_scores(np.array([[5, 4, 3, 3, 1]]), [[0, 3]])
    assert measures.success_at_k(ranks, 1).tolist() == [1]
    assert measures.recall_at_k(ranks, 3).tolist() == [(1 + 1 / 2) / 2]
    assert measures.precision_at_k(ranks, 3).tolist() == [(1 + 1 / 2) / 3]
    assert measures.first_rank(ranks).tolist() == [1]
    assert measures.reciprocal_rank(ranks).tolist() == [1]
    # The second relevant item is at place 3 or 4, with precision 2/3 or 2/4.
    assert measures.average_precision(ranks) == pytest.approx([(1 + (2 / 3 + 2 / 4) / 2) / 2])
    # Six pairs: the first relevant item wins three; the second loses one, ties one, wins one.
    assert measures.auroc(ranks) == pytest.approx([4.5 / 6])


def test_a_constant_scorer_gets_what_chance_gets() -> None:
    ranks = rank_scores(np.zeros((500, 500)))
    assert measures.success_at_k(ranks, 10) == pytest.approx(np.full(500, 10 / 500))
    assert measures.median_rank(ranks) == measures.mean_rank(ranks) == 250.5
    assert measures.auroc(ranks).tolist() == [0.5] * 500


def test_the_order_of_a_gallery_changes_no_measure() -> None:
    random = np.random.default_rng(2)
    scores = random.integers(6, size=(20, 50))
    table = random.random((20, 50)) < 0.2
    table[:, 7] = True
    order = random.permutation(50)
    ranks, shuffled = rank_scores(scores, table), rank_scores(scores[:, order], table[:, order])
    for fast, _ in PAIRS:
        np.testing.assert_array_equal(fast(ranks), fast(shuffled))


def test_a_median_rank_between_two_queries_is_halfway() -> None:
    ranks = rank_scores(np.array([[3, 2, 1], [3, 2, 1]]), [0, 2])
    assert measures.median_rank(ranks) == 2.0


@pytest.mark.parametrize("k", [0, -1, 1.0, True, None])
@pytest.mark.parametrize(
    "measure", [measures.success_at_k, measures.recall_at_k, measures.precision_at_k]
)
def test_k_is_a_whole_number_of_at_least_one(measure: Callable, k: object) -> None:
    ranks = rank_scores(np.eye(3))
    with pytest.raises(InputError, match="k must be a whole number of at least 1, got") as error:
        measure(ranks, k)
    assert error.value.rule == "k"


def test_auroc_needs_an_item_that_is_not_relevant() -> None:
    ranks = rank_scores(np.eye(3), [[0], [0, 1, 2], [1]])
    with pytest.raises(InputError, match="All 3 items are relevant to query 1") as error:
        measures.auroc(ranks)
    assert error.value.rule == "no-negative"
