/* SPDX-License-Identifier: MIT */
/* attention_rig.h - an attention plugin with its pages, sequences and steps: whatever
 * the chunks and the batch, each sequence's inputs are given and outputs kept by layer
 * and position. Pages are dealt in a shuffled order from a pool full of NaN. */
#ifndef ATTENTION_RIG_H
#define ATTENTION_RIG_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include <nvllm/attention.h>

#include "fake_device.h"

#define MAX_LAYERS 3
#define MAX_SEQS 8

/* ---- what is tested ---- */

struct subject {
	const char *plugin, *isa;
};

/* One model and cache. */
struct setup {
	int32_t kv_dtype, page_tokens, n_layers, max_tokens, n_workers;
	int64_t max_len;
	struct nvllm_attn_layer layers[MAX_LAYERS];
};

/* One sequence: inputs and outputs by layer and position. */
struct seq {
	int32_t len, done;
	int32_t *pages;
	float *q[MAX_LAYERS], *k[MAX_LAYERS], *v[MAX_LAYERS], *y[MAX_LAYERS];
};

struct rig {
	struct setup s;
	struct fake_host host;
	struct nvllm_device dev;
	struct nvllm_attn_shape shape;
	const struct nvllm_attn_layer *layer_ptrs[MAX_LAYERS];
	const struct nvllm_attention_vt *vt;
	struct nvllm_attention *a;
	struct nvllm_kv_layout layout;
	void *kv[MAX_LAYERS], *workspace;
	int64_t n_pages;
	int32_t *free_pages; /* shuffled */
	int32_t n_free, max_pages;
	struct seq seqs[MAX_SEQS];
	int n_seqs;
};

static inline struct nvllm_attn_layer layer_of(int32_t heads, int32_t kv_heads, int32_t dim)
{
	return (struct nvllm_attn_layer){ .size = sizeof(struct nvllm_attn_layer),
		.n_heads = heads, .n_kv_heads = kv_heads, .head_dim = dim, .kv_layer = -1,
		.scale = 1 / sqrt((double)dim) };
}

static inline struct setup setup_of(int32_t kv_dtype, int32_t heads, int32_t kv_heads, int32_t dim)
{
	return (struct setup){ .kv_dtype = kv_dtype, .page_tokens = 16, .n_layers = 1,
		.max_tokens = 1100, .n_workers = 1, .max_len = 1100,
		.layers = { layer_of(heads, kv_heads, dim) } };
}

/* ---- the rig ---- */

/* Everything up to create(), whose status it returns. */
static inline int rig_create(struct rig *r, const struct subject *sub, const struct setup *s)
{
	const struct nvllm_component *c = fake_plugin(sub->plugin);
	int64_t conf = s->page_tokens;

	memset(r, 0, sizeof(*r));
	r->s = *s;
	assert_non_null(c);
	assert_int_equal(c->kind, NVLLM_KIND_ATTENTION);
	assert_int_equal(c->conf_size, sizeof(conf));
	fake_host_init(&r->host);
	fake_device_init(&r->dev, s->n_workers, sub->isa);
	for (int i = 0; i < MAX_LAYERS; i++)
		r->layer_ptrs[i] = &r->s.layers[i];
	r->shape = (struct nvllm_attn_shape){ .size = sizeof(r->shape), .n_layers = s->n_layers,
		.kv_dtype = s->kv_dtype, .max_tokens = s->max_tokens, .max_seqs = MAX_SEQS,
		.max_len = s->max_len, .layers = r->layer_ptrs };
	r->layout.size = sizeof(r->layout);
	r->vt = c->vt;
	return r->vt->create(&r->host.h, &r->dev.ref, &r->shape, &conf, &r->a, &r->layout);
}

static inline void rig_open(struct rig *r, const struct subject *sub, const struct setup *s,
	uint64_t seed)
{
	assert_int_equal(rig_create(r, sub, s), NVLLM_OK);
	assert_int_equal(r->layout.page_tokens, s->page_tokens);
	r->max_pages = (int32_t)(s->max_len / s->page_tokens + 1);
	r->n_pages = 4 * r->max_pages + 5;
	r->free_pages = malloc((size_t)r->n_pages * sizeof(int32_t));
	r->n_free = (int32_t)r->n_pages;
	for (int32_t i = 0; i < r->n_free; i++)
		r->free_pages[i] = i;
	for (int32_t i = r->n_free - 1; i > 0; i--) {
		int32_t j = (int32_t)(fake_random(&seed) % (uint64_t)(i + 1)), t = r->free_pages[i];

		r->free_pages[i] = r->free_pages[j], r->free_pages[j] = t;
	}
	for (int i = 0; i < s->n_layers; i++) {
		size_t bytes = (size_t)(r->layout.layer_bytes[i] * r->n_pages);

		assert_true((bytes == 0) ==
			(s->layers[i].kv_layer >= 0 || !s->layers[i].n_heads));
		r->kv[i] = bytes ? malloc(bytes) : NULL;
		if (bytes)
			memset(r->kv[i], 0xff, bytes); /* NaN in f32, f16 and bf16 */
	}
	r->workspace = malloc((size_t)r->layout.workspace_bytes);
	memset(r->workspace, 0xff, (size_t)r->layout.workspace_bytes);
	assert_int_equal(r->vt->attach(r->a, r->kv, r->n_pages, r->workspace), NVLLM_OK);
}

static inline void rig_close(struct rig *r)
{
	for (int s = 0; s < r->n_seqs; s++) {
		free(r->seqs[s].pages);
		for (int l = 0; l < MAX_LAYERS; l++) {
			free(r->seqs[s].q[l]), free(r->seqs[s].k[l]);
			free(r->seqs[s].v[l]), free(r->seqs[s].y[l]);
		}
	}
	for (int i = 0; i < MAX_LAYERS; i++)
		free(r->kv[i]);
	free(r->workspace);
	free(r->free_pages);
	fake_host_finish(&r->host);
}

static inline float *normals(int64_t n, uint64_t seed, float scale)
{
	float *x = malloc((size_t)(n ? n : 1) * sizeof(float));

	for (int64_t i = 0; i < n; i++)
		x[i] = fake_normal(&seed) * scale;
	return x;
}

/* A sequence of len tokens whose numbers follow from the seed alone. */
static inline int add_seq(struct rig *r, int32_t len, uint64_t seed)
{
	struct seq *s = &r->seqs[r->n_seqs];

	s->len = len;
	s->pages = malloc((size_t)r->max_pages * sizeof(int32_t));
	for (int32_t i = 0; i * r->s.page_tokens < len; i++)
		s->pages[i] = r->free_pages[--r->n_free];
	for (int l = 0; l < r->s.n_layers; l++) {
		const struct nvllm_attn_layer *a = &r->s.layers[l];
		int64_t nq = (int64_t)len * a->n_heads * a->head_dim;
		int64_t nk = (int64_t)len * a->n_kv_heads * a->head_dim;

		s->q[l] = normals(nq, seed * 100 + (uint64_t)l * 10, 1.6f);
		s->k[l] = normals(nk, seed * 100 + (uint64_t)l * 10 + 1, 1.6f);
		s->v[l] = normals(nk, seed * 100 + (uint64_t)l * 10 + 2, 1);
		s->y[l] = normals(nq, 7, 1);
	}
	return r->n_seqs++;
}

/* ---- a step ---- */

/* What a step is made of: rows[i] new tokens of sequence seq[i], or (PAD) of a padding
 * sequence; then padding. */
#define PAD (-1)
struct plan {
	int n, seq[MAX_SEQS];
	int32_t rows[MAX_SEQS];
	int32_t pad_rows; /* of a padding sequence of length 0 at the end */
};

struct step {
	struct nvllm_batch b;
	int32_t *positions, *slots, *q_start, *kv_len, *table;
};

static inline void step_build(struct step *st, struct rig *r, const struct plan *p)
{
	int32_t n = p->pad_rows, t = 0;

	for (int i = 0; i < p->n; i++)
		n += p->rows[i];
	st->positions = calloc((size_t)n + 1, sizeof(int32_t));
	st->slots = calloc((size_t)n + 1, sizeof(int32_t));
	st->q_start = calloc((size_t)p->n + 2, sizeof(int32_t));
	st->kv_len = calloc((size_t)p->n + 1, sizeof(int32_t));
	st->table = malloc(((size_t)p->n + 1) * (size_t)r->max_pages * sizeof(int32_t));
	memset(st->table, 0x7f, ((size_t)p->n + 1) * (size_t)r->max_pages * sizeof(int32_t));
	for (int i = 0; i < p->n; i++) {
		struct seq *s = p->seq[i] == PAD ? NULL : &r->seqs[p->seq[i]];

		st->q_start[i] = t;
		for (int32_t j = 0; !s && j < p->rows[i]; j++)
			st->slots[t++] = -1;
		if (!s)
			continue;
		st->kv_len[i] = s->done + p->rows[i];
		for (int32_t j = 0; j * r->s.page_tokens < st->kv_len[i]; j++)
			st->table[i * r->max_pages + j] = s->pages[j];
		for (int32_t j = 0; j < p->rows[i]; j++, t++) {
			int32_t pos = s->done + j;

			st->positions[t] = pos;
			st->slots[t] = s->pages[pos / r->s.page_tokens] * r->s.page_tokens +
				pos % r->s.page_tokens;
		}
	}
	st->q_start[p->n] = t;
	for (; t < n; t++)
		st->slots[t] = -1;
	st->q_start[p->n + 1] = t;
	st->b = (struct nvllm_batch){ .size = sizeof(st->b), .n_tokens = n,
		.n_seqs = p->n + (p->pad_rows > 0), .max_pages = r->max_pages,
		.max_kv_len = (int32_t)r->s.max_len, .positions = st->positions, .slots = st->slots,
		.q_start = st->q_start, .kv_len = st->kv_len, .page_table = st->table };
}

static inline void step_free(struct step *st)
{
	free(st->positions), free(st->slots), free(st->q_start), free(st->kv_len), free(st->table);
}

static inline struct nvllm_tensor matrix(int64_t rows, int64_t cols, int64_t gap)
{
	size_t bytes = (size_t)(rows * (cols + gap)) * sizeof(float);
	struct nvllm_tensor t = { .data = malloc(bytes + 1), .rows = rows, .cols = cols,
		.stride = (cols + gap) * (int64_t)sizeof(float), .planes = 1, .dtype = NVLLM_F32 };

	memset(t.data, 0xff, bytes);
	return t;
}

static inline float *row_of(struct nvllm_tensor t, int64_t row)
{
	return (float *)((char *)t.data + row * t.stride);
}

/* A padding row holds any finite numbers. */
static inline void fill_row(struct nvllm_tensor t, int64_t row, int into)
{
	for (int64_t i = 0; i < t.cols && into; i++)
		row_of(t, row)[i] = 0.25f;
}

/* Copies between a step's matrix and the sequences it is made of. */
static inline void move_rows(struct rig *r, const struct plan *p,
	float *const *(*pick)(struct seq *), struct nvllm_tensor t, int layer, int into)
{
	int64_t row = 0;

	for (int i = 0; i < p->n; i++)
		for (int32_t j = 0; j < p->rows[i]; j++, row++) {
			struct seq *s = p->seq[i] == PAD ? NULL : &r->seqs[p->seq[i]];
			float *x = s ? pick(s)[layer] + (s->done + j) * t.cols : NULL;

			if (!s)
				fill_row(t, row, into);
			else if (into)
				memcpy(row_of(t, row), x, (size_t)t.cols * sizeof(float));
			else
				memcpy(x, row_of(t, row), (size_t)t.cols * sizeof(float));
		}
}

static inline float *const *seq_q(struct seq *s) { return s->q; }
static inline float *const *seq_k(struct seq *s) { return s->k; }
static inline float *const *seq_v(struct seq *s) { return s->v; }
static inline float *const *seq_y(struct seq *s) { return s->y; }

static inline int run_layer(struct rig *r, const struct plan *p, const struct step *st, int layer)
{
	const struct nvllm_attn_layer *a = &r->s.layers[layer];
	int64_t n = st->b.n_tokens, hd = (int64_t)a->n_heads * a->head_dim;
	int64_t kd = (int64_t)a->n_kv_heads * a->head_dim;
	struct nvllm_tensor q = matrix(n, hd, 3), k = matrix(n, kd, 5);
	struct nvllm_tensor v = matrix(n, kd, 5), y = matrix(n, hd, 0);
	int status;

	move_rows(r, p, seq_q, q, layer, 1);
	if (a->kv_layer < 0) { /* else they stay NaN: nobody may look */
		move_rows(r, p, seq_k, k, layer, 1);
		move_rows(r, p, seq_v, v, layer, 1);
	}
	status = r->vt->run(r->a, NULL, layer, &st->b, q, k, v, y);
	if (status == NVLLM_OK) {
		move_rows(r, p, seq_y, y, layer, 0);
		for (int64_t t = 0; t < n; t++)
			for (int64_t i = 0; i < hd && st->slots[t] < 0; i++)
				assert_true(isfinite(row_of(y, t)[i]));
	}
	free(q.data), free(k.data), free(v.data), free(y.data);
	return status;
}

static inline void step(struct rig *r, const struct plan *p)
{
	struct step st;

	step_build(&st, r, p);
	for (int l = 0; l < r->s.n_layers; l++)
		assert_int_equal(run_layer(r, p, &st, l), NVLLM_OK);
	step_free(&st);
	for (int i = 0; i < p->n; i++)
		if (p->seq[i] != PAD)
			r->seqs[p->seq[i]].done += p->rows[i];
}

/* The whole of one sequence, in chunks. */
static inline void feed(struct rig *r, int s, int32_t chunk)
{
	while (r->seqs[s].done < r->seqs[s].len) {
		int32_t left = r->seqs[s].len - r->seqs[s].done;

		step(r, &(struct plan){ .n = 1, .seq = { s },
			.rows = { left < chunk ? left : chunk } });
	}
}

/* All sequences side by side: each step some rows of each that is not done, with padding
 * between them and after them. */
static inline void feed_mixed(struct rig *r, uint64_t seed)
{
	for (;;) {
		struct plan p = { .pad_rows = (int32_t)(fake_random(&seed) % 3) };
		int32_t room = r->s.max_tokens - p.pad_rows;

		for (int i = 0; i < r->n_seqs; i++) {
			int32_t left = r->seqs[i].len - r->seqs[i].done;
			int32_t want = fake_random(&seed) % 2 ? 1 :
				(int32_t)(fake_random(&seed) % 90);

			want = want < left ? want : left;
			want = want < room ? want : room;
			if (want) {
				p.seq[p.n] = i, p.rows[p.n++] = want;
				room -= want;
			}
			if (room && p.n + 2 < MAX_SEQS && fake_random(&seed) % 5 == 0) {
				p.seq[p.n] = PAD, p.rows[p.n++] = 1;
				room--;
			}
			if (p.n + 1 == MAX_SEQS)
				break;
		}
		if (p.n)
			step(r, &p);
		for (int i = 0, left = 0; i < r->n_seqs; i++) {
			left += r->seqs[i].len - r->seqs[i].done;
			if (i + 1 == r->n_seqs && !left)
				return;
		}
	}
}

#endif
