"""The same index, whoever made it: here by processes; `test_ray_cluster` asks the same of Ray."""

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from medfinder.embed import Embedder
from medfinder.errors import Mismatch
from medfinder.scale.processes import Processes
from medfinder.search import build
from medfinder.search.build import Built, build_index
from stubs.encoders import GridEncoder, WordEncoder
from stubs.indexes import Contents, contents
from stubs.scaled import Elsewhere, Killer, voxel_sum


def built(studies: Path, out: Path, encoder: GridEncoder | None = None, **options: Any) -> Built:
    options = {"engine": Processes(2), "keep_regions": True, **options}
    return build_index(
        studies, out, Embedder(encoder or GridEncoder()), Embedder(WordEncoder()), **options
    )


def test_processes_make_the_index_that_one_process_makes(
    studies: Path, alone: Contents, tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    made = built(studies, tmp_path / "idx", progress=lambda *now: seen.append(now))
    assert contents(tmp_path / "idx") == alone
    assert seen == [(n, 9) for n in range(1, 10)]
    assert made.n_embedded == 9


def test_a_worker_killed_while_it_embeds_changes_nothing(
    studies: Path, alone: Contents, tmp_path: Path
) -> None:
    built(studies, tmp_path / "idx", Killer(voxel_sum(studies, "s4"), str(tmp_path / "done")))
    assert (tmp_path / "done").exists()
    assert contents(tmp_path / "idx") == alone


def test_workers_killed_from_outside_change_nothing(
    studies: Path, alone: Contents, tmp_path: Path
) -> None:
    def kill(done: int, total: int) -> None:
        if done in (2, 5):
            pid = multiprocessing.active_children()[-1].pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)

    built(studies, tmp_path / "idx", progress=kill)
    assert contents(tmp_path / "idx") == alone


def test_a_volume_that_kills_its_worker_every_time_is_rejected_and_its_report_stays(
    studies: Path, alone: Contents, tmp_path: Path
) -> None:
    made = built(studies, tmp_path / "idx", Killer(voxel_sum(studies, "s4")))
    found = contents(tmp_path / "idx")
    assert found.rejections == [("s4", "worker-died")]
    assert (made.n_studies, made.n_rejections) == (9, 1)
    assert found.vectors == {**alone.vectors, ("s4", "volume"): None}
    # What fell over the machine is tried again by the next run.
    built(studies, tmp_path / "idx", engine=None)
    assert contents(tmp_path / "idx") == alone


def test_a_run_that_stops_goes_on_with_processes_where_it_stopped(
    studies: Path, alone: Contents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done == 5:
            raise Stop

    monkeypatch.setattr(build, "BATCH", 2)
    monkeypatch.setattr(build, "SHARE", 1.0)  # commit whenever there is a batch
    out = tmp_path / "idx"
    with pytest.raises(Stop):
        built(studies, out, progress=stop)
    assert multiprocessing.active_children() == []
    assert built(studies, out).n_embedded == 5
    assert contents(out) == alone


def test_a_worker_that_loads_another_model_than_was_declared_is_refused(
    studies: Path, tmp_path: Path
) -> None:
    with pytest.raises(Mismatch, match="loads another model than this run began with"):
        build_index(studies, tmp_path / "idx", Embedder(Elsewhere()), None, engine=Processes(1))
