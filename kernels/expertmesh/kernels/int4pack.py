"""Torch's packed 4-bit matrices for CPUs. Knows the op, its layout on this CPU.

Alphabet: M rows, N output features, K input features, G groups, B outputs of a tile of the packed layout.
"""

from dataclasses import dataclass
from functools import cache

import torch

from expertmesh.kernels.weights import Quantized

GROUP_SIZES = (32, 64, 128, 256)
TILE_OUTPUTS = (64, 32)


@dataclass(frozen=True)
class TileLayout:
    """Where the packed layout keeps the codes of a tile of ``num_outputs`` outputs.

    A tile is [K, num_outputs / 2] bytes; ``positions`` [num_outputs] says which nibble of a byte row (low nibbles
    first, then high ones) holds each output.
    """

    num_outputs: int
    positions: torch.Tensor


@dataclass(frozen=True)
class PackedInt4:
    """``codes`` in the op's own layout [N, K/2] uint8, ``scales_zeros`` [G, N, 2] bfloat16.

    w = (code - 8) * scale + zero, so a zero point z becomes (8 - z) * scale. The layout differs between CPUs: it is
    made at load and never stored.
    """

    codes: torch.Tensor
    scales_zeros: torch.Tensor
    group_size: int

    @classmethod
    def pack(cls, weight: Quantized) -> "PackedInt4":
        """Lay out a 4-bit weight whose group size is one of ``GROUP_SIZES`` and whose N is a multiple of 16."""
        scales = weight.scales.float()
        shifts = (8 - weight.zeros.float()) * scales
        scales_zeros = torch.stack((scales.T, shifts.T), dim=-1)  # [G, N, 2]
        codes = torch.ops.aten._convert_weight_to_int4pack_for_cpu(weight.codes.int(), 1)
        return cls(codes, scales_zeros.to(torch.bfloat16).contiguous(), weight.group_size)

    @property
    def num_bytes(self) -> int:
        """Bytes of codes, scales and zeros."""
        return self.codes.nbytes + self.scales_zeros.nbytes

    @property
    def can_dequantize(self) -> bool:
        """Whether the layout on this CPU is known and fits N."""
        layout = tile_layout()
        return layout is not None and self.codes.shape[0] % layout.num_outputs == 0

    def multiply(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply ``x`` [M, K] bfloat16 by the packed codes; returns [M, N] bfloat16."""
        y: torch.Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            x.contiguous(), self.codes, self.group_size, self.scales_zeros
        )
        return y

    def dequantize_and_multiply(self, x: torch.Tensor, block_outputs: int) -> torch.Tensor:
        """Multiply ``x`` [M, K] by ``block_outputs`` outputs after the other, dequantized; returns [M, N].

        Computes in bfloat16 where the CPU is fast at it, else in float32.
        """
        x = x.to(torch.bfloat16 if has_fast_bfloat16() else torch.float32)
        num_outputs = self.codes.shape[0]
        y = torch.empty(x.shape[0], num_outputs, dtype=x.dtype)
        for start in range(0, num_outputs, block_outputs):
            stop = min(start + block_outputs, num_outputs)
            y[:, start:stop] = x @ self.dequantize(start, stop, x.dtype)
        return y

    def dequantize(self, start: int, stop: int, dtype: torch.dtype) -> torch.Tensor:
        """Return the weights of outputs ``start`` to ``stop`` (multiples of a tile) as [K, stop - start]."""
        layout = tile_layout()
        assert layout is not None
        num_in = 2 * self.codes.shape[1]
        tiles = self.codes[start:stop].view(-1, num_in, layout.num_outputs // 2)  # [tiles, K, B/2]
        nibbles = torch.cat((tiles & 0xF, tiles >> 4), dim=-1)[..., layout.positions]  # [tiles, K, B]
        codes = nibbles.transpose(0, 1).reshape(-1, self.group_size, stop - start)  # [G, group_size, N']
        scales, shifts = self.scales_zeros[:, start:stop].to(dtype).unbind(-1)  # [G, N']
        values = torch.addcmul((shifts - 8 * scales).unsqueeze(1), codes.to(dtype), scales.unsqueeze(1))
        return values.view(num_in, -1)


@cache
def has_fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 faster than float32."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@cache
def tile_layout() -> TileLayout | None:
    """Find out the packed layout of this CPU by packing known codes; None if it is of no known kind."""
    num_in = 32
    outputs = torch.arange(64, dtype=torch.int32).unsqueeze(1).expand(64, num_in)
    low = torch.ops.aten._convert_weight_to_int4pack_for_cpu((outputs % 16).contiguous(), 1)
    high = torch.ops.aten._convert_weight_to_int4pack_for_cpu((outputs // 16).contiguous(), 1)
    for size in TILE_OUTPUTS:
        first_low, first_high = (t.flatten()[: num_in * size // 2].view(num_in, -1) for t in (low, high))
        held = torch.cat(
            ((first_low & 0xF) + 16 * (first_high & 0xF), (first_low >> 4) + 16 * (first_high >> 4)), dim=-1
        )  # [num_in, size]: the output that each nibble belongs to
        if (held == held[0]).all() and held[0].sort().values.equal(torch.arange(size, dtype=held.dtype)):
            return TileLayout(size, held[0].argsort())
    return None
