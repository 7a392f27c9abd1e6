"""A study is sent, followed, found; and what is refused, cancelled or cut off leaves nothing."""

import fcntl
import io
import json
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from medfinder.index.store import Index
from medfinder.serve.app import create_app
from medfinder.serve.config import IngestConfig, ServeConfig
from medfinder.serve.ingest import Ingest
from medfinder.serve.metrics import Metrics
from medfinder.volume.dicom_writer import write_dicom_series
from medfinder.volume.nifti import write_nifti
from medfinder.volume.volume import Volume
from serve.conftest import chest

REPORT = "There is a spiculated mass in the left upper lobe, seen by Dr. Haversham. No effusion."
ENDED = ("done", "failed", "cancelled", "interrupted")


@pytest.fixture(autouse=True)
def temp(tmp_path, monkeypatch):
    """The temporary folder, which every test must leave empty."""
    folder = tmp_path / "temp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert [p for p in folder.iterdir() if p.name.startswith("medfinder-upload")] == []


@pytest.fixture
def store(tmp_path):
    return tmp_path / "secret-path-store"


@pytest.fixture
def config(store):
    return ServeConfig(ingest=IngestConfig(folder=str(store), max_jobs=2))


@pytest.fixture
def client(own_finder, config):
    with TestClient(create_app(own_finder, config)) as client:
        yield client


@pytest.fixture(scope="module")
def nifti(tmp_path_factory):
    """A CT that the index does not hold."""
    path = tmp_path_factory.mktemp("sent") / "Haversham.nii.gz"
    write_nifti(chest(11), path)
    return path.read_bytes()


@pytest.fixture
def busy(store):
    """Another process takes in a study: jobs wait."""
    store.mkdir(parents=True, exist_ok=True)
    with (store / ".lock").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def send(client, data, name="Haversham.nii.gz", **form):
    return client.post("/v1/ingest", files={"file": (name, data)}, data=form)


def accepted(answer):
    assert answer.status_code == 202, answer.text
    return answer.json()["job_id"]


def ended(client, job_id, within_s=90):
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        job = client.get(f"/v1/jobs/{job_id}").json()
        if job["state"] in ENDED:
            return job
        time.sleep(0.05)
    raise AssertionError(f"the job is still {job}")


def nothing_is_left(client, store):
    assert list((store / "incoming").iterdir()) == []
    assert list((store / "studies").iterdir()) == []
    assert client.app.state.service.finder.index.count() == 6


def test_a_study_is_taken_in_followed_and_found(client, store, nifti):
    form = {
        "report": REPORT,
        "study_id": "new-1",
        "patient_id": "patient-9",
        "sex": "F",
        "age": "61",
    }
    job_id = accepted(send(client, nifti, **form))
    with client.stream("GET", f"/v1/jobs/{job_id}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [
            (block.split("\n")[0].removeprefix("event: "), json.loads(block.split("\ndata: ")[1]))
            for block in answer.read().decode().strip().split("\n\n")
            if block.startswith("event: ")
        ]
    kind, job = events[-1]
    assert kind == "done", job
    assert {k for k, _ in events[:-1]} <= {"progress"}
    assert [e["done"] for _, e in events] == sorted(e["done"] for _, e in events)
    assert (job["done"], job["total"], job["studies"]) == (3, 3, ["new-1"])
    hits = client.post("/v1/search", json={"text": "spiculated mass", "k": 1}).json()["hits"]
    study = hits[0]["study"]
    assert (study["study_id"], study["sex"], study["age"]) == ("new-1", "F", 61)
    assert study["source"] == "ingest"
    assert "pulmonary mass" in {f["name"] for f in study["findings"] if f["status"] == "present"}
    assert "Haversham" not in study["report"]["text"]
    assert client.get("/v1/studies/new-1/slices/axial/key.png").status_code == 200
    volume = send_search(client, nifti)
    assert volume["hits"][0]["study_id"] == "new-1"


def send_search(client, data):
    return client.post("/v1/search/volume", files={"file": ("a.nii.gz", data)}).json()


def test_only_a_copy_without_names_is_kept(client, store, nifti):
    job_id = accepted(send(client, nifti, report=REPORT))
    job = ended(client, job_id)
    assert job["studies"] == [f"ingest-{job_id[:16]}"]
    names = [p.name for p in store.rglob("*") if p.is_file()]
    assert sum(name.endswith(".nii.gz") for name in names) == 1
    assert list((store / "incoming").iterdir()) == []
    for path in store.rglob("*"):
        assert "Haversham" not in path.name
        if path.is_file():
            assert b"Haversham" not in path.read_bytes()
    assert not list(store.rglob("private"))


def test_a_dicom_series_is_taken_in_under_a_pseudonym(client, tmp_path):
    write_dicom_series(chest(12), tmp_path / "series", patient_id="Haversham", study_id="s")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for path in (tmp_path / "series").iterdir():
            archive.write(path, f"DICOM/{path.name}")
    job = ended(client, accepted(send(client, out.getvalue(), "a.zip", source="pacs")))
    assert job["state"] == "done", job
    (study_id,) = job["studies"]
    study = client.get(f"/v1/studies/{study_id}").json()
    assert "Haversham" not in json.dumps(study)
    assert study["source"] == "pacs"
    assert study["shape"] == [24, 48, 64]


def test_a_volume_that_breaks_a_rule_is_told_with_rule_and_reason_and_leaves_nothing(
    client, store, tmp_path
):
    write_nifti(Volume(chest(1).stored[:3], chest(1).affine), tmp_path / "thin.nii.gz")
    job = ended(client, accepted(send(client, (tmp_path / "thin.nii.gz").read_bytes())))
    assert job["state"] == "failed"
    (rejection,) = job["rejections"]
    assert rejection["rule"] == "too-few-slices"
    assert "3" in rejection["reason"]
    assert "secret-path" not in json.dumps(job)
    nothing_is_left(client, store)


def test_voxels_that_the_index_has_are_refused(client, store, studies):
    data = Path(studies[0].volume_path).read_bytes()
    job = ended(client, accepted(send(client, data, study_id="new-2")))
    assert [r["rule"] for r in job["rejections"]] == ["duplicate-volume"]
    assert "study-0" in job["rejections"][0]["reason"]
    nothing_is_left(client, store)


def test_an_id_that_the_index_has_is_refused_and_the_study_stays_as_it_is(client, store, nifti):
    before = client.get("/v1/studies/study-1").json()
    job = ended(client, accepted(send(client, nifti, study_id="study-1")))
    assert [r["rule"] for r in job["rejections"]] == ["study-exists"]
    nothing_is_left(client, store)
    assert client.get("/v1/studies/study-1").json() == before


def test_what_is_no_ct_is_refused_at_once(client, store):
    answer = send(client, b"%PDF-1.7")
    assert answer.status_code == 415
    assert client.get("/v1/jobs").json() == {"jobs": []}
    nothing_is_left(client, store)


@pytest.mark.parametrize(
    "form",
    [{"study_id": "../x"}, {"study_id": "a b"}, {"sex": "X"}, {"age": "-1"}, {"age": "many"},
     {"study_date": "yesterday"}, {"source": "a'b"}, {"body_part": "x" * 65}, {"report": "x" * 50_001}],
)  # fmt: skip
def test_bad_facts_are_refused_by_name(client, nifti, form):
    answer = send(client, nifti, **form)
    assert answer.status_code == 422
    assert next(iter(form)) in answer.json()["error"]["message"]


def test_a_job_that_waits_can_be_cancelled_and_leaves_nothing(client, store, nifti, busy):
    job_id = accepted(send(client, nifti, study_id="new-3"))
    answer = client.delete(f"/v1/jobs/{job_id}")
    assert answer.status_code == 202
    job = ended(client, job_id)
    assert job["state"] == "cancelled"
    nothing_is_left(client, store)
    assert client.delete(f"/v1/jobs/{job_id}").status_code == 409
    assert "event: failed" in client.get(f"/v1/jobs/{job_id}/events").text


def test_a_job_in_work_can_be_cancelled_and_leaves_nothing(client, store, nifti):
    job_id = accepted(send(client, nifti, study_id="new-4"))
    while client.get(f"/v1/jobs/{job_id}").json()["stage"] == "waiting":
        time.sleep(0.02)
    client.delete(f"/v1/jobs/{job_id}")
    assert ended(client, job_id)["state"] == "cancelled"
    nothing_is_left(client, store)


def test_more_jobs_than_may_wait_are_asked_to_come_back(client, nifti, busy):
    jobs = [accepted(send(client, nifti)) for _ in range(2)]
    answer = send(client, nifti)
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    for job_id in jobs:
        client.delete(f"/v1/jobs/{job_id}")
        ended(client, job_id)


@pytest.mark.parametrize("gone", ["incoming", "jobs"])
def test_a_folder_that_cannot_be_written_is_told(client, store, nifti, gone):
    (store / gone).rename(store / f"{gone}-away")
    (store / gone).write_text("a file in its place")
    answer = send(client, nifti)
    assert (answer.status_code, answer.json()["error"]["type"]) == (503, "NoRoom")
    assert "cannot be written" in answer.json()["error"]["message"]
    (store / gone).unlink()
    (store / f"{gone}-away").rename(store / gone)
    assert not list((store / "incoming").iterdir())
    assert send(client, nifti).status_code == 202


def test_a_failure_while_indexing_leaves_nothing(client, store, nifti, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("Haversham at /secret-path")

    monkeypatch.setattr(Index, "finish", fail)  # the rows are written by then
    job = ended(client, accepted(send(client, nifti, study_id="new-5", report=REPORT)))
    assert job["state"] == "failed"
    assert job["error"]["type"] == "Internal"
    assert job["studies"] == []
    assert "secret" not in json.dumps(job)
    nothing_is_left(client, store)
    monkeypatch.undo()
    job = ended(client, accepted(send(client, nifti, study_id="new-5", report=REPORT)))
    assert job["state"] == "done"


def test_without_a_folder_nothing_is_taken_in(finder, nifti):
    with TestClient(create_app(finder)) as client:
        for answer in (send(client, nifti), client.get("/v1/jobs")):
            assert answer.status_code == 501
            assert "--ingest" in answer.json()["error"]["hint"]


@pytest.mark.parametrize("job_id", ["nothing", "0" * 32, "..%2F..%2Fetc", "é" * 32])
def test_an_unknown_job_is_not_found(client, job_id):
    for answer in (
        client.get(f"/v1/jobs/{job_id}"),
        client.get(f"/v1/jobs/{job_id}/events"),
        client.delete(f"/v1/jobs/{job_id}"),
    ):
        assert answer.status_code == 404


KILLED = """
import os, signal, sys
from pathlib import Path
from medfinder.serve.config import IngestConfig
from medfinder.serve.ingest import Ingest
from medfinder.serve.metrics import Metrics
ingest = Ingest(IngestConfig(folder=sys.argv[1]), None, Metrics())
print(ingest.submit(Path(sys.argv[2]), {"study_id": "new-6"}).job_id, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_job_whose_process_was_killed_is_interrupted_and_leaves_nothing(
    own_finder, config, store, nifti, tmp_path, busy
):
    path = tmp_path / "sent.nii.gz"
    path.write_bytes(nifti)
    command = [sys.executable, "-c", KILLED, str(store), str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    job_id = done.stdout.strip()
    assert len(job_id) == 32, done.stderr
    assert list((store / "incoming").iterdir())
    with TestClient(create_app(own_finder, config)) as client:
        assert client.get(f"/v1/jobs/{job_id}").json()["state"] == "interrupted"
        nothing_is_left(client, store)


def test_a_job_that_waits_when_the_service_stops_is_interrupted(own_finder, config, nifti, busy):
    with TestClient(create_app(own_finder, config)) as client:
        job_id = accepted(send(client, nifti))
    with TestClient(create_app(own_finder, config)) as client:
        assert ended(client, job_id, 10)["state"] == "interrupted"


def test_another_process_sees_a_job_without_ending_it(client, own_finder, config, nifti, busy):
    job_id = accepted(send(client, nifti))
    other = Ingest(config.ingest, lambda: own_finder, Metrics())
    assert other.job(job_id).state in ("queued", "running")
    other.cancel(job_id)
    assert ended(client, job_id)["state"] == "cancelled"
    assert other.job(job_id).state == "cancelled"


def test_jobs_are_forgotten_after_a_while(own_finder, config, store, nifti, busy):
    ingest = Ingest(config.ingest, lambda: own_finder, Metrics())
    (store / "a.nii.gz").write_bytes(nifti)
    job = ingest.submit(store / "a.nii.gz", {})
    ingest.cancel(job.job_id)
    while ingest.job(job.job_id).state != "cancelled":
        time.sleep(0.05)
    assert len(Ingest(config.ingest, lambda: own_finder, Metrics()).jobs()) == 1
    short = replace(config.ingest, keep_days=0)
    assert Ingest(short, lambda: own_finder, Metrics()).jobs() == []
    assert np.isfinite(job.created)
