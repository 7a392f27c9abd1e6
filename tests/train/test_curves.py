"""A run's numbers, one line a step, cut back when the run is."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from medfinder.errors import MissingExtra
from medfinder.train.curves import METRICS, open_curves


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]


def write(folder: Path, first: int, last: int, logger: str = "none") -> None:
    curves = open_curves(folder, logger, first, {})
    for step in range(first + 1, last + 1):
        curves.step(step, {"loss": 1 / step})
        if step % 2 == 0:
            curves.validation(step, {"R@1": 0.5})
    curves.close()


def test_every_step_and_validation_is_a_line(tmp_path: Path) -> None:
    write(tmp_path / "run", 0, 2)
    assert lines(tmp_path / "run") == [
        {"step": 1, "loss": 1.0},
        {"step": 2, "loss": 0.5},
        {"step": 2, "validation": {"R@1": 0.5}},
    ]


def test_a_resumed_run_has_the_lines_of_one_that_was_never_stopped(tmp_path: Path) -> None:
    write(tmp_path / "whole", 0, 8)
    write(tmp_path / "parts", 0, 7)
    write(tmp_path / "parts", 4, 8)
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")


def test_a_line_that_a_kill_cut_short_is_dropped(tmp_path: Path) -> None:
    write(tmp_path, 0, 4)
    whole = (tmp_path / METRICS).read_text()
    (tmp_path / METRICS).write_text(whole + '{"step": 4, "lo')
    write(tmp_path, 4, 4)
    assert (tmp_path / METRICS).read_text() == whole


def test_a_new_run_starts_a_new_curve(tmp_path: Path) -> None:
    write(tmp_path, 0, 4)
    write(tmp_path, 0, 1)
    assert lines(tmp_path) == [{"step": 1, "loss": 1.0}]


def test_a_validation_is_on_the_disk_at_once(tmp_path: Path) -> None:
    curves = open_curves(tmp_path, "none", 0, {})
    curves.step(1, {"loss": 1.0})
    curves.validation(1, {"R@1": 0.5})
    assert len(lines(tmp_path)) == 2
    curves.close()
    curves.close()


def test_a_process_that_does_not_lead_writes_nothing(tmp_path: Path) -> None:
    write(tmp_path / "run", 0, 2, logger="")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("logger", "module", "text"),
    [
        ("tensorboard", "torch.utils.tensorboard", r"pip install 'medfinder\[train\]', or set"),
        ("wandb", "wandb", "pip install wandb, or set train.logger to 'tensorboard'"),
    ],
)
def test_a_missing_logger_gives_the_pip_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logger: str, module: str, text: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=text):
        open_curves(tmp_path, logger, 0, {})


def test_the_same_numbers_go_to_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write(tmp_path, 0, 3, "tensorboard")
    write(tmp_path, 2, 4, "tensorboard")  # resumed after step 2
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"train/loss", "validation/R@1"}
    seen = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert seen == [(step, pytest.approx(1 / step)) for step in (1, 2, 3, 4)]


def test_the_same_numbers_go_to_weights_and_biases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []

    class Wandb:
        @classmethod
        def init(cls, **settings: Any) -> "Wandb":
            sent.append(settings)
            return cls()

        def log(self, values: dict[str, float], step: int) -> None:
            sent.append((step, values))

        def finish(self) -> None:
            sent.append("finished")

    monkeypatch.setitem(sys.modules, "wandb", Wandb)  # type: ignore[arg-type]
    write(tmp_path / "run", 0, 2, "wandb")
    assert sent[0]["id"] == "run"
    assert sent[1:] == [
        (1, {"train/loss": 1.0}),
        (2, {"train/loss": 0.5}),
        (2, {"validation/R@1": 0.5}),
        "finished",
    ]
