"""An index's files: where they lie, how they are opened, and how they are written safely.

The same in a folder and in a store. ``derived/`` holds a record of each column, with a checksum, that
names the column's partitions, and ``files.json``, what `finish` left of the table's files.
"""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfinder.artifact import MANIFEST, SCHEMA, Manifest, checksum, refuse_copy
from medfinder.config import from_dict
from medfinder.errors import (
    ArtifactError,
    ConfigError,
    Incomplete,
    InputError,
    Mismatch,
    UnknownName,
)
from medfinder.index import fetched
from medfinder.index.engine import is_fault
from medfinder.index.lease import leased
from medfinder.index.partitions import Partitions, load
from medfinder.index.schema import STREAMS, IndexConfig, Stream, check_streams, table_schema
from medfinder.place import RETRIES, RETRY_S, Entry, FolderPlace, Place, StorePlace, is_abandoned

TABLE = "table/studies.lance"
HINT = f"{TABLE}/_versions/latest_version_hint.json"
"""Where the engine begins to look for the newest version; the one file of the table that changes."""
_TABLE = "studies"
STREAMS_FILE = "streams.json"
DERIVED = "derived"
REGIONS = "regions"
REJECTIONS = "rejections.parquet"
FILES = f"{DERIVED}/files.json"
LOCK = ".finish.lock"


def connect(place: Place) -> Any:
    """Open the database of an index; every read checks for versions that others have written."""
    # The engine reports each new table as a warning on stderr.
    os.environ.setdefault("LANCE_LOG", "error")
    import lancedb

    options = None
    if isinstance(place, StorePlace):
        options = {
            "client_max_retries": str(RETRIES),
            "client_retry_timeout": str(int(RETRY_S)),
            "download_retry_count": str(RETRIES),
            "timeout": "60s",
            "connect_timeout": "10s",
        }
    return lancedb.connect(
        str(place.at("table")),
        read_consistency_interval=timedelta(0),
        storage_options=options,
    )


def make_table(place: Place, streams: Mapping[str, Stream]) -> None:
    """Make the table where there is none."""
    database = connect(place)
    try:
        database.open_table(_TABLE)
    except ValueError:
        database.create_table(_TABLE, schema=table_schema(streams), exist_ok=True)


def table(database: Any, place: Place, streams: Mapping[str, Stream]) -> Any:
    """Open the table.

    Raises:
        Incomplete: It is gone.
        Mismatch: It has other columns than this version writes.
    """
    try:
        opened = database.open_table(_TABLE)
    except ValueError as error:
        if is_fault(error) and has_table(place):
            raise  # it is there, and damaged
        raise Incomplete(_lost(place, ["table"])) from None
    if opened.schema.names != table_schema(streams).names:
        raise Mismatch(
            "The table of this index has other columns than this version of MedFinder writes. "
            "Run 'medfinder index' into a new place."
        )
    return opened


def has_table(place: Place) -> bool:
    """Whether there is a version of the table."""
    return any(entry.name.endswith(".manifest") for entry in place.list(f"{TABLE}/_versions"))


def version_of(name: str) -> int:
    """Return the number of a version's file: names count down from 2^64 - 1, or up, by its writer."""
    stem = name.rpartition("/")[2].partition(".")[0]
    if not stem.isdigit():
        return 0
    return (1 << 64) - 1 - int(stem) if len(stem) == 20 else int(stem)


def begin(place: Place, streams: Mapping[str, Stream]) -> None:
    """Make the folder, or check that what is in it was begun with the same encoders.

    Raises:
        InputError: The path is a file, or a backup.
        Incomplete: A restore into it has not ended.
        Mismatch: The folder belongs to other encoders or another schema.
    """
    refuse_copy(place)
    said = _said(streams)
    name = str(place)
    try:
        if isinstance(place, FolderPlace):
            place.path.mkdir(parents=True, exist_ok=True)
        before = json.loads(place.read(STREAMS_FILE))
    except FileNotFoundError:
        write_streams(place, streams)
        return
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"{name!r} is a file; an index is a folder. Give another path.") from None
    except ValueError:
        raise Mismatch(
            f"The {STREAMS_FILE} of {name!r} cannot be read. Remove the folder, or index into "
            "a new one."
        ) from None
    if not isinstance(before, dict) or not isinstance(before.get("streams"), dict):
        raise Mismatch(
            f"The {STREAMS_FILE} of {name!r} does not say which encoders it holds. Remove the "
            "folder, or index into a new one."
        )
    if before.get("schema") != SCHEMA:
        raise Mismatch(
            f"{name!r} has index schema {before.get('schema')}, this version writes "
            f"{SCHEMA}. Index into a new folder."
        )
    if compared(before["streams"]) != compared(said["streams"]):
        held = ", ".join(f"{n}: {s.get('model_id')!r}" for n, s in before["streams"].items())
        wanted = ", ".join(f"{n}: {s.model_id!r}" for n, s in streams.items())
        raise Mismatch(
            f"{name!r} is an index of other encoders: it holds {held}; got {wanted}. "
            "Vectors of two models cannot be compared: index into a new place."
        )
    if before != said:  # the same model by another name: a checkpoint that moved
        write_streams(place, streams)


def compared(streams: Mapping[str, Any]) -> dict[str, Any]:
    """Return what makes vectors comparable: all but the name that loads the encoder."""
    return {
        name: {key: value for key, value in stream.items() if key != "encoder"}
        if isinstance(stream, dict)
        else stream
        for name, stream in streams.items()
    }


def streams_of(manifest: Manifest) -> tuple[dict[str, Stream], IndexConfig]:
    """Return the encoders and settings that an index's manifest names.

    Raises:
        Mismatch: It does not name them as this version does.
    """
    try:
        return streams_from(manifest.config["streams"]), from_dict(
            IndexConfig, manifest.config["settings"]
        )
    except (KeyError, AttributeError, TypeError, ConfigError, UnknownName) as error:
        raise Mismatch(
            f"The {MANIFEST} of this index does not say which encoders it holds ({error}). "
            "Run 'medfinder index' again."
        ) from None


def streams_from(said: Mapping[str, Any]) -> dict[str, Stream]:
    """Return the encoders that a record names.

    Raises:
        ConfigError, UnknownName, AttributeError, TypeError: It does not name them.
    """
    return check_streams({name: from_dict(Stream, fields) for name, fields in said.items()})


def lost(place: Place, streams: Mapping[str, Stream]) -> list[str]:
    """Return which parts that a finished index has are missing or damaged, as paths in it."""
    parts = [] if has_table(place) else ["table"]
    return parts + [record(name) for name in streams if read_record(place, record(name)) is None]


def check_whole(place: Place, streams: Mapping[str, Stream]) -> None:
    """Raise Incomplete where a finished index has lost a part."""
    if missing := lost(place, streams):
        raise Incomplete(_lost(place, missing))


def _lost(place: Place, missing: list[str]) -> str:
    return (
        f"The index {str(place)!r} has lost {', '.join(missing)}. Run 'medfinder index' on it "
        "again; it makes what is missing."
    )


def record(column: str) -> str:
    """Return the name of a column's record."""
    return f"{DERIVED}/{column}.json"


def gallery(place: Place, column: str, dim: int) -> tuple[NDArray[np.float32], Partitions | None]:
    """Return a column's centre and partitions; zero and None before the index is finished."""
    while True:
        said = read_record(place, record(column))
        if said is None:
            return np.zeros(dim, np.float32), None
        centre, name = np.array(said["centre"], np.float32), said["partitions"]
        parts = None if name is None else partitions_in(place, name, centre)
        # Partitions are dropped after the record that no longer names them: then read it again.
        if parts is not None or said == read_record(place, record(column)):
            return centre, parts


def partitions_in(place: Place, name: str, centre: NDArray[np.float32]) -> Partitions | None:
    """Return the partitions of that name, fetched to this machine where they lie in a store."""
    if isinstance(place, FolderPlace):
        return load(place.path / DERIVED / name)
    folder = fetched.partitions(place.at(f"{DERIVED}/{name}"), centre)
    return None if folder is None else load(folder)


def keep_partitions(place: Place, name: str, built: Path) -> Partitions:
    """Move finished partitions to where readers find them, under `name`."""
    if isinstance(place, FolderPlace):
        target = place.path / DERIVED / name
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(exist_ok=True)
        built.rename(target)
    else:
        target = fetched.put(place.at(f"{DERIVED}/{name}"), built)
    made = load(target)
    assert made is not None
    return made


def keep_lengths(place: Place, parts: Partitions, name: str, centre: NDArray[np.float32]) -> None:
    """Save what a search with this centre needs of each row, beside the partitions."""
    parts.save_inverse(centre)
    if not isinstance(place, FolderPlace):
        place.store(parts.folder / fetched.LENGTHS, f"{DERIVED}/{name}/{fetched.LENGTHS}")


def write_gallery(
    place: Place, column: str, centre: NDArray[np.float32], partitions: str | None
) -> None:
    """Record a column's centre and the name of its partitions; readers take it up at once."""
    said = {"centre": [float(value) for value in centre], "partitions": partitions}
    if read_record(place, record(column)) != said:
        write_record(place, record(column), said)


def drop_partitions(place: Place, column: str, keep: str | None) -> None:
    """Remove the column's partitions but `keep`; who has them mapped keeps them until done."""
    if isinstance(place, FolderPlace):
        for path in (place.path / DERIVED).glob(f"{column}-*"):
            if path.name != keep:
                shutil.rmtree(path, ignore_errors=True)
        return
    for entry in list(place.list(DERIVED)):
        name = entry.name.split("/")[1]
        if name.startswith(f"{column}-") and name != keep:
            place.delete(entry.name)


def text_record(place: Place) -> str | None:
    """Return the hash of the content that the text index was built for; None where unknown."""
    said = read_record(place, f"{DERIVED}/text.json")
    return None if said is None else said["content"]


def write_text_record(place: Place, content: str | None) -> None:
    """Record what the text index holds."""
    write_record(place, f"{DERIVED}/text.json", {"content": content})


def stamp(place: Place) -> int:
    """Return a number that changes whenever a column's record is written."""
    if isinstance(place, FolderPlace):
        marks = {record(name): place.mark(record(name)) for name in STREAMS}
    else:  # one request, not one a column
        marks = {entry.name: entry.mark for entry in place.list(DERIVED)}
    return hash(tuple(marks.get(record(name)) for name in STREAMS))


def working_folder(place: Place) -> Path:
    """Return a folder of this machine for what is being built, on the index's disk where it has one."""
    if isinstance(place, FolderPlace):
        path = place.path / DERIVED
        path.mkdir(exist_ok=True)
        return path
    return fetched.folder()


def sealed(place: Place) -> Iterator[Entry]:
    """Yield the files that `FILES` records: the table's, which never change, and what lies beside."""
    yield from (entry for entry in place.list(TABLE) if entry.name != HINT)
    yield from place.list(REGIONS)
    for name in (STREAMS_FILE, REJECTIONS):
        if (entry := place.entry(name)) is not None:
            yield entry


def read_record(place: Place, name: str) -> dict[str, Any] | None:
    """Return a record of ``derived/``; None where it is missing or damaged: `finish` writes it anew."""
    try:
        said = json.loads(place.read(name))
        held = said.pop("checksum", None)  # older versions wrote none
    except (FileNotFoundError, NotADirectoryError, ValueError, AttributeError):
        return None
    return said if held in (None, checksum(said)) else None


def write_record(place: Place, name: str, said: Mapping[str, Any]) -> None:
    """Write a record of ``derived/``, with a checksum of what it says."""
    with place.write(name) as file:
        file.write(json.dumps({**said, "checksum": checksum(said)}).encode())


def write_streams(place: Place, streams: Mapping[str, Stream]) -> None:
    """Write which encoders the index was begun with."""
    with place.write(STREAMS_FILE) as file:
        file.write(streams_text(streams))


def streams_text(streams: Mapping[str, Stream]) -> bytes:
    """Return what `write_streams` writes."""
    return json.dumps(_said(streams), indent=2, sort_keys=True).encode() + b"\n"


def _said(streams: Mapping[str, Stream]) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "streams": {n: dataclasses.asdict(s) for n, s in streams.items()},
    }


@contextlib.contextmanager
def lock(place: Place) -> Iterator[Callable[[], None]]:
    """Let one process at a time finish the index; a killed holder lets go.

    Yields:
        What raises ArtifactError where the lock was lost meanwhile.
    """
    if isinstance(place, StorePlace):
        with leased(place, LOCK.lstrip(".")) as check:
            yield check
        return
    if not isinstance(place, FolderPlace):
        raise ArtifactError(f"{str(place)!r} knows no locks.")
    try:
        import fcntl
    except ImportError:  # no such lock on Windows, where two finishing at once stays unguarded
        yield _nothing
        return
    with open(place.path / LOCK, "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield _nothing


def clear(place: Place) -> None:
    """Remove what killed writers left; call it with the lock held, which one `finish` has at a time."""
    if not isinstance(place, FolderPlace):  # an object in a store is written whole or not at all
        return
    for under in ("", DERIVED, REGIONS):
        for path in (place.path / under).glob(".*"):
            is_abandoned(path, remove=True)
    for path in (place.path / DERIVED).glob(".building-*"):
        shutil.rmtree(path, ignore_errors=True)


def _nothing() -> None:
    pass
