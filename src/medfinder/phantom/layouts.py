"""Sessions → the files of four real archives: names, tables and sidecars as those have them.

``bimcv`` is the raw MIDS tree, ``bimcv_r`` the published table beside ten shards, ``ct_rate`` and
``merlin`` are what their names say. A writer takes one session after the other and holds none.
"""

import csv
import io
import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from medfinder.artifact import atomic_write
from medfinder.phantom.acquisition import sample_acquisition
from medfinder.phantom.case import FindingSpec
from medfinder.phantom.sessions import Layout, Scan, Session
from medfinder.report.vocabulary import LABELS, vocabulary

Size = tuple[int, int, int]
LABEL_COLUMNS = (
    *("PatientID", "ReportID", "Report", "Labels", "Localizations"),
    *("LabelsLocalizationsBySentence", "labelCUIS", "LocalizationsCUIS"),
)
BIMCV_R_COLUMNS = (*LABEL_COLUMNS[:3], "Report_en", *LABEL_COLUMNS[3:], "num", "path")
REPORT_COLUMNS = (
    *("VolumeName", "ClinicalInformation_EN", "Technique_EN", "Findings_EN", "Impressions_EN"),
)
METADATA_COLUMNS = (
    *("VolumeName", "Manufacturer", "SeriesDescription", "PatientSex", "PatientAge"),
    *("ConvolutionKernel", "Rows", "Columns", "XYSpacing", "RescaleIntercept", "RescaleSlope"),
    *("NumberofSlices", "ZSpacing", "StudyDate"),
)
MERLIN_COLUMNS = ("study id", "Findings", "Split", "Few Shot")

_TAGS = {
    "Modality": "00080060",
    "StudyDate": "00080020",
    "Manufacturer": "00080070",
    "InstitutionName": "00080080",
    "ReferringPhysicianName": "00080090",
    "PatientName": "00100010",
    "PatientID": "00100020",
    "PatientBirthDate": "00100030",
    "PatientSex": "00100040",
    "PatientAge": "00101010",
    "PatientAddress": "00101040",
    "BodyPartExamined": "00180015",
    "SliceThickness": "00180050",
    "KVP": "00180060",
    "ConvolutionKernel": "00181210",
    "StudyInstanceUID": "0020000D",
    "SeriesInstanceUID": "0020000E",
}


class Writer(Protocol):
    """Writes one archive."""

    def place(self, session: Session, scan: Scan) -> str:
        """Return the path of a scan's file from the archive's root."""
        ...

    def add(self, session: Session) -> None:
        """Write a session's rows and sidecars."""
        ...

    def close(self) -> None:
        """Put the tables in their places."""
        ...


def make_writer(layout: Layout, root: Path, size: Size, *, windows: bool) -> Writer:
    """Make the writer of a layout.

    Args:
        size: Of the volumes, for what tables and sidecars say of them.
        windows: Tables as a spreadsheet of Western Windows saves them: cp1252, CRLF.
    """
    writers: Mapping[Layout, Any] = {
        "bimcv": Bimcv,
        "bimcv_r": BimcvR,
        "ct_rate": CtRate,
        "merlin": Merlin,
    }
    writer: Writer = writers[layout](root, size, windows)
    return writer


class Lines:
    """A table that is written row by row and appears whole when it is closed."""

    def __init__(
        self, path: Path, columns: Sequence[str], *, windows: bool = False, separator: str = ","
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.aside = path.with_name(f".{path.name}.tmp")
        # What cp1252 lacks becomes "?", as there.
        self.file = self.aside.open(
            "w", newline="", encoding="cp1252" if windows else "utf-8", errors="replace"
        )
        self.table = csv.writer(
            self.file, delimiter=separator, lineterminator="\r\n" if windows else "\n"
        )
        self.columns = columns
        self.table.writerow(columns)

    def add(self, cells: Mapping[str, str]) -> None:
        """Write a row; what is missing is empty."""
        self.table.writerow([cells.get(column, "") for column in self.columns])

    def close(self) -> None:
        """Put the file in its place."""
        self.file.close()
        self.aside.replace(self.path)


class Bimcv:
    """The raw tree of BIMCV-COVID19: CT, CR and DX of both iterations, mixed.

    Two label tables: ``posi`` as the project exports it, ``nega`` as a spreadsheet saves it.
    """

    def __init__(self, root: Path, size: Size, windows: bool) -> None:
        self.root, self.size = root, size
        labels = root / "derivatives" / "labels"
        self.posi, self.nega = (
            Lines(labels / f"labels_covid19_{name}.tsv", LABEL_COLUMNS, windows=w, separator="\t")
            for name, w in (("posi", windows), ("nega", True))
        )
        self.participants = Lines(
            root / "participants.tsv",
            ("participant", "modality_dicom", "body_parts", "age", "gender"),
            separator="\t",
        )
        self.visits: list[Session] = []

    def place(self, session: Session, scan: Scan) -> str:
        """Return ``sub-*/ses-*/mod-rx/NAME``."""
        name = _mids_name(session, scan)
        suffix = "nii.gz" if scan.modality == "ct" else "png"
        return f"{session.patient.patient_id}/{session.study_id}/mod-rx/{name}.{suffix}"

    def add(self, session: Session) -> None:
        """Write the session's row, its sidecars and its list of scans."""
        table = self.nega if session.patient.number % 4 == 3 else self.posi
        for _ in range(session.n_rows):
            table.add(_label_cells(session))
        if self.visits and self.visits[0].patient is not session.patient:
            self._end_patient()
        self.visits.append(session)
        there = [scan for scan in session.scans if scan.is_there]
        if not there:
            return
        folder = self.root / Path(self.place(session, there[0])).parent.parent
        listing = io.StringIO()
        scans = csv.writer(listing, delimiter="\t", lineterminator="\n")
        scans.writerow(("filename", "modality", "body_part", "manufacturer", "slice_thickness"))
        for scan in there:
            tags = _dicom_tags(session, scan, self.size)
            place = self.place(session, scan)
            scans.writerow(
                (
                    "mod-rx/" + Path(place).name,
                    *(tags[k] for k in ("Modality", "BodyPartExamined", "Manufacturer")),
                    tags["SliceThickness"],
                )
            )
            text = json.dumps(_sidecar(tags, session.patient.number % 2 == 1), indent=1)
            if session.has_broken_sidecar and scan is session.scan:
                text = text[: len(text) // 2]
            stem = place.removesuffix(".nii.gz").removesuffix(".png")
            _write(self.root / f"{stem}.json", text + "\n")
        name = f"{session.patient.patient_id}_{session.study_id}_scans.tsv"
        _write(folder / name, listing.getvalue())

    def close(self) -> None:
        """Put the tables in their places."""
        self._end_patient()
        for table in (self.posi, self.nega, self.participants):
            table.close()

    def _end_patient(self) -> None:
        if not self.visits:
            return
        patient = self.visits[0].patient
        scans = [scan for session in self.visits for scan in session.scans if scan.is_there]
        rows = [
            f"{s.study_id}\t{s.study_date:%Y%m%d}" for s in self.visits if ".." not in s.study_id
        ]
        if scans:
            _write(
                self.root / patient.patient_id / f"{patient.patient_id}_sessions.tsv",
                "\n".join(["session_id\tstudy_date", *rows]) + "\n",
            )
        self.participants.add(
            {
                "participant": patient.patient_id,
                "modality_dicom": str(sorted({scan.modality.upper() for scan in scans})),
                "body_parts": str(sorted({scan.part.upper() for scan in scans})),
                "age": str([self.visits[0].age]),
                "gender": patient.sex,
            }
        )
        self.visits = []


class BimcvR:
    """The published BIMCV-R: one table, ten shards."""

    def __init__(self, root: Path, size: Size, windows: bool) -> None:
        self.table = Lines(root / "meta" / "BIMCV-R.csv", BIMCV_R_COLUMNS, windows=windows)

    def place(self, session: Session, scan: Scan) -> str:
        """Return ``CT*/ct/NAME``."""
        return f"CT{session.patient.shard}/ct/{_mids_name(session, scan)}.nii.gz"

    def add(self, session: Session) -> None:
        """Write a row a volume."""
        patient = session.patient
        for scan in session.scans:
            tree = f"CT{patient.shard}/{patient.patient_id}/{session.study_id}/mod-rx"
            cells = {
                "Report_en": session.translation,
                "num": f"{session.number}.0",
                "path": f"{tree}/{_mids_name(session, scan)}.nii.gz",
            }
            for _ in range(session.n_rows):
                self.table.add(cells | _label_cells(session))

    def close(self) -> None:
        """Put the table in its place."""
        self.table.close()


class CtRate:
    """CT-RATE: a tree of two splits with their reports, labels and metadata; HU are applied."""

    def __init__(self, root: Path, size: Size, windows: bool) -> None:
        self.size = size
        self.tables: dict[str, tuple[Lines, Lines, Lines]] = {}
        names = ("VolumeName", *(label.capitalize() for label in LABELS))
        for split, long in (("train", "train"), ("valid", "validation")):
            self.tables[split] = (
                Lines(
                    root / "radiology_text_reports" / f"{long}_reports.csv",
                    REPORT_COLUMNS,
                    windows=windows,
                ),
                Lines(
                    root / "multi_abnormality_labels" / f"{split}_predicted_labels.csv",
                    names,
                    windows=windows,
                ),
                Lines(
                    root / "metadata" / f"{long}_metadata.csv", METADATA_COLUMNS, windows=windows
                ),
            )

    def place(self, session: Session, scan: Scan) -> str:
        """Return ``train/train_1/train_1_a/train_1_a_1.nii.gz``."""
        patient = session.patient.patient_id
        study = session.study_id.rpartition("/")[2]
        return f"{patient.split('_')[0]}/{patient}/{study}/{study}_{scan.run}.nii.gz"

    def add(self, session: Session) -> None:
        """Write a row a volume in each of the three tables."""
        reports, labels, metadata = self.tables[session.patient.patient_id.split("_")[0]]
        known = vocabulary()
        has = {known.get(name).label for name in session.labels}  # "normal" has none
        for scan in session.scans:
            name = f"{session.study_id}_{scan.run}.nii.gz"
            spacing = _spacing(session, scan, self.size)
            for _ in range(session.n_rows):
                reports.add(
                    {
                        "VolumeName": name,
                        "ClinicalInformation_EN": "Not given.",
                        "Technique_EN": "Chest CT without intravenous contrast.",
                        "Findings_EN": session.text,
                        "Impressions_EN": session.impression,
                    }
                    | session.cells
                )
                labels.add(
                    {"VolumeName": name}
                    | {label.capitalize(): str(int(label in has)) for label in LABELS}
                )
                metadata.add(
                    {
                        "VolumeName": name,
                        "Manufacturer": _manufacturer(session, self.size),
                        "SeriesDescription": "THORAX",
                        "PatientSex": session.patient.sex,
                        "PatientAge": f"{session.age:03d}Y",
                        "ConvolutionKernel": scan.kernel,
                        "Rows": str(self.size[1]),
                        "Columns": str(self.size[2]),
                        "XYSpacing": f"[{spacing[1]:.6f}, {spacing[2]:.6f}]",
                        "RescaleIntercept": "-1024",
                        "RescaleSlope": "1",
                        "NumberofSlices": str(self.size[0]),
                        "ZSpacing": f"{spacing[0]:.6f}",
                        "StudyDate": f"{session.study_date:%Y%m%d}.0",
                    }
                )

    def close(self) -> None:
        """Put the tables in their places."""
        for tables in self.tables.values():
            for table in tables:
                table.close()


class Merlin:
    """Merlin: volumes in one folder beside a workbook of reports; patients are not told."""

    def __init__(self, root: Path, size: Size, windows: bool) -> None:
        import openpyxl

        root.mkdir(parents=True, exist_ok=True)
        self.path = root / "reports_final.xlsx"
        self.book = openpyxl.Workbook(write_only=True)
        self.sheet = self.book.create_sheet("Sheet1")
        self.sheet.append(list(MERLIN_COLUMNS))

    def place(self, session: Session, scan: Scan) -> str:
        """Return ``merlin_data/NAME``."""
        return f"merlin_data/{session.study_id}.nii.gz"

    def add(self, session: Session) -> None:
        """Write the session's row."""
        from openpyxl.cell import WriteOnlyCell

        split = ("train",) * 7 + ("val", "test", "test")
        for _ in range(session.n_rows):
            cells = (session.study_id, session.text, split[session.number % 10], "0")
            row = [WriteOnlyCell(self.sheet, value=cell) for cell in cells]
            for cell in row:
                cell.data_type = "s"  # "=..." is text here, as whoever typed it left it
            self.sheet.append(row)

    def close(self) -> None:
        """Put the workbook in its place, without the time of writing."""
        buffer = io.BytesIO()
        self.book.save(buffer)
        whole = io.BytesIO()
        with zipfile.ZipFile(buffer) as made, zipfile.ZipFile(whole, "w") as kept:
            for name in sorted(made.namelist()):
                data = made.read(name)
                if name == "docProps/core.xml":
                    data = re.sub(rb"\d{4}-\d\d-\d\dT[\d:]+Z", b"2020-01-01T00:00:00Z", data)
                info = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))
                info.compress_type = zipfile.ZIP_DEFLATED
                kept.writestr(info, data)
        with atomic_write(self.path) as file:
            file.write(whole.getvalue())


def _mids_name(session: Session, scan: Scan) -> str:
    """Return ``sub-S*_ses-E*[_acq-1][_run-2]_bp-chest_ct``."""
    study = session.study_id.rpartition("/")[2]
    part = ""
    if scan.run > 1 or session.number % 5:
        part = f"_run-{scan.run}" if session.number % 3 else f"_acq-1_run-{scan.run}"
    return f"{session.patient.patient_id}_{study}{part}_bp-{scan.part}_{scan.modality}"


def _label_cells(session: Session) -> dict[str, str]:
    known = vocabulary()
    labels = session.labels
    places = sorted({place for f in session.case.findings for place in _places(f)})
    by_sentence: list[str] = []
    for sentence in session.sentences:
        finding = session.case.get(sentence.about[0]) if sentence.about else None
        if finding is None or sentence.denies:
            by_sentence.append("normal" if sentence.denies else "exclude")
        else:
            by_sentence += [finding.name, *_places(finding)]
    cuis = [known.get(name).cui or "" for name in labels]
    place_cuis = [known.get(place.removeprefix("loc ")).cui or "" for place in places]
    first_is_empty = session.number % 3 == 0
    return {
        "PatientID": session.patient.patient_id,
        "ReportID": session.study_id,
        "Report": session.text,
        "Labels": _list_text(labels, first_is_empty),
        "Localizations": _list_text(places, not first_is_empty),
        "LabelsLocalizationsBySentence": _list_text(by_sentence, False),
        "labelCUIS": f"[{','.join([''] * first_is_empty + cuis)}]",
        "LocalizationsCUIS": f"[{','.join(place_cuis)}]",
    } | session.cells


def _list_text(entries: Sequence[str], first_is_empty: bool) -> str:
    """Return a list as the published table prints it: stray spaces and empty strings."""
    shown = [f" {entry}" if i else entry for i, entry in enumerate(entries)]
    return str([""] * first_is_empty + shown)


def _places(finding: FindingSpec) -> tuple[str, ...]:
    found = []
    if finding.lobe:
        found.append("loc middle lobe" if finding.lobe == "middle" else f"loc {finding.lobe} lobe")
    if finding.side in ("left", "right", "bilateral"):
        found.append(f"loc {finding.side}")
    return tuple(found)


def _dicom_tags(session: Session, scan: Scan, size: Size) -> dict[str, str]:
    uid = f"1.2.826.0.1.3680043.10.1337.{session.seed}"
    thickness = _spacing(session, scan, size)[0]
    return {
        "Modality": scan.modality.upper(),
        "StudyDate": f"{session.study_date:%Y%m%d}",
        "Manufacturer": _manufacturer(session, size),
        "PatientBirthDate": str(session.patient.identity.birth.year),
        "PatientSex": session.patient.sex,
        "PatientAge": f"{session.age:03d}Y",
        "BodyPartExamined": scan.part.upper(),
        "SliceThickness": f"{thickness:.3f}" if scan.modality == "ct" else "",
        "KVP": "120",
        "ConvolutionKernel": scan.kernel if scan.modality == "ct" else "",
        "StudyInstanceUID": uid,
        "SeriesInstanceUID": f"{uid}.{scan.run}.{len(scan.part)}.{len(scan.modality)}",
    } | session.tags


def _sidecar(tags: Mapping[str, str], by_number: bool) -> dict[str, Any]:
    """Return keywords with values, or the JSON model of DICOM (PS3.18 annex F)."""
    told = {key: value for key, value in tags.items() if value}
    if not by_number:
        return dict(told)
    names = ("PatientName", "ReferringPhysicianName")
    return {
        _TAGS[key]: {
            "vr": "PN" if key in names else "LO",
            "Value": [{"Alphabetic": value} if key in names else value],
        }
        for key, value in sorted(told.items(), key=lambda item: _TAGS[item[0]])
    }


def _manufacturer(session: Session, size: Size) -> str:
    height = session.case.habitus.lung_height_mm
    return sample_acquisition(session.scan.seed, size, height).manufacturer


def _spacing(session: Session, scan: Scan, size: Size) -> tuple[float, float, float]:
    d, h, w = sample_acquisition(scan.seed, size, scan.case.habitus.lung_height_mm).spacing_mm
    return (2 * d if scan.treatment == "thick" else d), h, w


def _write(path: Path, text: str) -> None:
    """Write a small file, whole or not at all; one that is as it should be stays as it is."""
    data = text.encode()
    if path.is_file() and path.read_bytes() == data:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.tmp")
    aside.write_bytes(data)
    aside.replace(path)
