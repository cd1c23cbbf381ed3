/* SPDX-License-Identifier: MIT */
/* Rotary embedding: the inverse frequencies of each scaling. Formulas as in Hugging Face
 * transformers, modeling_rope_utils.py: default (Su et al. 2021), linear (Chen et al. 2023),
 * llama3 (Meta, Llama 3.1). In f32 where that library works in f32, so that tables agree
 * to the bit or nearly so. */
#include <math.h>

#include "engine_int.h"

static const double two_pi = 6.283185307179586;

/* llama3: long waves are slowed by factor, short ones left, those between mixed. */
static float llama3(const struct nvllm_rope *r, float f)
{
	double wave = two_pi / (double)f, len = (double)r->original_len, smooth;

	if (wave > len / r->low_freq_factor)
		return (float)((double)f / r->factor);
	if (wave < len / r->high_freq_factor)
		return f;
	smooth = (len / wave - r->low_freq_factor) / (r->high_freq_factor - r->low_freq_factor);
	return (float)((1 - smooth) * (double)f / r->factor + smooth * (double)f);
}

int rope_table(const struct nvllm_rope *r, const float *factors, float *inv_freq, double *mscale)
{
	*mscale = 1;
	if (r->dims % 2 || r->dims < 2 || r->theta <= 0)
		return fail(NVLLM_EINVAL, "rotary embedding of %d elements with base %g: both must be positive, "
			"the first even", r->dims, r->theta);
	if (r->scaling == NVLLM_ROPE_DYNAMIC || r->scaling == NVLLM_ROPE_YARN)
		return fail(NVLLM_ENOTSUP, "rope_scaling '%s' is not in this version: default, linear and llama3 are",
			r->scaling == NVLLM_ROPE_YARN ? "yarn" : "dynamic");
	if (r->scaling != NVLLM_ROPE_DEFAULT && r->factor <= 0)
		return fail(NVLLM_EINVAL, "rope_scaling.factor is %g: it must be positive", r->factor);
	for (int i = 0; i < r->dims / 2; i++) {
		float f = 1.0f / powf((float)r->theta, (float)(2 * i) / (float)r->dims);

		if (r->scaling == NVLLM_ROPE_LINEAR)
			f = (float)((double)f / r->factor);
		else if (r->scaling == NVLLM_ROPE_LLAMA3)
			f = llama3(r, f);
		inv_freq[i] = factors ? f / factors[i] : f;
	}
	return NVLLM_OK;
}
