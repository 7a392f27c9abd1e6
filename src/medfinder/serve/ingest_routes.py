"""Studies are taken in: ``/v1/ingest`` and the jobs that do it."""

import asyncio
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated, Literal

from fastapi import File, Form, Request, UploadFile
from starlette.responses import Response, StreamingResponse

from medfinder.serve.access.roles import Identity, guarded
from medfinder.serve.faults import Refusal
from medfinder.serve.ingest import ACTIVE, STAGES, Ingest, Job
from medfinder.serve.schemas import JobError, JobOut, JobsResponse, Rejected
from medfinder.serve.service import ERRORS, Service, The
from medfinder.serve.uploads import unpacked

api = guarded("curator", responses=ERRORS, tags=["ingest"])
TAG = {"name": "ingest", "description": "Studies are taken in."}
INGEST_PATH = "/v1/ingest"  # as in medfinder.serve.guard, which lets its body be large
_POLL_S = 0.25
_BEAT_S = 15.0  # a proxy may end a connection that says nothing

Id = Annotated[str | None, Form(pattern=r"^[A-Za-z0-9._-]{1,100}$")]


@api.post(INGEST_PATH, operation_id="ingest", status_code=202)
async def ingest(
    request: Request,
    service: The,
    file: Annotated[
        UploadFile, File(description="A NIfTI or DICOM file, or a zip of one DICOM series.")
    ],
    report: Annotated[str, Form(max_length=50_000, description="The report's text.")] = "",
    study_id: Id = None,
    patient_id: Id = None,
    sex: Annotated[Literal["F", "M"] | None, Form()] = None,
    age: Annotated[int | None, Form(ge=0, le=120, description="Years.")] = None,
    study_date: Annotated[str | None, Form(pattern=r"^\d{4}-\d{2}-\d{2}$")] = None,
    body_part: Annotated[str | None, Form(max_length=64)] = None,
    source: Annotated[str | None, Form(pattern=r"^[A-Za-z0-9._-]{1,64}$")] = None,
) -> JobOut:
    """Take in a study: it is checked, de-identified, embedded and added to the index.

    Ids that are given are shown as they are: they must be pseudonyms. Without them a DICOM file's
    own numbers become pseudonyms.
    """
    jobs = _ingest(service)
    who: Identity = request.state.identity
    if who.sources is not None and source is None:
        source = next(iter(who.sources), None)
    if who.sources is not None and source not in who.sources:
        raise Refusal(
            403,
            "Forbidden",
            "This account may not take studies in under this source: expected one of its own.",
            "Name a source that GET /v1/session shows.",
        )
    facts = {
        "text": report,
        "study_id": study_id or "",
        "patient_id": patient_id or "",
        "sex": sex or "",
        "age": "" if age is None else str(age),
        "study_date": study_date or "",
        "body_part": body_part or "",
    }

    def receive() -> Job:
        with unpacked(file.file, service.config.max_expanded_bytes) as path:
            return jobs.submit(path, facts, source=source or "ingest", account=who.name)

    return job_out(await service.receive(receive), who)


@api.get("/v1/jobs", operation_id="get_jobs")
async def get_jobs(request: Request, service: The) -> JobsResponse:
    """Return all jobs that are remembered, the newest first."""
    who: Identity = request.state.identity
    jobs = await service.ask_jobs(_ingest(service).jobs)
    return JobsResponse(jobs=[job_out(job, who) for job in jobs if _may_know(who, job)])


@api.get("/v1/jobs/{job_id}", operation_id="get_job")
async def get_job(job_id: str, request: Request, service: The) -> JobOut:
    """Return a job."""
    who: Identity = request.state.identity
    return job_out(await _find(service, job_id, who), who)


@api.get(
    "/v1/jobs/{job_id}/events",
    operation_id="follow_job",
    response_class=Response,
    responses={
        200: {
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
            "description": "Server-sent events: progress at each stage, then done or failed; the "
            "data of each is a job.",
        }
    },
)
async def follow_job(job_id: str, request: Request, service: The) -> StreamingResponse:
    """Follow a job until it has ended."""
    who: Identity = request.state.identity
    job = await _find(service, job_id, who)
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(
        _events(job, service, who), media_type="text/event-stream", headers=headers
    )


@api.delete("/v1/jobs/{job_id}", operation_id="cancel_job", status_code=202)
async def cancel_job(job_id: str, request: Request, service: The) -> JobOut:
    """Have a job end at its next step; nothing of it is kept."""
    who: Identity = request.state.identity
    job = await _find(service, job_id, who)
    if job.state not in ACTIVE:
        raise Refusal(
            409,
            "Ended",
            f"The job has ended already: it is {job.state}.",
            "Ask for it by GET to see what came of it.",
        )
    await service.ask_jobs(partial(_ingest(service).cancel, job_id))
    return job_out(job, who)


def _may_know(who: Identity, job: Job) -> bool:
    return who.sources is None or job.source in who.sources


def job_out(job: Job, who: Identity) -> JobOut:
    """Return what `who` may be told of a job."""

    def told(rule: str, reason: str) -> str:
        # Such a reason names a study, which may be of a source that the account must not know.
        if who.sources is not None and rule == "duplicate-volume":
            return "The index has these very voxels."
        return reason

    return JobOut(
        job_id=job.job_id,
        state=job.state,
        stage=job.stage,  # type: ignore[arg-type]
        done=job.done,
        total=len(STAGES) - 1,
        created=job.created,
        ended=job.ended,
        source=job.source,
        studies=list(job.studies) if job.state == "done" else [],
        rejections=[
            Rejected(rule=rule, reason=told(rule, reason)) for rule, reason in job.rejections
        ],
        doubts=[Rejected(rule=rule, reason=reason) for rule, reason in job.doubts],
        error=JobError(type=job.error[0], message=job.error[1]) if job.error else None,
    )


def _ingest(service: Service) -> Ingest:
    if service.ingest is None:
        raise Refusal(
            501,
            "NoIngest",
            "This service takes in no studies: it has no folder to keep them in.",
            "Ask whoever runs it to start it with --ingest FOLDER.",
        )
    return service.ingest


async def _find(service: Service, job_id: str, who: Identity) -> Job:
    job = await service.ask_jobs(partial(_ingest(service).job, job_id))
    if job is None or not _may_know(who, job):
        raise Refusal(
            404,
            "UnknownName",
            "There is no job with this id, or it ended long ago.",
            "Take ids from /v1/jobs.",
        )
    return job


async def _events(job: Job, service: Service, who: Identity) -> AsyncIterator[str]:
    told: Job | None = None
    beat = time.monotonic()
    while True:
        if job != told:
            kind = "progress" if job.state in ACTIVE else "failed"
            kind = "done" if job.state == "done" else kind
            yield f"event: {kind}\ndata: {job_out(job, who).model_dump_json()}\n\n"
            told, beat = job, time.monotonic()
        if job.state not in ACTIVE or service.is_stopping:
            return
        if time.monotonic() - beat > _BEAT_S:
            yield ": still there\n\n"
            beat = time.monotonic()
        await asyncio.sleep(_POLL_S)
        found = await service.ask_jobs(partial(_ingest(service).job, job.job_id))
        if found is None:
            return
        job = found
