/* SPDX-License-Identifier: MIT */
/* One segment: which keys each row sees, their scores, the softmax, the weighted V. */
#include <math.h>

#include "paged.h"

/* What each row of a task sees of one segment: positions start + lo .. start + hi. */
struct span {
	int64_t start;
	int64_t from, to; /* the least lo and the greatest hi */
	int more;         /* another segment follows */
	int32_t lo[PAGED_ROWS], hi[PAGED_ROWS];
};

/* One block of a page. */
struct tile {
	int64_t at;  /* its first key, counted from the segment's start; may lie before it */
	int64_t end; /* after its last key */
	const char *k, *v;
};

static int64_t clamp(int64_t x, int64_t hi)
{
	return x < 0 ? 0 : x > hi ? hi : x;
}

static void span_init(struct span *s, const struct paged_job *j, const struct paged_task *t,
	int64_t segment)
{
	s->start = segment * PAGED_SEGMENT;
	s->from = PAGED_SEGMENT, s->to = 0;
	for (int32_t r = 0; r < t->n_rows; r++) {
		int64_t p = j->b->positions[t->row + r];

		s->lo[r] = s->hi[r] = 0;
		if (j->b->slots[t->row + r] < 0)
			continue;
		s->lo[r] = (int32_t)clamp(kv_first(&j->l->s, p) - s->start, PAGED_SEGMENT);
		s->hi[r] = (int32_t)clamp(p + 1 - s->start, PAGED_SEGMENT);
		if (s->lo[r] >= s->hi[r])
			continue;
		s->from = s->lo[r] < s->from ? s->lo[r] : s->from;
		s->to = s->hi[r] > s->to ? s->hi[r] : s->to;
	}
}

/* The block that holds position start + at. */
static struct tile tile_at(const struct paged_job *j, int32_t seq, int64_t head, int64_t start,
	int64_t at)
{
	const struct nvllm_attention *a = j->a;
	int64_t pos = start + at, off = pos % a->page_tokens, block = off / a->keys;
	int64_t left = a->page_tokens - block * a->keys, dim = j->l->s.dim;
	int64_t page = j->b->page_table[(int64_t)seq * j->b->max_pages + pos / a->page_tokens];
	int64_t es = kv_bytes(a->shape->kv_dtype);
	const char *base = j->pages + page * j->l->page_bytes;
	struct tile t;

	t.at = at - off % a->keys;
	t.end = t.at + (left < a->keys ? left : a->keys);
	t.k = base + (head * a->blocks + block) * dim * a->keys * es;
	t.v = base + j->l->v_offset + (head * a->page_tokens + block * a->keys) * dim * es;
	return t;
}

/* n numbers of the cache as the kernels want them for `rows` rows: as they are, or
 * made f32 in wide. */
static const void *operand(const struct paged_job *j, int64_t rows, const void *p, int64_t n,
	float *wide, int32_t *dtype)
{
	*dtype = j->a->shape->kv_dtype;
	if (*dtype == NVLLM_F32 || rows <= j->l->fn->direct_rows)
		return p;
	j->l->fn->widen(wide, p, n, *dtype);
	*dtype = NVLLM_F32;
	return wide;
}

/* How far after p lies the K or V that is needed next: pages are scattered, and the
 * processor's own prefetching stops where a page of memory ends. 0 = nothing to fetch:
 * the operand is a copy. */
static int64_t ahead_of(const void *p, const void *copy, const char *next)
{
	return p == copy ? 0 : (int64_t)((intptr_t)next - (intptr_t)p);
}

static void segment_scores(const struct paged_job *j, const struct paged_task *t, int64_t head,
	const struct span *sp, const struct paged_scratch *w)
{
	int64_t group = j->l->s.group, dim = j->l->s.dim;
	struct tile b;

	for (int64_t at = sp->from; at < sp->to; at = b.end) {
		const char *next;
		const void *k;
		int32_t dtype;

		b = tile_at(j, t->seq, head, sp->start, at);
		next = b.end < sp->to ? tile_at(j, t->seq, head, sp->start, b.end).k :
			tile_at(j, t->seq, head, sp->start, sp->from).v;
		k = operand(j, t->n_rows * group, b.k, dim * j->a->keys, w->wide, &dtype);
		for (int32_t r = 0, e; r < t->n_rows; r = e + 1) {
			for (e = r; e < t->n_rows && sp->lo[e] < b.end && sp->hi[e] > b.at; e++)
				;
			if (e > r)
				j->l->fn->scores(
					w->s + r * group * PAGED_SCORES + PAGED_BLOCK + b.at,
					w->q + r * group * dim, (e - r) * group, dim, k, dtype,
					j->a->keys, ahead_of(k, w->wide, next));
		}
	}
}

static void segment_softmax(const struct paged_job *j, const struct paged_task *t,
	const struct span *sp, const struct paged_scratch *w, struct paged_part out)
{
	int64_t group = j->l->s.group;

	for (int64_t i = 0; i < t->n_rows * group; i++) {
		int32_t lo = sp->lo[i / group], hi = sp->hi[i / group];

		out.max[i] = -HUGE_VALF, out.sum[i] = 0;
		if (lo < hi)
			j->l->fn->softmax(w->s + i * PAGED_SCORES + PAGED_BLOCK, lo, hi,
				j->l->s.cap, &out.max[i], &out.sum[i]);
	}
}

/* Keys from..to of a tile: rows that see all of them go together, others one by one, so
 * that no row ever touches a V it may not see, not even times 0. */
static void tile_values(const struct paged_job *j, const struct paged_task *t,
	const struct span *sp, const struct paged_scratch *w, float *o, const void *v,
	int32_t dtype, int64_t from, int64_t to, int64_t ahead)
{
	int64_t group = j->l->s.group, dim = j->l->s.dim, es = kv_bytes(dtype);

	for (int32_t r = 0, e; r < t->n_rows; r = e) {
		int64_t lo = sp->lo[r] > from ? sp->lo[r] : from;
		int64_t hi = sp->hi[r] < to ? sp->hi[r] : to;

		for (e = r; e < t->n_rows && sp->lo[e] <= from && sp->hi[e] >= to; e++)
			;
		e = e > r ? e : r + 1;
		if (lo < hi)
			j->l->fn->values(o + r * group * dim,
				w->s + r * group * PAGED_SCORES + PAGED_BLOCK + lo,
				(e - r) * group, dim, (const char *)v + (lo - from) * dim * es,
				dtype, hi - lo, ahead);
	}
}

static void segment_values(const struct paged_job *j, const struct paged_task *t, int64_t head,
	const struct span *sp, const struct paged_scratch *w, struct paged_part out)
{
	int64_t group = j->l->s.group, dim = j->l->s.dim;
	int64_t es = kv_bytes(j->a->shape->kv_dtype);
	struct tile b;

	memset(out.o, 0, (size_t)(t->n_rows * group * dim) * sizeof(float));
	for (int64_t at = sp->from; at < sp->to; at = b.end) {
		const char *next;
		const void *v;
		int64_t to;
		int32_t dtype;

		b = tile_at(j, t->seq, head, sp->start, at);
		to = b.end < sp->to ? b.end : sp->to;
		next = b.end < sp->to ? tile_at(j, t->seq, head, sp->start, b.end).v :
			sp->more ? tile_at(j, t->seq, head, sp->start, PAGED_SEGMENT).k : b.v;
		v = operand(j, t->n_rows * group, b.v + (at - b.at) * dim * es, (to - at) * dim,
			w->wide, &dtype);
		tile_values(j, t, sp, w, out.o, v, dtype, at, to, ahead_of(v, w->wide, next));
	}
}

void paged_segment(const struct paged_job *j, const struct paged_task *t, int64_t head,
	int64_t index, const struct paged_scratch *w, struct paged_part out)
{
	struct span sp;

	span_init(&sp, j, t, t->segment + index);
	sp.more = index + 1 < t->n_segments;
	segment_scores(j, t, head, &sp, w);
	segment_softmax(j, t, &sp, w, out);
	segment_values(j, t, head, &sp, w, out);
}

