"""The compiled steps of finding the lungs against scipy's."""

import numpy as np
import pytest
from scipy import ndimage

from medfinder.volume.kernels import fill_planes, mean_of_cubes, open_mask


@pytest.mark.parametrize("shape", [(4, 5, 6), (11, 4, 13), (9, 12, 10)])
def test_the_steps_are_scipys(shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(-1024, 3072, shape).astype(np.float32)
    means = values.copy()
    mean_of_cubes(means)
    assert (means == ndimage.uniform_filter(values, 3, mode="nearest")).all()
    for threshold in (600, 900, 1100):
        mask = means > threshold
        opened, filled = np.zeros(shape, np.bool_), np.ones(shape, np.bool_)
        open_mask(mask, opened)
        fill_planes(mask, filled)
        assert (opened == ndimage.binary_opening(mask)).all()
        assert (filled == [ndimage.binary_fill_holes(plane) for plane in mask]).all()
