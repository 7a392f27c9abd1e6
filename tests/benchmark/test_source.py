"""What a user names becomes an entrant: files, encoders, functions; volumes are embedded once."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from medfinder.benchmark.benchmark import BenchmarkConfig, benchmark
from medfinder.benchmark.entrant import Entrant, make_entrant
from medfinder.benchmark.reference import Reference, read_reference
from medfinder.benchmark.source import embed, open_entrant
from medfinder.embed import Embedder
from medfinder.errors import InputError, UnknownName
from medfinder.records import Study
from search.conftest import make_studies as make_studies  # the fixture
from stubs.cases import CASES
from stubs.encoders import GridEncoder, WordEncoder

FAST = BenchmarkConfig(n_draws=100)


@pytest.fixture(scope="module")
def folder(
    make_studies: Callable[[Path, Sequence[str]], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return make_studies(tmp_path_factory.mktemp("source"), list(CASES))


@pytest.fixture
def reference(folder: Path) -> Reference:
    return read_reference(folder, "all")


def ones(studies: list[Study]) -> dict[str, object]:
    """An entry point for tests: a vector a study, by its number of findings."""
    sizes = np.array([[len(s.findings), 1.0] for s in studies])
    return {"study_id": [s.study_id for s in studies], "volume": sizes, "text": sizes}


def an_entrant(studies: list[Study]) -> Entrant:
    return make_entrant(
        "own", {"volume": ([s.study_id for s in studies], np.ones((len(studies), 1)))}
    )


def a_fault(studies: list[Study]) -> None:
    raise KeyError(studies[0].study_id)


def nothing(studies: list[Study]) -> None:
    return None


def test_an_encoder_embeds_volumes_texts_and_keywords(reference: Reference, tmp_path: Path) -> None:
    entrant = embed(Embedder(GridEncoder(joint=True)), reference, tmp_path)
    assert entrant.name == "grid"
    assert set(entrant.sides) == {"volume", "text"}  # nine studies share no five of a finding
    results, _ = benchmark(entrant, reference, ["one-to-one"], FAST)
    asked = results.protocols["one-to-one"].ways["report_to_volume"]
    assert (asked.n_queries, asked.n_gallery) == (8, 9)
    assert asked.left_out == {"no-text": 1}


def test_the_side_of_a_block_is_found_by_an_encoder_that_sees_it(
    reference: Reference, tmp_path: Path
) -> None:
    entrant = embed(Embedder(GridEncoder(joint=True)), reference, tmp_path)
    figures = benchmark(entrant, reference, ["same-side"], FAST)[0].protocols["same-side"]
    assert figures.ways["report_to_volume"].figures["AUROC"].value == 1


def test_a_second_run_embeds_nothing_again(reference: Reference, tmp_path: Path) -> None:
    first, second = GridEncoder(), GridEncoder()
    made = embed(Embedder(first), reference, tmp_path)
    again = embed(Embedder(second), reference, tmp_path)
    assert (first.n_encoded, second.n_encoded) == (9, 0)
    np.testing.assert_array_equal(made.sides["volume"].vectors, again.sides["volume"].vectors)


def test_a_run_that_was_killed_goes_on_where_it_stopped(
    reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medfinder.benchmark.source._BATCH", 2)

    class Dying(GridEncoder):
        def encode_volumes(self, batch: np.ndarray) -> np.ndarray:
            if self.n_encoded == 5:
                raise KeyboardInterrupt
            return super().encode_volumes(batch)

    with pytest.raises(KeyboardInterrupt):
        embed(Embedder(Dying()), reference, tmp_path)
    rest = GridEncoder()
    made = embed(Embedder(rest), reference, tmp_path)
    assert rest.n_encoded == 9 - 4  # two whole saves of two
    fresh = embed(Embedder(GridEncoder()), reference, tmp_path / "fresh")
    assert made.sides["volume"].ids == fresh.sides["volume"].ids
    np.testing.assert_array_equal(made.sides["volume"].vectors, fresh.sides["volume"].vectors)


def test_another_models_vectors_are_not_taken(reference: Reference, tmp_path: Path) -> None:
    embed(Embedder(GridEncoder(weights="1")), reference, tmp_path)
    other = GridEncoder(weights="2")
    embed(Embedder(other), reference, tmp_path)
    assert other.n_encoded == 9


def test_a_volume_that_cannot_be_read_is_rejected_and_counted(
    reference: Reference, tmp_path: Path
) -> None:
    studies = [
        dataclasses.replace(s, volume_hash="0" * 64) if s.study_id == "s1" else s
        for s in reference.studies
    ]
    studies = [dataclasses.replace(s, volume_path="") if s.study_id == "s2" else s for s in studies]
    changed = Reference(tuple(studies))
    entrant = embed(Embedder(GridEncoder(joint=True)), changed, tmp_path)
    assert entrant.left_out == {"changed-volume": ("s1",), "no-volume": ("s2",)}
    rows = pq.ParquetFile(tmp_path / "rejections.parquet").read().to_pylist()
    assert {(row["item"], row["rule"]) for row in rows} == {
        ("s1", "changed-volume"),
        ("s2", "no-volume"),
    }
    results, _ = benchmark(entrant, changed, ["one-to-one"], FAST)
    assert results.left_out == {"changed-volume": 1, "no-volume": 1}
    ways = results.protocols["one-to-one"].ways
    assert ways["report_to_volume"].left_out == {"no-text": 1, "no-positive": 2}
    assert ways["volume_to_report"].left_out == {"no-vector": 2, "no-positive": 1}


def test_no_volume_at_all_is_an_error(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("study_id,patient_id,report\na,p,Nodule.\n")
    with pytest.raises(InputError, match="Not one of 1 volumes could be embedded") as caught:
        embed(Embedder(GridEncoder()), read_reference(table), tmp_path)
    assert caught.value.rule == "nothing-usable"


def test_an_encoder_of_texts_alone_brings_texts_alone(reference: Reference, tmp_path: Path) -> None:
    assert set(embed(Embedder(WordEncoder()), reference, tmp_path).sides) == {"text"}


def test_a_function_is_called_with_the_studies(
    reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    entrant = open_entrant("benchmark.test_source:ones", reference, tmp_path)
    assert entrant.name == "ones"
    assert entrant.sides["volume"].ids == reference.ids
    assert open_entrant("benchmark.test_source:an_entrant", reference, tmp_path).name == "own"


@pytest.mark.parametrize(
    ("name", "rule", "said"),
    [
        ("benchmark.test_source:a_fault", "function-failed", "failed with KeyError"),
        ("benchmark.test_source:nothing", "function-failed", "returned NoneType"),
        ("benchmark.test_source:absent", "no-function", "There is no function"),
        ("no_such_module_here:f", "no-function", "There is no function"),
    ],
)
def test_a_function_that_brings_no_vectors_is_named(
    reference: Reference, tmp_path: Path, name: str, rule: str, said: str
) -> None:
    with pytest.raises(InputError, match=said) as caught:
        open_entrant(name, reference, tmp_path)
    assert caught.value.rule == rule
    assert reference.ids[0] not in str(caught.value)


def test_an_unknown_name_lists_the_encoders(reference: Reference, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="astra"):
        open_entrant("astar", reference, tmp_path)


def test_the_shortcut_needs_other_patients_to_learn_from(
    reference: Reference, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="--train") as caught:
        open_entrant("shortcut", reference, tmp_path)
    assert caught.value.rule == "no-train"
    with pytest.raises(InputError, match="patients are in the training studies and in") as caught:
        open_entrant("shortcut", reference, tmp_path, train=reference)
    assert caught.value.rule == "train-patients"


def test_the_shortcut_reads_volumes(reference: Reference, tmp_path: Path) -> None:
    others = Reference(
        tuple(
            dataclasses.replace(s, study_id=f"t{k}-{s.study_id}", patient_id=f"t{s.patient_id}")
            for s in reference.studies
            for k in range(3)
        )
    )
    entrant = open_entrant("shortcut", reference, tmp_path, train=others)
    results, _ = benchmark(entrant, reference, ["same-side"], FAST)
    assert results.protocols["same-side"].ways["report_to_volume"].figures["AUROC"].value == 1


def test_a_perturbation_changes_vectors_names_and_what_is_kept(
    reference: Reference, tmp_path: Path
) -> None:
    clean = embed(Embedder(GridEncoder(joint=True)), reference, tmp_path)
    encoder = GridEncoder(joint=True)
    flipped = embed(Embedder(encoder), reference, tmp_path, None, ["flipped-left-right"])
    assert encoder.n_encoded == 9  # the vectors kept are of other voxels
    assert flipped.name == "grid (flipped-left-right)"
    assert flipped.model_id == f"{clean.model_id}+flipped-left-right"
    assert not np.allclose(clean.sides["volume"].vectors, flipped.sides["volume"].vectors)
    np.testing.assert_array_equal(clean.sides["text"].vectors, flipped.sides["text"].vectors)


def test_the_wrong_side_is_found_in_a_flipped_archive(reference: Reference, tmp_path: Path) -> None:
    found = {}
    for names in (["lower-case"], ["lower-case", "flipped-left-right"]):  # it knows "left" alone
        entrant = embed(Embedder(GridEncoder(joint=True)), reference, tmp_path, None, names)
        judged = benchmark(entrant, reference, ["same-side"], FAST)[0].protocols["same-side"]
        found[len(names)] = judged.ways["report_to_volume"].figures["AUROC"].value
    assert found[1] == 1
    assert found[2] <= 0.5


def test_a_text_is_changed_before_it_is_embedded(reference: Reference, tmp_path: Path) -> None:
    words: list[str] = []

    class Listening(WordEncoder):
        def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
            words.extend(texts)
            return np.asarray(super().encode_texts(texts))

    embed(Embedder(Listening()), reference, tmp_path, None, ["lower-case"])
    assert words
    assert all(text == text.lower() for text in words)


@pytest.mark.parametrize("what", ["chance", "bm25", "vectors.npz", "benchmark.test_source:ones"])
def test_what_is_no_encoder_cannot_be_given_changed_input(
    what: str, reference: Reference, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no encoder") as caught:
        open_entrant(what, reference, tmp_path, perturb=["noise-30hu"])
    assert caught.value.rule == "not-perturbed"


def test_a_change_of_what_an_encoder_does_not_take_is_told(
    reference: Reference, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="takes none") as caught:
        embed(Embedder(WordEncoder()), reference, tmp_path, None, ["noise-30hu"])
    assert caught.value.rule == "not-perturbed"


def test_an_unknown_perturbation_is_told_before_anything_is_read(
    reference: Reference, tmp_path: Path
) -> None:
    with pytest.raises(UnknownName, match="noise-30hu"):
        open_entrant("medfinder", reference, tmp_path, perturb=["noise-30h"])
