"""A backup is whole or not at all, copies only what is new, and is verified when it comes back."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from medfinder.artifact import Manifest, read_manifest, write_manifest
from medfinder.curate.curate import curate
from medfinder.curate.sources.folder import FolderSource
from medfinder.errors import ArtifactError, Incomplete, InputError, Mismatch
from medfinder.index import backup as backups
from medfinder.index.backup import backup, restore
from medfinder.index.check import check_index
from medfinder.index.repair import repair_index
from medfinder.index.store import Index, IndexConfig
from medfinder.place import place_of
from stubs import s3

CONFIG = IndexConfig(exact_below=40, rows_per_list=10)
QUERY = np.ones(16, np.float32)


@pytest.fixture(scope="module")
def server() -> Iterator[s3.Server]:
    with s3.server() as made:
        yield made


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDFINDER_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def sound(gallery, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "idx"
    index = Index.create(folder, gallery.streams, CONFIG)
    gallery.add(index, range(50))
    index.finish()
    return folder


@pytest.fixture
def idx(sound: Path, tmp_path: Path) -> Path:
    shutil.copytree(sound, tmp_path / "idx", copy_function=shutil.copy2)
    return tmp_path / "idx"


def answers(index: Index) -> list[object]:
    return [
        index.studies(index.ids()),
        index.search_vector("volume", QUERY, 99),
        index.search_text("nodule effusion report 17", 99),
    ]


@pytest.mark.parametrize(("through", "end"), [("folder", "folder"), ("s3", "s3"), ("s3", "folder")])
def test_an_index_comes_back_as_it_was(
    idx: Path, tmp_path: Path, server: s3.Server, through: str, end: str
) -> None:
    bucket = server.bucket()
    places = {"folder": str(tmp_path / "x"), "s3": f"s3://{bucket}/x"}
    made = backup(idx, places[through] + "-backup")
    assert made.stage == "index"
    assert made.n_copied > 50
    assert made.n_bytes <= made.n_bytes_total
    to = places[end] + "-restored"
    back = restore(places[through] + "-backup", to)
    assert back.n_files == made.n_files
    assert answers(Index.open(to)) == answers(Index.open(idx))
    assert Index.open(to).manifest() == Index.open(idx).manifest()
    assert check_index(to).is_sound
    Index.open(to).finish()  # it can be gone on with
    assert check_index(to).is_sound


def test_a_second_backup_copies_what_is_new_and_forgets_what_went(
    idx: Path, tmp_path: Path, gallery
) -> None:
    backup(idx, tmp_path / "b")
    again = backup(idx, tmp_path / "b")
    assert (again.n_copied, again.n_bytes) == (0, 0)
    index = Index.open(idx)
    gallery.add(index, range(50, 55))
    index.finish()
    second = backup(idx, tmp_path / "b")
    assert 0 < second.n_bytes < 0.8 * second.n_bytes_total
    restore(tmp_path / "b", tmp_path / "back")
    assert answers(Index.open(tmp_path / "back")) == answers(index)
    said = json.loads((tmp_path / "b" / "backup.json").read_text())["files"]
    assert {p.name for p in (tmp_path / "b" / "files").iterdir()} == {
        held["sha256"] for held in said.values()
    }


@pytest.mark.slow
def test_a_backup_of_an_index_that_is_written_to_meanwhile_is_one_of_its_versions(
    idx: Path, tmp_path: Path, gallery
) -> None:
    stop = threading.Event()
    n_rounds = 0

    def write() -> None:
        nonlocal n_rounds
        index = Index.open(idx)
        while not stop.is_set():
            gallery.add(index, range(50 + 5 * n_rounds, 55 + 5 * n_rounds))
            n_rounds += 1
            if n_rounds % 4 == 0:
                index.finish()
                stop.wait(1.0)  # a backup has to fit between the ends of two runs

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for number in range(3):
            with contextlib.suppress(Incomplete):  # it says so where runs end too fast
                backup(idx, tmp_path / f"b{number}")
                restore(tmp_path / f"b{number}", tmp_path / f"back{number}")
    finally:
        stop.set()
        thread.join()
    there = [p for p in tmp_path.glob("back*") if (p / "manifest.json").exists()]
    assert there
    for folder in there:
        ids = Index.open(folder).ids()
        assert ids == [f"s{i:04d}" for i in range(len(ids))]  # as they were added, none between
        assert len(ids) % 5 == 0
        # Rows may be newer than the last finish; nothing else is wrong.
        assert {d.rule for d in check_index(folder).defects} <= {"content", "text-index"}


def test_an_artifact_that_changes_while_it_is_copied_is_copied_again(
    idx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = backups._Backup._copy
    n_finishes = 0

    def meddled(self, entry):  # type: ignore[no-untyped-def]
        nonlocal n_finishes
        if entry.name == "manifest.json" and n_finishes < 2:
            n_finishes += 1
            Index.open(idx).finish(parents={"n": str(n_finishes)})
        return copy(self, entry)

    monkeypatch.setattr(backups._Backup, "_copy", meddled)
    backup(idx, tmp_path / "b")
    restore(tmp_path / "b", tmp_path / "back")
    assert Index.open(tmp_path / "back").manifest().parents == {"n": "2"}
    monkeypatch.setattr(backups, "_TRIES", 1)
    n_finishes = 0
    with pytest.raises(Incomplete, match="changed again and again"):
        backup(idx, tmp_path / "b")


def test_a_damaged_backup_is_refused_and_leaves_nothing_that_opens(
    idx: Path, tmp_path: Path
) -> None:
    backup(idx, tmp_path / "b")
    largest = max((tmp_path / "b" / "files").iterdir(), key=lambda p: p.stat().st_size)
    held = bytearray(largest.read_bytes())
    held[len(held) // 2] ^= 1
    largest.write_bytes(bytes(held))
    with pytest.raises(Mismatch, match=r"in the backup .* is damaged"):
        restore(tmp_path / "b", tmp_path / "back")
    with pytest.raises(Incomplete):
        Index.open(tmp_path / "back")
    record = tmp_path / "b" / "backup.json"
    record.write_text(record.read_text().replace('"size": ', '"size": 1', 1))
    with pytest.raises(Mismatch, match="has changed since it was written"):
        restore(tmp_path / "b", tmp_path / "other")
    record.write_text("{")
    with pytest.raises(Mismatch, match="cannot be read"):
        restore(tmp_path / "b", tmp_path / "other")


def test_damage_is_not_copied_over_a_sound_backup(idx: Path, tmp_path: Path) -> None:
    backup(idx, tmp_path / "b")
    path = next((idx / "table/studies.lance/data").iterdir())
    held = bytearray(path.read_bytes())
    held[len(held) // 2] ^= 1
    path.write_bytes(bytes(held))
    with pytest.raises(Mismatch, match="is damaged: it is not what was written"):
        backup(idx, tmp_path / "b")
    restore(tmp_path / "b", tmp_path / "back")
    assert check_index(tmp_path / "back").is_sound


_RUN = """
import sys
from medfinder.index.backup import backup, restore
def advance(done, total):
    print(done, flush=True)
(backup if sys.argv[1] == "backup" else restore)(sys.argv[2], sys.argv[3], progress=advance)
"""


def kill_amid(verb: str, source: Path, to: Path, after: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _RUN, verb, str(source), str(to)],
        stdout=subprocess.PIPE,
        env=dict(os.environ),
    )
    assert process.stdout is not None
    for _ in range(after):
        process.stdout.readline()
    process.kill()
    process.communicate()


@pytest.mark.slow
def test_a_backup_and_a_restore_that_were_killed_go_on(idx: Path, tmp_path: Path, gallery) -> None:
    backup(idx, tmp_path / "b")
    before = answers(Index.open(idx))
    index = Index.open(idx)
    gallery.add(index, range(50, 60))
    index.finish()
    kill_amid("backup", idx, tmp_path / "b", 20)
    restore(tmp_path / "b", tmp_path / "old")  # the backup before stands
    assert answers(Index.open(tmp_path / "old")) == before
    backup(idx, tmp_path / "b")
    kill_amid("restore", tmp_path / "b", tmp_path / "new", 30)
    with pytest.raises(Incomplete):
        Index.open(tmp_path / "new")
    done = restore(tmp_path / "b", tmp_path / "new")
    assert done.n_copied < done.n_files
    assert answers(Index.open(tmp_path / "new")) == answers(index)
    assert not (tmp_path / "new" / "restoring.json").exists()


def test_nothing_is_written_over_unless_it_is_asked_for(idx: Path, tmp_path: Path) -> None:
    backup(idx, tmp_path / "b")
    Index.open(idx).delete(["s0001"])
    with pytest.raises(InputError, match=r"is not empty.*or --force"):
        restore(tmp_path / "b", idx)
    assert Index.open(idx).count() == 49
    (idx / "notes.txt").write_text("mine")
    restore(tmp_path / "b", idx, force=True)
    assert Index.open(idx).count() == 50
    assert check_index(idx).is_sound
    assert (idx / "notes.txt").read_text() == "mine"
    other = tmp_path / "home"
    other.mkdir()
    (other / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="is not empty"):
        restore(tmp_path / "b", other, force=True)
    assert (other / "letter.txt").exists()


def test_what_is_no_backup_is_refused(idx: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no backup at"):
        restore(tmp_path / "none", tmp_path / "back")
    with pytest.raises(InputError, match="is not a backup: it holds"):
        restore(idx, tmp_path / "back")
    with pytest.raises(InputError, match="is not a backup: it holds"):
        backup(idx, shutil.copytree(idx, tmp_path / "another"))
    with pytest.raises(InputError, match="lie within each other"):
        backup(idx, idx / "backup")
    with pytest.raises(InputError, match="There is no index folder"):
        backup(tmp_path / "none", tmp_path / "b")
    (idx / "manifest.json").unlink()
    with pytest.raises(Incomplete, match="has not finished"):
        backup(idx, tmp_path / "b")
    with pytest.raises(InputError, match=r"postgresql:// is no place for files"):
        backup("postgresql://user:secret@host/db", tmp_path / "b")


def test_any_stage_s_artifact_is_copied_without_what_it_keeps_of_identities(
    tmp_path: Path, server: s3.Server
) -> None:
    folder = tmp_path / "studies"
    (folder / "private").mkdir(parents=True)
    (folder / "private" / "ledger.db").write_bytes(b"names")
    (folder / "studies.parquet").write_bytes(b"rows")
    write_manifest(folder, Manifest("curate", {"a": 1}, {}, {"studies": 1}))
    there = f"s3://{server.bucket()}/b"
    assert backup(folder, there).n_files == 2
    assert restore(there, tmp_path / "back").stage == "curate"
    assert sorted(p.name for p in (tmp_path / "back").iterdir()) == [
        "manifest.json",
        "studies.parquet",
    ]
    assert not [e for e in place_of(there).list() if b"names" in place_of(there).read(e.name)]


def test_a_store_that_fails_every_seventh_request_still_keeps_a_backup(
    idx: Path, tmp_path: Path, server: s3.Server
) -> None:
    there = f"s3://{server.bucket()}/b"
    server.fail(7, 500, 503, "cut", "lost")
    try:
        backup(idx, there)
        restore(there, tmp_path / "back")
    finally:
        server.heal()
    assert answers(Index.open(tmp_path / "back")) == answers(Index.open(idx))


def everything(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def flip(path: Path) -> None:
    held = bytearray(path.read_bytes())
    held[len(held) // 2] ^= 1
    path.write_bytes(bytes(held))


def studies(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names or ("studies.parquet", "doubts.parquet"):
        (folder / name).write_bytes(name.encode())
    write_manifest(folder, Manifest("curate", {}, {}, {"studies": 1}))
    return folder


@pytest.mark.parametrize(
    "gone",
    [
        "table/studies.lance/data/*",
        "table/studies.lance/_indices/*/page_data.lance",
        "table",
        "derived/files.json",
        "derived/volume.json",
        "derived/volume-*/vectors.npy",
        "streams.json",
        "rejections.parquet",
        "regions/*",
    ],
)
def test_an_index_that_has_lost_a_file_is_refused_and_the_backup_stays(
    idx: Path, tmp_path: Path, gone: str
) -> None:
    index = Index.open(idx)
    index.write_rejections([])
    with index.regions.write("s0001.npy") as file:
        file.write(b"features")
    index.finish()
    backup(idx, tmp_path / "b")
    before = everything(tmp_path / "b")
    path = next(idx.glob(gone))
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(ArtifactError, match=r"has lost .*--check"):
        backup(idx, tmp_path / "b")
    assert everything(tmp_path / "b") == before
    assert not check_index(idx).is_sound  # what the message sends to finds it as well
    if gone not in ("table", "table/studies.lance/data/*"):
        assert repair_index(idx).after.is_sound
        backup(idx, tmp_path / "b")


def test_rows_that_came_after_the_last_finish_are_looked_for_too(
    idx: Path, tmp_path: Path, gallery
) -> None:
    before = set((idx / "table/studies.lance/data").iterdir())
    gallery.add(Index.open(idx), range(50, 55))
    backup(idx, tmp_path / "b")
    (came,) = set((idx / "table/studies.lance/data").iterdir()) - before
    kept = came.read_bytes()
    came.unlink()
    with pytest.raises(ArtifactError, match=r"has lost table/studies\.lance"):
        backup(idx, tmp_path / "b")
    restore(tmp_path / "b", tmp_path / "back")
    assert Index.open(tmp_path / "back").count() == 55
    came.write_bytes(kept)
    backup(idx, tmp_path / "b")


def test_damaged_partitions_are_not_copied(idx: Path, tmp_path: Path) -> None:
    flip(next(idx.glob("derived/volume-*/vectors.npy")))
    with pytest.raises(Mismatch, match="is damaged: it is not what was written"):
        backup(idx, tmp_path / "b")


def test_a_dataset_that_has_lost_a_file_is_refused(tmp_path: Path) -> None:
    folder = studies(tmp_path / "studies")
    backup(folder, tmp_path / "b")
    before = everything(tmp_path / "b")
    (folder / "doubts.parquet").unlink()
    with pytest.raises(ArtifactError, match=r"has lost doubts\.parquet"):
        backup(folder, tmp_path / "b")
    assert everything(tmp_path / "b") == before
    write_manifest(folder, Manifest("curate", {"doubts": False}, {}, {"studies": 1}))
    assert backup(folder, tmp_path / "b").n_files == 2  # a run has ended that wrote none


def test_a_backup_of_something_else_is_left_alone(idx: Path, tmp_path: Path, gallery) -> None:
    backup(idx, tmp_path / "b")
    before = everything(tmp_path / "b")
    with pytest.raises(InputError, match=r"is a backup of what 'medfinder index' wrote"):
        backup(studies(tmp_path / "studies"), tmp_path / "b")
    streams = {"volume": gallery.streams["volume"]}
    Index.create(tmp_path / "other", streams, CONFIG).finish()
    with pytest.raises(InputError, match="is a backup of an index of other encoders"):
        backup(tmp_path / "other", tmp_path / "b")
    assert everything(tmp_path / "b") == before
    idx.rename(tmp_path / "moved")
    assert backup(tmp_path / "moved", tmp_path / "b").n_copied == 0


@pytest.mark.parametrize("what", ["flipped", "cut", "gone"])
@pytest.mark.parametrize("where", ["folder", "s3"])
def test_what_is_damaged_in_a_backup_is_written_again(
    idx: Path, tmp_path: Path, server: s3.Server, what: str, where: str
) -> None:
    to = str(tmp_path / "b") if where == "folder" else f"s3://{server.bucket()}/b"
    backup(idx, to)
    place = place_of(to)
    name = max(place.list("files"), key=lambda entry: entry.size).name
    held = bytearray(place.read(name))
    held[len(held) // 2] ^= 1
    if what == "gone":
        place.delete(name)
    else:
        with place.write(name) as file:
            file.write(held if what == "flipped" else held[:-1])
    assert backup(idx, to).n_copied == 1
    restore(to, tmp_path / "back")
    assert check_index(tmp_path / "back").is_sound
    assert backup(idx, to).n_copied == 0


class _Stopped(Exception):
    pass


def stopped_restore(source: Path, to: Path, after: int = 5, force: bool = False) -> None:
    def advance(done: int, total: int) -> None:
        if done == after:
            raise _Stopped

    with pytest.raises(_Stopped):
        restore(source, to, force=force, progress=advance)


def test_nothing_is_made_where_a_restore_has_stopped(idx: Path, tmp_path: Path, gallery) -> None:
    backup(idx, tmp_path / "b")
    stopped_restore(tmp_path / "b", tmp_path / "back")
    before = everything(tmp_path / "back")
    for act in (
        lambda: Index.create(tmp_path / "back", gallery.streams, CONFIG),
        lambda: Index.open(tmp_path / "back"),
        lambda: check_index(tmp_path / "back"),
        lambda: repair_index(tmp_path / "back"),
        lambda: curate(FolderSource(tmp_path), tmp_path / "back"),
        lambda: backup(tmp_path / "back", tmp_path / "other"),
    ):
        with pytest.raises(Incomplete, match=r"A restore into .* has not ended"):
            act()
    assert everything(tmp_path / "back") == before
    restore(tmp_path / "b", tmp_path / "back")
    assert check_index(tmp_path / "back").is_sound


def test_what_was_made_where_a_restore_had_stopped_is_not_written_over(
    idx: Path, tmp_path: Path, gallery
) -> None:
    backup(idx, tmp_path / "b")
    stopped_restore(tmp_path / "b", tmp_path / "back")
    mark = (tmp_path / "back" / "restoring.json").read_bytes()
    shutil.rmtree(tmp_path / "back")
    index = Index.create(tmp_path / "back", gallery.streams, CONFIG)
    gallery.add(index, range(60))
    index.finish()
    (tmp_path / "back" / "restoring.json").write_bytes(mark)
    with pytest.raises(InputError, match=r"was written to after a restore .* or --force"):
        restore(tmp_path / "b", tmp_path / "back")
    assert Index.open(tmp_path / "back").count() == 60
    restore(tmp_path / "b", tmp_path / "back", force=True)
    assert Index.open(tmp_path / "back").count() == 50


@pytest.mark.parametrize("what", ["flipped", "cut", "gone"])
@pytest.mark.parametrize("where", ["folder", "s3"])
def test_a_sound_artifact_outlives_a_damaged_backup(
    idx: Path, tmp_path: Path, server: s3.Server, what: str, where: str
) -> None:
    to = str(tmp_path / "b") if where == "folder" else f"s3://{server.bucket()}/b"
    backup(idx, to)
    place = place_of(to)
    said = json.loads(place.read("backup.json"))["files"]
    name = f"files/{said['manifest.json']['sha256']}"  # which is written last
    held = place.read(name)
    if what == "gone":
        place.delete(name)
    else:
        with place.write(name) as file:
            file.write(bytes([held[0] ^ 1]) + held[1:] if what == "flipped" else held[:-1])
    before = everything(idx)
    with pytest.raises(Mismatch, match=r"has lost the file of|is damaged"):
        restore(to, idx, force=True)
    assert everything(idx) == before
    if what != "flipped":  # told before anything is written, also where nothing was
        with pytest.raises(Mismatch):
            restore(to, tmp_path / "new")
        assert not (tmp_path / "new").exists()


def test_another_stage_s_artifact_is_not_written_over_whatever_is_asked_for(
    idx: Path, tmp_path: Path
) -> None:
    backup(idx, tmp_path / "b")
    folder = studies(tmp_path / "studies")
    backup(folder, tmp_path / "k")
    for source, to in ((tmp_path / "b", folder), (tmp_path / "k", idx)):
        before = everything(to)
        with pytest.raises(InputError, match=r"was written by 'medfinder (curate|index)', and"):
            restore(source, to, force=True)
        assert everything(to) == before
    (idx / "manifest.json").write_text("{")  # a damaged one is what --force is for
    with pytest.raises(InputError, match="was written by 'medfinder index', and"):
        restore(tmp_path / "k", idx, force=True)
    restore(tmp_path / "b", idx, force=True)
    assert check_index(idx).is_sound


def test_a_forced_restore_that_was_stopped_is_gone_on_with(idx: Path, tmp_path: Path) -> None:
    backup(idx, tmp_path / "b")
    n_files = len(json.loads((tmp_path / "b" / "backup.json").read_text())["files"])
    index = Index.open(idx)
    index.begin_changes()
    index.delete(["s0001"])
    seen = 0

    def advance(done: int, total: int) -> None:
        nonlocal seen
        seen += 1
        if seen == n_files + 5:
            raise _Stopped

    with pytest.raises(_Stopped):
        restore(tmp_path / "b", idx, force=True, progress=advance)
    with pytest.raises(Incomplete, match="has not ended"):
        Index.open(idx)
    restore(tmp_path / "b", idx)
    assert Index.open(idx).count() == 50
    assert not Index.open(idx).is_changing
    assert check_index(idx).is_sound


def test_a_backup_is_told_from_an_artifact(idx: Path, tmp_path: Path, gallery) -> None:
    backup(idx, tmp_path / "b")
    for act in (
        lambda: Index.open(tmp_path / "b"),
        lambda: Index.create(tmp_path / "b", gallery.streams, CONFIG),
        lambda: check_index(tmp_path / "b"),
        lambda: read_manifest(tmp_path / "b", "curate"),
        lambda: backup(tmp_path / "b", tmp_path / "bb"),
    ):
        with pytest.raises(InputError, match=r"is a backup\. Restore it .*'medfinder restore'"):
            act()


def test_places_that_are_no_folders_are_named(idx: Path, tmp_path: Path) -> None:
    backup(idx, tmp_path / "b")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for path, why in (
        (tmp_path / "file", "is a file, where a folder is expected"),
        (tmp_path / "file" / "below", "is a file, where a folder is expected"),
        (tmp_path / "link", "is a link to what is not there"),
    ):
        named = str(tmp_path / path.relative_to(tmp_path).parts[0])
        for act in (
            lambda path=path: backup(idx, path),
            lambda path=path: restore(tmp_path / "b", path),
            lambda path=path: restore(path, tmp_path / "back"),
            lambda path=path: backup(path, tmp_path / "other"),
        ):
            with pytest.raises(InputError, match=why) as caught:
                act()
            assert repr(named) in str(caught.value)


def test_a_disk_that_refuses_is_named(
    idx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self, source, name):  # type: ignore[no-untyped-def]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("medfinder.place.FolderPlace.store", full)
    with pytest.raises(ArtifactError, match=r"idx' could not be copied to .*b': No space left"):
        backup(idx, tmp_path / "b")
