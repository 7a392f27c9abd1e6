"""Signing in and out: ``/v1/session``."""

from typing import Annotated, Literal

from fastapi import Depends, Query, Request
from pydantic import BaseModel, Field
from sqlalchemy.engine import Connection
from starlette.responses import RedirectResponse, Response

from medfinder.errors import UnknownName
from medfinder.serve.access.accounts import find_account
from medfinder.serve.access.gate import Caller, Gate, read_cookie
from medfinder.serve.access.oidc import FLOW_S, Oidc, account_for, keep_start, take_start
from medfinder.serve.access.roles import LOCAL, NOBODY, Identity, Role, guarded
from medfinder.serve.audit import AuditLog
from medfinder.serve.faults import Refusal
from medfinder.serve.schemas import Strict
from medfinder.serve.service import ERRORS, RequestId

api = guarded("anyone", prefix="/v1/session", tags=["session"], responses=ERRORS)
TAG = {"name": "session", "description": "Who is signed in."}
_FLOW_COOKIE = "medfinder-oidc"


class SignIn(Strict):
    """A name and a password."""

    name: str = Field(min_length=1, max_length=80)
    password: str = Field(min_length=1, max_length=1024)


class PasswordChange(Strict):
    """The password of today, and the next one."""

    old: str = Field(min_length=1, max_length=1024)
    new: str = Field(min_length=1, max_length=1024)


class AccountSeen(BaseModel):
    """Who is signed in; `sources` is what it is confined to, null for nothing."""

    name: str
    role: Role
    sources: list[str] | None


class SessionOut(BaseModel):
    """Whether a sign-in is needed, and who is signed in.

    `csrf` is what requests that change something must repeat in the header ``X-CSRF-Token``.
    """

    access: Literal["off", "required"]
    account: AccountSeen | None
    csrf: str | None
    oidc: bool = Field(description="Whether /v1/session/oidc leads to an identity provider.")
    has_password: bool = Field(description="Whether this account can change a password here.")


# Not plain functions: the framework would call those in threads.
async def _gate(request: Request) -> Gate:
    gate: Gate = request.app.state.gate
    return gate


async def _identity(request: Request) -> Identity:
    identity: Identity = request.state.identity
    return identity


async def _caller(request: Request) -> Caller:
    caller: Caller = request.state.caller
    return caller


async def _oidc(request: Request) -> Oidc | None:
    oidc: Oidc | None = request.app.state.oidc
    return oidc


async def _audit(request: Request) -> AuditLog | None:
    log: AuditLog | None = request.app.state.audit
    return log


TheGate = Annotated[Gate, Depends(_gate)]
Who = Annotated[Identity, Depends(_identity)]
From = Annotated[Caller, Depends(_caller)]
TheOidc = Annotated[Oidc | None, Depends(_oidc)]
TheAudit = Annotated[AuditLog | None, Depends(_audit)]


@api.get("", operation_id="get_session")
async def get_session(gate: TheGate, who: Who, oidc: TheOidc) -> SessionOut:
    """Return whether a sign-in is needed, and who is signed in."""
    return _session_out(gate, who, oidc)


@api.post("", operation_id="sign_in")
async def sign_in(
    given: SignIn,
    request: Request,
    response: Response,
    gate: TheGate,
    caller: From,
    oidc: TheOidc,
    log: TheAudit,
    request_id: RequestId,
) -> SessionOut:
    """Sign in with a name and a password; a session of before ends."""
    if not gate.is_required:
        return _session_out(gate, LOCAL, oidc)
    try:
        who, secret = await gate.sign_in(given.name, given.password, caller)
    except Refusal:
        if log is not None:
            # A name that is no account's may be a password in the wrong field: it is not kept.
            known = await gate.database.reading(lambda c: _known_name(c, given.name))
            await log.record("-", "sign_in_refused", known, request_id)
        raise
    await gate.sign_out(request.headers)
    gate.set_cookie(response, secret, caller)
    request.state.identity = who
    return _session_out(gate, who, oidc)


@api.delete("", operation_id="sign_out")
async def sign_out(
    request: Request, response: Response, gate: TheGate, who: Who, caller: From, oidc: TheOidc
) -> SessionOut:
    """Sign out: the session ends."""
    if not gate.is_required:
        return _session_out(gate, who, oidc)
    await gate.sign_out(request.headers)
    gate.clear_cookie(response, caller)
    return _session_out(gate, NOBODY, oidc)


@api.put("/password", operation_id="change_password")
async def change_password(
    given: PasswordChange, gate: TheGate, who: Who, caller: From, oidc: TheOidc
) -> SessionOut:
    """Change one's own password; all other sessions end."""
    if who.session is None:
        raise Refusal(
            401 if gate.is_required else 409,
            "NotSignedIn",
            "Nobody is signed in with a password: expected a session.",
            "Sign in at the page first.",
        )
    await gate.change_password(who, given.old, given.new, caller)
    return _session_out(gate, who, oidc)


@api.get(
    "/oidc",
    operation_id="begin_oidc",
    status_code=303,
    response_class=RedirectResponse,
    responses={303: {"description": "Go to the identity provider."}},
)
async def begin_oidc(gate: TheGate, caller: From, oidc: TheOidc) -> Response:
    """Lead the browser to the identity provider."""
    provider = _provider(oidc)
    start = await provider.start()
    await gate.database.writing(lambda c: keep_start(c, start))
    response = RedirectResponse(start.url, 303)
    # Lax: it has to come back with a visit that another site, the provider's, leads here.
    response.set_cookie(
        _flow_cookie(caller),
        start.browser,
        max_age=int(FLOW_S),
        path="/",
        secure=caller.is_https,
        httponly=True,
        samesite="lax",
    )
    return response


@api.get(
    "/oidc/callback",
    operation_id="finish_oidc",
    status_code=303,
    response_class=RedirectResponse,
    responses={303: {"description": "Signed in; go to the page."}},
)
async def finish_oidc(
    request: Request,
    gate: TheGate,
    caller: From,
    oidc: TheOidc,
    log: TheAudit,
    request_id: RequestId,
    state: Annotated[str, Query(max_length=200)] = "",
    code: Annotated[str, Query(max_length=4000)] = "",
    error: Annotated[str, Query(max_length=4000)] = "",
) -> Response:
    """Take the browser back from the identity provider, and sign in who it proves."""
    provider = _provider(oidc)
    browser = read_cookie(request.headers, _flow_cookie(caller)) or ""
    started = await gate.database.writing(lambda c: take_start(c, state, browser))
    if started is None or error or not code:
        await _refuse(log, request_id)
        raise Refusal(
            401,
            "NotSignedIn",
            "The sign-in was refused there, took too long, or was begun in another browser.",
            "Sign in again from the page.",
        )
    try:
        claims = await provider.claims(code, started["nonce"], started["verifier"])
    except Refusal:
        await _refuse(log, request_id)
        raise
    account = await gate.database.writing(lambda c: account_for(c, provider.config, claims))
    if account is None or not account.is_active:
        await _refuse(log, request_id)
        raise Refusal(
            403,
            "Forbidden",
            "The identity provider knows this user, but none of its groups may use this service.",
            "Ask whoever runs this service for access.",
        )
    await gate.sign_out(request.headers)
    who, secret = await gate.begin_session(account.account_id)
    response = RedirectResponse("/", 303)
    gate.set_cookie(response, secret, caller)
    response.delete_cookie(_flow_cookie(caller), path="/", secure=caller.is_https, httponly=True)
    request.state.identity = who
    request.state.trail.append(who.name)
    return response


def _session_out(gate: Gate, who: Identity, oidc: Oidc | None) -> SessionOut:
    account = None
    if who.role is not None:
        sources = None if who.sources is None else list(who.sources)
        account = AccountSeen(name=who.name, role=who.role, sources=sources)
    return SessionOut(
        access="required" if gate.is_required else "off",
        account=account,
        csrf=who.csrf,
        oidc=oidc is not None and gate.is_required,
        has_password=who.has_password,
    )


def _provider(oidc: Oidc | None) -> Oidc:
    if oidc is None:
        raise Refusal(
            404,
            "Http",
            "This service has no identity provider.",
            "Sign in with a name and a password.",
        )
    return oidc


def _flow_cookie(caller: Caller) -> str:
    return f"__Host-{_FLOW_COOKIE}" if caller.is_https else _FLOW_COOKIE


async def _refuse(log: AuditLog | None, request_id: str) -> None:
    if log is not None:
        await log.record("-", "sign_in_refused", (), request_id)


def _known_name(connection: Connection, name: str) -> list[str]:
    try:
        return [find_account(connection, name).name]
    except UnknownName:
        return []
