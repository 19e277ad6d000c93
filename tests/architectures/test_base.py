from published import FILE, MISTRAL

from expertmesh.architectures.base import read_decoder
from expertmesh.architectures.keys import Keys
from expertmesh.architectures.model_config import ModelConfig
from expertmesh.architectures.rope import Rope


def read(**changes: object) -> ModelConfig:
    return read_decoder(Keys({**MISTRAL, **changes}, FILE), "Some")


def test_the_published_configuration_is_read():
    config = read()
    assert (config.vocab_size, config.hidden_size, config.intermediate_size) == (32000, 4096, 14336)
    assert (config.num_layers, config.num_heads, config.num_kv_heads, config.head_dim) == (32, 32, 8, 128)
    assert (config.rms_norm_eps, config.rope, config.max_position_embeddings) == (1e-5, Rope(1e4), 32768)
    assert (config.eos_token_ids, config.is_embedding_tied) == ((2,), False)


def test_newer_spellings_mean_the_same():
    newer = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}, "head_dim": 128, "eos_token_id": [2]}
    assert read(rope_theta=None, **newer) == read()


def test_null_has_its_own_meaning():
    config = read(num_key_value_heads=None, sliding_window=None, eos_token_id=None)
    assert (config.num_kv_heads, config.sliding_window, config.eos_token_ids) == (32, None, ())


def test_head_dim_may_be_its_own():
    assert read(head_dim=96).head_dim == 96
