/* SPDX-License-Identifier: MIT */
/* avx2_panel.h - what the products with quantised weights by AVX2 share: a block of a panel
 * of 8 rows (layout: "panels" in cpu.h), and the loops around it. The integer product of a
 * block is what differs. */
#ifndef NVLLM_CPU_AVX2_PANEL_H
#define NVLLM_CPU_AVX2_PANEL_H

#include <immintrin.h>
#include <stddef.h>
#include <string.h>

#include "cpu.h"

#define L 8        /* lanes */
#define AHEAD 4096 /* bytes */
#define INLINE static inline __attribute__((always_inline, unused))

/* Four bytes of an activation row, to every lane. */
INLINE __m256i x4(const void *q, int g)
{
	int32_t v;

	memcpy(&v, (const char *)q + 4 * g, sizeof(v));
	return _mm256_set1_epi32(v);
}

/* Part t of a block: four bytes of each lane. */
INLINE __m256i part(const char *block, int t)
{
	return _mm256_loadu_si256((const __m256i *)(block + 4 * L * t));
}

/* Keeps the compiler from regrouping a sum of integers: gcc 12 makes a tree of it, runs
 * out of registers, and takes a quarter longer. */
INLINE __m256i in_order(__m256i s)
{
	__asm__("" : "+x"(s));
	return s;
}

/* The scales of a block, or its minima: 8 halves. */
INLINE __m256 halves(const char *p)
{
	return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}

/* For many rows of activations a panel of nibbles is taken apart once, in scratch. */
struct wide {
	__m256i q[8];
	__m256 d, m;
};

/* A product: constants. dot() writes the integer products of a block of one panel and nx
 * activation rows to s. */
struct form {
	int block_bytes, x_bytes; /* of a block of a lane, of the activations */
	int scales;               /* where the scales begin in a block of the panel */
	int x_scale;              /* where the activations have d, and then s */
	enum { NONE, EIGHT, OWN } minimum; /* Q4_0's is -8 d */
	void (*dot)(__m256i *s, const char *block, const char *const *x, const int nx, const bool wide);
};

/* One block of a panel times nx activation rows. */
INLINE void add_block(__m256 *sum, const char *w, const char *const *x, const int nx, const struct form f,
	const bool wide)
{
	const struct wide *k = (const struct wide *)w;
	const __m256 d = wide ? k->d : halves(w + f.scales);
	const __m256 m = wide ? k->m : f.minimum == OWN ? halves(w + f.scales + 2 * L)
		: _mm256_mul_ps(d, _mm256_set1_ps(-8));
	__m256i s[4];

	f.dot(s, w, x, nx, wide);
	UNROLL(4)
	for (int a = 0; a < nx; a++) {
		const float *scale = (const float *)(x[a] + f.x_scale);
		const __m256 dx = _mm256_mul_ps(d, _mm256_set1_ps(scale[0]));

		sum[a] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(s[a]), dx, sum[a]);
		if (f.minimum != NONE)
			sum[a] = _mm256_fmadd_ps(m, _mm256_set1_ps(scale[1]), sum[a]);
	}
}

/* Asks for what is needed AHEAD bytes on: panels follow one another. Past the weight's end it
 * asks for nothing. */
INLINE void ahead(const char *w, const int bytes)
{
	for (int i = 0; i < bytes; i += 64)
		_mm_prefetch(w + AHEAD + i, _MM_HINT_T0);
}

/* The panel at w times nx activation rows from row i on, to out from column `to` on: nx, f and
 * wide are constants. */
INLINE void tile(const struct product *p, int64_t i, const char *w, int64_t to, const int nx,
	const struct form f, const bool wide)
{
	const int step = wide ? (int)sizeof(struct wide) : f.block_bytes * L;
	const char *x[4];
	__m256 sum[4];

	UNROLL(4)
	for (int a = 0; a < nx; a++) {
		x[a] = p->x + (i + a) * p->x_stride;
		sum[a] = _mm256_setzero_ps();
	}
	for (int64_t b = 0; b < p->cols / QK; b++, w += step) {
		if (nx == 1)
			ahead(w, step);
		add_block(sum, w, x, nx, f, wide);
		UNROLL(4)
		for (int a = 0; a < nx; a++)
			x[a] += f.x_bytes;
	}
	UNROLL(4)
	for (int a = 0; a < nx; a++)
		_mm256_storeu_ps(p->out + (i + a) * GROUP + to, sum[a]);
}

INLINE void all_rows(const struct product *p, const char *w, int64_t to, const struct form f, const bool wide)
{
	int64_t i = 0;

	for (; i + 4 <= p->n_x; i += 4)
		tile(p, i, w, to, 4, f, wide);
	if (i + 2 <= p->n_x) {
		tile(p, i, w, to, 2, f, wide);
		i += 2;
	}
	if (i < p->n_x)
		tile(p, i, w, to, 1, f, wide);
}

INLINE void widen(struct wide *k, const char *w, int64_t n_blocks, const struct form f)
{
	const __m256i nibble = _mm256_set1_epi8(15);

	for (; n_blocks > 0; n_blocks--, k++, w += f.block_bytes * L) {
		UNROLL(4)
		for (int t = 0; t < 4; t++) {
			k->q[t] = _mm256_and_si256(part(w, t), nibble);
			k->q[4 + t] = _mm256_and_si256(_mm256_srli_epi16(part(w, t), 4), nibble);
		}
		k->d = halves(w + f.scales);
		k->m = f.minimum == OWN ? halves(w + f.scales + 2 * L) : _mm256_mul_ps(k->d, _mm256_set1_ps(-8));
	}
}

INLINE void mul_panels(const struct product *p, const struct form f)
{
	for (int64_t j = 0; j < p->n_w; j++) {
		const char *w = p->w + j * p->panel_bytes;

		if (f.minimum == NONE || p->n_x < 8) {
			all_rows(p, w, j * L, f, false);
		} else {
			widen((struct wide *)p->scratch, w, p->cols / QK, f);
			all_rows(p, p->scratch, j * L, f, true);
		}
	}
}

/* ---- Q4_K, Q5_K, Q6_K: scales of 8 bits, times a half each 256 columns ---- */

/* dot() is of columns [16 h, 16 h + 16) of a block with `halves` 2, else of all of it. */
struct form_k {
	int block_bytes, x_bytes, x_scale; /* as in struct form */
	int halves;
	bool minimum;
	void (*dot)(__m256i *s, const char *block, const char *const *x, const int nx, const int h);
};

INLINE __m256 bytes_of(const char *p, const bool with_sign)
{
	const __m128i v = _mm_loadl_epi64((const __m128i *)p);

	return _mm256_cvtepi32_ps(with_sign ? _mm256_cvtepi8_epi32(v) : _mm256_cvtepu8_epi32(v));
}

/* Block b of 8; its scales are at `scales`. */
INLINE void add_block_k(__m256 *sum, const char *w, const char *scales, const __m256 d, const __m256 m,
	const char *const *x, const int b, const int nx, const struct form_k f)
{
	UNROLL(2)
	for (int h = 0; h < f.halves; h++) {
		const __m256 scale = _mm256_mul_ps(d, bytes_of(scales + (b * f.halves + h) * L, !f.minimum));
		__m256i s[4];

		f.dot(s, w, x, nx, h);
		UNROLL(4)
		for (int a = 0; a < nx; a++) {
			const __m256 dx = _mm256_mul_ps(scale, _mm256_set1_ps(*(const float *)(x[a] + f.x_scale)));

			sum[a] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(s[a]), dx, sum[a]);
		}
	}
	if (f.minimum) {
		const __m256 minimum = _mm256_mul_ps(m, bytes_of(scales + (8 + b) * L, false));

		UNROLL(4)
		for (int a = 0; a < nx; a++)
			sum[a] = _mm256_fnmadd_ps(minimum,
				_mm256_set1_ps(((const float *)(x[a] + f.x_scale))[1]), sum[a]);
	}
}

/* One panel times nx activation rows from row i on: nx and f are constants. */
INLINE void tile_k(const struct product *p, int64_t i, const char *w, int64_t to, const int nx,
	const struct form_k f)
{
	const char *x[4];
	__m256 sum[4];

	UNROLL(4)
	for (int a = 0; a < nx; a++) {
		x[a] = p->x + (i + a) * p->x_stride;
		sum[a] = _mm256_setzero_ps();
	}
	for (int64_t k = 0; k < p->cols / QK_K; k++) {
		const char *tail = w + 8 * f.block_bytes * L;
		const char *scales = tail + (f.minimum ? 4 : 2) * L;
		const __m256 d = halves(tail), m = f.minimum ? halves(tail + 2 * L) : d;

		for (int b = 0; b < 8; b++, w += f.block_bytes * L) {
			if (nx == 1)
				ahead(w, f.block_bytes * L);
			add_block_k(sum, w, scales, d, m, x, b, nx, f);
			UNROLL(4)
			for (int a = 0; a < nx; a++)
				x[a] += f.x_bytes;
		}
		w = scales + 16 * L;
	}
	UNROLL(4)
	for (int a = 0; a < nx; a++)
		_mm256_storeu_ps(p->out + (i + a) * GROUP + to, sum[a]);
}

INLINE void mul_panels_k(const struct product *p, const struct form_k f)
{
	for (int64_t j = 0; j < p->n_w; j++) {
		const char *w = p->w + j * p->panel_bytes;
		int64_t i = 0;

		for (; i + 4 <= p->n_x; i += 4)
			tile_k(p, i, w, j * L, 4, f);
		if (i + 2 <= p->n_x) {
			tile_k(p, i, w, j * L, 2, f);
			i += 2;
		}
		if (i < p->n_x)
			tile_k(p, i, w, j * L, 1, f);
	}
}

#endif
