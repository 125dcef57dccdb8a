/* Rational activations R(x) = P(x) / Q(x) on a CPU, forward and backward; reference.py is the definition.
 *
 * No header of torch or Python: cpu.py calls the functions at the end through ctypes. The elements are cut into blocks
 * of about BLOCK that depend on the shape alone, and the coefficients' sums over blocks are added in float64 and in
 * order, so that the result is the same for any number of threads. The instruction set is chosen at the first
 * call. Threads are those of the OpenMP runtime that torch has loaded, whose entry cpu.py hands in: a second runtime
 * would be a second pool of threads on the same cores.
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
#define BLOCK 4096
#define STREAMED (32 << 20) /* bytes of output, more than most last-level caches hold of it */
#define MAX_TERMS 9         /* degrees up to 8 */
#define GLUE2(a, b, c) a##_##b##_##c
#define GLUE(a, b, c) GLUE2(a, b, c)

typedef struct { /* a rectangle whose columns are neighbours in memory */
    int64_t rows, width, x_stride, g_stride, y_stride;
    int stream; /* write past the caches, which are smaller than the whole output */
} Block;

/* Every block function, by type and instruction set. */
#define T float
#define INT int32_t
#define SIGN 0x80000000u
#define TYPE f32
#include "instructions.inc"
#undef T
#undef INT
#undef SIGN
#undef TYPE

#define T double
#define INT int64_t
#define SIGN 0x8000000000000000u
#define TYPE f64
#include "instructions.inc"
#undef T
#undef INT
#undef SIGN
#undef TYPE

/* What a block with a large x needs: an exponent of 15 bits holds the eighth power of any double. */

static long double guard(long double s, int version) {
    return version == 'B' ? 1.0L + fabsl(s) : version == 'C' ? 0.1L + fabsl(s) : s;
}

#define CAREFUL(T, type) \
static void careful_forward_##type(const Block *b, const T *x, T *y, const T *a, const T *c, int m, int n, int version) { \
    for (int64_t row = 0; row < b->rows; row++) \
        for (int64_t i = 0; i < b->width; i++) { \
            long double v = x[row * b->x_stride + i], u = version == 'A' ? fabsl(v) : v, p = a[m], s = c[n]; \
            for (int j = m - 1; j >= 0; j--) p = p * v + a[j]; \
            for (int j = n - 1; j >= 0; j--) s = s * u + c[j]; \
            y[row * b->y_stride + i] = (T)(p / guard(s, version)); \
        } \
} \
static void careful_backward_##type( \
    const Block *b, const T *x, const T *g, T *dx, const T *a, const T *c, int m, int n, int version, double *sums \
) { \
    long double sa[MAX_TERMS] = {0}, sc[MAX_TERMS] = {0}; \
    for (int64_t row = 0; row < b->rows; row++) \
        for (int64_t i = 0; i < b->width; i++) { \
            long double v = x[row * b->x_stride + i], u = version == 'A' ? fabsl(v) : v; \
            long double p = a[m], dp = 0, s = c[n], ds = 0; \
            for (int j = m - 1; j >= 0; j--) { dp = dp * v + p; p = p * v + a[j]; } \
            for (int j = n - 1; j >= 0; j--) { ds = ds * u + s; s = s * u + c[j]; } \
            long double q = guard(s, version), r = p / q, w = g[row * b->g_stride + i] / q; \
            long double sign = version == 'B' || version == 'C' ? copysignl(1, s) : 1, o = -r * w * sign; \
            ds *= version == 'A' ? copysignl(1, v) : sign; \
            dx[row * b->y_stride + i] = (T)(w * (dp - r * ds)); \
            for (int j = 0; j <= m; j++, w *= v) sa[j] += w; \
            for (int j = 0; j <= n; j++, o *= u) sc[j] += o; \
        } \
    for (int j = 0; j <= m; j++) sums[j] = (double)sa[j]; \
    for (int j = 0; j <= n; j++) sums[m + 1 + j] = (double)sc[j]; \
}
CAREFUL(float, f32)
CAREFUL(double, f64)

/* The instruction set. */

enum { BASELINE, AVX2, AVX512 };
static const char *const NAMES[] = {"baseline", "avx2", "avx512"};

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
#define BY_INSTRUCTIONS(name, type, ...) \
    (instructions() == AVX512 ? name##_##type##_avx512(__VA_ARGS__) \
     : instructions() == AVX2 ? name##_##type##_avx2(__VA_ARGS__) : name##_##type##_baseline(__VA_ARGS__))
#else
#define BY_INSTRUCTIONS(name, type, ...) name##_##type##_baseline(__VA_ARGS__)
#endif

/* The work of one call: `units` pieces of memory with coefficients of their own, each in blocks. */

typedef struct {
    const void *x, *g, *a, *b;
    void *y;
    int64_t rows, groups, width, x_batch, x_row, g_batch, g_row, y_batch, y_row;
    int64_t pieces, block_rows, blocks, total; /* pieces a row is cut into, rows a block has, blocks a unit has */
    double *sums;                              /* [total, m + n + 2] */
    int64_t next, chunk;
    double limit; /* |x| from which on powers may overflow: 2^20 for degree 5 in float32 */
    int m, n, version, wide, stream;
} Work;

static void do_block(const Work *w, int64_t index) {
    int64_t unit = index / w->blocks, k = index % w->blocks, batch = unit / w->groups, group = unit % w->groups;
    int64_t row = k / w->pieces * w->block_rows, column = k % w->pieces * BLOCK;
    int64_t rows = w->rows - row < w->block_rows ? w->rows - row : w->block_rows;
    int64_t width = w->pieces > 1 && w->width - column > BLOCK ? BLOCK : w->width - column;
    Block b = {rows, width, w->x_row, w->g_row, w->y_row, w->stream};
    int64_t at = group * w->width + column;
    int64_t x_at = batch * w->x_batch + row * w->x_row + at, y_at = batch * w->y_batch + row * w->y_row + at;
    int64_t g_at = batch * w->g_batch + row * w->g_row + at;
    int m = w->m, n = w->n, version = w->version;
    double *sums = w->sums + index * (m + n + 2);
    int given = n + (version == 'C');
#define DO(T, type) { \
        const T *x = (const T *)w->x + x_at, *a = (const T *)w->a + unit * (m + 1); \
        const T *d = (const T *)w->b + unit * given; \
        T *y = (T *)w->y + y_at, c[MAX_TERMS] = {version == 'B' ? 0 : 1}; /* the whole polynomial in Q */ \
        for (int j = 0; j < given; j++) c[j + (version != 'C')] = version == 'A' && d[j] < 0 ? -d[j] : d[j]; \
        if (w->g) { \
            const T *g = (const T *)w->g + g_at; \
            if (BY_INSTRUCTIONS(backward, type, &b, x, g, y, a, c, m, n, version, (T)w->limit, sums)) \
                careful_backward_##type(&b, x, g, y, a, c, m, n, version, sums); \
        } else if (BY_INSTRUCTIONS(forward, type, &b, x, y, a, c, m, n, version, (T)w->limit)) \
            careful_forward_##type(&b, x, y, a, c, m, n, version); \
    }
    if (w->wide) DO(double, f64) else DO(float, f32)
#undef DO
}

static void work(void *data) {
    Work *w = data;
    for (;;) {
        int64_t first = __atomic_fetch_add(&w->next, w->chunk, __ATOMIC_RELAXED);
        if (first >= w->total) return;
        int64_t last = first + w->chunk < w->total ? first + w->chunk : w->total;
        for (int64_t index = first; index < last; index++) do_block(w, index);
#ifdef X86
        if (w->stream) __builtin_ia32_sfence();
#endif
    }
}

typedef void (*Parallel)(void (*)(void *), void *, unsigned, unsigned);
static Parallel parallel;

static void run(Work *w, int threads) {
    if (w->total < threads) threads = (int)w->total;
    w->next = 0;
    w->chunk = w->total / (8 * threads) + 1;
    if (w->chunk > 16) w->chunk = 16;
    if (threads > 1 && parallel)
        parallel(work, w, (unsigned)threads, 0);
    else
        work(w);
}

static void cut(Work *w, int64_t batch) {
    if (w->groups == 1 && w->x_row == w->width && w->y_row == w->width && (!w->g || w->g_row == w->width)) {
        w->width *= w->rows; /* one long row */
        w->rows = 1;
    }
    w->stream = batch * w->groups * w->rows * w->width * (w->wide ? 8 : 4) >= STREAMED;
    int degree = w->m > w->n ? w->m : w->n;
    w->limit = exp2((w->wide ? 900.0 : 100.0) / (degree ? degree : 1));
    w->pieces = w->width > BLOCK ? (w->width + BLOCK - 1) / BLOCK : 1;
    w->block_rows = w->pieces > 1 ? 1 : BLOCK / w->width;
    w->blocks = (w->rows + w->block_rows - 1) / w->block_rows * w->pieces;
    w->total = batch * w->groups * w->blocks;
}

/* What cpu.py calls. `wide`: x and everything else is float64, else float32. x is [batch, rows, groups * width] with the
 * strides x_batch, x_row and 1; y is contiguous. a is [batch, groups, m + 1], b [batch, groups, n], in version C
 * [batch, groups, n + 1]. No size may be 0. */

EXPORT void rational_forward(
    const void *x, void *y, const void *a, const void *b, int64_t batch, int64_t rows, int64_t groups, int64_t width,
    int64_t x_batch, int64_t x_row, int m, int n, int version, int wide, int threads
) {
    int64_t y_row = groups * width;
    Work w = {.x = x, .y = y, .a = a, .b = b, .rows = rows, .groups = groups, .width = width, .x_batch = x_batch,
              .x_row = x_row, .y_batch = rows * y_row, .y_row = y_row, .m = m, .n = n, .version = version, .wide = wide};
    cut(&w, batch);
    run(&w, threads);
}

static void add_up(const Work *w, int64_t unit, double *total) {
    int terms = w->m + w->n + 2;
    memset(total, 0, terms * sizeof(double));
    for (int64_t k = 0; k < w->blocks; k++)
        for (int j = 0; j < terms; j++) total[j] += w->sums[(unit * w->blocks + k) * terms + j];
}

/* dx as y, da and db as a and b. Returns 0, or 1 where memory ran out. */
EXPORT int rational_backward(
    const void *g, const void *x, void *dx, void *da, void *db, const void *a, const void *b, int64_t batch,
    int64_t rows, int64_t groups, int64_t width, int64_t g_batch, int64_t g_row, int64_t x_batch, int64_t x_row, int m,
    int n, int version, int wide, int threads
) {
    int64_t y_row = groups * width;
    int given = n + (version == 'C'), skip = version != 'C';
    Work w = {.x = x, .g = g, .y = dx, .a = a, .b = b, .rows = rows, .groups = groups, .width = width,
              .x_batch = x_batch, .x_row = x_row, .g_batch = g_batch, .g_row = g_row, .y_batch = rows * y_row,
              .y_row = y_row, .m = m, .n = n, .version = version, .wide = wide};
    cut(&w, batch);
    w.sums = malloc((size_t)(w.total * (m + n + 2)) * sizeof(double));
    if (!w.sums) return 1;
    run(&w, threads);
    for (int64_t unit = 0; unit < batch * groups; unit++) {
        double total[2 * MAX_TERMS];
        add_up(&w, unit, total);
#define PUT(T) { \
            T *to_a = (T *)da + unit * (m + 1), *to_b = (T *)db + unit * given; \
            const T *d = (const T *)b + unit * given; \
            for (int j = 0; j <= m; j++) to_a[j] = (T)total[j]; \
            for (int j = 0; j < given; j++) { \
                double sum = total[m + 1 + skip + j]; \
                to_b[j] = (T)(version == 'A' && d[j] < 0 ? -sum : sum); \
            } \
        }
        if (wide) PUT(double) else PUT(float)
#undef PUT
    }
    free(w.sums);
    return 0;
}

/* GOMP_parallel of the OpenMP runtime that torch has loaded, or NULL for one thread. */
EXPORT void rational_pool(Parallel entry) { parallel = entry; }

EXPORT const char *rational_instructions(void) { return NAMES[instructions()]; }

/* For tests: use `level` (0 baseline, 1 avx2, 2 avx512), or the best where the machine has less; -1 is the best. */
EXPORT void rational_choose(int level) {
    chosen = level < 0 || level > best() ? best() : level;
}
