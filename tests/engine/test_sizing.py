import pytest
import torch

from expertmesh.architectures.model_config import GateRule, ModelConfig
from expertmesh.engine import sizing
from expertmesh.engine.sizing import cache_budget, choose_dtype, plan_cache
from expertmesh.errors import ConfigError
from expertmesh.kernels import cuda_devices

# 2 layers x 2 heads x width 4, keys and values in float32: 128 bytes a token, 2048 bytes a block of 16.
CONFIG = ModelConfig(
    "MixtralForCausalLM", 10, 16, 32, 2, 4, 2, 4, 8, 2, 1e-5, 1e6, 100, False, (2,), GateRule.RENORMALISED
)
BLOCK_BYTES = 2048


def plan(cache_bytes, max_model_len=None, max_num_seqs=64):
    return plan_cache(CONFIG, torch.float32, cache_bytes, max_model_len, max_num_seqs)


def test_the_context_is_what_the_model_or_the_cache_allows():
    assert plan(1000 * BLOCK_BYTES).max_model_len == 100
    assert plan(3 * BLOCK_BYTES + 5).max_model_len == 48
    assert plan(3 * BLOCK_BYTES, max_model_len=40).max_model_len == 40


def test_no_more_blocks_than_the_sequences_can_fill():
    assert plan(1000 * BLOCK_BYTES, max_num_seqs=2).num_blocks == 2 * 7
    assert plan(9 * BLOCK_BYTES).num_blocks == 9


@pytest.mark.parametrize(
    ("cache_bytes", "max_model_len", "message"),
    [
        (100, None, "100 bytes holds no block"),
        (BLOCK_BYTES * 100, 101, "101 is beyond the model's context of 100"),
        (BLOCK_BYTES * 2, 33, "33 does not fit a KV cache of 32 tokens"),
    ],
)
def test_what_does_not_fit_is_named(cache_bytes, max_model_len, message):
    with pytest.raises(ConfigError, match=message):
        plan(cache_bytes, max_model_len)


def test_a_cache_takes_nine_tenths_of_a_gpu_and_half_of_a_machine(monkeypatch):
    monkeypatch.setattr(cuda_devices, "free_bytes", lambda device: 1000 * device.index)
    monkeypatch.setattr(sizing, "free_memory_bytes", lambda: 500)
    assert cache_budget(torch.device("cuda", 2)) == 1800
    assert cache_budget(torch.device("cuda", 2), reserved_bytes=500) == 1350
    assert cache_budget(torch.device("cuda", 2), reserved_bytes=2500) == 0
    assert cache_budget(torch.device("cpu")) == 250


def test_dtype_by_name():
    assert choose_dtype("bfloat16", torch.float32) == torch.bfloat16
    assert choose_dtype("auto", torch.float32) == torch.float32
    with pytest.raises(ConfigError, match="'int8'"):
        choose_dtype("int8", torch.float32)
