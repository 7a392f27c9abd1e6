"""The one form a CT takes: axis order, HU, and the hash of its contents."""

import itertools

import numpy as np
import pytest

from medfinder.errors import GeometryError
from medfinder.volume.dicom import find_series, read_series, write_dicom_series
from medfinder.volume.nifti import read_nifti, write_nifti
from medfinder.volume.volume import Volume, canonical

AXES = list(itertools.permutations(range(3)))
FLIPS = list(itertools.product((False, True), repeat=3))


def affine_dhw(spacing=(2.0, 0.5, 0.75), origin=(-30.0, 12.5, 100.0)) -> np.ndarray:
    affine = np.zeros((4, 4))
    affine[[2, 1, 0], [0, 1, 2]] = spacing
    affine[:3, 3] = origin
    affine[3, 3] = 1
    return affine


def values(shape=(12, 7, 5)) -> np.ndarray:
    return np.random.default_rng(1).integers(-1000, 1000, shape).astype(np.int16)


@pytest.mark.parametrize("order", AXES)
@pytest.mark.parametrize("flips", FLIPS)
def test_every_axis_order_comes_back_to_the_same_array_and_affine(order, flips):
    array, affine = values(), affine_dhw()
    other, moved = array.transpose(order), affine[:, [*order, 3]].copy()
    for axis, flip in enumerate(flips):
        if flip:
            other = np.flip(other, axis)
            moved[:3, 3] += moved[:3, axis] * (other.shape[axis] - 1)
            moved[:3, axis] *= -1
    back, at = canonical(other, moved)
    np.testing.assert_array_equal(back, array)
    np.testing.assert_allclose(at, affine, atol=1e-9)


def test_a_world_point_keeps_its_value_under_an_oblique_affine():
    array = values()
    turn, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = turn * [1.5, 0.8, 0.9]
    affine[:3, 3] = [4, 5, 6]
    back, at = canonical(array, affine)
    index = np.array([3, 2, 1, 1])
    found = np.linalg.inv(at) @ affine @ index
    np.testing.assert_allclose(found, np.rint(found), atol=1e-9)
    d, h, w = np.rint(found[:3]).astype(int)
    assert back[d, h, w] == array[3, 2, 1]
    assert at[2, 0] > 0
    assert at[1, 1] > 0
    assert at[0, 2] > 0


def test_canonical_does_not_copy():
    array = values()
    assert np.shares_memory(canonical(array, affine_dhw())[0], array)


@pytest.mark.parametrize("bad", [np.zeros((4, 4)), np.full((4, 4), np.nan)])
def test_an_affine_that_tells_no_axes_apart_is_refused(bad):
    with pytest.raises(GeometryError, match="singular or not finite") as caught:
        canonical(values(), bad)
    assert caught.value.rule == "bad-orientation"


def test_hu_are_float32_rescaled_contiguous_and_locked():
    v = Volume(values()[:, ::-1], affine_dhw(), slope=2.0, intercept=-1024.0)
    assert v.hu.dtype == np.float32
    assert v.hu.flags.c_contiguous
    assert not v.hu.flags.writeable
    np.testing.assert_array_equal(v.hu, v.stored * 2.0 - 1024.0)


def test_four_axes_are_refused():
    with pytest.raises(GeometryError, match="split a 4D series by time first"):
        Volume(np.zeros((2, 3, 4, 5)), affine_dhw())


def test_the_same_voxels_hash_the_same_from_nifti_and_dicom(tmp_path):
    v = Volume(values(), affine_dhw())
    write_nifti(v, tmp_path / "a.nii.gz")
    write_dicom_series(v, tmp_path / "s", patient_id="p", study_id="s", intercept=0)
    from_nifti = read_nifti(tmp_path / "a.nii.gz")
    from_dicom = read_series(find_series(tmp_path / "s")[0])
    assert from_nifti.content_hash == v.content_hash
    assert from_dicom.content_hash == v.content_hash


def test_the_hash_sees_voxels_place_and_rescale():
    v = Volume(values(), affine_dhw())
    changed = values()
    changed[0, 0, 0] += 1
    others = [
        Volume(changed, affine_dhw()),
        Volume(values(), affine_dhw(spacing=(2.0, 0.5, 0.76))),
        Volume(values(), affine_dhw(), intercept=1.0),
    ]
    assert len({v.content_hash, *(o.content_hash for o in others)}) == 4


def test_the_hash_does_not_see_memory_layout_or_byte_order():
    v = Volume(values(), affine_dhw())
    fortran = Volume(np.asfortranarray(values()), affine_dhw())
    big = Volume(values().astype(">i2"), affine_dhw())
    assert v.content_hash == fortran.content_hash == big.content_hash
