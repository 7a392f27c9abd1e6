"""Who works on what: items dealt out to workers that may fall, each tried again, none lost.

One rule for every kind of worker; a `Crew` is what starts them, sends to them and hears from them.

- A worker has at most `DEPTH` units, so that it has the next one when it is done; whoever is idle
  comes first when few are left.
- A worker's fall is the fault of the unit that it was at; those that waited behind it are dealt out
  again. A unit of several items is taken apart. The last attempt at one that took its
  worker down is made while nothing else runs: what wants all the memory there is has it.
- A worker that is at a unit for longer than its items have is ended, and the unit is to blame.
- At most `AHEAD` units a worker are read ahead of what was yielded.
"""

import time
from collections import deque
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from medfinder.errors import InputError
from medfinder.scale.engine import PAUSE_S, Failure, Item, Overdue, judged
from medfinder.scale.line import Raised

DEPTH = 2
AHEAD = 4
LOOK_S = 1.0  # how often workers are looked at that say nothing
_FALSE_STARTS = 3  # workers in a row that fell before they did anything


@dataclass(frozen=True, slots=True)
class Unit:
    """Items that are sent to a worker at once.

    Attributes:
        number: Of the unit; no other bears it.
        items: (place in the order, item) of each.
        attempt: From 1.
        pause_s: To wait before it is begun.
    """

    number: int
    items: tuple[tuple[int, Any], ...]
    attempt: int = 1
    pause_s: float = 0.0


@dataclass(eq=False, slots=True)
class Worker:
    """One of a crew.

    Attributes:
        handle: What the crew knows it by.
        is_ready: Whether its steps are made.
        flying: What it was sent and has not returned, in order.
        n_done: Units that it returned.
        since: When it came to the first of `flying`, by the clock that `time.monotonic` reads.
    """

    handle: Any
    is_ready: bool = False
    flying: deque[Unit] = field(default_factory=deque)
    n_done: int = 0
    since: float = 0.0


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker has made its steps."""

    worker: Worker


@dataclass(frozen=True, slots=True)
class Broken:
    """A worker could not make its steps: nor can any other."""

    worker: Worker
    error: Exception


@dataclass(frozen=True, slots=True)
class Done:
    """A worker returned a unit: each item's result, or `Raised`."""

    worker: Worker
    unit: Unit
    results: list[Any]


@dataclass(frozen=True, slots=True)
class Lost:
    """A unit came to nothing, and its worker did not fall."""

    worker: Worker
    unit: Unit


@dataclass(frozen=True, slots=True)
class Died:
    """A worker fell."""

    worker: Worker


Event = Ready | Broken | Done | Lost | Died


class Crew(Protocol):
    """Workers of one kind, all with the same steps."""

    @property
    def size(self) -> int:
        """How many there may be now, at least 1."""
        ...

    def start(self) -> Worker:
        """Start one; `Ready`, `Broken` or `Died` tells what came of it."""
        ...

    def send(self, worker: Worker, unit: Unit) -> None:
        """Send it a unit. Where it has fallen, the next `wait` says so."""
        ...

    def wait(self, block: bool) -> list[Event]:
        """Return what happened since; where nothing did, wait for it if `block`, at most `LOOK_S`."""
        ...

    def end(self, worker: Worker) -> None:
        """End one, whatever it is at; nothing more is heard of it."""
        ...

    def stop(self) -> None:
        """End all of them, whatever they are at."""
        ...


class Schedule:
    """One stream of items through a crew.

    Args:
        crew: Stopped at the end, or when the generator is closed.
        items: Taken in the caller's thread.
        chunk: Items a unit.
        attempts: Most of an item.
        ordered: Whether results wait for those before them.
        limit_s: Longest time for an item.
    """

    def __init__(
        self,
        crew: Crew,
        items: Iterable[Any],
        chunk: int,
        attempts: int,
        ordered: bool,
        limit_s: float,
    ) -> None:
        self._crew = crew
        self._source = enumerate(items)
        self._chunk = chunk
        self._attempts = attempts
        self._ordered = ordered
        self._limit_s = limit_s
        self._is_exhausted = False
        self._n_units = 0
        self._n_open = 0  # items read and not yielded
        self._next = 0  # place of the item that is yielded next
        self._waiting: deque[Unit] = deque()
        self._alone: deque[Unit] = deque()
        self._is_alone = False
        self._workers: list[Worker] = []
        self._false_starts = 0
        self._done: dict[int, tuple[Any, Any]] = {}  # place -> item and result

    def run(self) -> Generator[tuple[Any, Any]]:
        """Yield (item, result or `Failure`)."""
        try:
            while True:
                self._feed()
                found = self._pop()
                if found is None and not self._n_open:
                    return
                for event in self._crew.wait(block=found is None):
                    self._heard(event)
                self._end_overdue()
                self._feed()  # before whoever reads this takes its time
                if found is not None:
                    yield found
        finally:
            self._crew.stop()

    # -- out ---------------------------------------------------------------------

    def _pop(self) -> tuple[Any, Any] | None:
        place = self._next if self._ordered else next(iter(self._done), -1)
        if place not in self._done:
            return None
        self._next += 1
        self._n_open -= 1
        return self._done.pop(place)

    # -- in ----------------------------------------------------------------------

    def _reads(self, n: int) -> bool:
        """Tell whether at least `n` units wait, after reading what is missing and may be read."""
        most = AHEAD * self._crew.size * self._chunk
        while len(self._waiting) < n and not self._is_exhausted and self._n_open < most:
            items: list[tuple[int, Any]] = []
            for place, item in self._source:
                items.append((place, item))
                if len(items) == self._chunk:
                    break
            else:
                self._is_exhausted = True
            if items:
                self._n_open += len(items)
                self._waiting.append(self._unit(tuple(items)))
        return len(self._waiting) >= n

    def _unit(self, items: tuple[tuple[int, Any], ...], attempt: int = 1, pause: float = 0) -> Unit:
        self._n_units += 1
        return Unit(self._n_units, items, attempt, pause)

    def _feed(self) -> None:
        """Deal out units, and start workers for those that nobody takes."""
        if self._alone:
            if any(worker.flying for worker in self._workers):
                return
            ready = next((w for w in self._workers if w.is_ready), None)
            if ready is not None:
                self._is_alone = True
                self._send(ready, self._alone.popleft())
            elif not self._workers:
                self._workers.append(self._crew.start())
            return
        if self._is_alone:
            return
        for depth in range(DEPTH):
            for worker in self._workers:
                # A second unit is for who is busy; but the last ones are for who is idle.
                wanted = 1 if depth == 0 else len(self._workers)
                if worker.is_ready and len(worker.flying) == depth and self._reads(wanted):
                    self._send(worker, self._waiting.popleft())
        n_starting = sum(not worker.is_ready for worker in self._workers)
        while len(self._workers) < self._crew.size and self._reads(n_starting + 1):
            self._workers.append(self._crew.start())
            n_starting += 1

    def _send(self, worker: Worker, unit: Unit) -> None:
        if not worker.flying:
            worker.since = time.monotonic()
        worker.flying.append(unit)
        self._crew.send(worker, unit)

    def _end_overdue(self) -> None:
        now = time.monotonic()
        for worker in [worker for worker in self._workers if worker.flying]:
            unit = worker.flying[0]
            if now - worker.since > self._limit_s * len(unit.items) + unit.pause_s:
                self._crew.end(worker)
                self._is_alone = False
                self._fell(worker, Overdue(self._limit_s))

    # -- what is heard -----------------------------------------------------------

    def _heard(self, event: Event) -> None:
        worker = event.worker
        if isinstance(event, Broken):
            raise event.error
        if isinstance(event, Ready):
            worker.is_ready = True
            return
        self._is_alone = False
        if isinstance(event, Died):
            self._fell(worker)
            return
        worker.flying.remove(event.unit)
        worker.since = time.monotonic()
        worker.n_done += 1
        self._false_starts = 0
        if isinstance(event, Lost):
            self._again([(place, item, None) for place, item in event.unit.items], event.unit)
            return
        raised: list[tuple[int, Any, Exception | None]] = []
        for (place, item), result in zip(event.unit.items, event.results, strict=True):
            if isinstance(result, Raised):
                raised.append((place, item, result.error))
            else:
                self._done[place] = (item, result)
        self._again(raised, event.unit)

    def _fell(self, worker: Worker, error: Overdue | None = None) -> None:
        self._workers.remove(worker)
        if not worker.flying:
            if worker.n_done == 0:
                self._false_starts += 1
            if self._false_starts >= _FALSE_STARTS:
                raise InputError(
                    "Worker processes cannot start. In a script, call this below "
                    "\"if __name__ == '__main__':\", and run the script from a file. Elsewhere, see "
                    "whether there is memory enough for what each holds.",
                    rule="no-workers",
                )
            return
        guilty, *others = worker.flying
        self._waiting.extendleft(reversed(others))
        self._again([(place, item, error) for place, item in guilty.items], guilty)

    def _again(self, failed: list[tuple[int, Any, Exception | None]], unit: Unit) -> None:
        """Give each item another attempt, or up."""
        for place, item, error in reversed(failed):
            verdict: Failure | None
            # Of several, one is to blame: which one, the next attempt tells.
            several = (error is None or isinstance(error, Overdue)) and len(unit.items) > 1
            verdict = None if several else judged(error, unit.attempt, self._attempts)
            if verdict is not None:
                self._done[place] = (item, verdict)
                continue
            pause = 0.0 if error is None else PAUSE_S * unit.attempt
            again = self._unit(((place, item),), unit.attempt + 1, pause)
            is_short = error is None or isinstance(error, MemoryError)
            is_last = again.attempt >= self._attempts
            (self._alone if is_short and is_last else self._waiting).appendleft(again)


def scheduled(
    crew: Crew,
    items: Iterable[Item],
    *,
    chunk: int,
    attempts: int,
    ordered: bool,
    limit_s: float,
) -> Generator[tuple[Item, Any]]:
    """Yield (item, result or `Failure`) of every item; see `Engine.map`."""
    return Schedule(crew, items, chunk, attempts, ordered, limit_s).run()
