/* SPDX-License-Identifier: MIT */
/* skinny.cuh - what the kernels of few rows share: their arguments, the way x gets into shared memory
 * (normalised, rounded, in panels where K is long), and what becomes of a finished sum. */
#ifndef NVLLM_CUDA_SKINNY_CUH
#define NVLLM_CUDA_SKINNY_CUH

#include "vec.cuh"

static inline int64_t div_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* Shared memory a block may have; one kilobyte of the SM's is the system's. */
static inline int64_t smem_max(const struct nvllm_device *dev)
{
	return 1024 * (int64_t)(dev->cc == 80 || dev->cc == 87 ? 163 : dev->cc < 90 || dev->cc == 120 ? 99 : 227);
}

/* One product, with its plan. A unit is what one warp, or one team of warps, sums at a time. */
struct skinny_args {
	view x, y;
	const char *w, *w_end;   /* nothing at or after w_end is read */
	int64_t w_stride;
	const float *bias;       /* [rows of w], or NULL */
	const float *norm_w, *norm_b; /* NULL: x as it is, no bias */
	float eps, offset;
	int layer;               /* a layer norm */
	int act;                 /* enum nvllm_act: output i from rows i and n + i of w; -1: from row i */
	int m, n, k;             /* rows of x, columns of y, columns of x */
	int x_bf16, x_vec, norm_vec, y_bf16, add, round_x;
	/* the plan */
	int split;               /* warps that share a unit, each a part of its columns: a team */
	int teams;               /* of a block */
	int stages;              /* of a warp's ring */
	int rounds, units;       /* units a team takes between two reductions, and how often */
	int panels, panel;       /* of x: how many, and elements of each, a whole number of chunks */
	int per;                 /* warps that read one row of x */
	unsigned pitch;          /* of x in shared memory, bytes */
	unsigned x_at, part_at, scales_at; /* in dynamic shared memory */
};

/* How x lies in shared memory: as bf16, in the order in which a format's quants come out of their
 * registers; or as f32. Always in fours.
 *   PLAIN  0 1 2 3
 *   EIGHTS 0 2 1 3: bytes 0 and 2 of a register make a pair, so do 1 and 3
 *   HALVES likewise; of 32 elements, four of the first half and four of the second take turns
 *   WHOLE  f32; even fours in the first half of the row, odd ones in the second: threads that take eight
 *          each then read without bank conflicts */
enum skinny_form { X_PLAIN, X_EIGHTS, X_HALVES, X_WHOLE };

template <int form> DEV void put_x(char *row, int quad, int panel, const float v[4])
{
	if (form == X_WHOLE) {
		*(float4 *)(row + (quad % 2 * panel / 2 + quad / 2 * 4) * 4) = make_float4(v[0], v[1], v[2], v[3]);
	} else if (form == X_PLAIN) {
		*(uint2 *)(row + quad * 8) = make_uint2(pack2<bf16>(v[0], v[1]), pack2<bf16>(v[2], v[3]));
	} else {
		if (form == X_HALVES)
			quad = (quad & ~7) + quad % 4 * 2 + quad / 4 % 2;
		*(uint2 *)(row + quad * 8) = make_uint2(pack2<bf16>(v[0], v[2]), pack2<bf16>(v[1], v[3]));
	}
}

/* The same of four bf16 as they are. */
template <int form> DEV void put_x(char *row, int quad, int panel, uint2 v)
{
	if (form == X_PLAIN)
		*(uint2 *)(row + quad * 8) = v;
	else if (form == X_WHOLE)
		*(float4 *)(row + (quad % 2 * panel / 2 + quad / 2 * 4) * 4) =
			make_float4(lo2<bf16>(v.x), hi2<bf16>(v.x), lo2<bf16>(v.y), hi2<bf16>(v.y));
	else
		*(uint2 *)(row + (form == X_HALVES ? (quad & ~7) + quad % 4 * 2 + quad / 4 % 2 : quad) * 8) =
			make_uint2((v.x & 0xffff) | v.y << 16, v.x >> 16 | (v.y & 0xffff0000u));
}

/* Four elements from k on of a row of x; those at and after a.k are 0. */
DEV void get_x(const skinny_args &a, int row, int k, float v[4])
{
	const int n = a.k - k;

	if (a.x_bf16 && a.x_vec)
		load4<true>(v, row_of<const bf16>(a.x, row) + k, n);
	else if (a.x_bf16)
		load4<false>(v, row_of<const bf16>(a.x, row) + k, n);
	else if (a.x_vec)
		load4<true>(v, row_of<const float>(a.x, row) + k, n);
	else
		load4<false>(v, row_of<const float>(a.x, row) + k, n);
}

/* A thread's share of x: its row, its first four, and the distance to its next; and the row's norm. */
struct x_share {
	int row, first, step;
	float mean, scale;
};

DEV struct x_share share_of(const skinny_args &a)
{
	const int warp = threadIdx.x / 32;

	return x_share{ warp / a.per, warp % a.per * 32 + (int)threadIdx.x % 32, a.per * 32, 0.f, 1.f };
}

/* The first fours of a thread stay in registers between the passes of a norm. */
#define X_KEEP 4

DEV void hold_x(const skinny_args &a, const struct x_share *h, float x[X_KEEP][4])
{
	if (a.x_vec && !a.x_bf16) {
#pragma unroll
		for (int i = 0; i < X_KEEP; i++) {
			const int k = (h->first + i * h->step) * 4;

			load4<true>(x[i], row_of<const float>(a.x, h->row) + k, a.k - k);
		}
	} else {
#pragma unroll
		for (int i = 0; i < X_KEEP; i++)
			get_x(a, h->row, (h->first + i * h->step) * 4, x[i]);
	}
}

/* Sum over the warps of a row of x, the same bits in all its threads. */
DEV float row_sum(const skinny_args &a, const struct x_share *h, float s, float *red)
{
	s = warp_sum(s);
	__syncthreads(); /* red may still be read from the last time */
	if (threadIdx.x % 32 == 0)
		red[threadIdx.x / 32] = s;
	__syncthreads();
	s = 0.f;
	for (int i = 0; i < a.per; i++)
		s += red[h->row * a.per + i];
	return s;
}

DEV float sum4(const float v[4], float mean, bool square, int n)
{
	float s = 0.f;

#pragma unroll
	for (int i = 0; i < 4; i++) {
		const float d = v[i] - mean;

		s += i < n ? square ? d * d : d : 0.f;
	}
	return s;
}

DEV float x_sum(const skinny_args &a, const struct x_share *h, const float x[X_KEEP][4], float mean, bool square)
{
	float s = 0.f, v[4];

	if (h->row >= a.m)
		return 0.f;
#pragma unroll
	for (int i = 0; i < X_KEEP; i++)
		s += sum4(x[i], mean, square, a.k - (h->first + i * h->step) * 4);
#pragma unroll 1
	for (int k = (h->first + X_KEEP * h->step) * 4; k < a.k; k += h->step * 4) {
		get_x(a, h->row, k, v);
		s += sum4(v, mean, square, a.k - k);
	}
	return s;
}

/* The formulas of struct nvllm_norm in nvllm/ops.h. All threads call it; red: a float a warp. */
DEV void norm_of_x(const skinny_args &a, struct x_share *h, float x[X_KEEP][4], float *red)
{
	if (h->row < a.m)
		hold_x(a, h, x);
	if (a.layer)
		h->mean = row_sum(a, h, x_sum(a, h, x, 0.f, false), red) / (float)a.k;
	h->scale = 1.f / sqrtf(row_sum(a, h, x_sum(a, h, x, h->mean, true), red) / (float)a.k + a.eps);
}

/* Four elements from k on, normalised, to shared memory; those at and after a.k as 0. */
template <int form> DEV void scale_x(const skinny_args &a, const struct x_share *h, char *to, int k, int from, float v[4])
{
	float w[4];

	if (a.norm_vec)
		load4<true>(w, a.norm_w + k, a.k - k);
	else
		load4<false>(w, a.norm_w + k, a.k - k);
#pragma unroll
	for (int i = 0; i < 4; i++) {
		v[i] = (v[i] - h->mean) * h->scale * (a.offset + w[i]);
		if (a.norm_b && k + i < a.k)
			v[i] += a.norm_b[k + i];
		v[i] = k + i < a.k ? v[i] : 0.f;
		if (form == X_WHOLE && a.round_x)
			v[i] = to_f32(from_f32<bf16>(v[i]));
	}
	put_x<form>(to, (k - from) / 4, a.panel, v);
}

/* Fours of a panel of x from the thread's number `i` on: from x, one at a time. */
template <int form> DEV void plain_panel(const skinny_args &a, const struct x_share *h, char *to, int from, int i)
{
#pragma unroll 1
	for (int q = h->first + i * h->step; q * 4 < a.panel; q += h->step) {
		const int k = from + q * 4;
		float v[4];

		get_x(a, h->row, k, v);
		if (a.norm_w) {
			scale_x<form>(a, h, to, k, from, v);
			continue;
		}
		if (form == X_WHOLE && a.round_x)
#pragma unroll
			for (int c = 0; c < 4; c++)
				v[c] = to_f32(from_f32<bf16>(v[c]));
		put_x<form>(to, q, a.panel, v);
	}
}

/* Elements [from, from + a.panel) of all rows of x to shared memory; zeros after the last. norms: what first_panel()
 * put there. */
template <int form> DEV void panel_of_x(const skinny_args &a, char *xs, int from, const float *norms)
{
	struct x_share share = share_of(a), *h = &share;
	char *const to = xs + h->row * a.pitch;

	if (h->row >= a.m)
		return;
	if (a.norm_w || !a.x_bf16 || !a.x_vec) {
		h->mean = a.norm_w ? norms[2 * h->row] : 0.f, h->scale = a.norm_w ? norms[2 * h->row + 1] : 1.f;
		plain_panel<form>(a, h, to, from, 0);
		return;
	}
#pragma unroll 1
	for (int q0 = h->first; q0 * 4 < a.panel; q0 += 4 * h->step) { /* bf16 as it is: four fours at once */
		uint2 v[4];

#pragma unroll
		for (int i = 0; i < 4; i++) {
			const int k = from + (q0 + i * h->step) * 4;

			v[i] = k < a.k ? *(const uint2 *)(row_of<const bf16>(a.x, h->row) + k) : make_uint2(0, 0);
		}
#pragma unroll
		for (int i = 0; i < 4; i++)
			if ((q0 + i * h->step) * 4 < a.panel)
				put_x<form>(to, q0 + i * h->step, a.panel, v[i]);
	}
}

/* Waits for the kernel before this one; then the first panel of x. red: a float a warp; norms: for each row of x two
 * floats, which are kept for the other panels. */
template <int form> DEV void first_panel(const skinny_args &a, char *xs, float *red, float *norms)
{
	struct x_share h = share_of(a);
	float x[X_KEEP][4];

	if (a.norm_w && (int)threadIdx.x * 32 < a.k)
		prefetch_l2(a.norm_w + threadIdx.x * 32);
	griddep_wait();
	griddep_launch();
	if (!a.norm_w) {
		panel_of_x<form>(a, xs, 0, norms);
		return;
	}
	norm_of_x(a, &h, x, red);
	if (h.row >= a.m)
		return;
	if (h.first == 0)
		norms[2 * h.row] = h.mean, norms[2 * h.row + 1] = h.scale;
#pragma unroll
	for (int i = 0; i < X_KEEP; i++)
		if ((h.first + i * h.step) * 4 < a.panel)
			scale_x<form>(a, &h, xs + h.row * a.pitch, (h.first + i * h.step) * 4, 0, x[i]);
	plain_panel<form>(a, &h, xs + h.row * a.pitch, 0, X_KEEP);
}

DEV float get_y(const skinny_args &a, int row, int col)
{
	return a.y_bf16 ? to_f32(row_of<const bf16>(a.y, row)[col]) : row_of<const float>(a.y, row)[col];
}

/* Output (row, col) from the sum s of w's row col and, with an activation, u of row n + col. old: what y
 * holds there, where a.add says so. */
DEV void put_y(const skinny_args &a, int row, int col, float s, float u, float old)
{
	if (a.bias)
		s += a.bias[col];
	if (a.act >= 0) {
		if (a.bias)
			u += a.bias[a.n + col];
		s = activate(s, a.act) * u;
	}
	if (a.add)
		s += old;
	if (a.y_bf16)
		row_of<bf16>(a.y, row)[col] = from_f32<bf16>(s);
	else
		row_of<float>(a.y, row)[col] = s;
}

/* skinny_plain.cu: the same by plain f32 arithmetic, for every type, address and shape. */
#define PLAIN_WARPS 8
#define PLAIN_THREADS (32 * PLAIN_WARPS)
cudaError_t skinny_plain(nvllm_stream stream, struct skinny_args *a, int32_t dtype, int n_sms, int64_t smem_max);
cudaError_t skinny_plain_open(int64_t smem_max);

/* fp8_tiles.cu */
cudaError_t fp8_tiles_open(int64_t smem);

#endif
