"""The spans of calls as an expert server sees them, made once they are answered. Knows times, not what was computed."""

import time
from collections.abc import Sequence

from expertmesh.expert.job import CallJob, Outcome
from expertmesh.expert.observer import CallObserver
from expertmesh.tracing.tracer import SpanKind, Tracer
from expertmesh.wire.calls import ExpertResult
from expertmesh.wire.failures import CallFailure

_NS_PER_SECOND = 1_000_000_000


class TracedCalls:
    """An observer of calls that makes the spans of the sampled ones, beside another observer."""

    def __init__(self, observer: CallObserver, tracer: Tracer) -> None:
        self._observer = observer
        self._tracer = tracer

    def refused(self, failure: CallFailure) -> None:
        """Pass it on; the caller's span says the same."""
        self._observer.refused(failure)

    def answered(self, answers: Sequence[tuple[CallJob, Outcome]]) -> None:
        """Pass them on, and make their spans."""
        self._observer.answered(answers)
        if not self._tracer.is_on:
            return
        for job, outcome in answers:
            if job.call.traceparent:
                _record(self._tracer, job, outcome, len(answers))


def _record(tracer: Tracer, job: CallJob, outcome: Outcome, num_calls: int) -> None:
    # Jobs carry times of a clock that is never set; spans want those of the wall.
    arrived_ns = time.time_ns() - int((time.monotonic() - job.arrived) * _NS_PER_SECOND)
    attributes = {
        "expertmesh.layer": job.call.layer,
        "expertmesh.num_rows": job.num_rows,
        "expertmesh.num_calls": num_calls,
    }
    span = tracer.start("expert call", job.call.traceparent, attributes, SpanKind.SERVER, at_ns=arrived_ns)
    if isinstance(outcome, CallFailure):
        span.end(outcome)
    else:
        span.end(at_ns=_record_times(tracer, span.traceparent, arrived_ns, outcome))


def _record_times(tracer: Tracer, parent: str, arrived_ns: int, result: ExpertResult) -> int:
    """Make the spans of the wait and of the kernels; returns when they ended."""
    started_ns = arrived_ns + int(result.queue_seconds * _NS_PER_SECOND)
    ended_ns = started_ns + int(result.compute_seconds * _NS_PER_SECOND)
    tracer.start("queue", parent, {}, at_ns=arrived_ns).end(at_ns=started_ns)
    tracer.start("kernel", parent, {}, at_ns=started_ns).end(at_ns=ended_ns)
    return ended_ns
