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

from medfinder.artifact import Manifest, write_manifest
from medfinder.errors import Incomplete, InputError, Mismatch
from medfinder.index import backup as backups
from medfinder.index.backup import backup, restore
from medfinder.index.check import check_index
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

    def meddled(self, entry, there):  # type: ignore[no-untyped-def]
        nonlocal n_finishes
        if entry.name == "manifest.json" and n_finishes < 2:
            n_finishes += 1
            Index.open(idx).finish(parents={"n": str(n_finishes)})
        return copy(self, entry, there)

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
