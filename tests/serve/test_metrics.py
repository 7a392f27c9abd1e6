"""What is counted, and that nothing of a query or a study is in it."""

import re
import subprocess
import sys

import pytest
from fastapi.testclient import TestClient

from medfinder.serve.app import create_app
from medfinder.serve.metrics import shared_counts


def counts(client):
    """Return name with labels → value."""
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    lines = [line for line in answer.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def of(found, name, **labels):
    """Return the value whose labels are these, in any order."""
    for key, value in found.items():
        if key.partition("{")[0] == name and dict(re.findall(r'(\w+)="([^"]*)"', key)) == labels:
            return value
    return None


def test_requests_are_counted_by_route_and_status(client):
    client.post("/v1/search", json={"text": "nodule"})
    client.post("/v1/search", json={"text": "nodule"})
    client.post("/v1/search", json={})
    found = counts(client)
    search = {"method": "POST", "route": "/v1/search"}
    assert of(found, "medfinder_requests_total", **search, status="200") == 2
    assert of(found, "medfinder_requests_total", **search, status="422") == 1
    assert of(found, "medfinder_request_seconds_count", **search) == 3
    assert of(found, "medfinder_request_seconds_sum", **search) > 0


def test_two_applications_count_apart(finder):
    with TestClient(create_app(finder)) as one, TestClient(create_app(finder)) as other:
        one.get("/health")
        assert of(counts(other), "medfinder_requests_total",
                  method="GET", route="/health", status="200") is None  # fmt: skip


def test_caches_lanes_uploads_and_the_index_are_told(client):
    for _ in range(2):
        client.get("/v1/studies/study-0/slices/axial/3.png")
    found = counts(client)
    assert of(found, "medfinder_cache_requests_total", cache="drawn", result="hit") == 1
    assert of(found, "medfinder_cache_requests_total", cache="drawn", result="miss") == 1
    assert of(found, "medfinder_cache_requests_total", cache="pixels", result="miss") == 1
    assert of(found, "medfinder_cache_bytes", cache="pixels") == 24 * 48 * 64 * 2
    assert of(found, "medfinder_cache_bytes", cache="drawn") > 100
    assert of(found, "medfinder_index_studies") == 6
    assert of(found, "medfinder_uploads_in_work") == 0
    assert of(found, "medfinder_lane_waiting", lane="words") == 0
    index = client.app.state.service.finder.index
    for stream, model_id in index.model_ids.items():
        assert of(found, "medfinder_index_model", stream=stream, model_id=model_id) == 1


def test_no_id_text_or_unknown_address_becomes_a_label(client):
    client.get("/v1/studies/study-3")
    client.get("/v1/studies/Haversham/slices/axial/1.png")
    client.post("/v1/search", json={"text": "Haversham"})
    for i in range(5):
        client.get(f"/no/such/place/{i}")
        client.request(f"METHOD{i}", "/health")
    text = client.get("/metrics").text
    assert "Haversham" not in text
    assert "study-3" not in text
    assert "such" not in text
    assert "METHOD" not in text
    assert 'method="OTHER"' in text


def test_counts_are_given_while_there_is_no_index(client):
    client.app.state.service.is_lost = True
    assert of(counts(client), "medfinder_uploads_in_work") == 0


# A worker: its counts go to files that another process adds up.
COUNT = """
import sys
from medfinder.serve.metrics import Metrics
counts = Metrics()
for _ in range(int(sys.argv[1])):
    counts.count("GET", "/health", 200, 0.01)
    counts.cache("pixels", True)
counts.uploads.set(1)
print(counts.text().decode())
"""


@pytest.mark.parametrize("n", [3])
def test_what_several_processes_counted_is_added_up(n):
    with shared_counts() as folder:
        for times in (2, n):
            done = subprocess.run(
                [sys.executable, "-c", COUNT, str(times)],
                capture_output=True,
                text=True,
                check=True,
            )
        assert any(folder.iterdir())
    total = f'medfinder_requests_total{{method="GET",route="/health",status="200"}} {2.0 + n}'
    assert total in done.stdout
    assert not folder.exists()
