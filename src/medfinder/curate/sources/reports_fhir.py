"""FHIR DiagnosticReports → `ReportRow`s, from Bundles, NDJSON, or a server's search.

Every resource is validated by `fhir.resources`, one at a time: one that is broken costs itself
alone. The study comes from the ImagingStudy that the report refers to, wherever it lies: contained,
in the same file or page, or on the server.

Source:
    FHIR R4, R4B and R5: DiagnosticReport, ImagingStudy, Bundle; STU3 where a resource is of it.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

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
from medfinder.curate.sources.reports import ReportRow, ReportStatus, language_of
from medfinder.errors import InputError, MissingExtra
from medfinder.records import Rejection

ENVIRONMENT = "MEDFINDER_FHIR"
PIP = "pip install 'medfinder[fhir]'"
_MAX_PAGE_BYTES = 2**27
_UID_SYSTEM = "urn:dicom:uid"
_STATUSES: Mapping[str, ReportStatus] = {
    "final": "final",
    "amended": "amended",
    "corrected": "amended",
    "appended": "amended",
    "modified": "amended",
    "registered": "preliminary",
    "partial": "preliminary",
    "preliminary": "preliminary",
    "unknown": "preliminary",
    "cancelled": "cancelled",
    "entered-in-error": "entered-in-error",
}


def read_fhir(
    source: str | Path, patience: Patience | None = None
) -> Iterator[ReportRow | Rejection]:
    """Read reports from a file, a folder of files, or a server.

    Args:
        source: ``.json`` (a Bundle, a resource, a list of either), ``.ndjson`` or ``.jsonl``; a
            folder of them; or a search such as
            ``https://host/fhir/DiagnosticReport?category=RAD&_include=DiagnosticReport:imaging-study``,
            whose pages are followed. A server's credentials come from ``MEDFINDER_FHIR_TOKEN``, or
            ``MEDFINDER_FHIR_USER`` and ``MEDFINDER_FHIR_PASSWORD``.
        patience: With a server.

    Yields:
        A row for each report and study it is of, and a rejection for each report that gives none.

    Raises:
        InputError: No such file, a file that is not JSON, or no DiagnosticReport in any; rules
            ``fhir-unreachable``, ``fhir-refused`` and ``not-fhir`` for a server.
        MissingExtra: `fhir.resources` is not installed.
    """
    _models("DiagnosticReport")
    text = str(source)
    if text.startswith(("http://", "https://")):
        found = _from_server(_Server(text, patience or Patience()))
    else:
        found = _from_files(Path(source))
    none = True
    for row in found:
        none = False
        yield row
    if none:
        raise InputError(
            "No DiagnosticReport was found in the FHIR source: expected at least one. Check the "
            "path or the search.",
            rule="not-fhir",
        )


# -- where resources come from ---------------------------------------------------------


def _from_files(path: Path) -> Iterator[ReportRow | Rejection]:
    if not path.exists():
        raise InputError(f"There is no FHIR file or folder at {str(path)!r}. Check the path.")
    files = [path]
    if path.is_dir():
        suffixes = (".json", ".ndjson", ".jsonl")
        files = sorted(p for p in path.rglob("*") if p.suffix.lower() in suffixes and p.is_file())
    linked = _Linked()
    for file in files:  # the studies first: a report may come before the study it refers to
        for _, url, resource in _resources(file):
            linked.add(url, resource)
    for file in files:
        name = file.name if file == path else file.relative_to(path).as_posix()
        for place, _, resource in _resources(file):
            item = f"{name} {place}".strip()
            if resource is None:
                if len(files) == 1 and not place:
                    raise InputError(
                        "The FHIR file is not JSON, or breaks off: expected a Bundle or NDJSON. "
                        "Export it again.",
                        rule="not-fhir",
                    )
                yield Rejection(item, "unreadable", "Not JSON, or JSON that breaks off.")
            elif resource.get("resourceType") == "DiagnosticReport":
                yield from _rows(resource, item, linked, None)


def _resources(file: Path) -> Iterator[tuple[str, str, dict[str, Any] | None]]:
    """Yield (place in the file, full URL, resource); None for what is not JSON."""
    if file.suffix.lower() in (".ndjson", ".jsonl"):
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield from _unpack(_parse(line), f"line {number}")
    else:
        yield from _unpack(_parse(file.read_bytes()), "")


def _parse(data: bytes) -> Any:
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _unpack(content: Any, place: str) -> Iterator[tuple[str, str, dict[str, Any] | None]]:
    """Yield the resources of a Bundle or list, or the one resource that this is."""
    if isinstance(content, dict) and content.get("resourceType") == "Bundle":
        entries = content.get("entry")
        for number, entry in enumerate(entries if isinstance(entries, list) else (), 1):
            here = f"{place} entry {number}".strip()
            resource = entry.get("resource") if isinstance(entry, dict) else None
            if isinstance(resource, dict):
                yield here, str(entry.get("fullUrl") or ""), resource
    elif isinstance(content, list):
        for number, each in enumerate(content, 1):
            yield from _unpack(each, f"{place} entry {number}".strip())
    else:
        yield place, "", content if isinstance(content, dict) else None


def _from_server(server: "_Server") -> Iterator[ReportRow | Rejection]:
    linked = _Linked()
    seen: set[str] = set()
    url: str | None = server.url
    while url:
        if url in seen:
            raise InputError(
                f"{server.name} sends the same page again as the next one: expected an end. The "
                "search cannot be completed; ask its administrator.",
                rule="not-fhir",
            )
        seen.add(url)
        page = server.bundle(url)
        resources = list(_unpack(page, f"page {len(seen)}"))
        for _, full, resource in resources:
            linked.add(full, resource)
        for place, _, resource in resources:
            if resource is not None and resource.get("resourceType") == "DiagnosticReport":
                yield from _rows(resource, place, linked, server)
        links = page.get("link")
        following = [
            link.get("url")
            for link in (links if isinstance(links, list) else ())
            if isinstance(link, dict) and link.get("relation") == "next" and link.get("url")
        ]
        url = urljoin(url, str(following[0])) if following else None


class _Server:
    """A FHIR server: pages and single resources, with patience."""

    def __init__(self, url: str, patience: Patience) -> None:
        import httpx

        self.url = check_address(url, "FHIR server", ENVIRONMENT)
        self.name = f"The FHIR server at {shown(self.url)}"
        self.patience = patience
        value = authorization(ENVIRONMENT)
        self._client = httpx.Client(
            headers={"Accept": "application/fhir+json, application/json"}
            | ({"Authorization": value} if value else {}),
            timeout=patience.timeout_s,
            # A redirect could lead the credentials to another host.
            follow_redirects=False,
        )
        base = self.url.split("?")[0]
        self.base = base.rsplit("/", 1)[0] if base.endswith("/DiagnosticReport") else base

    def bundle(self, url: str) -> dict[str, Any]:
        """Return a page of a search.

        Raises:
            InputError: No page came; ``fhir-unreachable``, ``fhir-refused`` or ``not-fhir``.
        """
        if not self.owns(url):
            raise InputError(
                f"{self.name} names another host for its next page: expected the same, which the "
                "credentials are for. Set the server's own base address right.",
                rule="not-fhir",
            )
        try:
            page = self._patiently(url)
        except Refused as refused:
            if refused.status in (401, 403, 407):
                raise InputError(
                    f"{self.name} refuses: {refused}. Expected credentials it knows in "
                    f"{ENVIRONMENT}_TOKEN, or {ENVIRONMENT}_USER and {ENVIRONMENT}_PASSWORD; "
                    f"{'those given are not' if authorization(ENVIRONMENT) else 'none are set'}.",
                    rule="fhir-refused",
                ) from None
            raise InputError(
                f"{self.name} gives no reports: {refused}. Expected a Bundle in JSON from a search "
                "such as http://host/fhir/DiagnosticReport?category=RAD. Check the address.",
                rule="not-fhir",
            ) from None
        if page.get("resourceType") != "Bundle":
            kind = str(page.get("resourceType"))[:40]
            raise InputError(
                f"{self.name} answers a resource of type {kind}: expected a Bundle. Give the "
                "address of a search.",
                rule="not-fhir",
            )
        return page

    def owns(self, url: str) -> bool:
        """Whether an address lies on this server: same scheme, host and port."""
        mine, other = urlsplit(self.url), urlsplit(url)
        return (mine.scheme, mine.netloc) == (other.scheme, other.netloc)

    def resource(self, reference: str) -> dict[str, Any] | None:
        """Return what a reference leads to; None where it leads off the server or nowhere.

        Raises:
            InputError: Rule ``fhir-unreachable``.
        """
        url = urljoin(self.base + "/", reference)
        if not self.owns(url):
            return None
        try:
            return self._patiently(url)
        except Refused:
            return None

    def _patiently(self, url: str) -> dict[str, Any]:
        try:
            return patiently(lambda: self._get(url), self.patience)
        except Stalled as stalled:
            raise InputError(
                f"{self.name} does not give its reports: {stalled}, {self.patience.tries} times. "
                "Expected its resources in JSON. Nothing was written; run the same command again "
                "when it answers.",
                rule="fhir-unreachable",
            ) from None

    def _get(self, url: str) -> dict[str, Any]:
        import httpx

        try:
            with self._client.stream("GET", url) as response:
                check_status(response.status_code, response.headers)
                data = bytearray()
                for chunk in response.iter_bytes():
                    data += chunk
                    if len(data) > _MAX_PAGE_BYTES:
                        raise Refused(f"it sent a page of over {_MAX_PAGE_BYTES // 2**20} MiB")
                kind = response.headers.get("Content-Type", "")
        except httpx.TimeoutException:
            raise Stalled("it did not answer in time") from None
        except httpx.RequestError as error:
            if "certificate" in str(error).lower():
                raise Refused(
                    "its certificate is not trusted; set SSL_CERT_FILE to the site's"
                ) from None
            broke = isinstance(error, httpx.RemoteProtocolError | httpx.ReadError)
            raise Stalled("its answer broke off" if broke else "the connection failed") from None
        page = _parse(bytes(data))
        if isinstance(page, dict):
            return page
        if "json" in kind.lower():
            raise Stalled("it answered half a JSON")
        raise Refused(f"it answered {kind.split(';')[0][:60] or 'nothing'} instead of FHIR JSON")


# -- one report ------------------------------------------------------------------------


class _Linked:
    """What reports refer to, by every name that a reference may use.

    ImagingStudies are kept as (StudyInstanceUID, accession); of Patients and Practitioners the
    names and numbers.
    """

    def __init__(self) -> None:
        self._studies: dict[str, tuple[str, str]] = {}
        self._persons: dict[str, tuple[str, ...]] = {}

    def add(self, url: str, resource: dict[str, Any] | None) -> None:
        kind = resource.get("resourceType") if resource is not None else None
        if resource is None or kind not in ("ImagingStudy", "Patient", "Practitioner"):
            return
        names = [url, f"{kind}/{resource['id']}" if resource.get("id") else ""]
        if kind == "ImagingStudy":
            study = _validated(resource)
            if not isinstance(study, str):
                self._studies |= dict.fromkeys(filter(None, names), _study_of(study))
        else:
            self._persons |= dict.fromkeys(filter(None, names), _words_of_person(resource))

    def study(self, reference: str) -> tuple[str, str] | None:
        """Return the study that a reference leads to, if it is here."""
        plain, tail = _names(reference)
        return self._studies.get(plain) or self._studies.get(tail)

    def persons(self, reference: str) -> set[str]:
        """Return the names and numbers of the person that a reference leads to."""
        plain, tail = _names(reference)
        return set(self._persons.get(plain) or self._persons.get(tail) or ())


def _names(reference: str) -> tuple[str, str]:
    """Return a reference without its version, and its end, as relative ones are written."""
    plain = reference.split("/_history/")[0]
    return plain, "/".join(plain.split("/")[-2:])


def _words_of_person(resource: Mapping[str, Any]) -> tuple[str, ...]:
    # Read as it stands: a Patient that breaks the standard has a name all the same.
    found = []
    names = resource.get("name")
    for name in names if isinstance(names, list) else ():
        if isinstance(name, dict):
            given = name.get("given")
            parts = [*(given if isinstance(given, list) else ()), name.get("family")]
            found.append(" ".join(str(part) for part in parts if part))
            found.append(str(name.get("text") or ""))
    for field in ("identifier", "telecom"):
        values = resource.get(field)
        each = (v for v in (values if isinstance(values, list) else ()) if isinstance(v, dict))
        found += [str(value.get("value") or "") for value in each]
    return tuple(filter(None, found))


def _rows(
    resource: dict[str, Any], item: str, linked: _Linked, server: _Server | None
) -> Iterator[ReportRow | Rejection]:
    report = _validated(resource)
    if isinstance(report, str):
        yield Rejection(item, "unreadable", f"Not a valid DiagnosticReport: {report}.")
        return
    status = _STATUSES.get(report.status, "preliminary")
    text, language, translation, unread = _words(report, server)
    if unread and text:
        yield Rejection(
            item,
            "report-not-text",
            f"The report's own form is {unread}, which is not read; its conclusion or narrative is "
            "taken instead. Export it as text.",
        )
    elif not text and status in ("final", "amended"):
        if unread:
            yield Rejection(
                item,
                "report-not-text",
                f"The report is only {unread}, which is not read. Export it as text.",
            )
        else:
            yield Rejection(item, "empty-report", "The report has no text in any of its fields.")
        return
    named = _named_studies(report, resource, linked, server)
    if not named:
        yield Rejection(
            item,
            "no-study",
            "The report names no study: expected an imaging study with its StudyInstanceUID, or an "
            "accession number.",
        )
        return
    known = _persons(report, linked, {accession for _, accession in named})
    for study_id, accession in named:
        yield ReportRow(
            item=item,
            text=text,
            study_id=study_id,
            accession=accession,
            patient=_patient(report.subject),
            language=language,
            status=status,
            translation=translation,
            document=f"{report.id}" if report.id else "",
            version=_version(report),
            issued=_time(report.issued) or _time(report.effectiveDateTime),
            known=known,
        )


def _persons(report: Any, linked: "_Linked", numbers: set[str]) -> tuple[str, ...]:
    """Return the names and numbers of people that the report and its Patient give."""
    found = set(numbers)
    performers = [getattr(p, "actor", None) or p for p in report.performer or ()]  # STU3: actor
    readers = getattr(report, "resultsInterpreter", None) or ()
    for person in filter(None, (report.subject, *performers, *readers)):
        found.add(str(getattr(person, "display", None) or ""))
        if getattr(person, "identifier", None):
            found.add(str(person.identifier.value or ""))
        found |= linked.persons(str(getattr(person, "reference", None) or ""))
    found |= {str(i.value or "") for i in report.identifier or ()}
    return tuple(sorted(found - {""}))


def _validated(resource: dict[str, Any]) -> Any:
    """Return the resource as a model of the release it is of, or why it is of none."""
    from pydantic import ValidationError

    told = ""
    for model in _models(str(resource["resourceType"])):
        try:
            return model.model_validate(resource)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"][:4])
            # The library's own sentence may quote the value; the kind of error does not.
            told = told or f"{where or 'resource'} ({first['type'].replace('_', ' ')})"
        except (ValueError, TypeError, RecursionError) as error:
            told = told or type(error).__name__
    return told


@cache
def _models(name: str) -> tuple[Any, ...]:
    """Return the model of a resource in R4B (which reads R4), R5 and STU3.

    Raises:
        MissingExtra: `fhir.resources` is not installed.
    """
    from importlib import import_module

    try:
        return tuple(
            getattr(import_module(f"fhir.resources.{release}{name.lower()}"), name)
            for release in ("R4B.", "", "STU3.")
        )
    except ImportError:
        raise MissingExtra(PIP) from None


def _named_studies(
    report: Any, raw: Mapping[str, Any], linked: _Linked, server: _Server | None
) -> list[tuple[str, str]]:
    contained = {
        str(each.get("id")): each
        for each in raw.get("contained") or ()
        if isinstance(each, dict) and each.get("resourceType") == "ImagingStudy"
    }
    own = next(filter(None, map(_accession, report.identifier or ())), "")
    for order in report.basedOn or ():
        own = own or (_accession(order.identifier) if order.identifier else "")
    found: list[tuple[str, str]] = []
    # R5 calls it "study"
    for link in getattr(report, "imagingStudy", None) or getattr(report, "study", None) or ():
        reference = str(link.reference or "")
        known: tuple[str, str] | None = None
        if reference.startswith("#") and reference[1:] in contained:
            study = _validated(contained[reference[1:]])
            known = None if isinstance(study, str) else _study_of(study)
        elif reference:
            known = linked.study(reference)
            if known is None and server is not None:
                fetched = server.resource(reference)
                linked.add(urljoin(server.base + "/", reference), fetched)
                known = linked.study(reference)
        if known is None and link.identifier:
            known = _uid(link.identifier), _accession(link.identifier)
        if known and any(known) and known not in found:
            found.append(known)
    return [(uid, number or own) for uid, number in found] or ([("", own)] if own else [])


def _study_of(study: Any) -> tuple[str, str]:
    identifiers = list(study.identifier or ())
    uid = next(filter(None, map(_uid, identifiers)), "")
    number = next(filter(None, map(_accession, identifiers)), "")
    uid = uid or _bare_uid(str(getattr(study, "uid", None) or ""))  # STU3
    if old := getattr(study, "accession", None):
        number = number or str(old.value or "").strip()
    return uid, number


def _uid(identifier: Any) -> str:
    value = str(identifier.value or "").strip()
    if identifier.system == _UID_SYSTEM or value.startswith("urn:oid:"):
        return _bare_uid(value)
    return ""


def _bare_uid(value: str) -> str:
    bare = value.removeprefix("urn:oid:").strip()
    return bare if bare and all(part.isdigit() for part in bare.split(".")) else ""


def _accession(identifier: Any) -> str:
    codings = (identifier.type.coding or ()) if identifier.type else ()
    if any(coding.code == "ACSN" for coding in codings):
        return str(identifier.value or "").strip()
    return ""


def _patient(subject: Any) -> str:
    if subject is None:
        return ""
    if subject.identifier and subject.identifier.value:
        return str(subject.identifier.value).strip()
    return str(subject.reference or "").split("/_history/")[0]


def _version(report: Any) -> str:
    meta = report.meta
    if meta is None:
        return ""
    return f"{_time(meta.lastUpdated)} {str(meta.versionId or '').rjust(20)}"


def _time(value: Any) -> str:
    if isinstance(value, datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=UTC)
        return aware.astimezone(UTC).isoformat()
    return value.isoformat() if isinstance(value, date) else ""


# -- its words -------------------------------------------------------------------------


def _words(report: Any, server: _Server | None) -> tuple[str, Any, str, str]:
    """Return (text, language, English beside it, form that could not be read)."""
    forms = [_form(form, server) for form in report.presentedForm or ()]
    read = [(text, language_of(code)) for text, code, _ in forms if text]
    unread = "" if read else next((kind for _, _, kind in forms if kind), "")
    if read:
        text, language = next((form for form in read if form[1] != "en"), read[0])
        english = next((t for t, code in read if code == "en" and language == "es"), "")
        return text, language or language_of(report.language), english, unread
    conclusion = _tidy(report.conclusion or "")
    div = report.text.div if report.text else None
    narrative = strip_tags(div) if div else ""
    # A narrative that holds the conclusion holds more than it; another is a generated summary.
    whole = narrative if not conclusion or _flat(conclusion) in _flat(narrative) else conclusion
    return whole, language_of(report.language), "", unread


def _form(form: Any, server: _Server | None) -> tuple[str, str | None, str]:
    """Return (text, language, "") of an attachment, or ("", …, its kind) where it is not text."""
    kind, _, parameters = (form.contentType or "").partition(";")
    kind = kind.strip().lower()
    data = form.data
    if data is None and form.url and server is not None:
        data = _binary(server, str(form.url))
    if data is None:
        return "", form.language, f"a link to {kind or 'a file'}" if form.url else ""
    if kind not in ("", "text/plain", "text/html", "application/xhtml+xml", "text/markdown"):
        return "", form.language, kind
    if data.startswith((b"%PDF", b"{\\rtf", b"PK\x03\x04")):  # whatever it is declared as
        return "", form.language, "a document that is not text"
    text = _decode(bytes(data), parameters)
    if "html" in kind or (not kind and text.lstrip()[:1] == "<"):
        return strip_tags(text), form.language, ""
    return _tidy(text), form.language, ""


def _binary(server: _Server, url: str) -> bytes | None:
    import base64
    import binascii

    found = server.resource(url)
    if not found or found.get("resourceType") != "Binary":
        return None
    try:
        return base64.b64decode(str(found.get("data") or ""), validate=False) or None
    except (binascii.Error, ValueError):
        return None


def _decode(data: bytes, parameters: str) -> str:
    """Decode text: by its declared charset, else UTF-8, else what Windows writes."""
    named = parameters.lower().partition("charset=")[2].split(";")[0].strip(" \"'")
    for charset in filter(None, (named, "utf-8-sig")):
        try:
            return data.decode(charset)
        except (UnicodeDecodeError, LookupError):
            continue
    return data.decode("cp1252", errors="replace")


def strip_tags(html: str) -> str:
    """Return the words of HTML, a line a block; scripts, styles and heads left out."""
    parser = _Text()
    parser.feed(html)
    parser.close()
    return _tidy("".join(parser.parts))


class _Text(HTMLParser):
    # fmt: off
    _BLOCKS = frozenset((
        "p", "div", "br", "li", "ul", "ol", "tr", "table", "h1", "h2", "h3", "h4", "h5", "h6",
        "section", "dl", "dt", "dd", "pre", "hr", "blockquote",
    ))
    # fmt: on
    _SILENT = frozenset(("script", "style", "title", "head"))

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._silent: list[str] = []

    def handle_starttag(self, tag: str, attrs: Iterable[tuple[str, str | None]]) -> None:
        if tag in self._SILENT:
            self._silent.append(tag)
        elif tag == "body":  # ends a head that was never closed
            self._silent.clear()
        elif tag in self._BLOCKS:
            self.parts.append("\n")
        elif tag in ("td", "th"):
            self.parts.append(" ")

    def handle_startendtag(self, tag: str, attrs: Iterable[tuple[str, str | None]]) -> None:
        if tag in self._BLOCKS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._silent:
            del self._silent[self._silent.index(tag) :]
        elif tag in self._BLOCKS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.parts.append(data)


def _tidy(text: str) -> str:
    lines = (" ".join(line.split()) for line in text.replace("\r\n", "\n").split("\n"))
    return "\n".join(line for line in lines if line)


def _flat(text: str) -> str:
    return " ".join(text.split()).lower()
