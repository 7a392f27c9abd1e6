"""A stage's folder: written atomically, its manifest last, its parents by hash.

A folder without ``manifest.json`` is unfinished work: the stage that writes it resumes it, every
other stage refuses it. Knows nothing of what the folder holds.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from medfinder.errors import Incomplete, InputError, Mismatch

MANIFEST = "manifest.json"
SCHEMA = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Manifest:
    """What a finished stage says of its folder.

    Attributes:
        stage: ``"curate"``, ``"index"``, ``"train"``, …
        config: The resolved configuration.
        parents: Name of each input → its `manifest_hash` (or content hash, for raw input).
        counts: Such as ``{"studies": 13, "rejected": 4}``.
        seed: Of any randomness; None when the stage has none.
        duration_s: Wall time of the run that finished it; not part of the hash.
        package_version: MedFinder's.
        schema: Of the manifest and the folder.
    """

    stage: str
    config: Mapping[str, Any]
    parents: Mapping[str, str]
    counts: Mapping[str, int]
    seed: int | None = None
    duration_s: float = 0.0
    package_version: str = ""
    schema: int = SCHEMA


def manifest_hash(manifest: Manifest) -> str:
    """Return 16 hex digits over all that determines the folder's content."""
    fields = dataclasses.asdict(manifest)
    del fields["duration_s"]
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def write_manifest(folder: Path, manifest: Manifest) -> Path:
    """Write the manifest, last of all, and return its path."""
    path = folder / MANIFEST
    with atomic_write(path) as file:
        file.write(
            json.dumps(dataclasses.asdict(manifest), indent=2, sort_keys=True).encode() + b"\n"
        )
    return path


def read_manifest(folder: Path, stage: str) -> Manifest:
    """Read a finished folder's manifest.

    Raises:
        InputError: There is no such folder.
        Incomplete: The folder has no manifest.
        Mismatch: Another stage's folder, or a schema this version does not read.
    """
    if not folder.is_dir():
        raise InputError(f"There is no {stage} folder at {str(folder)!r}. Check the path.")
    try:
        fields = json.loads((folder / MANIFEST).read_bytes())
        manifest = Manifest(**fields)
    except FileNotFoundError:
        raise Incomplete(
            f"The folder {str(folder)!r} has no {MANIFEST}: its stage has not finished. "
            f"Run 'medfinder {stage}' on it again; it resumes."
        ) from None
    except (ValueError, TypeError) as error:
        raise Mismatch(
            f"The manifest of {str(folder)!r} cannot be read: {error}. Run 'medfinder {stage}' on "
            "it again."
        ) from None
    if manifest.stage != stage:
        raise Mismatch(
            f"{str(folder)!r} was written by 'medfinder {manifest.stage}', "
            f"but this step reads what 'medfinder {stage}' writes."
        )
    if manifest.schema != SCHEMA:
        raise Mismatch(
            f"{str(folder)!r} has schema {manifest.schema}, this version reads {SCHEMA}. Run 'medfinder {stage}' again."
        )
    return manifest


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file beside `path` that replaces it when the block ends without error.

    After a crash at any moment `path` holds either its old or its new bytes, whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
