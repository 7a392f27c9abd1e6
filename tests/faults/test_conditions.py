"""A full disk, a read-only one, another writer: a clear error, nothing lost, and it goes on."""

from pathlib import Path

import pytest

from faults.conditions import can_mount, full_disk, full_disk_under_an_index, read_only, two_writers
from faults.rows import Row
from faults.stages import Inputs

STAGES = ["curate", "index", "train"]


@pytest.fixture
def mounts(tmp_path: Path) -> None:
    if not can_mount(tmp_path / "try"):
        pytest.skip("only root can mount a small disk")


def quiet(row: Row) -> None:
    """Keep nothing."""


@pytest.mark.parametrize("stage", STAGES)
def test_two_writers_at_once_leave_a_whole_artifact(
    inputs: Inputs, tmp_path: Path, stage: str
) -> None:
    row = two_writers(stage, inputs, tmp_path, 1, seed=1, keep=quiet)
    assert not row.failed, row.notes


@pytest.mark.usefixtures("mounts")
@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_is_told_and_with_room_the_stage_goes_on(
    inputs: Inputs, tmp_path: Path, stage: str
) -> None:
    row = full_disk(stage, inputs, tmp_path, 1, seed=1, keep=quiet)
    assert not row.failed, row.notes


@pytest.mark.usefixtures("mounts")
def test_an_index_on_a_full_disk_keeps_what_it_held(inputs: Inputs, tmp_path: Path) -> None:
    row = full_disk_under_an_index(inputs, tmp_path, 1, seed=1, keep=quiet)
    assert not row.failed, row.notes


@pytest.mark.usefixtures("mounts")
@pytest.mark.parametrize("stage", ["curate", "index"])
def test_a_read_only_disk_is_told(inputs: Inputs, tmp_path: Path, stage: str) -> None:
    row = read_only(stage, inputs, tmp_path, 1, seed=1, keep=quiet)
    assert not row.failed, row.notes
