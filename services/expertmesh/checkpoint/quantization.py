"""How a checkpoint says that its weights are quantized. Knows keys and their synonyms, not tensors."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expertmesh.checkpoint.jsonfile import read_json
from expertmesh.errors import CheckpointError

AWQ_FILE = "quant_config.json"
SUPPORTED = "awq 4-bit gemm, or no quantization"


@dataclass(frozen=True)
class AwqConfig:
    """AWQ's parameters; ``group_size`` input features share a scale, -1 = all of them."""

    bits: int
    group_size: int

    def __str__(self) -> str:
        return f"awq {self.bits}-bit " + (f"g{self.group_size}" if self.group_size > 0 else "no groups")


def read_quantization(directory: Path, config: Mapping[str, Any]) -> AwqConfig | None:
    """Read the quantization from config.json or AWQ's own file; None for plain weights.

    CheckpointError names the file, what was found and what is supported.
    """
    section = config.get("quantization_config")
    if section is not None:
        return _parse(directory / "config.json", section)
    if (directory / AWQ_FILE).exists():
        return _parse(directory / AWQ_FILE, {"quant_method": "awq", **read_json(directory / AWQ_FILE)})
    return None


def _parse(path: Path, section: Mapping[str, Any]) -> AwqConfig:
    if not isinstance(section, Mapping):
        raise CheckpointError(f"{path}: quantization_config is {section!r}; an object would be right")
    method = _word(section, "quant_method")
    version = _word(section, "version") or "gemm"
    bits = _first(section, "bits", "w_bit")
    group_size = _first(section, "group_size", "q_group_size")
    if (method, version, bits) != ("awq", "gemm", 4):
        raise CheckpointError(
            f"{path}: quantization {method or 'of unknown method'} {bits}-bit {version} is not supported; "
            f"supported: {SUPPORTED}"
        )
    if not isinstance(group_size, int) or group_size == 0 or group_size < -1:
        raise CheckpointError(f"{path}: group size is {group_size!r}; a positive integer or -1 would be right")
    return AwqConfig(bits, group_size)


def _word(section: Mapping[str, Any], key: str) -> str:
    return str(section.get(key) or "").lower()


def _first(section: Mapping[str, Any], *keys: str) -> Any:
    return next((section[key] for key in keys if key in section), None)
