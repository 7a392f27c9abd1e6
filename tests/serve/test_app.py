import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from medfinder.errors import ConfigError, InputError
from medfinder.serve.access.config import AccessConfig
from medfinder.serve.app import _listen, create_app, is_loopback, serve
from medfinder.serve.config import ServeConfig

NOT_JSON = {
    "get_slice", "get_hounsfield_units", "get_volume", "get_document",
    "export_audit", "begin_oidc", "finish_oidc", "export_collection", "follow_job",
}  # fmt: skip


def test_every_answer_is_guarded(client):
    for path in ("/", "/icon.svg", "/v1/status", "/v1/studies/nobody", "/nothing"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert re.fullmatch(r"[0-9a-f]{32}", headers["x-request-id"])
        assert headers["cache-control"]


def test_answers_about_studies_are_not_stored(client):
    assert client.post("/v1/search", json={"text": "a"}).headers["cache-control"] == "no-store"


def test_a_request_id_is_kept_if_it_is_one(client):
    kept = client.get("/health", headers={"x-request-id": "abc-123-def"})
    assert kept.headers["x-request-id"] == "abc-123-def"
    made = client.get("/health", headers={"x-request-id": "a b\tc<script>"})
    assert re.fullmatch(r"[0-9a-f]{32}", made.headers["x-request-id"])


def test_another_host_name_is_refused(client):
    response = client.get("/v1/status", headers={"host": "evil.example:8000"})
    assert response.status_code == 421
    assert response.json()["error"]["hint"]


def test_a_page_of_another_site_is_refused(client):
    headers = {"origin": "https://evil.example"}
    assert client.post("/v1/search", json={"text": "a"}, headers=headers).status_code == 403
    own = {"origin": "http://testserver"}
    assert client.post("/v1/search", json={"text": "a"}, headers=own).status_code == 200


def test_an_unknown_address_is_not_found_in_the_usual_shape(client):
    for path in ("/v1/nothing", "/../app.py", "/%2e%2e/app.py", "/static/app.js"):
        response = client.get(path)
        assert response.status_code == 404
        assert response.json()["error"]["message"]


def test_a_wrong_method_is_told(client):
    response = client.get("/v1/search")
    assert response.status_code == 405
    assert response.json()["error"]["message"] == "Method Not Allowed"


def test_openapi_names_every_operation_with_tags_examples_and_types(client):
    api = client.get("/v1/openapi.json").json()
    operations = {o["operationId"]: o for p in api["paths"].values() for o in p.values()}
    assert {"search", "search_by_volume", "get_study", "get_slice", "get_facets"} <= set(operations)
    for name, operation in operations.items():
        assert operation["tags"], name
        assert operation["summary"], name
        done = next(code for code in operation["responses"] if code[0] in "23")
        content = operation["responses"][done].get("content", {})
        if set(content) == {"application/json"}:
            assert "$ref" in content["application/json"]["schema"], name
        else:  # a file, or somewhere else to go
            assert name in NOT_JSON, name
        assert "4XX" in operation["responses"], name
    assert api["components"]["schemas"]["SearchRequest"]["examples"]
    assert "not a medical device" in api["info"]["description"]
    assert "volume_path" not in json.dumps(api)


@pytest.mark.parametrize(
    ("host", "is_local"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("0.0.0.0", False),
     ("::", False), ("192.168.1.4", False), ("example.org", False), ("127.0.0.1.evil.example", False)],
)  # fmt: skip
def test_only_loopback_is_of_this_machine_alone(host, is_local):
    assert is_loopback(host) is is_local


def test_serving_others_without_an_account_is_refused(own_finder):
    with pytest.raises(
        ConfigError, match=r"medfinder account add \S+\.service\.sqlite NAME"
    ) as error:
        serve(own_finder, host="0.0.0.0", port=0)
    assert error.value.rule == "no-accounts"


def test_access_can_be_required_on_this_machine_too(own_finder):
    config = ServeConfig(access=AccessConfig(mode="required"))
    with pytest.raises(ConfigError, match="Nobody could sign in") as error:
        serve(own_finder, port=0, config=config)
    assert error.value.rule == "no-accounts"


def test_a_port_in_use_is_told(finder):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="cannot listen on port") as error:
            serve(finder, port=taken.getsockname()[1])
    assert error.value.rule == "port"


def test_an_absent_index_is_told(tmp_path):
    with pytest.raises(InputError):
        create_app(tmp_path / "nothing")


def test_it_serves_until_interrupted(index_folder):
    code = f"from medfinder.serve.app import serve; serve({str(index_folder)!r}, port=0)"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    try:
        line = process.stderr.readline()
        url = re.search(r"MedFinder is at (http://127\.0\.0\.1:\d+/)", line)[1]
        with urllib.request.urlopen(f"{url}ready") as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGINT)
        _, talk = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert "Traceback" not in talk


def test_an_answer_does_not_wait_for_fuller_packets():
    with _listen("127.0.0.1", 0) as listener:
        listener.listen()
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
            # By this asyncio knows that it is TCP, and sends at once: else each answer waits 40 ms.
            assert accepted.proto == socket.IPPROTO_TCP
