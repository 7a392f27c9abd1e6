"""One writer at a time, in a store that knows no locks: an object that its holder keeps rewriting.

A holder rewrites the object every few seconds; who waits takes it over when its ETag has not changed
for `LEASE_S` of the waiter's own stopwatch. No machine's clock is compared with another's. Every
change is a conditional put, so that of two that take it over one succeeds.
"""

import contextlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator

from medfinder.errors import ArtifactError
from medfinder.place import StorePlace

LEASE_S = 30.0
"""Seconds without a sign of life after which a holder counts as dead."""
_POLL_S = 0.5


class Lease:
    """The right to finish an index, as long as it is renewed.

    Args:
        place: Of the index.
        name: Of the object.
    """

    def __init__(self, place: StorePlace, name: str) -> None:
        self._place, self._name = place, name
        self._holder = secrets.token_hex(8)
        self._beat = 0
        self._mark = ""
        self._renewed = 0.0
        self._stop = threading.Event()
        self._is_lost = False

    def take(self) -> None:
        """Wait until nobody else holds it, and take it."""
        seen, since = "", time.monotonic()
        while True:
            began = time.monotonic()
            mark = self._place.put_new(self._name, self._said(is_free=False))
            if mark is None:
                now = self._place.mark(self._name)
                if now is None:
                    continue
                if now != seen:
                    seen, since = now, time.monotonic()
                    holder, is_free = self._read()
                else:
                    holder, is_free = "", False
                if holder == self._holder:  # a put that was answered with an error took effect
                    mark = now
                elif is_free or time.monotonic() - since > LEASE_S:
                    mark = self._place.put_over(self._name, self._said(is_free=False), now)
            if mark is not None:
                self._mark, self._renewed = mark, began
                return
            time.sleep(min(_POLL_S, LEASE_S / 4))

    def renew(self) -> None:
        """Rewrite the object until `release`; run in a thread of its own."""
        while not self._stop.wait(LEASE_S / 6):
            began = time.monotonic()
            try:
                mark = self._place.put_over(self._name, self._said(is_free=False), self._mark)
                if mark is None and self._read()[0] == self._holder:
                    mark = self._place.mark(self._name)
            except ArtifactError:  # the store is away: it may be back before the lease ends
                continue
            if mark is None:
                self._is_lost = True
                return
            self._mark, self._renewed = mark, began

    def check(self) -> None:
        """Raise ArtifactError if another may hold it by now."""
        if self._is_lost or time.monotonic() - self._renewed > LEASE_S:
            raise ArtifactError(
                f"Another process has taken over finishing the index {str(self._place)!r}, as this "
                "one could not reach the store for too long. Run 'medfinder index' on it again."
            )

    def stop(self) -> None:
        """End `renew`."""
        self._stop.set()

    def release(self) -> None:
        """Let go, if it is still held."""
        with contextlib.suppress(ArtifactError):  # it ends by itself
            self._place.put_over(self._name, self._said(is_free=True), self._mark)

    def _said(self, is_free: bool) -> bytes:
        self._beat += 1  # another body, so another ETag
        said = {"holder": self._holder, "beat": self._beat, "free": is_free}
        return json.dumps(said).encode()

    def _read(self) -> tuple[str, bool]:
        try:
            said = json.loads(self._place.read(self._name))
            return str(said["holder"]), bool(said["free"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return "", False


@contextlib.contextmanager
def leased(place: StorePlace, name: str) -> Iterator[Callable[[], None]]:
    """Hold the lease during the block; yields what raises ArtifactError if it was lost."""
    lease = Lease(place, name)
    lease.take()
    thread = threading.Thread(target=lease.renew, name="lease", daemon=True)
    thread.start()
    try:
        yield lease.check
    finally:
        lease.stop()
        thread.join(timeout=5)
        lease.release()
