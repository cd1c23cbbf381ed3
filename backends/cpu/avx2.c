/* SPDX-License-Identifier: MIT */
/* avx2.c - the routines for AVX2, FMA and F16C (Haswell and Zen onward), but for the
 * stored forms (avx2_decode.c) and products: avx2_pack.c, avx2_float.c, avx2_round.c,
 * avx2_q8.c, avx2_q16.c. */
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "cpu.h"

#define INLINE static inline __attribute__((always_inline))

INLINE float fold(__m256 v)
{
	__m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));

	s = _mm_add_ps(s, _mm_movehl_ps(s, s));
	s = _mm_add_ss(s, _mm_movehdup_ps(s));
	return _mm_cvtss_f32(s);
}

INLINE __m256i tail_mask(int64_t n)
{
	return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6,
		7));
}

INLINE __m256 load_n(const float *p, int64_t n)
{
	return n >= 8 ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, tail_mask(n));
}

INLINE void store_n(float *p, __m256 v, int64_t n)
{
	if (n >= 8)
		_mm256_storeu_ps(p, v);
	else
		_mm256_maskstore_ps(p, tail_mask(n), v);
}

/* exp(x) = 2^n exp(r), n the nearest whole number to x / ln 2, |r| <= ln 2 / 2 (Cody and
 * Waite 1980), exp(r) by its series to r^7: within 2 units in the last place. Below -87
 * it gives exp(-87), above 88 exp(88); a NaN stays one. */
INLINE __m256 exp8(__m256 x)
{
	static const float c[] = { 1 / 720.f, 1 / 120.f, 1 / 24.f, 1 / 6.f, 0.5f, 1, 1 };
	__m256 n, r, y = _mm256_set1_ps(1 / 5040.f);

	x = _mm256_min_ps(_mm256_set1_ps(88), _mm256_max_ps(_mm256_set1_ps(-87), x));
	n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)),
		_MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
	r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
	r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
	for (size_t i = 0; i < sizeof(c) / sizeof(c[0]); i++)
		y = _mm256_fmadd_ps(y, r, _mm256_set1_ps(c[i]));
	return _mm256_mul_ps(y, _mm256_castsi256_ps(_mm256_slli_epi32(
		_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23)));
}

static void glu_avx2(float *y, const float *gate, const float *up, int64_t n, int act)
{
	const __m256 one = _mm256_set1_ps(1);

	if (act != NVLLM_SILU) {
		glu_ref(y, gate, up, n, act);
		return;
	}
	for (int64_t i = 0; i < n; i += 8) {
		__m256 g = load_n(gate + i, n - i), u = load_n(up + i, n - i);
		__m256 e = exp8(_mm256_xor_ps(g, _mm256_set1_ps(-0.0f)));

		store_n(y + i, _mm256_mul_ps(_mm256_div_ps(g, _mm256_add_ps(one, e)), u), n - i);
	}
}

static double sum_exp_avx2(const float *x, float max, int64_t n)
{
	__m256d low = _mm256_setzero_pd(), high = low;
	double s[4], tail = 0;
	int64_t i = 0;

	for (; i + 8 <= n; i += 8) {
		__m256 e = exp8(_mm256_sub_ps(_mm256_loadu_ps(x + i), _mm256_set1_ps(max)));

		low = _mm256_add_pd(low, _mm256_cvtps_pd(_mm256_castps256_ps128(e)));
		high = _mm256_add_pd(high, _mm256_cvtps_pd(_mm256_extractf128_ps(e, 1)));
	}
	for (; i < n; i++)
		tail += expf(x[i] - max);
	_mm256_storeu_pd(s, _mm256_add_pd(low, high));
	return ((s[0] + s[2]) + (s[1] + s[3])) + tail;
}

static void norm_avx2(float *y, const float *x, const struct nvllm_norm *norm, int64_t n)
{
	const __m256 offset = _mm256_set1_ps((float)norm->offset);
	const float *w = norm->w.data;
	__m256 sum = _mm256_setzero_ps(), scale;

	if (norm->kind != NVLLM_RMS_NORM) {
		norm_ref(y, x, norm, n);
		return;
	}
	for (int64_t i = 0; i < n; i += 8) {
		__m256 v = load_n(x + i, n - i);

		sum = _mm256_fmadd_ps(v, v, sum);
	}
	scale = _mm256_set1_ps(1 / sqrtf(fold(sum) / (float)n + (float)norm->eps));
	for (int64_t i = 0; i < n; i += 8) {
		__m256 v = _mm256_mul_ps(load_n(x + i, n - i), scale);

		store_n(y + i, _mm256_mul_ps(v, _mm256_add_ps(offset, load_n(w + i, n - i))),
			n - i);
	}
}

static void add_avx2(float *x, const float *d, int64_t n)
{
	for (int64_t i = 0; i < n; i += 8)
		store_n(x + i, _mm256_add_ps(load_n(x + i, n - i), load_n(d + i, n - i)), n - i);
}

static void rope_avx2(float *x, const float *cs, int64_t dims, bool interleaved)
{
	const int64_t half = dims / 2;

	if (interleaved) {
		rope_ref(x, cs, dims, true);
		return;
	}
	for (int64_t i = 0; i < half; i += 8) {
		__m256 a = load_n(x + i, half - i), b = load_n(x + half + i, half - i);
		__m256 c = load_n(cs + i, half - i), s = load_n(cs + half + i, half - i);

		store_n(x + i, _mm256_sub_ps(_mm256_mul_ps(a, c), _mm256_mul_ps(b, s)), half - i);
		store_n(x + half + i, _mm256_add_ps(_mm256_mul_ps(b, c), _mm256_mul_ps(a, s)),
			half - i);
	}
}

void isa_avx2(struct isa *isa)
{
	isa->name = "avx2 fma f16c";
	isa->lanes = 8;
	isa_avx2_decode(isa);
	isa_avx2_round(isa);
	isa_avx2_pack(isa);
	isa_avx2_float(isa);
	isa_avx2_q8(isa);
	isa_avx2_q16(isa);
	isa->norm = norm_avx2;
	isa->add = add_avx2;
	isa->rope = rope_avx2;
	isa->glu = glu_avx2;
	isa->sum_exp = sum_exp_avx2;
}
