"""Requests made from the OpenAPI, good and bad: no 5xx but "busy", and answers as they are described.

`schemathesis` makes them, a bounded number an operation; what it finds is shrunk and printed as curl.
"""

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from medfinder.search.finder import Finder
from medfinder.serve.app import create_app
from medfinder.serve.config import IngestConfig, ServeConfig
from serve.conftest import ENCODERS

CHECKS = [
    not_a_server_error,
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
]
BOUNDS = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
# Signing in is bounded by attempts, and its own tests try what is wrong with it.
LEFT_OUT = ("/v1/session/oidc", "/v1/session/oidc/callback")


@pytest.fixture(scope="module")
def api(shared_index, tmp_path_factory):
    """The schema of the application, over an index that no request may change."""
    store = tmp_path_factory.mktemp("store")
    config = ServeConfig(ingest=IngestConfig(folder=str(store), max_jobs=1))
    app = create_app(Finder(shared_index, ENCODERS), config)
    with TestClient(app, base_url="http://127.0.0.1"):
        yield schemathesis.openapi.from_asgi("/v1/openapi.json", app)


def test_no_request_makes_the_service_fail(api):
    asked, failures = 0, []
    for found in api.get_all_operations():
        operation = found.ok()
        if operation.path in LEFT_OUT:
            continue

        @given(case=operation.as_strategy())
        @BOUNDS
        def ask(case):
            nonlocal asked
            asked += 1
            response = case.call(headers={"host": "127.0.0.1"})
            if response.status_code == 503:  # busy, and says so
                assert "retry-after" in response.headers, "503 without Retry-After"
                return
            case.validate_response(response, checks=CHECKS)

        try:
            ask()
        except (Exception, BaseExceptionGroup) as error:  # all that is wrong is told at once
            failures.append(f"{operation.label}: {error}")
    assert not failures, "\n\n".join(failures)
    assert asked > 200
