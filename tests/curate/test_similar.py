import itertools
import time

import numpy as np
import pytest

from curate.conftest import body
from medfinder.curate.similar import (
    Groups,
    Rarity,
    is_same_scan,
    jaccard,
    near_copies,
    text_key,
    thumbnail,
    triples,
)
from medfinder.phantom.case import sample_case
from medfinder.phantom.wording import word
from medfinder.volume.volume import Volume


def changed(volume: Volume, noise_hu: float = 0.0, offset_hu: float = 0.0) -> Volume:
    rng = np.random.default_rng(5)
    hu = volume.hu + rng.normal(0, noise_hu, volume.shape) + offset_hu
    return Volume(hu.astype(np.int16), volume.affine)


def pairs(*volumes: Volume) -> list[tuple[int, int]]:
    sketches = np.stack([thumbnail(volume) for volume in volumes])
    return [(first, other) for first, other, _ in near_copies(sketches)]


def test_a_sketch_is_the_mean_of_equal_blocks() -> None:
    stored = np.arange(16**3, dtype=np.int16).reshape(16, 16, 16) % 500
    volume = Volume(stored, np.eye(4))
    means = stored.reshape(8, 2, 8, 2, 8, 2).mean(axis=(1, 3, 5))
    assert np.abs(thumbnail(volume) - means).max() <= 0.5


@pytest.mark.parametrize("shape", [(10, 9, 8), (3, 40, 17), (300, 130, 129)])
def test_a_sketch_of_any_shape_has_one_shape(shape: tuple[int, int, int]) -> None:
    assert thumbnail(Volume(np.zeros(shape, np.int16), np.eye(4))).shape == (8, 8, 8)


def test_the_same_scan_with_noise_or_an_offset_is_a_near_copy() -> None:
    first = body(1, size=64)
    assert pairs(first, body(2, size=64), changed(first, noise_hu=10)) == [(0, 2)]
    assert pairs(first, changed(first, offset_hu=-20)) == [(0, 1)]


def test_scans_of_two_patients_are_no_copies() -> None:
    assert pairs(*(body(seed, size=64) for seed in range(8))) == []


def test_one_new_nodule_is_no_copy() -> None:
    first = body(1, n_slices=40, size=80)
    hu = first.hu.copy()
    hu[18:24, 36:44, 20:28] = 30  # 24 mm in a lung
    assert pairs(first, Volume(hu.astype(np.int16), first.affine)) == []


def test_near_copies_are_those_that_a_plain_comparison_finds() -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(-900, 200, (12, 8, 8, 8))
    sketches = np.concatenate(
        [base, base[:6] + rng.integers(-6, 7, (6, 8, 8, 8)) + 15, base[6:] + 200]
    ).astype(np.int16)
    expected = []
    for other in range(len(sketches)):
        for first in range(other):
            difference = sketches[other].astype(float) - sketches[first]
            offset = np.median(difference[sketches[first] > -700])
            low, high = min(0, offset) - 8, max(0, offset) + 8
            if abs(offset) <= 40 and low <= difference.min() and difference.max() <= high:
                expected.append((first, other))
                break
    assert [(a, b) for a, b, _ in near_copies(sketches)] == expected
    assert expected == [(k, 12 + k) for k in range(6)]


def test_case_accents_and_punctuation_make_no_other_text() -> None:
    assert text_key("Lesión  pulmonar.") == text_key("lesion pulmonar")
    assert text_key("Lesión pulmonar") != text_key("lesion pleural")
    assert text_key(" . ") == ""


def reports(n: int) -> list[str]:
    return [word(sample_case(seed), seed, "en") for seed in range(n)]


def test_a_few_changed_words_keep_two_texts_near_and_a_rare_triple_in_common() -> None:
    long = [text for text in reports(60) if len(text.split()) > 80]
    assert len(long) > 20
    met = 0
    rarity = Rarity()
    for text in long:
        rarity.add(triples(text))
    for text in long:
        changed_text = text.replace(" the ", " this ", 1)
        a, b = triples(text), triples(changed_text)
        assert jaccard(a, b) >= 0.9
        met += bool(set(rarity.rarest(a)) & set(rarity.rarest(b)))
    assert met == len(long)


def test_texts_of_different_cases_are_not_near() -> None:
    sets = [triples(text) for text in reports(40) if len(text.split()) > 30]
    near = [1 for a, b in itertools.combinations(sets, 2) if jaccard(a, b) >= 0.9]
    assert near == []


def test_groups_that_share_a_member_are_one() -> None:
    groups = Groups(6)
    groups.join([4, 2])
    groups.join([5, 4])
    groups.join([0, 1])
    assert [groups.root(k) for k in range(6)] == [0, 0, 2, 3, 2, 2]


def test_a_lesion_that_no_sketch_sees_is_no_copy() -> None:
    first = body(1, n_slices=40, size=80)
    hu = first.hu + 12
    hu[20:22, 40, 24] = 30  # two voxels of 256,000
    nodule = Volume(hu.astype(np.int16), first.affine)
    sketches = np.stack([thumbnail(first), thumbnail(nodule)])
    assert len(list(near_copies(sketches))) == 1
    volumes = (first, nodule)
    seen = near_copies(sketches, lambda a, b, o: is_same_scan(volumes[a], volumes[b], o))
    assert list(seen) == []


@pytest.mark.parametrize("offset_hu", [-35, 0, 40])
@pytest.mark.parametrize("noise_hu", [0, 15])
def test_offset_and_noise_stay_one_scan(offset_hu: float, noise_hu: float) -> None:
    first = body(1, size=64)
    assert is_same_scan(first, changed(first, noise_hu, offset_hu), offset_hu)


def test_many_sketches_of_like_bodies_are_compared_in_seconds() -> None:
    rng = np.random.default_rng(0)
    base = rng.uniform(-900, 100, (8, 8, 8))
    sketches = (base + rng.normal(0, 10, (1500, 8, 8, 8))).astype(np.int16)
    start = time.process_time()
    assert list(near_copies(sketches)) == []
    assert time.process_time() - start < 20


def test_texts_of_one_template_meet_only_where_they_are_near() -> None:
    rng = np.random.default_rng(0)
    sets = []
    for _ in range(150):
        template = [f"w{k}" for k in range(60)]
        for k in rng.choice(60, rng.integers(0, 4), replace=False):
            template[k] = f"other{rng.integers(9)}"
        sets.append(triples(" ".join(template)))
    rarity = Rarity()
    for own in sets:
        rarity.add(own)
    rare = [set(rarity.rarest(own)) for own in sets]
    n_met = n_near = 0
    for a, b in itertools.combinations(range(len(sets)), 2):
        near = jaccard(sets[a], sets[b]) >= 0.9
        met = bool(rare[a] & rare[b])
        assert met or not near
        n_met, n_near = n_met + met, n_near + near
    assert n_near > 100
    assert n_met < 0.5 * len(sets) ** 2 / 2
