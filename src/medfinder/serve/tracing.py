"""Requests → OpenTelemetry spans, where a collector is configured; nothing otherwise.

A span holds the method, the route's template and the status, and what was waited for: never an id,
a query, an address of a client or an error's text.
"""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from starlette.types import Scope

import medfinder
from medfinder.errors import ConfigError, MissingExtra
from medfinder.serve.config import TracingConfig

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

_PIP = "Traces need OpenTelemetry, which is not installed: pip install 'medfinder[otel]'."


class Span:
    """One request's span; this one is of a service that traces nothing."""

    def end(self, method: str, route: str, status: int) -> None:
        """Say what the request was, and how it was answered."""


class Tracing:
    """Where spans go.

    Args:
        config: An empty endpoint traces nothing, unless an exporter is given.
        exporter: Takes the spans in the endpoint's place, at once.

    Raises:
        MissingExtra: OpenTelemetry is not installed.
        ConfigError: The endpoint is no address.
    """

    def __init__(
        self, config: TracingConfig | None = None, exporter: "SpanExporter | None" = None
    ) -> None:
        config = config or TracingConfig()
        self._provider: Any = None
        self._tracer: Any = None
        if exporter is not None or config.endpoint:
            self._provider = _provider(config, exporter)
            self._tracer = self._provider.get_tracer("medfinder", medfinder.__version__)

    @contextlib.contextmanager
    def request(self, scope: Scope) -> Iterator[Span]:
        """Trace one request, as a part of the caller's trace where it names one."""
        if self._tracer is None:
            yield Span()
            return
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        names = ("traceparent", "tracestate")
        carrier = {
            k.decode("latin-1"): v.decode("latin-1")
            for k, v in scope["headers"]
            if k.decode("latin-1") in names
        }
        with self._tracer.start_as_current_span(
            "request",
            context=TraceContextTextMapPropagator().extract(carrier),
            kind=SpanKind.SERVER,
            record_exception=False,  # an error's text may hold a query
            set_status_on_exception=False,
        ) as span:
            yield _Recorded(span)

    @contextlib.contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Trace a part of a request's work; `name` must be one of few."""
        if self._tracer is None:
            yield
            return
        with self._tracer.start_as_current_span(
            name, record_exception=False, set_status_on_exception=False
        ):
            yield

    def close(self) -> None:
        """Send what is left."""
        if self._provider is not None:
            self._provider.shutdown()


class _Recorded(Span):
    def __init__(self, span: Any) -> None:
        self._span = span

    def end(self, method: str, route: str, status: int) -> None:
        from opentelemetry.trace import StatusCode

        self._span.update_name(f"{method} {route}")
        self._span.set_attribute("http.request.method", method)
        self._span.set_attribute("http.route", route)
        if status:
            self._span.set_attribute("http.response.status_code", status)
        if status >= 500 or not status:
            self._span.set_status(StatusCode.ERROR)


def _provider(config: TracingConfig, exporter: "SpanExporter | None") -> Any:
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
    except ImportError:
        raise MissingExtra(_PIP) from None
    resource = Resource.create(
        {"service.name": config.service_name, "service.version": medfinder.__version__}
    )
    provider = TracerProvider(
        resource=resource,
        sampler=ParentBased(TraceIdRatioBased(config.share)),
        shutdown_on_exit=False,
    )
    if exporter is not None:
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        return provider
    if not config.endpoint.startswith(("http://", "https://")):
        raise ConfigError(
            f"The endpoint of traces is {config.endpoint!r}: expected http:// or https://, such as "
            "http://127.0.0.1:4318. Correct tracing.endpoint."
        )
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        raise MissingExtra(_PIP) from None
    address = f"{config.endpoint.rstrip('/')}/v1/traces"
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=address)))
    return provider
