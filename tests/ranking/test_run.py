"""Runs: trec_eval's order, from vectors, scores and files; what is unsound is named."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medfinder.errors import InputError
from medfinder.ranking import measures
from medfinder.ranking.qrels import Qrels
from medfinder.ranking.ranks import rank_scores, rank_vectors
from medfinder.ranking.run import Run

SCORED = {"q1": {"a": 0.5, "b": 0.75, "c": 0.5}, "q2": {"c": -1.0}}


def ids(name: str, n: int, random: np.random.Generator) -> list[str]:
    return [f"{name}{i}" for i in random.permutation(n)]


def vectors(seed: int, n: int, dim: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((n, dim)) + 0.3
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_items_stand_by_score_and_those_of_one_score_by_id_the_last_first() -> None:
    run = Run.from_lists(SCORED)
    assert run["q1"] == [("b", 0.75), ("c", 0.5), ("a", 0.5)]
    assert run["q2"] == [("c", -1.0)]
    assert list(run) == ["q1", "q2"]
    assert ("q1" in run, "q3" in run, len(run)) == (True, False, 2)
    assert repr(run) == "<Run 2 queries, 1 to 3 items each>"


def test_scores_that_a_float32_cannot_tell_apart_are_one_score() -> None:
    run = Run.from_lists({"q": {"a": 1.0 + 1e-9, "b": 1.0, "c": 0.0, "d": -0.0}})
    assert [item for item, _ in run["q"]] == ["b", "a", "d", "c"]


def test_ids_are_compared_code_point_by_code_point() -> None:
    run = Run.from_lists({"q": dict.fromkeys(["a2", "a10", "B", "é", "😀", "￿"], 1.0)})
    assert [item for item, _ in run["q"]] == ["😀", "￿", "é", "a2", "a10", "B"]


@pytest.mark.parametrize("k", [1, 3, 8, 20, None])
def test_a_table_of_scores_gives_the_first_k_of_the_whole_order(k: int | None) -> None:
    random = np.random.default_rng(1)
    queries, items = ids("q", 7, random), ids("i", 20, random)
    scores = random.integers(4, size=(7, 20)).astype(np.float64)
    whole = Run.from_lists(
        {
            q: dict(zip(items, line, strict=True))
            for q, line in zip(queries, scores.tolist(), strict=True)
        }
    )
    run = Run.from_scores(queries, items, scores, k)
    assert {q: run[q] for q in run} == {q: whole[q][:k] for q in whole}


@pytest.mark.parametrize("block_size", [1, 5, None])
@pytest.mark.parametrize("k", [1, 4, 40])
def test_vectors_give_what_the_table_of_their_products_gives(
    k: int, block_size: int | None
) -> None:
    random = np.random.default_rng(2)
    queries, gallery = vectors(3, 12, 6), vectors(4, 40, 6)
    gallery[20:] = gallery[:20]  # each twice: ties at every cut
    names = ids("q", 12, random), ids("i", 40, random)
    products = queries.astype(np.float64) @ gallery.astype(np.float64).T
    expected = Run.from_scores(*names, products, k)
    run = Run.from_vectors(names[0], queries, names[1], gallery, k, block_size=block_size)
    for query in run:
        assert [i for i, _ in run[query]] == [i for i, _ in expected[query]]
        assert [s for _, s in run[query]] == pytest.approx(
            [s for _, s in expected[query]], abs=1e-7
        )


def test_the_order_of_rows_changes_no_run() -> None:
    random = np.random.default_rng(5)
    queries, gallery = vectors(6, 10, 5), vectors(7, 30, 5)
    gallery[10:20] = gallery[:10]
    names = ids("q", 10, random), ids("i", 30, random)
    run = Run.from_vectors(names[0], queries, names[1], gallery, 7)
    a, b = random.permutation(10), random.permutation(30)
    other = Run.from_vectors(
        [names[0][i] for i in a], queries[a], [names[1][i] for i in b], gallery[b], 7
    )
    assert {q: run[q] for q in run} == {q: other[q] for q in other}


def test_scores_are_inner_products_whatever_the_lengths() -> None:
    queries, gallery = 300 * vectors(8, 3, 4), 1e-4 * vectors(9, 5, 4)
    run = Run.from_vectors(list("abc"), queries, list("vwxyz"), gallery, 5)
    products = queries @ gallery.T
    for row, query in enumerate("abc"):
        for item, score in run[query]:
            assert score == pytest.approx(products[row, "vwxyz".index(item)], rel=1e-5, abs=1e-8)


def test_a_run_of_vectors_never_holds_the_table_of_scores() -> None:
    queries, gallery = vectors(10, 1_000, 16), vectors(11, 1_000, 16)
    names = [f"s{i}" for i in range(1_000)]
    tracemalloc.start()
    Run.from_vectors(names, queries, names, gallery, 5, block_size=32)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * 1_000 * 1_000 / 2


@pytest.mark.parametrize("ties", ["id", "expected"])
def test_a_whole_run_ranks_as_its_scores_do(ties: Any) -> None:
    random = np.random.default_rng(12)
    queries, items = ids("q", 6, random), ids("i", 15, random)
    levels = 4 if ties == "expected" else 10_000
    scores = random.integers(levels, size=(6, 15))
    grades = random.integers(-3, 4, (6, 15)).clip(0)
    grades[:, 2] = 1
    qrels = Qrels((q, i, grades[a, b]) for a, q in enumerate(queries) for b, i in enumerate(items))
    direct = rank_scores(scores, grades)
    ranks = Run.from_scores(queries, items, scores).ranks(qrels, ties=ties)
    assert ranks.is_whole
    assert ranks.n_gallery == 15
    for name in ("starts", "better", "tied", "grades"):
        assert getattr(ranks, name).tolist() == getattr(direct, name).tolist()


def test_without_ties_a_run_of_vectors_ranks_as_the_vectors_do() -> None:
    queries, gallery = vectors(13, 25, 8), vectors(14, 25, 8)
    names = [f"s{i}" for i in range(25)]
    qrels = Qrels.from_pairs(zip(names, names, strict=True))
    direct = rank_vectors(queries, gallery, qrels.among(names))
    ranks = Run.from_vectors(names, queries, names, gallery, 25).ranks(qrels)
    assert ranks.better.tolist() == direct.better.tolist()


def test_what_a_cut_run_lacks_is_found_at_no_k() -> None:
    run = Run.from_lists({"q": {"a": 3.0, "b": 2.0}, "r": {"a": 1.0}})
    qrels = Qrels([("q", "b", 1), ("q", "c", 2), ("r", "b", 1), ("q", "a", 0)])
    ranks = run.ranks(qrels)
    assert not ranks.is_whole
    assert ranks.better.tolist() == [1, 2, 2]
    assert ranks.grades.tolist() == [1, 2, 1]
    assert measures.recall_at_k(ranks, 100).tolist() == [1 / 2, 0]


def test_a_query_without_items_is_in_the_run_and_scores_0() -> None:
    for run in (Run.from_lists({"q": {}}), Run.from_lists({"q": {}, "r": {"b": 1.0}}).only(["q"])):
        ranks = run.ranks(Qrels([("q", "a", 1)]))
        assert measures.reciprocal_rank(ranks).tolist() == [0]
        assert measures.average_precision(ranks).tolist() == [0]
        assert measures.ndcg(ranks).tolist() == [0]


def test_a_file_holds_what_the_run_holds(tmp_path: Path) -> None:
    run = Run.from_lists({"q1": {"a": 0.1, "b": 1e-30, "c": 12345.678}, "q2": {"a": 1 / 3}})
    path = run.write(tmp_path / "run.txt", "ours")
    assert path.read_text().splitlines()[0] == "q1 Q0 c 1 12345.678 ours"
    read = Run.read(path)
    assert {q: read[q] for q in read} == {q: run[q] for q in run}


def test_lines_may_stand_in_any_order_and_their_ranks_are_not_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "run.txt"
    path.write_text("q1 Q0 a 1 0.5 x\nq2 Q0 c 9 -1 x\n\nq1\tQ0\tb\t7\t7.5e-1\tx\nq1 Q0 c 1 .5 x\n")
    read = Run.read(path)
    assert {q: read[q] for q in read} == {q: Run.from_lists(SCORED)[q] for q in SCORED}


@pytest.mark.parametrize(
    ("text", "rule", "message"),
    [
        ("q Q0 a 1 0.5\n", "columns", "Line 1 of the run has 5 columns, expected 6"),
        ("q Q0 a 1 high x\n", "not-finite", "The score of line 1 of the run is no finite float32"),
        ("q Q0 a 1 1_0 x\n", "not-finite", "The score of line 1 of the run"),
        ("q Q0 a 1 nan x\n", "not-finite", "The score of line 1 of the run"),
        ("q Q0 a 1 1 x\nq Q0 b 1 1e39 x\n", "not-finite", "The score of line 2 of the run"),
        (
            "q Q0 a 1 1 x\nq Q0 a 2 1 x\n",
            "repeated-item",
            "Line 2 of the run .* that line 1 gives it",
        ),
        ("\n", "empty", "The run is empty; a measure over nothing is undefined"),
    ],
)
def test_a_line_that_is_no_result_is_named(
    text: str, rule: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "run.txt").write_text(text)
    with pytest.raises(InputError, match=message) as error:
        Run.read(tmp_path / "run.txt")
    assert error.value.rule == rule


def from_vectors(**changed: Any) -> Run:
    given = {
        "query_ids": ["p", "q"],
        "queries": np.eye(2, 3),
        "item_ids": ["a", "b"],
        "gallery": np.eye(2, 3),
        "k": 1,
    }
    return Run.from_vectors(**(given | changed))


NAN = np.array([[1, 0, 0], [0, np.nan, 0]])


@pytest.mark.parametrize(
    ("make", "rule", "message"),
    [
        (lambda: Run.from_lists({}), "empty", "There are no query ids"),
        (lambda: Run.from_lists({"q q": {}}), "id", "The id in query row 0 is no text"),
        (lambda: Run.from_lists({"q": {"a b": 1.0}}), "id", "The id in item 0 of query 0"),
        (lambda: Run.from_lists({"q": {"a": np.inf}}), "not-finite", "score of item 0 of query 0"),
        (lambda: from_vectors(queries=NAN), "not-finite", "Row 1 of the queries holds nan"),
        (lambda: from_vectors(gallery=np.zeros((2, 3))), "zero-vector", "Row 0 of the gallery is"),
        (lambda: from_vectors(gallery=np.eye(2)), "dim-mismatch", "differ in dimension: 3 and 2"),
        (lambda: from_vectors(query_ids=["p"]), "shape", "1 query ids for 2 rows"),
        (lambda: from_vectors(item_ids=["a", "a"]), "repeated-id", "item row 1 is that of row 0"),
        (lambda: from_vectors(k=0), "k", "k must be a whole number of at least 1, got 0"),
        (lambda: from_vectors(block_size=0), "block-size", "block_size must be at least 1"),
        (
            lambda: from_vectors(queries=1e30 * np.eye(2, 3), gallery=1e30 * np.eye(2, 3)),
            "not-finite",
            "An inner product of query 0 is beyond",
        ),
        (
            lambda: Run.from_scores(["q"], ["a"], np.array([[1e300]])),
            "not-finite",
            "Row 0 of the scores holds a number beyond 3.403e\\+38",
        ),
        (lambda: Run.from_scores(["q"], ["a", "b"], np.ones((1, 3))), "shape", "2 item ids for 3"),
        (lambda: Run.from_scores(["q"], ["a"], np.ones((1, 1)), True), "k", "got True"),
        (lambda: Run.from_lists(SCORED).only([]), "empty", "There are no query ids"),
        (
            lambda: Run.from_lists(SCORED).ranks(Qrels.from_pairs([("q1", "a")])),
            "no-relevance",
            "The qrels say nothing of query 1, nor of 1 queries in all",
        ),
        (
            lambda: (
                Run.from_lists(SCORED)
                .only(["q2"])
                .ranks(Qrels.from_pairs([("q1", "a"), ("q2", "a")]))
            ),
            "no-query",
            "Query 0 of the qrels is not asked, nor are 1 in all",
        ),
        (
            lambda: Run.from_lists(SCORED).ranks(Qrels([("q1", "a", 1), ("q2", "a", 0)])),
            "no-positive",
            "Nothing answers query 1",
        ),
        (
            lambda: Run.from_lists(SCORED).ranks(Qrels.from_pairs([("q1", "a")]), ties="row"),  # type: ignore[arg-type]
            "option",
            "ties must be id or expected, got 'row'",
        ),
        (
            lambda: Run.from_lists(SCORED).ranks(Qrels.from_pairs([("q1", "a")]), missing="0"),  # type: ignore[arg-type]
            "option",
            "missing must be refuse or unranked, got '0'",
        ),
    ],
)
def test_unsound_runs_are_refused(make: Callable[[], Any], rule: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        make()
    assert error.value.rule == rule


def test_the_name_of_a_run_is_one_word(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="The id in the name of the run is no text") as error:
        Run.from_lists(SCORED).write(tmp_path / "run.txt", "two words")
    assert error.value.rule == "id"
    assert not (tmp_path / "run.txt").exists()
