"""Merlin as it is released: abdominal CTs, and their English reports in a spreadsheet.

``merlin_data/AC421363e.nii.gz`` is the one series of study ``AC421363e``, which
``reports_final.xlsx`` names in its column "study id". The release names no patients: each study
stands for one, unless the spreadsheet has a column of them.

Source:
    github.com/StanfordMIMI/Merlin, documentation/download.md.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medfinder.curate.sources.listing import NOT_LISTED, Listing, find_tables, refused, stem
from medfinder.curate.sources.source import Facts, parse_age, parse_date, parse_sex, parse_split
from medfinder.curate.tables import RowReader
from medfinder.errors import InputError
from medfinder.records import Rejection
from medfinder.volume.read import VolumeRef, find_volumes

_COLUMNS = {
    "study_id": (
        "study id", "anon_accession", "anon_accession_number", "anon_study_id", "anon_id",
        "accession", "VolumeName", "file",
    ),
    "findings": ("Findings", "findings_text", "report", "report text", "text"),
    "impression": ("Impressions", "Impression", "impression_text"),
    "patient_id": ("patient id", "anon_mrn", "anon_patient_id", "anon_pid", "mrn", "subject_id"),
    "split": ("Split", "set", "partition"),
    "sex": ("sex", "gender", "PatientSex"),
    "age": ("age", "PatientAge"),
    "study_date": ("study date", "date"),
    "manufacturer": ("manufacturer", "scanner"),
}  # fmt: skip
_HEADED = re.compile(r"\s*(?:findings?|impressions?)\s*:", re.IGNORECASE)


class MerlinSource:
    """The Merlin Abdominal CT Dataset.

    Args:
        root: Folder with the volumes at any depth, such as ``merlinabdominalctdataset``.
        reports: The spreadsheet (or CSV) of reports; None to take ``reports*.xlsx`` below `root`.

    Raises:
        InputError: No such folder, no spreadsheet or several, or its columns are missing.
    """

    name = "merlin"

    def __init__(self, root: Path, reports: Path | None = None) -> None:
        if not root.is_dir():
            raise InputError(f"There is no folder at {str(root)!r}. Check the path.")
        self.root = root
        if reports is None:
            found = find_tables(root, r"reports.*\.(xlsx|csv)", r"merlin_data")
            if len(found) != 1:
                raise InputError(
                    f"The folder has {len(found)} tables of reports, expected one: "
                    "reports_final.xlsx. Give it with --reports.",
                    rule="no-table",
                )
            reports = found[0]
        self._table = RowReader(reports, _COLUMNS, ["study_id", "findings|impression"])
        self._listing = Listing()

    def items(self) -> Iterator[VolumeRef | Rejection]:
        """Read the spreadsheet, then walk the folder."""
        self._listing = Listing()
        for row in self._table:
            name = stem(row.cells["study_id"])
            # A study id that is a file's name may have folders, an id none that climb.
            rejection = refused(
                row, ids=(name, row.cells["patient_id"]), paths=(row.cells["study_id"],)
            )
            rejection = rejection or self._listing.add(row, name)
            if rejection:
                yield rejection
        for item in find_volumes(self.root):
            if isinstance(item, VolumeRef):
                self._listing.mark(stem(item.item))
            yield item

    def facts(self, ref: VolumeRef, tags: Mapping[str, Any]) -> Facts:
        """Return what the spreadsheet says of one volume."""
        name = stem(ref.item)
        row = self._listing.claim(name)
        cells = row.cells if row else {}
        return Facts(
            fallback_id=name,
            study_id=name,
            patient_id=cells.get("patient_id") or None,
            text=_report(cells.get("findings", ""), cells.get("impression", "")),
            language="en",
            sex=parse_sex(cells.get("sex")),
            age=parse_age(cells.get("age")),
            study_date=parse_date(cells.get("study_date")),
            manufacturer=cells.get("manufacturer") or None,
            body_part="abdomen",
            split=parse_split(cells.get("split")),
            doubts=row.doubts if row else (NOT_LISTED,),
        )

    def leftovers(self) -> Iterator[Rejection]:
        """Yield a rejection for every report whose volume is not in the folder."""
        for item, _ in self._listing.unclaimed():
            yield Rejection(
                item,
                "volume-missing",
                "The table has a report of this study, but its volume is not in the folder.",
            )


def _report(findings: str, impression: str) -> str:
    parts = []
    for heading, text in (("Findings", findings), ("Impression", impression)):
        if text:
            parts.append(text if _HEADED.match(text) else f"{heading}: {text}")
    return "\n".join(parts)
