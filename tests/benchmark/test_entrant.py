"""Vectors come in by id; what is wrong with them is named and counted, and nothing is dropped."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.five import FIVE, five_entrant, five_studies, study
from medfinder.benchmark.benchmark import benchmark
from medfinder.benchmark.entrant import centred, from_arrays, make_entrant, read_npz, seat
from medfinder.benchmark.reference import Reference
from medfinder.errors import InputError, Mismatch

IDS = list(FIVE)
N = len(IDS)


def vectors(seed: int = 0, dim: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((N, dim)).astype(np.float32)


def with_row(row: int, value: float) -> np.ndarray:
    made = vectors()
    made[row] = value
    return made


@pytest.mark.parametrize(
    ("arrays", "rule", "text"),
    [
        ({}, "no-vectors", "has no vectors"),
        ({"volume": vectors()}, "no-ids", "'study_id' is missing"),
        ({"study_id": IDS, "volume": with_row(3, np.nan)}, "not-finite",
         f"1 of 5 volume vectors hold NaN or infinity, first '{IDS[3]}'"),
        ({"study_id": IDS, "text": with_row(1, np.inf)}, "not-finite", f"first '{IDS[1]}'"),
        ({"study_id": IDS, "volume": with_row(2, 0)}, "zero-vector",
         f"1 of 5 volume vectors are all zeros, first '{IDS[2]}'"),
        ({"study_id": IDS, "volume": vectors(), "text": vectors(dim=4)}, "dim-mismatch",
         "volume 3, text 4"),
        ({"study_id": IDS[:4], "volume": vectors()}, "id-count", "5 rows, their ids 4"),
        ({"study_id": [IDS[0], *IDS[:4]], "volume": vectors()}, "duplicate-id",
         f"1 ids of the volume vectors occur more than once, first '{IDS[0]}'"),
        ({"study_id": [*IDS[:4], " "], "volume": vectors()}, "empty-id", "first in row 4"),
        ({"study_id": IDS, "volume": vectors()[0]}, "shape", "2-D array"),
        ({"study_id": IDS, "volume": vectors()[:0]}, "shape", "at least one row"),
        ({"study_id": IDS, "volume": np.full((N, 2), "a")}, "shape", "real numbers"),
        ({"study_id": IDS, "volume": vectors().astype(complex)}, "shape", "real numbers"),
        ({"study_id": IDS, "volumes": vectors()}, "unknown-array", "Unknown array 'volumes'"),
        ({"study_id": IDS, "volume": vectors(), "gallery": vectors(), "gallery_id": IDS},
         "unknown-array", "gives the volume vectors twice"),
    ],
)  # fmt: skip
def test_bad_vectors_are_named_and_counted(arrays: dict[str, Any], rule: str, text: str) -> None:
    with pytest.raises(InputError) as caught:
        from_arrays("mine", arrays)
    assert caught.value.rule == rule
    assert text in str(caught.value)


def test_a_vector_of_no_study_is_an_error() -> None:
    entrant = from_arrays("mine", {"study_id": [*IDS[:4], "other"], "volume": vectors()})
    with pytest.raises(InputError, match="1 of 5 ids of the volume vectors are of no study") as e:
        seat(entrant, five_studies())
    assert e.value.rule == "unknown-study"


def test_vectors_of_other_studies_altogether_are_refused() -> None:
    entrant = from_arrays("mine", {"study_id": list("abcde"), "volume": vectors()})
    with pytest.raises(Mismatch, match="None of the 5 ids of the volume vectors is a study"):
        seat(entrant, five_studies())


def test_a_study_without_a_vector_is_an_error() -> None:
    entrant = from_arrays("mine", {"study_id": IDS[1:], "volume": vectors()[1:]})
    with pytest.raises(
        InputError, match=f"1 of 5 studies have no volume vector, first '{IDS[0]}'"
    ) as e:
        seat(entrant, five_studies())
    assert e.value.rule == "missing-study"


def test_a_vector_of_a_text_that_is_not_there_is_an_error() -> None:
    silent = study("valid_9_a_1", "p9", "")
    reference = Reference((*five_studies().studies, silent))
    texts = np.vstack([vectors(), [[1.0, 2.0, 3.0]]])
    entrant = from_arrays("mine", {"study_id": [*IDS, silent.study_id], "text": texts})
    with pytest.raises(InputError, match="1 of 6 text vectors are of studies without a text") as e:
        seat(entrant, reference)
    assert e.value.rule == "empty-text"
    bare = Reference(tuple(study(name, "p", "") for name in IDS))  # a table that gives no texts
    seat(from_arrays("mine", {"study_id": IDS, "text": vectors()}), bare)


def test_a_study_without_a_text_needs_no_text_vector_and_is_counted() -> None:
    studies = list(five_studies().studies)
    silent = study("valid_9_a_1", "p9", "")
    reference = Reference((*studies, silent))
    own = five_entrant()
    sides = {side: (own.sides[side].ids, own.sides[side].vectors) for side in ("volume", "text")}
    sides["volume"] = ([*IDS, silent.study_id], np.vstack([sides["volume"][1], [[-1.0, 0.1]]]))
    results, _ = benchmark(make_entrant("circle", sides), reference, ["one-to-one"])
    ways = results.protocols["one-to-one"].ways
    assert ways["report_to_volume"].left_out == {"no-text": 1}
    assert ways["report_to_volume"].n_gallery == 6
    assert ways["volume_to_report"].left_out == {"no-positive": 1}


def test_the_order_of_rows_changes_nothing() -> None:
    order = [3, 0, 4, 2, 1]
    own = five_entrant()
    mixed = make_entrant(
        own.name,
        {
            side: (
                [placed.ids[i] for i in order[: len(placed.ids)] if i < len(placed.ids)],
                placed.vectors[[i for i in order if i < len(placed.ids)]],
            )
            for side, placed in own.sides.items()
            if side != "keyword"
        },
    )
    names = ["one-to-one", "same-findings-graded", "spectre"]
    first, rows = benchmark(own, five_studies(), names)
    second, others = benchmark(mixed, five_studies(), names)
    assert first.protocols == second.protocols
    assert rows == others


def test_scaling_a_vector_changes_nothing() -> None:
    own = five_entrant()
    scaled = make_entrant(
        own.name,
        {
            s: (p.ids, p.vectors * np.arange(1, len(p.ids) + 1)[:, None])
            for s, p in own.sides.items()
        },
    )
    assert benchmark(own, five_studies(), ["multi-positive"])[0].protocols == (
        benchmark(scaled, five_studies(), ["multi-positive"])[0].protocols
    )


def test_half_precision_is_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "e.npz", study_id=IDS, volume=vectors().astype(np.float16), model_id="m@1")
    entrant = read_npz(tmp_path / "e.npz")
    assert (entrant.name, entrant.model_id, entrant.dim) == ("e", "m@1", 3)


def test_query_and_gallery_arrays_have_ids_of_their_own(tmp_path: Path) -> None:
    own = five_entrant()
    np.savez(
        tmp_path / "e.npz",
        query=own.sides["text"].vectors[::-1], query_id=IDS[::-1],
        gallery=own.sides["volume"].vectors, gallery_id=IDS,
    )  # fmt: skip
    found = benchmark(read_npz(tmp_path / "e.npz"), five_studies(), ["one-to-one"])[0]
    figures = found.protocols["one-to-one"].ways["report_to_volume"].figures
    assert figures["R@1"].value == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("content", "text"), [(b"", "cannot be read"), (b"PK\x03\x04broken", "damaged")]
)
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes, text: str) -> None:
    (tmp_path / "e.npz").write_bytes(content)
    with pytest.raises(InputError, match=f"e.npz .*{text}|e.npz (cannot|is damaged)") as caught:
        read_npz(tmp_path / "e.npz")
    assert caught.value.rule == "unreadable-vectors"


def test_ids_as_objects_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "e.npz", study_id=np.array(IDS, object), volume=vectors())
    with pytest.raises(InputError, match="ids as text and not as objects") as caught:
        read_npz(tmp_path / "e.npz")
    assert caught.value.rule == "unreadable-vectors"


def test_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no file of vectors"):
        read_npz(tmp_path / "none.npz")


def test_centring_takes_away_what_all_vectors_share() -> None:
    plain = five_entrant()
    volumes, texts = (plain.sides[side] for side in ("volume", "text"))
    shared = np.array([50.0, -20.0])
    moved = make_entrant(
        "moved",
        {"volume": (volumes.ids, volumes.vectors), "text": (texts.ids, texts.vectors + shared)},
    )
    made = centred(moved)
    assert made.model_id == "moved centred"
    for side in ("volume", "text"):
        np.testing.assert_allclose(made.sides[side].vectors.mean(axis=0), 0, atol=1e-12)
    unit = volumes.vectors / np.linalg.norm(volumes.vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(made.sides["volume"].vectors, unit - unit.mean(axis=0))


def test_what_is_no_cosine_is_not_centred() -> None:
    counts = make_entrant("counts", {"volume": (["a", "b"], np.eye(2))}, is_cosine=False)
    with pytest.raises(InputError, match="The vectors of counts are not compared by cosine") as e:
        centred(counts)
    assert e.value.rule == "not-cosine"


def test_equal_vectors_alone_cannot_be_centred() -> None:
    same = make_entrant("same", {"volume": (["a", "b"], np.ones((2, 3)))})
    with pytest.raises(InputError, match="zero") as e:
        centred(same)
    assert e.value.rule == "zero-vector"
