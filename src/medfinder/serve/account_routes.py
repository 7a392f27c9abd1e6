"""Accounts, API tokens and the audit log: ``/v1/accounts``, ``/v1/tokens``, ``/v1/audit``."""

from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated

from fastapi import Depends, Query, Request
from pydantic import BaseModel, Field
from sqlalchemy.engine import Connection
from starlette.responses import Response, StreamingResponse

from medfinder.serve.access.accounts import (
    Account,
    add_account,
    change_account,
    find_account,
    list_accounts,
    remove_account,
)
from medfinder.serve.access.roles import ROLES, Identity, Role, guarded, needs
from medfinder.serve.access.tokens import Token, add_token, list_tokens, revoke_token
from medfinder.serve.audit import Anchor, AuditLog, Entry
from medfinder.serve.faults import Refusal
from medfinder.serve.schemas import Strict
from medfinder.serve.service import ERRORS, Trail
from medfinder.serve.session_routes import TheGate, Who

api = guarded("viewer", prefix="/v1", responses=ERRORS)
TAGS = [
    {"name": "accounts", "description": "Who may use the service, and tokens for programs."},
    {"name": "audit", "description": "Who searched and saw what."},
]
Name = Annotated[str, Field(min_length=1, max_length=80)]
Sources = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=200)]], Field(max_length=100)
]
Password = Annotated[str, Field(min_length=1, max_length=1024)]


class NewAccount(Strict):
    """An account to add; without a password it signs in at an identity provider, or by tokens."""

    name: Name
    role: Role = "viewer"
    sources: Sources | None = None
    password: Password | None = None


class AccountChange(Strict):
    """What to change; what is left out stays. `sources` null lifts a confinement."""

    role: Role | None = None
    sources: Sources | None = None
    is_active: bool | None = None
    password: Password | None = None


class AccountOut(BaseModel):
    """An account."""

    name: str
    role: Role
    sources: list[str] | None
    is_active: bool
    has_password: bool
    created: str


class AccountsResponse(BaseModel):
    """All accounts, by name."""

    accounts: list[AccountOut]


class NewToken(Strict):
    """A token to make; it may do no more than its role, nor than its account may."""

    name: Name
    role: Role = "viewer"
    expires_days: float = Field(default=90, gt=0, le=36600)


class TokenOut(BaseModel):
    """What is known of a token; times are UTC."""

    token_id: str
    account: str
    name: str
    role: Role
    created: str
    expires: str | None
    used: str | None
    revoked: str | None


class TokenMade(TokenOut):
    """A new token: `token` is told this once."""

    token: str


class TokensResponse(BaseModel):
    """Tokens, oldest first."""

    tokens: list[TokenOut]


class Done(BaseModel):
    """It is done."""

    done: bool = True


class EntryOut(BaseModel):
    """An entry of the audit log."""

    seq: int
    at: str
    account: str
    action: str
    objects: list[str]
    request_id: str
    previous: str
    hash: str


class AuditResponse(BaseModel):
    """Entries, newest first, and how many there are."""

    entries: list[EntryOut]
    n_entries: int


class VerdictOut(BaseModel):
    """Whether the log is as it was written; keep `last` elsewhere, as the next anchor."""

    is_intact: bool
    n_entries: int
    first_bad: int | None
    last: str | None


async def _log(request: Request) -> AuditLog:
    log: AuditLog | None = request.app.state.audit
    if log is None:
        raise Refusal(
            501,
            "NoDatabase",
            "This service keeps no audit log: its database could not be opened.",
            "Ask whoever runs it to name a place that can be written.",
        )
    return log


TheLog = Annotated[AuditLog, Depends(_log)]
_admin = [needs("admin")]


@api.get("/accounts", tags=["accounts"], operation_id="get_accounts", dependencies=_admin)
async def get_accounts(gate: TheGate) -> AccountsResponse:
    """Return all accounts."""
    found = await gate.database.reading(list_accounts)
    return AccountsResponse(accounts=[_account_out(a) for a in found])


@api.post("/accounts", tags=["accounts"], operation_id="add_account", dependencies=_admin)
async def post_account(given: NewAccount, gate: TheGate, trail: Trail) -> AccountOut:
    """Add an account."""
    hashed = None if given.password is None else await gate.hash(given.password, given.name)
    made = await gate.database.writing(
        lambda c: add_account(c, given.name, given.role, given.sources, hashed)
    )
    trail.append(made.name)
    return _account_out(made)


@api.patch(
    "/accounts/{account}", tags=["accounts"], operation_id="change_account", dependencies=_admin
)
async def patch_account(account: str, given: AccountChange, gate: TheGate) -> AccountOut:
    """Change an account; who may no longer sign in is signed out."""
    changes = {
        name: getattr(given, name)
        for name in given.model_fields_set
        if getattr(given, name) is not None or name == "sources"
    }
    if "password" in changes:
        changes["password"] = await gate.hash(changes["password"], account)
    made = await gate.database.writing(partial(change_account, name=account, **changes))
    return _account_out(made)


@api.delete(
    "/accounts/{account}", tags=["accounts"], operation_id="remove_account", dependencies=_admin
)
async def delete_account(
    account: str,
    gate: TheGate,
    give_to: Annotated[
        str | None, Query(max_length=80, description="Account that gets its collections.")
    ] = None,
) -> Done:
    """Remove an account with its sessions, tokens, shares and saved searches."""
    await gate.database.writing(lambda c: remove_account(c, account, give_to))
    return Done()


@api.get("/tokens", tags=["accounts"], operation_id="get_tokens")
async def get_tokens(
    gate: TheGate,
    who: Who,
    account: Annotated[
        str | None, Query(max_length=80, description="For administrators: whose.")
    ] = None,
) -> TokensResponse:
    """Return one's own tokens, valid or not."""
    if account is not None and account != who.name and not who.may("admin"):
        raise _not_yours()

    def listing(connection: Connection) -> list[Token]:
        own = who.account_id
        whose = own if account is None else find_account(connection, account).account_id
        return list_tokens(connection, whose)

    found = await gate.database.reading(listing)
    return TokensResponse(tokens=[_token_out(t) for t in found])


@api.post("/tokens", tags=["accounts"], operation_id="add_token")
async def post_token(given: NewToken, gate: TheGate, who: Who, trail: Trail) -> TokenMade:
    """Make a token for one's own account."""
    _check_session(who)
    if not who.may(given.role):
        raise Refusal(
            403,
            "Forbidden",
            f"A token may do no more than its account: expected at most {who.role}.",
            "Choose a lower role.",
        )
    if given.expires_days > gate.config.token_max_days:
        raise Refusal(
            422,
            "InputError",
            f"The token would live too long: expected at most {gate.config.token_max_days} days.",
            "Make another one when it expires.",
        )
    token, known = await gate.database.writing(
        lambda c: add_token(c, who.account_id, given.name, given.role, given.expires_days)
    )
    trail.append(known.token_id)
    return TokenMade(token=token, **_token_out(known).model_dump())


@api.delete("/tokens/{token_id}", tags=["accounts"], operation_id="revoke_token")
async def delete_token(token_id: str, gate: TheGate, who: Who) -> Done:
    """Revoke a token, from the next request on; administrators may revoke any."""
    whose = None if who.may("admin") else who.account_id
    await gate.database.writing(lambda c: revoke_token(c, token_id, whose))
    return Done()


@api.get("/audit", tags=["audit"], operation_id="get_audit", dependencies=_admin)
async def get_audit(
    log: TheLog,
    gate: TheGate,
    offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    account: Annotated[str, Query(max_length=80)] = "",
    action: Annotated[str, Query(max_length=80)] = "",
) -> AuditResponse:
    """Return who did what, newest first."""
    entries, n_entries = await gate.database.reading(
        lambda _: log.entries(offset, limit, account, action)
    )
    return AuditResponse(entries=[_entry_out(e) for e in entries], n_entries=n_entries)


@api.get(
    "/audit/export",
    tags=["audit"],
    operation_id="export_audit",
    dependencies=_admin,
    response_class=Response,
    responses={200: {"content": {"application/x-ndjson": {}}, "description": "An entry a line."}},
)
async def export_audit(log: TheLog, gate: TheGate) -> Response:
    """Return the whole log as lines of JSON, oldest first."""

    async def lines() -> AsyncIterator[bytes]:
        after = 0
        while page := await gate.database.reading(partial(_page, log, after)):
            after = page[-1].seq
            yield "".join(entry.line() + "\n" for entry in page).encode()

    headers = {"content-disposition": 'attachment; filename="audit.jsonl"'}
    return StreamingResponse(lines(), media_type="application/x-ndjson", headers=headers)


@api.get("/audit/verify", tags=["audit"], operation_id="verify_audit", dependencies=_admin)
async def verify_audit(
    log: TheLog,
    gate: TheGate,
    anchor: Annotated[
        list[str] | None, Query(max_length=20, description="NUMBER:HASH of an earlier entry.")
    ] = None,
) -> VerdictOut:
    """Read the whole log and tell whether it is as it was written."""
    anchors = [Anchor.parse(text) for text in anchor or ()]
    found = await gate.database.reading(lambda _: log.verify(anchors))
    return VerdictOut(
        is_intact=found.is_intact,
        n_entries=found.n_entries,
        first_bad=found.first_bad,
        last=None if found.last is None else str(found.last),
    )


def _page(log: AuditLog, after: int, _: Connection) -> list[Entry]:
    return log.page(after)


def _check_session(who: Identity) -> None:
    """Refuse who did not sign in: a token that makes tokens could not be revoked."""
    if who.session is None:
        raise Refusal(
            403 if who.token_id else 409,
            "Forbidden",
            "Tokens are made by who is signed in: expected a session of an account.",
            "Sign in at the page, or use 'medfinder account token'.",
        )


def _not_yours() -> Refusal:
    return Refusal(
        403,
        "Forbidden",
        f"These are another account's tokens: expected the role {ROLES[-1]}.",
        "Ask for your own.",
    )


def _account_out(account: Account) -> AccountOut:
    return AccountOut(
        name=account.name,
        role=account.role,
        sources=None if account.sources is None else list(account.sources),
        is_active=account.is_active,
        has_password=account.has_password,
        created=account.created,
    )


def _token_out(token: Token) -> TokenOut:
    return TokenOut(**{name: getattr(token, name) for name in Token.__slots__})


def _entry_out(entry: Entry) -> EntryOut:
    fields = {name: getattr(entry, name) for name in Entry.__slots__}
    return EntryOut(**(fields | {"objects": list(entry.objects)}))
