"""The kernels. They know tiles and pointers; ``ops`` knows when to launch which, ``layout`` how words are filled.

Alphabet: N output features, K input features, G groups, P rows of a plane, BM rows and BN outputs of a tile; T rows,
A experts chosen for each, C = T * A choices, E experts.

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
def _count_in(numbers, COUNT: tl.constexpr):
    """Return ``numbers`` in as many bits as it takes to count ``COUNT`` values: 64 where 32 do not reach."""
    return numbers.to(tl.int64) if COUNT >= 2**31 else numbers


@triton.jit
def _multiply_packed(
    x, row_offsets, words, scales, zeros, order, outs, part,
    NUM_IN: tl.constexpr, NUM_OUT: tl.constexpr, BITS: tl.constexpr, GROUP_SIZE: tl.constexpr, PLANE: tl.constexpr,
    NUM_PARTS: tl.constexpr, DOT: tl.constexpr, HALF: tl.constexpr, PTX: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Product [BN, BM] over the spans of one part of K."""
    slots: tl.constexpr = _num_slots(BITS)
    span_inputs: tl.constexpr = slots * PLANE
    num_spans: tl.constexpr = (NUM_IN + span_inputs - 1) // span_inputs
    spans_per_part: tl.constexpr = (num_spans + NUM_PARTS - 1) // NUM_PARTS
    last_group: tl.constexpr = (NUM_IN + GROUP_SIZE - 1) // GROUP_SIZE - 1
    lanes = tl.arange(0, PLANE)
    word_lanes = _count_in(lanes, num_spans * PLANE * NUM_OUT)
    sums = tl.zeros((BLOCK_N, BLOCK_M), dtype=tl.float32)
    first_span = part * spans_per_part
    for span in range(first_span, tl.minimum(first_span + spans_per_part, num_spans)):
        tile = _load_words(words, span * PLANE + word_lanes, outs, NUM_OUT)  # [BN, P]
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
    x, row_offsets, data, outs, part,
    NUM_IN: tl.constexpr, NUM_OUT: tl.constexpr, NUM_PARTS: tl.constexpr,
    DOT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Product [BN, BM] over the input features of one part of K."""
    num_blocks: tl.constexpr = (NUM_IN + BLOCK_K - 1) // BLOCK_K
    blocks_per_part: tl.constexpr = (num_blocks + NUM_PARTS - 1) // NUM_PARTS
    lanes = tl.arange(0, BLOCK_K)
    is_out = (outs < NUM_OUT)[:, None]
    rows_of_data = _count_in(outs, NUM_OUT * NUM_IN)
    sums = tl.zeros((BLOCK_N, BLOCK_M), dtype=tl.float32)
    first_block = part * blocks_per_part
    for block in range(first_block, tl.minimum(first_block + blocks_per_part, num_blocks)):
        features = block * BLOCK_K + lanes
        is_stored = is_out if NUM_IN % BLOCK_K == 0 else is_out & (features < NUM_IN)[None, :]
        values = tl.load(data + rows_of_data[:, None] * NUM_IN + features[None, :], mask=is_stored, other=0.0)
        inputs = _load_inputs(x, row_offsets, None, features, NUM_IN, NUM_IN % BLOCK_K == 0)
        sums = tl.dot(values.to(DOT), inputs.to(DOT), sums, input_precision="ieee")
    return sums


@triton.jit
def _load_choices(slots, choices, num_choices, NUM_EXPERTS: tl.constexpr):
    """Load the expert of each of ``choices``; NUM_EXPERTS stands for none."""
    experts = tl.load(slots + choices, mask=choices < num_choices, other=-1).to(tl.int32)
    return tl.where((experts >= 0) & (experts < NUM_EXPERTS), experts, NUM_EXPERTS)


@triton.jit
def _count_choices(slots, num_choices, NUM_EXPERTS: tl.constexpr, EXPERTS: tl.constexpr, CHUNK: tl.constexpr):
    """Count the choices of each expert: [EXPERTS], more than there are experts."""
    counts = tl.zeros((EXPERTS,), dtype=tl.int32)
    for first in range(0, num_choices, CHUNK):
        choices = first + tl.arange(0, CHUNK)
        counts += tl.histogram(_load_choices(slots, choices, num_choices, NUM_EXPERTS), EXPERTS)
    return counts


@triton.jit
def _place_choices(
    slots, rows, positions, expert, position, num_choices,
    NUM_CHOSEN: tl.constexpr, NUM_EXPERTS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Give the choices of ``expert`` the positions from ``position`` on; those of no expert get -1."""
    for first in range(0, num_choices, CHUNK):
        choices = first + tl.arange(0, CHUNK)
        experts = _load_choices(slots, choices, num_choices, NUM_EXPERTS)
        is_mine = (experts == expert) & (choices < num_choices)
        places = position + tl.cumsum(is_mine.to(tl.int32), 0) - 1
        tl.store(positions + choices, tl.where(expert < NUM_EXPERTS, places, -1), mask=is_mine)
        tl.store(rows + places, choices // NUM_CHOSEN, mask=is_mine & (expert < NUM_EXPERTS))
        position += tl.sum(is_mine.to(tl.int32))


@triton.jit
def _store_tiles(
    tiles, expert, first_tile, end_tile, position, end_position, BLOCK_M: tl.constexpr, CHUNK: tl.constexpr
):  # fmt: skip
    """Make the tiles from ``first_tile`` to ``end_tile`` those of ``expert``, whose choices begin at ``position``."""
    for first in range(first_tile, end_tile, CHUNK):
        numbers = first + tl.arange(0, CHUNK)
        is_tile = numbers < end_tile
        tl.store(tiles + 3 * numbers, expert, mask=is_tile)
        tl.store(tiles + 3 * numbers + 1, position + (numbers - first_tile) * BLOCK_M, mask=is_tile)
        tl.store(tiles + 3 * numbers + 2, end_position, mask=is_tile)


# Numbers of rows change with every call, here and below: no program of its own for 1 or for multiples of 16.
@triton.jit(do_not_specialize=["num_choices", "num_tiles"])
def schedule(
    slots, rows, positions, tiles, num_choices, num_tiles,
    NUM_CHOSEN: tl.constexpr, NUM_EXPERTS: tl.constexpr, EXPERTS: tl.constexpr,
    BLOCK_M: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Sort choices by expert, those of one expert by row, and cut each expert's into tiles of BLOCK_M.

    Grid: experts, and one program more for the choices of no expert and the tiles that are left over. ``slots`` [T, A]
    integers: the expert of each choice, or what is none. ``rows`` [C] int32 gets the row at each position of the order,
    ``positions`` [T, A] int32 the position of each choice or -1, ``tiles`` [tiles, 3] int32 expert (or -1: no tile),
    first position, position after the expert's last. EXPERTS is a power of two above NUM_EXPERTS.
    """
    expert = tl.program_id(0)
    counts = _count_choices(slots, num_choices, NUM_EXPERTS, EXPERTS, CHUNK)
    num_tiles_of = tl.cdiv(counts, BLOCK_M)
    before = tl.arange(0, EXPERTS) < expert
    until = tl.arange(0, EXPERTS) <= expert
    position = tl.sum(tl.where(before, counts, 0))
    _place_choices(slots, rows, positions, expert, position, num_choices, NUM_CHOSEN, NUM_EXPERTS, CHUNK)
    first_tile = tl.sum(tl.where(before, num_tiles_of, 0))
    if expert < NUM_EXPERTS:
        end_tile = tl.sum(tl.where(until, num_tiles_of, 0))
        end_position = tl.sum(tl.where(until, counts, 0))
        _store_tiles(tiles, expert, first_tile, end_tile, position, end_position, BLOCK_M, EXPERTS)
    else:
        _store_tiles(tiles, -1, first_tile, num_tiles, position, position, BLOCK_M, EXPERTS)


@triton.jit(do_not_specialize=["num_positions"])
def grouped_linear(
    x, rows, weights, scales, zeros, order, bias, tiles, y, num_positions,
    NUM_IN: tl.constexpr, NUM_OUT: tl.constexpr, NUM_WORDS: tl.constexpr, NUM_GROUPS: tl.constexpr,
    BITS: tl.constexpr, GROUP_SIZE: tl.constexpr, PLANE: tl.constexpr, SWIGLU: tl.constexpr, DOT: tl.constexpr,
    HALF: tl.constexpr, PTX: tl.constexpr, NUM_PARTS: tl.constexpr, PARTS_PER_PROGRAM: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Multiply each tile of rows by its expert's matrix.

    Grid: tiles of rows, tiles of outputs, and NUM_PARTS parts of K by PARTS_PER_PROGRAM, one or all. ``rows``
    [positions] int32 says which row of ``x`` is at each position; None: that one. ``tiles`` as ``schedule`` makes them;
    None: there is one expert, and all positions are its. ``y`` is [programs per tile, positions, N], a sum each; with
    SWIGLU it is [1, positions, N/2] and outputs 2f and 2f + 1 are gate and up of feature f. ``bias`` [E, N] is added to
    the first part; it may be None. BITS = 0 means dense weights. HALF is the 16-bit dtype to unpack in, or None for
    float32; PTX says whether instructions of NVIDIA's may be used to do so.
    """
    if tiles is None:
        expert = 0
        first = tl.program_id(0).to(tl.int64) * BLOCK_M
        end = num_positions
    else:
        tile = tiles + 3 * tl.program_id(0)
        expert = tl.load(tile).to(tl.int64)
        first = tl.load(tile + 1).to(tl.int64)
        end = tl.load(tile + 2)
        if expert < 0:
            return
    outs = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    # Positions past the expert's last repeat it, so that loads need no mask; they are not stored.
    places = tl.minimum(tl.arange(0, BLOCK_M), (end - 1 - first).to(tl.int32))
    if rows is None:
        x += first * NUM_IN
        row_offsets = places * NUM_IN
    else:
        row_offsets = tl.load(rows + first + places) * NUM_IN
    sums = tl.zeros((BLOCK_N, BLOCK_M), dtype=tl.float32)
    for number in range(PARTS_PER_PROGRAM):
        part = tl.program_id(2) * PARTS_PER_PROGRAM + number
        if BITS == 0:
            data = weights + expert * NUM_OUT * NUM_IN
            product = _multiply_dense(
                x, row_offsets, data, outs, part, NUM_IN, NUM_OUT, NUM_PARTS, DOT, BLOCK_M, BLOCK_N, BLOCK_K
            )  # fmt: skip
        else:
            words = weights + expert * NUM_WORDS * NUM_OUT
            first_group = expert * NUM_GROUPS * NUM_OUT
            expert_order = order
            if order is not None:
                expert_order = order + expert * NUM_IN
            product = _multiply_packed(
                x, row_offsets, words, scales + first_group, zeros + first_group, expert_order, outs, part,
                NUM_IN, NUM_OUT, BITS, GROUP_SIZE, PLANE, NUM_PARTS, DOT, HALF, PTX, BLOCK_M, BLOCK_N,
            )  # fmt: skip
        if bias is not None:
            added = tl.load(bias + expert * NUM_OUT + outs, mask=(outs < NUM_OUT) & (part == 0), other=0.0)
            product += added[:, None]
        sums += product
    results = tl.trans(sums)  # [BM, BN]
    num_columns: tl.constexpr = NUM_OUT // 2 if SWIGLU else NUM_OUT
    columns = outs
    if SWIGLU:
        gate, up = tl.split(tl.reshape(results, (BLOCK_M, BLOCK_N // 2, 2)))
        results = gate / (1 + tl.exp(-gate)) * up
        columns = tl.program_id(1) * (BLOCK_N // 2) + tl.arange(0, BLOCK_N // 2)
    is_place = first + tl.arange(0, BLOCK_M) < end
    stored = (
        y
        + (tl.program_id(2) * num_positions + first) * num_columns
        + (places[:, None] * num_columns + columns[None, :])
    )
    tl.store(stored, results.to(y.dtype.element_ty), mask=is_place[:, None] & (columns < num_columns)[None, :])


@triton.jit
def _add_parts(parts, columns, is_stored, part_size, NUM_PARTS: tl.constexpr):
    """Add up, part by part, what lies at ``columns`` of each of the ``parts``, which are ``part_size`` values apart."""
    total = tl.load(parts + columns, mask=is_stored, other=0.0)
    for part in tl.static_range(1, NUM_PARTS):
        total += tl.load(parts + part * part_size + columns, mask=is_stored, other=0.0)
    return total


@triton.jit(do_not_specialize=["num_positions"])
def combine(
    parts, positions, weights, y, nonfinite, num_positions,
    NUM_PARTS: tl.constexpr, NUM_COLUMNS: tl.constexpr, NUM_CHOSEN: tl.constexpr, CHOSEN: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Add up the parts of each product, and for each row weight x product over its choices, by ascending position.

    Grid: rows, blocks of columns. ``parts`` [parts, positions, columns] float32; ``positions`` [T, A] int32 and
    ``weights`` [T, A] float32 are those of the choices, -1 for one that adds nothing; without them every row is the
    product at its own position. ``y`` [T, columns] of any float type. ``nonfinite`` [1] int32, which may be None, is
    set to 1 where a sum is NaN or infinite. CHOSEN is a power of two that holds NUM_CHOSEN.
    """
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_column = columns < NUM_COLUMNS
    part_size = num_positions.to(tl.int64) * NUM_COLUMNS
    if positions is None:
        total = _add_parts(parts + row * NUM_COLUMNS, columns, is_column, part_size, NUM_PARTS)
    else:
        choices = tl.arange(0, CHOSEN)
        places = tl.load(positions + row * NUM_CHOSEN + choices, mask=choices < NUM_CHOSEN, other=-1)
        row_weights = tl.load(weights + row * NUM_CHOSEN + choices, mask=choices < NUM_CHOSEN, other=0.0)
        total = tl.zeros((BLOCK,), dtype=tl.float32)
        last = -1
        for _ in tl.static_range(NUM_CHOSEN):
            # The next position of the row; past its last, num_positions, which is none.
            place = tl.min(tl.where(places > last, places, num_positions))
            weight = tl.sum(tl.where(places == place, row_weights, 0.0))
            product = parts + place.to(tl.int64) * NUM_COLUMNS
            total += weight * _add_parts(product, columns, is_column & (place < num_positions), part_size, NUM_PARTS)
            last = place
    if nonfinite is not None:
        tl.store(nonfinite, 1, mask=tl.max((~(tl.abs(total) < float("inf"))).to(tl.int32)) > 0)
    tl.store(y + row * NUM_COLUMNS + columns, total.to(y.dtype.element_ty), mask=is_column)


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
    num_spans: tl.constexpr = (NUM_IN + slots * PLANE - 1) // (slots * PLANE)
    word_rows = span * PLANE + _count_in(lanes, num_spans * PLANE * NUM_OUT)
    tile = _load_words(words, word_rows, outs, NUM_OUT)  # [BN, P]
    for slot in tl.static_range(slots):
        first_feature = (span * slots + slot) * PLANE
        if _starts_group(slot, slots, PLANE, GROUP_SIZE, NUM_IN):
            group = tl.minimum(first_feature // GROUP_SIZE, last_group)
            scale, zero = _load_affine(scales, zeros, group, outs, NUM_OUT)
        values = _unpack_wide(tile, scale, zero, slot, BITS)
        features = (first_feature + lanes)[None, :]
        stored = y + outs.to(tl.int64)[:, None] * NUM_IN + features
        tl.store(stored, values.to(y.dtype.element_ty), mask=is_out & (features < NUM_IN))
