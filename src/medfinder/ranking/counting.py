"""The compiled loops of ranking: how many scores lie above a query's own, the unclear made exact.

Importing this module imports numba; only tables large enough to gain from it need it. Scores are
gone through in short runs: what is compared with vector instructions almost always settles a run,
and only a run that holds something too near to a threshold is looked at score by score.
"""

from functools import partial

import numpy as np
from numpy.typing import NDArray

from medfinder.compiled import compiled

_RUN = 64


@partial(compiled, fastmath=True)  # any order of the sum: on the grid every one is exact
def _product(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    total = 0.0
    for i in range(a.shape[0]):
        total += a[i] * b[i]
    return total


@compiled
def count_rows(
    scores: NDArray[np.float32],
    query: NDArray[np.int64],
    rows: NDArray[np.int64],
    low: NDArray[np.float32],
    high: NDArray[np.float32],
    own: NDArray[np.float64],
    queries: NDArray[np.float64],
    gallery: NDArray[np.float64],
    n_most: int,
    places: NDArray[np.int64],
    n_open: NDArray[np.int64],
) -> None:
    """Count, for each pair of a query and a relevant row, what scores above and the same.

    Args:
        scores: (B, G) products in float32.
        query: (P,) row of `scores` and of `queries` that each pair is looked up in.
        rows: (P,) the relevant one of the gallery.
        low: (P,) below which a score is surely less than the pair's own.
        high: (P,) above which it is surely more.
        own: (P,) exact.
        queries: (B, dim) on the grid.
        gallery: (G, dim) on the grid.
        n_most: Unclear scores that are made exact; a pair with more is given up.
        places: (2, P) written: above and beside.
        n_open: (P,) written: unclear scores met; above `n_most` `places` mean nothing.
    """
    n_gallery = scores.shape[1]
    for p in range(query.shape[0]):
        line, least, most = scores[query[p]], low[p], high[p]
        n_above, n_beside, n_unclear = 0, 0, 0
        for first in range(0, n_gallery, _RUN):
            last = min(first + _RUN, n_gallery)
            above, near = np.int32(0), np.int32(0)
            for j in range(first, last):
                above += np.int32(line[j] > most)
                near += np.int32(line[j] >= least)
            n_above += int(above)
            if near == above:
                continue
            for j in range(first, last):
                if line[j] < least or line[j] > most or j == rows[p]:
                    continue
                n_unclear += 1
                if n_unclear > n_most:
                    break
                exact = _product(queries[query[p]], gallery[j])
                n_above += exact > own[p]
                n_beside += exact == own[p]
            if n_unclear > n_most:
                break
        places[0, p], places[1, p], n_open[p] = n_above, n_beside, n_unclear


@compiled
def count_both(
    scores: NDArray[np.float32],
    begin: int,
    shift: NDArray[np.float32],
    low: NDArray[np.float32],
    high: NDArray[np.float32],
    own: NDArray[np.float64],
    queries: NDArray[np.float64],
    gallery: NDArray[np.float64],
    n_most: int,
    places: NDArray[np.int64],
    n_open: NDArray[np.int64],
) -> None:
    """Count along rows and columns in one pass: row i is that of item ``begin + i``.

    Args:
        scores: (B, N).
        begin: Item of the first row.
        shift: (B,) added to a row's scores where they are compared along columns.
        low: (2, N) of each item, for its row and for its column.
        high: (2, N) likewise.
        own: (N,) exact product of each item's pair.
        queries: (N, dim) on the grid.
        gallery: (N, dim) on the grid.
        n_most: Unclear scores of an item that are made exact, each way.
        places: (2, 2, N) added to: along the row and along the column, above and beside.
        n_open: (2, N) added to: unclear scores met; above `n_most` `places` mean nothing.
    """
    n = scores.shape[1]
    column_above = np.zeros(n, np.int32)
    for i in range(scores.shape[0]):
        item = begin + i
        least, most, moved = low[0, item], high[0, item], shift[i]
        for first in range(0, n, _RUN):
            last = min(first + _RUN, n)
            above, unclear = np.int32(0), np.int32(0)
            for j in range(first, last):
                score = scores[i, j]
                is_above = np.int32(score > most)
                above += is_above
                unclear += np.int32(score >= least) - is_above
                score += moved
                is_above = np.int32(score > high[1, j])
                column_above[j] += is_above
                unclear += np.int32(score >= low[1, j]) - is_above
            places[0, 0, item] += above
            if unclear == 0:
                continue
            for j in range(first, last):
                score = scores[i, j]
                in_row = least <= score <= most
                score += moved
                in_column = low[1, j] <= score <= high[1, j]
                if j == item or not (in_row or in_column):
                    continue
                n_open[0, item] += in_row
                n_open[1, j] += in_column
                in_row = in_row and n_open[0, item] <= n_most
                in_column = in_column and n_open[1, j] <= n_most
                if in_row or in_column:
                    exact = _product(queries[item], gallery[j])
                    if in_row:
                        places[0, 0, item] += exact > own[item]
                        places[0, 1, item] += exact == own[item]
                    if in_column:
                        places[1, 0, j] += exact > own[j]
                        places[1, 1, j] += exact == own[j]
    places[1, 0] += column_above
