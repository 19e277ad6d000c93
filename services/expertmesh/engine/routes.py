"""Which experts some rows of a step went to. Knows the gate's choices, not who asks for them.

Alphabet: T rows, S' of them noted, L layers, A experts chosen per row.
"""

import numpy as np
import numpy.typing as npt
import torch

from expertmesh.engine.request import Route
from expertmesh.model.experts import DeviceExperts, Experts, LayerCall, Pending


class RouteNotes:
    """Notes of what ``rows`` [S'] of a step chose, layer by layer."""

    def __init__(self, rows: torch.Tensor) -> None:
        self._rows = rows
        self._layers: list[torch.Tensor] = []

    def take(self, topk_ids: torch.Tensor) -> None:
        """Take note of the choices [T, A] of the next layer."""
        self._layers.append(topk_ids[self._rows.to(topk_ids.device)])  # [S', A]

    def routes(self) -> list[Route]:
        """Return the experts of each noted row [S']."""
        rows = torch.stack(self._layers, dim=1).tolist()  # [S', L, A]
        return [tuple(tuple(experts) for experts in layers) for layers in rows]


class RecordedExperts:
    """Experts, wherever they run, with ``notes`` of what was chosen."""

    def __init__(self, experts: Experts, notes: RouteNotes) -> None:
        self._experts = experts
        self._notes = notes

    def begin(self, call: LayerCall) -> Pending:
        """Ask the experts, and note what was chosen."""
        self._notes.take(call.topk_ids)
        return self._experts.begin(call)


class RecordedDeviceExperts(DeviceExperts):
    """Experts of a device with ``notes`` of what was chosen, once a part of a step is done."""

    def __init__(self, experts: DeviceExperts, notes: RouteNotes) -> None:
        self._experts = experts
        self._notes = notes

    def run(self, call: LayerCall, nonfinite: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """Run the experts of a layer."""
        return self._experts.run(call, nonfinite, out)

    def count(self, topk_ids: npt.NDArray[np.integer]) -> None:
        """Note and count what was chosen, ``topk_ids`` [L, T, A]."""
        for layer in torch.from_numpy(topk_ids):
            self._notes.take(layer)
        self._experts.count(topk_ids)
