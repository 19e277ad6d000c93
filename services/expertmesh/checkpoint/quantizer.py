"""A quantized copy of a plain checkpoint, in the formats that other tools read. Knows which matrices, not how to pack.

Values are rounded to nearest; nothing is calibrated.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from expertmesh.checkpoint.configuration import DENSE
from expertmesh.checkpoint.fingerprint import LENGTH, fingerprint
from expertmesh.checkpoint.names import hf_name, is_quantizable
from expertmesh.checkpoint.reader import Checkpoint
from expertmesh.checkpoint.shards import Matrix, Report, Target, write
from expertmesh.errors import CheckpointError
from expertmesh.kernels import awq, gptq
from expertmesh.kernels.quantize import round_to_nearest
from expertmesh.kernels.weights import DenseWeight

METHODS = {"awq": (awq.BITS,), "gptq": gptq.BITS}


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

    def pack(self, matrix: torch.Tensor) -> dict[str, torch.Tensor]:
        """Quantize [N, K] and lay it out; ValueError when it does not fit the format."""
        group_size = self.group_size if self.group_size > 0 else matrix.shape[1]
        if self.method == "awq":
            return awq.pack(round_to_nearest(matrix, self.bits, group_size)).as_dict()
        return gptq.pack(round_to_nearest(matrix, self.bits, group_size, is_symmetric=True)).as_dict()


def quantize(checkpoint: Checkpoint, directory: Path, recipe: Recipe, report: Report) -> None:
    """Write ``checkpoint`` quantized, by who loads it; ``report(done, total)`` counts matrices.

    Attention and experts are quantized; gate, head, embeddings and norms stay plain. An interrupted run goes on where
    it stopped. CheckpointError when the checkpoint is quantized already or a matrix does not fit the format.
    """
    recipe.check()
    if checkpoint.quantization:
        raise CheckpointError(f"{checkpoint.directory} is {checkpoint.quantization} already; give a plain checkpoint")
    mark = hashlib.sha256(f"{fingerprint(checkpoint)} {recipe}".encode()).hexdigest()[:LENGTH]
    config = {**checkpoint.config, "quantization_config": recipe.config}
    # Codes never take more than what they are made of.
    needed = sum(entry.num_bytes for entry in checkpoint.files.entries.values())
    write(checkpoint, Target(directory, config, mark, _Converter(checkpoint, recipe)), needed, report)


class _Converter:
    def __init__(self, checkpoint: Checkpoint, recipe: Recipe) -> None:
        self._checkpoint = checkpoint
        self._recipe = recipe
        self._is_dense = DENSE in checkpoint.config.get("architectures", ())

    def __call__(self, matrix: Matrix) -> Iterator[tuple[str, torch.Tensor]]:
        new_name = hf_name(matrix.name, self._is_dense)
        if not is_quantizable(matrix.name):
            yield from self._checkpoint.stored(matrix.name, new_name, matrix.shape)
            return
        weight = self._checkpoint.weight(matrix.name, (matrix.shape[0], matrix.shape[1]))
        assert isinstance(weight, DenseWeight)
        try:
            parts = self._recipe.pack(weight.data)
        except ValueError as error:
            raise CheckpointError(f"{self._checkpoint.directory}: {matrix.name}: {error}") from error
        for part, tensor in parts.items():
            yield f"{new_name}.{part}", tensor
        if weight.bias is not None:
            yield f"{new_name}.bias", weight.bias
