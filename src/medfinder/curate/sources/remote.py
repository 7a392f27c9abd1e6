"""A server that stalls, refuses or talks of something else → tried again, or named.

What a PACS and a FHIR server have in common: how an address and its credentials are given, which
answers another try may pass, and how long to wait before it. Knows neither DICOM nor FHIR.
"""

import base64
import email.utils
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar
from urllib.parse import urlsplit

from medfinder.errors import ConfigError, InputError

T = TypeVar("T")

#: Codes of HTTP that say "not now": timeouts, too many requests, and a server's own failures.
_PASSING = frozenset((408, 425, 429, 500, 502, 503, 504, 507, 509))


@dataclass(frozen=True, slots=True)
class Patience:
    """How often and how long a server is asked.

    Attributes:
        tries: Most attempts of one request, the first included.
        wait_s: Before the second attempt; doubled before each one after it.
        longest_wait_s: No wait is longer, whatever the server asks for in Retry-After.
        timeout_s: Longest silence within an answer.
    """

    tries: int = 5
    wait_s: float = 1.0
    longest_wait_s: float = 60.0
    timeout_s: float = 60.0

    def __post_init__(self) -> None:
        if self.tries < 1 or min(self.wait_s, self.longest_wait_s) < 0 or self.timeout_s <= 0:
            raise ConfigError(
                "The patience with a server is out of range: expected tries >= 1, waits >= 0 and a "
                f"timeout > 0, got tries={self.tries}, waits of {self.wait_s:g} to "
                f"{self.longest_wait_s:g} s and a timeout of {self.timeout_s:g} s."
            )

    def wait(self, n_failed: int, asked_s: float | None) -> float:
        """Return the seconds to wait after `n_failed` attempts, `asked_s` being Retry-After."""
        doubled = self.wait_s * 2.0 ** min(n_failed - 1, 30)
        return float(min(max(doubled, asked_s or 0.0), self.longest_wait_s))


class Stalled(Exception):
    """A request failed in a way that another attempt may not.

    Attributes:
        after_s: How long the server asks to wait; None when it does not say.
    """

    def __init__(self, reason: str, after_s: float | None = None) -> None:
        super().__init__(reason)
        self.after_s = after_s


class Refused(Exception):
    """A request failed in a way that another attempt does not change.

    Attributes:
        status: Code of HTTP; 0 where the answer's form was wrong.
    """

    def __init__(self, reason: str, status: int = 0) -> None:
        super().__init__(reason)
        self.status = status


def patiently(call: Callable[[], T], patience: Patience) -> T:
    """Return what `call` returns, calling again while it stalls.

    Raises:
        Stalled: It stalled on every attempt.
        Refused: At once, as `call` raised it.
    """
    for n_failed in range(1, patience.tries + 1):
        try:
            return call()
        except Stalled as stalled:
            if n_failed == patience.tries:
                raise
            time.sleep(patience.wait(n_failed, stalled.after_s))
    raise AssertionError("unreachable")


def check_status(status: int, headers: Mapping[str, str]) -> None:
    """Sort an answer by its code.

    Raises:
        Stalled: The code says that it may pass.
        Refused: The code says that it will not.
    """
    if 200 <= status < 300:
        return
    if status in _PASSING:
        raise Stalled(f"it answered {status}", retry_after(headers.get("Retry-After")))
    raise Refused(f"it answered {status}", status)


def retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Return the seconds that a Retry-After field asks for; None when it is absent or garbled.

    Source:
        RFC 9110 section 10.2.3: seconds, or a date.
    """
    text = (value or "").strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    try:
        then = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    if then.tzinfo is None:
        then = then.replace(tzinfo=UTC)
    return max(0.0, (then - (now or datetime.now(UTC))).total_seconds())


def check_address(url: str, what: str, prefix: str) -> str:
    """Return the address without its last slash, if it is one that may be asked and shown.

    Args:
        what: Names the server in messages, such as ``"PACS"``.
        prefix: Of the environment variables for credentials, such as ``"MEDFINDER_PACS"``.

    Raises:
        InputError: Rule ``bad-address``: not http or https, no host, or a password in it.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port  # a port that is no number is only noticed when asked for
    except ValueError:
        parts = urlsplit("")
    if parts.username is not None or parts.password is not None:
        raise InputError(
            f"The address of the {what} holds a user name or a password, which logs and other "
            f"users of this machine can read. Take it out, and set {prefix}_USER and "
            f"{prefix}_PASSWORD in the environment, or {prefix}_TOKEN.",
            rule="bad-address",
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(
            f"The address of the {what} cannot be used: expected http://host or https://host with "
            "a port and a path where it has them. Check it.",
            rule="bad-address",
        )
    return url.rstrip("/")


def shown(url: str) -> str:
    """Return scheme, host and port alone: a path or query may name a patient."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port else "")


def authorization(prefix: str) -> str | None:
    """Return the value of the Authorization header that the environment gives; None without one.

    ``{prefix}_TOKEN`` is a bearer token; ``{prefix}_USER`` and ``{prefix}_PASSWORD`` are basic
    credentials. The token wins where both are set.

    Raises:
        ConfigError: A user without a password, or a token that no header can hold.
    """
    token = os.environ.get(f"{prefix}_TOKEN", "").strip()
    if token:
        if not (token.isascii() and token.isprintable()) or " " in token:
            raise ConfigError(
                f"The token in {prefix}_TOKEN cannot be sent: expected printable ASCII without "
                "blanks, got other characters. Copy it again."
            )
        return f"Bearer {token}"
    user, password = os.environ.get(f"{prefix}_USER"), os.environ.get(f"{prefix}_PASSWORD")
    if not user and not password:
        return None
    if not user or password is None:
        raise ConfigError(
            f"Basic credentials are incomplete: expected both {prefix}_USER and "
            f"{prefix}_PASSWORD in the environment, got one. Set the other."
        )
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
