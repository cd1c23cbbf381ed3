/* SPDX-License-Identifier: MIT */
/* Attention over the paged cache on the CUDA cores, in f32 from end to end: what runs where exactness is
 * asked for (activations = f32), a prompt's rows and single rows alike.
 *
 * One warp does a row and a query head. It walks the pages of the row's sequence, of which each lane
 * holds 16 bytes (or twice 16) of one token's K or V in turn: lanes are LANES pieces of a token's row by
 * 32 / LANES tokens, and each of these token groups keeps its own maximum, sum and weighted V, merged
 * at the end (online softmax: Milakov and Gimelshein 2018). Which group a key belongs to follows
 * from its position alone, and so do the order of all sums and the bits of a row. */
#include "attn.h"
#include "kv.cuh"
#include "ptx.cuh"

#define WARPS 4 /* of a block */

struct plain_job {
	int n_seqs, max_pages, n_heads, group, dim, window;
	float cap;             /* times log2(e); 0 = none */
	int64_t page_bytes;
	const int32_t *q_start, *kv_len, *page_table;
	const float *q;        /* [T][n_heads * dim], times scale * log2(e), or scale / cap with a cap */
	const char *pages;
	char *y;
	int64_t y_stride;
	int y_bf16;
};

/* A row's sequence: the last that starts at or before it. Returns n_seqs for nobody's. */
DEV int seq_of(const struct plain_job *j, int row)
{
	int lo = 0, hi = j->n_seqs;

	while (lo < hi) {
		int mid = (lo + hi + 1) / 2;

		if (j->q_start[mid] <= row)
			lo = mid;
		else
			hi = mid - 1;
	}
	return lo;
}

DEV float dot4(float4 a, float4 b, float s)
{
	return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, s))));
}

DEV float4 fma4(float p, float4 v, float4 o)
{
	return make_float4(fmaf(p, v.x, o.x), fmaf(p, v.y, o.y), fmaf(p, v.z, o.z), fmaf(p, v.w, o.w));
}

/* Sums over the token groups of a warp: x of every lane times its own weight. */
template <int LANES> DEV float merge(float x, float weight)
{
	x *= weight;
	for (int o = LANES; o < 32; o <<= 1)
		x += __shfl_xor_sync(0xffffffffu, x, o);
	return x;
}

/* U tokens of a page for this lane's group: at, at + 32 / LANES, .. */
template <int LANES, int CHUNKS, int U> DEV void some_keys(const struct plain_job *j, const char *k,
	const char *v, int at, int first, int last, const float4 q[CHUNKS], float4 o[CHUNKS], float *max, float *sum)
{
	int piece = threadIdx.x % LANES, row_bytes = j->dim * 4;
	float s[U], top = *max, base, fade;
	float4 x[U][CHUNKS];

#pragma unroll
	for (int u = 0; u < U; u++) {
		int t = at + u * (32 / LANES);

#pragma unroll
		for (int c = 0; c < CHUNKS; c++) {
			int b = (piece + c * LANES) * 16;

			x[u][c] = make_float4(0, 0, 0, 0);
			if (t >= first && t <= last && b < row_bytes)
				x[u][c] = *(const float4 *)(k + kv_at(row_bytes, t, b));
		}
	}
#pragma unroll
	for (int u = 0; u < U; u++) {
		int t = at + u * (32 / LANES);

		s[u] = 0;
#pragma unroll
		for (int c = 0; c < CHUNKS; c++)
			s[u] = dot4(q[c], x[u][c], s[u]);
		for (int i = LANES / 2; i; i >>= 1)
			s[u] += __shfl_xor_sync(0xffffffffu, s[u], i);
		if (j->cap > 0)
			s[u] = j->cap * tanhf(s[u]);
		if (t < first || t > last)
			s[u] = -INFINITY;
		top = fmaxf(top, s[u]);
	}
	base = top > -INFINITY ? top : 0; /* nothing seen so far: all weights are 0 */
	fade = exp2f(*max - base);
	*max = top;
	*sum *= fade;
#pragma unroll
	for (int u = 0; u < U; u++) {
		int t = at + u * (32 / LANES);

#pragma unroll
		for (int c = 0; c < CHUNKS; c++) {
			int b = (piece + c * LANES) * 16;

			x[u][c] = make_float4(0, 0, 0, 0); /* what is not seen may be NaN */
			if (t >= first && t <= last && b < row_bytes)
				x[u][c] = *(const float4 *)(v + kv_at(row_bytes, t, b));
		}
	}
#pragma unroll
	for (int c = 0; c < CHUNKS; c++)
		o[c] = make_float4(o[c].x * fade, o[c].y * fade, o[c].z * fade, o[c].w * fade);
#pragma unroll
	for (int u = 0; u < U; u++) {
		float p = exp2f(s[u] - base);

		*sum += p;
#pragma unroll
		for (int c = 0; c < CHUNKS; c++)
			o[c] = fma4(p, x[u][c], o[c]);
	}
}

DEV void store(const struct plain_job *j, char *y, int d, float x)
{
	if (j->y_bf16)
		((bf16 *)y)[d] = from_f32<bf16>(x);
	else
		((float *)y)[d] = x;
}

template <int LANES, int CHUNKS> __global__ void __launch_bounds__(32 * WARPS, 1) plain_kernel(struct plain_job j)
{
	const int U = LANES / 2 < 8 / CHUNKS ? LANES / 2 : 8 / CHUNKS; /* of the LANES / 2 tokens of a group */
	int row = blockIdx.x, head = blockIdx.y * WARPS + threadIdx.x / 32, seq;
	int piece = threadIdx.x % LANES, mine = threadIdx.x % 32 / LANES;
	int last = -1, first = 0, row_bytes = j.dim * 4;
	int64_t block = kv_head_bytes(row_bytes);
	float4 q[CHUNKS], o[CHUNKS];
	float max = -INFINITY, sum = 0, top, weight, all;

	griddep_wait();
	if (head >= j.n_heads)
		return;
	seq = seq_of(&j, row);
	if (seq < j.n_seqs)
		last = j.kv_len[seq] - j.q_start[seq + 1] + row;
	if (j.window > 0 && last >= j.window)
		first = last - j.window + 1;
#pragma unroll
	for (int c = 0; c < CHUNKS; c++) {
		int d = (piece + c * LANES) * 4;

		q[c] = o[c] = make_float4(0, 0, 0, 0);
		if (d < j.dim)
			q[c] = *(const float4 *)(j.q + ((int64_t)row * j.n_heads + head) * j.dim + d);
	}
	for (int page = first / PAGE; page * PAGE <= last; page++) {
		const char *k = j.pages + j.page_table[(int64_t)seq * j.max_pages + page] * j.page_bytes +
			head / j.group * block;

		for (int i = 0; i < LANES / 2; i += U)
			some_keys<LANES, CHUNKS, U>(&j, k, k + j.page_bytes / 2, i * (32 / LANES) + mine,
				first - page * PAGE, last - page * PAGE, q, o, &max, &sum);
	}
	top = max;
	for (int i = LANES; i < 32; i <<= 1)
		top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, i));
	weight = max > -INFINITY ? exp2f(max - top) : 0;
	all = merge<LANES>(sum, weight);
	weight = all > 0 ? weight / all : 0;
#pragma unroll
	for (int c = 0; c < CHUNKS; c++) {
		int d = (piece + c * LANES) * 4;
		char *y = j.y + row * j.y_stride + (int64_t)head * j.dim * (j.y_bf16 ? 2 : 4);
		float4 r = make_float4(merge<LANES>(o[c].x, weight), merge<LANES>(o[c].y, weight),
			merge<LANES>(o[c].z, weight), merge<LANES>(o[c].w, weight));

		if (mine || d >= j.dim)
			continue;
		store(&j, y, d, r.x);
		store(&j, y, d + 1, r.y);
		store(&j, y, d + 2, r.z);
		store(&j, y, d + 3, r.w);
	}
}

/* ---- the host's side ---- */

static void (*kernel_for(int dim))(struct plain_job)
{
	return dim <= 16 ? plain_kernel<4, 1> : dim <= 32 ? plain_kernel<8, 1> : dim <= 64 ? plain_kernel<16, 1> :
		dim <= 128 ? plain_kernel<32, 1> : plain_kernel<32, 2>;
}

extern "C" int attn_plain_setup(const struct nvllm_attention *a)
{
	for (int i = 0; i < a->shape->n_layers; i++)
		if (a->layers[i].dim > 256 || a->layers[i].dim % 4 || a->layers[i].n_heads > 65535)
			return (int)cudaErrorInvalidValue;
	return (int)cudaSuccess;
}

extern "C" int attn_plain(const struct nvllm_attention *a, nvllm_stream stream, int32_t layer,
	const struct nvllm_batch *b, struct nvllm_tensor y)
{
	const struct attn_layer *l = &a->layers[layer];
	struct plain_job j = {};

	if (!l->n_heads || !b->n_tokens)
		return (int)cudaSuccess;
	j.n_seqs = b->n_seqs, j.max_pages = b->max_pages;
	j.n_heads = l->n_heads, j.group = l->group, j.dim = l->dim, j.window = l->window;
	j.cap = l->cap * 1.442695041f;
	j.page_bytes = l->page_bytes;
	j.q_start = b->q_start, j.kv_len = b->kv_len, j.page_table = b->page_table;
	j.q = (const float *)a->q;
	j.pages = (const char *)a->kv[l->source];
	j.y = (char *)y.data, j.y_stride = y.stride, j.y_bf16 = y.dtype == NVLLM_BF16;
	return (int)launch(kernel_for(l->dim), dim3(b->n_tokens, (l->n_heads + WARPS - 1) / WARPS), dim3(32 * WARPS), 0,
		stream, j);
}
