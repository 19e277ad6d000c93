"""params.json, which Mistral AI's own releases have, in the words of config.json."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expertmesh.architectures import mistral, mixtral
from expertmesh.architectures.key_rules import KeyRules, check_keys, honoured, nothing, refused
from expertmesh.architectures.keys import Keys

NAMES = {
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
MOE_NAMES = {"num_experts": "num_local_experts", "num_experts_per_tok": "num_experts_per_tok"}
KEYS: KeyRules = (
    honoured(*NAMES, "moe"),
    refused("rotary embedding is stretched where a config.json says how, in `rope_parameters`", "yarn", "rope_scaling"),
    refused("all positions attend alike", "llama_4_scaling"),
    refused("keys and values are not compressed", "q_lora_rank", "kv_lora_rank"),
    refused("weights are plain, or quantized as a config.json says", "quantization"),
    refused("text is read, not images or sound", "vision_encoder", "audio_encoder"),
    refused("adapters are not added to the weights", "lora"),
    refused("", "model_type", unless=("transformer",)),
    refused("", "causal", unless=(True,)),
    refused("", "use_biases", unless=(False,)),
    nothing("they are about how another program runs", "max_batch_size", "model_parallel"),
)
MOE_KEYS: KeyRules = (
    honoured(*MOE_NAMES),
    refused("all layers have experts, and nothing else", "route_every_n", unless=(1,)),
    refused("all layers have experts, and nothing else", "first_k_dense_replace", "num_shared_experts", unless=(0,)),
    refused("the best of all experts are chosen", "num_expert_groups", "num_expert_groups_per_tok", unless=(1,)),
    refused("weights of experts add up to 1", "routed_scale", unless=(1,)),
    refused("`hidden_dim` says it", "expert_hidden_dim"),
    nothing("they are about how another program runs", "expert_parallel", "expert_model_parallel"),
)
# Of the keys that a release needs, these have another default in config.json.
NEEDED = ("n_kv_heads", "norm_eps")
# What the releases mean by saying nothing: </s>, no window, and the context that they were trained on.
DEFAULTS = {"eos_token_id": 2, "bos_token_id": 1, "max_position_embeddings": 32768, "sliding_window": None}


def config_from_params(file: Path, params: Mapping[str, Any]) -> dict[str, Any]:
    """Translate the parameters of a release.

    CheckpointError for keys that are refused or missing, and when ``moe`` is no object.
    """
    keys = Keys(params, file)
    check_keys(keys, KEYS)
    keys.one_of("max_seq_len", "max_position_embeddings")
    for key in NEEDED:
        keys.number(key)
    config = {**DEFAULTS, **{ours: params[theirs] for theirs, ours in NAMES.items() if theirs in keys}}
    # The base was 10,000 as long as attention had a window.
    config.setdefault("rope_theta", 1e4 if config["sliding_window"] else 1e6)
    moe = keys.section("moe")
    if "moe" not in keys:
        return {**config, "architectures": [mistral.NAME]}
    check_keys(moe, MOE_KEYS)
    experts = {ours: moe.get(theirs) for theirs, ours in MOE_NAMES.items() if theirs in moe}
    return {**config, **experts, "architectures": [mixtral.NAME]}


def names_in_params(params: Mapping[str, Any]) -> dict[str, str]:
    """Return what a params.json calls the keys of config.json."""
    names = {ours: theirs for theirs, ours in NAMES.items()}
    names |= {ours: theirs for theirs, ours in NAMES.items() if theirs in params}
    return names | {ours: f"moe.{theirs}" for theirs, ours in MOE_NAMES.items()}
