"""The compiled loops of ranking: how many scores lie above, or at least near, a query's own.

Importing this module imports numba; only tables large enough to gain from it need it.
"""

import numpy as np
from numpy.typing import NDArray

from medfinder.compiled import compiled


@compiled
def count_rows(
    scores: NDArray[np.float32],
    query: NDArray[np.int64],
    low: NDArray[np.float32],
    high: NDArray[np.float32],
    above: NDArray[np.int32],
    near: NDArray[np.int32],
) -> None:
    """Write how many scores of row ``query[p]`` are above ``high[p]``, and at least ``low[p]``."""
    for p in range(query.shape[0]):
        line, least, most = scores[query[p]], low[p], high[p]
        n_above, n_near = np.int32(0), np.int32(0)
        for j in range(line.shape[0]):
            n_above += np.int32(line[j] > most)
            n_near += np.int32(line[j] >= least)
        above[p], near[p] = n_above, n_near


@compiled
def count_both(
    scores: NDArray[np.float32],
    first: int,
    shift: NDArray[np.float32],
    low: NDArray[np.float32],
    high: NDArray[np.float32],
    row_above: NDArray[np.int32],
    row_near: NDArray[np.int32],
    column_above: NDArray[np.int32],
    column_near: NDArray[np.int32],
) -> None:
    """Count along rows and columns in one pass: row i is that of item ``first + i``.

    Args:
        scores: (B, N).
        first: Item of the first row.
        shift: (B,) added to a row's scores where they are compared along columns.
        low: (2, N) of each item, for its row and for its column.
        high: (2, N) likewise.
        row_above: (B,) written.
        row_near: (B,) written.
        column_above: (N,) added to.
        column_near: (N,) added to.
    """
    for i in range(scores.shape[0]):
        least, most = low[0, first + i], high[0, first + i]
        n_above, n_near = np.int32(0), np.int32(0)
        for j in range(scores.shape[1]):
            score = scores[i, j]
            n_above += np.int32(score > most)
            n_near += np.int32(score >= least)
            score += shift[i]
            column_above[j] += np.int32(score > high[1, j])
            column_near[j] += np.int32(score >= low[1, j])
        row_above[i], row_near[i] = n_above, n_near
