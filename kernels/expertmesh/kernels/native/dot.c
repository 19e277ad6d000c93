/* Layout of packed matrices, and the loops around the kernels that multiply them; see dot.h. */

#include "dot.h"

static inline const precision_t *precision_of(const matrix_t *matrix) {
    return matrix->activation_bits == 8 ? &int8dot : &int16dot;
}

layout_t layout_of(const matrix_t *matrix) {
    const precision_t *precision = precision_of(matrix);
    const int64_t chunk = chunk_features(matrix->bits), part = precision->part_size;
    const int64_t unit = part ? part : chunk;
    layout_t layout;
    layout.num_tiles = divide_up(matrix->num_out, TILE);
    layout.num_groups = matrix->num_in / matrix->group_size;
    layout.blocks_per_group = divide_up(matrix->group_size, MAX_FEATURES);
    layout.num_blocks = layout.num_groups * layout.blocks_per_group;
    layout.block_size = divide_up(divide_up(matrix->group_size, layout.blocks_per_group), unit) * unit;
    layout.block_words = layout.block_size / chunk * TILE;
    layout.parts = part ? layout.block_size / part : 1;
    layout.row_bytes = layout.block_size * precision->value_bytes;
    return layout;
}

/* The first feature of a block, and how many it has; later blocks of a group may have fewer than the block size. */
static int64_t block_start(const matrix_t *matrix, const layout_t *layout, int64_t block, int64_t *num_features) {
    const int64_t offset = block % layout->blocks_per_group * layout->block_size;
    const int64_t left = matrix->group_size - offset;
    *num_features = left < 0 ? 0 : left < layout->block_size ? left : layout->block_size;
    return block / layout->blocks_per_group * matrix->group_size + (left < 0 ? 0 : offset);
}

/* ---- packing ---- */

static void pack_tile(const matrix_t *matrix, const layout_t *layout, int64_t tile, const uint8_t *codes) {
    const int64_t num_chunks = layout->block_size / chunk_features(matrix->bits);
    uint32_t *words = matrix->codes + tile * layout->num_blocks * layout->block_words;
    for (int64_t block = 0; block < layout->num_blocks; block++, words += layout->block_words)
        for (int lane = 0; lane < TILE; lane++) {
            uint8_t padded[MAX_BLOCK] = {0};
            int64_t num_features, start = block_start(matrix, layout, block, &num_features);
            if (tile * TILE + lane < matrix->num_out)
                memcpy(padded, codes + (tile * TILE + lane) * matrix->num_in + start, num_features);
            precision_of(matrix)->pack(padded, matrix->bits, num_chunks, words + lane);
        }
}

int64_t dot_tile_outputs(void) { return TILE; }

/* Bytes of the packed codes. */
int64_t dot_codes_bytes(const matrix_t *matrix) {
    const layout_t layout = layout_of(matrix);
    return layout.num_tiles * layout.num_blocks * layout.block_words * (int64_t)sizeof(uint32_t);
}

/* Fill the codes of `matrix` from [N, K] bytes. */
void dot_pack(const matrix_t *matrix, const uint8_t *codes, int num_threads) {
    const layout_t layout = layout_of(matrix);
#pragma omp parallel for num_threads(num_threads)
    for (int64_t tile = 0; tile < layout.num_tiles; tile++) pack_tile(matrix, &layout, tile, codes);
}

/* ---- rows ---- */

int64_t dot_scratch_bytes(const matrix_t *matrix, int64_t num_rows) {
    const layout_t layout = layout_of(matrix);
    return layout.num_blocks * num_rows * (layout.row_bytes + (layout.parts + 1) * (int64_t)sizeof(float));
}

input_t dot_input(const matrix_t *matrix, int64_t num_rows, void *scratch) {
    const layout_t layout = layout_of(matrix);
    const int64_t count = layout.num_blocks * num_rows;
    float *scales = scratch;
    char *sums = (char *)(scales + count * layout.parts);
    return (input_t){.num_rows = num_rows, .scales = scales, .sums = sums, .values = sums + count * sizeof(float)};
}

void dot_quantize(const matrix_t *matrix, const layout_t *layout, const rows_t *x, int64_t block,
                  const input_t *input) {
    int64_t num_features, start = block_start(matrix, layout, block, &num_features);
    for (int64_t row = 0; row < x->num_rows; row++) {
        const int64_t at = block * x->num_rows + row;
        float padded[MAX_BLOCK] = {0};
        read_floats(x->data, x->type, row * x->stride + start, num_features, padded);
        precision_of(matrix)->quantize(padded, layout->block_size,
                                       input->values + at * layout->row_bytes,
                                       input->scales + at * layout->parts, input->sums + at * sizeof(float));
    }
}

/* ---- multiplying ---- */

void dot_multiply_tile(const matrix_t *matrix, const layout_t *layout, const input_t *input, int64_t tile,
                       int64_t first, int64_t num_rows, floats *sums) {
    const precision_t *precision = precision_of(matrix);
    uint32_t panel[MAX_BLOCK / 2 * TILE] __attribute__((aligned(64)));
    for (int64_t i = 0; i < num_rows * HALVES; i++) sums[i] = zero_floats();
    if (num_rows <= MAX_RUN_ROWS) {
        precision->runner_of(matrix->bits, num_rows)(&(run_t){matrix, layout, input, tile, first, sums});
        return;
    }
    const int is_direct = num_rows <= precision->max_direct_rows;
    const int bits = is_direct ? matrix->bits : 16;
    const int64_t num_packed_chunks = layout->block_size / chunk_features(matrix->bits);
    pass_t passes[MAX_PASSES];
    const int64_t num_passes = plan_passes(num_rows, is_direct ? PACKED_KERNEL_ROWS : MAX_KERNEL_ROWS, passes);
    kernel_t kernels[MAX_PASSES];
    for (int64_t pass = 0; pass < num_passes; pass++) kernels[pass] = precision->kernel_of(bits, passes[pass].num_rows);
    block_t block = {.block_size = layout->block_size, .num_chunks = layout->block_size / chunk_features(bits)};
    const uint32_t *codes = codes_of(matrix, layout, tile);
    group_t group = first_group(layout, tile);
    for (int64_t index = 0; index < layout->num_blocks; index++, codes += layout->block_words) {
        block.codes = codes;
        if (!is_direct) {
            precision->unpack(codes, num_packed_chunks, matrix->bits, panel);
            block.codes = panel;
        }
        enter_group(matrix, group, &block);
        group = next_group(group, layout);
        for (int64_t pass = 0; pass < num_passes; pass++) {
            const int64_t row = passes[pass].row;
            enter_rows(input, layout, index, first + row, &block);
            block.sums = sums + row * HALVES;
            kernels[pass](&block);
        }
    }
}

/* Write x [M, K] times the matrix to y [M, N]; both of any float type. */
void dot_multiply(const matrix_t *matrix, const rows_t *x, const rows_t *y, void *scratch, int num_threads) {
    const layout_t layout = layout_of(matrix);
    const input_t input = dot_input(matrix, x->num_rows, scratch);
    const int team = useful_threads(num_threads, x->num_rows * matrix->num_in * matrix->num_out);
#pragma omp parallel num_threads(team)
    {
#pragma omp for
        for (int64_t block = 0; block < layout.num_blocks; block++) dot_quantize(matrix, &layout, x, block, &input);
        for (int64_t first = 0; first < x->num_rows; first += MAX_PANEL_ROWS) {
            const int64_t num_rows = panel_rows(x->num_rows, first);
#pragma omp for schedule(dynamic, tiles_at_once(layout.num_tiles, team)) nowait
            for (int64_t tile = 0; tile < layout.num_tiles; tile++) {
                floats sums[MAX_PANEL_ROWS * HALVES];
                dot_multiply_tile(matrix, &layout, &input, tile, first, num_rows, sums);
                write_outputs(sums, num_rows, matrix->num_out, tile, y, first);
            }
        }
    }
}
