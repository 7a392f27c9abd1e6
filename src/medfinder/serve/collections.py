"""Collections of studies with notes, who may see and change them, and saved searches."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sql
from sqlalchemy.engine import Connection

from medfinder.errors import InputError, UnknownName
from medfinder.serve.access.accounts import find_account
from medfinder.serve.database import (
    accounts,
    collection_shares,
    collection_studies,
    collections,
    new_id,
    now,
    saved_searches,
)

Permission = Literal["read", "write", "owner"]
PERMISSIONS: tuple[Permission, ...] = ("read", "write", "owner")
MAX_COLLECTIONS = 500
"""Of one account; as many searches."""
MAX_STUDIES = 2000
"""Of one collection."""
MAX_QUERY_BYTES = 8192


@dataclass(frozen=True, slots=True)
class Collection:
    """A collection, as an account sees it.

    Attributes:
        owner: Name of its owner; ``"local"`` where nobody signs in.
        permission: Of who asks.
        study_ids: In the order in which they were added.
        created: UTC, ISO 8601, as `changed`.
    """

    collection_id: str
    name: str
    description: str
    owner: str
    permission: Permission
    study_ids: tuple[str, ...]
    created: str
    changed: str


@dataclass(frozen=True, slots=True)
class Kept:
    """A study in a collection."""

    study_id: str
    note: str
    added: str


@dataclass(frozen=True, slots=True)
class SavedSearch:
    """A search that an account keeps; `query` is as the page sends it."""

    search_id: str
    name: str
    query: dict[str, Any]
    created: str


def list_collections(connection: Connection, account_id: str) -> list[Collection]:
    """Return what an account owns or is shared with, the latest change first."""
    mine = sql.select(collection_shares.c.collection_id).where(
        collection_shares.c.account_id == account_id
    )
    query = collections.select().where(
        sql.or_(collections.c.owner_id == account_id, collections.c.collection_id.in_(mine))
    )
    rows = connection.execute(
        query.order_by(collections.c.changed.desc(), collections.c.collection_id)
    ).mappings()
    return [_collection(connection, row, account_id) for row in rows.all()]


def find_collection(
    connection: Connection, collection_id: str, account_id: str, needed: Permission = "read"
) -> Collection:
    """Return a collection that an account may see.

    Raises:
        UnknownName: There is none that it may see (rule ``unknown-collection``).
        InputError: It may see it, but not do what needs `needed` (rule ``no-permission``).
    """
    query = collections.select().where(collections.c.collection_id == collection_id[:64])
    row = connection.execute(query).mappings().first()
    found = None if row is None else _collection(connection, row, account_id)
    if found is None or found.permission not in PERMISSIONS:
        raise UnknownName(
            "There is no such collection: expected one of yours, or one that is shared with you. "
            "List them.",
            rule="unknown-collection",
        )
    if PERMISSIONS.index(found.permission) < PERMISSIONS.index(needed):
        raise InputError(
            f"The collection is shared with you to {found.permission}: expected the permission "
            f"{needed}. Ask {found.owner}.",
            rule="no-permission",
        )
    return found


def add_collection(
    connection: Connection, account_id: str, name: str, description: str
) -> Collection:
    """Make a collection.

    Raises:
        InputError: There are too many (rule ``too-many-kept``).
    """
    _check_room(connection, collections, account_id)
    at = now()
    values = {
        "collection_id": new_id(),
        "owner_id": account_id,
        "name": name,
        "description": description,
        "created": at,
        "changed": at,
    }
    connection.execute(collections.insert().values(values))
    return find_collection(connection, str(values["collection_id"]), account_id)


def change_collection(
    connection: Connection, collection_id: str, account_id: str, **changes: str
) -> Collection:
    """Change `name` or `description`.

    Raises:
        UnknownName: As `find_collection`.
        InputError: As `find_collection`.
    """
    find_collection(connection, collection_id, account_id, "write")
    _touch(connection, collection_id, **changes)
    return find_collection(connection, collection_id, account_id)


def remove_collection(connection: Connection, collection_id: str, account_id: str) -> None:
    """Remove a collection, its notes and shares.

    Raises:
        UnknownName: As `find_collection`.
        InputError: As `find_collection`.
    """
    find_collection(connection, collection_id, account_id, "owner")
    connection.execute(collections.delete().where(collections.c.collection_id == collection_id))


def kept_studies(connection: Connection, collection_id: str) -> list[Kept]:
    """Return a collection's studies in the order in which they were added."""
    query = (
        sql.select(
            collection_studies.c.study_id, collection_studies.c.note, collection_studies.c.added
        )
        .where(collection_studies.c.collection_id == collection_id)
        .order_by(collection_studies.c.added, collection_studies.c.study_id)
    )
    return [Kept(*row) for row in connection.execute(query)]


def put_study(
    connection: Connection, collection_id: str, account_id: str, study_id: str, note: str
) -> None:
    """Add a study, or change its note.

    Raises:
        UnknownName: As `find_collection`.
        InputError: As `find_collection`, or there are too many (rule ``too-many-kept``).
    """
    found = find_collection(connection, collection_id, account_id, "write")
    is_it = _is_study(collection_id, study_id)
    if study_id in found.study_ids:
        connection.execute(collection_studies.update().where(is_it).values(note=note))
    else:
        if len(found.study_ids) >= MAX_STUDIES:
            raise _too_many("studies in this collection", MAX_STUDIES)
        connection.execute(
            collection_studies.insert().values(
                collection_id=collection_id, study_id=study_id, note=note, added=now()
            )
        )
    _touch(connection, collection_id)


def take_study(connection: Connection, collection_id: str, account_id: str, study_id: str) -> None:
    """Take a study out; one that is not in it is out already.

    Raises:
        UnknownName: As `find_collection`.
        InputError: As `find_collection`.
    """
    find_collection(connection, collection_id, account_id, "write")
    connection.execute(collection_studies.delete().where(_is_study(collection_id, study_id)))
    _touch(connection, collection_id)


def list_shares(connection: Connection, collection_id: str) -> dict[str, str]:
    """Return account's name → permission."""
    query = (
        sql.select(accounts.c.name, collection_shares.c.permission)
        .join(accounts, accounts.c.account_id == collection_shares.c.account_id)
        .where(collection_shares.c.collection_id == collection_id)
        .order_by(accounts.c.name)
    )
    return {row.name: row.permission for row in connection.execute(query)}


def put_share(
    connection: Connection, collection_id: str, account_id: str, name: str, permission: str
) -> None:
    """Share a collection with an account, or share it otherwise.

    Raises:
        UnknownName: As `find_collection`, or there is no such account (rule ``unknown-account``).
        InputError: As `find_collection`, or it is its owner (rule ``own-share``).
    """
    find_collection(connection, collection_id, account_id, "owner")
    other = find_account(connection, name).account_id
    if other == account_id:
        raise InputError(
            "The collection is your own: expected somebody else. Share it with another account.",
            rule="own-share",
        )
    connection.execute(collection_shares.delete().where(_is_share(collection_id, other)))
    connection.execute(
        collection_shares.insert().values(
            collection_id=collection_id, account_id=other, permission=permission
        )
    )
    _touch(connection, collection_id)


def take_share(connection: Connection, collection_id: str, account_id: str, name: str) -> None:
    """End a share; its owner ends any, everybody their own.

    Raises:
        UnknownName: As `put_share`.
        InputError: As `find_collection`.
    """
    find_collection(connection, collection_id, account_id)
    other = find_account(connection, name).account_id
    if other != account_id:
        find_collection(connection, collection_id, account_id, "owner")
    connection.execute(collection_shares.delete().where(_is_share(collection_id, other)))


def list_searches(connection: Connection, account_id: str) -> list[SavedSearch]:
    """Return an account's saved searches, the latest first."""
    query = saved_searches.select().where(saved_searches.c.owner_id == account_id)
    rows = connection.execute(query.order_by(saved_searches.c.created.desc())).mappings()
    return [_search(row) for row in rows]


def add_search(
    connection: Connection, account_id: str, name: str, query: Mapping[str, Any]
) -> SavedSearch:
    """Keep a search.

    Raises:
        InputError: It is too long (rule ``long-query``), or there are too many (rule
            ``too-many-kept``).
    """
    text = json.dumps(query, separators=(",", ":"))
    if len(text) > MAX_QUERY_BYTES:
        raise InputError(
            f"The search is too long to be kept: expected at most {MAX_QUERY_BYTES} bytes, got "
            f"{len(text)}. Keep one without a pasted report.",
            rule="long-query",
        )
    _check_room(connection, saved_searches, account_id)
    values = {
        "search_id": new_id(),
        "owner_id": account_id,
        "name": name,
        "query": text,
        "created": now(),
    }
    connection.execute(saved_searches.insert().values(values))
    return _search(values)


def remove_search(connection: Connection, account_id: str, search_id: str) -> None:
    """Forget a saved search.

    Raises:
        UnknownName: The account has none of this id (rule ``unknown-search``).
    """
    gone = connection.execute(
        saved_searches.delete().where(
            saved_searches.c.owner_id == account_id, saved_searches.c.search_id == search_id[:64]
        )
    )
    if gone.rowcount == 0:
        raise UnknownName(
            "There is no such saved search: expected one of yours. List them.",
            rule="unknown-search",
        )


def _collection(connection: Connection, row: Mapping[Any, Any], account_id: str) -> Collection:
    collection_id, owner_id = row["collection_id"], row["owner_id"]
    of_share = sql.select(collection_shares.c.permission).where(
        _is_share(collection_id, account_id)
    )
    permission: Any = "owner" if owner_id == account_id else connection.execute(of_share).scalar()
    of_owner = sql.select(accounts.c.name).where(accounts.c.account_id == owner_id)
    ids = [kept.study_id for kept in kept_studies(connection, collection_id)]
    return Collection(
        collection_id=collection_id,
        name=row["name"],
        description=row["description"],
        owner=connection.execute(of_owner).scalar() or owner_id,
        permission=permission,
        study_ids=tuple(ids),
        created=row["created"],
        changed=row["changed"],
    )


def _touch(connection: Connection, collection_id: str, **changes: str) -> None:
    ours = collections.c.collection_id == collection_id
    connection.execute(collections.update().where(ours).values(**changes, changed=now()))


def _is_study(collection_id: str, study_id: str) -> Any:
    return (collection_studies.c.collection_id == collection_id) & (
        collection_studies.c.study_id == study_id
    )


def _is_share(collection_id: str, account_id: str) -> Any:
    return (collection_shares.c.collection_id == collection_id) & (
        collection_shares.c.account_id == account_id
    )


def _check_room(connection: Connection, table: sql.Table, account_id: str) -> None:
    query = sql.select(sql.func.count()).select_from(table).where(table.c.owner_id == account_id)
    if connection.execute(query).scalar_one() >= MAX_COLLECTIONS:
        raise _too_many("collections or searches of this account", MAX_COLLECTIONS)


def _too_many(what: str, most: int) -> InputError:
    return InputError(
        f"There are too many {what}: expected at most {most}. Remove what is no longer needed.",
        rule="too-many-kept",
    )


def _search(row: Mapping[Any, Any]) -> SavedSearch:
    return SavedSearch(row["search_id"], row["name"], json.loads(row["query"]), row["created"])
