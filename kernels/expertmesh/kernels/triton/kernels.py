"""The kernels. They know tiles and pointers; ``ops`` knows when to launch which, ``layout`` how words are filled.

Alphabet: N output features, K input features, G groups, P rows of a plane, BM rows and BN outputs of a tile.

Weights are the left operand of every product, [BN, P] x [P, BM]: the tensor cores want 16 to 64 rows on that side,
which outputs always offer and a decode step's rows do not, and Hopper takes that side from registers, where the
unpacked codes are.
"""

import triton
import triton.language as tl

from expertmesh.kernels.triton.layout import num_slots

_num_slots = triton.constexpr_function(num_slots)


@triton.constexpr_function
def _starts_group(slot, num_slots, plane_rows, group_size, num_in):
    """Whether the scales of this slot of a span may differ from those of the slot before."""
    span = num_slots * plane_rows
    if group_size % span == 0 or group_size >= num_in:
        return slot == 0
    return span % group_size != 0 or slot * plane_rows % group_size == 0


@triton.constexpr_function
def _take_code_asm(slot, bits, ones):
    """PTX that does to both halves of a register what ``_take_code`` does to a word, in two instructions.

    0xEA is the truth table of (a and b) or c. Bits that the shift moves from one half to the other are masked out.
    """
    mask, ones = (pattern << 16 | pattern for pattern in (2**bits - 1, ones))
    return f"{{ .reg .b32 t; shr.u32 t, $1, {slot * bits}; lop3.b32 $0, t, {mask:#x}, {ones:#x}, 0xEA; }}"


@triton.jit
def _take_code(words, slot: tl.constexpr, BITS: tl.constexpr, ONES: tl.constexpr, PTX: tl.constexpr):
    """Return the codes of one slot with the bits ``ONES`` set above them; int16."""
    if PTX:
        asm: tl.constexpr = _take_code_asm(slot, BITS, ONES)
        return tl.inline_asm_elementwise(asm, "=r,r", [words], dtype=tl.int16, is_pure=True, pack=2)
    return (words >> (slot * BITS)) & (2**BITS - 1) | ONES


@triton.jit
def _load_affine(scales, zeros, group, outs, NUM_OUT: tl.constexpr):
    """Load the scales and zero points [BN] of a group as float32."""
    scale = tl.load(scales + group * NUM_OUT + outs, mask=outs < NUM_OUT, other=0.0).to(tl.float32)
    zero = tl.load(zeros + group * NUM_OUT + outs, mask=outs < NUM_OUT, other=0).to(tl.float32)
    return scale, zero


@triton.jit
def _unpack_half(
    words, scale, zero, slot: tl.constexpr, BITS: tl.constexpr, HALF: tl.constexpr, PTX: tl.constexpr
):  # fmt: skip
    """Return the values [BN, P] of one slot, computed in the 16-bit dtype HALF, two to a register.

    The code is written into the bottom of the mantissa of a power of two so large that it counts in ones: 1024 in
    float16, 128 in bfloat16. Converting integers would run at a quarter of the rate.
    """
    is_float16: tl.constexpr = HALF.fp_mantissa_width == 10
    base: tl.constexpr = 1024.0 if is_float16 else 128.0
    base_bits: tl.constexpr = 0x6400 if is_float16 else 0x4300
    if BITS == 8 and not is_float16:
        # 128 more codes would not fit beside 128: each half of the code on its own, and 16 x high + low is exact.
        zero_high = tl.floor(zero / 16)
        high = _take_code(words, 2 * slot + 1, 4, base_bits, PTX).to(HALF, bitcast=True)
        low = _take_code(words, 2 * slot, 4, base_bits, PTX).to(HALF, bitcast=True)
        steps = (high - (zero_high + base).to(HALF)[:, None]) * 16
        steps += low - (zero - 16 * zero_high + base).to(HALF)[:, None]
    else:
        code = _take_code(words, slot, BITS, base_bits, PTX).to(HALF, bitcast=True)
        steps = code - (zero + base).to(HALF)[:, None]
    return steps * scale.to(HALF)[:, None]


@triton.jit
def _unpack_wide(words, scale, zero, slot: tl.constexpr, BITS: tl.constexpr):
    """Return the values [BN, P] of one slot in float32; the code goes to the top of the mantissa of 1."""
    start: tl.constexpr = slot * BITS
    top: tl.constexpr = 23 - BITS
    wide = words.to(tl.int32)
    moved = wide << (top - start) if top >= start else wide >> (start - top)
    one_plus_code = (moved & (2**BITS - 1) << top | 0x3F800000).to(tl.float32, bitcast=True)
    return one_plus_code * (scale * 2**BITS)[:, None] - (scale * (2**BITS + zero))[:, None]


@triton.jit
def _load_words(words, rows, outs, NUM_OUT: tl.constexpr):
    """Load the words of ``rows`` [P]: [BN, P]."""
    return tl.load(words + rows[None, :] * NUM_OUT + outs[:, None], mask=(outs < NUM_OUT)[:, None], other=0)


@triton.jit
def _load_inputs(x, row_offsets, order, features, NUM_IN: tl.constexpr, is_whole: tl.constexpr):
    """Load the ``features`` [P] of the rows that lie at ``x`` + ``row_offsets`` [BM]: [P, BM]; 0 past the last one."""
    features_in_x = features
    if order is not None:
        features_in_x = tl.load(order + features, mask=features < NUM_IN, other=0)
    pointers = x + (row_offsets[None, :] + features_in_x[:, None])
    if is_whole:
        return tl.load(pointers)
    return tl.load(pointers, mask=(features < NUM_IN)[:, None], other=0.0)


@triton.jit
def _multiply_packed(
    x, row_offsets, words, scales, zeros, order, outs, split,
    NUM_IN: tl.constexpr, NUM_OUT: tl.constexpr, BITS: tl.constexpr, GROUP_SIZE: tl.constexpr, PLANE: tl.constexpr,
    DOT: tl.constexpr, HALF: tl.constexpr, PTX: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Product [BN, BM] over this split's share of the spans."""
    slots: tl.constexpr = _num_slots(BITS)
    span_inputs: tl.constexpr = slots * PLANE
    num_spans: tl.constexpr = (NUM_IN + span_inputs - 1) // span_inputs
    spans_per_split = tl.cdiv(num_spans, tl.num_programs(2))
    last_group: tl.constexpr = (NUM_IN + GROUP_SIZE - 1) // GROUP_SIZE - 1
    lanes = tl.arange(0, PLANE)
    sums = tl.zeros((BLOCK_N, BLOCK_M), dtype=tl.float32)
    first_span = split * spans_per_split
    for span in range(first_span, tl.minimum(first_span + spans_per_split, num_spans)):
        tile = _load_words(words, span * PLANE + lanes, outs, NUM_OUT)  # [BN, P]
        for slot in tl.static_range(slots):
            first_feature = span * span_inputs + slot * PLANE
            if _starts_group(slot, slots, PLANE, GROUP_SIZE, NUM_IN):
                # Padding past K may lie in a group that does not exist.
                group = tl.minimum(first_feature // GROUP_SIZE, last_group)
                scale, zero = _load_affine(scales, zeros, group, outs, NUM_OUT)
            if HALF is not None:
                values = _unpack_half(tile, scale, zero, slot, BITS, HALF, PTX)
            else:
                values = _unpack_wide(tile, scale, zero, slot, BITS)
            inputs = _load_inputs(x, row_offsets, order, first_feature + lanes, NUM_IN, NUM_IN % span_inputs == 0)
            sums = tl.dot(values.to(DOT), inputs.to(DOT), sums, input_precision="ieee")
    return sums


@triton.jit
def _multiply_dense(
    x, row_offsets, data, outs, split,
    NUM_IN: tl.constexpr, NUM_OUT: tl.constexpr,
    DOT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Product [BN, BM] over this split's share of the input features."""
    num_blocks: tl.constexpr = (NUM_IN + BLOCK_K - 1) // BLOCK_K
    blocks_per_split = tl.cdiv(num_blocks, tl.num_programs(2))
    lanes = tl.arange(0, BLOCK_K)
    is_out = (outs < NUM_OUT)[:, None]
    sums = tl.zeros((BLOCK_N, BLOCK_M), dtype=tl.float32)
    first_block = split * blocks_per_split
    for block in range(first_block, tl.minimum(first_block + blocks_per_split, num_blocks)):
        features = block * BLOCK_K + lanes
        is_stored = is_out if NUM_IN % BLOCK_K == 0 else is_out & (features < NUM_IN)[None, :]
        values = tl.load(data + outs[:, None] * NUM_IN + features[None, :], mask=is_stored, other=0.0)  # [BN, BK]
        inputs = _load_inputs(x, row_offsets, None, features, NUM_IN, NUM_IN % BLOCK_K == 0)
        sums = tl.dot(values.to(DOT), inputs.to(DOT), sums, input_precision="ieee")
    return sums


# The number of rows changes with every call: no program of its own for 1 or for multiples of 16.
@triton.jit(do_not_specialize=["num_rows"])
def grouped_linear(
    x, weights, scales, zeros, order, bias, row_weights, tiles, y, num_rows,
    NUM_IN: tl.constexpr, NUM_OUT: tl.constexpr, NUM_WORDS: tl.constexpr, NUM_GROUPS: tl.constexpr,
    BITS: tl.constexpr, GROUP_SIZE: tl.constexpr, PLANE: tl.constexpr, SWIGLU: tl.constexpr, DOT: tl.constexpr,
    HALF: tl.constexpr, PTX: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Multiply each tile of rows by its expert's matrix.

    Grid: tiles of rows, tiles of outputs, splits of K. ``tiles`` [tiles, 3] int32: expert, first row, row after the
    expert's last. ``y`` is [splits, R, N], a partial sum each; with SWIGLU it is [1, R, N/2] and outputs 2f and
    2f + 1 are gate and up of feature f. ``row_weights`` [R] scales rows, ``bias`` [E, N] is added before; both may be
    None. BITS = 0 means dense weights. HALF is the 16-bit dtype to unpack in, or None for float32; PTX says whether
    instructions of NVIDIA's may be used to do so.
    """
    tile = tiles + 3 * tl.program_id(0)
    expert = tl.load(tile).to(tl.int64)
    first_row = tl.load(tile + 1).to(tl.int64)
    end_row = tl.load(tile + 2)
    split = tl.program_id(2)
    outs = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    # Rows past the expert's last repeat it, so that loads need no mask; they are not stored.
    rows = tl.minimum(tl.arange(0, BLOCK_M), (end_row - 1 - first_row).to(tl.int32))
    row_offsets = rows * NUM_IN
    x += first_row * NUM_IN
    if BITS == 0:
        data = weights + expert * NUM_OUT * NUM_IN
        sums = _multiply_dense(
            x, row_offsets, data, outs, split, NUM_IN, NUM_OUT, DOT, BLOCK_M, BLOCK_N, BLOCK_K
        )  # fmt: skip
    else:
        words = weights + expert * NUM_WORDS * NUM_OUT
        first_group = expert * NUM_GROUPS * NUM_OUT
        expert_order = order
        if order is not None:
            expert_order = order + expert * NUM_IN
        sums = _multiply_packed(
            x, row_offsets, words, scales + first_group, zeros + first_group, expert_order, outs,
            split, NUM_IN, NUM_OUT, BITS, GROUP_SIZE, PLANE, DOT, HALF, PTX, BLOCK_M, BLOCK_N,
        )  # fmt: skip
    if bias is not None:
        added = tl.load(bias + expert * NUM_OUT + outs, mask=(outs < NUM_OUT) & (split == 0), other=0.0)
        sums += added[:, None]
    results = tl.trans(sums)  # [BM, BN]
    num_columns: tl.constexpr = NUM_OUT // 2 if SWIGLU else NUM_OUT
    columns = outs
    if SWIGLU:
        gate, up = tl.split(tl.reshape(results, (BLOCK_M, BLOCK_N // 2, 2)))
        results = gate / (1 + tl.exp(-gate)) * up
        columns = tl.program_id(1) * (BLOCK_N // 2) + tl.arange(0, BLOCK_N // 2)
    if row_weights is not None:
        results *= tl.load(row_weights + first_row + rows)[:, None]
    is_row = first_row + tl.arange(0, BLOCK_M) < end_row
    stored = y + (split * num_rows + first_row) * num_columns + (rows[:, None] * num_columns + columns[None, :])
    tl.store(stored, results.to(y.dtype.element_ty), mask=is_row[:, None] & (columns < num_columns)[None, :])


@triton.jit
def dequantize(
    words, scales, zeros, y,
    NUM_IN: tl.constexpr, NUM_OUT: tl.constexpr, BITS: tl.constexpr, GROUP_SIZE: tl.constexpr, PLANE: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Write the values of one expert's matrix to ``y`` [N, K], columns as stored. Grid: spans, tiles of outputs."""
    slots: tl.constexpr = _num_slots(BITS)
    last_group: tl.constexpr = (NUM_IN + GROUP_SIZE - 1) // GROUP_SIZE - 1
    span = tl.program_id(0)
    outs = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    lanes = tl.arange(0, PLANE)
    is_out = (outs < NUM_OUT)[:, None]
    tile = _load_words(words, span * PLANE + lanes, outs, NUM_OUT)  # [BN, P]
    for slot in tl.static_range(slots):
        first_feature = (span * slots + slot) * PLANE
        if _starts_group(slot, slots, PLANE, GROUP_SIZE, NUM_IN):
            group = tl.minimum(first_feature // GROUP_SIZE, last_group)
            scale, zero = _load_affine(scales, zeros, group, outs, NUM_OUT)
        values = _unpack_wide(tile, scale, zero, slot, BITS)
        features = (first_feature + lanes)[None, :]
        stored = y + outs.to(tl.int64)[:, None] * NUM_IN + features
        tl.store(stored, values.to(y.dtype.element_ty), mask=is_out & (features < NUM_IN))
