"""The blocks of codes that GGUF files hold. Knows their bytes, not the files.

The inputs of each output are cut into blocks, laid out as ggml-common.h of ggml says. All types here hold, for groups
of 16 or 32 inputs, codes with a scale and a zero point, or with a scale and a minimum, which is a zero point that may
lie between codes: ``QuantizedWeight`` holds the same values, to the last bits of float32.

Alphabet: N output features, K input features, B blocks, C values and G groups of a block.
"""

from collections.abc import Callable

import torch

from expertmesh.kernels.formats import GGML_BLOCKS
from expertmesh.kernels.weights import QuantizedWeight, describe

# Codes [B, C], scales [B, G], zeros [B, G].
Parts = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def unpack(data: torch.Tensor, kind: str) -> QuantizedWeight:
    """Read a matrix [N, bytes of an output] uint8 of the type ``kind``; ValueError for no such type or other shapes."""
    if kind not in GGML_BLOCKS:
        raise ValueError(f"type {kind} is not read; one of {', '.join(GGML_BLOCKS)} would be right")
    block = GGML_BLOCKS[kind]
    if data.dtype != torch.uint8 or data.dim() != 2 or not data.numel() or data.shape[1] % block.num_bytes:
        raise ValueError(f"{kind} blocks are {describe(data)}; uint8 [outputs, blocks x {block.num_bytes}] is right")
    codes, scales, zeros = UNPACKERS[kind](data.reshape(-1, block.num_bytes))
    return QuantizedWeight(
        codes=codes.reshape(len(data), -1),
        scales=scales.reshape(len(data), -1),
        zeros=zeros.reshape(len(data), -1),
        bits=block.bits,
        group_size=block.group_size,
    )


def _q4_0(blocks: torch.Tensor) -> Parts:
    return _around(_nibbles(blocks[:, 2:]), _halves(blocks[:, :2]), 8)


def _q4_1(blocks: torch.Tensor) -> Parts:
    scale, minimum = _floats(blocks[:, :4]).split(1, dim=1)
    return _above(_nibbles(blocks[:, 4:]), scale, minimum)


def _q5_0(blocks: torch.Tensor) -> Parts:
    return _around(_nibbles(blocks[:, 6:]) | _fifth_bits(blocks[:, 2:6]), _halves(blocks[:, :2]), 16)


def _q5_1(blocks: torch.Tensor) -> Parts:
    scale, minimum = _floats(blocks[:, :4]).split(1, dim=1)
    return _above(_nibbles(blocks[:, 8:]) | _fifth_bits(blocks[:, 4:8]), scale, minimum)


def _q8_0(blocks: torch.Tensor) -> Parts:
    return _around(blocks[:, 2:] ^ 128, _halves(blocks[:, :2]), 128)  # signed bytes, moved up by 128


def _q2_k(blocks: torch.Tensor) -> Parts:
    scale, minimum = _floats(blocks[:, 80:]).split(1, dim=1)
    return _above(_crumbs(blocks[:, 16:80]), scale * (blocks[:, :16] & 15), -minimum * (blocks[:, :16] >> 4))


def _q3_k(blocks: torch.Tensor) -> Parts:
    high = _stack_bits(blocks[:, :32], range(8), 1).flatten(1)
    low, top = blocks[:, 96:104], blocks[:, 104:108]
    steps = torch.cat((low & 15, low >> 4), dim=1) | _stack_bits(top, range(0, 8, 2), 3).flatten(1) << 4  # [B, 16]
    return _around(_crumbs(blocks[:, 32:96]) | high << 2, _floats(blocks[:, 108:]) * (steps.float() - 32), 4)


def _q4_k(blocks: torch.Tensor) -> Parts:
    codes = torch.cat([_nibbles(part) for part in blocks[:, 16:].split(32, dim=1)], dim=1)
    return _above(codes, *_scales_and_minima(blocks))


def _q5_k(blocks: torch.Tensor) -> Parts:
    codes = torch.cat([_nibbles(part) for part in blocks[:, 48:].split(32, dim=1)], dim=1)
    high = _stack_bits(blocks[:, 16:48], range(8), 1).flatten(1)
    return _above(codes | high << 4, *_scales_and_minima(blocks))


def _q6_k(blocks: torch.Tensor) -> Parts:
    low = torch.cat([_nibbles(part) for part in blocks[:, :128].split(64, dim=1)], dim=1)
    codes = low | _crumbs(blocks[:, 128:192]) << 4
    steps = blocks[:, 192:208].contiguous().view(torch.int8)  # [B, 16]
    return _around(codes, _floats(blocks[:, 208:]) * steps, 32)


UNPACKERS: dict[str, Callable[[torch.Tensor], Parts]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}


def _around(codes: torch.Tensor, scales: torch.Tensor, zero: int) -> Parts:
    """Values are scale x (code - ``zero``)."""
    return codes, scales, torch.full_like(scales, zero, dtype=torch.uint8)


def _above(codes: torch.Tensor, scales: torch.Tensor, minima: torch.Tensor) -> Parts:
    """Values are scale x code + minimum. Where the scale is 0 they are all the minimum: minus one step from zero 1."""
    is_flat = scales == 0
    groups = codes.view(*scales.shape, -1).masked_fill(is_flat.unsqueeze(-1), 0)
    zeros = torch.where(is_flat, 1, -minima / scales)
    return groups.flatten(1), torch.where(is_flat, -minima, scales), zeros


def _scales_and_minima(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the scales and minima [B, 8] of Q4_K and Q5_K: 6 bits of each, the last four's lie in two places."""
    scale, minimum = _floats(blocks[:, :4]).split(1, dim=1)
    first, second, rest = blocks[:, 4:16].split(4, dim=1)
    steps = torch.cat((first & 63, rest & 15 | first >> 6 << 4), dim=1)
    heights = torch.cat((second & 63, rest >> 4 | second >> 6 << 4), dim=1)
    return scale * steps, -minimum * heights


def _halves(data: torch.Tensor) -> torch.Tensor:
    return data.contiguous().view(torch.float16)


def _floats(data: torch.Tensor) -> torch.Tensor:
    return _halves(data).float()


def _nibbles(data: torch.Tensor) -> torch.Tensor:
    """Unpack bytes: first all low halves, then all high ones."""
    return torch.cat((data & 15, data >> 4), dim=1)


def _crumbs(data: torch.Tensor) -> torch.Tensor:
    """Unpack 64 bytes to 2 bits each: of the first 32 the lowest, then the next ones, then of the others."""
    return torch.cat([_stack_bits(part, range(0, 8, 2), 3).flatten(1) for part in data.split(32, dim=1)], dim=1)


def _fifth_bits(data: torch.Tensor) -> torch.Tensor:
    """Unpack a word of 32 bits, lowest first, to the fifth bits of 32 codes."""
    shifts = torch.arange(8, dtype=torch.uint8, device=data.device)
    return (data.unsqueeze(-1) >> shifts & 1).flatten(1) << 4


def _stack_bits(data: torch.Tensor, shifts: range, mask: int) -> torch.Tensor:
    """Take ``mask`` of the bytes [B, ...] behind each of ``shifts``: [B, shifts, ...]."""
    return torch.stack([data >> shift & mask for shift in shifts], dim=1)
