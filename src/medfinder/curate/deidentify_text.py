"""Report text → the same text without the people, numbers, dates and places that identify.

One recogniser a kind, as in Microsoft Presidio: each yields the stretches it knows, what overlaps
is joined, and every stretch becomes ``[NAME]``, ``[ID]``, ``[DATE]``, … English and Spanish are
looked for together, because the language of a headline is not that of a report. Text may be in
lower case without accents, as BIMCV's is; then a name is told by what stands before it and by lists
of names. Every pattern is of bounded length, so that the time grows with the text and no faster.

Knows nothing of DICOM or tables; what those say of this patient comes in as `known`.
"""

import re
import tomllib
import unicodedata
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from typing import Literal

from medfinder.records import Language
from medfinder.report.language import detect_language
from medfinder.report.tokens import fold

Kind = Literal["name", "id", "date", "time", "phone", "email", "url", "address", "place", "age"]
OLDEST_AGE = 89
"""Ages above are told as "over 89": few people are so old (HIPAA, 45 CFR 164.514(b)(2)(i)(C))."""
_OVER: dict[Language, str] = {"en": f"over {OLDEST_AGE}", "es": f"mayor de {OLDEST_AGE}"}
# What a removal leaves beside its place can be a mark of its own; a second look settles it.
_PASSES = 6
_MAX_KNOWN = 64
_Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class DeidentifiedText:
    """Text that names nobody, as far as the recognisers see.

    Attributes:
        text: In Unicode's composed form, without invisible characters.
        removed: How many stretches of each `Kind` were replaced; kinds that were not found are
            absent.
    """

    text: str
    removed: Mapping[str, int]


def deidentify_text(
    text: str, language: Language | None = None, known: Iterable[str] = ()
) -> DeidentifiedText:
    """Replace what identifies a person in a report by ``[NAME]``, ``[ID]``, ``[DATE]`` and so on.

    Years alone, intervals ("hace 3 meses") and ages up to 89 stay. A second call changes nothing.

    Args:
        text: English, Spanish or both.
        language: In which "over 89" is written; None tells it from the words.
        known: What the study's own headers say of the people in it: names, numbers, institution.
            They are found in any case and order, without accents and with other separators. Names
            of fewer than three letters, numbers of fewer than four digits, and a single word that
            reports use ("Izquierdo") are found only beside another part of the same name.

    Source:
        The identifiers of HIPAA's safe harbor, 45 CFR 164.514(b)(2); a Spanish DNI's letter is
        number mod 23 (Real Decreto 1553/2005).
    """
    text = _plain(text)
    searched = _known(known)
    counts: Counter[str] = Counter()
    for _ in range(_PASSES):
        found = _found(_Page(text), searched)
        if not found:
            break
        if any(kind == "age" for _, _, kind in found) and language is None:
            language = detect_language(text)
        over = _OVER[language or "en"]
        parts, at = [], 0
        for start, end, kind in found:
            counts[kind] += 1
            parts += [text[at:start], over if kind == "age" else f"[{kind.upper()}]"]
            at = end
        text = "".join([*parts, text[at:]])
    return DeidentifiedText(text, dict(sorted(counts.items())))


def is_report_word(word: str) -> bool:
    """Whether a word (any case, accents or not) is one that reports use, and no one's name."""
    lists, word = _lists(), fold(word)
    return word in lists.ordinary and word not in lists.given and word not in lists.surnames


# ---------------------------------------------------------------------------------------------
# The page: one text as words

_INVISIBLE = dict.fromkeys([0xAD, 0xFEFF, 0x2060, *range(0x200B, 0x2010)])
_TOKEN = re.compile(r"[^\W_]+")
_PLACEHOLDER = re.compile(
    r"\[(?:NAME|ID|DATE|TIME|PHONE|EMAIL|URL|ADDRESS|PLACE)\]",
)


def _plain(text: str) -> str:
    """Compose accents and drop soft hyphens and the like, which would hide a name from its list."""
    return unicodedata.normalize("NFC", text.translate(_INVISIBLE))


class _Page:
    """Folded text and its words; placeholders are blanked so that nothing is found across them."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.folded = _PLACEHOLDER.sub(lambda m: "\0" * len(m[0]), text)
        self.folded = fold(self.folded)
        self.words: list[str] = []
        self.starts: list[int] = []
        self.ends: list[int] = []
        for match in _TOKEN.finditer(self.folded):
            self.words.append(match[0])
            self.starts.append(match.start())
            self.ends.append(match.end())

    @cached_property
    def _lines(self) -> tuple[list[int], list[bool]]:
        starts, mixed, at = [], [], 0
        for line in self.text.split("\n"):
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
        return self.text[self.starts[i]].isupper()

    def gap(self, i: int) -> str:
        """Return what stands between word `i` and the one before it."""
        return self.folded[self.ends[i - 1] if i else 0 : self.starts[i]]

    def sort(self, i: int) -> str:
        """Return "name", "both", "ordinary" or "unknown" (a word of no list)."""
        word = self.words[i]
        if not word.isalpha():
            return "ordinary"
        lists = _lists()
        named = word in lists.given or word in lists.surnames
        if word in lists.ordinary:
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
class _Lists:
    given: frozenset[str]
    surnames: frozenset[str]
    particles: frozenset[str]
    ordinary: frozenset[str]
    eponyms: frozenset[str]
    cities: frozenset[str]
    institutions: frozenset[str]
    method: frozenset[str]

    def ordinary_only(self, word: str) -> bool:
        if word in self.ordinary:
            return True
        named = word in self.given or word in self.surnames or word in self.cities
        return not named and bool(_ORDINARY_LOOK.search(word))


@cache
def _lists() -> _Lists:
    raw = resources.files(__package__).joinpath("deidentify_text.toml").read_text(encoding="utf-8")
    table = tomllib.loads(raw)

    def words(text: str) -> frozenset[str]:
        return frozenset(_TOKEN.findall(fold(text)))

    # Whatever the vocabulary of findings and places in the body is made of names no person.
    medical: set[str] = set()
    report = resources.files("medfinder.report")
    for name in ("synonyms.toml", "locations.toml", "languages.toml", "cues.toml"):
        medical |= words(report.joinpath(name).read_text(encoding="utf-8"))
    names, places, ordinary = table["names"], table["places"], table["ordinary"]
    eponyms = words(ordinary["eponyms"])
    return _Lists(
        given=words(names["given"]),
        surnames=words(names["surnames"]),
        particles=words(names["particles"]),
        ordinary=words(ordinary["es"]) | words(ordinary["en"]) | eponyms | medical | _TITLES,
        eponyms=eponyms,
        cities=words(places["cities"]),
        institutions=words(places["institutions"]),
        method=words(places["method"]),
    )


_TITLES = frozenset(
    [
        "dr",
        "dra",
        "dres",
        "dras",
        "doctor",
        "doctora",
        "doctores",
        "sr",
        "sra",
        "srta",
        "sres",
        "d",
        "dna",
        "don",
        "dona",
        "prof",
        "profesor",
        "profesora",
        "mr",
        "mrs",
        "ms",
        "miss",
        "lic",
        "ldo",
        "lda",
        "md",
    ]
)


# ---------------------------------------------------------------------------------------------
# Names

_TITLE = re.compile(
    r"(?<!\w)(?:dr|dra|dr\(a\)|dres|dras|doctor|doctora|doctores|doctoras|sr|sra|srta|sres|sras"
    r"|d|d\.?a|dna|don|dona|prof|profesora?|mr|mrs|ms|miss|lic|ldo|lda)\b\.?[ \t]{0,3}\n?"
)
# Titles that are also something else ("MR imaging", "D. aorta"): a capital or a list must agree.
_WEAK_TITLES = frozenset({"d", "da", "mr", "ms", "miss", "don", "dona", "lic", "prof"})
_AFTER = r"[ \t]{0,3}(?:[:=.-][ \t]{0,3})?\n?[ \t]{0,3}"
_ROLE = re.compile(
    r"(?<!\w)(?:pacientes?|nombre(?: y apellidos| del paciente| completo)?"
    r"|apellidos?(?: y nombre)?|medic[oa](?:[ ]\w{2,14}){0,2}|radiolog[oa](?:[ ]\w{2,14})?"
    r"|facultativ[oa](?:[ ]\w{2,14})?|residente|tecnic[oa]|solicitante|peticionari[oa]"
    r"|informante|firmante|adjunt[oa]|enfermer[oa]|madre|padre|familiar|espos[oa]|hij[oa]|contacto"
    r"|patient(?:'?s)?(?: full)?(?: name)?|full name|name|surname|first name|last name|given name"
    r"|family name|radiologist|reading physician|attending(?: physician| radiologist)?|resident"
    r"|fellow|technologist|referring(?: physician| doctor| provider| clinician)?"
    r"|ordering(?: physician| doctor| provider| clinician)?|physician|clinician|provider|gp"
    r"|next of kin|mother|father|wife|husband|contact|cc|attn|firma|firmado|fdo|signed|signature"
    r"|author|reporter|reader|transcriptionist|consultant)"
    r"[ \t]{0,3}(?:[:=]|\.:)[ \t]{0,3}\n?[ \t]{0,3}"
)
_BY = re.compile(
    r"(?<!\w)(?:(?:firmad|informad|realizad|revisad|validad|redactad|dictad|transcrit|supervisad"
    r"|solicitad|remitid|pedid|valorad|vist|derivad|indicad|efectuad|elaborad)[oa]s?"
    r"(?: (?:electronicamente|digitalmente))? por|(?:comentad|comunicad|hablad|contactad|avisad"
    r"|consultad|notificad|informad)[oa]s?(?: telefonicamente)? (?:con|a|al)|fdo|firmado|firma"
    r"|(?:electronically |digitally )?(?:signed|dictated|reported|read|reviewed|approved|verified"
    r"|transcribed|interpreted|performed|requested|ordered|referred|authenticated|finali[sz]ed"
    r"|prepared|typed|confirmed|completed|supervised) by"
    r"|(?:discussed|communicated|reviewed|shared|spoken|conveyed|relayed) (?:with|to)"
    r"|(?:notified|informed|called|telephoned|paged))" + _AFTER + r"(?:(?:el|la|los|the) )?"
)
_AND = re.compile(r"[ \t]{0,2}(?:,|;|/|&|(?<=[ \t])(?:y|e|and)(?=[ \t]))[ \t]{0,2}")
_POST_NOMINAL = re.compile(
    r"(?:,[ ]?|[ ])(?:MD|M\.D\.|DO|D\.O\.|PhD|FRCR|FRCPC|FRCP|MBBS|MBChB|RN|NP|PA-C|FACR|RT)\b"
)
_NAME_GAPS = frozenset((" ", "  ", "-", "'", "’", "^", "_", " -", "\t"))


def _name_run(page: _Page, at: int, *, strong: bool) -> int | None:
    """Return the offset where the name that begins at word `at` ends; None if it is no name.

    Args:
        strong: What stands before can only be followed by a name, so that a word of no list is one.
    """
    lists = _lists()
    end: int | None = None
    taken = initials = bridges = 0
    for i in range(at, min(at + 9, len(page.words))):
        if i > at:
            gap = page.gap(i)
            after_initial = len(page.words[i - 1]) == 1 and gap in (". ", ".")
            comma = gap in (", ", ",") and taken and page.words[i] in lists.given
            if gap not in _NAME_GAPS and not after_initial and not comma:
                break
            if comma and page.sort(i) == "both" and not page.is_capital(i):
                break
        word = page.words[i]
        cased = page.is_cased(i)
        capital = cased and page.is_capital(i)
        if word in lists.particles and not (capital and page.sort(i) == "name"):
            bridges += 1
            if bridges > 3 or (at == i and not strong):
                break
            continue
        if len(word) == 1:
            dotted = page.folded[page.ends[i] : page.ends[i] + 1] == "."
            if not word.isalpha() or not (capital or dotted):
                break
            initials += 1
            if taken or initials > 1:
                end = page.ends[i] + dotted
            continue
        sort = page.sort(i)
        first = not taken
        if sort == "ordinary" or taken >= 5:
            break
        if cased:
            # a lower-case word after a title is a slip of the pen; further on it is prose
            takes = capital and (strong or not first or sort != "both")
            takes = takes or (first and sort != "both" and (strong or sort == "name"))
        elif sort == "name":
            takes = True
        elif sort == "both":
            takes = strong if first else taken <= 2
        else:
            takes = strong if first else (taken < 3 and not bridges)
        if not takes:
            break
        taken += 1
        bridges = 0
        end = page.ends[i]
    return end if taken or initials > 1 else None


def _names(page: _Page) -> Iterator[_Span]:
    yield from _titled(page)
    for pattern, strong in ((_ROLE, True), (_BY, False)):
        for cue in pattern.finditer(page.folded):
            yield from _listed(page, cue.end(), strong or ":" in cue[0])
    yield from _paired(page)
    for mark in _POST_NOMINAL.finditer(page.text):
        yield from _before_post_nominal(page, mark.start())


def _titled(page: _Page) -> Iterator[_Span]:
    for cue in _TITLE.finditer(page.folded):
        title = cue[0].strip().rstrip(".").replace(".", "")
        at = page.token_at(cue.end())
        if at is None:
            continue
        if title in _WEAK_TITLES:
            agrees = page.sort(at) == "name" or (
                page.is_cased(at)
                and page.is_capital(at)
                and page.text[cue.start()].isupper()
                and (len(title) == 1 or not page.text[cue.start() : cue.start() + 2].isupper())
                and page.sort(at) in ("unknown", "both")
            )
            if not agrees:
                continue
        yield from _listed(page, cue.end(), True)


def _listed(page: _Page, offset: int, strong: bool) -> Iterator[_Span]:
    """Yield the names of a list that begins at `offset`: "García, López y Ruiz"."""
    for _ in range(6):
        at = page.token_at(offset)
        end = None if at is None else _name_run(page, at, strong=strong)
        if end is None:
            return
        yield offset, end
        more = _AND.match(page.folded, end)
        if not more:
            return
        offset, strong = more.end(), False


def _paired(page: _Page) -> Iterator[_Span]:
    """Yield given names beside surnames, and two surnames side by side, without any cue."""
    lists = _lists()

    def surname(i: int) -> bool:
        return page.words[i] in lists.surnames and page.sort(i) == "name" and shown(i)

    def shown(i: int) -> bool:
        return not page.is_cased(i) or page.is_capital(i)

    n, i = len(page.words), 0
    while i < n:
        word = page.words[i]
        if word in lists.given and page.sort(i) == "name" and shown(i):
            first = i
            while first and i - first < 3 and page.gap(first) in (" ", ", ", ",", "-", "^", "_"):
                if not surname(first - 1):
                    break
                first -= 1
            back = i - first
            end = _name_run(page, i, strong=False)
            words = page.words[i + 1 : bisect_left(page.starts, end)] if end else []
            follows = any(w in lists.surnames for w in words) or (
                page.is_cased(i) and any(len(w) > 2 and w not in lists.given for w in words)
            )
            comma = back and "," in page.gap(i)
            if end and (follows or comma or back >= 2):
                yield page.starts[first if comma or back >= 2 else i], end
                i = bisect_left(page.starts, end)
                continue
        elif surname(i) and i + 1 < n and page.gap(i + 1) in (" ", "-") and surname(i + 1):
            end = _name_run(page, i, strong=False)
            if end:
                yield page.starts[i], end
        i += 1


def _before_post_nominal(page: _Page, offset: int) -> Iterator[_Span]:
    last = bisect_left(page.starts, offset) - 1
    if last < 0 or page.ends[last] not in (offset, offset - 1):
        return
    first = last + 1
    while first and last - first < 3:
        i = first - 1
        if first <= last and page.gap(first) not in (*_NAME_GAPS, ". "):
            break
        if not page.is_capital(i) or (page.sort(i) == "ordinary" and len(page.words[i]) > 1):
            break
        first = i
    if first <= last and len(page.words[last]) > 1:
        yield page.starts[first], page.ends[last]


# ---------------------------------------------------------------------------------------------
# Numbers: ids, dates, times, phones

_NO_UNIT = r"(?![ ]?(?:mm|cm|ml|cc|hu|uh|kg|mgy?|gy|mg|msv|kv|ma|mas|%|x[ ]?\d|anos?|years?)\b)"
_NUMBER_SIGN = r"(?:[ ]?(?:n[.ºo°]{1,3}|num(?:ero)?\.?|number|no\.?|nr\.?|#|id)(?![^\W\d]))?[ ]?[:#=.-]{0,2}[ ]{0,3}"
_VALUE = r"(?P<id>[^\W_](?:[\w./-]{0,38}[^\W_])?)"
_ID_CUE = re.compile(
    r"(?<!\w)(?:(?:n[.ºo°]{1,3}|num(?:ero)?\.?|no\.)[ ]?(?:de[ ])?)?"
    r"(?:(?P<sure>d\.?n\.?i\.?|n\.?i\.?[ef]\.?|pasaporte|passport|sip|n\.?h\.?c\.?|hcl?|h\.c\.|cipa?|nuhsa|nass|naf|s\.?s\.?n\.?"
    r"|historia(?: clinica)?|seguridad social|tarjeta sanitaria|afiliacion|poliza|colegiad[oa]|col\.|n\.?º? col\.?"
    r"|accession|acc\.?(?= ?(?:n|#|:))|mrn|medical record|hospital(?= n[ou.])|social security|nhs|npi|dea"
    r"|peticion|solicitud|expediente|identificador|patient id|paciente id|id(?:[ ]paciente)?(?= ?[:#=n])|study id|license|licence"
    r"|account|cuenta|habitacion|hab\.|cama|room|ward(?= \d)|locker|matricula|chart)"
    r"|(?P<weak>episodio|episode|visit|encounter|referencia|ref\.?|folio|informe|report|estudio|study|exam(?:en)?|case|caso|order|lote|serial|paciente|patient|series uid|box))"
    + _NUMBER_SIGN
    + _VALUE
    + _NO_UNIT
)
_IDS = [
    re.compile(p)
    for p in (
        r"(?<![\w.])\d{1,5}(?:\.\d{1,30}){5,20}(?![\w])",  # a UID
        r"(?<!\w)\d{2}\.?\d{3}\.?\d{3}[ -]?[a-z](?!\w)",  # DNI
        r"(?<!\w)[xyz][ .-]?\d{1,2}\.?\d{3}\.?\d{3}[ -]?[a-z](?!\w)",  # NIE
        r"(?<!\w)[a-z]{2}\d{2}(?:[ -]?\d{4}){4,7}(?!\w)",  # IBAN
        r"(?<!\w)\d{4}(?:[ -]\d{4}){3}(?!\w)",  # a card
        r"(?<!\w)\d{2}[ /-]\d{7,10}[ /-]\d{2}(?!\w)",  # Spanish social security
        r"(?<![\w-])\d{3}-\d{2}-\d{4}(?![\w-])",  # US social security
        r"(?<!\w)(?:sub|ses)-[a-z0-9]{3,24}",  # BIMCV
        r"(?<!\w)[a-z]{4}\d{10,16}(?!\w)",  # CIP
    )
]
_LONG_NUMBER = re.compile(r"(?<![\w.,])\d{7,64}(?!\w)")
_CODE = re.compile(r"(?<!\w)(?=\w{0,12}[^\W\d])\w{6,64}(?!\w)")
_DIGIT = re.compile(r"\d")
_UNIT_END = re.compile(
    r"^\d+(?:x\d+)*(?:mm|cm|ml|cc|mg|mcg|ug|ui|iu|u|g|l|hz|kv|kvp|ma|mas|x\d+)\d?$|^\d+(?:x\d+)+$"
)


def _ids(page: _Page) -> Iterator[_Span]:
    for match in _ID_CUE.finditer(page.folded):
        value = match["id"]
        digits = len(_DIGIT.findall(value))
        cue = (match["sure"] or "").replace(".", "")
        least = 4 if match["weak"] else 1 if cue in ("habitacion", "hab", "cama", "room") else 3
        year = re.fullmatch(r"(?:19|20)\d\d", value)
        if digits >= least and not year and not _UNIT_END.match(value):
            yield match.span("id")
    for pattern in _IDS:
        for match in pattern.finditer(page.folded):
            yield match.span()
    for match in _LONG_NUMBER.finditer(page.folded):
        if not _is_compact_date(match[0]):
            yield match.span()
    for match in _CODE.finditer(page.folded):
        # a number with letters in it; "100000ui" is a dose
        if len(_DIGIT.findall(match[0])) >= 5 and not _UNIT_END.match(match[0]):
            yield match.span()


_MONTHS = (
    "enero|febrero|marzo|abril|mayo|junio|julio|agosto|septiembre|setiembre|octubre|noviembre"
    "|diciembre|january|february|march|april|june|july|august|september|october|november|december"
)
_SHORT = "ene|feb|mar|abr|may|jun|jul|ago|sept|sep|set|oct|nov|dic|jan|apr|aug|dec"
_ANY_MONTH = f"(?:{_MONTHS}|(?:{_SHORT})\\.?)"
_YEAR = r"(?:(?:19|20)\d\d\d?|[12]\.\d{3})"  # with a digit too many
_DAY = r"(?:3[01]|[12]\d|0?[1-9])"
_DAY_WORD = (
    "(?:primero|uno|un|dos|tres|cuatro|cinco|seis|siete|ocho|nueve|diez|once|doce|trece|catorce|quince"
    "|dieciseis|diecisiete|dieciocho|diecinueve|veinte|veintiun|veintiuno|veintidos|veintitres"
    "|veinticuatro|veinticinco|veintiseis|veintisiete|veintiocho|veintinueve|treinta"
    "|treinta y uno)"
)
_DATES = [
    re.compile(p)
    for p in (
        # 12 de marzo (de 2020), 12th of March 2020, 12-mar-2020, doce de marzo
        rf"(?<![\w.,/])(?:{_DAY}(?:st|nd|rd|th|º|°)?|{_DAY_WORD})[ ]?(?:de[ ]|of[ ]|[-/. ])?[ ]?(?:{_MONTHS})"
        rf"(?![^\W\d])(?:[ ]?(?:,|de[ ]|del[ ]|[-/. ])[ ]?(?:{_YEAR}|\d\d)(?!\w))?",
        rf"(?<![\w.,/])(?:{_DAY}(?:st|nd|rd|th|º|°)?)[ ]?(?:de[ ]|of[ ]|[-/. ])?[ ]?{_ANY_MONTH}(?![^\W\d])"
        rf"[ ]?(?:,|de[ ]|del[ ]|[-/. '’])?[ ]?(?:{_YEAR}|(?<=[-/'’])\d\d)(?!\w)",
        rf"(?<!\w){_DAY}(?:st|nd|rd|th)[ ](?:of[ ])?{_ANY_MONTH}(?!\w)",
        # March 12(, 2020); marzo de 2020; mar-20
        rf"(?<!\w){_ANY_MONTH}[ ]{_DAY}(?:st|nd|rd|th)?,?[ ]{_YEAR}(?!\w)",
        rf"(?<!\w)(?:{_MONTHS.replace('march|', '')}|jan|feb|apr|jun|jul|aug|sept|nov)\.?[ ]{_DAY}(?:st|nd|rd|th)?(?![\w.,]*\d)(?!\w){_NO_UNIT}",
        rf"(?<=on |of |by |to )(?:march|mar|may|sep|dec|oct)\.?[ ]{_DAY}(?:st|nd|rd|th)?(?!\w){_NO_UNIT}",
        rf"(?<!\w)(?:march|may|mar|sep|dec|oct)\.?[ ]{_DAY}(?:st|nd|rd|th)(?!\w)",
        rf"(?<!\w){_ANY_MONTH}[ ]?(?:de[ ]|del[ ]|of[ ]|[-/,. '’])?[ ]?(?:{_YEAR}|(?<=[-/'’])\d\d)(?!\w)",
        # a month by itself, where it can be nothing else
        rf"(?<!\w)(?:{_MONTHS.replace('march|', '').replace('mayo|', '')})(?!\w)",
        r"(?<!\w)(?<=en |de )mayo(?!\w)|(?<=desde )mayo(?!\w)|(?<=hasta )mayo(?!\w)",
        # 2020-03-12, 2020/3/12, with an ISO time
        r"(?<![\d/.,-])(?:19|20)\d\d[ ]?([-/.])[ ]?(?:1[0-2]|0?[1-9])[ ]?\1[ ]?(?:3[01]|[12]\d|0?[1-9])"
        r"(?:t\d\d:?\d\d(?::?\d\d(?:\.\d{1,6})?)?(?:z|[+-]\d\d:?\d\d)?)?(?![\d-])",
        # 3/2020
        r"(?<![\d/.,x-])(?:1[0-2]|0?[1-9])[ ]?[/-][ ]?(?:19|20)\d\d(?!\d)(?![/-]\d)",
    )
]
_NUMERIC_DATE = re.compile(
    r"(?<![\d/-])(?<!\d[.,])(\d{1,2})[ ]?([/.-])[ ]?(\d{1,2})[ ]?\2[ ]?((?:19|20)\d\d|\d\d)(?!\d)(?![/-]\d)"
    + _NO_UNIT
)
_COUNTED = re.compile(
    r"(?:costillas?|arcos?(?: costales)?|segmentos?|ribs?|segments?|vertebras?|levels?|niveles?|imag\w{1,4}"
    r"|im|ima?|cortes?|slices?|series?|se|grados?|estadios?|ratio|relacion|th|cuerpos? vertebral(?:es)?)[.:]?[ ]{0,2}$"
)
_DAY_MONTH = re.compile(
    r"(?<!\w)(?:fecha|dia|dated|date|tc|tac|ct|rx|study|estudio|previ[oa]|prior|exam(?:en)?|scan|control|realizad[oa]|performed)"
    r"(?:[ ](?:de|del|el|la|dia|fecha|from|of|on|the|previ[oa])){0,4}[ :]{1,3}"
    r"(?P<date>(?P<d>\d{1,2})(?:[/-]|(?<=dated \d\d)\.|(?<=fecha \d\d)\.)(?P<m>\d{1,2}))(?![\d/x-])(?![.,]\d)"
    + _NO_UNIT
)
# Months that are also verbs: a capital, or what stands before, tells them apart.
_CAPITAL_MONTH = re.compile(
    r"(?<!\w)(?:March|May|Mar\.?|Sep\.?|Dec\.?|Oct\.?)[ ](?:3[01]|[12]\d|0?[1-9])(?![\w.,]*\d)(?!\w)"
    r"(?![ ]?(?:mm|cm|ml|HU|x|%))|(?<=[a-z] )March(?!\w)|(?<=in )May(?!\w)|(?<=since )May(?!\w)"
)
_DATED_MONTH = re.compile(r"(?<!\w)(?:dated|fecha) (?P<date>march|may|mayo|mar|sep|dec)(?!\w)")
_COMPACT_DATE = re.compile(r"(?<![\w.,])(?:19|20)\d{6}(?!\w)")


def _is_compact_date(digits: str) -> bool:
    return (
        len(digits) == 8
        and digits[:2] in ("19", "20")
        and 1 <= int(digits[4:6]) <= 12
        and 1 <= int(digits[6:]) <= 31
    )


def _dates(page: _Page) -> Iterator[_Span]:
    folded = page.folded
    for pattern in _DATES:
        for match in pattern.finditer(folded):
            yield match.span()
    for match in _NUMERIC_DATE.finditer(folded):
        a, sign, b, year = int(match[1]), match[2], int(match[3]), match[4]
        plausible = (1 <= a <= 31 and 1 <= b <= 12) or (1 <= b <= 31 and 1 <= a <= 12)
        if len(year) == 2:
            # "10-11-12" can be ribs, "1.2.03" a heading; a short year needs a date's full form
            full = len(match[1]) == len(match[3]) == 2 or sign == "/"
            plausible = plausible and full
            if _COUNTED.search(folded, max(0, match.start() - 24), match.start()):
                continue
        elif sign == "/":
            plausible = True  # a slip of the pen is a date all the same
        if plausible:
            yield match.span()
    for match in _DAY_MONTH.finditer(folded):
        a, b = int(match["d"]), int(match["m"])
        if (1 <= a <= 31 and 1 <= b <= 12) or (1 <= b <= 31 and 1 <= a <= 12):
            yield match.span("date")
    for match in _CAPITAL_MONTH.finditer(page.text):
        yield match.span()
    for match in _DATED_MONTH.finditer(folded):
        yield match.span("date")
    for match in _COMPACT_DATE.finditer(folded):
        if _is_compact_date(match[0]):
            yield match.span()


_TIMES = [
    re.compile(p)
    for p in (
        r"(?<![\w:.,/])(?:[01]?\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:\.\d{1,6})?)?(?![\d:])(?:[ ]?(?:h|hs|hrs?|horas|am|pm|a\.m\.|p\.m\.)(?!\w))?",
        r"(?<![\w:.,/])(?:[01]?\d|2[0-3])[.][0-5]\d[ ]?(?:h|hs|hrs|horas|am|pm|a\.m\.|p\.m\.)(?!\w)",
        r"(?<![\w:.,/-])(?:[01]?\d|2[0-3])h[0-5]\d(?:m|min)?(?!\w)",
        r"(?<![\w:.,/-])(?:1[0-2]|0?[1-9])[ ]?(?:a\.m\.|p\.m\.|am|pm)(?!\w)",
        r"(?<=a las )(?:[01]?\d|2[0-3])(?:[ ]?(?:h|hs|hrs|horas))?(?![\w:.,/])",
        r"(?<=at )(?:[01]\d|2[0-3])[0-5]\d[ ]?(?:h|hrs|hours)(?!\w)",
    )
]


def _times(page: _Page) -> Iterator[_Span]:
    for pattern in _TIMES:
        for match in pattern.finditer(page.folded):
            if not _COUNTED.search(page.folded, max(0, match.start() - 24), match.start()):
                yield match.span()


_PHONES = [
    re.compile(p)
    for p in (
        r"(?<![\w.+])(?:\+|00)[1-9]\d{0,2}[ .-]?\(?\d{1,4}\)?(?:[ .-]?\d{2,4}){2,4}(?!\w)",
        r"(?<![\w.,-])[6789]\d{2}[ .-]\d{3}[ .-]\d{3}(?![\w-])",
        r"(?<![\w.,-])[6789]\d{2}(?:[ .-]\d{2}){3}(?![\w-])",
        r"(?<![\w.,-])[89]\d[ .-]\d{3}[ .-]\d{2}[ .-]\d{2}(?![\w-])",
        r"(?<![\w.,])\(?\d{3}\)?[ .-]{1,2}\d{3}[ .-]\d{4}(?![\w-])",
        r"(?<![\w.,])\(?0\d{2,4}\)?[ -]\d{3,4}[ -]?\d{3,4}(?![\w-])",
        r"(?<![\w.,])[679]\d{8}(?!\w)",
    )
]
_PHONE_CUE = re.compile(
    r"(?<!\w)(?:(?P<any>t(?:e)?le?f?n?o?s?\.?|telefono|tel|phone|telephone|fax|pager|bleep|beeper|whatsapp|busca(?=[ :]{1,2}\d)|ext\.(?=[ ]?\d{3})|extension(?=:? ?\d{4,5}\b))"
    r"|(?P<long>movil|mobile|cell|contacto|contact|llamar al?|call))"
    r"(?:[ ](?:de[ ]contacto|movil|fijo|number|no\.?|directo|at))?[ ]?[:.=-]{0,2}[ ]{0,2}"
    r"(?P<number>[+(]{0,2}\d(?:[ ().-]{0,2}\d){2,16})(?!\w)" + _NO_UNIT
)


def _phones(page: _Page) -> Iterator[_Span]:
    for pattern in _PHONES:
        for match in pattern.finditer(page.folded):
            yield match.span()
    for match in _PHONE_CUE.finditer(page.folded):
        if match["any"] or len(_DIGIT.findall(match["number"])) >= 6:
            yield match.span("number")


_EMAIL = re.compile(
    r"(?<![\w.+-])[\w.+-]{1,64}[ ]?(?:@|\(at\)|\[at\]|\(arroba\))[ ]?[\w-]{1,63}(?:\.[\w-]{1,63}){0,6}"
)
_URL = re.compile(
    r"(?<!\w)(?:(?:https?|ftp|file|dicom|ldap)://[^\s\0<>\"]{1,500}|www\.[^\s\0<>\"]{1,500}"
    r"|(?:[a-z0-9-]{2,63}\.){1,5}(?:com|org|net|es|eu|edu|gov|info|cat|uk|io|local|lan)(?:/[^\s\0<>\"]{0,300})?(?!\w)"
    r"|\d{1,3}(?:\.\d{1,3}){3}(?![\w.])|\\\\[\w.$-]{1,63}(?:\\[^\s\0<>\"]{1,200}))"
)
_SENTENCE_JOIN = re.compile(r"^[a-z]{2,20}\.(?:es|net|info|local|cat)$")


def _emails(page: _Page) -> Iterator[_Span]:
    for match in _EMAIL.finditer(page.folded):
        if "." in match[0] or "(" in match[0] or "[" in match[0]:
            yield match.span()


def _urls(page: _Page) -> Iterator[_Span]:
    for match in _URL.finditer(page.folded):
        # "normal.es recomendable": the space after a full stop was lost
        if not _SENTENCE_JOIN.match(match[0]):
            end = match.end()
            while end > match.start() and page.folded[end - 1] in ".,;:)":
                end -= 1
            yield match.start(), end


_AGES = [
    re.compile(p)
    for p in (
        r"(?<![\w.,/-])(?:(?:over|above|mas de|mayor de|>)[ ]?)?(?P<age>\d{2,3})[ -]{0,2}"
        r"(?:anos?(?![^\W\d])|a\.(?=[ ,])|years?[ -]old|year[ -]old|yrs?[ -]?old|y/?o(?!\w)|years? of age|yo(?!\w))",
        r"(?<!\w)(?:edad|age|aged)[ ]?[:=]?[ ]?(?:de |of )?(?P<age>\d{2,3})(?![\w.,]*\d)(?!\w)",
        r"(?<!\w)(?P<age>noventa(?: y (?:uno?|dos|tres|cuatro|cinco|seis|siete|ocho|nueve))?|cien|ciento (?:uno?|dos|tres|cuatro|cinco)) anos",
        r"(?<!\w)(?P<age>ninety(?:[ -](?:one|two|three|four|five|six|seven|eight|nine))?|(?:one )?hundred)[ -]years?[ -](?:old|of age)",
    )
]


def _ages(page: _Page) -> Iterator[_Span]:
    for pattern in _AGES:
        for match in pattern.finditer(page.folded):
            age = match["age"]
            if not age.isdecimal() or OLDEST_AGE < int(age) <= 130:
                swallowed = match.start() if pattern is _AGES[0] else match.start("age")
                yield swallowed, match.end("age")


# ---------------------------------------------------------------------------------------------
# Addresses and places

_STREET = re.compile(
    r"(?<!\w)(?:(?P<sure>calle|avda|avenida|paseo|plaza|pza|plza|carretera|ctra|urbanizacion|travesia|rambla"
    r"|carrer|passeig|avinguda|gran via|poligono industrial|calle/)"
    r"|(?P<short>c/|cl\.|c\.|av\.|pl\.|camino|cno\.?|ronda|partida|barrio|poligono|urb\.|p[ºo]\.?))\.?[ ]{0,2}"
)
_HOUSE = re.compile(
    r"[ ]?,?[ ]?(?:n[.ºo°]{1,3}|num\.?|numero|no\.)?[ ]?(?P<n>\d{1,4}(?:[ ]?bis)?[a-z]?|s/n)(?![\w])(?![.,]\d)"
    + _NO_UNIT
    + r"(?:[ ]?[,-]?[ ]?(?:\d{1,2}[ ]?[ºªo°a]{1,2}(?:[ ]?[-,]?[ ]?[a-z](?!\w)|[ ]?(?:izda|dcha|izq|der)(?!\w))?|(?:piso|pta|puerta|esc|escalera|bajo|bloque|portal|planta)\.?(?:[ ]?\d{1,3}[ºªa]?(?!\w))?)){0,3}"
)
_US_STREET = re.compile(
    r"(?<![\w.,/-])\d{1,5}[a-z]?,?[ ](?P<name>(?:[^\W\d_]{1,20}\.?[ ]){1,4})"
    r"(?:(?P<sure>street|road|avenue|boulevard|crescent|terrace|blvd)|(?P<weak>st|rd|ave|lane|ln|drive|dr|court|close|way|square|place))(?![^\W_])\.?"
    r"(?:,?[ ](?:apt|apartment|suite|ste|unit|flat|floor)\.?[ ]?#?[a-z0-9-]{1,6}(?!\w))?"
)
_POSTCODES = [
    re.compile(p)
    for p in (
        r"(?<!\w)(?:c\.?p\.?|codigo postal|cod\. postal|zip(?: code)?|postcode|postal code)[ ]?[:.-]?[ ]?\d{4,5}(?:-\d{4})?(?!\w)",
        r"(?<!\w)(?:p\.?[ ]?o\.? box|apartado(?: de correos)?|apdo\.?)[ ]?:?[ ]?\d{1,6}(?!\w)",
    )
]
_UK_POSTCODE = re.compile(r"(?<!\w)[A-Z]{1,2}\d[A-Z\d]? \d[ABD-HJLNP-UW-Z]{2}(?!\w)")
_US_POSTCODE = re.compile(r"(?<!\w)[A-Z]{2} \d{5}(?:-\d{4})?(?!\w)")
_FIVE = re.compile(r"(?<![\w.,])\(?\d{5}\)?(?!\w)(?![.,]\d)")


def _addresses(page: _Page) -> Iterator[_Span]:
    for cue in _STREET.finditer(page.folded):
        at = page.token_at(cue.end())
        if at is None:
            continue
        span = _street(page, cue.start(), at, cue["sure"] is not None)
        if span:
            yield span
    for match in _US_STREET.finditer(page.folded):
        first = page.token_at(match.start("name"))
        if first is None:
            continue
        last = bisect_left(page.starts, match.end("name"))
        capitals = all(
            page.is_capital(i) and page.is_cased(i)
            for i in range(first, last)
            if page.words[i] not in _lists().particles
        )
        named = any(page.sort(i) in ("name", "unknown", "both") for i in range(first, last))
        if match["sure"] or (capitals and named):
            yield match.span()
    for pattern in _POSTCODES:
        for match in pattern.finditer(page.folded):
            yield match.span()
    for match in (*_UK_POSTCODE.finditer(page.text), *_US_POSTCODE.finditer(page.text)):
        if not match[0].endswith("HU"):
            yield match.span()
    for match in _FIVE.finditer(page.folded):
        i = bisect_left(page.starts, match.start() + match[0].startswith("("))
        for j in (i - 1, i + 1):
            beside = page.gap(max(i, j)) if 0 <= j < len(page.words) else "\n\n"
            if len(beside) <= 3 and page.words[j] in _lists().cities:
                yield min(page.starts[i], page.starts[j]), max(page.ends[i], page.ends[j])


_NOT_STREETS = frozenset(["contraste", "civ", "iv", "sin", "con", "y", "de", "cont", "contrast"])


def _street(page: _Page, start: int, at: int, sure: bool) -> _Span | None:
    """Return a Spanish address: the street's words and, where it has one, its number."""
    lists = _lists()
    last = at - 1
    for i in range(at, min(at + 7, len(page.words))):
        if i > at and page.gap(i) not in (" ", ". ", " - ", "-", "'", "’"):
            break
        word = page.words[i]
        if not word.isalpha() or (i == at and word in _NOT_STREETS):
            break
        last = i
        house = _HOUSE.match(page.folded, page.ends[i])
        if house:
            return start, house.end()
    if last < at or not sure:
        return None
    # without a number the words themselves must be a name
    if page.is_cased(at) and page.is_capital(at) and page.sort(at) != "ordinary":
        end = at
        for i in range(at + 1, last + 1):
            if page.is_capital(i):
                end = i
            elif page.words[i] not in lists.particles:
                break
        return start, page.ends[end]
    if not page.is_cased(at) and page.sort(at) in ("name", "unknown"):
        end_offset = _name_run(page, at, strong=False)
        return (start, end_offset) if end_offset else None
    return None


_FACILITY = re.compile(
    r"(?<!\w)(?:(?P<sure>hospital|hosp\.?|h\.u\.|complejo hospitalario|centro de salud|centro medico|policlinic[ao]|sanatorio"
    r"|ambulatorio|consultorio|centro de especialidades|hospital universitario|c\.s\.)|(?P<weak>clinica|residencia|instituto|fundacion|colegio|universidad|university|institute|parroquia|carcel|prision))[ ]{1,2}"
)
_FACILITY_AFTER = re.compile(
    r"(?<!\w)(?:hospitals?|medical cent(?:er|re)|clinic|infirmary|health cent(?:er|re)|nursing home|hospice|care home|university"
    r"|medical school|imaging cent(?:er|re)|health system|healthcare|cancer cent(?:er|re)|radiology (?:group|associates))(?!\w)"
)
_DESCRIPTORS = frozenset(
    [
        "general",
        "clinico",
        "universitario",
        "universitari",
        "provincial",
        "comarcal",
        "regional",
        "militar",
        "infantil",
        "materno",
        "politecnico",
        "central",
        "university",
        "memorial",
        "community",
        "veterans",
        "national",
        "county",
        "district",
        "royal",
        "teaching",
        "saint",
        "st",
        "santa",
        "san",
        "nuestra",
        "senora",
        "virgen",
    ]
)
_JOINS = frozenset(["de", "del", "la", "las", "los", "el", "y", "i", "of", "the", "and", "for"])
_CITY_CUE = re.compile(
    r"(?<!\w)(?:en|de|desde|hacia|a|por|in|from|to|near|at|of|visiting|visito|vive en)[ ]$"
)
_CITY_PHRASE = re.compile(
    r"(?<!\w)(?:nueva york|new york|los angeles|san francisco|san diego|san sebastian|palma de mallorca|las palmas|ciudad real"
    r"|buenos aires|sao paulo|mexico city|ciudad de mexico|hong kong|new orleans|las vegas|san antonio|santa cruz de tenerife|castellon de la plana"
    r"|quart de poblet|la coruna|a coruna|el cairo|la paz|santiago de compostela|jerez de la frontera|la eliana|el puig)(?!\w)"
)


def _places(page: _Page) -> Iterator[_Span]:
    for cue in _FACILITY.finditer(page.folded):
        at = page.token_at(cue.end())
        if at is None:
            continue
        weak = cue["weak"] is not None
        end = _facility_run(page, at, weak)
        if end is not None:
            if weak and page.is_cased(at) and not page.text[cue.start()].isupper():
                continue
            yield cue.start(), end
    for cue in _FACILITY_AFTER.finditer(page.folded):
        first = _facility_start(page, bisect_left(page.starts, cue.start()))
        if first is not None:
            yield first, cue.end()
    for match in _CITY_PHRASE.finditer(page.folded):
        yield match.span()
    yield from _cities(page)


def _is_place_word(page: _Page, i: int, *, weak: bool) -> bool:
    lists, word = _lists(), page.words[i]
    cased = page.is_cased(i)
    if cased and not page.is_capital(i):
        return False
    if word in lists.cities or word in lists.institutions or page.sort(i) == "name":
        return True
    if word in _DESCRIPTORS:
        return not weak or cased
    if cased:
        return page.sort(i) in ("unknown", "both")
    return page.sort(i) == "both" and not weak


def _facility_run(page: _Page, at: int, weak: bool) -> int | None:
    end, bridges, taken = None, 0, 0
    for i in range(at, min(at + 9, len(page.words))):
        if i > at and page.gap(i) not in (" ", "-", "'", "’", ". ", "  "):
            break
        if i > at and page.gap(i) == ". " and len(page.words[i - 1]) > 3:
            break
        word = page.words[i]
        if word in _JOINS:
            bridges += 1
            if bridges > 2:
                break
            continue
        if word in _TITLES:
            continue
        stranger = not weak and not taken and not page.is_cased(i) and page.sort(i) == "unknown"
        if not (_is_place_word(page, i, weak=weak) or (stranger and not bridges)):
            break
        end, bridges, taken = page.ends[i], 0, taken + 1
    return end


def _facility_start(page: _Page, at: int) -> int | None:
    """Return where the name before "Hospital" begins; None where only common words stand there."""
    first, named = None, False
    for i in range(at - 1, max(-1, at - 7), -1):
        gap = page.gap(i + 1) if i + 1 < len(page.words) else ""
        if gap not in (" ", "-", "'", "’", ". ", "  "):
            break
        word = page.words[i]
        if gap == ". " and word not in ("st", "mt"):
            break
        if word == "s" and page.gap(i) in ("'", "’"):
            continue
        if word in _JOINS:
            continue
        if not _is_place_word(page, i, weak=False):
            break
        named = named or word not in _DESCRIPTORS
        first = page.starts[i]
    return first if named else None


def _cities(page: _Page) -> Iterator[_Span]:
    lists = _lists()
    for i, word in enumerate(page.words):
        if word not in lists.cities:
            continue
        cased = page.is_cased(i)
        if cased and not page.is_capital(i):
            continue
        if not cased and (word in lists.ordinary or word in lists.eponyms):
            continue
        around = page.words[max(0, i - 3) : i] + page.words[i + 1 : i + 3]
        if lists.method.intersection(around):
            continue
        before = page.folded[max(0, page.starts[i] - 12) : page.starts[i]]
        alone = (not before or before.endswith("\n")) and page.folded[
            page.ends[i] : page.ends[i] + 1
        ] == ","
        if _CITY_CUE.search(before) or alone:
            yield page.starts[i], page.ends[i]


# ---------------------------------------------------------------------------------------------
# What the study's own headers say


@dataclass(frozen=True)
class _Known:
    """What is looked for: numbers as their letters and digits alone, names as their words."""

    codes: tuple[str, ...] = ()
    joined: tuple[str, ...] = ()
    names: tuple[frozenset[str], ...] = ()


def _known(known: Iterable[str]) -> _Known:
    codes: set[str] = set()
    joined: set[str] = set()
    names: list[frozenset[str]] = []
    for item in sorted(set(known))[:_MAX_KNOWN]:
        words = _TOKEN.findall(fold(_plain(item)))
        compact = "".join(words)
        if any(char.isdigit() for char in compact):
            if len(compact) >= 4:
                codes.add(compact)
            words = [word for word in words if word.isalpha()]
        parts = [word for word in words if word not in _lists().particles]
        if parts:
            names.append(frozenset(parts))
        for order in (words, words[::-1], words[-1:] + words[:-1], words[1:] + words[:1]):
            if len(words) > 1 and len("".join(order)) >= 8:
                joined.add("".join(order))
    by_length = sorted(codes, key=lambda code: (-len(code), code))
    return _Known(tuple(by_length), tuple(sorted(joined)), tuple(names))


def _known_codes(page: _Page, known: _Known) -> Iterator[_Span]:
    yield from _compact_hits(page, known.codes)


def _known_names(page: _Page, known: _Known) -> Iterator[_Span]:
    yield from _compact_hits(page, known.joined)
    lists = _lists()
    n = len(page.words)
    for parts in known.names:
        i = 0
        while i < n:
            if page.words[i] not in parts:
                i += 1
                continue
            last, hits, j = i, {page.words[i]}, i + 1
            while j < n and len(gap := page.gap(j)) <= 3 and "\n" not in gap and "\0" not in gap:
                word = page.words[j]
                if word in parts:
                    hits.add(word)
                    last = j
                elif (word not in lists.particles and len(word) > 1) or j - last > 3:
                    break
                j += 1
            # one word of the name alone, unless reports use it for something else
            alone = page.words[i]
            ordinary = lists.ordinary_only(alone)
            if len(hits) > 1 or (len(alone) >= 3 and not ordinary):
                yield page.starts[i], page.ends[last]
            i = last + 1


def _compact_hits(page: _Page, codes: tuple[str, ...]) -> Iterator[_Span]:
    """Yield where a code stands, whatever separators are in it, from a word's start to an end."""
    if not codes:
        return
    compact = "".join(page.words)
    edges = [0]
    for word in page.words:
        edges.append(edges[-1] + len(word))
    for code in codes:
        at = compact.find(code)
        while at >= 0:
            first = bisect_right(edges, at) - 1
            last = bisect_left(edges, at + len(code)) - 1
            whole = edges[first] == at and edges[last + 1] == at + len(code)
            near = all(
                len(gap := page.gap(i)) <= 3 and "\0" not in gap for i in range(first + 1, last + 1)
            )
            # inside a longer word only where the code is long enough to be no accident
            if near and (whole or len(code) >= 6):
                yield page.starts[first], page.ends[last]
            at = compact.find(code, at + 1)


# ---------------------------------------------------------------------------------------------
# All kinds together

_RECOGNISERS: tuple[tuple[Kind, Callable[[_Page], Iterator[_Span]]], ...] = (
    ("email", _emails),
    ("url", _urls),
    ("date", _dates),
    ("time", _times),
    ("phone", _phones),
    ("id", _ids),
    ("address", _addresses),
    ("place", _places),
    ("name", _names),
    ("age", _ages),
)


def _found(page: _Page, known: _Known) -> list[tuple[int, int, Kind]]:
    """Return what every recogniser found, joined where it overlaps, in order.

    The longest stretch gives its kind; of equal ones the recogniser that stands first.
    """
    spans: list[tuple[int, int, int, Kind]] = []
    for rank, (kind, find) in enumerate(_RECOGNISERS):
        spans += [(start, end, rank, kind) for start, end in find(page)]
    spans += [(start, end, -1, "id") for start, end in _known_codes(page, known)]
    spans += [(start, end, -1, "name") for start, end in _known_names(page, known)]
    whole = [(*_whole_words(page, start, end), rank, kind) for start, end, rank, kind in spans]
    whole.sort()
    out: list[tuple[int, int, Kind]] = []
    best: tuple[int, int] = (0, 0)
    for start, end, rank, kind in whole:
        if end <= start:
            continue
        weight = (end - start, -rank)
        if out and start < out[-1][1]:
            first, last, was = out[-1]
            out[-1] = (first, max(last, end), kind if weight > best else was)
            best = max(best, weight)
        else:
            out.append((start, end, kind))
            best = weight
    return out


def _whole_words(page: _Page, start: int, end: int) -> _Span:
    """Widen a span to the words it cuts, so that no rest of a name or number stays behind."""
    i = bisect_right(page.starts, start) - 1
    if i >= 0 and page.starts[i] < start < page.ends[i]:
        start = page.starts[i]
    j = bisect_right(page.starts, end - 1) - 1
    if j >= 0 and page.starts[j] < end < page.ends[j]:
        end = page.ends[j]
    return start, end
