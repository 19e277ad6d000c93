/* The loops around the kernels of packed matrices; see matrix.h. */

#include "matrix.h"

int64_t matrix_tile_outputs(void) { return TILE; }

/* Bytes of the packed weights. */
int64_t matrix_bytes(const matrix_t *matrix) {
    const layout_t layout = kind_of(matrix)->layout_of(matrix);
    return layout.num_tiles * layout.num_blocks * layout.block_words * (int64_t)sizeof(uint32_t);
}

/* Fill the weights of `matrix` from [N, K] bytes of codes, or [N, K] of their type. */
void matrix_pack(const matrix_t *matrix, const void *weights, int num_threads) {
    const layout_t layout = kind_of(matrix)->layout_of(matrix);
#pragma omp parallel for num_threads(num_threads)
    for (int64_t tile = 0; tile < layout.num_tiles; tile++)
        kind_of(matrix)->pack_tile(matrix, &layout, tile, weights);
}

/* Fill the weights of a quantized `matrix` from the bit streams of its outputs. */
void matrix_pack_streams(const matrix_t *matrix, const stream_t *streams, int num_threads) {
    const layout_t layout = kind_of(matrix)->layout_of(matrix);
#pragma omp parallel for num_threads(num_threads)
    for (int64_t tile = 0; tile < layout.num_tiles; tile++)
        kind_of(matrix)->pack_streams(matrix, &layout, tile, streams);
}

/* What is known of prepared rows before there is memory for them. */
static input_t describe_input(const matrix_t *matrix, const rows_t *x) {
    input_t input = {.layout = kind_of(matrix)->layout_of(matrix), .num_rows = x->num_rows};
    kind_of(matrix)->choose_form(matrix, x, &input);
    return input;
}

int64_t matrix_scratch_bytes(const matrix_t *matrix, const rows_t *x) {
    const input_t input = describe_input(matrix, x);
    const int64_t count = input.layout.num_blocks * x->num_rows;
    const int64_t value_bytes = input.layout.num_blocks * padded_rows(&input) * input.row_bytes;
    return CACHE_LINE + count * (input.layout.parts + 1) * (int64_t)sizeof(float) + value_bytes;
}

input_t lay_out_input(const matrix_t *matrix, const rows_t *x, void *scratch) {
    input_t input = describe_input(matrix, x);
    const int64_t count = input.layout.num_blocks * x->num_rows;
    /* Values begin a line of the cache, so that no vector and no row of a tile lies on two. */
    input.values = (char *)(divide_up((intptr_t)scratch, CACHE_LINE) * CACHE_LINE);
    input.scales = (float *)(input.values + input.layout.num_blocks * padded_rows(&input) * input.row_bytes);
    input.sums = (char *)(input.scales + count * input.layout.parts);
    return input;
}

int64_t rows_per_panel(int64_t num_rows) {
    const int64_t num_panels = divide_up(num_rows, MAX_PANEL_ROWS);
    return num_panels ? divide_up(divide_up(num_rows, num_panels), ROW_UNIT) * ROW_UNIT : 0;
}

static void write_row(const floats sums[HALVES], int64_t count, int type, void *data, int64_t at) {
    float values[TILE];
    for (int half = 0; half < HALVES; half++) store_floats(values + half * LANES, sums[half]);
    if (type == FLOAT32) {
        memcpy((float *)data + at, values, count * sizeof(float));
        return;
    }
    uint16_t halves[TILE];
    for (int i = 0; i < TILE; i++) halves[i] = type == FLOAT16 ? float16_of(values[i]) : bfloat16_of(values[i]);
    memcpy((uint16_t *)data + at, halves, count * sizeof(uint16_t));
}

void write_outputs(const floats *sums, int64_t num_rows, int64_t num_out, int64_t tile, const rows_t *y, int64_t first) {
    const int64_t left = num_out - tile * TILE, count = left < TILE ? left : TILE;
    for (int64_t row = 0; row < num_rows; row++)
        write_row(sums + row * HALVES, count, y->type, y->data, (first + row) * y->stride + tile * TILE);
}

/* Write x [M, K] times the matrix to y [M, N]; both of any float type. */
void matrix_multiply(const matrix_t *matrix, const rows_t *x, const rows_t *y, void *scratch, int num_threads) {
    const kind_t *kind = kind_of(matrix);
    const input_t input = lay_out_input(matrix, x, scratch);
    const int64_t num_tiles = input.layout.num_tiles;
    const int team = useful_threads(num_threads, x->num_rows * matrix->num_in * matrix->num_out);
#pragma omp parallel num_threads(team)
    {
#pragma omp for
        for (int64_t block = 0; block < input.layout.num_blocks; block++) kind->prepare(matrix, x, block, &input);
        for (int64_t first = 0; first < x->num_rows; first += rows_per_panel(x->num_rows)) {
            const int64_t num_rows = panel_rows(x->num_rows, first);
#pragma omp for schedule(dynamic, tiles_at_once(num_tiles, team)) nowait
            for (int64_t tile = 0; tile < num_tiles; tile++) {
                floats sums[MAX_PANEL_ROWS * HALVES];
                kind->multiply_tile(matrix, &input, tile, first, num_rows, sums);
                write_outputs(sums, num_rows, matrix->num_out, tile, y, first);
            }
        }
    }
}
