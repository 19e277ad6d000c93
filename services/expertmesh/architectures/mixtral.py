"""Mixtral: each token goes to the best of several experts, weighed by softmax over the chosen ones."""

from expertmesh.architectures import base
from expertmesh.architectures.architecture import Architecture
from expertmesh.architectures.dialects import (
    Dialect,
    Place,
    Places,
    expert_rows,
    gate_half,
    hf_places,
    one_expert,
    up_half,
)
from expertmesh.architectures.keys import Keys
from expertmesh.architectures.mistral import RELEASED
from expertmesh.architectures.model_config import GateRule, ModelConfig
from expertmesh.architectures.tensor_table import Row, Rows

NAME = "MixtralForCausalLM"

TENSORS: Rows = {
    **base.TENSORS,
    "gate": Row("model.layers.{layer}.block_sparse_moe.gate", ("E", "D")),
    "w_gate": Row("model.layers.{layer}.block_sparse_moe.experts.{expert}.w1", ("F", "D")),
    "w_down": Row("model.layers.{layer}.block_sparse_moe.experts.{expert}.w2", ("D", "F")),
    "w_up": Row("model.layers.{layer}.block_sparse_moe.experts.{expert}.w3", ("F", "D")),
}


def read_config(keys: Keys) -> ModelConfig:
    """Read a config.json; its ``sliding_window`` is ignored: old ones carry one, but Mixtral was trained without."""
    num_experts = keys.count("num_local_experts")
    return base.with_experts(keys, base.read_decoder(keys, NAME), num_experts, GateRule.RENORMALISED)


NEWER: Places = {
    **hf_places(base.TENSORS),
    "gate": Place("model.layers.{layer}.mlp.gate"),
    "w_gate": Place("model.layers.{layer}.mlp.experts.{expert}.gate_proj"),
    "w_down": Place("model.layers.{layer}.mlp.experts.{expert}.down_proj"),
    "w_up": Place("model.layers.{layer}.mlp.experts.{expert}.up_proj"),
}
# gate_up_proj [E, 2 F, D] and down_proj [E, D, F]
FUSED: Places = {
    **NEWER,
    "w_gate": Place("model.layers.{layer}.mlp.experts.gate_up_proj", gate_half),
    "w_down": Place("model.layers.{layer}.mlp.experts.down_proj", one_expert),
    "w_up": Place("model.layers.{layer}.mlp.experts.gate_up_proj", up_half),
}
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

MIXTRAL = Architecture(
    NAME,
    read_config,
    TENSORS,
    tuple(Dialect(places) for places in (hf_places(TENSORS), FUSED, NEWER, INFERENCE, STACKED)),
)
