"""Damaged files are refused, mended, or were right all the same."""

from pathlib import Path

import pytest

from faults.damage import damage
from faults.stages import Inputs

QUICK = ("nifti.gz", "dicom", "zip upload", "studies.parquet", "manifest.json", "service database")


@pytest.mark.parametrize("kind", [*QUICK, "preprocess cache", "review log", "checkpoint"])
def test_a_damaged_file_never_makes_a_crash(inputs: Inputs, tmp_path: Path, kind: str) -> None:
    row = damage(kind, inputs, tmp_path, 4, seed=3)
    assert not row.failed, row.notes


@pytest.mark.parametrize("kind", ["nifti", "nifti.gz", "dicom", "zip upload", "checkpoint"])
def test_what_has_a_checksum_is_never_taken_damaged(
    inputs: Inputs, tmp_path: Path, kind: str
) -> None:
    row = damage(kind, inputs, tmp_path, 4, seed=4)
    assert (row.survived, row.unnoticed) == (4, 0), row.notes
