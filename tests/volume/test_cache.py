"""The cache of preprocessed arrays, under damage, concurrency, kills and a full disk."""

import logging
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from medfinder.errors import ArtifactError, ConfigError
from medfinder.volume.cache import STALE_S, PreprocessCache
from medfinder.volume.preprocess import PreprocessConfig, preprocess
from medfinder.volume.volume import Volume

CONFIG = PreprocessConfig(size=(8, 9, 10))
AFFINE = np.eye(4)[:, [2, 1, 0, 3]]

WRITER = """
import sys, numpy as np
from medfinder.volume.cache import PreprocessCache
from medfinder.volume.preprocess import PreprocessConfig
cache = PreprocessCache(sys.argv[1], int(sys.argv[2]) or None)
config = PreprocessConfig(size=(64, 64, 64))
print("ready", flush=True)
for i in range(int(sys.argv[3])):
    key = f"{i % 7:064x}"
    found = cache.get(key, config)
    expected = np.full((1, 64, 64, 64), i % 7, np.float32)
    if found is None:
        cache.put(key, config, expected)
    elif not (found == expected).all():
        sys.exit("wrong values")
    if i % 3 == 0:
        cache.path(key, config).unlink(missing_ok=True)
"""


def volume(seed: int = 0) -> Volume:
    stored = np.random.default_rng(seed).integers(-1000, 1000, (12, 14, 16)).astype(np.int16)
    return Volume(stored, AFFINE)


def entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def writer(folder: Path, max_bytes: int, n: int) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), str(max_bytes), str(n)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_the_second_fetch_comes_from_disk_and_is_equal(tmp_path: Path) -> None:
    cache = PreprocessCache(tmp_path)
    made = cache.fetch(volume(), CONFIG)
    again = PreprocessCache(tmp_path).get(volume().content_hash, CONFIG)
    assert again is not None
    np.testing.assert_array_equal(again, preprocess(volume(), CONFIG))
    np.testing.assert_array_equal(again, made)
    assert not again.flags.writeable
    assert not again.flags.owndata
    assert len(entries(tmp_path)) == 1


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_an_entry_is_a_plain_npy_file(tmp_path: Path, dtype: str) -> None:
    config = PreprocessConfig(size=(3, 4, 5), dtype=dtype, output_range=(0, 255))  # type: ignore[arg-type]
    made = PreprocessCache(tmp_path).fetch(volume(), config)
    np.testing.assert_array_equal(np.load(entries(tmp_path)[0]), made)


def test_another_volume_and_another_config_are_other_entries(tmp_path: Path) -> None:
    cache = PreprocessCache(tmp_path)
    cache.fetch(volume(), CONFIG)
    assert cache.get(volume(1).content_hash, CONFIG) is None
    assert cache.get(volume().content_hash, PreprocessConfig(size=(8, 9, 11))) is None


def test_a_folder_that_does_not_exist_holds_nothing(tmp_path: Path) -> None:
    assert PreprocessCache(tmp_path / "none").get("ab" * 32, CONFIG) is None


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@example(at=0.0, flip=2)
@given(at=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_any_changed_byte_is_noticed_and_the_entry_made_again(
    tmp_path: Path, at: float, flip: int
) -> None:
    cache = PreprocessCache(tmp_path)
    made = np.array(cache.fetch(volume(), CONFIG))
    assert cache.get(volume().content_hash, CONFIG) is not None
    path = entries(tmp_path)[0]
    raw = bytearray(path.read_bytes())
    raw[int(at * len(raw))] ^= flip
    path.write_bytes(raw)
    assert cache.get(volume().content_hash, CONFIG) is None
    assert entries(tmp_path) == []
    np.testing.assert_array_equal(cache.fetch(volume(), CONFIG), made)


@pytest.mark.parametrize("length", [0, 5, 100, 1000, -1])
def test_a_truncated_entry_is_noticed_and_logged(
    tmp_path: Path, length: int, caplog: pytest.LogCaptureFixture
) -> None:
    cache = PreprocessCache(tmp_path)
    cache.fetch(volume(), CONFIG)
    path = entries(tmp_path)[0]
    path.write_bytes(path.read_bytes()[:length])
    with caplog.at_level(logging.WARNING):
        assert cache.get(volume().content_hash, CONFIG) is None
    assert "A damaged entry of the preprocessing cache is made again" in caplog.text
    assert str(tmp_path) not in caplog.text


def test_an_entry_of_another_type_is_not_believed(tmp_path: Path) -> None:
    cache = PreprocessCache(tmp_path)
    cache.put("ab" * 32, CONFIG, np.zeros((1, 2, 2, 2), np.float64))
    assert cache.get("ab" * 32, CONFIG) is None


def test_concurrent_writers_readers_and_deleters_never_see_a_wrong_entry(tmp_path: Path) -> None:
    processes = [writer(tmp_path, max_bytes, 120) for max_bytes in (0, 0, 4 * 2**20)]
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors


def test_a_killed_writer_leaves_whole_entries_and_rubbish_that_trim_removes(tmp_path: Path) -> None:
    rng = random.Random(0)
    config = PreprocessConfig(size=(64, 64, 64))
    for _ in range(5):
        process = writer(tmp_path, 0, 10**9)
        time.sleep(rng.uniform(0.0, 0.08))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        for i in range(7):
            path = PreprocessCache(tmp_path).path(f"{i:064x}", config)
            there = path.exists()
            found = PreprocessCache(tmp_path).get(f"{i:064x}", config)
            assert (found is not None) == there
            assert found is None or (found == i).all()
    rubbish = tmp_path / "ab" / ".left.tmp"
    rubbish.parent.mkdir(exist_ok=True)
    rubbish.write_bytes(b"half")
    PreprocessCache(tmp_path).trim()
    assert rubbish.exists()  # its writer may be alive
    old = time.time() - STALE_S - 1
    os.utime(rubbish, (old, old))
    PreprocessCache(tmp_path).trim()
    assert not rubbish.exists()


def test_the_bound_evicts_what_was_unused_for_longest(tmp_path: Path) -> None:
    array = np.zeros((1, 8, 9, 10), np.float32)
    size = array.nbytes + 200
    cache = PreprocessCache(tmp_path, max_bytes=3 * size)
    for i in range(3):
        cache.put(f"{i:064x}", CONFIG, array)
        used = time.time() - 100 + i
        os.utime(cache.path(f"{i:064x}", CONFIG), (used, used))
    assert cache.get(f"{0:064x}", CONFIG) is not None  # used now: entry 1 is the oldest
    cache.put(f"{3:064x}", CONFIG, array)
    there = [cache.get(f"{i:064x}", CONFIG) is not None for i in range(4)]
    assert there == [True, False, True, True]


def test_an_array_larger_than_the_bound_is_not_stored(tmp_path: Path) -> None:
    cache = PreprocessCache(tmp_path, max_bytes=100)
    assert cache.fetch(volume(), CONFIG).shape == (1, 8, 9, 10)
    assert entries(tmp_path) == []


def test_a_map_outlives_the_eviction_of_its_entry(tmp_path: Path) -> None:
    cache = PreprocessCache(tmp_path)
    cache.fetch(volume(), CONFIG)
    found = cache.fetch(volume(), CONFIG)
    entries(tmp_path)[0].unlink()
    np.testing.assert_array_equal(found, preprocess(volume(), CONFIG))


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    """A limit on file size stands for the disk's end: the write stops half-way."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(ArtifactError, match="cache's disk is full: an entry needs"):
            PreprocessCache(tmp_path).fetch(volume(), CONFIG)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert entries(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="cannot be written: Not a directory"):
        PreprocessCache(tmp_path / "file").fetch(volume(), CONFIG)


def test_a_bound_below_one_byte_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="max_bytes is 0"):
        PreprocessCache(tmp_path, max_bytes=0)
