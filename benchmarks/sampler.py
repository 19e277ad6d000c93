"""What choosing tokens costs: 32,000 logits a row, every kind of sampling.

Usage: python benchmarks/sampler.py [--vocab 32000] [--small] [--json FILE]

Times are those that one thread computes, the best of many, because other work on the machine only ever adds. Logits are
normal with a standard deviation of 4, where as in a trained model few tokens have most of the probability, and in the
"flat" cases of 1, where thousands share it and candidates do not suffice.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle

import torch
from report import Row, parse_arguments, show

from expertmesh.engine.noise import noise
from expertmesh.model.adjust import SamplingRow
from expertmesh.model.sampler import Sampler
from expertmesh.model.sampling import SamplingParams
from expertmesh.rpc.allocator import keep_freed_memory

CASES = {
    "greedy": SamplingParams(),
    "greedy, logprobs 5": SamplingParams(logprobs=5),
    "temperature": SamplingParams(temperature=0.8),
    "top_k 50": SamplingParams(temperature=0.8, top_k=50),
    "top_p 0.95": SamplingParams(temperature=0.8, top_p=0.95),
    "min_p 0.05": SamplingParams(temperature=0.8, min_p=0.05),
    "typical_p 0.95": SamplingParams(temperature=0.8, typical_p=0.95),
    "all": SamplingParams(
        temperature=0.8, top_k=50, top_p=0.95, typical_p=0.95, min_p=0.05, repetition_penalty=1.1, frequency_penalty=0.1
    ),
}
SPREADS = {"": 4.0, ", flat": 1.0}
PROMPT = range(1000)
MIN_CALLS = 3


@dataclass(frozen=True)
class Sizes:
    """How many rows are sampled in a call, and how long calls of a case are repeated."""

    num_rows: tuple[int, ...]
    seconds: float


FULL = Sizes((1, 16, 32), 0.5)
SMALL = Sizes((1, 4), 0.0)


def make_call(params: Sequence[SamplingParams], num_rows: int, spread: float, vocab_size: int) -> Callable[[], object]:
    """Make a call that samples ``num_rows`` tokens, by all ``params`` in turns."""
    logits = spread * torch.randn(num_rows, vocab_size, generator=torch.Generator().manual_seed(0))
    rows = [
        SamplingRow(each, PROMPT, range(100), noise(0, index))
        for index, each in zip(range(num_rows), cycle(params), strict=False)
    ]
    sampler = Sampler()
    return lambda: sampler.sample(logits, rows)


def best_seconds(call: Callable[[], object], seconds: float) -> float:
    """Repeat a call for a while; the best of the times that this thread was computing."""
    times: list[float] = []
    call()
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop or len(times) < MIN_CALLS:
        started = time.thread_time()
        call()
        times.append(time.thread_time() - started)
    return min(times)


def measure(vocab_size: int, sizes: Sizes) -> list[Row]:
    """Time every case."""
    return [
        Row(
            f"{name}{label}, {num_rows} rows",
            "cpu_seconds_per_row",
            best_seconds(make_call(params, num_rows, spread, vocab_size), sizes.seconds) / num_rows,
            "s",
        )
        for label, spread in SPREADS.items()
        for name, params in {**{name: [one] for name, one in CASES.items()}, "mixed": list(CASES.values())}.items()
        for num_rows in sizes.num_rows
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and report."""
    parser = parse_arguments(__doc__)
    parser.add_argument("--vocab", type=int, default=32000)
    arguments = parser.parse_args(argv)
    keep_freed_memory()
    torch.set_num_threads(1)
    rows = measure(arguments.vocab, SMALL if arguments.small else FULL)
    show(f"sampling from {arguments.vocab} logits", rows, arguments.json)


if __name__ == "__main__":
    main()
