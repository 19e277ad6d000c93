from pathlib import Path

import torch

from expertmesh.architectures.model_config import GateRule, ModelConfig
from expertmesh.model.kv_cache import KVCache, bytes_per_token

CONFIG = ModelConfig(
    "MixtralForCausalLM", 10, 16, 32, 3, 4, 2, 4, 8, 2, 1e-5, 1e6, 100, False, (2,), GateRule.RENORMALISED
)


def make_cache(dtype: torch.dtype = torch.float32) -> KVCache:
    return KVCache(CONFIG, num_blocks=5, block_size=4, dtype=dtype, device=torch.device("cpu"))


def test_what_is_written_is_in_its_slots_and_nowhere_else():
    cache = make_cache()
    keys, values = torch.randn(2, 3, 2, 4, generator=torch.Generator().manual_seed(0))
    slots = torch.tensor([19, 0, 6])
    cache.write(1, slots, keys, values)
    assert torch.equal(cache.keys[1, slots], keys)
    assert torch.equal(cache.values[1, slots], values)
    for stored in (cache.keys, cache.values):
        assert set(stored.flatten(2).any(-1).nonzero().unbind(1)[0].tolist()) == {1}
        assert sorted(stored[1].flatten(1).any(-1).nonzero().flatten().tolist()) == [0, 6, 19]


def test_a_slot_keeps_what_was_written_last():
    cache = make_cache()
    slot = torch.tensor([3])
    for value in (1.0, 2.0):
        cache.write(0, slot, torch.full((1, 2, 4), value), torch.full((1, 2, 4), -value))
    assert (cache.keys[0, 3] == 2).all()
    assert (cache.values[0, 3] == -2).all()


def test_bytes_per_token_are_those_that_the_cache_takes():
    for dtype in (torch.float32, torch.bfloat16):
        cache = make_cache(dtype)
        assert bytes_per_token(CONFIG, dtype) * 5 * 4 == cache.keys.nbytes + cache.values.nbytes


def test_memory_is_taken_as_it_is_written():
    def resident_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    before = resident_bytes()
    cache = KVCache(CONFIG, num_blocks=2**16, block_size=64, dtype=torch.float32, device=torch.device("cpu"))
    assert cache.keys.nbytes > 2**28
    assert not cache.keys[2, -100:].any()
    assert resident_bytes() - before < 2**25
