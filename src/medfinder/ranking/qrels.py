"""Which items answer a query, and how well: pairs, report keys or a TREC file → `Qrels`.

Knows ids only. `Qrels.among` turns them into row numbers of two lists of ids, in any order.
"""

import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfinder.artifact import atomic_write
from medfinder.errors import InputError
from medfinder.ranking.ranks import Relevance

_MOST = 1 << 31  # grades are 32-bit in trec_eval


class Qrels:
    """Query id → {item id: grade}, grade 0 for an item that was judged and does not answer.

    An item that is not named does not answer either. Queries and items keep the order in which
    they came; equality does not look at it.

    Attributes:
        queries: Ids, each once.
        items: Ids, each once.
        starts: (Q + 1,) where each query's pairs begin in `rows` and `grades`.
        rows: (P,) numbers in `items`.
        grades: (P,) whole numbers of at least 0.
    """

    def __init__(self, judged: Iterable[tuple[str, str, int]]) -> None:
        """Group judged pairs by query.

        Args:
            judged: Query id, item id and grade, in any order.

        Raises:
            InputError: Rules ``empty``, ``grade``, ``id``, ``repeated-pair``.
        """
        self._take(judged, lambda n: f"pair {n + 1}")

    def _take(self, judged: Iterable[tuple[str, str, int]], where: Callable[[int], str]) -> None:
        """Take judged pairs; `where` says in words which the n-th is, from 0."""
        queries: dict[str, int] = {}
        items: dict[str, int] = {}
        parts = array("q"), array("q"), array("q")
        for n, (query_id, item_id, grade) in enumerate(judged):
            check_id(query_id, where, n)
            check_id(item_id, where, n)
            whole = isinstance(grade, (int, np.integer)) and not isinstance(grade, bool)
            if not whole or not 0 <= grade < _MOST:
                raise InputError(_GRADE.format(where(n), grade), rule="grade")
            parts[0].append(queries.setdefault(query_id, len(queries)))
            parts[1].append(items.setdefault(item_id, len(items)))
            parts[2].append(int(grade))
        if not queries:
            raise InputError(
                "The qrels are empty; name at least one pair of a query and an item.", rule="empty"
            )
        query, rows, grades = (np.array(part, np.int64) for part in parts)
        twice = repeated(query * len(items) + rows)
        if twice:
            raise InputError(
                f"The query and the item of {where(twice[1])} are those of {where(twice[0])} too; "
                "judge each pair once.",
                rule="repeated-pair",
            )
        order = np.argsort(query, kind="stable")
        self.queries, self.items = tuple(queries), tuple(items)
        self.starts = np.searchsorted(query[order], np.arange(len(queries) + 1))
        self.rows, self.grades = rows[order], grades[order]
        self._numbers = queries

    # -- ways in -------------------------------------------------------------

    @classmethod
    def from_pairs(cls, pairs: Iterable[tuple[str, str]]) -> "Qrels":
        """Let each item answer its query with grade 1.

        Raises:
            InputError: As `Qrels`.
        """
        return cls((query_id, item_id, 1) for query_id, item_id in pairs)

    @classmethod
    def from_keys(
        cls,
        query_ids: Sequence[str],
        query_keys: Sequence[str],
        item_ids: Sequence[str] | None = None,
        item_keys: Sequence[str] | None = None,
    ) -> "Qrels":
        """Let every item with a query's key answer it: several, where studies share a report.

        Args:
            query_ids: Each once.
            query_keys: Such as the hash of the report each came with.
            item_ids: Each once; None where the gallery is the queries' own studies.
            item_keys: One an item; None with `item_ids`.

        Raises:
            InputError: Rules ``empty``, ``shape``, ``id``, ``repeated-id``; ``no-key`` (a key is
                missing or empty: such items would all answer one another); ``no-positive`` (no
                item has a query's key).
        """
        items = query_ids if item_ids is None else item_ids
        keys = query_keys if item_keys is None else item_keys
        for name, ids, theirs in (("query", query_ids, query_keys), ("item", items, keys)):
            if len(ids) != len(theirs):
                raise InputError(
                    f"{len(ids)} {name} ids and {len(theirs)} keys; give one key an id.",
                    rule="shape",
                )
            check_ids(name, ids)
            bare = [i for i, key in enumerate(theirs) if not key]
            if bare:
                raise InputError(
                    f"The key of {name} {bare[0]} is empty, as are {len(bare)} in all; leave out "
                    "what has no report, and say so.",
                    rule="no-key",
                )
        answers: dict[str, list[str]] = {}
        for item_id, key in zip(items, keys, strict=True):
            answers.setdefault(key, []).append(item_id)
        lost = [i for i, key in enumerate(query_keys) if key not in answers]
        if lost:
            raise InputError(
                f"No item has the key of query {lost[0]}, nor those of {len(lost)} in all: leave "
                "such queries out and say so.",
                rule="no-positive",
            )
        return cls(
            (query_id, item_id, 1)
            for query_id, key in zip(query_ids, query_keys, strict=True)
            for item_id in answers[key]
        )

    @classmethod
    def read(cls, path: str | Path) -> "Qrels":
        """Read a TREC qrels file: query id, a column that is not used, item id, grade a line.

        Blank lines hold nothing and are passed over; nothing else is.

        Raises:
            InputError: The line is named; rules ``unreadable``, ``columns``, ``grade``,
                ``repeated-pair``, ``empty``.
        """
        lines = array("q")

        def where(n: int) -> str:
            return f"line {lines[n]} of the qrels"

        def judged() -> Iterator[tuple[str, str, int]]:
            for number, (query_id, _, item_id, grade) in fields(path, "qrels", 4):
                lines.append(number)
                if not re.fullmatch("[0-9]{1,10}", grade):
                    raise InputError(_GRADE.format(where(-1), grade), rule="grade")
                yield query_id, item_id, int(grade)

        qrels = cls.__new__(cls)
        qrels._take(judged(), where)
        return qrels

    # -- ways out ------------------------------------------------------------

    def write(self, path: str | Path) -> Path:
        """Write a TREC qrels file, whole or not at all, and return its path."""
        path = Path(path)
        with atomic_write(path) as file:
            for query_id in self.queries:
                lines = [f"{query_id} 0 {i} {grade}\n" for i, grade in self[query_id].items()]
                file.write("".join(lines).encode())
        return path

    def among(self, query_ids: Sequence[str], item_ids: Sequence[str] | None = None) -> Relevance:
        """Return which rows of `item_ids` answer each of `query_ids`, as ranking needs it.

        Args:
            query_ids: Of the rows of queries, each once, in any order.
            item_ids: Of the rows of the gallery, each once, in any order; None where it is the
                queries' own.

        Raises:
            InputError: Rules ``empty``, ``id``, ``repeated-id``; ``no-relevance`` (the qrels do not
                name a query); ``no-query`` (they name one that is not there: its score would be
                left out of the mean); ``no-positive`` (nothing answers a query); ``unknown-item``
                (something that does is not in the gallery). `only` leaves out, by name, what is
                not to count.
        """
        items = query_ids if item_ids is None else item_ids
        check_ids("query", query_ids)
        check_ids("item", items)
        found = self.positives(query_ids)
        row_of = {item_id: row for row, item_id in enumerate(items)}
        known = np.array([row_of.get(item_id, -1) for item_id in self.items], np.int64)
        rows = known[found.rows]
        lost = np.flatnonzero(rows < 0)
        if len(lost):
            query = int(np.searchsorted(found.starts, lost[0], "right")) - 1
            raise InputError(
                f"An item that answers query {query} is not in the gallery, as are {len(lost)} "
                "answers in all; add it, or leave it out with `only` and say so.",
                rule="unknown-item",
            )
        return Relevance(found.starts, rows, found.grades)

    def positives(self, query_ids: Sequence[str]) -> Relevance:
        """Return which of `items` answer each of `query_ids`, by their numbers.

        Raises:
            InputError: Rules ``no-relevance``, ``no-query``, ``no-positive``, as for `among`.
        """
        numbers = np.array([self._numbers.get(query_id, -1) for query_id in query_ids], np.int64)
        unknown = np.flatnonzero(numbers < 0)
        if len(unknown):
            raise InputError(
                f"The qrels say nothing of query {unknown[0]}, nor of {len(unknown)} queries in "
                "all; judge them, or leave them out and say so.",
                rule="no-relevance",
            )
        asked = np.zeros(len(self.queries), np.bool_)
        asked[numbers] = True
        missing = np.flatnonzero(~asked)
        if len(missing):
            raise InputError(
                f"Query {missing[0]} of the qrels is not asked, nor are {len(missing)} in all; "
                "answer them, or leave them out with `only` and say so.",
                rule="no-query",
            )
        begin, count = self.starts[numbers], np.diff(self.starts)[numbers]
        ends = np.concatenate([[0], np.cumsum(count)])
        pairs = np.arange(ends[-1]) + np.repeat(begin - ends[:-1], count)
        positive = self.grades[pairs] > 0
        starts = np.concatenate([[0], np.cumsum(positive)])[ends]
        bare = np.flatnonzero(np.diff(starts) == 0)
        if len(bare):
            raise InputError(
                f"Nothing answers query {bare[0]}, nor {len(bare)} queries in all; no measure is "
                "defined for them: leave them out with `only` and say so.",
                rule="no-positive",
            )
        pairs = pairs[positive]
        return Relevance(starts, self.rows[pairs], self.grades[pairs].astype(np.float64))

    def only(
        self,
        queries: Iterable[str] | None = None,
        items: Iterable[str] | None = None,
        *,
        answered: bool = False,
    ) -> "Qrels":
        """Return the qrels without some queries or items; what is left out is the caller's to tell.

        Args:
            queries: Ids to keep; None for all.
            items: Ids to keep; None for all.
            answered: Leave out queries of which no item, of those kept, has a grade above 0.

        Raises:
            InputError: Rule ``empty``: nothing is left.
        """
        keep_queries = None if queries is None else set(queries)
        keep_items = None if items is None else set(items)

        def kept() -> Iterator[tuple[str, str, int]]:
            for query_id in self.queries:
                if keep_queries is not None and query_id not in keep_queries:
                    continue
                grades = {
                    item_id: grade
                    for item_id, grade in self[query_id].items()
                    if keep_items is None or item_id in keep_items
                }
                if not answered or any(grades.values()):
                    for item_id, grade in grades.items():
                        yield query_id, item_id, grade

        return Qrels(kept())

    # -- as a mapping --------------------------------------------------------

    def __getitem__(self, query_id: str) -> dict[str, int]:
        """Return {item id: grade} of a query."""
        first, last = self.starts[self._numbers[query_id] :][:2]
        rows, grades = self.rows[first:last].tolist(), self.grades[first:last].tolist()
        return {self.items[row]: grade for row, grade in zip(rows, grades, strict=True)}

    def __contains__(self, query_id: object) -> bool:
        return query_id in self._numbers

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Qrels):
            return NotImplemented
        same = self._numbers.keys() == other._numbers.keys()
        return same and all(self[query_id] == other[query_id] for query_id in self)

    __hash__ = None  # type: ignore[assignment]

    def __iter__(self) -> Iterator[str]:
        return iter(self.queries)

    def __len__(self) -> int:
        return len(self.queries)

    def __repr__(self) -> str:
        n_positive = int(np.count_nonzero(self.grades))
        return (
            f"<Qrels {len(self.queries)} queries, {len(self.items)} items, "
            f"{n_positive} of {len(self.grades)} pairs above 0>"
        )


_GRADE = "The grade in {} is {!r}; a grade is a whole number from 0 to 2**31 - 1."


def repeated(keys: NDArray[np.int64]) -> tuple[int, int] | None:
    """Return where the first key that came before came first, and where it came again; or None."""
    distinct, first, whose = np.unique(keys, return_index=True, return_inverse=True)
    if len(distinct) == len(keys):
        return None
    again = int(np.flatnonzero(first[whose] < np.arange(len(keys)))[0])
    return int(first[whose[again]]), again


def check_ids(name: str, ids: Sequence[str]) -> None:
    """Refuse ids that do not name one row each, or that a TREC file cannot hold.

    Args:
        name: Of what, in the singular, for the message.
        ids: One a row.

    Raises:
        InputError: Rules ``empty``, ``id``, ``repeated-id``.
    """
    if len(ids) == 0:
        raise InputError(
            f"There are no {name} ids; a measure over nothing is undefined.", rule="empty"
        )
    first: dict[str, int] = {}
    for row, one in enumerate(ids):
        check_id(one, f"{name} row {{}}".format, row)
        if first.setdefault(one, row) != row:
            raise InputError(
                f"The id of {name} row {row} is that of row {first[one]} too; every row needs an id "
                "of its own.",
                rule="repeated-id",
            )


def check_id(one: Any, where: Callable[[int], str] | str, n: int = 0) -> None:
    """Refuse an id that a TREC file cannot hold: white space is what separates its columns.

    Args:
        one: The id.
        where: Where it stands, in words, or what makes these of `n`.
        n: Its number.

    Raises:
        InputError: Rule ``id``.
    """
    if not isinstance(one, str) or one.split() != [one]:
        place = where if isinstance(where, str) else where(n)
        raise InputError(
            f"The id in {place} is no text without white space; TREC files have no place for it.",
            rule="id",
        )


def fields(path: str | Path, name: str, n_columns: int) -> Iterator[tuple[int, list[str]]]:
    """Give the number and the columns of each line that is not blank.

    Args:
        path: Of a text file in UTF-8, columns divided by white space.
        name: What it holds, for messages.
        n_columns: Of every line.

    Raises:
        InputError: Rules ``unreadable``, ``columns``.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                columns = line.split()
                if columns and len(columns) != n_columns:
                    raise InputError(
                        f"Line {number} of the {name} has {len(columns)} columns, expected "
                        f"{n_columns}; is it a TREC {name} file?",
                        rule="columns",
                    )
                if columns:
                    yield number, columns
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise InputError(f"The {name} file cannot be read: {reason}.", rule="unreadable") from None
