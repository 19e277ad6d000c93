"""A product by the last outputs of a matrix of more values than 32 bits count, where kernels are interpreted."""

import torch
import triton
import triton.language as tl

from expertmesh.kernels.triton.kernels import _multiply_dense

NUM_IN, BLOCK = 64, 16
NUM_OUT = 2**31 // NUM_IN + BLOCK
FIRST = NUM_OUT - BLOCK


@triton.jit
def _multiply_last(
    x, data, y, NUM_IN: tl.constexpr, NUM_OUT: tl.constexpr, FIRST: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    lanes = tl.arange(0, BLOCK)
    product = _multiply_dense(
        x, lanes * NUM_IN, data, FIRST + lanes, 0, NUM_IN, NUM_OUT, 1, tl.float32, BLOCK, BLOCK, NUM_IN
    )
    tl.store(y + lanes[:, None] * BLOCK + lanes[None, :], product)


def multiply_last_outputs() -> tuple[torch.Tensor, torch.Tensor]:
    """Return [BLOCK, BLOCK] products of outputs and rows, and what is right; all but the last pages stay untouched."""
    generator = torch.Generator().manual_seed(0)
    data = torch.empty(NUM_OUT, NUM_IN, dtype=torch.float16)
    data[FIRST:] = torch.randn(BLOCK, NUM_IN, generator=generator)
    x, y = torch.randn(BLOCK, NUM_IN, generator=generator), torch.empty(BLOCK, BLOCK)
    _multiply_last[(1,)](x, data, y, NUM_IN=NUM_IN, NUM_OUT=NUM_OUT, FIRST=FIRST, BLOCK=BLOCK)
    return y, data[FIRST:].float() @ x.T
