"""Which experts some rows of a step went to. Knows the gate's choices, not who asks for them."""

import torch

from expertmesh.engine.request import Route
from expertmesh.model.experts import Experts, LayerCall, Pending


class RecordedExperts:
    """Experts, wherever they run, with a note of the choices in ``rows`` [S'] of the step."""

    def __init__(self, experts: Experts, rows: torch.Tensor) -> None:
        self._experts = experts
        self._rows = rows
        self._layers: list[torch.Tensor] = []

    def begin(self, call: LayerCall) -> Pending:
        """Ask the experts, and note what was chosen."""
        self._layers.append(call.topk_ids[self._rows.to(call.topk_ids.device)])  # [S', A]
        return self._experts.begin(call)

    def routes(self) -> list[Route]:
        """Return the experts of each noted row [S']."""
        rows = torch.stack(self._layers, dim=1).tolist()  # [S', L, A]
        return [tuple(tuple(experts) for experts in layers) for layers in rows]
