"""How many rows each expert was sent. Knows counts per layer and expert, not replicas."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from expertmesh.model.experts import Experts


class CountedExperts:
    """Experts, wherever they run, with a counter before them."""

    def __init__(self, experts: Experts, load: "ExpertLoadCounter") -> None:
        self._experts = experts
        self._load = load

    async def __call__(
        self, layer: int, hidden: torch.Tensor, topk_ids: torch.Tensor, topk_weights: torch.Tensor
    ) -> torch.Tensor:
        """Run the experts and count their rows; arguments and result as in ``Experts``."""
        with self._load.count(layer, topk_ids):
            return await self._experts(layer, hidden, topk_ids, topk_weights)


class ExpertLoadCounter:
    """Counts the gate's choices, per layer and expert, since it was made."""

    def __init__(self, num_layers: int, num_experts: int) -> None:
        self._tokens = np.zeros((num_layers, num_experts), dtype=np.int64)
        self._inflight = np.zeros(num_experts, dtype=np.int64)

    @contextmanager
    def count(self, layer: int, topk_ids: torch.Tensor) -> Iterator[None]:
        """Count the choices ``topk_ids`` [T, A] of one layer step, in flight while the body runs."""
        rows = np.bincount(topk_ids.cpu().numpy().ravel(), minlength=len(self._inflight))  # [E]
        self._tokens[layer] += rows
        self._inflight += rows
        try:
            yield
        finally:
            self._inflight -= rows

    def inflight_rows(self, expert: int) -> int:
        """Rows that wait for ``expert`` now."""
        return int(self._inflight[expert])

    def by_layer(self, expert: int) -> list[int]:
        """Rows sent to ``expert``, layer 0 first."""
        return [int(tokens) for tokens in self._tokens[:, expert]]

    def totals(self) -> list[int]:
        """Rows sent to each expert over all layers, expert 0 first."""
        return [int(tokens) for tokens in self._tokens.sum(axis=0)]


def shares(totals: list[int]) -> list[float]:
    """Divide each load by the sum of all; zeros before the first token."""
    whole = sum(totals)
    return [total / whole if whole else 0.0 for total in totals]


def balancedness(totals: list[int]) -> float:
    """Mean load divided by the greatest: 1 when even, 1/E when one expert gets everything, 0 before the first token."""
    return sum(totals) / len(totals) / max(totals) if any(totals) else 0.0
