"""A checkpoint directory: its configuration, and its weights by HF's names. Knows formats, not what a model does.

Matrices go by the names that ``names`` describes, whatever the files call them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from expertmesh.checkpoint.entry import TensorEntry
from expertmesh.checkpoint.jsonfile import read_json
from expertmesh.checkpoint.names import Locate, Location, recognize
from expertmesh.checkpoint.params import config_from_params
from expertmesh.checkpoint.quantization import AwqConfig, QuantizationConfig, read_quantization
from expertmesh.checkpoint.rotary import halves_from_pairs
from expertmesh.checkpoint.tensors import TensorFiles
from expertmesh.errors import CheckpointError
from expertmesh.kernels import awq, gptq
from expertmesh.kernels.weights import DenseWeight, ExpertWeights, QuantizedWeight, Weight

DENSE_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
PACKED_PARTS = ("qweight", "qzeros", "scales", "g_idx", "bias")


class Checkpoint:
    """A Mixtral or Mistral checkpoint; tensors are read when they are asked for."""

    def __init__(
        self,
        directory: Path,
        config: dict[str, Any],
        quantization: QuantizationConfig | None,
        files: TensorFiles,
        locate: Locate,
    ) -> None:
        self.directory = directory
        self.config = config
        self.quantization = quantization
        self.files = files
        self._locate = locate

    @classmethod
    def open(cls, directory: Path) -> "Checkpoint":
        """Read the configuration and the headers of the weight files.

        CheckpointError names what is missing, damaged or not supported.
        """
        if not directory.is_dir():
            raise CheckpointError(f"{directory} is not a directory; give the directory that holds config.json")
        config = _read_config(directory)
        files = TensorFiles.open(directory)
        return cls(
            directory, config, read_quantization(directory, config), files, recognize(files.names, _head_dim(config))
        )

    @property
    def weight_format(self) -> str:
        """Storage of the expert weights, for people: "awq 4-bit g128", "bfloat16"."""
        return str(self.quantization or self.config.get("dtype") or self.config.get("torch_dtype") or "float32")

    def tensor(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """Read the plain values of ``name``.

        CheckpointError when their shape is not ``shape`` or their dtype not supported.
        """
        location = self._locate(name, shape)
        entry = self.files.entry(location.name)
        _check_rank(location, entry)
        tensor = self.files.read(location.name, location.part)
        if location.is_transposed:
            tensor = tensor.T.contiguous()
        if tensor.shape != shape:
            found = f"{list(tensor.shape)}" + (f" (of {list(entry.shape)})" if location.part else "")
            raise CheckpointError(f"{entry.file}: {location.name} is {found}; {list(shape)} would be right")
        if tensor.dtype not in DENSE_DTYPES:
            raise CheckpointError(f"{entry.file}: {location.name} is {entry.dtype}; F32, F16 or BF16 would be right")
        return halves_from_pairs(tensor, location.rotary_head_dim) if location.rotary_head_dim else tensor

    def weight(self, name: str, shape: tuple[int, int]) -> Weight:
        """Read the matrix ``name`` of ``shape`` (outputs, inputs), quantized where its file holds codes.

        CheckpointError when a tensor is missing or of another shape or dtype, or a scale is not finite.
        """
        location = self._locate(name, shape)
        if self.is_packed(location):
            return self._quantized(location, shape)
        return DenseWeight(self.tensor(name, shape), self._bias(location, shape[0]))

    def expert(self, layer: int, expert: int, hidden_size: int, intermediate_size: int) -> ExpertWeights:
        """Read one expert; the only FFN of a dense model is expert 0. Errors as ``weight``."""
        inner = (intermediate_size, hidden_size)
        w1, w2, w3 = (f"model.layers.{layer}.block_sparse_moe.experts.{expert}.w{i}" for i in (1, 2, 3))
        return ExpertWeights(
            w_gate=self.weight(w1, inner),
            w_up=self.weight(w3, inner),
            w_down=self.weight(w2, (hidden_size, intermediate_size)),
        )

    def stored(self, name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the tensors of ``name`` as a file under HF's names would hold them: codes stay packed."""
        location = self._locate(name, shape)
        if self.is_packed(location):
            for part in PACKED_PARTS:
                if f"{location.prefix}.{part}" in self.files:
                    yield f"{name}.{part}", self.files.read(f"{location.prefix}.{part}")
            return
        yield f"{name}.weight", self.tensor(name, shape)
        if f"{location.prefix}.bias" in self.files:
            yield f"{name}.bias", self.files.read(f"{location.prefix}.bias")

    def is_packed(self, location: Location) -> bool:
        """Tell whether a matrix is there as codes."""
        return f"{location.prefix}.qweight" in self.files

    def _bias(self, location: Location, num_out: int) -> torch.Tensor | None:
        name = f"{location.prefix}.bias"
        if name not in self.files:
            return None
        bias = self.files.read(name)
        if bias.shape != (num_out,) or bias.dtype not in DENSE_DTYPES:
            entry = self.files.entry(name)
            raise CheckpointError(
                f"{entry.file}: {name} is {entry.dtype} {list(entry.shape)}; floating point [{num_out}] would be right"
            )
        return bias

    def _quantized(self, location: Location, shape: tuple[int, int]) -> QuantizedWeight:
        file = self.files.entry(f"{location.prefix}.qweight").file
        where = f"{file}: {location.prefix}"
        if self.quantization is None:
            raise CheckpointError(f"{where}.qweight is there but no configuration names a quantization")
        try:
            weight = self._unpack(location.prefix, self.quantization)
        except ValueError as error:
            raise CheckpointError(f"{where}: {error}") from error
        _check_quantized(where, weight, shape, self.quantization)
        return weight

    def _unpack(self, prefix: str, quantization: QuantizationConfig) -> QuantizedWeight:
        qweight, scales = self.files.read(f"{prefix}.qweight"), self.files.read(f"{prefix}.scales")
        bias = self._read_if_there(f"{prefix}.bias")
        if isinstance(quantization, AwqConfig):
            has_zeros = quantization.has_zero_points or f"{prefix}.qzeros" in self.files
            qzeros = self.files.read(f"{prefix}.qzeros") if has_zeros else None
            return awq.unpack(awq.AwqTensors(qweight, qzeros, scales, bias))
        qzeros, g_idx = self._read_if_there(f"{prefix}.qzeros"), self._read_if_there(f"{prefix}.g_idx")
        if g_idx is None and quantization.is_ordered and quantization.group_size > 0:
            raise ValueError("g_idx is missing, and the configuration says desc_act: true")
        return gptq.unpack(gptq.GptqTensors(qweight, qzeros, scales, g_idx, bias), quantization.format)

    def _read_if_there(self, name: str) -> torch.Tensor | None:
        return self.files.read(name) if name in self.files else None


def _read_config(directory: Path) -> dict[str, Any]:
    params = directory / "params.json"
    if params.exists() and not (directory / "config.json").exists():
        return config_from_params(params, read_json(params))
    return read_json(directory / "config.json")


def _head_dim(config: dict[str, Any]) -> int:
    """Read the width of a head, 0 where the configuration makes no sense: the model's own check names what is wrong."""
    head_dim, hidden, heads = (config.get(key) for key in ("head_dim", "hidden_size", "num_attention_heads"))
    if isinstance(head_dim, int):
        return head_dim
    return hidden // heads if isinstance(hidden, int) and isinstance(heads, int) and heads > 0 else 0


def _check_rank(location: Location, entry: TensorEntry) -> None:
    if len(location.part) >= len(entry.shape) and location.part:
        raise CheckpointError(f"{entry.file}: {location.name} is {list(entry.shape)}; it should hold several matrices")
    first = location.part[0] if location.part else None
    if isinstance(first, int) and first >= entry.shape[0]:
        raise CheckpointError(f"{entry.file}: {location.name} is {list(entry.shape)}; it holds no expert {first}")


def _check_quantized(where: str, weight: QuantizedWeight, shape: tuple[int, int], config: QuantizationConfig) -> None:
    if weight.shape != shape:
        raise CheckpointError(f"{where} is {list(weight.shape)} (outputs, inputs); {list(shape)} would be right")
    expected = config.group_size if config.group_size > 0 else shape[1]
    if weight.group_size != expected:
        raise CheckpointError(f"{where} has groups of {weight.group_size}; the configuration says {expected}")
    if not torch.isfinite(weight.scales).all():
        raise CheckpointError(f"{where}.scales holds NaN or Inf; the file is broken, download or quantize it again")
