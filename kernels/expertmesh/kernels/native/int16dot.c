/* Products of quantized matrices in 16-bit integers. Knows the packed layout and x86 vectors; not files or torch.

   y[m, n] = sum over k of x[m, k] * (code[n, k] - zero[n, k / G]) * scale[n, k / G]

   Rows of x are quantized block by block (at most 128 features of one group) to int16 with one float32 scale, so that
   the sum over a block is exact in int32: 128 * 255 * 32767 < 2^31. Blocks are added up in float32, in ascending order,
   whatever the number of rows or threads: the result of a row depends on nothing but that row.

   Packed codes are [tile][block][chunk][half][lane] 16-bit words. A tile has 2 halves of LANES outputs; each output
   owns two neighbouring words, for even and odd features; word w of a chunk holds the features w, w + 2, w + 4, ...,
   each in its bits. So (words >> bits * j) & mask is a vector of feature pairs, as the multiply-add instruction takes. */

#include "int16dot.h"

#define MAX_BLOCK 144 /* features of a block with padding up to whole chunks */

/* The first feature of a block, and how many it has; later blocks of a group may have fewer than the block size. */
static int64_t block_start(const matrix_t *matrix, const layout_t *layout, int64_t block, int64_t *num_features) {
    const int64_t offset = block % layout->blocks_per_group * layout->block_size;
    const int64_t left = matrix->group_size - offset;
    *num_features = left < 0 ? 0 : left < layout->block_size ? left : layout->block_size;
    return block / layout->blocks_per_group * matrix->group_size + (left < 0 ? 0 : offset);
}

/* ---- packing ---- */

static void pack_block(const uint8_t *codes, int bits, int64_t block_size, int lane, uint16_t *words) {
    const int per_word = codes_per_word(bits);
    for (int64_t chunk = 0; chunk < block_size / (2 * per_word); chunk++)
        for (int odd = 0; odd < 2; odd++) {
            uint16_t word = 0;
            const uint8_t *first = codes + chunk * 2 * per_word + odd;
            for (int j = 0; j < per_word; j++) word |= (uint16_t)(first[2 * j] << bits * j);
            words[chunk * 2 * TILE + 2 * lane + odd] = word;
        }
}

static void pack_tile(const matrix_t *matrix, const layout_t *layout, int64_t tile, const uint8_t *codes) {
    uint16_t *words = matrix->codes + tile * layout->num_blocks * layout->block_words;
    for (int64_t block = 0; block < layout->num_blocks; block++, words += layout->block_words)
        for (int lane = 0; lane < TILE; lane++) {
            uint8_t padded[MAX_BLOCK] = {0};
            int64_t num_features, start = block_start(matrix, layout, block, &num_features);
            if (tile * TILE + lane < matrix->num_out)
                memcpy(padded, codes + (tile * TILE + lane) * matrix->num_in + start, num_features);
            pack_block(padded, matrix->bits, layout->block_size, lane, words);
        }
}

int64_t int16dot_tile_outputs(void) { return TILE; }

/* Bytes of the packed codes. */
int64_t int16dot_codes_bytes(const matrix_t *matrix) {
    const layout_t layout = layout_of(matrix);
    return layout.num_tiles * layout.num_blocks * layout.block_words * (int64_t)sizeof(uint16_t);
}

/* Fill the codes of `matrix` from [N, K] bytes. */
void int16dot_pack(const matrix_t *matrix, const uint8_t *codes, int num_threads) {
    const layout_t layout = layout_of(matrix);
#pragma omp parallel for num_threads(num_threads)
    for (int64_t tile = 0; tile < layout.num_tiles; tile++) pack_tile(matrix, &layout, tile, codes);
}

/* ---- quantizing rows ---- */

/* The bits of the largest magnitude: as integers they sort like magnitudes, with Inf and NaN on top. */
static int32_t largest_magnitude(const float *x, int64_t count) {
    int32_t largest = 0;
    for (int64_t i = 0; i < count; i++) {
        int32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        bits &= 0x7fffffff;
        largest = bits > largest ? bits : largest;
    }
    return largest;
}

/* Quantize `count` values; returns the scale, which is NaN where a value is not finite, and so becomes every output. */
static float quantize_block(const float *x, int64_t count, int16_t *values, int32_t *sum) {
    const int32_t smallest_bits = 0x0d800000, inf_bits = 0x7f800000; /* 2^-100: below, 32767 / x would overflow */
    int32_t bits = largest_magnitude(x, count), total = 0;
    const int is_finite = bits < inf_bits;
    bits = bits < smallest_bits ? smallest_bits : bits;
    float largest;
    memcpy(&largest, &bits, sizeof largest);
    const float inverse = is_finite ? 32767.0f / largest : 0.0f;
    for (int64_t i = 0; i < count; i++) {
        /* 1.5 * 2^23 leaves the nearest integer in the low bits of the sum. */
        const float shifted = (is_finite ? x[i] : 0.0f) * inverse + 12582912.0f;
        int32_t value;
        memcpy(&value, &shifted, sizeof value);
        value -= 0x4b400000;
        values[i] = (int16_t)value;
        total += value;
    }
    *sum = total;
    return is_finite ? largest / 32767.0f : __builtin_nanf("");
}

void int16dot_quantize(const matrix_t *matrix, const layout_t *layout, const rows_t *x, int64_t block,
                       const input_t *input) {
    int64_t num_features, start = block_start(matrix, layout, block, &num_features);
    for (int64_t row = 0; row < x->num_rows; row++) {
        const int64_t at = block * x->num_rows + row;
        float padded[MAX_BLOCK] = {0};
        read_floats(x->data, x->type, row * x->stride + start, num_features, padded);
        input->scales[at] =
            quantize_block(padded, layout->block_size, input->values + at * layout->block_size, input->sums + at);
    }
}

/* ---- multiplying ---- */

/* What a block's kernel works on: words of one tile, rows of int16, and the sums [rows][HALVES] that it adds to. */
typedef struct {
    const uint16_t *words;
    int64_t num_chunks, block_size;
    const int16_t *values;
    const float *row_scales;
    const int32_t *row_sums;
    ints zeros[HALVES];
    floats scales[HALVES];
    floats *sums;
} block_t;

static ALWAYS_INLINE ints unpack(ints words, int bits, int j) {
    const ints shifted = j ? shift_words(words, bits * j) : words;
    return bits * (j + 1) == 16 ? shifted : and_ints(shifted, same_words((int16_t)((1 << bits) - 1)));
}

static ALWAYS_INLINE void add_block(const block_t *block, const int bits, const int num_rows) {
    const int per_word = 16 / bits;
    ints sums[MAX_KERNEL_ROWS][HALVES];
#pragma GCC unroll 8
    for (int row = 0; row < num_rows; row++) sums[row][0] = sums[row][1] = zero_ints();
    const uint16_t *words = block->words;
    const int16_t *values = block->values;
    for (int64_t chunk = 0; chunk < block->num_chunks; chunk++, words += 2 * TILE, values += 2 * per_word) {
        for (int line = 0; bits != 16 && line < 4 * TILE; line += CACHE_LINE)
            _mm_prefetch((const char *)words + PREFETCH_BYTES + line, _MM_HINT_T0);
        const ints first = load_ints(words), second = load_ints(words + TILE);
#pragma GCC unroll 8
        for (int j = 0; j < per_word; j++) {
            const ints codes[HALVES] = {unpack(first, bits, j), unpack(second, bits, j)};
#pragma GCC unroll 8
            for (int row = 0; row < num_rows; row++) {
                int32_t pair;
                memcpy(&pair, values + row * block->block_size + 2 * j, sizeof pair);
                sums[row][0] = add_pair_products(sums[row][0], codes[0], same_ints(pair));
                sums[row][1] = add_pair_products(sums[row][1], codes[1], same_ints(pair));
                /* Says that the sums are needed now: gcc would otherwise put off the additions and spill products. */
                __asm__("" : "+v"(sums[row][0]), "+v"(sums[row][1]));
            }
        }
    }
    /* In locals: the compiler must assume that sums overwrite the block. */
    const float *row_scales = block->row_scales;
    const int32_t *row_sums = block->row_sums;
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

typedef void (*kernel_t)(const block_t *);
#define KERNEL(bits, rows) \
    static void add_block_##bits##_##rows(const block_t *block) { add_block(block, bits, rows); }
#define KERNELS(bits) KERNEL(bits, 1) KERNEL(bits, 2) KERNEL(bits, 3) KERNEL(bits, 4)
#define NAMES(bits) {add_block_##bits##_1, add_block_##bits##_2, add_block_##bits##_3, add_block_##bits##_4}
KERNELS(2) KERNELS(3) KERNELS(4) KERNELS(8) KERNELS(16) KERNEL(16, 5) KERNEL(16, 6)

static kernel_t kernel_of(int bits, int64_t num_rows) {
    static const kernel_t packed[][PACKED_KERNEL_ROWS] = {
        [2] = NAMES(2), [3] = NAMES(3), [4] = NAMES(4), [8] = NAMES(8)};
    static const kernel_t panel[MAX_KERNEL_ROWS] = {add_block_16_1, add_block_16_2, add_block_16_3,
                                                    add_block_16_4, add_block_16_5, add_block_16_6};
    return bits == 16 ? panel[num_rows - 1] : packed[bits][num_rows - 1];
}

/* Widen the words of a block to one code per word: the same layout with bits = 16. */
static ALWAYS_INLINE void widen(const uint16_t *words, int64_t num_chunks, const int bits, uint16_t *panel) {
    for (int64_t chunk = 0; chunk < num_chunks; chunk++, words += 2 * TILE) {
        const ints first = load_ints(words), second = load_ints(words + TILE);
#pragma GCC unroll 8
        for (int j = 0; j < 16 / bits; j++, panel += 2 * TILE) {
            store_ints(panel, unpack(first, bits, j));
            store_ints(panel + TILE, unpack(second, bits, j));
        }
    }
}

static void widen_block(const uint16_t *words, int64_t num_chunks, int bits, uint16_t *panel) {
    if (bits == 2) widen(words, num_chunks, 2, panel);
    if (bits == 3) widen(words, num_chunks, 3, panel);
    if (bits == 4) widen(words, num_chunks, 4, panel);
    if (bits == 8) widen(words, num_chunks, 8, panel);
}

/* Point a block at the scales and zeros of its group. */
static inline void enter_group(const matrix_t *matrix, int64_t at, block_t *block) {
    for (int half = 0; half < HALVES; half++) {
        block->zeros[half] = ints_of_bytes(matrix->zeros + at + half * LANES);
        block->scales[half] = load_as_floats(matrix->scales, matrix->scale_type, at + half * LANES);
    }
}

void int16dot_multiply_tile(const matrix_t *matrix, const layout_t *layout, const input_t *input, int64_t tile,
                            int64_t first, int64_t num_rows, floats *sums) {
    uint16_t panel[MAX_BLOCK * TILE] __attribute__((aligned(64)));
    for (int64_t i = 0; i < num_rows * HALVES; i++) sums[i] = zero_floats();
    const int is_direct = num_rows <= MAX_DIRECT_ROWS;
    const int bits = is_direct ? matrix->bits : 16;
    const int64_t num_packed_chunks = layout->block_size / (2 * codes_per_word(matrix->bits));
    pass_t passes[MAX_PASSES];
    const int64_t num_passes = plan_passes(num_rows, is_direct ? PACKED_KERNEL_ROWS : MAX_KERNEL_ROWS, passes);
    block_t block = {.block_size = layout->block_size, .num_chunks = layout->block_size / (2 * codes_per_word(bits))};
    const uint16_t *words = matrix->codes + tile * layout->num_blocks * layout->block_words;
    for (int64_t index = 0; index < layout->num_blocks; index++, words += layout->block_words) {
        block.words = words;
        if (!is_direct) {
            widen_block(words, num_packed_chunks, matrix->bits, panel);
            block.words = panel;
        }
        const int64_t group = layout->blocks_per_group == 1 ? index : index / layout->blocks_per_group;
        enter_group(matrix, (tile * layout->num_groups + group) * TILE, &block);
        for (int64_t pass = 0; pass < num_passes; pass++) {
            const int64_t row = passes[pass].row, at = index * input->num_rows + first + row;
            block.values = input->values + at * layout->block_size;
            block.row_scales = input->scales + at;
            block.row_sums = input->sums + at;
            block.sums = sums + row * HALVES;
            kernel_of(bits, passes[pass].num_rows)(&block);
        }
    }
}

int64_t int16dot_scratch_bytes(const matrix_t *matrix, int64_t num_rows) {
    const layout_t layout = layout_of(matrix);
    return layout.num_blocks * num_rows * (layout.block_size * 2 + 8);
}

input_t int16dot_input(const matrix_t *matrix, int64_t num_rows, void *scratch) {
    const int64_t num_scales = layout_of(matrix).num_blocks * num_rows;
    return (input_t){.num_rows = num_rows,
                     .scales = scratch,
                     .sums = (int32_t *)scratch + num_scales,
                     .values = (int16_t *)((int32_t *)scratch + 2 * num_scales)};
}

/* Write x [M, K] times the matrix to y [M, N]; both of any float type. */
void int16dot_multiply(const matrix_t *matrix, const rows_t *x, const rows_t *y, void *scratch, int num_threads) {
    const layout_t layout = layout_of(matrix);
    const input_t input = int16dot_input(matrix, x->num_rows, scratch);
    const int team = useful_threads(num_threads, x->num_rows * matrix->num_in * matrix->num_out);
#pragma omp parallel num_threads(team)
    {
#pragma omp for
        for (int64_t block = 0; block < layout.num_blocks; block++)
            int16dot_quantize(matrix, &layout, x, block, &input);
        for (int64_t first = 0; first < x->num_rows; first += MAX_PANEL_ROWS) {
            const int64_t num_rows = panel_rows(x->num_rows, first);
#pragma omp for nowait
            for (int64_t tile = 0; tile < layout.num_tiles; tile++) {
                floats sums[MAX_PANEL_ROWS * HALVES];
                int16dot_multiply_tile(matrix, &layout, &input, tile, first, num_rows, sums);
                write_outputs(sums, num_rows, matrix->num_out, tile, y, first);
            }
        }
    }
}
