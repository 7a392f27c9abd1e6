"""Lesions by region, the pointing game and Dice: planted maps, and a slow truth on a fine grid."""

import numpy as np
import pytest
from scipy import ndimage

from medfinder.benchmark.localisation import (
    Lesion,
    best_dice,
    chance_to_point,
    dice_of_hottest,
    lesion_by_region,
    points_at,
)
from medfinder.errors import InputError

SIZE, REGIONS = (16, 24, 16), (2, 3, 4)


def random_mask(seed: int = 0) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(SIZE), 2)
    return np.asarray(noise > np.quantile(noise, 0.9))


def by_region(mask: np.ndarray) -> Lesion:
    return lesion_by_region(mask, np.eye(4), np.eye(4), SIZE, REGIONS)


def shown(regions: np.ndarray) -> np.ndarray:
    """Regions as voxels of the fine grid."""
    fine = regions.reshape(REGIONS)
    for axis in range(3):
        fine = np.repeat(fine, SIZE[axis] // REGIONS[axis], axis)
    return fine


@pytest.mark.parametrize("seed", range(4))
def test_counts_and_dice_are_those_of_the_fine_grid(seed: int) -> None:
    mask = random_mask(seed)
    lesion = by_region(mask)
    heat = np.random.default_rng(seed).random(24)
    for region in range(24):
        assert lesion.counts[region] == mask[shown(np.arange(24) == region)].sum()
    numbers = np.arange(1, 25)
    for m, value in zip(numbers, dice_of_hottest(heat, lesion, numbers), strict=True):
        fine = shown(heat >= np.sort(heat)[-m])
        assert value == pytest.approx(2 * (fine & mask).sum() / (fine.sum() + mask.sum()))


def test_no_choice_of_regions_is_better_than_the_best() -> None:
    lesion = by_region(random_mask())
    random = np.random.default_rng(0)
    tried = [dice_of_hottest(random.random(24), lesion, np.arange(1, 25)).max() for _ in range(300)]
    assert max(tried) <= best_dice(lesion) <= 1
    # Every subset of the fullest regions, tried one by one.
    some = np.argsort(-lesion.counts)[:8]
    every = []
    for bits in range(1, 256):
        chosen = [r for k, r in enumerate(some) if bits >> k & 1]
        hit = lesion.counts[chosen].sum()
        every.append(2 * hit / (len(chosen) * lesion.n_in_region + lesion.n_voxels))
    assert best_dice(lesion) == pytest.approx(max(every))


def test_a_hot_lesion_is_pointed_at_and_a_cold_one_is_not() -> None:
    mask = np.zeros(SIZE, bool)
    mask[9, 17, 5] = True  # the region (1, 2, 1)
    lesion = by_region(mask)
    heat = np.zeros(24)
    heat[np.ravel_multi_index((1, 2, 1), REGIONS)] = 1
    assert points_at(heat, lesion) == 1
    assert points_at(-heat, lesion) == 0
    assert chance_to_point(lesion) == pytest.approx(1 / 24)


def test_equally_hot_regions_share_the_hit() -> None:
    mask = np.zeros(SIZE, bool)
    mask[0, 0, 0] = True
    assert points_at(np.ones(24), by_region(mask)) == pytest.approx(1 / 24)


def test_touching_is_lying_in_the_lesion_dilated_by_half_a_region() -> None:
    mask = random_mask(5)
    lesion = by_region(mask)
    edge = [s // r for s, r in zip(SIZE, REGIONS, strict=True)]
    for region in range(24):
        low = [i * e for i, e in zip(np.unravel_index(region, REGIONS), edge, strict=True)]
        cube = tuple(slice(a, a + e) for a, e in zip(low, edge, strict=True))
        heat = np.arange(24) == region
        assert points_at(heat, lesion) == float(mask[cube].any())


def test_another_grid_is_placed_through_the_world() -> None:
    mask = random_mask()
    fine = mask.repeat(2, 0).repeat(2, 1)  # half the spacing along D and H, twice as long
    affine = np.diag([0.5, 0.5, 1.0, 1.0])
    affine[:2, 3] = -0.25  # first edges coincide
    lesion = lesion_by_region(fine, affine, np.eye(4), SIZE, REGIONS)
    assert lesion.counts.tolist() == (4 * by_region(mask).counts).tolist()
    assert lesion.n_in_region == pytest.approx(4 * by_region(mask).n_in_region)
    assert best_dice(lesion) == pytest.approx(best_dice(by_region(mask)))


def test_what_lies_outside_every_region_counts_as_missed() -> None:
    mask = np.ones((4, 4, 4), bool)
    affine = np.eye(4)
    affine[0, 3] = -2.0  # half of it below the input
    lesion = lesion_by_region(mask, affine, np.eye(4), SIZE, REGIONS)
    assert lesion.n_voxels == 64
    assert lesion.counts.sum() == 32
    assert best_dice(lesion) < 0.5


def test_an_empty_mask_is_no_lesion() -> None:
    with pytest.raises(InputError) as caught:
        by_region(np.zeros(SIZE, bool))
    assert caught.value.rule == "no-lesion"
