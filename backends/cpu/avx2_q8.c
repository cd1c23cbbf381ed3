/* SPDX-License-Identifier: MIT */
/* avx2_q8.c - products with activations of 8 bits by AVX2. */
#include "avx2_panel.h"

/* Nibbles times bytes: 8 pair sums of at most 2 * 15 * 127 stay below 2^15. */
INLINE void dot_q4(__m256i *s, const char *block, const char *const *x, const int nx,
	const bool wide)
{
	const __m256i nibble = _mm256_set1_epi8(15);

	UNROLL(4)
	for (int t = 0; t < 4; t++) {
		const __m256i v = part(block, t), low = wide ? v : _mm256_and_si256(v, nibble);
		const __m256i high = wide ? part(block, 4 + t)
			: _mm256_and_si256(_mm256_srli_epi16(v, 4), nibble);

		UNROLL(4)
		for (int a = 0; a < nx; a++) {
			const __m256i first = _mm256_maddubs_epi16(low, x4(x[a], t));

			s[a] = t ? in_order(_mm256_add_epi16(s[a], first)) : first;
			s[a] = in_order(_mm256_add_epi16(s[a], _mm256_maddubs_epi16(high, x4(x[a], 4 + t))));
		}
	}
	UNROLL(4)
	for (int a = 0; a < nx; a++)
		s[a] = _mm256_madd_epi16(s[a], _mm256_set1_epi16(1));
}

/* Bytes times bytes, as |w| times x with w's sign: a pair sum is at most 2 * 128 * 127. */
INLINE void dot_bytes(__m256i *s, const char *block, const char *const *x, const int nx, const int from,
	const int to)
{
	UNROLL(4)
	for (int a = 0; a < nx; a++)
		s[a] = _mm256_setzero_si256();
	UNROLL(8)
	for (int g = from; g < to; g++) {
		const __m256i w = part(block, g), size = _mm256_abs_epi8(w);

		UNROLL(4)
		for (int a = 0; a < nx; a++) {
			__m256i pair = _mm256_maddubs_epi16(size, _mm256_sign_epi8(x4(x[a], g), w));

			s[a] = in_order(_mm256_add_epi32(s[a],
				_mm256_madd_epi16(pair, _mm256_set1_epi16(1))));
		}
	}
}

#define BLOCK struct q8_block
#include "avx2_products.h"

void isa_avx2_q8(struct isa *isa)
{
	set_products(isa, ACT_Q8);
}
