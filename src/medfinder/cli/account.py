"""``medfinder account``: who may use the service."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medfinder.cli.talk import done, emit, out, say

if TYPE_CHECKING:
    from medfinder.serve.access.config import AccessConfig
    from medfinder.serve.database import Database

State = Annotated[
    str,
    typer.Argument(
        envvar="MEDFINDER_DATABASE",
        help="Index folder, database file or postgresql:// URL; "
        "a URL with a password belongs into the variable MEDFINDER_DATABASE.",
    ),
]
Name = Annotated[str, typer.Argument(help="The account's name.")]
Role = Annotated[str, typer.Option(help="viewer, reviewer, curator or admin.")]
Config = Annotated[
    Path | None, typer.Option(help="TOML file of the service, for what a password must be.")
]
Source = Annotated[
    list[str] | None,
    typer.Option(help="Confine it to this source of the index. Repeatable."),
]
Json = Annotated[bool, typer.Option("--json", help="Print as JSON.")]


def register(app: typer.Typer) -> None:
    """Add the verb, with its commands, to the application."""
    commands = typer.Typer(help="Add, list and change accounts.", no_args_is_help=True)
    commands.command("add")(add)
    commands.command("list")(list_)
    commands.command("set")(set_)
    commands.command("remove")(remove)
    commands.command("token")(token)
    app.add_typer(commands, name="account")


def add(
    state: State,
    name: Name,
    role: Role = "viewer",
    source: Source = None,
    no_password: Annotated[
        bool, typer.Option("--no-password", help="It signs in elsewhere, or by tokens alone.")
    ] = False,
    config: Config = None,
) -> None:
    """Add an account; its password is asked for, or read from a pipe.

    Example: medfinder account add idx ana --role admin

    Example: medfinder account add idx luis --source hospital-a < password.txt
    """
    from medfinder.serve.access.accounts import account_name, add_account

    name = account_name(name)
    hashed = None if no_password else _hashed(name, config)
    with _open(state) as database:
        _write(
            database,
            "add_account",
            name,
            lambda c: add_account(c, name, role, source or None, hashed),  # type: ignore[arg-type]
        )
    done(f"Account {name}, {role}.", "medfinder serve IDX --access required")


def list_(state: State, json_: Json = False) -> None:
    """Show all accounts.

    Example: medfinder account list idx
    """
    from medfinder.serve.access.accounts import list_accounts

    with _open(state) as database:
        found = database.read(list_accounts)
    if json_:
        emit(
            [
                {
                    "name": a.name,
                    "role": a.role,
                    "sources": None if a.sources is None else list(a.sources),
                    "is_active": a.is_active,
                    "has_password": a.has_password,
                    "created": a.created,
                }
                for a in found
            ]
        )
        return
    for a in found:
        seen = "all sources" if a.sources is None else ", ".join(a.sources) or "no source"
        notes = "" if a.is_active else "  may not sign in"
        out.print(f"{a.name:<24}  {a.role:<8}  {seen}{notes}", markup=False, soft_wrap=True)
    say(f"{len(found)} accounts")


def set_(
    state: State,
    name: Name,
    role: Annotated[str | None, typer.Option(help="viewer, reviewer, curator or admin.")] = None,
    source: Source = None,
    all_sources: Annotated[
        bool, typer.Option("--all-sources", help="Lift its confinement.")
    ] = False,
    password: Annotated[
        bool, typer.Option("--password", help="Ask for another password, or read it from a pipe.")
    ] = False,
    active: Annotated[
        bool | None, typer.Option("--active/--inactive", help="Whether it may sign in.")
    ] = None,
    config: Config = None,
) -> None:
    """Change an account; who may no longer sign in is signed out at once.

    Example: medfinder account set idx luis --role reviewer
    """
    from medfinder.errors import InputError
    from medfinder.serve.access.accounts import account_name, change_account

    name = account_name(name)
    changes: dict[str, Any] = {}
    if role is not None:
        changes["role"] = role
    if source and all_sources:
        raise InputError("Give --source or --all-sources, not both.", rule="bad-sources")
    if source or all_sources:
        changes["sources"] = source or None
    if active is not None:
        changes["is_active"] = active
    if password:
        changes["password"] = _hashed(name, config)
    with _open(state) as database:
        _write(database, "change_account", name, lambda c: change_account(c, name, **changes))
    done(f"Account {name} changed.", f"medfinder account list {state}")


def remove(
    state: State,
    name: Name,
    give_to: Annotated[str | None, typer.Option(help="Account that gets its collections.")] = None,
) -> None:
    """Remove an account with its sessions, tokens, shares and saved searches.

    Collections that were made while nobody had to sign in belong to "local": --give-to passes them
    on.

    Example: medfinder account remove idx luis --give-to ana

    Example: medfinder account remove idx local --give-to ana
    """
    from medfinder.serve.access.accounts import remove_account

    with _open(state) as database:
        _write(database, "remove_account", name, lambda c: remove_account(c, name, give_to))
    done(f"Account {name} removed.", f"medfinder account list {state}")


def token(
    state: State,
    name: Name,
    role: Role = "viewer",
    label: Annotated[str, typer.Option(help="What it is for.")] = "command line",
    days: Annotated[float, typer.Option(min=0.001, max=36600, help="Until it expires.")] = 90,
    revoke: Annotated[str | None, typer.Option(help="Revoke the token of this id instead.")] = None,
    json_: Json = False,
) -> None:
    """Print a new API token of an account: it is shown this once.

    Example: medfinder account token idx pacs --role viewer --label "PACS bridge" --days 30
    """
    from medfinder.serve.access.accounts import find_account
    from medfinder.serve.access.roles import ROLES
    from medfinder.serve.access.tokens import Token, add_token, revoke_token

    with _open(state) as database:
        if revoke is not None:
            _write(database, "revoke_token", revoke, lambda c: revoke_token(c, revoke))
            say(f"Token {revoke} revoked.")
            return

        def make(connection: Any) -> tuple[str, Token]:
            from medfinder.errors import InputError

            account = find_account(connection, name)
            if role not in ROLES or ROLES.index(role) > ROLES.index(account.role):
                raise InputError(
                    f"A token may do no more than its account: expected at most {account.role}. "
                    "Choose a lower role.",
                    rule="bad-role",
                )
            return add_token(connection, account.account_id, label[:80], role, days)

        secret, made = _write(database, "add_token", name, make)
    if json_:
        emit(
            {"token": secret, "token_id": made.token_id, "role": made.role, "expires": made.expires}
        )
    else:
        print(secret)
    say(f"Token {made.token_id} of {name}, {made.role}, until {made.expires}")


@contextmanager
def _open(state: str) -> "Iterator[Database]":
    from medfinder.serve.database import Database, database_of

    database = Database.open(database_of(state))
    try:
        yield database
    finally:
        database.close()


def _write(database: "Database", action: str, name: str, work: Any) -> Any:
    """Do the work and write down that it was done here, both or neither."""
    from medfinder.serve.audit import append

    def both(connection: Any) -> Any:
        made = work(connection)
        append(connection, "command line", action, [name])
        return made

    return database.write(both)


def _hashed(name: str, config: Path | None) -> str:
    """Ask for a password, or read it from a pipe; never from the command line, which others see."""
    from medfinder.serve.access.passwords import Passwords

    if sys.stdin.isatty():
        given = typer.prompt(
            f"Password of {name}", hide_input=True, confirmation_prompt=True, err=True
        )
    else:
        given = sys.stdin.readline().rstrip("\r\n")
    return Passwords(_access(config)).hash(given, name)


def _access(config: Path | None) -> "AccessConfig":
    from medfinder.serve.config import load_serve_config

    return load_serve_config(config, os.environ).access
