"""Splits: what is kept from training is, and what is to be matched is."""

import itertools
import re
from collections import Counter

import numpy as np
import pytest

from medfinder.errors import ConfigError
from medfinder.phantom import splits
from medfinder.phantom.case import check_case
from medfinder.phantom.chest import SMALL, PhantomConfig, make_phantom
from medfinder.phantom.splits import (
    COMBINATIONS,
    PAIRS,
    SPLITS,
    BenchmarkSplit,
    BenchmarkStudy,
    benchmark_studies,
    counterfactual_pairs,
    has_unseen_combination,
    has_unseen_pair,
    report_of,
)
from medfinder.phantom.wording import WordingConfig, size_bin
from medfinder.report.findings import extract_findings

N = 500


class Studies(dict[BenchmarkSplit, list[BenchmarkStudy]]):
    """Split → its first `N` studies, drawn when first asked for: collecting tests costs nothing."""

    def __missing__(self, split: BenchmarkSplit) -> list[BenchmarkStudy]:
        self[split] = benchmark_studies(split, N)
        return self[split]


STUDIES = Studies()
ALIKE: tuple[BenchmarkSplit, ...] = ("train", "val", "test", "unseen-wording", "shifted")
TESTS = ("test", "unseen-combinations", "unseen-pairs", "unseen-wording", "shifted")


@pytest.mark.parametrize("split", ALIKE)
def test_training_and_its_like_hold_nothing_that_is_held_out(split):
    for study in STUDIES[split]:
        assert not has_unseen_combination(study.case)
        assert not has_unseen_pair(study.case)


def test_unseen_combinations_hold_each_of_them_and_no_unseen_pair():
    studies = STUDIES["unseen-combinations"]
    assert all(has_unseen_combination(s.case) == bool(s.case.findings) for s in studies)
    assert not any(has_unseen_pair(s.case) for s in studies)
    for i, (name, wanted) in enumerate(COMBINATIONS):
        held = [
            all((size_bin(f) if k == "size" else getattr(f, k)) == v for k, v in wanted.items())
            for s in studies[i :: len(COMBINATIONS)]
            if s.case.findings and (f := s.case.get(name))
        ]
        assert len(held) >= 35
        assert all(held)


def test_unseen_pairs_hold_each_of_them_and_no_unseen_combination():
    studies = STUDIES["unseen-pairs"]
    assert all(has_unseen_pair(s.case) == (len(s.case.findings) >= 2) for s in studies)
    assert not any(has_unseen_combination(s.case) for s in studies)
    for i, (a, b) in enumerate(PAIRS):
        met = sum(s.case.has(a) and s.case.has(b) for s in studies[i :: len(PAIRS)])
        assert met >= 40


def test_training_shows_every_part_of_what_is_held_out():
    findings = [f for s in STUDIES["train"] for f in s.case.findings]
    for name, wanted in COMBINATIONS:
        for key, value in wanted.items():
            values = [
                size_bin(f) if key == "size" else getattr(f, key)
                for f in findings
                if f.name == name
            ]
            if value == "middle":  # has one side only: training shows it of other findings
                values = [f.lobe for f in findings]
            assert values.count(value) >= 3, (name, key, value)
    shown = Counter(f.name for f in findings)
    assert all(shown[name] >= 20 for pair in PAIRS for name in pair)


def test_the_ith_case_has_as_many_findings_in_every_split():
    counts = {split: [len(s.case.findings) for s in STUDIES[split]] for split in SPLITS}
    assert all(found == counts["train"] for found in counts.values())
    assert set(counts["train"]) == {0, 1, 2, 3, 4, 5, 6}
    assert 0.02 < counts["train"].count(0) / N < 0.09


def test_reports_are_as_long_in_every_split():
    medians = {
        split: float(np.median([len(report_of(s).split()) for s in STUDIES[split]]))
        for split in SPLITS
    }
    assert max(medians.values()) <= 1.1 * min(medians.values()), medians


def test_no_two_splits_share_a_study_a_seed_or_a_patient():
    studies = [s for split in SPLITS for s in STUDIES[split]]
    assert len({s.study_id for s in studies}) == len(studies)
    drawn = [s for s in studies if s.volume_id == s.study_id and s.acquisition == "usual"]
    assert len({s.seed for s in drawn}) == len(drawn) == 5 * N
    patients = {split: {s.patient_id for s in STUDIES[split]} for split in SPLITS}
    assert all(len(found) == N for found in patients.values())
    for a, b in itertools.combinations(SPLITS, 2):
        derived = {a, b} <= {"test", "unseen-wording", "shifted"}
        assert patients[a] == patients[b] if derived else patients[a].isdisjoint(patients[b])


def test_unseen_wording_is_the_same_volume_in_other_sentences():
    for told, tested in zip(STUDIES["unseen-wording"], STUDIES["test"], strict=True):
        assert told.volume_id == tested.study_id
        assert (told.case, told.seed, told.acquisition) == (tested.case, tested.seed, "usual")
        if told.case.findings:
            assert report_of(told) != report_of(tested)


def test_shifted_is_the_same_case_on_other_settings():
    for scanned, tested in zip(STUDIES["shifted"], STUDIES["test"], strict=True):
        assert scanned.volume_id == scanned.study_id != tested.study_id
        assert scanned.acquisition == "shifted"
        assert scanned.case == tested.case


@pytest.mark.parametrize("split", SPLITS)
def test_a_larger_number_only_adds(split):
    assert benchmark_studies(split, 40) == STUDIES[split][:40]


def test_another_seed_is_another_benchmark():
    for split in SPLITS:
        other = benchmark_studies(split, 20, seed=2)
        assert {s.seed for s in other}.isdisjoint(s.seed for s in STUDIES[split])
        assert {s.study_id for s in other}.isdisjoint(s.study_id for s in STUDIES[split])


def test_every_case_could_be_drawn():
    for split in SPLITS:
        for study in STUDIES[split]:
            check_case(study.case)


@pytest.mark.parametrize("split", SPLITS)
def test_a_phantom_tells_what_report_of_says(split):
    study = next(s for s in STUDIES[split] if len(s.case.findings) >= 2)
    config = PhantomConfig(
        size=SMALL, acquisition=study.acquisition, wording=WordingConfig(study.sentences)
    )
    phantom = make_phantom(study.seed, config, study.case)
    assert phantom.report_en == report_of(study)
    assert phantom.report_es == report_of(study, language="es")
    assert len({report_of(study, variant=v) for v in range(4)}) == 4


def test_a_split_that_is_none_and_numbers_out_of_range_are_refused():
    with pytest.raises(
        ConfigError, match=r"Unknown split 'unseen-pair'\. Did you mean 'unseen-pairs'"
    ):
        benchmark_studies("unseen-pair", 1)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="got n=-1, seed=1"):
        benchmark_studies("train", -1)
    with pytest.raises(ConfigError, match="0 <= seed < 1000, got n=1, seed=1000"):
        benchmark_studies("train", 1, seed=1000)


def test_a_case_that_cannot_be_drawn_is_an_error_and_not_let_through(monkeypatch):
    forbidden = tuple((name, {}) for name in splits.KINDS)
    monkeypatch.setattr(splits, "COMBINATIONS", forbidden)
    with pytest.raises(ConfigError, match="of the split 'train' cannot be drawn: each of 100"):
        benchmark_studies("train", 3)


def test_a_combination_too_small_to_see_is_an_error(monkeypatch):
    small = (("pleural effusion", {"side": "left", "size": "small"}),)
    monkeypatch.setattr(splits, "COMBINATIONS", small)
    with pytest.raises(ConfigError, match=r"is visible at voxels of 20 mm\. Choose smaller"):
        benchmark_studies("unseen-combinations", 3, voxel_mm=20)


# Counterfactual pairs.


def test_pairs_are_of_one_patient_and_kinds_take_turns():
    pairs = counterfactual_pairs(STUDIES["test"], 200)
    kinds = Counter((change.name, change.attribute) for _, _, change in pairs)
    assert max(kinds.values()) - min(kinds.values()) <= 1
    assert len({changed.study_id for _, changed, _ in pairs}) == 200
    for original, changed, change in pairs:
        assert changed.seed == original.seed
        assert changed.volume_id == changed.study_id
        assert changed.case == change.case != original.case
    assert counterfactual_pairs(STUDIES["test"], 50) == pairs[:50]


def test_pairs_end_where_there_are_no_more_changes():
    normal = [s for s in STUDIES["test"] if not s.case.findings]
    assert counterfactual_pairs(normal, 10) == []


WIDE = {"cardiomegaly", "pneumothorax", "emphysema", "ground glass pattern", "multiple nodules"}
"""Findings that move or cover whole organs, or lie in many places."""


def test_a_changed_volume_differs_only_near_the_changed_finding():
    """The noise is the same everywhere else; six voxels hold its margin, its shadow and the blur."""
    asked = set()
    for original, changed, change in counterfactual_pairs(STUDIES["test"], 43):
        if change.name in WIDE or change.attribute == "level":
            continue
        asked.add(change.name)
        a, b = (
            make_phantom(s.seed, PhantomConfig(size=SMALL), s.case) for s in (original, changed)
        )
        near = np.zeros(SMALL, bool)
        for phantom in (a, b):
            place = 1 + [f.name for f in phantom.case.findings].index(change.name)
            near |= phantom.lesion_mask == place
        differs = a.volume.stored != b.volume.stored
        assert differs.any(), change
        assert not (differs & ~grown(near, 6)).any(), change
    assert len(asked) >= 16


def grown(mask: np.ndarray, by: int) -> np.ndarray:
    out = mask.copy()
    for axis in range(3):
        wide = out.copy()
        for step in range(1, by + 1):
            wide |= np.roll(out, step, axis) | np.roll(out, -step, axis)
        out = wide
    return out


# Habits of the reports.

UNSURE = {
    "en": r"cannot be (excluded|ruled out)|[Pp]ossibl[ey]|[Dd]oubtful|probably|suggestive|should be",
    "es": r"no se puede descartar|posibles? |dudosa|sugestiv|a valorar",
}
PRIOR = {"en": r"previous (study|examination)", "es": r"respecto al estudio previo"}


@pytest.mark.parametrize("language", ["en", "es"])
def test_reports_deny_doubt_measure_and_compare_as_often_as_stated(language):
    texts = [report_of(s, language=language) for s in STUDIES["test"]]
    words = np.array([len(t.split()) for t in texts])
    low, median, high = np.percentile(words, (5, 50, 95))
    assert words.min() >= 8
    assert words.max() <= 600
    assert low < 60
    assert 70 < median < 140
    assert high > 200
    found = [extract_findings(t, language) for t in texts]
    shares = {
        "denies": np.mean([any(f.status == "absent" for f in fs) for fs in found]),
        "doubts": np.mean([bool(re.search(UNSURE[language], t, re.I)) for t in texts]),
        "measures": np.mean([bool(re.search(r"\d (mm|cm)\b", t)) for t in texts]),
        "compares": np.mean([bool(re.search(PRIOR[language], t, re.I)) for t in texts]),
        "sections": np.mean(["\n" in t for t in texts]),
    }
    stated = {"denies": 0.98, "doubts": 0.18, "measures": 0.8, "compares": 0.39, "sections": 0.47}
    for habit, share in stated.items():
        assert abs(shares[habit] - share) < 0.07, shares
