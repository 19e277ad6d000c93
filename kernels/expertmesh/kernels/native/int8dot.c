/* Kernels for rows of 8-bit integers: for codes of up to 4 bits, twice the products per instruction. Knows x86 vectors;
   dot.h says what surrounds them.

   Every 32 features of a row have a scale of their own. Their products are exact in 16 bits: 8 * 2 * 15 * 127 < 2^15.

   Each byte of a 32-bit word of packed codes holds codes of `bits` each: byte b those of the features b, b + 4, ... of
   its chunk. So (words >> bits * j) & mask is a vector of four neighbouring features, as the instruction takes. */

#include "dot.h"

#define PART 32

/* Rows of a kernel: each has 2 x 2 sums. */
#if LANES == 16
#define MAX_ROWS 6
#define FOR_ROWS(do, x) FOR_6_ROWS(do, x)
#else
#define MAX_ROWS 4
#define FOR_ROWS(do, x) FOR_4_ROWS(do, x)
#endif

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

/* Codes of 4 bits: from a row of fields to the pairs that are 4 apart; of 2 bits: transposed, four by four. */
static void arrange(uint32_t *words, int64_t num_words, int bits) {
    for (int64_t i = 0; i < num_words; i++)
        words[i] = bits == 2 ? swap_fields(swap_fields(words[i], 6, 0x00cc00cc), 12, 0x0000f0f0)
                             : swap_fields(swap_fields(words[i], 8, 0x0000ff00), 4, 0x00f000f0);
}

static int64_t row_bytes(int64_t block_size, int form) {
    (void)form; /* AMX's tiles take bytes as they lie */
    return block_size;
}

/* The sum is that of the rounded values, as a float. */
static void quantize(const float *x, int64_t block_size, int form, char *values, float *scales, char *sum) {
    (void)form;
    float sum_of_parts = 0.0f;
    for (int64_t part = 0; part < block_size / PART; part++) {
        int32_t total;
        scales[part] = round_values(x + part * PART, PART, 1, values + part * PART, &total);
        sum_of_parts += scales[part] * (float)total;
    }
    memcpy(sum, &sum_of_parts, sizeof sum_of_parts);
}

static ALWAYS_INLINE float sum_of_row(const block_t *block, int64_t row) { return ((const float *)block->row_sums)[row]; }

static void add_offsets(const run_t *run, int64_t num_rows) { add_offsets_by(run, num_rows, sum_of_row); }

static ALWAYS_INLINE ints unpack_quads(ints words, int bits, int j) {
    const ints mask = same_words((int16_t)(((1 << bits) - 1) * 0x0101));
    return and_ints(j ? shift_words(words, bits * j) : words, mask);
}

/* Subtract the zeros from the products of a row's block, scale what is left and add it to the sum. */
static ALWAYS_INLINE floats add_shifted(floats sum, floats products, floats zeros, floats scales, float row_sum) {
    const floats shift = multiply_floats(zeros, same_floats(row_sum));
    return multiply_add_floats(subtract_floats(products, shift), scales, sum);
}

static ALWAYS_INLINE void add_block(const block_t *block, const int bits, const int num_rows) {
    const int per_byte = 8 / bits;
    floats sums[MAX_ROWS][HALVES];
#pragma GCC unroll 16
    for (int row = 0; row < num_rows; row++) sums[row][0] = sums[row][1] = zero_floats();
    const uint32_t *codes = block->codes;
    const int64_t num_parts = block->row_bytes / PART;
    for (int64_t part = 0; part < num_parts; part++) {
        ints quads[MAX_ROWS][HALVES];
#pragma GCC unroll 16
        for (int row = 0; row < num_rows; row++) quads[row][0] = quads[row][1] = zero_ints();
        const char *values = block->values + part * PART;
#pragma GCC unroll 8
        for (int chunk = 0; chunk < PART / (4 * per_byte); chunk++, codes += TILE) {
            prefetch_codes(codes);
            const ints first = load_codes(codes, num_rows), second = load_codes(codes + LANES, num_rows);
#pragma GCC unroll 8
            for (int j = 0; j < per_byte; j++, values += 4) {
                const ints unpacked[HALVES] = {unpack_quads(first, bits, j), unpack_quads(second, bits, j)};
#pragma GCC unroll 16
                for (int row = 0; row < num_rows; row++) {
                    int32_t quad;
                    memcpy(&quad, values + row * block->row_bytes, sizeof quad);
                    quads[row][0] = add_quad_products(quads[row][0], unpacked[0], same_ints(quad));
                    quads[row][1] = add_quad_products(quads[row][1], unpacked[1], same_ints(quad));
                    needed_now(quads[row]);
                }
            }
        }
#pragma GCC unroll 16
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
#pragma GCC unroll 16
    for (int row = 0; row < num_rows; row++)
#pragma GCC unroll 8
        for (int half = 0; half < HALVES; half++, sum++)
            *sum = add_shifted(*sum, sums[row][half], zeros[half], scales[half], row_sums[row]);
}

FOR_ROWS(KERNEL, 2) FOR_ROWS(KERNEL, 4)
RUNNERS(2) RUNNERS(4)

static kernel_t kernel_of(int bits, int64_t num_rows) {
    static const kernel_t kernels[][MAX_ROWS + 1] = {[2] = {FOR_ROWS(NAME, 2)}, [4] = {FOR_ROWS(NAME, 4)}};
    return kernels[bits][num_rows];
}

static runner_t runner_of(int bits, int64_t num_rows) {
    static const runner_t runners[][MAX_RUN_ROWS] = {[2] = RUNNER_NAMES(2), [4] = RUNNER_NAMES(4)};
    return runners[bits][num_rows - 1];
}

#if HAS_TILES
static ALWAYS_INLINE void spread_out(const uint32_t *codes, int64_t num_chunks, const int bits, uint32_t *panel) {
    for (int64_t chunk = 0; chunk < num_chunks; chunk++, codes += TILE) {
        const ints first = load_ints(codes), second = load_ints(codes + LANES);
#pragma GCC unroll 8
        for (int j = 0; j < 8 / bits; j++, panel += TILE) {
            store_ints(panel, unpack_quads(first, bits, j));
            store_ints(panel + LANES, unpack_quads(second, bits, j));
        }
    }
}

static void unpack_bytes(const uint32_t *codes, int64_t num_chunks, int bits, uint32_t *panel) {
    if (bits == 2) spread_out(codes, num_chunks, 2, panel);
    if (bits == 4) spread_out(codes, num_chunks, 4, panel);
}

/* Add the products of one part of 16 rows, scaled, to `sums`. */
static ALWAYS_INLINE void add_part(const block_t *block, const char *values, const float *row_scales, int64_t part,
                                   floats sums[TILE_ROWS][HALVES]) {
    const int64_t stride = TILE * sizeof(uint32_t), num_parts = block->row_bytes / PART;
    const uint32_t *codes = block->codes + part * PART / 4 * TILE;
    int32_t products[TILE_ROWS][TILE] __attribute__((aligned(64)));
    tile_zero(C0);
    tile_zero(C1);
    tile_load(A0, values + part * PART, block->row_bytes);
    tile_load(B0, codes, stride);
    tile_load(B1, codes + LANES, stride);
    tile_add_signed_bytes(C0, A0, B0);
    tile_add_signed_bytes(C1, A0, B1);
    tile_store(C0, products[0], stride);
    tile_store(C1, products[0] + LANES, stride);
    for (int row = 0; row < TILE_ROWS; row++) {
        const floats scale = same_floats(row_scales[row * num_parts + part]);
        for (int half = 0; half < HALVES; half++) {
            const floats product = floats_of_ints(load_ints(products[row] + half * LANES));
            sums[row][half] = multiply_add_floats(product, scale, sums[row][half]);
        }
    }
}

static void add_tiles(const block_t *block, int64_t num_rows) {
    const int64_t num_parts = block->row_bytes / PART;
    for (int64_t first = 0; first < num_rows; first += TILE_ROWS) {
        const int64_t left = num_rows - first, count = left < TILE_ROWS ? left : TILE_ROWS;
        float row_scales[TILE_ROWS * MAX_BLOCK / PART] = {0};
        memcpy(row_scales, block->row_scales + first * num_parts, count * num_parts * sizeof(float));
        floats sums[TILE_ROWS][HALVES] = {0};
        for (int64_t part = 0; part < num_parts; part++)
            add_part(block, block->values + first * block->row_bytes, row_scales, part, sums);
        for (int64_t row = 0; row < count; row++)
            for (int half = 0; half < HALVES; half++) {
                floats *sum = block->sums + (first + row) * HALVES + half;
                *sum = add_shifted(*sum, sums[row][half], floats_of_ints(block->zeros[half]), block->scales[half],
                                   ((const float *)block->row_sums)[first + row]);
            }
    }
}
#endif

/* Codes are never unpacked first for vectors: beside two products per instruction, it costs too little. */
const precision_t int8dot = {
    .part_size = PART,
    .tile_bytes = PART,
    .min_tiled_rows = 10,
    .max_direct_rows = MAX_PANEL_ROWS,
    .direct_kernel_rows = MAX_ROWS,
    .row_bytes = row_bytes,
    .pack = pack,
    .arrange = arrange,
    .quantize = quantize,
    .add_offsets = add_offsets,
    .kernel_of = kernel_of,
    .runner_of = runner_of,
#if HAS_TILES
    .unpack_bytes = unpack_bytes,
    .add_tiles = add_tiles,
#endif
};
