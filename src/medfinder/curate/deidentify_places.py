"""Where people live and are treated: streets, postcodes, hospitals, and cities after "in" or "from"."""

import re
from bisect import bisect_left
from collections.abc import Iterator

from medfinder.curate.deidentify_names import name_run
from medfinder.curate.deidentify_numbers import NO_UNIT
from medfinder.curate.deidentify_page import Page, Span, lists

_STREET = re.compile(
    r"(?<!\w)(?:(?P<sure>calle|avda|avenida|paseo|plaza|pza|plza|carretera|ctra|urbanizacion|travesia|rambla"
    r"|carrer|passeig|avinguda|gran via|poligono industrial|calle/)"
    r"|(?P<short>c/|cl\.|c\.|av\.|pl\.|camino|cno\.?|ronda|partida|barrio|poligono|urb\.|p[ºo]\.?))\.?[ ]{0,2}"
)
_HOUSE = re.compile(
    r"[ ]?,?[ ]?(?:n[.ºo°]{1,3}|num\.?|numero|no\.)?[ ]?(?P<n>\d{1,4}(?:[ ]?bis)?[a-z]?|s/n)(?![\w])(?![.,]\d)"
    + NO_UNIT
    + r"(?:[ ]?[,-]?[ ]?(?:\d{1,2}[ ]?[ºªo°a]{1,2}(?:[ ]?[-,]?[ ]?[a-z](?!\w)|[ ]?(?:izda|dcha|izq|der)(?!\w))?|(?:piso|pta|puerta|esc|escalera|bajo|bloque|portal|planta)\.?(?:[ ]?\d{1,3}[ºªa]?(?!\w))?)){0,3}"
)
_US_STREET = re.compile(
    r"(?<![\w.,/-])\d{1,5}[a-z]?,?[ ](?P<name>(?:[^\W\d_]{1,20}(?:['’]s)?\.?[ ]){1,4})"
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


def find_addresses(page: Page) -> Iterator[Span]:
    """Yield streets with their numbers, post boxes and postcodes."""
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
            if page.words[i] not in lists().particles
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
            if not 0 <= j < len(page.words) or page.words[j] not in lists().cities:
                continue
            if len(page.gap(max(i, j))) <= 3:
                yield min(page.starts[i], page.starts[j]), max(page.ends[i], page.ends[j])


_NOT_STREETS = frozenset(["contraste", "civ", "iv", "sin", "con", "y", "de", "cont", "contrast"])


def _street(page: Page, start: int, at: int, sure: bool) -> Span | None:
    """Return a Spanish address: the street's words and, where it has one, its number."""
    table = lists()
    last = at - 1
    for i in range(at, min(at + 7, len(page.words))):
        if i > at and page.gap(i) not in (" ", ". ", " - ", "-", "'", "’"):
            break
        word = page.words[i]
        if not word.isalpha() or (i == at and not sure and word in _NOT_STREETS):
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
            elif page.words[i] not in table.particles:
                break
        return start, page.ends[end]
    if not page.is_cased(at) and page.sort(at) in ("name", "unknown"):
        end_offset = name_run(page, at, strong=False)
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
_JOINS = frozenset(["de", "del", "la", "las", "los", "el", "y", "i", "of", "the", "and", "for"])
_CITY_CUE = re.compile(
    r"(?<!\w)(?:en|de|desde|hacia|a|por|in|from|to|near|at|of|visiting|visito)[ ]$|\0,?[ ]{1,2}$"
)
_CITY_PHRASE = re.compile(
    r"(?<!\w)(?:nueva york|new york|los angeles|san francisco|san diego|san sebastian|palma de mallorca|las palmas|ciudad real"
    r"|buenos aires|sao paulo|mexico city|ciudad de mexico|hong kong|new orleans|las vegas|san antonio|santa cruz de tenerife|castellon de la plana"
    r"|quart de poblet|la coruna|a coruna|el cairo|la paz|santiago de compostela|jerez de la frontera|la eliana|el puig)(?!\w)"
)


def find_places(page: Page) -> Iterator[Span]:
    """Yield hospitals and the like with their names, and cities after a word that leads to one."""
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


def _is_place_word(page: Page, i: int, *, weak: bool, is_small: bool = False) -> bool:
    table, word = lists(), page.words[i]
    cased = page.is_cased(i) and not (is_small and not page.is_capital(i))
    if cased and not page.is_capital(i):
        return False
    if word in table.cities or word in table.institutions or page.sort(i) == "name":
        return True
    if word in table.descriptors:
        return not weak or cased
    if cased:
        return page.sort(i) in ("unknown", "both")
    return page.sort(i) == "both" and not weak


def _facility_run(page: Page, at: int, weak: bool) -> int | None:
    end, bridges, taken = None, 0, 0
    # "hospital san cipriano" among sentences with capitals: one written in another way
    is_small = not weak and at < len(page.words) and not page.is_capital(at)
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
        if word in lists().titles:
            continue
        cased = page.is_cased(i) and not (is_small and not page.is_capital(i))
        stranger = not weak and taken < 2 and not cased and page.sort(i) == "unknown"
        is_place = _is_place_word(page, i, weak=weak, is_small=is_small)
        if not (is_place or (stranger and not bridges)):
            break
        end, bridges, taken = page.ends[i], 0, taken + 1
    return end


def _facility_start(page: Page, at: int) -> int | None:
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
        beside = page.words[i + 1] if i + 1 < at else ""
        owner = beside == "s" or beside in lists().descriptors
        stranger = owner and not page.is_cased(i) and page.sort(i) in ("unknown", "both")
        if not (stranger or _is_place_word(page, i, weak=False)):
            break
        named = named or word not in lists().descriptors
        first = page.starts[i]
    return first if named else None


def _cities(page: Page) -> Iterator[Span]:
    table = lists()
    for i, word in enumerate(page.words):
        if word not in table.cities:
            continue
        cased = page.is_cased(i)
        if cased and not page.is_capital(i):
            continue
        if not cased and (word in table.ordinary or word in table.eponyms):
            continue
        around = page.words[max(0, i - 3) : i] + page.words[i + 1 : i + 3]
        if table.method.intersection(around):
            continue
        before = page.folded[max(0, page.starts[i] - 12) : page.starts[i]]
        alone = (not before or before.endswith("\n")) and page.folded[
            page.ends[i] : page.ends[i] + 1
        ] == ","
        if _CITY_CUE.search(before) or alone:
            yield page.starts[i], page.ends[i]
