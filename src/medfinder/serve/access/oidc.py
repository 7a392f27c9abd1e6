"""Signing in at an identity provider: OpenID Connect's authorization code flow with PKCE.

What the provider says is believed once its ID token is proved: signed by a key of its own under an
asymmetric algorithm, issued by it, for this service, for this very sign-in (nonce), and not expired.

Source:
    OpenID Connect Core 1.0, section 3.1; RFC 7636 (PKCE); RFC 9700 (best current practice).
"""

import asyncio
import json
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy as sql
from sqlalchemy.engine import Connection

from medfinder.errors import ConfigError
from medfinder.serve.access.accounts import (
    Account,
    account_of,
    add_account,
    check_sources,
)
from medfinder.serve.access.config import OidcConfig
from medfinder.serve.access.tokens import secret_hash
from medfinder.serve.database import accounts, now, sign_ins
from medfinder.serve.faults import Refusal

ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "Ed25519"]
"""With a public key alone: neither none nor HMAC, whose key could be the public one."""
FLOW_S = 10 * 60.0
_BELIEVED_S = 60 * 60.0  # how long the provider's own description is kept
_KEYS_S = 30.0  # a token of an unknown key fetches the keys again, this often at most
_LEEWAY_S = 60
_TIMEOUT_S = 10.0
_MAX_BYTES = 2**20
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True, slots=True)
class Start:
    """A sign-in that has begun.

    Attributes:
        url: Where the browser goes.
        state: Comes back with it.
        browser: Secret that the browser keeps in a cookie, so that no other finishes this.
        nonce: The ID token must hold it.
        verifier: Of PKCE.
    """

    url: str
    state: str
    browser: str
    nonce: str
    verifier: str


class Oidc:
    """One provider.

    Args:
        config: Its address, and how its claims become accounts.

    Raises:
        ConfigError: Its address is neither https nor on this machine.
    """

    def __init__(self, config: OidcConfig) -> None:
        self.config = config
        for url in (config.issuer, config.redirect_url):
            if not _is_safe(url):
                raise ConfigError(
                    "The identity provider's settings name an address without encryption: "
                    "expected https://…, or http:// on this machine alone. Check access.oidc.",
                    rule="oidc",
                )
        self._lock = asyncio.Lock()
        self._known: tuple[float, dict[str, Any]] | None = None
        self._keys: tuple[float, Any] | None = None

    async def start(self) -> Start:
        """Begin a sign-in."""
        provider = await self._provider()
        state, nonce = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        verifier = secrets.token_urlsafe(64)
        async with self._client() as client:
            url, _ = client.create_authorization_url(
                provider["authorization_endpoint"],
                state=state,
                nonce=nonce,
                code_verifier=verifier,
            )
        return Start(url, state, secrets.token_urlsafe(32), nonce, verifier)

    async def claims(self, code: str, nonce: str, verifier: str) -> Mapping[str, Any]:
        """Exchange a code for an ID token and return its claims, once they are proved.

        Raises:
            Refusal: 401 when they are not, 503 when the provider does not answer.
        """
        import httpx
        from authlib.integrations.base_client import OAuthError

        provider = await self._provider()
        try:
            async with self._client() as client:
                answer = await client.fetch_token(
                    provider["token_endpoint"], code=code, code_verifier=verifier
                )
        except OAuthError:
            raise _refused("the provider does not know this sign-in") from None
        except (httpx.HTTPError, ValueError):
            raise _unreachable() from None
        token = answer.get("id_token")
        if not isinstance(token, str) or len(token) > _MAX_BYTES:
            raise _refused("the provider sent no ID token")
        return await self._proved(token, nonce)

    async def _proved(self, token: str, nonce: str) -> Mapping[str, Any]:
        from joserfc import jwt
        from joserfc.errors import JoseError

        try:
            decoded = await self._decoded(token)
            jwt.JWTClaimsRegistry(
                leeway=_LEEWAY_S,
                iss={"essential": True, "value": self.config.issuer},
                aud={"essential": True, "value": self.config.client_id},
                nonce={"essential": True, "value": nonce},
                sub={"essential": True},
                exp={"essential": True},
                iat={"essential": True},
            ).validate(decoded.claims)
        except (JoseError, ValueError, TypeError, KeyError):
            raise _refused("its ID token cannot be proved") from None
        claims: Mapping[str, Any] = decoded.claims
        party = claims.get("azp", self.config.client_id)
        if party != self.config.client_id or not isinstance(claims["sub"], str):
            raise _refused("its ID token is for another service")
        return claims

    async def _decoded(self, token: str) -> Any:
        from joserfc import jwt
        from joserfc.errors import JoseError

        keys = await self._key_set()
        try:
            return jwt.decode(token, keys, algorithms=ALGORITHMS)
        except (JoseError, ValueError):
            # The provider may have new keys; a forged token must not make it be asked each time.
            newer = await self._key_set(older_than_s=_KEYS_S)
            if newer is keys:
                raise
            return jwt.decode(token, newer, algorithms=ALGORITHMS)

    async def _provider(self) -> dict[str, Any]:
        async with self._lock:
            if self._known is not None and time.monotonic() - self._known[0] < _BELIEVED_S:
                return self._known[1]
            issuer = self.config.issuer.rstrip("/")
            found = await self._get(f"{issuer}/.well-known/openid-configuration")
            wanted = ("authorization_endpoint", "token_endpoint", "jwks_uri")
            if found.get("issuer") != self.config.issuer or not all(
                isinstance(found.get(name), str) and _is_safe(found[name]) for name in wanted
            ):
                raise _unreachable()
            self._known = (time.monotonic(), found)
            return found

    async def _key_set(self, older_than_s: float = _BELIEVED_S) -> Any:
        from joserfc.errors import JoseError
        from joserfc.jwk import KeySet

        provider = await self._provider()
        async with self._lock:
            if self._keys is not None and time.monotonic() - self._keys[0] < older_than_s:
                return self._keys[1]
            try:
                keys = KeySet.import_key_set(await self._get(provider["jwks_uri"]))  # type: ignore[arg-type]
            except (JoseError, ValueError, KeyError, TypeError):
                raise _unreachable() from None
            self._keys = (time.monotonic(), keys)
            return keys

    async def _get(self, url: str) -> dict[str, Any]:
        import httpx

        try:
            async with httpx.AsyncClient(timeout=_TIMEOUT_S, follow_redirects=False) as client:
                answer = await client.get(url)
            answer.raise_for_status()
            found = json.loads(answer.content[:_MAX_BYTES])
        except (httpx.HTTPError, ValueError):
            raise _unreachable() from None
        if not isinstance(found, dict):
            raise _unreachable()
        return found

    def _client(self) -> Any:
        from authlib.integrations.httpx_client import AsyncOAuth2Client

        config = self.config
        return AsyncOAuth2Client(
            config.client_id,
            config.client_secret or None,
            token_endpoint_auth_method="client_secret_basic" if config.client_secret else "none",
            scope=config.scopes,
            redirect_uri=config.redirect_url,
            code_challenge_method="S256",
            timeout=_TIMEOUT_S,
        )


def keep_start(connection: Connection, start: Start) -> None:
    """Remember a sign-in until it is finished; old ones are forgotten."""
    connection.execute(sign_ins.delete().where(sign_ins.c.created < now(-FLOW_S)))
    connection.execute(
        sign_ins.insert().values(
            state_hash=secret_hash(start.state),
            browser_hash=secret_hash(start.browser),
            nonce=start.nonce,
            verifier=start.verifier,
            created=now(),
        )
    )


def take_start(connection: Connection, state: str, browser: str) -> Mapping[Any, Any] | None:
    """Return the nonce and verifier of a sign-in that this browser began, once only."""
    ours = [sign_ins.c.state_hash == secret_hash(state), sign_ins.c.created > now(-FLOW_S)]
    row = connection.execute(sign_ins.select().where(*ours)).mappings().first()
    if row is None or row["browser_hash"] != secret_hash(browser):
        return None
    gone = connection.execute(sign_ins.delete().where(*ours)).rowcount
    return row if gone == 1 else None


def account_for(
    connection: Connection, config: OidcConfig, claims: Mapping[str, Any]
) -> Account | None:
    """Return the account of a user whom the provider proved, as its claims are now.

    Returns:
        The account, made at the first time; None where the claims give no role.
    """
    role = config.role_of(claim_values(claims, config.role_claim))
    subject = f"{config.issuer}|{claims['sub']}"[:600]
    row = connection.execute(accounts.select().where(accounts.c.subject == subject)).mappings()
    known = row.first()
    if role is None:
        return None
    sources = None
    if config.sources_claim:
        sources = check_sources(claim_values(claims, config.sources_claim))
    if known is None:
        name = _free_name(connection, claims, config.name_claim)
        return add_account(connection, name, role, sources, subject=subject)
    values = {"role": role, "sources": None if sources is None else json.dumps(sources)}
    ours = accounts.c.account_id == known["account_id"]
    connection.execute(accounts.update().where(ours).values(values))
    return account_of({**known, **values})


def claim_values(claims: Mapping[str, Any], name: str) -> list[str]:
    """Return a claim as a list of texts; dots step into objects."""
    value: Any = claims
    if name in claims:
        value = claims[name]
    else:
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
    if isinstance(value, str):
        return [value]
    return [v for v in value if isinstance(v, str)] if isinstance(value, list) else []


def _free_name(connection: Connection, claims: Mapping[str, Any], name_claim: str) -> str:
    wish = next(iter(claim_values(claims, name_claim)), "") or str(claims.get("email", ""))
    plain = re.sub(r"[^a-z0-9._@-]+", "-", wish.lower()).strip("-._@")[:56] or "user"
    if plain in {"local", "nobody", "system"}:
        plain = f"{plain}-user"
    query = sql.select(accounts.c.name).where(accounts.c.name.startswith(plain, autoescape=True))
    taken = set(connection.execute(query).scalars())
    free = (plain if n == 1 else f"{plain}-{n}" for n in range(1, len(taken) + 2))
    return next(name for name in free if name not in taken)


def _is_safe(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)


def _refused(why: str) -> Refusal:
    return Refusal(
        401,
        "NotSignedIn",
        f"The identity provider's answer is not accepted: {why}.",
        "Sign in again from the page; if it stays so, tell whoever runs this service.",
    )


def _unreachable() -> Refusal:
    return Refusal(
        503,
        "NoProvider",
        "The identity provider does not answer as one: expected its description and keys.",
        "Try again in a moment, or tell whoever runs this service.",
        headers={"retry-after": "10"},
    )
