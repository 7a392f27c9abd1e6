"""What every request and every answer passes: host and origin, size, headers, id and log line."""

import asyncio
import contextlib
import logging
import re
import time
import traceback
import uuid
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medfinder.serve.access.gate import Gate
from medfinder.serve.access.roles import NOBODY, check_role
from medfinder.serve.audit import AuditLog
from medfinder.serve.config import ServeConfig
from medfinder.serve.faults import Refusal, answer
from medfinder.serve.service import Service

log = logging.getLogger("medfinder.serve")

UPLOAD_PATH = "/v1/search/volume"
INGEST_PATH = "/v1/ingest"
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
CONTENT_SECURITY_POLICY = (
    # data: is for the letters and materials that the 3D view holds as pictures in its own code.
    # 'self' may be framed: the documents under /v1/pages, which bring a stricter policy along.
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; font-src 'self'; manifest-src 'self'; frame-src 'self'; "
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
_STOPPING = Refusal(
    503,
    "Stopped",
    "The service was stopped before it had the answer.",
    "Send the request again once it runs.",
    headers={"connection": "close"},
)
_NAMED = ("study_id", "collection_id", "search_id", "job_id", "token_id", "account")
"""Parameters of paths that the audit log keeps, as what was acted on or shown."""
_UNRECORDED = frozenset({"count_facets"})  # counts alone, at every keystroke
_EXPORTS = frozenset({"export_audit", "export_collection"})  # each is an entry, though a GET
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_REQUEST_ID = re.compile(r"[A-Za-z0-9-]{8,64}")


class Guard:
    """ASGI middleware that every request and every answer passes.

    A request must name this service as its host (so that no other site's name can be bound to
    it), must not be sent by another site's page, and must end within its size. Who asks is known
    before its body is read. An answer carries the security headers and a request id, and what it
    shows is in the audit log before it is sent. The log has the route, never its parameters'
    values.
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
        state = scope.setdefault("state", {})
        state |= {"request_id": request_id, "identity": NOBODY, "action": "", "trail": []}
        started = time.perf_counter()
        status = 0

        async def guarded_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                await _record(scope, message["status"])
                status = message["status"]
                out = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    out.setdefault(name, value)
                out["x-request-id"] = request_id
                if "cache-control" not in out:
                    out["cache-control"] = "no-store"
            await send(message)

        try:
            is_upload = _is_upload(scope, headers)
            limit = self._check(scope, headers, is_upload)
            service: Service = scope["app"].state.service
            gate: Gate = scope["app"].state.gate
            state["caller"] = gate.caller(scope, headers)
            state["identity"] = await gate.identify(scope, headers, state["caller"])
            if is_upload:  # others are asked by their route
                check_role(state["identity"], "viewer")
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
                # A refusal to write down what would be shown comes wrapped by the framework.
                told = error.__cause__ if isinstance(error.__cause__, Refusal) else error
                await answer(told, request_id)(scope, receive, guarded_send)
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


async def _record(scope: Scope, status: int) -> None:
    """Write down who did this, before anything of the answer is sent.

    Searches and changes are an entry each; a study that is looked at, or a job that is asked
    after, is one entry in `medfinder.serve.audit.AGAIN_S`.
    """
    log: AuditLog | None = scope["app"].state.audit
    state = scope["state"]
    action, identity = state["action"], state["identity"]
    if log is None or not action:
        return
    if status == 403 and identity.role is not None:
        await log.record(identity.name, "refused", [action], state["request_id"], is_look=True)
    if status >= 400:
        return
    path: dict[str, str] = scope.get("path_params", {})
    objects = [*(path[name] for name in _NAMED if name in path), *state["trail"]]
    is_look = scope["method"] in _SAFE or scope["path"].startswith("/v1/studies/")
    is_look = is_look and action not in _EXPORTS
    if action in _UNRECORDED or (is_look and not objects):
        return
    await log.record(identity.name, action, objects, state["request_id"], is_look=is_look)


def _is_upload(scope: Scope, headers: Headers) -> bool:
    """Tell the two requests whose body goes to disk; all others are read into memory."""
    return (
        scope["method"] == "POST"
        and scope["path"] in (UPLOAD_PATH, INGEST_PATH)
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
