"""Filters: a user's SQL expression over the facets, checked before it reaches the table."""

import re

from medfinder.errors import InputError
from medfinder.studies import FACETS

_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`")
_EXCLUSION = re.compile(r"(patient_id|study_id)\s*(?:!=|<>)\s*('(?:[^']|'')*')")
# Text and numbers are passed over; a column is a bare or a quoted word, a function a bare word.
_TOKEN = re.compile(
    r"'(?:[^']|'')*'|(?P<quoted>\"(?:[^\"]|\"\")*\"|`[^`]*`)"
    r"|\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|(?P<word>[^\W\d]\w*)(?P<called>\s*\()?"
)
# fmt: off
_KEYWORDS = frozenset((
    "and", "or", "not", "in", "is", "null", "like", "ilike", "between", "true", "false", "case",
    "when", "then", "else", "end", "escape", "distinct", "from", "unknown", "array", "date",
    "cast", "try_cast", "as", "int", "integer", "bigint", "float", "double", "text", "string",
    "varchar",
))
# fmt: on
FUNCTIONS = (
    "array_contains",
    "array_has",
    "array_has_all",
    "array_has_any",
    "array_length",
    "abs",
    "coalesce",
    "contains",
    "ends_with",
    "length",
    "lower",
    "regexp_like",
    "round",
    "starts_with",
    "upper",
)
"""Functions a filter may use: those whose cost a short filter cannot blow up."""
_EXAMPLE = "sex = 'F' AND age >= 50 AND array_has(findings_present, 'nodule')"


def literal(value: str | int | float) -> str:
    """Return `value` as an SQL literal, quotes doubled, for building a filter from data."""
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return repr(value)


def check_where(where: str) -> str:
    """Return the filter, stripped, if it is one plain expression.

    Raises:
        InputError: It is empty, or holds a second statement, a comment, a subquery, an open quote,
            an open bracket, a placeholder, a column outside `FACETS` (where volumes lie is no
            facet) or a function outside `FUNCTIONS`. What remains is checked by the table itself
            (`explain`).
    """
    text = where.strip()
    if not text:
        raise refused("it is empty")
    bare = _QUOTED.sub("''", text)
    if re.search(r"['\"`]", bare.replace("''", "")):
        raise refused("a quote is not closed")
    if ";" in bare:
        raise refused("it holds ';', and only one expression is allowed")
    if "--" in bare or "/*" in bare:
        raise refused("it holds an SQL comment")
    if re.search(r"\bselect\b", bare, re.IGNORECASE):
        raise refused("it holds a SELECT, and subqueries are not supported")
    depth = 0
    for character in bare:
        depth += (character == "(") - (character == ")")
        if depth < 0:
            break
    if depth:
        raise refused("its brackets do not match")
    unplaced = re.search(r"[?$@\\]", bare)
    if unplaced:
        raise refused(f"it holds {unplaced[0]!r}, which stands for nothing here")
    _check_words(text)
    return text


def _check_words(where: str) -> None:
    for token in _TOKEN.finditer(where):
        word, quoted = token["word"], token["quoted"]
        if quoted is not None:
            if quoted[1:-1].lower() not in FACETS:
                raise refused(f"there is no column {quoted[1:-1]!r}")
        elif word is None or word.lower() in _KEYWORDS:
            continue
        elif token["called"]:
            if word.lower() not in FUNCTIONS:
                raise refused(f"there is no function {word.lower()!r}")
        elif word.lower() not in FACETS:
            raise refused(f"there is no column {word!r}")


def conjuncts(where: str) -> list[str]:
    """Return the conditions that a checked filter joins with AND, or the filter as it is.

    A filter is left whole where AND may mean something else: beside an OR, BETWEEN or CASE outside
    brackets.
    """
    # Quoted text and what lies in brackets is blanked, character by character.
    bare = list(_QUOTED.sub(lambda found: "_" * len(found[0]), where))
    depth = 0
    for i, character in enumerate(bare):
        depth -= character == ")"
        if depth or character in "()":
            bare[i] = "_"
        depth += character == "("
    flat = "".join(bare)
    if re.search(r"\b(or|between|case)\b", flat, re.IGNORECASE):
        return [where]
    starts, ends = [0], []
    for found in re.finditer(r"\band\b", flat, re.IGNORECASE):
        ends.append(found.start())
        starts.append(found.end())
    return [where[s:e].strip() for s, e in zip(starts, [*ends, len(where)], strict=True)]


def excluded(condition: str) -> str | None:
    """Return the opposite of "this column, which is never null, is not that text"; else None."""
    found = _EXCLUSION.fullmatch(condition)
    return None if found is None else f"{found[1]} = {found[2]}"


def explain(error: Exception) -> InputError:
    """Return the friendly form of what the table said of a filter."""
    text = str(error)
    no_field = re.search(r"No field named \"?([^\s\".]+)", text)
    syntax = re.search(r"sql parser error: (.*?)\)?$", text, re.MULTILINE)
    function = re.search(r"Invalid function '([^']+)'", text)
    literal_type = re.search(r"could not convert to literal of type '(\w+)", text)
    if no_field:
        return refused(f"there is no column {no_field[1]!r}")
    if syntax:
        return refused(syntax[1].rstrip("."))
    if function:
        return refused(f"there is no function {function[1]!r}")
    if literal_type and literal_type[1] == "List":
        return refused("a column of lists is compared with '='; use array_has(column, 'name')")
    if literal_type:
        return refused(f"a value has the wrong type; the column holds {literal_type[1]}")
    if "does not return a boolean" in text:
        return refused("it is not a condition that is true or false")
    return refused("the table cannot evaluate it")


def refused(problem: str) -> InputError:
    """Return the error that says what is wrong with a filter, and what one looks like."""
    return InputError(
        f"The filter cannot be used: {problem}. Write an SQL condition over "
        f"{', '.join(FACETS)}, such as: {_EXAMPLE}",
        rule="bad-filter",
    )
