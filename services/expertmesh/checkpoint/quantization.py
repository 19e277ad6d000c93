"""How a checkpoint says that its weights are quantized. Knows keys and their synonyms, not tensors."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expertmesh.architectures.jsonfile import read_json
from expertmesh.errors import CheckpointError
from expertmesh.kernels import awq, gptq

# Beside config.json, older tools left a file of their own; it does not name the method, its name does.
OWN_FILES = {"quant_config.json": "awq", "quantize_config.json": "gptq"}
SUPPORTED = "awq 4-bit gemm, gptq with 2, 3, 4 or 8 bits, or no quantization"
GPTQ_FORMATS = {"gptq": False, "gptq_v2": True}


@dataclass(frozen=True)
class AwqConfig:
    """AWQ's parameters; ``group_size`` input features share a scale, -1 = all of them."""

    group_size: int
    has_zero_points: bool
    bits: int = awq.BITS

    def __str__(self) -> str:
        return f"awq {self.bits}-bit {_describe_groups(self.group_size)}"


@dataclass(frozen=True)
class GptqConfig:
    """GPTQ's parameters; ``group_size`` as in AWQ, ``is_ordered`` marks act-order."""

    format: gptq.GptqFormat
    group_size: int
    is_ordered: bool

    def __str__(self) -> str:
        order = " act-order" if self.is_ordered else ""
        return f"gptq {self.format.bits}-bit {_describe_groups(self.group_size)}{order}"


QuantizationConfig = AwqConfig | GptqConfig


def read_quantization(directory: Path, config: Mapping[str, Any]) -> QuantizationConfig | None:
    """Read the quantization from config.json or the quantizer's own file; None for plain weights.

    CheckpointError names the file, what was found and what is supported.
    """
    section = config.get("quantization_config")
    if section is not None:
        return _parse(directory / "config.json", section)
    for name, method in OWN_FILES.items():
        if (directory / name).exists():
            return _parse(directory / name, {"quant_method": method, **read_json(directory / name)})
    return None


def _parse(path: Path, section: Mapping[str, Any]) -> QuantizationConfig:
    if not isinstance(section, Mapping):
        raise CheckpointError(f"{path}: quantization_config is {section!r}; an object would be right")
    bits = _first(section, "bits", "w_bit")
    group_size = _first(section, "group_size", "q_group_size")
    if not _is_int(group_size) or group_size == 0 or group_size < -1:
        raise CheckpointError(f"{path}: group size is {group_size!r}; a positive integer or -1 would be right")
    method = _word(section, "quant_method")
    version = _word(section, "version") or "gemm"
    layout = _word(section, "checkpoint_format") or "gptq"
    if _is_int(bits) and (method, version, bits) == ("awq", "gemm", awq.BITS):
        return AwqConfig(group_size, has_zero_points=_flag(path, section, "zero_point", True))
    if _is_int(bits) and method == "gptq" and layout in GPTQ_FORMATS and bits in gptq.BITS:
        symmetric = _flag(path, section, "sym", True)
        is_ordered = _flag(path, section, "desc_act", False)
        return GptqConfig(gptq.GptqFormat(bits, symmetric, GPTQ_FORMATS[layout]), group_size, is_ordered)
    variant = layout if method == "gptq" else version
    raise CheckpointError(
        f"{path}: quantization {method or 'of unknown method'} {bits}-bit {variant} is not supported; "
        f"supported: {SUPPORTED}"
    )


def _describe_groups(group_size: int) -> str:
    return f"g{group_size}" if group_size > 0 else "no groups"


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _flag(path: Path, section: Mapping[str, Any], key: str, default: bool) -> bool:
    value = section.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise CheckpointError(f"{path}: {key} is {value!r}; true or false would be right")
    return value


def _word(section: Mapping[str, Any], key: str) -> str:
    return str(section.get(key) or "").lower()


def _first(section: Mapping[str, Any], *keys: str) -> Any:
    return next((section[key] for key in keys if key in section), None)
