"""``medfinder review`` as a user meets it."""

import csv
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from cli.conftest import Run
from medfinder.artifact import read_manifest
from medfinder.curate.review import Decision, ReviewQueue
from stubs import reviewed


@pytest.fixture
def run(command_line: Run) -> Run:
    """Return a function that runs ``medfinder review ARGUMENTS``."""
    return partial(command_line, "review")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return reviewed.make(tmp_path / "studies")


@pytest.fixture
def table(run: Run, folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return a function: study_id → the cells that Ana fills in; gives the table's path."""

    def fill(**cells: dict[str, str]) -> Path:
        path = tmp_path / "ana.csv"
        run("export", folder, path, "--reader", "Ana")
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            row.update(cells.get(row["study_id"].replace("-", "_"), {}))
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return path

    return fill


def settle(folder: Path, study_id: str, decision: Decision) -> None:
    for reader in ("Luis", "Eva"):
        ReviewQueue(folder).decide(reader, study_id, decision)


def test_status_tells_how_far_it_is_and_what_comes_next(run: Run, folder: Path) -> None:
    settle(folder, "study-0", Decision("accept"))
    done = run("status", folder)
    assert done.code == 0
    assert "4 studies in doubt: 1 settled (accept 1, edit 0, reject 0)" in done.out
    assert "3 left." in done.err
    assert "Next: medfinder serve idx --review" in done.err
    assert json.loads(run("status", folder, "--json").out)["settled"] == 1


def test_status_sets_the_number_of_readers_before_the_first_decision(
    run: Run, folder: Path
) -> None:
    assert json.loads(run("status", folder, "--readers", 1, "--json").out)["readers"] == 1
    ReviewQueue(folder).decide("Ana", "study-0", Decision("accept"))
    done = run("status", folder, "--readers", 2)
    assert done.code == 2
    assert "the number is fixed with the first decision" in done.err


def test_a_table_goes_out_and_comes_back(
    run: Run, folder: Path, table: Callable[..., Path]
) -> None:
    done = run("import", folder, table(study_0={"decision": "accept"}), "--reader", "Ana")
    assert done.code == 0
    assert "1 decisions recorded, 0 known before, 3 rows without one" in done.err


def test_a_table_with_a_wrong_row_is_refused_row_by_row(
    run: Run, folder: Path, table: Callable[..., Path]
) -> None:
    path = table(study_0={"decision": "accept"}, study_1={"decision": "perhaps"})
    done = run("import", folder, path, "--reader", "Ana")
    assert done.code == 2
    assert "row 4, 'study-1', bad-decision: The decision is none of accept, edit" in done.err
    assert "1 row cannot be imported, and so none was" in done.err
    assert ReviewQueue(folder).history() == []
    problems = json.loads(run("import", folder, path, "--reader", "Ana", "--json").out)["problems"]
    assert problems[0]["rule"] == "bad-decision"


def test_a_reader_without_a_name_exits_with_2(run: Run, folder: Path, tmp_path: Path) -> None:
    done = run("export", folder, tmp_path / "a.csv", "--reader", " ")
    assert done.code == 2
    assert "The reader has no name" in done.err


def test_agreement_is_printed(run: Run, folder: Path) -> None:
    settle(folder, "study-0", Decision("accept"))
    ReviewQueue(folder).decide("Luis", "study-1", Decision("accept"))
    ReviewQueue(folder).decide("Eva", "study-1", Decision("edit", None, ("nodule",)))
    lines = run("agreement", folder).out.splitlines()
    assert lines[0].split() == ["decisions", "agree", "0.50", "kappa", "0.00", "n", "2"]
    assert lines[1].split()[:3] == ["adenopathy", "agree", "0.50"]
    found = json.loads(run("agreement", folder, "--json").out)
    assert found["findings"]["nodule"] == {"n": 2, "observed": 1.0, "kappa": 1.0}


def test_the_log_is_checked_and_shown(run: Run, folder: Path) -> None:
    settle(folder, "study-0", Decision("accept"))
    done = run("log", folder, "--study", "study-0")
    assert done.out.count("decided") == 2
    assert "2 events, each bound to the one before it; the last is " in done.err
    assert len(json.loads(run("log", folder, "--json").out)) == 2


def test_a_review_is_applied_to_a_new_folder(run: Run, folder: Path, tmp_path: Path) -> None:
    settle(folder, "study-2", Decision("reject", reason="No report."))
    done = run("apply", folder, tmp_path / "out", "--json")
    assert done.code == 0
    assert json.loads(done.out)["rejected"] == 1
    assert "Next: medfinder index" in done.err
    assert read_manifest(tmp_path / "out", "curate").counts["studies"] == 4


def test_applying_twice_to_one_folder_exits_with_2(run: Run, folder: Path, tmp_path: Path) -> None:
    settle(folder, "study-2", Decision("reject", reason="No report."))
    run("apply", folder, tmp_path / "out")
    done = run("apply", folder, tmp_path / "out")
    assert done.code == 2
    assert "is in use: expected a new one" in done.err


@pytest.mark.parametrize("command", ["status", "agreement", "log"])
def test_a_folder_that_is_not_curated_exits_with_2(run: Run, tmp_path: Path, command: str) -> None:
    done = run(command, tmp_path / "nothing")
    assert done.code == 2
    assert "There is no curate folder" in done.err


@pytest.mark.parametrize("command", ["status", "export", "import", "agreement", "log", "apply"])
def test_every_help_text_has_an_example(run: Run, command: str) -> None:
    assert "Example: medfinder review" in run(command, "--help").out
