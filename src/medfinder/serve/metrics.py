"""What is counted while the service runs, in Prometheus' words: no id, no text, route templates only.

With several workers each process counts into files of a shared folder, which any of them adds up
when it is asked; `shared_counts` makes that folder.
"""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import medfinder

if TYPE_CHECKING:
    from medfinder.serve.service import Service

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_PAUSE_S = 1.0  # between two looks at what changes with every request


class Metrics:
    """The counts of one application.

    Every name begins with ``medfinder_``. A gauge is the sum over the workers where that has a
    meaning (memory, work), else what one of them last knew.
    """

    def __init__(self) -> None:
        self._registry = own = CollectorRegistry()
        self._looked = 0.0
        self._models: set[tuple[str, str]] = set()

        def gauge(name: str, text: str, labels: tuple[str, ...] = (), mode: Any = "livesum") -> Any:
            return Gauge(f"medfinder_{name}", text, labels, registry=own, multiprocess_mode=mode)

        self.requests = Counter(
            "medfinder_requests",
            "Requests answered; status 0 is one whose client left.",
            ("method", "route", "status"),
            registry=own,
        )
        self.seconds = Histogram(
            "medfinder_request_seconds",
            "Seconds from a request to its whole answer, or to the start of a stream of events.",
            ("method", "route"),
            registry=own,
            buckets=_BUCKETS_S,
        )
        self.cached = Counter(
            "medfinder_cache_requests",
            "Looks into a cache.",
            ("cache", "result"),
            registry=own,
        )
        self.swaps = Counter(
            "medfinder_index_swaps",
            "Times that another index was found in the index's place: swapped or refused.",
            ("result",),
            registry=own,
        )
        self.jobs = Counter(
            "medfinder_ingest_jobs", "Jobs of taking in a study, ended.", ("state",), registry=own
        )
        self.uploads = gauge("uploads_in_work", "Uploads received or searched now.")
        self.waiting = gauge("lane_waiting", "Work that waits for a thread.", ("lane",))
        self.running = gauge("lane_running", "Work in threads now.", ("lane",))
        self.held = gauge("cache_bytes", "Bytes that a cache holds.", ("cache",))
        self.studies = gauge("index_studies", "Studies in the index.", mode="livemax")
        self.info = gauge("info", "1, labelled with the version.", ("version",), "livemax")
        self.model = gauge(
            "index_model",
            "1 for the encoders of the index.",
            ("stream", "model_id"),
            "livemax",
        )
        self.info.labels(medfinder.__version__).set(1)
        if FOLDER_VARIABLE not in os.environ:
            ProcessCollector(registry=own)
            PlatformCollector(registry=own)

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        method = method if method in _METHODS else "OTHER"  # a client may send any word
        self.requests.labels(method, route, str(status)).inc()
        self.seconds.labels(method, route).observe(seconds)

    def cache(self, name: str, is_hit: bool) -> None:
        """Count one look into a cache."""
        self.cached.labels(name, "hit" if is_hit else "miss").inc()

    def look(self, service: "Service", *, now: bool = False) -> None:
        """Read what the service is doing, at most once a second unless it must be `now`."""
        at = time.monotonic()
        if at - self._looked < _PAUSE_S and not now:
            return
        self._looked = at
        self.uploads.set(service.n_uploads)
        for lane in service.lanes:
            self.waiting.labels(lane.name).set(lane.n_waiting)
            self.running.labels(lane.name).set(lane.n_running)
        self.held.labels("pixels").set(service.pixels.size_bytes)
        self.held.labels("drawn").set(service.drawn.size_bytes)

    def describe(self, n_studies: int, model_ids: dict[str, str]) -> None:
        """Note what the index is."""
        self.studies.set(n_studies)
        for gone in self._models - set(model_ids.items()):
            self.model.labels(*gone).set(0)  # files of several processes forget no label
        self._models |= set(model_ids.items())
        for stream, model_id in model_ids.items():
            self.model.labels(stream, model_id).set(1)

    def text(self) -> bytes:
        """Return all counts in Prometheus' text format, those of other workers added."""
        registry = self._registry
        if FOLDER_VARIABLE in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)


class Observed:
    """ASGI middleware outside of all others: each request is counted, timed and traced."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        service: Service = scope["app"].state.service
        started, answered = time.perf_counter(), 0.0
        status = 0

        async def noted(message: Message) -> None:
            nonlocal status, answered
            if message["type"] == "http.response.start":
                status = message["status"]
                kind = Headers(raw=message["headers"]).get("content-type", "")
                if kind.startswith("text/event-stream"):
                    answered = time.perf_counter()
            await send(message)

        with service.tracing.request(scope) as span:
            try:
                await self.app(scope, receive, noted)
            finally:
                # Known only now: what is not in the table of routes has none.
                route = getattr(scope.get("route"), "path", "-")
                seconds = (answered or time.perf_counter()) - started
                span.end(scope["method"], route, status)
                service.metrics.count(scope["method"], route, status, seconds)
                service.metrics.look(service)


@contextlib.contextmanager
def shared_counts() -> Iterator[Path]:
    """Give processes started within a folder in which their counts are added up."""
    before = os.environ.get(FOLDER_VARIABLE)
    folder = Path(tempfile.mkdtemp(prefix=f"medfinder-counts-{os.getpid()}-"))
    os.environ[FOLDER_VARIABLE] = str(folder)
    try:
        yield folder
    finally:
        if before is None:
            del os.environ[FOLDER_VARIABLE]
        else:
            os.environ[FOLDER_VARIABLE] = before
        shutil.rmtree(folder, ignore_errors=True)


def forget(folder: Path, pid: int) -> None:
    """Drop what a worker that ended was doing; what it had done stays counted."""
    for file in folder.glob(f"gauge_live*_{pid}.db"):
        file.unlink(missing_ok=True)
