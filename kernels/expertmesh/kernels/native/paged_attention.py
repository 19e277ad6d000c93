"""Attention over a paged KV cache that the C kernels read where it lies. Knows their call; the twin is in torch.

Alphabet: T new tokens, S sequences, C positions of the longest context, P slots, H query heads, K key-value heads, d
head width.
"""

import ctypes
from ctypes import byref, c_float, c_int32, c_int64, c_void_p

import torch

from expertmesh.kernels.native.library import Library
from expertmesh.kernels.native.matrix import TYPES
from expertmesh.kernels.paged_attention import PagedContexts


class AttentionArguments(ctypes.Structure):
    """``attention_t`` of the C source."""

    _fields_ = (
        ("query", c_void_p),
        ("keys", c_void_p),
        ("values", c_void_p),
        ("output", c_void_p),
        ("slots", c_void_p),
        ("sequences", c_void_p),
        ("num_sequences", c_int64),
        ("num_heads", c_int64),
        ("num_kv_heads", c_int64),
        ("head_dim", c_int64),
        ("slots_stride", c_int64),
        ("window", c_int64),
        ("query_type", c_int32),
        ("cache_type", c_int32),
        ("scale", c_float),
    )


def attend_paged(
    library: Library, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, contexts: PagedContexts
) -> torch.Tensor:
    """Like the twin in torch, in float32: ``query`` [T, H, d], ``keys`` and ``values`` [P, K, d] of float types.

    Other tokens, new or not, the place of the slots and the number of threads do not change the result of a token: a
    prompt attends as its tokens would one by one. ValueError when tensors do not fit each other or are not on the CPU.
    """
    _check(query, keys, values, contexts)
    query, output = query.contiguous(), torch.empty(query.shape, dtype=query.dtype)
    tensors = (query, keys, values, output, contexts.slots, contexts.sequences)
    num_sequences, (_, num_heads, head_dim) = len(contexts.lengths), query.shape
    arguments = AttentionArguments(
        *(tensor.data_ptr() for tensor in tensors),
        *(num_sequences, num_heads, keys.shape[1], head_dim, contexts.slots.stride(0), contexts.window),
        *(TYPES[query.dtype], TYPES[keys.dtype], head_dim**-0.5),
    )
    num_threads = torch.get_num_threads()
    scratch = torch.empty(library.attention_scratch_bytes(byref(arguments), num_threads), dtype=torch.uint8)
    library.attention_run(byref(arguments), scratch.data_ptr(), num_threads)
    return output


def _check(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, contexts: PagedContexts) -> None:
    for name, tensor in (("query", query), ("keys", keys), ("values", values)):
        if tensor.dim() != 3 or tensor.dtype not in TYPES or not tensor.is_cpu:
            found = f"{name} are {tensor.dtype} {list(tensor.shape)} on {tensor.device}"
            raise ValueError(f"{found}; three dimensions of float32, float16 or bfloat16 on the CPU are right")
    _check_cache(query, keys, values)
    _check_contexts(len(query), len(keys), contexts)


def _check_cache(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
    _, num_heads, head_dim = query.shape
    _, num_kv_heads, key_dim = keys.shape
    if key_dim != head_dim or num_heads % num_kv_heads:
        raise ValueError(f"keys have {num_kv_heads} heads of {key_dim}; the query has {num_heads} of {head_dim}")
    if keys.shape != values.shape or keys.dtype != values.dtype:
        raise ValueError(f"keys are {keys.dtype} {list(keys.shape)}, values {values.dtype} {list(values.shape)}")
    if not (keys.is_contiguous() and values.is_contiguous()):
        raise ValueError("keys and values have gaps; contiguous ones are right")


def _check_contexts(num_rows: int, num_slots: int, contexts: PagedContexts) -> None:
    slots, num_new, lengths = contexts.slots, contexts.num_new, contexts.lengths
    if not len(lengths) == len(num_new) == len(slots) or sum(num_new) != num_rows:
        found = f"{len(slots)} rows of slots, {len(lengths)} lengths, {num_new} new tokens and {num_rows} queries"
        raise ValueError(f"there are {found}; as many sequences of each, and a query for every new token, are right")
    if slots.dtype != torch.int64 or slots.stride(1) != 1 or not slots.is_cpu:
        found = f"slots are {slots.dtype} on {slots.device} with strides {slots.stride()}"
        raise ValueError(f"{found}; int64 on the CPU, rows without gaps, are right")
    if any(not 1 <= length <= slots.shape[1] for length in lengths):
        raise ValueError(f"contexts are {lengths} long; 1 to {slots.shape[1]} are right")
    if any(not 1 <= count <= length for count, length in zip(num_new, lengths, strict=True)) or contexts.window < 1:
        raise ValueError(
            f"of contexts {lengths} long, {num_new} are new and {contexts.window} seen; 1 or more are right"
        )
    lowest, highest = contexts.slot_range
    if lowest < 0 or highest >= num_slots:
        raise ValueError(f"slots are {lowest} to {highest}; 0 to {num_slots - 1} are right")
