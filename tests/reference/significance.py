"""The slow truth for intervals and tests: one draw at a time, over every draw there is."""

import itertools
import statistics
from collections.abc import Callable, Sequence


def every_bootstrap(
    scores: Sequence[float],
    patients: Sequence[str],
    statistic: Callable[[Sequence[float]], float] = statistics.fmean,
) -> list[float]:
    """The statistic of each of the C**C ways to draw C patients with replacement."""
    names = sorted(set(patients))
    values = []
    for drawn in itertools.product(names, repeat=len(names)):
        taken = [s for name in drawn for s, p in zip(scores, patients, strict=True) if p == name]
        values.append(statistic(taken))
    return values


def permutation_p(a: Sequence[float], b: Sequence[float], patients: Sequence[str]) -> float:
    """Share of the 2**C exchanges of patients whose gap is at least the one seen."""
    names = sorted(set(patients))
    seen = abs(statistics.fmean(a) - statistics.fmean(b))
    extreme = 0
    for flips in itertools.product([False, True], repeat=len(names)):
        flipped = dict(zip(names, flips, strict=True))
        pairs = [(y, x) if flipped[p] else (x, y) for x, y, p in zip(a, b, patients, strict=True)]
        gap = abs(statistics.fmean(x for x, _ in pairs) - statistics.fmean(y for _, y in pairs))
        extreme += gap >= seen - 1e-12
    return extreme / 2 ** len(names)


def holm(p_values: dict[str, float]) -> dict[str, float]:
    """By the definition: the smallest level at which each is rejected."""
    ranked = sorted(p_values.items(), key=lambda item: item[1])
    m = len(ranked)
    return {
        name: min(1.0, max((m - j) * ranked[j][1] for j in range(i + 1)))
        for i, (name, _) in enumerate(ranked)
    }
