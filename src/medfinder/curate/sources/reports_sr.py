"""DICOM Structured Reports → `ReportRow`s: the words of the tree in order, under their headings.

Dose reports, measurements and computer-aided detections are Structured Reports too, and come with
nearly every CT study: they are told apart by their class and title, and left out by name.

Source:
    DICOM PS3.3 sections A.35 (SR objects) and C.17.3 (content tree), PS3.16 TID 2000.
"""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medfinder.curate.sources.reports import ReportRow, ReportStatus, language_of
from medfinder.errors import EmptyReport, InputError, UnreadableVolume
from medfinder.records import Language, Rejection
from medfinder.volume.header import UNDEFINED, read_header
from medfinder.volume.tree import walk

_REPORT_CLASSES = frozenset(
    f"1.2.840.10008.5.1.4.1.1.88.{n}"
    for n in (1, 11, 22, 33, 34, 35)  # trial, basic text, enhanced, comprehensive, 3D, extensible
)
_SR_CLASSES = "1.2.840.10008.5.1.4.1.1.88."
_DOCUMENT_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.104.1": "PDF",
    "1.2.840.10008.5.1.4.1.1.104.2": "CDA document",
}
#: Titles of documents that are no radiologist's report, in the DICOM scheme.
_OTHER_TITLES = frozenset(("113701", "126000", "111036", "112000"))
_IDENTIFYING = frozenset(
    (
        "PatientID",
        "OtherPatientIDs",
        "AccessionNumber",
        "IssuerOfPatientID",
        "InstitutionName",
        "PatientAddress",
        "PatientTelephoneNumbers",
        "VerifyingOrganization",
    )
)
_LANGUAGE = "121049"
_MAX_BYTES = 2**26
_MAX_DEPTH = 64


def read_sr(path: Path, name: str = "") -> Iterator[ReportRow | Rejection]:
    """Read one SR file, or every one in a folder, nested folders included.

    Files that are not Structured Reports are passed over; CTs may lie among them.

    Args:
        name: Leads the items of rows and rejections, such as the folder's place in a larger one.

    Yields:
        A row for each report, and a rejection for each SR object, PDF or CDA document that cannot
        be one.

    Raises:
        InputError: `path` does not exist.
    """
    if not path.exists():
        raise InputError(f"There is no SR file or folder at {str(path)!r}. Check the path.")
    if path.is_file():
        entries = iter([(path, path.name)])
    else:
        entries = (
            (entry.path, entry.item)
            for entry in walk(path, lambda _: None)
            if entry.kind == "dicom"
        )
    for file, item in entries:
        item = f"{name}/{item}" if name else item
        try:
            header = read_header(file)
            if header.sop_class in _DOCUMENT_CLASSES:
                raise InputError(
                    f"The report is an encapsulated {_DOCUMENT_CLASSES[header.sop_class]}, which "
                    "is not read: expected a Structured Report. Export it as text.",
                    rule="report-not-text",
                )
            if not header.sop_class.startswith(_SR_CLASSES):
                continue
            yield from _read(file, item)
        except UnreadableVolume as error:
            if path.is_file() or error.rule == "unreadable":
                yield Rejection(item, error.rule, str(error))
        except InputError as error:
            yield Rejection(item, error.rule, str(error))


def _read(file: Path, item: str) -> Iterator[ReportRow]:
    from pydicom import dcmread

    if file.stat().st_size > _MAX_BYTES:
        raise InputError(
            f"The report has {file.stat().st_size / 2**20:.0f} MiB: expected at most "
            f"{_MAX_BYTES / 2**20:.0f}. It is not read.",
            rule="too-large",
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values that break the standard, which may quote them
        try:
            dataset = dcmread(file)
            _check_whole(dataset)
            yield from sr_rows(dataset, item)
        except InputError:
            raise
        except Exception as error:  # the parser's own failure is this file's, not the run's
            raise InputError(
                f"The structured report cannot be decoded ({type(error).__name__}). "
                "Export it again.",
                rule="unreadable",
            ) from None


def _check_whole(dataset: Any) -> None:
    """Refuse a file that breaks off, of which pydicom gives the sentences that are left."""
    for tag in dataset.keys():  # noqa: SIM118 (iterating decodes the elements)
        raw = dataset.get_item(tag)
        value = getattr(raw, "value", None)
        length = getattr(raw, "length", 0)
        if isinstance(value, bytes) and length != UNDEFINED and len(value) < length:
            raise InputError(
                "The structured report breaks off: expected the whole of its tree, got a part. "
                "Copy the file again from its source.",
                rule="truncated",
            )


def sr_rows(dataset: Any, item: str) -> Iterator[ReportRow]:
    """Return the report of a dataset, once for each study it says it is of.

    Raises:
        InputError: Rule ``not-a-report``: a dose report, measurements, or another kind of SR.
        EmptyReport: The tree holds no words.
    """
    if (
        str(dataset.get("SOPClassUID", "")) not in _REPORT_CLASSES
        or _code(dataset) in _OTHER_TITLES
    ):
        raise InputError(
            "The structured report is no radiologist's text: a dose report, measurements or "
            "detections of a computer.",
            rule="not-a-report",
        )
    lines: list[str] = []
    _tell(dataset, lines, [], 0)
    if not any(not line.endswith(":") for line in lines):
        raise EmptyReport(
            "The structured report holds no text: expected TEXT items in its tree, got none. "
            "Export it as text."
        )
    # A report may be filed in a study of its own; the evidence names the studies it is about.
    evidence = dataset.get("CurrentRequestedProcedureEvidenceSequence") or ()
    named = [str(study.get("StudyInstanceUID") or "").strip() for study in evidence]
    studies = list(dict.fromkeys(filter(None, named)))
    studies = studies or [str(dataset.get("StudyInstanceUID") or "").strip()]
    requests = dataset.get("ReferencedRequestSequence") or ()
    numbers = [request.get("AccessionNumber") for request in requests]
    numbers.insert(0, dataset.get("AccessionNumber"))
    date = str(dataset.get("ContentDate") or dataset.get("StudyDate") or "")
    known = tuple(dict.fromkeys(_persons(dataset, 0)))
    for study in studies:
        yield ReportRow(
            item=item,
            text="\n".join(lines),
            study_id=study,
            accession=next((str(n).strip() for n in numbers if n), ""),
            patient=str(dataset.get("PatientID") or "").strip(),
            language=_language(dataset),
            status=_status(dataset),
            document=str(dataset.get("SOPInstanceUID", "")),
            issued=date + str(dataset.get("ContentTime") or ""),
            known=known,
        )


def _persons(dataset: Any, depth: int) -> Iterator[str]:
    """Yield the names of people and places and the numbers of the patient, wherever they stand."""
    for element in dataset:
        if element.VR == "SQ" and depth <= _MAX_DEPTH:
            for item in element.value or ():
                yield from _persons(item, depth + 1)
        elif element.VR == "PN" or element.keyword in _IDENTIFYING:
            values = element.value if element.VM > 1 else [element.value]
            yield from (text for value in values if (text := str(value or "").strip()))


def _status(dataset: Any) -> ReportStatus:
    if (
        dataset.get("PreliminaryFlag") == "PRELIMINARY"
        or dataset.get("CompletionFlag") == "PARTIAL"
    ):
        return "preliminary"
    # Verification is no criterion: most sites never set it.
    return "amended" if dataset.get("PredecessorDocumentsSequence") else "final"


def _tell(item: Any, lines: list[str], headings: list[str], depth: int) -> None:
    """Add the words of a content item and of those below it."""
    if depth > _MAX_DEPTH:
        raise InputError(
            f"The structured report nests deeper than {_MAX_DEPTH} levels. It is not read.",
            rule="unreadable",
        )
    for child in item.get("ContentSequence") or ():
        if child.get("RelationshipType") in ("HAS OBS CONTEXT", "HAS ACQ CONTEXT"):
            continue  # who observed, and how: names, not findings
        kind, heading = child.get("ValueType"), _meaning(child)
        here = headings
        if kind in ("CONTAINER", "TEXT") and heading and _plain(heading) not in headings:
            mark = len(lines)
            lines.append(f"{heading}:")
            here = [*headings, _plain(heading)]
        else:
            mark = -1
        if kind == "TEXT":
            lines.extend(_paragraphs(child.get("TextValue")))
        _tell(child, lines, here, depth + 1)
        if mark >= 0 and len(lines) == mark + 1:
            lines.pop()  # a heading with nothing below it


def _paragraphs(value: Any) -> list[str]:
    text = str(value or "").replace("\r\n", "\n").replace("\r", "\n")
    return [line.strip() for line in text.split("\n") if line.strip()]


def _plain(heading: str) -> str:
    """Return a heading so that "Finding" below "Findings" is seen to say nothing new."""
    return heading.lower().strip(" :").rstrip("s")


def _concept(item: Any, keyword: str = "ConceptNameCodeSequence") -> Any:
    return next(iter(item.get(keyword) or ()), None)


def _code(item: Any) -> str:
    concept = _concept(item)
    if concept is None or concept.get("CodingSchemeDesignator") != "DCM":
        return ""
    return str(concept.get("CodeValue") or "")


def _meaning(item: Any) -> str:
    concept = _concept(item)
    return str(concept.get("CodeMeaning") or "").strip() if concept is not None else ""


def _language(dataset: Any) -> Language | None:
    for child in dataset.get("ContentSequence") or ():
        if _code(child) == _LANGUAGE:
            value = _concept(child, "ConceptCodeSequence")
            return language_of(str(value.get("CodeValue") or "")) if value is not None else None
    return None
