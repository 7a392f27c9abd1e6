"""An index in an object store that fails, and one that Ray's workers make and are killed at."""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from faults.kills import judged
from faults.rows import Row
from faults.stages import Child, Inputs, contents, encoders, indexed, run_index, timed
from medfinder.index import lease
from medfinder.scale.ray_cluster import RayCluster
from medfinder.search.build import build_index
from stubs import s3

Keep = Callable[[Row], None]
FAULTS = (500, 503, "cut", "lost")
"""Answers of a store: an error; none, the request unheard; none, though it took effect."""
PATIENCE_S = 600.0  # each request is tried again for up to a minute


def run_index_in_store(inputs: Inputs, url: str, environment: dict[str, str]) -> None:
    """Index all studies into a store."""
    os.environ.update(environment)
    lease.LEASE_S = 2.0  # a killed writer's right ends sooner than in earnest
    made = encoders()
    build_index(inputs.all, url, made["volume"], made["report"])


@contextmanager
def _environment(**said: str) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(said)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _expected(inputs: Inputs, work: Path) -> dict[str, Any]:
    timed(run_index, inputs, work / "whole")
    return indexed(work / "whole")


def failing_store(
    inputs: Inputs, work: Path, n: int, seed: int = 0, keep: Keep = print, row: Row | None = None
) -> Row:
    """Index into a store of whose requests some fail; where it gives up, go on when it is well."""
    row = row or Row("object store fails", "index")
    rng = random.Random(f"{seed}-{row.tried}")
    expected, begun = _expected(inputs, work), time.monotonic() - row.seconds
    with s3.server() as server, _environment(MEDFINDER_CACHE=str(work / "cache")):
        while row.tried < n:
            url = f"s3://{server.bucket()}/idx"
            failed_before = server.n_failed
            server.fail(rng.choice((2, 3, 5, 9)), *rng.sample(FAULTS, rng.randrange(1, 5)))
            started = time.monotonic()
            child = Child(run_index_in_store, inputs, url, dict(os.environ), is_watched=False)
            said = child.end(PATIENCE_S)
            took_s = round(time.monotonic() - started)
            row.outcomes["slowest_s"] = max(took_s, row.outcomes.get("slowest_s", 0))
            server.heal()
            n_failed = server.n_failed - failed_before
            row.outcomes["requests that failed"] = (
                row.outcomes.get("requests that failed", 0) + n_failed
            )
            again = said
            if said[0] == "refused":
                again = Child(run_index_in_store, inputs, url, dict(os.environ)).end()
            if said[0] not in ("done", "refused"):
                row.add("wrong", f"no clear error: {said}")
            elif again[0] != "done":
                row.add("lost", f"it does not go on: {again}")
            else:
                outcome, note = judged(expected, indexed(url))
                how = ": refused, then went on" if said[0] == "refused" else ": at once"
                row.add(outcome + how * (outcome == "survived"), note)
            row.seconds = round(time.monotonic() - begun, 1)
            keep(row)
    return row


def kill_writer_of_store(
    inputs: Inputs, work: Path, n: int, seed: int = 0, keep: Keep = print, row: Row | None = None
) -> Row:
    """Kill what writes an index into a store, at random moments; then go on."""
    row = row or Row("kill -9", "index in a store")
    rng = random.Random(f"{seed}-{row.tried}")
    expected, begun = _expected(inputs, work), time.monotonic() - row.seconds
    with s3.server() as server, _environment(MEDFINDER_CACHE=str(work / "cache")):

        def start(url: str) -> Child:
            return Child(run_index_in_store, inputs, url, dict(os.environ))

        started = time.monotonic()
        start(f"s3://{server.bucket()}/idx").end()
        takes_s = time.monotonic() - started
        while row.tried < n:
            url = f"s3://{server.bucket()}/idx"
            child = start(url)
            time.sleep(rng.uniform(0, takes_s))
            if not child.kill():
                continue
            said = start(url).end()
            if said[0] != "done":
                row.add("lost", f"it does not go on: {said}")
            else:
                row.add(*judged(expected, indexed(url)))
            row.seconds = round(time.monotonic() - begun, 1)
            keep(row)
    return row


def kill_ray_workers(
    inputs: Inputs, work: Path, n: int, seed: int = 0, keep: Keep = print, row: Row | None = None
) -> Row:
    """Kill one of two of Ray's workers at a random study; the index is the one without Ray."""
    import ray
    from ray.cluster_utils import Cluster

    row = row or Row("kill -9", "a worker of Ray")
    rng = random.Random(f"{seed}-{row.tried}")
    whole, out, begun = work / "whole", work / "out", time.monotonic() - row.seconds
    timed(run_index, inputs, whole)
    expected = contents("index", whole)
    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    cluster = Cluster(
        initialize_head=True,
        head_node_args={**node, "include_dashboard": False},
        shutdown_at_exit=False,
    )
    cluster.add_node(**node)
    try:
        with RayCluster(cluster.address) as engine:
            while row.tried < n:
                shutil.rmtree(out, ignore_errors=True)
                at = rng.randrange(1, 16)

                def kill(done: int, of: int, at: int = at) -> None:
                    if done == at:
                        _kill_an_actor(rng)

                made = encoders()
                build_index(
                    inputs.all, out, made["volume"], made["report"], engine=engine, progress=kill
                )
                row.add(*judged(expected, contents("index", out)))
                row.seconds = round(time.monotonic() - begun, 1)
                keep(row)
    finally:
        ray.shutdown()
        cluster.shutdown()
    return row


def _kill_an_actor(rng: random.Random) -> None:
    actors = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (place / "cmdline").read_bytes().startswith(b"ray::_Actor"):
                actors.append(int(place.name))
    assert actors, "No worker was found."
    os.kill(rng.choice(sorted(actors)), signal.SIGKILL)
