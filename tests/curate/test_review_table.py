"""A review that leaves as a CSV and comes back: whole, checked row by row, and without formulas."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from medfinder.curate.review import Decision, ReviewQueue
from medfinder.curate.review_table import COLUMNS, bare, export_review, guarded, import_review
from medfinder.errors import InputError
from stubs import reviewed

Row = dict[str, str]


@pytest.fixture
def queue(tmp_path: Path) -> ReviewQueue:
    return ReviewQueue(reviewed.make(tmp_path / "studies"))


def read(path: Path) -> list[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: list[Row], encoding: str = "utf-8-sig", separator: str = ",") -> None:
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=separator)
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def filled(queue: ReviewQueue, tmp_path: Path) -> Callable[..., Path]:
    """Return a function: what Ana writes into the rows of some studies → the table's path."""

    def fill(**cells: Row) -> Path:
        path = tmp_path / "ana.csv"
        export_review(queue, path, "Ana")
        rows = read(path)
        for row in rows:
            row.update(cells.get(row["study_id"].replace("-", "_"), {}))
        write(path, rows)
        return path

    return fill


def test_an_export_holds_what_is_left_to_do_heaviest_first(
    queue: ReviewQueue, tmp_path: Path
) -> None:
    queue.decide("Ana", "study-2", Decision("reject", reason="Empty."))
    assert export_review(queue, tmp_path / "a.csv", "Ana") == 3
    rows = read(tmp_path / "a.csv")
    assert tuple(rows[0]) == COLUMNS
    assert [r["study_id"] for r in rows] == ["study-0", "study-1", "study-3"]
    assert rows[0]["original"].startswith("derrame pleural")
    assert rows[0]["english"] == reviewed.ENGLISH
    assert rows[0]["rules"] == "translation-number; translation-unit"
    assert rows[1]["labels"] == "adenopathy; nodule"


def test_an_export_tells_nothing_of_the_other_reader(queue: ReviewQueue, tmp_path: Path) -> None:
    queue.decide("Luis", "study-0", Decision("reject", reason="Canary."))
    export_review(queue, tmp_path / "a.csv", "Ana")
    assert "Canary" not in (tmp_path / "a.csv").read_text(encoding="utf-8-sig")


def test_an_adjudicators_export_holds_both_decisions(queue: ReviewQueue, tmp_path: Path) -> None:
    queue.decide("Luis", "study-0", Decision("reject", reason="Not chest."))
    queue.decide("Eva", "study-0", Decision("edit", "Effusion.", ("nodule",)))
    export_review(queue, tmp_path / "a.csv", "Ana")
    told = read(tmp_path / "a.csv")[0]["other_decisions"]
    assert told == "Luis: reject, reason: Not chest.\nEva: edit, English: Effusion., labels: nodule"


def test_decisions_come_back(queue: ReviewQueue, filled: Callable[..., Path]) -> None:
    path = filled(
        study_0={"decision": "Edit ", "new_english": "Left effusion, 3 cm.", "new_labels": "none"},
        study_1={"decision": "accept"},
        study_2={"decision": "reject", "reason": "A placeholder."},
    )
    done = import_review(queue, path, "Ana")
    assert (done.n_recorded, done.n_known, done.n_empty, done.problems) == (3, 0, 1, ())
    mine = queue.view("Ana", "study-0").mine
    assert mine is not None
    assert mine.decision == Decision("edit", "Left effusion, 3 cm.", ())
    assert {e.after["origin"] for e in queue.history()} == {"table"}


def test_labels_come_back_between_semicolons(
    queue: ReviewQueue, filled: Callable[..., Path]
) -> None:
    import_review(queue, filled(study_0={"decision": "edit", "new_labels": "nodule; mass;"}), "Ana")
    mine = queue.view("Ana", "study-0").mine
    assert mine is not None
    assert mine.decision.labels == ("nodule", "mass")


def test_the_same_table_twice_changes_nothing_more(
    queue: ReviewQueue, filled: Callable[..., Path]
) -> None:
    path = filled(study_1={"decision": "accept"})
    import_review(queue, path, "Ana")
    done = import_review(queue, path, "Ana")
    assert (done.n_recorded, done.n_known) == (0, 1)
    queue.decide("Luis", "study-1", Decision("accept"))  # settled: still no problem
    assert import_review(queue, path, "Ana").n_known == 1


def test_everything_that_is_wrong_is_named_row_by_row_and_nothing_is_recorded(
    queue: ReviewQueue, filled: Callable[..., Path]
) -> None:
    for reader in ("Luis", "Eva"):
        queue.decide(reader, "study-3", Decision("accept"))
    path = filled(study_0={"decision": "accept"})
    rows = read(path)
    blank = dict.fromkeys(COLUMNS, "")
    same = rows[0]["source_hash"]
    rows += [
        {**blank, "study_id": "nobody", "decision": "accept", "source_hash": same},
        {**rows[2], "decision": "maybe"},
        {**rows[1], "decision": "reject", "source_hash": "0" * 16, "reason": "x"},
        {**blank, "study_id": "study-3", "decision": "accept"},
        {**rows[0], "decision": "accept"},
        {**blank, "study_id": "study-9", "reason": "Why."},
    ]  # fmt: skip
    settled = queue.view("Ana", "study-3").shown.hash
    rows[6]["source_hash"] = settled
    write(path, rows)
    done = import_review(queue, path, "Ana")
    assert [(row, study_id, rule) for row, study_id, rule, _ in done.problems] == [
        (5, "nobody", "unknown-study"),
        (6, "study-1", "bad-decision"),
        (7, "study-2", "changed-source"),
        (8, "study-3", "settled"),
        (9, "study-0", "duplicate-row"),
        (10, "study-9", "bad-decision"),
    ]
    assert all(reason for *_, reason in done.problems)
    assert done.n_recorded == 0
    assert queue.view("Ana", "study-0").mine is None
    assert len(queue.history()) == 2


def test_rows_of_what_changed_since_the_export_are_refused(
    queue: ReviewQueue, filled: Callable[..., Path]
) -> None:
    path = filled(study_1={"decision": "accept"}, study_0={"decision": "accept"})
    reviewed.make(
        queue.folder,
        studies=[
            reviewed.study(i, **({"translation": "Another."} if i == 1 else {})) for i in range(5)
        ],
    )
    done = import_review(queue, path, "Ana")
    assert [(p[1], p[2]) for p in done.problems] == [("study-1", "changed-source")]
    assert queue.history() == []


def test_a_table_without_the_hash_is_refused(
    queue: ReviewQueue, filled: Callable[..., Path]
) -> None:
    path = filled(study_0={"decision": "accept"})
    write(path, [{k: v for k, v in row.items() if k != "source_hash"} for row in read(path)])
    with pytest.raises(InputError, match="lacks the columns source_hash") as caught:
        import_review(queue, path, "Ana")
    assert caught.value.rule == "missing-column"


def test_an_emptied_hash_is_a_changed_source(
    queue: ReviewQueue, filled: Callable[..., Path]
) -> None:
    path = filled(study_0={"decision": "accept", "source_hash": ""})
    assert import_review(queue, path, "Ana").problems[0][2] == "changed-source"


def test_columns_to_read_only_may_be_gone(queue: ReviewQueue, filled: Callable[..., Path]) -> None:
    path = filled(study_0={"decision": "accept"})
    keep = ("study_id", "source_hash", "decision")
    write(path, [{k: row[k] for k in keep} for row in read(path)])
    assert import_review(queue, path, "Ana").n_recorded == 1


def test_a_table_that_may_hold_work_is_not_written_over(queue: ReviewQueue, tmp_path: Path) -> None:
    export_review(queue, tmp_path / "a.csv", "Ana")
    with pytest.raises(InputError, match="which may hold a reader's decisions") as caught:
        export_review(queue, tmp_path / "a.csv", "Ana")
    assert caught.value.rule == "file-exists"


def test_only_a_csv_is_written(queue: ReviewQueue) -> None:
    with pytest.raises(InputError, match=r"ends in \.csv, got 'studies\.parquet'") as caught:
        export_review(queue, queue.folder / "studies.parquet", "Ana")
    assert caught.value.rule == "not-csv"


def test_no_hash_looks_like_a_number(queue: ReviewQueue, tmp_path: Path) -> None:
    export_review(queue, tmp_path / "a.csv", "Ana")
    assert all(row["source_hash"].startswith("h") for row in read(tmp_path / "a.csv"))


@pytest.mark.parametrize(("encoding", "separator"), [("cp1252", ";"), ("utf-16", "\t")])
def test_a_table_that_a_spreadsheet_saved_its_own_way_is_read(
    queue: ReviewQueue, filled: Callable[..., Path], encoding: str, separator: str
) -> None:
    path = filled(study_2={"decision": "reject", "reason": "Informe vacío: ñ."})
    write(path, read(path), encoding, separator)
    assert import_review(queue, path, "Ana").n_recorded == 1
    assert queue.history()[0].after["reason"] == "Informe vacío: ñ."


def test_a_file_that_is_no_table_is_told(queue: ReviewQueue, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no table"):
        import_review(queue, tmp_path / "nothing.csv", "Ana")
    (tmp_path / "a.csv").write_bytes(b"\x00\xff" * 50)
    with pytest.raises(InputError):
        import_review(queue, tmp_path / "a.csv", "Ana")


def test_no_cell_of_an_export_is_a_formula(tmp_path: Path) -> None:
    from medfinder.records import Doubt, Report

    nasty = ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "'=x", "＝1"]
    studies = [
        reviewed.study(i, report=Report(text, "es", text), labels=(text,))
        for i, text in enumerate(nasty)
    ]
    doubts = [Doubt(s.study_id, text, text, 0.5) for s, text in zip(studies, nasty, strict=True)]
    folder = reviewed.make(tmp_path / "studies", studies=studies, doubts=doubts, candidates={})
    export_review(ReviewQueue(folder), tmp_path / "a.csv", "Ana")
    cells = [cell for row in read(tmp_path / "a.csv") for cell in row.values()]
    assert not [c for c in cells if c.startswith(("=", "+", "-", "@", "\t", "＝"))]
    assert {bare(row["original"]) for row in read(tmp_path / "a.csv")} == set(nasty)


@pytest.mark.parametrize(
    "cell", ["=1", "'=1", "''", "'tis", "", "- No effusion.", "text", "'", "\n="]
)
def test_a_guarded_cell_comes_back_as_it_was(cell: str) -> None:
    assert bare(guarded(cell)) == cell


@pytest.mark.parametrize("cell", ["'tis normal", "- No effusion.", "plain"])
def test_a_cell_that_a_reader_typed_stays(cell: str) -> None:
    assert bare(cell) == cell


def test_an_edit_that_begins_like_a_formula_comes_back(
    queue: ReviewQueue, filled: Callable[..., Path]
) -> None:
    path = filled(study_0={"decision": "edit", "new_english": "'- Left effusion."})
    import_review(queue, path, "Ana")
    assert queue.history()[0].after["translation"] == "- Left effusion."
