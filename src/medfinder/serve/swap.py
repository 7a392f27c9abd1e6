"""An index, looked at while it is served: what has taken its place is opened and swapped in.

A path that leads to a folder by a symbolic link is followed once and held to, so that a link that
is pointed elsewhere never mixes two indexes. New rows of the same index need no swap to be found;
its manifest, written last, has it opened anew all the same, as settings may have changed.
"""

import asyncio
import contextlib
import logging
import time
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from medfinder.artifact import MANIFEST
from medfinder.errors import MedFinderError
from medfinder.index.open import index_place, open_index
from medfinder.place import FolderPlace, Location
from medfinder.search.finder import Finder
from medfinder.serve.lanes import Lane

if TYPE_CHECKING:
    from medfinder.serve.service import Service

log = logging.getLogger("medfinder.serve")

Mark = tuple[str, str]
_AGAIN_S = 30.0  # until an index that was refused is tried again as it is


def mark_of(location: Location) -> Mark | None:
    """Return what tells one finished index from the next: where it really lies, and its manifest's mark.

    None where no manifest is.

    Raises:
        ArtifactError: It is in a store or a database that does not answer.
    """
    place = index_place(location)
    if isinstance(place, FolderPlace):
        place = FolderPlace(place.path.resolve())
    with contextlib.suppress(OSError):
        mark = place.mark(MANIFEST)
        return None if mark is None else (str(place), mark)
    return None


def held_to(location: Location) -> Location:
    """Return the folder that a path leads to now, where a link is on the way; else what was given."""
    place = index_place(location)
    if not isinstance(place, FolderPlace):
        return location
    real = place.path.resolve()
    return location if real == place.path.absolute() else real


def reopen(location: Location, old: Finder) -> Finder:
    """Open the index that `location` leads to, with the encoders of `old` where it has the same.

    Raises:
        InputError: There is no such folder.
        ArtifactError: It is unfinished, damaged or of another version.
    """
    return old.over(open_index(held_to(location)))


def warm(finder: Finder) -> None:
    """Read what the first search would read, without embedding anything.

    Raises:
        MedFinderError: The index cannot be searched.
    """
    index = finder.index
    if not index.count():
        return
    finder.check  # noqa: B018  it is read once and kept
    index.search_text("chest", 1)
    for name, stream in index.streams.items():
        index.search_vector(name, np.ones(stream.dim, np.float32), 1)


class Watch:
    """Looks at where the index lies, and has the service take what it finds there.

    Args:
        service: Whose finder is replaced. Requests in work keep the one that they began with.
        location: As the service was told it; a link is followed anew at every look.
    """

    def __init__(self, service: "Service", location: Location) -> None:
        self._service = service
        # One place, so that a database is not connected to anew at every look.
        is_remote = not isinstance(index_place(location), FolderPlace)
        self._location = index_place(location) if is_remote else location
        self._mark = mark_of(self._location)
        self._refused: tuple[Mark | None, float] | None = None
        self._lane = Lane("swap")
        self._looking = asyncio.Lock()

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(self._service.config.watch_s)
            try:
                await self.look()
            except Exception as error:  # a look that failed must not be the last
                log.error("the index could not be looked at: %s", type(error).__name__)

    async def look(self) -> bool:
        """Look once; tell whether another finder is in use now."""
        async with self._looking:
            return await self._look()

    async def _look(self) -> bool:
        service = self._service
        is_there, mark = await self._lane.run(
            lambda: (service.finder.index.mark() is not None, mark_of(self._location))
        )
        if not is_there:
            service.is_lost = True
        if mark == self._mark:
            service.is_lost = not is_there
            self._refused = None
            return False
        if self._refused is not None:
            refused, at = self._refused
            if refused == mark and time.monotonic() - at < _AGAIN_S:
                return False
        if mark is None and not is_there:
            return False  # removed: requests are told so, until there is an index again
        try:
            finder = await self._lane.run(partial(reopen, self._location, service.finder))
            await self._lane.run(partial(warm, finder))
            await service.try_out(finder)
        except Exception as error:
            said = f" ({error.rule})" if hasattr(error, "rule") else ""
            kept = "" if service.is_lost else "; the one before stays"
            kind = type(error).__name__
            log.warning("another index was found and refused: %s%s%s", kind, said, kept)
            if not isinstance(error, MedFinderError):
                log.debug("refused for", exc_info=error)
            service.metrics.swaps.labels("refused").inc()
            self._refused = (mark, time.monotonic())
            return False
        self._mark, self._refused = mark, None
        service.take(finder)
        service.metrics.swaps.labels("swapped").inc()
        log.info("the index was swapped: %d studies", await self._lane.run(finder.index.count))
        return True

    def close(self) -> None:
        """Let go of the thread."""
        self._lane.close()
