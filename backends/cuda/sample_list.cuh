/* SPDX-License-Identifier: MIT */
/* Cuts and the draw among few tokens, in shared memory: sorted by logit, with running sums of their weights,
 * each cut is one binary search; sorted by id, so is the draw. */
#ifndef NVLLM_CUDA_SAMPLE_LIST_CUH
#define NVLLM_CUDA_SAMPLE_LIST_CUH

#include "sample_row.cuh"

#define PAD (~0ull)

/* A token: from the largest logit down, ties from the lowest id up; or by id. No two are alike. */
DEV uint64_t by_logit(float x, int id) { return (uint64_t)~ordered(x) << 32 | (uint32_t)id; }
DEV float logit_of(uint64_t key) { return unordered(~(uint32_t)(key >> 32)); }
DEV uint64_t by_id(uint64_t key) { return key << 32 | key >> 32; }

/* What order tokens are looked for in by narrow() (sample_long.cuh): its keys are larger for what is kept
 * first. */
enum order { LOGITS, DISTANCES };

DEV uint64_t order_key(const struct row *row, enum order o, float x)
{
	/* distances are >= 0: in the order of their bits */
	return o == LOGITS ? ordered(x) : ~(uint64_t)__double_as_longlong(distance(row, x));
}

struct range { enum order order; uint64_t lo, hi; };
#define ALL_KEYS (range{ LOGITS, 0, ~0ull })

/* The kept tokens of a range to row->keys, in no order, as far as they go; how many there are. Their least
 * logit's ordered() to s->least. */
DEV int gather(struct row *row, struct range in)
{
	struct scratch *s = row->s;
	int lane = threadIdx.x & 31;

	__syncthreads();
	if (threadIdx.x == 0)
		s->count = 0, s->least = ~0u;
	__syncthreads();
	for (int t = threadIdx.x >> 5; t < row->n_tiles; t += N_WARPS) {
		uint32_t mask = 0, least = ~0u, before, total, at = 0;
		float v[LANES];

		if (row->tops[t] < row->floor)
			continue;
		load_logits(row, v, t, lane);
#pragma unroll
		for (int k = 0; k < LANES; k++) {
			uint64_t key = order_key(row, in.order, v[k]);

			if (kept(row, v[k], t * TILE + place(k, lane)) && key >= in.lo && key <= in.hi)
				mask |= 1u << k, least = min(least, ordered(v[k]));
		}
		before = __popc(mask);
		for (int o = 1; o < 32; o <<= 1) {
			uint32_t y = __shfl_up_sync(FULL, before, o);

			before += lane >= o ? y : 0;
		}
		total = __shfl_sync(FULL, before, 31);
		least = __reduce_min_sync(FULL, least);
		if (!total)
			continue;
		if (lane == 0)
			at = atomicAdd(&s->count, total), atomicMin(&s->least, least);
		at = __shfl_sync(FULL, at, 0) + before - __popc(mask);
		for (; mask && at < SAMPLE_LIST; mask &= mask - 1, at++) {
			int id = t * TILE + place(__ffs((int)mask) - 1, lane);

			row->keys[at] = by_logit(logit(row, id), id);
		}
	}
	__syncthreads();
	return (int)s->count;
}

/* Bitonic (Batcher 1968), upwards, n <= SAMPLE_LIST. The same result whatever order they came in. */
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
			for (int i = threadIdx.x; i < size >> 1; i += THREADS) {
				int a = (i & ~(step - 1)) << 1 | (i & (step - 1)), b = a | step;
				uint64_t x = keys[a], y = keys[b];

				if ((x > y) == !(a & run))
					keys[a] = y, keys[b] = x;
			}
			__syncthreads();
		}
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
DEV int draw_list(struct row *row, const struct nvllm_sample_row *r, int n, int k, double u)
{
	struct span s = { 0, n };
	uint64_t key[SAMPLE_LIST / THREADS];
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
	for (int j = 0; j < SAMPLE_LIST / THREADS; j++) {
		at = j * THREADS + threadIdx.x;
		key[j] = at < n ? by_id(row->keys[s.from + at]) : 0;
	}
	__syncthreads();
#pragma unroll
	for (int j = 0; j < SAMPLE_LIST / THREADS; j++) {
		at = j * THREADS + threadIdx.x;
		if (at < n)
			row->keys[at] = key[j];
	}
	__syncthreads();
	sort_keys(row->keys, n);
	at = reach(row->sums, n, target_of(add_up(row, n, true), u) + 1);
	return at < n ? (int)(row->keys[at] >> 32) : row->best;
}

#endif
