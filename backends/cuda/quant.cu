/* SPDX-License-Identifier: MIT */
/* quant.cu - weights in blocks as plain numbers, for products of many rows: the library multiplies f32 and
 * bf16 only, and what it multiplies is read often enough to pay for this pass. */
#include "cuda.h"
#include "ptx.cuh"
#include "quant.cuh"

#define BLOCK 256
#define MAX_GRID_Y 65535

DEV void put8(float *p, const float v[8])
{
	((float4 *)p)[0] = make_float4(v[0], v[1], v[2], v[3]);
	((float4 *)p)[1] = make_float4(v[4], v[5], v[6], v[7]);
}
DEV void put8(bf16 *p, const float v[8])
{
	*(uint4 *)p = make_uint4(pack2<bf16>(v[0], v[1]), pack2<bf16>(v[2], v[3]), pack2<bf16>(v[4], v[5]),
		pack2<bf16>(v[6], v[7]));
}

/* Eight elements a thread. */
template <class Q, class T>
__global__ void dequantise_kernel(T *dst, const uint8_t *w, int64_t stride, int64_t n, int64_t cols)
{
	const int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x;

	griddep_wait();
	griddep_launch();
	if (i >= cols / 8)
		return;
	for (int64_t row = blockIdx.y; row < n; row += gridDim.y) {
		float v[8];

		Q::decode8(w + row * stride + i / (Q::block / 8) * Q::bytes, (int)(i % (Q::block / 8)), v);
		put8(dst + row * cols + 8 * i, v);
	}
}

template <class Q, class T>
static cudaError_t dequantise(nvllm_stream stream, void *dst, const struct nvllm_tensor *w, int64_t row, int64_t n)
{
	const dim3 grid((unsigned)((w->cols / 8 + BLOCK - 1) / BLOCK), (unsigned)(n < MAX_GRID_Y ? n : MAX_GRID_Y));

	return launch(dequantise_kernel<Q, T>, grid, dim3(BLOCK), 0, stream, (T *)dst,
		(const uint8_t *)w->data + row * w->stride, w->stride, n, w->cols);
}

template <class Q>
static cudaError_t dequantise_to(nvllm_stream stream, void *dst, int32_t dtype, const struct nvllm_tensor *w, int64_t row,
	int64_t n)
{
	return dtype == NVLLM_F32 ? dequantise<Q, float>(stream, dst, w, row, n) : dequantise<Q, bf16>(stream, dst, w, row, n);
}

extern "C" int dequantise(struct nvllm_device *dev, nvllm_stream stream, void *dst, int32_t dtype, struct nvllm_tensor w,
	int64_t row, int64_t n)
{
	const int64_t bytes = nvllm_row_bytes(w.dtype, w.cols);
	cudaError_t err = cudaSuccess;

	if (!is_blocks(w.dtype) || (dtype != NVLLM_F32 && dtype != NVLLM_BF16))
		return dev->host->fail(dev->host, NVLLM_ENOTSUP,
			"dequantise: there is no kernel from type number %d to %d: it takes Q4_0, Q4_1, Q8_0, Q4_K and Q6_K, "
			"and makes f32 and bf16", w.dtype, dtype);
	if (bytes < 0 || w.stride < bytes || w.stride % 2 || (uintptr_t)w.data % 2 || (uintptr_t)dst % 16 || row < 0 || n < 0 ||
			row + n > w.rows)
		return dev->host->fail(dev->host, NVLLM_EINVAL,
			"dequantise: rows %lld to %lld of [%lld][%lld], stride %lld, at %p do not go to %p", (long long)row,
			(long long)(row + n), (long long)w.rows, (long long)w.cols, (long long)w.stride, w.data, dst);
	if (n == 0 || w.cols == 0)
		return NVLLM_OK;
	WITH_BLOCKS(w.dtype, (err = dequantise_to<Q>(stream, dst, dtype, &w, row, n)), break);
	return err == cudaSuccess ? NVLLM_OK : cu_check(dev, (int)err, "dequantise");
}
