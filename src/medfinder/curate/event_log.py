"""An append-only log of events in one SQLite file: each bound to the one before, none ever changed.

Knows nothing of what the events mean. Beside the log stand the leases, which are no events: who
works on what right now, forgotten when their time is over.
"""

import contextlib
import hashlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medfinder.errors import ArtifactError, Mismatch

ORIGIN = "0" * 64
"""What stands for the hash before the first event."""
_BUSY_S = 30.0  # how long one writer waits for another

# "INSERT OR REPLACE" removes rows without asking a DELETE trigger: the number and the hash before
# must be those that follow, so that it finds nothing to replace.
_TABLES = """
CREATE TABLE IF NOT EXISTS events (
    number INTEGER PRIMARY KEY,
    at TEXT NOT NULL,
    reader TEXT NOT NULL,
    kind TEXT NOT NULL,
    study_id TEXT NOT NULL,
    before TEXT NOT NULL,
    after TEXT NOT NULL,
    previous TEXT NOT NULL,
    hash TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS leases (
    study_id TEXT NOT NULL,
    reader TEXT NOT NULL,
    until_s REAL NOT NULL,
    PRIMARY KEY (study_id, reader)
);
CREATE TRIGGER IF NOT EXISTS events_are_not_changed BEFORE UPDATE ON events
BEGIN SELECT RAISE(ABORT, 'events are never changed'); END;
CREATE TRIGGER IF NOT EXISTS events_are_not_removed BEFORE DELETE ON events
BEGIN SELECT RAISE(ABORT, 'events are never removed'); END;
CREATE TRIGGER IF NOT EXISTS events_follow_each_other BEFORE INSERT ON events
WHEN NEW.number IS NOT (SELECT coalesce(max(number), 0) + 1 FROM events)
  OR NEW.previous IS NOT coalesce(
      (SELECT hash FROM events ORDER BY number DESC LIMIT 1), printf('%064d', 0))
BEGIN SELECT RAISE(ABORT, 'an event follows the last one'); END;
"""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened.

    Attributes:
        number: 1 for the first; without gaps.
        at: UTC, ISO 8601 with microseconds.
        reader: Who, as they wrote their name.
        kind: What, such as ``"decided"``.
        study_id: On which study; "" where it is about none.
        before: What stood before, and what was shown; plain JSON types.
        after: What stands now; plain JSON types.
        previous: `hash` of the event before; `ORIGIN` for the first.
        hash: SHA-256 over all the other fields, 64 hex digits.
    """

    number: int
    at: str
    reader: str
    kind: str
    study_id: str
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    previous: str
    hash: str


class EventLog:
    """The log in one file; safe for several threads and processes at once.

    An event is on the disk when its turn ends (write-ahead log, full sync): a
    process that is killed loses the turn it is in, as a whole, and nothing else.

    Args:
        path: The SQLite file; made by the first turn.
        now: Seconds since 1970; a test may turn the clock.
    """

    def __init__(self, path: Path, now: Callable[[], float]) -> None:
        self.path = path
        self._now = now
        self._is_ready = False

    @contextlib.contextmanager
    def turn(self) -> Iterator["Turn"]:
        """Hold the log alone, from reading it to writing it; nothing is written on an error.

        Raises:
            Mismatch: The file is no event log.
            ArtifactError: It cannot be written: disk full, no permission, another writer hangs.
        """
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield Turn(connection, self._now)
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def after(self, number: int = 0, head: str = ORIGIN) -> list[Event]:
        """Return the events after one that is known, in order, each checked.

        Args:
            number: Of the event that is known; 0 for none.
            head: Its hash.

        Raises:
            Mismatch: The file is no event log; an event was changed, removed or put in between, of
                which the first is named; or the event that is known is no longer there.
        """
        if not self.path.exists():
            if number > 0:
                raise _not_the_one(number)
            return []
        with self._open() as connection:
            return _events(connection, number, head)

    def leases(self) -> list[tuple[str, str]]:
        """Return (study_id, reader) of every lease that still holds; none where there is no log."""
        if not self.path.exists():
            return []
        with self._open() as connection:
            return Turn(connection, self._now).leases()

    def verify(self) -> tuple[int, str]:
        """Read every event, check its hash and what it is bound to, and return the last.

        A log whose end was cut off is a log that ends earlier: to find that out, keep the number
        and hash that this returns somewhere else.

        Returns:
            The number and hash of the last event; (0, `ORIGIN`) for a log without events.

        Raises:
            Mismatch: As `after` says.
        """
        events = self.after()
        return (events[-1].number, events[-1].hash) if events else (0, ORIGIN)

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        is_new = not self.path.exists()
        try:
            with contextlib.closing(
                sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None)
            ) as connection:
                connection.execute("PRAGMA synchronous = FULL")
                if not self._is_ready or is_new:
                    self._prepare(connection)
                yield connection
        except sqlite3.OperationalError as error:
            raise ArtifactError(
                f"The log of the review cannot be used - {self.path.name} - {error} - look at the "
                "disk's space, the folder's permissions and other programs that hold the file."
            ) from None
        except sqlite3.DatabaseError:
            raise Mismatch(
                f"The log of the review cannot be read - {self.path.name} - expected the SQLite "
                "file that a review wrote - take it from a backup."
            ) from None

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Make the tables, and the journal that readers and a writer can use at once."""
        deadline = time.monotonic() + _BUSY_S
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError:  # another opens it too: SQLite does not wait for that
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        connection.executescript(_TABLES)
        self._is_ready = True


class Turn:
    """The log while one writer holds it; made by `EventLog.turn`."""

    def __init__(self, connection: sqlite3.Connection, now: Callable[[], float]) -> None:
        self._connection = connection
        self._now = now

    def after(self, number: int, head: str) -> list[Event]:
        """Return the events after one that is known, as `EventLog.after` does."""
        return _events(self._connection, number, head)

    def append(
        self,
        reader: str,
        kind: str,
        study_id: str,
        before: Mapping[str, Any],
        after: Mapping[str, Any],
    ) -> Event:
        """Add an event, and return it."""
        last = self._connection.execute(
            "SELECT number, hash FROM events ORDER BY number DESC LIMIT 1"
        ).fetchone() or (0, ORIGIN)
        at = datetime.fromtimestamp(self._now(), UTC).isoformat(timespec="microseconds")
        unbound = Event(last[0] + 1, at, reader, kind, study_id, before, after, last[1], "")
        event = Event(
            unbound.number, at, reader, kind, study_id, before, after, last[1], _hash_of(unbound)
        )
        self._connection.execute(
            "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (event.number, at, reader, kind, study_id, _json(before), _json(after), last[1], event.hash),
        )  # fmt: skip
        return event

    def leases(self) -> list[tuple[str, str]]:
        """Return (study_id, reader) of every lease that still holds."""
        rows = self._connection.execute(
            "SELECT study_id, reader FROM leases WHERE until_s > ?", (self._now(),)
        )
        return [(study_id, reader) for study_id, reader in rows]

    def lease(self, study_id: str, reader: str, lease_s: float) -> None:
        """Let `reader` hold a study for `lease_s` seconds from now, and forget what is over."""
        self._connection.execute("DELETE FROM leases WHERE until_s <= ?", (self._now(),))
        self._connection.execute(
            "INSERT OR REPLACE INTO leases VALUES (?, ?, ?)",
            (study_id, reader, self._now() + lease_s),
        )

    def release(self, study_id: str, reader: str) -> None:
        """End a lease, where there is one."""
        self._connection.execute(
            "DELETE FROM leases WHERE study_id = ? AND reader = ?", (study_id, reader)
        )


def _events(connection: sqlite3.Connection, number: int, head: str) -> list[Event]:
    known = connection.execute("SELECT hash FROM events WHERE number = ?", (number,)).fetchone()
    if number > 0 and known != (head,):
        raise _not_the_one(number)
    found = []
    for event in _read(connection, number):
        sound = event.number == number + 1 and event.previous == head
        if not sound or event.hash != _hash_of(event):
            raise Mismatch(
                f"The log of the review was tampered with at event {event.number} - expected each "
                "event to be bound to the one before it - take the log from a backup."
            )
        number, head = event.number, event.hash
        found.append(event)
    return found


def _read(connection: sqlite3.Connection, number: int) -> list[Event]:
    rows = connection.execute(
        "SELECT number, at, reader, kind, study_id, before, after, previous, hash FROM events "
        "WHERE number > ? ORDER BY number",
        (number,),
    )
    try:
        return [
            Event(number, at, who, kind, what, json.loads(before), json.loads(after), previous, own)
            for number, at, who, kind, what, before, after, previous, own in rows
        ]
    except (ValueError, TypeError):  # TypeError: of a damaged page, where nothing stands
        raise Mismatch(
            "The log of the review was tampered with - an event does not hold JSON - take the log "
            "from a backup."
        ) from None


def _not_the_one(number: int) -> Mismatch:
    return Mismatch(
        f"The log of the review is not the one it was - expected event {number} to be as it was "
        "read before - take the log from a backup, and start again."
    )


def _hash_of(event: Event) -> str:
    text = _json(
        [event.number, event.at, event.reader, event.kind, event.study_id, event.before,
         event.after, event.previous]
    )  # fmt: skip
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
