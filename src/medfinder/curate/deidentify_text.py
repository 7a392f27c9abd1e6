"""Report text → the same text without the people, numbers, dates and places that identify.

One recogniser a kind, as in Microsoft Presidio: each yields the stretches it knows, what overlaps
is joined, and every stretch becomes ``[NAME]``, ``[ID]``, ``[DATE]``, … English and Spanish are
looked for together, because the language of a headline is not that of a report. Text may be in
lower case without accents, as BIMCV's is; then a name is told by what stands before it and by lists
of names. Every pattern is of bounded length, so that the time grows with the text and no faster.

Knows nothing of DICOM or tables; what those say of this patient comes in as `known`.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from medfinder.curate.deidentify_known import (
    Known,
    find_known_codes,
    find_known_names,
    search_terms,
)
from medfinder.curate.deidentify_names import find_names
from medfinder.curate.deidentify_numbers import (
    OLDEST_AGE,
    find_ages,
    find_dates,
    find_emails,
    find_ids,
    find_phones,
    find_times,
    find_urls,
)
from medfinder.curate.deidentify_page import Page, Span, plain
from medfinder.curate.deidentify_places import find_addresses, find_places
from medfinder.records import Language
from medfinder.report.language import detect_language

Kind = Literal["name", "id", "date", "time", "phone", "email", "url", "address", "place", "age"]
_OVER: dict[Language, str] = {"en": f"over {OLDEST_AGE}", "es": f"mayor de {OLDEST_AGE}"}
# What a removal leaves beside its place can be a mark of its own; a second look settles it.
_PASSES = 6


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
    text = plain(text)
    searched = search_terms(known)
    counts: Counter[str] = Counter()
    for _ in range(_PASSES):
        found = _found(Page(text), searched)
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


_RECOGNISERS: tuple[tuple[Kind, Callable[[Page], Iterator[Span]]], ...] = (
    ("email", find_emails),
    ("url", find_urls),
    ("date", find_dates),
    ("time", find_times),
    ("phone", find_phones),
    ("id", find_ids),
    ("address", find_addresses),
    ("place", find_places),
    ("name", find_names),
    ("age", find_ages),
)


def _found(page: Page, known: Known) -> list[tuple[int, int, Kind]]:
    """Return what every recogniser found, joined where it overlaps, in order.

    The longest stretch gives its kind; of equal ones the recogniser that stands first.
    """
    spans: list[tuple[int, int, int, Kind]] = []
    for rank, (kind, find) in enumerate(_RECOGNISERS):
        spans += [(start, end, rank, kind) for start, end in find(page)]
    spans += [(start, end, -1, "id") for start, end in find_known_codes(page, known)]
    spans += [(start, end, -1, "name") for start, end in find_known_names(page, known)]
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


def _whole_words(page: Page, start: int, end: int) -> Span:
    """Widen a span to the words it cuts, so that no rest of a name or number stays behind."""
    i = bisect_right(page.starts, start) - 1
    if i >= 0 and page.starts[i] < start < page.ends[i]:
        start = page.starts[i]
    j = bisect_right(page.starts, end - 1) - 1
    if j >= 0 and page.starts[j] < end < page.ends[j]:
        end = page.ends[j]
    return start, end
