"""The page: the files that the browser loads."""

import hashlib
from functools import lru_cache
from importlib.resources import files

from fastapi import APIRouter, Request
from starlette.responses import Response

from medfinder.serve.faults import Refusal

page = APIRouter(include_in_schema=False)

_STATIC = {
    "": ("index.html", "text/html; charset=utf-8"),
    "app.js": ("app.js", "text/javascript; charset=utf-8"),
    "viewer.js": ("viewer.js", "text/javascript; charset=utf-8"),
    "archive.js": ("archive.js", "text/javascript; charset=utf-8"),
    "api.js": ("api.js", "text/javascript; charset=utf-8"),
    "style.css": ("style.css", "text/css; charset=utf-8"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
}


@page.get("/")
@page.get("/{name}")
async def get_page(request: Request, name: str = "") -> Response:
    """Return a file of the page; only those in the table exist."""
    if name not in _STATIC:
        raise Refusal(404, "Http", "There is nothing at this address.", "The page is at /.")
    return static_file(request, *_STATIC[name])


def static_file(request: Request, file: str, media_type: str) -> Response:
    """Return a packaged file, or that the browser's copy of it is current."""
    body, tag = _static(file)
    headers = {"etag": tag, "cache-control": "no-cache"}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(body, media_type=media_type, headers=headers)


@lru_cache(maxsize=32)
def _static(file: str) -> tuple[bytes, str]:
    body = files("medfinder.serve").joinpath("static", file).read_bytes()
    return body, f'"{hashlib.sha256(body).hexdigest()[:24]}"'
