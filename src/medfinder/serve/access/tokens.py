"""API tokens: ``mf_`` and 32 random bytes, of which only a SHA-256 is stored."""

import hashlib
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sql
from sqlalchemy.engine import Connection

from medfinder.errors import InputError, UnknownName
from medfinder.serve.access.roles import ROLES, Role
from medfinder.serve.database import accounts, new_id, now, tokens

PREFIX = "mf_"
MAX_TOKENS = 100
"""Of one account."""
_TOKEN = re.compile(r"mf_[A-Za-z0-9_-]{43}")
_USED_S = 60.0  # how exactly the last use is known: no write at every request


@dataclass(frozen=True, slots=True)
class Token:
    """What is known of a token; the token itself is told once, to who made it.

    Attributes:
        role: It may do no more than this, whatever its account may.
        created: UTC, ISO 8601, as all times.
        expires: None for never.
        used: To the minute; None for never.
        revoked: None while it is valid.
    """

    token_id: str
    account: str
    name: str
    role: Role
    created: str
    expires: str | None
    used: str | None
    revoked: str | None


def secret_hash(secret: str) -> str:
    """Return what is stored of a random secret: SHA-256 does, as nobody can try 2**256 values."""
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


def add_token(
    connection: Connection, account_id: str, name: str, role: Role, expires_days: float | None
) -> tuple[str, Token]:
    """Make a token; return it, which nobody can do again, and what is known of it.

    Raises:
        InputError: The account has too many (rule ``too-many-tokens``).
    """
    ours = tokens.c.account_id == account_id
    valid = sql.select(sql.func.count()).select_from(tokens).where(ours, tokens.c.revoked.is_(None))
    if connection.execute(valid).scalar_one() >= MAX_TOKENS:
        raise InputError(
            f"The account has {MAX_TOKENS} tokens: expected fewer. Revoke those that are not used.",
            rule="too-many-tokens",
        )
    token = PREFIX + secrets.token_urlsafe(32)
    values = {
        "token_id": new_id(),
        "token_hash": secret_hash(token),
        "account_id": account_id,
        "name": name,
        "role": role,
        "created": now(),
        "expires": None if expires_days is None else now(expires_days * 86400),
        "used": None,
        "revoked": None,
    }
    connection.execute(tokens.insert().values(values))
    return token, list_tokens(connection, token_id=str(values["token_id"]))[0]


def list_tokens(
    connection: Connection, account_id: str | None = None, token_id: str | None = None
) -> list[Token]:
    """Return the tokens of one account, or of all, oldest first."""
    query = sql.select(tokens, accounts.c.name.label("account")).join(accounts)
    if account_id is not None:
        query = query.where(tokens.c.account_id == account_id)
    if token_id is not None:
        query = query.where(tokens.c.token_id == token_id)
    rows = connection.execute(query.order_by(tokens.c.created)).mappings()
    return [Token(**{name: row[name] for name in Token.__slots__}) for row in rows]


def revoke_token(connection: Connection, token_id: str, account_id: str | None = None) -> None:
    """End a token.

    Args:
        account_id: Only if it is this account's.

    Raises:
        UnknownName: There is none (rule ``unknown-token``).
    """
    wanted = [tokens.c.token_id == token_id, tokens.c.revoked.is_(None)]
    if account_id is not None:
        wanted.append(tokens.c.account_id == account_id)
    if connection.execute(tokens.update().where(*wanted).values(revoked=now())).rowcount == 0:
        raise UnknownName(
            "There is no such token: expected the id of one that is valid. List them.",
            rule="unknown-token",
        )


def find_token(connection: Connection, token: str) -> Mapping[Any, Any] | None:
    """Return the row of a valid token's account, with ``token_id``, ``cap`` and ``used``."""
    if not _TOKEN.fullmatch(token):
        return None
    query = (
        sql.select(accounts, tokens.c.token_id, tokens.c.role.label("cap"), tokens.c.used)
        .join(tokens, tokens.c.account_id == accounts.c.account_id)
        .where(
            tokens.c.token_hash == secret_hash(token),
            tokens.c.revoked.is_(None),
            sql.or_(tokens.c.expires.is_(None), tokens.c.expires > now()),
            accounts.c.is_active,
        )
    )
    return connection.execute(query).mappings().first()


def is_use_noted(used: str | None) -> bool:
    """Tell whether the last use is known exactly enough."""
    return used is not None and used > now(-_USED_S)


def note_use(connection: Connection, token_id: str) -> None:
    """Remember that a token is used now."""
    connection.execute(tokens.update().where(tokens.c.token_id == token_id).values(used=now()))


def lower(one: Role, other: Role) -> Role:
    """Return the role that may do less."""
    return min(one, other, key=ROLES.index)
