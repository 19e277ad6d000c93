from pathlib import Path

import torch

from expertmesh.architectures.model_config import GateRule, ModelConfig
from expertmesh.model.kv_cache import KVCache, bytes_per_token

CONFIG = ModelConfig(
    "MixtralForCausalLM", 10, 16, 32, 3, 4, 2, 4, 8, 2, 1e-5, 1e6, 100, False, (2,), GateRule.RENORMALISED
)


def make_cache(dtype: torch.dtype = torch.float32) -> KVCache:
    return KVCache(CONFIG, num_blocks=5, block_size=4, dtype=dtype, device=torch.device("cpu"))


def test_there_is_a_slot_for_padding_that_no_block_has():
    cache = make_cache()
    assert (cache.padding_slot, cache.keys.shape[1]) == (20, 21)


def test_bytes_per_token_are_those_that_the_cache_takes():
    for dtype in (torch.float32, torch.bfloat16):
        cache = make_cache(dtype)
        assert bytes_per_token(CONFIG, dtype) * (5 * 4 + 1) == cache.keys.nbytes + cache.values.nbytes


def test_memory_is_taken_as_it_is_written():
    def resident_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    before = resident_bytes()
    cache = KVCache(CONFIG, num_blocks=2**16, block_size=64, dtype=torch.float32, device=torch.device("cpu"))
    assert cache.keys.nbytes > 2**28
    assert not cache.keys[2, -100:].any()
    assert resident_bytes() - before < 2**25
