"""The index: studies with their vectors and text in one embedded LanceDB table, and how to search it.

A folder, or a prefix in a store, holds ``table/`` (LanceDB, the source of truth), ``streams.json``
(which encoders made the vectors), ``derived/`` (what `Index.finish` makes of them for vector search) and ``manifest.json``,
written last. The order of rows never shows in a result: ties are broken by study_id.
Knows no pixels, no words and no torch: vectors and findings arrive ready.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from medfinder.artifact import MANIFEST, Manifest, read_manifest
from medfinder.errors import ArtifactError, InputError, MedFinderError, UnknownName
from medfinder.index import folder as files
from medfinder.index import schema as columns
from medfinder.index.engine import is_fault, told
from medfinder.index.finish import finish
from medfinder.index.interface import UNFINISHED, Stored
from medfinder.index.listing import read
from medfinder.index.query import MAX_TIES, Ranking, best, check_k, check_names, check_words
from medfinder.index.schema import IndexConfig, Stream, VectorBatch
from medfinder.index.snapshot import Derived, Snapshot, evaluate
from medfinder.index.where import check_where, explain, literal
from medfinder.place import Location, Place, is_remote, join, local_folder, place_of
from medfinder.records import Finding, Rejection, Study
from medfinder.registry import unknown
from medfinder.studies import FACETS, from_row, read_rejections, schema, write_rejections

__all__ = ["Index", "IndexConfig", "Stream"]

T = TypeVar("T")

_IDS_A_QUERY = 500
_FRESH_S = 1.0
"""In a store, where looking costs a request, what others wrote is seen within this."""
_PAUSES_S = (0.5, 2.0)


class Index:
    """An index folder, open for searching and for writing.

    Made by `create` or `open`. Safe to use from several threads; several processes may read and
    write one folder at a time. Every search sees all rows that were added before it began; in a
    store, where looking costs a request, those that others added up to a second before.
    """

    def __init__(
        self, location: Location, streams: Mapping[str, Stream], config: IndexConfig
    ) -> None:
        self.place = place_of(location)
        self.streams = dict(streams)
        self.config = config
        with told(self.place):
            self._database = files.connect(self.place)
            self._table = files.table(self._database, self.place, self.streams)
        self._lock = threading.RLock()
        self._snapshot: Snapshot | None = None
        self._seen: tuple[int, int] | None = None
        self._looked = -_FRESH_S
        self._derived_of: dict[str, tuple[int, Derived]] = {}

    # -- opening -----------------------------------------------------------------

    @classmethod
    def create(
        cls,
        folder: Location,
        streams: Mapping[str, Stream],
        config: IndexConfig | None = None,
    ) -> "Index":
        """Make an index, or go on with one that was begun with the same encoders.

        Args:
            streams: Stream (``"volume"``, ``"report"``) → its encoder; at least one.

        Raises:
            Mismatch: The folder holds an index of other encoders, or of another schema.
            UnknownName: There is no such stream.
        """
        place = place_of(folder)
        checked = columns.check_streams(streams)
        settings = config or IndexConfig()
        files.begin(place, checked)
        with told(place):
            files.make_table(place, checked)
        return cls(place, checked, settings)

    @classmethod
    def open(cls, folder: Location) -> "Index":
        """Open a finished index.

        Raises:
            InputError: There is no such folder.
            Incomplete: It has not been finished, or has lost a part since.
            Mismatch: It is no index, or of a schema this version does not read.
            ArtifactError: A file of it is damaged, or its store cannot be read.
        """
        place = place_of(folder)
        streams, config = files.streams_of(read_manifest(place, "index"))
        files.check_whole(place, streams)
        return cls(place, streams, config)

    @property
    def location(self) -> str:
        """Where the index lies: a path, or ``s3://BUCKET/PREFIX``."""
        return str(self.place)

    @property
    def folder(self) -> Path:
        """The index's folder.

        Raises:
            InputError: It lies in a store.
        """
        return local_folder(self.place)

    def manifest(self) -> Manifest:
        """Return what `finish` wrote last.

        Raises:
            Incomplete: It has not been finished.
        """
        return read_manifest(self.place, "index")

    def mark(self) -> str | None:
        """Return what changes whenever `finish` has written a manifest; None without one."""
        return self.place.mark(MANIFEST)

    @property
    def model_ids(self) -> dict[str, str]:
        """Stream → model_id of the encoder whose vectors it holds."""
        return {name: stream.model_id for name, stream in self.streams.items()}

    @property
    def encoder_names(self) -> dict[str, str]:
        """Stream → name of the encoder."""
        return {name: stream.encoder for name, stream in self.streams.items()}

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that filters may name and `facets` can count."""
        return FACETS

    @property
    def is_finished(self) -> bool:
        """Whether `finish` has run since the index was begun, and all it wrote is there."""
        try:
            read_manifest(self.place, "index")
        except (ArtifactError, InputError):
            return False
        return not files.lost(self.place, self.streams)

    def check_model(self, stream: str, model_id: str) -> None:
        """Raise Mismatch unless `model_id` made the stream's vectors."""
        columns.check_model(model_id, stream, self._stream(stream))

    def __repr__(self) -> str:
        models = ", ".join(f"{name}: {model}" for name, model in self.model_ids.items())
        return f"<Index {len(self._now()):,} studies ({models})>"

    # -- writing -----------------------------------------------------------------

    def add(
        self, studies: Sequence[Study], vectors: Mapping[str, VectorBatch] | None = None
    ) -> int:
        """Add studies, or replace those whose study_id is already there; return how many.

        The batch is there as a whole when this returns, and not at all after a crash before. A
        study replaces all that was stored of it: a stream left out becomes empty.

        Args:
            vectors: Stream → vectors with the ids of studies of this batch, any length but zero.

        Raises:
            InputError: A study_id is empty or occurs twice; a vector holds NaN, infinity or only
                zeros, or belongs to no study of the batch.
            Mismatch: Another model's vectors, another dimension, or a stream the index lacks.
        """
        rows = columns.make_table(studies, self.streams, vectors or {})
        if not len(rows):
            return 0

        def put() -> None:
            merge = self._table.merge_insert("study_id")
            merge = merge.when_matched_update_all().when_not_matched_insert_all()
            merge.execute(
                rows, on_bad_vectors="null"
            )  # "bad" is what has none: the rest is checked

        self._write(put)
        return len(rows)

    def delete(self, ids: Sequence[str]) -> int:
        """Delete these studies, as far as they are there; return how many were."""
        before = self.count()
        for start in range(0, len(ids), _IDS_A_QUERY):
            some = _one_of("study_id", ids[start : start + _IDS_A_QUERY])
            self._write(partial(self._table.delete, some))
        return before - self.count()

    def finish(
        self,
        parents: Mapping[str, str] | None = None,
        duration_s: float = 0.0,
        package_version: str = "",
        settings: Mapping[str, Any] | None = None,
    ) -> Manifest:
        """Compact the table, build what searching needs, and write the manifest, last.

        May be called again at any time: it does what has become necessary. The centres are those
        of the rows now there, so the result does not depend on how the rows arrived.

        Args:
            parents: Name of each input → its `manifest_hash`.
            duration_s: Of the whole stage, for the manifest.
            settings: What else the manifest's config shall hold, such as how volumes are checked.
        """
        with told(self.place), files.lock(self.place) as check:
            manifest = finish(
                self.place,
                self._table,
                partial(self._now, at_once=True),
                self.config,
                parents or {},
                duration_s,
                package_version,
                settings or {},
                check,
            )
            with self._lock:
                self._seen, self._looked = None, -_FRESH_S
        return manifest

    def compact(self, kept: timedelta) -> None:
        """Join small files, and delete those that only versions older than `kept` need."""
        with told(self.place):
            self._table.optimize(cleanup_older_than=kept)

    def _write(self, action: Callable[[], object]) -> None:
        """Run what changes rows; in a store once more where it fails, as it may be repeated."""
        with told(self.place):
            for pause_s in _PAUSES_S if is_remote(self.place) else ():
                try:
                    action()
                    break
                except (RuntimeError, OSError) as error:
                    if not is_fault(error):
                        raise
                    time.sleep(pause_s)
            else:
                action()
        with self._lock:
            self._looked = -_FRESH_S

    # -- what the stage that fills it keeps beside it ------------------------------

    @property
    def is_changing(self) -> bool:
        """Whether rows have changed since `finish`, in a run that has not ended."""
        return self.place.mark(UNFINISHED) is not None

    def begin_changes(self) -> None:
        """Say that rows are about to change; searching goes on."""
        if not self.is_changing:
            with told(self.place), self.place.write(UNFINISHED):
                pass

    def end_changes(self) -> None:
        """Say that `finish` has seen all changes."""
        self.place.delete(UNFINISHED)

    def write_rejections(self, rejections: Sequence[Rejection]) -> str:
        """Keep what the latest run left out, and why; return where."""
        where = join(self.place, files.REJECTIONS)
        write_rejections(where, rejections)
        return str(where)

    def read_rejections(self) -> list[Rejection]:
        """Return what the latest run left out."""
        return read_rejections(join(self.place, files.REJECTIONS))

    @property
    def regions(self) -> Place:
        """Where region features lie, a file a study."""
        return self.place.at(files.REGIONS)

    # -- looking up --------------------------------------------------------------

    def count(self, where: str | None = None) -> int:
        """Return the number of studies that pass the filter."""
        return self._read(
            lambda now: len(now) if where is None else int(evaluate(where, now.table.count_rows))
        )

    def ids(self, where: str | None = None) -> list[str]:
        """Return the study_ids that pass the filter, sorted."""

        def listing(now: Snapshot) -> list[str]:
            rows = now.rows() if where is None else np.flatnonzero(now.mask(where))
            return sorted(now.names(rows))

        return self._read(listing)

    def digests(self) -> dict[str, str]:
        """Return study_id → `medfinder.studies.digest` of the study as it was added."""
        return {study_id: stored.digest for study_id, stored in self.study_hashes().items()}

    def study_hashes(self) -> dict[str, Stored]:
        """Return what is already here, by study_id, for a run that resumes."""

        def listing(now: Snapshot) -> dict[str, Stored]:
            names = ["study_id", "row_digest", "volume_hash"]
            keys = [f"key_{name}" for name in self.streams]
            return {
                row["study_id"]: Stored(
                    row["row_digest"],
                    row["volume_hash"],
                    frozenset(s for s in self.streams if row[f"key_{s}"] is not None),
                )
                for row in read(now.table, [*names, *keys]).to_pylist()
            }

        return self._read(listing)

    def studies(self, ids: Sequence[str]) -> list[Study]:
        """Return the studies, in the order of `ids`.

        Raises:
            UnknownName: One is not in the index.
        """

        def find(now: Snapshot) -> dict[str, Study]:
            def rows(missing: Sequence[str]) -> dict[str, Study]:
                found = self._rows_by_id(now, missing, schema().names)
                return {study_id: from_row(row) for study_id, row in found.items()}

            return now.studies.take(ids, rows)

        found = self._read(find)
        return [found[study_id] for study_id in ids]

    def findings(self, ids: Sequence[str]) -> dict[str, tuple[Finding, ...]]:
        """Return study_id → its findings, without reading reports or anything else.

        Raises:
            UnknownName: A study is not in the index.
        """

        def find(now: Snapshot) -> dict[str, tuple[Finding, ...]]:
            def rows(missing: Sequence[str]) -> dict[str, tuple[Finding, ...]]:
                found = self._rows_by_id(now, missing, ["study_id", "findings"])
                return {
                    study_id: tuple(Finding(**f) for f in row["findings"] or ())
                    for study_id, row in found.items()
                }

            return now.findings.take(ids, rows)

        return self._read(find)

    def vectors(self, column: str, ids: Sequence[str]) -> list[NDArray[np.float32] | None]:
        """Return each study's unit vector, (dim,) float32, or None where it has none.

        Raises:
            UnknownName: There is no such stream, or a study is not in the index.
        """
        self._stream(column)
        rows = self._read(lambda now: self._rows_by_id(now, ids, ["study_id", column]))
        found = [rows[study_id][column] for study_id in ids]
        return [None if row is None else np.array(row, np.float32) for row in found]

    def centre(self, column: str) -> NDArray[np.float32]:
        """Return the (dim,) vector that scores are centred on; zero for an index of few vectors."""
        self._stream(column)
        return self._read(lambda now: now.gallery(column).centre)

    def facets(self, column: str, where: str | None = None) -> dict[Any, int]:
        """Return value → number of studies that pass the filter, most frequent first.

        A list column counts each of its names; None counts the studies without a value.

        Raises:
            UnknownName: The column is none of `columns`.
        """
        if column not in FACETS:
            raise UnknownName(unknown("facet", column, list(FACETS)))

        def count(now: Snapshot) -> dict[Any, int]:
            table = evaluate(
                "true" if where is None else where, lambda text: read(now.table, [column], text)
            )
            found: Counter[Any] = Counter()
            values = table[column].combine_chunks()
            if column.startswith("findings_"):
                values = values.flatten()
            for pair in values.value_counts().to_pylist():
                found[pair["values"]] += pair["counts"]
            return dict(sorted(found.items(), key=lambda item: (-item[1], str(item[0]))))

        return self._read(count)

    # -- searching ---------------------------------------------------------------

    def search_vector(
        self,
        column: str,
        vector: NDArray[np.float32],
        k: int = 10,
        where: str | None = None,
        model_id: str | None = None,
    ) -> Ranking:
        """Return the k nearest studies with their centred cosine in [-1, 1], best first.

        Exact while the column holds fewer than ``config.exact_below`` vectors; above that, the
        recall at 10 is what `finish` measured when it chose how far to look (``config.recall``),
        with or without a filter. Scores are exact either way.

        Args:
            vector: (dim,), any length but zero.
            model_id: Of the encoder that made it, to be checked; None trusts the caller.

        Raises:
            Mismatch: Another model's vector, or another dimension.
            InputError: It holds NaN, infinity or only zeros, k is below 1, or the filter is bad.
        """
        stream = self._stream(column)
        check_k(k)
        if model_id is not None:
            columns.check_model(model_id, column, stream)
        query = columns.check_vectors(np.asarray(vector)[None], stream.dim, "query")[0]

        def search(now: Snapshot) -> Ranking:
            mask = None if where is None else now.mask(where)
            rows, scores = now.gallery(column).search(query, k, mask)
            return best(now.names(rows), scores.tolist(), k)

        return self._read(search)

    def search_text(self, query: str, k: int = 10, where: str | None = None) -> Ranking:
        """Return the k studies whose report matches the words best, with their BM25 score.

        Any word may match; case, accents and word endings do not matter, in English or Spanish.
        The query has no syntax: quotes, brackets, AND and OR are words or nothing.

        Raises:
            InputError: The query is empty, k is below 1, or the filter is bad.
        """
        import lancedb.query

        engine: Any = lancedb.query  # its own hints call arguments with defaults required

        check_k(k)
        text = check_words(query)
        condition = None if where is None else check_where(where)

        def search(now: Snapshot) -> Ranking:
            if not len(now):
                return []
            limit = k + 32
            while True:
                # encode: a lone surrogate is text to Python, but not to the table.
                match = engine.MatchQuery(text.encode("utf-8", "replace").decode(), "words")
                ask = now.table.search(match, query_type="fts").select(["study_id", "_score"])
                if condition is not None:
                    ask = ask.where(condition, prefilter=True)
                found = ask.limit(limit).to_arrow()
                scores = found["_score"].to_pylist()
                # Cutting inside a tie would leave the choice to the order of rows: look further.
                cut = len(scores) == limit and scores[-1] == scores[k - 1]
                if not cut or limit > k + MAX_TIES:
                    return best(found["study_id"].to_pylist(), scores, k)
                limit *= 4

        def explained(now: Snapshot) -> Ranking:
            try:
                return search(now)
            except (ValueError, RuntimeError, OSError) as error:
                if condition is None or is_fault(error):
                    raise
                raise explain(error) from None

        return self._read(explained)

    def search_findings(
        self,
        present: Sequence[str] = (),
        absent: Sequence[str] = (),
        k: int = 10,
        where: str | None = None,
        match_all: bool = False,
    ) -> Ranking:
        """Return studies whose report affirms a finding of `present` and denies one of `absent`.

        The score is the share of the asked names that the report agrees with; among equals, the
        report that affirms fewer other findings comes first, then the smaller study_id.

        Args:
            present: Canonical names; a report that only denies or doubts them does not count.
            absent: Canonical names that the report denies.
            match_all: Every name must agree, not just one of each list.

        Raises:
            InputError: No name is given, k is below 1, or the filter is bad.
        """
        check_k(k)
        check_names(present, absent)
        function = "array_has_all" if match_all else "array_has_any"
        parts = [
            f"{function}({column}, [{', '.join(literal(name) for name in names)}])"
            for column, names in (("findings_present", present), ("findings_absent", absent))
            if names
        ]
        if where is not None:
            parts.append(f"({check_where(where)})")
        wanted, denied = set(present), set(absent)

        def search(now: Snapshot) -> Ranking:
            if where is not None:  # on its own first, so that the error is about what was written
                evaluate(where, now.table.count_rows)
            names = ["study_id", "findings_present", "findings_absent"]
            found = evaluate(" AND ".join(parts), lambda text: read(now.table, names, text))
            agree, n_has = _agreeing(found["findings_present"], wanted)
            agree += _agreeing(found["findings_absent"], denied)[0]
            rank = agree * 1024 - np.minimum(n_has, 1023)  # the second decides among equals
            if len(rank) > k:  # only those that reach the k-th place are named and sorted
                kept = np.flatnonzero(rank >= np.partition(rank, -k)[-k])
                found, agree, rank = found.take(kept), agree[kept], rank[kept]
            n = len(wanted) + len(denied)
            ids = found["study_id"].to_pylist()
            order = sorted(range(len(ids)), key=lambda i: (-rank[i], ids[i]))[:k]
            return [(ids[i], float(agree[i]) / n) for i in order]

        return self._read(search)

    # -- the version that is read ------------------------------------------------

    def _read(self, action: Callable[[Snapshot], T]) -> T:
        """Run `action` on the current version, once more if its files were cleaned up meanwhile."""
        with told(self.place):
            try:
                return action(self._now())
            except MedFinderError:
                raise
            except Exception as error:
                if "not found" not in str(error).lower():
                    raise
                with self._lock:
                    self._seen = None
                return action(self._now(at_once=True))

    def _now(self, at_once: bool = False) -> Snapshot:
        """Return a snapshot of the table as it is now, or was in the last second in a store."""
        with self._lock:
            began = time.monotonic()
            is_fresh = is_remote(self.place) and began - self._looked < _FRESH_S
            if self._snapshot is not None and self._seen is not None and is_fresh and not at_once:
                return self._snapshot
        version = (self._table.version, files.stamp(self.place))
        with self._lock:
            self._looked = began
            if self._snapshot is None or self._seen != version:
                table = files.table(self._database, self.place, self.streams)
                table.checkout(version[0])
                self._snapshot = Snapshot(table, self.streams, self._derived, self._snapshot)
                self._seen = version
            return self._snapshot

    def _derived(self, column: str) -> Derived:
        """Return the column's centre and partitions: the same object until they are written anew."""
        stamp = files.stamp(self.place)
        kept = self._derived_of.get(column)
        if kept is None or kept[0] != stamp:
            kept = (stamp, files.gallery(self.place, column, self.streams[column].dim))
            self._derived_of[column] = kept
        return kept[1]

    def _stream(self, name: str) -> Stream:
        if name not in self.streams:
            raise UnknownName(unknown("stream", name, list(self.streams)))
        return self.streams[name]

    def _rows_by_id(
        self, now: Snapshot, ids: Sequence[str], names: Sequence[str]
    ) -> dict[str, dict[str, Any]]:
        rows: dict[str, dict[str, Any]] = {}
        for start in range(0, len(ids), _IDS_A_QUERY):
            condition = _one_of("study_id", ids[start : start + _IDS_A_QUERY])
            for row in read(now.table, names, condition).to_pylist():
                rows[row["study_id"]] = row
        missing = [study_id for study_id in ids if study_id not in rows]
        if missing:
            raise UnknownName(
                f"There is no study {missing[0]!r} in this index of {len(now):,}. "
                "Take a study_id from a search result."
            )
        return rows


def _agreeing(column: Any, names: set[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return for each row of a column of lists how many of `names` it holds, and its length."""
    import pyarrow as pa
    import pyarrow.compute as pc

    lists = column.combine_chunks()
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    hits = pc.is_in(lists.flatten(), value_set=pa.array(sorted(names), pa.string()))
    rows = np.repeat(np.arange(len(lists)), lengths)
    found = np.bincount(rows[hits.to_numpy(zero_copy_only=False)], minlength=len(lists))
    return found.astype(np.int64), lengths.astype(np.int64)


def _one_of(column: str, values: Sequence[str]) -> str:
    return f"{column} IN ({', '.join(literal(value) for value in values)})"
