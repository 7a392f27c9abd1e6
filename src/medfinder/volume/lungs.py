"""Where the lungs are: a box found on a coarse grid, so that input is framed by anatomy.

Scans of one chest differ in field of view, table, centring and how much of the neck and abdomen
they hold; the box about the lungs does not. Thresholds and connected components only: a lung that
is wholly white is framed by the other one's height and the body's midline is not assumed.
"""

import numpy as np
import numpy.typing as npt

from medfinder.volume.volume import Volume

CELL_MM = 5.0
BODY_HU, LUNG_HU = -300.0, -400.0
MIN_LITRES = 0.4
Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


def lung_box(volume: Volume) -> Box | None:
    """Find the box about both lungs.

    Returns:
        [start, stop) voxels along (D, H, W); None where less than `MIN_LITRES` of air lies inside
        the body: not a chest, or one without aerated lung. Each side is cut where the outermost
        0.5 % of lung cells lie, so that a stray component does not move it.
    """
    from scipy import ndimage

    from medfinder.volume.kernels import fill_planes, mean_of_cubes, open_mask

    steps = [max(1, round(CELL_MM / s)) for s in volume.spacing_mm]
    stored = volume.stored[:: steps[0], :: steps[1], :: steps[2]]
    hu = stored.astype(np.float32) * np.float32(volume.slope) + np.float32(volume.intercept)
    if min(hu.shape) < 4:
        return None
    hu = np.ascontiguousarray(hu)
    mean_of_cubes(hu)
    opened, filled = np.zeros(hu.shape, np.bool_), np.ones(hu.shape, np.bool_)
    open_mask(hu > BODY_HU, opened)
    fill_planes(_largest(opened), filled)
    air = filled & (hu < LUNG_HU)
    labels, n = ndimage.label(air)
    if n == 0:
        return None
    sizes = np.bincount(labels.ravel())[1:]
    cell_litres = (
        float(np.prod([s * mm for s, mm in zip(steps, volume.spacing_mm, strict=True)])) / 1e6
    )
    lungs = np.append(False, sizes >= 0.1 * sizes.max())[labels]
    if lungs.sum() * cell_litres < MIN_LITRES:
        return None
    box = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        share = np.cumsum(lungs.sum(others)) / lungs.sum()
        first, last = int(np.searchsorted(share, 0.005)), int(np.searchsorted(share, 0.995))
        box.append((first * steps[axis], min((last + 1) * steps[axis], volume.stored.shape[axis])))
    return box[0], box[1], box[2]


def _largest(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    from scipy import ndimage

    labels, n = ndimage.label(mask)
    if n == 0:
        return mask
    found: npt.NDArray[np.bool_] = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    return found
