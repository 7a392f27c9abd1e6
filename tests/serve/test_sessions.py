"""Sessions over HTTP: cookies, CSRF, expiry, rotation, bounds on trying. On both databases."""

import re
from dataclasses import replace

import pytest
import sqlalchemy as sql
from fastapi.testclient import TestClient

from medfinder.serve.access.limits import Bucket
from medfinder.serve.app import create_app
from medfinder.serve.audit import AuditLog
from medfinder.serve.config import ServeConfig
from medfinder.serve.database import attempts, now, sessions
from medfinder.serve.faults import Refusal
from stubs.members import CHEAP, PASSWORD, Members, error_of, sign_in


@pytest.fixture
def members(finder, where):
    members = Members(finder, where)
    yield members
    members.close()


@pytest.fixture
def make(finder, tmp_path):
    """Make members with other bounds, in a file."""
    made = []

    def make(**bounds):
        access = replace(CHEAP, **bounds)
        made.append(Members(finder, tmp_path / f"{len(made)}.sqlite", access))
        return made[-1]

    yield make
    for members in made:
        members.close()


def attempt(client, name="luis", password="wrong", **more):
    return client.post("/v1/session", json={"name": name, "password": password}, **more)


def rows(members, table):
    return members.database.read(lambda c: c.execute(table.select()).mappings().all())


# ---- signing in -----------------------------------------------------------------------------


def test_nobody_sees_anything_before_signing_in(members):
    client = members.client()
    body = client.get("/v1/session").json()
    assert (body["access"], body["account"], body["csrf"]) == ("required", None, None)
    assert error_of(client.get("/v1/status"), 401)["type"] == "NotSignedIn"
    assert client.get("/health").status_code == 200


def test_signing_in_opens_the_service_and_tells_who_that_is(members):
    members.add("luis", "reviewer", ["folder"])
    client = members.client()
    body = sign_in(client, "LUIS").json()
    assert body["account"] == {"name": "luis", "role": "reviewer", "sources": ["folder"]}
    assert re.fullmatch(r"[0-9a-f]{64}", body["csrf"])
    assert client.get("/v1/session").json() == body
    assert client.get("/v1/status").status_code == 200


def test_signing_out_ends_the_session_for_whoever_kept_the_cookie(members):
    client = members.signed_in("luis")
    cookie = client.cookies["medfinder"]
    out = client.delete("/v1/session")
    assert out.json()["account"] is None
    assert "medfinder" not in client.cookies
    client.cookies.set("medfinder", cookie)
    error_of(client.get("/v1/status"), 401)
    assert rows(members, sessions) == []


def test_a_wrong_name_and_a_wrong_password_are_told_alike(members):
    members.add("luis")
    members.add("robot", password=None)
    client = members.client()
    answers = {
        attempt(client, name, password).json()["error"]["message"]
        for name, password in (("luis", "wrong"), ("nobody-here", PASSWORD), ("robot", PASSWORD))
    }
    assert answers == {"The name or the password is wrong."}
    assert "set-cookie" not in attempt(client).headers


@pytest.mark.parametrize("name", ["' OR 1=1 --", "<script>", "luis\x00", "\u202eluis", "x" * 80])
def test_any_name_is_only_a_name(members, name):
    members.add("luis")
    error_of(attempt(members.client(), name, PASSWORD), 401)


@pytest.mark.parametrize(
    "body",
    [{}, {"name": "luis"}, {"name": "luis", "password": ""}, {"name": "x" * 81, "password": "x"},
     {"name": "luis", "password": "x" * 1025}, {"name": ["luis"], "password": {"$ne": 1}}, []],
)  # fmt: skip
def test_what_is_no_sign_in_is_refused(members, body):
    error_of(members.client().post("/v1/session", json=body), 422)


def test_a_session_is_another_after_every_sign_in_and_the_old_one_ends(members):
    client = members.signed_in("luis")
    first = client.cookies["medfinder"]
    sign_in(client, "luis")
    assert client.cookies["medfinder"] != first
    assert len(rows(members, sessions)) == 1


def test_a_session_id_that_somebody_else_chose_is_not_taken_over(members):
    members.add("luis")
    client = members.client()
    client.cookies.set("medfinder", "chosen-by-somebody-else")
    sign_in(client, "luis")
    thief = members.client()
    thief.cookies.set("medfinder", "chosen-by-somebody-else")
    error_of(thief.get("/v1/status"), 401)


def test_only_a_hash_of_a_session_is_stored(members):
    client = members.signed_in("luis")
    assert client.cookies["medfinder"] not in str([dict(r) for r in rows(members, sessions)])


# ---- the cookie -----------------------------------------------------------------------------


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(members):
    members.add("luis")
    cookie = attempt(members.client(), password=PASSWORD).headers["set-cookie"]
    assert cookie.startswith("medfinder=")
    assert {"HttpOnly", "Path=/", "SameSite=strict"} <= set(cookie.split("; "))
    assert "Domain" not in cookie


def test_over_https_the_cookie_is_bound_to_this_host_and_to_https(members):
    members.add("luis")
    client = members.client(base_url="https://testserver")
    cookie = attempt(client, password=PASSWORD).headers["set-cookie"]
    assert cookie.startswith("__Host-medfinder=")
    assert "Secure" in cookie.split("; ")
    assert client.get("/v1/status").status_code == 200


def test_over_https_a_cookie_that_http_can_set_is_not_believed(members):
    secret = members.signed_in("luis").cookies["medfinder"]
    client = members.client(base_url="https://testserver")
    client.cookies.set("medfinder", secret)
    error_of(client.get("/v1/status"), 401)


def test_a_trusted_proxy_tells_that_the_browser_came_by_https(make):
    members = make(trusted_proxies=("10.0.0.0/8",))
    members.add("luis")
    https = {"x-forwarded-proto": "https", "x-forwarded-for": "1.2.3.4"}
    proxy = members.client(client=("10.0.0.7", 1))
    cookie = attempt(proxy, password=PASSWORD, headers=https).headers["set-cookie"]
    assert cookie.startswith("__Host-")
    other = members.client(client=("192.0.2.1", 1))
    cookie = attempt(other, password=PASSWORD, headers=https).headers["set-cookie"]
    assert cookie.startswith("medfinder=")


@pytest.mark.parametrize("value", ["x" * 5000, '"\\', "a=b", "é", "%00"])
def test_an_absurd_cookie_is_nobodys(members, value):
    response = members.client().get("/v1/status", headers={"cookie": f"medfinder={value}".encode()})
    error_of(response, 401)


# ---- expiry ---------------------------------------------------------------------------------


def age(members, **seconds):
    values = {name: now(-s) for name, s in seconds.items()}
    members.database.write(lambda c: c.execute(sessions.update().values(values)))


def test_an_idle_session_ends(members):
    client = members.signed_in("luis")
    age(members, seen=CHEAP.session_idle_s - 60)
    assert client.get("/v1/status").status_code == 200
    age(members, seen=CHEAP.session_idle_s + 60)
    error_of(client.get("/v1/status"), 401)
    assert client.get("/v1/session").json()["account"] is None


def test_a_session_that_is_used_stays_until_its_last_hour(members):
    client = members.signed_in("luis")
    age(members, seen=CHEAP.session_idle_s - 60)
    client.get("/v1/status")
    assert rows(members, sessions)[0]["seen"] > now(-60)
    age(members, created=CHEAP.session_max_s + 60)
    error_of(client.get("/v1/status"), 401)


def test_ended_sessions_are_removed_when_somebody_signs_in(members):
    members.signed_in("luis")
    age(members, created=CHEAP.session_max_s + 60)
    members.signed_in("eva")
    assert len(rows(members, sessions)) == 1


# ---- requests that other sites' pages send --------------------------------------------------


@pytest.mark.parametrize("token", [None, "", "x", "0" * 64, "é"])
def test_a_change_without_the_sessions_token_is_refused(members, token):
    client = members.signed_in("luis")
    del client.headers["x-csrf-token"]
    headers = {} if token is None else {"x-csrf-token": token.encode()}
    response = client.post("/v1/search", json={"text": "nodule"}, headers=headers)
    assert error_of(response, 403)["message"].startswith("The request does not repeat")
    assert client.get("/v1/status").status_code == 200  # what changes nothing needs none


def test_the_token_of_another_session_does_not_do(members):
    luis, eva = members.signed_in("luis"), members.signed_in("eva")
    luis.headers["x-csrf-token"] = eva.headers["x-csrf-token"]
    error_of(luis.delete("/v1/session"), 403)


def test_another_sites_page_cannot_sign_anybody_in(members):
    members.add("luis")
    headers = {"origin": "https://evil.example"}
    error_of(attempt(members.client(), password=PASSWORD, headers=headers), 403)


# ---- another password -----------------------------------------------------------------------


def test_one_changes_ones_password_and_is_signed_out_everywhere_else(members):
    here, there = members.signed_in("luis"), members.client()
    sign_in(there, "luis")
    change = {"old": PASSWORD, "new": "another long sentence"}
    assert here.put("/v1/session/password", json=change).status_code == 200
    assert here.get("/v1/status").status_code == 200
    error_of(there.get("/v1/status"), 401)
    error_of(attempt(there, password=PASSWORD), 401)
    sign_in(there, "luis", "another long sentence")


def test_the_old_password_is_asked_for_and_the_new_one_judged(members):
    client = members.signed_in("luis")
    for old, new, status in (
        ("wrong", "another long sentence", 401),
        (PASSWORD, "short", 422),
        (PASSWORD, "luis", 422),
    ):
        error_of(client.put("/v1/session/password", json={"old": old, "new": new}), status)
    error_of(members.client().put("/v1/session/password", json={"old": "a", "new": "b"}), 401)


# ---- trying passwords, and asking too often -------------------------------------------------


def test_who_tries_too_many_passwords_has_to_wait(make):
    members = make(attempts=3)
    members.add("luis")
    client = members.client()
    assert [attempt(client).status_code for _ in range(5)] == [401, 401, 401, 429, 429]
    refused = attempt(client, password=PASSWORD)
    assert error_of(refused, 429)["type"] == "TooMany"
    assert int(refused.headers["retry-after"]) > 0


def test_after_a_while_one_may_try_again(make):
    members = make(attempts=2)
    members.add("luis")
    client = members.client()
    assert [attempt(client).status_code for _ in range(3)][-1] == 429
    later = now(-members.access.attempts_s - 1)
    members.database.write(lambda c: c.execute(attempts.update().values(at=later)))
    sign_in(client, "luis")
    assert rows(members, attempts) == []


def test_a_sign_in_that_succeeds_forgives_those_that_failed(make):
    members = make(attempts=3)
    members.add("luis")
    client = members.client()
    for _ in range(4):
        attempt(client), attempt(client)
        sign_in(client, "luis")


def test_somebody_elsewhere_does_not_lock_an_account_out(make):
    members = make(attempts=3)
    members.add("luis")
    thief, luis = (members.client(client=(a, 1)) for a in ("192.0.2.1", "192.0.2.2"))
    assert [attempt(thief).status_code for _ in range(4)][-1] == 429
    sign_in(luis, "luis")


def test_one_address_does_not_try_all_accounts(make):
    members = make(attempts=2)
    client = members.client()
    answers = [attempt(client, f"user{i}").status_code for i in range(11)]
    assert answers == [401] * 10 + [429]


def test_many_addresses_do_not_try_one_account(make):
    members = make(attempts=2)
    answers = [attempt(members.client(client=(f"192.0.2.{i}", 1))).status_code for i in range(21)]
    assert answers == [401] * 20 + [429]


def test_an_address_that_anybody_can_write_is_not_believed(make):
    members = make(attempts=2)
    client = members.client(client=("192.0.2.1", 1))
    headers = [{"x-forwarded-for": f"10.9.8.{i}"} for i in range(3)]
    assert [attempt(client, headers=h).status_code for h in headers] == [401, 401, 429]


def test_behind_a_trusted_proxy_each_client_counts_by_itself(make):
    members = make(attempts=2, trusted_proxies=("127.0.0.1",))
    proxy = members.client(client=("127.0.0.1", 1))
    forged = [{"x-forwarded-for": f"10.9.8.{i}, 192.0.2.1"} for i in range(3)]
    assert [attempt(proxy, headers=h).status_code for h in forged] == [401, 401, 429]
    assert attempt(proxy, headers={"x-forwarded-for": "192.0.2.2"}).status_code == 401


def test_what_was_typed_as_a_name_is_not_kept(make):
    members = make()
    attempt(members.client(), name="hunter2-my-password")
    log = AuditLog(members.database)
    assert "hunter2" not in str([dict(r) for r in rows(members, attempts)])
    (entry,) = log.entries(action="sign_in_refused")[0]
    assert (entry.account, entry.objects) == ("-", ())


def test_signing_in_and_failing_to_is_in_the_log(members):
    client = members.signed_in("luis")
    attempt(members.client())
    client.delete("/v1/session")
    entries = AuditLog(members.database).entries()[0]
    assert [(e.account, e.action, e.objects) for e in reversed(entries)] == [
        ("luis", "sign_in", ()),
        ("-", "sign_in_refused", ("luis",)),
        ("luis", "sign_out", ()),
    ]


def test_who_asks_too_often_has_to_wait_and_nobody_else(make):
    members = make(requests_per_minute=20)
    luis = members.signed_in("luis")
    eva = members.signed_in("eva", client=("192.0.2.9", 1))
    answers = [luis.get("/v1/session").status_code for _ in range(25)]
    assert answers[:15] == [200] * 15
    assert answers[-1] == 429
    refused = luis.get("/v1/session")
    assert int(refused.headers["retry-after"]) >= 1
    assert eva.get("/v1/session").status_code == 200


def test_a_bucket_fills_again(monkeypatch):
    at = [100.0]
    monkeypatch.setattr("medfinder.serve.access.limits.time.monotonic", lambda: at[0])
    bucket = Bucket(60)
    for _ in range(60):
        bucket.take("a")
    with pytest.raises(Refusal) as error:
        bucket.take("a")
    assert error.value.headers["retry-after"] == "2"
    bucket.take("b")
    at[0] += 1.5
    bucket.take("a")
    with pytest.raises(Refusal):
        bucket.take("a")


# ---- where nobody signs in ------------------------------------------------------------------


def test_on_this_machine_alone_nobody_signs_in(client):
    body = client.get("/v1/session").json()
    assert body["access"] == "off"
    assert body["account"] == {"name": "local", "role": "admin", "sources": None}
    again = client.post("/v1/session", json={"name": "x", "password": "y"})
    assert again.json()["account"]["name"] == "local"
    assert "set-cookie" not in again.headers
    assert client.delete("/v1/session").status_code == 200
    error_of(client.put("/v1/session/password", json={"old": "a", "new": "b"}), 409)
    error_of(client.post("/v1/tokens", json={"name": "x"}), 409)


@pytest.mark.parametrize(
    "header", ["x-forwarded-for", "forwarded", "x-real-ip", "x-forwarded-host"]
)
def test_what_a_proxy_forwards_is_refused_where_nobody_was_asked_to_sign_in(client, header):
    error = error_of(client.get("/v1/status", headers={header: "192.0.2.1"}), 403)
    assert "--access required" in error["hint"]


def test_a_proxy_that_signs_in_by_itself_is_allowed_by_name(finder, tmp_path):
    access = replace(CHEAP, mode="off", database_url=str(tmp_path / "x.sqlite"))
    with TestClient(create_app(finder, ServeConfig(access=access))) as client:
        response = client.get("/v1/status", headers={"x-forwarded-for": "192.0.2.1"})
        assert response.status_code == 200


def test_the_service_works_without_a_database_where_nobody_signs_in(finder, monkeypatch, tmp_path):
    gone = tmp_path / "no-such-folder" / "x.sqlite"
    monkeypatch.setattr("medfinder.serve.app.beside", lambda index: gone)
    with TestClient(create_app(finder)) as client:
        assert client.post("/v1/search", json={"text": "nodule"}).status_code == 200
        assert error_of(client.get("/v1/audit"), 501)["type"] == "NoDatabase"


def test_the_last_use_of_a_session_is_not_written_at_every_request(members):
    client = members.signed_in("luis")
    before = rows(members, sessions)[0]["seen"]
    for _ in range(3):
        client.get("/v1/status")
    assert rows(members, sessions)[0]["seen"] == before
    assert (
        members.database.read(
            lambda c: c.execute(sql.select(sql.func.count(sessions.c.seen))).scalar()
        )
        == 1
    )
