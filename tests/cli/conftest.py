"""What every test of the command line starts from."""

import os
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from medfinder.cli.app import main


class Done(NamedTuple):
    """What a command left: its exit code, and what it printed."""

    code: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs ``medfinder ARGUMENTS`` in this process, on a wide terminal."""
    monkeypatch.setenv("COLUMNS", "500")

    def call(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["medfinder", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        return Done(code, *capsys.readouterr())

    return call


@pytest.fixture(autouse=True)
def _without_debug() -> Iterator[None]:
    """Undo ``--debug``, which a command sets for its process: here all commands share one."""
    os.environ.pop("MEDFINDER_DEBUG", None)
    yield
    os.environ.pop("MEDFINDER_DEBUG", None)
