"""Findings and their look-alikes, drawn into an anatomy: one function a finding, by name.

A drawer reads the finding's attributes and its own random stream, so a finding looks the same
whatever else the case holds. `DIFFUSE` is drawn before the vessels, `FOCAL` after.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from medfinder.phantom.anatomy import (
    AIR_HU,
    FAT_HU,
    MUSCLE_HU,
    WATER_HU,
    Body,
    Lungs,
    Tissue,
    lung_box,
)
from medfinder.phantom.case import LOBES, CaseSpec, FindingSpec
from medfinder.phantom.scene import EVERYWHERE, Array, Box, Point, Scene, smooth_field

GRADE = {"mild": 0, "moderate": 1, "severe": 2}


@dataclass(frozen=True, slots=True)
class Canvas:
    """All that a drawer needs.

    Attributes:
        scene: The part of the grid around the lungs.
        whole: All of the grid, for what reaches out of that part.
        body: The patient's shapes.
        lungs: Aerated lung that is left; drawers take from `Lungs.cover` what they fill.
        tissue: HU that contrast agent changes.
        rng: The finding's own random stream.
        label: Written to `Scene.labels`.
    """

    scene: Scene
    whole: Scene
    body: Body
    lungs: Lungs
    tissue: Tissue
    rng: np.random.Generator
    label: int

    def sides(self, finding: FindingSpec) -> tuple[int, ...]:
        """Return +1 for the right, -1 for the left, both for bilateral."""
        return {"right": (1,), "left": (-1,)}.get(finding.side or "", (1, -1))

    def lobe_code(self, finding: FindingSpec) -> int:
        """Return 1 + the index of the finding's lobe in `LOBES`."""
        return LOBES.index((finding.side, finding.lobe)) + 1

    def soft_hu(self) -> float:
        """Return the HU of an enhancing solid lesion."""
        return float(self.rng.uniform(25, 55) + 0.6 * self.tissue.organ_gain_hu)

    def lobe_cover(self, code: int, box: Box) -> Array:
        """Return the lobe's share of aerated lung inside a box."""
        out: Array = self.lungs.cover[box] * (self.lungs.lobes[box] == code)
        return out

    def fill(self, box: Box, cover: Array, value: float | Array) -> None:
        """Blend a lesion in, and take the lung it fills away."""
        self.scene.blend(box, cover, value, self.label)
        self.lungs.cover[box] *= 1 - cover

    def noise(self, shape: tuple[int, int, int], cell_mm: float) -> Array:
        """Return smooth noise with features of about `cell_mm`."""
        s = self.scene
        edges = (s.slice_mm, s.edge_mm, s.edge_mm)
        cells = [
            max(2, min(n, math.ceil(n * e / cell_mm) + 1))
            for n, e in zip(shape, edges, strict=True)
        ]
        return smooth_field(self.rng, shape, (cells[0], cells[1], cells[2]))


def _ground_glass(c: Canvas, f: FindingSpec) -> None:
    lungs, scene = c.lungs, c.scene
    share = (1.15, 0.75, 0.3)[GRADE[f.severity or "mild"]]
    cell_mm = c.rng.uniform(20, 32)
    field: Array = c.noise(scene.shape, cell_mm) + 0.5 * c.noise(scene.shape, cell_mm / 2.3)
    if f.level == "peripheral":
        field = field + np.float32(1.1) - lungs.depth / np.float32(16)
    field = field + np.float32(0.35) * (lungs.lobes % 3 != 1).astype(
        np.float32
    )  # a little more in the lower lobes
    cover = np.clip((field - share) * 4, 0, 1)
    if f.side != "bilateral":
        cover = cover * (scene.x > 0 if f.side == "right" else scene.x < 0)
    cover = (cover * lungs.cover).astype(np.float32)
    # Lung between the patches is aired the more: the sign is the patches' contrast with it.
    rise = np.float32(c.rng.uniform(220, 310))
    reach = (scene.x * c.sides(f)[0] > 0) if f.side != "bilateral" else True
    _spread(c, cover * rise, (lungs.cover * reach * (1 - cover)).astype(np.float32))
    scene.labels[cover > 0.4] = c.label


def _spread(c: Canvas, rise: Array, rest: Array) -> None:
    """Add HU to a lung and take as much from the rest of it, as far as it holds air to lose."""
    view = c.scene.hu
    lost = float(rise.sum()) / max(float(rest.sum()), 1.0)
    view += rise
    view -= rest * np.minimum(np.float32(lost), np.maximum(view + np.float32(960), 0))


def _emphysema(c: Canvas, f: FindingSpec) -> None:
    grade = GRADE[f.severity or "mild"]
    lungs, scene = c.lungs, c.scene
    height = scene.z / np.float32(c.body.height)
    if f.level == "paraseptal":
        # A row of bubbles under the pleura of the upper halves.
        for _ in range((7, 14, 26)[grade]):
            side = int(c.rng.integers(2))
            point = c.body.place(c.rng, 1 if side else 4, 5, (5, 12))
            r = c.rng.uniform(6, 9 + 4 * grade)
            found = scene.ellipsoid(point, (r, r, r * 1.2), 3)
            if found is None:
                continue
            box, distance = found
            clip = lungs.cover[box]
            scene.blend(box, scene.cover(distance - 1) * clip, -620)
            scene.blend(box, scene.cover(distance + 0.5) * clip, -975, c.label)
        return
    field = c.noise(scene.shape, 10.0) + 0.5 * c.noise(scene.shape, 40.0)
    share = (1.35, 0.75, 0.25)[grade] + np.float32(1.6) * np.abs(height - np.float32(0.78))
    cover = (np.clip((field - share) * 2.5, 0, 1) * lungs.cover).astype(np.float32)
    scene.blend(EVERYWHERE, cover, -972, c.label)


def _fibrosis(c: Canvas, f: FindingSpec) -> None:
    grade = GRADE[f.severity or "mild"]
    lungs, scene = c.lungs, c.scene
    reach = np.float32((13, 20, 30)[grade])
    low = np.clip(1.15 - scene.z / np.float32(c.body.height * (0.55, 0.75, 1.0)[grade]), 0, 1)
    zone = np.clip((reach * (0.35 + low) - lungs.depth) / 6, 0, 1) * np.sqrt(low) * lungs.cover
    # Bright lines around dark cells: a texture, whose mean is nearly that of the lung before.
    mesh = np.exp(-np.abs(c.noise(scene.shape, 11.0)) * np.float32(4.5))
    before = scene.hu.copy()
    cells = (zone * (1 - mesh)).astype(np.float32)
    scene.blend(EVERYWHERE, cells * np.float32(0.85), -955)
    cover = (zone * mesh).astype(np.float32)
    scene.blend(EVERYWHERE, cover * np.float32(0.75), -40)
    rise = scene.hu - before
    scene.hu -= rise
    _spread(c, rise, (lungs.cover * (1 - zone)).astype(np.float32))
    scene.labels[zone > 0.3] = c.label


def _blob(
    c: Canvas, centre: Point, radius: float, rough: float, lumps: int
) -> tuple[Box, Array] | None:
    """Return a lumpy ball's signed distance; `rough` is the relief in millimetres."""
    low = [v - radius * 1.35 for v in centre]
    high = [v + radius * 1.35 for v in centre]
    box = c.scene.box(low, high)
    if box is None:
        return None
    x, y, z = c.scene.at(box)
    best: Array | None = None
    for i in range(lumps):
        off = c.rng.normal(0, 0.3 * radius, 3) if i else np.zeros(3)
        r = radius * (c.rng.uniform(0.55, 0.75) if i else (0.86 if lumps > 1 else 1.0))
        p = (x - np.float32(centre[0] + off[0])) ** 2 + (y - np.float32(centre[1] + off[1])) ** 2
        distance = np.sqrt(p + (z - np.float32(centre[2] + off[2])) ** 2) - np.float32(r)
        best = distance if best is None else np.minimum(best, distance)
    assert best is not None
    if rough:
        best = best + np.float32(rough) * c.noise(best.shape, max(9.0, radius * 0.6))
    return box, best.astype(np.float32)


def _consolidation(c: Canvas, f: FindingSpec) -> None:
    assert f.size_mm is not None
    code = c.lobe_code(f)
    radius = f.size_mm / 2
    centre = c.body.place(c.rng, code, radius * 0.4, (radius * 0.3, radius))
    found = _blob(c, centre, radius, radius * 0.16, 2)
    if found is None:
        return
    box, distance = found
    cover = c.scene.cover(distance, 5) * c.lobe_cover(code, box)
    haze = np.clip(1 - distance / 14, 0, 1) * c.lobe_cover(code, box)
    c.scene.hu[box] += haze * np.float32(130)
    c.fill(box, cover, c.soft_hu() + 8 * c.noise(distance.shape, 14))
    clip = np.zeros(c.scene.shape, np.float32)
    clip[box] = cover
    hilum = np.asarray(c.body.hilum[f.side or "right"])
    for _ in range(int(c.rng.integers(2, 5))):
        goal = np.asarray(centre) + c.rng.normal(0, radius * 0.45, 3)
        start = goal + (hilum - goal) * 0.65
        r = max(1.7, 0.42 * c.scene.edge_mm)
        c.scene.draw_tube([start, goal], [r * 1.25, r * 0.8], -900, clip=clip)


def _solid_nodule(c: Canvas, code: int, size_mm: float, density: str) -> None:
    radius = size_mm / 2
    centre = c.body.place(c.rng, code, radius * 1.15)
    found = _blob(c, centre, radius, radius * 0.07, 1)
    if found is None:
        return
    box, distance = found
    cover = c.scene.cover(distance) * np.maximum(c.lungs.cover[box], c.lungs.depth[box] > 0)
    if density == "ground glass":
        view = c.scene.hu[box]
        rise = cover * np.float32(c.rng.uniform(260, 360))
        view += np.minimum(rise, np.maximum(-300 - view, 0))
        c.scene.labels[box][cover > 0.4] = c.label
    else:
        c.fill(box, cover, c.rng.uniform(320, 700) if density == "calcified" else c.soft_hu())


def _nodule(c: Canvas, f: FindingSpec) -> None:
    assert f.size_mm is not None
    assert f.density is not None
    _solid_nodule(c, c.lobe_code(f), f.size_mm, f.density)


def _nodules(c: Canvas, f: FindingSpec) -> None:
    assert f.size_mm is not None
    for i in range(f.number):
        size = f.size_mm if i == 0 else f.size_mm * c.rng.uniform(0.55, 0.95)
        code = (1, 5)[i] if i < 2 else int(c.rng.integers(1, 6))
        _solid_nodule(c, code, size, "solid")


def _mass(c: Canvas, f: FindingSpec) -> None:
    assert f.size_mm is not None
    radius = f.size_mm / 2
    centre = c.body.place(c.rng, c.lobe_code(f), radius * 0.85)
    found = _blob(c, centre, radius, radius * 0.09, 4)
    if found is None:
        return
    box, distance = found
    inside = np.maximum(c.lungs.cover[box], c.lungs.depth[box] > -4) * (c.lungs.wall[box] < 2)
    hu = c.soft_hu()
    c.fill(box, c.scene.cover(distance) * inside, hu)
    if c.rng.random() < 0.4:  # necrosis
        c.scene.blend(box, c.scene.cover(distance + radius * 0.45), min(18.0, hu))
    way = c.rng.normal(size=(int(c.rng.integers(5, 12)), 3))
    way *= radius / np.sqrt((way**2).sum(1, keepdims=True))
    thin = np.tile((1.5, 0.5), (len(way), 1))
    middle = np.asarray(centre, float)
    c.scene.twigs(middle + 0.8 * way, middle + 1.3 * way, thin, 10, c.lungs.cover)


def _effusion(c: Canvas, f: FindingSpec) -> None:
    assert f.size_mm is not None
    body, lungs, scene = c.body, c.lungs, c.scene
    size = float(f.size_mm)
    hu = float(c.rng.uniform(-2, 24))
    for side in c.sides(f):
        depth = size * (c.rng.uniform(0.6, 1.0) if f.side == "bilateral" and side < 0 else 1.0)
        x, y, z = scene.x, scene.y, scene.z
        climb = body.height * (0.34 + 0.5 * depth / 60)
        rise = np.clip(1 - (z + 10) / np.float32(climb), 0, 1.15)
        meniscus = 1 + 0.35 * (np.abs(x) / body.a) ** 3
        surface = (
            y
            - body.back(z)
            - 7
            - body.pleural_fat(x, y, z)
            - np.float32(depth) * np.sqrt(rise) * meniscus
        )
        here = (lungs.cover * (x * side > 0)).astype(np.float32)
        c.fill(EVERYWHERE, scene.cover(surface.astype(np.float32)) * here, hu)
        if c.rng.random() < 0.6:  # lung pressed together above the fluid
            strip = scene.cover(np.abs(surface - 5) - 5) * lungs.cover * (x * side > 0)
            strip = strip * (lungs.lobes % 3 != 1) * (rise > 0.15)
            scene.blend(EVERYWHERE, (strip * 0.85).astype(np.float32), c.soft_hu())


def _pericardial(c: Canvas, f: FindingSpec) -> None:
    assert f.size_mm is not None
    reach = max(c.body.heart_radii) + f.size_mm + 10
    centre = c.body.heart_centre
    box = c.scene.box([v - reach for v in centre], [v + reach for v in centre])
    if box is None:
        return
    x, y, z = c.scene.at(box)
    distance = c.body.heart(x, y, z)
    down = np.clip(0.62 - 0.38 * ((y - centre[1]) + (z - centre[2])) / 55, 0.3, 1)
    shell = c.scene.cover((distance - f.size_mm * down).astype(np.float32)) * (
        1 - c.scene.cover(distance)
    )
    room = np.maximum(c.lungs.cover[box], (c.scene.hu[box] < 15)) * (c.lungs.wall[box] < 0)
    c.fill(box, (shell * room).astype(np.float32), float(c.rng.uniform(2, 22)))


def _pneumothorax(c: Canvas, f: FindingSpec) -> None:
    assert f.size_mm is not None
    x, y, z = c.scene.x, c.scene.y, c.scene.z
    _, depth, middle = c.body.cage(z)
    high = np.clip(0.55 + 0.6 * z / np.float32(c.body.height), 0.4, 1.15)
    gap = middle + depth - y - np.float32(f.size_mm) * high  # < 0: free air in front
    here = (c.lungs.cover * (x * c.sides(f)[0] > 0)).astype(np.float32)
    free = c.scene.cover(gap.astype(np.float32)) * here
    line = c.scene.cover((np.abs(gap - 0.8) - 0.9).astype(np.float32)) * here
    c.scene.hu += np.clip(1 - gap / 90, 0, 1) * here * (gap > 0) * np.float32(45)
    c.scene.blend(EVERYWHERE, line * np.float32(0.8), -150)
    c.fill(EVERYWHERE, free, AIR_HU)


def _bronchiectasis(c: Canvas, f: FindingSpec) -> None:
    code = c.lobe_code(f)
    hilum = np.asarray(c.body.hilum[f.side or "right"])
    grade = GRADE[f.severity or "mild"]
    for _ in range((6, 10, 16)[grade]):
        goal = np.asarray(c.body.place(c.rng, code, 7))
        way = hilum - goal
        start = goal + way / np.sqrt((way**2).sum()) * c.rng.uniform(14, 34)
        r = float(c.rng.uniform(3.0, 4.5 + grade))
        found = c.scene.tube([start, goal], [r, r * 1.1], 4)
        if found is None:
            continue
        box, distance = found
        clip = c.lobe_cover(code, box)
        c.scene.blend(box, c.scene.cover(distance - 1.9) * clip, 0, c.label)
        c.scene.blend(box, c.scene.cover(distance + 0.2) * clip, -985)


def _plate(c: Canvas, f: FindingSpec) -> None:
    code = c.lobe_code(f)
    centre = c.body.place(c.rng, code, 9, (9, 22))
    radius, half = c.rng.uniform(22, 36), max(2.0, 0.5 * c.scene.edge_mm)
    tilt = c.rng.normal(0, 0.3, 2)
    normal = np.array([tilt[0], tilt[1], 1.0]) / math.sqrt(1 + tilt @ tilt)
    box = c.scene.box([v - radius for v in centre], [v + radius for v in centre])
    if box is None:
        return
    x, y, z = (v - np.float32(m) for v, m in zip(c.scene.at(box), centre, strict=True))
    flat = np.abs(x * np.float32(normal[0]) + y * np.float32(normal[1]) + z * np.float32(normal[2]))
    away = np.sqrt(x * x + y * y + z * z) - np.float32(radius)
    distance = np.maximum(flat - np.float32(half), away)
    c.fill(box, c.scene.cover(distance) * c.lobe_cover(code, box), c.soft_hu())


STATIONS: dict[str, tuple[float, float, float]] = {
    "right paratracheal": (15, -4, 184),
    "subcarinal": (2, -20, 124),
    "prevascular": (-16, 26, 164),
    "right hilar": (46, -6, 118),
    "left hilar": (-52, -8, 112),
}


def _adenopathy(c: Canvas, f: FindingSpec) -> None:
    assert f.size_mm is not None
    x, y, z = STATIONS[f.level or "subcarinal"]
    hu = c.soft_hu()
    for i in range(int(c.rng.integers(1, 4))):
        short = f.size_mm / 2 * (1 if i == 0 else c.rng.uniform(0.5, 0.85))
        off = c.rng.normal(0, 3, 3) if i == 0 else c.rng.normal(0, 0.8 * f.size_mm / 2, 3)
        centre = (x + off[0], y + off[1], z * c.body.unit + off[2] * 1.5)
        found = c.scene.ellipsoid(centre, (short, short * 1.05, short * 1.4))
        if found is not None:
            box, distance = found
            c.fill(box, c.scene.cover(distance) * (c.lungs.wall[box] < -2), hu)


def _heart(c: Canvas, f: FindingSpec) -> None:
    reach = max(c.body.heart_radii) + 10
    box = c.scene.box(
        [v - reach for v in c.body.heart_centre], [v + reach for v in c.body.heart_centre]
    )
    if box is not None:
        c.scene.labels[box][c.body.heart(*c.scene.at(box)) < 0] = c.label


def _aneurysm(c: Canvas, f: FindingSpec) -> None:
    path, radii = c.body.ascending if f.level == "ascending" else c.body.descending
    found = c.scene.tube(path, radii)
    if found is None:
        return
    box, distance = found
    c.scene.labels[box][distance < 0] = c.label
    if c.rng.random() < 0.35:  # mural thrombus
        rim = c.scene.cover(np.abs(distance + 3) - 3) * (c.scene.y[box] < np.float32(path[2][1]))
        c.scene.blend(box, rim, 42)


def _on_heart(c: Canvas, along: float, across: float, up: float) -> Point:
    """Return the point of the heart's border in a direction of its own axes."""
    r, centre = c.body.heart_radii, c.body.heart_centre
    n = math.sqrt(along**2 + across**2 + up**2)
    along, across, up = along / n * r[0], across / n * r[1], up / n * r[2]
    cos, sin = math.cos(0.6), math.sin(0.6)
    return (
        centre[0] - cos * along + sin * across,
        centre[1] + sin * along + cos * across,
        centre[2] + up - 0.28 * along,
    )


def _coronary(c: Canvas, f: FindingSpec) -> None:
    # Courses on the heart's surface: descending branch (front), circumflex (left), right artery.
    courses = (
        ((-0.25, 0.5, 0.9), (0.85, 0.45, 0.2)),
        ((-0.2, -0.2, 1), (0.4, -0.9, 0.2)),
        ((-0.5, 0.8, 0.5), (-0.6, 0.7, -0.6)),
    )
    r = max(1.5, 0.4 * c.scene.edge_mm)
    for i in range((3, 6, 11)[GRADE[f.severity or "mild"]]):
        a, b = (np.asarray(v) for v in courses[min(i % 4, 2) if i % 4 < 3 else 0])
        t = c.rng.uniform(0, 0.8)
        points = [_on_heart(c, *(a + (b - a) * s)) for s in (t, t + c.rng.uniform(0.08, 0.22))]
        c.scene.draw_tube(points, [r, r], c.rng.uniform(500, 1000), label=c.label)


def _atheroma(c: Canvas, f: FindingSpec) -> None:
    for _ in range((4, 9, 18)[GRADE[f.severity or "mild"]]):
        path, radii = c.body.arch if c.rng.random() < 0.35 else c.body.descending
        i = int(c.rng.integers(min(len(path) - 1, 4)))
        t = c.rng.random()
        middle = np.asarray(path[i]) * (1 - t) + np.asarray(path[i + 1]) * t
        r = radii[i] * (1 - t) + radii[i + 1] * t
        angle = c.rng.uniform(0, 2 * math.pi)
        spread = [angle, angle + c.rng.uniform(0.2, 0.7)]
        arc = [middle + r * np.array([math.cos(v), math.sin(v), 0]) for v in spread]
        thick = max(1.4, 0.38 * c.scene.edge_mm)
        c.scene.draw_tube(arc, [thick, thick], c.rng.uniform(450, 950), label=c.label)


def _hernia(c: Canvas, f: FindingSpec) -> None:
    assert f.size_mm is not None
    r = f.size_mm / 2
    x0, y0 = c.body.spine(30)
    centre = (x0 - 6 + c.rng.normal(0, 5), y0 + 22 + min(r, 26), 12 + 0.75 * r)
    found = c.scene.ellipsoid(centre, (r, min(r, 27), r * 0.95))
    if found is None:
        return
    box, distance = found
    cover = c.scene.cover(distance)
    c.fill(box, cover, 42)
    lumen = c.scene.cover(distance + 4)
    level = c.scene.y[box] - np.float32(centre[1] + c.rng.uniform(-0.4, 0.3) * min(r, 27))
    c.scene.blend(box, lumen, float(c.rng.choice([-60.0, 10.0, 30.0])))
    c.scene.blend(box, lumen * c.scene.cover(-level), AIR_HU)


def _fracture(c: Canvas, f: FindingSpec) -> None:
    angle = float(c.rng.uniform(1.0, 1.9))
    number = int(f.level or "6")
    p = np.asarray(c.body.on_rib(number, f.side or "right", angle))
    before = np.asarray(c.body.on_rib(number, f.side or "right", angle - 0.14))
    after = np.asarray(c.body.on_rib(number, f.side or "right", angle + 0.14))
    out = np.array([p[0], p[1], 0]) / math.hypot(p[0], p[1])
    hu = 330 + 1.3 * c.body.habitus.bone_hu
    c.scene.ball(tuple(p), (8, 8, 8), MUSCLE_HU, label=c.label)
    c.scene.draw_tube([before, p - out * 4], [4.5, 4.5], hu, label=c.label)
    c.scene.draw_tube([p + out * 4.5, after], [4.5, 4.5], hu, label=c.label)
    if c.rng.random() < 0.5:
        c.scene.ball(tuple(p), (9, 9, 8), 190, label=c.label)


def _compression(c: Canvas, f: FindingSpec) -> None:
    number = int((f.level or "T8")[1:])
    z = c.body.vertebra_height(number)
    x, y = c.body.spine(z)
    found = c.scene.ellipsoid((x, y, z), (19, 16, 0.45 * c.body.pitch))
    if found is not None:
        box, distance = found
        c.scene.labels[box][distance < 0] = c.label


def _plaques(c: Canvas, f: FindingSpec) -> None:
    half = max(2.6, 0.55 * c.scene.edge_mm)
    for side in c.sides(f):
        for _ in range(f.number):
            number = int(c.rng.integers(4, 9))
            p = c.body.on_rib(
                number, "right" if side > 0 else "left", float(c.rng.uniform(0.7, 2.3))
            )
            radius = c.rng.uniform(15, 28)
            box = c.scene.box([v - radius for v in p], [v + radius for v in p])
            if box is None:
                continue
            x, y, z = c.scene.at(box)
            away = np.sqrt(
                (x - np.float32(p[0])) ** 2
                + (y - np.float32(p[1])) ** 2
                + (z - np.float32(p[2])) ** 2
            )
            pleura = c.lungs.wall[box] + c.body.pleural_fat(x, y, z)
            flat = np.abs(pleura + np.float32(half + 0.5)) - np.float32(half)
            cover = c.scene.cover(np.maximum(flat, away - np.float32(radius)))
            c.fill(box, cover, c.rng.uniform(350, 700) if f.density == "calcified" else 60)


def _cyst(c: Canvas, f: FindingSpec) -> None:
    assert f.size_mm is not None
    r = f.size_mm / 2
    u = c.body.unit
    centre = (
        c.rng.uniform(30, 0.88 * c.body.a - r),
        c.rng.uniform(-35, 30),
        c.rng.uniform(-32, 2) * u,
    )
    found = c.scene.ellipsoid(centre, (r, r, r))
    if found is None:
        return
    box, distance = found
    inside = (c.lungs.wall[box] < -3) & (c.lungs.depth[box] < -2)
    c.scene.blend(box, c.scene.cover(distance) * inside, c.rng.uniform(-4, 8), c.label)


def _pacemaker(c: Canvas, f: FindingSpec) -> None:
    side, u, scene = c.sides(f)[0], c.body.unit, c.whole
    z = 0.86 * c.body.height
    front = float(
        c.body.cage(np.array([z], np.float32))[2][0]
        + 0.62 * c.body.b
        + c.body.habitus.muscle_mm
        + 8
    )
    box_centre = (side * 72.0, front, z)
    size, hu = c.rng.uniform(0.7, 0.95), c.rng.uniform(1900, 3000)
    thick = max(4.5, 1.1 * scene.edge_mm)
    scene.ball(box_centre, (23 * size, thick, 21 * size), hu, label=c.label)
    r = max(1.2, 0.36 * scene.edge_mm)
    start = (side * 60.0, front - 8, z + 10)
    path = [start, (side * 40.0, 30.0, 210 * u), (20.0, 8.0, 180 * u), (29.0, 7.0, 120 * u)]
    heart = c.body.heart_centre
    scene.draw_tube(
        [*path, (18.0, heart[1] + 4, 70 * u), (heart[0] - 8, heart[1] + 22, heart[2] - 16)],
        [r] * 6,
        c.rng.uniform(1100, 2200),
        label=c.label,
    )


def _catheter(c: Canvas, f: FindingSpec) -> None:
    side, u = c.sides(f)[0], c.body.unit
    r = max(1.3, 0.36 * c.scene.edge_mm)
    path = [
        (side * 46.0, 22.0, 268 * u),
        (side * 34.0, 14.0, 215 * u),
        (21.0, 8.0, 182 * u),
        (29.0, 7.0, 145 * u),
        (29.0, 6.0, 100 * u),
    ]
    c.whole.draw_tube(path, [r] * 5, c.rng.uniform(600, 1200), label=c.label)


Drawer = Callable[[Canvas, FindingSpec], None]

DIFFUSE: dict[str, Drawer] = {
    "emphysema": _emphysema,
    "ground glass pattern": _ground_glass,
    "pulmonary fibrosis": _fibrosis,
}
"""Changes of the parenchyma, drawn before the vessels."""

FOCAL: dict[str, Drawer] = {
    "bronchiectasis": _bronchiectasis,
    "laminar atelectasis": _plate,
    "consolidation": _consolidation,
    "pulmonary mass": _mass,
    "nodule": _nodule,
    "multiple nodules": _nodules,
    "pericardial effusion": _pericardial,
    "cardiomegaly": _heart,
    "coronary artery wall calcification": _coronary,
    "aortic aneurysm": _aneurysm,
    "aortic atheromatosis": _atheroma,
    "adenopathy": _adenopathy,
    "hiatal hernia": _hernia,
    "pleural effusion": _effusion,
    "pneumothorax": _pneumothorax,
    "pleural plaques": _plaques,
    "liver cyst": _cyst,
    "rib fracture": _fracture,
    "vertebral compression": _compression,
    "pacemaker": _pacemaker,
    "central venous catheter": _catheter,
}
"""Everything else, in the order it is drawn."""


def draw_findings(
    scene: Scene,
    body: Body,
    lungs: Lungs,
    case: CaseSpec,
    tissue: Tissue,
    drawers: dict[str, Drawer],
) -> None:
    """Draw the case's findings that `drawers` knows, in the order of `drawers`."""
    box = lung_box(scene, body)
    part, inner = scene.crop(box), lungs.crop(box)
    for name, draw in drawers.items():
        for place, finding in enumerate(case.findings, start=1):
            if finding.name == name:
                rng = np.random.default_rng([finding.seed, 0x1E5])
                draw(Canvas(part, scene, body, inner, tissue, rng, place), finding)


def draw_confusers(scene: Scene, body: Body, lungs: Lungs, case: CaseSpec) -> None:
    """Draw what no report mentions: granulomas, metal, spurs, dependent density."""
    rng = np.random.default_rng([case.seed, 0xC0F])
    share = case.confusers
    whole, box = scene, lung_box(scene, body)
    scene, lungs = whole.crop(box), lungs.crop(box)
    for _ in range(rng.poisson(2.5 * share)):  # healed granulomas, below the reported size
        point = body.place(rng, int(rng.integers(1, 6)), 4)
        r = rng.uniform(1.6, 2.8)
        scene.ball(point, (r, r, r), rng.uniform(200, 900), clip=lungs.cover)
    if rng.random() < 0.3 + 0.5 * share:  # lung pressed by its own weight
        far = np.float32(rng.uniform(8, 45))
        pleura = body.back(scene.z) + body.pleural_fat(scene.x, scene.y, scene.z)
        zone = np.clip(1 - (scene.y - pleura - 8) / far, 0, 1)
        zone = zone * np.clip(1.3 - scene.z / np.float32(rng.uniform(0.4, 1.2) * body.height), 0, 1)
        side = rng.choice([-1.0, 0.0, 0.0, 1.0])
        if side:
            zone = zone * (scene.x * np.float32(side) > 0)
        scene.hu += (zone * lungs.cover).astype(np.float32) * np.float32(rng.uniform(60, 620))
    # Uneven ventilation: patches a little denser or darker, as in expiration.
    uneven = smooth_field(rng, scene.shape, (5, 5, 6)) * np.float32(rng.uniform(0, 70) * share)
    scene.hu += uneven * lungs.cover
    for _ in range(rng.poisson(3 * share)):  # calcified hilar and mediastinal nodes
        point = (rng.normal(0, 32), rng.normal(-6, 12), rng.uniform(95, 180) * body.unit)
        scene.ball(point, rng.uniform(1.5, 4, 3), rng.uniform(250, 900))
    for _ in range(rng.poisson(5 * share)):  # spurs of the vertebral rims
        z = body.vertebra_height(int(rng.integers(4, 13))) + 0.45 * body.pitch
        x, y = body.spine(z)
        angle = rng.uniform(-0.3, math.pi + 0.3)
        point = (x + 20 * math.cos(angle), y + 17 * math.sin(angle), z)
        scene.ball(point, (4, 4, rng.uniform(2, 6)), rng.uniform(300, 700))
    h = body.habitus
    out_x = body.a + 0.8 * h.muscle_mm + h.fat_mm
    out_y = body.b + 0.8 * h.muscle_mm + h.fat_mm + 0.4 * h.breast_mm
    for _ in range(rng.poisson(4 * share)):  # electrodes, clasps and coins on the skin, their wires
        angle = rng.uniform(0.2, math.pi - 0.2)
        height = rng.uniform(0.1, 0.95) * body.height
        point = (out_x * math.cos(angle), out_y * math.sin(angle) - 6, height)
        flat = rng.uniform(3, 9)
        whole.ball(point, (flat, rng.uniform(2, 5), flat), rng.uniform(800, 3000))
        if rng.random() < 0.4:
            turn = angle + rng.uniform(-0.6, 0.6)
            end = (out_x * math.cos(turn), out_y * math.sin(turn) - 4, height + rng.normal(0, 60))
            r = max(1.2, 0.36 * whole.edge_mm)
            whole.draw_tube([point, end], [r, r], rng.uniform(900, 2500))
    _metal(whole, body, rng, share, (out_x, out_y))
    for _ in range(rng.poisson(5 * share)):  # calcified rib cartilage
        side = "left" if rng.random() < 0.5 else "right"
        point = body.on_rib(int(rng.integers(2, 8)), side, rng.uniform(2.4, 2.9))
        scene.ball(point, (4, 3, 4), rng.uniform(200, 500))


def _metal(
    scene: Scene, body: Body, rng: np.random.Generator, share: float, out: tuple[float, float]
) -> None:
    """Draw metal that is no pacemaker, of its volume and HU: on the skin, gullet, bone.

    Args:
        out: Half width and half depth of the trunk, in millimetres.
    """
    thick, r = max(4.5, 1.1 * scene.edge_mm), max(1.2, 0.36 * scene.edge_mm)

    def skin(angle: float, height: float) -> Point:
        return (out[0] * math.cos(angle), 0.97 * out[1] * math.sin(angle), height * body.height)

    much = rng.gamma(1.2, 1 / 1.2, 2)  # some chests lie under a heap of it
    for _ in range(
        rng.poisson(much[0] * (0.9 + 1.4 * share))
    ):  # monitors' boxes, necklaces, buckles
        size, hu = rng.uniform(10, 27, 2), rng.uniform(1500, 3071)
        place = skin(rng.uniform(0.25, math.pi - 0.25), rng.uniform(0.25, 1.0))
        scene.ball(place, (size[0], thick * rng.uniform(0.9, 1.2), size[1]), hu)
    for _ in range(rng.poisson(much[1] * (1.0 + 1.8 * share))):  # cables across the chest
        angle, height = rng.uniform(0.3, math.pi - 0.3), rng.uniform(0.0, 1.0)
        hu, turn, climb = rng.uniform(1000, 2300), rng.normal(0, 0.25), rng.normal(0, 0.14)
        for _ in range(int(rng.integers(2, 5))):
            ends = [skin(angle, height), skin(angle + turn, height + climb)]
            scene.draw_tube(ends, [r, r], hu)
            angle, height = angle + turn, height + climb
    if rng.random() < 0.1 + 0.3 * share:  # a probe in the gullet
        top, hu, u = float(rng.uniform(170, 270)), rng.uniform(800, 2200), body.unit
        y0 = body.spine(100)[1]
        way = [(-4, -30, top * u), (-5, -34, 150 * u), (-8, y0 + 30, 80 * u), (-16, y0 + 42, 20)]
        for first, last in pairwise(way):
            scene.draw_tube([first, last], [r, r], hu)
    if rng.random() < 0.08 + 0.16 * share:  # wires that hold a healed sternum
        for height in np.linspace(0.4, 0.78, int(rng.integers(4, 8))):
            z = float(height * body.height)
            _, depth, middle = (float(v[0]) for v in body.cage(np.array([z], np.float32)))
            scene.ball((rng.normal(0, 2), middle + depth + 7, z), (9, r + 1, r + 0.6), 2000)
    if rng.random() < 0.05 + 0.12 * share:  # rods along the spine
        low = rng.uniform(0.1, 0.5) * body.height
        for side in (-17, 17):
            rod = [(body.spine(z)[0] + side, body.spine(z)[1] - 28, z) for z in (low, low + 90)]
            scene.draw_tube(rod, [2.6, 2.6], 2700)


__all__ = ["DIFFUSE", "FAT_HU", "FOCAL", "WATER_HU", "Canvas", "draw_confusers", "draw_findings"]
