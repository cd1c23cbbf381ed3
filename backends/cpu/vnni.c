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

INLINE __m512i add_bytes(__m512i n, __m512i w, __m512i x)
{
	return _mm512_dpbusd_epi32(n, w, x);
}

INLINE __m512i sum_of_bytes(__m512i n)
{
	return n;
}

INLINE __m512i add_words(__m512i n, __m512i w, __m512i x)
{
	return _mm512_dpwssd_epi32(n, w, x);
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
			n[a] = add_bytes(n[a], w, x4(x[a], g));
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
#define CALL(form, of) if (act == ACT_##of && fmt == FMT_##form) mul_##form##_##of(p);
	WHOLE_NUMBERS(CALL, Q8)
	WHOLE_NUMBERS(CALL, Q16)
#undef CALL
}
