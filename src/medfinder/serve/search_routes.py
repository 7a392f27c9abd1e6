"""Queries and what they find: ``/v1/search``, facets and the findings vocabulary."""

import itertools
import re
import time
from collections.abc import Callable
from functools import lru_cache, partial
from itertools import pairwise
from typing import Annotated, Any, Literal, get_args

from fastapi import File, Form, UploadFile
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from medfinder.errors import InputError
from medfinder.index.where import literal
from medfinder.records import Hit, Laterality
from medfinder.report.vocabulary import vocabulary
from medfinder.search.regions import Box
from medfinder.serve.access.roles import guarded
from medfinder.serve.faults import Refusal
from medfinder.serve.filters import to_where
from medfinder.serve.guard import UPLOAD_PATH
from medfinder.serve.held import is_held
from medfinder.serve.schemas import (
    MAX_OFFSET,
    ExplanationResponse,
    FacetsRequest,
    FacetsResponse,
    FindingName,
    FindingsResponse,
    Narrowing,
    Question,
    Region,
    SearchRequest,
    SearchResponse,
    UploadOptions,
    hit_out,
    study_out,
)
from medfinder.serve.service import ERRORS, RequestId, Service, The, Trail
from medfinder.serve.slices import PLANES, check_slice, region_voxels
from medfinder.studies import ANY_FINDING

Group = Callable[[Any], str | None]


def _placed(kind: Literal["laterality", "location"]) -> Group:
    """Group ``findings_placed`` by the sides, or by the places, of any finding."""
    start, sides = f"{ANY_FINDING}, ", get_args(Laterality)

    def group(value: str) -> str | None:
        place = value.removeprefix(start)
        return place if place != value and (place in sides) == (kind == "laterality") else None

    return group


def _slice_group(mm: float) -> str:
    """Return the range of slice distances that `mm` lies in: above the first, up to the second."""
    edges = (0, 1, 2, 3, 5, 10)
    for low, high in pairwise(edges):
        if mm <= high:
            return f"{low}-{high}"
    return f"{edges[-1]}-"


FACETS: dict[str, tuple[str, Group]] = {
    "findings": ("findings_present", str),
    "laterality": ("findings_placed", _placed("laterality")),
    "location": ("findings_placed", _placed("location")),
    "sex": ("sex", str),
    "age": ("age", str),
    "year": ("study_date", lambda date: date[:4]),
    "body_part": ("body_part", str),
    "manufacturer": ("manufacturer", str),
    "slice_mm": ("spacing_mm_d", _slice_group),
    "source": ("source", str),
    "split": ("split", str),
    "language": ("language", str),
}
"""Facet of the API → column of the index, and what its values are counted under."""
_MAX_SPELLINGS = 40

api = guarded("viewer", responses=ERRORS)


@api.post("/v1/search", tags=["search"], operation_id="search")
async def search(
    query: SearchRequest, service: The, request_id: RequestId, trail: Trail
) -> SearchResponse:
    """Find studies by a sentence, findings, a report, or likeness to another study."""
    started = time.perf_counter()
    kind, asked = await asked_of(query, service)
    if not kind and not query.keywords and not query.like:
        raise InputError(
            "There is no query: expected text, keywords, report, study_id, region or like. "
            "Give one of them.",
            rule="empty-query",
        )
    where = to_where(query.filters, query.where)
    if kind == "region" and query.exclude_same_patient:
        assert query.region is not None
        study = await service.study(query.region.study_id)
        own = f"patient_id != {literal(study.patient_id)}"
        where = own if where is None else f"({where}) AND {own}"
    hits = await service.search(
        **asked,
        **_narrowed(query),
        keyword=query.keywords,
        where=where,
        exclude_same_patient=query.exclude_same_patient,
    )
    kind = kind or ("keywords" if query.keywords else "like")
    answer = _response(kind, hits, query, started, request_id)
    trail += [hit.study_id for hit in answer.hits]
    return answer


@api.post(UPLOAD_PATH, tags=["search"], operation_id="search_by_volume")
async def search_by_volume(
    service: The,
    request_id: RequestId,
    trail: Trail,
    file: Annotated[
        UploadFile, File(description="A NIfTI or DICOM file, or a zip of one DICOM series.")
    ],
    options: Annotated[
        str,
        Form(
            max_length=20_000,
            description="JSON: hold, and what narrows a search as in /v1/search.",
        ),
    ] = "{}",
) -> SearchResponse:
    """Find studies whose CT looks like the uploaded one.

    It is deleted at once afterwards, unless it is to be held.
    """
    started = time.perf_counter()
    try:
        query = UploadOptions.model_validate_json(options)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_input=False, include_url=False)) from None
    hits, held = await service.search_upload(
        file.file,
        hold=query.hold,
        where=to_where(query.filters, query.where),
        **_narrowed(query),
    )
    answer = _response("volume", hits, query, started, request_id)
    answer.query_study = study_out(held.study) if held else None
    trail += [hit.study_id for hit in answer.hits]
    return answer


@api.post("/v1/studies/{study_id}/explanation", tags=["search"], operation_id="explain")
async def explain(study_id: str, query: Question, service: The) -> ExplanationResponse:
    """Tell where a study's CT resembles what is asked, region by region."""
    study = await service.study(study_id)
    finder = service.finder
    try:
        kind, asked = await asked_of(query, service)
        if not kind and not query.keywords:
            raise InputError(
                "There is no query: expected text, keywords, report, study_id or region. "
                "Give one of them.",
                rule="empty-query",
            )
        if "place" in asked:
            place = asked["place"]
        else:
            given = asked or {"keyword": query.keywords}
            place = await service.words(partial(finder.place_of, **given))
        regions = await service.regions(study)
    except InputError as error:
        if error.rule not in ("no-explanation", "no-volumes"):
            raise
        hint = "Search works all the same; index with the encoder 'medfinder' to see where."
        raise Refusal(422, "NoExplanation", str(error), hint) from None
    heat = await service.words(partial(finder.explain, regions, place))
    return ExplanationResponse(
        study_id=study.study_id,
        shape=regions.grid,
        origin=heat.origin,
        step=heat.step,
        values=[round(float(v), 4) for v in heat.values.ravel()],
        peak=heat.peak,
        slices=dict(zip(PLANES, heat.peak, strict=True)),
    )


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


async def asked_of(query: Question, service: Service) -> tuple[str, dict[str, Any]]:
    """Return what kind of question it is, and the question as `Finder.search` takes it.

    Returns:
        "" and nothing when there are keywords alone, or nothing at all.

    Raises:
        InputError: Rule ``empty-query`` or ``two-queries``.
        Refusal: 404, a study that is asked with is not in the index.
    """
    given: dict[str, Any] = {}
    for name in ("text", "report", "study_id"):
        value = getattr(query, name)
        if value is not None:
            if not value.strip():
                raise InputError(
                    f"The field {name} is empty: expected some text. Write it, or leave it out.",
                    rule="empty-query",
                )
            given[name] = value
    if query.region is not None:
        given["region"] = query.region
    if len(given) > 1:
        raise InputError(
            f"Two queries at once: expected one of text, report, study_id and region, got "
            f"{' and '.join(given)}. Send them one after the other.",
            rule="two-queries",
        )
    if not given:
        return "", {}
    ((kind, value),) = given.items()
    if kind == "study_id":
        study = await service.study(value)  # 404, not 422, when there is none
        if is_held(value):
            return "volume", {"place": service.held_query(study.study_id).place}
    if kind == "region":
        return kind, {"place": await _region_place(value, service)}
    return kind, given


async def _region_place(region: Region, service: Service) -> Any:
    study = await service.study(region.study_id)
    plane = check_slice(study.shape, region.plane, region.index)
    low, high = region_voxels(study.shape, study.spacing_mm, plane, region.index, region.box)
    regions = await service.regions(study)
    return await service.words(
        partial(service.finder.region_place, regions, Box(low, high)),
    )


def _narrowed(query: Narrowing) -> dict[str, Any]:
    return {
        "like": query.like,
        "unlike": query.unlike,
        "without": query.without,
        "sort": query.sort,
        "k": query.k + 1,  # one more tells whether there is another page
        "offset": query.offset,
    }


def _response(
    kind: str, hits: list[Hit], query: Narrowing, started: float, request_id: str
) -> SearchResponse:
    following = query.offset + query.k
    is_more = len(hits) > query.k and following <= MAX_OFFSET
    return SearchResponse(
        query_kind=kind,  # type: ignore[arg-type]
        hits=[hit_out(h) for h in hits[: query.k]],
        next_offset=following if is_more else None,
        duration_ms=round((time.perf_counter() - started) * 1e3, 1),
        request_id=request_id,
    )


async def _facets(service: Service, where: str | None) -> FacetsResponse:
    index = service.finder.index

    def count() -> FacetsResponse:
        columns = {column for column, _ in FACETS.values()}
        found = {column: index.facets(column, where) for column in columns}
        facets: dict[str, dict[str, int]] = {}
        for name, (column, group) in FACETS.items():
            counts = facets[name] = {}
            for value, n in found[column].items():
                key = None if value is None else group(value)
                if key is not None:
                    counts[key] = counts.get(key, 0) + n
        return FacetsResponse(n_studies=index.count(where), facets=facets)

    return await service.rows(count)


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
