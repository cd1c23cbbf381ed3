/* SPDX-License-Identifier: MIT */
/* Cuts and the draw among few tokens, in shared memory: sorted by logit, with running sums of their weights,
 * each cut is one binary search; sorted by id, so is the draw. */
#ifndef NVLLM_CUDA_LIST_CUH
#define NVLLM_CUDA_LIST_CUH

#include "sample_row.cuh"

#define PAD (~0ull)

/* A token: from the largest logit down, ties from the lowest id up; or by id. No two are alike. */
DEV uint64_t by_logit(float x, int id) { return (uint64_t)~ordered(x) << 32 | (uint32_t)id; }
DEV float logit_of(uint64_t key) { return unordered(~(uint32_t)(key >> 32)); }
DEV uint64_t by_id(uint64_t key) { return key << 32 | key >> 32; }

/* The ids of the tile's logits that mask names, one bit for each of a lane's, to row->ring as far as there is
 * room; in no order, behind those that s->count says are there. */
DEV void append(const struct row *row, uint32_t mask, int tile, int lane, uint32_t room)
{
	uint32_t before = __popc(mask), at = 0;

	if (!__any_sync(FULL, mask != 0))
		return;
	for (int o = 1; o < 32; o <<= 1) {
		uint32_t y = __shfl_up_sync(FULL, before, o);

		before += lane >= o ? y : 0;
	}
	if (lane == 31)
		at = atomicAdd(&row->s->count, before);
	at = __shfl_sync(FULL, at, 31) + before - __popc(mask);
	for (; mask && at < room; mask &= mask - 1, at++)
		row->ring[at] = (uint32_t)(tile * TILE + place(__ffs((int)mask) - 1, lane));
}

/* Makes keys of the ids that append() has left; how many it was asked for. */
DEV int appended(struct row *row, int room)
{
	int n;

	__syncthreads();
	n = (int)row->s->count;
	if (n <= room)
		for (int i = threadIdx.x; i < n; i += THREADS) {
			int id = (int)row->ring[i];

			row->ring[i] = by_logit(logit(row, id), id);
		}
	__syncthreads();
	return n;
}

/* The tokens not below the floor to row->ring, in no order; how many there are, or some number above LIST. */
OUTLINE int gather(struct row *row)
{
	struct scratch *s = row->s;
	int lane = threadIdx.x & 31;

	__syncthreads();
	if (threadIdx.x == 0)
		s->count = 0;
	__syncthreads();
	for (int t = threadIdx.x >> 5; t < row->n_tiles; t += N_WARPS) {
		uint32_t mask = 0;
		float v[LANES];

		if (row->tops[t] < row->floor)
			continue;
		if (__any_sync(FULL, *(volatile uint32_t *)&s->count > LIST))
			break;
		load_logits(row, v, t, lane);
#pragma unroll
		for (int k = 0; k < LANES; k++)
			mask |= (uint32_t)(v[k] >= row->floor && v[k] > -INF) << k;
		append(row, mask, t, lane, LIST);
	}
	return appended(row, LIST);
}

/* Bitonic (Batcher 1968), upwards; there is room for the next power of two. The same result whatever order
 * they came in. A warp's 32 pairs of a step lie within 64 keys of its own where the step is 32 or less. */
DEV void sort_keys(uint64_t *keys, int n)
{
	int size = 1;

	while (size < n)
		size <<= 1;
	for (int i = n + threadIdx.x; i < size; i += THREADS)
		keys[i] = PAD;
	__syncthreads();
	for (int run = 2; run <= size; run <<= 1)
		for (int step = run >> 1; step; step >>= 1) {
			int next = step > 1 ? step >> 1 : run;

			for (int i = threadIdx.x; i < size >> 1; i += THREADS) {
				int a = (i & ~(step - 1)) << 1 | (i & (step - 1)), b = a | step;
				uint64_t x = keys[a], y = keys[b];

				if ((x > y) == !(a & run))
					keys[a] = y, keys[b] = x;
			}
			if (step <= 32 && next <= 32)
				__syncwarp();
			else
				__syncthreads();
		}
	__syncthreads();
}

/* Running sums of the first n keys' weights to row->sums; their sum. ids: keys are by_id's. */
DEV uint64_t add_up(struct row *row, int n, bool ids)
{
	uint64_t base = 0, all, before;

	for (int from = 0; from < n; from += THREADS) {
		int i = from + threadIdx.x;
		uint64_t key = i < n ? row->keys[i] : 0, w;

		w = i < n ? weight(row, logit_of(ids ? by_id(key) : key)) : 0;
		w = base + block_scan(row->s, w, &all, &before);
		if (i < n)
			row->sums[i] = w;
		base += all;
	}
	__syncthreads();
	return base;
}

/* A thread's: the first of sums[0..n) not below t, or n. */
DEV int reach(const uint64_t *sums, int n, uint64_t t)
{
	int lo = 0;

	while (lo < n) {
		int mid = (lo + n) >> 1;

		if (sums[mid] >= t)
			n = mid;
		else
			lo = mid + 1;
	}
	return lo;
}

/* Whole steps that are at least p of all; at least one, all > 0 at most. */
DEV uint64_t share(double p, uint64_t all)
{
	return min(max((uint64_t)ceil(p * (double)all), (uint64_t)1), all);
}

/* A thread's: keys[from..to) of those in the order of logits that are no farther than d: their distances fall
 * to place `turn`, and rise from there on. */
struct span { int from, to; };

DEV struct span nearer(const struct row *row, int turn, int n, double d)
{
	struct span s = { 0, n };
	int hi = turn, lo = turn;

	while (s.from < hi) {
		int mid = (s.from + hi) >> 1;

		if (distance(row, logit_of(row->keys[mid])) <= d)
			hi = mid;
		else
			s.from = mid + 1;
	}
	while (lo < s.to) {
		int mid = (lo + s.to) >> 1;

		if (distance(row, logit_of(row->keys[mid])) > d)
			s.to = mid;
		else
			lo = mid + 1;
	}
	return s;
}

/* Where the keys' depth passes the mean. */
DEV int turn_of(const struct row *row, int n)
{
	int lo = 0;

	while (lo < n) {
		int mid = (lo + n) >> 1;

		if (depth(row, logit_of(row->keys[mid])) > row->mean)
			n = mid;
		else
			lo = mid + 1;
	}
	return lo;
}

/* The least distance at which the first n keys that are no farther weigh at least want. Sums are those of
 * add_up(). */
DEV double nearest(struct row *row, int n, uint64_t want)
{
	uint64_t best = 0; /* complement of the bits of a double >= 0 */
	int turn = turn_of(row, n);

	for (int i = threadIdx.x; i < n; i += THREADS) {
		double d = distance(row, logit_of(row->keys[i]));
		struct span s = nearer(row, turn, n, d);
		uint64_t have = s.to > s.from ? row->sums[s.to - 1] - (s.from ? row->sums[s.from - 1] : 0) : 0;

		if (have >= want)
			best = max(best, ~(uint64_t)__double_as_longlong(d));
	}
	best = block_max(row->s, best);
	return best ? __longlong_as_double((long long)~best) : (double)INF;
}

/* A thread's: a weight times its depth, in whole steps. */
DEV uint64_t weight_depth(const struct row *row, float x, uint64_t w)
{
	return w ? (uint64_t)((double)w * depth(row, x) + 0.5) : 0;
}

/* What typical_p keeps of the first n keys, which weigh all. */
DEV struct span typical(struct row *row, int n, uint64_t all, double p)
{
	uint64_t sum = 0;
	double far;

	for (int i = threadIdx.x; i < n; i += THREADS) {
		float x = logit_of(row->keys[i]);

		sum += weight_depth(row, x, weight(row, x));
	}
	row->mean = (double)block_sum(row->s, sum) / (double)all;
	far = nearest(row, n, share(p, all));
	return nearer(row, turn_of(row, n), n, far);
}

/* Of n gathered tokens. k 0: top_k is off, or done already. */
OUTLINE int draw_list(struct row *row, int n, int k)
{
	const struct nvllm_sample_row *r = row->r;
	struct span s = { 0, n };
	uint64_t key[LIST / THREADS];
	int at;

	sort_keys(row->keys, n);
	if (k && k < n) { /* all that tie with the k-th */
		uint64_t end = (row->keys[k - 1] >> 32) + 1;

		s.to = reach(row->keys, n, end << 32);
	}
	if (r->top_p < 1 || r->typical_p < 1) {
		uint64_t all = add_up(row, s.to, false);

		if (r->top_p < 1) {
			s.to = min(s.to, reach(row->sums, s.to, share(r->top_p, row->all ? row->all : all)) + 1);
			all = row->sums[s.to - 1];
		}
		if (r->typical_p < 1)
			s = typical(row, s.to, all, r->typical_p);
	}
	n = s.to - s.from;
	__syncthreads();
#pragma unroll
	for (int j = 0; j < LIST / THREADS; j++) {
		at = j * THREADS + threadIdx.x;
		key[j] = at < n ? by_id(row->keys[s.from + at]) : 0;
	}
	__syncthreads();
#pragma unroll
	for (int j = 0; j < LIST / THREADS; j++) {
		at = j * THREADS + threadIdx.x;
		if (at < n)
			row->keys[at] = key[j];
	}
	__syncthreads();
	sort_keys(row->keys, n);
	at = reach(row->sums, n, target_of(add_up(row, n, true), row->u) + 1);
	return at < n ? (int)(row->keys[at] >> 32) : row->best;
}

#endif
