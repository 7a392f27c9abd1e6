"""Collections over HTTP: whose they are, who else may, and what nobody may do to them."""

import pytest

from medfinder.serve.audit import AuditLog
from stubs.members import Members, error_of

EVIL = "x'); DROP TABLE collections; --<script>alert(1)</script>\x00\U0001fac1"


@pytest.fixture
def members(finder, where):
    members = Members(finder, where)
    yield members
    members.close()


@pytest.fixture
def ana(members):
    return members.signed_in("ana")


def make(client, name="Effusions", *studies):
    made = client.post("/v1/collections", json={"name": name, "description": "teaching"}).json()
    for study_id in studies:
        path = f"/v1/collections/{made['collection_id']}/studies/{study_id}"
        assert client.put(path, json={"note": f"see {study_id}"}).status_code == 200
    return made["collection_id"]


def names(client):
    return [c["name"] for c in client.get("/v1/collections").json()["collections"]]


def test_a_collection_keeps_studies_with_notes_in_order(ana):
    at = make(ana, "Effusions", "study-4", "study-1")
    body = ana.get(f"/v1/collections/{at}").json()
    assert (body["name"], body["owner"], body["permission"]) == ("Effusions", "ana", "owner")
    assert body["n_studies"] == 2
    assert [(s["study_id"], s["note"]) for s in body["studies"]] == [
        ("study-4", "see study-4"),
        ("study-1", "see study-1"),
    ]
    assert body["studies"][0]["study"]["report"]["text"].startswith("Bilateral")
    assert body["shares"] == []


def test_a_note_is_changed_and_a_study_taken_out(ana):
    at = make(ana, "x", "study-1", "study-2")
    ana.put(f"/v1/collections/{at}/studies/study-1", json={"note": "another"})
    ana.delete(f"/v1/collections/{at}/studies/study-2")
    studies = ana.get(f"/v1/collections/{at}").json()["studies"]
    assert [(s["study_id"], s["note"]) for s in studies] == [("study-1", "another")]


def test_a_collection_is_renamed_and_removed(ana):
    at = make(ana)
    changed = ana.patch(f"/v1/collections/{at}", json={"name": "Large effusions"}).json()
    assert (changed["name"], changed["description"]) == ("Large effusions", "teaching")
    assert ana.delete(f"/v1/collections/{at}").json() == {"done": True}
    assert names(ana) == []
    error_of(ana.get(f"/v1/collections/{at}"), 404)


def test_any_text_comes_back_as_it_was_but_for_what_no_database_keeps(ana):
    at = make(ana, EVIL)
    ana.put(f"/v1/collections/{at}/studies/study-1", json={"note": EVIL})
    body = ana.get(f"/v1/collections/{at}").json()
    kept = EVIL.replace("\x00", "\ufffd")
    assert (body["name"], body["studies"][0]["note"]) == (kept, kept)
    assert ana.get("/v1/collections").json()["collections"][0]["name"] == kept


@pytest.mark.parametrize(
    "body",
    [{}, {"name": ""}, {"name": "x" * 201}, {"name": "x", "description": "x" * 4001},
     {"name": "x", "owner": "root"}, {"name": ["x"]}, {"name": None}],
)  # fmt: skip
def test_a_bad_collection_is_refused(ana, body):
    error_of(ana.post("/v1/collections", json=body), 422)


def test_an_absurd_note_and_an_unknown_study_are_refused(ana):
    at = make(ana)
    error_of(ana.put(f"/v1/collections/{at}/studies/study-1", json={"note": "x" * 4001}), 422)
    error_of(ana.put(f"/v1/collections/{at}/studies/nobody", json={}), 404)
    error_of(ana.put(f"/v1/collections/{at}/studies/query-{'0' * 32}", json={}), 422)
    error_of(ana.put(f"/v1/collections/{at}/studies/{'x' * 5000}", json={}), 404)


@pytest.mark.parametrize("at", ["nobody", "' OR 1=1 --", "0" * 32, "x" * 5000, "%00", "%ff"])
def test_a_collection_that_is_not_there_is_told(ana, at):
    for response in (
        ana.get(f"/v1/collections/{at}"),
        ana.delete(f"/v1/collections/{at}"),
        ana.get(f"/v1/collections/{at}/export"),
    ):
        assert error_of(response, 404)["type"] == "UnknownName"


def test_collections_and_their_studies_are_bounded(ana, monkeypatch):
    monkeypatch.setattr("medfinder.serve.collections.MAX_STUDIES", 2)
    monkeypatch.setattr("medfinder.serve.collections.MAX_COLLECTIONS", 2)
    at = make(ana, "one", "study-1", "study-2")
    error_of(ana.put(f"/v1/collections/{at}/studies/study-3", json={}), 409)
    assert ana.put(f"/v1/collections/{at}/studies/study-2", json={}).status_code == 200
    make(ana, "two")
    error_of(ana.post("/v1/collections", json={"name": "three"}), 409)


# ---- others ---------------------------------------------------------------------------------


def test_nobody_else_sees_a_collection_not_even_an_administrator(members, ana):
    at = make(ana, "x", "study-1")
    for other in (members.signed_in("luis"), members.signed_in("root", "admin")):
        assert names(other) == []
        own = f"/v1/collections/{at}"
        for response in (
            other.get(own),
            other.patch(own, json={"name": "mine"}),
            other.delete(own),
            other.put(f"{own}/studies/study-2", json={}),
            other.delete(f"{own}/studies/study-1"),
            other.put(f"{own}/shares/luis", json={"permission": "write"}),
            other.get(f"{own}/export?format=json"),
        ):
            error_of(response, 404)
    assert ana.get(f"/v1/collections/{at}").json()["n_studies"] == 1


def test_who_may_read_reads_and_changes_nothing(members, ana):
    luis = members.signed_in("luis")
    at = make(ana, "x", "study-1")
    own = f"/v1/collections/{at}"
    assert ana.put(f"{own}/shares/luis", json={"permission": "read"}).status_code == 200
    body = luis.get(own).json()
    assert (body["owner"], body["permission"], body["shares"]) == ("ana", "read", [])
    assert names(luis) == ["x"]
    for response in (
        luis.patch(own, json={"name": "mine"}),
        luis.delete(own),
        luis.put(f"{own}/studies/study-2", json={}),
        luis.delete(f"{own}/studies/study-1"),
        luis.put(f"{own}/shares/ana", json={"permission": "write"}),
    ):
        error_of(response, 403)
    assert luis.get(f"{own}/export").status_code == 200


def test_who_may_write_changes_studies_and_not_who_else_may(members, ana):
    luis, _ = members.signed_in("luis"), members.signed_in("eva")
    at = make(ana, "x", "study-1")
    own = f"/v1/collections/{at}"
    ana.put(f"{own}/shares/luis", json={"permission": "write"})
    assert luis.put(f"{own}/studies/study-2", json={"note": "mine"}).status_code == 200
    error_of(luis.put(f"{own}/shares/eva", json={"permission": "read"}), 403)
    error_of(luis.delete(own), 403)
    body = ana.get(own).json()
    assert body["n_studies"] == 2
    assert body["shares"] == [{"account": "luis", "permission": "write"}]


def test_a_share_ends_by_its_owner_or_by_whom_it_is_with(members, ana):
    luis, eva = members.signed_in("luis"), members.signed_in("eva")
    at = make(ana)
    own = f"/v1/collections/{at}"
    for name in ("luis", "eva"):
        ana.put(f"{own}/shares/{name}", json={"permission": "read"})
    error_of(luis.delete(f"{own}/shares/eva"), 403)
    assert luis.delete(f"{own}/shares/luis").status_code == 200
    assert ana.delete(f"{own}/shares/eva").status_code == 200
    assert (names(luis), names(eva)) == ([], [])


@pytest.mark.parametrize(
    ("name", "permission", "status"),
    [("nobody-here", "read", 404), ("luis", "owner", 422), ("luis", "", 422), ("ana", "read", 422)],
)
def test_a_bad_share_is_refused(members, ana, name, permission, status):
    members.add("luis")
    at = make(ana)
    path = f"/v1/collections/{at}/shares/{name}"
    error_of(ana.put(path, json={"permission": permission}), status)


def test_who_is_confined_sees_of_a_shared_collection_what_they_see_elsewhere(members, ana):
    luis = members.signed_in("luis", sources=["another hospital"])
    at = make(ana, "x", "study-1", "study-2")
    own = f"/v1/collections/{at}"
    ana.put(f"{own}/shares/luis", json={"permission": "write"})
    body = luis.get(own).json()
    assert (body["n_studies"], body["studies"]) == (0, [])
    assert luis.get("/v1/collections").json()["collections"][0]["n_studies"] == 0
    assert luis.get(f"{own}/export?format=json").json()["cases"] == []
    error_of(luis.put(f"{own}/studies/study-3", json={}), 404)
    error_of(luis.delete(f"{own}/studies/study-1"), 404)
    assert ana.get(own).json()["n_studies"] == 2


def test_a_study_that_left_the_index_stays_as_an_id(own_finder, tmp_path):
    members = Members(own_finder, tmp_path / "x.sqlite")
    ana = members.signed_in("ana")
    at = make(ana, "x", "study-1", "study-2")
    own_finder.index.delete(["study-1"])
    studies = ana.get(f"/v1/collections/{at}").json()["studies"]
    assert [(s["study_id"], s["study"] is None) for s in studies] == [
        ("study-1", True),
        ("study-2", False),
    ]
    assert len(ana.get(f"/v1/collections/{at}/export?format=json").json()["cases"]) == 1
    members.close()


# ---- saved searches -------------------------------------------------------------------------


def test_a_search_is_kept_and_forgotten_by_its_account_alone(members, ana):
    luis = members.signed_in("luis")
    query = {"text": "derrame", "filters": {"sex": ["F"]}, "page": 2}
    made = ana.post("/v1/saved-searches", json={"name": "mine", "query": query}).json()
    assert ana.get("/v1/saved-searches").json()["searches"] == [made]
    assert made["query"] == query
    assert luis.get("/v1/saved-searches").json()["searches"] == []
    error_of(luis.delete(f"/v1/saved-searches/{made['search_id']}"), 404)
    assert ana.delete(f"/v1/saved-searches/{made['search_id']}").status_code == 200
    error_of(ana.delete(f"/v1/saved-searches/{made['search_id']}"), 404)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"name": "x", "query": {"report": "x" * 9000}}, 422),
        ({"name": "x", "query": "text"}, 422),
        ({"name": "", "query": {}}, 422),
        ({"query": {}}, 422),
        ({"name": "x", "query": {"x": "y" * 300_000}}, 413),
    ],
)
def test_an_absurd_search_is_not_kept(ana, body, status):
    error_of(ana.post("/v1/saved-searches", json=body), status)


def test_what_is_done_with_collections_is_in_the_log_by_ids_alone(members, ana):
    at = make(ana, "A secret name", "study-1")
    ana.get(f"/v1/collections/{at}")
    for _ in range(2):
        ana.get(f"/v1/collections/{at}/export?format=csv")
    log = AuditLog(members.database)
    entries = [(e.action, e.objects) for e in reversed(log.entries()[0])][1:]
    assert entries == [
        ("add_collection", (at,)),
        ("put_collected_study", ("study-1", at)),
        ("get_collection", (at, "study-1")),
        ("export_collection", (at, "study-1")),
        ("export_collection", (at, "study-1")),
    ]
    assert "secret" not in "".join(e.line() for e in log.every())
    assert log.verify().is_intact


def test_where_nobody_signs_in_collections_belong_to_this_machine(own_finder):
    from fastapi.testclient import TestClient

    from medfinder.serve.app import create_app

    with TestClient(create_app(own_finder)) as client:
        at = make(client, "mine", "study-1")
        assert client.get(f"/v1/collections/{at}").json()["owner"] == "local"
    with TestClient(create_app(own_finder)) as client:
        assert names(client) == ["mine"]
