"""What nobody should send: each gets its answer, and nothing is left of it."""

import asyncio
import io
import json
import tempfile
import time
import zipfile

import pydicom
import pytest
from fastapi.testclient import TestClient

from medfinder.serve.app import create_app
from medfinder.serve.config import IngestConfig, ServeConfig
from medfinder.volume.dicom_writer import write_dicom_series
from serve.conftest import chest
from serve.test_routes import error_of

GIB = 2**30
FORM = "multipart/form-data; boundary=x"
HEAD = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
SCRIPT = "<script>alert(1)</script>"


@pytest.fixture(autouse=True)
def temp(tmp_path, monkeypatch):
    """The temporary folder, which every test must leave empty."""
    folder = tmp_path / "temp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert [p for p in folder.iterdir() if p.name.startswith("medfinder-upload")] == []


def sent(app, path, chunks, length=None):
    """Send a body piece by piece; return status and how many pieces were taken."""
    headers = {"content-type": FORM, "host": "127.0.0.1"}
    if length is not None:
        headers["content-length"] = str(length)
    scope = {
        "type": "http", "method": "POST", "path": path, "query_string": b"", "scheme": "http",
        "http_version": "1.1", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
        "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
    }  # fmt: skip
    taken, answers = 0, []

    async def receive():
        nonlocal taken
        chunk = next(chunks, None)
        if chunk is None:
            return {"type": "http.disconnect"}
        taken += 1
        return {"type": "http.request", "body": chunk, "more_body": True}

    async def send(message):
        answers.append(message)

    asyncio.run(app(scope, receive, send))
    status = next((m["status"] for m in answers if m["type"] == "http.response.start"), None)
    return status, taken


@pytest.mark.parametrize("path", ["/v1/search/volume", "/v1/ingest", "/v1/search"])
def test_four_gibibytes_that_are_declared_are_refused_unread(client, path):
    status, taken = sent(client.app, path, iter([HEAD]), 4 * GIB)
    assert (status, taken) == (413, 0)


@pytest.mark.parametrize("path", ["/v1/search/volume", "/v1/ingest"])
@pytest.mark.parametrize("length", [None, 1000])
def test_a_stream_without_an_end_is_cut_at_the_bound(finder, path, length):
    def chunks():
        yield HEAD
        while True:
            yield bytes(2**16)

    with TestClient(create_app(finder, ServeConfig(max_upload_bytes=2**20))) as client:
        status, taken = sent(client.app, path, chunks(), length)
    assert status == 413
    assert taken * 2**16 < 2**21


@pytest.mark.parametrize("path", ["/v1/search/volume", "/v1/ingest"])
def test_half_an_upload_leaves_nothing_and_frees_its_place(client, path, temp):
    status, _ = sent(client.app, path, iter([HEAD, bytes(10**6)]), 10**7)
    assert status is None or 400 <= status < 500
    assert client.app.state.service.n_uploads == 0
    assert [p for p in temp.rglob("*") if p.is_file()] == []


def with_scripts(folder):
    """Write a DICOM series whose every text is a script; return it as a zip."""
    write_dicom_series(chest(31), folder, patient_id="p", study_id="s")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for path in folder.iterdir():
            image = pydicom.dcmread(path)
            image.PatientName = image.StudyDescription = image.SeriesDescription = SCRIPT
            image.Manufacturer = image.InstitutionName = SCRIPT
            image.BodyPartExamined = "CHEST'); --"
            image.save_as(path)
            archive.write(path, f"{SCRIPT.replace('/', '')}/{path.name}")
    return out.getvalue()


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_scripts_in_a_dicom_header_are_text_or_nothing(own_finder, tmp_path):
    data = with_scripts(tmp_path / "series")
    config = ServeConfig(ingest=IngestConfig(folder=str(tmp_path / "store")))
    files = {"file": (f"{SCRIPT}.zip", data)}
    with TestClient(create_app(own_finder, config)) as client:
        answer = client.post("/v1/search/volume", files=files)
        assert answer.status_code == 200, answer.text
        assert SCRIPT not in answer.text
        form = {"report": f"Mass. {SCRIPT} '; DROP TABLE studies; --"}
        job_id = client.post("/v1/ingest", files=files, data=form).json()["job_id"]
        deadline = time.monotonic() + 120
        while (job := client.get(f"/v1/jobs/{job_id}").json())["state"] in ("queued", "running"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert job["state"] == "done", job
        answer = client.get(f"/v1/studies/{job['studies'][0]}")
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"
        study = answer.json()
        assert "Mass." in study["report"]["text"]
        assert SCRIPT not in json.dumps({k: v for k, v in study.items() if k != "report"})
        assert own_finder.index.count() == 7
        assert study["body_part"] in (None, "chest")  # what is left of a descriptor is a word
        assert client.get("/v1/facets").json()["n_studies"] == 7


MARKUP = "x' OR 1=1; DROP TABLE studies; -- <img src=x onerror=alert(1)>"


@pytest.mark.parametrize(
    "body",
    [
        {"text": MARKUP},
        {"report": MARKUP},
        {"keywords": [MARKUP]},
        {"study_id": MARKUP},
        {"like": [MARKUP]},
        {"text": "a", "unlike": [MARKUP]},
        {"text": "a", "without": [MARKUP]},
        {"text": "a", "where": MARKUP},
        {"text": "a", "sort": MARKUP},
        {"text": "a", "filters": {"source": [MARKUP], "manufacturer": [MARKUP]}},
        {"text": "a", "filters": {"location": [MARKUP]}},
        {"text": "a", "filters": {"findings": [MARKUP]}},
        {"text": "a", "filters": {"date_from": MARKUP}},
        {"text": "a", MARKUP: 1},
    ],
)
def test_sql_and_html_in_any_field_are_text_or_refused(client, body):
    answer = client.post("/v1/search", json=body)
    assert answer.status_code in (200, 404, 422)
    assert answer.headers["content-type"] == "application/json"
    if answer.status_code != 200:
        error_of(answer, answer.status_code)
    assert client.app.state.service.finder.index.count() == 6
