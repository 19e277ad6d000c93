from pathlib import Path

import pytest

from expertmesh.architectures.mistral_params import config_from_params
from expertmesh.architectures.registry import read_model
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


def test_the_release_of_mixtral():
    config = read_model(config_from_params(PATH, MIXTRAL), PATH)
    assert (config.architecture, config.num_experts, config.num_experts_per_token) == ("MixtralForCausalLM", 8, 2)
    assert (config.hidden_size, config.intermediate_size, config.num_layers) == (4096, 14336, 32)
    assert (config.num_heads, config.num_kv_heads, config.head_dim) == (32, 8, 128)
    assert (config.rope_theta, config.max_position_embeddings, config.eos_token_ids) == (1e6, 32768, (2,))


@pytest.mark.parametrize(
    ("window", "theta", "expected"), [(4096, None, 1e4), (None, None, 1e6), (4096, 1e6, 1e6), (None, 5e5, 5e5)]
)
def test_a_dense_release_and_its_rotary_base(window, theta, expected):
    params = {key: value for key, value in MIXTRAL.items() if key != "moe"}
    config = read_model(config_from_params(PATH, {**params, "sliding_window": window, "rope_theta": theta}), PATH)
    assert config.architecture == "MistralForCausalLM"
    assert (config.sliding_window, config.rope_theta, config.num_experts) == (window, expected, 1)


def test_a_wrong_moe_is_named():
    with pytest.raises(CheckpointError, match=r"params.json: moe is 8; an object would be right"):
        config_from_params(PATH, {**MIXTRAL, "moe": 8})
