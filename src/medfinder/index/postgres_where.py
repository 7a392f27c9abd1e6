"""A filter, as the folder's engine takes it → the same condition in PostgreSQL's words.

What `check_where` passed is read token by token and written anew from what is known here: columns,
keywords, functions, operators, numbers, and text between quotes. Nothing else reaches the server.
"""

import re
from collections.abc import Callable, Sequence

from medfinder.errors import InputError
from medfinder.index.where import check_where, refused
from medfinder.studies import FACETS

_TOKEN = re.compile(
    r"\s+|(?P<text>'(?:[^']|'')*')|(?P<column>\"(?:[^\"]|\"\")*\"|`[^`]*`)"
    r"|(?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)|(?P<word>[^\W\d]\w*)"
    r"|(?P<mark>::|==|!=|<>|<=|>=|\|\||[=<>+\-*/%,()\[\]])|(?P<other>.)",
    re.DOTALL,
)
_TYPES = {
    "string": "text", "varchar": "text", "text": "text", "int": "integer", "integer": "integer",
    "bigint": "bigint", "float": "double precision", "double": "double precision", "date": "date",
}  # fmt: skip
_BEFORE_VALUE = frozenset(
    ("and", "or", "not", "in", "is", "like", "ilike", "between", "when", "then", "else", "case")
)
_KEYWORDS = _BEFORE_VALUE | frozenset(
    ("null", "true", "false", "end", "escape", "distinct", "from", "unknown")
)

Call = Callable[[Sequence[str]], str]


def _function(n_arguments: int, form: str) -> tuple[int, Call]:
    return n_arguments, lambda given: form.format(*given)


_CALLS: dict[str, tuple[int, Call]] = {
    "abs": _function(1, "abs({0})"),
    "array_contains": _function(2, "({1} = ANY({0}))"),
    "array_has": _function(2, "({1} = ANY({0}))"),
    "array_has_all": _function(2, "({0} @> {1})"),
    "array_has_any": _function(2, "({0} && {1})"),
    "array_length": _function(1, "cardinality({0})"),
    "contains": _function(2, "(strpos({0}, {1}) > 0)"),
    "ends_with": _function(2, "(right({0}, length({1})) = {1})"),
    "length": _function(1, "length({0})"),
    "lower": _function(1, 'lower({0} COLLATE "default")'),
    "regexp_like": _function(2, "({0} ~ {1})"),
    "round": _function(1, "round({0})"),
    "starts_with": _function(2, "(left({0}, length({1})) = {1})"),
    "upper": _function(1, 'upper({0} COLLATE "default")'),
}


def condition(where: str) -> str:
    """Return the filter as a condition for PostgreSQL, in brackets, its text quoted.

    ``%`` is doubled, as the driver's placeholders begin with it. The session must have
    ``standard_conforming_strings`` on, so that a quote is ended by a quote alone.

    Raises:
        InputError: The filter cannot be used (rule ``bad-filter``).
    """
    try:
        written = _Writer(check_where(where)).whole()
    except RecursionError:
        raise refused("its brackets are nested too deeply") from None
    return f"({written})".replace("%", "%%")


class _Writer:
    """Reads the tokens of a filter and writes them for PostgreSQL."""

    def __init__(self, where: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        for found in _TOKEN.finditer(where):
            if found.lastgroup is None:
                continue
            if found.lastgroup == "other":
                raise refused(f"it holds {found[0]!r}, which stands for nothing here")
            self._tokens.append((found.lastgroup, found[0]))
        self._at = 0

    def whole(self) -> str:
        written = self._until("")
        if self._at < len(self._tokens):
            raise refused(f"it holds {self._tokens[self._at][1]!r} without its counterpart")
        return written

    def _until(self, *ends: str) -> str:
        """Write tokens up to one of the marks, outside of brackets, which stays unread."""
        written: list[str] = []
        while self._at < len(self._tokens):
            kind, text = self._tokens[self._at]
            if kind == "mark" and (text in ends or text in ")]"):
                break
            written.append(self._one(kind, text, is_after_value=self._ends_a_value()))
        return " ".join(written)

    def _ends_a_value(self) -> bool:
        """Whether the token before is something that a ``[`` would take an element of."""
        if not self._at:
            return False
        kind, text = self._tokens[self._at - 1]
        if kind == "word":
            return text.lower() in FACETS
        return kind == "column" or text in (")", "]")

    def _one(self, kind: str, text: str, is_after_value: bool) -> str:
        self._at += 1
        if kind == "text":
            return _text(text)
        if kind == "number":
            return text
        if kind == "column":
            return _column(text[1:-1])
        if kind == "word":
            return self._word(text.lower())
        if text == "(":
            inside = self._listed(")")
            return f"({', '.join(inside)})"
        if text == "[":
            inside = self._listed("]")
            if is_after_value:
                return f"[{', '.join(inside)}]"
            return f"ARRAY[{', '.join(inside)}]::text[]"
        if text == "::":
            return f"::{self._type()}"
        return "=" if text == "==" else text

    def _word(self, word: str) -> str:
        following = self._tokens[self._at] if self._at < len(self._tokens) else ("", "")
        is_called = following == ("mark", "(") and word not in _BEFORE_VALUE
        if word == "array" and following == ("mark", "["):
            return self._one(*self._next(), is_after_value=False)
        if word == "try_cast":
            raise refused("an index in a database has no TRY_CAST; use CAST")
        if word == "cast" and is_called:
            return self._cast()
        if word == "date" and following[0] == "text":  # days are text here, in the order of days
            self._at += 1
            return _text(following[1])
        if word == "coalesce" and is_called:
            self._at += 1
            return f"coalesce({', '.join(self._listed(')'))})"
        if is_called and word in _CALLS:
            self._at += 1
            return self._call(word)
        if word in FACETS:
            return _column(word)
        if word in _KEYWORDS:
            return word.upper()
        raise refused(f"{word!r} cannot stand where it does")

    def _next(self) -> tuple[str, str]:
        return self._tokens[self._at]

    def _call(self, name: str) -> str:
        n_arguments, call = _CALLS[name]
        given = self._listed(")")
        if len(given) != n_arguments:
            raise refused(f"{name} takes {n_arguments} values, not {len(given)}")
        return call(given)

    def _cast(self) -> str:
        self._at += 1
        depth, start = 1, self._at
        while depth and self._at < len(self._tokens):
            depth += {"(": 1, ")": -1}.get(self._tokens[self._at][1], 0)
            self._at += 1
        end = self._at - 1
        within = self._tokens[start:end]
        if len(within) < 3 or within[-2][1].lower() != "as":
            raise refused("CAST is written CAST(column AS type)")
        said = _Writer.__new__(_Writer)
        said._tokens, said._at = within[:-2], 0
        return f"CAST({said.whole()} AS {_type(within[-1][1])})"

    def _type(self) -> str:
        kind, text = self._next() if self._at < len(self._tokens) else ("", "")
        self._at += 1
        if kind != "word":
            raise refused("'::' is followed by a type")
        return _type(text)

    def _listed(self, end: str) -> list[str]:
        """Write what is between brackets, cut at its commas, and pass the closing one."""
        found: list[str] = []
        while True:
            found.append(self._until(","))
            closing = self._tokens[self._at][1] if self._at < len(self._tokens) else ""
            self._at += 1
            if closing == end:
                return [] if found == [""] else found
            if closing != ",":
                raise refused("its brackets do not match")


def _text(quoted: str) -> str:
    """Return a literal that the server can hold: no zero, no half of a character."""
    return quoted.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def _column(name: str) -> str:
    return f'"{name.lower()}"'  # it is one of FACETS: `check_where` has seen it


def _type(name: str) -> str:
    if name.lower() not in _TYPES:
        raise refused(f"there is no type {name!r}")
    return _TYPES[name.lower()]


def is_about_filter(sqlstate: str | None) -> bool:
    """Tell whether the server's error is about what was asked, not about its state or its tables."""
    return (
        sqlstate is not None
        and sqlstate.startswith(("0A", "22", "42", "54", "57014"))
        and sqlstate not in ("42P01", "42501", "42704")
    )


def explain_server(sqlstate: str | None, message: str) -> InputError:
    """Return the friendly form of what the server said of a filter.

    Args:
        sqlstate: The error's code.
        message: The server's own words, of which only what is known by form is handed on.
    """
    if sqlstate == "22P02" and "array" in message:
        return refused("a column of lists is compared with '='; use array_has(column, 'name')")
    if sqlstate == "22P02":
        told = re.search(r"for type (integer|double precision|bigint|boolean)", message)
        kind = {"integer": "Int32", "bigint": "Int64", "double precision": "Float64"}.get(
            told[1] if told else "", "another type"
        )
        return refused(f"a value has the wrong type; the column holds {kind}")
    if sqlstate == "42804" and "boolean" in message:
        return refused("it is not a condition that is true or false")
    if sqlstate == "42601":
        told = re.search(r'at or near "([^"]*)"', message)
        # Behind the filter comes the bracket that it was put in.
        at = "its end" if told is None or told[1] == ")" else repr(told[1])
        return refused(f"Expected something else at {at}")
    if sqlstate in ("42883", "42725", "42804"):
        return refused("values of different types are compared or joined")
    if sqlstate == "57014":
        return refused("it takes too long")
    return refused("the table cannot evaluate it")
