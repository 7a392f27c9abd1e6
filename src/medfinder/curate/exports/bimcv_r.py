"""BIMCV-R's published layout: one CSV table with its columns, volumes in ten shards ``CT1``...``CT10``.

What reads the published dataset reads this, `sources.bimcv_r` included. The authors' split goes by
shard, and so does this: ``train`` lies in 1 to 7, ``val`` in 8, ``test`` in 9 and 10, a patient
always in one.
"""

import csv
import hashlib
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from medfinder.curate.exports.layout import file_key
from medfinder.records import Finding, Rejection, Split, Study
from medfinder.report.sentences import sentences
from medfinder.report.vocabulary import vocabulary

TABLE = Path("meta") / "BIMCV-R.csv"
COLUMNS = (
    "PatientID", "ReportID", "Report", "Report_en", "Labels", "Localizations",
    "LabelsLocalizationsBySentence", "labelCUIS", "LocalizationsCUIS", "num", "path",
)  # fmt: skip
_SHARDS: dict[Split | None, tuple[int, ...]] = {
    "train": (1, 2, 3, 4, 5, 6, 7),
    "val": (8,),
    "test": (9, 10),
    None: (0,),  # of a dataset with splits, a study without one is in none of theirs
}
_ALL = tuple(range(1, 11))
# What a spreadsheet would run. The apostrophe before it is undone by `tables.plain_cell`.
_TRIGGERS = ("=", "+", "-", "@", "\t", "\r")


class BimcvRLayout:
    """The published table and its shards.

    Args:
        folder: To write into.
        has_splits: Whether any study has a split; where none has, a patient's shard goes by a
            hash, so that 7/1/2 of the patients are in the authors' splits.
        has_volumes: False for a table alone: its paths then say only the shard and the name.
    """

    suffix = ".nii.gz"

    def __init__(self, folder: Path, has_splits: bool, has_volumes: bool) -> None:
        self.earlier: list[Rejection] = []
        self._folder, self._has_splits, self._has_volumes = folder, has_splits, has_volumes
        (folder / TABLE.parent).mkdir(exist_ok=True)
        self._path = folder / TABLE.parent / f".{TABLE.name}"
        self._file = self._path.open("wb")
        text = io.TextIOWrapper(self._file, encoding="utf-8", newline="", write_through=True)
        self._text = text
        self._table = csv.writer(text, lineterminator="\n")
        self._table.writerow(COLUMNS)

    def is_done(self, study: Study) -> bool:
        """Tell no: the table is written anew."""
        return False

    def place(self, study: Study) -> Path:
        """Return ``CT3/ct/PATIENT_STUDY_bp-chest_ct.nii.gz``."""
        shards = _SHARDS[study.split] if self._has_splits else _ALL
        hashed = int(hashlib.sha256(study.patient_id.encode()).hexdigest()[:8], 16)
        shard = shards[hashed % len(shards)]
        part = "".join(c for c in study.body_part or "" if c.isascii() and c.isalpha()) or "chest"
        ids = f"{file_key(study.patient_id)}_{file_key(study.study_id)}"
        return self._folder / f"CT{shard}" / "ct" / f"{ids}_bp-{part}_ct{self.suffix}"

    def add(self, study: Study, volume: Path | None, rejection: Rejection | None) -> None:
        """Append the study's row."""
        path = volume if self._has_volumes else self.place(study)
        name = path.relative_to(self._folder).as_posix() if path else ""
        self._table.writerow([neutral(cell) for cell in table_cells(study, name)])

    def finish(self) -> None:
        """Complete the table."""
        self._text.flush()
        os.fsync(self._file.fileno())
        self._text.close()
        os.replace(self._path, self._folder / TABLE)

    def abandon(self) -> None:
        """Close the table."""
        self._file.raw.close()


def table_cells(study: Study, path: str) -> list[str]:
    """Return a study as a row of the published table.

    ``Labels`` are the findings its report affirms, each once, with their CUIs in the same order
    (empty where the vocabulary has none); the source's own labels are not in it. ``Localizations``
    are their places and sides. ``LabelsLocalizationsBySentence`` has, sentence by sentence, what
    it affirms and where; ``normal`` for one that only denies, ``exclude`` for one that states no
    finding. ``num`` is the number of slices.
    """
    affirmed = [f for f in study.findings if f.status == "present"]
    labels = list(dict.fromkeys(f.name for f in affirmed))
    places = list(dict.fromkeys(place for f in affirmed for place in _places(f)))
    report = study.report
    original = report.text if report and report.language != "en" else ""
    english = report.text if report and report.language == "en" else study.translation or ""
    return [
        study.patient_id,
        study.study_id,
        original,
        english,
        str(labels),
        str([f"loc {place}" for place in places]),
        str(_by_sentence(study)),
        _cuis(labels),
        _cuis(places),
        f"{study.shape[0]:.1f}" if study.volume_hash else "",
        path,
    ]


def neutral(cell: str) -> str:
    """Return a cell that no spreadsheet takes for a formula."""
    return f"'{cell}" if cell.startswith(_TRIGGERS) else cell


def _places(finding: Finding) -> Iterable[str]:
    if finding.location:
        yield finding.location
    if finding.laterality:
        yield finding.laterality


def _by_sentence(study: Study) -> list[str]:
    if study.report is None:
        return []
    told: list[str] = []
    for start, end in sentences(study.report.text):
        here = [f for f in study.findings if start <= f.start < end]
        affirmed = [f for f in here if f.status == "present"]
        if not affirmed:
            told.append("normal" if any(f.status == "absent" for f in here) else "exclude")
        names = dict.fromkeys(f.name for f in affirmed)
        places = dict.fromkeys(f"loc {place}" for f in affirmed for place in _places(f))
        told += [*names, *places]
    return told


def _cuis(names: Sequence[str]) -> str:
    known = vocabulary()
    return "[" + ",".join((known.get(n).cui or "") if n in known else "" for n in names) + "]"
