"""Killed without warning at a random moment, then started again: nothing lost, nothing double."""

from pathlib import Path

import pytest

from faults.kills import kill_stage
from faults.rows import Row
from faults.service import kill_service, serve_and_add, soak
from faults.stages import Inputs


def survived(row: Row) -> bool:
    assert not row.failed, row.notes
    return row.survived == row.tried > 0


@pytest.mark.parametrize("stage", ["curate", "index", "train"])
def test_a_stage_that_was_killed_makes_the_same_artifact(
    inputs: Inputs, tmp_path: Path, stage: str
) -> None:
    assert survived(kill_stage(stage, inputs, tmp_path, 2, seed=2, updates=stage == "index"))


def test_all_that_a_killed_service_acknowledged_is_there(inputs: Inputs, tmp_path: Path) -> None:
    assert survived(kill_service(inputs, tmp_path, 2, seed=2))


def test_a_study_sent_to_a_killed_service_is_taken_in_once_or_not_at_all(
    inputs: Inputs, tmp_path: Path
) -> None:
    assert survived(kill_service(inputs, tmp_path, 1, seed=2, ingests=True))


def test_a_service_and_a_command_add_to_one_index(inputs: Inputs, tmp_path: Path) -> None:
    assert survived(serve_and_add(inputs, tmp_path, 1, seed=2))


def test_a_hundredth_of_a_days_work_passes_without_an_error(inputs: Inputs, tmp_path: Path) -> None:
    assert survived(soak(inputs, tmp_path, 1))
