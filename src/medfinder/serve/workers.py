"""N processes behind one socket: started, replaced when they fall, and stopped as one.

Each has its own index, encoders and caches; what must be one for all lies on disk: counts, uploaded
queries that are held, jobs, accounts. The kernel hands a connection to whichever process takes it.
"""

import contextlib
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType

from medfinder.errors import MedFinderError
from medfinder.serve.config import ServeConfig
from medfinder.serve.metrics import forget, shared_counts

Work = Callable[[socket.socket, ServeConfig, Callable[[], None]], None]
"""What a process does until SIGTERM tells it to stop: the socket, the settings, and what to call once
connections are accepted. It is pickled, so it must be importable by name."""

_MARGIN_S = 8.0  # what a worker's stop may take beyond `ServeConfig.stop_s`
_FALLS, _WITHIN_S = 5, 60.0  # so many workers that fell so fast, and no more are started
_PAUSE_S = 0.5


def supervise(
    work: Work, listener: socket.socket, config: ServeConfig, on_ready: Callable[[], None]
) -> bool:
    """Run `config.workers` processes until interrupted; return whether all ended by themselves.

    Told to stop, it tells them to; told a second time, it tells them to hurry.

    Args:
        work: What each does.
        listener: Bound; every process accepts its connections.
        config: Its ``held_folder`` is made one for all where it is not given.
        on_ready: Called once the first accepts connections.

    Raises:
        MedFinderError: None could start, or they fall again and again.
    """
    with _shared(config) as (config, counts), _signals() as told:
        crew = _Crew(work, listener, config, counts, told)
        try:
            crew.run(on_ready)
        finally:
            is_done = crew.stop()
    return is_done


class _Crew:
    """The processes."""

    def __init__(
        self,
        work: Work,
        listener: socket.socket,
        config: ServeConfig,
        counts: Path,
        told: "_Told",
    ) -> None:
        self._arguments = (work, listener, config)
        self._config = config
        self._counts = counts
        self._told = told
        self._context = multiprocessing.get_context("spawn")
        self._processes: dict[SpawnProcess, Connection] = {}
        self._falls: deque[float] = deque(maxlen=_FALLS)

    def run(self, on_ready: Callable[[], None]) -> None:
        """Keep them running until told to stop."""
        for _ in range(self._config.workers):
            self._start()
        is_ready = False
        while not self._told.times:
            readers = [r for r in self._processes.values() if not r.closed]
            for ready in wait([*(p.sentinel for p in self._processes), *readers], _PAUSE_S):
                if isinstance(ready, Connection):
                    with contextlib.suppress(EOFError, OSError):
                        ready.recv()
                        if not is_ready:
                            is_ready = True
                            on_ready()
                    ready.close()
            self._replace(is_ready)

    def _start(self) -> None:
        reader, writer = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=_begin, args=(*self._arguments, writer), name="medfinder-worker"
        )
        process.start()
        writer.close()
        self._processes[process] = reader

    def _replace(self, is_ready: bool) -> None:
        for process in [p for p in self._processes if not p.is_alive()]:
            self._processes.pop(process).close()
            if process.pid is not None:
                forget(self._counts, process.pid)
            if self._told.times:
                return
            self._falls.append(time.monotonic())
            if not is_ready:
                raise MedFinderError(
                    f"A worker ended with code {process.exitcode} before it served anything. "
                    "See what it said above; with --workers 1 the error is told here."
                )
            if len(self._falls) == _FALLS and self._falls[-1] - self._falls[0] < _WITHIN_S:
                raise MedFinderError(
                    f"{_FALLS} workers ended within {_WITHIN_S:.0f} s, the last with code "
                    f"{process.exitcode}. There may be too little memory: start fewer."
                )
            print(
                f"A worker ended with code {process.exitcode}, and is replaced.",
                file=sys.stderr,
                flush=True,
            )
            self._start()

    def stop(self) -> bool:
        """Tell all to stop, wait, and end those that do not; tell whether none had to be ended."""
        self._tell(signal.SIGTERM)
        deadline = time.monotonic() + self._config.stop_s + _MARGIN_S
        hurried = 1
        while alive := [p for p in self._processes if p.is_alive()]:
            if self._told.times > hurried:
                hurried = self._told.times
                self._tell(signal.SIGINT)
            if time.monotonic() > deadline:
                break
            wait([p.sentinel for p in alive], 0.1)
        for process in alive:
            process.kill()
        for process, reader in self._processes.items():
            process.join()
            reader.close()
        return not alive

    def _tell(self, sig: signal.Signals) -> None:
        for process in self._processes:
            if process.is_alive() and process.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, sig)


class _Told:
    """How often this process was told to stop."""

    def __init__(self) -> None:
        self.times = 0


@contextlib.contextmanager
def _signals() -> Iterator[_Told]:
    """Count signals to stop, where this is the main thread, whose they are."""
    told = _Told()

    def note(sig: int, frame: FrameType | None) -> None:
        told.times += 1

    if threading.current_thread() is not threading.main_thread():
        yield told
        return
    before = {sig: signal.signal(sig, note) for sig in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield told
    finally:
        for sig, handler in before.items():
            signal.signal(sig, handler)


@contextlib.contextmanager
def _shared(config: ServeConfig) -> Iterator[tuple[ServeConfig, Path]]:
    """Make what is one for all processes: the folders of counts and of held uploads."""
    with shared_counts() as counts:
        if config.held_folder:
            yield config, counts
            return
        held = tempfile.mkdtemp(prefix=f"medfinder-held-{os.getpid()}-")
        try:
            yield replace(config, held_folder=held), counts
        finally:
            shutil.rmtree(held, ignore_errors=True)


def _begin(work: Work, listener: socket.socket, config: ServeConfig, writer: Connection) -> None:
    """Run in the new process."""
    # A terminal's Ctrl+C is for the supervisor alone, which tells this process.
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, name="medfinder-parent", daemon=True).start()

    def on_started() -> None:
        with contextlib.suppress(OSError):
            writer.send(None)
            writer.close()

    work(listener, config, on_started)
