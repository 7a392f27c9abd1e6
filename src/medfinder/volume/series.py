"""Many DICOM headers → series, and the slices of a series → an ordered stack with its geometry.

Order and spacing come from ImagePositionPatient along the slices' normal only; InstanceNumber,
SliceLocation and file names are never asked. No pixels are read here.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from medfinder.errors import GeometryError, InputError, UnreadableVolume
from medfinder.records import Rejection
from medfinder.volume.checks import CheckConfig, gantry_tilt, too_few_slices
from medfinder.volume.header import Header

OnSkip = Callable[[Rejection], None]

_CT_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.2.1": "Enhanced CT",
    "1.2.840.10008.5.1.4.1.1.2.2": "Legacy Converted Enhanced CT",
}
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_DOCUMENT = "1.2.840.10008.5.1.4.1.1.104."
_LOCALIZER_WORDS = frozenset(("LOCALIZER", "LOCALISER", "SCOUT", "TOPOGRAM", "SCANOGRAM"))
# Rescale types that are no HU; "US" (unspecified) and absent ones are judged by their values.
# Source: DICOM PS3.3 C.11.1.1.2.
_OTHER_UNITS = frozenset(("OD", "MGML", "Z_EFF", "ED", "EDW", "PCT"))
#: Slices of another orientation that may be left out of a series as scouts that were not marked.
MAX_SCOUTS = 3
#: Positions closer than this along the normal are the same position.
SAME_POSITION_MM = 0.01
#: Largest coordinate; scanners are metres in size.
MAX_POSITION_MM = 1e6
#: How far a slice may lie beside the straight line through the first and the last.
MAX_SIDEWAYS_MM = 1.0


@dataclass(frozen=True)
class Series:
    """The slices of one SeriesInstanceUID that can be part of a CT volume.

    Attributes:
        series_id: SeriesInstanceUID; "" where the files have none.
        slices: One header a slice or frame, in order of file and frame; `stack` orders them.
        left_out: Localisers and the like that share the UID, counted by rule.
    """

    series_id: str
    slices: tuple[Header, ...]
    left_out: tuple[tuple[str, int], ...] = ()

    def __repr__(self) -> str:
        return f"<Series of {len(self.slices)} slices>"


@dataclass(frozen=True)
class Stack:
    """Slices in order, and where their voxels lie.

    Attributes:
        slices: Ascending along the normal ``row x column``; several at one position are adjacent.
        groups: Indices into `slices`, one tuple a distinct position.
        affine: (4, 4) maps (slice, row, column, 1) to RAS+ millimetres.
        warnings: What was left out or uneven.
    """

    slices: tuple[Header, ...]
    groups: tuple[tuple[int, ...], ...]
    affine: npt.NDArray[np.float64]
    warnings: tuple[str, ...]


def why_not(header: Header) -> tuple[str, str] | None:
    """Say why an object cannot be a slice of a CT volume: (rule, reason), or None if it can."""
    kind = header.modality or "object without a modality"
    if header.sop_class.startswith(_DOCUMENT):
        return "no-pixels", "The object is an encapsulated document, not an image."
    if header.pixel_offset < 0:
        if header.sop_class in _CT_CLASSES and header.modality in ("CT", ""):
            return "truncated", "The CT image has no pixel data: the file was cut off or stripped."
        return "no-pixels", f"The object has no pixels: expected CT slices, got {kind}."
    if header.sop_class.startswith(_SECONDARY_CAPTURE):
        return (
            "secondary-capture",
            "The image is a secondary capture (a screen shot or scan), not CT slices.",
        )
    if header.modality != "CT" and not (not header.modality and header.sop_class in _CT_CLASSES):
        return "not-ct", f"Not a CT: expected modality CT, got {kind}."
    if header.samples != 1 or header.photometric not in ("MONOCHROME1", "MONOCHROME2", ""):
        return (
            "colour",
            f"The image is in colour: expected one grey sample a voxel, got {header.samples} "
            f"({header.photometric or 'no photometric interpretation'}).",
        )
    if _LOCALIZER_WORDS.intersection(part.upper() for part in header.image_type):
        return "localizer", "The image is a localiser (scout view), not part of a volume."
    if header.float_pixels or header.has_modality_lut:
        return (
            "unsupported-pixels",
            "The pixels are floating point or need a modality lookup table; "
            "expected integers with a rescale slope and intercept.",
        )
    return None


def group_series(headers: Iterable[tuple[str, Header]], on_skip: OnSkip) -> list[Series]:
    """Group headers by SeriesInstanceUID, leaving out what is not a CT slice.

    Args:
        headers: Pairs of (item, header), the item being the file's path as a rejection names it.
        on_skip: Told once for every series and rule about what is left out.

    Returns:
        Series sorted by their id, each with at least one slice.
    """
    kept: dict[str, list[Header]] = defaultdict(list)
    skipped: dict[tuple[str, str], list[str]] = defaultdict(list)
    reasons: dict[tuple[str, str], str] = {}
    for item, header in headers:
        verdict = why_not(header)
        if verdict is None:
            try:
                kept[header.series_id].extend(frames(header))
                continue
            except InputError as error:
                verdict = error.rule, str(error)
        key = header.series_id, verdict[0]
        skipped[key].append(item)
        reasons.setdefault(key, verdict[1])
    left_out: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for (uid, rule), items in sorted(skipped.items()):
        left_out[uid].append((rule, len(items)))
        more = f" ({len(items)} files of this series.)" if len(items) > 1 else ""
        on_skip(Rejection(items[0], rule, reasons[uid, rule] + more))
    return [
        Series(uid, tuple(slices), tuple(left_out.get(uid, ())))
        for uid, slices in sorted(kept.items())
    ]


def frames(header: Header) -> list[Header]:
    """Return one header a frame; an Enhanced CT's geometry is read from its functional groups.

    Raises:
        UnreadableVolume: Rules ``corrupt`` when the functional groups do not fit the number of
            frames, ``no-geometry`` when frames have none, ``not-hu-units`` when the rescale does
            not lead to HU.
    """
    found = _enhanced_frames(header) if header.has_frame_groups else [header]
    units = sorted({f.rescale_type for f in found} & _OTHER_UNITS)
    if units:
        raise UnreadableVolume(
            f"Not Hounsfield units: the rescale type is {units[0]} (a dual-energy or other map), "
            "expected HU. Use the conventional series.",
            rule="not-hu-units",
        )
    if header.has_frame_groups:
        return found
    if header.n_frames > 1:
        raise UnreadableVolume(
            f"The file has {header.n_frames} frames but no positions for them. "
            "Export it as Enhanced CT or as single slices.",
            rule="no-geometry",
        )
    return found


def _enhanced_frames(header: Header) -> list[Header]:
    import warnings

    import pydicom

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # oddities of values that are not used here
            ds = pydicom.dcmread(
                header.path, stop_before_pixels=True, specific_tags=[0x52009229, 0x52009230]
            )
            shared = ds.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()]
            per_frame = ds.get("PerFrameFunctionalGroupsSequence") or []
            if len(per_frame) != header.n_frames:
                raise UnreadableVolume(
                    f"The functional groups do not fit: expected {header.n_frames} frames, "
                    f"got {len(per_frame)}. Export the series again.",
                    rule="corrupt",
                )
            return [_one_frame(header, i, g, shared[0]) for i, g in enumerate(per_frame)]
    except InputError:
        raise
    except Exception:
        # pydicom raises many kinds on broken nesting; each means the same to the reader
        raise UnreadableVolume(
            "The functional groups of the Enhanced CT cannot be read. Export the series again.",
            rule="corrupt",
        ) from None


def _one_frame(header: Header, index: int, group: Any, shared: Any) -> Header:
    def part(sequence: str) -> Any:
        items = group.get(sequence) or shared.get(sequence)
        return items[0] if items else None

    def floats(values: Any) -> tuple[float, ...]:
        return tuple(float(v) for v in values) if values else ()

    changes: dict[str, Any] = {"frame": index}
    if (place := part("PlanePositionSequence")) is not None:
        changes["position"] = floats(place.get("ImagePositionPatient"))
    if (turn := part("PlaneOrientationSequence")) is not None:
        changes["orientation"] = floats(turn.get("ImageOrientationPatient"))
    if (measures := part("PixelMeasuresSequence")) is not None:
        changes["pixel_spacing"] = floats(measures.get("PixelSpacing"))
    if (rescale := part("PixelValueTransformationSequence")) is not None:
        changes["slope"] = float(rescale.get("RescaleSlope", 1.0))
        changes["intercept"] = float(rescale.get("RescaleIntercept", 0.0))
        changes["rescale_type"] = str(rescale.get("RescaleType", ""))
    return replace(header, **changes)


def stack(slices: Sequence[Header], config: CheckConfig) -> Stack:
    """Order slices along their normal and derive the affine; refuse what is no regular stack.

    Raises:
        GeometryError: Rules ``too-few-slices``, ``no-geometry``, ``bad-orientation``,
            ``mixed-orientations``, ``mixed-matrix``, ``missing-slices``, ``irregular-spacing``,
            ``gantry-tilt``.
    """
    notes: list[str] = []
    if len(slices) < max(2, config.min_slices):
        raise too_few_slices(len(slices), config)
    _need_geometry(slices)
    slices = _one_orientation(slices, notes)
    _one_matrix(slices)

    axes = np.array(slices[0].orientation, dtype=np.float64).reshape(2, 3)
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    normal = np.cross(axes[0], axes[1])
    positions = np.array([s.position for s in slices], dtype=np.float64)
    heights = positions @ normal
    names = [(s.sop_instance, s.frame, str(s.path)) for s in slices]
    order = sorted(range(len(slices)), key=lambda i: (round(float(heights[i]), 4), names[i]))
    heights, positions = heights[order], positions[order]

    starts = [0, *(np.flatnonzero(np.diff(heights) > SAME_POSITION_MM) + 1).tolist(), len(order)]
    groups = tuple(tuple(range(a, b)) for a, b in pairwise(starts))
    firsts = [g[0] for g in groups]
    if len(groups) < max(2, config.min_slices):
        raise too_few_slices(len(groups), config)
    step, angle = _step(positions[firsts], normal)
    _check_even(heights[firsts], angle, notes, config)
    if angle > config.tilt_tolerance_deg:
        raise gantry_tilt(angle, config)
    _check_straight(positions[firsts], normal, step)

    between_rows, between_columns = slices[0].pixel_spacing
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = axes[1] * between_rows  # down the rows: the direction of a column
    affine[:3, 2] = axes[0] * between_columns
    affine[:3, 3] = positions[0]
    affine[:2] *= -1.0  # LPS -> RAS
    return Stack(tuple(slices[i] for i in order), groups, affine, tuple(notes))


def _need_geometry(slices: Sequence[Header]) -> None:
    for s in slices:
        if len(s.position) != 3 or len(s.orientation) != 6 or len(s.pixel_spacing) != 2:
            raise GeometryError(
                "A slice does not say where it lies: position, orientation and pixel spacing are "
                "needed. Export the series again with its geometry.",
                rule="no-geometry",
            )
        # not "> MAX": NaN compares false
        if not np.abs([*s.position, *s.orientation, *s.pixel_spacing]).max() <= MAX_POSITION_MM:
            raise GeometryError(
                "A slice's position, orientation or pixel spacing is not a number within "
                f"{MAX_POSITION_MM:g}. Export the series again.",
                rule="no-geometry",
            )
        if min(s.pixel_spacing) <= 0:
            raise GeometryError(
                f"Implausible spacing: expected pixels larger than 0 mm, got "
                f"{s.pixel_spacing[0]:g} x {s.pixel_spacing[1]:g} mm. Correct the header.",
                rule="implausible-spacing",
            )
        row, column = np.reshape(s.orientation, (2, 3))
        lengths = np.linalg.norm(row), np.linalg.norm(column)
        if max(abs(n - 1) for n in lengths) > 0.02 or abs(row @ column) > 0.02:
            raise GeometryError(
                "A slice's orientation is not two perpendicular directions of length 1 "
                f"(lengths {lengths[0]:.3f} and {lengths[1]:.3f}, product {row @ column:.3f}). "
                "Export the series again.",
                rule="bad-orientation",
            )


def _one_orientation(slices: Sequence[Header], notes: list[str]) -> Sequence[Header]:
    """Leave out up to MAX_SCOUTS slices that face elsewhere; refuse a true mixture."""
    kinds: list[tuple[npt.NDArray[np.float64], list[Header]]] = []
    for s in slices:
        turn = np.asarray(s.orientation)
        for known, members in kinds:
            if np.abs(turn - known).max() < 0.005:  # 0.3 degrees
                members.append(s)
                break
        else:
            kinds.append((turn, [s]))
            if len(kinds) > 8:
                break
    if len(kinds) == 1:
        return slices
    kinds.sort(key=lambda kind: -len(kind[1]))
    others = sum(len(members) for _, members in kinds[1:])
    if others > MAX_SCOUTS or others * 4 > len(slices) or len(kinds) > 8:
        counts = ", ".join(str(len(members)) for _, members in kinds)
        raise GeometryError(
            f"Mixed orientations: expected slices that face one way, got {len(kinds)} directions "
            f"({counts} slices). Split the series.",
            rule="mixed-orientations",
        )
    notes.append(f"{others} slice(s) of another orientation were left out as localisers.")
    return kinds[0][1]


def _one_matrix(slices: Sequence[Header]) -> None:
    sizes = sorted({(s.rows, s.columns) for s in slices})
    if len(sizes) > 1:
        raise GeometryError(
            "Mixed matrices: expected slices of one size, got "
            + ", ".join(f"{r} x {c}" for r, c in sizes[:4])
            + ". Split the series.",
            rule="mixed-matrix",
        )
    spacings = np.array([s.pixel_spacing for s in slices])
    low, high = spacings.min(axis=0), spacings.max(axis=0)
    if ((high - low) > 1e-3 * high).any():
        raise GeometryError(
            f"Mixed pixel spacing: expected one, got {low.min():.4g} to {high.max():.4g} mm. "
            "Split the series.",
            rule="mixed-matrix",
        )


def _step(
    positions: npt.NDArray[np.float64], normal: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], float]:
    """Return the mean displacement from slice to slice and its angle to the normal, in degrees."""
    step: npt.NDArray[np.float64] = (positions[-1] - positions[0]) / (len(positions) - 1)
    along = float(step @ normal)
    sideways = float(np.linalg.norm(step - along * normal))
    return step, float(np.degrees(np.arctan2(sideways, along)))


def _check_even(
    heights: npt.NDArray[np.float64], angle: float, notes: list[str], config: CheckConfig
) -> None:
    gaps = np.diff(heights)
    median = float(np.median(gaps))
    ratio = gaps / median
    odd = np.abs(ratio - 1) > config.spacing_tolerance
    if not odd.any():
        uneven = float(np.abs(ratio - 1).max())
        if uneven > 0.02:
            notes.append(f"Slice gaps vary by up to {uneven:.0%} around {median:.3g} mm.")
        return
    whole = np.round(ratio[odd])
    if (whole >= 2).all() and (np.abs(ratio[odd] - whole) <= config.spacing_tolerance * 2).all():
        n = int((whole - 1).sum())
        raise GeometryError(
            f"Missing slices: {n} of {len(heights) + n}, in {int(odd.sum())} place(s); expected a "
            f"slice every {median:.3g} mm, got gaps up to {gaps.max():.3g} mm. "
            "Fetch the series again.",
            rule="missing-slices",
        )
    tilted = angle > config.tilt_tolerance_deg
    tilt = f", and the gantry is tilted by {angle:.1f} degrees" if tilted else ""
    raise GeometryError(
        f"Irregular spacing: expected one gap between slices, got {gaps.min():.3g} to "
        f"{gaps.max():.3g} mm (median {median:.3g} mm){tilt}. Use a regularly spaced series.",
        rule="irregular-spacing",
    )


def _check_straight(
    positions: npt.NDArray[np.float64],
    normal: npt.NDArray[np.float64],
    step: npt.NDArray[np.float64],
) -> None:
    off = positions - (positions[0] + np.arange(len(positions))[:, None] * step)
    off -= np.outer(off @ normal, normal)
    worst = float(np.linalg.norm(off, axis=1).max())
    if worst > MAX_SIDEWAYS_MM:
        raise GeometryError(
            f"Irregular spacing: a slice lies {worst:.1f} mm beside the line of the others, "
            f"expected at most {MAX_SIDEWAYS_MM:g} mm. Use a regularly spaced series.",
            rule="irregular-spacing",
        )
