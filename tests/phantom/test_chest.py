"""One phantom: where things are, and what changes when one attribute does."""

from dataclasses import replace

import numpy as np
import pytest

from medfinder.phantom.acquisition import body_affine, sample_acquisition
from medfinder.phantom.anatomy import Body
from medfinder.phantom.case import KINDS, CaseSpec, FindingSpec, make_finding
from medfinder.phantom.chest import SMALL, PhantomConfig, make_phantom, render

TINY = PhantomConfig(size=SMALL)


def case(*findings: FindingSpec, seed: int = 3) -> CaseSpec:
    return CaseSpec(seed, confusers=0.0, findings=findings)


def on_body(phantom) -> np.ndarray:
    """Body coordinates (x, y, z) of the mask's voxels."""
    index = np.argwhere(phantom.lesion_mask > 0)
    affine = body_affine(phantom.acquisition, phantom.volume.shape)
    return index @ affine[:3, :3].T + affine[:3, 3]


def test_the_same_seed_gives_the_same_voxels_and_words():
    a, b = make_phantom(4, TINY), make_phantom(4, TINY)
    assert a.volume.content_hash == b.volume.content_hash
    assert (a.report_en, a.report_es, a.case) == (b.report_en, b.report_es, b.case)
    assert (a.lesion_mask == b.lesion_mask).all()


def test_hounsfield_units_are_those_of_a_chest():
    phantom = make_phantom(2, PhantomConfig(size=(48, 72, 72)), case())
    hu = phantom.volume.hu
    assert hu.min() < -950
    assert hu.max() > 250
    share = {
        "air": (hu < -950).mean(),
        "lung": ((hu > -930) & (hu < -700)).mean(),
        "soft": ((hu > -20) & (hu < 120)).mean(),
        "bone": (hu > 250).mean(),
    }
    assert share["air"] > 0.15
    assert share["lung"] > 0.06
    assert share["soft"] > 0.08
    assert 0.002 < share["bone"] < 0.12
    assert phantom.volume.stored.dtype == np.int16


def test_the_axes_run_to_superior_anterior_and_right():
    phantom = make_phantom(2, TINY)
    assert np.diag(phantom.volume.affine[:3, :3][::-1]).min() > 0
    body = Body(case())
    assert body.heart_centre[0] < 0  # the heart lies to the patient's left
    assert body.descending[0][2][0] < 0  # and so does the descending aorta


def test_the_liver_is_on_the_right_and_the_heart_on_the_left():
    phantom = make_phantom(
        8, PhantomConfig(size=(48, 72, 72)), case(FindingSpec("cardiomegaly", severity="mild"))
    )
    assert on_body(phantom)[:, 0].mean() < -5
    cyst = make_phantom(
        8, PhantomConfig(size=(48, 72, 72)), case(FindingSpec("liver cyst", size_mm=40))
    )
    assert on_body(cyst)[:, 0].min() > 0


@pytest.mark.parametrize("name", sorted(KINDS))
def test_every_finding_leaves_a_mark(name):
    finding = make_finding(name, np.random.default_rng(1), voxel_mm=9.0)
    phantom = make_phantom(5, PhantomConfig(size=(40, 56, 56)), case(finding))
    plain = make_phantom(5, PhantomConfig(size=(40, 56, 56)), case())
    assert (phantom.lesion_mask == 1).any()
    assert (phantom.volume.hu != plain.volume.hu).any()


@pytest.mark.parametrize(
    "name",
    ["pleural effusion", "pneumothorax", "consolidation", "nodule", "pulmonary mass", "pacemaker"],
)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_finding_lies_on_its_side(name, side):
    kind = KINDS[name]
    finding = make_finding(
        name,
        np.random.default_rng(2),
        9.0,
        side=side,
        **({"lobe": "lower"} if kind.lobar else {}),
    )
    x = on_body(make_phantom(6, PhantomConfig(size=(40, 56, 56)), case(finding)))[:, 0]
    assert np.median(x) > 10 if side == "right" else np.median(x) < -10


def test_a_lesion_lies_in_its_lobe():
    for lobe, low in (("upper", False), ("lower", True)):
        finding = FindingSpec("nodule", "right", lobe, 24, "solid", seed=9)
        points = on_body(make_phantom(6, PhantomConfig(size=(48, 64, 64)), case(finding)))
        x, y, z = points.mean(0).astype(np.float32).reshape(3, 1)
        assert (Body(case()).fissures(x, y, z)[0][0] < 0) == low


def test_a_larger_size_fills_more_voxels():
    config = PhantomConfig(size=(48, 72, 72))
    n = [
        int(
            (
                make_phantom(
                    3, config, case(FindingSpec("pulmonary mass", "left", "lower", mm, seed=1))
                ).lesion_mask
                > 0
            ).sum()
        )
        for mm in (34, 50, 70)
    ]
    assert n[0] < n[1] < n[2]


def test_one_changed_attribute_changes_only_the_lesion():
    left = FindingSpec("nodule", "left", "upper", 26, "solid", seed=7)
    a = make_phantom(9, TINY, case(left))
    b = make_phantom(9, TINY, case(replace(left, side="right")))
    changed = (a.volume.hu != b.volume.hu).mean()
    assert 0 < changed < 0.02
    assert a.acquisition == b.acquisition


def test_acquisition_does_not_depend_on_findings():
    sick = make_phantom(9, TINY, case(FindingSpec("pleural effusion", "left", size_mm=40)))
    assert sick.acquisition == make_phantom(9, TINY, case()).acquisition


def test_one_case_can_be_scanned_twice():
    patient = case(FindingSpec("pulmonary mass", "left", "lower", 50, seed=1))
    a = render(patient, sample_acquisition(1, SMALL), SMALL)[0]
    b = render(patient, sample_acquisition(2, SMALL, shift="shifted"), SMALL)[0]
    assert a.content_hash != b.content_hash


def test_shifted_scans_share_no_noise_level_with_usual_ones():
    usual = [sample_acquisition(s, SMALL).noise_hu for s in range(100)]
    shifted = [sample_acquisition(s, SMALL, shift="shifted").noise_hu for s in range(100)]
    assert max(usual) < min(shifted)
