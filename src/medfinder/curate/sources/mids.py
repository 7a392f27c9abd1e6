"""The Medical Imaging Data Structure, as BIMCV names its files: names and sidecars → facts.

``sub-S1/ses-E2/mod-rx/sub-S1_ses-E2_acq-1_run-4_bp-chest_ct.nii.gz`` with a ``.json`` of DICOM tags
beside it. MIDS is BIDS with body parts (github.com/BIMCV-CSUSP/MIDS).
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medfinder.curate.sources.listing import stem
from medfinder.records import Rejection

#: Words of body parts that a chest CT's name may have.
CHEST = ("chest", "thorax", "torax", "lung", "pulmon")
_MODALITIES = {
    "ct": "CT", "cr": "computed radiography", "dx": "digital radiography", "mr": "MR", "pt": "PET",
    "us": "ultrasound", "mg": "mammography", "xa": "angiography", "rf": "fluoroscopy",
}  # fmt: skip
#: Columns of BIMCV's tables, raw and published: our name -> theirs.
TABLE: Mapping[str, tuple[str, ...]] = {
    "patient_id": ("PatientID", "participant", "participant_id", "subject"),
    "report_id": ("ReportID", "session", "session_id", "StudyID"),
    "text": ("Report",),
    "translation": ("Report_en", "Report_english", "ReportEn"),
    "labels": ("Labels",),
    "path": ("path", "ct_path", "filepath", "file", "filename"),
}
_MAX_SIDECAR_BYTES = 2**24
# Keyword -> group and element, for sidecars in DICOM's JSON model.
_TAGS = {
    "StudyDate": "00080020", "Modality": "00080060", "Manufacturer": "00080070",
    "PatientBirthDate": "00100030", "PatientSex": "00100040", "PatientAge": "00101010",
    "BodyPartExamined": "00180015", "ConvolutionKernel": "00181210",
}  # fmt: skip
# Of persons: what a text is searched for, so that it can be taken out.
_PERSONAL = {
    "PatientName": "00100010", "PatientID": "00100020", "OtherPatientIDs": "00101000",
    "PatientAddress": "00101040", "PatientTelephoneNumbers": "00102154",
    "AccessionNumber": "00080050", "ReferringPhysicianName": "00080090",
    "PerformingPhysicianName": "00081050", "OperatorsName": "00081070",
    "NameOfPhysiciansReadingStudy": "00081060", "InstitutionName": "00080080",
    "InstitutionAddress": "00080081",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Name:
    """What a file's name says.

    Attributes:
        patient: ``sub-...``; "" where the name has none, as the others.
        session: ``ses-...``, the study.
        run: What tells the volumes of a session apart: ``acq-1_run-2``.
        body_part: Lower case, such as ``chest``.
        modality: The last word, lower case: ``ct``, ``cr``, ``dx``.
    """

    patient: str = ""
    session: str = ""
    run: str = ""
    body_part: str = ""
    modality: str = ""

    @classmethod
    def parse(cls, path: str) -> "Name":
        """Read the name of a file, with or without folders and suffix."""
        patient = session = body_part = modality = ""
        runs = []
        for part in re.sub(r"\.(png|json|jpe?g|tiff?|dcm)$", "", stem(path), flags=re.I).split("_"):
            key, dash, value = part.partition("-")
            if not dash:
                modality = part.lower()
            elif key == "sub":
                patient = part
            elif key == "ses":
                session = part
            elif key == "bp":
                body_part = value.lower()
            elif key not in ("mod", "vp"):
                runs.append(part)
        return cls(patient, session, "_".join(runs), body_part, modality)

    def refusal(self, item: str) -> Rejection | None:
        """Return why a file of this name is no chest CT; None if it may be one.

        Rules ``other-modality``, ``other-body-part`` and ``unexpected-file``.
        """
        if self.modality != "ct":
            if self.modality not in _MODALITIES:
                return Rejection(
                    item,
                    "unexpected-file",
                    "The name does not say what the file is; expected sub-..._ses-..._ct.nii.gz.",
                )
            what = _MODALITIES[self.modality]
            return Rejection(
                item, "other-modality", f"The file is {what}, by its name; expected CT (..._ct)."
            )
        if self.body_part and not any(word in self.body_part for word in CHEST):
            return Rejection(
                item,
                "other-body-part",
                f"The CT is of {self.body_part[:40]!r}, by its name; expected chest.",
            )
        return None


@dataclass(frozen=True, slots=True)
class Sidecar:
    """The ``.json`` beside a volume.

    Attributes:
        tags: DICOM keyword → value, of those that say nothing of who the patient is.
        known: Names, numbers and places of persons, which must leave the report.
        broken: There is one, and it cannot be read.
    """

    tags: Mapping[str, str]
    known: tuple[str, ...] = ()
    broken: bool = False

    @classmethod
    def read(cls, volume: Path) -> "Sidecar":
        """Read the sidecar of a volume; without one, or with a broken one, it is empty.

        Tags by keyword (``"PatientSex": "F"``) and DICOM's JSON model (PS3.18 F) are both read.
        """
        path = volume.parent / (stem(volume.name) + ".json")
        try:
            if not path.is_file():
                return cls({})
            if path.stat().st_size > _MAX_SIDECAR_BYTES:
                return cls({}, broken=True)
            found = json.loads(path.read_bytes().decode("utf-8-sig", "replace"))
        except (OSError, ValueError, RecursionError):
            return cls({}, broken=True)
        if not isinstance(found, Mapping):
            return cls({}, broken=True)
        tags = {key: _plain(found.get(key, found.get(tag))) for key, tag in _TAGS.items()}
        known = (_plain(found.get(key, found.get(tag))) for key, tag in _PERSONAL.items())
        return cls(
            {key: value for key, value in tags.items() if value},
            tuple(dict.fromkeys(value.replace("^", " ").strip() for value in known if value)),
        )


def _plain(value: Any) -> str:
    if isinstance(value, Mapping) and "Value" in value:
        value = value["Value"]
    if isinstance(value, list):
        value = value[0] if value else None
    if isinstance(value, Mapping):  # a person's name in DICOM's JSON model
        value = value.get("Alphabetic")
    if isinstance(value, (str, int, float)):
        return str(value).strip()
    return ""


def age_at(birth: str, study: str) -> str:
    """Return whole years from a birth date (a year is enough) to a study date; "" when unclear."""
    dates = [
        re.fullmatch(r"(\d{4})-?(\d{2})?-?(\d{2})?.*", text.strip()) for text in (birth, study)
    ]
    if not all(dates):
        return ""
    (y0, *d0), (y1, *d1) = (m.groups() for m in dates if m)
    before = None not in (*d0, *d1) and d1 < d0
    years = int(y1) - int(y0) - before
    return str(years) if 0 <= years <= 120 else ""
