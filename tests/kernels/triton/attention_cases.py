"""Steps of attention over a paged cache, and running them. Imports no triton, see ``triton_cases``."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from unittest.mock import patch

import torch
from triton_cases import open_backend, relative_error

from expertmesh.kernels.block_attention import BlockContexts
from expertmesh.kernels.block_attention import attend_blocks as attend_blocks_torch

# Weights and the result are rounded once; half a unit in the last place is 2^-12 in float16 and 2^-9 in bfloat16.
MAX_ERRORS = {"float32": 2e-6, "float16": 1e-3, "bfloat16": 6e-3}


@dataclass(frozen=True)
class Step:
    """A step: for each sequence its positions and how many of them are new. Padding has none, but one row."""

    sequences: Sequence[tuple[int, int]]
    heads: int = 4
    kv_heads: int = 2
    width: int = 64
    block_size: int = 16
    window: int | None = None
    dtype: str = "float16"
    num_unused_rows: int = 0

    @property
    def is_decode(self) -> bool:
        return all(num_new == 1 for _, num_new in self.sequences) and not self.num_unused_rows


@dataclass(frozen=True)
class Inputs:
    query: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    contexts: BlockContexts

    def to(self, device: str) -> "Inputs":
        tensors = ("block_tables", "lengths", "first_rows")
        moved = {name: getattr(self.contexts, name).to(device) for name in tensors}
        caches = [part.to(device) for part in (self.query, self.keys, self.values)]
        return Inputs(*caches, replace(self.contexts, **moved))

    def alone(self, sequence: int) -> "Inputs":
        """Take one sequence, in a table no wider than it needs."""
        contexts = self.contexts
        first, end = contexts.first_rows[sequence : sequence + 2].tolist()
        num_blocks = -(-int(contexts.lengths[sequence]) // contexts.block_size)
        own = replace(
            contexts,
            block_tables=contexts.block_tables[sequence : sequence + 1, : max(num_blocks, 1)].contiguous(),
            lengths=contexts.lengths[sequence : sequence + 1],
            first_rows=torch.tensor([0, end - first], dtype=torch.int32),
        )
        return replace(self, query=self.query[first:end], contexts=own)

    def part(self, start: int, end: int, is_decode: bool) -> "Inputs":
        """Take new tokens ``start`` to ``end`` of the only sequence, as a step before the later ones were written."""
        missing = int(self.contexts.first_rows[1]) - end
        part = replace(
            self.contexts,
            lengths=self.contexts.lengths - missing,
            first_rows=torch.tensor([0, end - start], dtype=torch.int32),
            is_decode=is_decode,
        )
        return replace(self, query=self.query[start:end], contexts=part)


def make_inputs(step: Step) -> Inputs:
    """Make random queries and a cache whose unused slots are NaN, as memory that was never written may be."""
    generator = torch.Generator().manual_seed(0)
    dtype, size = getattr(torch, step.dtype), step.block_size
    num_blocks = [-(-length // size) for length, _ in step.sequences]
    # Blocks lie anywhere; entries beyond those of a sequence point nowhere.
    order = torch.randperm(sum(num_blocks) + 2, generator=generator)
    tables = torch.full((len(step.sequences), max(num_blocks) + 1), 2**30)
    keys, values = torch.full((2, len(order) * size, step.kv_heads, step.width), torch.nan)
    for row, (length, _) in enumerate(step.sequences):
        count = num_blocks[row]
        tables[row, :count] = order[sum(num_blocks[:row]) :][:count]
        slots = (tables[row, :count, None] * size + torch.arange(size)).flatten()[:length]
        keys[slots], values[slots] = torch.randn(2, length, *keys.shape[1:], generator=generator)
    firsts = torch.tensor([0] + [num_new for _, num_new in step.sequences]).cumsum(0)
    num_rows = int(firsts[-1]) + step.num_unused_rows
    query = 2 * torch.randn(num_rows, step.heads, step.width, generator=generator)
    contexts = BlockContexts(
        block_tables=tables.int(),
        lengths=torch.tensor([length for length, _ in step.sequences], dtype=torch.int32),
        first_rows=firsts.int(),
        block_size=size,
        window=step.window,
        is_decode=step.is_decode,
    )
    return Inputs(query.to(dtype), keys.to(dtype), values.to(dtype), contexts)


def attend(inputs: Inputs) -> torch.Tensor:
    """Run the kernels."""
    from expertmesh.kernels.triton.attention import attend_blocks

    return attend_blocks(inputs.query, inputs.keys, inputs.values, inputs.contexts)


def attend_torch(inputs: Inputs) -> torch.Tensor:
    """Run the twin."""
    return attend_blocks_torch(inputs.query, inputs.keys, inputs.values, inputs.contexts)


def step_error(step: Step, device: str) -> float:
    """Run a step on ``device``; returns the relative error against the twin."""
    inputs = make_inputs(step)
    found, expected = attend(inputs.to(device)), attend_torch(inputs)
    return relative_error(found, expected) if expected.any() else found.abs().max().item()


def attends_in_larger_tensors(step: Step, device: str) -> bool:
    """Run a step on parts of larger tensors, into one and by the backend; returns whether the bits are the same."""
    from expertmesh.kernels.triton.attention import attend_blocks

    inputs = make_inputs(step).to(device)
    parts = [torch.stack([part, part + 1], 1)[:, 0] for part in (inputs.query, inputs.keys, inputs.values)]
    out = torch.empty_like(inputs.query)
    assert attend_blocks(*parts, inputs.contexts, out) is out
    return out.equal(attend(inputs)) and open_backend(device, step.dtype).attend(*parts, inputs.contexts).equal(out)


@contextmanager
def one_order_of_sums(device: str) -> Iterator[None]:
    """Have the interpreter's products add up each element in one order: a BLAS goes by where a row lies."""
    if device != "cpu":
        yield
        return
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    def multiply(_, a, b, sums, *__):
        left, right, total = (part.data.astype("float32") for part in (a, b, sums))
        for column, row in zip(left.T, right, strict=True):
            total += column[:, None] * row
        return TensorHandle(total, sums.dtype.scalar)

    with patch.object(InterpreterBuilder, "create_dot", multiply):
        yield


def sequences_that_differ_alone(step: Step, device: str) -> list[int]:
    """Run a step, and each of its sequences alone; returns those whose bits differ."""
    inputs = make_inputs(step)
    firsts = inputs.contexts.first_rows.tolist()
    with one_order_of_sums(device):
        together = attend(inputs.to(device))
        return [
            sequence
            for sequence in range(len(step.sequences))
            if not attend(inputs.alone(sequence).to(device)).equal(together[firsts[sequence] : firsts[sequence + 1]])
        ]


def decodes_like_a_mixed_step(step: Step, device: str) -> bool:
    """Run a decode step as one and as any other; returns whether the bits are the same."""
    inputs = make_inputs(step).to(device)
    mixed = replace(inputs, contexts=replace(inputs.contexts, is_decode=False))
    with one_order_of_sums(device):
        return attend(inputs).equal(attend(mixed))


def parts_that_differ(step: Step, sizes: Sequence[int], device: str) -> list[int]:
    """Run the tokens of one sequence together, and in parts, single ones by decoding; returns sizes that differ."""
    inputs = make_inputs(step)
    ends = torch.tensor(sizes).cumsum(0).tolist()
    with one_order_of_sums(device):
        together = attend(inputs.to(device))
        return [
            size
            for size, end in zip(sizes, ends, strict=True)
            if not attend(inputs.part(end - size, end, size == 1).to(device)).equal(together[end - size : end])
        ]


def captures_a_graph(step: Step) -> bool:
    """Capture a step on a GPU, replay it with other contents; returns whether the bits are those of a run without."""
    inputs = make_inputs(step).to("cuda")
    expected = attend(inputs)
    lengths = inputs.contexts.lengths.clone()
    inputs.contexts.lengths.clamp_(max=1)
    attend(inputs)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = attend(inputs)
    inputs.contexts.lengths.copy_(lengths)
    graph.replay()
    return found.equal(expected)


def refusal_of(changes: dict[str, torch.Tensor], context_changes: dict[str, torch.Tensor]) -> str:
    """Run a step whose tensors were exchanged; returns why it is refused."""
    inputs = make_inputs(Step([(5, 1), (3, 1)]))
    contexts = replace(inputs.contexts, **context_changes)
    try:
        attend(replace(inputs, contexts=contexts, **changes))
    except ValueError as error:
        return str(error)
    return ""
