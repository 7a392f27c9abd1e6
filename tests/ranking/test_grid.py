"""The grid: products without rounding, and what float32 makes of them, within its bound."""

import numpy as np
import pytest

from medfinder.ranking.grid import around, grid_and_scale, narrow_gallery, narrow_queries, on_grid


def unit(random: np.random.Generator, n: int, dim: int) -> np.ndarray:
    rows = random.standard_normal((n, dim)) + 0.5
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("axis", [None, 1])
@pytest.mark.parametrize("length", [1 - 1e-7, 1.0, 1 + 1e-7, 1.009, 1.011, 3e-12, 40.0])
def test_products_on_the_grid_are_exact(axis: int | None, length: float) -> None:
    vectors = length * unit(np.random.default_rng(0), 12, 70).astype(np.float64)
    grid = on_grid(vectors, axis)
    whole = [[int(v) for v in row] for row in grid]
    assert (grid == whole).all()
    truth = [[sum(x * y for x, y in zip(a, b, strict=True)) for b in whole] for a in whole]
    assert 2**50 <= max(map(max, truth)) < 2**53  # as fine as float64 can hold
    assert (grid @ grid.T).tolist() == truth


@pytest.mark.parametrize("axis", [None, 1])
def test_the_scale_leads_back_to_the_vectors(axis: int | None) -> None:
    vectors = unit(np.random.default_rng(1), 9, 30) * np.array([[1e-3], [7], [1]] * 3)
    grid, scale = grid_and_scale(vectors, axis)
    np.testing.assert_allclose(np.ldexp(grid, scale), vectors, rtol=0, atol=7 * 2**-25)


@pytest.mark.parametrize("offset", [0.0, 0.5, 20.0])
@pytest.mark.parametrize("dim", [1, 2, 33, 700])
def test_a_float32_product_errs_by_less_than_its_slack(dim: int, offset: float) -> None:
    random = np.random.default_rng(2)
    vectors = random.standard_normal((2, 200, dim)) + offset
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    queries, gallery = on_grid(vectors[0], 1), on_grid(vectors[1], None)
    narrow = narrow_gallery(gallery)
    got = (narrow_queries(queries) @ narrow.vectors.T).astype(np.float64)
    exact = queries @ gallery.T - (queries @ narrow.centre)[:, None]
    assert np.abs(got - np.ldexp(exact, -52)).max() <= narrow.slack
    low, high = around(exact, narrow.slack)
    assert (low <= got).all()
    assert (got <= high).all()


def test_what_vectors_share_costs_no_slack() -> None:
    vectors = unit(np.random.default_rng(3), 100, 64)
    near = vectors * 0.1 + vectors[0]
    assert (
        narrow_gallery(on_grid(near, None)).slack < narrow_gallery(on_grid(vectors, None)).slack / 4
    )
