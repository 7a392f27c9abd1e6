"""Names of measures: read, written back, refused with what to write instead."""

import numpy as np
import pytest

from medfinder.errors import InputError, UnknownName
from medfinder.ranking import measures
from medfinder.ranking.names import KINDS, Measure, Score, evaluate, measure
from medfinder.ranking.ranks import rank_scores
from medfinder.ranking.significance import bootstrap_interval

NAMES = (
    "R@10",
    "recall@10",
    "P@50",
    "RR",
    "RR@10",
    "AP",
    "AP@50",
    "AP(rel=2)@100",
    "nDCG",
    "nDCG@20",
    "nDCG(gain=exponential)@20",
    "nDCG(rel=2,gain=exponential)",
    "MdR",
    "MnR",
    "AUROC",
)


@pytest.fixture
def ranks():
    random = np.random.default_rng(0)
    grades = random.integers(-2, 4, (12, 30)).clip(0)
    grades[:, 3] = 2
    return rank_scores(random.integers(6, size=(12, 30)), grades)


@pytest.mark.parametrize("name", NAMES)
def test_a_measure_gives_back_the_name_it_was_made_from(name: str) -> None:
    assert measure(name).name == name
    assert str(measure(name)) == name
    assert measure(measure(name).name) == measure(name)


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("mAP", "AP"),
        ("MAP@7", "AP@7"),
        ("MRR", "RR"),
        ("Success@5", "R@5"),
        ("Recall@5", "recall@5"),
        ("NDCG@5", "nDCG@5"),
        ("P@005", "P@5"),
        ("P(rel=1)@5", "P@5"),
        ("nDCG(gain=linear)", "nDCG"),
        ("nDCG( rel=2 , gain=exponential )", "nDCG(rel=2,gain=exponential)"),
    ],
)
def test_other_spellings_are_the_same_measure(name: str, same: str) -> None:
    assert measure(name) == measure(same)


def test_a_name_means_its_function(ranks) -> None:
    functions = {
        "R@3": lambda r: measures.success_at_k(r, 3),
        "recall@3": lambda r: measures.recall_at_k(r, 3),
        "P@3": lambda r: measures.precision_at_k(r, 3),
        "RR": measures.reciprocal_rank,
        "RR@3": lambda r: measures.reciprocal_rank(r, 3),
        "AP": measures.average_precision,
        "AP@3": lambda r: measures.average_precision(r, 3),
        "nDCG": measures.ndcg,
        "nDCG(gain=exponential)@3": lambda r: measures.ndcg(r, 3, "exponential"),
        "MnR": measures.first_rank,
        "MdR": measures.first_rank,
        "AUROC": measures.auroc,
        "AP(rel=2)": lambda r: measures.average_precision(r.at_least(2)),
        "AUROC(rel=2)": lambda r: measures.auroc(r.at_least(2)),
    }
    for name, function in functions.items():
        assert measure(name).values(ranks).tolist() == function(ranks).tolist(), name


def test_a_score_keeps_every_query_and_derives_its_mean_or_median(ranks) -> None:
    scores = evaluate(ranks, ["MnR", "MdR", Measure("R", 5)])
    assert list(scores) == ["MnR", "MdR", "R@5"]
    assert scores["MnR"].values.tolist() == measures.first_rank(ranks).tolist()
    assert scores["MnR"].value == measures.mean_rank(ranks)
    assert scores["MdR"].value == measures.median_rank(ranks)
    assert scores["R@5"].value == measures.success_at_k(ranks, 5).mean()


def test_the_interval_is_of_what_the_score_derives(ranks) -> None:
    patients = [f"p{i // 2}" for i in range(12)]
    for name, statistic in (("MnR", "mean"), ("MdR", "median")):
        score = measure(name).score(ranks)
        expected = bootstrap_interval(score.values, patients, statistic=statistic, n_draws=200)  # type: ignore[arg-type]
        assert score.interval(patients, n_draws=200) == expected


def test_every_kind_says_what_it_is() -> None:
    for name in KINDS:
        kind = KINDS.get(name)
        assert kind.title
        assert kind.formula
        assert kind.higher_is_better == (name not in {"MdR", "MnR"})


def test_every_kind_stands_in_the_table_of_names() -> None:
    from medfinder.ranking import names

    for name in KINDS:
        assert f"{name}@" in names.__doc__ or f" {name}" in names.__doc__


@pytest.mark.parametrize(
    ("name", "trec"),
    [("R@5", "success_5"), ("recall@5", "recall_5"), ("AP", "map"), ("AP@5", "map_cut_5"),
     ("nDCG@5", "ndcg_cut_5"), ("RR", "recip_rank"), ("RR@5", None), ("MdR", None),
     ("nDCG(gain=exponential)", None), ("AUROC", None)],
)  # fmt: skip
def test_trec_eval_knows_a_measure_by_its_own_name_or_not_at_all(
    name: str, trec: str | None
) -> None:
    assert measure(name).trec_name == trec


@pytest.mark.parametrize("name", ["RPrec", "r@10", "", "@5", "R(@5", "nDCG(gain=linear"])
def test_an_unknown_measure_is_told_with_those_there_are(name: str) -> None:
    with pytest.raises(UnknownName, match=r"Unknown measure .* Known: AP, AUROC, MdR, MnR, P, R"):
        measure(name)


@pytest.mark.parametrize(
    ("name", "rule", "text"),
    [
        ("R", "k", "Measure 'R' needs a whole number of at least 1 after '@'; write R@10"),
        ("P@0", "k", "Measure 'P@0' needs a whole number"),
        ("AP@", "k", "Measure 'AP@' needs a whole number"),
        ("AP@1.5", "k", "Measure 'AP@1.5' needs a whole number"),
        ("R@5@6(", "k", r"Measure 'R@5@6\(' needs a whole number"),
        ("nDCG@-3", "k", "Measure 'nDCG@-3' needs a whole number"),
        ("MdR@10", "k", "Measure 'MdR@10' takes no cut-off; write MdR"),
        ("AP(rel=0)", "option", "Option 'rel=0' of measure 'AP.rel=0.' is not known; AP takes rel"),
        ("AP(gain=linear)", "option", "Option 'gain=linear' .* AP takes rel=1, 2"),
        ("nDCG(gain=log)", "option", "Option 'gain=log' .* takes rel=1, 2, ..., gain=linear or"),
        ("nDCG()", "option", "Option '' of measure"),
    ],
)
def test_a_setting_that_a_measure_does_not_take_is_named(name: str, rule: str, text: str) -> None:
    with pytest.raises(InputError, match=text) as error:
        measure(name)
    assert error.value.rule == rule


def test_no_measure_at_all_is_refused(ranks) -> None:
    with pytest.raises(InputError, match="No measure is asked for") as error:
        evaluate(ranks, [])
    assert error.value.rule == "empty"


@pytest.mark.parametrize("name", ["R@1", "MdR"])
def test_a_measure_over_nothing_is_an_error_and_not_0(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} has no query to be taken over") as error:
        _ = Score(measure(name), np.empty(0)).value
    assert error.value.rule == "empty"
