"""Scores, or two arrays of vectors → where each query's relevant items stand, ties counted apart.

Vectors are compared on a fixed-point grid, on which a float64 product makes no rounding error. So
equal vectors tie wherever they lie, and neither the blocking nor the number of threads changes a
rank. A float32 product, whose error is bounded, settles almost every comparison; only what it
cannot tell apart is multiplied out on the grid. Which order tied items take is left open:
`medfinder.ranking.measures` takes the expectation over all of them, so no score depends on how a
gallery happens to be sorted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from medfinder.errors import InputError
from medfinder.ranking.grid import Narrow, around, narrow_gallery, narrow_queries, on_grid
from medfinder.ranking.tables import blocks, check_dimensions, check_table, check_vectors

_CHUNK = 1 << 17  # scores compared at once: 1 MiB of float64, which stays in a core's cache
_WORTHWHILE = 1 << 22  # scores from which on a float32 product first, and numba, save time
_FEW = 8  # relevant items up to which comparing a query's scores with each beats sorting them
_SHARE = 32  # of a ranking: where more is unsettled, a float64 product is faster


@dataclass(frozen=True, eq=False)
class Relevance:
    """Which gallery rows answer each query and how well, as `Qrels.among` gives it.

    Attributes:
        starts: (Q + 1,) where each query's rows begin in `rows` and `grades`.
        rows: (P,) gallery rows, no row twice in a query.
        grades: (P,) above 0, higher is better.
    """

    starts: NDArray[np.int64]
    rows: NDArray[np.int64]
    grades: NDArray[np.float64]

    def __len__(self) -> int:
        """Return the number of queries."""
        return len(self.starts) - 1


Relevant: TypeAlias = (
    Relevance | NDArray[Any] | Sequence[int] | Sequence[Sequence[int] | NDArray[Any]]
)
"""Which gallery rows answer a query, for G rows and Q queries: (Q,) row numbers, one a query; or
(Q, G) booleans or grades, as an array, where above 0 is relevant; or Q lists of row numbers; or a
`Relevance`. What has no grade has grade 1."""


@dataclass(frozen=True, eq=False)
class Ranks:
    """Where the relevant items of each query stand in its ranking of the gallery.

    Attributes:
        starts: (Q + 1,) where each query's relevant items begin in `better`, `tied` and `grades`;
            0, 1, ..., Q with one relevant item a query.
        better: (P,) gallery items that score above each relevant item, ascending in a query;
            `n_gallery` where a ranking was cut off before the item.
        tied: (P,) other gallery items that score the same as it.
        grades: (P,) how relevant each is, above 0.
        n_gallery: Items ranked: places from which on nothing counts as found.
        is_whole: Every item of the gallery is ranked for every query; False where a ranking may
            have been cut off.
    """

    starts: NDArray[np.int64]
    better: NDArray[np.int64]
    tied: NDArray[np.int64]
    grades: NDArray[np.float64]
    n_gallery: int
    is_whole: bool = True

    @property
    def n_queries(self) -> int:
        """Return the number of queries."""
        return len(self.starts) - 1

    def at_least(self, grade: float) -> "Ranks":
        """Return the same ranks with only items of at least this grade as relevant.

        Raises:
            InputError: Rule ``no-positive``: a query has no such item.
        """
        kept = self.grades >= grade
        if kept.all():
            return self
        starts = np.concatenate([[0], np.cumsum(kept)])[self.starts]
        _refuse_bare(starts, f" of grade {grade:g} or more")
        return Ranks(
            starts,
            self.better[kept],
            self.tied[kept],
            self.grades[kept],
            self.n_gallery,
            self.is_whole,
        )


def rank_vectors(
    queries: NDArray[Any],
    gallery: NDArray[Any],
    relevant: Relevant | None = None,
    *,
    block_size: int | None = None,
) -> Ranks:
    """Rank the gallery for each query by inner product: the cosine, where vectors have length 1.

    Memory is that of the gallery in float64 and float32, and of `block_size` rows of scores; the
    queries may be a memory map.

    Args:
        queries: (Q, dim), real numbers, each row rounded to 2**-25 (3e-8) of its length or finer.
        gallery: (G, dim), rounded to 2**-25 of its longest row's length or finer.
        relevant: See `Relevant`; None where query i is answered by row i alone.
        block_size: Queries scored at once; None for 64 MiB of scores. Changes no result.

    Raises:
        InputError: Rules ``shape``, ``empty``, ``dim-mismatch``, ``not-finite``, ``zero-vector``,
            ``block-size``, and those of `relevant`: ``no-positive``, ``unknown-row``,
            ``repeated-row``, ``grade``. The first row at fault is named.
    """
    check_vectors("queries", queries)
    check_vectors("gallery", gallery)
    check_dimensions(queries, gallery)
    relevance = _pairs(relevant, len(queries), len(gallery))
    grid = on_grid(gallery, axis=None)
    narrow = narrow_gallery(grid) if len(queries) * len(gallery) >= _WORTHWHILE else None
    places = np.empty((2, len(relevance.rows)), np.int64)
    for first, last in blocks(len(queries), len(gallery), block_size):
        starts = relevance.starts[first : last + 1]
        rows = relevance.rows[starts[0] : starts[-1]]
        block = on_grid(queries[first:last], axis=1)
        found = _settle(block, grid, narrow, starts - starts[0], rows)
        places[:, starts[0] : starts[-1]] = found
    return _ranks(relevance, places, len(gallery))


def rank_both_ways(
    queries: NDArray[Any], gallery: NDArray[Any], *, block_size: int | None = None
) -> tuple[Ranks, Ranks]:
    """Rank the gallery for each query and the queries for each item, where row i answers row i.

    What `rank_vectors` gives for (queries, gallery) and for (gallery, queries), from one product
    instead of two, but that the queries have one scale too. Memory is that of both in float64 and
    float32, and of `block_size` rows of scores.

    Args:
        queries: (N, dim), real numbers, rounded to 2**-25 of the longest row's length or finer.
        gallery: (N, dim), likewise.
        block_size: Queries scored at once; None for 64 MiB of scores. Changes no result.

    Raises:
        InputError: As `rank_vectors`.
    """
    check_vectors("queries", queries)
    check_vectors("gallery", gallery)
    check_dimensions(queries, gallery)
    relevance = _pairs(None, len(queries), len(gallery))
    n = len(queries)
    grids = on_grid(queries, axis=None), on_grid(gallery, axis=None)
    if n * n >= _WORTHWHILE:
        settled, places = _count_both(*grids, block_size)
    else:
        settled, places = np.zeros((2, n), np.bool_), np.zeros((2, 2, n), np.int64)
    for way in (0, 1):
        rest = np.flatnonzero(~settled[way])
        for first, last in blocks(len(rest), n, block_size):
            mine = rest[first:last]
            scores = grids[way][mine] @ grids[1 - way].T
            places[way][:, mine] = _places(scores, np.arange(len(mine) + 1), mine)
    forth, back = (_ranks(relevance, each, n) for each in places)
    return forth, back


def rank_scores(
    scores: NDArray[Any], relevant: Relevant | None = None, *, block_size: int | None = None
) -> Ranks:
    """Rank the gallery for each query by scores that are already there; equal scores tie.

    Args:
        scores: (Q, G), any real type, higher is better; may be a memory map.
        relevant: See `Relevant`; None where query i is answered by column i alone.
        block_size: Queries looked at at once; None for 64 MiB of scores. Changes no result.

    Raises:
        InputError: As `rank_vectors`, but for ``dim-mismatch`` and ``zero-vector``.
    """
    check_table("scores", scores)
    n_queries, n_gallery = scores.shape
    relevance = _pairs(relevant, n_queries, n_gallery)
    places = np.empty((2, len(relevance.rows)), np.int64)
    for first, last in blocks(n_queries, n_gallery, block_size):
        starts = relevance.starts[first : last + 1]
        rows = relevance.rows[starts[0] : starts[-1]]
        found = _places(scores[first:last], starts - starts[0], rows)
        places[:, starts[0] : starts[-1]] = found
    return _ranks(relevance, places, n_gallery)


def _ranks(relevance: Relevance, places: NDArray[np.int64], n_gallery: int) -> Ranks:
    """Put each query's relevant items in order, the best first."""
    better, tied = places
    grades = relevance.grades
    if len(better) > len(relevance):
        query = np.repeat(np.arange(len(relevance)), np.diff(relevance.starts))
        order = np.lexsort((-grades, better, query))
        better, tied, grades = better[order], tied[order], grades[order]
    return Ranks(relevance.starts, better, tied, grades, n_gallery)


def _places(
    scores: NDArray[Any], starts: NDArray[np.int64], rows: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return how many items stand above and beside each of `rows`, (2, P)."""
    query = np.repeat(np.arange(len(scores)), np.diff(starts))
    own = scores[query, rows]
    places = np.empty((2, len(rows)), np.int64)
    if len(rows) == len(scores):  # one each: counting is cheaper than sorting
        step = max(1, _CHUNK // scores.shape[1])
        for first, last in blocks(len(scores), scores.shape[1], step):
            lines, level = scores[first:last], own[first:last, None]
            places[0, first:last] = np.count_nonzero(lines > level, axis=1)
            places[1, first:last] = np.count_nonzero(lines == level, axis=1) - 1
        return places
    for line, first, last in zip(scores, starts[:-1], starts[1:], strict=True):
        ascending, mine = np.sort(line), own[first:last]
        ends = np.searchsorted(ascending, mine, "right")
        places[0, first:last] = len(line) - ends
        places[1, first:last] = ends - np.searchsorted(ascending, mine, "left") - 1
    return places


def _settle(
    queries: NDArray[np.float64],
    gallery: NDArray[np.float64],
    narrow: Narrow | None,
    starts: NDArray[np.int64],
    rows: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Return how many items stand above and beside each of `rows`, (2, P), for grid vectors.

    Args:
        queries: (B, dim) on the grid.
        gallery: (G, dim) on the grid.
        narrow: The gallery in float32; None to multiply everything on the grid.
        starts: (B + 1,) where each query's relevant rows begin in `rows`.
        rows: (P,).
    """
    n_each = np.diff(starts)
    few = n_each <= _FEW if narrow is not None else np.zeros(len(queries), np.bool_)
    places = np.empty((2, len(rows)), np.int64)
    # Pairs of a query and a relevant row that float32 may settle.
    pairs = np.flatnonzero(np.repeat(few, n_each))
    if narrow is not None and len(pairs):
        query = np.repeat(np.arange(len(queries)), n_each)[pairs]
        settled, places[:, pairs] = _count(queries, gallery, narrow, query, rows[pairs])
        few[query[~settled]] = False
    many = np.flatnonzero(~few)
    if len(many):
        ends = np.concatenate([[0], np.cumsum(n_each[many])])
        theirs = np.flatnonzero(np.repeat(~few, n_each))
        places[:, theirs] = _places(queries[many] @ gallery.T, ends, rows[theirs])
    return places


def _count(
    queries: NDArray[np.float64],
    gallery: NDArray[np.float64],
    narrow: Narrow,
    query: NDArray[np.int64],
    rows: NDArray[np.int64],
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Return whether float32 could settle each pair, (P,), and how many stand above and beside it.

    Args:
        queries: (B, dim) on the grid.
        gallery: (G, dim) on the grid.
        narrow: The gallery in float32.
        query: (P,) whose pair each is, ascending.
        rows: (P,) the gallery row of each.
    """
    from medfinder.ranking.counting import count_rows

    scores = narrow_queries(queries) @ narrow.vectors.T
    own = np.einsum("ij,ij->i", queries[query], gallery[rows])  # exact, as every sum on the grid
    low, high = around(own - (queries @ narrow.centre)[query], narrow.slack)
    places, n_open = np.empty((2, len(query)), np.int64), np.empty(len(query), np.int64)
    most = _open_at_most(len(gallery))
    count_rows(scores, query, rows, low, high, own, queries, gallery, most, places, n_open)
    return n_open <= most, places


def _count_both(
    queries: NDArray[np.float64], gallery: NDArray[np.float64], block_size: int | None
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Return which rows float32 could settle, (2, N), and the places of their pairs, (2, 2, N).

    First the queries' ranking of the gallery, then the gallery's of the queries.
    """
    from medfinder.ranking.counting import count_both

    n = len(queries)
    narrow = narrow_gallery(gallery)
    own = np.einsum("ij,ij->i", queries, gallery)
    # A query's products lack what the centre gives it: in its row the thresholds lack it too; in a
    # column it is put back.
    given = queries @ narrow.centre
    low, high = np.stack([around(own - given, narrow.slack), around(own, narrow.slack)], axis=1)
    shift = np.asarray(np.ldexp(given, -52), np.float32)
    places, n_open = np.zeros((2, 2, n), np.int64), np.zeros((2, n), np.int64)
    most = _open_at_most(n)
    for first, last in blocks(n, n, block_size):
        scores = narrow_queries(queries[first:last]) @ narrow.vectors.T
        part = shift[first:last]
        count_both(scores, first, part, low, high, own, queries, gallery, most, places, n_open)
    return n_open <= most, places


def _open_at_most(n: int) -> int:
    """Return how many scores of n, left open by float32, are quicker to multiply one by one."""
    return max(_SHARE, n // _SHARE)


def _pairs(relevant: Relevant | None, n_queries: int, n_gallery: int) -> Relevance:
    """Return what `relevant` says, checked."""
    if relevant is None:
        if n_queries != n_gallery:
            raise InputError(
                f"{n_queries} queries and {n_gallery} gallery items cannot be pairs; say which "
                "rows are relevant.",
                rule="shape",
            )
        relevant = np.arange(n_queries)
    if len(relevant) != n_queries:
        raise InputError(
            f"`relevant` speaks of {len(relevant)} queries, there are {n_queries}.", rule="shape"
        )
    if isinstance(relevant, Relevance):
        relevance = relevant
    elif isinstance(relevant, np.ndarray) and relevant.ndim == 2:
        relevance = _from_table(relevant, n_gallery)
    else:
        relevance = _from_lists(relevant)
    starts, rows, grades = relevance.starts, relevance.rows, relevance.grades
    _refuse_bare(starts)
    query = np.repeat(np.arange(n_queries), np.diff(starts))
    outside = np.flatnonzero((rows < 0) | (rows >= n_gallery))
    if len(outside):
        raise InputError(
            f"Query {query[outside[0]]} names gallery row {rows[outside[0]]}; rows go from 0 to "
            f"{n_gallery - 1}.",
            rule="unknown-row",
        )
    bad = np.flatnonzero(~((grades > 0) & np.isfinite(grades)))
    if len(bad):
        raise InputError(
            f"Query {query[bad[0]]} has a relevant row of grade {grades[bad[0]]:g}; a grade is a "
            "finite number above 0.",
            rule="grade",
        )
    if len(rows) > n_queries:
        keys = np.sort(query * n_gallery + rows)
        twice = np.flatnonzero(keys[1:] == keys[:-1])
        if len(twice):
            raise InputError(
                f"Query {keys[twice[0]] // n_gallery} names a relevant row twice.",
                rule="repeated-row",
            )
    return relevance


def _refuse_bare(starts: NDArray[np.int64], which: str = "") -> None:
    bare = np.flatnonzero(np.diff(starts) == 0)
    if len(bare):
        raise InputError(
            f"Query {bare[0]} has no relevant item{which}, as have {len(bare)} in all; no measure "
            "is defined for it: leave such queries out and say so.",
            rule="no-positive",
        )


def _from_table(table: NDArray[Any], n_gallery: int) -> Relevance:
    if table.shape[1] != n_gallery:
        raise InputError(
            f"`relevant` has {table.shape[1]} columns, the gallery {n_gallery} items.", rule="shape"
        )
    check_table("relevant", table)
    query, rows = np.nonzero(table > 0)
    starts = np.searchsorted(query, np.arange(len(table) + 1)).astype(np.int64)
    return Relevance(starts, rows.astype(np.int64), table[query, rows].astype(np.float64))


def _from_lists(relevant: Any) -> Relevance:
    if isinstance(relevant, np.ndarray) and relevant.ndim == 1 and relevant.dtype.kind in "iu":
        rows = relevant.astype(np.int64)
        return Relevance(np.arange(len(rows) + 1), rows, np.ones(len(rows)))
    lists = [np.atleast_1d(np.asarray(rows)) for rows in relevant]
    for i, rows in enumerate(lists):
        if rows.ndim != 1 or (len(rows) and not np.issubdtype(rows.dtype, np.integer)):
            raise InputError(
                f"`relevant` of query {i} must be whole row numbers, got {rows.dtype} of shape "
                f"{rows.shape}; a table of booleans or grades must be a 2-D array.",
                rule="shape",
            )
    starts = np.cumsum([0, *(len(rows) for rows in lists)], dtype=np.int64)
    flat = np.concatenate([*lists, np.empty(0, np.int64)]).astype(np.int64)
    return Relevance(starts, flat, np.ones(len(flat)))
