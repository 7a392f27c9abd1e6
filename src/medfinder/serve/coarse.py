"""A volume as it is kept for slicing → a coarser one that a browser can hold and turn round."""

import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from medfinder.errors import InputError
from medfinder.serve.slices import Pixels
from medfinder.volume.nifti import encode_nifti
from medfinder.volume.volume import Volume

MIN_EDGE, MAX_EDGE = 16, 512
"""Of the volumes that are sent: 512 each way are 256 MiB of a graphics card."""


def check_edge(max_edge: int) -> int:
    """Return `max_edge`.

    Raises:
        InputError: It is not `MIN_EDGE` to `MAX_EDGE` (rule ``bad-edge``).
    """
    if not MIN_EDGE <= max_edge <= MAX_EDGE:
        raise InputError(
            f"An edge of {max_edge} voxels is out of range: expected {MIN_EDGE} to {MAX_EDGE}. "
            "Leave max_edge out for 256.",
            rule="bad-edge",
        )
    return max_edge


def coarsen(pixels: Pixels, max_edge: int) -> Volume:
    """Average whole blocks of voxels, so that no edge is longer than `max_edge`.

    Along each axis blocks are as short as they can be. What is left at the far end of an axis, less
    than a block, is dropped. The affine follows: a block lies where the mean of its voxels lies.

    Returns:
        int16 HU.
    """
    hu = pixels.hu
    steps = [-(-n // max_edge) for n in hu.shape]
    d, h, w = (n // step for n, step in zip(hu.shape, steps, strict=True))
    whole = hu[: d * steps[0], : h * steps[1], : w * steps[2]]
    if steps == [1, 1, 1]:
        return Volume(whole, pixels.affine)
    out = np.empty((d, h, w), dtype=np.int16)
    n = np.prod(steps, dtype=np.float32)
    for i in range(d):  # a block of slices at a time stays in the processor's cache
        block: npt.NDArray[np.int32] = whole[i * steps[0] : (i + 1) * steps[0]].sum(
            axis=0, dtype=np.int32
        )
        for axis in (0, 1):
            parts = [slice(j, None, steps[axis + 1]) for j in range(steps[axis + 1])]
            block = np.add.reduce([block[(slice(None),) * axis + (part,)] for part in parts])
        out[i] = np.rint(block / n)
    affine = pixels.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ ((np.array(steps) - 1) / 2)
    affine[:3, :3] *= steps
    return Volume(out, affine)


def encode_coarse(pixels: Pixels, max_edge: int) -> bytes:
    """Return a coarser volume as a .nii.gz, see `coarsen`.

    Deflated at ISA-L's level 1: half the time of libdeflate's, for 3 % more bytes.
    """
    plain = encode_nifti(coarsen(pixels, max_edge), level=0)
    return bytes(isal_zlib.compress(plain, 1, wbits=31))
