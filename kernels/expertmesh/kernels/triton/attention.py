"""Attention over the blocks of a KV cache: launches that depend on shapes alone, so that a graph can capture them.

Alphabet: T new tokens, S sequences, B blocks of the longest sequence, P slots, H query heads, K key-value heads, d head
width.
"""

from functools import cache
from math import e, log2

import torch
import triton.language as tl

from expertmesh.kernels.block_attention import BlockContexts
from expertmesh.kernels.triton import attention_kernels as kernels
from expertmesh.kernels.triton.attention_kernels import Heads, Plan
from expertmesh.kernels.triton.attention_tuning import (
    NUM_STRIPES,
    SPAN,
    AttentionTiles,
    Products,
    choose_attention_tiles,
    choose_combining_tiles,
)
from expertmesh.kernels.triton.launching import on_device
from expertmesh.kernels.triton.ops import TRITON_DTYPES

UNBOUNDED = 2**31 - 1


def attend_blocks(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    contexts: BlockContexts,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attend from the new tokens of a step; see ``block_attention.attend_blocks``.

    ``query`` [T, H, d]; ``keys`` and ``values`` [P, K, d], all of one dtype, the heads of a token contiguous. Returns
    [T, H, d], in ``out`` if given, which is contiguous. ValueError when dtypes or layouts do not fit.
    """
    _check(query, keys, values, contexts, out)
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device) if out is None else out
    if len(query):
        attend = _attend_decode if contexts.is_decode else _attend_mixed
        with on_device(query.device):
            attend(query, keys, values, contexts, out)
    return out


def _attend_decode(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, contexts: BlockContexts, out: torch.Tensor
) -> None:
    products = choose_products(query.dtype, query.device)
    heads = _describe(query, keys, values, contexts)
    tiles = choose_attention_tiles(products, heads.width, heads.sharing).decode
    plan = make_plan(heads, tiles, choose_dot_dtype(query.dtype, products))
    table_width = contexts.block_tables.shape[1]
    num_splits = max(1, min(NUM_STRIPES, -(-table_width * contexts.block_size // SPAN)))
    highests, totals = query.new_empty(2, *query.shape[:2], num_splits, dtype=torch.float32)
    sums = query.new_empty(*query.shape[:2], num_splits, heads.width, dtype=torch.float32)
    kernels.attend_split[len(query), keys.shape[1] * plan.num_parts, num_splits](
        query, keys, values, contexts.block_tables, contexts.lengths, highests, totals, sums,
        table_width, _window(contexts), PLAN=plan, **compiler_options(tiles, products),
    )  # fmt: skip
    combining_tiles = choose_combining_tiles(tiles, heads.width, heads.sharing)
    plan = make_plan(heads, combining_tiles, tl.float32)
    kernels.combine_splits[len(query), keys.shape[1] * plan.num_parts](
        contexts.lengths, highests, totals, sums, out, _window(contexts),
        NUM_SPLITS=num_splits, PLAN=plan, **compiler_options(combining_tiles, products),
    )  # fmt: skip


def _attend_mixed(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, contexts: BlockContexts, out: torch.Tensor
) -> None:
    products = choose_products(query.dtype, query.device)
    heads = _describe(query, keys, values, contexts)
    tiles = choose_attention_tiles(products, heads.width, heads.sharing).mixed
    plan = make_plan(heads, tiles, choose_dot_dtype(query.dtype, products))
    num_sequences, table_width = contexts.block_tables.shape
    num_tiles = len(query) // plan.num_tokens + num_sequences + 1
    kernels.attend_tiles[num_tiles, keys.shape[1] * plan.num_parts](
        query, keys, values, contexts.block_tables, contexts.lengths, contexts.first_rows, out,
        table_width, num_sequences, len(query), _window(contexts), PLAN=plan, **compiler_options(tiles, products),
    )  # fmt: skip


def make_plan(heads: Heads, tiles: AttentionTiles, dot_dtype: tl.dtype) -> Plan:
    """Say what a program is compiled for; its products take operands of ``dot_dtype``."""
    scale = heads.width**-0.5 * log2(e)
    return Plan(heads, tiles, dot_dtype, scale, SPAN, NUM_STRIPES)


def compiler_options(tiles: AttentionTiles, products: Products) -> dict[str, object]:
    """Name what the compiler is told besides; see ``attention_kernels`` on fused products and sums."""
    options: dict[str, object] = {
        "num_warps": tiles.num_warps,
        "num_stages": tiles.num_stages,
        "enable_fp_fusion": False,
    }
    # One instruction for decode steps and others: by default it would be larger for more rows.
    return options | {"matrix_instr_nonkdim": 16} if products == Products.MFMA else options


def choose_dot_dtype(dtype: torch.dtype, products: Products) -> tl.dtype:
    """Return the dtype that rows of ``dtype`` are multiplied in."""
    return tl.float32 if products == Products.SCALAR else TRITON_DTYPES[dtype]


def choose_products(dtype: torch.dtype, device: torch.device) -> Products:
    """Return what multiplies rows of ``dtype``: float32 ones are multiplied exactly, so not by tensor cores."""
    if dtype == torch.float32:
        return Products.SCALAR
    if device.type != "cuda":
        # The interpreter multiplies the bits of bfloat16 values.
        return Products.MMA if dtype == torch.float16 else Products.SCALAR
    return _products_of(device)


@cache
def _products_of(device: torch.device) -> Products:
    if torch.version.hip is not None:
        return Products.MFMA
    major, _ = torch.cuda.get_device_capability(device)
    if major < 8:
        return Products.SCALAR
    return Products.WGMMA if major in (9, 10) else Products.MMA


def _describe(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, contexts: BlockContexts) -> Heads:
    return Heads(
        width=query.shape[2],
        sharing=query.shape[1] // keys.shape[1],
        query_stride=query.stride(0),
        key_stride=keys.stride(0),
        value_stride=values.stride(0),
        block_size=contexts.block_size,
    )


def _window(contexts: BlockContexts) -> int:
    return UNBOUNDED if contexts.window is None else contexts.window


def _check(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    contexts: BlockContexts,
    out: torch.Tensor | None,
) -> None:
    if keys.shape != values.shape or query.shape[2] != keys.shape[2] or query.shape[1] % keys.shape[1]:
        raise ValueError(f"queries {list(query.shape)} do not fit keys {list(keys.shape)}, values {list(values.shape)}")
    if not query.dtype == keys.dtype == values.dtype:
        raise ValueError(f"queries are {query.dtype}, keys {keys.dtype}, values {values.dtype}; they must be alike")
    if not all(part.stride()[1:] == (part.shape[2], 1) for part in (query, keys, values)):
        raise ValueError("the heads of a token must lie one after the other in queries, keys and values")
    if out is not None and (out.shape != query.shape or out.dtype != query.dtype or not out.is_contiguous()):
        raise ValueError(f"out must be contiguous {query.dtype} {list(query.shape)}, is {out.dtype} {list(out.shape)}")
    tensors = contexts.block_tables, contexts.lengths, contexts.first_rows
    if not all(part.dtype == torch.int32 and part.is_contiguous() for part in tensors):
        raise ValueError("block tables, lengths and first rows must be contiguous int32")
    if contexts.is_decode and len(contexts.lengths) != len(query):
        raise ValueError(f"a decode step of {len(contexts.lengths)} sequences has {len(query)} tokens")
