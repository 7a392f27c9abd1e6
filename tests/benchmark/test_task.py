"""One way of scoring: fast equals slow, blocks change nothing, pools are what drawing estimates."""

import dataclasses

import numpy as np
import pytest

from benchmark.five import five_entrant, five_studies, study
from medfinder.benchmark import task as module
from medfinder.benchmark.entrant import Seated, make_entrant, seat
from medfinder.benchmark.protocols import ask, jaccard, protocols
from medfinder.benchmark.reference import Reference
from medfinder.benchmark.task import (
    Task,
    measured,
    needs_ranks,
    of_ceiling,
    of_chance,
    of_entrant,
    without_empty,
)
from medfinder.errors import InputError, UnknownName
from medfinder.ranking.measures import ndcg
from medfinder.ranking.ranks import rank_scores
from stubs.curated import phantom_studies


@pytest.fixture(scope="module")
def seated() -> Seated:
    """Eighty phantom studies with vectors of few values, so that many scores tie."""
    reference = Reference(tuple(phantom_studies(80)))
    random = np.random.default_rng(5)
    volume = random.integers(-1, 2, (80, 4)).astype(np.float32)
    volume[~volume.any(axis=1), 0] = 1
    text = random.integers(-1, 2, (80, 4)).astype(np.float32)
    text[~text.any(axis=1), 1] = 1
    rows = np.flatnonzero(reference.has_text)
    sides = {
        "volume": (reference.ids, volume),
        "text": ([reference.ids[i] for i in rows], text[rows]),
        "keyword": (["nodule", "pleural effusion"], np.eye(4, dtype=np.float32)[:2]),
    }
    return seat(make_entrant("coarse", sides), reference)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [n for n in protocols.names() if n != "pools"])
def test_blocks_change_no_value(seated: Seated, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [measured(t, of_entrant(t, seated)) for t in ask(seated, protocols.get(name)) if t.n]
    monkeypatch.setattr(module, "_CELLS", 130)
    cut = [measured(t, of_entrant(t, seated)) for t in ask(seated, protocols.get(name)) if t.n]
    for a, b in zip(whole, cut, strict=True):
        for measure, values in a.items():
            np.testing.assert_allclose(values, b[measure], rtol=0, atol=1e-12, err_msg=measure)


@pytest.mark.parametrize("name", ["one-to-one", "multi-positive", "same-findings-exact", "keyword"])
def test_the_fast_path_gives_what_a_table_of_scores_gives(seated: Seated, name: str) -> None:
    for one in ask(seated, protocols.get(name)):
        if one.excluded is None:
            fast, slow = measured(one, None, seated), measured(one, of_entrant(one, seated))
            for measure in one.measures:
                np.testing.assert_allclose(fast[measure], slow[measure], atol=1e-12)


def ordered(one: Task, scores: np.ndarray, i: int) -> list[int]:
    """Return a query's gallery positions, best first, the earlier of two equals first."""
    gone = set() if one.excluded is None else set(one.excluded[i].tolist())
    return sorted(
        (j for j in range(scores.shape[1]) if j not in gone), key=lambda j: (-scores[i, j], j)
    )


@pytest.mark.parametrize("way", ["report_to_volume", "volume_to_report", "volume_to_volume"])
def test_graded_gain_is_that_of_the_places(seated: Seated, way: str) -> None:
    tasks = ask(seated, protocols.get("same-findings-graded"))
    one = next(t for t in tasks if t.way == way)
    scores = of_entrant(one, seated)(0, one.n)
    assert one.grades is not None
    grades = one.grades(0, one.n).copy()
    for i, rows in enumerate(one.excluded or []):
        grades[i, rows] = 0
        scores[i, rows] = scores[i].min() - 1
    ranks = rank_scores(scores, grades)
    found = measured(one, of_entrant(one, seated))
    for k in (10, 100):
        np.testing.assert_allclose(found[f"nDCG@{k}"], ndcg(ranks, k), atol=1e-12)


def test_spectres_and_radfinders_precision_is_that_of_a_loop(seated: Seated) -> None:
    for name, k in (("spectre", 5), ("radfinder-dup", 5)):
        one = next(t for t in ask(seated, protocols.get(name)) if t.way == "volume_to_volume")
        scores = of_entrant(one, seated)(0, one.n)
        measure = "AP@5" if name == "spectre" else "AP@5/k"
        found = measured(one, of_entrant(one, seated))[measure]
        assert one.relevant is not None
        for i in range(one.n):
            right, total = 0, 0.0
            answers = set(one.relevant[i].tolist())
            for place, j in enumerate(ordered(one, scores, i)[:k], 1):
                if j in answers:
                    right += 1
                    total += right / place
            below = k if name == "radfinder-dup" else min(k, len(answers))
            assert found[i] == pytest.approx(total / below)


def test_ct_clips_published_numbers_are_those_of_its_loop(seated: Seated) -> None:
    one = next(
        t for t in ask(seated, protocols.get("ct-clip-published")) if t.way == "volume_to_volume"
    )
    scores, labels = of_entrant(one, seated)(0, one.n), seated.reference.labels
    found = measured(one, of_entrant(one, seated))
    ratios: list[float] = []
    for k in (1, 5, 10, 50):
        for i in range(one.n):
            mine = labels[one.queries[i]].astype(bool)
            own = []
            for j in ordered(one, scores, i)[:k]:
                theirs = labels[one.gallery[j]].astype(bool)
                own.append((mine & theirs).sum() / (mine | theirs).sum())
            ratios.append(float(np.mean(own)))
        # The list goes on: the mean at K is over all that was put in so far.
        assert found[f"MAP@{k} of 1,5,10,50"].mean() == pytest.approx(np.mean(ratios))


def test_a_pool_without_drawing_is_what_drawing_estimates() -> None:
    random = np.random.default_rng(1)
    n, size = 130, 32
    reference = Reference(tuple(study(f"s{i:03}", f"p{i}", f"Text {i}.") for i in range(n)))
    volume = random.standard_normal((n, 6))
    text = volume + 1.3 * random.standard_normal((n, 6))
    sides = {"volume": (reference.ids, volume), "text": (reference.ids, text)}
    placed = seat(make_entrant("noisy", sides), reference)  # type: ignore[arg-type]
    one = next(t for t in ask(placed, protocols.get("pools")) if t.way == "report_to_volume")
    exact = {k: float(v.mean()) for k, v in measured(one, None, placed).items()}
    scores = of_entrant(one, placed)(0, n)
    drawn: dict[int, list[float]] = {1: [], 8: []}
    for _ in range(120):  # as Merlin: disjoint pools of a shuffled set, an incomplete one dropped
        order = random.permutation(n)
        places = []
        for start in range(0, n - size + 1, size):
            pool = order[start : start + size]
            table = scores[np.ix_(pool, pool)]
            places += (table > np.diag(table)[:, None]).sum(axis=1).tolist()
        for k, found in drawn.items():
            found.append(float(np.mean([place < k for place in places])))
    for k, found in drawn.items():
        error = np.std(found) / np.sqrt(len(found))
        assert exact[f"R@{k} of 32"] == pytest.approx(np.mean(found), abs=4 * error)


def test_a_pool_of_the_whole_gallery_is_the_gallery(seated: Seated) -> None:
    one = ask(seated, protocols.get("one-to-one"))[0]
    n = len(one.gallery)
    both = dataclasses.replace(one, measures=("R@1", "R@10", f"R@1 of {n}", f"R@10 of {n}"))
    found = measured(both, of_entrant(both, seated))
    np.testing.assert_allclose(found["R@1"], found[f"R@1 of {n}"], atol=1e-12)
    np.testing.assert_allclose(found["R@10"], found[f"R@10 of {n}"], atol=1e-12)


def test_chance_is_exact_where_everything_ties(seated: Seated) -> None:
    one = ask(seated, protocols.get("one-to-one"))[0]
    found = measured(one, of_chance(one))
    n = len(one.gallery)
    np.testing.assert_allclose(found["R@10"], 10 / n)
    np.testing.assert_allclose(found["MnR"], (n + 1) / 2)


@pytest.mark.parametrize("name", [n for n in protocols.names() if n != "pools"])
def test_nothing_that_knows_the_text_alone_passes_the_ceiling(seated: Seated, name: str) -> None:
    """A thousand random scorers that give equal texts equal scores stay below it, on average."""
    reference = seated.reference
    random = np.random.default_rng(0)
    for one in ask(seated, protocols.get(name)):
        if one.n == 0 or one.way == "keyword_to_volume":
            continue
        asks, answers = module.SIDES[one.way]
        query_key = (reference.text_key if asks == "text" else reference.volume_key)[one.queries]
        item_key = (reference.text_key if answers == "text" else reference.volume_key)[one.gallery]
        best = measured(one, of_ceiling(one, query_key, item_key))
        truth = of_ceiling(one, query_key, item_key)(0, one.n)
        for trial in range(4):
            # Near the best order: noise that is the same for equal inputs.
            noise = random.standard_normal((len(reference) + 1,) * 2) * (0.02 * trial)
            table = truth + noise[np.ix_(query_key % len(noise), item_key % len(noise))]
            found = measured(one, lambda a, b, t=table: t[a:b])  # type: ignore[misc]
            for measure, values in found.items():
                sign = -1 if module.is_lower_better(measure) else 1
                middle = np.median if measure == "MdR" else np.mean
                gap = sign * (middle(best[measure]) - middle(values))
                assert gap > -1e-9, (one.way, measure)


def test_no_query_left_is_an_error_and_not_0() -> None:
    seated = seat(five_entrant(), five_studies())
    one = ask(seated, protocols.get("one-to-one"))[0]
    bare = without_empty(dataclasses.replace(one, relevant=[np.empty(0, np.int64)] * one.n))
    with pytest.raises(InputError, match="No query of report_to_volume is left") as caught:
        measured(bare, None, seated)
    assert caught.value.rule == "no-query"
    assert "no-positive 5" in str(caught.value)


def test_an_unknown_measure_names_the_nearest() -> None:
    assert needs_ranks("R@10")
    assert needs_ranks("R@1 of 32")
    assert not needs_ranks("Jaccard@10")
    with pytest.raises(UnknownName, match="nDCG"):
        needs_ranks("nDCC@10")


def test_a_pool_larger_than_the_gallery_is_an_error() -> None:
    seated = seat(five_entrant(), five_studies())
    one = dataclasses.replace(ask(seated, protocols.get("one-to-one"))[0], measures=("R@1 of 6",))
    with pytest.raises(InputError, match="A pool of 6 cannot be drawn from 5") as caught:
        measured(one, None, seated)
    assert caught.value.rule == "pool-size"


def test_the_jaccard_index_is_that_of_sets() -> None:
    table = np.array([[1, 1, 0], [0, 1, 1], [0, 0, 0]], np.float32)
    rows = np.arange(3)
    grades = jaccard(table, empty=1.0)(rows, rows)
    np.testing.assert_allclose(grades, [[1, 1 / 3, 0], [1 / 3, 1, 0], [0, 0, 1]])
    assert jaccard(table, empty=0.0)(rows, rows)[2, 2] == 0
