"""Steps in processes of this machine: one that falls takes only its item, and is replaced."""

import contextlib
import multiprocessing
import os
import pickle
import queue
import signal
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, NamedTuple

from medfinder.errors import ConfigError
from medfinder.scale.engine import ATTEMPTS, LIMIT_S, Item, Step
from medfinder.scale.line import Line, Raised, confine, sendable
from medfinder.scale.schedule import (
    LOOK_S,
    Broken,
    Died,
    Done,
    Event,
    Ready,
    Unit,
    Worker,
    scheduled,
)

_STOP_S = 5.0  # for idle processes to end by themselves


def n_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


class Processes:
    """An engine of N spawned processes.

    Each runs all steps, so that what passes between them is not sent. They are started as items
    come, never more than there are items.

    Args:
        workers: Processes; 0 for one a core.
        threads: Of each, for what counts in several; 0 for ``OMP_NUM_THREADS`` where it is set, else
            the cores dealt out evenly. The same number gives the same bits.
        limit_s: Longest time for an item.

    Raises:
        ConfigError: A number is below 0.
    """

    def __init__(self, workers: int = 0, *, threads: int = 0, limit_s: float = LIMIT_S) -> None:
        for name, value in (("workers", workers), ("threads", threads)):
            if value < 0:
                raise ConfigError(f"Setting {name} is {value}; expected 0 (all cores) or more.")
        self.workers = workers or n_cores()
        self.limit_s = limit_s
        self.threads = threads or _said_threads() or max(1, n_cores() // self.workers)

    def map(
        self,
        items: Iterable[Item],
        steps: Sequence[Step],
        *,
        ordered: bool = True,
        chunk: int = 1,
        attempts: int = ATTEMPTS,
    ) -> Generator[tuple[Item, Any]]:
        """Yield every item's result; see `Engine.map`."""
        try:
            packed = pickle.dumps(tuple(steps))
        except Exception as error:
            raise ConfigError(
                "A step cannot be sent to another process: expected what pickle can write, got "
                f"{type(error).__name__}. Give an encoder by its name, or work without processes."
            ) from None
        crew = _Crew(self.workers, self.threads, packed)
        size = max(chunk, *(step.batch for step in steps))
        return scheduled(
            crew, items, chunk=size, attempts=attempts, ordered=ordered, limit_s=self.limit_s
        )


def _said_threads() -> int:
    said = os.environ.get("OMP_NUM_THREADS", "")
    return int(said) if said.isdecimal() else 0


class _Child(NamedTuple):
    process: SpawnProcess
    connection: Connection


class _Crew:
    def __init__(self, size: int, threads: int, steps: bytes) -> None:
        self.size = size
        self._threads = threads
        self._steps = steps
        self._workers: list[Worker] = []
        self._context = multiprocessing.get_context("spawn")

    def start(self) -> Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_serve, args=(theirs, self._threads), name="medfinder-worker", daemon=True
        )
        with _environment(OMP_NUM_THREADS=str(self._threads)):
            process.start()
        theirs.close()  # so that its end is seen
        worker = Worker(_Child(process, ours))
        self._workers.append(worker)
        self._write(worker, self._steps)
        return worker

    def send(self, worker: Worker, unit: Unit) -> None:
        items = [item for _, item in unit.items]
        self._write(worker, pickle.dumps((unit.number, items, unit.pause_s)))

    def _write(self, worker: Worker, message: bytes) -> None:
        with contextlib.suppress(OSError):  # it has fallen, which `wait` tells
            worker.handle.connection.send_bytes(message)

    def wait(self, block: bool) -> list[Event]:
        known = {}
        for worker in self._workers:
            known[worker.handle.connection] = known[worker.handle.process.sentinel] = worker
        events: list[Event] = []
        # What a process said before it fell counts: its connection is read to the end.
        for worker in dict.fromkeys(known[r] for r in wait(list(known), LOOK_S if block else 0)):
            try:
                while worker.handle.connection.poll():
                    events.append(self._event(worker, worker.handle.connection.recv_bytes()))
                is_alive = worker.handle.process.is_alive()
            except (EOFError, OSError):
                is_alive = False
            if not is_alive:
                self.end(worker)
                events.append(Died(worker))
        return events

    def _event(self, worker: Worker, message: bytes) -> Event:
        kind, value, results = pickle.loads(message)  # noqa: S301  of our own child
        if kind == "ready":
            return Ready(worker)
        if kind == "broken":
            return Broken(worker, value)
        return Done(worker, next(unit for unit in worker.flying if unit.number == value), results)

    def end(self, worker: Worker) -> None:
        self._workers.remove(worker)
        _end(worker.handle, at_once=True)

    def stop(self) -> None:
        for worker in self._workers:
            if worker.is_ready and not worker.flying:
                self._write(worker, b"")
            else:
                worker.handle.process.kill()
        for worker in self._workers:
            _end(worker.handle)
        self._workers.clear()


def _end(child: _Child, at_once: bool = False) -> None:
    if at_once:
        child.process.kill()
    child.process.join(_STOP_S)
    if child.process.is_alive():
        child.process.kill()
        child.process.join()
    child.process.close()
    child.connection.close()


@contextlib.contextmanager
def _environment(**said: str) -> Iterator[None]:
    """Have processes that start meanwhile find these variables."""
    before = {name: os.environ.get(name) for name in said}
    os.environ.update(said)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(connection: Connection, threads: int) -> None:
    """Run in the new process, until told to stop or nobody is there to tell."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl+C is for who started it
    confine(threads)
    inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def listen() -> None:
        # Always reading: whoever writes never waits for what is being worked on.
        while True:
            try:
                message = connection.recv_bytes()
            except (EOFError, OSError):
                os._exit(1)  # nobody is left to work for
            inbox.put(message)
            if not message:
                return

    threading.Thread(target=listen, name="medfinder-listen", daemon=True).start()
    try:
        line = Line(pickle.loads(inbox.get()))  # noqa: S301  of our own parent
        _say(connection, "ready")
        while message := inbox.get():
            number, items, pause_s = pickle.loads(message)  # noqa: S301
            time.sleep(pause_s)
            _say(connection, "done", number, line.run(items))
    except Exception as error:  # no item's: `Line.run` raises nothing
        _say(connection, "broken", sendable(error))


def _say(connection: Connection, kind: str, value: Any = None, results: Any = None) -> None:
    try:
        said = pickle.dumps((kind, value, results), pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        reason = TypeError(f"What a step made cannot be sent back: {type(error).__name__}.")
        said = pickle.dumps((kind, value, [Raised(reason)] * len(results)))
    connection.send_bytes(said)
