"""A real S3 server for tests, on loopback: moto's, in a thread, with faults to order.

A request can be answered with 500 or 503, or cut off, without reaching the store; or reach it, and
its answer be lost. Counts requests and bytes.
"""

import contextlib
import itertools
import os
import socket
import threading
import urllib.request

import pytest

_names = itertools.count()


class Server:
    """The server, and what goes wrong with it.

    Attributes:
        every: Every so manieth request fails; 0 for none.
        faults: What happens to them, in turn: a status, "cut" or "lost".
        n_requests: Answered or not.
        n_failed: Those that a fault befell.
        n_bytes: Sent in answers.
        read: Paths of the objects that were read.
        where: Only requests whose path holds this fail.
    """

    def __init__(self):
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Quiet(WSGIRequestHandler):
            def log(self, *_):
                pass

        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self, threaded=True, request_handler=Quiet)
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.heal()
        self.n_requests = self.n_failed = self.n_bytes = 0
        self.read = []

    def fail(self, every, *faults, where=""):
        self.every, self.faults, self.where = every, itertools.cycle(faults), where

    def heal(self):
        self.every, self.faults, self.where = 0, None, ""

    def bucket(self):
        """Make a new bucket; return its name."""
        name = f"bucket{next(_names)}"
        with urllib.request.urlopen(urllib.request.Request(f"{self.url}/{name}", method="PUT")):
            return name

    def environment(self):
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "not-to-be-shown",
        }

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __call__(self, environ, start):
        with self._lock:
            self.n_requests += 1
            path = environ.get("PATH_INFO", "")
            bad = self.every and self.where in path and self.n_requests % self.every == 0
            fault = next(self.faults) if bad else None
            self.n_failed += bool(bad)
            if environ["REQUEST_METHOD"] == "GET":
                self.read.append(path)
        if isinstance(fault, int):
            # The body is read, so that the client gets to see the answer.
            with contextlib.suppress(ValueError, KeyError):
                environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
            start(f"{fault} {'Slow Down' if fault == 503 else 'Internal Error'}", [])
            return [b"<Error><Code>SlowDown</Code></Error>"]
        if fault == "cut":
            return self._cut(environ)
        answer = list(self._app(environ, start))
        if fault == "lost":
            return self._cut(environ)
        self.n_bytes += sum(map(len, answer))
        return answer

    def _cut(self, environ):
        with contextlib.suppress(OSError):
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        raise ConnectionError("cut off, as ordered")


@contextlib.contextmanager
def server():
    """Run a server, and point the environment to it."""
    pytest.importorskip("moto")
    pytest.importorskip("obstore")
    made = Server()
    before = dict(os.environ)
    os.environ.update(made.environment())
    try:
        yield made
    finally:
        os.environ.clear()
        os.environ.update(before)
        made.close()
