"""Queries and what they find: ``/v1/search``, facets and the findings vocabulary."""

import itertools
import re
import time
from functools import lru_cache
from typing import Annotated

from fastapi import APIRouter, File, Form, UploadFile
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from medfinder.errors import InputError
from medfinder.report.vocabulary import vocabulary
from medfinder.serve.filters import to_where
from medfinder.serve.guard import UPLOAD_PATH
from medfinder.serve.schemas import (
    FacetsRequest,
    FacetsResponse,
    FindingName,
    FindingsResponse,
    Narrowing,
    SearchRequest,
    SearchResponse,
    hit_out,
)
from medfinder.serve.service import ERRORS, RequestId, Service, The

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
_MAX_SPELLINGS = 40

api = APIRouter(responses=ERRORS)


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
