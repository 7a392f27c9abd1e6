"""One set of studies in three back ends: an index in a folder, one in PostgreSQL, LanceDB's own.

    python benchmarks/index_backends.py [--rows 20000] [--quick] [--work FOLDER] [--server URL]

Studies, vectors and queries are those of ``index_search.py``. Asked are the ten nearest by vector, by
words (BM25), by both (50 of each, fused), and by vector under filters that keep 50 % and 1 %. All
back ends are asked each query in turn, in this process, one at a time. Truth is the exact centred
cosine over all rows. LanceDB's IVF_RQ and IVF_HNSW_SQ lie on a table of the same rows with centred
vectors, so that their truth is ours; their settings are those that LanceDB's documentation advises:
IVF_RQ probes 40 lists and refines 10 times as many, HNSW looks at 150 candidates in all lists. The
PostgreSQL server is one with pgvector, started here, with its usual settings but for ``shared_buffers``
and a socket instead of TCP; or that of ``--server``, a URL without ``?schema``.
"""

import argparse
import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parent))
from index_search import DIM, MODEL, SEED, World
from record import table, write_result

from medfinder.index.exact import top_k
from medfinder.index.interface import AnyIndex
from medfinder.index.open import create_index
from medfinder.index.schema import IndexConfig, Stream
from medfinder.search.hybrid import reciprocal_rank_fusion

WHERES = {"": None, "50 %": "sex = 'F'", "1 %": "manufacturer = 'maker 07'"}
Ask = Callable[[int, str | None], list[str]]


@contextlib.contextmanager
def started(given: str | None) -> Iterator[str]:
    """Yield the URL of a database with pgvector."""
    if given:
        yield given
        return
    from stubs import postgres

    with postgres.server("vector", "shared_buffers=512MB") as server:
        yield postgres.new_database(server)


def build(world: World, index: AnyIndex, n: int) -> dict[str, float]:
    add_s = 0.0
    for studies, batch in world.studies(n):
        for start in range(0, len(studies), 1000):
            some = slice(start, start + 1000)
            part = type(batch)(batch.ids[some], batch.vectors[some])
            begun = time.perf_counter()
            index.add(studies[some], {"volume": part})
            add_s += time.perf_counter() - begun
    begun = time.perf_counter()
    index.finish()
    return {"add_s": add_s, "finish_s": time.perf_counter() - begun}


class Lance:
    """LanceDB's own vector, text and scalar indexes over the same rows.

    Args:
        kind: ``"IVF_RQ"`` or ``"IVF_HNSW_SQ"``.
    """

    def __init__(self, world: World, folder: Path, n: int, centre: np.ndarray, kind: str) -> None:
        import lancedb
        import pyarrow as pa
        from lancedb.index import FTS, Bitmap, HnswSq, IvfRq

        self.kind, self.centre = kind, centre
        begun = time.perf_counter()
        made = None
        for studies, batch in world.studies(n):
            rows = pa.table(
                {
                    "id": list(batch.ids),
                    "words": [s.report.text for s in studies if s.report],
                    "sex": [s.sex for s in studies],
                    "manufacturer": [s.manufacturer for s in studies],
                    "vector": pa.FixedSizeListArray.from_arrays(
                        pa.array(self._moved(batch.vectors).ravel()), DIM
                    ),
                }
            )
            if made is None:
                made = lancedb.connect(folder).create_table("t", rows)
            else:
                made.add(rows)
        assert made is not None
        self.built = {"add_s": time.perf_counter() - begun}
        begun = time.perf_counter()
        made.create_index("sex", config=Bitmap())
        made.create_index("manufacturer", config=Bitmap())
        made.create_index("words", config=FTS(language="English", stem=True, ascii_folding=True))
        config = IvfRq(distance_type="dot") if kind == "IVF_RQ" else HnswSq(distance_type="dot")
        made.create_index("vector", config=config)
        self.built["finish_s"] = time.perf_counter() - begun
        self.table = made

    def _moved(self, rows: np.ndarray) -> np.ndarray:
        away = rows - self.centre
        return away / np.linalg.norm(away, axis=-1, keepdims=True)

    def near(self, vector: np.ndarray, where: str | None, k: int = 10) -> list[str]:
        """Return the ids of the nearest."""
        ask = self.table.search(self._moved(vector)).distance_type("dot")
        ask = ask.nprobes(40).refine_factor(10) if self.kind == "IVF_RQ" else ask.ef(150)
        if where is not None:
            ask = ask.where(where, prefilter=True)
        return list(ask.select(["id", "_distance"]).limit(k).to_arrow()["id"].to_pylist())

    def words(self, text: str, where: str | None, k: int = 10) -> list[str]:
        """Return the ids of the best by words."""
        ask = self.table.search(text, query_type="fts").select(["id", "_score"])
        if where is not None:
            ask = ask.where(where, prefilter=True)
        return list(ask.limit(k).to_arrow()["id"].to_pylist())


def asks(
    near: Callable[..., list[str]], words: Callable[..., list[str]], vectors: Any, texts: Any
) -> dict[str, Ask]:
    """Return the kinds of question, of a back end's two searches."""

    def both(i: int, where: str | None) -> list[str]:
        rankings = {"volume": near(vectors[i], where, 50), "bm25": words(texts[i], where, 50)}
        return [name for name, _ in reciprocal_rank_fusion(rankings)[:10]]

    return {
        "vector": lambda i, where: near(vectors[i], where, 10),
        "BM25": lambda i, where: words(texts[i], where, 10),
        "hybrid": both,
    }


def of_index(index: AnyIndex, vectors: Any, texts: Any) -> dict[str, Ask]:
    def near(vector: np.ndarray, where: str | None, k: int) -> list[str]:
        return [name for name, _ in index.search_vector("volume", vector, k, where)]

    def words(text: str, where: str | None, k: int) -> list[str]:
        return [name for name, _ in index.search_text(text, k, where)]

    return asks(near, words, vectors, texts)


def measure(world: World, work: Path, url: str, n: int, n_queries: int) -> dict[str, Any]:
    streams = {"volume": Stream("synthetic", MODEL, DIM)}
    figures: dict[str, Any] = {"build": {}}
    folder = create_index(work / "folder", streams)
    figures["build"]["folder"] = build(world, folder, n)
    print("  folder built", figures["build"]["folder"], flush=True)
    # HNSW from the first: at these sizes an index in a folder still searches everything.
    config = IndexConfig(exact_below=5_000)
    database = create_index(f"{url}&schema=b{n}_{os.getpid()}", streams, config)
    figures["build"]["postgres"] = build(world, database, n)
    figures["postgres_hnsw"] = {
        name: value
        for name, value in json.loads(database.place.read("derived/volume.json")).items()
        if name in ("budget", "recall", "n")
    }
    print("  postgres built", figures["build"]["postgres"], figures["postgres_hnsw"], flush=True)
    exact = create_index(
        f"{url}&schema=e{n}_{os.getpid()}", streams, IndexConfig(exact_below=n + 1)
    )
    build(world, exact, n)
    vectors, texts = world.queries(n_queries)
    centre = folder.centre("volume")
    assert np.abs(centre - database.centre("volume")).max() < 1e-6
    ways = {
        "folder": of_index(folder, vectors, texts),
        "postgres": of_index(database, vectors, texts),
        "postgres_exact": of_index(exact, vectors, texts),
    }
    for kind in ("IVF_RQ", "IVF_HNSW_SQ"):
        lance = Lance(world, work / kind, n, centre, kind)
        figures["build"][kind] = lance.built
        ways[kind] = asks(lance.near, lance.words, vectors, texts)
        print(f"  {kind} built", lance.built, flush=True)
    figures["best"] = best_of(world, folder, vectors, n)
    figures["queries"] = {
        f"{kind}{', ' + name if name else ''}": round_of(ways, kind, where, figures["best"][name])
        for kind in ("vector", "BM25", "hybrid")
        for name, where in WHERES.items()
    }
    figures["words_alike"] = float(
        np.mean([ways["folder"]["BM25"](i, None) == ways["postgres"]["BM25"](i, None) for i in range(n_queries)])
    )  # fmt: skip
    del figures["best"]
    return figures


def best_of(
    world: World, index: AnyIndex, queries: np.ndarray, n: int
) -> dict[str, list[list[str]]]:
    """Return the exact ten best of each query under each filter."""
    ids = np.array(index.ids())
    rows = np.concatenate([batch.vectors for _, batch in world.studies(n)])
    found = {}
    for name, where in WHERES.items():
        mask = None if where is None else np.isin(ids, index.ids(where))
        _, best = top_k(queries, rows, 10, mask=mask, centre=index.centre("volume"))
        found[name] = [[str(s) for s in ids[row]] for row in best]
    return found


def round_of(
    ways: dict[str, dict[str, Ask]], kind: str, where: str | None, best: list[list[str]]
) -> dict[str, dict[str, float]]:
    """Ask every back end each query in turn, after three unmeasured rounds."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    hits = dict.fromkeys(ways, 0)
    for i in range(-3, len(best)):
        for name, way in ways.items():
            begun = time.perf_counter()
            answer = way[kind](max(i, 0), where)
            if i >= 0:
                times[name].append(1e3 * (time.perf_counter() - begun))
                hits[name] += len(set(answer) & set(best[i]))
    found: dict[str, dict[str, float]] = {}
    for name in ways:
        found[name] = {
            "p50_ms": float(np.percentile(times[name], 50)),
            "p95_ms": float(np.percentile(times[name], 95)),
            "p50_ratio_to_folder": float(np.median(times[name]) / np.median(times["folder"])),
        }
        if kind == "vector":
            found[name]["recall_at_10"] = hits[name] / sum(map(len, best))
    print("  ", kind, where, {k: {a: round(b, 3) for a, b in v.items()} for k, v in found.items()}, flush=True)  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000])
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="6,000 rows, 20 queries")
    parser.add_argument("--work", type=Path, help="a folder for the indexes; removed otherwise")
    parser.add_argument("--server", help="URL of a database with pgvector, ending with its query")
    options = parser.parse_args()
    rows, n_queries = ([6_000], 20) if options.quick else (options.rows, options.queries)
    work = options.work or Path(tempfile.mkdtemp(prefix="index-backends-"))
    world = World()
    figures: dict[str, Any] = {}
    try:
        with started(options.server) as url:
            for n in rows:
                print(f"{n:,} rows; load {os.getloadavg()[0]:.1f}", flush=True)
                load = os.getloadavg()[0]
                figures[str(n)] = measure(world, work / str(n), url, n, n_queries)
                figures[str(n)] |= {"load_before": load, "load_after": os.getloadavg()[0]}
    finally:
        if options.work is None:
            shutil.rmtree(work, ignore_errors=True)
    for n in rows:
        said = [
            {"query": query, "back end": name, **figure}
            for query, ways in figures[str(n)]["queries"].items()
            for name, figure in ways.items()
        ]
        print(f"\n{n:,} rows\n")
        print(table([{"recall_at_10": "", **row} for row in said]))
    if not options.quick:
        notes = (
            "One query at a time, in turn, in one process; k = 10, hybrid fuses the 50 best of each. "
            "postgres searches by HNSW, postgres_exact everything. Shared machine: load_before and "
            "load_after are its load. words_alike: share of BM25 rankings equal to the folder's."
        )
        write_result("index_backends", figures, [SEED], notes)


if __name__ == "__main__":
    main()
