"""The hosted experts of every layer, in the layout of their backend. Knows weights, not calls."""

from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import islice, product

import numpy as np
import numpy.typing as npt
import torch

from expertmesh.architectures.model_config import ModelConfig
from expertmesh.checkpoint.reader import Checkpoint
from expertmesh.errors import ConfigError
from expertmesh.kernels.backend import Backend, DeviceFFN, GroupedFFN

OnLayer = Callable[[int, int], None]


class ExpertStore:
    """Experts ``experts`` (ids, ascending) of each layer; ``layers[i]`` holds them in that order.

    The gate chooses at most ``max_choices`` per row, all that there are where that is not said.
    """

    def __init__(
        self,
        layers: Sequence[GroupedFFN],
        experts: Sequence[int],
        num_experts: int,
        hidden_size: int,
        device: torch.device,
        max_choices: int | None = None,
    ) -> None:
        self.layers = tuple(layers)
        self.experts = tuple(experts)
        self.num_experts = num_experts
        self.hidden_size = hidden_size
        self.device = device
        self.max_choices = max_choices or num_experts
        self._slots = np.full(num_experts + 1, -1)
        self._slots[list(experts)] = np.arange(len(experts))

    @classmethod
    def load(
        cls, checkpoint: Checkpoint, config: ModelConfig, experts: Sequence[int], backend: Backend, on_layer: OnLayer
    ) -> "ExpertStore":
        """Read the tensors of ``experts`` and of no others, layer by layer.

        ``on_layer(done, total)`` is called after each layer. ConfigError when an id is out of range or given twice.
        """
        hosted = check_experts(experts, config.num_experts)
        layers = []
        with closing(checkpoint.experts(product(range(config.num_layers), hosted))) as weights:
            for layer in range(config.num_layers):
                layers.append(backend.experts(islice(weights, len(hosted))))
                on_layer(layer + 1, config.num_layers)
        chosen = config.num_experts_per_token
        return cls(layers, hosted, config.num_experts, config.hidden_size, backend.device, chosen)

    @property
    def is_on_device(self) -> bool:
        """Whether every layer can be run without asking the host."""
        return all(isinstance(layer, DeviceFFN) for layer in self.layers)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all hosted weights in the layout of the backend."""
        return sum(layer.num_bytes for layer in self.layers)

    def slots_of(self, expert_ids: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
        """Map ids [U, A] from -1 to E - 1 to positions in a layer; -1 for -1 and for what is not hosted."""
        return self._slots[expert_ids]  # -1 reads the last entry, which belongs to no expert


def check_experts(experts: Sequence[int], num_experts: int) -> tuple[int, ...]:
    """Sort the ids of the experts to host; ConfigError when there are none, or one is out of range or given twice."""
    wrong = [expert for expert in experts if not 0 <= expert < num_experts]
    if wrong or not experts:
        raise ConfigError(f"cannot host experts {list(experts)}; ids from 0 to {num_experts - 1} would be right")
    if len(set(experts)) != len(experts):
        raise ConfigError(f"cannot host experts {list(experts)}: each can be given once")
    return tuple(sorted(experts))
