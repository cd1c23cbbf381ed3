/* SPDX-License-Identifier: MIT */
/* avx512_panel.h - what the products by AVX-512 share: a block of a panel of 16 rows (layout:
 * "panels" in cpu.h), and the loops around it. The integer product of a block is what differs
 * between avx512.c and vnni.c; as it is exact, they give the same bits.
 *
 * A panel goes through alone, as one stream. With one row of x a block costs two to five dozen
 * micro-operations, and the sum it ends in waits 8 cycles for the block before: the processor
 * works on several blocks at a time by itself. With up to 8 rows a block's nibbles are taken
 * apart once for all of them. */
#ifndef NVLLM_CPU_AVX512_PANEL_H
#define NVLLM_CPU_AVX512_PANEL_H

#include <stddef.h>
#include <string.h>

#include "cpu.h"
#include "simd512.h"

#define L 16       /* lanes */
#define AHEAD 8192 /* bytes of a panel asked for before they are needed: over a page's end too,
		    * where the processor itself stops */
#define INLINE static inline __attribute__((always_inline, unused))

/* parts of isa_avx512 */
void isa_avx512_pack(struct isa *);
void isa_avx512_float(struct isa *);

/* Into the second-level cache; past the weight's end this asks for nothing. */
INLINE void ahead(const char *w, const int bytes)
{
	for (int i = 0; i < bytes; i += 64)
		__builtin_prefetch(w + AHEAD + i, 0, 2);
}

/* Four bytes of an activation row, to every lane. */
INLINE __m512i x4(const char *q, int g)
{
	int32_t v;

	memcpy(&v, q + 4 * g, sizeof(v));
	return _mm512_set1_epi32(v);
}

/* Part t of a block: four bytes of each lane. */
INLINE __m512i part(const char *block, int t)
{
	return _mm512_loadu_si512(block + 4 * L * t);
}

/* Nibbles that go with elements 4g.. of x. */
INLINE __m512i nibbles(const char *block, int g)
{
	const __m512i v = part(block, g % 4);

	return _mm512_and_si512(g < 4 ? v : _mm512_srli_epi16(v, 4), _mm512_set1_epi8(15));
}

/* Bytes as words: those that go with words 2g and 2g + 1 of x, in the order PAIR. */
INLINE __m512i words(const char *block, int g)
{
	const __m512i v = part(block, g / 2);

	return _mm512_srai_epi16(g % 2 ? v : _mm512_slli_epi16(v, 8), 8);
}

/* Bytes with the sign of others. */
INLINE __m512i with_sign(__m512i v, __mmask64 below)
{
	return _mm512_mask_sub_epi8(v, below, _mm512_setzero_si512(), v);
}

/* 16 halves of a block: scales, minima. */
INLINE __m512 halves(const char *p)
{
	return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

INLINE void zeros(__m512i *n, const int nx)
{
	UNROLL(8)
	for (int a = 0; a < nx; a++)
		n[a] = _mm512_setzero_si512();
}

INLINE void to_float(__m512 *s, const __m512i *n, const int nx)
{
	UNROLL(8)
	for (int a = 0; a < nx; a++)
		s[a] = _mm512_cvtepi32_ps(n[a]);
}

/* 254 * high + low of nibbles times planes, as float: at most 15 * 127 * 254 * 32 < 2^24, so
 * nothing is rounded. */
INLINE __m512 of_planes(__m512i high, __m512i low)
{
	return _mm512_fmadd_ps(_mm512_cvtepi32_ps(high), _mm512_set1_ps(254), _mm512_cvtepi32_ps(low));
}

/* A product: constants. dot() writes the integer products of nx rows of activations and a block of
 * the panel, or of columns [16 h, 16 h + 16) of it with two scales a block, to s as float. */
struct form {
	int bytes;     /* of a block of a lane, its scales aside */
	int x_bytes;   /* of a block of the activations, */
	int x_scale;   /* and where it has d, and then s */
	int n_scales;  /* of a block */
	bool k;        /* blocks of 256 columns have halves, those of 32 bytes to multiply them by */
	enum { NONE, EIGHT, OWN } minimum; /* Q4_0's is -8 d */
	void (*dot)(__m512 *s, const char *block, const char *const *x, const int nx, const int h);
};

#define FORM_Q8(...) ((struct form){ .x_bytes = sizeof(struct q8_block), \
	.x_scale = offsetof(struct q8_block, d), __VA_ARGS__ })
#define FORM_Q16(...) ((struct form){ .x_bytes = sizeof(struct q16_block), \
	.x_scale = offsetof(struct q16_block, d), __VA_ARGS__ })
#define Q4_0(act, function) FORM_##act(.bytes = 16, .n_scales = 1, .minimum = EIGHT, .dot = function)
#define Q4_1(act, function) FORM_##act(.bytes = 16, .n_scales = 1, .minimum = OWN, .dot = function)
#define Q8_0(act, function) FORM_##act(.bytes = 32, .n_scales = 1, .minimum = NONE, .dot = function)
#define Q4_K(act, function) FORM_##act(.bytes = 16, .n_scales = 1, .k = true, .minimum = OWN, .dot = function)
#define Q5_K(act, function) FORM_##act(.bytes = 32, .n_scales = 1, .k = true, .minimum = OWN, .dot = function)
#define Q6_K(act, function) FORM_##act(.bytes = 32, .n_scales = 2, .k = true, .minimum = NONE, .dot = function)

/* Adds the products s of a block with the scales d, or of half of it. */
INLINE void add_scaled(__m512 *sum, const __m512 *s, __m512 d, const char *const *x, const int nx,
	const struct form f)
{
	UNROLL(8)
	for (int a = 0; a < nx; a++) {
		const __m512 dx = _mm512_set1_ps(*(const float *)(x[a] + f.x_scale));

		sum[a] = _mm512_fmadd_ps(s[a], _mm512_mul_ps(d, dx), sum[a]);
	}
}

/* What the minima m of a block come to. */
INLINE void add_minimum(__m512 *sum, __m512 m, const char *const *x, const int nx, const struct form f)
{
	UNROLL(8)
	for (int a = 0; a < nx; a++)
		sum[a] = _mm512_fmadd_ps(m, _mm512_set1_ps(((const float *)(x[a] + f.x_scale))[1]), sum[a]);
}

INLINE void next_block(const char **x, const int nx, const struct form f)
{
	UNROLL(8)
	for (int a = 0; a < nx; a++)
		x[a] += f.x_bytes;
}

/* A panel comes in steps: with f.k 8 blocks and then their halves and tables, else a block and its
 * halves. */
INLINE int blocks_of(const struct form f)
{
	return f.k ? 8 : 1;
}

INLINE int halves_bytes(const struct form f)
{
	return f.minimum == OWN ? 4 * L : 2 * L;
}

INLINE int step_bytes(const struct form f)
{
	return blocks_of(f) * f.bytes * L + halves_bytes(f) + (f.k ? 16 * L : 0);
}

/* 16 bytes of a table; those of minima, and the scales that go with them, have no sign. */
INLINE __m512 table(const char *p, const struct form f)
{
	const __m128i v = _mm_loadu_si128((const __m128i *)p);

	return _mm512_cvtepi32_ps(f.minimum == OWN ? _mm512_cvtepu8_epi32(v) : _mm512_cvtepi8_epi32(v));
}

/* What is multiplied by d and by s of the activations: of block b of a step, half h of it where there
 * are two scales. */
struct scale {
	__m512 d, m;
};

/* tail: where a step's halves begin. */
INLINE struct scale scale_of(const char *tail, const int b, const int h, const struct form f)
{
	const char *tables = tail + halves_bytes(f);
	struct scale s = { halves(tail), _mm512_setzero_ps() };

	if (f.minimum == EIGHT)
		s.m = _mm512_mul_ps(s.d, _mm512_set1_ps(-8));
	if (f.minimum == OWN)
		s.m = halves(tail + 2 * L);
	if (!f.k)
		return s;
	s.d = _mm512_mul_ps(s.d, table(tables + (b * f.n_scales + h) * L, f));
	if (f.minimum == OWN)
		s.m = _mm512_mul_ps(_mm512_mul_ps(s.m, _mm512_set1_ps(-1)), table(tables + (8 + b) * L, f));
	return s;
}

/* Block b of a step, at w, times nx rows. */
INLINE void add_block(__m512 *sum, const char *w, const char *tail, const int b, const char **x, const int nx,
	const struct form f)
{
	struct scale k;

	ahead(w, f.bytes * L);
	UNROLL(2)
	for (int h = 0; h < f.n_scales; h++) {
		__m512 s[8];

		f.dot(s, w, x, nx, h);
		k = scale_of(tail, b, h, f);
		add_scaled(sum, s, k.d, x, nx, f);
	}
	if (f.minimum != NONE)
		add_minimum(sum, k.m, x, nx, f);
	next_block(x, nx, f);
}

/* Panel j times nx rows from row i on: nx and f are constants. */
INLINE void tile(const struct product *p, int64_t i, int64_t j, const int nx, const struct form f)
{
	const char *w = p->w + j * p->panel_bytes, *x[8];
	__m512 sum[8];

	UNROLL(8)
	for (int a = 0; a < nx; a++) {
		x[a] = p->x + (i + a) * p->x_stride;
		sum[a] = _mm512_setzero_ps();
	}
	for (int64_t k = 0; k < p->cols; k += blocks_of(f) * QK, w += step_bytes(f)) {
		const char *tail = w + blocks_of(f) * f.bytes * L;

		ahead(tail, step_bytes(f) - blocks_of(f) * f.bytes * L);
		for (int b = 0; b < blocks_of(f); b++)
			add_block(sum, w + b * f.bytes * L, tail, b, x, nx, f);
	}
	UNROLL(8)
	for (int a = 0; a < nx; a++)
		_mm512_storeu_ps(p->out + (i + a) * GROUP + j * L, sum[a]);
}

INLINE void mul_panels(const struct product *p, const struct form f)
{
	for (int64_t j = 0; j < p->n_w; j++) {
		int64_t i = 0;

		for (; i + 8 <= p->n_x; i += 8)
			tile(p, i, j, 8, f);
		if (i + 4 <= p->n_x) {
			tile(p, i, j, 4, f);
			i += 4;
		}
		if (i + 2 <= p->n_x) {
			tile(p, i, j, 2, f);
			i += 2;
		}
		if (i < p->n_x)
			tile(p, i, j, 1, f);
	}
}

#endif
