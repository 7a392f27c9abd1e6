"""The studies of a benchmark → what may count as an answer: equal texts, findings, places, patients.

Everything is derived from `Study` rows, sorted by study_id, so the order of a table changes nothing.
Knows no vectors and no scores.
"""

import csv
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from medfinder.artifact import manifest_hash, read_manifest
from medfinder.config import from_dict
from medfinder.errors import InputError
from medfinder.records import Finding, Report, Study
from medfinder.report.findings import extract_findings
from medfinder.report.parse import parse_report
from medfinder.report.vocabulary import LABELS, vocabulary
from medfinder.studies import digest, read_studies
from medfinder.volume.checks import CheckConfig

Rows: TypeAlias = NDArray[np.int64]
LOBES = ("upper lobe", "middle lobe", "lower lobe", "lingula")
_RECONSTRUCTION = re.compile(r"(.+_\d+_[a-z]+)_(\d+)")  # CT-RATE's valid_53_a_1
_COLUMNS = {
    "study_id": ("study_id", "VolumeName"),
    "patient_id": ("patient_id", "PatientID"),
    "report": ("report", "report_text", "text"),
    "findings": ("findings", "findings_present"),
    "split": ("split",),
    "body_part": ("body_part",),
}


@dataclass(frozen=True, eq=False)
class Reference:
    """The studies that are searched, and what is known of them.

    Attributes:
        studies: N, by study_id.
        source: Hash of the folder or table they were read from.
        is_listed: Whether findings were given for every study, so that none is an answer too.
        check: What a sound volume is, as the studies were curated.
    """

    studies: tuple[Study, ...]
    source: str = ""
    is_listed: bool = False
    check: CheckConfig = field(default_factory=CheckConfig)

    def __post_init__(self) -> None:
        ids = [study.study_id for study in self.studies]
        if not ids:
            raise InputError(
                "There are no studies to measure on: the table, or its split, is empty. A measure "
                "over nothing is undefined.",
                rule="no-studies",
            )
        twice = repeated(ids)
        if twice:
            raise InputError(
                f"{len(twice)} study_ids occur more than once in the table of studies, first "
                f"{twice[0]!r}. Give each study one row.",
                rule="duplicate-study",
            )
        object.__setattr__(
            self, "studies", tuple(sorted(self.studies, key=lambda study: study.study_id))
        )

    def __len__(self) -> int:
        return len(self.studies)

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """study_id of each row, ascending."""
        return tuple(study.study_id for study in self.studies)

    @cached_property
    def row(self) -> Mapping[str, int]:
        """Row of each study_id."""
        return {study_id: i for i, study_id in enumerate(self.ids)}

    @cached_property
    def patients(self) -> tuple[str, ...]:
        """patient_id of each row."""
        return tuple(study.patient_id for study in self.studies)

    @cached_property
    def patient_key(self) -> Rows:
        """(N,) equal where the patient is the same."""
        return _keys(self.patients)

    @cached_property
    def has_text(self) -> NDArray[np.bool_]:
        """(N,) whether a study has a text to read."""
        return np.array([bool(study.text.strip()) for study in self.studies], np.bool_)

    @cached_property
    def text_key(self) -> Rows:
        """(N,) equal where the texts are the same; case and white space do not matter.

        A study without a text has a key of its own: nothing says that it is like another.
        """
        return _keys(_folded(study.text) or f"\0{study.study_id}" for study in self.studies)

    @cached_property
    def section_key(self) -> Rows:
        """(N,) equal where the findings sections are the same; the whole text where there is none."""

        def section(study: Study) -> str:
            own = study.report.findings_text if study.report and not study.translation else ""
            return _folded(own or study.text) or f"\0{study.study_id}"

        return _keys(map(section, self.studies))

    @cached_property
    def volume_key(self) -> Rows:
        """(N,) equal where the voxels are the same; every study its own where that is not known."""
        return _keys(study.volume_hash or f"of {study.study_id}" for study in self.studies)

    @cached_property
    def affirmed(self) -> tuple[frozenset[str], ...]:
        """Names that each study's report affirms.

        Raises:
            InputError: Rule ``no-findings``: no report affirms or denies anything.
        """
        if not any(study.findings for study in self.studies):
            raise InputError(
                "No study has findings, so none can be looked for. Give a column 'findings' or "
                "reports that tell some.",
                rule="no-findings",
            )
        return tuple(
            frozenset(f.name for f in study.findings if f.status == "present")
            for study in self.studies
        )

    @cached_property
    def is_judged(self) -> NDArray[np.bool_]:
        """(N,) whether it is known what a study shows: from a text, or from what was given."""
        given = [bool(study.findings or study.labels) for study in self.studies]
        return self.has_text | np.array(given, np.bool_) | self.is_listed

    @cached_property
    def findings_key(self) -> Rows:
        """(N,) equal where the affirmed findings are the same; none at all is a set too."""
        return _keys("|".join(sorted(names)) for names in self.affirmed)

    @cached_property
    def table(self) -> NDArray[np.float32]:
        """(N, names) 1 where a study affirms a finding; names in alphabetical order."""
        names = sorted({name for own in self.affirmed for name in own})
        return _one_hot(self.affirmed, names)

    @cached_property
    def labels(self) -> NDArray[np.float32]:
        """(N, 18) the labels of CT-RATE's scheme: the source's own where it gave any, else read.

        Raises:
            InputError: Rule ``no-labels``: no study has any of the 18.
        """
        given = [frozenset(study.labels) & frozenset(LABELS) for study in self.studies]
        if not any(given):
            given = [names & frozenset(LABELS) for names in self.affirmed]
        if not any(given):
            raise InputError(
                "No study has any of CT-RATE's 18 labels. Give a column 'findings' that names "
                "them, or reports.",
                rule="no-labels",
            )
        return _one_hot(given, LABELS)

    def places(
        self, where: Callable[[Finding], str | None]
    ) -> tuple[dict[str, frozenset[str]], ...]:
        """Return, for each study, finding → the places that `where` reads off its mentions."""
        found: list[dict[str, frozenset[str]]] = []
        for study in self.studies:
            own: dict[str, set[str]] = {}
            for finding in study.findings:
                place = where(finding)
                if finding.status == "present" and place is not None:
                    own.setdefault(finding.name, set()).add(place)
            found.append({name: frozenset(places) for name, places in own.items()})
        return tuple(found)

    @cached_property
    def scan(self) -> tuple[tuple[str, int], ...]:
        """Scan and number of reconstruction of each row: ("valid_53_a", 1) of ``valid_53_a_1``.

        A study_id of any other form is a scan with one reconstruction.
        """
        found = []
        for study_id in self.ids:
            match = _RECONSTRUCTION.fullmatch(study_id.removesuffix(".nii.gz"))
            found.append((match[1], int(match[2])) if match else (study_id, 1))
        return tuple(found)

    @cached_property
    def hash(self) -> str:
        """16 hex digits over all that is known of the studies, places of files apart."""
        whole = hashlib.sha256()
        for study in self.studies:
            bare = Study(
                **{
                    name: getattr(study, name)
                    for name in Study.__dataclass_fields__
                    if name not in ("volume_path", "series_id")
                },
                volume_path="",
                series_id="",
            )
            whole.update(digest(bare).encode())
        return whole.hexdigest()[:16]


def lobe_of(finding: Finding) -> str | None:
    """Return a finding's lobe with its side, such as ``"left lower lobe"``; None where unsaid."""
    if finding.location not in LOBES:
        return None
    return " ".join(filter(None, (finding.laterality, finding.location)))


def side_of(finding: Finding) -> str | None:
    """Return a finding's side; None where unsaid."""
    return finding.laterality


def asked_for(reference: Reference, name: str) -> NDArray[np.bool_]:
    """Return which studies affirm a finding or one of its kinds, (N,)."""
    known = vocabulary()
    wanted = {name} | (known.descendants(name) if name in known else frozenset())
    return np.array([not wanted.isdisjoint(own) for own in reference.affirmed], np.bool_)


def read_reference(path: str | Path, split: str | None = None) -> Reference:
    """Read the studies of a benchmark.

    Args:
        path: A folder of ``medfinder curate``; a Parquet file with its columns; or a table (CSV or
            Parquet) with the columns study_id, patient_id, report and, where they are known,
            findings (names joined by ``;``, or a list), split and body_part.
        split: Studies of this split only, ``"all"`` for every one; None for ``"test"`` where any
            study has a split, else all.

    Raises:
        InputError: Rules ``no-table``, ``unreadable-table``, ``missing-column``, ``missing-cell``,
            ``unknown-split``, ``no-studies``, ``duplicate-study``.
        Incomplete, Mismatch: The folder is unfinished, or another stage's.
    """
    path = Path(path)
    is_listed, check = False, CheckConfig()
    if path.is_dir():
        manifest = read_manifest(path, "curate")
        source = manifest_hash(manifest)
        check = from_dict(CheckConfig, manifest.config.get("check", {}))
        studies = read_studies(path / "studies.parquet")
    elif path.is_file():
        source = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        studies, is_listed = _read_table(path)
    else:
        raise InputError(f"There is no table of studies at {str(path)!r}.", rule="no-table")
    splits = sorted({study.split for study in studies if study.split})
    chosen = split or ("test" if splits else "all")
    if chosen != "all":
        if chosen not in splits:
            raise InputError(
                f"No study is of the split {chosen!r}; there are {', '.join(splits) or 'none'}. "
                "Name one of them, or 'all'.",
                rule="unknown-split",
            )
        studies = [study for study in studies if study.split == chosen]
    return Reference(tuple(studies), source, is_listed, check)


def _read_table(path: Path) -> tuple[list[Study], bool]:
    """Return the studies, and whether their findings were given."""
    if path.suffix == ".parquet":
        rows, columns = _parquet_rows(path)
        if {"study_id", "findings", "shape", "report_text"} <= set(columns):
            return read_studies(path), False
    else:
        rows, columns = _csv_rows(path)
    found = {}
    for name, spellings in _COLUMNS.items():
        found[name] = next((s for s in spellings if s in columns), None)
        if found[name] is None and name in ("study_id", "patient_id"):
            raise InputError(
                f"The table {path.name} has no column {name!r}; it has {', '.join(columns)}.",
                rule="missing-column",
            )
    if found["report"] is None and found["findings"] is None:
        raise InputError(
            f"The table {path.name} has neither a column 'report' nor 'findings', so nothing says "
            f"what answers a query; it has {', '.join(columns)}.",
            rule="missing-column",
        )
    studies = [_study(i, row, found, path.name) for i, row in enumerate(rows, 1)]
    return studies, found["findings"] is not None


def _csv_rows(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    csv.field_size_limit(1 << 24)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            rows = list(reader)
            return rows, list(reader.fieldnames or ())
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"The table {path.name} cannot be read as CSV in UTF-8: {error}. Save it again.",
            rule="unreadable-table",
        ) from None


def _parquet_rows(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path).read()
    except (pa.ArrowInvalid, OSError):
        raise InputError(
            f"The table {path.name} is no Parquet file. Save it again.", rule="unreadable-table"
        ) from None
    return table.to_pylist(), list(table.column_names)


def _study(i: int, row: Mapping[str, Any], columns: Mapping[str, str | None], file: str) -> Study:
    def cell(name: str) -> Any:
        column = columns[name]
        return None if column is None else row.get(column)

    for name in ("study_id", "patient_id"):
        if not str(cell(name) or "").strip():
            raise InputError(
                f"Row {i} of {file} has no {name}. Fill it in: patients are what intervals are "
                "drawn over.",
                rule="missing-cell",
            )
    text = str(cell("report") or "").strip()
    report: Report | None = parse_report(text) if text else None
    names = cell("findings")
    if isinstance(names, str):
        names = [name for part in names.split(";") if (name := part.strip())]
    if columns["findings"] is not None:
        findings = tuple(Finding(str(name), None, "present") for name in names or ())
    else:
        findings = extract_findings(report) if report else ()
    return Study(
        study_id=str(cell("study_id")).strip(),
        patient_id=str(cell("patient_id")).strip(),
        series_id="",
        volume_path="",
        volume_hash="",
        shape=(0, 0, 0),
        spacing_mm=(0.0, 0.0, 0.0),
        report=report,
        findings=findings,
        split=cell("split") or None,
        body_part=cell("body_part") or None,
        source="table",
    )


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _keys(values: Iterable[str]) -> Rows:
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], np.int64)


def _one_hot(sets: Sequence[frozenset[str]], names: Sequence[str]) -> NDArray[np.float32]:
    place = {name: j for j, name in enumerate(names)}
    table = np.zeros((len(sets), len(names)), np.float32)
    for i, own in enumerate(sets):
        table[i, [place[name] for name in own]] = 1
    return table


def repeated(ids: Sequence[str]) -> list[str]:
    """Return the ids that occur more than once, in order."""
    seen: set[str] = set()
    twice: dict[str, None] = {}
    for study_id in ids:
        if study_id in seen:
            twice[study_id] = None
        seen.add(study_id)
    return list(twice)
