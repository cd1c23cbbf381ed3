/* SPDX-License-Identifier: MIT */
/* avx512_products.h - the products of a block, and one routine for each form of weight and of
 * activations, for the file that has the multiplications:
 *
 *	add_bytes     adds products of unsigned and signed bytes, four to a lane, to a register whose
 *	sum_of_bytes  is their sum as 32 bits; with eight or four registers of nibbles, or of numbers
 *	              up to 32, nothing overflows on the way
 *	add_words     adds products of words, two to a lane of 32 bits
 *	dot_q8        a block of 32 signed bytes, dot_q5 one of numbers below 32 */
#ifndef NVLLM_CPU_AVX512_PRODUCTS_H
#define NVLLM_CPU_AVX512_PRODUCTS_H

#include "avx512_panel.h"

/* Pair sums of at most 2 * 15 * 127, 8 of them, stay below 2^15. */
INLINE void dot_q4(__m512 *s, const char *block, const char *const *x, const int nx, const int h)
{
	__m512i n[8];

	zeros(n, nx);
	UNROLL(8)
	for (int g = 0; g < 8; g++) {
		const __m512i w = nibbles(block, g);

		UNROLL(8)
		for (int a = 0; a < nx; a++)
			n[a] = add_bytes(n[a], w, x4(x[a], g));
	}
	UNROLL(8)
	for (int a = 0; a < nx; a++)
		s[a] = _mm512_cvtepi32_ps(sum_of_bytes(n[a]));
}

INLINE void dot_q4_planes(__m512 *s, const char *block, const char *const *x, const int nx, const int h)
{
	__m512i high[8], low[8];

	zeros(high, nx), zeros(low, nx);
	UNROLL(8)
	for (int g = 0; g < 8; g++) {
		const __m512i w = nibbles(block, g);

		UNROLL(8)
		for (int a = 0; a < nx; a++) {
			high[a] = add_bytes(high[a], w, x4(x[a], g));
			low[a] = add_bytes(low[a], w, x4(x[a] + QK, g));
		}
	}
	UNROLL(8)
	for (int a = 0; a < nx; a++)
		s[a] = of_planes(sum_of_bytes(high[a]), sum_of_bytes(low[a]));
}

/* Half a block, whose sum of x is not known: |w|, at most 32, times x with w's sign. 4 pair sums of
 * 2 * 32 * 127 stay below 2^15. */
INLINE void dot_q6(__m512 *s, const char *block, const char *const *x, const int nx, const int h)
{
	__m512i n[8];

	zeros(n, nx);
	UNROLL(4)
	for (int g = 4 * h; g < 4 * h + 4; g++) {
		const __m512i w = part(block, g), size = _mm512_abs_epi8(w);
		const __mmask64 below = _mm512_movepi8_mask(w);

		UNROLL(8)
		for (int a = 0; a < nx; a++)
			n[a] = add_bytes(n[a], size, with_sign(x4(x[a], g), below));
	}
	UNROLL(8)
	for (int a = 0; a < nx; a++)
		s[a] = _mm512_cvtepi32_ps(sum_of_bytes(n[a]));
}

/* Words [2g, 2 end) of x: 16 sums of at most 2 * 128 * 32258 stay far below 2^31. */
INLINE void dot_words_of(__m512 *s, const char *block, const char *const *x, const int nx, int g,
	const int end)
{
	__m512i n[8];

	zeros(n, nx);
	UNROLL(16)
	for (; g < end; g++) {
		const __m512i w = words(block, g);

		UNROLL(8)
		for (int a = 0; a < nx; a++)
			n[a] = add_words(n[a], w, x4(x[a], g));
	}
	to_float(s, n, nx);
}

INLINE void dot_words(__m512 *s, const char *block, const char *const *x, const int nx, const int h)
{
	dot_words_of(s, block, x, nx, 0, 16);
}

INLINE void dot_q6_words(__m512 *s, const char *block, const char *const *x, const int nx, const int h)
{
	dot_words_of(s, block, x, nx, 8 * h, 8 * h + 8);
}

#define PRODUCT(form, act, dot) \
	static void mul_##form##_##act(const struct product *p) \
	{ \
		mul_panels(p, form(act, dot)); \
	}
PRODUCT(Q4_0, Q8, dot_q4)
PRODUCT(Q4_1, Q8, dot_q4)
PRODUCT(Q8_0, Q8, dot_q8)
PRODUCT(Q4_K, Q8, dot_q4)
PRODUCT(Q5_K, Q8, dot_q5)
PRODUCT(Q6_K, Q8, dot_q6)
PRODUCT(Q4_0, Q16, dot_q4_planes)
PRODUCT(Q4_1, Q16, dot_q4_planes)
PRODUCT(Q8_0, Q16, dot_words)
PRODUCT(Q4_K, Q16, dot_q4_planes)
PRODUCT(Q5_K, Q16, dot_words)
PRODUCT(Q6_K, Q16, dot_q6_words)
#undef PRODUCT

INLINE void set_products(struct isa *isa)
{
	WHOLE_NUMBERS(TO_TABLE, Q8)
	WHOLE_NUMBERS(TO_TABLE, Q16)
}

#endif
