"""Perturbations: what each does to voxels, geometry and words, and that it does it every time."""

import numpy as np
import pytest

from medfinder.benchmark.robustness import (
    add_noise,
    affirmed_sentences,
    cut,
    finding_names,
    first_finding,
    mirror,
    misspell,
    names_as_sentences,
    offset_hu,
    perturb_text,
    perturb_volume,
    perturbations,
    sharp_kernel,
    smooth_kernel,
    swap_axes,
    thicker_slices,
)
from medfinder.errors import InputError, UnknownName
from medfinder.volume.volume import Volume

REPORT = (
    "There is a left pleural effusion. No pneumothorax. A nodule of 12 mm in the right upper lobe."
)


def affine_of(spacing: tuple[float, float, float]) -> np.ndarray:
    affine = np.zeros((4, 4))
    for axis, world in enumerate((2, 1, 0)):
        affine[world, axis] = spacing[axis]
    affine[:, 3] = (-40, 30, 100, 1)
    return affine


def volume(
    shape: tuple[int, int, int] = (40, 30, 20),
    spacing: tuple[float, float, float] = (2.0, 4.0, 5.0),
    seed: int = 0,
) -> Volume:
    stored = np.random.default_rng(seed).integers(0, 2000, shape).astype(np.int16)
    return Volume(stored, affine_of(spacing), intercept=-1024.0)


def world(one: Volume, at: tuple[float, float, float]) -> np.ndarray:
    return np.asarray((one.affine @ [*at, 1.0])[:3])


@pytest.mark.parametrize("name", perturbations.names())
def test_a_perturbation_changes_something_and_the_same_way_every_time(name: str) -> None:
    one = perturbations.get(name)
    assert one.says
    if one.acts_on == "text":
        assert perturb_text(REPORT, [name]) == perturb_text(REPORT, [name]) != REPORT
        return
    given = volume((80, 70, 70))
    made, again = perturb_volume(given, [name]), perturb_volume(given, [name])
    assert made.content_hash == again.content_hash != given.content_hash
    assert np.array_equal(made.hu, again.hu)
    assert given.content_hash == volume((80, 70, 70)).content_hash  # the given one is untouched


def test_names_of_the_other_kind_are_passed_over() -> None:
    given = volume()
    assert perturb_volume(given, ["lower-case"]) is given
    assert perturb_text(REPORT, ["noise-30hu"]) == REPORT


def test_changes_follow_each_other_in_order() -> None:
    text = perturb_text(REPORT, ["affirmed-only", "lower-case"])
    assert text.startswith("there is a left pleural effusion. a nodule")


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="noise-30hu"):
        perturb_volume(volume(), ["noise-30"])
    with pytest.raises(UnknownName):
        perturb_text(REPORT, ["loud"])


def test_thicker_slices_are_means_and_begin_at_the_same_edge() -> None:
    given = volume()
    made = thicker_slices(given, 8.0)  # four slices of 2 mm
    assert made.spacing_mm == pytest.approx((8, 4, 5))
    assert made.shape == (10, 30, 20)
    assert made.hu[3] == pytest.approx(given.hu[12:16].mean(0), abs=0.51)
    assert world(made, (-0.5, 0, 0)) == pytest.approx(world(given, (-0.5, 0, 0)))


def test_a_slice_across_old_ones_takes_its_share_of_each() -> None:
    given = volume()
    made = thicker_slices(given, 3.0)  # one and a half slices
    assert made.shape[0] == 27
    expected = (0.5 * given.hu[1] + given.hu[2]) / 1.5
    assert made.hu[1] == pytest.approx(expected, abs=0.51)


def test_slices_as_thick_already_stay() -> None:
    given = volume(spacing=(6.0, 4.0, 5.0))
    assert thicker_slices(given, 5.0) is given


def test_noise_has_the_spread_it_says_and_none_of_another_volume() -> None:
    given = volume((30, 40, 40))
    noise = add_noise(given, 30).hu - given.hu
    assert noise.std() == pytest.approx(30, rel=0.02)
    assert abs(noise.mean()) < 0.5
    other = volume((30, 40, 40), seed=1)
    other_noise = add_noise(other, 30).hu - other.hu
    assert abs(np.corrcoef(noise.ravel(), other_noise.ravel())[0, 1]) < 0.02
    assert not np.array_equal(add_noise(given, 30, seed=1).hu, add_noise(given, 30).hu)


def test_a_smooth_kernel_keeps_means_and_slices_apart() -> None:
    given = volume()
    made = smooth_kernel(given, 6.0)
    assert made.hu.std() < 0.7 * given.hu.std()
    assert made.hu.mean((1, 2)) == pytest.approx(given.hu.mean((1, 2)), abs=15)


def test_a_sharp_kernel_adds_what_the_smooth_one_takes_away() -> None:
    given = volume()
    sum_ = sharp_kernel(given, 6.0).hu + smooth_kernel(given, 6.0).hu
    assert sum_ == pytest.approx(2 * given.hu, abs=1.01)


def test_a_mirrored_volume_says_the_opposite_side_where_it_was() -> None:
    given = volume()
    made = mirror(given, (2,))
    assert np.array_equal(made.hu, given.hu[:, :, ::-1])
    assert np.array_equal(made.affine, given.affine)


def test_swapped_axes_keep_each_its_spacing() -> None:
    given = volume()
    made = swap_axes(given, (1, 0, 2))
    assert made.shape == (30, 40, 20)
    assert made.spacing_mm == pytest.approx((4, 2, 5))
    assert made.hu[7, 11, 3] == given.hu[11, 7, 3]


def test_a_cut_keeps_voxels_where_they_are_in_the_world() -> None:
    given = volume((60, 30, 30), (2.0, 4.0, 5.0))
    made = cut(given, below_mm=10, above_mm=6, field_mm=80)
    assert made.shape == (52, 20, 16)
    assert made.hu[0, 0, 0] == given.hu[5, 5, 7]
    assert world(made, (0, 0, 0)) == pytest.approx(world(given, (5, 5, 7)))


def test_a_cut_that_leaves_nothing_is_an_error() -> None:
    with pytest.raises(InputError, match="leave 20 mm") as caught:
        cut(volume(), above_mm=60)  # 80 mm high
    assert caught.value.rule == "too-small"


def test_an_offset_moves_every_value() -> None:
    given = volume()
    assert offset_hu(given, -50).hu == pytest.approx(given.hu - 50)


def test_values_that_are_not_finite_are_told() -> None:
    stored = np.zeros((20, 20, 20), np.float32)
    stored[3, 3, 3] = np.nan
    with pytest.raises(InputError) as caught:
        smooth_kernel(Volume(stored, affine_of((4.0, 4.0, 4.0))), 3.0)
    assert caught.value.rule == "not-finite"


@pytest.mark.parametrize("n", [1, 2])
def test_each_sentence_has_so_many_mistyped_words(n: int) -> None:
    changed = misspell(REPORT, n)
    before, after = REPORT.split(". "), changed.split(". ")
    assert len(before) == len(after)
    for old, new in zip(before, after, strict=True):
        old_words, new_words = old.split(), new.split()
        assert len(old_words) == len(new_words)
        wrong = [(a, b) for a, b in zip(old_words, new_words, strict=True) if a != b]
        n_long = sum(len(w.strip(".")) >= 4 for w in old_words)
        assert len(wrong) == min(n, n_long)
        assert all(a[0] == b[0] for a, b in wrong)


@pytest.mark.parametrize("text", ["", "No.", "12 mm", "Ñandú año opacificación."])
def test_any_text_can_be_mistyped(text: str) -> None:
    for seed in range(20):
        assert isinstance(misspell(text, 2, seed), str)


def test_what_is_affirmed_is_kept() -> None:
    assert affirmed_sentences(REPORT) == (
        "There is a left pleural effusion. A nodule of 12 mm in the right upper lobe."
    )
    assert finding_names(REPORT) == "pleural effusion, nodule"
    assert names_as_sentences(REPORT) == "Pleural effusion. Nodule."
    assert first_finding(REPORT) == "pleural effusion"


@pytest.mark.parametrize("text", ["", "No pneumothorax.", "Unremarkable study."])
def test_a_text_that_affirms_nothing_is_kept_whole(text: str) -> None:
    for change in (affirmed_sentences, finding_names, names_as_sentences, first_finding):
        assert change(text) == text
