"""Exact nearest neighbours in memory: the reference for every other search, and the ranking rule.

The score is the *centred* cosine, cos(q - c, x - c), with c the mean of the gallery's unit vectors
(zero for the plain cosine). CT encoders map every chest close to every other (cosines of
.84 to .99); what tells them apart is the difference from the mean.

A fast float32 product proposes; a float64 sum over each proposed row on its own decides. So equal
vectors get equal scores wherever they lie, ties are broken by row order, and neither the number of
threads nor the blocking changes a result. Knows arrays only.
"""

import numpy as np
from numpy.typing import NDArray

FLOAT32_SLACK = 2e-5
"""Bound on the error of a float32 centred cosine; rows this close to the k-th are rescored."""

_BLOCK = 1 << 24  # scores held at once: 64 MiB of float32


def top_k(
    queries: NDArray[np.float32],
    gallery: NDArray[np.float32],
    k: int,
    mask: NDArray[np.bool_] | None = None,
    centre: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the k best gallery rows for each query, best first, ties by row number.

    Args:
        queries: (Q, dim), any length but zero.
        gallery: (N, dim) unit vectors.
        k: At least 1.
        mask: (N,), False leaves a row out.
        centre: (dim,), subtracted from unit vectors on both sides; None for the plain cosine.

    Returns:
        Scores in [-1, 1] and rows, each (Q, min(k, rows allowed)).
    """
    n, dim = gallery.shape
    rows = np.arange(n) if mask is None else np.flatnonzero(mask)
    k = min(k, len(rows))
    scores = np.empty((len(queries), k), np.float64)
    found = np.empty((len(queries), k), np.int64)
    if k == 0:
        return scores, found
    middle = np.zeros(dim, np.float32) if centre is None else centre
    scale = inverse_lengths(gallery, middle)
    step = max(1, _BLOCK // n)
    for start in range(0, len(queries), step):
        directions = [direction(query, middle) for query in queries[start : start + step]]
        sums = gallery @ np.array(directions, np.float32).T  # (N, dim) x (dim, step)
        for i, towards in enumerate(directions):
            fast = (sums[:, i] - np.float32(middle @ towards)) * scale
            near = rows[contenders(fast[rows], k)]
            exact = rescore(gallery[near], towards, middle)
            best = np.lexsort((near, -exact))[:k]
            scores[start + i], found[start + i] = exact[best], near[best]
    return scores, found


def direction(query: NDArray[np.float32], centre: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the unit vector from the centre to the normalised query; zero if they coincide."""
    wide = query.astype(np.float64)
    wide = wide / np.linalg.norm(wide) - centre
    length = float(np.linalg.norm(wide))
    return wide / length if length > 1e-6 else np.zeros_like(wide)


def inverse_lengths(
    gallery: NDArray[np.float32], centre: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return 1 / |x - c| for each unit vector x, (N,); 0 where x is the centre."""
    squared = 1.0 - 2.0 * (gallery @ centre).astype(np.float64) + float(centre @ centre)
    lengths = np.sqrt(np.maximum(squared, 0.0))
    # A float32 product leaves about 1e-7 of noise in the square, hence 3e-4 in the length.
    return np.where(lengths > 1e-3, 1.0 / np.maximum(lengths, 1e-3), 0.0).astype(np.float32)


def contenders(fast: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Return the positions that may be among the k best once rounding errors are removed."""
    if k >= len(fast):
        return np.arange(len(fast))
    kth = np.partition(fast, len(fast) - k)[len(fast) - k]
    return np.flatnonzero(fast >= kth - FLOAT32_SLACK)


def rescore(
    vectors: NDArray[np.float32], towards: NDArray[np.float64], centre: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return the centred cosine of each unit vector in float64, (n,), a row's alone its own."""
    moved = vectors.astype(np.float64) - centre
    lengths = np.sqrt((moved * moved).sum(axis=1))
    cosines = (moved * towards).sum(axis=1) / np.maximum(lengths, 1e-3)
    # Lengths below the bound belong to the centre itself: no direction, so no likeness.
    cosines = np.where(lengths > 1e-3, cosines, 0.0)
    return np.clip(cosines, -1.0, 1.0)
