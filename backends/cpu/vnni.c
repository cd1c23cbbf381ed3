/* SPDX-License-Identifier: MIT */
/* vnni.c - quantised products by AVX-512 VNNI (Ice Lake, Zen 4 onward): one instruction
 * multiplies four unsigned by four signed bytes, or two pairs of words, and adds them to
 * 32 bits, exactly. */
#include <immintrin.h>
#include <string.h>

#include "avx512.h"

INLINE __m512i dot_q4(const struct block *k, const char *x)
{
	__m512i s = _mm512_setzero_si512();

	for (int g = 0; g < 8; g++)
		s = _mm512_dpbusd_epi32(s, k->q[g], x4(x, g));
	return s;
}

/* 254 * high + low; 254 = 256 - 2. */
INLINE __m512i dot_q4_planes(const struct block *k, const char *x)
{
	const __m512i high = dot_q4(k, x), low = dot_q4(k, x + QK);

	return _mm512_add_epi32(low, _mm512_sub_epi32(_mm512_slli_epi32(high, 8),
		_mm512_slli_epi32(high, 1)));
}

/* The weight must be unsigned: (w + 128) x - 128 x, with x's sum known. */
INLINE __m512i dot_q8(const struct block *k, const char *x)
{
	const __m512i top = _mm512_set1_epi8((char)0x80);
	__m512i s = _mm512_set1_epi32(-128 * ((const struct q8_block *)x)->sum);

	for (int g = 0; g < 8; g++)
		s = _mm512_dpbusd_epi32(s, _mm512_xor_si512(k->q[g], top), x4(x, g));
	return s;
}

INLINE __m512i dot_q8_words(const struct block *k, const char *x)
{
	__m512i s = _mm512_setzero_si512();

	for (int g = 0; g < 8; g++) {
		s = _mm512_dpwssd_epi32(s, even_bytes(k->q[g]), x4(x, 2 * g));
		s = _mm512_dpwssd_epi32(s, odd_bytes(k->q[g]), x4(x, 2 * g + 1));
	}
	return s;
}

static void q4_0_q8(const struct product *p)
{
	mul_panel(p, FORM_Q8(18, true, load_q4_0, dot_q4));
}

static void q4_1_q8(const struct product *p)
{
	mul_panel(p, FORM_Q8(20, true, load_q4_1, dot_q4));
}

static void q8_0_q8(const struct product *p)
{
	mul_panel(p, FORM_Q8(34, false, load_q8_0, dot_q8));
}

static void q4_0_q16(const struct product *p)
{
	mul_panel(p, FORM_Q16(18, true, load_q4_0, dot_q4_planes));
}

static void q4_1_q16(const struct product *p)
{
	mul_panel(p, FORM_Q16(20, true, load_q4_1, dot_q4_planes));
}

static void q8_0_q16(const struct product *p)
{
	mul_panel(p, FORM_Q16(34, false, load_q8_0, dot_q8_words));
}

void isa_vnni(struct isa *isa)
{
	isa->name = "avx512 f bw dq vl vnni";
	isa->mul_q8[FMT_Q4_0] = q4_0_q8;
	isa->mul_q8[FMT_Q4_1] = q4_1_q8;
	isa->mul_q8[FMT_Q8_0] = q8_0_q8;
	isa->mul_q16[FMT_Q4_0] = q4_0_q16;
	isa->mul_q16[FMT_Q4_1] = q4_1_q16;
	isa->mul_q16[FMT_Q8_0] = q8_0_q16;
}
