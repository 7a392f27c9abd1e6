"""A `Volume` and an encoder's `PreprocessConfig` → the array that the encoder takes.

Order of steps, each optional: crop to the foreground, resample, centre-pad or centre-crop, window.
Values are averaged in HU first and windowed after, as the encoders' own pipelines do; the two do
not commute where a window clips. Crop, resampling and window are one pass over the stored
integers: no float copy of the volume is made. Nothing here knows an encoder.
"""

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from medfinder.errors import ConfigError, GeometryError, InputError
from medfinder.volume.lungs import lung_box
from medfinder.volume.resample import Grid, Interpolation, Taps, area, identity, linear
from medfinder.volume.volume import Volume

MAX_OUTPUT_VALUES = 2**29
LUNG_MARGINS_MM = (15.0, 20.0, None)
"""Of a frame by the lungs: above the apices, in front, and None for centred from left to right."""
NATIVE = ("int16", "uint16", "float32")  # what the kernels are compiled for; others are converted


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig:
    """What an encoder asks of its input; every length along (D, H, W), every value in HU.

    Attributes:
        foreground_above_hu: Crop to the bounding box of voxels above this HU (strictly);
            "minimum" crops to voxels above the volume's own minimum; None keeps all. A volume
            without such a voxel is kept whole.
        spacing_mm: Resample to this voxel spacing; `size` then pads or crops about the centre.
        frame: Where the frame of `size` voxels of `spacing_mm` lies: "centre" of the (cropped)
            volume, or by the "lungs": centred on them from left to right, ending `LUNG_MARGINS_MM`
            above their apices and in front of them (edges that fluid and consolidation leave
            alone), so that scans of different coverage show the same place. A volume without
            lungs is framed at its centre.
        size: Voxels of the result. Without `spacing_mm` the (cropped) volume is stretched to it.
        interpolation: "area" averages what an output covers (`medfinder.volume.resample.area`),
            "trilinear" blends the nearest eight and so aliases when it shrinks.
        grid: Of "trilinear": which points of the two grids coincide (`resample.linear`).
        scaling: "window" maps each of `windows_hu` to `output_range`, one channel each;
            "minmax" maps the whole volume's minimum and maximum (before the crop), one channel;
            "curve" maps HU through the broken line `curve_hu`, one channel: lung, fat and soft
            tissue, vessels and bone each keep their contrast in eight bits.
        windows_hu: (low, high) of each channel.
        curve_hu: (HU, share of `output_range` from 0 to 1) points of "curve", both rising.
        output_range: What low and high become; values beyond are clipped.
        pad_hu: Value of voxels outside the volume, windowed like any other.
        dtype: Of the result; "uint8" is for caching: `output_range` must be (0, 255), rounded.
    """

    foreground_above_hu: float | Literal["minimum"] | None = None
    spacing_mm: tuple[float, float, float] | None = None
    size: tuple[int, int, int] | None = None
    frame: Literal["centre", "lungs"] = "centre"
    interpolation: Interpolation = "area"
    grid: Grid = "edges"
    scaling: Literal["window", "minmax", "curve"] = "window"
    windows_hu: tuple[tuple[float, float], ...] = ((-1000.0, 1000.0),)
    curve_hu: tuple[tuple[float, float], ...] = ()
    output_range: tuple[float, float] = (0.0, 1.0)
    pad_hu: float = -1000.0
    dtype: Literal["float32", "float16", "uint8"] = "float32"

    def __post_init__(self) -> None:
        threshold = self.foreground_above_hu
        if threshold is not None and threshold != "minimum":
            _require(_finite(threshold), "foreground_above_hu", threshold, "a number or 'minimum'")
        if self.spacing_mm is not None:
            good = len(self.spacing_mm) == 3 and all(_finite(s) and s > 0 for s in self.spacing_mm)
            _require(good, "spacing_mm", self.spacing_mm, "three lengths above 0")
        if self.size is not None:
            good = len(self.size) == 3 and all(isinstance(n, int) and n > 0 for n in self.size)
            _require(good, "size", self.size, "three whole numbers above 0")
        choices = (("frame", ("centre", "lungs")), ("interpolation", ("area", "trilinear")), ("grid", ("edges", "centres")),
                   ("scaling", ("window", "minmax", "curve")), ("dtype", ("float32", "float16", "uint8")))  # fmt: skip
        for name, known in choices:
            value = getattr(self, name)
            _require(value in known, name, value, "one of " + ", ".join(known))
        complete = self.spacing_mm is not None and self.size is not None
        good = self.frame == "centre" or (complete and self.foreground_above_hu is None)
        expected = "'centre', or 'lungs' with spacing_mm and size and without foreground_above_hu"
        _require(good, "frame", self.frame, expected)
        good = len(self.windows_hu) > 0 and all(_rising(w) for w in self.windows_hu)
        _require(good, "windows_hu", self.windows_hu, "at least one (low, high) with low < high")
        rising = all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(self.curve_hu))
        ends = [y for _, y in self.curve_hu[:1] + self.curve_hu[-1:]] == [0, 1]
        good = (rising and ends) if self.scaling == "curve" else not self.curve_hu
        expected = "rising (HU, share) points from share 0 to 1, for scaling 'curve' alone"
        _require(good, "curve_hu", self.curve_hu, expected)
        _require(_rising(self.output_range), "output_range", self.output_range, "low < high")
        if self.dtype == "uint8":
            good = tuple(self.output_range) == (0.0, 255.0)
            _require(good, "output_range", self.output_range, "(0, 255) where dtype is uint8")
        _require(_finite(self.pad_hu), "pad_hu", self.pad_hu, "a finite number")
        self._spell_alike()

    def _spell_alike(self) -> None:
        """Turn -1000 into -1000.0 and lists into tuples: equal configs have one hash."""
        alike: dict[str, Any] = {
            "windows_hu": tuple((float(a), float(b)) for a, b in self.windows_hu),
            "curve_hu": tuple((float(a), float(b)) for a, b in self.curve_hu),
            "output_range": (float(self.output_range[0]), float(self.output_range[1])),
            "pad_hu": float(self.pad_hu),
        }
        if isinstance(self.foreground_above_hu, (int, float)):
            alike["foreground_above_hu"] = float(self.foreground_above_hu)
        if self.spacing_mm is not None:
            alike["spacing_mm"] = tuple(map(float, self.spacing_mm))
        if self.size is not None:
            alike["size"] = tuple(self.size)
        for name, value in alike.items():
            object.__setattr__(self, name, value)

    @property
    def n_channels(self) -> int:
        """Length of the result's first axis."""
        return len(self.windows_hu) if self.scaling == "window" else 1


def preprocess(
    volume: Volume, config: PreprocessConfig, *, n_threads: int | None = None
) -> npt.NDArray[Any]:
    """Turn a volume into an encoder's input.

    Args:
        volume: Read, never copied whole unless its type is none of int16, uint16 and float32 or
            its view leaves out voxels.
        n_threads: None for every core this process may use. The result does not depend on it.

    Returns:
        C-contiguous (channels, D, H, W) of ``config.dtype``, in ``config.output_range``.

    Raises:
        GeometryError: The result would be larger than MAX_OUTPUT_VALUES (``too-large``), or the
            volume has no spacing to resample from (``bad-spacing``).
        InputError: Whole numbers are asked for, and a value is none (``not-finite``); floats keep
            it.

    Source:
        Encoders' contracts are combinations of the config: Astra crops above -1000 HU and
        resizes by area; Merlin resamples with ``grid="centres"`` and pads; the published MedFinder
        recipe is ``foreground_above_hu="minimum"``, ``scaling="minmax"``, size (96, 224, 224).
    """
    from medfinder.volume.kernels import resample_slab

    n_threads = n_threads or _n_cores()
    values, order, mirrored = _memory_order(volume.stored)
    span = _span_hu(volume, values, n_threads) if _needs_span(config) else (0.0, 0.0)
    box = _foreground(values, volume, config, span)
    frame = _lung_frame(volume, config) if config.frame == "lungs" else None

    taps: list[Taps] = []
    shape: list[int] = []
    where: list[slice] = []
    for memory_axis, axis in enumerate(order):
        first, last = box[memory_axis]
        if frame:
            wanted, n = frame[axis], values.shape[memory_axis]
            inside = max(0, min(wanted[0], n - 1)), min(n, max(wanted[1], 1))
            first, last = (n - inside[1], n - inside[0]) if mirrored[memory_axis] else inside
        one = _taps(last - first, volume.spacing_mm[axis], axis, config)
        size = config.size[axis] if config.size else len(one)
        if len(one) > size:  # centre crop
            start = len(one) // 2 - size // 2
            one = one.part(start, start + size)
        before = (size - len(one)) // 2  # centre pad
        if frame and config.spacing_mm:
            before = round(
                max(0, -frame[axis][0]) * volume.spacing_mm[axis] / config.spacing_mm[axis]
            )
            before = min(before, size - len(one))
        where.append(slice(before, before + len(one)))
        shape.append(size)
        if mirrored[memory_axis]:  # outputs keep their order, inputs run the other way
            one = one.mirrored(last - first)
        taps.append(one.shifted(first))

    n_values = config.n_channels * math.prod(shape)
    if n_values > MAX_OUTPUT_VALUES:
        raise GeometryError(
            f"Resampling to spacing_mm={config.spacing_mm} would give {n_values} values, at most "
            f"{MAX_OUTPUT_VALUES} are made. Check the volume's spacing or set size.",
            rule="too-large",
        )
    gains, offsets = _lines(volume, config, span)
    low, high = config.output_range
    curve = _curve(config) if config.scaling == "curve" else None
    clip = (curve[0][0], curve[0][-1]) if curve else (low, high)
    out = np.empty((config.n_channels, *shape), config.dtype)
    if any(s.stop - s.start < n for s, n in zip(where, shape, strict=True)):
        if curve:
            out[...] = _typed(np.interp(config.pad_hu, *curve), config.dtype)
        else:
            windows = config.windows_hu if config.scaling == "window" else (span,)
            for channel, (window_low, window_high) in zip(out, windows, strict=True):
                width = window_high - window_low  # zero in a constant volume: all of it is low
                part = (config.pad_hu - window_low) / width if width > 0 else 0.0
                channel[...] = _typed(np.clip(low + part * (high - low), low, high), config.dtype)
    target = out[:, where[0], where[1], where[2]]

    weights_c = np.ascontiguousarray(taps[2].weights.T)

    def fill(start: int, stop: int) -> None:
        piece = target[:, start:stop]
        direct = config.dtype == "float32" and not curve
        made = piece if direct else np.empty(piece.shape, np.float32)
        a = taps[0].part(start, stop)
        resample_slab(
            values, a.starts, a.weights, taps[1].starts, taps[1].weights,
            taps[2].starts, weights_c, gains, offsets, *clip, made,
        )  # fmt: skip
        if curve:
            made = np.interp(made, *curve).astype(np.float32)
        if not direct:
            piece[...] = _typed(made, config.dtype)

    _in_threads(fill, len(taps[0]), n_threads)
    back = tuple(1 + order.index(axis) for axis in range(3))
    return np.ascontiguousarray(out.transpose(0, *back))


def output_affine(volume: Volume, config: PreprocessConfig) -> npt.NDArray[np.float64]:
    """Return where the voxels of `preprocess`'s result lie: what shows a result in its volume.

    Returns:
        (4, 4) float64; maps ``(d, h, w, 1)`` of the result to world millimetres in RAS+.

    Raises:
        GeometryError: As `preprocess`.
    """
    values, order, mirrored = _memory_order(volume.stored)
    span = _span_hu(volume, values, 1) if config.foreground_above_hu == "minimum" else (0.0, 0.0)
    box = _foreground(values, volume, config, span)
    frame = _lung_frame(volume, config) if config.frame == "lungs" else None
    to_voxel = np.eye(4)  # from the result's indices to the volume's
    for memory_axis, axis in enumerate(order):
        n = values.shape[memory_axis]
        first, last = box[memory_axis]
        if mirrored[memory_axis]:
            first, last = n - last, n - first
        if frame:
            first, last = max(0, min(frame[axis][0], n - 1)), min(n, max(frame[axis][1], 1))
        n_in, spacing = last - first, volume.spacing_mm[axis]
        n_out = len(_taps(n_in, spacing, axis, config))
        size = config.size[axis] if config.size else n_out
        cropped = n_out // 2 - size // 2 if n_out > size else 0
        before = (size - min(n_out, size)) // 2
        if frame and config.spacing_mm:
            before = round(max(0, -frame[axis][0]) * spacing / config.spacing_mm[axis])
            before = min(before, size - min(n_out, size))
        step, half = n_in / n_out, 0.5
        if config.interpolation == "trilinear":
            ends = config.grid == "centres"
            half = 0.0 if ends else 0.5
            if config.spacing_mm is not None:
                step = config.spacing_mm[axis] / spacing
            elif ends and n_out > 1:
                step = (n_in - 1) / (n_out - 1)
        to_voxel[axis, axis] = step
        to_voxel[axis, 3] = first + (cropped - before + half) * step - half
    placed: npt.NDArray[np.float64] = volume.affine @ to_voxel
    return placed


def _memory_order(
    stored: npt.NDArray[Any],
) -> tuple[npt.NDArray[Any], tuple[int, ...], tuple[bool, ...]]:
    """Return a C-contiguous read-only array, and how its axes relate to (D, H, W).

    Axes are sorted by stride and mirrored back to rising addresses, which undoes `canonical`: a
    volume straight from a reader is not copied.
    """
    stored = np.asarray(stored)
    order = tuple(sorted(range(3), key=lambda a: (-abs(stored.strides[a]), a)))
    view = stored.transpose(order)
    mirrored = tuple(stride < 0 for stride in view.strides)
    view = view[tuple(slice(None, None, -1 if m else 1) for m in mirrored)]
    if view.dtype.name not in NATIVE or not view.dtype.isnative:
        small = view.dtype.kind in "iub" and view.dtype.itemsize == 1
        view = view.astype(np.int16 if small else np.float32)
    values = np.ascontiguousarray(view).view()
    values.setflags(write=False)  # one compiled version, whoever owns the array
    return values, order, mirrored


def _needs_span(config: PreprocessConfig) -> bool:
    return config.scaling == "minmax" or config.foreground_above_hu == "minimum"


def _span_hu(volume: Volume, values: npt.NDArray[Any], n_threads: int) -> tuple[float, float]:
    ends: list[float] = []

    def scan(start: int, stop: int) -> None:
        for plane in values[start:stop]:  # the second look at a plane finds it in the cache
            ends.extend((float(plane.min()), float(plane.max())))

    _in_threads(scan, len(values), n_threads)
    hu = [end * volume.slope + volume.intercept for end in (min(ends), max(ends))]
    return min(hu), max(hu)


def _foreground(
    values: npt.NDArray[Any], volume: Volume, config: PreprocessConfig, span: tuple[float, float]
) -> list[tuple[int, int]]:
    """Return [start, stop) along each axis in memory order."""
    whole = [(0, n) for n in values.shape]
    threshold = config.foreground_above_hu
    if threshold is None or volume.slope == 0:
        return whole
    from medfinder.volume.kernels import foreground_bounds

    hu = span[0] if threshold == "minimum" else float(threshold)
    limit = (hu - volume.intercept) / volume.slope
    a0, a1, b0, b1, c0, c1 = foreground_bounds(values, limit, volume.slope > 0)
    return [(a0, a1), (b0, b1), (c0, c1)] if a1 > a0 else whole


def _lung_frame(volume: Volume, config: PreprocessConfig) -> list[tuple[int, int]] | None:
    """Return the frame's [start, stop) along (D, H, W) in voxels, possibly beyond the volume."""
    box = lung_box(volume)
    if box is None or config.size is None or config.spacing_mm is None:
        return None
    frame = []
    for axis, (start, stop) in enumerate(box):
        mm = volume.spacing_mm[axis]
        length = config.size[axis] * config.spacing_mm[axis] / mm
        margin = LUNG_MARGINS_MM[axis]
        end = (start + stop + length) / 2 if margin is None else stop + margin / mm
        frame.append((round(end - length), round(end)))
    return frame


def _taps(n: int, spacing_mm: float, axis: int, config: PreprocessConfig) -> Taps:
    if config.spacing_mm is not None:
        if not (math.isfinite(spacing_mm) and spacing_mm > 0):
            raise GeometryError(
                f"The volume's spacing along axis {'DHW'[axis]} is {spacing_mm} mm; expected a "
                "length above 0. Check the volume's header.",
                rule="bad-spacing",
            )
        step = config.spacing_mm[axis] / spacing_mm
        if config.grid == "centres" and config.interpolation == "trilinear":
            n_out = int(np.round((n - 1) / step + 1))
        else:
            n_out = max(int(np.round(n / step)), 1)
        if n_out > MAX_OUTPUT_VALUES:
            raise GeometryError(
                f"Resampling to spacing_mm={config.spacing_mm} would give {n_out} voxels along "
                "one axis. Check the volume's spacing.",
                rule="too-large",
            )
    elif config.size is not None:
        n_out = config.size[axis]
        ends = config.grid == "centres" and n_out > 1
        step = (n - 1) / (n_out - 1) if ends else n / n_out
    else:
        return identity(n)
    if config.interpolation == "area":
        return area(n, n_out)
    return linear(n, n_out, step, config.grid)


def _lines(
    volume: Volume, config: PreprocessConfig, span: tuple[float, float]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return gain and offset of each channel, from stored values to `output_range`; HU for a curve."""
    if config.scaling == "curve":
        return np.asarray([volume.slope], np.float32), np.asarray([volume.intercept], np.float32)
    low, high = config.output_range
    windows: Sequence[tuple[float, float]] = (
        config.windows_hu if config.scaling == "window" else (span,)
    )
    gains = [(high - low) / (b - a) if b > a else 0.0 for a, b in windows]
    offsets = [
        low + gain * (volume.intercept - a) for gain, (a, _) in zip(gains, windows, strict=True)
    ]
    return (
        np.asarray([gain * volume.slope for gain in gains], np.float32),
        np.asarray(offsets, np.float32),
    )


def _curve(config: PreprocessConfig) -> tuple[list[float], list[float]]:
    """Return the points' HU and what each becomes."""
    low, high = config.output_range
    return [hu for hu, _ in config.curve_hu], [
        low + share * (high - low) for _, share in config.curve_hu
    ]


def _typed(values: Any, dtype: str) -> npt.NDArray[Any]:
    if dtype == "uint8" and not np.isfinite(values).all():  # a whole number would hide it
        raise InputError(
            "The volume holds values that are not finite: they have no place among whole numbers. "
            "Look at its values.",
            rule="not-finite",
        )
    return np.asarray(np.rint(values) if dtype == "uint8" else values).astype(dtype)


def _in_threads(work: Any, n: int, n_threads: int) -> None:
    """Call ``work(start, stop)`` over [0, n) in pieces; four a thread, to even out the load."""
    n_pieces = min(n, 4 * n_threads)
    if n_threads == 1 or n_pieces == 1:
        work(0, n)
        return
    cuts = [n * i // n_pieces for i in range(n_pieces + 1)]
    with ThreadPoolExecutor(n_threads) as pool:
        for done in [pool.submit(work, a, b) for a, b in pairwise(cuts)]:
            done.result()


def _n_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _rising(pair: Sequence[float]) -> bool:
    return len(pair) == 2 and all(map(_finite, pair)) and pair[0] < pair[1]


def _require(good: bool, name: str, value: Any, expected: str) -> None:
    if not good:
        raise ConfigError(f"Setting preprocess.{name} is {value!r}; expected {expected}.")
