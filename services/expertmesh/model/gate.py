"""The gate: which experts a token goes to, and with what weight.

Alphabet: T rows, D hidden width, A experts chosen per row.
"""

from typing import Protocol

import torch

from expertmesh.architectures.model_config import GateRule, ModelConfig
from expertmesh.architectures.tensor_table import Specs
from expertmesh.kernels.backend import Linear
from expertmesh.kernels.step_ops import Choices, StepOps, finish_choices
from expertmesh.kernels.weights import DenseWeight
from expertmesh.model.weight_loader import WeightLoader


class Gate(Protocol):
    """Says where rows go."""

    def __call__(self, rows: torch.Tensor, lengths: torch.Tensor | None = None, out: Choices | None = None) -> Choices:
        """Choose experts for ``rows`` [T, D], into ``out`` if given; those whose ``lengths`` are 0 choose none."""
        ...


def load_gate(specs: Specs, loader: WeightLoader) -> Gate:
    """Read the gate of the layer of ``specs``, in the dtype of the activations, as transformers has it."""
    if loader.config.gate is GateRule.ONLY_EXPERT:
        return choose_only_expert
    matrix = loader.backend.linear(DenseWeight(loader.values(specs["gate"])))
    return TopKGate(matrix, loader.backend.step_ops, loader.config)


class TopKGate:
    """The experts with the highest logits, by ``GateRule.RENORMALISED`` or ``GateRule.PROBABILITIES``."""

    def __init__(self, matrix: Linear, ops: StepOps, config: ModelConfig) -> None:
        self._matrix = matrix
        self._ops = ops
        self._num_chosen = config.num_experts_per_token
        self._is_renormalised = config.gate is GateRule.RENORMALISED

    def __call__(self, rows: torch.Tensor, lengths: torch.Tensor | None = None, out: Choices | None = None) -> Choices:
        """See ``Gate``."""
        return self._ops.choose_experts(self._matrix(rows), self._num_chosen, lengths, out, self._is_renormalised)


def choose_only_expert(rows: torch.Tensor, lengths: torch.Tensor | None = None, out: Choices | None = None) -> Choices:
    """Send every row of ``rows`` [T, D] to expert 0 with weight 1, by ``GateRule.ONLY_EXPERT``; A = 1."""
    shape = (len(rows), 1)
    ids = torch.zeros(shape, dtype=torch.int64, device=rows.device)
    return finish_choices(ids, torch.ones(shape, device=rows.device), lengths, out)
