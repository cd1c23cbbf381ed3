/* SPDX-License-Identifier: MIT */
/* vnni.c - quantised products by AVX-512 VNNI (Cascade Lake, Zen 4 onward): one instruction
 * multiplies four unsigned by four signed bytes, or two pairs of words, and adds them to 32
 * bits, exactly.
 *
 * Micro-operations of the vector units for a block of 16 x 32 weights, n + k: n once, k for each
 * row of activations, scales and minima included. Beside them are loads, one for each part of
 * the block and for each multiplication by a row.
 *
 *         Q8       Q16              Q8       Q16
 *   Q4_0  15 + 12  15 + 22    Q4_K  18 + 12  18 + 22
 *   Q4_1  16 + 12  16 + 22    Q5_K   6 + 12  30 + 20
 *   Q8_0  10 + 12  26 + 19    Q6_K  22 + 22  30 + 22 */
#include "avx512_panel.h"

INLINE void dot_q4(__m512 *s, const char *block, const char *const *x, const int nx, const int h)
{
	__m512i n[8];

	zeros(n, nx);
	UNROLL(8)
	for (int g = 0; g < 8; g++) {
		const __m512i w = nibbles(block, g);

		UNROLL(8)
		for (int a = 0; a < nx; a++)
			n[a] = _mm512_dpbusd_epi32(n[a], w, x4(x[a], g));
	}
	to_float(s, n, nx);
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
			high[a] = _mm512_dpbusd_epi32(high[a], w, x4(x[a], g));
			low[a] = _mm512_dpbusd_epi32(low[a], w, x4(x[a] + QK, g));
		}
	}
	UNROLL(8)
	for (int a = 0; a < nx; a++)
		s[a] = of_planes(high[a], low[a]);
}

/* The weight must be unsigned: (w + 128) x - 128 x, with x's sum known. */
INLINE void dot_q8(__m512 *s, const char *block, const char *const *x, const int nx, const int h)
{
	const __m512i top = _mm512_set1_epi8((char)0x80);
	__m512i n[8];

	UNROLL(8)
	for (int a = 0; a < nx; a++)
		n[a] = _mm512_set1_epi32(-128 * ((const struct q8_block *)x[a])->sum);
	UNROLL(8)
	for (int g = 0; g < 8; g++) {
		const __m512i w = _mm512_xor_si512(part(block, g), top);

		UNROLL(8)
		for (int a = 0; a < nx; a++)
			n[a] = _mm512_dpbusd_epi32(n[a], w, x4(x[a], g));
	}
	to_float(s, n, nx);
}

/* It is. */
INLINE void dot_q5(__m512 *s, const char *block, const char *const *x, const int nx, const int h)
{
	__m512i n[8];

	zeros(n, nx);
	UNROLL(8)
	for (int g = 0; g < 8; g++) {
		const __m512i w = part(block, g);

		UNROLL(8)
		for (int a = 0; a < nx; a++)
			n[a] = _mm512_dpbusd_epi32(n[a], w, x4(x[a], g));
	}
	to_float(s, n, nx);
}

/* The sum of half a block of x is not known: |w| times x with w's sign. */
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
			n[a] = _mm512_dpbusd_epi32(n[a], size, with_sign(x4(x[a], g), below));
	}
	to_float(s, n, nx);
}

/* Words [2g, 2 end) of x. */
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
			n[a] = _mm512_dpwssd_epi32(n[a], w, x4(x[a], g));
	}
	to_float(s, n, nx);
}

#include "avx512_products.h"

void isa_vnni(struct isa *isa)
{
	isa->name = "avx512 f bw dq vl vnni";
	set_products(isa);
}

void vnni_mul(enum act act, enum fmt fmt, const struct product *p)
{
	for (int i = 0; i < N_PRODUCTS; i++)
		if (products[i].act == act && products[i].fmt == fmt)
			products[i].mul(p);
}
