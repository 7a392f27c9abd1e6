"""``medfinder index``: studies and an encoder → an index."""

from pathlib import Path
from typing import Annotated

import typer

from medfinder.cli.talk import done, emit, progress, quoted, say
from medfinder.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("index")(index)


def index(
    studies: Annotated[
        str,
        typer.Argument(
            help="Folder that 'medfinder curate' wrote; with --check or --repair, the index."
        ),
    ],
    out: Annotated[
        str | None,
        typer.Argument(
            help="The index: a folder, s3://… or postgresql://…; an existing one is brought up to date."
        ),
    ] = None,
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
    check: Annotated[
        bool, typer.Option("--check", help="Compare an index with what it should be: each row.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Mend what --check finds; what is dropped is listed.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Embed every study and make it searchable.

    Examples: medfinder index studies idx --encoder astra,
    medfinder index idx --check

    A run that was stopped goes on where it stopped; a second run embeds only what is new or
    changed, and drops what the studies no longer hold. With --add nothing is dropped: several
    folders of studies become one index.

    A study that takes its worker down is tried again, and rejected when it does so every time; its
    report stays. --workers and --ray change nothing but the time.
    """
    if check or repair:
        _care(studies, out, check and not repair, json_)
        return
    if out is None:
        raise ConfigError("Where is the index to lie? medfinder index STUDIES OUT.")
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
        f"; the CTs of {made.n_rejections} could not be read: see {made.rejections}"
        if made.n_rejections
        else ""
    )
    done(
        f"{made.n_studies} studies in {made.where} ({made.n_embedded} embedded, {made.n_deleted} dropped{rejected})",
        f'medfinder search {quoted(made.where)} "pleural effusion" --k 5',
    )


def _care(index: str, out: str | None, only_check: bool, json_: bool) -> None:
    """Check or repair an index; exit with 1 where something is still wrong."""
    if out is not None:
        raise ConfigError("--check and --repair take one index: medfinder index IDX --check.")
    import dataclasses

    from medfinder.index.open import check, repair

    with progress("Comparing rows") as advance:
        if only_check:
            found = last = check(index, advance)
            dropped: tuple[str, ...] = ()
            n_unnamed = 0
        else:
            made = repair(index, advance)
            found, last, dropped, n_unnamed = made.before, made.after, made.dropped, made.n_unnamed
    if json_:
        emit(
            {
                "index": found.location,
                "studies": last.n_studies,
                "vectors": last.n_vectors,
                "files": last.n_files,
                "defects": [dataclasses.asdict(defect) for defect in found.defects],
                "dropped": list(dropped),
                "dropped_unnamed": n_unnamed,
                "sound": last.is_sound,
            }
        )
    for defect in found.defects:
        say(str(defect))
    for study_id in dropped:
        say(f"dropped: {study_id}")
    if n_unnamed:
        say(f"dropped: {n_unnamed} rows whose study cannot be read either")
    summary = (
        f"{last.n_studies} studies, {last.n_vectors} vectors and {last.n_files} files compared in "
        f"{found.location}: "
    )
    name = quoted(found.location)
    can_mend = only_check and not any(d.repair.startswith("none") for d in last.defects)
    if last.is_sound:
        lost = len(dropped) + n_unnamed
        is_short = lost or not last.n_studies
        then = f"medfinder index STUDIES {name}" if is_short else f"medfinder serve {name}"
        done(summary + (f"sound, {lost} rows dropped" if lost else "sound"), then)
        return
    done(
        summary + f"{len(last.defects)} defects",
        f"medfinder index {name} --repair" if can_mend else f"medfinder restore BACKUP {name}",
    )
    raise typer.Exit(1)
