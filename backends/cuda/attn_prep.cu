/* SPDX-License-Identifier: MIT */
/* From the raw q, k and v of a step to what attention reads, in one launch: bias, norm of each head,
 * rope, K and V into their pages in the cache's type, and q, times the scale of the scores, into the
 * workspace in the type of the products. Formulas: struct nvllm_norm and struct nvllm_rotary, ops.h.
 *
 * A head is done by the fewest lanes, a power of two, that hold 8 elements each, and a row's
 * angles are computed once a block. Each head is summed in one order, whatever the grid. */
#include "attn.h"
#include "kv.cuh"
#include "ptx.cuh"

#define THREADS 256
#define PER_LANE 8
#define PAD(i) ((i) + ((i) >> 3)) /* 8 neighbours to a lane without bank conflicts */

struct prep_vec { const char *x; const float *bias, *norm; int64_t stride; float eps, offset; };

struct prep_job {
	int n_heads, n_kv, dim;
	int units;             /* heads to do of each row: q's, and k's and v's where the layer keeps its own */
	int lanes;             /* of a head */
	int dims, interleaved; /* rope */
	int row_bytes, y_bytes; /* of one head's K; of an element of y */
	float q_scale, mscale;
	const float *inv_freq;
	const int32_t *positions, *slots;
	struct prep_vec in[3]; /* q, k, v */
	char *q, *y, *pages;
	int64_t y_stride, page_bytes;
};

template <class T> DEV void get8(float f[8], const char *p);
template <> SPEC void get8<bf16>(float f[8], const char *p)
{
	uint4 v = *(const uint4 *)p;

	f[0] = lo2<bf16>(v.x), f[1] = hi2<bf16>(v.x), f[2] = lo2<bf16>(v.y), f[3] = hi2<bf16>(v.y);
	f[4] = lo2<bf16>(v.z), f[5] = hi2<bf16>(v.z), f[6] = lo2<bf16>(v.w), f[7] = hi2<bf16>(v.w);
}
template <> SPEC void get8<float>(float f[8], const char *p)
{
	float4 a = *(const float4 *)p, b = *(const float4 *)(p + 16);

	f[0] = a.x, f[1] = a.y, f[2] = a.z, f[3] = a.w, f[4] = b.x, f[5] = b.y, f[6] = b.z, f[7] = b.w;
}

/* What q is kept in, by the type of the cache. */
template <class T> struct q_of { typedef T type; };
template <> struct q_of<e4m3> { typedef f16 type; };

template <class T> DEV uint4 pack8(const float f[8])
{
	return make_uint4(pack2<T>(f[0], f[1]), pack2<T>(f[2], f[3]), pack2<T>(f[4], f[5]), pack2<T>(f[6], f[7]));
}

/* 8 elements to row memory. */
template <class T> DEV void put8(char *p, const float f[8]) { *(uint4 *)p = pack8<T>(f); }
template <> SPEC void put8<float>(char *p, const float f[8])
{
	*(float4 *)p = make_float4(f[0], f[1], f[2], f[3]);
	*(float4 *)(p + 16) = make_float4(f[4], f[5], f[6], f[7]);
}

/* Elements i .. i + 7 of token t to a head's block of a page. */
template <class T> DEV void put_kv(char *head, int row_bytes, int t, int i, const float f[8])
{
	*(uint4 *)(head + kv_at(row_bytes, t, 2 * i)) = pack8<T>(f);
}
template <> SPEC void put_kv<float>(char *head, int row_bytes, int t, int i, const float f[8])
{
	*(float4 *)(head + kv_at(row_bytes, t, 4 * i)) = make_float4(f[0], f[1], f[2], f[3]);
	*(float4 *)(head + kv_at(row_bytes, t, 4 * i + 16)) = make_float4(f[4], f[5], f[6], f[7]);
}
template <> SPEC void put_kv<e4m3>(char *head, int row_bytes, int t, int i, const float f[8])
{
	*(uint2 *)(head + kv_at(row_bytes, t, i)) = make_uint2(pack4_e4m3(f[0], f[1], f[2], f[3]),
		pack4_e4m3(f[4], f[5], f[6], f[7]));
}

/* Elements i .. i + 7 of a head of row `row`, with the bias. */
template <class T> DEV void load(float f[8], const struct prep_vec *v, int row, int at)
{
	float b[8];

	get8<T>(f, v->x + row * v->stride + at * (int64_t)sizeof(T));
	if (!v->bias)
		return;
	get8<float>(b, (const char *)(v->bias + at));
	for (int e = 0; e < 8; e++)
		f[e] += b[e];
}

DEV void norm(float f[8], const struct prep_vec *v, int i, int dim, int lanes, bool on)
{
	float w[8], ss = 0, r;

	for (int e = 0; e < 8; e++)
		ss = on ? fmaf(f[e], f[e], ss) : 0;
	for (int o = lanes / 2; o; o >>= 1)
		ss += __shfl_xor_sync(0xffffffffu, ss, o);
	if (!on || !v->norm)
		return;
	r = 1.f / sqrtf(ss / dim + v->eps);
	get8<float>(w, (const char *)(v->norm + i));
	for (int e = 0; e < 8; e++)
		f[e] = f[e] * r * (v->offset + w[e]);
}

/* The angle's cosine and sine of each pair, in shared memory: [PAD(dims / 2)] each. */
DEV void angles(const struct prep_job *j, float *c, float *s, int position)
{
	for (int i = threadIdx.x; i < j->dims / 2; i += blockDim.x) {
		float sn, cs;

		sincosf((float)position * j->inv_freq[i], &sn, &cs);
		c[PAD(i)] = cs * j->mscale;
		s[PAD(i)] = sn * j->mscale;
	}
}

/* x: the head's normed elements, padded, in shared memory. */
DEV void rope(const struct prep_job *j, float f[8], int at, const float *x, const float *c, const float *s)
{
	int half = j->dims / 2;

	for (int e = 0; e < 8; e++) {
		int i = at + e, other, k;
		bool second;

		if (i >= j->dims)
			return;
		second = j->interleaved ? i & 1 : i >= half;
		k = j->interleaved ? i >> 1 : second ? i - half : i;
		other = j->interleaved ? i ^ 1 : second ? i - half : i + half;
		f[e] = f[e] * c[PAD(k)] + x[PAD(other)] * (second ? s[PAD(k)] : -s[PAD(k)]);
	}
}

template <class T> DEV void keep(const struct prep_job *j, const float f[8], int part, int head, int slot, int i)
{
	char *page = j->pages + (slot / PAGE) * j->page_bytes + (part == 2 ? j->page_bytes / 2 : 0);

	put_kv<T>(page + head * kv_head_bytes(j->row_bytes), j->row_bytes, slot % PAGE, i, f);
}

/* A row that is nobody's: its y is zero. */
DEV void nothing(const struct prep_job *j, int row, int at)
{
	char *p = j->y + row * j->y_stride + at * (int64_t)j->y_bytes;

	for (int b = 0; b < 8 * j->y_bytes; b += 16)
		*(uint4 *)(p + b) = make_uint4(0, 0, 0, 0);
}

template <class X, class K>
static __global__ void __launch_bounds__(THREADS) prep_kernel(const struct prep_job j)
{
	__shared__ float cs[PAD(ATTN_MAX_DIM / 2)], sn[PAD(ATTN_MAX_DIM / 2)], heads[THREADS * (PER_LANE + 1)];
	typedef typename q_of<K>::type Q;
	int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, per = 32 / j.lanes, row = blockIdx.x;
	int i = (lane & (j.lanes - 1)) * PER_LANE, slot, step = gridDim.y * (THREADS / 32) * per;
	float *x = heads + (warp * 32 + (lane & ~(j.lanes - 1))) * (PER_LANE + 1), f[8];
	bool ready = j.dims == 0;

	griddep_wait();
	griddep_launch();
	slot = j.slots[row];
	/* every warp has a first turn, even without work */
	for (int u0 = (blockIdx.y * (THREADS / 32) + warp) * per; u0 < j.units || !ready; u0 += step) {
		int u = u0 + lane / j.lanes, part = u < j.n_heads ? 0 : u < j.n_heads + j.n_kv ? 1 : 2;
		int head = part == 0 ? u : u - j.n_heads - (part == 2 ? j.n_kv : 0);
		bool on = u < j.units && i < j.dim;

		if (on)
			load<X>(f, &j.in[part], row, head * j.dim + i);
		if (!ready) { /* while the first load is on its way */
			angles(&j, cs, sn, j.positions[row]);
			__syncthreads();
			ready = true;
		}
		norm(f, &j.in[part], i, j.dim, j.lanes, on);
		__syncwarp();
		if (on)
			for (int e = 0; e < 8; e++)
				x[PAD(i) + e] = f[e];
		__syncwarp();
		if (!on)
			continue;
		if (part < 2)
			rope(&j, f, i, x, cs, sn);
		if (part == 0) {
			for (int e = 0; e < 8; e++)
				f[e] *= j.q_scale;
			put8<Q>(j.q + ((int64_t)row * j.n_heads * j.dim + head * j.dim + i) * (int64_t)sizeof(Q), f);
			if (slot < 0)
				nothing(&j, row, head * j.dim + i);
		} else if (slot >= 0) {
			keep<K>(&j, f, part, head, slot, i);
		}
	}
}

template <class X> static int prep(const struct prep_job *j, int32_t kv, dim3 grid, nvllm_stream stream)
{
	switch (kv) {
	case NVLLM_F32: return launch(prep_kernel<X, float>, grid, dim3(THREADS), 0, stream, *j);
	case NVLLM_F16: return launch(prep_kernel<X, f16>, grid, dim3(THREADS), 0, stream, *j);
	case NVLLM_BF16: return launch(prep_kernel<X, bf16>, grid, dim3(THREADS), 0, stream, *j);
	default: return launch(prep_kernel<X, e4m3>, grid, dim3(THREADS), 0, stream, *j);
	}
}

static struct prep_vec vec(struct nvllm_tensor x, const float *bias, const struct nvllm_norm *n)
{
	struct prep_vec v = {};

	v.x = (const char *)x.data;
	v.stride = x.stride;
	v.bias = bias;
	if (n) {
		v.norm = (const float *)n->w.data;
		v.eps = (float)n->eps;
		v.offset = (float)n->offset;
	}
	return v;
}

extern "C" int attn_prep(const struct nvllm_attention *a, nvllm_stream stream, int32_t layer,
	const struct nvllm_batch *b, const struct attn_rows *in, struct nvllm_tensor y)
{
	const struct attn_layer *l = &a->layers[layer];
	struct prep_job j = {};
	int per_pass, passes, ny;

	if (b->n_tokens < 1)
		return cudaSuccess;
	j.n_heads = l->n_heads, j.n_kv = l->n_kv, j.dim = l->dim;
	j.units = l->n_heads + (l->source == layer ? 2 * l->n_kv : 0);
	for (j.lanes = 1; j.lanes * PER_LANE < l->dim;)
		j.lanes *= 2;
	if (in->rotary) {
		j.dims = in->rotary->dims, j.interleaved = in->rotary->interleaved;
		j.mscale = (float)in->rotary->mscale;
		j.inv_freq = (const float *)in->rotary->inv_freq.data;
	}
	j.row_bytes = l->row_bytes, j.page_bytes = l->page_bytes;
	j.y_bytes = y.dtype == NVLLM_F32 ? 4 : 2;
	j.q_scale = l->q_scale;
	j.positions = b->positions, j.slots = b->slots;
	j.in[0] = vec(in->q, in->q_bias, in->q_norm);
	j.in[1] = vec(in->k, in->k_bias, in->k_norm);
	j.in[2] = vec(in->v, in->v_bias, NULL);
	j.q = (char *)a->q, j.y = (char *)y.data, j.y_stride = y.stride;
	j.pages = (char *)a->kv[l->source];
	/* few rows: spread a row's heads over more blocks, so that a warp has one turn */
	per_pass = THREADS / j.lanes;
	passes = (j.units + per_pass - 1) / per_pass;
	ny = 4 * a->n_sms / b->n_tokens;
	ny = ny < 1 ? 1 : ny > passes ? passes : ny;
	return in->q.dtype == NVLLM_F32 ? prep<float>(&j, a->kv_dtype, dim3(b->n_tokens, ny), stream) :
		prep<bf16>(&j, a->kv_dtype, dim3(b->n_tokens, ny), stream);
}
