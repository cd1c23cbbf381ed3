/* SPDX-License-Identifier: MIT */
/* What the files of the mixture of experts share. For T rows and n choices each, R = T * n; a choice is
 * t * n + k, its place is where it lies among the R once sorted by expert. Rows of one expert
 * are worked on in tiles of neighbouring places. */
#ifndef NVLLM_CUDA_MOE_CUH
#define NVLLM_CUDA_MOE_CUH

#include "vec.cuh"

#define SMALL 8 /* rows up to which a step reads weights row by row; rows of a tile there */

/* y = x wT of each tile's rows with its expert's plane; or with gate's rows and up's below them,
 * y = act(x gateT) * (x upT). */
struct product {
	struct view x, y, w;
	int64_t plane_stride;
	/* [n_tiles] expert << 16 | (first place % most) << 8 | rows; -1 = nothing to do. NULL: all rows of x in
	 * tiles one after the other, plane 0. */
	const int32_t *tiles;
	const int32_t *source;     /* [R] the choice that lies at a place */
	int by_place;              /* tile t begins at place t */
	int n_rows;                /* of x, where there are no tiles */
	int cols, out;             /* columns of x, and of y */
	int per;                   /* a place's row of x is that of its choice / per; 0: x lies by place */
	int act;                   /* enum nvllm_act; -1: a plain product */
	int vec;                   /* rows of x start at multiples of 16 bytes */
};

struct tile {
	int first, n, expert; /* n 0: nothing to do */
};

/* Tile t, of up to `most` rows. Where tiles do not begin at the place of their number, the tiles of
 * expert e, whose first place is f, are those from f / most + e on: there are never more of them
 * than that leaves room for, so that nobody has to count tiles before. */
DEV struct tile tile_of(const struct product *p, int t, int most)
{
	struct tile a = { t * most, 0, 0 };

	if (!p->tiles) {
		a.n = min(most, p->n_rows - a.first);
	} else {
		const int32_t v = p->tiles[t];

		if (v >= 0) {
			a.expert = v >> 16, a.n = v & 255;
			a.first = p->by_place ? t : (t - a.expert) * most + (v >> 8 & 255);
		}
	}
	return a;
}

DEV int64_t x_row(const struct product *p, int place)
{
	return p->per ? p->source[place] / p->per : place;
}

/* moe_dot.cu: sums of products in f32, a warp for a few rows of the weight. Tiles of up to SMALL rows;
 * y f32. Weights of any type that has a kernel, x of f32 or bf16. */
cudaError_t moe_dot(nvllm_stream, struct product, int32_t w_dtype, int32_t x_dtype, int n_tiles);
/* The same without tiles, for few rows of weights: a router. */
cudaError_t moe_route(nvllm_stream, struct product, int32_t w_dtype, int32_t x_dtype);

/* The second product of few rows, with the sum over a row's choices: y [n_rows][out] gets for each k in
 * order weight[k] times what choice k's expert made of x's row at place[k]. x f32. */
struct last_product {
	struct product p;      /* n_rows: T */
	const float *weight;   /* [R] */
	const int32_t *place;  /* [R] */
	int n_top, n_places;
};
int moe_last_fits(int64_t n_places);
cudaError_t moe_last(nvllm_stream, struct last_product, int32_t w_dtype);

/* moe_mma.cu: on the matrix units, tiles of up to `most` (16, 64 or 128) rows. x bf16, weights bf16 or blocks;
 * y f32 or, with an activation, bf16. */
cudaError_t moe_mma(nvllm_stream, struct product, int32_t w_dtype, int n_tiles, int most);

#endif
