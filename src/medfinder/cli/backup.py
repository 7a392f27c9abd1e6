"""``medfinder backup`` and ``medfinder restore``: any artifact, to and from a folder or a store."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medfinder.cli.talk import done, emit, progress
from medfinder.place import S3

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

    A second backup into the same place copies only what is new, verifies what is there, and writes
    again what is damaged; one that was stopped is gone on with. A place that holds a backup of
    another stage, or of an index of other encoders, is refused. What a dataset keeps of identities
    (its private folder) is left out.
    """
    from medfinder.index.backup import backup as run

    with progress("Copying files") as advance:
        copied = run(artifact, to, advance)
    then = f"medfinder restore {shlex.quote(to)} {shlex.quote(_beside(artifact))}"
    _tell(copied, json_, then)


def restore(
    backup: Annotated[str, typer.Argument(help="What 'medfinder backup' wrote.")],
    to: Annotated[
        str, typer.Argument(help="Where the artifact is to lie: a folder or s3://BUCKET/PREFIX.")
    ],
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Write over an artifact of the same stage, once the backup is verified."
        ),
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
    quoted = shlex.quote(to)
    then = {
        "curate": f"medfinder index {quoted} idx",
        "index": f"medfinder index {quoted} --check",
        "train": f"medfinder index STUDIES idx --encoder {quoted}",
    }
    _tell(copied, json_, then.get(copied.stage, f"medfinder {copied.stage} --help"))


def _beside(artifact: str) -> str:
    """Return a name for a copy, beside what is copied."""
    if artifact.startswith(S3):
        return f"{artifact.rstrip('/')}-restored"
    path = Path(artifact)
    return f"{path if path.name not in ('', '..') else path.resolve()}-restored"


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
