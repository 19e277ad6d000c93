/* Attention of one new token per sequence over a paged cache, read where it lies. Knows slots; not blocks or torch.

   y[s, h] = sum over positions p of w[p] * v[p],   w = softmax(scale * q[s, h] . k[p])

   Every head takes its positions in order, SPAN at a time, in float32: what it has added up is scaled down whenever a
   larger score appears (Milakov and Gimelshein, 2018). The result of a sequence depends on nothing but its own rows:
   not on where they lie, nor on the number of threads. A row is read once for all query heads that share it. */

#include "common.h"
#include <float.h>
#include <math.h>
#include <omp.h>

#define SPAN 64    /* positions between rescalings */
#define NUM_ROWS 4 /* keys or values that are read at once, for PAIR heads: 4 x 2 sums or weights leave registers */
#define PAIR 2

/* Slots are [sequences, slots_stride], bounds [sequences, 2]: the first visible position and the number of positions.
   Keys and values are [slots, kv_heads, head_dim], query and output [sequences, heads, head_dim]. */
typedef struct {
    const void *query, *keys, *values;
    void *output;
    const int64_t *slots, *bounds;
    int64_t num_sequences, num_heads, num_kv_heads, head_dim, slots_stride;
    int32_t query_type, cache_type;
    float scale;
} attention_t;

/* The query heads that share one key-value head. Rows have `width` floats, filled up with zeros; `weights` are
   [heads][SPAN], first scores; `copies` are NUM_ROWS rows, `zeros` is one. */
typedef struct {
    int64_t kv_head, num_heads, width, first; /* value of the query */
    float *query, *sums, *weights, *highest, *totals, *copies, *zeros;
} group_t;

static int64_t floats_per_group(const attention_t *attention) {
    const int64_t width = divide_up(attention->head_dim, LANES) * LANES;
    return attention->num_heads / attention->num_kv_heads * (2 * width + SPAN + 2) + (NUM_ROWS + 1) * width;
}

int64_t attention_scratch_bytes(const attention_t *attention, int num_threads) {
    return num_threads * attention->num_kv_heads * floats_per_group(attention) * (int64_t)sizeof(float);
}

static group_t lay_out(const attention_t *attention, int64_t sequence, int64_t kv_head, float *memory) {
    group_t group = {.kv_head = kv_head, .num_heads = attention->num_heads / attention->num_kv_heads};
    group.width = divide_up(attention->head_dim, LANES) * LANES;
    group.first = (sequence * attention->num_heads + kv_head * group.num_heads) * attention->head_dim;
    group.query = memory + kv_head * floats_per_group(attention);
    group.sums = group.query + group.num_heads * group.width;
    group.weights = group.sums + group.num_heads * group.width;
    group.highest = group.weights + group.num_heads * SPAN;
    group.totals = group.highest + group.num_heads;
    group.copies = group.totals + group.num_heads;
    group.zeros = group.copies + NUM_ROWS * group.width;
    return group;
}

static void start(const attention_t *attention, const group_t *group) {
    const int64_t size = attention->head_dim;
    memset(group->query, 0, floats_per_group(attention) * sizeof(float));
    for (int64_t head = 0; head < group->num_heads; head++) {
        float *query = group->query + head * group->width;
        read_floats(attention->query, attention->query_type, group->first + head * size, size, query);
        for (int64_t i = 0; i < size; i++) query[i] *= attention->scale * LOG2_E;
        group->highest[head] = -FLT_MAX; /* not infinite: less a score of -Inf it would be NaN */
    }
}

static void finish(const attention_t *attention, const group_t *group) {
    for (int64_t head = 0; head < group->num_heads; head++)
        for (int64_t i = 0; i < attention->head_dim; i++)
            write_float(attention->output, attention->query_type, group->first + head * attention->head_dim + i,
                        group->sums[head * group->width + i] / group->totals[head]);
}

/* Point at NUM_ROWS rows as floats: where they lie if they can be read from there, else at copies; beyond `count`, at
   zeros. What lies behind them, the rows of the next head, is fetched. */
static inline void find_rows(const attention_t *attention, const group_t *group, const void *cache,
                             const int64_t *slots, int64_t count, const float *rows[NUM_ROWS]) {
    const int type = attention->cache_type, is_direct = type == FLOAT32 && attention->head_dim == group->width;
    const int64_t value_bytes = type == FLOAT32 ? 4 : 2, row_bytes = attention->head_dim * value_bytes;
    for (int row = 0; row < NUM_ROWS; row++) {
        rows[row] = group->zeros;
        if (row >= count) continue;
        const int64_t start = (slots[row] * attention->num_kv_heads + group->kv_head) * attention->head_dim;
        const char *next = (const char *)cache + start * value_bytes + row_bytes;
        for (int64_t at = 0; at < row_bytes; at += CACHE_LINE) _mm_prefetch(next + at, _MM_HINT_T1);
        float *copy = group->copies + row * group->width;
        rows[row] = is_direct ? (const float *)cache + start : copy;
        if (!is_direct) read_floats(cache, type, start, attention->head_dim, copy);
    }
}

static ALWAYS_INLINE void score_rows(const group_t *group, const float *const rows[NUM_ROWS], int64_t head,
                                     const int num_heads, int64_t position) {
    floats sums[PAIR][NUM_ROWS] = {0};
    for (int64_t at = 0; at < group->width; at += LANES)
#pragma GCC unroll 8
        for (int i = 0; i < num_heads; i++) {
            const floats query = load_floats(group->query + (head + i) * group->width + at);
#pragma GCC unroll 8
            for (int row = 0; row < NUM_ROWS; row++)
                sums[i][row] = multiply_add_floats(query, load_floats(rows[row] + at), sums[i][row]);
        }
#pragma GCC unroll 8
    for (int i = 0; i < num_heads; i++) {
        __m128 a = fold_floats(sums[i][0]), b = fold_floats(sums[i][1]);
        __m128 c = fold_floats(sums[i][2]), d = fold_floats(sums[i][3]);
        _MM_TRANSPOSE4_PS(a, b, c, d);
        _mm_storeu_ps(group->weights + (head + i) * SPAN + position, _mm_add_ps(_mm_add_ps(a, b), _mm_add_ps(c, d)));
    }
}

static ALWAYS_INLINE void add_rows(const group_t *group, const float *const rows[NUM_ROWS], int64_t head,
                                   const int num_heads, int64_t position) {
    floats weights[PAIR][NUM_ROWS];
#pragma GCC unroll 8
    for (int i = 0; i < num_heads * NUM_ROWS; i++)
        weights[i / NUM_ROWS][i % NUM_ROWS] =
            same_floats(group->weights[(head + i / NUM_ROWS) * SPAN + position + i % NUM_ROWS]);
    for (int64_t at = 0; at < group->width; at += LANES)
#pragma GCC unroll 8
        for (int i = 0; i < num_heads; i++) {
            float *sums = group->sums + (head + i) * group->width + at;
            floats sum = load_floats(sums);
#pragma GCC unroll 8
            for (int row = 0; row < NUM_ROWS; row++)
                sum = multiply_add_floats(weights[i][row], load_floats(rows[row] + at), sum);
            store_floats(sums, sum);
        }
}

/* Turn the scores of a head into weights relative to its largest score so far, and scale down what it has summed up. */
static void weigh(const group_t *group, int64_t head) {
    float *weights = group->weights + head * SPAN, *sums = group->sums + head * group->width, lanes[LANES];
    floats largest = same_floats(group->highest[head]), total = zero_floats();
    for (int i = 0; i < SPAN; i += LANES) largest = max_floats(largest, load_floats(weights + i));
    store_floats(lanes, largest);
    float highest = lanes[0];
    for (int i = 1; i < LANES; i++) highest = lanes[i] > highest ? lanes[i] : highest;
    for (int i = 0; i < SPAN; i += LANES) {
        const floats weight = exp2_floats(subtract_floats(load_floats(weights + i), same_floats(highest)));
        store_floats(weights + i, weight);
        total = add_floats(total, weight);
    }
    const floats rescale = exp2_floats(same_floats(group->highest[head] - highest));
    store_floats(lanes, rescale);
    group->totals[head] *= lanes[0];
    for (int64_t at = 0; at < group->width; at += LANES)
        store_floats(sums + at, multiply_floats(load_floats(sums + at), rescale));
    store_floats(lanes, total);
    for (int i = 0; i < LANES; i++) group->totals[head] += lanes[i];
    group->highest[head] = highest;
}

/* Attend from a group to `count` positions. */
static void attend_span(const attention_t *attention, const group_t *group, const int64_t *slots, int64_t count) {
    const float *rows[NUM_ROWS];
    for (int64_t at = 0; at < count; at += NUM_ROWS) {
        find_rows(attention, group, attention->keys, slots + at, count - at, rows);
        int64_t head = 0;
        for (; head + PAIR <= group->num_heads; head += PAIR) score_rows(group, rows, head, PAIR, at);
        if (head < group->num_heads) score_rows(group, rows, head, 1, at);
    }
    for (int64_t head = 0; head < group->num_heads; head++) {
        for (int64_t at = count; at < SPAN; at++) group->weights[head * SPAN + at] = -INFINITY;
        weigh(group, head);
    }
    for (int64_t at = 0; at < count; at += NUM_ROWS) {
        find_rows(attention, group, attention->values, slots + at, count - at, rows);
        int64_t head = 0;
        for (; head + PAIR <= group->num_heads; head += PAIR) add_rows(group, rows, head, PAIR, at);
        if (head < group->num_heads) add_rows(group, rows, head, 1, at);
    }
}

/* Attend from the key-value heads `first` to `end` of a sequence: all of them to one span before the next, since their
   rows share pages. */
static void attend(const attention_t *attention, int64_t sequence, int64_t first, int64_t end, float *memory) {
    const int64_t *bounds = attention->bounds + 2 * sequence;
    const int64_t *slots = attention->slots + sequence * attention->slots_stride;
    for (int64_t head = first; head < end; head++) {
        const group_t group = lay_out(attention, sequence, head, memory);
        start(attention, &group);
    }
    for (int64_t at = bounds[0]; at < bounds[1]; at += SPAN)
        for (int64_t head = first; head < end; head++) {
            const group_t group = lay_out(attention, sequence, head, memory);
            attend_span(attention, &group, slots + at, bounds[1] - at < SPAN ? bounds[1] - at : SPAN);
        }
    for (int64_t head = first; head < end; head++) {
        const group_t group = lay_out(attention, sequence, head, memory);
        finish(attention, &group);
    }
}

/* Write the output; `scratch` has attention_scratch_bytes for `num_threads`. */
void attention_run(const attention_t *attention, float *scratch, int num_threads) {
    const int64_t num_sequences = attention->num_sequences, num_kv_heads = attention->num_kv_heads;
    if (!num_sequences) return;
    int64_t num_positions = 0;
    for (int64_t i = 0; i < num_sequences; i++)
        num_positions += attention->bounds[2 * i + 1] - attention->bounds[2 * i];
    const int team = useful_threads(num_threads, 2 * num_positions * attention->num_heads * attention->head_dim);
    const int64_t wanted = divide_up(team, num_sequences), parts = wanted < num_kv_heads ? wanted : num_kv_heads;
    const int64_t num_floats = num_kv_heads * floats_per_group(attention);
#pragma omp parallel for num_threads(team) schedule(dynamic)
    for (int64_t task = 0; task < num_sequences * parts; task++) {
        const int64_t first = num_kv_heads * (task % parts) / parts, end = num_kv_heads * (task % parts + 1) / parts;
        attend(attention, task / parts, first, end, scratch + omp_get_thread_num() * num_floats);
    }
}
