"""NIfTI files: what is read, what is refused, and with which words."""

import contextlib
import gzip
import os
import struct
import warnings
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medfinder.errors import GeometryError, InputError, UnreadableVolume
from medfinder.volume import gunzip
from medfinder.volume.nifti import MAX_VOXELS, read_nifti, write_nifti
from medfinder.volume.volume import Volume

LPS = np.array([[-0.7, 0, 0, 100], [0, -0.8, 0, 90], [0, 0, 2.5, -300], [0, 0, 0, 1]])
DTYPES = ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]


def voxels(shape: tuple[int, ...] = (5, 4, 3), dtype: str = "i2", seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 100, shape).astype(dtype)


def save(
    path: Path, data: np.ndarray, affine: np.ndarray = LPS, version: int = 1, **fields: Any
) -> Path:
    """Write with nibabel, then set header fields as they are, sensible or not."""
    cls = nibabel.Nifti1Image if version == 1 else nibabel.Nifti2Image
    plain = path.with_name("plain.nii")
    nibabel.save(cls(data, affine, dtype=data.dtype), plain)
    raw = bytearray(plain.read_bytes())
    plain.unlink()
    length = 348 if version == 1 else 540
    dtype = (nibabel.nifti1 if version == 1 else nibabel.nifti2).header_dtype
    header = np.frombuffer(bytes(raw[:length]), dtype).copy()
    for name, value in fields.items():
        header[name] = value
    raw[:length] = header.tobytes()
    path.write_bytes(gzip.compress(raw, 1) if path.name.endswith(".gz") else raw)
    return path


def refused(path: Path, rule: str, *words: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UnreadableVolume) as caught:
            read_nifti(path)
    text = str(caught.value)
    assert caught.value.rule == rule, text
    assert str(path.parent) not in text
    assert text.startswith("The NIfTI file cannot be read: ")
    for word in words:
        assert word in text


# What is read


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("version", [1, 2])
def test_every_numeric_type_reads_as_nibabel_reads_it(
    tmp_path: Path, suffix: str, dtype: str, endian: str, version: int
) -> None:
    cls, header_cls = (
        (nibabel.Nifti1Image, nibabel.Nifti1Header)
        if version == 1
        else (nibabel.Nifti2Image, nibabel.Nifti2Header)
    )
    header = header_cls(endianness=endian)
    header.set_data_dtype(np.dtype(endian + dtype))
    path = tmp_path / f"ct{suffix}"
    nibabel.save(cls(voxels(dtype=dtype), LPS, header), path)
    volume = read_nifti(path)
    truth = nibabel.as_closest_canonical(nibabel.load(path))
    assert volume.stored.dtype == np.dtype(dtype)
    assert volume.stored.dtype.isnative
    np.testing.assert_array_equal(volume.stored, np.asanyarray(truth.dataobj).T)
    np.testing.assert_allclose(volume.affine, truth.affine[:, [2, 1, 0, 3]])
    assert volume.series_id == "ct"


@settings(deadline=None, max_examples=30, suppress_health_check=list(HealthCheck))
@given(
    order=st.permutations(range(3)),
    flips=st.tuples(*[st.sampled_from([-1, 1])] * 3),
    shape=st.tuples(*[st.integers(1, 6)] * 3),
    spacing=st.tuples(*[st.floats(0.3, 8)] * 3),
)
def test_any_axis_order_becomes_superior_anterior_right(
    tmp_path: Path, order: Any, flips: Any, shape: Any, spacing: Any
) -> None:
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, world in enumerate(order):
        affine[world, axis] = flips[axis] * spacing[axis]
    path = save(tmp_path / "ct.nii.gz", voxels(shape), affine)
    volume, truth = read_nifti(path), nibabel.as_closest_canonical(nibabel.load(path))
    np.testing.assert_array_equal(volume.stored, np.asanyarray(truth.dataobj).T)
    np.testing.assert_allclose(volume.affine, truth.affine[:, [2, 1, 0, 3]], atol=1e-4)


def test_compressed_and_plain_hold_the_same_volume(tmp_path: Path) -> None:
    plain = read_nifti(save(tmp_path / "a.nii", voxels()))
    packed = read_nifti(save(tmp_path / "a.nii.gz", voxels()))
    assert plain.content_hash == packed.content_hash


def test_the_neighbour_without_gz_is_never_read(tmp_path: Path) -> None:
    save(tmp_path / "ct.nii.gz", voxels(seed=1))
    packed = read_nifti(tmp_path / "ct.nii.gz")
    save(tmp_path / "ct.nii", voxels(seed=2))
    assert read_nifti(tmp_path / "ct.nii.gz").content_hash == packed.content_hash
    assert read_nifti(tmp_path / "ct.nii").content_hash != packed.content_hash


def test_bytes_count_and_not_the_suffix(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", voxels())
    renamed = path.rename(tmp_path / "a.nii")
    assert read_nifti(renamed).shape == (3, 4, 5)


def test_a_plain_file_stays_a_map_of_the_disk(tmp_path: Path) -> None:
    volume = read_nifti(save(tmp_path / "a.nii", voxels()))
    assert not volume.stored.flags.owndata
    assert not volume.stored.flags.writeable


@pytest.mark.parametrize(
    ("slope", "inter", "expected"),
    [
        (2.0, -1024.0, (2.0, -1024.0)),
        (0.0, 5.0, (1.0, 0.0)),
        (np.nan, 5.0, (1.0, 0.0)),
        (np.inf, 5.0, (1.0, 0.0)),
        (1.0, np.nan, (1.0, 0.0)),
    ],
)
def test_the_rescale_is_kept_and_none_means_one(
    tmp_path: Path, slope: float, inter: float, expected: tuple[float, float]
) -> None:
    path = save(tmp_path / "a.nii", voxels(), scl_slope=slope, scl_inter=inter)
    volume = read_nifti(path)
    assert (volume.slope, volume.intercept) == expected
    raw = volume.stored
    np.testing.assert_allclose(volume.hu, raw.astype(np.float32) * expected[0] + expected[1])


def test_a_fourth_axis_of_one_is_dropped(tmp_path: Path) -> None:
    assert read_nifti(save(tmp_path / "a.nii.gz", voxels((5, 4, 3, 1)))).shape == (3, 4, 5)


def test_a_single_slice_keeps_three_axes(tmp_path: Path) -> None:
    assert read_nifti(save(tmp_path / "a.nii.gz", voxels((5, 4)))).shape == (1, 4, 5)


def test_sform_is_preferred_and_a_difference_is_told(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(voxels(), None)
    image.set_sform(LPS, 1)
    image.set_qform(np.eye(4), 1)
    nibabel.save(image, tmp_path / "a.nii")
    volume = read_nifti(tmp_path / "a.nii")
    assert volume.tags["geometry_source"] == "sform"
    assert volume.spacing_mm == pytest.approx((2.5, 0.8, 0.7))
    assert volume.warnings == ("sform and qform differ; the sform is used.",)


def test_qform_serves_where_the_sform_is_missing(tmp_path: Path) -> None:
    volume = read_nifti(save(tmp_path / "a.nii", voxels(), sform_code=0, qform_code=1))
    assert volume.tags["geometry_source"] == "qform"
    assert volume.spacing_mm == pytest.approx((2.5, 0.8, 0.7))


def test_qform_serves_where_the_sform_is_singular(tmp_path: Path) -> None:
    volume = read_nifti(save(tmp_path / "a.nii", voxels(), srow_x=0, qform_code=1))
    assert volume.tags["geometry_source"] == "qform"
    assert "The sform is singular; it is ignored." in volume.warnings


def test_without_orientation_voxel_sizes_remain_and_it_is_told(tmp_path: Path) -> None:
    volume = read_nifti(save(tmp_path / "a.nii", voxels(), sform_code=0, qform_code=0))
    assert volume.tags["geometry_source"] == "none"
    assert volume.spacing_mm == pytest.approx((2.5, 0.8, 0.7))
    assert "The file tells no orientation; RAS+ order is assumed." in volume.warnings


def test_an_impossible_quaternion_is_ignored_and_told(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", voxels(), sform_code=0, qform_code=1, quatern_b=3.0)
    volume = read_nifti(path)
    assert volume.tags["geometry_source"] == "none"
    assert "The qform's quaternion is impossible; it is ignored." in volume.warnings


def test_metres_become_millimetres(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", voxels(), LPS * [[1e-3], [1e-3], [1e-3], [1]], xyzt_units=1)
    volume = read_nifti(path)
    assert volume.spacing_mm == pytest.approx((2.5, 0.8, 0.7), rel=1e-5)
    assert "Lengths were not in millimetres; they are converted." in volume.warnings


def test_a_singular_orientation_is_a_geometry_error(tmp_path: Path) -> None:
    affine = LPS.copy()
    affine[:3, 2] = affine[:3, 1] + 1e-5
    path = save(
        tmp_path / "a.nii",
        voxels(),
        sform_code=1,
        srow_x=[1, 0, 0, 0],
        srow_y=[0, 1, 1, 0],
        srow_z=[0, 0, 1e-5, 0],
    )
    with pytest.raises(GeometryError, match="orientation matrix is singular"):
        read_nifti(path)


def test_a_stream_of_several_gzip_members_reads_whole(tmp_path: Path) -> None:
    plain = save(tmp_path / "a.nii", voxels((30, 20, 10)))
    raw = plain.read_bytes()
    path = tmp_path / "b.nii.gz"
    path.write_bytes(gzip.compress(raw[:400]) + gzip.compress(raw[400:]))
    assert read_nifti(path).content_hash == read_nifti(plain).content_hash


def test_foreign_bytes_after_the_stream_are_told(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", voxels())
    whole = read_nifti(path)
    path.write_bytes(path.read_bytes() + b"garbage garbage")
    volume = read_nifti(path)
    assert volume.content_hash == whole.content_hash
    assert volume.warnings == ("Foreign bytes follow the compressed data; they are ignored.",)


def test_bytes_after_the_voxels_are_read_over(tmp_path: Path) -> None:
    plain = save(tmp_path / "a.nii", voxels())
    plain.write_bytes(plain.read_bytes() + bytes(100))
    packed = tmp_path / "a.nii.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert read_nifti(plain).content_hash == read_nifti(packed).content_hash


def test_voxels_may_begin_anywhere(tmp_path: Path) -> None:
    plain = save(tmp_path / "a.nii", voxels())
    raw = plain.read_bytes()
    shifted = bytearray(raw[:352] + bytes(3) + raw[352:])
    shifted[108:112] = struct.pack("<f", 355)
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(shifted))
    (tmp_path / "b.nii").write_bytes(shifted)
    for name in ("b.nii", "b.nii.gz"):
        volume = read_nifti(tmp_path / name)
        assert volume.stored.flags.aligned
        assert volume.content_hash == read_nifti(plain).content_hash


# What is refused


def test_no_file(tmp_path: Path) -> None:
    refused(tmp_path / "none.nii", "missing-file", "Check the path.")


def test_a_folder(tmp_path: Path) -> None:
    refused(tmp_path, "not-a-file", "it is a folder")


def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.nii.gz")
    refused(tmp_path / "a.nii.gz", "not-a-file", "it is no regular file")


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").touch()
    refused(tmp_path / "a.nii.gz", "truncated", "it is empty")


@pytest.mark.parametrize("kept", [0.05, 0.5, 0.9, 0.999])
def test_a_truncated_stream(tmp_path: Path, kept: float) -> None:
    path = save(tmp_path / "a.nii.gz", voxels((40, 40, 20)))
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * kept)])
    refused(path, "truncated", "Fetch it again.")


def test_a_truncated_plain_file(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", voxels())
    path.write_bytes(path.read_bytes()[:-1])
    refused(path, "truncated", "it holds 471 bytes, its header declares 472")


def test_a_file_that_ends_inside_its_header(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", voxels())
    path.write_bytes(path.read_bytes()[:200])
    refused(path, "truncated", "it ends inside its header")


def test_a_wrong_crc(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", voxels())
    raw = bytearray(path.read_bytes())
    raw[-8] ^= 1
    path.write_bytes(raw)
    refused(path, "corrupt", "CRC")


def test_a_wrong_length_in_the_trailer(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", voxels())
    raw = bytearray(path.read_bytes())
    raw[-4:] = b"\xff\xff\xff\xff"
    path.write_bytes(raw)
    refused(path, "corrupt")


def test_damage_in_the_middle(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", voxels((40, 40, 20)))
    raw = bytearray(path.read_bytes())
    for i in range(len(raw) // 2, len(raw) // 2 + 40):
        raw[i] ^= 0xA5
    path.write_bytes(raw)
    with pytest.raises(UnreadableVolume) as caught:
        read_nifti(path)
    assert caught.value.rule in {"corrupt", "truncated"}


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_flipped_byte_is_noticed_or_harmless(tmp_path: Path, data: Any) -> None:
    """A gzip file with one wrong byte either fails by name or gives the same voxels."""
    path = save(tmp_path / "a.nii.gz", voxels((8, 8, 8)))
    truth = read_nifti(path)
    raw = bytearray(path.read_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(raw)
    try:
        volume = read_nifti(path)
    except InputError:
        return
    assert volume.content_hash == truth.content_hash


@settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_header_gives_a_volume_or_a_named_error(tmp_path: Path, data: Any) -> None:
    path = save(tmp_path / "a.nii", voxels())
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(4, 347))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with contextlib.suppress(InputError):
            assert read_nifti(path).stored.ndim == 3


def test_a_header_that_promises_more_than_the_file_holds(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", voxels(), dim=[3, 5, 4, 30, 1, 1, 1, 1])
    refused(path, "truncated", "it holds 472 bytes, its header declares 1552")


def test_more_than_any_stream_could_hold_is_refused_unread(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", voxels(), dim=[3, 500, 400, 300, 1, 1, 1, 1])
    refused(path, "truncated", "compressed bytes cannot hold them")


def test_too_many_voxels(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", voxels(), dim=[3, 30000, 30000, 30000, 1, 1, 1, 1])
    refused(path, "too-large", f"at most {MAX_VOXELS} are read")


def test_a_bomb_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gunzip, "BIG_BYTES", 2**16)
    plain = save(tmp_path / "a.nii", np.zeros((200, 200, 100), np.int16))
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(plain.read_bytes(), 9))
    refused(path, "too-large", "at most 250 is believed")


def test_an_honest_blank_volume_is_no_bomb(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", np.zeros((200, 200, 100), np.int16))
    assert read_nifti(path).shape == (100, 200, 200)


@pytest.mark.parametrize(
    "dim",
    [
        [3, 0, 4, 3, 1, 1, 1, 1],
        [3, -5, 4, 3, 1, 1, 1, 1],
        [3, 5, 4, -3, 1, 1, 1, 1],
        [1, 60, 1, 1, 1, 1, 1, 1],
        [0, 5, 4, 3, 1, 1, 1, 1],
        [9, 5, 4, 3, 1, 1, 1, 1],
        [-3, 5, 4, 3, 1, 1, 1, 1],
    ],
)
def test_impossible_dimensions(tmp_path: Path, dim: list[int]) -> None:
    refused(save(tmp_path / "a.nii", voxels(), dim=dim), "bad-dimensions", "expected 3 axes")


def test_four_axes(tmp_path: Path) -> None:
    refused(save(tmp_path / "a.nii", voxels((5, 4, 3, 2))), "not-3d", "Split it by time.")


@pytest.mark.parametrize(
    ("code", "word"), [(128, "RGB"), (2304, "RGBA"), (32, "complex"), (1, "binary"), (7, "type 7")]
)
def test_voxels_that_are_no_numbers(tmp_path: Path, code: int, word: str) -> None:
    refused(save(tmp_path / "a.nii", voxels(), datatype=code), "not-scalar", word)


@pytest.mark.parametrize("offset", [0.0, 100.0, -352.0, 352.5, np.nan, np.inf, 1e12])
def test_a_nonsense_offset(tmp_path: Path, offset: float) -> None:
    refused(save(tmp_path / "a.nii", voxels(), vox_offset=offset), "bad-header", "vox_offset")


def test_two_file_nifti(tmp_path: Path) -> None:
    refused(save(tmp_path / "a.hdr", voxels(), magic=b"ni1"), "nifti-pair", "one .nii")


def test_analyze(tmp_path: Path) -> None:
    refused(save(tmp_path / "a.nii", voxels(), magic=b""), "not-nifti", "ANALYZE")


@pytest.mark.parametrize("content", [b"PK\x03\x04" + bytes(600), b"x", b"\x1f\x8bnonsense" * 99])
def test_something_else(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.nii.gz").write_bytes(content)
    refused(tmp_path / "a.nii.gz", "corrupt" if content[0] == 0x1F else "not-nifti")


# What is written


@settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
@given(
    dtype=st.sampled_from(DTYPES),
    shape=st.tuples(*[st.integers(1, 5)] * 3),
    slope=st.sampled_from([1.0, 0.5]),
    packed=st.booleans(),
)
def test_a_written_volume_reads_back_the_same(
    tmp_path: Path, dtype: str, shape: Any, slope: float, packed: bool
) -> None:
    affine = LPS[:, [2, 1, 0, 3]] * [1, -1, -1, 1]
    volume = Volume(voxels(shape, dtype)[::-1], affine.round(1), slope, -1024.0)
    path = tmp_path / ("w.nii.gz" if packed else "w.nii")
    write_nifti(volume, path)
    again = read_nifti(path)
    assert again.content_hash == volume.content_hash
    np.testing.assert_allclose(nibabel.load(path).get_fdata().T, volume.hu, atol=1e-3)


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    volume = read_nifti(save(tmp_path / "a.nii", voxels()))
    write_nifti(volume, tmp_path / "b.nii.gz")
    write_nifti(volume, tmp_path / "c.nii.gz")
    assert (tmp_path / "b.nii.gz").read_bytes() == (tmp_path / "c.nii.gz").read_bytes()


@pytest.mark.parametrize(("dtype", "wider"), [("f2", "f4"), ("?", "u1")])
def test_types_that_nifti_lacks_are_widened(tmp_path: Path, dtype: str, wider: str) -> None:
    write_nifti(Volume(voxels(dtype=dtype), np.eye(4)[:, [2, 1, 0, 3]]), tmp_path / "w.nii")
    assert read_nifti(tmp_path / "w.nii").stored.dtype == np.dtype(wider)


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not NIfTI's"):
        write_nifti(Volume(voxels(), np.eye(4)), tmp_path / "w.mha")


def test_an_axis_too_long_to_tell_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="too long for NIfTI-1"):
        write_nifti(Volume(np.zeros((40000, 1, 1), np.int16), np.eye(4)), tmp_path / "w.nii")


# Real CTs


def test_real_cts_read_as_nibabel_reads_them(shared_data: Path) -> None:
    for path in sorted((shared_data / "ct_nifti").glob("*.nii.gz"))[:3]:
        volume, truth = read_nifti(path), nibabel.as_closest_canonical(nibabel.load(path))
        np.testing.assert_array_equal(volume.stored, np.asanyarray(truth.dataobj).T)
        np.testing.assert_allclose(volume.affine, truth.affine[:, [2, 1, 0, 3]], atol=1e-4)
        assert volume.tags["geometry_source"] in {"sform", "qform"}
