"""The client against the real service: every route is asked through it, or it is said why not."""

import http.server
import json
import shutil
import threading

import httpx
import numpy as np
import pytest

import medfinder
from medfinder.errors import InputError, MedFinderError, ServiceError, UnknownName
from medfinder.index.store import Index
from medfinder.search.finder import Finder
from medfinder.serve.client import Client
from medfinder.serve.config import IngestConfig, ServeConfig
from medfinder.serve.schemas import Filters, Question, Region
from medfinder.serve.slices import PLANES
from medfinder.volume.dicom_writer import write_dicom_series
from medfinder.volume.nifti import write_nifti
from medfinder.volume.read import read_volume
from serve.conftest import ENCODERS, chest
from stubs.served import serving

NOT_TYPED = {
    "get_session": "a client with a token has no session",
    "sign_in": "as above",
    "sign_out": "as above",
    "change_password": "as above",
    "begin_oidc": "it leads a browser to an identity provider",
    "finish_oidc": "as above",
    "get_accounts": "administration is the command's: medfinder account",
    "add_account": "as above",
    "change_account": "as above",
    "remove_account": "as above",
    "get_tokens": "as above",
    "add_token": "as above",
    "revoke_token": "as above",
    "get_audit": "the log is the command's: medfinder audit",
    "export_audit": "as above",
    "verify_audit": "as above",
    "get_pages": "they are the page's",
    "get_document": "as above",
}
"""Operation → why no method of its own asks it; `Client.request` does."""


@pytest.fixture(scope="module")
def served(shared_finder, tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    config = ServeConfig(ingest=IngestConfig(folder=str(store)))
    with serving(shared_finder, config=config) as served:
        yield served


@pytest.fixture(scope="module")
def shared_finder(index_folder, tmp_path_factory):
    """A finder over an index that this module's tests add to."""
    folder = tmp_path_factory.mktemp("own") / "idx"
    shutil.copytree(index_folder, folder)
    return Finder(Index.open(folder), ENCODERS)


@pytest.fixture(scope="module")
def asked():
    """Method and path of every request that was sent."""
    return set()


@pytest.fixture(scope="module")
def client(served, asked):
    with medfinder.Client(served.url) as client:
        note = client._http.event_hooks
        client._http.event_hooks = {
            **note, "request": [lambda r: asked.add((r.method, r.url.path))]
        }  # fmt: skip
        yield client


def test_a_search_gives_typed_hits(client):
    answer = client.search("solid nodule", filters=Filters(sex=["F"]), k=2)
    assert answer.hits[0].study.study_id == "study-0"
    assert answer.hits[0].why.sentences[0] in answer.hits[0].study.report.text
    assert client.search(keywords=["nodule"]).query_kind == "keywords"
    assert client.search(study_id="study-1", like=["study-4"], unlike=["study-0"]).hits
    region = Region(study_id="study-0", plane="axial", index=3, box=(0, 0, 1, 1))
    with pytest.raises(InputError) as error:  # these encoders have no regions
        client.search(region=region)
    assert error.value.hint


def test_collections_are_made_filled_exported_and_removed(client):
    made = client.add_collection("Teaching", "Clear cases")
    client.put_study(made.collection_id, "study-0", "a nodule")
    client.put_study(made.collection_id, "study-1")
    client.take_study(made.collection_id, "study-1")
    client.change_collection(made.collection_id, name="Nodules")
    found = client.collection(made.collection_id)
    assert (found.name, found.description) == ("Nodules", "Clear cases")
    assert [(s.study_id, s.note) for s in found.studies] == [("study-0", "a nodule")]
    assert b"a nodule" in client.export_collection(made.collection_id)
    assert client.export_collection(made.collection_id, "nifti").startswith(b"PK")
    assert [c.name for c in client.collections()] == ["Nodules"]
    client.remove_collection(made.collection_id)
    assert client.collections() == []


def test_sharing_needs_an_account_that_is_there(client):
    made = client.add_collection("Mine")
    with pytest.raises(MedFinderError):
        client.share_collection(made.collection_id, "nobody")
    with pytest.raises(InputError, match="permission"):
        client.share_collection(made.collection_id, "nobody", "own")
    with pytest.raises(MedFinderError):
        client.unshare_collection(made.collection_id, "nobody")
    client.remove_collection(made.collection_id)


def test_searches_are_saved_and_forgotten(client):
    saved = client.save_search("effusions", {"text": "effusion"})
    assert [s.query for s in client.saved_searches()] == [{"text": "effusion"}]
    client.remove_saved_search(saved.search_id)
    assert client.saved_searches() == []


def test_hits_are_given_page_after_page(client, monkeypatch):
    monkeypatch.setattr("medfinder.serve.client.MAX_K", 2)
    query = {"study_id": "study-5", "exclude_same_patient": False}
    pages = [hit.study_id for hit in client.iter_search(**query)]
    assert pages == [hit.study_id for hit in client.search(**query, k=50).hits]
    assert len(pages) > 2
    assert len(list(client.iter_search(**query, n=3))) == 3


def test_a_volume_is_a_query_as_file_bytes_and_folder(client, studies, tmp_path):
    path = studies[2].volume_path
    write_dicom_series(read_volume(path), tmp_path / "s", patient_id="p", study_id="s")
    with open(path, "rb") as file:
        data = file.read()
    for volume in (path, data, tmp_path / "s"):
        assert client.search_volume(volume, k=1).hits[0].study_id == "study-2"
    held = client.search_volume(path, hold=True).query_study
    assert client.study(held.study_id).shape == (24, 48, 64)


def test_a_study_its_slices_and_its_volume_are_had(client, studies):
    assert client.study("study-0").report.language == "en"
    key = client.key_slice("study-0").index
    image = client.slice("study-0", window="lung")
    assert image.shape == (64, 64)
    assert np.array_equal(image, client.slice("study-0", key, level=-600, width=1500))
    assert client.slice_png("study-0", slab_mm=20, projection="mip").startswith(b"\x89PNG")
    hu = read_volume(studies[0].volume_path).hu
    for plane, cut in zip(PLANES, (hu[5], hu[:, 5], hu[:, :, 5]), strict=True):
        found = client.slice_hu("study-0", 5, plane)
        assert found.shape == cut.shape
        assert sorted(found.ravel()) == sorted(np.asarray(cut, np.int16).ravel())
    assert client.volume("study-0", max_edge=32)[:2] == b"\x1f\x8b"


def test_what_there_is_is_told(client):
    assert client.facets().n_studies >= 6
    assert client.facets(Filters(sex=["F"])).facets["sex"].get("M") is None
    assert "nodule" in {f.name for f in client.findings().findings}
    assert client.status().max_k == 100
    assert client.is_alive()
    assert client.is_ready()


def test_an_explanation_is_refused_where_the_encoder_cannot(client):
    for question in ("nodule", Question(keywords=["nodule"])):
        with pytest.raises(MedFinderError) as error:
            client.explanation("study-0", question)
        assert error.value.hint


def test_a_study_is_taken_in_and_followed(client, tmp_path):
    write_nifti(chest(21), tmp_path / "ct.nii.gz")
    job = client.ingest(tmp_path / "ct.nii.gz", report="A cavity in the left apex.", study_id="new")
    states = [each.state for each in client.follow(job.job_id)]
    assert states[-1] == "done"
    assert client.job(job.job_id).studies == ["new"]
    assert client.jobs()[0].job_id == job.job_id
    assert client.search("cavity", k=1).hits[0].study_id == "new"
    with pytest.raises(ServiceError, match="has ended") as error:
        client.cancel_job(job.job_id)
    assert error.value.status == 409


def test_errors_are_the_projects_own_with_hint_and_request_id(client):
    with pytest.raises(UnknownName, match="no study with this id") as error:
        client.study("nobody")
    assert error.value.hint == "Take ids from the hits of a search."
    assert len(error.value.request_id) == 32
    for bad in ("", ".", "..", "../../etc", "a/b", "é", "a?b#c"):
        with pytest.raises(UnknownName):
            client.study(bad)
    with pytest.raises(UnknownName, match="Did you mean 'nodule'"):
        client.search(keywords=["nodulle"])
    with pytest.raises(InputError, match="expected 0 to 23"):
        client.slice_png("study-0", 10_000)
    with pytest.raises(MedFinderError, match="not a CT"):
        client.search_volume(b"%PDF")


def test_what_cannot_be_a_query_is_refused_before_it_is_sent(client, tmp_path):
    with pytest.raises(InputError, match=r"^k: "):
        client.search("a", k=0)
    with pytest.raises(InputError, match="cannot be read"):
        client.search_volume(tmp_path / "nothing")
    with pytest.raises(InputError, match="expected http"):
        Client("localhost:8000")


def test_any_other_route_can_be_asked(client):
    assert client.request("GET", "/v1/session")["access"] == "off"
    assert client.request("GET", "/v1/studies/study-0/slices/axial/3.png").startswith(b"\x89PNG")


def test_a_service_that_is_not_there_is_told():
    with Client("http://127.0.0.1:9", retries=0) as client:
        assert not client.is_alive()
        with pytest.raises(ServiceError, match="could not be reached"):
            client.status()


@pytest.fixture
def busy():
    """A service that answers by a list of (status, headers, body), the last again and again."""
    answers, seen = [], []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            seen.append(self.rfile.read(int(self.headers.get("content-length", 0))))
            status, headers, body = answers.pop(0) if len(answers) > 1 else answers[0]
            self.send_response(status)
            for name, value in {"content-length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST

        def log_message(self, *args):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", answers, seen
    server.shutdown()
    thread.join()
    server.server_close()


BUSY = json.dumps(
    {"error": {"type": "Busy", "message": "Too many.", "hint": "Later."}, "request_id": "r" * 32}
).encode()
GOOD = b'{"n_studies": 1, "facets": {}}'


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_service_is_asked_again_after_as_long_as_it_wants(busy, status):
    url, answers, seen = busy
    answers += [
        (status, {"retry-after": "0"}, BUSY),
        (status, {"retry-after": "0"}, BUSY),
        (200, {}, GOOD),
    ]
    with Client(url) as client:
        assert client.facets().n_studies == 1
    assert len(seen) == 3


def test_asking_again_has_an_end(busy):
    url, answers, seen = busy
    answers.append((503, {"retry-after": "0"}, BUSY))
    with Client(url, retries=2) as client, pytest.raises(ServiceError, match="Too many") as error:
        client.facets()
    assert (error.value.status, error.value.kind, error.value.hint) == (503, "Busy", "Later.")
    assert len(seen) == 3


def test_what_is_not_to_be_repeated_is_not(busy):
    url, answers, seen = busy
    answers.append((503, {}, BUSY))
    with Client(url) as client, pytest.raises(ServiceError):
        client.facets()
    assert len(seen) == 1


def test_an_upload_that_is_sent_again_is_sent_whole(busy):
    url, answers, seen = busy
    answers += [(503, {"retry-after": "0"}, BUSY), (503, {}, BUSY)]
    with Client(url) as client, pytest.raises(ServiceError):
        client.search_volume(b"x" * 5000)
    assert len(seen) == 2
    assert all(b"x" * 5000 in body for body in seen)


def test_an_answer_of_something_else_is_told(busy):
    url, answers, _ = busy
    answers.append((502, {}, b"<html>Bad gateway Haversham"))
    with Client(url) as client, pytest.raises(ServiceError, match="status 502") as error:
        client.status()
    assert "Haversham" not in str(error.value)


def test_a_token_is_sent(busy):
    url, answers, _ = busy
    answers.append((200, {}, GOOD))
    with Client(url, token="mf_secret") as client:
        sent = []
        client._http.event_hooks = {"request": [lambda r: sent.append(r.headers["authorization"])]}
        client.facets()
    assert sent == ["Bearer mf_secret"]
    assert "mf_secret" not in repr(client)


def test_every_route_is_asked_through_the_client_or_it_is_said_why_not(client, served, asked):
    """The last of this file: the others have asked."""
    api = httpx.get(f"{served.url}v1/openapi.json").json()
    missing = []
    for path, operations in api["paths"].items():
        for method, operation in operations.items():
            name = operation["operationId"]
            if name in NOT_TYPED or "review" in name:
                continue
            parts = path.strip("/").split("/")
            if not any(
                m == method.upper() and _fits(p.strip("/").split("/"), parts) for m, p in asked
            ):
                missing.append(name)
    assert missing == []
    known = {o["operationId"] for p in api["paths"].values() for o in p.values()}
    assert set(NOT_TYPED) <= known


def _fits(asked, template):
    return len(asked) == len(template) and all(
        t.startswith("{") or a == t for a, t in zip(asked, template, strict=True)
    )
