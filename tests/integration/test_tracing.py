"""Traces of requests through a real mesh: gateway and expert servers, each with its own spans in memory."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

import grpc.aio
import httpx
import pytest
from demo_model import MODEL
from integration_mesh import Mesh, run_mesh
from opentelemetry.trace import StatusCode
from spans import Kept, children, keeping, linked, trace_ids

from expertmesh.mesh.dispatch_config import DispatchConfig
from expertmesh.v1 import generation_pb2 as pb
from expertmesh.v1 import generation_pb2_grpc

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
HALVES = ((0, 1, 2, 3), (4, 5, 6, 7))
PROMPT = (1, 5, 9, 13)

NAME = "job 7"


class TracedMesh:
    """A mesh with the spans of the gateway and of its expert servers."""

    def __init__(self, mesh: Mesh, gateway: Kept, experts: Kept) -> None:
        self.mesh = mesh
        self.gateway = gateway
        self.experts = experts

    async def ask(self, traceparent: str | None = None, max_tokens: int = 3) -> None:
        """Generate; as a client that sends ``traceparent``, if any."""
        request = pb.GenerateRequest(token_ids=pb.TokenIds(ids=PROMPT))
        request.sampling.MergeFrom(pb.SamplingParams(max_tokens=max_tokens, ignore_eos=True))
        metadata = (("x-request-id", NAME), *([("traceparent", traceparent)] if traceparent else []))
        async with grpc.aio.insecure_channel(self.mesh.gateway.server.address) as channel:
            stub = generation_pb2_grpc.GenerationServiceStub(channel)
            async for _ in stub.Generate(request, metadata=metadata):
                pass


@asynccontextmanager
async def traced(directory, ratio: float = 1.0, hosts=HALVES, **config) -> AsyncIterator[TracedMesh]:
    """The spans are complete once the mesh is closed."""
    with ExitStack() as stack:
        gateway = stack.enter_context(keeping(ratio, "gateway"))
        experts = stack.enter_context(keeping(0.0, "expert"))
        async with run_mesh(directory, hosts, tracer=gateway.tracer, expert_tracer=experts.tracer, **config) as mesh:
            yield TracedMesh(mesh, gateway, experts)


@pytest.fixture(scope="module")
def directory(make_mixtral):
    return make_mixtral().directory


def run(directory, *asks: dict, ratio: float = 1.0, **config) -> TracedMesh:
    """Ask a mesh for all of ``asks``, arguments of ``TracedMesh.ask``, at the same time."""

    async def main() -> TracedMesh:
        async with traced(directory, ratio, **config) as mesh:
            await asyncio.gather(*(mesh.ask(**ask) for ask in asks))
        return mesh

    return asyncio.run(main())


def test_one_request_is_one_trace_from_the_request_to_the_kernels(directory):
    before = time.time_ns()
    mesh = run(directory, {"max_tokens": 3})
    spans = [*mesh.gateway.spans, *mesh.experts.spans]
    assert len(trace_ids(spans)) == 1
    [request] = mesh.gateway.named("generate")
    assert (request.parent, request.attributes["gen_ai.usage.input_tokens"]) == (None, len(PROMPT))
    assert request.attributes["expertmesh.request_id"] == NAME
    steps = children(request, spans)
    assert [(step.name, step.attributes["expertmesh.num_rows"]) for step in steps] == [
        ("step", len(PROMPT)),
        ("step", 1),
        ("step", 1),
    ]
    for step in steps:
        layers = children(step, spans)
        assert {layer.name for layer in layers} == {"layer dispatch"}
        assert [layer.attributes["expertmesh.layer"] for layer in layers] == list(range(len(layers)))
        for layer in layers:
            calls = children(layer, spans)
            assert {call.name for call in calls} == {"expert rpc"}
            for call in calls:
                [answered] = children(call, spans)
                check_call(call, answered, spans)
    assert len(spans) == len(set(span.context.span_id for span in spans))
    assert all(before <= span.start_time <= span.end_time <= time.time_ns() for span in spans)


def check_call(call, answered, spans) -> None:
    """The server's spans of a call: in the server's own tracer, one after the other, within it."""
    assert answered.name == "expert call"
    assert (answered.resource.attributes["service.name"], call.resource.attributes["service.name"]) == (
        "expert",
        "gateway",
    )
    for name in ("expertmesh.layer", "expertmesh.num_rows"):
        assert answered.attributes[name] == call.attributes[name]
    queue, kernel = children(answered, spans)
    assert (queue.name, kernel.name) == ("queue", "kernel")
    assert answered.start_time == queue.start_time
    assert queue.end_time == kernel.start_time
    assert kernel.end_time == answered.end_time


def test_a_request_that_is_not_sampled_leaves_no_span(directory):
    mesh = run(directory, {}, ratio=0.0)
    assert (*mesh.gateway.spans, *mesh.experts.spans) == ()


@pytest.mark.parametrize(("flags", "ratio"), [("01", 0.0), ("00", 1.0)])
def test_a_traceparent_decides_and_is_continued(directory, flags, ratio):
    mesh = run(directory, {"traceparent": f"00-{TRACE}-{CALLER}-{flags}"}, ratio=ratio)
    spans = [*mesh.gateway.spans, *mesh.experts.spans]
    assert trace_ids(spans) == ({int(TRACE, 16)} if flags == "01" else set())
    assert [f"{span.parent.span_id:016x}" for span in mesh.gateway.named("generate")] == [CALLER] * int(flags)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": list(PROMPT), "max_tokens": 2}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, "stream": True}),
        ("/generate", {"inputs": "Hi", "parameters": {"max_new_tokens": 2}}),
    ],
)
@pytest.mark.parametrize("flags", ["00", "01"])
def test_requests_over_http_follow_their_caller_too(path, body, flags):
    async def main() -> TracedMesh:
        async with traced(MODEL, ratio=1.0 - int(flags), http_listen="127.0.0.1:0") as mesh:
            url = f"http://{mesh.mesh.gateway.http.address}"
            headers = {"traceparent": f"00-{TRACE}-{CALLER}-{flags}", "x-request-id": NAME}
            async with httpx.AsyncClient(base_url=url, headers=headers) as http:
                (await http.post(path, json=body)).raise_for_status()
        return mesh

    mesh = asyncio.run(main())
    assert trace_ids(mesh.experts.spans) == ({int(TRACE, 16)} if flags == "01" else set())
    requests = mesh.gateway.named("generate")
    assert [f"{span.parent.span_id:016x}" for span in requests] == [CALLER] * int(flags)
    assert all(span.attributes["expertmesh.request_id"] == NAME for span in requests)


def test_requests_of_one_step_share_its_work_by_links(directory):
    mesh = run(directory, {"max_tokens": 12}, {"max_tokens": 12})
    spans = [*mesh.gateway.spans, *mesh.experts.spans]
    by_id = {span.context.span_id: span for span in spans}
    assert len(trace_ids(mesh.gateway.named("generate"))) == 2
    shared = [step for step in mesh.gateway.named("step") if step.attributes["expertmesh.num_sequences"] == 2]
    assert shared
    working = [step for step in shared if children(step, spans)]
    linking = [step for step in shared if not children(step, spans)]
    assert [linked(step) for step in linking] == [[step.context.span_id] for step in working]
    assert [[by_id[link].name for link in linked(step)] for step in working] == [["generate"]] * len(working)
    assert all(trace_ids([one]) != trace_ids([other]) for one, other in zip(linking, working, strict=True))


def test_only_the_sampled_one_of_two_requests_is_traced(directory):
    mesh = run(directory, {"traceparent": f"00-{TRACE}-{CALLER}-01"}, {}, ratio=0.0)
    assert trace_ids(mesh.gateway.spans) == trace_ids(mesh.experts.spans) == {int(TRACE, 16)}
    assert len(mesh.gateway.named("step")) == 3


def test_local_experts_have_layers_and_no_calls(directory):
    mesh = run(directory, {"max_tokens": 1}, hosts=None)
    assert {span.name for span in mesh.gateway.spans} == {"generate", "step", "layer dispatch"}


def test_parts_of_a_step_are_traced_under_it(directory):
    mesh = run(directory, {"max_tokens": 4}, {"max_tokens": 4}, num_micro_batches=2)
    for step in mesh.gateway.named("step"):
        layers = children(step, mesh.gateway.spans)
        num_parts = step.attributes["expertmesh.num_sequences"]
        assert not layers or len({layer.attributes["expertmesh.layer"] for layer in layers}) * num_parts == len(layers)


def test_what_fails_is_an_error_in_every_span_above_it(directory):
    async def main() -> TracedMesh:
        async with traced(directory, dispatch=DispatchConfig(wait_seconds=0.1)) as mesh:
            for stop in mesh.mesh.experts:
                await stop.aclose()
            with pytest.raises(grpc.aio.AioRpcError):
                await mesh.ask()
        return mesh

    mesh = asyncio.run(main())
    failed = {span.name for span in mesh.gateway.spans if span.status.status_code is StatusCode.ERROR}
    assert failed >= {"generate", "step", "layer dispatch"}
