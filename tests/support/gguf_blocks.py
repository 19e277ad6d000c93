"""Random blocks of GGUF's types: any bytes are codes; scales are small numbers."""

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from expertmesh.kernels.formats import GGML_BLOCKS

# Where blocks have float16 numbers: a scale first, and behind it the minimum, if there is one.
FLOATS_AT = {"Q2_K": 80, "Q3_K": 108, "Q6_K": 208}


def random_blocks(kind: str, num_out: int, num_in: int, seed: int = 0, has_scales: bool = True) -> np.ndarray:
    """Make a matrix [num_out, bytes] of the type ``kind``, with values around 0.1; zeros of one that is not read."""
    generator, (num_values, num_bytes) = np.random.default_rng(seed), GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    shape = (num_out * num_in // num_values, num_bytes)
    if kind not in GGML_BLOCKS:
        return np.zeros(shape, dtype=np.uint8).reshape(num_out, -1)
    blocks = generator.integers(0, 256, shape, dtype=np.uint8)
    block = GGML_BLOCKS[kind]
    num_floats, start = 1 + block.has_minima, FLOATS_AT.get(kind, 0)
    steps = 2.0 ** (block.bits - 1) * (32 if kind.endswith("_K") else 1)
    floats = generator.uniform(0.05, 0.2, (len(blocks), num_floats)) / steps
    if block.has_minima and not kind.endswith("_K"):
        floats[:, 1] *= -steps
    elif block.has_minima:
        floats[:, 1] *= 2.0 ** (block.bits - 1)
    if not has_scales:
        floats[:, 0] = 0
    blocks[:, start : start + 2 * num_floats] = floats.astype(np.float16).view(np.uint8)
    return blocks.reshape(num_out, -1)
