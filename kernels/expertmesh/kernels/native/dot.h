/* Products of rows and a packed, quantized matrix, in pieces: quantize a block of the rows, multiply by a tile. Knows
   sizes and where things lie; int16dot.c and int8dot.c know the integers that rows are rounded to.

   y[m, n] = sum over k of x[m, k] * ((code[n, k] - zero[n, k / G]) * scale[n, k / G] + offset[n, k / G])

   A group is cut into equal blocks of at most 128 features, whose sums are exact in integers: so it does not matter which
   instructions form them. Blocks are added up in float32, in ascending order, and then offsets, where there are any.

   Packed codes are [tile][block][chunk][half][lane] words of 32 bits, one chunk of the codes of one output each. A tile
   has 2 halves of LANES outputs. */

#ifndef EXPERTMESH_DOT_H
#define EXPERTMESH_DOT_H

#include "matrix.h"
#include "tiles.h"

#define MAX_RUN_ROWS 2 /* rows that go through a whole tile in one call */
#define MAX_BLOCK 144  /* features of a block with padding up to whole chunks and parts */
#define MAX_BLOCK_BYTES 192 /* and up to whole rows of AMX's tiles */

/* Exchange the fields of a word under `mask` with those `distance` bits above. */
static inline uint32_t swap_fields(uint32_t word, int distance, uint32_t mask) {
    const uint32_t different = (word ^ word >> distance) & mask;
    return word ^ different ^ different << distance;
}

/* Forms of prepared rows: as vectors take them, or as AMX's tiles do. */
enum { FOR_VECTORS, FOR_TILES };

/* What a kernel works on: codes of one block and tile, quantized rows, and the sums [rows][HALVES] that it adds to. */
typedef struct {
    const uint32_t *codes;
    int64_t num_chunks, row_bytes;
    const char *values;
    const float *row_scales;
    const char *row_sums;
    ints zeros[HALVES];
    floats scales[HALVES];
    floats *sums;
} block_t;

/* Adds one block to the sums. */
typedef void (*kernel_t)(const block_t *);

/* A few rows, from row `first` of `input` on, and all blocks of a tile; `sums` is [rows][HALVES]. */
typedef struct {
    const matrix_t *matrix;
    const input_t *input;
    int64_t tile, first;
    floats *sums;
} run_t;

/* Adds all blocks to the sums: in cache, a row takes five sixths of the time of calls per block. With three rows and
   more, calls cost little beside the products. */
typedef void (*runner_t)(const run_t *);

/* The integers that rows are rounded to. */
typedef struct {
    int64_t part_size;       /* features of a block that share a scale; 0: all */
    int64_t tile_bytes;      /* features of a product of AMX's tiles */
    int64_t min_tiled_rows;  /* from so many on, AMX's tiles are faster: by arithmetic, it was not measured */
    int64_t max_direct_rows; /* beyond, codes are first unpacked to a panel */
    int64_t direct_kernel_rows, panel_kernel_rows; /* rows of a kernel at most: of packed codes, of a panel */
    /* Bytes of a row's values in a block. */
    int64_t (*row_bytes)(int64_t block_size, int form);
    /* Pack the codes of one output in one block, first feature first, into words that lie TILE apart. */
    void (*pack)(const uint8_t *codes, int bits, int64_t num_chunks, uint32_t *words);
    /* Do that to words of neighbouring codes in a stream, in place; `bits` divides 32. */
    void (*arrange)(uint32_t *words, int64_t num_words, int bits);
    /* Quantize `block_size` values to `values`, `scales` and one `sum`. */
    void (*quantize)(const float *x, int64_t block_size, int form, char *values, float *scales, char *sum);
    /* Unpack to 16 bits and subtract the zeros, once for all rows of a panel. */
    void (*unpack)(const uint32_t *codes, int64_t num_chunks, int bits, const ints zeros[HALVES], uint32_t *panel);
    /* Add each offset of a tile, times the sum of the values that it is added to the weights of. */
    void (*add_offsets)(const run_t *run, int64_t num_rows);
    kernel_t (*kernel_of)(int bits, int64_t num_rows);
    runner_t (*runner_of)(int bits, int64_t num_rows); /* of packed codes, up to MAX_RUN_ROWS rows */
#if HAS_TILES
    /* Unpack to bytes, a row of a tile for every four features, zeros beyond the block. */
    void (*unpack_bytes)(const uint32_t *codes, int64_t num_chunks, int bits, uint32_t *panel);
    /* Add one block of such bytes to the sums of rows that are prepared for tiles. */
    void (*add_tiles)(const block_t *block, int64_t num_rows);
#endif
} precision_t;

extern const precision_t int16dot, int8dot;

/* Features whose codes share a word. Each half holds as many as fit, so that a code of 3 bits takes 3.2. */
static inline int64_t chunk_features(int bits) { return 16 / bits * 2; }

/* Where the scales and zeros of a block lie, and for how many blocks they still hold. */
typedef struct {
    int64_t at, blocks_left;
} group_t;

static inline group_t first_group(const layout_t *layout, int64_t tile) {
    return (group_t){.at = tile * layout->num_groups * TILE, .blocks_left = layout->blocks_per_group};
}

/* The group of the next block; to divide for it would take a tenth of a row's time. */
static inline group_t next_group(group_t group, const layout_t *layout) {
    if (--group.blocks_left) return group;
    return (group_t){.at = group.at + TILE, .blocks_left = layout->blocks_per_group};
}

/* Point a block at the scales and zeros of its group. */
static ALWAYS_INLINE void enter_group(const matrix_t *matrix, group_t group, block_t *block) {
    for (int half = 0; half < HALVES; half++) {
        block->zeros[half] = ints_of_bytes(matrix->zeros + group.at + half * LANES);
        block->scales[half] = load_as_floats(matrix->scales, matrix->type, group.at + half * LANES);
    }
}

/* Point a block, the `index`th of its tile, at its rows from row `first` on. */
static ALWAYS_INLINE void enter_rows(const input_t *input, int64_t index, int64_t first, block_t *block) {
    const int64_t at = index * input->num_rows + first;
    block->values = values_of(input, index, first);
    block->row_scales = input->scales + at * input->layout.parts;
    block->row_sums = input->sums + at * sizeof(float);
}

/* ---- for int16dot.c and int8dot.c ---- */

/* Fetch what lies ahead of the packed codes of a chunk, which are read once. */
static ALWAYS_INLINE void prefetch_codes(const uint32_t *codes) {
    for (int line = 0; line < 4 * TILE; line += CACHE_LINE)
        _mm_prefetch((const char *)codes + PREFETCH_BYTES + line, _MM_HINT_T0);
}

/* Says that sums are needed now: gcc would otherwise put off the additions and spill products. */
#define needed_now(sums) __asm__("" : "+v"((sums)[0]), "+v"((sums)[1]))

/* Load packed codes. For few rows, gcc is kept from loading them again for each shift; for more, registers are rare. */
static ALWAYS_INLINE ints load_codes(const uint32_t *codes, const int num_rows) {
    ints loaded = load_ints(codes);
    if (num_rows <= MAX_RUN_ROWS) __asm__("" : "+v"(loaded));
    return loaded;
}

/* Add all blocks of a tile, with a kernel that is inlined: so it keeps what it needs in registers. */
static ALWAYS_INLINE void add_blocks(const run_t *run, int bits, kernel_t add_block) {
    const layout_t *layout = &run->input->layout;
    block_t block = {
        .codes = weights_of(run->matrix, layout, run->tile),
        .num_chunks = layout->block_size / chunk_features(bits),
        .row_bytes = run->input->row_bytes,
        .sums = run->sums,
    };
    group_t group = first_group(layout, run->tile);
    for (int64_t index = 0; index < layout->num_blocks; index++) {
        enter_group(run->matrix, group, &block);
        enter_rows(run->input, index, run->first, &block);
        add_block(&block);
        block.codes += layout->block_words;
        group = next_group(group, layout);
    }
}

/* Do what `add_offsets` does, where `sum_of_row` is the sum of a row's values in a block. */
static ALWAYS_INLINE void add_offsets_by(const run_t *run, int64_t num_rows,
                                         float (*sum_of_row)(const block_t *block, int64_t row)) {
    const layout_t *layout = &run->input->layout;
    for (int64_t row = 0; row < num_rows; row++) {
        floats *sum = run->sums + row * HALVES, first_half = sum[0], second_half = sum[1];
        group_t group = first_group(layout, run->tile);
        for (int64_t index = 0; index < layout->num_blocks; index++) {
            block_t block;
            enter_rows(run->input, index, run->first, &block);
            const floats row_sum = same_floats(sum_of_row(&block, row));
            const float *offsets = run->matrix->offsets + group.at;
            first_half = multiply_add_floats(load_floats(offsets), row_sum, first_half);
            second_half = multiply_add_floats(load_floats(offsets + LANES), row_sum, second_half);
            group = next_group(group, layout);
        }
        sum[0] = first_half;
        sum[1] = second_half;
    }
}

/* An `add_block` for a number of rows, and its place among those for codes of so many bits. */
#define KERNEL(bits, rows) \
    static ALWAYS_INLINE void add_block_##bits##_##rows(const block_t *block) { add_block(block, bits, rows); }
#define NAME(bits, rows) [rows] = add_block_##bits##_##rows,

/* The same for whole runs of blocks. */
#define RUNNER(bits, rows) \
    static void add_run_##bits##_##rows(const run_t *run) { add_blocks(run, bits, add_block_##bits##_##rows); }
#define RUNNERS(bits) RUNNER(bits, 1) RUNNER(bits, 2)
#define RUNNER_NAMES(bits) {add_run_##bits##_1, add_run_##bits##_2}

/* The bits of the largest magnitude: as integers they sort like magnitudes, with Inf and NaN on top. */
static ALWAYS_INLINE int32_t largest_magnitude(const float *x, int64_t count) {
    int32_t largest = 0;
    for (int64_t i = 0; i < count; i++) {
        int32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        bits &= 0x7fffffff;
        largest = bits > largest ? bits : largest;
    }
    return largest;
}

/* Round `count` values to signed integers of `value_bytes` and add these up in `sum`; returns the scale, which is NaN
   where a value is not finite, and so becomes every output. */
static ALWAYS_INLINE float round_values(const float *x, int64_t count, const int value_bytes, void *values,
                                        int32_t *sum) {
    const float limit = value_bytes == 1 ? 127.0f : 32767.0f;
    const int32_t smallest_bits = 0x0d800000, inf_bits = 0x7f800000; /* 2^-100: below, limit / x would overflow */
    int32_t bits = largest_magnitude(x, count), total = 0;
    const int is_finite = bits < inf_bits;
    bits = bits < smallest_bits ? smallest_bits : bits;
    float largest;
    memcpy(&largest, &bits, sizeof largest);
    const float inverse = is_finite ? limit / largest : 0.0f;
    for (int64_t i = 0; i < count; i++) {
        /* 1.5 * 2^23 leaves the nearest integer in the low bits of the sum. */
        const float shifted = (is_finite ? x[i] : 0.0f) * inverse + 12582912.0f;
        int32_t value;
        memcpy(&value, &shifted, sizeof value);
        value -= 0x4b400000;
        if (value_bytes == 1) ((int8_t *)values)[i] = (int8_t)value;
        else ((int16_t *)values)[i] = (int16_t)value;
        total += value;
    }
    *sum = total;
    return is_finite ? largest / limit : __builtin_nanf("");
}

#endif
