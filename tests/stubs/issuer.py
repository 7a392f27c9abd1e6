"""A small identity provider on loopback: OpenID Connect over real HTTP, and ways to be a bad one."""

import base64
import hashlib
import hmac
import json
import secrets
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey


class Issuer:
    """Signs anybody in whose claims are in `user`.

    Attributes:
        user: Claims of who stands at the browser.
        spoil: Changes claims before they are signed: claims → claims.
        sign_with: Key that signs, of `key` (published) and `other` (not); None signs with nothing.
        asked: Forms that the token endpoint was sent.
    """

    def __init__(self):
        self.key = RSAKey.generate_key(2048, {"kid": "one", "use": "sig"}, private=True)
        self.other = RSAKey.generate_key(2048, {"kid": "one", "use": "sig"}, private=True)
        self.published = [self.key]
        self.sign_with = self.key
        self.algorithm = "RS256"
        self.user = {"sub": "u-1", "preferred_username": "Ana", "groups": ["radiology"]}
        self.spoil = lambda claims: claims
        self.token_of = None  # instead of signing
        self.description = lambda told: told
        self.asked, self.codes = [], {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                url = urlsplit(self.path)
                if url.path == "/.well-known/openid-configuration":
                    self.answer(outer.described())
                elif url.path == "/keys":
                    self.answer(KeySet(outer.published).as_dict(private=False))
                elif url.path == "/authorize":
                    self.send_response(302)
                    self.send_header("location", outer.authorize(parse_qs(url.query)))
                    self.end_headers()
                else:
                    self.send_error(404)

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                form = {k: v[0] for k, v in parse_qs(body).items()}
                form["authorization"] = self.headers.get("authorization", "")
                outer.asked.append(form)
                status, told = outer.token(form)
                self.answer(told, status)

            def answer(self, told, status=200):
                body = json.dumps(told).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), daemon=True
        )
        self._thread.start()

    def described(self):
        return self.description(
            {
                "issuer": self.url,
                "authorization_endpoint": f"{self.url}/authorize",
                "token_endpoint": f"{self.url}/token",
                "jwks_uri": f"{self.url}/keys",
            }
        )

    def authorize(self, query):
        """Sign the user in and send the browser back with a code."""
        given = {k: v[0] for k, v in query.items()}
        assert given["response_type"] == "code"
        assert given["code_challenge_method"] == "S256"
        code = secrets.token_urlsafe(16)
        self.codes[code] = given
        return f"{given['redirect_uri']}?{urlencode({'code': code, 'state': given['state']})}"

    def token(self, form):
        """Exchange a code, once, for who proves that it asked for it."""
        given = self.codes.pop(form.get("code", ""), None)
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if given is None or challenge != given["code_challenge"]:
            return 400, {"error": "invalid_grant"}
        if form["redirect_uri"] != given["redirect_uri"]:
            return 400, {"error": "invalid_grant"}
        claims = self.spoil(
            {
                "iss": self.url,
                "aud": given["client_id"],
                "iat": int(time.time()),
                "exp": int(time.time()) + 300,
                "nonce": given["nonce"],
                **self.user,
            }
        )
        if self.token_of is not None:
            token = self.token_of(claims)
        else:
            header = {"alg": self.algorithm, "kid": self.sign_with.kid}
            token = jwt.encode(header, claims, self.sign_with, algorithms=[self.algorithm])
        return 200, {"access_token": "x", "token_type": "Bearer", "id_token": token}

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


def unsigned(claims):
    """Return a token that nobody signed."""
    return f"{_part({'alg': 'none'})}.{_part(claims)}."


def signed_with_text(claims, secret):
    """Return a token with an HMAC whose secret is any bytes, such as a public key: by hand, as a
    well-kept library refuses to.
    """
    body = f"{_part({'alg': 'HS256', 'kid': 'one'})}.{_part(claims)}"
    return f"{body}.{_encoded(hmac.new(secret, body.encode(), hashlib.sha256).digest())}"


def _part(value):
    return _encoded(json.dumps(value).encode())


def _encoded(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
