import re
from typing import Any

import pytest
from published import FILE, MIXTRAL

from expertmesh.architectures.registry import ARCHITECTURES, architecture_of, read_model
from expertmesh.errors import CheckpointError


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_model_is_of_the_architecture_that_its_configuration_names(name: str):
    model = read_model({**MIXTRAL, "architectures": ["SomethingElse", name]}, FILE)
    assert (model.architecture, architecture_of(model).name) == (name, name)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_dialect_has_a_place_for_every_tensor(name: str):
    architecture = ARCHITECTURES[name]
    assert all(set(dialect.places) == set(architecture.tensors) for dialect in architecture.dialects)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "['LlamaForCausalLM']"),
        ({"architectures": None, "model_type": "gpt2"}, "gpt2"),
        ({"architectures": True}, "True"),
        ({"architectures": [{}, 3]}, "[{}, 3]"),
    ],
)
def test_another_architecture_is_refused_with_those_that_are_supported(change: dict[str, Any], found: str):
    with pytest.raises(CheckpointError) as raised:
        read_model({**MIXTRAL, **change}, FILE)
    assert str(raised.value) == (
        f"{FILE}: architecture {found} is not supported; supported: MixtralForCausalLM, MistralForCausalLM"
    )


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": None}, "hidden_size is None; a positive integer would be right"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0; a positive integer would be right"),
        ({"vocab_size": "many"}, "vocab_size is 'many'; a positive integer would be right"),
        ({"num_key_value_heads": 5}, "32 attention heads cannot share 5 key-value heads evenly"),
        ({"head_dim": 127}, "head_dim is 127; rotary embedding needs an even number"),
        ({"rms_norm_eps": -1}, "rms_norm_eps is -1; a positive number would be right"),
        ({"rope_theta": float("inf")}, "rope_theta is inf; a positive number would be right"),
        ({"rope_scaling": {"type": "yarn"}}, "type 'yarn' is not supported; supported: default"),
        ({"rope_parameters": {"rope_type": "linear"}}, "rope_type 'linear' is not supported; supported: default"),
        ({"rope_parameters": 3}, "rope_parameters is 3; an object would be right"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported; supported: silu"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no'; true or false would be right"),
        ({"eos_token_id": "</s>"}, "eos_token_id is '</s>'; an integer or a list of integers would be right"),
        ({"eos_token_id": True}, "eos_token_id is True; an integer or a list of integers would be right"),
    ],
)
def test_what_cannot_be_served_is_named(name: str, change: dict[str, Any], message: str):
    with pytest.raises(CheckpointError, match=re.escape(f"{FILE}: {message}")):
        read_model({**MIXTRAL, "architectures": [name], **change}, FILE)
