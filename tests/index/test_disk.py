"""Disks that are full or read-only, and an index that is added to in many small steps."""

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from medfinder.index.store import Index

QUERY = np.ones(16, np.float32)

_ADD = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from conftest import STREAMS, Gallery
from medfinder.errors import MedFinderError
from medfinder.index.store import Index
try:
    index = Index.open(sys.argv[1])
    if sys.argv[2] == "full":  # as a full disk does: a write fails in the middle
        import resource, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    if sys.argv[2] == "read-only":
        os.setuid(65534)
    Gallery().add(index, range(20, 40))
    index.finish()
except (MedFinderError, OSError) as error:
    print(type(error).__name__, error)
"""


def add(folder: Path, kind: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _ADD, str(folder), kind], capture_output=True, text=True, timeout=120
    )
    return done.stdout


def open_to_all(folder: Path) -> None:
    """Let everybody come as far as the index, and read it."""
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    for parent in folder.parents:
        if parent.owner() == "root" and parent.stat().st_mode & 0o005 != 0o005:
            parent.chmod(0o755)
        if parent == Path("/tmp"):
            break


@pytest.fixture
def idx(tmp_path: Path, gallery) -> Path:
    index = Index.create(tmp_path / "idx", gallery.streams)
    gallery.add(index, range(20))
    index.finish()
    return tmp_path / "idx"


def test_a_disk_that_is_full_loses_nothing_and_is_told(idx: Path, gallery) -> None:
    said = add(idx, "full")
    assert "ArtifactError The disk that holds the index" in said
    index = Index.open(idx)
    assert index.ids() == [f"s{i:04d}" for i in range(20)]
    gallery.add(index, range(20, 40))  # there is room again
    index.finish()
    assert index.count() == 40


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs another user")
def test_a_folder_that_is_read_only_is_read_and_not_written(idx: Path) -> None:
    open_to_all(idx)
    said = add(idx, "read-only")
    assert "its folder is read-only for this user" in said
    assert Index.open(idx).count() == 20


@pytest.mark.slow
def test_many_small_additions_leave_few_files_after_the_finish(
    tmp_path: Path, gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medfinder.index.finish._KEPT", timedelta(milliseconds=1))
    index = Index.create(tmp_path / "idx", {"volume": gallery.streams["volume"]})
    for start in range(0, 1000, 5):  # 200 commits
        numbers = range(start, start + 5)
        index.add(
            [gallery.study(i) for i in numbers], {"volume": gallery.vectors(numbers, "volume")}
        )
    data = tmp_path / "idx" / "table" / "studies.lance" / "data"
    assert index._table.stats()["fragment_stats"]["num_fragments"] >= 100
    index.finish()
    assert index._table.stats()["fragment_stats"]["num_fragments"] == 1
    assert len(list(data.iterdir())) <= 3
    n_files = sum(1 for path in (tmp_path / "idx").rglob("*") if path.is_file())
    assert n_files < 100
    assert len(index.search_vector("volume", QUERY, 1000)) == 1000
    assert len(index.search_text("emphysema", 1000)) == sum(i % 3 == 2 for i in range(1000))
