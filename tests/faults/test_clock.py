"""A clock that jumps by years between two runs changes nothing."""

from pathlib import Path

import pytest

from faults.clock import jump, library
from faults.stages import Inputs


@pytest.mark.skipif(library() is None, reason="libfaketime is not installed")
def test_a_clock_that_jumps_changes_no_artifact_and_breaks_no_log(
    inputs: Inputs, tmp_path: Path
) -> None:
    row = jump("-10 years", inputs, tmp_path, keep=lambda row: None)
    assert row.survived == row.tried == 4, row.notes
