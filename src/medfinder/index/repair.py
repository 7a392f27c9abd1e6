"""An index made sound again: what cannot be trusted is deleted and named, what is derived is made anew.

``medfinder index`` adds what was deleted from the studies. What a file holds whole stays, even where
another part of the file is damaged.
"""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import numpy as np

from medfinder.artifact import MANIFEST, Manifest, read_manifest
from medfinder.errors import ArtifactError
from medfinder.index import folder as files
from medfinder.index.check import (
    Checked,
    attempt,
    check_index,
    kind_of,
    leftovers,
    open_table,
    read_rows,
    read_streams,
)
from medfinder.index.engine import told
from medfinder.index.schema import IndexConfig, Stream, table_schema
from medfinder.index.store import Index
from medfinder.place import FolderPlace, Location, Place, place_of

REPAIRED = "repaired.json"
"""In the index's folder: what each repair found and dropped."""
_AT_ONCE = timedelta(milliseconds=1)


@dataclasses.dataclass(frozen=True, slots=True)
class Repaired:
    """What `repair_index` did.

    Attributes:
        before: What was wrong.
        dropped: study_ids of the rows that were deleted, sorted: ``medfinder index`` adds them.
        n_unnamed: Rows that were deleted and whose study_id could not be read either.
        removed: Other files that were deleted and are not made again by the repair.
        after: What is still wrong; sound, unless a writer came between.
    """

    before: Checked
    dropped: tuple[str, ...]
    n_unnamed: int
    removed: tuple[str, ...]
    after: Checked


def repair_index(
    location: Location, progress: Callable[[int, int], None] | None = None
) -> Repaired:
    """Mend what `check_index` finds: drop what cannot be trusted, make anew what is derived.

    What was dropped is listed in the answer and in ``repaired.json``. A repair that is killed can be
    run again. Readers go on meanwhile.

    Raises:
        InputError: There is no such folder.
        Mismatch: It holds another stage's artifact.
        ArtifactError: Too much is lost: restore it from a backup.
    """
    place = place_of(location)
    before = check_index(place, progress)
    if before.is_sound:
        return Repaired(before, (), 0, (), before)
    done = _Repair(place, before).run()
    after = check_index(place, progress)
    return dataclasses.replace(done, after=after)


class _Repair:
    def __init__(self, place: Place, before: Checked) -> None:
        self.place = place
        self.before = before
        self.dropped: list[str] = []
        self.n_unnamed = 0
        self.removed: list[str] = []
        self.bad = {d.where for d in before.defects if d.rule == "file"}

    def of(self, kind: str) -> list[str]:
        return sorted(name for name in self.bad if kind_of(name) == kind)

    def run(self) -> Repaired:
        place, rules = self.place, {d.rule for d in self.before.defects}
        manifest, _ = attempt(lambda: read_manifest(place, "index"))
        streams, config = self._streams(manifest)
        with told(place), files.lock(place):
            self._put_versions_aside()
            table = self._table()
            if table.schema.names != table_schema(streams).names:
                raise too_much(place, "its table has other columns")
            if rules & {"row"} or self.of("data") or self.of("_deletions"):
                self._rewrite(table, streams)
            if self.of("_indices") or "text-index" in rules:
                for index in list(table.list_indices()):
                    table.drop_index(index.name)
                place.delete(f"{files.DERIVED}/text.json")
            for name in streams:
                if self._is_damaged(name):
                    place.delete(files.record(name))
                    files.drop_partitions(place, name, keep=None)
            place.delete(files.FILES)
            if files.HINT in self.bad:
                place.delete(files.HINT)
            for name in [*self.of(files.REGIONS), *self.of(files.REJECTIONS)]:
                place.delete(name)
                self.removed.append(name)
            if isinstance(place, FolderPlace):
                for name in list(leftovers(place)):
                    place.delete(name)
        write_down(place, self.before, self.dropped, self.n_unnamed, self.removed)
        self._finish(manifest, streams, config)
        return Repaired(
            self.before,
            tuple(sorted(set(self.dropped))),
            self.n_unnamed,
            tuple(self.removed),
            self.before,
        )

    def _streams(self, manifest: Manifest | None) -> tuple[dict[str, Stream], IndexConfig]:
        if manifest is not None:
            streams, config = files.streams_of(manifest)
            begun, _ = attempt(lambda: read_streams(self.place))
            is_told = any(d.rule == "streams" for d in self.before.defects)
            if begun is None or is_told or files.STREAMS_FILE in self.bad:
                files.write_streams(self.place, streams)
            return streams, config
        begun, _ = attempt(lambda: read_streams(self.place))
        if begun is None:
            raise too_much(self.place, f"neither {MANIFEST} nor {files.STREAMS_FILE} can be read")
        return begun[0], IndexConfig()

    def _put_versions_aside(self) -> None:
        """Put damaged versions of the table aside.

        Not where none is what the record says: then it is the record that is wrong.
        """
        said = files.read_record(self.place, files.FILES) or {}
        bad = {name for name in self.of("_versions") if name != files.HINT}
        if (said.get("files", {}).keys() & set(self._versions())) - bad:
            for name in sorted(bad):
                self._put_aside(name)

    def _versions(self) -> list[str]:
        """Return the table's versions, the newest first."""
        entries = self.place.list(f"{files.TABLE}/_versions")
        names = [entry.name for entry in entries if entry.name.endswith(".manifest")]
        return sorted(names, key=files.version_of, reverse=True)

    def _put_aside(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            with self.place.write(_aside(name)) as file:
                file.write(self.place.read(name))
            self.place.delete(name)
            self.removed.append(name)

    def _put_back(self) -> None:
        """Undo what was put aside: nothing is worse after a repair that cannot be made."""
        for name in self.removed:
            with contextlib.suppress(FileNotFoundError), self.place.write(name) as file:
                file.write(self.place.read(_aside(name)))
            self.place.delete(_aside(name))

    def _table(self) -> Any:
        """Open the newest version that can be opened, and put those after it aside."""
        while True:
            table, _ = attempt(lambda: files.connect(self.place).open_table("studies"))
            if table is not None:
                return table
            names = self._versions()
            if len(names) < 2:
                self._put_back()
                raise too_much(self.place, "no version of its table can be opened")
            self._put_aside(names[0])

    def _rewrite(self, table: Any, streams: Mapping[str, Stream]) -> None:
        """Write the sound rows anew, and delete what was there: rows in damaged files among them."""
        at = open_table(self.place)
        is_file = bool(self.of("data") or self.of("_deletions"))
        listing = at.search().select(["_rowid"]).limit(max(1, at.count_rows())).to_arrow()
        old = np.sort(listing["_rowid"].to_numpy())
        bad_ids: list[int] = []
        for good, bad in read_rows(at, streams):
            for row_id, name, _ in bad:
                bad_ids.append(row_id)
                if name is None:
                    self.n_unnamed += 1
                else:
                    self.dropped.append(name)
            if is_file and good is not None and len(good):
                table.add(good.drop_columns(["_rowid"]), on_bad_vectors="null")
        gone = old if is_file else np.array(sorted(bad_ids), np.uint64)
        try:
            if is_file and len(gone):  # new rows have larger ids: the newest stay
                table.delete(f"_rowid <= {int(old[-1])}")
            for start in range(0, 0 if is_file else len(gone), 500):
                some = ", ".join(str(row_id) for row_id in gone[start : start + 500].tolist())
                table.delete(f"_rowid IN ({some})")
        except Exception:
            raise too_much(self.place, "rows of a damaged file cannot be deleted") from None

    def _is_damaged(self, column: str) -> bool:
        """Whether the column's record or partitions are to be made anew."""
        starts = (files.record(column), f"{files.DERIVED}/{column}-")
        told = [d for d in self.before.defects if d.rule in ("record", "partitions")]
        return any(d.where.startswith(starts) for d in told)

    def _finish(
        self, manifest: Manifest | None, streams: dict[str, Stream], config: IndexConfig
    ) -> None:
        index = Index(self.place, streams, config)
        if self.of("data") or self.of("_deletions") or self.of("_indices"):
            index.compact(_AT_ONCE)  # the versions that need the damaged files go, and these
        index.finish(**manifest_settings(manifest))
        if manifest is None:
            return
        if not self.dropped and not self.n_unnamed:
            index.end_changes()


def _aside(version: str) -> str:
    return f"damaged/{version.rpartition('/')[2]}"


def write_down(
    place: Place, before: Checked, dropped: list[str], n_unnamed: int, removed: list[str]
) -> None:
    """Add what was found and dropped to ``repaired.json``, before the finish that may be killed."""
    try:
        runs = json.loads(place.read(REPAIRED))["repairs"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        runs = []
    runs.append(
        {
            "dropped": sorted(set(dropped)),
            "n_unnamed": n_unnamed,
            "removed": removed,
            "defects": [dataclasses.asdict(d) for d in before.defects],
        }
    )
    with place.write(REPAIRED) as file:
        file.write(json.dumps({"repairs": runs}, indent=2).encode() + b"\n")


def manifest_settings(manifest: Manifest | None) -> dict[str, Any]:
    """Return what `finish` is given of a manifest, to write it anew."""
    if manifest is None:  # 'medfinder index' puts in what it was made of
        return {}
    kept = dict(manifest.config)
    for name in ("streams", "settings", "content"):
        kept.pop(name, None)
    return {
        "parents": manifest.parents,
        "duration_s": manifest.duration_s,
        "package_version": manifest.package_version,
        "settings": kept,
    }


def too_much(place: Place, why: str) -> ArtifactError:
    """Return what to raise where a repair would lose more than it mends."""
    return ArtifactError(
        f"The index {str(place)!r} cannot be repaired: {why}. Restore it from a backup with "
        "'medfinder restore', or remove it and run 'medfinder index' into the same place."
    )
