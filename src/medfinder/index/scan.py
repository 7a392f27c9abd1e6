"""The compiled loops of the index: which rows to score, list by list, and their 8-bit products.

Importing this module imports numba; only columns large enough to be partitioned need it. One
thread a query: on a busy machine the threads of a matrix library wait for each other.
"""

from functools import partial

import numpy as np
from numpy.typing import NDArray

from medfinder.compiled import compiled


@compiled
def choose(
    order: NDArray[np.int64],
    offsets: NDArray[np.int64],
    rows: NDArray[np.int32],
    mask: NDArray[np.bool_],
    budget: int,
    places: NDArray[np.int64],
) -> int:
    """Write the allowed places of the lists in `order`; return how many.

    Lists are taken whole, until there are at least `budget` places. A place is allowed if its row
    in the table, ``rows[place]``, is not negative and ``mask`` (empty: all) holds there. `places`
    must have room for the budget and the largest list, and for one more.
    """
    n = 0
    everything = mask.shape[0] == 0
    for number in order:
        for place in range(offsets[number], offsets[number + 1]):
            row = rows[place]
            # Written always, kept or not: a branch on a random mask would be mispredicted.
            places[n] = place
            n += (row >= 0) & (everything or mask[max(row, 0)])
        if n >= budget:
            break
    return n


@partial(compiled, fastmath=True)
def score(
    codes: NDArray[np.int8],
    scales: NDArray[np.float32],
    towards: NDArray[np.float32],
    places: NDArray[np.int64],
    sums: NDArray[np.float32],
) -> None:
    """Write ``scales[place]`` * (``codes[place]`` · `towards`) for each of `places` to `sums`."""
    dim = codes.shape[1]
    for i in range(places.shape[0]):
        place = places[i]
        total = np.float32(0.0)
        for j in range(dim):
            total += np.float32(codes[place, j]) * towards[j]
        sums[i] = total * scales[place]


@partial(compiled, fastmath=True)
def products(
    rows: NDArray[np.float32], towards: NDArray[np.float32], sums: NDArray[np.float32]
) -> None:
    """Write ``rows`` · `towards` to `sums`."""
    dim = rows.shape[1]
    for i in range(rows.shape[0]):
        total = np.float32(0.0)
        for j in range(dim):
            total += rows[i, j] * towards[j]
        sums[i] = total
