/* SPDX-License-Identifier: MIT */
/* Products of many rows with experts' weights on the matrix units: a block multiplies BM rows of an
 * expert's weight with a tile of up to BN rows of x that chose it. With an activation, half of the
 * weight's rows are gate's and half are up's, so that a thread has both numbers of an element of y.
 *
 * Shared memory holds STAGES slices of BK columns: rows of 128 bytes, whose 16-byte pieces are exchanged
 * by the row's number, so that the eight rows of an 8x8 matrix lie in different banks. */
#include "moe.cuh"
#include "quant.cuh"

#define BLOCK 256
#define BM 128
#define BK 64     /* columns of a slice: 128 bytes */

/* Slices on the way: as many as leave room for two blocks on a multiprocessor. */
template <int BN> struct shape {
	static constexpr int stages = BN == 128 ? 3 : 4;
	static constexpr int stage_bytes = (BM + BN) * BK * 2;
	static constexpr int smem = stages * stage_bytes;
};

struct w_plain { }; /* weights that are bf16 already */
struct rows_from { /* where a thread's pieces of a slice come from; piece i is of row thread / 8 + 32 i */
	const char *w[BM / 32];
	uint32_t w_ok; /* bit i: row i exists */
};

DEV char *piece_at(char *stage, int row, int piece)
{
	return stage + row * (BK * 2) + ((piece ^ (row & 7)) << 4);
}

/* Eight columns of a weight's row from column k on, if they exist, else zeros. */
template <class W> DEV void load_w(char *to, const char *row, int k, bool ok)
{
	uint4 v = make_uint4(0, 0, 0, 0);
	float f[8];

	if (ok) {
		W::decode8((const uint8_t *)row + (int64_t)(k / W::block) * W::bytes, k % W::block / 8, f);
		v = make_uint4(pack2<bf16>(f[0], f[1]), pack2<bf16>(f[2], f[3]), pack2<bf16>(f[4], f[5]), pack2<bf16>(f[6], f[7]));
	}
	*(uint4 *)to = v;
}
template <> SPEC void load_w<w_plain>(char *to, const char *row, int k, bool ok)
{
	cp_async16(to, ok ? row + 2 * k : row, ok);
}

/* Starts to bring slice k0 .. k0 + BK of the weight's rows and of x's. */
template <class W, int BN>
DEV void load_slice(char *stage, const struct rows_from *from, const char *const *x, int n, int k0, int cols)
{
	const int piece = threadIdx.x % 8, k = k0 + 8 * piece;

#pragma unroll
	for (int i = 0; i < (BN + 31) / 32; i++) {
		const int row = threadIdx.x / 8 + 32 * i;
		const bool ok = row < n && k < cols;

		if (BN >= 32 || row < BN)
			cp_async16(piece_at(stage + BM * BK * 2, row, piece), ok ? x[i] + 2 * k : x[i], ok);
	}
#pragma unroll
	for (int i = 0; i < BM / 32; i++)
		load_w<W>(piece_at(stage, threadIdx.x / 8 + 32 * i, piece), from->w[i], k, (from->w_ok >> i & 1) && k < cols);
}

/* d += the slice's product: this warp's two 16-row pieces of the weight and NT 8-row pieces of x. */
template <int NT> DEV void multiply(float (*d)[NT][4], char *stage, int wm, int wn)
{
	const int lane = threadIdx.x % 32;
	char *const xs = stage + BM * BK * 2;

#pragma unroll
	for (int kk = 0; kk < BK / 16; kk++) {
		uint32_t a[2][4], b[NT][2];

#pragma unroll
		for (int m = 0; m < 2; m++)
			ldmatrix4(a[m], piece_at(stage, m * (BM / 2) + wm * 16 + lane % 16, 2 * kk + lane / 16));
#pragma unroll
		for (int j = 0; j + 1 < NT; j += 2) {
			uint32_t r[4];

			ldmatrix4(r, piece_at(xs, (wn * NT + j) * 8 + lane / 16 * 8 + lane % 8, 2 * kk + lane / 8 % 2));
			b[j][0] = r[0], b[j][1] = r[1], b[j + 1][0] = r[2], b[j + 1][1] = r[3];
		}
		if (NT % 2)
			ldmatrix2(b[NT - 1], piece_at(xs, (wn * NT + NT - 1) * 8 + lane % 8, 2 * kk + lane / 8 % 2));
#pragma unroll
		for (int m = 0; m < 2; m++)
#pragma unroll
			for (int j = 0; j < NT; j++)
				mma16816<bf16>(d[m][j], a[m], b[j]);
	}
}

/* Element (row of x, column of y) of the products. plain: m chooses one of two columns. */
template <int NT, bool glu>
DEV void store_tile(const struct product *p, float (*d)[NT][4], struct tile t, int o, int wm, int wn)
{
	const int lane = threadIdx.x % 32;

#pragma unroll
	for (int j = 0; j < NT; j++)
#pragma unroll
		for (int c = 0; c < 4; c++) {
			const int row = (wn * NT + j) * 8 + lane % 4 * 2 + c % 2, at = o + wm * 16 + lane / 4 + c / 2 * 8;

			if (row >= t.n)
				continue;
			if (glu) {
				if (at < p->out)
					row_of<bf16>(p->y, t.first + row)[at] = from_f32<bf16>(activate(d[0][j][c], p->act) * d[1][j][c]);
			} else {
				float *const y = row_of<float>(p->y, t.first + row);

				if (at < p->out)
					y[at] = d[0][j][c];
				if (at + BM / 2 < p->out)
					y[at + BM / 2] = d[1][j][c];
			}
		}
}

/* Grid: columns of y, and tiles. */
template <class W, int BN, bool glu>
__global__ void __launch_bounds__(BLOCK, 2) moe_mma_kernel(struct product p)
{
	constexpr int NT = BN / 16, STAGES = shape<BN>::stages, STAGE = shape<BN>::stage_bytes;
	const int o = (int)blockIdx.x * (glu ? BM / 2 : BM), wm = threadIdx.x / 32 % 4, wn = threadIdx.x / 128;
	const int n_slices = (p.cols + BK - 1) / BK;
	char *const smem = dyn_smem();
	const char *x[(BN + 31) / 32];
	struct rows_from from = {};
	float d[2][NT][4] = {};
	struct tile t;

	griddep_wait();
	griddep_launch();
	t = tile_of(&p, blockIdx.y, BN);
	if (t.n < 1)
		return;
#pragma unroll
	for (int i = 0; i < BM / 32; i++) {
		const int r = threadIdx.x / 8 + 32 * i, at = o + (glu ? r % (BM / 2) : r);

		from.w_ok |= (uint32_t)(at < p.out) << i;
		from.w[i] = row_of<const char>(p.w, min(at, p.out - 1) + (glu && r >= BM / 2 ? p.out : 0)) +
			t.expert * p.plane_stride;
	}
#pragma unroll
	for (int i = 0; i < (BN + 31) / 32; i++)
		x[i] = row_of<const char>(p.x, x_row(&p, t.first + min((int)threadIdx.x / 8 + 32 * i, t.n - 1)));
#pragma unroll
	for (int s = 0; s < STAGES - 1; s++) {
		if (s < n_slices)
			load_slice<W, BN>(smem + s * STAGE, &from, x, t.n, s * BK, p.cols);
		cp_async_commit();
	}
	for (int s = 0; s < n_slices; s++) {
		const int next = s + STAGES - 1;

		cp_async_wait<STAGES - 2>();
		__syncthreads(); /* slice s is there for all, and nobody reads slice s - 1 any more */
		if (next < n_slices)
			load_slice<W, BN>(smem + next % STAGES * STAGE, &from, x, t.n, next * BK, p.cols);
		cp_async_commit();
		multiply<NT>(d, smem + s % STAGES * STAGE, wm, wn);
	}
	cp_async_wait<0>();
	store_tile<NT, glu>(&p, d, t, o, wm, wn);
}

/* ---- the host's side ---- */

template <class W, int BN, bool glu> static cudaError_t mma(nvllm_stream stream, struct product p, int n_tiles)
{
	const int out = glu ? BM / 2 : BM;
	const dim3 grid((unsigned)((p.out + out - 1) / out), (unsigned)n_tiles);
	/* an attribute of the function, the same each time: nothing is enqueued */
	const cudaError_t err = allow_smem(moe_mma_kernel<W, BN, glu>, shape<BN>::smem);

	return err != cudaSuccess ? err : launch(moe_mma_kernel<W, BN, glu>, grid, dim3(BLOCK), shape<BN>::smem, stream, p);
}

template <class W> static cudaError_t mma_of(nvllm_stream stream, struct product p, int n_tiles, int most)
{
	const bool glu = p.act >= 0;

	if (most == 16)
		return glu ? mma<W, 16, true>(stream, p, n_tiles) : mma<W, 16, false>(stream, p, n_tiles);
	if (most == 64)
		return glu ? mma<W, 64, true>(stream, p, n_tiles) : mma<W, 64, false>(stream, p, n_tiles);
	return glu ? mma<W, 128, true>(stream, p, n_tiles) : mma<W, 128, false>(stream, p, n_tiles);
}

cudaError_t moe_mma(nvllm_stream stream, struct product p, int32_t w_dtype, int n_tiles, int most)
{
	cudaError_t err;

	if (w_dtype == NVLLM_BF16)
		return mma_of<w_plain>(stream, p, n_tiles, most);
	WITH_BLOCKS(w_dtype, (err = mma_of<Q>(stream, p, n_tiles, most)), return cudaErrorInvalidValue);
	return err;
}
