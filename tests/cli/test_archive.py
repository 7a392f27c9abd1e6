"""``medfinder phantom --archive``: what is written, and what is said of it."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from medfinder.cli.app import main

Run = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs ``medfinder ARGUMENTS`` in this process."""
    monkeypatch.setenv("COLUMNS", "500")

    def call(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["medfinder", *map(str, arguments)])
        try:
            main()
        except SystemExit as stop:
            return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        return 0

    return call


@pytest.mark.parametrize(
    ("layout", "command"),
    [
        ("bimcv", "medfinder curate bimcv {0} studies"),
        ("bimcv_r", "medfinder curate bimcv-r {0}/meta/BIMCV-R.csv --table-only studies"),
        ("ct_rate", "medfinder curate ct-rate {0} studies"),
        ("merlin", "medfinder curate merlin {0} studies"),
    ],
)
def test_an_archive_names_the_command_that_curates_it(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], layout: str, command: str
) -> None:
    assert run("phantom", tmp_path, "--archive", layout, "--n", 2, "--no-volumes", "--json") == 0
    printed = capsys.readouterr()
    root = tmp_path / layout
    assert json.loads(printed.out) == {"folder": str(root), "patients": 2, "seed": 1}
    assert command.format(root) in " ".join(printed.err.split())
    assert (tmp_path / "planted.jsonl").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--archive", "bimvc"), "Unknown layout 'bimvc'. Did you mean 'bimcv'?"),
        (("--archive", "bimcv", "--masks"), "An archive has no masks, DICOM series or benchmark."),
        (("--archive", "bimcv", "--n", 0), "An archive needs 1 to 300000 patients"),
        (("--no-volumes",), "Only an archive can be written without its volumes. Add --archive."),
    ],
)
def test_an_archive_that_cannot_be_written_is_refused(
    run: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[object, ...],
    message: str,
) -> None:
    assert run("phantom", tmp_path / "p", *options) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "p").exists()
