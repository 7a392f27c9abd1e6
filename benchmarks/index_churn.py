"""An index that is written while it is read, at 100,000 and 1,000,000 studies.

    python benchmarks/index_churn.py [--rows 100000 1000000] [--work FOLDER] [--quick]

The studies are those of `index_search.py`. Two processes share the index's folder, as ``medfinder
index --add`` and ``medfinder serve`` do: one writes (adds, replaces and deletes studies in small
batches, then finishes), the other asks one query after another (a vector, words, both, a vector
under a filter of 1 %) and, after each round, whether the latest study that the writer was told is
there is there, and the latest deleted one is not. The writer rests between batches as long as told,
so that queries and writes meet at a given rate.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from index_search import Batch, World, _date, _memory, build
from record import table, write_result

from medfinder.errors import UnknownName
from medfinder.index.store import Index
from medfinder.records import Report, Study
from medfinder.search.hybrid import reciprocal_rank_fusion

SEED = 11
BATCH = 16  # studies a commit, as ``medfinder index`` makes them
PHASES = ("still", "add", "replace", "delete", "finish", "after")


def new_studies(world: World, first: int, n: int, round_: int) -> tuple[list[Study], Batch]:
    """Return n studies numbered from `first`; another round is another text and vector of them."""
    random = np.random.default_rng([SEED, first, round_])
    vectors, texts = world.vectors(random, n), world.texts(random, n)
    studies = [
        Study(
            study_id=f"n{first + i:08d}",
            patient_id=f"q{first + i:08d}",
            series_id="1.2.3",
            volume_path="/",
            volume_hash=f"{round_:02d}{first + i:062x}",
            shape=(300, 512, 512),
            spacing_mm=(1.0, 0.7, 0.7),
            report=Report(text),
            sex="F" if i % 2 else "M",
            age=50,
            study_date=_date(9_000 + i),
            manufacturer=f"maker {i % 100:02d}",
            source="synthetic",
        )
        for i, text in enumerate(texts)
    ]
    return studies, Batch(tuple(s.study_id for s in studies), vectors)


def write(
    folder: Path, n_batches: int, rest_s: float, still_s: float, phase: Any, told: Any, out: Path
) -> None:
    """Run the phases; `told` holds the latest id that is there and the latest that is not."""
    world, index = World(), Index.open(folder)
    took: dict[str, list[float]] = defaultdict(list)
    time.sleep(still_s)

    def each(name: str, action: Any) -> None:
        phase.value = PHASES.index(name)
        for n in range(n_batches):
            start = time.perf_counter()
            action(n)
            took[name].append(1e3 * (time.perf_counter() - start))
            time.sleep(rest_s)

    def add(n: int, round_: int = 0) -> None:
        studies, batch = new_studies(world, n * BATCH, BATCH, round_)
        index.add(studies, {"volume": batch})
        told[0] = n * BATCH + 1

    def delete(n: int) -> None:
        told[0] = 0  # what it names is about to go
        index.delete([f"n{n * BATCH + i:08d}" for i in range(BATCH)])
        told[1] = n * BATCH + 1

    each("add", add)
    each("replace", lambda n: add(n, 1))
    each("delete", delete)
    phase.value = PHASES.index("finish")
    start = time.perf_counter()
    index.finish()
    took["finish"] = [1e3 * (time.perf_counter() - start)]
    phase.value = PHASES.index("after")
    time.sleep(still_s)
    out.write_text(json.dumps({name: summary(times) for name, times in took.items()}))
    phase.value = -1


def summary(times: list[float]) -> dict[str, float]:
    """Return count, median, 95th centile and largest of times in ms."""
    return {
        "n": len(times),
        "p50_ms": float(np.percentile(times, 50)),
        "p95_ms": float(np.percentile(times, 95)),
        "max_ms": float(max(times)),
    }


def read(folder: Path, phase: Any, told: Any) -> dict[str, Any]:
    """Ask until the writer has ended; return latencies by phase and query, and what was wrong."""
    index, world = Index.open(folder), World()
    vectors, texts = world.queries(200)
    times: dict[str, dict[str, list[float]]] = {p: defaultdict(list) for p in PHASES}
    wrong = {"missing": 0, "deleted_but_there": 0, "errors": 0, "probes": 0}

    def hybrid(i: int) -> Any:
        near = index.search_vector("volume", vectors[i], 50)
        words = index.search_text(texts[i], 50)
        return reciprocal_rank_fusion({"v": [s for s, _ in near], "t": [s for s, _ in words]})

    asks = {
        "vector": lambda i: index.search_vector("volume", vectors[i], 10),
        "BM25": lambda i: index.search_text(texts[i], 10),
        "hybrid": hybrid,
        "vector, 1 %": lambda i: index.search_vector(
            "volume", vectors[i], 10, "manufacturer = 'maker 07'"
        ),
    }
    for ask in asks.values():
        ask(0)
    i, before = 0, _memory()[0]
    while (now := phase.value) >= 0:
        for name, ask in asks.items():
            start = time.perf_counter()
            try:
                ask(i % 200)
            except Exception as error:
                wrong["errors"] += 1
                print("  reader:", repr(error)[:300], flush=True)
            times[PHASES[now]][name].append(1e3 * (time.perf_counter() - start))
        there, gone = told[0], told[1]
        for number, expected in ((there, True), (gone, False)):
            if number:
                wrong["probes"] += 1
                try:
                    index.studies([f"n{number - 1:08d}"])
                    wrong["deleted_but_there"] += not expected
                except UnknownName:
                    # The writer may have begun to delete between the two looks.
                    wrong["missing"] += expected and told[0] == there
        i += 1
    return {
        "latency": {
            p: {name: summary(t) for name, t in by.items()} for p, by in times.items() if by
        },
        "wrong": wrong,
        "memory_before_mib": before,
        "memory_after_mib": _memory()[0],
    }


def measure(world: World, work: Path, n: int, n_batches: int, rest_s: float) -> dict[str, Any]:
    """Build (or take) the index of n studies, work on a copy, and return the figures."""
    built = build(world, work / str(n), n)
    folder = work / f"churn-{n}"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(work / str(n) / "index", folder)
    context = multiprocessing.get_context("spawn")
    phase, told = context.Value("i", 0), context.Array("q", 2)
    out = work / "writer.json"
    still_s = 10.0
    writer = context.Process(
        target=write, args=(folder, n_batches, rest_s, still_s, phase, told, out)
    )
    writer.start()
    try:
        found = read(folder, phase, told)
    finally:
        writer.join()
    found["build"] = built
    found["writes"] = json.loads(out.read_text())
    shutil.rmtree(folder)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--batches", type=int, default=60, help="of 16 studies, each kind of write")
    parser.add_argument("--rest-s", type=float, default=0.5, help="between two batches")
    parser.add_argument("--quick", action="store_true", help="60,000 rows, 10 batches")
    parser.add_argument("--work", type=Path, help="keep the built indexes here, 7 KiB a row")
    options = parser.parse_args()
    rows = [60_000] if options.quick else options.rows
    n_batches = 10 if options.quick else options.batches
    work = options.work or Path(tempfile.mkdtemp(prefix="index-churn-"))
    world = World()
    figures: dict[str, Any] = {}
    try:
        for n in rows:
            print(f"{n:,} rows; load {os.getloadavg()[0]:.1f}", flush=True)
            figures[str(n)] = measure(world, work, n, n_batches, options.rest_s)
            print(
                table(
                    [
                        {"phase": p, "query": q, **row}
                        for p, by in figures[str(n)]["latency"].items()
                        for q, row in by.items()
                    ]
                )
            )
            print({k: v for k, v in figures[str(n)].items() if k != "latency"}, flush=True)
    finally:
        if options.work is None:
            shutil.rmtree(work, ignore_errors=True)
    if len(rows) > 1:
        few, many = (figures[str(n)] for n in (min(rows), max(rows)))
        figures["ratio_many_to_few"] = {
            phase: {
                query: many["latency"][phase][query]["p50_ms"] / row["p50_ms"]
                for query, row in by.items()
            }
            for phase, by in few["latency"].items()
        }
        figures["ratio_many_to_few"]["memory"] = many["memory_after_mib"] / few["memory_after_mib"]
        print(figures["ratio_many_to_few"])
        notes = (
            f"{n_batches} batches of {BATCH} studies of each kind of write, {options.rest_s} s of "
            "rest between two; one reader and one writer on two cores, each a process of its own."
        )
        write_result("index_churn", figures, [SEED], notes)


if __name__ == "__main__":
    main()
