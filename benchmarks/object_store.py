"""An index on local disk against one in an S3 store: building, opening, searching, bytes fetched.

    python benchmarks/object_store.py [--rows 20000] [--queries 100]

The store is moto's server on loopback, in a process of its own: it is written in Python and slow, and
it has no network in between. So its times say little about a real store; how many requests are made
and how many bytes are fetched does not depend on it.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "tests")]

from index_search import Batch  # noqa: E402
from record import table, write_result  # noqa: E402

from medfinder.index.store import Index, IndexConfig, Stream  # noqa: E402
from medfinder.records import Report, Study  # noqa: E402

SEED = 3
DIM = 512
BATCH = 2_000
WORDS = ("nodule", "effusion", "emphysema", "mass", "fibrosis", "cardiomegaly", "hernia", "cyst")

_SERVER = """
import sys
sys.path.insert(0, sys.argv[1])
from stubs.s3 import Server
server = Server()
print(server.url, flush=True)
for line in sys.stdin:
    print(server.n_requests, server.n_bytes, flush=True)
server.close()
"""


class Store:
    """The server's process: its counters are asked for over its standard input."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER, str(ROOT / "tests")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        os.environ |= {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
        }
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/archive", method="PUT")).close()

    def counted(self) -> tuple[int, int]:
        """Return requests and bytes so far."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        requests, n_bytes = self._process.stdout.readline().split()
        return int(requests), int(n_bytes)

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def study(i: int) -> Study:
    """Return study number i, always the same."""
    words = np.random.default_rng([SEED, i]).choice(WORDS, 3)
    return Study(
        study_id=f"s{i:06d}",
        patient_id=f"p{i:06d}",
        series_id="1.2.3",
        volume_path="/",
        volume_hash=f"{i:064x}",
        shape=(100, 512, 512),
        spacing_mm=(1.0, 0.7, 0.7),
        report=Report(f"Report {i}: {', '.join(words)}.", "en"),
        age=20 + i % 70,
        sex="FM"[i % 2],
        source="made",
    )


def measure(
    location: str, n: int, n_queries: int, exact_below: int, store: Store | None
) -> dict[str, Any]:
    """Build an index of n studies at a location, open it anew, and search it."""
    random = np.random.default_rng(SEED)
    centres = random.standard_normal((200, DIM)).astype(np.float32)
    found: dict[str, Any] = {}

    def step(name: str, work: Callable[[], Any]) -> Any:
        before = store.counted() if store else (0, 0)
        start = time.perf_counter()
        made = work()
        found[f"{name}_s"] = round(time.perf_counter() - start, 3)
        if store:
            after = store.counted()
            found[f"{name}_requests"] = after[0] - before[0]
            found[f"{name}_fetched_mib"] = round((after[1] - before[1]) / 2**20, 2)
        return made

    def vectors(start: int, count: int) -> Any:
        noise = random.standard_normal((count, DIM)).astype(np.float32)
        return centres[np.arange(start, start + count) % 200] + 0.7 * noise

    def fill() -> Index:
        config = IndexConfig(exact_below=exact_below)
        index = Index.create(location, {"volume": Stream("a", "a@1", DIM)}, config)
        for start in range(0, n, BATCH):
            count = min(BATCH, n - start)
            studies = [study(i) for i in range(start, start + count)]
            ids = [s.study_id for s in studies]
            index.add(studies, {"volume": Batch(ids, vectors(start, count), "a@1")})
        return index

    index = step("add", fill)
    step("finish", index.finish)
    if store:  # as another machine, which has fetched nothing yet
        os.environ["MEDFINDER_CACHE"] = tempfile.mkdtemp(dir=os.environ["SCRATCH"])
    reader = step("open", lambda: Index.open(location))
    asked = vectors(0, n_queries)
    step("first_search", lambda: reader.search_vector("volume", asked[0], 10))
    for name, work in (
        ("vector", lambda i: reader.search_vector("volume", asked[i], 10)),
        ("text", lambda i: reader.search_text(WORDS[i % len(WORDS)], 10)),
        (
            "filtered",
            lambda i: reader.search_vector("volume", asked[i], 10, f"age = {20 + i % 70}"),
        ),
    ):
        times: list[float] = []

        def queries(work: Callable[[int], Any] = work, times: list[float] = times) -> None:
            for i in range(n_queries):
                start = time.perf_counter()
                work(i)
                times.append(1000 * (time.perf_counter() - start))

        step(name, queries)
        found[f"{name}_p50_ms"] = round(statistics.median(times), 2)
        found[f"{name}_p95_ms"] = round(float(np.quantile(times, 0.95)), 2)
    step(
        "open_again_and_search", lambda: Index.open(location).search_vector("volume", asked[0], 10)
    )
    return found


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--queries", type=int, default=100)
    arguments = parser.parse_args()
    scratch = tempfile.mkdtemp(prefix="object-store-")
    os.environ["SCRATCH"] = scratch
    os.environ["MEDFINDER_CACHE"] = str(Path(scratch) / "writer")
    store = Store()
    try:
        rows = []
        for exact_below in (50_000, 1_000):
            for where in ("folder", "store"):
                name = f"idx-{exact_below}"
                at = f"{scratch}/{name}" if where == "folder" else f"s3://archive/{name}"
                said = measure(
                    at,
                    arguments.rows,
                    arguments.queries,
                    exact_below,
                    store if where == "store" else None,
                )
                kind = "exact" if exact_below > arguments.rows else "partitions"
                rows.append({"where": where, "search": kind, **said})
                print(rows[-1], flush=True)
    finally:
        store.close()
        shutil.rmtree(scratch, ignore_errors=True)
    notes = (
        "The store is moto's server in Python on loopback, on the same two cores, which other work "
        "shared: times are upper bounds of little meaning; requests and bytes hold for any store."
    )
    write_result("object_store", {"rows": arguments.rows, "dim": DIM, "runs": rows}, [SEED], notes)
    print(table([{"where": f"{r['where']}, {r['search']}", **{k: r.get(k, "") for k in rows[1] if k.endswith(("_s", "p50_ms"))}} for r in rows]))  # fmt: skip


if __name__ == "__main__":
    main()
