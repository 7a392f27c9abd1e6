"""For whoever runs the service: what it holds, whether it lives, whether it can answer."""

import contextlib

from starlette.requests import Request
from starlette.responses import Response

import medfinder
from medfinder.errors import MedFinderError
from medfinder.serve.access.roles import guarded, needs
from medfinder.serve.metrics import CONTENT_TYPE
from medfinder.serve.schemas import MAX_K, Alive, StatusResponse, WindowOut
from medfinder.serve.service import ERRORS, Service, The
from medfinder.serve.slices import WINDOWS

api = guarded("anyone", responses=ERRORS)


@api.get("/v1/status", tags=["service"], operation_id="get_status", dependencies=[needs("viewer")])
async def get_status(service: The) -> StatusResponse:
    """Return what this service holds and can do."""
    status = await service.rows(service.finder.status)
    return StatusResponse(
        version=medfinder.__version__,
        n_studies=status["n_studies"],
        encoders=status["encoders"],
        windows={n: WindowOut(level=w.level, width=w.width) for n, w in WINDOWS.items()},
        max_upload_bytes=service.config.max_upload_bytes,
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


@api.get(
    "/metrics",
    tags=["service"],
    operation_id="get_metrics",
    include_in_schema=False,
    dependencies=[needs("admin", or_here=True)],
)
async def get_metrics(request: Request) -> Response:
    """Return what is counted, for Prometheus; also while there is no index."""
    service: Service = request.app.state.service  # whole: who may ask is asked above
    with contextlib.suppress(MedFinderError):
        index = service.finder.index
        n_studies = await service.rows(index.count)
        service.metrics.describe(n_studies, index.model_ids)
    service.metrics.look(service, now=True)
    return Response(service.metrics.text(), media_type=CONTENT_TYPE)
