"""What a source's tables list ↔ the volumes that are there: the one place where they meet.

The rows lie in a temporary SQLite file that no other process sees and that is gone when the source
is: a table of any length takes a few megabytes of memory.
"""

import hashlib
import json
import os
import re
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from medfinder.curate.tables import Row
from medfinder.records import Rejection

NOT_LISTED = ("not-listed", "No table lists this volume, so that it has no report. Find its row.")
_FORMULA = "A cell of its row was a spreadsheet formula and is plain text now: {names}. Look at it."
_KIN_LISTED = (
    "not-listed",
    "The table lists other volumes of this study, not this one; their report is used. Compare.",
)
_RIVAL = (
    "ambiguous-report",
    "Another row of the table names it too and says something else; the first is used. Compare.",
)
# A part "..", or a separator, plain or as a URL writes it.
_CLIMBS = re.compile(r"(?:^|[/\\]|%2f|%5c)(?:\.|%2e){2}(?:$|[/\\]|%2f|%5c)", re.IGNORECASE)
_UNSAFE = re.compile(r"[/\\\0]|%2f|%5c|^\s*(?:\.|%2e)+\s*$", re.IGNORECASE)
_SUFFIXES = (".nii.gz", ".nii")


def stem(path: str) -> str:
    """Return the file's name in a path of any system, without folder and suffix of a volume."""
    name = path.strip().replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
    for suffix in _SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def climbs(*cells: str) -> bool:
    """Tell whether a path has a part ``..``, however it is written."""
    return any(_CLIMBS.search(cell) for cell in cells)


def unsafe(*ids: str) -> bool:
    """Tell whether an id could lead out of a folder: it has a separator, a NUL or is ``..``."""
    return any(_UNSAFE.search(text) for text in ids)


@dataclass(frozen=True, slots=True)
class Listed:
    """One row of a table, claimed by a volume.

    Attributes:
        cells: Our name → cell.
        doubts: What is doubtful about the row itself: formulas, another row that contradicts it.
    """

    cells: Mapping[str, str]
    doubts: tuple[tuple[str, str], ...] = ()


class Listing:
    """Rows of tables by the names of what they list.

    A row is found by `name` (a volume's), else by `group` (its study's).
    """

    def __init__(self) -> None:
        # "" is a private file in SQLite's folder for such, deleted when it is closed; it is read
        # where `facts` is called, which need not be the thread that made it.
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        # One transaction for all: it ends with the file.
        self._db.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
            "CREATE TABLE row (name TEXT PRIMARY KEY, kin TEXT, item TEXT, place TEXT, n INTEGER,"
            " digest BLOB, cells TEXT, doubts TEXT, used INTEGER DEFAULT 0) WITHOUT ROWID;"
            "CREATE INDEX kin ON row (kin); BEGIN;"
        )
        self._n = 0

    def __del__(self) -> None:
        self._db.close()

    def add(
        self,
        row: Row,
        name: str,
        *,
        group: str = "",
        label: str = "",
        keep: bool = True,
    ) -> Rejection | None:
        """Add one row, or say why it is left out.

        Args:
            name: Of the volume that the row lists; where two rows have one, the first counts.
            group: Of the study, for volumes that no row lists by name.
            label: What a message calls the row; `name` when empty.
            keep: Whether its cells will be asked for; without them it is still known.

        Returns:
            None, or a rejection with rule ``duplicate-row``.
        """
        item = f"{row.where}: {label or name}"
        cells = json.dumps(dict(row.cells), ensure_ascii=False)
        digest = hashlib.blake2b(cells.encode("utf-8", "replace"), digest_size=12).digest()
        known = self._db.execute("SELECT place, digest FROM row WHERE name = ?", (name,)).fetchone()
        self._n += 1
        if known is None:
            self._db.execute(
                "INSERT INTO row VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0)",
                (
                    name,
                    group,
                    item,
                    row.where,
                    self._n,
                    digest,
                    cells if keep else "{}",
                    json.dumps(formula_doubts(row.formulas)),
                ),
            )
            return None
        if known[1] == digest:
            return Rejection(item, "duplicate-row", f"The same as {known[0]}, which is kept.")
        self._db.execute(
            "UPDATE row SET doubts = ? WHERE name = ?",
            (json.dumps([*self._doubts(name), _RIVAL]), name),
        )
        return Rejection(
            item,
            "duplicate-row",
            f"It names the same as {known[0]} and says something else; that one is kept. Compare.",
        )

    def _doubts(self, name: str) -> list[tuple[str, str]]:
        (found,) = self._db.execute("SELECT doubts FROM row WHERE name = ?", (name,)).fetchone()
        return [(rule, reason) for rule, reason in json.loads(found) if rule != _RIVAL[0]]

    def claim(self, name: str, group: str = "") -> Listed | None:
        """Return the row that lists this volume, or one of its study, and note that it came."""
        columns = "SELECT cells, doubts FROM row WHERE "
        found = self._db.execute(columns + "name = ?", (name,)).fetchone()
        extra: list[tuple[str, str]] = []
        if found is not None:
            self.mark(name)
        elif group:
            found = self._db.execute(columns + "kin = ? ORDER BY n LIMIT 1", (group,)).fetchone()
            extra = [_KIN_LISTED]
        if found is None:
            return None
        doubts = [(rule, reason) for rule, reason in json.loads(found[1])]
        return Listed(json.loads(found[0]), (*doubts, *extra))

    def mark(self, name: str) -> None:
        """Note that what this row lists is there."""
        self._db.execute("UPDATE row SET used = 1 WHERE name = ?", (name,))

    def __len__(self) -> int:
        """Return the number of rows that were taken in."""
        return int(self._db.execute("SELECT COUNT(*) FROM row").fetchone()[0])

    def unclaimed(self) -> Iterator[tuple[str, str]]:
        """Yield (item, name) of each row that lists nothing that came, in the table's order."""
        cursor = self._db.cursor().execute("SELECT item, name FROM row WHERE used = 0 ORDER BY n")
        while rows := cursor.fetchmany(256):
            yield from rows


def refused(row: Row, *, ids: tuple[str, ...], paths: tuple[str, ...] = ()) -> Rejection | None:
    """Return why a row cannot be used at all, before anything of it is looked up.

    Args:
        ids: Cells that become ids.
        paths: Cells that are paths; they are compared with names of files and never opened.

    Returns:
        None, or a rejection with rule ``unsafe-id`` or ``ragged-row``.
    """
    if row.n_extra:
        return Rejection(
            row.where,
            "ragged-row",
            f"The row has {row.n_extra} cells that the header has no name for, or that are too long "
            "for a report: a quote or a separator is out of place. Mend the table there.",
        )
    found = next((text for text in ids if unsafe(text)), None)
    found = found or next((text for text in paths if climbs(text)), None)
    if found is not None:
        return Rejection(
            f"{row.where}: {found[:80]}",
            "unsafe-id",
            "An id or path of the row leads out of its folder ('..' or a separator in it). It was "
            "not opened. Give it a plain id.",
        )
    return None


def formula_doubts(names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Return the doubt ``formula-cell`` about a row whose cells of these names were formulas."""
    if not names:
        return ()
    return (("formula-cell", _FORMULA.format(names=", ".join(dict.fromkeys(names)))),)


def find_tables(root: Path, names: str, skip: str) -> list[Path]:
    """Return the tables below `root` in order of their paths.

    Args:
        names: Pattern of whole file names, in any case.
        skip: Pattern of whole names of folders that hold volumes and are not entered: an archive
            has a hundred thousand of them.
    """
    return [
        Path(folder, name)
        for folder, files in walk_folders(root, skip)
        for name in files
        if re.fullmatch(names, name, re.I)
    ]


def walk_folders(root: Path, skip: str = "") -> Iterator[tuple[str, list[str]]]:
    """Yield each folder below `root` with the names of its files, both sorted.

    Links are followed, each real folder once; hidden folders and those that match `skip` are not
    entered.
    """
    seen: set[tuple[int, int]] = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        stat = os.stat(folder)
        if (stat.st_dev, stat.st_ino) in seen:
            folders.clear()
            continue
        seen.add((stat.st_dev, stat.st_ino))
        folders[:] = sorted(f for f in folders if f[0] != "." and not re.fullmatch(skip, f))
        yield folder, sorted(files)
