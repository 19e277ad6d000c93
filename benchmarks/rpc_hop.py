"""What one dispatch and combine costs beside the kernels, against a bare gRPC echo.

Usage: python benchmarks/rpc_hop.py [--small] [--json FILE]

Rows of Mixtral's width (4096, bfloat16) go to a real expert server in another process, whose experts return their
rows: no kernel time, everything else. They go over each kind of link, with the picking and the adding up of rows around
it, and through the gateway's dispatcher. The peer is a grpc.aio bidirectional stream to another process that answers
each message with as many bytes as the expert server does (float32 rows). Each is asked in turns with it.
"""

import argparse
import asyncio
import os
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import closing
from functools import partial

import grpc.aio
import numpy as np
import torch
import uvloop
from report import Row, parse_arguments, show
from servers import FINGERPRINT, connected_pool, serve_layer, server_processes

from expertmesh.mesh.call_rows import Partial, combine, select_rows
from expertmesh.mesh.dispatch_config import DispatchConfig
from expertmesh.mesh.dispatcher import RemoteExperts
from expertmesh.mesh.expert_load import ExpertLoadCounter
from expertmesh.mesh.link import Link
from expertmesh.mesh.open_link import open_link
from expertmesh.model.experts import LayerCall, run_experts
from expertmesh.rpc.allocator import keep_freed_memory
from expertmesh.rpc.channels import LIMIT_OPTIONS, open_channel
from expertmesh.wire.calls import ExpertCall

HIDDEN = 4096
NUM_EXPERTS = 2
LINKS = ("direct", "grpc")
Cases = dict[str, tuple[int, int]]  # rows, repetitions
CASES: Cases = {"8 KiB": (1, 1500), "256 KiB": (32, 300), "4 MiB": (512, 40)}
SMALL: Cases = {"8 KiB": (1, 20), "256 KiB": (32, 10), "4 MiB": (512, 2)}
ECHO = "/benchmark.Echo/Echo"

# Does something and returns how many seconds it took. A hop does in a thread of its own, as the engine: it blocks.
Call = Callable[[], Awaitable[float]]


class ReturnRows:
    """Experts that cost next to nothing: the rows, scaled."""

    num_bytes = 0

    def __call__(self, x: torch.Tensor, num_rows: Sequence[int], row_weights: torch.Tensor) -> torch.Tensor:
        """See ``GroupedFFN``."""
        return x.float().mul_(row_weights[:, None])


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


async def measure(experts: str, echo: str, cases: Cases) -> list[Row]:
    """Time every way for each size, in turns."""
    rows = []
    async with connected_pool(frozenset({experts}), NUM_EXPERTS) as pool, open_channel(echo) as channel:
        remote = RemoteExperts(pool.roster, DispatchConfig(), ExpertLoadCounter(1, NUM_EXPERTS))
        stream = channel.stream_stream(ECHO)()
        # Opened in a thread, as the gateway does: a link blocks until it is there.
        direct, synchronous = [
            (await asyncio.to_thread(open_link, experts, FINGERPRINT, transport)).link for transport in LINKS
        ]
        with closing(direct), closing(synchronous):
            for case, (num_rows, repetitions) in cases.items():
                ways = {
                    "direct": make_link_hop(direct, num_rows),
                    "grpc": make_link_hop(synchronous, num_rows),
                    "dispatcher": make_hop(remote, num_rows),
                }
                for name, hop in ways.items():
                    hop_times, echo_times = await in_turns(hop, make_echo(stream, num_rows), repetitions)
                    for metric, percent in (("p50_seconds", 50), ("p99_seconds", 99)):
                        value, peer_value = percentile(hop_times, percent), percentile(echo_times, percent)
                        rows.append(Row(f"{case} {name}", metric, value, "s", "grpc.aio echo", peer_value))
    return rows


def make_hop(remote: RemoteExperts, num_rows: int) -> Call:
    """Make a call that dispatches rows to both experts and combines the answer."""
    hidden = torch.randn(num_rows, HIDDEN, dtype=torch.bfloat16)
    call = LayerCall(0, hidden, torch.tensor([[0, 1]]).repeat(num_rows, 1), torch.full((num_rows, 2), 0.5))

    def hop() -> float:
        started = time.perf_counter()
        run_experts(remote, call)
        return time.perf_counter() - started

    return partial(asyncio.to_thread, hop)


def make_link_hop(link: Link, num_rows: int) -> Call:
    """Make a call that picks rows for both experts, asks a link and combines the answer."""
    ids, weights = np.tile(np.arange(2, dtype=np.int32), (num_rows, 1)), np.full((num_rows, 2), 0.5, np.float32)
    step = ExpertCall(0, torch.randn(num_rows, HIDDEN, dtype=torch.bfloat16), ids, weights, 30.0)
    experts = tuple(range(NUM_EXPERTS))

    def hop() -> float:
        started = time.perf_counter()
        rows, call = select_rows(step, experts)
        link.send(0, call)
        combine([Partial(experts, rows, link.receive(0, 30.0).partial)], step.hidden)
        return time.perf_counter() - started

    return partial(asyncio.to_thread, hop)


def make_echo(stream: "grpc.aio.StreamStreamCall[bytes, bytes]", num_rows: int) -> Call:
    """Make a call that sends as many bytes as the hidden states of these rows."""
    message = os.urandom(num_rows * HIDDEN * torch.bfloat16.itemsize)

    async def echo() -> float:
        started = time.perf_counter()
        await stream.write(message)
        await stream.read()
        return time.perf_counter() - started

    return echo


async def in_turns(first: Call, second: Call, repetitions: int) -> tuple[list[float], list[float]]:
    """Time two calls alternately, so that a busy moment of the machine meets both."""
    times: tuple[list[float], list[float]] = ([], [])
    for repetition in range(repetitions + repetitions // 5):
        for call, results in zip((first, second), times, strict=True):
            seconds = await call()
            if repetition >= repetitions // 5:  # the first fifth warms up
                results.append(seconds)
    return times


def percentile(times: list[float], percent: int) -> float:
    """Return a percentile of at least two times."""
    return statistics.quantiles(times, n=100)[percent - 1]


def main(argv: Sequence[str] | None = None) -> None:
    """Serve, or measure and report."""
    parser = parse_arguments(__doc__)
    parser.add_argument("--serve", choices=("experts", "echo"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    keep_freed_memory()
    torch.set_num_threads(1)
    if arguments.serve:
        if arguments.serve == "echo":
            uvloop.run(serve_echo())
        uvloop.run(serve_layer(ReturnRows(), range(NUM_EXPERTS), NUM_EXPERTS, HIDDEN))
    with server_processes(__file__, ("--serve", "experts"), ("--serve", "echo")) as (experts, echo):
        rows = uvloop.run(measure(experts, echo, SMALL if arguments.small else CASES))
    show("dispatch to combine, without kernels", rows, arguments.json)


if __name__ == "__main__":
    main()
