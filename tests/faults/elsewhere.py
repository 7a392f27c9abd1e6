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
    rng, seen = random.Random(f"{seed}-{row.tried}"), row.outcomes
    expected = _expected(inputs, work)
    with s3.server() as server, _environment(MEDFINDER_CACHE=str(work / "cache")):

        def one() -> tuple[str, str]:
            url = f"s3://{server.bucket()}/idx"
            failed_before, started = server.n_failed, time.monotonic()
            server.fail(rng.choice((2, 3, 5, 9)), *rng.sample(FAULTS, rng.randrange(1, 5)))
            said = _start(inputs, url, is_watched=False).end(PATIENCE_S)
            server.heal()
            took_s, n_failed = round(time.monotonic() - started), server.n_failed - failed_before
            seen["slowest_s"] = max(took_s, seen.get("slowest_s", 0))
            seen["requests that failed"] = seen.get("requests that failed", 0) + n_failed
            if said[0] not in ("done", "refused"):
                return "wrong", f"no clear error: {said}"
            again = _start(inputs, url).end() if said[0] == "refused" else said
            if again[0] != "done":
                return "lost", f"it does not go on: {again}"
            outcome, note = judged(expected, indexed(url))
            how = ": refused, then went on" if said[0] == "refused" else ": at once"
            return outcome + how * (outcome == "survived"), note

        return row.fill(n, one, keep)


def kill_writer_of_store(
    inputs: Inputs, work: Path, n: int, seed: int = 0, keep: Keep = print, row: Row | None = None
) -> Row:
    """Kill what writes an index into a store, at random moments; then go on."""
    row = row or Row("kill -9", "index in a store")
    rng = random.Random(f"{seed}-{row.tried}")
    expected = _expected(inputs, work)
    with s3.server() as server, _environment(MEDFINDER_CACHE=str(work / "cache")):
        started = time.monotonic()
        _start(inputs, f"s3://{server.bucket()}/idx").end()
        takes_s = time.monotonic() - started

        def one() -> tuple[str, str] | None:
            url = f"s3://{server.bucket()}/idx"
            child = _start(inputs, url)
            time.sleep(rng.uniform(0, takes_s))
            if not child.kill():
                return None
            said = _start(inputs, url).end()
            if said[0] != "done":
                return "lost", f"it does not go on: {said}"
            return judged(expected, indexed(url))

        return row.fill(n, one, keep)


def _start(inputs: Inputs, url: str, *, is_watched: bool = True) -> Child:
    return Child(run_index_in_store, inputs, url, dict(os.environ), is_watched=is_watched)


def kill_ray_workers(
    inputs: Inputs, work: Path, n: int, seed: int = 0, keep: Keep = print, row: Row | None = None
) -> Row:
    """Kill one of two of Ray's workers at a random study; the index is the one without Ray."""
    import ray
    from ray.cluster_utils import Cluster

    row = row or Row("kill -9", "a worker of Ray")
    rng = random.Random(f"{seed}-{row.tried}")
    whole, out = work / "whole", work / "out"
    timed(run_index, inputs, whole)
    expected = contents("index", whole)
    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    cluster = Cluster(
        initialize_head=True,
        head_node_args={**node, "include_dashboard": False},
        shutdown_at_exit=False,
    )
    cluster.add_node(**node)

    def one(engine: RayCluster) -> tuple[str, str]:
        shutil.rmtree(out, ignore_errors=True)
        at = rng.randrange(1, 16)

        def kill(done: int, of: int) -> None:
            if done == at:
                _kill_an_actor(rng)

        made = encoders()
        build_index(inputs.all, out, made["volume"], made["report"], engine=engine, progress=kill)
        return judged(expected, contents("index", out))

    try:
        with RayCluster(cluster.address) as engine:
            return row.fill(n, lambda: one(engine), keep)
    finally:
        ray.shutdown()
        cluster.shutdown()


def _kill_an_actor(rng: random.Random) -> None:
    actors = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (place / "cmdline").read_bytes().startswith(b"ray::_Actor"):
                actors.append(int(place.name))
    assert actors, "No worker was found."
    os.kill(rng.choice(sorted(actors)), signal.SIGKILL)
