/* What the kernels share: x86 vectors, rows of floats, the size of a tile. Knows no layout of a matrix. */

#ifndef EXPERTMESH_COMMON_H
#define EXPERTMESH_COMMON_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512BW__)
#define LANES 16
typedef __m512i ints;
typedef __m512 floats;
#define load_ints(p) _mm512_loadu_si512((const void *)(p))
#define store_ints(p, v) _mm512_storeu_si512((void *)(p), v)
#define zero_ints() _mm512_setzero_si512()
#define same_ints(v) _mm512_set1_epi32(v)
#define same_words(v) _mm512_set1_epi16(v)
#define and_ints(a, b) _mm512_and_si512(a, b)
#define or_ints(a, b) _mm512_or_si512(a, b)
#define shift_words(v, count) _mm512_srli_epi16(v, count)
#define add_ints(a, b) _mm512_add_epi32(a, b)
#define subtract_ints(a, b) _mm512_sub_epi32(a, b)
#define subtract_words(a, b) _mm512_sub_epi16(a, b)
#define multiply_ints(a, b) _mm512_mullo_epi32(a, b)
#define ints_of_bytes(p) _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(p)))
#define ints_of_words(p) _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(p)))
#define shift_ints_left(v, count) _mm512_slli_epi32(v, count)
#define floats_of_ints(v) _mm512_cvtepi32_ps(v)
#define nearest_ints(v) _mm512_cvtps_epi32(v)
#define floats_of_halves(p) _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(p)))
#define cast_to_floats(v) _mm512_castsi512_ps(v)
#define load_floats(p) _mm512_loadu_ps(p)
#define store_floats(p, v) _mm512_storeu_ps(p, v)
#define zero_floats() _mm512_setzero_ps()
#define same_floats(v) _mm512_set1_ps(v)
#define multiply_floats(a, b) _mm512_mul_ps(a, b)
#define add_floats(a, b) _mm512_add_ps(a, b)
#define subtract_floats(a, b) _mm512_sub_ps(a, b)
#define divide_floats(a, b) _mm512_div_ps(a, b)
#define min_floats(a, b) _mm512_min_ps(a, b)
#define max_floats(a, b) _mm512_max_ps(a, b)
#define multiply_add_floats(a, b, c) _mm512_fmadd_ps(a, b, c)
#if defined(__AVX512VNNI__)
#define add_pair_products(sum, a, b) _mm512_dpwssd_epi32(sum, a, b)
#define add_quad_products(sum, a, b) _mm512_dpbusd_epi32(sum, a, b)
#define ints_of_quads(sum) (sum)
#else
#define add_pair_products(sum, a, b) _mm512_add_epi32(sum, _mm512_madd_epi16(a, b))
#define add_quad_products(sum, a, b) _mm512_add_epi16(sum, _mm512_maddubs_epi16(a, b))
#define ints_of_quads(sum) _mm512_madd_epi16(sum, same_words(1))
#endif
#else
#define LANES 8
typedef __m256i ints;
typedef __m256 floats;
#define load_ints(p) _mm256_loadu_si256((const __m256i *)(p))
#define store_ints(p, v) _mm256_storeu_si256((__m256i *)(p), v)
#define zero_ints() _mm256_setzero_si256()
#define same_ints(v) _mm256_set1_epi32(v)
#define same_words(v) _mm256_set1_epi16(v)
#define and_ints(a, b) _mm256_and_si256(a, b)
#define or_ints(a, b) _mm256_or_si256(a, b)
#define shift_words(v, count) _mm256_srli_epi16(v, count)
#define add_ints(a, b) _mm256_add_epi32(a, b)
#define subtract_ints(a, b) _mm256_sub_epi32(a, b)
#define subtract_words(a, b) _mm256_sub_epi16(a, b)
#define multiply_ints(a, b) _mm256_mullo_epi32(a, b)
#define ints_of_bytes(p) _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(p)))
#define ints_of_words(p) _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(p)))
#define shift_ints_left(v, count) _mm256_slli_epi32(v, count)
#define floats_of_ints(v) _mm256_cvtepi32_ps(v)
#define nearest_ints(v) _mm256_cvtps_epi32(v)
#define floats_of_halves(p) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p)))
#define cast_to_floats(v) _mm256_castsi256_ps(v)
#define load_floats(p) _mm256_loadu_ps(p)
#define store_floats(p, v) _mm256_storeu_ps(p, v)
#define zero_floats() _mm256_setzero_ps()
#define same_floats(v) _mm256_set1_ps(v)
#define multiply_floats(a, b) _mm256_mul_ps(a, b)
#define add_floats(a, b) _mm256_add_ps(a, b)
#define subtract_floats(a, b) _mm256_sub_ps(a, b)
#define divide_floats(a, b) _mm256_div_ps(a, b)
#define min_floats(a, b) _mm256_min_ps(a, b)
#define max_floats(a, b) _mm256_max_ps(a, b)
#define multiply_add_floats(a, b, c) _mm256_fmadd_ps(a, b, c)
#if defined(__AVXVNNI__)
#define add_pair_products(sum, a, b) _mm256_dpwssd_avx_epi32(sum, a, b)
#define add_quad_products(sum, a, b) _mm256_dpbusd_avx_epi32(sum, a, b)
#define ints_of_quads(sum) (sum)
#else
#define add_pair_products(sum, a, b) _mm256_add_epi32(sum, _mm256_madd_epi16(a, b))
#define add_quad_products(sum, a, b) _mm256_add_epi16(sum, _mm256_maddubs_epi16(a, b))
#define ints_of_quads(sum) _mm256_madd_epi16(sum, same_words(1))
#endif
#endif

#define ALWAYS_INLINE inline __attribute__((always_inline))
#define HALVES 2
#define TILE (HALVES * LANES) /* outputs that a kernel computes at once */
#define MAX_FEATURES 128      /* of a block: more would overflow the int32 sums of 8-bit codes */
#define MAX_PANEL_ROWS 96     /* rows whose sums stay in the nearest cache; a multiple of ROW_UNIT */
#define ROW_UNIT 16           /* rows of a panel, and of AMX's tiles, are multiples of this where there are enough */
#define CACHE_LINE 64
#define PREFETCH_BYTES 2048   /* ahead of what is read once: a row takes 1.8 ms instead of 2.2 on one Zen 3 core */
#define LOG2_E 1.44269504f
#define MIN_WORK_PER_THREAD (1 << 17)

enum { FLOAT32, FLOAT16, BFLOAT16 };

/* do(x, 1) do(x, 2) ... for all numbers of rows that a kernel takes. */
#define FOR_4_ROWS(do, x) do(x, 1) do(x, 2) do(x, 3) do(x, 4)
#define FOR_6_ROWS(do, x) FOR_4_ROWS(do, x) do(x, 5) do(x, 6)
#define FOR_12_ROWS(do, x) FOR_6_ROWS(do, x) do(x, 7) do(x, 8) do(x, 9) do(x, 10) do(x, 11) do(x, 12)

/* Rows of a kernel at most: with two sums a row, two vectors of weights and a value fill the 16 or 32 registers. */
#if LANES == 16
#define MAX_PASS_ROWS 12
#define FOR_PASSES(do, x) FOR_12_ROWS(do, x)
#else
#define MAX_PASS_ROWS 6
#define FOR_PASSES(do, x) FOR_6_ROWS(do, x)
#endif

/* Rows [M, K] of floats, `stride` values apart. */
typedef struct {
    void *data;
    int64_t num_rows, stride;
    int32_t type;
} rows_t;

static inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* Threads that are worth waking for this many products. */
static inline int useful_threads(int num_threads, int64_t num_products) {
    const int64_t useful = 1 + num_products / MIN_WORK_PER_THREAD;
    return num_threads < useful ? num_threads : (int)useful;
}

/* Tiles that a thread takes at a time: an eighth of its share, so that nobody waits long for one that is held up. */
static inline int64_t tiles_at_once(int64_t num_tiles, int team) { return 1 + num_tiles / (8 * team); }

/* 2 to the power of x: a Taylor series to degree 7 around the nearest integer, relative error 8e-8 at most; 0 below
   2^-126.5, and no more than 2^127. */
static ALWAYS_INLINE floats exp2_floats(floats x) {
    const float factors[] = {1.5252734e-5f, 1.5403530e-4f, 1.3333558e-3f, 9.6181291e-3f,
                             5.5504109e-2f, 2.4022651e-1f, 6.9314718e-1f, 1.0f};
    /* NaN is the second operand, which min and max return. */
    x = min_floats(same_floats(127.0f), max_floats(same_floats(-127.0f), x));
    const ints whole = nearest_ints(x);
    const floats part = subtract_floats(x, floats_of_ints(whole));
    floats power = same_floats(factors[0]);
#pragma GCC unroll 8
    for (int i = 1; i < 8; i++) power = multiply_add_floats(power, part, same_floats(factors[i]));
    return multiply_floats(power, cast_to_floats(shift_ints_left(add_ints(whole, same_ints(127)), 23)));
}

/* Add the quarters (or halves) of a vector up to 4 floats. */
static inline __m128 fold_floats(floats v) {
#if LANES == 16
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
#else
    const __m256 half = v;
#endif
    return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

static inline floats load_as_floats(const void *data, int type, int64_t at) {
    if (type == FLOAT32) return load_floats((const float *)data + at);
    if (type == FLOAT16) return floats_of_halves((const uint16_t *)data + at);
    return cast_to_floats(shift_ints_left(ints_of_words((const uint16_t *)data + at), 16));
}

static inline float as_float(const void *data, int type, int64_t at) {
    if (type == FLOAT32) return ((const float *)data)[at];
    const uint16_t half = ((const uint16_t *)data)[at];
    if (type == FLOAT16) return _cvtsh_ss(half);
    const uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline void read_floats(const void *data, int type, int64_t start, int64_t count, float *out) {
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) store_floats(out + i, load_as_floats(data, type, start + i));
    for (; i < count; i++) out[i] = as_float(data, type, start + i);
}

static inline uint16_t float16_of(float value) { return _cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT); }

static inline uint16_t bfloat16_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline void write_float(void *data, int type, int64_t at, float value) {
    if (type == FLOAT32) ((float *)data)[at] = value;
    else ((uint16_t *)data)[at] = type == FLOAT16 ? float16_of(value) : bfloat16_of(value);
}

#endif
