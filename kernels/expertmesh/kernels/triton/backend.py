"""The Triton backend: packed weights stay packed, one launch for all experts. Knows when to unpack instead.

Alphabet: M rows, N and K output and input features, R rows sorted by expert, E hosted experts, D hidden width, F FFN
width; T rows, A experts chosen for each, C = T * A choices, S sums that make a product.
"""

from collections.abc import Iterable, Sequence

import torch
from torch.nn.functional import linear, silu

from expertmesh.kernels.backend import Contexts, DeviceFFN, Linear
from expertmesh.kernels.block_attention import BlockContexts
from expertmesh.kernels.paged_attention import attend_paged
from expertmesh.kernels.quantize import dequantize
from expertmesh.kernels.triton import ops
from expertmesh.kernels.triton.attention import attend_blocks
from expertmesh.kernels.triton.compiled import choose_cache
from expertmesh.kernels.triton.layout import DenseMatrices, Matrices, join, lay_out, stage
from expertmesh.kernels.triton.ops import Device
from expertmesh.kernels.triton.routing import Choices, Schedule, combine, read_spans, schedule
from expertmesh.kernels.triton.step_ops import TritonStepOps
from expertmesh.kernels.triton.tile_tables import find_tiles, own_tables
from expertmesh.kernels.triton.tuning import MIN_ROWS_TO_UNPACK, Tiles, choose_tiles
from expertmesh.kernels.weights import (
    DenseWeight,
    ExpertWeights,
    Weight,
    fold_down_order,
    stack_outputs,
)

MIN_CAPABILITY = (7, 5)
TENSOR_CORE_CAPABILITY = (8, 0)  # those of sm_75 are not used by Triton


class TritonLinear:
    """A matrix [N, K]: the grouped kernel with one expert.

    From ``min_rows_to_unpack`` rows on, if it is given, the vendor's library multiplies by it unpacked.
    """

    def __init__(self, matrices: Matrices, device: Device, min_rows_to_unpack: int | None = None) -> None:
        self._matrices = matrices
        self._device = device
        self._min_rows_to_unpack = min_rows_to_unpack
        self.num_bytes = matrices.num_bytes

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply in the dtype of ``x``, and return it."""
        if self._min_rows_to_unpack is not None and len(x) >= self._min_rows_to_unpack:
            return multiply_by_one(x, self._matrices, 0)
        (tiles,) = choose_tiles(len(x), ops.tiles_of(self._matrices, x.dtype, self._device))
        return ops.multiply(x, self._matrices, tiles, self._device)


class TritonExperts(DeviceFFN):
    """The hosted experts of a layer: a schedule, gate and up, down, and the sums of each row, in a launch each.

    ``gate_up`` [E, 2F, D]: output 2f is gate, 2f + 1 is up of feature f. ``down`` is [E, D, F]. From
    ``min_rows_to_unpack`` rows per expert on, if it is given, experts are unpacked one by one, for the vendor's
    library, unless the sums are wanted in memory that is there; the last bits of a row then depend on how many there
    are.
    """

    def __init__(
        self, gate_up: Matrices, down: Matrices, device: Device, min_rows_to_unpack: int | None = None
    ) -> None:
        self._gate_up = gate_up
        self._down = down
        self._device = device
        self._min_rows_to_unpack = min_rows_to_unpack
        self._num_experts = _count(gate_up)
        self.num_bytes = gate_up.num_bytes + down.num_bytes

    def __call__(self, x: torch.Tensor, num_rows: Sequence[int], row_weights: torch.Tensor) -> torch.Tensor:
        """See ``GroupedFFN``; ValueError when ``num_rows`` do not add up to R or are not one per expert."""
        if len(num_rows) != self._num_experts or sum(num_rows) != len(x):
            raise ValueError(
                f"num_rows {list(num_rows)} add up to {sum(num_rows)} for {len(num_rows)} experts; "
                f"there are {len(x)} rows and {self._num_experts} experts"
            )
        slots = torch.arange(self._num_experts).repeat_interleave(torch.tensor(num_rows))  # [R]
        return self.run_chosen(x, slots.to(x.device, non_blocking=True)[:, None], row_weights[:, None])

    def run_chosen(
        self,
        hidden: torch.Tensor,
        topk_slots: torch.Tensor,
        topk_weights: torch.Tensor,
        out: torch.Tensor | None = None,
        nonfinite: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See ``DeviceFFN``."""
        may_ask = out is None
        out = torch.empty(hidden.shape, dtype=torch.float32, device=hidden.device) if out is None else out
        tiles = self._choose_tiles(topk_slots, hidden.dtype)
        order = schedule(topk_slots, self._num_experts, tiles[0].block_rows)
        run = self._run_unpacked if may_ask and self._pays_to_unpack(topk_slots) else self._run_grouped
        parts = run(hidden, order, tiles)  # [S, C, D]
        return combine(parts, Choices(order.positions, topk_weights), out, nonfinite)

    def _choose_tiles(self, topk_slots: torch.Tensor, dtype: torch.dtype) -> tuple[Tiles, ...]:
        num_rows, num_chosen = topk_slots.shape
        # A row chooses an expert once, so where few experts are hosted, some of its choices are not.
        rows_per_expert = min(num_rows, -(-num_rows * num_chosen // self._num_experts))
        tables = [ops.tiles_of(matrices, dtype, self._device) for matrices in (self._gate_up, self._down)]
        return choose_tiles(rows_per_expert, *tables)

    def _pays_to_unpack(self, topk_slots: torch.Tensor) -> bool:
        if self._min_rows_to_unpack is None or topk_slots.numel() < self._min_rows_to_unpack * self._num_experts:
            return False
        return not (topk_slots.is_cuda and torch.cuda.is_current_stream_capturing())

    def _run_grouped(self, hidden: torch.Tensor, order: Schedule, tiles: Sequence[Tiles]) -> torch.Tensor:
        inner = ops.swiglu(hidden, self._gate_up, order, tiles[0], self._device)  # [C, F]
        return ops.products(inner, self._down, order, tiles[1], self._device)

    def _run_unpacked(self, hidden: torch.Tensor, order: Schedule, tiles: Sequence[Tiles]) -> torch.Tensor:
        """Run one expert after the other: unpacked, the matrices of a Mixtral layer would take 2.8 GB."""
        outputs = torch.empty(len(order.rows), hidden.shape[1], dtype=torch.float32, device=hidden.device)
        for expert, first, end in read_spans(order):
            x = hidden.index_select(0, order.rows[first:end])
            gate, up = multiply_by_one(x, self._gate_up, expert).view(len(x), -1, 2).unbind(2)  # [r, F]
            outputs[first:end] = multiply_by_one(silu(gate).mul_(up), self._down, expert)
        return outputs.unsqueeze(0)


def multiply_by_one(x: torch.Tensor, matrices: Matrices, expert: int) -> torch.Tensor:
    """Multiply ``x`` [M, K] by the unpacked matrix of one expert in the dtype of ``x``; returns [M, N]."""
    if isinstance(matrices, DenseMatrices):
        values = matrices.data[expert].to(x.dtype)
    else:
        values = ops.dequantize(matrices, expert, x.dtype)
        x = x if matrices.order is None else x.index_select(1, matrices.order[expert])
    return linear(x, values, None if matrices.bias is None else matrices.bias[expert].to(x.dtype))


class TritonBackend:
    """Runs on a GPU from sm_75 up, or its AMD counterparts.

    Products give a row the same bits in any company, unless there is a ``min_rows_to_unpack``: so many rows, of an
    expert in the mean, are left to the vendor's library, which is faster.
    """

    isa = ""
    # By construction a row's bits depend on nothing else; on a GPU that has not been seen yet.
    is_deterministic = False
    can_be_recorded = True
    activation_dtype = torch.bfloat16
    step_ops = TritonStepOps()

    def __init__(self, device: torch.device, facts: Device, min_rows_to_unpack: int | None = None) -> None:
        self.name = "triton" if min_rows_to_unpack is None else "triton-blas"
        self.device = device
        self._facts = facts
        self._min_rows_to_unpack = min_rows_to_unpack

    @classmethod
    def open(cls, device: torch.device, leaves_many_rows: bool = False) -> "TritonBackend":
        """Ask the GPU what it is; ValueError when it is too old for Triton, RuntimeError when there is none.

        ``leaves_many_rows`` to the vendor's library, where that is faster.
        """
        capability = torch.cuda.get_device_capability(device)
        if capability < MIN_CAPABILITY:
            raise ValueError(f"backend triton needs compute capability 7.5, {device} has {capability}; use reference")
        choose_cache()
        return cls(device, ask_device(device), MIN_ROWS_TO_UNPACK if leaves_many_rows else None)

    def linear(self, weight: Weight) -> Linear:
        """Take over one matrix."""
        return TritonLinear(lay_out([weight], self.device), self._facts, self._min_rows_to_unpack)

    def experts(self, experts: Iterable[ExpertWeights]) -> DeviceFFN:
        """Take over the experts of one layer."""
        # A loop would hold the weights of one expert while the next are read.
        gate_ups, downs = zip(*map(self._stage, experts), strict=True)
        matrices = join(gate_ups, self.device), join(downs, self.device)
        return TritonExperts(*matrices, self._facts, self._min_rows_to_unpack)

    def _stage(self, expert: ExpertWeights) -> tuple[Matrices, Matrices]:
        folded = fold_down_order(expert)
        gate_up = interleave_outputs(folded.w_gate, folded.w_up)
        return stage(gate_up, self.device), stage(folded.w_down, self.device)

    def attend(self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, contexts: Contexts) -> torch.Tensor:
        """Attend where keys and values lie, in launches that a graph can capture."""
        if not isinstance(contexts, BlockContexts):
            return attend_paged(query, keys, values, contexts)
        return attend_blocks(query, keys, values, contexts)


def ask_device(device: torch.device) -> Device:
    """Ask a GPU what launches on it depend on."""
    return Device(
        has_tensor_cores=torch.cuda.get_device_capability(device) >= TENSOR_CORE_CAPABILITY,
        has_ptx=torch.version.hip is None,
        packed=find_tiles(torch.cuda.get_device_name(device), own_tables()),
    )


def interleave_outputs(gate: Weight, up: Weight) -> Weight:
    """Join two matrices [F, D] to one [2F, D] whose outputs 2f and 2f + 1 are output f of each.

    Matrices whose storage differs become dense.
    """
    joined = stack_outputs((gate, up)) or stack_outputs((_as_float(gate), _as_float(up)))
    assert joined is not None
    return joined.take_outputs(torch.arange(joined.shape[0]).view(2, -1).T.flatten())


def _as_float(weight: Weight) -> DenseWeight:
    return DenseWeight(weight.data.float() if isinstance(weight, DenseWeight) else dequantize(weight), weight.bias)


def _count(matrices: Matrices) -> int:
    return matrices.data.shape[0] if isinstance(matrices, DenseMatrices) else matrices.words.shape[0]
