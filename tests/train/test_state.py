"""Where a run stands, in one file that is whole or not there."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from medfinder.errors import ArtifactError, Mismatch
from medfinder.train.state import load_state, save_state

Run = tuple[dict[str, nn.Module], torch.optim.Optimizer]


def run(width: int = 4, seed: int = 0) -> Run:
    torch.manual_seed(seed)
    modules: dict[str, nn.Module] = {
        "model": nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width)),
        "objective": nn.Linear(width, 1),
    }
    parameters = [p for m in modules.values() for p in m.parameters()]
    return modules, torch.optim.AdamW(parameters, 0.1)


def step(made: Run, n: int = 1) -> None:
    modules, optimizer = made
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    for _ in range(n):
        optimizer.zero_grad()
        modules["objective"](modules["model"](x)).square().mean().backward()
        optimizer.step()


def values(made: Run) -> dict[str, Any]:
    return {f"{n}/{k}": v.clone() for n, m in made[0].items() for k, v in m.state_dict().items()}


def test_a_run_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    whole, stopped, resumed = run(), run(), run(seed=9)
    step(whole, 5)
    step(stopped, 3)
    save_state(tmp_path / "s", *stopped, {"step": 3, "bad": {"a": "why"}})
    assert load_state(tmp_path / "s", *resumed) == {"step": 3, "bad": {"a": "why"}}
    step(resumed, 2)
    for name, tensor in values(whole).items():
        assert torch.equal(values(resumed)[name], tensor), name


def test_the_first_state_of_a_run_has_no_moments(tmp_path: Path) -> None:
    fresh, other = run(), run(seed=9)
    save_state(tmp_path / "s", *fresh, {})
    assert load_state(tmp_path / "s", *other) == {}
    assert all(torch.equal(values(other)[k], v) for k, v in values(fresh).items())
    assert not other[1].state


def damaged(content: bytes) -> bytes:
    return content[:-9]


@pytest.mark.parametrize(
    "harm",
    [
        damaged,
        lambda _: b"",
        lambda _: b"not tensors",
        lambda c: c.replace(b"facts", b"fakts"),
        lambda c: c[:-9] + bytes([c[-9] ^ 1]) + c[-8:],  # a bit of a weight
    ],
)
def test_a_damaged_state_is_said(tmp_path: Path, harm: Callable[[bytes], bytes]) -> None:
    save_state(tmp_path / "s", *run(), {})
    (tmp_path / "s").write_bytes(harm((tmp_path / "s").read_bytes()))
    with pytest.raises(Mismatch, match=r"The run's state cannot be read .*another folder"):
        load_state(tmp_path / "s", *run())


def test_a_state_of_another_architecture_is_said(tmp_path: Path) -> None:
    save_state(tmp_path / "s", *run(), {})
    with pytest.raises(
        Mismatch, match=r"state is of another architecture\. Resume with the recipe"
    ):
        load_state(tmp_path / "s", *run(width=5))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_leaves_the_state_before_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    made = run()
    step(made)
    save_state(tmp_path / "s", *made, {"step": 1})
    before = values(made)
    step(made)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing(code))
        with pytest.raises(ArtifactError, match=r"The disk is full: .* MiB\. .*--resume"):
            save_state(tmp_path / "s", *made, {"step": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
    other = run(seed=9)
    assert load_state(tmp_path / "s", *other) == {"step": 1}
    assert all(torch.equal(values(other)[k], v) for k, v in before.items())


def test_another_fault_of_the_disk_is_not_called_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        save_state(tmp_path / "s", *run(), {})


def failing(code: int) -> Callable[[int], None]:
    def fail(_: int) -> None:
        raise OSError(code, os.strerror(code))

    return fail
