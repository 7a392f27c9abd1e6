"""A study and its slices: ``/v1/studies``."""

import hashlib
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from medfinder.errors import InputError
from medfinder.records import Study
from medfinder.serve.schemas import KeySlice, StudyOut, study_out
from medfinder.serve.service import ERRORS, The, pixels_key
from medfinder.serve.slices import PLANES, Window, check_slice, find_window

api = APIRouter(responses=ERRORS)


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


def _etag(study: Study, plane: str, index: int, window: Window) -> str:
    text = f"{pixels_key(study)}\0{plane}\0{index}\0{window.level:g}\0{window.width:g}"
    return f'"{hashlib.sha256(text.encode()).hexdigest()[:24]}"'
