"""Where persons are named: after a title or a role, beside a given name, before an age.

In text with capitals a name shows itself; in lower case it is told by what stands before it, by
lists of names, and by what reports never say.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator

from medfinder.curate.deidentify_page import Page, Span, lists

_TITLE = re.compile(
    r"(?<!\w)(?:dr|dra|dr\(a\)|dres|dras|doctor|doctora|doctores|doctoras|drs|sr|sra|srta|sres|sras"
    r"|d|d\.?a|dna|don|dona|prof|profesora?|professor|mr|mrs|ms|miss|lic|ldo|lda)\b\.?[ \t]{0,3}\n?"
)
# Titles that are also something else ("MR imaging", "D. aorta"): a capital or a list must agree.
_WEAK_TITLES = frozenset({"d", "da", "mr", "ms", "miss", "don", "dona", "lic", "prof"})
_PLURAL = frozenset({"dres", "dras", "drs", "doctores", "doctoras", "sres", "sras"})
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
_SIGNED = re.compile(
    r"(?<!\w)(?:(?:firmad|informad|validad|redactad|dictad|transcrit|supervisad|interpretad|leid)[oa]s?"
    r"(?: (?:electronicamente|digitalmente))? por|fdo|firmado|firma"
    r"|(?:electronically |digitally )?(?:signed|dictated|reported|read|approved|verified|transcribed"
    r"|interpreted|authenticated|finali[sz]ed|typed) by)" + _AFTER + r"(?:(?:el|la|los|the) )?"
)
# What follows these can be a reason or a method as well ("remitido por disnea").
_BY = re.compile(
    r"(?<!\w)(?:(?:realizad|revisad|solicitad|remitid|pedid|valorad|vist|derivad|indicad|efectuad"
    r"|elaborad|confirmad|aprobad|atendid|explorad|intervenid|operad|autorizad|emitid|acompanad)[oa]s? por"
    r"|(?:comentad|comunicad|hablad|contactad|avisad|consultad|notificad|informad)[oa]s?"
    r"(?: telefonicamente)? (?:con|a|al)|(?:llamar|avisar|contactar|hablar|informar|comunicar) (?:con|a|al)"
    r"|(?:reviewed|performed|requested|ordered|referred|prepared|confirmed|completed|supervised) by"
    r"|(?:discussed|communicated|reviewed|shared|spoken|spoke|conveyed|relayed|talked) (?:with|to)"
    r"|(?:notified|informed|called|telephoned|paged|radiologist|radiolog[oa])|pacientes?|patient"
    r"|(?:su|his|her|patient's) (?:hij[oa]|espos[oa]|mujer|marido|madre|padre|herman[oa]|niet[oa]|husband|wife"
    r"|daughter|son|mother|father|sister|brother|partner|carer|caregiver),?)"
    + _AFTER
    + r"(?:(?:el|la|los|the) )?"
)
# "Priya Raghunathan is a 64-year-old", "Zenobia Peña, de 64 años"
_AGED = re.compile(
    r"(?:,|[ ]is an?|[ ]\()?[ ]{0,2}(?:de |a |an )?\d{1,3}[ -]{0,2}(?:year|yr|y/?o(?!\w)|anos?(?!\w))"
)
_AND = re.compile(r"[ \t]{0,2}(?:,|;|/|&|(?<=[ \t])(?:y|e|and)(?=[ \t]))[ \t]{0,2}")
_POST_NOMINAL = re.compile(
    r"(?:,[ ]?|[ ])(?:MD|M\.D\.|DO|D\.O\.|PhD|FRCR|FRCPC|FRCP|MBBS|MBChB|RN|NP|PA-C|FACR|RT)\b"
)
NAME_GAPS = frozenset((" ", "  ", "-", "'", "’", "^", "_", " -", "\t"))


def name_run(page: Page, at: int, *, strong: bool) -> int | None:
    """Return the offset where the name that begins at word `at` ends; None if it is no name.

    Args:
        strong: What stands before can only be followed by a name, so that a word of no list is one.
    """
    table = lists()
    end: int | None = None
    is_small = False  # begun in lower case among capitals: a sentence of its own writing
    taken = initials = bridges = 0
    for i in range(at, min(at + 9, len(page.words))):
        if i > at:
            gap = page.gap(i)
            after_initial = len(page.words[i - 1]) == 1 and gap in (". ", ".")
            comma = gap in (", ", ",") and taken and page.words[i] in table.given
            if gap not in NAME_GAPS and not after_initial and not comma:
                break
            if comma and page.sort(i) == "both" and not page.is_capital(i):
                break
        word = page.words[i]
        cased = page.is_cased(i)
        capital = cased and page.is_capital(i)
        if word in table.particles and not (capital and page.sort(i) == "name"):
            bridges += 1
            if bridges > 3 or (at == i and not strong):
                break
            continue
        if _is_elision(page, i):
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
        if (
            sort == "ordinary"
            and strong
            and taken
            and word.isalpha()
            and word not in table.ordinary
        ):
            sort = "unknown"  # "paciente: ana garrigosa": behind a name an ending says nothing
        if sort == "ordinary" or taken >= 5:
            break
        if first:
            is_small = strong and cased and not capital
        if cased and not (is_small and not capital):
            takes = capital and (strong or not first or sort != "both" or _has_surname(page, i))
            takes = takes or (first and sort == "name")
        elif sort == "name":
            takes = True
        elif sort == "both":
            takes = (strong or _has_surname(page, i)) if first else taken <= 2
        else:
            takes = strong if first else taken < 4
        if not takes:
            break
        taken += 1
        bridges = 0
        end = page.ends[i]
    return end if taken or initials > 1 else None


def _is_elision(page: Page, i: int) -> bool:
    """Whether word `i` is the O of O'Connor or the d of d'Angelo."""
    return len(page.words[i]) == 1 and page.folded[page.ends[i] : page.ends[i] + 1] in ("'", "’")


def _is_initial(page: Page, i: int) -> bool:
    return (
        i < len(page.words)
        and len(page.words[i]) == 1
        and page.words[i].isalpha()
        and page.folded[page.ends[i] : page.ends[i] + 1] == "."
    )


def _has_surname(page: Page, i: int) -> bool:
    """Whether a word that may be a given name ("Rosa") has a surname behind it."""
    cased = page.is_cased(i)
    if page.words[i] not in lists().given and not cased:
        return False
    if page.folded[page.ends[i] : page.ends[i] + 4][:1] == " " and _is_initial(page, i + 1):
        return True
    for j in (i + 1, i + 2):
        if j >= len(page.words) or page.gap(j) not in (" ", "-"):
            return False
        if cased and not page.is_capital(j):
            return False
        sort, listed = page.sort(j), page.words[j] in lists().surnames
        if sort == "name" or (sort == "unknown" and cased):
            return listed or cased
        if sort != "both" or not (listed or cased):
            return False
    return False


def find_names(page: Page) -> Iterator[Span]:
    """Yield names of persons, without their titles."""
    yield from _titled(page)
    for pattern, strong in ((_ROLE, True), (_SIGNED, True), (_BY, False)):
        for cue in pattern.finditer(page.folded):
            yield from _listed(page, cue.end(), strong or ":" in cue[0])
    yield from _paired(page)
    for age in _AGED.finditer(page.folded):
        yield from _before(page, age.start())
    for mark in _POST_NOMINAL.finditer(page.text):
        yield from _before(page, mark.start())


def _titled(page: Page) -> Iterator[Span]:
    for cue in _TITLE.finditer(page.folded):
        title = cue[0].strip().rstrip(".").replace(".", "")
        at = page.token_at(cue.end())
        if at is None:
            continue
        if title in _WEAK_TITLES and not _agrees(page, cue, at, title):
            continue
        yield from _listed(page, cue.end(), True, all_strong=title in _PLURAL)


def _agrees(page: Page, cue: re.Match[str], at: int, title: str) -> bool:
    """Whether what follows a title that may be something else is a name."""
    while at + 1 < len(page.words) and (
        page.words[at] in lists().particles or _is_elision(page, at)
    ):
        at += 1
    sort = page.sort(at)
    if sort == "name":
        return True
    if not page.is_cased(at):
        return sort in ("unknown", "both") and len(title) > 1 and "." in cue[0]
    written = page.text[cue.start() : cue.start() + 2]
    is_title = written[0].isupper() and (len(title) == 1 or not written.isupper())
    return is_title and page.is_capital(at) and sort in ("unknown", "both")


def _listed(page: Page, offset: int, strong: bool, *, all_strong: bool = False) -> Iterator[Span]:
    """Yield the names of a list that begins at `offset`: "García, López y Ruiz"."""
    for _ in range(6):
        at = page.token_at(offset)
        end = None if at is None else name_run(page, at, strong=strong)
        if end is None:
            return
        yield offset, end
        more = _AND.match(page.folded, end)
        if not more:
            return
        offset, strong = more.end(), all_strong


def _paired(page: Page) -> Iterator[Span]:
    """Yield given names beside surnames, and two surnames side by side, without any cue."""
    table = lists()

    def surname(i: int) -> bool:
        return page.words[i] in table.surnames and page.sort(i) == "name" and shown(i)

    def shown(i: int) -> bool:
        return not page.is_cased(i) or page.is_capital(i)

    n, i = len(page.words), 0
    while i < n:
        word = page.words[i]
        certain = page.sort(i) == "name" or _has_surname(page, i)
        if word in table.given and certain and shown(i):
            first = i
            while first and i - first < 3 and page.gap(first) in (" ", ", ", ",", "-", "^", "_"):
                if not surname(first - 1):
                    break
                first -= 1
            back = i - first
            end = name_run(page, i, strong=False)
            words = page.words[i + 1 : bisect_left(page.starts, end)] if end else []
            follows = any(w in table.surnames for w in words) or (
                page.is_cased(i) and any(len(w) > 2 and w not in table.given for w in words)
            )
            comma = back and "," in page.gap(i)
            if end and (follows or comma or back >= 2):
                yield page.starts[first if comma or back >= 2 else i], end
                i = bisect_left(page.starts, end)
                continue
        elif surname(i) and i + 1 < n and page.gap(i + 1) in (" ", "-") and surname(i + 1):
            end = name_run(page, i, strong=False)
            if end:
                yield page.starts[i], end
        i += 1


def _before(page: Page, offset: int) -> Iterator[Span]:
    """Yield the name that ends at `offset`: two words or more, all capitals or all of the lists."""
    last = bisect_left(page.starts, offset) - 1
    if last < 0 or page.ends[last] not in (offset, offset - 1):
        return
    first = last + 1
    while first and last - first < 3:
        i = first - 1
        if first <= last and page.gap(first) not in (*NAME_GAPS, ". "):
            break
        initial = len(page.words[i]) == 1 and first <= last
        sort = page.sort(i)
        if page.is_cased(i):
            fits = page.is_capital(i) and (initial or sort != "ordinary")
        else:
            fits = sort == "name" or initial
        if not fits:
            break
        first = i
    while first < last and page.gap(first + 1) == ". " and len(page.words[first]) > 1:
        first += 1  # the end of the sentence before
    if first < last:
        yield page.starts[first], page.ends[last]
