"""The slow truth for vector search: one row at a time, in Python's exact sums."""

import math
from collections.abc import Sequence


def centred_cosine(query: Sequence[float], row: Sequence[float], centre: Sequence[float]) -> float:
    """cos(q/|q| - c, x - c), with sums that do not round; 0 where a difference is zero."""
    length = math.sqrt(math.fsum(v * v for v in query))
    a = [v / length - c for v, c in zip(query, centre, strict=True)]
    b = [v - c for v, c in zip(row, centre, strict=True)]
    la, lb = (math.sqrt(math.fsum(v * v for v in w)) for w in (a, b))
    if la <= 1e-6 or lb <= 1e-3:
        return 0.0
    return math.fsum(x * y for x, y in zip(a, b, strict=True)) / (la * lb)


def nearest(
    query: Sequence[float],
    rows: dict[str, Sequence[float]],
    k: int,
    centre: Sequence[float],
    allowed: set[str] | None = None,
) -> list[tuple[str, float]]:
    """The k best (id, score), best first, ties by id."""
    scored = [
        (-centred_cosine(query, row, centre), name)
        for name, row in rows.items()
        if allowed is None or name in allowed
    ]
    # Twelve digits: the same vector scored twice must tie.
    scored = sorted((round(score, 12), name) for score, name in scored)
    return [(name, -score) for score, name in scored[:k]]
