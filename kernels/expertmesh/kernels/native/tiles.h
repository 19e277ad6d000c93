/* AMX's tile registers. Knows their shapes and products, not what is multiplied.

   A product adds a [16 rows, K] times b [K, 16 outputs] to c [16, 16]. Tiles have rows of 64 bytes at most; b holds two
   bfloat16 or four bytes of neighbouring K side by side, so that a row of it is [16 outputs][2 or 4].

   With EMULATE_TILES the registers are plain memory, and operations do what Intel's manual says of them, so that the
   kernels around them can be tested on processors without. */

#ifndef EXPERTMESH_TILES_H
#define EXPERTMESH_TILES_H

#include "common.h"

#define TILE_ROWS 16
#define TILE_ROW_BYTES 64

/* The registers: sums c, and the operands. What they hold is up to a kernel. */
#define C0 0
#define C1 1
#define C2 2
#define C3 3
#define A0 4
#define A1 5
#define B0 6
#define B1 7

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_config_t;

/* Describe the registers for products over `k_bytes` of each row. */
static inline tile_config_t tile_config(int k_bytes) {
    tile_config_t config = {.palette = 1};
    for (int i = C0; i <= B1; i++) {
        config.rows[i] = TILE_ROWS;
        config.row_bytes[i] = TILE_ROW_BYTES;
    }
    config.row_bytes[A0] = config.row_bytes[A1] = (uint16_t)k_bytes;
    config.rows[B0] = config.rows[B1] = (uint8_t)(k_bytes / 4);
    return config;
}

#if defined(EMULATE_TILES)

typedef union {
    uint8_t bytes[TILE_ROWS][TILE_ROW_BYTES];
    int32_t ints[TILE_ROWS][TILE_ROW_BYTES / 4];
    float floats[TILE_ROWS][TILE_ROW_BYTES / 4];
    uint16_t halves[TILE_ROWS][TILE_ROW_BYTES / 2];
} emulated_tile_t;

typedef struct {
    tile_config_t config;
    emulated_tile_t tiles[8];
} emulated_tiles_t;

__attribute__((weak)) __thread emulated_tiles_t registers; /* weak: one for all sources that include this */

static inline void tiles_begin(int k_bytes) {
    memset(&registers, 0, sizeof registers);
    registers.config = tile_config(k_bytes);
}
static inline void tiles_end(void) { memset(&registers, 0, sizeof registers); }
static inline void tile_zero(int tile) { memset(&registers.tiles[tile], 0, sizeof registers.tiles[tile]); }
static inline void tile_load(int tile, const void *data, int64_t stride) {
    for (int row = 0; row < registers.config.rows[tile]; row++)
        memcpy(registers.tiles[tile].bytes[row], (const char *)data + row * stride,
               registers.config.row_bytes[tile]);
}
static inline void tile_store(int tile, void *data, int64_t stride) {
    for (int row = 0; row < registers.config.rows[tile]; row++)
        memcpy((char *)data + row * stride, registers.tiles[tile].bytes[row], registers.config.row_bytes[tile]);
}
static inline float emulated_float(uint16_t half) {
    const uint32_t bits = (half & 0x7f80) ? (uint32_t)half << 16 : (uint32_t)(half & 0x8000) << 16; /* no denormals */
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
static inline void emulate_bfloat16(int c, int a, int b) {
    const int pairs = registers.config.row_bytes[a] / 4;
    for (int m = 0; m < registers.config.rows[c]; m++)
        for (int n = 0; n < TILE_ROW_BYTES / 4; n++) {
            float even = 0.0f, odd = 0.0f;
            for (int k = 0; k < pairs; k++) {
                const uint16_t *left = registers.tiles[a].halves[m] + 2 * k;
                const uint16_t *right = registers.tiles[b].halves[k] + 2 * n;
                even = __builtin_fmaf(emulated_float(left[0]), emulated_float(right[0]), even);
                odd = __builtin_fmaf(emulated_float(left[1]), emulated_float(right[1]), odd);
            }
            registers.tiles[c].floats[m][n] += even + odd;
        }
}
static inline void emulate_bytes(int c, int a, int b, int is_signed) {
    for (int m = 0; m < registers.config.rows[c]; m++)
        for (int n = 0; n < TILE_ROW_BYTES / 4; n++)
            for (int k = 0; k < registers.config.row_bytes[a]; k++) {
                const int left = is_signed ? (int8_t)registers.tiles[a].bytes[m][k] : registers.tiles[a].bytes[m][k];
                registers.tiles[c].ints[m][n] += left * registers.tiles[b].bytes[k / 4][4 * n + k % 4];
            }
}
#define tile_add_bfloat16(c, a, b) emulate_bfloat16(c, a, b)
#define tile_add_signed_bytes(c, a, b) emulate_bytes(c, a, b, 1)
#define tile_add_bytes(c, a, b) emulate_bytes(c, a, b, 0)
#define HAS_TILES 1

#elif defined(__AMX_TILE__) && defined(__AMX_INT8__) && defined(__AMX_BF16__)

/* Written out, because gcc's intrinsics do not say that they read memory: what was stored for them could come late. */
static inline void tiles_begin(int k_bytes) {
    const tile_config_t config = tile_config(k_bytes);
    __asm__ volatile("ldtilecfg (%0)" ::"r"(&config) : "memory");
}
static inline void tiles_end(void) { __asm__ volatile("tilerelease"); }
#define tile_zero(tile) __asm__ volatile("tilezero %%tmm%c0" ::"i"(tile))
#define tile_load(tile, data, stride) \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(data), "r"((int64_t)(stride)), "i"(tile) : "memory")
#define tile_store(tile, data, stride) \
    __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(data), "r"((int64_t)(stride)), "i"(tile) : "memory")
#define tile_add(instruction, c, a, b) \
    __asm__ volatile(instruction " %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(c), "i"(a), "i"(b))
#define tile_add_bfloat16(c, a, b) tile_add("tdpbf16ps", c, a, b)
#define tile_add_signed_bytes(c, a, b) tile_add("tdpbsud", c, a, b)
#define tile_add_bytes(c, a, b) tile_add("tdpbuud", c, a, b)
#define HAS_TILES 1

#else
#define HAS_TILES 0
#endif

#endif
