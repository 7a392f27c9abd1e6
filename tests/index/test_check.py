"""A damaged index is told by what is wrong with it, and mended without losing anything silently."""

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from medfinder.artifact import Manifest, write_manifest
from medfinder.errors import ArtifactError, InputError, Mismatch
from medfinder.index.check import check_index
from medfinder.index.engine import fault
from medfinder.index.repair import repair_index
from medfinder.index.store import Index, IndexConfig
from medfinder.place import FolderPlace
from medfinder.records import Rejection
from stubs import s3

QUERY = np.ones(16, np.float32)


@pytest.fixture(scope="module")
def sound(gallery, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished index with partitions, deleted rows, rejections and region features."""
    folder = tmp_path_factory.mktemp("sound") / "idx"
    index = Index.create(folder, gallery.streams, IndexConfig(exact_below=40, rows_per_list=10))
    for start in range(0, 80, 20):
        gallery.add(index, range(start, start + 20))
    index.delete(["s0003", "s0077"])
    index.write_rejections([Rejection("s0099", "unreadable", "no voxels")])
    (folder / "regions").mkdir()
    np.save(folder / "regions" / "s0001.npy", np.ones((4, 8), np.float16))
    index.finish(parents={"studies": "abc"}, settings={"check": {"a": 1}})
    return folder


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Path:
    shutil.copytree(sound, tmp_path / "idx")
    return tmp_path / "idx"


def files(folder: Path, under: str) -> list[Path]:
    return sorted(p for p in (folder / under).rglob("*") if p.is_file() and p.stat().st_size)


def flip(path: Path, at: float = 0.5) -> None:
    held = bytearray(path.read_bytes())
    held[int(at * (len(held) - 1))] ^= 4
    path.write_bytes(bytes(held))


def rules(folder: Path) -> set[str]:
    return {defect.rule for defect in check_index(folder).defects}


def answers(index: Index) -> list[object]:
    return [
        index.studies(index.ids()),
        index.search_vector("volume", QUERY, 200),
        index.search_text("nodule effusion report 17", 200),
        index.search_findings(["nodule"], k=200),
    ]


def test_a_sound_index_has_no_defect_and_says_what_was_compared(sound: Path) -> None:
    seen: list[tuple[int, int]] = []
    checked = check_index(sound, lambda done, total: seen.append((done, total)))
    assert checked.is_sound
    assert (checked.n_studies, checked.n_vectors) == (78, 78 + 52)
    assert checked.n_files > 50
    assert seen == [(78, 78)]


def test_one_bit_in_any_file_is_seen(sound: Path, tmp_path: Path) -> None:
    unseen = []
    copy = tmp_path / "idx"
    shutil.copytree(sound, copy)
    for path in files(copy, "."):
        if "_transactions" in path.parts or "_versions" in path.parts:
            continue  # many alike: one of them each is tried below
        before = path.read_bytes()
        flip(path)
        if check_index(copy).is_sound:
            unseen.append(str(path.relative_to(copy)))
        path.write_bytes(before)
    for kind in ("_transactions", "_versions"):
        path = files(copy, f"table/studies.lance/{kind}")[0]
        before = path.read_bytes()
        flip(path)
        assert "file" in rules(copy)
        path.write_bytes(before)
    assert not unseen
    assert check_index(copy).is_sound


@pytest.mark.parametrize(
    "damaged",
    [
        "derived/volume.json",
        "derived/text.json",
        "derived/files.json",
        "derived",
        "manifest.json",
        "streams.json",
        "table/studies.lance/_indices",
        "rejections.parquet",
    ],
)
def test_what_is_derived_is_made_anew_and_nothing_is_lost(
    copy: Path, sound: Path, damaged: str
) -> None:
    if (copy / damaged).is_file():
        flip(copy / damaged)
    else:
        for path in files(copy, damaged):
            flip(path)
    done = repair_index(copy)
    assert done.after.is_sound
    assert (done.dropped, done.n_unnamed) == ((), 0)
    assert answers(Index.open(copy)) == answers(Index.open(sound))
    if damaged != "manifest.json":
        manifest = Index.open(copy).manifest()
        assert (manifest.parents, manifest.config["check"]) == ({"studies": "abc"}, {"a": 1})


def test_rows_that_cannot_be_trusted_are_deleted_named_and_added_again(
    copy: Path, sound: Path, gallery
) -> None:
    largest = max(files(copy, "table/studies.lance/data"), key=lambda p: p.stat().st_size)
    held = largest.read_bytes()
    largest.write_bytes(held[: len(held) // 3] + bytes(200) + held[len(held) // 3 + 200 :])
    done = repair_index(copy)
    assert done.after.is_sound
    there = set(Index.open(copy).ids())
    gone = set(Index.open(sound).ids()) - there
    assert gone
    assert set(done.dropped) <= gone
    assert len(gone) == len(done.dropped) + done.n_unnamed
    said = json.loads((copy / "repaired.json").read_text())["repairs"][0]
    assert said["dropped"] == list(done.dropped)
    index = Index.open(copy)
    gallery.add(index, sorted(int(name[1:]) for name in gone))  # as 'medfinder index' does
    index.finish()
    assert answers(index) == answers(Index.open(sound))


def test_rows_of_a_file_that_is_gone_are_dropped_and_the_others_stay(copy: Path) -> None:
    index = Index.open(copy)
    before = set(index.ids())
    there = set(files(copy, "table/studies.lance/data"))
    index.add([index.studies(["s0005"])[0]])  # a file of its own
    (new,) = set(files(copy, "table/studies.lance/data")) - there
    new.unlink()
    done = repair_index(copy)
    assert done.after.is_sound
    assert before - set(Index.open(copy).ids()) == {"s0005"}
    assert len(done.dropped) + done.n_unnamed == 1


def test_a_vector_of_another_study_is_no_match_for_its_key(copy: Path) -> None:
    index = Index.open(copy)
    index._table.update(where="study_id = 's0004'", values={"volume": [1.0] + [0.0] * 15})
    index._table.update(where="study_id = 's0005'", values={"volume": [0.5] * 4 + [0.0] * 12})
    index._table.update(where="study_id = 's0007'", values={"words": "another report"})
    index._table.update(where="study_id = 's0008'", values={"age": 3})
    index._table.update(where="study_id = 's0010'", values={"n_slices": 3})
    told = {d.where: d.found for d in check_index(copy).defects if d.rule == "row"}
    assert told == {
        "s0004": "its volume vector is not the one that was added",
        "s0005": "its volume vector is not the one that was added",
        "s0007": "its words are not those of its report",
        "s0008": "it is not the study that was added",
        "s0010": "columns made of its findings or shape are not what they are made of",
    }
    done = repair_index(copy)
    assert done.dropped == tuple(sorted(told))
    assert done.after.is_sound


def test_a_study_that_is_there_twice_is_told_and_kept_once(copy: Path) -> None:
    index = Index.open(copy)
    row = index._table.search().where("study_id = 's0005'").to_arrow()
    index._table.add(row, on_bad_vectors="null")
    assert [d.where for d in check_index(copy).defects if d.rule == "double"] == ["s0005"]
    assert repair_index(copy).after.is_sound
    assert Index.open(copy).count() == 78


def test_rows_added_since_the_finish_are_told(copy: Path, gallery) -> None:
    gallery.add(Index.open(copy), [90])
    assert rules(copy) == {"content"}
    assert repair_index(copy).after.is_sound
    assert Index.open(copy).manifest().counts["studies"] == 79


def test_a_version_that_cannot_be_read_gives_way_to_the_one_before(copy: Path, sound: Path) -> None:
    newest = files(copy, "table/studies.lance/_versions")[0]
    newest.write_bytes(newest.read_bytes()[:40])
    with pytest.raises(ArtifactError):
        Index.open(copy).ids()
    done = repair_index(copy)
    assert done.after.is_sound
    assert done.removed[0].startswith("table/studies.lance/_versions/")
    assert (copy / "damaged" / newest.name).is_file()
    assert answers(Index.open(copy)) == answers(Index.open(sound))


@pytest.mark.parametrize("said", ["{", '{"version": 99999}', '{"version": "x"}'])
def test_a_wrong_note_of_the_newest_version_is_removed(copy: Path, said: str) -> None:
    hint = copy / "table/studies.lance/_versions/latest_version_hint.json"
    hint.write_text(said)
    assert rules(copy) == {"file"}
    assert repair_index(copy).after.is_sound


def test_too_much_damage_asks_for_a_backup(copy: Path) -> None:
    flip(copy / "manifest.json")
    (copy / "streams.json").write_text("{")
    assert "streams" in rules(copy)
    with pytest.raises(ArtifactError, match=r"neither manifest\.json nor streams\.json .* backup"):
        repair_index(copy)


def test_a_table_without_versions_asks_for_a_backup(copy: Path) -> None:
    for path in files(copy, "table/studies.lance/_versions"):
        path.write_bytes(b"x")
    assert "table" in rules(copy)
    with pytest.raises(ArtifactError, match="no version of its table can be opened"):
        repair_index(copy)


def test_what_is_no_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no index folder"):
        check_index(tmp_path / "none")
    write_manifest(tmp_path, Manifest("curate", {}, {}, {}))
    with pytest.raises(Mismatch, match="was written by 'medfinder curate'"):
        repair_index(tmp_path)


def test_what_a_killed_run_left_is_removed_and_what_a_writer_is_at_is_not(copy: Path) -> None:
    half = copy / "derived" / ".building-x"
    half.mkdir()
    (half / "raw.npy").write_bytes(b"x")
    with FolderPlace(copy).write("manifest.json") as file:
        file.write((copy / "manifest.json").read_bytes())
        assert check_index(copy).is_sound  # a writer is at both, or may be
    os.utime(half / "raw.npy", (time.time() - 9999,) * 2)
    for name in (".manifest.json.1.tmp", "regions/.s0001.npy.1.tmp"):
        (copy / name).write_bytes(b"x")
    assert rules(copy) == {"leftover"}
    assert repair_index(copy).after.is_sound
    assert not [path for path in copy.rglob(".*") if path.name != ".finish.lock"]


def test_finishing_removes_what_a_killed_run_left(copy: Path) -> None:
    (copy / ".unfinished.1.tmp").write_bytes(b"")
    with FolderPlace(copy).write("streams.json") as file:  # of a writer at work
        file.write((copy / "streams.json").read_bytes())
        Index.open(copy).finish()
    assert not list(copy.glob(".*.tmp"))
    assert check_index(copy).is_sound


def test_a_record_of_other_files_is_not_believed_against_all_of_the_table(
    copy: Path, sound: Path, tmp_path: Path, gallery
) -> None:
    other = Index.create(tmp_path / "other", gallery.streams)
    gallery.add(other, range(100, 105))
    other.finish()
    shutil.copy(tmp_path / "other" / "derived" / "files.json", copy / "derived" / "files.json")
    done = repair_index(copy)
    assert done.after.is_sound
    assert (done.dropped, done.removed) == ((), ())
    assert answers(Index.open(copy)) == answers(Index.open(sound))


def test_an_old_version_that_is_damaged_is_put_aside(copy: Path, sound: Path) -> None:
    versions = sorted((copy / "table" / "studies.lance" / "_versions").glob("*.manifest"))
    for path in versions[1:3]:  # numbers count down: not the newest
        path.write_bytes(path.read_bytes()[:-20])
    done = repair_index(copy)
    assert done.after.is_sound
    assert len(done.removed) == 2
    assert answers(Index.open(copy)) == answers(Index.open(sound))


def test_a_repair_that_cannot_be_made_leaves_what_was_there(copy: Path) -> None:
    for path in (copy / "table" / "studies.lance" / "_versions").glob("*.manifest"):
        path.write_bytes(b"x" * 100)
    (copy / "derived" / "files.json").unlink()
    before = {p: p.read_bytes() for p in files(copy, ".")}
    with pytest.raises(ArtifactError, match="no version of its table can be opened"):
        repair_index(copy)
    assert {p: p.read_bytes() for p in files(copy, ".")} == before


def test_a_folder_of_something_else_is_no_index_with_defects(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match="nothing of an index in it"):
        check_index(tmp_path)


def test_checking_changes_nothing(copy: Path) -> None:
    flip(copy / "derived" / "volume.json")
    before = {p: p.read_bytes() for p in files(copy, ".")}
    check_index(copy)
    assert {p: p.read_bytes() for p in files(copy, ".")} == before


@pytest.mark.parametrize("name", ["offsets", "keys", "scales", "origin", "centroids"])
def test_damaged_partitions_are_not_followed_out_of_memory(
    copy: Path, sound: Path, name: str
) -> None:
    (path,) = (copy / "derived").glob(f"volume-*/{name}.npy")
    flip(path, 0.9)
    index = Index.open(copy)
    assert index.search_vector("volume", QUERY, 20) == Index.open(sound).search_vector(
        "volume", QUERY, 20
    )


def test_an_index_in_a_store_is_checked_and_mended_there(
    gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDFINDER_CACHE", str(tmp_path / "cache"))
    with s3.server() as server:
        url = f"s3://{server.bucket()}/idx"
        index = Index.create(url, gallery.streams, IndexConfig(exact_below=40, rows_per_list=10))
        gallery.add(index, range(45))
        index.finish()
        before = answers(Index.open(url))
        assert check_index(url).is_sound
        (codes,) = [e.name for e in index.place.list("derived") if e.name.endswith("codes.npy")]
        for name in (codes, "derived/report.json"):
            held = bytearray(index.place.read(name))
            held[-3] ^= 4
            with index.place.write(name) as file:
                file.write(bytes(held))
        assert {d.rule for d in check_index(url).defects} == {"partitions", "record"}
        done = repair_index(url)
        assert done.after.is_sound
        assert answers(Index.open(url)) == before


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("lance error: IO: No space left on device (os error 28)", "The disk .* is full"),
        ("lance error: Permission denied (os error 13)", "its folder is read-only"),
        ("lance error: LanceError(IO): Invalid range 0..9", "is damaged or missing.*--check"),
    ],
)
def test_what_the_engine_says_of_a_disk_is_told_in_our_words(said: str, expected: str) -> None:
    error = fault(RuntimeError(said), FolderPlace(Path("idx")))
    with pytest.raises(ArtifactError, match=expected):
        raise error
