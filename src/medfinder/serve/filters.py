"""Structured filters → one SQL condition, safely.

A free condition is checked to be one closed expression, so that it cannot reach out of what it is
added to with AND.
"""

from collections.abc import Iterable

from medfinder.errors import InputError
from medfinder.index.where import check_where, literal
from medfinder.report.vocabulary import vocabulary
from medfinder.serve.schemas import Filters
from medfinder.studies import ANY_FINDING

SCALARS = ("sex", "body_part", "manufacturer", "source", "split", "language")


def to_where(filters: Filters, where: str | None = None) -> str | None:
    """Return the condition that all given filters and `where` hold; None when nothing is asked.

    A finding includes its kinds, as in a search by keyword: "nodule" keeps "multiple nodules".

    Args:
        filters: Findings are resolved by the vocabulary, so synonyms do.
        where: A free SQL condition.

    Raises:
        UnknownName: A finding is not in the vocabulary.
        InputError: `where` is not one closed expression (rule ``bad-filter``), or a range is
            empty (rule ``empty-range``).
    """
    conditions = []
    for column in SCALARS:
        values = getattr(filters, column)
        if values:
            conditions.append(f"{column} IN ({', '.join(map(literal, values))})")
    conditions += _between("age", filters.age_min, filters.age_max)
    conditions += _between("study_date", filters.date_from, filters.date_to)
    if filters.slice_mm_min is not None:
        conditions.append(f"spacing_mm_d > {filters.slice_mm_min:g}")
    if filters.slice_mm_max is not None:
        conditions.append(f"spacing_mm_d <= {filters.slice_mm_max:g}")
    for places in (filters.laterality, filters.location):
        if places:
            names = _with_kinds(filters.findings) if filters.findings else [ANY_FINDING]
            placed = [literal(f"{name}, {place}") for name in names for place in places]
            conditions.append(f"array_has_any(findings_placed, [{', '.join(placed)}])")
    for word in filters.findings:
        kinds = ", ".join(map(literal, _with_kinds([word])))
        conditions.append(f"array_has_any(findings_present, [{kinds}])")
    for word in filters.findings_absent:
        name = literal(vocabulary().resolve(word))
        conditions.append(f"array_has_any(findings_absent, [{name}])")
    if where is not None and where.strip():
        conditions.append(f"({check_where(where)})")
    return " AND ".join(conditions) or None


def _with_kinds(words: Iterable[str]) -> list[str]:
    names = {vocabulary().resolve(word) for word in words}
    return sorted(names.union(*(vocabulary().descendants(name) for name in names)))


def _between(column: str, low: int | str | None, high: int | str | None) -> list[str]:
    if low is not None and high is not None and str(low).zfill(10) > str(high).zfill(10):
        raise InputError(
            f"The range of {column} is empty: it begins after it ends. Swap the two ends.",
            rule="empty-range",
        )
    literals = [literal(v) if isinstance(v, str) else str(v) for v in (low, high) if v is not None]
    signs = [s for s, v in ((">=", low), ("<=", high)) if v is not None]
    return [f"{column} {s} {v}" for s, v in zip(signs, literals, strict=True)]
