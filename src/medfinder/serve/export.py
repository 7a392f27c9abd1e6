"""A collection → files that identify nobody: CSV, JSON, PDF, and zips of NIfTI or DICOM.

A file names cases and patients by their place in it, ``case-001`` and ``patient-001``: no id of the
index, no date beyond its year, no source, and texts pass the project's de-identification once more.
DICOM files get random UIDs at each export, so that two exports cannot be joined. Voxels are the CT's
own: a head CT's surface still shows a face.
"""

import csv
import io
import json
import tempfile
import uuid
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from medfinder.curate.deidentify import cap_age
from medfinder.curate.deidentify_text import deidentify_text
from medfinder.errors import MedFinderError
from medfinder.records import Study
from medfinder.serve.collections import Kept
from medfinder.serve.faults import Refusal
from medfinder.serve.lanes import Lane
from medfinder.serve.slices import Pixels, find_window, render_slice
from medfinder.volume.dicom_writer import write_dicom_series
from medfinder.volume.nifti import encode_nifti
from medfinder.volume.volume import Volume

Format = Literal["csv", "json", "pdf", "nifti", "dicom"]
MEDIA_TYPES: dict[str, tuple[str, str]] = {
    "csv": ("text/csv; charset=utf-8", "csv"),
    "json": ("application/json", "json"),
    "pdf": ("application/pdf", "pdf"),
    "nifti": ("application/zip", "zip"),
    "dicom": ("application/zip", "zip"),
}
MAX_PAGES = 300
"""Studies of a PDF."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
Load = Callable[[Study], Awaitable[Pixels]]


@dataclass(frozen=True, slots=True)
class Case:
    """What an export tells of a study.

    Attributes:
        case: ``case-001``, its place in the export.
        patient: The same for all studies of a patient in this export.
        age: Years; everything above 89 is 90.
        year: Of the study.
        shape: Voxels along (D, H, W).
        spacing_mm: Along (D, H, W).
        findings: Such as ``pleural effusion: present, left``.
        report: De-identified once more.
        note: Of the collection, de-identified.
    """

    case: str
    patient: str
    sex: str
    age: int | None
    year: str
    manufacturer: str
    body_part: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    language: str
    findings: tuple[str, ...]
    report: str
    note: str


def to_cases(kept: Sequence[tuple[Kept, Study]]) -> list[Case]:
    """Return what may be told of a collection's studies, in its order."""
    patients: dict[str, str] = {}
    cases = []
    for n, (place, study) in enumerate(kept, 1):
        patient = patients.setdefault(study.patient_id, f"patient-{len(patients) + 1:03d}")
        report = study.report
        cases.append(
            Case(
                case=f"case-{n:03d}",
                patient=patient,
                sex=study.sex or "",
                age=cap_age(study.age),
                year=(study.study_date or "")[:4],
                manufacturer=study.manufacturer or "",
                body_part=study.body_part or "",
                shape=study.shape,
                spacing_mm=study.spacing_mm,
                language=report.language if report else "",
                findings=tuple(
                    ", ".join(
                        [f"{f.name}: {f.status}", *(x for x in (f.laterality, f.location) if x)]
                    )
                    for f in study.findings
                ),
                report=deidentify_text(report.text, report.language).text if report else "",
                note=deidentify_text(place.note).text if place.note else "",
            )
        )
    return cases


def to_csv(cases: Sequence[Case]) -> bytes:
    """Return cases as CSV, with a byte order mark so that spreadsheets read UTF-8.

    A cell that a spreadsheet would take for a formula begins with an apostrophe.
    """
    out = io.StringIO()
    out.write("\ufeff")
    names = list(Case.__slots__)
    writer = csv.writer(out)
    writer.writerow(names)
    for case in cases:
        row = asdict(case)
        row["shape"] = "x".join(map(str, case.shape))
        row["spacing_mm"] = "x".join(f"{mm:.3f}" for mm in case.spacing_mm)
        row["findings"] = "; ".join(case.findings)
        writer.writerow(_cell(row[name]) for name in names)
    return out.getvalue().encode("utf-8", "replace")


def to_json(name: str, description: str, cases: Sequence[Case]) -> bytes:
    """Return a collection as JSON."""
    told = {
        "name": deidentify_text(name).text,
        "description": deidentify_text(description).text,
        "research_use_only": "Not a medical device.",
        "cases": [asdict(case) for case in cases],
    }
    return json.dumps(told, ensure_ascii=False, indent=1).encode("utf-8", "replace")


def to_pdf(
    name: str, description: str, cases: Sequence[Case], pictures: Sequence[bytes | None]
) -> bytes:
    """Return a collection as PDF, a study to a page or more: facts, a slice, findings, report.

    Args:
        pictures: A PNG for each case; None where there is no CT.
    """
    from html import escape

    from matplotlib import get_data_path
    from reportlab.lib.pagesizes import A4
    from reportlab.lib.styles import ParagraphStyle
    from reportlab.lib.units import mm
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.ttfonts import TTFont
    from reportlab.platypus import Image, PageBreak, Paragraph, SimpleDocTemplate, Spacer

    fonts = Path(get_data_path()) / "fonts" / "ttf"  # letters of all Europe; PDF's own lack many
    for font, file in (("Sans", "DejaVuSans.ttf"), ("Sans-Bold", "DejaVuSans-Bold.ttf")):
        if font not in pdfmetrics.getRegisteredFontNames():
            pdfmetrics.registerFont(TTFont(font, str(fonts / file)))
    plain = ParagraphStyle("plain", fontName="Sans", fontSize=9, leading=13)
    head = ParagraphStyle("head", fontName="Sans-Bold", fontSize=13, leading=18, spaceAfter=4)
    label = ParagraphStyle("label", fontName="Sans-Bold", fontSize=9, leading=13, spaceBefore=6)

    def text(words: str, style: Any = plain) -> list[Any]:
        # Escaped: a report is text, and never the mark-up that a paragraph understands.
        clean = "".join(c for c in words if c.isprintable() or c == "\n")
        return [Paragraph(escape(line) or " ", style) for line in clean.splitlines() or [""]]

    story: list[Any] = [*text(deidentify_text(name).text[:200], head)]
    story += text(deidentify_text(description).text)
    story += text(f"{len(cases)} cases. Research use only: not a medical device.")
    for case, picture in zip(cases, pictures, strict=True):
        facts = [case.patient, case.sex, "" if case.age is None else f"{case.age} years"]
        facts += [case.year, case.body_part, case.manufacturer]
        story += [PageBreak(), *text(case.case, head)]
        story += text(" · ".join(fact for fact in facts if fact))
        if picture is not None:
            image = Image(io.BytesIO(picture))
            scale = min(110 * mm / image.drawWidth, 110 * mm / image.drawHeight)
            image.drawWidth, image.drawHeight = image.drawWidth * scale, image.drawHeight * scale
            image.hAlign = "LEFT"
            story += [Spacer(1, 3 * mm), image]
        for title, words in (
            ("Note", case.note),
            ("Findings", "\n".join(case.findings)),
            ("Report", case.report),
        ):
            if words:
                story += [*text(title, label), *text(words)]
    out = io.BytesIO()
    SimpleDocTemplate(
        out,
        pagesize=A4,
        title=deidentify_text(name).text[:200],
        author="",
        creator="MedFinder",
        invariant=1,  # neither a date nor a random id
        leftMargin=18 * mm,
        rightMargin=18 * mm,
    ).build(story)
    return out.getvalue()


def picture_of(pixels: Pixels) -> bytes:
    """Return the slice that shows a study in a PDF, as PNG."""
    window = find_window("mediastinum" if pixels.hu.shape[0] == 1 else "lung")
    return render_slice(pixels, "axial", pixels.landmarks.key_slice, window)


async def to_zip(
    form: Literal["nifti", "dicom"],
    name: str,
    description: str,
    kept: Sequence[tuple[Kept, Study]],
    load: Load,
    lane: Lane,
) -> AsyncIterator[bytes]:
    """Yield a zip of volumes and ``cases.json``, one volume in memory at a time.

    A study whose CT cannot be read any more is in ``cases.json`` alone, which is the last file.
    """
    cases = to_cases(kept)
    sink = _Sink()
    out: Any = sink  # it can be written to and not sought, which is all that is needed
    archive = zipfile.ZipFile(out, "w", zipfile.ZIP_STORED, allowZip64=True)
    for case, (_, study) in zip(cases, kept, strict=True):
        try:
            pixels = await load(study)
        except (Refusal, MedFinderError):
            continue
        volume = Volume(pixels.hu, pixels.affine)
        add = _add_nifti if form == "nifti" else _add_dicom
        try:
            await lane.run(partial(add, archive, case, volume))
        except MedFinderError:  # slices that DICOM cannot say; the case is still told of
            continue
        for part in sink.taken():
            yield part
    told = to_json(name, description, cases)
    await lane.run(partial(_finish, archive, told))
    for part in sink.taken():
        yield part


def n_bytes(studies: Sequence[Study]) -> int:
    """Return how much the voxels of studies are, as int16."""
    return sum(2 * d * h * w for d, h, w in (study.shape for study in studies))


def _add_nifti(archive: zipfile.ZipFile, case: Case, volume: Volume) -> None:
    _write(archive, f"{case.case}.nii.gz", encode_nifti(volume))


def _add_dicom(archive: zipfile.ZipFile, case: Case, volume: Volume) -> None:
    # Random, so that two exports of the same study cannot be told to be.
    study_uid, series_uid = (f"2.25.{uuid.uuid4().int}" for _ in range(2))
    with tempfile.TemporaryDirectory(prefix="medfinder-export-") as folder:
        paths = write_dicom_series(
            volume,
            folder,
            patient_id=case.patient,
            study_id=study_uid,
            series_id=series_uid,
            sex=case.sex,
            age=case.age,
            study_date="",
            manufacturer=case.manufacturer,
            body_part=case.body_part.upper()[:16],
            intercept=0,
        )
        for path in paths:
            _write(archive, f"{case.case}/{path.name}", path.read_bytes(), zipfile.ZIP_DEFLATED)


def _finish(archive: zipfile.ZipFile, told: bytes) -> None:
    _write(archive, "cases.json", told, zipfile.ZIP_DEFLATED)
    archive.close()


def _write(archive: zipfile.ZipFile, name: str, data: bytes, how: int = zipfile.ZIP_STORED) -> None:
    # With a date of its own: when an export was made is nobody's business.
    member = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    member.external_attr = 0o644 << 16
    archive.writestr(member, data, how, 1)


def _cell(value: Any) -> Any:
    if isinstance(value, str) and value.lstrip(" ").startswith(_FORMULA):
        return f"'{value}"
    return value


class _Sink:
    """Where a zip is written: what is in it is taken away as it comes."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes, /) -> int:
        """Take what an archive writes."""
        self._parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def taken(self) -> list[bytes]:
        """Return what was written since the last time."""
        parts, self._parts = self._parts, []
        return parts
