/* SPDX-License-Identifier: MIT */
/* What the tests on the fake device share: see rig.h. */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "rig.h"

/* ---- host ---- */

static struct rig_host *host_of(const struct nvllm_host *h)
{
	return (struct rig_host *)(uintptr_t)h;
}

__attribute__((format(printf, 3, 4)))
static void rig_log(const struct nvllm_host *h, int level, const char *fmt, ...)
{
	struct rig_host *r = host_of(h);
	va_list ap;

	if (level > NVLLM_LOG_ERROR)
		return;
	va_start(ap, fmt);
	vsnprintf(r->error, sizeof(r->error), fmt, ap);
	va_end(ap);
	r->n_errors++;
}

__attribute__((format(printf, 3, 4)))
static int rig_fail(const struct nvllm_host *h, int status, const char *fmt, ...)
{
	struct rig_host *r = host_of(h);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(r->said, sizeof(r->said), fmt, ap);
	va_end(ap);
	return status;
}

static void *rig_alloc(const struct nvllm_host *h, size_t bytes)
{
	struct rig_host *r = host_of(h);

	assert_true(r->n_blocks < 64);
	r->blocks[r->n_blocks] = aligned_alloc(64, (bytes + 63) / 64 * 64);
	memset(r->blocks[r->n_blocks], 0, bytes);
	return r->blocks[r->n_blocks++];
}

static const void *rig_ext(const struct nvllm_host *h, const char *id)
{
	(void)h, (void)id;
	return NULL;
}

void rig_host_init(struct rig_host *r)
{
	*r = (struct rig_host){ .pub = { .size = sizeof(r->pub), .abi = NVLLM_ABI, .world = 1,
		.log = rig_log, .fail = rig_fail, .alloc = rig_alloc, .get = rig_ext } };
}

void rig_host_finish(struct rig_host *r)
{
	while (r->n_blocks)
		free(r->blocks[--r->n_blocks]);
}

/* ---- device ---- */

const struct nvllm_component *rig_component(const char *path, int kind)
{
	void *so = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	const struct nvllm_plugin *p = so ? dlsym(so, "nvllm_plugin") : NULL;

	if (!p)
		fail_msg("%s: %s", path, dlerror());
	for (int i = 0; p->components[i]; i++)
		if ((int)p->components[i]->kind == kind)
			return p->components[i];
	fail_msg("%s has no component of kind %d", path, kind);
	return NULL;
}

void rig_ok(struct rig *r, int rc)
{
	if (rc)
		fail_msg("status %d: %s", rc, r->host.said);
}

void rig_open(struct rig *r, const char *so, const char *const *words)
{
	const struct nvllm_component *c = rig_component(so, NVLLM_KIND_DEVICE);
	void *conf;

	*r = (struct rig){ .vt = c->vt };
	rig_host_init(&r->host);
	r->k = r->vt->kernels;
	rig_ok(r, inner_conf(&r->host.pub, c, words, &conf));
	rig_ok(r, r->vt->create(&r->host.pub, 0, conf, &r->d));
	r->info.size = sizeof(r->info);
	rig_ok(r, r->vt->info(r->d, &r->info));
	r->ref = (struct nvllm_device_ref){ sizeof(r->ref), r->vt, r->d, &r->info };
	r->s = r->vt->stream(r->d);
}

int rig_close(struct rig *r)
{
	r->vt->destroy(r->d);
	rig_host_finish(&r->host);
	return r->host.n_errors;
}

void rig_put(struct rig *r, void *device, const void *host, int64_t bytes)
{
	rig_ok(r, r->vt->copy(r->d, r->s, device, host, bytes));
	rig_ok(r, r->vt->sync(r->d, r->s));
}

void rig_get(struct rig *r, void *host, const void *device, int64_t bytes)
{
	rig_ok(r, r->vt->copy(r->d, r->s, host, device, bytes));
	rig_ok(r, r->vt->sync(r->d, r->s));
}

void rig_bad(struct rig *r, const char *word)
{
	int rc = r->vt->sync(r->d, r->s);

	if (rc != NVLLM_EDEVICE || !strstr(r->host.said, word))
		fail_msg("status %d, '%s': expected an error that says '%s'", rc, r->host.said,
			word);
	rig_ok(r, r->vt->sync(r->d, r->s)); /* it is said once */
}

static struct four four(struct rig *r, float value)
{
	struct four f = { .p = r->vt->alloc(r->d, 16) };
	const float v[4] = { value, value, value, value };

	assert_non_null(f.p);
	f.t = (struct nvllm_tensor){ .data = f.p, .rows = 1, .cols = 4, .stride = 16, .planes = 1,
		.dtype = NVLLM_F32 };
	rig_put(r, f.p, v, sizeof(v));
	return f;
}

void open_fours(struct rig *r, const char *const *words, struct four *x, struct four *y)
{
	rig_open(r, FAKE_SO, words);
	*x = four(r, 1);
	*y = four(r, 10);
}

int close_fours(struct rig *r, const struct four *x, const struct four *y)
{
	r->vt->free(r->d, x->p);
	r->vt->free(r->d, y->p);
	return rig_close(r);
}

/* ---- the model's memory ---- */

static void *take(struct world *w, int64_t bytes)
{
	void *p = w->r.vt->alloc(w->r.d, bytes > 0 ? bytes : 256);

	assert_non_null(p);
	assert_true(w->n_mem < 32);
	return w->mem[w->n_mem++] = p;
}

static struct nvllm_tensor floats(struct world *w, int64_t rows, int64_t cols)
{
	struct nvllm_tensor t = { .rows = rows, .cols = cols, .stride = cols * 4, .planes = 1,
		.dtype = NVLLM_F32 };

	t.data = take(w, rows * t.stride);
	return t;
}

/* Random numbers of about unit rows; a weight as the device stores it. */
static struct nvllm_tensor weight(struct world *w, int64_t rows, int64_t cols, uint64_t seed)
{
	struct nvllm_tensor t = { .rows = rows, .cols = cols, .planes = 1, .dtype = NVLLM_F32 };
	float *v = malloc((size_t)(rows * cols) * 4);
	int64_t bytes = w->r.vt->store(w->r.d, &t);

	assert_true(bytes > 0);
	t.data = take(w, bytes);
	for (int64_t i = 0; i < rows * cols; i++) {
		seed = seed * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX */
		v[i] = ((float)(seed >> 40) / (float)(1 << 24) - 0.5f) * 0.5f;
	}
	rig_ok(&w->r, w->r.vt->upload(w->r.d, &t, 0, 0, rows, v, NVLLM_F32, cols * 4));
	free(v);
	return t;
}

static void make_weights(struct world *w)
{
	w->table = weight(w, VOCAB, DIM, 1);
	w->wn = weight(w, 1, DIM, 2);
	w->wqkv = weight(w, 3 * DIM, DIM, 3);
	w->wo = weight(w, DIM, DIM, 4);
	w->head = weight(w, VOCAB, DIM, 5);
	w->x = floats(w, SEQS, DIM);
	w->h = floats(w, SEQS, DIM);
	w->qkv = floats(w, SEQS, 3 * DIM);
	w->a = floats(w, SEQS, DIM);
	w->logits = floats(w, SEQS, VOCAB);
}

static void make_state(struct world *w)
{
	int32_t last[SEQS], left[SEQS], done[SEQS] = { 0 }, stop[SEQS * NVLLM_STOP_IDS];

	w->state = (struct nvllm_slots){ .size = sizeof(w->state), .n_slots = SEQS };
	w->state.last_token = take(w, sizeof(last));
	w->state.n_left = take(w, sizeof(left));
	w->state.done = take(w, sizeof(done));
	w->state.stop_ids = take(w, sizeof(stop));
	for (int i = 0; i < SEQS; i++)
		last[i] = i * 7 + 1, left[i] = 1000;
	memset(stop, 0xFF, sizeof(stop));
	rig_put(&w->r, w->state.last_token, last, sizeof(last));
	rig_put(&w->r, w->state.n_left, left, sizeof(left));
	rig_put(&w->r, w->state.done, done, sizeof(done));
	rig_put(&w->r, (void *)(uintptr_t)w->state.stop_ids, stop, sizeof(stop));
}

static void *host_take(struct world *w, int64_t bytes)
{
	const struct nvllm_device_vt *vt = w->r.vt;
	bool own = NVLLM_HAS(vt, host_alloc) && vt->host_alloc;
	void *p = own ? vt->host_alloc(w->r.d, bytes) : malloc((size_t)bytes);

	assert_non_null(p);
	return p;
}

static void host_give(struct world *w, void *p)
{
	const struct nvllm_device_vt *vt = w->r.vt;

	if (NVLLM_HAS(vt, host_free) && vt->host_free)
		vt->host_free(w->r.d, p);
	else
		free(p);
}

static void make_batch(struct world *w)
{
	w->in = take(w, sizeof(*w->in));
	w->out_tokens = take(w, SEQS * 4);
	for (int i = 0; i < STAGES; i++) {
		w->stage[i] = host_take(w, sizeof(*w->stage[i]));
		w->out[i] = host_take(w, sizeof(*w->out[i]));
		if (w->r.info.caps & NVLLM_DEV_ASYNC)
			rig_ok(&w->r, w->r.vt->mark_create(w->r.d, &w->marks[i]));
	}
	w->batch = (struct nvllm_batch){ .size = sizeof(w->batch), .max_pages = PAGES,
		.max_kv_len = LEN, .tokens = w->in->tokens, .positions = w->in->positions,
		.slots = w->in->slots, .q_start = w->in->q_start, .kv_len = w->in->kv_len,
		.page_table = w->in->page_table, .logit_rows = w->in->logit_rows,
		.logit_slots = w->in->logit_slots, .state = &w->state };
}

/* ---- attention and sampler ---- */

static void make_attention(struct world *w, const struct nvllm_component *c)
{
	static const char *const words[] = { "page_tokens", "4", NULL };
	void *conf;

	w->avt = c->vt;
	w->layer = (struct nvllm_attn_layer){ .size = sizeof(w->layer), .n_heads = HEADS,
		.n_kv_heads = HEADS, .head_dim = DIM / HEADS, .kv_layer = -1, .scale = 0.25 };
	w->layers[0] = &w->layer;
	w->shape = (struct nvllm_attn_shape){ .size = sizeof(w->shape), .n_layers = 1,
		.kv_dtype = NVLLM_F16, .max_tokens = SEQS, .max_seqs = SEQS, .max_len = LEN,
		.layers = w->layers };
	w->layout.size = sizeof(w->layout);
	rig_ok(&w->r, inner_conf(&w->attn_host.pub, c, words, &conf));
	rig_ok(&w->r, w->avt->create(
			      &w->attn_host.pub, &w->r.ref, &w->shape, conf, &w->attn, &w->layout));
	assert_int_equal(w->layout.page_tokens, PAGE);
	w->kv[0] = take(w, w->layout.layer_bytes[0] * SEQS * PAGES);
	w->attn_work = take(w, w->layout.workspace_bytes);
	rig_ok(&w->r, w->avt->attach(w->attn, w->kv, SEQS * PAGES, w->attn_work));
}

static void make_sampler(struct world *w, const struct nvllm_component *c)
{
	void *conf;

	w->svt = c->vt;
	w->env = (struct nvllm_sampler_env){ .size = sizeof(w->env), .max_rows = SEQS,
		.dev = &w->r.ref, .vocab = VOCAB, .vocab_n = VOCAB };
	rig_ok(&w->r, inner_conf(&w->sampler_host.pub, c, NULL, &conf));
	rig_ok(&w->r, w->svt->create(&w->sampler_host.pub, &w->env, conf, &w->sampler));
	w->sampler_work = take(w, w->env.workspace_bytes);
}

void world_open(struct world *w, const char *so, const char *const *words)
{
	const char *attn = so, *sampler = so;

	memset(w, 0, sizeof(*w));
	rig_open(&w->r, so, words);
	rig_host_init(&w->attn_host);
	rig_host_init(&w->sampler_host);
	if (w->r.info.caps & NVLLM_DEV_HOST_MEM)
		attn = FAKE_NAIVE, sampler = FAKE_TOPK;
	make_weights(w);
	make_state(w);
	make_batch(w);
	make_attention(w, rig_component(attn, NVLLM_KIND_ATTENTION));
	make_sampler(w, rig_component(sampler, NVLLM_KIND_SAMPLER));
}

int world_close(struct world *w)
{
	rig_ok(&w->r, w->r.vt->sync(w->r.d, w->r.s));
	if (NVLLM_HAS(w->svt, destroy) && w->svt->destroy)
		w->svt->destroy(w->sampler);
	if (NVLLM_HAS(w->avt, destroy) && w->avt->destroy)
		w->avt->destroy(w->attn);
	for (int i = 0; i < STAGES; i++) {
		host_give(w, w->stage[i]);
		host_give(w, w->out[i]);
		if (w->marks[i])
			w->r.vt->mark_free(w->r.d, w->marks[i]);
	}
	while (w->n_mem)
		w->r.vt->free(w->r.d, w->mem[--w->n_mem]);
	rig_host_finish(&w->attn_host);
	rig_host_finish(&w->sampler_host);
	return rig_close(&w->r);
}

/* ---- a step ---- */

/* Sequence i has pages i, i + SEQS, ...; padding has slot -1 and length 0. */
static void lay_row(struct world *w, struct world_in *in, int32_t i, bool real)
{
	const int32_t p = w->pos[i];

	assert_true(p < LEN);
	in->tokens[i] = real ? -1 - i : 0;
	in->positions[i] = real ? p : 0;
	in->slots[i] = real ? (i + p / PAGE * SEQS) * PAGE + p % PAGE : -1;
	in->q_start[i + 1] = i + 1;
	in->kv_len[i] = real ? p + 1 : 0;
	for (int32_t k = 0; k < PAGES; k++)
		in->page_table[i * PAGES + k] = real ? i + k * SEQS : -1;
	in->logit_rows[i] = i;
	in->logit_slots[i] = real ? i : -1;
	in->rows[i] = (struct nvllm_sample_row){ .temperature = i % 2 ? 0.8 : 0, .top_p = 0.95,
		.typical_p = 1, .repetition = 1, .seed = 7, .position = (uint64_t)p + 1,
		.choice = i, .slot = real ? i : -1 };
	w->pos[i] += real;
}

void world_inputs(struct world *w, int stage, int32_t n, int32_t bucket)
{
	struct world_in *in = w->stage[stage];

	memset(in, 0, sizeof(*in));
	for (int32_t i = 0; i < bucket; i++)
		lay_row(w, in, i, i < n);
	w->batch.n_tokens = w->batch.n_seqs = w->batch.n_logits = bucket;
	rig_ok(&w->r, w->r.vt->copy(w->r.d, w->r.s, w->in, in, sizeof(*in)));
}

int world_forward(void *arg, struct nvllm_tensor *logits)
{
	struct world *w = arg;
	const struct nvllm_kernels *k = w->r.k;
	const struct nvllm_norm n = {
		.size = sizeof(n), .kind = NVLLM_RMS_NORM, .eps = 1e-5, .w = w->wn};
	struct nvllm_tensor x = w->x, h = w->h, qkv = w->qkv, a = w->a, y = w->logits;
	struct nvllm_device *d = w->r.d;
	nvllm_stream s = w->r.s;
	int rc = 0;

	x.rows = h.rows = qkv.rows = a.rows = y.rows = w->batch.n_tokens;
	if (NVLLM_HAS(w->avt, plan) && w->avt->plan)
		rc = w->avt->plan(w->attn, s, &w->batch);
	rc = rc ? rc : k->embed(d, s, x, w->table, 0, &w->batch, 1);
	rc = rc ? rc : k->norm(d, s, h, x, &n);
	rc = rc ? rc : k->linear(d, s, qkv, h, w->wqkv, NULL, 0);
	rc = rc ? rc : w->avt->run(w->attn, s, 0, &w->batch, nvllm_cols(qkv, 0, DIM),
		nvllm_cols(qkv, DIM, DIM), nvllm_cols(qkv, 2 * DIM, DIM), a);
	rc = rc ? rc : k->linear(d, s, x, a, w->wo, NULL, NVLLM_LINEAR_ADD);
	rc = rc ? rc : k->norm(d, s, h, x, &n);
	rc = rc ? rc : k->linear(d, s, y, h, w->head, NULL, 0);
	rc = rc ? rc
		: w->svt->sample(w->sampler, s, y, w->in->rows, w->batch.n_logits, w->out_tokens,
			  w->sampler_work);
	*logits = y;
	return rc ? rc : k->advance(d, s, &w->batch, w->out_tokens);
}

void world_results(struct world *w, int stage, struct nvllm_tensor logits)
{
	const struct nvllm_device_vt *vt = w->r.vt;
	struct world_out *o = w->out[stage];

	rig_ok(&w->r, vt->copy(w->r.d, w->r.s, o->tokens, w->out_tokens, w->batch.n_logits * 4));
	rig_ok(&w->r,
		vt->copy(w->r.d, w->r.s, o->logits, logits.data, logits.rows * logits.stride));
	if (w->marks[stage])
		rig_ok(&w->r, vt->mark_set(w->r.d, w->r.s, w->marks[stage]));
}

void world_wait(struct world *w, int stage)
{
	if (w->marks[stage])
		rig_ok(&w->r, w->r.vt->mark_wait(w->r.d, w->marks[stage]));
	else
		rig_ok(&w->r, w->r.vt->sync(w->r.d, w->r.s));
}
