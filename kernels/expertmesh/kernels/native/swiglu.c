/* A whole SwiGLU expert of quantized matrices. Knows the formula; dot.c multiplies.

   y = (silu(x gate) * (x up)) down, with float32 between the products. The result of a row depends on nothing but that
   row, as it does in dot.c. */

#include "dot.h"

/* gate and up [F, D] are stored alike, so that they share the quantized rows; down is [D, F]. */
typedef struct {
    const matrix_t *gate, *up, *down;
} expert_t;

static ALWAYS_INLINE floats silu(floats x) {
    const floats one = same_floats(1.0f);
    return divide_floats(x, add_floats(one, exp2_floats(multiply_floats(x, same_floats(-LOG2_E)))));
}

/* Bytes of scratch memory that the expert needs for `num_rows` rows. */
int64_t swiglu_scratch_bytes(const expert_t *expert, int64_t num_rows) {
    return dot_scratch_bytes(expert->gate, num_rows) + dot_scratch_bytes(expert->down, num_rows) +
           num_rows * layout_of(expert->gate).num_tiles * TILE * (int64_t)sizeof(float);
}

/* Write silu(gate) * up of one tile of the FFN to `inner` [M, tiles * TILE]. */
static void activate_tile(const expert_t *expert, const layout_t *layout, const input_t *x, int64_t tile,
                          const rows_t *inner) {
    floats gate[MAX_PANEL_ROWS * HALVES], up[MAX_PANEL_ROWS * HALVES];
    for (int64_t first = 0; first < x->num_rows; first += MAX_PANEL_ROWS) {
        const int64_t num_rows = panel_rows(x->num_rows, first);
        dot_multiply_tile(expert->gate, layout, x, tile, first, num_rows, gate);
        dot_multiply_tile(expert->up, layout, x, tile, first, num_rows, up);
        for (int64_t i = 0; i < num_rows * HALVES; i++) gate[i] = multiply_floats(silu(gate[i]), up[i]);
        write_outputs(gate, num_rows, inner->stride, tile, inner, first);
    }
}

static void project_tile(const expert_t *expert, const layout_t *layout, const input_t *inner, int64_t tile,
                         const rows_t *y) {
    floats sums[MAX_PANEL_ROWS * HALVES];
    for (int64_t first = 0; first < inner->num_rows; first += MAX_PANEL_ROWS) {
        const int64_t num_rows = panel_rows(inner->num_rows, first);
        dot_multiply_tile(expert->down, layout, inner, tile, first, num_rows, sums);
        write_outputs(sums, num_rows, expert->down->num_out, tile, y, first);
    }
}

/* Run the expert on x [M, D] and write y [M, D]; both of any float type. */
void swiglu_run(const expert_t *expert, const rows_t *x, const rows_t *y, void *scratch, int num_threads) {
    const layout_t wide = layout_of(expert->gate), narrow = layout_of(expert->down);
    const int64_t num_rows = x->num_rows, stride = wide.num_tiles * TILE;
    const rows_t inner = {.data = scratch, .num_rows = num_rows, .stride = stride, .type = FLOAT32};
    char *free_scratch = (char *)scratch + num_rows * stride * (int64_t)sizeof(float);
    const input_t wide_input = dot_input(expert->gate, num_rows, free_scratch);
    free_scratch += dot_scratch_bytes(expert->gate, num_rows);
    const input_t narrow_input = dot_input(expert->down, num_rows, free_scratch);
    const int team = useful_threads(num_threads, 3 * num_rows * expert->gate->num_in * expert->gate->num_out);
#pragma omp parallel num_threads(team)
    {
#pragma omp for
        for (int64_t block = 0; block < wide.num_blocks; block++)
            dot_quantize(expert->gate, &wide, x, block, &wide_input);
#pragma omp for schedule(dynamic, tiles_at_once(wide.num_tiles, team))
        for (int64_t tile = 0; tile < wide.num_tiles; tile++) activate_tile(expert, &wide, &wide_input, tile, &inner);
#pragma omp for
        for (int64_t block = 0; block < narrow.num_blocks; block++)
            dot_quantize(expert->down, &narrow, &inner, block, &narrow_input);
#pragma omp for schedule(dynamic, tiles_at_once(narrow.num_tiles, team)) nowait
        for (int64_t tile = 0; tile < narrow.num_tiles; tile++) project_tile(expert, &narrow, &narrow_input, tile, y);
    }
}
