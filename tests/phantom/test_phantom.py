"""The phantom folder: what is written, and that it is the same however it is written."""

import csv
import json
from pathlib import Path

import pytest

from medfinder.errors import ConfigError, InputError, Mismatch
from medfinder.phantom.case import case_from_dict
from medfinder.phantom.chest import SMALL, PhantomConfig
from medfinder.phantom.phantom import COLUMNS, write_phantoms
from medfinder.volume.nifti import read_nifti
from medfinder.volume.read import read_volume

SIZE = (24, 32, 32)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def test_a_folder_holds_volumes_a_table_and_the_truth(tmp_path):
    table = write_phantoms(tmp_path, 3, seed=1, size=SIZE, masks=True)
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    truth = [json.loads(line) for line in (tmp_path / "truth.jsonl").read_text().splitlines()]
    assert tuple(rows[0]) == COLUMNS
    assert [r["study_id"] for r in rows] == [t["study_id"] for t in truth]
    for row, told in zip(rows, truth, strict=True):
        volume = read_volume(tmp_path / row["file"])
        assert volume.shape == SIZE
        assert read_nifti(tmp_path / told["mask"]).shape == SIZE
        assert case_from_dict(told["case"]).age == int(row["age"])
        assert row["text"]
        assert row["split"] in ("train", "val", "test")


def test_the_bytes_do_not_depend_on_the_number_of_workers(tmp_path):
    write_phantoms(tmp_path / "one", 3, seed=2, size=SIZE)
    write_phantoms(tmp_path / "two", 3, seed=2, size=SIZE, workers=2)
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two")


def test_a_larger_n_keeps_the_first_studies_and_draws_only_the_rest(tmp_path):
    write_phantoms(tmp_path / "a", 2, seed=3, size=SIZE)
    first = tmp_path / "a" / "volumes" / "ph3-s000000.nii.gz"
    stamp = first.stat().st_mtime_ns
    write_phantoms(tmp_path / "a", 4, seed=3, size=SIZE)
    write_phantoms(tmp_path / "b", 4, seed=3, size=SIZE)
    assert first.stat().st_mtime_ns == stamp
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")


def test_an_interrupted_run_is_finished_by_the_next(tmp_path):
    write_phantoms(tmp_path / "whole", 3, seed=4, size=SIZE)
    write_phantoms(tmp_path / "cut", 3, seed=4, size=SIZE)
    (tmp_path / "cut" / "volumes" / "ph4-s000001.nii.gz").unlink()
    (tmp_path / "cut" / "studies.csv").unlink()
    write_phantoms(tmp_path / "cut", 3, seed=4, size=SIZE)
    assert bytes_of(tmp_path / "cut") == bytes_of(tmp_path / "whole")


def test_a_folder_of_other_settings_is_refused(tmp_path):
    write_phantoms(tmp_path, 1, seed=5, size=SIZE)
    with pytest.raises(Mismatch, match=r"other settings \(seed 5\).*Choose another folder"):
        write_phantoms(tmp_path, 1, seed=6, size=SIZE)
    with pytest.raises(Mismatch, match=r"\(config of size \[24, 32, 32\]\)"):
        write_phantoms(tmp_path, 1, seed=5, size=(24, 32, 40))


def test_a_dicom_series_holds_the_same_hu_as_the_nifti_file(tmp_path):
    write_phantoms(tmp_path / "n", 1, seed=7, size=SIZE)
    write_phantoms(tmp_path / "d", 1, seed=7, size=SIZE, dicom=True)
    nifti = read_volume(tmp_path / "n" / "volumes" / "ph7-s000000.nii.gz")
    dicom = read_volume(tmp_path / "d" / "dicom" / "ph7-s000000")
    assert (nifti.hu == dicom.hu).all()
    assert dicom.tags["patient_id"] == "ph7-p000000"


def test_a_patient_with_two_studies_keeps_build_and_split(tmp_path):
    write_phantoms(tmp_path, 12, seed=8, size=SIZE, p_second_study=0.6)
    with (tmp_path / "studies.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    truth = [json.loads(line) for line in (tmp_path / "truth.jsonl").read_text().splitlines()]
    by_patient: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        by_patient.setdefault(row["patient_id"], []).append(i)
    assert len(by_patient) < 12
    for places in by_patient.values():
        assert len({rows[i]["split"] for i in places}) == 1
        assert len({json.dumps(truth[i]["case"]["habitus"]) for i in places}) == 1


def test_progress_counts_every_study(tmp_path):
    seen: list[tuple[int, int]] = []
    write_phantoms(tmp_path, 2, size=SIZE, progress=lambda done, n: seen.append((done, n)))
    assert seen == [(0, 2), (1, 2), (2, 2)]


def test_masks_may_be_asked_for_later(tmp_path):
    for folder, dicom in (("n", False), ("d", True)):
        write_phantoms(tmp_path / folder, 1, seed=7, size=SIZE, dicom=dicom)
        write_phantoms(tmp_path / folder, 1, seed=7, size=SIZE, dicom=dicom, masks=True)
        assert (tmp_path / folder / "masks" / "ph7-s000000.nii.gz").exists()


@pytest.mark.parametrize("under", [(), ("deeper",)])
def test_a_file_in_place_of_the_folder_is_named(tmp_path, under):
    (tmp_path / "taken").write_text("kept")
    with pytest.raises(InputError, match=r"it is a file, or lies in one\. Expected a folder"):
        write_phantoms(tmp_path.joinpath("taken", *under), 1, size=SIZE)
    assert (tmp_path / "taken").read_text() == "kept"


def test_a_split_is_by_patient_or_not_made(tmp_path):
    for split_by in ("patient", "none"):
        table = write_phantoms(tmp_path, 2, size=SIZE, split_by=split_by)
        with table.open(newline="", encoding="utf-8") as file:
            splits = [row["split"] for row in csv.DictReader(file)]
        assert all(splits) if split_by == "patient" else not any(splits)


def test_mixed_reports_are_in_both_languages(tmp_path):
    table = write_phantoms(tmp_path, 6, size=SIZE, language="mixed")
    with table.open(newline="", encoding="utf-8") as file:
        assert {row["language"] for row in csv.DictReader(file)} == {"en", "es"}


def test_impossible_numbers_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="1 <= n"):
        write_phantoms(tmp_path, 0)
    with pytest.raises(ConfigError, match="at least 16 voxels"):
        PhantomConfig(size=(8, 64, 64))


def test_the_small_size_is_small():
    assert SMALL == (32, 48, 48)
