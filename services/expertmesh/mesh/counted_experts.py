"""Experts of this process, counted like those of others. Knows neither replicas nor the wire."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from expertmesh.mesh.expert_load import ExpertLoadCounter, StepLoad
from expertmesh.model.experts import DeviceExperts, Experts, LayerCall, LocalExperts, Pending


class CountedExperts:
    """Experts of this process with a counter before them."""

    def __init__(self, experts: Experts, load: ExpertLoadCounter) -> None:
        self._experts = experts
        self._load = load

    def begin(self, call: LayerCall) -> "CountedCall":
        """Ask the experts and count their rows."""
        load = self._load.step(call.layer, call.topk_ids.cpu().numpy())
        load.sent(load.experts)
        return CountedCall(self._experts.begin(call), load)


class CountedDeviceExperts(DeviceExperts):
    """Experts of this process that are run without asking the host, counted when a part of a step is done."""

    def __init__(self, experts: LocalExperts, load: ExpertLoadCounter) -> None:
        self._local = experts
        self._load = load

    def run(self, call: LayerCall, nonfinite: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """Run the experts of a layer."""
        return self._local.run_on_device(call, nonfinite, out)

    def count(self, topk_ids: npt.NDArray[np.integer]) -> None:
        """Count the rows of all layers of a step, ``topk_ids`` [L, T, A]."""
        layers = np.arange(len(topk_ids))[:, None, None]
        self._load.count(topk_ids + layers * self._load.num_experts)


@dataclass(frozen=True)
class CountedCall:
    """Rows that are owed until they are back or wanted no more."""

    pending: Pending
    load: StepLoad

    def finish(self) -> torch.Tensor:
        """Wait for the rows."""
        with self.load:
            return self.pending.finish()

    def abandon(self) -> None:
        """Want them no more."""
        with self.load:
            self.pending.abandon()
