"""A checkpoint directory: its configuration and its weights. Knows formats, not what a model does.

Tensors are asked for as the table of the model's architecture describes them, whatever the files call them.
"""

from collections.abc import Iterator
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from expertmesh.architectures.dialects import Location, Part
from expertmesh.architectures.model_config import ModelConfig
from expertmesh.architectures.registry import architecture_of, tensors_of
from expertmesh.architectures.tensor_table import TensorSpec
from expertmesh.checkpoint.configuration import read_configuration
from expertmesh.checkpoint.entry import TensorEntry
from expertmesh.checkpoint.quantization import AwqConfig, QuantizationConfig, read_quantization
from expertmesh.checkpoint.rotary import halves_from_pairs
from expertmesh.checkpoint.tensors import TensorFiles
from expertmesh.errors import CheckpointError
from expertmesh.kernels import awq, gptq
from expertmesh.kernels.finite import is_finite
from expertmesh.kernels.quantize import round_to_nearest
from expertmesh.kernels.weights import DenseWeight, ExpertWeights, QuantizedWeight, Weight

DENSE_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Groups of 128 inputs share a scale; narrower matrices of small models take what divides them.
ROUND_GROUP_SIZES = (128, 64, 32)
BROKEN = "the file is broken, download or quantize it again"
PACKED_PARTS = ("qweight", "qzeros", "scales", "g_idx", "bias")


class Checkpoint:
    """A checkpoint of a supported architecture; tensors are read when they are asked for.

    ``config`` is config.json as it was read, ``model`` what it says; ``tensors`` are those that the model has.
    """

    def __init__(
        self,
        directory: Path,
        config: dict[str, Any],
        model: ModelConfig,
        quantization: QuantizationConfig | None,
        files: TensorFiles,
        round_to_bits: int | None = None,
    ) -> None:
        self.directory = directory
        self.config = config
        self.model = model
        self.tensors = tensors_of(model)
        self.quantization = quantization
        self.files = files
        self.round_to_bits = round_to_bits
        self._dialect = architecture_of(model).recognize(files.names)
        self._device = torch.device("cpu")

    @classmethod
    def open(cls, directory: Path, round_to_bits: int | None = None) -> "Checkpoint":
        """Read the configuration and the headers of the weight files.

        Plain matrices are rounded to ``round_to_bits`` as they are read, except where quantizers leave them plain too.
        CheckpointError names what is missing, damaged or not supported, or quantized already.
        """
        if not directory.is_dir():
            raise CheckpointError(f"{directory} is not a directory; give the directory that holds config.json")
        configuration = read_configuration(directory)
        quantization = read_quantization(directory, configuration.values)
        if quantization and round_to_bits:
            raise CheckpointError(f"{directory} is {quantization} already and cannot be quantized while loading")
        files = TensorFiles.open(directory)
        return cls(directory, configuration.values, configuration.model, quantization, files, round_to_bits)

    def on(self, device: torch.device) -> "Checkpoint":
        """Return this checkpoint with tensors that come to ``device`` as files hold them, and are unpacked there."""
        moved = copy(self)
        moved._device = device
        return moved

    @property
    def weight_format(self) -> str:
        """Storage of the expert weights, for people: "awq 4-bit g128", "bfloat16"."""
        plain = self.config.get("dtype") or self.config.get("torch_dtype") or "float32"
        return str(self.quantization or (f"int{self.round_to_bits} of {plain}" if self.round_to_bits else plain))

    def locate(self, spec: TensorSpec) -> Location:
        """Tell where the files keep a tensor."""
        return self._dialect.locate(spec)

    def tensor(self, spec: TensorSpec) -> torch.Tensor:
        """Read plain values.

        CheckpointError when they have another shape, their dtype is not supported, or those of an embedding, norm, gate
        or head are not finite. Large matrices are not tested: what they produce is, and tells which it was.
        """
        location = self.locate(spec)
        entry = self.files.entry(location.name)
        _check_rank(location, entry)
        tensor = self._read(location.name, location.part)
        if location.is_transposed:
            tensor = tensor.T.contiguous()
        if tensor.shape != spec.shape:
            found = f"{list(tensor.shape)}" + (f" (of {list(entry.shape)})" if location.part else "")
            raise CheckpointError(f"{entry.file}: {location.name} is {found}; {list(spec.shape)} would be right")
        if tensor.dtype not in DENSE_DTYPES:
            raise CheckpointError(f"{entry.file}: {location.name} is {entry.dtype}; F32, F16 or BF16 would be right")
        if not spec.is_quantizable and not is_finite(tensor):
            raise CheckpointError(f"{entry.file}: {location.name} holds NaN or Inf; {BROKEN}")
        return halves_from_pairs(tensor, self.model.head_dim) if location.has_rotary_pairs else tensor

    def weight(self, spec: TensorSpec) -> Weight:
        """Read a matrix, quantized where its file holds codes.

        CheckpointError when a tensor is missing or of another shape or dtype, or a scale is not finite.
        """
        location = self.locate(spec)
        if self._is_packed(location):
            return self._unpack(location, self._read_packed(location), spec)
        plain = DenseWeight(self.tensor(spec), self._bias(location, spec))
        return self._round(spec, plain) if self.round_to_bits and spec.is_quantizable else plain

    def expert(self, layer: int, expert: int) -> ExpertWeights:
        """Read one expert; the only FFN of a dense model is expert 0. Errors as ``weight``."""
        specs = self.tensors.expert(layer, expert)
        return ExpertWeights(
            w_gate=self.weight(specs["w_gate"]),
            w_up=self.weight(specs["w_up"]),
            w_down=self.weight(specs["w_down"]),
        )

    def stored(self, spec: TensorSpec) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the tensors of a matrix or vector as a file would hold them under HF's name: codes stay packed.

        CheckpointError as ``weight``; packed tensors are unpacked too, to be sure of what is copied.
        """
        location = self.locate(spec)
        if self._is_packed(location):
            parts = self._read_packed(location)
            self._unpack(location, parts, spec)
            yield from ((f"{spec.name}.{part}", tensor) for part, tensor in parts.items())
            return
        yield f"{spec.name}.weight", self.tensor(spec)
        bias = self._bias(location, spec)
        if bias is not None:
            yield f"{spec.name}.bias", bias

    def _read(self, name: str, part: Part = ()) -> torch.Tensor:
        return self.files.read(name, part).to(self._device)

    def _is_packed(self, location: Location) -> bool:
        return f"{location.prefix}.qweight" in self.files

    def _round(self, spec: TensorSpec, plain: DenseWeight) -> QuantizedWeight:
        group_size = next((size for size in ROUND_GROUP_SIZES if plain.shape[1] % size == 0), plain.shape[1])
        try:
            rounded = round_to_nearest(plain.data, self.round_to_bits or 0, group_size)
        except ValueError as error:
            raise CheckpointError(f"{self.directory}: {spec.name}: {error}") from error
        return replace(rounded, bias=plain.bias)

    def _bias(self, location: Location, spec: TensorSpec) -> torch.Tensor | None:
        name, num_out = f"{location.prefix}.bias", spec.shape[0]
        if name not in self.files:
            return None
        bias = self._read(name)
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
        return {part: self._read(name) for part, name in names.items() if part in needed or name in self.files}

    def _unpack(self, location: Location, parts: dict[str, torch.Tensor], spec: TensorSpec) -> QuantizedWeight:
        where, quantization = self._describe_packed(location), self.quantization
        assert quantization is not None
        try:
            weight = _unpack(parts, quantization)
        except ValueError as error:
            raise CheckpointError(f"{where}: {error}") from error
        _check_quantized(where, weight, spec, quantization)
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


def _check_rank(location: Location, entry: TensorEntry) -> None:
    if len(location.part) >= len(entry.shape) and location.part:
        raise CheckpointError(f"{entry.file}: {location.name} is {list(entry.shape)}; it should hold several matrices")
    first = location.part[0] if location.part else None
    if isinstance(first, int) and first >= entry.shape[0]:
        raise CheckpointError(f"{entry.file}: {location.name} is {list(entry.shape)}; it holds no expert {first}")


def _check_quantized(where: str, weight: QuantizedWeight, spec: TensorSpec, config: QuantizationConfig) -> None:
    if weight.shape != spec.shape:
        raise CheckpointError(f"{where} is {list(weight.shape)} (outputs, inputs); {list(spec.shape)} would be right")
    expected = config.group_size if config.group_size > 0 else spec.shape[1]
    if weight.group_size != expected:
        raise CheckpointError(f"{where} has groups of {weight.group_size}; the configuration says {expected}")
    if not torch.isfinite(weight.scales).all():
        raise CheckpointError(f"{where}.scales holds NaN or Inf; {BROKEN}")
