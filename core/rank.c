/* SPDX-License-Identifier: MIT */
/* One rank: its device, its share of the model, its attention backend and sampler. Made in
 * this order, and unmade backwards. */
#include <stdlib.h>
#include <string.h>

#include "opening.h"

/* What the device says it can, and what every step needs, must be there to be called. */
static int check_caps(const struct nvllm_component *comp, const struct rank *r)
{
	const struct nvllm_device_vt *v = r->dvt;
	const struct nvllm_kernels *k = v->kernels;
	uint64_t caps = r->info.caps;
	const char *lacks = NULL;

	if (!k || !NVLLM_HAS(k, advance) || !k->advance || !k->logprobs)
		lacks = "kernels advance and logprobs";
	if ((caps & NVLLM_DEV_ASYNC) && !(NVLLM_HAS(v, mark_wait) && v->mark_create && v->mark_free && v->mark_set &&
	    v->mark_wait))
		lacks = "mark members, though it says that it is asynchronous";
	if ((caps & NVLLM_DEV_GRAPHS) && !(NVLLM_HAS(v, graph_free) && v->graph_begin && v->graph_end &&
	    v->graph_launch && v->graph_free))
		lacks = "graph members, though it says that it has graphs";
	if ((caps & NVLLM_DEV_PARALLEL) && !(NVLLM_HAS(v, parallel_for) && v->parallel_for))
		lacks = "parallel_for, though it says that it has it";
	if (NVLLM_HAS(v, host_free) && !v->host_alloc != !v->host_free)
		lacks = "one of host_alloc and host_free";
	return lacks ? fail(NVLLM_EINVAL, "the device plugin '%s' lacks %s: it must be mended (nvllm check shows more)",
		comp->name, lacks) : NVLLM_OK;
}

int rank_open_device(struct opening *o, struct rank *r)
{
	/* ranks share the host's memory, and have a device each where it has its own */
	int own = r->index && !(o->e->ranks[0].info.caps & NVLLM_DEV_HOST_MEM) ? r->index : 0, rc;

	r->host_dev = host_for(o->dev, r->index, r->world);
	r->dvt = o->dev->vt;
	if (!r->host_dev)
		return out_of_memory();
	rc = r->dvt->create(r->host_dev, (int)o->dev_set.ordinal + own, o->dev_conf, &r->dev);
	r->info = (struct nvllm_device_info){ .size = sizeof(r->info) };
	if (!rc)
		rc = r->dvt->info(r->dev, &r->info);
	if (!rc)
		rc = check_caps(o->dev, r);
	r->ref = (struct nvllm_device_ref){ sizeof(r->ref), r->dvt, r->dev, &r->info };
	return rc;
}

void rank_drop_device(struct rank *r)
{
	if (r->dev)
		r->dvt->destroy(r->dev);
	host_destroy(r->host_dev);
	r->dev = NULL;
	r->host_dev = NULL;
}

/* Hyperparameters from the checkpoint, by the model's own table. */
static int read_hparams(struct opening *o, const struct nvllm_model_vt *vt, void **out)
{
	struct source *s = o->e->source;
	char why[256];

	*out = pool_alloc(conf_pool(o->c), vt->hparams_size + 1);
	if (!*out)
		return out_of_memory();
	for (const struct nvllm_option *h = vt->hparams; h && h->key; h++) {
		const char *v = s->ref.vt->meta(s->ref.loader, h->key);

		if (!v && (h->flags & NVLLM_OPT_REQUIRED))
			return fail(NVLLM_EINVAL, "%s: the checkpoint's configuration has no '%s' (%s), which the model '%s' needs",
				s->path, h->key, h->help, o->model->name);
		if (option_set(h, v ? v : h->def, *out, conf_pool(o->c), why, sizeof(why)))
			return fail(NVLLM_EINVAL, "%s: configuration key '%s': %s (%s)", s->path, h->key, why, h->help);
	}
	return NVLLM_OK;
}

static int check_arch(const struct opening *o, const struct nvllm_arch *a)
{
	const struct source *s = o->e->source;

	if (a->n_layers < 1 || a->dim < 1 || a->vocab < 1 || a->vocab > INT32_MAX || a->max_len < 1 || !a->layers)
		return fail(NVLLM_EINVAL, "the model '%s' gave an architecture without layers, width, vocabulary or length",
			o->model->name);
	if (s->tok_info.n_tokens > a->vocab)
		log_line(NVLLM_LOG_WARN, NULL, "%s: the tokenizer has %d tokens, the model's vocabulary %lld: prompts that need the "
			"others are refused", s->path, s->tok_info.n_tokens, (long long)a->vocab);
	for (int i = 0; i < s->tok_info.n_eos_ids && i < NVLLM_STOP_IDS; i++)
		if (s->tok_info.eos_ids[i] >= a->vocab)
			return fail(NVLLM_EINVAL, "%s: end token %d is outside the vocabulary of %lld", s->path,
				s->tok_info.eos_ids[i], (long long)a->vocab);
	return NVLLM_OK;
}

int rank_open_model(struct opening *o, struct rank *r)
{
	void *hparams;
	int rc;

	r->mvt = o->model->vt;
	r->host_model = host_for(o->model, r->index, r->world);
	r->arch.size = sizeof(r->arch);
	if (!r->host_model)
		return out_of_memory();
	rc = read_hparams(o, r->mvt, &hparams);
	if (rc)
		return rc;
	rc = r->mvt->create(r->host_model, hparams, o->model_conf, &r->model, &r->arch);
	if (rc)
		return *fail_text() ? fail_prefix(rc, "%s: ", o->e->source->path) : out_of_memory();
	return check_arch(o, &r->arch);
}

/* Names every weight of this rank's share, and with a base loads it. */
static int bind(struct opening *o, struct rank *r, void *base, int64_t *bytes)
{
	struct weights w;
	int rc;

	weights_init(&w, &o->e->source->ref, &r->ref, &r->cuts,
		o->e->set.max_model_len ? o->e->set.max_model_len : r->arch.max_len, base);
	rc = r->mvt->bind(r->model, &w.pub);
	rc = rc ? rc : w.pub.status;
	*bytes = w.bytes;
	if (w.unit_wanted > o->ffn_unit)
		o->ffn_unit = w.unit_wanted;
	weights_finish(&w);
	return rc;
}

int rank_cut(struct opening *o, struct rank *r)
{
	int rc;

	cuts_free(&r->cuts);
	rc = cuts_make(&r->cuts, &r->arch, r->index, r->world, o->ffn_unit);
	if (rc)
		return rc;
	rc = bind(o, r, NULL, &r->weight_bytes);
	return rc ? fail_prefix(rc, "%s: ", o->e->source->path) : NVLLM_OK;
}

int rank_open_attention(struct opening *o, struct rank *r)
{
	const int32_t types[] = { r->info.kv_dtype, NVLLM_F32, NVLLM_F16, NVLLM_BF16, NVLLM_F8_E4M3 };
	const struct engine_settings *set = &o->e->set;
	int rc;

	r->avt = o->attn->vt;
	r->host_attn = host_for(o->attn, r->index, r->world);
	if (!r->host_attn)
		return out_of_memory();
	r->shape = (struct nvllm_attn_shape){
		.size = sizeof(r->shape), .n_layers = r->arch.n_layers, .kv_dtype = types[set->kv_dtype],
		.max_tokens = step_rows(set),
		.max_seqs = (int32_t)set->max_seqs, .max_len = set->max_model_len, .layers = r->cuts.list,
	};
	r->layout.size = sizeof(r->layout);
	rc = r->avt->create(r->host_attn, &r->ref, &r->shape, o->attn_conf, &r->attn, &r->layout);
	if (rc)
		return rc;
	if (r->layout.page_tokens < 1 || !r->layout.layer_bytes || r->layout.workspace_bytes < 0)
		return fail(NVLLM_EINVAL, "the attention backend '%s' gave no layout for its pages", o->attn->name);
	for (int i = 0; i < r->arch.n_layers; i++)
		r->page_bytes += r->layout.layer_bytes[i];
	return NVLLM_OK;
}

int rank_open_sampler(struct opening *o, struct rank *r)
{
	r->svt = o->sampler->vt;
	r->host_sampler = host_for(o->sampler, r->index, r->world);
	if (!r->host_sampler)
		return out_of_memory();
	r->sampler_env = (struct nvllm_sampler_env){ .size = sizeof(r->sampler_env), .max_rows = o->e->max_logits,
		.dev = &r->ref, .vocab = r->arch.vocab, .vocab_n = r->arch.vocab, .comm_vt = r->cvt, .comm = r->comm };
	return r->svt->create(r->host_sampler, &r->sampler_env, o->sampler_conf, &r->sampler);
}

int rank_load_weights(struct opening *o, struct rank *r)
{
	int64_t bytes;
	int rc = bind(o, r, r->weight_mem, &bytes);

	if (!rc && bytes > r->weight_bytes)
		rc = fail(NVLLM_EINVAL, "the model '%s' bound more weights the second time", o->model->name);
	return rc ? rc : r->dvt->sync(r->dev, r->dvt->stream(r->dev));
}

/* Tells the device how many rows steps will have: those of the graphs, or one, and the most. */
static int prepare_device(struct rank *r, int32_t most)
{
	int32_t rows[66] = { 1 };
	const int32_t *size;
	int n = graph_pool_sizes(r->graphs, &size);

	if (!NVLLM_HAS(r->dvt, prepare) || !r->dvt->prepare)
		return NVLLM_OK;
	n = n < 64 ? n : 64;
	if (n)
		memcpy(rows, size, (size_t)n * sizeof(*rows));
	n = n ? n : 1;
	rows[n] = most;
	return r->dvt->prepare(r->dev, rows, n + 1);
}

int rank_open_graphs(struct opening *o, struct rank *r)
{
	const struct graph_settings *g = &o->graph_set;
	int32_t rows = step_rows(&o->e->set);
	int rc;

	r->graphs = graph_pool_create(&r->ref, r->dvt->stream(r->dev), g->capture != GRAPHS_OFF && !samples_on_host(r), g->sizes.v,
		g->sizes.n, (int32_t)o->e->set.max_seqs, g->mixed < rows ? (int32_t)g->mixed : rows);
	if (!r->graphs)
		return NVLLM_ENOMEM;
	rc = prepare_device(r, rows);
	return !rc && g->capture == GRAPHS_STARTUP ? step_warm(r) : rc;
}

static void close_flights(struct rank *r)
{
	for (int32_t i = 0; r->flight && i < r->n_flights; i++)
		if (r->flight[i].mark)
			r->dvt->mark_free(r->dev, r->flight[i].mark);
	free(r->flight);
	if (r->host_mem && NVLLM_HAS(r->dvt, host_free) && r->dvt->host_alloc)
		r->dvt->host_free(r->dev, r->host_mem);
	else
		free(r->host_mem);
}

void rank_close(struct rank *r)
{
	void *const mem[] = { r->out_mem, r->batch_mem, r->far_work ? NULL : r->sampler_work, r->dev_row, r->attn_work, r->arena, r->kv_mem, r->weight_mem };

	graph_pool_destroy(r->graphs);
	if (r->comm)
		r->cvt->destroy(r->comm);
	if (r->sampler && NVLLM_HAS(r->svt, destroy) && r->svt->destroy)
		r->svt->destroy(r->sampler);
	if (r->attn && NVLLM_HAS(r->avt, destroy) && r->avt->destroy)
		r->avt->destroy(r->attn);
	if (r->model && NVLLM_HAS(r->mvt, destroy) && r->mvt->destroy)
		r->mvt->destroy(r->model);
	close_flights(r);
	for (size_t i = 0; i < sizeof(mem) / sizeof(*mem); i++)
		if (mem[i])
			r->dvt->free(r->dev, mem[i]);
	process_close(r);
	batch_finish(&r->batch);
	free(r->row);
	free(r->far_logits);
	free(r->far_tokens);
	free(r->far_work);
	cuts_free(&r->cuts);
	free(r->kv);
	host_destroy(r->host_comm);
	host_destroy(r->host_sampler);
	host_destroy(r->host_attn);
	host_destroy(r->host_model);
	rank_drop_device(r);
}
