/* SPDX-License-Identifier: MIT */
/* avx2_float.c - products with float weights by AVX2 (layout: "panels" in cpu.h). */
#include <immintrin.h>
#include <string.h>

#include "cpu.h"

#define L 8       /* lanes */
#define CHUNK 256 /* columns: two panels of them are 16 KiB */
#define INLINE static inline __attribute__((always_inline))

/* The first two columns of a panel; of F32 one. */
INLINE void two(__m256 *low, __m256 *high, const char *panel, const enum fmt fmt)
{
	/* each lane's first half to the low 128 bits of words, its second above */
	const __m256i order = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15,
		0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
	__m256i v = _mm256_loadu_si256((const __m256i *)panel);

	if (fmt == FMT_F32) {
		*low = _mm256_castsi256_ps(v);
	} else if (fmt == FMT_BF16) {
		*low = _mm256_castsi256_ps(_mm256_slli_epi32(v, 16));
		*high = _mm256_castsi256_ps(_mm256_and_si256(v, _mm256_set1_epi32((int)0xffff0000)));
	} else {
		v = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(v, order), 0xd8);
		*low = _mm256_cvtph_ps(_mm256_castsi256_si128(v));
		*high = _mm256_cvtph_ps(_mm256_extracti128_si256(v, 1));
	}
}

/* One column of np panels times nx rows of x. */
INLINE void add_column(__m256 *sum, const __m256 *w, const char *x, int64_t stride, const int np, const int nx)
{
	UNROLL(6)
	for (int a = 0; a < nx; a++) {
		const __m256 v = _mm256_broadcast_ss((const float *)(x + a * stride));

		UNROLL(8)
		for (int b = 0; b < np; b++)
			sum[b * nx + a] = _mm256_fmadd_ps(w[b], v, sum[b * nx + a]);
	}
}

/* Two columns; of F32 one. */
INLINE void add_columns(__m256 *sum, const char *w, int64_t panel_bytes, const char *x, int64_t stride,
	const int np, const int nx, const enum fmt fmt)
{
	__m256 low[8], high[8];

	UNROLL(8)
	for (int b = 0; b < np; b++)
		two(&low[b], &high[b], w + b * panel_bytes, fmt);
	add_column(sum, low, x, stride, np, nx);
	if (fmt != FMT_F32)
		add_column(sum, high, x + 4, stride, np, nx);
}

/* A piece of a product: columns [k, end) of np panels at w times rows of x. Sums of the columns
 * before are in out, where k > 0. */
struct piece {
	const struct product *p;
	const char *w;
	int64_t panel_bytes, to; /* of w; the column of out where they begin */
	int64_t k, end;
};

/* nx rows of x from row i on: np, nx and fmt are constants. */
INLINE void tile(const struct piece *c, int64_t i, const int np, const int nx, const enum fmt fmt)
{
	const char *x = c->p->x + i * c->p->x_stride + 4 * c->k;
	const char *w = c->w + c->k * (fmt == FMT_F32 ? 4 : 2) * L;
	const int each = fmt == FMT_F32 ? 1 : 2;
	float *out = c->p->out + i * GROUP + c->to;
	__m256 sum[8 * 6], last[8], none[8]; /* np * nx of them are used */
	int64_t k = c->k;

	UNROLL(8)
	for (int b = 0; b < np; b++)
		UNROLL(6)
		for (int a = 0; a < nx; a++)
			sum[b * nx + a] = c->k ? _mm256_loadu_ps(out + a * GROUP + b * L) : _mm256_setzero_ps();
	for (; k + each <= c->end; k += each, x += 4 * each, w += 4 * L)
		add_columns(sum, w, c->panel_bytes, x, c->p->x_stride, np, nx, fmt);
	if (k < c->end) {
		for (int b = 0; b < np; b++)
			two(&last[b], &none[b], w + b * c->panel_bytes, fmt);
		add_column(sum, last, x, c->p->x_stride, np, nx);
	}
	UNROLL(8)
	for (int b = 0; b < np; b++)
		UNROLL(6)
		for (int a = 0; a < nx; a++)
			_mm256_storeu_ps(out + a * GROUP + b * L, sum[b * nx + a]);
}

/* All rows of x. */
INLINE void all_rows(const struct piece *c, const int np, const enum fmt fmt)
{
	const int64_t n = c->p->n_x;
	int64_t i = 0;

	for (; np <= 2 && fmt == FMT_F32 && i + 6 <= n; i += 6)
		tile(c, i, np, 6, fmt);
	for (; np <= 2 && i + 4 <= n; i += 4)
		tile(c, i, np, 4, fmt);
	for (; i + 2 <= n; i += 2)
		tile(c, i, np, 2, fmt);
	if (i < n)
		tile(c, i, np, 1, fmt);
}

/* Columns [k, k + n) of a panel of halves as one of F32. */
INLINE void widen(float *dst, const char *w, int64_t k, int64_t n, const enum fmt fmt)
{
	for (int64_t i = 0; i < n; i += 2) {
		__m256 low, high;

		two(&low, &high, w + (k + i) / 2 * 4 * L, fmt);
		_mm256_store_ps(dst + i * L, low);
		_mm256_store_ps(dst + (i + 1) * L, high);
	}
}

/* np panels from panel j on. With many rows of x, so many columns at a time that they stay in the
 * first-level cache, widened once. */
INLINE void some(const struct product *p, int64_t j, const int np, const enum fmt fmt)
{
	struct piece c = { p, p->w + j * p->panel_bytes, p->panel_bytes, j * L, 0, p->cols };
	const int64_t chunk = p->cols < CHUNK ? whole_blocks(p->cols) : CHUNK;

	if (np > 2 || p->n_x < 12) {
		all_rows(&c, np, fmt);
		return;
	}
	for (; c.k < p->cols; c.k = c.end) {
		c.end = p->cols - c.k < chunk ? p->cols : c.k + chunk;
		for (int b = 0; b < np && fmt != FMT_F32; b++)
			widen((float *)p->scratch + b * chunk * L, p->w + (j + b) * p->panel_bytes, c.k,
				c.end - c.k, fmt);
		if (fmt != FMT_F32) {
			c.panel_bytes = chunk * L * 4;
			c.w = p->scratch - c.k * L * 4;
		}
		all_rows(&c, np, FMT_F32);
	}
}

/* Eight sums at least are on their way, as a multiplication and addition takes four cycles. */
INLINE void mul_panels(const struct product *p, const enum fmt fmt)
{
	int64_t j = 0;

	for (; j + 8 <= p->n_w && p->n_x == 1; j += 8)
		some(p, j, 8, fmt);
	for (; j + 4 <= p->n_w && p->n_x <= 2; j += 4)
		some(p, j, 4, fmt);
	for (; j + 2 <= p->n_w; j += 2)
		some(p, j, 2, fmt);
	for (; j < p->n_w; j++)
		some(p, j, 1, fmt);
}

static void mul_f32(const struct product *p)
{
	mul_panels(p, FMT_F32);
}

static void mul_f16(const struct product *p)
{
	mul_panels(p, FMT_F16);
}

static void mul_bf16(const struct product *p)
{
	mul_panels(p, FMT_BF16);
}

void isa_avx2_float(struct isa *isa)
{
	isa->mul[ACT_F32][FMT_F32] = mul_f32;
	isa->mul[ACT_F32][FMT_F16] = mul_f16;
	isa->mul[ACT_F32][FMT_BF16] = mul_bf16;
}
