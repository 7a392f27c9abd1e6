"""Backup of any artifact into another place, and back: whole or not at all, and verified.

A backup keeps each file once, under its SHA-256 in ``files/``; ``backup.json``, written last, says
which name it has. So a second backup into the same place copies what is new, one that is killed
leaves the one before as it was, and each file can be verified by its name. Writers go on meanwhile:
the files of an artifact are put whole, those of a table never change, and where a run has ended in
between the copy is made once more.
"""

import contextlib
import dataclasses
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from medfinder.artifact import MANIFEST, checksum, manifest_hash, read_manifest
from medfinder.errors import Incomplete, InputError, Mismatch
from medfinder.index import folder as files
from medfinder.place import (
    Entry,
    FolderPlace,
    Location,
    Place,
    cache_folder,
    hash_file,
    is_temporary,
    place_of,
)

RECORD = "backup.json"
FILES = "files"
RESTORING = "restoring.json"
"""In a place that is being restored: which backup, so that it is gone on with."""
PRIVATE = "private"
"""What a dataset keeps of identities, which leaves its folder never."""
SCHEMA = 1
_LEFT_OUT = frozenset({files.LOCK, files.LOCK.lstrip("."), files.HINT, RESTORING, RECORD})
_VERSIONS = f"{files.TABLE}/_versions"
_TRIES = 5


@dataclasses.dataclass(frozen=True, slots=True)
class Copied:
    """What a backup or a restore did.

    Attributes:
        location: Where it was written.
        stage: Which verb wrote the artifact.
        n_files: Files of the artifact.
        n_copied: Those that were not there yet.
        n_bytes: Bytes copied.
        n_bytes_total: Bytes of the artifact.
    """

    location: str
    stage: str
    n_files: int
    n_copied: int
    n_bytes: int
    n_bytes_total: int


def backup(
    location: Location, to: Location, progress: Callable[[int, int], None] | None = None
) -> Copied:
    """Copy a finished artifact into a backup.

    Args:
        location: Of the artifact: a folder or ``s3://BUCKET/PREFIX``.
        to: Of the backup; one that is there is brought up to date.
        progress: Called with (done, total) after each file.

    Raises:
        InputError: There is no artifact, or the backup's place holds something else.
        Incomplete: The artifact has not been finished, or runs end in it faster than it is copied.
        Mismatch: A file is not what was written: the damage is not copied over a sound backup.
    """
    source, target = place_of(location), place_of(to)
    _check_apart(source, target)
    before = _record_there(target)
    for _ in range(_TRIES):
        try:
            done = _Backup(source, target, before, progress).run()
        except _Changed:
            continue
        return done
    raise Incomplete(
        f"{str(source)!r} changed again and again while it was copied. Back it up when no run of "
        "'medfinder' is ending in it."
    )


def restore(
    location: Location,
    to: Location,
    *,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Copied:
    """Write a backup's artifact, each file verified; a restore that was killed goes on.

    Args:
        location: Of the backup.
        to: Where the artifact is to lie.
        force: Write over an artifact that is there.

    Raises:
        InputError: There is no backup, or something is there already.
        Mismatch: A file of the backup is damaged; the artifact is then left unfinished.
    """
    source, target = place_of(location), place_of(to)
    _check_apart(source, target)
    record = _record_there(source)
    if record is None:
        raise InputError(
            f"There is no backup at {str(source)!r}: expected {RECORD} in it. Give the place that "
            "'medfinder backup' wrote to.",
            rule="no-backup",
        )
    return _restored(source, target, record, force, progress)


class _Changed(Exception):
    """The artifact is no longer the one that was being copied."""


class _Backup:
    def __init__(
        self,
        source: Place,
        target: Place,
        before: dict[str, Any] | None,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.source, self.target = source, target
        self.known: dict[str, Any] = {} if before is None else before["files"]
        self.progress = progress
        self.sealed: dict[str, Any] = {}
        self.n_copied = self.n_bytes = 0

    def run(self) -> Copied:
        source = self.source
        stage = _stage_of(source)
        manifest = read_manifest(source, stage)
        mark = source.mark(MANIFEST)
        if stage == "index":
            self.sealed = (files.read_record(source, files.FILES) or {}).get("files", {})
        # The versions of a table are listed first: what they need was there before them.
        versions = [entry for entry in source.list(_VERSIONS) if _is_kept(entry.name)]
        entries = versions + [
            entry
            for entry in source.list()
            if _is_kept(entry.name) and not entry.name.startswith(_VERSIONS)
        ]
        there = {entry.name.rpartition("/")[2] for entry in self.target.list(FILES)}
        said = {}
        for number, entry in enumerate(entries, 1):
            try:
                said[entry.name] = self._copy(entry, there)
            except FileNotFoundError:
                raise _Changed from None
            if self.progress is not None:
                self.progress(number, len(entries))
        # A run that ended meanwhile has cleaned up what older versions needed.
        if source.mark(MANIFEST) != mark or any(source.entry(e.name) is None for e in versions):
            raise _Changed
        record = {
            "schema": SCHEMA,
            "stage": stage,
            "artifact": manifest_hash(manifest),
            "files": said,
        }
        with self.target.write(RECORD) as file:
            text = json.dumps({**record, "checksum": checksum(record)}, indent=1, sort_keys=True)
            file.write(text.encode() + b"\n")
        for name in there - {held["sha256"] for held in said.values()}:
            self.target.delete(f"{FILES}/{name}")
        total = sum(held["size"] for held in said.values())
        return Copied(str(self.target), stage, len(said), self.n_copied, self.n_bytes, total)

    def _copy(self, entry: Entry, there: set[str]) -> dict[str, Any]:
        """Copy a file unless it is there; return what the record says of it."""
        held = self.known.get(entry.name)
        if (
            held is not None
            and (held["size"], held["mark"]) == (entry.size, entry.mark)
            and held["sha256"] in there
        ):
            return dict(held)
        with _local(self.source, entry) as path:
            found = hash_file(path)
            self._check(entry, found)
            if found not in there:
                self.target.store(path, f"{FILES}/{found}")
                there.add(found)
                self.n_copied += 1
                self.n_bytes += entry.size
        return {"size": entry.size, "mark": entry.mark, "sha256": found}

    def _check(self, entry: Entry, found: str) -> None:
        """Refuse a file of the table that is not what `finish` left."""
        held = self.sealed.get(entry.name)
        if held is None or not entry.name.startswith(files.TABLE) or not held["sha256"]:
            return
        if held["sha256"] != found:
            raise Mismatch(
                f"{entry.name} of {str(self.source)!r} is damaged: it is not what was written. The "
                "backup was left as it was. Run 'medfinder index' on the index with --check."
            )


def _restored(
    source: Place,
    target: Place,
    record: dict[str, Any],
    force: bool,
    progress: Callable[[int, int], None] | None,
) -> Copied:
    said: dict[str, Any] = record["files"]
    mark = json.dumps({"artifact": record["artifact"], "checksum": record["checksum"]}).encode()
    there = {entry.name: entry for entry in target.list()}
    is_resumed = RESTORING in there and target.read(RESTORING) == mark
    is_artifact = bool(there.keys() & {MANIFEST, files.STREAMS_FILE, RESTORING})
    if there and not is_resumed and not (force and is_artifact):
        raise InputError(
            f"{str(target)!r} is not empty; a backup is restored into an empty place. Give another "
            + ("one, or --force to write over the artifact." if is_artifact else "one."),
            rule="not-empty",
        )
    # Without a manifest it is unfinished from now on, whatever happens.
    target.delete(MANIFEST)
    with target.write(RESTORING) as file:
        file.write(mark)
    ours = {name.split("/")[0] for name in said} | {"table", files.DERIVED, files.REGIONS}
    for name in there.keys() - said.keys() - {RESTORING}:
        if name.split("/")[0] in ours:
            target.delete(name)
    n_copied = n_bytes = 0
    names = [*sorted(said.keys() - {MANIFEST}), MANIFEST]
    for number, name in enumerate(names, 1):
        held = said[name]
        if not _is_there(target, name, held, there):
            with _fetched(source, f"{FILES}/{held['sha256']}") as path:
                if hash_file(path) != held["sha256"]:
                    raise Mismatch(
                        f"The file of {name} in the backup {str(source)!r} is damaged: its content "
                        "is not what its name says. Restore another backup."
                    )
                if name == MANIFEST:
                    _seal(target, record)
                target.store(path, name)
            n_copied += 1
            n_bytes += held["size"]
        if progress is not None:
            progress(number, len(names))
    target.delete(RESTORING)
    total = sum(held["size"] for held in said.values())
    return Copied(str(target), record["stage"], len(said), n_copied, n_bytes, total)


def _seal(target: Place, record: dict[str, Any]) -> None:
    """Say of an index's files what they are here: a store and a disk mark them differently."""
    sealed = files.read_record(target, files.FILES)
    if record["stage"] != "index" or sealed is None:
        return
    for entry in files.sealed(target):
        if entry.name in sealed["files"] and entry.name in record["files"]:
            found = record["files"][entry.name]
            sealed["files"][entry.name] = {
                "size": found["size"],
                "mark": entry.mark,
                "sha256": found["sha256"],
            }
    files.write_record(target, files.FILES, sealed)


def _is_there(target: Place, name: str, held: dict[str, Any], there: dict[str, Entry]) -> bool:
    """Whether a restore that was killed has written this file."""
    if name == MANIFEST or name not in there or there[name].size != held["size"]:
        return False
    with _local(target, there[name]) as path:
        return bool(hash_file(path) == held["sha256"])


def _is_kept(name: str) -> bool:
    first = name.split("/")[0]
    return not (
        first in (PRIVATE, "damaged")
        or name in _LEFT_OUT
        or is_temporary(name)
        or "/.building-" in f"/{name}"
    )


def _stage_of(place: Place) -> str:
    """Return which verb wrote the artifact; an error if it is none."""
    try:
        return str(json.loads(place.read(MANIFEST))["stage"])
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        read_manifest(place, "index")  # says what is wrong
        raise


def _record_there(place: Place) -> dict[str, Any] | None:
    """Return what ``backup.json`` says; None where there is none.

    Raises:
        InputError: The place holds something else.
        Mismatch: It is damaged, or of another schema.
    """
    try:
        said: dict[str, Any] = json.loads(place.read(RECORD))
        held = said.pop("checksum")
    except (FileNotFoundError, NotADirectoryError):
        others = (e for e in place.list() if not e.name.startswith(f"{FILES}/"))
        other = next((e.name for e in others if not is_temporary(e.name)), None)
        if other is None:
            return None
        raise InputError(
            f"{str(place)!r} is not a backup: it holds {other.split('/')[0]!r} and no {RECORD}. Give "
            "an empty place, or that of a backup.",
            rule="not-a-backup",
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Mismatch(
            f"The {RECORD} of {str(place)!r} cannot be read. Make a backup in another place."
        ) from None
    if said.get("schema") != SCHEMA:
        raise Mismatch(
            f"The backup {str(place)!r} has schema {said.get('schema')}, this version reads {SCHEMA}."
        )
    if held != checksum(said):
        raise Mismatch(
            f"The {RECORD} of {str(place)!r} has changed since it was written. Use another backup."
        )
    return {**said, "checksum": held}


def _check_apart(source: Place, target: Place) -> None:
    one, other = (
        str(p.path.resolve()) if isinstance(p, FolderPlace) else str(p) for p in (source, target)
    )
    if f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/"):
        raise InputError(
            f"{str(target)!r} and {str(source)!r} lie within each other. Give another place.",
            rule="same-place",
        )


@contextlib.contextmanager
def _local(place: Place, entry: Entry) -> Iterator[Path]:
    """Hand out a file of this machine with the bytes; raises _Changed where it has gone."""
    if isinstance(place, FolderPlace):
        yield place.path / entry.name
        return
    with _fetched(place, entry.name) as path:
        yield path


@contextlib.contextmanager
def _fetched(place: Place, name: str) -> Iterator[Path]:
    """Hand out a file of this machine with the bytes of a place's file."""
    if isinstance(place, FolderPlace):
        yield place.path / name
        return
    handle, temporary = tempfile.mkstemp(prefix="fetched-", dir=cache_folder())
    os.close(handle)
    try:
        place.fetch(name, Path(temporary))
        yield Path(temporary)
    finally:
        os.unlink(temporary)
