"""Text → words that compare equal across case, accents, hyphens, articles and plurals.

Folding keeps the length of the text, so that a word's offsets hold in the original. Knows nothing
of findings; both the vocabulary's phrases and the report's sentences pass through here.
"""

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

from medfinder.records import Language

# Articles, possessives and "of" carry no finding; phrases are compared without them.
_MARKS = "-/'\"*_"
_DROPPED: dict[Language, frozenset[str]] = {
    "en": frozenset(["the", "a", "an", "of", "its", *_MARKS]),
    "es": frozenset(
        ["el", "la", "los", "las", "de", "del", "un", "una", "unos", "unas", "al", "lo"]
    )
    | frozenset(_MARKS),
}
# A number with its decimals is one word; "t8", "covid" and "19" are words; any mark stands alone.
_WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+\d*|[^\w\s]|_")


class _Fold(dict[int, int]):
    """Code point → its lower-case base letter, filled on first use (bounded by Unicode)."""

    def __missing__(self, code: int) -> int:
        char = chr(code)
        lower = char.lower()
        base = unicodedata.normalize("NFKD", lower)[:1] or lower[:1] or char
        folded = base if len(base) == 1 and not base.isspace() else char
        if folded == "–" or folded == "—" or folded == "‐":
            folded = "-"
        elif folded == "/" or folded == "⁄":
            folded = "/"
        self[code] = result = ord(folded)
        return result


_FOLD = _Fold()


@dataclass(frozen=True, slots=True)
class Tokens:
    """A stretch of text as comparable words.

    Attributes:
        words: Stems, and punctuation marks, without the dropped words.
        starts: Offset of each word's first character in the text.
        ends: Offset after each word's last character.
    """

    words: list[str]
    starts: list[int]
    ends: list[int]

    def part(self, start: int, end: int) -> "Tokens":
        """Return words `start` to `end`."""
        return Tokens(self.words[start:end], self.starts[start:end], self.ends[start:end])


def fold(text: str) -> str:
    """Return the text in lower case and without accents, of the same length.

    Letters whose lower case or base needs more than one character keep the first of them.
    """
    return text.translate(_FOLD)


def tokenize(folded: str, language: Language, start: int = 0, end: int | None = None) -> Tokens:
    """Cut folded text into words; offsets count from the start of `folded`."""
    dropped = _DROPPED[language]
    stem = _stem_en if language == "en" else _stem_es
    words: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    for found in _WORD.finditer(folded, start, len(folded) if end is None else end):
        word = found[0]
        if word in dropped:
            continue
        words.append(stem(word) if len(word) > 3 else word)
        starts.append(found.start())
        ends.append(found.end())
    return Tokens(words, starts, ends)


def stem(word: str, language: Language) -> str:
    """Return the form in which a single folded word is compared."""
    if len(word) <= 3:
        return word
    return _stem_en(word) if language == "en" else _stem_es(word)


@lru_cache(maxsize=1 << 15)
def _stem_en(word: str) -> str:
    if word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith("sses"):
        return word[:-2]
    if word.endswith("s") and not word.endswith("ss"):
        return word[:-1]
    return word


@lru_cache(maxsize=1 << 15)
def _stem_es(word: str) -> str:
    if word.endswith("es") and len(word) > 5 and word[-3] in "nrldj":
        word = word[:-2]
    elif word.endswith("s"):
        word = word[:-1]
    # "calcificada" and "calcificado" say the same of nouns of either gender.
    if word.endswith("a") and len(word) > 4:
        word = word[:-1] + "o"
    return word
