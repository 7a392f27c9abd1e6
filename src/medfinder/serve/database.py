"""What the service remembers: accounts, sessions, collections, the audit log. SQLite or PostgreSQL.

Tables are declared here and used by the modules that their names tell. What blocks runs in a lane
of its own (`reading`, `writing`); the command line calls `read` and `write` directly.
"""

import contextlib
import os
import re
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sql
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    InterfaceError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.pool import ConnectionPoolEntry

from medfinder.errors import ArtifactError, ConfigError, InputError, Mismatch, MissingExtra
from medfinder.serve.faults import Refusal
from medfinder.serve.lanes import Lane

T = TypeVar("T")

SUFFIX = ".service.sqlite"
_BUSY_S = 15.0  # how long one process waits for another's write
_N_THREADS = 4
_DAMAGED = ("no such ", "Could not decode", "malformed")
"""How SQLite says that a table of this version, there when it was opened, or a text cannot be read."""
_LOCK_KEY = 0x6D656466  # of PostgreSQL's advisory lock while tables are made

metadata = sql.MetaData()


class Words(sql.TypeDecorator[str]):
    """Text as both databases can keep it: PostgreSQL has no zero, neither has halves of characters."""

    impl = sql.String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sql.Dialect) -> str | None:
        """Put a sign in the place of what cannot be kept."""
        if value is None:
            return None
        return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


_Id = Words(64)
_Time = sql.String(32)  # ISO 8601 in UTC, of one length, so that they sort as text

versions = sql.Table(
    "schema_version",
    metadata,
    sql.Column("version", sql.Integer, primary_key=True, autoincrement=False),
    sql.Column("at", _Time, nullable=False),
)
accounts = sql.Table(
    "accounts",
    metadata,
    sql.Column("account_id", _Id, primary_key=True),
    sql.Column("name", Words(80), nullable=False, unique=True),
    sql.Column("password", Words(400)),
    sql.Column("role", Words(20), nullable=False),
    sql.Column("sources", Words),
    sql.Column("is_active", sql.Boolean, nullable=False),
    sql.Column("subject", Words(600), unique=True),
    sql.Column("created", _Time, nullable=False),
)
sessions = sql.Table(
    "sessions",
    metadata,
    sql.Column("session_hash", _Id, primary_key=True),
    sql.Column(
        "account_id", sql.ForeignKey("accounts.account_id", ondelete="CASCADE"), nullable=False
    ),
    sql.Column("created", _Time, nullable=False),
    sql.Column("seen", _Time, nullable=False),
    sql.Index("sessions_account", "account_id"),
)
tokens = sql.Table(
    "tokens",
    metadata,
    sql.Column("token_id", _Id, primary_key=True),
    sql.Column("token_hash", _Id, nullable=False, unique=True),
    sql.Column(
        "account_id", sql.ForeignKey("accounts.account_id", ondelete="CASCADE"), nullable=False
    ),
    sql.Column("name", Words(80), nullable=False),
    sql.Column("role", Words(20), nullable=False),
    sql.Column("created", _Time, nullable=False),
    sql.Column("expires", _Time),
    sql.Column("used", _Time),
    sql.Column("revoked", _Time),
    sql.Index("tokens_account", "account_id"),
)
attempts = sql.Table(
    "attempts",
    metadata,
    sql.Column("attempt_id", _Id, primary_key=True),
    sql.Column("account_key", _Id, nullable=False),
    sql.Column("address_key", _Id, nullable=False),
    sql.Column("at", _Time, nullable=False),
    sql.Index("attempts_at", "at"),
)
sign_ins = sql.Table(
    "sign_ins",
    metadata,
    sql.Column("state_hash", _Id, primary_key=True),
    sql.Column("browser_hash", _Id, nullable=False),
    sql.Column("nonce", Words(100), nullable=False),
    sql.Column("verifier", Words(150), nullable=False),
    sql.Column("created", _Time, nullable=False),
)
audit = sql.Table(
    "audit",
    metadata,
    sql.Column("seq", sql.BigInteger, primary_key=True, autoincrement=False),
    sql.Column("at", _Time, nullable=False),
    sql.Column("account", Words(80), nullable=False),
    sql.Column("action", Words(80), nullable=False),
    sql.Column("objects", Words, nullable=False),
    sql.Column("request_id", Words(64), nullable=False),
    sql.Column("previous", _Id, nullable=False),
    sql.Column("hash", _Id, nullable=False),
    sql.Index("audit_account", "account", "seq"),
    sql.Index("audit_action", "action", "seq"),
)
collections = sql.Table(
    "collections",
    metadata,
    sql.Column("collection_id", _Id, primary_key=True),
    sql.Column("owner_id", _Id, nullable=False),  # no foreign key: "local" has no account
    sql.Column("name", Words(200), nullable=False),
    sql.Column("description", Words, nullable=False),
    sql.Column("created", _Time, nullable=False),
    sql.Column("changed", _Time, nullable=False),
    sql.Index("collections_owner", "owner_id"),
)
collection_studies = sql.Table(
    "collection_studies",
    metadata,
    sql.Column(
        "collection_id",
        sql.ForeignKey("collections.collection_id", ondelete="CASCADE"),
        primary_key=True,
    ),
    sql.Column("study_id", Words(200), primary_key=True),
    sql.Column("note", Words, nullable=False),
    sql.Column("added", _Time, nullable=False),
)
collection_shares = sql.Table(
    "collection_shares",
    metadata,
    sql.Column(
        "collection_id",
        sql.ForeignKey("collections.collection_id", ondelete="CASCADE"),
        primary_key=True,
    ),
    sql.Column(
        "account_id", sql.ForeignKey("accounts.account_id", ondelete="CASCADE"), primary_key=True
    ),
    sql.Column("permission", Words(10), nullable=False),
    sql.Index("collection_shares_account", "account_id"),
)
saved_searches = sql.Table(
    "saved_searches",
    metadata,
    sql.Column("search_id", _Id, primary_key=True),
    sql.Column("owner_id", _Id, nullable=False),
    sql.Column("name", Words(200), nullable=False),
    sql.Column("query", Words, nullable=False),
    sql.Column("created", _Time, nullable=False),
    sql.Index("saved_searches_owner", "owner_id"),
)


class Database:
    """A database that holds this version's tables. Safe to use from several threads and processes.

    Args:
        engine: Of a database that `open` has brought to this version.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lane = Lane("database", _N_THREADS)

    @classmethod
    def open(cls, where: str | Path) -> "Database":
        """Open a database, bring it to this version, and make a file that is not there.

        Args:
            where: A SQLite file, or a URL of PostgreSQL.

        Raises:
            ConfigError: It cannot be reached, made or understood.
            MissingExtra: PostgreSQL's driver is not installed.
            Mismatch: A newer version wrote it.
        """
        engine = sql.create_engine(_url(where), **_options(where))
        if engine.dialect.name == "sqlite":
            _keep_private(Path(where))
            event.listen(engine, "connect", _on_connect)
            event.listen(engine, "begin", _on_begin)
        try:
            with engine.execution_options(is_write=True).begin() as connection:
                _migrate(connection)
        except (SQLAlchemyError, OSError, UnicodeDecodeError):
            engine.dispose()
            # The driver's own text may repeat the URL, and with it the password.
            raise ConfigError(
                "The service's database (PostgreSQL) cannot be opened: expected a server that answers. "
                "Check the URL."
                if is_url(where)
                else f"The service's database {str(where)!r} cannot be opened: expected a file of a "
                "service that can be written. Check the path and its permissions; if it is damaged, put "
                "back a backup of it.",
                rule="database",
            ) from None
        except Mismatch:
            engine.dispose()
            raise
        return cls(engine)

    @property
    def kind(self) -> str:
        """``"sqlite"`` or ``"postgresql"``."""
        return self._engine.dialect.name

    @property
    def is_working(self) -> bool:
        """Tell whether a thread is at work, for an answer that may no longer be awaited."""
        return self._lane.is_running

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction that only reads.

        Raises:
            ArtifactError: The database's file is damaged.
        """
        with _told(), self._engine.begin() as connection:
            return work(connection)

    def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in one transaction: all of it is kept, or none.

        Raises:
            ArtifactError: The database's file is damaged.
        """
        with _told(), self._engine.execution_options(is_write=True).begin() as connection:
            return work(connection)

    async def reading(self, work: Callable[[Connection], T]) -> T:
        """Do as `read` does, without keeping the event loop waiting.

        Raises:
            Refusal: 503 when the database does not answer.
        """
        return await self._ask(lambda: self.read(work))

    async def writing(self, work: Callable[[Connection], T]) -> T:
        """Do as `write` does, without keeping the event loop waiting.

        Raises:
            Refusal: 503 when the database does not answer.
        """
        return await self._ask(lambda: self.write(work))

    async def _ask(self, work: Callable[[], T]) -> T:
        try:
            return await self._lane.run(work)
        except (OperationalError, InterfaceError, ArtifactError):  # its text may name the server
            raise Refusal(
                503,
                "NoDatabase",
                "The service's database does not answer.",
                "Try again in a moment, or tell whoever runs this service.",
                headers={"retry-after": "5"},
            ) from None

    def close(self) -> None:
        """Let go of connections and threads."""
        self._lane.close()
        self._engine.dispose()


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Say of a file that it is damaged; what else may be wrong mostly has classes of its own."""
    try:
        yield
    except (DatabaseError, UnicodeDecodeError) as error:  # the latter: SQLite names what is damaged
        is_damage = isinstance(error, OperationalError) and str(error.orig).startswith(_DAMAGED)
        if type(error) not in (DatabaseError, UnicodeDecodeError) and not is_damage:
            raise
        raise ArtifactError(
            "The service's database is damaged. Stop the service, and put back a backup of the file, or "
            "make a new one of what can still be read: sqlite3 FILE .recover | sqlite3 NEW."
        ) from None


def beside(index: Path) -> Path:
    """Return where an index's service keeps what it remembers, unless told otherwise."""
    index = index.absolute()
    return index.with_name(index.name + SUFFIX)


def is_url(where: str | Path) -> bool:
    """Tell a database's URL from a file."""
    return isinstance(where, str) and re.match(r"[a-z]+(\+[a-z]+)?://", where) is not None


def database_of(state: str | Path) -> str | Path:
    """Return the database that a user means by an index folder, a file or a URL.

    Raises:
        InputError: There is no such folder, and nobody could have meant a new file.
    """
    if is_url(state):
        return state
    path = Path(state)
    if path.is_dir():
        return beside(path)
    if path.is_file() or path.name.endswith(SUFFIX):
        return path
    raise InputError(
        "There is no such index folder or database: expected a folder that 'medfinder index' "
        f"wrote, a file *{SUFFIX}, or a postgresql:// URL. Check the path.",
        rule="no-state",
    )


def now(offset_s: float = 0.0) -> str:
    """Return the time, or one `offset_s` seconds from it, as the database has it: UTC, ISO 8601."""
    at = datetime.now(UTC) + timedelta(seconds=offset_s)
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def new_id() -> str:
    """Return an id that nobody can guess, of 32 hex digits."""
    return secrets.token_hex(16)


def _url(where: str | Path) -> URL:
    if not is_url(where):
        return URL.create("sqlite", database=str(where))
    try:
        url = sql.make_url(str(where))
    except (ArgumentError, ValueError):
        raise _bad_url() from None
    if url.drivername in ("postgres", "postgresql", "postgresql+psycopg"):
        try:
            import psycopg
        except ImportError:
            raise MissingExtra(
                "PostgreSQL needs its driver: pip install 'medfinder[postgres]'"
            ) from None
        del psycopg
        return url.set(drivername="postgresql+psycopg")
    raise _bad_url()


def _bad_url() -> ConfigError:
    return ConfigError(
        "The database's URL cannot be used: expected postgresql://USER@HOST/NAME, or the path of a "
        "SQLite file. Write one of the two.",
        rule="database",
    )


def _options(where: str | Path) -> dict[str, Any]:
    if is_url(where):
        return {"pool_pre_ping": True, "pool_size": _N_THREADS, "hide_parameters": True}
    return {"connect_args": {"timeout": _BUSY_S}, "hide_parameters": True}


def _keep_private(path: Path) -> None:
    """Make the file, for its owner alone; what SQLite puts beside it takes over its mode."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise ConfigError(
            f"The service's database cannot be written: {error.strerror}. Check the folder's "
            "permissions, or name another place with --database.",
            rule="database",
        ) from None


def _on_connect(connection: sqlite3.Connection, _: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # transactions begin where `_on_begin` says
    for setting in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {setting}")


def _on_begin(connection: Connection) -> None:
    # A writer takes its place at once: one that read first could not wait for another's write.
    is_write = connection.get_execution_options().get("is_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if is_write else "BEGIN")


def _migrate(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":  # SQLite lets one writer in at a time by itself
        connection.execute(sql.text(f"SELECT pg_advisory_xact_lock({_LOCK_KEY})"))
    versions.create(connection, checkfirst=True)
    at = connection.execute(sql.select(sql.func.max(versions.c.version))).scalar() or 0
    if at > len(_MIGRATIONS):
        raise Mismatch(
            f"The service's database has version {at}; this MedFinder knows up to "
            f"{len(_MIGRATIONS)}. Install the newer MedFinder that wrote it."
        )
    for number, migration in enumerate(_MIGRATIONS[at:], at + 1):
        migration(connection)
        connection.execute(versions.insert().values(version=number, at=now()))


def _first_tables(connection: Connection) -> None:
    metadata.create_all(connection)
    for statement in _APPEND_ONLY[connection.dialect.name]:
        connection.exec_driver_sql(statement)


_MIGRATIONS: list[Callable[[Connection], None]] = [_first_tables]
"""From nothing to this version, one step a version; steps that were released are never changed."""

_REFUSAL = "the audit log is append-only"
_APPEND_ONLY = {
    "sqlite": [
        *(
            f"CREATE TRIGGER audit_no_{what.lower()} BEFORE {what} ON audit "
            f"BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END"
            for what in ("UPDATE", "DELETE")
        ),
        # INSERT OR REPLACE would delete without asking the trigger above.
        "CREATE TRIGGER audit_no_replace BEFORE INSERT ON audit "
        "WHEN EXISTS (SELECT 1 FROM audit WHERE seq = NEW.seq) "
        "BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END",
    ],
    "postgresql": [
        "CREATE FUNCTION medfinder_audit_refuse() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{_REFUSAL}'; END $$",
        "CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit "
        "FOR EACH STATEMENT EXECUTE FUNCTION medfinder_audit_refuse()",
    ],
}
