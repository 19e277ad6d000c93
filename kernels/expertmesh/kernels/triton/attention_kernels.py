"""The attention kernels. They know tiles and pointers; ``attention`` knows when to launch which.

Alphabet: S sequences, T new tokens, B blocks of the longest sequence, H query heads, K key-value heads, d head
width; of a tile M rows (tokens x the query heads that share a key-value head), N keys, D features.

Sums have one order, whoever asks. Positions are dealt to the stripes, a span at a time from a multiple of the span on.
A stripe is summed up by itself, N keys at a time from a multiple of N on, then stripes are merged in their order. A
decode step gives each stripe a program; other steps walk over them. What a row does not see leaves its sums as they
are, to the bit: weights of 0 are added, and what is there is multiplied by 1. So a row's result depends on what it
sees, not on its tile or its batch. Launches forbid the compiler to fuse products and sums, which it could do in one
kernel and not in the other. Weights are added up by a product, too: a sum along registers has the order of a layout.
"""

from dataclasses import dataclass

import triton
import triton.language as tl

from expertmesh.kernels.triton.attention_tuning import AttentionTiles

# Below every score, and finite: infinite, its difference to itself would be NaN.
LOWEST = tl.constexpr(-3.0e38)
# Equal columns of the product that adds up weights: the fewest that tensor cores take.
NUM_ONES = tl.constexpr(16)


@dataclass(frozen=True)
class Heads:
    """The heads of a layer, ``width`` d each, and how they lie: strides are elements from one token to the next.

    ``sharing`` query heads share a key-value head; blocks of the cache have ``block_size`` tokens.
    """

    width: int
    sharing: int
    query_stride: int
    key_stride: int
    value_stride: int
    block_size: int


@dataclass(frozen=True)
class Plan:
    """What a program is compiled for.

    Products take operands of ``dot_dtype``; ``scale`` makes logarithms of base 2 of scores. Positions are dealt to
    ``num_stripes``, a ``span`` at a time.
    """

    heads: Heads
    tiles: AttentionTiles
    dot_dtype: tl.dtype
    scale: float
    span: int
    num_stripes: int

    @property
    def num_tokens(self) -> int:
        """Tokens of a tile."""
        return self.tiles.rows // self.rows_per_token

    @property
    def rows_per_token(self) -> int:
        """Rows of a tile for a token; a power of two."""
        return 1 << (self.heads.sharing - 1).bit_length()

    @property
    def num_slices(self) -> int:
        """Slices of a head in which queries and keys are multiplied."""
        return -(-self.heads.width // self.tiles.score_features)

    @property
    def num_parts(self) -> int:
        """Parts of a head that programs sum up."""
        return -(-self.heads.width // self.tiles.sum_features)

    @property
    def blocks_per_span(self) -> int:
        """Blocks of keys in a span."""
        return self.span // self.tiles.keys


@triton.jit
def _count_blocks(end, stripe, PLAN: tl.constexpr):
    """Count the key blocks of a stripe that begin before position ``end``."""
    rounds = end // (PLAN.span * PLAN.num_stripes)
    rest = end - (rounds * PLAN.num_stripes + stripe) * PLAN.span
    rest = tl.minimum(tl.maximum(rest, 0), PLAN.span)
    return rounds * PLAN.blocks_per_span + (rest + PLAN.tiles.keys - 1) // PLAN.tiles.keys


@triton.jit
def _has_any(start, end, stripe, PLAN: tl.constexpr):
    """Whether any of the positions ``start`` to ``end`` are in a stripe."""
    first_span = start // PLAN.span
    place = (stripe + PLAN.num_stripes - first_span % PLAN.num_stripes) % PLAN.num_stripes
    return place < tl.cdiv(end, PLAN.span) - first_span


@triton.jit
def _find_blocks(start, end, stripe, PLAN: tl.constexpr):
    """Return the range of the key blocks of a stripe that hold positions ``start`` to ``end``, neither negative."""
    return _count_blocks(start // PLAN.tiles.keys * PLAN.tiles.keys, stripe, PLAN), _count_blocks(end, stripe, PLAN)


@triton.jit
def _load_rows(start, offsets, is_row, features, PLAN: tl.constexpr):
    """Load the ``features`` of the rows at ``start`` + ``offsets``; 0 where there are none."""
    mask = is_row[:, None] & (features < PLAN.heads.width)[None, :]
    return tl.load(start + offsets[:, None] + features[None, :], mask=mask, other=0.0).to(PLAN.dot_dtype)


@triton.jit
def _load_query(query, offsets, is_row, PLAN: tl.constexpr):
    """Load the queries of a tile [M, D], if products take them whole."""
    if PLAN.num_slices == 1:
        return _load_rows(query, offsets, is_row, tl.arange(0, PLAN.tiles.score_features), PLAN)
    else:
        return None


@triton.jit
def _score(whole, query, offsets, is_row, keys, key_offsets, is_stored, PLAN: tl.constexpr):
    """Multiply the queries of a tile by the keys of a block; [M, N]."""
    scores = tl.full((PLAN.tiles.rows, PLAN.tiles.keys), 0.0, tl.float32)
    num_slices: tl.constexpr = PLAN.num_slices
    for index in tl.static_range(num_slices):
        features = index * PLAN.tiles.score_features + tl.arange(0, PLAN.tiles.score_features)
        part = whole
        if whole is None:
            part = _load_rows(query, offsets, is_row, features, PLAN)
        key = _load_rows(keys, key_offsets, is_stored, features, PLAN)
        scores = tl.dot(part, tl.trans(key), scores, input_precision="ieee")
    return scores


@triton.jit
def _attend_stripe(
    whole, query, offsets, positions, keys, values, features, table, length, window, start, end, stripe,
    PLAN: tl.constexpr,
):  # fmt: skip
    """Attend to positions ``start`` to ``end`` of a stripe.

    Rows at ``positions`` [M] see ``window`` positions up to their own, none if that is negative. Returns the highest
    score [M], the sum of weights [M] relative to it, and of weighted values [M, D] in the ``features`` [D].
    """
    is_row = positions >= 0
    ones = tl.full((PLAN.tiles.keys, NUM_ONES), 1.0, PLAN.dot_dtype)
    highest = tl.full((PLAN.tiles.rows,), LOWEST, tl.float32)
    totals = tl.full((PLAN.tiles.rows, NUM_ONES), 0.0, tl.float32)
    sums = tl.full((PLAN.tiles.rows, PLAN.tiles.sum_features), 0.0, tl.float32)
    first_block, end_block = _find_blocks(start, end, stripe, PLAN)
    for block in range(first_block, end_block):
        span = block // PLAN.blocks_per_span * PLAN.num_stripes + stripe
        places = span * PLAN.span + block % PLAN.blocks_per_span * PLAN.tiles.keys + tl.arange(0, PLAN.tiles.keys)
        # What was never written may be anything, and 0 times NaN is NaN.
        is_stored = places < length
        found = tl.load(table + places // PLAN.heads.block_size, mask=is_stored, other=0).to(tl.int64)
        slots = found * PLAN.heads.block_size + places % PLAN.heads.block_size
        scores = _score(whole, query, offsets, is_row, keys, slots * PLAN.heads.key_stride, is_stored, PLAN)
        ages = positions[:, None] - places[None, :]
        scores = tl.where((ages >= 0) & (ages < window), scores * PLAN.scale, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        weights = tl.exp2(scores - higher[:, None]).to(PLAN.dot_dtype)
        rescale = tl.exp2(highest - higher)[:, None]
        value = _load_rows(values, slots * PLAN.heads.value_stride, is_stored, features, PLAN)
        sums = tl.dot(weights, value, sums * rescale, input_precision="ieee")
        totals = tl.dot(weights, ones, totals * rescale, input_precision="ieee")
        highest = higher
    return highest, tl.max(totals, 1), sums


@triton.jit
def _merge(highest, total, sums, other_highest, other_total, other_sums):
    """Merge the sums of one more stripe into those of the stripes before it."""
    higher = tl.maximum(highest, other_highest)
    rescale, other_rescale = tl.exp2(highest - higher), tl.exp2(other_highest - higher)
    total = total * rescale + other_total * other_rescale
    sums = sums * rescale[:, None] + other_sums * other_rescale[:, None]
    return higher, total, sums


@triton.jit
def _attend_stripes(
    query, offsets, positions, keys, values, features, table, length, window, start, end, PLAN: tl.constexpr
):  # fmt: skip
    """Attend to positions ``start`` to ``end``; see ``_attend_stripe``."""
    whole = _load_query(query, offsets, positions >= 0, PLAN)
    highest = tl.full((PLAN.tiles.rows,), LOWEST, tl.float32)
    total = tl.full((PLAN.tiles.rows,), 0.0, tl.float32)
    sums = tl.full((PLAN.tiles.rows, PLAN.tiles.sum_features), 0.0, tl.float32)
    for stripe in range(tl.minimum(tl.cdiv(end, PLAN.span), PLAN.num_stripes)):
        other_highest, other_total, other_sums = _attend_stripe(
            whole, query, offsets, positions, keys, values, features, table, length, window, start, end, stripe, PLAN
        )
        highest, total, sums = _merge(highest, total, sums, other_highest, other_total, other_sums)
    return highest, total, sums


@triton.jit
def _store_averages(out, offsets, features, total, sums, is_row, PLAN: tl.constexpr):
    """Divide the sums of a tile by its weights and store them; 0 for rows that see nothing."""
    averages = sums / tl.where(total > 0, total, 1.0)[:, None]
    mask = is_row[:, None] & (features < PLAN.heads.width)[None, :]
    tl.store(out + offsets[:, None] + features[None, :], averages.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _find_head(PLAN: tl.constexpr):
    """Return the key-value head of this program, how many there are, and the features that it sums up."""
    index = tl.program_id(1)
    features = index % PLAN.num_parts * PLAN.tiles.sum_features + tl.arange(0, PLAN.tiles.sum_features)
    return index // PLAN.num_parts, tl.num_programs(1) // PLAN.num_parts, features


@triton.jit
def _first_seen(position, window):
    return tl.maximum(position + 1 - window, 0)


@triton.jit(do_not_specialize=["table_width", "window"])
def attend_split(
    query, keys, values, tables, lengths, highests, totals, sums, table_width, window, PLAN: tl.constexpr
):  # fmt: skip
    """Attend from the last token of each sequence to one stripe. Grid: sequences, key-value heads x parts, stripes R.

    ``highests`` and ``totals`` [S, H, R] and ``sums`` [S, H, R, d] are written where there is anything to see.
    """
    sequence, stripe = tl.program_id(0), tl.program_id(2)
    kv_head, num_kv_heads, features = _find_head(PLAN)
    length = tl.load(lengths + sequence)
    start = _first_seen(length - 1, window)
    if _has_any(start, length, stripe, PLAN):
        rows = tl.arange(0, PLAN.tiles.rows)
        is_row = rows < PLAN.heads.sharing
        head = kv_head * PLAN.heads.sharing + rows
        query += sequence.to(tl.int64) * PLAN.heads.query_stride
        offsets = head * PLAN.heads.width
        highest, total, found = _attend_stripe(
            _load_query(query, offsets, is_row, PLAN), query, offsets, tl.where(is_row, length - 1, -1),
            keys + kv_head * PLAN.heads.width, values + kv_head * PLAN.heads.width, features,
            tables + sequence.to(tl.int64) * table_width, length, window, start, length, stripe, PLAN,
        )  # fmt: skip
        part = (sequence.to(tl.int64) * num_kv_heads * PLAN.heads.sharing + head) * tl.num_programs(2) + stripe
        tl.store(highests + part, highest, mask=is_row)
        tl.store(totals + part, total, mask=is_row)
        mask = is_row[:, None] & (features < PLAN.heads.width)[None, :]
        tl.store(sums + part[:, None] * PLAN.heads.width + features[None, :], found, mask=mask)


@triton.jit(do_not_specialize=["window"])
def combine_splits(
    lengths, highests, totals, sums, out, window, NUM_SPLITS: tl.constexpr, PLAN: tl.constexpr
):  # fmt: skip
    """Merge what ``attend_split`` has written for NUM_SPLITS stripes. Grid: sequences, key-value heads x parts.

    ``out`` is [S, H, d].
    """
    sequence = tl.program_id(0)
    kv_head, num_kv_heads, features = _find_head(PLAN)
    length = tl.load(lengths + sequence)
    start = _first_seen(length - 1, window)
    rows = tl.arange(0, PLAN.tiles.rows)
    is_row = rows < PLAN.heads.sharing
    mask = is_row[:, None] & (features < PLAN.heads.width)[None, :]
    head = (sequence.to(tl.int64) * num_kv_heads + kv_head) * PLAN.heads.sharing + rows
    highest = tl.full((PLAN.tiles.rows,), LOWEST, tl.float32)
    total = tl.full((PLAN.tiles.rows,), 0.0, tl.float32)
    found = tl.full((PLAN.tiles.rows, PLAN.tiles.sum_features), 0.0, tl.float32)
    # Unrolled and without branches: no load waits for those of the stripe before.
    for stripe in tl.static_range(NUM_SPLITS):
        is_written = _has_any(start, length, stripe, PLAN)
        part = head * NUM_SPLITS + stripe
        other_highest = tl.load(highests + part, mask=is_row & is_written, other=LOWEST)
        other_total = tl.load(totals + part, mask=is_row & is_written, other=0.0)
        pointers = sums + part[:, None] * PLAN.heads.width + features[None, :]
        other = tl.load(pointers, mask=mask & is_written, other=0.0)
        highest, total, found = _merge(highest, total, found, other_highest, other_total, other)
    _store_averages(out, head * PLAN.heads.width, features, total, found, is_row, PLAN)


@triton.jit
def _find_sequence(first_rows, tile, num_sequences, PLAN: tl.constexpr):
    """Return the sequence of a tile; ``num_sequences`` stands for the padding behind the last one.

    Tiles of a sequence have numbers from its first row // tokens of a tile + sequence on: that leaves enough for those
    before it. Numbers that are left over lie behind the tokens of their sequence.
    """
    low, high = 0, num_sequences
    while low < high:
        middle = (low + high + 1) // 2
        is_reached = tl.load(first_rows + middle) // PLAN.num_tokens + middle <= tile
        low = tl.where(is_reached, middle, low)
        high = tl.where(is_reached, high, middle - 1)
    return low


@triton.jit(do_not_specialize=["table_width", "num_sequences", "num_tokens", "window"])
def attend_tiles(
    query, keys, values, tables, lengths, first_rows, out, table_width, num_sequences, num_tokens, window,
    PLAN: tl.constexpr,
):  # fmt: skip
    """Attend from tiles of tokens of one sequence.

    Grid: T // tokens of a tile + S + 1, key-value heads x parts. ``out`` is [T, H, d].
    """
    # The last tokens of a prompt see most: they begin first, so that none of them is left for the end.
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    kv_head, num_kv_heads, features = _find_head(PLAN)
    sequence = _find_sequence(first_rows, tile, num_sequences, PLAN)
    is_padding = sequence == num_sequences
    first_row = tl.load(first_rows + sequence)
    end_row = tl.load(first_rows + sequence + 1, mask=not is_padding, other=num_tokens)
    length = tl.load(lengths + sequence, mask=not is_padding, other=0)
    first_token = first_row + (tile - first_row // PLAN.num_tokens - sequence) * PLAN.num_tokens
    if first_token < end_row:
        rows = tl.arange(0, PLAN.tiles.rows)
        token, head = rows // PLAN.rows_per_token, rows % PLAN.rows_per_token
        is_row = (head < PLAN.heads.sharing) & (token < end_row - first_token)
        # Of the first token; of one of a sequence without positions it is negative, so nothing is seen.
        position = length - end_row + first_token
        head += kv_head * PLAN.heads.sharing
        query += first_token.to(tl.int64) * PLAN.heads.query_stride
        offsets = token * PLAN.heads.query_stride + head * PLAN.heads.width
        highest, total, sums = _attend_stripes(
            query, offsets, tl.where(is_row, position + token, -1), keys + kv_head * PLAN.heads.width,
            values + kv_head * PLAN.heads.width, features, tables + sequence.to(tl.int64) * table_width, length, window,
            _first_seen(position, window), tl.maximum(tl.minimum(position + PLAN.num_tokens, length), 0), PLAN,
        )  # fmt: skip
        token_stride = num_kv_heads * PLAN.heads.sharing * PLAN.heads.width
        out += first_token.to(tl.int64) * token_stride
        _store_averages(out, token * token_stride + head * PLAN.heads.width, features, total, sums, is_row, PLAN)
