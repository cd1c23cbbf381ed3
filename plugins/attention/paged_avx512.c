/* SPDX-License-Identifier: MIT */
/* The kernels of the paged attention for AVX-512F, or, for the tests of machines that lack it, as SIMDe has it
 * in AVX2 (tests/simd). */
#ifdef NVLLM_EMULATED
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include "missing.h"
#define TARGET
#else
#include <immintrin.h>
#define TARGET __attribute__((target("avx512f,avx2,fma,f16c")))
#endif

#include "paged.h"

#define WIDTH 16
#define ROWS 6
#define VECS 4
#ifdef NVLLM_EMULATED
#define IN_REGISTER(v)
#else
#define IN_REGISTER(v) __asm__("" : "+v"(v))
#endif
#define PRIMITIVE static inline __attribute__((always_inline)) TARGET

typedef __m512 vec;

PRIMITIVE vec v_set1(float x) { return _mm512_set1_ps(x); }
PRIMITIVE vec v_add(vec a, vec b) { return _mm512_add_ps(a, b); }
PRIMITIVE vec v_sub(vec a, vec b) { return _mm512_sub_ps(a, b); }
PRIMITIVE vec v_mul(vec a, vec b) { return _mm512_mul_ps(a, b); }
PRIMITIVE vec v_div(vec a, vec b) { return _mm512_div_ps(a, b); }
PRIMITIVE vec v_fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
PRIMITIVE vec v_max(vec a, vec b) { return _mm512_max_ps(a, b); }
PRIMITIVE vec v_load(const float *p) { return _mm512_loadu_ps(p); }
PRIMITIVE void v_store(float *p, vec a) { _mm512_storeu_ps(p, a); }

PRIMITIVE vec v_load_f16(const uint16_t *p)
{
	return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

PRIMITIVE vec v_load_bf16(const uint16_t *p)
{
	__m512i u = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));

	return _mm512_castsi512_ps(_mm512_slli_epi32(u, 16));
}

PRIMITIVE void v_store_f16(uint16_t *p, vec a)
{
	_mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}

/* where the result would be subnormal the caller puts 0 instead */
PRIMITIVE vec v_scale(vec x, vec t)
{
	__m512i n = _mm512_slli_epi32(_mm512_castps_si512(t), 23);

	return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(x), n));
}

PRIMITIVE vec v_zero_below(vec a, vec x, vec y)
{
	return _mm512_mask_mov_ps(a, _mm512_cmp_ps_mask(x, y, _CMP_LT_OQ), _mm512_setzero_ps());
}

PRIMITIVE vec v_inside(vec x, vec y, int64_t lo, int64_t hi)
{
	unsigned above = lo > 0 ? 0xffffu << lo : 0xffffu;
	unsigned under = hi < WIDTH ? (1u << hi) - 1 : 0xffffu;

	return _mm512_mask_mov_ps(y, (__mmask16)(above & under), x);
}

PRIMITIVE vec v_abs(vec a) { return _mm512_abs_ps(a); }
PRIMITIVE vec v_copysign(vec a, vec s)
{
	__m512i sign = _mm512_and_epi32(_mm512_castps_si512(s), _mm512_set1_epi32(INT32_MIN));

	return _mm512_castsi512_ps(_mm512_or_epi32(_mm512_castps_si512(v_abs(a)), sign));
}

#include "paged_tile.h"

const struct paged_kernels paged_avx512 = {
	.dim_step = WIDTH, .direct_rows = 8, .widen = widen, .narrow = narrow,
	.scores = scores, .softmax = softmax, .values = values,
};
