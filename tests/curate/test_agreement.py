"""Cohen's kappa: equal to the table of counts done slowly, and to a published example."""

import random

import pytest

from medfinder.curate.agreement import agreement, cohen_kappa
from reference import agreement as reference


@pytest.mark.parametrize("seed", range(40))
def test_kappa_is_that_of_the_table_of_counts(seed: int) -> None:
    draw = random.Random(seed)
    n, n_ratings = draw.randint(1, 30), draw.randint(1, 4)
    first = [draw.randrange(n_ratings) for _ in range(n)]
    second = [a if draw.random() < 0.5 else draw.randrange(n_ratings) for a in first]
    expected = reference.kappa(first, second)
    assert cohen_kappa(first, second) == (None if expected is None else pytest.approx(expected))


def test_kappa_is_that_of_a_table_done_by_hand() -> None:
    # 20 both yes, 15 both no, 5 yes/no, 10 no/yes: p_o = 0.7, p_e = 0.5
    first = [True] * 25 + [False] * 25
    second = [True] * 20 + [False] * 5 + [True] * 10 + [False] * 15
    assert cohen_kappa(first, second) == pytest.approx(0.4)


def test_full_agreement_on_several_ratings_is_one() -> None:
    assert cohen_kappa("aab", "aab") == 1.0


def test_opposite_ratings_are_minus_one() -> None:
    assert cohen_kappa("ab", "ba") == -1.0


@pytest.mark.parametrize("ratings", ["", "aaaa"])
def test_kappa_is_undefined_where_chance_explains_all(ratings: str) -> None:
    assert cohen_kappa(ratings, ratings) is None


def test_ratings_of_unequal_number_are_our_own_fault() -> None:
    with pytest.raises(ValueError, match=r"zip\(\) argument 2 is shorter"):
        cohen_kappa("ab", "a")


def test_the_order_in_which_two_readers_decided_does_not_matter() -> None:
    pairs = [(("ana", 1), ("luis", 2)), (("ana", 1), ("luis", 1)), (("ana", 2), ("luis", 2))]
    turned = [(b, a) if i % 2 else (a, b) for i, (a, b) in enumerate(pairs)]
    assert agreement(pairs) == agreement(turned)
    assert agreement(pairs).kappa == pytest.approx(cohen_kappa([1, 1, 2], [2, 1, 2]))


def test_of_several_pairs_of_readers_the_mean_by_shared_items_is_taken() -> None:
    ana_luis = [(("ana", x), ("luis", y)) for x, y in ((1, 1), (2, 2), (1, 2), (2, 1))]  # 0
    ana_eva = [(("eva", x), ("ana", x)) for x in (1, 2)]  # 1
    alone = [(("eva", 1), ("luis", 1))]  # undefined
    found = agreement([*ana_luis, *ana_eva, *alone])
    assert found.kappa == pytest.approx((4 * 0 + 2 * 1) / 6)
    assert (found.n_items, found.observed) == (7, pytest.approx(5 / 7))


def test_without_items_there_is_no_agreement_to_tell() -> None:
    assert (agreement([]).n_items, agreement([]).observed, agreement([]).kappa) == (0, None, None)
