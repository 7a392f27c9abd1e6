"""``medfinder audit``: who searched and saw what, and whether the log is as it was written."""

from pathlib import Path
from typing import Annotated

import typer

from medfinder.cli.talk import emit, fail, say

State = Annotated[
    str,
    typer.Argument(
        envvar="MEDFINDER_DATABASE",
        help="Index folder, database file or postgresql:// URL; "
        "a URL with a password belongs into the variable MEDFINDER_DATABASE.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the verb, with its commands, to the application."""
    commands = typer.Typer(help="Export and check who searched and saw what.", no_args_is_help=True)
    commands.command("export")(export)
    commands.command("verify")(verify)
    app.add_typer(commands, name="audit")


def export(
    state: State,
    after: Annotated[int, typer.Option(min=0, help="Only entries after this number.")] = 0,
) -> None:
    """Print the audit log as JSON lines, oldest first.

    Keep exports elsewhere: 'medfinder audit verify --export FILE' finds what was changed or cut off
    since.

    Example: medfinder audit export idx > audit-2026.jsonl
    """
    import sys

    from medfinder.serve.audit import AuditLog
    from medfinder.serve.database import Database, database_of

    database = Database.open(database_of(state))
    try:
        n = 0
        for n, entry in enumerate(AuditLog(database).every(after), 1):  # noqa: B007
            sys.stdout.write(entry.line() + "\n")
    finally:
        database.close()
    say(f"{n} entries")


def verify(
    state: State,
    anchor: Annotated[
        list[str] | None,
        typer.Option(help="NUMBER:HASH that an earlier run printed; several may be given."),
    ] = None,
    export: Annotated[
        Path | None, typer.Option(help="File that 'medfinder audit export' wrote earlier.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Check that no entry was changed, deleted, inserted, moved or cut off.

    A cut end, or a log rewritten as a whole, shows only beside an anchor or an earlier export.

    Example: medfinder audit verify idx --export audit-2026.jsonl
    """
    from medfinder.serve.audit import Anchor, AuditLog, read_lines
    from medfinder.serve.database import Database, database_of

    anchors = [Anchor.parse(text) for text in anchor or ()]
    if export is not None:
        with export.open(encoding="utf-8") as lines:
            anchors += [Anchor(entry.seq, entry.hash) for entry in read_lines(lines)]
    database = Database.open(database_of(state))
    try:
        found = AuditLog(database).verify(anchors)
    finally:
        database.close()
    if json_:
        emit(
            {
                "is_intact": found.is_intact,
                "n_entries": found.n_entries,
                "first_bad": found.first_bad,
                "last": None if found.last is None else str(found.last),
            }
        )
    if not found.is_intact:
        fail(
            f"The audit log is not as it was written: entry {found.first_bad} of "
            f"{found.n_entries} is missing or was changed. Compare with an earlier export.",
            code=2,
        )
    say(f"{found.n_entries} entries, each sealed by the next; keep this anchor: {found.last}")
