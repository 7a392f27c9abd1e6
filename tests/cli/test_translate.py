"""``medfinder translate`` as a user meets it."""

import csv
import json
import shutil
from functools import partial
from pathlib import Path

import pytest

from cli.conftest import Run
from medfinder.cli.translate import COLUMNS

ES, EN = "derrame pleural derecho de 12 mm .", "Right pleural effusion of 12 mm."


@pytest.fixture
def run(command_line: Run) -> Run:
    """Return a function that runs ``medfinder translate ARGUMENTS``."""
    return partial(command_line, "translate")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "reports.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [
                ["ReportID", "Report", "Report_en"],
                ["ses-1", ES, EN],
                ["ses-2", ES.replace("12", "13"), "Something wrong with the data! ######"],
                ["ses-3", "nodulo de 5 mm .", "=Nodule of 6 mm."],
            ]
        )
    return path


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_given_translations_are_checked_without_a_translator(run: Run, table: Path) -> None:
    out = table.with_name("out.csv")
    code, shown, _ = run(table, out, "--with", "none", "--given", "Report_en", "--json")
    assert code == 0
    assert json.loads(shown) | {"file": ""} == {
        "file": "",
        "reports": 3,
        "translated": 1,
        "given": 1,
        "queued": 2,
        "by_rule": {"translation-number": 1, "translation-placeholder": 1},
    }
    written = rows(out)
    assert tuple(written[0]) == COLUMNS
    assert [row["study_id"] for row in written] == ["ses-1", "ses-2", "ses-3"]
    assert [row["translation"] for row in written] == [EN, "", ""]


def test_no_cell_that_is_written_runs_as_a_formula(run: Run, table: Path) -> None:
    out = table.with_name("out.csv")
    run(table, out, "--with", "none", "--given", "Report_en")
    assert not any(cell.startswith("=") for row in rows(out) for cell in row.values())


@pytest.mark.skipif(
    shutil.which("apertium-wblank-mode") is None, reason="apertium is not installed"
)
def test_what_is_not_given_is_translated(run: Run, table: Path) -> None:
    out = table.with_name("out.csv")
    code, _, talk = run(table, out, "--given", "Report_en")
    assert code == 0
    assert [r["translation"] for r in rows(out)] == [EN, EN.replace("12", "13"), "Nodule of 5 mm."]
    assert "3 of 3 translated" in talk


def test_a_dry_run_prices_and_writes_nothing(run: Run, table: Path) -> None:
    out = table.with_name("out.csv")
    options = ("--with", "chat", "--url", "http://127.0.0.1:9/v1", "--model", "m")
    prices = ("--price-in", "2.5", "--price-out", "10")
    code, shown, _ = run(table, out, *options, *prices, "--dry-run", "--json")
    assert code == 0
    figures = json.loads(shown)
    assert figures["reports_to_ask"] == 3
    assert 0 < figures["price"] < 0.1
    assert sorted(p.name for p in table.parent.iterdir()) == ["reports.csv"]


def test_an_option_of_another_translator_is_refused(run: Run, table: Path) -> None:
    code, _, talk = run(table, table.with_name("o.csv"), "--url", "http://x/v1")
    assert code == 2
    assert "--url is for another translator than apertium" in talk


def test_a_column_that_is_not_there_is_named(run: Run, table: Path) -> None:
    code, _, talk = run(table, table.with_name("o.csv"), "--column", "informe_es")
    assert code == 2
    assert "informe_es" in talk or "text" in talk


def test_an_endpoint_without_an_address_is_named(
    run: Run, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MEDFINDER_CHAT_URL", raising=False)
    code, _, talk = run(table, table.with_name("o.csv"), "--with", "chat", "--model", "m")
    assert code == 2
    assert "The chat endpoint has no address" in talk
