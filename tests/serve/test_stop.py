"""A service that is told to stop stops, whatever its clients hold open and its threads do."""

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from urllib.parse import urlsplit

import pytest

from medfinder.embed import Embedder
from medfinder.search.finder import Finder
from medfinder.serve.config import ServeConfig
from stubs.served import serving

BODY = json.dumps({"text": "nodule"}).encode()
HEAD = b"Host: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
QUERY = b"POST /v1/search HTTP/1.1\r\n" + HEAD % len(BODY) + BODY
UPLOAD = (
    b"POST /v1/search/volume HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n"
    b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + bytes(1000)
)
# What a client may hold open: what it has sent, and whether the first byte is awaited.
HELD = {
    "a connection without a request": b"",
    "a connection that is kept alive": b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "half a request's head": b"GET /health HTTP/1.1\r\nHost: 127.",
    "half a request's body": b"POST /v1/search HTTP/1.1\r\n" + HEAD % 1000 + BODY,
    "half an upload": UPLOAD,
    "answers that are not read": b"GET /v1/openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 400,
}


def connected(url):
    address = urlsplit(url)
    client = socket.create_connection((address.hostname, address.port), timeout=60)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    return contextlib.closing(client)


def until_closed(client):
    """Read until the other side has ended the connection; fails by the socket's timeout."""
    read = b""
    with contextlib.suppress(ConnectionError):
        while part := client.recv(2**16):
            read += part
    return read


class Slow:
    """An encoder of texts that computes until it is let go."""

    def __init__(self, encoder):
        self.info = encoder.info
        self.encoder = encoder
        self.begun, self.go = threading.Event(), threading.Event()

    def encode_texts(self, texts):
        self.begun.set()
        self.go.wait(300)
        return self.encoder.encode_texts(texts)


@pytest.fixture
def slow(finder):
    encoder = Slow(finder._encoders["report"].encoder)
    yield encoder
    encoder.go.set()


@pytest.fixture
def slow_finder(finder, slow):
    return Finder(finder.index, {**finder._encoders, "report": Embedder(slow)})


@pytest.mark.parametrize("held", HELD)
def test_it_stops_whatever_a_client_holds_open(finder, held):
    with serving(finder, config=ServeConfig(stop_s=1)) as served, connected(served.url) as client:
        client.sendall(HELD[held])
        time.sleep(0.2)
        assert served.stop() < 15
        until_closed(client)


def test_a_search_in_work_is_finished_first(slow_finder, slow):
    config = ServeConfig(stop_s=50)
    with serving(slow_finder, config=config) as served, connected(served.url) as client:
        client.sendall(QUERY)
        assert slow.begun.wait(30)
        threading.Timer(0.3, slow.go.set).start()
        assert served.stop() < 40
        answer = client.recv(2**16)
    assert answer.startswith(b"HTTP/1.1 200")
    assert served.is_done is True


def test_a_search_that_goes_on_is_left_behind(slow_finder, slow):
    config = ServeConfig(stop_s=1)
    with serving(slow_finder, config=config) as served, connected(served.url) as client:
        client.sendall(QUERY)
        assert slow.begun.wait(30)
        assert served.stop() < 15
        head, _, body = until_closed(client).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503")
    assert json.loads(body)["error"]["type"] == "Stopped"
    assert served.is_done is False


def test_two_services_are_stopped_one_by_one(finder):
    with serving(finder) as first:
        with serving(finder):
            pass
        with connected(first.url) as client:
            client.sendall(HELD["a connection that is kept alive"])
            assert client.recv(100).startswith(b"HTTP/1.1 200")


# The real command, with an encoder that never comes to an end.
COMMAND = """
import sys, time
from dataclasses import replace
from medfinder.cli.app import main
from medfinder.model.encoder import EncoderEntry, EncoderInfo, encoders

class Endless:
    info = EncoderInfo("bag", frozenset({"text"}), 256, "1", "none", "tests", "nothing")
    def encode_texts(self, texts):
        print("in work", file=sys.stderr, flush=True)
        time.sleep(3600)

encoders.register("bag")(EncoderEntry(Endless.info, Endless))
sys.argv = ["medfinder", "serve", sys.argv[1], "--port", "0"]
main()
"""
# The same service with an event loop that never comes back.
STUCK = """
import sys, time
from medfinder.serve.app import serve
from medfinder.serve.config import ServeConfig
from medfinder.serve.service import Service

def check_index(self):
    print("in work", file=sys.stderr, flush=True)
    while True:
        time.sleep(1)

Service.check_index = check_index
serve(sys.argv[1], port=0, config=ServeConfig(stop_s=0))
"""


@contextlib.contextmanager
def running(code, index):
    """Run a service as a process with a search in work, and connections as a browser has them."""
    command = [sys.executable, "-c", code, str(index)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        url = re.search(r"MedFinder is at (http://127\.0\.0\.1:\d+/)", process.stderr.readline())[1]
        assert "in work" in process.stderr.readline()
        with contextlib.ExitStack() as stack:
            for sent in (QUERY, *HELD.values()):
                stack.enter_context(connected(url)).sendall(sent)
            time.sleep(0.3)
            yield process
    finally:
        process.kill()
        process.communicate()


def test_the_command_stops_by_either_signal_with_a_search_in_work(index_folder):
    with running(COMMAND, index_folder) as first, running(COMMAND, index_folder) as second:
        first.send_signal(signal.SIGINT)
        second.send_signal(signal.SIGTERM)
        _, talk = first.communicate(timeout=40)
        assert first.returncode == 0
        assert "what was still in work was ended" in talk
        assert "Traceback" not in talk
        second.communicate(timeout=40)
        assert second.returncode == -signal.SIGTERM


def test_a_second_interrupt_stops_the_command_at_once(index_folder):
    with running(COMMAND, index_folder) as process:
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        process.communicate(timeout=40)
        assert process.returncode == 0
        assert time.monotonic() - started < 8


def test_a_process_whose_event_loop_is_stuck_is_ended(index_folder):
    with running(STUCK, index_folder) as process:
        process.send_signal(signal.SIGTERM)
        _, talk = process.communicate(timeout=40)
    assert process.returncode == 128 + signal.SIGTERM
    assert "did not stop in time" in talk
