/* SPDX-License-Identifier: MIT */
/* How the samplers' kernels see a row: its logits with NaN as -inf and -0 as 0, and with what its
 * penalties take from them. A byte a logit, its code, says how often the token was said, so that
 * penalised logits are computed wherever they are needed and never stored:
 *   0 = no penalty applies; 1 = said, but not in the output; 1 + n = n times in the output;
 *   255 = 254 times or more: counted again */
#ifndef NVLLM_CUDA_SAMPLE_CUH
#define NVLLM_CUDA_SAMPLE_CUH

#include "ptx.cuh"
#include "sample.h"

#define TILE SAMPLE_TILE
#define LANES (TILE / 32) /* logits of a tile that a lane has */
#define MANY 255
#define FULL 0xffffffffu
#define INF __builtin_inff()
#define OUTLINE static __device__ __attribute__((noinline)) /* code that is there once, wherever it is called */

/* A tile's logit k of lane l is at l * 4 + (k / 4) * 128 + k % 4. */
DEV int place(int k, int lane) { return (k >> 2) * 128 + lane * 4 + (k & 3); }

/* Unsigned numbers in the order of floats, and back. */
DEV uint32_t ordered(float x)
{
	uint32_t u = f32_bits(x);

	return u & 0x80000000u ? ~u : u | 0x80000000u;
}
DEV float unordered(uint32_t k) { return bits_f32(k & 0x80000000u ? k ^ 0x80000000u : ~k); }

DEV float clean(float x) { return x == x ? x + 0.f : -INF; }

/* The row's tokens [0, output) are the prompt's. */
DEV int first_output(const struct nvllm_sample_row *r) { return max(0, min(r->n_prompt, r->n_tokens)); }

DEV bool has_penalties(const struct nvllm_sample_row *r)
{
	return r->tokens && ((r->repetition != 1 && r->n_tokens > 0) ||
		((r->presence != 0 || r->frequency != 0) && r->n_tokens > r->n_prompt));
}

/* Of a logit whose token was said, count times in the output. In double, rounded once. */
DEV float penalised(const struct nvllm_sample_row *r, float logit, int count)
{
	double x = (double)logit;

	if (r->repetition != 1)
		x = x > 0 ? x / r->repetition : x * r->repetition;
	if (count > 0)
		x = x - r->frequency * count - r->presence;
	return (float)x;
}

/* The 16 logits x[from + place(k, lane)] of a tile that begins at `from`; beyond n: -inf. Rows need not be
 * aligned; those that are take four loads of 16 bytes. */
DEV void load_tile(float v[LANES], const float *x, int from, int n, int lane)
{
	if (from + TILE <= n && ((uintptr_t)x & 15) == 0) {
		const float4 *p = (const float4 *)(x + from) + lane;
#pragma unroll
		for (int j = 0; j < LANES / 4; j++) {
			float4 q = p[j * 32];
			v[4 * j] = q.x, v[4 * j + 1] = q.y, v[4 * j + 2] = q.z, v[4 * j + 3] = q.w;
		}
		return;
	}
#pragma unroll
	for (int k = 0; k < LANES; k++) {
		int i = from + place(k, lane);
		v[k] = i < n ? x[i] : -INF;
	}
}

/* 1 / temperature, as the host's sampler has it. */
DEV double inverse(double temperature) { return temperature > 1e-300 ? 1 / temperature : 1e300; }

/* exp(d * inv_t) of d = x - max <= 0 is 2^(d * (hi + lo)): the scale as two floats, so that its own rounding
 * does not turn the distribution. */
struct scale { float hi, lo; };

DEV struct scale scale_of(double inv_t)
{
	double c = inv_t * 1.4426950408889634;
	struct scale s = { 3e38f, 0 }; /* the largest logits alone count */

	if (c < 3e38)
		s.hi = (float)c, s.lo = (float)(c - (double)s.hi);
	return s;
}

DEV float weight_fast(float d, struct scale s)
{
	return d > -INF ? exp2_fast(fmaf(d, s.hi, d * s.lo)) : 0.f;
}

#endif
