/* SPDX-License-Identifier: MIT */
/* The kernels of the paged attention for AVX2 with FMA and F16C. */
#include <immintrin.h>

#include "paged.h"

#define TARGET __attribute__((target("avx2,fma,f16c")))
#define WIDTH 8
#define ROWS 3
#define VECS 8
#define IN_REGISTER(v)
#define PRIMITIVE static inline __attribute__((always_inline)) TARGET

typedef __m256 vec;

PRIMITIVE vec v_set1(float x) { return _mm256_set1_ps(x); }
PRIMITIVE vec v_add(vec a, vec b) { return _mm256_add_ps(a, b); }
PRIMITIVE vec v_sub(vec a, vec b) { return _mm256_sub_ps(a, b); }
PRIMITIVE vec v_mul(vec a, vec b) { return _mm256_mul_ps(a, b); }
PRIMITIVE vec v_div(vec a, vec b) { return _mm256_div_ps(a, b); }
PRIMITIVE vec v_fma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
PRIMITIVE vec v_max(vec a, vec b) { return _mm256_max_ps(a, b); }
PRIMITIVE vec v_load(const float *p) { return _mm256_loadu_ps(p); }
PRIMITIVE void v_store(float *p, vec a) { _mm256_storeu_ps(p, a); }

PRIMITIVE vec v_load_f16(const uint16_t *p)
{
	return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}

PRIMITIVE vec v_load_bf16(const uint16_t *p)
{
	__m256i u = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));

	return _mm256_castsi256_ps(_mm256_slli_epi32(u, 16));
}

PRIMITIVE void v_store_f16(uint16_t *p, vec a)
{
	_mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}

/* where the result would be subnormal the caller puts 0 instead */
PRIMITIVE vec v_scale(vec x, vec t)
{
	__m256i n = _mm256_slli_epi32(_mm256_castps_si256(t), 23);

	return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), n));
}

PRIMITIVE vec v_zero_below(vec a, vec x, vec y)
{
	return _mm256_andnot_ps(_mm256_cmp_ps(x, y, _CMP_LT_OQ), a);
}

PRIMITIVE vec v_inside(vec x, vec y, int64_t lo, int64_t hi)
{
	__m256i i = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
	__m256i below = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)lo), i);
	__m256i under = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)hi), i);

	return _mm256_blendv_ps(y, x, _mm256_castsi256_ps(_mm256_andnot_si256(below, under)));
}

PRIMITIVE vec v_abs(vec a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.f), a); }
PRIMITIVE vec v_copysign(vec a, vec s)
{
	return _mm256_or_ps(v_abs(a), _mm256_and_ps(_mm256_set1_ps(-0.f), s));
}

#include "paged_tile.h"

const struct paged_kernels paged_avx2 = {
	.dim_step = WIDTH, .direct_rows = 8, .widen = widen, .narrow = narrow,
	.scores = scores, .softmax = softmax, .values = values,
};
