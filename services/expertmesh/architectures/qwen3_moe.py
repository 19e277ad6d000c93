"""Qwen3-MoE: many narrow experts, and each head of queries and keys normalised before it is turned."""

from collections.abc import Mapping
from typing import Any

from expertmesh.architectures import base
from expertmesh.architectures.architecture import Architecture
from expertmesh.architectures.dialects import all_places, hf_places
from expertmesh.architectures.key_rules import KeyRules, honoured, nothing, refused
from expertmesh.architectures.keys import Keys
from expertmesh.architectures.model_config import ModelConfig
from expertmesh.architectures.tensor_table import Row, Rows

NAME = "Qwen3MoeForCausalLM"
KEYS: KeyRules = (
    *base.KEYS,
    *base.EXPERT_KEYS,
    honoured("moe_intermediate_size", "norm_topk_prob"),
    nothing("no layer is dense", "intermediate_size"),
    refused("all layers have experts, and nothing else", "mlp_only_layers", unless=([],)),
    refused("all layers have experts, and nothing else", "decoder_sparse_step", unless=(1,)),
    refused("all layers have experts, and nothing else", "shared_expert_intermediate_size", unless=(0,)),
    refused("all layers attend to all tokens", "use_sliding_window", unless=(False,)),
    nothing("`use_sliding_window` says that there is none", "sliding_window", "max_window_layers"),
    refused("queries and keys are normalised", "use_qk_norm", unless=(True,)),
    refused("the files say which matrices have one", "qkv_bias", unless=(False,)),
)
DEFAULTS: Mapping[str, Any] = {
    **base.DEFAULTS,
    "num_key_value_heads": 4,
    "eos_token_id": None,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e4,
}

TENSORS: Rows = {
    **base.TENSORS,
    **base.EXPERT_TENSORS,
    "q_norm": Row("model.layers.{layer}.self_attn.q_norm", ("d",)),
    "k_norm": Row("model.layers.{layer}.self_attn.k_norm", ("d",)),
}


def read_config(keys: Keys) -> ModelConfig:
    """Read a config.json."""
    decoder = base.read_decoder(keys, NAME, ffn_width="moe_intermediate_size")
    return base.with_experts(keys, decoder, base.read_gate_rule(keys))


QWEN3_MOE = Architecture(
    NAME, "qwen3_moe", KEYS, DEFAULTS, read_config, TENSORS, all_places(hf_places(TENSORS), base.FUSED)
)
