"""``medfinder translate``: a table of Spanish reports → checked English ones, and an expert's queue."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medfinder.cli.talk import done, emit, progress, say

if TYPE_CHECKING:
    from medfinder.curate.tables import RowReader
    from medfinder.report.translate import Translator

COLUMNS = ("study_id", "row", "translation", "rules", "reasons", "rejected", "attempts", "is_given")
"""Columns of the table that is written, one row a report, in the order of the table read."""


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("translate")(translate)


def translate(
    table: Annotated[Path, typer.Argument(help="CSV, TSV, XLSX or JSON table of Spanish reports.")],
    out: Annotated[Path, typer.Argument(help="CSV file to write.")],
    with_: Annotated[
        str, typer.Option("--with", help="chat, marian or apertium; none checks --given only.")
    ] = "apertium",
    column: Annotated[
        str | None, typer.Option(help="Column of the Spanish, if not called report, text, …")
    ] = None,
    given: Annotated[
        str | None, typer.Option(help="Column of English that is checked, and kept if it passes.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="chat: the model's name; marian: a folder or a Hub name.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="chat: the API's root, such as http://127.0.0.1:8000/v1.")
    ] = None,
    price_in: Annotated[
        float | None, typer.Option(help="chat: price of a million prompt tokens.")
    ] = None,
    price_out: Annotated[
        float | None, typer.Option(help="chat: price of a million reply tokens.")
    ] = None,
    concurrency: Annotated[int | None, typer.Option(help="chat: requests at once.")] = None,
    requests_per_minute: Annotated[
        float | None, typer.Option(help="chat: most requests a minute.")
    ] = None,
    tokens_per_minute: Annotated[
        float | None, typer.Option(help="chat: most tokens a minute.")
    ] = None,
    attempts: Annotated[int, typer.Option(help="Times a report is asked for.")] = 3,
    asks_again: Annotated[
        bool, typer.Option("--ask-again", help="Ask anew for what failed in an earlier run.")
    ] = False,
    cache: Annotated[
        Path | None, typer.Option(help="File of kept translations; OUT.cache otherwise.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it will cost, and ask nobody.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Translate Spanish reports into English, and check every translation.

    Example: medfinder translate BIMCV-R.csv english.csv --with apertium --given Report_en

    A report whose translation fails a check is asked for again; when no attempt passes, its row
    has no translation but the rules it broke and the last text. Killed runs go on without asking
    twice. The key of a chat endpoint is read from MEDFINDER_CHAT_KEY.
    """
    from medfinder.artifact import atomic_write
    from medfinder.report.translate import TranslateConfig, estimate, translate_all

    reader = _reader(table, column, given)
    options = {
        "model": model,
        "url": url,
        "price_in": price_in,
        "price_out": price_out,
        "concurrency": concurrency,
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
    }
    made_by = _translator(with_, options)
    config = TranslateConfig(attempts=attempts, asks_again=asks_again)
    kept = cache or out.with_name(out.name + ".cache")
    if dry_run:
        if made_by is None:
            say("Nothing is asked of anyone: --with none.")
            return
        price, n_asked = estimate(_items(reader), made_by, kept, config=config)
        figures: dict[str, Any] = {"reports_to_ask": n_asked}
        if price is not None:
            figures |= {
                "requests": price.requests,
                "tokens_in": price.tokens_in,
                "tokens_out": price.tokens_out,
                "price": price.amount,
            }
        if json_:
            emit(figures)
        say(", ".join(f"{key.replace('_', ' ')} {value}" for key, value in figures.items()))
        return
    counts = {"reports": 0, "translated": 0, "given": 0, "queued": 0}
    by_rule: dict[str, int] = {}
    with progress("Translating") as advance, atomic_write(out) as raw:
        file = io.TextIOWrapper(raw, encoding="utf-8", newline="")
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        items = _items(reader)
        for number, made in enumerate(
            translate_all(
                items, made_by, kept, config=config, progress=lambda n: advance(n, max(n, 1))
            ),
            start=1,
        ):
            counts["reports"] += 1
            counts["given"] += made.is_given
            counts["translated" if made.text is not None else "queued"] += 1
            for problem in made.problems:
                by_rule[problem.rule] = by_rule.get(problem.rule, 0) + 1
            writer.writerow(
                [
                    _cell(made.id),
                    number,
                    _cell(made.text or ""),
                    " ".join(problem.rule for problem in made.problems),
                    _cell(" ".join(problem.reason for problem in made.problems)),
                    _cell(made.rejected_text or ""),
                    made.attempts,
                    int(made.is_given),
                ]
            )
        file.flush()
        file.detach()
    if json_:
        emit({"file": str(out), **counts, "by_rule": dict(sorted(by_rule.items()))})
    rules = ", ".join(f"{rule} {n}" for rule, n in sorted(by_rule.items()))
    queued = f", {counts['queued']} for an expert ({rules})" if counts["queued"] else ""
    done(
        f"{out}: {counts['translated']} of {counts['reports']} translated{queued}", f"head -3 {out}"
    )


def _reader(table: Path, column: str | None, given: str | None) -> "RowReader":
    from medfinder.curate.tables import COLUMNS as KNOWN
    from medfinder.curate.tables import RowReader

    text = (column,) if column else ("report", "report_es", "text", "report_text", "informe")
    columns = {"study_id": KNOWN["study_id"], "text": text}
    if given:
        columns["given"] = (given,)
    return RowReader(table, columns, ["text", *(["given"] if given else [])])


def _items(reader: "RowReader") -> Iterator[tuple[str, str, str | None]]:
    for row in reader:
        name = row.cells.get("study_id", "") or str(row.number)
        yield name, row.cells["text"], row.cells.get("given") or None


def _translator(name: str, options: dict[str, Any]) -> "Translator | None":
    from medfinder.errors import ConfigError
    from medfinder.report.translate import translator

    if name == "none":
        return None
    if name == "marian":
        import medfinder.model.marian  # noqa: F401  it registers itself
    takes = {"apertium": (), "marian": ("model",)}.get(name, tuple(options))
    for option, value in options.items():
        if value is not None and option not in takes:
            flag = "--" + option.replace("_", "-")
            raise ConfigError(f"{flag} is for another translator than {name}. Leave it out.")
    return translator(name, **options)


def _cell(text: str) -> str:
    """Return a cell that no spreadsheet runs as a formula."""
    return "'" + text if text.startswith(("=", "+", "@")) else text
