"""The index as its callers see it: what goes in comes out, and searches find the right studies."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from medfinder.errors import ArtifactError, Incomplete, InputError, Mismatch, UnknownName
from medfinder.index.store import Index, IndexConfig, Stream
from medfinder.records import Report
from medfinder.studies import digest
from reference import exact_search as reference


def query(seed: int, dim: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(dim).astype(np.float32)


def centre_of(index: Index, column: str) -> list[float]:
    return [float(v) for v in index.centre(column)]


def expect(found: list[tuple[str, float]], truth: list[tuple[str, float]]) -> None:
    assert [name for name, _ in found] == [name for name, _ in truth]
    np.testing.assert_allclose([s for _, s in found], [s for _, s in truth], atol=1e-7)


# -- what is stored ------------------------------------------------------------


def test_studies_come_back_equal_in_the_order_asked(filled: Index, gallery) -> None:
    ids = ["s0007", "s0003", "s0059", "s0007"]
    assert filled.studies(ids) == [gallery.study(i) for i in (7, 3, 59, 7)]
    assert filled.studies([]) == []


def test_an_unknown_study_is_named(filled: Index) -> None:
    with pytest.raises(UnknownName, match="There is no study 'x' in this index of 60"):
        filled.studies(["s0001", "x"])
    with pytest.raises(UnknownName, match="There is no study 'x'"):
        filled.vectors("volume", ["x"])


def test_vectors_come_back_as_unit_vectors_and_none_where_there_is_none(
    filled: Index, gallery
) -> None:
    one, none = filled.vectors("report", ["s0001", "s0003"])
    assert none is None
    assert one is not None
    assert one.dtype == np.float32
    np.testing.assert_array_equal(one, np.float32(gallery.unit([1], "report")["s0001"]))


def test_what_is_there_can_be_compared_by_a_run_that_resumes(filled: Index, gallery) -> None:
    there = filled.study_hashes()
    assert len(there) == 60
    assert there["s0003"].volume_hash == f"{3:064x}"
    assert there["s0003"].streams == {"volume"}
    assert there["s0004"].streams == {"volume", "report"}
    assert filled.digests()["s0004"] == digest(gallery.study(4))


def test_an_index_says_what_it_holds(filled: Index) -> None:
    assert repr(filled) == "<Index 60 studies (volume: astra@1, report: minilm@1)>"
    assert filled.model_ids == {"volume": "astra@1", "report": "minilm@1"}
    assert filled.encoder_names == {"volume": "astra", "report": "minilm"}
    assert filled.is_finished
    assert "sex" in filled.columns


def test_facets_count_values_most_frequent_first(filled: Index) -> None:
    assert filled.facets("sex") == {"F": 20, "M": 20, None: 20}
    assert filled.facets("split", "sex = 'F' AND age < 30") == {"val": 3}
    assert list(filled.facets("findings_present").values()) == [20, 20, 20]
    assert filled.facets("body_part") == {None: 60}
    assert filled.facets("sex", "age > 900") == {}
    with pytest.raises(UnknownName, match=r"Unknown facet 'sexes'\. Did you mean 'sex'"):
        filled.facets("sexes")


# -- vectors -------------------------------------------------------------------


@pytest.mark.parametrize("column", ["volume", "report"])
@pytest.mark.parametrize("where", [None, "sex = 'F'", "age = 25", "age > 200"])
def test_vector_search_equals_the_slow_truth(
    filled: Index, gallery, column: str, where: str | None
) -> None:
    numbers = [i for i in range(60) if column == "volume" or i % 3]
    dim = gallery.streams[column].dim
    allowed = None if where is None else set(filled.ids(where))
    for seed in range(5):
        truth = reference.nearest(
            [float(v) for v in query(seed, dim)],
            gallery.unit(numbers, column),
            10,
            centre_of(filled, column),
            allowed,
        )
        expect(filled.search_vector(column, query(seed, dim), 10, where), truth)


def test_the_centre_is_the_mean_of_the_unit_vectors(filled: Index, gallery) -> None:
    mean = np.mean(list(gallery.unit(range(60)).values()), axis=0)
    np.testing.assert_allclose(filled.centre("volume"), mean, atol=1e-6)


def test_few_vectors_are_compared_by_the_plain_cosine(empty: Index, gallery) -> None:
    gallery.add(empty, range(7))
    empty.finish()
    assert not empty.centre("volume").any()
    rows = gallery.unit(range(7))
    q = query(1)
    plain = {i: np.dot(row, q / np.linalg.norm(q)) for i, row in rows.items()}
    found = dict(empty.search_vector("volume", q, 7))
    assert found == pytest.approx(plain, abs=1e-6)


def test_equal_vectors_tie_and_the_smaller_id_comes_first(empty: Index, gallery) -> None:
    numbers = [9, 2, 7, 1, 8, 3, 5, 4, 6, 0]
    batch = gallery.vectors(numbers, "volume")
    batch.vectors[:6] = batch.vectors[0]
    for i in range(10):  # one commit a row: ten fragments
        one = dataclasses.replace(batch, ids=batch.ids[i : i + 1], vectors=batch.vectors[i : i + 1])
        empty.add([gallery.study(numbers[i])], {"volume": one})
    empty.finish()
    found = empty.search_vector("volume", batch.vectors[0], 4)
    assert [name for name, _ in found] == ["s0001", "s0002", "s0003", "s0007"]
    assert {score for _, score in found} == {found[0][1]}
    assert found[0][1] == pytest.approx(1)


def test_a_query_of_any_length_has_the_same_result(filled: Index) -> None:
    assert filled.search_vector("volume", query(1)) == filled.search_vector("volume", 8 * query(1))


def test_asking_for_more_than_there_is_gives_what_there_is(filled: Index) -> None:
    assert len(filled.search_vector("volume", query(1), 1000)) == 60
    assert len(filled.search_text("report", 1000)) == 40


def test_asking_for_none_is_an_error(filled: Index) -> None:
    for ask in (
        lambda: filled.search_vector("volume", query(1), 0),
        lambda: filled.search_text("nodule", 0),
        lambda: filled.search_findings(["nodule"], k=0),
    ):
        with pytest.raises(InputError, match="k is 0; expected at least 1"):
            ask()


# -- words ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def worded(gallery, tmp_path_factory: pytest.TempPathFactory) -> Index:
    texts = [
        "Nódulos pulmonares en el lóbulo inferior derecho. Opacificación difusa.",
        "There is a 5-mm nodule in the right lower lobe; small effusions.",
        "No pleural effusion. No pneumothorax.",
        "Lesiones óseas. Derrame pleural.",
        "The heart is normal.",
    ]
    index = Index.create(tmp_path_factory.mktemp("worded") / "idx", gallery.streams)
    index.add([gallery.study(i, report=Report(text)) for i, text in enumerate(texts)])
    index.finish()
    return index


@pytest.mark.parametrize(
    ("words", "ids"),
    [
        ("nodulo", ["s0000"]),
        ("NÓDULO", ["s0000"]),
        ("nódulos", ["s0000"]),
        ("opacificacion", ["s0000"]),
        ("opacificaciones", ["s0000"]),
        ("lesión", ["s0003"]),
        ("lesion ósea", ["s0003"]),
        ("nodules", ["s0001"]),
        ("effusion", ["s0002", "s0001"]),
        ("pleural AND (effusion)", ["s0002", "s0003", "s0001"]),
        ('"nodule" OR 1=1; --', ["s0001"]),
        ("nodule^9 ~2 *", ["s0001"]),
        ("text:nodule", ["s0001"]),
        ("5-mm", ["s0001"]),
        ("heart\0", ["s0004"]),
    ],
)
def test_words_are_found_whatever_their_case_accents_and_endings(
    worded: Index, words: str, ids: list[str]
) -> None:
    assert [name for name, _ in worded.search_text(words)] == ids


@pytest.mark.parametrize("words", ["the of and", "de la", "!!! ??", "日本語", "\ud800", "x" * 5000])
def test_words_that_no_report_holds_find_nothing(worded: Index, words: str) -> None:
    assert worded.search_text(words) == []


@pytest.mark.parametrize("words", ["", "  \n\t", "\0"])
def test_an_empty_text_query_is_an_error(worded: Index, words: str) -> None:
    with pytest.raises(InputError, match="The text query is empty"):
        worded.search_text(words)


def test_a_filter_narrows_a_text_search(worded: Index) -> None:
    assert [i for i, _ in worded.search_text("effusion", where="study_id != 's0002'")] == ["s0001"]


def test_equal_texts_tie_and_the_smaller_id_comes_first(empty: Index, gallery) -> None:
    empty.add([gallery.study(i, report=Report("Normal chest.")) for i in range(199, -1, -1)])
    empty.finish()
    found = empty.search_text("normal", 3)
    assert [name for name, _ in found] == ["s0000", "s0001", "s0002"]
    assert len({score for _, score in found}) == 1


def test_words_are_found_before_the_first_finish_too(empty: Index, gallery) -> None:
    assert empty.search_text("effusion") == []
    gallery.add(empty, [1])
    assert [name for name, _ in empty.search_text("effusion")] == ["s0001"]


# -- findings ------------------------------------------------------------------


def test_keywords_find_what_is_present_and_not_what_is_denied(filled: Index, gallery) -> None:
    found = filled.search_findings(["pleural effusion"], k=100)
    assert len(found) == 20
    for name, score in found:
        (study,) = filled.studies([name])
        assert score == 1.0
        assert ("pleural effusion", "present") in {(f.name, f.status) for f in study.findings}


def test_keywords_rank_by_agreement_then_by_fewer_other_findings(empty: Index, gallery) -> None:
    base = gallery.study(0).findings[0]

    def made(i: int, *names: str, denied: tuple[str, ...] = ()):
        present = [dataclasses.replace(base, name=n, status="present") for n in names]
        absent = [dataclasses.replace(base, name=n, status="absent") for n in denied]
        return gallery.study(i, findings=tuple(present + absent))

    empty.add(
        [
            made(5, "nodule"),
            made(4, "nodule", "mass", "cyst"),
            made(3, "nodule", "cyst"),
            made(2, "mass", denied=("nodule",)),
            made(1, denied=("nodule",)),
            made(0, "nodule"),
        ]
    )
    empty.finish()

    def ids(**ask) -> list[str]:
        return [name for name, _ in empty.search_findings(**ask)]

    assert ids(present=["nodule"]) == ["s0000", "s0005", "s0003", "s0004"]
    assert ids(present=["nodule"], k=1) == ["s0000"]
    assert ids(present=["nodule", "mass"])[0] == "s0004"
    assert ids(present=["nodule", "mass"], match_all=True) == ["s0004"]
    assert ids(absent=["nodule"]) == ["s0001", "s0002"]
    assert ids(present=["mass"], absent=["nodule"]) == ["s0002"]
    assert ids(present=["nodule"], where="age > 23") == ["s0005", "s0004"]
    assert ids(present=["o'brien's sign"]) == []


def test_a_search_by_findings_needs_a_name(filled: Index) -> None:
    with pytest.raises(InputError, match="needs at least one name"):
        filled.search_findings()


# -- changing ------------------------------------------------------------------


def test_an_added_study_replaces_all_that_was_there(empty: Index, gallery) -> None:
    gallery.add(empty, range(10))
    changed = gallery.study(4, age=99, report=Report("A cyst."))
    batch = gallery.vectors([40], "volume")
    empty.add([changed], {"volume": dataclasses.replace(batch, ids=("s0004",))})
    empty.finish()
    assert empty.count() == 10
    assert empty.studies(["s0004"]) == [changed]
    assert empty.vectors("report", ["s0004"]) == [None]
    assert [name for name, _ in empty.search_vector("volume", batch.vectors[0], 1)] == ["s0004"]
    assert [name for name, _ in empty.search_text("cyst")] == ["s0004"]


def test_rows_added_after_finish_are_found_at_once(empty: Index, gallery) -> None:
    gallery.add(empty, range(10))
    empty.finish()
    reader = Index.open(empty.place)
    assert reader.count() == 10
    gallery.add(empty, [11])
    empty.add([gallery.study(12, report=Report("A cavern."))])
    assert reader.count() == 12
    vector = gallery.vectors([11], "volume").vectors[0]
    assert reader.search_vector("volume", vector, 1)[0] == ("s0011", pytest.approx(1))
    assert [name for name, _ in reader.search_text("cavern")] == ["s0012"]
    assert [name for name, _ in reader.search_findings(["nodule"], where="age = 32")] == ["s0012"]


def test_a_deleted_study_is_found_nowhere(empty: Index, gallery) -> None:
    gallery.add(empty, range(20))
    empty.finish()
    assert empty.delete(["s0007", "s0008", "no such"]) == 2
    for stage in ("before finish", "after finish"):
        vector = gallery.vectors([7], "volume").vectors[0]
        assert empty.count() == 18, stage
        assert "s0007" not in dict(empty.search_vector("volume", vector, 20))
        assert "s0007" not in dict(empty.search_text("report 7", 50))
        assert "s0007" not in empty.ids()
        empty.finish()
    assert empty.delete([]) == 0


def test_an_empty_index_answers_with_nothing(empty: Index) -> None:
    assert empty.finish().counts == {"studies": 0, "volume": 0, "report": 0}
    index = Index.open(empty.place)
    assert index.count() == 0
    assert index.search_vector("volume", query(1)) == []
    assert index.search_text("nodule") == []
    assert index.search_findings(["nodule"]) == []
    assert index.facets("sex") == {}
    assert index.add([]) == 0


def test_a_volume_only_index_has_one_column(tmp_path: Path, gallery) -> None:
    index = Index.create(tmp_path / "idx", {"volume": gallery.streams["volume"]})
    index.add([gallery.study(1)], {"volume": gallery.vectors([1], "volume")})
    assert index.finish().counts == {"studies": 1, "volume": 1}
    assert list(Index.open(index.place).model_ids) == ["volume"]


# -- folders -------------------------------------------------------------------


def test_an_unfinished_index_is_refused_and_can_be_resumed(empty: Index, gallery) -> None:
    gallery.add(empty, [1])
    with pytest.raises(Incomplete, match=r"has no manifest\.json"):
        Index.open(empty.place)
    resumed = Index.create(empty.place, gallery.streams)
    assert list(resumed.study_hashes()) == ["s0001"]


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no index folder"):
        Index.open(tmp_path / "none")


def test_a_file_is_no_index(tmp_path: Path, gallery) -> None:
    (tmp_path / "idx").write_text("")
    with pytest.raises(InputError, match="is a file; an index is a folder"):
        Index.create(tmp_path / "idx", gallery.streams)


def test_resuming_with_another_model_is_refused(empty: Index) -> None:
    with pytest.raises(Mismatch, match=r"of other encoders: it holds .*volume: 'astra@1'; got"):
        Index.create(empty.place, {"volume": Stream("astra", "astra@2", 16)})


def test_another_schema_is_refused(empty: Index, gallery) -> None:
    empty.finish()
    manifest = json.loads((empty.folder / "manifest.json").read_text())
    (empty.folder / "manifest.json").write_text(json.dumps({**manifest, "schema": 99}))
    with pytest.raises(Mismatch, match="has schema 99"):
        Index.open(empty.folder)
    del manifest["checksum"]
    (empty.folder / "manifest.json").write_text(json.dumps({**manifest, "config": {}}))
    with pytest.raises(Mismatch, match="does not say which encoders it holds"):
        Index.open(empty.folder)
    streams = json.loads((empty.folder / "streams.json").read_text())
    (empty.folder / "streams.json").write_text(json.dumps({**streams, "schema": 99}))
    with pytest.raises(Mismatch, match="has index schema 99"):
        Index.create(empty.folder, gallery.streams)
    (empty.folder / "streams.json").write_text("{")
    with pytest.raises(Mismatch, match="cannot be read"):
        Index.create(empty.folder, gallery.streams)


def test_a_table_that_is_gone_is_told_and_never_made_by_a_reader(
    filled: Index, tmp_path: Path
) -> None:
    shutil.copytree(filled.folder, tmp_path / "idx")
    table = tmp_path / "idx" / "table" / "studies.lance"
    reader = Index.open(tmp_path / "idx")
    for path in (table / "_versions").glob("*.manifest"):
        path.unlink()
    before = sorted(table.rglob("*"))
    for read in (lambda: Index.open(tmp_path / "idx"), reader.count, reader.ids):
        with pytest.raises((Incomplete, ArtifactError), match=r"has lost table|damaged or missing"):
            read()
    assert sorted(table.rglob("*")) == before


def test_a_table_with_other_columns_is_refused(empty: Index, gallery) -> None:
    empty.finish()
    empty._table.drop_columns(["sex"])
    with pytest.raises(Mismatch, match="has other columns than this version"):
        Index.open(empty.folder)


def test_settings_travel_with_the_index(tmp_path: Path, gallery) -> None:
    config = IndexConfig(exact_below=77, centre_from=3)
    index = Index.create(tmp_path / "idx", gallery.streams, config)
    gallery.add(index, range(4))
    index.finish(parents={"studies": "abc"}, duration_s=2.5, package_version="9.9")
    opened = Index.open(index.folder)
    assert opened.config == config
    manifest = json.loads((index.folder / "manifest.json").read_text())
    assert manifest["parents"] == {"studies": "abc"}
    assert (manifest["duration_s"], manifest["package_version"]) == (2.5, "9.9")
    assert manifest["counts"] == {"studies": 4, "volume": 4, "report": 2}
