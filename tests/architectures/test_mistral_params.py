import re
from pathlib import Path

import pytest

from expertmesh.architectures.mistral_params import config_from_params, names_in_params
from expertmesh.architectures.model_config import ModelConfig
from expertmesh.architectures.registry import read_model
from expertmesh.architectures.rope import Rope
from expertmesh.errors import CheckpointError

# The parameters of the release of Mixtral-8x7B.
MIXTRAL = {
    "dim": 4096,
    "n_layers": 32,
    "head_dim": 128,
    "hidden_dim": 14336,
    "n_heads": 32,
    "n_kv_heads": 8,
    "norm_eps": 1e-05,
    "vocab_size": 32000,
    "moe": {"num_experts_per_tok": 2, "num_experts": 8},
}
PATH = Path("params.json")


def read(params: dict) -> ModelConfig:
    return read_model(config_from_params(PATH, params), PATH, names_in_params(params))


def test_the_release_of_mixtral():
    config = read(MIXTRAL)
    assert (config.architecture, config.num_experts, config.num_experts_per_token) == ("MixtralForCausalLM", 8, 2)
    assert (config.hidden_size, config.intermediate_size, config.num_layers) == (4096, 14336, 32)
    assert (config.num_heads, config.num_kv_heads, config.head_dim) == (32, 8, 128)
    assert (config.rope, config.max_position_embeddings, config.eos_token_ids) == (Rope(1e6), 32768, (2,))


@pytest.mark.parametrize(
    ("window", "theta", "expected"), [(4096, None, 1e4), (None, None, 1e6), (4096, 1e6, 1e6), (None, 5e5, 5e5)]
)
def test_a_dense_release_and_its_rotary_base(window, theta, expected):
    params = {key: value for key, value in MIXTRAL.items() if key != "moe"}
    config = read({**params, "sliding_window": window, "rope_theta": theta})
    assert config.architecture == "MistralForCausalLM"
    assert (config.sliding_window, config.rope, config.num_experts) == (window, Rope(expected), 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"moe": 8}, "moe is 8; an object would be right"),
        ({"moe": {"num_experts": 8}}, "moe.num_experts_per_tok is None; a positive integer would be right"),
        ({"moe": {**MIXTRAL["moe"], "num_experts": 0}}, "moe.num_experts is 0; a positive integer would be right"),
        ({"moe": {**MIXTRAL["moe"], "num_shared_experts": 1}}, "moe.num_shared_experts 1 is not supported (all layers"),
        ({"dim": "wide"}, "dim is 'wide'; a positive integer would be right"),
        ({"dim": None}, "dim is None; a positive integer would be right"),
        ({"n_kv_heads": None}, "n_kv_heads is None; a positive"),
        ({"norm_eps": None}, "norm_eps is None; a positive number would be right"),
        ({"max_seq_len": -1}, "max_seq_len is -1; a positive integer would be right"),
        ({"yarn": {"factor": 16}}, "yarn {'factor': 16} is not supported (rotary embedding is stretched where"),
        ({"quantization": {"qformat_weight": "fp8_e4m3"}}, "quantization {'qformat_weight': 'fp8_e4m3'} is not supp"),
        ({"vision_encoder": {}}, "vision_encoder {} is not supported (text is read"),
    ],
)
def test_what_cannot_be_served_is_named_in_its_own_words(change, message):
    with pytest.raises(CheckpointError, match=re.escape(f"{PATH}: {message}")):
        read({**MIXTRAL, **change})
