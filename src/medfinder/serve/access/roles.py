"""Which role a route needs, declared where the route is, and asked before a body is read."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

from fastapi import APIRouter, Depends
from fastapi.params import Depends as Dependency
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from medfinder.serve.faults import Refusal

Role = Literal["viewer", "reviewer", "curator", "admin"]
ROLES: tuple[Role, ...] = ("viewer", "reviewer", "curator", "admin")
"""Each may do all that those before it may."""
ANYONE = "anyone"
"""Declared by what needs no sign-in: the page's own files, signing in, whether the process lives."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who sends a request.

    Attributes:
        account_id: ``""`` for nobody, ``"local"`` where access is off.
        name: As in the audit log.
        role: None for nobody. A token's role is no higher than its account's.
        sources: Values of the index's column ``source`` that it is confined to; None for all.
        session: Hash of the session that a cookie proved; None otherwise.
        csrf: What an unsafe request of that session must repeat in a header.
        token_id: Of the API token that proved it; None otherwise.
        has_password: Whether it signs in with a password.
    """

    account_id: str
    name: str
    role: Role | None
    sources: tuple[str, ...] | None = None
    session: str | None = None
    csrf: str | None = None
    token_id: str | None = None
    has_password: bool = False

    def may(self, role: str) -> bool:
        """Tell whether it may do what needs `role`."""
        if role == ANYONE:
            return True
        return self.role is not None and ROLES.index(self.role) >= ROLES.index(role)


NOBODY = Identity("", "-", None, ())
LOCAL = Identity("local", "local", "admin")
"""Who asks where access is off."""


class Needs:
    """A dependency that lets nobody pass whose role is too low.

    `Guarded` routes ask it before they read a body; it is a dependency so that a router that is
    not `Guarded` asks it, too.
    """

    def __init__(self, role: str, or_here: bool = False) -> None:
        self.role = role
        self.or_here = or_here

    async def __call__(self, request: Request) -> None:
        """As `check`."""
        self.check(request)

    def check(self, request: Request) -> None:
        """Refuse who may not do this.

        Raises:
            Refusal: 401 for nobody, 403 for too low a role.
        """
        if not (self.or_here and request.state.caller.is_here):
            check_role(request.state.identity, self.role)


def needs(role: Role | Literal["anyone"], *, or_here: bool = False) -> Any:
    """Declare a router's or a route's role; of several, all are needed.

    Args:
        role: The lowest that may do it.
        or_here: Programs on this machine may, too, without any sign-in.
    """
    return Depends(Needs(role, or_here))


def check_role(identity: Identity, role: str) -> None:
    """Refuse who may not do what needs `role`.

    Raises:
        Refusal: 401 for nobody, 403 for too low a role.
    """
    if identity.may(role):
        return
    if identity.role is None:
        raise Refusal(
            401,
            "NotSignedIn",
            "Nobody is signed in: expected a session or an API token.",
            "Sign in at the page, or send Authorization: Bearer mf_….",
            headers={"www-authenticate": "Bearer", "connection": "close"},
        )
    raise Refusal(
        403,
        "Forbidden",
        f"The role {identity.role} may not do this: expected {role}.",
        "Ask whoever runs this service for another role.",
        headers={"connection": "close"},
    )


def needs_of(route: Any) -> list[Needs]:
    """Return what a route declares."""
    given: list[Dependency] = getattr(route, "dependencies", None) or []
    return [d.dependency for d in given if isinstance(d.dependency, Needs)]


class GuardedRoute(APIRoute):
    """A route that asks for the role it declares before it reads a body."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        """Return the handler, behind the question who asks."""
        handle = super().get_route_handler()
        # Whoever wrote a route and forgot its role: nobody but an administrator has it.
        needed = needs_of(self) or [Needs("admin")]
        action = self.operation_id or self.name

        async def guarded(request: Request) -> Response:
            request.state.action = action
            for need in needed:
                need.check(request)
            return await handle(request)

        return guarded


def guarded(role: Role | Literal["anyone"], **more: Any) -> APIRouter:
    """Return a router all of whose routes need `role`, or a higher one that a route declares."""
    return APIRouter(route_class=GuardedRoute, dependencies=[needs(role)], **more)
