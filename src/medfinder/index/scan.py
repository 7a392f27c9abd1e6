"""The one compiled loop of the index: score 8-bit rows, list by list, until enough are scored.

Importing this module imports numba; only columns large enough to be partitioned need it.
"""

import numba
import numpy as np
from numpy.typing import NDArray


@numba.njit(cache=True, fastmath=True, nogil=True)
def scan(
    codes: NDArray[np.int8],
    scales: NDArray[np.float32],
    towards: NDArray[np.float32],
    order: NDArray[np.int64],
    offsets: NDArray[np.int64],
    rows: NDArray[np.int32],
    mask: NDArray[np.bool_],
    budget: int,
    places: NDArray[np.int64],
    sums: NDArray[np.float32],
) -> int:
    """Write the places scored and their sums `scales` * (`codes` · `towards`); return how many.

    Lists are visited in `order`, each whole, until `budget` allowed rows are scored. A row is
    allowed if its number in the table, ``rows[place]``, is not negative and ``mask`` (empty: all)
    holds there. `places` and `sums` must have room for every allowed row.
    """
    dim = codes.shape[1]
    n = 0
    for number in order:
        for place in range(offsets[number], offsets[number + 1]):
            row = rows[place]
            if row < 0 or (mask.shape[0] > 0 and not mask[row]):
                continue
            total = np.float32(0.0)
            for i in range(dim):
                total += np.float32(codes[place, i]) * towards[i]
            places[n] = place
            sums[n] = total * scales[place]
            n += 1
        if n >= budget:
            break
    return n
