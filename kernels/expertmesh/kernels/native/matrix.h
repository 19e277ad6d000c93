/* Packed matrices [N, K] of any kind, as the loops around their kernels see them. Knows what a kind must offer.

   Rows are prepared block by block of features, once per product; then each tile of outputs is multiplied by panels of
   rows. Whatever the number of rows or threads, the result of a row depends on nothing but that row, bit by bit. */

#ifndef EXPERTMESH_MATRIX_H
#define EXPERTMESH_MATRIX_H

#include "common.h"

/* How a matrix is stored and multiplied: quantized codes beside rows of 16 or 8-bit integers, or dense. */
enum { INT16DOT, INT8DOT, DENSE, NUM_KINDS };

/* Beside codes of `bits` there are scales of `type` and zeros, both [tile][group][TILE], and so are `offsets`, which may
   be NULL: they are added to each weight of their group. Dense weights are of `type`. */
typedef struct {
    int64_t num_out, num_in, group_size;
    int32_t kind, bits, type;
    void *weights, *scales;
    uint8_t *zeros;
    float *offsets;
} matrix_t;

/* Codes as files hold them: value i of output n is bits `bits` * i to `bits` * (i + 1) of the stream of words n *
   `output_stride`, n * `output_stride` + `word_stride`, ... Code k is value order[k], or value k where that is NULL.
   AWQ's words hold eight outputs of one input: `word_stride` is from one input to the next, `output_stride` from eight
   outputs to the next eight. */
typedef struct {
    const uint32_t *words;
    const int64_t *order;
    int64_t word_stride, output_stride;
    int32_t bits, is_awq;
} stream_t;

/* Sizes that follow from a matrix; a block of features has `block_words` 32-bit words of a tile's weights. The last
   three are of quantized matrices alone. */
typedef struct {
    int64_t num_tiles, num_blocks, block_size, block_words;
    int64_t num_groups, blocks_per_group, parts;
} layout_t;

/* Prepared rows, in the words of the matrix's kind: of a block, a row has `row_bytes` of values, the scales of its parts,
   and a sum of 4 bytes. All lie [block][row], so that powers of 2 between rows do not push each other out of the cache;
   values have room for rows up to a multiple of ROW_UNIT. */
typedef struct {
    layout_t layout;
    int64_t num_rows, row_bytes;
    int32_t form;
    char *values;
    float *scales;
    char *sums;
} input_t;

typedef struct {
    layout_t (*layout_of)(const matrix_t *matrix);
    /* Fill the weights of a tile: codes from [N, K] bytes, dense ones from [N, K] of their type. */
    void (*pack_tile)(const matrix_t *matrix, const layout_t *layout, int64_t tile, const void *weights);
    /* The same from the streams of quantized matrices; NULL for dense ones. */
    void (*pack_streams)(const matrix_t *matrix, const layout_t *layout, int64_t tile, const stream_t *streams);
    /* Choose the `form` of the values, and `row_bytes`. */
    void (*choose_form)(const matrix_t *matrix, const rows_t *x, input_t *input);
    void (*prepare)(const matrix_t *matrix, const rows_t *x, int64_t block, const input_t *input);
    /* Multiply rows `first` to `first` + `num_rows` (at most MAX_PANEL_ROWS) by one tile; `sums` is
       [MAX_PANEL_ROWS][HALVES]. */
    void (*multiply_tile)(const matrix_t *matrix, const input_t *input, int64_t tile, int64_t first, int64_t num_rows,
                          floats *sums);
} kind_t;

extern const kind_t int16dot_kind, int8dot_kind, dense_kind;

static inline const kind_t *kind_of(const matrix_t *matrix) {
    static const kind_t *const kinds[NUM_KINDS] = {
        [INT16DOT] = &int16dot_kind, [INT8DOT] = &int8dot_kind, [DENSE] = &dense_kind};
    return kinds[matrix->kind];
}

/* Bytes of scratch memory that prepared rows take. */
int64_t matrix_scratch_bytes(const matrix_t *matrix, const rows_t *x);

/* Rows that are to be prepared into `scratch`. */
input_t lay_out_input(const matrix_t *matrix, const rows_t *x, void *scratch);

/* Rows of each panel but the last, which may have fewer: nearly equal shares. */
int64_t rows_per_panel(int64_t num_rows);

/* Rows of the panel that begins with row `first`. */
static inline int64_t panel_rows(int64_t num_rows, int64_t first) {
    const int64_t most = rows_per_panel(num_rows), left = num_rows - first;
    return left < most ? left : most;
}

/* Write the sums [rows][HALVES] of a tile as the type of `y`, those that exist, from row `first` on. */
void write_outputs(const floats *sums, int64_t num_rows, int64_t num_out, int64_t tile, const rows_t *y, int64_t first);

/* ---- for the kinds ---- */

static inline int64_t padded_rows(const input_t *input) { return divide_up(input->num_rows, ROW_UNIT) * ROW_UNIT; }

/* Where the values of a block begin, from row `first` on. */
static inline char *values_of(const input_t *input, int64_t block, int64_t first) {
    return input->values + (block * padded_rows(input) + first) * input->row_bytes;
}

static inline uint32_t *weights_of(const matrix_t *matrix, const layout_t *layout, int64_t tile) {
    return (uint32_t *)matrix->weights + tile * layout->num_blocks * layout->block_words;
}

/* Rows of a panel that go through a kernel together: `num_rows` from `row` on. */
typedef struct {
    int64_t row, num_rows;
} pass_t;

/* Cut the rows of a panel into passes of nearly equal size, once for all blocks: five divisions in each of these took a
   tenth of a row's time. Returns their number. */
static inline int64_t plan_passes(int64_t num_rows, int64_t max_rows, pass_t passes[MAX_PANEL_ROWS]) {
    const int64_t num_passes = divide_up(num_rows, max_rows);
    for (int64_t pass = 0; pass < num_passes; pass++) {
        const int64_t row = num_rows * pass / num_passes, end = num_rows * (pass + 1) / num_passes;
        passes[pass] = (pass_t){.row = row, .num_rows = end - row};
    }
    return num_passes;
}

#endif
