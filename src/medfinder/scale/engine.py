"""What an engine is: it maps items through steps, and loses none, whoever does the work.

A stage says what is done to one item, as steps; an engine says where: `here` in the caller's
process, `processes` on this machine, `ray_cluster` on many. Results come one by one, so whoever
counts them has the progress. Knows no study, no volume and no network.
"""

import errno
import os
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from medfinder.errors import InputError

Item = TypeVar("Item")

ATTEMPTS = 3  # of an item whose worker died, or whose disk did not answer
LIMIT_S = 3600.0  # for an item; what takes longer hangs, and its worker is ended
PAUSE_S = 0.2  # before the second attempt where something was raised; twice that before the third

# What no item is to blame for, and no item can escape: the run ends, and goes on another time.
_OF_THE_RUN = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE}  # no room, no files
)


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that is done to each item.

    Attributes:
        make: Called once in each worker, with nothing; returns the function that takes an item, or
            what the step before made of it, and returns what the next one takes. What it holds, such
            as a model, is made once a worker. Picklable, for workers elsewhere.
        batch: Above 0, the function takes a list of at most so many, and returns a list as long, in
            which an InputError stands where an item is bad.
        gpu: Whether it is worth a GPU of its own, where the cluster has some.
    """

    make: Callable[[], Callable[[Any], Any]]
    batch: int = 0
    gpu: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no result for an item: the row of a dead letter.

    Attributes:
        rule: Of the InputError; ``"worker-died"``, ``"too-slow"``, ``"io-error"`` or
            ``"out-of-memory"`` where the machine may be to blame.
        reason: One sentence, without a path.
        attempts: How often it was tried.
        error: What was raised last; None where its worker died.
    """

    rule: str
    reason: str
    attempts: int = 1
    error: Exception | None = None


class Overdue(Exception):
    """What stands for the error of an item that was not done in time.

    Args:
        limit_s: The time, in s.
    """

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        super().__init__(f"An item was not done in {limit_s:g} s.")


class Engine(Protocol):
    """Whoever maps items through steps."""

    def map(
        self,
        items: Iterable[Item],
        steps: Sequence[Step],
        *,
        ordered: bool = True,
        chunk: int = 1,
        attempts: int = ATTEMPTS,
    ) -> Generator[tuple[Item, Any]]:
        """Yield (item, result or `Failure`) for every item.

        Items are taken a bounded number ahead of what was yielded, in the caller's thread. Closing
        the generator stops the workers: hold it in `contextlib.closing`.

        An item is tried again where its worker died, or it raised an OSError or a MemoryError, which
        may pass: the last time alone, while nothing else runs, where memory may be short. One that is
        not done in the engine's time limit, where workers are processes, is tried twice. Then it is a
        `Failure`. So is at once whatever raised an InputError. Any other error is nobody's but the
        code's or the machine's (a full disk): it is raised here, and ends the run.

        Args:
            items: Picklable, for workers elsewhere.
            steps: At least one.
            ordered: Whether results come in the order of the items, or as they are done.
            chunk: Items that are sent to a worker at once, where each takes little time. One that
                takes its worker down is found all the same.
            attempts: Most times that an item is tried.

        Raises:
            InputError: Workers cannot start (rule ``no-workers``).
            ConfigError: A step cannot be sent to another process.
        """
        ...


def may_pass(error: Exception) -> bool:
    """Tell whether another attempt may do better."""
    if isinstance(error, InputError):
        return False
    if isinstance(error, (ConnectionError, TimeoutError, Overdue)):
        return True
    if isinstance(error, OSError):  # one without a number is a decoder's word for a damaged file
        return error.errno is not None and error.errno not in _OF_THE_RUN
    return isinstance(error, MemoryError)


def judged(error: Exception | None, attempt: int, attempts: int) -> Failure | None:
    """Return the failure that an item's attempt came to; None where it is tried again.

    Args:
        error: What it raised, or `Overdue`; None where its worker died.
        attempt: Which attempt it was, from 1.
        attempts: Most there are; what is overdue has two at most.

    Raises:
        Exception: `error`, where it is not the item's.
    """
    if isinstance(error, Overdue):
        attempts = min(attempts, 2)
    if error is None or may_pass(error):
        return _given_up(error, attempt) if attempt >= attempts else None
    if isinstance(error, InputError):
        return _given_up(error, attempt)
    raise error


def _given_up(error: Exception | None, attempts: int) -> Failure:
    if isinstance(error, InputError):
        return Failure(error.rule, str(error), attempts, error)
    times = "once" if attempts == 1 else f"{attempts} times"
    if error is None:
        return Failure(
            "worker-died",
            f"The process that worked on it ended {times}: it is damaged, or needs more memory than "
            "there is.",
            attempts,
        )
    if isinstance(error, Overdue):
        reason = (
            f"It was not done in {error.limit_s:g} s, {times}: it is damaged, or its disk hangs."
        )
        return Failure("too-slow", reason, attempts, error)
    if isinstance(error, MemoryError):
        return Failure("out-of-memory", "It does not fit in memory.", attempts, error)
    number = getattr(error, "errno", None)
    said = f" ({os.strerror(number)})" if number else ""
    return Failure(
        "io-error",
        f"Its disk or network failed {times} with {type(error).__name__}{said}. See to it, and run "
        "again.",
        attempts,
        error,
    )
