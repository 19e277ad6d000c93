"""Spans made with OpenTelemetry's API. Knows how it names things, not where spans go."""

from collections.abc import Iterable

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Status, StatusCode, get_current_span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from expertmesh.tracing.tracer import Attributes, SpanKind

TRACEPARENT = "traceparent"
KINDS = {
    SpanKind.INTERNAL: trace.SpanKind.INTERNAL,
    SpanKind.SERVER: trace.SpanKind.SERVER,
    SpanKind.CLIENT: trace.SpanKind.CLIENT,
}
PROPAGATOR = TraceContextTextMapPropagator()


class OpenTelemetrySpan:
    """A span that may be sampled."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        self.traceparent = _encode(span) if span.is_recording() else ""

    def end(self, error: BaseException | None = None, at_ns: int | None = None) -> None:
        """See ``Span``."""
        if error is not None:
            self._span.set_status(Status(StatusCode.ERROR, str(error) or type(error).__name__))
            self._span.set_attribute("error.type", type(error).__name__)
        self._span.end(at_ns)


class OpenTelemetryTracer:
    """Makes spans with ``tracer``, whose sampler decides about new traces."""

    is_on = True

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    def start(
        self,
        name: str,
        parent: str,
        attributes: Attributes,
        kind: SpanKind = SpanKind.INTERNAL,
        links: Iterable[str] = (),
        at_ns: int | None = None,
    ) -> OpenTelemetrySpan:
        """See ``Tracer``."""
        return OpenTelemetrySpan(
            self._tracer.start_span(
                name,
                context=_decode(parent),
                kind=KINDS[kind],
                attributes={key: _plain(value) for key, value in attributes.items()},
                links=[Link(get_current_span(_decode(link)).get_span_context()) for link in links],
                start_time=at_ns,
            )
        )


def _encode(span: trace.Span) -> str:
    carrier: dict[str, str] = {}
    PROPAGATOR.inject(carrier, set_span_in_context(span, Context()))
    return carrier[TRACEPARENT]


def _decode(traceparent: str) -> Context:
    # An empty context, not the current one: what a span stands under is always said.
    return PROPAGATOR.extract({TRACEPARENT: traceparent}, Context())


def _plain(value: str | int | Iterable[int]) -> str | int | list[int]:
    return value if isinstance(value, str | int) else list(value)
