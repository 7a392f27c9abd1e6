"""The one form a CT takes inside MedFinder: stored values, their rescale, and where they lie.

Readers turn files into a `Volume`; nothing here knows about files or words.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from medfinder.errors import GeometryError

PARALLEL_HASH_BYTES = 2**23  # below, threads cost more than they save


@dataclass(frozen=True, eq=False)
class Volume:
    """A CT volume in the one convention used everywhere inside MedFinder.

    Axes are ``(D, H, W)`` = inferior→superior, posterior→anterior, left→right: index ``d`` grows
    towards the patient's Superior, ``h`` towards Anterior, ``w`` towards the patient's Right.
    This is NIfTI's RAS+ array ``(X, Y, Z)``, transposed.

    Attributes:
        stored: Values as the file stores them, any integer or float dtype, shape (D, H, W);
            often a strided view, never written to.
        affine: (4, 4) float64; maps ``(d, h, w, 1)`` to world millimetres in RAS+
            (x to the patient's Right, y Anterior, z Superior).
        slope: HU = stored * slope + intercept.
        intercept: See `slope`.
        series_id: SeriesInstanceUID or file stem; "" when unknown.
        tags: Facts the file tells that later stages use; keys ``patient_id``, ``study_id``,
            ``sex``, ``age``, ``study_date``, ``manufacturer``, ``body_part``, ``kernel``,
            ``modality``; absent when the file does not tell.
        warnings: What was odd but bearable, each a short sentence.
    """

    stored: npt.NDArray[Any]
    affine: npt.NDArray[np.float64]
    slope: float = 1.0
    intercept: float = 0.0
    series_id: str = ""
    tags: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.stored.ndim != 3:
            raise GeometryError(
                f"A volume has 3 axes (D, H, W), got {self.stored.ndim}: split a 4D series by time first.",
                rule="not-3d",
            )
        if self.affine.shape != (4, 4):
            raise GeometryError(f"An affine is 4x4, got {self.affine.shape}.")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along (D, H, W)."""
        d, h, w = self.stored.shape
        return d, h, w

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between voxel centres along (D, H, W), in millimetres."""
        d, h, w = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(d), float(h), float(w)

    @cached_property
    def hu(self) -> npt.NDArray[np.float32]:
        """Hounsfield units, float32, C-contiguous (D, H, W); computed on first use and kept."""
        hu = np.array(self.stored, dtype=np.float32, order="C")
        if self.slope != 1.0:
            hu *= np.float32(self.slope)
        if self.intercept != 0.0:
            hu += np.float32(self.intercept)
        hu.setflags(write=False)
        return hu

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over shape, affine (rounded to 1 µm), rescale and each slice's own SHA-256.

        The same voxels in the same place give the same hash, whatever file format or axis order
        they came from, as long as they are stored with the same rescale. Slices are hashed on all
        cores: one core takes 0.12 s for 512x512x300.
        """
        values = np.asarray(self.stored)
        dtype = values.dtype.newbyteorder("<")
        digest = hashlib.sha256()
        digest.update(repr((self.shape, float(self.slope), float(self.intercept))).encode())
        digest.update((np.round(self.affine, 3) + 0.0).astype("<f8").tobytes())
        digest.update(dtype.str.encode())

        def of_plane(plane: npt.NDArray[Any]) -> bytes:  # no second copy of the volume
            return hashlib.sha256(np.ascontiguousarray(plane, dtype=dtype).data).digest()

        if values.nbytes < PARALLEL_HASH_BYTES:
            digest.update(b"".join(map(of_plane, values)))
        else:
            with ThreadPoolExecutor() as pool:
                digest.update(b"".join(pool.map(of_plane, values)))
        return digest.hexdigest()

    def __repr__(self) -> str:
        d, h, w = self.shape
        sd, sh, sw = self.spacing_mm
        size = self.stored.nbytes / 2**20
        return (
            f"<Volume (D,H,W)={d}x{h}x{w} spacing_mm={sd:.2f}x{sh:.2f}x{sw:.2f} "
            f"SAR {self.stored.dtype} {size:.0f} MiB>"
        )


def canonical(
    array: npt.NDArray[Any], affine: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
    """Reorder and flip the axes of an array so that it is (D, H, W) as `Volume` wants it.

    Args:
        array: Any three axes.
        affine: (4, 4), maps the array's own index triple to RAS+ millimetres.

    Returns:
        A view of `array` whose axes run towards S, A, R, and the affine that follows it.

    Raises:
        GeometryError: The affine is singular or not finite.
    """
    linear = np.asarray(affine, dtype=np.float64)[:3, :3]
    lengths = np.linalg.norm(linear, axis=0)
    if (
        not np.isfinite(affine).all()
        or (lengths < 1e-6).any()
        or abs(np.linalg.det(linear / lengths)) < 1e-3
    ):
        raise GeometryError(
            "The orientation matrix is singular or not finite: the axes of the volume are not told apart. "
            "Export the series again.",
            rule="bad-orientation",
        )
    cosines = linear / lengths  # (world axis, array axis)
    best: tuple[float, tuple[int, int, int]] = (-1.0, (0, 1, 2))
    for d in range(3):  # the assignment of array axes to S, A, R with the largest total cosine
        for h in range(3):
            if h == d:
                continue
            w = 3 - d - h
            total = abs(cosines[2, d]) + abs(cosines[1, h]) + abs(cosines[0, w])
            if total > best[0] + 1e-9:
                best = (total, (d, h, w))
    order = best[1]
    out = np.array(affine, dtype=np.float64)[:, [*order, 3]]
    view = array.transpose(order)
    slices: list[slice] = []
    for axis, world in enumerate((2, 1, 0)):
        if out[world, axis] < 0:
            n = view.shape[axis]
            out[:3, 3] += out[:3, axis] * (n - 1)
            out[:3, axis] *= -1
            slices.append(slice(None, None, -1))
        else:
            slices.append(slice(None))
    return view[tuple(slices)], out
