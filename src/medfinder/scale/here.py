"""Steps in the caller's own process: the next items are prepared in a thread while one is finished.

An item that takes its process down takes the caller down: `Processes(1)` is the engine that survives.
"""

import itertools
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from medfinder.scale.engine import ATTEMPTS, PAUSE_S, Item, Step, judged
from medfinder.scale.line import Line, Raised

N_AHEAD = 2  # items, or batches of them, prepared ahead: a volume is 32 MB for astra


class Here:
    """An engine without workers."""

    def map(
        self,
        items: Iterable[Item],
        steps: Sequence[Step],
        *,
        ordered: bool = True,
        chunk: int = 1,
        attempts: int = ATTEMPTS,
    ) -> Generator[tuple[Item, Any]]:
        """Yield every item's result, in order; see `Engine.map`.

        All steps but the last run in a thread, at most `N_AHEAD` items ahead. The steps are made at
        once, so that what they lack is said before anything is done.
        """
        *before, last = steps
        return _run(items, Line(before), Line([last]), max(1, last.batch), attempts)


def _run(
    items: Iterable[Item], before: Line, last: Line, size: int, attempts: int
) -> Generator[tuple[Item, Any]]:
    for batch, values in _prepared(iter(items), before, size):
        for item, result in zip(batch, last.run(values), strict=True):
            attempt = 1
            while isinstance(result, Raised):
                failed = judged(result.error, attempt, attempts)
                if failed is not None:
                    result = failed
                    break
                time.sleep(PAUSE_S * attempt)
                attempt += 1
                (result,) = last.run(before.run([item]))
            yield item, result


def _prepared(
    source: Iterator[Item], before: Line, size: int
) -> Generator[tuple[list[Item], list[Any]]]:
    """Yield batches of items and what the steps before the last made of them."""

    def batches() -> Iterator[list[Item]]:
        while batch := list(itertools.islice(source, size)):
            yield batch

    if not before:
        yield from ((batch, list(batch)) for batch in batches())
        return
    ahead: deque[tuple[list[Item], Future[list[Any]]]] = deque()
    waiting = batches()
    pool = ThreadPoolExecutor(1, "medfinder-prepare")
    try:
        while True:
            while len(ahead) <= N_AHEAD and (batch := next(waiting, None)) is not None:
                ahead.append((batch, pool.submit(before.run, batch)))
            if not ahead:
                return
            batch, made = ahead.popleft()
            yield batch, made.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
