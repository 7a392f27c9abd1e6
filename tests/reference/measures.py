"""The slow truth for measures: the textbook value of every order of tied items, averaged."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from statistics import mean

Order = Sequence[bool]  # relevance, best first


def orders(scores: Sequence[float], relevant: set[int]) -> Iterator[Order]:
    """Every ranking of the items that the scores allow."""
    groups = [
        [i in relevant for i, score in enumerate(scores) if score == level]
        for level in sorted(set(scores), reverse=True)
    ]
    for choice in itertools.product(*(itertools.permutations(group) for group in groups)):
        yield list(itertools.chain(*choice))


def expected(
    measure: Callable[[Order], Fraction], scores: Sequence[float], relevant: set[int]
) -> float:
    return float(mean(measure(order) for order in orders(scores, relevant)))


def success(k: int) -> Callable[[Order], Fraction]:
    return lambda order: Fraction(any(order[:k]))


def recall(k: int) -> Callable[[Order], Fraction]:
    return lambda order: Fraction(sum(order[:k]), sum(order))


def precision(k: int) -> Callable[[Order], Fraction]:
    return lambda order: Fraction(sum(order[:k]), k)


def first_rank(order: Order) -> Fraction:
    return Fraction(list(order).index(True) + 1)


def reciprocal_rank(order: Order) -> Fraction:
    return 1 / first_rank(order)


def average_precision(order: Order) -> Fraction:
    at = [i for i, hit in enumerate(order) if hit]
    return mean(Fraction(sum(order[: i + 1]), i + 1) for i in at)


def auroc(order: Order) -> Fraction:
    pairs = [(i, j) for i, a in enumerate(order) for j, b in enumerate(order) if a and not b]
    return mean(Fraction(i < j) for i, j in pairs)


def inner_product(a: Sequence[float], b: Sequence[float]) -> Fraction:
    """Without rounding."""
    return sum((Fraction(x) * Fraction(y) for x, y in zip(a, b, strict=True)), Fraction(0))
