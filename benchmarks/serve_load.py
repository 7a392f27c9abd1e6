"""Requests a second, waiting times and memory of the service under 1, 8 and 64 clients.

The real command serves an index of phantoms that the checkpoint ``medfinder`` embedded; 1, 8 and 64
clients, each a thread with one connection, ask as fast as they are answered:

- a sentence: one of 160, ten hits with their reasons;
- a slice, ``cold`` (of a study whose volume is not in memory), ``held`` (its volume is, the slice was
  never drawn) and ``kept`` (it was drawn before);
- a CT by upload: its NIfTI file is sent, read, embedded and compared.

Then a soak: as many requests as a department asks in an hour at the stated rate, by 8 clients, with
the service's memory before, between and after. At last a browser loads the page, each time anew.

Server, clients and browser share the machine's cores, so every figure is a lower bound of what the
server does alone. Files are in the page cache of the system: cold means cold for the service.
A client that is told to wait (503, Retry-After) would wait; `max_uploads` is raised so that none is.

Also measured: what embedding several sentences as one batch would gain (``batching``).

Run: ``python benchmarks/serve_load.py [--quick] [--studies FOLDER | --index FOLDER]``
"""

import argparse
import contextlib
import http.client
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from record import table, write_result

HOME = Path("~/.cache/medfinder/serve_load").expanduser()
SEED = 0
CLIENTS = (1, 8, 64)
# What an hour of a department that leaves it open holds: a request every two seconds, of which
# most are slices that a viewer scrolls through.
SOAK = {"search": 360, "slice": 1380, "upload": 60}
BOUNDARY = "----medfinder-load"

Ask = Callable[[http.client.HTTPConnection, random.Random], int]


@dataclass
class Timed:
    """What a load measured."""

    clients: int
    seconds: float = 0.0
    waits_ms: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)

    def figures(self) -> dict[str, Any]:
        """Return it as figures."""
        waits = sorted(self.waits_ms)

        def at(share: float) -> float:
            return round(waits[min(len(waits) - 1, int(share * len(waits)))], 1)

        return {
            "clients": self.clients,
            "requests": len(waits),
            "per_s": round(len(waits) / self.seconds, 1),
            "p50_ms": at(0.5),
            "p95_ms": at(0.95),
            "p99_ms": at(0.99),
            "errors": sum(n for status, n in self.statuses.items() if status != 200),
        }


def load(url: str, ask: Ask, clients: int, seconds: float, most: int | None = None) -> Timed:
    """Have so many clients ask for so long, or until `most` requests were sent."""
    made = Timed(clients)
    lock = threading.Lock()
    left = most
    deadline = time.perf_counter() + seconds

    def work(seed: int) -> None:
        nonlocal left
        rng = random.Random(seed)
        connection = http.client.HTTPConnection(url.split("/")[2], timeout=300)
        waits, statuses = [], {}
        while time.perf_counter() < deadline:
            if left is not None:
                with lock:
                    if left <= 0:
                        break
                    left -= 1
            begun = time.perf_counter()
            try:
                status = ask(connection, rng)
            except OSError:
                status = 0
                connection.close()
            waits.append((time.perf_counter() - begun) * 1e3)
            statuses[status] = statuses.get(status, 0) + 1
        connection.close()
        with lock:
            made.waits_ms += waits
            for status, n in statuses.items():
                made.statuses[status] = made.statuses.get(status, 0) + n

    threads = [threading.Thread(target=work, args=(SEED + i,)) for i in range(clients)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    made.seconds = time.perf_counter() - begun
    return made


def fetch(connection: http.client.HTTPConnection, path: str) -> int:
    """GET, and read the whole answer."""
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.read()
    return answer.status


def post(connection: http.client.HTTPConnection, path: str, body: bytes, kind: str) -> int:
    """POST, and read the whole answer."""
    connection.request("POST", path, body, {"Content-Type": kind})
    answer = connection.getresponse()
    answer.read()
    return answer.status


class Asking:
    """The requests, over the studies of one index."""

    def __init__(self, url: str, studies: list[Any]) -> None:
        self.url = url
        self.studies = studies
        self._sentences = [
            f"{size} {side} {what}"
            for size in ("small", "large", "multiple", "possible", "no")
            for side in ("right", "left", "bilateral", "basal")
            for what in ("pleural effusion", "nodule", "mass", "consolidation", "emphysema",
                         "pneumothorax", "atelectasis", "ground glass opacity")
        ]  # fmt: skip
        self._lock = threading.Lock()
        self._cold = iter(studies[8:])  # of the others slices were drawn
        self._files = [Path(s.volume_path).read_bytes() for s in studies[:16]]

    def sentence(self, connection: http.client.HTTPConnection, rng: random.Random) -> int:
        """Search by a sentence."""
        body = json.dumps({"text": rng.choice(self._sentences)}).encode()
        return post(connection, "/v1/search", body, "application/json")

    def cold(self, connection: http.client.HTTPConnection, rng: random.Random) -> int:
        """Ask for the middle slice of a study that nobody has looked at."""
        with self._lock:
            study = next(self._cold)
        return fetch(
            connection, f"/v1/studies/{study.study_id}/slices/axial/{study.shape[0] // 2}.png"
        )

    def held(self, connection: http.client.HTTPConnection, rng: random.Random) -> int:
        """Ask for a slice that was never drawn, of a volume that is in memory."""
        study = rng.choice(self.studies[:8])
        plane, n = rng.choice([("axial", 0), ("coronal", 1), ("sagittal", 2)])
        index, level = rng.randrange(study.shape[n]), rng.randrange(-1000, 1000)
        path = f"/v1/studies/{study.study_id}/slices/{plane}/{index}.png?level={level}&width=1500"
        return fetch(connection, path)

    def kept(self, connection: http.client.HTTPConnection, rng: random.Random) -> int:
        """Ask for a slice that was drawn before."""
        study = rng.choice(self.studies[:8])
        return fetch(
            connection, f"/v1/studies/{study.study_id}/slices/axial/{study.shape[0] // 2}.png"
        )

    def upload(self, connection: http.client.HTTPConnection, rng: random.Random) -> int:
        """Search by a CT."""
        part = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="ct"\r\n\r\n'
        body = part.encode() + rng.choice(self._files) + f"\r\n--{BOUNDARY}--\r\n".encode()
        kind = f"multipart/form-data; boundary={BOUNDARY}"
        return post(connection, "/v1/search/volume", body, kind)


@contextlib.contextmanager
def served(index: Path) -> Iterator[tuple[str, int]]:
    """Run the real command; give its address and process id once the encoder is loaded."""
    command = [
        sys.executable,
        "-c",
        "from medfinder.cli.app import main; main()",
        "serve",
        str(index),
    ]
    command += ["--port", "0", "--set", "max_uploads=64"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        told = ""
        while not (found := re.search(r"MedFinder is at (http://\S+)", told)):
            line = process.stderr.readline()
            assert line, told
            told += line
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield found[1], process.pid
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def resident_mib(pid: int) -> float:
    """Return the memory of a process that is in RAM and its own or shared."""
    status = Path(f"/proc/{pid}/status").read_text()
    return round(int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024, 1)  # type: ignore[index]


def soak(url: str, pid: int, asking: Asking, share: float) -> dict[str, Any]:
    """Ask what an hour asks, mixed, and watch the memory."""
    todo = [kind for kind, n in SOAK.items() for _ in range(max(1, int(n * share)))]
    random.Random(SEED).shuffle(todo)
    kinds = {"search": asking.sentence, "slice": asking.held, "upload": asking.upload}
    # Warm: what is loaded once, and caches that fill up to their bound, are no leak.
    load(url, asking.upload, 2, 30, most=4)
    before = resident_mib(pid)
    memory, errors, seconds = [before], 0, 0.0
    quarter = (len(todo) + 3) // 4
    for start in range(0, len(todo), quarter):
        waiting = iter(todo[start : start + quarter])
        lock = threading.Lock()

        def ask(connection: http.client.HTTPConnection, rng: random.Random) -> int:
            with lock:  # noqa: B023 - the load ends before the next begins
                kind = next(waiting)  # noqa: B023
            return kinds[kind](connection, rng)

        made = load(url, ask, 8, 600, most=len(todo[start : start + quarter]))
        errors += made.figures()["errors"]
        seconds += made.seconds
        memory.append(resident_mib(pid))
    return {
        "requests": len(todo),
        "mix": {k: todo.count(k) for k in SOAK},
        "hours_at_one_every_2_s": round(len(todo) / 1800, 2),
        "seconds": round(seconds, 1),
        "errors": errors,
        "resident_mib": memory,
        "last_half_grew_mib": round(memory[-1] - memory[2], 1),
    }


def page(url: str, n: int) -> dict[str, Any]:
    """Load the page in a browser, each time with an empty cache: first paint, and bytes."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return {"left_out": "playwright is not installed"}
    paints, largest, sizes = [], [], {}
    with sync_playwright() as play:
        path = next(
            (p for p in ("/usr/bin/chromium", "/usr/bin/google-chrome") if os.path.exists(p)), None
        )
        browser = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for _ in range(n):
            context = browser.new_context(viewport={"width": 1440, "height": 900})
            tab = context.new_page()
            sizes = {}

            def note(response: Any) -> None:
                if response.url.startswith(url) and "/v1/" not in response.url:
                    with contextlib.suppress(Exception):
                        name = response.url.removeprefix(url).partition("?")[0] or "index.html"
                        sent = int(response.headers.get("content-length", 0))
                        sizes[name] = {"sent": sent, "whole": len(response.body())}  # noqa: B023

            tab.on("response", note)
            tab.goto(url)
            tab.wait_for_load_state("networkidle")
            paints.append(
                tab.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
            )
            largest.append(
                tab.evaluate(
                    "new Promise(done => {new PerformanceObserver(list => done("
                    "list.getEntries().at(-1).startTime)).observe("
                    "{type: 'largest-contentful-paint', buffered: true}); setTimeout(() => done(null), 3000)})"
                )
            )
            context.close()
        browser.close()
    return {
        "loads": n,
        "first_contentful_paint_ms": round(statistics.median(paints), 1),
        "largest_contentful_paint_ms": round(statistics.median(v for v in largest if v), 1)
        if any(largest)
        else None,
        "files": len(sizes),
        "bytes_sent": sum(s["sent"] for s in sizes.values()),
        "bytes_whole": sum(s["whole"] for s in sizes.values()),
    }


def batching(index: Path) -> dict[str, Any]:
    """Measure what a search by a sentence spends on embedding, and what one batch of several would."""
    from medfinder.search.finder import open_index

    finder = open_index(index)
    texts = [f"{size} {what}" for size in ("small", "large", "left", "right", "no", "old", "new", "few")
             for what in ("effusion", "nodule", "mass", "fibrosis", "emphysema", "pneumothorax",
                          "bronchiectasis", "oedema")]  # fmt: skip
    for text in texts[:4]:
        finder.search(text)

    def timed(work: Callable[[], object]) -> float:
        begun = time.perf_counter()
        work()
        return (time.perf_counter() - begun) * 1e3

    search_ms = statistics.median(timed(lambda t=t: finder.search(t)) for t in texts)
    found: dict[str, Any] = {"search_ms": round(search_ms, 2)}
    for stream, embedder in sorted(finder.embedders().items()):
        if "text" not in embedder.info.streams or stream == "joint":
            continue
        found[stream] = {
            "one_by_one_ms_a_text": round(
                timed(lambda e=embedder: [e.embed_texts([t]) for t in texts]) / len(texts), 2
            ),
            **{
                f"batch_of_{n}_ms_a_text": round(
                    timed(
                        lambda e=embedder, n=n: [
                            e.embed_texts(texts[i : i + n]) for i in range(0, len(texts), n)
                        ]
                    )
                    / len(texts),
                    2,
                )
                for n in (8, 64)
            },
        }
    one = sum(v["one_by_one_ms_a_text"] for v in found.values() if isinstance(v, dict))
    for n in (8, 64):
        many = sum(v[f"batch_of_{n}_ms_a_text"] for v in found.values() if isinstance(v, dict))
        found[f"searches_gained_by_batches_of_{n}_ratio"] = round(
            search_ms / (search_ms - one + many), 3
        )
    return found


def make_index(given: Path | None, n: int) -> Path:
    """Return an index, made once: over curated studies that are given, or phantoms drawn here."""
    from medfinder.curate.curate import curate
    from medfinder.curate.sources.folder import FolderSource
    from medfinder.phantom.phantom import write_phantoms
    from medfinder.search.build import build_index

    index = HOME / f"index-{given.name if given else 'phantoms'}-{n}"
    if (index / "manifest.json").exists():
        return index
    studies = given
    if studies is None:
        raw, studies = HOME / f"phantoms-{n}", HOME / f"studies-{n}"
        write_phantoms(raw, n, SEED + 1, size=(64, 96, 96), workers=0)
        curate(FolderSource(raw, raw / "studies.csv"), studies)
    build_index(studies, index, encoder="medfinder")
    return index


def main() -> None:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a twentieth of the time, unwritten")
    parser.add_argument(
        "--studies", type=Path, help="a curated folder; phantoms are drawn otherwise"
    )
    parser.add_argument("--index", type=Path, help="an index of such studies that is there already")
    parser.add_argument("-n", type=int, default=192, help="phantoms to draw")
    options = parser.parse_args()
    from medfinder.search.finder import open_index

    index = options.index or make_index(options.studies, options.n)
    finder = open_index(index)
    studies = finder.index.studies(finder.index.ids())
    model = finder.index.model_ids
    del finder
    seconds = 0.5 if options.quick else 8.0
    share = 0.02 if options.quick else 1.0
    rows: list[dict[str, Any]] = []
    with served(index) as (url, pid):
        asking = Asking(url, studies)
        with urllib.request.urlopen(f"{url}ready") as answer:
            assert answer.status == 200
        load(url, asking.sentence, 1, 300, most=3)  # the encoder is loaded
        at_start = resident_mib(pid)
        n_cold = 5 if options.quick else (len(studies) - 8) // len(CLIENTS)
        load(url, asking.kept, 1, 60, most=64)
        for kind, ask, most in (
            ("sentence", asking.sentence, None),
            ("slice, cold", asking.cold, n_cold),
            ("slice, held", asking.held, None),
            ("slice, kept", asking.kept, None),
            ("CT by upload", asking.upload, None),
        ):
            for clients in CLIENTS:
                limit = 600 if most else seconds
                rows.append({"what": kind, **load(url, ask, clients, limit, most).figures()})
                print(json.dumps(rows[-1]), flush=True)
        soaked = soak(url, pid, asking, share)
        print(json.dumps(soaked), flush=True)
        painted = page(url, 2 if options.quick else 5)
        print(json.dumps(painted), flush=True)
        memory = {"encoder_loaded_mib": at_start, "after_all_mib": resident_mib(pid)}
    batches = batching(index)
    print(table(rows))
    for name, figures in (
        ("soak", soaked),
        ("page", painted),
        ("memory", memory),
        ("batching", batches),
    ):
        print(f"{name}: {json.dumps(figures)}")
    if options.quick:
        return
    write_result(
        "serve_load",
        {
            "n_studies": len(studies),
            "model_ids": model,
            "volume_shape": list(studies[0].shape),
            "upload_bytes": len(Path(studies[0].volume_path).read_bytes()),
            "loads": rows,
            "soak": soaked,
            "page": painted,
            "memory": memory,
            "batching": batches,
        },
        seeds=[SEED],
        notes="Server, clients and browser share the cores of one machine, which others may use too: "
        f"its load average was {os.getloadavg()[1]:.1f} over the last five minutes.",
    )
    if any(row["errors"] for row in rows) or soaked["errors"]:
        sys.exit("There were errors.")


if __name__ == "__main__":
    main()
