from typing import Any

import pytest

from expertmesh.errors import CheckpointError
from expertmesh.model.config import ModelConfig

MIXTRAL: dict[str, Any] = {
    "architectures": ["MixtralForCausalLM"],
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "max_position_embeddings": 32768,
    "sliding_window": 4096,
    "eos_token_id": 2,
}


def test_the_published_configuration_is_read():
    config = ModelConfig.from_dict(MIXTRAL)
    assert (config.num_layers, config.head_dim, config.num_experts, config.rope_theta) == (32, 128, 8, 1e6)
    assert config.eos_token_ids == (2,)
    assert not config.is_embedding_tied


def test_newer_spellings_mean_the_same():
    newer = {key: value for key, value in MIXTRAL.items() if key != "rope_theta"}
    newer |= {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "head_dim": 128, "eos_token_id": [2]}
    assert ModelConfig.from_dict(newer) == ModelConfig.from_dict(MIXTRAL)


def test_head_dim_may_be_its_own():
    assert ModelConfig.from_dict({**MIXTRAL, "head_dim": 96}).head_dim == 96


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "LlamaForCausalLM.*supported: MixtralForCausalLM"),
        ({"architectures": None, "model_type": "gpt2"}, "gpt2"),
        ({"hidden_size": None}, "hidden_size is None"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"vocab_size": "many"}, "vocab_size is 'many'"),
        ({"num_local_experts": True}, "num_local_experts is True"),
        ({"num_key_value_heads": 5}, "32 attention heads cannot share 5"),
        ({"head_dim": 127}, "head_dim is 127"),
        ({"num_experts_per_tok": 9}, "9 of only 8 experts"),
        ({"rms_norm_eps": -1}, "rms_norm_eps is -1"),
        ({"rope_theta": float("inf")}, "rope_theta is inf"),
        ({"rope_scaling": {"type": "yarn"}}, "'yarn'"),
        ({"hidden_act": "gelu"}, "'gelu'"),
        ({"eos_token_id": "</s>"}, "eos_token_id is '</s>'"),
        ({"architectures": True}, "architecture True is not supported"),
        ({"eos_token_id": True}, "eos_token_id is True"),
    ],
)
def test_what_cannot_be_served_is_named(change: dict[str, Any], message: str):
    with pytest.raises(CheckpointError, match=message):
        ModelConfig.from_dict({**MIXTRAL, **change})
