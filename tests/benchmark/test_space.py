"""The shape of a space: known spectra, known gaps, planted hubs, and what is undefined."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from benchmark.five import five_entrant, five_studies
from medfinder.benchmark.baselines import bm25
from medfinder.benchmark.benchmark import BenchmarkConfig, benchmark, run_benchmark
from medfinder.benchmark.results import read_results
from medfinder.benchmark.space import (
    MOST,
    describe,
    entropy_rank,
    hubness,
    modality_gap,
    occurrences,
    participation_ratio,
    spectrum,
)
from medfinder.errors import InputError

FAST = BenchmarkConfig(n_draws=100)


def unit(x: np.ndarray) -> np.ndarray:
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True))


def random_vectors(n: int, dim: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, dim))


def test_equal_eigenvalues_count_as_many_dimensions() -> None:
    axes = np.concatenate([np.eye(5), -np.eye(5)])  # covariance is a multiple of the identity
    values = spectrum(axes)
    assert participation_ratio(values) == pytest.approx(5)
    assert entropy_rank(values) == pytest.approx(5)


def test_a_line_has_one_dimension_wherever_it_lies() -> None:
    line = np.linspace(0, 1, 20)[:, None] * [[1.0, 2.0, -3.0]] + [[4.0, 0.0, 7.0]]
    values = spectrum(line)
    assert participation_ratio(values) == pytest.approx(1)
    assert entropy_rank(values) == pytest.approx(1)


def test_the_formulas_are_those_of_the_docstrings() -> None:
    values = np.array([4.0, 2.0, 1.0, 1.0])
    assert participation_ratio(values) == pytest.approx(64 / 22)
    # p = 1/2, 1/4, 1/8, 1/8: an entropy of 1.75 bits
    assert entropy_rank(values) == pytest.approx(2**1.75)


@pytest.mark.parametrize("shape", [(50, 8), (6, 40)])
def test_eigenvalues_are_those_of_the_covariance(shape: tuple[int, int]) -> None:
    x = random_vectors(*shape)
    expected = np.sort(np.linalg.eigvalsh(np.cov(x.T)))[::-1]
    rank = min(shape[1], shape[0] - 1)
    assert spectrum(x)[:rank] == pytest.approx(expected[:rank])


@pytest.mark.parametrize("x", [np.ones((1, 3)), np.ones((4, 3)), np.ones(3)])
def test_no_spread_has_no_spectrum(x: np.ndarray) -> None:
    with pytest.raises(InputError) as caught:
        spectrum(x)
    assert caught.value.rule == "no-spectrum"


def test_a_gap_is_the_mean_over_pairs_of_different_studies() -> None:
    v, t = unit(random_vectors(30, 6)), unit(random_vectors(30, 6, 1) + 2)
    gap = modality_gap(v, t)
    off = ~np.eye(30, dtype=bool)
    assert gap.distance == pytest.approx(np.linalg.norm(v.mean(0) - t.mean(0)))
    assert gap.between == pytest.approx((v @ t.T)[off].mean())
    assert gap.within_volume == pytest.approx((v @ v.T)[off].mean())
    assert gap.within_text == pytest.approx((t @ t.T)[off].mean())


def test_texts_and_volumes_that_are_not_pairs_have_no_gap() -> None:
    with pytest.raises(InputError) as caught:
        modality_gap(np.ones((3, 2)), np.ones((4, 2)))
    assert caught.value.rule == "shape"


@pytest.mark.parametrize("is_same", [False, True])
def test_occurrences_equal_a_plain_loop_with_ties(is_same: bool) -> None:
    items = np.round(random_vectors(60, 3), 0) + 0.25  # many equal rows
    queries = items if is_same else np.round(random_vectors(45, 3, 1), 0) + 0.25
    counts = np.zeros(60, int)
    for i, query in enumerate(queries):
        others = [j for j in range(60) if not (is_same and i == j)]
        order = sorted(others, key=lambda j: (-float(query @ items[j]), j))
        for j in order[:7]:
            counts[j] += 1
    assert occurrences(queries, items, 7, is_same=is_same).tolist() == counts.tolist()


def test_a_planted_hub_is_told() -> None:
    items = unit(random_vectors(200, 16))
    queries = unit(random_vectors(200, 16, 1) + 3)
    items[17] = unit(np.ones((1, 16)))[0]
    found = hubness(occurrences(queries, items), 200)
    assert found.most == 1
    assert found.skewness > 3 * found.chance_skewness
    assert found.never > found.chance_never


def test_chance_is_what_random_lists_give() -> None:
    random = np.random.default_rng(0)
    counts = np.zeros(100)
    for _ in range(100_000):
        counts[random.choice(100, 10, replace=False)] += 1
    many = hubness(counts, 100_000)
    assert abs(many.skewness) < 0.8  # of 100 draws of a nearly normal number
    # Exactly: 40 queries, 1 of 4 items each.
    few = hubness(np.array([10, 10, 10, 10]), 40, 1)
    assert few.chance_never == pytest.approx(0.75**40)
    assert few.chance_skewness == pytest.approx(0.5 / np.sqrt(40 * 0.25 * 0.75))
    assert few.skewness == 0
    assert few.never == 0


def test_no_more_items_than_k_are_no_hubness() -> None:
    with pytest.raises(InputError) as caught:
        occurrences(np.ones((3, 2)), np.ones((10, 2)), 10)
    assert caught.value.rule == "pool-size"


def test_more_rows_than_fit_are_drawn() -> None:
    x = unit(random_vectors(MOST + 5, 3))
    space = describe({"volume": x}, 5)
    assert space is not None
    assert space.spectra[0].n == MOST + 5
    assert [h.n for h in space.hubness] == [MOST]


def test_a_side_that_is_missing_or_flat_is_left_out() -> None:
    assert describe({}) is None
    assert describe({"volume": np.ones((1, 4))}) is None
    flat = describe({"volume": unit(random_vectors(20, 4)), "text": unit(np.ones((20, 4)))})
    assert flat is not None
    assert [s.side for s in flat.spectra] == ["volume", "both"]
    assert flat.gap is not None


def test_results_hold_the_space_and_are_read_again(tmp_path: Path) -> None:
    reference = five_studies()
    made = run_benchmark(five_entrant(), reference, tmp_path / "out", ["one-to-one"], FAST)
    space = made.results.space
    assert space is not None
    assert space.gap is not None
    assert [s.side for s in space.spectra] == ["volume", "text", "both"]
    assert space.hubness == ()  # five studies, of which every query finds all
    kept = read_results(tmp_path / "out").space
    assert kept is not None
    assert kept.gap is not None
    assert kept.gap.distance == pytest.approx(space.gap.distance)
    for one, other in zip(kept.spectra, space.spectra, strict=True):
        assert dataclasses.astuple(one)[:3] == dataclasses.astuple(other)[:3]
    page = (tmp_path / "out" / "report.md").read_text("utf-8")
    assert "## The space" in page
    assert "Participation ratio" in page


def test_words_without_vectors_have_no_space() -> None:
    reference = five_studies()
    results, _ = benchmark(bm25(reference), reference, ["same-findings-exact"], FAST)
    assert results.space is None
