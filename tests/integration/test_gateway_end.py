"""A gateway process that loses its experts, and one whose time to drain is over: what probes and clients are told."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from http_serving import MODEL
from server_processes import ServerProcess, started
from waiting import SECONDS, wait_until

from expertmesh.rpc.sockets import free_port
from expertmesh.v1 import generation_pb2, generation_pb2_grpc

TOO_LATE = "the time that it had for running requests is over"
LONG = {"max_tokens": 400, "ignore_eos": True}
LONG_TGI = {
    "inputs": "Hello",
    "parameters": {"max_new_tokens": 400, "do_sample": True, "temperature": 10.0, "seed": 1},  # 176 tokens
}
NUMBERS = {"type": "array", "minItems": 100, "items": {"type": "integer"}}
STREAMS = {
    "/v1/completions": {"prompt": "Hello", "stream": True, **LONG},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hello"}], "stream": True, **LONG},
    "/v1/responses": {
        "input": "Hello",
        "stream": True,
        "max_output_tokens": 400,
        "text": {"format": {"type": "json_schema", "name": "numbers", "schema": NUMBERS}},
    },
    "/generate_stream": LONG_TGI,
}
# Those that are no streams.
WHOLE = {
    "/v1/completions": {"prompt": "Hello", **LONG},
    "/generate": LONG_TGI,
}


class Mesh:
    """A gateway process and its only expert server, which takes its time: answers are long under way."""

    def __init__(self, gateway: ServerProcess, grpc_address: str, expert: ServerProcess) -> None:
        self.gateway = gateway
        self.grpc_address = grpc_address
        self.expert = expert


@pytest.fixture
def mesh(tmp_path) -> Iterator[Mesh]:
    grpc_address = f"127.0.0.1:{free_port()}"
    model = ("--model", str(MODEL))
    with ExitStack() as stack:
        expert = stack.enter_context(
            started(tmp_path, "expert", *model, "--experts", "0-7", "--chaos-delay", "0.2", listen="--listen")
        )
        flags = ("--experts", expert.address, "--listen", grpc_address, "--drain-seconds", "0")
        gateway = stack.enter_context(started(tmp_path, "gateway", *model, *flags, listen="--http-listen"))
        assert gateway.wait_for("/ready", 200) == {"status": "ready"}
        yield Mesh(gateway, grpc_address, expert)


def read_events(url: str, path: str, body: dict, has_begun: threading.Barrier) -> list[str]:
    """Data of all events of a stream; ``has_begun`` hears of the first."""
    with httpx.Client(base_url=url, timeout=4 * SECONDS) as client, client.stream("POST", path, json=body) as reply:
        assert reply.status_code == 200, reply.read()
        lines = (line for line in reply.iter_lines() if line.startswith("data:"))
        events = [next(lines)]
        has_begun.wait(4 * SECONDS)
        events += lines
    return [event.removeprefix("data:").strip() for event in events]


def read_grpc(address: str, has_begun: threading.Barrier) -> grpc.RpcError:
    """How a stream over gRPC ends."""
    request = generation_pb2.GenerateRequest(text="Hello", sampling={"max_tokens": 400, "ignore_eos": True})
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as ended:
        answer = iter(generation_pb2_grpc.GenerationServiceStub(channel).Generate(request))
        next(answer)
        has_begun.wait(4 * SECONDS)
        for _ in answer:
            pass
    return ended.value


def error_in(event: dict) -> str:
    """The message of an error in the shape of any of the APIs."""
    error = event["response"]["error"] if "response" in event else event["error"]
    return error if isinstance(error, str) else error["message"]


def test_a_drain_that_runs_out_ends_every_answer_in_words(mesh):
    # From then on answers wait for an expert, and cannot end by themselves.
    has_begun = threading.Barrier(len(STREAMS) + 2, mesh.expert.kill)
    url = mesh.gateway.url
    with ThreadPoolExecutor(16) as threads:
        whole = {path: threads.submit(httpx.post, url + path, json=WHOLE[path], timeout=4 * SECONDS) for path in WHOLE}
        wait_until(lambda: num_running(mesh) == len(WHOLE))
        streams = {path: threads.submit(read_events, url, path, STREAMS[path], has_begun) for path in STREAMS}
        rpc = threads.submit(read_grpc, mesh.grpc_address, has_begun)
        has_begun.wait(4 * SECONDS)
        assert mesh.gateway.terminate() == 0, mesh.gateway.log.read_text()
        for path, stream in streams.items():
            assert TOO_LATE in error_in(json.loads(stream.result()[-1])), path
        for path, reply in whole.items():
            assert (reply.result().status_code, reply.result().headers["Retry-After"]) == (503, "1"), path
            assert TOO_LATE in error_in(reply.result().json())
        assert rpc.result().code() is grpc.StatusCode.UNAVAILABLE
        assert TOO_LATE in rpc.result().details()


def num_running(mesh: Mesh) -> int:
    text = httpx.get(f"{mesh.gateway.url}/metrics", timeout=SECONDS).text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return int(float(values["expertmesh_running_requests"]) + float(values["expertmesh_waiting_requests"]))


def test_an_expert_without_a_replica_is_named_and_requests_are_still_taken(mesh):
    mesh.expert.kill()
    body = mesh.gateway.wait_for("/ready", 503)
    assert body == {"status": "not ready", "missing_experts": list(range(8))}
    assert mesh.gateway.get("/health") == (200, {"status": "ok"})
    with grpc.insecure_channel(mesh.grpc_address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)

        def ask(service: str) -> str:
            status = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=SECONDS).status
            return health_pb2.HealthCheckResponse.ServingStatus.Name(status)

        wait_until(lambda: ask("") == "NOT_SERVING")
        assert [ask(service) for service in ("readiness", "liveness")] == ["SERVING", "SERVING"]
        assert ask("expertmesh.v1.GenerationService") == "NOT_SERVING"
