"""``medfinder index``: studies and an encoder → an index."""

from pathlib import Path
from typing import Annotated

import typer

from medfinder.cli.talk import done, emit, progress


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("index")(index)


def index(
    studies: Annotated[Path, typer.Argument(help="Folder that 'medfinder curate' wrote.")],
    out: Annotated[
        str,
        typer.Argument(
            help="The index: a folder, s3://… or postgresql://…; an existing one is brought up to date."
        ),
    ],
    encoder: Annotated[
        str,
        typer.Option(
            help="Volume encoder: a name of 'medfinder list encoders', a checkpoint's folder, its id "
            "on the Hub (owner/name), or 'none'."
        ),
    ] = "astra",
    text_encoder: Annotated[
        str, typer.Option(help="Encoder of the reports, or 'none'.")
    ] = "minilm",
    regions: Annotated[
        bool, typer.Option("--regions", help="Keep region features, 2 MB a study.")
    ] = False,
    add: Annotated[
        bool,
        typer.Option("--add", help="Leave studies in the index that this folder does not hold."),
    ] = False,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder that keeps preprocessed volumes for the next encoder."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Processes that read and embed; 0 for one a core, this one alone if not given. "
            "With --ray, workers of the cluster; as many as it has room for if not given."
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            help="Embed on a Ray cluster: auto (this machine's, or that of RAY_ADDRESS), local "
            "(started for this run), or an address. Its machines see the same files."
        ),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Embed every study and make it searchable.

    Example: medfinder index studies idx --encoder astra

    A run that was stopped goes on where it stopped; a second run embeds only what is new or
    changed, and drops what the studies no longer hold. With --add nothing is dropped: several
    folders of studies become one index.

    A study that takes its worker down is tried again, and rejected when it does so every time; its
    report stays. --workers and --ray change nothing but the time.
    """
    from medfinder.scale.choose import open_engine
    from medfinder.search.build import build_index

    with open_engine(workers, ray) as engine, progress("Embedding volumes") as advance:
        made = build_index(
            studies,
            out,
            encoder=None if encoder == "none" else encoder,
            text_encoder=None if text_encoder == "none" else text_encoder,
            keep_regions=regions,
            keep_others=add,
            cache=cache,
            engine=engine,
            progress=advance,
        )
    if json_:
        emit(
            {
                "folder": made.where,
                "studies": made.n_studies,
                "embedded": made.n_embedded,
                "deleted": made.n_deleted,
                "rejections": made.n_rejections,
                "duration_s": made.duration_s,
            }
        )
    rejected = (
        f", {made.n_rejections} could not be read: see {made.rejections}"
        if made.n_rejections
        else ""
    )
    done(
        f"{made.n_studies} studies in {made.where} ({made.n_embedded} embedded, {made.n_deleted} dropped{rejected})",
        f'medfinder search {made.where} "pleural effusion" --k 5',
    )
