/* SPDX-License-Identifier: MIT */
/* tests/conform/attention.c - an attention backend against plain softmax attention in
 * double, on pages in shuffled order and full of NaN: sequences come in chunks, decode
 * beside each other, with padding rows between. A row's result may not change with its
 * neighbours, the chunking, or the place of its pages. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

#define N_PAGES 64
#define MAX_SEQS 4
#define MAX_TOKENS 64
#define MAX_LEN 96
#define MAX_LAYERS 4
#define MAX_ROW (16 * 128) /* elements of q of one row */

struct geometry {
	const char *what;
	int32_t kv_dtype, n_layers;
	struct nvllm_attn_layer layers[MAX_LAYERS];
};

/* An instance, its pages, and everything ever written to each sequence. */
struct sut {
	const struct nvllm_attention_vt *vt;
	struct nvllm_attention *a;
	const struct geometry *g;
	struct nvllm_kv_layout layout;
	void *kv[MAX_LAYERS];
	void *workspace;
	int32_t page_tokens, max_pages, n_pages;
	int32_t table[MAX_SEQS][MAX_LEN + 1]; /* pages of each sequence */
	int32_t len[MAX_SEQS];
	unsigned char *before;                /* copy of one layer's pages */
};

/* One step: which sequences, how many new rows each, and how much padding. Sequence PAD
 * is a padding sequence of such rows; pad_seqs more without a row end the step, and rows
 * of no sequence. */
#define PAD (-1)
struct plan { int32_t n_seqs, seq[MAX_SEQS], rows[MAX_SEQS], pad_rows, pad_seqs; };

/* ---- the numbers: a function of sequence, position, layer and column alone ---- */

static double number(int what, int seq, int layer, int32_t pos, int64_t col)
{
	struct rng r = { (uint64_t)what * 0x1000003u + (uint64_t)seq * 0x10000019u +
		(uint64_t)layer * 0x9E3779B1u + (uint64_t)pos * 0x85EBCA6Bu +
		(uint64_t)col * 0xC2B2AE35u };

	rng_u64(&r);
	return (double)(float)(rng_unit(&r) * 1.5);
}

static const struct nvllm_attn_layer *kv_of(const struct geometry *g, int layer)
{
	int32_t from = g->layers[layer].kv_layer;

	return &g->layers[from >= 0 ? from : layer];
}

/* What row (seq, pos) of a layer must give. */
static void oracle(const struct geometry *g, int seq, int32_t pos, int layer, double *y)
{
	const struct nvllm_attn_layer *l = &g->layers[layer];
	int source = l->kv_layer >= 0 ? l->kv_layer : layer;
	struct ref_attn a = { l->n_heads, l->n_kv_heads, l->head_dim, l->window, l->scale,
		l->softcap };
	int64_t row = a.kv_heads * a.head_dim;
	double *k = malloc(sizeof(double) * (size_t)(row * (pos + 1))),
	       *q = malloc(sizeof(double) * MAX_ROW);
	double *v = malloc(sizeof(double) * (size_t)(row * (pos + 1)));

	for (int32_t p = 0; p <= pos; p++)
		for (int64_t i = 0; i < row; i++) {
			k[p * row + i] = ref_round(g->kv_dtype, number(1, seq, source, p, i));
			v[p * row + i] = ref_round(g->kv_dtype, number(2, seq, source, p, i));
		}
	for (int64_t i = 0; i < a.heads * a.head_dim; i++)
		q[i] = number(0, seq, layer, pos, i);
	ref_attend(&a, pos, q, k, v, y);
	free(k), free(v), free(q);
}

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
	u->max_pages = (MAX_LEN + u->page_tokens - 1) / u->page_tokens + 1;
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
static int sut_open(struct sut *u, const struct nvllm_component *c, const struct geometry *g,
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
		.max_len = MAX_LEN, .layers = layers };
	fake_hush();
	status = u->vt->create(fake_host(), fake_device(), shape, conf, &u->a, &u->layout);
	if (ck_refusal(status, "create") < 0)
		return ck_good() ? 1 : -1;
	if (!u->a)
		return ck_bad("create returned 0 and no instance");
	if (attach(u))
		return -1;
	deal_pages(u, seed);
	return 0;
}

static void sut_close(struct sut *u)
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

static struct nvllm_tensor rows_of(const char *name, int64_t rows, int64_t cols, int64_t pad)
{
	struct nvllm_tensor t = { .rows = rows,
		.cols = cols,
		.stride = (cols + pad) * 4,
		.planes = 1,
		.dtype = NVLLM_F32 };

	t.data = gmem_get(name, rows * t.stride - pad * 4, 4);
	return t;
}

static float *at(struct nvllm_tensor t, int64_t row)
{
	return (float *)((char *)t.data + row * t.stride);
}

/* q, k or v of every row; padding rows hold numbers too, as the engine's do. */
static struct nvllm_tensor input(
	const char *name, int what, const struct step *s, int layer, int64_t cols, int64_t pad)
{
	struct nvllm_tensor t = rows_of(name, s->b.n_tokens, cols, pad);

	for (int64_t r = 0; r < t.rows; r++)
		for (int64_t i = 0; i < cols; i++)
			at(t, r)[i] = s->seq_of[r] < 0 ? 0.25f :
				(float)number(what, s->seq_of[r], layer, s->positions[r], i);
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
			if (!isfinite(at(y, r)[i])) {
				ck_bad("layer %d: padding row %ld is not finite", layer, (long)r);
				return;
			}
		return;
	}
	oracle(u->g, s->seq_of[r], s->positions[r], layer, want);
	for (int64_t i = 0; i < y.cols; i++) {
		double got = (double)at(y, r)[i];

		if (!(fabs(got - want[i]) <= 2e-4 + 2e-4 * fabs(want[i]))) {
			ck_bad("layer %d, sequence %d, position %d, head %ld: %.6g, expected %.6g",
				layer, s->seq_of[r], s->positions[r],
				(long)(i / u->g->layers[layer].head_dim), got, want[i]);
			return;
		}
	}
}

static int run_layer(struct sut *u, struct step *s, int layer, struct nvllm_tensor *out)
{
	const struct nvllm_attn_layer *l = &u->g->layers[layer];
	int64_t kv = (int64_t)kv_of(u->g, layer)->n_kv_heads * l->head_dim;
	struct nvllm_tensor q = input("q", 0, s, layer, (int64_t)l->n_heads * l->head_dim, 3);
	struct nvllm_tensor k = input("k", 1, s, layer, kv, 1), v = input("v", 2, s, layer, kv, 5);
	struct nvllm_tensor y = rows_of("y", s->b.n_tokens, q.cols, 2);
	int64_t bytes = u->layout.layer_bytes[layer];
	int status;

	u->before = realloc(u->before, (size_t)(bytes * u->n_pages) + 1);
	memcpy(u->before, u->kv[layer] ? u->kv[layer] : u->before, (size_t)(bytes * u->n_pages));
	ck_step_begin();
	status = u->vt->run(u->a, NULL, layer, &s->b, q, k, v, y);
	ck_step_end();
	if (status)
		ck_bad("run returned %d: %s", status, fake_said());
	check_pages(u, s, layer);
	for (int64_t r = 0; r + 1 < y.rows; r++)
		if (memcmp(at(y, r) + y.cols, "\377\377\377\377\377\377\377\377", 8))
			ck_bad("layer %d: wrote between the rows of y", layer);
	gmem_put(q.data), gmem_put(k.data), gmem_put(v.data);
	*out = y;
	return status;
}

/* One step through all layers. keep: [layer][seq][pos][cols] results to compare bitwise:
 * stored where store is set, compared otherwise. NULL = neither. */
struct memory { float *y; bool store; const char *what; };

static void remember(struct memory *m, const struct sut *u, const struct step *s, int layer,
	struct nvllm_tensor y)
{
	for (int64_t r = 0; m && r < s->first_pad; r++) {
		float *to = s->seq_of[r] < 0 ? NULL : m->y +
			(((int64_t)layer * MAX_SEQS + s->seq_of[r]) * MAX_LEN + s->positions[r]) *
				MAX_ROW;

		if (!to)
			continue;
		if (m->store)
			memcpy(to, at(y, r), sizeof(float) * (size_t)y.cols);
		else if (memcmp(to, at(y, r), sizeof(float) * (size_t)y.cols))
			ck_bad("layer %d, sequence %d, position %d: other bits %s", layer,
				s->seq_of[r], s->positions[r], m->what);
	}
	(void)u;
}

static void step_run(struct sut *u, const struct plan *pl, struct memory *m)
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
			check_row(u, &s, l, r, y);
		if (ck_good())
			remember(m, u, &s, l, y);
		gmem_put(y.data);
	}
	step_free(&s);
}

/* ---- traffic ---- */

/* Two prompts in chunks beside each other, padding, then decode of both and a third;
 * padding sequences first, between others, last, and alone. */
static const struct plan mixed[] = {
	{ 2, { 0, 1 }, { 7, 1 }, 0, 0 },
	{ 3, { 1, PAD, 0 }, { 20, 1, 13 }, 3, 1 },
	{ 1, { PAD }, { 1 }, 0, 0 },
	{ 1, { 2 }, { 37 }, 2, 2 },
	{ 4, { 0, 1, 2, PAD }, { 1, 1, 1, 1 }, 0, 0 },
	{ 4, { PAD, PAD, PAD, PAD }, { 1, 1, 1, 1 }, 2, 0 },
	{ 3, { 2, 0, 1 }, { 1, 1, 1 }, 5, 1 },
	{ 4, { PAD, 1, 2, 0 }, { 1, 1, 9, 1 }, 1, 0 },
	{ 4, { 0, 1, 2, 3 }, { 1, 1, 1, 30 }, 0, 0 },
	{ 4, { 3, 2, 1, 0 }, { 1, 1, 1, 1 }, 2, 0 },
};

static void traffic(const struct nvllm_component *c, const struct geometry *g,
	const char *const *sets, const struct plan *plans, int n, uint64_t seed, struct memory *m)
{
	struct sut u;
	int status = sut_open(&u, c, g, sets, seed);

	for (int i = 0; status == 0 && i < n && ck_good(); i++)
		step_run(&u, &plans[i], m);
	sut_close(&u);
	if (status == 1)
		ck_skip("refused: %s", fake_said());
	else
		ck_end();
}

#define COUNT(a) (int)(sizeof(a) / sizeof(*(a)))

/* Every sequence of `mixed` alone: whole prompts, tokens one by one, other pages. */
static void check_invariance(const struct nvllm_component *c, const struct geometry *g)
{
	static const struct plan whole[] = { { 1, { 0 }, { 25 }, 0, 0 }, { 1, { 1 }, { 26 }, 0, 0 },
		{ 1, { 2 }, { 50 }, 0, 0 }, { 1, { 3 }, { 31 }, 0, 0 } };
	struct plan single[50 + 31];
	struct memory m = { .store = true,
		.y = calloc((size_t)MAX_LAYERS * MAX_SEQS * MAX_LEN * MAX_ROW, sizeof(float)) };

	if (!m.y)
		return;
	for (int i = 0; i < COUNT(single); i++)
		single[i] = (struct plan){ 1, { i < 50 ? 2 : 3 }, { 1 }, 0, 0 };
	ck_begin("%s: four sequences in mixed batches", g->what);
	traffic(c, g, NULL, mixed, COUNT(mixed), 42, &m);
	m.store = false;
	ck_begin("%s: the same bits for whole prompts alone, on other pages", g->what);
	m.what = "in a whole prompt alone than in chunks beside others";
	traffic(c, g, NULL, whole, COUNT(whole), 43, &m);
	ck_begin("%s: the same bits token by token", g->what);
	m.what = "token by token than in chunks beside others";
	traffic(c, g, NULL, single, COUNT(single), 44, &m);
	ck_begin("%s: the same bits with other threads in another order", g->what);
	m.what = "with other threads";
	fake_device_order(1);
	traffic(c, g, NULL, mixed, COUNT(mixed), 45, &m);
	fake_device_order(0);
	free(m.y);
}

#define LAYER(h, kvh, d, w, kvl, cap) \
	{ \
		.size = sizeof(struct nvllm_attn_layer), .n_heads = h, .n_kv_heads = kvh, \
		.head_dim = d, .window = w, .kv_layer = kvl, .scale = 0.25, .softcap = cap \
	}

static const struct geometry shapes[] = {
	{ "gqa 2, head 64", NVLLM_F32, 2,
		{ LAYER(4, 2, 64, 0, -1, 0), LAYER(4, 2, 64, 0, -1, 0) } },
	{ "gqa 3, head 64", NVLLM_F32, 1, { LAYER(9, 3, 64, 0, -1, 0) } },
	{ "heads alone, head 128", NVLLM_F32, 1, { LAYER(3, 3, 128, 0, -1, 0) } },
	{ "one KV head, head 32", NVLLM_F32, 1, { LAYER(8, 1, 32, 0, -1, 0) } },
	{ "head 80", NVLLM_F32, 1, { LAYER(4, 2, 80, 0, -1, 0) } },
	{ "head 16", NVLLM_F32, 1, { LAYER(4, 4, 16, 0, -1, 0) } },
	{ "window 9", NVLLM_F32, 2, { LAYER(4, 2, 64, 9, -1, 0), LAYER(4, 2, 64, 0, -1, 0) } },
	{ "window 1", NVLLM_F32, 1, { LAYER(2, 2, 64, 1, -1, 0) } },
	{ "soft cap 2", NVLLM_F32, 1, { LAYER(4, 2, 64, 0, -1, 2) } },
	{ "a layer that reads another's K and V", NVLLM_F32, 3,
		{ LAYER(4, 2, 64, 0, -1, 0), LAYER(4, 2, 64, 5, 0, 0),
			LAYER(6, 3, 32, 0, -1, 0) } },
	{ "layers of which this rank holds no head", NVLLM_F32, 4,
		{ LAYER(0, 0, 64, 0, -1, 0), LAYER(4, 2, 64, 0, -1, 0), LAYER(0, 2, 32, 7, -1, 0),
			LAYER(2, 1, 32, 0, -1, 0) } },
	{ "no head of any layer", NVLLM_F32, 2,
		{ LAYER(0, 0, 64, 0, -1, 0), LAYER(0, 0, 64, 0, -1, 0) } },
};
#undef LAYER

static const struct { int32_t dtype; const char *name; } kv_types[] = {
	{ NVLLM_F32, "f32" }, { NVLLM_F16, "f16" }, { NVLLM_BF16, "bf16" } };

static void check_shapes(const struct nvllm_component *c)
{
	static struct geometry g; /* outlives the instances */
	static const char *const small[] = { "page_tokens=1", NULL },
				 *const odd[] = { "page_tokens=7", NULL };

	for (int i = 0; i < COUNT(shapes); i++)
		for (int t = 0; t < COUNT(kv_types); t++) {
			g = shapes[i];
			g.kv_dtype = kv_types[t].dtype;
			ck_begin("%s, kv %s", g.what, kv_types[t].name);
			traffic(c, &g, NULL, mixed, COUNT(mixed), 9, NULL);
		}
	g = shapes[0];
	if (!ck_has_option(c, "page_tokens"))
		return;
	ck_begin("pages of 1 token");
	traffic(c, &g, small, mixed, COUNT(mixed), 9, NULL);
	ck_begin("pages of 7 tokens");
	traffic(c, &g, odd, mixed, COUNT(mixed), 9, NULL);
}

/* A shape that nothing can serve is refused in create, in a sentence. */
static void check_refusals(const struct nvllm_component *c)
{
	struct geometry g = shapes[0];
	struct sut u;
	int status;

	ck_begin("an unknown KV type is refused in a sentence");
	g.kv_dtype = NVLLM_I64;
	status = sut_open(&u, c, &g, NULL, 1);
	if (status == 0)
		ck_bad("create took a KV type of int64");
	sut_close(&u);
	ck_end();
}

static void check_base(const struct nvllm_component *c)
{
	struct sut u;

	ck_begin("takes the base shape: 4 heads, 2 KV heads, head 64, kv f32");
	if (sut_open(&u, c, &shapes[0], NULL, 1) == 1)
		ck_bad("refused: %s", fake_said());
	sut_close(&u);
	ck_end();
}

void suite_attention(const struct nvllm_component *c)
{
	const struct nvllm_attention_vt *vt = c->vt;

	if (vt->need & ~fake_device()->info->caps) {
		ck_skip("needs a device that the suite does not have");
		return;
	}
	check_base(c);
	check_shapes(c);
	check_refusals(c);
	check_invariance(c, &shapes[0]);
	check_invariance(c, &shapes[6]);
}
