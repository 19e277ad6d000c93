"""OLMoE: many narrow experts, and all heads of queries, or of keys, normalised as one vector and perhaps clipped."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from expertmesh.architectures import base
from expertmesh.architectures.architecture import Architecture
from expertmesh.architectures.dialects import all_places, hf_places
from expertmesh.architectures.key_rules import KeyRules, honoured, refused
from expertmesh.architectures.keys import Keys
from expertmesh.architectures.model_config import ModelConfig
from expertmesh.architectures.tensor_table import Row, Rows

NAME = "OlmoeForCausalLM"
KEYS: KeyRules = (
    *base.KEYS,
    *base.EXPERT_KEYS,
    honoured("intermediate_size", "norm_topk_prob", "clip_qkv"),
    refused("all layers attend to all tokens", "sliding_window"),
)
DEFAULTS: Mapping[str, Any] = {
    **base.DEFAULTS,
    "eos_token_id": 50279,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e4,
}

TENSORS: Rows = {
    **base.TENSORS,
    **base.EXPERT_TENSORS,
    "q_norm": Row("model.layers.{layer}.self_attn.q_norm", ("Hd",)),
    "k_norm": Row("model.layers.{layer}.self_attn.k_norm", ("Kd",)),
}


def read_config(keys: Keys) -> ModelConfig:
    """Read a config.json."""
    decoder = base.with_experts(keys, base.read_decoder(keys, NAME), base.read_gate_rule(keys))
    return replace(decoder, max_qkv=keys.number("clip_qkv") if "clip_qkv" in keys else None)


OLMOE = Architecture(NAME, "olmoe", KEYS, DEFAULTS, read_config, TENSORS, all_places(hf_places(TENSORS), base.FUSED))
