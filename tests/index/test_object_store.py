"""An index straight in an S3-compatible store: the same answers, many readers, two writers, faults."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from medfinder.errors import ArtifactError, Incomplete, InputError, Mismatch
from medfinder.index import fetched, lease
from medfinder.index.store import Index, IndexConfig
from medfinder.place import StorePlace
from stubs import s3

CONFIG = IndexConfig(exact_below=40, rows_per_list=10)
QUERY = np.ones(16, np.float32)

_WRITER = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from conftest import STREAMS, Gallery
from medfinder.index.store import Index, IndexConfig
index = Index.create(sys.argv[1], STREAMS, IndexConfig(exact_below=40, rows_per_list=10))
there = index.study_hashes()
todo = [i for i in range(int(sys.argv[2]), int(sys.argv[3])) if f"s{{i:04d}}" not in there]
for start in range(0, len(todo), 5):
    Gallery().add(index, todo[start:start + 5])
    print("added", flush=True)
print("finishing", flush=True)
index.finish()
print("finished", flush=True)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[s3.Server]:
    with s3.server() as made:
        yield made


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDFINDER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def url(server: s3.Server) -> Iterator[str]:
    """An empty place in the store."""
    yield f"s3://{server.bucket()}/archive/idx"
    server.heal()


def build(url: str | Path, gallery, numbers: range) -> Index:
    index = Index.create(url, gallery.streams, CONFIG)
    gallery.add(index, numbers)
    index.finish()
    return index


def answers(index: Index) -> dict[str, object]:
    return {
        "ids": index.ids(),
        "studies": index.studies(index.ids()[:5]),
        "centre": index.centre("volume").tobytes(),
        "near": index.search_vector("volume", QUERY, 20),
        "filtered": index.search_vector("volume", QUERY, 20, "age >= 50"),
        "text": index.search_text("nodule effusion report 17", 20),
        "keyword": index.search_findings(["nodule"], k=20),
    }


def test_an_index_in_a_store_answers_as_the_same_index_in_a_folder(
    url: str, tmp_path: Path, gallery
) -> None:
    build(url, gallery, range(60))
    build(tmp_path / "idx", gallery, range(60))
    there, here = Index.open(url), Index.open(tmp_path / "idx")
    assert answers(there) == answers(here)
    assert there.manifest() == here.manifest()
    assert there.location == url


def test_partitions_are_fetched_once_and_a_damaged_answer_is_refused(
    url: str, tmp_path: Path, gallery, server: s3.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(url, gallery, range(60))
    before = answers(Index.open(url))
    monkeypatch.setenv("MEDFINDER_CACHE", str(tmp_path / "another machine"))
    assert answers(Index.open(url)) == before
    assert sum(path.endswith("/vectors.npy") for path in server.read) == 1
    server.read.clear()
    assert answers(Index.open(url)) == before
    assert not [path for path in server.read if path.endswith(".npy")]
    place = StorePlace(url)
    (codes,) = [
        entry.name
        for entry in place.list("derived")
        if entry.name.startswith("derived/volume-") and entry.name.endswith("codes.npy")
    ]
    with place.write(codes) as file:
        file.write(b"x")
    monkeypatch.setenv("MEDFINDER_CACHE", str(tmp_path / "third machine"))
    with pytest.raises(Mismatch, match=r"codes\.npy of 's3://.* is damaged.*--repair"):
        Index.open(url).search_vector("volume", QUERY, 3)


def test_a_reader_sees_what_a_writer_added_and_then_its_new_version(
    url: str, gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = build(url, gallery, range(10))
    reader = Index.open(url)
    assert reader.count() == 10
    mark = reader.mark()
    gallery.add(writer, range(10, 15))
    assert writer.count() == 15  # its own rows at once
    deadline = time.monotonic() + 10
    while reader.count() != 15:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert reader.mark() == mark
    writer.finish()
    assert reader.mark() != mark
    assert len(reader.search_vector("volume", QUERY, 20)) == 15


def test_an_index_that_was_not_finished_is_refused(url: str, gallery) -> None:
    with pytest.raises(InputError, match="There is no index folder at 's3://"):
        Index.open(url)
    index = Index.create(url, gallery.streams)
    gallery.add(index, range(5))
    with pytest.raises(Incomplete, match=r"has no manifest\.json"):
        Index.open(url)
    with pytest.raises(InputError, match="lies in a store, but this step works in a folder"):
        _ = index.folder


def test_a_store_that_fails_every_fifth_request_changes_nothing_but_time(
    url: str, gallery, server: s3.Server, tmp_path: Path
) -> None:
    build(tmp_path / "idx", gallery, range(45))
    failed = server.n_failed
    server.fail(5, 500, 503, "cut", "lost")
    index = Index.create(url, gallery.streams, CONFIG)
    gallery.add(index, range(25))
    gallery.add(index, range(25, 48))
    assert index.delete(["s0045", "s0046", "s0047"]) == 3
    index.finish()
    found = answers(Index.open(url))
    assert server.n_failed - failed > 20
    assert found == answers(Index.open(tmp_path / "idx"))


def test_a_store_that_always_fails_is_told_by_bucket_and_key_and_no_secret(
    url: str, gallery, server: s3.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("medfinder.place", "medfinder.index.folder"):
        monkeypatch.setattr(f"{module}.RETRIES", 1)
        monkeypatch.setattr(f"{module}.RETRY_S", 1.0)
    server.fail(1, 503)
    with pytest.raises(ArtifactError) as told:
        Index.create(url, gallery.streams)
    said = str(told.value)
    assert f"{url}/restoring.json could not be read: the store went on answering" in said
    assert "not-to-be-shown" not in said
    server.heal()
    index = Index.create(url, gallery.streams)
    server.fail(1, 503)
    monkeypatch.setattr("medfinder.index.store._PAUSES_S", (0.0,))
    with pytest.raises(ArtifactError, match=f"The index '{url}' could not be read or written"):
        gallery.add(index, range(3))


def test_a_bucket_that_is_not_there_and_a_server_that_is_not_there(
    gallery, server: s3.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ArtifactError, match="there is no such bucket"):
        Index.create("s3://no-such-bucket/idx", gallery.streams)
    monkeypatch.setattr("medfinder.place.RETRIES", 0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(ArtifactError, match="the store could not be reached"):
        Index.open("s3://bucket/idx")
    for module in ("medfinder.index.folder.RETRIES", "medfinder.index.folder.RETRY_S"):
        monkeypatch.setattr(module, 0)
    with pytest.raises(ArtifactError, match="the store could not be reached"):
        Index("s3://bucket/idx", gallery.streams, CONFIG)  # it went away a moment later
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    with pytest.raises(ArtifactError, match="Set AWS_ALLOW_HTTP=true"):
        Index.open("s3://bucket/idx")


@pytest.mark.slow
def test_a_writer_killed_at_any_moment_leaves_an_index_to_go_on_with(
    url: str, gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LEASE_S", 1.5)
    for n_lines, pause_s in ((3, 0.02), (7, 0.3)):  # amid a batch, and amid finish
        process = writer(url, 0, 45)
        assert process.stdout is not None
        for _ in range(n_lines):
            process.stdout.readline()
        time.sleep(pause_s)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        with pytest.raises(ArtifactError):
            Index.open(url)
    index = Index.create(url, gallery.streams, CONFIG)
    missing = sorted({f"s{i:04d}" for i in range(45)} - set(index.ids()))
    assert len(missing) < 45
    gallery.add(index, [int(name[1:]) for name in missing])
    index.finish()  # waits until the killed holder's lease has ended
    build(tmp_path / "idx", gallery, range(45))
    assert answers(Index.open(url)) == answers(Index.open(tmp_path / "idx"))


@pytest.mark.slow
def test_two_writers_at_once_lose_nothing(url: str, gallery) -> None:
    Index.create(url, gallery.streams, CONFIG)
    writers = [writer(url, 0, 30), writer(url, 20, 45)]  # five are in both
    for process in writers:
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0, out
    index = Index.open(url)
    assert index.ids() == [f"s{i:04d}" for i in range(45)]
    assert index.manifest().counts["studies"] == 45
    assert len(index.search_vector("volume", QUERY, 60)) == 45


def writer(url: str, first: int, end: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _WRITER, url, str(first), str(end)],
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )


def test_a_lease_is_held_by_one_at_a_time(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LEASE_S", 1.0)
    inside: list[int] = []
    most: list[int] = []

    def work(number: int) -> None:
        with lease.leased(StorePlace(url), "finish.lock") as check:
            inside.append(number)
            most.append(len(inside))
            time.sleep(1.4)  # longer than a lease lasts unless it is renewed
            check()
            inside.remove(number)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1]


def test_a_holder_that_lost_its_lease_is_told_before_it_writes(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LEASE_S", 0.4)
    asleep = lease.Lease(StorePlace(url), "finish.lock")
    asleep.take()
    time.sleep(0.5)  # a machine that was suspended renews nothing
    with lease.leased(StorePlace(url), "finish.lock") as check:
        check()
        with pytest.raises(ArtifactError, match="Another process has taken over"):
            asleep.check()
        asleep.release()  # must not let a third one in
        check()
        assert StorePlace(url).put_new("finish.lock", b"") is None


def test_a_lease_asks_no_machine_what_time_it_is(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LEASE_S", 2.0)
    monkeypatch.setattr(time, "time", lambda: 4e9)  # a clock that jumped by decades
    with lease.leased(StorePlace(url), "finish.lock") as check:
        taken = threading.Event()

        def other() -> None:
            with lease.leased(StorePlace(url), "finish.lock"):
                taken.set()

        thread = threading.Thread(target=other)
        thread.start()
        assert not taken.wait(2.5)
        check()
    assert taken.wait(5)
    thread.join()


def test_old_copies_of_partitions_are_removed_and_new_ones_kept(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (fetched.folder() / name).mkdir()
    os.utime(fetched.folder() / "old", (0, 0))
    fetched._tidy()
    assert [p.name for p in fetched.folder().iterdir()] == ["new"]
