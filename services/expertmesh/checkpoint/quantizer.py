"""A quantized copy of a plain checkpoint, in the formats that other tools read. Knows which matrices, not how to pack.

Values are rounded to nearest, after factors have moved between matrices where someone has found such factors.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from expertmesh.architectures.tensor_table import TensorSpec
from expertmesh.checkpoint.fingerprint import LENGTH, fingerprint
from expertmesh.checkpoint.reader import Checkpoint
from expertmesh.checkpoint.rescale import Rescale, digest
from expertmesh.checkpoint.shards import Report, Target, write
from expertmesh.errors import CheckpointError
from expertmesh.kernels import awq, gptq
from expertmesh.kernels.formats import AWQ_BITS, GPTQ_BITS
from expertmesh.kernels.quantize import round_to_nearest
from expertmesh.kernels.weights import DenseWeight, QuantizedWeight

METHODS = {"awq": (AWQ_BITS,), "gptq": GPTQ_BITS}


@dataclass(frozen=True)
class Recipe:
    """What to make: ``method`` "awq" or "gptq" of so many bits, a scale per ``group_size`` inputs (-1 = all of them).

    GPTQ's zero points are in the middle (sym), AWQ's where the values want them.
    """

    method: str
    bits: int
    group_size: int

    def check(self) -> None:
        """Raise CheckpointError for what the format does not know."""
        if self.method not in METHODS or self.bits not in METHODS[self.method]:
            known = "; ".join(f"{name} with {', '.join(map(str, bits))} bits" for name, bits in METHODS.items())
            raise CheckpointError(f"cannot write {self.method} with {self.bits} bits; known are {known}")
        if self.group_size < 1 and self.group_size != -1:
            raise CheckpointError(f"cannot write groups of {self.group_size}; a positive number or -1 would be right")

    @property
    def config(self) -> dict[str, Any]:
        """The section of config.json that says how to read the codes."""
        shared = {"quant_method": self.method, "bits": self.bits, "group_size": self.group_size}
        if self.method == "awq":
            return {**shared, "zero_point": True, "version": "gemm"}
        return {**shared, "desc_act": False, "sym": True, "checkpoint_format": "gptq"}

    def round(self, matrix: torch.Tensor) -> QuantizedWeight:
        """Quantize [N, K]; ValueError when it does not fit the groups."""
        group_size = self.group_size if self.group_size > 0 else matrix.shape[1]
        return round_to_nearest(matrix, self.bits, group_size, is_symmetric=self.method != "awq")

    def pack(self, matrix: torch.Tensor) -> dict[str, torch.Tensor]:
        """Quantize [N, K] and lay it out; ValueError when it does not fit the format."""
        weight = self.round(matrix)
        return awq.pack(weight).as_dict() if self.method == "awq" else gptq.pack(weight).as_dict()


def check(checkpoint: Checkpoint, recipe: Recipe) -> None:
    """Raise CheckpointError when the checkpoint is quantized already or the format does not know the recipe."""
    recipe.check()
    if checkpoint.quantization:
        raise CheckpointError(f"{checkpoint.directory} is {checkpoint.quantization} already; give a plain checkpoint")


def quantize(
    checkpoint: Checkpoint,
    directory: Path,
    recipe: Recipe,
    report: Report,
    rescales: Mapping[str, Rescale] | None = None,
) -> None:
    """Write ``checkpoint`` quantized, by who loads it; ``report(done, total)`` counts matrices.

    Attention and experts are quantized; gate, head, embeddings and norms stay plain. The matrices that ``rescales``
    names are rescaled first. An interrupted run goes on where it stopped. CheckpointError when the checkpoint is
    quantized already or a matrix does not fit the format.
    """
    check(checkpoint, recipe)
    calibration = f" {digest(rescales)}" if rescales else ""
    mark = hashlib.sha256(f"{fingerprint(checkpoint)} {recipe}{calibration}".encode()).hexdigest()[:LENGTH]
    config = {**checkpoint.config, "quantization_config": recipe.config}
    write(checkpoint, Target(directory, config, mark, _Converter(checkpoint, recipe, rescales or {})), report)


class _Converter:
    def __init__(self, checkpoint: Checkpoint, recipe: Recipe, rescales: Mapping[str, Rescale]) -> None:
        self._checkpoint = checkpoint
        self._recipe = recipe
        self._rescales = rescales

    def __call__(self, spec: TensorSpec) -> Iterator[tuple[str, torch.Tensor]]:
        rescale = self._rescales.get(spec.name, Rescale())
        if spec.is_quantizable:
            return self._packed(spec, rescale)
        stored = self._checkpoint.stored(spec)
        return _rescaled(stored, rescale) if spec.name in self._rescales else stored

    def _packed(self, spec: TensorSpec, rescale: Rescale) -> Iterator[tuple[str, torch.Tensor]]:
        weight = self._checkpoint.weight(spec)
        assert isinstance(weight, DenseWeight)
        try:
            parts = self._recipe.pack(rescale.apply(weight.data))
        except ValueError as error:
            raise CheckpointError(f"{self._checkpoint.directory}: {spec.name}: {error}") from error
        for part, tensor in parts.items():
            yield f"{spec.name}.{part}", tensor
        if weight.bias is not None:
            yield f"{spec.name}.bias", rescale.divide(weight.bias).to(weight.bias.dtype)


def _rescaled(stored: Iterator[tuple[str, torch.Tensor]], rescale: Rescale) -> Iterator[tuple[str, torch.Tensor]]:
    """Rescale a matrix or norm that stays plain, and its bias."""
    for name, tensor in stored:
        values = rescale.divide(tensor) if name.endswith(".bias") else rescale.apply(tensor)
        yield name, values.to(tensor.dtype)
