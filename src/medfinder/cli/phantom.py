"""``medfinder phantom``: nothing → synthetic chest CTs with their reports."""

from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer

from medfinder.cli.talk import done, emit, progress, quoted


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("phantom")(phantom)


def phantom(
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    n: Annotated[
        int | None,
        typer.Option(help="How many studies: 20; with --benchmark to train on: 2000."),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 1,
    split_by: Annotated[
        str,
        typer.Option(
            help="patient: no patient is in two of train, val and test; none: no split is written."
        ),
    ] = "patient",
    language: Annotated[
        str, typer.Option(help="Of the reports: en, es or mixed; an archive has its own.")
    ] = "en",
    size: Annotated[
        str,
        typer.Option(help="Voxels, depth x height x width: 96x160x160; with --benchmark 64x96x96."),
    ] = "",
    masks: Annotated[bool, typer.Option("--masks", help="Also write the findings' masks.")] = False,
    dicom: Annotated[
        bool, typer.Option("--dicom", help="Write DICOM series instead of NIfTI.")
    ] = False,
    benchmark: Annotated[
        bool,
        typer.Option(
            "--benchmark",
            help="Write the benchmark: a folder for each split, swaps and changed studies.",
        ),
    ] = False,
    n_val: Annotated[int, typer.Option(help="With --benchmark: validation studies.")] = 300,
    n_test: Annotated[
        int, typer.Option(help="With --benchmark: studies of each test split.")
    ] = 500,
    archive: Annotated[
        str,
        typer.Option(
            help="Write an archive of N patients as a source leaves it, with planted defects: "
            "bimcv, bimcv_r, ct_rate or merlin."
        ),
    ] = "",
    no_volumes: Annotated[
        bool, typer.Option("--no-volumes", help="With --archive: its tables alone.")
    ] = False,
    workers: Annotated[int, typer.Option(help="Processes; 0 for one a core.")] = 0,
    json_: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Make synthetic chest CTs with reports: to try things out, and as a benchmark.

    Run again with the same options, it draws only what is missing.

    Examples: medfinder phantom out --n 2000 --seed 1 --split-by patient,
    medfinder phantom bench --benchmark --language mixed,
    medfinder phantom raw --archive bimcv --n 300
    """
    from medfinder.errors import InputError
    from medfinder.phantom.phantom import ReportLanguage, write_phantoms
    from medfinder.registry import unknown

    if language not in get_args(ReportLanguage):
        raise InputError(unknown("language", language, list(get_args(ReportLanguage))))
    if split_by not in ("patient", "none"):
        raise InputError(unknown("split", split_by, ["patient", "none"]))
    options: dict[str, Any] = {
        "language": cast(ReportLanguage, language),
        "masks": masks,
        "workers": workers,
    }
    if size:
        options["size"] = _shape(size)
    if archive:
        if benchmark or dicom or masks:
            raise InputError("An archive has no masks, DICOM series or benchmark. Choose one.")
        _archive(out, archive, 20 if n is None else n, seed, not no_volumes, options, json_)
        return
    if no_volumes:
        raise InputError("Only an archive can be written without its volumes. Add --archive.")
    if benchmark:
        from medfinder.phantom.benchmark import write_benchmark

        if dicom or split_by == "none":
            raise InputError(
                "The benchmark is written as NIfTI and in its own splits. "
                f"Leave out {'--dicom' if dicom else '--split-by'}."
            )
        n = 2000 if n is None else n
        with progress("Drawing the benchmark") as advance:
            counts = write_benchmark(
                out, n, seed, n_val=n_val, n_test=n_test, progress=advance, **options
            )
        if json_:
            emit({"folder": str(out), "studies": counts, "seed": seed})
        done(
            f"{sum(counts.values())} phantom studies in {len(counts)} folders of {out}",
            f"medfinder curate folder {quoted(out / 'test' / 'volumes')} studies "
            f"--reports {quoted(out / 'test' / 'studies.csv')}",
        )
        return
    n = 20 if n is None else n
    with progress("Drawing phantoms") as advance:
        write_phantoms(
            out, n, seed, dicom=dicom, split_by=cast(Any, split_by), progress=advance, **options
        )
    if json_:
        emit({"folder": str(out), "studies": n, "seed": seed})
    volumes = out / ("dicom" if dicom else "volumes") if masks else out  # masks are no studies
    done(
        f"{n} phantom studies in {out}",
        f"medfinder curate folder {quoted(volumes)} studies --reports {quoted(out / 'studies.csv')}",
    )


_CURATE = {
    "bimcv": "bimcv {root}",
    "bimcv_r": "bimcv-r {root}/meta/BIMCV-R.csv",
    "ct_rate": "ct-rate {root}",
    "merlin": "merlin {root}",
}


def _archive(
    out: Path, layout: str, n: int, seed: int, volumes: bool, options: dict[str, Any], json_: bool
) -> None:
    """Write an archive in the layout of a source, and what was planted in it beside."""
    from medfinder.phantom.archive import write_archive

    chosen = {key: options[key] for key in ("size", "workers") if key in options}
    with progress("Drawing the archive") as advance:
        root = write_archive(
            out, n, seed, layout=cast(Any, layout), volumes=volumes, progress=advance, **chosen
        )
    if json_:
        emit({"folder": str(root), "patients": n, "seed": seed})
    place = " --volumes {root}" if volumes else " --table-only"
    command = _CURATE[layout] + (place if layout == "bimcv_r" else "") + " studies"
    done(
        f"An archive of {n} patients in {root}; what is wrong with it in {out}/planted.jsonl",
        f"medfinder curate {command.format(root=quoted(root))}",
    )


def _shape(text: str) -> tuple[int, int, int]:
    """Read ``64x96x96``."""
    from medfinder.errors import InputError

    parts = text.lower().replace("×", "x").split("x")
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() for part in parts):
        raise InputError(
            f"The size {text!r} is not one of a volume. Expected depth x height x width in voxels, "
            "such as 64x96x96."
        )
    depth, height, width = (int(part) for part in parts)
    return depth, height, width
