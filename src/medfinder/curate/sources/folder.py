"""A folder of NIfTI files and DICOM series, with or without a table of reports.

A row of the table belongs to a volume when it names its file (path or name, with or without
suffix), its folder, its series or its study. A path written from another root does as far as the
two agree; where they do not, the file's name decides only while one volume has it. A text file
beside a volume, of the same stem, is its report too.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from medfinder.curate.sources.listing import NOT_LISTED, formula_doubts
from medfinder.curate.sources.source import Facts
from medfinder.curate.tables import Table, read_table
from medfinder.errors import InputError
from medfinder.records import Rejection
from medfinder.volume.read import VolumeRef, find_volumes

_SUFFIXES = (".nii.gz", ".nii", ".dcm", ".zip")


def stem(name: str) -> str:
    """Return a file's name without the suffix of a volume: ``a/ct.nii.gz`` → ``a/ct``."""
    for suffix in _SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


class FolderSource:
    """CTs under one folder, any depth.

    Args:
        root: The folder.
        reports: CSV, TSV, XLSX, JSON or JSON Lines table; None for CTs without reports.
        text: Column of the table that holds the report, where its name is not one of ours.

    Raises:
        InputError: No such folder, or the table has no column that names a volume.
    """

    name = "folder"

    def __init__(self, root: Path, reports: Path | None = None, text: str | None = None) -> None:
        if not root.exists():
            raise InputError(f"There is no folder at {str(root)!r}. Check the path.")
        self.root = root
        self._rows: dict[str, list[int]] = defaultdict(list)
        self._used: set[int] = set()
        self._n_named: Counter[str] = Counter()
        self._table: Table | None = None
        if reports is not None:
            self._table = self._index(read_table(reports, text=text))

    def _index(self, table: Table) -> Table:
        if not {"file", "study_id", "series_id"} & table.columns.keys():
            # Of a table without a header these are cells, which may be a whole report.
            found = ", ".join(name[:20] for name in list(table.rows[0])[:12])
            raise InputError(
                "The table of reports has no column that names a volume. Expected one called file, "
                f"study_id or series_id; found: {found}. Rename a column."
            )
        for number, row in enumerate(table.rows):
            keys = {table.get(row, name) for name in ("study_id", "series_id")}
            file = _path(table.get(row, "file"))
            keys |= {str(file), file.name}
            keys -= {"", "."}
            for key in keys | {stem(key) + "?" for key in keys}:  # "?": any suffix of a volume
                self._rows[key].append(number)
        return table

    def items(self) -> Iterator[VolumeRef | Rejection]:
        """Walk the folder in a fixed order."""
        for item in find_volumes(self.root):
            if isinstance(item, VolumeRef):
                self._n_named[stem(PurePosixPath(item.item.split("#")[0]).name)] += 1
            yield item

    def facts(self, ref: VolumeRef, tags: Mapping[str, Any]) -> Facts:
        """Return what table, sidecar and file say of one volume.

        Raises:
            InputError: Rows of the table that contradict each other claim this volume.
        """
        cells: dict[str, str] = {}
        doubts: tuple[tuple[str, str], ...] = ()
        row = self._row(ref, tags)
        if row is not None and self._table is not None:
            cells = {name: self._table.get(row, name) for name in self._table.columns}
            doubts = formula_doubts(self._table.formulas(row))
        if not cells.get("text"):
            cells["text"] = _sidecar(ref.path)
        if row is None and self._table is not None and not cells["text"]:
            doubts = (NOT_LISTED,)
        facts = Facts.merge(cells, tags, fallback_id=stem(ref.item.split("#")[0]))
        return replace(facts, doubts=doubts)

    def _row(self, ref: VolumeRef, tags: Mapping[str, Any]) -> Mapping[str, str] | None:
        if self._table is None:
            return None
        item = PurePosixPath(ref.item.split("#")[0])
        keys = [(str(item), item), (ref.series_id or "", None)]
        keys += [(str(tags.get("study_id") or ""), None), (item.name, item)]
        if ref.kind == "nifti":
            keys += [(stem(str(item)) + "?", item), (stem(item.name) + "?", item)]
        for parent in item.parents:
            keys += [(str(parent), parent), (parent.name, parent)]
        for key, place in keys:
            numbers = self._rows.get(key) if key not in ("", ".") else None
            if numbers and place is not None:
                numbers = self._agreeing(numbers, key, place)
            if not numbers:
                continue
            rows = [self._table.rows[n] for n in numbers]
            self._used.update(numbers)
            if any(row != rows[0] for row in rows[1:]):
                raise InputError(
                    f"{len(rows)} rows of the table name this volume and differ. Keep one.",
                    rule="ambiguous-report",
                )
            return rows[0]
        return None

    def _agreeing(self, numbers: list[int], key: str, place: PurePosixPath) -> list[int]:
        """Keep the rows whose path does not speak of another file or folder of this name."""
        assert self._table is not None
        agreeing = []
        for number in numbers:
            row = self._table.rows[number]
            file = _path(self._table.get(row, "file"))
            ids = {self._table.get(row, name) for name in ("study_id", "series_id")}
            if key in ids or key in {stem(i) + "?" for i in ids if i} or _agree(file, place):
                agreeing.append(number)
        if not agreeing and self._n_named[stem(place.name)] == 1:
            return numbers
        return agreeing

    def leftovers(self) -> Iterator[Rejection]:
        """Yield a rejection for every row of the table that no volume claimed."""
        if self._table is None:
            return
        for number, row in enumerate(self._table.rows):
            if number not in self._used:
                cells = (self._table.get(row, n) for n in ("file", "study_id", "series_id"))
                named = next((cell for cell in cells if cell), "-")
                yield Rejection(
                    f"row {number + 2}: {named}",
                    "volume-missing",
                    "The table lists this study, but no volume in the folder belongs to it.",
                )


def _path(cell: str) -> PurePosixPath:
    return PurePosixPath(cell.replace("\\", "/"))


def _agree(a: PurePosixPath, b: PurePosixPath) -> bool:
    """Whether one path ends in the other, suffixes of volumes aside."""
    ends = [[*path.parts[:-1], stem(path.name)] for path in (a, b)]
    n = min(len(ends[0]), len(ends[1]))
    return ends[0][-n:] == ends[1][-n:]


def _sidecar(path: Path) -> str:
    text = path.parent / (stem(path.name) + ".txt")
    try:
        if path.is_file() and text.is_file() and text.stat().st_size < 2**20:
            return text.read_text(encoding="utf-8", errors="replace")
    except OSError:  # one that cannot be read is none: the volume is worth having without it
        pass
    return ""
