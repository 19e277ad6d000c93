"""From where weights are read to where they are computed with. Knows no files and no layers."""

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Protocol

import torch

from expertmesh.architectures.model_config import ModelConfig
from expertmesh.architectures.tensor_table import TensorSpec
from expertmesh.kernels.backend import Backend
from expertmesh.kernels.weights import ExpertWeights, Weight
from expertmesh.model.norm import RMSNorm


class WeightSource(Protocol):
    """Gives what a gateway loads, for example from a checkpoint."""

    def tensor(self, spec: TensorSpec) -> torch.Tensor:
        """Read a tensor that must have the shape of ``spec``."""
        ...

    def weight(self, spec: TensorSpec) -> Weight:
        """Read a matrix, quantized or not, that must have the shape of ``spec``."""
        ...


class ExpertSource(Protocol):
    """Gives experts, for example from a checkpoint."""

    def experts(self, wanted: Iterable[tuple[int, int]]) -> Generator[ExpertWeights, None, None]:
        """Read experts, (layer, expert) each, one after the other."""
        ...


@dataclass(frozen=True)
class WeightLoader:
    """Reads from ``source`` for ``backend``, where activations are ``dtype``."""

    config: ModelConfig
    source: WeightSource
    backend: Backend
    dtype: torch.dtype

    def values(self, spec: TensorSpec) -> torch.Tensor:
        """Read a tensor in the dtype of the activations; values of the file that it cannot hold are rounded."""
        return self.source.tensor(spec).to(self.backend.device, self.dtype)

    def norm(self, spec: TensorSpec) -> RMSNorm:
        """Read a norm."""
        return RMSNorm(self.values(spec), self.config.rms_norm_eps)
