"""A view departs from its volume as far as it is told to, and the seed decides where."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from medfinder.errors import ConfigError
from medfinder.train.augment import AugmentConfig, _shifted, draw_change, view

STILL = {"shift_voxels": 0, "gain": 0.0, "offset": 0.0, "noise": 0.0}


def volumes(n: int = 3) -> Tensor:
    made = torch.randint(
        30, 220, (n, 1, 6, 7, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    return made


def seen(x: Tensor, seed: int = 0, **settings: Any) -> Tensor:
    config = AugmentConfig(**{**STILL, **settings})
    return view(x, config, torch.Generator().manual_seed(seed))


def test_the_seed_alone_decides_a_view() -> None:
    config = AugmentConfig()
    first, again, other = (
        view(volumes(), config, torch.Generator().manual_seed(seed)) for seed in (5, 5, 6)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    "settings", [{"shift_voxels": 2}, {"gain": 0.1}, {"offset": 0.1}, {"noise": 0.1}]
)
def test_every_change_can_be_switched_on_alone(settings: dict[str, Any]) -> None:
    still = volumes() / 255
    assert torch.equal(seen(volumes()), still)
    assert not torch.equal(seen(volumes(), **settings), still)


def test_volumes_of_one_batch_are_changed_each_in_its_own_way() -> None:
    same = volumes(1).expand(2, -1, -1, -1, -1)
    for settings in ({"shift_voxels": 2}, {"gain": 0.1}, {"offset": 0.1}, {"noise": 0.1}):
        a, b = seen(same, seed=1, **settings)
        assert not torch.equal(a, b), settings


def test_a_shift_moves_whole_voxels_and_repeats_the_edges() -> None:
    still = volumes(8) / 255
    moved = set()
    for one, was in zip(seen(volumes(8), shift_voxels=2), still, strict=True):
        found = [
            (i, j, k)
            for i in range(-2, 3)
            for j in range(-2, 3)
            for k in range(-2, 3)
            if torch.equal(one, shifted(was, (i, j, k)))
        ]
        assert len(found) == 1
        moved.add(found[0])
    assert len(moved) > 4
    assert {np.sign(step) for move in moved for step in move} >= {-1, 1}


def shifted(x: Tensor, by: tuple[int, int, int]) -> Tensor:
    for axis, step in enumerate(by, 1):
        at = (torch.arange(x.shape[axis]) + step).clamp(0, x.shape[axis] - 1)
        x = x.index_select(axis, at)
    return x


def test_a_gpu_shifts_as_a_cpu_does() -> None:
    x = torch.cat([volumes(5), 255 - volumes(5)], 1)  # two channels
    drawn = torch.Generator().manual_seed(3)
    changes = [draw_change(AugmentConfig(shift_voxels=3), drawn) for _ in x]
    expected = torch.stack([shifted(v, c.shift) for v, c in zip(x, changes, strict=True)])
    assert torch.equal(_shifted(x, changes), expected)


def test_contrast_and_brightness_stay_within_their_limits() -> None:
    still = volumes(64) / 255
    gained = (seen(volumes(64), gain=0.06) - 0.5) / (still - 0.5)
    assert 0.94 <= float(gained.min()) < 0.96
    assert 1.04 < float(gained.max()) <= 1.0601
    brighter = seen(volumes(64), offset=0.03) - still
    assert 0.02 < float(brighter.max()) <= 0.0301
    assert -0.0301 <= float(brighter.min()) < -0.02
    assert float((brighter - brighter[:, :, :1, :1, :1]).abs().max()) < 1e-6


def test_noise_is_no_stronger_than_asked() -> None:
    grain = seen(volumes(64), noise=0.02) - volumes(64) / 255
    deviations = grain.flatten(1).std(1)
    assert 0.014 < float(deviations.max()) < 0.024
    assert float(deviations.min()) < 0.004
    assert abs(float(grain.mean())) < 1e-3


def test_a_view_stays_between_0_and_1_and_the_volume_as_it_is() -> None:
    extremes = torch.tensor([0, 255], dtype=torch.uint8).repeat(1, 1, 4, 4, 2)
    before = extremes.clone()
    made = seen(extremes, gain=0.5, offset=0.5, noise=0.5)
    assert float(made.min()) >= 0
    assert float(made.max()) <= 1
    assert torch.equal(extremes, before)
    floats = extremes / 255
    kept = floats.clone()
    seen(floats, gain=0.5, offset=0.5, noise=0.5, shift_voxels=1)
    assert torch.equal(floats, kept)


def test_floats_are_seen_as_the_bytes_they_stand_for() -> None:
    config = AugmentConfig()
    a, b = (view(x, config, torch.Generator().manual_seed(1)) for x in (volumes(), volumes() / 255))
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", list(STILL))
def test_a_negative_change_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"augment\.\w+ is -.*; expected a finite number"):
        AugmentConfig(**{**STILL, name: -1})  # type: ignore[arg-type]
