"""A real PACS on loopback, and a proxy before it that fails as PACSs do."""

import json
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

BINARY = shutil.which("Orthanc", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
PLUGIN = next(
    (
        path
        for folder in ("/usr/share/orthanc/plugins", "/usr/lib/orthanc", "/usr/local/share/orthanc")
        for path in Path(folder).glob("libOrthancDicomWeb.so*")
    ),
    None,
)
# Loopback is asked directly, whatever proxy the environment names.
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Orthanc:
    """A running server: its addresses, and a way to put files into it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.root = f"http://127.0.0.1:{port}"
        self.url = f"{self.root}/dicom-web"

    def upload(self, *files: Path) -> None:
        for file in files:
            request = urllib.request.Request(f"{self.root}/instances", file.read_bytes())
            with _direct.open(request, timeout=30) as response:
                response.read()


@contextmanager
def orthanc(folder: Path, users: dict[str, str] | None = None) -> Iterator[Orthanc]:
    """Start Orthanc with its storage in `folder`, and stop it."""
    assert BINARY
    assert PLUGIN
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {
        "Name": "test",
        "StorageDirectory": str(folder),
        "IndexDirectory": str(folder),
        "HttpPort": port,
        "RemoteAccessAllowed": False,
        "DicomServerEnabled": False,
        "AuthenticationEnabled": bool(users),
        "RegisteredUsers": users or {},
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "EnableWado": False},
    }
    config = folder / "orthanc.json"
    config.write_text(json.dumps(settings))
    process = subprocess.Popen(
        [BINARY, str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        server = Orthanc(port)
        for _ in range(200):
            try:
                _direct.open(f"{server.root}/system", timeout=5).close()
                break
            except urllib.error.HTTPError:  # it asks for a password: it is there
                break
            except OSError:
                assert process.poll() is None, "Orthanc did not start"
                time.sleep(0.05)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Handler(BaseHTTPRequestHandler):
    """Hands a request to the proxy's fault, or forwards it."""

    protocol_version = "HTTP/1.1"
    server: "Proxy"

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.close_connection = True
        if not self.server.fault(self):
            self.forward()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def forward(self, cut: int | None = None, honest: bool = True, pause_s: float = 0.0) -> None:
        """Send Orthanc's answer, or its first `cut` bytes and then nothing.

        Without `honest` the length is not announced, so that only the form tells of the cut. The
        connection is closed after `pause_s`.
        """
        headers = {
            k: v for k, v in self.headers.items() if k.lower() in ("accept", "authorization")
        }
        request = urllib.request.Request(self.server.to + self.path, headers=headers)
        try:
            with _direct.open(request, timeout=30) as response:
                status, body = response.status, response.read()
                kind = response.headers.get("Content-Type", "")
        except urllib.error.HTTPError as error:
            with error:
                status, body, kind = error.code, error.read(), "text/plain"
        self.answer(status, body, kind, cut=cut, honest=honest)
        self.wfile.flush()
        time.sleep(pause_s)

    def answer(
        self,
        status: int,
        body: bytes = b"",
        kind: str = "text/html",
        *,
        cut: int | None = None,
        honest: bool = True,
        **headers: str,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if honest:
            self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body[:cut])


class Proxy(ThreadingHTTPServer):
    """Forwards to a server; `fault` is asked first and returns whether it answered itself."""

    daemon_threads = True

    def __init__(self, to: str = "") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.to = to
        self.asked: list[str] = []
        self.fault: Callable[[Handler], bool] = lambda handler: False
        self.root = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that went away


@contextmanager
def proxy(to: str = "") -> Iterator[Proxy]:
    """Start a proxy, and stop it."""
    server = Proxy(to)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
