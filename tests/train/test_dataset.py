"""Studies become volumes in one file, read once, whatever stops it."""

import json
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medfinder.errors import ArtifactError, ConfigError, InputError
from medfinder.records import Finding, Report, Study
from medfinder.scale.engine import Step
from medfinder.scale.processes import Processes
from medfinder.train import dataset as module
from medfinder.train.dataset import JOURNAL, VOLUMES, TrainingSet, prepare_set, split_of
from medfinder.volume.nifti import write_nifti
from medfinder.volume.preprocess import PreprocessConfig, preprocess
from medfinder.volume.read import read_study, read_volume
from stubs import scaled
from stubs.cases import block
from stubs.training import phantoms

CONFIG = PreprocessConfig(
    spacing_mm=(8.0, 8.0, 8.0), size=(16, 16, 16), output_range=(0.0, 255.0), dtype="uint8"
)
FINDING = Finding("nodule", "C0028259", "present")


def study(i: int, **changes: Any) -> Study:
    made = Study(
        study_id=f"s{i}",
        patient_id=f"p{i}",
        series_id="",
        volume_path="",
        volume_hash="",
        shape=(24, 32, 32),
        spacing_mm=(5.0, 4.0, 4.0),
        report=Report(f"Report {i}."),
        findings=(FINDING,),
    )
    return replace(made, **changes)


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> list[Study]:
    """Five curated studies, one without a report, in no order."""
    folder = tmp_path_factory.mktemp("curated")
    made = []
    for i in (3, 0, 4, 1, 2):
        path = folder / f"s{i}.nii.gz"
        write_nifti(block(i), path)
        digest = read_volume(path).content_hash
        made.append(study(i, volume_path=str(path), volume_hash=digest))
    return [replace(s, report=None) if s.study_id == "s2" else s for s in made]


def prepared(studies: Sequence[Study], folder: Path, **settings: Any) -> TrainingSet:
    return prepare_set(studies, folder, CONFIG, **{"workers": 1, **settings})


def read_only_once(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note what is read."""
    read: list[str] = []

    def noted(study: Any, check: Any) -> Any:
        read.append(Path(study.volume_path).name.removesuffix(".nii.gz"))
        return read_study(study, check)

    monkeypatch.setattr(module, "read_study", noted)
    return read


# -- prepare_set ---------------------------------------------------------------------


def test_volumes_are_preprocessed_as_in_use_and_sorted_by_study(
    studies: list[Study], tmp_path: Path
) -> None:
    made = prepared(studies, tmp_path)
    assert made.study_ids == ("s0", "s1", "s2", "s3", "s4")
    assert made.patient_ids == ("p0", "p1", "p2", "p3", "p4")
    assert made.findings[0] == (FINDING,)
    for i, volume in enumerate(made.iter_volumes()):
        expected = preprocess(block(i), CONFIG)
        np.testing.assert_array_equal(volume, expected)
    assert made.rejections == ()


def test_a_study_without_a_report_is_in_the_set_without_one(
    studies: list[Study], tmp_path: Path
) -> None:
    made = prepared(studies, tmp_path)
    assert made.reports == (("Report 0.",), ("Report 1.",), (), ("Report 3.",), ("Report 4.",))
    blank = [replace(studies[0], report=Report("  \n"))]
    assert prepared(blank, tmp_path).reports == ((),)


def test_what_was_read_is_not_read_again(
    studies: list[Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = read_only_once(monkeypatch)
    seen: list[tuple[int, int]] = []
    first = prepared(studies, tmp_path, progress=lambda n, total: seen.append((n, total)))
    assert read == ["s0", "s1", "s2", "s3", "s4"]
    assert seen == [(n, 5) for n in range(1, 6)]
    again = prepared(studies[::-1], tmp_path)
    assert len(read) == 5
    assert again.digest == first.digest
    np.testing.assert_array_equal(again.volumes, first.volumes)


def test_a_run_that_is_killed_goes_on_where_it_stopped(
    studies: list[Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(n: int, total: int) -> None:
        if n == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepared(studies, tmp_path, progress=killed)
    journal = next(tmp_path.rglob(JOURNAL))
    assert len(journal.read_text().splitlines()) == 3
    journal.write_text(journal.read_text() + '{"row": 3')  # cut short by the kill
    read = read_only_once(monkeypatch)
    seen: list[int] = []
    made = prepared(studies, tmp_path, progress=lambda n, total: seen.append(n))
    assert read == ["s3", "s4"]
    assert seen == [4, 5]
    np.testing.assert_array_equal(made.volumes[3], preprocess(block(3), CONFIG))
    assert prepared(studies, tmp_path).study_ids == made.study_ids
    assert len(read) == 2


def test_a_journal_without_its_volumes_is_not_believed(
    studies: list[Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared(studies, tmp_path)
    next(tmp_path.rglob(VOLUMES)).unlink()
    read = read_only_once(monkeypatch)
    made = prepared(studies, tmp_path)
    assert len(read) == 5
    assert made.volumes.any()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("bit", ["s3"]),
        ("journal", ["s3"]),
        ("noise", ["s3"]),
        ("cut", ["s0", "s1", "s2", "s3", "s4"]),
    ],
)
def test_a_volume_that_changed_since_is_read_again(
    studies: list[Study],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
    expected: list[str],
) -> None:
    first = np.array(prepared(studies, tmp_path).volumes)
    path, journal = next(tmp_path.rglob(VOLUMES)), next(tmp_path.rglob(JOURNAL))
    if change == "bit":
        np.load(path, mmap_mode="r+")[3, 0, 7, 7, 7] ^= 4
    elif change == "journal":
        journal.write_text(journal.read_text().replace('{"row": 3', '{"row": 7'))
    elif change == "noise":
        journal.write_bytes(journal.read_bytes().replace(b'{"row": 3', b"\xff\xfe{"))
    else:
        path.write_bytes(path.read_bytes()[:-1000])
    read = read_only_once(monkeypatch)
    np.testing.assert_array_equal(prepared(studies, tmp_path).volumes, first)
    assert read == expected
    prepared(studies, tmp_path)
    assert read == expected


def test_what_another_process_of_the_run_has_compared_is_not_compared_again(
    studies: list[Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepared(studies, tmp_path)
    compared: list[object] = []
    monkeypatch.setattr(module, "crc_of", compared.append)
    again = prepared(studies, tmp_path, is_checked=True)
    assert (again.study_ids, compared) == (first.study_ids, [])


@pytest.mark.parametrize("change", ["studies", "reports", "preprocessing"])
def test_another_input_never_meets_these_volumes(
    studies: list[Study], tmp_path: Path, change: str
) -> None:
    first = prepared(studies, tmp_path)
    config, other = CONFIG, studies
    if change == "studies":
        other = studies[:4]
    elif change == "reports":
        other = [replace(s, report=Report("Another.")) for s in studies]
    else:
        config = replace(CONFIG, spacing_mm=(9.0, 8.0, 8.0))
    second = prepare_set(other, tmp_path, config, workers=1)
    assert second.digest != first.digest
    assert len(list(tmp_path.rglob(VOLUMES))) == 2


def test_several_processes_make_the_same_bytes(studies: list[Study], tmp_path: Path) -> None:
    one = prepared(studies, tmp_path / "one")
    two = prepared(studies, tmp_path / "two", workers=2)
    np.testing.assert_array_equal(one.volumes, two.volumes)
    assert one.study_ids == two.study_ids


class Killing:
    """Processes of which one is killed at a row: the first so many times."""

    def __init__(self, notes: Path, times: int) -> None:
        self.notes, self.times = notes, times

    def map(self, items: Any, steps: Sequence[Step], **options: Any) -> Any:
        kill = scaled.step(scaled.die_at_row, self.notes, self.times, 2)
        return Processes(2).map(items, [kill, *steps], **options)


def test_a_process_that_is_ended_from_outside_is_replaced(
    studies: list[Study], tmp_path: Path
) -> None:
    one = prepared(studies, tmp_path / "one")
    (tmp_path / "notes").mkdir()
    two = prepared(studies, tmp_path / "two", engine=Killing(tmp_path / "notes", 2))
    np.testing.assert_array_equal(one.volumes, two.volumes)
    assert two.rejections == ()
    assert len(list((tmp_path / "notes").iterdir())) == 3


def test_a_process_that_is_ended_from_outside_again_and_again_is_said(
    studies: list[Study], tmp_path: Path
) -> None:
    (tmp_path / "notes").mkdir()
    with pytest.raises(ArtifactError, match=r"ended from outside, .* goes on where it stopped"):
        prepared(studies, tmp_path, engine=Killing(tmp_path / "notes", 9))
    assert len(prepared(studies, tmp_path)) == 5


def test_a_volume_that_cannot_be_read_is_a_rejection(studies: list[Study], tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.nii.gz"
    garbage.write_bytes(b"no volume")
    changed = replace(studies[0], volume_hash="0" * 64)  # s3
    unreadable = replace(studies[1], volume_path=str(garbage))  # s0
    made = prepared([changed, unreadable, *studies[2:]], tmp_path / "v")
    assert made.study_ids == ("s1", "s2", "s4")
    assert [r.item for r in made.rejections] == ["s0", "s3"]
    assert made.rejections[1].rule == "changed-volume"
    assert "Run 'medfinder curate' again" in made.rejections[1].reason
    for i, volume in zip((1, 2, 4), made.iter_volumes(), strict=True):
        np.testing.assert_array_equal(volume, preprocess(block(i), CONFIG))
    assert prepared([changed, unreadable, *studies[2:]], tmp_path / "v").rejections == (
        made.rejections
    )


def test_a_set_without_any_readable_volume_says_why(studies: list[Study], tmp_path: Path) -> None:
    changed = [replace(s, volume_hash="0" * 64) for s in studies[:2]]
    with pytest.raises(
        InputError, match=r"None of 2 volumes could be read, the first because: .* has changed"
    ):
        prepared(changed, tmp_path)


def test_volumes_without_a_size_are_refused(studies: list[Study], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"preprocess\.size is missing"):
        prepare_set(studies, tmp_path, replace(CONFIG, size=None))
    assert not list(tmp_path.iterdir())


# -- splits --------------------------------------------------------------------------


def test_a_split_is_its_studies() -> None:
    named = [study(i, split=split) for i, split in enumerate(("train", "val", "train", None))]
    assert [s.study_id for s in split_of(named, "train")] == ["s0", "s2"]
    assert [s.study_id for s in split_of(named, "val")] == ["s1"]


def test_without_splits_a_tenth_of_the_patients_is_for_validation() -> None:
    studies = [study(i, patient_id=f"p{i // 2}") for i in range(2000)]
    train, val = split_of(studies, "train"), split_of(studies, "val")
    assert len(train) + len(val) == 2000
    assert not {s.patient_id for s in train} & {s.patient_id for s in val}
    assert 140 < len(val) < 260
    more = split_of([*studies, study(5000)], "val")
    assert [s for s in more if s.study_id != "s5000"] == val
    with pytest.raises(InputError, match="in the split 'test'"):
        split_of(studies, "test")


def test_a_patient_in_both_splits_is_refused() -> None:
    both = [study(0, split="train"), study(1, split="val", patient_id="p0")]
    with pytest.raises(InputError, match=r"1 patients have studies in both splits") as error:
        split_of(both, "train")
    assert error.value.rule == "split"


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(InputError, match=r"None of 1 studies is in the split 'val'\. Give the"):
        split_of([study(0, split="train")], "val")


# -- TrainingSet ---------------------------------------------------------------------


def test_studies_that_share_a_report_are_one_group_even_through_a_third() -> None:
    data = replace(
        phantoms(), reports=(("a",), ("b",), ("c", "a"), (), ("b", "c"), ("d",), ("e",), ())
    )
    groups = data.report_groups
    assert groups[3] == groups[7] == -1
    assert len({int(groups[i]) for i in (0, 1, 2, 4)}) == 1
    assert len({int(groups[i]) for i in (0, 5, 6)}) == 3


def test_the_digest_follows_studies_reports_and_preprocessing() -> None:
    data = phantoms()
    others = [
        data,
        replace(data, study_ids=("other", *data.study_ids[1:])),
        replace(data, reports=(("Another.",), *data.reports[1:])),
        replace(data, preprocess=replace(data.preprocess, spacing_mm=(9.0, 9.0, 9.0))),
    ]
    assert len({one.digest for one in others}) == 4
    assert replace(data).digest == data.digest


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"patient_ids": ("p",)}, "A training set of 8 studies has 1 patient_ids"),
        ({"reports": ((),)}, "has 1 reports"),
        ({"rows": np.arange(3)}, "has 3 rows"),
        ({"rows": np.arange(1, 9)}, "has 8 volumes"),
        ({"study_ids": ("s",) * 8}, "The study s is in a training set twice"),
        ({"volumes": np.zeros((8, 1, 4, 4, 4), np.uint8)}, r"are uint8 of shape \(1, 4, 4, 4\)"),
        ({"volumes": np.zeros((8, 1, 32, 32, 32), np.float32)}, "are float32 .* makes uint8"),
    ],
)
def test_a_set_that_does_not_hold_together_is_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        replace(phantoms(), **changes)


def test_a_line_of_the_journal_names_its_row_and_what_it_holds(
    studies: list[Study], tmp_path: Path
) -> None:
    volumes = prepared(studies, tmp_path).volumes
    journal = next(tmp_path.rglob(JOURNAL)).read_text().splitlines()
    assert [json.loads(line) for line in journal] == [
        {"row": i, "crc": zlib.crc32(volumes[i].tobytes())} for i in range(5)
    ]
