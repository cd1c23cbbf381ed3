/* SPDX-License-Identifier: MIT */
/* Cuts of rows of which more tokens may be kept than fit in shared memory: a few passes over the row narrow
 * down where the cut lies, until the tokens in between do fit, or are all alike. Weights are of single
 * precision here: there are so many that none counts much. */
#ifndef NVLLM_CUDA_SAMPLE_LONG_CUH
#define NVLLM_CUDA_SAMPLE_LONG_CUH

#include "sample_list.cuh"

/* The measure of each tile to row->mass; of all. */
DEV uint64_t measure_tiles(struct row *row, enum measure of)
{
	int lane = threadIdx.x & 31;
	uint64_t all = 0;

	for (int t = threadIdx.x >> 5; t < row->n_tiles; t += N_WARPS) {
		uint64_t sum = 0;

		if (row->tops[t] >= row->floor) {
			float v[LANES];

			load_logits(row, v, t, lane);
#pragma unroll
			for (int k = 0; k < LANES; k++)
				sum += measure(row, of, v[k], t * TILE + place(k, lane));
		}
		for (int o = 16; o; o >>= 1)
			sum += __shfl_xor_sync(FULL, sum, o);
		if (lane == 0)
			row->mass[t] = sum, all += sum;
	}
	return block_sum(row->s, all);
}

/* A range of keys in which the cut lies, what is above it, and what must be reached. */
struct cut { struct range in; uint64_t n, above, want; };

/* One pass: kept tokens of the range c, in BINS ranges of equal width by their keys: what they weigh, then how
 * many they are, to s->bins. counts: each weighs 1. A thread has its own sums, where the list would be. */
DEV void fill_bins(struct row *row, const struct cut *c, bool counts, int shift)
{
	uint64_t *mass = row->keys + threadIdx.x, *count = row->sums + threadIdx.x;
	int lane = threadIdx.x & 31;

	__syncthreads();
	for (int b = 0; b < BINS; b++)
		mass[b * THREADS] = count[b * THREADS] = 0;
	for (int t = threadIdx.x >> 5; t < row->n_tiles; t += N_WARPS) {
		float v[LANES];

		if (row->tops[t] < row->floor)
			continue;
		load_logits(row, v, t, lane);
#pragma unroll
		for (int k = 0; k < LANES; k++) {
			uint64_t key = order_key(row, c->in.order, v[k]), bin = (key - c->in.lo) >> shift;

			if (kept(row, v[k], t * TILE + place(k, lane)) && key >= c->in.lo && key <= c->in.hi) {
				mass[bin * THREADS] += counts ? 1 : weight(row, v[k]);
				count[bin * THREADS]++;
			}
		}
	}
	__syncthreads();
	for (int b = threadIdx.x >> 5; b < 2 * BINS; b += N_WARPS) {
		const uint64_t *bin = b < BINS ? row->keys + b * THREADS : row->sums + (b - BINS) * THREADS;
		uint64_t sum = 0;

		for (int i = lane; i < THREADS; i += 32)
			sum += bin[i];
		for (int o = 16; o; o >>= 1)
			sum += __shfl_xor_sync(FULL, sum, o);
		if (lane == 0)
			row->s->bins[b] = sum;
	}
	__syncthreads();
}
static_assert(BINS * THREADS <= SAMPLE_LIST, "each thread has a sum of its own for each bin");

/* From the largest keys of c->in down, the range in which c->want is reached (0: share p of the range's own
 * weight), of at most SAMPLE_LIST tokens or of one key. gather() was called for the kept. */
OUTLINE void narrow(struct row *row, struct cut *c, bool counts, double p)
{
	const uint64_t *bins = row->s->bins;

	c->above = 0;
	for (;;) {
		int shift = max(0, 64 - __clzll((long long)(c->in.hi - c->in.lo)) - 4), b;
		uint64_t all = 0;

		fill_bins(row, c, counts, shift);
		for (b = 0; b < BINS; b++)
			all += bins[b];
		c->want = c->want ? c->want : share(p, all);
		for (b = BINS - 1; b > 0 && c->above + bins[b] < c->want; b--)
			c->above += bins[b];
		c->n = bins[BINS + b];
		c->in.lo += (uint64_t)b << shift;
		c->in.hi = min(c->in.hi, c->in.lo + (((uint64_t)1 << shift) - 1));
		if (c->n <= SAMPLE_LIST || c->in.lo == c->in.hi)
			return;
	}
}

/* The tokens of a narrow range, sorted by their logits, and the running sums of their weights. */
OUTLINE void gather_sorted(struct row *row, struct range in, int n)
{
	gather(row, in);
	sort_keys(row->keys, n);
	add_up(row, n, false);
}

/* Where the logits that gather() has found begin and end. */
DEV struct range logit_range(const struct row *row)
{
	return range{ LOGITS, row->s->least, ordered(row->max) };
}

/* The k-th largest of more kept logits than k. */
OUTLINE float long_top_k(struct row *row, int k)
{
	struct cut c = { logit_range(row), 0, 0, (uint64_t)k };

	narrow(row, &c, true, 0);
	if (c.in.lo == c.in.hi)
		return unordered((uint32_t)c.in.lo);
	gather_sorted(row, c.in, (int)c.n);
	return logit_of(row->keys[c.want - c.above - 1]);
}

/* Cuts the row at top_p. */
DEV void long_top_p(struct row *row, double p)
{
	struct cut c = { logit_range(row), 0, 0, row->all ? share(p, row->all) : 0 };

	narrow(row, &c, false, p);
	if (c.n <= SAMPLE_LIST) {
		int at;

		gather_sorted(row, c.in, (int)c.n);
		at = min(reach(row->sums, (int)c.n, c.want - c.above), (int)c.n - 1);
		row->last = (int)(uint32_t)row->keys[at];
		row->cut = logit_of(row->keys[at]);
	} else { /* many of one logit: as many from the lowest id up as it takes */
		float x = unordered((uint32_t)c.in.lo);
		uint64_t w = max(weight(row, x), (uint64_t)1), j = (c.want - c.above + w - 1) / w;

		row->cut = x;
		if (j < c.n) {
			measure_tiles(row, EQUALS);
			row->last = pick(row, EQUALS, j - 1);
		}
	}
	__syncthreads();
}

/* Cuts it at typical_p. */
DEV void long_typical_p(struct row *row, double p)
{
	struct cut c = { { DISTANCES, 0, 0 }, 0, 0, 0 };
	float least = unordered(row->s->least);
	uint64_t all = 0, sum = 0;
	int lane = threadIdx.x & 31;

	for (int t = threadIdx.x >> 5; t < row->n_tiles; t += N_WARPS) {
		float v[LANES];

		if (row->tops[t] < row->floor)
			continue;
		load_logits(row, v, t, lane);
#pragma unroll
		for (int k = 0; k < LANES; k++) {
			uint64_t w = measure(row, WEIGHTS, v[k], t * TILE + place(k, lane));

			all += w;
			sum += weight_depth(row, v[k], w);
		}
	}
	all = block_sum(row->s, all);
	row->mean = (double)block_sum(row->s, sum) / (double)all;
	c.want = share(p, all);
	c.in.lo = min(order_key(row, DISTANCES, least), order_key(row, DISTANCES, row->max));
	c.in.hi = ~0ull;
	narrow(row, &c, false, p);
	if (c.in.lo == c.in.hi) {
		row->far = __longlong_as_double((long long)~c.in.lo);
		return;
	}
	gather_sorted(row, c.in, (int)c.n);
	row->far = nearest(row, (int)c.n, c.want - c.above);
}

/* gather() has found more than SAMPLE_LIST tokens; top_k is done. */
OUTLINE int draw_long(struct row *row, const struct nvllm_sample_row *r, double u)
{
	row->rough = true;
	if (r->top_p < 1)
		long_top_p(row, r->top_p);
	if (r->typical_p < 1)
		long_typical_p(row, r->typical_p);
	return pick(row, WEIGHTS, target_of(measure_tiles(row, WEIGHTS), u));
}

#endif
