/* Compute rational activations R(x) = P(x) / Q(x) on a CPU, forward and backward; reference.py is the definition.
 *
 * No header of torch or Python is needed: cpu.py calls the functions at the end through ctypes. The elements are cut
 * into blocks of about BLOCK_ELEMENTS, which depend on shape and layout alone, and the coefficients' sums over blocks
 * are added in float64 and in order: the result is the same for any number of threads. The instruction set is chosen at
 * the first call. The threads are those of the OpenMP runtime that torch has loaded, whose entry cpu.py hands in: a
 * second runtime would have a second pool of threads on the same cores.
 */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) || defined(__i386__)
#define X86 1
#endif
#define INLINE inline __attribute__((always_inline))
#define EXPORT __attribute__((visibility("default")))
#define BLOCK_ELEMENTS 4096
#define STREAMED_BYTES (32 << 20) /* from so much output on: most last-level caches hold less of it */
#define MAX_TERMS 9 /* degrees up to 8 */
#define LARGE_COEFFICIENT 1048576.0 /* coefficients up to here are safe for every x up to Work.limit */
#define AHEAD_BYTES 4096 /* asked for ahead: the hardware alone stops at each page, 2.6 times as slow */
#define GLUE2(a, b, c) a##_##b##_##c
#define GLUE(a, b, c) GLUE2(a, b, c)
#define TYPED2(a, b) a##_##b
#define TYPED1(a, b) TYPED2(a, b)
#define TYPED(a) TYPED1(a, TYPE)
#define BLOCK_OF_T TYPED(Block)

/* The instruction set. */

enum { BASELINE, AVX2, AVX512 };
#ifdef __ARM_NEON
static const char *const NAMES[] = {"neon"};
#else
static const char *const NAMES[] = {"baseline", "avx2", "avx512"};
#endif

static int best(void) {
#ifdef X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma"))
        return AVX512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return AVX2;
#endif
    return BASELINE;
}

static int chosen = -1;

static int instructions(void) {
    if (chosen < 0) chosen = best();
    return chosen;
}

#ifdef X86
#define BY_INSTRUCTIONS(name, ...) \
    (instructions() == AVX512 ? GLUE(name, TYPE, avx512)(__VA_ARGS__) \
     : instructions() == AVX2 ? GLUE(name, TYPE, avx2)(__VA_ARGS__) : GLUE(name, TYPE, baseline)(__VA_ARGS__))
#else
#define BY_INSTRUCTIONS(name, ...) GLUE(name, TYPE, baseline)(__VA_ARGS__)
#endif

/* The work of one call: `units` pieces of memory, each with coefficients of its own and cut into blocks. */

typedef struct { /* what cpu.py makes once for a shape: 17 numbers of 8 bytes */
    int64_t batch, rows, groups, width, x_batch, x_row, g_batch, g_row, gate_batch, gate_row;
    int64_t a_batch, b_batch, bias_batch, m, n, version, wide;
} Call;

typedef struct {
    const Call *call;
    const void *x, *g, *a, *b, *bias, *gate;
    void *y, *dgate;
    int64_t rows, width, x_row, g_row, gate_row, y_row;
    int64_t pieces, block_rows, blocks, total; /* pieces a row is cut into, rows a block has, blocks a unit has */
    double *sums;                              /* [total, m + n + 2] */
    void *columns;                             /* [total, width of a block] of the type, sums for the bias */
    double limit; /* |x| from which on powers may overflow: 2^20 for degree 5 in float32 */
    int stream, parallel;
} Work;

static long double guard(long double s, int version) {
    return version == 'B' ? 1.0L + fabsl(s) : version == 'C' ? 0.1L + fabsl(s) : s;
}

/* Every block function, by type and instruction set. */
#define T float
#define INT int32_t
#define SIGN 0x80000000u
#define TYPE f32
#include "blocks.inc"
#undef T
#undef INT
#undef SIGN
#undef TYPE

#define T double
#define INT int64_t
#define SIGN 0x8000000000000000u
#define TYPE f64
#include "blocks.inc"
#undef T
#undef INT
#undef SIGN
#undef TYPE

static struct { /* of the OpenMP runtime that torch has loaded; NULL where there is none */
    void (*parallel)(void (*)(void *), void *, unsigned, unsigned);
    int (*thread)(void), (*threads)(void);
} pool;

/* Give a thread the same share of elements in every call, as torch's own operations do: its core's cache holds it. */
static void work(void *data) {
    const Work *w = data;
    int64_t threads = w->parallel ? pool.threads() : 1, thread = w->parallel ? pool.thread() : 0;
    int64_t last = w->total * (thread + 1) / threads;
    for (int64_t index = w->total * thread / threads; index < last; index++)
        if (w->call->wide) block_f64(w, index);
        else block_f32(w, index);
#ifdef X86
    if (w->stream) __builtin_ia32_sfence();
#endif
}

static void run(Work *w, int threads) {
    if (w->total < threads) threads = (int)w->total;
    w->parallel = threads > 1 && pool.parallel;
    if (w->parallel) pool.parallel(work, w, (unsigned)threads, 0);
    else work(w);
}

static Work cut(const Call *call) {
    Work w = {.call = call, .rows = call->rows, .width = call->width, .x_row = call->x_row, .g_row = call->g_row,
              .gate_row = call->gate_row, .y_row = call->groups * call->width};
    w.stream = call->batch * call->groups * w.rows * w.width * (call->wide ? 8 : 4) >= STREAMED_BYTES;
    int64_t degree = call->m > call->n ? call->m : call->n;
    w.limit = exp2((call->wide ? 900.0 : 100.0) / (degree ? degree : 1));
    return w;
}

static void cut_rows(Work *w) {
    w->pieces = w->width > BLOCK_ELEMENTS ? (w->width + BLOCK_ELEMENTS - 1) / BLOCK_ELEMENTS : 1;
    w->block_rows = w->pieces > 1 ? 1 : BLOCK_ELEMENTS / w->width;
    w->blocks = (w->rows + w->block_rows - 1) / w->block_rows * w->pieces;
    w->total = w->call->batch * w->call->groups * w->blocks;
}

/* Join all rows to one where nothing in the call needs to know the columns. */
static void join_rows(Work *w) {
    int64_t width = w->width;
    if (w->call->groups > 1 || w->bias || w->x_row != width || (w->g && w->g_row != width) ||
        (w->gate && w->gate_row != width)) return;
    w->width *= w->rows;
    w->rows = 1;
}

/* cpu.py calls the functions below. x is [batch, rows, groups * width] with the strides x_batch, x_row and 1; gate and
 * g likewise; y, dx and dgate are contiguous. a is [batch, groups, m + 1], b [batch, groups, n] (version C: n + 1),
 * bias [batch, groups * width]. Each of their batch entries has no gaps and lies a_batch, b_batch or bias_batch after
 * the one before. The gradients have no gaps. Everything is float64 where call->wide, else float32. bias and gate may
 * be NULL. No size may be 0. */

EXPORT void rational_forward(
    const Call *call, const void *x, void *y, const void *a, const void *b, const void *bias, const void *gate, int threads
) {
    Work w = cut(call);
    w.x = x; w.y = y; w.a = a; w.b = b; w.bias = bias; w.gate = gate;
    join_rows(&w);
    cut_rows(&w);
    run(&w, threads);
}

/* Gradients: dx and dgate are as y, the others as what they belong to. Returns 0, or 1 where memory ran out. */
EXPORT int rational_backward(
    const Call *call, const void *g, const void *x, void *dx, void *da, void *db, const void *a, const void *b,
    const void *bias, void *dbias, const void *gate, void *dgate, int threads
) {
    Work w = cut(call);
    w.g = g; w.x = x; w.y = dx; w.a = a; w.b = b; w.bias = bias; w.gate = gate; w.dgate = dgate;
    w.stream = 0;
    join_rows(&w);
    cut_rows(&w);
    int64_t sums = w.total * (call->m + call->n + 2);
    int64_t columns = bias ? w.total * (w.pieces > 1 ? BLOCK_ELEMENTS : w.width) : 0;
    w.sums = malloc((size_t)sums * sizeof(double) + (size_t)columns * (call->wide ? sizeof(double) : sizeof(float)));
    if (!w.sums) return 1;
    w.columns = w.sums + sums;
    run(&w, threads);
    for (int64_t unit = 0; unit < call->batch * call->groups; unit++)
        if (call->wide) add_up_f64(&w, unit, da, db, dbias);
        else add_up_f32(&w, unit, da, db, dbias);
    free(w.sums);
    return 0;
}

/* Take GOMP_parallel, omp_get_thread_num and omp_get_num_threads, or NULL for one thread. */
EXPORT void rational_pool(void *parallel, void *thread, void *threads) {
    pool.parallel = parallel, pool.thread = thread, pool.threads = threads;
}

EXPORT const char *rational_instructions(void) { return NAMES[instructions()]; }

/* For tests: use `level` (0 baseline, 1 avx2, 2 avx512), or the best where the machine has less; -1 is the best. */
EXPORT void rational_choose(int level) {
    chosen = level < 0 || level > best() ? best() : level;
}

#include "dispatcher.inc"
