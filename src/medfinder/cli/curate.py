"""``medfinder curate``: raw CTs and reports → studies and rejections."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medfinder.cli.talk import done, emit, progress

if TYPE_CHECKING:
    from medfinder.curate.sources.source import Source


def register(app: typer.Typer) -> None:
    """Add the verb, with one command a source, to the application."""
    sources = typer.Typer(
        help="Turn raw CTs and reports into studies, and say what was left out.",
        no_args_is_help=True,
    )
    sources.command("folder")(folder)
    app.add_typer(sources, name="curate")


def folder(
    root: Annotated[
        Path, typer.Argument(help="Folder of NIfTI files and DICOM series, any depth.")
    ],
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    reports: Annotated[
        Path | None,
        typer.Option(
            help="CSV, TSV or JSON table: file or study_id, text, and what else is known."
        ),
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="Column that holds the report, if not called text, report, …")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file; its table 'curate' is read.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="One setting: check.min_slices=20. Repeatable."),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Curate a folder of CTs, with or without reports.

    Example: medfinder curate folder ./archive studies --reports reports.csv

    Bad items never stop the run: each is a row of OUT/rejections.parquet with its reason.
    """
    from medfinder.curate.sources.folder import FolderSource

    _run(FolderSource(root, reports, text), out, config, set_ or (), json_)


def _run(
    source: "Source", out: Path, config: Path | None, set_: Sequence[str], json_: bool
) -> None:
    """Curate what any source gives, and print what came of it."""
    from medfinder.config import load_config
    from medfinder.curate.curate import CurateConfig, curate

    settings = load_config(CurateConfig, config, set_, section="curate")
    with progress("Reading volumes") as advance:
        made = curate(source, out, settings, advance)
    if json_:
        emit(
            {
                "folder": str(out),
                "studies": made.n_studies,
                "rejections": made.n_rejections,
                "by_rule": made.by_rule,
            }
        )
    rules = ", ".join(f"{rule} {n}" for rule, n in made.by_rule.items())
    rejected = (
        f", {made.n_rejections} rejected ({rules}): see {out / 'rejections.parquet'}"
        if made.n_rejections
        else ", none rejected"
    )
    done(f"{made.n_studies} studies{rejected}", f"medfinder index {out} idx --encoder astra")
