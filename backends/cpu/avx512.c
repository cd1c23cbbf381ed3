/* SPDX-License-Identifier: MIT */
/* avx512.c - the routines for AVX-512 (F, BW, DQ, VL; Skylake-X onward). The scheme of
 * avx2.c with registers twice as wide: a panel is 16 weight rows, row r in lane r. */
#include <immintrin.h>
#include <string.h>

#include "avx512.h"

/* ---- products in f32 ---- */

INLINE float fold(__m512 v)
{
	__m256 s = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
	__m128 t = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));

	t = _mm_add_ps(t, _mm_movehl_ps(t, t));
	t = _mm_add_ss(t, _mm_movehdup_ps(t));
	return _mm_cvtss_f32(t);
}

/* nx rows of x times nw rows of w from row (i, j) on: nx, nw are constants. */
INLINE void tile_f32(const struct product *p, int64_t i, int64_t j, const int nx, const int nw)
{
	const char *x = p->x + i * p->x_stride, *w = p->w + j * p->w_stride;
	__m512 sum[4][4], xv[4];

	for (int a = 0; a < nx; a++)
		for (int b = 0; b < nw; b++)
			sum[a][b] = _mm512_setzero_ps();
	for (int64_t k = 0; k < p->cols; k += 16) {
		const int64_t left = p->cols - k;
		const __mmask16 m = left >= 16 ? 0xffff : (__mmask16)((1u << left) - 1);

		for (int a = 0; a < nx; a++)
			xv[a] = _mm512_maskz_loadu_ps(m, (const float *)(x + a * p->x_stride) + k);
		for (int b = 0; b < nw; b++) {
			__m512 wv = _mm512_maskz_loadu_ps(m,
				(const float *)(w + b * p->w_stride) + k);

			for (int a = 0; a < nx; a++)
				sum[a][b] = _mm512_fmadd_ps(xv[a], wv, sum[a][b]);
		}
	}
	for (int a = 0; a < nx; a++)
		for (int b = 0; b < nw; b++)
			p->out[(i + a) * PANEL_MAX + j + b] = fold(sum[a][b]);
}

static void mul_f32_avx512(const struct product *p)
{
	int64_t j = 0;

	for (; j + 4 <= p->n_w; j += 4) {
		int64_t i = 0;

		for (; i + 4 <= p->n_x; i += 4)
			tile_f32(p, i, j, 4, 4);
		for (; i < p->n_x; i++)
			tile_f32(p, i, j, 1, 4);
	}
	for (; j < p->n_w; j++)
		for (int64_t i = 0; i < p->n_x; i++)
			tile_f32(p, i, j, 1, 1);
}

/* ---- quantised products ---- */

/* Nibbles times bytes, in 16 bits: 8 pair sums of at most 2 * 15 * 127 stay below 2^15. */
INLINE __m512i nibble_pairs(const struct block *k, const char *x)
{
	__m512i s = _mm512_maddubs_epi16(k->q[0], x4(x, 0));

	for (int g = 1; g < 8; g++)
		s = _mm512_add_epi16(s, _mm512_maddubs_epi16(k->q[g], x4(x, g)));
	return s;
}

INLINE __m512i dot_q4(const struct block *k, const char *x)
{
	return _mm512_madd_epi16(nibble_pairs(k, x), _mm512_set1_epi16(1));
}

/* 254 * high + low. */
INLINE __m512i dot_q4_planes(const struct block *k, const char *x)
{
	return _mm512_add_epi32(
		_mm512_madd_epi16(nibble_pairs(k, x), _mm512_set1_epi16(254)),
		_mm512_madd_epi16(nibble_pairs(k, x + QK), _mm512_set1_epi16(1)));
}

/* Bytes times bytes, as |w| times x with w's sign: a pair sum is at most 2 * 128 * 127. */
INLINE __m512i dot_q8(const struct block *k, const char *x)
{
	__m512i s = _mm512_setzero_si512();

	for (int g = 0; g < 8; g++) {
		const __m512i v = x4(x, g);
		const __m512i with_sign = _mm512_mask_sub_epi8(v, _mm512_movepi8_mask(k->q[g]),
			_mm512_setzero_si512(), v);
		const __m512i pair = _mm512_maddubs_epi16(_mm512_abs_epi8(k->q[g]), with_sign);

		s = _mm512_add_epi32(s, _mm512_madd_epi16(pair, _mm512_set1_epi16(1)));
	}
	return s;
}

/* Words times words; 16 sums of at most 2 * 128 * 32258 stay far below 2^31. */
INLINE __m512i dot_q8_words(const struct block *k, const char *x)
{
	__m512i s = _mm512_setzero_si512();

	for (int g = 0; g < 8; g++) {
		s = _mm512_add_epi32(s, _mm512_madd_epi16(even_bytes(k->q[g]), x4(x, 2 * g)));
		s = _mm512_add_epi32(s, _mm512_madd_epi16(odd_bytes(k->q[g]), x4(x, 2 * g + 1)));
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

void isa_avx512(struct isa *isa)
{
	isa->name = "avx512 f bw dq vl";
	isa->rows_q8 = ROWS;
	isa->mul_f32 = mul_f32_avx512;
	isa->mul_q8[FMT_Q4_0] = q4_0_q8;
	isa->mul_q8[FMT_Q4_1] = q4_1_q8;
	isa->mul_q8[FMT_Q8_0] = q8_0_q8;
	isa->mul_q16[FMT_Q4_0] = q4_0_q16;
	isa->mul_q16[FMT_Q4_1] = q4_1_q16;
	isa->mul_q16[FMT_Q8_0] = q8_0_q16;
}
