"""The plain weights of a checkpoint by name, in float32 on one device. Knows shapes, not what a layer does."""

import torch

from expertmesh.checkpoint.reader import Checkpoint
from expertmesh.checkpoint.shards import files_of
from expertmesh.kernels.weights import DenseWeight


class PlainWeights:
    """Reads a matrix whenever it is asked for and keeps none. Errors as ``Checkpoint.weight``."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        self._checkpoint = checkpoint
        self._device = device
        self._shapes = {matrix.name: matrix.shape for file in files_of(checkpoint).values() for matrix in file}

    def matrix(self, name: str) -> DenseWeight:
        """Read the matrix ``name`` and its bias, if it has one."""
        weight = self._checkpoint.weight(name, (self._shapes[name][0], self._shapes[name][1]))
        assert isinstance(weight, DenseWeight)
        bias = None if weight.bias is None else weight.bias.to(self._device, torch.float32)
        return DenseWeight(weight.data.to(self._device, torch.float32), bias)

    def values(self, name: str) -> torch.Tensor:
        """Read a norm, gate or embedding in the dtype of its file."""
        return self._checkpoint.tensor(name, self._shapes[name]).to(self._device)
