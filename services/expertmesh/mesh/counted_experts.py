"""Experts of this process, counted like those of others. Knows neither replicas nor the wire."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from expertmesh.mesh.expert_load import ExpertLoadCounter, StepLoad
from expertmesh.model.experts import Experts, LayerCall, LocalExperts, Pending


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


class CountedDeviceExperts:
    """Experts of this process that need not be asked by the host, see ``DeviceExperts``; nor are they to be counted.

    To look at what was chosen is to wait for the device, so that is done once, at the last layer.
    """

    def __init__(self, experts: LocalExperts, load: ExpertLoadCounter) -> None:
        self._local = experts
        self._load = load
        self._chosen: list[torch.Tensor] = []  # layer x E + expert

    def begin(self, call: LayerCall) -> Pending:
        """Ask the experts."""
        self._chosen.append((call.topk_ids + call.layer * self._load.num_experts).flatten())
        if call.layer == self._load.num_layers - 1:
            self._load.count(torch.cat(self._chosen).cpu().numpy())
            self._chosen.clear()
        return self._local.begin(call)

    def run_into(self, call: LayerCall, out: torch.Tensor, nonfinite: torch.Tensor) -> None:
        """Run the experts of a layer."""
        self._local.run_into(call, out, nonfinite)

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
