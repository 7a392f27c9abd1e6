"""Tables of reports as people have them → rows of plain text.

Knows encodings, separators and the many names of a column; does not know volumes.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medfinder.errors import InputError, UnknownName
from medfinder.registry import unknown

# Our name -> the names seen in the wild, lower-case, best first.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "file": ("file", "filename", "file_name", "path", "ct_path", "volume", "volumename", "image"),
    "study_id": ("study_id", "studyid", "study", "accessionno", "accession", "reportid"),
    "series_id": ("series_id", "seriesinstanceuid", "series"),
    "patient_id": ("patient_id", "patientid", "patient", "subject", "subject_id"),
    "sex": ("sex", "patientsex", "gender"),
    "age": ("age", "patientage"),
    "study_date": ("study_date", "studydate", "date"),
    "manufacturer": ("manufacturer", "scanner"),
    "body_part": ("body_part", "bodypart", "bodypartexamined"),
    "split": ("split",),
    "text": ("text", "report", "report_text", "report_en", "findings_en", "findings"),
}


@dataclass(frozen=True, slots=True)
class Table:
    """A table of reports.

    Attributes:
        rows: One mapping a row, original column names, empty cells as "".
        columns: Our name → the table's column that holds it; only those it has.
    """

    rows: tuple[Mapping[str, str], ...]
    columns: Mapping[str, str]

    def get(self, row: Mapping[str, str], name: str) -> str:
        """Return the cell of `row` under our column `name`, stripped; "" where there is none."""
        column = self.columns.get(name)
        value = row.get(column, "") if column else ""
        return (
            "" if value.strip().lower() in {"nan", "none", "null", "na", "n/a"} else value.strip()
        )


def read_table(path: Path, *, text: str | None = None) -> Table:
    """Read a CSV, TSV, JSON or JSON Lines table of reports.

    Args:
        text: Column that holds the report, where its name is not one of ours.

    Raises:
        InputError: No such file, no rows, an unknown `text` column, or a format that is not read.
    """
    if not path.is_file():
        raise InputError(f"There is no table at {str(path)!r}. Check the path.")
    content = _decode(path.read_bytes())
    suffix = path.suffix.lower()
    if suffix in {".json", ".jsonl", ".ndjson"}:
        rows = _json_rows(content, suffix)
    elif suffix in {".csv", ".tsv", ".txt"}:
        rows = _csv_rows(content, "\t" if suffix == ".tsv" else None)
    else:
        raise InputError(
            f"A table ends in .csv, .tsv, .json or .jsonl, got {suffix or 'no suffix'!r}. Save it as CSV."
        )
    if not rows:
        raise InputError("The table has a header but no rows, or is empty. Export it again.")
    present = {name.strip().lower(): name for name in rows[0]}
    columns = {}
    for ours, theirs in COLUMNS.items():
        named = [present[name] for name in theirs if name in present]
        if named:  # a column that is there but empty gives way to the next
            filled = (name for name in named if any(row.get(name, "").strip() for row in rows))
            columns[ours] = next(filled, named[0])
    if text is not None:
        if text not in rows[0]:
            raise UnknownName(unknown("column", text, sorted(rows[0])))
        columns["text"] = text
    return Table(tuple(rows), columns)


def _decode(data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        # Spreadsheets on Windows save Spanish as cp1252; a byte it lacks is kept as a mark.
        return data.decode("cp1252", errors="replace")


def _csv_rows(content: str, separator: str | None) -> list[Mapping[str, str]]:
    csv.field_size_limit(2**24)
    content = content.replace("\0", "").lstrip("\r\n")
    if separator is None:
        head = content.split("\n", 1)[0]
        separator = max(",;\t|", key=head.count)
    try:
        reader = csv.DictReader(io.StringIO(content, newline=""), delimiter=separator)
        return [{str(k): _text(v) for k, v in row.items() if k is not None} for row in reader]
    except csv.Error as error:
        raise InputError(f"The table is not CSV: {error}. Export it again.") from None


def _json_rows(content: str, suffix: str) -> list[Mapping[str, str]]:
    try:
        if suffix == ".json":
            items: Any = json.loads(content)
        else:
            items = [json.loads(line) for line in content.split("\n") if line.strip()]
    except RecursionError:
        raise InputError(
            "The table nests too deep. A JSON table is a list of objects, one a study."
        ) from None
    except ValueError as error:
        raise InputError(
            f"The table is not {suffix[1:].upper()}: {error}. Export it again."
        ) from None
    if not isinstance(items, Sequence) or not all(isinstance(i, Mapping) for i in items):
        raise InputError("A JSON table is a list of objects, one a study. Export it in that form.")
    names = list(dict.fromkeys(str(key) for item in items for key in item))
    return [{name: _text(item.get(name)) for name in names} for item in items]


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):  # csv.DictReader: more cells than the header has
        return " ".join(str(v) for v in value)
    # JSON can spell halves of characters, which nothing can store.
    return str(value).encode("utf-8", "replace").decode()
