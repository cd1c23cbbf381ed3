/* SPDX-License-Identifier: MIT */
/* fp8_tiles.cu - products of up to FP8_TILE_ROWS rows with weights of e4m3, which are bound by reading the weights as
 * those of a few rows are, as long as nothing else is read more often than they are.
 *
 * An item is 256 rows of w (a tile) by 128 columns: a block has them through a ring in shared memory, with the same
 * columns of all rows of x beside them. 16 rows of a warp are the left matrix, 8 of x the right one, so that what a
 * byte becomes serves all rows of x. All items of all tiles in a row are cut into as many even parts as there are
 * processors, whatever the number of tiles; so a tile may be summed by several blocks, each a run of its columns.
 * A second kernel adds these sums in the order of their columns and scales them: the same bits each time. */
#include "quant.cuh"
#include "skinny.cuh"

#define WARPS 16
#define THREADS (32 * WARPS)
#define TILE (16 * WARPS)           /* rows of w */
#define CHUNK 128                   /* columns */
#define W_BYTES (TILE * CHUNK)      /* of a stage: w, then x */
#define X_PITCH (2 * CHUNK + 16)    /* against bank conflicts */
#define STAGES 5                    /* most */
#define COLS 4                      /* outputs of a thread of the second kernel */

struct tiles {
	view x, y;
	const char *w;
	int64_t w_stride;
	float *parts;             /* [sum][m][TILE] */
	int m, n, k;              /* rows of x and w, columns */
	int chunks, n_tiles, blocks, stages;
	int y_bf16, y_vec, add;
};

/* The first item of a block; that of block number t.blocks is the end. */
DEV int first_item(const struct tiles &t, int block)
{
	return (int)((int64_t)block * t.n_tiles * t.chunks / t.blocks);
}

/* Whose item it is. */
DEV int block_of(const struct tiles &t, int item)
{
	return (int)((((int64_t)item + 1) * t.blocks - 1) / ((int64_t)t.n_tiles * t.chunks));
}

/* A block's sum of a tile: the next block's first is that of the same tile or of the next one. */
DEV float *part_at(const struct tiles &t, int block, int tile)
{
	return t.parts + (int64_t)(block + tile) * t.m * TILE;
}

/* An item. */
struct place {
	int tile, chunk;
};

DEV struct place place_of(const struct tiles &t, int item)
{
	return place{ item / t.chunks, item % t.chunks };
}

DEV void next_place(const struct tiles &t, struct place *p)
{
	if (++p->chunk == t.chunks)
		p->chunk = 0, p->tile++;
}

/* 16 rows of each warp, for itself; odd ones with their halves exchanged, against bank conflicts. */
DEV void copy_w(const struct tiles &t, char *stage, struct place p)
{
	const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, r = lane / 8, c = lane % 8, k = p.chunk * CHUNK + c * 16;
	const int row = p.tile * TILE + warp * 16 + r;
	const char *from = t.w + row * t.w_stride + FP8_HEAD + k;

	stage += warp * 16 * CHUNK + r * CHUNK + (c ^ (r & 1) * 4) * 16;
#pragma unroll
	for (int i = 0; i < 16; i += 4, from += 4 * t.w_stride)
		cp_async16(stage + i * CHUNK, from, row + i < t.n && k < t.k);
}

/* 8 * NT rows; those beyond the last are zeros. */
template <int NT> DEV void copy_x(const struct tiles &t, char *stage, struct place p)
{
#pragma unroll
	for (int i = threadIdx.x; i < NT * 8 * 16; i += THREADS) {
		const int row = i / 16, c = i % 16, k = p.chunk * CHUNK + c * 8;

		cp_async16(stage + W_BYTES + row * X_PITCH + c * 16, row_of<const bf16>(t.x, row) + k, row < t.m && k < t.k);
	}
}

/* The oldest of stages - 1 groups has landed. */
DEV void wait_oldest(int stages)
{
	switch (stages) {
	case 5: cp_async_wait<3>(); break;
	case 4: cp_async_wait<2>(); break;
	case 3: cp_async_wait<1>(); break;
	default: cp_async_wait<0>();
	}
}

/* Four bytes in the order 0 2 1 3, whose even and odd ones are then neighbours. */
DEV uint32_t neighbours(uint32_t q) { return __byte_perm(q, 0, 0x3120); }

/* acc[i]: 16 rows of w by rows 8 i to 8 i + 7 of x. The order of the columns of a sum is what 16 bytes of a lane give. */
template <int NT> DEV void multiply(const char *stage, float (&acc)[NT][4])
{
	const int lane = threadIdx.x % 32, g = lane / 4, j = lane % 4;
	const char *const w = stage + threadIdx.x / 32 * 16 * CHUNK + g * CHUNK, *const x = stage + W_BYTES + g * X_PITCH + j * 32;

#pragma unroll
	for (int h = 0; h < 2; h++) {
		const char *const at = w + ((4 * h + j) ^ (g & 1) * 4) * 16;
		const uint4 u = *(const uint4 *)at, v = *(const uint4 *)(at + 8 * CHUNK);
		const uint32_t q[4][2] = { { u.x, v.x }, { u.y, v.y }, { u.z, v.z }, { u.w, v.w } };

#pragma unroll
		for (int i = 0; i < 4; i += 2) {
			uint32_t a[2][4];

#pragma unroll
			for (int s = 0; s < 2; s++) {
				uint32_t lo[2], hi[2];

				pairs_of_e4m3(lo, neighbours(q[i + s][0])), pairs_of_e4m3(hi, neighbours(q[i + s][1]));
				a[s][0] = lo[0], a[s][1] = hi[0], a[s][2] = lo[1], a[s][3] = hi[1];
			}
#pragma unroll
			for (int r = 0; r < NT; r++) {
				const uint4 b = *(const uint4 *)(x + r * 8 * X_PITCH + h * 128 + i * 8);
				const uint32_t b0[2] = { b.x, b.y }, b1[2] = { b.z, b.w };

				mma16816<bf16>(acc[r], a[0], b0), mma16816<bf16>(acc[r], a[1], b1);
			}
		}
	}
}

/* What a block has of a tile; and from zero again. */
template <int NT> DEV void put_sums(const struct tiles &t, float *to, float (&acc)[NT][4])
{
	const int lane = threadIdx.x % 32, g = lane / 4, j = lane % 4;

	to += threadIdx.x / 32 * 16 + g;
#pragma unroll
	for (int r = 0; r < NT; r++)
#pragma unroll
		for (int i = 0; i < 4; i++) {
			const int row = r * 8 + 2 * j + i % 2;

			if (row < t.m)
				to[row * TILE + i / 2 * 8] = acc[r][i];
			acc[r][i] = 0.f;
		}
}

template <int NT> __global__ void __launch_bounds__(THREADS, 1) fp8_tiles_kernel(const __grid_constant__ struct tiles t)
{
	constexpr int bytes = W_BYTES + NT * 8 * X_PITCH;
	const int first = first_item(t, blockIdx.x), end = first_item(t, blockIdx.x + 1);
	struct place at = place_of(t, first), ahead = at;
	float acc[NT][4] = {};
	int slot = 0, left = t.stages - 1;

	/* weights depend on no kernel before this one */
#pragma unroll 1
	for (int i = 0; i < left && first + i < end; i++, next_place(t, &ahead))
		copy_w(t, dyn_smem() + i * bytes, ahead);
	griddep_wait();
	griddep_launch();
	ahead = at;
#pragma unroll 1
	for (int i = 0; i < left; i++) {
		if (first + i < end)
			copy_x<NT>(t, dyn_smem() + i * bytes, ahead), next_place(t, &ahead);
		cp_async_commit();
	}
#pragma unroll 1
	for (int item = first; item < end; item++) {
		const int into = slot ? slot - 1 : left;

		wait_oldest(t.stages);
		__syncthreads(); /* for all, and the slot before is free */
		if (item + left < end) {
			copy_w(t, dyn_smem() + into * bytes, ahead);
			copy_x<NT>(t, dyn_smem() + into * bytes, ahead);
			next_place(t, &ahead);
		}
		cp_async_commit();
		multiply<NT>(dyn_smem() + slot * bytes, acc);
		if (at.chunk + 1 == t.chunks || item + 1 == end)
			put_sums<NT>(t, part_at(t, blockIdx.x, at.tile), acc);
		next_place(t, &at);
		slot = slot == left ? 0 : slot + 1;
	}
}

/* Grid: tiles, fours of rows of x. */
template <class Y, bool vec> DEV void add_sums(const struct tiles &t)
{
	const int tile = blockIdx.x, c = threadIdx.x % (TILE / COLS) * COLS, row = blockIdx.y * 4 + threadIdx.x / (TILE / COLS);
	const int col = tile * TILE + c, n = t.n - col;
	float scale[COLS], old[COLS] = {}, s[COLS] = {};
	int block, last;
	Y *y;

#pragma unroll
	for (int i = 0; i < COLS; i++)
		scale[i] = i < n ? fp8_row::scale_of(t.w + (col + i) * t.w_stride) : 0.f;
	griddep_wait();
	griddep_launch();
	if (row >= t.m || n <= 0)
		return;
	y = row_of<Y>(t.y, row) + col;
	if (t.add)
		load4<vec>(old, y, n);
	last = block_of(t, (tile + 1) * t.chunks - 1);
	for (block = block_of(t, tile * t.chunks); block <= last; block++) {
		const float4 p = *(const float4 *)(part_at(t, block, tile) + row * TILE + c);

		s[0] += p.x, s[1] += p.y, s[2] += p.z, s[3] += p.w;
	}
#pragma unroll
	for (int i = 0; i < COLS; i++)
		s[i] = s[i] * scale[i] + old[i];
	store4<vec>(y, s, n);
}

__global__ void __launch_bounds__(TILE) fp8_sums_kernel(const __grid_constant__ struct tiles t)
{
	if (t.y_bf16 && t.y_vec)
		add_sums<bf16, true>(t);
	else if (t.y_bf16)
		add_sums<bf16, false>(t);
	else if (t.y_vec)
		add_sums<float, true>(t);
	else
		add_sums<float, false>(t);
}

/* ---- what others call ---- */

template <int NT> static cudaError_t run(const struct nvllm_device *dev, nvllm_stream stream, struct tiles *t)
{
	const int64_t bytes = W_BYTES + NT * 8 * X_PITCH, most = smem_max(dev) - 1024;
	cudaError_t err;

	t->stages = (int)(most / bytes < STAGES ? most / bytes : STAGES);
	err = launch(fp8_tiles_kernel<NT>, dim3((unsigned)t->blocks), dim3(THREADS), (size_t)(t->stages * bytes), stream, *t);
	return err != cudaSuccess ? err : launch(fp8_sums_kernel, dim3((unsigned)t->n_tiles, (unsigned)div_up(t->m, 4)), dim3(TILE),
		0, stream, *t);
}

/* Can it be done here? All bytes by 16; and two stages fit every device's shared memory. */
static bool fits(const struct nvllm_device *dev, const struct nvllm_tensor *y, const struct nvllm_tensor *x,
	const struct nvllm_tensor *w)
{
	return dev->act == NVLLM_BF16 && w->dtype == NVLLM_F8_E4M3 && skinny_has(dev, w) && x->dtype == NVLLM_BF16 && is_act(y) &&
		x->rows <= FP8_TILE_ROWS && ((uintptr_t)x->data | (uintptr_t)x->stride) % 16 == 0;
}

extern "C" int fp8_tiles(struct nvllm_device *dev, nvllm_stream stream, struct nvllm_tensor y, struct nvllm_tensor x,
	struct nvllm_tensor w, uint32_t flags)
{
	struct tiles t = {};
	int64_t items;
	cudaError_t err;

	if (x.cols != w.cols || y.cols != w.rows || y.rows != x.rows)
		return no_fit(dev, "a product with e4m3", &x, &w);
	if (is_empty(&y))
		return NVLLM_OK;
	if (!fits(dev, &y, &x, &w) || x.cols == 0)
		return NVLLM_ENOTSUP;
	t.x = view_of(x), t.y = view_of(y);
	t.w = (const char *)w.data, t.w_stride = w.stride, t.parts = (float *)dev->scratch;
	t.m = (int)x.rows, t.n = (int)w.rows, t.k = (int)w.cols;
	t.chunks = (int)div_up(t.k, CHUNK), t.n_tiles = (int)div_up(t.n, TILE);
	items = (int64_t)t.chunks * t.n_tiles;
	t.blocks = (int)(items < dev->n_sms ? items : dev->n_sms);
	t.y_bf16 = y.dtype == NVLLM_BF16, t.y_vec = fours(&y), t.add = (flags & NVLLM_LINEAR_ADD) != 0;
	if (items > 1 << 30 || (t.blocks + t.n_tiles) * (int64_t)t.m * TILE * 4 > dev->scratch_bytes)
		return NVLLM_ENOTSUP;
	err = t.m <= 32 ? run<4>(dev, stream, &t) : t.m <= 48 ? run<6>(dev, stream, &t) : run<8>(dev, stream, &t);
	return err == cudaSuccess ? NVLLM_OK : cu_check(dev, (int)err, "a product with e4m3");
}

cudaError_t fp8_tiles_open(int64_t smem)
{
	cudaError_t err = allow_smem(fp8_tiles_kernel<4>, (size_t)smem);

	if (err == cudaSuccess)
		err = allow_smem(fp8_tiles_kernel<6>, (size_t)smem);
	return err == cudaSuccess ? allow_smem(fp8_tiles_kernel<8>, (size_t)smem) : err;
}
