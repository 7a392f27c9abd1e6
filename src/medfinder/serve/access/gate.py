"""The gate: a request's headers → who asks. Also what signing in and out does.

Without a database, or where access is off, whoever reaches the service is `LOCAL`.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy.engine import Connection
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Scope

from medfinder.errors import UnknownName
from medfinder.serve.access.accounts import (
    account_of,
    end_sessions,
    find_row,
    list_accounts,
)
from medfinder.serve.access.config import AccessConfig
from medfinder.serve.access.limits import Bucket, begin_attempt, forgive
from medfinder.serve.access.passwords import Passwords
from medfinder.serve.access.roles import LOCAL, NOBODY, Identity
from medfinder.serve.access.sessions import (
    add_session,
    cookie_name,
    csrf_token,
    end_session,
    find_session,
    is_csrf_token,
    is_seen,
    note_seen,
)
from medfinder.serve.access.tokens import (
    find_token,
    is_use_noted,
    lower,
    note_use,
    secret_hash,
)
from medfinder.serve.database import Database, accounts
from medfinder.serve.faults import Refusal
from medfinder.serve.lanes import Lane

CSRF_HEADER = "x-csrf-token"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_FORWARDED = ("x-forwarded-for", "x-forwarded-host", "forwarded", "x-real-ip")
_MAX_SECRET = 200


@dataclass(frozen=True, slots=True)
class Caller:
    """Where a request comes from.

    Attributes:
        address: Of the client; of the last untrusted one behind proxies that are trusted.
        is_https: Whether the client's own connection is encrypted.
        is_here: Whether it is a program on this machine, and no proxy for others.
    """

    address: str
    is_https: bool
    is_here: bool = False


class Gate:
    """Tells who asks, signs in and out.

    Args:
        config: Bounds; `AccessConfig.mode` is ``required`` or not.
        database: Where accounts are; None only where access is off.
    """

    def __init__(self, config: AccessConfig, database: Database | None) -> None:
        self.config = config
        self.is_required = config.mode == "required"
        self._database = database
        self._bucket = Bucket(config.requests_per_minute)
        self._trusted = [ipaddress.ip_network(p, strict=False) for p in config.trusted_proxies]
        self._hashing = Lane("passwords", 2)  # each takes tens of MiB and a core
        self._passwords: Passwords | None = None

    @property
    def database(self) -> Database:
        """The accounts' database."""
        if self._database is None:
            raise Refusal(
                501,
                "NoDatabase",
                "This service remembers nothing: its database could not be opened.",
                "Ask whoever runs it to name a place that can be written.",
            )
        return self._database

    @property
    def is_working(self) -> bool:
        """Tell whether a thread is at work, for an answer that may no longer be awaited."""
        return self._hashing.is_running

    def close(self) -> None:
        """Let go of threads."""
        self._hashing.close()

    # -- who asks ------------------------------------------------------------------------------

    def caller(self, scope: Scope, headers: Headers) -> Caller:
        """Return where a request comes from; what a proxy says counts if the proxy is trusted."""
        client = scope.get("client")
        address = client[0] if client else ""
        scheme = scope.get("scheme", "http")
        is_here = _is_loopback(address) and not any(name in headers for name in _FORWARDED)
        if self._is_trusted(address):
            scheme = headers.get("x-forwarded-proto", scheme).split(",")[-1].strip().lower()
            # The last entries are the proxies' own; before them anybody may have written.
            chain = [a.strip() for a in ",".join(headers.getlist("x-forwarded-for")).split(",")]
            for hop in reversed([a for a in chain if a]):
                address = hop[:64]
                if not self._is_trusted(hop):
                    break
        return Caller(address, scheme == "https", is_here)

    async def identify(self, scope: Scope, headers: Headers, caller: Caller) -> Identity:
        """Tell who sends a request, from its headers alone.

        Raises:
            Refusal: 401 for a token that is none, has expired or was revoked; 403 for an unsafe
                request of a session without its CSRF token, or for one that was forwarded from
                another machine where nobody was asked to sign in; 429 for too many.
        """
        if not self.is_required:
            if self.config.mode == "auto" and any(name in headers for name in _FORWARDED):
                raise Refusal(
                    403,
                    "Forbidden",
                    "The request was forwarded by a proxy, and nobody is asked to sign in here.",
                    "Start with --access required, or with --access off if the proxy signs in.",
                )
            return LOCAL
        given = headers.get("authorization")
        if given is not None:
            identity = await self._of_token(given, caller)
        else:
            identity = await self._of_session(headers, caller)
        self._bucket.take(identity.account_id or f"address {caller.address}")
        if (
            identity.csrf is not None
            and scope["method"] not in _SAFE
            and not is_csrf_token(headers.get(CSRF_HEADER, ""), identity.csrf)
        ):
            raise Refusal(
                403,
                "Forbidden",
                "The request does not repeat its session's token: expected the header "
                "X-CSRF-Token.",
                "Take it from GET /v1/session; API tokens need none.",
                headers={"connection": "close"},
            )
        return identity

    async def _of_token(self, given: str, caller: Caller) -> Identity:
        scheme, _, token = given.partition(" ")
        row: Mapping[Any, Any] | None = None
        if scheme.lower() == "bearer" and len(token) <= _MAX_SECRET:
            row = await self.database.reading(lambda c: find_token(c, token.strip()))
        if row is None:
            self._bucket.take(f"address {caller.address}")
            raise Refusal(
                401,
                "NotSignedIn",
                "The API token is not valid: it is none, has expired, or was revoked.",
                "Make another one at the page, or with 'medfinder account token'.",
                headers={"www-authenticate": "Bearer", "connection": "close"},
            )
        token_id = row["token_id"]
        if not is_use_noted(row["used"]):
            await self.database.writing(lambda c: note_use(c, token_id))
        account = account_of(row)
        return Identity(
            account.account_id,
            account.name,
            lower(account.role, row["cap"]),
            account.sources,
            token_id=token_id,
        )

    async def _of_session(self, headers: Headers, caller: Caller) -> Identity:
        secret = read_cookie(headers, cookie_name(caller.is_https))
        if not secret:
            return NOBODY
        idle_s, max_s = self.config.session_idle_s, self.config.session_max_s
        row = await self.database.reading(lambda c: find_session(c, secret, idle_s, max_s))
        if row is None:
            return NOBODY
        session = row["session_hash"]
        if not is_seen(row["seen"], idle_s):
            await self.database.writing(lambda c: note_seen(c, session))
        account = account_of(row)
        return Identity(
            account.account_id,
            account.name,
            account.role,
            account.sources,
            session=session,
            csrf=csrf_token(secret),
            has_password=account.has_password,
        )

    def _is_trusted(self, address: str) -> bool:
        try:
            at = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(at in network for network in self._trusted)

    # -- signing in and out --------------------------------------------------------------------

    async def sign_in(self, name: str, password: str, caller: Caller) -> tuple[Identity, str]:
        """Check a password and begin a session; return who that is, and the cookie's secret.

        Raises:
            Refusal: 401 for a wrong name or password, 429 after too many.
        """
        database, config = self.database, self.config
        await database.writing(lambda c: begin_attempt(c, config, name, caller.address))
        try:
            row = await database.reading(lambda c: find_row(c, name))
        except UnknownName:
            row = None
        stored = row["password"] if row is not None and row["is_active"] else None
        passwords = await self.passwords()
        # Without an account it is checked against nobody's password, which takes as long.
        is_right = await self._hashing.run(lambda: passwords.check(stored, password))
        if row is None or stored is None or not is_right:
            raise Refusal(
                401,
                "NotSignedIn",
                "The name or the password is wrong.",
                "Try again, or ask whoever runs this service for another password.",
            )
        if passwords.is_outdated(stored):
            newer = await self._hashing.run(lambda: passwords.hash_again(password))
            await database.writing(partial(_replace_hash, row["account_id"], stored, newer))
        await database.writing(lambda c: forgive(c, name, caller.address))
        return await self.begin_session(row["account_id"])

    async def begin_session(self, account_id: str) -> tuple[Identity, str]:
        """Begin a session of an account that has proved who it is."""
        idle_s, max_s = self.config.session_idle_s, self.config.session_max_s
        secret = await self.database.writing(lambda c: add_session(c, account_id, max_s))
        row = await self.database.reading(lambda c: find_session(c, secret, idle_s, max_s))
        if row is None:
            raise Refusal(
                401, "NotSignedIn", "The account may not sign in.", "Ask whoever runs this service."
            )
        account = account_of(row)
        identity = Identity(
            account.account_id,
            account.name,
            account.role,
            account.sources,
            session=row["session_hash"],
            csrf=csrf_token(secret),
            has_password=account.has_password,
        )
        return identity, secret

    async def sign_out(self, headers: Headers) -> None:
        """End the session of a request's cookies, whatever the scheme they were set under."""
        for is_https in (True, False):
            if secret := read_cookie(headers, cookie_name(is_https)):
                await self.database.writing(partial(_end, secret))

    async def change_password(self, identity: Identity, old: str, new: str, caller: Caller) -> None:
        """Give an account another password, and end its other sessions.

        Raises:
            Refusal: 401 for a wrong old password, 429 after too many.
            InputError: The new one cannot be used.
        """
        database, config = self.database, self.config
        name = identity.name
        await database.writing(lambda c: begin_attempt(c, config, name, caller.address))
        row = await database.reading(lambda c: find_row(c, name))
        passwords = await self.passwords()
        if not await self._hashing.run(lambda: passwords.check(row["password"], old)):
            raise Refusal(
                401, "NotSignedIn", "The old password is wrong.", "Write the password of today."
            )
        await database.writing(lambda c: forgive(c, name, caller.address))
        made = await self.hash(new, name)
        await database.writing(
            partial(_set_password, identity.account_id, made, identity.session or "")
        )

    async def hash(self, password: str, name: str) -> str:
        """Return what is stored of a password.

        Raises:
            InputError: It cannot be used (rule ``weak-password``).
        """
        passwords = await self.passwords()
        return await self._hashing.run(lambda: passwords.hash(password, name))

    async def passwords(self) -> Passwords:
        """Return the hasher, made at its first use: that hashes once."""
        if self._passwords is None:
            self._passwords = await self._hashing.run(lambda: Passwords(self.config))
        return self._passwords

    def set_cookie(self, response: Response, secret: str, caller: Caller) -> None:
        """Have a browser keep a session's secret, out of its pages' reach."""
        response.set_cookie(
            cookie_name(caller.is_https),
            secret,
            max_age=int(self.config.session_max_s),
            path="/",
            secure=caller.is_https,
            httponly=True,
            samesite="strict",
        )

    def clear_cookie(self, response: Response, caller: Caller) -> None:
        """Have a browser forget a session's secret."""
        response.delete_cookie(
            cookie_name(caller.is_https),
            path="/",
            secure=caller.is_https,
            httponly=True,
            samesite="strict",
        )


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def read_cookie(headers: Headers, name: str) -> str | None:
    """Return a cookie of a request; None where there is none or it is absurd."""
    for line in headers.getlist("cookie"):
        for part in line.split(";"):
            key, _, value = part.strip().partition("=")
            if key == name and 0 < len(value) <= _MAX_SECRET:
                return value
    return None


def has_way_in(database: Database, config: AccessConfig) -> bool:
    """Tell whether anybody at all can sign in."""
    return bool(config.oidc.issuer) or any(a.is_active for a in database.read(list_accounts))


def _end(secret: str, connection: Connection) -> None:
    end_session(connection, secret_hash(secret))


def _replace_hash(account_id: str, before: str, after: str, connection: Connection) -> None:
    # Only if it is still the one that was checked: another password may have come meanwhile.
    ours = (accounts.c.account_id == account_id) & (accounts.c.password == before)
    connection.execute(accounts.update().where(ours).values(password=after))


def _set_password(account_id: str, made: str, session: str, connection: Connection) -> None:
    ours = accounts.c.account_id == account_id
    connection.execute(accounts.update().where(ours).values(password=made))
    end_sessions(connection, account_id, but=session)
