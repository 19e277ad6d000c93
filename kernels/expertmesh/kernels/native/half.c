/* Products of float16 and bfloat16 matrices in float32. Knows the packed layout; not files or torch.

   y[m, n] = sum over k of x[m, k] * w[n, k]

   Each block of 128 features is summed in order of k, blocks are added up in ascending order, whatever the number of
   rows or threads: the result of a row depends on nothing but that row. Packed weights are [tile][k][TILE]; in bfloat16
   the two halves of a tile alternate, so that a shift and a mask turn one vector of words into two of floats. */

#include "common.h"

/* A packed matrix [N, K]; `type` is FLOAT16 or BFLOAT16. */
typedef struct {
    int64_t num_out, num_in;
    int32_t type;
    uint16_t *weights;
} half_matrix_t;

/* What a block's kernel works on: weights of one tile, rows of MAX_FEATURES floats, sums [rows][HALVES] to add to. */
typedef struct {
    const uint16_t *weights;
    int64_t num_features;
    const float *values;
    floats *sums;
} half_block_t;

/* Where the weight of an output of a tile lies among those of its feature. */
static inline int place_of(int type, int lane) {
    return type == BFLOAT16 ? HALVES * (lane % LANES) + lane / LANES : lane;
}

static ALWAYS_INLINE void load_weights(const uint16_t *weights, const int type, floats values[HALVES]) {
    if (type == BFLOAT16) {
        const ints words = load_ints(weights);
        values[0] = cast_to_floats(shift_ints_left(words, 16));
        values[1] = cast_to_floats(and_ints(words, same_ints((int32_t)0xffff0000)));
    } else {
        values[0] = floats_of_halves(weights);
        values[1] = floats_of_halves(weights + LANES);
    }
}

/* Fill the weights of `matrix` from [N, K] halves. */
void half_pack(const half_matrix_t *matrix, const uint16_t *weights, int num_threads) {
    const int64_t num_in = matrix->num_in;
#pragma omp parallel for num_threads(num_threads)
    for (int64_t tile = 0; tile < divide_up(matrix->num_out, TILE); tile++)
        for (int lane = 0; lane < TILE; lane++) {
            const int64_t out = tile * TILE + lane;
            uint16_t *words = matrix->weights + tile * num_in * TILE + place_of(matrix->type, lane);
            for (int64_t k = 0; k < num_in; k++)
                words[k * TILE] = out < matrix->num_out ? weights[out * num_in + k] : 0;
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
    const uint16_t *weights = block->weights;
    for (int64_t k = 0; k < block->num_features; k++, weights += TILE) {
        if (k * 2 * TILE % CACHE_LINE == 0) _mm_prefetch((const char *)weights + PREFETCH_BYTES, _MM_HINT_T0);
        floats wide[HALVES];
        load_weights(weights, type, wide);
#pragma GCC unroll 8
        for (int row = 0; row < num_rows; row++) {
            const floats value = same_floats(block->values[row * MAX_FEATURES + k]);
            sums[row][0] = multiply_add_floats(wide[0], value, sums[row][0]);
            sums[row][1] = multiply_add_floats(wide[1], value, sums[row][1]);
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
#define KERNELS(type) \
    KERNEL(type, 1) KERNEL(type, 2) KERNEL(type, 3) KERNEL(type, 4) KERNEL(type, 5) KERNEL(type, 6)
#define NAMES(type) \
    {add_##type##_1, add_##type##_2, add_##type##_3, add_##type##_4, add_##type##_5, add_##type##_6}
KERNELS(FLOAT16) KERNELS(BFLOAT16)

static kernel_t kernel_of(int type, int64_t num_rows) {
    static const kernel_t kernels[][MAX_KERNEL_ROWS] = {[FLOAT16] = NAMES(FLOAT16), [BFLOAT16] = NAMES(BFLOAT16)};
    return kernels[type][num_rows - 1];
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
    floats sums[MAX_PANEL_ROWS * HALVES];
    for (int64_t i = 0; i < num_rows * HALVES; i++) sums[i] = zero_floats();
    const int64_t num_in = matrix->num_in;
    pass_t passes[MAX_PASSES];
    const int64_t num_passes = plan_passes(num_rows, MAX_KERNEL_ROWS, passes);
    for (int64_t start = 0; start < num_in; start += MAX_FEATURES) {
        half_block_t block = {.weights = matrix->weights + (tile * num_in + start) * TILE};
        block.num_features = num_in - start < MAX_FEATURES ? num_in - start : MAX_FEATURES;
        for (int64_t pass = 0; pass < num_passes; pass++) {
            const int64_t row = passes[pass].row;
            block.values = values + start * y->num_rows + (first + row) * MAX_FEATURES;
            block.sums = sums + row * HALVES;
            kernel_of(matrix->type, passes[pass].num_rows)(&block);
        }
    }
    write_outputs(sums, num_rows, matrix->num_out, tile, y, first);
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
#pragma omp for schedule(dynamic, tiles_at_once(num_tiles, team)) nowait
            for (int64_t tile = 0; tile < num_tiles; tile++)
                multiply_tile(matrix, scratch, y, tile, first, panel_rows(num_rows, first));
        }
    }
}
