"""Structured filters → one SQL condition, safely.

Values become SQL literals here and nowhere else. A free condition is checked to be one closed
expression, so that nothing that is added to it with AND can be escaped.
"""

from medfinder.errors import InputError
from medfinder.report.vocabulary import vocabulary
from medfinder.serve.schemas import Filters

SCALARS = ("sex", "body_part", "manufacturer", "source", "split", "language")


def to_where(filters: Filters, where: str | None = None) -> str | None:
    """Return the condition that all given filters and `where` hold; None when nothing is asked.

    A finding includes its kinds, as in a search by keyword: "nodule" keeps "multiple nodules".

    Args:
        filters: Findings are resolved by the vocabulary, so synonyms do.
        where: A free SQL condition.

    Raises:
        UnknownName: A finding is not in the vocabulary.
        InputError: `where` is not one closed expression (rule ``bad-where``), or a range is
            empty (rule ``empty-range``).
    """
    conditions = []
    for column in SCALARS:
        values = getattr(filters, column)
        if values:
            conditions.append(f"{column} IN ({', '.join(map(quote, values))})")
    conditions += _between("age", filters.age_min, filters.age_max)
    conditions += _between("study_date", filters.date_from, filters.date_to)
    for word in filters.findings:
        name = vocabulary().resolve(word)
        kinds = sorted({name, *vocabulary().descendants(name)})
        conditions.append(f"array_has_any(findings_present, [{', '.join(map(quote, kinds))}])")
    for word in filters.findings_absent:
        name = quote(vocabulary().resolve(word))
        conditions.append(f"array_has_any(findings_absent, [{name}])")
    if where is not None and where.strip():
        check_closed(where)
        conditions.append(f"({where.strip()})")
    return " AND ".join(conditions) or None


def quote(value: str) -> str:
    """Return an SQL string literal."""
    return "'" + value.replace("\0", "").replace("'", "''") + "'"


def check_closed(where: str) -> None:
    """Refuse a condition that could reach out of the parentheses it is put in.

    Raises:
        InputError: An open quote or parenthesis, a comment or a second statement.
    """
    depth = 0
    quoted = ""
    for i, letter in enumerate(where):
        if quoted:
            if letter == quoted:  # a doubled quote closes and opens again, which is the same
                quoted = ""
            continue
        if letter in "'\"`":
            quoted = letter
        elif letter == "(":
            depth += 1
        elif letter == ")":
            depth -= 1
        if depth < 0 or letter == ";" or where.startswith(("--", "/*", "#"), i):
            break
    else:
        if depth == 0 and not quoted:
            return
    raise InputError(
        "The filter is not one SQL condition: expected closed quotes and parentheses, no comment "
        "and no ';'. Write it like sex = 'F' AND age >= 50.",
        rule="bad-where",
    )


def _between(column: str, low: int | str | None, high: int | str | None) -> list[str]:
    if low is not None and high is not None and str(low).zfill(10) > str(high).zfill(10):
        raise InputError(
            f"The range of {column} is empty: it begins after it ends. Swap the two ends.",
            rule="empty-range",
        )
    literals = [quote(v) if isinstance(v, str) else str(v) for v in (low, high) if v is not None]
    signs = [s for s, v in ((">=", low), ("<=", high)) if v is not None]
    return [f"{column} {s} {v}" for s, v in zip(signs, literals, strict=True)]
