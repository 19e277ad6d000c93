"""What bitsandbytes stores: 4-bit codes of 16 values, and LLM.int8()'s integers. Knows no files.

Alphabet: N output features, K input features, B blocks of values that share a scale, in the order of rows; S blocks of
scales.
"""

import json
import math
from dataclasses import dataclass
from typing import Any

import torch

from expertmesh.kernels.formats import Block
from expertmesh.kernels.packed import read_bias
from expertmesh.kernels.scaled import ScaledTensors, unpack_integers
from expertmesh.kernels.weights import DenseWeight, QuantizedWeight, describe

# The largest magnitude of a row is stored for the integer 127.
LARGEST = 127
# How the integers of a matrix lie: 0 is row by row, the others were for GPUs of old.
ROW_BY_ROW = 0
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
NUM_VALUES, NUM_NESTED_VALUES = 16, 256


@dataclass(frozen=True)
class FourBitTensors:
    """The tensors that files hold: ``w = quant_map[code] * absmax`` of its block, computed in float32.

    ``codes`` [N K / 2, 1], two in a byte, the first in its upper half, whatever type the bytes are said to have;
    ``quant_map`` [16] float32; ``absmax`` [B] float32, or uint8 where scales are codes themselves, into
    ``nested_quant_map`` [256], of blocks with a scale each in ``nested_absmax`` [S]. ``state`` holds the sizes of
    blocks and more, as JSON in uint8; ``bias`` [N] or None.
    """

    codes: torch.Tensor
    absmax: torch.Tensor
    quant_map: torch.Tensor
    state: torch.Tensor
    nested_absmax: torch.Tensor | None = None
    nested_quant_map: torch.Tensor | None = None
    bias: torch.Tensor | None = None


def unpack_4bit(tensors: FourBitTensors, shape: tuple[int, int], dtype: torch.dtype) -> DenseWeight:
    """Read a matrix of ``shape``; its values are rounded to the dtype that its state names, and then to ``dtype``.

    ValueError names the tensor that does not fit the others.
    """
    state = _read_state(tensors.state)
    stored_shape, block_size = state.get("shape"), _count(state, "blocksize")
    if stored_shape != list(shape):
        raise ValueError(f"quant_state says shape {stored_shape}; {list(shape)} would be right")
    if state.get("dtype") not in DTYPES:
        raise ValueError(f"quant_state says dtype {state.get('dtype')!r}; one of {', '.join(DTYPES)} would be right")
    num_values = math.prod(shape)
    values = _look_up(tensors.codes, tensors.quant_map, num_values)
    scales = _read_scales(tensors, state, -(-num_values // block_size))  # [B]
    values = _scale(values, scales, block_size).view(shape).to(DTYPES[state["dtype"]])
    return DenseWeight(values.to(dtype), read_bias(tensors.bias, shape[0]))


def unpack_int8(
    weight: torch.Tensor, scb: torch.Tensor, weight_format: torch.Tensor | None, bias: torch.Tensor | None
) -> QuantizedWeight:
    """Read ``weight`` [N, K] int8 with the largest magnitude of each row, ``scb`` [N]: ``w = weight * scb / 127``.

    ``weight_format`` is how the integers lie (None = row by row); ValueError when they do not lie so, or do not fit.
    """
    if weight_format is not None and weight_format.flatten().tolist() != [ROW_BY_ROW]:
        raise ValueError(f"weight_format is {weight_format.tolist()}; {ROW_BY_ROW}, row by row, would be right")
    if not scb.is_floating_point():
        raise ValueError(f"SCB is {describe(scb)}; floating point would be right")
    return unpack_integers(ScaledTensors(weight, scb.float() / LARGEST, bias=bias), Block(1, -1))


def _read_state(stored: torch.Tensor) -> dict[str, Any]:
    if stored.dtype != torch.uint8:
        raise ValueError(f"quant_state is {describe(stored)}; JSON in uint8 would be right")
    try:
        state = json.loads(bytes(stored.flatten().tolist()))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"quant_state is no JSON: {error}") from error
    if not isinstance(state, dict):
        raise ValueError(f"quant_state is {type(state).__name__}; a JSON object would be right")
    return state


def _count(state: dict[str, Any], key: str) -> int:
    value = state.get(key)
    if type(value) is not int or value < 1:
        raise ValueError(f"quant_state says {key} {value!r}; a positive integer would be right")
    return value


def _look_up(stored: torch.Tensor, quant_map: torch.Tensor, num_values: int) -> torch.Tensor:
    """Return the value of each code [N K] float32."""
    if stored.nbytes != -(-num_values // 2):
        raise ValueError(
            f"weight is {describe(stored)}, of {stored.nbytes} bytes; {-(-num_values // 2)} would be right"
        )
    _check_floats("quant_map", quant_map, NUM_VALUES)
    packed = stored.contiguous().flatten().view(torch.uint8)
    every_byte = torch.arange(256, device=stored.device)
    pairs = quant_map.flatten().float()[torch.stack((every_byte >> 4, every_byte & 0xF), dim=1)]  # [256, 2]
    return pairs[packed.int()].flatten()[:num_values]


def _read_scales(tensors: FourBitTensors, state: dict[str, Any], num_blocks: int) -> torch.Tensor:
    """Return the scale of each block [B] float32."""
    absmax = tensors.absmax
    if tensors.nested_absmax is None or tensors.nested_quant_map is None:
        _check_floats("absmax", absmax, num_blocks)
        return absmax.flatten().float()
    if absmax.dtype != torch.uint8 or absmax.numel() != num_blocks:
        raise ValueError(f"absmax is {describe(absmax)}; uint8 [{num_blocks}] would be right")
    block_size, offset = _count(state, "nested_blocksize"), state.get("nested_offset")
    if not isinstance(offset, float | int) or not abs(offset) <= torch.finfo(torch.float32).max:
        raise ValueError(f"quant_state says nested_offset {offset!r}; a number would be right")
    _check_floats("nested_absmax", tensors.nested_absmax, -(-num_blocks // block_size))
    _check_floats("nested_quant_map", tensors.nested_quant_map, NUM_NESTED_VALUES)
    values = tensors.nested_quant_map.flatten().float()[absmax.flatten().int()]
    return _scale(values, tensors.nested_absmax.flatten().float(), block_size).add_(offset)


def _check_floats(name: str, values: torch.Tensor, count: int) -> None:
    if values.numel() != count or not values.is_floating_point():
        raise ValueError(f"{name} is {describe(values)}; floating point [{count}] would be right")
    if not values.isfinite().all():
        raise ValueError(f"{name} holds NaN or Inf")


def _scale(values: torch.Tensor, scales: torch.Tensor, block_size: int) -> torch.Tensor:
    """Multiply blocks of ``values`` in place, each by its scale; the last one may be smaller."""
    whole = len(values) // block_size * block_size
    values[:whole].view(-1, block_size).mul_(scales[: whole // block_size, None])
    values[whole:].mul_(scales[whole // block_size :])
    return values
