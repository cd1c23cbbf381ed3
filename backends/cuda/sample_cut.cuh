/* SPDX-License-Identifier: MIT */
/* Where in a long row a cut lies: in some order of the tokens, the first at which what is kept weighs enough.
 *
 * A sample of the row, a token of each of FEW stretches of ids, is sorted, and says about where. A pass over
 * the row (sample_sweep.cuh) then weighs what is surely above and gathers what lies around: the cut is among
 * those, or the next pass looks to the side on which it is. What a sample does not tell apart is divided by
 * its keys. The gathered are halved in shared memory until there are few, and these sorted.
 * The sample says where is looked, never what is found; and a cut is always found, in 50 passes at most were the
 * sample of no use at all. */
#ifndef NVLLM_CUDA_SAMPLE_CUT_CUH
#define NVLLM_CUDA_SAMPLE_CUT_CUH

#include "sample_sweep.cuh"

#define BY_SAMPLE 8 /* passes, the next go by keys */
#define HALVED 256  /* a ring of no more is sorted */

DEV struct cut *the_cut(const struct row *row) { return &row->s->cut; }

/* Weight that is to be reached among the keys of c->in. */
DEV uint64_t missing(const struct cut *c) { return c->want > c->above ? c->want - c->above : 1; }

DEV uint64_t weigh(const struct row *row, float x) { return row->s->counts ? 1 : weight_rough(row, x); }

/* A key as samples are sorted: what is kept first is least. Of distances, the last bit is free to say on which side
 * of the mean it is. */
DEV uint64_t sample_of(enum order o, uint64_t key) { return o == LOGITS ? (uint64_t)~(uint32_t)key << 32 : ~key & ~1ull; }

/* The weight of a sample, whose logit need not be known: exp(-depth). */
DEV float sample_weight(const struct row *row, enum order o, uint64_t sample)
{
	double d;

	if (row->s->counts)
		return 1;
	if (o == LOGITS)
		return weight_single(logit_of(sample) - row->max, row->scale);
	d = __longlong_as_double((long long)(sample & ~1ull));
	return exp2_fast(-1.4426950f * (float)(sample & 1 ? row->mean - d : row->mean + d));
}

/* Sorted samples to row->keys; running sums of their weights to row->sums. */
OUTLINE void take_sample(struct row *row)
{
	struct cut *c = the_cut(row);
	float unit = row->s->counts ? 1.f : (float)row->unit;
	uint64_t base = 0, all, before;

	__syncthreads();
	for (int j = threadIdx.x; j < FEW; j += THREADS) {
		int from = (int)((int64_t)j * row->n / FEW), to = (int)((int64_t)(j + 1) * row->n / FEW);
		int id = from + (int)__umulhi((uint32_t)j * 0x9e3779b9u, (uint32_t)(to - from));
		float x = logit(row, id);
		uint64_t sample = sample_of(c->order, order_key(row, c->order, x));

		if (c->order == DISTANCES && depth(row, x) < row->mean)
			sample |= 1;
		row->keys[j] = kept(row, x, id) ? sample : PAD;
	}
	sort_keys(row->keys, FEW);
	for (int j = threadIdx.x; j < FEW; j += THREADS) {
		uint64_t w = row->keys[j] == PAD ? 0 : (uint64_t)(sample_weight(row, c->order, row->keys[j]) * unit);

		w = base + block_scan(row->s, w, &all, &before);
		row->sums[j] = w;
		base += all;
	}
	__syncthreads();
	if (threadIdx.x == 0)
		c->samples = reach(row->keys, FEW, PAD);
}

/* A thread's: the keys that a sample may have had; how many samples have larger keys than one, or no smaller. */
DEV struct range sample_keys(const struct row *row, const struct cut *c, int i)
{
	uint64_t sample = row->keys[i], key = c->order == LOGITS ? ~(uint32_t)(sample >> 32) : ~sample;

	return c->order == LOGITS ? range{ key, key } : range{ key & ~1ull, key | 1 };
}
DEV int samples_above(const struct row *row, const struct cut *c, uint64_t key)
{
	return reach(row->keys, c->samples, sample_of(c->order, key));
}
DEV int samples_from(const struct row *row, const struct cut *c, uint64_t key)
{
	return reach(row->keys, c->samples, sample_of(c->order, key) + 2);
}

/* The middle third. */
DEV struct range thirds(struct range in)
{
	uint64_t n = in.hi - in.lo;

	return n < 3 ? range{ in.lo, in.lo } : range{ in.lo + n / 3, in.hi - n / 3 };
}

/* Of a part of a range: whether it is not all. */
DEV bool smaller(struct range part, struct range of) { return part.lo > of.lo || part.hi < of.hi; }

/* How much of what the samples [a, b) weigh is above the cut, by the end of c->in that tells more: their last,
 * for least weights vary least there, unless the cut is nearer to the first. */
DEV uint64_t guess(const struct row *row, const struct cut *c, int a, int b)
{
	uint64_t before = a ? row->sums[a - 1] : 0, whole = row->sums[b - 1] - before, down = missing(c);
	uint64_t up = c->through > c->want ? c->through - c->want : 0;
	double each = (double)FEW / row->n; /* samples of a token */

	if (c->through && (up >> 2) <= down) {
		double w = (double)up * each;

		return w < (double)whole ? whole - (uint64_t)w : 0;
	}
	return (uint64_t)fmin((double)down * each, (double)whole);
}

/* A thread's: the part of c->in in which the cut is looked for by the next pass. A smaller one, but for the
 * first pass: the ring may have room for all. */
DEV struct range look_in(const struct row *row, const struct cut *c)
{
	int a = samples_above(row, c, c->in.hi), b = samples_from(row, c, c->in.lo), i, reach_out;
	struct range r = c->in, s;

	if (a >= b || c->passes > BY_SAMPLE)
		return thirds(c->in);
	i = a + reach(row->sums + a, b - a, (a ? row->sums[a - 1] : 0) + guess(row, c, a, b));
	i = min(i, b - 1);
	reach_out = (int)((int64_t)(RING / 8 * 3) * FEW / row->n); /* to either side: three quarters of a ring, as a rule */
	if (c->passes)
		reach_out = min(reach_out, (b - a) / 4);
	if (i - reach_out >= a)
		s = sample_keys(row, c, i - reach_out), r.hi = min(r.hi, s.hi);
	if (i + reach_out < b)
		s = sample_keys(row, c, i + reach_out), r.lo = max(r.lo, s.lo);
	if (!c->passes || smaller(r, c->in))
		return r;
	s = sample_keys(row, c, i);
	r = range{ max(c->in.lo, s.lo), min(c->in.hi, s.hi) };
	return smaller(r, c->in) ? r : thirds(c->in);
}

/* A thread's: what a pass over c->next has told. */
DEV void learn(struct cut *c, const struct swept *s)
{
	struct range r = c->next;

	c->listed = s->n;
	c->found = false;
	c->passes++;
	if (s->inner >= c->want && r.hi < c->in.hi) {
		c->in.lo = r.hi + 1, c->through = s->inner;
	} else if (s->inner + s->ring < c->want && r.lo > c->in.lo) {
		c->in.hi = r.lo - 1, c->above = s->inner + s->ring;
	} else {
		c->in = r, c->above = s->inner, c->through = s->inner + s->ring, c->n = s->n;
		c->found = c->n <= RING || r.lo == r.hi;
	}
}

/* Sets out to find a cut. through: 0 = not known. counts: what is wanted is a number of tokens. */
DEV void begin_cut(struct row *row, enum order o, struct range in, uint64_t want, uint64_t through, bool counts)
{
	__syncthreads();
	if (threadIdx.x == 0) {
		struct cut *c = the_cut(row);

		c->order = o, c->in = in, c->want = want, c->above = 0, c->through = through;
		c->passes = c->n = c->listed = 0;
		row->s->counts = counts;
	}
	__syncthreads();
}

/* Passes until the cut's keys are one, or its tokens are all in the ring. (Here and in what calls it nothing is held in
 * registers over a pass, which needs most of them.) */
OUTLINE void find(struct row *row)
{
	take_sample(row);
	do {
		if (threadIdx.x == 0)
			the_cut(row)->next = look_in(row, the_cut(row));
		set_bands(row, the_cut(row)->order, &the_cut(row)->next);
		sweep<true>(row);
		if (threadIdx.x == 0)
			learn(the_cut(row), &row->s->swept);
		__syncthreads();
	} while (!the_cut(row)->found);
}

/* A thread's: a key of c->in but the least, to halve the ring. */
DEV uint64_t middle(const struct row *row, const struct cut *c)
{
	int a = samples_above(row, c, c->in.hi), b = samples_from(row, c, c->in.lo);

	if (a < b) {
		uint64_t key = sample_keys(row, c, (a + b) / 2).lo;

		if (key > c->in.lo && key <= c->in.hi)
			return key;
	}
	return c->in.lo + (c->in.hi - c->in.lo) / 2 + 1;
}

/* The ring's tokens of c->in, to HALVED or of one key. */
OUTLINE void halve(struct row *row)
{
	struct cut *c = the_cut(row);

	while (c->n > HALVED && c->n <= RING && c->in.lo < c->in.hi) {
		uint64_t w = 0, n = 0;
		struct band outer, inner;

		if (threadIdx.x == 0)
			c->next = range{ middle(row, c), c->in.hi };
		set_bands(row, c->order, &c->next);
		outer = row->s->outer, inner = row->s->inner;
		for (int i = threadIdx.x; i < c->listed; i += THREADS) {
			float x = logit_of(row->ring[i]);

			if (within(outer, x) && !within(inner, x))
				w += weigh(row, x), n++;
		}
		w = block_sum(row->s, w);
		n = block_sum(row->s, n);
		if (threadIdx.x == 0) {
			if (w >= missing(c))
				c->in.lo = c->next.lo, c->n = (int)n;
			else
				c->in.hi = c->next.lo - 1, c->above += w, c->n -= (int)n;
		}
		__syncthreads();
	}
}

/* The ring's tokens of c->in, FEW at most, to row->keys in the place of the sample: sorted by logits, with running
 * sums. */
OUTLINE void sort_few(struct row *row)
{
	struct cut *c = the_cut(row);

	set_bands(row, c->order, &c->in);
	if (threadIdx.x == 0)
		row->s->count = 0;
	__syncthreads();
	for (int i = threadIdx.x; i < c->listed; i += THREADS) {
		float x = logit_of(row->ring[i]);

		if (within(row->s->outer, x) && !within(row->s->inner, x))
			row->keys[atomicAdd(&row->s->count, 1u)] = row->ring[i];
	}
	__syncthreads();
	sort_keys(row->keys, c->n);
	add_up(row, c->n, false);
}

#endif
