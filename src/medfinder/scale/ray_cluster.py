"""Steps on a Ray cluster: actors that hold the model, on as many machines as it has.

Where no machine has a GPU, an actor a core runs all steps, so that nothing passes between machines
but items and what becomes of them. Where some have, an actor a GPU runs the steps that are worth
one, and those before them run as tasks wherever a core is free; what they make goes from one to the
other through Ray's store, and not through this process. Actors with a GPU take no core, so that
tasks always have one: neither waits for the other for ever.

Ray Data is not used, though it streams and holds back as well: it drops a block that failed and does
not say which items were in it, tries an item that kills its actor again and again or not at all, and
orders nothing unless all wait. `schedule` has one rule for that, which processes follow too. An actor
that falls is never restarted by Ray, nor a task tried again: that is counted here.

Machines of the cluster need the same MedFinder, and must see the archive at the same path.
"""

import logging
import os
import socket
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any

from medfinder.errors import ConfigError, InputError, MissingExtra
from medfinder.scale.engine import ATTEMPTS, LIMIT_S, Item, Step
from medfinder.scale.line import Line, confine
from medfinder.scale.processes import n_cores
from medfinder.scale.schedule import (
    LOOK_S,
    Broken,
    Died,
    Done,
    Event,
    Lost,
    Ready,
    Unit,
    Worker,
    scheduled,
)

PIP = 'pip install "medfinder[ray]"'
PATIENCE_S = 300.0  # a cluster that grows on demand takes minutes to
_LOOK_S = 5.0  # how often the cluster is asked how large it is


class RayCluster:
    """An engine of a Ray cluster; a context manager, which leaves the cluster, or stops its own.

    Args:
        address: ``"auto"`` for the cluster that ``RAY_ADDRESS`` names or this machine belongs to,
            ``"local"`` for one on this machine that lasts as long as this, or a cluster's address.
            A connection that the caller has already opened is used, and left open.
        workers: Actors; 0 for as many as the cluster has room for, also while it grows.
        threads: Of each, which is the cores it takes. The same number gives the same bits.
        patience_s: How long to wait for the first worker.
        limit_s: Longest time for an item, in the cluster's queue besides.

    Raises:
        MissingExtra: Ray is not installed.
        InputError: No cluster is there (rule ``no-cluster``).
        ConfigError: A number is out of range.
    """

    def __init__(
        self,
        address: str = "auto",
        *,
        workers: int = 0,
        threads: int = 1,
        patience_s: float = PATIENCE_S,
        limit_s: float = LIMIT_S,
    ) -> None:
        if workers < 0:
            raise ConfigError(f"Setting workers is {workers}; expected 0 (all cores) or more.")
        if threads < 1:
            raise ConfigError(f"Setting threads is {threads}; expected 1 or more.")
        self.workers = workers
        self.threads = threads
        self.patience_s = patience_s
        self.limit_s = limit_s
        self._is_ours = _join(address, max(n_cores(), workers * threads))

    def close(self) -> None:
        """Leave the cluster; stop it where it was started here."""
        if self._is_ours:
            ray = _ray()
            self._is_ours = False
            ray.shutdown()

    def __enter__(self) -> "RayCluster":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def map(
        self,
        items: Iterable[Item],
        steps: Sequence[Step],
        *,
        ordered: bool = True,
        chunk: int = 1,
        attempts: int = ATTEMPTS,
    ) -> Generator[tuple[Item, Any]]:
        """Yield every item's result; see `Engine.map`.

        Raises:
            InputError: The cluster had no room for a worker (rule ``no-workers``).
        """
        ray = _ray()
        has_gpu = any(step.gpu for step in steps) and ray.cluster_resources().get("GPU", 0) >= 1
        n_before = [step.gpu for step in steps].index(True) if has_gpu else 0
        before = _packed(steps[:n_before]) if n_before else None
        crew = _Crew(self, before, _packed(steps[n_before:]), has_gpu)
        size = max(chunk, *(step.batch for step in steps))
        return scheduled(
            crew, items, chunk=size, attempts=attempts, ordered=ordered, limit_s=self.limit_s
        )


def _join(address: str, n_cpus: int) -> bool:
    """Connect to a cluster; return whether the connection is ours to close."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told who uses it, for what
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray = _ray()
    if ray.is_initialized():
        return False
    own = {"num_cpus": n_cpus, "include_dashboard": False} if address == "local" else {}
    try:
        _check_there(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except Exception as error:  # of many kinds: ConnectionError, RuntimeError, ValueError
        what = str(error).strip().partition("\n")[0][:200]
        raise InputError(
            f"No Ray cluster can be reached at {address!r} ({type(error).__name__}: {what}). Start "
            "one with 'ray start --head', give its address, or say 'local' for one on this machine.",
            rule="no-cluster",
        ) from None
    _keep_quiet()
    return True


def _check_there(address: str) -> None:
    """Raise an OSError where nobody listens: Ray would go on asking for minutes."""
    if address == "local":
        return
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "")
        if not address:
            from ray._private.services import get_ray_address_from_environment

            address = get_ray_address_from_environment("auto", None) or ""
    host, _, port = address.rpartition(":")
    if port.isdecimal() and "://" not in address:
        socket.create_connection((host, int(port)), timeout=5.0).close()


def _keep_quiet() -> None:
    """Have Ray print nothing: stdout is for data, and what fell is told by its item."""
    from ray._private import worker

    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = _unsaid


def _unsaid(*_: Any, **__: Any) -> None:
    pass


def _ray() -> Any:
    """Return the package, whose own types say little."""
    try:
        import ray
    except ImportError:
        raise MissingExtra(PIP) from None
    return ray


def _packed(steps: Sequence[Step]) -> bytes:
    try:
        return bytes(_ray().cloudpickle.dumps(tuple(steps)))
    except Exception as error:
        raise ConfigError(
            "A step cannot be sent to another machine: expected what pickle can write, got "
            f"{type(error).__name__}. Give an encoder by its name."
        ) from None


class _Actor:
    """What holds the steps on the cluster's side."""

    def __init__(self) -> None:
        self._line: Line | None = None

    def begin(self, steps: bytes, threads: int) -> None:
        """Make the steps."""
        self._line = _made(steps, threads)

    def run(self, values: list[Any], pause_s: float) -> list[Any]:
        """Run a unit."""
        assert self._line is not None
        time.sleep(pause_s)
        return self._line.run(values)


_lines: dict[bytes, Line] = {}


def _made(steps: bytes, threads: int) -> Line:
    """Return the steps, made once in this process."""
    confine(threads)
    if steps not in _lines:
        _lines.clear()  # those of another run are not wanted again
        _lines[steps] = Line(_ray().cloudpickle.loads(steps))
    return _lines[steps]


def _prepare(steps: bytes, threads: int, values: list[Any], pause_s: float) -> list[Any]:
    """Run, as a task, the steps before those of an actor."""
    time.sleep(pause_s)
    return _made(steps, threads).run(values)


class _Crew:
    def __init__(
        self, cluster: RayCluster, before: bytes | None, steps: bytes, has_gpu: bool
    ) -> None:
        ray = _ray()
        self._cluster = cluster
        self._has_gpu = has_gpu
        self._before = None if before is None else ray.put(before)
        self._steps = ray.put(steps)
        own = {"num_cpus": 0, "num_gpus": 1} if has_gpu else {"num_cpus": cluster.threads}
        self._actor = ray.remote(_Actor).options(max_restarts=0, max_task_retries=0, **own)
        self._task = ray.remote(_prepare).options(num_cpus=cluster.threads, max_retries=0)
        self._workers: list[Worker] = []
        self._refs: dict[Any, tuple[Worker, Unit | None]] = {}
        self._tasks: dict[int, Any] = {}  # number of a unit -> the task that prepares it
        self._size = (0, float("-inf"))
        self._begun = time.monotonic()

    @property
    def size(self) -> int:
        if self._cluster.workers:
            return self._cluster.workers
        size, seen = self._size
        if time.monotonic() - seen > _LOOK_S:
            ray = _ray()
            there = ray.cluster_resources()
            n = there.get("GPU", 0) if self._has_gpu else there.get("CPU", 0)
            size = max(1, int(n if self._has_gpu else n // self._cluster.threads))
            self._size = (size, time.monotonic())
        return size

    def start(self) -> Worker:
        worker = Worker(self._actor.remote())
        self._workers.append(worker)
        self._refs[worker.handle.begin.remote(self._steps, self._cluster.threads)] = (worker, None)
        return worker

    def send(self, worker: Worker, unit: Unit) -> None:
        values: Any = [item for _, item in unit.items]
        pause_s = unit.pause_s
        if self._before is not None:
            values = self._task.remote(self._before, self._cluster.threads, values, pause_s)
            self._tasks[unit.number] = values
            pause_s = 0.0
        self._refs[worker.handle.run.remote(values, pause_s)] = (worker, unit)

    def wait(self, block: bool) -> list[Event]:
        ray = _ray()
        refs = list(self._refs)
        done, _ = ray.wait(refs, timeout=LOOK_S if block else 0.0)
        if block and not done:
            self._check_patience()
        done, _ = ray.wait(refs, num_returns=len(refs), timeout=0.0)
        events: list[Event] = []
        for ref in done:
            events += self._heard(ref)
        return events

    def _heard(self, ref: Any) -> Iterator[Event]:
        ray = _ray()
        exceptions = ray.exceptions
        if ref not in self._refs:  # of a worker that has fallen
            return
        worker, unit = self._refs.pop(ref)
        if unit is not None:
            self._tasks.pop(unit.number, None)
        try:
            results = ray.get(ref)
        except exceptions.RayTaskError as error:
            if unit is not None and isinstance(error.cause, exceptions.RayError):
                yield Lost(worker, unit)  # the task that it waited for fell
            else:
                yield Broken(worker, error.cause if isinstance(error.cause, Exception) else error)
        except exceptions.RayActorError:
            self.end(worker)
            yield Died(worker)
        except exceptions.RayError:  # the machine that held its values
            yield Died(worker) if unit is None else Lost(worker, unit)
        else:
            yield Ready(worker) if unit is None else Done(worker, unit, results)

    def end(self, worker: Worker) -> None:
        ray = _ray()
        for unit in worker.flying:
            if unit.number in self._tasks:
                ray.cancel(self._tasks.pop(unit.number), force=True)
        self._workers.remove(worker)
        self._refs = {ref: (w, unit) for ref, (w, unit) in self._refs.items() if w is not worker}
        ray.kill(worker.handle)

    def _check_patience(self) -> None:
        if any(worker.is_ready or worker.n_done for worker in self._workers):
            self._begun = time.monotonic()
        if time.monotonic() - self._begun < self._cluster.patience_s:
            return
        ray = _ray()
        kind = "GPU" if self._has_gpu else "CPU"
        free = ray.available_resources().get(kind, 0)
        raise InputError(
            f"The Ray cluster started no worker in {self._cluster.patience_s:.0f} s: expected a "
            f"machine with {1 if self._has_gpu else self._cluster.threads} free {kind}, got {free:g} "
            f"free of {ray.cluster_resources().get(kind, 0):g}. Wait for others to end, or add "
            "machines.",
            rule="no-workers",
        )

    def stop(self) -> None:
        ray = _ray()
        if not ray.is_initialized():
            return
        for worker in list(self._workers):
            self.end(worker)
