"""params.json, which Mistral AI's own releases have, in the words of config.json."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expertmesh.architectures import mistral, mixtral
from expertmesh.errors import CheckpointError

KEYS = {
    "dim": "hidden_size",
    "hidden_dim": "intermediate_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "norm_eps": "rms_norm_eps",
    "vocab_size": "vocab_size",
    "rope_theta": "rope_theta",
    "max_seq_len": "max_position_embeddings",
    "max_position_embeddings": "max_position_embeddings",
    "sliding_window": "sliding_window",
    "tied_embeddings": "tie_word_embeddings",
}
MOE_KEYS = {"num_experts": "num_local_experts", "num_experts_per_tok": "num_experts_per_tok"}
# What the releases mean by saying nothing: </s>, the context that they were trained on, and the base of the rotary
# embedding, which was 10,000 as long as attention had a window.
DEFAULTS = {"eos_token_id": 2, "bos_token_id": 1, "max_position_embeddings": 32768}


def config_from_params(file: Path, params: Mapping[str, Any]) -> dict[str, Any]:
    """Translate the parameters of a release; CheckpointError when ``moe`` is no object."""
    config = {**DEFAULTS, **{ours: params[theirs] for theirs, ours in KEYS.items() if params.get(theirs) is not None}}
    config.setdefault("rope_theta", 1e4 if config.get("sliding_window") else 1e6)
    moe = params.get("moe")
    if not moe:
        return {**config, "architectures": [mistral.NAME]}
    if not isinstance(moe, Mapping):
        raise CheckpointError(f"{file}: moe is {moe!r}; an object would be right")
    experts = {ours: moe.get(theirs) for theirs, ours in MOE_KEYS.items()}
    return {**config, **experts, "architectures": [mixtral.NAME]}
