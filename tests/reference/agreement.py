"""The slow truth for kappa: the whole table of counts, in fractions, as scikit-learn fills it."""

from collections.abc import Hashable, Sequence
from fractions import Fraction


def kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float | None:
    """One minus observed over expected disagreement; None where none is expected."""
    ratings = list(dict.fromkeys([*first, *second]))
    n = len(first)
    counts = [
        [sum(x == a and y == b for x, y in zip(first, second, strict=True)) for b in ratings]
        for a in ratings
    ]
    rows = [sum(row) for row in counts]
    columns = [sum(column) for column in zip(*counts, strict=True)]
    observed = expected = Fraction(0)
    for i in range(len(ratings)):
        for j in range(len(ratings)):
            if i != j:
                observed += counts[i][j]
                expected += Fraction(rows[i] * columns[j], n)
    return None if expected == 0 else float(1 - observed / expected)
