/* Kernels for rows of 16-bit integers: nearly as exact as float32. Knows x86 vectors; dot.h says what surrounds them.

   A block's sum is exact in int32: 128 * 255 * 32767 < 2^31.

   Each half of a 32-bit word of packed codes holds codes of `bits` each: the even features of its chunk, and the odd
   ones. So (words >> bits * j) & mask is a vector of feature pairs, as the multiply-add instruction takes. */

#include "dot.h"

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

static void quantize(const float *x, int64_t block_size, char *values, float *scales, char *sum) {
    int32_t total;
    *scales = round_values(x, block_size, 2, values, &total);
    memcpy(sum, &total, sizeof total);
}

static ALWAYS_INLINE ints unpack_pairs(ints words, int bits, int j) {
    const ints shifted = j ? shift_words(words, bits * j) : words;
    return bits * (j + 1) == 16 ? shifted : and_ints(shifted, same_words((int16_t)((1 << bits) - 1)));
}

static ALWAYS_INLINE void add_block(const block_t *block, const int bits, const int num_rows) {
    const int per_half = 16 / bits;
    ints sums[MAX_KERNEL_ROWS][HALVES];
#pragma GCC unroll 8
    for (int row = 0; row < num_rows; row++) sums[row][0] = sums[row][1] = zero_ints();
    const uint32_t *codes = block->codes;
    const int16_t *values = (const int16_t *)block->values;
    for (int64_t chunk = 0; chunk < block->num_chunks; chunk++, codes += TILE, values += 2 * per_half) {
        if (bits != 16) prefetch_codes(codes);
        const ints first = load_codes(codes, num_rows), second = load_codes(codes + LANES, num_rows);
#pragma GCC unroll 8
        for (int j = 0; j < per_half; j++) {
            const ints pairs[HALVES] = {unpack_pairs(first, bits, j), unpack_pairs(second, bits, j)};
#pragma GCC unroll 8
            for (int row = 0; row < num_rows; row++) {
                int32_t pair;
                memcpy(&pair, values + row * block->block_size + 2 * j, sizeof pair);
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
#pragma GCC unroll 8
    for (int row = 0; row < num_rows; row++)
#pragma GCC unroll 8
        for (int half = 0; half < HALVES; half++, sum++) {
            const ints shift = multiply_ints(zeros[half], same_ints(row_sums[row]));
            const floats scale = multiply_floats(scales[half], same_floats(row_scales[row]));
            *sum = multiply_add_floats(floats_of_ints(subtract_ints(sums[row][half], shift)), scale, *sum);
        }
}

KERNELS(2) KERNELS(3) KERNELS(4) KERNELS(8) KERNELS(16) KERNEL(16, 5) KERNEL(16, 6)
RUNNERS(2) RUNNERS(3) RUNNERS(4) RUNNERS(8)

static kernel_t kernel_of(int bits, int64_t num_rows) {
    static const kernel_t packed[][PACKED_KERNEL_ROWS] = {
        [2] = NAMES(2), [3] = NAMES(3), [4] = NAMES(4), [8] = NAMES(8)};
    static const kernel_t panel[MAX_KERNEL_ROWS] = {add_block_16_1, add_block_16_2, add_block_16_3,
                                                    add_block_16_4, add_block_16_5, add_block_16_6};
    return bits == 16 ? panel[num_rows - 1] : packed[bits][num_rows - 1];
}

static runner_t runner_of(int bits, int64_t num_rows) {
    static const runner_t runners[][MAX_RUN_ROWS] = {
        [2] = RUNNER_NAMES(2), [3] = RUNNER_NAMES(3), [4] = RUNNER_NAMES(4), [8] = RUNNER_NAMES(8)};
    return runners[bits][num_rows - 1];
}

static ALWAYS_INLINE void widen(const uint32_t *codes, int64_t num_chunks, const int bits, uint32_t *panel) {
    for (int64_t chunk = 0; chunk < num_chunks; chunk++, codes += TILE) {
        const ints first = load_ints(codes), second = load_ints(codes + LANES);
#pragma GCC unroll 8
        for (int j = 0; j < 16 / bits; j++, panel += TILE) {
            store_ints(panel, unpack_pairs(first, bits, j));
            store_ints(panel + LANES, unpack_pairs(second, bits, j));
        }
    }
}

/* Widen the codes of a block to 16 bits each: the same layout with bits = 16. */
static void unpack(const uint32_t *codes, int64_t num_chunks, int bits, uint32_t *panel) {
    if (bits == 2) widen(codes, num_chunks, 2, panel);
    if (bits == 3) widen(codes, num_chunks, 3, panel);
    if (bits == 4) widen(codes, num_chunks, 4, panel);
    if (bits == 8) widen(codes, num_chunks, 8, panel);
}

const precision_t int16dot = {
    .value_bytes = 2,
    .max_direct_rows = 16, /* beyond, unpacking first pays: 89 cycles a row instead of 97, but 130 more in all */
    .pack = pack,
    .quantize = quantize,
    .unpack = unpack,
    .kernel_of = kernel_of,
    .runner_of = runner_of,
};
