"""Amounts as text: none is shown as 0.00 that is not 0."""

import pytest

from medfinder.plan.words import amount, memory_words, money_words, size_words, time_words


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"), (1e-9, "<0.000001"), (0.00048, "0.00048"), (0.0999, "0.10"), (0.5, "0.50"),
        (0.999, "1.00"), (5.17, "5.17"), (9.999, "10.0"), (99.96, "100"), (7868.4, "7,868"),
    ],
)  # fmt: skip
def test_an_amount_has_two_digits_at_least(value: float, shown: str) -> None:
    assert amount(value) == shown


def test_units_fit_the_amount() -> None:
    days = [time_words(s) for s in (0, 0.864, 89, 91, 7200, 86_400, 446_688)]
    assert days == [
        "0 seconds", "0.86 seconds", "89.0 seconds", "1.52 minutes", "2.00 hours", "24.0 hours",
        "5.17 days",
    ]  # fmt: skip
    sizes = [size_words(n) for n in (12, 37_296, 37_296_504, 186_482_521_306, 2e15)]
    assert sizes == ["12.0 bytes", "37.3 kB", "37.3 MB", "186 GB", "2,000 TB"]
    assert [memory_words(n) for n in (5 * 2**10, 936 * 2**20, 3 * 2**30)] == [
        "5.00 KiB", "936 MiB", "3.00 GiB",
    ]  # fmt: skip


def test_money_that_is_little_is_not_nothing() -> None:
    shown = [money_words(m) for m in (0, 0.001, 0.01, 12.4, 1141.6)]
    assert shown == ["0", "under 0.01", "0.01", "12.40", "1,142"]
