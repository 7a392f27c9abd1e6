"""What passes for a CT and what does not, each with its own reason."""

from dataclasses import replace

import numpy as np
import pytest

from medfinder.errors import GeometryError, InputError, UnreadableVolume
from medfinder.volume.checks import CheckConfig, check_volume
from medfinder.volume.volume import Volume


def chest(d: int = 24, n: int = 64) -> np.ndarray:
    """Return HU of an ellipse of soft tissue with lungs, fat and bone in air, with noise."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[-1 : 1 : n * 1j, -1 : 1 : n * 1j]
    plane = np.full((n, n), -1000.0)
    plane[x**2 / 0.8 + y**2 / 0.5 < 1] = -100
    plane[x**2 / 0.72 + y**2 / 0.42 < 1] = 45
    plane[(abs(x) - 0.4) ** 2 / 0.07 + y**2 / 0.2 < 1] = -850
    plane[x**2 + (y - 0.45) ** 2 < 0.02] = 600
    return np.rint(np.repeat(plane[None], d, 0) + rng.normal(0, 15, (d, n, n))).astype(np.int16)


def volume(hu: np.ndarray, spacing=(2.0, 5.0, 5.0), **tags: object) -> Volume:
    affine = np.zeros((4, 4))
    affine[[2, 1, 0], [0, 1, 2]] = spacing
    affine[3, 3] = 1
    return Volume(hu, affine, tags=dict(tags))


def refusal(v: Volume, config: CheckConfig | None = None) -> InputError:
    with pytest.raises(InputError) as caught:
        check_volume(v, config)
    return caught.value


def test_a_chest_passes():
    check_volume(volume(chest()))


def test_the_same_chest_stored_with_an_intercept_passes():
    check_volume(
        replace(volume(np.maximum(chest() + 1024, 0).astype(np.uint16)), intercept=-1024.0)
    )


@pytest.mark.parametrize("padding", [-1024, -2000, -2048, -3024])
def test_padding_outside_the_field_of_view_passes(padding):
    hu = chest()
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    hu[:, x**2 + y**2 > 1] = padding
    check_volume(volume(hu))


def test_a_crop_of_lung_passes():
    hu = np.full((20, 40, 40), -850, np.int16)
    hu[:, 5:10, 5:10] = 40
    hu += np.random.default_rng(0).integers(-40, 40, hu.shape, dtype=np.int16)
    check_volume(volume(hu))


def test_a_crop_of_soft_tissue_and_fat_passes():
    hu = np.random.default_rng(0).normal(40, 30, (20, 40, 40))
    hu[:, :10] -= 140
    check_volume(volume(hu.astype(np.int16)))


def test_metal_in_a_chest_passes():
    hu = chest()
    hu[:, 30:33, 30:33] = 12000
    check_volume(volume(hu))


def test_thin_slabs_are_refused_by_the_limit_that_was_set():
    error = refusal(volume(chest(9)))
    assert isinstance(error, GeometryError)
    assert error.rule == "too-few-slices"
    assert str(error) == (
        "Too few slices for a volume: expected at least 10, got 9. "
        "Lower min_slices if such a slab is wanted."
    )
    check_volume(volume(chest(9)), CheckConfig(min_slices=5))


def test_another_modality_is_refused():
    error = refusal(volume(chest(), modality="MR"))
    assert error.rule == "not-ct"
    assert "expected modality CT, got MR" in str(error)


def test_a_declared_size_above_the_limit_is_refused():
    error = refusal(volume(chest()), CheckConfig(max_voxels=1000))
    assert error.rule == "too-large"
    assert "more than the limit of 1000" in str(error)


def test_a_matrix_without_voxels_is_refused():
    assert refusal(volume(np.zeros((20, 0, 5), np.int16))).rule == "constant"


@pytest.mark.parametrize("spacing", [(0.001, 0.001, 0.001), (2, 5, 50), (0.0007, 0.7, 0.7)])
def test_implausible_spacing_is_refused(spacing):
    error = refusal(volume(chest(), spacing))
    assert error.rule == "implausible-spacing"
    assert "expected 0.1 to 20 mm" in str(error)


def test_a_volume_longer_than_any_patient_is_refused():
    error = refusal(volume(chest(), (2, 15, 15)), CheckConfig(max_extent_mm=900))
    assert error.rule == "implausible-spacing"
    assert "960 mm long" in str(error)


def test_a_sheared_affine_is_refused_as_gantry_tilt():
    v = volume(chest())
    affine = v.affine.copy()
    affine[1, 0] = 0.5
    error = refusal(Volume(v.stored, affine))
    assert error.rule == "gantry-tilt"
    assert "14.0 degrees" in str(error)


def test_an_oblique_but_perpendicular_grid_passes():
    v = volume(chest())
    c, s = np.cos(0.4), np.sin(0.4)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[c, -s], [s, c]]
    check_volume(Volume(v.stored, turn @ v.affine))


def test_a_blank_header_is_refused_on_a_body_sized_matrix():
    blank = chest(12, 256)
    error = refusal(volume(blank, (1, 1, 1), geometry_source="none"))
    assert error.rule == "blank-header"
    assert "12 x 256 x 256" in str(error)
    check_volume(volume(blank, (1, 1, 1), geometry_source="sform"))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_not_finite_is_found(bad):
    hu = chest().astype(np.float32)
    hu[7, 11, 13] = bad
    error = refusal(volume(hu))
    assert error.rule == "not-finite"
    assert str(error).startswith("1 of 98304 voxels are NaN or infinite")


def test_float64_beyond_float32_is_refused_without_a_warning():
    hu = chest().astype(np.float64)
    hu[:] = hu * 1e300
    assert refusal(volume(hu)).rule.startswith("not-hu")


@pytest.mark.parametrize("slope", [0.0, np.nan, np.inf, 1e300])
def test_a_rescale_that_cannot_be_used_is_refused(slope):
    error = refusal(replace(volume(chest()), slope=slope))
    assert error.rule == "bad-rescale"
    assert "expected a slope other than 0" in str(error)


def test_a_constant_volume_is_refused():
    error = refusal(volume(np.full((20, 30, 30), -1000, np.int16)))
    assert error.rule == "constant"
    assert "every voxel is -1000 HU" in str(error)


def windowed(hu: np.ndarray, low: float, high: float) -> np.ndarray:
    return (np.clip(hu, low, high) - low) / (high - low)


@pytest.mark.parametrize(
    "values",
    [
        windowed(chest(), -160, 240) * 255,
        windowed(chest(), -1000, 400) * 255,
        windowed(chest(), -1000, 1000),
        windowed(chest(), -1000, 1000) * 2 - 1,
        (chest() > -500).astype(np.uint8),
    ],
    ids=["soft 8 bit", "lung 8 bit", "0..1", "-1..1", "label map"],
)
def test_windowed_and_normalised_values_are_refused(values):
    error = refusal(volume(np.asarray(values)))
    assert isinstance(error, UnreadableVolume)
    assert error.rule == "not-hu-windowed"
    assert "all values lie in" in str(error)


def test_hu_cut_off_at_a_soft_tissue_window_are_refused():
    error = refusal(volume(np.clip(chest(), -160, 240)))
    assert error.rule == "not-hu-windowed"
    assert "exactly -160" in str(error)


@pytest.mark.parametrize("offset", [1000, 1024])
def test_values_offset_by_1024_are_refused(offset):
    error = refusal(volume(np.maximum(chest() + offset, 0).astype(np.int16)))
    assert error.rule == "not-hu-offset"
    assert "Apply the rescale intercept" in str(error)


def test_values_rescaled_twice_are_refused():
    error = refusal(volume(chest() - 1024))
    assert error.rule == "not-hu-rescaled-twice"
    assert "Apply the rescale intercept once" in str(error)


def test_values_far_above_any_tissue_are_refused():
    assert refusal(volume(chest() * 10)).rule.startswith("not-hu")


def test_signed_values_read_as_unsigned_are_refused():
    error = refusal(volume(chest().view(np.uint16).astype(np.int32)))
    assert error.rule == "not-hu-out-of-range"


def test_air_alone_is_refused():
    hu = np.random.default_rng(0).normal(-1000, 20, (20, 40, 40)).astype(np.int16)
    error = refusal(volume(hu))
    assert error.rule == "not-hu-out-of-range"
    assert "nothing above" in str(error)
