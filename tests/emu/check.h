/* SPDX-License-Identifier: MIT */
/* tests/emu/check.h - for tests of kernels: one line a check, random numbers, memory with edges,
 * comparing. */
#ifndef NVLLM_EMU_CHECK_H
#define NVLLM_EMU_CHECK_H

#include "num.cuh"
#include <cuda.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* CHECK(what must hold, "printf format of the check's name", ...) */
#define CHECK(ok, ...) check_line((ok), __FILE__, __LINE__, __VA_ARGS__)
#define CHECK_EQ(a, b, ...) check_eq((long long)(a), (long long)(b), __FILE__, __LINE__, __VA_ARGS__)
/* x <= most; NaN fails. Prints x. */
#define CHECK_LE(x, most, ...) check_le((x), (most), __FILE__, __LINE__, __VA_ARGS__)

struct check_counts { int n, failed; };
static inline struct check_counts *check_counts_(void) { static struct check_counts c; return &c; }

__attribute__((format(printf, 5, 0)))
static inline bool check_say(bool ok, const char *file, int line, const char *more, const char *fmt, va_list ap)
{
	check_counts_()->n++, check_counts_()->failed += !ok;
	fputs(ok ? "ok    " : "FAIL  ", stdout);
	vprintf(fmt, ap);
	fputs(more, stdout);
	if (!ok)
		printf(" (%s:%d)", file, line);
	putchar('\n');
	fflush(stdout);
	return ok;
}
__attribute__((format(printf, 4, 5)))
static inline bool check_line(bool ok, const char *file, int line, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	ok = check_say(ok, file, line, "", fmt, ap);
	va_end(ap);
	return ok;
}
__attribute__((format(printf, 5, 6)))
static inline bool check_eq(long long a, long long b, const char *file, int line, const char *fmt, ...)
{
	char more[80] = "";
	va_list ap;

	if (a != b)
		snprintf(more, sizeof(more), ": %lld, not %lld", a, b);
	va_start(ap, fmt);
	check_say(a == b, file, line, more, fmt, ap);
	va_end(ap);
	return a == b;
}
__attribute__((format(printf, 5, 6)))
static inline bool check_le(double x, double most, const char *file, int line, const char *fmt, ...)
{
	char more[80];
	va_list ap;

	snprintf(more, sizeof(more), ": %.3g <= %.3g", x, most);
	va_start(ap, fmt);
	check_say(x <= most, file, line, more, fmt, ap);
	va_end(ap);
	return x <= most;
}
/* What main() returns. */
static inline int check_done(void)
{
	printf("%d checks, %d failed\n", check_counts_()->n, check_counts_()->failed);
	return check_counts_()->failed ? 1 : 0;
}

/* In a child process, fn(arg) ends with a sentence that has `words` in it. emu.cc */
bool check_dies(void (*fn)(void *), void *arg, const char *words);

/* A device for host entry points, with a host whose fail() keeps its sentence. act: enum nvllm_dtype. check.cc */
struct nvllm_device *check_device(int act);
const char *check_said(void); /* the newest sentence, "" at first; forgets it */

/* ---- random numbers ---- */
struct rnd { uint64_t s; };
static inline struct rnd rnd_seed(uint64_t n) { return { (n + 1) * 0x9e3779b97f4a7c15ull | 1 }; }
static inline uint32_t rnd_u32(struct rnd *r)
{
	r->s ^= r->s << 13, r->s ^= r->s >> 7, r->s ^= r->s << 17;
	return (uint32_t)(r->s * 0x2545f4914f6cdd1dull >> 32);
}
/* [from, to] */
static inline int rnd_int(struct rnd *r, int from, int to) { return from + (int)(rnd_u32(r) % (uint32_t)(to - from + 1)); }
static inline double rnd_unit(struct rnd *r) { return (rnd_u32(r) + 0.5) / 4294967296.0; }
static inline double rnd_normal(struct rnd *r)
{
	double a = rnd_unit(r), b = rnd_unit(r);

	return sqrt(-2 * log(a)) * cos(2 * M_PI * b);
}
/* n elements of T (float, bf16, f16) of the normal distribution. */
template <class T> static inline void rnd_fill(struct rnd *r, T *p, int64_t n, double std)
{
	for (int64_t i = 0; i < n; i++)
		p[i] = from_f32<T>((float)(std * rnd_normal(r)));
}

/* ---- memory with edges ---- */
/* `bytes` of 0xff (NaN, -1) at a multiple of align (16 to 4096); right after it, and before it, come bytes
 * that edges_ok() looks at and, within align, an inaccessible page. emu.cc */
void *edges_new(size_t bytes, size_t align = 16);
bool edges_ok(const void *); /* nothing before or after was written */
void edges_free(void *);     /* exits if something was; NULL is legal */
template <class T> static inline T *edges(int64_t n) { return (T *)edges_new((size_t)n * sizeof(T)); }

/* ---- comparing ---- */
/* |got - want| / |want|, by the root of the sum of squares; NaN if any of got is. */
template <class T> static inline double norm_ratio(const T *got, const double *want, int64_t n)
{
	double d = 0, w = 0;

	for (int64_t i = 0; i < n; i++) {
		double e = (double)to_f32(got[i]) - want[i];

		d += e * e, w += want[i] * want[i];
	}
	return w > 0 ? sqrt(d / w) : sqrt(d);
}
/* The largest |got - want| / (|want| + floor). */
template <class T> static inline double worst_ratio(const T *got, const double *want, int64_t n, double floor)
{
	double worst = 0;

	for (int64_t i = 0; i < n; i++) {
		double e = fabs((double)to_f32(got[i]) - want[i]) / (fabs(want[i]) + floor);

		if (!(e <= worst))
			worst = e;
		if (e != e)
			return e;
	}
	return worst;
}

#endif
