/* SPDX-License-Identifier: MIT */
/* The one pass over all logits that sampling needs: of each tile of 512 the largest logit, and
 * sum of exp((x - max) / temperature). A warp takes a tile, so that nothing in a row's result depends on the
 * rows beside it, and has all of it in registers: one read. Rows with penalties count the tokens
 * of their history here, and leave a code for each logit (sample.cuh). */
#include "sample.cuh"

#define WARPS 8
#define SPAN (WARPS * TILE) /* ids of a block */
#define SAID 0x80000000u

/* count[id - first] of the block's ids: how often in the output; SAID if anywhere. */
DEV void count_history(uint32_t *count, const struct nvllm_sample_row *r, int first)
{
	int output = first_output(r), from = r->repetition != 1 ? 0 : output;
	const int32_t *t = r->tokens;

	for (int i = threadIdx.x; i < SPAN; i += 32 * WARPS)
		count[i] = 0;
	__syncthreads();
	for (int i = from + threadIdx.x; i < r->n_tokens; i += 32 * WARPS) {
		uint32_t at = (uint32_t)t[i] - (uint32_t)first; /* large if below */

		if (at >= SPAN)
			continue;
		if (i >= output)
			atomicAdd(&count[at], 1u);
		else
			atomicOr(&count[at], SAID);
	}
	__syncthreads();
}

/* Changes the tile's logits, and writes their codes. count: the tile's. */
DEV void penalise(float v[LANES], const uint32_t *count, const struct nvllm_sample_row *r, uint8_t *codes,
	int lane)
{
#pragma unroll
	for (int j = 0; j < LANES / 4; j++) {
		uint32_t four = 0;

#pragma unroll
		for (int c = 0; c < 4; c++) {
			uint32_t said = count[place(4 * j + c, lane)], n = said & ~SAID;

			if (!said)
				continue;
			v[4 * j + c] = penalised(r, v[4 * j + c], (int)n);
			four |= min(n + 1, (uint32_t)MANY) << 8 * c;
		}
		*(uint32_t *)(codes + place(4 * j, lane)) = four;
	}
}

DEV double sum_weights(const float v[LANES], float max, struct scale s)
{
	float sum[4] = { 0, 0, 0, 0 };
	double all;

#pragma unroll
	for (int k = 0; k < LANES; k++)
		sum[k & 3] += weight_fast(v[k] - max, s);
	all = ((double)sum[0] + (double)sum[1]) + ((double)sum[2] + (double)sum[3]);
	for (int o = 16; o; o >>= 1)
		all += __shfl_xor_sync(FULL, all, o);
	return all;
}

__global__ void __launch_bounds__(32 * WARPS) make_tiles(struct sample_job job)
{
	__shared__ uint32_t count[SPAN];
	const struct nvllm_sample_row *r = job.rows + blockIdx.y;
	const float *x = (const float *)((const char *)job.logits + blockIdx.y * job.stride);
	int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, tile = blockIdx.x * WARPS + warp, id = 0x7fffffff;
	struct sample_part part;
	float v[LANES];
	uint32_t key = 0;

	griddep_wait();
	griddep_launch();
	/* the logits are on their way before it is known whether they matter */
	if (tile < job.n_tiles)
		load_tile(v, x, tile * TILE, job.vocab, lane);
	if (r->slot < 0)
		return;
	if (!job.greedy && has_penalties(r)) {
		count_history(count, r, (int)blockIdx.x * SPAN);
		if (tile < job.n_tiles)
			penalise(v, count + warp * TILE, r,
				job.codes + ((int64_t)blockIdx.y * job.n_tiles + tile) * TILE, lane);
	}
	if (tile >= job.n_tiles)
		return;
#pragma unroll
	for (int k = 0; k < LANES; k++) {
		v[k] = clean(v[k]);
		key = max(key, ordered(v[k]));
	}
	part.max = unordered(__reduce_max_sync(FULL, key));
#pragma unroll
	for (int k = LANES - 1; k >= 0; k--)
		id = v[k] == part.max ? tile * TILE + place(k, lane) : id;
	part.id = __reduce_min_sync(FULL, id);
	part.sum = 0;
	if (!job.greedy && r->temperature > 0)
		part.sum = sum_weights(v, part.max, scale_of(inverse(r->temperature)));
	if (lane == 0)
		job.parts[(int64_t)blockIdx.y * job.n_tiles + tile] = part;
}

extern "C" int sample_enqueue_tiles(nvllm_stream stream, const struct sample_job *job)
{
	return (int)launch(make_tiles, dim3((job->n_tiles + WARPS - 1) / WARPS, job->n_rows), dim3(32 * WARPS), 0, stream,
		*job);
}
