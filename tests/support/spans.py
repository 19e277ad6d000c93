"""Spans that a test keeps in memory, and the tree they make."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from expertmesh.tracing.export import tracing_to
from expertmesh.tracing.otel import OpenTelemetryTracer


@dataclass(frozen=True)
class Kept:
    """A tracer and the spans that it has ended."""

    tracer: OpenTelemetryTracer
    exporter: InMemorySpanExporter = field(repr=False)

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        return self.exporter.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        return sorted((span for span in self.spans if span.name == name), key=lambda span: span.start_time)


@contextmanager
def keeping(sample_ratio: float = 1.0, service: str = "test") -> Iterator[Kept]:
    exporter = InMemorySpanExporter()
    with tracing_to(SimpleSpanProcessor(exporter), sample_ratio, service) as tracer:
        yield Kept(tracer, exporter)


def trace_ids(spans: Sequence[ReadableSpan]) -> set[int]:
    return {span.context.trace_id for span in spans}


def children(span: ReadableSpan, spans: Sequence[ReadableSpan]) -> list[ReadableSpan]:
    found = [other for other in spans if other.parent and other.parent.span_id == span.context.span_id]
    return sorted(found, key=lambda child: child.start_time)


def linked(span: ReadableSpan) -> list[int]:
    return [link.context.span_id for link in span.links]
