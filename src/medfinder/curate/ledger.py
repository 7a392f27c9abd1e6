"""What a run of `curate` has seen, on disk: memory stays flat however many studies there are.

One SQLite file in the folder's ``private`` part, for its owner's eyes: it holds raw numbers and
paths. What was read of each volume outlives the run, so a run that is killed goes on where it
stopped and a second one reads only what is new; so do the split that each patient was dealt, which
scans were compared, and of what each copy was made. The rest is worked out anew each time. Does not
know what its rows mean.
"""

import fcntl
import json
import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from medfinder.errors import ArtifactError, InputError
from medfinder.records import Doubt, Rejection

PRIVATE = "private"
"""Folder of a dataset that stays with its owner; everything beside it may be handed on."""
_BATCH = 512
_TABLES = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE IF NOT EXISTS inspected (item TEXT PRIMARY KEY, mark TEXT, seen TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS inspected_sum (item TEXT PRIMARY KEY, crc INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS dealt (
    config TEXT, patient TEXT, split TEXT, PRIMARY KEY (config, patient)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS compared (pair TEXT PRIMARY KEY, same INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS copy (
    file TEXT PRIMARY KEY, study_id TEXT, mark TEXT, removed TEXT
) WITHOUT ROWID;
DROP TABLE IF EXISTS copied;
DROP TABLE IF EXISTS name;
DROP TABLE IF EXISTS found;
DROP TABLE IF EXISTS candidate;
DROP TABLE IF EXISTS study;
DROP TABLE IF EXISTS said;
DROP TABLE IF EXISTS band;
DROP TABLE IF EXISTS rare;
DROP TABLE IF EXISTS rejection;
DROP TABLE IF EXISTS doubt;
CREATE TABLE found (n INTEGER PRIMARY KEY, item TEXT UNIQUE, ref TEXT, facts TEXT);
CREATE TABLE candidate (
    n INTEGER PRIMARY KEY, item TEXT UNIQUE, study TEXT, patient TEXT, hash TEXT, shape TEXT,
    has_text INTEGER, facts TEXT, seen TEXT, ref TEXT, gone INTEGER, n_patients INTEGER
);
CREATE INDEX candidate_hash ON candidate (hash);
CREATE INDEX candidate_study ON candidate (study);
CREATE TABLE name (kind TEXT, raw TEXT, safe TEXT, PRIMARY KEY (kind, raw)) WITHOUT ROWID;
CREATE INDEX name_safe ON name (kind, safe);
CREATE TABLE study (
    study_id TEXT PRIMARY KEY, patient_id TEXT, n INTEGER, text TEXT, text_key TEXT,
    findings TEXT, split TEXT
);
CREATE TABLE said (kind TEXT, key TEXT, study_id TEXT, patient_id TEXT);
CREATE INDEX said_key ON said (key, patient_id);
CREATE INDEX said_study ON said (study_id, kind);
CREATE INDEX study_patient ON study (patient_id);
CREATE TABLE rare (triple INTEGER, study_id TEXT);
CREATE INDEX rare_triple ON rare (triple);
CREATE TABLE rejection (
    item TEXT, rule TEXT, reason TEXT, PRIMARY KEY (item, rule, reason)
) WITHOUT ROWID;
CREATE TABLE doubt (
    study TEXT, rule TEXT, reason TEXT, weight REAL, PRIMARY KEY (study, rule, reason)
) WITHOUT ROWID;
"""


def storable(text: str) -> str:
    """Return `text` with half surrogate pairs, which no file can hold, written out as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


class Ledger:
    """The working memory of one run; a context manager.

    Args:
        folder: The dataset's folder; the ledger lies in its `PRIVATE` part, which only its owner
            may read.
        key: Of the settings that what was read depends on: another key starts afresh.

    Raises:
        InputError: Another run is at work in this folder (rule ``folder-in-use``).
        ArtifactError: The disk is full, or the file is not a ledger.
    """

    def __init__(self, folder: Path, key: str) -> None:
        private = folder / PRIVATE
        private.mkdir(parents=True, exist_ok=True)
        private.chmod(0o700)
        self.path = private / "ledger.db"
        self._lock = os.open(private / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise InputError(
                f"Another run is writing to {str(folder)!r}. Wait for it, or give another folder.",
                rule="folder-in-use",
            ) from None
        try:
            self.db = self._opened(key)
        except sqlite3.DatabaseError as error:
            os.close(self._lock)
            raise ArtifactError(
                f"The ledger of {str(folder)!r} cannot be used: {error}. Free disk space, or "
                f"delete {PRIVATE}/ledger.db: everything is then read again."
            ) from None

    def _opened(self, key: str) -> sqlite3.Connection:
        self.path.touch(mode=0o600)
        self.path.chmod(0o600)
        db = sqlite3.connect(self.path, isolation_level=None)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA cache_size = -65536")
        db.executescript(_TABLES)
        known = db.execute("SELECT value FROM meta WHERE name = 'key'").fetchone()
        if known is None or known[0] != key:
            db.executescript("DELETE FROM inspected; DELETE FROM meta;")
            db.execute("INSERT INTO meta VALUES ('key', ?)", (key,))
        return db

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.db.close()
        os.close(self._lock)
        if isinstance(error, sqlite3.OperationalError):  # a full disk, a file system gone read-only
            raise ArtifactError(
                f"The ledger of {str(self.path.parent.parent)!r} cannot be written: {error}. Free disk "
                "space, and run the same command again: it goes on where it stopped."
            ) from None

    def many(self, statement: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """Run one statement for many rows, a bounded number in each transaction."""
        waiting: list[tuple[Any, ...]] = []
        for row in rows:
            waiting.append(row)
            if len(waiting) >= _BATCH:
                self._write(statement, waiting)
                waiting = []
        self._write(statement, waiting)

    def _write(self, statement: str, rows: list[tuple[Any, ...]]) -> None:
        self.db.execute("BEGIN")
        self.db.executemany(statement, rows)
        self.db.execute("COMMIT")

    def run(self, statement: str, values: tuple[Any, ...] = ()) -> None:
        """Run one statement."""
        self.db.execute(statement, values)

    def rows(self, statement: str, values: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query, a batch in memory at a time.

        The query's tables must not be changed while it is read.
        """
        cursor = self.db.cursor().execute(statement, values)
        while rows := cursor.fetchmany(_BATCH):
            yield from rows

    def count(self, statement: str, values: tuple[Any, ...] = ()) -> int:
        """Return the one number of a query."""
        return int(self.db.execute(statement, values).fetchone()[0])

    def reject(self, rejections: Iterable[Rejection]) -> None:
        """Note why items were left out."""
        self.many(
            "INSERT OR IGNORE INTO rejection VALUES (?, ?, ?)",
            ((storable(r.item), r.rule, storable(r.reason)) for r in rejections),
        )

    def doubt(self, doubts: Iterable[Doubt]) -> None:
        """Note why studies should be looked at."""
        self.many(
            "INSERT OR IGNORE INTO doubt VALUES (?, ?, ?, ?)",
            ((d.study_id, d.rule, d.reason, d.weight) for d in doubts),
        )

    def inspected(self, item: str, mark: str) -> Mapping[str, Any] | None:
        """Return what an earlier look at this item found, if nothing about it has changed.

        What does not fit its checksum is as good as not there: the disk has changed it.
        """
        row = self.db.execute(
            "SELECT seen, crc FROM inspected JOIN inspected_sum USING (item) "
            "WHERE item = ? AND mark = ?",
            (item, mark),
        ).fetchone()
        if row is None or _crc(row[0]) != row[1]:
            return None
        return dict(json.loads(row[0]))

    def keep_inspected(self, item: str, mark: str, seen: Mapping[str, Any]) -> None:
        """Keep what a look at this item found, for this run and later ones."""
        text = json.dumps(seen)
        self.db.execute("BEGIN")
        self.db.execute("INSERT OR REPLACE INTO inspected VALUES (?, ?, ?)", (item, mark, text))
        self.db.execute("INSERT OR REPLACE INTO inspected_sum VALUES (?, ?)", (item, _crc(text)))
        self.db.execute("COMMIT")


def _crc(text: str) -> int:
    return zlib.crc32(text.encode("utf-8", "surrogatepass"))
