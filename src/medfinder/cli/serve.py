"""``medfinder serve``: an index → REST and a page."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from medfinder.cli.talk import say


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("serve")(serve)


def serve(
    index: Annotated[
        str,
        typer.Argument(help="What 'medfinder index' wrote: a folder, s3://… or postgresql://…"),
    ],
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; 127.0.0.1 if not given.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port; 0 for any free one, 8000 if not given.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that answer; 1 if not given.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file; its table 'serve' is read.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="One setting: max_uploads=8. Repeatable."),
    ] = None,
    open_browser: Annotated[
        bool, typer.Option("--open", help="Open the page in a browser.")
    ] = False,
    allow_remote: Annotated[
        bool,
        typer.Option(
            "--allow-remote", help="As --access off, with an address beyond this machine."
        ),
    ] = False,
    access: Annotated[
        str | None,
        typer.Option(
            help="required: nobody without an account; off: all who reach it may do everything; "
            "auto, if not given: off on this machine alone, required elsewhere."
        ),
    ] = None,
    database: Annotated[
        Path | None,
        typer.Option(help="SQLite file for accounts, collections and the audit log."),
    ] = None,
    review: Annotated[
        Path | None,
        typer.Option(help="Curated folder whose studies in doubt are reviewed in the page."),
    ] = None,
    ingest: Annotated[
        Path | None,
        typer.Option(help="Folder that keeps the volumes of studies sent to /v1/ingest."),
    ] = None,
    card: Annotated[
        Path | None,
        typer.Option(help="Dataset card to show in the page: HTML that 'medfinder card' wrote."),
    ] = None,
    benchmark: Annotated[
        Path | None,
        typer.Option(help="Benchmark to show in the page: HTML that 'medfinder benchmark' wrote."),
    ] = None,
) -> None:
    """Serve the search page and the REST API of an index.

    Example: medfinder serve idx

    Example: medfinder serve idx --review studies

    A setting on the command line counts before MEDFINDER_SERVE_NAME in the environment, and that
    before the file.
    """
    from dataclasses import replace

    from medfinder.serve.app import serve as run
    from medfinder.serve.config import load_serve_config
    from medfinder.serve.ingest import check_folder
    from medfinder.serve.page_routes import Documents

    given = [*(set_ or ()), *([] if access is None else [f"access.mode={access}"])]
    given += [] if workers is None else [f"workers={workers}"]
    settings = load_serve_config(config, os.environ, given)
    if database is not None:
        place = replace(settings.access, database_url=str(database))
        settings = replace(settings, access=place)
    if ingest is not None:
        settings = replace(settings, ingest=replace(settings.ingest, folder=str(ingest)))
    if settings.ingest.folder:
        check_folder(settings.ingest)
    end(
        run(
            index,
            host=host,
            port=port,
            open_browser=open_browser,
            allow_remote=allow_remote,
            config=settings,
            review=review,
            documents=Documents(card, benchmark),
        )
    )


def end(is_done: bool) -> None:
    """Return if all work is done, else end the process, with it what threads are still doing."""
    if not is_done:
        say("Stopped, and what was still in work was ended.")
        sys.stdout.flush()
        os._exit(0)
