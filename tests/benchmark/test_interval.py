"""Intervals: over patients where studies ask, over pools of patients where findings ask."""

import numpy as np
import pytest

from benchmark.five import study
from medfinder.benchmark.entrant import Seated, make_entrant, seat
from medfinder.benchmark.interval import over_pools, over_queries, weighted
from medfinder.benchmark.protocols import ask, protocols
from medfinder.benchmark.reference import Reference
from medfinder.benchmark.task import Task, measured, of_entrant
from medfinder.ranking.measures import auroc, average_precision, precision_at_k
from medfinder.ranking.ranks import rank_scores


def test_one_patient_has_a_value_and_no_interval() -> None:
    found = over_queries("R@1", np.array([1.0, 0.0]), ["p", "p"], 200)
    assert (found.value, found.low, found.high) == (0.5, None, None)


def test_the_median_rank_is_a_median() -> None:
    found = over_queries("MdR", np.array([1.0, 2.0, 9.0]), ["a", "b", "c"], 200)
    assert (found.value, found.low, found.high) == (2, 1, 9)


@pytest.mark.parametrize("seed", range(5))
def test_a_weighted_measure_is_that_of_items_which_stand_there_so_often(seed: int) -> None:
    random = np.random.default_rng(seed)
    n = 12
    has = random.permutation([1.0] * 4 + [0.0] * (n - 4))
    times = random.integers(0, 4, n)
    times[np.flatnonzero(has)[0]] = times[np.flatnonzero(has == 0)[0]] = 1
    # Copies of an item stand beside each other: distinct scores, falling.
    scores = np.repeat(-np.arange(n, dtype=float), times) - np.linspace(0, 0.5, times.sum())
    ranks = rank_scores(scores[None], (np.repeat(has, times) > 0)[None])
    found = weighted(["AUROC", "P@5"], times[None].astype(np.int32), has > 0)
    assert found["AUROC"][0] == pytest.approx(auroc(ranks)[0])
    assert found["P@5"][0] == pytest.approx(precision_at_k(ranks, 5)[0])


def test_weights_of_one_give_the_measures_themselves() -> None:
    has = np.array([1.0, 0, 1, 1, 0])
    ranks = rank_scores(-np.arange(5.0)[None], (has > 0)[None])
    found = weighted(["AP"], np.ones((1, 5), np.int32), has > 0)
    assert found["AP"][0] == pytest.approx(average_precision(ranks)[0])


def keyword_task(n_patients: int) -> tuple[Seated, Task]:
    texts = ["Nodule.", "No nodule."]
    reference = Reference(
        tuple(study(f"s{i:02}", f"p{i % n_patients}", texts[i % 2]) for i in range(40))
    )
    random = np.random.default_rng(0)
    volume = random.standard_normal((40, 3)) + np.array([[1.0, 0, 0], [0, 0, 0]] * 20)
    sides = {"volume": (reference.ids, volume), "keyword": (["nodule"], np.array([[1.0, 0, 0]]))}
    seated = seat(make_entrant("k", sides), reference)  # type: ignore[arg-type]
    (task,) = ask(seated, protocols.get("keyword"))
    return seated, task


def test_a_keywords_interval_holds_its_value_and_comes_from_the_pool() -> None:
    seated, task = keyword_task(40)
    values = measured(task, None, seated)
    found = over_pools(task, of_entrant(task, seated), values, seated.reference.patient_key, 300)
    for name, one in found.items():
        assert one.value == pytest.approx(float(values[name].mean()))
        assert one.low is not None
        assert one.high is not None
        assert one.low <= one.value <= one.high or name == "AP", name  # few positives lift AP
        assert one.low < one.high or name == "P@100", name


def test_a_pool_of_one_patient_has_no_interval() -> None:
    seated, task = keyword_task(1)
    values = measured(task, None, seated)
    found = over_pools(task, of_entrant(task, seated), values, seated.reference.patient_key, 300)
    assert all(one.low is None for one in found.values())
