/* SPDX-License-Identifier: MIT */
/* bf16_panel.h - what the products of bf16 share (bf16.c, amx.c): a panel of 16 rows of a weight
 * (layout: "panels" in cpu.h) as tiles of bf16. 32 columns are 16 rows of 64 bytes, row k with
 * columns 2k and 2k + 1 of each lane as a pair. A panel of BF16 is that as it lies. Of the others
 * each weight becomes a float, exactly or (Q4_1) rounded once, which is then rounded to nearest even.
 *
 * A token's products are as fast as this: 32 weights of a block form, one row of a tile, take
 * about nine micro-operations besides the store. A register holds the four bytes of each lane
 * twice, eight lanes in a register, so that even and odd dwords can become a lane's even and odd
 * column: half an operation (two permutations, for four rows of a tile). In each of two
 * registers a rotation by lane, a mask and a flip of bits put the number q into the mantissa of
 * a float, 1 + q / 2^n, and a multiplication and addition make it the weight: three operations.
 * The two become a row of the tile by one conversion, in order. */
#ifndef NVLLM_CPU_BF16_PANEL_H
#define NVLLM_CPU_BF16_PANEL_H

#include "cpu.h"
#include "simd512.h"
#ifdef NVLLM_EMULATED
#include "bf16_emulated.h"
#endif

#define L 16       /* lanes */
#define STEP 1024  /* bytes of a tile: 32 columns of a panel */
#define AHEAD 4096 /* bytes of a panel, asked for before they are needed */
#define INLINE static inline __attribute__((always_inline))

/* Panels as tiles: panel_bytes apart, tile by tile. */
struct tiles {
	const char *w;
	int64_t panel_bytes;
};

/* Scales and minima of a block, each twice, in the order of twice(). */
struct scale {
	__m512 d[2], m[2];
};

/* Lanes 0 to 7 (half 0) or 8 to 15, each in two neighbouring dwords. */
INLINE __m512i twice(__m512i v, const int half)
{
	const int b = 8 * half;

	return _mm512_permutexvar_epi32(_mm512_set_epi32(b + 7, b + 7, b + 6, b + 6, b + 5, b + 5, b + 4,
		b + 4, b + 3, b + 3, b + 2, b + 2, b + 1, b + 1, b, b), v);
}

INLINE __m512 twice_ps(__m512 v, const int half)
{
	return _mm512_castsi512_ps(twice(_mm512_castps_si512(v), half));
}

INLINE __m512 halves(const char *p)
{
	return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

/* A row of a tile, from pairs of lanes 0 to 7 and of lanes 8 to 15. */
INLINE void put_row(char *row, __m512 low, __m512 high)
{
	_mm512_storeu_si512(row, (__m512i)_mm512_cvtne2ps_pbh(high, low));
}

/* What is to be multiplied is 1 + n / 16 with a nibble n, 1 + (q + 128) / 256 with a byte q:
 *   Q4_1  d n + m    = 16 d (1 + n / 16) + (m - 16 d)
 *   Q4_0  d (n - 8)  = 16 d (1 + n / 16) - 24 d
 *   Q8_0  d q        = 256 d (1 + (q + 128) / 256) - 384 d
 * d has 11 bits: but for Q4_1's m - 16 d nothing is rounded. */
INLINE void load_scale(struct scale *s, const char *p, const enum fmt fmt)
{
	const __m512 d = halves(p), top = _mm512_mul_ps(d, _mm512_set1_ps(fmt == FMT_Q8_0 ? 256 : 16));
	const __m512 m = fmt == FMT_Q4_1 ? _mm512_sub_ps(halves(p + 2 * L), top)
		: _mm512_mul_ps(d, _mm512_set1_ps(fmt == FMT_Q8_0 ? -384 : -24));

	UNROLL(2)
	for (int h = 0; h < 2; h++) {
		s->d[h] = twice_ps(top, h);
		s->m[h] = twice_ps(m, h);
	}
}

/* The row of a tile with the weights that a rotation by `even`, and by `odd` in odd dwords,
 * brings to the top of the mantissa. */
INLINE void put_pairs(char *row, const __m512i v[2], const struct scale *s, const int even, const int odd,
	const enum fmt fmt)
{
	const __m512i by = _mm512_set1_epi64((int64_t)odd << 32 | even);
	const __m512i mask = _mm512_set1_epi32(fmt == FMT_Q8_0 ? 0x007f8000 : 0x00780000);
	const __m512i one = _mm512_set1_epi32(fmt == FMT_Q8_0 ? 0x3fc00000 : 0x3f800000);
	__m512 w[2];

	UNROLL(2)
	for (int h = 0; h < 2; h++) {
		const __m512i q = _mm512_rolv_epi32(v[h], by);

		/* (q & mask) ^ one: the sign of a byte is flipped, which adds 128 */
		w[h] = _mm512_castsi512_ps(_mm512_ternarylogic_epi32(q, mask, one, 0x6a));
		w[h] = _mm512_fmadd_ps(s->d[h], w[h], s->m[h]);
	}
	put_row(row, w[0], w[1]);
}

/* Byte i of a lane's dword begins at bit 8 i and goes to bit 15; its nibbles go to bit 19. */
INLINE void block_tile(char *dst, const char *block, const enum fmt fmt)
{
	const int parts = fmt == FMT_Q8_0 ? 8 : 4;
	struct scale s;

	load_scale(&s, block + parts * 4 * L, fmt);
	UNROLL(8)
	for (int t = 0; t < parts; t++, dst += 128) {
		const __m512i part = _mm512_loadu_si512(block + t * 4 * L);
		const __m512i v[2] = { twice(part, 0), twice(part, 1) };
		char *high = fmt == FMT_Q8_0 ? dst : dst + STEP / 2;

		if (fmt != FMT_Q8_0) {
			put_pairs(dst, v, &s, 19, 11, fmt);
			put_pairs(dst + 64, v, &s, 3, 27, fmt);
		}
		put_pairs(high, v, &s, 15, 7, fmt);
		put_pairs(high + 64, v, &s, 31, 23, fmt);
	}
}

INLINE void half_tile(char *dst, const char *panel)
{
	for (int i = 0; i < STEP; i += 64)
		put_row(dst + i, halves(panel + i), halves(panel + i + 32));
}

/* n columns; the tile is filled up with zeros. */
INLINE void float_tile(char *dst, const char *panel, int64_t n)
{
	const __m512i low = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
	const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));

	for (int64_t i = 0; i < QK; i += 2, dst += 64, panel += 8 * L) {
		const __m512 none = _mm512_setzero_ps();
		const __m512 even = i < n ? _mm512_loadu_ps((const float *)panel) : none;
		const __m512 odd = i + 1 < n ? _mm512_loadu_ps((const float *)panel + L) : none;

		put_row(dst, _mm512_permutex2var_ps(even, low, odd), _mm512_permutex2var_ps(even, high, odd));
	}
}

/* Of a panel, 32 columns. */
INLINE int64_t step_bytes(const enum fmt fmt)
{
	switch (fmt) {
	case FMT_F32: return QK * 4 * L;
	case FMT_Q4_0: return 18 * L;
	case FMT_Q4_1: return 20 * L;
	case FMT_Q8_0: return 34 * L;
	default: return STEP;
	}
}

/* Into the second-level cache; past the last panel this asks for nothing. */
INLINE void ask_ahead(const char *w, const enum fmt fmt)
{
	for (int64_t i = 0; i < step_bytes(fmt); i += 64)
		_mm_prefetch(w + AHEAD + i, _MM_HINT_T1);
}

/* Columns [32 b, 32 b + 32) of a panel that is not BF16. */
INLINE void put_tile(char *dst, const char *panel, int64_t b, int64_t cols, const enum fmt fmt)
{
	const char *w = panel + b * step_bytes(fmt);

	ask_ahead(w, fmt);
	if (fmt == FMT_F32)
		float_tile(dst, w, cols - b * QK);
	else if (fmt == FMT_F16)
		half_tile(dst, w);
	else
		block_tile(dst, w, fmt);
}

/* All panels of a product, in its scratch where they are not BF16. */
INLINE struct tiles all_tiles(const struct product *p, const enum fmt fmt)
{
	const int64_t steps = whole_blocks(p->cols) / QK;

	if (fmt == FMT_BF16)
		return (struct tiles){ p->w, p->panel_bytes };
	for (int64_t j = 0; j < p->n_w; j++)
		for (int64_t b = 0; b < steps; b++)
			put_tile(p->scratch + (j * steps + b) * STEP, p->w + j * p->panel_bytes, b, p->cols, fmt);
	return (struct tiles){ p->scratch, steps * STEP };
}

/* Forms of weights with products of bf16, and the routine of one: mul() is of the file that includes this. */
#define ALL(do) FLOATS(do, BF16) do(Q4_0, BF16) do(Q4_1, BF16) do(Q8_0, BF16)
#define PRODUCT(form, act) \
	static void mul_##form##_##act(const struct product *p) \
	{ \
		mul(p, FMT_##form); \
	}

#endif
