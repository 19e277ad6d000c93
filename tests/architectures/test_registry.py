import re
from typing import Any

import pytest
from published import FILE, MIXTRAL, PUBLISHED

from expertmesh.architectures.registry import ARCHITECTURES, architecture_of, read_model
from expertmesh.errors import CheckpointError

NAMES = "MixtralForCausalLM, MistralForCausalLM, Qwen3MoeForCausalLM, OlmoeForCausalLM"


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_model_is_of_the_architecture_that_its_configuration_names(name: str):
    model = read_model({**PUBLISHED[name], "architectures": ["SomethingElse", name]}, FILE)
    assert (model.architecture, architecture_of(model).name) == (name, name)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_tensor_has_places_and_none_is_that_of_another(name: str):
    architecture = ARCHITECTURES[name]
    assert set(architecture.places) == set(architecture.tensors)
    places = [(role, place.name) for role, of_role in architecture.places.items() for place in of_role]
    fused = {place.name for place in architecture.places["w_up"] if place.part}
    names = [name for role, name in places if (role, name) not in {("w_up", name) for name in fused}]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"architectures": ["LlamaForCausalLM"]},
            f"architectures ['LlamaForCausalLM'] is not supported; supported: {NAMES}",
        ),
        ({"architectures": []}, f"architectures [] is not supported; supported: {NAMES}"),
        (
            {"architectures": "MixtralForCausalLM"},
            "architectures is 'MixtralForCausalLM'; a list of names would be right",
        ),
        ({"architectures": True}, "architectures is True; a list of names would be right"),
        ({"architectures": [{}, 3]}, "architectures is [{}, 3]; a list of names would be right"),
        (
            {"architectures": None, "model_type": "gpt2"},
            "model_type 'gpt2' is not supported; supported: mixtral, mistral, qwen3_moe, olmoe",
        ),
        ({"architectures": None}, "model_type None is not supported; supported: mixtral, mistral, qwen3_moe, olmoe"),
        (
            {"model_type": "mistral"},
            "model_type is 'mistral'; mixtral, as architectures names MixtralForCausalLM, would be right",
        ),
    ],
)
def test_another_architecture_is_refused_with_those_that_are_supported(change: dict[str, Any], message: str):
    with pytest.raises(CheckpointError) as raised:
        read_model({**MIXTRAL, **change}, FILE)
    assert str(raised.value) == f"{FILE}: {message}"


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_where_no_architecture_is_named_the_type_tells(name: str):
    named = read_model(PUBLISHED[name], FILE)
    typed = {**PUBLISHED[name], "architectures": None, "model_type": ARCHITECTURES[name].model_type}
    assert read_model(typed, FILE) == named


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": None}, "hidden_size is None; a positive integer would be right"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0; a positive integer would be right"),
        ({"vocab_size": "many"}, "vocab_size is 'many'; a positive integer would be right"),
        ({"num_key_value_heads": 5}, "num_key_value_heads is 5; what divides num_attention_heads, "),
        ({"head_dim": 127}, "head_dim is 127; an even number, unlike 127, would be right"),
        ({"rms_norm_eps": -1}, "rms_norm_eps is -1; a positive number would be right"),
        ({"rope_theta": float("inf")}, "rope_theta is inf; a number above 1 would be right"),
        ({"rms_norm_eps": None}, "rms_norm_eps is None; a positive number would be right"),
        ({"hidden_size": 2**31}, "hidden_size is 2147483648; an integer of at most 2147483647 would be right"),
        ({"max_position_embeddings": 2**25}, "max_position_embeddings is 33554432; an integer of at most 16777216"),
        ({"rope_parameters": 3}, "rope_parameters is 3; an object would be right"),
        ({"attention_bias": True}, "attention_bias True is not supported (the files say which matrices have one); sup"),
        ({"layer_types": ["full_attention"]}, "layer_types ['full_attention'] is not supported (all layers attend"),
        ({"quantization": {"bits": 4}}, "quantization {'bits': 4} is not supported (quantized by a tool whose"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported; supported: silu"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no'; true or false would be right"),
        ({"eos_token_id": "</s>"}, "eos_token_id is '</s>'; an integer or a list of integers would be right"),
        ({"eos_token_id": 200000}, "eos_token_id is 200000; ids from 0 to "),
        ({"eos_token_id": True}, "eos_token_id is True; an integer or a list of integers would be right"),
    ],
)
def test_what_cannot_be_served_is_named(name: str, change: dict[str, Any], message: str):
    with pytest.raises(CheckpointError, match=re.escape(f"{FILE}: {message}")):
        read_model({**PUBLISHED[name], **change}, FILE)
