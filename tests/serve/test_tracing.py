"""Requests become spans, with nothing of what was asked in them."""

import http.server
import threading

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from medfinder.errors import ConfigError
from medfinder.serve.config import TracingConfig
from medfinder.serve.tracing import Tracing


@pytest.fixture
def spans(client):
    """What was traced so far, by name."""
    exporter = InMemorySpanExporter()
    client.app.state.service.tracing = Tracing(exporter=exporter)
    return lambda: {span.name: span for span in exporter.get_finished_spans()}


def test_a_request_is_a_span_with_what_it_waited_for_inside(client, spans):
    client.post("/v1/search", json={"text": "nodule"})
    found = spans()
    request = found["POST /v1/search"]
    assert dict(request.attributes) == {
        "http.request.method": "POST",
        "http.route": "/v1/search",
        "http.response.status_code": 200,
    }
    assert found["words"].parent.span_id == request.context.span_id
    assert request.resource.attributes["service.name"] == "medfinder"


def test_a_span_holds_no_id_no_text_and_no_address(client, spans):
    client.get("/v1/studies/study-0/slices/axial/3.png?window=lung")
    client.get("/v1/studies/Haversham")
    client.post("/v1/search", json={"text": "Haversham"})
    client.get("/nothing/Haversham")
    told = "".join(span.to_json() for span in spans().values())
    assert "GET /v1/studies/{study_id}/slices/{plane}/{index}.png" in told
    for hidden in ("study-0", "Haversham", "lung", "testclient", "testserver"):
        assert hidden not in told


def test_a_failure_is_marked_without_its_text(client, spans):
    def fail(*args, **kwargs):
        raise ValueError("Haversham")

    client.app.state.service.finder.search = fail
    assert client.post("/v1/search", json={"text": "a"}).status_code == 500
    span = spans()["POST /v1/search"]
    assert span.status.status_code == StatusCode.ERROR
    assert "Haversham" not in "".join(s.to_json() for s in spans().values())


def test_the_callers_trace_is_gone_on_with(client, spans):
    trace = "0af7651916cd43dd8448eb211c80319c"
    client.get("/health", headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"})
    span = spans()["GET /health"]
    assert f"{span.context.trace_id:032x}" == trace
    assert f"{span.parent.span_id:016x}" == "b7ad6b7169203331"


def test_a_broken_trace_of_a_caller_is_ignored(client, spans):
    assert client.get("/health", headers={"traceparent": "00-xyz"}).status_code == 200
    assert spans()["GET /health"].parent is None


def test_no_span_is_made_where_no_request_is_to_be_traced(client):
    exporter = InMemorySpanExporter()
    client.app.state.service.tracing = Tracing(TracingConfig(share=0), exporter)
    client.get("/health")
    assert exporter.get_finished_spans() == ()


def test_an_endpoint_that_is_no_address_is_refused():
    with pytest.raises(ConfigError, match="expected http://"):
        Tracing(TracingConfig(endpoint="collector:4318"))


def test_spans_reach_a_collector(client):
    received = []

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            received.append((self.path, body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        endpoint = f"http://127.0.0.1:{server.server_port}/"
        client.app.state.service.tracing = tracing = Tracing(TracingConfig(endpoint=endpoint))
        client.get("/health")
        tracing.close()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    (path, body) = received[0]
    assert path == "/v1/traces"
    assert b"GET /health" in body
