"""The rules of curation, one function a rule: each has an id, a meaning and a test.

A rule returns None, or one sentence a radiologist understands. Rules of pixels and geometry are in
`medfinder.volume.checks`, those of a translation in `medfinder.report.translation_checks`; how ids
are spelt and what each means is in ``docs/reference/rejections.md``.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from medfinder.records import Language
from medfinder.report.language import detect_language

WEIGHTS: Mapping[str, float] = {
    "placeholder-report": 0.9,
    "language-mismatch": 0.5,
    "short-report": 0.2,
    "shared-report": 0.5,
    "same-source-other-translation": 0.6,
    "label-negated": 0.8,
    "label-unmentioned": 0.2,
    "label-missing": 0.1,
    "no-labels": 0.1,
    "not-listed": 0.3,
    "ambiguous-report": 0.7,
    "ids-disagree": 0.9,
    "broken-sidecar": 0.1,
    "formula-cell": 0.3,
    "burned-in-risk": 0.9,
    "translation-placeholder": 0.7,
    "translation-number": 0.8,
    "translation-unit": 0.8,
    "translation-negation": 1.0,
    "translation-side": 1.0,
    "translation-residue": 0.5,
    "translation-length": 0.5,
    "translation-findings": 0.9,
    "translation-missing": 0.6,
}
"""How much a doubt matters, 0 to 1: what could make a wrong pair weighs most."""
DEFAULT_WEIGHT = 0.5

_PLACEHOLDER = re.compile(
    r"something wrong with the data|^\W*(?:n/?a|nan|none|null|pending|pendiente|test|prueba"
    r"|no report|sin informe|report not available|informe no disponible|lorem ipsum.*)\W*$",
    re.IGNORECASE | re.DOTALL,
)
_WORD = re.compile(r"[^\W\d_]{2,}")


def placeholder_report(text: str) -> str | None:
    """``placeholder-report``: the text stands where a report should, and is none."""
    if not text.strip() or not _PLACEHOLDER.search(text):
        return None
    return "The text is a placeholder, not a report. Find the original report."


def short_report(text: str, min_words: int) -> str | None:
    """``short-report``: fewer words than a description of a chest CT needs."""
    n = len(_WORD.findall(text))
    if n >= min_words:
        return None
    return f"The report has {n} words, expected at least {min_words}. See whether it was cut off."


def language_mismatch(text: str, expected: Language) -> str | None:
    """``language-mismatch``: the source says one language, the words say another."""
    found = detect_language(text)
    if found == expected:
        return None
    names = {"en": "English", "es": "Spanish"}
    return f"The report reads as {names[found]}, the source calls it {names[expected]}."


def other_body_part(body_part: str | None, wanted: Sequence[str]) -> str | None:
    """``other-body-part``: the scan says that it shows something else; one that says nothing passes.

    Args:
        body_part: As header or table spell it, such as ``"chest"`` or ``"TORAX"``.
        wanted: Words of which one must occur in it; none for any body part.
    """
    if not wanted or not body_part:
        return None
    said = body_part.lower()
    if any(word.lower() in said for word in wanted):
        return None
    return f"The scan is of {said[:40]!r}, expected one of {', '.join(wanted)}."


@dataclass(frozen=True, slots=True)
class Choice:
    """One series of a study, as `choose_series` weighs it.

    Attributes:
        item: Its name.
        n_slices: Slices along the body's axis.
        depth_mm: Length of the body it covers.
        kernel: Convolution kernel as the header names it; "" when unknown.
    """

    item: str
    n_slices: int
    depth_mm: float
    kernel: str = ""


# Kernels that sharpen: lung and bone reconstructions of Siemens (B60f, Br64), GE, Philips, Canon.
_SHARP = re.compile(
    r"lung|bone|edge|sharp|detail|ultra|^[bhiuq][a-z]?[6-9]\d|^(?:fc)?5\d|^fc[38]\d|^y[a-e]$|^l$|^c$|^d$",
    re.IGNORECASE,
)


def choose_series(series: Sequence[Choice]) -> tuple[Choice, dict[str, str]]:
    """Choose the series that represents a study; say of each other why it does not (``other-series``).

    The longest coverage first (within 10 %), then the most slices (within 10 %), then a smooth
    kernel before a sharp one, whose noise hides what is small, then the name.

    Returns:
        The chosen one, and a reason for each other item.
    """
    longest = max(s.depth_mm for s in series)
    covering = [s for s in series if s.depth_mm >= 0.9 * longest]
    most = max(s.n_slices for s in covering)
    fine = [s for s in covering if s.n_slices >= 0.9 * most]
    best = min(fine, key=lambda s: (is_sharp(s.kernel), -s.n_slices, s.item))
    reasons = {}
    for other in series:
        if other is best:
            continue
        if not longest:
            reasons[other.item] = f"Another row stands for this study: {best.item}."
            continue
        if other.depth_mm < 0.9 * longest:
            why = f"{best.depth_mm:.0f} mm of the body against {other.depth_mm:.0f}"
        elif other.n_slices < 0.9 * most:
            why = f"{best.n_slices} slices against {other.n_slices}"
        elif is_sharp(other.kernel) and not is_sharp(best.kernel):
            why = f"a smooth kernel, this one is sharp ({other.kernel[:16]})"
        else:
            why = f"{best.n_slices} slices against {other.n_slices}"
        reasons[other.item] = f"Another series represents this study: {best.item}, with {why}."
    return best, reasons


def is_sharp(kernel: str) -> bool:
    """Tell whether a kernel's name is one of lung or bone reconstructions."""
    return bool(_SHARP.search(kernel.strip()))


def duplicate_volume(first: str) -> str:
    """``duplicate-volume``: voxels and geometry are those of another item."""
    return f"The same voxels as {first}, which is kept."


def near_duplicate_volume(first: str, offset_hu: float) -> str:
    """``near-duplicate-volume``: another item but for noise, compression or an offset."""
    shifted = f" but for {offset_hu:+.0f} HU" if abs(offset_hu) >= 1 else " but for noise"
    return f"The same scan as {first}{shifted}, which is kept. Were it another study, say so."


def study_of_several_patients(n: int) -> str:
    """``ids-disagree``: one number stands for studies of several patients, which are kept apart."""
    return (
        f"{n} patients have a study of this number. Each is a study here; see that none is wrong."
    )


def shared_report(n: int) -> str:
    """``shared-report``: studies of several patients have one text, so one of them may be wrong."""
    return f"{n} studies of other patients have this very text. See that it belongs to this CT."


_NAMES_AN_ITEM = (
    "duplicate-volume",
    "near-duplicate-volume",
    "other-series",
    "duplicate-row",
    "report-superseded",
)
_ITEM = re.compile(
    r"( as | counts: |this study: )(?!row \d+ |a later )"
    r"(.+?)(?=(?: but for .*)?, which |, with | and says |\.$)"
)


def without_names(rule: str, reason: str, hidden: Callable[[str], str]) -> str:
    """Return a rejection's reason without the names of files and rows in it.

    Args:
        hidden: Gives a name's pseudonym.
    """
    if rule in _NAMES_AN_ITEM:
        return _ITEM.sub(lambda found: found[1] + hidden(found[2]), reason)
    if rule == "other-body-part":  # it repeats a header's own words
        return re.sub(r"(['\"]).*\1", "another part", reason)
    return reason


def same_source_other_translation(n: int) -> str:
    """``same-source-other-translation``: one original, several translations, so not all are right."""
    return f"The same original report has {n} different translations. Choose one."
