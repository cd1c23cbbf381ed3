/* SPDX-License-Identifier: MIT */
/* skinny_plain.cu - products of few rows by plain f32 arithmetic: the path of f32 activations, and of weights whose
 * addresses or columns do not allow 16-byte copies. A warp has a row of w (with an activation, two), a lane each
 * 32nd eight of its columns; the order of a row's sum depends on nothing but its length. */
#include "cuda.h"
#include "quant.cuh"
#include "skinny.cuh"

/* load8: columns 8 * i8 .. 8 * i8 + 7 of a row, the first n of which exist; vec: by 16 bytes, if all do. */
template <class T> struct plain_rows {
	DEV void load8(const char *row, int i8, int n, bool vec, float v[8])
	{
		const T *p = (const T *)row + 8 * i8;

		if (vec && n >= 8) {
			if (sizeof(T) == 4) {
				const uint4 a = load16_stream(p), b = load16_stream((const char *)p + 16);

				v[0] = __uint_as_float(a.x), v[1] = __uint_as_float(a.y), v[2] = __uint_as_float(a.z);
				v[3] = __uint_as_float(a.w), v[4] = __uint_as_float(b.x), v[5] = __uint_as_float(b.y);
				v[6] = __uint_as_float(b.z), v[7] = __uint_as_float(b.w);
			} else {
				const uint4 a = load16_stream(p);

				v[0] = lo2<bf16>(a.x), v[1] = hi2<bf16>(a.x), v[2] = lo2<bf16>(a.y), v[3] = hi2<bf16>(a.y);
				v[4] = lo2<bf16>(a.z), v[5] = hi2<bf16>(a.z), v[6] = lo2<bf16>(a.w), v[7] = hi2<bf16>(a.w);
			}
			return;
		}
#pragma unroll
		for (int i = 0; i < 8; i++)
			v[i] = i < n ? to_f32(p[i]) : 0.f;
	}
};

template <class Q> struct block_rows {
	DEV void load8(const char *row, int i8, int n, bool, float v[8])
	{
		if (n > 0)
			Q::decode8((const uint8_t *)row + i8 / (Q::block / 8) * Q::bytes, i8 % (Q::block / 8), v);
		else
			for (int i = 0; i < 8; i++)
				v[i] = 0.f;
	}
};

/* acc[r] += w x of one row of w and this panel, for M rows of x. Loads of `at_once` eights go first. */
template <class R, int M> DEV void dot(const skinny_args &a, const char *row, const char *xs, int from, bool vec, float acc[M])
{
	constexpr int at_once = M <= 2 ? 4 : 2;
	const int n8 = min(a.panel, a.k - from + 7) / 8, half = a.panel * 2; /* bytes of the half with the even fours */

	for (int i0 = threadIdx.x % 32; i0 < n8; i0 += 32 * at_once) {
		float w[at_once][8];

#pragma unroll
		for (int u = 0; u < at_once; u++) {
			const int i = i0 + 32 * u;

			R::load8(row, from / 8 + i, i < n8 ? a.k - from - 8 * i : 0, vec, w[u]);
		}
#pragma unroll
		for (int u = 0; u < at_once; u++) {
			const int i = i0 + 32 * u;

			if (i >= n8)
				break;
#pragma unroll
			for (int r = 0; r < M; r++) {
				const float4 lo = *(const float4 *)(xs + r * a.pitch + i * 16);
				const float4 hi = *(const float4 *)(xs + r * a.pitch + half + i * 16);

				acc[r] = fmaf(w[u][0], lo.x, acc[r]), acc[r] = fmaf(w[u][1], lo.y, acc[r]);
				acc[r] = fmaf(w[u][2], lo.z, acc[r]), acc[r] = fmaf(w[u][3], lo.w, acc[r]);
				acc[r] = fmaf(w[u][4], hi.x, acc[r]), acc[r] = fmaf(w[u][5], hi.y, acc[r]);
				acc[r] = fmaf(w[u][6], hi.z, acc[r]), acc[r] = fmaf(w[u][7], hi.w, acc[r]);
			}
		}
	}
}

/* M: rows of x, rounded up; what the rows beyond add up to is nobody's. */
template <class R, int M> __global__ void __launch_bounds__(PLAIN_THREADS, 1) plain_kernel(const __grid_constant__ skinny_args a)
{
	__shared__ float red[PLAIN_WARPS], norms[2 * PLAIN_WARPS];
	char *const xs = dyn_smem();
	const int lane = threadIdx.x % 32;
	const bool vec = ((uintptr_t)a.w | (uintptr_t)a.w_stride) % 16 == 0;

	first_panel<X_WHOLE>(a, xs, red, norms);
	__syncthreads();
	for (int round = 0; round < a.rounds; round++) {
		const int col = (round * (int)gridDim.x + (int)blockIdx.x) * PLAIN_WARPS + (int)threadIdx.x / 32;
		float acc[2][M] = {};

		for (int panel = 0; panel < a.panels; panel++) {
			if (panel > 0 || (a.panels > 1 && round > 0)) {
				__syncthreads(); /* the panel before may be in use */
				panel_of_x<X_WHOLE>(a, xs, panel * a.panel, norms);
				__syncthreads();
			}
			if (col >= a.n)
				continue;
			dot<R, M>(a, a.w + col * a.w_stride, xs, panel * a.panel, vec, acc[0]);
			if (a.act >= 0)
				dot<R, M>(a, a.w + ((int64_t)a.n + col) * a.w_stride, xs, panel * a.panel, vec, acc[1]);
		}
#pragma unroll
		for (int r = 0; r < M; r++) {
			const float s = warp_sum(acc[0][r]), u = a.act >= 0 ? warp_sum(acc[1][r]) : 0.f;

			if (lane == r && r < a.m && col < a.n)
				put_y(a, r, col, s, u, a.add ? get_y(a, r, col) : 0.f);
		}
	}
}

#define MOST 8 /* rows of x at once: more have the weights read again */

template <class R> static cudaError_t run_rows(nvllm_stream stream, struct skinny_args *a, int n_sms, int64_t smem_max)
{
	const int m = a->m <= 1 ? 1 : a->m <= 2 ? 2 : a->m <= 4 ? 4 : MOST;
	auto kernel = m == 1 ? plain_kernel<R, 1> : m == 2 ? plain_kernel<R, 2> : m == 4 ? plain_kernel<R, 4> : plain_kernel<R, MOST>;
	const int64_t blocks = div_up(a->n, PLAIN_WARPS), most = smem_max / (4 * m) / 256 * 256, grid = blocks < 4 * n_sms ? blocks : 4 * n_sms;

	a->panel = (int)div_up(a->k, 8) * 8;
	if (a->panel > most)
		a->panel = (int)most;
	a->panels = a->k ? (int)div_up(a->k, a->panel) : 0;
	a->pitch = (unsigned)a->panel * 4;
	a->per = PLAIN_WARPS / m;
	a->rounds = (int)div_up(blocks, grid);
	return launch(kernel, dim3((unsigned)grid), dim3(PLAIN_THREADS), (size_t)m * a->pitch, stream, *a);
}

template <class R> static cudaError_t run_plain(nvllm_stream stream, const struct skinny_args *a, int n_sms, int64_t smem_max)
{
	cudaError_t err = cudaSuccess;

	for (int row = 0; row < a->m && err == cudaSuccess; row += MOST) {
		struct skinny_args some = *a;

		some.m = a->m - row < MOST ? a->m - row : MOST;
		some.x.p += row * a->x.stride, some.y.p += row * a->y.stride;
		err = run_rows<R>(stream, &some, n_sms, smem_max);
	}
	return err;
}

cudaError_t skinny_plain(nvllm_stream stream, struct skinny_args *a, int32_t dtype, int n_sms, int64_t smem_max)
{
	cudaError_t err = cudaErrorInvalidValue;

	if (dtype == NVLLM_F32)
		return run_plain<plain_rows<float>>(stream, a, n_sms, smem_max);
	if (dtype == NVLLM_BF16)
		return run_plain<plain_rows<bf16>>(stream, a, n_sms, smem_max);
	WITH_BLOCKS(dtype, (err = run_plain<block_rows<Q>>(stream, a, n_sms, smem_max)), break);
	return err;
}

template <class R> static cudaError_t open_plain(int64_t smem)
{
	cudaError_t err = allow_smem(plain_kernel<R, 1>, (size_t)smem);

	if (err == cudaSuccess)
		err = allow_smem(plain_kernel<R, 2>, (size_t)smem);
	if (err == cudaSuccess)
		err = allow_smem(plain_kernel<R, 4>, (size_t)smem);
	return err == cudaSuccess ? allow_smem(plain_kernel<R, 8>, (size_t)smem) : err;
}

cudaError_t skinny_plain_open(int64_t smem)
{
	cudaError_t err;

	if ((err = open_plain<plain_rows<float>>(smem)) == cudaSuccess && (err = open_plain<plain_rows<bf16>>(smem)) == cudaSuccess &&
			(err = open_plain<block_rows<q4_0>>(smem)) == cudaSuccess && (err = open_plain<block_rows<q4_1>>(smem)) == cudaSuccess &&
			(err = open_plain<block_rows<q8_0>>(smem)) == cudaSuccess && (err = open_plain<block_rows<q4_k>>(smem)) == cudaSuccess &&
			(err = open_plain<block_rows<q6_k>>(smem)) == cudaSuccess)
		err = open_plain<block_rows<fp8_row>>(smem);
	return err;
}
