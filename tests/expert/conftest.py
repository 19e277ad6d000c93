"""A small mixture of experts, and an expert server around it in this process with a real client."""

import threading
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from expertmesh.expert.batcher import Batcher
from expertmesh.expert.config import ExpertServerConfig
from expertmesh.expert.executor import Executor
from expertmesh.expert.job import CallJob
from expertmesh.expert.observer import NullCallObserver
from expertmesh.expert.process import running
from expertmesh.expert.store import ExpertStore
from expertmesh.kernels.moe import run_chosen
from expertmesh.rpc.channels import open_channel
from expertmesh.rpc.metadata import FINGERPRINT_KEY
from expertmesh.v1 import expert_pb2_grpc
from expertmesh.wire.calls import ExpertCall, decode_response, encode_request
from expertmesh.wire.info import ServerInfo

NUM_LAYERS, NUM_EXPERTS, HIDDEN, WIDTH = 3, 8, 16, 24
FINGERPRINT = "f00d"


class SwiGLU:
    """Experts of one layer in plain torch; runs in the dtype of its rows."""

    def __init__(self, num_slots, generator):
        self.weights = [torch.randn(3, WIDTH, HIDDEN, generator=generator) * 0.3 for _ in range(num_slots)]
        self.num_bytes = 4 * 3 * WIDTH * HIDDEN * num_slots

    def __call__(self, x, num_rows, row_weights):
        outputs = []
        for weights, rows in zip(self.weights, x.split(list(num_rows)), strict=True):
            gate, up, down = weights.to(x.dtype)
            outputs.append((torch.nn.functional.silu(rows @ gate.T) * (rows @ up.T)) @ down)
        return torch.cat(outputs).float() * row_weights[:, None]


class Held:
    """Another layer behind a door: says when a launch has begun, runs it when let through, and counts its rows."""

    def __init__(self, ffn):
        self.ffn, self.num_bytes = ffn, ffn.num_bytes
        self.entered, self.door, self.launches = threading.Semaphore(0), threading.Semaphore(0), []

    def __call__(self, x, num_rows, row_weights):
        self.launches.append(x.shape[0])
        self.entered.release()
        assert self.door.acquire(timeout=30)
        return self.ffn(x, num_rows, row_weights)


class Raising:
    """Another layer that breaks as a whole when one of its rows is too large for it."""

    def __init__(self, ffn):
        self.ffn, self.num_bytes = ffn, ffn.num_bytes

    def __call__(self, x, num_rows, row_weights):
        if (x > 100).any():
            raise RuntimeError("illegal memory access")
        return self.ffn(x, num_rows, row_weights)


def make_store(experts=range(NUM_EXPERTS), wrap=lambda ffn: ffn):
    generator = torch.Generator().manual_seed(7)
    layers = [wrap(SwiGLU(len(experts), generator)) for _ in range(NUM_LAYERS)]
    return ExpertStore(layers, experts, NUM_EXPERTS, HIDDEN, torch.device("cpu"))


def make_call(num_rows=2, layer=0, seed=0, dtype=torch.float32, experts=range(NUM_EXPERTS), timeout_seconds=None):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(num_rows, HIDDEN, generator=generator).to(dtype)
    choices = torch.rand(num_rows, len(experts), generator=generator).argsort(dim=1)[:, :2]
    topk_ids = torch.tensor(list(experts), dtype=torch.int32)[choices].numpy()
    topk_weights = torch.rand(num_rows, 2, generator=generator).numpy()
    return ExpertCall(layer, hidden, topk_ids, topk_weights, timeout_seconds)


def run_direct(store, call):
    slots = store.slots_of(call.topk_ids)
    return run_chosen(store.layers[call.layer], len(store.experts), call.hidden, slots, call.topk_weights)


def run_queued(store, calls, observer=NullCallObserver(), max_batch_rows=64):
    """Outcomes, in the order of ``calls``, of calls that all wait when the executor's thread gets its turn."""
    batcher, outcomes = Batcher(max_batch_rows, 1000), {}
    batcher.submit(CallJob(calls[0], print))  # has the turn meanwhile
    with Executor(store, batcher, 100, observer) as executor:
        for number, call in enumerate(calls):
            executor.submit(CallJob(call, partial(outcomes.__setitem__, number)))
        executor._turns.put(batcher.release())
    return [outcomes[number] for number in range(len(calls))]


def make_info(store):
    sizes = (NUM_EXPERTS, NUM_LAYERS, HIDDEN)
    kernels = "torch", "cpu", store.weight_bytes
    return ServerInfo(FINGERPRINT, store.experts, *sizes, "float32", *kernels, "0.0.1", "", False)


def make_config(**options):
    return ExpertServerConfig(Path("unused"), listen="127.0.0.1:0", **options)


class Client:
    """The plainest client there is: write calls, read (id, outcome) pairs."""

    def __init__(self, channel, server, fingerprint=FINGERPRINT):
        self.channel, self.server, self.batcher = channel, server, server.batcher
        self.stub = expert_pb2_grpc.ExpertServiceStub(channel)
        self.stream = self.stub.Dispatch(metadata=((FINGERPRINT_KEY, fingerprint),))

    async def send(self, request_id, call):
        await self.stream.write(encode_request(request_id, call))

    async def receive(self):
        response = await self.stream.read()
        return response.request_id, decode_response(response)

    async def ask(self, call, request_id=1):
        await self.send(request_id, call)
        received_id, outcome = await self.receive()
        assert received_id == request_id
        return outcome


@asynccontextmanager
async def serving(store, **options):
    """Serve ``store`` and yield a client with an open stream."""
    config = make_config(**options)
    async with (
        running(config, store, make_info(store)) as server,
        open_channel(server.address) as channel,
    ):
        client = Client(channel, server)
        yield client
        client.stream.cancel()


@pytest.fixture
def mesh():
    """The helpers of this file, for tests that cannot import it."""
    names = (SwiGLU, Held, Raising, Client, make_store, make_call, make_info, make_config, run_direct, run_queued)
    return SimpleNamespace(**{helper.__name__: helper for helper in (*names, serving)})
