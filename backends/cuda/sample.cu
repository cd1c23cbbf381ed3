/* SPDX-License-Identifier: MIT */
/* Which token a row gives. One block a row, after make_tiles has looked at all logits (sample_tiles.cu).
 *
 * With x_m the largest logit, the weight of a token is w = exp((x - x_m) / temperature), counted in whole
 * steps of 2^-unit_bits: sums of whole numbers are the same in any order, and no sum overflows. The token drawn
 * is the first, in the order of ids, at which the running sum of kept weights exceeds u times their sum.
 *
 * Rows without truncation find the tile by the tiles' sums and look at that tile alone. With min_p, top_k,
 * top_p or typical_p, a floor below which no token can be kept says which tokens are looked at; there
 * are nearly always few, and they are sorted in shared memory (sample_list.cuh). Where there are more
 * than LIST, the row itself is gone over, once a cut as a rule (sample_long.cuh).
 * What path a row takes depends on its logits and parameters alone. */
#include <nvllm/random.h>

#include "sample.cuh"
#include "sample_row.cuh"
#include "sample_list.cuh"
#include "sample_sweep.cuh"
#include "sample_cut.cuh"
#include "sample_long.cuh"

/* The largest logit to row->max; the lowest id that has it. Tile maxima to shared memory. */
DEV int read_parts(struct row *row, const struct sample_part *parts)
{
	uint64_t best = 0;

	for (int i = threadIdx.x; i < row->n_tiles; i += THREADS) {
		struct sample_part p = parts[i];

		row->tops[i] = p.max;
		best = max(best, (uint64_t)ordered(p.max) << 32 | (uint32_t)~p.id);
	}
	best = block_max(row->s, best);
	row->max = unordered((uint32_t)(best >> 32));
	return (int)~(uint32_t)best;
}

/* All tiles' weights to row->mass; their sum. */
DEV uint64_t weigh_parts(struct row *row, const struct sample_part *parts)
{
	uint64_t sum = 0;

	for (int i = threadIdx.x; i < row->n_tiles; i += THREADS) {
		struct sample_part p = parts[i];
		uint64_t w = 0;

		if (p.max > -INF)
			w = (uint64_t)(p.sum * exp(((double)p.max - (double)row->max) * row->inv_t) * row->unit + 0.5);
		row->mass[i] = w;
		sum += w;
	}
	return block_sum(row->s, sum);
}

/* A logit that no token of weight >= w is below: well below what is exact. */
DEV float safe_floor(const struct row *row, double w)
{
	double x = (double)row->max + (log(w) - 1e-6) / row->inv_t;

	x -= 1e-6 * (fabs((double)row->max) + fabs(x));
	return x > -3e38 ? (float)x : -INF;
}

/* The least logit whose weight is not below p, 0 < p <= 1: what min_p keeps. */
DEV float min_p_floor(const struct row *row, double p)
{
	double guess = (double)row->max + log(p) / row->inv_t;
	uint32_t key, top = ordered(row->max);

	if (guess < -3e38)
		return -INF;
	key = min(ordered((float)guess), top);
	for (int i = 0; i < 4 && key < top && weight_exact(row, unordered(key)) < p; i++)
		key++;
	for (int i = 0; i < 4 && weight_exact(row, unordered(key - 1)) >= p; i++)
		key--;
	return unordered(key);
}

/* The k-th largest of the tiles' maxima, which the k-th largest logit is not below; k <= n_tiles. */
DEV float top_k_floor(struct row *row, int k)
{
	for (int i = threadIdx.x; i < row->n_tiles; i += THREADS)
		row->keys[i] = row->tops[i] > -INF ? by_logit(row->tops[i], i) : PAD;
	__syncthreads();
	sort_keys(row->keys, row->n_tiles);
	return row->keys[k - 1] == PAD ? -INF : logit_of(row->keys[k - 1]);
}

/* The token of a row whose tokens are not all kept. */
OUTLINE int draw_kept(struct row *row, const struct sample_part *parts)
{
	const struct nvllm_sample_row *r = row->r;
	int k = r->top_k > 0 && r->top_k < row->n ? (int)r->top_k : 0, n;

	row->floor = row->least = safe_floor(row, 0.125 / row->unit); /* an eighth of a step is nothing */
	if (r->min_p > 0)
		row->floor = fmaxf(row->floor, min_p_floor(row, fmin(r->min_p, 1.)));
	if (k && k <= row->n_tiles)
		row->floor = fmaxf(row->floor, top_k_floor(row, k));
	if (r->top_p < 1 && !k && !(r->min_p > 0)) {
		/* such tokens together are less than 1 - p of the whole: not kept, but part of the whole */
		row->all = weigh_parts(row, parts);
		row->floor = fmaxf(row->floor,
			safe_floor(row, fmax((1 - r->top_p) * (double)row->all / row->unit / row->n * 0.9999, 1e-300)));
	}
	n = gather(row);
	if (n <= LIST)
		return draw_list(row, n, k);
	if (k) {
		long_top_k(row);
		n = gather(row);
		if (n <= LIST)
			return draw_list(row, n, 0);
	}
	if (row->all) /* now of use: the whole includes what is below that floor */
		row->floor = row->least;
	return draw_long(row);
}

DEV bool truncates(const struct nvllm_sample_row *r, int n)
{
	return r->min_p > 0 || r->top_p < 1 || r->typical_p < 1 || (r->top_k > 0 && r->top_k < n);
}

__global__ void __launch_bounds__(THREADS, 2) draw_tokens(struct sample_job job)
{
	const struct nvllm_sample_row *r = job.rows + blockIdx.x;
	const struct sample_part *parts = job.parts + (int64_t)blockIdx.x * job.n_tiles;
	struct row row;
	int token = 0;

	row_begin(&row, &job, blockIdx.x);
	griddep_wait();
	griddep_launch();
	if (r->slot >= 0) {
		token = read_parts(&row, parts);
		if (!job.greedy && r->temperature > 0 && fabsf(row.max) < INF) {
			row.u = nvllm_uniform(r->seed, r->choice, r->position);
			row.best = token;
			row.inv_t = inverse(r->temperature);
			row.scale = scale_of(row.inv_t);
			row.codes = has_penalties(r) ? row.codes : NULL;
			if (truncates(r, row.n)) {
				struct row in_memory = row; /* so that this one stays in registers */

				token = draw_kept(&in_memory, parts);
			} else {
				token = pick(&row, WEIGHTS, target_of(weigh_parts(&row, parts), row.u));
			}
		}
	}
	if (threadIdx.x == 0)
		job.tokens[blockIdx.x] = token;
}

extern "C" int sample_setup(int32_t n_tiles)
{
	return (int)allow_smem(draw_tokens, shared_bytes(n_tiles));
}

extern "C" int sample_enqueue(nvllm_stream stream, const struct sample_job *job)
{
	int err = sample_enqueue_tiles(stream, job);

	return err ? err : (int)launch(draw_tokens, dim3(job->n_rows), dim3(THREADS), shared_bytes(job->n_tiles), stream,
		*job);
}
