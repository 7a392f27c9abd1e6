"""Curation by workers that fall: the same dataset, and only what is damaged is missing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from medfinder.curate.curate import CurateConfig, curate
from medfinder.curate.sources.folder import FolderSource
from medfinder.scale.engine import Step
from medfinder.scale.processes import Processes
from medfinder.studies import read_rejections
from medfinder.volume.nifti import write_nifti
from stubs import scaled
from stubs.cases import block

CONFIG = CurateConfig(workers=2, copy="nifti", near_duplicates=False)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> FolderSource:
    raw = tmp_path_factory.mktemp("raw")
    for i in range(5):
        write_nifti(block(i), raw / f"v{i}.nii.gz")
    (raw / "bad.nii.gz").write_bytes(b"no volume")
    return FolderSource(raw)


class Killing:
    """Processes of which one is killed whenever it inspects a volume."""

    def map(self, items: Any, steps: Sequence[Step], **options: Any) -> Any:
        kill = scaled.step(scaled.die_at_item, "v3.nii.gz")
        return Processes(2).map(items, [kill, *steps], **options)


def test_a_decoder_that_takes_its_process_down_loses_only_its_volume(
    source: FolderSource, tmp_path: Path
) -> None:
    made = curate(source, tmp_path / "out", CONFIG, engine=Killing())
    found = {
        r.item: (r.rule, r.reason) for r in read_rejections(tmp_path / "out/rejections.parquet")
    }
    assert found["v3.nii.gz"] == (
        "decoder-crash",
        "The decoder crashed on this item, 3 times: the file is damaged.",
    )
    assert set(found) == {"v3.nii.gz", "bad.nii.gz"}
    assert made.n_studies == 4


def test_what_passed_is_tried_again_by_the_next_run(source: FolderSource, tmp_path: Path) -> None:
    curate(source, tmp_path / "out", CONFIG, engine=Killing())
    curate(source, tmp_path / "out", CONFIG)
    curate(source, tmp_path / "whole", CONFIG)
    assert [r.item for r in read_rejections(tmp_path / "out/rejections.parquet")] == ["bad.nii.gz"]
    assert (tmp_path / "out/rejections.parquet").read_bytes() == (
        tmp_path / "whole/rejections.parquet"
    ).read_bytes()
