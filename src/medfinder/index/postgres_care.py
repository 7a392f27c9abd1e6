"""Compare an index in PostgreSQL with what it was when it was written, and mend it.

As `medfinder.index.check` and `medfinder.index.repair` do it in a folder. The server looks after its
pages (``data_checksums``) and its B-trees (``pg_amcheck``); here it is what the rows say: every study
against its digest and its facets, every vector against its key, words, centres and HNSW against what
they were made from.
"""

# ruff: noqa: S608 - names of tables come from here, filters are written anew by postgres_where

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfinder.artifact import MANIFEST, Manifest, read_manifest
from medfinder.index import folder as files
from medfinder.index.check import Check, Checked, attempt, in_parts, read_streams, vector_problem
from medfinder.index.postgres import PostgresIndex
from medfinder.index.postgres_finish import content_of, derived_of, mean_of_column
from medfinder.index.postgres_link import Link
from medfinder.index.postgres_place import PostgresPlace
from medfinder.index.postgres_schema import check_tables, clean, link_to, lock_writing
from medfinder.index.postgres_words import BLOCK, COUNTED, Stemmer, blocks, postings_of
from medfinder.index.repair import Repaired, manifest_settings, too_much, write_down
from medfinder.index.schema import IndexConfig, Stream
from medfinder.studies import FACETS, digest, from_row, to_row

_AGAIN = "the index is finished again"
_DROPPED = "deleted; 'medfinder index' adds it again"

Progress = Callable[[int, int], None]


def check_postgres(location: str, progress: Progress | None = None) -> Checked:
    """As `medfinder.index.check.check_index`, in one transaction that only reads.

    Raises:
        InputError: There is no such schema.
        Mismatch: Its tables are not those of an index, or of this version.
        ArtifactError: The server does not answer.
    """
    return _check(link_to(location), progress)[0]


def repair_postgres(location: str, progress: Progress | None = None) -> Repaired:
    """As `medfinder.index.repair.repair_index`; what is deleted goes in one transaction.

    Raises:
        InputError, Mismatch: As `check_postgres`.
        ArtifactError: As it does; or too much is lost: restore the schema from a dump.
    """
    link = link_to(location)
    before, bad = _check(link, progress)
    if before.is_sound:
        return Repaired(before, (), 0, (), before)
    place = PostgresPlace(link)
    manifest, _ = attempt(lambda: read_manifest(place, "index"))
    streams, config = _streams(place, manifest)
    dropped = sorted({name for _, name in bad if name is not None})
    n_unnamed = sum(name is None for _, name in bad)
    link.write(lambda connection: _clear(connection, before, [number for number, _ in bad]))
    if any(defect.rule == "streams" for defect in before.defects):
        files.write_streams(place, streams)
    write_down(place, before, dropped, n_unnamed, [])
    index = PostgresIndex(link, streams, config)
    index.finish(**manifest_settings(manifest))
    if manifest is not None and not bad:
        index.end_changes()
    after, _ = _check(link, progress)
    if bad and not after.is_sound:  # what is made from rows is compared once these are right
        after = repair_postgres(location, progress).after
    return Repaired(before, tuple(dropped), n_unnamed, (), after)


def _check(link: Link, progress: Progress | None) -> tuple[Checked, list[tuple[int, str | None]]]:
    """Return what is wrong, and of rows that are: their numbers and study_ids."""
    with link.session() as connection:
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        run = _PostgresCheck(link, connection, progress)
        return run.run(), run.bad


def _streams(
    place: PostgresPlace, manifest: Manifest | None
) -> tuple[dict[str, Stream], IndexConfig]:
    if manifest is not None:
        return files.streams_of(manifest)
    begun, _ = attempt(lambda: read_streams(place))
    if begun is None:
        raise too_much(place, f"neither {MANIFEST} nor {files.STREAMS_FILE} can be read")
    return begun[0], IndexConfig()


def _clear(connection: Any, before: Checked, numbers: list[int]) -> None:
    """Delete bad rows, and what was made from rows; `finish` makes it again."""
    lock_writing(connection)
    connection.execute("DELETE FROM studies WHERE number = ANY(%s)", (numbers,))
    if any(defect.rule == "text-index" for defect in before.defects):
        connection.execute("DELETE FROM word_blocks")  # each block is then another's
        connection.execute("DELETE FROM words")
    for defect in before.defects:
        if defect.rule in ("record", "partitions"):
            connection.execute("DELETE FROM files WHERE name = %s", (defect.where,))


class _PostgresCheck(Check):
    """One run of `check_postgres`.

    Attributes:
        bad: Of rows that are not what they were: number, and study_id where it can be read.
    """

    def __init__(self, link: Link, connection: Any, progress: Progress | None) -> None:
        super().__init__(PostgresPlace(link, connection=connection), progress)
        self._link = link
        self._connection = connection
        self._stemmer = Stemmer()
        self.bad: list[tuple[int, str | None]] = []

    def _files(self) -> int | None:
        return None  # rows of the table `files`; each is compared with what it was made from

    def _leftovers(self) -> None:
        """Nothing is left: a transaction is whole or not there."""

    def _rows(
        self,
        manifest: Manifest | None,
        streams: dict[str, Stream],
        config: IndexConfig,
        sealed: int | None,
    ) -> None:
        connection = self._connection
        check_tables(connection, self._link.address, streams)
        found = connection.execute("SELECT number FROM studies ORDER BY number", binary=True)
        numbers = [int(number) for (number,) in found.fetchall()]

        def read(some: list[int]) -> list[tuple[int, str, str | None]]:
            with connection.transaction():  # it goes on where this fails
                return self._read(some, streams)

        for some, rows, problem in in_parts(numbers, read, self.progress):
            if rows is None:
                self._found(some[0], None, problem)
            else:
                for number, study_id, why in rows:
                    self._found(number, study_id, why)
        if not self.bad:
            self._made(manifest, streams, config, numbers[-1] if numbers else -1)

    def _found(self, number: int, study_id: str | None, why: str | None) -> None:
        if why is None:
            self.n_rows += 1
            return
        self.bad.append((number, study_id))
        self.add("row", study_id or f"row {number}", why, _DROPPED)

    def _read(
        self, numbers: list[int], streams: Mapping[str, Stream]
    ) -> list[tuple[int, str, str | None]]:
        """Return number, study_id and what is wrong with it, None for nothing, of each row."""
        connection = self._connection
        told = [*FACETS, "volume_hash", "row_digest", "n_words", *(f"key_{s}" for s in streams)]
        names = ", ".join(f'"{name}"' for name in told)
        rows = connection.execute(
            f"SELECT number, {names}, study, terms, counts FROM studies LEFT JOIN texts USING (number) "
            "WHERE number = ANY(%s) ORDER BY number",
            (numbers,),
        ).fetchall()
        held = {}
        for stream in streams:
            found = connection.execute(
                f"SELECT number, vector FROM vectors_{stream} WHERE number = ANY(%s)",
                (numbers,),
                binary=True,
            ).fetchall()
            held[stream] = {n: np.ascontiguousarray(v.to_numpy(), "<f4") for n, v in found}
        seen = [
            dict(zip(["number", *told, "study", "terms", "counts"], r, strict=True)) for r in rows
        ]
        return [
            (
                row["number"],
                row["study_id"],
                self._problem(row, {s: held[s].get(row["number"]) for s in streams}),
            )
            for row in seen
        ]

    def _problem(
        self, row: Mapping[str, Any], vectors: Mapping[str, NDArray[np.float32] | None]
    ) -> str | None:
        """Return what is wrong with a row, None where it is what was added."""
        if row["study"] is None:
            return "its study is missing"
        try:
            study = from_row(row["study"])
            said = to_row(study)
            is_digest = digest(study) == row["row_digest"]
        except (ValueError, KeyError, TypeError, AttributeError):
            return "it cannot be decoded"
        if not is_digest:
            return "it is not the study that was added"
        if any(row[name] != clean(said[name]) for name in (*FACETS, "volume_hash")):
            return "columns made of its findings or shape are not what they are made of"
        if (row["n_words"], row["terms"], row["counts"]) != self._words(study.words):
            return "its words are not those of its report"
        for stream, vector in vectors.items():
            key = row[f"key_{stream}"]
            if (problem := vector_problem(study.study_id, stream, key, vector)) is not None:
                return problem
            self.n_vectors += vector is not None
        return None

    def _words(self, text: str) -> tuple[int | None, list[str] | None, list[int] | None]:
        """Return a report's number of stems, the stems, sorted, and how often each occurs."""
        if not text:
            return None, None, None
        (stems,) = self._stemmer.stems(self._connection, [text])
        counts = sorted(Counter(stems).items())
        return len(stems), [stem for stem, _ in counts], [min(n, COUNTED) for _, n in counts]

    def _made(
        self,
        manifest: Manifest | None,
        streams: Mapping[str, Stream],
        config: IndexConfig,
        until: int,
    ) -> None:
        """Compare counts, content, words, centres and indexes with the rows."""
        connection = self._connection
        if manifest is None:
            return  # told already: all of it is made again
        content = content_of(connection, streams)
        is_still = manifest.config.get("content") == content
        if not is_still:
            found = "rows have changed since the index was finished"
            self.add("content", MANIFEST, found, _AGAIN)
        elif dict(manifest.counts) != self._counts(streams):
            self.add("content", MANIFEST, "it counts other studies than there are", _AGAIN)
        for where, why in self._words_made(is_still, until):
            self.add("text-index", where, why, "made anew")
        for name, stream in streams.items():
            record = files.record(name)
            self.n_files += 1
            rule, problem = self._column(name, stream, config if is_still else None)
            if problem:
                self.add(rule, record, problem, "made anew")

    def _counts(self, streams: Mapping[str, Stream]) -> dict[str, int]:
        tables = {"studies": "studies", **{name: f"vectors_{name}" for name in streams}}
        return {
            name: int(self._connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
            for name, table in tables.items()
        }

    def _words_made(self, is_still: bool, until: int) -> Iterator[tuple[str, str]]:
        """Yield where the words that studies hold are not turned around rightly, and why."""
        connection = self._connection
        now, made = blocks(connection)
        for block in sorted(made.keys() | (now.keys() if is_still else set())):
            where = f"words of rows {block * BLOCK:,} …"
            if now.get(block) != made.get(block):
                if is_still:
                    yield where, "they were made of other rows"
                continue  # rows came or went since: the next `finish` makes them again
            held = dict(
                connection.execute(
                    "SELECT term, postings FROM words WHERE block = %s", (block,), binary=True
                ).fetchall()
            )
            if {term: bytes(found) for term, found in held.items()} != postings_of(
                connection, block
            ):
                yield where, "they are not those of the studies"
        said, _ = attempt(lambda: int(self.place.read(f"{files.DERIVED}/text.json")))
        self.n_files += 1
        if said is None or said > until or (is_still and said != until):
            yield f"{files.DERIVED}/text.json", "it names another row than the last"

    def _column(self, name: str, stream: Stream, config: IndexConfig | None) -> tuple[str, str]:
        """Return the rule and what is wrong with what `finish` made of a column; "" for nothing.

        Args:
            config: None where rows have changed since, and the centre is not theirs.
        """
        connection, place = self._connection, self.place
        assert isinstance(place, PostgresPlace)
        derived, _ = attempt(lambda: derived_of(place, name, stream.dim))
        if place.mark(files.record(name)) is None or derived is None:
            return "record", "missing or damaged"
        if derived.centre.shape != (stream.dim,):
            return "record", "missing or damaged"
        if config is not None:
            mean = mean_of_column(connection, name, stream, config)
            if not np.allclose(derived.centre, mean, atol=1e-6):
                return "record", "its centre is not that of its vectors"
        if derived.index is not None:
            valid = connection.execute(
                "SELECT indisvalid FROM pg_index JOIN pg_class c ON c.oid = indexrelid "
                "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND relname = %s",
                (self._link.address.schema, derived.index),
            ).fetchone()
            if valid is None or not valid[0]:
                return "partitions", "its HNSW index is missing or invalid"
        return "", ""
