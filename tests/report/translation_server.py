"""A chat endpoint on loopback whose mistakes are planned, for tests and the benchmark."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[str, int], str]
"""Spanish and how often it was asked for, from 1 → English."""
Fault = Callable[["Server", BaseHTTPRequestHandler, list[dict[str, Any]]], bool]
"""Answers a request itself and returns True, or leaves it."""


class Server:
    """What a running endpoint saw, and what it does.

    Attributes:
        requests: The body of every request, in order.
        asked: Every report asked for, in order.
        answer: Translates a report.
        fault: Spoils a request, or does not.
    """

    def __init__(self, answer: Answer, fault: Fault | None = None) -> None:
        self.answer, self.fault = answer, fault
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.asked: list[str] = []
        self.lock = threading.Lock()
        self.under_way = self.most_under_way = 0
        self.url = ""

    def reply(self, handler: BaseHTTPRequestHandler, content: str, **choice: Any) -> None:
        body = {"choices": [{"message": {"role": "assistant", "content": content}, **choice}]}
        self.send(handler, 200, json.dumps(body).encode())

    def send(
        self,
        handler: BaseHTTPRequestHandler,
        status: int,
        body: bytes,
        headers: dict[str, str] | None = None,
    ) -> None:
        handler.send_response(status)
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self.lock:
            self.requests.append(body)
            self.headers.append(dict(handler.headers))
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            reports = json.loads(body["messages"][1]["content"])["reports"]
            if self.fault is not None and self.fault(self, handler, reports):
                return
            made = []
            for report in reports:
                with self.lock:
                    self.asked.append(report["text"])
                    n = self.asked.count(report["text"])
                made.append({"id": report["id"], "text": self.answer(report["text"], n)})
            self.reply(handler, json.dumps({"translations": made}))
        finally:
            with self.lock:
                self.under_way -= 1


@contextmanager
def serving(answer: Answer, fault: Fault | None = None) -> Iterator[Server]:
    """Run an endpoint on a free port of loopback."""
    server = Server(answer, fault)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            try:
                server.handle(self)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    server.url = f"http://127.0.0.1:{http.server_address[1]}/v1"
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
