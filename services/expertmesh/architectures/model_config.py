"""The numbers that shape a model. Knows what they mean, not under which keys a file keeps them."""

from dataclasses import dataclass
from enum import Enum, auto

from expertmesh.architectures.rope import Rope


class GateRule(Enum):
    """How the experts of a token are chosen and weighed."""

    ONLY_EXPERT = auto()
    """There is one expert and no gate: every token goes to it, with weight 1."""
    RENORMALISED = auto()
    """The best by softmax over all experts, weighed by their probabilities divided by the sum of these."""
    PROBABILITIES = auto()
    """The best by softmax over all experts, weighed by their probabilities."""


@dataclass(frozen=True)
class ModelConfig:
    """A decoder whose layers have experts; the only FFN of a dense one counts as one expert.

    ``architecture`` is the name in config.json. Widths are counts of features; a token attends to itself and the
    ``sliding_window`` - 1 tokens before it, or to all where that is None; ``eos_token_ids`` are the ids that end an
    answer. Of queries, keys and values, no feature is farther from 0 than ``max_qkv``, where that is not None.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    num_experts: int
    num_experts_per_token: int
    rms_norm_eps: float
    rope: Rope
    max_position_embeddings: int
    is_embedding_tied: bool
    eos_token_ids: tuple[int, ...]
    gate: GateRule
    sliding_window: int | None = None
    max_qkv: float | None = None
