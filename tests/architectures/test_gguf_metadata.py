from pathlib import Path

import pytest

from expertmesh.architectures.gguf_metadata import config_from_metadata, names_in_metadata
from expertmesh.architectures.model_config import ModelConfig
from expertmesh.architectures.registry import read_model
from expertmesh.architectures.rope import Rope, Yarn
from expertmesh.errors import CheckpointError

# What is said of Mixtral-8x7B in GGUF.
MIXTRAL = {
    "general.architecture": "llama",
    "general.name": "mixtral",
    "llama.context_length": 32768,
    "llama.embedding_length": 4096,
    "llama.block_count": 32,
    "llama.feed_forward_length": 14336,
    "llama.rope.dimension_count": 128,
    "llama.attention.head_count": 32,
    "llama.attention.head_count_kv": 8,
    "llama.expert_count": 8,
    "llama.expert_used_count": 2,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.freq_base": 1e6,
    "tokenizer.ggml.tokens": ["<unk>"] * 32000,
    "tokenizer.ggml.eos_token_id": 2,
}
DENSE = {key: value for key, value in MIXTRAL.items() if ".expert_" not in key}
NAMES = ("token_embd.weight", "output.weight")
PATH = Path("model.gguf")


def read(metadata: dict, names=NAMES) -> ModelConfig:
    return read_model(config_from_metadata(PATH, metadata, names), PATH, names_in_metadata())


def test_mixtral():
    config = read(MIXTRAL)
    assert (config.architecture, config.num_experts, config.num_experts_per_token) == ("MixtralForCausalLM", 8, 2)
    assert (config.hidden_size, config.intermediate_size, config.num_layers) == (4096, 14336, 32)
    assert (config.num_heads, config.num_kv_heads, config.head_dim, config.vocab_size) == (32, 8, 128, 32000)
    assert (config.rope, config.max_position_embeddings, config.eos_token_ids) == (Rope(1e6), 32768, (2,))
    assert (config.sliding_window, config.is_embedding_tied) == (None, False)


def test_a_dense_model_has_no_window_and_the_base_of_llama_where_none_are_given():
    config = read({key: value for key, value in DENSE.items() if "freq_base" not in key})
    assert (config.architecture, config.num_experts, config.sliding_window) == ("MistralForCausalLM", 1, None)
    assert config.rope == Rope(1e4)
    assert read({**DENSE, "llama.attention.sliding_window": 4096}).sliding_window == 4096


def test_what_is_not_said_follows_from_the_rest():
    assert read(MIXTRAL, ["token_embd.weight"]).is_embedding_tied
    assert read({key: value for key, value in MIXTRAL.items() if "head_count_kv" not in key}).num_kv_heads == 32
    assert read({**MIXTRAL, "llama.vocab_size": 32002}).vocab_size == 32002
    assert read({**MIXTRAL, "tokenizer.ggml.eot_token_id": 7}).eos_token_ids == (2, 7)


def test_heads_of_another_width():
    widths = {"llama.attention.key_length": 64, "llama.attention.value_length": 64, "llama.rope.dimension_count": 64}
    assert read({**MIXTRAL, **widths}).head_dim == 64


@pytest.mark.parametrize(
    ("scaling", "expected"),
    [
        ({"type": "none"}, Rope(1e6)),
        ({"type": "linear", "factor": 4.0}, Rope(1e6, stretch=4.0)),
        (
            {"type": "yarn", "factor": 4.0, "original_context_length": 8192, "finetuned": True},
            Rope(1e6, yarn=Yarn(4.0, 8192, 32.0, 1.0, True, 1.1386294361119891)),
        ),
    ],
)
def test_rotary_embedding_that_is_stretched(scaling, expected):
    assert read({**MIXTRAL, **{f"llama.rope.scaling.{key}": value for key, value in scaling.items()}}).rope == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"general.architecture": "qwen3moe"}, "general.architecture 'qwen3moe' is not supported; supported: llama"),
        ({"llama.embedding_length": None}, "llama.embedding_length is None; a positive integer would be right"),
        ({"llama.block_count": 0}, "llama.block_count is 0; a positive integer would be right"),
        ({"llama.attention.head_count": [32, 16]}, r"llama.attention.head_count is \[32, 16\]; a positive integer"),
        ({"llama.attention.layer_norm_rms_epsilon": None}, "llama.attention.layer_norm_rms_epsilon is None"),
        ({"llama.expert_used_count": 9}, "llama.expert_used_count is 9; no more than there are experts, 8,"),
        ({"llama.expert_shared_count": 1}, "llama.expert_shared_count 1 is not supported .all layers have"),
        ({"llama.expert_gating_func": 2}, "llama.expert_gating_func 2 is not supported"),
        ({"llama.rope.dimension_count": 64}, "llama.rope.dimension_count 64 is not supported; supported: 128, as"),
        ({"llama.rope.scaling.type": "longrope"}, "llama.rope.scaling.type 'longrope' is not supported"),
        ({"tokenizer.ggml.eos_token_id": 32000}, r"tokenizer.ggml.eos_token_id is \[32000\]; ids from 0 to 31999"),
    ],
)
def test_what_is_wrong_is_named_as_the_file_has_it(change, message):
    with pytest.raises(CheckpointError, match=f"{PATH}: {message}"):
        read({**MIXTRAL, **change})
