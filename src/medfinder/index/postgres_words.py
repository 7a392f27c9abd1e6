"""BM25 in PostgreSQL: words of reports → stems, the studies that hold each, and scores.

PostgreSQL's own ``ts_rank`` knows no document frequencies. So each study keeps its stems with their
counts, and `finish` turns them around: a row of ``words`` holds a stem's postings in one block of
study numbers, packed. A query reads the rows of its stems and adds up in this process; what came
since `finish` is read by itself. The server's snowball stemmer makes the stems, without stop words
of its own, so that endings mean what they mean to an index in a folder.

Source:
    Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009, eq. 3.15,
    with k1 = 1.2 and b = 0.75.
"""

# ruff: noqa: S608 - names of tables come from here, filters are written anew by postgres_where

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfinder.index.schema import STOP_WORDS

BLOCK = 1 << 16
"""Study numbers a row of ``words``."""
_K1, _B = 1.2, 0.75
_LONGEST = 40  # bytes; longer words are codes and noise
COUNTED = 255
"""The most that a word is counted in one report."""
_POSTING = np.dtype([("at", "<u2"), ("count", "u1"), ("length", "<u2")])
_WORD = re.compile(r"[^\W_]+")
_STOPPED = frozenset(STOP_WORDS)
_LETTERS = str.maketrans(
    {"ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "đ": "d", "ð": "d", "ł": "l", "þ": "th", "ı": "i"}
)


def words_of(text: str) -> list[str]:
    """Return the words of a text, in lower case, in order."""
    return [
        word.lower()
        for word in _WORD.findall(text)
        if len(word.encode("utf-8", "replace")) < _LONGEST
    ]


class Stemmer:
    """Takes endings and accents off words, as the database's dictionary does; remembers what it did.

    The order is that of an index in a folder: ending, function words, accents.
    """

    def __init__(self, most: int = 200_000) -> None:
        self._known: dict[str, str] = {}
        self._most = most

    def stems(self, connection: Any, texts: Iterable[str]) -> list[list[str]]:
        """Return the stems of each text, in order, without function words."""
        split = [words_of(text) for text in texts]
        known = self._known
        missing = sorted({w for words in split for w in words} - known.keys())
        if missing:
            if len(known) + len(missing) > self._most:
                known = self._known = {}
                missing = sorted({w for words in split for w in words})
            rows = connection.execute(
                "SELECT w, (ts_lexize('stems', w))[1] FROM unnest(%s::text[]) w", (missing,)
            ).fetchall()
            # Another thread may have begun anew meanwhile: `known` is this one's.
            known.update({word: stem or word for word, stem in rows})
        return [
            [_plain(stem) for word in words if (stem := known[word]) not in _STOPPED]
            for words in split
        ]


@lru_cache(maxsize=100_000)
def _plain(word: str) -> str:
    """Return the word without accents."""
    if word.isascii():
        return word
    apart = unicodedata.normalize("NFKD", word)
    return "".join(c for c in apart if not unicodedata.combining(c)).translate(_LETTERS)


def counted(stems: Sequence[str]) -> tuple[str, str]:
    """Return each stem once, sorted, and how often it occurs, at most 255, as arrays' text.

    A stem is letters and digits alone, so that quotes are all it needs; the driver looks at each.
    """
    counts = sorted(Counter(stems).items())
    terms = ",".join(f'"{stem}"' for stem, _ in counts)
    return f"{{{terms}}}", f"{{{','.join(str(min(n, COUNTED)) for _, n in counts)}}}"


# -- turning studies' words into words' studies ------------------------------------------------


def index_words(connection: Any) -> None:
    """Bring ``words`` up to the studies there, block by block: what has not changed stays.

    Numbers only grow, so a block whose count and sum of numbers are the same is the same.
    """
    now, made = blocks(connection)
    stale = sorted(block for block in now.keys() | made.keys() if now.get(block) != made.get(block))
    if not stale:
        return
    connection.execute("DELETE FROM words WHERE block = ANY(%s)", (stale,))
    connection.execute("DELETE FROM word_blocks WHERE block = ANY(%s)", (stale,))
    for block in stale:
        if block in now:
            _index_block(connection, block)
            connection.execute(
                "INSERT INTO word_blocks VALUES (%s, %s, %s, %s, %s)", (block, *now[block])
            )


def blocks(connection: Any) -> tuple[dict[int, list[Any]], dict[int, list[Any]]]:
    """Return block → what it counts, of the studies there and of what ``words`` was made from."""
    now = {
        block: said
        for block, *said in connection.execute(
            f"SELECT (number / {BLOCK})::integer, count(*), sum(number), count(n_words), "
            "coalesce(sum(n_words), 0)::bigint FROM studies GROUP BY 1"
        )
    }
    made = {block: said for block, *said in connection.execute("SELECT * FROM word_blocks")}
    return now, made


def _index_block(connection: Any, block: int) -> None:
    made = postings_of(connection, block)
    with connection.cursor() as cursor, cursor.copy("COPY words FROM STDIN") as copy:
        for term, postings in sorted(made.items()):
            copy.write_row((term, block, postings))


def postings_of(connection: Any, block: int) -> dict[str, bytes]:
    """Return each stem's row of ``words``, made from the studies of a block."""
    at: dict[str, list[tuple[int, int, int]]] = {}
    with connection.cursor(name="block") as cursor:
        cursor.itersize = 5_000
        cursor.execute(
            "SELECT number, terms, counts, n_words FROM texts JOIN studies USING (number) "
            "WHERE number >= %s AND number < %s AND terms IS NOT NULL ORDER BY number",
            (block * BLOCK, (block + 1) * BLOCK),
        )
        for number, terms, counts, n_words in cursor:
            length = min(n_words, 65_535)
            for term, count in zip(terms, counts, strict=True):
                at.setdefault(term, []).append((number % BLOCK, count, length))
    return {term: np.array(found, _POSTING).tobytes() for term, found in at.items()}


# -- scoring --------------------------------------------------------------------------------------


def score(connection: Any, stems: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the numbers of all studies that hold a stem, and their BM25 scores, in no order.

    Words are counted in what `finish` saw and in what came since; studies deleted since count until
    the next `finish`, and may be among the numbers.
    """
    times = Counter(stems)  # a word that is asked twice counts twice
    asked = sorted(times)
    blocks = connection.execute("SELECT block, n_texts, n_words FROM word_blocks").fetchall()
    until = _indexed_until(connection)
    n_new, words_new = connection.execute(
        "SELECT count(n_words), coalesce(sum(n_words), 0) FROM studies WHERE number > %s", (until,)
    ).fetchone()
    new = (
        connection.execute(
            "SELECT number, terms, counts, n_words FROM texts JOIN studies USING (number) "
            "WHERE number > %s AND terms && %s::text[]",
            (until, asked),
        ).fetchall()
        if n_new
        else []
    )
    n = sum(int(b[1]) for b in blocks) + int(n_new)
    total = sum(int(b[2]) for b in blocks) + int(words_new)
    postings: dict[int, dict[str, NDArray[Any]]] = {}
    for term, block, packed in connection.execute(
        "SELECT term, block, postings FROM words WHERE term = ANY(%s)", (asked,), binary=True
    ):
        postings.setdefault(block, {})[term] = np.frombuffer(packed, _POSTING)
    frequency = Counter(dict.fromkeys(asked, 0))
    for held in postings.values():
        frequency.update({term: len(found) for term, found in held.items()})
    for _, terms, _, _ in new:
        frequency.update(set(terms) & set(asked))
    weight = {
        term: math.log(1 + (n - df + 0.5) / (df + 0.5)) * (_K1 + 1) * times[term]
        for term, df in frequency.items()
        if df
    }
    mean = total / n if n else 1.0
    numbers, scores = [], []
    for block, held in sorted(postings.items()):
        sums = np.zeros(BLOCK)
        for term in sorted(held):  # always in one order: equal texts have equal scores
            found = held[term]
            sums[found["at"]] += weight[term] * _saturated(found["count"], found["length"], mean)
        at = np.flatnonzero(sums)
        numbers.append(at + block * BLOCK)
        scores.append(sums[at])
    if new:
        numbers.append(np.array([row[0] for row in new], np.int64))
        scores.append(np.array([_alone(row, weight, mean) for row in new]))
    if not numbers:
        return np.empty(0, np.int64), np.empty(0)
    return np.concatenate(numbers), np.concatenate(scores)


def _indexed_until(connection: Any) -> int:
    """Return the largest number that `finish` has seen; -1 before the first."""
    found = connection.execute("SELECT content FROM files WHERE name = 'derived/text.json'")
    said = found.fetchone()
    return -1 if said is None else int(said[0])


def _saturated(count: Any, length: Any, mean: float) -> Any:
    counts = np.asarray(count, np.float64)
    return counts / (counts + _K1 * (1 - _B + _B * np.asarray(length, np.float64) / mean))


def _alone(row: Sequence[Any], weight: Mapping[str, float], mean: float) -> float:
    _, terms, counts, n_words = row
    total = 0.0
    for term, count in zip(terms, counts, strict=True):
        if term in weight:
            total += weight[term] * float(_saturated(count, min(n_words, 65_535), mean))
    return total
