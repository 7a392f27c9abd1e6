"""What every test of the command line starts from."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _without_debug() -> Iterator[None]:
    """Undo ``--debug``, which a command sets for its process: here all commands share one."""
    os.environ.pop("MEDFINDER_DEBUG", None)
    yield
    os.environ.pop("MEDFINDER_DEBUG", None)
