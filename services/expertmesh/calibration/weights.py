"""The plain weights of a checkpoint, in float32 on one device. Knows no layers."""

import torch

from expertmesh.architectures.tensor_table import TensorSpec
from expertmesh.checkpoint.reader import Checkpoint
from expertmesh.kernels.weights import DenseWeight


class PlainWeights:
    """Reads a matrix whenever it is asked for and keeps none. Errors as ``Checkpoint.weight``."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        self._checkpoint = checkpoint
        self._device = device

    def weight(self, spec: TensorSpec) -> DenseWeight:
        """Read a matrix and its bias, if it has one."""
        weight = self._checkpoint.weight(spec)
        assert isinstance(weight, DenseWeight)
        bias = None if weight.bias is None else weight.bias.to(self._device, torch.float32)
        return DenseWeight(weight.data.to(self._device, torch.float32), bias)

    def tensor(self, spec: TensorSpec) -> torch.Tensor:
        """Read a norm, gate or embedding in the dtype of its file."""
        return self._checkpoint.tensor(spec).to(self._device)
