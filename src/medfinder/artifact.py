"""A stage's folder: written atomically, its manifest last, its parents by hash.

A folder without ``manifest.json`` is unfinished work: the stage that writes it resumes it, every
other stage refuses it. Knows nothing of what the folder holds.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from medfinder.errors import Incomplete, InputError, Mismatch
from medfinder.place import FolderPlace, Location, atomic_write, place_of

__all__ = [
    "BACKUP",
    "MANIFEST",
    "RESTORING",
    "SCHEMA",
    "Manifest",
    "atomic_write",
    "checksum",
    "manifest_hash",
    "read_manifest",
    "refuse_copy",
    "write_manifest",
]

MANIFEST = "manifest.json"
BACKUP = "backup.json"
"""In a backup, which is no artifact: the files it keeps, by their names in the artifact."""
RESTORING = "restoring.json"
"""In a place that is being restored: which backup, so that it is gone on with."""
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


def write_manifest(folder: Location, manifest: Manifest) -> None:
    """Write the manifest, last of all.

    It holds a checksum of itself, so that a damaged one is told from another.
    """
    fields = dataclasses.asdict(manifest)
    text = json.dumps({**fields, "checksum": checksum(fields)}, indent=2, sort_keys=True)
    with place_of(folder).write(MANIFEST) as file:
        file.write(text.encode() + b"\n")


def read_manifest(folder: Location, stage: str) -> Manifest:
    """Read a finished folder's manifest.

    Raises:
        InputError: There is no such folder, or it is a backup.
        Incomplete: The folder has no manifest.
        Mismatch: Another stage's folder, a damaged manifest, or a schema this version does not read.
        ArtifactError: The store that holds it cannot be read.
    """
    place = place_of(folder)
    name = str(place)
    if isinstance(place, FolderPlace) and not place.path.is_dir():
        raise InputError(f"There is no {stage} folder at {name!r}. Check the path.")
    try:
        fields = json.loads(place.read(MANIFEST))
        said = fields.pop("checksum", None)  # older versions wrote none
        manifest = Manifest(**fields)
    except FileNotFoundError:
        if not isinstance(place, FolderPlace) and next(iter(place.list()), None) is None:
            raise InputError(f"There is no {stage} folder at {name!r}. Check the URL.") from None
        refuse_copy(place)
        raise Incomplete(
            f"The folder {name!r} has no {MANIFEST}: its stage has not finished. "
            f"Run 'medfinder {stage}' on it again; it resumes."
        ) from None
    except (ValueError, TypeError, AttributeError) as error:
        raise Mismatch(
            f"The manifest of {name!r} cannot be read: {error}. Run 'medfinder {stage}' on it again."
        ) from None
    if manifest.stage != stage:
        raise Mismatch(
            f"{name!r} was written by 'medfinder {manifest.stage}', "
            f"but this step reads what 'medfinder {stage}' writes."
        )
    if manifest.schema != SCHEMA:
        raise Mismatch(
            f"{name!r} has schema {manifest.schema}, this version reads {SCHEMA}. Run 'medfinder {stage}' again."
        )
    if said is not None and said != checksum(fields):
        raise Mismatch(
            f"The manifest of {name!r} cannot be read: it has changed since it was written. "
            f"Run 'medfinder {stage}' on it again."
        )
    return manifest


def refuse_copy(location: Location) -> None:
    """Raise where a place is a backup, or is being restored: no stage may read or write there.

    Raises:
        InputError: It is a backup.
        Incomplete: A restore into it has not ended.
    """
    place = place_of(location)
    if place.entry(RESTORING) is not None:
        raise Incomplete(
            f"A restore into {str(place)!r} has not ended. Run the same 'medfinder restore' again; "
            "it goes on. Or remove what is there."
        )
    if place.entry(BACKUP) is not None and place.entry(MANIFEST) is None:
        raise InputError(
            f"{str(place)!r} is a backup. Restore it into another place with 'medfinder restore', "
            "and give that.",
            rule="backup",
        )


def checksum(fields: Mapping[str, Any]) -> str:
    """Return 16 hex digits over what a record says, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]
