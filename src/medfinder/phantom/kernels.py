"""Compiled inner loops of drawing: many passes over an array as one.

All in float32, each product and sum rounded on its own and in the order of the formula, so that
every machine draws the same voxels. They start no threads. Arrays called `x`, `y`, `z` are body
coordinates, flat and contiguous; what the formulas mean is said where they are called.
"""

import math
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from medfinder import compiled as compiling

compiled = partial(compiling.compiled, error_model="numpy")
F = np.float32
PIECE = 1024
Array = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


class Outline(NamedTuple):
    """What `lung_depth`, `wall` and `fissures` ask of a body; lengths in millimetres."""

    table: Array
    """Rib cage over z, (n, 4): back, half width, half depth and the centre's y."""
    table_low: F
    table_rate: F
    height: F
    fat_right: F
    fat_left: F
    fat_y: F
    fat_z: F
    septum: F
    dome_x: F
    dome_width: F
    dome_depth: F
    dome_right: F
    dome_left: F
    cos: F
    sin: F
    heart_x: F
    heart_y: F
    heart_z: F
    heart_along: F
    heart_across: F
    heart_up: F
    heart_mean: F
    heart_fat: F
    oblique_z: F
    level_z: F


# --- brushes


@compiled
def cover(distance: Array, rate: F, out: Array) -> None:
    """Write the covered share of each voxel, flat; `rate` is 1 over the border's width."""
    for i in range(distance.size):
        out[i] = min(max(F(0.5) - distance[i] * rate, F(0)), F(1))


@compiled
def blend(hu: Array, d: int, h: int, w: int, share: Array, value: F) -> None:
    """Move `hu` from the corner (d, h, w) on towards `value` by `share`."""
    n_d, n_h, n_w = share.shape
    for i in range(n_d):
        for j in range(n_h):
            row, part = hu[d + i, h + j, w : w + n_w], share[i, j]
            for k in range(n_w):
                row[k] += part[k] * (value - row[k])


@compiled
def blend_each(hu: Array, d: int, h: int, w: int, share: Array, values: Array) -> None:
    """Do as `blend`, towards a value of each voxel's own."""
    n_d, n_h, n_w = share.shape
    for i in range(n_d):
        for j in range(n_h):
            row, part, goal = hu[d + i, h + j, w : w + n_w], share[i, j], values[i, j]
            for k in range(n_w):
                row[k] += part[k] * (goal[k] - row[k])


@compiled
def _capsule(x: F, y: F, z: F, s: Array) -> F:
    px, py, pz = x - s[0], y - s[1], z - s[2]
    t = min(max(px * s[3] + py * s[4] + pz * s[5], F(0)), F(1))
    px, py, pz = px - t * s[6], py - t * s[7], pz - t * s[8]
    out: F = F(math.sqrt(px * px + py * py + pz * pz)) - (s[9] + t * s[10])
    return out


@compiled
def tube(x: Array, y: Array, z: Array, segments: Array, out: Array) -> None:
    """Write the signed distance to the nearest of `segments`, as `scene.segments` gives them."""
    for n in range(len(segments)):
        segment = segments[n].copy()
        if n == 0:
            for i in range(x.size):
                out[i] = _capsule(x[i], y[i], z[i], segment)
        else:
            for i in range(x.size):
                out[i] = min(out[i], _capsule(x[i], y[i], z[i], segment))


@compiled
def twigs(
    x: Array,
    y: Array,
    z: Array,
    hu: Array,
    clip: Array,
    first: Indices,
    last: Indices,
    segments: Array,
    shares: Array,
    rate: F,
    top: F,
) -> None:
    """Raise HU along each segment inside its box; the arrays are (D, H, W), the boxes (n, 3)."""
    for n in range(len(segments)):
        segment, share = segments[n], shares[n]
        for i in range(first[n, 0], last[n, 0]):
            for j in range(first[n, 1], last[n, 1]):
                for k in range(first[n, 2], last[n, 2]):
                    distance = _capsule(x[i, j, k], y[i, j, k], z[i, j, k], segment)
                    part = min(max(F(0.5) - distance * rate, F(0)), F(1))
                    part = part * clip[i, j, k] * share
                    hu[i, j, k] += part * max(top - hu[i, j, k], F(0))


@compiled
def interpolate(
    knots: Array,
    low_d: Indices,
    low_h: Indices,
    low_w: Indices,
    part_d: Array,
    part_h: Array,
    part_w: Array,
    gain: F,
    out: Array,
) -> None:
    """Interpolate between `knots` (3-D): along each axis from `low` to its neighbour by `part`."""
    _, n_h, n_w = knots.shape
    plane = np.empty((n_h, n_w), np.float32)
    row = np.empty(n_w, np.float32)
    for i in range(len(low_d)):
        a, b = knots[low_d[i]], knots[low_d[i] + 1]
        for j in range(n_h):
            for k in range(n_w):
                plane[j, k] = a[j, k] + part_d[i] * (b[j, k] - a[j, k])
        for j in range(len(low_h)):
            below, above = plane[low_h[j]], plane[low_h[j] + 1]
            for k in range(n_w):
                row[k] = below[k] + part_h[j] * (above[k] - below[k])
            line = out[i, j]
            for k in range(len(low_w)):
                left = row[low_w[k]]
                line[k] = (left + part_w[k] * (row[low_w[k] + 1] - left)) * gain


# --- anatomy


@compiled
def _rows(z: Array, o: Outline, out: Array) -> None:
    """Write the rib cage's row of each height, (4, n): apart, so that other loops are vectors."""
    for i in range(z.size):
        at = min(max((z[i] - o.table_low) * o.table_rate, F(0)), F(len(o.table) - 1))
        row = o.table[np.uint32(at)]
        out[0, i], out[1, i], out[2, i], out[3, i] = row[0], row[1], row[2], row[3]


@compiled
def _wall(x: F, y: F, width: F, depth: F, middle: F) -> F:
    u, v = x / width, (y - middle) / depth
    u, v = u * u, v * v
    rho = F(math.sqrt(F(0.45) * (u + v) + F(0.55) * F(math.sqrt(u * u + v * v))))
    return (rho - F(1)) * F(math.sqrt(width * depth))


@compiled
def wall(x: Array, y: Array, z: Array, o: Outline, out: Array) -> None:
    """Write `Body.wall`."""
    rows = np.empty((4, PIECE), np.float32)
    for start in range(0, x.size, PIECE):
        stop = min(start + PIECE, x.size)
        _rows(z[start:stop], o, rows)
        _wall_piece(x[start:stop], y[start:stop], rows, out[start:stop])


@compiled
def _wall_piece(x: Array, y: Array, rows: Array, out: Array) -> None:
    for i in range(x.size):
        out[i] = _wall(x[i], y[i], rows[1, i], rows[2, i], rows[3, i])


@compiled
def lung_depth(x: Array, y: Array, z: Array, o: Outline, out: Array) -> None:
    """Write `Body.lung_depth`."""
    rows = np.empty((4, PIECE), np.float32)
    for start in range(0, x.size, PIECE):
        stop = min(start + PIECE, x.size)
        _rows(z[start:stop], o, rows)
        _depth_piece(x[start:stop], y[start:stop], z[start:stop], rows, o, out[start:stop])


@compiled
def _depth_piece(x: Array, y: Array, z: Array, rows: Array, o: Outline, out: Array) -> None:
    for i in range(x.size):
        px, py, pz = x[i], y[i], z[i]
        back, width, deep, middle = rows[0, i], rows[1, i], rows[2, i], rows[3, i]
        right, aside = px > F(0), abs(px)
        behind = min(max(F(0.25) - py * o.fat_y, F(0)), F(1))
        low = min(max(F(1.1) - pz * o.fat_z, F(0)), F(1))
        fat = (o.fat_right if right else o.fat_left) * behind * low
        depth = -_wall(px, py, width, deep, middle) - F(1) - fat
        front = min(max(((py - middle) / deep - F(0.15)) / F(0.75), F(0)), F(1))
        depth = min(depth, aside - o.septum * (F(1) - F(0.66) * front))
        dx = (aside - o.dome_x) / o.dome_width
        dy = (py - F(12)) / o.dome_depth
        dome = (o.dome_right if right else o.dome_left) * (F(1) - F(1.35) * (dx * dx + dy * dy))
        depth = min(min(depth, pz - dome), pz + F(32))
        hx, hy, hz = px - o.heart_x, py - o.heart_y, pz - o.heart_z
        along, across = -o.cos * hx + o.sin * hy, o.sin * hx + o.cos * hy
        hz = (hz + F(0.28) * along) / o.heart_up
        along, across = along / o.heart_along, across / o.heart_across
        q = F(math.sqrt(along * along + across * across + hz * hz))
        depth = min(depth, (q - F(1)) * o.heart_mean - o.heart_fat)
        u, v = aside - F(48), py - back - F(55)
        top = o.height - (u * u + v * v) * F(1 / 75)
        out[i] = min(depth, (top - pz) * F(0.8))


@compiled
def fissures(
    x: Array,
    y: Array,
    z: Array,
    o: Outline,
    oblique: Array,
    level: Array,
    lobe: npt.NDArray[np.uint8],
) -> None:
    """Write `Body.fissures` and `Body.lobes`."""
    tilt_right, tilt_left = F(1.02), F(1.1)
    root_right = F(math.sqrt(F(1) + tilt_right * tilt_right))
    root_left = F(math.sqrt(F(1) + tilt_left * tilt_left))
    for i in range(x.size):
        right, off = x[i] > F(0), abs(x[i]) - o.dome_x
        tilt, root = (tilt_right, root_right) if right else (tilt_left, root_left)
        bow = F(0.0006) * (off * off)
        high = (z[i] - o.oblique_z + tilt * y[i] + F(6) * bow) / root
        across = z[i] - o.level_z + F(0.12) * (y[i] - F(20))
        oblique[i], level[i] = high, across
        upper_right = np.uint8(2) if across < F(0) else np.uint8(1)
        on_right = np.uint8(3) if high < F(0) else upper_right
        on_left = np.uint8(5) if high < F(0) else np.uint8(4)
        lobe[i] = on_right if right else on_left


@compiled
def trunk(
    x: Array,
    y: Array,
    half_x: Array,
    half_y: Array,
    middle: Array,
    belly: Array,
    fat: F,
    b: F,
    inner: Array,
    skin: Array,
) -> None:
    """Write signed distances to the muscle's outside and to the skin; one width a slice."""
    for i in range(x.shape[0]):
        root = F(math.sqrt(half_x[i] * half_y[i]))
        for j in range(x.shape[1]):
            for k in range(x.shape[2]):
                u, v = x[i, j, k] / half_x[i], (y[i, j, k] - middle[i]) / half_y[i]
                u, v = u * u, v * v
                rho = F(math.sqrt(F(0.5) * (u + v) + F(0.5) * F(math.sqrt(u * u + v * v))))
                inside = (rho - F(1)) * root
                front = min(max(y[i, j, k] / b, F(-1)), F(1))
                inner[i, j, k] = inside
                skin[i, j, k] = inside - fat - belly[i] * (F(1) + front)


@compiled
def paint_skin(hu: Array, skin: Array, rate: F, fat_hu: F) -> None:
    """Fill the body with fat, under a skin as thick as 2 mm; flat."""
    for i in range(hu.size):
        value = hu[i]
        value += min(max(F(0.5) - skin[i] * rate, F(0)), F(1)) * (fat_hu - value)
        rim = abs(skin[i] + F(1)) - F(1)
        share = min(max(F(0.5) - rim * rate, F(0)), F(1)) * F(0.6)
        hu[i] = value + share * (F(30) - value)


@compiled
def paint_muscle(
    hu: Array,
    x: Array,
    y: Array,
    inner: Array,
    skin: Array,
    sheet: Array,
    rate: F,
    muscle_hu: F,
    couch_y: F,
) -> None:
    """Fill the trunk with muscle, fat planes where `sheet` > 0, and lay it on a couch; flat."""
    for i in range(hu.size):
        value = hu[i]
        plane = max(sheet[i], F(0))
        share = min(max(F(0.5) - inner[i] * rate, F(0)), F(1))
        value += share * (muscle_hu - F(30) * (plane * plane) - value)
        couch = abs(y[i] - couch_y - (x[i] * x[i]) * F(0.0009)) - F(9)
        couch = max(couch, abs(x[i]) - F(215))
        outside = F(1) - min(max(F(0.5) - skin[i] * rate, F(0)), F(1))
        shell = min(max(F(0.5) - (abs(couch) - F(1.2)) * rate, F(0)), F(1)) * outside
        value += shell * (F(-150) - value)
        foam = min(max(F(0.5) - (couch + F(2)) * rate, F(0)), F(1)) * outside
        hu[i] = value + foam * (F(-940) - value)


@compiled
def tree(
    root: npt.NDArray[np.float64],
    goals: npt.NDArray[np.float64],
    nodes: npt.NDArray[np.float64],
    parent: Indices,
    load: npt.NDArray[np.float64],
) -> None:
    """Join `goals` in their order; write nodes, each one's parent, and how many hang on it."""
    way = np.zeros(len(nodes))
    nodes[0] = root
    for i in range(1, len(nodes)):
        x, y, z = goals[i - 1]
        best, least, best_hop = 0, np.inf, 0.0
        for n in range(i):
            dx, dy, dz = nodes[n, 0] - x, nodes[n, 1] - y, nodes[n, 2] - z
            hop = math.sqrt(dx * dx + dy * dy + dz * dz)
            if hop + 0.45 * way[n] < least:
                best, least, best_hop = n, hop + 0.45 * way[n], hop
        nodes[i, 0], nodes[i, 1], nodes[i, 2] = x, y, z
        parent[i], way[i] = best, way[best] + best_hop
    load[:] = 1
    for i in range(len(nodes) - 1, 0, -1):
        load[parent[i]] += load[i]


# --- acquisition


@compiled
def smooth_plane(values: Array, share: F) -> None:
    """Give each neighbour in plane `share` of a voxel, along H, then along W; borders keep theirs."""
    n_d, n_h, n_w = values.shape
    plane = np.empty((n_h, n_w), np.float32)
    for i in range(n_d):
        for j in range(n_h):
            line, row = plane[j], values[i, j]
            for k in range(n_w):
                line[k] = row[k]
            if j + 1 < n_h:
                other = values[i, j + 1]
                for k in range(n_w):
                    line[k] += share * (other[k] - row[k])
            if j > 0:
                other = values[i, j - 1]
                for k in range(n_w):
                    line[k] -= share * (row[k] - other[k])
        for j in range(n_h):
            line, row = plane[j], values[i, j]
            for k in range(n_w):
                row[k] = line[k]
            for k in range(n_w - 1):
                row[k] += share * (line[k + 1] - line[k])
            for k in range(1, n_w):
                row[k] -= share * (line[k] - line[k - 1])


@compiled
def smooth_slices(values: Array, share: F) -> None:
    """Give each neighbour along D `share` of a voxel; the ends keep theirs."""
    n_d, n_h, n_w = values.shape
    before, now = np.empty((n_h, n_w), np.float32), np.empty((n_h, n_w), np.float32)
    for i in range(n_d):
        now[:] = values[i]
        for j in range(n_h):
            row, line, old = values[i, j], now[j], before[j]
            if i + 1 < n_d:
                other = values[i + 1, j]
                for k in range(n_w):
                    row[k] += share * (other[k] - line[k])
            if i > 0:
                for k in range(n_w):
                    row[k] -= share * (line[k] - old[k])
        before, now = now, before


@compiled
def store(
    seen: Array, noise: Array, grain: F, gain: F, offset: F, out: npt.NDArray[np.int16]
) -> None:
    """Write what is stored of HU `seen` and of `grain` times the noise; flat."""
    for i in range(seen.size):
        value = gain * (seen[i] + F(1000)) - offset + noise[i] * grain
        out[i] = np.int16(np.rint(min(max(value, F(-1024)), F(3071))))
