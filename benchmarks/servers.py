"""Expert servers for benchmarks: real ones in processes of their own, with experts made on the spot."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import torch

from expertmesh.discovery.endpoints import StaticDiscovery
from expertmesh.expert.server import ExpertServerConfig, running
from expertmesh.expert.store import ExpertStore
from expertmesh.gateway.pool import ReplicaPool
from expertmesh.kernels.backend import GroupedFFN
from expertmesh.wire.info import ServerInfo

FINGERPRINT = "benchmark"


@contextmanager
def server_process(script: str, *arguments: object) -> Iterator[str]:
    """Run ``script`` with arguments that make it a server; yields the address that it prints."""
    command = [sys.executable, script, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


async def serve_layer(layer: GroupedFFN, experts: Sequence[int], num_experts: int, hidden_size: int) -> None:
    """Serve one layer of experts on a free port, print the address, and run until killed."""
    store = ExpertStore([layer], experts, num_experts, hidden_size, torch.device("cpu"))
    info = ServerInfo(
        fingerprint=FINGERPRINT,
        experts=tuple(experts),
        num_experts=num_experts,
        num_layers=1,
        hidden_size=hidden_size,
        weight_format="made for a benchmark",
        backend="cpu",
        device="cpu",
        weight_bytes=layer.num_bytes,
        version="0",
        isa="",
        deterministic=False,
    )
    async with running(ExpertServerConfig(Path(), "127.0.0.1:0"), store, info) as server:
        print(server.address, flush=True)
        await asyncio.Event().wait()


@asynccontextmanager
async def connected_pool(endpoints: frozenset[str], num_experts: int) -> AsyncIterator[ReplicaPool]:
    """Connect to the servers; yields the pool once every expert has a replica."""
    pool = ReplicaPool(StaticDiscovery(endpoints), FINGERPRINT)
    task = asyncio.create_task(pool.run())
    try:
        await pool.wait_until(lambda: not pool.missing(num_experts))
        yield pool
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
