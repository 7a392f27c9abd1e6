from itertools import pairwise
from pathlib import Path

import pytest

import medfinder
from medfinder.embed import Embedder
from medfinder.errors import Incomplete, InputError, Mismatch, UnknownName
from medfinder.records import Hit
from medfinder.search import rankers
from medfinder.search.finder import Finder
from medfinder.volume.read import read_volume
from stubs.encoders import GridEncoder


def ids(hits: list[Hit]) -> list[str]:
    return [hit.study_id for hit in hits]


def test_a_keyword_finds_the_reports_that_affirm_it_and_its_kinds(finder: Finder) -> None:
    assert set(ids(finder.search(keyword="nodule"))) == {"s3", "s4"}
    assert set(ids(finder.search(keyword="pleural effusion"))) == {"s1", "s2", "s5", "s8"}


def test_whatever_affirms_all_keywords_scores_one(finder: Finder) -> None:
    assert {hit.score for hit in finder.search(keyword="pleural effusion")} == {1.0}


def test_a_keyword_may_be_plural_or_spanish(finder: Finder) -> None:
    assert set(ids(finder.search(keyword="nodules"))) == {"s3", "s4"}
    assert set(ids(finder.search(keyword="derrame pleural"))) == {"s1", "s2", "s5", "s8"}


def test_several_keywords_must_all_be_affirmed(finder: Finder) -> None:
    assert ids(finder.search(keyword=["emphysema", "cardiomegaly"])) == ["s7"]
    assert finder.search(keyword=["emphysema", "nodule"]) == []


def test_a_keyword_narrows_another_query(finder: Finder) -> None:
    assert set(ids(finder.search("left lung", keyword="nodule"))) <= {"s3", "s4"}


def test_a_sentence_prefers_the_side_it_names(finder: Finder) -> None:
    assert set(ids(finder.search("left pleural effusion", k=2))) == {"s1", "s5"}
    assert ids(finder.search("right pleural effusion", k=1)) == ["s2"]


def test_a_denied_finding_in_a_query_is_shunned(finder: Finder) -> None:
    hits = finder.search("nodule without pleural effusion", k=9)
    assert set(ids(hits)[:2]) == {"s3", "s4"}


def test_a_filter_is_sql_over_the_facets(finder: Finder) -> None:
    hits = finder.search(keyword="pleural effusion", where="sex = 'F' AND age >= 61")
    assert ids(hits) == ["s5"]


def test_a_filter_cannot_break_out_of_its_brackets(finder: Finder) -> None:
    with pytest.raises(InputError, match="brackets"):
        finder.search(keyword="nodule", where="sex = 'F') OR (1 = 1")


def test_a_filter_that_is_not_one_names_the_columns(finder: Finder) -> None:
    with pytest.raises(InputError, match=r"no column 'colour'.*study_id"):
        finder.search("nodule", where="colour = 'red'")


def test_more_like_this_leaves_out_the_same_patient(finder: Finder) -> None:
    alike = ids(finder.search(study_id="s1", k=9))
    assert not {"s1", "s5"} & set(alike)
    kept = ids(finder.search(study_id="s1", k=9, exclude_same_patient=False))
    assert kept[0] == "s5"
    assert "s1" not in kept


def test_a_volume_finds_itself_first(finder: Finder) -> None:
    (study,) = finder.index.studies(["s2"])
    hits = finder.search(volume=read_volume(study.volume_path), k=3)
    assert ids(hits)[0] == "s2"
    assert hits[0].score == pytest.approx(1, abs=1e-5)
    assert list(hits[0].why.parts) == ["volume"]


def test_a_volume_finds_volumes_of_its_kind(finder: Finder) -> None:
    (study,) = finder.index.studies(["s1"])
    assert ids(finder.search(volume=read_volume(study.volume_path), k=2)) == ["s1", "s5"]


def test_a_whole_report_finds_its_study_and_those_that_say_the_same(finder: Finder) -> None:
    report = "FINDINGS: Known left pleural effusion, unchanged. IMPRESSION: Left pleural effusion."
    assert set(ids(finder.search(report=report, k=2))) == {"s1", "s5"}


def test_a_hit_tells_why(finder: Finder) -> None:
    hit = finder.search("nodule in the right upper lobe", k=1)[0]
    assert hit.study_id == "s3"
    assert {"bm25", "report", "findings"} <= set(hit.why.parts)
    assert "nodule" in hit.why.terms
    assert hit.why.sentences[0] == "Nodule of 8 mm in the right upper lobe."
    text = repr(hit)
    assert "s3" in text
    assert "nodule" in text
    assert "p3" not in text


def test_ranks_count_from_one_and_scores_fall(finder: Finder) -> None:
    hits = finder.search("pleural effusion", k=9)
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
    assert all(a.score >= b.score for a, b in pairwise(hits))


def test_without_a_joint_space_a_text_is_not_compared_with_volumes(finder: Finder) -> None:
    assert not finder.has_joint_space
    assert all("volume" not in hit.why.parts for hit in finder.search("dense left", k=9))


def test_in_a_joint_space_a_text_finds_volumes_that_have_no_report(joint_finder: Finder) -> None:
    assert joint_finder.has_joint_space
    hits = joint_finder.search("dense left", k=9)
    by_volume = sorted(hits, key=lambda h: -h.why.parts["volume"])
    assert set(ids(by_volume)[:2]) == {"s1", "s5"}
    assert "s6" in ids(hits)


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ({}, "Give a query"),
        ({"text": "a", "report": "b"}, "Give one query, got 2: text, report"),
        ({"text": "  "}, "The query is empty"),
        ({"text": "a", "k": 0}, "k must lie between 1 and 1000, got 0"),
        ({"text": "a", "k": 1001}, "got 1001"),
        ({"text": "a", "where": ""}, "it is empty"),
    ],
)
def test_a_bad_query_is_named(finder: Finder, query: dict[str, object], text: str) -> None:
    with pytest.raises(InputError, match=text):
        finder.search(**query)  # type: ignore[arg-type]


def test_an_unknown_keyword_or_study_is_named(finder: Finder) -> None:
    with pytest.raises(UnknownName, match="nodul"):
        finder.search(keyword="nodull")
    with pytest.raises(UnknownName, match="no study 'x'"):
        finder.search(study_id="x")


def test_a_query_encoder_with_other_weights_is_refused(finder: Finder) -> None:
    with pytest.raises(Mismatch, match="Vectors of two models cannot be"):
        Finder(finder.index, {"volume": Embedder(GridEncoder(weights="2"))})


def test_an_unfinished_or_missing_index_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no index folder"):
        medfinder.open_index(tmp_path / "none")
    with pytest.raises(Incomplete, match="has not finished"):
        medfinder.open_index(tmp_path)


def test_a_query_that_only_denies_puts_those_that_affirm_last(finder: Finder) -> None:
    found = finder.search("no pleural effusion", k=9)
    affirmed = [hit.rank for hit in found if hit.study_id in {"s1", "s2", "s5", "s8"}]
    others = [hit.rank for hit in found if "findings" in hit.why.parts and hit.rank < min(affirmed)]
    assert others, "nothing was ranked before those that affirm what the query denies"


def test_the_findings_of_a_large_index_rank_only_what_others_brought(
    finder: Finder, monkeypatch: pytest.MonkeyPatch
) -> None:

    monkeypatch.setattr(rankers, "_SCORED", 0)
    hits = finder.search("nodule in the right upper lobe", k=9)
    assert hits[0].study_id == "s3"
    assert all({"bm25", "report"} & set(h.why.parts) for h in hits if "findings" in h.why.parts)


def test_the_limits_of_curation_hold_in_the_index(finder: Finder) -> None:
    assert finder.check.min_slices == 10


def test_a_query_of_another_encoding_is_searched_with_marks_in_it(finder: Finder) -> None:
    assert finder.search("nodule \udce9", k=1)


def test_a_search_compares_by_what_is_asked_alone(finder: Finder, joint_finder: Finder) -> None:
    for by in ("bm25", "report", "findings"):
        hits = finder.search("left pleural effusion", by=by)
        assert {name for hit in hits for name in hit.why.parts} == {by}
    hits = joint_finder.search("left pleural effusion", by=["volume", "bm25"])
    assert {name for hit in hits for name in hit.why.parts} == {"volume", "bm25"}


def test_a_keyword_by_volume_asks_the_cts_and_beside_a_text_still_narrows(
    joint_finder: Finder,
) -> None:
    alone = joint_finder.search(keyword="nodule", by="volume")
    assert len(alone) > 2, "reports without the keyword are not left out"
    narrowed = joint_finder.search("left lung", keyword="nodule", by="volume")
    assert set(ids(narrowed)) == {"s3", "s4"}


def test_what_a_query_cannot_be_compared_by_is_said(finder: Finder) -> None:
    with pytest.raises(InputError, match=r"cannot be compared by volume in this index, but by"):
        finder.search("left pleural effusion", by="volume")
    with pytest.raises(UnknownName, match=r"Unknown ranker 'volumes'\. Did you mean 'volume'"):
        finder.search("left pleural effusion", by="volumes")


def test_without_leaves_out_what_is_affirmed_and_keeps_what_is_not_told(finder: Finder) -> None:
    kept = ids(finder.search("lung", without="pleural effusion", k=9))
    assert not {"s1", "s2", "s5", "s8"} & set(kept)
    assert {"s3", "s4", "s6"} <= set(ids(finder.search(study_id="s1", without="derrame", k=9)))


def test_without_includes_the_kinds_of_a_finding(finder: Finder) -> None:
    assert not {"s3", "s4"} & set(ids(finder.search(study_id="s1", without=["nodule"], k=9)))


def test_a_liked_study_draws_those_like_it(finder: Finder) -> None:
    before = ids(finder.search(study_id="s3", by="volume", k=9))
    after = ids(finder.search(study_id="s3", like=["s1"], by="volume", k=9))
    assert after.index("s5") < before.index("s5")


def test_an_unliked_study_is_no_hit_and_drives_away_those_like_it(finder: Finder) -> None:
    before = ids(finder.search(study_id="s3", by="volume", k=9))
    after = ids(finder.search(study_id="s3", unlike=["s1"], by="volume", k=9))
    assert "s1" not in after
    assert len(after) == len(before) - 1
    assert after[-1] == "s5"


def test_liked_studies_alone_are_a_query(finder: Finder) -> None:
    assert set(ids(finder.search(like=["s1"], by="volume", k=2))) == {"s1", "s5"}


def test_an_unknown_liked_study_is_named(finder: Finder) -> None:
    with pytest.raises(UnknownName, match="s99"):
        finder.search("nodule", like=["s99"])


def test_pages_follow_each_other(finder: Finder) -> None:
    whole = finder.search("left pleural effusion", k=9)
    pages = [
        h for at in range(0, 9, 2) for h in finder.search("left pleural effusion", k=2, offset=at)
    ]
    assert ids(pages) == ids(whole)
    assert [h.rank for h in pages] == [h.rank for h in whole]


def test_pages_beyond_the_hundredth_hit_repeat_nothing(
    finder: Finder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rankers, "_DEPTH", 3)
    whole = ids(finder.search("left pleural effusion", k=9))
    assert len(whole) == len(set(whole)) > 3
    assert whole[:3] == ids(finder.search("left pleural effusion", k=3))


@pytest.mark.parametrize(("k", "offset"), [(10, -1), (10, 991), (1, 1000)])
def test_an_offset_out_of_range_is_refused(finder: Finder, k: int, offset: int) -> None:
    with pytest.raises(InputError, match="offset must lie"):
        finder.search("nodule", k=k, offset=offset)


def test_hits_can_be_put_in_the_order_of_age(finder: Finder) -> None:
    ages = [h.study.age for h in finder.search(keyword="pleural effusion", sort="age")]
    assert ages == [45, 60, 61, 70]
    assert ids(finder.search(keyword="pleural effusion", sort="-age", k=1)) == ["s2"]


def test_hits_without_a_date_keep_their_order(finder: Finder) -> None:
    plain = ids(finder.search("left pleural effusion", k=9))
    assert ids(finder.search("left pleural effusion", k=9, sort="date")) == plain


def test_an_unknown_order_lists_the_known(finder: Finder) -> None:
    with pytest.raises(UnknownName, match="-date"):
        finder.search("nodule", sort="size")


def test_side_and_place_of_a_finding_are_facets(finder: Finder) -> None:
    where = "array_has(findings_placed, 'pleural effusion, left')"
    assert set(ids(finder.search(keyword="pleural effusion", where=where))) == {"s1", "s5"}
    counts = finder.index.facets("findings_placed")
    assert counts["any finding, left"] == 3
    assert counts["nodule, upper lobe"] == 1


def test_a_whole_report_is_explained_by_shared_findings_not_by_shared_words(finder: Finder) -> None:
    report = "Left pleural effusion. Heart size is normal. Known nodule, unchanged."
    hits = {h.study_id: h.why for h in finder.search(report=report, k=9)}
    assert hits["s1"].terms == ("pleural effusion",)
    assert hits["s1"].sentences == ("Left pleural effusion.",)
    assert "size" not in hits["s1"].terms


def test_a_report_without_shared_findings_is_explained_by_words(finder: Finder) -> None:
    hits = {h.study_id: h.why for h in finder.search(report="Heart size is normal.", k=9)}
    assert {"heart", "size", "normal"} <= set(hits["s1"].terms)
