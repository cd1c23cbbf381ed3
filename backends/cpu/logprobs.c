/* SPDX-License-Identifier: MIT */
/* logprobs.c - log softmax of rows of logits, at a target and at the likeliest ids.
 * A logit that is NaN never ranks. */
#include <math.h>

#include "cpu.h"

struct logprobs_job {
	struct nvllm_device *dev;
	const struct nvllm_tensor *x;
	const struct nvllm_logprobs *lp;
};

static float row_max(const float *x, int64_t n)
{
	float max = -INFINITY;

	for (int64_t i = 0; i < n; i++)
		max = x[i] > max ? x[i] : max;
	return max;
}

/* 1 + the ids before the target: larger, or as large with a lower id. */
static int32_t rank_of(const float *x, int64_t n, int32_t target)
{
	const float t = x[target];
	int32_t rank = 1;

	for (int64_t i = 0; i < target; i++)
		rank += x[i] >= t;
	for (int64_t i = target + 1; i < n; i++)
		rank += x[i] > t;
	return rank;
}

/* Keeps the n_top largest of x seen so far in order; as ids come in rising order, an
 * equal one goes behind. */
static void top_of(const float *x, int64_t n, int32_t n_top, int32_t *ids, float *values)
{
	int32_t have = 0;

	for (int64_t i = 0; i < n; i++) {
		int32_t k;

		if (isnan(x[i]) || (have == n_top && !(x[i] > values[n_top - 1])))
			continue;
		k = have < n_top ? have++ : n_top - 1;
		for (; k > 0 && values[k - 1] < x[i]; k--) {
			values[k] = values[k - 1];
			ids[k] = ids[k - 1];
		}
		values[k] = x[i];
		ids[k] = (int32_t)i;
	}
	for (; have < n_top; have++) { /* fewer numbers than entries */
		values[have] = -INFINITY;
		ids[have] = -1;
	}
}

static int32_t target_of(const struct nvllm_logprobs *lp, int64_t row)
{
	return lp->targets[row] == -2 ? lp->tokens[row] : lp->targets[row];
}

static void logprob_rows(void *arg, int64_t begin, int64_t end, int32_t worker)
{
	const struct logprobs_job *j = arg;
	const struct nvllm_logprobs *lp = j->lp;
	const int64_t n = j->x->cols;

	for (int64_t i = begin; i < end; i++) {
		const float *x = (const float *)((const char *)j->x->data + i * j->x->stride);
		const int32_t target = target_of(lp, i);
		float max;
		double log_sum;

		if (target < 0)
			continue;
		max = row_max(x, n);
		log_sum = max + log(j->dev->isa.sum_exp(x, max, n));
		lp->target_logprob[i] = (float)(x[target] - log_sum);
		lp->target_rank[i] = rank_of(x, n, target);
		if (lp->n_top < 1)
			continue;
		top_of(x, n, lp->n_top, lp->top_ids + i * lp->n_top,
			lp->top_logprobs + i * lp->n_top);
		for (int64_t k = i * lp->n_top; k < (i + 1) * lp->n_top; k++)
			lp->top_logprobs[k] = (float)(lp->top_logprobs[k] - log_sum);
	}
}

int logprobs(struct nvllm_device *dev, nvllm_stream stream, struct nvllm_tensor logits,
	const struct nvllm_logprobs *lp)
{
	struct logprobs_job j = { dev, &logits, lp };
	int err = check_f32(dev, &logits, "logprobs: logits");

	if (err)
		return err;
	for (int64_t i = 0; i < logits.rows; i++) {
		const int32_t target = target_of(lp, i);

		if (target >= logits.cols || (target < 0 && lp->targets[i] != -1))
			return dev->host->fail(dev->host, NVLLM_EINVAL,
				"logprobs: target %d of row %lld, the vocabulary has %lld",
				target, (long long)i, (long long)logits.cols);
	}
	run_rows(dev, logits.rows, 8 * logits.cols, logprob_rows, &j);
	return NVLLM_OK;
}
