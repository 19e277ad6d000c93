/* A packed, quantized matrix and what is done to it in pieces: quantize a block of the rows, multiply by a tile. Knows
   sizes; int16dot.c says how codes are laid out. */

#ifndef EXPERTMESH_INT16DOT_H
#define EXPERTMESH_INT16DOT_H

#include "common.h"

/* A packed matrix [N, K]; `bits` is 2, 3, 4 or 8. Scales and zeros are [tile][group][TILE]. */
typedef struct {
    int64_t num_out, num_in, group_size;
    int32_t bits, scale_type;
    uint16_t *codes;
    void *scales;
    uint8_t *zeros;
} matrix_t;

/* Quantized rows: values [block][M][block size], scales and sums [block][M]. */
typedef struct {
    int64_t num_rows;
    int16_t *values;
    float *scales;
    int32_t *sums;
} input_t;

/* Sizes that follow from N, K, the group size and the bits. A group is cut into equal blocks. */
typedef struct {
    int64_t num_tiles, num_groups, blocks_per_group, num_blocks, block_size, block_words;
} layout_t;

static inline int codes_per_word(int bits) { return 16 / bits; }

static inline layout_t layout_of(const matrix_t *matrix) {
    layout_t layout;
    const int64_t chunk = 2 * codes_per_word(matrix->bits);
    layout.num_tiles = divide_up(matrix->num_out, TILE);
    layout.num_groups = matrix->num_in / matrix->group_size;
    layout.blocks_per_group = divide_up(matrix->group_size, MAX_FEATURES);
    layout.num_blocks = layout.num_groups * layout.blocks_per_group;
    layout.block_size = divide_up(divide_up(matrix->group_size, layout.blocks_per_group), chunk) * chunk;
    layout.block_words = layout.block_size / chunk * 2 * TILE;
    return layout;
}

/* Bytes of scratch memory that quantized rows take. */
int64_t int16dot_scratch_bytes(const matrix_t *matrix, int64_t num_rows);

/* Rows that are to be quantized into `scratch`. */
input_t int16dot_input(const matrix_t *matrix, int64_t num_rows, void *scratch);

/* Quantize one block of all rows of x [M, K]. */
void int16dot_quantize(const matrix_t *matrix, const layout_t *layout, const rows_t *x, int64_t block,
                       const input_t *input);

/* Multiply rows `first` to `first` + `num_rows` (at most MAX_PANEL_ROWS) by one tile; `sums` is [rows][HALVES]. */
void int16dot_multiply_tile(const matrix_t *matrix, const layout_t *layout, const input_t *input, int64_t tile,
                            int64_t first, int64_t num_rows, floats *sums);

#endif
