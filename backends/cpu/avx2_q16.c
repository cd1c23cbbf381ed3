/* SPDX-License-Identifier: MIT */
/* avx2_q16.c - products with activations of 16 bits by AVX2: nibbles times two planes of
 * bytes, bytes times words. */
#include "avx2_panel.h"

/* 254 * high + low. Each plane's 8 pair sums of at most 2 * 15 * 127 stay below 2^15. */
INLINE void dot_q4(__m256i *s, const struct block *k, const char *const *x, const int nx)
{
	__m256i low[X_TILE];

	for (int a = 0; a < nx; a++) {
		s[a] = _mm256_maddubs_epi16(k->q[0], x4(x[a], 0));
		low[a] = _mm256_maddubs_epi16(k->q[0], x4(x[a] + QK, 0));
	}
	for (int g = 1; g < 8; g++)
		for (int a = 0; a < nx; a++) {
			s[a] = in_order(_mm256_add_epi16(s[a],
				_mm256_maddubs_epi16(k->q[g], x4(x[a], g))));
			low[a] = in_order(_mm256_add_epi16(low[a],
				_mm256_maddubs_epi16(k->q[g], x4(x[a] + QK, g))));
		}
	for (int a = 0; a < nx; a++)
		s[a] = _mm256_add_epi32(_mm256_madd_epi16(s[a], _mm256_set1_epi16(254)),
			_mm256_madd_epi16(low[a], _mm256_set1_epi16(1)));
}

/* Words times words; 16 sums of at most 2 * 128 * 32258 stay far below 2^31. */
INLINE void dot_q8(__m256i *s, const struct block *k, const char *const *x, const int nx)
{
	for (int a = 0; a < nx; a++)
		s[a] = _mm256_setzero_si256();
	for (int g = 0; g < 8; g++) {
		const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(k->q[g], 8), 8);
		const __m256i odd = _mm256_srai_epi16(k->q[g], 8);

		for (int a = 0; a < nx; a++) {
			s[a] = in_order(_mm256_add_epi32(s[a],
				_mm256_madd_epi16(even, x4(x[a], 2 * g))));
			s[a] = in_order(_mm256_add_epi32(s[a],
				_mm256_madd_epi16(odd, x4(x[a], 2 * g + 1))));
		}
	}
}

INLINE void scale(__m256 *sum, const struct block *k, const char *const *x, const int nx,
	const __m256i *s, const bool minimum)
{
	for (int a = 0; a < nx; a++) {
		const struct q16_block *xb = (const struct q16_block *)x[a];
		const __m256 d = _mm256_mul_ps(k->d, _mm256_set1_ps(xb->d));

		sum[a] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(s[a]), d, sum[a]);
		if (minimum)
			sum[a] = _mm256_fmadd_ps(k->m, _mm256_set1_ps(xb->s), sum[a]);
	}
}

INLINE void add_q4(__m256 *sum, const struct block *k, const char *const *x, const int nx)
{
	__m256i s[X_TILE];

	dot_q4(s, k, x, nx);
	scale(sum, k, x, nx, s, true);
}

INLINE void add_q8(__m256 *sum, const struct block *k, const char *const *x, const int nx)
{
	__m256i s[X_TILE];

	dot_q8(s, k, x, nx);
	scale(sum, k, x, nx, s, false);
}

static void mul_q4_0(const struct product *p)
{
	mul_panel(p, (struct form){ 18, sizeof(struct q16_block), load_q4_0, add_q4 });
}

static void mul_q4_1(const struct product *p)
{
	mul_panel(p, (struct form){ 20, sizeof(struct q16_block), load_q4_1, add_q4 });
}

static void mul_q8_0(const struct product *p)
{
	mul_panel(p, (struct form){ 34, sizeof(struct q16_block), load_q8_0, add_q8 });
}

void isa_avx2_q16(struct isa *isa)
{
	isa->mul_q16[FMT_Q4_0] = mul_q4_0;
	isa->mul_q16[FMT_Q4_1] = mul_q4_1;
	isa->mul_q16[FMT_Q8_0] = mul_q8_0;
}
