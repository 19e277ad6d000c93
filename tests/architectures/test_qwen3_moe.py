from typing import Any

import pytest
from published import FILE, QWEN3_MOE

from expertmesh.architectures.dialects import Location
from expertmesh.architectures.model_config import GateRule
from expertmesh.architectures.qwen3_moe import QWEN3_MOE as FAMILY
from expertmesh.architectures.registry import read_model, tensors_of
from expertmesh.errors import CheckpointError

MODEL = read_model(QWEN3_MOE, FILE)
# Qwen3-235B-A22B.
LARGE: dict[str, Any] = {
    **QWEN3_MOE,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "moe_intermediate_size": 1536,
    "num_attention_heads": 64,
    "num_hidden_layers": 94,
}
# What Qwen3-Coder-30B-A3B says besides.
CODER: dict[str, Any] = {
    **QWEN3_MOE,
    "qkv_bias": False,
    "shared_expert_intermediate_size": 0,
    "use_qk_norm": True,
    "max_position_embeddings": 262144,
    "rope_theta": 10000000,
}


def test_the_published_configuration_is_read():
    assert (MODEL.num_experts, MODEL.num_experts_per_token, MODEL.gate) == (128, 8, GateRule.RENORMALISED)
    assert (MODEL.hidden_size, MODEL.num_heads, MODEL.num_kv_heads, MODEL.head_dim) == (2048, 32, 4, 128)
    assert (MODEL.intermediate_size, MODEL.sliding_window, MODEL.max_qkv) == (768, None, None)
    assert (MODEL.rms_norm_eps, MODEL.rope.theta, MODEL.eos_token_ids) == (1e-6, 1e6, (151645,))


@pytest.mark.parametrize(
    ("config", "num_parameters"), [(QWEN3_MOE, 30_532_122_624), (CODER, 30_532_122_624), (LARGE, 235_093_634_560)]
)
def test_it_has_as_many_parameters_as_its_makers_say(config, num_parameters):
    assert sum(spec.num_values for spec in tensors_of(read_model(config, FILE))) == num_parameters


def test_a_window_that_is_not_used_is_none():
    assert read_model({**QWEN3_MOE, "sliding_window": 4096}, FILE) == MODEL


def test_defaults_are_those_of_transformers():
    absent = ("norm_topk_prob", "num_key_value_heads", "rope_theta", "rms_norm_eps", "eos_token_id", "mlp_only_layers")
    config = read_model({key: value for key, value in QWEN3_MOE.items() if key not in absent}, FILE)
    assert (config.gate, config.num_kv_heads, config.rope.theta) == (GateRule.PROBABILITIES, 4, 1e4)
    assert (config.rms_norm_eps, config.eos_token_ids) == (1e-6, ())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"mlp_only_layers": [0, 3]},
            r"mlp_only_layers \[0, 3\] is not supported \(all layers have experts, and nothing",
        ),
        ({"decoder_sparse_step": 2}, "decoder_sparse_step 2 is not supported .*; supported: 1"),
        ({"shared_expert_intermediate_size": 512}, "shared_expert_intermediate_size 512 is not supported"),
        ({"use_sliding_window": True}, r"use_sliding_window True is not supported \(all layers attend to all tokens\)"),
        ({"use_qk_norm": False}, r"use_qk_norm False is not supported \(queries and keys are normalised\)"),
        ({"qkv_bias": True}, "qkv_bias True is not supported"),
        ({"moe_intermediate_size": None}, "moe_intermediate_size is None; a positive integer would be right"),
        (
            {"num_experts_per_tok": 129},
            "num_experts_per_tok is 129; no more than there are experts, 128, would be right",
        ),
        ({"norm_topk_prob": 1}, "norm_topk_prob is 1; true or false would be right"),
    ],
)
def test_what_its_layers_do_not_do_is_named(change, message):
    with pytest.raises(CheckpointError, match=message):
        read_model({**QWEN3_MOE, **change}, FILE)


def test_its_tensors_by_the_names_of_hf():
    specs = tensors_of(MODEL).layer(3) | tensors_of(MODEL).expert(3, 105)
    assert {spec.name: spec.shape for spec in specs.values()} == {
        "model.layers.3.input_layernorm": (2048,),
        "model.layers.3.post_attention_layernorm": (2048,),
        "model.layers.3.self_attn.q_proj": (4096, 2048),
        "model.layers.3.self_attn.k_proj": (512, 2048),
        "model.layers.3.self_attn.v_proj": (512, 2048),
        "model.layers.3.self_attn.o_proj": (2048, 4096),
        "model.layers.3.self_attn.q_norm": (128,),
        "model.layers.3.self_attn.k_norm": (128,),
        "model.layers.3.mlp.gate": (128, 2048),
        "model.layers.3.mlp.experts.105.gate_proj": (768, 2048),
        "model.layers.3.mlp.experts.105.down_proj": (2048, 768),
        "model.layers.3.mlp.experts.105.up_proj": (768, 2048),
    }
    fused = FAMILY.recognize(["model.layers.0.mlp.experts.gate_up_proj", "model.layers.0.mlp.experts.down_proj"])
    expected = Location("model.layers.3.mlp.experts.gate_up_proj", "", (105, slice(768, 1536)))
    assert fused.locate(specs["w_up"]) == expected
