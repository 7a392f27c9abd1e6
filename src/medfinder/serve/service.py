"""What the routes share: the finder, its lanes of threads, and what is kept in memory.

Searches, volumes and slices each have their own few threads, so that a search that computes for
seconds never keeps a viewer waiting.
"""

import asyncio
import contextlib
import copy
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, BinaryIO, TypeVar

from fastapi import Depends, Request

from medfinder.errors import Incomplete, MedFinderError, UnknownName
from medfinder.place import is_remote
from medfinder.records import Hit, Study
from medfinder.search.finder import Finder
from medfinder.search.regions import RegionFeatures
from medfinder.serve.access.confinement import confined
from medfinder.serve.access.roles import LOCAL, Identity
from medfinder.serve.config import ServeConfig
from medfinder.serve.faults import INDEX_IS_GONE, Refusal
from medfinder.serve.held import Held, HeldQuery, is_held
from medfinder.serve.ingest import Ingest
from medfinder.serve.lanes import Lane
from medfinder.serve.metrics import Metrics
from medfinder.serve.schemas import ErrorResponse
from medfinder.serve.slices import PixelCache, Pixels, PngCache, to_pixels
from medfinder.serve.tracing import Tracing
from medfinder.serve.uploads import unpacked
from medfinder.volume.read import read_volume
from medfinder.volume.volume import Volume

T = TypeVar("T")
_REGIONS = 512  # CTs whose regions are remembered: a quarter of a megabyte each
_STUDY_SECONDS = 20.0  # how long a study's row is believed: a viewer asks for it at every slice


class Service:
    """What the routes share: the finder, its lanes of threads, and what is kept in memory.

    Attributes:
        sources: Values of the column ``source`` that may be seen; None for all.
        owner: Account whose uploads may be seen; None where nobody signs in.
    """

    sources: tuple[str, ...] | None = None
    owner: str | None = None
    _whole: "Service | None" = None  # of which this is somebody's view

    def __init__(self, finder: Finder, config: ServeConfig) -> None:
        self.finder = finder
        self.is_lost = False  # until whoever watches the folder has opened it again
        self._mark = self._mark_now()
        self.config = config
        self.metrics = Metrics()
        self.tracing = Tracing(config.tracing)
        self.n_uploads = 0
        self.pixels = PixelCache(config.pixels_bytes)
        self.drawn = PngCache(config.pngs_bytes)
        folder = Path(config.held_folder) if config.held_folder else None
        self.held = Held(folder, config.held_bytes, config.held_s)
        self._regions: OrderedDict[tuple[str, str], RegionFeatures] = OrderedDict()
        self._studies: OrderedDict[str, tuple[float, Study]] = OrderedDict()
        self.is_stopping = False  # streams of events end
        self.ingest: Ingest | None = None
        if config.ingest.folder:
            self.ingest = Ingest(config.ingest, lambda: self.finder, self.metrics)
        self._jobs = Lane("jobs")
        self._received = Lane("received", 2)
        self._words = Lane("words")
        self._volumes = Lane("volumes")
        self._rows = Lane("rows", 4)
        self._slices = Lane("slices", 4)

    def check_index(self) -> None:
        """Refuse to answer from an index that is no longer there.

        Raises:
            Incomplete: The folder or its manifest is gone.
        """
        # A request to a store or a database would keep the event loop waiting.
        whole = self._whole or self
        if whole.is_lost or not self._is_here():
            whole.is_lost = self.config.watch_s > 0
            raise Incomplete(INDEX_IS_GONE)

    def seen_by(self, identity: Identity) -> "Service":
        """Return the service as somebody may see it; what is loaded is shared.

        The one way to a study, for every route: what `finder` does not find, is not there.
        """
        if identity is LOCAL:
            return self
        view = copy.copy(self)
        view._whole = self
        view.owner = identity.account_id
        view.sources = identity.sources
        if identity.sources is not None:
            view.finder = confined(self.finder, identity.sources)
        return view

    @property
    def lanes(self) -> list[Lane]:
        """Every lane of threads."""
        lanes = [part for part in vars(self).values() if isinstance(part, Lane)]
        return lanes if self.ingest is None else [*lanes, self.ingest.lane]

    def take(self, finder: Finder) -> None:
        """Answer from another index from now on; what has begun ends with the one before."""
        self.finder = finder
        self._mark = self._mark_now()
        self._studies.clear()
        self.is_lost = False

    async def try_out(self, finder: Finder) -> None:
        """Search an index that is not yet in use, so that its encoders are loaded.

        Raises:
            MedFinderError: It cannot be searched.
        """
        await self._words.run(partial(finder.search, text="chest", k=1))

    async def search(self, **query: Any) -> list[Hit]:
        """Search by words, findings or a study, one search at a time."""
        return await self._run(self._words, partial(self.finder.search, **query))

    async def warm_up(self) -> None:
        """Search once for nothing in particular, so that no user waits for encoders to load."""
        with contextlib.suppress(MedFinderError):  # whoever searches will be told
            await self.search(text="chest", k=1)

    async def search_upload(
        self, file: BinaryIO, *, hold: bool = False, owner: str = "", **query: Any
    ) -> tuple[list[Hit], HeldQuery | None]:
        """Search by an uploaded volume, one at a time; the upload is gone afterwards.

        Args:
            file: The upload.
            hold: Keep its voxels and its vector for a while, to be looked at and asked again.
            owner: Who alone may ask for what is held.
            query: As `Finder.search` takes it.

        Raises:
            Refusal: Whatever `unpacked` refuses.
            InputError: What was sent is no CT volume.
        """

        def read_and_search() -> tuple[list[Hit], HeldQuery | None]:
            finder = self.finder
            check = finder.check
            most = min(check.max_voxels, self.config.max_expanded_bytes // 2)  # int16
            limits = replace(check, max_voxels=most)
            with unpacked(file, self.config.max_expanded_bytes) as path:
                volume = read_volume(path, config=limits)
                place = finder.embed_volume(volume)
                held = None
                if hold:
                    model_id = finder.index.model_ids["volume"]
                    held = self.held.keep(
                        to_pixels(volume), place, model_id, owner or self.owner or ""
                    )
            return finder.search(place=place, **query), held

        return await self._run(self._volumes, read_and_search)

    def held_query(self, study_id: str, owner: str | None = None) -> HeldQuery:
        """Return an uploaded CT that is held.

        Raises:
            Refusal: 404 when it is not, no longer, or another's; 409 when the index has changed to
                another encoder since.
        """
        query = self.held.get(study_id, self.owner if owner is None else owner)
        if query is None:
            raise Refusal(
                404, "UnknownName", "This upload is no longer held.", "Send the CT again."
            )
        if query.encoder != self.finder.index.model_ids.get("volume"):
            raise Refusal(
                409,
                "Mismatch",
                "The index has been made with another encoder since this CT was sent.",
                "Send the CT again.",
            )
        return query

    async def regions(self, study: Study) -> RegionFeatures:
        """Return a study's CT by region, encoding it once while it is remembered.

        Raises:
            Refusal: See `load`.
            InputError: The encoder cannot tell regions' parts (rule ``no-explanation``).
        """
        finder = self.finder
        key = (pixels_key(study), finder.index.model_ids.get("volume", ""))
        if key not in self._regions:
            finder.check_explains()  # before a file is read for nothing
            pixels = await self.load(study)
            volume = Volume(pixels.hu, pixels.affine)
            found = await self._run(self._volumes, partial(finder.read_regions, volume))
            self._regions[key] = found
            while len(self._regions) > _REGIONS:
                self._regions.popitem(last=False)
        self._regions.move_to_end(key)
        return self._regions[key]

    async def words(self, work: Callable[[], T]) -> T:
        """Have words embedded, or what is as quick, in the order in which it was asked."""
        return await self._run(self._words, work)

    @contextlib.contextmanager
    def upload_slot(self) -> Iterator[None]:
        """Hold one of the `max_uploads` places, from before an upload is received to its answer.

        Raises:
            Refusal: 503 when all are taken.
        """
        if self.n_uploads >= self.config.max_uploads:
            raise Refusal(
                503,
                "Busy",
                "Too many uploads are being searched at once.",
                "Try again in a moment.",
                headers={"retry-after": "10", "connection": "close"},
            )
        self.n_uploads += 1
        try:
            yield
        finally:
            self.n_uploads -= 1

    async def receive(self, work: Callable[[], T]) -> T:
        """Have an upload unpacked that is not searched for."""
        return await self._run(self._received, work)

    async def ask_jobs(self, work: Callable[[], T]) -> T:
        """Ask after jobs, which can be told of without an index."""
        return await self._jobs.run(work)

    async def rows(self, work: Callable[[], T]) -> T:
        """Ask the index's table."""
        return await self._run(self._rows, work)

    async def study(self, study_id: str) -> Study:
        """Return a study's row.

        Raises:
            Refusal: 404 when there is none.
        """
        if is_held(study_id):
            return self.held_query(study_id).study
        now = time.monotonic()
        known = self._studies.get(study_id)
        is_fresh = known is not None and now - known[0] < _STUDY_SECONDS
        if known is not None and is_fresh and self._may_see(known[1]):
            return known[1]
        try:
            found: list[Study] = await self.rows(lambda: self.finder.index.studies([study_id]))
        except UnknownName:
            found = []
        if not found:
            raise Refusal(
                404,
                "UnknownName",
                "There is no study with this id in the index.",
                "Take ids from the hits of a search.",
            )
        self._studies[study_id] = (now, found[0])
        self._studies.move_to_end(study_id)
        while len(self._studies) > 1000:
            self._studies.popitem(last=False)
        return found[0]

    def _may_see(self, study: Study) -> bool:
        return self.sources is None or study.source in self.sources

    async def load(self, study: Study) -> Pixels:
        """Return a study's voxels, loading them once however many ask.

        Raises:
            Refusal: 410 when the file is gone, no longer a readable CT, or another one than was
                indexed.
        """
        self.metrics.cache("pixels", pixels_key(study) in self.pixels)
        load = (
            partial(_load_held, self.held, study.study_id)
            if is_held(study.study_id)
            else partial(_load, study, self.finder)
        )
        future = self.pixels.get(pixels_key(study), load)
        # Shielded: one viewer that leaves must not cancel the load that others wait for.
        return await asyncio.shield(asyncio.wrap_future(future))

    async def draw(self, study: Study, tag: str, draw: Callable[[Pixels], bytes]) -> bytes:
        """Return what is drawn of a study's voxels, a slice or all of them; kept under `tag`.

        Raises:
            Refusal: See `load`.
        """
        made = self.drawn.get(tag)
        self.metrics.cache("drawn", made is not None)
        if made is None:
            pixels = await self.load(study)
            made = await self._run(self._slices, partial(draw, pixels))
            self.drawn.put(tag, made)
        return made

    @property
    def is_working(self) -> bool:
        """Tell whether a thread is at work, for an answer that may no longer be awaited."""
        return self.pixels.is_loading or any(lane.is_running for lane in self.lanes)

    def close(self) -> None:
        """Let go of the threads; what waits for one is cancelled."""
        self.pixels.close()
        if self.ingest is not None:
            self.ingest.close()
        for lane in self.lanes:
            lane.close()
        self.held.close()
        self.tracing.close()

    async def _run(self, lane: Lane, work: Callable[[], T]) -> T:
        self.check_index()
        try:
            with self.tracing.span(lane.name):
                return await lane.run(work)
        except Exception as error:
            self.check_index()  # it may have vanished meanwhile, which explains any failure
            if not isinstance(error, (MedFinderError, Refusal)) and self._mark != self._mark_now():
                raise Incomplete(INDEX_IS_GONE) from None  # another was put in its place
            raise

    def _is_here(self) -> bool:
        """Whether the manifest is there; a store or a database is asked by who watches alone."""
        return is_remote(self.finder.index.place) or self._mark_now() is not None

    def _mark_now(self) -> str | None:
        index = self.finder.index
        return "" if is_remote(index.place) else index.mark()


# Not plain functions: the framework would call those in threads.
async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service.seen_by(request.state.identity)


async def _trail(request: Request) -> list[str]:
    trail: list[str] = request.state.trail
    return trail


async def _request_id(request: Request) -> str:
    request_id: str = request.state.request_id
    return request_id


The = Annotated[Service, Depends(_service)]
RequestId = Annotated[str, Depends(_request_id)]
Trail = Annotated[list[str], Depends(_trail)]
"""Ids of what an answer shows, for the audit log; those in a path are there already."""
ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorResponse, "description": "What is wrong with the request, and a hint."},
    "5XX": {"model": ErrorResponse, "description": "What is wrong with the service."},
}


def _load(study: Study, finder: Finder) -> Pixels:
    if not study.volume_path:
        raise _gone("This study has no volume: only its report is known.")
    path = Path(study.volume_path)
    if not path.exists():
        raise _gone("The file of this study's volume is gone.")
    is_series = path.is_dir() or path.suffix.lower() == ".dcm"
    series_id = (study.series_id or None) if is_series else None
    check = finder.check
    try:
        volume = read_volume(path, series_id=series_id, config=check)
        pixels = to_pixels(volume)
    except (MedFinderError, OSError):
        raise _gone("The file of this study's volume can no longer be read.") from None
    if volume.content_hash != study.volume_hash:
        raise _gone("The volume is not the one that was indexed.")
    return pixels


def _load_held(held: Held, study_id: str) -> Pixels:
    pixels = held.pixels(study_id)
    if pixels is None:
        raise Refusal(404, "UnknownName", "This upload is no longer held.", "Send the CT again.")
    return pixels


def _gone(message: str) -> Refusal:
    return Refusal(
        410,
        "UnreadableVolume",
        message,
        "Its report can still be read. Put the file back, or index the study again.",
    )


def pixels_key(study: Study) -> str:
    """Return what a study's voxels are kept under."""
    return f"{study.study_id}\0{study.volume_hash}"
