"""A review as a CSV for those who work elsewhere: written for one reader, read back as a whole.

Spreadsheets run cells that begin with ``=`` and its like: such cells are written after an
apostrophe, which is taken away again when they come back.
"""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from medfinder.artifact import atomic_write
from medfinder.curate.review import Decision, ReviewQueue, View, Vote, reader_name
from medfinder.curate.tables import read_table
from medfinder.errors import InputError

COLUMNS = (
    "study_id",
    "doubt",
    "rules",
    "reasons",
    "original",
    "english",
    "problems",
    "labels",
    "other_decisions",
    "source_hash",
    "decision",
    "new_english",
    "new_labels",
    "reason",
)
"""The last four are the reader's."""
NONE = "none"
"""In ``new_english`` or ``new_labels``: the study has none; an empty cell leaves them."""
_FORMULA = tuple(
    "=+-@\t\r\n＝＋－＠"
)  # OWASP, CSV injection; full-width forms as they start formulas too


@dataclass(frozen=True, slots=True)
class Imported:
    """What came of an import.

    Attributes:
        n_recorded: Decisions that were recorded.
        n_known: Rows that say what the reader has decided before.
        n_empty: Rows without a decision.
        problems: (row, study_id, rule, reason) of each row that cannot be; where there is one,
            nothing was recorded. Rows are counted as a spreadsheet does: the header is row 1.
    """

    n_recorded: int
    n_known: int
    n_empty: int
    problems: tuple[tuple[int, str, str, str], ...]


def export_review(queue: ReviewQueue, path: Path, reader: str) -> int:
    """Write what is left for a reader to do, most doubted first, and return how many rows.

    Args:
        path: CSV: UTF-8 with a byte order mark, without which spreadsheets spoil accents.

    Raises:
        InputError: The name is empty or no name, the path does not end in .csv (rule ``not-csv``),
            or a file is there (rule ``file-exists``): it may hold a reader's work.
    """
    if path.suffix.lower() != ".csv":
        raise InputError(
            f"The table is written as CSV: expected a name that ends in .csv, got {path.name!r}. "
            "Give another name.",
            rule="not-csv",
        )
    if path.exists():
        raise InputError(
            f"There is a file at {str(path)!r}, which may hold a reader's decisions. Import it and "
            "remove it, or give another name.",
            rule="file-exists",
        )
    states = queue.states(reader)
    todo = [item.study_id for item, state in states if state in ("todo", "disputed")]
    with atomic_write(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="", write_through=True)
        writer = csv.writer(text, lineterminator="\r\n")
        writer.writerow(COLUMNS)
        for study_id in todo:
            writer.writerow([guarded(cell) for cell in _cells(queue.view(reader, study_id))])
        text.detach()
    return len(todo)


def import_review(queue: ReviewQueue, path: Path, reader: str) -> Imported:
    """Record the decisions of a table that `export_review` wrote: all of them, or none.

    Any separator and encoding that spreadsheets write is read. Columns that were only to be read
    may be gone, except study_id and source_hash, which tells whether the study is still the same.

    Raises:
        InputError: There is no such table, it lacks a column (rule ``missing-column``), or the
            name is empty or no name.
    """
    name = reader_name(reader)
    rows = read_table(path).rows
    missing = [c for c in ("study_id", "source_hash", "decision") if c not in rows[0]]
    if missing:
        raise InputError(
            f"The table lacks the columns {', '.join(missing)}: expected those that 'medfinder "
            "review export' writes. Export it again.",
            rule="missing-column",
        )
    n_empty = 0
    problems: list[tuple[int, str, str, str]] = []
    given: list[tuple[int, str, Decision, str | None]] = []
    seen: dict[str, int] = {}
    for number, row in enumerate(rows, start=2):
        cells = {column: bare(cell or "") for column, cell in row.items()}
        study_id = cells["study_id"].strip()
        verdict = cells["decision"].strip().lower()
        if not verdict:
            filled = [
                c for c in ("new_english", "new_labels", "reason") if cells.get(c, "").strip()
            ]
            if filled:
                reason = f"There is no decision, but {filled[0]} is filled in. Write accept, edit or reject."
                problems.append((number, study_id, "bad-decision", reason))
            else:
                n_empty += 1
            continue
        if study_id in seen:
            reason = f"The study was decided in row {seen[study_id]} already. Keep one of the rows."
            problems.append((number, study_id, "duplicate-row", reason))
            continue
        seen[study_id] = number
        shown = cells["source_hash"].strip().removeprefix("h")
        given.append((number, study_id, _decision(verdict, cells), shown))
    # Recorded only when no row is wrong; asked all the same, so that all that is wrong is told.
    n_recorded, n_known, more = queue.decide_all(name, given, is_trial=bool(problems))
    problems = sorted([*problems, *more])
    if problems:
        return Imported(0, 0, n_empty, tuple(problems))
    return Imported(n_recorded, n_known, n_empty, ())


def guarded(cell: str) -> str:
    """Return a cell that no spreadsheet takes for a formula; `bare` undoes it."""
    return f"'{cell}" if cell.startswith((*_FORMULA, "'")) else cell


def bare(cell: str) -> str:
    """Return a cell as it was before `guarded`; an apostrophe before anything else stays."""
    return cell[1:] if cell[:1] == "'" and cell[1:].startswith((*_FORMULA, "'")) else cell


def _decision(verdict: str, cells: dict[str, str]) -> Decision:
    english = cells.get("new_english", "").strip()
    labels = cells.get("new_labels", "").strip()
    return Decision(
        verdict,  # type: ignore[arg-type]  # checked where it is recorded
        None if not english else "" if english.lower() == NONE else english,
        None
        if not labels
        else ()
        if labels.lower() == NONE
        else tuple(label.strip() for label in labels.split(";") if label.strip()),
        cells.get("reason", "").strip(),
    )


def _cells(view: View) -> tuple[str, ...]:
    """Return a study's cells, in the order of `COLUMNS`."""
    shown, doubts = view.shown, view.item.doubts
    report = shown.study.report
    return (
        view.item.study_id,
        f"{view.item.weight:.2f}",
        "; ".join(dict.fromkeys(d.rule for d in doubts)),
        "\n".join(d.reason for d in doubts),
        report.text if report else "",
        shown.english or "",
        "; ".join(shown.problems),
        "; ".join(shown.labels),
        "\n".join(_told(vote) for vote in view.others),
        f"h{shown.hash}",  # a spreadsheet would take "12e45…" for a number
        "",
        "",
        "",
        "",
    )


def _told(vote: Vote) -> str:
    decision = vote.decision
    parts: list[str] = [decision.verdict]
    if decision.translation is not None:
        parts.append(f"English: {decision.translation or NONE}")
    if decision.labels is not None:
        parts.append(f"labels: {'; '.join(decision.labels) or NONE}")
    if decision.reason:
        parts.append(f"reason: {decision.reason}")
    return f"{vote.reader}: {', '.join(parts)}"
