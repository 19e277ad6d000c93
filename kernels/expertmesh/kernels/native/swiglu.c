/* A whole SwiGLU expert. Knows the formula; the kinds of matrices multiply.

   y = (silu(x gate) * (x up)) down. Between the products values are float32 before quantized codes, and of the type of x
   before a dense matrix. The result of a row depends on nothing but that row, as in matrix.c. */

#include "matrix.h"

/* gate and up [F, D] are stored alike, so that they share the prepared rows; down is [D, F]. */
typedef struct {
    const matrix_t *gate, *up, *down;
} expert_t;

static ALWAYS_INLINE floats silu(floats x) {
    const floats one = same_floats(1.0f);
    return divide_floats(x, add_floats(one, exp2_floats(multiply_floats(x, same_floats(-LOG2_E)))));
}

/* Describe silu(gate) * up [M, tiles * TILE], in `memory`. */
static rows_t lay_out_inner(const expert_t *expert, const rows_t *x, void *memory) {
    return (rows_t){
        .data = memory,
        .num_rows = x->num_rows,
        .stride = kind_of(expert->gate)->layout_of(expert->gate).num_tiles * TILE,
        .type = expert->down->kind == DENSE ? x->type : FLOAT32,
    };
}

static int64_t inner_bytes(const rows_t *inner) { return inner->num_rows * inner->stride * (int64_t)sizeof(float); }

/* Bytes of scratch memory that the expert needs for rows like `x`. */
int64_t swiglu_scratch_bytes(const expert_t *expert, const rows_t *x) {
    const rows_t inner = lay_out_inner(expert, x, NULL);
    return matrix_scratch_bytes(expert->gate, x) + matrix_scratch_bytes(expert->down, &inner) + inner_bytes(&inner);
}

/* Write silu(gate) * up of one tile of the FFN to `inner`. */
static void activate_tile(const expert_t *expert, const input_t *x, int64_t tile, const rows_t *inner) {
    const kind_t *kind = kind_of(expert->gate);
    floats gate[MAX_PANEL_ROWS * HALVES], up[MAX_PANEL_ROWS * HALVES];
    for (int64_t first = 0; first < x->num_rows; first += rows_per_panel(x->num_rows)) {
        const int64_t num_rows = panel_rows(x->num_rows, first);
        kind->multiply_tile(expert->gate, x, tile, first, num_rows, gate);
        kind->multiply_tile(expert->up, x, tile, first, num_rows, up);
        for (int64_t i = 0; i < num_rows * HALVES; i++) gate[i] = multiply_floats(silu(gate[i]), up[i]);
        write_outputs(gate, num_rows, inner->stride, tile, inner, first);
    }
}

static void project_tile(const expert_t *expert, const input_t *inner, int64_t tile, const rows_t *y) {
    floats sums[MAX_PANEL_ROWS * HALVES];
    for (int64_t first = 0; first < inner->num_rows; first += rows_per_panel(inner->num_rows)) {
        const int64_t num_rows = panel_rows(inner->num_rows, first);
        kind_of(expert->down)->multiply_tile(expert->down, inner, tile, first, num_rows, sums);
        write_outputs(sums, num_rows, expert->down->num_out, tile, y, first);
    }
}

static void prepare_rows(const matrix_t *matrix, const rows_t *x, const input_t *input) {
#pragma omp for
    for (int64_t block = 0; block < input->layout.num_blocks; block++)
        kind_of(matrix)->prepare(matrix, x, block, input);
}

/* Run the expert on x [M, D] and write y [M, D]; both of any float type. */
void swiglu_run(const expert_t *expert, const rows_t *x, const rows_t *y, void *scratch, int num_threads) {
    const rows_t inner = lay_out_inner(expert, x, scratch);
    char *free_scratch = (char *)scratch + inner_bytes(&inner);
    const input_t wide = lay_out_input(expert->gate, x, free_scratch);
    free_scratch += matrix_scratch_bytes(expert->gate, x);
    const input_t narrow = lay_out_input(expert->down, &inner, free_scratch);
    const int64_t num_wide = wide.layout.num_tiles, num_narrow = narrow.layout.num_tiles;
    const int team = useful_threads(num_threads, 3 * x->num_rows * expert->gate->num_in * expert->gate->num_out);
#pragma omp parallel num_threads(team)
    {
        prepare_rows(expert->gate, x, &wide);
#pragma omp for schedule(dynamic, tiles_at_once(num_wide, team))
        for (int64_t tile = 0; tile < num_wide; tile++) activate_tile(expert, &wide, tile, &inner);
        prepare_rows(expert->down, &inner, &narrow);
#pragma omp for schedule(dynamic, tiles_at_once(num_narrow, team)) nowait
        for (int64_t tile = 0; tile < num_narrow; tile++) project_tile(expert, &narrow, tile, y);
    }
}

static void activate_row(const rows_t *gate, const rows_t *up, const rows_t *y, int64_t num_features, int64_t row) {
    for (int64_t k = 0; k < num_features; k += LANES) {
        const int64_t left = num_features - k, count = left < LANES ? left : LANES;
        float values[2][LANES] = {{0}};
        read_floats(gate->data, gate->type, row * gate->stride + k, count, values[0]);
        read_floats(up->data, up->type, row * up->stride + k, count, values[1]);
        store_floats(values[0], multiply_floats(silu(load_floats(values[0])), load_floats(values[1])));
        for (int64_t i = 0; i < count; i++) write_float(y->data, y->type, row * y->stride + k + i, values[0][i]);
    }
}

/* Write silu(gate) * up to y, all [M, `num_features`], for experts whose matrices are multiplied one by one. torch's
   silu gives the last elements of a thread's share other bits. */
void swiglu_activate(const rows_t *gate, const rows_t *up, const rows_t *y, int64_t num_features, int num_threads) {
#pragma omp parallel for num_threads(useful_threads(num_threads, y->num_rows * num_features))
    for (int64_t row = 0; row < y->num_rows; row++) activate_row(gate, up, y, num_features, row);
}
