/* SPDX-License-Identifier: MIT */
/* Rotary embedding: the inverse frequencies of each scaling. Formulas as in Hugging Face
 * transformers, modeling_rope_utils.py: default (Su et al. 2021), linear (Chen et al. 2023),
 * dynamic NTK (bloc97, emozilla 2023), YaRN (Peng et al. 2023), llama3 (Meta, Llama 3.1). In
 * f32 where that library works in f32, so that tables agree to the bit or nearly so. */
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

/* YaRN: dimensions that turn more than beta_fast times in the original length stay, those
 * below beta_slow are slowed by factor, those between are mixed along a ramp. */
struct ramp { double low, high; };

static struct ramp yarn_ramp(const struct nvllm_rope *r)
{
	double scale = r->dims / (2 * log(r->theta)), top = r->dims - 1;
	struct ramp p = {
		scale * log((double)r->original_len / (r->beta_fast * two_pi)),
		scale * log((double)r->original_len / (r->beta_slow * two_pi)),
	};

	if (!r->untruncated)
		p.low = floor(p.low), p.high = ceil(p.high);
	p.low = p.low > 0 ? p.low : 0;
	p.high = p.high < top ? p.high : top;
	if (p.low == p.high)
		p.high += 0.001;
	return p;
}

static float yarn(const struct nvllm_rope *r, const struct ramp *p, int i, float f)
{
	double t = ((double)i - p->low) / (p->high - p->low);
	float mix = (float)(t < 0 ? 0 : t > 1 ? 1 : t), keep = 1 - mix;

	return (float)((double)f / r->factor) * (1 - keep) + f * keep;
}

static double yarn_get(double factor, double m) { return factor <= 1 ? 1 : 0.1 * m * log(factor) + 1; }

static double yarn_mscale(const struct nvllm_rope *r)
{
	if (r->attention_factor > 0)
		return r->attention_factor;
	if (r->mscale != 0 && r->mscale_all_dim != 0)
		return yarn_get(r->factor, r->mscale) / yarn_get(r->factor, r->mscale_all_dim);
	return yarn_get(r->factor, 1);
}

/* The base for sequences longer than the model was made for. */
static double dynamic_base(const struct nvllm_rope *r, int64_t max_len)
{
	double len = (double)(max_len > r->original_len ? max_len : r->original_len);

	if (r->dims <= 2)
		return r->theta;
	return r->theta * pow(r->factor * len / (double)r->original_len - (r->factor - 1), r->dims / (r->dims - 2.0));
}

static int check(const struct nvllm_rope *r)
{
	if (r->dims % 2 || r->dims < 2 || !(r->theta > 0))
		return fail(NVLLM_EINVAL, "rotary embedding of %d elements with base %g: both must be positive, "
			"the first even", r->dims, r->theta);
	if (r->scaling < NVLLM_ROPE_DEFAULT || r->scaling > NVLLM_ROPE_DYNAMIC)
		return fail(NVLLM_EINVAL, "%d is no rope scaling (enum nvllm_rope_scaling)", r->scaling);
	if (r->scaling != NVLLM_ROPE_DEFAULT && !(r->factor > 0))
		return fail(NVLLM_EINVAL, "rope_scaling.factor is %g: it must be positive", r->factor);
	if (r->scaling == NVLLM_ROPE_YARN && (r->theta <= 1 || r->beta_fast <= 0 || r->beta_slow <= 0))
		return fail(NVLLM_EINVAL, "rope_scaling yarn with rope_theta %g, beta_fast %g and beta_slow %g: the first must be "
			"above 1, the others positive", r->theta, r->beta_fast, r->beta_slow);
	if (r->scaling == NVLLM_ROPE_LLAMA3 && !(r->low_freq_factor > 0 && r->high_freq_factor > r->low_freq_factor))
		return fail(NVLLM_EINVAL, "rope_scaling llama3 with low_freq_factor %g and high_freq_factor %g: the first must be "
			"positive, the second larger", r->low_freq_factor, r->high_freq_factor);
	if (r->scaling > NVLLM_ROPE_LINEAR && r->original_len < 1)
		return fail(NVLLM_EINVAL, "rope_scaling.original_max_position_embeddings is %lld: it must be positive",
			(long long)r->original_len);
	return NVLLM_OK;
}

int rope_table(const struct nvllm_rope *r, int64_t max_len, const float *factors, float *inv_freq, double *mscale)
{
	struct ramp ramp = { 0, 1 };
	float base;
	int rc = check(r);

	*mscale = 1;
	if (rc)
		return rc;
	base = (float)(r->scaling == NVLLM_ROPE_DYNAMIC ? dynamic_base(r, max_len) : r->theta);
	if (r->scaling == NVLLM_ROPE_YARN) {
		ramp = yarn_ramp(r);
		*mscale = yarn_mscale(r);
	}
	for (int i = 0; i < r->dims / 2; i++) {
		float f = 1.0f / powf(base, (float)(2 * i) / (float)r->dims);

		if (r->scaling == NVLLM_ROPE_LINEAR)
			f = (float)((double)f / r->factor);
		else if (r->scaling == NVLLM_ROPE_LLAMA3)
			f = llama3(r, f);
		else if (r->scaling == NVLLM_ROPE_YARN)
			f = yarn(r, &ramp, i, f);
		inv_freq[i] = factors ? f / factors[i] : f;
	}
	return NVLLM_OK;
}
