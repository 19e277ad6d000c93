"""The door between a decoder layer and its experts, and the experts that live in this process.

Alphabet: T rows, A experts chosen per row, D hidden width.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice, product
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from expertmesh.architectures.model_config import ModelConfig
from expertmesh.errors import ComputeError
from expertmesh.kernels.backend import Backend, DeviceFFN, GroupedFFN
from expertmesh.kernels.finite import is_finite
from expertmesh.kernels.moe import run_chosen
from expertmesh.model.patience import Patience
from expertmesh.model.weight_loader import ExpertSource


@dataclass(frozen=True)
class LayerCall:
    """Rows of one layer and the experts that the gate chose for them.

    ``hidden`` [T, D], ``topk_ids`` [T, A] int64, ``topk_weights`` [T, A] float32. ``traceparent`` names the span that
    this is a part of, for servers that make spans of their own; empty when it is not traced. ``patience`` says what
    rows want whose expert has no replica.
    """

    layer: int
    hidden: torch.Tensor
    topk_ids: torch.Tensor
    topk_weights: torch.Tensor
    traceparent: str = ""
    patience: Patience | None = None


class Pending(Protocol):
    """A layer's rows on their way through its experts; one of its two methods is called, once."""

    def finish(self) -> torch.Tensor:
        """Wait, and return, for each row, the sum of weight x expert(row) [T, D] float32."""
        ...

    def abandon(self) -> None:
        """Want no result any more."""
        ...


class Experts(Protocol):
    """Where the chosen experts of a layer are run: in this process or on expert servers."""

    def begin(self, call: LayerCall) -> Pending:
        """Send rows on their way and return; whatever there is to compute meanwhile can be."""
        ...


class DeviceExperts(ABC):
    """Experts beside the decoder on its device, which can be run without asking the host; inherit from it to be some.

    They keep nothing of a step: what there is to look at is the business of who runs them.
    """

    @abstractmethod
    def run(self, call: LayerCall, nonfinite: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """Run the chosen experts of rows of the device; returns [T, D] float32, in ``out`` if given.

        ``nonfinite`` [1] int32 is set to 1 when a sum is NaN or infinite, and otherwise left alone.
        """
        ...

    @abstractmethod
    def count(self, topk_ids: npt.NDArray[np.integer]) -> None:
        """Take note of what the rows of a part of a step chose, ``topk_ids`` [L, T, A]."""
        ...


def run_experts(experts: Experts, call: LayerCall) -> torch.Tensor:
    """Run the chosen experts with nothing to do meanwhile; returns [T, D] float32."""
    return experts.begin(call).finish()


class LocalExperts:
    """All experts of all layers in this process: what remote experts must equal."""

    def __init__(self, layers: Sequence[GroupedFFN], num_experts: int) -> None:
        self._layers = layers
        self._num_experts = num_experts

    @classmethod
    def load(
        cls,
        config: ModelConfig,
        source: ExpertSource,
        backend: Backend,
        report: Callable[[int, int], None] = lambda done, total: None,
    ) -> "LocalExperts":
        """Read every expert, layer by layer; ``report`` is told (layers done, layers in all)."""
        layers = []
        with closing(source.experts(product(range(config.num_layers), range(config.num_experts)))) as weights:
            for layer in range(config.num_layers):
                layers.append(backend.experts(islice(weights, config.num_experts)))
                report(layer + 1, config.num_layers)
        return cls(layers, config.num_experts)

    def begin(self, call: LayerCall) -> "LocalCall":
        """Note what to run: it is this thread that does it, in the end."""
        return LocalCall(self, call)

    @torch.inference_mode()
    def run(self, call: LayerCall) -> torch.Tensor:
        """Run the layer's experts [T, D]; ComputeError when what they produce is not finite."""
        ids, weights = call.topk_ids.cpu().numpy(), call.topk_weights.cpu().numpy()
        total = run_chosen(self._layers[call.layer], self._num_experts, call.hidden, ids, weights)
        if not is_finite(total):
            raise _blame(call, ~total.isfinite().all(dim=1))
        return total

    @property
    def is_on_device(self) -> bool:
        """Whether ``run_on_device`` can be called."""
        return all(isinstance(layer, DeviceFFN) for layer in self._layers)

    def run_on_device(self, call: LayerCall, nonfinite: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """Do what ``DeviceExperts.run`` does."""
        layer = self._layers[call.layer]
        assert isinstance(layer, DeviceFFN), "its layers are on a device"
        return layer.run_chosen(call.hidden, call.topk_ids, call.topk_weights, out, nonfinite)


class PartOnDevice:
    """Experts of a device as one part of a step asks them, layer by layer.

    What they made and what was chosen is looked at once, after the last layer: to look is to wait.
    """

    def __init__(self, experts: DeviceExperts, num_layers: int) -> None:
        self._experts = experts
        self._num_layers = num_layers
        self._chosen: list[torch.Tensor] = []  # each [T, A]
        self._nonfinite: torch.Tensor | None = None  # [L] int32

    def begin(self, call: LayerCall) -> "LocalCall":
        """Note what to run; see ``LocalExperts.begin``."""
        return LocalCall(self, call)

    @torch.inference_mode()
    def run(self, call: LayerCall) -> torch.Tensor:
        """Run the layer's experts [T, D]; ComputeError after the last layer when any produced what is not finite."""
        self._chosen.append(call.topk_ids)
        if self._nonfinite is None:
            self._nonfinite = torch.zeros(self._num_layers, dtype=torch.int32, device=call.hidden.device)
        total = self._experts.run(call, self._nonfinite[call.layer : call.layer + 1])
        if call.layer == self._num_layers - 1:
            self._experts.count(torch.stack(self._chosen).cpu().numpy())
            check_layers(self._nonfinite)
        return total


def check_layers(nonfinite: torch.Tensor) -> None:
    """Wait for ``nonfinite`` [L]; ComputeError naming the first layer that is marked."""
    marks = nonfinite.tolist()
    if any(marks):
        raise ComputeError(f"layer {marks.index(1)}: values that are not finite, from its experts or before")


def _blame(call: LayerCall, is_bad: torch.Tensor) -> ComputeError:
    """Say who made the rows that ``is_bad`` [T] marks: the experts, or what was there before them."""
    if not is_finite(call.hidden[is_bad]):
        return ComputeError(
            f"layer {call.layer}: its experts are given values that are not finite; "
            "the checkpoint's attention weights of this layer may be broken"
        )
    experts = sorted(set(call.topk_ids[is_bad].flatten().tolist()))
    return ComputeError(f"layer {call.layer}, experts {experts}: values that are not finite")


@dataclass(frozen=True)
class LocalCall:
    """Rows that will be computed when they are wanted."""

    experts: LocalExperts | PartOnDevice
    call: LayerCall

    def finish(self) -> torch.Tensor:
        """Compute; see ``run`` of the experts."""
        return self.experts.run(self.call)

    def abandon(self) -> None:
        """Compute nothing."""
