"""Sessions: a random id in a cookie, of which only a hash is stored, and its protection from CSRF."""

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sql
from sqlalchemy.engine import Connection

from medfinder.serve.access.tokens import secret_hash
from medfinder.serve.database import accounts, now, sessions

COOKIE = "medfinder"
_SEEN_S = 60.0  # how exactly the last use is known: no write at every request


def cookie_name(is_https: bool) -> str:
    """Return the cookie's name: over https one that no other host and no http page can set."""
    return f"__Host-{COOKIE}" if is_https else COOKIE


def add_session(connection: Connection, account_id: str, max_s: float) -> str:
    """Begin a session and return its secret; old ones of everybody are removed."""
    connection.execute(sessions.delete().where(sessions.c.created < now(-max_s)))
    secret = secrets.token_urlsafe(32)
    connection.execute(
        sessions.insert().values(
            session_hash=secret_hash(secret), account_id=account_id, created=now(), seen=now()
        )
    )
    return secret


def find_session(
    connection: Connection, secret: str, idle_s: float, max_s: float
) -> Mapping[Any, Any] | None:
    """Return the row of a valid session's account, with ``session_hash`` and ``seen``."""
    query = (
        sql.select(accounts, sessions.c.session_hash, sessions.c.seen)
        .join(sessions, sessions.c.account_id == accounts.c.account_id)
        .where(
            sessions.c.session_hash == secret_hash(secret),
            sessions.c.created > now(-max_s),
            sessions.c.seen > now(-idle_s),
            accounts.c.is_active,
        )
    )
    return connection.execute(query).mappings().first()


def is_seen(seen: str, idle_s: float) -> bool:
    """Tell whether the last use is known exactly enough."""
    return seen > now(-min(_SEEN_S, idle_s / 10))


def note_seen(connection: Connection, session_hash: str) -> None:
    """Remember that a session is used now."""
    ours = sessions.c.session_hash == session_hash
    connection.execute(sessions.update().where(ours).values(seen=now()))


def end_session(connection: Connection, session_hash: str) -> None:
    """End a session."""
    connection.execute(sessions.delete().where(sessions.c.session_hash == session_hash))


def csrf_token(secret: str) -> str:
    """Return what a page must repeat in a header: only who reads this session's answers knows it."""
    return hmac.new(secret.encode(), b"medfinder csrf", hashlib.sha256).hexdigest()


def is_csrf_token(given: str, expected: str) -> bool:
    """Compare in a time that tells nothing."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode())
