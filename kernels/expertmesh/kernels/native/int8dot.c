/* Kernels for rows of 8-bit integers: for codes of up to 4 bits, twice the products per instruction. Knows x86 vectors;
   dot.h says what surrounds them.

   Every 32 features of a row have a scale of their own. Their products are exact in 16 bits: 8 * 2 * 15 * 127 < 2^15.

   Each byte of a 32-bit word of packed codes holds codes of `bits` each: byte b those of the features b, b + 4, ... of
   its chunk. So (words >> bits * j) & mask is a vector of four neighbouring features, as the instruction takes. */

#include "dot.h"

#define PART 32

static ALWAYS_INLINE void pack_chunks(const uint8_t *codes, const int bits, int64_t num_chunks, uint32_t *words) {
    for (int64_t chunk = 0; chunk < num_chunks; chunk++, codes += chunk_features(bits)) {
        uint32_t word = 0;
#pragma GCC unroll 16
        for (int i = 0; i < chunk_features(bits); i++) word |= (uint32_t)codes[i] << (i % 4 * 8 + i / 4 * bits);
        words[chunk * TILE] = word;
    }
}

static void pack(const uint8_t *codes, int bits, int64_t num_chunks, uint32_t *words) {
    if (bits == 2) pack_chunks(codes, 2, num_chunks, words);
    if (bits == 4) pack_chunks(codes, 4, num_chunks, words);
}

/* The sum is that of the rounded values, as a float. */
static void quantize(const float *x, int64_t block_size, char *values, float *scales, char *sum) {
    float sum_of_parts = 0.0f;
    for (int64_t part = 0; part < block_size / PART; part++) {
        int32_t total;
        scales[part] = round_values(x + part * PART, PART, 1, values + part * PART, &total);
        sum_of_parts += scales[part] * (float)total;
    }
    memcpy(sum, &sum_of_parts, sizeof sum_of_parts);
}

static ALWAYS_INLINE ints unpack_quads(ints words, int bits, int j) {
    const ints mask = same_words((int16_t)(((1 << bits) - 1) * 0x0101));
    return and_ints(j ? shift_words(words, bits * j) : words, mask);
}

static ALWAYS_INLINE void add_block(const block_t *block, const int bits, const int num_rows) {
    const int per_byte = 8 / bits;
    floats sums[PACKED_KERNEL_ROWS][HALVES];
#pragma GCC unroll 8
    for (int row = 0; row < num_rows; row++) sums[row][0] = sums[row][1] = zero_floats();
    const uint32_t *codes = block->codes;
    const int64_t num_parts = block->block_size / PART;
    for (int64_t part = 0; part < num_parts; part++) {
        ints quads[PACKED_KERNEL_ROWS][HALVES];
#pragma GCC unroll 8
        for (int row = 0; row < num_rows; row++) quads[row][0] = quads[row][1] = zero_ints();
        const char *values = block->values + part * PART;
#pragma GCC unroll 8
        for (int chunk = 0; chunk < PART / (4 * per_byte); chunk++, codes += TILE) {
            prefetch_codes(codes);
            const ints first = load_codes(codes, num_rows), second = load_codes(codes + LANES, num_rows);
#pragma GCC unroll 8
            for (int j = 0; j < per_byte; j++, values += 4) {
                const ints unpacked[HALVES] = {unpack_quads(first, bits, j), unpack_quads(second, bits, j)};
#pragma GCC unroll 8
                for (int row = 0; row < num_rows; row++) {
                    int32_t quad;
                    memcpy(&quad, values + row * block->block_size, sizeof quad);
                    quads[row][0] = add_quad_products(quads[row][0], unpacked[0], same_ints(quad));
                    quads[row][1] = add_quad_products(quads[row][1], unpacked[1], same_ints(quad));
                    needed_now(quads[row]);
                }
            }
        }
#pragma GCC unroll 8
        for (int row = 0; row < num_rows; row++) {
            const floats scale = same_floats(block->row_scales[row * num_parts + part]);
#pragma GCC unroll 8
            for (int half = 0; half < HALVES; half++)
                sums[row][half] =
                    multiply_add_floats(floats_of_ints(ints_of_quads(quads[row][half])), scale, sums[row][half]);
        }
    }
    /* In locals: the compiler must assume that sums overwrite the block. */
    const float *row_sums = (const float *)block->row_sums;
    floats *sum = block->sums;
    const floats zeros[HALVES] = {floats_of_ints(block->zeros[0]), floats_of_ints(block->zeros[1])};
    const floats scales[HALVES] = {block->scales[0], block->scales[1]};
#pragma GCC unroll 8
    for (int row = 0; row < num_rows; row++)
#pragma GCC unroll 8
        for (int half = 0; half < HALVES; half++, sum++) {
            const floats shift = multiply_floats(zeros[half], same_floats(row_sums[row]));
            *sum = multiply_add_floats(subtract_floats(sums[row][half], shift), scales[half], *sum);
        }
}

KERNELS(2) KERNELS(4)
RUNNERS(2) RUNNERS(4)

static kernel_t kernel_of(int bits, int64_t num_rows) {
    static const kernel_t packed[][PACKED_KERNEL_ROWS] = {[2] = NAMES(2), [4] = NAMES(4)};
    return packed[bits][num_rows - 1];
}

static runner_t runner_of(int bits, int64_t num_rows) {
    static const runner_t runners[][MAX_RUN_ROWS] = {[2] = RUNNER_NAMES(2), [4] = RUNNER_NAMES(4)};
    return runners[bits][num_rows - 1];
}

/* Codes are never unpacked first: beside two products per instruction, it costs too little. */
const precision_t int8dot = {
    .value_bytes = 1,
    .part_size = PART,
    .max_direct_rows = MAX_PANEL_ROWS,
    .pack = pack,
    .quantize = quantize,
    .kernel_of = kernel_of,
    .runner_of = runner_of,
};
