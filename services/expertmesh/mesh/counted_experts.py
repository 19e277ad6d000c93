"""Experts of this process, counted like those of others. Knows neither replicas nor the wire."""

import torch

from expertmesh.mesh.expert_load import ExpertLoadCounter
from expertmesh.model.experts import Experts, LayerCall


class CountedExperts:
    """Experts of this process with a counter before them."""

    def __init__(self, experts: Experts, load: ExpertLoadCounter) -> None:
        self._experts = experts
        self._load = load

    async def __call__(self, call: LayerCall) -> torch.Tensor:
        """Run the experts and count their rows."""
        with self._load.step(call.layer, call.topk_ids.cpu().numpy()) as step:
            step.sent(step.experts)
            return await self._experts(call)
