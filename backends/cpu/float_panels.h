/* SPDX-License-Identifier: MIT */
/* float_panels.h - products with float weights (layout: "panels" in cpu.h), for the file that has
 * the registers. It defines
 *
 *	L                     lanes, and vec, the type of L floats
 *	MOST_P, MOST_X        panels and rows of x at a time at most
 *	FEW, CHUNK            below FEW rows of x halves are widened where they are multiplied; else
 *	                      CHUNK columns at a time, so that they stay in the first-level cache
 *	load, store, zero, all, add_product
 *	two                   the first two columns of a panel; of F32 one
 *	ahead                 asks for what will be needed
 *	all_rows              declared here: all rows of x, by float_tile() with constants
 *	mul_floats            declared here: all panels, by some() with constants
 *
 * and includes this between its registers and those two. */
#ifndef NVLLM_CPU_FLOAT_PANELS_H
#define NVLLM_CPU_FLOAT_PANELS_H

#include "cpu.h"

/* A piece of a product: columns [k, end) of np panels times rows of x. Sums of the columns before
 * are in out, where k > 0. */
struct piece {
	const struct product *p;
	const char *w;       /* column k of the first panel */
	int64_t panel_bytes; /* from there to that of the next */
	float *out;          /* what row 0 of x gives with them */
	int64_t k, end;
};

INLINE void all_rows(const struct piece *c, const int np, const enum fmt fmt);
INLINE void mul_floats(const struct product *p, const enum fmt fmt);

/* One column of np panels times nx rows of x. */
INLINE void add_column(vec *sum, const vec *w, const char *x, int64_t stride, const int np, const int nx)
{
	UNROLL(8)
	for (int a = 0; a < nx; a++) {
		const vec v = all((const float *)(x + a * stride));

		UNROLL(8)
		for (int b = 0; b < np; b++)
			sum[b * nx + a] = add_product(sum[b * nx + a], w[b], v);
	}
}

/* Two columns; of F32 one. */
INLINE void add_columns(vec *sum, const char *w, int64_t panel_bytes, const char *x, int64_t stride,
	const int np, const int nx, const enum fmt fmt)
{
	vec low[MOST_P], high[MOST_P];

	UNROLL(8)
	for (int b = 0; b < np; b++) {
		if (nx == 1)
			ahead(w + b * panel_bytes, 4 * L);
		two(&low[b], &high[b], w + b * panel_bytes, fmt);
	}
	add_column(sum, low, x, stride, np, nx);
	if (fmt != FMT_F32)
		add_column(sum, high, x + 4, stride, np, nx);
}

/* nx rows of x from row i on: np, nx and fmt are constants. */
INLINE void float_tile(const struct piece *c, int64_t i, const int np, const int nx, const enum fmt fmt)
{
	const char *x = c->p->x + i * c->p->x_stride + 4 * c->k, *w = c->w;
	const int each = fmt == FMT_F32 ? 1 : 2;
	float *out = c->out + i * GROUP;
	vec sum[MOST_P * MOST_X], last[MOST_P], none[MOST_P]; /* np * nx of them are used */
	int64_t k = c->k;

	UNROLL(8)
	for (int b = 0; b < np; b++)
		UNROLL(8)
		for (int a = 0; a < nx; a++)
			sum[b * nx + a] = c->k ? load(out + a * GROUP + b * L) : zero();
	for (; k + each <= c->end; k += each, x += 4 * each, w += 4 * L)
		add_columns(sum, w, c->panel_bytes, x, c->p->x_stride, np, nx, fmt);
	if (k < c->end) {
		UNROLL(8)
		for (int b = 0; b < np; b++)
			two(&last[b], &none[b], w + b * c->panel_bytes, fmt);
		add_column(sum, last, x, c->p->x_stride, np, nx);
	}
	UNROLL(8)
	for (int b = 0; b < np; b++)
		UNROLL(8)
		for (int a = 0; a < nx; a++)
			store(out + a * GROUP + b * L, sum[b * nx + a]);
}

/* n columns of a panel of halves as one of F32; an odd last one brings its neighbour of zeros. */
INLINE void widen(float *dst, const char *w, int64_t n, const enum fmt fmt)
{
	for (int64_t i = 0; i < n; i += 2, dst += 2 * L, w += 4 * L) {
		vec low, high;

		two(&low, &high, w, fmt);
		store(dst, low);
		store(dst + L, high);
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

	if (p->n_x < FEW) {
		all_rows(&c, np, fmt);
		return;
	}
	for (; c.k < p->cols; c.k = c.end) {
		c.end = p->cols - c.k < most ? p->cols : c.k + most;
		c.w = w + c.k * (fmt == FMT_F32 ? 4 : 2) * L;
		if (fmt != FMT_F32) {
			c.panel_bytes = most * 4 * L;
			for (int b = 0; b < np; b++)
				widen((float *)(p->scratch + b * c.panel_bytes), c.w + b * p->panel_bytes, c.end - c.k,
					fmt);
			c.w = p->scratch;
		}
		all_rows(&c, np, FMT_F32);
	}
}

#define PRODUCT(form, act) \
	static void mul_##form##_##act(const struct product *p) \
	{ \
		mul_floats(p, FMT_##form); \
	}
FLOATS(PRODUCT, F32)
#undef PRODUCT

INLINE void set_floats(struct isa *isa)
{
	FLOATS(TO_TABLE, F32)
}

#endif
