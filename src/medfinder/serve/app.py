"""An index folder → a web service, guarded.

What every request passes is here: request id, host and origin, size, security headers, the log
line and the table of errors. What the service answers is in `medfinder.serve.routes`.
"""

import asyncio
import contextlib
import ipaddress
import logging
import os
import re
import socket
import sys
import threading
import time
import traceback
import uuid
import webbrowser
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import medfinder
from medfinder.curate.review import ReviewQueue
from medfinder.errors import ConfigError, MedFinderError
from medfinder.search.finder import Finder, open_index
from medfinder.serve import review_routes
from medfinder.serve.faults import Refusal, answer
from medfinder.serve.routes import UPLOAD_PATH, Service, api, page
from medfinder.serve.uploads import remove_leftovers

log = logging.getLogger("medfinder.serve")

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; font-src 'self'; manifest-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
_MARGIN_S = 5.0  # what a stop may take beyond `ServeConfig.stop_s`
_STOPPING = Refusal(
    503,
    "Stopped",
    "The service was stopped before it had the answer.",
    "Send the request again once it runs.",
    headers={"connection": "close"},
)
_REQUEST_ID = re.compile(r"[A-Za-z0-9-]{8,64}")

DESCRIPTION = """Find the CT studies that match a sentence, findings, a report or another CT.

Research use only: not a medical device. Ids are pseudonyms; no answer holds a patient's identity
or a file's path. Queries travel in bodies, never in URLs. Errors are
`{"error": {"type", "message", "hint"}, "request_id"}`."""


@dataclass(frozen=True)
class ServeConfig:
    """Bounds of the service.

    Attributes:
        max_upload_bytes: Of an uploaded file.
        max_expanded_bytes: Of what an uploaded archive becomes.
        max_body_bytes: Of any other request.
        max_uploads: Uploads in work at once; one more is asked to come back.
        pixels_bytes: Memory for volumes that are being looked at (int16).
        pngs_bytes: Memory for finished slices.
        host_names: Names under which the service is reached, besides those of this machine.
        stop_s: Seconds that requests in work are given once the service is told to stop.
    """

    max_upload_bytes: int = 2 * 2**30
    max_expanded_bytes: int = 4 * 2**30
    max_body_bytes: int = 256 * 2**10
    max_uploads: int = 4
    pixels_bytes: int = 2**30
    pngs_bytes: int = 64 * 2**20
    host_names: tuple[str, ...] = ()
    stop_s: int = 10


def create_app(
    index: Finder | str | Path,
    config: ServeConfig | None = None,
    review: ReviewQueue | str | Path | None = None,
) -> FastAPI:
    """Build the application over one index.

    Args:
        index: An index folder, or a `Finder` that has one open.
        config: Bounds.
        review: A curated folder, or its queue, whose doubted studies are reviewed at ``/review``.

    Raises:
        InputError: There is no such folder.
        ArtifactError: The index is unfinished, or of another version.
    """
    config = config or ServeConfig()
    finder = open_index(index) if isinstance(index, (str, Path)) else index
    service = Service(
        finder,
        max_upload_bytes=config.max_upload_bytes,
        max_expanded_bytes=config.max_expanded_bytes,
        max_uploads=config.max_uploads,
        pixels_bytes=config.pixels_bytes,
        pngs_bytes=config.pngs_bytes,
    )

    def close() -> None:
        service.close()
        if review is not None:
            app.state.review.close()

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        remove_leftovers()
        try:
            yield
        finally:
            close()

    tags = [
        {"name": "search", "description": "Queries and what they find."},
        {"name": "studies", "description": "A study, its report and its slices."},
        {"name": "index", "description": "What there is to find."},
        {"name": "service", "description": "For whoever runs it."},
    ]
    app = FastAPI(
        title="MedFinder",
        version=medfinder.__version__,
        summary="3D CT retrieval.",
        description=DESCRIPTION,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        openapi_url="/v1/openapi.json",
        docs_url=None,  # both viewers of FastAPI load their code from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        openapi_tags=tags,
    )
    app.state.service = service
    app.include_router(api)
    if review is not None:
        queue = ReviewQueue(Path(review)) if isinstance(review, (str, Path)) else review
        app.state.review = review_routes.ReviewService(queue)
        app.include_router(review_routes.api)
        app.include_router(review_routes.page)
        tags.append(review_routes.TAG)
    app.include_router(page)
    for kind in (HTTPException, RequestValidationError, MedFinderError):
        app.add_exception_handler(kind, _on_error)
    app.add_middleware(Guard, config=config)
    return app


def serve(
    index: Finder | str | Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    open_browser: bool = False,
    allow_remote: bool = False,
    config: ServeConfig | None = None,
    review: ReviewQueue | str | Path | None = None,
    on_ready: Callable[[str], None] | None = None,
) -> bool:
    """Serve an index until interrupted; requests in work are finished first.

    They are given `ServeConfig.stop_s` seconds, or as long as it takes to interrupt a second time.
    Then connections are cut and their work is left to daemon threads, as nothing can stop a thread.

    Args:
        index: An index folder, or a `Finder`.
        host: Address to listen on. There is no sign-in: whoever reaches it sees everything.
        port: 0 for any free one.
        open_browser: Open the page once it is there.
        allow_remote: Listen on an address that other machines reach, without a sign-in.
        config: Bounds.
        review: A curated folder, or its queue, whose doubted studies are reviewed at ``/review``.
        on_ready: Called with the page's URL, once connections are accepted; without it, the URL
            is written to stderr.

    Returns:
        Whether all work was done. A program that ends after False should end by `os._exit`: what
        a thread does in compiled code may crash while the interpreter is taken apart.

    Raises:
        ConfigError: `host` is not of this machine alone and `allow_remote` is not set (rule
            ``no-sign-in``), or the address cannot be listened on (rule ``port``).
        InputError: There is no such folder.
        ArtifactError: The index is unfinished, or of another version.
    """
    if not allow_remote and not is_loopback(host):
        raise ConfigError(
            f"Host {host!r} can be reached from other machines, and this service has no sign-in: "
            "expected a loopback address. Use 127.0.0.1 behind a proxy that signs users in, or "
            "allow remote access explicitly.",
            rule="no-sign-in",
        )
    config = config or ServeConfig()
    if allow_remote:  # the name by which others know this machine
        config = replace(config, host_names=(*config.host_names, socket.gethostname().lower()))
    listener = _listen(host, port)
    with contextlib.closing(listener):
        port = listener.getsockname()[1]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
        app = create_app(index, config, review)
        server = _Server(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                access_log=False,  # it would log URLs; the guard logs routes
                log_level="warning",
                server_header=False,
                timeout_graceful_shutdown=config.stop_s,
                h11_max_incomplete_event_size=64 * 2**10,
            )
        )
        pages = [url] if review is None else [url, f"{url}review"]
        server.on_started = lambda: _announce(pages, on_ready, open_browser)
        server.service = app.state.service
        try:
            with contextlib.suppress(KeyboardInterrupt):  # the usual way to stop it
                server.run(sockets=[listener])
        finally:
            server.stopped.set()
    working = [app.state.service] if review is None else [app.state.service, app.state.review]
    return not any(part.is_working for part in working)


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Guard:
    """ASGI middleware that every request and every answer passes.

    A request must name this service as its host (so that no other site's name can be bound to
    it), must not be sent by another site's page, and must end within its size. An answer carries
    the security headers and a request id. The log has the route, never its parameters' values.
    """

    def __init__(self, app: ASGIApp, config: ServeConfig) -> None:
        self.app = app
        self.config = config

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or answer it here."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        started = time.perf_counter()
        status = 0

        async def guarded_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                out = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    out[name] = value
                out["x-request-id"] = request_id
                if "cache-control" not in out:
                    out["cache-control"] = "no-store"
            await send(message)

        try:
            is_upload = _is_upload(scope, headers)
            limit = self._check(scope, headers, is_upload)
            service: Service = scope["app"].state.service
            # Before the body is read: those who must wait leave no file on the disk.
            with service.upload_slot() if is_upload else contextlib.nullcontext():
                await self.app(scope, _bounded(receive, limit), guarded_send)
        except Refusal as refusal:
            await answer(refusal, request_id)(scope, receive, guarded_send)
        except asyncio.CancelledError:  # the service stops, and waits no longer
            if status == 0:
                await answer(_STOPPING, request_id)(scope, receive, guarded_send)
        except Exception as error:
            # The error's own text may hold a query or a path: log where it arose, not what it says.
            frames = traceback.extract_tb(error.__traceback__)[-6:]
            where = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames))
            log.error("request %s failed: %s at %s", request_id, type(error).__name__, where)
            if status == 0:
                await answer(error, request_id)(scope, receive, guarded_send)
        finally:
            route = getattr(scope.get("route"), "path", "-")
            elapsed_ms = (time.perf_counter() - started) * 1e3
            log.info("%s %s %d %.1f ms %s", scope["method"], route, status, elapsed_ms, request_id)

    def _check(self, scope: Scope, headers: Headers, is_upload: bool) -> int:
        """Return how many bytes the request may have."""
        host = headers.get("host", "")
        name = _host_name(host)
        own = scope.get("server") or ("", 0)
        allowed = {*LOOPBACK_NAMES, *self.config.host_names, own[0]}
        if name not in allowed:
            raise Refusal(
                421,
                "InputError",
                "This service is not known under the host name of the request.",
                "Use the address it was started with, or add the name to host_names.",
            )
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            raise Refusal(
                403,
                "InputError",
                "The request comes from a page of another site.",
                "Use this service's own page, or a client that is not a web page.",
            )
        # Room for the form's other fields and boundaries.
        limit = self.config.max_upload_bytes * is_upload + self.config.max_body_bytes
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > limit:
            raise _too_large(limit)
        return limit


class _Server(uvicorn.Server):
    """A server that says when it accepts connections, loads what the first search needs, and stops.

    Told to stop by a signal, it ends its process if it has not stopped when it should have.
    """

    on_started: Callable[[], None]
    service: Service

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.stopped = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.on_started()
            self._warm_up = asyncio.create_task(self.service.warm_up())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        # Its event loop will no longer tell a client that the end has come, nor wait for one that
        # does not read.
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.should_exit:
            threading.Thread(target=self._end_process, args=(sig,), daemon=True).start()
        super().handle_exit(sig, frame)

    def _end_process(self, sig: int) -> None:
        """End the process, unless the server stops in time: its event loop may be what hangs."""
        seconds = (self.config.timeout_graceful_shutdown or 0) + _MARGIN_S
        if not self.stopped.wait(seconds):
            print("MedFinder did not stop in time, and is ended.", file=sys.stderr, flush=True)
            os._exit(128 + sig)


def _is_upload(scope: Scope, headers: Headers) -> bool:
    """Tell the one request whose body goes to disk; all others are read into memory."""
    return (
        scope["method"] == "POST"
        and scope["path"] == UPLOAD_PATH
        and headers.get("content-type", "").startswith("multipart/")
    )


def _bounded(receive: Receive, limit: int) -> Receive:
    """Count a body's bytes as they come: a length that was not told, or was wrong, is no way in."""
    n_bytes = 0

    async def bounded() -> Message:
        nonlocal n_bytes
        message = await receive()
        n_bytes += len(message.get("body", b""))
        if n_bytes > limit:
            raise _too_large(limit)
        return message

    return bounded


def _too_large(limit: int) -> Refusal:
    return Refusal(
        413,
        "InputError",
        f"The request is too large: expected at most {limit / 2**20:.2g} MiB.",
        "Send one series, or a shorter query.",
        headers={"connection": "close"},
    )


def _host_name(host: str) -> str:
    """Return a Host header without its port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def _on_error(request: Request, error: Exception) -> Response:
    return answer(error, request.state.request_id)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host.strip("[]"), port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise ConfigError(
            f"The service cannot listen on port {port} of {host!r}: {error}. "
            "Choose another port, or 0 for any free one.",
            rule="port",
        ) from None
    return listener


def _announce(pages: list[str], on_ready: Callable[[str], None] | None, open_browser: bool) -> None:
    url = pages[0]
    if on_ready is not None:
        on_ready(url)
    else:
        print(
            f"MedFinder is at {' and '.join(pages)} (stop with Ctrl+C)", file=sys.stderr, flush=True
        )
    if open_browser:
        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
