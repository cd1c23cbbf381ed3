/* SPDX-License-Identifier: MIT */
/* Memory: the budget, what weights and work take of it, how many KV pages the rest makes.
 * Measured before anything is allocated; refused with the figures where it cannot be. */
#include <stdlib.h>
#include <string.h>

#include "opening.h"

static int read_budget(struct opening *o)
{
	const struct nvllm_option share = { .key = "memory", .type = NVLLM_OPT_FLOAT, .min = 0.01, .max = 1 };
	const struct nvllm_option size = { .key = "memory", .type = NVLLM_OPT_SIZE, .min = 1, .max = 1e18 };
	const char *text = o->e->set.memory, *origin = NULL;
	const struct nvllm_device_info *info = &o->e->rank.info;
	double f = info->caps & NVLLM_DEV_HOST_MEM ? 0.25 : 0.9;
	char why[128];

	if (!strcmp(text, "auto") || !option_set(&share, text, &f, conf_pool(o->c), why, sizeof(why))) {
		o->budget = (int64_t)((double)info->mem_free * f);
		return NVLLM_OK;
	}
	if (!option_set(&size, text, &o->budget, conf_pool(o->c), why, sizeof(why)))
		return NVLLM_OK;
	conf_get(o->c, "engine", "memory", &origin);
	return fail(NVLLM_EINVAL, "%s: [engine] memory: '%s' is neither a share (0.01 to 1) nor a size (300M, 4G), nor 'auto'",
		origin ? origin : "default", text);
}

/* How many pages the rest of the budget holds; refuses where one request cannot fit. */
static int count_pages(struct opening *o)
{
	struct nvllm_engine *e = o->e;
	struct rank *r = &e->rank;
	int64_t pt = r->layout.page_tokens, per_seq = (e->set.max_model_len + pt - 1) / pt;
	int64_t rest = o->budget - r->weight_bytes - r->work_bytes, fits = r->page_bytes ? rest / r->page_bytes : per_seq;

	if (fits < 1 || (o->len_asked && fits < per_seq))
		return fail(NVLLM_ENOMEM, "not enough memory for one request of %lld tokens: weights %.1f MiB, workspace %.1f MiB "
			"and KV %.1f MiB make %.1f MiB, the budget is %.1f MiB. Raise [engine] memory, or lower max_model_len%s, "
			"max_tokens or max_seqs", (long long)e->set.max_model_len, mib(r->weight_bytes), mib(r->work_bytes),
			mib(per_seq * r->page_bytes), mib(r->weight_bytes + r->work_bytes + per_seq * r->page_bytes), mib(o->budget),
			fits > 0 ? " (what fits is less)" : "");
	if (fits < per_seq) {
		log_line(NVLLM_LOG_WARN, NULL, "the KV cache holds %lld tokens: max_model_len is lowered to that from %lld; raise "
			"[engine] memory for more", (long long)(fits * pt), (long long)e->set.max_model_len);
		e->set.max_model_len = fits * pt;
		per_seq = fits;
	}
	r->n_pages = fits < per_seq * e->set.max_seqs ? fits : per_seq * e->set.max_seqs;
	if (r->n_pages > INT32_MAX / pt)
		r->n_pages = INT32_MAX / pt; /* slots are 32-bit */
	r->kv_bytes = r->n_pages * r->page_bytes;
	return NVLLM_OK;
}

int memory_measure(struct opening *o)
{
	struct nvllm_engine *e = o->e;
	struct rank *r = &e->rank;
	int64_t pt = r->layout.page_tokens;
	int rc;

	o->batch_work = batch_init(&r->batch, r->host_attn, (int32_t)e->set.max_tokens, (int32_t)e->set.max_seqs, e->max_logits,
		(int32_t)((e->set.max_model_len + pt - 1) / pt), (int32_t)pt);
	if (o->batch_work < 0)
		return (int)o->batch_work;
	rc = step_measure(r, &r->arena_bytes);
	if (rc)
		return rc;
	r->work_bytes = r->arena_bytes + r->layout.workspace_bytes + o->sampler_work + o->batch_work +
		step_out_bytes(e->max_logits);
	rc = read_budget(o);
	return rc ? rc : count_pages(o);
}

static int get(struct opening *o, void **out, int64_t bytes, const char *what)
{
	struct rank *r = &o->e->rank;

	*out = r->dvt->alloc(r->dev, bytes > 0 ? bytes : 256);
	if (*out)
		return NVLLM_OK;
	return fail(NVLLM_ENOMEM, "the device has no %.1f MiB left for the %s: lower [engine] memory", mib(bytes), what);
}

int memory_allocate(struct opening *o)
{
	struct nvllm_engine *e = o->e;
	struct rank *r = &e->rank;
	int64_t out = step_out_bytes(e->max_logits);
	char *at;
	int rc = get(o, &r->weight_mem, r->weight_bytes, "weights");

	rc = rc ? rc : get(o, &r->kv_mem, r->kv_bytes, "KV cache");
	rc = rc ? rc : get(o, &r->arena, r->arena_bytes, "activations");
	rc = rc ? rc : get(o, &r->attn_work, r->layout.workspace_bytes, "attention workspace");
	rc = rc ? rc : get(o, &r->sampler_work, o->sampler_work, "sampler workspace");
	rc = rc ? rc : get(o, &r->batch_mem, o->batch_work, "step's inputs");
	rc = rc ? rc : get(o, &r->out_mem, out, "step's results");
	if (rc)
		return rc;
	batch_place(&r->batch, r->batch_mem);
	r->host_mem = calloc(1, (size_t)out);
	r->rows = calloc((size_t)e->max_logits, sizeof(*r->rows));
	r->kv = calloc((size_t)r->arch.n_layers, sizeof(*r->kv));
	if (!r->host_mem || !r->rows || !r->kv)
		return fail(NVLLM_ENOMEM, "no memory");
	step_out_place(&r->dev_out, r->out_mem, e->max_logits);
	step_out_place(&r->host_out, r->host_mem, e->max_logits);
	at = r->kv_mem;
	for (int i = 0; i < r->arch.n_layers; i++) {
		r->kv[i] = r->layout.layer_bytes[i] ? at : NULL;
		at += layer_stride(r, i) * r->n_pages;
	}
	return r->avt->attach(r->attn, r->kv, r->n_pages, r->attn_work);
}
