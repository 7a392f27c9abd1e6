"""Blocking work → a few threads of its own, which never keep a process from ending.

A thread cannot be stopped from outside. So these are daemons: a service that was told to stop
leaves behind what is still in work, where a thread pool would have the interpreter wait for it.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")
_Queue = SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]


class Lane:
    """At most `n_threads` pieces of work at once, the others waiting in the order they came.

    Safe to use from many threads. A waiter that is cancelled frees its place only when its work,
    once begun, is done: the bound holds for work, not for waiters.
    """

    def __init__(self, name: str, n_threads: int = 1) -> None:
        self.name = name
        self._n_threads = n_threads
        self._lock = threading.Lock()
        self._queue: _Queue = SimpleQueue()
        self._n_started = 0  # threads that take from the queue
        self._n_waiting = 0
        self._n_running = 0

    @property
    def n_waiting(self) -> int:
        """Pieces of work that no thread has taken."""
        return self._n_waiting

    @property
    def n_running(self) -> int:
        """Pieces of work that have begun and are not done."""
        return self._n_running

    @property
    def is_running(self) -> bool:
        """Tell whether work has begun that is not done."""
        with self._lock:
            return self._n_running > 0

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Have `work` done; threads start as they are needed."""
        future: Future[T] = Future()
        with self._lock:
            self._n_waiting += 1
            self._queue.put((future, work))
            # Threads of an earlier life may still run, and take no more from this queue.
            needed = self._n_waiting + self._n_running
            if self._n_started < min(needed, self._n_threads):
                self._n_started += 1
                threading.Thread(
                    target=self._take,
                    args=(self._queue,),
                    name=f"medfinder-{self.name}-{self._n_started}",
                    daemon=True,
                ).start()
        return future

    async def run(self, work: Callable[[], T]) -> T:
        """Have `work` done and wait for it, on this event loop."""
        return await asyncio.wrap_future(self.submit(work))

    def close(self) -> None:
        """Cancel what waits and let idle threads end; work that has begun goes on by itself."""
        dropped: list[Future[Any]] = []
        with self._lock:
            while True:
                try:
                    item = self._queue.get_nowait()
                except Empty:
                    break
                if item is not None:
                    dropped.append(item[0])
                    self._n_waiting -= 1
            for _ in range(self._n_started):
                self._queue.put(None)
            self._queue, self._n_started = SimpleQueue(), 0
        for future in dropped:  # outside of the lock: what is told of it may ask this lane
            future.cancel()

    def _take(self, queue: _Queue) -> None:
        while (item := queue.get()) is not None:
            future, work = item
            with self._lock:
                self._n_waiting -= 1
                self._n_running += 1
            try:
                self._settle(future, work)
            finally:
                del item, future, work  # a volume must not live until the next piece of work

    def _settle(self, future: Future[T], work: Callable[[], T]) -> None:
        if not future.set_running_or_notify_cancel():
            self._leave()
            return
        try:
            result = work()
        except BaseException as error:
            self._leave()
            future.set_exception(error)
        else:
            self._leave()
            future.set_result(result)

    def _leave(self) -> None:
        with self._lock:
            self._n_running -= 1
