"""Reports -> a table of yes, no and unknown: which finding, on which side, in which lobe, how severe.

The label names are learned from the training reports themselves, by `extract_findings` and the words
of `medfinder.report.swap.GROUPS` that stand beside a finding; a new archive has other labels. A
finding that a report does not mention is absent, as radiologists write; an attribute that it does
not mention of a finding that is there is unknown.
"""

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from medfinder.report.findings import extract_findings
from medfinder.report.sentences import sentences
from medfinder.report.swap import GROUPS

_PLACES = {"left", "right", "upper", "middle", "lower", "rul", "superior"}  # told by the finding
_WORDS = {
    word: number
    for number, group in enumerate(GROUPS)
    if not _PLACES & set(group)
    for word in group
}
_WORD = re.compile(
    r"\b(" + "|".join(map(re.escape, sorted(_WORDS, key=len, reverse=True))) + r")\b"
)
_SIZE = re.compile(r"\b(\d+(?:[.,]\d+)?) ?(mm|cm)\b")
SIZE_EDGES_MM = (10.0, 14.0, 20.0, 28.0, 40.0, 56.0)
"""A size label says that the finding is larger than one of these."""

MEASURED = "measured"
Attribute = tuple[str, str]  # group, value
Told = dict[str, dict[str, set[str]]]  # finding -> group -> values


def fit_labels(reports: Sequence[str], min_count: int = 20) -> tuple[str, ...]:
    """Return the labels that at least `min_count` reports hold, sorted: ``name`` or ``name|value``."""
    counts = Counter(label for report in reports for label in _true(_told(report)))
    return tuple(sorted(label for label, n in counts.items() if n >= min_count))


def encode_labels(report: str, labels: Sequence[str]) -> npt.NDArray[np.int8]:
    """Return 1, 0 or -1 (unknown) for each label."""
    row = np.zeros(len(labels), np.int8)
    place, attributes = _columns(tuple(labels))
    told = _told(report)
    for name, groups in told.items():
        for i, group in attributes.get(name, ()):
            if group not in groups:
                row[i] = -1
    for label in _true(told):
        if label in place:
            row[place[label]] = 1
    return row


def prompt_of(label: str) -> str:
    """Return a label as a reader would ask for it: "Nodule in the right upper lobe."."""
    name, _, value = label.partition("|")
    if not value:
        said = name
    elif value.startswith(">"):
        said = f"{name} larger than {value[1:]}"
    elif value.endswith("lobe"):
        said = f"{name} in the {value}"
    else:
        said = f"{value} {name}"
    return f"{said[0].upper()}{said[1:]}."


@lru_cache(maxsize=16)
def _columns(
    labels: tuple[str, ...],
) -> tuple[dict[str, int], dict[str, list[tuple[int, str]]]]:
    """Return the column of each label, and of each finding's attributes with their group."""
    attributes: dict[str, list[tuple[int, str]]] = {}
    for i, label in enumerate(labels):
        name, _, value = label.partition("|")
        if value:
            attributes.setdefault(name, []).append((i, _group(value)))
    return {label: i for i, label in enumerate(labels)}, attributes


def _true(told: Told) -> set[str]:
    found = set(told)
    for name, groups in told.items():
        for values in groups.values():
            found |= {f"{name}|{value}" for value in values if value != MEASURED}
    return found


def _told(report: str) -> Told:
    """Return name -> group -> values of every finding a report asserts."""
    told: Told = {}
    for a, b in sentences(report):
        for name, attributes in _sentence(report[a:b]):
            groups = told.setdefault(name, {})
            for group, value in attributes:
                groups.setdefault(group, set()).add(value)
    return told


@lru_cache(maxsize=200_000)
def _sentence(text: str) -> tuple[tuple[str, tuple[Attribute, ...]], ...]:
    words = [(f"words {_WORDS[w]}", w) for w in _WORD.findall(text.lower())]
    sizes = [
        float(number.replace(",", ".")) * (10 if unit == "cm" else 1)
        for number, unit in _SIZE.findall(text.lower())
    ]
    if sizes:
        words += [("size", f">{edge:g} mm") for edge in SIZE_EDGES_MM if max(sizes) > edge]
        words.append(("size", MEASURED))
    out = []
    for finding in extract_findings(text):
        if finding.status != "present":
            continue
        places: list[Attribute] = []
        lobe = finding.location if finding.location and "lobe" in finding.location else None
        if finding.laterality:
            places.append(("side", finding.laterality))
        if lobe:
            places.append(("lobe", lobe))
        if finding.laterality and lobe:
            places.append(("side and lobe", f"{finding.laterality} {lobe}"))
        out.append((finding.name, (*places, *words)))
    return tuple(out)


def _group(value: str) -> str:
    if value in ("left", "right", "bilateral"):
        return "side"
    if value.endswith("lobe"):
        return "side and lobe" if value.startswith(("left ", "right ")) else "lobe"
    return "size" if value.startswith(">") else f"words {_WORDS[value]}"
