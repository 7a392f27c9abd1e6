"""A map of a volume's regions and a known lesion → whether the map points at it, and how well it covers it.

Maps are as coarse as a model's regions, so a lesion is counted by region too: no number here gains
from drawing a coarse map finely. Knows no model and no file.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfinder.errors import InputError

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Lesion:
    """Where a finding lies, by region.

    Attributes:
        counts: (N,) its voxels in each region, in C order of (D, H, W).
        n_voxels: All of its voxels, those outside every region included.
        n_in_region: Voxels that a region holds, of the lesion's own grid; need not be whole.
    """

    counts: NDArray[np.int64]
    n_voxels: int
    n_in_region: float


def lesion_by_region(
    mask: NDArray[np.bool_],
    affine: Floats,
    input_affine: Floats,
    size: tuple[int, int, int],
    n_regions: tuple[int, int, int],
) -> Lesion:
    """Count a mask's voxels by the region that each one's centre lies in.

    Args:
        mask: (D, H, W), True in the lesion.
        affine: (4, 4), from its indices to the world, as `Volume.affine`.
        input_affine: (4, 4), of the encoder's input, as `medfinder.volume.preprocess.output_affine`.
        size: Voxels of the encoder's input.
        n_regions: Regions that the input is cut into, evenly.

    Raises:
        InputError: Rule ``no-lesion``: the mask is empty.
    """
    where = np.argwhere(mask)
    if not len(where):
        raise InputError(
            "The lesion's mask is empty: nothing can point at it. Leave it out and say so.",
            rule="no-lesion",
        )
    to_input = np.linalg.inv(input_affine) @ affine
    at = where @ to_input[:3, :3].T + to_input[:3, 3]
    edge = np.array(size) / np.array(n_regions)
    cell = np.floor((at + 0.5) / edge).astype(np.int64)
    inside = ((cell >= 0) & (cell < np.array(n_regions))).all(axis=1)
    flat = np.ravel_multi_index(tuple(cell[inside].T), n_regions)
    counts = np.bincount(flat, minlength=int(np.prod(n_regions)))
    n_in_region = float(np.prod(edge)) / abs(float(np.linalg.det(to_input[:3, :3])))
    return Lesion(counts, len(where), n_in_region)


def points_at(heat: NDArray[Any], lesion: Lesion) -> float:
    """Return 1 where the hottest region touches the lesion, else 0; of equally hot ones, their mean.

    A region touches the lesion when its centre lies in the lesion dilated by half a region along
    each axis.

    Source:
        The pointing game: Zhang et al., "Top-down neural attention by excitation backprop",
        arXiv 1608.00507, section 4.1, whose tolerance is 15 pixels.
    """
    values = np.asarray(heat, np.float64)
    return float((lesion.counts[values == values.max()] > 0).mean())


def chance_to_point(lesion: Lesion) -> float:
    """Return the share of all regions that touch the lesion: what a map drawn at random hits."""
    return float((lesion.counts > 0).mean())


def dice_of_hottest(heat: NDArray[Any], lesion: Lesion, numbers: NDArray[np.int64]) -> Floats:
    """Return the Dice coefficient of a lesion and the m hottest regions, for each m of `numbers`.

    2 |A and B| / (|A| + |B|) in voxels of the lesion's grid, whole regions being shown. Of equally
    hot regions the earlier goes first.
    """
    order = np.argsort(-np.asarray(heat, np.float64), kind="stable")
    hit = np.concatenate([[0], np.cumsum(lesion.counts[order])])[numbers]
    return np.asarray(2 * hit / (numbers * lesion.n_in_region + lesion.n_voxels))


def best_dice(lesion: Lesion) -> float:
    """Return the most that any choice of whole regions reaches.

    For each number of regions those with most of the lesion are best.
    """
    return float(dice_of_hottest(lesion.counts, lesion, np.arange(1, len(lesion.counts) + 1)).max())
