/* SPDX-License-Identifier: MIT */
/* tests/emu/attn_oracle.h - steps for tests of attention: a batch, a pool of pages, and what
 * attention.h says that y is, in double.
 *
 * Pages are in random order, everything that no sequence owns is NaN, and entries of the page table
 * that mean nothing would lead far out of the pool. */
#ifndef NVLLM_EMU_ATTN_ORACLE_H
#define NVLLM_EMU_ATTN_ORACLE_H

#include "check.h"
#include "kv.cuh"
#include <nvllm/attention.h>

struct seq { int rows, len; }; /* rows of this step; length with them; len 0: padding */

#define MAX_SEQS 1100
struct step_case {
	const char *name;
	int dim, n_kv, group, window;
	double cap;
	int nobody; /* rows beyond the last sequence */
	struct seq seqs[MAX_SEQS]; /* rows 0 and len 0 end them, unless n_seqs says how many */
	int n_seqs;
};

struct step {
	const struct step_case *c;
	int T, n_seqs, n_heads, max_pages, page_tokens, n_pages;
	double scale;
	struct nvllm_batch b;
	int32_t *positions, *slots, *q_start, *kv_len, *page_table;
	int *seq_of;           /* [T] -1 = nobody's or padding */
	double *q;             /* [T][n_heads][dim] */
	double *k, *v;         /* [sum of len][n_kv][dim] */
	int64_t *first;        /* [n_seqs] of k and v */
	double *want;          /* [T][n_heads][dim], 0 where nothing is seen */
};

template <class T> static inline T *zeros(int64_t n) { return (T *)calloc((size_t)(n > 0 ? n : 1), sizeof(T)); }

/* What a number becomes in type T. */
template <class T> static inline double rounded(double x) { return (double)to_f32(from_f32<T>((float)x)); }

static inline void step_pages(struct step *s, struct rnd *r)
{
	int used = 0, *order;

	for (int i = 0; i < s->n_seqs; i++) {
		int n = (s->c->seqs[i].len + s->page_tokens - 1) / s->page_tokens;

		s->max_pages = n > s->max_pages ? n : s->max_pages;
		used += n;
	}
	s->max_pages += 2;
	s->n_pages = used + 3;
	order = zeros<int>(s->n_pages);
	for (int i = 0; i < s->n_pages; i++)
		order[i] = i;
	for (int i = s->n_pages - 1; i > 0; i--) {
		int k = rnd_int(r, 0, i), t = order[i];

		order[i] = order[k], order[k] = t;
	}
	s->page_table = edges<int32_t>((int64_t)s->n_seqs * s->max_pages);
	for (int i = 0, at = 0; i < s->n_seqs; i++)
		for (int p = 0; p < s->max_pages; p++)
			s->page_table[i * s->max_pages + p] = p * s->page_tokens < s->c->seqs[i].len ? order[at++] : 1 << 28;
	free(order);
}

/* K: the cache's type. Q: activations' type, which K and V are rounded to first, and q, times q_scale, as the
 * backend keeps it. */
template <class K, class Q> static inline struct step *step_new(const struct step_case *c, int page_tokens, double q_scale,
	uint64_t seed)
{
	struct step *s = zeros<struct step>(1);
	struct rnd r = rnd_seed(seed);
	int64_t keys = 0, n;
	int t = 0;

	s->c = c, s->page_tokens = page_tokens, s->n_heads = c->n_kv * c->group;
	s->scale = 1 / sqrt((double)c->dim);
	s->n_seqs = c->n_seqs;
	while (!c->n_seqs && s->n_seqs < MAX_SEQS && (c->seqs[s->n_seqs].rows || c->seqs[s->n_seqs].len))
		s->n_seqs++;
	for (int i = 0; i < s->n_seqs; i++)
		s->T += c->seqs[i].rows, keys += c->seqs[i].len;
	s->T += c->nobody;
	step_pages(s, &r);
	s->positions = edges<int32_t>(s->T), s->slots = edges<int32_t>(s->T);
	s->q_start = edges<int32_t>(s->n_seqs + 1), s->kv_len = edges<int32_t>(s->n_seqs);
	s->seq_of = zeros<int>(s->T), s->first = zeros<int64_t>(s->n_seqs);
	keys = 0;
	for (int i = 0; i < s->n_seqs; i++) {
		struct seq q = c->seqs[i];

		s->q_start[i] = t, s->kv_len[i] = q.len, s->first[i] = keys, keys += q.len;
		for (int p = q.len - q.rows; p < q.len; p++, t++) {
			s->seq_of[t] = q.len ? i : -1;
			s->positions[t] = q.len ? p : 0;
			s->slots[t] = q.len ? s->page_table[i * s->max_pages + p / page_tokens] * page_tokens + p % page_tokens : -1;
		}
	}
	s->q_start[s->n_seqs] = t;
	for (; t < s->T; t++)
		s->seq_of[t] = -1, s->positions[t] = 0, s->slots[t] = -1;
	n = (int64_t)s->T * s->n_heads * c->dim;
	s->q = zeros<double>(n), s->want = zeros<double>(n);
	for (int64_t i = 0; i < n; i++)
		s->q[i] = rounded<Q>(1.5 * rnd_normal(&r) * q_scale) / q_scale;
	n = keys * c->n_kv * c->dim;
	s->k = zeros<double>(n), s->v = zeros<double>(n);
	for (int64_t i = 0; i < n; i++)
		s->k[i] = rounded<K>(rounded<Q>(rnd_normal(&r))), s->v[i] = rounded<K>(rounded<Q>(rnd_normal(&r)));
	s->b.size = sizeof(s->b);
	s->b.n_tokens = s->T, s->b.n_seqs = s->n_seqs, s->b.max_pages = s->max_pages;
	s->b.positions = s->positions, s->b.slots = s->slots, s->b.q_start = s->q_start;
	s->b.kv_len = s->kv_len, s->b.page_table = s->page_table;
	return s;
}

static inline void oracle_row(struct step *s, int t, int head, double *p)
{
	const struct step_case *c = s->c;
	int i = s->seq_of[t], last = s->positions[t], low = 0;
	const double *q = s->q + ((int64_t)t * s->n_heads + head) * c->dim;
	double *y = s->want + ((int64_t)t * s->n_heads + head) * c->dim, max = -HUGE_VAL, sum = 0;

	if (c->window && last >= c->window)
		low = last - c->window + 1;
	for (int u = low; u <= last; u++) {
		const double *k = s->k + ((s->first[i] + u) * c->n_kv + head / c->group) * c->dim;
		double x = 0;

		for (int d = 0; d < c->dim; d++)
			x += q[d] * k[d];
		x *= s->scale;
		p[u] = c->cap > 0 ? c->cap * tanh(x / c->cap) : x;
		max = p[u] > max ? p[u] : max;
	}
	for (int u = low; u <= last; u++)
		sum += p[u] = exp(p[u] - max);
	for (int u = low; u <= last; u++)
		for (int d = 0; d < c->dim; d++)
			y[d] += p[u] / sum * s->v[((s->first[i] + u) * c->n_kv + head / c->group) * c->dim + d];
}

static inline void step_oracle(struct step *s)
{
	double *p = zeros<double>((int64_t)s->max_pages * s->page_tokens);

	for (int t = 0; t < s->T; t++)
		for (int h = 0; h < s->n_heads && s->seq_of[t] >= 0; h++)
			oracle_row(s, t, h, p);
	free(p);
}

/* The pool in the form of kv.cuh, with K and V of all positions. */
template <class K> static inline char *step_pool(const struct step *s)
{
	int dim = s->c->dim, n_kv = s->c->n_kv, row = dim * (int)sizeof(K);
	int64_t bytes = kv_page_bytes(row, n_kv);
	char *pool = (char *)edges_new((size_t)(s->n_pages * bytes), 128);

	for (int i = 0; i < s->n_seqs; i++)
		for (int p = 0; p < s->kv_len[i]; p++)
			for (int h = 0; h < n_kv; h++) {
				char *to = pool + s->page_table[i * s->max_pages + p / PAGE] * bytes + h * kv_head_bytes(row);
				const double *k = s->k + ((s->first[i] + p) * n_kv + h) * dim;
				const double *v = s->v + ((s->first[i] + p) * n_kv + h) * dim;

				for (int d = 0; d < dim; d++) {
					int at = kv_at(row, p % PAGE, d * (int)sizeof(K));

					*(K *)(to + at) = from_f32<K>((float)k[d]);
					*(K *)(to + bytes / 2 + at) = from_f32<K>((float)v[d]);
				}
			}
	return pool;
}

/* n numbers, each times `scale`. */
template <class T> static inline T *as(const double *x, int64_t n, double scale)
{
	T *y = edges<T>(n);

	for (int64_t i = 0; i < n; i++)
		y[i] = from_f32<T>((float)(x[i] * scale));
	return y;
}

static inline void step_free(struct step *s)
{
	edges_free(s->positions), edges_free(s->slots), edges_free(s->q_start), edges_free(s->kv_len);
	edges_free(s->page_table);
	free(s->seq_of), free(s->first), free(s->q), free(s->k), free(s->v), free(s->want), free(s);
}

#endif
