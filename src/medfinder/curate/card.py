"""A curated folder → its dataset card: ``card.md`` with pictures beside it, and ``card.html``.

The numbers come from `statistics`, the pictures from `pictures`, the layout from `page`; here it
is decided what a reader is told, and in which order. Nothing of a single study is shown.
"""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any

from medfinder.artifact import atomic_write
from medfinder.curate.dataset import Dataset
from medfinder.curate.page import (
    Block,
    Bullets,
    Heading,
    Paragraph,
    Table,
    to_html,
    to_markdown,
)
from medfinder.curate.pictures import Node, Picture, bars, flow, groups, histogram
from medfinder.curate.statistics import NO_SPLIT, STATES, Spread, Statistics, statistics
from medfinder.errors import InputError

PICTURES = "card"
"""The folder of the pictures, beside ``card.md``."""
_TOP = 30
_BALANCED = 12
_PAPER_DISEASES = 96
_PAPER_WORDS = 100
_LONGEST_SETTING = 200
_STATE_NAMES = {
    "english": "English report",
    "translated": "checked translation",
    "untranslated": "no checked English",
    "no-report": "no report",
}


@dataclass(frozen=True, slots=True)
class Licence:
    """Under which terms a source is given out.

    Attributes:
        hub: The Hub's identifier, such as ``"cc-by-4.0"``; ``"other"`` where it has none.
        name: What it is called.
        terms: What it allows, in one sentence.
    """

    hub: str
    name: str
    terms: str


UNSTATED = Licence(
    "other",
    "not stated",
    "The source states no licence: whoever holds the data decides, before it is shared.",
)
_BIMCV = Licence(
    "other",
    "BIMCV research use",
    "Research use only; no part of it may be distributed. Everyone obtains it from BIMCV.",
)
LICENCES: Mapping[str, Licence] = {
    "bimcv": _BIMCV,
    "bimcv_r": _BIMCV,
    "ct_rate": Licence(
        "cc-by-nc-sa-4.0", "CC BY-NC-SA 4.0", "Not for commercial use; shared alike, with credit."
    ),
    "merlin": Licence(
        "other",
        "Stanford research use agreement",
        "Research use only, not for commercial use; everyone signs the agreement.",
    ),
}
"""By source; one that is not here is `UNSTATED`."""


@dataclass(frozen=True, slots=True)
class Card:
    """What `write_card` wrote.

    Attributes:
        markdown: ``card.md``.
        page: ``card.html``.
        statistics: The numbers in it.
    """

    markdown: Path
    page: Path
    statistics: Statistics


def licence(source: str) -> Licence:
    """Return the licence of a source by its name, hyphens and underscores alike."""
    return LICENCES.get(source.replace("-", "_"), UNSTATED)


def write_card(folder: Path, out: Path | None = None) -> Card:
    """Write the dataset card of a curated folder; the same dataset gives the same bytes.

    Args:
        out: Folder to write into; None for `folder` itself.

    Raises:
        InputError: There is no such folder, or `out` is a file.
        Incomplete, Mismatch: As `Dataset.open`.
    """
    out = out or folder
    if out.exists() and not out.is_dir():
        raise InputError(f"{str(out)!r} is a file; a card needs a folder. Give another path.")
    numbers = statistics(folder)
    blocks = card_blocks(Dataset.open(folder), numbers)
    write_pictures(blocks, out / PICTURES)
    markdown, page = out / "card.md", out / "card.html"
    with atomic_write(page) as file:
        file.write(to_html(blocks).encode())
    with atomic_write(markdown) as file:  # last: it names the pictures
        file.write(to_markdown(blocks, PICTURES).encode())
    return Card(markdown, page, numbers)


def write_pictures(blocks: list[Block], folder: Path) -> None:
    """Write each picture among the blocks as a file of its own."""
    for block in blocks:
        if isinstance(block, Picture):
            with atomic_write(folder / f"{block.name}.svg") as file:
                file.write(block.file)


def card_blocks(dataset: Dataset, numbers: Statistics) -> list[Block]:
    """Return the card as blocks: what both its forms and an export's README are made of."""
    return [
        Heading("Dataset card", 1),
        *_summary(dataset, numbers),
        *_flow(numbers),
        *_findings(numbers),
        *_patients(numbers),
        *_volumes(numbers),
        *_texts(numbers),
        *_splits(numbers),
        *_left_out(numbers),
        *_removed(dataset),
        *_terms(dataset),
        *_made(dataset),
    ]


def _summary(dataset: Dataset, s: Statistics) -> list[Block]:
    text = (
        f"{s.n_studies:,} chest CT studies of {s.n_patients:,} patients, {s.n_reports:,} of them "
        f"with a radiology report. The reports affirm {len(s.affirmed)} different disease types "
        "and findings."
    )
    return [
        Paragraph(text),
        Table(
            "In numbers",
            ("what", "number"),
            (
                ("studies", s.n_studies),
                ("patients", s.n_patients),
                ("volumes", s.n_volumes),
                ("slices", s.n_slices),
                ("reports", s.n_reports),
                (
                    "reports with a checked English translation",
                    sum(s.states["translated"].values()),
                ),
                ("reports without checked English", sum(s.states["untranslated"].values())),
                ("disease types and findings affirmed", len(s.affirmed)),
                ("studies with labels from the source", s.n_labelled),
                ("studies with a doubt", s.n_doubted),
                ("items left out", s.n_rejections),
            ),
        ),
    ]


def _flow(s: Statistics) -> list[Block]:
    out = rejections_by_group(s)
    names = {state: _STATE_NAMES[state] for state in STATES}
    with_report = s.n_studies - sum(s.states["no-report"].values())
    nodes = [Node("found", 0, s.n_studies + s.n_rejections), Node("kept", 1, s.n_studies, 2)]
    nodes += [Node(f"left out: {group}", 1, sum(by.values()), 1) for group, by in out.items()]
    nodes.append(Node("with report", 2, with_report, 2))
    colours = dict.fromkeys(STATES, 4) | {"no-report": 6}
    nodes += [Node(names[st], 3, sum(s.states[st].values()), colours[st]) for st in STATES]
    nodes += [Node(_split_name(name), 4, part.n_studies, 3) for name, part in s.splits.items()]
    links = [("found", "kept", float(s.n_studies))]
    links += [("found", f"left out: {group}", float(sum(by.values()))) for group, by in out.items()]
    links += [
        ("kept", "with report", float(with_report)),
        ("kept", names["no-report"], float(sum(s.states["no-report"].values()))),
    ]
    links += [("with report", names[st], float(sum(s.states[st].values()))) for st in STATES[:3]]
    links += [
        (names[state], _split_name(split), float(n))
        for state in STATES
        for split, n in s.states[state].items()
    ]
    return [
        Heading("What went where"),
        Paragraph(
            "From every item that was found (a volume, a series, a row of a table) to what was "
            "left out and why, what was kept, in which language its text is read, and its split."
        ),
        flow("flow", "From what was found to the splits", nodes, links),
    ]


def _findings(s: Statistics) -> list[Block]:
    affirmed = s.affirmed
    blocks: list[Block] = [
        Heading("Findings"),
        Paragraph(
            f"The reports affirm {len(affirmed)} different disease types and findings (the "
            f"paper's count for BIMCV-R is {_PAPER_DISEASES}). A study counts once for a finding, "
            "and only where its report affirms it: what is denied or left open is counted beside."
        ),
    ]
    if not affirmed:
        return [*blocks, Paragraph("No report affirms any finding.")]
    top = dict(islice(affirmed.items(), _TOP))
    blocks.append(
        bars("findings", f"The {len(top)} most frequent findings", top, unit="studies",
             of=s.n_reports)
    )  # fmt: skip
    blocks.append(
        Table(
            f"The {len(top)} most frequent findings, in studies",
            ("finding", "affirmed", "denied", "left open"),
            tuple(
                (name, n, s.findings[name]["absent"], s.findings[name]["uncertain"])
                for name, n in top.items()
            ),
        )
    )
    blocks.append(_spreads("Findings affirmed by a report", {"findings": s.findings_per_study}))
    if s.labels:
        rows = tuple(
            (name, n, f"{n / s.n_labelled:.1%}") for name, n in islice(s.labels.items(), 15)
        )
        names = ("label", "studies", "share of labelled")
        blocks.append(Table("The source's own labels, most frequent", names, rows))
    return blocks


def _patients(s: Statistics) -> list[Block]:
    blocks: list[Block] = [
        Heading("Patients"),
        _counts("Sex", "sex", s.sexes, s.n_studies),
        _spreads("Age and studies", {"age, years": s.ages, "studies a patient": s.studies_per_patient}),
    ]  # fmt: skip
    if s.ages.counts:
        blocks.append(histogram("age", "Age of the patients", s.ages.counts, unit="years"))
    return blocks


def _volumes(s: Statistics) -> list[Block]:
    blocks: list[Block] = [Heading("Volumes")]
    if not s.n_volumes:
        return [*blocks, Paragraph("Curated from a table alone: there are no volumes.")]
    spreads = {
        "slices": s.slices,
        "distance between slices, mm": s.slice_spacing_mm,
        "pixel spacing, mm": s.pixel_spacing_mm,
    }
    blocks += [
        _spreads(f"{s.n_volumes:,} volumes, {s.n_slices:,} slices", spreads),
        histogram("slices", "Slices a volume", s.slices.counts, unit="slices"),
        histogram("slice-spacing", "Distance between slices", s.slice_spacing_mm.counts, unit="mm"),
        histogram("pixel-spacing", "Pixel spacing", s.pixel_spacing_mm.counts, unit="mm"),
        _counts("Scanner", "manufacturer", s.manufacturers, s.n_studies, 12),
        _counts("Body part", "body part", s.body_parts, s.n_studies, 12),
    ]
    return blocks


def _texts(s: Statistics) -> list[Block]:
    blocks: list[Block] = [Heading("Reports")]
    if not s.n_reports:
        return [*blocks, Paragraph("No study has a report.")]
    longer = s.words.share_above(_PAPER_WORDS) or 0.0
    blocks += [
        Paragraph(
            f"Words are counted in the text that is read: the checked translation, else the "
            f"report. {longer:.1%} of the texts have more than {_PAPER_WORDS} words. "
            f"{s.n_shared_texts:,} studies share their text with another study, so that a search "
            "by text cannot tell them apart."
        ),
        _spreads("Length of the text", {"words": s.words}),
        histogram("words", "Length of the text", s.words.counts, unit="words"),
        _counts("Language of the report", "language", s.languages, s.n_reports),
    ]
    for language, words in s.common_words.items():
        if words:
            blocks.append(
                Table(
                    f"Most frequent words ({language}), without function words",
                    ("word", "reports", "occurrences"),
                    tuple((w.word, w.n_reports, w.n_occurrences) for w in words),
                )
            )
    return blocks


def _splits(s: Statistics) -> list[Block]:
    rows = tuple(
        (
            _split_name(name),
            part.n_studies,
            part.n_patients,
            part.n_reports,
            part.n_slices,
            part.ages.mean,
            f"{part.sexes.get('F', 0) / part.n_studies:.1%}",
            part.words.median,
        )
        for name, part in s.splits.items()
    )
    names = (
        "split",
        "studies",
        "patients",
        "reports",
        "slices",
        "mean age",
        "female",
        "median words",
    )
    blocks: list[Block] = [
        Heading("Splits"),
        Table("Splits", names, rows),
        Paragraph(
            f"Patients in more than one split: {s.n_crossing_patients:,}. Texts in more than one "
            f"split: {s.n_crossing_texts:,}. Anything but 0 flatters a retrieval score."
        ),
    ]
    parts = {name: part for name, part in s.splits.items() if part.n_reports}
    top = list(islice(s.affirmed, _BALANCED))
    if len(parts) > 1 and top:
        shares = {
            finding: {
                _split_name(name): part.findings.get(finding, 0) / part.n_reports
                for name, part in parts.items()
            }
            for finding in top
        }
        blocks.append(
            groups("balance", "Findings in each split", shares, unit="% of the split's reports")
        )
    return blocks


def _left_out(s: Statistics) -> list[Block]:
    rows = tuple(
        (rule, group, n, meaning(rule))
        for group, by in rejections_by_group(s).items()
        for rule, n in by.items()
    )
    blocks: list[Block] = [Heading("Left out, and doubted")]
    if rows:
        blocks += [
            Paragraph(
                "Each item that was left out has a row in rejections.parquet, with what was "
                "expected and what was found."
            ),
            Table("Left out, by rule", ("rule", "group", "items", "meaning"), rows),
        ]
    else:
        blocks.append(Paragraph("Nothing was left out."))
    if s.doubts:
        blocks += [
            Paragraph(
                f"{s.n_doubted:,} studies were kept with at least one doubt, each a row of "
                "doubts.parquet for an expert to look at."
            ),
            Table(
                "Doubts, by rule",
                ("rule", "doubts", "meaning"),
                tuple((rule, n, meaning(rule)) for rule, n in s.doubts.items()),
            ),
        ]
    else:
        blocks.append(Paragraph("No study was doubted."))
    return blocks


def _removed(dataset: Dataset) -> list[Block]:
    counts = _numbers(dataset.manifest.config.get("removed"))
    text = (
        "Ids are pseudonyms by a keyed hash. What was removed from texts and tags is counted by "
        "kind; what was removed is kept nowhere in the dataset."
        if counts
        else "The run that made this dataset reports no removals of identity from texts or tags. "
        "Look at a sample before it is shared."
    )
    blocks: list[Block] = [Heading("De-identification"), Paragraph(text)]
    if counts:
        rows = tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
        blocks.append(Table("Removed, by kind", ("kind", "times"), rows))
    return blocks


def _terms(dataset: Dataset) -> list[Block]:
    terms = licence(dataset.source)
    return [
        Heading("Source and licence"),
        Paragraph(f"Source: {dataset.source or UNSTATED.name}. Licence: {terms.name}. {terms.terms}"),
        Heading("Intended use"),
        Bullets(
            (
                "Research on the retrieval of 3D CT by text and of text by CT, and on its measures.",
                "Not for diagnosis, not for decisions about any patient, not a medical device.",
                "Not for finding out who a patient is.",
            )
        ),
        Heading("Limits"),
        Bullets(
            (
                "Findings are read from the reports by rules, not by a radiologist; a report does "
                "not state all that the CT shows.",
                "Translations passed automatic checks; no person has read each of them.",
                "The patients are those of the source's hospitals and years: other populations, "
                "scanners and habits of reporting differ.",
                "Equal texts and patients with several studies make one-to-one scores pessimistic; "
                "the counts above say how much.",
            )
        ),
    ]  # fmt: skip


def _made(dataset: Dataset) -> list[Block]:
    manifest = dataset.manifest
    config = {k: v for k, v in manifest.config.items() if k not in ("removed", "flow")}
    rows: list[tuple[str, str]] = [
        ("manifest", dataset.hash),
        ("MedFinder", manifest.package_version or "-"),
        ("seed", "-" if manifest.seed is None else str(manifest.seed)),
    ]
    rows += [(f"input: {name}", mark) for name, mark in sorted(manifest.parents.items())]
    rows += _settings(config)
    return [
        Heading("Made by"),
        Paragraph("The same source, version and settings give the same dataset, by this hash."),
        Table("Run", ("what", "value"), tuple(rows)),
    ]


def _settings(values: Mapping[str, Any], above: str = "") -> list[tuple[str, str]]:
    """Return the resolved settings flat, one row each, without anything that is a path."""
    rows: list[tuple[str, str]] = []
    for name, value in sorted(values.items()):
        if isinstance(value, Mapping):
            rows += _settings(value, f"{above}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            is_place = isinstance(value, str) and ("/" in value or "\\" in value)
            rows.append((above + name, "(a path)" if is_place else text[:_LONGEST_SETTING]))
    return rows


def rejections_by_group(s: Statistics) -> dict[str, dict[str, int]]:
    """Return the rejections as group → rule → items, groups by falling number of items."""
    found: dict[str, dict[str, int]] = {}
    for rule, n in s.rejections.items():
        found.setdefault(group_of(rule), {})[rule] = n
    return dict(sorted(found.items(), key=lambda item: (-sum(item[1].values()), item[0])))


def meaning(rule: str) -> str:
    """Return what a rule means, in one line; "" for one that is not known here."""
    return _meanings()[0].get(rule, "")


def group_of(rule: str) -> str:
    """Return the group of a rule of rejection; ``"other"`` for one that is not known here."""
    return _meanings()[1].get(rule, "other")


@cache
def _meanings() -> tuple[Mapping[str, str], Mapping[str, str]]:
    text = resources.files(__package__).joinpath("meanings.toml").read_text(encoding="utf-8")
    told = tomllib.loads(text)
    meanings: dict[str, str] = dict(told["doubt"])
    groups: dict[str, str] = {}
    for group, rules in told["rejection"].items():
        meanings |= rules
        groups |= dict.fromkeys(rules, group)
    return meanings, groups


def _split_name(split: str) -> str:
    return "no split" if split == NO_SPLIT else split


def _counts(
    caption: str, what: str, counts: Mapping[str, int], whole: int, most: int | None = None
) -> Table:
    rows = [(name, n, f"{n / whole:.1%}") for name, n in islice(counts.items(), most)]
    rest = list(counts.values())[len(rows) :]
    if rest:
        rows.append((f"{len(rest)} others", sum(rest), f"{sum(rest) / whole:.1%}"))
    return Table(caption, (what, "studies", "share"), tuple(rows))


def _spreads(caption: str, spreads: Mapping[str, Spread]) -> Table:
    rows = tuple((name, s.n, s.median, s.mean, s.minimum, s.maximum) for name, s in spreads.items())
    return Table(caption, ("", "studies", "median", "mean", "least", "most"), rows)


def _numbers(value: object, above: str = "") -> dict[str, int]:
    """Return what of a manifest's entry is a count, nested ones by their path; else nothing."""
    found: dict[str, int] = {}
    for name, n in value.items() if isinstance(value, Mapping) else ():
        if isinstance(n, Mapping):
            found |= _numbers(n, f"{above}{name} ")
        elif isinstance(n, int) and n > 0:
            found[f"{above}{name}"] = n
    return found
