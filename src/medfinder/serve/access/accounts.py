"""Accounts: a name, a role, the sources it is confined to, and perhaps a password."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sql
from sqlalchemy.engine import Connection

from medfinder.errors import InputError, UnknownName
from medfinder.serve.access.roles import LOCAL, ROLES, Role
from medfinder.serve.database import (
    accounts,
    collection_shares,
    collections,
    new_id,
    now,
    saved_searches,
    sessions,
)

_NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}")
_RESERVED = frozenset({"local", "nobody", "system"})
MAX_SOURCES = 100


@dataclass(frozen=True, slots=True)
class Account:
    """One account.

    Attributes:
        account_id: What everything else refers to; a name given again is another account.
        name: Lower case.
        sources: Values of the index's column ``source``; None for all.
        is_active: Whether it may sign in.
        has_password: Whether it signs in by itself, not by an identity provider alone.
        created: UTC, ISO 8601.
    """

    account_id: str
    name: str
    role: Role
    sources: tuple[str, ...] | None
    is_active: bool
    has_password: bool
    created: str


def account_name(name: str) -> str:
    """Return a name as it is stored.

    Raises:
        InputError: It is none (rule ``bad-name``).
    """
    name = name.strip().lower()
    if not _NAME.fullmatch(name) or name in _RESERVED:
        raise InputError(
            "The account's name cannot be used: expected 1 to 64 of the characters a-z, 0-9, "
            f"'.', '_', '@' and '-', and none of {', '.join(sorted(_RESERVED))}. Choose another.",
            rule="bad-name",
        )
    return name


def check_sources(sources: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return sources as they are stored.

    Raises:
        InputError: There are too many, or one is empty or too long (rule ``bad-sources``).
    """
    if sources is None:
        return None
    if len(sources) > MAX_SOURCES or not all(0 < len(source) <= 200 for source in sources):
        raise InputError(
            f"The sources cannot be used: expected at most {MAX_SOURCES}, each of 1 to 200 "
            "characters. Take them from the facet 'source'.",
            rule="bad-sources",
        )
    return tuple(dict.fromkeys(sources))


def add_account(
    connection: Connection,
    name: str,
    role: Role,
    sources: Sequence[str] | None = None,
    password_hash: str | None = None,
    subject: str | None = None,
) -> Account:
    """Add an account.

    Args:
        subject: By which an identity provider knows it.

    Raises:
        InputError: The name cannot be used or is taken (rules ``bad-name``, ``account-exists``).
    """
    name = account_name(name)
    query = sql.select(accounts.c.account_id).where(accounts.c.name == name)
    if connection.execute(query).first() is not None:
        raise InputError(
            f"There is an account {name!r} already: expected a name that is free. Choose another, or "
            "change that account.",
            rule="account-exists",
        )
    kept = check_sources(sources)
    values = {
        "account_id": new_id(),
        "name": name,
        "password": password_hash,
        "role": _role(role),
        "sources": None if kept is None else json.dumps(kept),
        "is_active": True,
        "subject": subject,
        "created": now(),
    }
    connection.execute(accounts.insert().values(values))
    return account_of(values)


def list_accounts(connection: Connection) -> list[Account]:
    """Return all accounts by name."""
    rows = connection.execute(accounts.select().order_by(accounts.c.name)).mappings()
    return [account_of(row) for row in rows]


def find_account(connection: Connection, name: str) -> Account:
    """Return an account.

    Raises:
        UnknownName: There is none (rule ``unknown-account``).
    """
    return account_of(find_row(connection, name))


def find_row(connection: Connection, name: str) -> Mapping[Any, Any]:
    """Return an account's row, its password's hash with it.

    Raises:
        UnknownName: There is none (rule ``unknown-account``).
    """
    query = accounts.select().where(accounts.c.name == name.strip().lower()[:80])
    row = connection.execute(query).mappings().first()
    if row is None:
        raise UnknownName(
            "There is no account of this name: expected one that 'medfinder account list' shows. "
            "Check the name.",
            rule="unknown-account",
        )
    return row


def change_account(connection: Connection, name: str, **changes: Any) -> Account:
    """Change `role`, `sources`, `is_active` or `password` (its hash) of an account.

    Whoever may no longer sign in, or has another password, is signed out everywhere.

    Raises:
        UnknownName: There is no such account.
        InputError: No active administrator would be left (rule ``last-admin``).
    """
    row = find_row(connection, name)
    if "sources" in changes:
        kept = check_sources(changes["sources"])
        changes["sources"] = None if kept is None else json.dumps(kept)
    if "role" in changes:
        _role(changes["role"])
    if changes.get("role", "admin") != "admin" or changes.get("is_active") is False:
        _keep_an_admin(connection, row)
    of_it = accounts.c.account_id == row["account_id"]
    if changes:
        connection.execute(accounts.update().where(of_it).values(**changes))
    if "password" in changes or changes.get("is_active") is False:
        end_sessions(connection, row["account_id"])
    return find_account(connection, name)


def remove_account(connection: Connection, name: str, give_to: str | None = None) -> None:
    """Remove an account with its sessions, tokens, shares and saved searches.

    ``"local"``, who has no account, is removed by giving away what was made without a sign-in.

    Args:
        give_to: Account that gets its collections.

    Raises:
        UnknownName: There is no such account.
        InputError: It is the last active administrator (rule ``last-admin``), or has collections
            that nobody gets (rule ``has-collections``).
    """
    is_local = name.strip().lower() == LOCAL.name and give_to is not None
    row = {"account_id": LOCAL.account_id} if is_local else find_row(connection, name)
    if not is_local:
        _keep_an_admin(connection, row)
    of_it = collections.c.owner_id == row["account_id"]
    if give_to is not None:
        heir = find_row(connection, give_to)["account_id"]
        if heir == row["account_id"]:
            raise _has_collections()
        owned = sql.select(collections.c.collection_id).where(of_it)
        connection.execute(
            collection_shares.delete().where(
                collection_shares.c.account_id == heir,
                collection_shares.c.collection_id.in_(owned),
            )
        )
        connection.execute(collections.update().where(of_it).values(owner_id=heir))
    elif connection.execute(sql.select(collections.c.collection_id).where(of_it)).first():
        raise _has_collections()
    owned_searches = saved_searches.c.owner_id == row["account_id"]
    connection.execute(saved_searches.delete().where(owned_searches))
    connection.execute(accounts.delete().where(accounts.c.account_id == row["account_id"]))


def end_sessions(connection: Connection, account_id: str, but: str = "") -> None:
    """Sign an account out everywhere, but in one session."""
    connection.execute(
        sessions.delete().where(sessions.c.account_id == account_id, sessions.c.session_hash != but)
    )


def account_of(row: Mapping[Any, Any]) -> Account:
    """Return a row as an account."""
    return Account(
        account_id=row["account_id"],
        name=row["name"],
        role=row["role"],
        sources=None if row["sources"] is None else tuple(json.loads(row["sources"])),
        is_active=bool(row["is_active"]),
        has_password=row["password"] is not None,
        created=row["created"],
    )


def _role(role: str) -> str:
    if role not in ROLES:
        raise InputError(
            f"There is no such role: expected one of {', '.join(ROLES)}. Choose one.",
            rule="bad-role",
        )
    return role


def _keep_an_admin(connection: Connection, row: Mapping[Any, Any]) -> None:
    if row["role"] != "admin" or not row["is_active"]:
        return
    others = sql.select(accounts.c.account_id).where(
        accounts.c.role == "admin",
        accounts.c.is_active,
        accounts.c.account_id != row["account_id"],
    )
    if connection.dialect.name == "postgresql":  # two administrators who remove each other
        connection.execute(sql.text("LOCK TABLE accounts IN SHARE ROW EXCLUSIVE MODE"))
    if connection.execute(others).first() is None:
        raise InputError(
            "This is the last active administrator: expected one to be left. Make another account "
            "an administrator first.",
            rule="last-admin",
        )


def _has_collections() -> InputError:
    return InputError(
        "The account has collections: expected another account that gets them. Name it, or delete "
        "them first.",
        rule="has-collections",
    )
