"""What a volume's regions say: why a CT was found, and a query made of a part of a CT.

The vector of a volume is a sum over its regions, for encoders that can tell the parts
(`Embedder.contributions`). A part's inner product with what is asked is what the region adds to
the similarity; the parts of some regions, added up, are a query of their own.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medfinder.embed import Embedder
from medfinder.errors import InputError
from medfinder.volume.preprocess import output_affine
from medfinder.volume.volume import Volume

SMOOTH = 1.0
"""Standard deviation, in regions, of the normal curve that smooths a map. The best on the validation
split of ``benchmarks/localisation.py``: on test the hottest region then touches the finding that is
asked for in 56.7 of 100 cases, 55.0 without; 5.0 by chance."""

Floats = npt.NDArray[np.float32]
Triple = tuple[float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class RegionFeatures:
    """A volume's regions, and where they lie in it.

    Region (i, j, k) covers voxels from ``origin + (i, j, k) * step`` to one `step` beyond, along
    (D, H, W), where voxel 7 reaches from 7.0 to 8.0; regions may lie partly outside of the volume.

    Attributes:
        features: (n_regions, F) float16, in C order of `grid`.
        grid: Regions along (D, H, W).
        origin: Voxels.
        step: Voxels, greater than 0.
        shape: Voxels of the volume.
    """

    features: npt.NDArray[np.float16]
    grid: tuple[int, int, int]
    origin: Triple
    step: Triple
    shape: tuple[int, int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Heat:
    """What each region adds to the similarity of a volume and a query.

    Attributes:
        values: Of `grid`'s shape, 0 to 1; what takes from the similarity is 0. All are 0 where no
            region adds to it.
        origin: As in `RegionFeatures`.
        step: As in `RegionFeatures`.
        peak: (d, h, w), the voxel at the middle of the hottest region, inside the volume.
    """

    values: Floats
    origin: Triple
    step: Triple
    peak: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Box:
    """A part of a volume: voxels from `low` to below `high` along (D, H, W)."""

    low: tuple[int, int, int]
    high: tuple[int, int, int]


def read_regions(volume: Volume, embedder: Embedder) -> RegionFeatures:
    """Encode a volume by region.

    Raises:
        InputError: The encoder cannot tell regions' parts (rule ``no-explanation``), or the volume
            cannot be encoded.
    """
    embedder.check_contributions()
    config, grid = embedder.info.preprocess, embedder.info.n_regions
    assert config is not None
    assert grid is not None
    features = embedder.region_features(volume)
    to_voxel = np.linalg.inv(volume.affine) @ output_affine(volume, config)
    size = np.array(config.size or volume.shape, np.float64)
    scale, shift = np.diag(to_voxel)[:3], to_voxel[:3, 3]
    origin = shift - 0.5 * scale + 0.5  # the corner of the input's first voxel
    step = scale * size / np.array(grid)
    return RegionFeatures(features, grid, _triple(origin), _triple(step), volume.shape)


def explain(regions: RegionFeatures, place: Floats, embedder: Embedder) -> Heat:
    """Map where a volume resembles what is asked.

    Args:
        place: (dim,) of length 1, in the space of the volumes.
    """
    added = embedder.contributions(regions.features, place[None])[0].reshape(regions.grid)
    smooth = ndimage.gaussian_filter(added.astype(np.float32), SMOOTH, mode="constant")
    hottest = np.unravel_index(int(smooth.argmax()), regions.grid)
    values = np.maximum(smooth, 0)
    if values.max() > 0:
        values /= values.max()
    middle = np.array(regions.origin) + (np.array(hottest) + 0.5) * np.array(regions.step)
    d, h, w = (
        int(np.clip(np.floor(at), 0, n - 1)) for at, n in zip(middle, regions.shape, strict=True)
    )
    return Heat(values, regions.origin, regions.step, (d, h, w))


def region_place(regions: RegionFeatures, box: Box, embedder: Embedder) -> Floats:
    """Return the query that a part of a volume makes: what its regions add to the volume's vector.

    Studies with a finding are found far better by the regions that hold it in one of them than by
    the whole of that CT (``benchmarks/refining.py``).

    Returns:
        (dim,) of length 1.

    Raises:
        InputError: Rule ``empty-region``: the box is empty, or no region lies in it.
    """
    inside = np.ones(regions.grid, bool)
    for axis, (low, high) in enumerate(zip(box.low, box.high, strict=True)):
        at = regions.origin[axis] + np.arange(regions.grid[axis]) * regions.step[axis]
        overlap = np.minimum(at + regions.step[axis], high) - np.maximum(at, low)
        # A region that is mostly outside says more of its surroundings; but a box smaller than a
        # region is the region that holds most of it.
        most = overlap.max()
        enough = (overlap >= 0.5 * regions.step[axis]) | ((overlap == most) & (most > 0))
        inside &= np.expand_dims(enough, [a for a in range(3) if a != axis])
    if not inside.any():
        raise InputError(
            "The region lies outside of what the encoder sees of this CT. Draw it on the chest.",
            rule="empty-region",
        )
    basis = np.eye(embedder.info.dim, dtype=np.float32)
    parts = embedder.contributions(regions.features, basis)  # (dim, n_regions)
    place = parts[:, inside.ravel()].sum(axis=1)
    length = np.linalg.norm(place)
    if not length:
        raise InputError(
            "The region adds nothing to this CT's vector. Draw a larger one.", rule="empty-region"
        )
    unit: Floats = (place / length).astype(np.float32)
    return unit


def _triple(values: npt.NDArray[np.float64]) -> Triple:
    a, b, c = values.tolist()
    return a, b, c
