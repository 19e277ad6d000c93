"""Spans of what is done for a request, as the rest of the program sees them. Knows no OpenTelemetry.

A span is named by its ``traceparent`` (W3C Trace Context, version 00), which travels to whatever works under it. An
empty one means that the request is not sampled: then nobody below makes spans.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from typing import Protocol

Attributes = Mapping[str, str | int | Iterable[int]]


class SpanKind(Enum):
    """Which side of a call a span describes."""

    INTERNAL = "internal"
    SERVER = "server"
    CLIENT = "client"


class Span(Protocol):
    """A piece of work that has begun."""

    @property
    def traceparent(self) -> str:
        """Its name for what works under it; empty when it is not sampled."""
        ...

    def end(self, error: BaseException | None = None, at_ns: int | None = None) -> None:
        """Note the end, now or ``at_ns`` nanoseconds after the epoch, and what it failed with."""
        ...


class Tracer(Protocol):
    """Where spans are made."""

    @property
    def is_on(self) -> bool:
        """Whether any span can be sampled."""
        ...

    def start(
        self,
        name: str,
        parent: str,
        attributes: Attributes,
        kind: SpanKind = SpanKind.INTERNAL,
        links: Iterable[str] = (),
        at_ns: int | None = None,
    ) -> Span:
        """Begin a span under the traceparent ``parent``, now or ``at_ns`` nanoseconds after the epoch.

        It is sampled if its parent is. Without a parent that can be read a new trace begins, which is sampled at the
        tracer's ratio. ``links`` are traceparents of other spans that have to do with it.
        """
        ...


class UnwantedError(Exception):
    """What a span says of work that nobody wanted to the end; it is not raised."""


@contextmanager
def ending(span: Span) -> Iterator[Span]:
    """End ``span`` after the body, with its error if there is one."""
    try:
        yield span
    except BaseException as error:
        span.end(error)
        raise
    span.end()


class NullSpan:
    """A span that is not sampled."""

    traceparent = ""

    def end(self, error: BaseException | None = None, at_ns: int | None = None) -> None:
        """Do nothing."""


class NullTracer:
    """Samples nothing."""

    is_on = False

    def start(
        self,
        name: str,
        parent: str,
        attributes: Attributes,
        kind: SpanKind = SpanKind.INTERNAL,
        links: Iterable[str] = (),
        at_ns: int | None = None,
    ) -> Span:
        """Return a span that is not sampled."""
        return NullSpan()
