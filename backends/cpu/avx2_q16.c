/* SPDX-License-Identifier: MIT */
/* avx2_q16.c - products with activations of 16 bits by AVX2: nibbles times two planes of
 * bytes, bytes times words. */
#include "avx2_panel.h"

/* 254 * high + low. Each plane's 8 pair sums of at most 2 * 15 * 127 stay below 2^15. */
INLINE void dot_q4(__m256i *s, const char *block, const char *const *x, const int nx,
	const bool wide)
{
	const __m256i nibble = _mm256_set1_epi8(15);
	__m256i low[4];

	UNROLL(4)
	for (int t = 0; t < 4; t++) {
		const __m256i v = part(block, t), w[2] = { wide ? v : _mm256_and_si256(v, nibble),
			wide ? part(block, 4 + t) : _mm256_and_si256(_mm256_srli_epi16(v, 4), nibble) };

		UNROLL(2)
		for (int h = 0; h < 2; h++)
			UNROLL(4)
			for (int a = 0; a < nx; a++) {
				const __m256i b = _mm256_maddubs_epi16(w[h], x4(x[a], 4 * h + t));
				const __m256i c = _mm256_maddubs_epi16(w[h], x4(x[a] + QK, 4 * h + t));

				s[a] = t + h ? in_order(_mm256_add_epi16(s[a], b)) : b;
				low[a] = t + h ? in_order(_mm256_add_epi16(low[a], c)) : c;
			}
	}
	UNROLL(4)
	for (int a = 0; a < nx; a++)
		s[a] = _mm256_add_epi32(_mm256_madd_epi16(s[a], _mm256_set1_epi16(254)),
			_mm256_madd_epi16(low[a], _mm256_set1_epi16(1)));
}

/* Words times words; 16 sums of at most 2 * 128 * 32258 stay far below 2^31. */
INLINE void dot_bytes(__m256i *s, const char *block, const char *const *x, const int nx, const int from,
	const int to)
{
	UNROLL(4)
	for (int a = 0; a < nx; a++)
		s[a] = _mm256_setzero_si256();
	UNROLL(8)
	for (int g = from; g < to; g++) {
		const __m256i w = part(block, g);
		const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(w, 8), 8);
		const __m256i odd = _mm256_srai_epi16(w, 8);

		UNROLL(4)
		for (int a = 0; a < nx; a++) {
			s[a] = in_order(_mm256_add_epi32(s[a],
				_mm256_madd_epi16(even, x4(x[a], 2 * g))));
			s[a] = in_order(_mm256_add_epi32(s[a],
				_mm256_madd_epi16(odd, x4(x[a], 2 * g + 1))));
		}
	}
}

#define BLOCK struct q16_block
#include "avx2_products.h"

void isa_avx2_q16(struct isa *isa)
{
	set_products(isa, ACT_Q16);
}
