"""Ranks: equal to counting, whatever the blocks; ties are ties wherever equal rows lie."""

import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medfinder.errors import InputError
from medfinder.ranking import ranks as module
from medfinder.ranking import tables
from medfinder.ranking.ranks import Ranks, Relevance, rank_both_ways, rank_scores, rank_vectors
from reference import measures as reference


def unit(random: np.random.Generator, n: int, dim: int) -> np.ndarray:
    rows = random.standard_normal((n, dim)) + 0.5
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def counted(scores: list[list[Any]], relevant: list[list[int]]) -> tuple[list[int], list[int]]:
    """Count by hand, query after query, the relevant items of each from the best down."""
    better, tied = [], []
    for line, rows in zip(scores, relevant, strict=True):
        for row in sorted(rows, key=lambda r: -line[r]):
            better.append(sum(score > line[row] for score in line))
            tied.append(sum(score == line[row] for score in line) - 1)
    return better, tied


def same(a: Ranks, b: Ranks) -> bool:
    return (
        a.n_gallery == b.n_gallery
        and np.array_equal(a.starts, b.starts)
        and np.array_equal(a.better, b.better)
        and np.array_equal(a.tied, b.tied)
        and np.array_equal(a.grades, b.grades)
    )


def test_five_items_by_hand() -> None:
    scores = np.array([[0.9, 0.5, 0.5, 0.1, 0.5], [0.2, 0.7, 0.4, 0.4, 0.0]])
    ranks = rank_scores(scores, np.array([2, 4]))
    assert ranks.starts.tolist() == [0, 1, 2]
    assert ranks.better.tolist() == [1, 4]  # .9 above .5; all above 0
    assert ranks.tied.tolist() == [2, 0]  # items 1 and 4 beside item 2
    assert (ranks.n_queries, ranks.n_gallery) == (2, 5)


@pytest.mark.parametrize("seed", range(20))
def test_vectors_rank_as_their_exact_inner_products(seed: int) -> None:
    random = np.random.default_rng(seed)
    n_queries, n_gallery, dim = (int(v) for v in random.integers(1, (9, 12, 7)))
    # Small whole numbers: plenty of equal products of unequal vectors.
    queries = random.integers(-2, 3, (n_queries, dim)).astype(np.float32)
    gallery = random.integers(-2, 3, (n_gallery, dim)).astype(np.float32)
    queries[~queries.any(axis=1), 0] = 1
    gallery[~gallery.any(axis=1), 0] = 1
    truth = [[reference.inner_product(q, g) for g in gallery.tolist()] for q in queries.tolist()]
    own = random.integers(n_gallery, size=n_queries)
    several = [
        random.choice(n_gallery, random.integers(1, n_gallery + 1), replace=False).tolist()
        for _ in range(n_queries)
    ]
    for relevant, rows in ((own, [[int(i)] for i in own]), (several, several)):
        ranks = rank_vectors(queries, gallery, relevant)
        assert (ranks.better.tolist(), ranks.tied.tolist()) == counted(truth, rows)


@pytest.mark.parametrize("seed", range(3))
def test_float32_vectors_rank_as_float64_sums(seed: int) -> None:
    random = np.random.default_rng(seed)
    queries, gallery = unit(random, 40, 33), unit(random, 90, 33)
    gallery[50:] = gallery[random.integers(50, size=40)]  # duplicates
    own = random.integers(90, size=40)
    truth = [[float((q * g).sum()) for g in gallery.astype(float)] for q in queries.astype(float)]
    ranks = rank_vectors(queries, gallery, own)
    assert (ranks.better.tolist(), ranks.tied.tolist()) == counted(truth, own[:, None].tolist())


def test_equal_rows_tie_wherever_they_lie() -> None:
    random = np.random.default_rng(3)
    gallery = np.repeat(unit(random, 1, 317), 1003, axis=0)
    ranks = rank_vectors(unit(random, 5, 317), gallery, [0, 1, 500, 1001, 1002])
    assert ranks.better.tolist() == [0] * 5
    assert ranks.tied.tolist() == [1002] * 5


def test_equal_sums_of_other_parts_tie() -> None:
    random = np.random.default_rng(4)
    row = random.standard_normal(200)
    gallery = np.stack([random.permutation(row) for _ in range(50)])  # float64 sums of these differ
    ranks = rank_vectors(np.ones((1, 200)), gallery, [0])
    assert (ranks.better.tolist(), ranks.tied.tolist()) == ([0], [49])


def test_cosines_that_differ_in_the_eighth_digit_are_told_apart() -> None:
    angles = 1.0 + 2e-7 * np.random.default_rng(4).permutation(9)  # 2e-7 sin 1: 1.7e-7 in cosine
    gallery = np.column_stack([np.cos(angles), np.sin(angles)])
    ranks = rank_vectors(np.eye(1, 2), gallery, [range(9)])
    assert ranks.better.tolist() == list(range(9))
    assert ranks.tied.tolist() == [0] * 9


@pytest.mark.parametrize("block_size", [1, 2, 7, 64, 1000])
def test_blocks_change_no_rank(block_size: int) -> None:
    random = np.random.default_rng(5)
    # A collapsed encoder: cosines that differ in the eighth digit, beyond float32.
    queries = unit(random, 1, 129) + 1e-7 * random.standard_normal((65, 129))
    gallery = (unit(random, 1, 129) + 1e-7 * random.standard_normal((83, 129))).astype(np.float32)
    gallery[40:] = gallery[:43]
    table = random.random((65, 83)) < 0.3
    table[:, 0] = True
    for relevant in (random.integers(83, size=65), table):
        whole = rank_vectors(queries, gallery, relevant)
        assert same(whole, rank_vectors(queries, gallery, relevant, block_size=block_size))
        whole = rank_scores(queries @ gallery.T, relevant)
        assert same(whole, rank_scores(queries @ gallery.T, relevant, block_size=block_size))


def test_the_layout_in_memory_changes_no_rank() -> None:
    random = np.random.default_rng(6)
    queries, gallery = unit(random, 31, 20), unit(random, 31, 20)
    whole = rank_vectors(queries, gallery)
    assert same(whole, rank_vectors(np.asfortranarray(queries), np.repeat(gallery, 2, 0)[::2]))


def test_the_default_block_holds_a_bounded_number_of_scores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []
    places = module._places
    monkeypatch.setattr(tables, "_BLOCK", 100)
    monkeypatch.setattr(
        module, "_places", lambda scores, *rest: seen.append(scores.size) or places(scores, *rest)
    )
    vectors = unit(np.random.default_rng(0), 33, 8)
    rank_vectors(vectors, vectors)
    assert seen == [99] * 11


def test_ways_to_name_the_relevant_rows_agree() -> None:
    random = np.random.default_rng(8)
    scores = random.integers(4, size=(6, 9))
    table = random.random((6, 9)) < 0.4
    table[:, 3] = True
    lists = [np.flatnonzero(row).tolist() for row in table]
    expected = rank_scores(scores, table)
    assert same(expected, rank_scores(scores, lists))
    assert same(expected, rank_scores(scores, [np.array(rows[::-1]) for rows in lists]))
    own = random.integers(9, size=6)
    expected = rank_scores(scores, own)
    assert same(expected, rank_scores(scores, own.tolist()))
    assert same(expected, rank_scores(scores, own[:, None].tolist()))
    assert same(expected, rank_scores(scores, own[:, None] == np.arange(9)))


def test_without_a_word_of_relevance_row_i_answers_query_i() -> None:
    random = np.random.default_rng(9)
    queries, gallery = unit(random, 12, 6), unit(random, 12, 6)
    assert same(rank_vectors(queries, gallery), rank_vectors(queries, gallery, np.arange(12)))


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 7.3, 1e30, 1e300])
def test_scale_changes_no_rank(scale: float) -> None:
    random = np.random.default_rng(10)
    queries, gallery = unit(random, 20, 11), unit(random, 20, 11).astype(np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scaled = rank_vectors(queries, scale * gallery)
        assert same(rank_vectors(queries, gallery), scaled)
        assert same(rank_vectors(gallery, queries), rank_vectors(scale * gallery, queries))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8, np.uint8, np.bool_])
def test_scores_of_any_real_type_are_compared_as_they_are(dtype: type) -> None:
    scores = np.array([[0, 1, 1], [1, 0, 0], [0, 0, 1]]).astype(dtype)
    ranks = rank_scores(scores)
    assert ranks.better.tolist() == [2, 1, 0]
    assert ranks.tied.tolist() == [0, 1, 0]


def table(value: float, row: int = 2, column: int = 1) -> np.ndarray:
    rows = np.ones((4, 3))
    rows[row, column] = value
    return rows


GOOD = np.eye(4, 3) + 1
ZERO = np.vstack([GOOD[:3], np.zeros((1, 3))])


@pytest.mark.parametrize(
    ("queries", "gallery", "relevant", "rule", "text"),
    [
        (table(np.nan), GOOD, None, "not-finite", "Row 2 of the queries holds nan at column 1;"),
        (GOOD, table(np.inf), None, "not-finite", "Row 2 of the gallery holds inf at column 1;"),
        (GOOD, ZERO, None, "zero-vector", "Row 3 of the gallery is all zeros, as are 1 in all;"),
        (ZERO, GOOD, None, "zero-vector", "Row 3 of the queries is all zeros"),
        (GOOD[:, :2], GOOD, None, "dim-mismatch", "differ in dimension: 2 and 3;"),
        (GOOD[:0], GOOD, [], "empty", r"The queries are empty, of shape \(0, 3\)"),
        (GOOD, GOOD[:0], None, "empty", r"The gallery are empty, of shape \(0, 3\)"),
        (GOOD[0], GOOD, None, "shape", r"The queries must be a 2-D array .*, got \(3,\)"),
        (GOOD.tolist(), GOOD, None, "shape", "The queries must be a 2-D array .*, got list"),
        (GOOD * 1j, GOOD, None, "shape", "must be a 2-D array of real numbers"),
        (GOOD[:2], GOOD, None, "shape", "2 queries and 4 gallery items cannot be pairs"),
        (GOOD, GOOD, [0, 1], "shape", "speaks of 2 queries, there are 4"),
        (GOOD, GOOD, np.eye(4, 3), "shape", "has 3 columns, the gallery 4 items"),
        (GOOD, GOOD, np.arange(4.0), "shape", "query 0 must be whole row numbers, got float64"),
        (GOOD, GOOD, [[True]] * 4, "shape", "query 0 must be whole row numbers, got bool"),
        (GOOD, GOOD, [0, 1, 2, 4], "unknown-row", "Query 3 names gallery row 4; .* 0 to 3"),
        (GOOD, GOOD, np.array([0, -1, 2, 3]), "unknown-row", "Query 1 names gallery row -1"),
        (GOOD, GOOD, [[0], [1], [2, 9], [3]], "unknown-row", "Query 2 names gallery row 9"),
        (GOOD, GOOD, [[0], [1, 2, 1], [2], [3]], "repeated-row", "Query 1 names a relevant row"),
        (GOOD, GOOD, [[0], [], [2], []], "no-positive", "Query 1 has no relevant item, as have 2"),
        (GOOD, GOOD, np.eye(4, 4, 1), "no-positive", "Query 3 has no relevant item, as have 1"),
        (GOOD, GOOD, np.full((4, 4), np.nan), "not-finite", "Row 0 of the relevant holds nan"),
    ],
)
def test_bad_input_is_named(
    queries: Any, gallery: Any, relevant: Any, rule: str, text: str
) -> None:
    with pytest.raises(InputError, match=text) as error:
        rank_vectors(queries, gallery, relevant)
    assert error.value.rule == rule


@pytest.mark.parametrize(
    ("scores", "rule", "text"),
    [
        (table(-np.inf), "not-finite", "Row 2 of the scores holds -inf at column 1"),
        (np.empty((0, 0)), "empty", "The scores are empty"),
        (np.ones(3), "shape", "The scores must be a 2-D array"),
        (np.ones((2, 3)), "shape", "2 queries and 3 gallery items cannot be pairs"),
    ],
)
def test_bad_scores_are_named(scores: Any, rule: str, text: str) -> None:
    with pytest.raises(InputError, match=text) as error:
        rank_scores(scores)
    assert error.value.rule == rule


def test_a_block_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="block_size must be at least 1, got 0") as error:
        rank_vectors(GOOD, GOOD, block_size=0)
    assert error.value.rule == "block-size"


def test_a_bad_value_is_found_in_any_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_BLOCK", 3)
    with pytest.raises(InputError, match="Row 3 of the queries holds nan at column 2"):
        rank_vectors(table(np.nan, 3, 2), GOOD)


def alike(
    random: np.random.Generator, n: int, dim: int, kind: str
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of vectors, float32: as encoders make them, and as they make them when they fail."""
    noise = random.standard_normal((2, n, dim))
    gallery = noise[0]
    if kind == "whole numbers":  # equal products of unequal vectors
        both = random.integers(-2, 3, (2, n, dim)).astype(np.float32)
        both[~both.any(axis=2), 0] = 1
        return both[0], both[1]
    if kind == "common part":
        gallery = 0.2 * gallery + 1
    if kind == "collapsed":
        gallery = gallery[:1] + 1e-7 * gallery
    queries = gallery + (1e-7 if kind == "collapsed" else 0.5) * noise[1]
    if kind == "repeated":
        gallery[n // 2 :] = gallery[: n - n // 2]
        queries[1::2] = queries[: n // 2 * 2 : 2]
    lengths = random.uniform(0.1, 2, (2, n, 1)) if kind == "lengths" else 1
    both = np.stack([queries, gallery])
    both = both / np.linalg.norm(both, axis=2, keepdims=True) * lengths
    return both[0].astype(np.float32), both[1].astype(np.float32)


KINDS = ("spread", "common part", "collapsed", "repeated", "whole numbers", "lengths")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block_size", [7, None])
def test_what_float32_settles_is_what_exact_products_give(
    kind: str, block_size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(11)
    queries, gallery = alike(random, 130, 12, kind)
    sizes = random.choice([1, 1, 2, 8, 9, 40], size=130)  # few are compared, many sorted
    several = [random.choice(130, size, replace=False) for size in sizes]
    for relevant in (None, several):
        exact = rank_vectors(queries, gallery, relevant)
        with monkeypatch.context() as patch:
            patch.setattr(module, "_WORTHWHILE", 0)
            assert same(exact, rank_vectors(queries, gallery, relevant, block_size=block_size))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("worthwhile", [0, 1 << 60])
@pytest.mark.parametrize("block_size", [7, None])
def test_both_ways_are_one_way_and_the_other(
    kind: str, worthwhile: int, block_size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries, gallery = alike(np.random.default_rng(12), 130, 12, kind)
    if kind == "lengths":  # both ways put all queries on one scale
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    expected = rank_vectors(queries, gallery), rank_vectors(gallery, queries)
    monkeypatch.setattr(module, "_WORTHWHILE", worthwhile)
    forth, back = rank_both_ways(queries, gallery, block_size=block_size)
    assert same(forth, expected[0])
    assert same(back, expected[1])


def test_both_ways_need_pairs() -> None:
    with pytest.raises(InputError, match="4 queries and 3 gallery items cannot be pairs") as error:
        rank_both_ways(GOOD, GOOD[:3])
    assert error.value.rule == "shape"


def test_half_precision_vectors_rank_as_their_float64_selves() -> None:
    queries, gallery = (
        each.astype(np.float16) for each in alike(np.random.default_rng(1), 50, 9, "spread")
    )
    wide = rank_vectors(queries.astype(np.float64), gallery.astype(np.float64))
    assert same(rank_vectors(queries, gallery), wide)


def test_queries_that_lie_on_disk_are_never_in_memory_at_once(tmp_path: Path) -> None:
    random = np.random.default_rng(13)
    queries, gallery = unit(random, 40_000, 32), unit(random, 60, 32)
    np.save(tmp_path / "queries.npy", queries)
    own = random.integers(60, size=40_000)
    expected = rank_vectors(queries, gallery, own)
    mapped = np.load(tmp_path / "queries.npy", mmap_mode="r")
    tracemalloc.start()
    ranks = rank_vectors(mapped, gallery, own, block_size=100)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert same(ranks, expected)
    assert peak < queries.nbytes


def test_a_table_of_scores_is_never_there_at_once() -> None:
    queries, gallery = alike(np.random.default_rng(14), 2_100, 16, "spread")
    rank_vectors(queries, gallery, block_size=64)  # compiles, or reads what is compiled
    for rank in (rank_vectors, rank_both_ways):
        tracemalloc.start()
        rank(queries, gallery, block_size=64)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 4 * 2_100 * 2_100 / 4


def test_grades_follow_their_items() -> None:
    scores = np.array([[5, 4, 3, 3, 1], [1, 2, 3, 4, 5]])
    grades = np.array([[1, 0, 2, 3, 0.5], [0, 0, -1, 0, 4]])
    ranks = rank_scores(scores, grades)
    assert ranks.better.tolist() == [0, 2, 2, 4, 0]
    assert ranks.grades.tolist() == [1, 3, 2, 0.5, 4]  # best first; tied items by falling grade
    rows = Relevance(np.array([0, 4, 5]), np.array([4, 0, 2, 3, 4]), np.array([0.5, 1, 2, 3, 4]))
    assert same(ranks, rank_scores(scores, rows))


def test_a_higher_bar_leaves_the_places_and_takes_the_items_below() -> None:
    ranks = rank_scores(np.array([[5, 4, 3, 3]]), np.array([[1, 0, 2, 3]])).at_least(2)
    assert (ranks.better.tolist(), ranks.tied.tolist()) == ([2, 2], [1, 1])
    assert (ranks.starts.tolist(), ranks.grades.tolist()) == ([0, 2], [3, 2])


def test_a_query_without_an_item_above_the_bar_is_named() -> None:
    ranks = rank_scores(np.eye(3), np.array([[3, 0, 0], [1, 1, 0], [0, 0, 2]]))
    with pytest.raises(
        InputError, match="Query 1 has no relevant item of grade 2 or more"
    ) as error:
        ranks.at_least(2)
    assert error.value.rule == "no-positive"


@pytest.mark.parametrize("grade", [0.0, -1.0, np.nan, np.inf])
def test_a_relevant_row_has_a_grade_above_0(grade: float) -> None:
    rows = Relevance(np.arange(4), np.arange(3), np.array([1, grade, 1]))
    with pytest.raises(InputError, match="Query 1 has a relevant row of grade") as error:
        rank_scores(np.eye(3), rows)
    assert error.value.rule == "grade"
