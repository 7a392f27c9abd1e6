"""Steps made into functions, and run over a few items: what every worker does, wherever it is."""

import os
import pickle
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from medfinder.errors import InputError, MedFinderError
from medfinder.scale.engine import Step, may_pass

_threads: int | None = None


def threads() -> int | None:
    """How many threads a step may use in this worker; None in the caller's own process."""
    return _threads


def confine(n: int) -> None:
    """Say, in a worker, how many threads it has; before any library that counts them is imported."""
    global _threads
    _threads = n
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(n)


@dataclass(frozen=True, slots=True)
class Raised:
    """What stands in the place of a result.

    Attributes:
        error: As it was raised, fit to be sent.
    """

    error: Exception


class Line:
    """Steps one after the other, each with what it holds.

    Args:
        steps: Made here and now: what `Step.make` raises is raised.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = [(step, step.make()) for step in steps]

    def __bool__(self) -> bool:
        """Whether there is any step."""
        return bool(self._steps)

    def run(self, values: Sequence[Any]) -> list[Any]:
        """Return each item's result, or `Raised`; nothing but an exit is raised."""
        made = list(values)
        for step, function in self._steps:
            live = [i for i, value in enumerate(made) if not isinstance(value, Raised)]
            size = step.batch or 1
            for start in range(0, len(live), size):
                places = live[start : start + size]
                results = _called(function, [made[i] for i in places], bool(step.batch))
                for i, result in zip(places, results, strict=True):
                    made[i] = result
        return made


def _called(function: Callable[[Any], Any], values: list[Any], is_batch: bool) -> list[Any]:
    try:
        results = list(function(values)) if is_batch else [function(values[0])]
        if len(results) != len(values):
            raise TypeError(f"A step returned {len(results)} results for {len(values)} items.")
    except Exception as error:  # handed over: the engine tells whose fault it is
        return [Raised(sendable(error))] * len(values)
    return [Raised(sendable(r)) if isinstance(r, InputError) else r for r in results]


def sendable(error: Exception) -> Exception:
    """Return the error, or one that says its type, where it would not survive pickling."""
    if not isinstance(error, MedFinderError) and not may_pass(error):  # for whoever mends the code
        error.add_note("In a worker:\n" + "".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  our own bytes
    except Exception:
        return RuntimeError(f"A step failed with {type(error).__name__}.")
    return error
