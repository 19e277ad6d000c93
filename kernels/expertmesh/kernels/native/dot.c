/* Layout of packed, quantized matrices, and the loops around the kernels that multiply a tile; see dot.h. */

#include "dot.h"

static inline const precision_t *precision_of(const matrix_t *matrix) {
    return matrix->kind == INT8DOT ? &int8dot : &int16dot;
}

static layout_t layout_of(const matrix_t *matrix) {
    const int64_t chunk = chunk_features(matrix->bits), part = precision_of(matrix)->part_size;
    const int64_t unit = part ? part : chunk;
    layout_t layout;
    layout.num_tiles = divide_up(matrix->num_out, TILE);
    layout.num_groups = matrix->num_in / matrix->group_size;
    layout.blocks_per_group = divide_up(matrix->group_size, MAX_FEATURES);
    layout.num_blocks = layout.num_groups * layout.blocks_per_group;
    layout.block_size = divide_up(divide_up(matrix->group_size, layout.blocks_per_group), unit) * unit;
    layout.block_words = layout.block_size / chunk * TILE;
    layout.parts = part ? layout.block_size / part : 1;
    return layout;
}

/* The first feature of a block, and how many it has; later blocks of a group may have fewer than the block size. */
static int64_t block_start(const matrix_t *matrix, const layout_t *layout, int64_t block, int64_t *num_features) {
    const int64_t offset = block % layout->blocks_per_group * layout->block_size;
    const int64_t left = matrix->group_size - offset;
    *num_features = left < 0 ? 0 : left < layout->block_size ? left : layout->block_size;
    return block / layout->blocks_per_group * matrix->group_size + (left < 0 ? 0 : offset);
}

static void pack_tile(const matrix_t *matrix, const layout_t *layout, int64_t tile, const void *codes) {
    const int64_t num_chunks = layout->block_size / chunk_features(matrix->bits);
    uint32_t *words = weights_of(matrix, layout, tile);
    for (int64_t block = 0; block < layout->num_blocks; block++, words += layout->block_words)
        for (int lane = 0; lane < TILE; lane++) {
            uint8_t padded[MAX_BLOCK] = {0};
            int64_t num_features, start = block_start(matrix, layout, block, &num_features);
            if (tile * TILE + lane < matrix->num_out)
                memcpy(padded, (const uint8_t *)codes + (tile * TILE + lane) * matrix->num_in + start, num_features);
            precision_of(matrix)->pack(padded, matrix->bits, num_chunks, words + lane);
        }
}

/* Read value `place` of the stream of an output. */
static ALWAYS_INLINE uint8_t read_code(const stream_t *streams, const int bits, int64_t output, int64_t place) {
    const int64_t bit = place * bits, left = 32 - bit % 32;
    const uint32_t *word = streams->words + output * streams->output_stride + bit / 32 * streams->word_stride;
    uint32_t code = *word >> bit % 32;
    if (left < bits) code |= word[streams->word_stride] << left;
    return code & ((1 << bits) - 1);
}

static ALWAYS_INLINE void read_lanes(const stream_t *streams, const int bits, int64_t output, int64_t num_lanes,
                                     int64_t start, int64_t num_features, uint8_t codes[TILE][MAX_BLOCK]) {
    for (int64_t k = 0; k < num_features; k++) {
        const int64_t place = streams->order ? streams->order[start + k] : start + k;
        for (int64_t lane = 0; lane < num_lanes; lane++) codes[lane][k] = read_code(streams, bits, output + lane, place);
    }
}

static void read_codes(const stream_t *streams, int64_t output, int64_t num_lanes, int64_t start, int64_t num_features,
                       uint8_t codes[TILE][MAX_BLOCK]) {
    if (streams->bits == 2) read_lanes(streams, 2, output, num_lanes, start, num_features, codes);
    if (streams->bits == 3) read_lanes(streams, 3, output, num_lanes, start, num_features, codes);
    if (streams->bits == 4) read_lanes(streams, 4, output, num_lanes, start, num_features, codes);
    if (streams->bits == 8) read_lanes(streams, 8, output, num_lanes, start, num_features, codes);
}

/* Outputs that the nibbles of AWQ's words hold. */
static const int awq_outputs[8] = {0, 2, 4, 6, 1, 3, 5, 7};

static void read_awq_codes(const stream_t *streams, int64_t output, int64_t num_lanes, int64_t start,
                           int64_t num_features, uint8_t codes[TILE][MAX_BLOCK]) {
    for (int64_t k = 0; k < num_features; k++)
        for (int64_t lane = 0; lane < num_lanes; lane++) {
            const int64_t at = (output + lane) / 8 * streams->output_stride + (start + k) * streams->word_stride;
            const int nibble = (output + lane) % 8 / 2 + (output + lane) % 2 * 4;
            codes[lane][k] = streams->words[at] >> 4 * nibble & 0xf;
        }
}

/* Exchange nibble i of word j and nibble j of word i, for eight words in each of so many columns. */
static void transpose_nibbles(uint32_t words[8][MAX_BLOCK / 8 * (TILE / 8)], int64_t num_columns) {
    for (int distance = 1; distance < 8; distance *= 2) {
        const int shift = 4 * distance;
        const uint32_t mask = 0xffffffffu / ((1u << shift) + 1);
        for (int i = 0; i < 8; i++) {
            if (i & distance) continue;
            uint32_t *first = words[i], *second = words[i + distance];
            for (int64_t column = 0; column < num_columns; column++) {
                const uint32_t different = (first[column] >> shift ^ second[column]) & mask;
                second[column] ^= different;
                first[column] ^= different << shift;
            }
        }
    }
}

/* Make words of eight inputs, those of a block from word `first` on, of AWQ's words of eight outputs. */
static void copy_awq_words(const stream_t *streams, int64_t output, int64_t num_lanes, int64_t first, int64_t num_words,
                           uint32_t *words) {
    uint32_t eights[8][MAX_BLOCK / 8 * (TILE / 8)];
    const uint32_t *from = streams->words + output / 8 * streams->output_stride + 8 * first * streams->word_stride;
    const int64_t width = num_lanes / 8;
    for (int64_t k = 0; k < 8 * num_words; k++, from += streams->word_stride)
        for (int64_t i = 0; i < width; i++) eights[k % 8][k / 8 * width + i] = from[i * streams->output_stride];
    transpose_nibbles(eights, num_words * width);
    for (int64_t word = 0; word < num_words; word++, words += TILE)
        for (int64_t i = 0; i < width; i++)
            for (int j = 0; j < 8; j++) words[8 * i + awq_outputs[j]] = eights[j][word * width + i];
}

/* Copy the words of a block as they lie in the streams; those past its last feature become 0. */
static void copy_words(const stream_t *streams, int64_t output, int64_t num_lanes, int64_t first, int64_t num_words,
                       uint32_t *words) {
    for (int64_t word = 0; word < num_words; word++, words += TILE) {
        const uint32_t *from = streams->words + output * streams->output_stride + (first + word) * streams->word_stride;
        if (streams->output_stride == 1 && num_lanes == TILE) memcpy(words, from, TILE * sizeof *words);
        else
            for (int64_t lane = 0; lane < num_lanes; lane++) words[lane] = from[lane * streams->output_stride];
    }
}

/* Whether a chunk is a word of the stream, and a block whole words. */
static int has_whole_words(const matrix_t *matrix, const layout_t *layout, const stream_t *streams) {
    const int has_same_bits = streams->bits == matrix->bits && 32 % matrix->bits == 0;
    const int64_t block_size = layout->blocks_per_group > 1 ? layout->block_size : matrix->group_size;
    return has_same_bits && !streams->order && block_size * matrix->bits % 32 == 0 &&
           matrix->group_size * matrix->bits % 32 == 0;
}

static void pack_streams(const matrix_t *matrix, const layout_t *layout, int64_t tile, const stream_t *streams) {
    const int64_t num_chunks = layout->block_size / chunk_features(matrix->bits);
    const int64_t left = matrix->num_out - tile * TILE, num_lanes = left < TILE ? left : TILE;
    const int is_whole = has_whole_words(matrix, layout, streams);
    const precision_t *precision = precision_of(matrix);
    uint32_t *words = weights_of(matrix, layout, tile);
    for (int64_t block = 0; block < layout->num_blocks; block++, words += layout->block_words) {
        int64_t num_features, start = block_start(matrix, layout, block, &num_features);
        if (is_whole) {
            const int64_t per_word = 32 / matrix->bits, num_words = num_features / per_word;
            if (num_lanes < TILE || num_words < num_chunks) memset(words, 0, layout->block_words * sizeof *words);
            (streams->is_awq ? copy_awq_words : copy_words)(streams, tile * TILE, num_lanes, start / per_word, num_words,
                                                            words);
            precision->arrange(words, layout->block_words, matrix->bits);
        } else {
            uint8_t codes[TILE][MAX_BLOCK] = {{0}};
            (streams->is_awq ? read_awq_codes : read_codes)(streams, tile * TILE, num_lanes, start, num_features, codes);
            for (int lane = 0; lane < TILE; lane++)
                precision->pack(codes[lane], matrix->bits, num_chunks, words + lane);
        }
    }
}

/* ---- rows ---- */

static void choose_form(const matrix_t *matrix, const rows_t *x, input_t *input) {
    const precision_t *precision = precision_of(matrix);
    input->form = HAS_TILES && x->num_rows >= precision->min_tiled_rows ? FOR_TILES : FOR_VECTORS;
    input->row_bytes = precision->row_bytes(input->layout.block_size, input->form);
}

static void prepare(const matrix_t *matrix, const rows_t *x, int64_t block, const input_t *input) {
    const layout_t *layout = &input->layout;
    int64_t num_features, start = block_start(matrix, layout, block, &num_features);
    for (int64_t row = 0; row < x->num_rows; row++) {
        const int64_t at = block * x->num_rows + row;
        float padded[MAX_BLOCK] = {0};
        read_floats(x->data, x->type, row * x->stride + start, num_features, padded);
        precision_of(matrix)->quantize(padded, layout->block_size, input->form, values_of(input, block, row),
                                       input->scales + at * layout->parts, input->sums + at * sizeof(float));
    }
}

/* ---- multiplying ---- */

/* Rows of a panel, pass by pass: each block's codes as they are, or unpacked to 16 bits first. */
static void multiply_vectors(const matrix_t *matrix, const input_t *input, int64_t tile, int64_t first,
                             int64_t num_rows, floats *sums) {
    const precision_t *precision = precision_of(matrix);
    const layout_t *layout = &input->layout;
    uint32_t panel[MAX_BLOCK / 2 * TILE] __attribute__((aligned(64)));
    const int is_direct = num_rows <= precision->max_direct_rows;
    const int bits = is_direct ? matrix->bits : 16;
    const int64_t num_packed_chunks = layout->block_size / chunk_features(matrix->bits);
    pass_t passes[MAX_PANEL_ROWS];
    const int64_t num_passes =
        plan_passes(num_rows, is_direct ? precision->direct_kernel_rows : precision->panel_kernel_rows, passes);
    kernel_t kernels[MAX_PANEL_ROWS];
    for (int64_t pass = 0; pass < num_passes; pass++) kernels[pass] = precision->kernel_of(bits, passes[pass].num_rows);
    block_t block = {.row_bytes = input->row_bytes, .num_chunks = layout->block_size / chunk_features(bits)};
    const uint32_t *codes = weights_of(matrix, layout, tile);
    group_t group = first_group(layout, tile);
    for (int64_t index = 0; index < layout->num_blocks; index++, codes += layout->block_words) {
        enter_group(matrix, group, &block);
        block.codes = is_direct ? codes : panel;
        if (!is_direct) precision->unpack(codes, num_packed_chunks, matrix->bits, block.zeros, panel);
        group = next_group(group, layout);
        for (int64_t pass = 0; pass < num_passes; pass++) {
            const int64_t row = passes[pass].row;
            enter_rows(input, index, first + row, &block);
            block.sums = sums + row * HALVES;
            kernels[pass](&block);
        }
    }
}

#if HAS_TILES
/* Rows of a panel, all at once, in AMX's tiles. */
static void multiply_tiles(const matrix_t *matrix, const input_t *input, int64_t tile, int64_t first,
                           int64_t num_rows, floats *sums) {
    const precision_t *precision = precision_of(matrix);
    const layout_t *layout = &input->layout;
    uint32_t panel[MAX_BLOCK_BYTES / 4 * TILE] __attribute__((aligned(64)));
    const int64_t num_chunks = layout->block_size / chunk_features(matrix->bits);
    block_t block = {.codes = panel, .row_bytes = input->row_bytes, .sums = sums};
    const uint32_t *codes = weights_of(matrix, layout, tile);
    group_t group = first_group(layout, tile);
    tiles_begin((int)precision->tile_bytes);
    for (int64_t index = 0; index < layout->num_blocks; index++, codes += layout->block_words) {
        precision->unpack_bytes(codes, num_chunks, matrix->bits, panel);
        enter_group(matrix, group, &block);
        enter_rows(input, index, first, &block);
        precision->add_tiles(&block, num_rows);
        group = next_group(group, layout);
    }
    tiles_end();
}
#endif

static void multiply_codes(const matrix_t *matrix, const input_t *input, int64_t tile, int64_t first, int64_t num_rows,
                           floats *sums) {
#if HAS_TILES
    if (input->form == FOR_TILES) {
        multiply_tiles(matrix, input, tile, first, num_rows, sums);
        return;
    }
#endif
    if (num_rows <= MAX_RUN_ROWS)
        precision_of(matrix)->runner_of(matrix->bits, num_rows)(&(run_t){matrix, input, tile, first, sums});
    else multiply_vectors(matrix, input, tile, first, num_rows, sums);
}

static void multiply_tile(const matrix_t *matrix, const input_t *input, int64_t tile, int64_t first, int64_t num_rows,
                          floats *sums) {
    for (int64_t i = 0; i < num_rows * HALVES; i++) sums[i] = zero_floats();
    multiply_codes(matrix, input, tile, first, num_rows, sums);
    if (matrix->offsets) precision_of(matrix)->add_offsets(&(run_t){matrix, input, tile, first, sums}, num_rows);
}

#define KIND \
    {.layout_of = layout_of, .pack_tile = pack_tile, .pack_streams = pack_streams, .choose_form = choose_form, \
     .prepare = prepare, .multiply_tile = multiply_tile}
const kind_t int16dot_kind = KIND, int8dot_kind = KIND;
