"""One path to one checked volume, and a tree to everything in it."""

import gzip
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medfinder.errors import (
    GeometryError,
    InputError,
    MedFinderError,
    UnknownName,
    UnreadableVolume,
)
from medfinder.records import Rejection
from medfinder.volume.checks import CheckConfig
from medfinder.volume.dicom import write_dicom_series
from medfinder.volume.nifti import write_nifti
from medfinder.volume.read import VolumeRef, find_volumes, read_ref, read_volume
from medfinder.volume.volume import Volume


def body(d: int = 12, seed: int = 1) -> Volume:
    """Return a block of tissue with bone in air, noisy, that passes every check."""
    hu = np.full((d, 20, 24), -1000.0)
    hu[:, 4:16, 4:20] = 40
    hu[:, 8:10, 8:10] = 500
    hu += np.random.default_rng(seed).normal(0, 12, hu.shape)
    affine = np.zeros((4, 4))
    affine[[2, 1, 0], [0, 1, 2]] = 2.5, 4.0, 4.0
    affine[3, 3] = 1
    return Volume(np.rint(hu).astype(np.int16), affine)


def write(folder: Path, seed: int = 1, study: str = "s", **options) -> Path:
    write_dicom_series(body(seed=seed), folder, patient_id="p", study_id=study, **options)
    return folder


def uid(folder: Path) -> str:
    return str(pydicom.dcmread(next(folder.glob("*.dcm"))).SeriesInstanceUID)


def found(root: Path) -> tuple[list[VolumeRef], list[Rejection]]:
    results = list(find_volumes(root))
    refs = [x for x in results if isinstance(x, VolumeRef)]
    return refs, [x for x in results if isinstance(x, Rejection)]


# ---------------------------------------------------------------- read_volume


@pytest.mark.parametrize("name", ["ct.nii", "ct.nii.gz"])
def test_a_nifti_file_is_read_and_checked(tmp_path, name):
    write_nifti(body(), tmp_path / name)
    v = read_volume(tmp_path / name)
    np.testing.assert_array_equal(v.hu, body().hu)
    assert v.series_id == "ct"


def test_a_dicom_folder_is_read_and_checked(tmp_path):
    np.testing.assert_array_equal(read_volume(write(tmp_path)).hu, body().hu)


def test_a_thin_slab_is_refused_by_default_and_read_when_asked_for(tmp_path):
    write_nifti(body(6), tmp_path / "a.nii")
    with pytest.raises(GeometryError, match="expected at least 10, got 6") as caught:
        read_volume(tmp_path / "a.nii")
    assert caught.value.rule == "too-few-slices"
    assert read_volume(tmp_path / "a.nii", config=CheckConfig(min_slices=5)).shape[0] == 6


def test_values_that_are_no_hu_are_refused_from_dicom_too(tmp_path):
    write(tmp_path)
    for p in tmp_path.iterdir():
        ds = pydicom.dcmread(p)
        ds.RescaleIntercept = 0
        ds.save_as(p)
    with pytest.raises(UnreadableVolume) as caught:
        read_volume(tmp_path)
    assert caught.value.rule == "not-hu-offset"


def test_several_series_are_named_and_one_can_be_chosen(tmp_path):
    a, b = write(tmp_path / "a"), write(tmp_path / "b", seed=2)
    with pytest.raises(InputError) as caught:
        read_volume(tmp_path)
    assert caught.value.rule == "many-series"
    assert "holds 2 CT series, expected one" in str(caught.value)
    assert uid(a) in str(caught.value)
    chosen = read_volume(tmp_path, series_id=uid(b))
    np.testing.assert_array_equal(chosen.hu, body(seed=2).hu)


def test_an_unknown_series_is_named_with_those_there_are(tmp_path):
    write(tmp_path)
    with pytest.raises(UnknownName, match=r"holds no CT series '1\.2\.3'") as caught:
        read_volume(tmp_path, series_id="1.2.3")
    assert uid(tmp_path) in str(caught.value)


def test_a_path_that_is_not_there_is_told():
    with pytest.raises(InputError, match="no such file or folder") as caught:
        read_volume("/nowhere/at/all")
    assert caught.value.rule == "nothing-found"


def test_an_empty_folder_is_told(tmp_path):
    with pytest.raises(InputError, match="expected a NIfTI file or DICOM slices"):
        read_volume(tmp_path)


def test_a_folder_with_nothing_usable_gives_the_reason(tmp_path):
    write(tmp_path)
    for p in tmp_path.iterdir():
        ds = pydicom.dcmread(p)
        ds.Modality = "MR"
        ds.save_as(p)
    with pytest.raises(UnreadableVolume, match="expected modality CT, got MR") as caught:
        read_volume(tmp_path)
    assert caught.value.rule == "not-ct"


@pytest.mark.parametrize("name", ["a.zip", "a.nrrd", "a.mha", "a.npy"])
def test_a_file_of_another_kind_is_told(tmp_path, name):
    (tmp_path / name).write_bytes(b"\0" * 100)
    with pytest.raises(UnreadableVolume, match="expected NIfTI") as caught:
        read_volume(tmp_path / name)
    assert caught.value.rule == "unsupported-format"


def test_one_slice_of_a_series_is_no_volume(tmp_path):
    write(tmp_path)
    with pytest.raises(GeometryError, match="Too few slices"):
        read_volume(tmp_path / "0001.dcm")


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b", gzip.compress(b"not nifti" * 50, mtime=0)])
def test_a_broken_nifti_is_refused(tmp_path, content):
    (tmp_path / "a.nii.gz").write_bytes(content)
    with pytest.raises(UnreadableVolume):
        read_volume(tmp_path / "a.nii.gz")


def test_messages_hold_no_path_and_no_patient(tmp_path):
    folder = tmp_path / "Doe^Jane"
    write_dicom_series(body(6), folder, patient_id="Doe^Jane", study_id="s")
    with pytest.raises(MedFinderError) as caught:
        read_volume(folder)
    assert "Doe" not in str(caught.value)


# ---------------------------------------------------------------- find_volumes


def test_a_mixed_tree_gives_candidates_and_reasons_in_a_fixed_order(tmp_path):
    write(tmp_path / "b_series")
    write_nifti(body(), tmp_path / "a.nii.gz")
    (tmp_path / "c").mkdir()
    write_nifti(body(), tmp_path / "c" / "deep.nii")
    (tmp_path / "studies.csv").write_text("x")
    (tmp_path / "README").write_text("words")
    (tmp_path / "b_series" / "DICOMDIR").write_bytes(b"\0" * 300)
    (tmp_path / "c" / "volume.nrrd").write_bytes(b"NRRD")
    (tmp_path / "c" / "text.dcm").write_text("hello")
    (tmp_path / "c" / "IM0001").write_bytes(b"\x01\x00\x02garbage" * 50)
    results = list(find_volumes(tmp_path))
    assert [(x.item, x.kind if isinstance(x, VolumeRef) else x.rule) for x in results] == [
        ("a.nii.gz", "nifti"),
        ("b_series", "dicom"),
        ("c/IM0001", "corrupt"),
        ("c/deep.nii", "nifti"),
        ("c/text.dcm", "corrupt"),
        ("c/volume.nrrd", "unsupported-format"),
    ]
    assert results == list(find_volumes(tmp_path))


def test_what_is_found_can_be_read(tmp_path):
    write(tmp_path / "one")
    write_nifti(body(seed=5), tmp_path / "two.nii.gz")
    refs, rejections = found(tmp_path)
    assert rejections == []
    assert {read_ref(r).hu.tobytes() for r in refs} == {
        body().hu.tobytes(),
        body(seed=5).hu.tobytes(),
    }


def test_several_series_in_one_folder_carry_their_ids_and_files(tmp_path):
    write(tmp_path / "flat")
    write(tmp_path / "x", seed=2)
    for p in (tmp_path / "x").iterdir():
        p.rename(tmp_path / "flat" / f"x{p.name}")
    refs, _ = found(tmp_path / "flat")
    assert len(refs) == 2
    assert all(r.item == f".#{r.series_id}" and len(r.files) == 12 for r in refs)
    got = {read_ref(r).hu.tobytes() for r in refs}
    assert got == {body().hu.tobytes(), body(seed=2).hu.tobytes()}


def test_a_series_spread_over_nested_folders_is_one_candidate(tmp_path):
    write(tmp_path / "p1" / "s")
    for i, p in enumerate(sorted((tmp_path / "p1" / "s").iterdir())):
        (tmp_path / "p1" / "s" / f"d{i % 3}").mkdir(exist_ok=True)
        p.rename(tmp_path / "p1" / "s" / f"d{i % 3}" / p.name)
    write(tmp_path / "p2", seed=2)
    refs, _ = found(tmp_path)
    assert [r.item for r in refs] == ["p1/s", "p2"]
    np.testing.assert_array_equal(read_ref(refs[0]).hu, body().hu)


def test_a_multi_frame_file_is_its_own_candidate(tmp_path):
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    write(tmp_path)
    slices = [pydicom.dcmread(p) for p in sorted(tmp_path.iterdir())]
    for p in list(tmp_path.iterdir()):
        p.unlink()
    ds, groups = slices[0], []
    for s in slices:
        g, place = Dataset(), Dataset()
        place.ImagePositionPatient = s.ImagePositionPatient
        g.PlanePositionSequence = Sequence([place])
        groups.append(g)
    ds.PerFrameFunctionalGroupsSequence = Sequence(groups)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    ds.NumberOfFrames = len(slices)
    ds.PixelData = b"".join(s.PixelData for s in slices)
    ds.save_as(tmp_path / "multi.dcm")
    (ref,), _ = found(tmp_path)
    assert ref.item == "multi.dcm"
    np.testing.assert_array_equal(read_ref(ref).hu, body().hu)


def test_a_localiser_series_is_one_rejection(tmp_path):
    write(tmp_path / "ct")
    write(tmp_path / "scout", seed=2)
    for p in (tmp_path / "scout").iterdir():
        ds = pydicom.dcmread(p)
        ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        ds.save_as(p)
    refs, rejections = found(tmp_path)
    assert [r.item for r in refs] == ["ct"]
    assert [(r.item, r.rule) for r in rejections] == [("scout/0001.dcm", "localizer")]
    assert "(12 files of this series.)" in rejections[0].reason


def test_a_single_file_can_be_the_root(tmp_path):
    write_nifti(body(), tmp_path / "a.nii.gz")
    (ref,), _ = found(tmp_path / "a.nii.gz")
    assert ref.item == "a.nii.gz"


def test_symbolic_links_are_followed_and_loops_end(tmp_path):
    write(tmp_path / "elsewhere" / "s")
    (tmp_path / "root").mkdir()
    os.symlink(tmp_path / "elsewhere", tmp_path / "root" / "link")
    os.symlink(tmp_path / "root", tmp_path / "root" / "loop")
    refs, rejections = found(tmp_path / "root")
    assert [r.item for r in refs] == ["link/s"]
    assert rejections == []


def test_a_link_to_nowhere_is_told(tmp_path):
    os.symlink(tmp_path / "gone", tmp_path / "a.nii.gz")
    _, (rejection,) = found(tmp_path)
    assert (rejection.item, rejection.rule) == ("a.nii.gz", "unreadable")


def test_a_pipe_named_as_a_volume_is_told_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.dcm")
    (told,) = find_volumes(tmp_path)
    assert isinstance(told, Rejection)
    assert "no regular file but a pipe" in told.reason


def test_a_folder_that_may_not_be_listed_is_told(tmp_path, monkeypatch):
    write_nifti(body(), tmp_path / "a.nii.gz")
    (tmp_path / "secret").mkdir()
    real = os.scandir

    def scandir(path):
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    refs, rejections = found(tmp_path)
    assert len(refs) == 1
    assert [(r.item, r.rule) for r in rejections] == [("secret", "unreadable")]
    assert "Permission denied" in rejections[0].reason


def test_names_that_are_no_text_are_shown_escaped(tmp_path):
    write_nifti(body(), tmp_path / "ok.nii")
    os.rename(os.fsencode(tmp_path / "ok.nii"), os.fsencode(tmp_path) + b"/\xff.nii")
    (ref,), _ = found(tmp_path)
    assert ref.item == "\\xff.nii"
    assert read_ref(ref).shape == (12, 20, 24)


def test_hidden_files_are_passed_over(tmp_path):
    (tmp_path / "._0001.dcm").write_bytes(b"\0\1\2")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "x.dcm").write_bytes(b"\0")
    assert found(tmp_path) == ([], [])


def test_a_tree_that_is_not_there_is_told(tmp_path):
    with pytest.raises(InputError, match="no such file or folder"):
        list(find_volumes(tmp_path / "no"))


def test_files_that_vanish_after_the_search_are_refused(tmp_path):
    write(tmp_path / "flat")
    write(tmp_path / "x", seed=2)
    for p in (tmp_path / "x").iterdir():
        p.rename(tmp_path / "flat" / f"x{p.name}")
    refs, _ = found(tmp_path / "flat")
    shutil.rmtree(tmp_path / "flat")
    with pytest.raises(UnreadableVolume) as caught:
        read_ref(refs[0])
    assert caught.value.rule == "unreadable"


# ---------------------------------------------------------------- real data


def test_every_sound_real_ct_passes_and_only_the_two_bad_ones_are_refused(shared_data):
    refused: dict[str, str] = {}
    read = 0
    for x in find_volumes(shared_data):
        if isinstance(x, Rejection):
            refused[x.item] = x.rule
            continue
        if x.item.endswith("jpeg_lossless"):
            continue  # compared with SimpleITK in test_dicom
        try:
            read_ref(x)
            read += 1
        except InputError as error:
            refused[x.item] = error.rule
    assert refused == {
        "dicom/irregular_spacing_head": "irregular-spacing",
        "dicom/rtstruct_only/1-1.dcm": "no-pixels",
    }
    assert read == 13 + 51 + 3


def test_an_index_that_lies_in_the_archive_is_passed_over(tmp_path):
    (tmp_path / "idx" / "table").mkdir(parents=True)
    (tmp_path / "idx" / "streams.json").write_text("{}")
    (tmp_path / "idx" / "table" / "part.lance").write_bytes(b"\0" * 500)
    assert list(find_volumes(tmp_path)) == []


def test_a_tree_deeper_than_python_recurses_is_walked(tmp_path):
    deep, folder = [], os.open(tmp_path, os.O_RDONLY)
    for _ in range(1100):
        os.mkdir("d", dir_fd=folder)
        deep.append(folder)
        folder = os.open("d", os.O_RDONLY, dir_fd=folder)
        os.close(deep[-1])
    os.close(os.open("x.dcm", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
    os.close(folder)
    try:
        (told,) = find_volumes(tmp_path)
    finally:  # rmtree would recurse, and pytest's cleaning with it
        subprocess.run(["rm", "-rf", tmp_path / "d"], check=True)
    assert isinstance(told, Rejection)
    assert told.item.endswith("d/x.dcm")
