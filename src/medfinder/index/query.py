"""What every index asks of a query before it searches, and how what it found is ordered."""

from collections.abc import Sequence

from medfinder.errors import InputError

Ranking = list[tuple[str, float]]
"""study_ids and scores, the best first; equal scores in the order of study_ids."""

MAX_TIES = 4096
"""A ranking is never cut among equals, up to so many beyond the k asked for."""


def best(names: Sequence[str], scores: Sequence[float], k: int) -> Ranking:
    """Return the k best of what was found."""
    return sorted(zip(names, scores, strict=True), key=lambda hit: (-hit[1], hit[0]))[:k]


def check_k(k: int) -> None:
    """Raise InputError unless at least one result is asked for."""
    if k < 1:
        raise InputError(
            f"k is {k}; expected at least 1. Ask for one result or more.", rule="bad-k"
        )


def check_words(query: str) -> str:
    """Return a query of words as it is searched.

    Raises:
        InputError: It is empty.
    """
    text = query.replace("\0", " ").strip()
    if not text:
        raise InputError("The text query is empty. Give at least one word.", rule="empty-query")
    return text


def check_names(present: Sequence[str], absent: Sequence[str]) -> None:
    """Raise InputError unless a finding is asked for."""
    if not present and not absent:
        raise InputError(
            "A search by findings needs at least one name, present or absent.", rule="empty-query"
        )
