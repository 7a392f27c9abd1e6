"""An index in PostgreSQL with pgvector, for a site that runs one: the same methods, the same answers.

One schema is one index: see `medfinder.index.postgres_schema` for its tables. Every method sees one
moment of the database, and every `add` is one transaction.
"""

# ruff: noqa: S608 - names of tables come from here, filters are written anew by postgres_where

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from medfinder.artifact import MANIFEST, Manifest, read_manifest
from medfinder.errors import ArtifactError, UnknownName
from medfinder.index import folder as files
from medfinder.index import schema as columns
from medfinder.index.exact import FLOAT32_SLACK, direction, rescore
from medfinder.index.interface import UNFINISHED, Stored
from medfinder.index.postgres_finish import Derived, derived_of, finish
from medfinder.index.postgres_link import Address, Link
from medfinder.index.postgres_place import PostgresPlace
from medfinder.index.postgres_schema import (
    check_tables,
    clean,
    link_to,
    lock_writing,
    make_tables,
)
from medfinder.index.postgres_where import condition, explain_server, is_about_filter
from medfinder.index.postgres_words import Stemmer, counted, score
from medfinder.index.query import MAX_TIES, Ranking, best, check_k, check_names, check_words
from medfinder.index.schema import IndexConfig, Stream, VectorBatch
from medfinder.place import Place, local_folder
from medfinder.records import Finding, Rejection, Study
from medfinder.registry import unknown
from medfinder.studies import FACETS, from_row, to_row

T = TypeVar("T")

_EXACT_BELOW = 10_000
_NEAR = 64  # rows fetched beyond the k asked for: what 32 bits may have put in the wrong order
_FEW = 32  # a filter that keeps one row in 32 is scored whole
_FIRST = 256  # texts looked up before a filter is evaluated for all


class PostgresIndex:
    """An index in one schema of a PostgreSQL database.

    Made by `create` or `open`. Safe to use from several threads and after a fork; several processes
    may read and write one index at a time. Every search sees all rows that were added before.
    """

    def __init__(self, link: Link, streams: Mapping[str, Stream], config: IndexConfig) -> None:
        self.streams = dict(streams)
        self.config = config
        self.place = PostgresPlace(link)
        self._link = link
        self._stemmer = Stemmer()
        self._derived: dict[str, tuple[str, Derived]] = {}
        self._lock = threading.Lock()

    # -- opening -----------------------------------------------------------------

    @classmethod
    def create(
        cls, location: str, streams: Mapping[str, Stream], config: IndexConfig | None = None
    ) -> "PostgresIndex":
        """Make an index, or go on with one that was begun with the same encoders.

        Args:
            location: ``postgresql://[USER@]HOST[:PORT]/DATABASE?schema=NAME``; the schema is made.
            streams: Stream → its encoder; at least one.
            config: None for the usual one, but exact below 10,000 vectors only: a server compares
                20,000 in three times the time that HNSW takes.

        Raises:
            ConfigError: The database has no pgvector, or does not let this user make tables.
            InputError: The URL cannot be used, or the schema holds other tables.
            Mismatch: The schema holds an index of other encoders, or of another version.
            UnknownName: There is no such stream.
        """
        checked = columns.check_streams(streams)
        link = Link(Address.of(location))
        make_tables(link, checked)
        files.begin(PostgresPlace(link), checked)
        link.read(lambda c: check_tables(c, link.address, checked))
        return cls(link, checked, config or IndexConfig(exact_below=_EXACT_BELOW))

    @classmethod
    def open(cls, location: str) -> "PostgresIndex":
        """Open a finished index.

        Raises:
            InputError: There is no such schema.
            Incomplete: It has not been finished.
            Mismatch: It is no index, or of a schema this version does not read.
            ArtifactError: The server does not answer.
        """
        link = link_to(location)
        streams, config = files.streams_of(read_manifest(PostgresPlace(link), "index"))
        link.read(lambda c: check_tables(c, link.address, streams))
        return cls(link, streams, config)

    @property
    def location(self) -> str:
        """Where the index lies: its URL without the password."""
        return str(self.place)

    @property
    def folder(self) -> Path:
        """As `Index.folder`: it has none.

        Raises:
            InputError: Always.
        """
        return local_folder(self.place)

    def manifest(self) -> Manifest:
        """As `Index.manifest`."""
        return read_manifest(self.place, "index")

    def mark(self) -> str | None:
        """As `Index.mark`."""
        return self.place.mark(MANIFEST)

    @property
    def model_ids(self) -> dict[str, str]:
        """As `Index.model_ids`."""
        return {name: stream.model_id for name, stream in self.streams.items()}

    @property
    def encoder_names(self) -> dict[str, str]:
        """As `Index.encoder_names`."""
        return {name: stream.encoder for name, stream in self.streams.items()}

    @property
    def columns(self) -> tuple[str, ...]:
        """As `Index.columns`."""
        return FACETS

    @property
    def is_finished(self) -> bool:
        """As `Index.is_finished`."""
        try:
            read_manifest(self.place, "index")
        except ArtifactError:
            return False
        return True

    def check_model(self, stream: str, model_id: str) -> None:
        """As `Index.check_model`."""
        columns.check_model(model_id, stream, self._stream(stream))

    def close(self) -> None:
        """Let go of the connections."""
        self._link.close()

    def __repr__(self) -> str:
        models = ", ".join(f"{name}: {model}" for name, model in self.model_ids.items())
        return f"<Index {self.count():,} studies ({models})>"

    # -- writing -----------------------------------------------------------------

    def add(
        self, studies: Sequence[Study], vectors: Mapping[str, VectorBatch] | None = None
    ) -> int:
        """As `Index.add`: one transaction."""
        rows = columns.make_table(studies, self.streams, vectors or {})
        if not len(rows):
            return 0
        self._link.write(lambda connection: self._write(connection, studies, rows))
        return len(rows)

    def _write(self, connection: Any, studies: Sequence[Study], rows: Any) -> None:
        lock_writing(connection)
        ids = rows["study_id"].to_pylist()
        connection.execute("DELETE FROM studies WHERE study_id = ANY(%s)", (clean(ids),))
        numbers = [
            row[0]
            for row in connection.execute(
                "SELECT nextval('numbers') FROM generate_series(1, %s)", (len(ids),)
            )
        ]
        texts = [word or "" for word in rows["words"].to_pylist()]
        stems = self._stemmer.stems(connection, texts)
        n_words = [len(s) if text else None for s, text in zip(stems, texts, strict=True)]
        keys = [f"key_{name}" for name in self.streams]
        told = [*FACETS, "volume_hash", "row_digest"]
        facts = rows.select([*told, *keys]).to_pylist()
        names = ", ".join(f'"{name}"' for name in ["number", *told, "n_words", *keys])
        with connection.cursor() as cursor:
            with cursor.copy(f"COPY studies ({names}) FROM STDIN") as copy:
                for number, row, n in zip(numbers, facts, n_words, strict=True):
                    copy.write_row(
                        [
                            number,
                            *(clean(row[name]) for name in told),
                            n,
                            *(row[key] for key in keys),
                        ]
                    )
            with cursor.copy("COPY texts (number, study, terms, counts) FROM STDIN") as copy:
                for number, study, held, n in zip(numbers, studies, stems, n_words, strict=True):
                    terms, counts = counted(held) if n is not None else (None, None)
                    copy.write_row((number, json.dumps(to_row(study)), terms, counts))
            for name in self.streams:
                column = rows[name].combine_chunks()
                with cursor.copy(
                    f"COPY vectors_{name} (number, vector) FROM STDIN (FORMAT BINARY)"
                ) as copy:
                    copy.set_types(["int8", "vector"])
                    for number, key, row in zip(
                        numbers, rows[f"key_{name}"].to_pylist(), column, strict=True
                    ):
                        if key is not None:
                            copy.write_row((number, row.values.to_numpy()))

    def delete(self, ids: Sequence[str]) -> int:
        """As `Index.delete`."""
        if not ids:
            return 0

        def work(connection: Any) -> int:
            lock_writing(connection)
            done = connection.execute(
                "DELETE FROM studies WHERE study_id = ANY(%s)", (clean(list(ids)),)
            )
            return int(done.rowcount)

        return self._link.write(work)

    def finish(
        self,
        parents: Mapping[str, str] | None = None,
        duration_s: float = 0.0,
        package_version: str = "",
        settings: Mapping[str, Any] | None = None,
    ) -> Manifest:
        """As `Index.finish`: all of it in one transaction, so that readers see it at once.

        Searching goes on meanwhile; writers wait while a large column's index is made.
        """
        return finish(
            self._link,
            self.streams,
            self.config,
            parents or {},
            duration_s,
            package_version,
            settings or {},
        )

    # -- what the stage that fills it keeps beside it ------------------------------

    @property
    def is_changing(self) -> bool:
        """As `Index.is_changing`."""
        return self.place.mark(UNFINISHED) is not None

    def begin_changes(self) -> None:
        """As `Index.begin_changes`."""
        with self.place.write(UNFINISHED):
            pass

    def end_changes(self) -> None:
        """As `Index.end_changes`."""
        self.place.delete(UNFINISHED)

    def write_rejections(self, rejections: Sequence[Rejection]) -> str:
        """Keep what the latest run left out, and why, in the table ``rejections``; return where."""

        def work(connection: Any) -> None:
            connection.execute("LOCK TABLE rejections IN SHARE ROW EXCLUSIVE MODE")
            connection.execute("DELETE FROM rejections")
            with connection.cursor() as cursor, cursor.copy("COPY rejections FROM STDIN") as copy:
                for row in sorted(rejections, key=lambda r: (r.item, r.rule, r.reason)):
                    copy.write_row([clean(row.item), row.rule, clean(row.reason)])

        self._link.write(work)
        return f"the table {self._link.address.schema}.rejections"

    def read_rejections(self) -> list[Rejection]:
        """As `Index.read_rejections`."""
        rows = self._link.read(
            lambda c: c.execute(
                "SELECT item, rule, reason FROM rejections ORDER BY item, rule, reason"
            ).fetchall()
        )
        return [Rejection(*row) for row in rows]

    @property
    def regions(self) -> Place:
        """As `Index.regions`: rows of the table ``files``."""
        return self.place.at("regions")

    # -- looking up --------------------------------------------------------------

    def count(self, where: str | None = None) -> int:
        """As `Index.count`."""
        return self._filtered(where, lambda c, only: _one(c, f"SELECT count(*) FROM studies{only}"))

    def ids(self, where: str | None = None) -> list[str]:
        """As `Index.ids`."""
        return self._filtered(
            where,
            lambda c, only: _column(c, f"SELECT study_id FROM studies{only} ORDER BY study_id"),
        )

    def digests(self) -> dict[str, str]:
        """As `Index.digests`."""
        return {study_id: stored.digest for study_id, stored in self.study_hashes().items()}

    def study_hashes(self) -> dict[str, Stored]:
        """As `Index.study_hashes`."""
        has = "".join(f", key_{name} IS NOT NULL" for name in self.streams)
        rows = self._link.read(
            lambda c: c.execute(
                f"SELECT study_id, row_digest, volume_hash{has} FROM studies ORDER BY study_id"
            ).fetchall()
        )
        return {
            study_id: Stored(
                digest,
                volume_hash,
                frozenset(s for s, has_it in zip(self.streams, have, strict=True) if has_it),
            )
            for study_id, digest, volume_hash, *have in rows
        }

    def studies(self, ids: Sequence[str]) -> list[Study]:
        """As `Index.studies`."""
        found = self._by_id("study", "texts", ids)
        return [from_row(found[study_id]) for study_id in ids]

    def findings(self, ids: Sequence[str]) -> dict[str, tuple[Finding, ...]]:
        """As `Index.findings`."""
        found = self._by_id("study->'findings'", "texts", ids)
        return {
            study_id: tuple(Finding(**f) for f in found[study_id] or ())
            for study_id in dict.fromkeys(ids)
        }

    def vectors(self, column: str, ids: Sequence[str]) -> list[NDArray[np.float32] | None]:
        """As `Index.vectors`."""
        self._stream(column)
        found = self._by_id("vector", f"vectors_{column}", ids)
        return [None if found[i] is None else found[i].to_numpy() for i in ids]

    def centre(self, column: str) -> NDArray[np.float32]:
        """As `Index.centre`."""
        self._stream(column)
        return self._link.read(lambda c: self._derived_of(c, column).centre)

    def facets(self, column: str, where: str | None = None) -> dict[Any, int]:
        """As `Index.facets`."""
        if column not in FACETS:
            raise UnknownName(unknown("facet", column, list(FACETS)))
        value = f'unnest("{column}")' if column.startswith("findings_") else f'"{column}"'
        rows = self._filtered(
            where,
            lambda c, only: c.execute(
                f"SELECT {value}, count(*) FROM studies{only} GROUP BY 1", {}
            ).fetchall(),
        )
        return dict(sorted(rows, key=lambda item: (-item[1], str(item[0]))))

    # -- searching ---------------------------------------------------------------

    def search_vector(
        self,
        column: str,
        vector: NDArray[np.float32],
        k: int = 10,
        where: str | None = None,
        model_id: str | None = None,
    ) -> Ranking:
        """As `Index.search_vector`: exact below ``config.exact_below``, above that by HNSW.

        How far HNSW looks, `finish` chose for ``config.recall``; it looks on where a filter leaves
        too little, and a filter that leaves few rows has all of them scored.
        """
        stream = self._stream(column)
        check_k(k)
        if model_id is not None:
            columns.check_model(model_id, column, stream)
        query = columns.check_vectors(np.asarray(vector)[None], stream.dim, "query")[0]

        def search(connection: Any, only: str) -> Ranking:
            derived = self._derived_of(connection, column)
            towards = direction(query, derived.centre)
            rows = []
            if derived.index is not None and not (only and _are_few(connection, only, derived.n)):
                rows = derived.near(connection, column, query, k, only)
            if len(rows) < k:  # few are left, or the server has stopped looking
                rows = _exactly(connection, column, derived.centre, towards, k, only)
            if not rows:
                return []
            scores = rescore(np.array([v.to_numpy() for _, v in rows]), towards, derived.centre)
            return best([name for name, _ in rows], scores.tolist(), k)

        return self._filtered(where, search)

    def search_text(self, query: str, k: int = 10, where: str | None = None) -> Ranking:
        """As `Index.search_text`."""
        check_k(k)
        text = check_words(query)

        def search(connection: Any, only: str) -> Ranking:
            if only:  # on its own first, so that a bad filter is told even where no word matches
                connection.execute(f"SELECT 1 FROM studies{only} LIMIT 0", {})
            (stems,) = self._stemmer.stems(connection, [text])
            if not stems:
                return []
            numbers, scores = score(connection, stems)
            return _named(connection, numbers, scores, k, only)

        return self._filtered(where, search)

    def search_findings(
        self,
        present: Sequence[str] = (),
        absent: Sequence[str] = (),
        k: int = 10,
        where: str | None = None,
        match_all: bool = False,
    ) -> Ranking:
        """As `Index.search_findings`."""
        check_k(k)
        check_names(present, absent)
        asked = {
            column: clean(sorted(set(names)))
            for column, names in (("findings_present", present), ("findings_absent", absent))
            if names
        }
        has = "@>" if match_all else "&&"
        agree = " + ".join(
            f"(SELECT count(*) FROM unnest({column}) f WHERE f = ANY(%({column})s::text[]))"
            for column in asked
        )
        n = sum(map(len, asked.values()))

        def search(connection: Any, only: str) -> Ranking:
            conditions = [f"{column} {has} %({column})s::text[]" for column in asked]
            rows = connection.execute(
                f"SELECT study_id, agree FROM (SELECT study_id, {agree} AS agree, "
                "least(cardinality(findings_present), 1023) AS n_has "
                f"FROM studies{only}{' AND ' if only else ' WHERE '}{' AND '.join(conditions)}) found "
                "ORDER BY agree DESC, n_has, study_id LIMIT %(k)s",
                {**asked, "k": k},
            ).fetchall()
            return [(name, agreed / n) for name, agreed in rows]

        return self._filtered(where, search)

    # -- inside ------------------------------------------------------------------

    def _filtered(self, where: str | None, work: Callable[[Any, str], T]) -> T:
        """Return ``work(connection, " WHERE …")``; what the server says of the filter is explained."""
        import psycopg

        if where is None:
            return self._link.read(lambda connection: work(connection, ""))
        only = f" WHERE {condition(where)}"

        def checked(connection: Any) -> T:
            try:
                return work(connection, only)
            except psycopg.Error as error:
                if not is_about_filter(error.sqlstate):
                    raise
                raise explain_server(error.sqlstate, str(error)) from None

        return self._link.read(checked)

    def _derived_of(self, connection: Any, column: str) -> Derived:
        """Return what `finish` made of a column, read again where it has been made again."""
        mark = self.place.within(connection).mark(f"derived/{column}.json") or ""
        with self._lock:
            known = self._derived.get(column)
        if known is None or known[0] != mark:
            place = self.place.within(connection)
            known = (mark, derived_of(place, column, self.streams[column].dim))
            with self._lock:
                self._derived[column] = known
        return known[1]

    def _by_id(self, value: str, table: str, ids: Sequence[str]) -> dict[str, Any]:
        """Return study_id → a value of another table, None where that has no row.

        Raises:
            UnknownName: A study is not in the index.
        """
        if not ids:
            return {}

        def work(connection: Any) -> tuple[dict[str, Any], int]:
            rows = connection.execute(
                f"SELECT study_id, {value} FROM studies LEFT JOIN {table} USING (number) "
                "WHERE study_id = ANY(%s)",
                (clean(list(dict.fromkeys(ids))),),
                binary=table.startswith("vectors"),
            ).fetchall()
            found = dict(rows)
            complete = all(study_id in found for study_id in ids)
            return found, 0 if complete else _one(connection, "SELECT count(*) FROM studies")

        found, n = self._link.read(work)
        missing = [study_id for study_id in ids if study_id not in found]
        if missing:
            raise UnknownName(
                f"There is no study {missing[0]!r} in this index of {n:,}. "
                "Take a study_id from a search result."
            )
        return found

    def _stream(self, name: str) -> Stream:
        if name not in self.streams:
            raise UnknownName(unknown("stream", name, list(self.streams)))
        return self.streams[name]


def _exactly(
    connection: Any,
    column: str,
    centre: NDArray[np.float32],
    towards: NDArray[np.float64],
    k: int,
    only: str,
) -> list[Any]:
    """Return ids and vectors that hold the k best, of all rows or of those a filter keeps."""
    moved = "vector - %(centre)s::vector" if centre.any() else "vector"
    join = f" JOIN studies USING (number){only}" if only else ""
    limit = k + _NEAR
    while True:
        # A vector that is the centre itself has no direction: its distance is not a number.
        rows = connection.execute(
            "SELECT study_id, vector, distance FROM (SELECT number, vector, "
            f"coalesce(nullif(({moved}) <=> %(towards)s::vector, 'NaN'), 1) AS distance "
            f"FROM vectors_{column}{join} ORDER BY distance LIMIT %(limit)s) near "
            "JOIN studies USING (number) ORDER BY distance",
            {"centre": centre, "towards": towards.astype(np.float32), "limit": limit},
            binary=True,
        ).fetchall()
        # Cutting among equals would leave the choice to the order of rows: look further.
        cut = len(rows) == limit and rows[-1][2] - rows[k - 1][2] <= FLOAT32_SLACK
        if not cut or limit > k + MAX_TIES:
            return [(name, vector) for name, vector, _ in rows]
        limit *= 4


def _are_few(connection: Any, only: str, n: int) -> bool:
    """Whether a filter leaves so few rows that all of them are scored."""
    most = max(n // _FEW, 1000)
    left = _one(
        connection, f"SELECT count(*) FROM (SELECT 1 FROM studies{only} LIMIT {most + 1}) s"
    )
    return left <= most


def _named(
    connection: Any,
    numbers: NDArray[np.int64],
    scores: NDArray[np.float64],
    k: int,
    only: str,
) -> Ranking:
    """Return the k best of the studies that are there and pass the filter."""
    condition = only.replace(" WHERE ", " AND ", 1)
    order = np.argsort(-scores, kind="stable")
    numbers, scores = numbers[order], scores[order]
    found: list[tuple[str, float]] = []
    start, depth = 0, max(4 * k, _FIRST)
    while start < len(numbers) and len(found) < k:
        end = min(len(numbers), start + depth)
        if end < len(numbers):  # never between equals
            end = int(np.searchsorted(-scores, -scores[end - 1], side="right"))
        rows = connection.execute(
            f"SELECT number, study_id FROM studies WHERE number = ANY(%s){condition}",
            (numbers[start:end].tolist(),),
            binary=True,
        ).fetchall()
        score_of = dict(zip(numbers[start:end].tolist(), scores[start:end].tolist(), strict=True))
        found += [(name, score_of[number]) for number, name in rows]
        start = end
        if only and start < len(numbers) and len(found) < k:
            allowed = np.array(_column(connection, f"SELECT number FROM studies{only}"), np.int64)
            left = np.isin(numbers[start:], allowed)
            numbers, scores, start = numbers[start:][left], scores[start:][left], 0
            condition, only = "", ""
    return best([name for name, _ in found], [s for _, s in found], k)


def _one(connection: Any, query: str) -> int:
    # An empty mapping, so that a doubled % is read as one.
    return int(connection.execute(query, {}).fetchone()[0])


def _column(connection: Any, query: str) -> list[Any]:
    return [row[0] for row in connection.execute(query, {}, binary=True).fetchall()]
