"""A place in a space of vectors, and studies that were called right or wrong → a better place.

Source:
    Relevance feedback: Rocchio, in Salton (ed.), "The SMART Retrieval System", 1971, chapter 14.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]

WEIGHTS: dict[Literal["words", "ct"], tuple[float, float]] = {
    "words": (0.2, 0.2),
    "ct": (0.5, 0.75),
}
"""What the liked and the unliked weigh beside a query of weight 1, by what the query is made of;
chosen on the validation split of the phantom benchmark (``benchmarks/refining.py``)."""


def refined(
    place: Vector | None,
    liked: Sequence[Vector],
    unliked: Sequence[Vector],
    weights: tuple[float, float] = WEIGHTS["ct"],
) -> Vector | None:
    """Move a query towards the mean of the liked vectors and away from that of the unliked.

    Args:
        place: (dim,) of length 1; None where there is no query but the liked studies.
        liked: (dim,) each, of length 1.
        unliked: (dim,) each, of length 1.
        weights: Of the two means, beside a query of weight 1.

    Returns:
        (dim,) of length 1; None when there is neither a query nor a liked study.
    """
    if place is None and not liked:
        return None
    moved = np.zeros(len(liked[0] if place is None else place), np.float64)
    if place is not None:
        moved += place
    if liked:
        moved += (1.0 if place is None else weights[0]) * np.mean(liked, axis=0)
    if unliked:
        moved -= weights[1] * np.mean(unliked, axis=0)
    length = np.linalg.norm(moved)
    if not length:  # as far from the one as near the other: nothing was learnt
        return place if place is not None else liked[0]
    return (moved / length).astype(np.float32)
