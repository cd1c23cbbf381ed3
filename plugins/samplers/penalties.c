/* SPDX-License-Identifier: MIT */
/* What each penalty takes from a logit, and in what order:
 *   repetition r (Keskar et al. 2019, CTRL), once for a token of prompt or output:
 *     x > 0 ? x / r : x * r
 *   frequency f and presence p (OpenAI's API reference), counted in the output alone:
 *     x - f * count - p * (count > 0)
 * vLLM's order. Computed in double, rounded once. */
#include <string.h>

#include "penalties.h"

int penalties_on(const struct nvllm_sample_row *r)
{
	return r->tokens && ((r->repetition != 1 && r->n_tokens > 0) ||
		((r->presence != 0 || r->frequency != 0) && r->n_tokens > r->n_prompt));
}

static float penalised(const struct nvllm_sample_row *r, float logit, int32_t count)
{
	double x = (double)logit;

	if (r->repetition != 1)
		x = x > 0 ? x / r->repetition : x * r->repetition;
	if (count > 0)
		x = x - r->frequency * count - r->presence;
	return (float)x;
}

/* A mark is 0: not met yet, or done; else 1 + how often the token is in the output. Only
 * marks of the row's own tokens are touched. */
void penalties_apply(const struct nvllm_sample_row *r, const float *x, int64_t n, float *y,
	int32_t *marks)
{
	const int32_t *t = r->tokens;
	int32_t end = r->n_tokens, output = r->n_prompt < end ? r->n_prompt : end, from;
	/* a token that is no column of the row costs nothing */
#define IN_ROW(i) (t[i] >= 0 && t[i] < n)

	output = output < 0 ? 0 : output;
	from = r->repetition != 1 ? 0 : output;
	memcpy(y, x, (size_t)n * sizeof(*y));
	for (int32_t i = from; i < end; i++)
		if (IN_ROW(i))
			marks[t[i]] = 0;
	for (int32_t i = from; i < output; i++)
		if (IN_ROW(i))
			marks[t[i]] = 1;
	for (int32_t i = output; i < end; i++)
		if (IN_ROW(i))
			marks[t[i]] += marks[t[i]] ? 1 : 2;
	for (int32_t i = from; i < end; i++)
		if (IN_ROW(i) && marks[t[i]]) {
			y[t[i]] = penalised(r, x[t[i]], marks[t[i]] - 1);
			marks[t[i]] = 0;
		}
#undef IN_ROW
}
