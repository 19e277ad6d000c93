"""A checkpoint directory: its configuration, and its weights by HF's names. Knows formats, not what a model does.

Matrices go by the names that ``names`` describes, whatever the files call them.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from expertmesh.checkpoint.configuration import read_config
from expertmesh.checkpoint.entry import TensorEntry
from expertmesh.checkpoint.names import Locate, Location, is_quantizable, recognize
from expertmesh.checkpoint.quantization import AwqConfig, QuantizationConfig, read_quantization
from expertmesh.checkpoint.rotary import halves_from_pairs
from expertmesh.checkpoint.tensors import TensorFiles
from expertmesh.errors import CheckpointError
from expertmesh.kernels import awq, gptq
from expertmesh.kernels.quantize import round_to_nearest
from expertmesh.kernels.weights import DenseWeight, ExpertWeights, QuantizedWeight, Weight

DENSE_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Groups of 128 inputs share a scale; narrower matrices of small models take what divides them.
ROUND_GROUP_SIZES = (128, 64, 32)
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
        round_to_bits: int | None = None,
    ) -> None:
        self.directory = directory
        self.config = config
        self.quantization = quantization
        self.files = files
        self.round_to_bits = round_to_bits
        self._locate = locate

    @classmethod
    def open(cls, directory: Path, round_to_bits: int | None = None) -> "Checkpoint":
        """Read the configuration and the headers of the weight files.

        Plain matrices are rounded to ``round_to_bits`` as they are read, except where quantizers leave them plain too.
        CheckpointError names what is missing, damaged or not supported, or quantized already.
        """
        if not directory.is_dir():
            raise CheckpointError(f"{directory} is not a directory; give the directory that holds config.json")
        config = read_config(directory)
        quantization = read_quantization(directory, config)
        if quantization and round_to_bits:
            raise CheckpointError(f"{directory} is {quantization} already and cannot be quantized while loading")
        files = TensorFiles.open(directory)
        locate = recognize(files.names, _head_dim(config))
        return cls(directory, config, quantization, files, locate, round_to_bits)

    @property
    def weight_format(self) -> str:
        """Storage of the expert weights, for people: "awq 4-bit g128", "bfloat16"."""
        plain = self.config.get("dtype") or self.config.get("torch_dtype") or "float32"
        return str(self.quantization or (f"int{self.round_to_bits} of {plain}" if self.round_to_bits else plain))

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
        if self._is_packed(location):
            return self._unpack(location, self._read_packed(location), shape)
        plain = DenseWeight(self.tensor(name, shape), self._bias(location, shape[0]))
        return self._round(name, plain) if self.round_to_bits and is_quantizable(name) else plain

    def expert(self, layer: int, expert: int, hidden_size: int, intermediate_size: int) -> ExpertWeights:
        """Read one expert; the only FFN of a dense model is expert 0. Errors as ``weight``."""
        inner = (intermediate_size, hidden_size)
        w1, w2, w3 = (f"model.layers.{layer}.block_sparse_moe.experts.{expert}.w{i}" for i in (1, 2, 3))
        return ExpertWeights(
            w_gate=self.weight(w1, inner),
            w_up=self.weight(w3, inner),
            w_down=self.weight(w2, (hidden_size, intermediate_size)),
        )

    def stored(self, name: str, new_name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the tensors of ``name`` as a file would hold them under ``new_name``: codes stay packed.

        CheckpointError as ``weight``; packed tensors are unpacked too, to be sure of what is copied.
        """
        location = self._locate(name, shape)
        if self._is_packed(location):
            parts = self._read_packed(location)
            self._unpack(location, parts, (shape[0], shape[1]))
            yield from ((f"{new_name}.{part}", tensor) for part, tensor in parts.items())
            return
        yield f"{new_name}.weight", self.tensor(name, shape)
        bias = self._bias(location, shape[0])
        if bias is not None:
            yield f"{new_name}.bias", bias

    def _is_packed(self, location: Location) -> bool:
        return f"{location.prefix}.qweight" in self.files

    def _round(self, name: str, plain: DenseWeight) -> QuantizedWeight:
        group_size = next((size for size in ROUND_GROUP_SIZES if plain.shape[1] % size == 0), plain.shape[1])
        try:
            rounded = round_to_nearest(plain.data, self.round_to_bits or 0, group_size)
        except ValueError as error:
            raise CheckpointError(f"{self.directory}: {name}: {error}") from error
        return replace(rounded, bias=plain.bias)

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

    def _read_packed(self, location: Location) -> dict[str, torch.Tensor]:
        """Read the tensors of a packed matrix by their parts; CheckpointError when one is missing."""
        if self.quantization is None:
            where = self._describe_packed(location)
            raise CheckpointError(f"{where}.qweight is there but no configuration names a quantization")
        has_zeros = isinstance(self.quantization, AwqConfig) and self.quantization.has_zero_points
        needed = {"qweight", "scales", *(["qzeros"] if has_zeros else [])}
        names = {part: f"{location.prefix}.{part}" for part in PACKED_PARTS}
        return {part: self.files.read(name) for part, name in names.items() if part in needed or name in self.files}

    def _unpack(self, location: Location, parts: dict[str, torch.Tensor], shape: tuple[int, int]) -> QuantizedWeight:
        where, quantization = self._describe_packed(location), self.quantization
        assert quantization is not None
        try:
            weight = _unpack(parts, quantization)
        except ValueError as error:
            raise CheckpointError(f"{where}: {error}") from error
        _check_quantized(where, weight, shape, quantization)
        return weight

    def _describe_packed(self, location: Location) -> str:
        return f"{self.files.entry(f'{location.prefix}.qweight').file}: {location.prefix}"


def _unpack(parts: dict[str, torch.Tensor], quantization: QuantizationConfig) -> QuantizedWeight:
    qweight, qzeros, scales = parts["qweight"], parts.get("qzeros"), parts["scales"]
    g_idx, bias = parts.get("g_idx"), parts.get("bias")
    if isinstance(quantization, AwqConfig):
        return awq.unpack(awq.AwqTensors(qweight, qzeros, scales, bias))
    if g_idx is None and quantization.is_ordered and quantization.group_size > 0:
        raise ValueError("g_idx is missing, and the configuration says desc_act: true")
    return gptq.unpack(gptq.GptqTensors(qweight, qzeros, scales, g_idx, bias), quantization.format)


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
