"""An index depends on its rows alone: not on their order, on kills, or on other writers."""

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from medfinder.index.store import Index

_WRITER = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from conftest import STREAMS, Gallery
from medfinder.index.store import Index, IndexConfig
gallery = Gallery()
index = Index.create(sys.argv[1], STREAMS, IndexConfig(exact_below=40, rows_per_list=10))
numbers = [int(a) for a in sys.argv[2].split(",")]
there = index.study_hashes()
todo = [i for i in numbers if f"s{{i:04d}}" not in there]
for start in range(0, len(todo), 5):
    gallery.add(index, todo[start:start + 5])
    print("added", flush=True)
if len(sys.argv) > 3:
    print("finishing", flush=True)
    index.finish()
    print("finished", flush=True)
"""


def writer(folder: Path, numbers: range, *finish: str) -> subprocess.Popen[str]:
    listed = ",".join(str(i) for i in numbers)
    return subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(folder), listed, *finish],
        stdout=subprocess.PIPE,
        text=True,
    )


def content(index: Index) -> dict[str, object]:
    """All that a caller can see of it."""
    vectors = np.array(index.vectors("volume", index.ids()))
    query = np.ones(16, np.float32)
    return {
        "ids": index.ids(),
        "studies": index.studies(index.ids()),
        "vectors": vectors.tobytes(),
        "centre": index.centre("volume").tobytes(),
        "near": index.search_vector("volume", query, 70),
        "text": index.search_text("nodule effusion report 17", 70),
        "keyword": index.search_findings(["nodule"], k=70),
        "facets": index.facets("findings_present"),
    }


def kill_after(process: subprocess.Popen[str], n_lines: int, pause_s: float = 0.0) -> None:
    assert process.stdout is not None
    for _ in range(n_lines):
        process.stdout.readline()
    if pause_s:
        threading.Event().wait(pause_s)
    process.kill()
    process.wait()
    process.stdout.close()


def complete(process: subprocess.Popen[str]) -> None:
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out


@pytest.mark.slow
def test_a_run_killed_at_any_moment_ends_in_the_same_index(tmp_path: Path) -> None:
    numbers = range(45)
    complete(writer(tmp_path / "whole", numbers, "finish"))
    kill_after(writer(tmp_path / "killed", numbers, "finish"), 3, 0.01)  # amid a batch
    kill_after(writer(tmp_path / "killed", numbers, "finish"), 7, 0.2)  # amid finish
    complete(writer(tmp_path / "killed", numbers, "finish"))
    whole, killed = Index.open(tmp_path / "whole"), Index.open(tmp_path / "killed")
    assert content(killed) == content(whole)
    hashes = [(tmp_path / n / "manifest.json").read_text() for n in ("whole", "killed")]
    assert hashes[0] == hashes[1]


def test_the_order_of_adding_does_not_show(tmp_path: Path, gallery) -> None:
    seen = []
    for name, order in (("up", range(30)), ("down", range(29, -1, -1))):
        index = Index.create(tmp_path / name, gallery.streams)
        for start in range(0, 30, 10):
            gallery.add(index, order[start : start + 10])
        if name == "down":  # a detour: more, finished, and less again
            gallery.add(index, range(40, 50))
            index.finish()
            index.delete([f"s{i:04d}" for i in range(40, 50)])
        index.finish()
        seen.append((content(index), (tmp_path / name / "manifest.json").read_text()))
    assert seen[0] == seen[1]


def test_finishing_twice_changes_nothing(tmp_path: Path, gallery) -> None:
    index = Index.create(tmp_path / "idx", gallery.streams)
    gallery.add(index, range(12))
    first = index.finish()
    before = content(index)
    assert index.finish() == first
    assert content(index) == before


@pytest.mark.slow
def test_two_writers_and_a_reader_at_once_lose_nothing(tmp_path: Path, gallery) -> None:
    folder = tmp_path / "idx"
    index = Index.create(folder, gallery.streams)
    gallery.add(index, range(5))
    index.finish()
    reader = Index.open(folder)
    # The second writer's studies overlap with the first one's.
    writers = [writer(folder, range(5, 45)), writer(folder, range(25, 70))]
    counts = []
    while any(process.poll() is None for process in writers):
        counts.append(reader.count())
        found = reader.search_vector("volume", np.ones(16, np.float32), 3)
        assert len(reader.studies([name for name, _ in found])) == 3
        assert reader.search_text("effusion", 1)
    for process in writers:
        complete(process)
    assert counts == sorted(counts)
    index.finish()
    assert reader.ids() == [f"s{i:04d}" for i in range(70)]
    alone = Index.create(tmp_path / "alone", gallery.streams)
    gallery.add(alone, range(70))
    alone.finish()
    assert content(reader) == content(alone)


def test_threads_may_share_an_index(tmp_path: Path, gallery) -> None:
    index = Index.create(tmp_path / "idx", gallery.streams)
    gallery.add(index, range(20))
    index.finish()
    errors: list[BaseException] = []

    def search() -> None:
        try:
            for i in range(10):
                assert index.search_vector("volume", np.ones(16, np.float32), 3, f"age > {i}")
                assert index.search_text("effusion", 2)
                assert index.studies(["s0003"])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    gallery.add(index, range(20, 25))
    for thread in threads:
        thread.join()
    assert not errors
    assert index.count() == 25


def test_one_study_added_twice_at_the_same_moment_is_kept_once(tmp_path: Path, gallery) -> None:
    index = Index.create(tmp_path / "idx", gallery.streams)
    gallery.add(index, range(10))
    # What two racing writers could leave behind: the same study in two rows.
    index._table.add(index._table.search().where("age = 23").to_arrow(), on_bad_vectors="null")
    assert index._table.count_rows() == 11
    index.finish()
    assert index._table.count_rows() == index.count() == 10
    assert index.studies(["s0003"]) == [gallery.study(3)]


def test_what_a_killed_finish_was_writing_is_cleared_away(empty: Index, gallery) -> None:
    gallery.add(empty, range(12))
    empty.finish()
    folder = empty.place.path
    left = [
        folder / ".manifest.json.abc.tmp",
        folder / "derived" / ".text.json.abc.tmp",
        folder / "derived" / ".building-abc" / "raw.npy",
    ]
    left[2].parent.mkdir()
    for path in left:
        path.write_bytes(b"half")
    empty.finish()
    assert not any(path.exists() for path in left)
    assert not left[2].parent.exists()
    assert Index.open(folder).count() == 12
