"""The review over HTTP: who may see and do what, and every refusal in the usual shape."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient

from medfinder.curate.review import ReviewQueue
from medfinder.serve.app import create_app
from stubs import reviewed


def as_reader(name):
    return {"x-reader": quote(name)}


ANA, LUIS, EVA = as_reader("Ana Gómez"), as_reader("Luis"), as_reader("Eva")
ACCEPT = {"verdict": "accept"}


def error_of(response, status):
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error", "request_id"}
    assert all(body["error"].values())
    assert "secret-path" not in response.text
    return body["error"]


@pytest.fixture
def folder(tmp_path):
    return reviewed.make(tmp_path / "secret-path" / "studies")


@pytest.fixture
def client(finder, folder):
    with TestClient(create_app(finder, review=folder)) as client:
        yield client


def decide(client, reader, study_id, **decision):
    return client.post(f"/v1/review/items/{study_id}/decision", json=decision, headers=reader)


# ---- looking --------------------------------------------------------------------------------


def test_the_queue_comes_heaviest_first_with_states(client):
    body = client.get("/v1/review/items", headers=ANA).json()
    assert [i["study_id"] for i in body["items"]] == ["study-0", "study-2", "study-1", "study-3"]
    assert body["items"][0] == {
        "study_id": "study-0",
        "weight": 1.1,
        "rules": ["translation-number", "translation-unit"],
        "state": "todo",
    }
    assert body["n_items"] == 4


def test_the_queue_comes_in_parts_and_by_state(client):
    decide(client, ANA, "study-0", **ACCEPT)
    todo = client.get("/v1/review/items?state=todo&offset=1&limit=1", headers=ANA).json()
    assert ([i["study_id"] for i in todo["items"]], todo["n_items"]) == (["study-1"], 3)
    waiting = client.get("/v1/review/items?state=waiting", headers=ANA).json()
    assert [i["study_id"] for i in waiting["items"]] == ["study-0"]


def test_a_study_comes_with_both_texts_findings_and_doubts(client):
    body = client.get("/v1/review/items/study-0", headers=ANA).json()
    text = body["original"]["text"]
    cut = {text[f["start"] : f["end"]] for f in body["original"]["findings"]}
    assert "derrame pleural" in " ".join(cut)
    assert body["original"]["language"] == "es"
    english = body["english"]
    assert english["text"] == reviewed.ENGLISH
    statuses = {f["name"]: f["status"] for f in english["findings"]}
    assert statuses["pneumothorax"] == "absent"
    assert (body["is_candidate"], body["problems"]) == (True, ["number"])
    assert body["doubts"][0]["reason"] == "3 in the report, 5 in the English."
    assert body["ct"] == "none"


def test_whether_the_index_shows_this_studys_ct_is_told(finder, studies, tmp_path):
    own = [
        replace(reviewed.study(0), **{k: getattr(studies[0], k) for k in ("volume_path", "volume_hash", "shape", "spacing_mm")}),
        replace(reviewed.study(1), volume_path="/secret-path/v.nii.gz", volume_hash="other"),
        replace(reviewed.study(2), study_id="study-99", volume_path="/secret-path/v.nii.gz"),
    ]  # fmt: skip
    doubts = [*reviewed.DOUBTS, replace(reviewed.DOUBTS[0], study_id="study-99")]
    folder = reviewed.make(tmp_path / "secret-path", studies=own, doubts=doubts)
    with TestClient(create_app(finder, review=folder)) as client:
        found = {
            i: client.get(f"/v1/review/items/{i}", headers=ANA).json()["ct"]
            for i in ("study-0", "study-1", "study-99")
        }
    assert found == {"study-0": "indexed", "study-1": "another", "study-99": "none"}


def test_no_answer_holds_a_path(client, folder):
    for path in ("items", "items/study-0", "status"):
        assert "secret-path" not in client.get(f"/v1/review/{path}", headers=ANA).text


# ---- deciding -------------------------------------------------------------------------------


def test_two_equal_decisions_settle_and_are_then_seen(client):
    first = decide(client, ANA, "study-0", **ACCEPT).json()
    assert (first["state"], first["mine"]["verdict"], first["others"]) == ("waiting", "accept", [])
    second = decide(client, LUIS, "study-0", **ACCEPT).json()
    assert second["state"] == "settled"
    assert [v["reader"] for v in second["others"]] == ["Ana Gómez"]
    assert second["outcome"]["verdict"] == "accept"


def test_the_others_decision_is_in_no_answer_before_ones_own(client):
    decide(client, LUIS, "study-0", verdict="reject", reason="Canary.")
    for path in ("items", "items/study-0"):
        assert "Canary" not in client.get(f"/v1/review/{path}", headers=ANA).text
    assert "Canary" not in client.post("/v1/review/items/study-0/lease", headers=ANA).text
    error_of(client.get("/v1/review/items/study-0/history", headers=ANA), 409)
    assert "Canary" not in decide(client, ANA, "study-0", **ACCEPT).text  # they differ


def test_an_adjudicator_sees_both_and_settles(client):
    decide(client, ANA, "study-0", **ACCEPT)
    decide(client, LUIS, "study-0", verdict="edit", translation="Left effusion, 3 cm.")
    seen = client.post("/v1/review/items/study-0/lease", headers=EVA).json()
    assert seen["state"] == "disputed"
    assert [v["decision"]["verdict"] for v in seen["others"]] == ["accept", "edit"]
    done = decide(client, EVA, "study-0", verdict="edit", translation="Left effusion, 3 cm.").json()
    assert done["state"] == "settled"


def test_progress_and_agreement_are_told(client):
    for reader, verdict in ((ANA, "accept"), (LUIS, "reject")):
        decide(client, reader, "study-0", verdict=verdict, reason="Why.")
        decide(client, reader, "study-3", **ACCEPT)
    body = client.get("/v1/review/status").json()
    assert body["readers"] == 2
    assert body["progress"]["n_disputed"] == 1
    assert body["progress"]["outcomes"] == {"accept": 1, "edit": 0, "reject": 0}
    assert body["agreement"] == {"n_items": 2, "observed": 0.5, "kappa": 0.0}
    assert "cardiomegaly" in body["agreement_by_finding"]


def test_a_settled_study_has_an_audit_trail_and_is_reopened(client):
    for reader in (ANA, LUIS):
        decide(client, reader, "study-0", **ACCEPT)
    body = client.post(
        "/v1/review/items/study-0/reopen", json={"reason": "Wrong."}, headers=EVA
    ).json()
    assert body["state"] == "todo"
    for reader in (ANA, LUIS):
        decide(client, reader, "study-0", verdict="reject", reason="Wrong.")
    events = client.get("/v1/review/items/study-0/history", headers=EVA).json()["events"]
    assert [e["kind"] for e in events] == ["decided", "decided", "reopened", "decided", "decided"]
    assert events[1]["previous"] == events[0]["hash"]


# ---- bad input ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({}, "The reader has no name"),
        ({"x-reader": "%20%09"}, "The reader has no name"),
        ({"x-reader": "%ff"}, "The reader's name is not text"),
        ({"x-reader": "a%00b"}, "The reader's name cannot be used"),
        ({"x-reader": "a" * 81}, "The reader's name cannot be used"),
    ],
)
def test_a_reader_without_a_name_is_refused(client, headers, message):
    for path in ("items", "items/study-0"):
        error = error_of(client.get(f"/v1/review/{path}", headers=headers), 422)
        assert message in error["message"]
        assert "X-Reader" in error["hint"]


def test_an_unknown_study_is_not_found(client):
    for study_id in ("nobody", "study-4", "..%2f..", "%3Cb%3E"):
        response = client.get(f"/v1/review/items/{study_id}", headers=ANA)
        assert response.status_code == 404, study_id
    error = error_of(decide(client, ANA, "nobody", **ACCEPT), 404)
    assert "not in the review's queue" in error["message"]


def test_a_decision_on_a_settled_study_is_a_conflict(client):
    for reader in (ANA, LUIS):
        decide(client, reader, "study-0", **ACCEPT)
    error = error_of(decide(client, EVA, "study-0", **ACCEPT), 409)
    assert "The study is settled" in error["message"]
    assert "Reopen" in error["hint"]


def test_a_study_that_enough_readers_hold_is_a_conflict(client):
    for reader in (ANA, LUIS):
        assert client.post("/v1/review/items/study-0/lease", headers=reader).status_code == 200
    error = error_of(client.post("/v1/review/items/study-0/lease", headers=EVA), 409)
    assert "Enough readers" in error["message"]


def test_a_decision_on_what_was_something_else_is_a_conflict(client):
    error = error_of(decide(client, ANA, "study-0", verdict="accept", source_hash="0" * 16), 409)
    assert "have changed since" in error["message"]


def test_reopening_what_is_not_settled_is_a_conflict(client):
    response = client.post("/v1/review/items/study-0/reopen", json={"reason": "x"}, headers=ANA)
    assert "nothing to reopen" in error_of(response, 409)["message"]


@pytest.mark.parametrize(
    ("decision", "message"),
    [
        ({"verdict": "maybe"}, "verdict"),
        ({}, "verdict"),
        ({"verdict": "reject"}, "A rejection needs a reason"),
        ({"verdict": "edit"}, "The edit changes nothing"),
        ({"verdict": "edit", "labels": ["pneumothorx"]}, "Did you mean 'pneumothorax'"),
        ({"verdict": "edit", "translation": "x" * 50_001}, "translation: String should have"),
        ({"verdict": "edit", "labels": ["nodule"] * 101}, "labels: List should have"),
        ({"verdict": "reject", "reason": "x" * 2_001}, "reason: String should have"),
        ({"verdict": "accept", "patient": "x"}, "patient is no field"),
    ],
)
def test_a_decision_that_cannot_be_is_told(client, decision, message):
    assert message in error_of(decide(client, ANA, "study-0", **decision), 422)["message"]


def test_an_edit_of_a_megabyte_is_too_large(client):
    error = error_of(decide(client, ANA, "study-0", verdict="edit", translation="x" * 2**20), 413)
    assert "too large" in error["message"]


def test_what_is_no_json_is_told(client):
    for content in (b"{", b'"accept"', b'{"verdict": "edit", "translation": "\\ud800"}', b"\xff"):
        response = client.post(
            "/v1/review/items/study-0/decision",
            content=content,
            headers={**ANA, "content-type": "application/json"},
        )
        assert response.status_code in (400, 422), content
        assert response.json()["error"]["hint"]


def test_markup_in_names_and_texts_is_text(client):
    reader = as_reader("<img src=x onerror=alert(1)>")
    decide(client, reader, "study-0", verdict="reject", reason="5 < 6 <script>alert(1)</script>")
    decide(client, ANA, "study-0", verdict="reject", reason="Same.")
    response = client.get("/v1/review/items/study-0", headers=ANA)
    assert response.headers["content-type"] == "application/json"
    assert response.json()["others"][0]["reader"] == "<img src=x onerror=alert(1)>"


def test_a_page_of_another_site_decides_nothing(client, folder):
    headers = {**ANA, "origin": "https://evil.example"}
    response = client.post("/v1/review/items/study-0/decision", json=ACCEPT, headers=headers)
    error_of(response, 403)
    assert ReviewQueue(folder).history() == []


def test_a_folder_that_is_being_curated_again_is_unavailable_and_comes_back(client, folder):
    (folder / "manifest.json").rename(folder / "away")
    error = error_of(client.get("/v1/review/items", headers=ANA), 503)
    assert "dataset under review cannot be read" in error["message"]
    (folder / "away").rename(folder / "manifest.json")
    assert client.get("/v1/review/items", headers=ANA).status_code == 200


def test_a_log_that_is_gone_bad_is_unavailable(client, folder):
    decide(client, ANA, "study-0", **ACCEPT)
    for name in ("review.db-wal", "review.db-shm"):
        (folder / name).unlink(missing_ok=True)
    (folder / "review.db").write_bytes(b"a letter" * 200)
    error_of(client.get("/v1/review/items", headers=ANA), 503)


def test_without_a_review_there_is_none(finder):
    with TestClient(create_app(finder)) as client:
        for path in ("/review", "/v1/review/status", "/v1/review/items"):
            assert client.get(path, headers=ANA).status_code == 404
        assert "/v1/review/status" not in client.get("/v1/openapi.json").json()["paths"]


# ---- the page and the description -----------------------------------------------------------


def test_the_address_of_earlier_versions_leads_to_the_page(client):
    answer = client.get("/review", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (308, "/#/review")


def test_openapi_describes_every_operation_of_the_review(client):
    api = client.get("/v1/openapi.json").json()
    operations = [
        o for path, methods in api["paths"].items() if "/review/" in path for o in methods.values()
    ]
    assert len(operations) == 7
    for operation in operations:
        assert operation["tags"] == ["review"]
        assert operation["summary"]
        assert "$ref" in operation["responses"]["200"]["content"]["application/json"]["schema"]
        assert "4XX" in operation["responses"]
    assert "volume_path" not in json.dumps(api)
    assert "review" in [tag["name"] for tag in api["tags"]]


def test_a_copy_of_the_folder_goes_on_with_its_log(client, finder, folder, tmp_path):
    decide(client, ANA, "study-0", **ACCEPT)
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    with TestClient(create_app(finder, review=ReviewQueue(Path(copy)))) as other:
        assert decide(other, LUIS, "study-0", **ACCEPT).json()["state"] == "settled"
