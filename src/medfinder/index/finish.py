"""What turns a filled table into a finished index: compaction, scalar and text indexes, galleries."""

import contextlib
import dataclasses
import hashlib
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfinder import __version__
from medfinder.artifact import Manifest, write_manifest
from medfinder.index import folder as files
from medfinder.index import partitions
from medfinder.index.gallery import mean_of
from medfinder.index.listing import read
from medfinder.index.schema import STOP_WORDS, IndexConfig
from medfinder.index.snapshot import Snapshot
from medfinder.place import FolderPlace, Place, hash_file

_BITMAPS = ("sex", "manufacturer", "body_part", "split", "source", "language")
_TREES = (
    "study_id",
    "patient_id",
    "age",
    "study_date",
    "n_slices",
    "spacing_mm_d",
    "spacing_mm_h",
    "spacing_mm_w",
)
_LISTS = ("findings_present", "findings_absent", "findings_uncertain", "findings_placed")
INDEXED = frozenset({*_BITMAPS, *_TREES, *_LISTS, "words"})
"""Columns that a finished index, unless it is empty, has an index of."""
_STALE = 0.1  # share of rows outside an index above which it is rebuilt, not extended
_SMALL = 100_000  # up to this many rows the text index is always built anew: seconds
_PAUSES_S = (0.1, 0.5, 2.0, 5.0)
_KEPT = timedelta(seconds=60)  # old versions younger than this may still be read by a query


def finish(
    place: Place,
    table: Any,
    snapshot: Callable[[], Snapshot],
    config: IndexConfig,
    parents: Mapping[str, str],
    duration_s: float,
    package_version: str,
    settings: Mapping[str, Any],
    check: Callable[[], None],
) -> Manifest:
    """Bring everything derived up to the table's rows, and write the manifest, last.

    Args:
        check: Raises where another process has taken over meanwhile.
    """
    files.clear(place)
    _drop_duplicates(table, snapshot())
    n = len(snapshot())
    if n:
        content = _content(snapshot()) if n <= _SMALL else None
        rebuild = _text_is_stale(table, n, content is None or content != files.text_record(place))
        _patiently(table.optimize)
        _patiently(lambda: _index_columns(table))
        if rebuild:
            _patiently(lambda: _index_text(table))
        check()
        files.write_text_record(place, content)
    now = snapshot()
    counts = {"studies": len(now)}
    for column in now.streams:
        counts[column] = int(now.has(column).sum())
        check()
        _finish_gallery(place, column, now, config)
    _patiently(lambda: table.optimize(cleanup_older_than=_KEPT))
    seal(place, table)
    manifest = Manifest(
        stage="index",
        config={
            "streams": {name: dataclasses.asdict(s) for name, s in now.streams.items()},
            "settings": dataclasses.asdict(config),
            "content": _content(now),
            **settings,
        },
        parents=dict(parents),
        counts=counts,
        seed=config.seed,
        duration_s=duration_s,
        package_version=package_version or __version__,
    )
    check()
    write_manifest(place, manifest)
    return manifest


def seal(place: Place, table: Any) -> None:
    """Record the files that are not checked by what they hold, so that a change in one is found.

    Each with its size and, in a folder, its SHA-256; in a store, which looks after its own bits, with
    its ETag. A hash that was recorded for the same file is kept: no file is read twice.
    """
    said = files.read_record(place, files.FILES) or {}
    before, found = said.get("files", {}), {}
    for entry in files.sealed(place):
        held = before.get(entry.name)
        if held is not None and (held["size"], held["mark"]) == (entry.size, entry.mark):
            found[entry.name] = held
            continue
        with contextlib.suppress(FileNotFoundError):  # cleaned up meanwhile
            hash_ = hash_file(place.path / entry.name) if isinstance(place, FolderPlace) else ""
            found[entry.name] = {"size": entry.size, "mark": entry.mark, "sha256": hash_}
    files.write_record(place, files.FILES, {"version": table.version, "files": found})


def _patiently(action: Callable[[], object]) -> None:
    """Run `action` again where another writer's commit came between."""
    for pause_s in _PAUSES_S:
        try:
            action()
            return
        except (RuntimeError, OSError) as error:
            if "conflict" not in str(error).lower():
                raise
            time.sleep(pause_s)
    action()


def _drop_duplicates(table: Any, now: Snapshot) -> None:
    """Two writers may add one study at the same moment: keep the newest row."""
    older = now.duplicates()
    for start in range(0, len(older), 500):
        some = ", ".join(str(row_id) for row_id in older[start : start + 500])
        table.delete(f"_rowid IN ({some})")


def _content(now: Snapshot) -> str:
    """Return 16 hex digits over all rows and vectors, whatever order they lie in."""
    names = ["study_id", "row_digest", *(f"key_{name}" for name in now.streams)]
    rows = read(now.table, names).sort_by("study_id").combine_chunks()
    keys = {name: rows[f"key_{name}"].fill_null(0).to_numpy() for name in now.streams}
    return content_of(rows["row_digest"].to_pylist(), keys, now.table)


def content_of(digests: Sequence[str], keys: Mapping[str, NDArray[np.int64]], table: Any) -> str:
    """Return 16 hex digits over the rows' digests and keys, in the order of their study_ids."""
    import pyarrow as pa

    found = hashlib.sha256("\n".join(digests).encode())
    for column in keys.values():
        found.update(column.astype("<i8").tobytes())
    found.update(str(pa.schema(table.schema).names).encode())
    return found.hexdigest()[:16]


def _index_columns(table: Any) -> None:
    from lancedb.index import Bitmap, BTree, LabelList

    there = {column for index in table.list_indices() for column in index.columns}
    for names, config in ((_BITMAPS, Bitmap()), (_TREES, BTree()), (_LISTS, LabelList())):
        for name in names:
            if name not in there:
                table.create_index(name, config=config)


def _text_is_stale(table: Any, n: int, changed: bool) -> bool:
    """Whether the text index must be built anew: then its statistics are those of the rows there.

    A large one is extended while few rows are new; until the next rebuild BM25's word counts
    still include what was deleted.
    """
    found = [i for i in table.list_indices() if "words" in i.columns]
    if not found:
        return True
    if n <= _SMALL:
        return changed
    return int(table.index_stats(found[0].name).num_unindexed_rows) > _STALE * n


def _index_text(table: Any) -> None:
    """Index the reports' words for BM25 in both languages.

    The English stemmer takes -s and -es off Spanish plurals too ("lesiones" meets "lesión"), and
    unlike the Spanish one does not depend on accents, which queries leave out; accents are folded.
    """
    from lancedb.index import FTS

    config = FTS(
        language="English",
        stem=True,
        remove_stop_words=True,
        custom_stop_words=STOP_WORDS,
        ascii_folding=True,
        lower_case=True,
        with_position=False,
    )
    table.create_index("words", config=config, replace=True)


def _finish_gallery(place: Place, column: str, now: Snapshot, config: IndexConfig) -> None:
    """Compute the column's centre and, where it is large, its partitions."""
    stream = now.streams[column]
    dim, at_least = stream.dim, config.centre_from if stream.is_centred else sys.maxsize
    rows = now.in_order(np.flatnonzero(now.has(column)).astype(np.int32))
    if len(rows) < config.exact_below:
        centre = mean_of([now.vectors(column, rows)], dim, at_least)
        files.write_gallery(place, column, centre, None)
        files.drop_partitions(place, column, keep=None)
        return
    said = files.read_record(place, files.record(column))
    _, parts = files.gallery(place, column, dim)
    fresh = None if parts is None else _still_good(parts, column, now, config)
    if parts is not None and fresh is not None and said is not None:
        alive, added = fresh
        centre = mean_of([parts.vectors, now.vectors(column, added)], dim, at_least, alive)
        files.keep_lengths(place, parts, said["partitions"], centre)
        files.write_gallery(place, column, centre, said["partitions"])
        return
    where = files.working_folder(place)
    with tempfile.TemporaryDirectory(prefix=".building-", dir=where) as temporary:
        raw = np.lib.format.open_memmap(
            Path(temporary) / "raw.npy", "w+", np.float32, (len(rows), dim)
        )
        now.vectors(column, rows, raw)
        centre = mean_of([raw], dim, at_least)
        keys = now.keys(column)[rows]
        built = Path(temporary) / "partitions"
        partitions.build(built, raw, keys, centre, config.rows_per_list, config.recall, config.seed)
        name = f"{column}-{hashlib.sha256(keys.tobytes()).hexdigest()[:16]}"
        made = files.keep_partitions(place, name, built)
    files.keep_lengths(place, made, name, centre)
    files.write_gallery(place, column, centre, name)
    files.drop_partitions(place, column, keep=name)


def _still_good(
    parts: partitions.Partitions, column: str, now: Snapshot, config: IndexConfig
) -> tuple[NDArray[np.bool_], NDArray[np.int32]] | None:
    """Return which places are still there and which rows came since, if both have stayed few."""
    places, held = now.match(column, parts.keys)
    added = np.flatnonzero(now.has(column) & ~held).astype(np.int32)
    gone = int((places < 0).sum())
    few = _STALE * len(parts.keys)
    if gone > few or len(added) > min(few, config.exact_below):
        return None
    return places >= 0, now.in_order(added)
