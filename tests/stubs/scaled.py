"""Steps that do little and go wrong on purpose: for tests of engines, whose workers import them."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medfinder.embed import prepare
from medfinder.errors import InputError, MissingExtra
from medfinder.scale.engine import Step
from medfinder.scale.line import threads
from medfinder.studies import read_studies
from medfinder.volume.read import VolumeRef, read_study
from stubs.encoders import GridEncoder


def step(function: Callable[..., Any], *arguments: Any, batch: int = 0, gpu: bool = False) -> Step:
    """Return the step that calls ``function(*arguments, item)``."""
    return Step(partial(partial, function, *arguments), batch, gpu)


def double(item: int) -> int:
    return 2 * item


def slow_double(seconds: float, item: int) -> int:
    time.sleep(seconds)
    return 2 * item


def double_all(items: Sequence[int]) -> list[int | InputError]:
    """Double a batch; -1 is bad, and a batch of more than three is refused."""
    assert len(items) <= 3
    return [InputError("It is -1.", rule="negative") if i == -1 else 2 * i for i in items]


def told_apart(item: int) -> int:
    """Double it, or refuse 3."""
    if item == 3:
        raise InputError("The item is 3.", rule="three")
    return 2 * item


def die_at(bad: int, item: int) -> int:
    """Double it, or be killed."""
    if item == bad:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * item


def hang_at(bad: int, item: int) -> int:
    """Double it, or do not come back."""
    while item == bad:
        time.sleep(60)
    return 2 * item


def noted(folder: Path, item: int) -> int:
    """Write down in a file of its own that the item is at work."""
    (folder / f"{item}-{time.monotonic_ns()}").write_text(f"{os.getpid()} {time.monotonic()}")
    return item


def die_until(folder: Path, times: int, bad: int, item: int) -> int:
    """Double it; be killed at one item the first times that it is tried."""
    if item == bad:
        noted(folder, item)
        if len(list(folder.glob(f"{item}-*"))) <= times:
            os.kill(os.getpid(), signal.SIGKILL)
    return 2 * item


def die_at_row(folder: Path, times: int, row: int, job: tuple[int, Any]) -> tuple[int, Any]:
    """Hand a job of training's on; be killed at one row the first times that it is tried."""
    die_until(folder, times, row, job[0])
    return job


def die_at_item(item: str, job: Any) -> Any:
    """Hand on what is inspected or copied; be killed at one volume's inspection."""
    if isinstance(job, VolumeRef) and job.item == item:
        os.kill(os.getpid(), signal.SIGKILL)
    return job


def fail_until(folder: Path, times: int, bad: int, item: int) -> int:
    """Double it; fail to read one item the first times that it is tried."""
    if item == bad:
        noted(folder, item)
        if len(list(folder.glob(f"{item}-*"))) <= times:
            raise ConnectionResetError(104, "reset", f"/archive/{item}")
    return 2 * item


def alone_or_die(folder: Path, bad: int, item: int) -> int:
    """Double it; one item is killed while any other is at work, as where memory is short."""
    mark = folder / f"at-work-{item}-{os.getpid()}"
    mark.touch()
    try:
        if item == bad:
            until = time.monotonic() + 1.0
            while time.monotonic() < until:
                if len(list(folder.glob("at-work-*"))) > 1:
                    mark.unlink()
                    os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(0.01)
        time.sleep(0.02)
        return 2 * item
    finally:
        mark.unlink()


def full_disk(item: int) -> int:
    raise OSError(28, "No space left on device")


def fault(item: int) -> int:
    return 1 // (item - 3)


def process_of(item: int) -> tuple[int, int | None, str | None]:
    """Return the process, the threads it was given, and the environment's word for them."""
    time.sleep(0.2)  # so that no worker is done before another begins
    return os.getpid(), threads(), os.environ.get("OMP_NUM_THREADS")


def unsendable(item: int) -> Any:
    return lambda: item


def unmade() -> Callable[[Any], Any]:
    """A step that cannot be made: its package is not installed."""
    raise MissingExtra('pip install "medfinder[nothing]"')


def dying() -> Callable[[Any], Any]:
    """A step whose making takes the process down."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def counted(folder: Path) -> Callable[[int], int]:
    """A step that writes down each time it is made."""
    (folder / f"made-{os.getpid()}-{time.monotonic_ns()}").touch()
    return double


def voxel_sum(studies: Path, study_id: str) -> float:
    """Return what tells a study's volume to a `Killer`."""
    (study,) = [s for s in read_studies(studies / "studies.parquet") if s.study_id == study_id]
    config = GridEncoder().info.preprocess
    assert config is not None
    return float(prepare(study_id, partial(read_study, study), config).sum())


class Killer(GridEncoder):
    """A `GridEncoder` whose process is killed at one volume: once, or every time.

    Args:
        at: Sum of the volume as it was preprocessed.
        once: A file that says that it was done; "" to be killed every time.
    """

    def __init__(self, at: float, once: str = "") -> None:
        super().__init__()
        self.at = at
        self.once = once

    def region_features(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
        is_it = abs(float(batch.sum()) - self.at) < 1e-4
        if is_it and not (self.once and Path(self.once).exists()):
            if self.once:
                Path(self.once).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().region_features(batch)


class Elsewhere(GridEncoder):
    """A `GridEncoder` of which other processes have other weights."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        GridEncoder.__init__(self, weights="2")


def beside(made: tuple[int, int | None, str | None]) -> tuple[int, int, str | None]:
    """Return the process that the step before ran in, this one, and the GPUs it was given."""
    return made[0], os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES")
