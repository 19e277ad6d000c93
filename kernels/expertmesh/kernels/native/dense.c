/* Products of float32, float16 and bfloat16 matrices. Knows their layout and x86 vectors; not files or torch.

   y[m, n] = sum over k of x[m, k] * w[n, k]

   Rows are widened to float32; only where the processor multiplies bfloat16 and both sides are, they stay as they are.
   Each block of 128 features is summed in order of k, blocks are added up in ascending order; AMX's tiles sum even and
   odd features apart, 32 at a time. Either way the order is the same for any number of rows.

   Packed weights are [tile][k][TILE]; in bfloat16 two neighbouring features lie side by side, [tile][k / 2][TILE][2], as
   the instructions for bfloat16 take them, and so that a shift and a mask turn one vector into two of floats. */

#include "matrix.h"
#include "tiles.h"

#define K_UNIT 32          /* features are filled up with zeros to a multiple of this: a row of AMX's tiles */
#define BLOCKS_PER_CHUNK 4 /* whose weights, 32 KiB, stay in the nearest cache while AMX's tiles multiply all rows */

/* Forms of prepared rows. */
enum { AS_FLOATS, AS_BFLOAT16 };

#if defined(__AVX512BF16__)
#define HAS_BFLOAT16 1
#else
#define HAS_BFLOAT16 0
#endif

/* What a kernel works on: weights of one block and tile, rows of `row_bytes`, sums [rows][HALVES] to add to. */
typedef struct {
    const char *weights;
    int64_t num_features, row_bytes;
    const char *values;
    floats *sums;
} block_t;

static inline int64_t type_bytes(int type) { return type == FLOAT32 ? 4 : 2; }

static layout_t layout_of(const matrix_t *matrix) {
    const int64_t padded = divide_up(matrix->num_in, K_UNIT) * K_UNIT;
    layout_t layout = {.num_tiles = divide_up(matrix->num_out, TILE)};
    layout.num_blocks = divide_up(padded, MAX_FEATURES);
    layout.block_size = padded < MAX_FEATURES ? padded : MAX_FEATURES;
    layout.block_words = layout.block_size * TILE * type_bytes(matrix->type) / (int64_t)sizeof(uint32_t);
    return layout;
}

/* Features of a block, filled up to a multiple of K_UNIT; the last one may have fewer than the block size. */
static inline int64_t block_features(const matrix_t *matrix, int64_t block) {
    const int64_t left = divide_up(matrix->num_in, K_UNIT) * K_UNIT - block * MAX_FEATURES;
    return left < MAX_FEATURES ? left : MAX_FEATURES;
}

static void pack_tile(const matrix_t *matrix, const layout_t *layout, int64_t tile, const void *weights) {
    const int64_t num_in = matrix->num_in, size = type_bytes(matrix->type);
    char *words = (char *)weights_of(matrix, layout, tile);
    memset(words, 0, layout->num_blocks * layout->block_words * sizeof(uint32_t));
    const int64_t left = matrix->num_out - tile * TILE, num_lanes = left < TILE ? left : TILE;
    for (int64_t lane = 0; lane < num_lanes; lane++) {
        const char *row = (const char *)weights + (tile * TILE + lane) * num_in * size;
        for (int64_t k = 0; k < num_in; k++) {
            const int64_t place = matrix->type == BFLOAT16 ? (k / 2 * TILE + lane) * 2 + k % 2 : k * TILE + lane;
            memcpy(words + place * size, row + k * size, size);
        }
    }
}

/* ---- rows ---- */

static void choose_form(const matrix_t *matrix, const rows_t *x, input_t *input) {
    input->form = HAS_BFLOAT16 && matrix->type == BFLOAT16 && x->type == BFLOAT16 ? AS_BFLOAT16 : AS_FLOATS;
    input->row_bytes = input->layout.block_size * (input->form == AS_BFLOAT16 ? 2 : 4);
}

static void prepare(const matrix_t *matrix, const rows_t *x, int64_t block, const input_t *input) {
    const int64_t start = block * MAX_FEATURES, left = matrix->num_in - start;
    const int64_t count = left < MAX_FEATURES ? left : MAX_FEATURES;
    for (int64_t row = 0; row < x->num_rows; row++) {
        char *values = values_of(input, block, row);
        const int64_t at = row * x->stride + start;
        if (input->form == AS_BFLOAT16) memcpy(values, (const uint16_t *)x->data + at, count * sizeof(uint16_t));
        else read_floats(x->data, x->type, at, count, (float *)values);
        const int64_t filled = count * (input->form == AS_BFLOAT16 ? 2 : 4);
        memset(values + filled, 0, input->row_bytes - filled);
    }
}

/* ---- vectors ---- */

/* Fetch what lies as far ahead of `weights` as they reach in `num_bytes`; they are read once. */
static ALWAYS_INLINE void prefetch(const char *weights, const int64_t num_bytes, int64_t step) {
    if (num_bytes < CACHE_LINE && step % (CACHE_LINE / num_bytes)) return;
#pragma GCC unroll 8
    for (int64_t line = 0; line < num_bytes; line += CACHE_LINE)
        _mm_prefetch(weights + PREFETCH_BYTES + line, _MM_HINT_T0);
}

/* Load the weights of one feature, or of the first of a pair; those of the second are in the high halves of `pairs`. */
static ALWAYS_INLINE floats load_weights(const char *weights, const int type, ints *pairs) {
    if (type == FLOAT32) return load_floats((const float *)weights);
    if (type == FLOAT16) return floats_of_halves((const uint16_t *)weights);
    *pairs = load_ints(weights);
    return cast_to_floats(shift_ints_left(*pairs, 16));
}

static ALWAYS_INLINE void add_feature(const floats weights[HALVES], const float *values, int64_t row_values,
                                      const int num_rows, floats sums[MAX_PASS_ROWS][HALVES]) {
#pragma GCC unroll 16
    for (int row = 0; row < num_rows; row++) {
        const floats value = same_floats(values[row * row_values]);
        sums[row][0] = multiply_add_floats(weights[0], value, sums[row][0]);
        sums[row][1] = multiply_add_floats(weights[1], value, sums[row][1]);
    }
}

static ALWAYS_INLINE void add_sums(floats sums[MAX_PASS_ROWS][HALVES], const int num_rows, floats *total) {
#pragma GCC unroll 16
    for (int row = 0; row < num_rows; row++)
#pragma GCC unroll 2
        for (int half = 0; half < HALVES; half++, total++) *total = add_floats(*total, sums[row][half]);
}

static ALWAYS_INLINE void add_block(const block_t *block, const int type, const int num_rows) {
    const int features = type == BFLOAT16 ? 2 : 1;
    const int64_t half_bytes = LANES * (type == FLOAT16 ? 2 : 4), row_values = block->row_bytes / 4;
    floats sums[MAX_PASS_ROWS][HALVES];
#pragma GCC unroll 16
    for (int row = 0; row < num_rows; row++) sums[row][0] = sums[row][1] = zero_floats();
    const char *weights = block->weights;
    const float *values = (const float *)block->values;
    for (int64_t k = 0; k < block->num_features; k += features, weights += HALVES * half_bytes, values += features) {
        prefetch(weights, HALVES * half_bytes, k / features);
        ints pairs[HALVES];
        floats wide[HALVES];
        for (int half = 0; half < HALVES; half++)
            wide[half] = load_weights(weights + half * half_bytes, type, pairs + half);
        add_feature(wide, values, row_values, num_rows, sums);
        if (type == BFLOAT16) {
            for (int half = 0; half < HALVES; half++)
                wide[half] = cast_to_floats(and_ints(pairs[half], same_ints((int32_t)0xffff0000)));
            add_feature(wide, values + 1, row_values, num_rows, sums);
        }
    }
    add_sums(sums, num_rows, block->sums);
}

#define KERNEL(type, rows) \
    static void add_##type##_##rows(const block_t *block) { add_block(block, type, rows); }
#define NAME(type, rows) [rows] = add_##type##_##rows,
FOR_PASSES(KERNEL, FLOAT32) FOR_PASSES(KERNEL, FLOAT16) FOR_PASSES(KERNEL, BFLOAT16)

#if HAS_BFLOAT16
static ALWAYS_INLINE void add_pairs(const block_t *block, const int num_rows) {
    floats sums[MAX_PASS_ROWS][HALVES];
#pragma GCC unroll 16
    for (int row = 0; row < num_rows; row++) sums[row][0] = sums[row][1] = zero_floats();
    const char *weights = block->weights, *values = block->values;
    const int64_t half_bytes = LANES * sizeof(uint32_t);
    for (int64_t k = 0; k < block->num_features; k += 2, weights += HALVES * half_bytes, values += 4) {
        prefetch(weights, HALVES * half_bytes, k / 2);
        const __m512bh first = (__m512bh)load_ints(weights), second = (__m512bh)load_ints(weights + half_bytes);
#pragma GCC unroll 16
        for (int row = 0; row < num_rows; row++) {
            int32_t pair;
            memcpy(&pair, values + row * block->row_bytes, sizeof pair);
            const __m512bh same = (__m512bh)same_ints(pair);
            sums[row][0] = _mm512_dpbf16_ps(sums[row][0], first, same);
            sums[row][1] = _mm512_dpbf16_ps(sums[row][1], second, same);
        }
    }
    add_sums(sums, num_rows, block->sums);
}

#define PAIRS_KERNEL(name, rows) static void add_##name##_##rows(const block_t *block) { add_pairs(block, rows); }
FOR_PASSES(PAIRS_KERNEL, pairs)
#endif

typedef void (*kernel_t)(const block_t *);

static kernel_t kernel_of(int type, int form, int64_t num_rows) {
    static const kernel_t kernels[][MAX_PASS_ROWS + 1] = {[FLOAT32] = {FOR_PASSES(NAME, FLOAT32)},
                                                          [FLOAT16] = {FOR_PASSES(NAME, FLOAT16)},
                                                          [BFLOAT16] = {FOR_PASSES(NAME, BFLOAT16)}};
#if HAS_BFLOAT16
    static const kernel_t pairs[MAX_PASS_ROWS + 1] = {FOR_PASSES(NAME, pairs)};
    if (form == AS_BFLOAT16) return pairs[num_rows];
#else
    (void)form;
#endif
    return kernels[type][num_rows];
}

static void multiply_vectors(const matrix_t *matrix, const input_t *input, int64_t tile, int64_t first,
                             int64_t num_rows, floats *sums) {
    const layout_t *layout = &input->layout;
    pass_t passes[MAX_PANEL_ROWS];
    const int64_t num_passes = plan_passes(num_rows, MAX_PASS_ROWS, passes);
    kernel_t kernels[MAX_PANEL_ROWS];
    for (int64_t pass = 0; pass < num_passes; pass++)
        kernels[pass] = kernel_of(matrix->type, input->form, passes[pass].num_rows);
    block_t block = {.row_bytes = input->row_bytes};
    const uint32_t *weights = weights_of(matrix, layout, tile);
    for (int64_t index = 0; index < layout->num_blocks; index++, weights += layout->block_words) {
        block.weights = (const char *)weights;
        block.num_features = block_features(matrix, index);
        for (int64_t pass = 0; pass < num_passes; pass++) {
            block.values = values_of(input, index, first + passes[pass].row);
            block.sums = sums + passes[pass].row * HALVES;
            kernels[pass](&block);
        }
    }
}

/* ---- AMX's tiles ---- */

#if HAS_TILES
#define SUM_STRIDE (HALVES * LANES * sizeof(float))

/* Add the products of 16 rows, or of 32 if there `is_second`, with one block. The sums are in the registers C. */
static ALWAYS_INLINE void add_tile_block(const block_t *block, const int is_second) {
    const int64_t stride = HALVES * LANES * sizeof(uint32_t);
    const char *weights = block->weights;
    for (int64_t k = 0; k < block->num_features; k += K_UNIT, weights += K_UNIT / 2 * stride) {
        const char *values = block->values + 2 * k;
        for (int64_t line = 0; line < K_UNIT / 2 * stride; line += CACHE_LINE)
            _mm_prefetch(weights + PREFETCH_BYTES + line, _MM_HINT_T0);
        tile_load(A0, values, block->row_bytes);
        tile_load(B0, weights, stride);
        tile_load(B1, weights + LANES * sizeof(uint32_t), stride);
        tile_add_bfloat16(C0, A0, B0);
        tile_add_bfloat16(C1, A0, B1);
        if (is_second) {
            tile_load(A1, values + TILE_ROWS * block->row_bytes, block->row_bytes);
            tile_add_bfloat16(C2, A1, B0);
            tile_add_bfloat16(C3, A1, B1);
        }
    }
}

/* Multiply 16 or 32 rows from row `first` of the input on by the blocks `start` to `end`. */
static ALWAYS_INLINE void add_tile_rows(const matrix_t *matrix, const input_t *input, int64_t tile, int64_t start,
                                        int64_t end, int64_t first, floats *sums, const int is_second) {
    float *left = (float *)sums, *right = left + LANES;
    float *next_left = left + TILE_ROWS * HALVES * LANES, *next_right = next_left + LANES;
    tile_load(C0, left, SUM_STRIDE);
    tile_load(C1, right, SUM_STRIDE);
    if (is_second) {
        tile_load(C2, next_left, SUM_STRIDE);
        tile_load(C3, next_right, SUM_STRIDE);
    }
    for (int64_t index = start; index < end; index++) {
        const block_t block = {
            .weights = (const char *)(weights_of(matrix, &input->layout, tile) + index * input->layout.block_words),
            .num_features = block_features(matrix, index),
            .row_bytes = input->row_bytes,
            .values = values_of(input, index, first),
        };
        add_tile_block(&block, is_second);
    }
    tile_store(C0, left, SUM_STRIDE);
    tile_store(C1, right, SUM_STRIDE);
    if (is_second) {
        tile_store(C2, next_left, SUM_STRIDE);
        tile_store(C3, next_right, SUM_STRIDE);
    }
}

/* Sums go through memory between chunks, which changes none of their bits. */
static void multiply_tiles(const matrix_t *matrix, const input_t *input, int64_t tile, int64_t first,
                           int64_t num_rows, floats *sums) {
    const int64_t num_blocks = input->layout.num_blocks;
    tiles_begin(TILE_ROW_BYTES);
    for (int64_t start = 0; start < num_blocks; start += BLOCKS_PER_CHUNK) {
        const int64_t left = num_blocks - start, end = start + (left < BLOCKS_PER_CHUNK ? left : BLOCKS_PER_CHUNK);
        int64_t row = 0;
        for (; row + TILE_ROWS < num_rows; row += 2 * TILE_ROWS)
            add_tile_rows(matrix, input, tile, start, end, first + row, sums + row * HALVES, 1);
        if (row < num_rows) add_tile_rows(matrix, input, tile, start, end, first + row, sums + row * HALVES, 0);
    }
    tiles_end();
}
#endif

static void multiply_tile(const matrix_t *matrix, const input_t *input, int64_t tile, int64_t first, int64_t num_rows,
                          floats *sums) {
    const int64_t num_padded = divide_up(num_rows, ROW_UNIT) * ROW_UNIT;
    for (int64_t i = 0; i < num_padded * HALVES; i++) sums[i] = zero_floats();
#if HAS_TILES
    if (input->form == AS_BFLOAT16) {
        multiply_tiles(matrix, input, tile, first, num_rows, sums);
        return;
    }
#endif
    multiply_vectors(matrix, input, tile, first, num_rows, sums);
}

const kind_t dense_kind = {
    .layout_of = layout_of,
    .pack_tile = pack_tile,
    .choose_form = choose_form,
    .prepare = prepare,
    .multiply_tile = multiply_tile,
};
