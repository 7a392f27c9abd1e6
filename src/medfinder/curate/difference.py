"""Two curated datasets → what differs: counts, distributions, and what they have in common.

Studies and patients are matched by id, so two curations of one archive are compared with the same
pseudonym key. Of each study only hashes and its split are kept while comparing.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medfinder.artifact import atomic_write
from medfinder.curate.dataset import Dataset
from medfinder.curate.page import Block, Heading, Paragraph, Table, to_markdown
from medfinder.curate.statistics import (
    NO_SPLIT,
    Spread,
    Statistics,
    state_of,
    statistics,
    text_hash,
)
from medfinder.errors import InputError

_SHOWN_IDS = 20
_SHOWN_FINDINGS = 15


@dataclass(frozen=True, slots=True)
class Distance:
    """How far a distribution of B lies from the same of A.

    Attributes:
        measure: ``"TV"`` (total variation, for names) or ``"KS"`` (Kolmogorov-Smirnov, for
            numbers); both from 0, the same, to 1, nothing in common. None where a side has none.
    """

    name: str
    measure: str
    distance: float | None
    median_a: float | None = None
    median_b: float | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """What differs between dataset A and dataset B.

    Attributes:
        hashes: Of the manifests of A and B.
        counts: Name → the number in A and in B.
        distances: Largest first.
        findings: Name → share of the reports that affirm it in A and in B, largest change first.
        rejections: Rule → items in A and in B, where they differ; `doubts` likewise.
        n_common_studies: Study ids in both; patients by their ids, texts by their words.
        crossing_patients: Split of A → split of B → patients that have studies in both: a model
            trained on A's ``train`` has seen the patients of B's other splits.
        crossing_texts: Likewise of texts.
        only_in_a: Study ids, sorted; `only_in_b` likewise.
        changed_reports: Study ids whose report differs.
        changed_translations: Whose translation differs, or is there on one side only.
        changed_findings: Whose affirmed findings differ.
        changed_volumes: Whose voxels differ.
        moved: Study ids whose split differs, with the split in A and in B.
    """

    hashes: tuple[str, str]
    counts: Mapping[str, tuple[int, int]]
    distances: tuple[Distance, ...]
    findings: Mapping[str, tuple[float, float]]
    rejections: Mapping[str, tuple[int, int]]
    doubts: Mapping[str, tuple[int, int]]
    n_common_studies: int
    n_common_patients: int
    n_common_texts: int
    crossing_patients: Mapping[str, Mapping[str, int]]
    crossing_texts: Mapping[str, Mapping[str, int]]
    only_in_a: tuple[str, ...]
    only_in_b: tuple[str, ...]
    changed_reports: tuple[str, ...]
    changed_translations: tuple[str, ...]
    changed_findings: tuple[str, ...]
    changed_volumes: tuple[str, ...]
    moved: Mapping[str, tuple[str, str]]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, for JSON."""
        return dataclasses.asdict(self)


def difference(a: Path, b: Path) -> Difference:
    """Compare two curated folders.

    Raises:
        InputError, Incomplete, Mismatch: As `Dataset.open`, for either.
    """
    in_a, in_b = statistics(a), statistics(b)
    marks = _Marks()
    before: dict[str, _Mark] = {}
    for row in Dataset.open(a).rows(_COLUMNS):
        before[row["study_id"]] = marks.first(row)
    only_in_b: list[str] = []
    changed: dict[str, list[str]] = {name: [] for name in ("report", "translation", "findings", "volume")}  # fmt: skip
    moved: dict[str, tuple[str, str]] = {}
    n_common = 0
    for row in Dataset.open(b).rows(_COLUMNS):
        name = row["study_id"]
        new = marks.second(row)
        old = before.pop(name, None)
        if old is None:
            only_in_b.append(name)
            continue
        n_common += 1
        for what, ids in changed.items():
            if getattr(old, what) != getattr(new, what):
                ids.append(name)
        if old.split != new.split:
            moved[name] = (old.split, new.split)
    return Difference(
        hashes=(Dataset.open(a).hash, Dataset.open(b).hash),
        counts={
            name: (getattr(in_a, name), getattr(in_b, name))
            for name in _COUNTS
        },
        distances=_distances(in_a, in_b),
        findings=_findings(in_a, in_b),
        rejections=_differing(in_a.rejections, in_b.rejections),
        doubts=_differing(in_a.doubts, in_b.doubts),
        n_common_studies=n_common,
        n_common_patients=len(marks.patients[0].keys() & marks.patients[1].keys()),
        n_common_texts=len(marks.texts[0].keys() & marks.texts[1].keys()),
        crossing_patients=_crossing(*marks.patients),
        crossing_texts=_crossing(*marks.texts),
        only_in_a=tuple(sorted(before)),
        only_in_b=tuple(sorted(only_in_b)),
        changed_reports=tuple(sorted(changed["report"])),
        changed_translations=tuple(sorted(changed["translation"])),
        changed_findings=tuple(sorted(changed["findings"])),
        changed_volumes=tuple(sorted(changed["volume"])),
        moved=dict(sorted(moved.items())),
    )  # fmt: skip


def write_difference(found: Difference, out: Path) -> tuple[Path, Path]:
    """Write ``difference.md`` and ``difference.json`` into `out` and return their paths.

    Raises:
        InputError: `out` is a file.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{str(out)!r} is a file; a comparison needs a folder. Give another path.")
    text, data = out / "difference.md", out / "difference.json"
    with atomic_write(data) as file:
        file.write(json.dumps(found.to_dict(), ensure_ascii=False, indent=2).encode() + b"\n")
    with atomic_write(text) as file:
        file.write(difference_markdown(found).encode())
    return text, data


def difference_markdown(found: Difference) -> str:
    """Return the comparison as Markdown; of long lists of studies the first 20."""
    d = found
    equal = " They are the same dataset." if d.hashes[0] == d.hashes[1] else ""
    blocks: list[Block] = [
        Heading("Two datasets compared", 1),
        Paragraph(f"A is {d.hashes[0]}, B is {d.hashes[1]}.{equal}"),
        Table(
            "Counts",
            ("what", "A", "B", "B - A"),
            tuple((_words(name), x, y, y - x) for name, (x, y) in d.counts.items()),
        ),
        Heading("In common"),
        Table(
            "In A and in B",
            ("what", "number"),
            (
                ("studies", d.n_common_studies),
                ("patients", d.n_common_patients),
                ("texts", d.n_common_texts),
                ("studies only in A", len(d.only_in_a)),
                ("studies only in B", len(d.only_in_b)),
                ("changed reports", len(d.changed_reports)),
                ("changed translations", len(d.changed_translations)),
                ("changed findings", len(d.changed_findings)),
                ("changed volumes", len(d.changed_volumes)),
                ("moved to another split", len(d.moved)),
            ),
        ),
        _crossing_table("Patients", d.crossing_patients),
        _crossing_table("Texts", d.crossing_texts),
        Heading("Distributions"),
        Paragraph(
            "0 is the same, 1 is nothing in common: total variation (TV) of names, "
            "Kolmogorov-Smirnov (KS) of numbers."
        ),
        Table(
            "Distances, largest first",
            ("of", "measure", "distance", "median in A", "median in B"),
            tuple((x.name, x.measure, x.distance, x.median_a, x.median_b) for x in d.distances),
        ),
        Table(
            "Findings, by change of the share of reports that affirm them",
            ("finding", "A", "B"),
            tuple(
                (name, f"{x:.1%}", f"{y:.1%}")
                for name, (x, y) in list(d.findings.items())[:_SHOWN_FINDINGS]
            ),
        ),
    ]
    for caption, by_rule in (("Left out", d.rejections), ("Doubts", d.doubts)):
        if by_rule:
            rows = tuple((rule, x, y) for rule, (x, y) in by_rule.items())
            blocks.append(Table(f"{caption}, where the numbers differ", ("rule", "A", "B"), rows))
    blocks.append(Heading("Studies"))
    for caption, ids in (
        ("Only in A", d.only_in_a),
        ("Only in B", d.only_in_b),
        ("Changed reports", d.changed_reports),
        ("Changed translations", d.changed_translations),
        ("Changed findings", d.changed_findings),
        ("Changed volumes", d.changed_volumes),
    ):
        blocks.append(Paragraph(f"{caption} ({len(ids):,}): {_listed(ids)}"))
    if d.moved:
        rows_moved = tuple((name, x, y) for name, (x, y) in list(d.moved.items())[:_SHOWN_IDS])
        caption = f"Moved to another split ({len(d.moved):,})"
        blocks.append(Table(caption, ("study", "in A", "in B"), rows_moved))
    return to_markdown(blocks, "")


def total_variation(a: Mapping[str, int], b: Mapping[str, int]) -> float | None:
    """Return half the sum of the differences of shares, 0 to 1; None where a side is empty."""
    n_a, n_b = sum(a.values()), sum(b.values())
    if not n_a or not n_b:
        return None
    names = a.keys() | b.keys()
    return sum(abs(a.get(name, 0) / n_a - b.get(name, 0) / n_b) for name in sorted(names)) / 2


def kolmogorov_smirnov(a: Spread, b: Spread) -> float | None:
    """Return the largest gap between the two cumulative shares, 0 to 1; None where one is empty."""
    if not a.counts or not b.counts:
        return None
    n_a, n_b = a.n, b.n
    below_a = below_b = 0
    gap = 0.0
    for value in sorted(a.counts.keys() | b.counts.keys()):
        below_a += a.counts.get(value, 0)
        below_b += b.counts.get(value, 0)
        gap = max(gap, abs(below_a / n_a - below_b / n_b))
    return gap


_COUNTS = (
    "n_studies", "n_patients", "n_volumes", "n_slices", "n_reports", "n_labelled",
    "n_shared_texts", "n_crossing_patients", "n_crossing_texts", "n_doubted", "n_rejections",
)  # fmt: skip
_COLUMNS = (
    "study_id", "patient_id", "volume_hash", "report_text", "language", "translation_text",
    "findings_present", "split",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Mark:
    """What is kept of a study of A."""

    split: str
    report: int | None
    translation: int | None
    findings: int | None
    volume: int | None


class _Marks:
    """Patients and texts of both sides, as hashes, each with the splits it is in."""

    def __init__(self) -> None:
        self.patients: tuple[dict[int, set[str]], dict[int, set[str]]] = ({}, {})
        self.texts: tuple[dict[int, set[str]], dict[int, set[str]]] = ({}, {})
        # Most patients are in one split: their sets are these few, shared.
        self._sets: dict[frozenset[str], set[str]] = {}

    def first(self, row: Mapping[str, Any]) -> _Mark:
        return self._of(row, 0)

    def second(self, row: Mapping[str, Any]) -> _Mark:
        return self._of(row, 1)

    def _of(self, row: Mapping[str, Any], side: int) -> _Mark:
        split = row["split"] or NO_SPLIT
        self._put(self.patients[side], text_hash(row["patient_id"]), split)
        if state_of(row) != "no-report":
            text = row["translation_text"] or row["report_text"]
            self._put(self.texts[side], text_hash(text), split)
        return _Mark(
            split=split,
            report=_hash(row["report_text"]),
            translation=_hash(row["translation_text"]),
            findings=_hash("\n".join(sorted(row["findings_present"] or ()))),
            volume=_hash(row["volume_hash"]),
        )

    def _put(self, into: dict[int, set[str]], mark: int, split: str) -> None:
        splits = frozenset(into.get(mark, ())) | {split}
        into[mark] = self._sets.setdefault(splits, set(splits))


def _hash(text: str | None) -> int | None:
    """Return 64 bits of the text as it is: a change of case alone is a change of the report."""
    if text is None:
        return None
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "little")


def _crossing(a: Mapping[int, set[str]], b: Mapping[int, set[str]]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for mark in a.keys() & b.keys():
        for in_a in a[mark]:
            by = found.setdefault(in_a, {})
            for in_b in b[mark]:
                by[in_b] = by.get(in_b, 0) + 1
    return {x: dict(sorted(found[x].items())) for x in sorted(found)}


def _crossing_table(caption: str, crossing: Mapping[str, Mapping[str, int]]) -> Table:
    names = sorted({name for by in crossing.values() for name in by})
    return Table(
        f"{caption} in common, by split in A (rows) and in B (columns)",
        ("in A", *names),
        tuple((x, *(by.get(y, 0) for y in names)) for x, by in crossing.items()),
    )


def _distances(a: Statistics, b: Statistics) -> tuple[Distance, ...]:
    found = []
    for name in ("sexes", "languages", "manufacturers", "body_parts", "sources"):
        distance = total_variation(getattr(a, name), getattr(b, name))
        found.append(Distance(_words(name), "TV", distance))
    sizes = [{name: part.n_studies for name, part in s.splits.items()} for s in (a, b)]
    found.append(Distance("splits", "TV", total_variation(*sizes)))
    found.append(Distance("findings affirmed", "TV", total_variation(a.affirmed, b.affirmed)))
    for name in (
        "ages", "slices", "slice_spacing_mm", "pixel_spacing_mm", "words", "findings_per_study",
        "studies_per_patient",
    ):  # fmt: skip
        x, y = getattr(a, name), getattr(b, name)
        found.append(Distance(_words(name), "KS", kolmogorov_smirnov(x, y), x.median, y.median))
    return tuple(sorted(found, key=lambda d: (-(d.distance or 0.0), d.name)))


def _findings(a: Statistics, b: Statistics) -> dict[str, tuple[float, float]]:
    shares = {
        name: (
            a.affirmed.get(name, 0) / max(1, a.n_reports),
            b.affirmed.get(name, 0) / max(1, b.n_reports),
        )
        for name in a.affirmed.keys() | b.affirmed.keys()
    }
    return dict(sorted(shares.items(), key=lambda item: (-abs(item[1][0] - item[1][1]), item[0])))


def _differing(a: Mapping[str, int], b: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    pairs = {rule: (a.get(rule, 0), b.get(rule, 0)) for rule in sorted(a.keys() | b.keys())}
    return {rule: pair for rule, pair in pairs.items() if pair[0] != pair[1]}


def _listed(ids: tuple[str, ...]) -> str:
    if not ids:
        return "none."
    more = f", and {len(ids) - _SHOWN_IDS:,} more" if len(ids) > _SHOWN_IDS else ""
    return ", ".join(ids[:_SHOWN_IDS]) + more + "."


def _words(name: str) -> str:
    return name.removeprefix("n_").replace("_mm", ", mm").replace("_", " ")
