/* SPDX-License-Identifier: MIT */
/* quant.cu - weights in blocks or e4m3 as plain numbers, for products of many rows: the library multiplies f32
 * and bf16 only, and what it multiplies is read often enough to pay for this pass. And the way from numbers to
 * rows of e4m3. */
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
	const int64_t bytes = stored_bytes(&w), align = w.dtype == NVLLM_F8_E4M3 ? 16 : 2;
	cudaError_t err = cudaSuccess;

	if (!is_coded(w.dtype) || (dtype != NVLLM_F32 && dtype != NVLLM_BF16))
		return dev->host->fail(dev->host, NVLLM_ENOTSUP,
			"dequantise: there is no kernel from type number %d to %d: it takes Q4_0, Q4_1, Q8_0, Q4_K, Q6_K "
			"and E4M3, and makes f32 and bf16", w.dtype, dtype);
	if (bytes < 0 || w.stride < bytes || w.stride % align || (uintptr_t)w.data % align || (uintptr_t)dst % 16 || row < 0 || n < 0 ||
			row + n > w.rows)
		return dev->host->fail(dev->host, NVLLM_EINVAL,
			"dequantise: rows %lld to %lld of [%lld][%lld], stride %lld, at %p do not go to %p", (long long)row,
			(long long)(row + n), (long long)w.rows, (long long)w.cols, (long long)w.stride, w.data, dst);
	if (n == 0 || w.cols == 0)
		return NVLLM_OK;
	WITH_BLOCKS(w.dtype, (err = dequantise_to<Q>(stream, dst, dtype, &w, row, n)), break);
	return err == cudaSuccess ? NVLLM_OK : cu_check(dev, (int)err, "dequantise");
}

/* ---- to e4m3 ---- */

/* Four numbers from a multiple of 8 bytes. */
DEV void get4(float v[4], const float *p)
{
	const float4 a = *(const float4 *)p;

	v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
}
template <class T> DEV void get4(float v[4], const T *p)
{
	const uint2 a = *(const uint2 *)p;

	v[0] = lo2<T>(a.x), v[1] = hi2<T>(a.x), v[2] = lo2<T>(a.y), v[3] = hi2<T>(a.y);
}

/* The largest of the block's, in all its threads. */
DEV uint32_t block_max(uint32_t x, uint32_t *red)
{
	x = __reduce_max_sync(0xffffffffu, x);
	if (threadIdx.x % 32 == 0)
		red[threadIdx.x / 32] = x;
	__syncthreads();
	return __reduce_max_sync(0xffffffffu, red[threadIdx.x % 32 % (BLOCK / 32)]);
}

/* The scale of a row whose largest |x| has these bits. No scale is a denormal: of rows that small the numbers are
 * the coarser ones at the end of e4m3. */
DEV float fp8_scale(uint32_t most)
{
	if (most == 0)
		return 1.f;
	return most < 0x7f800000u ? fmaxf(__uint_as_float(most) / 448.f, 0x1p-126f) : __uint_as_float(0x7fc00000u);
}

/* A block a row. The bits of |x| are in the order of their values, then come infinity and the NaNs. */
template <class T>
__global__ void fp8_rows_kernel(char *dst, int64_t dst_stride, const char *src, int64_t src_stride, int64_t cols)
{
	__shared__ uint32_t red[BLOCK / 32];
	const T *const x = (const T *)(src + blockIdx.x * src_stride);
	char *const to = dst + blockIdx.x * dst_stride;
	uint32_t most = 0;
	float v[4], scale;

	griddep_wait();
	griddep_launch();
	for (int64_t i = 4 * (int64_t)threadIdx.x; i < cols; i += 4 * BLOCK) {
		get4(v, x + i);
#pragma unroll
		for (int k = 0; k < 4; k++)
			most = max(most, f32_bits(v[k]) & 0x7fffffffu);
	}
	most = block_max(most, red);
	scale = fp8_scale(most);
	if (threadIdx.x == 0)
		*(float4 *)to = make_float4(scale, 0.f, 0.f, 0.f);
	for (int64_t i = 4 * (int64_t)threadIdx.x; i < cols; i += 4 * BLOCK) {
		get4(v, x + i);
#pragma unroll
		for (int k = 0; k < 4; k++)
			v[k] = most < 0x7f800000u ? v[k] / scale : 0.f;
		*(uint32_t *)(to + FP8_HEAD + i) = pack4_e4m3(v[0], v[1], v[2], v[3]);
	}
}

extern "C" int fp8_rows(struct nvllm_device *dev, nvllm_stream stream, void *dst, int64_t dst_stride, const void *src,
	int32_t src_dtype, int64_t src_stride, int64_t n, int64_t cols)
{
	auto kernel = src_dtype == NVLLM_F32 ? fp8_rows_kernel<float> : src_dtype == NVLLM_F16 ? fp8_rows_kernel<f16> :
		fp8_rows_kernel<bf16>;
	const int64_t bytes = nvllm_row_bytes(src_dtype, cols);
	cudaError_t err;

	if (src_dtype != NVLLM_F32 && src_dtype != NVLLM_F16 && src_dtype != NVLLM_BF16)
		return dev->host->fail(dev->host, NVLLM_ENOTSUP, "e4m3: there is no kernel from type number %d: it takes F32, F16 and "
			"BF16", src_dtype);
	if (n < 0 || n > 0x7fffffff || cols < 0 || cols % 16 || dst_stride < FP8_HEAD + cols || src_stride < bytes ||
			((uintptr_t)dst | (uintptr_t)src | (uintptr_t)dst_stride | (uintptr_t)src_stride) % 16)
		return dev->host->fail(dev->host, NVLLM_EINVAL, "e4m3: %lld rows of %lld columns, %lld bytes apart at %p, do not go "
			"to %p, %lld bytes apart", (long long)n, (long long)cols, (long long)src_stride, src, dst, (long long)dst_stride);
	if (n == 0 || cols == 0)
		return NVLLM_OK;
	err = launch(kernel, dim3((unsigned)n), dim3(BLOCK), 0, stream, (char *)dst, dst_stride, (const char *)src, src_stride, cols);
	return err == cudaSuccess ? NVLLM_OK : cu_check(dev, (int)err, "weights to e4m3");
}
