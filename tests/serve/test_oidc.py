"""Signing in at an identity provider, against a real one on loopback, good and bad."""

import time
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from joserfc.jwk import RSAKey

from medfinder.errors import ConfigError
from medfinder.serve.access.accounts import change_account, list_accounts
from medfinder.serve.access.config import OidcConfig
from medfinder.serve.access.oidc import Oidc, claim_values
from medfinder.serve.audit import AuditLog
from medfinder.serve.database import now, sign_ins
from stubs.issuer import Issuer, signed_with_text, unsigned
from stubs.members import CHEAP, Members, error_of


@pytest.fixture
def issuer():
    issuer = Issuer()
    yield issuer
    issuer.close()


@pytest.fixture
def make(finder, tmp_path, issuer):
    made = []

    def make(**more):
        oidc = OidcConfig(
            **{
                "issuer": issuer.url,
                "client_id": "medfinder",
                "redirect_url": "http://localhost/v1/session/oidc/callback",
                "roles": ("radiology=reviewer", "it=admin"),
            }
            | more
        )
        made.append(Members(finder, tmp_path / f"{len(made)}.sqlite", replace(CHEAP, oidc=oidc)))
        return made[-1]

    yield make
    for members in made:
        members.close()


@pytest.fixture
def members(make):
    return make()


def begin(client):
    """Follow the browser to the provider; return where that sends it back to."""
    response = client.get("/v1/session/oidc", follow_redirects=False)
    assert response.status_code == 303, response.text
    back = httpx.get(response.headers["location"], follow_redirects=False).headers["location"]
    return "/v1/session/oidc/callback?" + urlsplit(back).query


def go(client):
    return client.get(begin(client), follow_redirects=False)


def names(members):
    return [(a.name, a.role, a.sources) for a in members.database.read(list_accounts)]


def test_a_user_of_the_provider_is_signed_in_with_the_role_of_their_group(members):
    client = members.client()
    assert client.get("/v1/session").json()["oidc"] is True
    response = go(client)
    assert (response.status_code, response.headers["location"]) == (303, "/")
    assert "SameSite=strict" in response.headers["set-cookie"]
    body = client.get("/v1/session").json()
    assert body["account"] == {"name": "ana", "role": "reviewer", "sources": None}
    assert body["has_password"] is False
    assert client.get("/v1/status").status_code == 200
    (entry,) = AuditLog(members.database).entries(action="finish_oidc")[0]
    assert (entry.account, entry.objects) == ("ana", ("ana",))


def test_the_browser_is_sent_with_pkce_state_and_nonce_and_no_secret(members):
    url = members.client().get("/v1/session/oidc", follow_redirects=False).headers["location"]
    asked = {k: v[0] for k, v in parse_qs(urlsplit(url).query).items()}
    assert (asked["code_challenge_method"], asked["response_type"]) == ("S256", "code")
    assert min(len(asked[x]) for x in ("state", "nonce", "code_challenge")) >= 43
    assert "code_verifier" not in asked
    assert "client_secret" not in asked


def test_a_confidential_client_proves_itself_with_its_secret(make, issuer):
    members = make(client_secret="between-us")
    assert go(members.client()).status_code == 303
    assert issuer.asked[-1]["authorization"].startswith("Basic ")
    assert "client_secret" not in issuer.asked[-1]


def test_the_same_user_is_the_same_account_and_its_role_follows_the_provider(members, issuer):
    go(members.client())
    issuer.user |= {"groups": ["it", "radiology"], "preferred_username": "Renamed"}
    go(members.client())
    assert names(members) == [("ana", "admin", None)]


def test_a_name_that_is_taken_is_not_taken_over(members, issuer):
    members.add("ana", "admin")
    client = members.client()
    go(client)
    assert client.get("/v1/session").json()["account"]["name"] == "ana-2"
    assert names(members) == [("ana", "admin", None), ("ana-2", "reviewer", None)]


@pytest.mark.parametrize(
    ("wish", "name"), [("Ana Gómez", "ana-g-mez"), ("<script>", "script"), ("", "user"), ("local", "local-user"), ("x" * 500, "x" * 56)]
)  # fmt: skip
def test_any_name_becomes_one_that_can_be_used(members, issuer, wish, name):
    issuer.user["preferred_username"] = wish
    client = members.client()
    go(client)
    assert client.get("/v1/session").json()["account"]["name"] == name


def test_a_user_of_no_group_is_refused(members, issuer):
    issuer.user["groups"] = ["catering"]
    client = members.client()
    assert error_of(go(client), 403)["type"] == "Forbidden"
    assert names(members) == []
    assert client.get("/v1/session").json()["account"] is None


def test_users_of_no_group_may_have_a_role_of_their_own(make, issuer):
    del issuer.user["groups"]
    members = make(default_role="viewer")
    go(members.client())
    assert names(members) == [("ana", "viewer", None)]


def test_the_provider_confines_an_account(make, issuer):
    members = make(sources_claim="hospital")
    issuer.user["hospital"] = "north"
    go(members.client())
    assert names(members) == [("ana", "reviewer", ("north",))]
    del issuer.user["hospital"]
    client = members.client()
    go(client)
    assert names(members) == [("ana", "reviewer", ())]
    assert client.get("/v1/status").json()["n_studies"] == 0


def test_an_account_that_may_not_sign_in_stays_out(members):
    go(members.client())
    members.add("root", "admin")
    members.database.write(lambda c: change_account(c, "ana", is_active=False))
    error_of(go(members.client()), 403)


# ---- bad providers --------------------------------------------------------------------------


def claims_with(**more):
    return lambda claims: claims | more


def claims_without(name):
    return lambda claims: {k: v for k, v in claims.items() if k != name}


@pytest.mark.parametrize(
    "spoil",
    [
        claims_with(aud="another-service"),
        claims_with(aud=["another-service"]),
        claims_with(aud=["medfinder", "x"], azp="x"),
        claims_with(iss="https://evil.example"),
        claims_with(nonce="of another sign-in"),
        claims_with(exp=int(time.time()) - 3600, iat=int(time.time()) - 7200),
        claims_with(iat=int(time.time()) + 3600),
        claims_with(sub=17),
        *(claims_without(name) for name in ("aud", "iss", "nonce", "exp", "iat", "sub")),
    ],
    ids=["audience", "audiences", "party", "issuer", "nonce", "expired", "of the future", "subject",
         "no aud", "no iss", "no nonce", "no exp", "no iat", "no sub"],
)  # fmt: skip
def test_a_token_with_wrong_claims_signs_nobody_in(members, issuer, spoil):
    issuer.spoil = spoil
    refused(members)


def refused(members):
    client = members.client()
    assert error_of(go(client), 401)["type"] == "NotSignedIn"
    assert client.get("/v1/session").json()["account"] is None
    assert names(members) == []
    assert AuditLog(members.database).entries(action="sign_in_refused")[1] == 1


def test_a_token_signed_with_another_key_signs_nobody_in(members, issuer):
    issuer.sign_with = issuer.other
    refused(members)


def test_a_token_that_nobody_signed_signs_nobody_in(members, issuer):
    issuer.token_of = unsigned
    refused(members)


def test_the_public_key_is_no_secret_to_sign_with(members, issuer):
    secret = issuer.key.as_pem(private=False)
    issuer.token_of = lambda claims: signed_with_text(claims, secret)
    refused(members)


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "x" * 2_000_000, None, 17])
def test_what_is_no_token_signs_nobody_in(members, issuer, token):
    issuer.token_of = lambda claims: token
    refused(members)


def test_a_new_key_of_the_provider_is_fetched(members, issuer, monkeypatch):
    go(members.client())
    monkeypatch.setattr("medfinder.serve.access.oidc._KEYS_S", 0.0)
    newer = RSAKey.generate_key(2048, {"kid": "two", "use": "sig"}, private=True)
    issuer.published, issuer.sign_with = [issuer.key, newer], newer
    assert go(members.client()).status_code == 303


@pytest.mark.parametrize(
    "description",
    [
        lambda told: told | {"issuer": "https://evil.example"},
        lambda told: told | {"token_endpoint": "http://evil.example/token"},
        lambda told: {k: v for k, v in told.items() if k != "jwks_uri"},
        lambda told: ["x"],
    ],
)
def test_a_provider_that_describes_itself_wrongly_is_not_believed(members, issuer, description):
    issuer.description = description
    response = members.client().get("/v1/session/oidc", follow_redirects=False)
    assert error_of(response, 503)["type"] == "NoProvider"


def test_a_provider_that_does_not_answer_is_told(members, issuer):
    issuer._server.shutdown()
    issuer._server.server_close()
    response = members.client().get("/v1/session/oidc", follow_redirects=False)
    assert error_of(response, 503)["type"] == "NoProvider"


# ---- bad browsers ---------------------------------------------------------------------------


def test_a_sign_in_that_another_browser_began_is_refused(members):
    back = begin(members.client())
    victim = members.client()
    error_of(victim.get(back, follow_redirects=False), 401)
    assert victim.get("/v1/session").json()["account"] is None


def test_a_sign_in_is_finished_once(members):
    client = members.client()
    back = begin(client)
    cookie = client.cookies["medfinder-oidc"]
    assert client.get(back, follow_redirects=False).status_code == 303
    thief = members.client()
    thief.cookies.set("medfinder-oidc", cookie)
    error_of(thief.get(back, follow_redirects=False), 401)


def test_a_sign_in_that_took_too_long_is_refused(members):
    client = members.client()
    back = begin(client)
    members.database.write(lambda c: c.execute(sign_ins.update().values(created=now(-3600))))
    error_of(client.get(back, follow_redirects=False), 401)


@pytest.mark.parametrize(
    "query", ["", "?state=x&code=y", "?error=access_denied", "?state=%00&code=%00", "?state=' OR 1=1 --&code=x"]
)  # fmt: skip
def test_a_forged_return_is_refused(members, query):
    error_of(members.client().get(f"/v1/session/oidc/callback{query}", follow_redirects=False), 401)


def test_a_forged_code_is_refused(members):
    client = members.client()
    back = begin(client)
    forged = back.replace("code=", "code=forged")
    error_of(client.get(forged, follow_redirects=False), 401)


def test_without_a_provider_there_is_nowhere_to_go(client):
    error_of(client.get("/v1/session/oidc"), 404)
    error_of(client.get("/v1/session/oidc/callback"), 404)


# ---- settings -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["http://idp.example", "ftp://x", "idp", "https//x", "http://127.0.0.1.evil/"]
)
def test_a_provider_without_encryption_is_refused(url):
    with pytest.raises(ConfigError, match="without encryption"):
        Oidc(OidcConfig(issuer=url, client_id="x", redirect_url="https://x/"))


@pytest.mark.parametrize(
    "given", [{"roles": ("radiology",)}, {"roles": ("x=root",)}, {"default_role": "root"}, {"issuer": "https://x"}]
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(given):
    with pytest.raises(ValueError, match=r"role|issuer"):
        OidcConfig(**given)


def test_a_claim_may_lie_deep():
    claims = {"realm": {"roles": ["a", 1, "b"]}, "x.y": "c", "z": {"q": None}}
    assert claim_values(claims, "realm.roles") == ["a", "b"]
    assert claim_values(claims, "x.y") == ["c"]
    assert claim_values(claims, "z.q.w") == claim_values(claims, "nothing") == []
