"""Expert servers for benchmarks: real ones in processes of their own, with experts made on the spot."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import torch

from expertmesh.discovery.endpoints import StaticDiscovery
from expertmesh.expert.config import ExpertServerConfig
from expertmesh.expert.process import running
from expertmesh.expert.store import ExpertStore
from expertmesh.kernels.backend import GroupedFFN
from expertmesh.mesh.pool import ReplicaPool
from expertmesh.settings.tls import ServerTls
from expertmesh.wire.info import ServerInfo

FINGERPRINT = "benchmark"


@contextmanager
def server_processes(script: str, *servers: Sequence[object]) -> Iterator[list[str]]:
    """Run ``script`` once for each list of arguments, which make it a server; yields the addresses that they print."""
    with ExitStack() as stack:
        # All are started before the first is waited for.
        processes = [stack.enter_context(_running([sys.executable, script, *map(str, args)])) for args in servers]
        yield [_read_address(process) for process in processes]


@contextmanager
def _running(command: Sequence[str]) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def _read_address(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    if not address:
        raise RuntimeError(f"{process.args!r} ended without an address; its output above says why")
    return address


async def serve_layer(
    layer: GroupedFFN, experts: Sequence[int], num_experts: int, hidden_size: int, tls: ServerTls = ServerTls()
) -> None:
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
    async with running(ExpertServerConfig(Path(), "127.0.0.1:0", tls=tls), store, info) as server:
        print(server.address, flush=True)
        await asyncio.Event().wait()


@asynccontextmanager
async def connected_pool(
    endpoints: frozenset[str], num_experts: int, transport: str = "auto"
) -> AsyncIterator[ReplicaPool]:
    """Connect to the servers; yields the pool once every expert has a replica."""
    pool = ReplicaPool(StaticDiscovery(endpoints), FINGERPRINT, transport)
    task = asyncio.create_task(pool.run())
    try:
        await pool.wait_until(lambda: not pool.missing(num_experts))
        yield pool
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
