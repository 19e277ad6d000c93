"""An expert process from start to end: load, serve, drain. Knows the order of things, not how each is done."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from typing import NamedTuple

import torch
from prometheus_client import CollectorRegistry

from expertmesh.checkpoint.fingerprint import fingerprint
from expertmesh.checkpoint.reader import Checkpoint
from expertmesh.checkpoint.verify import verify_experts
from expertmesh.errors import ComputeError, ConfigError
from expertmesh.expert.batcher import Batcher
from expertmesh.expert.budget import CallBudget, row_bytes
from expertmesh.expert.call_spans import TracedCalls
from expertmesh.expert.chaos import DelayedExecutor
from expertmesh.expert.config import ExpertServerConfig
from expertmesh.expert.executor import Executor
from expertmesh.expert.job import CallJob
from expertmesh.expert.link_host import LinkHost
from expertmesh.expert.metrics import ExpertMetrics
from expertmesh.expert.metrics_server import metrics_server
from expertmesh.expert.servicer import SERVICE_NAME, ExpertService
from expertmesh.expert.static_calls import StaticCalls
from expertmesh.expert.store import ExpertStore, OnLayer
from expertmesh.kernels import cuda_devices
from expertmesh.model.backends import log_backend, open_backend
from expertmesh.model.cuda_graphs import CudaGraphs, log_recording, needing_memory
from expertmesh.rpc.allocator import give_back_freed_memory, keep_freed_memory
from expertmesh.rpc.channels import MAX_MESSAGE_BYTES
from expertmesh.rpc.server import RpcServer
from expertmesh.rpc.signals import wait_for_shutdown
from expertmesh.rpc.tls import open_server
from expertmesh.rpc.unary_turns import UnaryTurns
from expertmesh.tracing.config import open_tracer
from expertmesh.tracing.tracer import NullTracer, Tracer
from expertmesh.v1 import expert_pb2_grpc
from expertmesh.wire.info import ServerInfo

_log = logging.getLogger(__name__)

# A caller has one or two, and probes come and go.
MAX_RPCS = 256
# The largest take tens of MiB before anybody can refuse them, and simple clients have one at a time.
MAX_FORWARDS = 2


class LoadedStore(NamedTuple):
    """What a server serves, what it says of itself, and the calls that were recorded, if any."""

    store: ExpertStore
    info: ServerInfo
    static_calls: StaticCalls | None


@dataclass(frozen=True)
class RunningServer:
    """What can be asked of a server that runs: its address and that of its metrics (host:port), and how much waits.

    ``lost`` gets an error when its GPU can be used no more.
    """

    address: str
    batcher: Batcher[CallJob]
    metrics_address: str | None
    lost: "asyncio.Future[Exception]"


async def serve(
    config: ExpertServerConfig,
    on_layer: OnLayer = lambda done, total: None,
    on_ready: Callable[[str], None] = lambda address: None,
) -> None:
    """Load, serve until SIGTERM or SIGINT, drain; ComputeError when a GPU was lost, which only a new process can use.

    ``on_layer(done, total)`` follows the loading, from another thread; ``on_ready(address)`` says it serves.
    """
    open_server(config.tls)  # which comes with the rest once weights are loaded
    give_back_freed_memory()
    loaded = await asyncio.to_thread(load_store, config, on_layer)
    keep_freed_memory()
    with open_tracer(config.trace, "expertmesh-expert") as tracer:
        await _serve_store(config, loaded, tracer, on_ready)


async def _serve_store(
    config: ExpertServerConfig, loaded: LoadedStore, tracer: Tracer, on_ready: Callable[[str], None]
) -> None:
    info = loaded.info
    async with running(config, loaded.store, info, tracer, loaded.static_calls) as server:
        _log.info("READY: experts %s of model %s on %s", list(info.experts), info.fingerprint, server.address)
        on_ready(server.address)
        reason = await _end_of(server)
        _log.info("%s: draining for at most %g s", reason, config.drain_seconds)
    if server.lost.done():
        raise ComputeError(f"the GPU cannot be used any more by this process: {server.lost.result()}")


async def _end_of(server: RunningServer) -> str:
    """Wait for what ends a server, and say what it is."""
    signalled = asyncio.create_task(wait_for_shutdown())
    try:
        await asyncio.wait((signalled, server.lost), return_when=asyncio.FIRST_COMPLETED)
        return signalled.result().name if signalled.done() else "GPU lost"
    finally:
        signalled.cancel()


def load_store(config: ExpertServerConfig, on_layer: OnLayer) -> LoadedStore:
    """Read the hosted experts and describe the server; CheckpointError or ConfigError when that cannot be."""
    checkpoint = Checkpoint.open(config.model, config.round_to_bits)
    model = checkpoint.model
    backend = open_backend(config.backend, config.device, config.isa)
    log_backend(backend)
    experts = range(model.num_experts) if config.experts is None else config.experts
    try:
        store = ExpertStore.load(checkpoint.on(backend.device), model, experts, backend, on_layer)
    except ValueError as error:
        raise ConfigError(f"backend {backend.name} cannot run the experts of {config.model}: {error}") from error
    cuda_devices.give_back_spare()
    digests = verify_experts(checkpoint, store.experts) if config.verifies_weights else ()
    info = ServerInfo(
        fingerprint=fingerprint(checkpoint),
        experts=store.experts,
        num_experts=store.num_experts,
        num_layers=len(store.layers),
        hidden_size=store.hidden_size,
        weight_format=checkpoint.weight_format,
        backend=backend.name,
        device=str(store.device),
        weight_bytes=store.weight_bytes,
        version=version("expertmesh"),
        isa=backend.isa,
        deterministic=backend.is_deterministic,
        expert_digests=digests,
    )
    return LoadedStore(store, info, _record_calls(config, store, model.num_experts_per_token, backend.activation_dtype))


def _record_calls(
    config: ExpertServerConfig, store: ExpertStore, num_chosen: int, dtype: torch.dtype
) -> StaticCalls | None:
    """Record calls as CUDA graphs, where there is a GPU and it is wanted."""
    if store.device.type != "cuda" or not (config.cuda_graphs and store.is_on_device):
        return None
    max_rows = min(config.cuda_graphs, config.max_batch_rows)
    with needing_memory("a smaller --cuda-graphs, or fewer --experts,"):
        return StaticCalls(
            store,
            num_chosen,
            dtype,
            max_rows,
            CudaGraphs(store.device),
            log_recording,
        )


@asynccontextmanager
async def running(
    config: ExpertServerConfig,
    store: ExpertStore,
    info: ServerInfo,
    tracer: Tracer = NullTracer(),
    static_calls: StaticCalls | None = None,
) -> AsyncIterator[RunningServer]:
    """Serve ``store`` inside the ``async with``, which yields it; then answer what is in flight and stop."""
    batcher: Batcher[CallJob] = Batcher(config.max_batch_rows, config.max_queue_rows)
    registry = CollectorRegistry()
    metrics = ExpertMetrics(registry, info, lambda: batcher.num_waiting_rows)
    max_rows = max_call_rows(config, store.hidden_size)
    loop = asyncio.get_running_loop()
    lost: asyncio.Future[Exception] = loop.create_future()

    def lose(error: Exception) -> None:
        loop.call_soon_threadsafe(_resolve, lost, error)

    executor = Executor(store, batcher, max_rows, TracedCalls(metrics, tracer), static_calls, lose)
    runner = DelayedExecutor(executor, config.chaos_delay_seconds) if config.chaos_delay_seconds else executor
    tls = open_server(config.tls)
    budget = CallBudget(max_held_bytes(config, store))
    links = LinkHost(runner, budget, config.listen, tls)
    servicer = ExpertService(runner, budget, links, info)
    turns = UnaryTurns(f"/{SERVICE_NAME}/Forward", MAX_FORWARDS)
    server = RpcServer(config.listen, [turns], max_rpcs=MAX_RPCS, tls=tls, health_address=config.health_listen)
    server.register(SERVICE_NAME, expert_pb2_grpc.add_ExpertServiceServicer_to_server, servicer)
    scraped = metrics_server(config.metrics_listen, registry) if config.metrics_listen else nullcontext()
    with scraped as metrics_address, executor, links:
        try:
            await server.start()
            yield RunningServer(server.address, batcher, metrics_address, lost)
        finally:
            await _drain(server, servicer, config.drain_seconds)


def _resolve(lost: "asyncio.Future[Exception]", error: Exception) -> None:
    if not lost.done():
        lost.set_result(error)


async def _drain(server: RpcServer, servicer: ExpertService, grace_seconds: float) -> None:
    await server.set_serving(False)
    servicer.drain()
    await server.drain(grace_seconds)


def max_held_bytes(config: ExpertServerConfig, store: ExpertStore) -> int:
    """Bytes that calls and answers may take at once: those that wait, and as many as run together."""
    return (config.max_queue_rows + config.max_batch_rows) * row_bytes(store.hidden_size, store.max_choices)


def max_call_rows(config: ExpertServerConfig, hidden_size: int) -> int:
    """Rows that a call may have: what a launch and the queue take, and what one message can answer in float32."""
    envelope_bytes = 4096
    answer_rows = (MAX_MESSAGE_BYTES - envelope_bytes) // (4 * hidden_size)
    return min(config.max_batch_rows, config.max_queue_rows, answer_rows)
