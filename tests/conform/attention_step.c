/* SPDX-License-Identifier: MIT */
/* tests/conform/attention_step.c - an instance on pages full of NaN in shuffled order, and one
 * step through it: each row looked at, each page that the step does not name unchanged. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "attention.h"

/* ---- instance ---- */

static int attach(struct sut *u)
{
	const struct geometry *g = u->g;
	int status;

	u->page_tokens = u->layout.page_tokens;
	if (u->page_tokens < 1 || u->page_tokens > 65536 || !u->layout.layer_bytes ||
		u->layout.workspace_bytes < 0)
		return ck_bad(
			"create left an impossible layout: page_tokens %d, workspace %ld bytes",
			u->page_tokens, (long)u->layout.workspace_bytes);
	u->max_pages = (attn_max_len + u->page_tokens - 1) / u->page_tokens + 1;
	u->n_pages = u->max_pages * MAX_SEQS + 3;
	for (int i = 0; i < g->n_layers; i++) {
		int64_t bytes = u->layout.layer_bytes[i];

		if (bytes < 0 || (bytes == 0) !=
			(g->layers[i].kv_layer >= 0 || g->layers[i].n_heads == 0))
			return ck_bad("layer %d: %ld bytes a page", i, (long)bytes);
		u->kv[i] = bytes ? gmem_get("the KV pages", bytes * u->n_pages, 256) : NULL;
	}
	if (u->layout.workspace_bytes)
		u->workspace = gmem_get("the workspace", u->layout.workspace_bytes, 256);
	u->vt = mirror_attention(u->vt, g->n_layers);
	status = u->vt->attach(u->a, (void *const *)u->kv, u->n_pages, u->workspace);
	return ck_refusal(status, "attach") < 0 ? ck_bad("attach: %s", fake_said()) : 0;
}

/* Pages of each sequence: a shuffle that another seed makes another. */
static void deal_pages(struct sut *u, uint64_t seed)
{
	struct rng r = { seed };
	int32_t *all = malloc(sizeof(*all) * (size_t)u->n_pages), n = u->n_pages;

	for (int32_t i = 0; i < n; i++)
		all[i] = i;
	for (int32_t i = n - 1; i > 0; i--) {
		int32_t j = (int32_t)rng_int(&r, i + 1), t = all[i];

		all[i] = all[j], all[j] = t;
	}
	for (int s = 0; s < MAX_SEQS; s++)
		for (int32_t i = 0; i < u->max_pages; i++)
			u->table[s][i] = all[s * u->max_pages + i];
	free(all);
}

/* 0, 1 = refused in a sentence (*why), -1 = failed. */
int sut_open(struct sut *u, const struct nvllm_component *c, const struct geometry *g,
	const char *const *sets, uint64_t seed)
{
	struct nvllm_attn_shape *shape = calloc(1, sizeof(*shape));
	const struct nvllm_attn_layer **layers = calloc(MAX_LAYERS, sizeof(*layers));
	int err, status;
	const void *conf = ck_conf(c, sets, &err);

	memset(u, 0, sizeof(*u));
	if (err || !shape || !layers)
		return -1;
	u->vt = c->vt;
	u->g = g;
	u->layout.size = sizeof(u->layout);
	for (int i = 0; i < g->n_layers; i++)
		layers[i] = &g->layers[i];
	*shape = (struct nvllm_attn_shape){ .size = sizeof(*shape), .n_layers = g->n_layers,
		.kv_dtype = g->kv_dtype, .max_tokens = MAX_TOKENS, .max_seqs = MAX_SEQS,
		.max_len = attn_max_len, .layers = layers };
	fake_hush();
	status = u->vt->create(fake_host(), attn_device, shape, conf, &u->a, &u->layout);
	if (ck_refusal(status, "create") < 0)
		return ck_good() ? 1 : -1;
	if (!u->a)
		return ck_bad("create returned 0 and no instance");
	if (attach(u))
		return -1;
	deal_pages(u, seed);
	return 0;
}

void sut_close(struct sut *u)
{
	if (u->a && NVLLM_HAS(u->vt, destroy) && u->vt->destroy)
		u->vt->destroy(u->a);
	for (int i = 0; i < MAX_LAYERS; i++)
		gmem_put(u->kv[i]);
	gmem_put(u->workspace);
	free(u->before);
}

/* ---- a step ---- */

struct step {
	struct nvllm_batch b;
	int32_t *tokens, *positions, *slots, *q_start, *kv_len, *table, *logit_rows, *logit_slots;
	int32_t seq_of[MAX_TOKENS]; /* -1 = padding */
	int64_t first_pad;
};

static int32_t *ints(int64_t n)
{
	int32_t *p = gmem_get("a batch array", (n ? n : 1) * 4, 4);

	memset(p, 0, (size_t)(n ? n : 1) * 4);
	return p;
}

/* Grows the sequences by the plan's rows and lays the step out as the core does. */
static void step_make(struct sut *u, const struct plan *pl, struct step *s)
{
	int32_t n_seqs = pl->n_seqs + pl->pad_seqs, row = 0, pt = u->page_tokens, n = pl->pad_rows;

	memset(s, 0, sizeof(*s));
	for (int i = 0; i < pl->n_seqs; i++)
		n += pl->rows[i];
	s->tokens = ints(n), s->positions = ints(n), s->slots = ints(n),
	s->q_start = ints(n_seqs + 1);
	s->kv_len = ints(n_seqs), s->table = ints((int64_t)n_seqs * u->max_pages);
	s->logit_rows = ints(pl->n_seqs), s->logit_slots = ints(pl->n_seqs);
	for (int i = 0; i < pl->n_seqs; i++) {
		int32_t q = pl->seq[i];

		s->q_start[i] = row;
		for (int32_t j = 0; q == PAD && j < pl->rows[i]; j++, row++)
			s->seq_of[row] = s->slots[row] = -1;
		if (q == PAD)
			continue;
		memcpy(s->table + (int64_t)i * u->max_pages, u->table[q],
			sizeof(int32_t) * (size_t)u->max_pages);
		for (int32_t j = 0; j < pl->rows[i]; j++, row++) {
			int32_t pos = u->len[q] + j;

			s->seq_of[row] = q;
			s->positions[row] = pos;
			s->slots[row] = u->table[q][pos / pt] * pt + pos % pt;
		}
		u->len[q] += pl->rows[i];
		s->kv_len[i] = u->len[q];
		s->b.max_kv_len = s->kv_len[i] > s->b.max_kv_len ? s->kv_len[i] : s->b.max_kv_len;
		s->logit_rows[i] = row - 1;
	}
	for (int i = pl->n_seqs; i <= n_seqs; i++)
		s->q_start[i] = row;
	s->first_pad = row;
	for (; row < n; row++)
		s->seq_of[row] = s->slots[row] = -1;
	s->b.size = sizeof(s->b);
	s->b.n_tokens = n, s->b.n_seqs = n_seqs, s->b.n_logits = pl->n_seqs,
	s->b.max_pages = u->max_pages;
	s->b.tokens = s->tokens, s->b.positions = s->positions, s->b.slots = s->slots;
	s->b.q_start = s->b.h_q_start = s->q_start, s->b.kv_len = s->b.h_kv_len = s->kv_len;
	s->b.page_table = s->b.h_page_table = s->table;
	s->b.logit_rows = s->logit_rows, s->b.logit_slots = s->logit_slots;
}

static void step_free(struct step *s)
{
	int32_t *all[] = { s->tokens, s->positions, s->slots, s->q_start, s->kv_len, s->table,
		s->logit_rows, s->logit_slots };

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		gmem_put(all[i]);
}

/* q, k or v of every row; padding rows hold numbers too, as the engine's do. */
static struct nvllm_tensor input(
	const char *name, int what, const struct step *s, int layer, int64_t cols, int64_t pad)
{
	struct nvllm_tensor t = rows_new(name, s->b.n_tokens, cols, pad);

	for (int64_t r = 0; r < t.rows; r++)
		for (int64_t i = 0; i < cols; i++)
			rows_set(t, r, i, s->seq_of[r] < 0 ? 0.25 :
				attn_number(what, s->seq_of[r], layer, s->positions[r], i));
	return t;
}

/* Pages that no slot of this step names may not change. */
static void check_pages(struct sut *u, const struct step *s, int layer)
{
	int64_t bytes = u->layout.layer_bytes[layer];

	for (int32_t p = 0; p < u->n_pages && bytes; p++) {
		bool named = false;

		for (int32_t r = 0; r < s->b.n_tokens && !named; r++)
			named = s->slots[r] >= 0 && s->slots[r] / u->page_tokens == p;
		if (!named &&
			memcmp(u->before + p * bytes, (char *)u->kv[layer] + p * bytes,
				(size_t)bytes))
			ck_bad("layer %d: wrote to page %d, which no slot of the step names", layer,
				p);
	}
}

static void check_row(const struct sut *u, const struct step *s, int layer, int64_t r,
	struct nvllm_tensor y)
{
	double want[MAX_ROW];

	if (s->seq_of[r] < 0) {
		for (int64_t i = 0; i < y.cols; i++)
			if (!isfinite(rows_get(y, r, i))) {
				ck_bad("layer %d: padding row %ld is not finite", layer, (long)r);
				return;
			}
		return;
	}
	attn_oracle(u->g, s->seq_of[r], s->positions[r], layer, want);
	for (int64_t i = 0; i < y.cols; i++) {
		double got = rows_get(y, r, i);

		if (!(fabs(got - want[i]) <= attn_tolerance(u->g, layer, want[i]))) {
			ck_bad("layer %d, sequence %d, position %d, head %ld: %.6g, expected %.6g",
				layer, s->seq_of[r], s->positions[r],
				(long)(i / u->g->layers[layer].head_dim), got, want[i]);
			return;
		}
	}
}

/* The same call: the same bits, though they may differ in another step. */
static void run_again(struct sut *u, struct step *s, int layer, struct nvllm_tensor q,
	struct nvllm_tensor k, struct nvllm_tensor v, struct nvllm_tensor y)
{
	struct nvllm_tensor z = rows_new("y again", y.rows, y.cols, 2);

	if (u->vt->run(u->a, NULL, layer, &s->b, q, k, v, z))
		ck_bad("run, again: %s", fake_said());
	for (int64_t r = 0; r < y.rows && ck_good(); r++)
		if (s->seq_of[r] >= 0 && memcmp(rows_at(y, r), rows_at(z, r), rows_bytes(y)))
			ck_bad("layer %d: row %ld has other bits the second time", layer, (long)r);
	gmem_put(z.data);
}

static struct nvllm_tensor vec(const char *name, int64_t n)
{
	struct nvllm_tensor t = { .rows = 1, .cols = n, .stride = n * 4, .planes = 1,
		.dtype = NVLLM_F32 };

	t.data = gmem_get(name, n * 4, 64);
	return t;
}

/* q, k and v side by side, through run_raw. */
static int call_raw(struct sut *u, struct step *s, int layer, struct nvllm_tensor q,
	struct nvllm_tensor k, struct nvllm_tensor v, struct nvllm_tensor y)
{
	const struct nvllm_attn_layer *l = &u->g->layers[layer];
	const struct nvllm_tensor part[] = { q, k, v };
	struct nvllm_tensor qkv = rows_new("qkv", q.rows, q.cols + 2 * k.cols, 8);
	struct nvllm_tensor bias = vec("the bias", qkv.cols);
	struct nvllm_norm n[2] = { { .size = sizeof(n[0]), .kind = NVLLM_RMS_NORM, .eps = 1e-6,
		.w = vec("q's norm", l->head_dim) } };
	struct nvllm_rotary rot = { .size = sizeof(rot), .dims = attn_raw.dims,
		.interleaved = attn_raw.interleaved, .mscale = 1,
		.inv_freq = vec("inv_freq", attn_raw.dims / 2) };
	struct nvllm_attn_in in = { .size = sizeof(in), .layer = layer,
		.bias = attn_raw.bias ? &bias : NULL, .q_norm = attn_raw.norms ? &n[0] : NULL,
		.k_norm = attn_raw.norms ? &n[1] : NULL, .rotary = &rot };
	int status;

	n[1] = n[0];
	n[1].w = vec("k's norm", l->head_dim);
	for (int64_t r = 0; r < q.rows; r++)
		for (int64_t i = 0, at = 0; i < 3; at += part[i].cols, i++)
			for (int64_t j = 0; j < part[i].cols; j++)
				rows_set(qkv, r, at + j, rows_get(part[i], r, j));
	for (int64_t i = 0; i < qkv.cols; i++)
		((float *)bias.data)[i] = (float)attn_bias(layer, i);
	for (int i = 0; i < attn_raw.dims / 2; i++)
		((float *)rot.inv_freq.data)[i] = (float)attn_inv_freq(i);
	for (int i = 0; i < 2 * l->head_dim; i++)
		((float *)n[i / l->head_dim].w.data)[i % l->head_dim] =
			(float)attn_norm_weight(i / l->head_dim, layer, i % l->head_dim);
	ck_step_begin();
	status = u->vt->run_raw(u->a, NULL, &s->b, qkv, &in, y);
	ck_step_end();
	gmem_put(qkv.data), gmem_put(bias.data), gmem_put(n[0].w.data), gmem_put(n[1].w.data);
	gmem_put(rot.inv_freq.data);
	return status;
}

static int run_layer(struct sut *u, struct step *s, int layer, struct nvllm_tensor *out)
{
	const struct nvllm_attn_layer *l = &u->g->layers[layer];
	int64_t kv = (int64_t)attn_kv_of(u->g, layer)->n_kv_heads * l->head_dim;
	struct nvllm_tensor q = input("q", 0, s, layer, (int64_t)l->n_heads * l->head_dim, 3);
	struct nvllm_tensor k = input("k", 1, s, layer, kv, 1), v = input("v", 2, s, layer, kv, 5);
	struct nvllm_tensor y = rows_new("y", s->b.n_tokens, q.cols, 2);
	int64_t bytes = u->layout.layer_bytes[layer];
	int status;

	u->before = realloc(u->before, (size_t)(bytes * u->n_pages) + 1);
	if (attn_max_len == SHORT_LEN)
		memcpy(u->before, u->kv[layer] ? u->kv[layer] : u->before, (size_t)(bytes * u->n_pages));
	if (attn_raw.on) {
		status = call_raw(u, s, layer, q, k, v, y);
	} else {
		ck_step_begin();
		status = u->vt->run(u->a, NULL, layer, &s->b, q, k, v, y);
		ck_step_end();
	}
	if (status)
		ck_bad("run returned %d: %s", status, fake_said());
	if (attn_max_len == SHORT_LEN)
		check_pages(u, s, layer);
	for (int64_t r = 0; r + 1 < y.rows; r++)
		for (int64_t i = (int64_t)rows_bytes(y); i < y.stride; i++)
			if (((unsigned char *)rows_at(y, r))[i] != 0xFF)
				ck_bad("layer %d: wrote between the rows of y", layer);
	if (attn_varies && !attn_raw.on && ck_good())
		run_again(u, s, layer, q, k, v, y);
	gmem_put(q.data), gmem_put(k.data), gmem_put(v.data);
	*out = y;
	return status;
}

static void remember(struct memory *m, const struct sut *u, const struct step *s, int layer,
	struct nvllm_tensor y)
{
	for (int64_t r = 0; m && r < s->first_pad; r++) {
		float *to = s->seq_of[r] < 0 ? NULL : m->y +
			(((int64_t)layer * MAX_SEQS + s->seq_of[r]) * SHORT_LEN + s->positions[r]) *
				MAX_ROW;

		if (!to)
			continue;
		if (m->store)
			memcpy(to, rows_at(y, r), rows_bytes(y));
		else if (!attn_varies && memcmp(to, rows_at(y, r), rows_bytes(y)))
			ck_bad("layer %d, sequence %d, position %d: other bits %s", layer,
				s->seq_of[r], s->positions[r], m->what);
	}
	(void)u;
}

/* Of long sequences, the oracle takes its time: rows beside an edge. */
static bool looked_at(const struct step *s, int64_t r)
{
	static const int32_t edges[] = { 0, 15, 16, 31, 64, 500, 1023, 1024, 1027, 4095, 4096, 4099 };

	for (int i = 0; i < (int)(sizeof(edges) / sizeof(*edges)); i++)
		if (s->seq_of[r] >= 0 && s->positions[r] == edges[i])
			return true;
	return false;
}

void step_run(struct sut *u, const struct plan *pl, struct memory *m)
{
	struct nvllm_tensor y;
	struct step s;
	int status = 0;

	step_make(u, pl, &s);
	if (NVLLM_HAS(u->vt, plan) && u->vt->plan) {
		ck_step_begin();
		status = u->vt->plan(u->a, NULL, &s.b);
		ck_step_end();
		if (status)
			ck_bad("plan returned %d: %s", status, fake_said());
	}
	for (int l = 0; l < u->g->n_layers && !status && ck_good(); l++) {
		if (!u->g->layers[l].n_heads) /* this rank's share of it is nothing */
			continue;
		status = run_layer(u, &s, l, &y);
		for (int64_t r = 0; r < y.rows && ck_good(); r++)
			if (attn_max_len == SHORT_LEN || looked_at(&s, r))
				check_row(u, &s, l, r, y);
		if (ck_good())
			remember(m, u, &s, l, y);
		gmem_put(y.data);
	}
	step_free(&s);
}
