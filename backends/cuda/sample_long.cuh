/* SPDX-License-Identifier: MIT */
/* Rows of which more tokens may be kept than are sorted: each cut by its place in the row (sample_cut.cuh). The pass
 * that found the last cut has weighed the tiles for the draw, too. */
#ifndef NVLLM_CUDA_SAMPLE_LONG_CUH
#define NVLLM_CUDA_SAMPLE_LONG_CUH

#include "sample_cut.cuh"

OUTLINE int pick_kept(struct row *row, enum measure of, uint64_t t) { return pick(row, of, t); }

DEV void sweep_kept(struct row *row) { sweep_band(row, kept_band(row), false); }

/* Lists of FEW beside the ring, or of LIST in its place. */
DEV void lists_beside(struct row *row)
{
	row->keys = row->ring + RING, row->sums = row->keys + FEW;
}
DEV void lists_within(struct row *row)
{
	row->keys = row->ring, row->sums = row->keys + LIST;
}

DEV struct range kept_logits(const struct row *row)
{
	struct band all = kept_band(row);

	return range{ ordered(all.lo), ordered(all.hi) };
}

/* The floor becomes the k-th largest logit; one that no kept is below, where there are no more than k. */
OUTLINE void long_top_k(struct row *row)
{
	const struct cut *c;
	float x;

	lists_beside(row);
	begin_cut(row, LOGITS, kept_logits(row), (uint64_t)row->r->top_k, 0, true);
	find(row);
	halve(row);
	c = the_cut(row);
	x = unordered((uint32_t)c->in.lo);
	if (c->in.lo < c->in.hi && c->n > 0) {
		sort_few(row);
		x = logit_of(row->keys[min((int)missing(c), c->n) - 1]);
	}
	lists_within(row);
	row->floor = x;
}

/* To the tiles' weights those of what is kept of the ring. */
OUTLINE void weigh_ring(struct row *row)
{
	__syncthreads();
	for (int i = threadIdx.x; i < row->s->cut.listed; i += THREADS) {
		float x = logit_of(row->ring[i]);
		int id = (int)(uint32_t)row->ring[i];

		if (kept(row, x, id))
			atomicAdd((unsigned long long *)row->mass + id / TILE, (unsigned long long)weight_rough(row, x));
	}
	__syncthreads();
}

/* How many of the tokens of one logit are needed, from the lowest id up. */
DEV uint64_t ties_needed(const struct row *row)
{
	uint64_t w = max(weight_rough(row, row->cut), (uint64_t)1);

	return (missing(the_cut(row)) + w - 1) / w;
}

/* A cut among more tokens of one logit than are sorted. */
OUTLINE void cut_ties(struct row *row)
{
	row->cut = unordered((uint32_t)the_cut(row)->in.lo);
	if (ties_needed(row) >= (uint64_t)the_cut(row)->n)
		return;
	sweep_band(row, band{ row->cut, row->cut }, true);
	row->last = pick_kept(row, EQUALS, ties_needed(row) - 1);
}

/* Cuts the row at top_p; row->mass is of what is left. */
DEV void long_top_p(struct row *row)
{
	const struct cut *c;

	if (!row->all) {
		sweep_kept(row);
		row->all = row->s->swept.inner;
	}
	begin_cut(row, LOGITS, kept_logits(row), share(row->r->top_p, row->all), row->all, false);
	find(row);
	halve(row);
	c = the_cut(row);
	if (c->n > FEW) {
		cut_ties(row);
		sweep_kept(row);
		return;
	}
	if (c->n > 0) { /* otherwise all is needed, to what is lost in rounding */
		int at;

		sort_few(row);
		at = min(reach(row->sums, c->n, missing(c)), c->n - 1);
		row->last = (int)(uint32_t)row->keys[at];
		row->cut = logit_of(row->keys[at]);
	}
	weigh_ring(row);
}

/* Cuts it at typical_p; likewise. */
DEV void long_typical_p(struct row *row)
{
	const struct cut *c;
	struct range in = { 0, ~0ull };
	double d = INF;
	uint64_t all;

	sweep_kept(row);
	all = row->s->swept.inner;
	row->mean = row->s->swept.deep / (double)all;
	in.lo = min(order_key(row, DISTANCES, kept_band(row).lo), order_key(row, DISTANCES, row->max));
	begin_cut(row, DISTANCES, in, share(row->r->typical_p, all), all, false);
	find(row);
	halve(row);
	c = the_cut(row);
	if (c->in.lo < c->in.hi && c->n > 0) {
		sort_few(row);
		d = nearest(row, c->n, missing(c));
	}
	row->far = fmin(distance_of(c->in.lo), d); /* infinite: not reached, to what is lost in rounding; so all of them */
	if (c->listed > RING) { /* all of one distance */
		set_bands(row, DISTANCES, &c->in);
		sweep_band(row, row->s->outer, false);
	} else {
		weigh_ring(row);
	}
}

/* More tokens than LIST are left of top_k. */
OUTLINE int draw_long(struct row *row)
{
	row->rough = true;
	lists_beside(row);
	if (row->r->top_p < 1)
		long_top_p(row);
	if (row->r->typical_p < 1)
		long_typical_p(row);
	if (!(row->r->top_p < 1 || row->r->typical_p < 1))
		sweep_kept(row);
	return pick_kept(row, WEIGHTS, target_of(all_mass(row), row->u));
}

#endif
