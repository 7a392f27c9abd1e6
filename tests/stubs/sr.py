"""Structured Reports for tests, built item by item as PS3.16 TID 2000 lays them out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID

from medfinder.volume.dicom_writer import derive_uid

BASIC_TEXT = "1.2.840.10008.5.1.4.1.1.88.11"
DOSE = "1.2.840.10008.5.1.4.1.1.88.67"


def code(meaning: str, value: str = "1", scheme: str = "99TEST") -> Dataset:
    ds = Dataset()
    ds.CodeValue, ds.CodingSchemeDesignator, ds.CodeMeaning = value, scheme, meaning
    return ds


def item(kind: str, meaning: str, relation: str = "CONTAINS", **values: Any) -> Dataset:
    """Return a content item; `values` are its other attributes."""
    ds = Dataset()
    ds.RelationshipType, ds.ValueType = relation, kind
    ds.ConceptNameCodeSequence = [
        code(meaning, values.pop("value", "1"), values.pop("scheme", "99TEST"))
    ]
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def text(meaning: str, words: str, relation: str = "CONTAINS") -> Dataset:
    return item("TEXT", meaning, relation, TextValue=words)


def section(meaning: str, *below: Dataset) -> Dataset:
    return item("CONTAINER", meaning, ContinuityOfContent="SEPARATE", ContentSequence=list(below))


def language(value: str) -> Dataset:
    return item(
        "CODE",
        "Language of Content Item and Descendants",
        "HAS CONCEPT MOD",
        value="121049",
        scheme="DCM",
        ConceptCodeSequence=[code("language", value, "RFC5646")],
    )


def write_sr(
    path: Path,
    content: Sequence[Dataset],
    *,
    study_id: str,
    name: str = "a",
    sop_class: str = BASIC_TEXT,
    **values: Any,
) -> Path:
    """Write a Structured Report of a study; `values` are attributes of the document."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, derive_uid("sr", study_id, name)
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study_id, derive_uid("sr series", study_id, name)
    ds.Modality, ds.SeriesNumber, ds.InstanceNumber = "SR", 9, 1
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.PatientID, ds.PatientName = "ph", "Canary^Name"
    ds.ContentDate, ds.ContentTime = "20200102", "120000"
    ds.CompletionFlag, ds.VerificationFlag = "COMPLETE", "UNVERIFIED"
    ds.ValueType, ds.ContinuityOfContent = "CONTAINER", "SEPARATE"
    ds.ConceptNameCodeSequence = [code("CT Chest Report", "18748-4", "LN")]
    ds.ContentSequence = list(content)
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(sop_class)
    meta.MediaStorageSOPInstanceUID = UID(ds.SOPInstanceUID)
    meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.1")
    meta.ImplementationClassUID = UID(derive_uid("medfinder"))
    ds.file_meta = meta
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return path
