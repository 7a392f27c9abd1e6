"""Attribute swaps: one thing wrong, the words around kept, nothing to be had from the text alone."""

import difflib
from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from medfinder.phantom.case import KINDS, CaseSpec, FindingSpec, check_case
from medfinder.phantom.counterfactual import counterfactuals
from medfinder.phantom.splits import (
    BenchmarkStudy,
    benchmark_studies,
    is_unseen_combination,
    report_of,
)
from medfinder.phantom.swaps import ATTRIBUTES, Swap, attribute_swaps
from medfinder.phantom.wording import WordingConfig, _Writer, size_bin


@cache
def drawn() -> list[BenchmarkStudy]:
    return benchmark_studies("test", 200)


@cache
def all_swaps() -> list[Swap]:
    return attribute_swaps(drawn(), 10_000)


@cache
def by_id() -> dict[str, BenchmarkStudy]:
    return {s.study_id: s for s in drawn()}


def swapped_finding(swap: Swap, studies: dict[str, BenchmarkStudy] | None = None) -> FindingSpec:
    finding = (studies or by_id())[swap.study_id].case.get(swap.name)
    assert finding is not None
    assert getattr(finding, swap.attribute) == swap.before
    return replace(finding, **{swap.attribute: swap.after})


def study(number: int, *findings: FindingSpec) -> BenchmarkStudy:
    return BenchmarkStudy(f"s{number}", number, CaseSpec(number, findings=findings))


def test_every_kind_of_attribute_is_swapped_and_kinds_take_turns():
    assert {s.attribute for s in all_swaps()} == set(ATTRIBUTES)
    first = Counter((s.name, s.attribute) for s in attribute_swaps(drawn(), 160))
    assert len(first) >= 40
    assert max(first.values()) <= 4


@pytest.mark.parametrize("language", ["en", "es"])
def test_each_value_is_right_as_often_as_it_is_wrong(language):
    changes = Counter(
        (s.name, s.attribute, s.before, s.after)
        for s in attribute_swaps(drawn(), 10_000, language=language)
    )
    assert sum(changes.values()) > 600
    for (name, attribute, before, after), count in changes.items():
        assert changes[name, attribute, after, before] == count


def test_left_is_swapped_with_right_in_the_same_lobe_as_often_as_right_with_left():
    sides = Counter(
        (s.name, finding.lobe, s.before)
        for s in all_swaps()
        if s.attribute == "side" and (finding := by_id()[s.study_id].case.get(s.name))
    )
    for name, lobe, side in sides:
        assert side in ("left", "right")
        assert sides[name, lobe, "left"] == sides[name, lobe, "right"]


def test_any_model_that_sees_only_a_value_scores_one_half():
    rng = np.random.default_rng(0)
    liked: dict[tuple[object, ...], float] = {}

    def score(swap: Swap, value: object) -> float:
        return liked.setdefault((swap.name, swap.attribute, value), float(rng.random()))

    right = [score(s, s.before) > score(s, s.after) for s in all_swaps()]
    assert np.mean(right) == 0.5


def test_the_longer_report_is_the_true_one_half_the_time():
    longer = [len(s.true_text) - len(s.swapped_text) for s in all_swaps()]
    wins = np.mean([0.5 if d == 0 else float(d > 0) for d in longer])
    assert abs(wins - 0.5) < 0.03


@pytest.mark.parametrize("split", ["test", "unseen-combinations"])
def test_what_training_never_showed_is_true_as_often_as_it_is_wrong(split):
    studies = {s.study_id: s for s in benchmark_studies(split, 200)}
    swaps = attribute_swaps(list(studies.values()), 10_000)
    wrong = sum(is_unseen_combination(swapped_finding(s, studies)) for s in swaps)
    true = 0
    for swap in swaps:
        finding = studies[swap.study_id].case.get(swap.name)
        assert finding is not None
        true += is_unseen_combination(finding)
    assert true == wrong
    assert (true > 0) == (split == "unseen-combinations")


def test_the_swapped_case_is_one_that_could_be_drawn():
    for swap in all_swaps():
        case = by_id()[swap.study_id].case
        finding = swapped_finding(swap)
        check_case(replace(case, findings=(finding,)))


def test_sizes_are_far_enough_apart_to_be_called_something_else():
    for swap in all_swaps():
        if swap.attribute == "size_mm":
            finding = by_id()[swap.study_id].case.get(swap.name)
            assert finding is not None
            assert max(swap.before / swap.after, swap.after / swap.before) >= 1.6
            assert size_bin(finding) != size_bin(swapped_finding(swap))


def test_numbered_levels_are_no_neighbours():
    levels = [
        (s.before, s.after) for s in all_swaps() if s.name == "rib fracture" and s.before.isdigit()
    ]
    assert levels
    assert all(abs(int(a) - int(b)) >= 2 for a, b in levels)


@pytest.mark.parametrize("language", ["en", "es"])
def test_only_words_of_the_attribute_change(language):
    allowed = {
        "side": {"left", "right", "lul", "lll", "rul", "rll"}
        | {f"{stem}{end}" for stem in ("izquierd", "derech") for end in ("o", "a", "os", "as")}
        | {"lsi", "lii", "lsd", "lid"},
        "lobe": {"upper", "middle", "lower", "right", "rul", "rml", "rll", "lul", "lll"}
        | {"superior", "medio", "inferior", "derecho", "lóbulo", "lobulo"}
        | {"lsi", "lii", "lsd", "lid"},
        "severity": {"mild", "moderate", "severe", "leve", "leves", "grave", "graves"}
        | {"moderado", "moderada", "moderadas"},
    }
    swaps = attribute_swaps(drawn(), 10_000, language=language)
    for swap in swaps:
        a, b = (t.lower().split() for t in (swap.true_text, swap.swapped_text))
        edits = difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes()
        changed = {
            word.strip(".,;:()")
            for op, i, j, k, end in edits
            if op != "equal"
            for word in (*a[i:j], *b[k:end])
        }
        assert changed
        if swap.attribute in allowed:
            assert changed <= allowed[swap.attribute] | {""}
        assert len(changed) <= 8


@pytest.mark.parametrize("language", ["en", "es"])
def test_wording_draws_the_same_numbers_whatever_the_attributes_are(language):
    def after(case: CaseSpec, seed: int) -> object:
        rng = np.random.default_rng(seed)
        _Writer(case, rng, language, WordingConfig(), "none").report()
        return rng.bit_generator.state

    asked = set()
    for s in drawn()[:60]:
        expected = after(s.case, s.seed)
        for change in counterfactuals(s.case, 1.0):
            asked.add(change.name)
            assert after(change.case, s.seed) == expected
    assert asked == set(KINDS)


def test_the_true_text_is_the_report():
    for swap in all_swaps()[:40]:
        assert swap.true_text == report_of(by_id()[swap.study_id])


def test_a_study_told_alone_has_nobody_to_balance_it():
    left = FindingSpec("pacemaker", "left")
    assert attribute_swaps([study(1, left), study(2, left)], 10) == []
    swaps = attribute_swaps([study(1, left), study(2, replace(left, side="right"))], 10)
    assert {(s.before, s.after) for s in swaps} == {("left", "right"), ("right", "left")}


def test_what_a_report_leaves_unsaid_is_not_swapped():
    solid = FindingSpec("pleural plaques", "right", density="solid", number=3)
    plaques = [
        study(i, replace(solid, density=d)) for i, d in enumerate(("solid", "calcified") * 4)
    ]
    assert attribute_swaps(plaques, 10) == []  # "pleural plaques" is not wrong of calcified ones


def test_swaps_come_in_couples_and_a_larger_number_only_adds():
    assert len(attribute_swaps(drawn(), 7)) == 6
    assert attribute_swaps(drawn(), 200) == all_swaps()[:200]
    assert attribute_swaps(drawn(), 200, seed=2) != all_swaps()[:200]


def test_unseen_wording_is_swapped_in_its_own_words():
    studies = benchmark_studies("unseen-wording", 60)
    by_id = {s.study_id: s for s in studies}
    for swap in attribute_swaps(studies, 40):
        assert swap.true_text == report_of(by_id[swap.study_id])
