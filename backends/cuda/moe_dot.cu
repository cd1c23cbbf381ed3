/* SPDX-License-Identifier: MIT */
/* Products of few rows with experts' weights, in f32: a warp reads NW rows of the weight once, in
 * pieces of eight columns a lane, several pieces at once to keep the memory busy, and multiplies them
 * with each row of its tile. The order of the sum depends on the number of columns alone. */
#include "moe.cuh"
#include "quant.cuh"

#define BLOCK 256
#define WARPS (BLOCK / 32)
#define NW 4         /* rows of the weight a warp has */
#define MOST_SMEM 49152

/* How a weight's row is read: eight columns as they lie (n of them exist; it may be none or fewer), and
 * what numbers they are. ahead: pieces that a lane has on the way. */
struct w_f32 {
	struct raw { uint4 a, b; };
	static constexpr int ahead = 4; /* of two loads each */
	DEV void load(struct raw *r, const char *row, int i8, int n)
	{
		const float *p = (const float *)row + 8 * i8;
		uint32_t v[8];

		if (n >= 8) {
			r->a = load16_stream(p), r->b = load16_stream(p + 4);
			return;
		}
#pragma unroll
		for (int i = 0; i < 8; i++)
			v[i] = i < n ? __float_as_uint(p[i]) : 0;
		r->a = make_uint4(v[0], v[1], v[2], v[3]), r->b = make_uint4(v[4], v[5], v[6], v[7]);
	}
	DEV void numbers(float v[8], const struct raw *r)
	{
		v[0] = __uint_as_float(r->a.x), v[1] = __uint_as_float(r->a.y), v[2] = __uint_as_float(r->a.z);
		v[3] = __uint_as_float(r->a.w), v[4] = __uint_as_float(r->b.x), v[5] = __uint_as_float(r->b.y);
		v[6] = __uint_as_float(r->b.z), v[7] = __uint_as_float(r->b.w);
	}
};

struct w_bf16 {
	struct raw { uint4 a; };
	static constexpr int ahead = 12;
	DEV void load(struct raw *r, const char *row, int i8, int n)
	{
		const bf16 *p = (const bf16 *)row + 8 * i8;
		uint32_t v[8];

		if (n >= 8) {
			r->a = load16_stream(p);
			return;
		}
#pragma unroll
		for (int i = 0; i < 8; i++)
			v[i] = i < n ? p[i].bits : 0;
		r->a = make_uint4(v[0] | v[1] << 16, v[2] | v[3] << 16, v[4] | v[5] << 16, v[6] | v[7] << 16);
	}
	DEV void numbers(float v[8], const struct raw *r)
	{
		v[0] = lo2<bf16>(r->a.x), v[1] = hi2<bf16>(r->a.x), v[2] = lo2<bf16>(r->a.y), v[3] = hi2<bf16>(r->a.y);
		v[4] = lo2<bf16>(r->a.z), v[5] = hi2<bf16>(r->a.z), v[6] = lo2<bf16>(r->a.w), v[7] = hi2<bf16>(r->a.w);
	}
};

template <class Q> struct w_blocks {
	struct raw { float v[8]; };
	static constexpr int ahead = 4;
	DEV void load(struct raw *r, const char *row, int i8, int n)
	{
		if (n > 0) { /* columns are whole blocks */
			Q::decode8((const uint8_t *)row + (int64_t)(i8 / (Q::block / 8)) * Q::bytes, i8 % (Q::block / 8), r->v);
			return;
		}
#pragma unroll
		for (int i = 0; i < 8; i++)
			r->v[i] = 0.f;
	}
	DEV void numbers(float v[8], const struct raw *r)
	{
#pragma unroll
		for (int i = 0; i < 8; i++)
			v[i] = r->v[i];
	}
};

/* Small enough to be kept as it lies, so that more of it is on the way. */
template <> struct w_blocks<fp8_row> {
	struct raw { uint2 q; float scale; };
	static constexpr int ahead = 12;
	DEV void load(struct raw *r, const char *row, int i8, int n)
	{
		r->q = n > 0 ? *(const uint2 *)(row + FP8_HEAD + 8 * i8) : make_uint2(0, 0);
		r->scale = fp8_row::scale_of(row);
	}
	DEV void numbers(float v[8], const struct raw *r)
	{
		numbers_of_e4m3(v, r->q.x), numbers_of_e4m3(v + 4, r->q.y);
#pragma unroll
		for (int i = 0; i < 8; i++)
			v[i] *= r->scale;
	}
};

DEV void x8(float v[8], const float *p, int n, int vec)
{
	if (vec && n >= 8) {
		load4<true>(v, p, 4), load4<true>(v + 4, p + 4, 4);
		return;
	}
#pragma unroll
	for (int i = 0; i < 8; i++)
		v[i] = i < n ? p[i] : 0.f;
}
DEV void x8(float v[8], const bf16 *p, int n, int vec)
{
	if (vec && n >= 8) {
		struct w_bf16::raw r = { *(const uint4 *)p };

		w_bf16::numbers(v, &r);
		return;
	}
#pragma unroll
	for (int i = 0; i < 8; i++)
		v[i] = i < n ? to_f32(p[i]) : 0.f;
}

/* acc[j][k] = row j of x (n of them) times row k of w: of this lane's columns. */
template <class F, int ROWS, int TN, class X>
DEV void dots(float (*acc)[ROWS], const char *const *w, const X *const *x, int n, int cols, int vec)
{
	constexpr int U = F::ahead / ROWS;
	const int n8 = (cols + 7) / 8;

#pragma unroll
	for (int j = 0; j < TN; j++)
#pragma unroll
		for (int k = 0; k < ROWS; k++)
			acc[j][k] = 0.f;
	for (int i = threadIdx.x % 32; i < n8; i += 32 * U) {
		typename F::raw r[U][ROWS];

#pragma unroll
		for (int u = 0; u < U; u++)
#pragma unroll
			for (int k = 0; k < ROWS; k++)
				F::load(&r[u][k], w[k], i + 32 * u, cols - 8 * (i + 32 * u));
#pragma unroll
		for (int u = 0; u < U; u++) {
			const int at = 8 * (i + 32 * u);
			float a[ROWS][8], b[8];

			if (at >= cols)
				break;
#pragma unroll
			for (int k = 0; k < ROWS; k++)
				F::numbers(a[k], &r[u][k]);
#pragma unroll
			for (int j = 0; j < TN; j++) {
				if (j >= n)
					break;
				x8(b, x[j] + at, cols - at, vec);
#pragma unroll
				for (int k = 0; k < ROWS; k++)
#pragma unroll
					for (int c = 0; c < 8; c++)
						acc[j][k] += a[k][c] * b[c];
			}
		}
	}
	/* all lanes have come here */
#pragma unroll
	for (int j = 0; j < TN; j++)
#pragma unroll
		for (int k = 0; k < ROWS; k++)
			if (j < n)
				acc[j][k] = warp_sum(acc[j][k]);
}

/* The rows of x of a tile; beyond its n the last one again. */
template <int TN, class X> DEV void rows_of(const X **x, const struct product *p, struct tile t)
{
#pragma unroll
	for (int j = 0; j < TN; j++)
		x[j] = row_of<const X>(p->x, x_row(p, t.first + min(j, t.n - 1)));
}

/* Grid: tiles (all of one row where TN is 1), and the columns of y. A warp has ROWS rows of the weight: as
 * many columns of y, or half as many with an activation. */
template <class F, class X, int ROWS, int TN, bool glu>
__global__ void __launch_bounds__(BLOCK, 1) moe_dot_kernel(struct product p)
{
	constexpr int OUT = glu ? ROWS / 2 : ROWS;
	const int lane = threadIdx.x % 32, o = (int)(blockIdx.y * WARPS + threadIdx.x / 32) * OUT;
	const char *w[ROWS];
	const X *x[TN];
	float acc[TN][ROWS];
	struct tile t;

	griddep_wait();
	griddep_launch();
	t = tile_of(&p, blockIdx.x, SMALL);
	if (t.n < 1 || o >= p.out)
		return;
#pragma unroll
	for (int k = 0; k < ROWS; k++)
		w[k] = row_of<const char>(p.w, min(o + k % OUT, p.out - 1) + k / OUT * p.out) + t.expert * p.plane_stride;
	rows_of<TN>(x, &p, t);
	dots<F, ROWS, TN>(acc, w, x, t.n, p.cols, p.vec);
#pragma unroll
	for (int j = 0; j < TN; j++)
#pragma unroll
		for (int k = 0; k < OUT; k++) {
			if (j >= t.n || lane != j * OUT + k || o + k >= p.out)
				continue;
			row_of<float>(p.y, t.first + j)[o + k] = glu ? activate(acc[j][k], p.act) * acc[j][ROWS - OUT + k] :
				acc[j][k];
		}
}

/* A block has NW rows of each chosen expert's weight, its warps have the tiles; then it sums. */
template <class F, int TN>
__global__ void __launch_bounds__(BLOCK, 1) moe_last_kernel(struct last_product l)
{
	const struct product *const p = &l.p;
	const int lane = threadIdx.x % 32, o = (int)blockIdx.x * NW, i = threadIdx.x;
	float (*const made)[NW] = (float (*)[NW])dyn_smem(); /* by place */
	const char *w[NW];
	const float *x[TN];
	float acc[TN][NW], sum = 0.f;

	griddep_wait();
	griddep_launch();
	for (int at = threadIdx.x / 32; at < l.n_places; at += WARPS) {
		const struct tile t = tile_of(p, at, SMALL);

		if (t.n < 1)
			continue;
#pragma unroll
		for (int k = 0; k < NW; k++)
			w[k] = row_of<const char>(p->w, min(o + k, p->out - 1)) + t.expert * p->plane_stride;
		rows_of<TN>(x, p, t);
		dots<F, NW, TN>(acc, w, x, t.n, p->cols, p->vec);
#pragma unroll
		for (int j = 0; j < TN; j++)
#pragma unroll
			for (int k = 0; k < NW; k++)
				if (j < t.n && lane == j * NW + k)
					made[t.first + j][k] = acc[j][k];
	}
	__syncthreads();
	if (i >= p->n_rows * NW || o + i % NW >= p->out)
		return;
	for (int c = i / NW * l.n_top, end = c + l.n_top; c < end; c++)
		sum += l.weight[c] * made[l.place[c]][i % NW];
	row_of<float>(p->y, i / NW)[o + i % NW] = sum;
}

/* ---- the host's side ---- */

/* Runs `call` with F standing for a type of weights. */
#define WITH_FORMAT(dtype, call) do { \
	if ((dtype) == NVLLM_F32) { using F = w_f32; call; } \
	else if ((dtype) == NVLLM_BF16) { using F = w_bf16; call; } \
	else WITH_BLOCKS(dtype, { using F = w_blocks<Q>; call; }, return cudaErrorInvalidValue); } while (0)

template <class F, class X, int TN> static cudaError_t dot(nvllm_stream stream, struct product p, int n_tiles)
{
	const int out = WARPS * (p.act < 0 ? NW : NW / 2);
	auto kernel = p.act < 0 ? moe_dot_kernel<F, X, NW, TN, false> : moe_dot_kernel<F, X, NW, TN, true>;

	return launch(kernel, dim3((unsigned)n_tiles, (unsigned)((p.out + out - 1) / out)), dim3(BLOCK), 0, stream, p);
}

cudaError_t moe_dot(nvllm_stream stream, struct product p, int32_t w_dtype, int32_t x_dtype, int n_tiles)
{
	const bool one = p.tiles && p.n_rows == 1;
	cudaError_t err;

	if (x_dtype == NVLLM_F32)
		WITH_FORMAT(w_dtype, (err = one ? dot<F, float, 1>(stream, p, n_tiles) : dot<F, float, SMALL>(stream, p, n_tiles)));
	else
		WITH_FORMAT(w_dtype, (err = one ? dot<F, bf16, 1>(stream, p, n_tiles) : dot<F, bf16, SMALL>(stream, p, n_tiles)));
	return err;
}

cudaError_t moe_route(nvllm_stream stream, struct product p, int32_t w_dtype, int32_t x_dtype)
{
	const int n_tiles = (p.n_rows + SMALL - 1) / SMALL;
	const dim3 grid((unsigned)n_tiles, (unsigned)((p.out + WARPS - 1) / WARPS));

	if (w_dtype == NVLLM_F32 && x_dtype == NVLLM_F32)
		return launch(moe_dot_kernel<w_f32, float, 1, SMALL, false>, grid, dim3(BLOCK), 0, stream, p);
	if (w_dtype == NVLLM_BF16 && x_dtype == NVLLM_BF16)
		return launch(moe_dot_kernel<w_bf16, bf16, 1, SMALL, false>, grid, dim3(BLOCK), 0, stream, p);
	return moe_dot(stream, p, w_dtype, x_dtype, n_tiles);
}

int moe_last_fits(int64_t n_places)
{
	return n_places * NW * (int64_t)sizeof(float) <= MOST_SMEM;
}

cudaError_t moe_last(nvllm_stream stream, struct last_product l, int32_t w_dtype)
{
	const size_t smem = (size_t)l.n_places * NW * sizeof(float);
	const dim3 grid((unsigned)((l.p.out + NW - 1) / NW));
	cudaError_t err;

	if (l.p.n_rows == 1)
		WITH_FORMAT(w_dtype, (err = launch(moe_last_kernel<F, 1>, grid, dim3(BLOCK), smem, stream, l)));
	else
		WITH_FORMAT(w_dtype, (err = launch(moe_last_kernel<F, SMALL>, grid, dim3(BLOCK), smem, stream, l)));
	return err;
}
