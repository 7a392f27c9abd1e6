"""An index's folder: where its files lie, how they are opened, and how they are written safely."""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfinder.artifact import MANIFEST, SCHEMA, Manifest, atomic_write
from medfinder.config import from_dict
from medfinder.errors import ConfigError, InputError, Mismatch, UnknownName
from medfinder.index.partitions import Partitions, load
from medfinder.index.schema import STREAMS, IndexConfig, Stream, check_streams, table_schema

_TABLE = "studies"
_STREAMS = "streams.json"
_DERIVED = "derived"


def connect(folder: Path) -> Any:
    """Open the database of an index; every read checks for versions that others have written."""
    # The engine reports each new table as a warning on stderr.
    os.environ.setdefault("LANCE_LOG", "error")
    import lancedb

    return lancedb.connect(str(folder / "table"), read_consistency_interval=timedelta(0))


def table(database: Any, streams: Mapping[str, Stream]) -> Any:
    """Open the table, made empty where it is missing.

    Raises:
        Mismatch: It has other columns than this version writes.
    """
    wanted = table_schema(streams)
    try:
        opened = database.open_table(_TABLE)
    except ValueError:
        opened = database.create_table(_TABLE, schema=wanted, exist_ok=True)
    if opened.schema.names != wanted.names:
        raise Mismatch(
            "The table of this index has other columns than this version of MedFinder writes. "
            "Run 'medfinder index' into a new folder."
        )
    return opened


def begin(folder: Path, streams: Mapping[str, Stream]) -> None:
    """Make the folder, or check that what is in it was begun with the same encoders.

    Raises:
        InputError: The path is a file.
        Mismatch: The folder belongs to other encoders or another schema.
    """
    said: dict[str, Any] = {
        "schema": SCHEMA,
        "streams": {n: dataclasses.asdict(s) for n, s in streams.items()},
    }
    path = folder / _STREAMS
    try:
        folder.mkdir(parents=True, exist_ok=True)
        before = json.loads(path.read_bytes())
    except FileNotFoundError:
        _write_whole(path, said)
        return
    except (FileExistsError, NotADirectoryError):
        raise InputError(
            f"{str(folder)!r} is a file; an index is a folder. Give another path."
        ) from None
    except ValueError:
        raise Mismatch(
            f"The {_STREAMS} of {str(folder)!r} cannot be read. Remove the folder, or index into "
            "a new one."
        ) from None
    if not isinstance(before, dict) or not isinstance(before.get("streams"), dict):
        raise Mismatch(
            f"The {_STREAMS} of {str(folder)!r} does not say which encoders it holds. Remove the "
            "folder, or index into a new one."
        )
    if before.get("schema") != SCHEMA:
        raise Mismatch(
            f"{str(folder)!r} has index schema {before.get('schema')}, this version writes "
            f"{SCHEMA}. Index into a new folder."
        )
    if _compared(before["streams"]) != _compared(said["streams"]):
        held = ", ".join(f"{n}: {s.get('model_id')!r}" for n, s in before["streams"].items())
        wanted = ", ".join(f"{n}: {s.model_id!r}" for n, s in streams.items())
        raise Mismatch(
            f"{str(folder)!r} is an index of other encoders: it holds {held}; got {wanted}. "
            "Vectors of two models cannot be compared: index into a new folder."
        )
    if before != said:  # the same model by another name: a checkpoint that moved
        _write_whole(path, said)


def _compared(streams: Mapping[str, Any]) -> dict[str, Any]:
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
        streams = {n: from_dict(Stream, s) for n, s in manifest.config["streams"].items()}
        return check_streams(streams), from_dict(IndexConfig, manifest.config["settings"])
    except (KeyError, AttributeError, TypeError, ConfigError, UnknownName) as error:
        raise Mismatch(
            f"The {MANIFEST} of this index does not say which encoders it holds ({error}). "
            "Run 'medfinder index' again."
        ) from None


def lost(folder: Path, streams: Mapping[str, Stream]) -> list[str]:
    """Return which parts that a finished index has are missing or damaged, as paths in it."""
    parts = [] if (folder / "table" / f"{_TABLE}.lance").is_dir() else ["table"]
    return parts + [
        f"{_DERIVED}/{name}.json"
        for name in streams
        if _read(folder / _DERIVED / f"{name}.json") is None
    ]


def gallery(folder: Path, column: str, dim: int) -> tuple[NDArray[np.float32], Partitions | None]:
    """Return a column's centre and partitions; zero and None before the index is finished."""
    while True:
        said = _read(folder / _DERIVED / f"{column}.json")
        if said is None:
            return np.zeros(dim, np.float32), None
        centre, name = np.array(said["centre"], np.float32), said["partitions"]
        parts = None if name is None else load(folder / _DERIVED / name)
        # Partitions are dropped after the record that no longer names them: then read it again.
        if parts is not None or said == _read(folder / _DERIVED / f"{column}.json"):
            return centre, parts


def write_gallery(
    folder: Path, column: str, centre: NDArray[np.float32], partitions: str | None
) -> None:
    """Record a column's centre and the name of its partitions; readers take it up at once."""
    said = {"centre": [float(value) for value in centre], "partitions": partitions}
    path = derived(folder) / f"{column}.json"
    if _read(path) != said:
        _write(path, said)


def drop_partitions(folder: Path, column: str, keep: str) -> None:
    """Remove the column's partitions but `keep`; who has them mapped keeps them until done."""
    for path in derived(folder).glob(f"{column}-*"):
        if path.name != keep:
            shutil.rmtree(path, ignore_errors=True)


def text_record(folder: Path) -> str | None:
    """Return the hash of the content that the text index was built for; None where unknown."""
    said = _read(folder / _DERIVED / "text.json")
    return None if said is None else said["content"]


def write_text_record(folder: Path, content: str | None) -> None:
    """Record what the text index holds."""
    _write(derived(folder) / "text.json", {"content": content})


def derived(folder: Path) -> Path:
    """Return the folder of all that `finish` derives from the table, made where it is missing."""
    path = folder / _DERIVED
    path.mkdir(exist_ok=True)
    return path


def stamp(folder: Path) -> int:
    """Return a number that changes whenever a column's record is written."""
    latest = 0
    for name in STREAMS:
        with contextlib.suppress(FileNotFoundError):
            status = (folder / _DERIVED / f"{name}.json").stat()
            latest ^= hash((name, status.st_mtime_ns, status.st_ino))
    return latest


def _read(path: Path) -> dict[str, Any] | None:
    try:
        said: dict[str, Any] = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):  # damaged is as good as lost: `finish` writes it anew
        return None
    return said


def _write_whole(path: Path, said: Mapping[str, Any]) -> None:
    with atomic_write(path) as file:
        file.write(json.dumps(said, indent=2, sort_keys=True).encode() + b"\n")


def _write(path: Path, said: Mapping[str, Any]) -> None:
    with atomic_write(path) as file:
        file.write(json.dumps(said).encode())


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Let one process at a time finish the index; a killed holder lets go."""
    try:
        import fcntl
    except ImportError:  # no such lock on Windows, where two finishing at once stays unguarded
        yield
        return
    with open(folder / ".finish.lock", "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
