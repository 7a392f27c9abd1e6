"""A run's numbers: one line of JSON a step, and the same to TensorBoard or Weights & Biases."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from medfinder.errors import MissingExtra

METRICS = "metrics.jsonl"

Writer = Callable[[str, Mapping[str, float], int], None]


class Curves:
    """Where numbers go.

    Args:
        file: Of lines; None to write nothing.
        write: Called with (part, values, step) for each line.
        end: Called once.
    """

    def __init__(
        self,
        file: IO[str] | None = None,
        write: Writer | None = None,
        end: Callable[[], None] | None = None,
    ) -> None:
        self.file, self.write, self.end = file, write, end

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Write the numbers of a step."""
        self._line({"step": step, **values})
        if self.write:
            self.write("train", values, step)

    def validation(self, step: int, values: Mapping[str, float]) -> None:
        """Write the measures of a validation."""
        self._line({"step": step, "validation": dict(values)})
        self.flush()
        if self.write:
            self.write("validation", values, step)

    def flush(self) -> None:
        """Hand all lines to the system, so that a kill loses none."""
        if self.file:
            self.file.flush()

    def close(self) -> None:
        """End; may be called again."""
        if self.file:
            self.file.close()
            self.file = None
        if self.end:
            self.end()
            self.write = self.end = None

    def _line(self, values: Mapping[str, Any]) -> None:
        if self.file:
            self.file.write(json.dumps(values) + "\n")


def open_curves(folder: Path, logger: str, step: int, config: Mapping[str, Any]) -> Curves:
    """Open the curves of a run, cut back to a step: what came after it will come again.

    Args:
        logger: "tensorboard", "wandb", "none", or "" to write nothing at all.
        step: Steps that the run has taken.
        config: Of the run.

    Raises:
        MissingExtra: The logger is not installed.
    """
    if not logger:
        return Curves()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / METRICS
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines() if step and path.is_file() else ():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue  # the line that a kill cut short
    path.write_text("".join(kept), encoding="utf-8")
    write, end = _LOGGERS[logger](folder, step, config)
    return Curves(path.open("a", encoding="utf-8"), write, end)


_Opened = tuple[Writer | None, Callable[[], None] | None]


def _none(folder: Path, step: int, config: Mapping[str, Any]) -> _Opened:
    return None, None


def _tensorboard(folder: Path, step: int, config: Mapping[str, Any]) -> _Opened:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingExtra(
            "TensorBoard is not installed: pip install 'medfinder[train]', or set train.logger to "
            "'none'."
        ) from None
    events = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def write(part: str, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            events.add_scalar(f"{part}/{name}", value, step)

    return write, events.close


def _wandb(folder: Path, step: int, config: Mapping[str, Any]) -> _Opened:
    try:
        import wandb  # type: ignore[import-not-found]
    except ImportError:
        raise MissingExtra(
            "Weights & Biases is not installed: pip install wandb, or set train.logger to "
            "'tensorboard'."
        ) from None
    run = wandb.init(dir=str(folder), config=dict(config), resume="allow", id=folder.resolve().name)

    def write(part: str, values: Mapping[str, float], step: int) -> None:
        run.log({f"{part}/{name}": value for name, value in values.items()}, step=step)

    return write, run.finish


_LOGGERS = {"tensorboard": _tensorboard, "wandb": _wandb, "none": _none}
