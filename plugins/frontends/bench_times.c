/* SPDX-License-Identifier: MIT */
/* frontends/bench_times.c - decides what "median" and "p95" mean: the smallest time that
 * this share of all does not exceed (nearest rank), in fixed memory. */
#include "bench.h"

#include <stdlib.h>

static int cell_of(int64_t ns)
{
	int shift = ns < 64 ? 0 : 57 - __builtin_clzll((unsigned long long)ns);

	return shift * 64 + (int)(ns >> shift);
}

/* The middle of a cell. */
static int64_t time_of(int cell)
{
	int shift = cell < 128 ? 0 : cell / 64 - 1;

	return ((int64_t)(cell - shift * 64) << shift) + ((1ll << shift) >> 1);
}

void bench_times_add(struct bench_times *t, int64_t ns)
{
	ns = ns < 0 ? 0 : ns;
	t->cells[cell_of(ns)]++;
	t->n++;
	t->max = ns > t->max ? ns : t->max;
}

static int64_t rank_of(int64_t n, double share)
{
	int64_t rank = (int64_t)(share * (double)n);

	rank += (double)rank < share * (double)n;
	return rank < 1 ? 1 : rank > n ? n : rank;
}

int64_t bench_times_at(const struct bench_times *t, double share)
{
	int64_t left = rank_of(t->n, share), at = 0;

	if (!t->n)
		return 0;
	for (int i = 0; i < BENCH_CELLS && left > 0; i++) {
		left -= t->cells[i];
		at = time_of(i);
	}
	return at < t->max ? at : t->max;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

double bench_at(double *v, int64_t n, double share)
{
	if (!n)
		return 0;
	qsort(v, (size_t)n, sizeof(*v), compare);
	if (share == 0.5 && n % 2 == 0)
		return (v[n / 2 - 1] + v[n / 2]) / 2;
	return v[rank_of(n, share) - 1];
}
