"""Where the time of one Mixtral-sized expert layer goes: kernels, transport, Python.

Usage: python benchmarks/layer.py [--small] [--json FILE]

Eight experts (hidden 4096, FFN 14336, random 4-bit weights in groups of 128) live in four expert servers, two each,
one CPU thread per server. The gateway's dispatcher sends rows whose two experts are drawn at random. Of each step the
slowest replica counts: its kernels, the rest of its call (transport, codec, queue), and the gateway's own work.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import uvloop
from report import Row, parse_arguments, show
from servers import connected_pool, serve_layer, server_processes

from expertmesh.kernels.cpu import CpuBackend
from expertmesh.kernels.weights import ExpertWeights, QuantizedWeight
from expertmesh.mesh.dispatch_config import DispatchConfig
from expertmesh.mesh.dispatcher import RemoteExperts
from expertmesh.mesh.expert_load import ExpertLoadCounter
from expertmesh.mesh.pool import ReplicaPool
from expertmesh.model.experts import LayerCall, run_experts
from expertmesh.rpc.allocator import keep_freed_memory

GROUP_SIZE, NUM_EXPERTS, NUM_CHOSEN = 128, 8, 2
WARMUP_STEPS = 2


@dataclass(frozen=True)
class Sizes:
    """A layer, the experts of each server, and repetitions by number of rows."""

    hidden: int
    ffn: int
    placement: tuple[tuple[int, ...], ...]
    cases: dict[int, int]


MIXTRAL = Sizes(4096, 14336, ((0, 1), (2, 3), (4, 5), (6, 7)), {1: 60, 8: 30, 32: 12, 128: 6})
SMALL = Sizes(256, 512, ((0, 1, 2, 3), (4, 5, 6, 7)), {1: 3, 8: 3})


@dataclass(frozen=True)
class StepTimes:
    """Seconds of one step: in all, in the kernels of its slowest call, in the rest of that call, and in the gateway."""

    total: float
    kernels: float
    transport: float
    gateway: float


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


def random_expert(seed: int, hidden: int, ffn: int) -> ExpertWeights:
    """Draw one expert."""
    generator = torch.Generator().manual_seed(seed)
    return ExpertWeights(
        w_gate=random_weight(ffn, hidden, generator),
        w_up=random_weight(ffn, hidden, generator),
        w_down=random_weight(hidden, ffn, generator),
    )


async def measure(endpoints: frozenset[str], sizes: Sizes) -> list[Row]:
    """Time steps of each size."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    async with connected_pool(endpoints, NUM_EXPERTS) as pool:
        remote = RemoteExperts(pool.roster, DispatchConfig(), ExpertLoadCounter(1, NUM_EXPERTS))
        for num_rows, repetitions in sizes.cases.items():
            draws = (random_call(num_rows, sizes.hidden, generator) for _ in range(repetitions + WARMUP_STEPS))
            steps = [await asyncio.to_thread(time_step, pool, remote, call) for call in draws]
            rows += summarize(f"{num_rows} rows", steps[WARMUP_STEPS:])
    return rows


def summarize(case: str, steps: list[StepTimes]) -> list[Row]:
    """Turn the times of steps into their median and the shares of their sum."""
    whole = sum(step.total for step in steps)
    shares = {
        "kernels_share": sum(step.kernels for step in steps) / whole,
        "transport_share": sum(step.transport for step in steps) / whole,
        "gateway_share": sum(step.gateway for step in steps) / whole,
    }
    median = Row(case, "p50_seconds", statistics.median(step.total for step in steps), "s")
    return [median, *(Row(case, metric, share, "") for metric, share in shares.items())]


def random_call(num_rows: int, hidden_size: int, generator: torch.Generator) -> LayerCall:
    """Draw rows and their choices."""
    hidden = torch.randn(num_rows, hidden_size, generator=generator).to(torch.bfloat16)
    topk_ids = torch.rand(num_rows, NUM_EXPERTS, generator=generator).topk(NUM_CHOSEN).indices
    topk_weights = torch.rand(num_rows, NUM_CHOSEN, generator=generator).softmax(-1)
    return LayerCall(0, hidden, topk_ids, topk_weights)


def time_step(pool: ReplicaPool, remote: RemoteExperts, call: LayerCall) -> StepTimes:
    """Run one step, as the engine's thread does."""
    for replica in pool.replicas:
        replica.stats.recent.clear()
    started = time.perf_counter()
    run_experts(remote, call)
    total = time.perf_counter() - started
    slowest = max((times for r in pool.replicas for times in r.stats.recent), key=lambda times: times.latency_seconds)
    return StepTimes(
        total=total,
        kernels=slowest.compute_seconds,
        transport=slowest.latency_seconds - slowest.compute_seconds,
        gateway=total - slowest.latency_seconds,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Serve, or measure and report."""
    parser = parse_arguments(__doc__)
    parser.add_argument("--serve", nargs="+", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    sizes = SMALL if arguments.small else MIXTRAL
    keep_freed_memory()
    torch.set_num_threads(1)
    if arguments.serve:
        layer = CpuBackend().experts([random_expert(expert, sizes.hidden, sizes.ffn) for expert in arguments.serve])
        uvloop.run(serve_layer(layer, arguments.serve, NUM_EXPERTS, sizes.hidden))
        return
    flags = ("--small", "--serve") if arguments.small else ("--serve",)
    with server_processes(__file__, *((*flags, *experts) for experts in sizes.placement)) as endpoints:
        rows = uvloop.run(measure(frozenset(endpoints), sizes))
    title = f"an expert layer of {sizes.hidden} x {sizes.ffn}, {len(sizes.placement)} expert servers"
    show(title, rows, arguments.json)


if __name__ == "__main__":
    main()
