"""What every source of raw CTs and reports offers to `curate`."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal, Protocol

from medfinder.records import Language, Rejection, Split
from medfinder.volume.read import VolumeRef


@dataclass(frozen=True, slots=True)
class Facts:
    """What a source says of one volume, with raw identity; it does not leave `curate`.

    Attributes:
        raw_study_id: As the DICOM file gives it; None when it gives none.
        raw_patient_id: Likewise.
        study_id: Given by a table, already fit to be shown; None when it gives none.
        patient_id: Likewise.
        fallback_id: From the item's place, for volumes that nobody names.
        text: Report, in its original language where the source has that; "" without one.
        language: Of `text`, where the source says so; None has it told from the words.
        translation: English that the source gives beside `text`; it is checked like any other.
        known: Names and numbers of persons that the source holds beside the text, by which the
            text is de-identified.
        labels: Findings that the source's label table gives, as it spells them, trimmed; None where
            the source has no labels at all.
        kernel: Convolution kernel, where table or sidecar name it; it tells reconstructions apart.
        doubts: (rule, reason) of what the source noticed about this item, such as ``not-listed``.
    """

    fallback_id: str
    study_id: str | None = None
    patient_id: str | None = None
    raw_study_id: str | None = None
    raw_patient_id: str | None = None
    text: str = ""
    language: Language | None = None
    translation: str = ""
    known: tuple[str, ...] = ()
    labels: tuple[str, ...] | None = None
    sex: Literal["F", "M"] | None = None
    age: int | None = None
    study_date: str | None = None
    manufacturer: str | None = None
    body_part: str | None = None
    split: Split | None = None
    kernel: str | None = None
    doubts: tuple[tuple[str, str], ...] = ()

    @classmethod
    def merge(cls, cells: Mapping[str, str], tags: Mapping[str, Any], fallback_id: str) -> "Facts":
        """Combine a table's cells with a file's tags; where both speak, the table wins."""

        def pick(name: str) -> str | None:
            value = cells.get(name) or tags.get(name)
            return str(value) if value not in (None, "") else None

        raw_patient, raw_study = tags.get("patient_id"), tags.get("study_id")
        body_part = pick("body_part")
        return cls(
            fallback_id=fallback_id,
            study_id=cells.get("study_id") or None,
            patient_id=cells.get("patient_id") or None,
            raw_study_id=str(raw_study) if raw_study else None,
            raw_patient_id=str(raw_patient) if raw_patient else None,
            text=cells.get("text", ""),
            sex=parse_sex(pick("sex")),
            age=parse_age(pick("age")),
            study_date=parse_date(pick("study_date")),
            manufacturer=pick("manufacturer"),
            body_part=body_part.lower() if body_part else None,
            split=parse_split(cells.get("split")),
        )


_SPLITS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
}


def parse_sex(text: str | None) -> Literal["F", "M"] | None:
    """Read ``F``, ``female``, ``mujer``, ``M``, ``male``, ``hombre``, …; None when it says neither."""
    word = (text or "").strip().lower()
    if word in {"f", "female", "woman", "w", "mujer", "femenino"}:
        return "F"
    if word in {"m", "male", "man", "hombre", "h", "masculino", "v", "varon", "varón"}:
        return "M"
    return None


def parse_age(text: str | None) -> int | None:
    """Read whole years from ``53``, ``53.0``, ``053Y``, ``18M`` (months) …; None outside 0..120."""
    match = re.fullmatch(r"\s*(\d{1,4})(?:\.\d+)?\s*([YMWDymwd]?)[a-z]*\s*", text or "")
    if not match:
        return None
    years = int(match[1]) // {"m": 12, "w": 52, "d": 365}.get(match[2].lower(), 1)
    return years if years <= 120 else None


def parse_date(text: str | None) -> str | None:
    """Read ``2020-03-01``, ``20200301`` or ``01/03/2020`` (day first) → ISO; None when unclear."""
    text = (text or "").strip()
    for pattern, order in (
        (r"(\d{4})-?(\d{2})-?(\d{2})(?:[T ].*)?", (1, 2, 3)),
        (r"(\d{1,2})[/.](\d{1,2})[/.](\d{4})", (3, 2, 1)),
    ):
        match = re.fullmatch(pattern, text)
        if match:
            year, month, day = (int(match[i]) for i in order)
            try:
                found = date(year, month, day)
            except ValueError:
                return None
            return found.isoformat() if 1900 <= year <= 2100 else None
    return None


def parse_split(text: str | None) -> Split | None:
    """Read ``train``, ``validation``, ``dev``, ``test``, …; None when it says none of them."""
    return _SPLITS.get((text or "").strip().lower())


@dataclass(frozen=True, slots=True)
class TableRow:
    """A study that is curated from its table alone, without its volume.

    Attributes:
        item: Names the row in messages, such as ``"row 17: ses-E1"``; unique in its source.
        facts: What the row says.
    """

    item: str
    facts: Facts


class Source(Protocol):
    """Raw CTs with their facts, one item at a time, in a fixed order.

    A source of many rows yields them as it reads them: `curate` holds none of them in memory.
    """

    name: str

    def items(self) -> Iterator[VolumeRef | TableRow | Rejection]:
        """Yield every candidate, and a rejection for each thing that cannot be one."""

    def facts(self, ref: VolumeRef, tags: Mapping[str, Any]) -> Facts:
        """Return what is known of one readable volume; `tags` are those of its `Volume`.

        Raises:
            InputError: This volume cannot be a study; its rule and text become its rejection.
        """

    def leftovers(self) -> Iterator[Rejection]:
        """Yield, after all volumes, what was promised and did not come."""
