/* SPDX-License-Identifier: MIT */
/* tests/conform/model.c - a model architecture on a small random checkpoint made of
 * whatever bind() asks for: absurd hyperparameters are refused, forward makes the same
 * calls for the same sizes, and a prompt gives the same logits whole, in chunks, token
 * by token and beside others. */
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "core.h"
#include "model.h"

/* ---- the checkpoint's config.json ---- */

static const struct { const char *key, *value;
} config[] = {
	{ "num_hidden_layers", "3" },
	{ "n_layer", "3" },
	{ "hidden_size", "64" },
	{ "n_embd", "64" },
	{ "intermediate_size", "96" },
	{ "n_inner", "96" },
	{ "num_attention_heads", "4" },
	{ "n_head", "4" },
	{ "num_key_value_heads", "2" },
	{ "head_dim", "16" },
	{ "vocab_size", "211" },
	{ "max_position_embeddings", "128" },
	{ "n_positions", "128" },
	{ "rms_norm_eps", "1e-5" },
	{ "layer_norm_eps", "1e-5" },
	{ "layer_norm_epsilon", "1e-5" },
	{ "rope_theta", "10000" },
	{ "hidden_act", "silu" },
	{ "num_experts", "4" },
	{ "num_experts_per_tok", "2" },
	{ "moe_intermediate_size", "24" },
};

static const char *config_value(const char *key)
{
	size_t len = strlen(key);

	for (int i = 0; i < ck_opts->n_hparams; i++)
		if (!strncmp(ck_opts->hparams[i], key, len) && ck_opts->hparams[i][len] == '=')
			return ck_opts->hparams[i] + len + 1;
	for (size_t i = 0; i < sizeof(config) / sizeof(*config); i++)
		if (!strcmp(config[i].key, key))
			return config[i].value;
	return NULL;
}

/* The filled struct; override (may be NULL) has another text. NULL: refused, and *why. */
static void *fill_hparams(const struct nvllm_model_vt *vt, const struct nvllm_option *override,
	const char *text, char why[256])
{
	struct pool *pool = pool_create();
	void *h = calloc(1, vt->hparams_size ? (size_t)vt->hparams_size : 1);

	for (const struct nvllm_option *o = vt->hparams; o && o->key; o++) {
		const char *v = o == override ? text : config_value(o->key);

		if (!v)
			v = o->def;
		if (!v) {
			snprintf(why, 256, "it needs '%s', which the suite has no value for: pass "
				"--hparam %s=VALUE", o->key, o->key);
			return NULL;
		}
		if (option_set(o, v, h, pool, why, 256))
			return NULL;
	}
	return h;
}

/* ---- the checkpoint's tensors ---- */

__attribute__((format(printf, 2, 3)))
static void fw_stop(struct fweights *w, const char *fmt, ...)
{
	va_list ap;

	if (!w->pub.status) {
		va_start(ap, fmt);
		vsnprintf(w->why, sizeof(w->why), fmt, ap);
		va_end(ap);
	}
	w->pub.status = NVLLM_EINVAL;
}

static void fw_fill(struct fweight *f, bool vector)
{
	struct rng r = { hash_text(f->name) };
	double scale = vector ? 0.1 : sqrt(3.0 / (double)f->cols);
	double base = vector && strstr(f->name, "norm") ? 1 : 0;

	f->data = gmem_get(f->name, f->rows * f->cols * 4, 4);
	for (int64_t i = 0; f->data && i < f->rows * f->cols; i++)
		f->data[i] = (float)(base + scale * rng_unit(&r));
}

static bool name_ok(const char *s)
{
	const char *open = strchr(s, '{'), *close = strchr(s, '}');

	if (!*s || strpbrk(s, " %\t\n") || !!open != !!close)
		return false;
	return !open ||
		(open < close && !strchr(open + 1, '{') && !strchr(close + 1, '}') &&
			close > open + 1);
}

/* planes 0: no experts; else they lie one after another. */
static struct nvllm_tensor fw_vget(struct nvllm_weights *p, int cut, int64_t planes, int64_t rows,
	int64_t cols, const char *fmt, va_list ap)
{
	struct fweights *w = (struct fweights *)p;
	struct nvllm_tensor t = { .planes = 1 };
	struct fweight *f = &w->list[w->n];

	if (p->status)
		return t;
	memset(f, 0, sizeof(*f));
	vsnprintf(f->name, sizeof(f->name), fmt, ap);
	t.rows = cols ? rows : 1;
	f->cols = cols ? cols : rows;
	f->rows = t.rows * (planes ? planes : 1);
	if (++w->n_gets == w->fail_at)
		fw_stop(w, "%s: the checkpoint lacks it", f->name);
	else if (!name_ok(f->name) || !!planes != !!strchr(f->name, '*'))
		fw_stop(w, "'%s' is no name of a tensor%s", f->name, planes ? " of experts" : "");
	else if (cut < NVLLM_WHOLE || cut > NVLLM_CUT_VOCAB || f->rows < 1 || f->cols < 1 ||
		cols < 0 || f->rows > 1 << 20 || f->cols > 1 << 20)
		fw_stop(w, "%s: cut %d, %ld x %ld", f->name, cut, (long)rows, (long)cols);
	else if (w->n + 1 == MAX_WEIGHTS)
		fw_stop(w, "%d tensors for a model of three layers", w->n);
	if (p->status)
		return t;
	if (!w->dry)
		fw_fill(f, cols == 0);
	w->n++;
	t.data = f->data;
	t.cols = f->cols;
	t.stride = f->cols * 4;
	t.planes = planes ? (int32_t)planes : 1;
	t.plane_stride = planes ? t.rows * t.stride : 0;
	t.dtype = NVLLM_F32;
	t.cut = cut;
	return t;
}

__attribute__((format(printf, 5, 6)))
static struct nvllm_tensor fw_get(struct nvllm_weights *p, int cut, int64_t rows, int64_t cols,
	const char *fmt, ...)
{
	struct nvllm_tensor t;
	va_list ap;

	va_start(ap, fmt);
	t = fw_vget(p, cut, 0, rows, cols, fmt, ap);
	va_end(ap);
	return t;
}

__attribute__((format(printf, 6, 7)))
static struct nvllm_tensor fw_experts(struct nvllm_weights *p, int cut, int64_t n, int64_t rows,
	int64_t cols, const char *fmt, ...)
{
	struct nvllm_tensor t;
	va_list ap;

	if (n < 1 || n > 64)
		fw_stop((struct fweights *)p, "%ld experts", (long)n);
	va_start(ap, fmt);
	t = fw_vget(p, cut, n, rows, cols, fmt, ap);
	va_end(ap);
	return t;
}

static int fw_has(struct nvllm_weights *p, const char *name)
{
	(void)name;
	return ((struct fweights *)p)->has;
}

/* Plain rope; the scalings are the core's business. */
static struct nvllm_rotary fw_rope(struct nvllm_weights *p, const struct nvllm_rope *r)
{
	struct fweights *w = (struct fweights *)p;
	struct nvllm_rotary out = {
		.size = sizeof(out), .dims = r->dims, .interleaved = r->interleaved, .mscale = 1
	};
	float *f = NULL;

	if (r->size < sizeof(*r) || r->dims < 0 || r->dims % 2 || r->dims > MAX_COLS ||
		!(r->theta > 0) || w->n_ropes == 64) {
		fw_stop(w, "rope: size %u, %d dims, theta %g", r->size, r->dims, r->theta);
		return out;
	}
	if (!w->dry && r->dims) {
		f = w->ropes[w->n_ropes++].freq = gmem_get("the rope's table", r->dims * 2, 4);
		for (int32_t i = 0; i < r->dims / 2; i++)
			f[i] = (float)pow(r->theta, -2.0 * i / r->dims);
	}
	out.inv_freq = (struct nvllm_tensor){ .data = f, .rows = 1, .cols = r->dims / 2,
		.stride = r->dims * 2, .planes = 1, .dtype = NVLLM_F32 };
	return out;
}

void fweights_init(struct fweights *w, bool dry, int has)
{
	memset(w, 0, sizeof(*w));
	w->pub = (struct nvllm_weights){
		.size = sizeof(w->pub), .get = fw_get, .has = fw_has, .rope = fw_rope,
		.experts = fw_experts
	};
	w->dry = dry;
	w->has = has;
}

void fweights_free(struct fweights *w)
{
	for (int i = 0; i < w->n; i++)
		gmem_put(w->list[i].data);
	for (int i = 0; i < w->n_ropes; i++)
		gmem_put(w->ropes[i].freq);
}

/* ---- create ---- */

struct sut {
	const struct nvllm_model_vt *vt;
	struct nvllm_model *m;
	struct nvllm_arch arch;
};

static void check_arch(const struct nvllm_arch *a)
{
	if (a->n_layers < 1 || a->dim < 1 || a->vocab < 1 || a->ffn < 0 || a->max_len < 1 ||
		!a->layers)
		ck_bad("arch: %d layers, dim %ld, vocab %ld, ffn %ld, max_len %ld, layers %s",
			a->n_layers, (long)a->dim, (long)a->vocab, (long)a->ffn, (long)a->max_len,
			a->layers ? "set" : "NULL");
	for (int i = 0; ck_good() && i < a->n_layers; i++) {
		const struct nvllm_attn_layer *l = a->layers[i];

		if (!l || l->size < sizeof(*l))
			ck_bad("arch: layer %d is NULL or has no size", i);
		else if (l->n_heads < 1 || l->n_kv_heads < 1 || l->head_dim < 1 ||
			l->n_heads % l->n_kv_heads || l->window < 0 || l->kv_layer < -1 ||
			l->kv_layer >= i || !(l->scale > 0) || l->softcap < 0)
			ck_bad("arch: layer %d: %d heads, %d KV heads, head_dim %d, window %d, "
			       "kv_layer %d, "
			       "scale %g, softcap %g",
				i, l->n_heads, l->n_kv_heads, l->head_dim, l->window, l->kv_layer,
				l->scale, l->softcap);
	}
}

/* 0, 1 = refused, -1 = failed. */
static int sut_create(struct sut *u, const struct nvllm_component *c, const void *h)
{
	int err, status;
	const void *conf = ck_conf(c, NULL, &err);

	memset(u, 0, sizeof(*u));
	if (err)
		return -1;
	u->vt = c->vt;
	u->arch.size = sizeof(u->arch);
	fake_hush();
	status = u->vt->create(fake_host(), h, conf, &u->m, &u->arch);
	if (ck_refusal(status, "create") < 0)
		return ck_good() ? 1 : -1;
	if (!u->m)
		return ck_bad("create returned 0 and no instance");
	check_arch(&u->arch);
	return ck_good() ? 0 : -1;
}

static void sut_destroy(struct sut *u)
{
	if (u->m && NVLLM_HAS(u->vt, destroy) && u->vt->destroy)
		u->vt->destroy(u->m);
}

static int sut_open(struct sut *u, const struct nvllm_component *c)
{
	char why[256] = "";
	void *h = fill_hparams(c->vt, NULL, NULL, why);

	if (!h)
		return ck_bad("%s", why);
	if (sut_create(u, c, h) == 1)
		return ck_bad("create refuses the suite's checkpoint: %s", fake_said());
	return ck_good() ? 0 : -1;
}

/* Every number of the table in turn at its bounds and at odd values: create may refuse,
 * in a sentence, or take it with a sound shape; it may not crash. */
static void check_absurd(const struct nvllm_component *c)
{
	static const char *const odd[] = { "0", "1", "3", "7", "-1", "63", "1000", "2147483647",
		"4294967296", "1e300", "0.5" };
	const struct nvllm_model_vt *vt = c->vt;
	char text[64], why[256];

	for (const struct nvllm_option *o = vt->hparams; o && o->key; o++) {
		if (o->type != NVLLM_OPT_INT && o->type != NVLLM_OPT_FLOAT)
			continue;
		ck_begin("absurd values of %s", o->key);
		for (size_t i = 0; i < sizeof(odd) / sizeof(*odd) + 2 && ck_good(); i++) {
			struct sut u;
			void *h;

			if (i < 2)
				snprintf(text, sizeof(text),
					o->type == NVLLM_OPT_INT ? "%.0f" : "%.17g",
					i ? o->max : o->min);
			else
				snprintf(text, sizeof(text), "%s", odd[i - 2]);
			h = fill_hparams(vt, o, text, why);
			if (!h)
				continue;
			if (sut_create(&u, c, h) < 0)
				snprintf(ck_board->reason + strlen(ck_board->reason),
					sizeof(ck_board->reason) - strlen(ck_board->reason),
					" (%s = %s)", o->key, text);
			sut_destroy(&u);
			free(h);
		}
		ck_end();
	}
}

/* ---- bind ---- */

static int bind_into(struct sut *u, struct fweights *w)
{
	int status = u->vt->bind(u->m, &w->pub);

	if (w->pub.status)
		return ck_bad("bind: %s", w->why);
	return status ? ck_bad("bind returned %d: return w->status", status) : 0;
}

static void check_bind(const struct nvllm_component *c, int has)
{
	struct fweights *a = malloc(sizeof(*a)), *b = malloc(sizeof(*b));
	struct sut u;

	ck_begin("bind asks for the same tensors twice%s", has ? ", with every optional one" : "");
	fweights_init(a, true, has), fweights_init(b, false, has);
	if (sut_open(&u, c) == 0 && bind_into(&u, a) == 0 && bind_into(&u, b) == 0) {
		if (a->n == 0)
			ck_bad("bind asks for no tensor");
		for (int i = 0; i < a->n || i < b->n; i++)
			if (a->n != b->n || strcmp(a->list[i].name, b->list[i].name) ||
				a->list[i].rows != b->list[i].rows ||
				a->list[i].cols != b->list[i].cols) {
				ck_bad("%d tensors the first time, %d the second; number %d was %s",
					a->n, b->n, i, a->list[i].name);
				break;
			}
		for (int i = 0; i < a->n; i++)
			for (int j = 0; j < i; j++)
				if (!strcmp(a->list[i].name, a->list[j].name))
					ck_bad("asks for %s twice", a->list[i].name);
	}
	sut_destroy(&u);
	ck_end();
	ck_begin("bind returns the failure of a missing tensor%s",
		has ? ", with every optional one" : "");
	for (int at = 1; at <= a->n && ck_good(); at++) {
		fweights_free(b);
		fweights_init(b, true, has);
		b->fail_at = at;
		if (sut_open(&u, c) == 0 && u.vt->bind(u.m, &b->pub) >= 0)
			ck_bad("%s was missing and bind returned 0: return w->status",
				a->list[at - 1].name);
		sut_destroy(&u);
	}
	fweights_free(b);
	free(a), free(b);
	ck_end();
}

/* ---- forward ---- */

struct fbatch {
	struct nvllm_batch b;
	int32_t tokens[MAX_ROWS], positions[MAX_ROWS], slots[MAX_ROWS], q_start[N_SEQS + 1],
		kv_len[N_SEQS];
	int32_t table[N_SEQS], logit_rows[MAX_ROWS], logit_slots[MAX_ROWS];
};

static int32_t token_of(int seq, int32_t pos, int64_t vocab)
{
	struct rng r = { (uint64_t)seq * 1000003u + (uint64_t)pos };

	return (int32_t)rng_int(&r, vocab);
}

/* Rows [from[i], to[i]) of sequence seq[i]; logits of every row. */
static void fbatch_make(struct fbatch *f, int n, const int *seq, const int32_t *from,
	const int32_t *to, int64_t vocab)
{
	int32_t row = 0;

	memset(f, 0, sizeof(*f));
	for (int i = 0; i < n; i++) {
		f->q_start[i] = row;
		f->kv_len[i] = to[i];
		f->table[i] = seq[i];
		for (int32_t p = from[i]; p < to[i]; p++, row++) {
			f->tokens[row] = token_of(seq[i], p, vocab);
			f->positions[row] = p;
			f->slots[row] = seq[i] * SEQ_LEN + p;
			f->logit_rows[row] = row;
			f->logit_slots[row] = -1;
		}
		f->b.max_kv_len = to[i] > f->b.max_kv_len ? to[i] : f->b.max_kv_len;
	}
	f->q_start[n] = row;
	f->b.size = sizeof(f->b);
	f->b.n_tokens = f->b.n_logits = row, f->b.n_seqs = n, f->b.max_pages = 1;
	f->b.tokens = f->tokens, f->b.positions = f->positions, f->b.slots = f->slots;
	f->b.q_start = f->b.h_q_start = f->q_start, f->b.kv_len = f->b.h_kv_len = f->kv_len;
	f->b.page_table = f->b.h_page_table = f->table;
	f->b.logit_rows = f->logit_rows, f->b.logit_slots = f->logit_slots;
}

static void check_pure(const struct nvllm_component *c, int has)
{
	static const int seqs[2][2] = { { 0, 1 }, { 2, 0 } };
	static const int32_t from[2][2] = { { 0, 0 }, { 9, 20 } },
			     to[2][2] = { { 5, 1 }, { 10, 25 } };
	struct fweights *w = malloc(sizeof(*w));
	uint64_t calls[2] = { 0 };
	int n_calls[2] = { 0 };
	struct fbatch f;
	struct sut u;

	ck_begin("forward runs dry and makes the same calls for the same sizes%s",
		has ? ", everything optional" : "");
	fweights_init(w, true, has);
	if (sut_open(&u, c) == 0 && bind_into(&u, w) == 0) {
		for (int i = 0; i < 2 && ck_good(); i++) {
			struct fstep *s = fstep_new(&u.arch, w);
			struct nvllm_tensor logits;

			fbatch_make(&f, 2, seqs[i], from[i], to[i], u.arch.vocab);
			fstep_run(s, u.vt, u.m, &f.b, &logits);
			calls[i] = s->calls, n_calls[i] = s->n_calls;
			fstep_free(s);
		}
		if (calls[0] != calls[1])
			ck_bad("%d calls for one batch, %d or others for another of the same "
			       "sizes: forward may "
			       "only look at n_tokens, n_seqs and n_logits",
				n_calls[0], n_calls[1]);
	}
	sut_destroy(&u);
	free(w);
	ck_end();
}

/* Logits of every position of the sequences, [N_SEQS][SEQ_LEN][vocab]. */
static int run_into(struct sut *u, struct fstep *s, float *all, int n, const int *seq,
	const int32_t *from, const int32_t *to)
{
	struct nvllm_tensor logits;
	struct fbatch f;
	int64_t row = 0, vocab = u->arch.vocab;

	fbatch_make(&f, n, seq, from, to, vocab);
	if (fstep_run(s, u->vt, u->m, &f.b, &logits))
		return -1;
	for (int i = 0; i < n; i++)
		for (int32_t p = from[i]; p < to[i]; p++, row++)
			memcpy(all + ((int64_t)seq[i] * SEQ_LEN + p) * vocab,
				(char *)logits.data + row * logits.stride,
				sizeof(float) * (size_t)vocab);
	return 0;
}

static void compare(const struct sut *u, const float *a, const float *b, int seq, int32_t len)
{
	int64_t vocab = u->arch.vocab, base = (int64_t)seq * SEQ_LEN * vocab;
	double worst = 0;

	for (int64_t i = base; i < base + len * vocab && ck_good(); i++) {
		double d = fabs((double)a[i] - (double)b[i]);

		if (!isfinite(a[i]) || !isfinite(b[i]))
			ck_bad("position %ld: logits are not finite", (long)((i - base) / vocab));
		worst = d > worst ? d : worst;
	}
	if (worst > 1e-4)
		ck_bad("logits differ by %.3g", worst);
}

/* 24 positions of sequence 0 in the named manner, to be compared with the whole. */
static void run_manner(struct sut *u, struct fstep *s, float *all, int manner)
{
	static const int32_t cuts[] = { 0, 5, 6, 17, 24 };
	const int zero[] = { 0 }, three[] = { 1, 0, 2 };

	if (manner == 0)
		run_into(u, s, all, 1, zero, &cuts[0], &cuts[4]);
	for (int i = 0; manner == 1 && i < 4; i++)
		run_into(u, s, all, 1, zero, &cuts[i], &cuts[i + 1]);
	for (int32_t p = 0, q = 1; manner == 2 && p < 24; p++, q++)
		run_into(u, s, all, 1, zero, &p, &q);
	if (manner == 3) {
		static const int32_t from[2][3] = { { 0, 0, 0 }, { 7, 11, 1 } },
				     to[2][3] = { { 7, 11, 1 }, { 8, 24, 9 } };

		run_into(u, s, all, 3, three, from[0], to[0]);
		run_into(u, s, all, 3, three, from[1], to[1]);
	}
}

static void check_used(const struct fweights *w)
{
	ck_begin("forward uses every tensor that bind names");
	for (int i = 0; i < w->n; i++)
		if (!w->list[i].used)
			ck_bad("%s is never used", w->list[i].name);
	ck_end();
}

static void check_numbers(const struct nvllm_component *c, int has)
{
	static const char *const manner[] = { "whole", "in chunks", "token by token",
		"beside two others" };
	struct fweights *w = malloc(sizeof(*w));
	float *all[4] = { NULL };
	struct sut u;
	int status;

	ck_begin("a prompt%s, whole", has ? " with everything optional" : "");
	fweights_init(w, false, has);
	status = sut_open(&u, c) || bind_into(&u, w);
	for (int i = 0; i < 4 && !status; i++) {
		struct fstep *s = fstep_new(&u.arch, w);

		if (i)
			ck_begin("a prompt%s, %s: logits as for the whole",
				has ? " with everything optional" : "", manner[i]);
		all[i] = calloc((size_t)(N_SEQS * SEQ_LEN * u.arch.vocab), sizeof(float));
		run_manner(&u, s, all[i], i);
		compare(&u, all[0], all[i], 0, 24);
		if (i == 0 &&
			!memcmp(all[0], all[0] + u.arch.vocab,
				sizeof(float) * (size_t)u.arch.vocab))
			ck_bad("two tokens give the same logits");
		ck_end();
		fstep_free(s);
	}
	if (status)
		ck_end();
	else
		check_used(w);
	sut_destroy(&u);
	fweights_free(w);
	for (int i = 0; i < 4; i++)
		free(all[i]);
	free(w);
}

void suite_model(const struct nvllm_component *c)
{
	const struct nvllm_model_vt *vt = c->vt;
	struct sut u;

	ck_begin("hyperparameter table, architectures");
	if (!vt->architectures || !vt->architectures[0])
		ck_bad("names no architecture");
	if (vt->hparams && option_check_table(vt->hparams, vt->hparams_size, c->name))
		ck_bad("%s", fail_text());
	ck_end();
	ck_begin("create takes a small checkpoint");
	sut_open(&u, c);
	sut_destroy(&u);
	if (!ck_good()) {
		ck_end();
		return;
	}
	ck_end();
	check_absurd(c);
	for (int has = 0; has < 2; has++) {
		check_bind(c, has);
		check_pure(c, has);
		check_numbers(c, has);
	}
}
