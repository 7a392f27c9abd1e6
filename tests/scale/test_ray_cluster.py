"""The same of Ray: a real cluster of two nodes on this machine."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from medfinder.embed import Embedder
from medfinder.errors import ConfigError, InputError, MissingExtra
from medfinder.scale.engine import LIMIT_S, Failure, Step
from medfinder.scale.ray_cluster import RayCluster
from medfinder.scale.schedule import AHEAD
from medfinder.search.build import build_index
from stubs import scaled
from stubs.encoders import GridEncoder, WordEncoder
from stubs.indexes import Contents, contents
from stubs.scaled import Killer, step, voxel_sum

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
ray: Any = pytest.importorskip("ray", reason="Ray is not installed: pip install 'medfinder[ray]'")
# What Ray leaves to the collector, and says of its own use of itself, is not ours.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of two nodes with a core each."""
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    head = {**node, "include_dashboard": False}
    with pytest.MonkeyPatch.context() as patch:
        # Nodes find the stubs as they find an installed package.
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        cluster = Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=False)
        cluster.add_node(**node)
        yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def engine(cluster: Any) -> Iterator[RayCluster]:
    with RayCluster(cluster.address) as engine:
        yield engine
    assert not ray.is_initialized()


@pytest.fixture(scope="module")
def with_gpu(cluster: Any, engine: RayCluster) -> Iterator[RayCluster]:
    """The same cluster, to which a node comes that says that it has a GPU; used last."""
    cluster.add_node(num_cpus=1, num_gpus=1, object_store_memory=80 * 2**20)
    return engine


def built(studies: Path, out: Path, engine: RayCluster, encoder: GridEncoder | None = None) -> Any:
    return build_index(
        studies,
        out,
        Embedder(encoder or GridEncoder()),
        Embedder(WordEncoder()),
        keep_regions=True,
        engine=engine,
    )


def test_actors_on_two_nodes_make_the_index_that_one_process_makes(
    engine: RayCluster, studies: Path, alone: Contents, tmp_path: Path
) -> None:
    made = built(studies, tmp_path / "idx", engine)
    assert contents(tmp_path / "idx") == alone
    assert made.n_embedded == 9


def test_a_worker_killed_while_it_embeds_changes_nothing(
    engine: RayCluster, studies: Path, alone: Contents, tmp_path: Path
) -> None:
    done = tmp_path / "done"
    built(studies, tmp_path / "idx", engine, Killer(voxel_sum(studies, "s4"), str(done)))
    assert done.exists()
    assert contents(tmp_path / "idx") == alone


def test_a_volume_that_kills_its_worker_every_time_is_rejected_and_its_report_stays(
    engine: RayCluster, studies: Path, alone: Contents, tmp_path: Path
) -> None:
    built(studies, tmp_path / "idx", engine, Killer(voxel_sum(studies, "s4")))
    found = contents(tmp_path / "idx")
    assert found.rejections == [("s4", "worker-died")]
    assert found.vectors == {**alone.vectors, ("s4", "volume"): None}


def test_every_item_comes_back_once_in_order_from_both_nodes(engine: RayCluster) -> None:
    found = list(engine.map(range(6), [step(scaled.process_of)]))
    assert [i for i, _ in found] == list(range(6))
    assert len({pid for _, (pid, _, _) in found}) == 2
    assert {(n, said) for _, (_, n, said) in found} == {(1, "1")}


def test_a_bad_item_is_a_failure_with_its_rule_and_is_tried_once(engine: RayCluster) -> None:
    found = dict(engine.map([2, 3, 4], [step(scaled.told_apart), step(scaled.double)]))
    bad = found.pop(3)
    assert (bad.rule, bad.reason, bad.attempts) == ("three", "The item is 3.", 1)
    assert found == {2: 8, 4: 16}


def test_of_many_items_sent_at_once_the_one_that_kills_is_found(engine: RayCluster) -> None:
    found = list(engine.map(range(40), [step(scaled.die_at, 5)], chunk=16))
    assert [i for i, _ in found] == list(range(40))
    assert [(i, r.rule, r.attempts) for i, r in found if isinstance(r, Failure)] == [
        (5, "worker-died", 3)
    ]


def test_what_the_disk_refused_is_asked_for_again(engine: RayCluster, tmp_path: Path) -> None:
    found = dict(engine.map([1, 2, 3], [step(scaled.fail_until, tmp_path, 2, 2)]))
    assert found == {1: 2, 2: 4, 3: 6}


def test_a_worker_killed_from_outside_loses_nothing(engine: RayCluster) -> None:
    found = []
    for item, (pid, _, _) in engine.map(range(8), [step(scaled.process_of)]):
        found.append(item)
        if item == 1:
            os.kill(pid, signal.SIGKILL)
    assert found == list(range(8))


def test_the_source_is_read_a_bounded_number_ahead(engine: RayCluster) -> None:
    n_read = most = 0

    def source() -> Iterator[int]:
        nonlocal n_read
        for i in range(60):
            n_read += 1
            yield i

    for n_yielded, _ in enumerate(engine.map(source(), [step(scaled.double)]), 1):
        most = max(most, n_read - n_yielded)
    assert n_read == 60
    assert most <= 2 * AHEAD


def test_closing_early_frees_the_cluster(engine: RayCluster) -> None:
    stream = engine.map(range(1000), [step(scaled.slow_double, 0.05)])
    next(stream)
    assert ray.available_resources().get("CPU", 0) < 2
    stream.close()
    deadline = time.monotonic() + 20
    while ray.available_resources().get("CPU", 0) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert ray.available_resources()["CPU"] == 2


def test_a_step_that_cannot_be_made_ends_the_run_as_what_it_is(engine: RayCluster) -> None:
    with pytest.raises(MissingExtra, match="pip install"):
        list(engine.map([1, 2], [Step(scaled.unmade)]))


def test_workers_that_fall_before_they_begin_are_told(engine: RayCluster) -> None:
    with pytest.raises(InputError, match="Worker processes cannot start"):
        list(engine.map([1, 2], [Step(scaled.dying)]))


def test_a_cluster_without_room_says_what_it_has(cluster: Any, engine: RayCluster) -> None:
    greedy = RayCluster(cluster.address, threads=64, patience_s=2)
    with pytest.raises(InputError, match=r"no worker in 2 s: .* 64 free CPU, got 2 free of 2"):
        list(greedy.map([1], [step(scaled.double)]))
    greedy.close()
    assert ray.is_initialized()  # the connection was there before


@pytest.mark.parametrize("setting", [{"workers": -1}, {"threads": 0}])
def test_a_number_out_of_range_is_refused(setting: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        RayCluster("local", **setting)  # type: ignore[arg-type]


def test_what_is_read_on_cores_is_finished_on_a_gpu(
    with_gpu: RayCluster,
) -> None:
    steps = [step(scaled.process_of), step(scaled.beside, gpu=True)]
    found = list(with_gpu.map(range(6), steps))
    assert [i for i, _ in found] == list(range(6))
    readers, finishers, gpus = (set(each) for each in zip(*(r for _, r in found), strict=True))
    assert (len(finishers), gpus) == (1, {"0"})
    assert not readers & finishers


def test_what_kills_the_task_that_reads_it_is_a_failure_and_the_gpu_s_worker_stays(
    with_gpu: RayCluster, capfd: pytest.CaptureFixture[str]
) -> None:
    steps = [step(scaled.die_at, 3), step(scaled.double, gpu=True)]
    found = dict(with_gpu.map(range(6), steps))
    failed = found.pop(3)
    assert (failed.rule, failed.attempts) == ("worker-died", 3)
    assert found == {i: 4 * i for i in range(6) if i != 3}
    assert capfd.readouterr().out == ""  # data's place, in which Ray tells of what fell


@pytest.mark.parametrize("place", [0, 1])
def test_what_hangs_on_a_core_or_a_gpu_is_ended_and_is_a_failure(
    with_gpu: RayCluster, place: int
) -> None:
    steps = [step(scaled.double), step(scaled.double, gpu=True)]
    steps[place] = step(scaled.hang_at, 3 * 2**place, gpu=place == 1)
    with_gpu.limit_s = 8.0  # a new worker of Ray takes seconds
    try:
        found = dict(with_gpu.map(range(6), steps))
    finally:
        with_gpu.limit_s = LIMIT_S
    failed = found.pop(3)
    assert (failed.rule, failed.attempts) == ("too-slow", 2)
    assert found == {i: 4 * i for i in range(6) if i != 3}


def test_an_index_made_with_a_gpu_s_worker_is_the_same(
    with_gpu: RayCluster, studies: Path, alone: Contents, tmp_path: Path
) -> None:
    built(studies, tmp_path / "idx", with_gpu)
    assert contents(tmp_path / "idx") == alone
