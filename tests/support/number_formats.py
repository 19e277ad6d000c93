"""Checkpoints of 8-bit numbers with scales, and of bitsandbytes' 4-bit codes, as their tools write them.

What they mean is worked out here from their definitions, in float64 and bit by bit, by no code that is tested.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from checkpoints import Quantization, Tensors, packed_quantization

# The largest magnitude of float8_e4m3fn.
FP8_MAX = 448
# Quantiles of the normal distribution (arXiv 2305.14314), and magnitudes of bitsandbytes' 4-bit floats by their codes.
NF4 = [-1, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.091050036, 0]
NF4 += [0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1]
FP4 = [0, 0.0052083333, 0.6666667, 1, 0.33333333, 0.5, 0.16666667, 0.25]
MAPS = {"nf4": NF4, "fp4": FP4 + [-value for value in FP4]}
WHOLE = (-1, -1)
Encode = Callable[[torch.Tensor], tuple[Tensors, torch.Tensor]]


@dataclass(frozen=True)
class Encoding(Quantization):
    """A quantization whose codes are no groups of integers: ``how`` makes tensors and values at once."""

    how: Encode = lambda matrix: ({}, matrix)

    def encode(self, matrix: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        """Return the tensors of a matrix by their names behind its own, and the values that they stand for."""
        return self.how(matrix)


def encoding(config: dict[str, Any], how: Encode) -> Encoding:
    """Say ``config`` in config.json, and store matrices as ``how`` makes them."""
    packed = packed_quantization()
    return Encoding(config, packed.quantize, packed.pack, how=how)


def compressed_floats(
    block: tuple[int, int] = (1, -1), scales: torch.dtype = torch.bfloat16, input_scale: bool = False
) -> Encoding:
    """The format float-quantized of compressed-tensors, with static activation scales or none."""
    inputs = {"num_bits": 8, "type": "float", "symmetric": True, "dynamic": not input_scale, "strategy": "tensor"}
    config = compressed("float-quantized", {"num_bits": 8, "type": "float", **strategy(block)}, inputs)

    def encode(matrix: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        tensors, values = floats(matrix, block, scales)
        shape = (1,) if block == WHOLE else tensors["scale"].shape
        more = {"input_scale": torch.tensor([0.5])} if input_scale else {}
        return {"weight": tensors["weight"], "weight_scale": tensors["scale"].reshape(shape), **more}, values

    return encoding(config, encode)


def compressed_integers(
    block: tuple[int, int] = (1, -1), symmetric: bool = True, name: str = "int-quantized"
) -> Encoding:
    """The format int-quantized of compressed-tensors: W8A8."""
    inputs = {"num_bits": 8, "type": "int", "symmetric": True, "dynamic": True, "strategy": "token"}
    weights = {"num_bits": 8, "type": "int", "symmetric": symmetric, **strategy(block)}

    def encode(matrix: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        tensors, values = integers(matrix, block, 0 if symmetric else 9)
        zeros = {} if symmetric else {"weight_zero_point": tensors["zero"]}
        return {"weight": tensors["weight"], "weight_scale": tensors["scale"], **zeros}, values

    return encoding(compressed(name, weights, inputs), encode)


def fp8(block: tuple[int, int] = WHOLE, scale: str = "weight_scale", static: bool = False) -> Encoding:
    """``quant_method: fp8``, as vLLM's tools and transformers write it."""
    config: dict[str, Any] = {"quant_method": "fp8", "activation_scheme": "static" if static else "dynamic"}
    if block != WHOLE:
        config |= {"weight_block_size": list(block), "fmt": "e4m3", "modules_to_not_convert": ["lm_head"]}

    def encode(matrix: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        tensors, values = floats(matrix, block, torch.float32)
        more = {"input_scale": torch.tensor(0.5)} if static else {}
        scales = tensors["scale"].reshape(()) if block == WHOLE else tensors["scale"]
        return {"weight": tensors["weight"], scale: scales, **more}, values

    return encoding(config, encode)


def llm_int8() -> Encoding:
    """LLM.int8() of bitsandbytes: integers, and the largest magnitude of each row."""

    def encode(matrix: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        largest = matrix.float().abs().amax(1)
        codes = (matrix.float() * (127 / largest[:, None])).round().to(torch.int8)
        values = codes.double() * largest[:, None].double() / 127
        stored = {"weight": codes, "SCB": largest, "weight_format": torch.tensor(0, dtype=torch.uint8)}
        return stored, values.float()

    return encoding({"quant_method": "bitsandbytes", "load_in_8bit": True, "load_in_4bit": False}, encode)


def four_bit(
    quant_type: str = "nf4", is_nested: bool = False, block_size: int = 64, storage: torch.dtype = torch.uint8
) -> Encoding:
    """NF4 or FP4 of bitsandbytes, with scales of scales where ``is_nested``."""
    config = {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "load_in_8bit": False,
        "bnb_4bit_quant_type": quant_type,
        "bnb_4bit_use_double_quant": is_nested,
    }

    def encode(matrix: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        table = np.array(MAPS[quant_type], dtype=np.float32)
        blocks = matrix.float().numpy().reshape(-1, block_size)
        largest = np.abs(blocks).max(1, keepdims=True)
        codes = np.abs((blocks / largest)[..., None] - table).argmin(-1).astype(np.uint8)
        state = {"quant_type": quant_type, "blocksize": block_size, "shape": list(matrix.shape)}
        state["dtype"] = str(matrix.dtype).removeprefix("torch.")
        tensors, scales = (
            nested(largest.ravel(), state) if is_nested else ({"absmax": largest.ravel()}, largest.ravel())
        )
        packed = torch.from_numpy(codes.ravel()[::2] << 4 | codes.ravel()[1::2])
        values = (table[codes].astype(np.float64) * scales[:, None]).astype(np.float32).reshape(matrix.shape)
        stored = {f"weight.{part}": torch.from_numpy(value.copy()) for part, value in tensors.items()}
        return {
            "weight": packed.view(storage)[:, None],
            "weight.quant_map": torch.from_numpy(table.copy()),
            f"weight.quant_state.bitsandbytes__{quant_type}": torch.tensor(list(json.dumps(state).encode())).byte(),
            **stored,
        }, torch.from_numpy(values).to(matrix.dtype)

    return encoding(config, encode)


def nested(
    scales: np.ndarray, state: dict[str, Any], block_size: int = 256
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Turn scales into codes with scales, and say how in ``state``; returns the tensors, and what they mean."""
    table = np.linspace(-1, 1, 256).astype(np.float32) ** 3
    offset = float(scales.mean())
    count = -(-len(scales) // block_size)
    which = np.arange(len(scales)) // block_size
    largest = np.array([np.abs(scales[which == i] - offset).max() for i in range(count)], dtype=np.float32)
    codes = np.abs(((scales - offset) / largest[which])[:, None] - table).argmin(-1).astype(np.uint8)
    state |= {"nested_blocksize": block_size, "nested_dtype": "float32", "nested_offset": offset}
    means = table[codes] * largest[which] + np.float32(offset)
    return {"absmax": codes, "nested_absmax": largest, "nested_quant_map": table}, means


def also(quantization: Quantization, *names: str) -> Quantization:
    """Quantize the matrices too whose names hold one of ``names``."""
    return replace(quantization, taken=(*quantization.taken, *names))


def compressed(name: str, weights: dict[str, Any], inputs: dict[str, Any] | None) -> dict[str, Any]:
    """Return what compressed-tensors says in config.json."""
    group = {"targets": ["Linear"], "weights": {"dynamic": False, "symmetric": True, **weights}, "format": name}
    return {
        "quant_method": "compressed-tensors",
        "format": name,
        "config_groups": {"group_0": {**group, "input_activations": inputs, "output_activations": None}},
        "ignore": ["lm_head", "re:.*gate$"],
        "kv_cache_scheme": None,
        "quantization_status": "compressed",
    }


def strategy(block: tuple[int, int]) -> dict[str, Any]:
    """Say in the words of compressed-tensors what shares a scale."""
    if block == WHOLE:
        return {"strategy": "tensor"}
    if block[0] > 1:
        return {"strategy": "block", "block_structure": list(block)}
    return {"strategy": "channel"} if block[1] < 0 else {"strategy": "group", "group_size": block[1]}


def floats(matrix: torch.Tensor, block: tuple[int, int], scales: torch.dtype) -> tuple[Tensors, torch.Tensor]:
    """Store a matrix as float8_e4m3fn, with the scale of each block."""
    scale = (largest_of_blocks(matrix, block) / FP8_MAX).to(scales)
    spread = over_blocks(scale.double(), block, matrix.shape)
    codes = (matrix.double() / spread).float().clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn)
    return {"weight": codes, "scale": scale}, (meaning(codes) * spread).float().to(matrix.dtype)


def integers(matrix: torch.Tensor, block: tuple[int, int], zero: int) -> tuple[Tensors, torch.Tensor]:
    """Store a matrix as int8, with the scale and zero point of each block."""
    scale = largest_of_blocks(matrix, block) / (127 - zero)
    spread = over_blocks(scale.double(), block, matrix.shape)
    codes = (matrix.double() / spread).round() + zero
    stored = {"weight": codes.to(torch.int8), "scale": scale, "zero": torch.full(scale.shape, zero).to(torch.int8)}
    return stored, ((codes - zero) * spread).float()


def meaning(codes: torch.Tensor) -> torch.Tensor:
    """Read float8_e4m3fn bit by bit: a sign, four bits of exponent with bias 7, three of fraction; no infinities."""
    bits = codes.view(torch.uint8).int()
    exponent, fraction = bits >> 3 & 15, (bits & 7).double()
    magnitude = torch.where(exponent > 0, (1 + fraction / 8) * 2.0 ** (exponent.double() - 7), fraction / 8 * 2.0**-6)
    return torch.where(bits >= 128, -magnitude, magnitude)


def largest_of_blocks(matrix: torch.Tensor, block: tuple[int, int]) -> torch.Tensor:
    """Return the largest magnitude in each block, those at the edges being smaller."""
    rows, columns = (size if size > 0 else whole for size, whole in zip(block, matrix.shape, strict=True))
    largest = [[part.abs().amax() for part in strip.split(columns, 1)] for strip in matrix.float().split(rows)]
    return torch.tensor(largest)


def over_blocks(values: torch.Tensor, block: tuple[int, int], shape: torch.Size) -> torch.Tensor:
    """Give each number of a matrix the value of its block."""
    rows, columns = (
        torch.arange(whole) // (size if size > 0 else whole) for size, whole in zip(block, shape, strict=True)
    )
    return values[rows][:, columns]
