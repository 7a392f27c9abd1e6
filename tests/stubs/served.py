"""The service in a thread of this process, on a free port."""

import contextlib
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

import pytest

from medfinder.serve import app as serve_app
from medfinder.serve.app import serve

_PLAIN = serve_app._Server
STOP_S = 60.0  # a hang is told from a slow machine


class Served:
    """A running service: its address, and how it is stopped.

    Attributes:
        url: Of its page.
        is_done: What `serve` returned, once it has.
    """

    def __init__(self, index: Any, options: dict[str, Any]) -> None:
        ready = threading.Event()
        self.url = ""
        self.is_done: bool | None = None
        self._server: Any = None
        made = self

        class Server(_PLAIN):  # services may be nested: not a subclass of another one's
            def __init__(self, config: Any) -> None:
                super().__init__(config)
                made._server = self

        def on_ready(url: str) -> None:
            self.url = url
            ready.set()

        def run() -> None:
            self.is_done = serve(index, port=0, on_ready=on_ready, **options)

        # A daemon: a service that would not stop fails its test, and no more than that.
        self._thread = threading.Thread(target=run, name="served", daemon=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(serve_app, "_Server", Server)
            self._thread.start()
            if not ready.wait(STOP_S):
                pytest.fail(f"The service did not start.\n{stacks()}")

    def stop(self, within_s: float = STOP_S) -> float:
        """Tell it to stop, and return the seconds that took; fail with all stacks if it does not."""
        started = time.monotonic()
        self._server.should_exit = True
        self._thread.join(within_s)
        if self._thread.is_alive():
            pytest.fail(f"The service did not stop within {within_s:g} s.\n{stacks()}")
        return time.monotonic() - started


@contextlib.contextmanager
def serving(index: Any, **options: Any) -> Iterator[Served]:
    """Serve an index, and stop."""
    served = Served(index, options)
    try:
        yield served
    finally:
        served.stop()


def stacks() -> str:
    """Return what every thread of this process is doing."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "\n".join(
        f"Thread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in sys._current_frames().items()
    )
