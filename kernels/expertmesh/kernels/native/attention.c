/* Attention over a paged cache, read where it lies, for any number of new tokens per sequence. Knows slots; not blocks or
   torch.

   y[t, h] = sum over positions p of w[p] * v[p],   w = softmax(scale * q[t, h] . k[p])

   Every head of a token takes its positions in order, in float32, span by span: SPAN positions from a multiple of SPAN
   on. What it has added up is scaled down whenever a larger score appears (Milakov and Gimelshein, 2018). The result of
   a token depends on nothing but what it sees: not on where that lies, on which tokens are new beside it, nor on the
   number of threads. A key or value is read once for all heads and tokens of a group. */

#include "common.h"
#include <float.h>
#include <math.h>
#include <omp.h>

#define SPAN 64       /* positions between rescalings */
#define NUM_ROWS 4    /* keys or values that are read at once, for PAIR heads: 4 x 2 sums or weights leave registers */
#define PAIR 2
#define GROUP_HEADS 32 /* heads that share what is read; their queries and sums stay in the nearest cache */

/* New tokens of a sequence: rows of the query, the newest of its positions. */
typedef struct {
    int64_t first_row, num_rows, num_positions;
} sequence_t;

/* Slots are [sequences, slots_stride]. Keys and values are [slots, kv_heads, head_dim], query and output
   [rows, heads, head_dim]. A token sees the last `window` positions up to its own. */
typedef struct {
    const void *query, *keys, *values;
    void *output;
    const int64_t *slots;
    const sequence_t *sequences;
    int64_t num_sequences, num_heads, num_kv_heads, head_dim, slots_stride, window;
    int32_t query_type, cache_type;
    float scale;
} attention_t;

/* A few tokens of a sequence, `num_tokens` from its new token `first` on, and key-value heads for a thread. */
typedef struct {
    int64_t sequence, first, num_tokens, first_head, end_head;
} task_t;

/* The heads of a task's tokens that share a key-value head: [tokens][heads that share]. Rows have `width` floats,
   filled up with zeros; `weights` are [heads][SPAN], first scores; `copies` are NUM_ROWS rows, `zeros` is one. */
typedef struct {
    int64_t kv_head, num_sharing, num_heads, width;
    int64_t first_row, first_position; /* of the task's first token */
    float *query, *sums, *weights, *highest, *totals, *copies, *zeros;
} group_t;

/* Positions that a token sees. */
typedef struct {
    int64_t start, end;
} range_t;

static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

static range_t seen_by(const attention_t *attention, int64_t position) {
    return (range_t){.start = larger(0, position + 1 - attention->window), .end = position + 1};
}

/* ---- memory and tasks ---- */

static int64_t num_sharing(const attention_t *attention) { return attention->num_heads / attention->num_kv_heads; }

/* Tokens of a task at most. */
static int64_t tokens_per_task(const attention_t *attention) {
    int64_t longest = 1;
    for (int64_t i = 0; i < attention->num_sequences; i++)
        longest = larger(longest, attention->sequences[i].num_rows);
    return smaller(longest, larger(1, GROUP_HEADS / num_sharing(attention)));
}

static int64_t floats_per_group(const attention_t *attention, int64_t num_tokens) {
    const int64_t width = divide_up(attention->head_dim, LANES) * LANES;
    return num_tokens * num_sharing(attention) * (2 * width + SPAN + 2) + (NUM_ROWS + 1) * width;
}

static int64_t max_tasks(const attention_t *attention, int64_t most) {
    int64_t count = 0;
    for (int64_t i = 0; i < attention->num_sequences; i++)
        count += divide_up(attention->sequences[i].num_rows, most) * attention->num_kv_heads;
    return count;
}

int64_t attention_scratch_bytes(const attention_t *attention, int num_threads) {
    const int64_t most = tokens_per_task(attention), num_floats = floats_per_group(attention, most);
    return max_tasks(attention, most) * (int64_t)sizeof(task_t) +
           num_threads * attention->num_kv_heads * num_floats * (int64_t)sizeof(float);
}

/* Cut the tokens of a sequence into tasks of `most` tokens. Heads share pages, so that a single token's stay together while there is
   work for all threads; those of several have enough to do with one. Returns the number of tasks. */
static int64_t plan_sequence(const attention_t *attention, int64_t sequence, int64_t most, int64_t parts,
                             task_t *tasks) {
    const int64_t num_rows = attention->sequences[sequence].num_rows, num_kv_heads = attention->num_kv_heads;
    int64_t count = 0;
    for (int64_t first = 0; first < num_rows; first += most) {
        const int64_t num_tokens = smaller(most, num_rows - first), cuts = num_tokens > 1 ? num_kv_heads : parts;
        for (int64_t part = 0; part < cuts; part++)
            tasks[count++] = (task_t){.sequence = sequence, .first = first, .num_tokens = num_tokens,
                                      .first_head = num_kv_heads * part / cuts,
                                      .end_head = num_kv_heads * (part + 1) / cuts};
    }
    return count;
}

static group_t lay_out(const attention_t *attention, const task_t *task, int64_t kv_head, float *memory) {
    const sequence_t *sequence = attention->sequences + task->sequence;
    group_t group = {.kv_head = kv_head, .num_sharing = num_sharing(attention)};
    group.num_heads = task->num_tokens * group.num_sharing;
    group.width = divide_up(attention->head_dim, LANES) * LANES;
    group.first_row = sequence->first_row + task->first;
    group.first_position = sequence->num_positions - sequence->num_rows + task->first;
    group.query = memory + kv_head * floats_per_group(attention, task->num_tokens);
    group.sums = group.query + group.num_heads * group.width;
    group.weights = group.sums + group.num_heads * group.width;
    group.highest = group.weights + group.num_heads * SPAN;
    group.totals = group.highest + group.num_heads;
    group.copies = group.totals + group.num_heads;
    group.zeros = group.copies + NUM_ROWS * group.width;
    return group;
}

/* Where a head of the group begins in the query and in the output. */
static int64_t place_of(const attention_t *attention, const group_t *group, int64_t head) {
    const int64_t row = group->first_row + head / group->num_sharing;
    const int64_t column = group->kv_head * group->num_sharing + head % group->num_sharing;
    return (row * attention->num_heads + column) * attention->head_dim;
}

static void start(const attention_t *attention, const group_t *group) {
    memset(group->query, 0, (group->zeros + group->width - group->query) * sizeof(float));
    for (int64_t head = 0; head < group->num_heads; head++) {
        float *query = group->query + head * group->width;
        read_floats(attention->query, attention->query_type, place_of(attention, group, head), attention->head_dim,
                    query);
        for (int64_t i = 0; i < attention->head_dim; i++) query[i] *= attention->scale * LOG2_E;
        group->highest[head] = -FLT_MAX; /* not infinite: less a score of -Inf it would be NaN */
    }
}

static void finish(const attention_t *attention, const group_t *group) {
    for (int64_t head = 0; head < group->num_heads; head++)
        for (int64_t i = 0; i < attention->head_dim; i++)
            write_float(attention->output, attention->query_type, place_of(attention, group, head) + i,
                        group->sums[head * group->width + i] / group->totals[head]);
}

/* ---- spans ---- */

/* Point at the NUM_ROWS rows from position `at` of the span on, as floats: where they lie if they can be read from
   there, else at copies; those that nobody sees are zeros. What lies behind them, the rows of the next head, is
   fetched. */
static inline void find_rows(const attention_t *attention, const group_t *group, const void *cache,
                             const int64_t *slots, range_t seen, int64_t at, const float *rows[NUM_ROWS]) {
    const int type = attention->cache_type, is_direct = type == FLOAT32 && attention->head_dim == group->width;
    const int64_t value_bytes = type == FLOAT32 ? 4 : 2, row_bytes = attention->head_dim * value_bytes;
    for (int row = 0; row < NUM_ROWS; row++) {
        rows[row] = group->zeros;
        if (at + row < seen.start || at + row >= seen.end) continue;
        const int64_t start = (slots[at + row] * attention->num_kv_heads + group->kv_head) * attention->head_dim;
        const char *next = (const char *)cache + start * value_bytes + row_bytes;
        for (int64_t line = 0; line < row_bytes; line += CACHE_LINE) _mm_prefetch(next + line, _MM_HINT_T1);
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

/* Leave of the scores of a head those of the positions that it sees. */
static void mask(const attention_t *attention, const group_t *group, int64_t head, int64_t span) {
    const range_t seen = seen_by(attention, group->first_position + head / group->num_sharing);
    float *scores = group->weights + head * SPAN;
    for (int64_t at = 0; at < smaller(SPAN, seen.start - span); at++) scores[at] = -INFINITY;
    for (int64_t at = larger(0, seen.end - span); at < SPAN; at++) scores[at] = -INFINITY;
}

/* Attend from a group to the positions that it sees of the span at `span`. */
static void attend_span(const attention_t *attention, const group_t *group, const int64_t *slots, range_t seen,
                        int64_t span) {
    const float *rows[NUM_ROWS];
    const range_t part = {.start = larger(0, seen.start - span), .end = smaller(SPAN, seen.end - span)};
    const int64_t first = part.start / NUM_ROWS * NUM_ROWS;
    for (int64_t at = first; at < part.end; at += NUM_ROWS) {
        find_rows(attention, group, attention->keys, slots + span, part, at, rows);
        int64_t head = 0;
        for (; head + PAIR <= group->num_heads; head += PAIR) score_rows(group, rows, head, PAIR, at);
        if (head < group->num_heads) score_rows(group, rows, head, 1, at);
    }
    for (int64_t head = 0; head < group->num_heads; head++) {
        mask(attention, group, head, span);
        weigh(group, head);
    }
    for (int64_t at = first; at < part.end; at += NUM_ROWS) {
        find_rows(attention, group, attention->values, slots + span, part, at, rows);
        int64_t head = 0;
        for (; head + PAIR <= group->num_heads; head += PAIR) add_rows(group, rows, head, PAIR, at);
        if (head < group->num_heads) add_rows(group, rows, head, 1, at);
    }
}

/* Attend from the key-value heads of a task: all of them to one span before the next, since their rows share pages. */
static void attend(const attention_t *attention, const task_t *task, float *memory) {
    const int64_t *slots = attention->slots + task->sequence * attention->slots_stride;
    group_t groups[task->end_head - task->first_head];
    for (int64_t head = task->first_head; head < task->end_head; head++) {
        groups[head - task->first_head] = lay_out(attention, task, head, memory);
        start(attention, groups + head - task->first_head);
    }
    const int64_t num_groups = task->end_head - task->first_head, first = groups[0].first_position;
    const range_t seen = {.start = seen_by(attention, first).start, .end = first + task->num_tokens};
    for (int64_t span = seen.start / SPAN * SPAN; span < seen.end; span += SPAN)
        for (int64_t i = 0; i < num_groups; i++) attend_span(attention, groups + i, slots, seen, span);
    for (int64_t i = 0; i < num_groups; i++) finish(attention, groups + i);
}

static int64_t num_products(const attention_t *attention) {
    int64_t num_pairs = 0;
    for (int64_t i = 0; i < attention->num_sequences; i++) {
        const sequence_t *sequence = attention->sequences + i;
        num_pairs += sequence->num_rows * smaller(sequence->num_positions, attention->window);
    }
    return 2 * num_pairs * attention->num_heads * attention->head_dim;
}

/* Write the output; `scratch` has attention_scratch_bytes for `num_threads`. */
void attention_run(const attention_t *attention, void *scratch, int num_threads) {
    if (!attention->num_sequences) return;
    const int team = useful_threads(num_threads, num_products(attention));
    const int64_t parts = smaller(divide_up(team, attention->num_sequences), attention->num_kv_heads);
    const int64_t most = tokens_per_task(attention);
    task_t *tasks = scratch;
    float *memory = (float *)(tasks + max_tasks(attention, most));
    const int64_t num_floats = attention->num_kv_heads * floats_per_group(attention, most);
    int64_t num_tasks = 0;
    for (int64_t i = 0; i < attention->num_sequences; i++)
        num_tasks += plan_sequence(attention, i, most, parts, tasks + num_tasks);
#pragma omp parallel for num_threads(team) schedule(dynamic)
    for (int64_t i = 0; i < num_tasks; i++) attend(attention, tasks + i, memory + omp_get_thread_num() * num_floats);
}
