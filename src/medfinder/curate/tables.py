"""Tables of reports as people have them → rows of plain text.

Knows encodings, separators, the many names of a column and what a spreadsheet does to a cell; does
not know volumes. `read_table` holds a table whole, `RowReader` reads one of any length row by row.
"""

import codecs
import csv
import io
import itertools
import json
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
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
MAX_SHEET_BYTES = 2**32
"""Most bytes a spreadsheet may unpack to; a real one of 100,000 reports is below a tenth of it."""
_MISSING = frozenset(
    [
        "",
        "nan",
        "none",
        "null",
        "na",
        "n/a",
        "<na>",
        "nat",
        "#n/a",
        "#ref!",
        "#value!",
        "#name?",
        "#div/0!",
        "#null!",
        "#num!",
    ]
)
# What a spreadsheet would run: "=...", "@SUM(...)", "+cmd|...", "-SUM(...)"; a dash before words is
# how people write lists. An apostrophe before any of these is how exports take its power away.
_FORMULA = re.compile(r"=|@\s*[A-Za-z]+\(|[+\-][\w.+*/\-]*\||[+\-][A-Z][A-Z0-9.]*\(")
_ESCAPED = re.compile(r"'(?=[=+\-@\t\r])")
_TRIGGERS = "=+-@ \t\r\n"
_CARRIAGE = re.compile(r"(?<=\r)(?!\n)")
_PEEK = 100  # rows of JSON Lines looked at for names of columns
_LONG_CELL = 200_000  # characters; the longest report of BIMCV-R has about 4,000
_LONG_LIST = 20_000  # characters; a real list has a few hundred


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
        """Return the cell of `row` under our column `name`, as `plain_cell` makes it; "" without."""
        column = self.columns.get(name)
        return plain_cell(row.get(column, ""))[0] if column else ""

    def formulas(self, row: Mapping[str, str]) -> tuple[str, ...]:
        """Return our columns of `row` whose cell was a formula."""
        return tuple(n for n, c in self.columns.items() if plain_cell(row.get(c, ""))[1])


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table that is read row by row.

    Attributes:
        number: As a spreadsheet counts rows without the empty ones; the header is row 1.
        cells: Our name → cell, as `plain_cell` makes it; every name asked for is there.
        formulas: Names of cells that were formulas and are plain text now.
        n_extra: Filled cells beyond the header's last, and cells too long for a report: a quote or
            separator is out of place, so that no cell of this row can be trusted.
        table: Name of its file, where several tables are read; "" for the only one.
    """

    number: int
    cells: Mapping[str, str]
    formulas: tuple[str, ...] = ()
    n_extra: int = 0
    table: str = ""

    @property
    def where(self) -> str:
        """Where it stands, for messages: ``row 17``, or ``row 17 of labels.tsv``."""
        return f"row {self.number} of {self.table}" if self.table else f"row {self.number}"


class RowReader:
    """A table of any length, read row by row; iterate over it as often as wanted.

    Args:
        path: ``.csv``, ``.tsv``, ``.xlsx`` (first sheet with rows), ``.json`` or ``.jsonl``. Only a
            ``.json`` file is held whole.
        columns: Our name → the names a table may have for it, best first; capitals, spaces, dashes
            and underscores do not matter. Of several, the first filled cell of each row counts.
        needs: Our names without which the table is of no use; ``"a|b"`` is content with either.
        named: Whether rows name their table, since there are others.

    Raises:
        InputError: No such file, not a table, no rows, or a column that is needed is missing.
    """

    def __init__(
        self,
        path: Path,
        columns: Mapping[str, tuple[str, ...]],
        needs: Sequence[str] = (),
        *,
        named: bool = False,
    ) -> None:
        self.path = path
        self._table = path.name if named else ""
        header, rows = _opened(path)
        if next(rows, None) is None:
            raise _no_rows()
        present: dict[str, str] = {}
        for name in header:
            present.setdefault(_loose(name), name)
        self._columns = {
            ours: tuple(present[_loose(name)] for name in theirs if _loose(name) in present)
            for ours, theirs in columns.items()
        }
        lacking = [
            " or ".join(columns[name][0] for name in need.split("|"))
            for need in needs
            if not any(self._columns[name] for name in need.split("|"))
        ]
        if lacking:
            raise InputError(
                f"The table lacks {'a column' if len(lacking) == 1 else 'columns'}: expected "
                f"{', '.join(lacking)}; found: {_shown(header)}. "
                "Rename a column, or give another table.",
                rule="missing-column",
            )

    def has(self, name: str) -> bool:
        """Whether the table has a column for our `name`."""
        return bool(self._columns.get(name))

    def __iter__(self) -> Iterator[Row]:
        """Yield the rows in the table's order."""
        for number, (cells, n_extra) in enumerate(_opened(self.path)[1], start=2):
            mine: dict[str, str] = {}
            formulas = []
            for ours, theirs in self._columns.items():
                mine[ours] = ""
                for name in theirs:
                    value, formula = plain_cell(cells.get(name, ""))
                    if formula:
                        formulas.append(ours)
                    if value:
                        mine[ours] = value
                        break
            # A quote that was never closed swallows the rows below it.
            n_extra += sum(len(value) > _LONG_CELL for value in mine.values())
            yield Row(number, mine, tuple(formulas), n_extra, self._table)


def iter_rows(path: Path) -> Iterator[Mapping[str, str]]:
    """Yield a table's rows under its own column names, one at a time, cells as they are.

    Raises:
        InputError: No such file, or not a table.
    """
    for cells, _ in _opened(path)[1]:
        yield cells


def read_table(path: Path, *, text: str | None = None) -> Table:
    """Read a CSV, TSV, XLSX, JSON or JSON Lines table of reports.

    Args:
        text: Column that holds the report, where its name is not one of ours.

    Raises:
        InputError: No such file, no rows, an unknown `text` column, or a format that is not read.
    """
    header, read = _opened(path)
    rows = [cells for cells, _ in read]
    if path.suffix.lower() in _JSON:
        header = list(dict.fromkeys(name for row in rows for name in row))
        rows = [{name: row.get(name, "") for name in header} for row in rows]
    if not rows:
        raise _no_rows()
    present = {name.strip().lower(): name for name in header}
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


def plain_cell(value: str) -> tuple[str, bool]:
    """Return a cell as plain text, trimmed, and whether it was a spreadsheet formula.

    ``nan`` and its like are "". A formula loses the signs that would make a spreadsheet run it;
    its words stay, so that nothing is lost and somebody can look.
    """
    value = value.strip()
    if value.lower() in _MISSING:
        return "", False
    value = _ESCAPED.sub("", value, count=1) if value.startswith("'") else value
    if _FORMULA.match(value):
        return value.lstrip(_TRIGGERS), True
    return value.strip(), False


def parse_list(cell: str) -> tuple[str, ...]:
    """Return the entries of a list written as text, trimmed, without the empty ones.

    Reads Python's lists (``['', 'laminar atelectasis', ' pleural effusion']``), lists without
    quotes (``[C0032225,,C0018800]``), nested ones as one, and quotes that do not match.
    """
    cell = cell.strip()
    if cell.startswith("(") and cell.endswith(")"):  # a tuple's text
        cell = cell[1:-1]
    cell = cell.replace("[", " ").replace("]", ",")
    if len(cell) > _LONG_LIST:  # nobody's list: no need for care with quotes
        found = re.split(r"[,\t]", cell)
    else:
        found = [next(filter(None, m.groups()), "") for m in _ENTRY.finditer(cell)]
    entries = (_unquoted(entry) for entry in found)
    return tuple(entry for entry in entries if entry.lower() not in _MISSING)


# A quote ends where a separator follows, so that "crohn's disease" stays whole.
_ENTRY = re.compile(
    r"""\s*(?:'(.*?)'|"(.*?)"|([^,\t]*?))\s*(?:[,\t]|$)""",
    re.DOTALL,
)


def _unquoted(entry: str) -> str:
    return entry.strip().strip("'\"").strip()


_JSON = frozenset((".json", ".jsonl", ".ndjson"))
_Rows = Iterator[tuple[Mapping[str, str], int]]


def _opened(path: Path) -> tuple[list[str], _Rows]:
    """Return a table's column names and its rows, each with the number of cells too many."""
    if not path.is_file():
        raise InputError(f"There is no table at {str(path)!r}. Check the path.")
    suffix = path.suffix.lower()
    if suffix in _JSON:
        return _json_table(path, suffix)
    if suffix == ".xlsx":
        records = _xlsx_records(path)
    elif suffix in {".csv", ".tsv", ".txt"}:
        records = _csv_records(path, suffix)
    else:
        raise InputError(
            "A table ends in .csv, .tsv, .xlsx, .json or .jsonl, got "
            f"{suffix or 'no suffix'!r}. Save it as CSV."
        )
    header = [name.strip() for name in next(records, [])]
    return header, _paired(header, records)


def _paired(header: list[str], records: Iterator[list[str]]) -> _Rows:
    n = len(header)
    for record in records:
        cells: dict[str, str] = {}
        for name, value in itertools.zip_longest(header, record[:n], fillvalue=""):
            if not cells.get(name):  # of two columns of one name, the first that is filled
                cells[name] = value
        yield cells, sum(1 for value in record[n:] if value.strip())


def _csv_records(path: Path, suffix: str) -> Iterator[list[str]]:
    csv.field_size_limit(2**24)
    lines = _lines(path)
    head = next((line for line in lines if line.strip("\r\n")), "")
    separator = max(",;\t|", key=head.count)
    if suffix == ".tsv" and "\t" in head:
        separator = "\t"
    reader = csv.reader(itertools.chain([head], lines), delimiter=separator)
    try:
        for record in reader:
            if record and any(record):
                yield record
    except csv.Error as error:
        raise InputError(
            f"The table is not CSV: {error}, up to line {reader.line_num}. Look for a quote that "
            "is not closed, or export it again."
        ) from None


def _lines(path: Path) -> Iterator[str]:
    """Yield a text file's lines with their ends, whatever its encoding, without NUL bytes."""
    with path.open("rb") as file:
        mark = file.read(2)
        file.seek(0)
        if mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            wide = io.TextIOWrapper(file, encoding="utf-16", errors="replace", newline="")
            for text in wide:
                yield text.replace("\0", "")
            return
        for number, raw in enumerate(file):
            line = _decode(raw.removeprefix(codecs.BOM_UTF8) if number == 0 else raw)
            if "\r" in line[:-2]:  # lines of an old Mac
                yield from _CARRIAGE.split(line)
            else:
                yield line


def _decode(raw: bytes) -> str:
    raw = raw.replace(b"\0", b"")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        # Spreadsheets on Windows save Spanish as cp1252; a byte it lacks is kept as a mark.
        # Line by line, since tables are also glued together from files of both kinds.
        return raw.decode("cp1252", errors="replace")


def _xlsx_records(path: Path) -> Iterator[list[str]]:
    import openpyxl

    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(part.file_size for part in archive.infolist())
        if size > MAX_SHEET_BYTES:
            raise InputError(
                f"The spreadsheet unpacks to {size} bytes, expected at most {MAX_SHEET_BYTES}. "
                "Save it as CSV."
            )
        with warnings.catch_warnings():  # of styles and extensions, which no cell needs
            warnings.simplefilter("ignore")
            book = openpyxl.load_workbook(path, read_only=True, keep_links=False)
    except InputError:
        raise
    except Exception as error:  # the library raises a dozen kinds for a file that is no workbook
        raise _no_workbook(error) from None
    try:
        for sheet in book.worksheets:
            sheet.reset_dimensions()  # what the file claims of its size may be wrong
            filled = False
            rows = sheet.iter_rows(values_only=True)
            while batch := _batch(rows):
                for row in batch:
                    record = [_cell(value) for value in row]
                    if any(record):
                        filled = True
                        yield record
            if filled:
                return
    finally:
        book.close()


def _batch(rows: Iterator[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return list(itertools.islice(rows, 256))
    except Exception as error:
        raise _no_workbook(error) from None


def _no_workbook(error: Exception) -> InputError:
    return InputError(
        f"The table is not a readable .xlsx workbook ({type(error).__name__}). "
        "Save it again, or as CSV."
    )


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if hasattr(value, "isoformat"):
        return str(value.isoformat()).removesuffix("T00:00:00")
    return _text(getattr(value, "text", value))  # an array formula holds its text


def _json_table(path: Path, suffix: str) -> tuple[list[str], _Rows]:
    items = _json_items(path) if suffix == ".json" else _json_lines(path)
    first = list(itertools.islice(items, _PEEK))
    header = list(dict.fromkeys(name for row in first for name in row))
    return header, ((row, 0) for row in itertools.chain(first, items))


def _json_items(path: Path) -> Iterator[Mapping[str, str]]:
    items = _json_value("".join(_lines(path)), "JSON")
    if not isinstance(items, Sequence) or isinstance(items, str):
        raise _not_objects()
    yield from map(_json_row, items)


def _json_lines(path: Path) -> Iterator[Mapping[str, str]]:
    for line in _lines(path):
        if line.strip():
            yield _json_row(_json_value(line, "JSONL"))


def _json_value(content: str, kind: str) -> Any:
    try:
        return json.loads(content)
    except RecursionError:
        raise InputError(
            "The table nests too deep. A JSON table is a list of objects, one a study."
        ) from None
    except ValueError as error:
        raise InputError(f"The table is not {kind}: {error}. Export it again.") from None


def _json_row(item: Any) -> Mapping[str, str]:
    if not isinstance(item, Mapping):
        raise _not_objects()
    return {str(key): _text(value) for key, value in item.items()}


def _not_objects() -> InputError:
    return InputError("A JSON table is a list of objects, one a study. Export it in that form.")


def _text(value: Any) -> str:
    if value is None:
        return ""
    # JSON can spell halves of characters, which nothing can store.
    return str(value).encode("utf-8", "replace").decode()


def _no_rows() -> InputError:
    return InputError("The table has a header but no rows, or is empty. Export it again.")


def _loose(name: str) -> str:
    return re.sub(r"[\s_\-.]+", "", name).lower()


def _shown(header: Sequence[str]) -> str:
    # Of a table without a header these are cells, which may be a whole report.
    return ", ".join(name[:20] or "(no name)" for name in header[:16])
