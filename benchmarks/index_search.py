"""Search an index of 100,000 and 1,000,000 studies: build time, latency, recall, disk, memory.

    python benchmarks/index_search.py [--rows 100000 1000000] [--quick] [--work FOLDER]

The studies are synthetic: 512-dimensional vectors from an anisotropic mixture of 4,000 clusters with
a common offset, as CT and CLIP encoders have it, and reports of 40-160 words from a Zipf vocabulary
of 20,000. Every query runs alone, in this process, through `medfinder.index.store.Index`; truth is the
exact centred cosine over all rows. Filters keep 50 %, 1 % and 0.01 % of the studies; "cold" takes
a filter that was not used before, "warm" one that the index remembers. An index that lies ready
in --work is used again.
"""

import argparse
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from record import table, write_result

from medfinder.index.exact import top_k
from medfinder.index.store import Index, Stream
from medfinder.records import Report, Study
from medfinder.search.hybrid import reciprocal_rank_fusion

DIM, CLUSTERS, WORDS = 512, 4000, 20_000
CHUNK = 10_000
SEED = 7
MODEL = "synthetic@1"


@dataclass(frozen=True)
class Batch:
    """Vectors with their ids, as `Index.add` takes them."""

    ids: tuple[str, ...]
    vectors: np.ndarray
    model_id: str = MODEL


class World:
    """The distributions that studies and queries are drawn from."""

    def __init__(self) -> None:
        random = np.random.default_rng(SEED)
        # Variance falls as 1/j along a random basis: about 28 effective dimensions.
        self.scale = (np.arange(1, DIM + 1) ** -0.5).astype(np.float32)
        self.scale /= np.linalg.norm(self.scale)
        self.basis = np.linalg.qr(random.standard_normal((DIM, DIM)))[0].astype(np.float32)
        offset = random.standard_normal(DIM).astype(np.float32)
        self.offset = 1.3 * offset / np.linalg.norm(offset)
        self.clusters = random.standard_normal((CLUSTERS, DIM), np.float32) * self.scale
        weights = random.gamma(1.0, 1.0, CLUSTERS)
        self.weights = weights / weights.sum()
        syllables = [a + b for a in "bcdfglmnprstv" for b in "aeiou"]
        words: dict[str, None] = {}
        while len(words) < WORDS:
            words["".join(random.choice(syllables, int(random.integers(2, 5))))] = None
        self.words = np.array(list(words), dtype=object)
        chance = 1 / np.arange(1, WORDS + 1)
        self.chance = np.cumsum(chance / chance.sum())

    def vectors(self, random: np.random.Generator, n: int) -> np.ndarray:
        """(n, DIM) unit vectors; their mean has a length of about 0.75."""
        rows = self.clusters[random.choice(CLUSTERS, n, p=self.weights)]
        rows = rows + 0.6 * self.scale * random.standard_normal((n, DIM), np.float32)
        rows = self.offset + rows @ self.basis
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def texts(self, random: np.random.Generator, n: int) -> list[str]:
        """Return n reports of 40-160 words."""
        lengths = random.integers(40, 161, n)
        drawn = np.searchsorted(self.chance, random.random(int(lengths.sum())))
        words = self.words[np.minimum(drawn, WORDS - 1)]
        ends = np.cumsum(lengths)
        return [" ".join(words[e - k : e]) for e, k in zip(ends, lengths, strict=True)]

    def studies(self, n: int) -> Iterator[tuple[list[Study], Batch]]:
        """Yield n studies with their vectors, the same ones for the same n, chunk by chunk."""
        for start in range(0, n, CHUNK):
            random = np.random.default_rng([SEED, start])
            size = min(CHUNK, n - start)
            vectors, texts = self.vectors(random, size), self.texts(random, size)
            sexes = random.integers(0, 2, size)
            makers = random.integers(0, 100, size)
            days = random.integers(0, 10_000, size)
            studies = [
                Study(
                    study_id=f"s{start + i:08d}",
                    patient_id=f"p{(start + i) // 2:08d}",
                    series_id="1.2.3",
                    volume_path="/",
                    volume_hash=f"{start + i:064x}",
                    shape=(300, 512, 512),
                    spacing_mm=(1.0, 0.7, 0.7),
                    report=Report(texts[i]),
                    sex="F" if sexes[i] else "M",
                    age=int(18 + days[i] % 72),
                    study_date=_date(int(days[i])),
                    manufacturer=f"maker {makers[i]:02d}",
                    source="synthetic",
                )
                for i in range(size)
            ]
            yield studies, Batch(tuple(s.study_id for s in studies), vectors)

    def queries(self, n: int) -> tuple[np.ndarray, list[str]]:
        """Vectors from the same mixture, and three different words of one report each."""
        random = np.random.default_rng([SEED, 1 << 40])
        vectors = self.vectors(random, n)
        reports = [sorted(set(text.split())) for text in self.texts(random, n)]
        return vectors, [" ".join(random.choice(words, 3, replace=False)) for words in reports]


def build(world: World, folder: Path, n: int) -> dict[str, float]:
    """Fill and finish the index, or take the one that lies ready."""
    ready = folder / "built.json"
    if ready.is_file():
        figures: dict[str, float] = json.loads(ready.read_text())
        return figures
    shutil.rmtree(folder, ignore_errors=True)
    index = Index.create(folder / "index", {"volume": Stream("synthetic", MODEL, DIM)})
    add_s = 0.0
    for studies, batch in world.studies(n):
        start = time.perf_counter()
        index.add(studies, {"volume": batch})
        add_s += time.perf_counter() - start
        if sys.stderr.isatty() or int(batch.ids[-1][1:]) % 100_000 == 99_999:
            print(f"  added {int(batch.ids[-1][1:]) + 1:,}", file=sys.stderr, flush=True)
    cpu, start = time.process_time(), time.perf_counter()
    index.finish()
    figures = {
        "add_s": add_s,
        "finish_s": time.perf_counter() - start,
        "finish_cpu_s": time.process_time() - cpu,
        "build_peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    ready.write_text(json.dumps(figures))
    return figures


def truth(
    folder: Path, index: Index, queries: np.ndarray, wheres: dict[str, str | None]
) -> dict[str, list[list[str]]]:
    """Return the exact ten best of each query under each filter; kept in the folder."""
    path = folder / f"truth-{len(queries)}.json"
    if path.is_file():
        found: dict[str, list[list[str]]] = json.loads(path.read_text())
        return found
    ids = np.array(index.ids())
    vectors = np.lib.format.open_memmap(
        folder / "truth.npy", "w+", np.float32, (len(ids), DIM)
    )  # exact search needs the whole matrix: mapped, so that it does not count as memory
    world = World()
    done = 0
    for _, batch in world.studies(len(ids)):
        vectors[done : done + len(batch.ids)] = batch.vectors
        done += len(batch.ids)
    centre = index.centre("volume")
    found = {}
    for name, where in wheres.items():
        mask = None if where is None else np.isin(ids, index.ids(where))
        _, rows = top_k(queries, vectors, 10, mask=mask, centre=centre)
        found[name] = [[str(s) for s in ids[row]] for row in rows]
    del vectors
    (folder / "truth.npy").unlink()
    path.write_text(json.dumps(found))
    return found


def timed(ask: Callable[[int], Any], numbers: Sequence[int]) -> tuple[list[Any], dict[str, float]]:
    """Run the queries one by one, after five unmeasured ones."""
    for number in numbers[:5]:
        ask(number)
    answers, times = [], []
    cpu = time.process_time()
    for number in numbers:
        start = time.perf_counter()
        answers.append(ask(number))
        times.append(1e3 * (time.perf_counter() - start))
    cpu = 1e3 * (time.process_time() - cpu) / len(numbers)
    return answers, {
        "p50_ms": float(np.percentile(times, 50)),
        "p95_ms": float(np.percentile(times, 95)),
        "cpu_ms": cpu,
    }


def measure(world: World, folder: Path, n: int, n_queries: int) -> dict[str, Any]:
    figures: dict[str, Any] = {"build": build(world, folder, n)}
    start = time.perf_counter()
    index = Index.open(folder / "index")
    vectors, texts = world.queries(n_queries)
    index.search_vector("volume", vectors[0], 10)
    figures["open_and_first_search_s"] = time.perf_counter() - start
    figures["disk_mib"] = _disk(folder / "index")
    figures["disk_derived_mib"] = _disk(folder / "index" / "derived")
    parts = sorted((folder / "index" / "derived").glob("volume-*/partitions.json"))
    if parts:
        figures["partitions"] = json.loads(parts[0].read_text())
    wheres = {"": None, **_wheres()}
    exact = truth(folder, index, vectors, wheres)
    numbers = range(n_queries)
    rows: dict[str, dict[str, float]] = {}

    def run(name: str, ask: Callable[[int], Any], filter_name: str | None = None) -> None:
        answers, rows[name] = timed(ask, numbers)
        if filter_name is not None:
            hits = [
                len({i for i, _ in answer} & set(best))
                for answer, best in zip(answers, exact[filter_name], strict=True)
            ]
            rows[name]["recall_at_10"] = sum(hits) / sum(len(b) for b in exact[filter_name])
        print("  " + name, {k: round(v, 4) for k, v in rows[name].items()}, flush=True)

    run("vector", lambda i: index.search_vector("volume", vectors[i], 10), "")
    run("BM25", lambda i: index.search_text(texts[i], 10))
    run("hybrid", lambda i: _hybrid(index, vectors[i], texts[i], None))
    for name, where in wheres.items():
        if where is None:
            continue
        run(
            f"vector, {name}, warm",
            lambda i, w=where: index.search_vector("volume", vectors[i], 10, w),
            name,
        )
        run(f"BM25, {name}", lambda i, w=where: index.search_text(texts[i], 10, w))
        run(
            f"hybrid, {name}, warm",
            lambda i, w=where: _hybrid(index, vectors[i], texts[i], w),
        )
        # A filter is remembered by its text: other spaces make it a new one.
        run(
            f"vector, {name}, cold",
            lambda i, w=where: index.search_vector("volume", vectors[i], 10, _new(w)),
            name,
        )
        run(
            f"hybrid, {name}, cold",
            lambda i, w=where: _hybrid(index, vectors[i], texts[i], _new(w)),
        )
    figures["queries"] = rows
    memory = _memory()
    figures["memory_anonymous_mib"], figures["memory_mapped_files_mib"] = memory
    figures["theirs"] = theirs(world, folder, index, vectors, exact[""])
    return figures


def theirs(
    world: World, folder: Path, index: Index, queries: np.ndarray, exact: list[list[str]]
) -> dict[str, Any]:
    """Ask LanceDB's own vector index and a plain matrix product the same, interleaved with ours.

    Both get the centred and normalised vectors, so that their truth is ours. The settings of
    IVF_RQ are those its users are advised: 40 partitions probed, 10 times as many refined.
    """
    import lancedb
    import pyarrow as pa
    from lancedb.index import IvfRq

    centre = index.centre("volume")
    ready, path = folder / "lance.json", folder / "lance"

    def moved(rows: np.ndarray) -> np.ndarray:
        away = rows - centre
        return away / np.linalg.norm(away, axis=1, keepdims=True)

    database = lancedb.connect(path)
    if ready.is_file():
        found: dict[str, Any] = json.loads(ready.read_text())
    else:
        shutil.rmtree(path, ignore_errors=True)
        start = time.perf_counter()
        made = None
        for studies, batch in world.studies(index.count()):
            column = pa.FixedSizeListArray.from_arrays(pa.array(moved(batch.vectors).ravel()), DIM)
            rows = pa.table({"id": [s.study_id for s in studies], "vector": column})
            if made is None:
                made = database.create_table("t", rows)
            else:
                made.add(rows)
        assert made is not None
        found = {"add_s": time.perf_counter() - start}
        start = time.perf_counter()
        made.create_index("vector", config=IvfRq(distance_type="dot"))
        found["index_s"] = time.perf_counter() - start
        ready.write_text(json.dumps(found))
    lance = database.open_table("t")
    matrix = lance.search().limit(index.count()).to_arrow().sort_by("id")["vector"]
    gallery = np.concatenate([c.flatten().to_numpy().reshape(-1, DIM) for c in matrix.chunks])
    ids = np.array(index.ids())
    asked = moved(queries)

    def lancedb_ivf_rq(i: int) -> list[str]:
        ask = lance.search(asked[i]).distance_type("dot").nprobes(40).refine_factor(10)
        return list(ask.select(["id", "_distance"]).limit(10).to_arrow()["id"].to_pylist())

    def numpy_exact(i: int) -> list[str]:
        scores = gallery @ asked[i]
        best = np.argpartition(-scores, 10)[:10]
        return [str(s) for s in ids[best]]

    def ours(i: int) -> list[str]:
        return [s for s, _ in index.search_vector("volume", queries[i], 10)]

    ways = {"ours": ours, "lancedb_ivf_rq": lancedb_ivf_rq, "numpy_exact": numpy_exact}
    times: dict[str, list[float]] = {name: [] for name in ways}
    hits = dict.fromkeys(ways, 0)
    for i in range(-5, len(queries)):  # five unmeasured rounds first
        for name, ask in ways.items():
            start = time.perf_counter()
            answer = ask(max(i, 0))
            if i >= 0:
                times[name].append(1e3 * (time.perf_counter() - start))
                hits[name] += len(set(answer) & set(exact[i]))
    for name in ways:
        found[name] = {
            "p50_ms": float(np.percentile(times[name], 50)),
            "p95_ms": float(np.percentile(times[name], 95)),
            "recall_at_10": hits[name] / (10 * len(queries)),
        }
    for name in ("lancedb_ivf_rq", "numpy_exact"):
        found[name]["p50_ratio_to_ours"] = found[name]["p50_ms"] / found["ours"]["p50_ms"]
    print("  theirs", found, flush=True)
    return found


_fresh = iter(range(1, 1 << 60))


def _new(where: str) -> str:
    return f"({' ' * (next(_fresh) % 4096)}{where})"


def _hybrid(index: Index, vector: np.ndarray, text: str, where: str | None) -> list[str]:
    rankings = {
        "volume": [i for i, _ in index.search_vector("volume", vector, 50, where)],
        "bm25": [i for i, _ in index.search_text(text, 50, where)],
    }
    return [i for i, _ in reciprocal_rank_fusion(rankings)[:10]]


def _wheres() -> dict[str, str | None]:
    return {
        "50 %": "sex = 'F'",
        "1 %": "manufacturer = 'maker 07'",
        "0.01 %": f"study_date = '{_date(123)}'",
    }


def _date(day: int) -> str:
    return str(np.datetime64("2000-01-01") + day)


def _disk(folder: Path) -> float:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 2**20


def _memory() -> tuple[float, float]:
    """Return this process's resident anonymous memory and mapped file pages, MiB."""
    said = dict(
        line.split(":", 1)
        for line in Path("/proc/self/status").read_text().splitlines()
        if ":" in line
    )
    return tuple(int(said[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile"))  # type: ignore[return-value]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--quick", action="store_true", help="60,000 rows, 50 queries")
    parser.add_argument("--work", type=Path, help="keep the indexes here, about 7 KiB a row")
    options = parser.parse_args()
    rows, n_queries = ([60_000], 50) if options.quick else (options.rows, options.queries)
    work = options.work or Path(tempfile.mkdtemp(prefix="index-search-"))
    world = World()
    figures: dict[str, Any] = {}
    try:
        for n in rows:
            print(f"{n:,} rows; load {os.getloadavg()[0]:.1f}", flush=True)
            figures[str(n)] = {"load_before": os.getloadavg()[0]}
            figures[str(n)] |= measure(world, work / str(n), n, n_queries)
            figures[str(n)]["load_after"] = os.getloadavg()[0]
    finally:
        if options.work is None:
            shutil.rmtree(work, ignore_errors=True)
    for n in rows:
        found = figures[str(n)]
        print(f"\n{n:,} rows", {k: v for k, v in found.items() if k != "queries"}, "\n")
        print(table([{"query": name, **_padded(row)} for name, row in found["queries"].items()]))
    if not options.quick:
        notes = (
            "One query at a time, in process; k = 10, hybrid fuses the 50 best of each. Shared "
            "machine: cpu_ms beside the wall times; load_before and load_after are its load."
        )
        write_result("index_search", figures, [SEED], notes)


def _padded(row: dict[str, float]) -> dict[str, Any]:
    return {name: row.get(name, "") for name in ("p50_ms", "p95_ms", "cpu_ms", "recall_at_10")}


if __name__ == "__main__":
    main()
