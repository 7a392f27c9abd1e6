"""How a scanner saw the body: grid, pose, contrast, kernel, noise, calibration; independent of findings."""

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from medfinder.phantom import kernels
from medfinder.phantom.anatomy import Tissue
from medfinder.phantom.scene import Array

Phase = Literal["none", "arterial", "portal"]
Shift = Literal["usual", "shifted"]

MANUFACTURERS = ("SIEMENS", "GE MEDICAL SYSTEMS", "Philips", "TOSHIBA")


MIN_FIELD_MM, MAX_FIELD_MM = 325.0, 440.0
"""In-plane field of view, edge to edge."""


@dataclass(frozen=True, slots=True)
class Acquisition:
    """One scan's settings.

    Attributes:
        seed: Of the noise.
        spacing_mm: Along (D, H, W).
        centre_mm: Body point (x, y, z) at the grid's centre.
        turn_deg: Rotation of the patient about (x, y, z).
        phase: Contrast phase; what a report's technique section tells.
        tissue: HU that the phase gives to blood and organs.
        blur_passes: Passes of a 1-2-1 filter in plane; more is a softer kernel.
        sharpen: Share of unsharp masking after the blur; 0 for none.
        slice_blur: Share each neighbour slice gives (0 to 0.3): slice thickness over spacing.
        noise_hu: Standard deviation.
        noise_passes: Passes of a 1-2-1 filter over the noise: its grain.
        gain: HU calibration: measured = gain * (true + 1000) - 1000 + offset.
        offset_hu: See `gain`.
        manufacturer: For tables and headers.
        kernel: Name of the reconstruction kernel.
    """

    seed: int = 0
    spacing_mm: tuple[float, float, float] = (3.4, 2.35, 2.35)
    centre_mm: tuple[float, float, float] = (0.0, -10.0, 105.0)
    turn_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    phase: Phase = "none"
    tissue: Tissue = field(default_factory=Tissue)
    blur_passes: int = 1
    sharpen: float = 0.0
    slice_blur: float = 0.1
    noise_hu: float = 12.0
    noise_passes: int = 1
    gain: float = 1.0
    offset_hu: float = 0.0
    manufacturer: str = "SIEMENS"
    kernel: str = "soft"


def sample_acquisition(
    seed: int, shape: tuple[int, int, int], lung_height_mm: float = 240.0, *, shift: Shift = "usual"
) -> Acquisition:
    """Draw a scan's settings from a seed; nothing in them depends on findings.

    Args:
        shape: Voxels (D, H, W); the spacing follows from it and the drawn field of view.
        lung_height_mm: The scan covers the lungs and the upper abdomen of this patient.
        shift: ``"shifted"`` draws from ranges that ``"usual"`` never reaches: thick slices,
            sharp kernel, strong noise, larger turns.
    """
    rng = np.random.default_rng([seed, 0xAC9])
    far = shift == "shifted"
    across = rng.uniform(MIN_FIELD_MM, MAX_FIELD_MM)
    along = lung_height_mm + rng.uniform(60, 118)
    spacing = (along / shape[0], across / shape[1], across / shape[2])
    phase: Phase = ("none", "none", "arterial", "portal")[int(rng.integers(4))]
    a, b, noise, kernel = rng.random(4)
    if phase == "none":
        blood = 34 + 14 * a
        tissue = Tissue(blood, blood + 2 * b, 0.0)
    elif phase == "arterial":
        tissue = Tissue(180 + 230 * a, 120 + 330 * b, 18 + 25 * b)
    else:
        tissue = Tissue(105 + 75 * a, 100 + 75 * a, 40 + 35 * b)
    turn = rng.normal(0, 1, 3) * ((8, 6, 10) if far else (5, 4, 7))
    shift_mm = rng.normal(0, 1, 3) * (20, 17, 14)
    # Lungs, ribs and the upper abdomen stay in view, so that every finding is.
    aside = max(5.0, across / 2 - 158)
    low, high = lung_height_mm + 2 - along / 2, along / 2 - 44
    centre = (
        float(np.clip(shift_mm[0], -aside, aside)),
        float(np.clip(shift_mm[1], -28, 28) - 10),
        float(np.clip(shift_mm[2] + lung_height_mm / 2 - 14, low, high)),
    )
    noise_hu = float(
        np.exp(np.log(55) + noise * np.log(100 / 55))
        if far
        else np.exp(np.log(6) + noise * np.log(50 / 6))
    )
    sharp = kernel > (0.3 if far else 0.62)
    return Acquisition(
        seed=seed,
        spacing_mm=(float(spacing[0]), float(spacing[1]), float(spacing[2])),
        centre_mm=centre,
        turn_deg=(float(turn[0]), float(turn[1]), float(turn[2])),
        phase=phase,
        tissue=tissue,
        blur_passes=0 if sharp else 1 + int(kernel < 0.25),
        sharpen=float(rng.uniform(0.3, 0.9 if not far else 1.4)) if sharp else 0.0,
        slice_blur=float(rng.uniform(0.0, 0.15) if not far else rng.uniform(0.2, 0.3)),
        noise_hu=noise_hu,
        noise_passes=0 if sharp else int(rng.integers(1, 3)),
        gain=float(1 + rng.normal(0, 0.015)),
        offset_hu=float(rng.normal(0, 10)),
        manufacturer=MANUFACTURERS[int(rng.integers(len(MANUFACTURERS)))],
        kernel="sharp" if sharp else "soft",
    )


def world_affine(acquisition: Acquisition, shape: tuple[int, int, int]) -> npt.NDArray[np.float64]:
    """Return the affine (d, h, w, 1) → RAS+ millimetres; the grid's centre is the world's origin."""
    affine = np.zeros((4, 4))
    for axis, world in enumerate((2, 1, 0)):
        affine[world, axis] = acquisition.spacing_mm[axis]
        affine[world, 3] = -acquisition.spacing_mm[axis] * (shape[axis] - 1) / 2
    affine[3, 3] = 1
    return affine


def body_affine(acquisition: Acquisition, shape: tuple[int, int, int]) -> npt.NDArray[np.float64]:
    """Return the affine (d, h, w, 1) → body millimetres (x, y, z, 1): the pose undone."""
    pose = np.eye(4)
    for axis, degrees in enumerate(acquisition.turn_deg):
        angle = math.radians(degrees)
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(4)
        turn[i, i] = turn[j, j] = math.cos(angle)
        turn[i, j], turn[j, i] = -math.sin(angle), math.sin(angle)
        pose = turn @ pose
    pose[:3, 3] = acquisition.centre_mm
    out: npt.NDArray[np.float64] = pose @ world_affine(acquisition, shape)
    return out


def scan(hu: Array, acquisition: Acquisition) -> npt.NDArray[np.int16]:
    """Return what the scanner stores of true HU: blurred, noisy, drifted, rounded to int16."""
    a = acquisition
    rng = np.random.default_rng([a.seed, 0x501])
    seen = hu.copy()
    for _ in range(a.blur_passes):
        kernels.smooth_plane(seen, np.float32(0.2))
    if a.slice_blur:
        kernels.smooth_slices(seen, np.float32(a.slice_blur))
    if a.sharpen:
        soft = seen.copy()
        kernels.smooth_plane(soft, np.float32(0.25))
        seen += np.float32(a.sharpen) * (seen - soft)
    noise: Array = rng.standard_normal(hu.shape, dtype=np.float32)
    for _ in range(a.noise_passes):
        kernels.smooth_plane(noise, np.float32(0.25))
        kernels.smooth_slices(noise, np.float32(0.12))
    stored = np.empty(hu.shape, np.int16)
    kernels.store(
        *(seen.reshape(-1), noise.reshape(-1)),
        np.float32(a.noise_hu / max(float(noise.std()), 1e-6)),
        np.float32(a.gain),
        np.float32(1000 - a.offset_hu),
        stored.reshape(-1),
    )
    return stored
