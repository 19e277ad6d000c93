"""Mixtral: each token goes to the best of several experts, weighed by softmax over the chosen ones."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from expertmesh.architectures import base
from expertmesh.architectures.architecture import Architecture
from expertmesh.architectures.dialects import Place, Places, all_places, expert_rows, hf_places, one_expert
from expertmesh.architectures.key_rules import KeyRules, honoured, nothing
from expertmesh.architectures.keys import Keys
from expertmesh.architectures.mistral import GGUF, RELEASED
from expertmesh.architectures.model_config import GateRule, ModelConfig
from expertmesh.architectures.tensor_table import Row, Rows

NAME = "MixtralForCausalLM"
KEYS: KeyRules = (
    *base.KEYS,
    *base.EXPERT_KEYS,
    honoured("intermediate_size"),
    honoured("sliding_window", but=", but 4096 is none: first uploads carried it, of a model trained without"),
    nothing("it is about training", "router_jitter_noise"),
)
DEFAULTS: Mapping[str, Any] = {
    **base.DEFAULTS,
    "num_key_value_heads": 8,
    "eos_token_id": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "sliding_window": None,
}
# In the first uploads, by mistake.
STRAY_WINDOW = 4096

TENSORS: Rows = {
    **base.TENSORS,
    "gate": Row("model.layers.{layer}.block_sparse_moe.gate", ("E", "D")),
    "w_gate": Row("model.layers.{layer}.block_sparse_moe.experts.{expert}.w1", ("F", "D")),
    "w_down": Row("model.layers.{layer}.block_sparse_moe.experts.{expert}.w2", ("D", "F")),
    "w_up": Row("model.layers.{layer}.block_sparse_moe.experts.{expert}.w3", ("F", "D")),
}


def read_config(keys: Keys) -> ModelConfig:
    """Read a config.json."""
    decoder = base.with_window(keys, base.read_decoder(keys, NAME))
    if decoder.sliding_window == STRAY_WINDOW:
        decoder = replace(decoder, sliding_window=None)
    return base.with_experts(keys, decoder, GateRule.RENORMALISED)


# Newer names of matrices below older ones, and a gate that is called router.
MIXED: Places = {
    "gate": Place("model.layers.{layer}.block_sparse_moe.router"),
    "w_gate": Place("model.layers.{layer}.block_sparse_moe.experts.{expert}.gate_proj"),
    "w_down": Place("model.layers.{layer}.block_sparse_moe.experts.{expert}.down_proj"),
    "w_up": Place("model.layers.{layer}.block_sparse_moe.experts.{expert}.up_proj"),
}
ROUTER: Places = {"gate": Place("model.layers.{layer}.mlp.router")}
# mistral-inference's
INFERENCE: Places = {
    **RELEASED,
    "gate": Place("layers.{layer}.feed_forward.gate"),
    "w_gate": Place("layers.{layer}.feed_forward.experts.{expert}.w1"),
    "w_down": Place("layers.{layer}.feed_forward.experts.{expert}.w2"),
    "w_up": Place("layers.{layer}.feed_forward.experts.{expert}.w3"),
}
# w1, w2 and w3 [E F, D] of the first release, w2 turned over
STACKED: Places = {
    **RELEASED,
    "gate": Place("layers.{layer}.block_sparse_moe.gate"),
    "w_gate": Place("layers.{layer}.block_sparse_moe.w1", expert_rows),
    "w_down": Place("layers.{layer}.block_sparse_moe.w2", expert_rows, is_transposed=True),
    "w_up": Place("layers.{layer}.block_sparse_moe.w3", expert_rows),
}
# llama.cpp's: ffn_gate_exps and ffn_up_exps [E, F, D], ffn_down_exps [E, D, F]; each expert by itself in older files
GGUF_STACKED: Places = {
    **GGUF,
    "gate": Place("blk.{layer}.ffn_gate_inp"),
    "w_gate": Place("blk.{layer}.ffn_gate_exps.weight", one_expert),
    "w_down": Place("blk.{layer}.ffn_down_exps.weight", one_expert),
    "w_up": Place("blk.{layer}.ffn_up_exps.weight", one_expert),
}
GGUF_SINGLE: Places = {
    "w_gate": Place("blk.{layer}.ffn_gate.{expert}"),
    "w_down": Place("blk.{layer}.ffn_down.{expert}"),
    "w_up": Place("blk.{layer}.ffn_up.{expert}"),
}

MIXTRAL = Architecture(
    NAME,
    "mixtral",
    KEYS,
    DEFAULTS,
    read_config,
    TENSORS,
    all_places(
        hf_places(TENSORS),
        hf_places(base.EXPERT_TENSORS),
        base.FUSED,
        MIXED,
        ROUTER,
        INFERENCE,
        STACKED,
        GGUF_STACKED,
        GGUF_SINGLE,
    ),
)
