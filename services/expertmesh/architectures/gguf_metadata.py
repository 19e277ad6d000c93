"""The metadata of GGUF files, in the words of config.json."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from expertmesh.architectures import mistral, mixtral
from expertmesh.architectures.key_rules import KeyRules, check_keys, honoured, nothing, refused
from expertmesh.architectures.keys import Keys

ARCHITECTURE_KEY, TOKENS_KEY, ENDS = "general.architecture", "tokenizer.ggml.tokens", "tokenizer.ggml.{}_token_id"
# What llama.cpp calls Mistral and Mixtral, too. The keys of the model are named after it.
ARCHITECTURE = "llama"
NAMES = {
    "vocab_size": "vocab_size",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.sliding_window": "sliding_window",
    "rope.freq_base": "rope_theta",
    "context_length": "max_position_embeddings",
}
MOE_NAMES = {"expert_count": "num_local_experts", "expert_used_count": "num_experts_per_tok"}
WIDTHS = ("rope.dimension_count", "attention.value_length")
KIND, NONE = "rope.scaling.type", "none"
SCALING_NAMES = {
    "rope.scaling.factor": "factor",
    "rope.scaling.original_context_length": "original_max_position_embeddings",
    "rope.scaling.yarn_beta_fast": "beta_fast",
    "rope.scaling.yarn_beta_slow": "beta_slow",
}
KEYS: KeyRules = (
    honoured(*NAMES, *MOE_NAMES),
    honoured(*WIDTHS, but=", where all features of a head are rotated, and values are as wide as keys"),
    refused("", KIND, unless=(NONE, "linear", "yarn")),
    honoured(*SCALING_NAMES),
    refused("", "rope.scale_linear", "rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor", unless=(1,)),
    refused("", "rope.scaling.yarn_ext_factor", unless=(1,)),
    refused("", "rope.scaling.yarn_log_multiplier", "attention.temperature_scale", unless=(0,)),
    refused("", "attention.clamp_kqv", "attention.max_alibi_bias", unless=(0,)),
    refused("", "attention.scale", "logit_scale", "residual_scale", "embedding_scale"),
    refused("", "attention.causal", unless=(True,)),
    refused("", "use_parallel_residual", unless=(False,)),
    refused("all layers have experts, and nothing else", "expert_shared_count", unless=(0,)),
    refused("all layers have experts, and nothing else", "leading_dense_block_count", unless=(0,)),
    refused("all layers have experts, and nothing else", "interleave_moe_layer_step", unless=(1,)),
    refused("the best of all experts are chosen, by softmax", "expert_gating_func", unless=(1,)),
    refused("the best of all experts are chosen, by softmax", "expert_group_count", unless=(1,)),
    refused("weights of experts add up to 1", "expert_weights_norm", unless=(True,)),
    refused("weights of experts add up to 1", "expert_weights_scale", unless=(0, 1)),
    refused("`feed_forward_length` says it", "expert_feed_forward_length"),
    nothing("they are about how the file was made", "rope.scaling.finetuned", "tensor_data_layout"),
)
# What llama.cpp means by saying nothing.
DEFAULTS = {"rope_theta": 1e4, "sliding_window": None}
ROPE_FACTORS = "rope_freqs.weight"
NEEDED = ("attention.layer_norm_rms_epsilon",)


def config_from_metadata(file: Path, metadata: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Translate the metadata of ``file``, in which there are tensors of these ``names``.

    CheckpointError for another architecture than llama, and for keys that are refused or missing.
    """
    everything = Keys(metadata, file)
    if everything.get(ARCHITECTURE_KEY) != ARCHITECTURE:
        raise everything.unsupported(ARCHITECTURE_KEY, "", ARCHITECTURE)
    start = f"{ARCHITECTURE}."
    own = {key.removeprefix(start): value for key, value in metadata.items() if key.startswith(start)}
    keys = Keys(own, file, section=ARCHITECTURE)
    check_keys(keys, KEYS)
    for key in NEEDED:
        keys.number(key)
    if ROPE_FACTORS in names:
        raise keys.error(
            f"{ROPE_FACTORS} stretches rotary embedding by features, which is not supported; none is right"
        )
    has_experts = bool(keys.get("expert_count"))
    config = {
        **DEFAULTS,
        "vocab_size": len(metadata.get(TOKENS_KEY) or ()),
        # Of the keys that a model needs, this has another default in config.json.
        "num_key_value_heads": keys.get("attention.head_count"),
        **{
            ours: own[theirs]
            for theirs, ours in (NAMES | MOE_NAMES if has_experts else NAMES).items()
            if theirs in keys
        },
        "architectures": [mixtral.NAME if has_experts else mistral.NAME],
        "tie_word_embeddings": "output.weight" not in names,
        "eos_token_id": [metadata[key] for key in map(ENDS.format, ("eos", "eot")) if key in metadata],
        **_read_scaling(keys),
    }
    _check_widths(keys, config)
    return config


def names_in_metadata() -> dict[str, str]:
    """Return what the metadata calls the keys of config.json."""
    names = {ours: f"{ARCHITECTURE}.{theirs}" for theirs, ours in (NAMES | MOE_NAMES).items()}
    return names | {"eos_token_id": ENDS.format("eos")}


def _read_scaling(keys: Keys) -> dict[str, Any]:
    if keys.word(KIND, NONE) == NONE:
        return {}
    scaling = {ours: keys.get(theirs) for theirs, ours in SCALING_NAMES.items() if theirs in keys}
    return {"rope_scaling": {"rope_type": keys.word(KIND, NONE), **scaling}}


def _check_widths(keys: Keys, config: Mapping[str, Any]) -> None:
    """Refuse heads of which a part only is rotated, and values that are wider or narrower than keys."""
    width = config.get("head_dim") or keys.count("embedding_length") // keys.count("attention.head_count")
    for key in WIDTHS:
        if keys.get(key) not in (None, width):
            raise keys.unsupported(key, "", f"{width}, as wide as a head is")
