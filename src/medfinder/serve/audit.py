"""Who did what with which studies: an append-only log in which every entry seals the one before it.

An entry holds ids alone: never a query, a report or a note. Its hash is SHA-256 over its own fields
and the hash of the entry before it, so that a change, a deletion, an insertion or another order is
found by `AuditLog.verify`. A log cut short at its end is whole in itself; that, and a log rewritten
as a whole, is found by an anchor: the number and hash of an entry that was exported before.
"""

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sql
from sqlalchemy.engine import Connection

from medfinder.errors import InputError
from medfinder.serve.database import Database, audit, now

ORIGIN = "0" * 64
"""What stands before the first entry."""
AGAIN_S = 10 * 60.0
"""How long the same account's looks at the same things are one entry: a viewer asks by the slice."""
MAX_OBJECTS = 1000
_PAGE = 1000
_HELD = 10_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry.

    Attributes:
        seq: 1 for the first; no number is left out.
        at: UTC, ISO 8601 with microseconds.
        account: Name of the account, ``"local"`` without a sign-in, ``"-"`` for nobody known.
        action: Such as ``"search"``, ``"get_slice"`` or ``"sign_in"``.
        objects: Ids of what was acted on or shown.
        request_id: Of the request, as in its answer's header.
        previous: Hash of the entry before.
        hash: Of all the above.
    """

    seq: int
    at: str
    account: str
    action: str
    objects: tuple[str, ...]
    request_id: str
    previous: str
    hash: str

    @property
    def expected_hash(self) -> str:
        """SHA-256, as hex digits, over the canonical JSON of everything but `hash`."""
        fields = asdict(self)
        del fields["hash"]
        text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def line(self) -> str:
        """Return the entry as a line of JSON."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Anchor:
    """An entry's number and hash, kept elsewhere: what was before it cannot change unseen."""

    seq: int
    hash: str

    @classmethod
    def parse(cls, text: str) -> "Anchor":
        """Read ``NUMBER:HASH``.

        Raises:
            InputError: It is none (rule ``bad-anchor``).
        """
        number, _, digest = text.strip().partition(":")
        is_hash = len(digest) == 64 and not set(digest) - set("0123456789abcdef")
        if not (number.isascii() and number.isdigit() and len(number) < 19 and is_hash):
            raise InputError(
                "The anchor cannot be read: expected NUMBER:HASH with 64 hex digits, as "
                "'medfinder audit verify' prints it. Copy it whole.",
                rule="bad-anchor",
            )
        return cls(int(number), digest)

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a log is as it was written.

    Attributes:
        is_intact: Every entry seals the one before it, and every anchor was met.
        n_entries: Entries that were read.
        first_bad: Number of the first entry that is missing or not what it was; None where intact.
        last: Anchor of the last entry before `first_bad`; None for an empty log.
    """

    is_intact: bool
    n_entries: int
    first_bad: int | None
    last: Anchor | None


class AuditLog:
    """The log in a database. Safe to use from several threads and processes."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._recent: OrderedDict[tuple[str, str, str], str] = OrderedDict()

    async def record(
        self,
        account: str,
        action: str,
        objects: Sequence[str] = (),
        request_id: str = "",
        *,
        is_look: bool = False,
    ) -> None:
        """Append an entry; it is on disk when this returns.

        Args:
            objects: At most `MAX_OBJECTS` are kept; what was left out is counted in the last.
            is_look: One more look at the same objects within `AGAIN_S` is no new entry.
        """
        kept = _bounded(objects)
        key = (account, action, json.dumps(kept))
        since = now(-AGAIN_S)
        if is_look:
            with self._lock:
                if self._recent.get(key, "") > since:
                    return
        await self._database.writing(
            lambda c: append(c, account, action, kept, request_id, since if is_look else None)
        )
        if is_look:
            with self._lock:
                self._recent[key] = now()
                self._recent.move_to_end(key)
                while len(self._recent) > _HELD:
                    self._recent.popitem(last=False)

    def entries(
        self, offset: int = 0, limit: int = 100, account: str = "", action: str = ""
    ) -> tuple[list[Entry], int]:
        """Return entries, newest first, and how many there are of this account and action."""
        asked = [
            column == value
            for column, value in ((audit.c.account, account), (audit.c.action, action))
            if value
        ]

        def listing(connection: Connection) -> tuple[list[Entry], int]:
            count = sql.select(sql.func.count()).select_from(audit).where(*asked)
            page = audit.select().where(*asked).order_by(audit.c.seq.desc())
            rows = connection.execute(page.offset(offset).limit(limit)).mappings()
            return [_entry(row) for row in rows], connection.execute(count).scalar_one()

        return self._database.read(listing)

    def every(self, after: int = 0) -> Iterator[Entry]:
        """Yield all entries with higher numbers than `after`, oldest first, in small reads."""
        while page := self.page(after):
            yield from page
            after = page[-1].seq

    def page(self, after: int) -> list[Entry]:
        """Return the next entries with higher numbers than `after`, oldest first."""
        query = audit.select().where(audit.c.seq > after).order_by(audit.c.seq).limit(_PAGE)
        return self._database.read(
            lambda c: [_entry(row) for row in c.execute(query).mappings()],
        )

    def verify(self, anchors: Iterable[Anchor] = ()) -> Verdict:
        """Read the whole log and tell whether it is as it was written."""
        return verify(self.every(), anchors)


def append(
    connection: Connection,
    account: str,
    action: str,
    objects: Sequence[str] = (),
    request_id: str = "",
    unless_since: str | None = None,
) -> None:
    """Append an entry within a writing transaction.

    Args:
        unless_since: Append nothing where the same is recorded of the same objects since then.
    """
    if connection.dialect.name == "postgresql":
        # One writer at a time from here to the end of its transaction; readers go on.
        connection.execute(sql.text("LOCK TABLE audit IN EXCLUSIVE MODE"))
    text = json.dumps(list(objects))
    if unless_since is not None:
        again = sql.select(audit.c.seq).where(
            audit.c.account == account,
            audit.c.action == action,
            audit.c.objects == text,
            audit.c.at > unless_since,
        )
        if connection.execute(again.limit(1)).first() is not None:
            return
    newest = sql.select(audit.c.seq, audit.c.hash).order_by(audit.c.seq.desc()).limit(1)
    before = connection.execute(newest).first()
    seq, previous = (before.seq + 1, before.hash) if before else (1, ORIGIN)
    entry = Entry(seq, now(), account, action, tuple(objects), request_id, previous, "")
    fields = asdict(entry) | {"objects": text, "hash": entry.expected_hash}
    connection.execute(audit.insert().values(**fields))


def verify(entries: Iterable[Entry], anchors: Iterable[Anchor] = ()) -> Verdict:
    """Tell whether entries, oldest first, are a whole log up to the last of the anchors."""
    wanted = {anchor.seq: anchor.hash for anchor in anchors}
    n_entries, first_bad, last = 0, None, None
    previous = ORIGIN
    for n_entries, entry in enumerate(entries, 1):
        if first_bad is not None:
            continue
        is_sound = (
            entry.seq == n_entries
            and entry.previous == previous
            and entry.hash == entry.expected_hash
            and wanted.get(entry.seq, entry.hash) == entry.hash
        )
        if is_sound:
            previous, last = entry.hash, Anchor(entry.seq, entry.hash)
        else:
            first_bad = n_entries
    if first_bad is None and wanted and max(wanted) > n_entries:
        first_bad = n_entries + 1  # the end was cut off
    return Verdict(first_bad is None, n_entries, first_bad, last)


def read_lines(lines: Iterable[str]) -> Iterator[Entry]:
    """Yield the entries of an export.

    Raises:
        InputError: A line is no entry (rule ``bad-export``).
    """
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            fields: dict[str, Any] = json.loads(line)
            entry = Entry(**(fields | {"objects": tuple(fields["objects"])}))
            if not isinstance(entry.seq, int):
                raise TypeError
        except (ValueError, TypeError, KeyError):
            raise InputError(
                f"Line {number} of the export is no entry of an audit log: expected JSON as "
                "'medfinder audit export' writes it. Export the log again.",
                rule="bad-export",
            ) from None
        yield entry


def _entry(row: Mapping[Any, Any]) -> Entry:
    fields = dict(row)
    try:
        objects = tuple(json.loads(fields["objects"]))
    except (ValueError, TypeError):  # whoever changed it is found by the hash
        objects = (str(fields["objects"]),)
    return Entry(**(fields | {"objects": objects}))


def _bounded(objects: Sequence[str]) -> list[str]:
    kept = [str(each)[:200] for each in objects[:MAX_OBJECTS]]
    if len(objects) > MAX_OBJECTS:
        kept.append(f"and {len(objects) - MAX_OBJECTS} more")
    return kept
