"""Fixtures that more than one folder of tests needs."""

import faulthandler
from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real CTs and labelled reports beside the checkout; skips where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no ../shared/data beside the checkout: real CTs are never committed")
    return SHARED_DATA


def pytest_unconfigure(config: pytest.Config) -> None:
    """Let no thread keep the interpreter from ending: after a minute, print all stacks and fail."""
    if not hasattr(config, "workerinput"):  # pytest-xdist ends its workers itself
        faulthandler.dump_traceback_later(60, exit=True)
