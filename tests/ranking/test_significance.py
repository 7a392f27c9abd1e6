"""Intervals that cover, tests that reject at their level, and both equal to going through all."""

import statistics
from typing import Any

import numpy as np
import pytest

from medfinder.errors import InputError
from medfinder.ranking import significance
from medfinder.ranking.significance import (
    bootstrap_interval,
    bootstrap_intervals,
    holm,
    permutation_test,
)
from reference import significance as reference

SCORES = [0.0, 1.0, 0.5, 0.25, 1.0, 0.0, 0.75, 0.1]
PATIENTS = ["a", "a", "b", "c", "c", "c", "d", "e"]


@pytest.mark.parametrize(
    ("statistic", "slow"), [("mean", statistics.fmean), ("median", statistics.median)]
)
def test_draws_spread_as_all_possible_draws_do(statistic: Any, slow: Any) -> None:
    truth = reference.every_bootstrap(SCORES, PATIENTS, slow)  # 5**5 draws
    for level in (0.5, 0.9):
        low, high = np.quantile(truth, [(1 - level) / 2, (1 + level) / 2])
        interval = bootstrap_interval(
            np.array(SCORES), PATIENTS, statistic=statistic, level=level, n_draws=100_000
        )
        assert interval.estimate == slow(SCORES)
        assert interval.low == pytest.approx(low, abs=0.01)
        assert interval.high == pytest.approx(high, abs=0.01)
        assert (interval.level, interval.n_queries, interval.n_patients) == (level, 8, 5)


def test_a_drawn_median_is_that_of_the_drawn_queries() -> None:
    random = np.random.default_rng(4)
    scores = random.integers(5, size=30).astype(float)
    cluster = random.integers(7, size=30)
    cluster[:7] = np.arange(7)
    drawn = random.integers(7, size=(50, 7))
    truth = [np.median(np.concatenate([scores[cluster == c] for c in line])) for line in drawn]
    assert significance._medians(scores, cluster)(significance._times(drawn, 7)).tolist() == truth
    truth = [np.mean(np.concatenate([scores[cluster == c] for c in line])) for line in drawn]
    assert significance._means(scores, cluster, 7)(drawn) == pytest.approx(truth)


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_equal_seeds_give_equal_intervals_whatever_the_chunks(
    monkeypatch: pytest.MonkeyPatch, statistic: Any
) -> None:
    scores = np.random.default_rng(0).random(40)
    whole = bootstrap_interval(scores, statistic=statistic, seed=3)
    assert bootstrap_interval(scores, statistic=statistic, seed=3) == whole
    assert bootstrap_interval(scores, statistic=statistic, seed=4) != whole
    monkeypatch.setattr(significance, "_CHUNK", 333)
    assert bootstrap_interval(scores, statistic=statistic, seed=3) == whole


def coverage(clustered: bool, statistic: Any) -> float:
    """Share of 300 datasets of 40 patients with 5 alike queries each whose interval holds 0."""
    random = np.random.default_rng(11)
    patients = [str(i // 5) for i in range(200)]
    held = 0
    for seed in range(300):
        scores = np.repeat(random.standard_normal(40), 5) + 0.3 * random.standard_normal(200)
        interval = bootstrap_interval(
            scores, patients if clustered else None, statistic=statistic, n_draws=400, seed=seed
        )
        held += interval.low <= 0 <= interval.high
    return held / 300


def test_an_interval_of_95_percent_holds_the_truth_about_that_often() -> None:
    # Two standard errors of a share of 300 are .025; percentile intervals run a little short.
    assert 0.90 <= coverage(True, "mean") <= 0.98
    assert 0.90 <= coverage(True, "median") <= 0.99


def test_forgetting_whose_query_it_is_makes_intervals_too_short() -> None:
    assert coverage(False, "mean") < 0.75


def test_equal_scores_give_an_interval_without_width() -> None:
    interval = bootstrap_interval(np.zeros(9))
    assert (interval.estimate, interval.low, interval.high) == (0, 0, 0)


@pytest.mark.parametrize("seed", range(8))
def test_p_is_the_share_of_all_exchanges_of_patients(seed: int) -> None:
    random = np.random.default_rng(seed)
    n = int(random.integers(1, 14))
    patients = [str(v) for v in random.integers(1, 9, size=n)]
    a, b = random.integers(4, size=(2, n)) / 10  # sums that tie but for rounding
    assert permutation_test(a, b, patients) == reference.permutation_p(
        a.tolist(), b.tolist(), patients
    )


def test_random_exchanges_come_near_to_all_of_them() -> None:
    random = np.random.default_rng(5)
    b = random.random(12)
    a = b + random.standard_normal(12) + 0.4
    exact = permutation_test(a, b)  # 2**12 exchanges
    drawn = permutation_test(a, b, n_draws=4000, seed=1)
    assert exact == reference.permutation_p(a.tolist(), b.tolist(), [str(i) for i in range(12)])
    assert drawn != exact
    assert drawn == pytest.approx(exact, abs=0.02)


def test_equal_seeds_give_equal_p_values_whatever_the_chunks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    a, b = np.random.default_rng(1).random((2, 300))
    whole = permutation_test(a, b, seed=2)
    assert permutation_test(a, b, seed=2) == permutation_test(b, a, seed=2) == whole
    assert permutation_test(a, b, seed=3) != whole
    monkeypatch.setattr(significance, "_CHUNK", 2400)
    assert permutation_test(a, b, seed=2) == whole


def test_a_true_null_is_rejected_as_often_as_the_level_says() -> None:
    random = np.random.default_rng(7)
    patients = [str(i // 4) for i in range(120)]
    p = []
    for seed in range(300):
        shared = np.repeat(random.standard_normal(30), 4)  # what a patient's queries have in common
        p.append(
            permutation_test(shared + random.standard_normal(120) * 0.1, np.zeros(120), patients,
                             n_draws=400, seed=seed)
        )  # fmt: skip
    assert 0.02 <= np.mean(np.array(p) <= 0.05) <= 0.09


def test_a_plain_difference_is_found() -> None:
    scores = np.random.default_rng(8).random(200)
    assert permutation_test(scores + 0.1, scores) == 1 / 10_001


def test_only_patients_on_which_methods_differ_are_exchanged() -> None:
    scores = np.random.default_rng(8).random(500)
    others = scores.copy()
    others[[3, 70, 400]] -= 0.5
    assert permutation_test(scores, others) == 2 / 2**3  # all three one way, or all the other


def test_a_method_does_not_differ_from_itself() -> None:
    scores = np.random.default_rng(8).random(50)
    assert permutation_test(scores, scores) == 1.0


def test_holm_by_hand() -> None:
    p = {"base": 0.01, "paper": 0.04, "tiny": 0.03}  # .01·3, then .03·2, then .04·1 < .06
    assert holm(p) == pytest.approx({"base": 0.03, "paper": 0.06, "tiny": 0.06})
    assert list(holm(p)) == ["base", "paper", "tiny"]
    assert holm({"one": 0.2}) == {"one": 0.2}
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}


@pytest.mark.parametrize("seed", range(5))
def test_holm_equals_its_definition(seed: int) -> None:
    random = np.random.default_rng(seed)
    p = {str(i): float(v) for i, v in enumerate(random.integers(1, 20, size=7) / 100)}  # ties
    assert holm(p) == pytest.approx(reference.holm(p))


@pytest.mark.parametrize(
    ("change", "rule", "text"),
    [
        ({"scores": []}, "empty", "The scores are empty; a mean of nothing is undefined"),
        ({"scores": [[1.0]]}, "shape", r"The scores must be one number a query, got shape \(1, 1"),
        ({"scores": [0, 1, np.nan]}, "not-finite", "The scores hold nan at query 2"),
        ({"scores": [0, -np.inf, 1]}, "not-finite", "The scores hold -inf at query 1"),
        ({"patient_ids": ["a"]}, "shape", "1 patient_ids for 3 scores"),
        ({"patient_ids": ["a"] * 3}, "one-patient", "an interval needs at least 2 patients"),
        ({"scores": [1.0]}, "one-patient", "an interval needs at least 2 patients"),
        ({"statistic": "mode"}, "option", "statistic must be mean or median, got 'mode'"),
        ({"level": 95}, "option", "level must be above 0 and below 1, got 95"),
        ({"n_draws": 10}, "option", "n_draws must be at least 100, got 10"),
    ],
)
def test_what_an_interval_cannot_be_made_of_is_named(
    change: dict[str, Any], rule: str, text: str
) -> None:
    given = {"scores": [0.0, 1.0, 0.5], **change}
    with pytest.raises(InputError, match=text) as error:
        bootstrap_interval(given.pop("scores"), **given)
    assert error.value.rule == rule


@pytest.mark.parametrize(
    ("change", "rule", "text"),
    [
        ({"others": [0.0, 1.0]}, "shape", "have 3 and 2 scores; pairs need the same queries"),
        ({"others": [0, 1, np.nan]}, "not-finite", "The others hold nan at query 2"),
        ({"scores": [], "others": []}, "empty", "The scores are empty"),
        ({"patient_ids": ["a"]}, "shape", "1 patient_ids for 3 scores"),
        ({"n_draws": 0}, "option", "n_draws must be at least 100, got 0"),
    ],
)
def test_what_a_test_cannot_be_made_of_is_named(
    change: dict[str, Any], rule: str, text: str
) -> None:
    given = {"scores": [0.0, 1.0, 0.5], "others": [0.0, 0.0, 0.0], **change}
    with pytest.raises(InputError, match=text) as error:
        permutation_test(given.pop("scores"), given.pop("others"), **given)
    assert error.value.rule == rule


@pytest.mark.parametrize(
    ("p", "rule", "text"),
    [
        ({}, "empty", "No p-values to correct"),
        ({"base": 1.5}, "p-value", "The p-value of 'base' is 1.5"),
        ({"base": float("nan")}, "p-value", "The p-value of 'base' is nan"),
    ],
)
def test_what_holm_cannot_correct_is_named(p: dict[str, float], rule: str, text: str) -> None:
    with pytest.raises(InputError, match=text) as error:
        holm(p)
    assert error.value.rule == rule


def test_intervals_from_one_set_of_draws_are_those_of_each_alone() -> None:
    random = np.random.default_rng(5)
    patients = [f"p{i}" for i in random.integers(20, size=60)]
    scores = {"a": random.random(60), "b": random.integers(2, size=60), "c": -random.random(60)}
    together = bootstrap_intervals(scores, patients, medians=["c"], level=0.9, n_draws=300, seed=3)
    assert list(together) == ["a", "b", "c"]
    for name, values in scores.items():
        statistic = "median" if name == "c" else "mean"
        alone = bootstrap_interval(
            values, patients, statistic=statistic, level=0.9, n_draws=300, seed=3
        )
        got = together[name]
        assert [got.estimate, got.low, got.high] == pytest.approx(
            [alone.estimate, alone.low, alone.high], abs=1e-12
        )
        assert (got.level, got.n_queries, got.n_patients) == (0.9, 60, alone.n_patients)


@pytest.mark.parametrize(
    ("scores", "rule", "text"),
    [
        ({}, "empty", "No scores to give intervals of"),
        ({"a": np.ones(3), "b": np.ones(2)}, "shape", r"The scores are of \[2, 3\] queries"),
        ({"a": np.array([1, np.nan])}, "not-finite", "The scores a hold nan at query 1"),
    ],
)
def test_scores_that_intervals_cannot_be_given_of_are_named(
    scores: dict[str, np.ndarray], rule: str, text: str
) -> None:
    with pytest.raises(InputError, match=text) as error:
        bootstrap_intervals(scores)
    assert error.value.rule == rule


def test_medians_alone_may_be_asked_for_by_name() -> None:
    scores = {"a": np.arange(9.0)}
    both = bootstrap_intervals(scores, medians=["a"], n_draws=100)
    assert both == {"a": bootstrap_interval(scores["a"], statistic="median", n_draws=100)}
    with pytest.raises(InputError, match="No scores are called 'b', of `medians`") as error:
        bootstrap_intervals(scores, medians=["b"])
    assert error.value.rule == "option"
