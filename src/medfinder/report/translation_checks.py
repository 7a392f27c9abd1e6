"""A Spanish report and its English → what is wrong with the translation.

Deterministic rules on words, numbers and findings; nothing here knows who made the translation.
Sentences of both sides are set beside each other (in order, or by length where a translator cut
them otherwise), so that a number or a side which moved to another sentence is seen too. What our
own reading of findings is known to tell differently in the two languages is tolerated: a
relative of the finding is enough.
"""

import hashlib
import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from itertools import accumulate
from typing import Any

from medfinder.records import Finding, Language
from medfinder.report.assertion import cues
from medfinder.report.clean import clean
from medfinder.report.findings import extract_findings
from medfinder.report.glossary import glossary
from medfinder.report.sentences import sentences
from medfinder.report.tokens import fold, tokenize
from medfinder.report.vocabulary import vocabulary

RULES = (
    "translation-placeholder",
    "translation-number",
    "translation-unit",
    "translation-negation",
    "translation-side",
    "translation-residue",
    "translation-length",
    "translation-findings",
)
"""Every rule a translation can break, in the order in which they are looked at."""

# English words for each Spanish word: exact translations of reports lie between 0.75 and 1.15.
LENGTH_RATIO = (0.55, 1.6)
_LENGTH_SLACK = 3  # words either way, so that a line of three words may become one of six
_LINE = 2  # words of a heading, which may come and go
_SHOWN = 4
_LENGTHS = ("mm", "cm")

_WORD = re.compile(r"[^\W\d_]+")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_THOUSANDS = re.compile(r"\d{1,3}(?:[.,]\d{3})+")
# "covid-19" is a name; T8 and D8 are the same vertebra, and 8 is its number on both sides.
_NAMES = re.compile(r"\b(?:covid|sars)[- ]?(?:cov)?[- ]?(?:19|2)\b|\bh1n1\b|\bcovid\b")
_UNIT_POINT = re.compile(r"(?<=[mc][ml])\.\s+", re.IGNORECASE)
# BIMCV's " . " ends a sentence whatever stands before it.
_LONE_POINT = re.compile(r"\s\.(?=\s|$)")
# "Nodules not exceeding 9 mm" are there; our reading of English takes them for denied.
_AT_MOST = re.compile(
    r"\b(?:(?:do|does|did|that|which) )*not (?:exceed(?:ing)?|larger than|greater than|more than|over)\b",
    re.I,
)
_NO_MORE = re.compile(r"\b(?:que )?no (?:superan?|exceden?|sobrepasan?)(?: los| de)?\b", re.I)
# The middle lobe is the right lung's, said or not.
_MIDDLE: dict[Language, re.Pattern[str]] = {
    "es": re.compile(r"\blobulo medio(?: derecho| del pulmon derecho)?\b|\blm\b|\blmd\b"),
    "en": re.compile(r"\b(?:right )?middle lobe(?: of the right lung)?\b|\brml\b"),
}
_MAYBE_SIDE: dict[str, str] = {"vi": "left", "ai": "left", "vd": "right", "ad": "right"}
_MAYBE_SIDE |= {"hti": "left", "htd": "right", "hcd": "right", "hci": "left"}
_MORE_BOTH: dict[Language, frozenset[str]] = {
    "es": frozenset(["bihiliar", "biaxilar", "bipleural", "sendos", "bibasilar"]),
    "en": frozenset(["bibasilar", "bibasal", "biapical", "bihilar", "bipulmonary", "biaxillary"]),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One way in which a translation differs from its original.

    Attributes:
        rule: One of `RULES`.
        reason: One sentence a radiologist understands; it may quote words of the report.
    """

    rule: str
    reason: str


def check_translation(spanish: str, english: str) -> tuple[Problem, ...]:
    """Return what is wrong with the English of a Spanish report; nothing where it can be trusted.

    Args:
        spanish: The original, with or without accents and capitals.
        english: What is meant to be its translation.

    Returns:
        At most one problem a rule, in the order of `RULES`. A placeholder is the only problem of
        a text that is one.
    """
    spanish = _NO_MORE.sub("hasta", clean(_LONE_POINT.sub(".\n", spanish)))
    english = _AT_MOST.sub("up to", clean(_LONE_POINT.sub(".\n", english)))
    placeholder = _placeholder(english)
    if placeholder:
        return (placeholder,)
    source, target = _Side(spanish, "es"), _Side(english, "en")
    aligned = _aligned(source.parts, target.parts)
    is_exact = len(source.parts) == len(target.parts)
    found = _findings(source, target, aligned, is_exact)
    problems = [
        _numbers(source, target, aligned if is_exact else ()),
        _units(source, target),
        _first(_negation(source, target, aligned), found.get("translation-negation")),
        _first(_sides(source, target, aligned if is_exact else ()), found.get("translation-side")),
        _residue(source, target),
        _length(source, target) or _alone(aligned),
        found.get("translation-findings"),
    ]
    return tuple(problem for problem in problems if problem)


def _first(*problems: Problem | None) -> Problem | None:
    return next((problem for problem in problems if problem), None)


# ------------------------------------------------------------------------------------- the lists
@cache
def _lists() -> Mapping[str, Any]:
    text = resources.files(__package__).joinpath("translation.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


@cache
def _number_words(kind: str, language: Language) -> Mapping[str, float]:
    table = _lists()[kind][language]
    return {word: float(value) for value, words in table.items() for word in words.split()}


@cache
def _unit_words() -> Mapping[str, str]:
    return {word: unit for unit, words in _lists()["units"].items() for word in words.split()}


@cache
def _denying(language: Language, kind: str) -> frozenset[str]:
    return frozenset(_lists()["negation"][language][kind].split())


@cache
def _placeholders() -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{p})" for p in _lists()["placeholder"]["patterns"]), re.I)


# ------------------------------------------------------------------------------------ both sides
@dataclass(frozen=True, slots=True)
class _Part:
    """One sentence: its folded text and its words."""

    start: int
    end: int
    text: str
    words: tuple[str, ...]


class _Side:
    """One of the two texts, cut into sentences: each on a line of its own.

    Our reading of findings carries the organ from one sentence to the next, but not across lines;
    so both languages are read sentence by sentence.
    """

    def __init__(self, text: str, language: Language) -> None:
        pieces = [text[start:end] for start, end in _sentences(text)]
        self.text = "\n".join(pieces)
        self.language: Language = language
        self.folded = fold(self.text)
        self.parts: list[_Part] = []
        start = 0
        for piece in pieces:
            end = start + len(piece)
            words = tuple(_WORD.findall(self.folded, start, end))
            if words or _NUMBER.search(self.folded, start, end):
                self.parts.append(_Part(start, end, self.folded[start:end], words))
            start = end + 1
        self.n_words = sum(len(part.words) for part in self.parts)


def _sentences(text: str) -> Iterator[tuple[int, int]]:
    """Yield sentences; unlike those of findings, a unit's point always ends one."""
    for start, end in sentences(text):
        for mark in _UNIT_POINT.finditer(text, start, end):
            yield start, mark.start()
            start = mark.end()
        if start < end:
            yield start, end


_Both = tuple[tuple[_Part, ...], tuple[_Part, ...]]
_Pairs = Sequence[_Both]
_STEPS = ((1, 1), (1, 2), (2, 1), (1, 0), (0, 1), (1, 3), (3, 1))
_ALONE = 4.0
_BAND = 10  # sentences by which the two texts may drift apart


def _aligned(source: Sequence[_Part], target: Sequence[_Part]) -> _Pairs:
    """Set sentences beside each other: one to one where their numbers agree, else by length."""
    n, m = len(source), len(target)
    if n == m:
        return [((a,), (b,)) for a, b in zip(source, target, strict=True)]
    a, b = _prefix_lengths(source), _prefix_lengths(target)
    scale = b[-1] / max(1, a[-1])
    numbers_a, numbers_b = _prefix_numbers(source), _prefix_numbers(target)
    best: dict[tuple[int, int], tuple[float, tuple[int, int]]] = {(0, 0): (0.0, (0, 0))}
    for i in range(n + 1):
        centre = i * m // max(1, n)
        for j in range(
            max(0, centre - _BAND - abs(n - m)), min(m, centre + _BAND + abs(n - m)) + 1
        ):
            if (i, j) not in best:
                continue
            cost = best[i, j][0]
            for di, dj in _STEPS:
                to_i, to_j = i + di, j + dj
                if to_i > n or to_j > m:
                    continue
                left, right = scale * (a[to_i] - a[i]), b[to_j] - b[j]
                if di and dj:
                    new = cost + abs(left - right) / (left + right) ** 0.5
                    new += 2.0 * (di != 1 or dj != 1)
                else:  # a sentence that has no counterpart, whatever its length
                    new = cost + _ALONE
                told, retold = numbers_a[to_i] - numbers_a[i], numbers_b[to_j] - numbers_b[j]
                new += 3.0 * (told != retold)
                if (to_i, to_j) not in best or new < best[to_i, to_j][0]:
                    best[to_i, to_j] = (new, (i, j))
    if (n, m) not in best:
        return [(tuple(source), tuple(target))]
    pairs = []
    at = (n, m)
    while at != (0, 0):
        before = best[at][1]
        pairs.append((tuple(source[before[0] : at[0]]), tuple(target[before[1] : at[1]])))
        at = before
    return pairs[::-1]


def _prefix_lengths(parts: Sequence[_Part]) -> list[int]:
    return [0, *accumulate(len(part.text) + 1 for part in parts)]


def _prefix_numbers(parts: Sequence[_Part]) -> list[int]:
    """Return prefix sums of the numbers' hashes: two stretches hold the same numbers if these agree."""
    return [0, *accumulate(sum(map(_hashed, _NUMBER.findall(part.text))) for part in parts)]


@lru_cache(maxsize=4096)
def _hashed(number: str) -> int:
    digest = hashlib.blake2b(number.replace(",", ".").encode(), digest_size=12).digest()
    return int.from_bytes(digest, "big")


# --------------------------------------------------------------------------------- the text itself
def _placeholder(english: str) -> Problem | None:
    if not _WORD.search(english):
        return Problem("translation-placeholder", "The translation has no words.")
    found = _placeholders().search(english)
    if found is None:
        return None
    return Problem(
        "translation-placeholder",
        f"The translation is no translation: it says {_shown([found[0][:60]])}.",
    )


def _length(source: _Side, target: _Side) -> Problem | None:
    low, high = LENGTH_RATIO
    few = low * source.n_words - _LENGTH_SLACK
    many = high * source.n_words + _LENGTH_SLACK
    if few <= target.n_words <= many:
        return None
    return Problem(
        "translation-length",
        f"The Spanish has {source.n_words} words, the English {target.n_words}; expected "
        f"{max(1, round(few))} to {round(many)}.",
    )


def _alone(aligned: _Pairs) -> Problem | None:
    """Look for a sentence without a counterpart."""
    for a, b in aligned:
        for mine, others, where in ((a, b, "Spanish"), (b, a, "English")):
            if not others and sum(len(part.words) for part in mine) > _LINE:
                return Problem(
                    "translation-length", f"A sentence is in the {where} only: {_quoted(mine)}."
                )
    return None


# ----------------------------------------------------------------------------------------- numbers
@dataclass(frozen=True, slots=True)
class _Amounts:
    """Numbers of a stretch of text, as read with commas and points of thousands or without."""

    digits: Counter[float]
    words: Counter[float]
    maybe: Counter[float]


def _amounts(text: str, words: Sequence[str], language: Language, thousands: bool) -> _Amounts:
    text = _NAMES.sub(" ", text)
    digits = Counter(_value(found, thousands) for found in _NUMBER.findall(text))
    said, maybe = _number_words("numbers", language), _number_words("maybe", language)
    return _Amounts(
        digits,
        Counter(said[word] for word in words if word in said),
        Counter(maybe[word] for word in words if word in maybe),
    )


def _value(number: str, thousands: bool) -> float:
    if thousands and _THOUSANDS.fullmatch(number):
        return float(re.sub("[.,]", "", number))
    whole, *rest = re.split("[.,]", number)
    return float(f"{whole}.{''.join(rest)}") if rest else float(whole)


def _unmatched(a: _Amounts, b: _Amounts) -> tuple[list[float], list[float]]:
    """Return what is a number on one side only; a word and a digit can match each other."""
    left = Counter(a.digits)
    left.update(a.words)
    right = Counter(b.digits)
    right.update(b.words)
    only_a = (left - right) - b.maybe
    only_b = (right - left) - a.maybe
    return sorted(only_a.elements()), sorted(only_b.elements())


def _numbers(
    source: _Side,
    target: _Side,
    aligned: _Pairs,
) -> Problem | None:
    whole = ((_part_of(source),), (_part_of(target),))
    lost, extra = _differ(*whole)
    if not lost and not extra:
        for pair in aligned:
            lost, extra = _differ(*pair)
            if lost or extra:
                return Problem(
                    "translation-number",
                    f"A number stands in another sentence than in the Spanish: "
                    f"{_shown(map(_number, [*lost, *extra]))}.",
                )
        return None
    if _lengths(source) == _lengths(target):  # 1.2 cm became 12 mm
        in_es, in_en = ({v for v, u in _measures(s) if u in _LENGTHS} for s in (source, target))
        lost = [value for value in lost if value not in in_es]
        extra = [value for value in extra if value not in in_en]
    if not lost and not extra:
        return None
    if lost and extra:
        what = f"The Spanish says {_shown(map(_number, lost))}, the English {_shown(map(_number, extra))}"
    elif lost:
        what = f"The English lacks {_shown(map(_number, lost))}"
    else:
        what = f"The English adds {_shown(map(_number, extra))}"
    return Problem("translation-number", what + ".")


def _part_of(side: _Side) -> _Part:
    words = tuple(word for part in side.parts for word in part.words)
    return _Part(0, len(side.folded), side.folded, words)


def _differ(a: Sequence[_Part], b: Sequence[_Part]) -> tuple[list[float], list[float]]:
    """Return the numbers of one side only, as far as any reading of points and commas goes."""
    text_a, text_b = " ".join(p.text for p in a), " ".join(p.text for p in b)
    words_a, words_b = [w for p in a for w in p.words], [w for p in b for w in p.words]
    first: tuple[list[float], list[float]] | None = None
    has_thousands = _THOUSANDS.search(text_a), _THOUSANDS.search(text_b)
    for read_a in (False, True) if has_thousands[0] else (False,):
        for read_b in (False, True) if has_thousands[1] else (False,):
            left = _unmatched(
                _amounts(text_a, words_a, "es", read_a), _amounts(text_b, words_b, "en", read_b)
            )
            if not left[0] and not left[1]:
                return left
            first = first or left
    assert first is not None
    return first


@cache
def _measure() -> re.Pattern[str]:
    units = "|".join(sorted(map(re.escape, _unit_words()), key=len, reverse=True))
    joint = r"\s?(?:x|×|\*|-|–|a|to|por|by|y|and|o|or)\s?"
    return re.compile(rf"((?:\d+(?:[.,]\d+)*{joint})*)(\d+(?:[.,]\d+)*)[\s-]?({units})(?![^\W\d_])")


def _measures(side: _Side) -> list[tuple[float, str]]:
    """Return every number with its unit; the unit of "2 x 3 cm" is that of both."""
    found = []
    for before, last, unit in _measure().findall(side.folded):
        numbers = [*_NUMBER.findall(before), last]
        found += [(_value(number, thousands=False), _unit_words()[unit]) for number in numbers]
    return found


def _lengths(side: _Side) -> list[float]:
    return sorted(
        round(value * (10 if unit == "cm" else 1), 3)
        for value, unit in _measures(side)
        if unit in _LENGTHS
    )


def _units(source: _Side, target: _Side) -> Problem | None:
    """Compare the units of equal numbers."""
    a: dict[float, Counter[str]] = {}
    b: dict[float, Counter[str]] = {}
    for side, units in ((source, a), (target, b)):
        for value, unit in _measures(side):
            units.setdefault(value, Counter())[unit] += 1
    numbers_b = Counter(_value(n, False) for n in _NUMBER.findall(target.folded))
    if _lengths(source) == _lengths(target):
        for units in (a, b):
            for counts in units.values():
                counts["mm"] = counts["cm"] = 0
    for value, units_a in a.items():
        units_b = b.get(value, Counter())
        lost = units_a - units_b
        if lost and numbers_b[value]:
            said = _shown(f"{_number(value)} {unit}" for unit in lost)
            got = _shown(f"{_number(value)} {unit}" for unit in units_b - units_a)
            return Problem(
                "translation-unit",
                f"The Spanish says {said}, the English {got or _number(value) + ' without a unit'}.",
            )
    return None


def _number(value: float) -> str:
    return f"{value:g}"


# ---------------------------------------------------------------------------------------- negation
def _negation(
    source: _Side,
    target: _Side,
    aligned: _Pairs,
) -> Problem | None:
    del source, target
    for a, b in aligned:
        es = [word for part in a for word in part.words]
        en = [word for part in b for word in part.words] + _not_words(b)
        strong_es, weak_es = _denials(es, "es")
        strong_en, weak_en = _denials(en, "en")
        if strong_es and not strong_en and weak_en <= weak_es:
            return Problem(
                "translation-negation",
                f"A sentence denies in Spanish ({_shown(strong_es)}) and not in English: "
                f"{_quoted(a)}.",
            )
        if strong_en and not strong_es and weak_es <= weak_en:
            return Problem(
                "translation-negation",
                f"A sentence denies in English ({_shown(strong_en)}) and not in Spanish: "
                f"{_quoted(a or b)}.",
            )
    return None


def _denials(words: Sequence[str], language: Language) -> tuple[list[str], int]:
    """Return the words that deny, and how many there are that may stand for one of them."""
    strong, weak = _denying(language, "strong"), _denying(language, "weak")
    return sorted({w for w in words if w in strong}), sum(w in weak for w in words)


def _not_words(parts: Sequence[_Part]) -> list[str]:
    """Return "not" where a contraction denies."""
    return ["not"] if any(re.search(r"n['’]t\b", part.text) for part in parts) else []


def _quoted(parts: Sequence[_Part]) -> str:
    return _shown([" ".join(part.text for part in parts)[:120]])


# ------------------------------------------------------------------------------------------- sides
def _side_words(parts: Sequence[_Part], language: Language) -> Counter[str]:
    text = _MIDDLE[language].sub(" ", " . ".join(part.text for part in parts))
    told = cues(language)
    counts: Counter[str] = Counter()
    words = tokenize(text, language).words
    for i, word in enumerate(words):
        if word in told.left:
            counts["left"] += 1
        elif word in told.right and words[i + 1 : i + 2] not in (["pcr"], ["now"], ["away"]):
            counts["right"] += 1
        elif (word in told.both and word != "each") or word in _MORE_BOTH[language]:
            counts["bilateral"] += 1
        elif language == "es" and word in _MAYBE_SIDE:
            counts["maybe " + _MAYBE_SIDE[word]] += 1
        elif (language == "en" and word == "each") or (
            language == "es" and word in ("dos", "tanto")
        ):
            counts["maybe bilateral"] += 1
    return counts


def _sides(
    source: _Side,
    target: _Side,
    aligned: _Pairs,
) -> Problem | None:
    pairs = [*aligned] or [(tuple(source.parts), tuple(target.parts))]
    for a, b in pairs:
        es, en = _side_words(a, "es"), _side_words(b, "en")
        for side in ("left", "right", "bilateral"):
            surplus = en[side] - es[side]
            if surplus < 0 and side == "bilateral":  # "on the left and right side"
                surplus += min(en["left"] - es["left"], en["right"] - es["right"], -surplus)
            slack = es["maybe " + side] if surplus > 0 else en["maybe " + side]
            if abs(surplus) > slack and not _is_both_sides(es, en, side):
                return Problem(
                    "translation-side",
                    f"The Spanish says {side} {_times(es[side])}, the English "
                    f"{_times(en[side])}{': ' + _quoted(a) if aligned else ''}.",
                )
    return None


def _is_both_sides(es: Counter[str], en: Counter[str], side: str) -> bool:
    """Tell whether "both" on one side is "left and right" on the other."""
    change = {s: en[s] - es[s] for s in ("left", "right", "bilateral")}
    return (
        side != "bilateral"
        and change["left"] == change["right"] == -change["bilateral"]
        and change["bilateral"] != 0
    )


def _times(count: int) -> str:
    return {0: "nowhere", 1: "once", 2: "twice"}.get(count, f"{count} times")


# ----------------------------------------------------------------------------------------- residue
@cache
def _known_words() -> tuple[frozenset[str], frozenset[str]]:
    """Return the words known to be English, and those known to be Spanish and not English."""
    english: set[str] = set(_lists()["residue"]["shared"].split())
    spanish: set[str] = set()
    folder = resources.files(__package__)
    listed = tomllib.loads(folder.joinpath("languages.toml").read_text(encoding="utf-8"))
    english.update(listed["en"].split())
    spanish.update(listed["es"].split())
    for name in ("synonyms.toml", "locations.toml"):
        table = tomllib.loads(folder.joinpath(name).read_text(encoding="utf-8"))
        for entry, fields in table.items():
            english.update(_WORD.findall(fold(entry)))
            for field, patterns in fields.items():
                if field.endswith("en"):
                    english.update(_WORD.findall(fold(" ".join(patterns))))
                elif field.endswith("es"):
                    spanish.update(_WORD.findall(fold(" ".join(patterns))))
    for name in vocabulary().names():
        english.update(_WORD.findall(fold(name)))
    wording = tomllib.loads(folder.joinpath("cues.toml").read_text(encoding="utf-8"))
    for patterns in wording["en"].values():
        english.update(_WORD.findall(fold(" ".join(patterns))))
    for patterns in wording["es"].values():
        spanish.update(_WORD.findall(fold(" ".join(patterns))))
    for kind in ("numbers", "maybe"):
        english.update(_number_words(kind, "en"))
        spanish.update(_number_words(kind, "es"))
    english.update(_unit_words())
    for said, meant in glossary().entries():
        spanish.update(_WORD.findall(said))
        english.update(_WORD.findall(fold(meant)))
    return frozenset(english), frozenset(w for w in spanish - english if len(w) > 1)


@cache
def _kept() -> re.Pattern[str]:
    return re.compile(rf"\b(?:{_lists()['residue']['kept']})\b")


_ENDING = re.compile(
    r"(?:[cs]ion(?:es)?(?<!tion)(?<!ssion)(?<!usion)(?<!asion)(?<!esion)(?<!ision)(?<!rsion)(?<!nsion)(?<!lsion)(?<!xion)"
    r"|ciones|mientos?|dad(?:es)?|mente|[ai]d[oa]s?|os[oa]s?|icos|icas|ari[oa]s?|iv[oa]s?|anci?as?|encias?"
    r"|ologia|grafia|ulares|orios|illos?|dores|eales|ecto|ectos)$"
)
_COPIED = re.compile(r"(?:[aeo]s?|cion|dor|ales|ares|ion|ante|ente|ar|al|il|on|ir|er)$")
_ENGLISH_ENDING = re.compile(
    r"(?:(?:th|ph|sh|ck|gh|ll|ss|y|w|k|ing|tion|ed|ous|ly|ism|ist|um|us|is|ble|ate|ive|ure|ance|ence|age|ine|ide|ite|ose|ase|oma|eum|iac|eal|ial|ual|nal|ral|tal|cal|sal|mal|bal|dal|lar|tar|nar|car|ior|tor|sor|ion))s?$"
)


@lru_cache(maxsize=1 << 15)
def _is_spanish(word: str, is_copied: bool) -> bool:
    english, spanish = _known_words()
    if word in english or len(word) < 2:
        return False
    if word in spanish:
        return True
    if len(word) > 5 and _ENDING.search(word):
        return True
    # A word the original has too, and no English word looks like.
    return (
        is_copied
        and len(word) > 3
        and bool(_COPIED.search(word) and not _ENGLISH_ENDING.search(word))
    )


def _residue(source: _Side, target: _Side) -> Problem | None:
    theirs = {word for part in source.parts for word in part.words}
    names = {fold(name) for name in re.findall(r"(?<=[a-zà-ÿ,] )[A-ZÀ-Ý][a-zà-ÿ]+", source.text)}
    text = _kept().sub(" ", target.folded)
    left = [
        word
        for word in dict.fromkeys(_WORD.findall(text))
        if word not in names and _is_spanish(word, word in theirs)
    ]
    if not left:
        return None
    return Problem("translation-residue", f"Spanish words are left: {_shown(left)}.")


# ---------------------------------------------------------------------------------------- findings
@lru_cache(maxsize=1 << 15)
def _are_related(a: str, b: str) -> bool:
    """Tell whether two names can be what one phrase is called in two languages."""
    if a == b:
        return True
    known = vocabulary()
    above_a, above_b = known.ancestors(a) | {a}, known.ancestors(b) | {b}
    if a in above_b or b in above_a:
        return True
    one, other = known.get(a), known.get(b)
    if b in one.covers or a in other.covers:
        return True
    if one.label is not None and one.label == other.label:
        return True
    if one.label == b or other.label == a:
        return True
    if any(a in group and b in group for group in _lists()["findings"]["alike"]):
        return True
    return bool(set(one.parents) & set(other.parents))


def _in_parts(
    findings: Sequence[Finding], parts: Sequence[_Part]
) -> Iterator[tuple[_Part, Finding]]:
    k = 0
    for finding in findings:
        while k < len(parts) and parts[k].end <= finding.start:
            k += 1
        if k < len(parts) and parts[k].start <= finding.start:
            yield parts[k], finding


def _findings(
    source: _Side,
    target: _Side,
    aligned: _Pairs,
    is_exact: bool,
) -> dict[str, Problem]:
    """Compare what the two texts state: sentence by sentence where they align, and as a whole."""
    told: dict[int, list[Finding]] = {}
    for side in (source, target):
        for part, finding in _in_parts(extract_findings(side.text, side.language), side.parts):
            told.setdefault(id(part), []).append(finding)

    def of(parts: Sequence[_Part]) -> list[Finding]:
        return [f for part in parts for f in told.get(id(part), ())]

    problems: dict[str, Problem] = {}
    for a, b in aligned:
        here, there = of(a), of(b)
        for mine, theirs, where, other in (
            (here, there, "Spanish", "English"),
            (there, here, "English", "Spanish"),
        ):
            for finding in mine:
                missing = _missing(finding, mine, theirs, (a, b))
                if missing and missing[0] not in problems:
                    rule, status = missing
                    problems[rule] = Problem(
                        rule,
                        f"{finding.name} is {finding.status} in the {where} and {status} in the "
                        f"{other}: {_quoted(a or b)}.",
                    )
        if is_exact:
            problem = _swapped(of(a), of(b))
            if problem:
                problems.setdefault(problem.rule, problem)
    return problems


def _missing(
    finding: Finding, here: Sequence[Finding], there: Sequence[Finding], parts: _Both
) -> tuple[str, str] | None:
    """Look for a finding of one sentence in its counterpart; return the rule and the status there."""
    related = [f for f in there if _are_related(finding.name, f.name)]
    if any(finding.status == f.status for f in related):
        return None
    if not related:
        if finding.name in _tolerated():
            return None
        # Its words may also state another finding, which the other side has.
        touching = [f for f in here if f.start < finding.end and finding.start < f.end]
        if any(_are_related(f.name, g.name) for f in touching for g in there if f != finding):
            return None
        return "translation-findings", "not mentioned"
    status = related[0].status
    if "absent" in (finding.status, status):
        return "translation-negation", status
    # Doubted on both sides, and the two readings differ in how far the doubt reaches.
    if all(_doubts(side, language) for side, language in zip(parts, ("es", "en"), strict=True)):
        return None
    return "translation-findings", status


@cache
def _tolerated() -> frozenset[str]:
    return frozenset(_lists()["findings"]["tolerated"])


@cache
def _doubting(language: Language) -> re.Pattern[str]:
    return re.compile(_lists()["doubt"][language])


def _doubts(parts: Sequence[_Part], language: Any) -> bool:
    return any(_doubting(language).search(part.text) for part in parts)


def _swapped(a: Sequence[Finding], b: Sequence[Finding]) -> Problem | None:
    for name in {f.name for f in a} & {f.name for f in b}:
        es = {f.laterality for f in a if f.name == name}
        en = {f.laterality for f in b if f.name == name}
        if {*es, *en} == {"left", "right"} and not es & en:
            return Problem(
                "translation-side",
                f"{name} is {', '.join(map(str, es))} in the Spanish and "
                f"{', '.join(map(str, en))} in the English.",
            )
    return None


def _shown(values: Any) -> str:
    values = list(values)
    more = f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""
    return ", ".join(f"{value!r}" if " " in value else value for value in values[:_SHOWN]) + more
