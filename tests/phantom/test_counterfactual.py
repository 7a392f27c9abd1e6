"""Counterfactuals: one attribute changes, and nothing else."""

from dataclasses import fields

import numpy as np

from medfinder.phantom.case import CaseSpec, FindingSpec, check_case, sample_case
from medfinder.phantom.chest import SMALL, PhantomConfig, make_phantom
from medfinder.phantom.counterfactual import counterfactuals


def test_exactly_one_attribute_of_one_finding_changes():
    for seed in range(40):
        case = sample_case(seed)
        for change in counterfactuals(case):
            check_case(change.case)
            differing = [
                field.name
                for a, b in zip(case.findings, change.case.findings, strict=True)
                for field in fields(FindingSpec)
                if getattr(a, field.name) != getattr(b, field.name)
            ]
            assert differing == [change.attribute]
            assert change.before != change.after


def test_a_side_changes_to_the_other_and_back():
    case = CaseSpec(1, findings=(FindingSpec("nodule", "left", "upper", 20, "solid"),))
    there = next(c for c in counterfactuals(case) if c.attribute == "side")
    back = next(c for c in counterfactuals(there.case) if c.attribute == "side")
    assert there.after == "right"
    assert back.case == case


def test_a_middle_lobe_has_no_counterpart_on_the_left():
    case = CaseSpec(1, findings=(FindingSpec("nodule", "right", "middle", 20, "solid"),))
    assert "side" not in {c.attribute for c in counterfactuals(case)}


def test_the_histogram_does_not_see_a_changed_side():
    case = CaseSpec(
        1, confusers=0.0, findings=(FindingSpec("consolidation", "left", "lower", 50, seed=2),)
    )
    there = next(c for c in counterfactuals(case) if c.attribute == "side").case
    a, b = (make_phantom(1, PhantomConfig(size=SMALL), c).volume.hu for c in (case, there))
    edges = np.linspace(-1024, 1000, 20)
    before, after = (np.histogram(v, edges)[0] / v.size for v in (a, b))
    assert (a != b).any()
    assert np.abs(before - after).sum() < 0.01
