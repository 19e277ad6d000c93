import pytest
from published import FILE, OLMOE

from expertmesh.architectures.model_config import GateRule
from expertmesh.architectures.registry import read_model, tensors_of
from expertmesh.errors import CheckpointError

MODEL = read_model(OLMOE, FILE)


def test_the_published_configuration_is_read():
    assert (MODEL.num_experts, MODEL.num_experts_per_token, MODEL.gate) == (64, 8, GateRule.PROBABILITIES)
    assert (MODEL.hidden_size, MODEL.num_heads, MODEL.num_kv_heads, MODEL.head_dim) == (2048, 16, 16, 128)
    assert (MODEL.intermediate_size, MODEL.sliding_window, MODEL.max_qkv) == (1024, None, None)
    assert MODEL.eos_token_ids == (50279,)


def test_it_has_as_many_parameters_as_its_makers_say():
    assert sum(spec.num_values for spec in tensors_of(MODEL)) == 6_919_161_856


def test_queries_keys_and_values_may_be_clipped():
    assert read_model({**OLMOE, "clip_qkv": 8}, FILE).max_qkv == 8.0


def test_defaults_are_those_of_transformers():
    absent = ("norm_topk_prob", "num_key_value_heads", "rope_theta", "eos_token_id", "clip_qkv", "rms_norm_eps")
    assert read_model({key: value for key, value in OLMOE.items() if key not in absent}, FILE) == MODEL


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clip_qkv": 0}, "clip_qkv is 0; a positive number would be right"),
        ({"sliding_window": 4096}, r"sliding_window 4096 is not supported \(all layers attend to all tokens\)"),
        ({"num_experts": None}, "num_local_experts is None; a positive integer would be right"),
    ],
)
def test_what_cannot_be_is_named(change, message):
    with pytest.raises(CheckpointError, match=message):
        read_model({**OLMOE, **change}, FILE)


@pytest.mark.parametrize(("num_kv_heads", "width"), [(16, 2048), (4, 512)])
def test_norms_are_as_wide_as_all_heads(num_kv_heads, width):
    layer = tensors_of(read_model({**OLMOE, "num_key_value_heads": num_kv_heads}, FILE)).layer(3)
    assert (layer["q_norm"].name, layer["q_norm"].shape) == ("model.layers.3.self_attn.q_norm", (2048,))
    assert (layer["k_norm"].name, layer["k_norm"].shape) == ("model.layers.3.self_attn.k_norm", (width,))
