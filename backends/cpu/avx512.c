/* SPDX-License-Identifier: MIT */
/* avx512.c - the routines for AVX-512 (F, BW, DQ, VL; Skylake-X onward): panels of 16 rows
 * (avx512_pack.c), products with float weights (avx512_float.c) and, here, quantised ones. All
 * else stays AVX2's.
 *
 * Micro-operations, counted as in vnni.c:
 *
 *         Q8       Q16              Q8       Q16
 *   Q4_0  15 + 20  15 + 38    Q4_K  18 + 20  18 + 38
 *   Q4_1  16 + 20  16 + 38    Q5_K   6 + 21  30 + 35
 *   Q8_0  18 + 34  26 + 34    Q6_K  22 + 30  30 + 36 */
#include "avx512_panel.h"

/* Unsigned times signed bytes: two neighbours in a word, added to it, where that cannot
 * overflow. */
INLINE __m512i add_bytes(__m512i n, __m512i w, __m512i x)
{
	n = _mm512_add_epi16(n, _mm512_maddubs_epi16(w, x));
	IN_REGISTER(n);
	return n;
}

INLINE __m512i sum_of_bytes(__m512i n)
{
	return _mm512_madd_epi16(n, _mm512_set1_epi16(1));
}

/* Pairs of words. */
INLINE __m512i add_words(__m512i n, __m512i w, __m512i x)
{
	n = _mm512_add_epi32(n, _mm512_madd_epi16(w, x));
	IN_REGISTER(n);
	return n;
}

/* Bytes, as |w| times x with w's sign: one pair sum is at most 2 * 128 * 127. */
INLINE void dot_q8(__m512 *s, const char *block, const char *const *x, const int nx, const int h)
{
	__m512i n[8];

	zeros(n, nx);
	UNROLL(8)
	for (int g = 0; g < 8; g++) {
		const __m512i w = part(block, g), size = _mm512_abs_epi8(w);
		const __mmask64 below = _mm512_movepi8_mask(w);

		UNROLL(8)
		for (int a = 0; a < nx; a++) {
			const __m512i pairs = _mm512_maddubs_epi16(size, with_sign(x4(x[a], g), below));

			n[a] = _mm512_add_epi32(n[a], sum_of_bytes(pairs));
			IN_REGISTER(n[a]);
		}
	}
	to_float(s, n, nx);
}

/* Below 32: 4 pair sums of at most 2 * 31 * 127 stay below 2^15. */
INLINE void dot_q5(__m512 *s, const char *block, const char *const *x, const int nx, const int h)
{
	__m512i n[8], second[8];

	zeros(n, nx), zeros(second, nx);
	UNROLL(4)
	for (int g = 0; g < 4; g++) {
		const __m512i w[2] = { part(block, g), part(block, 4 + g) };

		UNROLL(8)
		for (int a = 0; a < nx; a++) {
			n[a] = add_bytes(n[a], w[0], x4(x[a], g));
			second[a] = add_bytes(second[a], w[1], x4(x[a], 4 + g));
		}
	}
	UNROLL(8)
	for (int a = 0; a < nx; a++)
		s[a] = _mm512_cvtepi32_ps(_mm512_add_epi32(sum_of_bytes(n[a]), sum_of_bytes(second[a])));
}

#include "avx512_products.h"

void isa_avx512(struct isa *isa)
{
	isa->name = "avx512 f bw dq vl";
	isa->lanes = L;
	isa_avx512_pack(isa);
	isa_avx512_float(isa);
	set_products(isa);
}
