"""DICOM series: every syntax, every orientation, every way a series can be no volume."""

import itertools
import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.sequence import Sequence

from medfinder.errors import GeometryError, InputError, MedFinderError, UnreadableVolume
from medfinder.records import Rejection
from medfinder.volume.checks import CheckConfig
from medfinder.volume.dicom import find_series, read_series, write_dicom_series
from medfinder.volume.dicom_writer import TRANSFER_SYNTAXES
from medfinder.volume.header import read_header
from medfinder.volume.jpeg_lossless import encode
from medfinder.volume.pixels import codestream_shape
from medfinder.volume.volume import Volume, canonical

N = 12


def small_volume(shape=(N, 9, 7), spacing=(2.5, 0.5, 0.75), seed=1) -> Volume:
    """Return noise in HU, odd sizes, every axis of another spacing."""
    affine = np.zeros((4, 4))
    affine[[2, 1, 0], [0, 1, 2]] = spacing
    affine[:, 3] = [-100.5, 20.25, 300.0, 1]
    hu = np.random.default_rng(seed).integers(-1024, 2000, shape).astype(np.int16)
    return Volume(hu, affine)


@pytest.fixture
def series(tmp_path: Path) -> Path:
    """A folder with one sound series of 12 slices."""
    write_dicom_series(small_volume(), tmp_path / "s", patient_id="P1", study_id="S1")
    return tmp_path / "s"


def read(folder: Path, config: CheckConfig | None = None) -> Volume:
    (found,) = find_series(folder)
    return read_series(found, config)


def skips(folder: Path) -> list[Rejection]:
    told: list[Rejection] = []
    find_series(folder, told.append)
    return told


def edit(path: Path, **values: object) -> None:
    """Change elements of one file; None deletes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of the values are meant to be wrong
        ds = pydicom.dcmread(path)
        for name, value in values.items():
            if value is None:
                del ds[name]
            else:
                setattr(ds, name, value)
        ds.save_as(path)


def edit_all(folder: Path, **values: object) -> None:
    for path in sorted(folder.iterdir()):
        edit(path, **values)


def refusal(folder: Path, config: CheckConfig | None = None) -> InputError:
    with pytest.raises(InputError) as caught:
        read(folder, config)
    return caught.value


def new_uid(k: int) -> str:
    return f"2.25.{10**20 + k}"


# ---------------------------------------------------------------- what comes back


@pytest.mark.parametrize("syntax", sorted(TRANSFER_SYNTAXES))
@pytest.mark.parametrize("intercept", [-1024, 0])
def test_every_transfer_syntax_comes_back_with_the_same_hu(tmp_path, syntax, intercept):
    v = small_volume((N, 32, 36))
    write_dicom_series(
        v, tmp_path, patient_id="p", study_id="s", transfer_syntax=syntax, intercept=intercept
    )
    header = read_header(tmp_path / "0001.dcm")
    assert header.transfer_syntax == TRANSFER_SYNTAXES[syntax]
    back = read(tmp_path)
    np.testing.assert_array_equal(back.hu, v.hu)
    np.testing.assert_allclose(back.affine, v.affine, atol=1e-6)
    assert back.warnings == ()


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", [(0, 0, 0), (1, 0, 1), (0, 1, 0), (1, 1, 1)])
def test_every_orientation_of_slices_comes_back_to_the_same_volume(tmp_path, order, flips):
    v = small_volume((10, 11, 12))
    # rows, columns and slices in any order and direction: written from a raw array by hand
    array, affine = v.stored.transpose(order), v.affine[:, [*order, 3]].copy()
    for axis, flip in enumerate(flips):
        if flip:
            array = np.flip(array, axis)
            affine[:3, 3] += affine[:3, axis] * (array.shape[axis] - 1)
            affine[:3, axis] *= -1
    write_dicom_series(small_volume((array.shape[0], 3, 3)), tmp_path, patient_id="p", study_id="s")
    affine[:2] *= -1
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    for i, path in enumerate(sorted(tmp_path.iterdir())):
        edit(
            path,
            Rows=array.shape[1],
            Columns=array.shape[2],
            PixelData=np.ascontiguousarray(array[i] + 1024, dtype="<i2").tobytes(),
            ImagePositionPatient=list(affine[:3, 3] + i * affine[:3, 0]),
            ImageOrientationPatient=[*(affine[:3, 2] / steps[2]), *(affine[:3, 1] / steps[1])],
            PixelSpacing=[steps[1], steps[2]],
        )
    back = read(tmp_path)
    np.testing.assert_array_equal(back.hu, v.hu)
    np.testing.assert_allclose(back.affine, v.affine, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_axial_coronal_and_sagittal_series_come_back_alike(tmp_path, axis):
    v = small_volume((10, 11, 12))
    write_dicom_series(v, tmp_path, patient_id="p", study_id="s", slice_axis=axis)
    back = read(tmp_path)
    np.testing.assert_array_equal(back.hu, v.hu)
    np.testing.assert_allclose(back.affine, v.affine, atol=1e-6)


def test_an_oblique_series_comes_back_with_its_affine(tmp_path):
    v = small_volume((10, 11, 12))
    turn, _ = np.linalg.qr(np.eye(3) + np.random.default_rng(2).normal(0, 0.1, (3, 3)))
    affine = v.affine.copy()
    affine[:3, :3] = turn * np.sign(np.diag(turn)) @ affine[:3, :3]
    write_dicom_series(Volume(v.stored, affine), tmp_path, patient_id="p", study_id="s")
    back = read(tmp_path)
    np.testing.assert_array_equal(back.hu, v.hu)
    np.testing.assert_allclose(back.affine, affine, atol=1e-5)


def test_writing_twice_writes_the_same_bytes(tmp_path):
    for name in "ab":
        write_dicom_series(small_volume(), tmp_path / name, patient_id="p", study_id="s")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_written_files_are_valid_for_pydicom(series):
    ds = pydicom.dcmread(series / "0003.dcm")
    assert ds.SOPClassUID.name == "CT Image Storage"
    assert ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
    assert pydicom.uid.UID(ds.SeriesInstanceUID).is_valid
    assert ds.pixel_array.shape == (9, 7)


def test_order_comes_from_positions_not_from_numbers_or_names(series):
    before = read(series).hu
    paths = sorted(series.iterdir())
    for i, path in enumerate(paths):
        edit(path, InstanceNumber=(i * 5) % N, SliceLocation=float((i * 7) % N))
        path.rename(series / f"x{(i * 5) % N}")
    np.testing.assert_array_equal(read(series).hu, before)


def test_other_files_and_nested_folders_do_not_matter(series):
    before = read(series).hu
    (series / "notes.txt").write_text("hello")
    (series / "DICOMDIR").write_bytes(b"\0" * 200)
    (series / "LICENSE").write_text("words only")
    (series / "deeper" / "still").mkdir(parents=True)
    for path in sorted(series.glob("*.dcm"))[::2]:
        path.rename(series / "deeper" / "still" / path.stem)
    np.testing.assert_array_equal(read(series).hu, before)
    assert skips(series) == []


def test_two_series_in_one_folder_are_told_apart(series):
    other = small_volume(seed=2)
    write_dicom_series(other, series / "t", patient_id="P1", study_id="S1")
    for path in (series / "t").iterdir():
        path.rename(series / f"t{path.name}")
    found = find_series(series)
    assert [len(s.slices) for s in found] == [N, N]
    got = {read_series(s).hu.tobytes() for s in found}
    assert got == {small_volume().hu.tobytes(), other.hu.tobytes()}


def test_tags_tell_who_when_and_how(tmp_path):
    write_dicom_series(
        small_volume(),
        tmp_path,
        patient_id="P1",
        study_id="1.2.3",
        sex="F",
        age=53,
        study_date="2020-02-29",
        manufacturer="Acme",
    )
    tags = read(tmp_path).tags
    assert tags == {
        "patient_id": "P1",
        "study_id": "1.2.3",
        "sex": "F",
        "age": 53,
        "study_date": "2020-02-29",
        "manufacturer": "Acme",
        "body_part": "CHEST",
        "modality": "CT",
        "geometry_source": "dicom",
    }


@pytest.mark.parametrize(
    ("age", "birth", "expected"),
    [
        ("018M", "", 1),
        ("006W", "", 0),
        ("", "19700301", 49),
        ("", "20200229", None),
        ("x", "", None),
    ],
)
def test_age_comes_from_the_age_string_or_from_the_dates(series, age, birth, expected):
    edit_all(series, PatientAge=age, PatientBirthDate=birth, StudyDate="20200229")
    assert read(series).tags.get("age") == expected


def test_an_impossible_date_is_no_date(series):
    edit_all(series, StudyDate="20209999")
    assert "study_date" not in read(series).tags


# ---------------------------------------------------------------- stored values


def test_twelve_bit_values_lose_what_lies_above_them(series):
    path = sorted(series.iterdir())
    for p in path:
        ds = pydicom.dcmread(p)
        raw = np.frombuffer(ds.PixelData, "<u2") & 0x0FFF | 0xA000  # an old overlay on top
        edit(p, PixelData=raw.tobytes(), BitsStored=12, HighBit=11, PixelRepresentation=0)
    v = read(series)
    assert v.stored.dtype == np.uint16
    assert v.stored.max() < 4096


def test_twelve_bit_signed_values_extend_their_sign(series):
    for p in sorted(series.iterdir()):
        raw = np.full(63, -1000, "<i2").view("<u2") & 0x0FFF
        edit(p, PixelData=raw.tobytes() + b"", BitsStored=12, HighBit=11)
    assert (read(series).hu == -2024).all()


@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize("syntax", ["rle", "jpeg-ls", "jpeg2000", "jpeg-lossless"])
def test_twelve_bit_values_survive_compression(tmp_path, syntax, signed):
    raw = np.random.default_rng(4).integers(0, 4096, (N, 32, 32)) - 2048 * signed
    write_dicom_series(small_volume((N, 32, 32)), tmp_path, patient_id="p", study_id="s")
    for i, p in enumerate(sorted(tmp_path.iterdir())):
        edit(
            p,
            PixelData=raw[i].astype("<i2").tobytes(),
            BitsStored=12,
            HighBit=11,
            PixelRepresentation=signed,
        )
        ds = pydicom.dcmread(p)
        if syntax == "jpeg-lossless":
            ds.PixelData = encapsulate([encode(raw[i].astype("<i2"))])
            ds["PixelData"].VR = "OB"
            ds.file_meta.TransferSyntaxUID = TRANSFER_SYNTAXES[syntax]
        else:
            ds.compress(TRANSFER_SYNTAXES[syntax], generate_instance_uid=False)
        ds.save_as(p)
    np.testing.assert_array_equal(read(tmp_path).hu[:, ::-1, ::-1] + 1024, raw)


def test_a_high_bit_above_the_stored_bits_is_shifted_down(series):
    for p in sorted(series.iterdir()):
        raw = np.full(63, 500, "<u2") << 4
        edit(p, PixelData=raw.tobytes(), BitsStored=12, HighBit=15, PixelRepresentation=0)
    assert (read(series).hu == 500 - 1024).all()


def test_eight_bit_values_are_read(series):
    for i, p in enumerate(sorted(series.iterdir())):
        raw = np.full(64, i, np.uint8)  # 63 voxels, padded to even length
        edit(p, PixelData=raw.tobytes(), BitsAllocated=8, BitsStored=8, HighBit=7)
        edit(p, PixelRepresentation=0, RescaleSlope=4)
    np.testing.assert_array_equal(read(series).hu[:, 0, 0], np.arange(N) * 4 - 1024)


def test_a_rescale_of_its_own_on_each_slice_gives_float_hu(series):
    paths = sorted(series.iterdir())
    for i, p in enumerate(paths):
        edit(p, RescaleSlope=1 + i / 4, RescaleIntercept=-1024 + i)
    v = read(series)
    raw = small_volume().hu + 1024
    slope = (1 + np.arange(N) / 4)[:, None, None]
    expected = raw * slope - 1024 + np.arange(N)[:, None, None]
    np.testing.assert_allclose(v.hu, expected, rtol=1e-6)
    assert (v.slope, v.intercept) == (1.0, 0.0)
    assert "differs between slices" in v.warnings[0]


def test_padding_is_kept_as_stored(series):
    for p in sorted(series.iterdir()):
        ds = pydicom.dcmread(p)
        raw = np.frombuffer(ds.PixelData, "<i2").copy()
        raw[:5] = -2000
        edit(p, PixelData=raw.tobytes())
    assert read(series).hu.min() == -3024


def test_monochrome1_keeps_its_values_and_says_so(series):
    edit_all(series, PhotometricInterpretation="MONOCHROME1")
    v = read(series)
    np.testing.assert_array_equal(v.hu, small_volume().hu)
    assert "MONOCHROME1" in v.warnings[0]


def test_a_file_without_preamble_is_read(series):
    for p in sorted(series.iterdir()):
        data = p.read_bytes()
        ds = pydicom.dcmread(p)
        start = 132 + 12 + ds.file_meta.FileMetaInformationGroupLength
        p.write_bytes(data[start:])
    np.testing.assert_array_equal(read(series).hu, small_volume().hu)


def test_implicit_data_declared_explicit_is_read(tmp_path):
    write_dicom_series(
        small_volume(), tmp_path, patient_id="p", study_id="s", transfer_syntax="implicit"
    )
    for p in sorted(tmp_path.iterdir()):
        data = p.read_bytes()
        old, new = b"1.2.840.10008.1.2\0", b"1.2.840.10008.1.2.1\0"
        at = data.index(old)
        data = data[: at - 2] + len(new).to_bytes(2, "little") + new + data[at + len(old) :]
        p.write_bytes(data)
    np.testing.assert_array_equal(read(tmp_path).hu, small_volume().hu)


def test_sequences_of_undefined_length_before_the_pixels_are_skipped(series):
    for p in sorted(series.iterdir()):
        ds = pydicom.dcmread(p)
        inner, outer = Dataset(), Dataset()
        inner.CodeValue = "x" * 9
        outer.add_new(0x00400008, "SQ", Sequence([inner, inner]))
        outer[0x00400008].is_undefined_length = True
        ds.add_new(0x00081140, "SQ", Sequence([outer, Dataset()]))
        ds[0x00081140].is_undefined_length = True
        for item in ds[0x00081140].value:
            item.is_undefined_length_sequence_item = True
        ds.add_new(0x00091010, "UN", os.urandom(20_000))  # larger than one read of the header
        ds.save_as(p)
    np.testing.assert_array_equal(read(series).hu, small_volume().hu)


@pytest.mark.parametrize("syntax", sorted(TRANSFER_SYNTAXES))
def test_the_header_scanner_agrees_with_pydicom(tmp_path, syntax):
    v = small_volume((N, 32, 32))
    write_dicom_series(v, tmp_path, patient_id="Pé", study_id="s", transfer_syntax=syntax, age=7)
    path = tmp_path / "0004.dcm"
    ours, theirs = read_header(path), pydicom.dcmread(path)
    assert ours.sop_instance == theirs.SOPInstanceUID
    assert ours.series_id == theirs.SeriesInstanceUID
    assert list(ours.position) == [float(x) for x in theirs.ImagePositionPatient]
    assert list(ours.orientation) == [float(x) for x in theirs.ImageOrientationPatient]
    assert (ours.rows, ours.columns, ours.bits_stored) == (32, 32, 16)
    assert (ours.slope, ours.intercept, ours.signed) == (1.0, -1024.0, 1)
    assert ours.image_type == tuple(theirs.ImageType)
    assert ours.age == "007Y"


# ---------------------------------------------------------------- multi-frame


def enhanced(folder: Path, v: Volume, encapsulated: bool = False, drop_groups: int = 0) -> Path:
    """Write a volume as one Enhanced CT file, frames in a scrambled order."""
    write_dicom_series(
        v,
        folder / "tmp",
        patient_id="p",
        study_id="s",
        transfer_syntax="rle" if encapsulated else "explicit",
    )
    slices = [pydicom.dcmread(p) for p in sorted((folder / "tmp").iterdir())]
    slices = [slices[i * 5 % len(slices)] for i in range(len(slices))]
    shutil.rmtree(folder / "tmp")
    ds = slices[0]
    groups = []
    for s in slices[drop_groups:]:
        g, place = Dataset(), Dataset()
        place.ImagePositionPatient = s.ImagePositionPatient
        g.PlanePositionSequence = Sequence([place])
        groups.append(g)
    shared, turn, measures, rescale = Dataset(), Dataset(), Dataset(), Dataset()
    turn.ImageOrientationPatient = ds.ImageOrientationPatient
    measures.PixelSpacing = ds.PixelSpacing
    rescale.RescaleIntercept, rescale.RescaleSlope = ds.RescaleIntercept, ds.RescaleSlope
    shared.PlaneOrientationSequence = Sequence([turn])
    shared.PixelMeasuresSequence = Sequence([measures])
    shared.PixelValueTransformationSequence = Sequence([rescale])
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    ds.PerFrameFunctionalGroupsSequence = Sequence(groups)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    ds.NumberOfFrames = len(slices)
    if encapsulated:
        parts = [next(generate_frames(s.PixelData, number_of_frames=1)) for s in slices]
        ds.PixelData = encapsulate(parts)
    else:
        ds.PixelData = b"".join(s.PixelData for s in slices)
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(ds, name)
    del ds.RescaleSlope, ds.RescaleIntercept
    ds.save_as(folder / "enhanced.dcm")
    return folder / "enhanced.dcm"


@pytest.mark.parametrize("encapsulated", [False, True])
def test_an_enhanced_multi_frame_ct_is_read(tmp_path, encapsulated):
    v = small_volume((N, 10, 8))
    path = enhanced(tmp_path, v, encapsulated)
    back = read(path)
    np.testing.assert_array_equal(back.hu, v.hu)
    np.testing.assert_allclose(back.affine, v.affine, atol=1e-6)


def test_frames_without_their_groups_are_refused(tmp_path):
    enhanced(tmp_path, small_volume((N, 10, 8)), drop_groups=1)
    (told,) = skips(tmp_path)
    assert told.rule == "corrupt"
    assert "expected 12 frames, got 11" in told.reason


def test_frames_without_positions_are_refused(series):
    edit_all(series, NumberOfFrames=3)
    told = skips(series)
    assert told[0].rule == "no-geometry"
    assert "3 frames but no positions" in told[0].reason


# ---------------------------------------------------------------- geometry that is no stack


def test_too_few_slices_are_refused(series):
    for p in sorted(series.iterdir())[9:]:
        p.unlink()
    error = refusal(series)
    assert error.rule == "too-few-slices"
    assert "expected at least 10, got 9" in str(error)
    assert read(series, CheckConfig(min_slices=5)).shape == (9, 9, 7)


def test_one_slice_is_never_a_volume(series):
    for p in sorted(series.iterdir())[1:]:
        p.unlink()
    assert refusal(series, CheckConfig(min_slices=1)).rule == "too-few-slices"


def test_missing_slices_are_counted(tmp_path):
    write_dicom_series(small_volume((20, 5, 5)), tmp_path, patient_id="p", study_id="s")
    for k in (5, 6, 13):
        (tmp_path / f"{k:04d}.dcm").unlink()
    error = refusal(tmp_path)
    assert isinstance(error, GeometryError)
    assert error.rule == "missing-slices"
    assert str(error) == (
        "Missing slices: 3 of 20, in 2 place(s); expected a slice every 2.5 mm, got gaps up to "
        "7.5 mm. Fetch the series again."
    )


def test_identical_copies_are_dropped_with_a_warning(series):
    for k in (2, 3):
        shutil.copy(series / f"{k:04d}.dcm", series / f"copy{k}.dcm")
    v = read(series)
    np.testing.assert_array_equal(v.hu, small_volume().hu)
    assert v.warnings == ("2 identical copies of slices were dropped.",)


def test_different_pixels_at_one_position_are_refused(series):
    shutil.copy(series / "0002.dcm", series / "other.dcm")
    pixels = pydicom.dcmread(series / "0003.dcm").PixelData
    edit(series / "other.dcm", PixelData=pixels, SOPInstanceUID=new_uid(1))
    error = refusal(series)
    assert error.rule == "duplicate-slices"
    assert "1 of 12 positions occur more than once with different pixels" in str(error)


def test_two_time_points_are_refused_as_4d(series):
    write_dicom_series(small_volume(seed=9), series / "later", patient_id="P1", study_id="S1")
    uid = pydicom.dcmread(series / "0001.dcm").SeriesInstanceUID
    edit_all(series / "later", SeriesInstanceUID=uid)
    error = refusal(series)
    assert error.rule == "4d"
    assert "every one of its 12 positions occurs 2 times" in str(error)


def move(series: Path, change) -> None:
    for i, p in enumerate(sorted(series.iterdir())):
        ds = pydicom.dcmread(p)
        edit(p, ImagePositionPatient=change(i, [float(x) for x in ds.ImagePositionPatient]))


def test_irregular_spacing_is_refused_with_its_range(series):
    move(series, lambda i, p: [p[0], p[1], p[2] + (1.1 if i > 5 else 0)])
    error = refusal(series)
    assert error.rule == "irregular-spacing"
    assert "got 2.5 to 3.6 mm (median 2.5 mm)" in str(error)


def test_slightly_uneven_gaps_are_bearable_and_told(series):
    move(series, lambda i, p: [p[0], p[1], p[2] + (0.1 if i == 5 else 0)])
    (warning,) = read(series).warnings
    assert "Slice gaps vary by up to 4%" in warning


def test_a_slice_beside_the_line_is_refused(series):
    move(series, lambda i, p: [p[0] + (9 if i == 5 else 0), p[1], p[2]])
    error = refusal(series)
    assert error.rule == "irregular-spacing"
    assert "9.0 mm beside the line" in str(error)


def test_gantry_tilt_is_refused_with_its_angle(series):
    move(series, lambda i, p: [p[0], p[1] + i, p[2]])
    error = refusal(series)
    assert error.rule == "gantry-tilt"
    assert "stacked 21.8 degrees off their normal" in str(error)


def test_mixed_orientations_are_refused(series):
    for p in sorted(series.iterdir())[:6]:
        edit(p, ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    error = refusal(series)
    assert error.rule == "mixed-orientations"
    assert "got 2 directions (6, 6 slices)" in str(error)


def test_an_unmarked_scout_is_left_out_with_a_warning(series):
    shutil.copy(series / "0001.dcm", series / "scout.dcm")
    edit(
        series / "scout.dcm",
        ImageOrientationPatient=[1, 0, 0, 0, 0, -1],
        SOPInstanceUID=new_uid(1),
        Rows=7,
        Columns=9,
    )
    v = read(series)
    np.testing.assert_array_equal(v.hu, small_volume().hu)
    assert v.warnings == ("1 slice(s) of another orientation were left out as localisers.",)


def test_mixed_matrices_are_refused(series):
    edit(series / "0001.dcm", Rows=7, Columns=9)
    error = refusal(series)
    assert error.rule == "mixed-matrix"
    assert "7 x 9, 9 x 7" in str(error)


def test_mixed_pixel_spacings_are_refused(series):
    edit(series / "0001.dcm", PixelSpacing=[0.6, 0.75])
    error = refusal(series)
    assert error.rule == "mixed-matrix"
    assert "Mixed pixel spacing" in str(error)


@pytest.mark.parametrize(
    "name", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"]
)
def test_a_slice_that_does_not_say_where_it_lies_is_refused(series, name):
    edit(series / "0004.dcm", **{name: None})
    error = refusal(series)
    assert error.rule == "no-geometry"
    assert "does not say where it lies" in str(error)


def test_axes_that_are_not_perpendicular_are_refused(series):
    edit_all(series, ImageOrientationPatient=[1, 0, 0, 0.5, 0.8, 0])
    assert refusal(series).rule == "bad-orientation"


def test_a_pixel_spacing_of_zero_is_refused(series):
    edit_all(series, PixelSpacing=[0, 0.5])
    assert refusal(series).rule == "implausible-spacing"


# ---------------------------------------------------------------- what is no CT slice


def test_localisers_are_told_and_left_out(series):
    for k in (1, 2):
        shutil.copy(series / "0001.dcm", series / f"scout{k}.dcm")
        edit(series / f"scout{k}.dcm", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    (told,) = skips(series)
    assert told.item == "scout1.dcm"
    assert told.rule == "localizer"
    assert told.reason.endswith("(2 files of this series.)")
    assert read(series).warnings == ("2 object(s) of the series were left out: localizer.",)


@pytest.mark.parametrize(
    ("changes", "rule", "words"),
    [
        ({"Modality": "MR"}, "not-ct", "expected modality CT, got MR"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "secondary-capture", "screen shot"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.104.1"}, "no-pixels", "document"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "colour", "PALETTE COLOR"),
        (
            {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"},
            "colour",
            "expected one grey sample a voxel, got 3 (RGB)",
        ),
        ({"PixelData": None, "Modality": "SR"}, "no-pixels", "expected CT slices, got SR"),
        ({"PixelData": None}, "truncated", "no pixel data"),
    ],
)
def test_objects_that_are_no_ct_slices_are_told_with_the_reason(series, changes, rule, words):
    edit_all(series, **changes)
    told: list[Rejection] = []
    assert find_series(series, told.append) == []
    assert [r.rule for r in told] == [rule]
    assert words in told[0].reason


def test_a_rescale_to_other_units_is_told(series):
    edit_all(series, RescaleType="Z_EFF")
    told = skips(series)
    assert told[0].rule == "not-hu-units"
    assert "the rescale type is Z_EFF" in told[0].reason


def test_a_modality_lookup_table_is_told(series):
    item = Dataset()
    item.LUTDescriptor = [1, 0, 16]
    edit_all(series, ModalityLUTSequence=Sequence([item]))
    assert skips(series)[0].rule == "unsupported-pixels"


# ---------------------------------------------------------------- broken files


def test_truncated_pixels_are_refused(series):
    path = series / "0005.dcm"
    path.write_bytes(path.read_bytes()[:-20])
    told = skips(series)
    assert told == []
    error = refusal(series)
    assert error.rule == "truncated"
    assert "expected 126 bytes of pixels, got 106" in str(error)


def test_pixel_data_shorter_than_declared_rows_is_refused(series):
    edit(series / "0005.dcm", PixelData=b"\0" * 100)
    assert refusal(series).rule == "truncated"


@pytest.mark.parametrize("syntax", ["rle", "jpeg-lossless", "jpeg-ls", "jpeg2000"])
@pytest.mark.parametrize("cut", [0.97, 0.85])
def test_truncated_compressed_pixels_are_refused(tmp_path, syntax, cut):
    v = small_volume((10, 32, 32))
    write_dicom_series(v, tmp_path, patient_id="p", study_id="s", transfer_syntax=syntax)
    path = tmp_path / "0005.dcm"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * cut)])
    assert refusal(tmp_path).rule in ("truncated", "corrupt")


@pytest.mark.parametrize("syntax", ["rle", "jpeg-lossless", "jpeg-ls", "jpeg2000"])
def test_garbage_in_compressed_pixels_is_refused_or_changes_only_pixels(tmp_path, syntax):
    v = small_volume((10, 32, 32))
    write_dicom_series(v, tmp_path, patient_id="p", study_id="s", transfer_syntax=syntax)
    path = tmp_path / "0005.dcm"
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    for at in rng.integers(len(data) - 1200, len(data) - 20, 40):
        data[at] = rng.integers(256)
    path.write_bytes(data)
    try:
        assert read(tmp_path).shape == v.shape
    except UnreadableVolume as error:
        assert error.rule in ("truncated", "corrupt")  # noqa: PT017


def test_a_header_cut_in_the_middle_is_told(series):
    path = series / "0005.dcm"
    path.write_bytes(path.read_bytes()[:660])
    (told,) = skips(series)
    assert (told.item, told.rule) == ("0005.dcm", "corrupt")
    assert "breaks off" in told.reason


@pytest.mark.parametrize("content", [b"", b"this is text, not DICOM\n" * 20])
def test_a_dcm_that_is_text_or_empty_is_told(series, content):
    (series / "bad.dcm").write_bytes(content)
    (told,) = skips(series)
    assert (told.item, told.rule) == ("bad.dcm", "corrupt")
    assert told.reason.startswith("The file is not DICOM")


def test_a_small_file_that_declares_a_huge_matrix_allocates_nothing(series):
    edit_all(series, Rows=65535, Columns=65535)
    error = refusal(series)
    assert error.rule == "too-large"
    assert "65535 x 65535" in str(error)


def test_a_codestream_larger_than_its_header_is_not_decoded(tmp_path):
    write_dicom_series(
        small_volume((10, 32, 32)),
        tmp_path,
        patient_id="p",
        study_id="s",
        transfer_syntax="jpeg2000",
    )
    edit_all(tmp_path, Rows=16)
    error = refusal(tmp_path)
    assert error.rule == "corrupt"
    assert "expected 16 x 32, got 32 x 32" in str(error)


@pytest.mark.parametrize("syntax", ["jpeg-lossless", "jpeg-ls", "jpeg2000"])
def test_a_codestream_tells_its_own_shape(tmp_path, syntax):
    v = small_volume((1, 40, 33))
    write_dicom_series(v, tmp_path, patient_id="p", study_id="s", transfer_syntax=syntax)
    ds = pydicom.dcmread(tmp_path / "0001.dcm")
    assert codestream_shape(next(generate_frames(ds.PixelData, number_of_frames=1))) == (40, 33)
    assert codestream_shape(b"nothing like it") is None


def test_a_rescale_that_is_no_number_is_told(series):
    data = (series / "0005.dcm").read_bytes()
    assert b"-1024" in data
    (series / "0005.dcm").write_bytes(data.replace(b"-1024", b"-10z4"))
    (told,) = skips(series)
    assert told.rule == "corrupt"
    assert "intercept is not a number" in told.reason


def test_bits_that_contradict_each_other_are_refused(series):
    edit_all(series, BitsStored=20)
    assert refusal(series).rule == "corrupt"


def test_an_unknown_compression_is_refused(series):
    for p in sorted(series.iterdir()):
        data = p.read_bytes()
        p.write_bytes(data.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.9.9\0"))
    error = refusal(series)
    assert error.rule == "unsupported-pixels"
    assert "a compression that is not read" in str(error)


def test_a_file_that_may_not_be_read_is_told(series, monkeypatch):
    from medfinder.volume import header

    def deny(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(header, "open", deny, raising=False)
    told = skips(series)
    assert {r.rule for r in told} == {"unreadable"}
    assert "Permission denied" in told[0].reason


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> dict[str, list[bytes]]:
    """The bytes of one small series in each transfer syntax that has a form of its own."""
    out = {}
    for syntax in TRANSFER_SYNTAXES:
        folder = tmp_path_factory.mktemp(syntax)
        write_dicom_series(
            small_volume((10, 32, 32)),
            folder,
            patient_id="p",
            study_id="s",
            transfer_syntax=syntax,
        )
        out[syntax] = [p.read_bytes() for p in sorted(folder.iterdir())]
    return out


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    syntax=st.sampled_from(sorted(TRANSFER_SYNTAXES)),
    edits=st.lists(
        st.tuples(
            st.integers(0, 9), st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=8)
        ),
        min_size=1,
        max_size=6,
    ),
    cut=st.none() | st.floats(0, 1),
)
def test_any_damage_ends_in_a_volume_or_in_an_error_of_ours(
    originals, tmp_path, syntax, edits, cut
):
    folder = tmp_path / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    files = [bytearray(data) for data in originals[syntax]]
    for which, where, what in edits:
        at = int(where * len(files[which]))
        files[which][at : at + len(what)] = what
    if cut is not None:
        files[0] = files[0][: int(cut * len(files[0]))]
    for i, data in enumerate(files):
        (folder / f"{i}.dcm").write_bytes(data)
    told: list[Rejection] = []
    for found in find_series(folder, told.append):
        try:
            v = read_series(found, CheckConfig(min_slices=2, max_voxels=10**6))
        except MedFinderError:
            continue
        assert v.stored.size <= 10**6
    assert all(r.reason and r.rule for r in told)


def test_warnings_of_pydicom_do_not_leak(series):
    for p in sorted(series.iterdir()):
        data = p.read_bytes()
        # an invalid UID and a decimal string that is too long: both make pydicom warn
        p.write_bytes(data.replace(b"2.25.", b"2.05."))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(read(series).hu, small_volume().hu)


# ---------------------------------------------------------------- real series


def simpleitk_hu(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return (array, affine) as SimpleITK reads the series: slices, rows, columns, in RAS+."""
    sitk = pytest.importorskip("SimpleITK")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    affine[:2] *= -1
    return sitk.GetArrayFromImage(image), affine[:, [2, 1, 0, 3]]


@pytest.mark.parametrize("syntax", sorted(TRANSFER_SYNTAXES))
def test_what_is_written_reads_the_same_in_simpleitk(tmp_path, syntax):
    v = small_volume((N, 32, 36))
    write_dicom_series(v, tmp_path, patient_id="p", study_id="s", transfer_syntax=syntax)
    theirs, affine = canonical(*simpleitk_hu(tmp_path))
    np.testing.assert_array_equal(theirs, v.hu)
    np.testing.assert_allclose(affine, v.affine, atol=1e-4)


@pytest.mark.parametrize("name", ["cip_ct64", "lung_dx_a0002", "lidc_0001_slab"])
def test_real_series_equal_simpleitk(shared_data, name):
    ours = read(shared_data / "dicom" / name)
    theirs, affine = canonical(*simpleitk_hu(shared_data / "dicom" / name))
    np.testing.assert_array_equal(ours.hu, theirs)
    np.testing.assert_allclose(ours.affine, affine, atol=1e-4)


@pytest.mark.slow
def test_the_jpeg_lossless_series_equals_simpleitk(shared_data):
    folder = shared_data / "dicom" / "ricord_001012_jpeg_lossless"
    ours = read(folder)
    theirs, affine = canonical(*simpleitk_hu(folder))
    np.testing.assert_array_equal(ours.hu, theirs)
    np.testing.assert_allclose(ours.affine, affine, atol=1e-4)
    assert ours.hu.min() == -3024


def test_the_irregular_head_is_refused_with_spacing_and_tilt(shared_data):
    error = refusal(shared_data / "dicom" / "irregular_spacing_head")
    assert error.rule == "irregular-spacing"
    assert "tilted by 18.5 degrees" in str(error)


def test_the_rtstruct_is_told(shared_data):
    (told,) = skips(shared_data / "dicom" / "rtstruct_only")
    assert told.rule == "no-pixels"
    assert "got RTSTRUCT" in told.reason
