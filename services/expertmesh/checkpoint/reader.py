"""A checkpoint directory: its configuration, and its weights by their HF names. Knows names and formats, not shapes."""

from pathlib import Path
from typing import Any

import torch

from expertmesh.checkpoint.jsonfile import read_json
from expertmesh.checkpoint.quantization import AwqConfig, read_quantization
from expertmesh.checkpoint.tensors import TensorFiles
from expertmesh.errors import CheckpointError
from expertmesh.kernels.awq import AwqTensors, unpack
from expertmesh.kernels.weights import DenseWeight, ExpertWeights, QuantizedWeight, Weight

DENSE_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Checkpoint:
    """A Mixtral checkpoint in HF's layout, plain or AWQ; tensors are read when they are asked for."""

    def __init__(
        self, directory: Path, config: dict[str, Any], quantization: AwqConfig | None, files: TensorFiles
    ) -> None:
        self.directory = directory
        self.config = config
        self.quantization = quantization
        self.files = files

    @classmethod
    def open(cls, directory: Path) -> "Checkpoint":
        """Read the configuration and the headers of the weight files.

        CheckpointError names what is missing, damaged or not supported.
        """
        if not directory.is_dir():
            raise CheckpointError(f"{directory} is not a directory; give the directory that holds config.json")
        config = read_json(directory / "config.json")
        return cls(directory, config, read_quantization(directory, config), TensorFiles.open(directory))

    @property
    def weight_format(self) -> str:
        """Storage of the expert weights, for people: "awq 4-bit g128", "bfloat16"."""
        return str(self.quantization or self.config.get("dtype") or self.config.get("torch_dtype") or "float32")

    def tensor(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """Read a floating-point tensor; CheckpointError when its shape is not ``shape`` or its dtype not supported."""
        entry = self.files.entry(name)
        if entry.shape != shape:
            raise CheckpointError(f"{entry.file}: {name} is {list(entry.shape)}; {list(shape)} would be right")
        tensor = self.files.read(name)
        if tensor.dtype not in DENSE_DTYPES:
            raise CheckpointError(f"{entry.file}: {name} is {entry.dtype}; F32, F16 or BF16 would be right")
        return tensor

    def weight(self, prefix: str, shape: tuple[int, int]) -> Weight:
        """Read the matrix ``prefix`` of ``shape`` (outputs, inputs), quantized where its file holds codes.

        CheckpointError when a tensor is missing or of another shape or dtype, or a scale is not finite.
        """
        if f"{prefix}.qweight" in self.files:
            return self._quantized(prefix, shape)
        return DenseWeight(self.tensor(f"{prefix}.weight", shape))

    def expert(self, layer: int, expert: int, hidden_size: int, intermediate_size: int) -> ExpertWeights:
        """Read one expert: w1 is its gate, w3 its up and w2 its down projection. Errors as ``weight``."""
        prefix = f"model.layers.{layer}.block_sparse_moe.experts.{expert}"
        inner = (intermediate_size, hidden_size)
        return ExpertWeights(
            w_gate=self.weight(f"{prefix}.w1", inner),
            w_up=self.weight(f"{prefix}.w3", inner),
            w_down=self.weight(f"{prefix}.w2", (hidden_size, intermediate_size)),
        )

    def _quantized(self, prefix: str, shape: tuple[int, int]) -> QuantizedWeight:
        if self.quantization is None:
            raise CheckpointError(f"{self.directory}: {prefix}.qweight is there but config.json names no quantization")
        tensors = AwqTensors(*(self.files.read(f"{prefix}.{part}") for part in ("qweight", "qzeros", "scales")))
        try:
            weight = unpack(tensors)
        except ValueError as error:
            raise CheckpointError(f"{self.directory}: {prefix}: {error}") from error
        self._check_quantized(prefix, weight, shape, self.quantization)
        return weight

    def _check_quantized(self, prefix: str, weight: QuantizedWeight, shape: tuple[int, int], config: AwqConfig) -> None:
        where = f"{self.directory}: {prefix}"
        if weight.shape != shape:
            raise CheckpointError(f"{where} is {list(weight.shape)} (outputs, inputs); {list(shape)} would be right")
        expected = config.group_size if config.group_size > 0 else shape[1]
        if weight.group_size != expected:
            raise CheckpointError(f"{where} has groups of {weight.group_size}; the configuration says {expected}")
        if not torch.isfinite(weight.scales).all():
            raise CheckpointError(f"{where}.scales holds NaN or Inf; the file is broken, download or quantize it again")
