"""The experts of one layer by torch's own products, as ``gpu_ffn.py`` compares with. Knows no kernel of this project.

Alphabet: R rows sorted by expert, E experts, D hidden width, F FFN width, G groups, N and K a matrix's outputs, inputs.
"""

from collections.abc import Sequence

import torch
from torch.nn.functional import grouped_mm, silu

from expertmesh.kernels.weights import DenseWeight, ExpertWeights, QuantizedWeight, Weight

INNER_TILES = 8  # of tinygemm's layout

Packed = tuple[torch.Tensor, torch.Tensor, int]


class GroupedMatmul:
    """The peer in bfloat16: torch's ``grouped_mm`` twice over stacked matrices."""

    def __init__(self, experts: Sequence[ExpertWeights], device: torch.device) -> None:
        self._gate_up = torch.stack([torch.cat((dense(e.w_gate), dense(e.w_up))).T for e in experts]).to(device)
        self._down = torch.stack([dense(e.w_down).T for e in experts]).to(device)
        self._ends: dict[tuple[int, ...], torch.Tensor] = {}

    def __call__(self, x: torch.Tensor, num_rows: Sequence[int], row_weights: torch.Tensor) -> torch.Tensor:
        """See ``GroupedFFN``."""
        ends = self._ends_of(tuple(num_rows), x.device)
        gate, up = grouped_mm(x, self._gate_up, offs=ends).chunk(2, dim=-1)  # [R, F]
        return grouped_mm(silu(gate) * up, self._down, offs=ends) * row_weights[:, None]

    def _ends_of(self, num_rows: tuple[int, ...], device: torch.device) -> torch.Tensor:
        """Where the rows of each expert end [E], copied once: a gate on the device would leave them there."""
        if num_rows not in self._ends:
            self._ends[num_rows] = torch.tensor(num_rows).cumsum(0).int().to(device)
        return self._ends[num_rows]


class Tinygemm:
    """The peer in 4 bits: torch's int4 product, expert by expert."""

    def __init__(self, experts: Sequence[ExpertWeights], device: torch.device) -> None:
        self._experts = [[pack_tinygemm(w, device) for w in (e.w_gate, e.w_up, e.w_down)] for e in experts]

    def __call__(self, x: torch.Tensor, num_rows: Sequence[int], row_weights: torch.Tensor) -> torch.Tensor:
        """See ``GroupedFFN``."""
        parts = []
        for rows, (gate, up, down) in zip(torch.split(x, list(num_rows)), self._experts, strict=True):
            if len(rows):
                inner = silu(multiply_tinygemm(rows, gate)) * multiply_tinygemm(rows, up)
                parts.append(multiply_tinygemm(inner, down))
        return torch.cat(parts) * row_weights[:, None]


def pack_tinygemm(weight: Weight, device: torch.device) -> Packed:
    """Lay out 4-bit codes for ``_weight_int4pack_mm``: codes, scales and shifts [G, N, 2], group size."""
    assert isinstance(weight, QuantizedWeight)
    codes = weight.codes.to(device)
    pairs = codes[:, ::2] << 4 | codes[:, 1::2]  # [N, K/2] uint8
    packed = torch.ops.aten._convert_weight_to_int4pack(pairs, INNER_TILES)
    scales = weight.scales.float().T
    shifts = (8 - weight.zeros.float().T) * scales
    return packed, torch.stack((scales, shifts), dim=-1).to(device, torch.bfloat16).contiguous(), weight.group_size


def multiply_tinygemm(x: torch.Tensor, packed: Packed) -> torch.Tensor:
    """Multiply ``x`` [M, K] by 4-bit codes."""
    codes, scales_shifts, group_size = packed
    y: torch.Tensor = torch.ops.aten._weight_int4pack_mm(x, codes, group_size, scales_shifts)
    return y


def dense(weight: Weight) -> torch.Tensor:
    """Return the matrix of a dense weight."""
    assert isinstance(weight, DenseWeight)
    return weight.data
