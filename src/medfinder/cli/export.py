"""``medfinder export``: curated studies → a folder to give out."""

from pathlib import Path
from typing import Annotated

import typer

from medfinder.cli.talk import done, emit, progress, say


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("export")(export)


def export(
    studies: Annotated[Path, typer.Argument(help="Folder that 'medfinder curate' wrote.")],
    out: Annotated[Path, typer.Argument(help="Folder to make.")],
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            help="hub (datasets.load_dataset reads it), webdataset (tar shards) or bimcv-r (the "
            "published table and shards).",
        ),
    ] = "hub",
    volumes: Annotated[
        str,
        typer.Option(
            help="copy (each written anew as NIfTI), link (hard links, where a file's header holds "
            "no words; else copied) or none."
        ),
    ] = "copy",
    shard_mb: Annotated[
        int, typer.Option(help="Largest Parquet file or tar shard, in megabytes.")
    ] = 500,
    licence: Annotated[
        str, typer.Option(help="The Hub's identifier of the licence; the source's own otherwise.")
    ] = "",
    card: Annotated[
        bool, typer.Option(help="Write the dataset card too, with its pictures.")
    ] = True,
    json_: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Write the dataset for others to read, with its card and without a path or a series number.

    Example: medfinder export studies shared --format webdataset --shard-mb 1000

    OUT appears when it is whole; a run that was stopped goes on where it stopped. A volume that
    cannot be read is a row of OUT/rejections.parquet; its report is given out all the same.
    """
    from typing import cast

    from medfinder.curate.export import ExportConfig, Format, Volumes
    from medfinder.curate.export import export as run

    config = ExportConfig(
        format=cast(Format, format_),
        volumes=cast(Volumes, volumes),
        shard_mb=shard_mb,
        licence=licence,
        card=card,
    )
    with progress("Exporting studies") as advance:
        made = run(studies, out, config, advance)
    if json_:
        emit(
            {
                "folder": str(out),
                "studies": made.n_studies,
                "volumes": made.n_volumes,
                "left_out": made.left_out,
            }
        )
    rules = ", ".join(f"{rule} {n}" for rule, n in made.left_out.items())
    lost = f", without the volumes of {rules}: see {out / 'rejections.parquet'}" if rules else ""
    say(f"{made.n_studies} studies, {made.n_volumes} volumes{lost}. {made.terms}")
    then = {
        "hub": f"python -c \"import datasets; print(datasets.load_dataset('{out}'))\"",
        "webdataset": f"tar -tf {out}/train-000000.tar | head",
        "bimcv-r": f"medfinder curate bimcv-r {out}/meta/BIMCV-R.csv again --volumes {out}",
    }
    done(f"{out} written", then[format_])
