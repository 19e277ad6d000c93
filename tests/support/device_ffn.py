"""Experts of a CPU behind the interface of those of a GPU."""

from collections.abc import Callable

import torch

from expertmesh.kernels.backend import DeviceFFN, GroupedFFN
from expertmesh.kernels.moe import run_chosen
from expertmesh.mesh.counted_experts import CountedDeviceExperts
from expertmesh.mesh.expert_load import ExpertLoadCounter
from expertmesh.model.experts import LocalExperts


class OnDevice(DeviceFFN):
    """Experts of a layer, as if their host had not to be asked."""

    def __init__(self, ffn: GroupedFFN, num_experts: int) -> None:
        self._ffn, self._num_experts, self.num_bytes = ffn, num_experts, ffn.num_bytes

    def __call__(self, x, num_rows, row_weights):
        return self._ffn(x, num_rows, row_weights)

    def run_chosen(self, hidden, topk_slots, topk_weights, out=None, nonfinite=None):
        total = run_chosen(self._ffn, self._num_experts, hidden, topk_slots.numpy(), topk_weights.numpy())
        if nonfinite is not None:
            nonfinite |= int(not total.isfinite().all())
        return total if out is None else out.copy_(total)


def on_device(
    experts: LocalExperts, load: ExpertLoadCounter, kind: Callable[[GroupedFFN, int], DeviceFFN] = OnDevice
) -> CountedDeviceExperts:
    """Put the same experts behind that interface, and count them."""
    layers = [kind(layer, load.num_experts) for layer in experts._layers]
    return CountedDeviceExperts(LocalExperts(layers, load.num_experts), load)


def rows_of(load: ExpertLoadCounter) -> torch.Tensor:
    """Rows that were counted [E, L]."""
    return torch.tensor([load.by_layer(expert) for expert in range(load.num_experts)])
