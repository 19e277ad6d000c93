"""What one dispatch and combine costs beside the kernels, against a bare gRPC echo.

Usage: python benchmarks/rpc_hop.py [--small] [--json FILE]

Rows of Mixtral's width (4096, bfloat16) go to a real expert server in another process, whose experts return their
rows: no kernel time, everything else. They go over each kind of link, with the picking and the adding up of rows around
it, and through the gateway's dispatcher. "cold" is a row on its way between kernels: the server's experts are 4-bit
matrices larger than a cache, and the gateway runs such experts before each hop; the server's time in its kernels is
taken off. The peer is a grpc.aio bidirectional stream to another process that answers each message with as many bytes
as the expert server does (float32 rows). Each is asked in turns with it. Chunks of prefill follow, see chunk_hop.py,
and links over TCP and gRPC with TLS, each in turns with one in the clear.
"""

import argparse
import asyncio
import os
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc.aio
import numpy as np
import torch
import uvloop
from chunk_hop import WidenRows, experts_of, measure_chunks, serve_socket_echo
from layer import random_expert
from report import Row, parse_arguments, show
from servers import FINGERPRINT, connected_pool, serve_layer, server_processes
from tls_hop import certificate, have_no_unix_sockets, paired_links, server_tls

from expertmesh.kernels.backend import GroupedFFN
from expertmesh.kernels.cpu import CpuBackend
from expertmesh.kernels.moe import run_chosen
from expertmesh.mesh.call_rows import Partial, combine, select_rows
from expertmesh.mesh.dispatch_config import DispatchConfig
from expertmesh.mesh.dispatcher import RemoteExperts
from expertmesh.mesh.expert_load import ExpertLoadCounter
from expertmesh.mesh.link import Link
from expertmesh.mesh.open_link import open_link
from expertmesh.model.experts import LayerCall, run_experts
from expertmesh.rpc.allocator import keep_freed_memory
from expertmesh.rpc.channels import LIMIT_OPTIONS, open_channel
from expertmesh.settings.tls import ServerTls
from expertmesh.wire.calls import ExpertCall

HIDDEN = 4096
NUM_EXPERTS = 2
LINKS = ("direct", "grpc")


@dataclass(frozen=True)
class Sizes:
    """Rows and repetitions of each case; ``ffn`` is the width of the experts of the cold one.

    ``chunks`` are the rows and repetitions of prefill, through each of ``num_servers``.
    """

    cases: dict[str, tuple[int, int]]
    num_cold: int
    ffn: int
    chunks: dict[int, int]
    num_servers: tuple[int, ...]


FULL = Sizes(
    {"8 KiB": (1, 1500), "256 KiB": (32, 300), "4 MiB": (512, 40)}, 300, 4096, {512: 30, 2048: 20, 4096: 15}, (2, 4)
)
SMALL = Sizes({"8 KiB": (1, 20), "256 KiB": (32, 10), "4 MiB": (512, 2)}, 10, 256, {600: 2}, (2,))
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


async def measure(experts: str, cold: str, echo: str, sizes: Sizes) -> list[Row]:
    """Time every way for each size, in turns with the echo."""
    rows = []
    async with connected_pool(frozenset({experts}), NUM_EXPERTS) as pool, open_channel(echo) as channel:
        remote = RemoteExperts(pool.roster, DispatchConfig(), ExpertLoadCounter(1, NUM_EXPERTS))
        stream = channel.stream_stream(ECHO)()  # type: ignore[call-arg]  # the stubs know no defaults
        for case, (num_rows, repetitions) in sizes.cases.items():
            hops = {"dispatcher": make_hop(remote, num_rows)}
            async with links_to(experts) as links:
                hops |= {name: make_link_hop(link, num_rows) for name, link in links.items()}
                rows += await compare(case, hops, make_echo(stream, num_rows), repetitions)
        between = make_computing(sizes.ffn)
        async with links_to(cold) as links:
            hops = {name: make_link_hop(link, 1, between) for name, link in links.items()}
            rows += await compare("8 KiB cold", hops, make_echo(stream, 1, between), sizes.num_cold)
    return rows


@asynccontextmanager
async def links_to(address: str) -> AsyncIterator[dict[str, Link]]:
    """Open a link of each kind, in a thread, as the gateway does: it blocks until it is there."""
    with ExitStack() as stack:
        links = {}
        for transport in LINKS:
            links[transport] = (await asyncio.to_thread(open_link, address, FINGERPRINT, transport)).link
            stack.callback(links[transport].close)
        yield links


async def compare(case: str, hops: Mapping[str, Call], echo: Call, repetitions: int) -> list[Row]:
    """Time each hop in turns with the echo."""
    rows = []
    for name, hop in hops.items():
        hop_times, echo_times = await in_turns(hop, echo, repetitions)
        for metric, percent in (("p50_seconds", 50), ("p99_seconds", 99)):
            value, peer_value = percentile(hop_times, percent), percentile(echo_times, percent)
            rows.append(Row(f"{case} {name}", metric, value, "s", "grpc.aio echo", peer_value))
    return rows


def make_experts(ffn: int) -> GroupedFFN:
    """Make real experts."""
    return CpuBackend().experts([random_expert(seed, HIDDEN, ffn) for seed in range(NUM_EXPERTS)])


def make_computing(ffn: int) -> Callable[[], object]:
    """Make what a gateway computes between two hops, as far as caches are concerned."""
    layer, hidden = make_experts(ffn), torch.randn(1, HIDDEN, dtype=torch.bfloat16)
    slots, weights = np.array([[0, 1]]), np.full((1, 2), 0.5, np.float32)
    return partial(run_chosen, layer, NUM_EXPERTS, hidden, slots, weights)


def make_hop(remote: RemoteExperts, num_rows: int) -> Call:
    """Make a call that dispatches rows to both experts and combines the answer."""
    hidden = torch.randn(num_rows, HIDDEN, dtype=torch.bfloat16)
    call = LayerCall(0, hidden, torch.tensor([[0, 1]]).repeat(num_rows, 1), torch.full((num_rows, 2), 0.5))

    def hop() -> float:
        started = time.perf_counter()
        run_experts(remote, call)
        return time.perf_counter() - started

    return partial(asyncio.to_thread, hop)


def make_link_hop(link: Link, num_rows: int, before: Callable[[], object] = lambda: None) -> Call:
    """Make a call that picks rows for both experts, asks a link and combines the answer."""
    ids, weights = np.tile(np.arange(2, dtype=np.int32), (num_rows, 1)), np.full((num_rows, 2), 0.5, np.float32)
    step = ExpertCall(0, torch.randn(num_rows, HIDDEN, dtype=torch.bfloat16), ids, weights, 30.0)
    experts = tuple(range(NUM_EXPERTS))

    def hop() -> float:
        before()
        started = time.perf_counter()
        rows, call = select_rows(step, experts)
        link.send(0, call)
        result = link.receive(0, 30.0)
        combine([Partial(experts, rows, result.partial)], step.hidden.shape)
        return time.perf_counter() - started - result.compute_seconds

    return partial(asyncio.to_thread, hop)


def make_echo(
    stream: "grpc.aio.StreamStreamCall[bytes, bytes]", num_rows: int, before: Callable[[], object] = lambda: None
) -> Call:
    """Make a call that sends as many bytes as the hidden states of these rows."""
    message = os.urandom(num_rows * HIDDEN * torch.bfloat16.itemsize)

    async def echo() -> float:
        before()
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


def measure_tls(sizes: Sizes) -> list[Row]:
    """Time links with TLS in turns with those in the clear."""
    with certificate() as directory:
        servers = (("--serve", "tcp"), ("--serve", "tcp", "--certificate", directory))
        with server_processes(__file__, *servers) as (clear, secured):
            return uvloop.run(_measure_tls(clear, secured, directory, sizes))


async def _measure_tls(clear: str, secured: str, directory: Path, sizes: Sizes) -> list[Row]:
    rows = []
    async with paired_links(clear, secured, directory) as pairs:
        for case, (num_rows, repetitions) in sizes.cases.items():
            for name, (encrypted, plain) in pairs.items():
                hops = make_link_hop(encrypted, num_rows), make_link_hop(plain, num_rows)
                times = await in_turns(*hops, repetitions)
                for metric, percent in (("p50_seconds", 50), ("p99_seconds", 99)):
                    value, peer_value = (percentile(each, percent) for each in times)
                    rows.append(Row(f"{case} {name} with TLS", metric, value, "s", "in the clear", peer_value))
    return rows


def measure_prefill(sizes: Sizes) -> list[Row]:
    """Time chunks through each number of servers."""
    rows = []
    for number in sizes.num_servers:
        experts = [("--serve", "chunk", "--share", index, number) for index in range(number)]
        with server_processes(__file__, *experts, *[("--serve", "socket")] * number) as addresses:
            rows += uvloop.run(measure_chunks(addresses[:number], addresses[number:], LINKS, sizes.chunks))
    return rows


def serve(arguments: argparse.Namespace) -> None:
    """Be the server that the arguments ask for, until killed."""
    if arguments.serve == "echo":
        uvloop.run(serve_echo())
    elif arguments.serve == "socket":
        serve_socket_echo()
    elif arguments.serve == "chunk":
        uvloop.run(serve_layer(WidenRows(), experts_of(*arguments.share), 8, HIDDEN))
    elif arguments.serve == "tcp":
        have_no_unix_sockets()
        tls = server_tls(arguments.certificate) if arguments.certificate else ServerTls()
        uvloop.run(serve_layer(ReturnRows(), range(NUM_EXPERTS), NUM_EXPERTS, HIDDEN, tls))
    else:
        layer = make_experts(arguments.ffn) if arguments.serve == "cold" else ReturnRows()
        uvloop.run(serve_layer(layer, range(NUM_EXPERTS), NUM_EXPERTS, HIDDEN))


def main(argv: Sequence[str] | None = None) -> None:
    """Serve, or measure and report."""
    parser = parse_arguments(__doc__)
    parser.add_argument("--only", choices=("hop", "prefill", "tls"), help="one part of the cases; default: all")
    parser.add_argument(
        "--serve", choices=("experts", "cold", "echo", "chunk", "socket", "tcp"), help=argparse.SUPPRESS
    )
    parser.add_argument("--ffn", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--certificate", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--share", type=int, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    keep_freed_memory()
    torch.set_num_threads(1)
    if arguments.serve:
        serve(arguments)
        return
    sizes = SMALL if arguments.small else FULL
    rows = []
    if arguments.only in (None, "hop"):
        servers = (("--serve", "experts"), ("--serve", "cold", "--ffn", sizes.ffn), ("--serve", "echo"))
        with server_processes(__file__, *servers) as (experts, cold, echo):
            rows += uvloop.run(measure(experts, cold, echo, sizes))
    if arguments.only in (None, "prefill"):
        rows += measure_prefill(sizes)
    if arguments.only in (None, "tls"):
        rows += measure_tls(sizes)
    show("dispatch to combine, without kernels", rows, arguments.json)


if __name__ == "__main__":
    main()
