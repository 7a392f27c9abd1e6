"""A PACS behind DICOMweb → what it lists (QIDO-RS) and the files it sends (WADO-RS).

Searches go through `dicomweb_client`. Retrieval uses its session, but not its decoder: that one
holds a whole instance in memory, writes it anew from the parsed dataset, and takes an answer that
breaks off before the closing boundary for a whole one. Here the bytes go to disk as they come.

Source:
    DICOM PS3.18 sections 10.4 (retrieve) and 10.6 (search).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medfinder.curate.sources.multipart import boundary_of, write_parts
from medfinder.curate.sources.remote import (
    Patience,
    Refused,
    Stalled,
    authorization,
    check_address,
    check_status,
    patiently,
    shown,
)
from medfinder.errors import InputError, MissingExtra

ENVIRONMENT = "MEDFINDER_PACS"
PIP = "pip install 'medfinder[pacs]'"
_CHUNK_BYTES = 2**15  # what is lost of an answer that breaks off
_PAGE = 500
# As stored where the server can, which costs it no transcoding; else what every server must offer.
_ACCEPT = (
    'multipart/related; type="application/dicom"; transfer-syntax=*',
    'multipart/related; type="application/dicom"',
)


@dataclass(frozen=True, slots=True)
class PacsStudy:
    """A study as a PACS lists it; fields it does not give are empty.

    Attributes:
        study_id: StudyInstanceUID.
        accession: AccessionNumber.
        patient: PatientID.
        study_date: ``YYYYMMDD``.
        modalities: ModalitiesInStudy.
        n_series: NumberOfStudyRelatedSeries.
        known: Names and numbers of persons: PatientName, PatientID, ReferringPhysicianName,
            AccessionNumber.
    """

    study_id: str
    accession: str = ""
    patient: str = ""
    study_date: str = ""
    modalities: tuple[str, ...] = ()
    n_series: int | None = None
    known: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PacsSeries:
    """A series as a PACS lists it.

    Attributes:
        series_id: SeriesInstanceUID.
        n_instances: NumberOfSeriesRelatedInstances.
    """

    study_id: str
    series_id: str
    modality: str = ""
    body_part: str = ""
    n_instances: int | None = None


class Pacs:
    """One DICOMweb service.

    Credentials come from the environment: ``MEDFINDER_PACS_TOKEN`` (bearer), or
    ``MEDFINDER_PACS_USER`` and ``MEDFINDER_PACS_PASSWORD`` (basic).

    Args:
        url: Root of the service, such as ``http://pacs:8042/dicom-web``.
        patience: Of every request.

    Raises:
        InputError: Rule ``bad-address``.
        ConfigError: Credentials that are incomplete.
        MissingExtra: `dicomweb_client` is not installed.
    """

    def __init__(self, url: str, patience: Patience | None = None) -> None:
        self.url = check_address(url, "PACS", ENVIRONMENT)
        self.name = f"The PACS at {shown(self.url)}"
        self.patience = patience or Patience()
        try:
            import requests
            from dicomweb_client.web import DICOMwebClient
        except ImportError:
            raise MissingExtra(PIP) from None
        self._session = requests.Session()
        if value := authorization(ENVIRONMENT):
            # As "auth" rather than as a header: requests replaces a header by what .netrc says,
            # and keeps credentials from another host that an answer redirects to.
            self._session.auth = _Header(value)
        self._kind = ""
        self._accept = 0
        try:
            self._client = DICOMwebClient(
                self.url,
                session=self._session,
                callback=self._look,
                permissive_uid=True,  # archives hold identifiers that the standard forbids
                timeout=self.patience.timeout_s,
            )
        except ValueError:
            raise InputError(
                "The address of the PACS cannot be used: the DICOMweb client does not take it. "
                "Expected http://host:port/path.",
                rule="bad-address",
            ) from None
        self._client.set_http_retry_params(retry=False)  # `patiently` heeds Retry-After as well

    def _look(self, response: Any, *_: Any, **__: Any) -> None:
        self._kind = response.headers.get("Content-Type", "").lower()
        if response.is_redirect:  # followed next
            return
        # Before the client does: its error quotes the address, which may hold a patient's number.
        try:
            check_status(response.status_code, response.headers)
        except (Refused, Stalled):
            response.close()
            raise

    def studies(self, filters: Mapping[str, str]) -> Iterator[PacsStudy]:
        """Yield the studies that match, page by page.

        Args:
            filters: Attribute → value, as QIDO-RS matches it.

        Raises:
            Stalled: The server does not answer, after every attempt.
            Refused: It does not take the question.
        """

        def page(offset: int) -> list[dict[str, Any]]:
            return self._client.search_for_studies(
                search_filters=dict(filters),
                fields=["ModalitiesInStudy", "AccessionNumber", "NumberOfStudyRelatedSeries"],
                limit=_PAGE,
                offset=offset,
            )

        for row in self._pages(page, "0020000D", None):
            yield PacsStudy(
                study_id=_value(row, "0020000D"),
                accession=_value(row, "00080050"),
                patient=_value(row, "00100020"),
                study_date=_value(row, "00080020"),
                modalities=tuple(_values(row, "00080061")),
                n_series=_number(row, "00201206"),
                known=tuple(
                    sorted(
                        {
                            text
                            for tag in ("00100010", "00100020", "00080090", "00080050")
                            for text in _values(row, tag)
                            if text
                        }
                    )
                ),
            )

    def series(self, study: PacsStudy) -> list[PacsSeries]:
        """Return a study's series, sorted by their identifier.

        Raises:
            Stalled: As `studies`.
            Refused: Likewise.
        """

        def page(offset: int) -> list[dict[str, Any]]:
            return self._client.search_for_series(
                study.study_id,
                fields=["Modality", "BodyPartExamined", "NumberOfSeriesRelatedInstances"],
                offset=offset or None,
            )

        found = [
            PacsSeries(
                study_id=study.study_id,
                series_id=_value(row, "0020000E"),
                modality=_value(row, "00080060").upper(),
                body_part=_value(row, "00180015"),
                n_instances=_number(row, "00201209"),
            )
            for row in self._pages(page, "0020000E", study.n_series)
        ]
        return sorted(found, key=lambda series: series.series_id)

    def instances(self, series: PacsSeries) -> list[str]:
        """Return the SOPInstanceUIDs of a series, sorted.

        Raises:
            Stalled: As `studies`.
            Refused: Likewise.
        """

        def page(offset: int) -> list[dict[str, Any]]:
            return self._client.search_for_instances(
                series.study_id, series.series_id, offset=offset or None
            )

        rows = self._pages(page, "00080018", series.n_instances)
        return sorted(_value(row, "00080018") for row in rows)

    def _pages(
        self, page: Callable[[int], Any], tag: str, n_expected: int | None
    ) -> Iterator[dict[str, Any]]:
        """Yield the rows of all pages, each identifier once.

        A server may send fewer rows than asked for and have more, and may not know "offset": the
        end is where nothing new comes.
        """
        seen: set[str] = set()
        offset = 0
        while True:
            rows = patiently(lambda at=offset: self._ask(page, at), self.patience)  # type: ignore[misc]
            new = 0
            for row in rows:
                if (key := _value(row, tag)) not in seen:
                    seen.add(key)
                    new += 1
                    yield row
            offset += len(rows)
            if not new or (n_expected is not None and len(seen) >= n_expected):
                return

    def _ask(self, page: Callable[[int], Any], offset: int) -> list[dict[str, Any]]:
        from requests import RequestException

        self._kind = ""
        try:
            rows = page(offset)
        except (ValueError, RecursionError):  # the body is not JSON, or nests without end
            if "json" in self._kind:
                raise Stalled("it answered half a JSON") from None
            kind = self._kind.split(";")[0][:60] or "nothing that has a type"
            raise Refused(f"it answered {kind} instead of DICOM JSON") from None
        except RequestException as error:
            raise _trouble(error) from None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise Refused("it answered JSON of another form")
        return rows

    def answers(self) -> bool:
        """Whether the server answers at all, asked once."""
        try:
            self._ask(lambda _: self._client.search_for_studies(limit=1), 0)
        except Stalled:
            return False
        except Refused:
            pass
        return True

    def retrieve(self, series: PacsSeries, instance: str | None, path: Path) -> Iterator[Path]:
        """Retrieve a series, or one instance of it; one attempt.

        Yields:
            `path`, once an instance: the whole file. The caller takes it away before the next.

        Raises:
            Stalled: The answer did not come, or broke off; what was yielded before is whole.
            Refused: The server does not send it.
            OSError: The disk's; the network's are `Stalled`.
        """
        from requests import RequestException

        url = f"{self.url}/studies/{series.study_id}/series/{series.series_id}"
        if instance:
            url += f"/instances/{instance}"
        try:
            response = self._get(url)
        except RequestException as error:
            raise _trouble(error) from None
        with response:
            kind = response.headers.get("Content-Type", "")
            form = kind.split(";")[0].strip().lower()
            if form == "multipart/related":
                yield from write_parts(_chunks(response), boundary_of(kind), path)
            elif form == "application/dicom":  # forbidden, and done, for a single instance
                with path.open("wb") as file:
                    for chunk in _chunks(response):
                        file.write(chunk)
                yield path
            elif response.status_code == 204:
                return
            else:
                raise Refused(f"it answered {form[:60] or 'without a type'} instead of DICOM")

    def _get(self, url: str) -> Any:
        while True:
            try:
                return self._session.get(
                    url,
                    headers={"Accept": _ACCEPT[self._accept], "Accept-Encoding": "identity"},
                    stream=True,
                    timeout=self.patience.timeout_s,
                )
            except Refused as refused:
                if refused.status not in (400, 406, 415) or self._accept + 1 == len(_ACCEPT):
                    raise
                self._accept += 1


class _Header:
    """Credentials for requests: one header, never printed."""

    def __init__(self, value: str) -> None:
        self._value = value

    def __call__(self, request: Any) -> Any:
        request.headers["Authorization"] = self._value
        return request


def _chunks(response: Any) -> Iterator[bytes]:
    from requests import RequestException

    try:
        yield from response.iter_content(_CHUNK_BYTES)
    except RequestException as error:
        raise _trouble(error) from None


def _trouble(error: Exception) -> Stalled | Refused:
    """Tell a failure of the network that may pass from one that will not."""
    from requests import exceptions

    # The library's own text quotes the address.
    if isinstance(error, exceptions.SSLError):
        return Refused("its certificate is not trusted; set REQUESTS_CA_BUNDLE to the site's")
    if isinstance(error, exceptions.Timeout):
        return Stalled("it did not answer in time")
    if isinstance(error, exceptions.ChunkedEncodingError):
        return Stalled("its answer broke off")
    if isinstance(error, exceptions.ConnectionError):
        late = "timed out" in str(error).lower()
        return Stalled("its answer stopped coming" if late else "the connection failed")
    return Stalled(f"the request failed with {type(error).__name__}")


def _values(row: Mapping[str, Any], tag: str) -> list[str]:
    element = row.get(tag)
    values = element.get("Value") if isinstance(element, Mapping) else None
    if not isinstance(values, list):
        return []
    # A person's name is an object of up to three ways to write it.
    flat = [v for value in values for v in (value.values() if isinstance(value, dict) else [value])]
    return [str(value).strip() for value in flat if isinstance(value, (str, int, float))]


def _value(row: Mapping[str, Any], tag: str) -> str:
    return next(iter(_values(row, tag)), "")


def _number(row: Mapping[str, Any], tag: str) -> int | None:
    text = _value(row, tag)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None
