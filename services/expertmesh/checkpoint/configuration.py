"""The configuration of a checkpoint: config.json, or Mistral's own params.json in the words of config.json.

Knows keys, not what they mean to a model, and needs no torch.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expertmesh.checkpoint.jsonfile import read_json
from expertmesh.errors import CheckpointError

DENSE, MIXTURE = "MistralForCausalLM", "MixtralForCausalLM"
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


def read_config(directory: Path) -> dict[str, Any]:
    """Read the configuration of a checkpoint; CheckpointError when there is none."""
    params = directory / "params.json"
    if params.exists() and not (directory / "config.json").exists():
        return config_from_params(params, read_json(params))
    return read_json(directory / "config.json")


def is_dense(config: Mapping[str, Any]) -> bool:
    """Tell whether a model has a single FFN per layer, without a gate."""
    names = config.get("architectures")
    return isinstance(names, list) and DENSE in names


def count_experts(directory: Path, config: Mapping[str, Any]) -> int:
    """Tell how many experts a layer has, 1 for a dense model; CheckpointError when that is no positive number."""
    num_experts = 1 if is_dense(config) else config.get("num_local_experts")
    if not isinstance(num_experts, int) or isinstance(num_experts, bool) or num_experts < 1:
        raise CheckpointError(f"{directory}: num_local_experts is {num_experts!r}; a positive integer would be right")
    return num_experts


def config_from_params(path: Path, params: Mapping[str, Any]) -> dict[str, Any]:
    """Translate the parameters of a release; CheckpointError when ``moe`` is no object."""
    config = {**DEFAULTS, **{ours: params[theirs] for theirs, ours in KEYS.items() if params.get(theirs) is not None}}
    config.setdefault("rope_theta", 1e4 if config.get("sliding_window") else 1e6)
    moe = params.get("moe")
    if not moe:
        return {**config, "architectures": [DENSE]}
    if not isinstance(moe, Mapping):
        raise CheckpointError(f"{path}: moe is {moe!r}; an object would be right")
    experts = {ours: moe.get(theirs) for theirs, ours in MOE_KEYS.items()}
    return {**config, **experts, "architectures": [MIXTURE]}
