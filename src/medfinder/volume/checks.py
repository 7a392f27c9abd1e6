"""What a set of voxels must be to pass for a CT: geometry and values, whatever file they came from.

Readers check what only they can see (missing slices, a truncated file); everything that can be
told from a `Volume` alone is told here, each with its own rule and with expected and found values.
Values are judged on an even sample of the voxels, so that the check costs milliseconds.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medfinder.errors import GeometryError, UnreadableVolume
from medfinder.volume.volume import Volume

#: Voxels looked at by the value checks; all of them where the volume has fewer.
SAMPLE_VOXELS = 300_000
#: A matrix this large in-plane is a body section, not a crop or a test pattern.
CHEST_MATRIX = 128
#: Largest slope or intercept; far above any CT's, far below what overflows.
MAX_RESCALE = 1e6


@dataclass(frozen=True)
class CheckConfig:
    """Limits a volume must keep to.

    Attributes:
        min_slices: Fewest slices, along D as acquired.
        max_voxels: Most voxels; above it nothing is allocated (decompression bombs).
        min_spacing_mm: Least distance between voxel centres.
        max_spacing_mm: Greatest distance between voxel centres.
        max_extent_mm: Greatest edge length; a whole body is about 2000 mm.
        spacing_tolerance: Largest deviation of one slice gap from the median gap, as a fraction.
        tilt_tolerance_deg: Largest angle between the slices' normal and the line they lie on.
    """

    min_slices: int = 10
    max_voxels: int = 2**30
    min_spacing_mm: float = 0.1
    max_spacing_mm: float = 20.0
    max_extent_mm: float = 3000.0
    spacing_tolerance: float = 0.1
    tilt_tolerance_deg: float = 0.5


def check_volume(volume: Volume, config: CheckConfig | None = None) -> None:
    """Raise the first reason why these voxels cannot be a CT in Hounsfield units.

    Values below -1100 HU count as padding outside the field of view, whatever their number: readers
    keep them as stored (-3024, -2000, ...), and every HU window clips them.

    Args:
        volume: Any volume; `Volume.tags` may hold ``geometry_source`` ("sform", "qform", "dicom"
            or "none") and ``modality``.
        config: Limits; None for the defaults.

    Raises:
        GeometryError: Rules ``too-few-slices``, ``implausible-spacing``, ``gantry-tilt``,
            ``blank-header``.
        UnreadableVolume: Rules ``too-large``, ``not-ct``, ``bad-rescale``, ``not-finite``, ``constant``,
            ``not-hu-windowed``, ``not-hu-offset``, ``not-hu-rescaled-twice``,
            ``not-hu-out-of-range``.
    """
    config = config or CheckConfig()
    check_size(volume.shape, config)
    _check_modality(volume)
    _check_geometry(volume, config)
    _check_values(volume)


def check_size(shape: tuple[int, int, int], config: CheckConfig) -> None:
    """Refuse a matrix that is empty, thinner than `min_slices` or larger than `max_voxels`.

    Cheap, and meant to be called on a declared shape before anything is allocated.

    Raises:
        GeometryError: Rule ``too-few-slices``.
        UnreadableVolume: Rules ``constant`` (a matrix without voxels) and ``too-large``.
    """
    d, h, w = shape
    if d * h * w == 0:
        raise UnreadableVolume(
            f"The volume has no voxels: its matrix is {d} x {h} x {w}. Export the series again.",
            rule="constant",
        )
    if d * h * w > config.max_voxels:
        raise UnreadableVolume(
            f"The declared matrix of {d} x {h} x {w} has {d * h * w} voxels, more than the limit "
            f"of {config.max_voxels}; nothing was decompressed. Raise max_voxels if it is real.",
            rule="too-large",
        )
    if d < config.min_slices:
        raise too_few_slices(d, config)


def check_rescale(slope: float, intercept: float) -> None:
    """Refuse a rescale that cannot turn stored values into HU.

    Raises:
        UnreadableVolume: Rule ``bad-rescale``.
    """
    if not (0 < abs(slope) <= MAX_RESCALE and abs(intercept) <= MAX_RESCALE):
        raise UnreadableVolume(
            f"The rescale cannot be used: slope {slope:g}, intercept {intercept:g}; expected a "
            f"slope other than 0 and both within {MAX_RESCALE:g}. Export the series again.",
            rule="bad-rescale",
        )


def too_few_slices(n: int, config: CheckConfig) -> GeometryError:
    """Return the error for a volume of `n` slices."""
    return GeometryError(
        f"Too few slices for a volume: expected at least {config.min_slices}, got {n}. "
        "Lower min_slices if such a slab is wanted.",
        rule="too-few-slices",
    )


def _check_modality(volume: Volume) -> None:
    modality = volume.tags.get("modality")
    if modality not in (None, "", "CT"):
        raise UnreadableVolume(
            f"Not a CT: expected modality CT, got {modality}. Only CT is indexed.", rule="not-ct"
        )


def _check_geometry(volume: Volume, config: CheckConfig) -> None:
    spacing = volume.spacing_mm
    shown = " x ".join(f"{s:.4g}" for s in spacing)
    if (
        volume.tags.get("geometry_source") == "none"
        and all(abs(s - 1.0) < 1e-6 for s in spacing)
        and min(volume.shape[1:]) >= CHEST_MATRIX
    ):
        d, h, w = volume.shape
        raise GeometryError(
            f"The header is blank: spacing 1 x 1 x 1 mm and no orientation for a matrix of "
            f"{d} x {h} x {w}. Convert the original again, keeping its geometry.",
            rule="blank-header",
        )
    if not all(config.min_spacing_mm <= s <= config.max_spacing_mm for s in spacing):
        raise GeometryError(
            f"Implausible spacing: expected {config.min_spacing_mm:g} to {config.max_spacing_mm:g} "
            f"mm between voxels, got {shown} mm (D x H x W). Correct the header's units.",
            rule="implausible-spacing",
        )
    extent = [n * s for n, s in zip(volume.shape, spacing, strict=True)]
    if max(extent) > config.max_extent_mm:
        raise GeometryError(
            f"Implausible spacing: the volume would be {max(extent):.0f} mm long, expected at most "
            f"{config.max_extent_mm:g} mm. Correct the header's spacing.",
            rule="implausible-spacing",
        )
    axes = volume.affine[:3, :3] / np.asarray(spacing)
    cosines = np.abs(axes.T @ axes)[np.triu_indices(3, 1)]
    angle = float(np.degrees(np.arcsin(min(1.0, cosines.max()))))
    if angle > config.tilt_tolerance_deg:
        raise gantry_tilt(angle, config)


def gantry_tilt(angle_deg: float, config: CheckConfig) -> GeometryError:
    """Return the error for slices that are not stacked along their normal.

    Tilted series are refused, not sheared upright: shearing interpolates every voxel, and what is
    tilted in practice are heads, not chests.
    """
    return GeometryError(
        f"Gantry tilt: the slices are stacked {angle_deg:.1f} degrees off their normal, expected at "
        f"most {config.tilt_tolerance_deg:g}. Resample the series to an upright grid first.",
        rule="gantry-tilt",
    )


def _sample(volume: Volume) -> npt.NDArray[np.float32]:
    """Return HU of an even sample: whole rows, since single voxels would touch every cache line."""
    stored = volume.stored
    every = max(1.0, stored.size / SAMPLE_VOXELS)
    step_d = max(1, min(int(every**0.5), stored.shape[0] // 8))  # thin volumes keep their slices
    step_h = max(1, round(every / step_d))
    part = stored[::step_d, ::step_h].astype(np.float32)
    return (part * np.float32(volume.slope) + np.float32(volume.intercept)).ravel()


def _check_finite(volume: Volume) -> None:
    if volume.stored.dtype.kind != "f":
        return
    bad = sum(int(plane.size - np.isfinite(plane).sum()) for plane in volume.stored)
    if bad:
        raise UnreadableVolume(
            f"{bad} of {volume.stored.size} voxels are NaN or infinite; a CT has none. "
            "Find where the conversion lost them.",
            rule="not-finite",
        )


def _check_values(volume: Volume) -> None:
    check_rescale(volume.slope, volume.intercept)
    _check_finite(volume)
    with np.errstate(all="ignore"):  # float64 beyond float32 becomes infinite, and is refused
        hu = np.clip(_sample(volume), -1e30, 1e30)
    low, high = float(hu.min()), float(hu.max())
    if low == high:  # the sample may have missed the rest
        stored = volume.stored
        if float(stored.min()) == float(stored.max()):
            raise UnreadableVolume(
                f"The volume is empty: every voxel is {low:g} HU. Export the series again.",
                rule="constant",
            )
    body = hu[hu >= -1100.0]
    _check_windowed(hu, low, high)
    _check_shifted(hu, body)
    _check_range(hu, body)


def _check_windowed(hu: npt.NDArray[np.float32], low: float, high: float) -> None:
    span = high - low
    if span <= 100.0:
        raise UnreadableVolume(
            f"Not Hounsfield units: all values lie in {low:g} to {high:g}, a label map or a "
            "normalised image; a CT spans hundreds of units. Use the original series.",
            rule="not-hu-windowed",
        )
    if low >= -128.0 and high <= 255.0 and span <= 255.0:
        raise UnreadableVolume(
            f"Not Hounsfield units: all values lie in {low:g} to {high:g}, an 8-bit image that was "
            "already windowed; a CT reaches air at -1000. Use the original series.",
            rule="not-hu-windowed",
        )
    at_low, at_high = float((hu == low).mean()), float((hu == high).mean())
    if low > -900.0 and at_low > 0.05 and at_high > 0.005:
        raise UnreadableVolume(
            f"Already windowed: {at_low:.0%} of the voxels are exactly {low:g} and {at_high:.1%} "
            f"exactly {high:g}, so everything outside was cut off. Use the original series.",
            rule="not-hu-windowed",
        )


def _check_shifted(hu: npt.NDArray[np.float32], body: npt.NDArray[np.float32]) -> None:
    if body.size == 0:
        body = hu
    lowest = float(np.quantile(body, 0.005))
    # Soft tissue of an unshifted CT lies at -150..150; stored values without their rescale put it
    # at 850..1200 and leave nothing near -1000.
    tissue_up = float(((hu > 850.0) & (hu < 1200.0)).mean())
    if lowest > -200.0 and tissue_up > 0.2:
        raise UnreadableVolume(
            f"Not Hounsfield units: offset by about 1024. {tissue_up:.0%} of the voxels lie at 850 "
            f"to 1200 and none at air (lowest {lowest:.0f}, expected about -1000). "
            "Apply the rescale intercept.",
            rule="not-hu-offset",
        )
    # Rescaled twice: tissue at about -984, air at about -2024, next to nothing where tissue belongs.
    real = float(((hu > -300.0) & (hu < 300.0)).mean())
    tissue_down = float(((hu > -1200.0) & (hu < -850.0)).mean())
    air_down = float(((hu >= -2100.0) & (hu < -1700.0)).mean())
    if tissue_down > 0.1 and air_down > 0.02 and real < 0.03:
        raise UnreadableVolume(
            f"Not Hounsfield units: rescaled twice. {tissue_down:.0%} of the voxels lie about -1000 "
            f"and {air_down:.0%} about -2000, only {real:.1%} at soft tissue (-300 to 300). "
            "Apply the rescale intercept once.",
            rule="not-hu-rescaled-twice",
        )


def _check_range(hu: npt.NDArray[np.float32], body: npt.NDArray[np.float32]) -> None:
    if body.size == 0 or float(np.quantile(body, 0.999)) < -500.0:
        top = float(hu.max())
        raise UnreadableVolume(
            f"Not Hounsfield units of a body: nothing above {top:.0f} but air; soft tissue is "
            "expected near 40. Check the rescale.",
            rule="not-hu-out-of-range",
        )
    above = float((hu > 5000.0).mean())
    if above > 0.02:
        raise UnreadableVolume(
            f"Not Hounsfield units: {above:.0%} of the voxels are above 5000, where only metal can "
            "be. Check the rescale and the sign of the stored values.",
            rule="not-hu-out-of-range",
        )
    deep = hu[hu < -3100.0]  # one padding value may lie there, a spread may not
    below = float((deep != deep.min()).sum() / hu.size) if deep.size else 0.0
    if below > 0.05:
        raise UnreadableVolume(
            f"Not Hounsfield units: {below:.0%} of the voxels are spread below -3100; air is -1000 "
            "and padding has one value. Check the rescale slope.",
            rule="not-hu-out-of-range",
        )
    soft = float(((hu > -400.0) & (hu < 1000.0)).mean())
    median_body = float(np.median(body))
    if soft < 0.002 or median_body > 900.0:
        raise UnreadableVolume(
            f"Not Hounsfield units: {soft:.1%} of the voxels lie at soft tissue and bone (-400 to "
            f"1000), the median is {median_body:.0f}. Check the rescale.",
            rule="not-hu-out-of-range",
        )
