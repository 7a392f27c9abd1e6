"""Builds the command, and is its one edge where errors are caught."""

import os
import sys
from typing import Annotated

import typer

import medfinder
from medfinder.cli import (
    account,
    audit,
    backup,
    benchmark,
    card,
    curate,
    demo,
    encode,
    export,
    findings,
    index,
    listing,
    mcp,
    phantom,
    plan,
    review,
    search,
    serve,
    train,
    translate,
)
from medfinder.cli.talk import fail
from medfinder.errors import MedFinderError

app = typer.Typer(
    name="medfinder",
    help="Find the 3D CT studies that match a sentence, a keyword, a report or another CT.",
    epilog="Start with: medfinder demo. Research use only, not a medical device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(show: bool) -> None:
    if show:
        print(medfinder.__version__)
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Find the 3D CT studies that match a sentence, a keyword, a report or another CT."""
    if debug:
        os.environ["MEDFINDER_DEBUG"] = "1"


for module in (
    demo,
    curate,
    card,
    export,
    review,
    train,
    index,
    search,
    backup,
    benchmark,
    serve,
    mcp,
    account,
    audit,
    encode,
    findings,
    translate,
    phantom,
    plan,
    listing,
):
    module.register(app)


_STOPPED = "Stopped. Run the same command again to go on where it stopped ('medfinder train' with --resume)."


def main() -> None:
    """Run the command line and exit: 0 done, 1 our own bug, 2 something the user can mend."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    debug = "--debug" in sys.argv or bool(os.environ.get("MEDFINDER_DEBUG"))
    try:
        app()
    except MedFinderError as error:
        if debug:
            raise
        fail(str(error), code=2)
    except BrokenPipeError:
        # The reader (head, less) has had enough: that is not an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        fail(_STOPPED, code=130)
    except SystemExit as error:
        if error.code == 130:  # Typer's own word for an interrupt
            fail(_STOPPED, code=130)
        raise
    except OSError as error:
        if debug:
            raise
        where = "" if error.filename is None else f"{str(error.filename)!r}: "
        fail(
            f"{where}{error.strerror or error}. Check the path, the space and the permissions.",
            code=2,
        )
    except Exception as error:
        if debug:
            raise
        fail(
            f"Unexpected {type(error).__name__}: this is a fault of MedFinder. "
            "Run again with --debug and report the traceback.",
            code=1,
        )
