/* SPDX-License-Identifier: MIT */
/* Which token a row gives, as nvllm/sampler.h and the samplers of the host define it, written out plainly in
 * double precision: for the test of the CUDA kernels and for bench/sampler.cu. */
#ifndef NVLLM_SAMPLE_ORACLE_H
#define NVLLM_SAMPLE_ORACLE_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <nvllm/random.h>
#include <nvllm/sampler.h>

struct oracle {
	int n, best;
	float *x;      /* after penalties */
	double *w;     /* 0 = not kept */
	int *order;
	double total, max;
};

static const struct oracle *oracle_sorting;

static inline int oracle_compare(const void *pa, const void *pb)
{
	int a = *(const int *)pa, b = *(const int *)pb;

	if (oracle_sorting->x[a] != oracle_sorting->x[b])
		return oracle_sorting->x[a] > oracle_sorting->x[b] ? -1 : 1;
	return a - b;
}

static inline double oracle_depth(const struct oracle *o, double inv_t, int i) { return (o->max - (double)o->x[i]) * inv_t; }

static inline void oracle_penalties(struct oracle *o, const struct nvllm_sample_row *r)
{
	int *said = (int *)calloc((size_t)o->n * 2, sizeof(int)), *out = said + o->n;
	int first = r->n_prompt < r->n_tokens ? r->n_prompt : r->n_tokens;

	for (int i = 0; r->tokens && i < r->n_tokens; i++)
		if (r->tokens[i] >= 0 && r->tokens[i] < o->n)
			said[r->tokens[i]] = 1, out[r->tokens[i]] += i >= first;
	for (int i = 0; i < o->n; i++) {
		double x = o->x[i];

		if (said[i] && r->repetition != 1)
			x = x > 0 ? x / r->repetition : x * r->repetition;
		if (out[i])
			x = x - r->frequency * out[i] - r->presence;
		if (said[i])
			o->x[i] = (float)x;
	}
	free(said);
}

static inline void oracle_typical(struct oracle *o, double p, double inv_t, const int *order, int n)
{
	double all = 0, sum = 0, far = INFINITY, mean_depth = 0;
	double *d = (double *)malloc((size_t)n * sizeof(double));

	for (int i = 0; i < o->n; i++)
		if (o->w[i] > 0)
			all += o->w[i], mean_depth += o->w[i] * oracle_depth(o, inv_t, i);
	mean_depth /= all;
	for (int i = 0; i < n; i++)
		d[i] = fabs(oracle_depth(o, inv_t, order[i]) - mean_depth);
	qsort(d, (size_t)n, sizeof(*d), [](const void *a, const void *b) {
		return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b); });
	/* the least distance that suffices: by halves, each a sum over all */
	for (int lo = 0, hi = n - 1; lo <= hi;) {
		int mid = (lo + hi) / 2;

		sum = 0;
		for (int i = 0; i < o->n; i++)
			if (o->w[i] > 0 && fabs(oracle_depth(o, inv_t, i) - mean_depth) <= d[mid])
				sum += o->w[i];
		if (sum >= p * all && sum > 0)
			far = d[mid], hi = mid - 1;
		else
			lo = mid + 1;
	}
	for (int i = 0; i < o->n; i++)
		if (fabs(oracle_depth(o, inv_t, i) - mean_depth) > far)
			o->w[i] = 0;
	free(d);
}

static inline struct oracle oracle_new(const float *x, int n, const struct nvllm_sample_row *r, bool greedy)
{
	struct oracle o = { n, 0, (float *)malloc((size_t)n * 4), (double *)calloc((size_t)n, 8),
		(int *)malloc((size_t)n * 4), 0, -INFINITY };
	double inv_t, sum = 0, all = 0;
	int left = 0;

	memcpy(o.x, x, (size_t)n * 4);
	if (!greedy)
		oracle_penalties(&o, r);
	for (int i = 0; i < n; i++) {
		if (o.x[i] != o.x[i])
			o.x[i] = -INFINITY;
		if ((double)o.x[i] > o.max)
			o.max = o.x[i], o.best = i;
	}
	if (greedy || !(r->temperature > 0) || isinf(o.max))
		return o;
	inv_t = r->temperature > 1e-300 ? 1 / r->temperature : 1e300;
	for (int i = 0; i < n; i++) {
		o.w[i] = o.x[i] > -INFINITY ? exp(-oracle_depth(&o, inv_t, i)) : 0;
		o.w[i] = o.w[i] >= r->min_p ? o.w[i] : 0;
		if (o.x[i] > -INFINITY && (o.w[i] > 0 || r->min_p <= 0))
			o.order[left++] = i;
	}
	oracle_sorting = &o;
	qsort(o.order, (size_t)left, sizeof(int), oracle_compare);
	if (r->top_k > 0 && r->top_k < left) {
		float last = o.x[o.order[r->top_k - 1]];

		for (; left > 0 && o.x[o.order[left - 1]] < last; left--)
			o.w[o.order[left - 1]] = 0;
	}
	if (r->top_p < 1) {
		int i = 0;

		for (int k = 0; k < left; k++)
			all += o.w[o.order[k]];
		do
			sum += o.w[o.order[i++]];
		while (i < left && sum < r->top_p * all);
		while (left > i)
			o.w[o.order[--left]] = 0;
	}
	if (r->typical_p < 1)
		oracle_typical(&o, r->typical_p, inv_t, o.order, left);
	for (int i = 0; i < n; i++)
		o.total += o.w[i];
	return o;
}

static inline void oracle_free(struct oracle *o) { free(o->x), free(o->w), free(o->order); }

/* Pearson's chi-square of how often each token was drawn, in standard deviations (Wilson, Hilferty 1931);
 * infinity if one was that is not kept. Tokens expected fewer than five times make one cell together, which the
 * least of the others joins where that is still below five and two cells remain. One draw of a token expected
 * 0.008 times is nothing rare among a hundred such tokens, and would give 128 by itself. Five is the usual bound;
 * Cochran, "Some methods for strengthening the common chi-square tests", Biometrics 10 (1954), asks for less. */
static inline double oracle_sigmas(const struct oracle *o, const int *count, int draws)
{
	int cells = -1, least = 0, often = 0;
	bool join;
	double chi = 0, few_want = 0, few = 0, least_want = INFINITY;

	for (int i = 0; i < o->n; i++) {
		double want = draws * o->w[i] / o->total;

		if (o->w[i] == 0 && count[i])
			return INFINITY;
		if (want < 5)
			few_want += want, few += count[i];
		else if (often++, want < least_want)
			least_want = want, least = i;
	}
	join = few_want > 0 && few_want < 5 && often > 1;
	if (join)
		few_want += least_want, few += count[least];
	for (int i = 0; i < o->n; i++) {
		double want = draws * o->w[i] / o->total;

		if (want >= 5 && !(join && i == least))
			cells++, chi += (count[i] - want) * (count[i] - want) / want;
	}
	if (few_want > 0)
		cells++, chi += (few - few_want) * (few - few_want) / few_want;
	return cells < 1 ? 0 : (cbrt(chi / cells) - (1 - 2. / (9 * cells))) / sqrt(2. / (9 * cells));
}

/* How far u * total is from where token begins and ends, of the total: 0 if it lies within. */
static inline double oracle_miss(const struct oracle *o, int token, double u)
{
	double sum = 0, t = u * o->total;

	if (o->total == 0)
		return token == o->best ? 0 : INFINITY;
	if (token < 0 || token >= o->n || o->w[token] == 0)
		return INFINITY;
	for (int i = 0; i < token; i++)
		sum += o->w[i];
	return fmax(0, fmax(sum - t, t - sum - o->w[token])) / o->total;
}

#endif
