/* SPDX-License-Identifier: MIT */
/* tests/conform/ref_sampler.c - the next token's distribution by sampler.h's formulas, in
 * double precision, sorting everything. Logits without ties. */
#include <math.h>
#include <stdlib.h>

#include "check.h"

/* Each token of the history is looked for anew. */
void ref_penalise(const float *x, int n, const struct nvllm_sample_row *r, float *y)
{
	for (int i = 0; i < n; i++) {
		double v = (double)x[i];
		int seen = 0, count = 0;

		for (int j = 0; j < r->n_tokens; j++) {
			seen += r->tokens[j] == i;
			count += j >= r->n_prompt && r->tokens[j] == i;
		}
		if (seen)
			v = v > 0 ? v / r->repetition : v * r->repetition;
		if (count)
			v -= r->frequency * count + r->presence;
		y[i] = (float)v;
	}
}

static const float *sort_key;
static int by_logit(const void *a, const void *b)
{
	int32_t i = *(const int32_t *)a, j = *(const int32_t *)b;

	if (sort_key[i] != sort_key[j])
		return sort_key[i] > sort_key[j] ? -1 : 1;
	return i - j;
}

static const double *far_key;
static int by_distance(const void *a, const void *b)
{
	int32_t i = *(const int32_t *)a, j = *(const int32_t *)b;

	if (far_key[i] != far_key[j])
		return far_key[i] < far_key[j] ? -1 : 1;
	return i - j;
}

/* p [n] sums to 1; order holds the `keep` tokens that are left: how many are typical. These
 * come first in order then. */
static int exact_typical(const double *p, int n, int32_t *order, int keep, double mass)
{
	double *far = calloc((size_t)n, sizeof(*far)), h = 0, sum = 0;
	int i;

	for (i = 0; i < keep; i++)
		h -= p[order[i]] * log(p[order[i]]);
	for (i = 0; i < keep; i++)
		far[order[i]] = fabs(-log(p[order[i]]) - h);
	far_key = far;
	qsort(order, (size_t)keep, sizeof(*order), by_distance);
	for (i = 0; i < keep && sum < mass; i++)
		sum += p[order[i]];
	free(far);
	return i;
}

void ref_distribution(const float *x, int n, const struct nvllm_sample_row *k, double *p)
{
	int32_t *order = malloc(sizeof(*order) * (size_t)n);
	double sum = 0, cum = 0;
	int keep = n;

	for (int i = 0; i < n; i++)
		order[i] = i;
	sort_key = x;
	qsort(order, (size_t)n, sizeof(*order), by_logit);
	for (int i = 0; i < n; i++)
		p[i] = exp(((double)x[i] - (double)x[order[0]]) / k->temperature);
	while (k->min_p > 0 && keep > 1 && p[order[keep - 1]] < k->min_p * p[order[0]])
		keep--;
	if (k->top_k > 0 && k->top_k < keep)
		keep = (int)k->top_k;
	for (int i = 0; i < keep; i++)
		sum += p[order[i]];
	for (int i = 0; i < keep && k->top_p < 1; i++) {
		cum += p[order[i]] / sum;
		if (cum >= k->top_p)
			keep = i + 1;
	}
	for (int pass = 0; pass < 2; pass++) {
		if (pass && k->typical_p < 1)
			keep = exact_typical(p, n, order, keep, k->typical_p);
		for (int i = keep; i < n; i++)
			p[order[i]] = 0;
		sum = 0;
		for (int i = 0; i < n; i++)
			sum += p[i];
		for (int i = 0; i < n; i++)
			p[i] /= sum;
	}
	free(order);
}
