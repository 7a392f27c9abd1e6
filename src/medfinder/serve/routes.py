"""What the service answers: ``/v1`` and the page.

Searches, volumes and slices each have their own few threads, so that a search that computes for
seconds never keeps a viewer waiting.
"""

import asyncio
import contextlib
import hashlib
import itertools
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, BinaryIO, TypeVar

from fastapi import APIRouter, Depends, File, Form, Query, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.responses import Response

import medfinder
from medfinder.artifact import MANIFEST
from medfinder.errors import Incomplete, InputError, MedFinderError, UnknownName
from medfinder.records import Hit, Study
from medfinder.report.vocabulary import vocabulary
from medfinder.search.finder import Finder
from medfinder.serve.faults import INDEX_IS_GONE, Refusal
from medfinder.serve.filters import to_where
from medfinder.serve.lanes import Lane
from medfinder.serve.schemas import (
    Alive,
    ErrorResponse,
    FacetsRequest,
    FacetsResponse,
    FindingName,
    FindingsResponse,
    KeySlice,
    Narrowing,
    SearchRequest,
    SearchResponse,
    StatusResponse,
    StudyOut,
    WindowOut,
    hit_out,
    study_out,
)
from medfinder.serve.slices import (
    PLANES,
    WINDOWS,
    PixelCache,
    Pixels,
    Plane,
    PngCache,
    Window,
    check_slice,
    find_window,
    render_slice,
    to_pixels,
)
from medfinder.serve.uploads import unpacked
from medfinder.volume.read import read_volume

T = TypeVar("T")

FACETS = {
    "sex": "sex",
    "age": "age",
    "findings": "findings_present",
    "body_part": "body_part",
    "manufacturer": "manufacturer",
    "source": "source",
    "split": "split",
    "language": "language",
}
"""Facet of the API → column of the index."""
UPLOAD_PATH = "/v1/search/volume"
MAX_K = 100
_MAX_SPELLINGS = 40
_STUDY_SECONDS = 20.0  # how long a study's row is believed: a viewer asks for it at every slice


class Service:
    """What the routes share: the finder, its lanes of threads, and what is kept in memory."""

    def __init__(
        self,
        finder: Finder,
        *,
        max_upload_bytes: int,
        max_expanded_bytes: int,
        max_uploads: int,
        pixels_bytes: int,
        pngs_bytes: int,
    ) -> None:
        self.finder = finder
        self.folder = finder.index.folder
        self.max_upload_bytes = max_upload_bytes
        self.max_expanded_bytes = max_expanded_bytes
        self.max_uploads = max_uploads
        self.n_uploads = 0
        self.pixels = PixelCache(pixels_bytes)
        self.pngs = PngCache(pngs_bytes)
        self._studies: OrderedDict[str, tuple[float, Study]] = OrderedDict()
        self._words = Lane("words")
        self._volumes = Lane("volumes")
        self._rows = Lane("rows", 4)
        self._slices = Lane("slices", 4)

    def check_index(self) -> None:
        """Refuse to answer from an index that is no longer there.

        Raises:
            Incomplete: The folder or its manifest is gone.
        """
        if not (self.folder / MANIFEST).is_file():
            raise Incomplete(INDEX_IS_GONE)

    async def search(self, **query: Any) -> list[Hit]:
        """Search by words, findings or a study, one search at a time."""
        return await self._run(self._words, partial(self.finder.search, **query))

    async def warm_up(self) -> None:
        """Search once for nothing in particular, so that no user waits for encoders to load."""
        with contextlib.suppress(MedFinderError):  # whoever searches will be told
            await self.search(text="chest", k=1)

    async def search_upload(self, file: BinaryIO, **query: Any) -> list[Hit]:
        """Search by an uploaded volume, one at a time; the upload is gone afterwards.

        Raises:
            Refusal: Whatever `unpacked` refuses.
            InputError: What was sent is no CT volume.
        """

        def read_and_search() -> list[Hit]:
            check = self.finder.check
            most = min(check.max_voxels, self.max_expanded_bytes // 2)  # int16
            limits = replace(check, max_voxels=most)
            with unpacked(file, self.max_expanded_bytes) as path:
                volume = read_volume(path, config=limits)
                return self.finder.search(volume=volume, **query)

        return await self._run(self._volumes, read_and_search)

    @contextlib.contextmanager
    def upload_slot(self) -> Iterator[None]:
        """Hold one of the `max_uploads` places, from before an upload is received to its answer.

        Raises:
            Refusal: 503 when all are taken.
        """
        if self.n_uploads >= self.max_uploads:
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

    async def rows(self, work: Callable[[], T]) -> T:
        """Ask the index's table."""
        return await self._run(self._rows, work)

    async def study(self, study_id: str) -> Study:
        """Return a study's row.

        Raises:
            Refusal: 404 when there is none.
        """
        now = time.monotonic()
        held = self._studies.get(study_id)
        if held is not None and now - held[0] < _STUDY_SECONDS:
            return held[1]
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

    async def load(self, study: Study) -> Pixels:
        """Return a study's voxels, loading them once however many ask.

        Raises:
            Refusal: 410 when the file is gone, no longer a readable CT, or another one than was
                indexed.
        """
        future = self.pixels.get(_pixels_key(study), partial(_load, study, self.finder))
        # Shielded: one viewer that leaves must not cancel the load that others wait for.
        return await asyncio.shield(asyncio.wrap_future(future))

    async def draw(self, study: Study, plane: Plane, index: int, window: Window, tag: str) -> bytes:
        """Return a slice as PNG."""
        png = self.pngs.get(tag)
        if png is None:
            pixels = await self.load(study)
            png = await self._run(self._slices, partial(render_slice, pixels, plane, index, window))
            self.pngs.put(tag, png)
        return png

    @property
    def is_working(self) -> bool:
        """Tell whether a thread is at work, for an answer that may no longer be awaited."""
        lanes = (self._words, self._volumes, self._rows, self._slices)
        return self.pixels.is_loading or any(lane.is_running for lane in lanes)

    def close(self) -> None:
        """Let go of the threads; what waits for one is cancelled."""
        self.pixels.close()
        for lane in (self._words, self._volumes, self._rows, self._slices):
            lane.close()

    async def _run(self, lane: Lane, work: Callable[[], T]) -> T:
        self.check_index()
        try:
            return await lane.run(work)
        except Exception:
            self.check_index()  # it may have vanished meanwhile, which explains any failure
            raise


# Not plain functions: the framework would call those in threads.
async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


async def _request_id(request: Request) -> str:
    request_id: str = request.state.request_id
    return request_id


The = Annotated[Service, Depends(_service)]
RequestId = Annotated[str, Depends(_request_id)]
ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorResponse, "description": "What is wrong with the request, and a hint."},
    "5XX": {"model": ErrorResponse, "description": "What is wrong with the service."},
}

api = APIRouter(responses=ERRORS)
page = APIRouter(include_in_schema=False)


@api.post("/v1/search", tags=["search"], operation_id="search")
async def search(query: SearchRequest, service: The, request_id: RequestId) -> SearchResponse:
    """Find studies by a sentence, findings, a report, or likeness to another study."""
    started = time.perf_counter()
    given: dict[str, str] = {}
    for kind in ("text", "report", "study_id"):
        value = getattr(query, kind)
        if value is not None:
            if not value.strip():
                raise InputError(
                    f"The field {kind} is empty: expected some text. Write it, or leave it out.",
                    rule="empty-query",
                )
            given[kind] = value
    if len(given) > 1:
        raise InputError(
            f"Two queries at once: expected one of text, report and study_id, got "
            f"{' and '.join(given)}. Send them one after the other.",
            rule="two-queries",
        )
    if not given and not query.keywords:
        raise InputError(
            "There is no query: expected text, keywords, report or study_id. Give one of them.",
            rule="empty-query",
        )
    if query.study_id is not None:
        await service.study(query.study_id)  # 404, not 422, when there is none
    hits = await service.search(
        **given,
        keyword=query.keywords,
        k=query.k,
        where=to_where(query.filters, query.where),
        exclude_same_patient=query.exclude_same_patient,
    )
    return SearchResponse(
        query_kind=next(iter(given), "keywords"),  # type: ignore[arg-type]
        hits=[hit_out(h) for h in hits],
        duration_ms=round((time.perf_counter() - started) * 1e3, 1),
        request_id=request_id,
    )


@api.post(UPLOAD_PATH, tags=["search"], operation_id="search_by_volume")
async def search_by_volume(
    service: The,
    request_id: RequestId,
    file: Annotated[
        UploadFile, File(description="A NIfTI or DICOM file, or a zip of one DICOM series.")
    ],
    options: Annotated[
        str,
        Form(max_length=20_000, description="JSON: filters, where and k, as in /v1/search."),
    ] = "{}",
) -> SearchResponse:
    """Find studies whose CT looks like the uploaded one, which is deleted at once afterwards."""
    started = time.perf_counter()
    try:
        narrowing = Narrowing.model_validate_json(options)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_input=False, include_url=False)) from None
    hits = await service.search_upload(
        file.file, k=narrowing.k, where=to_where(narrowing.filters, narrowing.where)
    )
    return SearchResponse(
        query_kind="volume",
        hits=[hit_out(h) for h in hits],
        duration_ms=round((time.perf_counter() - started) * 1e3, 1),
        request_id=request_id,
    )


@api.get("/v1/studies/{study_id}", tags=["studies"], operation_id="get_study")
async def get_study(study_id: str, service: The) -> StudyOut:
    """Return a study: facts, report, findings, and the geometry of its slices."""
    return study_out(await service.study(study_id))


@api.get("/v1/studies/{study_id}/key-slice", tags=["studies"], operation_id="get_key_slice")
async def get_key_slice(study_id: str, service: The) -> KeySlice:
    """Return the slice to begin with; the first call reads the volume."""
    pixels = await service.load(await service.study(study_id))
    return KeySlice(plane="axial", index=pixels.key_slice)


@api.get(
    "/v1/studies/{study_id}/slices/{plane}/{index}.png",
    tags=["studies"],
    operation_id="get_slice",
    response_class=Response,
    responses={
        200: {
            "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
            "description": "8-bit grey, square pixels, patient's right on the left.",
            "headers": {"X-Slice-Index": {"schema": {"type": "integer"}}},
        },
        304: {"description": "The slice has not changed."},
    },
)
async def get_slice(
    request: Request,
    study_id: str,
    plane: str,
    index: str,
    service: The,
    window: Annotated[str | None, Query(examples=["lung"])] = None,
    level: Annotated[float | None, Query(description="HU shown mid grey.")] = None,
    width: Annotated[float | None, Query(description="HU from black to white.")] = None,
) -> Response:
    """Return one slice as a PNG, under a window preset or a level and width.

    `index` counts voxels from inferior (axial), posterior (coronal) or left (sagittal); ``key``
    is the axial slice to begin with.
    """
    study = await service.study(study_id)
    grey = find_window(window, level, width)
    if index == "key":
        checked = check_slice(study.shape, plane, study.shape[PLANES.index("axial")] // 2)
        if checked != "axial":
            raise InputError("Only the axial plane has a key slice: expected axial/key.png.")
        number = (await service.load(study)).key_slice
    else:
        if not index.isascii() or not index.removeprefix("-").isdigit() or len(index) > 9:
            raise InputError(
                "The slice is not a number: expected an index such as 42, or key.",
                rule="slice-out-of-range",
            )
        number = int(index)
        checked = check_slice(study.shape, plane, number)
    tag = _etag(study, checked, number, grey)
    headers = {
        "etag": tag,
        "cache-control": "private, max-age=3600",
        "x-slice-index": str(number),
    }
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    png = await service.draw(study, checked, number, grey, tag)
    return Response(png, media_type="image/png", headers=headers)


@api.get("/v1/facets", tags=["index"], operation_id="get_facets")
async def get_facets(service: The) -> FacetsResponse:
    """Count the studies of the whole index for each value of each facet."""
    return await _facets(service, None)


@api.post("/v1/facets", tags=["index"], operation_id="count_facets")
async def count_facets(query: FacetsRequest, service: The) -> FacetsResponse:
    """Count the studies that pass the filters for each value of each facet."""
    return await _facets(service, to_where(query.filters, query.where))


@api.get("/v1/findings", tags=["index"], operation_id="get_findings")
async def get_findings(service: The) -> FindingsResponse:
    """Return the findings vocabulary; completion happens at the client, so no query leaves it."""
    counts = await service.rows(lambda: service.finder.index.facets("findings_present", None))
    return FindingsResponse(
        findings=[
            FindingName(name=n, cui=c, synonyms=s, n_studies=counts.get(n, 0))
            for n, c, s in _vocabulary_rows()
        ]
    )


@api.get("/v1/status", tags=["service"], operation_id="get_status")
async def get_status(service: The) -> StatusResponse:
    """Return what this service holds and can do."""
    status = await service.rows(service.finder.status)
    return StatusResponse(
        version=medfinder.__version__,
        n_studies=status["n_studies"],
        encoders=status["encoders"],
        windows={n: WindowOut(level=w.level, width=w.width) for n, w in WINDOWS.items()},
        max_upload_bytes=service.max_upload_bytes,
        max_k=MAX_K,
    )


@api.get("/health", tags=["service"], operation_id="health")
async def health() -> Alive:
    """Tell that the process answers."""
    return Alive()


@api.get("/ready", tags=["service"], operation_id="ready")
async def ready(service: The) -> Alive:
    """Tell that the index can be searched."""
    await service.rows(service.finder.index.count)
    return Alive()


_STATIC = {
    "": ("index.html", "text/html; charset=utf-8"),
    "app.js": ("app.js", "text/javascript; charset=utf-8"),
    "viewer.js": ("viewer.js", "text/javascript; charset=utf-8"),
    "archive.js": ("archive.js", "text/javascript; charset=utf-8"),
    "api.js": ("api.js", "text/javascript; charset=utf-8"),
    "style.css": ("style.css", "text/css; charset=utf-8"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
}


@page.get("/")
@page.get("/{name}")
async def get_page(request: Request, name: str = "") -> Response:
    """Return a file of the page; only those in the table exist."""
    if name not in _STATIC:
        raise Refusal(404, "Http", "There is nothing at this address.", "The page is at /.")
    return static_file(request, *_STATIC[name])


def static_file(request: Request, file: str, media_type: str) -> Response:
    """Return a packaged file, or that the browser's copy of it is current."""
    body, tag = _static(file)
    headers = {"etag": tag, "cache-control": "no-cache"}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(body, media_type=media_type, headers=headers)


async def _facets(service: Service, where: str | None) -> FacetsResponse:
    index = service.finder.index

    def count() -> FacetsResponse:
        facets = {
            name: {str(v): n for v, n in index.facets(column, where).items() if v is not None}
            for name, column in FACETS.items()
            if column in index.columns
        }
        return FacetsResponse(n_studies=index.count(where), facets=facets)

    return await service.rows(count)


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


def _gone(message: str) -> Refusal:
    return Refusal(
        410,
        "UnreadableVolume",
        message,
        "Its report can still be read. Put the file back, or index the study again.",
    )


def _pixels_key(study: Study) -> str:
    return f"{study.study_id}\0{study.volume_hash}"


def _etag(study: Study, plane: str, index: int, window: Window) -> str:
    text = f"{_pixels_key(study)}\0{plane}\0{index}\0{window.level:g}\0{window.width:g}"
    return f'"{hashlib.sha256(text.encode()).hexdigest()[:24]}"'


@lru_cache(maxsize=1)
def _vocabulary_rows() -> list[tuple[str, str | None, list[str]]]:
    """Return name, CUI and other spellings of every finding that a search can be narrowed to."""
    words = vocabulary()
    spellings: dict[str, dict[str, None]] = {}
    for name in words.names("finding"):
        concept = words.get(name)
        own = spellings.setdefault(concept.same_as or name, {})
        own[name] = None
        for patterns in concept.synonyms.values():
            for pattern in patterns:
                own.update(dict.fromkeys(_spelled(pattern)))
    return [
        (name, words.get(name).cui, [s for s in own if s != name][:_MAX_SPELLINGS])
        for name, own in sorted(spellings.items())
    ]


def _spelled(pattern: str) -> list[str]:
    """Write out a phrase pattern's choices, gaps closed; none where a gap must be filled."""
    parts = [
        [c for c in part.strip("()").split("|") if "~" not in c]
        for part in re.findall(r"\([^()]*\)|[^()]+", pattern)
    ]
    if len(parts) > 4:
        return []
    return [" ".join("".join(choice).split()) for choice in itertools.product(*parts)]


@lru_cache(maxsize=32)
def _static(file: str) -> tuple[bytes, str]:
    body = files("medfinder.serve").joinpath("static", file).read_bytes()
    return body, f'"{hashlib.sha256(body).hexdigest()[:24]}"'
