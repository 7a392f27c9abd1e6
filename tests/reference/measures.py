"""The slow truth for measures: the textbook value of every order of tied items, averaged."""

import itertools
import math
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


def graded_orders(scores: Sequence[float], grades: Sequence[int]) -> Iterator[Sequence[int]]:
    """Every ranking of the items that the scores allow, as grades, best first."""
    groups = [
        [grade for score, grade in zip(scores, grades, strict=True) if score == level]
        for level in sorted(set(scores), reverse=True)
    ]
    for choice in itertools.product(*(itertools.permutations(group) for group in groups)):
        yield list(itertools.chain(*choice))


def ndcg(order: Sequence[int], k: int | None, exponential: bool) -> float:
    def gained(grades: Sequence[int]) -> float:
        return sum(
            (2**grade - 1 if exponential else grade) / math.log2(place + 1)
            for place, grade in enumerate(grades[:k], 1)
        )

    return gained(order) / gained(sorted(order, reverse=True))


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


def reciprocal_rank_at(k: int) -> Callable[[Order], Fraction]:
    return lambda order: reciprocal_rank(order) if any(order[:k]) else Fraction(0)


def average_precision_at(k: int) -> Callable[[Order], Fraction]:
    def value(order: Order) -> Fraction:
        at = [i for i, hit in enumerate(order[:k]) if hit]
        return sum((Fraction(sum(order[: i + 1]), i + 1) for i in at), Fraction(0)) / sum(order)

    return value


def auroc(order: Order) -> Fraction:
    pairs = [(i, j) for i, a in enumerate(order) for j, b in enumerate(order) if a and not b]
    return mean(Fraction(i < j) for i, j in pairs)


def inner_product(a: Sequence[float], b: Sequence[float]) -> Fraction:
    """Without rounding."""
    return sum((Fraction(x) * Fraction(y) for x, y in zip(a, b, strict=True)), Fraction(0))
