"""Radiology Spanish → English, term by term: for prompts, and for translating without a network.

Knows the forms of a term (gender, number, accents) and how English orders a noun and its
adjectives; does not know sentences.
"""

import hashlib
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

from medfinder.report.tokens import fold

Kind = Literal["noun", "adjective", "phrase", "word"]

_TOKEN = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+(?:['’][^\W\d_]+)?|[^\w\s]|_")
_SMALL = frozenset(
    ["de", "del", "la", "las", "los", "el", "en", "por", "con", "y", "a", "al", "su"]
)


@dataclass(frozen=True, slots=True)
class Term:
    """One form of an entry.

    Attributes:
        words: Spanish, folded, as tokens of a report.
        english: What it means, in the same number.
        is_plural: Whether this form of a noun or adjective is the plural; None for one that is both.
    """

    words: tuple[str, ...]
    english: str
    kind: Kind
    is_plural: bool | None = False


@dataclass(frozen=True, slots=True)
class Token:
    """A word or mark of a folded text, and where it stands."""

    text: str
    start: int
    end: int


class Glossary:
    """The terms, ready to be found in a text.

    Attributes:
        hash: 12 hex digits that change with any entry: translations made with it are kept by it.
    """

    def __init__(self, tables: Mapping[str, Mapping[str, str]], digest: str) -> None:
        self.hash = digest
        self._terms: dict[tuple[str, ...], Term] = {}
        self._longest: dict[str, int] = {}
        plurals = tables["plurals"]
        # Later kinds win: a phrase is more precise than the words it is made of.
        for spanish, english in tables["words"].items():
            self._add(spanish, english, "word")
        for spanish, english in tables["adjectives"].items():
            for form in _adjective_forms(spanish):
                self._add(form, english, "adjective", is_plural=form.endswith("s"))
        for spanish, english in tables["nouns"].items():
            many = plurals.get(english) or _english_plural(english)
            many_es = _spanish_plural(spanish)
            self._add(many_es, many, "noun", is_plural=True)
            self._add(spanish, english, "noun", is_plural=None if many_es == spanish else False)
        for spanish, english in tables["phrases"].items():
            self._add(spanish, english, "phrase")

    def __len__(self) -> int:
        """Return the number of forms."""
        return len(self._terms)

    def entries(self) -> Iterator[tuple[str, str]]:
        """Yield every form, folded, with its English."""
        for words, term in self._terms.items():
            yield " ".join(words), term.english

    def at(self, tokens: Sequence[Token], start: int) -> Term | None:
        """Return the longest term that begins at a token."""
        longest = self._longest.get(tokens[start].text, 0)
        for n in range(min(longest, len(tokens) - start), 0, -1):
            term = self._terms.get(tuple(t.text for t in tokens[start : start + n]))
            if term is not None:
                return term
        return None

    def terms(self, text: str) -> list[tuple[str, str]]:
        """Return the radiology terms of a text with their English, each once, in order.

        Words of grammar and single adjectives are left out: a reader of Spanish needs no help there.
        """
        tokens = tokens_of(fold(text))
        found: dict[str, str] = {}
        i = 0
        while i < len(tokens):
            term = self.at(tokens, i)
            if term is None:
                i += 1
                continue
            if term.kind == "noun" or (term.kind == "phrase" and len(term.words[0]) > 1):
                found.setdefault(" ".join(term.words), term.english)
            i += len(term.words)
        return list(found.items())

    def _add(self, spanish: str, english: str, kind: Kind, is_plural: bool | None = False) -> None:
        words = tuple(token.text for token in tokens_of(fold(spanish)))
        self._terms[words] = Term(words, english, kind, is_plural)
        self._longest[words[0]] = max(self._longest.get(words[0], 0), len(words))


def tokens_of(folded: str) -> list[Token]:
    """Cut folded text into words, numbers and marks."""
    return [Token(m[0], m.start(), m.end()) for m in _TOKEN.finditer(folded)]


@cache
def glossary() -> Glossary:
    """Return the packaged glossary, read once a process."""
    data = resources.files(__package__).joinpath("glossary.toml").read_bytes()
    return Glossary(tomllib.loads(data.decode()), hashlib.sha256(data).hexdigest()[:12])


def _spanish_plural(phrase: str) -> str:
    """Return the plural of a noun and of the adjectives beside it, up to the first preposition."""
    words = phrase.split(" ")
    for i, word in enumerate(words):
        if word in _SMALL:
            break
        words[i] = _plural(word)
    return " ".join(words)


def _plural(word: str) -> str:
    if word.endswith(("is", "us", "ax", "os")) or not word[-1].isalpha():
        return word
    if word[-1] in "aeo":
        return word + "s"
    if word.endswith("z"):
        return word[:-1] + "ces"
    return word + "es"


def _adjective_forms(word: str) -> tuple[str, ...]:
    """Return the forms of gender and number, and the short ones that stand before a noun."""
    if word.endswith("o"):
        stem = word[:-1]
        short = (stem,) if word in ("primero", "tercero") else ()
        return (word, stem + "a", stem + "os", stem + "as", *short)
    if word == "grande":
        return (word, "grandes", "gran")
    return (word, _plural(word))


def _english_plural(phrase: str) -> str:
    head, of, rest = phrase.partition(" of ")
    head, with_, more = (head, of, rest) if of else phrase.partition(" with ")
    if head.endswith(("s", "x", "ch", "sh")):
        head += "" if head.endswith(("ings", "is")) else "es"
    elif head.endswith("y") and head[-2] not in "aeiou":
        head = head[:-1] + "ies"
    else:
        head += "s"
    return head + with_ + more
