"""A mesh in this process: real expert servers, engine and gateway, with gRPC and a Unix socket between them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expertmesh.client import AsyncClient, Sampling
from expertmesh.discovery.endpoints import Discovery, StaticDiscovery
from expertmesh.engine.blocks import BlockPool
from expertmesh.engine.scheduler import Scheduler
from expertmesh.expert import process as expert_process
from expertmesh.expert.config import ExpertServerConfig
from expertmesh.gateway.assembly import Core
from expertmesh.gateway.background import background
from expertmesh.gateway.config import GatewayConfig
from expertmesh.gateway.engine_process import computing
from expertmesh.gateway.http.http_server import HttpServer
from expertmesh.gateway.key_ring import KeyRing
from expertmesh.gateway.link.client import EngineClient
from expertmesh.gateway.link.host import EngineHost
from expertmesh.gateway.loaded_model import load_model
from expertmesh.gateway.metrics.exposition import Metrics
from expertmesh.gateway.process import serving
from expertmesh.gateway.text_files import read_text_files
from expertmesh.kernels.cpu import CpuBackend
from expertmesh.mesh.pool import ReplicaPool
from expertmesh.rpc.server import RpcServer
from expertmesh.rpc.socket_directory import socket_directory
from expertmesh.settings.tls import ClientTls, ServerTls
from expertmesh.tracing.tracer import NullTracer, Tracer

QUARTERS = ((0, 1), (2, 3), (4, 5), (6, 7))


def cache_bytes(num_blocks: int, isa: str) -> int:
    """Bytes of a KV cache of so many blocks for the small random models, with the activations that suit ``isa``."""
    value_bytes = CpuBackend(isa=isa).activation_dtype.itemsize
    return num_blocks * 16 * 2 * 2 * 2 * 32 * value_bytes  # tokens x (key, value) x layers x heads x width


def silent(done: int, total: int) -> None:
    pass


@dataclass(frozen=True)
class Gateway:
    """Both halves of a gateway: what serves clients, and the engine behind the socket."""

    engine: EngineClient
    core: Core
    server: RpcServer
    http: HttpServer | None
    metrics: Metrics

    @property
    def scheduler(self) -> Scheduler:
        """What waits and runs."""
        return self.core.state.scheduler

    @property
    def blocks(self) -> BlockPool:
        """Blocks of the KV cache."""
        return self.core.state.blocks

    @property
    def pool(self) -> ReplicaPool | None:
        """Replicas of the experts; None where these live in the engine."""
        return self.core.state.pool


@dataclass
class Mesh:
    """A running gateway, a client of it, and a way to stop each expert server."""

    gateway: Gateway
    client: AsyncClient
    experts: list[AsyncExitStack]

    async def ids(self, prompt: Sequence[int], **sampling: Any) -> list[int]:
        """Generate from token ids and return the new ids."""
        pieces = self.client.generate(prompt, Sampling(**sampling))
        return [token_id async for piece in pieces for token_id in piece.token_ids]


async def start_expert(
    directory: Path,
    experts: Sequence[int],
    listen: str = "127.0.0.1:0",
    backend: str = "cpu",
    tracer: Tracer = NullTracer(),
    **config: Any,
) -> tuple[AsyncExitStack, str]:
    """Start an expert server; returns what stops it, and its address."""
    settings = ExpertServerConfig(
        directory, listen, tuple(experts), backend=backend, device="cpu", drain_seconds=0.2, **config
    )
    store, info, _ = expert_process.load_store(settings, silent)
    stack = AsyncExitStack()
    running = await stack.enter_async_context(expert_process.running(settings, store, info, tracer))
    return stack, running.address


@asynccontextmanager
async def run_mesh(
    directory: Path,
    hosts: Sequence[Sequence[int]] | None = QUARTERS,
    extra: Sequence[str] = (),
    discovery: Discovery | None = None,
    backend: str = "cpu",
    isa: str = "auto",
    tracer: Tracer = NullTracer(),
    expert_tracer: Tracer = NullTracer(),
    expert_tls: ServerTls = ServerTls(),
    client_tls: ClientTls = ClientTls(),
    **config: Any,
) -> AsyncIterator[Mesh]:
    """Serve a checkpoint with an expert server for each of ``hosts``, or with local experts where it is None.

    ``discovery`` replaces the list of these servers and of ``extra`` addresses; ``config`` are further fields of
    ``GatewayConfig``.
    """
    async with AsyncExitStack() as stack:
        experts = [
            await start_expert(directory, hosted, backend=backend, isa=isa, tracer=expert_tracer, tls=expert_tls)
            for hosted in hosts or ()
        ]
        for stop, _ in experts:
            stack.push_async_callback(stop.aclose)
        addresses = frozenset([address for _, address in experts] + list(extra))
        settings = GatewayConfig(
            model=directory,
            listen="127.0.0.1:0",
            discovery=None if hosts is None else discovery or StaticDiscovery(addresses),
            backend=backend,
            device="cpu",
            isa=isa,
            **{"http_listen": None, "drain_seconds": 1.0, **config},
        )
        gateway = await stack.enter_async_context(run_gateway(settings, tracer))
        async with asyncio.timeout(20):
            while not gateway.server.is_serving:
                await asyncio.sleep(0.001)
        client = await stack.enter_async_context(AsyncClient(gateway.server.address, tls=client_tls))
        yield Mesh(gateway, client, [stop for stop, _ in experts])


@asynccontextmanager
async def run_gateway(settings: GatewayConfig, tracer: Tracer = NullTracer()) -> AsyncIterator[Gateway]:
    """Run an engine and what serves its clients, in this process."""
    model, host, client = load_model(settings, silent), EngineHost(), EngineClient()
    ring = KeyRing(settings.api_keys, settings.api_key_file)
    async with AsyncExitStack() as stack:
        socket = str(stack.enter_context(socket_directory()) / "engine")
        await stack.enter_async_context(host.listening(socket))
        engine = await stack.enter_async_context(computing(host, settings, model, tracer))
        await stack.enter_async_context(background(client.run(socket)))
        front = await stack.enter_async_context(serving(settings, read_text_files(settings), ring, client, tracer))
        yield Gateway(client, engine.core, front.server, front.http, front.metrics)
