"""A chest in body millimetres: where things are (`Body`), and how they are drawn (`draw_anatomy`).

Body coordinates: x to the patient's Right, y Anterior, z Superior; x = 0 the midline, y = 0 the
middle of the rib cage, z = 0 the level of the diaphragm's rim. Knows nothing of findings' looks,
except those that change an organ's size (cardiomegaly, aneurysm, vertebral compression).
"""

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from medfinder.phantom import kernels
from medfinder.phantom.case import LOBES, CaseSpec
from medfinder.phantom.scene import (
    EVERYWHERE,
    Array,
    Box,
    Point,
    Scene,
    flat,
    smooth_field,
)

HEART_SCALE = {"mild": 1.27, "moderate": 1.4, "severe": 1.55}
"""Of an enlarged heart's long axis, relative to the chest's width; normal ones reach 1.12."""
COLLAPSE = {"mild": 0.35, "moderate": 0.5, "severe": 0.68}
Course: TypeAlias = tuple[list[tuple[float, float, float]], list[float]]
"""A vessel's or airway's points in body millimetres, and its radius at each."""

AIR_HU, FAT_HU, MUSCLE_HU, WATER_HU = -1000.0, -100.0, 48.0, 5.0


TABLE_LOW_MM, TABLE_HIGH_MM, TABLE_STEP_MM = -260.0, 420.0, 0.25


@dataclass(frozen=True, slots=True)
class Tissue:
    """HU of what contrast agent changes; part of the acquisition, not of the patient.

    Attributes:
        artery_hu: Blood in the aorta and the left heart; 40 to 50 without contrast.
        vein_hu: Blood in the pulmonary arteries, the right heart and the superior vena cava.
        organ_gain_hu: Rise of liver, spleen, myocardium and other soft tissue.
    """

    artery_hu: float = 45.0
    vein_hu: float = 45.0
    organ_gain_hu: float = 0.0


class Body:
    """The shapes of one patient, as functions of body coordinates.

    Args:
        case: The build, and the findings that change an organ's size.
    """

    def __init__(self, case: CaseSpec) -> None:
        h = self.habitus = case.habitus
        self.a, self.b, self.height = h.half_width_mm, h.half_depth_mm, h.lung_height_mm
        self._tabulate()
        self.unit = self.height / 240.0  # of everything that scales with the chest's height
        heart, aneurysm = case.get("cardiomegaly"), case.get("aortic aneurysm")
        # A normal heart keeps its shape. An enlarged one grows along its axis, to the left and
        # forward, and stretches its fat, so that the room it takes from the lungs is less of a
        # sign than its own outline.
        s = round_scale = h.heart_scale
        self.fat_pad_mm = h.fat_pad_mm
        if heart and heart.severity:
            s = HEART_SCALE[heart.severity] * h.heart_scale**0.25
            round_scale = s**0.42
            self.fat_pad_mm = 3 + 0.4 * (h.fat_pad_mm - 3)
        u = self.unit
        self.heart_scale = (s * round_scale**2) ** (1 / 3)
        wide = self.a / 130
        self.heart_radii = (62 * s * wide, 46 * round_scale * wide, 48 * round_scale * u)
        self.heart_centre = (
            -20 + h.heart_shift_mm - 32 * (s - 1),
            16.0 + 10 * (s - 1),
            62 * u + 8 * (s - 1),
        )
        back = -self.b
        swell = {"ascending": 0.0, "descending": 0.0}
        if aneurysm and aneurysm.size_mm and aneurysm.level:
            swell[aneurysm.level] = aneurysm.size_mm / 2
        wide = h.aorta_scale * math.sqrt(u)
        up, down = 15.5 * wide, 12.0 * wide
        wide_up, wide_down = max(up, swell["ascending"]), max(down, swell["descending"])
        out = max(0.0, wide_up - up)
        left = max(0.0, wide_down - down)
        self.ascending: Course = (
            [
                (-2, 10, 88 * u),
                (12 + out / 2, 18, 112 * u),
                (15 + out, 16, 136 * u),
                (9, 6, 158 * u),
            ],
            [up, wide_up, wide_up, up * 0.95],
        )
        self.arch: Course = (
            [(9, 6, 158 * u), (0, -8, 168 * u), (-14, -28, 163 * u)],
            [up * 0.95, 13, down],
        )
        self.descending: Course = (
            [
                (-14, -28, 163 * u),
                (-24, back + 42, 145 * u),
                (-24 - left, back + 40 + left / 2, 100 * u),
                (-20 - left, back + 42 + left / 2, 55 * u),
                (-8, back + 50, -10),
                (-4, back + 52, -90),
            ],
            [down, down, wide_down, wide_down, down, down * 0.85],
        )
        self.trunk: Course = ([(-20, 42, 92 * u), (-26, 24, 116 * u)], [14, 14])
        self.right_artery: Course = (
            [(-20, 12, 118 * u), (10, -4, 117 * u), (36, -8, 112 * u)],
            [12, 10.5, 9],
        )
        self.left_artery: Course = (
            [(-26, 24, 116 * u), (-34, -2, 124 * u), (-46, -16, 120 * u)],
            [12, 11, 9],
        )
        self.cava: Course = ([(24, 4, 190 * u), (29, 8, 150 * u), (30, 6, 96 * u)], [8.5, 9, 10])
        self.hilum = {"right": (40, -10, 112 * u), "left": (-46, -14, 117 * u)}
        self.carina: tuple[float, float, float] = (0, -14, 146 * u)
        self.pitch = 23.5 * u
        self._outline = self._measure()
        self.first_rib_z = self.height + 2
        self.collapsed: dict[int, float] = {}
        crushed = case.get("vertebral compression")
        if crushed and crushed.level and crushed.severity:
            self.collapsed[int(crushed.level[1:])] = COLLAPSE[crushed.severity]

    def _tabulate(self) -> None:
        """Fill tables of the rib cage over z: powers are dear, and every voxel asks."""
        z = np.arange(TABLE_LOW_MM, TABLE_HIGH_MM, TABLE_STEP_MM)
        t = z / self.height
        back = -self.b + 34 * (t - 0.42) ** 2
        t = np.clip(t, -0.6, 1.18)
        up = np.maximum(t - 0.22, 0) / 0.8
        width = self.a * np.sqrt(np.maximum(1 - 0.7 * up**2.3, 0.05))
        width *= 1 - 0.06 * np.maximum(-t, 0) / 0.3
        depth = self.b * (1 - 0.44 * np.maximum(t - 0.25, 0) ** 1.5)
        self._back, self._width, self._depth, self._middle = (
            v.astype(np.float32) for v in (back, width, depth, back + depth)
        )

    def _measure(self) -> kernels.Outline:
        """Return the numbers that the kernels need."""
        h, r, f = self.habitus, self.heart_radii, np.float32
        right, left = h.pleural_fat_mm
        return kernels.Outline(
            table=np.stack([self._back, self._width, self._depth, self._middle], 1),
            table_low=f(TABLE_LOW_MM - TABLE_STEP_MM / 2),
            table_rate=f(1 / TABLE_STEP_MM),
            height=f(self.height),
            fat_right=f(right),
            fat_left=f(left),
            fat_y=f(1.1 / self.b),
            fat_z=f(1.1 / self.height),
            septum=f(25 + 0.12 * h.fat_mm),
            dome_x=f(0.55 * self.a),
            dome_width=f(0.62 * self.a),
            dome_depth=f(0.98 * self.b),
            dome_right=f(h.dome_mm),
            dome_left=f(0.8 * h.dome_mm - 4 + h.dome_tilt_mm),
            cos=f(math.cos(0.6)),
            sin=f(math.sin(0.6)),
            heart_x=f(self.heart_centre[0]),
            heart_y=f(self.heart_centre[1]),
            heart_z=f(self.heart_centre[2]),
            heart_along=f(r[0]),
            heart_across=f(r[1]),
            heart_up=f(r[2]),
            heart_mean=f((r[0] * r[1] * r[2]) ** (1 / 3)),
            heart_fat=f(self.fat_pad_mm),
            oblique_z=f(86 * self.unit),
            level_z=f(112 * self.unit),
        )

    def _row(self, z: Array) -> npt.NDArray[np.intp]:
        row = (z - np.float32(TABLE_LOW_MM - TABLE_STEP_MM / 2)) * np.float32(1 / TABLE_STEP_MM)
        out: npt.NDArray[np.intp] = np.clip(row, 0, len(self._back) - 1).astype(np.intp)
        return out

    def back(self, z: Array | float) -> Array:
        """Return y of the rib cage's rear wall at the height z."""
        return self._back[self._row(np.asarray(z, np.float32))]

    def cage(self, z: Array) -> tuple[Array, Array, Array]:
        """Return half width, half depth and the centre's y of the rib cage at heights z."""
        row = self._row(z)
        return self._width[row], self._depth[row], self._middle[row]

    def wall(self, x: Array, y: Array, z: Array) -> Array:
        """Return the signed distance to the rib cage's inside; negative inside."""
        out = np.empty(x.shape, np.float32)
        kernels.wall(*flat(x, y, z), self._outline, out.reshape(-1))
        return out

    def dome(self, x: Array, y: Array) -> Array:
        """Return the height of the diaphragm over (x, y)."""
        dx = (np.abs(x) - np.float32(0.55 * self.a)) / np.float32(0.62 * self.a)
        dy = (y - np.float32(12)) / np.float32(0.98 * self.b)
        high = np.where(
            x > 0,
            np.float32(self.habitus.dome_mm),
            np.float32(0.8 * self.habitus.dome_mm - 4 + self.habitus.dome_tilt_mm),
        )
        out: Array = high * (1 - np.float32(1.35) * (dx * dx + dy * dy))
        return out

    def heart(self, x: Array, y: Array, z: Array, grow_mm: float = 0.0) -> Array:
        """Return the signed distance to the heart's outline, grown by `grow_mm`."""
        c, r = self.heart_centre, self.heart_radii
        cos, sin = np.float32(math.cos(0.6)), np.float32(math.sin(0.6))
        px, py, pz = x - np.float32(c[0]), y - np.float32(c[1]), z - np.float32(c[2])
        along = -cos * px + sin * py  # towards the apex: the patient's left and front
        across = sin * px + cos * py
        pz = pz + np.float32(0.28) * along
        along, across, pz = (
            along / np.float32(r[0]),
            across / np.float32(r[1]),
            pz / np.float32(r[2]),
        )
        q = np.sqrt(along * along + across * across + pz * pz)
        mean = np.float32((r[0] * r[1] * r[2]) ** (1 / 3))
        out: Array = (q - 1) * mean - np.float32(grow_mm)
        return out

    def septum(self, y: Array, z: Array) -> Array:
        """Return the mediastinum's half width between the lungs."""
        _, depth, middle = self.cage(z)
        front = np.clip(((y - middle) / depth - np.float32(0.15)) / np.float32(0.75), 0, 1)
        half = 25 + 0.12 * self.habitus.fat_mm
        out: Array = np.float32(half) * (1 - np.float32(0.66) * front)
        return out

    def pleural_fat(self, x: Array, y: Array, z: Array) -> Array:
        """Return how thick the fat between ribs and lung is: most at the back and low down."""
        right, left = self.habitus.pleural_fat_mm
        if not (right or left):
            return np.zeros(np.broadcast_shapes(x.shape, y.shape, z.shape), np.float32)
        behind = np.clip(np.float32(0.25) - y * np.float32(1.1 / self.b), 0, 1)
        low = np.clip(np.float32(1.1) - z * np.float32(1.1 / self.height), 0, 1)
        out: Array = np.where(x > 0, np.float32(right), np.float32(left)) * behind * low
        return out

    def lung_depth(self, x: Array, y: Array, z: Array) -> Array:
        """Return how deep a point lies inside a lung, in millimetres; negative outside.

        The least of the depths under the wall and its fat, the septum, the dome, the heart with its
        fat, and a rounded apex.
        """
        out = np.empty(x.shape, np.float32)
        kernels.lung_depth(*flat(x, y, z), self._outline, out.reshape(-1))
        return out

    def fissures(self, x: Array, y: Array, z: Array) -> tuple[Array, Array]:
        """Return signed distances to the oblique fissure (negative: lower lobe) and, on the right,
        to the horizontal one (negative: middle lobe).
        """
        oblique, level, _ = self._parts(x, y, z)
        return oblique, level

    def lobes(self, x: Array, y: Array, z: Array) -> npt.NDArray[np.uint8]:
        """Return 1 + the index in `LOBES` of the lobe a lung point belongs to."""
        return self._parts(x, y, z)[2]

    def _parts(self, x: Array, y: Array, z: Array) -> tuple[Array, Array, npt.NDArray[np.uint8]]:
        oblique, level = np.empty(x.shape, np.float32), np.empty(x.shape, np.float32)
        lobe = np.empty(x.shape, np.uint8)
        kernels.fissures(
            *flat(x, y, z), self._outline, oblique.reshape(-1), level.reshape(-1), lobe.reshape(-1)
        )
        return oblique, level, lobe

    def rib_height(self, angle: Array) -> Array:
        """Return how far a rib has come down at an angle around the cage (0 rear, pi front)."""
        out: Array = np.float32(74 * self.unit) * (1 - np.cos(angle)) / np.float32(2)
        return out

    def on_rib(self, number: int, side: str, angle: float) -> tuple[float, float, float]:
        """Return the point on a rib's middle, counted from the top, at an angle around the cage."""
        z = self.first_rib_z - self.pitch * (number - 1)
        z -= float(self.rib_height(np.float32(angle).reshape(1))[0])
        width, depth, middle = (float(v[0]) for v in self.cage(np.array([z], np.float32)))
        # Along the ray outward, the first point in the wall's rib shell.
        r = np.linspace(0.5, 1.2, 141, dtype=np.float32)
        ray_x = r * np.float32(math.sin(angle) * width)
        ray_y = r * np.float32(-math.cos(angle) * depth) + np.float32(middle)
        step = int(np.argmax(self.wall(ray_x, ray_y, np.full_like(r, z)) > 5))
        x, y = float(ray_x[step]), float(ray_y[step])
        return (x if side == "right" else -x), y, z

    def vertebra_height(self, number: int) -> float:
        """Return z of the middle of thoracic vertebra `number`."""
        return self.first_rib_z - self.pitch * (number - 1) - 2

    def spine(self, z: float) -> tuple[float, float]:
        """Return (x, y) of the vertebral bodies' centre at the height z."""
        lean = self.habitus.lean_mm * math.sin(math.pi * z / self.height)
        return lean, float(self.back(np.float32(z).reshape(1))[0]) + 23

    def place(
        self,
        rng: np.random.Generator,
        code: int,
        clear_mm: float,
        rim: tuple[float, float] | None = None,
    ) -> tuple[float, float, float]:
        """Return a point of a lobe at least `clear_mm` deep, or the deepest one tried.

        Args:
            code: 1 + index in `LOBES`.
            rim: Depth range under the pleura to prefer; None for anywhere.
        """
        n = 600
        side = 1 if LOBES[code - 1][0] == "right" else -1
        x = (side * rng.uniform(22, self.a, n)).astype(np.float32)
        y = rng.uniform(-self.b, self.b, n).astype(np.float32)
        z = rng.uniform(-15, self.height, n).astype(np.float32)
        depth = self.lung_depth(x, y, z)
        oblique, level, lobe = self._parts(x, y, z)
        margin = np.abs(oblique)
        if code in (1, 2):
            margin = np.minimum(margin, np.abs(level) * 0.98)
        depth = np.where(lobe == code, depth, -99)
        score = np.minimum(depth - clear_mm, (margin - clear_mm * 0.8) * 2)
        good = (score >= 0) & (depth < 60)
        if rim is not None:
            wanted = good & (depth > rim[0]) & (depth < rim[1])
            good = wanted if wanted.any() else good
        pick = int(np.flatnonzero(good)[0]) if good.any() else int(np.argmax(score))
        return float(x[pick]), float(y[pick]), float(z[pick])


@dataclass(frozen=True, slots=True)
class Lungs:
    """Where aerated lung is on the grid.

    Attributes:
        cover: (D, H, W) share of each voxel that is lung; drawing takes from it what fills it.
        depth: (D, H, W) millimetres under the pleura; negative outside.
        lobes: (D, H, W) 1 + index in `LOBES`; meaningful where `cover` > 0.
        wall: (D, H, W) signed distance to the rib cage's inside.
    """

    cover: Array
    depth: Array
    lobes: npt.NDArray[np.uint8]
    wall: Array

    def crop(self, box: Box) -> "Lungs":
        """Return the views inside a box."""
        return Lungs(self.cover[box], self.depth[box], self.lobes[box], self.wall[box])


def lung_box(scene: Scene, body: Body) -> Box:
    """Return the box that holds both lungs and their chest wall; the same for all findings."""
    box = scene.box((-body.a, -body.b - 36, -50), (body.a, body.b + 10, body.height), 12)
    return EVERYWHERE if box is None else box


def draw_anatomy(scene: Scene, body: Body, case: CaseSpec, tissue: Tissue) -> Lungs:
    """Draw a healthy chest of this build, lungs without their vessels, and return the lungs."""
    h = case.habitus
    rng = np.random.default_rng([case.seed, 0xB0D1])
    _trunk(scene, body, rng)
    # The cage and the lungs lie in boxes of the grid; elsewhere these say "far outside".
    lungs = Lungs(
        cover=np.zeros(scene.shape, np.float32),
        depth=np.full(scene.shape, -99, np.float32),
        lobes=np.zeros(scene.shape, np.uint8),
        wall=np.full(scene.shape, 99, np.float32),
    )
    cage = scene.box((-body.a - 8, -body.b - 8, -500), (body.a + 8, body.b + 8, 600), 12)
    if cage is not None:
        x, y, z = scene.at(cage)
        wall = lungs.wall[cage] = body.wall(x, y, z)
        # Fat between the organs, muscle around the apices.
        aside = np.abs(x) > body.septum(y, z) + np.float32(6)
        aside &= z > np.float32(0.45 * body.height)
        fill = np.where(aside, np.float32(MUSCLE_HU), np.float32(FAT_HU + 20))
        scene.blend(cage, scene.cover(wall), fill)
        part = scene.crop(cage)
        _abdomen(part, body, scene.cover(wall), rng, tissue)
        _ribs(part, body, wall)
    _shoulders(scene, body)
    box = lung_box(scene, body)
    x, y, z = scene.at(box)
    lungs.depth[box] = body.lung_depth(x, y, z)
    lungs.cover[box] = scene.cover(-lungs.depth[box])
    lungs.lobes[box] = body.lobes(x, y, z)
    texture = smooth_field(rng, lungs.depth[box].shape, (24, 28, 28))
    # How a lung is aired differs by breath and by side more than disease changes its mean.
    waves = np.exp(np.float32(0.6) * smooth_field(rng, lungs.depth[box].shape, (4, 4, 5)))
    waves = (waves - np.float32(1.2)) * np.float32(h.lung_waves_hu * 1.4)
    waves += np.sign(x) * np.float32(h.lung_tilt_hu)
    dependent = np.float32(h.lung_gradient_hu) * np.clip(-y / np.float32(2 * body.b), -0.5, 0.5)
    air = np.clip(h.lung_hu + dependent + waves, -940, -420) + 14 * texture
    scene.blend(box, lungs.cover[box], air.astype(np.float32))
    _spine(scene, body, lungs)
    _mediastinum(scene, body, lungs, rng, tissue)
    return lungs


def _trunk(scene: Scene, body: Body, rng: np.random.Generator) -> None:
    h = body.habitus
    x, y = scene.x, scene.y
    column = scene.z[:, :1, :1]
    t = np.clip(column / np.float32(body.height), -0.5, 1.3)
    shoulder = np.clip((t - 0.62) / 0.4, 0, 1) ** 1.5
    muscle, fat = h.muscle_mm, h.fat_mm
    half_x = body.a + muscle * 0.75 + 30 * shoulder * (1 - np.clip((t - 1.02) * 3, 0, 0.75))
    half_y = body.b + muscle * 0.85 - 16 * shoulder
    middle = -8 - 4 * t
    belly = 0.35 * fat * np.clip(0.35 - t, 0, 0.5) * 2
    inner, skin = np.empty_like(x), np.empty_like(x)
    wide, deep, at, bulge = (v.reshape(-1) for v in (half_x, half_y, middle, belly))
    kernels.trunk(x, y, wide, deep, at, bulge, np.float32(fat), np.float32(body.b), inner, skin)
    if h.breast_mm:
        for side in (1, -1):
            yf = body.b + 0.2 * muscle  # lying down the breasts spread to the sides
            centre = (side * 0.6 * body.a, yf, 0.42 * body.height)
            radii = (0.56 * body.a, 0.55 * h.breast_mm + muscle + 0.8 * fat, 70.0)
            found = scene.ellipsoid(centre, radii, 4)
            if found is not None:
                box, distance = found
                skin[box] = np.minimum(skin[box], distance)
    hu, rate = scene.hu.reshape(-1), np.float32(1) / np.float32(scene.edge_mm)
    kernels.paint_skin(hu, skin.reshape(-1), rate, np.float32(FAT_HU))
    if h.breast_mm:
        density = float(rng.uniform(-60, 30))
        for side in (1, -1):
            for _ in range(5):
                centre = (
                    side * 0.6 * body.a + rng.normal(0, 15),
                    body.b + muscle + rng.uniform(0.15, 0.45) * h.breast_mm,
                    0.42 * body.height + rng.normal(0, 14),
                )
                r = rng.uniform(4, 0.2 * h.breast_mm + 5)
                scene.ball(centre, (r * 1.4, r, r * 1.4), density)
    # Muscle, with fat planes between its sheets.
    sheet = np.sin(inner / np.float32(3.2) + np.float32(0.03) * x)
    # The couch is level with the scanner rather than the patient.
    low = float(-body.b - muscle - fat - 12)
    xs, ys, inners, skins, sheets = (v.reshape(-1) for v in (x, y, inner, skin, sheet))
    kernels.paint_muscle(
        hu, xs, ys, inners, skins, sheets, rate, np.float32(MUSCLE_HU), np.float32(low - 14)
    )


def _abdomen(
    scene: Scene, body: Body, cavity: Array, rng: np.random.Generator, tissue: Tissue
) -> None:
    h, u = body.habitus, body.unit
    box = scene.box((-200, -200, -400), (200, 200, 75), 0)
    if box is None:
        return
    x, y, z = scene.at(box)
    below = scene.cover(z - body.dome(x, y) + 2) * cavity[box]
    # Liver: all of the right, and in front across the midline.
    edge = -52 + 0.75 * np.maximum(10 - y, 0) + 0.35 * np.maximum(-z - 20, 0)
    fissure = np.maximum(np.float32(edge) - x, -z - np.float32(130))
    liver = np.maximum(fissure, -y + body.back(z) + 16 + 0.2 * np.abs(x))
    texture = smooth_field(rng, x.shape, (9, 11, 11))
    liver_hu = h.liver_hu + 0.9 * tissue.organ_gain_hu + 5 * texture
    scene.blend(box, below * scene.cover(liver), liver_hu.astype(np.float32))
    under = np.zeros(scene.shape, np.float32)
    under[box] = below
    spleen = (-0.66 * body.a, body.back(0.0) + 48, -18 * u)
    scene.ball(
        (spleen[0], float(spleen[1]), spleen[2]),
        (30 * rng.uniform(0.8, 1.1), 44, 50),
        50 + 1.1 * tissue.organ_gain_hu,
        clip=under,
    )
    # Stomach: food below, gas above; the level is horizontal because the patient lies.
    centre = np.array([-0.42 * body.a, 22.0, -22.0 * u]) + rng.normal(0, 8, 3)
    radii = np.array([38, 42, 40]) * rng.uniform(0.7, 1.1)
    found = scene.ellipsoid(tuple(centre), tuple(radii))
    if found is not None:
        spot, distance = found
        clip = scene.cover(distance) * under[spot]
        scene.blend(spot, clip, 45)
        lumen = scene.cover(distance + 4) * under[spot]
        level = scene.y[spot] - np.float32(centre[1] + rng.uniform(-15, 32))
        scene.blend(spot, lumen, rng.uniform(-10, 50))
        scene.blend(spot, lumen * scene.cover(-level), AIR_HU)
    for _ in range(int(rng.integers(0, 5))):  # colon under the left dome and in front
        centre = np.array(
            [
                rng.uniform(-0.75, 0.3) * body.a,
                rng.uniform(0.15, 0.75) * body.b,
                rng.uniform(-90, -35),
            ]
        )
        r = rng.uniform(9, 22)
        scene.ball(tuple(centre), (r * 1.3 + 3, r + 3, r + 3), 35, clip=under)
        scene.ball(tuple(centre), (r * 1.3, r, r), rng.choice([AIR_HU, -400, 20]), clip=under)
    scene.draw_tube([(22, -28, 20), (24, -34, -150)], [12, 12], tissue.vein_hu * 0.7 + 12)


def _ribs(scene: Scene, body: Body, wall: Array) -> None:
    h = body.habitus
    cortex = 330 + 1.3 * h.bone_hu
    # All ribs at once: voxels of the shell around the cage, by angle and by height along a rib.
    shell = (wall > -2.5) & (wall < 12.5)
    d, hh, w = np.nonzero(shell)
    x, y, z, s = scene.x[d, hh, w], scene.y[d, hh, w], scene.z[d, hh, w], wall[d, hh, w]
    width, depth, middle = body.cage(z)
    angle = np.arctan2(np.abs(x) / width, -(y - middle) / depth)
    level = (body.first_rib_z - z - body.rib_height(angle)) / np.float32(body.pitch)
    number = np.clip(np.rint(level), 0, 11)
    dz = (level - number) * np.float32(body.pitch)
    ends = np.where(number < 7, 2.35, np.where(number < 10, 2.2, 1.75)).astype(np.float32)
    q = np.sqrt(((s - 5) / 4.0) ** 2 + (dz / 6.5) ** 2)
    rim = (q - 1) * np.float32(5)
    bony = scene.cover(rim)
    past = angle - ends
    hu = np.where(q > 0.55, np.float32(cortex), np.float32(h.bone_hu + 40))
    hu = np.where(past > 0, np.float32(95), hu)
    bony = bony * ((past < 0) | (number < 10))
    bony *= (angle > 0.12) & ((past < 0) | (angle < 3.0))
    view = scene.hu[d, hh, w]
    scene.hu[d, hh, w] = view + bony * (hu - view)


def _shoulders(scene: Scene, body: Body) -> None:
    """Draw sternum, clavicles and shoulder blades."""
    h, u = body.habitus, body.unit
    cortex = 330 + 1.3 * h.bone_hu
    # Sternum: a plate before the cage.
    box = scene.box((-25, 0, 70 * u), (25, 150, 0.9 * body.height))
    if box is not None:
        x, y, z = scene.at(box)
        _, depth, middle = body.cage(z)
        plate = np.maximum(np.abs(y - middle - depth - 6) - 5, np.abs(x) - 12 - 0.05 * z)
        plate = np.maximum(plate, np.maximum(85 * u - z, z - 0.82 * body.height))
        scene.blend(box, scene.cover(plate), cortex * 0.75)
        scene.blend(box, scene.cover(plate + 3), h.bone_hu * 0.8)
    _, _, top = body.cage(np.array([0.84 * body.height], np.float32))
    front = float(top[0]) + 0.72 * body.b * 0.9
    for side in (1, -1):
        path = [
            (side * 14, front, 0.86 * body.height),
            (side * 60, front + 4, 0.95 * body.height),
            (side * 125, front - 50, 1.05 * body.height),
        ]
        scene.draw_tube(path, [8, 6.5, 6.5], cortex)
        scene.draw_tube(path, [4, 3, 3], h.bone_hu)
        # Scapula: a thin oblique blade behind the upper ribs, and its spine.
        for drop in np.linspace(0, 1, 4):
            z0 = (0.92 - 0.46 * drop) * body.height
            width1, depth1, middle1 = (float(v[0]) for v in body.cage(np.array([z0], np.float32)))
            inner = (side * (0.62 * width1 + 8), middle1 - 0.83 * depth1 - 10, z0)
            outer = (side * (width1 + 18 - 12 * drop), middle1 - 0.35 * depth1, z0 + 8)
            scene.draw_tube([inner, outer], [3.2, 5.0 - 2 * drop], cortex * 0.8)


def _spine(scene: Scene, body: Body, lungs: Lungs) -> None:
    h = body.habitus
    box = scene.box((-45, -body.b - 60, -400), (45, -body.b + 75, 500), 0)
    if box is None:
        return
    x, y, z = scene.at(box)
    lean = np.float32(h.lean_mm) * np.sin(z * np.float32(math.pi / body.height))
    px, py = x - lean, y - body.back(z) - 23
    level = (body.first_rib_z - 2 - z) / np.float32(body.pitch) + 1  # 1.0 = middle of T1
    number = np.rint(level)
    dz = (level - number) * np.float32(body.pitch)
    half = np.full_like(dz, 0.39 * body.pitch)
    for vertebra, share in body.collapsed.items():
        wedge = np.clip((py + 16) / 32, 0, 1)
        half = np.where(number == vertebra, half * (1 - share * (0.35 + 0.65 * wedge)), half)
    ring = (np.sqrt((px / 19) ** 2 + (py / 16) ** 2) - 1) * np.float32(17.5)
    soft = scene.cover(ring - 3)
    scene.blend(box, soft, MUSCLE_HU - 8)
    lungs.cover[box] *= 1 - soft
    disc = scene.cover(ring)
    scene.blend(box, disc, 85)
    vertebra = np.maximum(ring, np.abs(dz) - half)
    crushed = np.isin(number, list(body.collapsed)).astype(np.float32)
    cortex = (np.float32(240 + h.bone_hu) + 120 * crushed).astype(np.float32)
    scene.blend(box, scene.cover(vertebra), cortex)
    scene.blend(box, scene.cover(vertebra + 2.2), (h.bone_hu + 110 * crushed).astype(np.float32))
    # Arch: a bony ring around the canal, two transverse processes and a spinous one.
    ry = py + 26
    canal = (np.sqrt((px / 10) ** 2 + (ry / 9) ** 2) - 1) * np.float32(9.5)
    arch = np.maximum(canal - 5.5, np.abs(dz - 3) - 0.36 * body.pitch)
    process = np.maximum(np.maximum(np.abs(px) - 3, np.abs(ry + 27) - 17), np.abs(dz + 5) - 7)
    across = np.maximum(
        np.maximum(np.abs(px) - 32, np.abs(ry + 4 + 0.35 * np.abs(px)) - 5), np.abs(dz) - 6
    )
    bone = np.minimum(np.minimum(arch, process), across)
    scene.blend(box, scene.cover(bone), cortex)
    lungs.cover[box] *= 1 - scene.cover(bone)
    scene.blend(box, scene.cover(canal), 28)


def _mediastinum(
    scene: Scene, body: Body, lungs: Lungs, rng: np.random.Generator, tissue: Tissue
) -> None:
    """Draw heart, great vessels, trachea and oesophagus."""
    u = body.unit
    c, r = body.heart_centre, body.heart_radii
    reach = max(r) + body.fat_pad_mm + 6
    box = scene.box([v - reach for v in c], [v + reach for v in c])
    artery, vein = tissue.artery_hu, tissue.vein_hu
    muscle = 45 + tissue.organ_gain_hu
    if box is not None:
        distance = body.heart(*scene.at(box))
        scene.blend(
            box,
            scene.cover(distance - body.fat_pad_mm) * scene.cover(lungs.wall[box] + 1),
            FAT_HU + 12,
        )
        sac = scene.cover(distance)
        scene.blend(box, sac, muscle)
        clip = np.zeros(scene.shape, np.float32)
        clip[box] = scene.cover(distance + 3)
        s = body.heart_scale
        cos, sin = math.cos(0.6), math.sin(0.6)

        def chamber(along: float, across: float, up: float, size: Point, hu: float) -> None:
            along, across, up = along * r[0], across * r[1], up * r[2]
            centre = (
                c[0] - cos * along + sin * across,
                c[1] + sin * along + cos * across,
                c[2] + up - 0.28 * along,
            )
            scene.ball(centre, [v * s for v in size], hu, clip=clip)

        chamber(0.30, -0.38, -0.05, (26, 22, 27), artery)  # left ventricle: left and behind
        chamber(0.24, 0.52, -0.10, (30, 18, 29), vein)  # right ventricle: in front
        chamber(-0.50, -0.55, 0.35, (26, 19, 20), artery)  # left atrium: behind
        chamber(-0.70, 0.35, 0.05, (22, 24, 28), vein)  # right atrium: right border
    for (path, radii), hu in (
        (body.cava, vein * 1.05),
        (body.trunk, vein),
        (body.right_artery, vein),
        (body.left_artery, vein),
        (body.ascending, artery),
        (body.arch, artery),
        (body.descending, artery),
    ):
        found = scene.tube(path, radii, 3)
        if found is None:
            continue
        box, distance = found
        space = scene.cover(distance - 2)
        lungs.cover[box] *= 1 - space
        scene.blend(box, space * (lungs.depth[box] > -2), FAT_HU + 30)
        scene.blend(box, scene.cover(distance), hu)
    # Branches of the arch and the veins beside them.
    for x, y, hu in (
        (8, 6, artery),
        (-8, -4, artery),
        (-17, -12, artery),
        (20, 10, vein),
        (-16, 8, vein),
    ):
        scene.draw_tube([(x, y, 166 * u), (x * 1.9, y * 0.8 - 2, 270 * u)], [6, 5], hu)
    scene.draw_tube([(-16, 8, 185 * u), (24, 8, 178 * u)], [6.5, 6.5], vein)
    y0 = body.spine(100)[1]
    gullet = [
        (-3, -26, 260 * u),
        (-5, -34, 150 * u),
        (-8, y0 + 30, 80 * u),
        (-16, y0 + 42, 20),
        (-22, 0, -5),
    ]
    scene.draw_tube(gullet, [6.5] * 5, 38)
    if rng.random() < 0.5:
        scene.draw_tube(gullet[:3], [2.2] * 3, -700)
    for _ in range(int(rng.integers(2, 9))):  # normal-sized nodes
        centre = (rng.uniform(-22, 24), rng.uniform(-20, 30), rng.uniform(125, 180) * u)
        scene.ball(centre, rng.uniform(2, 4, 3), 40)
    carina = body.carina
    airway: list[Course] = [
        ([(1, -4, 290 * u), (1, -8, 220 * u), carina], [9, 8.6, 8.4]),
        ([carina, (20, -17, 130 * u), (34, -18, 118 * u)], [7.5, 6.8, 6]),
        ([carina, (-22, -20, 128 * u), (-44, -22, 117 * u)], [7, 6.2, 5.6]),
        ([(34, -18, 118 * u), (44, -24, 86 * u), (56, -36, 58 * u)], [5, 4, 2.5]),
        ([(30, -16, 122 * u), (50, -14, 150 * u), (58, -22, 172 * u)], [5, 3.6, 2.2]),
        ([(40, -20, 100 * u), (56, 16, 84 * u), (64, 40, 74 * u)], [3.6, 3, 2]),
        ([(-44, -22, 117 * u), (-52, -30, 84 * u), (-62, -42, 56 * u)], [5, 4, 2.5]),
        ([(-44, -20, 118 * u), (-56, -6, 140 * u), (-62, -18, 168 * u)], [4.6, 3.4, 2.2]),
        ([(-50, -14, 122 * u), (-62, 22, 100 * u), (-68, 44, 88 * u)], [3.6, 3, 2]),
    ]
    for path, radii in airway:
        found = scene.tube(path, radii, 3)
        if found is not None:
            box, distance = found
            scene.blend(box, scene.cover(distance - 1.3), 20)
            lungs.cover[box] *= 1 - scene.cover(distance)
    for path, radii in airway:
        scene.draw_tube(path, radii, -990)


def draw_vessels(scene: Scene, body: Body, lungs: Lungs, seed: int, tissue: Tissue) -> None:
    """Draw a tree of pulmonary vessels into each lung, and the fissures."""
    oblique, level = body.fissures(scene.x, scene.y, scene.z)
    right_front = (scene.x > 0) & (oblique > 0)
    gap = np.where(right_front, np.minimum(np.abs(oblique), np.abs(level)), np.abs(oblique))
    share = np.float32(min(0.55, 1.1 / scene.edge_mm))
    line = np.clip(1 - gap / np.float32(scene.edge_mm), 0, 1) * share * lungs.cover
    scene.blend(EVERYWHERE, line.astype(np.float32), -560)
    blood = tissue.vein_hu * 0.9
    for side, sign in (("right", 1), ("left", -1)):
        rng = np.random.default_rng([seed, 0x7E55E1, sign + 1])
        n = 3000
        x = (sign * rng.uniform(15, body.a, n)).astype(np.float32)
        y = rng.uniform(-body.b, body.b, n).astype(np.float32)
        z = rng.uniform(-30, body.height, n).astype(np.float32)
        inside = np.flatnonzero(body.lung_depth(x, y, z) > 3)[:230]
        goals = np.stack([x[inside], y[inside], z[inside]], 1).astype(np.float64)
        starts, ends, radii = grow_tree(np.asarray(body.hilum[side], float), goals, 8.0)
        wide = radii.max(1) > 0.2 * scene.edge_mm
        scene.twigs(starts[wide], ends[wide], radii[wide], blood, lungs.cover)


def grow_tree(
    root: npt.NDArray[np.float64], goals: npt.NDArray[np.float64], root_radius_mm: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Join goals to a root by a tree whose branches thin out as vessels do.

    Goals are taken from the nearest to the root outwards; each joins the node that keeps both the
    new branch and the way from the root short. Radii follow Murray's law with exponent 2.7.

    Returns:
        Segments in millimetres: starts (n, 3), ends (n, 3), radii (n, 2) at both.
    """
    order = np.argsort(((goals - root) ** 2).sum(1), kind="stable")
    nodes, load = np.empty((len(goals) + 1, 3)), np.empty(len(goals) + 1)
    parent = np.zeros(len(nodes), np.int64)
    kernels.tree(root, goals[order], nodes, parent, load)
    radius = np.maximum(root_radius_mm * (load / load[0]) ** (1 / 2.7), 0.6)
    up = parent[1:]
    radii = np.stack([np.minimum(radius[up], 1.35 * radius[1:]), radius[1:]], 1)
    return nodes[up], nodes[1:], radii


__all__ = [
    "AIR_HU",
    "FAT_HU",
    "MUSCLE_HU",
    "WATER_HU",
    "Body",
    "Lungs",
    "Tissue",
    "draw_anatomy",
    "draw_vessels",
    "grow_tree",
]
