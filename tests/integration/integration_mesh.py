"""A mesh in this process: real expert servers and a real gateway on free ports, with gRPC between them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expertmesh.client import AsyncClient, Sampling
from expertmesh.discovery.endpoints import Discovery, StaticDiscovery
from expertmesh.expert import process as expert_process
from expertmesh.expert.process import ExpertServerConfig
from expertmesh.gateway import process as gateway_process
from expertmesh.gateway.config import GatewayConfig
from expertmesh.gateway.loaded_model import load_model
from expertmesh.gateway.process import Gateway
from expertmesh.kernels.cpu import CpuBackend
from expertmesh.tracing.tracer import NullTracer, Tracer

QUARTERS = ((0, 1), (2, 3), (4, 5), (6, 7))


def cache_bytes(num_blocks: int, isa: str) -> int:
    """Bytes of a KV cache of so many blocks for the small random models, with the activations that suit ``isa``."""
    value_bytes = CpuBackend(isa=isa).activation_dtype.itemsize
    return num_blocks * 16 * 2 * 2 * 2 * 32 * value_bytes  # tokens x (key, value) x layers x heads x width


def silent(done: int, total: int) -> None:
    pass


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
    settings = ExpertServerConfig(directory, listen, tuple(experts), backend=backend, drain_seconds=0.2, **config)
    store, info = expert_process.load_store(settings, silent)
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
    **config: Any,
) -> AsyncIterator[Mesh]:
    """Serve a checkpoint with an expert server for each of ``hosts``, or with local experts where it is None.

    ``discovery`` replaces the list of these servers and of ``extra`` addresses; ``config`` are further fields of
    ``GatewayConfig``.
    """
    async with AsyncExitStack() as stack:
        experts = [
            await start_expert(directory, hosted, backend=backend, isa=isa, tracer=expert_tracer)
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
            isa=isa,
            **{"drain_seconds": 1.0, **config},
        )
        gateway = await stack.enter_async_context(
            gateway_process.running(settings, load_model(settings, silent), tracer)
        )
        async with asyncio.timeout(20):
            await gateway.wait_ready()
        client = await stack.enter_async_context(AsyncClient(gateway.server.address))
        yield Mesh(gateway, client, [stop for stop, _ in experts])
