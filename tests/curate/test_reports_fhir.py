import base64
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from medfinder.curate.curate import CurateConfig, curate
from medfinder.curate.sources import reports_fhir
from medfinder.curate.sources.folder import FolderSource
from medfinder.curate.sources.remote import Patience
from medfinder.curate.sources.reports import Reported, ReportRow, Reports, with_report
from medfinder.curate.sources.reports_fhir import read_fhir, strip_tags
from medfinder.curate.sources.source import Facts
from medfinder.errors import InputError, MissingExtra
from medfinder.phantom.phantom import write_phantoms
from medfinder.records import Rejection
from medfinder.studies import read_studies
from medfinder.volume.dicom_writer import derive_uid
from stubs.pacs import Handler, Proxy, proxy

HASTY = Patience(tries=3, wait_s=0.01, longest_wait_s=0.05, timeout_s=5)
UID = "1.2.840.1"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loopback is asked directly, whatever proxy the environment names."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def attachment(data: bytes, kind: str = "text/plain", **values: str) -> dict[str, Any]:
    return {"contentType": kind, "data": base64.b64encode(data).decode(), **values}


def report(**values: Any) -> dict[str, Any]:
    """Return an R4 report of the study `UID`; `values` replace its fields, None removes one."""
    made = {
        "resourceType": "DiagnosticReport",
        "id": "r1",
        "status": "final",
        "code": {"text": "CT chest"},
        "subject": {"reference": "Patient/p1"},
        "imagingStudy": [{"reference": "ImagingStudy/s1"}],
        "presentedForm": [attachment(b"Left pleural effusion.")],
    } | values
    return {key: value for key, value in made.items() if value is not None}


def study(uid: str = UID, **values: Any) -> dict[str, Any]:
    return {
        "resourceType": "ImagingStudy",
        "id": "s1",
        "status": "available",
        "subject": {"reference": "Patient/p1"},
        "identifier": [
            {"system": "urn:dicom:uid", "value": f"urn:oid:{uid}"},
            {"type": {"coding": [{"code": "ACSN"}]}, "value": "A1"},
        ],
    } | values


def bundle(*resources: dict[str, Any], following: str | None = None) -> dict[str, Any]:
    links = [{"relation": "next", "url": following}] if following else []
    entries = [{"resource": resource} for resource in resources]
    return {"resourceType": "Bundle", "type": "searchset", "entry": entries, "link": links}


def write(path: Path, *resources: Any) -> Path:
    """Write NDJSON, or the one object of a .json file."""
    if path.suffix == ".json":
        path.write_text(json.dumps(resources[0]))
    else:
        path.write_text("\n".join(json.dumps(each) for each in resources) + "\n")
    return path


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """Return a reader of resources: written as NDJSON, the study among them."""

    def reader(*resources: dict[str, Any]) -> Any:
        found = list(read_fhir(write(tmp_path / "a.ndjson", *resources, study())))
        return found[0] if len(found) == 1 else found

    return reader


# -- where reports come from -----------------------------------------------------------


def test_a_report_bears_its_study_accession_patient_and_words(read: Any) -> None:
    assert read(report(issued="2020-01-02T03:04:05+01:00")) == ReportRow(
        item="a.ndjson line 1",
        text="Left pleural effusion.",
        study_id=UID,
        accession="A1",
        patient="Patient/p1",
        status="final",
        document="r1",
        issued="2020-01-02T02:04:05+00:00",
        known=("A1",),
    )


def test_the_people_of_a_report_are_known_to_who_removes_their_names(read: Any) -> None:
    patient = {
        "resourceType": "Patient",
        "id": "p1",
        "name": [{"family": "Canary", "given": ["Ana", "Sol"]}],
        "identifier": [{"value": "MRN-1"}],
    }
    doctor = {"display": "Dr Wren"}
    found = read(report(performer=[doctor], resultsInterpreter=[{"display": "Dr Finch"}]), patient)
    assert found.known == ("A1", "Ana Sol Canary", "Dr Finch", "Dr Wren", "MRN-1")
    facts = with_report(Facts("x", known=("A1", "B")), found)
    assert facts.known == ("A1", "B", "Ana Sol Canary", "Dr Finch", "Dr Wren", "MRN-1")


@pytest.mark.parametrize("form", ["bundle", "list", "bare"])
def test_bundles_lists_and_single_resources_are_read(tmp_path: Path, form: str) -> None:
    inside = report(contained=[study()], imagingStudy=[{"reference": "#s1"}])
    content = {"bundle": bundle(report(), study()), "list": [report(), study()], "bare": inside}
    (row,) = read_fhir(write(tmp_path / "a.json", content[form]))
    assert isinstance(row, ReportRow)
    assert row.study_id == UID
    places = {"bundle": "a.json entry 1", "list": "a.json entry 1", "bare": "a.json"}
    assert row.item == places[form]


def test_a_folder_of_files_is_read_as_one(tmp_path: Path) -> None:
    write(tmp_path / "DiagnosticReport.ndjson", report())
    write(tmp_path / "ImagingStudy.ndjson", study())
    (row,) = read_fhir(tmp_path)
    assert isinstance(row, ReportRow)
    assert row.study_id == UID


@pytest.mark.parametrize(
    "reference",
    [
        {"reference": "ImagingStudy/s1/_history/3"},
        {"reference": "https://host/fhir/ImagingStudy/s1"},
        {"identifier": {"system": "urn:dicom:uid", "value": f"urn:oid:{UID}"}},
    ],
)
def test_a_study_is_found_however_it_is_referred_to(read: Any, reference: dict[str, Any]) -> None:
    assert read(report(imagingStudy=[reference])).study_id == UID


def test_a_bundle_s_full_urls_are_references_too(tmp_path: Path) -> None:
    content = bundle(report(imagingStudy=[{"reference": "urn:uuid:1"}]), study())
    content["entry"][1]["fullUrl"] = "urn:uuid:1"
    (row,) = read_fhir(write(tmp_path / "a.json", content))
    assert isinstance(row, ReportRow)
    assert row.study_id == UID


def test_a_report_of_two_studies_gives_a_row_for_each(read: Any) -> None:
    links = [{"reference": "ImagingStudy/s1"}, {"reference": "ImagingStudy/s2"}]
    found = read(report(imagingStudy=links), study("1.2.3", id="s2"))
    assert [row.study_id for row in found] == [UID, "1.2.3"]


def test_an_accession_number_stands_in_for_a_study(read: Any) -> None:
    number = {"type": {"coding": [{"code": "ACSN"}]}, "value": "A7"}
    row = read(report(imagingStudy=None, identifier=[number]))
    assert (row.study_id, row.accession) == ("", "A7")
    row = read(report(imagingStudy=None, basedOn=[{"identifier": number}]))
    assert (row.study_id, row.accession) == ("", "A7")


def test_r5_and_stu3_are_read(read: Any) -> None:
    r5 = report(imagingStudy=None, study=[{"reference": "ImagingStudy/s1"}], status="modified")
    assert (read(r5).study_id, read(r5).status) == (UID, "amended")
    stu3 = {
        "resourceType": "ImagingStudy",
        "id": "s3",
        "uid": "urn:oid:1.2.3",
        "accession": {"value": "A3"},
        "patient": {"reference": "Patient/p1"},
    }
    row = read(report(imagingStudy=[{"reference": "ImagingStudy/s3"}]), stu3)
    assert (row.study_id, row.accession) == ("1.2.3", "A3")


def test_a_report_of_no_study_is_named(read: Any) -> None:
    found = read(report(imagingStudy=[{"reference": "ImagingStudy/elsewhere"}]))
    assert (found.item, found.rule) == ("a.ndjson line 1", "no-study")
    assert "expected an imaging study with its StudyInstanceUID" in found.reason


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("final", "final"),
        ("amended", "amended"),
        ("corrected", "amended"),
        ("appended", "amended"),
        ("registered", "preliminary"),
        ("partial", "preliminary"),
        ("preliminary", "preliminary"),
        ("cancelled", "cancelled"),
        ("entered-in-error", "entered-in-error"),
    ],
)
def test_every_status_is_one_of_ours(read: Any, code: str, status: str) -> None:
    assert read(report(status=code)).status == status


def test_the_last_version_of_a_report_counts(read: Any) -> None:
    old = report(meta={"lastUpdated": "2020-01-01T00:00:00Z", "versionId": "9"})
    new = report(
        meta={"lastUpdated": "2020-01-01T12:00:00+05:00", "versionId": "10"},
        presentedForm=[attachment(b"No effusion.")],
    )
    chosen = Reports(read(new, old)).find([UID])
    assert chosen is not None
    assert chosen.text == "No effusion."


# -- words -----------------------------------------------------------------------------


def test_html_loses_its_tags_and_nothing_else(read: Any) -> None:
    page = (
        "<html><head><title>Canary</title><style>p{}</style></head><body><p>Findings:</p>"
        "Nodule &lt; 8&nbsp;mm<br/>No <b>effusion</b>.<script>canary()</script>"
        "<ul><li>one<li>two</ul></body></html>"
    )
    row = read(report(presentedForm=[attachment(page.encode(), "text/html; charset=utf-8")]))
    assert row.text == "Findings:\nNodule < 8 mm\nNo effusion.\none\ntwo"


def test_a_head_that_is_never_closed_hides_no_words() -> None:
    assert strip_tags("<head><title>x</title><body>Nodule.") == "Nodule."
    assert strip_tags("a < b and <p>c") == "a < b and\nc"


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        ("opacidad en el lóbulo".encode(), "text/plain"),
        ("opacidad en el lóbulo".encode("latin-1"), "text/plain;charset=ISO-8859-1"),
        ("opacidad en el lóbulo".encode("cp1252"), "text/plain"),
        ("opacidad en el lóbulo".encode(), "text/plain; charset=nonsense"),
    ],
)
def test_accents_survive_any_charset(read: Any, data: bytes, kind: str) -> None:
    assert read(report(presentedForm=[attachment(data, kind)])).text == "opacidad en el lóbulo"


@pytest.mark.parametrize(
    ("data", "kind", "named"),
    [
        (b"%PDF-1.4", "application/pdf", "application/pdf"),
        (b"{\\rtf1}", "text/rtf", "text/rtf"),
        (b"%PDF-1.4", "text/plain", "a document that is not text"),
    ],
)
def test_a_report_that_is_only_a_document_is_named(
    read: Any, data: bytes, kind: str, named: str
) -> None:
    found = read(report(presentedForm=[attachment(data, kind)]))
    assert found.rule == "report-not-text"
    assert found.reason == f"The report is only {named}, which is not read. Export it as text."


def test_beside_a_document_the_conclusion_is_taken_and_that_is_said(read: Any) -> None:
    forms = [attachment(b"%PDF-1.4", "application/pdf")]
    told, row = read(report(presentedForm=forms, conclusion="Effusion."))
    assert (told.rule, row.text) == ("report-not-text", "Effusion.")
    assert "its conclusion or narrative is taken instead" in told.reason


def test_a_document_beside_its_text_is_passed_over(read: Any) -> None:
    forms = [attachment(b"%PDF-1.4", "application/pdf"), attachment(b"Effusion.")]
    assert read(report(presentedForm=forms)).text == "Effusion."


def div(words: str) -> dict[str, str]:
    inside = f'<div xmlns="http://www.w3.org/1999/xhtml">{words}</div>'
    return {"status": "generated", "div": inside}


def test_without_a_form_the_conclusion_counts_and_a_narrative_that_holds_it_more(
    read: Any,
) -> None:
    def words(**values: Any) -> str:
        return read(report(presentedForm=None, **values)).text  # type: ignore[no-any-return]

    assert words(conclusion="Effusion.") == "Effusion."
    assert words(text=div("<p>Nodule.</p>")) == "Nodule."
    assert words(conclusion="Effusion.", text=div("Report of A. Canary")) == "Effusion."
    both = words(conclusion="Large  effusion.", text=div("Nodule.<br/>LARGE effusion."))
    assert both == "Nodule.\nLARGE effusion."


def test_a_final_report_without_words_is_named(read: Any) -> None:
    found = read(report(presentedForm=None))
    assert (found.rule, "no text in any of its fields" in found.reason) == ("empty-report", True)


def test_spanish_and_english_side_by_side_are_text_and_translation(read: Any) -> None:
    forms = [
        attachment(b"Effusion.", language="en-US"),
        attachment(b"Derrame.", language="es"),
    ]
    row = read(report(presentedForm=forms))
    assert (row.text, row.language, row.translation) == ("Derrame.", "es", "Effusion.")
    row = read(report(language="es-ES"))
    assert (row.language, row.translation) == ("es", "")


# -- bad input -------------------------------------------------------------------------


def test_a_broken_line_costs_itself_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ndjson", report(), study())
    path.write_text('{"resourceType": "Diagn\n\n[1]\n"x"\n' + path.read_text())
    found = list(read_fhir(path))
    assert [getattr(f, "rule", "") for f in found] == ["unreadable"] * 3 + [""]
    assert [f.item.removeprefix("a.ndjson ") for f in found] == [
        "line 1",
        "line 3 entry 1",
        "line 4",
        "line 5",
    ]


def test_a_resource_that_breaks_the_standard_is_named_without_its_values(read: Any) -> None:
    found = read(report(conclusion={"canary": "Effusion of A. Canary"}))
    assert found.rule == "unreadable"
    assert "conclusion" in found.reason
    assert "anary" not in found.reason
    found = read(report(code=None))
    assert found.reason == "Not a valid DiagnosticReport: code (missing)."


def test_a_file_that_is_no_json_is_an_error_and_one_of_many_a_rejection(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"resourceType": "Bundle", "entry": [')
    with pytest.raises(InputError, match="The FHIR file is not JSON, or breaks off") as raised:
        list(read_fhir(tmp_path / "a.json"))
    assert raised.value.rule == "not-fhir"
    write(tmp_path / "b.ndjson", report(), study())
    assert [getattr(f, "rule", "") for f in read_fhir(tmp_path)] == ["unreadable", ""]


def test_a_file_without_reports_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No DiagnosticReport was found"):
        list(read_fhir(write(tmp_path / "a.json", bundle(study()))))
    with pytest.raises(InputError, match=r"There is no FHIR file or folder at '.*none'"):
        list(read_fhir(tmp_path / "none"))


def test_without_the_extra_the_error_is_the_pip_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fhir.resources.R4B.diagnosticreport", None)
    reports_fhir._models.cache_clear()
    with pytest.raises(MissingExtra, match=r"^pip install 'medfinder\[fhir\]'$"):
        list(read_fhir(tmp_path))


# -- a server --------------------------------------------------------------------------


class Shelf:
    """A FHIR server's content: path → resource."""

    def __init__(self, front: Proxy) -> None:
        self.front = front
        self.pages: dict[str, dict[str, Any]] = {}
        self.url = f"{front.root}/fhir/DiagnosticReport?category=RAD"
        self.tokens: list[str | None] = []

    def __call__(self, handler: Handler) -> bool:
        self.tokens.append(handler.headers.get("Authorization"))
        page = self.pages.get(handler.path)
        body = json.dumps(page or {"resourceType": "OperationOutcome"}).encode()
        handler.answer(200 if page else 404, body, "application/fhir+json")
        return True

    def read(self) -> list[ReportRow | Rejection]:
        return list(read_fhir(self.url, HASTY))


FIRST = "/fhir/DiagnosticReport?category=RAD"


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shelf]:
    for name in ("TOKEN", "USER", "PASSWORD"):
        monkeypatch.delenv(f"MEDFINDER_FHIR_{name}", raising=False)
    with proxy() as front:
        made = Shelf(front)
        front.fault = made
        yield made


def test_a_server_s_pages_are_followed_to_the_end(shelf: Shelf) -> None:
    shelf.pages = {
        FIRST: bundle(report(), study(), following="?page=2"),
        "/fhir/DiagnosticReport?page=2": bundle(report(id="r2")),
    }
    assert [(r.item, r.study_id) for r in shelf.read() if isinstance(r, ReportRow)] == [
        ("page 1 entry 1", UID),
        ("page 2 entry 1", UID),
    ]


def test_studies_and_documents_are_fetched_where_the_page_lacks_them(shelf: Shelf) -> None:
    link = {"contentType": "text/plain", "url": "Binary/b1"}
    data = base64.b64encode(b"Nodule.").decode()
    shelf.pages = {
        FIRST: bundle(report(presentedForm=[link])),
        "/fhir/ImagingStudy/s1": study(),
        "/fhir/Binary/b1": {"resourceType": "Binary", "contentType": "text/plain", "data": data},
    }
    (row,) = shelf.read()
    assert isinstance(row, ReportRow)
    assert (row.study_id, row.text) == (UID, "Nodule.")


def test_a_document_on_another_host_is_not_fetched(shelf: Shelf) -> None:
    with proxy() as other:
        link = {"contentType": "text/plain", "url": f"{other.root}/Binary/b1"}
        shelf.pages = {FIRST: bundle(report(presentedForm=[link]), study())}
        (found,) = shelf.read()
        assert other.asked == []
    assert isinstance(found, Rejection)
    assert "a link to text/plain" in found.reason


def test_the_token_goes_to_the_server_and_nowhere_else(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDFINDER_FHIR_TOKEN", "canary")
    with proxy() as other:
        shelf.pages = {FIRST: bundle(report(), study(), following=f"{other.root}/next")}
        with pytest.raises(InputError, match="names another host for its next page") as raised:
            shelf.read()
        assert other.asked == []
    assert shelf.tokens == ["Bearer canary"]
    assert "canary" not in str(raised.value)


def test_a_page_that_leads_back_to_itself_ends_the_run(shelf: Shelf) -> None:
    shelf.pages = {FIRST: bundle(report(), study(), following=FIRST)}
    with pytest.raises(InputError, match="sends the same page again as the next one"):
        shelf.read()


def test_a_server_that_is_busy_is_asked_again(shelf: Shelf) -> None:
    shelf.pages = {FIRST: bundle(report(), study())}
    answers = iter([429, 503, 0])

    def busy(handler: Handler) -> bool:
        if status := next(answers):
            handler.answer(status, Retry_After="0")
            return True
        return shelf(handler)

    shelf.front.fault = busy
    assert len(shelf.read()) == 1


@pytest.mark.parametrize(
    ("fault", "rule", "message"),
    [
        (lambda h: h.answer(500), "fhir-unreachable", "it answered 500, 3 times"),
        (lambda h: h.answer(401), "fhir-refused", "none are set"),
        (lambda h: h.answer(404), "not-fhir", "it answered 404. Expected a Bundle"),
        (lambda h: h.answer(302, Location="/login"), "not-fhir", "it answered 302"),
        (lambda h: h.answer(200, b"<html>"), "not-fhir", "it answered text/html instead of FHIR"),
        (
            lambda h: h.answer(200, b'{"resourceType": ', "application/fhir+json"),
            "fhir-unreachable",
            "it answered half a JSON",
        ),
        (
            lambda h: h.answer(200, b'{"resourceType": "Bundle"}', "application/json", cut=9),
            "fhir-unreachable",
            "its answer broke off",
        ),
        (
            lambda h: h.answer(200, b'{"resourceType": "Patient"}', "application/json"),
            "not-fhir",
            "answers a resource of type Patient: expected a Bundle",
        ),
    ],
)
def test_a_server_that_fails_is_named(shelf: Shelf, fault: Any, rule: str, message: str) -> None:
    def fail(handler: Handler) -> bool:
        fault(handler)
        return True

    shelf.front.fault = fail
    with pytest.raises(InputError, match=re.escape(message)) as raised:
        shelf.read()
    assert raised.value.rule == rule
    assert "RAD" not in str(raised.value).split("Expected")[0]  # of a query, nothing is shown


def test_a_study_that_cannot_be_fetched_now_is_not_taken_for_none(shelf: Shelf) -> None:
    shelf.pages = {FIRST: bundle(report())}

    def fail(handler: Handler) -> bool:
        if "ImagingStudy" in handler.path:
            handler.answer(503)
            return True
        return shelf(handler)

    shelf.front.fault = fail
    with pytest.raises(InputError, match="it answered 503, 3 times"):
        shelf.read()
    shelf.front.fault = shelf  # now it answers, that there is none
    assert [r.rule for r in shelf.read() if isinstance(r, Rejection)] == ["no-study"]


def test_a_server_that_is_not_there_is_named() -> None:
    with proxy() as gone:
        url = gone.root
    with pytest.raises(InputError, match="the connection failed, 3 times"):
        list(read_fhir(f"{url}/DiagnosticReport", HASTY))


def test_an_address_with_a_password_is_refused() -> None:
    with pytest.raises(InputError, match="set MEDFINDER_FHIR_USER") as raised:
        list(read_fhir("https://ana:canary@host/fhir/DiagnosticReport"))
    assert "canary" not in str(raised.value)


# -- with volumes ----------------------------------------------------------------------


def test_reports_from_fhir_go_with_a_folder_of_volumes(tmp_path: Path) -> None:
    write_phantoms(tmp_path, 2, size=(24, 32, 32), dicom=True)
    path = write(
        tmp_path / "a.ndjson",
        report(),
        study(derive_uid("study", "ph1-s000001")),
        report(id="r9", status="entered-in-error"),
    )
    source = Reported(FolderSource(tmp_path / "dicom"), Reports(read_fhir(path)))
    curate(source, tmp_path / "out", CurateConfig(workers=1))
    studies = read_studies(tmp_path / "out" / "studies.parquet")
    assert [s.report.text for s in studies if s.report] == ["Left pleural effusion."]
    assert "pleural effusion" in {f.name for s in studies for f in s.findings}
    assert [r.rule for r in source.reports.leftovers()] == ["report-status"]
