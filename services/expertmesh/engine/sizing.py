"""How much of the device an engine takes: dtype of activations, blocks of the KV cache. Knows bytes."""

from dataclasses import dataclass

import torch

from expertmesh.architectures.model_config import ModelConfig
from expertmesh.engine.free_memory import free_memory_bytes
from expertmesh.errors import ConfigError
from expertmesh.kernels import cuda_devices
from expertmesh.model.kv_cache import bytes_per_token

BLOCK_SIZE = 16
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class CachePlan:
    """Blocks of the KV cache, and the longest sequence that may be served with them."""

    num_blocks: int
    block_size: int
    max_model_len: int


def choose_dtype(name: str, default: torch.dtype) -> torch.dtype:
    """Return the dtype called ``name``; "auto" is ``default``. ConfigError for another name."""
    if name == "auto":
        return default
    if name not in DTYPES:
        raise ConfigError(f"dtype {name!r} is unknown; use auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def cache_budget(device: torch.device, reserved_bytes: int = 0) -> int:
    """Bytes that a KV cache may take of what is free on ``device`` now.

    Nine tenths of what a GPU, which serves nobody else, has beside what is reserved; half of the memory of a machine,
    which does.
    """
    if device.type == "cuda":
        return max(0, cuda_devices.free_bytes(device) - reserved_bytes) * 9 // 10
    return free_memory_bytes() // 2


def plan_cache(
    config: ModelConfig, dtype: torch.dtype, cache_bytes: int, max_model_len: int | None, max_num_seqs: int
) -> CachePlan:
    """Fill ``cache_bytes`` with blocks, but with no more than ``max_num_seqs`` sequences can use.

    Without a ``max_model_len`` the longest sequence is what the model was made for, or what fits. ConfigError when a
    wanted length is beyond the model or does not fit the cache.
    """
    block_bytes = BLOCK_SIZE * bytes_per_token(config, dtype)
    num_blocks = cache_bytes // block_bytes
    if num_blocks < 1:
        raise ConfigError(f"a KV cache of {cache_bytes} bytes holds no block; one takes {block_bytes} bytes")
    num_tokens = num_blocks * BLOCK_SIZE
    wanted = max_model_len or min(config.max_position_embeddings, num_tokens)
    if wanted > config.max_position_embeddings:
        raise ConfigError(f"max_model_len {wanted} is beyond the model's context of {config.max_position_embeddings}")
    if wanted > num_tokens:
        raise ConfigError(
            f"a sequence of max_model_len {wanted} does not fit a KV cache of {num_tokens} tokens; "
            f"it needs {wanted * bytes_per_token(config, dtype) / 2**30:.2f} GiB"
        )
    usable = max_num_seqs * -(-wanted // BLOCK_SIZE)
    return CachePlan(min(num_blocks, usable), BLOCK_SIZE, wanted)
