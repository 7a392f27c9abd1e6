"""Partitions of an index in a store, fetched once to this machine and mapped from there.

A copy lies in the cache folder under the hash of its ``partitions.json``, which holds the size and
hash of every other file: two processes that fetch the same write the same, and what was checked when
it came is not checked again.
"""

import contextlib
import hashlib
import json
import os
import shutil
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medfinder.errors import Mismatch
from medfinder.index.partitions import RECORD
from medfinder.place import Place, cache_folder, hash_file

LENGTHS = "lengths.npz"
_UNUSED_S = 7 * 24 * 3600.0  # copies that no process has opened for so long are removed


def folder() -> Path:
    """Return the cache's folder for partitions, made where it is missing."""
    path = cache_folder() / "partitions"
    path.mkdir(exist_ok=True)
    return path


def partitions(place: Place, centre: NDArray[np.float32]) -> Path | None:
    """Return a folder of this machine with the partitions that lie at `place`; None without them.

    Raises:
        Mismatch: A file is not the one that ``partitions.json`` names.
    """
    try:
        record = place.read(RECORD)
        sizes = json.loads(record)["files"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise _damaged(place, RECORD) from None
    here = folder() / hashlib.sha256(record).hexdigest()[:32]
    here.mkdir(exist_ok=True)
    try:
        for name, said in sizes.items():
            if _size(here / name) != said["size"]:
                with _beside(here / name) as temporary:
                    place.fetch(name, temporary)
                    if hash_file(temporary) != said["sha256"]:
                        raise _damaged(place, name)
    except FileNotFoundError:  # they are being removed: their record is read again
        return None
    _fetch_lengths(place, here, centre)
    if _size(here / RECORD) != len(record):
        with _beside(here / RECORD) as temporary:
            temporary.write_bytes(record)
    os.utime(here)
    return here


def put(place: Place, built: Path) -> Path:
    """Put partitions built here at `place`, their record last; return where they lie here now."""
    record = (built / RECORD).read_bytes()
    for name in json.loads(record)["files"]:
        place.store(built / name, name)
    place.store(built / RECORD, RECORD)
    here = folder() / hashlib.sha256(record).hexdigest()[:32]
    with contextlib.suppress(OSError):  # it is there: another process has the same
        built.rename(here)
    _tidy()
    return here if (here / RECORD).is_file() else built


def _fetch_lengths(place: Place, here: Path, centre: NDArray[np.float32]) -> None:
    """Fetch the lengths for this centre; without them they are computed, which is slower."""
    with (
        contextlib.suppress(OSError, ValueError, KeyError, zipfile.BadZipFile),
        np.load(here / LENGTHS) as held,
    ):
        if np.array_equal(held["centre"], centre):
            return
    with contextlib.suppress(FileNotFoundError), _beside(here / LENGTHS) as temporary:
        place.fetch(LENGTHS, temporary)


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Hand out a name that becomes `path` when the block ends without error."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{time.monotonic_ns()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1


def _tidy() -> None:
    """Remove copies that nobody has used for long; who has them mapped keeps them until done."""
    for path in folder().iterdir():
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _UNUSED_S:
                shutil.rmtree(path, ignore_errors=True)


def _damaged(place: Place, name: str) -> Mismatch:
    return Mismatch(
        f"{name} of {str(place)!r} is not what was written: it is damaged. Run 'medfinder index' on "
        "the index with --repair."
    )
