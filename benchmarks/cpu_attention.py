"""Attention on a CPU: the C kernels, which read the cache where it lies, beside torch on gathered keys.

Usage: python benchmarks/cpu_attention.py [--contexts 128 2048] [--sequences 1 16] [--new 1 512] [--threads 1] [--small]
       [--json FILE]

One layer of Mixtral's attention (32 query heads, 8 key-value heads of 128) in float32 and bfloat16, blocks of 16 tokens
in random order; of each sequence the last ``--new`` tokens attend: one when it decodes, more in a chunk of a prompt.
Sides take turns, and walk through layers that together exceed the caches, as the layers of a model do; the best time of
each counts, because other work on the machine only ever adds.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from cpu_kernels import measure_seconds
from report import Row, parse_arguments, show

from expertmesh.kernels.backend import Backend
from expertmesh.kernels.cpu import CpuBackend
from expertmesh.kernels.paged_attention import PagedContexts
from expertmesh.rpc.allocator import keep_freed_memory

NUM_HEADS, NUM_KV_HEADS, HEAD_DIM, BLOCK_SIZE = 32, 8, 128, 16
TYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True)
class Sizes:
    """What is timed where no flag says otherwise, the bytes of all layers together, and patience."""

    contexts: tuple[int, ...]
    sequences: tuple[int, ...]
    new: tuple[int, ...]
    num_bytes: int
    patience: int


FULL = Sizes((128, 512, 2048), (1, 16), (1, 512), 2**28, 5)
SMALL = Sizes((40,), (1, 2), (1, 20), 2**20, 1)


def make_contexts(num_sequences: int, length: int, num_new: int) -> PagedContexts:
    """Sequences of ``length`` tokens, the last ``num_new`` of them new, whose blocks lie in random order."""
    num_blocks = -(-length // BLOCK_SIZE)
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randperm(num_sequences * num_blocks, generator=generator).view(num_sequences, num_blocks, 1)
    slots = (blocks * BLOCK_SIZE + torch.arange(BLOCK_SIZE)).flatten(1)[:, :length].contiguous()
    return PagedContexts(slots, (num_new,) * num_sequences, (length,) * num_sequences, length)


def walk(backend: Backend, cache: torch.Tensor, contexts: PagedContexts) -> Callable[[torch.Tensor], torch.Tensor]:
    """Attend in one layer of ``cache`` [layers, 2, slots, kv heads, head dim] after the other."""
    layers = itertools.cycle(cache)

    def attend(query: torch.Tensor) -> torch.Tensor:
        keys, values = next(layers)
        return backend.attend(query, keys, values, contexts)

    return attend


def measure(num_new: int, num_sequences: int, length: int, dtype: torch.dtype, sizes: Sizes) -> list[Row]:
    """Time both sides at one size."""
    contexts = make_contexts(num_sequences, length, num_new)
    layer_bytes = 2 * num_sequences * length * NUM_KV_HEADS * HEAD_DIM * dtype.itemsize
    num_slots = int(contexts.slots.max()) + 1
    shape = (max(2, sizes.num_bytes // layer_bytes), 2, num_slots, NUM_KV_HEADS, HEAD_DIM)
    cache = torch.randn(shape, dtype=dtype)
    query = torch.randn(num_sequences * num_new, NUM_HEADS, HEAD_DIM).to(dtype)
    sides = {"native": CpuBackend(), "torch": CpuBackend(is_native=False)}
    seconds = measure_seconds(
        {name: walk(backend, cache, contexts) for name, backend in sides.items()}, query, sizes.patience
    )
    case = f"{str(dtype).removeprefix('torch.')}, {num_sequences} x {length}, {num_new} new"
    return [
        Row(case, "time", seconds["native"] * 1e3, "ms", "torch", seconds["torch"] * 1e3),
        Row(case, "cache read", layer_bytes / seconds["native"] / 1e9, "GB/s"),
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure every size and report."""
    parser = parse_arguments(__doc__)
    parser.add_argument("--contexts", type=int, nargs="+")
    parser.add_argument("--sequences", type=int, nargs="+")
    parser.add_argument("--new", type=int, nargs="+")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args(argv)
    keep_freed_memory()  # as servers do: torch's side gathers into large buffers
    torch.set_num_threads(arguments.threads)
    sizes = SMALL if arguments.small else FULL
    lengths, counts = arguments.contexts or sizes.contexts, arguments.sequences or sizes.sequences
    cases = itertools.product(TYPES, lengths, counts, arguments.new or sizes.new)
    rows = []
    for dtype, length, num_sequences, num_new in cases:
        # A prompt by itself: many at once fill no step.
        if num_new == 1 or (num_new <= length and num_sequences == min(counts)):
            rows += measure(num_new, num_sequences, length, dtype, sizes)
    show(f"attention of one layer, {arguments.threads} threads", rows, arguments.json)


if __name__ == "__main__":
    main()
