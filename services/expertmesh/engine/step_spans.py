"""The spans of a step and of its layers. Knows chunks and layers, not where spans go or who asks for them.

A step is one piece of work for several requests. Its layers and calls are recorded once, under the oldest sampled
request in it; every other sampled request gets a span for the step too, with a link to that one.
"""

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch

from expertmesh.engine.scheduler import Chunk
from expertmesh.model.experts import Experts, LayerCall, Pending
from expertmesh.tracing.tracer import Span, Tracer, UnwantedError, ending


def trace_step(tracer: Tracer, chunks: Seq[Chunk]) -> AbstractContextManager[str]:
    """Trace the body as a step; yields the traceparent for what it does, empty when no request in it is sampled."""
    if not tracer.is_on:
        return nullcontext("")
    requests = [traceparent for chunk in chunks if (traceparent := chunk.sequence.request.traceparent)]
    return _step(tracer, list(dict.fromkeys(requests)), chunks) if requests else nullcontext("")


@contextmanager
def _step(tracer: Tracer, requests: Seq[str], chunks: Seq[Chunk]) -> Iterator[str]:
    oldest, *others = requests
    attributes = {
        "expertmesh.num_sequences": len(chunks),
        "expertmesh.num_rows": sum(chunk.num_rows for chunk in chunks),
    }
    with ExitStack() as spans:
        step = spans.enter_context(ending(tracer.start("step", oldest, attributes, links=others)))
        for request in others:
            spans.enter_context(ending(tracer.start("step", request, attributes, links=[step.traceparent])))
        yield step.traceparent


class TracedExperts:
    """Experts, wherever they run, with a span under ``step`` for each layer."""

    def __init__(self, experts: Experts, tracer: Tracer, step: str) -> None:
        self._experts = experts
        self._tracer = tracer
        self._step = step

    def begin(self, call: LayerCall) -> "TracedCall":
        """Ask the experts within a span."""
        attributes = {"expertmesh.layer": call.layer, "expertmesh.num_rows": len(call.hidden)}
        span = self._tracer.start("layer dispatch", call.traceparent or self._step, attributes)
        try:
            return TracedCall(self._experts.begin(replace(call, traceparent=span.traceparent)), span)
        except BaseException as error:
            span.end(error)
            raise


@dataclass(frozen=True)
class TracedCall:
    """Rows on their way, and the span that ends when they are back."""

    pending: Pending
    span: Span

    def finish(self) -> torch.Tensor:
        """Wait for the rows."""
        with ending(self.span):
            return self.pending.finish()

    def abandon(self) -> None:
        """Want them no more, which the span says."""
        self.pending.abandon()
        self.span.end(UnwantedError("another part of the step failed"))
