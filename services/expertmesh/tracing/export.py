"""Spans on their way out, over OTLP, from a thread of their own. Knows OpenTelemetry's SDK, not what is traced."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from expertmesh.tracing.otel import OpenTelemetryTracer

# A token of a large model has hundreds of spans; what does not fit is dropped.
MAX_QUEUED_SPANS = 16384
# A collector that is away must not hold up the end of a process for long.
TIMEOUT_SECONDS = 5.0


@contextmanager
def exporting(endpoint: str, sample_ratio: float, service: str) -> Iterator[OpenTelemetryTracer]:
    """Trace to the OTLP ``endpoint``, a URL as in ``TraceConfig``; after the body, send what is left."""
    processor = BatchSpanProcessor(_open_exporter(endpoint), max_queue_size=MAX_QUEUED_SPANS)
    with tracing_to(processor, sample_ratio, service) as tracer:
        yield tracer


@contextmanager
def tracing_to(processor: SpanProcessor, sample_ratio: float, service: str) -> Iterator[OpenTelemetryTracer]:
    """Trace to ``processor``, and shut it down after the body."""
    provider = TracerProvider(
        sampler=ParentBased(TraceIdRatioBased(sample_ratio)),
        resource=Resource.create({SERVICE_NAME: service, SERVICE_VERSION: version("expertmesh")}),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(processor)
    try:
        yield OpenTelemetryTracer(provider.get_tracer("expertmesh", version("expertmesh")))
    finally:
        provider.shutdown()


def _open_exporter(endpoint: str) -> SpanExporter:
    scheme, _, rest = endpoint.partition("://")
    if scheme.startswith("grpc"):
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

        return GrpcExporter(endpoint=rest.strip("/"), insecure=scheme == "grpc", timeout=TIMEOUT_SECONDS)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

    host, _, path = rest.partition("/")
    return HttpExporter(endpoint=f"{scheme}://{host}/{path or 'v1/traces'}", timeout=TIMEOUT_SECONDS)
