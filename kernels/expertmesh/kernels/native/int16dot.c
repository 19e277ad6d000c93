/* Kernels for rows of 16-bit integers: nearly as exact as float32. Knows x86 vectors; dot.h says what surrounds them.

   A block's sum is exact in int32: 128 * 255 * 32767 < 2^31.

   Each half of a 32-bit word of packed codes holds codes of `bits` each: the even features of its chunk, and the odd
   ones. So (words >> bits * j) & mask is a vector of feature pairs, as the multiply-add instruction takes. */

#include "dot.h"

/* Rows of a kernel that unpacks codes on the way; four leave AVX2 the registers for that. */
#if LANES == 16
#define MAX_DIRECT_ROWS MAX_PASS_ROWS
#define FOR_DIRECT(do, x) FOR_PASSES(do, x)
#else
#define MAX_DIRECT_ROWS 4
#define FOR_DIRECT(do, x) FOR_4_ROWS(do, x)
#endif

static inline int codes_per_half(int bits) { return 16 / bits; }

static ALWAYS_INLINE void pack_chunks(const uint8_t *codes, const int bits, int64_t num_chunks, uint32_t *words) {
    for (int64_t chunk = 0; chunk < num_chunks; chunk++, codes += chunk_features(bits)) {
        uint32_t word = 0;
#pragma GCC unroll 8
        for (int j = 0; j < codes_per_half(bits); j++)
            word |= (uint32_t)codes[2 * j] << bits * j | (uint32_t)codes[2 * j + 1] << (16 + bits * j);
        words[chunk * TILE] = word;
    }
}

/* Gather the low 4 bits of four 16-bit fields. */
static inline uint32_t gather_nibbles(uint64_t fields) {
    fields &= 0x000f000f000f000full;
    return (uint32_t)(fields | fields >> 12 | fields >> 24 | fields >> 36) & 0xffff;
}

/* Do the same for 4 bits, eight codes at once: in a third of the time. */
static void pack_nibbles(const uint8_t *codes, int64_t num_chunks, uint32_t *words) {
    for (int64_t chunk = 0; chunk < num_chunks; chunk++) {
        uint64_t eight;
        memcpy(&eight, codes + 8 * chunk, sizeof eight);
        words[chunk * TILE] = gather_nibbles(eight) | gather_nibbles(eight >> 8) << 16;
    }
}

static void pack(const uint8_t *codes, int bits, int64_t num_chunks, uint32_t *words) {
    if (bits == 2) pack_chunks(codes, 2, num_chunks, words);
    if (bits == 3) pack_chunks(codes, 3, num_chunks, words);
    if (bits == 4) pack_nibbles(codes, num_chunks, words);
    if (bits == 8) pack_chunks(codes, 8, num_chunks, words);
}

/* From a row of fields to the even ones, then the odd ones: ever larger neighbours change places. */
static ALWAYS_INLINE void arrange_words(uint32_t *words, int64_t num_words, const int bits) {
    for (int64_t i = 0; i < num_words; i++) {
        uint32_t word = words[i];
        if (bits == 2) word = swap_fields(word, 2, 0x0c0c0c0c);
        if (bits <= 4) word = swap_fields(word, 4, 0x00f000f0);
        words[i] = swap_fields(word, 8, 0x0000ff00);
    }
}

static void arrange(uint32_t *words, int64_t num_words, int bits) {
    if (bits == 2) arrange_words(words, num_words, 2);
    if (bits == 4) arrange_words(words, num_words, 4);
    if (bits == 8) arrange_words(words, num_words, 8);
}

/* Bytes of a plane: the low or the high bytes of a row, up to whole rows of AMX's tiles. */
static inline int64_t plane_bytes(int64_t block_size) { return divide_up(block_size, TILE_ROW_BYTES) * TILE_ROW_BYTES; }

static int64_t row_bytes(int64_t block_size, int form) {
    return form == FOR_TILES ? 2 * plane_bytes(block_size) : 2 * block_size;
}

/* Split a row into its low bytes, unsigned, and its high ones, signed; of four features the middle ones change places,
   as they do in unpack_bytes. */
static void split_bytes(const int16_t *values, int64_t block_size, char *low) {
    const int64_t plane = plane_bytes(block_size);
    char *high = low + plane;
    memset(low, 0, 2 * plane);
    for (int64_t i = 0; i < block_size; i++) {
        const int64_t place = i / 4 * 4 + (int64_t[]){0, 2, 1, 3}[i % 4];
        low[place] = (char)(values[i] & 0xff);
        high[place] = (char)(values[i] >> 8);
    }
}

static void quantize(const float *x, int64_t block_size, int form, char *values, float *scales, char *sum) {
    int32_t total;
    int16_t rounded[MAX_BLOCK];
    *scales = round_values(x, block_size, 2, form == FOR_TILES ? (char *)rounded : values, &total);
    memcpy(sum, &total, sizeof total);
    if (form == FOR_TILES) split_bytes(rounded, block_size, values);
}

static ALWAYS_INLINE float sum_of_row(const block_t *block, int64_t row) {
    return block->row_scales[row] * (float)((const int32_t *)block->row_sums)[row];
}

static void add_offsets(const run_t *run, int64_t num_rows) { add_offsets_by(run, num_rows, sum_of_row); }

static ALWAYS_INLINE ints unpack_pairs(ints words, int bits, int j) {
    const ints shifted = j ? shift_words(words, bits * j) : words;
    return bits * (j + 1) == 16 ? shifted : and_ints(shifted, same_words((int16_t)((1 << bits) - 1)));
}

static ALWAYS_INLINE ints subtract_zeros(ints products, ints zeros, int32_t row_sum) {
    return subtract_ints(products, multiply_ints(zeros, same_ints(row_sum)));
}

static ALWAYS_INLINE floats add_scaled(floats sum, ints products, floats scales, float row_scale) {
    return multiply_add_floats(floats_of_ints(products), multiply_floats(scales, same_floats(row_scale)), sum);
}

/* Codes of 16 bits are those of a panel: zeros are subtracted already. */
static ALWAYS_INLINE void add_block(const block_t *block, const int bits, const int num_rows) {
    const int per_half = 16 / bits;
    ints sums[MAX_PASS_ROWS][HALVES];
#pragma GCC unroll 16
    for (int row = 0; row < num_rows; row++) sums[row][0] = sums[row][1] = zero_ints();
    const uint32_t *codes = block->codes;
    const int16_t *values = (const int16_t *)block->values;
    const int64_t row_values = block->row_bytes / 2;
    for (int64_t chunk = 0; chunk < block->num_chunks; chunk++, codes += TILE, values += 2 * per_half) {
        if (bits != 16) prefetch_codes(codes);
        const ints first = load_codes(codes, num_rows), second = load_codes(codes + LANES, num_rows);
#pragma GCC unroll 8
        for (int j = 0; j < per_half; j++) {
            const ints pairs[HALVES] = {unpack_pairs(first, bits, j), unpack_pairs(second, bits, j)};
#pragma GCC unroll 16
            for (int row = 0; row < num_rows; row++) {
                int32_t pair;
                memcpy(&pair, values + row * row_values + 2 * j, sizeof pair);
                sums[row][0] = add_pair_products(sums[row][0], pairs[0], same_ints(pair));
                sums[row][1] = add_pair_products(sums[row][1], pairs[1], same_ints(pair));
                needed_now(sums[row]);
            }
        }
    }
    /* In locals: the compiler must assume that sums overwrite the block. */
    const float *row_scales = block->row_scales;
    const int32_t *row_sums = (const int32_t *)block->row_sums;
    floats *sum = block->sums;
    const ints zeros[HALVES] = {block->zeros[0], block->zeros[1]};
    const floats scales[HALVES] = {block->scales[0], block->scales[1]};
#pragma GCC unroll 16
    for (int row = 0; row < num_rows; row++)
#pragma GCC unroll 8
        for (int half = 0; half < HALVES; half++, sum++) {
            const ints products =
                bits == 16 ? sums[row][half] : subtract_zeros(sums[row][half], zeros[half], row_sums[row]);
            *sum = add_scaled(*sum, products, scales[half], row_scales[row]);
        }
}

FOR_DIRECT(KERNEL, 2) FOR_DIRECT(KERNEL, 3) FOR_DIRECT(KERNEL, 4) FOR_DIRECT(KERNEL, 8) FOR_PASSES(KERNEL, 16)
RUNNERS(2) RUNNERS(3) RUNNERS(4) RUNNERS(8)

static kernel_t kernel_of(int bits, int64_t num_rows) {
    static const kernel_t kernels[][MAX_PASS_ROWS + 1] = {[2] = {FOR_DIRECT(NAME, 2)},
                                                          [3] = {FOR_DIRECT(NAME, 3)},
                                                          [4] = {FOR_DIRECT(NAME, 4)},
                                                          [8] = {FOR_DIRECT(NAME, 8)},
                                                          [16] = {FOR_PASSES(NAME, 16)}};
    return kernels[bits][num_rows];
}

static runner_t runner_of(int bits, int64_t num_rows) {
    static const runner_t runners[][MAX_RUN_ROWS] = {
        [2] = RUNNER_NAMES(2), [3] = RUNNER_NAMES(3), [4] = RUNNER_NAMES(4), [8] = RUNNER_NAMES(8)};
    return runners[bits][num_rows - 1];
}

static ALWAYS_INLINE void widen(const uint32_t *codes, int64_t num_chunks, const int bits, const ints zeros[HALVES],
                                uint32_t *panel) {
    for (int64_t chunk = 0; chunk < num_chunks; chunk++, codes += TILE) {
        prefetch_codes(codes);
        const ints first = load_ints(codes), second = load_ints(codes + LANES);
#pragma GCC unroll 8
        for (int j = 0; j < 16 / bits; j++, panel += TILE) {
            store_ints(panel, subtract_words(unpack_pairs(first, bits, j), zeros[0]));
            store_ints(panel + LANES, subtract_words(unpack_pairs(second, bits, j), zeros[1]));
        }
    }
}

/* Widen the codes of a block to 16 bits each, less their zeros: the same layout with bits = 16. */
static ALWAYS_INLINE void unpack_words(const uint32_t *codes, int64_t num_chunks, int bits, const ints zeros[HALVES],
                                       uint32_t *panel) {
    if (bits == 2) widen(codes, num_chunks, 2, zeros, panel);
    if (bits == 3) widen(codes, num_chunks, 3, zeros, panel);
    if (bits == 4) widen(codes, num_chunks, 4, zeros, panel);
    if (bits == 8) widen(codes, num_chunks, 8, zeros, panel);
}

static void unpack(const uint32_t *codes, int64_t num_chunks, int bits, const ints zeros[HALVES], uint32_t *panel) {
    const ints pairs[HALVES] = {or_ints(zeros[0], shift_ints_left(zeros[0], 16)),
                                or_ints(zeros[1], shift_ints_left(zeros[1], 16))};
    unpack_words(codes, num_chunks, bits, pairs, panel);
}

#if HAS_TILES
/* Two vectors of pairs, of the features 0 1 and 2 3, become one of bytes: 0 2 1 3. */
static void unpack_bytes(const uint32_t *codes, int64_t num_chunks, int bits, uint32_t *panel) {
    uint32_t pairs[MAX_BLOCK_BYTES / 2 * TILE] __attribute__((aligned(64)));
    const int64_t num_pairs = num_chunks * (16 / bits), num_words = plane_bytes(2 * num_pairs) / 4 * TILE;
    unpack_words(codes, num_chunks, bits, (ints[HALVES]){zero_ints(), zero_ints()}, pairs);
    memset(pairs + num_pairs * TILE, 0, (2 * num_words - num_pairs * TILE) * sizeof(uint32_t));
    const uint32_t *from = pairs;
    for (int64_t at = 0; at < num_words; at += TILE, from += 2 * TILE)
        for (int lane = 0; lane < TILE; lane += LANES) {
            const ints second = shift_ints_left(load_ints(from + TILE + lane), 8);
            store_ints(panel + at + lane, or_ints(load_ints(from + lane), second));
        }
}

/* A row is 256 times its high bytes plus its low ones. The products of both are exact, and so is their sum. */
static void add_tiles(const block_t *block, int64_t num_rows) {
    const int64_t row_bytes = block->row_bytes, plane = row_bytes / 2, stride = TILE * sizeof(uint32_t);
    int32_t low[TILE_ROWS][TILE] __attribute__((aligned(64))), high[TILE_ROWS][TILE] __attribute__((aligned(64)));
    for (int64_t first = 0; first < num_rows; first += TILE_ROWS) {
        const char *values = block->values + first * row_bytes;
        tile_zero(C0);
        tile_zero(C1);
        tile_zero(C2);
        tile_zero(C3);
        for (int64_t at = 0; at < plane; at += TILE_ROW_BYTES) {
            const uint32_t *codes = block->codes + at / 4 * TILE;
            tile_load(A0, values + at, row_bytes);
            tile_load(A1, values + plane + at, row_bytes);
            tile_load(B0, codes, stride);
            tile_load(B1, codes + LANES, stride);
            tile_add_bytes(C0, A0, B0);
            tile_add_bytes(C1, A0, B1);
            tile_add_signed_bytes(C2, A1, B0);
            tile_add_signed_bytes(C3, A1, B1);
        }
        tile_store(C0, low[0], stride);
        tile_store(C1, low[0] + LANES, stride);
        tile_store(C2, high[0], stride);
        tile_store(C3, high[0] + LANES, stride);
        const int64_t left = num_rows - first, end = first + (left < TILE_ROWS ? left : TILE_ROWS);
        for (int64_t row = first; row < end; row++)
            for (int half = 0; half < HALVES; half++) {
                const int32_t *low_half = low[row - first] + half * LANES, *high_half = high[row - first] + half * LANES;
                const ints products = add_ints(shift_ints_left(load_ints(high_half), 8), load_ints(low_half));
                floats *sum = block->sums + row * HALVES + half;
                const int32_t row_sum = ((const int32_t *)block->row_sums)[row];
                *sum = add_scaled(*sum, subtract_zeros(products, block->zeros[half], row_sum), block->scales[half],
                                  block->row_scales[row]);
            }
    }
}
#endif

const precision_t int16dot = {
    .tile_bytes = TILE_ROW_BYTES,
    .min_tiled_rows = 6,
    .max_direct_rows = LANES == 16 ? 24 : 16, /* beyond, to unpack first pays: 89 cycles a row of AVX2 instead of 97 */
    .direct_kernel_rows = MAX_DIRECT_ROWS,
    .panel_kernel_rows = MAX_PASS_ROWS,
    .row_bytes = row_bytes,
    .pack = pack,
    .arrange = arrange,
    .quantize = quantize,
    .unpack = unpack,
    .add_offsets = add_offsets,
    .kernel_of = kernel_of,
    .runner_of = runner_of,
#if HAS_TILES
    .unpack_bytes = unpack_bytes,
    .add_tiles = add_tiles,
#endif
};
