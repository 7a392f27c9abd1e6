"""``medfinder phantom``: nothing → synthetic chest CTs with their reports."""

from pathlib import Path
from typing import Annotated

import typer

from medfinder.cli.talk import done, emit, progress


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("phantom")(phantom)


def phantom(
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    n: Annotated[int, typer.Option(help="How many studies.")] = 20,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 1,
    dicom: Annotated[
        bool, typer.Option("--dicom", help="Write DICOM series instead of NIfTI.")
    ] = False,
    language: Annotated[str, typer.Option(help="Language of the reports: en or es.")] = "en",
    workers: Annotated[int, typer.Option(help="Processes; 0 for one a core.")] = 0,
    json_: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Make synthetic chest CTs with reports: for trying things out, not for judging models.

    Example: medfinder phantom out --n 200 --seed 1
    """
    from typing import cast

    from medfinder.errors import InputError
    from medfinder.phantom.phantom import write_phantoms
    from medfinder.records import Language

    if language not in ("en", "es"):
        raise InputError(f"The language is en or es, got {language!r}.")
    with progress("Drawing phantoms") as advance:
        write_phantoms(
            out,
            n,
            seed,
            dicom=dicom,
            language=cast(Language, language),
            workers=workers,
            progress=advance,
        )
    if json_:
        emit({"folder": str(out), "studies": n, "seed": seed})
    done(
        f"{n} phantom studies in {out}",
        f"medfinder curate folder {out} studies --reports {out}/studies.csv",
    )
