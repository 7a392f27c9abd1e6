"""CT volumes → grey PNG slices as a radiologist expects to see them.

Radiological display: the patient's right is on the viewer's left, the front of an axial slice is
on top, coronal and sagittal slices have the head up, and a sagittal slice looks to the left. A
pixel of every PNG is square in millimetres. Knows nothing of HTTP, queries or indexes.
"""

import struct
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from medfinder.errors import InputError, UnknownName
from medfinder.registry import unknown
from medfinder.serve.lanes import Lane
from medfinder.volume.volume import Volume

Plane = Literal["axial", "coronal", "sagittal"]
PLANES: tuple[Plane, ...] = ("axial", "coronal", "sagittal")
Projection = Literal["mip", "minip", "mean"]
PROJECTIONS: tuple[Projection, ...] = ("mip", "minip", "mean")

MAX_PIXELS = 2048
"""Longest side of a PNG; a slice that would be larger is drawn with coarser pixels."""

MAX_SLAB_MM = 1000.0
"""Thickest slab; a thicker one than the volume is the whole volume."""

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Window:
    """A grey scale: `level` is mid grey, `width` spans black to white, both in HU."""

    level: float
    width: float


WINDOWS: dict[str, Window] = {
    "lung": Window(-600, 1500),
    "mediastinum": Window(40, 400),
    "bone": Window(400, 1800),
    "abdomen": Window(60, 360),
    "brain": Window(40, 80),
}
"""The usual presets, in the order in which viewers show them."""


@dataclass(frozen=True, slots=True)
class Slab:
    """Several slices seen as one.

    Attributes:
        thickness_mm: Every voxel is in it whose centre lies within half of this before or behind
            the slice's own.
        projection: The greatest value along the normal, the least, or their mean.
    """

    thickness_mm: float
    projection: Projection


@dataclass(frozen=True, slots=True)
class Landmarks:
    """What is known of the body before anybody has looked.

    Attributes:
        key_slice: Axial index with most lung; without lung, the one with most soft tissue.
        lungs: First and last voxel of the lungs along (D, H, W); None without lungs.
    """

    key_slice: int
    lungs: tuple[Span, Span, Span] | None


@dataclass(frozen=True, slots=True, eq=False)
class Pixels:
    """A volume as it is kept for slicing.

    Attributes:
        hu: (D, H, W) int16 Hounsfield units in `Volume`'s orientation, C-contiguous.
        affine: (4, 4), maps ``(d, h, w, 1)`` to world millimetres in RAS+, as `Volume`'s does.
        landmarks: Where the chest is, see `find_landmarks`.
    """

    hu: npt.NDArray[np.int16]
    affine: npt.NDArray[np.float64]
    landmarks: Landmarks

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between voxel centres along (D, H, W)."""
        d, h, w = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(d), float(h), float(w)


@dataclass(frozen=True, slots=True)
class PlaneGeometry:
    """What a viewer must know before it has a slice.

    Attributes:
        n_slices: Slices along the plane's normal; index 0 is the most inferior (axial),
            posterior (coronal) or left (sagittal).
        width: Pixels of the PNG.
        height: Pixels of the PNG.
        pixel_mm: Side of one square pixel, in millimetres.
        step_mm: Distance from one slice to the next, in millimetres.
        edges: What lies at the left, right, top and bottom edge: of R, L, A, P, S, I.
    """

    n_slices: int
    width: int
    height: int
    pixel_mm: float
    step_mm: float
    edges: tuple[str, str, str, str]


def to_pixels(volume: Volume) -> Pixels:
    """Convert a volume to int16 HU, one slice at a time so that no float copy of it is made."""
    hu = np.empty(volume.shape, dtype=np.int16)
    stored = volume.stored
    slope, intercept = volume.slope, volume.intercept
    if stored.dtype == np.int16 and (slope, intercept) == (1, 0):
        np.copyto(hu, stored)
    elif stored.dtype in (np.int16, np.uint16) and slope == 1 and float(intercept).is_integer():
        for out, values in zip(hu, stored, strict=True):
            out[:] = np.clip(values.astype(np.int32) + np.int32(intercept), -32768, 32767)
    else:
        for out, values in zip(hu, stored, strict=True):
            floats = values.astype(np.float32) * np.float32(slope) + np.float32(intercept)
            out[:] = np.clip(np.nan_to_num(np.rint(floats)), -32768, 32767)
    hu.setflags(write=False)
    return Pixels(hu, volume.affine, find_landmarks(hu))


def find_landmarks(hu: npt.NDArray[np.int16]) -> Landmarks:
    """Find the slice to begin with and the ends of the lungs.

    Lung is -950 to -500 HU with tissue on all four sides of it in its axial slice, which leaves
    out the padding around a body; tissue is -100 to 300 HU. Both are judged on every fourth pixel
    each way, so that the ends along H and W are right to within four voxels. The lungs end where
    a plane holds less than a twentieth of what the plane with most of them holds: a bubble in
    the bowel is no lung. Ties go to the slice nearest the middle.

    Args:
        hu: (D, H, W).
    """
    sparse = hu[:, ::4, ::4]
    along = [
        np.empty((len(hu), n)) for n in sparse.shape[1:]
    ]  # lung by (slice, row), (slice, column)
    tissue = np.empty(len(hu))
    for d, values in enumerate(sparse):  # a slice at a time stays in the processor's cache
        values = np.ascontiguousarray(values)
        body = values > -200
        inside = np.ones_like(body)
        for axis in (0, 1):
            inside &= np.logical_or.accumulate(body, axis=axis)
            inside &= np.flip(np.logical_or.accumulate(np.flip(body, axis), axis=axis), axis)
        lung = inside & (values > -950) & (values < -500)
        along[0][d], along[1][d] = lung.sum(axis=1), lung.sum(axis=0)
        tissue[d] = np.count_nonzero((values > -100) & (values < 300))
    score = along[0].sum(axis=1)
    lungs = None
    if score.max() < 0.03 * sparse[0].size:
        score = tissue
    else:
        _, h, w = hu.shape
        (_, top), (_, right) = rows, columns = [_span(a.sum(axis=0)) for a in along]
        lungs = (
            _span(score),
            (rows[0] * 4, min(top * 4 + 3, h - 1)),
            (columns[0] * 4, min(right * 4 + 3, w - 1)),
        )
    best = np.flatnonzero(score == score.max())
    return Landmarks(int(best[np.abs(best - len(hu) // 2).argmin()]), lungs)


def _span(amounts: npt.NDArray[np.float64]) -> Span:
    some = np.flatnonzero(amounts >= amounts.max() / 20)
    return int(some[0]), int(some[-1])


def plane_geometry(
    shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], plane: Plane
) -> PlaneGeometry:
    """Return the size and orientation of a plane's PNGs, from the study's row alone."""
    d, h, w = shape
    sd, sh, sw = spacing_mm
    n, step, rows, row_mm, columns, column_mm, edges = {
        "axial": (d, sd, h, sh, w, sw, ("R", "L", "A", "P")),
        "coronal": (h, sh, d, sd, w, sw, ("R", "L", "S", "I")),
        "sagittal": (w, sw, d, sd, h, sh, ("A", "P", "S", "I")),
    }[plane]
    pixel_mm = min(row_mm, column_mm)
    pixel_mm = max(pixel_mm, rows * row_mm / MAX_PIXELS, columns * column_mm / MAX_PIXELS)
    return PlaneGeometry(
        n_slices=n,
        width=max(1, round(columns * column_mm / pixel_mm)),
        height=max(1, round(rows * row_mm / pixel_mm)),
        pixel_mm=pixel_mm,
        step_mm=step,
        edges=edges,
    )


def region_voxels(
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    plane: Plane,
    index: int,
    box: tuple[float, float, float, float],
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Return the voxels below a box drawn on a slice, about as deep as it is wide and high.

    Args:
        shape: Voxels along (D, H, W).
        spacing_mm: Along the same.
        plane: Of the slice.
        index: Of the slice, whose voxels are in the middle of the depth.
        box: Left, top, right and bottom edge as fractions of the slice's PNG, in which all three
            axes run against the pixels' (right to left, anterior to posterior, head to foot).

    Returns:
        First voxel and the one after the last along (D, H, W); at least one voxel each way.
    """
    left, top, right, bottom = box
    across, down, normal = {"axial": (2, 1, 0), "coronal": (2, 0, 1), "sagittal": (1, 0, 2)}[plane]
    low, high = [0, 0, 0], [0, 0, 0]
    for axis, (start, end) in ((across, (left, right)), (down, (top, bottom))):
        n = shape[axis]
        first, last = sorted((n * (1 - start), n * (1 - end)))
        low[axis] = min(int(first), n - 1)
        high[axis] = max(low[axis] + 1, round(last))
    sides = [(high[a] - low[a]) * spacing_mm[a] for a in (across, down)]
    half = 0.25 * sum(sides) / spacing_mm[normal]
    low[normal] = max(0, min(index, round(index + 0.5 - half)))
    high[normal] = min(shape[normal], max(index + 1, round(index + 0.5 + half)))
    return (low[0], low[1], low[2]), (high[0], high[1], high[2])


def check_slice(shape: tuple[int, int, int], plane: str, index: int) -> Plane:
    """Return `plane` as one of `PLANES`.

    Raises:
        UnknownName: There is no such plane.
        InputError: The volume has no such slice (rule ``slice-out-of-range``).
    """
    if plane not in PLANES:
        raise UnknownName(unknown("plane", plane, list(PLANES)))
    axis = PLANES.index(plane)
    if not 0 <= index < shape[axis]:
        raise InputError(
            f"There is no {plane} slice {index}: expected 0 to {shape[axis] - 1}. "
            "Ask for an index in that range.",
            rule="slice-out-of-range",
        )
    return PLANES[axis]


def find_window(
    name: str | None = None, level: float | None = None, width: float | None = None
) -> Window:
    """Return the preset called `name`, or the window that `level` and `width` give.

    With neither, the lung window.

    Raises:
        UnknownName: There is no such preset.
        InputError: Both ways at once, half a window, or values no CT has.
    """
    if level is None and width is None:
        if name is None:
            return WINDOWS["lung"]
        if name not in WINDOWS:
            raise UnknownName(unknown("window", name, list(WINDOWS)))
        return WINDOWS[name]
    if name is not None or level is None or width is None:
        raise InputError(
            "A window is a preset, or a level and a width: expected one of the two. "
            "Give window=lung, or level=-600&width=1500.",
            rule="bad-window",
        )
    if not (-10_000 <= level <= 40_000 and 1 <= width <= 50_000):
        raise InputError(
            f"Window level {level:g} and width {width:g} are out of range: expected a level of "
            "-10000 to 40000 HU and a width of 1 to 50000 HU.",
            rule="bad-window",
        )
    return Window(level, width)


def find_slab(slab_mm: float | None = None, projection: str | None = None) -> Slab | None:
    """Return the slab that is asked for; None for a single slice.

    Without a projection it is "mip".

    Raises:
        UnknownName: There is no such projection.
        InputError: A projection of nothing, or a thickness no body has (rule ``bad-slab``).
    """
    if projection is not None and projection not in PROJECTIONS:
        raise UnknownName(unknown("projection", projection, list(PROJECTIONS)))
    if slab_mm is None:
        if projection is None:
            return None
        raise InputError(
            "A projection needs a slab: expected its thickness in millimetres. Give slab_mm=10.",
            rule="bad-slab",
        )
    if not 0 < slab_mm <= MAX_SLAB_MM:
        raise InputError(
            f"A slab of {slab_mm:g} mm is out of range: expected more than 0 and at most "
            f"{MAX_SLAB_MM:g} mm. Give slab_mm=10.",
            rule="bad-slab",
        )
    return Slab(slab_mm, next((p for p in PROJECTIONS if p == projection), "mip"))


def cut_slice(
    pixels: Pixels, plane: Plane, index: int, slab: Slab | None = None
) -> npt.NDArray[np.int16] | npt.NDArray[np.float32]:
    """Return one slice, or a slab around it, in HU on the volume's own grid, as it is displayed.

    Args:
        pixels: The volume.
        plane: Which way to cut.
        index: Voxel index along the plane's normal; must exist (`check_slice`).
        slab: None for the slice alone. At the volume's ends a slab is cut off.

    Returns:
        Axial (H, W), coronal (D, W) or sagittal (D, H), head or front on top, the patient's right
        on the left: a view for a slice, int16 for mip and minip, float32 for mean.
    """
    axis = PLANES.index(plane)
    cut: npt.NDArray[np.int16] | npt.NDArray[np.float32]
    if slab is None:
        cut = np.moveaxis(pixels.hu, axis, 0)[index]
    else:
        # The tolerance is for 2 × 2.5 mm that are 4.9999 in a file's floats.
        reach = int(slab.thickness_mm / 2 / pixels.spacing_mm[axis] + 1e-3)
        block = np.moveaxis(pixels.hu, axis, 0)[max(0, index - reach) : index + reach + 1]
        if slab.projection == "mean":
            cut = block.mean(axis=0, dtype=np.float32)
        else:
            cut = (block.max if slab.projection == "mip" else block.min)(axis=0)
    # Each index pair runs to S, A, R: reversing it puts head or front on top, right on the left.
    return cut[::-1, ::-1]


def render_slice(
    pixels: Pixels, plane: Plane, index: int, window: Window, slab: Slab | None = None
) -> bytes:
    """Draw one slice, or a slab around it, as an 8-bit grey PNG with square pixels.

    The coarser axis is interpolated linearly, in HU, with half-voxel alignment, so the PNG covers
    the slice's physical extent to within one pixel.

    Args:
        pixels: The volume.
        plane: Which way to cut.
        index: Voxel index along the plane's normal; must exist (`check_slice`).
        window: HU to grey; below is black, above is white.
        slab: See `cut_slice`.
    """
    d, h, w = pixels.hu.shape
    geometry = plane_geometry((d, h, w), pixels.spacing_mm, plane)
    cut = cut_slice(pixels, plane, index, slab)
    values = _stretch(cut.astype(np.float32), geometry.height, axis=0)
    values = _stretch(values, geometry.width, axis=1)
    values -= np.float32(window.level - window.width / 2)
    values *= np.float32(255 / window.width)
    np.clip(values, 0, 255, out=values)
    np.rint(values, out=values)
    return encode_png(values.astype(np.uint8))


def encode_hu(pixels: Pixels, plane: Plane, index: int, slab: Slab | None = None) -> bytes:
    """Return what `cut_slice` does as gzipped little-endian int16, rows from the top."""
    cut = np.rint(cut_slice(pixels, plane, index, slab))
    return bytes(isal_zlib.compress(np.ascontiguousarray(cut, dtype="<i2").data, 1, wbits=31))


def encode_png(grey: npt.NDArray[np.uint8]) -> bytes:
    """Write (rows, columns) grey values as a PNG.

    Each row is filtered by *Sub* and deflated at ISA-L's level 1: about a fifth of a millisecond
    for a slice, where zlib's level 1 takes five times as long for the same size.

    Source:
        PNG specification, third edition, sections 5, 9.2 and 11.2.
    """
    rows, columns = grey.shape
    lines = np.empty((rows, columns + 1), dtype=np.uint8)
    lines[:, 0] = 1  # filter type Sub
    lines[:, 1] = grey[:, 0]
    np.subtract(grey[:, 1:], grey[:, :-1], out=lines[:, 2:])
    header = struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", isal_zlib.compress(lines.data, 1))
        + _chunk(b"IEND", b"")
    )


class PixelCache:
    """The volumes last looked at, as int16 in memory, each loaded once however many ask.

    Safe to use from many threads. A load that fails is not remembered.
    """

    def __init__(self, max_bytes: int, n_loaders: int = 2) -> None:
        self._max_bytes = max_bytes
        self._held: OrderedDict[str, Future[Pixels]] = OrderedDict()
        self._lock = threading.Lock()
        self._loaders = Lane("pixels", n_loaders)

    def get(self, key: str, load: Callable[[], Pixels]) -> Future[Pixels]:
        """Return the volume called `key`, now or soon; `load` runs in a thread of the cache."""
        with self._lock:
            held = self._held.get(key)
            if held is not None:
                self._held.move_to_end(key)
                return held
            future = self._held[key] = self._loaders.submit(load)
        future.add_done_callback(lambda done: self._settle(key, done))
        return future

    def __contains__(self, key: str) -> bool:
        """Tell whether the volume is in memory and whole."""
        with self._lock:
            held = self._held.get(key)
        return held is not None and held.done()

    @property
    def size_bytes(self) -> int:
        """Bytes of the volumes held."""
        with self._lock:
            return sum(_size(f) for f in self._held.values())

    def close(self) -> None:
        """Stop the loaders; loads that wait are cancelled."""
        self._loaders.close()

    @property
    def is_loading(self) -> bool:
        """Tell whether a load has begun that is not done."""
        return self._loaders.is_running

    def _settle(self, key: str, done: Future[Pixels]) -> None:
        with self._lock:
            if done.cancelled() or done.exception() is not None:
                if self._held.get(key) is done:
                    del self._held[key]
                return
            total = sum(_size(f) for f in self._held.values())
            for old in [k for k in self._held if k != key]:  # the one just loaded always stays
                if total <= self._max_bytes:
                    break
                total -= _size(self._held[old])
                if self._held[old].done():
                    del self._held[old]


class PngCache:
    """Finished PNGs by ETag, the least used dropped first: result lists need no volume twice."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held: OrderedDict[str, bytes] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes | None:
        """Return the PNG, or None."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
            return self._held.get(key)

    @property
    def size_bytes(self) -> int:
        """Bytes held."""
        return self._size

    def put(self, key: str, png: bytes) -> None:
        """Keep a PNG, at the price of the least recently used."""
        with self._lock:
            self._size += len(png) - len(self._held.pop(key, b""))
            self._held[key] = png
            while self._size > self._max_bytes and len(self._held) > 1:
                self._size -= len(self._held.popitem(last=False)[1])


def _size(future: Future[Pixels]) -> int:
    if not future.done() or future.cancelled() or future.exception() is not None:
        return 0
    return int(future.result().hu.nbytes)


def _stretch(values: npt.NDArray[np.float32], n: int, axis: int) -> npt.NDArray[np.float32]:
    """Resample one axis to `n` samples over the same extent."""
    old = values.shape[axis]
    if n == old:
        return values
    at = np.clip((np.arange(n, dtype=np.float32) + 0.5) * (old / n) - 0.5, 0, old - 1)
    low = at.astype(np.intp)
    high = np.minimum(low + 1, old - 1)
    share = (at - low).astype(np.float32)
    share = share[:, None] if axis == 0 else share[None, :]
    first = values.take(low, axis=axis)
    first += (values.take(high, axis=axis) - first) * share
    return np.asarray(first, dtype=np.float32)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
