"""A MedFinder service, asked from Python: typed questions and answers, the service's own.

::

    client = medfinder.Client("https://ct.example", token="mf_…")
    for hit in client.search("lung mass", filters=Filters(sex=["F"])).hits:
        print(hit.study_id, hit.why.sentences)

Answers are the models of `medfinder.serve.schemas`. Whatever the service refuses is raised as the
error of `medfinder.errors` that it names, with its hint and request id.
"""

import contextlib
import io
import json
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal, TypeVar
from urllib.parse import quote

import httpx
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ValidationError

import medfinder
from medfinder import errors
from medfinder.errors import InputError, MedFinderError, ServiceError, UnknownName
from medfinder.serve.collection_schemas import (
    CollectionChange,
    CollectionDetail,
    CollectionOut,
    CollectionsResponse,
    NewCollection,
    NewSearch,
    NoteGiven,
    SearchesResponse,
    SearchOut,
    ShareGiven,
)
from medfinder.serve.schemas import (
    MAX_K,
    ExplanationResponse,
    FacetsResponse,
    Filters,
    FindingsResponse,
    HitOut,
    JobOut,
    JobsResponse,
    KeySlice,
    Question,
    Region,
    SearchRequest,
    SearchResponse,
    StatusResponse,
    StudyOut,
    UploadOptions,
)

M = TypeVar("M", bound=BaseModel)
PlaneName = Literal["axial", "coronal", "sagittal"]
_PAUSE_S, _LONGEST_S = 1.0, 60.0  # before a request is sent again, unless the service says
_STATES = ("done", "failed", "cancelled", "interrupted")


class Client:
    """One service.

    Safe to use from several threads. Close it, or use it in a ``with`` block.

    Args:
        url: Of the page, such as ``"http://127.0.0.1:8000"``.
        token: An API token, where the service asks who one is.
        timeout_s: For an answer; the first search may have to load encoders.
        retries: How often a request is sent again that the service was too busy for, after as many
            seconds as it asks for, a minute at most.
        verify: Whether the certificate of an ``https`` address is checked; or a file of authorities.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        timeout_s: float = 120.0,
        retries: int = 3,
        verify: bool | str = True,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise InputError(
                f"{url[:80]!r} is no address of a service: expected http:// or https://. "
                "Give what the page's address begins with."
            )
        headers = {"user-agent": f"medfinder/{medfinder.__version__}"}
        if token:
            headers["authorization"] = f"Bearer {token}"
        self._retries = retries
        self._http = httpx.Client(
            base_url=url.rstrip("/"), headers=headers, timeout=timeout_s, verify=verify
        )

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # -- searching ---------------------------------------------------------------

    def search(
        self,
        text: str | None = None,
        *,
        keywords: Sequence[str] | None = None,
        report: str | None = None,
        study_id: str | None = None,
        region: Region | None = None,
        like: Sequence[str] = (),
        unlike: Sequence[str] = (),
        without: Sequence[str] = (),
        filters: Filters | None = None,
        where: str | None = None,
        sort: Literal["score", "date", "-date", "age", "-age"] = "score",
        k: int = 10,
        offset: int = 0,
        exclude_same_patient: bool = True,
    ) -> SearchResponse:
        """Find studies; what each argument means is in `SearchRequest`.

        Raises:
            InputError: There is no query, or the service cannot use it.
            ServiceError: It refused, or could not be reached.
        """
        request = _checked(
            SearchRequest,
            text=text,
            keywords=None if keywords is None else list(keywords),
            report=report,
            study_id=study_id,
            region=region,
            like=list(like),
            unlike=list(unlike),
            without=list(without),
            filters=filters or Filters(),
            where=where,
            sort=sort,
            k=k,
            offset=offset,
            exclude_same_patient=exclude_same_patient,
        )
        return self._send(SearchResponse, "POST", "/v1/search", json=_plain(request))

    def iter_search(
        self, text: str | None = None, *, n: int = 1000, **query: Any
    ) -> Iterator[HitOut]:
        """Yield hits, best first, page after page as they are needed.

        Args:
            text: As in `search`, as is all of `query` but `k` and `offset`.
            n: At most so many.
        """
        offset = 0
        while offset < n:
            page = self.search(text, **query, k=min(MAX_K, n - offset), offset=offset)
            yield from page.hits
            if page.next_offset is None or not page.hits:
                return
            offset = page.next_offset

    def search_volume(
        self, volume: str | Path | bytes, *, hold: bool = False, **narrowing: Any
    ) -> SearchResponse:
        """Find studies whose CT looks like this one.

        Args:
            volume: A NIfTI or DICOM file, a zip of a series, its bytes, or a folder of a series,
                which is zipped.
            hold: Keep it for half an hour under ``query_study.study_id``, to be looked at.
            narrowing: As in `search`: filters, where, like, unlike, without, sort, k, offset.
        """
        options = _checked(UploadOptions, hold=hold, **narrowing)
        data = {"options": options.model_dump_json(exclude_unset=True)}
        return self._upload(SearchResponse, "/v1/search/volume", volume, data)

    def explanation(self, study_id: str, question: Question | str) -> ExplanationResponse:
        """Tell where a study's CT resembles what is asked, region by region.

        Args:
            question: A sentence, or what `Question` allows.
        """
        asked = _checked(Question, text=question) if isinstance(question, str) else question
        path = f"/v1/studies/{_part(study_id)}/explanation"
        return self._send(ExplanationResponse, "POST", path, json=_plain(asked))

    def facets(self, filters: Filters | None = None, where: str | None = None) -> FacetsResponse:
        """Count the studies for each value of each facet, of those that pass the filters."""
        if filters is None and where is None:
            return self._send(FacetsResponse, "GET", "/v1/facets")
        body = {"filters": _plain(filters or Filters()), "where": where}
        return self._send(FacetsResponse, "POST", "/v1/facets", json=body)

    def findings(self) -> FindingsResponse:
        """Return the findings vocabulary."""
        return self._send(FindingsResponse, "GET", "/v1/findings")

    # -- studies -----------------------------------------------------------------

    def study(self, study_id: str) -> StudyOut:
        """Return a study.

        Raises:
            UnknownName: There is none of this id.
        """
        return self._send(StudyOut, "GET", f"/v1/studies/{_part(study_id)}")

    def key_slice(self, study_id: str) -> KeySlice:
        """Return the slice to begin with."""
        return self._send(KeySlice, "GET", f"/v1/studies/{_part(study_id)}/key-slice")

    def slice_png(
        self,
        study_id: str,
        index: int | Literal["key"] = "key",
        plane: PlaneName = "axial",
        **drawing: Any,
    ) -> bytes:
        """Return a slice as PNG.

        Args:
            drawing: window, or level and width; slab_mm and projection.
        """
        path = f"/v1/studies/{_part(study_id)}/slices/{_part(plane)}/{index}.png"
        return self._ask("GET", path, params=_given(drawing)).content

    def slice(
        self,
        study_id: str,
        index: int | Literal["key"] = "key",
        plane: PlaneName = "axial",
        **drawing: Any,
    ) -> npt.NDArray[np.uint8]:
        """Return a slice's grey values, (rows, columns), as in the PNG."""
        from PIL import Image

        with Image.open(io.BytesIO(self.slice_png(study_id, index, plane, **drawing))) as image:
            return np.asarray(image, np.uint8)

    def slice_hu(
        self, study_id: str, index: int, plane: PlaneName = "axial", **slab: Any
    ) -> npt.NDArray[np.int16]:
        """Return a slice's Hounsfield units, in the volume's own voxels, rows from the top."""
        path = f"/v1/studies/{_part(study_id)}/slices/{_part(plane)}/{index}.hu"
        values = np.frombuffer(self._ask("GET", path, params=_given(slab)).content, "<i2")
        d, h, w = self.study(study_id).shape
        shape = {"axial": (h, w), "coronal": (d, w), "sagittal": (d, h)}[plane]
        return values.astype(np.int16).reshape(shape)

    def volume(self, study_id: str, max_edge: int = 256) -> bytes:
        """Return a study's volume as ``.nii.gz``, no edge longer than `max_edge` voxels."""
        path = f"/v1/studies/{_part(study_id)}/volume.nii.gz"
        return self._ask("GET", path, params={"max_edge": max_edge}).content

    # -- taking in ---------------------------------------------------------------

    def ingest(
        self,
        volume: str | Path | bytes,
        *,
        report: str = "",
        study_id: str | None = None,
        patient_id: str | None = None,
        sex: Literal["F", "M"] | None = None,
        age: int | None = None,
        study_date: str | None = None,
        body_part: str | None = None,
        source: str | None = None,
    ) -> JobOut:
        """Have a study taken in; return its job, which `follow` follows.

        Args:
            volume: As in `search_volume`.
            report: Its text.
            study_id: A pseudonym, as is `patient_id`.
        """
        facts = {
            "report": report or None,
            "study_id": study_id,
            "patient_id": patient_id,
            "sex": sex,
            "age": age,
            "study_date": study_date,
            "body_part": body_part,
            "source": source,
        }
        data = {name: str(value) for name, value in facts.items() if value is not None}
        return self._upload(JobOut, "/v1/ingest", volume, data)

    def jobs(self) -> list[JobOut]:
        """Return all jobs that are remembered, the newest first."""
        return self._send(JobsResponse, "GET", "/v1/jobs").jobs

    def job(self, job_id: str) -> JobOut:
        """Return a job."""
        return self._send(JobOut, "GET", f"/v1/jobs/{_part(job_id)}")

    def cancel_job(self, job_id: str) -> JobOut:
        """Have a job end at its next step."""
        return self._send(JobOut, "DELETE", f"/v1/jobs/{_part(job_id)}")

    def follow(self, job_id: str) -> Iterator[JobOut]:
        """Yield a job as it changes, the last time when it has ended, whichever way.

        A connection that is cut is made again.
        """
        path = f"/v1/jobs/{_part(job_id)}/events"
        told: JobOut | None = None
        for attempt in range(self._retries + 1):
            try:
                with self._http.stream("GET", path) as answer:
                    if answer.is_error:
                        answer.read()
                        raise _error(answer)
                    for line in answer.iter_lines():
                        if not line.startswith("data:"):
                            continue
                        job = JobOut.model_validate_json(line.removeprefix("data:"))
                        if job != told:
                            yield job
                        told = job
                        if job.state in _STATES:
                            return
            except httpx.TransportError:
                if attempt == self._retries:
                    break
            time.sleep(_PAUSE_S)
        raise ServiceError("The service ended the connection before the job had ended. Ask again.")

    # -- the service -------------------------------------------------------------

    def collections(self) -> list[CollectionOut]:
        """Return the collections that one owns or was given, the latest change first."""
        return self._send(CollectionsResponse, "GET", "/v1/collections").collections

    def collection(self, collection_id: str) -> CollectionDetail:
        """Return a collection with its studies."""
        return self._send(CollectionDetail, "GET", _collection(collection_id))

    def add_collection(self, name: str, description: str = "") -> CollectionOut:
        """Make a collection."""
        given = _checked(NewCollection, name=name, description=description)
        return self._send(CollectionOut, "POST", "/v1/collections", json=_plain(given))

    def change_collection(
        self, collection_id: str, name: str | None = None, description: str | None = None
    ) -> CollectionOut:
        """Give a collection another name or description; what is None stays."""
        given = _checked(CollectionChange, name=name, description=description)
        return self._send(CollectionOut, "PATCH", _collection(collection_id), json=_plain(given))

    def remove_collection(self, collection_id: str) -> None:
        """Remove a collection; its studies stay in the index."""
        self._ask("DELETE", _collection(collection_id))

    def put_study(self, collection_id: str, study_id: str, note: str = "") -> None:
        """Put a study into a collection, or give it another note there."""
        path = f"{_collection(collection_id)}/studies/{_part(study_id)}"
        self._ask("PUT", path, json=_plain(_checked(NoteGiven, note=note)))

    def take_study(self, collection_id: str, study_id: str) -> None:
        """Take a study out of a collection."""
        self._ask("DELETE", f"{_collection(collection_id)}/studies/{_part(study_id)}")

    def share_collection(
        self, collection_id: str, account: str, permission: Literal["read", "write"] = "read"
    ) -> None:
        """Let another account see a collection, or also change it."""
        given = _checked(ShareGiven, permission=permission)
        path = f"{_collection(collection_id)}/shares/{_part(account)}"
        self._ask("PUT", path, json=_plain(given))

    def unshare_collection(self, collection_id: str, account: str) -> None:
        """Let an account see a collection no more."""
        self._ask("DELETE", f"{_collection(collection_id)}/shares/{_part(account)}")

    def export_collection(
        self, collection_id: str, form: Literal["csv", "json", "pdf", "nifti", "dicom"] = "csv"
    ) -> bytes:
        """Return a collection as a file that identifies nobody; the last two are zips."""
        path = f"{_collection(collection_id)}/export"
        return self._ask("GET", path, params={"format": form}).content

    def saved_searches(self) -> list[SearchOut]:
        """Return one's saved searches, the latest first."""
        return self._send(SearchesResponse, "GET", "/v1/saved-searches").searches

    def save_search(self, name: str, query: Mapping[str, Any]) -> SearchOut:
        """Keep a search."""
        given = _checked(NewSearch, name=name, query=dict(query))
        return self._send(SearchOut, "POST", "/v1/saved-searches", json=_plain(given))

    def remove_saved_search(self, search_id: str) -> None:
        """Forget a saved search."""
        self._ask("DELETE", f"/v1/saved-searches/{_part(search_id)}")

    def status(self) -> StatusResponse:
        """Return what the service holds and can do."""
        return self._send(StatusResponse, "GET", "/v1/status")

    def is_alive(self) -> bool:
        """Tell whether the process answers."""
        return self._answers("/health")

    def is_ready(self) -> bool:
        """Tell whether its index can be searched."""
        return self._answers("/ready")

    def request(
        self, method: str, path: str, body: Any = None, params: Mapping[str, Any] | None = None
    ) -> Any:
        """Send any other request of ``/v1/openapi.json``; return its JSON, or bytes.

        Raises:
            MedFinderError: As every method does.
        """
        answer = self._ask(method, path, json=body, params=params)
        kind = answer.headers.get("content-type", "")
        return answer.json() if kind.startswith("application/json") else answer.content

    def _answers(self, path: str) -> bool:
        try:
            return self._http.get(path).is_success
        except httpx.TransportError:
            return False

    def _send(self, model: type[M], method: str, path: str, **more: Any) -> M:
        return model.model_validate_json(self._ask(method, path, **more).content)

    def _upload(
        self, model: type[M], path: str, volume: str | Path | bytes, data: Mapping[str, str]
    ) -> M:
        with _opened(volume) as file:
            files = {"file": ("ct", file, "application/octet-stream")}
            answer = self._ask("POST", path, files=files, data=data)
        return model.model_validate_json(answer.content)

    def _ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        for attempt in range(self._retries + 1):
            for _, file, _ in more.get("files", {}).values():
                file.seek(0)
            try:
                answer = self._http.request(method, path, **more)
            except httpx.TransportError as error:
                raise ServiceError(
                    f"The service could not be reached, or did not answer: {type(error).__name__}. "
                    "Check its address, and that it runs."
                ) from None
            wait_s = _asked_to_wait(answer)
            if wait_s is None or attempt == self._retries:
                break
            time.sleep(wait_s)
        if answer.is_error:
            raise _error(answer)
        return answer


def _asked_to_wait(answer: httpx.Response) -> float | None:
    """Return the seconds after which the service wants to be asked again; None for never."""
    if answer.status_code not in (429, 503) or "retry-after" not in answer.headers:
        return None
    try:
        seconds = float(answer.headers["retry-after"])
    except ValueError:
        seconds = _PAUSE_S
    return min(max(seconds, 0.0), _LONGEST_S)


def _error(answer: httpx.Response) -> MedFinderError:
    """Return the error that an answer tells of."""
    kind, message, hint, request_id = "", "", "", answer.headers.get("x-request-id", "")
    with contextlib.suppress(ValueError, KeyError, TypeError):
        body = answer.json()
        kind, message, hint = (body["error"][name] for name in ("type", "message", "hint"))
        request_id = body["request_id"]
    status = answer.status_code
    if not message:
        message = f"The service answered with status {status}, and not as MedFinder does."
    named = getattr(errors, kind, None)
    error: MedFinderError
    if status == 404:
        error = UnknownName(message)
    elif isinstance(named, type) and issubclass(named, MedFinderError) and status < 500:
        error = InputError(message) if named is ServiceError else named(message)
    else:
        error = ServiceError(message, status=status, kind=kind)
    error.hint, error.request_id = hint, request_id
    return error


def _checked(model: type[M], **values: Any) -> M:
    """Build a request, or say which argument is wrong."""
    try:
        return model(**values)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the query"
        raise InputError(f"{where}: {first['msg']}.") from None


def _plain(model: BaseModel) -> Any:
    return json.loads(model.model_dump_json(exclude_defaults=True))


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _collection(collection_id: str) -> str:
    return f"/v1/collections/{_part(collection_id)}"


def _part(name: str) -> str:
    """Return an id as a part of an address, which is one part whatever is in it.

    Raises:
        UnknownName: It can be no part of an address, so nothing has this id.
    """
    if name in ("", ".", ".."):
        raise UnknownName(f"There is nothing with the id {name!r}. Take ids from an answer.")
    return quote(name, safe="")


@contextlib.contextmanager
def _opened(volume: str | Path | bytes) -> Iterator[IO[bytes]]:
    """Open what is to be sent; a folder becomes a zip in a temporary file.

    Raises:
        InputError: There is no such file or folder.
    """
    if isinstance(volume, bytes):
        yield io.BytesIO(volume)
        return
    path = Path(volume)
    if path.is_dir():
        with tempfile.TemporaryFile() as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
                for i, each in enumerate(sorted(p for p in path.rglob("*") if p.is_file())):
                    archive.write(each, f"{i:06d}{each.suffix}")  # its name may name somebody
            file.seek(0)
            yield file
        return
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise InputError(
            f"{str(volume)!r} cannot be read: {error.strerror}. Check the path."
        ) from None
