"""One table: error → HTTP status and hint. Every answer that is not a result is made here.

The body is ``{"error": {"type", "message", "hint"}, "request_id"}``. It never holds a path, nor a
sentence or a report that was sent. A short name that is unknown (a keyword, a column of a filter, a
window) is repeated to whoever sent it, so that it can be corrected; no log has it.
"""

from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from medfinder.errors import (
    ArtifactError,
    EmptyReport,
    GeometryError,
    Incomplete,
    InputError,
    MedFinderError,
    Mismatch,
    MissingExtra,
    UnknownName,
    UnreadableVolume,
)

API = "The request format is described at /v1/openapi.json."

FAULTS: dict[type[MedFinderError], tuple[int, str]] = {
    UnreadableVolume: (
        422,
        "Send one CT: a NIfTI file, or a zip with the DICOM files of a series.",
    ),
    GeometryError: (
        422,
        "Send a CT whose slices lie at regular distances, as the scanner made it.",
    ),
    EmptyReport: (422, "Paste the report's text."),
    UnknownName: (422, "The message names what is known; /v1/findings lists the findings."),
    InputError: (422, API),
    Incomplete: (503, "Finish or repeat 'medfinder index', then try again."),
    Mismatch: (503, "Build the index again with the encoder that is installed."),
    ArtifactError: (503, "Ask whoever runs this service to look at its index."),
    MissingExtra: (501, "Ask whoever runs this service to install what the message names."),
    MedFinderError: (400, API),
}
"""The nearest class in an error's ancestry decides."""

RULES: dict[str, tuple[int, str]] = {
    "unknown-account": (404, "Take names from /v1/accounts."),
    "unknown-token": (404, "Take ids from /v1/tokens."),
    "unknown-collection": (404, "Take ids from /v1/collections."),
    "unknown-search": (404, "Take ids from /v1/saved-searches."),
    "no-permission": (403, "Ask its owner to share it to write."),
    "account-exists": (409, "Choose another name, or change that account."),
    "last-admin": (409, "Make another account an administrator first."),
    "has-collections": (409, "Name who gets them: ?give_to=NAME."),
    "too-many-tokens": (409, "Revoke tokens that are not used."),
    "too-many-kept": (409, "Delete what is no longer needed."),
    "no-explanation": (422, "Ask without an explanation, or index with the encoder 'medfinder'."),
    "no-volumes": (422, "Ask in words, or index with an encoder of volumes."),
    "empty-region": (422, "Draw a larger region, on the chest."),
    "unknown-study": (404, "Take ids from /v1/review/items."),
    "settled": (409, "Reopen it with a reason, if it must change."),
    "not-settled": (409, "Decide on it; /v1/review/items tells the state."),
    "changed-source": (409, "Load the study again and look at what it is now."),
    "taken": (409, "Take the next study of the queue."),
    "no-reader": (422, "Send the reader's name in the header X-Reader, percent-encoded."),
    "bad-reader": (422, "Send the reader's name in the header X-Reader, percent-encoded."),
}
"""An input error's rule decides before its class, where it is here."""

INDEX_IS_GONE = "The index cannot be read: expected a finished index folder."


class Refusal(HTTPException):
    """An answer that the service itself gives, with its own status.

    It is an `HTTPException` so that it also passes through the multipart parser.

    Args:
        status: HTTP status, 4xx or 503.
        type: As in the body: a name of `medfinder.errors`, or of the rule.
        message: What is wrong and what was expected.
        hint: What to do.
    """

    def __init__(
        self,
        status: int,
        type: str,
        message: str,
        hint: str,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, headers)
        self.type = type
        self.hint = hint


def answer(error: Exception, request_id: str) -> JSONResponse:
    """Return the response for any exception; one that is in no table says nothing of its cause."""
    headers: dict[str, str] = {}
    if isinstance(error, Refusal):
        status, kind, message, hint = error.status_code, error.type, error.detail, error.hint
        headers = dict(error.headers or {})
    elif isinstance(error, HTTPException):
        status, kind, message = error.status_code, "Http", str(error.detail)
        hint = API
        headers = dict(error.headers or {})
    elif isinstance(error, RequestValidationError):
        status, kind, hint = 422, "InputError", API
        message = "; ".join(_field(e) for e in error.errors()[:5])
    elif isinstance(error, MedFinderError):
        nearest = next(c for c in type(error).__mro__ if c in FAULTS)
        status, hint = RULES.get(getattr(error, "rule", ""), FAULTS[nearest])
        kind = type(error).__name__
        # Messages of these classes may name the index's folder.
        message = INDEX_IS_GONE if issubclass(nearest, ArtifactError) else str(error)
    else:
        status, kind = 500, "Internal"
        message = "Something failed inside the service."
        hint = "Try again; if it stays so, report the request id."
    body = {
        "error": {"type": kind, "message": message, "hint": hint},
        "request_id": request_id,
    }
    return JSONResponse(body, status, headers)


def _field(error: dict[str, Any]) -> str:
    """Say which field is wrong, without what was in it."""
    where = ".".join(str(p) for p in error["loc"] if p != "body") or "the body"
    if error["type"] == "extra_forbidden":
        return f"{where} is no field of this request"
    if error["type"] == "json_invalid":
        return "the body is not JSON"
    return f"{where}: {error['msg']}"
