"""The compiled loops of drawing against their formulas, in numpy."""

import numpy as np
import pytest

from medfinder.phantom import kernels
from medfinder.phantom.anatomy import Body
from medfinder.phantom.case import sample_case
from medfinder.phantom.scene import Scene

N = 3000  # more than a piece


@pytest.fixture
def points() -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    x, y, z = (rng.uniform(-a, a, N).astype(np.float32) for a in (140, 120, 260))
    return x, y, z


@pytest.fixture(params=[1, 2])
def body(request: pytest.FixtureRequest) -> Body:
    return Body(sample_case(request.param))


def test_the_wall_is_a_squarish_oval(body: Body, points: tuple[np.ndarray, ...]) -> None:
    x, y, z = points
    width, depth, middle = body.cage(z)
    u, v = (x / width) ** 2, ((y - middle) / depth) ** 2
    rho = np.sqrt(0.45 * (u + v) + 0.55 * np.sqrt(u * u + v * v))
    np.testing.assert_allclose(
        body.wall(x, y, z), (rho - 1) * np.sqrt(width * depth), rtol=1e-5, atol=1e-3
    )


def test_a_lungs_depth_is_the_least_of_its_borders(
    body: Body, points: tuple[np.ndarray, ...]
) -> None:
    x, y, z = points
    top = body.height - ((np.abs(x) - 48) ** 2 + (y - body.back(z) - 55) ** 2) / 75
    borders = [
        -body.wall(x, y, z) - 1 - body.pleural_fat(x, y, z),
        np.abs(x) - body.septum(y, z),
        z - body.dome(x, y),
        z + 32,
        body.heart(x, y, z, body.fat_pad_mm),
        (top - z) * 0.8,
    ]
    found = body.lung_depth(x, y, z)
    np.testing.assert_allclose(found, np.min(borders, 0), rtol=1e-5, atol=1e-3)


def test_fissures_part_the_lobes(body: Body, points: tuple[np.ndarray, ...]) -> None:
    x, y, z = points
    oblique, level = body.fissures(x, y, z)
    right = np.where(oblique < 0, 3, np.where(level < 0, 2, 1))
    expected = np.where(x > 0, right, np.where(oblique < 0, 5, 4))
    assert (body.lobes(x, y, z) == expected).all()


def test_a_tube_is_as_far_as_its_nearest_segment() -> None:
    scene = Scene((9, 11, 12), np.diag([0, 0, 0, 1]) + np.eye(4)[[2, 1, 0, 3]] * [2, 2, 2, 0])
    path = np.array([[4.0, 5, 6], [12, 9, 3], [12, 9, 3], [15, 14, 10]])  # one has no length
    radii = [2.0, 3, 3, 1]
    found = scene.tube(path, radii, 3)
    assert found is not None
    box, distance = found
    p = np.stack(scene.at(box), -1).astype(float)
    expected = np.full(distance.shape, np.inf)
    for a, b, ra, rb in zip(path[:-1], path[1:], radii[:-1], radii[1:], strict=True):
        t = np.clip((p - a) @ (b - a) / (((b - a) ** 2).sum() or 1), 0, 1)
        gap = np.linalg.norm(p - a - t[..., None] * (b - a), axis=-1) - (ra + t * (rb - ra))
        expected = np.minimum(expected, gap)
    np.testing.assert_allclose(distance, expected, atol=1e-4)


def test_a_part_of_a_scene_draws_on_the_whole() -> None:
    scene = Scene((6, 7, 8), np.eye(4))
    part = scene.crop((slice(1, 5), slice(2, 7), slice(3, 8)))
    inner = part.crop((slice(1, 4), slice(0, 3), slice(2, 5)))
    cover = np.full((2, 2, 2), 0.5, np.float32)
    inner.blend((slice(1, 3), slice(0, 2), slice(1, 3)), cover, 0.0, label=3)
    expected = np.full(scene.shape, -1000.0)
    expected[3:5, 2:4, 6:8] = -500
    assert (scene.hu == expected).all()
    assert ((scene.labels == 3) == (expected == -500)).all()


def test_smoothing_gives_each_neighbour_its_share() -> None:
    def smooth(values: np.ndarray, axis: int, share: float) -> np.ndarray:
        padded = np.pad(values, [(int(a == axis),) * 2 for a in range(3)], mode="edge")
        low, high = (np.take(padded, range(i, i + values.shape[axis]), axis) for i in (0, 2))
        return values + share * (low - values) + share * (high - values)

    values = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
    plane, slices = values.copy(), values.copy()
    kernels.smooth_plane(plane, np.float32(0.2))
    kernels.smooth_slices(slices, np.float32(0.1))
    np.testing.assert_allclose(plane, smooth(smooth(values, 1, 0.2), 2, 0.2), atol=1e-5)
    np.testing.assert_allclose(slices, smooth(values, 0, 0.1), atol=1e-5)
