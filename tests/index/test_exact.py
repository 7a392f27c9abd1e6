"""Exact search: equal to the slow truth, ties and masks included."""

import numpy as np
import pytest

from medfinder.index.exact import rescore, top_k
from reference import exact_search as reference


def unit(random: np.random.Generator, n: int, dim: int) -> np.ndarray:
    rows = random.standard_normal((n, dim)) + 1.0
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(
    ("n", "dim", "k", "centred"),
    [
        (1, 3, 1, False),
        (7, 5, 3, True),
        (200, 17, 10, True),
        (333, 64, 40, True),
        (50, 8, 99, False),
    ],
)
def test_the_best_rows_and_scores_equal_the_slow_truth(
    n: int, dim: int, k: int, centred: bool
) -> None:
    random = np.random.default_rng(n)
    rows = unit(random, n, dim)
    rows[n // 2 :: 3] = rows[: len(rows[n // 2 :: 3])]  # duplicates, which must tie
    centre = rows.mean(axis=0) if centred else np.zeros(dim, np.float32)
    queries = np.vstack([random.standard_normal((4, dim)).astype(np.float32), 5 * rows[:1]])
    mask = random.random(n) < 0.7
    mask[0] = True
    for allowed in (None, mask):
        scores, found = top_k(queries, rows, k, allowed, centre)
        for query, row_scores, row_found in zip(queries, scores, found, strict=True):
            truth = reference.nearest(
                [float(v) for v in query],
                {f"{i:05d}": [float(v) for v in row] for i, row in enumerate(rows)},
                k,
                [float(v) for v in centre],
                None if allowed is None else {f"{i:05d}" for i in np.flatnonzero(allowed)},
            )
            assert [f"{i:05d}" for i in row_found] == [name for name, _ in truth]
            np.testing.assert_allclose(row_scores, [s for _, s in truth], atol=1e-9)


def test_equal_vectors_get_equal_scores_wherever_they_lie() -> None:
    random = np.random.default_rng(3)
    rows = np.repeat(unit(random, 1, 31), 1001, axis=0)
    scores, found = top_k(random.standard_normal((1, 31)).astype(np.float32), rows, 20)
    assert len(set(scores[0])) == 1
    assert found[0].tolist() == list(range(20))


def test_many_queries_in_blocks_equal_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(5)
    rows, queries = unit(random, 90, 12), unit(random, 11, 12)
    whole = top_k(queries, rows, 4)
    monkeypatch.setattr("medfinder.index.exact._BLOCK", 200)
    parts = top_k(queries, rows, 4)
    np.testing.assert_array_equal(whole[0], parts[0])
    np.testing.assert_array_equal(whole[1], parts[1])


def test_a_mask_that_allows_nothing_gives_nothing() -> None:
    rows = unit(np.random.default_rng(0), 5, 4)
    scores, found = top_k(rows[:2], rows, 3, mask=np.zeros(5, np.bool_))
    assert scores.shape == found.shape == (2, 0)


def test_a_vector_at_the_centre_is_like_nothing() -> None:
    centre = np.array([0.6, 0.8, 0.0], np.float32)
    towards = np.array([0.0, 0.0, 1.0])
    assert rescore(centre[None], towards, centre).tolist() == [0.0]
    scores, _ = top_k(centre[None], np.eye(3, dtype=np.float32), 3, centre=centre)
    assert scores.tolist() == [[0.0, 0.0, 0.0]]
