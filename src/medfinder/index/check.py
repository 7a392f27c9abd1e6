"""Compare an index with what it was when it was written.

Every row is decoded and compared with its own digest, every vector with its key, every file with the
hash that `finish` recorded, everything derived with what it is derived from. Changes nothing.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from medfinder.artifact import (
    MANIFEST,
    SCHEMA,
    Manifest,
    checksum,
    read_manifest,
    refuse_copy,
)
from medfinder.errors import ArtifactError, Incomplete, InputError, MedFinderError, Mismatch
from medfinder.index import finish as finishing
from medfinder.index import folder as files
from medfinder.index.engine import is_panic
from medfinder.index.interface import UNFINISHED
from medfinder.index.partitions import RECORD, Partitions
from medfinder.index.schema import IndexConfig, Stream, key_of, table_schema
from medfinder.place import FolderPlace, Location, Place, hash_file, is_abandoned, place_of
from medfinder.studies import digest, from_row, schema, to_row

_ROWS = 2048
_LEFT_S = 3600.0  # what is built in a folder this old is no writer's at work
KEPT = ("data", "_deletions", "_indices", files.REGIONS, files.REJECTIONS)
"""Kinds of file that are there for as long as the version is the one that was recorded."""
_LENGTH = 1e-3  # how far a float32 unit vector's length may be from 1

T = TypeVar("T")
Ids = TypeVar("Ids", list[int], NDArray[np.uint64])


@dataclasses.dataclass(frozen=True, slots=True)
class Defect:
    """One thing that is wrong.

    Attributes:
        rule: What kind: ``manifest``, ``streams``, ``unfinished``, ``file``, ``table``, ``row``,
            ``double``, ``record``, ``partitions``, ``text-index``, ``content`` or ``leftover``.
        where: The file's name in the index, or the study_id of a row.
        found: What is wrong with it.
        repair: What `repair_index` does about it.
    """

    rule: str
    where: str
    found: str
    repair: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.where}: {self.found}. Repair: {self.repair}."


@dataclasses.dataclass(frozen=True, slots=True)
class Checked:
    """What `check_index` found.

    Attributes:
        location: The index.
        n_studies: Rows that were read and compared.
        n_vectors: Vectors that were compared with their keys.
        n_files: Files that were compared with what `finish` recorded.
        defects: In the order found; none in a sound index.
        duration_s: Wall time.
    """

    location: str
    n_studies: int
    n_vectors: int
    n_files: int
    defects: tuple[Defect, ...]
    duration_s: float

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.defects


def check_index(location: Location, progress: Callable[[int, int], None] | None = None) -> Checked:
    """Compare all of an index with what it should be; change nothing.

    Args:
        progress: Called with (done, total) after each few thousand rows.

    Raises:
        InputError: There is no such folder, or it is a backup.
        Incomplete: A restore into it has not ended.
        Mismatch: It holds another stage's artifact.
        ArtifactError: The store that holds it cannot be read.
    """
    place = place_of(location)
    refuse_copy(place)
    return Check(place, progress).run()


class Check:
    """One run of `check_index`; `medfinder.index.postgres_care` has its own for a database."""

    def __init__(self, place: Place, progress: Callable[[int, int], None] | None) -> None:
        self.place = place
        self.progress = progress
        self.defects: list[Defect] = []
        self.missing: list[str] = []
        self.n_files = self.n_vectors = self.n_rows = 0

    def add(self, rule: str, where: str, found: str, repair: str) -> None:
        """Note a defect."""
        self.defects.append(Defect(rule, where, found, repair))

    def run(self) -> Checked:
        """Check all."""
        start = time.monotonic()
        manifest, streams, config = self._said()
        version = self._files()
        if streams is not None:
            self._rows(manifest, streams, config, version)
        self._leftovers()
        took = round(time.monotonic() - start, 3)
        return Checked(
            str(self.place), self.n_rows, self.n_vectors, self.n_files, tuple(self.defects), took
        )

    def _said(self) -> tuple[Manifest | None, dict[str, Stream] | None, IndexConfig]:
        """Compare what the manifest and ``streams.json`` say of the encoders."""
        manifest, streams, config = None, None, IndexConfig()
        if not any(self.place.mark(name) for name in (MANIFEST, files.STREAMS_FILE)) and not (
            files.has_table(self.place)
        ):
            raise InputError(
                f"There is no index folder at {str(self.place)!r}, or nothing of an index in it. Check "
                "the path.",
                rule="bad-location",
            )
        try:
            manifest = read_manifest(self.place, "index")
            streams, config = files.streams_of(manifest)
            if "checksum" not in json.loads(self.place.read(MANIFEST)):
                self.add("manifest", MANIFEST, "an older version wrote no checksum", "written anew")
        except Incomplete:
            self.add("unfinished", MANIFEST, "it is missing", "the index is finished")
        except Mismatch as error:
            if "was written by" in str(error):
                raise
            self.add("manifest", MANIFEST, "it is damaged", "the index is finished again")
        try:
            begun, text = read_streams(self.place)
        except (FileNotFoundError, ValueError, KeyError, TypeError, MedFinderError):
            if streams is None:
                self.add(
                    "streams",
                    files.STREAMS_FILE,
                    "neither it nor the manifest can be read",
                    "none: restore a backup",
                )
            else:
                self.add("streams", files.STREAMS_FILE, "it is damaged", "made from the manifest")
            return manifest, streams, config
        if streams is None:
            return manifest, begun, config
        is_changing = self.place.mark(UNFINISHED) is not None
        if is_changing:
            found = "a run that changed rows has not ended"
            self.add("unfinished", UNFINISHED, found, "the index is finished again")
        if text != files.streams_text(streams) and not (is_changing and are_alike(begun, streams)):
            found = "it names other encoders than the manifest"
            self.add("streams", files.STREAMS_FILE, found, "made from the manifest")
        return manifest, streams, config

    def _files(self) -> int | None:
        """Compare the files with their recorded hashes; return the version these are of."""
        said = files.read_record(self.place, files.FILES)
        if said is None or not isinstance(said.get("files"), dict):
            self.add("record", files.FILES, "missing or damaged", "written anew")
            return None
        there = {entry.name: entry for entry in files.sealed(self.place)}
        for name, held in said["files"].items():
            entry = there.get(name)
            if entry is None:  # cleaned up since, or lost: `_rows` tells, which knows the version
                self.missing.append(name)
                continue
            self.n_files += 1
            is_same = entry.size == held["size"]
            if is_same and isinstance(self.place, FolderPlace):
                with contextlib.suppress(FileNotFoundError):
                    is_same = hash_file(self.place.path / name) == held["sha256"]
            elif is_same:
                is_same = entry.mark == held["mark"]
            may_change = not name.startswith(files.TABLE) and entry.mark != held["mark"]
            if not is_same and not (may_change and self.place.mark(UNFINISHED)):
                self.add("file", name, "it is not what was written", _REPAIR_OF[kind_of(name)])
        return int(said["version"])

    def _rows(
        self,
        manifest: Manifest | None,
        streams: dict[str, Stream],
        config: IndexConfig,
        sealed: int | None,
    ) -> None:
        """Read every row, and compare all that is derived with them."""
        opened, problem = attempt(lambda: open_table(self.place))
        if opened is None:
            self.add(
                "table", files.TABLE, f"it cannot be opened ({problem})", "the version before it"
            )
            return
        if opened.schema.names != table_schema(streams).names:
            found = "its columns are not those of the encoders"
            self.add("table", files.TABLE, found, "none: index into a new place")
            return
        galleries = {name: self._gallery(name, stream) for name, stream in streams.items()}
        ids: list[str] = []
        digests: list[str] = []
        keys: dict[str, list[int]] = {name: [] for name in streams}
        version = opened.version
        self._hint(version)
        for name in self.missing if version == sealed else ():
            if kind_of(name) in KEPT:
                self.add("file", name, "it is missing", _REPAIR_OF[kind_of(name)])
        for good, bad in read_rows(opened, streams, self.progress):
            for row_id, study_id, why in bad:
                where = study_id or f"row {row_id}"
                self.add("row", where, why, "deleted; 'medfinder index' adds it again")
            if good is None:
                continue
            ids += good["study_id"].to_pylist()
            digests += good["row_digest"].to_pylist()
            for name in streams:
                chunk = good[f"key_{name}"].fill_null(0).to_numpy()
                keys[name] += chunk.tolist()
                self.n_vectors += int(np.count_nonzero(chunk))
                parts = galleries[name]
                if parts is not None and not _agree(parts, chunk, good[name]):
                    self.add(
                        "partitions",
                        files.record(name),
                        "its vectors are not the table's",
                        "made anew",
                    )
                    galleries[name] = None
        self.n_rows = len(ids)
        double = sorted({name for name in ids if name in _repeated(ids)})
        for name in double:
            self.add("double", name, "it is there twice", "the newer row stays")
        if not any(d.rule in ("row", "table", "unfinished", "manifest") for d in self.defects):
            self._derived(manifest, opened, ids, digests, keys, config, version == sealed)

    def _hint(self, version: int) -> None:
        """Check the engine's note of the newest version, which may lag behind but not ahead."""
        try:
            text = self.place.read(files.HINT)
            at = json.loads(text)["version"]
            is_sound = 0 < at <= version and json.loads(text) == {"version": at}
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError):
            is_sound = False
        if not is_sound:
            self.add("file", files.HINT, "it is not what was written", "deleted")

    def _derived(
        self,
        manifest: Manifest | None,
        table: Any,
        ids: list[str],
        digests: list[str],
        keys: dict[str, list[int]],
        config: IndexConfig,
        is_still: bool,
    ) -> None:
        """Compare counts, content, indexes and partitions with the rows."""
        order = sorted(range(len(ids)), key=lambda i: ids[i].encode("utf-8", "surrogatepass"))
        sorted_keys = {n: np.array(k, np.int64)[order] for n, k in keys.items()}
        content = finishing.content_of([digests[i] for i in order], sorted_keys, table)
        again = "the index is finished again"
        if manifest is not None and manifest.config.get("content") != content:
            self.add("content", MANIFEST, "rows have changed since the index was finished", again)
        counts = {"studies": len(ids)} | {
            name: int(np.count_nonzero(found)) for name, found in sorted_keys.items()
        }
        if manifest is not None and is_still and dict(manifest.counts) != counts:
            self.add("content", MANIFEST, "it counts other studies than there are", again)
        for name, held in sorted_keys.items():
            record = files.read_record(self.place, files.record(name))
            if record is None:
                continue  # told already
            n = int(np.count_nonzero(held))
            if is_still and n >= config.exact_below and record.get("partitions") is None:
                self.add("partitions", files.record(name), "it names none", "made anew")
        if not ids:
            return
        indexes, problem = attempt(lambda: list(table.list_indices()))
        there = {column for index in indexes or () for column in index.columns}
        missing = sorted(finishing.INDEXED - there)
        if problem or missing:
            what = problem or f"no index of {', '.join(missing)}"
            self.add("text-index", files.TABLE, what, "made anew")
            return
        text = next(index for index in indexes or () if "words" in index.columns)
        stats, problem = attempt(lambda: table.index_stats(text.name))
        if stats is None:
            self.add("text-index", files.TABLE, problem, "made anew")
        elif is_still and stats.num_indexed_rows + stats.num_unindexed_rows != len(ids):
            found = f"it covers {stats.num_indexed_rows:,} of {len(ids):,} rows"
            self.add("text-index", files.TABLE, found, "made anew")
        said = files.read_record(self.place, f"{files.DERIVED}/text.json")
        if said is None:
            self.add("record", f"{files.DERIVED}/text.json", "missing or damaged", "made anew")
        elif is_still and said["content"] not in (None, content):
            self.add("text-index", files.TABLE, "it was made of other rows", "made anew")

    def _gallery(self, column: str, stream: Stream) -> Partitions | None:
        """Check a column's record and the files of its partitions; return these."""
        name = files.record(column)
        said = files.read_record(self.place, name)
        if said is None or len(said.get("centre", ())) != stream.dim:
            self.add("record", name, "missing or damaged", "made anew")
            return None
        if "checksum" not in json.loads(self.place.read(name)):
            self.add("record", name, "an older version wrote no checksum", "made anew")
        if said["partitions"] is None:
            return None
        where = f"{files.DERIVED}/{said['partitions']}"
        parts, problem = attempt(lambda: self._partitions(said, where))
        if parts is None:
            self.add("partitions", where, problem, "made anew")
        return parts

    def _partitions(self, said: Mapping[str, Any], where: str) -> Partitions:
        record = json.loads(self.place.read(f"{where}/{RECORD}"))
        held = record.pop("checksum", None)
        if held is None or held != checksum(record):
            raise ArtifactError(f"{RECORD} is damaged, or of an older version")
        for name, file in record["files"].items():
            if _hash(self.place, f"{where}/{name}") != file["sha256"]:
                raise ArtifactError(f"{name} is damaged")
        centre = np.array(said["centre"], np.float32)
        parts = files.partitions_in(self.place, said["partitions"], centre)
        if parts is None:
            raise ArtifactError("they cannot be read")
        saved = parts.folder / "lengths.npz"
        if isinstance(self.place, FolderPlace):
            with np.load(saved) as lengths:
                there = {name: lengths[name] for name in ("centre", "inverse")}
            again = io.BytesIO()
            np.savez(again, **there)
            if (
                saved.read_bytes() != again.getvalue()
                or not np.array_equal(there["centre"], centre)
                or not np.allclose(there["inverse"], parts.computed_inverse(centre), rtol=1e-4)
            ):
                raise ArtifactError("lengths.npz is damaged")
        return parts

    def _leftovers(self) -> None:
        if not isinstance(self.place, FolderPlace):
            return  # a store shows no file before it is whole
        for name in leftovers(self.place):
            self.add("leftover", name, "a run that was killed left it", "deleted")


def leftovers(place: FolderPlace) -> Iterator[str]:
    """Yield what runs that were killed left behind: temporary files and half-built folders."""
    now = time.time()
    for entry in place.list():
        path = place.path / entry.name
        if "/.building-" in f"/{entry.name}":
            with contextlib.suppress(FileNotFoundError):
                if now - path.stat().st_mtime > _LEFT_S:
                    yield entry.name
        elif is_abandoned(path):
            yield entry.name


def are_alike(some: Mapping[str, Stream], others: Mapping[str, Stream]) -> bool:
    """Whether both make vectors that can be compared, by whatever name they are loaded."""
    return files.compared(_plain(some)) == files.compared(_plain(others))


def _plain(streams: Mapping[str, Stream]) -> dict[str, dict[str, Any]]:
    return {name: dataclasses.asdict(stream) for name, stream in streams.items()}


def read_streams(place: Place) -> tuple[dict[str, Stream], bytes]:
    """Return what ``streams.json`` says, and its bytes.

    Raises:
        FileNotFoundError, ValueError, KeyError, TypeError, MedFinderError: It says nothing usable.
    """
    text = place.read(files.STREAMS_FILE)
    said = json.loads(text)
    if said["schema"] != SCHEMA:
        raise ValueError("another schema")
    return files.streams_from(said["streams"]), text


def open_table(place: Place) -> Any:
    """Open the table as it is; unlike `Index.open` this makes none where there is none."""
    table = files.connect(place).open_table("studies")
    table.checkout(table.version)
    return table


Bad = tuple[int, str | None, str]


def read_rows(
    table: Any, streams: Mapping[str, Stream], progress: Callable[[int, int], None] | None = None
) -> Iterator[tuple[Any, list[Bad]]]:
    """Yield some rows at a time: those that are what they were, and (row id, study_id, why not)."""
    listing = table.search().select(["_rowid"]).limit(max(1, table.count_rows())).to_arrow()
    row_ids = np.sort(listing["_rowid"].to_numpy())
    for some, rows, problem in in_parts(row_ids, lambda some: _take(table, some), progress):
        if rows is not None:
            yield _verified(rows, streams)
        else:
            row_id = int(some[0])
            name, _ = attempt(lambda r=row_id: _name(table, r))  # type: ignore[misc]
            yield None, [(row_id, name, problem)]


def in_parts(
    ids: Ids, read: Callable[[Ids], T], progress: Callable[[int, int], None] | None = None
) -> Iterator[tuple[Ids, T | None, str]]:
    """Yield some ids at a time, what is read of them, and why not: then it is one id.

    Args:
        ids: Of rows. What cannot be read is halved until it is one.
        progress: Called with (done, total) after each few thousand.
    """
    for start in range(0, len(ids), _ROWS):
        pending = [ids[start : start + _ROWS]]
        while pending:
            some = pending.pop()
            found, problem = attempt(partial(read, some))
            if found is None and len(some) > 1:
                pending += [some[len(some) // 2 :], some[: len(some) // 2]]
            else:
                yield some, found, problem
        if progress is not None:
            progress(min(start + _ROWS, len(ids)), len(ids))


def _take(table: Any, row_ids: NDArray[np.uint64]) -> Any:
    found = table.take_row_ids(row_ids.tolist()).with_row_id().to_arrow()
    if len(found) != len(row_ids):
        raise ArtifactError("rows are missing")
    found.validate(full=True)
    return found.combine_chunks()


def _name(table: Any, row_id: int) -> str | None:
    names = table.take_row_ids([row_id]).select(["study_id"]).to_arrow()["study_id"].to_pylist()
    return str(names[0]) if names and names[0] else None


def _verified(rows: Any, streams: Mapping[str, Stream]) -> tuple[Any, list[Bad]]:
    """Tell the rows that are what their digests say from the others."""
    plain = rows.select([*schema().names, "words", "row_digest", "_rowid"])
    vectors = {name: _block(rows[name], stream.dim) for name, stream in streams.items()}
    keys = {name: rows[f"key_{name}"].to_pylist() for name in streams}
    bad: list[Bad] = []
    keep = np.ones(len(rows), np.bool_)
    for i in range(len(rows)):
        why = _row_problem(plain, i)
        for name in streams:
            vector = vectors[name][i]
            if why is None:
                study_id = plain["study_id"][i].as_py()
                why = vector_problem(study_id, name, keys[name][i], vector)
        if why is not None:
            keep[i] = False
            name_, _ = attempt(lambda i=i: plain["study_id"][i].as_py())  # type: ignore[misc]
            bad.append((int(plain["_rowid"][i].as_py()), name_ or None, why))
    return (rows if keep.all() else rows.filter(keep)), bad


def _row_problem(rows: Any, i: int) -> str | None:
    try:
        (row,) = rows.slice(i, 1).to_pylist()
        study = from_row(row)
        said = to_row(study)
        if any(row[name] != value for name, value in said.items()):
            return "columns made of its findings or shape are not what they are made of"
        if digest(study) != row["row_digest"]:
            return "it is not the study that was added"
        if row["words"] != (study.words or None):
            return "its words are not those of its report"
    except (ValueError, KeyError, TypeError, AttributeError, MedFinderError):
        return "it cannot be decoded"
    return None


def vector_problem(
    study_id: str, stream: str, key: int | None, vector: NDArray[np.float32] | None
) -> str | None:
    """Return why a study's vector is not the one that was added; None where it is."""
    if (key is None) != (vector is None):
        return f"its {stream} vector and its key do not go together"
    if vector is None:
        return None
    if not np.isfinite(vector).all() or abs(float(np.linalg.norm(vector)) - 1) > _LENGTH:
        return f"its {stream} vector is not of length 1"
    if key != key_of(study_id, vector):
        return f"its {stream} vector is not the one that was added"
    return None


def _block(column: Any, dim: int) -> list[NDArray[np.float32] | None]:
    """Return each row's vector, (dim,), None where there is none."""
    array = column.combine_chunks()
    there = array.is_valid().to_numpy(zero_copy_only=False)
    values = array.values.to_numpy(zero_copy_only=False).reshape(-1, dim)
    values = values[array.offset : array.offset + len(array)]
    return [row if is_there else None for row, is_there in zip(values, there, strict=True)]


def _agree(parts: Partitions, keys: NDArray[np.int64], column: Any) -> bool:
    """Whether the partitions hold these keys' vectors as the table does."""
    order = np.argsort(parts.keys, kind="stable")
    at = np.minimum(np.searchsorted(parts.keys[order], keys), len(order) - 1)
    place = order[at]
    held = np.flatnonzero((parts.keys[place] == keys) & (keys != 0))
    rows = _block(column, parts.vectors.shape[1])
    table = ((rows[i], parts.vectors[place[i]]) for i in held)
    return all(row is not None and np.array_equal(row, other) for row, other in table)


def _repeated(ids: Sequence[str]) -> set[str]:
    seen: set[str] = set()
    return {name for name in ids if name in seen or seen.add(name)}  # type: ignore[func-returns-value]


def attempt(action: Callable[[], T]) -> tuple[T | None, str]:
    """Return what `action` returns, or None and in a few words why not."""
    try:
        return action(), ""
    except MedFinderError as error:
        return None, str(error)
    except FileNotFoundError:
        return None, "a file is missing"
    except Exception:
        return None, "it cannot be read"
    except BaseException as error:
        if not is_panic(error):
            raise
        return None, "it cannot be decoded"


def _hash(place: Place, name: str) -> str:
    if isinstance(place, FolderPlace):
        return hash_file(place.path / name)
    return hashlib.sha256(place.read(name)).hexdigest()


def kind_of(name: str) -> str:
    """Return what sort of file a name is: a folder of the table, or where else it lies."""
    if not name.startswith(files.TABLE):
        return name.split("/")[0]
    return name.removeprefix(f"{files.TABLE}/").split("/")[0]


_REPAIR_OF = {
    "data": "rows that it holds whole are written anew, others deleted and named",
    "_deletions": "rows that it holds whole are written anew, others deleted and named",
    "_indices": "the indexes are made anew",
    "_versions": "put aside, unless no version is what it was: the one before it counts",
    "_transactions": "forgotten: nothing is read from it",
    files.REGIONS: "deleted; 'medfinder index --regions' makes it again",
    files.REJECTIONS: "deleted",
    files.STREAMS_FILE: "made from the manifest",
}
