"""The table of numerical cases, and running one. Imports no triton, so that a process may first choose how it runs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
    bias: bool = False

    @property
    def max_error(self) -> float:
        """The relative error that is allowed; groups that fit no packed layout become bfloat16 matrices."""
        return MAX_ERRORS["bfloat16" if self.group_size % 16 else self.dtype]


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
    "rows that pay for unpacking": Case(num_rows=(780, 0, 1)),
    "rows that pay for unpacking, act-order": Case(bits=3, act_order=True, bias=True, num_rows=(780, 0, 1)),
    "dense, many rows": Case(bits=16, bias=True, num_rows=(780, 0, 1)),
}
HALF = ("float16", "bfloat16")


def in_dtypes(cases: dict[str, Case], dtypes: Sequence[str]) -> dict[str, Case]:
    """Give each case rows of each dtype."""
    return {f"{name}, {dtype}": replace(case, dtype=dtype) for name, case in cases.items() for dtype in dtypes}


EXPERTS = in_dtypes(CASES, HALF) | in_dtypes({name: CASES[name] for name in ("4 bits", "dense")}, ["float32"])
LINEAR_NAMES = ("4 bits", "4 bits, everything", "3 bits", "dense, bias", "rows that pay for unpacking")
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
    backend = open_backend(device, case.dtype)
    found = backend.experts(experts)(x.to(device), case.num_rows, row_weights.to(device))
    assert found.dtype == torch.float32
    return relative_error(found, expected)


def linear_error(case: Case, device: str) -> float:
    """Multiply rows by one matrix of a case on ``device``; returns the relative error against the reference."""
    generator = torch.Generator().manual_seed(0)
    weight = random_weight(case, case.inner, case.hidden, generator)
    x = torch.randn(sum(case.num_rows), case.hidden, generator=generator).to(getattr(torch, case.dtype))
    expected = ReferenceBackend(torch.device("cpu")).linear(weight)(x.float())
    found = open_backend(device, case.dtype).linear(weight)(x.to(device))
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
    from expertmesh.kernels.triton import ops
    from expertmesh.kernels.triton.layout import PackedMatrices, lay_out

    generator = torch.Generator().manual_seed(0)
    weights = [random_weight(case, 2 * case.inner, case.hidden, generator) for _ in case.num_rows]
    matrices = lay_out(weights, torch.device(device))
    dtype = getattr(torch, case.dtype)
    x = torch.randn(sum(case.num_rows), case.hidden, generator=generator).to(device, dtype)
    epilogues = {
        "plain": ops.Epilogue(dtype),
        "swiglu": ops.Epilogue(dtype, swiglu=True),
        "row weights": ops.Epilogue(torch.float32, row_weights=torch.rand(len(x), generator=generator).to(device)),
    }
    errors = {}
    for name, epilogue in epilogues.items():
        arguments = (
            x,
            matrices,
            case.num_rows,
            epilogue,
            ops.Device(4, case.dtype == "float16", has_ptx=device == "cuda"),
        )
        found, expected = ops.grouped_linear(*arguments), ops.grouped_linear_torch(*arguments)
        assert found.dtype == expected.dtype
        errors[name] = relative_error(found, expected)
    if isinstance(matrices, PackedMatrices):
        values = [op(matrices, 1, dtype) for op in (ops.dequantize, ops.dequantize_torch)]
        errors["dequantize"] = relative_error(values[0], values[1])
    return errors


def open_backend(device: str, dtype: str):
    """Open the backend on a GPU, or for Triton's interpreter on the CPU."""
    from expertmesh.kernels.triton.backend import TritonBackend
    from expertmesh.kernels.triton.ops import Device

    if device == "cuda":
        return TritonBackend.open(torch.device(device))
    # The interpreter multiplies the bits of bfloat16 values: there such rows take the path of GPUs without them.
    return TritonBackend(torch.device(device), Device(4, has_tensor_cores=dtype == "float16", has_ptx=False))


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
    return replace(weight, zeros=zeros, perm=perm, bias=bias)


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    if found.shape != expected.shape or not found.isfinite().all():
        return float("inf")
    if not expected.numel():
        return 0.0
    return ((found.cpu().float() - expected.cpu().float()).norm() / expected.cpu().float().norm()).item()
