/* SPDX-License-Identifier: MIT */
/* Rows of f32 or bf16 in fours: how simple kernels read and write activations, and how the host
 * chooses a kernel for the types of its tensors. */
#ifndef NVLLM_CUDA_VEC_CUH
#define NVLLM_CUDA_VEC_CUH

#include "cuda.h"
#include "ptx.cuh"

/* A matrix as a kernel sees it. */
struct view {
	char *p;
	int64_t stride; /* bytes */
};

static inline struct view view_of(struct nvllm_tensor t)
{
	return view{ (char *)t.data, t.stride };
}

template <class T> DEV T *row_of(struct view v, int64_t row) { return (T *)(v.p + row * v.stride); }

/* Elements p[0..3] as f32. vec: p is aligned to four elements and all four exist; else only the
 * first n exist (n may be 0 or negative) and the others are 0. */
template <bool vec> DEV void load4(float v[4], const float *p, int64_t n)
{
	if (vec) {
		float4 a = n > 0 ? *(const float4 *)p : make_float4(0.f, 0.f, 0.f, 0.f);

		v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
	} else {
		for (int i = 0; i < 4; i++)
			v[i] = i < n ? p[i] : 0.f;
	}
}
template <bool vec, class T> DEV void load4(float v[4], const T *p, int64_t n)
{
	if (vec) {
		uint2 a = n > 0 ? *(const uint2 *)p : make_uint2(0, 0);

		v[0] = lo2<T>(a.x), v[1] = hi2<T>(a.x), v[2] = lo2<T>(a.y), v[3] = hi2<T>(a.y);
	} else {
		for (int i = 0; i < 4; i++)
			v[i] = i < n ? to_f32(p[i]) : 0.f;
	}
}
template <bool vec> DEV void store4(float *p, const float v[4], int64_t n)
{
	if (vec) {
		if (n > 0)
			*(float4 *)p = make_float4(v[0], v[1], v[2], v[3]);
	} else {
		for (int i = 0; i < 4; i++)
			if (i < n)
				p[i] = v[i];
	}
}
template <bool vec, class T> DEV void store4(T *p, const float v[4], int64_t n)
{
	if (vec) {
		if (n > 0)
			*(uint2 *)p = make_uint2(pack2<T>(v[0], v[1]), pack2<T>(v[2], v[3]));
	} else {
		for (int i = 0; i < 4; i++)
			if (i < n)
				p[i] = from_f32<T>(v[i]);
	}
}

/* Sum over the block of warps * 32 threads, the same bits in every thread. red: 32 floats of shared
 * memory. All threads call it. */
DEV float block_sum(float x, float *red, int warps)
{
	x = warp_sum(x);
	if (warps == 1)
		return x;
	__syncthreads(); /* red may still be read from the last time */
	if (threadIdx.x % 32 == 0)
		red[threadIdx.x / 32] = x;
	__syncthreads();
	return warp_sum((int)(threadIdx.x % 32) < warps ? red[threadIdx.x % 32] : 0.f);
}

/* The formulas of backends/cpu/ref.c. SiLU: Elfwing et al. 2017. GELU and its tanh form: Hendrycks
 * and Gimpel 2016. */
DEV float activate(float x, int act)
{
	switch (act) {
	case NVLLM_SILU:
		return x / (1.f + expf(-x));
	case NVLLM_GELU_TANH:
		return 0.5f * x * (1.f + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
	case NVLLM_GELU:
		return 0.5f * x * (1.f + erff(x * 0.7071067812f));
	default: /* NVLLM_RELU */
		return x < 0.f ? 0.f : x;
	}
}

/* May the rows of t be read in fours? */
static inline int fours(const struct nvllm_tensor *t)
{
	const uintptr_t each = t->dtype == NVLLM_F32 ? 16 : 8;

	return ((uintptr_t)t->data % each | (uintptr_t)t->stride % each | (uintptr_t)t->cols % 4) == 0;
}

static inline int is_act(const struct nvllm_tensor *t)
{
	return t->dtype == NVLLM_F32 || t->dtype == NVLLM_BF16;
}

static inline int is_empty(const struct nvllm_tensor *t) { return t->rows <= 0 || t->cols <= 0; }

static inline int no_type(struct nvllm_device *dev, const char *what, const struct nvllm_tensor *t)
{
	return dev->host->fail(dev->host, NVLLM_ENOTSUP, "%s is of type number %d, which has no kernel here: "
		"it takes f32 and bf16", what, t->dtype);
}

static inline int no_fit(struct nvllm_device *dev, const char *op, const struct nvllm_tensor *a, const struct nvllm_tensor *b)
{
	return dev->host->fail(dev->host, NVLLM_EINVAL, "%s: shapes do not fit: [%lld][%lld] and [%lld][%lld]", op,
		(long long)a->rows, (long long)a->cols, (long long)b->rows, (long long)b->cols);
}

/* Runs `call` with X and Y standing for the element types of two tensors, each f32 or bf16. */
#define WITH_TYPES(x_dtype, y_dtype, call) do { \
	if ((x_dtype) == NVLLM_F32 && (y_dtype) == NVLLM_F32) { using X = float; using Y = float; call; } \
	else if ((x_dtype) == NVLLM_F32) { using X = float; using Y = bf16; call; } \
	else if ((y_dtype) == NVLLM_F32) { using X = bf16; using Y = float; call; } \
	else { using X = bf16; using Y = bf16; call; } } while (0)

#endif
