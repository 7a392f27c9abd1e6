"""CT-RATE as it is released: chest CTs with English reports, 18 labels and scanner metadata.

``valid_53_a_1.nii.gz`` is reconstruction 1 of scan ``a`` of patient ``valid_53``: reconstructions
are series of one study. The files hold HU already. The metadata's RescaleSlope and RescaleIntercept
are those of the DICOM they were made from; applying them again is the commonest mistake made with
this dataset, and nothing here reads them. Files of the first release, whose headers lack the
intercept, are told by their values (``not-hu-offset``); where the corrected folder ``train_fixed``
or ``valid_fixed`` lies beside, its copies are used.

Source:
    huggingface.co/datasets/ibrahimhamamci/CT-RATE; Hamamci et al., arXiv 2403.17834.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medfinder.curate.sources.listing import NOT_LISTED, Listing, find_tables, refused, stem
from medfinder.curate.sources.source import Facts, parse_age, parse_date, parse_sex
from medfinder.curate.tables import RowReader, parse_list
from medfinder.errors import InputError
from medfinder.records import Rejection, Split
from medfinder.report.vocabulary import LABELS
from medfinder.volume.read import VolumeRef, find_volumes

_VOLUME = ("VolumeName", "volume_name", "volume", "AccessionNo", "filename")
_REPORTS = {
    "volume": _VOLUME,
    "history": ("ClinicalInformation_EN", "ClinicalInformation"),
    "technique": ("Technique_EN", "Technique"),
    "findings": ("Findings_EN", "Findings", "report_text"),
    "impression": ("Impressions_EN", "Impression_EN", "Impressions"),
}
_HEADINGS = {
    "history": "Clinical information",
    "technique": "Technique",
    "findings": "Findings",
    "impression": "Impression",
}
_LABELS = {"volume": _VOLUME, **{name: (name,) for name in LABELS}}
_METADATA = {
    "volume": _VOLUME,
    "sex": ("PatientSex", "Sex"),
    "age": ("PatientAge", "Age"),
    "manufacturer": ("Manufacturer",),
    "study_date": ("StudyDate", "AcquisitionDate"),
    "kernel": ("ConvolutionKernel",),
}
_NAME = re.compile(r"((train|valid|test)_[^_]+)_([^_]+)_([^_]+)", re.IGNORECASE)
_SPLITS: Mapping[str, Split] = {"train": "train", "valid": "val", "test": "test"}
_MASKS = re.compile(r"(?:^|/)(?:ts_seg|[^/]*segmentation[^/]*|[^/]*masks?)/", re.IGNORECASE)
_NOT_GIVEN = re.compile(r"\W*not (?:given|available|specified)\W*", re.IGNORECASE)
_FIXED = "_fixed"


class CtRateSource:
    """CT-RATE, whole or a part of it.

    Args:
        root: The release's folder, or its ``dataset``.

    Raises:
        InputError: No such folder, or no table of reports below it.
    """

    name = "ct-rate"

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise InputError(f"There is no folder at {str(root)!r}. Check the path.")
        self.root = root
        volumes = r"(train|valid|test)(_fixed)?|(train|valid|test)_.*|ts_seg"
        tables = find_tables(root, r".*\.(csv|tsv|xlsx|jsonl)", volumes)
        self._reports = _those(tables, "report", _REPORTS, ["volume", "findings|impression"])
        self._label_tables = _those(tables, "label", _LABELS, ["volume", *LABELS])
        self._metadata_tables = _those(tables, "metadata", _METADATA, ["volume"])
        if not self._reports:
            raise InputError(
                "The folder has no table of reports: expected "
                "radiology_text_reports/train_reports.csv or validation_reports.csv. Download them.",
                rule="no-table",
            )
        self._not_chest = frozenset(
            stem(line)
            for path in find_tables(root, r"no_chest_.*\.txt", volumes)
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines()
        )
        self._listing, self._labels, self._metadata = Listing(), Listing(), Listing()

    def items(self) -> Iterator[VolumeRef | Rejection]:
        """Read the tables, then walk the folder."""
        self._listing, self._labels, self._metadata = Listing(), Listing(), Listing()
        for tables, listing in (
            (self._reports, self._listing),
            (self._label_tables, self._labels),
            (self._metadata_tables, self._metadata),
        ):
            for table in tables:
                for row in table:
                    name = stem(row.cells["volume"])
                    rejection = refused(row, ids=(name,), paths=(row.cells["volume"],))
                    rejection = rejection or listing.add(row, name, group=_study(name))
                    if rejection:
                        yield rejection
        for item in find_volumes(self.root):
            yield item if isinstance(item, Rejection) else self._refused(item) or item

    def _refused(self, ref: VolumeRef) -> Rejection | None:
        name = stem(ref.item)
        if _MASKS.search(ref.item):
            reason = "The folder is one of segmentations; these are no voxels of a CT."
            return Rejection(ref.item, "unexpected-file", reason)
        if not _NAME.fullmatch(name):
            reason = "The name is not CT-RATE's: expected such as train_53_a_1.nii.gz."
            return Rejection(ref.item, "unexpected-file", reason)
        self._listing.mark(name)
        if name in self._not_chest:
            reason = "CT-RATE's own list says that this volume shows no chest."
            return Rejection(ref.item, "other-body-part", reason)
        if (fixed := _corrected(ref.item)) is not None and (self.root / fixed).is_file():
            reason = "The same scan lies in the corrected folder beside, and that copy is used."
            return Rejection(ref.item, "duplicate-volume", reason)
        return None

    def facts(self, ref: VolumeRef, tags: Mapping[str, Any]) -> Facts:
        """Return what the three tables say of one reconstruction."""
        name = stem(ref.item)
        study = _study(name)
        row = self._listing.claim(name, group=study)
        labels = self._labels.claim(name, group=study)
        metadata = self._metadata.claim(name)
        cells = row.cells if row else {}
        said = metadata.cells if metadata else {}
        match = _NAME.fullmatch(name)
        return Facts(
            fallback_id=name,
            study_id=study or None,
            patient_id=match[1] if match else None,
            text=_report(cells),
            language="en",
            # None of eighteen found is no list of labels that could be missing one.
            labels=None if labels is None else _present(labels.cells) or None,
            sex=parse_sex(said.get("sex")),
            age=parse_age(said.get("age")),
            study_date=parse_date(said.get("study_date", "").removesuffix(".0")),
            manufacturer=said.get("manufacturer") or None,
            body_part="chest",
            split=_SPLITS[match[2].lower()] if match else None,
            kernel=next(iter(parse_list(said.get("kernel", ""))), None),
            doubts=row.doubts if row else (NOT_LISTED,),
        )

    def leftovers(self) -> Iterator[Rejection]:
        """Yield a rejection for every volume with a report that is not in the folder."""
        for item, _ in self._listing.unclaimed():
            yield Rejection(
                item,
                "volume-missing",
                "The table has a report of this volume, but the volume is not in the folder.",
            )


def _those(
    tables: list[Path], word: str, columns: Mapping[str, tuple[str, ...]], needs: list[str]
) -> list[RowReader]:
    """Open the tables whose name or folder says `word`; others of the release are none of ours."""
    return [
        RowReader(path, columns, needs, named=True)
        for path in tables
        if word in path.stem.lower() and "attributes" not in path.stem.lower()
    ]


def _study(name: str) -> str:
    """Return ``valid_53_a`` of ``valid_53_a_1``; "" for other names."""
    match = _NAME.fullmatch(name)
    return f"{match[1]}_{match[3]}" if match else ""


def _corrected(item: str) -> Path | None:
    """Return where below the root the corrected copy of a first release's file would be."""
    parts = item.split("/")
    for n, part in enumerate(parts):
        if part.lower() in _SPLITS:
            return Path(*parts[:n], part + _FIXED, *parts[n + 1 :])
    return None


def _report(cells: Mapping[str, str]) -> str:
    parts = {n: cells.get(n, "") for n in _HEADINGS if not _NOT_GIVEN.fullmatch(cells.get(n, ""))}
    if not parts.get("findings") and not parts.get("impression"):
        return ""  # how and why it was scanned is no report
    return "\n".join(f"{_HEADINGS[name]}: {part}" for name, part in parts.items() if part)


def _present(cells: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(name for name in LABELS if cells.get(name, "") in ("1", "1.0", "True", "true"))
