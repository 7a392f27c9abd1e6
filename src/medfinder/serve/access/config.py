"""Settings of signing in."""

from dataclasses import dataclass, field
from typing import Literal

from medfinder.serve.access.roles import ROLES, Role

Mode = Literal["auto", "required", "off"]


@dataclass(frozen=True)
class OidcConfig:
    """An identity provider that signs users in, by OpenID Connect; none by default.

    Attributes:
        issuer: Its URL, under which ``/.well-known/openid-configuration`` lies; "" for none.
        client_id: By which it knows this service.
        client_secret: Of a confidential client; "" for a public one. PKCE is used with both.
        redirect_url: Where it sends users back to: ``https://HOST/v1/session/oidc/callback``, as
            registered there.
        scopes: What is asked for.
        name_claim: Claim that becomes the account's name.
        role_claim: Claim whose values (a text or a list) are looked up in `roles`; dots step into
            it, as in ``realm_access.roles``.
        roles: ``VALUE=ROLE`` pairs, such as ``"radiology=reviewer"``; the highest that applies
            counts.
        default_role: Of users to whom none of `roles` applies; "" refuses them.
        sources_claim: Claim (a text or a list) that confines an account to sources of the index;
            "" confines nobody. Where it is set, a user without the claim sees no study.
    """

    issuer: str = ""
    client_id: str = ""
    client_secret: str = ""
    redirect_url: str = ""
    scopes: str = "openid profile email"
    name_claim: str = "preferred_username"
    role_claim: str = "groups"
    roles: tuple[str, ...] = ()
    default_role: str = ""
    sources_claim: str = ""

    def __post_init__(self) -> None:
        if self.default_role and self.default_role not in ROLES:
            raise ValueError(f"default_role is none of {', '.join(ROLES)}")
        for pair in self.roles:
            if pair.rpartition("=")[2] not in ROLES or "=" not in pair:
                raise ValueError(f"roles holds {pair!r}; expected VALUE=ROLE of {', '.join(ROLES)}")
        if self.issuer and not (self.client_id and self.redirect_url):
            raise ValueError("an issuer needs client_id and redirect_url")

    def role_of(self, values: list[str]) -> Role | None:
        """Return the highest role that a user's values map to."""
        pairs = [pair.rpartition("=") for pair in self.roles]
        found = [role for value, _, role in pairs if value in values]
        found = found or ([self.default_role] if self.default_role else [])
        return max(found, key=ROLES.index, default=None)  # type: ignore[arg-type]


@dataclass(frozen=True)
class AccessConfig:
    """Who may use the service, and within which bounds.

    Attributes:
        mode: ``required``: nobody without an account; ``off``: whoever reaches it may do all;
            ``auto``: off on an address of this machine alone, required elsewhere.
        database_url: PostgreSQL URL or SQLite file; "" for a file beside the index.
        trusted_proxies: Addresses of proxies whose ``X-Forwarded-For`` and ``X-Forwarded-Proto``
            are believed.
        session_idle_s: After which a session ends unless it is used.
        session_max_s: After which a session ends in any case.
        token_max_days: Longest life of an API token.
        min_password: Characters of a password.
        argon2_time: Passes of argon2id.
        argon2_memory_kib: Memory of argon2id.
        argon2_lanes: Parallelism of argon2id.
        attempts: Failed sign-ins of one account from one address within `attempts_s` before it
            has to wait; five times as many for all accounts from one address, ten times as many
            for one account from all addresses.
        attempts_s: See `attempts`.
        requests_per_minute: Of one account, or of one address without an account, in one
            process; bursts of as many pass at once. 0 for no limit.
        max_export_bytes: Of the voxels that one export may hold.
        oidc: An identity provider.
    """

    mode: Mode = "auto"
    database_url: str = ""
    trusted_proxies: tuple[str, ...] = ()
    session_idle_s: float = 60 * 60.0
    session_max_s: float = 12 * 60 * 60.0
    token_max_days: int = 366
    min_password: int = 12
    argon2_time: int = 3
    argon2_memory_kib: int = 64 * 2**10
    argon2_lanes: int = 4
    attempts: int = 10
    attempts_s: float = 15 * 60.0
    requests_per_minute: int = 6000
    max_export_bytes: int = 4 * 2**30
    oidc: OidcConfig = field(default_factory=OidcConfig)

    def __post_init__(self) -> None:
        if not 0 < self.session_idle_s <= self.session_max_s:
            raise ValueError("session_idle_s must lie between 0 and session_max_s")
        if self.min_password < 8:
            raise ValueError(f"min_password is {self.min_password}; expected at least 8")
        if self.attempts < 1 or self.attempts_s <= 0 or self.requests_per_minute < 0:
            raise ValueError("attempts, attempts_s and requests_per_minute are counts; too small")
        if self.argon2_time < 1 or self.argon2_lanes < 1:
            raise ValueError("argon2_time and argon2_lanes must be at least 1")
        if self.argon2_memory_kib < 8 * self.argon2_lanes:
            raise ValueError("argon2_memory_kib must be at least 8 times argon2_lanes")
