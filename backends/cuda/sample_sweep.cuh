/* SPDX-License-Identifier: MIT */
/* One pass over a long row: what the tokens of a band of logits weigh, tile by tile, and which tokens lie
 * around that band. Weights are of single precision here: there are so many that none counts much. Which
 * thread adds what, and in what order, depends on nothing but the vocabulary's size: the same row always gives the
 * same sums. */
#ifndef NVLLM_CUDA_SAMPLE_SWEEP_CUH
#define NVLLM_CUDA_SAMPLE_SWEEP_CUH

#include "sample_list.cuh"

#define LEAST_FLOAT (-3.402823466e38f)

DEV bool within(struct band b, float x) { return (x >= b.lo) & (x <= b.hi); }

/* What is farther below the maximum than floats reach weighs nothing at any temperature of use. */
DEV struct band kept_band(const struct row *row)
{
	return band{ fmaxf(fmaxf(row->floor, row->cut), fmaxf(LEAST_FLOAT, row->max + LEAST_FLOAT)), row->max };
}

/* Of a tile's logits that are the cut's, the tokens that are not kept: -inf. */
DEV void drop_last(const struct row *row, float v[LANES], int tile, int lane)
{
	float cut = row->cut;
	int last = row->last - tile * TILE;

#pragma unroll
	for (int k = 0; k < LANES; k++)
		v[k] = v[k] == cut && place(k, lane) > last ? -INF : v[k];
}

/* The block's sum of doubles, in one order. */
DEV double block_sum_f64(struct scratch *s, double x)
{
	for (int o = 16; o; o >>= 1)
		x += __shfl_xor_sync(FULL, x, o);
	__syncthreads();
	if ((threadIdx.x & 31) == 0)
		s->sums[threadIdx.x >> 5] = (uint64_t)__double_as_longlong(x);
	__syncthreads();
	x = 0;
	for (int w = 0; w < N_WARPS; w++)
		x += __longlong_as_double((long long)s->sums[w]);
	return x;
}

/* The sum of row->mass. */
DEV uint64_t all_mass(struct row *row)
{
	uint64_t all = 0;

	__syncthreads();
	for (int t = threadIdx.x; t < row->n_tiles; t += THREADS)
		all += row->mass[t];
	return block_sum(row->s, all);
}

/* A lane's part of a tile: weights of the inner band, and times their differences from the maximum; of the
 * outer one; which are between. Where there is none (RINGS false) the two are one, and depths are wanted. */
struct lane_part { float inner, depths, outer; uint32_t mask; };

template <bool RINGS> DEV struct lane_part add_lane(const float v[LANES], struct band outer, struct band inner, float max,
	struct scale scale)
{
	struct lane_part p = { 0, 0, 0, 0 };

#pragma unroll
	for (int k = 0; k < LANES; k++) { /* without branches: each logit's weight is under way at once */
		float d = v[k] - max, w = weight_single(d, scale);
		bool in = within(inner, v[k]); /* what has no weight, NaN and -inf, is in no band */

		p.inner += in ? w : 0;
		if (RINGS) {
			bool out = within(outer, v[k]);

			p.outer += out ? w : 0;
			p.mask |= (uint32_t)(out & !in) << k;
		} else {
			p.depths += in ? w * d : 0;
		}
	}
	return p;
}

/* The inner weights of tiles to row->mass, the ring to row->ring if there is room, the rest to s->swept. The outer
 * band holds the inner one; both were set by the first thread. A warp has its next tile under way. */
template <bool RINGS> OUTLINE void sweep(struct row *row)
{
	struct scratch *s = row->s;
	struct band outer = s->outer, inner = s->inner;
	const float *x = row->x, *tops = row->tops;
	float max = row->max, unit = s->counts ? 1.f : (float)row->unit;
	struct scale scale = { s->counts ? 0.f : row->scale.hi, s->counts ? 0.f : row->scale.lo }; /* 2^0 each */
	float v[LANES], next[LANES];
	double deep = 0, ring = 0;
	int lane = threadIdx.x & 31, t = threadIdx.x >> 5, n_tiles = row->n_tiles, n = row->n;
	bool coded = row->codes, ties = row->last != NO_LAST;
	uint64_t *mass = row->mass, all;

	__syncthreads();
	if (threadIdx.x == 0)
		s->count = 0;
	__syncthreads();
	if (t < n_tiles && tops[t] >= outer.lo)
		load_logits(row, next, t, lane);
#pragma unroll 1
	for (; t < n_tiles; t += N_WARPS) {
		struct lane_part p = { 0, 0, 0, 0 };
		bool more = t + N_WARPS < n_tiles && tops[t + N_WARPS] >= outer.lo;

#pragma unroll
		for (int k = 0; k < LANES; k++)
			v[k] = next[k];
		if (more && !coded)
			load_tile(next, x, (t + N_WARPS) * TILE, n, lane);
		if (tops[t] >= outer.lo) {
			if (ties)
				drop_last(row, v, t, lane);
			p = add_lane<RINGS>(v, outer, inner, max, scale);
			deep -= p.depths;
			ring += RINGS ? (double)p.outer - p.inner : 0;
			if (RINGS)
				append(row, p.mask, t, lane, RING);
		}
		p.inner = warp_sum(p.inner);
		if (lane == 0)
			mass[t] = (uint64_t)(p.inner * unit);
		if (more && coded) /* calls a function: when v is no longer needed */
			load_coded(row, next, t + N_WARPS, lane);
	}
	ring = RINGS ? block_sum_f64(s, ring) : 0;
	deep = RINGS ? 0 : block_sum_f64(s, deep);
	all = all_mass(row);
	if (RINGS)
		appended(row, RING);
	if (threadIdx.x == 0) {
		s->swept.n = (int)s->count;
		s->swept.inner = all;
		s->swept.ring = (uint64_t)(ring * unit);
		/* y exp(-y) <= 1 / e: what is more comes of a temperature near 0 */
		s->swept.deep = fmin(deep * row->inv_t, (double)n) * unit;
	}
	__syncthreads();
}

/* A pass that weighs a band. */
DEV void sweep_band(struct row *row, struct band b, bool counts)
{
	__syncthreads();
	if (threadIdx.x == 0)
		row->s->outer = row->s->inner = b, row->s->counts = counts;
	__syncthreads();
	sweep<false>(row);
}

/* ---- bands of what an order has up to some place ---- */
DEV double distance_of(uint64_t key) { return __longlong_as_double((long long)~key); }
DEV uint64_t order_key(const struct row *row, enum order o, float x)
{
	/* distances are >= 0: in the order of their bits */
	return o == LOGITS ? ordered(x) : ~(uint64_t)__double_as_longlong(distance(row, x));
}

/* A warp's: the first logit from lo to hi, in ordered(), whose depth is no farther beyond the mean than d; above:
 * that is farther than d before it. hi + 1 if none is. Depths fall where logits rise, rounded or not. */
DEV uint32_t edge(const struct row *row, uint32_t lo, uint32_t hi, double d, bool above)
{
	uint32_t n = hi - lo + 1, lane = threadIdx.x & 31;

	while (n) {
		uint32_t step = (n + 31) / 32, at = min((lane + 1) * step, n) - 1, found;
		double y = depth(row, unordered(lo + at)) - row->mean;

		found = __ballot_sync(FULL, above ? -y > d : y <= d);
		if (!found)
			return lo + n;
		found = (__ffs((int)found) - 1) * step;
		lo += found, n = min(step, n - found) - 1; /* the one after these is */
	}
	return lo;
}

/* The bands of kept logits whose keys are not below those of the range, and above: to s->outer and s->inner. */
OUTLINE void set_bands(struct row *row, enum order o, const struct range *in)
{
	struct band all = kept_band(row);
	int warp = threadIdx.x >> 5;
	struct scratch *s = row->s;

	__syncthreads();
	if (o == LOGITS) {
		if (threadIdx.x == 0) {
			s->outer = band{ fmaxf(unordered((uint32_t)in->lo), all.lo), all.hi };
			s->inner = band{ in->hi < ordered(all.hi) ? fmaxf(unordered((uint32_t)in->hi + 1), all.lo) : INF, all.hi };
		}
	} else if (warp < 4) { /* an edge each */
		struct band *b = warp < 2 ? &s->outer : &s->inner;
		uint64_t key = warp < 2 ? in->lo : in->hi + 1;
		uint32_t lo = ordered(all.lo), hi = ordered(all.hi), x = edge(row, lo, hi, distance_of(key), warp & 1);

		if (warp & 1)
			b->hi = x > lo ? unordered(x - 1) : -INF;
		else
			b->lo = key && x <= hi ? unordered(x) : INF; /* 0: nothing is above the largest key */
	}
	__syncthreads();
}

#endif
