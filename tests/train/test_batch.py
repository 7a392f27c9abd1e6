"""A batch is decided by the set, the seed and the step, and by nothing that came before."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from medfinder.errors import ConfigError, InputError
from medfinder.train.augment import AugmentConfig
from medfinder.train.batch import Batch, moved
from medfinder.train.dataset import TrainingSet
from medfinder.train.sampling import SamplingConfig
from medfinder.volume.preprocess import PreprocessConfig
from stubs.training import batches, phantoms, without


def same(a: Batch, b: Batch) -> bool:
    return (
        a.study_ids == b.study_ids
        and a.texts == b.texts
        and (a.statements and a.statements.sentences) == (b.statements and b.statements.sentences)
        and bool(torch.equal(a.views(0), b.views(0)))
    )


def test_the_same_step_gives_the_same_batch_whatever_came_before() -> None:
    made = batches(seed=3)
    fresh = batches(seed=3)
    for step in range(4):
        made.batch(step)
    assert same(made.batch(5), fresh.batch(5))


def test_another_step_or_seed_gives_another_batch() -> None:
    made = batches(seed=3)
    assert not same(made.batch(0), made.batch(2))
    assert not same(made.batch(0), batches(seed=4).batch(0))


def test_an_epoch_draws_no_study_twice() -> None:
    made = batches(size=2)
    for epoch in range(3):
        drawn = [int(i) for step in range(4) for i in made.drawn(4 * epoch + step)]
        assert sorted(drawn) == list(range(8))
    assert list(made.drawn(0)) != list(made.drawn(4))


def test_what_is_over_in_one_epoch_is_drawn_in_others() -> None:
    made = batches(size=3)
    seen = {int(i) for step in range(12) for i in made.drawn(step)}
    assert seen == set(range(8))
    assert all(len(set(map(int, made.drawn(step)))) == 3 for step in range(12))


def test_processes_share_the_batch_that_one_would_have() -> None:
    whole = batches(seed=1).batch(2)
    parts = [batches(seed=1, rank=rank, n_ranks=2).batch(2) for rank in (0, 1)]
    assert parts[0].study_ids + parts[1].study_ids == whole.study_ids
    assert parts[0].texts + parts[1].texts == whole.texts
    assert torch.equal(torch.cat([part.views(1) for part in parts]), whole.views(1))


def test_volumes_that_stay_on_the_device_are_those_of_the_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("medfinder.train.batch.MOVED_AT_ONCE", 3)
    read, kept = batches(seed=2), batches(seed=2)
    there = moved(kept.data.volumes, torch.device("cpu"))
    assert np.array_equal(there.numpy(), kept.data.volumes)
    vars(kept)["_resident"] = there  # as on a GPU
    for step in range(3):
        assert same(read.batch(step), kept.batch(step))
        assert torch.equal(read.batch(step).volumes, kept.batch(step).volumes)


def test_two_views_differ_and_a_part_of_a_view_is_that_part() -> None:
    batch = batches().batch(0)
    assert not torch.equal(batch.views(0), batch.views(1))
    assert torch.equal(batch.views(1, slice(1, 3)), batch.views(1)[1:3])


def test_a_view_without_changes_is_the_volume() -> None:
    batch = batches(augment=AugmentConfig(0, 0, 0, 0)).batch(0)
    assert torch.equal(batch.views(0), batch.volumes / 255)


def test_text_sampling_changes_what_a_step_sees_and_not_what_it_is_judged_by() -> None:
    made = batches(sampling=SamplingConfig("sentences", min_share=0.2))
    seen = [text for step in range(4) for text in made.batch(step).texts]
    whole = [text for step in range(4) for text in made.batch(step).reports]
    assert sum(a != b for a, b in zip(seen, whole, strict=True)) >= 12
    assert all(len(a or "") <= len(b or "") for a, b in zip(seen, whole, strict=True))
    known = {text for texts in phantoms().reports for text in texts}
    assert set(whole) <= known


def test_both_wordings_of_a_report_come_up() -> None:
    made = batches()
    seen = {text for step in range(12) for text in made.batch(step).reports}
    assert any({a, b} <= seen for a, b in phantoms().reports)


def test_a_study_without_a_report_is_drawn_only_where_it_can_teach() -> None:
    data = without(phantoms(), 2, 5)
    told = batches(data, size=3)
    drawn = {int(i) for step in range(10) for i in told.drawn(step)}
    assert drawn == {0, 1, 3, 4, 6, 7}
    batch = batches(data, size=8, needs_report=False).batch(0)
    silent = [i for i, text in enumerate(batch.texts) if text is None]
    assert {batch.study_ids[i] for i in silent} == {data.study_ids[2], data.study_ids[5]}
    assert batch.report_group[silent].tolist() == [-1, -1]
    assert batch.statements is not None
    assert len(batch.statements.truth) == 6


def test_a_batch_larger_than_the_set_is_refused() -> None:
    with pytest.raises(ConfigError, match="batch_size is 9, but there are 8 studies to draw from"):
        batches(size=9)
    with pytest.raises(ConfigError, match="7 studies to draw from that have a report"):
        batches(without(phantoms(), 0), size=8)


def test_a_batch_that_processes_cannot_share_is_refused() -> None:
    with pytest.raises(ConfigError, match="a multiple of the 3 processes"):
        batches(size=4, n_ranks=3)


def floats(*, bad: int) -> TrainingSet:
    """The phantoms as floats in -1..1, one with a NaN voxel."""
    config = PreprocessConfig(size=(32, 32, 32), output_range=(-1.0, 1.0))
    volumes = phantoms().volumes.astype(np.float32) / 127.5 - 1
    volumes[bad, 0, 3, 3, 3] = np.nan
    return replace(phantoms(), volumes=volumes, preprocess=config)


def test_a_volume_with_a_nan_is_left_out_and_named() -> None:
    batch = batches(floats(bad=2), size=8).batch(0)
    assert batch.unreadable == (phantoms().study_ids[2],)
    assert phantoms().study_ids[2] not in batch.study_ids
    assert len(batch) == 7
    assert len(batch.views(0)) == 7
    assert 0 <= float(batch.views(0).min()) <= float(batch.views(0).max()) <= 1


def test_studies_that_turned_out_bad_are_left_out() -> None:
    gone = phantoms().study_ids[4]
    assert gone not in batches(size=8).batch(0, frozenset({gone})).study_ids


def test_a_batch_without_any_good_study_says_so() -> None:
    with pytest.raises(InputError, match="No study of step 0 can be used: all 8"):
        batches(size=8).batch(0, frozenset(phantoms().study_ids))
