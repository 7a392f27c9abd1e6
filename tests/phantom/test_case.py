"""Cases: drawn from a seed, with attributes their findings may have."""

import json
from dataclasses import replace

import numpy as np
import pytest

from medfinder.errors import ConfigError
from medfinder.phantom.case import (
    KINDS,
    CaseSpec,
    FindingSpec,
    case_from_dict,
    check_case,
    make_finding,
    sample_case,
)


def test_a_seed_always_gives_the_same_case():
    assert sample_case(5) == sample_case(5)
    assert sample_case(5) != sample_case(6)


def test_every_sampled_case_is_allowed():
    for seed in range(300):
        check_case(sample_case(seed, voxel_mm=4.5))


def test_a_case_survives_json():
    case = sample_case(11)
    assert case_from_dict(json.loads(json.dumps(case.to_dict()))) == case


def test_every_kind_occurs_and_some_cases_are_normal():
    cases = [sample_case(seed) for seed in range(600)]
    assert {f.name for case in cases for f in case.findings} == set(KINDS)
    normal = sum(not case.findings for case in cases) / len(cases)
    assert 0.04 < normal < 0.13
    assert max(len(case.findings) for case in cases) == 6


def test_findings_do_not_depend_on_build_or_sex():
    cases = [sample_case(seed) for seed in range(1500)]
    effusion = np.array([case.has("pleural effusion") for case in cases], float)
    for trait in ("fat_mm", "half_width_mm", "lung_hu", "liver_hu", "heart_scale"):
        values = np.array([getattr(case.habitus, trait) for case in cases])
        assert abs(np.corrcoef(values, effusion)[0, 1]) < 0.08


def test_kinds_that_exclude_each_other_never_meet():
    for seed in range(600):
        case = sample_case(seed)
        assert not (case.has("nodule") and case.has("multiple nodules"))


def test_sizes_start_at_the_visibility_floor_of_the_grid():
    rng = np.random.default_rng(0)
    sizes = [make_finding("nodule", rng, voxel_mm=4.5).size_mm for _ in range(200)]
    assert min(s for s in sizes if s) >= 2.5 * 4.5
    assert max(s for s in sizes if s) <= 30


def test_a_fixed_side_brings_a_lobe_of_that_side():
    rng = np.random.default_rng(0)
    lobes = {make_finding("consolidation", rng, side="left").lobe for _ in range(40)}
    assert lobes == {"upper", "lower"}


@pytest.mark.parametrize(
    ("finding", "message"),
    [
        (FindingSpec("goitre"), "Unknown phantom finding 'goitre'"),
        (FindingSpec("emphysema", side="left"), "has side 'left'; it must be left out"),
        (FindingSpec("cardiomegaly", severity=None), "has severity None; it must be one of"),
        (
            FindingSpec("nodule", "left", "middle", 10, "solid"),
            "is in the left middle lobe; expected one of",
        ),
        (FindingSpec("pneumothorax", "left", size_mm=900), "has size 900 mm; it must be 12 to 55"),
    ],
)
def test_an_attribute_outside_its_kind_is_refused(finding, message):
    with pytest.raises(ConfigError, match=message):
        check_case(CaseSpec(1, findings=(finding,)))


def test_a_finding_given_twice_is_refused():
    f = FindingSpec("cardiomegaly", severity="mild")
    with pytest.raises(ConfigError, match="given twice"):
        check_case(CaseSpec(1, findings=(f, replace(f, severity="severe"))))
