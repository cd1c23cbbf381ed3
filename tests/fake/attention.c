/* SPDX-License-Identifier: MIT */
/* The fake device's attention: a real plugin for host memory underneath, called when the job's
 * turn comes. What the batch on the device says is checked then: the host cannot have. */
#include <stdio.h>
#include <string.h>

#include "fake.h"

struct conf {
	const char *inner;
	int64_t page_tokens;
};

struct nvllm_attention {
	struct fake_host words;
	struct nvllm_device *d;
	const struct nvllm_attention_vt *vt;
	struct nvllm_attention *inner;
	const struct nvllm_attn_shape *shape;
	int32_t page_tokens;
	const int64_t *layer_bytes;
	int64_t n_pages;
	int64_t done; /* newest layer since plan ran; -1 = none; n_layers = plan has not run */
};

static int attn_create(const struct nvllm_host *host, const struct nvllm_device_ref *ref,
	const struct nvllm_attn_shape *shape, const void *conf, struct nvllm_attention **out,
	struct nvllm_kv_layout *layout)
{
	const struct conf *c = conf;
	struct nvllm_device *d = inner_device(host, ref);
	struct nvllm_attention *a = d ? host->alloc(host, sizeof(*a)) : NULL;
	const struct nvllm_component *in = a ? inner_find(host, c->inner, NVLLM_KIND_ATTENTION,
		d->cpu_info.caps) : NULL;
	char tokens[24];
	const char *const words[] = { "page_tokens", tokens, NULL };
	void *iconf;
	int rc;

	if (!in)
		return !d || a ? NVLLM_ENOTSUP : host->fail(host, NVLLM_ENOMEM, "no memory");
	snprintf(tokens, sizeof(tokens), "%lld", (long long)c->page_tokens);
	rc = inner_conf(host, in, words, &iconf);
	if (rc)
		return rc;
	inner_host(&a->words, host);
	a->d = d;
	a->vt = in->vt;
	a->shape = shape;
	a->done = shape->n_layers;
	rc = a->vt->create(&a->words.pub, &d->cpu_ref, shape, iconf, &a->inner, layout);
	a->page_tokens = layout->page_tokens;
	a->layer_bytes = layout->layer_bytes;
	*out = a;
	return rc;
}

static int attn_attach(struct nvllm_attention *a, void *const *kv, int64_t n_pages, void *workspace)
{
	for (int32_t i = 0; i < a->shape->n_layers; i++)
		if (!on_device(a->d, "attention", "kv", kv[i], n_pages * a->layer_bytes[i]))
			return a->words.real->fail(a->words.real, NVLLM_EINVAL,
				"the pages of layer %d are "
				"not in device memory",
				i);
	a->n_pages = n_pages;
	return a->vt->attach(a->inner, kv, n_pages, workspace);
}

static int said(struct nvllm_attention *a, int rc)
{
	if (rc)
		memcpy(a->d->words.said, a->words.said, sizeof(a->words.said));
	return rc;
}

static int run_plan(struct nvllm_device *d, const struct job *j)
{
	struct nvllm_attention *a = j->u.attn.a;
	const struct nvllm_batch b = batch_of(&j->u.attn.b);

	a->done = -1;
	if (!NVLLM_HAS(a->vt, plan) || !a->vt->plan)
		return NVLLM_OK;
	return said(a, a->vt->plan(a->inner, NULL, &b));
}
static const struct job_type plan_type = { "attention plan", true, run_plan };

static bool batch_on_device(struct nvllm_device *d, const struct nvllm_batch *b)
{
	const char *const op = "attention";

	return ints_on_device(d, op, "positions", b->positions, b->n_tokens) &&
	       ints_on_device(d, op, "slots", b->slots, b->n_tokens) &&
	       ints_on_device(d, op, "q_start", b->q_start, b->n_seqs + 1) &&
	       ints_on_device(d, op, "kv_len", b->kv_len, b->n_seqs) &&
	       ints_on_device(
		       d, op, "page_table", b->page_table, (int64_t)b->n_seqs * b->max_pages);
}

static int attn_plan(struct nvllm_attention *a, nvllm_stream s, const struct nvllm_batch *b)
{
	struct job *j;

	if (!batch_on_device(a->d, b))
		return NVLLM_OK;
	j = job_new(a->d, s, &plan_type);
	if (!j)
		return job_none(a->d, s);
	j->u.attn.a = a;
	batch_keep(&j->u.attn.b, b);
	return NVLLM_OK;
}

/* What the device's arrays say of sequence i: pages that there are, for as many tokens as
 * it has; no more tokens than the host said when it enqueued (or recorded) the step. */
static bool check_seq(struct nvllm_attention *a, const struct nvllm_batch *b, int32_t i)
{
	const int32_t len = b->kv_len[i], pages = (len + a->page_tokens - 1) / a->page_tokens;

	if (len < 0 || len > b->max_kv_len || pages > b->max_pages) {
		misuse(a->d,
			"attention: sequence %d has %d tokens; the step was enqueued for at "
			"most %d (max_kv_len) in %d pages",
			i, len, b->max_kv_len, b->max_pages);
		return false;
	}
	for (int32_t p = 0; p < pages; p++)
		if (b->page_table[(int64_t)i * b->max_pages + p] < 0 ||
		    b->page_table[(int64_t)i * b->max_pages + p] >= a->n_pages) {
			misuse(a->d, "attention: page %d of sequence %d is %d; there are %lld", p,
				i, b->page_table[(int64_t)i * b->max_pages + p],
				(long long)a->n_pages);
			return false;
		}
	return true;
}

static int run_attn(struct nvllm_device *d, const struct job *j)
{
	struct nvllm_attention *a = j->u.attn.a;
	const struct nvllm_batch b = batch_of(&j->u.attn.b);

	if (a->done >= j->u.attn.layer)
		misuse(d, "attention: layer %lld runs and plan did not run first in this step",
			(long long)j->u.attn.layer);
	a->done = j->u.attn.layer;
	for (int32_t i = 0; i < b.n_seqs; i++)
		if (!check_seq(a, &b, i))
			return NVLLM_OK;
	return said(a, a->vt->run(a->inner, NULL, (int32_t)j->u.attn.layer, &b, j->u.attn.q,
		j->u.attn.k, j->u.attn.v, j->u.attn.y));
}
static const struct job_type attn_type = { "attention", true, run_attn };

static int attn_run(struct nvllm_attention *a, nvllm_stream s, int32_t layer,
	const struct nvllm_batch *b, struct nvllm_tensor q, struct nvllm_tensor k,
	struct nvllm_tensor v, struct nvllm_tensor y)
{
	const char *const op = "attention";
	struct nvllm_device *d = a->d;
	struct job *j;

	if (!batch_on_device(d, b) || !tensor_on_device(d, op, "q", &q) ||
	    !tensor_on_device(d, op, "k", &k) || !tensor_on_device(d, op, "v", &v) ||
	    !tensor_on_device(d, op, "y", &y))
		return NVLLM_OK;
	j = job_new(d, s, &attn_type);
	if (!j)
		return job_none(d, s);
	j->u.attn.a = a;
	j->u.attn.layer = layer;
	j->u.attn.q = q;
	j->u.attn.k = k;
	j->u.attn.v = v;
	j->u.attn.y = y;
	batch_keep(&j->u.attn.b, b);
	return NVLLM_OK;
}

static void attn_destroy(struct nvllm_attention *a)
{
	if (a && a->inner && NVLLM_HAS(a->vt, destroy) && a->vt->destroy)
		a->vt->destroy(a->inner);
}

static const struct nvllm_option attn_options[] = {
	NVLLM_STR(conf, inner, "inner", FAKE_NAIVE,
		"attention plugin for host memory to run: a path"),
	NVLLM_INT(conf, page_tokens, "page_tokens", "16", 1, 4096, "tokens in a KV page"),
	NVLLM_OPTIONS_END
};
static const struct nvllm_attention_vt attn_vt = {
	.size = sizeof(attn_vt), .need = FAKE_CAP, .flags = NVLLM_ATTN_PLAN_ON_DEVICE,
	.create = attn_create, .attach = attn_attach, .plan = attn_plan, .run = attn_run,
	.destroy = attn_destroy,
};
const struct nvllm_component fake_attention = {
	.size = sizeof(fake_attention), .kind = NVLLM_KIND_ATTENTION, .name = "fake",
	.summary = "for tests: another attention plugin, run late on the fake device",
	.vt = &attn_vt, .options = attn_options, .conf_size = sizeof(struct conf),
};
