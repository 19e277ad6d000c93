"""Matrices of 8-bit numbers, floating point or integers, that blocks of them share scales. Knows no files.

Alphabet: N output features, K input features, R x C blocks. Matrices are [N, K].
"""

from dataclasses import dataclass

import torch

from expertmesh.kernels.formats import Block, is_alike
from expertmesh.kernels.packed import read_bias
from expertmesh.kernels.weights import DenseWeight, QuantizedWeight, describe

FLOATS, INTEGERS = torch.float8_e4m3fn, torch.int8
# What makes an integer from -128 to 127 a code from 0 to 255.
OFFSET = 128


@dataclass(frozen=True)
class ScaledTensors:
    """The tensors that files hold: ``w = (weight - zeros) * scales``, with the scale and zero point of its block.

    ``weight`` [N, K] float8_e4m3fn or int8; ``scales`` [R, C] floating point and ``zeros`` [R, C] int8 (None = 0), or
    of any shape that differs from it in dimensions of 1 only; ``bias`` [N] or None.
    """

    weight: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor | None = None
    bias: torch.Tensor | None = None


def unpack_floats(tensors: ScaledTensors, block: Block, dtype: torch.dtype) -> DenseWeight:
    """Multiply in float32 and round to ``dtype`` once; ValueError names the tensor that does not fit the others."""
    num_out, num_in = _check(tensors.weight, FLOATS)
    scales = _spread(_read_grid("scales", tensors.scales, block.grid(num_out, num_in)), block, num_out)  # [N, C]
    values = tensors.weight.float()
    for column, part in enumerate(values.split(block.inputs_of(num_in), dim=1)):
        part.mul_(scales[:, column : column + 1].float())
    return DenseWeight(values.to(dtype), read_bias(tensors.bias, num_out))


def unpack_integers(tensors: ScaledTensors, block: Block) -> QuantizedWeight:
    """Take the integers as codes, so that nothing is rounded; ValueError as above, or when blocks divide no inputs."""
    num_out, num_in = _check(tensors.weight, INTEGERS)
    grid = block.grid(num_out, num_in)
    if num_in % block.inputs_of(num_in):
        raise ValueError(f"blocks of {block.num_in} do not divide {num_in} input features")
    scales, zeros = _read_grid("scales", tensors.scales, grid), _read_zeros(tensors, grid)
    return QuantizedWeight(
        codes=_to_codes(tensors.weight),
        scales=_spread(scales, block, num_out).contiguous(),
        zeros=_spread(zeros, block, num_out).contiguous(),
        bits=8,
        group_size=num_in // grid[1],
        bias=read_bias(tensors.bias, num_out),
    )


def _check(weight: torch.Tensor, dtype: torch.dtype) -> tuple[int, int]:
    """Return N and K."""
    if weight.dtype != dtype or weight.dim() != 2 or not weight.numel():
        right = str(dtype).removeprefix("torch.")
        raise ValueError(f"weight is {describe(weight)}; {right} with two dimensions would be right")
    return weight.shape[0], weight.shape[1]


def _read_grid(name: str, values: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Return ``values`` as [R, C]."""
    if not is_alike(values.shape, grid) or not values.is_floating_point():
        raise ValueError(f"{name} is {describe(values)}; floating point {list(grid)} would be right")
    return values.reshape(grid)


def _read_zeros(tensors: ScaledTensors, grid: tuple[int, int]) -> torch.Tensor:
    """Return the code that means 0 in each block, [R, C] uint8."""
    zeros = tensors.zeros
    if zeros is None:
        return torch.full(grid, OFFSET, dtype=torch.uint8, device=tensors.weight.device)
    if not is_alike(zeros.shape, grid) or zeros.dtype != INTEGERS:
        raise ValueError(f"zeros is {describe(zeros)}; int8 {list(grid)} would be right")
    return _to_codes(zeros.reshape(grid))


def _spread(values: torch.Tensor, block: Block, num_out: int) -> torch.Tensor:
    """Turn values of blocks, [R, C], into those of outputs, [N, C]."""
    return values.repeat_interleave(block.outputs_of(num_out), dim=0)[:num_out]


def _to_codes(integers: torch.Tensor) -> torch.Tensor:
    # Adding 128 to two's complement turns over its first bit.
    return integers.view(torch.uint8) ^ OFFSET
