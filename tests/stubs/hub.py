"""A Hugging Face Hub on this machine: enough of its protocol to upload and to fetch small files."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
API = re.compile(r"/api/models/([^/]+/[^/]+)/(\w+)/([^/]+)")


class Hub:
    """The repositories, and what was asked.

    Attributes:
        commits: Repository -> revision -> file -> bytes; "main" and each commit are revisions.
        asked: (method, path) of every request.
        token: That a request must carry to write, or to read a repository of `private`.
        private: Repositories that need it.
    """

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}
        self.asked: list[tuple[str, str]] = []
        self.token = "hf_of_a_test"
        self.private: set[str] = set()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def put(self, repo: str, files: dict[str, bytes]) -> str:
        """Commit files, and return the commit."""
        revisions = self.commits.setdefault(repo, {})
        whole = {**revisions.get("main", {}), **files}
        commit = hashlib.sha1(repr(sorted(whole.items())).encode()).hexdigest()
        revisions["main"] = revisions[commit] = whole
        return commit

    def _handler(hub) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_HEAD(self) -> None:
                self.get(with_body=False)

            def do_GET(self) -> None:
                self.get(with_body=True)

            def get(self, with_body: bool) -> None:
                hub.asked.append((self.command, self.path))
                found = RESOLVE.fullmatch(self.path.partition("?")[0])
                if found is None:
                    return self.answer(404, {"error": "no such page"})
                repo, revision, file = found.groups()
                if repo not in hub.commits or (repo in hub.private and not self.may()):
                    return self.answer(401, {}, {"X-Error-Code": "RepoNotFound"})
                revisions = hub.commits[repo]
                if revision not in revisions:
                    return self.answer(404, {}, {"X-Error-Code": "RevisionNotFound"})
                if file not in revisions[revision]:
                    return self.answer(404, {}, {"X-Error-Code": "EntryNotFound"})
                content = revisions[revision][file]
                commit = next(
                    c
                    for c, files in revisions.items()
                    if files is revisions[revision] and c != "main"
                )
                self.send_response(200)
                self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
                self.send_header("X-Repo-Commit", commit)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if with_body:
                    self.wfile.write(content)

            def do_POST(self) -> None:
                hub.asked.append((self.command, self.path))
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length) if length else self.chunks()
                if not self.may():
                    return self.answer(403, {"error": "not yours"})
                if self.path == "/api/validate-yaml":
                    return self.answer(200, {"warnings": [], "errors": []})
                if self.path == "/api/repos/create":
                    said = json.loads(body)
                    repo = "/".join(filter(None, (said.get("organization"), said["name"])))
                    hub.commits.setdefault(repo, {})
                    if said.get("private") or said.get("visibility") == "private":
                        hub.private.add(repo)
                    return self.answer(200, {"url": f"{hub.address}/{repo}"})
                found = API.fullmatch(self.path.partition("?")[0])
                if found and found[2] == "preupload":
                    files = [
                        {
                            "path": f["path"],
                            "uploadMode": "regular",
                            "shouldIgnore": False,
                            "oid": None,
                        }
                        for f in json.loads(body)["files"]
                    ]
                    return self.answer(200, {"files": files})
                if found and found[2] == "commit":
                    lines = [json.loads(line) for line in body.splitlines()]
                    files = {
                        line["value"]["path"]: base64.b64decode(line["value"]["content"])
                        for line in lines
                        if line["key"] == "file"
                    }
                    commit = hub.put(found[1], files)
                    address = f"{hub.address}/{found[1]}/commit/{commit}"
                    return self.answer(
                        200, {"commitUrl": address, "commitOid": commit, "success": True}
                    )
                return self.answer(404, {"error": "no such page"})

            def chunks(self) -> bytes:
                whole = b""
                while size := int(self.rfile.readline(), 16):
                    whole += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return whole

            def may(self) -> bool:
                return self.headers.get("Authorization") == f"Bearer {hub.token}"

            def answer(
                self, status: int, said: dict[str, Any], headers: dict[str, str] | None = None
            ) -> None:
                content = json.dumps(said).encode()
                self.send_response(status)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

        return Handler
