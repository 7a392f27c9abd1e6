"""Studies a second into an index, by one process, by two, and by a Ray cluster of two nodes.

The checkpoint ``medfinder`` embeds curated phantoms, volumes and reports. Every run has a process of
its own, and every worker one thread, so that runs differ only in who works:

- ``here``: one process; it prepares the next volumes in a thread while it embeds one.
- ``processes-N`` and ``ray-N``: N workers; Ray's cluster has two nodes of one core each, on this
  machine.
- ``…-killed``: one of two workers gets SIGKILL when half of the studies are done.

The rate is that between the first sixth of the studies and the last one, so that starting (processes,
imports, the model) is not in it: ``start_s`` says how long the first study took, ``cluster_s`` how long
Ray's nodes did. Efficiency is rate(2) / (2 rate(1)) within a repeat, and the median over repeats. The
writer of the index is a process besides, and has no core of its own here, which a cluster would give it.

Every index is compared with that of ``here``: vectors bit for bit, rows, and the content's hash.

Run: ``python benchmarks/scale.py [-n 192] [--repeats 3] [--quick]``
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from record import table, write_result

HOME = Path("~/.cache/medfinder/scale").expanduser()
SEED = 0
RUNS = (
    "here",
    "processes-1",
    "processes-2",
    "processes-2-killed",
    "ray-1",
    "ray-2",
    "ray-2-killed",
)
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}


def curated(n: int) -> Path:
    """Return a folder of `n` curated phantoms, drawn once."""
    from medfinder.curate.curate import curate
    from medfinder.curate.sources.folder import FolderSource
    from medfinder.phantom.phantom import write_phantoms

    raw, studies = HOME / f"phantoms-{n}", HOME / f"studies-{n}"
    if not (studies / "manifest.json").exists():
        write_phantoms(raw, n, SEED + 1, size=(64, 96, 96), workers=0)
        curate(FolderSource(raw, raw / "studies.csv"), studies)
    return studies


# -- one run, in a process of its own ---------------------------------------------


@contextlib.contextmanager
def engine_of(name: str) -> Iterator[tuple[Any, float]]:
    """Give a run's engine, and how long its cluster took to start."""
    kind, *rest = name.split("-")
    if kind == "here":
        yield None, 0.0
        return
    workers = int(rest[0])
    if kind == "processes":
        from medfinder.scale.processes import Processes

        yield Processes(workers, threads=1), 0.0
        return
    from ray.cluster_utils import Cluster

    from medfinder.scale.ray_cluster import RayCluster

    begun = time.perf_counter()
    node = {"num_cpus": 1, "object_store_memory": 200 * 2**20}
    cluster = Cluster(
        initialize_head=True,
        head_node_args={**node, "include_dashboard": False},
        shutdown_at_exit=False,
    )
    try:
        cluster.add_node(**node)
        with RayCluster(cluster.address, workers=workers, threads=1) as engine:
            yield engine, time.perf_counter() - begun
    finally:
        cluster.shutdown()


def below(pid: int) -> Iterator[int]:
    """Yield the processes that a process started, and those that they did."""
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):
            for child in (task / "children").read_text().split():
                yield int(child)
                yield from below(int(child))


def a_worker() -> int:
    """Return a worker of this run."""
    for child in multiprocessing.active_children():
        if child.name == "medfinder-worker" and child.pid is not None:
            return child.pid
    for pid in below(os.getpid()):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::_Actor"):
                return pid
    raise RuntimeError("No worker was found.")


def run(name: str, studies: Path, out: Path) -> dict[str, float]:
    """Build an index and return when its studies were done."""
    import torch

    from medfinder.search.build import build_index

    torch.set_num_threads(1)
    done: list[float] = []

    def note(n: int, total: int) -> None:
        done.append(time.perf_counter())
        if name.endswith("killed") and n == total // 2:
            os.kill(a_worker(), signal.SIGKILL)

    with engine_of(name) as (engine, cluster_s):
        begun = time.perf_counter()
        built = build_index(studies, out, "medfinder", None, engine=engine, progress=note)
        total_s = time.perf_counter() - begun
    first = len(done) // 6
    return {
        "cluster_s": cluster_s,
        "start_s": done[0] - begun,
        "total_s": total_s,
        "studies_per_s": (len(done) - 1 - first) / (done[-1] - done[first]),
        "rejections": built.n_rejections,
    }


# -- all runs ----------------------------------------------------------------------


def contents(out: Path) -> tuple[dict[str, Any], str]:
    """Return every vector of an index, and the hash of its content."""
    from medfinder.artifact import manifest_hash, read_manifest
    from medfinder.index.open import open_index

    index = open_index(out)
    ids = sorted(index.ids())
    vectors = {
        f"{stream} {study_id}": None if vector is None else vector.tobytes()
        for stream in index.streams
        for study_id, vector in zip(ids, index.vectors(stream, ids), strict=True)
    }
    return vectors, manifest_hash(read_manifest(out, "index"))


def measured(name: str, studies: Path, out: Path) -> dict[str, Any]:
    """Make a run in a process of its own."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, __file__, "--run", name, str(studies), str(out)]
    told = subprocess.run(
        command, env={**os.environ, **ONE_THREAD}, stdout=subprocess.PIPE, text=True, check=True
    )
    figures: dict[str, Any] = json.loads(told.stdout.splitlines()[-1])
    print(f"{name}: {figures}", flush=True)
    return figures


def summary(
    seen: dict[str, list[dict[str, Any]]],
    differ: dict[str, int],
    lost: dict[str, int],
    same_hash: dict[str, bool],
) -> dict[str, Any]:
    """Return medians of runs, and ratios of runs of one repeat: the machine's speed comes and goes."""
    rows = []
    for name in RUNS:
        row: dict[str, Any] = {"run": name}
        for key in ("cluster_s", "start_s", "total_s", "studies_per_s"):
            row[key] = round(statistics.median(f[key] for f in seen[name]), 2)
        row |= {
            "vectors_that_differ": differ[name],
            "rows_lost": lost[name],
            "same_content_hash": same_hash[name],
            "rejections": max(f["rejections"] for f in seen[name]),
            "each": [round(f["studies_per_s"], 2) for f in seen[name]],
        }
        rows.append(row)

    def paired(one: str, two: str, key: str = "studies_per_s") -> list[tuple[float, float]]:
        return [(a[key], b[key]) for a, b in zip(seen[one], seen[two], strict=True)]

    efficiencies = {
        kind: sorted(round(b / a / 2, 3) for a, b in paired(f"{kind}-1", f"{kind}-2"))
        for kind in ("processes", "ray")
    }
    return {
        "repeats": len(seen["here"]),
        "runs": rows,
        "efficiency_ratio": {k: statistics.median(each) for k, each in efficiencies.items()},
        "efficiency_each_ratio": efficiencies,
        "ray_to_processes_ratio": round(
            statistics.median(b / a for a, b in paired("processes-2", "ray-2")), 3
        ),
        "cost_of_a_kill_s": {
            kind: round(
                statistics.median(
                    b - a for a, b in paired(f"{kind}-2", f"{kind}-2-killed", "total_s")
                ),
                2,
            )
            for kind in ("processes", "ray")
        },
    }


def main() -> None:
    """Run every kind so often, compare the indexes, and write the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-n", type=int, default=192, help="phantoms")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="24 phantoms once; writes nothing")
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        name, studies, out = given.run
        print(json.dumps(run(name, Path(studies), Path(out))))
        return
    n, repeats = (24, 1) if given.quick else (given.n, given.repeats)
    studies_folder = curated(n)
    seen: dict[str, list[dict[str, Any]]] = {name: [] for name in RUNS}
    differ: dict[str, int] = dict.fromkeys(RUNS, 0)
    lost: dict[str, int] = dict.fromkeys(RUNS, 0)
    same_hash: dict[str, bool] = dict.fromkeys(RUNS, True)
    reference: tuple[dict[str, Any], str] | None = None
    with tempfile.TemporaryDirectory(dir=HOME) as scratch:
        for _ in range(repeats):
            for name in RUNS:
                out = Path(scratch) / name
                seen[name].append(measured(name, studies_folder, out))
                found = contents(out)
                reference = reference or found
                vectors, digest = reference
                lost[name] += len(vectors.keys() - found[0].keys())
                differ[name] += sum(found[0].get(key) != value for key, value in vectors.items())
                same_hash[name] &= found[1] == digest
    assert reference is not None
    figures = {
        "studies": n,
        "vectors": len(reference[0]),
        **summary(seen, differ, lost, same_hash),
    }
    print(table([{k: v for k, v in row.items() if k != "each"} for row in figures["runs"]]))
    print({key: value for key, value in figures.items() if key != "runs"})
    if not given.quick:
        write_result(
            "scale",
            figures,
            seeds=[SEED + 1],
            notes="Medians; one thread a worker; the index's writer shares the workers' cores. "
            "A run that was killed lost one of two workers when half of the studies were done.",
        )


if __name__ == "__main__":
    main()
