/* SPDX-License-Identifier: MIT */
/* avx512_float.c - products with float weights by AVX-512 (layout: "panels" in cpu.h).
 *
 * A lane adds its columns one by one, four cycles each: eight sums must be under way at a time
 * to keep two units busy, so panels are taken by four or two, with up to eight rows of x. A column
 * costs 10 loads for 24 multiplications (4 panels, 6 rows), 10 for 16 (2, 8), 9 for 8 (1, 8); as
 * many loads as multiplications go through at a time. */
#include "avx512_panel.h"

#define CHUNK 128 /* columns: four panels of them are 32 KiB */

/* The first two columns of a panel; of F32 one. */
INLINE void two(__m512 *low, __m512 *high, const char *panel, const enum fmt fmt)
{
	/* each lane's first half to the low 256 bits, its second above */
	static const uint16_t order[32] = { 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30,
		1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31 };
	__m512i v = _mm512_loadu_si512(panel);

	if (fmt == FMT_F32) {
		*low = _mm512_castsi512_ps(v);
	} else if (fmt == FMT_BF16) {
		*low = _mm512_castsi512_ps(_mm512_slli_epi32(v, 16));
		*high = _mm512_castsi512_ps(_mm512_and_si512(v, _mm512_set1_epi32((int)0xffff0000)));
	} else {
		v = _mm512_permutexvar_epi16(_mm512_loadu_si512(order), v);
		*low = _mm512_cvtph_ps(_mm512_castsi512_si256(v));
		*high = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(v, 1));
	}
}

/* One column of np panels times nx rows of x. */
INLINE void add_column(__m512 *sum, const __m512 *w, const char *x, int64_t stride, const int np, const int nx)
{
	UNROLL(8)
	for (int a = 0; a < nx; a++) {
		const __m512 v = _mm512_set1_ps(*(const float *)(x + a * stride));

		UNROLL(4)
		for (int b = 0; b < np; b++)
			sum[b * nx + a] = _mm512_fmadd_ps(w[b], v, sum[b * nx + a]);
	}
}

/* Two columns; of F32 one. */
INLINE void add_columns(__m512 *sum, const char *w, int64_t panel_bytes, const char *x, int64_t stride,
	const int np, const int nx, const enum fmt fmt)
{
	__m512 low[4], high[4];

	UNROLL(4)
	for (int b = 0; b < np; b++) {
		if (nx == 1)
			ahead(w + b * panel_bytes, 64);
		two(&low[b], &high[b], w + b * panel_bytes, fmt);
	}
	add_column(sum, low, x, stride, np, nx);
	if (fmt != FMT_F32)
		add_column(sum, high, x + 4, stride, np, nx);
}

/* A piece of a product: columns [k, end) of np panels times rows of x. Sums of the columns before
 * are in out, where k > 0. */
struct piece {
	const struct product *p;
	const char *w;       /* column k of the first panel */
	int64_t panel_bytes; /* from there to that of the next */
	float *out;          /* what row 0 of x gives with them */
	int64_t k, end;
};

/* nx rows of x from row i on: np, nx and fmt are constants. */
INLINE void tile_float(const struct piece *c, int64_t i, const int np, const int nx, const enum fmt fmt)
{
	const char *x = c->p->x + i * c->p->x_stride + 4 * c->k, *w = c->w;
	const int each = fmt == FMT_F32 ? 1 : 2;
	float *out = c->out + i * GROUP;
	__m512 sum[24], last[4], none[4];
	int64_t k = c->k;

	UNROLL(4)
	for (int b = 0; b < np; b++)
		UNROLL(8)
		for (int a = 0; a < nx; a++)
			sum[b * nx + a] = c->k ? _mm512_loadu_ps(out + a * GROUP + b * L) : _mm512_setzero_ps();
	for (; k + each <= c->end; k += each, x += 4 * each, w += 4 * L)
		add_columns(sum, w, c->panel_bytes, x, c->p->x_stride, np, nx, fmt);
	if (k < c->end) {
		UNROLL(4)
		for (int b = 0; b < np; b++)
			two(&last[b], &none[b], w + b * c->panel_bytes, fmt);
		add_column(sum, last, x, c->p->x_stride, np, nx);
	}
	UNROLL(4)
	for (int b = 0; b < np; b++)
		UNROLL(8)
		for (int a = 0; a < nx; a++)
			_mm512_storeu_ps(out + a * GROUP + b * L, sum[b * nx + a]);
}

/* All rows of x. Halves take registers for two columns. */
INLINE void all_rows(const struct piece *c, const int np, const enum fmt fmt)
{
	const int64_t n = c->p->n_x;
	int64_t i = 0;

	for (; np == 4 && fmt == FMT_F32 && i + 6 <= n; i += 6)
		tile_float(c, i, np, 6, fmt);
	for (; np < 4 && i + 8 <= n; i += 8)
		tile_float(c, i, np, 8, fmt);
	for (; i + 4 <= n; i += 4)
		tile_float(c, i, np, 4, fmt);
	for (; i + 2 <= n; i += 2)
		tile_float(c, i, np, 2, fmt);
	if (i < n)
		tile_float(c, i, np, 1, fmt);
}

/* n columns of a panel of halves as one of F32; an odd last one brings its neighbour of zeros. */
INLINE void widen(char *dst, const char *w, int64_t n, const enum fmt fmt)
{
	for (int64_t i = 0; i < n; i += 2, dst += 8 * L, w += 4 * L) {
		__m512 low, high;

		two(&low, &high, w, fmt);
		_mm512_storeu_ps(dst, low);
		_mm512_storeu_ps(dst + 4 * L, high);
	}
}

/* np panels from panel j on. With many rows of x, so many columns at a time that they stay in the
 * first-level cache; halves are widened once. */
INLINE void some(const struct product *p, int64_t j, const int np, const enum fmt fmt)
{
	const char *w = p->w + j * p->panel_bytes;
	struct piece c = { p, w, p->panel_bytes, p->out + j * L, 0, p->cols };
	/* an even number, and np of them have room in scratch */
	const int64_t room = 2 * whole_blocks(p->cols) / np, most = room < CHUNK ? room : CHUNK;

	if (p->n_x < 8) {
		all_rows(&c, np, fmt);
		return;
	}
	for (; c.k < p->cols; c.k = c.end) {
		c.end = p->cols - c.k < most ? p->cols : c.k + most;
		c.w = w + c.k * (fmt == FMT_F32 ? 4 : 2) * L;
		if (fmt != FMT_F32) {
			c.panel_bytes = most * 4 * L;
			for (int b = 0; b < np; b++)
				widen(p->scratch + b * c.panel_bytes, c.w + b * p->panel_bytes, c.end - c.k, fmt);
			c.w = p->scratch;
		}
		all_rows(&c, np, FMT_F32);
	}
}

INLINE void mul_floats(const struct product *p, const enum fmt fmt)
{
	int64_t j = 0;

	for (; j + 4 <= p->n_w; j += 4)
		some(p, j, 4, fmt);
	if (j + 2 <= p->n_w) {
		some(p, j, 2, fmt);
		j += 2;
	}
	if (j < p->n_w)
		some(p, j, 1, fmt);
}

static void mul_f32(const struct product *p)
{
	mul_floats(p, FMT_F32);
}

static void mul_f16(const struct product *p)
{
	mul_floats(p, FMT_F16);
}

static void mul_bf16(const struct product *p)
{
	mul_floats(p, FMT_BF16);
}

void isa_avx512_float(struct isa *isa)
{
	isa->mul[ACT_F32][FMT_F32] = mul_f32;
	isa->mul[ACT_F32][FMT_F16] = mul_f16;
	isa->mul[ACT_F32][FMT_BF16] = mul_bf16;
}
