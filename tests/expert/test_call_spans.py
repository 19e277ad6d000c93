import time

import pytest
from opentelemetry.trace import StatusCode
from spans import children, keeping

from expertmesh.expert.call_spans import TracedCalls
from expertmesh.expert.job import CallJob
from expertmesh.expert.observer import NullCallObserver
from expertmesh.tracing.tracer import NullTracer, Tracer
from expertmesh.wire.calls import ExpertCall, ExpertResult
from expertmesh.wire.failures import CallFailure, FailureCode

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"


def traced(tracer: Tracer) -> TracedCalls:
    return TracedCalls(NullCallObserver(), tracer)


@pytest.fixture
def make_job(mesh):
    def make(traceparent: str) -> CallJob:
        call = mesh.make_call(3)
        call = ExpertCall(call.layer, call.hidden, call.topk_ids, call.topk_weights, traceparent=traceparent)
        return CallJob(call, lambda outcome: None, arrived=time.monotonic() - 10)

    return make


def test_times_lie_one_after_the_other_from_the_arrival(make_job):
    job = make_job(f"{PARENT}-01")
    with keeping(0.0) as kept:
        now = time.time_ns()
        traced(kept.tracer).answered([(job, ExpertResult(job.call.hidden, queue_seconds=2.0, compute_seconds=3.0))])
    [call] = kept.named("expert call")
    queue, kernel = children(call, kept.spans)
    assert abs(call.start_time - (now - 10_000_000_000)) < 1_000_000_000
    assert [span.end_time - span.start_time for span in (call, queue, kernel)] == [
        5_000_000_000,
        2_000_000_000,
        3_000_000_000,
    ]
    assert kernel.start_time == queue.end_time
    assert f"{call.parent.span_id:016x}" in PARENT


def test_a_failure_is_an_error_without_times_in_kernels(make_job):
    with keeping(0.0) as kept:
        traced(kept.tracer).answered(
            [(make_job(f"{PARENT}-01"), CallFailure(FailureCode.COMPUTE_FAILED, "not finite"))]
        )
    [call] = kept.spans
    assert call.status.status_code is StatusCode.ERROR
    assert "not finite" in call.status.description


@pytest.mark.parametrize("traceparent", ["", f"{PARENT}-00", "nonsense"])
def test_calls_that_are_not_sampled_leave_no_span(make_job, traceparent):
    job = make_job(traceparent)
    with keeping(0.0) as kept:
        traced(kept.tracer).answered([(job, ExpertResult(job.call.hidden, 0.0, 0.0))])
    assert kept.spans == ()


def test_without_tracing_nothing_is_recorded(make_job):
    job = make_job(f"{PARENT}-01")
    traced(NullTracer()).answered([(job, ExpertResult(job.call.hidden, 0.0, 0.0))])
