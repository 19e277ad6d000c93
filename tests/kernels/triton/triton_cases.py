"""The table of numerical cases, and running one. Imports no triton, so that a process may first choose how it runs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from expertmesh.kernels.quantize import round_to_nearest
from expertmesh.kernels.reference import ReferenceBackend
from expertmesh.kernels.weights import DenseWeight, ExpertWeights, QuantizedWeight, Weight

torch.set_num_threads(1)

# Half a unit in the last place is 2^-12 in float16 and 2^-9 in bfloat16. Weights and inner features are rounded once,
# on the way through unpacked matrices gate, up and the result too.
MAX_ERRORS = {"float32": 2e-6, "float16": 1e-3, "bfloat16": 1.2e-2}


@dataclass(frozen=True)
class Case:
    """Experts with weights of ``bits`` bits (16: stored in ``dtype``, as rows are) and rows for each of them.

    A group size of 0 means one group per output. ``dtype`` names that of the rows; ``hidden`` is D, ``inner`` is F.
    """

    bits: int = 4
    group_size: int = 32
    dtype: str = "bfloat16"
    num_rows: Sequence[int] = (3, 0, 1)
    hidden: int = 64
    inner: int = 96
    symmetric: bool = False
    act_order: bool = False
    zeros_between: bool = False
    bias: bool = False
    min_rows_to_unpack: int | None = None

    @property
    def max_error(self) -> float:
        """The relative error that is allowed; groups that fit no packed layout become bfloat16 matrices."""
        return MAX_ERRORS["bfloat16" if self.group_size % 16 else self.dtype]


UNPACKED: Any = {"num_rows": (40, 0, 5), "min_rows_to_unpack": 15}
CASES = {
    "4 bits": Case(),
    "4 bits, groups of 64": Case(group_size=64, hidden=128, inner=192),
    "4 bits, groups of 128": Case(group_size=128, hidden=256, inner=384),
    "4 bits, no groups": Case(group_size=0, hidden=40, inner=56),
    "4 bits, groups of 16": Case(group_size=16, hidden=48, inner=80),
    "4 bits, groups that fit no plane": Case(group_size=8, hidden=24, inner=40),
    "4 bits, several spans": Case(group_size=128, hidden=640, inner=128),
    "4 bits, symmetric": Case(symmetric=True),
    "4 bits, act-order": Case(act_order=True),
    "4 bits, act-order, no groups": Case(act_order=True, group_size=0),
    "4 bits, bias": Case(bias=True),
    "4 bits, everything": Case(symmetric=True, act_order=True, bias=True, num_rows=(5, 2, 0)),
    "4 bits, zeros between codes": Case(zeros_between=True),
    "8 bits, zeros between codes": Case(bits=8, group_size=16, hidden=48, inner=80, zeros_between=True),
    "2 bits": Case(bits=2),
    "2 bits, act-order": Case(bits=2, group_size=16, act_order=True, bias=True),
    "3 bits": Case(bits=3),
    "3 bits, no groups": Case(bits=3, group_size=0),
    "3 bits, act-order": Case(bits=3, act_order=True, bias=True),
    "5 bits": Case(bits=5),
    "8 bits": Case(bits=8),
    "8 bits, no groups": Case(bits=8, group_size=0),
    "8 bits, groups of 128": Case(bits=8, group_size=128, hidden=256, inner=384),
    "8 bits, act-order": Case(bits=8, act_order=True, bias=True),
    "dense": Case(bits=16),
    "dense, odd sizes": Case(bits=16, hidden=37, inner=41),
    "dense, bias": Case(bits=16, bias=True),
    "one row": Case(num_rows=(0, 0, 1)),
    "no rows": Case(num_rows=(0, 0, 0)),
    "odd sizes": Case(group_size=0, hidden=37, inner=41, num_rows=(17, 0, 3)),
    "tiles of 32 rows": Case(num_rows=(33, 0, 20)),
    "tiles of 64 rows": Case(num_rows=(67, 1, 40)),
    "dense, tiles of 64 rows": Case(bits=16, num_rows=(67, 1, 40)),
    "rows that pay for unpacking": Case(**UNPACKED),
    "rows that pay for unpacking, act-order": Case(bits=3, act_order=True, bias=True, **UNPACKED),
    "dense, many rows": Case(bits=16, bias=True, **UNPACKED),
}
HALF = ("float16", "bfloat16")


def in_dtypes(cases: dict[str, Case], dtypes: Sequence[str]) -> dict[str, Case]:
    """Give each case rows of each dtype."""
    return {f"{name}, {dtype}": replace(case, dtype=dtype) for name, case in cases.items() for dtype in dtypes}


EXPERTS = in_dtypes(CASES, HALF) | in_dtypes({name: CASES[name] for name in ("4 bits", "dense")}, ["float32"])
LINEAR_NAMES = (
    "4 bits",
    "4 bits, everything",
    "3 bits",
    "dense, bias",
    "dense, odd sizes",
    "rows that pay for unpacking",
    "dense, many rows",
)
LINEAR = in_dtypes(
    {
        **{name: CASES[name] for name in LINEAR_NAMES},
        "K in parts": Case(group_size=128, hidden=2176, inner=48, bias=True),
        "K in parts, 3 bits": Case(bits=3, group_size=0, hidden=2048, inner=48, act_order=True),
    },
    HALF,
)


def experts_error(case: Case, device: str) -> float:
    """Run the experts of a case on ``device``; returns the relative error against the reference, inf if not finite."""
    generator = torch.Generator().manual_seed(0)
    experts = [random_expert(case, generator) for _ in case.num_rows]
    x = torch.randn(sum(case.num_rows), case.hidden, generator=generator).to(getattr(torch, case.dtype))
    row_weights = torch.rand(len(x), generator=generator)
    expected = ReferenceBackend(torch.device("cpu")).experts(experts)(x.float(), case.num_rows, row_weights)
    backend = open_backend(device, case.dtype, case.min_rows_to_unpack)
    found = backend.experts(experts)(x.to(device), case.num_rows, row_weights.to(device))
    assert found.dtype == torch.float32
    return relative_error(found, expected)


def linear_error(case: Case, device: str) -> float:
    """Multiply rows by one matrix of a case on ``device``; returns the relative error against the reference."""
    generator = torch.Generator().manual_seed(0)
    weight = random_weight(case, case.inner, case.hidden, generator)
    x = torch.randn(sum(case.num_rows), case.hidden, generator=generator).to(getattr(torch, case.dtype))
    expected = ReferenceBackend(torch.device("cpu")).linear(weight)(x.float())
    found = open_backend(device, case.dtype, case.min_rows_to_unpack).linear(weight)(x.to(device))
    assert found.dtype == x.dtype
    return relative_error(found, expected)


def mixed_storage_error(device: str) -> float:
    """Run two experts of which one's down matrix is quantized, like the gate but unlike the up matrices of both."""
    generator = torch.Generator().manual_seed(0)
    quantized, dense = Case(dtype="float32"), Case(bits=16, dtype="float32")
    experts = [
        ExpertWeights(
            random_weight(quantized, 96, 64, generator),
            random_weight(dense, 96, 64, generator),
            random_weight(case, 64, 96, generator),
        )
        for case in (quantized, dense)
    ]
    x, num_rows, row_weights = torch.randn(3, 64, generator=generator), [2, 1], torch.ones(3)
    expected = ReferenceBackend(torch.device("cpu")).experts(experts)(x, num_rows, row_weights)
    found = open_backend(device, "float32").experts(experts)(x.to(device), num_rows, row_weights.to(device))
    return relative_error(found, expected)


def op_errors(case: Case, device: str) -> dict[str, float]:
    """Run every op on the gate matrices of a case; returns the relative error of each against its torch twin."""
    from expertmesh.kernels.triton import ops, routing
    from expertmesh.kernels.triton.layout import PackedMatrices, lay_out
    from expertmesh.kernels.triton.tuning import choose_tiles

    generator = torch.Generator().manual_seed(0)
    weights = [random_weight(case, 2 * case.inner, case.hidden, generator) for _ in case.num_rows]
    matrices = lay_out(weights, torch.device(device))
    dtype = getattr(torch, case.dtype)
    x = torch.randn(sum(case.num_rows), case.hidden, generator=generator).to(device, dtype)
    facts = describe(device, case.dtype)
    (tiles,) = choose_tiles(max(case.num_rows), ops.tiles_of(matrices, dtype, facts))
    slots = sorted_slots(case.num_rows)[torch.randperm(len(x), generator=generator)].to(device)
    order = routing.schedule_torch(slots[:, None], len(case.num_rows), tiles.block_rows)
    arguments = matrices, order, tiles, facts
    found = {
        "swiglu": (ops.swiglu(x, *arguments), ops.swiglu_torch(x, *arguments)),
        "products": (ops.products(x, *arguments).sum(0), ops.products_torch(x, *arguments).sum(0)),
        "multiply": (ops.multiply(x, matrices, tiles, facts), ops.multiply_torch(x, matrices, tiles, facts)),
    }
    if isinstance(matrices, PackedMatrices):
        found["dequantize"] = (ops.dequantize(matrices, 1, dtype), ops.dequantize_torch(matrices, 1, dtype))
    assert all(one.dtype == other.dtype for one, other in found.values())
    return {name: relative_error(*results) for name, results in found.items()}


def routing_differences(slots: torch.Tensor, num_experts: int, block_rows: int, device: str) -> list[str]:
    """Schedule ``slots`` [T, A] on ``device``; returns what differs from the torch twin."""
    from expertmesh.kernels.triton.routing import schedule, schedule_torch

    found, expected = (run(slots.to(device), num_experts, block_rows) for run in (schedule, schedule_torch))
    num_hosted = int((expected.positions >= 0).sum())
    pairs = {
        "rows": (found.rows[:num_hosted], expected.rows[:num_hosted]),
        "positions": (found.positions, expected.positions),
        "tiles": (found.tiles[:, 0], expected.tiles[:, 0]),
        "places": (found.tiles[expected.tiles[:, 0] >= 0], expected.tiles[expected.tiles[:, 0] >= 0]),
    }
    return [name for name, (one, other) in pairs.items() if not one.equal(other)]


def combined(parts: torch.Tensor, positions: torch.Tensor | None, weights: torch.Tensor, num_rows: int, device: str):
    """Combine on ``device``; returns the sums and the flag of the kernel, then those of the torch twin, on the CPU."""
    from expertmesh.kernels.triton.routing import Choices, combine, combine_torch

    choices = None if positions is None else Choices(positions.to(device), weights.to(device))
    results = []
    for run in (combine, combine_torch):
        flag = torch.zeros(1, dtype=torch.int32, device=device)
        y = torch.full((num_rows, parts.shape[2]), torch.nan, device=device)
        results += [run(parts.to(device), choices, y, flag).cpu(), flag.item()]
    return results


def chosen_error(case: Case, num_rows: int, num_chosen: int, device: str) -> float:
    """Run random choices, some of them elsewhere; returns the relative error against the reference."""
    from expertmesh.kernels.moe import run_chosen

    layer = RandomLayer(case, num_rows, num_chosen)
    slots = torch.where(torch.rand(layer.slots.shape, generator=layer.generator) < 0.3, -1, layer.slots)
    reference = ReferenceBackend(torch.device("cpu")).experts(layer.experts)
    expected = run_chosen(reference, len(case.num_rows), layer.hidden.float(), slots.numpy(), layer.weights.numpy())
    ffn = open_backend(device, case.dtype).experts(layer.experts)
    found = run_chosen(ffn, len(case.num_rows), layer.hidden.to(device), slots.numpy(), layer.weights.numpy())
    assert found.dtype == torch.float32
    return relative_error(found, expected)


def sizes_that_change_bits(case: Case, num_rows: int, sizes: Sequence[int], device: str) -> list[int]:
    """Run rows on all experts, together and the last few alone; returns the numbers of these that get other bits."""
    layer = RandomLayer(case, num_rows, len(case.num_rows))
    rows = [tensor.to(device) for tensor in (layer.hidden, layer.slots, layer.weights)]
    with split_and_summed_in_order(device):
        ffn = open_backend(device, case.dtype).experts(layer.experts)
        together = ffn.run_chosen(*rows)
        return [
            size for size in sizes if not ffn.run_chosen(*(tensor[-size:] for tensor in rows)).equal(together[-size:])
        ]


def replayed_and_run(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """Capture a call on a GPU and replay it on other rows and choices; returns the sums of that and of a plain call."""
    captured, other = RandomLayer(case, 5, 2), RandomLayer(case, 5, 2, seed=1)
    ffn = open_backend("cuda", case.dtype).experts(captured.experts)
    rows, others = (
        [tensor.cuda() for tensor in (layer.hidden, layer.slots, layer.weights)] for layer in (captured, other)
    )
    others[1][0] = -1
    ffn.run_chosen(*rows)  # compiles, which cannot be captured
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        sums = ffn.run_chosen(*rows)
    for tensor, values in zip(rows, others, strict=True):
        tensor.copy_(values)
    graph.replay()
    return sums, ffn.run_chosen(*others)


def sizes_that_change_products(case: Case, num_rows: int, sizes: Sequence[int], device: str) -> list[int]:
    """Do the same with one matrix."""
    generator = torch.Generator().manual_seed(0)
    weight = random_weight(case, case.inner, case.hidden, generator)
    x = torch.randn(num_rows, case.hidden, generator=generator).to(device, getattr(torch, case.dtype))
    with split_and_summed_in_order(device):
        linear = open_backend(device, case.dtype).linear(weight)
        together = linear(x)
        return [size for size in sizes if not linear(x[-size:]).equal(together[-size:])]


@contextmanager
def split_and_summed_in_order(device: str) -> Iterator[None]:
    """Split K of small matrices, too, and have the interpreter add up products one input feature after the other.

    numpy's own product adds in an order that depends on its shape, which tensor cores are taken not to do.
    """
    from triton.runtime.interpreter import InterpreterBuilder

    from expertmesh.kernels.triton import tuning

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "MIN_INPUTS_PER_SPLIT", 128)
        if device == "cpu":
            patch.setattr(InterpreterBuilder, "create_dot", dot_in_order)
        yield


def dot_in_order(builder, a, b, sums, input_precision, max_num_imprecise_acc):
    total = sums.data
    for outputs, inputs in zip(a.data.T.astype(np.float32), b.data.astype(np.float32), strict=True):
        total = total + np.outer(outputs, inputs)
    return type(sums)(total, sums.dtype.scalar)


class RandomLayer:
    """Experts of a case, and rows with choices among them."""

    def __init__(self, case: Case, num_rows: int, num_chosen: int, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        num_experts = len(case.num_rows)
        self.experts = [random_expert(case, self.generator) for _ in range(num_experts)]
        self.hidden = torch.randn(num_rows, case.hidden, generator=self.generator).to(getattr(torch, case.dtype))
        self.slots = torch.rand(num_rows, num_experts, generator=self.generator).argsort(1)[:, :num_chosen].int()
        self.weights = torch.rand(num_rows, num_chosen, generator=self.generator)


def sorted_slots(num_rows: Sequence[int]) -> torch.Tensor:
    return torch.arange(len(num_rows)).repeat_interleave(torch.tensor(num_rows))


def open_backend(device: str, dtype: str, min_rows_to_unpack: int | None = None):
    """Open the backend on a GPU, or for Triton's interpreter on the CPU."""
    from expertmesh.kernels.triton.backend import TritonBackend

    return TritonBackend(torch.device(device), describe(device, dtype), min_rows_to_unpack)


def describe(device: str, dtype: str):
    """Tell what launches depend on."""
    from expertmesh.kernels.triton.backend import ask_device
    from expertmesh.kernels.triton.ops import Device
    from expertmesh.kernels.triton.tile_tables import DEFAULT_GPU, SHIPPED, find_tiles

    if device == "cuda":
        return ask_device(torch.device(device))
    # The interpreter multiplies the bits of bfloat16 values: there such rows take the path of GPUs without them.
    return Device(dtype == "float16", has_ptx=False, packed=find_tiles(DEFAULT_GPU, SHIPPED))


def random_expert(case: Case, generator: torch.Generator) -> ExpertWeights:
    gate = random_weight(case, case.inner, case.hidden, generator)
    up = random_weight(case, case.inner, case.hidden, generator)
    if isinstance(gate, QuantizedWeight) and isinstance(up, QuantizedWeight):
        up = replace(up, perm=gate.perm)
    return ExpertWeights(gate, up, random_weight(case, case.hidden, case.inner, generator))


def random_weight(case: Case, num_out: int, num_in: int, generator: torch.Generator) -> Weight:
    values = torch.randn(num_out, num_in, generator=generator) * num_in**-0.5
    bias = torch.randn(num_out, generator=generator) if case.bias else None
    if case.bits == 16:
        return DenseWeight(values.to(getattr(torch, case.dtype)), bias)
    weight = round_to_nearest(values, case.bits, case.group_size or num_in)
    perm = torch.randperm(num_in, generator=generator) if case.act_order else None
    zeros = torch.full_like(weight.zeros, 2 ** (case.bits - 1)) if case.symmetric else weight.zeros
    if case.zeros_between:
        zeros = zeros + torch.rand(zeros.shape, generator=generator) - 0.5
    return replace(weight, zeros=zeros, perm=perm, bias=bias)


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    if found.shape != expected.shape or not found.isfinite().all():
        return float("inf")
    if not expected.numel():
        return 0.0
    return ((found.cpu().float() - expected.cpu().float()).norm() / expected.cpu().float().norm()).item()
