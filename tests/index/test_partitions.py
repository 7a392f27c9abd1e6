"""Partitions: what approximate search may lose, and what it must not."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from medfinder.index import partitions
from medfinder.index.exact import direction, top_k
from medfinder.index.store import Index
from reference import exact_search as reference

N = 5000


def places_of(n: int) -> np.ndarray:
    """Row i lies at place i."""
    return np.arange(n, dtype=np.int32)


def queries(n: int) -> np.ndarray:
    return (np.random.default_rng(11).standard_normal((n, 16)) + 1).astype(np.float32)


@pytest.fixture(scope="module")
def rows(gallery) -> dict[str, list[float]]:
    return gallery.unit(range(N))


@pytest.mark.parametrize("where", [None, "sex = 'F'", "age = 33", "study_id = 's0042'"])
def test_recall_at_10_is_what_was_asked_for_with_any_filter(
    partitioned: Index, rows: dict[str, list[float]], where: str | None
) -> None:
    kept = set(partitioned.ids(where))
    names, matrix = np.array(list(rows)), np.array(list(rows.values()), np.float32)
    allowed = np.array([name in kept for name in rows])
    _, best = top_k(queries(20), matrix, 10, allowed, partitioned.centre("volume"))
    hits = total = 0
    for query, truth in zip(queries(20), best, strict=True):
        found = [name for name, _ in partitioned.search_vector("volume", query, 10, where)]
        hits, total = hits + len(set(found) & set(names[truth])), total + len(truth)
    assert hits / total >= 0.98


def test_scores_are_exact_where_the_neighbour_is_found(
    partitioned: Index, rows: dict[str, list[float]]
) -> None:
    centre = [float(v) for v in partitioned.centre("volume")]
    for query in queries(3):
        for name, score in partitioned.search_vector("volume", query, 10):
            truth = reference.centred_cosine([float(v) for v in query], rows[name], centre)
            assert score == pytest.approx(truth, abs=1e-7)


def test_only_a_part_of_the_rows_is_scored(partitioned: Index) -> None:
    parts = partitions.load(next((partitioned.folder / "derived").glob("volume-*")))
    assert parts is not None
    assert parts.recall >= partitioned.config.recall
    towards = direction(queries(1)[0], partitioned.centre("volume"))
    places, _ = parts.products(towards, places_of(N), places_of(N), None)
    assert parts.budget <= len(places) < N
    assert len(set(places)) == len(places)


def test_approximate_products_are_close(partitioned: Index) -> None:
    parts = partitions.load(next((partitioned.folder / "derived").glob("volume-*")))
    assert parts is not None
    towards = direction(queries(1)[0], partitioned.centre("volume"))
    places, sums = parts.products(towards, places_of(N), places_of(N), None)
    np.testing.assert_allclose(sums, parts.vectors[places] @ towards, atol=0.01)


def test_asking_for_many_scores_enough_rows(partitioned: Index) -> None:
    found = partitioned.search_vector("volume", queries(1)[0], 4000)
    assert len({name for name, _ in found}) == 4000


def test_rows_added_changed_and_deleted_after_building_are_respected(
    gallery, partitioned: Index, tmp_path: Path
) -> None:
    shutil.copytree(partitioned.folder, tmp_path / "idx")
    index = Index.open(tmp_path / "idx")
    vectors = gallery.vectors([10, 20, N + 1], "volume")
    moved = dataclasses.replace(gallery.vectors([20], "volume"), vectors=-vectors.vectors[:1])
    index.add([gallery.study(N + 1)], {"volume": gallery.vectors([N + 1], "volume")})
    index.add([gallery.study(20)], {"volume": moved})
    index.delete(["s0010"])
    built = [p.name for p in (index.folder / "derived").glob("volume-*")]
    for stage in ("before finish", "after finish"):
        assert index.search_vector("volume", vectors.vectors[2], 1)[0][0] == f"s{N + 1}", stage
        assert index.search_vector("volume", -vectors.vectors[0], 1)[0][0] == "s0020", stage
        found = dict(index.search_vector("volume", vectors.vectors[1], 10))
        assert found.get("s0020", 0) < 0.9, stage
        assert "s0010" not in dict(index.search_vector("volume", vectors.vectors[0], 100)), stage
        index.finish()
    # One row in 5,000: the partitions stay, the centre moves.
    assert [p.name for p in (index.folder / "derived").glob("volume-*")] == built
    rows = np.array(index.vectors("volume", index.ids()), np.float64)
    np.testing.assert_allclose(index.centre("volume"), rows.mean(axis=0), atol=1e-6)


def test_many_changes_build_the_partitions_anew(gallery, partitioned: Index, tmp_path) -> None:
    shutil.copytree(partitioned.folder, tmp_path / "idx")
    index = Index.open(tmp_path / "idx")
    built = [p.name for p in (index.folder / "derived").glob("volume-*")]
    index.delete([f"s{i:04d}" for i in range(2000)])
    reader = Index.open(index.folder)
    before = reader.search_vector("volume", queries(1)[0], 5)
    index.finish()
    assert [p.name for p in (index.folder / "derived").glob("volume-*")] != built
    assert len(list((index.folder / "derived").glob("volume-*"))) == 1
    after = reader.search_vector("volume", queries(1)[0], 5)
    assert [name for name, _ in after] == [name for name, _ in before]


def test_unfinished_partitions_are_not_taken(partitioned: Index, tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    shutil.copytree(next((partitioned.folder / "derived").glob("volume-*")), folder)
    assert partitions.load(folder) is not None
    (folder / "partitions.json").unlink()
    assert partitions.load(folder) is None
    assert partitions.load(tmp_path / "none") is None


@pytest.mark.parametrize("n", [1, 3, 40])
def test_a_handful_of_rows_can_be_partitioned(tmp_path: Path, n: int) -> None:
    random = np.random.default_rng(n)
    rows = random.standard_normal((n, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows[n // 2 :] = rows[0]  # duplicates leave lists empty
    zero = np.zeros(8, np.float32)
    partitions.build(tmp_path / "p", rows, np.arange(n), zero, 4, 1.0, 0)
    parts = partitions.load(tmp_path / "p")
    assert parts is not None
    np.testing.assert_array_equal(np.sort(parts.keys), np.arange(n))
    np.testing.assert_array_equal(parts.vectors, rows[parts.keys])
    places, _ = parts.products(
        direction(rows[0], zero), places_of(n), places_of(n), None, at_least=n
    )
    assert sorted(places) == list(range(n))


@pytest.mark.parametrize("name", ["vectors.npy", "codes.npy", "offsets.npy"])
def test_partitions_whose_array_has_no_sound_head_are_not_taken(
    partitioned: Index, tmp_path: Path, name: str
) -> None:
    (folder,) = (partitioned.place.path / "derived").glob("volume-*")
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert partitions.load(copy) is not None
    whole = (copy / name).read_bytes()
    for content in (whole[:40], whole[:20] + b"(" * 30 + whole[50:], b""):
        (copy / name).write_bytes(content)
        assert partitions.load(copy) is None
