"""Vectors → whole numbers whose inner products are exact, and bounds on what float32 makes of them.

On the grid equal vectors have equal products wherever they lie, and a product does not depend on
the order in which it is summed: not on blocks, threads or the library that multiplies.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_UNIT = 2.0**-24  # of rounding to float32


def on_grid(vectors: NDArray[Any], axis: int | None) -> NDArray[np.float64]:
    """Scale rows by a power of two to lengths of at most 1.01 * 2**26, and round to whole numbers.

    Every partial sum of an inner product of two such rows is then a whole number below 2**53
    (Cauchy-Schwarz), which float64 holds exactly: a product may be summed in any order.

    Args:
        axis: 1 to scale each row on its own, None for one scale for all.
    """
    return grid_and_scale(vectors, axis)[0]


def grid_and_scale(
    vectors: NDArray[Any], axis: int | None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return what `on_grid` does, and e for 2**e times a row of it to be the row given, (N or 1, 1)."""
    wide = np.array(vectors, np.float64, order="C")
    _, first = np.frexp(np.abs(wide).max(axis=axis, keepdims=True))
    np.ldexp(wide, -first, out=wide)  # entries of at most 1, whose squares cannot overflow
    longest = np.linalg.norm(wide, axis=1, keepdims=True).max(axis=axis, keepdims=True)
    _, second = np.frexp(longest / 1.01)  # so that rounding cannot push a unit vector over
    np.ldexp(wide, 26 - second, out=wide)
    return np.rint(wide, out=wide), first.astype(np.int64) + second - 26


@dataclass(frozen=True, eq=False)
class Narrow:
    """A gallery on the grid in float32, moved to its mean, with a bound on what that costs.

    The mean changes no ranking: it adds the same to every score of a query. But embeddings share a
    large part (cosines of .84 to .99 between chests), and the error of a float32 product grows with
    the lengths of what is multiplied.

    Attributes:
        vectors: (G, dim) float32, the rows less the centre, times 2**-26.
        centre: (dim,) on the grid.
        slack: No product with a narrowed query errs by more.
    """

    vectors: NDArray[np.float32]
    centre: NDArray[np.float64]
    slack: float


def narrow_gallery(grid: NDArray[np.float64]) -> Narrow:
    """Return a gallery on the grid in float32.

    A sum of dim products of numbers rounded to float32, in any order, errs by at most
    (dim + 2) u / (1 - (dim + 2) u) of the product of the lengths, u = 2**-24.

    Source:
        Higham, "Accuracy and Stability of Numerical Algorithms", 2nd edition, section 3.1.
    """
    centre = np.rint(grid.mean(axis=0))
    moved = np.ldexp(grid - centre, -26)
    reach = float(np.sqrt(np.einsum("ij,ij->i", moved, moved).max()))
    share = min((grid.shape[1] + 8) * _UNIT, 0.5)
    # A query is at most 1.01 long; 8 units for what is added to a product, or compared with it.
    slack = 1.02 * share / (1 - share) * reach + 8 * _UNIT if share < 0.5 else np.inf
    return Narrow(moved.astype(np.float32), centre, slack)


def narrow_queries(grid: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return queries on the grid in float32, times 2**-26."""
    return np.asarray(np.ldexp(grid, -26), np.float32)


def around(
    exact: NDArray[np.float64], slack: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return below and above which a float32 product is surely less, or more, than an exact one.

    Args:
        exact: Products on the grid.
        slack: Of the float32 product.
    """
    middle = np.ldexp(exact, -52)
    low = np.nextafter((middle - slack).astype(np.float32), np.float32(-np.inf))
    high = np.nextafter((middle + slack).astype(np.float32), np.float32(np.inf))
    return low, high
