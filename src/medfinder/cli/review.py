"""``medfinder review``: experts on the studies that curation doubts."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medfinder.cli.talk import done, emit, fail, out, progress, quoted, say

if TYPE_CHECKING:
    from medfinder.curate.agreement import Agreement

Folder = Annotated[Path, typer.Argument(help="Folder that 'medfinder curate' wrote.")]
Reader = Annotated[str, typer.Option(help="Name of who reads; it stands beside each decision.")]
Json = Annotated[bool, typer.Option("--json", help="Print as JSON.")]


def register(app: typer.Typer) -> None:
    """Add the verb, with its commands, to the application."""
    commands = typer.Typer(
        help="Let experts decide on the studies that curation doubts.", no_args_is_help=True
    )
    commands.command("status")(status)
    commands.command("export")(export)
    commands.command("import")(import_)
    commands.command("agreement")(agreement)
    commands.command("log")(log)
    commands.command("apply")(apply)
    app.add_typer(commands, name="review")


def status(
    folder: Folder,
    readers: Annotated[
        int | None,
        typer.Option(help="Set how many decide on a study, 1 or 2, before the first decision."),
    ] = None,
    json_: Json = False,
) -> None:
    """Show how far the review of a folder is.

    Two readers decide on a study independently; where they differ, a third settles it.

    Example: medfinder review status studies
    """
    from medfinder.curate.review import ReviewQueue

    queue = ReviewQueue(folder, readers=readers)
    now = queue.progress()
    if json_:
        emit(
            {
                "readers": queue.readers,
                "items": now.n_items,
                "settled": now.n_settled,
                "disputed": now.n_disputed,
                "started": now.n_started,
                "decisions": now.n_decisions,
                "outcomes": dict(now.outcomes),
                "orphans": now.n_orphans,
                "stale": now.n_stale,
            }
        )
        return
    outcomes = ", ".join(f"{verdict} {n}" for verdict, n in now.outcomes.items())
    out.print(
        f"{now.n_items} studies in doubt: {now.n_settled} settled ({outcomes}), "
        f"{now.n_disputed} disputed, {now.n_started} with one decision of {queue.readers}",
        markup=False,
        soft_wrap=True,
    )
    if now.n_orphans:
        say(f"{now.n_orphans} doubted studies are not in studies.parquet and are not listed.")
    if now.n_stale:
        say(f"Decisions on {now.n_stale} studies no longer count: what was shown has changed.")
    is_done = now.n_settled == now.n_items and now.n_items > 0
    done(
        f"{now.n_items - now.n_settled} left.",
        f"medfinder review apply {quoted(folder)} OUT"
        if is_done
        else f"medfinder serve idx --review {quoted(folder)}",
    )


def export(
    folder: Folder,
    table: Annotated[Path, typer.Argument(help="CSV to write.")],
    reader: Reader,
) -> None:
    """Write what is left for a reader to do as a CSV, for work elsewhere.

    Fill in the last columns: decision (accept, edit, reject), new_english, new_labels (between
    semicolons) and reason. An empty cell leaves what is there; "none" empties it.

    Example: medfinder review export studies ana.csv --reader "Ana Gómez"
    """
    from medfinder.curate.review import ReviewQueue
    from medfinder.curate.review_table import export_review

    n_rows = export_review(ReviewQueue(folder), table, reader)
    done(
        f"{n_rows} studies for {reader}: {table}",
        f"medfinder review import {quoted(folder)} {quoted(table)} --reader {quoted(reader)}",
    )


def import_(
    folder: Folder,
    table: Annotated[Path, typer.Argument(help="CSV that 'medfinder review export' wrote.")],
    reader: Reader,
    json_: Json = False,
) -> None:
    """Record the decisions of a CSV: all of them, or none and why, row by row.

    Example: medfinder review import studies ana.csv --reader "Ana Gómez"
    """
    from medfinder.curate.review import ReviewQueue
    from medfinder.curate.review_table import import_review

    made = import_review(ReviewQueue(folder), table, reader)
    if json_:
        names = ("row", "study_id", "rule", "reason")
        emit(
            {
                "recorded": made.n_recorded,
                "known": made.n_known,
                "empty": made.n_empty,
                "problems": [dict(zip(names, problem, strict=True)) for problem in made.problems],
            }
        )
    for row, study_id, rule, reason in made.problems:
        say(f"row {row}, {study_id[:80]!r}, {rule}: {reason}")
    if made.problems:
        n = len(made.problems)
        fail(
            f"{n} {'row' if n == 1 else 'rows'} cannot be imported, and so none was. Mend them in "
            "the table, and import it again.",
            code=2,
        )
    done(
        f"{made.n_recorded} decisions recorded, {made.n_known} known before, "
        f"{made.n_empty} rows without one",
        f"medfinder review status {quoted(folder)}",
    )


def agreement(folder: Folder, json_: Json = False) -> None:
    """Show how far the two readers agree: Cohen's kappa over decisions, and for each finding.

    Example: medfinder review agreement studies
    """
    from medfinder.curate.review import ReviewQueue

    found = ReviewQueue(folder).agreement()
    if json_:
        emit(
            {
                "decisions": _plain(found.decisions),
                "findings": {name: _plain(a) for name, a in found.findings.items()},
            }
        )
        return
    width = max([len("decisions"), *map(len, found.findings)])
    for name, a in (("decisions", found.decisions), *found.findings.items()):
        observed, kappa = (
            "  – " if value is None else f"{value:.2f}" for value in (a.observed, a.kappa)
        )
        out.print(
            f"{name:<{width}}  agree {observed}  kappa {kappa:>5}  n {a.n_items}",
            markup=False,
            soft_wrap=True,
        )


def log(
    folder: Folder,
    study: Annotated[str, typer.Option(help="Events of this study only.")] = "",
    json_: Json = False,
) -> None:
    """Check the audit trail, and show who decided what, and when.

    Keep the last line's number and hash elsewhere: they tell whether the end was cut off.

    Example: medfinder review log studies --study study-17
    """
    import dataclasses

    from medfinder.curate.review import ReviewQueue

    queue = ReviewQueue(folder)
    number, head = queue.log.verify()
    events = queue.history(study)
    if json_:
        emit([dataclasses.asdict(event) for event in events])
    else:
        for event in events:
            what = event.after.get("verdict") or event.kind
            out.print(
                f"{event.number:>5}  {event.at[:19]}Z  {event.reader:<20}  {event.kind:<11}  "
                f"{what:<8}  {event.study_id}",
                markup=False,
                soft_wrap=True,
            )
    say(f"{number} events, each bound to the one before it; the last is {head}")


def apply(
    folder: Folder,
    to: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    json_: Json = False,
) -> None:
    """Write a new dataset with the settled decisions in it; FOLDER stays as it is.

    Example: medfinder review apply studies reviewed
    """
    from medfinder.curate.review import ReviewQueue
    from medfinder.curate.review_apply import apply_review

    with progress("Writing studies") as advance:
        made = apply_review(ReviewQueue(folder), to, advance)
    if json_:
        emit(
            {
                "folder": str(to),
                "studies": made.n_studies,
                "rejected": made.n_rejected,
                "translated": made.n_translated,
                "relabelled": made.n_relabelled,
                "cleared": made.n_cleared,
                "open": made.n_open,
            }
        )
    done(
        f"{made.n_studies} studies: {made.n_cleared} no longer in doubt, {made.n_rejected} "
        f"rejected, {made.n_translated} with other English, {made.n_relabelled} with other labels, "
        f"{made.n_open} still in doubt",
        f"medfinder index {quoted(to)} idx",
    )


def _plain(found: "Agreement") -> dict[str, float | int | None]:
    return {"n": found.n_items, "observed": found.observed, "kappa": found.kappa}
