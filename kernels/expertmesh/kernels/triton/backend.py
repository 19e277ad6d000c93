"""The Triton backend: packed weights stay packed, one launch for all experts. Knows when to unpack instead.

Alphabet: M rows, N and K output and input features, R rows sorted by expert, E hosted experts, D hidden width, F FFN
width.
"""

from collections.abc import Iterable, Sequence
from functools import partial

import torch
from torch.nn.functional import linear, silu

from expertmesh.kernels.affine import complete
from expertmesh.kernels.backend import GroupedFFN, Linear
from expertmesh.kernels.ffn import run_one_by_one
from expertmesh.kernels.paged_attention import PagedContexts, attend_paged
from expertmesh.kernels.quantize import dequantize
from expertmesh.kernels.triton import ops
from expertmesh.kernels.triton.layout import DenseMatrices, Matrices, PackedMatrices, join, lay_out, stage
from expertmesh.kernels.triton.ops import Device, Epilogue
from expertmesh.kernels.triton.tuning import MIN_ROWS_TO_DEQUANTIZE
from expertmesh.kernels.weights import (
    DenseWeight,
    ExpertWeights,
    QuantizedWeight,
    Weight,
    fold_down_order,
    stack_outputs,
)

MIN_CAPABILITY = (7, 5)
TENSOR_CORE_CAPABILITY = (8, 0)  # those of sm_75 are not used by Triton


class DenseLinear:
    """A matrix [N, K] as it is, multiplied by torch."""

    def __init__(self, data: torch.Tensor) -> None:
        self._data = data
        self.num_bytes = data.nbytes

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply in the dtype of the matrix, return the dtype of ``x``."""
        return linear(x.to(self._data.dtype), self._data).to(x.dtype)


class PackedLinear:
    """A quantized matrix [N, K]: the grouped kernel with one expert, or unpacked for many rows."""

    def __init__(self, matrices: PackedMatrices, device: Device) -> None:
        self._matrices = matrices
        self._device = device
        self.num_bytes = matrices.num_bytes

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply, return the dtype of ``x``."""
        x = x.contiguous()
        if len(x) >= MIN_ROWS_TO_DEQUANTIZE:
            return multiply_by_one(x, self._matrices, 0)
        return ops.grouped_linear(x, self._matrices, [len(x)], Epilogue(x.dtype), self._device)


class TritonExperts:
    """The hosted experts of a layer: gate and up in a first launch, down in a second.

    ``gate_up`` [E, 2F, D]: output 2f is gate, 2f + 1 is up of feature f. ``down`` is [E, D, F].
    """

    def __init__(self, gate_up: Matrices, down: Matrices, device: Device) -> None:
        self._gate_up = gate_up
        self._down = down
        self._device = device
        self.num_bytes = gate_up.num_bytes + down.num_bytes

    def __call__(self, x: torch.Tensor, num_rows: Sequence[int], row_weights: torch.Tensor) -> torch.Tensor:
        """See ``GroupedFFN``; ValueError when ``num_rows`` do not add up to R or are not one per expert."""
        num_experts = _count(self._gate_up)
        if len(num_rows) != num_experts or sum(num_rows) != len(x):
            raise ValueError(
                f"num_rows {list(num_rows)} add up to {sum(num_rows)} for {len(num_rows)} experts; "
                f"there are {len(x)} rows and {num_experts} experts"
            )
        num_active = sum(count > 0 for count in num_rows)
        if len(x) >= MIN_ROWS_TO_DEQUANTIZE * max(num_active, 1):
            # One expert's matrices at a time: unpacked, those of a Mixtral layer would take 2.8 GB.
            unpacked = [partial(self._run_unpacked, expert) for expert in range(num_experts)]
            return run_one_by_one(unpacked, x, num_rows, row_weights)
        return self._run_grouped(x.contiguous(), num_rows, row_weights)

    def _run_grouped(self, x: torch.Tensor, num_rows: Sequence[int], row_weights: torch.Tensor) -> torch.Tensor:
        inner = ops.grouped_linear(x, self._gate_up, num_rows, Epilogue(x.dtype, swiglu=True), self._device)  # [R, F]
        weigh = Epilogue(torch.float32, row_weights=row_weights)
        return ops.grouped_linear(inner, self._down, num_rows, weigh, self._device)

    def _run_unpacked(self, expert: int, x: torch.Tensor) -> torch.Tensor:
        gate, up = multiply_by_one(x, self._gate_up, expert).view(len(x), -1, 2).unbind(2)  # [r, F]
        return multiply_by_one(silu(gate).mul_(up), self._down, expert)


def multiply_by_one(x: torch.Tensor, matrices: Matrices, expert: int) -> torch.Tensor:
    """Multiply ``x`` [M, K] by the unpacked matrix of one expert in the dtype of ``x``; returns [M, N]."""
    if isinstance(matrices, DenseMatrices):
        values = matrices.data[expert].to(x.dtype)
    else:
        values = ops.dequantize(matrices, expert, x.dtype)
        x = x if matrices.order is None else x.index_select(1, matrices.order[expert])
    return linear(x, values, None if matrices.bias is None else matrices.bias[expert].to(x.dtype))


class TritonBackend:
    """Runs on a GPU from sm_75 up, or its AMD counterparts."""

    name = "triton"
    isa = ""
    # In how many parts K is split depends on the number of rows.
    is_deterministic = False
    activation_dtype = torch.bfloat16

    def __init__(self, device: torch.device, facts: Device) -> None:
        self.device = device
        self._facts = facts

    @classmethod
    def open(cls, device: torch.device) -> "TritonBackend":
        """Ask the GPU what it is; ValueError when it is too old for Triton, RuntimeError when there is none."""
        capability = torch.cuda.get_device_capability(device)
        if capability < MIN_CAPABILITY:
            raise ValueError(f"backend triton needs compute capability 7.5, {device} has {capability}; use reference")
        num_processors = torch.cuda.get_device_properties(device).multi_processor_count
        has_tensor_cores = capability >= TENSOR_CORE_CAPABILITY
        return cls(device, Device(num_processors, has_tensor_cores, has_ptx=torch.version.hip is None))

    def linear(self, weight: Weight) -> Linear:
        """Take over one matrix; dense ones, and groups that do not fit the packed layout, are multiplied by torch."""
        matrices = lay_out([weight], self.device)
        if isinstance(matrices, PackedMatrices):
            return PackedLinear(matrices, self._facts)
        return complete(DenseLinear(matrices.data[0]), DenseWeight(matrices.data[0], weight.bias), self.device)

    def experts(self, experts: Iterable[ExpertWeights]) -> GroupedFFN:
        """Take over the experts of one layer."""
        # A loop would hold the weights of one expert while the next are read.
        gate_ups, downs = zip(*map(self._stage, experts), strict=True)
        return TritonExperts(join(gate_ups, self.device), join(downs, self.device), self._facts)

    def _stage(self, expert: ExpertWeights) -> tuple[Matrices, Matrices]:
        folded = fold_down_order(expert)
        gate_up = interleave_outputs(folded.w_gate, folded.w_up)
        return stage(gate_up, self.device), stage(folded.w_down, self.device)

    def attend_paged(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, contexts: PagedContexts
    ) -> torch.Tensor:
        """Gather the contexts and attend."""
        return attend_paged(query, keys, values, contexts)


def interleave_outputs(gate: Weight, up: Weight) -> Weight:
    """Join two matrices [F, D] to one [2F, D] whose outputs 2f and 2f + 1 are output f of each.

    Matrices whose storage differs become dense.
    """
    joined = stack_outputs((gate, up)) or stack_outputs((_as_float(gate), _as_float(up)))
    assert joined is not None
    return joined.take_outputs(torch.arange(joined.shape[0]).view(2, -1).T.flatten())


def _as_float(weight: Weight) -> DenseWeight:
    return DenseWeight(dequantize(weight) if isinstance(weight, QuantizedWeight) else weight.data.float(), weight.bias)


def _count(matrices: Matrices) -> int:
    return matrices.data.shape[0] if isinstance(matrices, DenseMatrices) else matrices.words.shape[0]
