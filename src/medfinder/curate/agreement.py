"""How far two readers agree beyond chance: Cohen's kappa, over any labels they gave.

Knows nothing of studies: a rating is whatever can be compared.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Agreement:
    """Agreement over items that two readers rated.

    Attributes:
        n_items: Items rated twice.
        observed: Share of items with equal ratings, 0 to 1; None without items.
        kappa: Cohen's kappa, -1 to 1; None where chance alone explains all, as when every rating
            is the same.
    """

    n_items: int
    observed: float | None
    kappa: float | None


def cohen_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float | None:
    """Return Cohen's kappa of two readers' ratings of the same items, in the same order.

    ``kappa = (p_o - p_e) / (1 - p_e)``, where ``p_o`` is the share of items with equal ratings and
    ``p_e = sum over ratings r of p_first(r) * p_second(r)`` the share expected of two readers who
    rate as often so, but by chance. 1 is full agreement, 0 chance, below 0 less than chance.

    Returns:
        The kappa; None where it is undefined: no items, or ``p_e = 1``.

    Source:
        Cohen J. A coefficient of agreement for nominal scales. Educational and Psychological
        Measurement 1960; 20(1): 37-46, equation 1.
    """
    n = len(first)
    n_equal = sum(a == b for a, b in zip(first, second, strict=True))
    theirs = Counter(second)
    # In whole numbers, so that p_e = 1 is told exactly.
    n_chance = sum(count * theirs[rating] for rating, count in Counter(first).items())
    if n_chance == n * n:
        return None
    return (n * n_equal - n_chance) / (n * n - n_chance)


def agreement(pairs: Iterable[tuple[tuple[str, Hashable], tuple[str, Hashable]]]) -> Agreement:
    """Return the agreement over items, each rated by two of any number of readers.

    Kappa supposes the same two readers throughout. With more, it is taken for each pair of
    readers and averaged, weighted by the items they share; pairs without a defined kappa are left
    out of it.

    Args:
        pairs: For each item ((reader, rating), (reader, rating)), in any order.

    Source:
        The mean over pairs of readers: Light RJ. Measures of response agreement for qualitative
        data. Psychological Bulletin 1971; 76(5): 365-377.
    """
    by_readers: dict[tuple[str, str], list[tuple[Hashable, Hashable]]] = {}
    for one, other in pairs:
        (a, x), (b, y) = sorted((one, other), key=lambda rated: rated[0])
        by_readers.setdefault((a, b), []).append((x, y))
    n_items = sum(len(rated) for rated in by_readers.values())
    n_equal = sum(x == y for rated in by_readers.values() for x, y in rated)
    kappas = [
        (kappa, len(rated))
        for rated in by_readers.values()
        if (kappa := cohen_kappa([x for x, _ in rated], [y for _, y in rated])) is not None
    ]
    weight = sum(n for _, n in kappas)
    return Agreement(
        n_items,
        n_equal / n_items if n_items else None,
        sum(kappa * n for kappa, n in kappas) / weight if weight else None,
    )
