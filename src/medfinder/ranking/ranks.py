"""Scores, or two arrays of vectors → where each query's relevant items stand, ties counted apart.

Vectors are compared on a fixed-point grid, on which a float64 product makes no rounding error. So
equal vectors tie wherever they lie, and neither the blocking nor the number of threads changes a
rank. Which order tied items take is left open: `medfinder.ranking.measures` takes the expectation
over all of them, so no score depends on how a gallery happens to be sorted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from medfinder.errors import InputError

Relevant: TypeAlias = NDArray[Any] | Sequence[int] | Sequence[Sequence[int] | NDArray[Any]]
"""Which gallery rows answer a query, for G rows and Q queries: (Q,) row numbers, one a query; or
(Q, G) booleans or grades, as an array, where above 0 is relevant; or Q lists of row numbers."""

_BLOCK = 1 << 23  # scores held at once: 64 MiB of float64


@dataclass(frozen=True, eq=False)
class Ranks:
    """Where the relevant items of each query stand in its ranking of the gallery.

    Attributes:
        starts: (Q + 1,) where each query's relevant items begin in `better` and `tied`; 0, 1, ...,
            Q with one relevant item a query.
        better: (P,) gallery items that score above each relevant item, ascending in a query.
        tied: (P,) other gallery items that score the same as it.
        n_gallery: Items ranked.
    """

    starts: NDArray[np.int64]
    better: NDArray[np.int64]
    tied: NDArray[np.int64]
    n_gallery: int

    @property
    def n_queries(self) -> int:
        """Return the number of queries."""
        return len(self.starts) - 1


def rank_vectors(
    queries: NDArray[Any],
    gallery: NDArray[Any],
    relevant: Relevant | None = None,
    *,
    block_size: int | None = None,
) -> Ranks:
    """Rank the gallery for each query by inner product: the cosine, where vectors have length 1.

    Memory is that of the gallery in float64 and of `block_size` rows of float64 scores.

    Args:
        queries: (Q, dim), real numbers, each row rounded to 2**-25 (3e-8) of its length or finer.
        gallery: (G, dim), rounded to 2**-25 of its longest row's length or finer.
        relevant: See `Relevant`; None where query i is answered by row i alone.
        block_size: Queries scored at once; None for 64 MiB of scores. Changes no result.

    Raises:
        InputError: Rules ``shape``, ``empty``, ``dim-mismatch``, ``not-finite``, ``zero-vector``,
            ``block-size``, and those of `relevant`: ``no-positive``, ``unknown-row``,
            ``repeated-row``. The first row at fault is named.
    """
    _check_vectors("queries", queries)
    _check_vectors("gallery", gallery)
    if queries.shape[1] != gallery.shape[1]:
        raise InputError(
            f"Queries and gallery differ in dimension: {queries.shape[1]} and {gallery.shape[1]}; "
            "embed both with one model.",
            rule="dim-mismatch",
        )
    starts, rows = _pairs(relevant, len(queries), len(gallery))
    columns = _on_grid(gallery, axis=None).T
    found = []
    for first, last in _blocks(len(queries), len(gallery), block_size):
        scores = _on_grid(queries[first:last], axis=1) @ columns  # (block, G), whole numbers
        found.append(_places(scores, starts[first : last + 1], rows))
    better, tied = np.concatenate(found, axis=1)
    return Ranks(starts, better, tied, len(gallery))


def rank_scores(
    scores: NDArray[Any], relevant: Relevant | None = None, *, block_size: int | None = None
) -> Ranks:
    """Rank the gallery for each query by scores that are already there; equal scores tie.

    Args:
        scores: (Q, G), any real type, higher is better.
        relevant: See `Relevant`; None where query i is answered by column i alone.
        block_size: Queries looked at at once; None for 64 MiB of scores. Changes no result.

    Raises:
        InputError: As `rank_vectors`, but for ``dim-mismatch`` and ``zero-vector``.
    """
    _check_table("scores", scores)
    n_queries, n_gallery = scores.shape
    starts, rows = _pairs(relevant, n_queries, n_gallery)
    found = [
        _places(scores[first:last], starts[first : last + 1], rows)
        for first, last in _blocks(n_queries, n_gallery, block_size)
    ]
    better, tied = np.concatenate(found, axis=1)
    return Ranks(starts, better, tied, n_gallery)


def _places(
    scores: NDArray[Any], starts: NDArray[np.int64], rows: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return how many items stand above and beside each relevant one, (2, P), best first."""
    rows = rows[starts[0] : starts[-1]]
    own = scores[np.repeat(np.arange(len(scores)), np.diff(starts)), rows]
    if len(rows) == len(scores):  # one each: counting is cheaper than sorting
        above = np.count_nonzero(scores > own[:, None], axis=1)
        level = np.count_nonzero(scores == own[:, None], axis=1) - 1
        return np.stack([above, level])
    places = np.empty((2, len(rows)), np.int64)
    starts = starts - starts[0]
    for line, first, last in zip(scores, starts[:-1], starts[1:], strict=True):
        ascending, mine = np.sort(line), np.sort(own[first:last])[::-1]
        ends = np.searchsorted(ascending, mine, "right")
        places[0, first:last] = len(line) - ends
        places[1, first:last] = ends - np.searchsorted(ascending, mine, "left") - 1
    return places


def _on_grid(vectors: NDArray[Any], axis: int | None) -> NDArray[np.float64]:
    """Scale rows by a power of two to lengths of at most 1.01 * 2**26, and round to whole numbers.

    Every partial sum of an inner product of two such rows is then a whole number below 2**53
    (Cauchy-Schwarz), which float64 holds exactly: a product may be summed in any order.

    Args:
        axis: 1 to scale each row on its own, None for one scale for all.
    """
    wide = np.array(vectors, np.float64, order="C")
    _, exponent = np.frexp(np.abs(wide).max(axis=axis, keepdims=True))
    np.ldexp(wide, -exponent, out=wide)  # entries of at most 1, whose squares cannot overflow
    longest = np.linalg.norm(wide, axis=1, keepdims=True).max(axis=axis, keepdims=True)
    _, exponent = np.frexp(longest / 1.01)  # so that rounding cannot push a unit vector over
    np.ldexp(wide, 26 - exponent, out=wide)
    return np.rint(wide, out=wide)


def _blocks(n: int, width: int, block_size: int | None) -> list[tuple[int, int]]:
    if block_size is None:
        block_size = max(1, _BLOCK // width)
    if block_size < 1:
        raise InputError(f"block_size must be at least 1, got {block_size}.", rule="block-size")
    return [(first, min(first + block_size, n)) for first in range(0, n, block_size)]


def _pairs(
    relevant: Relevant | None, n_queries: int, n_gallery: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where each query's relevant rows start, (Q + 1,), and the rows, (P,)."""
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
    if isinstance(relevant, np.ndarray) and relevant.ndim == 2:
        starts, rows = _from_table(relevant, n_gallery)
    else:
        starts, rows = _from_lists(relevant)
    bare = np.flatnonzero(np.diff(starts) == 0)
    if len(bare):
        raise InputError(
            f"Query {bare[0]} has no relevant item, as have {len(bare)} in all; no measure is "
            "defined for it: leave such queries out and say so.",
            rule="no-positive",
        )
    outside = np.flatnonzero((rows < 0) | (rows >= n_gallery))
    if len(outside):
        query = np.searchsorted(starts, outside[0], "right") - 1
        raise InputError(
            f"Query {query} names gallery row {rows[outside[0]]}; rows go from 0 to "
            f"{n_gallery - 1}.",
            rule="unknown-row",
        )
    return starts, rows


def _from_table(table: NDArray[Any], n_gallery: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    if table.shape[1] != n_gallery:
        raise InputError(
            f"`relevant` has {table.shape[1]} columns, the gallery {n_gallery} items.", rule="shape"
        )
    _check_table("relevant", table)
    query, rows = np.nonzero(table > 0)
    starts = np.searchsorted(query, np.arange(len(table) + 1))
    return starts.astype(np.int64), rows.astype(np.int64)


def _from_lists(relevant: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    if isinstance(relevant, np.ndarray) and relevant.ndim == 1 and relevant.dtype.kind in "iu":
        return np.arange(len(relevant) + 1), relevant.astype(np.int64)
    lists = [np.atleast_1d(np.asarray(rows)) for rows in relevant]
    for i, rows in enumerate(lists):
        if rows.ndim != 1 or (len(rows) and not np.issubdtype(rows.dtype, np.integer)):
            raise InputError(
                f"`relevant` of query {i} must be whole row numbers, got {rows.dtype} of shape "
                f"{rows.shape}; a table of booleans or grades must be a 2-D array.",
                rule="shape",
            )
        if len(np.unique(rows)) < len(rows):
            raise InputError(f"Query {i} names a relevant row twice.", rule="repeated-row")
    starts = np.cumsum([0, *(len(rows) for rows in lists)], dtype=np.int64)
    return starts, np.concatenate([*lists, np.empty(0, np.int64)]).astype(np.int64)


def _check_vectors(name: str, vectors: NDArray[Any]) -> None:
    _check_table(name, vectors)
    zero = np.flatnonzero(~vectors.any(axis=1))
    if len(zero):
        raise InputError(
            f"Row {zero[0]} of the {name} is all zeros, as are {len(zero)} in all; a zero vector "
            "points nowhere: leave it out and say so.",
            rule="zero-vector",
        )


def _check_table(name: str, table: NDArray[Any]) -> None:
    if not isinstance(table, np.ndarray) or table.ndim != 2 or table.dtype.kind not in "fiub":
        got = getattr(table, "shape", type(table).__name__)
        raise InputError(
            f"The {name} must be a 2-D array of real numbers, got {got}.", rule="shape"
        )
    if table.size == 0:
        raise InputError(
            f"The {name} are empty, of shape {table.shape}; a measure over nothing is undefined.",
            rule="empty",
        )
    for first, last in _blocks(len(table), table.shape[1], None):
        bad = np.argwhere(~np.isfinite(table[first:last]))
        if len(bad):
            row, column = bad[0]
            raise InputError(
                f"Row {first + row} of the {name} holds {table[first + row, column]} at column "
                f"{column}; every value must be finite.",
                rule="not-finite",
            )
