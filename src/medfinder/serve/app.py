"""An index → a web service that runs until it is told to stop.

What every request passes is in `medfinder.serve.guard`; what is answered, in the modules named
``…_routes``.
"""

import asyncio
import contextlib
import ipaddress
import logging
import os
import shlex
import socket
import sys
import threading
import webbrowser
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

import medfinder
from medfinder.curate.review import ReviewQueue
from medfinder.errors import ConfigError, MedFinderError
from medfinder.index.open import index_place
from medfinder.place import FolderPlace, Location
from medfinder.search.finder import Finder, open_index
from medfinder.serve import (
    account_routes,
    collection_routes,
    ingest_routes,
    page_routes,
    review_routes,
    search_routes,
    session_routes,
    status_routes,
    study_routes,
)
from medfinder.serve.access.gate import Gate, has_way_in
from medfinder.serve.access.oidc import Oidc
from medfinder.serve.audit import AuditLog
from medfinder.serve.config import ServeConfig
from medfinder.serve.database import Database, beside, is_url
from medfinder.serve.faults import answer
from medfinder.serve.guard import Guard
from medfinder.serve.lanes import Lane
from medfinder.serve.metrics import Observed
from medfinder.serve.page_routes import Documents
from medfinder.serve.service import Service
from medfinder.serve.swap import Watch, held_to
from medfinder.serve.uploads import remove_leftovers
from medfinder.serve.workers import supervise

log = logging.getLogger("medfinder.serve")

_MARGIN_S = 5.0  # what a stop may take beyond `ServeConfig.stop_s`

DESCRIPTION = """Find the CT studies that match a sentence, findings, a report or another CT.

Research use only: not a medical device. Ids are pseudonyms; no answer holds a patient's identity
or a file's path. Queries travel in bodies, never in URLs. Errors are
`{"error": {"type", "message", "hint"}, "request_id"}`."""


def create_app(
    index: Finder | str | Path,
    config: ServeConfig | None = None,
    review: ReviewQueue | str | Path | None = None,
    documents: Documents = Documents(),  # noqa: B008 - it is frozen
) -> FastAPI:
    """Build the application over one index.

    Args:
        index: Where an index lies (see `medfinder.index.open`), or a `Finder` that has one open.
        config: Bounds.
        review: A curated folder, or its queue, whose doubted studies are reviewed in the page.
        documents: The dataset card and the benchmark's page, which the page frames.

    Raises:
        InputError: There is no such folder.
        ArtifactError: The index is unfinished, or of another version.
    """
    config = config or ServeConfig()
    # A path whose link is pointed elsewhere must not change what is open.
    location: Location = index if isinstance(index, (str, Path)) else index.index.place
    finder = open_index(held_to(location)) if isinstance(index, (str, Path)) else index
    database = _open_database(location, config)
    gate = Gate(config.access, database)
    exports = Lane("exports", 2)
    service = Service(finder, config)

    def close() -> None:
        service.close()
        gate.close()
        exports.close()
        if database is not None:
            database.close()
        if review is not None:
            app.state.review.close()

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        remove_leftovers()
        watch = Watch(service, location)
        watching = asyncio.create_task(watch.run()) if config.watch_s else None
        app.state.watch = watch
        try:
            yield
        finally:
            if watching is not None:
                watching.cancel()
            watch.close()
            close()

    tags = [
        {"name": "search", "description": "Queries and what they find."},
        {"name": "studies", "description": "A study, its report and its slices."},
        {"name": "index", "description": "What there is to find."},
        {"name": "service", "description": "For whoever runs it."},
        ingest_routes.TAG,
        session_routes.TAG,
        *account_routes.TAGS,
        collection_routes.TAG,
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
    app.state.gate = gate
    app.state.exports = exports
    app.state.audit = None if database is None else AuditLog(database)
    app.state.oidc = Oidc(config.access.oidc) if config.access.oidc.issuer else None
    for router in (
        search_routes.api,
        study_routes.api,
        status_routes.api,
        ingest_routes.api,
        session_routes.api,
        account_routes.api,
        collection_routes.api,
    ):
        app.include_router(router)
    if review is not None:
        queue = ReviewQueue(Path(review)) if isinstance(review, (str, Path)) else review
        app.state.review = review_routes.ReviewService(queue)
        app.include_router(review_routes.api)
        tags.append(review_routes.TAG)
    app.state.documents = documents
    app.include_router(page_routes.api)
    app.include_router(page_routes.page)
    for kind in (HTTPException, RequestValidationError, MedFinderError):
        app.add_exception_handler(kind, _on_error)
    app.add_middleware(Guard, config=config)
    app.add_middleware(Observed)
    return app


def serve(
    index: Finder | str | Path,
    host: str | None = None,
    port: int | None = None,
    *,
    open_browser: bool = False,
    allow_remote: bool = False,
    config: ServeConfig | None = None,
    review: ReviewQueue | str | Path | None = None,
    documents: Documents = Documents(),  # noqa: B008 - it is frozen
    on_ready: Callable[[str], None] | None = None,
) -> bool:
    """Serve an index until interrupted; requests in work are finished first.

    They are given `ServeConfig.stop_s` seconds, or as long as it takes to interrupt a second time.
    Then connections are cut and their work is left to daemon threads, as nothing can stop a thread.

    Args:
        index: An index folder, or a `Finder`.
        host: Address to listen on; None as `config` says. There is no sign-in: whoever reaches it
            sees everything.
        port: 0 for any free one; None as `config` says.
        open_browser: Open the page once it is there.
        allow_remote: As ``access.mode`` "off" on an address that other machines reach: whoever
            reaches it may see and do everything.
        config: Bounds.
        review: A curated folder, or its queue, whose doubted studies are reviewed in the page.
        documents: The dataset card and the benchmark's page, which the page frames.
        on_ready: Called with the page's URL, once connections are accepted; without it, the URL
            is written to stderr.

    Returns:
        Whether all work was done. A program that ends after False should end by `os._exit`: what
        a thread does in compiled code may crash while the interpreter is taken apart.

    Raises:
        ConfigError: A sign-in is needed and nobody has an account (rule ``no-accounts``), or the
            address cannot be listened on (rule ``port``).
        InputError: There is no such folder.
        ArtifactError: The index is unfinished, or of another version.
    """
    config = config or ServeConfig()
    host, port = host or config.host, config.port if port is None else port
    config = _with_access(index, host, config, allow_remote)
    listener = _listen(host, port)
    with contextlib.closing(listener):
        name, port = f"[{host}]" if ":" in host else host, listener.getsockname()[1]
        url = f"http://{name}:{port}/"
        pages = [url] if review is None else [url, f"{url}#/review"]

        def announce() -> None:
            _announce(pages, on_ready, open_browser)

        if config.workers == 1:
            return _serve_one(index, listener, config, review, documents, announce)
        return supervise(
            partial(_work, *_checked(index, review), documents=documents),
            listener,
            config,
            announce,
        )


def _serve_one(
    index: Finder | str | Path,
    listener: socket.socket,
    config: ServeConfig,
    review: ReviewQueue | str | Path | None,
    documents: Documents,
    on_started: Callable[[], None],
) -> bool:
    """Serve in this process until told to stop; return whether all work was done."""
    app = create_app(index, config, review, documents)
    host, port = listener.getsockname()[:2]
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
    server.on_started = on_started
    server.service = app.state.service
    try:
        with contextlib.suppress(KeyboardInterrupt):  # the usual way to stop it
            server.run(sockets=[listener])
    finally:
        server.stopped.set()
    working = [app.state.service] if review is None else [app.state.service, app.state.review]
    return not any(part.is_working for part in working)


def _work(
    index: str | Path,
    review: Path | None,
    listener: socket.socket,
    config: ServeConfig,
    on_started: Callable[[], None],
    *,
    documents: Documents,
) -> None:
    """Serve as one of several processes; what goes on after a stop ends with the process."""
    if not _serve_one(index, listener, config, review, documents, on_started):
        os._exit(0)


def _checked(
    index: Finder | str | Path, review: ReviewQueue | str | Path | None
) -> tuple[str | Path, Path | None]:
    """Return the index and the folder that every process opens for itself.

    Raises:
        ConfigError: One is open here already (rule ``workers``).
        InputError: There is no such folder.
        ArtifactError: The index is unfinished, or of another version.
    """
    if isinstance(index, Finder) or isinstance(review, ReviewQueue):
        raise ConfigError(
            "Several workers open what they serve each for themselves: expected folders, got a "
            f"{'Finder' if isinstance(index, Finder) else 'ReviewQueue'}. Give the folder, or serve "
            "with one worker.",
            rule="workers",
        )
    open_index(held_to(index))
    return index, None if review is None else Path(review)


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


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
        self.service.is_stopping = True
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


def _remembered(index: Location, config: ServeConfig) -> str | Path:
    """Return where the service keeps what it remembers.

    Raises:
        ConfigError: It was not named, and the index lies where no file can be beside it.
    """
    if config.access.database_url:
        return config.access.database_url
    place = index_place(index)
    if isinstance(place, FolderPlace):
        return beside(place.path)
    raise ConfigError(
        f"{str(place)!r} has no folder for accounts, collections and the audit log to lie beside: "
        "expected a file of their own. Name one with --database FILE.",
        rule="database",
    )


def _open_database(index: Location, config: ServeConfig) -> Database | None:
    """Open what the service remembers; None where it cannot, and needs not for signing in.

    Raises:
        ConfigError: It cannot be opened, and accounts are needed or it was named.
    """
    try:
        return Database.open(_remembered(index, config))
    except ConfigError as error:
        if config.access.mode == "required" or config.access.database_url:
            raise
        log.warning("No collections and no audit log: %s", error)
        return None


def _with_access(
    index: Finder | str | Path, host: str, config: ServeConfig, allow_remote: bool
) -> ServeConfig:
    """Return the settings with what ``auto`` means on this address.

    Raises:
        ConfigError: A sign-in is needed and nobody has an account (rule ``no-accounts``).
    """
    is_remote = not is_loopback(host)
    access = config.access
    if access.mode == "auto" and is_remote:
        access = replace(access, mode="off" if allow_remote else "required")
    if access.mode == "required":
        where: Location = index if isinstance(index, (str, Path)) else index.index.place
        remembered = _remembered(where, config)
        database = Database.open(remembered)
        try:
            is_open = has_way_in(database, access)
        finally:
            database.close()
        if not is_open:
            # A URL may hold a password.
            state = "URL" if is_url(remembered) else shlex.quote(str(remembered))
            raise ConfigError(
                f"Nobody could sign in at {host!r}: expected an account. Add one with "
                f"'medfinder account add {state} NAME --role admin', or use --access off where "
                "everybody who reaches this address may see everything.",
                rule="no-accounts",
            )
    if is_remote:  # the name by which others know this machine
        names = (*config.host_names, socket.gethostname().lower())
        return replace(config, access=access, host_names=names)
    return replace(config, access=access)


def _on_error(request: Request, error: Exception) -> Response:
    return answer(error, request.state.request_id)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named, as asyncio turns off waiting for fuller packets only where it is told that this is TCP.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host.strip("[]"), port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise ConfigError(
            f"The service cannot listen on port {port} of {host!r}: {str(error).rstrip('.')}. "
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
