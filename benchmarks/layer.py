"""Where the time of one Mixtral-sized expert layer goes: kernels, transport, Python.

Usage: python benchmarks/layer.py [--json FILE]

Eight experts (hidden 4096, FFN 14336, random 4-bit weights in groups of 128) live in four expert servers, two each,
one CPU thread per server. The gateway's dispatcher sends rows whose two experts are drawn at random. Of each step the
slowest replica counts: its kernels, the rest of its call (transport, codec, queue), and the gateway's own work.
"""

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
import uvloop
from report import Row, parse_arguments, show

from expertmesh.discovery.endpoints import StaticDiscovery
from expertmesh.expert.server import ExpertServerConfig, running
from expertmesh.expert.store import ExpertStore
from expertmesh.gateway.dispatcher import DispatchConfig, RemoteExperts
from expertmesh.gateway.pool import ReplicaPool
from expertmesh.kernels.cpu import CpuBackend
from expertmesh.kernels.weights import ExpertWeights, QuantizedWeight
from expertmesh.rpc.memory import keep_freed_memory
from expertmesh.wire.info import ServerInfo

HIDDEN, FFN, GROUP_SIZE, NUM_EXPERTS, NUM_CHOSEN = 4096, 14336, 128, 8, 2
PLACEMENT = ((0, 1), (2, 3), (4, 5), (6, 7))
CASES = {1: 60, 8: 30, 32: 12, 128: 6}  # rows, repetitions
FINGERPRINT = "benchmark"


def random_weight(num_out: int, num_in: int, generator: torch.Generator) -> QuantizedWeight:
    """Draw a 4-bit matrix whose products have about the size of their input."""
    num_groups = num_in // GROUP_SIZE
    return QuantizedWeight(
        codes=torch.randint(0, 16, (num_out, num_in), dtype=torch.uint8, generator=generator),
        scales=torch.rand(num_out, num_groups, generator=generator).add_(0.5).div_(4.6 * num_in**0.5).half(),
        zeros=torch.randint(7, 9, (num_out, num_groups), dtype=torch.uint8, generator=generator),
        bits=4,
        group_size=GROUP_SIZE,
    )


def random_expert(seed: int) -> ExpertWeights:
    """Draw one expert."""
    generator = torch.Generator().manual_seed(seed)
    return ExpertWeights(
        w_gate=random_weight(FFN, HIDDEN, generator),
        w_up=random_weight(FFN, HIDDEN, generator),
        w_down=random_weight(HIDDEN, FFN, generator),
    )


async def serve_experts(experts: tuple[int, ...]) -> None:
    """Run a real expert server with random experts."""
    backend = CpuBackend()
    layer = backend.experts([random_expert(expert) for expert in experts])
    store = ExpertStore([layer], experts, NUM_EXPERTS, HIDDEN, backend.device)
    info = ServerInfo(FINGERPRINT, experts, NUM_EXPERTS, 1, HIDDEN, "random 4-bit g128", "cpu", "cpu", 0, "0")
    async with running(ExpertServerConfig(Path(), "127.0.0.1:0"), store, info) as server:
        print(server.address, flush=True)
        await asyncio.Event().wait()


async def measure(endpoints: frozenset[str]) -> list[Row]:
    """Time steps of each size."""
    pool = ReplicaPool(StaticDiscovery(endpoints), FINGERPRINT)
    task = asyncio.create_task(pool.run())
    await pool.wait_until(lambda: not pool.missing(NUM_EXPERTS))
    remote = RemoteExperts(pool, DispatchConfig())
    generator = torch.Generator().manual_seed(0)
    rows = []
    for num_rows, repetitions in CASES.items():
        steps = [await time_step(pool, remote, num_rows, generator) for _ in range(repetitions + 2)][2:]
        total = statistics.median(step[0] for step in steps)
        rows.append(Row(f"{num_rows} rows", "p50_seconds", total, "s"))
        for name, part in (("kernels", 1), ("transport", 2), ("gateway", 3)):
            share = sum(step[part] for step in steps) / sum(step[0] for step in steps)
            rows.append(Row(f"{num_rows} rows", f"{name}_share", share, ""))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return rows


async def time_step(
    pool: ReplicaPool, remote: RemoteExperts, num_rows: int, generator: torch.Generator
) -> tuple[float, float, float, float]:
    """Run one step; returns seconds in all, in kernels, in the rest of the slowest call, and in the gateway."""
    hidden = torch.randn(num_rows, HIDDEN, generator=generator).to(torch.bfloat16)
    topk_ids = torch.rand(num_rows, NUM_EXPERTS, generator=generator).topk(NUM_CHOSEN).indices
    topk_weights = torch.rand(num_rows, NUM_CHOSEN, generator=generator).softmax(-1)
    for replica in pool.replicas:
        replica.stats.recent.clear()
    started = time.perf_counter()
    await remote(0, hidden, topk_ids, topk_weights)
    total = time.perf_counter() - started
    slowest = max((times for r in pool.replicas for times in r.stats.recent), key=lambda times: times.latency_seconds)
    transport = slowest.latency_seconds - slowest.compute_seconds
    return total, slowest.compute_seconds, transport, total - slowest.latency_seconds


@contextmanager
def server_process(experts: tuple[int, ...]) -> Iterator[str]:
    """Run this file as an expert server; yields its address."""
    command = [sys.executable, __file__, "--serve", *map(str, experts)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def main() -> None:
    """Serve, or measure and report."""
    parser = parse_arguments(__doc__)
    parser.add_argument("--serve", nargs="+", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    if arguments.serve:
        uvloop.run(serve_experts(tuple(arguments.serve)))
        return
    with ExitStack() as stack:
        endpoints = frozenset(stack.enter_context(server_process(experts)) for experts in PLACEMENT)
        rows = uvloop.run(measure(endpoints))
    show("one Mixtral-sized expert layer, four expert servers", rows, arguments.json)


if __name__ == "__main__":
    main()
