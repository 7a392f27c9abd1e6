"""The page: the files that the browser loads, and the documents that it frames.

The files are built from ``web/`` (see ``hatch_build.py``); only those that the folder holds when
the service starts exist. The documents are the dataset card and the benchmark's page, where the
service was given them.
"""

import gzip
import hashlib
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Literal

from fastapi import Depends, Request
from pydantic import BaseModel
from starlette.responses import RedirectResponse, Response

from medfinder.errors import InputError
from medfinder.serve.access.roles import guarded
from medfinder.serve.faults import Refusal
from medfinder.serve.service import ERRORS

api = guarded("viewer", prefix="/v1/pages", tags=["service"], responses=ERRORS)
page = guarded("anyone", include_in_schema=False)

MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".md": "text/plain; charset=utf-8",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
}
# A document brings its style along and no script. It may be framed by the page, nothing else may.
DOCUMENT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
_FOREVER = "public, max-age=31536000, immutable"  # of files whose name is their content's hash
_MAX_DOCUMENT_BYTES = 64 * 2**20
_NOTHING = Refusal(404, "Http", "There is nothing at this address.", "The page is at /.")


@dataclass(frozen=True)
class Documents:
    """The documents that the page frames; each may be missing.

    Attributes:
        card: HTML that ``medfinder curate`` or ``medfinder card`` wrote.
        benchmark: HTML that ``medfinder benchmark`` wrote.
    """

    card: Path | None = None
    benchmark: Path | None = None

    def __post_init__(self) -> None:
        for option in ("card", "benchmark"):
            path: Path | None = getattr(self, option)
            if path is None:
                continue
            if not path.is_file() or path.suffix.lower() not in {".html", ".htm"}:
                raise InputError(
                    f"There is no page for --{option}: expected an HTML file, got {path.name!r}. "
                    f"Give the file that 'medfinder {option}' wrote.",
                    rule="no-page",
                )
            if path.stat().st_size > _MAX_DOCUMENT_BYTES:
                raise InputError(
                    f"The page for --{option} is too large: expected at most "
                    f"{_MAX_DOCUMENT_BYTES // 2**20} MiB. Write it again without its pictures.",
                    rule="no-page",
                )


class PagesResponse(BaseModel):
    """What there is, beside the search."""

    card: bool
    benchmark: bool
    review: bool
    collections: bool
    ingest: bool


async def _documents(request: Request) -> Documents:
    documents: Documents = request.app.state.documents
    return documents


The = Annotated[Documents, Depends(_documents)]


@api.get("", operation_id="get_pages")
async def get_pages(request: Request, documents: The) -> PagesResponse:
    """Return what the page can show."""
    state = request.app.state
    return PagesResponse(
        card=documents.card is not None,
        benchmark=documents.benchmark is not None,
        review=hasattr(state, "review"),
        collections=state.gate.database is not None,
        ingest=state.service.ingest is not None,
    )


@api.get("/{name}", operation_id="get_document", response_class=Response)
async def get_document(name: Literal["card", "benchmark"], documents: The) -> Response:
    """Return the dataset card or the benchmark's page: HTML that runs nothing."""
    path: Path | None = getattr(documents, name)
    try:
        body = path.read_bytes() if path else None
    except OSError:
        body = None
    if body is None:
        raise Refusal(
            404,
            "Http",
            "This service was not given such a page, or it is gone.",
            f"Start it with --{name} FILE.html.",
        )
    headers = {"content-security-policy": DOCUMENT_POLICY, "cache-control": "no-cache"}
    return Response(body, media_type=MEDIA_TYPES[".html"], headers=headers)


@page.get("/review")
async def get_review(request: Request) -> Response:
    """Lead an address of earlier versions to where the review is now."""
    if not hasattr(request.app.state, "review"):
        raise _NOTHING
    return RedirectResponse("/#/review", 308)


@page.get("/")
@page.get("/{_}")
@page.get("/assets/{_}")
async def get_page(request: Request) -> Response:
    """Return a file of the page; only those in the table exist."""
    name = request.url.path.lstrip("/") or "index.html"
    if name not in _table():
        raise _NOTHING
    try:
        body, packed, tag = _file(name)
    except OSError:  # the page was built again while it was served
        raise Refusal(
            503, "Http", "The page has changed.", "Start the service again, then reload."
        ) from None
    headers = {"etag": tag, "cache-control": _FOREVER if "/" in name else "no-cache"}
    headers["vary"] = "accept-encoding"
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if packed and "gzip" in request.headers.get("accept-encoding", ""):
        headers["content-encoding"] = "gzip"
        body = packed
    return Response(body, media_type=MEDIA_TYPES[Path(name).suffix], headers=headers)


@lru_cache(maxsize=1)
def _table() -> dict[str, Traversable]:
    """Return address → file, as the folder is when it is first asked for."""
    folder = files("medfinder.serve").joinpath("static")
    if not folder.joinpath("index.html").is_file():
        raise Refusal(
            503,
            "Http",
            "The page is not built; the API answers all the same.",
            "Install the package again, or run 'python hatch_build.py' in its sources.",
        )
    table = {f.name: f for f in folder.iterdir() if f.is_file()}
    assets = folder.joinpath("assets")
    if assets.is_dir():
        table |= {f"assets/{f.name}": f for f in assets.iterdir() if f.is_file()}
    return {name: f for name, f in table.items() if Path(name).suffix in MEDIA_TYPES}


@lru_cache(maxsize=256)
def _file(name: str) -> tuple[bytes, bytes, str]:
    """Return a file's bytes, the same packed where that helps, and its tag."""
    body = _table()[name].read_bytes()
    packed = gzip.compress(body, 6, mtime=0) if len(body) > 1024 else b""
    if len(packed) > 0.9 * len(body):
        packed = b""
    return body, packed, f'"{hashlib.sha256(body).hexdigest()[:24]}"'
