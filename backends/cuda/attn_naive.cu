/* SPDX-License-Identifier: MIT */
/* The kernels of the plain CUDA attention: the textbook's formula, a block for each row and head,
 * which other backends are compared with. Two passes over the keys, the first for the greatest score, the
 * second for the sums; a score is computed twice rather than kept, so no length is too long.
 *
 * Every sum is one chain of additions in f32, over dimensions or positions, upwards: a row's bits
 * hang on its own sequence alone. */
#include "ptx.cuh"
#include "attn_naive.h"

#define THREADS 128 /* and keys whose weights are held at once */

template <class A, class K> __global__ void naive_put_kernel(struct naive_job j)
{
	int64_t slot, n = (int64_t)j.n_kv * j.dim;
	const A *k = (const A *)((const char *)j.k + blockIdx.x * j.k_stride);
	const A *v = (const A *)((const char *)j.v + blockIdx.x * j.v_stride);
	K *to;

	griddep_wait();
	slot = j.slots[blockIdx.x];
	if (slot < 0)
		return;
	to = (K *)j.pages + slot * 2 * n;
	for (int64_t i = threadIdx.x; i < n; i += THREADS) {
		to[i] = from_f32<K>(to_f32(k[i]));
		to[n + i] = from_f32<K>(to_f32(v[i]));
	}
}

/* The sequence of a row, -1 = nobody's: the last that starts at or before it. */
DEV int seq_of(const struct naive_job *j, int row)
{
	int lo = 0, hi = j->n_seqs;

	while (lo < hi) { /* q_start[lo] <= row < q_start[hi], where these exist */
		int mid = (lo + hi + 1) / 2;

		if (j->q_start[mid] <= row)
			lo = mid;
		else
			hi = mid - 1;
	}
	return lo < j->n_seqs && j->q_start[lo] <= row && j->slots[row] >= 0 ? lo : -1;
}

/* K of a position and KV head; V lies n_kv * dim further. */
template <class K> DEV const K *entry(const struct naive_job *j, int seq, int pos, int kv_head)
{
	int64_t page = j->page_table[(int64_t)seq * j->max_pages + pos / j->page_tokens];
	int64_t slot = page * j->page_tokens + pos % j->page_tokens;

	return (const K *)j->pages + (slot * 2 * j->n_kv + kv_head) * j->dim;
}

template <class K> DEV float score(const struct naive_job *j, const float *q, const K *k)
{
	float s = 0;

	for (int d = 0; d < j->dim; d++)
		s = fmaf(q[d], to_f32(k[d]), s);
	s *= j->scale;
	return j->cap > 0 ? j->cap * tanhf(s / j->cap) : s;
}

DEV float block_max(float x, float *scratch)
{
	x = warp_max(x);
	if (threadIdx.x % 32 == 0)
		scratch[threadIdx.x / 32] = x;
	__syncthreads();
	for (int i = 0; i < THREADS / 32; i++)
		x = fmaxf(x, scratch[i]);
	__syncthreads();
	return x;
}

template <class A, class K> __global__ void naive_attend_kernel(struct naive_job j)
{
	__shared__ float q[NAIVE_MAX_DIM], o[NAIVE_MAX_DIM], p[THREADS];
	int row = blockIdx.x, head = blockIdx.y, kv_head = head / (j.n_heads / j.n_kv);
	int tid = threadIdx.x, seq, first = 0, last = -1;
	const A *x = (const A *)((const char *)j.q + row * j.q_stride) + head * j.dim;
	A *y = (A *)((char *)j.y + row * j.y_stride) + head * j.dim;
	float max = -INFINITY, sum = 0;

	griddep_wait();
	seq = seq_of(&j, row);
	if (seq >= 0)
		last = j.positions[row];
	if (j.window > 0 && last >= j.window)
		first = last - j.window + 1;
	for (int d = tid; d < j.dim; d += THREADS) {
		q[d] = to_f32(x[d]);
		o[d] = 0;
	}
	__syncthreads();
	for (int t = first + tid; t <= last; t += THREADS)
		max = fmaxf(max, score(&j, q, entry<K>(&j, seq, t, kv_head)));
	max = block_max(max, p);
	for (int from = first; from <= last; from += THREADS) {
		int n = min(THREADS, last + 1 - from);

		if (tid < n)
			p[tid] = expf(score(&j, q, entry<K>(&j, seq, from + tid, kv_head)) - max);
		__syncthreads();
		for (int t = 0; t < n; t++)
			sum += p[t];
		for (int t = 0; t < n; t++) {
			const K *v = entry<K>(&j, seq, from + t, kv_head) + j.n_kv * j.dim;

			for (int d = tid; d < j.dim; d += THREADS)
				o[d] = fmaf(p[t], to_f32(v[d]), o[d]);
		}
		__syncthreads();
	}
	for (int d = tid; d < j.dim; d += THREADS)
		y[d] = from_f32<A>(last >= first ? o[d] / sum : 0.f);
}

template <class A, class K> static cudaError_t put(nvllm_stream s, const struct naive_job *j)
{
	return launch(naive_put_kernel<A, K>, dim3(j->n_tokens), dim3(THREADS), 0, s, *j);
}

template <class A, class K> static cudaError_t attend(nvllm_stream s, const struct naive_job *j)
{
	return launch(naive_attend_kernel<A, K>, dim3(j->n_tokens, j->n_heads), dim3(THREADS), 0, s, *j);
}

#define BY_TYPE(f, act, kv, ...) \
	((act) == NVLLM_F32 ? \
		((kv) == NVLLM_F32 ? f<float, float>(__VA_ARGS__) : \
		 (kv) == NVLLM_F16 ? f<float, f16>(__VA_ARGS__) : f<float, bf16>(__VA_ARGS__)) : \
		((kv) == NVLLM_F32 ? f<bf16, float>(__VA_ARGS__) : \
		 (kv) == NVLLM_F16 ? f<bf16, f16>(__VA_ARGS__) : f<bf16, bf16>(__VA_ARGS__)))

extern "C" int naive_put(nvllm_stream s, const struct naive_job *j, int32_t act, int32_t kv)
{
	return (int)BY_TYPE(put, act, kv, s, j);
}

extern "C" int naive_attend(nvllm_stream s, const struct naive_job *j, int32_t act, int32_t kv)
{
	return (int)BY_TYPE(attend, act, kv, s, j);
}
