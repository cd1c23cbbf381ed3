/* SPDX-License-Identifier: MIT */
/* avx2_panel.h - what avx2_q8.c and avx2_q16.c share: how 8 rows of a quantised weight
 * become a panel, and the loops around it. The product of a block is what differs.
 *
 * A panel of 8 weight rows is turned so that a register holds 4 neighbouring elements of
 * each row, row r in 32-bit lane r. A product then needs no sum across lanes, and lane r
 * adds its blocks in order: the same bits for any number of activation rows. Panel, for
 * each block: 8 registers of bytes (elements 4g..4g+3 of 8 rows), 8 scales, 8 minima;
 * Q4_0's offset of 8 is the minimum -8d. */
#ifndef NVLLM_CPU_AVX2_PANEL_H
#define NVLLM_CPU_AVX2_PANEL_H

#include <immintrin.h>
#include <string.h>

#include "cpu.h"

#define ROWS 8   /* of a panel */
#define X_TILE 4 /* activation rows multiplied at a time */
#define INLINE static inline __attribute__((always_inline, unused))

struct block {
	__m256i q[8];
	__m256 d, m;
};

/* Row pointers of a panel; rows that are not there repeat the last one. */
INLINE void panel_rows(const struct product *p, const char *r[ROWS])
{
	for (int i = 0; i < ROWS; i++)
		r[i] = p->w + (i < p->n_w ? i : p->n_w - 1) * p->w_stride;
}

/* 16 bytes of each of 8 rows, turned: v[t] has bytes 4t..4t+3 of row r in lane r. */
INLINE void turn16(const char *const r[ROWS], int64_t at, __m256i v[4])
{
	__m256i a[4], t0, t1, t2, t3;

	for (int i = 0; i < 4; i++)
		a[i] = _mm256_inserti128_si256(
			_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(r[i] + at))),
			_mm_loadu_si128((const __m128i *)(r[i + 4] + at)), 1);
	t0 = _mm256_unpacklo_epi32(a[0], a[1]);
	t1 = _mm256_unpacklo_epi32(a[2], a[3]);
	t2 = _mm256_unpackhi_epi32(a[0], a[1]);
	t3 = _mm256_unpackhi_epi32(a[2], a[3]);
	v[0] = _mm256_unpacklo_epi64(t0, t1);
	v[1] = _mm256_unpackhi_epi64(t0, t1);
	v[2] = _mm256_unpacklo_epi64(t2, t3);
	v[3] = _mm256_unpackhi_epi64(t2, t3);
}

INLINE void nibbles(__m256i q[8])
{
	const __m256i nibble = _mm256_set1_epi8(15);

	for (int t = 0; t < 4; t++) {
		q[4 + t] = _mm256_and_si256(_mm256_srli_epi16(q[t], 4), nibble);
		q[t] = _mm256_and_si256(q[t], nibble);
	}
}

INLINE int32_t u16_at(const char *p)
{
	uint16_t h;

	memcpy(&h, p, sizeof(h));
	return h;
}

INLINE int32_t i32_at(const char *p)
{
	int32_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

/* The halves at byte `at` of 8 rows. */
INLINE __m256 halves(const char *const r[ROWS], int64_t at)
{
	__m128i h = _mm_cvtsi32_si128(u16_at(r[0] + at));

	h = _mm_insert_epi16(h, u16_at(r[1] + at), 1);
	h = _mm_insert_epi16(h, u16_at(r[2] + at), 2);
	h = _mm_insert_epi16(h, u16_at(r[3] + at), 3);
	h = _mm_insert_epi16(h, u16_at(r[4] + at), 4);
	h = _mm_insert_epi16(h, u16_at(r[5] + at), 5);
	h = _mm_insert_epi16(h, u16_at(r[6] + at), 6);
	h = _mm_insert_epi16(h, u16_at(r[7] + at), 7);
	return _mm256_cvtph_ps(h);
}

INLINE __m128i four(const char *const r[4], int64_t at)
{
	__m128i v = _mm_cvtsi32_si128(i32_at(r[0] + at));

	v = _mm_insert_epi32(v, i32_at(r[1] + at), 1);
	v = _mm_insert_epi32(v, i32_at(r[2] + at), 2);
	return _mm_insert_epi32(v, i32_at(r[3] + at), 3);
}

INLINE void load_q4_0(const char *const r[ROWS], int64_t b, struct block *k)
{
	turn16(r, 18 * b + 2, k->q);
	nibbles(k->q);
	k->d = halves(r, 18 * b);
	k->m = _mm256_mul_ps(k->d, _mm256_set1_ps(-8));
}

/* d and m are neighbours: 8 pairs of halves, parted. */
INLINE void load_q4_1(const char *const r[ROWS], int64_t b, struct block *k)
{
	__m128i low = four(r, 20 * b), high = four(r + 4, 20 * b);
	const __m128i half = _mm_set1_epi32(0xffff);

	turn16(r, 20 * b + 4, k->q);
	nibbles(k->q);
	k->d = _mm256_cvtph_ps(_mm_packus_epi32(_mm_and_si128(low, half), _mm_and_si128(high,
		half)));
	k->m = _mm256_cvtph_ps(_mm_packus_epi32(_mm_srli_epi32(low, 16), _mm_srli_epi32(high, 16)));
}

INLINE void load_q8_0(const char *const r[ROWS], int64_t b, struct block *k)
{
	turn16(r, 34 * b + 2, k->q);
	turn16(r, 34 * b + 18, k->q + 4);
	k->d = halves(r, 34 * b);
	k->m = _mm256_setzero_ps();
}

/* Four bytes of an activation row, to every lane. */
INLINE __m256i x4(const void *q, int g)
{
	int32_t v;

	memcpy(&v, (const char *)q + 4 * g, sizeof(v));
	return _mm256_set1_epi32(v);
}

/* Keeps the compiler from regrouping a sum of integers: gcc 12 makes a tree of it, runs
 * out of registers, and takes a quarter longer. */
INLINE __m256i in_order(__m256i s)
{
	__asm__("" : "+x"(s));
	return s;
}

/* How a panel is made, and multiplied: constants of each product. add() adds a block of
 * nx activation rows to their sums. */
struct form {
	int block_bytes, x_bytes; /* of a block of the weight, of the activations */
	void (*load)(const char *const *r, int64_t b, struct block *);
	void (*add)(__m256 *sum, const struct block *, const char *const *x, const int nx);
};

/* Asks for a block's share of the panel after this one: the rows of a panel are 8 short
 * streams, which the processor's own prefetching loses at each new panel. */
INLINE void ahead(const struct product *p, int64_t b, const int block_bytes)
{
	const char *next = p->w + ROWS * (p->w_stride + b * block_bytes);

	for (int i = 0; i < ROWS * block_bytes; i += 64)
		_mm_prefetch(next + i, _MM_HINT_T0);
}

/* nx activation rows from row i on, times the panel in memory or, straight, times the
 * rows r of the weight. */
INLINE void tile(const struct product *p, int64_t i, const int nx, const struct form f,
	const char *const *r)
{
	const struct block *panel = (const struct block *)p->panel;
	const char *x[X_TILE];
	__m256 sum[X_TILE];
	struct block one;

	for (int a = 0; a < nx; a++) {
		x[a] = p->x + (i + a) * p->x_stride;
		sum[a] = _mm256_setzero_ps();
	}
	for (int64_t b = 0; b < p->cols / QK; b++) {
		if (r) {
			ahead(p, b, f.block_bytes);
			f.load(r, b, &one);
		}
		f.add(sum, r ? &one : &panel[b], x, nx);
		for (int a = 0; a < nx; a++)
			x[a] += f.x_bytes;
	}
	for (int a = 0; a < nx; a++)
		_mm256_storeu_ps(p->out + (i + a) * PANEL_MAX, sum[a]);
}

INLINE void mul_panel(const struct product *p, const struct form f)
{
	struct block *panel = (struct block *)p->panel;
	const char *r[ROWS];
	int64_t i = 0;

	panel_rows(p, r);
	if (p->n_x == 1) {
		tile(p, 0, 1, f, r);
		return;
	}
	for (int64_t b = 0; b < p->cols / QK; b++) {
		ahead(p, b, f.block_bytes);
		f.load(r, b, &panel[b]);
	}
	for (; i + X_TILE <= p->n_x; i += X_TILE)
		tile(p, i, X_TILE, f, NULL);
	if (i + 2 <= p->n_x) {
		tile(p, i, 2, f, NULL);
		i += 2;
	}
	if (i < p->n_x)
		tile(p, i, 1, f, NULL);
}

#endif
