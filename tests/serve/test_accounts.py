"""Passwords, accounts and API tokens, as stored and over HTTP."""

import json
import os
import statistics
import subprocess
import sys
import time

import pytest
import sqlalchemy as sql

from medfinder.errors import InputError, UnknownName
from medfinder.serve.access.accounts import (
    account_name,
    add_account,
    change_account,
    find_account,
    list_accounts,
    remove_account,
)
from medfinder.serve.access.config import AccessConfig
from medfinder.serve.access.passwords import Passwords
from medfinder.serve.access.tokens import (
    MAX_TOKENS,
    add_token,
    find_token,
    list_tokens,
    revoke_token,
)
from medfinder.serve.database import Database, accounts, collections, new_id, now, tokens
from stubs.members import CHEAP, PASSWORD, Members, error_of, sign_in


@pytest.fixture
def members(finder, tmp_path):
    members = Members(finder, tmp_path / "x.sqlite")
    yield members
    members.close()


def refused(rule, work, *args, **kw):
    with pytest.raises(InputError) as error:
        work(*args, **kw)
    assert error.value.rule == rule
    assert "xpected" in str(error.value)
    return str(error.value)


# ---- passwords ------------------------------------------------------------------------------


def test_a_password_is_stored_as_argon2id_with_the_real_parameters():
    passwords = Passwords(AccessConfig())
    stored = passwords.hash(PASSWORD)
    assert stored.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert passwords.check(stored, PASSWORD)
    assert not passwords.check(stored, PASSWORD + "x")
    assert not passwords.is_outdated(stored)


def test_two_hashes_of_one_password_differ():
    passwords = Passwords(CHEAP)
    assert passwords.hash(PASSWORD) != passwords.hash(PASSWORD)


def test_other_parameters_make_a_hash_outdated():
    stored = Passwords(CHEAP).hash(PASSWORD)
    assert Passwords(AccessConfig(argon2_memory_kib=1024, argon2_time=1)).is_outdated(stored)


@pytest.mark.parametrize(
    "password",
    ["", "short", "a" * 11, "x" * 257, "aaaaaaaaaaaaaaaa", "ababababababab", "somebody-new"],
)
def test_a_weak_password_is_refused(password):
    text = refused("weak-password", Passwords(CHEAP).hash, password, "somebody-new")
    assert password not in text or not password


def test_a_password_is_the_same_in_every_form_of_unicode():
    passwords = Passwords(CHEAP)
    assert passwords.check(passwords.hash("caña de azúcar 1"), "can\u0303a de azu\u0301car 1")


def test_no_password_and_a_broken_hash_let_nobody_in():
    passwords = Passwords(CHEAP)
    assert not passwords.check(None, "of nobody")
    assert not passwords.check("$argon2id$nonsense", PASSWORD)
    assert not passwords.check(passwords.hash(PASSWORD), "\ud800" * 20)


def test_a_wrong_name_takes_as_long_as_a_wrong_password():
    passwords = Passwords(AccessConfig(argon2_memory_kib=16 * 1024, argon2_lanes=1))
    stored = passwords.hash(PASSWORD)

    def seconds(hashed):
        started = time.process_time()
        passwords.check(hashed, "something else entirely")
        return time.process_time() - started

    known = statistics.median(seconds(stored) for _ in range(9))
    unknown = statistics.median(seconds(None) for _ in range(9))
    assert 0.5 < unknown / known < 2


# ---- accounts -------------------------------------------------------------------------------


def test_an_account_is_as_it_was_added(database):
    made = database.write(lambda c: add_account(c, " Ana ", "reviewer", ["b", "a", "b"], "hash"))
    assert (made.name, made.role, made.sources) == ("ana", "reviewer", ("b", "a"))
    assert (made.is_active, made.has_password) == (True, True)
    assert database.read(lambda c: find_account(c, "ANA")) == made
    assert database.read(list_accounts) == [made]


@pytest.mark.parametrize(
    "name",
    ["", " ", "a b", "../x", "<b>", "x'); DROP TABLE accounts;--", "local", "a" * 65, "ñ", "-a"],
)
def test_what_is_no_name_is_refused(name):
    refused("bad-name", account_name, name)


def test_a_name_is_given_once(database):
    database.write(lambda c: add_account(c, "ana", "viewer"))
    refused("account-exists", database.write, lambda c: add_account(c, "ANA", "admin"))


@pytest.mark.parametrize("sources", [[""], ["x" * 201], [str(i) for i in range(101)]])
def test_absurd_sources_are_refused(database, sources):
    refused("bad-sources", database.write, lambda c: add_account(c, "ana", "viewer", sources))


def test_an_unknown_role_is_refused(database):
    refused("bad-role", database.write, lambda c: add_account(c, "ana", "root"))


def test_an_unknown_account_is_told(database):
    with pytest.raises(UnknownName) as error:
        database.read(lambda c: find_account(c, "nobody-here"))
    assert error.value.rule == "unknown-account"


def test_one_administrator_is_always_left(database):
    database.write(lambda c: add_account(c, "ana", "admin"))
    database.write(lambda c: add_account(c, "luis", "viewer"))
    for change in ({"role": "curator"}, {"is_active": False}):
        refused("last-admin", database.write, lambda c, x=change: change_account(c, "ana", **x))
    refused("last-admin", database.write, lambda c: remove_account(c, "ana"))
    database.write(lambda c: change_account(c, "luis", role="admin"))
    database.write(lambda c: remove_account(c, "ana"))
    assert [a.name for a in database.read(list_accounts)] == ["luis"]


def test_an_account_with_collections_is_removed_when_somebody_gets_them(database):
    ana = database.write(lambda c: add_account(c, "ana", "viewer"))
    luis = database.write(lambda c: add_account(c, "luis", "viewer"))
    values = {"collection_id": new_id(), "owner_id": ana.account_id, "name": "x"}
    values |= {"description": "", "created": now(), "changed": now()}
    database.write(lambda c: c.execute(collections.insert().values(values)))
    refused("has-collections", database.write, lambda c: remove_account(c, "ana"))
    refused("has-collections", database.write, lambda c: remove_account(c, "ana", "ana"))
    database.write(lambda c: remove_account(c, "ana", "luis"))
    owner = database.read(lambda c: c.execute(sql.select(collections.c.owner_id)).scalar_one())
    assert owner == luis.account_id


def test_what_was_made_without_a_sign_in_is_given_to_somebody(database):
    ana = database.write(lambda c: add_account(c, "ana", "viewer"))
    values = {"collection_id": new_id(), "owner_id": "local", "name": "x"}
    values |= {"description": "", "created": now(), "changed": now()}
    database.write(lambda c: c.execute(collections.insert().values(values)))
    with pytest.raises(UnknownName):
        database.write(lambda c: remove_account(c, "local"))
    database.write(lambda c: remove_account(c, "local", "ana"))
    owner = database.read(lambda c: c.execute(sql.select(collections.c.owner_id)).scalar_one())
    assert owner == ana.account_id


def test_a_name_that_is_given_again_is_another_account(database):
    first = database.write(lambda c: add_account(c, "ana", "viewer"))
    database.write(lambda c: remove_account(c, "ana"))
    assert database.write(lambda c: add_account(c, "ana", "viewer")).account_id != first.account_id


# ---- tokens ---------------------------------------------------------------------------------


@pytest.fixture
def ana(database):
    return database.write(lambda c: add_account(c, "ana", "reviewer"))


def make(database, account, days=1.0, role="viewer"):
    return database.write(lambda c: add_token(c, account.account_id, "bridge", role, days))


def test_only_a_hash_of_a_token_is_stored(database, ana):
    token, known = make(database, ana)
    assert token.startswith("mf_")
    assert len(token) == 46
    row = database.read(lambda c: c.execute(tokens.select()).mappings().one())
    assert token not in str(dict(row))
    assert token[3:] not in str(dict(row))
    assert known.account == "ana"
    assert database.read(lambda c: find_token(c, token))["account_id"] == ana.account_id


def test_a_token_ends_when_it_expires_is_revoked_or_its_account_may_not_sign_in(database, ana):
    old, _ = make(database, ana, days=-1e-6)
    revoked, known = make(database, ana)
    database.write(lambda c: revoke_token(c, known.token_id))
    good, _ = make(database, ana)
    assert database.read(lambda c: find_token(c, old)) is None
    assert database.read(lambda c: find_token(c, revoked)) is None
    assert database.read(lambda c: find_token(c, good)) is not None
    database.write(lambda c: change_account(c, "ana", is_active=False))
    assert database.read(lambda c: find_token(c, good)) is None


@pytest.mark.parametrize(
    "token", ["", "mf_", "mf_" + "a" * 43, "mf_' OR 1=1 --", "\x00" * 46, "é" * 46]
)
def test_a_forged_token_is_nobodys(database, ana, token):
    make(database, ana)
    assert database.read(lambda c: find_token(c, token)) is None


def test_a_token_is_revoked_once_and_by_its_account(database, ana):
    _, known = make(database, ana)
    other = database.write(lambda c: add_account(c, "luis", "viewer"))
    for whose in (other.account_id, "x"):
        with pytest.raises(UnknownName):
            database.write(lambda c, w=whose: revoke_token(c, known.token_id, w))
    database.write(lambda c: revoke_token(c, known.token_id, ana.account_id))
    with pytest.raises(UnknownName) as error:
        database.write(lambda c: revoke_token(c, known.token_id))
    assert error.value.rule == "unknown-token"
    assert database.read(lambda c: list_tokens(c, ana.account_id))[0].revoked is not None


def test_an_account_has_a_bounded_number_of_tokens(database, ana, monkeypatch):
    monkeypatch.setattr("medfinder.serve.access.tokens.MAX_TOKENS", 2)
    assert MAX_TOKENS == 100
    make(database, ana)
    make(database, ana)
    refused("too-many-tokens", make, database, ana)


# ---- over HTTP ------------------------------------------------------------------------------


def test_an_administrator_adds_changes_and_removes_accounts(members):
    admin = members.signed_in("root", "admin")
    made = admin.post(
        "/v1/accounts",
        json={"name": "Luis", "role": "reviewer", "sources": ["a"], "password": PASSWORD},
    ).json()
    assert (made["name"], made["role"], made["sources"]) == ("luis", "reviewer", ["a"])
    changed = admin.patch("/v1/accounts/luis", json={"role": "curator", "sources": None}).json()
    assert (changed["role"], changed["sources"]) == ("curator", None)
    names = [a["name"] for a in admin.get("/v1/accounts").json()["accounts"]]
    assert names == ["luis", "root"]
    assert "argon2" not in admin.get("/v1/accounts").text
    assert admin.delete("/v1/accounts/luis").json() == {"done": True}
    error_of(admin.delete("/v1/accounts/luis"), 404)
    error_of(admin.delete("/v1/accounts/root"), 409)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"name": "x", "password": "short"}, 422),
        ({"name": "<script>"}, 422),
        ({"name": "root"}, 409),
        ({"name": "x", "role": "root"}, 422),
        ({"name": "x" * 10_000}, 422),
        ({"name": "x", "sources": ["s"] * 1000}, 422),
        ({"name": "x", "is_root": True}, 422),
        ({"name": "x", "password": "p" * 5000}, 422),
        ({}, 422),
    ],
)
def test_a_bad_account_is_refused_without_repeating_it(members, body, status):
    admin = members.signed_in("root", "admin")
    response = admin.post("/v1/accounts", json=body)
    error_of(response, status)
    assert str(body.get("password", "a password")) not in response.text


def test_a_change_of_role_counts_at_once(members):
    admin, luis = members.signed_in("root", "admin"), members.signed_in("luis", "admin")
    assert luis.get("/v1/accounts").status_code == 200
    admin.patch("/v1/accounts/luis", json={"role": "viewer"})
    error_of(luis.get("/v1/accounts"), 403)


def test_who_may_no_longer_sign_in_is_signed_out(members):
    admin, luis = members.signed_in("root", "admin"), members.signed_in("luis")
    assert luis.get("/v1/status").status_code == 200
    admin.patch("/v1/accounts/luis", json={"is_active": False})
    error_of(luis.get("/v1/status"), 401)
    wrong = luis.post("/v1/session", json={"name": "luis", "password": PASSWORD})
    assert error_of(wrong, 401)["message"] == "The name or the password is wrong."


def test_another_password_ends_the_sessions_of_the_old_one(members):
    admin, luis = members.signed_in("root", "admin"), members.signed_in("luis")
    admin.patch("/v1/accounts/luis", json={"password": "another long sentence"})
    error_of(luis.get("/v1/status"), 401)
    sign_in(luis, "luis", "another long sentence")


def test_a_program_uses_a_token_without_a_csrf_token(members):
    luis = members.signed_in("luis", "reviewer")
    made = luis.post("/v1/tokens", json={"name": "bridge", "expires_days": 7}).json()
    assert made["role"] == "viewer"
    assert made["used"] is None
    program = members.client()
    program.headers["authorization"] = f"Bearer {made['token']}"
    assert program.post("/v1/search", json={"text": "nodule"}).status_code == 200
    listed = luis.get("/v1/tokens").json()["tokens"]
    assert listed[0]["used"] is not None
    assert made["token"] not in json.dumps(listed)
    assert luis.delete(f"/v1/tokens/{made['token_id']}").json() == {"done": True}
    error_of(program.get("/v1/status"), 401)


def test_a_token_may_do_no_more_than_its_account_does_today(members):
    luis = members.signed_in("luis", "reviewer")
    error_of(luis.post("/v1/tokens", json={"name": "x", "role": "admin"}), 403)
    program = members.with_token("robot", "admin")
    assert program.get("/v1/accounts").status_code == 200
    members.signed_in("root", "admin")
    members.database.write(lambda c: change_account(c, "robot", role="viewer"))
    error_of(program.get("/v1/accounts"), 403)


def test_a_token_makes_no_tokens(members):
    program = members.with_token("robot", "admin")
    error_of(program.post("/v1/tokens", json={"name": "x"}), 403)


@pytest.mark.parametrize(
    "body",
    [{"name": "x", "expires_days": 0}, {"name": "x", "expires_days": 1e9}, {"name": "x", "expires_days": 400},
     {"name": ""}, {"name": "x" * 1000}, {"name": "x", "expires_days": "NaN"}],
)  # fmt: skip
def test_an_absurd_token_is_refused(members, body):
    error_of(members.signed_in("luis").post("/v1/tokens", json=body), 422)


def test_tokens_of_others_are_for_administrators(members):
    luis, eva = members.signed_in("luis"), members.signed_in("eva")
    admin = members.signed_in("root", "admin")
    made = luis.post("/v1/tokens", json={"name": "bridge"}).json()
    error_of(eva.get("/v1/tokens?account=luis"), 403)
    error_of(eva.delete(f"/v1/tokens/{made['token_id']}"), 404)
    assert len(admin.get("/v1/tokens?account=luis").json()["tokens"]) == 1
    assert admin.delete(f"/v1/tokens/{made['token_id']}").status_code == 200


@pytest.mark.parametrize(
    "value",
    [
        "Bearer mf_forged",
        "Bearer " + "x" * 10_000,
        "Basic YTpi",
        "Bearer",
        "mf_x",
        "Bearer mf_" + "a" * 43,
    ],
)
def test_a_forged_token_is_refused_and_not_repeated(members, value):
    client = members.client()
    response = client.get("/v1/status", headers={"authorization": value})
    assert error_of(response, 401)["type"] == "NotSignedIn"
    assert response.headers["www-authenticate"] == "Bearer"
    assert value not in response.text


def test_an_expired_token_is_refused(members):
    error_of(members.with_token("robot", days=-1e-6).get("/v1/status"), 401)


def test_a_forged_token_is_not_saved_by_a_good_session(members):
    luis = members.signed_in("luis")
    error_of(luis.get("/v1/status", headers={"authorization": "Bearer mf_forged"}), 401)


def test_an_outdated_hash_is_replaced_when_its_password_is_known(members):
    members.add("luis")
    older = Passwords(AccessConfig(argon2_time=1, argon2_memory_kib=128, argon2_lanes=1))
    stored = older.hash(PASSWORD)
    members.database.write(lambda c: c.execute(accounts.update().values(password=stored)))
    sign_in(members.client(), "luis")
    after = members.database.read(lambda c: c.execute(sql.select(accounts.c.password)).scalar_one())
    assert after != stored
    assert "m=64," in after
    sign_in(members.client(), "luis")


# ---- the command line -----------------------------------------------------------------------


def medfinder(*args, given="", **variables):
    made = subprocess.run(
        [sys.executable, "-c", "from medfinder.cli import main; main()", *map(str, args)],
        input=given, capture_output=True, text=True, env=os.environ | variables, timeout=120,
    )  # fmt: skip
    assert "Traceback" not in made.stderr
    return made


def test_accounts_and_the_log_are_kept_from_the_command_line(tmp_path):
    (tmp_path / "idx").mkdir()
    idx = tmp_path / "idx"
    added = medfinder("account", "add", idx, "ana", "--role", "admin", given=f"{PASSWORD}\n")
    assert added.returncode == 0, added.stderr
    assert PASSWORD not in added.stdout + added.stderr
    database = Database.open(tmp_path / "idx.service.sqlite")
    row = database.read(lambda c: c.execute(accounts.select()).mappings().one())
    assert Passwords(AccessConfig()).check(row["password"], PASSWORD)
    medfinder("account", "add", idx, "robot", "--no-password", "--source", "a", "--source", "b")
    listed = json.loads(medfinder("account", "list", idx, "--json").stdout)
    assert [(a["name"], a["sources"]) for a in listed] == [("ana", None), ("robot", ["a", "b"])]
    secret = medfinder("account", "token", idx, "robot").stdout.strip()
    assert database.read(lambda c: find_token(c, secret))["name"] == "robot"
    database.close()
    lines = medfinder("audit", "export", idx).stdout.splitlines()
    assert [json.loads(x)["action"] for x in lines] == ["add_account", "add_account", "add_token"]
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + "\n")
    verified = medfinder("audit", "verify", idx, "--export", tmp_path / "log.jsonl", "--json")
    assert json.loads(verified.stdout)["is_intact"]
    removed = medfinder("account", "remove", idx, "ana")
    assert removed.returncode == 2
    assert "last active administrator" in removed.stderr


def test_a_weak_password_and_an_unknown_place_are_told_on_the_command_line(tmp_path):
    (tmp_path / "idx").mkdir()
    weak = medfinder("account", "add", tmp_path / "idx", "ana", given="short\n")
    assert (weak.returncode, "5 characters" in weak.stderr) == (2, True)
    nowhere = medfinder("account", "list", tmp_path / "nothing")
    assert (nowhere.returncode, "no such index folder" in nowhere.stderr) == (2, True)
