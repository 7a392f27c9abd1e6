"""``medfinder findings``: a table of reports → their findings."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from medfinder.cli.talk import done, emit, progress


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("findings")(findings)


def findings(
    table: Annotated[Path, typer.Argument(help="CSV, TSV or JSON table of reports.")],
    text: Annotated[
        str | None, typer.Option(help="Column that holds the report, if not called text, report, …")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="JSON Lines file to write; stdout otherwise.")
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="en or es; told by the text otherwise.")
    ] = None,
    json_: Annotated[
        bool, typer.Option("--json", help="With --out: print the summary as JSON.")
    ] = False,
) -> None:
    """Read the findings of every report: one line of JSON a row, in the table's order.

    Example: medfinder findings reports.csv --text report_text --out findings.jsonl

    A line is {"findings": [{"name", "cui", "status", "laterality", "location", "start", "end"}]};
    start and end are offsets into the cleaned text.
    """
    from typing import cast

    from medfinder.artifact import atomic_write
    from medfinder.curate.tables import read_table
    from medfinder.errors import EmptyReport, InputError
    from medfinder.records import Language
    from medfinder.report.findings import extract_findings
    from medfinder.report.parse import parse_report

    if language not in (None, "en", "es"):
        raise InputError(f"The language is en or es, got {language!r}.")
    rows = read_table(table, text=text)
    if "text" not in rows.columns:
        raise InputError(
            f"No column holds the reports. Name it with --text; columns: {', '.join(rows.rows[0])}."
        )
    lines, n_findings = [], 0
    with progress("Reading reports") as advance:
        for number, row in enumerate(rows.rows, start=1):
            try:
                report = parse_report(rows.get(row, "text"), cast(Language | None, language))
                found = extract_findings(report)
            except EmptyReport:
                found = ()
            n_findings += len(found)
            line = {"findings": [dataclasses.asdict(f) for f in found]}
            lines.append(json.dumps(line, ensure_ascii=False))
            advance(number, len(rows.rows))
    content = "\n".join(lines) + "\n"
    if out is None:
        typer.echo(content, nl=False)
        return
    with atomic_write(out) as file:
        file.write(content.encode())
    if json_:
        emit({"file": str(out), "reports": len(lines), "findings": n_findings})
    done(f"{out}: {n_findings} findings in {len(lines)} reports", f"head -1 {out}")
