"""A study, its slices and its volume: ``/v1/studies``."""

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Annotated

from fastapi import Query, Request
from starlette.responses import Response

from medfinder.errors import InputError
from medfinder.records import Study
from medfinder.serve.access.roles import guarded
from medfinder.serve.coarse import check_edge, encode_coarse
from medfinder.serve.schemas import KeySlice, Lungs, StudyOut, study_out
from medfinder.serve.service import ERRORS, Service, The, pixels_key
from medfinder.serve.slices import (
    PLANES,
    Pixels,
    Plane,
    check_slice,
    encode_hu,
    find_slab,
    find_window,
    render_slice,
)

api = guarded("viewer", responses=ERRORS)

Draw = Callable[[Pixels], bytes]
SlabMm = Annotated[
    float | None,
    Query(description="Thickness of a slab around the slice, in millimetres.", examples=[10]),
]
Projected = Annotated[
    str | None, Query(description="What is shown of a slab: mip, minip or mean.", examples=["mip"])
]
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_NOT_CHANGED = {"description": "It has not changed."}
_INDEX = {"X-Slice-Index": {"schema": {"type": "integer"}}}


@api.get("/v1/studies/{study_id}", tags=["studies"], operation_id="get_study")
async def get_study(study_id: str, service: The) -> StudyOut:
    """Return a study: facts, report, findings, and the geometry of its slices."""
    return study_out(await service.study(study_id))


@api.get("/v1/studies/{study_id}/key-slice", tags=["studies"], operation_id="get_key_slice")
async def get_key_slice(study_id: str, service: The) -> KeySlice:
    """Return the slice to begin with, and where the lungs are; the first call reads the volume."""
    found = (await service.load(await service.study(study_id))).landmarks
    lungs = None
    if found.lungs is not None:
        axial, coronal, sagittal = found.lungs
        lungs = Lungs(axial=axial, coronal=coronal, sagittal=sagittal)
    return KeySlice(plane="axial", index=found.key_slice, lungs=lungs)


@api.get(
    "/v1/studies/{study_id}/slices/{plane}/{index}.png",
    tags=["studies"],
    operation_id="get_slice",
    response_class=Response,
    responses={
        200: {
            "content": {"image/png": _BINARY},
            "description": "8-bit grey, square pixels, patient's right on the left.",
            "headers": _INDEX,
        },
        304: _NOT_CHANGED,
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
    slab_mm: SlabMm = None,
    projection: Projected = None,
) -> Response:
    """Return one slice as a PNG, under a window preset or a level and width.

    `index` counts voxels from inferior (axial), posterior (coronal) or left (sagittal); ``key``
    is the axial slice to begin with. With `slab_mm`, voxels up to half of it before and behind are
    projected onto the slice.
    """
    study = await service.study(study_id)
    grey = find_window(window, level, width)
    slab = find_slab(slab_mm, projection)
    checked, number = await _slice(service, study, plane, index)
    return await _drawn(
        request,
        service,
        study,
        ("png", checked, number, grey, slab),
        partial(render_slice, plane=checked, index=number, window=grey, slab=slab),
        media_type="image/png",
        headers={"x-slice-index": str(number)},
    )


@api.get(
    "/v1/studies/{study_id}/slices/{plane}/{index}.hu",
    tags=["studies"],
    operation_id="get_hounsfield_units",
    response_class=Response,
    responses={
        200: {
            "content": {"application/octet-stream": _BINARY},
            "description": "Little-endian int16, gzipped in transit, rows from the top.",
            "headers": _INDEX,
        },
        304: _NOT_CHANGED,
    },
)
async def get_hounsfield_units(
    request: Request,
    study_id: str,
    plane: str,
    index: str,
    service: The,
    slab_mm: SlabMm = None,
    projection: Projected = None,
) -> Response:
    """Return the Hounsfield units of one slice, to be measured.

    Rows and columns are the volume's own voxels, (H, W), (D, W) or (D, H) of the study's shape,
    laid out as in the PNG: a voxel is not square where the spacing is not.
    """
    study = await service.study(study_id)
    slab = find_slab(slab_mm, projection)
    checked, number = await _slice(service, study, plane, index)
    return await _drawn(
        request,
        service,
        study,
        ("hu", checked, number, slab),
        partial(encode_hu, plane=checked, index=number, slab=slab),
        media_type="application/octet-stream",
        headers={"x-slice-index": str(number), "content-encoding": "gzip"},
    )


@api.get(
    "/v1/studies/{study_id}/volume.nii.gz",
    tags=["studies"],
    operation_id="get_volume",
    response_class=Response,
    responses={
        200: {
            "content": {"application/gzip": _BINARY},
            "description": "NIfTI-1 of int16 Hounsfield units, where the CT lies in the world.",
        },
        304: _NOT_CHANGED,
    },
)
async def get_volume(
    request: Request,
    study_id: str,
    service: The,
    max_edge: Annotated[int, Query(description="Longest edge in voxels, 16 to 512.")] = 256,
) -> Response:
    """Return the volume, averaged over blocks of voxels so that no edge is longer than asked."""
    study = await service.study(study_id)
    return await _drawn(
        request,
        service,
        study,
        ("volume", check_edge(max_edge)),
        partial(encode_coarse, max_edge=max_edge),
        media_type="application/gzip",
    )


async def _slice(service: Service, study: Study, plane: str, index: str) -> tuple[Plane, int]:
    """Return the slice that a path names."""
    if index == "key":
        checked = check_slice(study.shape, plane, study.shape[PLANES.index("axial")] // 2)
        if checked != "axial":
            raise InputError("Only the axial plane has a key slice: expected axial/key.png.")
        return checked, (await service.load(study)).landmarks.key_slice
    if not index.isascii() or not index.removeprefix("-").isdigit() or len(index) > 9:
        raise InputError(
            "The slice is not a number: expected an index such as 42, or key.",
            rule="slice-out-of-range",
        )
    return check_slice(study.shape, plane, int(index)), int(index)


async def _drawn(
    request: Request,
    service: Service,
    study: Study,
    what: tuple[object, ...],
    draw: Draw,
    media_type: str,
    headers: dict[str, str] | None = None,
) -> Response:
    """Return what is drawn of a study, or that the browser has it: `what` tells it from all else."""
    text = f"{pixels_key(study)}\0{what}"
    tag = f'"{hashlib.sha256(text.encode()).hexdigest()[:24]}"'
    told = {"etag": tag, "cache-control": "private, max-age=3600", **(headers or {})}
    if tag in request.headers.get("if-none-match", ""):
        told.pop("content-encoding", None)
        return Response(status_code=304, headers=told)
    return Response(await service.draw(study, tag, draw), media_type=media_type, headers=told)
