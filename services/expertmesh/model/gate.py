"""The gate: which experts a token goes to, and with what weight.

Alphabet: T rows, D hidden width, E experts, A chosen per row.
"""

from collections.abc import Callable

import torch

from expertmesh.architectures.model_config import GateRule
from expertmesh.architectures.tensor_table import Specs
from expertmesh.kernels.weights import DenseWeight
from expertmesh.model.weight_loader import WeightLoader

# Maps rows [T, D] to ``topk_ids`` [T, A] int64 and ``topk_weights`` [T, A] float32.
Gate = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def load_gate(specs: Specs, loader: WeightLoader) -> Gate:
    """Read the gate of the layer of ``specs``, in the dtype of the activations, as transformers has it."""
    if loader.config.gate is GateRule.ONLY_EXPERT:
        return choose_only_expert
    matrix = loader.backend.linear(DenseWeight(loader.values(specs["gate"])))
    return lambda rows: choose_experts(matrix(rows), loader.config.num_experts_per_token)


def choose_experts(logits: torch.Tensor, num_chosen: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose ``num_chosen`` experts per row of ``logits`` [T, E], by ``GateRule.RENORMALISED``.

    Returns ``topk_ids`` [T, A] int64 and ``topk_weights`` [T, A] float32, the softmax in float32 over all experts
    renormalised over the chosen ones.
    """
    probabilities = torch.softmax(logits.float(), dim=-1)  # [T, E]
    topk_weights, topk_ids = torch.topk(probabilities, num_chosen, dim=-1)  # [T, A]
    return topk_ids, topk_weights / topk_weights.sum(dim=-1, keepdim=True)


def choose_only_expert(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Send every row of ``rows`` [T, D] to expert 0 with weight 1, by ``GateRule.ONLY_EXPERT``; A = 1."""
    shape = (len(rows), 1)
    return torch.zeros(shape, dtype=torch.int64, device=rows.device), torch.ones(shape, device=rows.device)
