"""What one dispatch and combine costs beside the kernels, against a bare gRPC echo.

Usage: python benchmarks/rpc_hop.py [--json FILE]

The gateway's dispatcher sends rows of Mixtral's width (4096, bfloat16) to a real expert server in another process,
whose experts return their rows: no kernel time, everything else. The peer is a grpc.aio bidirectional stream to another
process that answers each message with as many bytes as the expert server does (float32 rows). Both are asked in turns.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import grpc.aio
import torch
import uvloop
from report import Row, parse_arguments, show

from expertmesh.discovery.endpoints import StaticDiscovery
from expertmesh.expert.server import ExpertServerConfig, running
from expertmesh.expert.store import ExpertStore
from expertmesh.gateway.dispatcher import DispatchConfig, RemoteExperts
from expertmesh.gateway.pool import ReplicaPool
from expertmesh.rpc.channels import LIMIT_OPTIONS, open_channel
from expertmesh.rpc.memory import keep_freed_memory
from expertmesh.wire.info import ServerInfo

HIDDEN = 4096
CASES = {"8 KiB": (1, 1500), "256 KiB": (32, 300), "4 MiB": (512, 40)}  # rows, repetitions
FINGERPRINT = "benchmark"
ECHO = "/benchmark.Echo/Echo"


class ReturnRows:
    """Experts that cost next to nothing: the rows, scaled."""

    num_bytes = 0

    def __call__(self, x: torch.Tensor, num_rows: Sequence[int], row_weights: torch.Tensor) -> torch.Tensor:
        """See ``GroupedFFN``."""
        return x.float().mul_(row_weights[:, None])


async def serve_experts() -> None:
    """Run a real expert server with two experts that return their rows."""
    store = ExpertStore([ReturnRows()], [0, 1], num_experts=2, hidden_size=HIDDEN, device=torch.device("cpu"))
    info = ServerInfo(FINGERPRINT, (0, 1), 2, 1, HIDDEN, "none", "none", "cpu", 0, "0")
    async with running(ExpertServerConfig(Path(), "127.0.0.1:0"), store, info) as server:
        print(server.address, flush=True)
        await asyncio.Event().wait()


async def serve_echo() -> None:
    """Answer each message with twice its bytes: float32 for bfloat16."""

    async def echo(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        async for request in requests:
            await context.write(request + request)

    server = grpc.aio.server(options=LIMIT_OPTIONS)
    handler = grpc.stream_stream_rpc_method_handler(echo)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("benchmark.Echo", {"Echo": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


async def measure(experts: str, echo: str) -> list[Row]:
    """Time both ways for each size, in turns."""
    pool = ReplicaPool(StaticDiscovery(frozenset({experts})), FINGERPRINT)
    task = asyncio.create_task(pool.run())
    await pool.wait_until(lambda: not pool.missing(2))
    remote = RemoteExperts(pool, DispatchConfig())
    rows = []
    async with open_channel(echo) as channel:
        stream = channel.stream_stream(ECHO)()
        for case, (num_rows, repetitions) in CASES.items():
            hidden = torch.randn(num_rows, HIDDEN, dtype=torch.bfloat16)
            topk_ids = torch.tensor([[0, 1]]).expand(num_rows, 2).contiguous()
            topk_weights = torch.full((num_rows, 2), 0.5)
            message = os.urandom(hidden.nbytes)

            async def hop(hidden=hidden, ids=topk_ids, weights=topk_weights) -> None:
                await remote(0, hidden, ids, weights)

            async def bare(message=message) -> None:
                await stream.write(message)
                await stream.read()

            hop_times, echo_times = await in_turns(hop, bare, repetitions)
            for metric, pick in (("p50_seconds", 50), ("p99_seconds", 99)):
                value, peer_value = percentile(hop_times, pick), percentile(echo_times, pick)
                rows.append(Row(case, metric, value, "s", "grpc.aio echo", peer_value))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return rows


async def in_turns(
    first: Callable[[], Awaitable[None]], second: Callable[[], Awaitable[None]], repetitions: int
) -> tuple[list[float], list[float]]:
    """Time two calls alternately, so that a busy moment of the machine meets both."""
    times: tuple[list[float], list[float]] = ([], [])
    for repetition in range(repetitions + repetitions // 5):
        for call, results in zip((first, second), times, strict=True):
            started = time.perf_counter()
            await call()
            if repetition >= repetitions // 5:  # the first fifth warms up
                results.append(time.perf_counter() - started)
    return times


def percentile(times: list[float], percent: int) -> float:
    """Return a percentile of at least two times."""
    return statistics.quantiles(times, n=100)[percent - 1]


@contextmanager
def server_process(kind: str) -> Iterator[str]:
    """Run this file as a server; yields its address."""
    command = [sys.executable, str(Path(__file__)), "--serve", kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def main() -> None:
    """Serve, or measure and report."""
    parser = parse_arguments(__doc__)
    parser.add_argument("--serve", choices=("experts", "echo"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    if arguments.serve:
        uvloop.run(serve_experts() if arguments.serve == "experts" else serve_echo())
        return
    with server_process("experts") as experts, server_process("echo") as echo:
        rows = uvloop.run(measure(experts, echo))
    show("dispatch to combine, without kernels", rows, arguments.json)


if __name__ == "__main__":
    main()
