"""The tables of an index in PostgreSQL: a schema of its own, made once, checked whenever opened.

::

    files            what an index's folder holds beside its table: manifest.json, streams.json, …
    studies          number, study_id, the facets, and what tells a row from its successor
    texts            the whole study, and its report's words with their counts
    vectors_STREAM   unit vectors; `finish` adds an index over them once there are many
    words            for BM25: the studies that hold a word, thousands a row; made by `finish`
    word_blocks      what `words` was made from
    rejections       what the latest run left out, and why

A study that is written again gets a new number, larger than all before, and numbers become visible
in their order, as one writer writes at a time: what came since `finish` is what has a larger one.
"""

from collections.abc import Mapping
from typing import Any

from medfinder.errors import ConfigError, InputError, Mismatch
from medfinder.index.postgres_link import Address, Link, check_extension
from medfinder.index.schema import Stream
from medfinder.studies import FACETS, schema

_WRITING, _FINISHING = 0x6D656466, 0x6D656467  # of advisory locks, with the schema's oid
_INLINE = 1_900  # numbers of a vector that fits into a page of 8 KiB with the rest of its row
_MOST = 16_000  # numbers of a vector that the type can hold
_TREES = ("patient_id", "sex", "age", "study_date", "manufacturer", "body_part", "split", "source",
          "language", "n_slices")  # fmt: skip
_LISTS = ("findings_present", "findings_absent", "findings_uncertain", "findings_placed")


def column_types() -> dict[str, str]:
    """Return the facets' columns with their types; text is ordered by its bytes, as elsewhere."""
    import pyarrow as pa

    types = {
        pa.string(): 'text COLLATE "C"',
        pa.int32(): "integer",
        pa.float64(): "double precision",
        pa.list_(pa.string()): 'text[] COLLATE "C"',
    }
    arrow = schema()
    return {name: types[arrow.field(name).type] for name in FACETS}


def make_tables(link: Link, streams: Mapping[str, Stream]) -> None:
    """Make the tables that are missing, all or none.

    Raises:
        ConfigError: pgvector is missing or too old, or a vector is too long for it.
        InputError: The schema holds something else.
    """
    for name, stream in streams.items():
        if stream.dim > _MOST:
            raise ConfigError(
                f"Stream {name!r} has dimension {stream.dim}; pgvector holds up to {_MOST}. Use an "
                "index in a folder, or another encoder."
            )
    with link.session() as connection, connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", (_FINISHING, link.address.schema))  # fmt: skip
        _make_extension(connection)
        check_extension(connection, link.address)
        _make(connection, link.address, streams)


def _make_extension(connection: Any) -> None:
    import psycopg

    found = connection.execute("SELECT 1 FROM pg_extension WHERE extname = 'vector'").fetchone()
    if found is None:
        # Whoever may not do that is told by `check_extension` what is missing.
        try:
            with connection.transaction():
                connection.execute("CREATE EXTENSION IF NOT EXISTS vector SCHEMA public")
        except psycopg.Error:
            return
        own = connection.execute("SHOW search_path").fetchone()[0]
        connection.execute(f"SET search_path = {own}, public")


def _make(connection: Any, address: Address, streams: Mapping[str, Stream]) -> None:
    there = _tables(connection, address)
    if there and "files" not in there:
        raise InputError(
            f"The schema of {str(address)!r} holds other tables; an index has one of its own. Name "
            "another with ?schema=NAME; it is made where it is missing.",
            rule="bad-location",
        )
    if "studies" in there:
        return
    facets = column_types()
    needed = {n for n in FACETS if not schema().field(n).nullable}
    columns = ", ".join(
        f'"{name}" {kind}{" NOT NULL" if name in needed else ""}' for name, kind in facets.items()
    )
    keys = "".join(f", key_{name} bigint" for name in streams)
    connection.execute(f'CREATE SCHEMA IF NOT EXISTS "{address.schema}"')
    connection.execute(
        'CREATE TABLE files (name text COLLATE "C" PRIMARY KEY, content bytea NOT NULL, '
        "written bigint NOT NULL)"
    )
    connection.execute("CREATE SEQUENCE stamps")
    connection.execute("CREATE SEQUENCE numbers")
    # It has no stop words of its own: those are taken off here, by one list for both languages.
    connection.execute(
        "CREATE TEXT SEARCH DICTIONARY stems (TEMPLATE = pg_catalog.snowball, Language = english)"
    )
    connection.execute(
        f"CREATE TABLE studies (number bigint PRIMARY KEY, {columns}, volume_hash text NOT NULL, "
        f"row_digest text NOT NULL, n_words integer{keys}, UNIQUE (study_id))"
    )
    for name in _TREES:
        connection.execute(f'CREATE INDEX ON studies ("{name}")')
    for name in _LISTS:
        connection.execute(f'CREATE INDEX ON studies USING gin ("{name}")')
    connection.execute(
        "CREATE TABLE texts (number bigint PRIMARY KEY REFERENCES studies ON DELETE CASCADE, "
        "study json NOT NULL, terms text[], counts smallint[])"
    )
    for name, stream in streams.items():
        connection.execute(
            f"CREATE TABLE vectors_{name} (number bigint PRIMARY KEY REFERENCES studies "
            f"ON DELETE CASCADE, vector vector({stream.dim}) NOT NULL)"
        )
        if stream.dim <= _INLINE:  # beside its number, not in a table of long values
            connection.execute(f"ALTER TABLE vectors_{name} ALTER vector SET STORAGE PLAIN")
    connection.execute(
        'CREATE TABLE words (term text COLLATE "C", block integer, postings bytea NOT NULL, '
        "PRIMARY KEY (term, block))"
    )
    connection.execute(
        "CREATE TABLE word_blocks (block integer PRIMARY KEY, n bigint NOT NULL, sum numeric NOT NULL, "
        "n_texts bigint NOT NULL, n_words bigint NOT NULL)"
    )
    connection.execute(
        'CREATE TABLE rejections (item text COLLATE "C", rule text COLLATE "C", '
        'reason text COLLATE "C")'
    )


def check_tables(connection: Any, address: Address, streams: Mapping[str, Stream]) -> None:
    """Raise unless the tables are those that this version makes.

    Raises:
        ConfigError: pgvector is missing or too old.
        Mismatch: A table or a column is missing, or a vector has another length.
    """
    check_extension(connection, address)
    wanted = {
        "files": {"name", "content", "written"},
        "studies": {"number", *FACETS, "volume_hash", "row_digest", "n_words"}
        | {f"key_{name}" for name in streams},
        "texts": {"number", "study", "terms", "counts"},
        "words": {"term", "block", "postings"},
        "rejections": {"item", "rule", "reason"},
        "word_blocks": {"block", "n", "sum", "n_texts", "n_words"},
        **{f"vectors_{name}": {"number", "vector"} for name in streams},
    }
    there = _tables(connection, address)
    lengths = dict(
        connection.execute(
            "SELECT c.relname::text, a.atttypmod FROM pg_attribute a JOIN pg_class c "
            "ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE n.nspname = %s AND a.attname = 'vector' AND c.relkind = 'r'",
            (address.schema,),
        ).fetchall()
    )
    held = {name: set(there.get(name, ())) for name in wanted}
    if held != wanted or any(
        lengths[f"vectors_{name}"] != stream.dim for name, stream in streams.items()
    ):
        raise Mismatch(
            "The table of this index has other columns than this version of MedFinder writes. "
            "Run 'medfinder index' into a new schema."
        )


def _tables(connection: Any, address: Address) -> dict[str, list[str]]:
    """Return table → its columns."""
    rows = connection.execute(
        "SELECT c.relname::text, coalesce(array_agg(a.attname::text) FILTER (WHERE a.attnum > 0 "
        "AND NOT a.attisdropped), '{}') FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "LEFT JOIN pg_attribute a ON a.attrelid = c.oid "
        "WHERE n.nspname = %s AND c.relkind IN ('r', 'p', 'v', 'm', 'f') GROUP BY 1",
        (address.schema,),
    ).fetchall()
    return dict(rows)


def link_to(location: str) -> Link:
    """Return a link to the schema of an index, finished or not.

    Raises:
        InputError: There is no such schema, or it holds something else.
    """
    link = Link(Address.of(location))
    if not link.read(lambda connection: is_there(connection, link.address)):
        raise InputError(
            f"There is no index at {str(link.address)!r}: the database has no such schema, or "
            "another program's. Check the URL, and the name behind '?schema='.",
            rule="bad-location",
        )
    return link


def is_there(connection: Any, address: Address) -> bool:
    """Tell whether the schema holds an index, finished or not."""
    return "files" in _tables(connection, address)


def lock_writing(connection: Any) -> None:
    """Let one transaction at a time write rows; a killed holder lets go with its connection."""
    connection.execute(
        "SELECT pg_advisory_xact_lock(%s, 'studies'::regclass::oid::bigint::bit(32)::integer)",
        (_WRITING,),
    )


def try_lock_finishing(connection: Any) -> bool:
    """Take the lock of the session that finishes, if nobody has it."""
    found = connection.execute(
        "SELECT pg_try_advisory_lock(%s, 'studies'::regclass::oid::bigint::bit(32)::integer)",
        (_FINISHING,),
    ).fetchone()
    return bool(found[0])


def clean(value: Any) -> Any:
    """Return text as the server can hold it: no zero, no half of a character."""
    if isinstance(value, str):
        return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [clean(one) for one in value]
    return value
