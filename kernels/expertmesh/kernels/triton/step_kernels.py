"""Kernels of the operations between matrices. They know pointers and rows; ``step_ops`` knows when to launch which.

Each rounds where the twins in ``expertmesh.kernels.step_ops`` do. Alphabet: T rows, D hidden width, H query heads,
G key-value heads, d head width, E experts, A experts chosen per row.
"""

import triton
import triton.language as tl


@triton.jit
def add_and_normalise(hidden, delta, weight, out, EPS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Add ``delta`` to ``hidden`` [T, D] in place, then out = hidden / rms(hidden) * weight; one program per row."""
    columns = tl.arange(0, BLOCK)
    is_there = columns < WIDTH
    at = tl.program_id(0).to(tl.int64) * WIDTH + columns
    values = tl.load(hidden + at, mask=is_there, other=0.0)
    if delta is not None:
        added = tl.load(delta + at, mask=is_there, other=0.0).to(values.dtype)
        values = (values.to(tl.float32) + added.to(tl.float32)).to(values.dtype)
        tl.store(hidden + at, values, mask=is_there)
    tl.store(out + at, _normalise(values, weight + columns, is_there, EPS, WIDTH), mask=is_there)


@triton.jit
def normalise_heads(heads, weight, row_stride, EPS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Replace a head of ``heads`` [T, N, W] by head / rms(head) * weight; one program per row and head."""
    columns = tl.arange(0, BLOCK)
    is_there = columns < WIDTH
    head = heads + tl.program_id(0).to(tl.int64) * row_stride + tl.program_id(1) * WIDTH + columns
    values = tl.load(head, mask=is_there, other=0.0)
    tl.store(head, _normalise(values, weight + columns, is_there, EPS, WIDTH), mask=is_there)


@triton.jit
def _normalise(values, weight, is_there, EPS: tl.constexpr, WIDTH: tl.constexpr):
    """Return values / rms(values) * weight, rounded after the division and after the product."""
    wide = values.to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide, axis=0) / WIDTH + EPS)
    unit = (wide * scale).to(values.dtype)
    factor = tl.load(weight, mask=is_there, other=0.0)
    return (factor.to(tl.float32) * unit.to(tl.float32)).to(values.dtype)


@triton.jit
def rotate_and_store(
    joined, cos, sin, slots, keys, values, query,
    NUM_HEADS: tl.constexpr, NUM_KV_HEADS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Take one head of one row to where it belongs: ``query`` [T, H, d], or a slot of ``keys`` or ``values`` [P, G, d].

    ``joined`` is [T, H + 2G, d]; ``BLOCK`` covers half a head.
    """
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    half: tl.constexpr = WIDTH // 2
    columns = tl.arange(0, BLOCK)
    is_there = columns < half
    source = joined + (row * (NUM_HEADS + 2 * NUM_KV_HEADS) + head) * WIDTH + columns
    first = tl.load(source, mask=is_there, other=0.0)
    second = tl.load(source + half, mask=is_there, other=0.0)
    if head < NUM_HEADS + NUM_KV_HEADS:
        angles = row * WIDTH + columns
        turned_first = _turn(first, second, -1.0, cos + angles, sin + angles, is_there)
        second = _turn(second, first, 1.0, cos + angles + half, sin + angles + half, is_there)
        first = turned_first
    if head < NUM_HEADS:
        target = query + (row * NUM_HEADS + head) * WIDTH
    else:
        slot = tl.load(slots + row).to(tl.int64) * NUM_KV_HEADS
        if head < NUM_HEADS + NUM_KV_HEADS:
            target = keys + (slot + head - NUM_HEADS) * WIDTH
        else:
            target = values + (slot + head - NUM_HEADS - NUM_KV_HEADS) * WIDTH
    tl.store(target + columns, first, mask=is_there)
    tl.store(target + columns + half, second, mask=is_there)


@triton.jit
def _turn(x, other, sign, cos, sin, is_there):
    """Return x * cos + sign * other * sin, rounded after each operation."""
    cosine = tl.load(cos, mask=is_there, other=0.0).to(tl.float32)
    sine = tl.load(sin, mask=is_there, other=0.0).to(tl.float32)
    straight = (x.to(tl.float32) * cosine).to(x.dtype)
    across = (sign * other.to(tl.float32) * sine).to(x.dtype)
    return (straight.to(tl.float32) + across.to(tl.float32)).to(x.dtype)


@triton.jit
def choose_experts(
    logits, lengths, ids, weights,
    NUM_EXPERTS: tl.constexpr, NUM_CHOSEN: tl.constexpr, IS_RENORMALISED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Softmax over ``logits`` [T, E], the A greatest or their share; the lower id first among equals."""
    row = tl.program_id(0)
    experts = tl.arange(0, BLOCK)
    wide = tl.load(logits + row * NUM_EXPERTS + experts, mask=experts < NUM_EXPERTS, other=float("-inf"))
    wide = wide.to(tl.float32)
    powers = tl.exp(wide - tl.max(wide, axis=0))
    left = powers / tl.sum(powers, axis=0)
    is_padding = False if lengths is None else tl.load(lengths + row) == 0
    total = _sum_of_greatest(left, experts, NUM_CHOSEN) if IS_RENORMALISED else 1.0
    for place in tl.static_range(NUM_CHOSEN):
        # Of values that are not numbers the greatest may be any, also one behind the last expert.
        best = tl.minimum(tl.argmax(left, axis=0), NUM_EXPERTS - 1)
        tl.store(ids + row * NUM_CHOSEN + place, tl.where(is_padding, -1, best).to(ids.dtype.element_ty))
        tl.store(weights + row * NUM_CHOSEN + place, tl.max(left, axis=0) / total)
        left = tl.where(experts == best, -1.0, left)


@triton.jit
def _sum_of_greatest(left, experts, NUM: tl.constexpr):
    total = 0.0
    for _ in tl.static_range(NUM):
        total += tl.max(left, axis=0)
        left = tl.where(experts == tl.argmax(left, axis=0), -1.0, left)
    return total
