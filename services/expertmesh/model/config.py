"""The numbers that shape a model, read from its config.json. Knows keys and ranges, not weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from expertmesh.errors import CheckpointError

DENSE = "MistralForCausalLM"
ARCHITECTURES = ("MixtralForCausalLM", DENSE)


@dataclass(frozen=True)
class ModelConfig:
    """A Mixtral decoder, or a Mistral one, whose only FFN counts as one expert.

    Widths are counts of features; a token attends to itself and the ``sliding_window`` - 1 tokens before it, or to all
    where that is None; ``eos_token_ids`` are the ids that end an answer.
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
    rope_theta: float
    max_position_embeddings: int
    is_embedding_tied: bool
    eos_token_ids: tuple[int, ...]
    sliding_window: int | None = None

    @property
    def is_dense(self) -> bool:
        """Whether every token goes to the only expert, without a gate."""
        return self.architecture == DENSE

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> "ModelConfig":
        """Check and take over a config.json; CheckpointError names the key, its value and what would be right.

        The ``sliding_window`` of a Mixtral is ignored: old configurations carry one although it was trained without.
        """
        architecture = _architecture(config)
        is_dense = architecture == DENSE
        has_window = is_dense and config.get("sliding_window") is not None
        hidden_size = _count(config, "hidden_size")
        num_heads = _count(config, "num_attention_heads")
        _require_silu(config)
        return _checked(
            cls(
                architecture=architecture,
                vocab_size=_count(config, "vocab_size"),
                hidden_size=hidden_size,
                intermediate_size=_count(config, "intermediate_size"),
                num_layers=_count(config, "num_hidden_layers"),
                num_heads=num_heads,
                num_kv_heads=_count(config, "num_key_value_heads", num_heads),
                head_dim=_count(config, "head_dim", hidden_size // num_heads),
                num_experts=1 if is_dense else _count(config, "num_local_experts"),
                num_experts_per_token=1 if is_dense else _count(config, "num_experts_per_tok"),
                rms_norm_eps=_positive(config, "rms_norm_eps", 1e-5),
                rope_theta=_rope_theta(config),
                max_position_embeddings=_count(config, "max_position_embeddings"),
                is_embedding_tied=bool(config.get("tie_word_embeddings", False)),
                eos_token_ids=_token_ids(config, "eos_token_id"),
                sliding_window=_count(config, "sliding_window") if has_window else None,
            )
        )


def _architecture(config: Mapping[str, Any]) -> str:
    names = config.get("architectures") or []
    for name in names if isinstance(names, list) else ():
        if name in ARCHITECTURES:
            return str(name)
    found = names or config.get("model_type")
    raise CheckpointError(f"config.json: architecture {found} is not supported; supported: {', '.join(ARCHITECTURES)}")


def _count(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = config.get(key)
    if value is None:
        value = default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CheckpointError(f"config.json: {key} is {config.get(key)!r}; a positive integer would be right")
    return value


def _positive(config: Mapping[str, Any], key: str, default: float) -> float:
    value = config.get(key, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
        raise CheckpointError(f"config.json: {key} is {value!r}; a positive number would be right")
    return float(value)


def _rope_theta(config: Mapping[str, Any]) -> float:
    """Read the base of the rotary embedding where older or newer files keep it; only the plain kind is supported."""
    parameters = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind != "default":
        raise CheckpointError(f"config.json: rope type {kind!r} is not supported; supported: default")
    return _positive({**config, **parameters}, "rope_theta", 1e6)


def _require_silu(config: Mapping[str, Any]) -> None:
    if config.get("hidden_act", "silu") != "silu":
        raise CheckpointError(f"config.json: hidden_act {config['hidden_act']!r} is not supported; supported: silu")


def _token_ids(config: Mapping[str, Any], key: str) -> tuple[int, ...]:
    value = config.get(key)
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(token_id, int) and not isinstance(token_id, bool) for token_id in ids):
        raise CheckpointError(f"config.json: {key} is {value!r}; an integer or a list of integers would be right")
    return tuple(ids)


def _checked(config: ModelConfig) -> ModelConfig:
    if config.num_heads % config.num_kv_heads:
        raise CheckpointError(
            f"config.json: {config.num_heads} attention heads cannot share {config.num_kv_heads} key-value heads evenly"
        )
    if config.head_dim % 2:
        raise CheckpointError(f"config.json: head_dim is {config.head_dim}; rotary embedding needs an even number")
    if config.num_experts_per_token > config.num_experts:
        raise CheckpointError(
            f"config.json: num_experts_per_tok is {config.num_experts_per_token} of only {config.num_experts} experts"
        )
    return config
