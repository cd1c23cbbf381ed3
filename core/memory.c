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
	struct rank *r = &o->e->ranks[0];
	const struct nvllm_device_info *info = &r->info;
	/* the ranks of a host share its memory; devices have each their own */
	int64_t sharers = info->caps & NVLLM_DEV_HOST_MEM ? o->e->tp : 1;
	double f = info->caps & NVLLM_DEV_HOST_MEM ? 0.25 : 0.9;
	char why[128];
	int rc = r->dvt->info(r->dev, &r->info); /* the device may need scratch for the weights it was shown */

	if (rc)
		return rc;
	if (!strcmp(text, "auto") || !option_set(&share, text, &f, conf_pool(o->c), why, sizeof(why))) {
		o->budget = (int64_t)((double)info->mem_free * f) / sharers;
		return NVLLM_OK;
	}
	if (!option_set(&size, text, &o->budget, conf_pool(o->c), why, sizeof(why))) {
		o->budget /= sharers;
		return NVLLM_OK;
	}
	conf_get(o->c, "engine", "memory", &origin);
	return fail(NVLLM_EINVAL, "%s: [engine] memory: '%s' is neither a share (0.01 to 1) nor a size (300M, 4G), nor 'auto'",
		origin ? origin : "default", text);
}

/* How many pages the rest of a rank's budget holds; refuses where one request cannot fit. */
static int fit_pages(struct opening *o, struct rank *r, int64_t *n_pages)
{
	struct nvllm_engine *e = o->e;
	int64_t pt = r->layout.page_tokens, per_seq = (e->set.max_model_len + pt - 1) / pt;
	int64_t rest = o->budget - r->weight_bytes - r->work_bytes - 256 * r->arch.n_layers, short_by;
	int64_t fits = r->page_bytes && rest / r->page_bytes < INT32_MAX / pt ? rest / r->page_bytes : INT32_MAX / pt;

	short_by = per_seq * r->page_bytes - rest;
	if (rest < 0 || fits < 1 || (o->len_asked && fits < per_seq))
		return fail(NVLLM_ENOMEM, "not enough memory for one request of %lld tokens: weights %.1f MiB, workspace %.1f MiB "
			"and KV %.1f MiB make %.1f MiB, the budget is %.1f MiB%s, too little by %lld KiB. Raise [engine] memory, "
			"or lower max_model_len%s, max_tokens or max_seqs", (long long)e->set.max_model_len, mib(r->weight_bytes), mib(r->work_bytes),
			mib(per_seq * r->page_bytes), mib(r->weight_bytes + r->work_bytes + per_seq * r->page_bytes), mib(o->budget),
			e->tp > 1 ? " for each rank" : "", (long long)((short_by + 1023) / 1024), fits > 0 ? " (what fits is less)" : "");
	*n_pages = *n_pages < fits ? *n_pages : fits;
	return NVLLM_OK;
}

/* Page numbers are the same on every rank: the least of them says how many there are. */
static int count_pages(struct opening *o)
{
	struct nvllm_engine *e = o->e;
	int64_t pt = e->ranks[0].layout.page_tokens, per_seq = (e->set.max_model_len + pt - 1) / pt, n = INT32_MAX / pt;

	for (int32_t i = 0; i < e->tp; i++) {
		int rc = fit_pages(o, &e->ranks[i], &n);

		if (rc)
			return rc;
	}
	if (n < per_seq) {
		log_line(NVLLM_LOG_WARN, NULL, "the KV cache holds %lld tokens: max_model_len is lowered to that from %lld; raise "
			"[engine] memory for more", (long long)(n * pt), (long long)e->set.max_model_len);
		e->set.max_model_len = n * pt;
		per_seq = n;
	}
	n = n < per_seq * e->set.max_seqs ? n : per_seq * e->set.max_seqs;
	for (int32_t i = 0; i < e->tp; i++) {
		e->ranks[i].n_pages = n;
		for (int k = 0; k < e->ranks[i].arch.n_layers; k++)
			e->ranks[i].kv_bytes += layer_bytes(&e->ranks[i], k);
	}
	return NVLLM_OK;
}

static int measure_rank(struct opening *o, struct rank *r)
{
	const struct nvllm_engine *e = o->e;
	int64_t pt = r->layout.page_tokens;
	int rc;

	if (pt != e->ranks[0].layout.page_tokens)
		return fail(NVLLM_EINVAL, "the attention backend '%s' chose pages of %lld tokens for rank %d and %d for rank 0",
			o->attn->name, (long long)pt, r->index, e->ranks[0].layout.page_tokens);
	r->batch_bytes = batch_init(&r->batch, step_rows(&e->set), (int32_t)e->set.max_seqs, e->max_logits,
		(int32_t)((e->set.max_model_len + pt - 1) / pt), (int32_t)pt, !samples_on_host(r) && is_far(r));
	rc = step_measure(r, &r->arena_bytes);
	r->work_bytes = r->arena_bytes + r->layout.workspace_bytes + r->sampler_env.workspace_bytes + r->batch_bytes +
		step_out_bytes(e->max_logits) + (e->n_procs ? r->arch.vocab * (int64_t)sizeof(float) : 0);
	return rc;
}

int memory_measure(struct opening *o)
{
	int rc = NVLLM_OK;

	for (int32_t i = 0; i < o->e->tp && !rc; i++)
		rc = measure_rank(o, &o->e->ranks[i]);
	if (!rc)
		rc = read_budget(o);
	return rc ? rc : count_pages(o);
}

static int get(struct rank *r, void **out, int64_t bytes, const char *what)
{
	*out = r->dvt->alloc(r->dev, bytes > 0 ? bytes : 256);
	if (*out)
		return NVLLM_OK;
	return fail(NVLLM_ENOMEM, "the device has no %.1f MiB left for the %s: lower [engine] memory", mib(bytes), what);
}

/* Host memory that steps copy from and to: staging and results of each flight. */
static int make_flights(const struct nvllm_engine *e, struct rank *r)
{
	int64_t out = step_out_bytes(e->max_logits), bytes = (out + r->batch.staging_bytes) * r->n_flights;
	bool pinned = NVLLM_HAS(r->dvt, host_free) && r->dvt->host_alloc;
	int rc = NVLLM_OK;

	r->host_mem = pinned ? r->dvt->host_alloc(r->dev, bytes) : calloc(1, (size_t)bytes);
	r->flight = calloc((size_t)r->n_flights, sizeof(*r->flight));
	if (!r->host_mem || !r->flight)
		return fail(NVLLM_ENOMEM, "no host memory for %.1f MiB of steps' inputs and results", mib(bytes));
	memset(r->host_mem, 0, (size_t)bytes);
	for (int32_t i = 0; i < r->n_flights && !rc; i++) {
		step_out_place(&r->flight[i].out, (char *)r->host_mem + i * out, e->max_logits);
		if (r->info.caps & NVLLM_DEV_ASYNC)
			rc = r->dvt->mark_create(r->dev, &r->flight[i].mark);
	}
	return rc ? rc : batch_place(&r->batch, r->batch_mem, (char *)r->host_mem + r->n_flights * out);
}

static void *host_get(int64_t bytes) { return calloc(1, (size_t)bytes + 1); }

/* What sampling needs beside the logits: in host memory for a host sampler. */
static int make_sampling(const struct nvllm_engine *e, struct rank *r)
{
	int64_t row = r->arch.vocab * (int64_t)sizeof(float);
	bool host = samples_on_host(r), far = is_far(r), ok = true;
	int rc = NVLLM_OK;

	if (e->n_procs)
		ok = (r->row = host_get(row)) != NULL;
	if (host && far) {
		r->far_logits = host_get(row * e->max_logits);
		r->far_tokens = host_get(e->max_logits * (int64_t)sizeof(*r->far_tokens));
		r->far_work = r->sampler_work = aligned_alloc(64, (size_t)(r->sampler_env.workspace_bytes + 127) / 64 * 64);
		ok = ok && r->far_logits && r->far_tokens && r->far_work;
	} else {
		rc = get(r, &r->sampler_work, r->sampler_env.workspace_bytes, "sampler workspace");
		if (!rc && e->n_procs && far)
			rc = get(r, &r->dev_row, row, "row of logits");
	}
	return ok ? rc : fail(NVLLM_ENOMEM, "no host memory for the logits of a step, %.1f MiB", mib(row * e->max_logits));
}

static int allocate_rank(const struct nvllm_engine *e, struct rank *r)
{
	char *at;
	int rc = get(r, &r->weight_mem, r->weight_bytes, "weights");

	rc = rc ? rc : get(r, &r->kv_mem, r->kv_bytes, "KV cache");
	rc = rc ? rc : get(r, &r->arena, r->arena_bytes, "activations");
	rc = rc ? rc : get(r, &r->attn_work, r->layout.workspace_bytes, "attention workspace");
	rc = rc ? rc : make_sampling(e, r);
	rc = rc ? rc : get(r, &r->batch_mem, r->batch_bytes, "step's inputs");
	rc = rc ? rc : get(r, &r->out_mem, step_out_bytes(e->max_logits), "step's results");
	rc = rc ? rc : make_flights(e, r);
	if (rc)
		return rc;
	step_out_place(&r->dev_out, r->out_mem, e->max_logits);
	r->kv = calloc((size_t)r->arch.n_layers, sizeof(*r->kv));
	if (!r->kv)
		return out_of_memory();
	at = r->kv_mem;
	for (int i = 0; i < r->arch.n_layers; i++) {
		r->kv[i] = r->layout.layer_bytes[i] ? at : NULL;
		at += layer_bytes(r, i);
	}
	return r->avt->attach(r->attn, r->kv, r->n_pages, r->attn_work);
}

int memory_allocate(struct opening *o)
{
	int rc = NVLLM_OK;

	for (int32_t i = 0; i < o->e->tp && !rc; i++)
		rc = allocate_rank(o->e, &o->e->ranks[i]);
	return rc;
}
