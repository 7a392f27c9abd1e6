"""One text as words that can be looked up, and the lists they are looked up in.

Folding keeps the length of the text, so that what is found in the folded text can be cut from the
original. Knows what a word may be, not what is removed.
"""

import re
import tomllib
import unicodedata
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources

from medfinder.report.tokens import fold

Span = tuple[int, int]
"""Offsets of the first character and after the last."""


_INVISIBLE = dict.fromkeys([0xAD, 0xFEFF, 0x2060, *range(0x200B, 0x2010)])
TOKEN = re.compile(r"[^\W_]+")
_PLACEHOLDER = re.compile(
    r"\[(?:NAME|ID|DATE|TIME|PHONE|EMAIL|URL|ADDRESS|PLACE)\]",
)


def plain(text: str) -> str:
    """Compose accents and drop soft hyphens and the like, which would hide a name from its list."""
    return unicodedata.normalize("NFC", text.translate(_INVISIBLE))


class Page:
    """Folded text and its words; placeholders are blanked so that nothing is found across them."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._blanked = _PLACEHOLDER.sub(lambda m: "\0" * len(m[0]), text)
        self.folded = fold(self._blanked)
        self.words: list[str] = []
        self.starts: list[int] = []
        self.ends: list[int] = []
        for match in TOKEN.finditer(self.folded):
            self.words.append(match[0])
            self.starts.append(match.start())
            self.ends.append(match.end())

    @cached_property
    def _lines(self) -> tuple[list[int], list[bool]]:
        starts, mixed, at = [], [], 0
        for line in self._blanked.split("\n"):
            starts.append(at)
            mixed.append(line != line.lower() and line != line.upper())
            at += len(line) + 1
        return starts, mixed

    def token_at(self, offset: int) -> int | None:
        """Return the index of the word that begins exactly at `offset`."""
        i = bisect_left(self.starts, offset)
        return i if i < len(self.starts) and self.starts[i] == offset else None

    def is_cased(self, i: int) -> bool:
        """Whether capitals say something in the line of word `i`."""
        starts, mixed = self._lines
        return mixed[bisect_right(starts, self.starts[i]) - 1]

    def is_capital(self, i: int) -> bool:
        """Whether word `i` begins with a capital."""
        return self.text[self.starts[i]].isupper()

    def gap(self, i: int) -> str:
        """Return what stands between word `i` and the one before it."""
        return self.folded[self.ends[i - 1] if i else 0 : self.starts[i]]

    def sort(self, i: int) -> str:
        """Return "name", "both", "ordinary" or "unknown" (a word of no list)."""
        word = self.words[i]
        if not word.isalpha():
            return "ordinary"
        table = lists()
        named = word in table.given or word in table.surnames
        if word in table.ordinary:
            return "both" if named else "ordinary"
        if named:
            return "name"
        looks_ordinary = not (self.is_cased(i) and self.is_capital(i)) and bool(
            _ORDINARY_LOOK.search(word)
        )
        return "ordinary" if looks_ordinary else "unknown"


_ORDINARY_LOOK = re.compile(
    r"(?:mente|cion|ciones|sion|siones|itis|osis|omas?|patias?|grafias?|grama|ectomias?|ostomias?"
    r"|scopias?|ando|iendo|ables?|ibles?|ivos?|ivas?|osos?|osas?|icos?|icas?|idad|idades|tion"
    r"|tions|ing|ally|ous|ness|ment|ments|graphy|scopy|ology|ologist|ectomy|ado|ados|ada|adas"
    r"|ido|idos|idas|amos|aron|eron|ular|ulares)$"
)


@dataclass(frozen=True)
class Lists:
    """The words of ``deidentify_text.toml``, folded."""

    given: frozenset[str]
    surnames: frozenset[str]
    particles: frozenset[str]
    ordinary: frozenset[str]
    eponyms: frozenset[str]
    cities: frozenset[str]
    institutions: frozenset[str]
    method: frozenset[str]
    titles: frozenset[str]
    descriptors: frozenset[str]

    def ordinary_only(self, word: str) -> bool:
        """Whether a folded word is one that reports use, so that alone it names nobody."""
        if word in self.ordinary:
            return True
        named = word in self.given or word in self.surnames or word in self.cities
        return not named and bool(_ORDINARY_LOOK.search(word))


@cache
def lists() -> Lists:
    """Return the lists, read once."""
    raw = resources.files(__package__).joinpath("deidentify_text.toml").read_text(encoding="utf-8")
    table = tomllib.loads(raw)

    def words(text: str) -> frozenset[str]:
        return frozenset(TOKEN.findall(fold(text)))

    # Whatever the vocabulary of findings and places in the body is made of names no person.
    medical: set[str] = set()
    report = resources.files("medfinder.report")
    for name in ("synonyms.toml", "locations.toml", "languages.toml", "cues.toml"):
        medical |= words(report.joinpath(name).read_text(encoding="utf-8"))
    names, places, ordinary = table["names"], table["places"], table["ordinary"]
    eponyms = words(ordinary["eponyms"])
    titles = words(names["titles"])
    return Lists(
        given=words(names["given"]),
        surnames=words(names["surnames"]),
        particles=words(names["particles"]),
        ordinary=words(ordinary["es"]) | words(ordinary["en"]) | eponyms | medical | titles,
        eponyms=eponyms,
        cities=words(places["cities"]),
        institutions=words(places["institutions"]),
        method=words(places["method"]),
        titles=titles,
        descriptors=words(places["descriptors"]),
    )


def is_report_word(word: str) -> bool:
    """Whether a word (any case, accents or not) is one that reports use, and no one's name."""
    table, word = lists(), fold(word)
    return word in table.ordinary and word not in table.given and word not in table.surnames
