"""What a file may add to a matrix: input features in another order, and a bias. Knows no storage.

Alphabet: M rows, N output features, K input features.
"""

import torch

from expertmesh.kernels.backend import Linear
from expertmesh.kernels.weights import DenseWeight, Weight


class Affine:
    """A matrix whose input is taken in the order ``perm`` [K] and to whose output ``bias`` [N] is added."""

    def __init__(self, matrix: Linear, perm: torch.Tensor | None, bias: torch.Tensor | None) -> None:
        self._matrix = matrix
        self._perm = perm
        self._bias = bias
        self.num_bytes = matrix.num_bytes + sum(tensor.nbytes for tensor in (perm, bias) if tensor is not None)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply ``x`` [M, K] and return [M, N] in the dtype of ``x``."""
        y = self._matrix(x if self._perm is None else x.index_select(-1, self._perm))
        return y if self._bias is None else y.add_(self._bias)


def complete(matrix: Linear, weight: Weight, device: torch.device) -> Linear:
    """Add the order and the bias of ``weight`` to its bare ``matrix``, where it has any."""
    perm = None if isinstance(weight, DenseWeight) else weight.perm
    if perm is None and weight.bias is None:
        return matrix
    perm, bias = (None if tensor is None else tensor.to(device) for tensor in (perm, weight.bias))
    return Affine(matrix, perm, bias)
