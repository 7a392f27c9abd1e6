"""The files of an index that lies in a database: rows of the table ``files``, by name."""

import contextlib
import io
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

from medfinder.index.postgres_link import Link
from medfinder.place import Entry

T = TypeVar("T")
_WRITE = (
    "INSERT INTO files VALUES (%s, %s, nextval('stamps')) ON CONFLICT (name) DO UPDATE "
    "SET content = excluded.content, written = excluded.written"
)


class PostgresPlace:
    """Files by name, as `medfinder.place.Place` says; a file of two megabytes is a large one.

    Args:
        link: To the database.
        prefix: Before every name; "" or ending with "/".
        connection: One in whose transaction everything is done; None for one each.
    """

    def __init__(self, link: Link, prefix: str = "", connection: Any = None) -> None:
        self._link = link
        self._prefix = prefix
        self._connection = connection

    def __str__(self) -> str:
        return str(self._link.address)

    def __repr__(self) -> str:
        return f"PostgresPlace({str(self)!r})"

    @property
    def url(self) -> str:
        """What opens it again, perhaps with a password: not to be shown."""
        return self._link.address.location

    def within(self, connection: Any) -> "PostgresPlace":
        """Return the place as part of the connection's transaction."""
        return PostgresPlace(self._link, self._prefix, connection)

    def at(self, name: str) -> "PostgresPlace":
        """As `Place` says."""
        return PostgresPlace(self._link, f"{self._prefix}{name.strip('/')}/", self._connection)

    def read(self, name: str) -> bytes:
        """As `Place` says."""
        found = self._ask(
            lambda c: c.execute(
                "SELECT content FROM files WHERE name = %s", (self._prefix + name,), binary=True
            ).fetchone()
        )
        if found is None:
            raise FileNotFoundError(f"There is no {self._prefix}{name} in {str(self)!r}.")
        return bytes(found[0])

    def open(self, name: str) -> IO[bytes]:
        """As `Place` says; the bytes are held in memory."""
        return io.BytesIO(self.read(name))

    @contextlib.contextmanager
    def write(self, name: str) -> Iterator[IO[bytes]]:
        """As `Place` says."""
        with tempfile.SpooledTemporaryFile(max_size=1 << 24) as file:
            yield file
            file.seek(0)
            self._put(name, file.read())

    def entry(self, name: str) -> Entry | None:
        """As `Place` says."""
        found = self._ask(
            lambda c: c.execute(
                "SELECT length(content), written FROM files WHERE name = %s", (self._prefix + name,)
            ).fetchone()
        )
        return None if found is None else Entry(name, found[0], str(found[1]))

    def mark(self, name: str) -> str | None:
        """As `Place` says."""
        found = self.entry(name)
        return None if found is None else found.mark

    def list(self, under: str = "") -> Iterator[Entry]:
        """As `Place` says."""
        start = self._prefix + (f"{under.strip('/')}/" if under.strip("/") else "")
        rows = self._ask(
            lambda c: c.execute(
                "SELECT name, length(content), written FROM files WHERE starts_with(name, %s)",
                (start,),
            ).fetchall()
        )
        for name, size, written in rows:
            yield Entry(name[len(self._prefix) :], size, str(written))

    def delete(self, name: str) -> None:
        """As `Place` says."""
        self._do(lambda c: c.execute("DELETE FROM files WHERE name = %s", (self._prefix + name,)))

    def fetch(self, name: str, to: Path) -> None:
        """As `Place` says."""
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes(self.read(name))

    def store(self, source: Path, name: str) -> None:
        """As `Place` says."""
        self._put(name, source.read_bytes())

    def _put(self, name: str, content: bytes) -> None:
        self._do(lambda c: c.execute(_WRITE, (self._prefix + name, content)))

    def _ask(self, work: Callable[[Any], T]) -> T:
        return work(self._connection) if self._connection is not None else self._link.read(work)

    def _do(self, work: Callable[[Any], T]) -> T:
        return work(self._connection) if self._connection is not None else self._link.write(work)
