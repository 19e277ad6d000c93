"""The reference backend: every weight dequantized to float32, plain torch. Slow, large, and right."""

from collections.abc import Iterable

import torch

from expertmesh.kernels.affine import complete
from expertmesh.kernels.backend import Contexts, GroupedFFN, Linear
from expertmesh.kernels.block_attention import BlockContexts, attend_blocks
from expertmesh.kernels.ffn import GroupedSwiGLU, SwiGLU
from expertmesh.kernels.paged_attention import attend_paged
from expertmesh.kernels.quantize import dequantize
from expertmesh.kernels.step_ops import TORCH_STEP_OPS
from expertmesh.kernels.weights import DenseWeight, ExpertWeights, Weight


class ReferenceLinear:
    """A float32 matrix [N, K]."""

    def __init__(self, data: torch.Tensor) -> None:
        self._data = data
        self.num_bytes = data.nbytes

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply in float32, return the dtype of ``x``."""
        return torch.nn.functional.linear(x.float(), self._data).to(x.dtype)


class ReferenceBackend:
    """Runs on any device of torch."""

    name = "reference"
    isa = ""
    # How torch adds up a product depends on the number of rows.
    is_deterministic = False
    # It attends to one sequence after the other, to as many positions as there are blocks for.
    can_be_recorded = False
    step_ops = TORCH_STEP_OPS

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.activation_dtype = torch.float32 if device.type == "cpu" else torch.bfloat16

    def linear(self, weight: Weight) -> Linear:
        """Dequantize a matrix."""
        values = weight.data.float() if isinstance(weight, DenseWeight) else dequantize(weight)
        return complete(ReferenceLinear(values.to(self.device)), DenseWeight(values, weight.bias), self.device)

    def experts(self, experts: Iterable[ExpertWeights]) -> GroupedFFN:
        """Dequantize the experts of a layer."""
        return GroupedSwiGLU([SwiGLU.build(weights, self.linear) for weights in experts])

    def attend(self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, contexts: Contexts) -> torch.Tensor:
        """Gather the contexts and attend."""
        if isinstance(contexts, BlockContexts):
            return attend_blocks(query, keys, values, contexts)
        return attend_paged(query, keys, values, contexts)
