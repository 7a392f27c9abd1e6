"""Who may do what, over every route there is; and what an account that is confined can learn."""

import asyncio
import gzip
import inspect
import json
import sqlite3
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace

import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute

from medfinder.index.store import Index
from medfinder.search.finder import Finder
from medfinder.serve.access.confinement import PLAIN, ConfinedIndex
from medfinder.serve.access.roles import ANYONE, ROLES, GuardedRoute, needs_of
from medfinder.serve.audit import AuditLog
from stubs import reviewed
from stubs.members import Members, error_of

SOUTH = ("study-1", "study-3", "study-5")
NORTH = ("study-0", "study-2", "study-4")
OPEN = {
    "/", "/{_}", "/assets/{_}", "/review", "/health", "/ready", "/v1/session", "/v1/session/password",
    "/v1/session/oidc", "/v1/session/oidc/callback",
}  # fmt: skip
BODIES = {
    "explain": {"text": "nodule"},
    "decide_review_item": {"verdict": "accept"},
    "reopen_review_item": {"reason": "again"},
    "put_collected_study": {"note": "x"},
}


@pytest.fixture
def two_sources(own_finder):
    """A finder over an index of two sources, three studies of each."""
    index, encoders = own_finder.index, own_finder._encoders
    ids = index.ids()
    vectors = {}
    for name, model_id in index.model_ids.items():
        found = [
            (i, v) for i, v in zip(ids, index.vectors(name, ids), strict=True) if v is not None
        ]
        there, rows = zip(*found, strict=True)
        vectors[name] = SimpleNamespace(ids=list(there), vectors=list(rows), model_id=model_id)
    placed = [
        replace(s, source="south" if s.study_id in SOUTH else "north") for s in index.studies(ids)
    ]
    index.add(placed, vectors)
    index.finish()
    return Finder(index, encoders)


@pytest.fixture
def members(two_sources, tmp_path):
    folder = reviewed.make(tmp_path / "review" / "studies")
    members = Members(two_sources, tmp_path / "x.sqlite", review=folder)
    yield members
    members.close()


@pytest.fixture
def luis(members):
    """Confined to the north, and otherwise allowed everything."""
    return members.signed_in("luis", "admin", ["north"])


def routes(app):
    found, waiting = [], list(app.routes)
    while waiting:
        route = waiting.pop()
        inner = getattr(route, "original_router", None)
        if inner is not None:
            waiting += inner.routes
        else:
            found.append(route)
    return sorted(found, key=lambda r: (r.path, sorted(r.methods or ())))


def ask(client, route, **given):
    given = {
        "study_id": "study-1", "plane": "axial", "index": "0", "collection_id": "x", "account": "x",
        "token_id": "x", "search_id": "x", "job_id": "x", "name": "card", "_": "x",
    } | given  # fmt: skip
    path = route.path.format(**{n: v for n, v in given.items() if f"{{{n}}}" in route.path})
    method = next(m for m in sorted(route.methods) if m != "HEAD")
    body = BODIES.get(route.operation_id)
    return client.request(method, path, json=body, follow_redirects=False)


# ---- every route ----------------------------------------------------------------------------


def test_every_route_declares_the_role_it_needs(members):
    found = routes(members.app)
    assert len(found) > 40
    for route in found:
        if route.path == "/v1/openapi.json":  # the framework's own, and public anyway
            continue
        assert isinstance(route, APIRoute), route.path
        assert isinstance(route, GuardedRoute), f"{route.path} asks only after its body is read"
        roles = [need.role for need in needs_of(route)]
        assert roles, f"{route.path} declares no role"
        assert set(roles) <= {*ROLES, ANYONE}
        assert (set(roles) == {ANYONE}) == (route.path in OPEN), route.path


def test_nobody_gets_through_a_route_that_is_not_for_anyone(members):
    client = members.client()
    for route in routes(members.app):
        if route.path not in OPEN and isinstance(route, APIRoute):
            assert ask(client, route).status_code == 401, route.path


def test_a_role_does_what_it_and_those_before_it_may(members):
    for rank, role in enumerate(ROLES):
        client = members.signed_in(f"a-{role}", role)
        for route in routes(members.app):
            if not isinstance(route, APIRoute) or route.path in OPEN:
                continue
            needed = max(ROLES.index(n.role) for n in needs_of(route) if n.role != ANYONE)
            if needed > rank:
                error = error_of(ask(client, route), 403)
                assert error["type"] == "Forbidden", route.path
        assert client.get("/v1/status").status_code == 200
        assert client.get("/v1/review/status").status_code == (200 if rank >= 1 else 403)
        assert client.get("/v1/audit").status_code == (200 if rank >= 3 else 403)


def test_a_route_without_a_role_is_for_administrators(members):
    forgotten = APIRouter(route_class=GuardedRoute)

    @forgotten.get("/v1/forgotten")
    async def forgot() -> dict[str, int]:
        return {"x": 1}

    members.app.include_router(forgotten)
    error_of(members.signed_in("eva", "curator").get("/v1/forgotten"), 403)
    assert members.signed_in("root", "admin").get("/v1/forgotten").status_code == 200


@pytest.mark.parametrize("path", ["/v1/search/volume", "/v1/ingest", "/v1/search", "/v1/accounts"])
@pytest.mark.parametrize("headers", [[], [(b"authorization", b"Bearer mf_forged")]])
def test_who_may_not_is_told_before_a_byte_of_the_body_is_read(members, path, headers):
    sent = []

    async def receive():
        raise AssertionError("the body was read")

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
        "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
        "scheme": "http", "server": ("127.0.0.1", 80), "client": ("192.0.2.1", 1),
        "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"multipart/form-data; boundary=x"),
                    (b"content-length", b"1000000000"), *headers],
        "app": members.app, "state": {},
    }  # fmt: skip
    members.client().get("/health")  # the app is up
    asyncio.run(members.app(scope, receive, send))
    start = sent[0]
    assert start["status"] in (401, 413)
    if path in ("/v1/search/volume", "/v1/ingest"):
        assert start["status"] == 401
        assert (b"connection", b"close") in start["headers"]


def test_metrics_are_for_administrators_and_this_machine(members):
    assert members.client(client=("127.0.0.1", 1)).get("/metrics").status_code == 200
    assert members.client(client=("::1", 1)).get("/metrics").status_code == 200
    error_of(members.client(client=("192.0.2.1", 1)).get("/metrics"), 401)
    proxied = members.client(client=("127.0.0.1", 1))
    error_of(proxied.get("/metrics", headers={"x-forwarded-for": "192.0.2.1"}), 401)
    error_of(members.with_token("robot", "curator").get("/metrics"), 403)
    assert members.with_token("prometheus", "admin").get("/metrics").status_code == 200


def test_metrics_of_this_machine_count_the_whole_index(members):
    text = members.client(client=("127.0.0.1", 1)).get("/metrics").text
    sizes = [x for x in text.splitlines() if "studies" in x and not x.startswith("#")]
    assert any(float(x.split()[-1]) == 6 for x in sizes), sizes


# ---- confinement ----------------------------------------------------------------------------


def found(response):
    assert response.status_code == 200, response.text
    return {hit["study_id"] for hit in response.json()["hits"]}


@pytest.mark.parametrize(
    "query",
    [
        {"text": "pleural effusion nodule mass emphysema"},
        {"keywords": ["pleural effusion"]},
        {"keywords": ["mass"]},
        {"report": "Findings: emphysema and a mass in the left lower lobe."},
        {"study_id": "study-0", "exclude_same_patient": False},
        {"like": ["study-0"]},
        {"text": "effusion", "unlike": ["study-0"]},
        {"text": "mass", "filters": {"source": ["south"]}},
        {"text": "mass", "where": "source = 'south'"},
        {"text": "mass", "where": "age > 0 OR source = 'south'"},
        {"text": "mass", "where": "NOT source = 'north'"},
        {"text": "mass", "where": "source = 'south' OR (age > 0 AND source LIKE '%')"},
        {"text": "mass", "where": "patient_id != 'patient-0'"},
    ],
)
def test_a_search_finds_only_what_may_be_seen(luis, query):
    assert found(luis.post("/v1/search", json={"k": 100, **query})) <= set(NORTH)


def test_a_search_that_is_not_confined_finds_more(members):
    eva = members.signed_in("eva")
    both = found(eva.post("/v1/search", json={"text": "effusion mass", "k": 100}))
    assert both & set(NORTH)
    assert both & set(SOUTH)


def test_an_upload_finds_only_what_may_be_seen(luis, studies):
    with open(studies[1].volume_path, "rb") as file:
        files = {"file": ("v.nii.gz", file)}
        response = luis.post("/v1/search/volume", files=files, data={"options": '{"k": 100}'})
    assert found(response) == set(NORTH)


@pytest.mark.parametrize("hidden", ["study-1", "study-3"])
def test_no_route_tells_of_a_study_that_may_not_be_seen(members, luis, hidden):
    at = luis.post("/v1/collections", json={"name": "x"}).json()["collection_id"]
    eva = members.signed_in("eva", "admin")
    assert eva.get(f"/v1/studies/{hidden}").status_code == 200  # and in memory from now on
    assert eva.get(f"/v1/studies/{hidden}/slices/axial/3.png").status_code == 200
    with_study = [r for r in routes(members.app) if "{study_id}" in r.path]
    assert len(with_study) >= 10
    for route in with_study:
        seen = ask(luis, route, study_id=hidden, collection_id=at)
        never = ask(luis, route, study_id="nobody", collection_id=at)
        assert seen.status_code == never.status_code == 404, route.path
        known, unknown = seen.json()["error"], never.json()["error"]
        assert known["type"] == unknown["type"], route.path
        assert known["message"].replace(hidden, "nobody") == unknown["message"], route.path


def test_the_routes_of_a_study_that_may_be_seen_answer(members, luis):
    for path in ("", "/key-slice", "/slices/axial/3.png", "/volume.nii.gz?max_edge=32"):
        assert luis.get(f"/v1/studies/study-2{path}").status_code == 200, path


@pytest.mark.parametrize(
    "query",
    [
        {"study_id": "study-1"},
        {"like": ["study-1"]},
        {"text": "mass", "unlike": ["study-1"]},
        {"region": {"study_id": "study-1", "plane": "axial", "index": 3, "box": [0, 0, 1, 1]}},
    ],
)
def test_a_hidden_study_is_no_query(luis, query):
    response = luis.post("/v1/search", json=query)
    never = json.loads(json.dumps(query).replace("study-1", "nobody"))
    missing = luis.post("/v1/search", json=never)
    assert response.status_code == missing.status_code
    assert response.status_code in (404, 422)
    message = response.json()["error"]["message"].replace("study-1", "nobody")
    assert message == missing.json()["error"]["message"]
    explained = luis.post("/v1/studies/study-0/explanation", json={"study_id": "study-1"})
    assert explained.status_code in (404, 422)


def test_counts_are_of_what_may_be_seen(members, luis):
    eva = members.signed_in("eva")
    assert luis.get("/v1/status").json()["n_studies"] == 3
    assert eva.get("/v1/status").json()["n_studies"] == 6
    own = luis.get("/v1/facets").json()
    assert own["n_studies"] == 3
    assert own["facets"]["source"] == {"north": 3}
    asked = eva.post("/v1/facets", json={"filters": {"source": ["north"]}}).json()
    assert own["facets"] == asked["facets"]
    everything = luis.post("/v1/facets", json={"where": "source = 'south' OR age > 0"}).json()
    assert everything["n_studies"] == 3
    counts = {f["name"]: f["n_studies"] for f in luis.get("/v1/findings").json()["findings"]}
    assert counts["pleural effusion"] == 1
    assert counts["mass"] == 0


def test_a_review_shows_only_what_may_be_seen(members, luis):
    eva = members.signed_in("eva", "reviewer")
    everything = {i["study_id"] for i in eva.get("/v1/review/items").json()["items"]}
    own = luis.get("/v1/review/items").json()
    assert everything & set(SOUTH)
    assert {i["study_id"] for i in own["items"]} == everything & set(NORTH)
    assert own["n_items"] == len(own["items"])
    for client, n_items in ((luis, own["n_items"]), (eva, len(everything))):
        assert client.get("/v1/review/status").json()["progress"]["n_items"] == n_items


def test_who_reads_is_who_is_signed_in_whatever_the_header_says(members):
    eva = members.signed_in("eva", "reviewer")
    decided = eva.post(
        "/v1/review/items/study-0/decision", json={"verdict": "accept"}, headers={"x-reader": "Ana"}
    )
    assert decided.status_code == 200, decided.text
    assert members.app.state.review.queue.history("study-0")[-1].reader == "eva"


def test_an_account_of_no_source_sees_nothing(members):
    client = members.signed_in("nobody-yet", sources=[])
    assert client.get("/v1/status").json()["n_studies"] == 0
    assert found(client.post("/v1/search", json={"text": "nodule"})) == set()
    error_of(client.get("/v1/studies/study-0"), 404)


@pytest.mark.parametrize("source", ["x') OR 1=1 --", "north' OR 'a'='a", "<script>", "\\", "'"])
def test_a_source_is_only_a_text(members, source):
    client = members.signed_in("eva", sources=[source])
    assert client.get("/v1/status").json()["n_studies"] == 0


def test_a_token_is_confined_as_its_account(members):
    program = members.with_token("robot", sources=["north"])
    error_of(program.get("/v1/studies/study-1"), 404)
    assert program.get("/v1/studies/study-0").status_code == 200


def test_a_confinement_that_is_lifted_or_set_counts_at_once(members, luis):
    root = members.signed_in("root", "admin")
    error_of(luis.get("/v1/studies/study-1"), 404)
    root.patch("/v1/accounts/luis", json={"sources": None})
    assert luis.get("/v1/studies/study-1").status_code == 200
    root.patch("/v1/accounts/luis", json={"sources": ["north"]})
    error_of(luis.get("/v1/studies/study-1"), 404)


def test_a_held_upload_is_seen_by_who_sent_it_alone(members, luis, studies):
    with open(studies[1].volume_path, "rb") as file:
        data = {"options": '{"hold": true}'}
        response = luis.post("/v1/search/volume", files={"file": ("v.nii.gz", file)}, data=data)
    held = response.json()["query_study"]["study_id"]
    assert luis.get(f"/v1/studies/{held}/slices/axial/3.png").status_code == 200
    assert found(luis.post("/v1/search", json={"study_id": held})) <= set(NORTH)
    other = members.signed_in("root", "admin")
    for path in ("", "/slices/axial/3.png", "/key-slice"):
        error_of(other.get(f"/v1/studies/{held}{path}"), 404)
    error_of(other.post("/v1/search", json={"study_id": held}), 404)


def test_who_is_confined_takes_studies_in_under_their_own_source_alone(luis, studies):
    with gzip.open(studies[0].volume_path) as file:
        packed = file.read(400)
    files = {"file": ("v.nii", packed)}
    response = luis.post("/v1/ingest", files=files, data={"source": "south"})
    assert response.status_code in (403, 501)


def test_every_question_to_an_index_is_narrowed_or_known_to_tell_nothing():
    plain = {"model_ids", "encoder_names", "columns", "check_model", "centre", "is_finished"}
    plain |= {"location", "folder", "manifest", "mark", "is_changing"}
    building = {"create", "open", "add", "delete", "finish"}
    derived = {"digests"}  # from study_hashes
    asked = {n for n, _ in inspect.getmembers(Index) if not n.startswith("_")}
    own = {n for n in vars(ConfinedIndex) if not n.startswith("_")}
    assert asked - plain - building - derived <= own, "a new question has to be narrowed"
    assert {"count", "ids", "facets", "studies", "findings", "vectors"} <= own
    assert {"place", "streams", "config"} == PLAIN


def test_a_view_is_not_written_to(two_sources):
    view = ConfinedIndex(two_sources.index, ["north"])
    for write in (
        lambda: view.add([]),
        lambda: view.delete(["study-0"]),
        lambda: view.finish(),
        lambda: view.compact(timedelta(0)),
        lambda: view.begin_changes(),
        lambda: view.end_changes(),
        lambda: view.write_rejections([]),
        lambda: view.read_rejections(),
        lambda: view.regions,
    ):
        with pytest.raises(PermissionError):
            write()
    with pytest.raises(AttributeError):
        _ = view._table
    assert sorted(view.digests()) == sorted(NORTH)


# ---- what is written down -------------------------------------------------------------------


def entries(members, **which):
    return list(reversed(AuditLog(members.database).entries(limit=1000, **which)[0]))


def test_a_search_is_written_down_with_what_it_showed_and_never_what_was_asked(members):
    eva = members.signed_in("eva")
    response = eva.post("/v1/search", json={"text": "solid nodule of Mr Smith", "k": 2})
    (entry,) = entries(members, action="search")
    assert entry.account == "eva"
    assert list(entry.objects) == [h["study_id"] for h in response.json()["hits"]]
    assert entry.request_id == response.headers["x-request-id"]
    assert "Smith" not in entry.line()
    assert "nodule" not in entry.line()


def test_an_upload_is_written_down_with_what_it_showed(members, studies):
    eva = members.signed_in("eva")
    with open(studies[0].volume_path, "rb") as file:
        response = eva.post("/v1/search/volume", files={"file": ("v.nii.gz", file)})
    (entry,) = entries(members, action="search_by_volume")
    assert set(entry.objects) == found(response)


def test_the_slices_of_a_study_are_one_entry(members):
    eva, ana = members.signed_in("eva"), members.signed_in("ana")
    for i in range(5):
        eva.get(f"/v1/studies/study-0/slices/axial/{i}.png")
    eva.get("/v1/studies/study-1/slices/axial/0.png")
    ana.get("/v1/studies/study-0/slices/axial/0.png")
    kept = [(e.account, e.objects) for e in entries(members, action="get_slice")]
    assert kept == [("eva", ("study-0",)), ("eva", ("study-1",)), ("ana", ("study-0",))]


def test_what_was_not_shown_is_not_written_down_as_seen(members, luis):
    error_of(luis.get("/v1/studies/study-1"), 404)
    luis.post("/v1/search", json={"text": "x" * 5000})
    assert entries(members, action="get_study") == []
    assert entries(members, action="search") == []


def test_who_tried_what_they_may_not_is_written_down(members):
    eva = members.signed_in("eva")
    for _ in range(3):
        eva.get("/v1/accounts")
    kept = [(e.account, e.objects) for e in entries(members, action="refused")]
    assert kept == [("eva", ("get_accounts",))]


def test_a_change_of_an_account_is_written_down(members):
    root = members.signed_in("root", "admin")
    root.post("/v1/accounts", json={"name": "eva", "password": "a very long sentence"})
    root.patch("/v1/accounts/eva", json={"role": "curator"})
    root.delete("/v1/accounts/eva")
    kept = [(e.action, e.objects) for e in entries(members, account="root")][1:]
    assert kept == [
        ("add_account", ("eva",)),
        ("change_account", ("eva",)),
        ("remove_account", ("eva",)),
    ]


def test_an_answer_that_cannot_be_written_down_is_not_given(members, monkeypatch):
    eva = members.signed_in("eva")

    async def full(*args, **kw):
        raise OSError("no space left")

    monkeypatch.setattr(AuditLog, "record", full)
    response = eva.get("/v1/studies/study-0")
    error_of(response, 500)
    assert "nodule" not in response.text


def test_a_log_that_cannot_be_written_is_told_as_one(members, monkeypatch):
    eva = members.signed_in("eva")
    monkeypatch.setattr("medfinder.serve.database._BUSY_S", 0.05)
    members.app.state.audit._database._engine.dispose()  # connections of before wait longer
    with sqlite3.connect(members.access.database_url, isolation_level=None) as other:
        other.execute("PRAGMA busy_timeout=50")
        other.execute("BEGIN IMMEDIATE")
        response = eva.get("/v1/studies/study-0")
        other.execute("ROLLBACK")
    other.close()
    assert error_of(response, 503)["type"] == "NoDatabase"
    assert "nodule" not in response.text
    assert eva.get("/v1/studies/study-0").status_code == 200


def test_the_log_is_listed_exported_and_verified_over_http(members):
    root = members.signed_in("root", "admin")
    root.post("/v1/search", json={"text": "nodule"})
    body = root.get("/v1/audit?limit=1&action=search").json()
    assert body["n_entries"] == 1
    assert body["entries"][0]["account"] == "root"
    exported = root.get("/v1/audit/export")
    assert exported.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(x) for x in exported.text.splitlines()]
    assert [x["action"] for x in lines][:2] == ["sign_in", "search"]
    verdict = root.get("/v1/audit/verify").json()
    assert verdict["is_intact"]
    again = root.get("/v1/audit/verify", params={"anchor": verdict["last"]}).json()
    assert again["is_intact"]
    wrong = root.get("/v1/audit/verify", params={"anchor": f"1:{'0' * 64}"}).json()
    assert (wrong["is_intact"], wrong["first_bad"]) == (False, 1)
    error_of(root.get("/v1/audit/verify?anchor=x"), 422)
    for query in ("limit=0", "limit=1001", "offset=-1", "limit=x", "offset=99999999999999999999"):
        error_of(root.get(f"/v1/audit?{query}"), 422)
