"""An index in a store that fails, and whose writer is killed: the index of a folder."""

from collections.abc import Callable
from pathlib import Path

import pytest

from faults.rows import Row
from faults.stages import Inputs

pytest.importorskip("moto")
pytest.importorskip("obstore")

from faults.elsewhere import failing_store, kill_writer_of_store


def quiet(row: Row) -> None:
    """Keep nothing."""


@pytest.mark.parametrize("fault", [failing_store, kill_writer_of_store])
def test_an_index_in_a_store_is_whole_whatever_happens(
    inputs: Inputs, tmp_path: Path, fault: Callable[..., Row]
) -> None:
    row = fault(inputs, tmp_path, 1, seed=1, keep=quiet)
    assert not row.failed, row.notes
    assert row.tried == row.survived == 1
