"""A service that asks who somebody is, and people who use it."""

from dataclasses import replace

from fastapi.testclient import TestClient

from medfinder.serve.access.accounts import add_account
from medfinder.serve.access.config import AccessConfig
from medfinder.serve.access.passwords import Passwords
from medfinder.serve.access.tokens import add_token
from medfinder.serve.app import create_app
from medfinder.serve.config import ServeConfig
from medfinder.serve.database import Database

PASSWORD = "correct horse battery"
CHEAP = AccessConfig(
    mode="required", argon2_time=1, argon2_memory_kib=64, argon2_lanes=1, requests_per_minute=0
)
"""Bounds for tests; argon2 with its real ones takes a tenth of a second each time."""
_HASHES = {}


class Members:
    """An app over a finder, its database, and clients that are signed in."""

    def __init__(self, finder, where, access=CHEAP, review=None, **more):
        self.access = replace(access, database_url=str(where))
        self.database = Database.open(where)
        config = ServeConfig(access=self.access, **more)
        self.app = create_app(finder, config, review=review)
        self._clients = []

    def add(self, name, role="viewer", sources=None, password=PASSWORD):
        """Add an account."""
        if password is None:
            hashed = None
        else:
            key = (password, self.access.argon2_memory_kib)
            hashed = _HASHES.get(key) or Passwords(self.access).hash(password, name)
            _HASHES[key] = hashed
        return self.database.write(lambda c: add_account(c, name, role, sources, hashed))

    def client(self, **more):
        """Return somebody's browser or program, not signed in."""
        client = TestClient(self.app, **more)
        client.__enter__() if not self._clients else None
        self._clients.append(client)
        return client

    def signed_in(self, name, role="viewer", sources=None, **more):
        """Return the browser of a new account that is signed in."""
        self.add(name, role, sources)
        client = self.client(**more)
        sign_in(client, name)
        return client

    def with_token(self, name, role="viewer", sources=None, days=1.0):
        """Return a program with a token of a new account of its own."""
        account = self.add(name, role, sources, password=None)
        token, _ = self.database.write(lambda c: add_token(c, account.account_id, "t", role, days))
        client = self.client()
        client.headers["authorization"] = f"Bearer {token}"
        return client

    def close(self):
        """End the service."""
        if self._clients:
            self._clients[0].__exit__(None, None, None)
        self.database.close()


def sign_in(client, name, password=PASSWORD):
    """Sign a browser in, and have it repeat its session's token from now on."""
    response = client.post("/v1/session", json={"name": name, "password": password})
    assert response.status_code == 200, response.text
    client.headers["x-csrf-token"] = response.json()["csrf"]
    return response


def error_of(response, status):
    """Check the shape that every error has, and return it."""
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error", "request_id"}
    assert set(body["error"]) == {"type", "message", "hint"}
    assert all(body["error"].values())
    assert body["request_id"] == response.headers["x-request-id"]
    return body["error"]
