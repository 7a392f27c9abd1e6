"""What turns filled tables into a finished index: words turned around, centres, HNSW, the manifest.

All of it is one transaction: whoever is killed amid it has changed nothing.
"""

# ruff: noqa: S608 - names of tables come from here, filters are written anew by postgres_where

import dataclasses
import hashlib
import json
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfinder import __version__
from medfinder.artifact import Manifest, write_manifest
from medfinder.index.exact import direction, inverse_lengths
from medfinder.index.gallery import mean_of
from medfinder.index.postgres_link import Link
from medfinder.index.postgres_place import PostgresPlace
from medfinder.index.postgres_schema import try_lock_finishing
from medfinder.index.postgres_words import index_words
from medfinder.index.schema import IndexConfig, Stream, table_schema

_WAIT_S = 0.2
_CHUNK = 16_384
_STALE = 0.1  # share of rows that came or went since, above which HNSW is made anew
_QUERIES = 128
_BUDGETS = (40, 64, 100, 160, 250, 400, 640, 1000, 1600, 2500, 4000)
_MOST_EF = 1000  # of pgvector; beyond that it scans on
_HALVES = 4000  # the longest vector that HNSW takes, in halves
_MEMORY_MIB = 2048  # for building HNSW, where it needs that much


@dataclasses.dataclass(frozen=True, slots=True)
class Derived:
    """What `finish` made of a column.

    Attributes:
        centre: (dim,) that scores are centred on.
        index: Name of the HNSW index; None where the column is searched exactly.
        origin: (dim,) the centre when the index was made.
        budget: Rows to take from it for a query.
        recall: Recall at 10 measured with that budget, on sampled rows.
        n: Rows when it was made.
        until: The largest number then.
    """

    centre: NDArray[np.float32]
    index: str | None = None
    origin: NDArray[np.float32] | None = None
    budget: int = 0
    recall: float = 1.0
    n: int = 0
    until: int = -1

    def near(
        self, connection: Any, column: str, query: NDArray[np.float32], k: int, only: str
    ) -> list[Any]:
        """Return (study_id, vector) of the rows that HNSW finds, the best by the present centre.

        Args:
            query: (dim,) of length 1.
            only: ``" WHERE …"``, or "".
        """
        assert self.origin is not None
        most = max(self.budget, 8 * k)
        _set_locally(
            connection,
            {
                "hnsw.ef_search": min(most, _MOST_EF),
                "hnsw.iterative_scan": "relaxed_order",
                "hnsw.max_scan_tuples": 2_000_000_000,
                "hnsw.scan_mem_multiplier": 4,
                "work_mem": "64MB",
                "enable_seqscan": "off",
                "enable_bitmapscan": "off",
                "enable_hashjoin": "off",
                "enable_mergejoin": "off",
            },
        )
        join = f" JOIN studies USING (number){only}" if only else ""
        at = _moved(self.origin)
        rows = connection.execute(
            "SELECT study_id, vector FROM (SELECT number, vector FROM (SELECT number FROM "
            f"vectors_{column}{join} ORDER BY {at} <=> %(there)s::vector::halfvec LIMIT %(most)s) found "
            f"JOIN vectors_{column} USING (number) "
            "ORDER BY (vector - %(centre)s::vector) <=> %(here)s::vector LIMIT %(wanted)s) best "
            "JOIN studies USING (number)",
            {
                "there": direction(query, self.origin).astype(np.float32),
                "here": direction(query, self.centre).astype(np.float32),
                "centre": self.centre,
                "most": most,
                "wanted": max(4 * k, k + 64),
            },
            binary=True,
        ).fetchall()
        return [(name, vector) for name, vector in rows]


def derived_of(place: PostgresPlace, column: str, dim: int) -> Derived:
    """Read what `finish` made of a column; a centre of zero before the first."""
    try:
        said = json.loads(place.read(f"derived/{column}.json"))
    except FileNotFoundError:
        return Derived(np.zeros(dim, np.float32))
    for name in ("centre", "origin"):
        if said[name] is not None:
            said[name] = np.array(said[name], np.float32)
    return Derived(**said)


def finish(
    link: Link,
    streams: Mapping[str, Stream],
    config: IndexConfig,
    parents: Mapping[str, str],
    duration_s: float,
    package_version: str,
    settings: Mapping[str, Any],
) -> Manifest:
    """Bring everything derived up to the rows, and write the manifest, last."""
    with link.session() as connection:
        while not try_lock_finishing(connection):  # asked, not waited for: waiting holds a snapshot
            time.sleep(_WAIT_S)
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        place = PostgresPlace(link, connection=connection)
        n, until = connection.execute(
            "SELECT count(*), coalesce(max(number), -1) FROM studies"
        ).fetchone()
        index_words(connection)
        _write(place, "derived/text.json", until)
        counts = {"studies": int(n)}
        kept = []
        for name, stream in streams.items():
            counts[name], derived = _finish_column(connection, place, name, stream, config)
            kept.append(derived.index)
        manifest = Manifest(
            stage="index",
            config={
                "streams": {name: dataclasses.asdict(s) for name, s in streams.items()},
                "settings": dataclasses.asdict(config),
                "content": content_of(connection, streams),
                **settings,
            },
            parents=dict(parents),
            counts=counts,
            seed=config.seed,
            duration_s=duration_s,
            package_version=package_version or __version__,
        )
        write_manifest(place, manifest)
        tables = ", ".join(["studies", "texts", "words", *(f"vectors_{s}" for s in streams)])
        connection.execute(f"ANALYZE {tables}")
        connection.execute("COMMIT")
        _drop_others(connection, link.address.schema, kept)
    return manifest


def _finish_column(
    connection: Any, place: PostgresPlace, column: str, stream: Stream, config: IndexConfig
) -> tuple[int, Derived]:
    """Compute the column's centre and, where it is large, its HNSW index."""
    n, until = connection.execute(
        f"SELECT count(*), coalesce(max(number), -1) FROM vectors_{column}"
    ).fetchone()
    before = derived_of(place, column, stream.dim)
    mean = mean_of_column(connection, column, stream, config)
    if n < config.exact_below or stream.dim > _HALVES:
        made = Derived(mean, n=int(n), until=int(until))
    elif before.index is not None and _is_fresh(connection, column, before, int(n)):
        made = dataclasses.replace(before, centre=mean)
    else:
        made = _index(connection, column, stream.dim, config, mean, int(n), int(until))
    said = dataclasses.asdict(made)
    for name in ("centre", "origin"):
        if said[name] is not None:
            said[name] = [float(value) for value in said[name]]
    _write(place, f"derived/{column}.json", said)
    return int(n), made


def mean_of_column(
    connection: Any, column: str, stream: Stream, config: IndexConfig
) -> NDArray[np.float32]:
    """Return what scores are centred on, (dim,); zero where they are not."""
    at_least = config.centre_from if stream.is_centred else sys.maxsize
    vectors = (block for _, block in _numbered(connection, column, stream.dim))
    return mean_of(vectors, stream.dim, at_least)


def _is_fresh(connection: Any, column: str, before: Derived, n: int) -> bool:
    """Whether few rows came or went since the index was made; new ones are in it already."""
    (left,) = connection.execute(
        f"SELECT count(*) FROM vectors_{column} WHERE number <= %s", (before.until,)
    ).fetchone()
    return max(before.n - int(left), n - int(left)) <= _STALE * before.n


def _index(
    connection: Any,
    column: str,
    dim: int,
    config: IndexConfig,
    centre: NDArray[np.float32],
    n: int,
    until: int,
) -> Derived:
    """Make the HNSW index of the centred vectors, and choose how far to look.

    Where no budget reaches the recall that is asked, the column is searched exactly.
    """
    name = f"near_{column}_{until}_{n}"
    needed = int(n * (2 * dim + 400) / 2**20 * 1.2) + 64
    _set_locally(connection, {"maintenance_work_mem": f"{min(needed, _MEMORY_MIB)}MB"})
    connection.execute(f"DROP INDEX IF EXISTS {name}")
    _make(
        connection,
        f"CREATE INDEX {name} ON vectors_{column} USING hnsw ({_moved(centre)} halfvec_cosine_ops)",
    )
    queries, truth = _truth(connection, column, dim, centre, n, config.seed)
    for budget in _BUDGETS:
        tried = Derived(centre, name, centre, budget, 0.0, n, until)
        recall = _recall(connection, column, tried, queries, truth)
        if recall >= config.recall:
            return dataclasses.replace(tried, recall=recall)
    connection.execute(f"DROP INDEX {name}")
    return Derived(centre, n=n, until=until)


def _make(connection: Any, statement: str) -> None:
    """Run a statement that makes an index; alone, where there is no room for several processes.

    They share the memory that they build in, of which a container often has 64 MB.
    """
    import psycopg

    try:
        with connection.transaction():
            connection.execute(statement)
    except (psycopg.errors.DiskFull, psycopg.errors.OutOfMemory):
        _set_locally(connection, {"max_parallel_maintenance_workers": 0})
        connection.execute(statement)


def _recall(
    connection: Any,
    column: str,
    tried: Derived,
    queries: NDArray[np.float32],
    truth: NDArray[np.int64],
) -> float:
    """Return which share of the true neighbours is among the ten best rows that are found."""
    found = 0
    for query, best in zip(queries, truth, strict=True):
        names = [name for name, _ in tried.near(connection, column, query, 11, "")]
        there = connection.execute(
            "SELECT count(*) FROM studies WHERE number = ANY(%s) AND study_id = ANY(%s)",
            (best.tolist(), names),
        ).fetchone()
        found += there[0]
    return float(found / truth.size)


def _truth(
    connection: Any,
    column: str,
    dim: int,
    centre: NDArray[np.float32],
    n: int,
    seed: int,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return sampled vectors, (Q, dim), and the numbers of each one's ten nearest others."""
    random = np.random.default_rng(seed)
    chosen = np.sort(random.choice(n, min(n, _QUERIES), replace=False))
    sampled, own, seen = [], [], 0
    for numbers, block in _numbered(connection, column, dim):
        here = chosen[(chosen >= seen) & (chosen < seen + len(block))] - seen
        sampled.append(block[here])
        own.append(numbers[here])
        seen += len(block)
    queries, mine = np.concatenate(sampled), np.concatenate(own)
    towards = np.array([direction(query, centre) for query in queries], np.float32)
    k = min(10, n - 1)
    best = np.full((len(queries), k), -np.inf, np.float32)
    found = np.zeros((len(queries), k), np.int64)
    for numbers, block in _numbered(connection, column, dim):
        scores = (towards @ block.T - (towards @ centre)[:, None]) * inverse_lengths(block, centre)
        scores[mine[:, None] == numbers[None]] = -np.inf
        both = np.hstack([best, scores])
        which = np.hstack([found, np.broadcast_to(numbers, scores.shape)])
        top = np.argpartition(-both, k - 1, axis=1)[:, :k]
        best, found = np.take_along_axis(both, top, 1), np.take_along_axis(which, top, 1)
    return queries, found


def _numbered(
    connection: Any, column: str, dim: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Yield numbers, (n,), and vectors, (n, dim), in the order of numbers."""
    # A row of COPY's binary form, all of one size: count, length, number, length, dim, 0, values.
    row = np.dtype(
        [("n", ">i2"), ("a", ">i4"), ("number", ">i8"), ("b", ">i4"), ("dim", ">i2"), ("z", ">i2"),
         ("vector", ">f4", (dim,))]
    )  # fmt: skip
    header, held = 19, b""
    query = (
        f"COPY (SELECT number, vector FROM vectors_{column} ORDER BY number) "
        "TO STDOUT (FORMAT BINARY)"
    )
    with connection.cursor() as cursor, cursor.copy(query) as copy:
        parts: list[bytes] = []
        size = -header
        for part in copy:
            parts.append(bytes(part))
            size += len(part)
            if size >= _CHUNK * row.itemsize:
                held, header = b"".join(parts)[header:], 0
                n = len(held) // row.itemsize
                yield _split(held, row, n)
                parts = [held[n * row.itemsize :]]
                size = len(parts[0])
        held = b"".join(parts)[header:]
        n = len(held) // row.itemsize  # two bytes that say "the end" are left
        if n:
            yield _split(held, row, n)


def _split(
    held: bytes, row: np.dtype[Any], n: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    found = np.frombuffer(held, row, n)
    return found["number"].astype(np.int64), found["vector"].astype(np.float32)


def _moved(origin: NDArray[np.float32]) -> str:
    """Return the expression that the index is made of, as queries must repeat it."""
    dim = len(origin)
    if not origin.any():
        return f"(vector::halfvec({dim}))"
    listed = ",".join(repr(float(value)) for value in origin)
    return f"((vector - '[{listed}]'::vector({dim}))::halfvec({dim}))"


def content_of(connection: Any, streams: Mapping[str, Stream]) -> str:
    """Return 16 hex digits over all rows and vectors, those of an index in a folder."""
    keys = [f"key_{name}" for name in streams]
    found = hashlib.sha256()
    vectors: list[list[int]] = [[] for _ in keys]
    with connection.cursor(name="content") as cursor:
        cursor.itersize = 20_000
        cursor.execute(f"SELECT {', '.join(['row_digest', *keys])} FROM studies ORDER BY study_id")
        before = ""
        for digest, *values in cursor:
            found.update(f"{before}{digest}".encode())
            before = "\n"
            for held, value in zip(vectors, values, strict=True):
                held.append(value or 0)
    for held in vectors:
        found.update(np.array(held, "<i8").tobytes())
    found.update(str(table_schema(streams).names).encode())
    return found.hexdigest()[:16]


def _write(place: PostgresPlace, name: str, said: object) -> None:
    """Write a record, unless it says so already."""
    content = json.dumps(said).encode()
    try:
        if place.read(name) == content:
            return
    except FileNotFoundError:
        pass
    with place.write(name) as file:
        file.write(content)


def _drop_others(connection: Any, schema: str, kept: list[str | None]) -> None:
    """Drop HNSW indexes that nothing refers to any more; not while they are read."""
    import psycopg

    rows = connection.execute(
        "SELECT indexname::text FROM pg_indexes WHERE schemaname = %s AND indexname LIKE 'near\\_%%'",
        (schema,),
    ).fetchall()
    connection.execute("SET lock_timeout = '2s'")
    for (name,) in rows:
        if name not in kept:
            try:
                connection.execute(f'DROP INDEX "{name}"')
            except psycopg.errors.LockNotAvailable:  # the next `finish` will
                continue


def _set_locally(connection: Any, settings: Mapping[str, str | int]) -> None:
    """Change settings until the transaction's end."""
    asked = ", ".join(f"set_config('{name}', '{value}', true)" for name, value in settings.items())
    connection.execute(f"SELECT {asked}")
