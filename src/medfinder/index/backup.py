"""Backup of any artifact into another place, and back: whole or not at all, and verified.

A backup keeps each file once, under its SHA-256 in ``files/``; ``backup.json``, written last, says
which name it has. So a second backup into the same place copies what is new, one that is killed
leaves the one before as it was, and each file can be verified by its name. What the backup before
holds is verified by the next: success says that this backup can be restored. Writers go on meanwhile:
the files of an artifact are put whole, those of a table never change, and where a run has ended in
between the copy is made once more.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shlex
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medfinder.artifact import (
    BACKUP,
    MANIFEST,
    RESTORING,
    Manifest,
    checksum,
    manifest_hash,
    read_manifest,
)
from medfinder.errors import ArtifactError, Incomplete, InputError, Mismatch
from medfinder.index import folder as files
from medfinder.index import partitions
from medfinder.index.check import KEPT, attempt, kind_of, open_table
from medfinder.index.interface import UNFINISHED
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

FILES = "files"
PRIVATE = "private"
"""What a dataset keeps of identities, which leaves its folder never."""
SCHEMA = 1
_LEFT_OUT = frozenset({files.LOCK, files.LOCK.lstrip("."), files.HINT, RESTORING, BACKUP})
_VERSIONS = f"{files.TABLE}/_versions"
_TRIES = 5
_NAMED = 3  # files that a message names

Progress = Callable[[int, int], None]


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


def backup(location: Location, to: Location, progress: Progress | None = None) -> Copied:
    """Copy a finished artifact into a backup.

    Args:
        location: Of the artifact: a folder or ``s3://BUCKET/PREFIX``.
        to: Of the backup; one that is there is brought up to date. It must be of the same stage and,
            for an index, of the same encoders; the artifact may have been moved since.
        progress: Called with (done, total) after each file.

    Raises:
        InputError: There is no artifact, or the backup's place holds something else.
        Incomplete: The artifact has not been finished, or runs end in it faster than it is copied.
        Mismatch: A file is not what was written: the damage is not copied over a sound backup.
        ArtifactError: The artifact has lost a file, or one cannot be read or written.
    """
    source, target = place_of(location), place_of(to)
    _check_places(source, target)
    with _explained(source, target):
        before = _record_there(target)
        for _ in range(_TRIES):
            try:
                return _Backup(source, target, before, progress).run()
            except _Changed:
                continue
    raise Incomplete(
        f"{str(source)!r} changed again and again while it was copied. Back it up when no run of "
        "'medfinder' is ending in it."
    )


def restore(
    location: Location,
    to: Location,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> Copied:
    """Write a backup's artifact, each file verified; a restore that was killed goes on.

    Args:
        location: Of the backup.
        to: Where the artifact is to lie.
        force: Write over an artifact of the same stage that is there, once all of the backup has
            been verified.
        progress: Called with (done, total) after each file; twice for each with `force`.

    Raises:
        InputError: There is no backup, or something is there already.
        Mismatch: A file of the backup is missing or damaged; what is there is then left as it was or,
            in a place that was empty, unfinished.
        ArtifactError: A file cannot be read or written.
    """
    source, target = place_of(location), place_of(to)
    _check_places(source, target)
    with _explained(source, target):
        record = _record_there(source)
        if record is None:
            raise InputError(
                f"There is no backup at {str(source)!r}: expected {BACKUP} in it. Give the place "
                "that 'medfinder backup' wrote to.",
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
        progress: Progress | None,
    ) -> None:
        self.source, self.target, self.before = source, target, before
        self.known: dict[str, Any] = {} if before is None else before["files"]
        self.progress = progress
        self.mark: str | None = None
        self.sealed: dict[str, Any] = {}
        self.version: int | None = None
        self.there: dict[str, Entry] = {}
        self.sound: set[str] = set()
        self.n_copied = self.n_bytes = 0

    def run(self) -> Copied:
        source, target = self.source, self.target
        stage = _stage_of(source)
        manifest = read_manifest(source, stage)
        self.mark = source.mark(MANIFEST)
        self._check_same(stage, manifest)
        if stage == "index":
            self._read_sealed(manifest)
        # The versions of a table are listed first: what they need was there before them.
        versions = [entry for entry in source.list(_VERSIONS) if _is_kept(entry.name)]
        entries = versions + [
            entry
            for entry in source.list()
            if _is_kept(entry.name) and not entry.name.startswith(_VERSIONS)
        ]
        if stage == "index":
            self._read_partitions(manifest)
        self.there = {entry.name.rpartition("/")[2]: entry for entry in target.list(FILES)}
        said = {}
        for number, entry in enumerate(entries, 1):
            try:
                said[entry.name] = self._copy(entry)
            except FileNotFoundError:
                raise _Changed from None
            if self.progress is not None:
                self.progress(number, len(entries))
        lost = self._lost(stage, said, versions)
        # A run that ended meanwhile has cleaned up what older versions needed.
        names = [entry.name for entry in versions]
        if self._has_run() or any(source.entry(name) is None for name in names):
            raise _Changed
        if lost:
            if {e.name for e in source.list(_VERSIONS) if _is_kept(e.name)} != {*names}:
                raise _Changed  # a run deletes rows first, and then what lies beside them
            raise self._refusal(stage, lost)
        held = {said_["sha256"] for said_ in said.values()}
        record = {
            "schema": SCHEMA,
            "stage": stage,
            "artifact": manifest_hash(manifest),
            "files": said,
            "marks": self._marks(held),
        }
        with target.write(BACKUP) as file:
            text = json.dumps({**record, "checksum": checksum(record)}, indent=1, sort_keys=True)
            file.write(text.encode() + b"\n")
        for name in self.there.keys() - held:
            target.delete(f"{FILES}/{name}")
        total = sum(said_["size"] for said_ in said.values())
        return Copied(str(target), stage, len(said), self.n_copied, self.n_bytes, total)

    # -- what the backup before is -------------------------------------------------

    def _check_same(self, stage: str, manifest: Manifest) -> None:
        """Refuse to bring a backup of something else up to date."""
        if self.before is None:
            return
        if (held := self.before["stage"]) != stage:
            raise InputError(
                f"{str(self.target)!r} is a backup of what 'medfinder {held}' wrote, and "
                f"{str(self.source)!r} was written by 'medfinder {stage}'. Give another place.",
                rule="other-backup",
            )
        if stage != "index" or (kept := self._streams_kept()) is None:
            return
        streams = manifest.config.get("streams", {})
        if files.compared(kept) != files.compared(streams):
            raise InputError(
                f"{str(self.target)!r} is a backup of an index of other encoders: it holds "
                f"{_models(kept)}; {str(self.source)!r} holds {_models(streams)}. Give another place.",
                rule="other-backup",
            )

    def _streams_kept(self) -> dict[str, Any] | None:
        """Return the encoders of the index in the backup before; None where it cannot tell."""
        try:
            name = self.known[MANIFEST]["sha256"]
            streams = json.loads(self.target.read(f"{FILES}/{name}"))["config"]["streams"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        return streams if isinstance(streams, dict) else None

    def _is_there(self, sha256: str, size: int) -> bool:
        """Whether the backup holds this file, undamaged.

        A folder's files are read again each time. A store looks after its own bits: what has the
        mark that the backup before noted is not fetched.
        """
        entry = self.there.get(sha256)
        if entry is None or entry.size != size:
            return False
        if sha256 not in self.sound:
            marks = {} if self.before is None else self.before.get("marks", {})
            if isinstance(self.target, FolderPlace) or marks.get(sha256) != entry.mark:
                with _local(self.target, entry) as path:
                    if hash_file(path) != sha256:
                        return False
            self.sound.add(sha256)
        return True

    def _marks(self, held: set[str]) -> dict[str, str]:
        """Return how a store marks the files that were verified or written; none of a folder's."""
        if isinstance(self.target, FolderPlace):
            return {}
        found = {entry.name.rpartition("/")[2]: entry.mark for entry in self.target.list(FILES)}
        return {name: mark for name, mark in found.items() if name in held}

    # -- copying -------------------------------------------------------------------

    def _copy(self, entry: Entry) -> dict[str, Any]:
        """Copy a file unless it is there; return what the record says of it."""
        held = self.known.get(entry.name)
        if (
            held is not None
            and (held["size"], held["mark"]) == (entry.size, entry.mark)
            and self._is_there(held["sha256"], held["size"])
        ):
            return dict(held)
        with _local(self.source, entry) as path:
            found, size = hash_file(path), path.stat().st_size
            self._check(entry, found, size)
            if not self._is_there(found, size):
                self.target.store(path, f"{FILES}/{found}")
                if isinstance(self.source, FolderPlace) and not self._is_still(entry):
                    self.target.delete(f"{FILES}/{found}")  # it may hold what came after
                    raise _Changed
                self.there[found] = Entry(found, size, "")
                self.sound.add(found)
                self.n_copied += 1
                self.n_bytes += size
        return {"size": size, "mark": entry.mark, "sha256": found}

    def _check(self, entry: Entry, found: str, size: int) -> None:
        """Refuse a file of an index that is not what `finish` left."""
        held = self.sealed.get(entry.name)
        if held is None:
            return
        is_same = size == held["size"] and held["sha256"] in ("", found)
        if entry.name.startswith(files.TABLE):
            is_same &= bool(held["sha256"]) or held["mark"] == entry.mark
        elif "mark" in held:  # what lies beside the table may be written again
            is_same |= held["mark"] != entry.mark
        if is_same:
            return
        if self._has_run() or not self._is_still(entry):
            raise _Changed
        raise Mismatch(
            f"{entry.name} of {str(self.source)!r} is damaged: it is not what was written. The "
            "backup was left as it was. Run 'medfinder index' on the index with --check."
        )

    def _has_run(self) -> bool:
        """Whether a run has ended in the artifact since this copy began."""
        return self.source.mark(MANIFEST) != self.mark

    def _is_still(self, entry: Entry) -> bool:
        return self.source.mark(entry.name) == entry.mark

    # -- what an index needs -------------------------------------------------------

    def _read_sealed(self, manifest: Manifest) -> None:
        """Read what `finish` left of the files; refuse an index that has lost a part of it."""
        lost = files.lost(self.source, files.streams_of(manifest)[0])
        said = files.read_record(self.source, files.FILES)
        if said is None or not isinstance(said.get("files"), dict):
            lost.append(files.FILES)
        else:
            self.sealed, self.version = dict(said["files"]), int(said["version"])
        if lost:
            if self._has_run():
                raise _Changed
            raise self._refusal("index", lost)

    def _read_partitions(self, manifest: Manifest) -> None:
        """Add the partitions' files, whose hashes lie beside them."""
        for name in files.streams_of(manifest)[0]:
            said = files.read_record(self.source, files.record(name)) or {}
            if said.get("partitions") is None:
                continue
            where = f"{files.DERIVED}/{said['partitions']}"
            self.sealed[f"{where}/{partitions.RECORD}"] = None
            try:
                held = json.loads(self.source.read(f"{where}/{partitions.RECORD}"))["files"]
                for file, of in held.items():
                    of = {"size": of["size"], "sha256": of["sha256"]}
                    self.sealed[f"{where}/{file}"] = of
            except (FileNotFoundError, ValueError, KeyError, TypeError):
                continue

    def _lost(self, stage: str, said: Mapping[str, Any], versions: Sequence[Entry]) -> list[str]:
        """Return which files of what was copied are missing."""
        if stage != "index":
            # Nothing has run since the backup before: what that holds must be there.
            before, now = (held.get(MANIFEST, {}).get("sha256") for held in (self.known, said))
            is_same = before is not None and before == now
            return sorted(self.known.keys() - said.keys()) if is_same else []
        missing = sorted(self.sealed.keys() - said.keys())
        lost = [name for name in missing if name.startswith(files.DERIVED)]
        if files.STREAMS_FILE not in said:
            lost.append(files.STREAMS_FILE)
        version = max((files.version_of(entry.name) for entry in versions), default=0)
        if version == self.version:
            return lost + [name for name in missing if kind_of(name) in KEPT]
        # Rows have changed since: some of those files were cleaned up, others have come.
        if version < (self.version or 0) or attempt(lambda: self._read_rows(version))[0] is None:
            lost.append(files.TABLE)
        return lost

    def _read_rows(self, version: int) -> int:
        """Read a column of each file that a version of the table needs; return the rows."""
        table = open_table(self.source)
        table.checkout(version)
        listing = table.search().select(["study_id"]).limit(max(1, table.count_rows()))
        return sum(batch.num_rows for batch in listing.to_batches())

    def _refusal(self, stage: str, lost: Sequence[str]) -> ArtifactError:
        more = f" and {len(lost) - _NAMED} more" if len(lost) > _NAMED else ""
        where = str(self.source)
        then = (
            f"Run 'medfinder index {shlex.quote(where)} --check', which tells what --repair mends; "
            "or restore the backup."
            if stage == "index"
            else "Restore the backup; or, if they are no longer wanted, back up into another place."
        )
        return ArtifactError(
            f"{where!r} has lost {', '.join(lost[:_NAMED])}{more}. The backup was left as it was. "
            f"{then}"
        )


def _models(streams: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {said.get('model_id')!r}" for name, said in streams.items())


def _restored(
    source: Place,
    target: Place,
    record: dict[str, Any],
    force: bool,
    progress: Progress | None,
) -> Copied:
    said: dict[str, Any] = record["files"]
    mark = {"artifact": record["artifact"], "checksum": record["checksum"]}
    there = {entry.name: entry for entry in target.list()}
    begun = _json(target, RESTORING) if RESTORING in there else {}
    is_begun = {name: begun.get(name) for name in mark} == mark
    is_resumed = is_begun and not _is_newer(target, there, said)
    is_artifact = bool(there.keys() & {MANIFEST, files.STREAMS_FILE, RESTORING})
    _check_stage(target, there, begun, record["stage"])
    if there and not is_resumed and not (force and is_artifact):
        what = (
            f"{str(target)!r} was written to after a restore into it had stopped."
            if is_begun
            else f"{str(target)!r} is not empty; a backup is restored into an empty place."
        )
        or_force = ", or --force to write over the artifact" if is_artifact else ""
        raise InputError(f"{what} Give another place{or_force}.", rule="not-empty")
    # What is written over cannot be had again: then all of the backup is read before, and again after.
    is_over = bool(there) and not is_resumed
    _verify(source, record, progress if is_over else None, is_over)
    with target.write(RESTORING) as file:
        file.write(json.dumps({**mark, "stage": record["stage"]}).encode())
    # Without a manifest it is unfinished from now on, whatever happens.
    target.delete(MANIFEST)
    ours = {name.split("/")[0] for name in said}
    ours |= {"table", files.DERIVED, files.REGIONS, UNFINISHED}
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
                    raise _damaged(source, name)
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


def _check_stage(
    target: Place, there: Mapping[str, Entry], begun: Mapping[str, Any], stage: str
) -> None:
    """Refuse to write over another stage's artifact, which nobody means."""
    said = _json(target, MANIFEST) if MANIFEST in there else dict(begun)
    if said.pop("checksum", None) not in (None, checksum(said)) and MANIFEST in there:
        said = {}  # it is damaged
    held = said.get("stage")
    if held is None and files.STREAMS_FILE in there and RESTORING not in there:
        held = "index"
    if held not in (None, stage):
        raise InputError(
            f"{str(target)!r} was written by 'medfinder {held}', and this is a backup of what "
            f"'medfinder {stage}' wrote. Give another place.",
            rule="other-stage",
        )


def _is_newer(target: Place, there: Mapping[str, Entry], said: Mapping[str, Any]) -> bool:
    """Whether a stage has run where a restore had stopped."""
    if UNFINISHED in there and UNFINISHED not in said:
        return True
    return MANIFEST in there and (
        hashlib.sha256(target.read(MANIFEST)).hexdigest() != said[MANIFEST]["sha256"]
    )


def _verify(
    source: Place, record: Mapping[str, Any], progress: Progress | None, all_: bool
) -> None:
    """Refuse a backup that lacks a file, or whose files have another size or, if told, content."""
    there = {entry.name.rpartition("/")[2]: entry for entry in source.list(FILES)}
    sound: set[str] = set()
    for number, (name, held) in enumerate(record["files"].items(), 1):
        entry = there.get(held["sha256"])
        if entry is None:
            raise Mismatch(
                f"The backup {str(source)!r} has lost the file of {name}, {FILES}/{held['sha256']}. "
                "Restore another backup."
            )
        if entry.size != held["size"]:
            raise _damaged(source, name)
        if all_ and held["sha256"] not in sound:
            with _local(source, entry) as path:
                if hash_file(path) != held["sha256"]:
                    raise _damaged(source, name)
            sound.add(held["sha256"])
        if progress is not None:
            progress(number, len(record["files"]))


def _damaged(source: Place, name: str) -> Mismatch:
    return Mismatch(
        f"The file of {name} in the backup {str(source)!r} is damaged: its content is not what its "
        "name says. Restore another backup."
    )


def _json(place: Place, name: str) -> dict[str, Any]:
    """Return what a file says; nothing where it cannot be read."""
    try:
        said = json.loads(place.read(name))
    except (FileNotFoundError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


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
        said: dict[str, Any] = json.loads(place.read(BACKUP))
        held = said.pop("checksum")
    except (FileNotFoundError, NotADirectoryError):
        others = (e for e in place.list() if not e.name.startswith(f"{FILES}/"))
        other = next((e.name for e in others if not is_temporary(e.name)), None)
        if other is None:
            return None
        raise InputError(
            f"{str(place)!r} is not a backup: it holds {other.split('/')[0]!r} and no {BACKUP}. Give "
            "an empty place, or that of a backup.",
            rule="not-a-backup",
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Mismatch(
            f"The {BACKUP} of {str(place)!r} cannot be read. Make a backup in another place."
        ) from None
    if said.get("schema") != SCHEMA:
        raise Mismatch(
            f"The backup {str(place)!r} has schema {said.get('schema')}, this version reads {SCHEMA}."
        )
    if held != checksum(said):
        raise Mismatch(
            f"The {BACKUP} of {str(place)!r} has changed since it was written. Use another backup."
        )
    return {**said, "checksum": held}


def _check_places(source: Place, target: Place) -> None:
    """Refuse places that are no folders, or lie within each other."""
    for place in (source, target):
        if isinstance(place, FolderPlace):
            _check_folder(place.path)
    one, other = (
        str(p.path.resolve()) if isinstance(p, FolderPlace) else str(p) for p in (source, target)
    )
    if f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/"):
        raise InputError(
            f"{str(target)!r} and {str(source)!r} lie within each other. Give another place.",
            rule="same-place",
        )


def _check_folder(path: Path) -> None:
    """Refuse what neither is a folder nor can become one."""
    for part in (path, *path.parents):
        if part.is_dir():
            return
        if part.is_symlink() and not part.exists():
            raise InputError(
                f"{str(part)!r} is a link to what is not there. Mend it, or give another path.",
                rule="bad-location",
            )
        if part.exists():
            raise InputError(
                f"{str(part)!r} is a file, where a folder is expected. Give another path.",
                rule="bad-location",
            )


@contextlib.contextmanager
def _explained(source: Place, target: Place) -> Iterator[None]:
    """Name the places where a disk refuses."""
    try:
        yield
    except BrokenPipeError:  # of whoever is told of the progress
        raise
    except OSError as error:
        which = f" ({error.filename})" if error.filename else ""
        raise ArtifactError(
            f"{str(source)!r} could not be copied to {str(target)!r}: {error.strerror or error}"
            f"{which}. Check the space and the permissions, and run the same command again; it "
            "goes on."
        ) from error


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
