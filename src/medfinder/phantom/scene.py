"""A voxel grid laid over a body, and the brushes that draw on it.

Brushes take shapes as signed distances in body millimetres (x to the patient's Right, y Anterior,
z Superior, negative inside) and blend by the share of a voxel the shape covers. Knows no anatomy.
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from medfinder.phantom import kernels

Array: TypeAlias = npt.NDArray[np.float32]
Box: TypeAlias = tuple[slice, slice, slice]
Point: TypeAlias = Sequence[float] | npt.NDArray[np.float64]
Points: TypeAlias = tuple[Array, Array, Array]

EVERYWHERE: Box = (slice(None), slice(None), slice(None))


class Scene:
    """Air on a grid, to be drawn on.

    Attributes:
        hu: (D, H, W) float32; -1000 at first.
        labels: (D, H, W) uint8; 0, or the 1-based place of the finding drawn there.
        x: Body coordinates of each voxel's centre, in millimetres, (D, H, W).
        y: See `x`.
        z: See `x`.
        edge_mm: The in-plane voxel edge: the width over which borders blend.
    """

    def __init__(
        self, shape: tuple[int, int, int], world_from_index: npt.NDArray[np.float64]
    ) -> None:
        """Lay a grid of `shape` whose index (d, h, w, 1) maps to body millimetres (x, y, z, 1)."""
        self.shape = shape
        self.hu: Array = np.full(shape, -1000.0, np.float32)
        self.labels = np.zeros(shape, np.uint8)
        self._whole_hu, self._corner = self.hu, (0, 0, 0)  # what this is a part of, and where
        self._affine = world_from_index
        self._inverse = np.linalg.inv(world_from_index)
        self.edge_mm = float(np.linalg.norm(world_from_index[:3, 2]))
        self.slice_mm = float(np.linalg.norm(world_from_index[:3, 0]))
        axes = [np.arange(n, dtype=np.float64) for n in shape]
        grid = []
        for row in range(3):
            d = (world_from_index[row, 0] * axes[0] + world_from_index[row, 3]).astype(np.float32)
            h = (world_from_index[row, 1] * axes[1]).astype(np.float32)
            w = (world_from_index[row, 2] * axes[2]).astype(np.float32)
            grid.append(d[:, None, None] + (h[:, None] + w[None, :])[None])
        self.x, self.y, self.z = grid

    def crop(self, box: Box) -> "Scene":
        """Return the part of the scene inside a box; drawing on it draws on this one."""
        part = object.__new__(Scene)
        part.hu, part.labels = self.hu[box], self.labels[box]
        part.x, part.y, part.z = self.at(box)
        part.shape = (part.hu.shape[0], part.hu.shape[1], part.hu.shape[2])
        part._whole_hu, part._corner = self._whole_hu, self._place(box)
        shift = np.eye(4)
        shift[:3, 3] = [side.start or 0 for side in box]
        part._affine = self._affine @ shift
        part._inverse = np.linalg.inv(part._affine)
        part.edge_mm, part.slice_mm = self.edge_mm, self.slice_mm
        return part

    def _place(self, box: Box) -> tuple[int, int, int]:
        """Return the index in the whole scene of a box's first voxel."""
        d, h, w = (c + (side.start or 0) for c, side in zip(self._corner, box, strict=True))
        return d, h, w

    def at(self, box: Box) -> Points:
        """Return body coordinates inside a box."""
        return self.x[box], self.y[box], self.z[box]

    def box(self, low: Point, high: Point, margin_mm: float | None = None) -> Box | None:
        """Return the index box around a body-aligned box; None when it misses the grid."""
        margin = self.edge_mm * 1.5 if margin_mm is None else margin_mm
        centre = (np.asarray(low, float) + np.asarray(high, float)) / 2
        half = (np.asarray(high, float) - np.asarray(low, float)) / 2 + margin
        middle = self._inverse[:3, :3] @ centre + self._inverse[:3, 3]
        reach = np.abs(self._inverse[:3, :3]) @ half
        first = np.maximum(np.floor(middle - reach), 0).astype(int)
        last = np.minimum(np.ceil(middle + reach) + 1, self.shape).astype(int)
        if (first >= last).any():
            return None
        return (
            slice(int(first[0]), int(last[0])),
            slice(int(first[1]), int(last[1])),
            slice(int(first[2]), int(last[2])),
        )

    def cover(self, distance: Array, soft_mm: float = 0.0) -> Array:
        """Return the covered share of each voxel from a signed distance in millimetres."""
        width = np.float32(max(self.edge_mm, soft_mm))
        distance = np.ascontiguousarray(distance, np.float32)
        out = np.empty_like(distance)
        kernels.cover(distance.reshape(-1), np.float32(1) / width, out.reshape(-1))
        return out

    def blend(self, box: Box, cover: Array, value: float | Array, label: int = 0) -> None:
        """Move HU inside a box towards `value` by `cover` (0 to 1)."""
        assert cover.shape == self.hu[box].shape
        cover = np.ascontiguousarray(cover, np.float32)
        where = self._place(box)
        if isinstance(value, np.ndarray):
            assert value.shape == cover.shape
            goal = np.ascontiguousarray(value, np.float32)
            kernels.blend_each(self._whole_hu, *where, cover, goal)
        else:
            kernels.blend(self._whole_hu, *where, cover, np.float32(value))
        if label:
            self.labels[box][cover > 0.4] = label

    def ball(
        self,
        centre: Point,
        radii: Point,
        value: float,
        *,
        label: int = 0,
        clip: Array | None = None,
    ) -> None:
        """Draw an axis-aligned ellipsoid; `clip` (D, H, W) limits its cover."""
        self._draw(self.ellipsoid(centre, radii), value, label, clip)

    def _draw(
        self, found: tuple[Box, Array] | None, value: float, label: int, clip: Array | None
    ) -> None:
        """Blend what a signed distance in a box covers; nothing where the box is outside."""
        if found is None:
            return
        box, distance = found
        cover = self.cover(distance)
        if clip is not None:
            cover = cover * clip[box]
        self.blend(box, cover, value, label)

    def ellipsoid(
        self, centre: Point, radii: Point, reach_mm: float = 0.0
    ) -> tuple[Box, Array] | None:
        """Return the box around an ellipsoid (and `reach_mm` beyond) and the distance in it."""
        c: npt.NDArray[np.float64] = np.asarray(centre, float)
        r: npt.NDArray[np.float64] = np.asarray(radii, float)
        box = self.box(c - r - reach_mm, c + r + reach_mm)
        if box is None:
            return None
        x, y, z = self.at(box)
        return box, ellipsoid_distance(x, y, z, c, r)

    def tube(
        self, path: Sequence[Point], radii: Sequence[float], reach_mm: float = 0.0
    ) -> tuple[Box, Array] | None:
        """Return the box around a polyline of varying radius and the signed distance in it."""
        points, r = np.asarray(path, float), np.asarray(radii, float)
        biggest = float(r.max()) + reach_mm
        box = self.box(points.min(0) - biggest, points.max(0) + biggest)
        if box is None:
            return None
        distance = np.empty(self.hu[box].shape, np.float32)
        parts = segments(points[:-1], points[1:], np.stack([r[:-1], r[1:]], 1))
        kernels.tube(*flat(*self.at(box)), parts, distance.reshape(-1))
        return box, distance

    def draw_tube(
        self,
        path: Sequence[Point],
        radii: Sequence[float],
        value: float,
        *,
        label: int = 0,
        clip: Array | None = None,
    ) -> None:
        """Draw a polyline of varying radius."""
        self._draw(self.tube(path, radii), value, label, clip)

    def twigs(
        self,
        starts: npt.NDArray[np.float64],
        ends: npt.NDArray[np.float64],
        radii: npt.NDArray[np.float64],
        value: float,
        clip: Array,
    ) -> None:
        """Draw thin vessels where `clip` (D, H, W) allows; what is denser already stays.

        Args:
            starts: (n, 3) body millimetres.
            ends: (n, 3).
            radii: (n, 2) at start and end.
        """
        biggest = radii.max(1)
        reach = (np.abs(ends - starts) / 2 + (biggest + self.edge_mm)[:, None]) @ np.abs(
            self._inverse[:3, :3]
        ).T
        middle = (starts + ends) / 2 @ self._inverse[:3, :3].T + self._inverse[:3, 3]
        first = np.maximum(np.floor(middle - reach), 0).astype(np.int64)
        last = np.minimum(np.ceil(middle + reach) + 1, self.shape).astype(np.int64)
        # A thread thinner than a voxel covers only a share of the voxels it crosses.
        share = (np.minimum(1.0, 2 * biggest / self.edge_mm) ** 0.7).astype(np.float32)
        kernels.twigs(
            *(self.x, self.y, self.z, self.hu, clip),
            *(first, last, segments(starts, ends, radii), share),
            np.float32(1 / self.edge_mm),
            np.float32(value),
        )


def flat(x: Array, y: Array, z: Array) -> Points:
    """Return coordinates as the kernels take them: flat, contiguous, equally long."""
    assert x.size == y.size == z.size
    a, b, c = (np.ascontiguousarray(v, np.float32).reshape(-1) for v in (x, y, z))
    return a, b, c


def ellipsoid_distance(x: Array, y: Array, z: Array, centre: Point, radii: Point) -> Array:
    """Return an approximate signed distance to an ellipsoid: exact at the centre's scale and border."""
    c, r = np.asarray(centre, np.float32), np.asarray(radii, np.float32)
    u, v, w = (x - c[0]) / r[0], (y - c[1]) / r[1], (z - c[2]) / r[2]
    q = np.sqrt(u * u + v * v + w * w)
    out: Array = (q - np.float32(1)) * np.float32(np.prod(r.astype(float)) ** (1 / 3))
    return out


def segments(
    starts: npt.NDArray[np.float64],
    ends: npt.NDArray[np.float64],
    radii: npt.NDArray[np.float64],
) -> Array:
    """Return (n, 11) for `kernels.tube`: start, way / length², way, first radius, its change.

    With p the way from the start to a point and t = p · way / length², clipped to [0, 1], the
    signed distance is |p - t way| - (radius + t change).
    """
    way = ends - starts
    length2 = (way * way).sum(1, keepdims=True)
    length2[length2 == 0] = 1e-6
    change = radii[:, 1:] - radii[:, :1]
    return np.concatenate([starts, way / length2, way, radii[:, :1], change], 1, dtype=np.float32)


def smooth_field(
    rng: np.random.Generator, shape: tuple[int, int, int], cells: tuple[int, int, int]
) -> Array:
    """Return smooth noise of about unit variance: random knots, linearly interpolated.

    Args:
        shape: Of the result.
        cells: Knots along each axis, each at least 2.
    """
    field: Array = rng.standard_normal(cells, dtype=np.float32)
    lows, parts = [], []
    for axis, n in enumerate(shape):
        at = np.linspace(0, field.shape[axis] - 1, n)
        low = np.minimum(at.astype(np.int64), field.shape[axis] - 2)
        lows.append(low)
        parts.append((at - low).astype(np.float32))
    # Linear interpolation between independent knots keeps 2/3 of the variance along each axis.
    out = np.empty(shape, np.float32)
    (d, h, w), (of_d, of_h, of_w) = lows, parts
    kernels.interpolate(field, d, h, w, of_d, of_h, of_w, np.float32(1.5**1.5), out)
    return out
