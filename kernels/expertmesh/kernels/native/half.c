/* Products of float16 and bfloat16 matrices in float32. Knows the packed layout; not files or torch.

   y[m, n] = sum over k of x[m, k] * w[n, k]

   Each block of 128 features is summed in order of k, blocks are added up in ascending order, whatever the number of
   rows or threads: the result of a row depends on nothing but that row. Packed weights are [tile][k][TILE]. */

#include "common.h"

/* A packed matrix [N, K]; `type` is FLOAT16 or BFLOAT16. */
typedef struct {
    int64_t num_out, num_in;
    int32_t type;
    uint16_t *weights;
} half_matrix_t;

/* What a block's kernel works on: weights of one tile, rows of MAX_FEATURES floats, sums [rows][HALVES] to add to. */
typedef struct {
    const void *weights;
    int64_t num_features;
    const float *values;
    floats *sums;
} half_block_t;

/* Fill the weights of `matrix` from [N, K] halves. */
void half_pack(const half_matrix_t *matrix, const uint16_t *weights, int num_threads) {
    const int64_t num_in = matrix->num_in;
#pragma omp parallel for num_threads(num_threads)
    for (int64_t tile = 0; tile < divide_up(matrix->num_out, TILE); tile++)
        for (int lane = 0; lane < TILE; lane++) {
            const int64_t out = tile * TILE + lane;
            uint16_t *words = matrix->weights + tile * num_in * TILE;
            for (int64_t k = 0; k < num_in; k++)
                words[k * TILE + lane] = out < matrix->num_out ? weights[out * num_in + k] : 0;
        }
}

int64_t half_weights_bytes(const half_matrix_t *matrix) {
    return divide_up(matrix->num_out, TILE) * TILE * matrix->num_in * (int64_t)sizeof(uint16_t);
}

/* Bytes of scratch memory that a product with `num_rows` rows needs. */
int64_t half_scratch_bytes(const half_matrix_t *matrix, int64_t num_rows) {
    return num_rows * divide_up(matrix->num_in, MAX_FEATURES) * MAX_FEATURES * (int64_t)sizeof(float);
}

static ALWAYS_INLINE void add_block(const half_block_t *block, const int type, const int num_rows) {
    floats sums[MAX_KERNEL_ROWS][HALVES];
#pragma GCC unroll 8
    for (int row = 0; row < num_rows; row++) sums[row][0] = sums[row][1] = zero_floats();
    for (int64_t k = 0; k < block->num_features; k++) {
        if (type != FLOAT32 && k * 2 * TILE % CACHE_LINE == 0)
            _mm_prefetch((const char *)block->weights + k * 2 * TILE + PREFETCH_BYTES, _MM_HINT_T0);
        const floats first = load_as_floats(block->weights, type, k * TILE);
        const floats second = load_as_floats(block->weights, type, k * TILE + LANES);
#pragma GCC unroll 8
        for (int row = 0; row < num_rows; row++) {
            const floats value = same_floats(block->values[row * MAX_FEATURES + k]);
            sums[row][0] = multiply_add_floats(first, value, sums[row][0]);
            sums[row][1] = multiply_add_floats(second, value, sums[row][1]);
        }
    }
#pragma GCC unroll 8
    for (int row = 0; row < num_rows; row++)
#pragma GCC unroll 8
        for (int half = 0; half < HALVES; half++) {
            floats *sum = block->sums + HALVES * row + half;
            *sum = add_floats(*sum, sums[row][half]);
        }
}

typedef void (*kernel_t)(const half_block_t *);
#define KERNEL(type, rows) \
    static void add_##type##_##rows(const half_block_t *block) { add_block(block, type, rows); }
#define KERNELS(type) KERNEL(type, 1) KERNEL(type, 2) KERNEL(type, 3) KERNEL(type, 4)
#define NAMES(type) add_##type##_1, add_##type##_2, add_##type##_3, add_##type##_4
KERNELS(FLOAT16) KERNELS(BFLOAT16) KERNELS(FLOAT32) KERNEL(FLOAT32, 5) KERNEL(FLOAT32, 6)

static kernel_t kernel_of(int type, int64_t num_rows) {
    static const kernel_t kernels[][MAX_KERNEL_ROWS] = {
        [FLOAT16] = {NAMES(FLOAT16)},
        [BFLOAT16] = {NAMES(BFLOAT16)},
        [FLOAT32] = {NAMES(FLOAT32), add_FLOAT32_5, add_FLOAT32_6},
    };
    return kernels[type][num_rows - 1];
}

static void widen_block(const uint16_t *weights, int type, int64_t num_features, float *panel) {
    for (int64_t at = 0; at < num_features * TILE; at += LANES)
        store_floats(panel + at, load_as_floats(weights, type, at));
}

/* Rows lie block by block, [block][M][MAX_FEATURES]: powers of 2 apart, they would push each other out of the cache. */
static void widen_rows(const rows_t *x, int64_t start, int64_t count, float *values) {
    for (int64_t row = 0; row < x->num_rows; row++)
        read_floats(x->data, x->type, row * x->stride + start, count,
                    values + start * x->num_rows + row * MAX_FEATURES);
}

/* Multiply rows `first` to `first` + `num_rows` by the outputs of one tile. */
static void multiply_tile(const half_matrix_t *matrix, const float *values, const rows_t *y, int64_t tile,
                          int64_t first, int64_t num_rows) {
    float panel[MAX_FEATURES * TILE] __attribute__((aligned(64)));
    floats sums[MAX_PANEL_ROWS * HALVES];
    for (int64_t i = 0; i < num_rows * HALVES; i++) sums[i] = zero_floats();
    const int64_t num_in = matrix->num_in;
    const int is_direct = num_rows <= MAX_DIRECT_ROWS;
    const int64_t num_passes = divide_up(num_rows, is_direct ? PACKED_KERNEL_ROWS : MAX_KERNEL_ROWS);
    for (int64_t start = 0; start < num_in; start += MAX_FEATURES) {
        const uint16_t *weights = matrix->weights + (tile * num_in + start) * TILE;
        half_block_t block = {.weights = is_direct ? (const void *)weights : panel};
        block.num_features = num_in - start < MAX_FEATURES ? num_in - start : MAX_FEATURES;
        if (!is_direct) widen_block(weights, matrix->type, block.num_features, panel);
        for (int64_t pass = 0; pass < num_passes; pass++) {
            const int64_t row = num_rows * pass / num_passes, end = num_rows * (pass + 1) / num_passes;
            block.values = values + start * y->num_rows + (first + row) * MAX_FEATURES;
            block.sums = sums + row * HALVES;
            kernel_of(is_direct ? matrix->type : FLOAT32, end - row)(&block);
        }
    }
    for (int64_t row = 0; row < num_rows; row++)
        write_outputs(sums + row * HALVES, matrix->num_out, tile, y, first + row);
}

/* Write x [M, K] times the matrix to y [M, N]; both of any float type. */
void half_multiply(const half_matrix_t *matrix, const rows_t *x, const rows_t *y, void *scratch, int num_threads) {
    const int64_t num_rows = x->num_rows, num_in = matrix->num_in, num_tiles = divide_up(matrix->num_out, TILE);
    const int team = useful_threads(num_threads, num_rows * num_in * matrix->num_out);
#pragma omp parallel num_threads(team)
    {
#pragma omp for
        for (int64_t start = 0; start < num_in; start += MAX_FEATURES)
            widen_rows(x, start, num_in - start < MAX_FEATURES ? num_in - start : MAX_FEATURES, scratch);
        for (int64_t first = 0; first < num_rows; first += MAX_PANEL_ROWS) {
            const int64_t left = num_rows - first;
#pragma omp for nowait
            for (int64_t tile = 0; tile < num_tiles; tile++)
                multiply_tile(matrix, scratch, y, tile, first, left < MAX_PANEL_ROWS ? left : MAX_PANEL_ROWS);
        }
    }
}
