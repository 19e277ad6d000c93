"""What tensors a model has: the part each one plays, its name and its shape. Knows no family, reads nothing."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from expertmesh.architectures.model_config import ModelConfig

# What a tensor is to the decoder; an expert computes w_down(silu(w_gate x) * (w_up x)).
Role = Literal[
    "embedding",
    "final_norm",
    "head",
    "input_norm",
    "expert_norm",
    "q",
    "k",
    "v",
    "o",
    "q_norm",
    "k_norm",
    "gate",
    "w_gate",
    "w_up",
    "w_down",
]
# V vocabulary, D hidden width, d head width, Hd query heads by head width, Kd key-value heads by head width, E experts,
# F FFN width.
Dim = Literal["V", "D", "d", "Hd", "Kd", "E", "F"]

ENDS: tuple[Role, ...] = ("embedding", "final_norm", "head")
EXPERT: tuple[Role, ...] = ("w_gate", "w_up", "w_down")
QK_NORMS: tuple[Role, ...] = ("q_norm", "k_norm")
# What quantizers take: attention and experts, but no gate, head, embedding or norm.
QUANTIZABLE: tuple[Role, ...] = ("q", "k", "v", "o", *EXPERT)


class Row(NamedTuple):
    """The tensors of one role: HF's name without ".weight", with {layer} and {expert}, and the shape, outputs first."""

    name: str
    shape: tuple[Dim, ...]


Rows = Mapping[Role, Row]


@dataclass(frozen=True)
class TensorSpec:
    """One matrix or vector of a model: its role, HF's name for it, and its shape, (outputs, inputs) of a matrix.

    ``layer`` and ``expert`` say whose it is, None where it belongs to none.
    """

    role: Role
    name: str
    shape: tuple[int, ...]
    layer: int | None = None
    expert: int | None = None

    @property
    def is_quantizable(self) -> bool:
        """Whether quantizers take it."""
        return self.role in QUANTIZABLE

    @property
    def num_values(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


Specs = dict[Role, TensorSpec]


class TensorTable:
    """All tensors of a model, by who needs them; a tied head and the gate of a lone expert are not there."""

    def __init__(self, rows: Rows, config: ModelConfig) -> None:
        absent = ["head"] if config.is_embedding_tied else []
        self._rows = {role: row for role, row in rows.items() if role not in absent}
        self._config = config
        self._sizes = _sizes(config)

    @property
    def ends(self) -> Specs:
        """What stands before the first layer and behind the last."""
        return {role: self._spec(role) for role in self._rows if role in ENDS}

    def layer(self, layer: int) -> Specs:
        """Return what a layer has beside its experts."""
        return {role: self._spec(role, layer) for role in self._rows if role not in (*ENDS, *EXPERT)}

    def expert(self, layer: int, expert: int) -> Specs:
        """Return the matrices of one expert in one layer."""
        return {role: self._spec(role, layer, expert) for role in self._rows if role in EXPERT}

    def of_gateway(self) -> Iterator[TensorSpec]:
        """Yield what a gateway loads."""
        yield from self.ends.values()
        for layer in range(self._config.num_layers):
            yield from self.layer(layer).values()

    def of_expert(self, expert: int) -> Iterator[TensorSpec]:
        """Yield what a server of ``expert`` loads, layer by layer."""
        for layer in range(self._config.num_layers):
            yield from self.expert(layer, expert).values()

    def __iter__(self) -> Iterator[TensorSpec]:
        yield from self.of_gateway()
        for expert in range(self._config.num_experts):
            yield from self.of_expert(expert)

    def _spec(self, role: Role, layer: int | None = None, expert: int | None = None) -> TensorSpec:
        name, dims = self._rows[role]
        shape = tuple(self._sizes[dim] for dim in dims)
        return TensorSpec(role, name.format(layer=layer, expert=expert), shape, layer, expert)


def _sizes(config: ModelConfig) -> Mapping[Dim, int]:
    return {
        "V": config.vocab_size,
        "D": config.hidden_size,
        "d": config.head_dim,
        "Hd": config.num_heads * config.head_dim,
        "Kd": config.num_kv_heads * config.head_dim,
        "E": config.num_experts,
        "F": config.intermediate_size,
    }
