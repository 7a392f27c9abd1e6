"""Amounts as text, in a unit that leaves no figure at 0.00."""

from collections.abc import Sequence

TIMES = ((86_400.0, "days"), (3_600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))
SIZES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "bytes"))
MEMORY = ((2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"))


def amount(value: float) -> str:
    """Return a number: whole from 100, with one decimal from 10, else with two digits or more."""
    if value == 0:
        return "0"
    if value >= 99.95:
        return f"{value:,.0f}"
    if value >= 0.995:
        return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
    for decimals in range(2, 8):
        if round(value, decimals) >= 10 ** (1 - decimals):
            return f"{value:.{decimals}f}"
    return "<0.000001"


def time_words(seconds: float) -> str:
    """Return a time in days, hours, minutes or seconds."""
    return _in(seconds, TIMES, at_least=1.5)


def size_words(n_bytes: float) -> str:
    """Return a size on a disk, in thousands of bytes."""
    return _in(n_bytes, SIZES)


def memory_words(n_bytes: float) -> str:
    """Return a size in memory, in 1024s of bytes."""
    return _in(n_bytes, MEMORY)


def money_words(value: float) -> str:
    """Return an amount of money."""
    if value == 0 or value >= 99.995:
        return f"{value:,.0f}"
    return f"{value:.2f}" if value >= 0.005 else "under 0.01"


def _in(value: float, units: Sequence[tuple[float, str]], at_least: float = 1.0) -> str:
    for size, unit in units[:-1]:
        if value >= at_least * size:
            return f"{amount(value / size)} {unit}"
    size, unit = units[-1]
    return f"{amount(value / size)} {unit}"
