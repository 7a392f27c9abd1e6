"""Where ids, dates, times, phones, addresses of the net and great ages stand.

Told by their form, and by the words before them where the form alone could be a measurement.
"""

import re
from collections.abc import Iterator

from medfinder.curate.deidentify_page import Page, Span

OLDEST_AGE = 89
"""Ages above are told as "over 89": few people are so old (HIPAA, 45 CFR 164.514(b)(2)(i)(C))."""
NO_UNIT = r"(?![ ]?(?:mm|cm|ml|cc|hu|uh|kg|mgy?|gy|mg|msv|kv|ma|mas|%|x[ ]?\d|anos?|years?)\b)"
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
    + NO_UNIT
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
        r"(?<![^\W_])(?:sub|ses)-[a-z0-9]{3,24}",  # BIMCV
        r"(?<!\w)[a-z]{4}\d{10,16}(?!\w)",  # CIP
    )
]
_LONG_NUMBER = re.compile(r"(?<![\w.,])\d{7,64}(?!\w)")
_CODE = re.compile(r"(?<![^\W_])(?=\d{0,12}[^\W\d_])[^\W_]{6,64}(?![^\W_])")
DIGIT = re.compile(r"\d")
_UNIT_END = re.compile(
    r"^\d+(?:x\d+)*(?:mm|cm|ml|cc|mg|mcg|ug|ui|iu|u|g|l|hz|kv|kvp|ma|mas|x\d+)\d?$|^\d+(?:x\d+)+$"
)


def find_ids(page: Page) -> Iterator[Span]:
    """Yield numbers of persons, visits and documents: after a cue, or by their form alone."""
    for match in _ID_CUE.finditer(page.folded):
        value = match["id"]
        digits = len(DIGIT.findall(value))
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
        if len(DIGIT.findall(match[0])) >= 5 and not _UNIT_END.match(match[0]):
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
# Most reports name no month; one look saves ten.
_HAS_MONTH = re.compile(rf"(?<![^\W\d_])(?:{_MONTHS}|{_SHORT})(?![^\W\d_])")
_MONTH_DATES = [
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
        rf"(?<!\w)(?:{_MONTHS.replace('march|', '')}|jan|feb|apr|jun|jul|aug|sept|nov)\.?[ ]{_DAY}(?:st|nd|rd|th)?(?![\w.,]*\d)(?!\w){NO_UNIT}",
        rf"(?<=on |of |by |to )(?:march|mar|may|sep|dec|oct)\.?[ ]{_DAY}(?:st|nd|rd|th)?(?!\w){NO_UNIT}",
        rf"(?<!\w)(?:march|may|mar|sep|dec|oct)\.?[ ]{_DAY}(?:st|nd|rd|th)(?!\w)",
        rf"(?<!\w){_ANY_MONTH}[ ]?(?:de[ ]|del[ ]|of[ ]|[-/,. '’])?[ ]?(?:{_YEAR}|(?<=[-/'’])\d\d)(?!\w)",
        # a month by itself, where it can be nothing else
        rf"(?<!\w)(?:{_MONTHS.replace('march|', '').replace('mayo|', '')})(?!\w)",
        r"(?<!\w)(?<=en |de )mayo(?!\w)|(?<=desde )mayo(?!\w)|(?<=hasta )mayo(?!\w)",
    )
]
_NUMERIC_DATES = [
    re.compile(p)
    for p in (
        # 2020-03-12, 2020/3/12, with an ISO time
        r"(?<![\d/.,-])(?:19|20)\d\d[ ]?([-/.])[ ]?(?:1[0-2]|0?[1-9])[ ]?\1[ ]?(?:3[01]|[12]\d|0?[1-9])"
        r"(?:t\d\d:?\d\d(?::?\d\d(?:\.\d{1,6})?)?(?:z|[+-]\d\d:?\d\d)?)?(?![\d-])",
        # 3/2020
        r"(?<![\d/.,x-])(?:1[0-2]|0?[1-9])[ ]?[/-][ ]?(?:19|20)\d\d(?!\d)(?![/-]\d)",
    )
]
_NUMERIC_DATE = re.compile(
    r"(?<![\d/-])(?<!\d[.,])(\d{1,2})[ ]?([/.-])[ ]?(\d{1,2})[ ]?\2[ ]?((?:19|20)\d\d|\d\d)(?!\d)(?![/-]\d)"
    + NO_UNIT
)
_COUNTED = re.compile(
    r"(?<!\w)(?:costillas?|arcos?(?: costales)?|segmentos?|ribs?|segments?|vertebras?|levels?|niveles?|imag\w{1,4}"
    r"|im|ima?|cortes?|slices?|series?|se|grados?|estadios?|ratio|relacion|th|cuerpos? vertebral(?:es)?)(?:(?<=im)\.|(?<=se)\.|:)?[ ]{0,2}$"
)
_DAY_MONTH = re.compile(
    r"(?<!\w)(?:fecha|dia|dated|date|tc|tac|ct|rx|study|estudio|previ[oa]|prior|exam(?:en)?|scan|control|realizad[oa]|performed)"
    r"(?:[ ](?:de|del|el|la|dia|fecha|from|of|on|the|previ[oa])){0,4}[ :]{1,3}"
    r"(?P<date>(?P<d>\d{1,2})(?:[/-]|(?<=dated \d\d)\.|(?<=fecha \d\d)\.)(?P<m>\d{1,2}))(?![\d/x-])(?![.,]\d)"
    + NO_UNIT
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


def find_dates(page: Page) -> Iterator[Span]:
    """Yield days and months, with their year where it is given; not years alone."""
    folded = page.folded
    named = _MONTH_DATES if _HAS_MONTH.search(folded) else []
    for pattern in (*named, *_NUMERIC_DATES):
        for match in pattern.finditer(folded):
            yield match.span()
    for match in _NUMERIC_DATE.finditer(folded):
        a, sign, b, year = int(match[1]), match[2], int(match[3]), match[4]
        plausible = (1 <= a <= 31 and 1 <= b <= 12) or (1 <= b <= 31 and 1 <= a <= 12)
        if len(year) == 2:
            # "10-11-12" can be ribs, "1.2.03" a heading; a short year needs a date's full form
            full = len(match[1]) + len(match[3]) > (3 if sign == "." else 2) or sign == "/"
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


def find_times(page: Page) -> Iterator[Span]:
    """Yield times of day."""
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
    r"(?P<number>[+(]{0,2}\d(?:[ ().-]{0,2}\d){2,16})(?!\w)" + NO_UNIT
)


def find_phones(page: Page) -> Iterator[Span]:
    """Yield telephone numbers."""
    for pattern in _PHONES:
        for match in pattern.finditer(page.folded):
            yield match.span()
    for match in _PHONE_CUE.finditer(page.folded):
        if match["any"] or len(DIGIT.findall(match["number"])) >= 6:
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


def find_emails(page: Page) -> Iterator[Span]:
    """Yield addresses of electronic mail."""
    if "@" not in page.folded and "at" not in page.folded and "arroba" not in page.folded:
        return
    for match in _EMAIL.finditer(page.folded):
        if "." in match[0] or "(" in match[0] or "[" in match[0]:
            yield match.span()


def find_urls(page: Page) -> Iterator[Span]:
    """Yield addresses of the net, with and without their scheme, and of machines."""
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


def find_ages(page: Page) -> Iterator[Span]:
    """Yield numbers of years above `OLDEST_AGE`, without the word that follows."""
    for pattern in _AGES:
        for match in pattern.finditer(page.folded):
            age = match["age"]
            if not age.isdecimal() or OLDEST_AGE < int(age) <= 130:
                swallowed = match.start() if pattern is _AGES[0] else match.start("age")
                yield swallowed, match.end("age")
