"""``medfinder card``: curated studies → their dataset card, or two datasets compared."""

from pathlib import Path
from typing import Annotated

import typer

from medfinder.cli.talk import done, emit, say


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("card")(card)


def card(
    studies: Annotated[
        Path | None, typer.Argument(help="Folder that 'medfinder curate' wrote.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write into; STUDIES itself otherwise.")
    ] = None,
    diff: Annotated[
        tuple[Path, Path] | None,
        typer.Option(help="Compare two folders of studies instead; without --out on stdout."),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """Write the dataset card, card.md and card.html: numbers, pictures, what was left out and why.

    Example: medfinder card studies

    Example: medfinder card --diff studies-2024 studies-2025 --out changes
    """
    import dataclasses

    from medfinder.curate.card import write_card
    from medfinder.curate.difference import difference, difference_markdown, write_difference
    from medfinder.errors import InputError

    if (studies is None) == (diff is None):
        raise InputError(
            "A card is of one folder, a comparison of two. Give STUDIES, or --diff A B.",
            rule="card-arguments",
        )
    if diff is not None:
        found = difference(*diff)
        if json_:
            emit(found.to_dict())
        if out is not None:
            text, data = write_difference(found, out)
            done(f"{text} and {data.name} written", f"less {text}")
        elif not json_:
            typer.echo(difference_markdown(found), nl=False)
        return
    assert studies is not None
    made = write_card(studies, out)
    if json_:
        emit(dataclasses.asdict(made.statistics))
    numbers = made.statistics
    say(
        f"{numbers.n_studies} studies of {numbers.n_patients} patients, {numbers.n_reports} "
        f"reports, {len(numbers.affirmed)} findings affirmed"
    )
    done(f"{made.markdown} and {made.page.name} written", f"open {made.page}")
