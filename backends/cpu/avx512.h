/* SPDX-License-Identifier: MIT */
/* avx512.h - what avx512.c and vnni.c share: how 16 rows of a quantised weight become a
 * panel, and the loops around it. The integer product of a block is what differs. */
#ifndef NVLLM_CPU_AVX512_H
#define NVLLM_CPU_AVX512_H

#include <stddef.h>

#include "cpu.h"

#define ROWS 16  /* of a panel */
#define X_TILE 4 /* activation rows multiplied at a time */
#define INLINE static inline __attribute__((always_inline, unused))

/* q[g]: elements 4g..4g+3 of row r in lane r. */
struct block {
	__m512i q[8];
	__m512 d, m;
};

/* Row pointers of a panel; rows that are not there repeat the last one. */
INLINE void panel_rows(const struct product *p, const char *r[ROWS])
{
	for (int i = 0; i < ROWS; i++)
		r[i] = p->w + (i < p->n_w ? i : p->n_w - 1) * p->w_stride;
}

/* Rows i, i + 4, i + 8, i + 12 in the four 128-bit parts. */
INLINE __m512i quarter(const char *const r[ROWS], int i, int64_t at)
{
	__m512i v = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(r[i] + at)));

	v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(r[i + 4] + at)), 1);
	v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(r[i + 8] + at)), 2);
	return _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(r[i + 12] + at)), 3);
}

/* 16 bytes of each of 16 rows, turned: v[t] has bytes 4t..4t+3 of row r in lane r. */
INLINE void turn16(const char *const r[ROWS], int64_t at, __m512i v[4])
{
	const __m512i a = quarter(r, 0, at), b = quarter(r, 1, at);
	const __m512i c = quarter(r, 2, at), d = quarter(r, 3, at);
	const __m512i t0 = _mm512_unpacklo_epi32(a, b), t1 = _mm512_unpacklo_epi32(c, d);
	const __m512i t2 = _mm512_unpackhi_epi32(a, b), t3 = _mm512_unpackhi_epi32(c, d);

	v[0] = _mm512_unpacklo_epi64(t0, t1);
	v[1] = _mm512_unpackhi_epi64(t0, t1);
	v[2] = _mm512_unpacklo_epi64(t2, t3);
	v[3] = _mm512_unpackhi_epi64(t2, t3);
}

INLINE void nibbles(__m512i q[8])
{
	const __m512i nibble = _mm512_set1_epi8(15);

	for (int t = 0; t < 4; t++) {
		q[4 + t] = _mm512_and_si512(_mm512_srli_epi16(q[t], 4), nibble);
		q[t] = _mm512_and_si512(q[t], nibble);
	}
}

/* The halves at byte `at` of 16 rows. */
INLINE __m512 halves(const char *const r[ROWS], int64_t at)
{
	_Alignas(32) uint16_t h[ROWS];

	for (int i = 0; i < ROWS; i++)
		memcpy(&h[i], r[i] + at, sizeof(h[i]));
	return _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)h));
}

INLINE void load_q4_0(const char *const r[ROWS], int64_t b, struct block *k)
{
	turn16(r, 18 * b + 2, k->q);
	nibbles(k->q);
	k->d = halves(r, 18 * b);
	k->m = _mm512_mul_ps(k->d, _mm512_set1_ps(-8));
}

INLINE void load_q4_1(const char *const r[ROWS], int64_t b, struct block *k)
{
	turn16(r, 20 * b + 4, k->q);
	nibbles(k->q);
	k->d = halves(r, 20 * b);
	k->m = halves(r, 20 * b + 2);
}

INLINE void load_q8_0(const char *const r[ROWS], int64_t b, struct block *k)
{
	turn16(r, 34 * b + 2, k->q);
	turn16(r, 34 * b + 18, k->q + 4);
	k->d = halves(r, 34 * b);
	k->m = _mm512_setzero_ps();
}

/* Four bytes of an activation row, to every lane. */
INLINE __m512i x4(const void *q, int g)
{
	int32_t v;

	memcpy(&v, (const char *)q + 4 * g, sizeof(v));
	return _mm512_set1_epi32(v);
}

/* A register's even bytes as words with their sign, and the odd ones. */
INLINE __m512i even_bytes(__m512i v)
{
	return _mm512_srai_epi16(_mm512_slli_epi16(v, 8), 8);
}

INLINE __m512i odd_bytes(__m512i v)
{
	return _mm512_srai_epi16(v, 8);
}

/* How a panel is made, and multiplied: constants of each product. */
struct form {
	int block_bytes, x_bytes; /* of a block of the weight, of the activations */
	int x_scale;              /* where the latter has d, and then s */
	bool minimum;
	void (*load)(const char *const *r, int64_t b, struct block *);
	__m512i (*dot)(const struct block *, const char *x); /* of integers, exactly */
};

#define FORM_Q8(bytes, minimum, load, dot) ((struct form){ bytes, sizeof(struct q8_block), \
	offsetof(struct q8_block, d), minimum, load, dot })
#define FORM_Q16(bytes, minimum, load, dot) ((struct form){ bytes, sizeof(struct q16_block), \
	offsetof(struct q16_block, d), minimum, load, dot })

INLINE __m512 add_block(__m512 sum, const struct block *k, const char *x, const struct form f)
{
	const float *scale = (const float *)(x + f.x_scale);
	const __m512 d = _mm512_mul_ps(k->d, _mm512_set1_ps(scale[0]));

	sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(f.dot(k, x)), d, sum);
	return f.minimum ? _mm512_fmadd_ps(k->m, _mm512_set1_ps(scale[1]), sum) : sum;
}

/* nx activation rows from row i on times the panel: nx and f are constants. */
INLINE void tile(const struct product *p, int64_t i, const int nx, const struct form f)
{
	const struct block *k = (const struct block *)p->panel;
	const char *x[X_TILE];
	__m512 sum[X_TILE];

	for (int a = 0; a < nx; a++) {
		x[a] = p->x + (i + a) * p->x_stride;
		sum[a] = _mm512_setzero_ps();
	}
	for (int64_t b = 0; b < p->cols / QK; b++)
		for (int a = 0; a < nx; a++)
			sum[a] = add_block(sum[a], &k[b], x[a] + b * f.x_bytes, f);
	for (int a = 0; a < nx; a++)
		_mm512_storeu_ps(p->out + (i + a) * PANEL_MAX, sum[a]);
}

/* Asks for a block's share of the panel after this one (see avx2_panel.h). */
INLINE void ahead(const struct product *p, int64_t b, const int block_bytes)
{
	const char *next = p->w + ROWS * (p->w_stride + b * block_bytes);

	for (int i = 0; i < ROWS * block_bytes; i += 64)
		_mm_prefetch(next + i, _MM_HINT_T0);
}

INLINE void mul_panel(const struct product *p, const struct form f)
{
	struct block *k = (struct block *)p->panel;
	const char *r[ROWS];
	int64_t i = 0;

	panel_rows(p, r);
	for (int64_t b = 0; b < p->cols / QK; b++) {
		ahead(p, b, f.block_bytes);
		f.load(r, b, &k[b]);
	}
	for (; i + X_TILE <= p->n_x; i += X_TILE)
		tile(p, i, X_TILE, f);
	for (; i < p->n_x; i++)
		tile(p, i, 1, f);
}

#endif
