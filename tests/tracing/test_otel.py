import pytest
from opentelemetry.trace import SpanKind as OtelKind
from opentelemetry.trace import StatusCode
from spans import keeping, linked

from expertmesh.tracing.tracer import SpanKind, ending

INCOMING = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"


def test_a_child_names_its_parent_and_carries_its_trace():
    with keeping() as kept:
        parent = kept.tracer.start("parent", "", {}, SpanKind.SERVER)
        kept.tracer.start("child", parent.traceparent, {"rows": 2, "experts": (0, 3), "at": "here"}).end()
        parent.end()
    child, root = kept.spans
    assert parent.traceparent.startswith(f"00-{root.context.trace_id:032x}-{root.context.span_id:016x}-0")
    assert (child.parent.span_id, child.context.trace_id) == (root.context.span_id, root.context.trace_id)
    assert dict(child.attributes) == {"rows": 2, "experts": (0, 3), "at": "here"}
    assert (root.kind, child.kind) == (OtelKind.SERVER, OtelKind.INTERNAL)


@pytest.mark.parametrize(("flags", "ratio", "is_sampled"), [("01", 0.0, True), ("00", 1.0, False)])
def test_the_decision_of_the_caller_stands(flags, ratio, is_sampled):
    with keeping(ratio) as kept:
        span = kept.tracer.start("work", f"{INCOMING}-{flags}", {})
        span.end()
    assert bool(span.traceparent) is bool(kept.spans) is is_sampled
    assert all(f"{kept.context.trace_id:032x}" in INCOMING for kept in kept.spans)


@pytest.mark.parametrize("ratio", [0.0, 1.0])
@pytest.mark.parametrize("parent", ["", "nonsense", "00-0-0-01", f"{INCOMING}-01-more", "00-" + 32 * "0" + "-1-01"])
def test_what_cannot_be_read_begins_a_new_trace(parent, ratio):
    with keeping(ratio) as kept:
        kept.tracer.start("work", parent, {}).end()
    assert [span.parent for span in kept.spans] == [None] * int(ratio)


def test_times_can_be_told_afterwards():
    with keeping() as kept:
        kept.tracer.start("work", "", {}, at_ns=1_000).end(at_ns=3_000)
    [span] = kept.spans
    assert (span.start_time, span.end_time) == (1_000, 3_000)


def test_links_name_other_spans():
    with keeping() as kept:
        first = kept.tracer.start("first", "", {})
        kept.tracer.start("second", "", {}, links=[first.traceparent]).end()
        first.end()
    second, first = kept.spans
    assert linked(second) == [first.context.span_id]
    assert linked(first) == []


def test_an_error_is_noted_and_goes_on():
    with keeping() as kept, pytest.raises(ValueError, match="broken"), ending(kept.tracer.start("work", "", {})):
        raise ValueError("broken")
    [span] = kept.spans
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "broken")
    assert span.attributes == {"error.type": "ValueError"}
