"""From the tensors of a packed matrix to the weight that kernels start from. Knows which kernel reads which kind."""

import torch

from expertmesh.checkpoint.codes import AwqConfig, FourBitConfig, GptqConfig, Kind, PackQuantizedConfig, ScaledConfig
from expertmesh.checkpoint.layouts import FLOATS, LLM_INT8_LAYOUT, QUANT_MAP, WEIGHT, state_of
from expertmesh.kernels import awq, bitsandbytes, gptq, pack_quantized, scaled
from expertmesh.kernels.weights import StoredWeight, Weight

Parts = dict[str, torch.Tensor]


def unpack(parts: Parts, kind: Kind, shape: tuple[int, int], dtype: torch.dtype) -> Weight:
    """Read the tensors of a matrix of ``shape``, by their names behind that of the matrix.

    Where no kernel takes codes, their values are rounded to ``dtype``. ValueError names what does not fit.
    """
    if isinstance(kind, ScaledConfig):
        return _unpack_scaled(parts, kind, dtype)
    if isinstance(kind, FourBitConfig):
        return bitsandbytes.unpack_4bit(_four_bit_tensors(parts, kind), shape, dtype)
    if isinstance(kind, PackQuantizedConfig):
        return pack_quantized.read(pack_quantized.PackQuantizedTensors(**parts), kind.bits)
    if isinstance(kind, AwqConfig):
        return awq.read(awq.AwqTensors(parts["qweight"], parts.get("qzeros"), parts["scales"], parts.get("bias")))
    return _read_gptq(parts, kind)


def _read_gptq(parts: Parts, kind: GptqConfig) -> StoredWeight:
    g_idx = parts.get("g_idx")
    if g_idx is None and kind.is_ordered and kind.group_size > 0:
        raise ValueError("g_idx is missing, and the configuration says desc_act: true")
    return gptq.read(
        gptq.GptqTensors(parts["qweight"], parts.get("qzeros"), parts["scales"], g_idx, parts.get("bias")), kind.format
    )


def _unpack_scaled(parts: Parts, kind: ScaledConfig, dtype: torch.dtype) -> Weight:
    layout, weight, bias = kind.layout, parts[WEIGHT], parts.get("bias")
    scales = parts[layout.scales]
    if layout is LLM_INT8_LAYOUT:
        return bitsandbytes.unpack_int8(weight, scales, parts.get("weight_format"), bias)
    zeros = parts.get(layout.zeros) if layout.zeros else None
    tensors = scaled.ScaledTensors(weight, scales, zeros, bias)
    if kind.codes_dtype == FLOATS:
        return scaled.unpack_floats(tensors, kind.block, dtype)
    return scaled.unpack_integers(tensors, kind.block)


def _four_bit_tensors(parts: Parts, kind: FourBitConfig) -> bitsandbytes.FourBitTensors:
    return bitsandbytes.FourBitTensors(
        codes=parts[WEIGHT],
        absmax=parts[kind.layout.scales],
        quant_map=parts[QUANT_MAP],
        state=parts[state_of(kind.quant_type)],
        nested_absmax=parts.get(f"{WEIGHT}.nested_absmax"),
        nested_quant_map=parts.get(f"{WEIGHT}.nested_quant_map"),
        bias=parts.get("bias"),
    )
