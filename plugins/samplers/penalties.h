/* SPDX-License-Identifier: MIT */
/* penalties.h - what a token costs for having been said before. */
#ifndef PENALTIES_H
#define PENALTIES_H

#include <nvllm/sampler.h>

/* Whether the row asks for any that its tokens give reason to. */
int penalties_on(const struct nvllm_sample_row *);
/* y [n]: the n logits x, those of the row's tokens changed by its penalties. marks [n]:
 * scratch, contents undefined. Work in the order of n for the copy, and of the row's tokens. */
void penalties_apply(const struct nvllm_sample_row *, const float *x, int64_t n, float *y,
	int32_t *marks);

#endif
