"""How a database is reached: its URL, and connections that threads and processes can share.

Messages name the server without its password, and never repeat what the server said: that may hold
what a row holds.
"""

import contextlib
import dataclasses
import os
import re
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from urllib.parse import SplitResult, parse_qsl, quote, urlsplit, urlunsplit

from medfinder.errors import ArtifactError, ConfigError, InputError, MissingExtra

T = TypeVar("T")

SCHEMES = ("postgresql", "postgres")
SCHEMA = "medfinder"
"""Schema of an index whose URL names none."""
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_SECRETS = ("password", "sslpassword", "passfile")
_LEAST = (0, 8)
"""Of pgvector: the first that goes on looking where a filter leaves too little."""
_STATEMENT = "120s"
# A writer may have to wait for another's batch, or for a large column's index.
_WRITE = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL statement_timeout = 0"
_IDLE = 8  # connections kept for the next who asks
_CONNECT_S = 10
_INHERITED: list[Any] = []
"""Connections of the process that this one was forked from; kept, so that nothing ends them."""


def is_database(location: object) -> bool:
    """Tell a database's URL from a folder or a bucket."""
    return isinstance(location, str) and location.partition("://")[0].lower() in SCHEMES


@dataclasses.dataclass(frozen=True, slots=True)
class Address:
    """Which schema of which database.

    Attributes:
        url: For the driver, perhaps with a password.
        schema: Which holds one index and nothing else.
    """

    url: str = dataclasses.field(repr=False)
    schema: str

    @classmethod
    def of(cls, location: str) -> "Address":
        """Read ``postgresql://[USER@]HOST[:PORT]/DATABASE[?schema=NAME]``.

        What else PostgreSQL's own URLs may hold, such as ``sslmode``, is handed on.

        Raises:
            InputError: It is no such URL, or the schema's name is not plain (rule ``bad-location``).
        """
        try:
            parts = urlsplit(location)
            given = parse_qsl(parts.query, keep_blank_values=True)
        except ValueError:
            raise _bad("it cannot be read") from None
        if parts.scheme.lower() not in SCHEMES:
            raise _bad("it begins otherwise")
        schemas = [value for name, value in given if name == "schema"]
        if len(schemas) > 1:
            raise _bad("it names two schemas")
        schema = schemas[0] if schemas else SCHEMA
        if not _NAME.fullmatch(schema) or schema.startswith("pg_"):
            raise _bad(
                f"the schema {schema!r} is no plain name (small letters, digits and '_', "
                "not beginning with a digit or 'pg_')"
            )
        rest = [(name, value) for name, value in given if name != "schema"]
        return cls(_joined(parts, parts.netloc, rest), schema)

    @property
    def location(self) -> str:
        """The whole URL, perhaps with a password: not to be shown."""
        parts = urlsplit(self.url)
        given = parse_qsl(parts.query, keep_blank_values=True)
        return _joined(parts, parts.netloc, [*given, ("schema", self.schema)])

    def __str__(self) -> str:
        """Return the URL without its password."""
        parts = urlsplit(self.url)
        user, at, host = parts.netloc.rpartition("@")
        shown = [
            (name, value)
            for name, value in parse_qsl(parts.query, keep_blank_values=True)
            if name not in _SECRETS
        ]
        netloc = f"{user.partition(':')[0]}{at}{host}"
        return _joined(parts, netloc, [*shown, ("schema", self.schema)])


def _joined(parts: SplitResult, netloc: str, query: list[tuple[str, str]]) -> str:
    said = "&".join(f"{name}={quote(value, safe='/:,')}" for name, value in query)
    text = urlunsplit((parts.scheme, netloc, parts.path, said, ""))
    # Without a host two slashes are dropped, and without them it is no URL.
    return text if "://" in text else text.replace(":", "://", 1)


def _bad(problem: str) -> InputError:
    return InputError(
        f"This address of a database cannot be used: {problem}. Expected "
        "postgresql://[USER@]HOST[:PORT]/DATABASE?schema=NAME; a password belongs into PGPASSWORD or "
        "~/.pgpass.",
        rule="bad-location",
    )


class Link:
    """Connections to one database, each lent to one thread at a time.

    A process that was forked makes its own. A connection that is lost while it is used is replaced
    once, and the work done again: so work must be such that doing it twice is doing it once.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self._idle: list[Any] = []
        self._process = os.getpid()
        self._lock = threading.Lock()
        weakref.finalize(self, _close_all, self._idle, self._process)

    def __getstate__(self) -> dict[str, Any]:
        return {"address": self.address}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["address"])  # type: ignore[misc]

    def read(self, work: Callable[[Any], T]) -> T:
        """Return what `work` makes of a connection that sees one moment of the database.

        Raises:
            ArtifactError: The server does not answer, or not as it should.
        """
        return self._twice(work, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")

    def write(self, work: Callable[[Any], T]) -> T:
        """Run `work` in one transaction: all of it is kept, or nothing.

        Raises:
            ArtifactError: The server does not answer, or does not let anything be written.
        """
        return self._twice(work, _WRITE)

    @contextlib.contextmanager
    def session(self) -> Iterator[Any]:
        """Lend a connection of one's own, outside of any transaction, closed at the end.

        Raises:
            ArtifactError: The server does not answer, or not as it should.
        """
        import psycopg

        try:
            connection = self._connect()
            with contextlib.closing(connection):
                connection.execute(
                    "SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0"
                )
                yield connection
        except psycopg.Error as error:
            raise self.explained(error) from None

    def close(self) -> None:
        """Let go of the connections that nobody uses."""
        with self._lock:
            idle = self._idle[:]
            self._idle.clear()
        for connection in idle:
            connection.close()

    def _twice(self, work: Callable[[Any], T], begin: str) -> T:
        import psycopg

        for is_last in (False, True):
            connection = None
            try:
                connection = self._take(is_new=is_last)
                connection.execute(begin)
                found = work(connection)
                connection.execute("COMMIT")
            except BaseException as error:
                if connection is not None:
                    self._after_failure(connection)
                if not isinstance(error, psycopg.Error):
                    raise
                if not is_last and _is_lost(error, connection):
                    self.close()  # the others were lost with it
                    continue
                raise self.explained(error) from None
            self._give_back(connection)
            return found
        raise AssertionError

    def _after_failure(self, connection: Any) -> None:
        import psycopg

        try:
            connection.execute("ROLLBACK")
        except psycopg.Error:
            connection.close()
            return
        self._give_back(connection)

    def _take(self, is_new: bool) -> Any:
        with self._lock:
            if self._process != os.getpid():  # closing the parent's here would end them there
                _INHERITED.extend(self._idle)
                self._idle, self._process = [], os.getpid()
                weakref.finalize(self, _close_all, self._idle, self._process)
            if self._idle and not is_new:
                return self._idle.pop()
        return self._connect()

    def _give_back(self, connection: Any) -> None:
        with self._lock:
            if not connection.closed and len(self._idle) < _IDLE:
                self._idle.append(connection)
                return
        connection.close()

    def _connect(self) -> Any:
        psycopg, adapter = _driver()
        given = {} if "connect_timeout=" in self.address.url else {"connect_timeout": _CONNECT_S}
        try:
            connection = psycopg.connect(
                self.address.url, autocommit=True, application_name="medfinder", **given
            )
        except psycopg.ProgrammingError:  # the driver cannot read the URL, which it would repeat
            raise _bad("PostgreSQL's driver cannot read it") from None
        try:
            self._set_up(connection)
            with contextlib.suppress(psycopg.ProgrammingError):  # no pgvector yet: see `begin`
                adapter.register_vector(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _set_up(self, connection: Any) -> None:
        found = connection.execute(
            "SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace "
            "WHERE e.extname = 'vector'"
        ).fetchone()
        path = ", ".join(f'"{name}"' for name in [self.address.schema, *(found or ())])
        for setting in (
            f"search_path = {path}",
            "standard_conforming_strings = on",  # which the quoting of filters relies on
            "client_encoding = 'UTF8'",
            f"statement_timeout = '{_STATEMENT}'",
            "idle_in_transaction_session_timeout = '10min'",  # a writer that hangs lets others on
            "tcp_keepalives_idle = 30",  # and one whose machine is gone is noticed
            "tcp_keepalives_interval = 10",
            "tcp_keepalives_count = 3",
        ):
            connection.execute(f"SET {setting}")

    def explained(self, error: Exception) -> ArtifactError | InputError:
        """Return what a user can do about an error of the driver, without the server's words."""
        state = getattr(error, "sqlstate", None) or _state_of_refusal(str(error))
        where = f"the index {str(self.address)!r}"
        if state.startswith("28"):
            return ConfigError(
                f"The server refuses this user for {where}. Check the user, and the password in "
                "PGPASSWORD or ~/.pgpass.",
                rule="database",
            )
        if state == "3D000":
            return InputError(
                f"There is no such database for {where}. Make it with 'createdb', or check the URL.",
                rule="bad-location",
            )
        if state == "42501":
            return ConfigError(
                f"This user may not do that in {where}. Searching needs USAGE on the schema and SELECT "
                "on its tables; indexing needs CREATE on the database.",
                rule="database",
            )
        if state == "25006":
            return ArtifactError(
                f"The server of {where} only lets itself be read, as a standby does. Write to its "
                "primary."
            )
        if state.startswith("53"):
            return ArtifactError(
                f"The server of {where} has no room left ({_word(error)}). Give it disk, memory or "
                "connections, and run the same command again; it goes on."
            )
        if state in ("42P01", "42703", "3F000", "42704"):
            return ArtifactError(
                f"A part of {where} is missing ({_word(error)}). Run 'medfinder index' into a new "
                "schema, or restore this one from a backup."
            )
        if state and not state.startswith(("08", "57P")):
            return ArtifactError(
                f"The server of {where} could not do what was asked ({_word(error)}). Its log says "
                "more; run the same command again."
            )
        return ArtifactError(
            f"The server of {where} does not answer, tried twice. Check that it runs and can be "
            "reached, and run the same command again; it goes on."
        )


def _close_all(idle: list[Any], process: int) -> None:
    if process == os.getpid():
        for connection in idle:
            connection.close()


def _state_of_refusal(text: str) -> str:
    """Return the code of an error that came before there was a connection, and so without one."""
    refused = r'authentication failed|no password supplied|no pg_hba.conf entry|role ".*" does not'
    if re.search(refused, text):
        return "28000"
    if re.search(r'database ".*" does not exist', text):
        return "3D000"
    if "too many clients" in text or "too many connections" in text:
        return "53300"
    return ""


def _word(error: Exception) -> str:
    """Return the error's kind, such as ``DiskFull``: never its text, which may hold a row."""
    return type(error).__name__


def _is_lost(error: Exception, connection: Any) -> bool:
    import psycopg

    if connection is not None and (connection.closed or connection.broken):
        return True
    state = getattr(error, "sqlstate", None) or ""
    is_connection = isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError))
    return is_connection and (not state or state.startswith(("08", "57P")))


def _driver() -> tuple[Any, Any]:
    try:
        import pgvector.psycopg
        import psycopg
    except ImportError:
        raise MissingExtra(
            "An index in PostgreSQL needs psycopg and pgvector. Install them: pip install "
            '"medfinder[postgres]".'
        ) from None
    return psycopg, pgvector.psycopg


def check_extension(connection: Any, address: Address) -> None:
    """Raise unless the database has pgvector, in a version that can be used.

    Raises:
        ConfigError: It is missing, or too old (rule ``database``).
    """
    found = connection.execute(
        "SELECT extversion FROM pg_extension WHERE extname = 'vector'"
    ).fetchone()
    least = ".".join(map(str, _LEAST))
    if found is None:
        raise ConfigError(
            f"The database of {str(address)!r} has no extension 'vector'; expected pgvector {least} or "
            "later. Install pgvector on the server, and have an administrator run "
            "CREATE EXTENSION vector in this database.",
            rule="database",
        )
    version = tuple(int(part) for part in re.findall(r"\d+", found[0])[:2])
    if version < _LEAST:
        raise ConfigError(
            f"The database of {str(address)!r} has pgvector {found[0]}; expected {least} or later. "
            "Install it, and have an administrator run ALTER EXTENSION vector UPDATE.",
            rule="database",
        )
