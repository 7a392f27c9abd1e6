"""``medfinder backup`` and ``medfinder restore``: any artifact, to and from a folder or a store."""

from typing import TYPE_CHECKING, Annotated

import typer

from medfinder.cli.talk import done, emit, progress

if TYPE_CHECKING:
    from medfinder.index.backup import Copied


def register(app: typer.Typer) -> None:
    """Add the verbs to the application."""
    app.command("backup")(backup)
    app.command("restore")(restore)


def backup(
    artifact: Annotated[
        str, typer.Argument(help="What a stage wrote: a folder, or s3://BUCKET/PREFIX.")
    ],
    to: Annotated[
        str, typer.Argument(help="The backup: a folder or s3://BUCKET/PREFIX, empty or a backup.")
    ],
    json_: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Copy an artifact into a backup, while it is used.

    Example: medfinder backup idx s3://archive/idx-backup

    A second backup into the same place copies only what is new, and one that was stopped is gone
    on with. What a dataset keeps of identities (its private folder) is left out.
    """
    from medfinder.index.backup import backup as run

    with progress("Copying files") as advance:
        copied = run(artifact, to, advance)
    _tell(copied, json_, f"medfinder restore {to} {artifact}-restored")


def restore(
    backup: Annotated[str, typer.Argument(help="What 'medfinder backup' wrote.")],
    to: Annotated[
        str, typer.Argument(help="Where the artifact is to lie: a folder or s3://BUCKET/PREFIX.")
    ],
    force: Annotated[
        bool, typer.Option("--force", help="Write over the artifact that is there.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Write a backup's artifact, each file verified.

    Example: medfinder restore s3://archive/idx-backup idx

    A restore that was stopped is gone on with; until it has ended, no other command takes what is
    there for an artifact.
    """
    from medfinder.index.backup import restore as run

    with progress("Verifying files") as advance:
        copied = run(backup, to, force=force, progress=advance)
    then = (
        f"medfinder index {to} --check" if copied.stage == "index" else f"medfinder {copied.stage}"
    )
    _tell(copied, json_, then)


def _tell(copied: "Copied", json_: bool, then: str) -> None:
    """Say what was copied."""
    if json_:
        emit(
            {
                "location": copied.location,
                "stage": copied.stage,
                "files": copied.n_files,
                "copied": copied.n_copied,
                "bytes": copied.n_bytes,
                "bytes_total": copied.n_bytes_total,
            }
        )
    done(
        f"{copied.n_files:,} files ({copied.n_bytes_total:,} bytes) in {copied.location}: "
        f"{copied.n_copied:,} copied ({copied.n_bytes:,} bytes), the others were there",
        then,
    )
