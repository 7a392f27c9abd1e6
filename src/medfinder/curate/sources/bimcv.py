"""BIMCV-COVID19 as it is released: a MIDS tree with CT, CR and DX mixed, and its tables.

A collection has ``sub-*/ses-*/mod-*/...``, ``participants.tsv`` and
``derivatives/labels/labels_*.tsv``; several collections may lie below one root. The report belongs
to the session, so the CTs of a session are series of one study. The ids are the release's own
pseudonyms and are kept.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medfinder.curate.sources.listing import (
    NOT_LISTED,
    Listed,
    Listing,
    find_tables,
    refused,
    walk_folders,
)
from medfinder.curate.sources.mids import TABLE, Name, Sidecar, age_at
from medfinder.curate.sources.source import Facts, parse_age, parse_date, parse_sex
from medfinder.curate.tables import RowReader, parse_list
from medfinder.errors import InputError
from medfinder.records import Rejection
from medfinder.volume.read import VolumeRef, find_volumes
from medfinder.volume.tree import printable

_PARTICIPANTS = {
    "patient_id": ("participant", "participant_id", "PatientID", "subject"),
    "sex": ("gender", "sex", "PatientSex"),
    "age": ("age", "PatientAge"),
}
_PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
BROKEN_SIDECAR = (
    "broken-sidecar",
    "The .json beside the volume cannot be read, so that sex, age and scanner may be unknown.",
)
IDS_DISAGREE = (
    "ids-disagree",
    "The table gives the report to another patient or study than the volume's name. Compare.",
)


class BimcvSource:
    """The raw BIMCV-COVID19 collections.

    Args:
        root: One collection, or a folder above several.

    Raises:
        InputError: No such folder, no table of labels below it, or one without its columns.
    """

    name = "bimcv"

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise InputError(f"There is no folder at {str(root)!r}. Check the path.")
        self.root = root
        tables = find_tables(root, r"labels_.*\.(tsv|csv)", r"ses-.*|mod-.*")
        tables = [table for table in tables if table.parent.name == "labels"]
        if not tables:
            raise InputError(
                "The tree has no table of reports: expected derivatives/labels/labels_*.tsv. "
                "Unpack the collection's derivatives, or use 'medfinder curate folder' for CTs "
                "without reports.",
                rule="no-table",
            )
        needs, several = ["patient_id", "report_id", "text"], len(tables) > 1
        self._tables = [RowReader(path, TABLE, needs, named=several) for path in tables]
        self._has_labels = any(table.has("labels") for table in self._tables)
        self._people = Listing()
        for path in find_tables(root, r"participants\.(tsv|csv)", r"sub-.*"):
            for row in RowReader(path, _PARTICIPANTS, ["patient_id"]):
                self._people.add(row, row.cells["patient_id"])
        self._sessions = Listing()
        self._with_pictures: set[str] = set()

    def items(self) -> Iterator[VolumeRef | Rejection]:
        """Read the tables, then walk the tree: CTs first, then pictures of other modalities."""
        self._sessions, self._with_pictures = Listing(), set()
        for table in self._tables:
            for row in table:
                ids = (row.cells["patient_id"], row.cells["report_id"])
                rejection = refused(row, ids=ids, paths=(row.cells["path"],))
                rejection = rejection or self._sessions.add(row, ids[1])
                if rejection:
                    yield rejection
        for item in find_volumes(self.root):
            if isinstance(item, Rejection):
                yield item
                continue
            name = _named(item.item)
            refusal = name.refusal(item.item)
            if name.modality == "ct":
                self._sessions.mark(name.session)
            else:
                self._with_pictures.add(name.session)
            yield refusal or item
        yield from self._pictures()

    def _pictures(self) -> Iterator[Rejection]:
        for folder, files in walk_folders(self.root):
            for file in files:
                name = Name.parse(file)
                if not file.lower().endswith(_PICTURES) or not name.session:
                    continue
                item = printable(Path(folder, file).relative_to(self.root).as_posix())
                refusal = name.refusal(item) or Rejection(
                    item, "other-modality", "The file is a picture of a CT, not its voxels."
                )
                self._with_pictures.add(name.session)
                yield refusal

    def facts(self, ref: VolumeRef, tags: Mapping[str, Any]) -> Facts:
        """Return what the tables, the sidecar and the name say of one CT.

        Raises:
            InputError: The sidecar says that it is no CT (rule ``other-modality``).
        """
        name = _named(ref.item)
        sidecar = Sidecar.read(ref.path)
        said = sidecar.tags
        modality = said.get("Modality", "CT").upper()
        if modality not in ("CT", "COMPUTED TOMOGRAPHY"):
            raise InputError(
                f"The sidecar says that the volume is {modality[:16]!r}, expected CT.",
                rule="other-modality",
            )
        row = self._sessions.claim(name.session) if name.session else None
        person = self._people.claim(name.patient) if name.patient else None
        cells, people = (listed.cells if listed else {} for listed in (row, person))
        age = said.get("PatientAge") or age_at(
            said.get("PatientBirthDate", ""), said.get("StudyDate", "")
        )
        return Facts(
            fallback_id=name.session or ref.item,
            study_id=name.session or None,
            patient_id=name.patient or None,
            text=cells.get("text", ""),
            language="es",
            translation=cells.get("translation", ""),
            known=tuple(known for known in sidecar.known if known != name.patient),
            labels=parse_list(cells.get("labels", "")) if self._has_labels else None,
            sex=parse_sex(said.get("PatientSex")) or parse_sex(_first(people.get("sex", ""))),
            age=_years(age, people.get("age", "")),
            study_date=parse_date(said.get("StudyDate")),
            manufacturer=said.get("Manufacturer"),
            body_part=name.body_part or said.get("BodyPartExamined", "").lower() or None,
            kernel=said.get("ConvolutionKernel"),
            doubts=_doubts(name, row, sidecar),
        )

    def leftovers(self) -> Iterator[Rejection]:
        """Yield a rejection for every listed session of which no CT is there."""
        for item, session in self._sessions.unclaimed():
            only = session in self._with_pictures
            yield Rejection(
                item,
                "volume-missing",
                "The table lists this session, and only X-rays of it are in the tree."
                if only
                else "The table lists this session, but no CT of it is in the tree.",
            )


def _named(item: str) -> Name:
    """Return what name and folders say; folders fill in what the name leaves out."""
    name = Name.parse(item)
    parts = item.split("/")[:-1]
    patient = name.patient or next((p for p in parts if p.startswith("sub-")), "")
    session = name.session or next((p for p in parts if p.startswith("ses-")), "")
    return Name(patient, session, name.run, name.body_part, name.modality)


def _doubts(name: Name, row: Listed | None, sidecar: Sidecar) -> tuple[tuple[str, str], ...]:
    doubts: list[tuple[str, str]] = [BROKEN_SIDECAR] if sidecar.broken else []
    if row is None:
        return (*doubts, NOT_LISTED)
    if row.cells["patient_id"] not in ("", name.patient):
        doubts.append(IDS_DISAGREE)
    return (*doubts, *row.doubts)


def _first(cell: str) -> str:
    """Return the first entry of a cell that may be a list, as the participants' ages are."""
    return next(iter(parse_list(cell)), "")


def _years(own: str, of_patient: str) -> int | None:
    for text in (own, re.sub(r"[^\d.YMWD]", "", _first(of_patient))):
        if (years := parse_age(text)) is not None:
            return years
    return None
