/* SPDX-License-Identifier: MIT */
/* Building an engine from a configuration: everything is chosen, checked and measured
 * before the first weight is read. Teardown is the same list read backwards. */
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "opening.h"

/* ---- sections ---- */

/* The plugin a section names, before the section is filled. */
static const char *word(struct opening *o, const char *section)
{
	const char *v = conf_get(o->c, section, "plugin", NULL);

	return v ? v : core_options(section, NULL)->def;
}

static struct nvllm_host *host_for(const char *kind, const struct nvllm_component *comp)
{
	char who[96];

	snprintf(who, sizeof(who), "%s.%s", kind, comp->name);
	return host_create(who, 0, 1);
}

/* Sections are the core's or a front end's; those of front ends are checked too, though
 * this run may not use them. */
static int check_sections(struct opening *o)
{
	const char *known[128];
	int n = 0, rc = NVLLM_OK;

	for (const char *const *s = core_sections(); *s; s++)
		known[n++] = *s;
	for (const char *const *s = conf_sections(o->c); s && *s && !rc && n < 126; s++) {
		const struct nvllm_component *f;
		void *scratch;

		if (core_options(*s, NULL))
			continue;
		f = plugin_find(o->pl, NVLLM_KIND_FRONTEND, *s, ~0ull, NULL);
		if (!f)
			continue; /* conf_check_sections says so, with file and line */
		known[n++] = *s;
		scratch = pool_alloc(conf_pool(o->c), f->conf_size + 1);
		rc = conf_fill(o->c, *s, &(struct conf_table){ *s, f->options, scratch, f->conf_size }, 1);
	}
	known[n] = NULL;
	return rc ? rc : conf_check_sections(o->c, known);
}

/* ---- the parts, in order ---- */

static int make_device(struct opening *o, const struct nvllm_component *comp)
{
	struct rank *r = &o->e->rank;
	int rc = section_fill(o->c, "device", &o->dev_set, comp, &o->dev_conf);

	if (rc)
		return rc;
	o->dev = comp;
	r->host_dev = host_for("device", comp);
	r->dvt = comp->vt;
	if (!r->host_dev)
		return fail(NVLLM_ENOMEM, "no memory");
	return r->dvt->create(r->host_dev, (int)o->dev_set.ordinal, o->dev_conf, &r->dev);
}

static int open_device(struct opening *o)
{
	const char *w = word(o, "device");
	struct rank *r = &o->e->rank;
	const struct nvllm_component *comp = NULL;
	int rc = NVLLM_ENOENT;

	if (!strcmp(w, "auto")) {
		comp = plugin_find(o->pl, NVLLM_KIND_DEVICE, "cuda", ~0ull, NULL);
		if (comp)
			rc = make_device(o, comp);
		if (rc && r->host_dev) {
			log_line(NVLLM_LOG_INFO, NULL, "no cuda device (%s): using the cpu", fail_text());
			host_destroy(r->host_dev);
			r->host_dev = NULL;
		}
		w = "cpu";
	}
	if (rc) {
		comp = plugin_find(o->pl, NVLLM_KIND_DEVICE, w, ~0ull, NULL);
		rc = comp ? make_device(o, comp) : NVLLM_ENOENT;
	}
	if (rc)
		return rc;
	r->info = (struct nvllm_device_info){ .size = sizeof(r->info) };
	rc = r->dvt->info(r->dev, &r->info);
	r->ref = (struct nvllm_device_ref){ sizeof(r->ref), r->dvt, r->dev, &r->info };
	return rc;
}

/* The component of a section for this device. */
static int choose(struct opening *o, const char *section, int kind, void *core,
	const struct nvllm_component **comp, void **pconf)
{
	*comp = plugin_find(o->pl, kind, word(o, section), o->e->rank.info.caps, NULL);
	return *comp ? section_fill(o->c, section, core, *comp, pconf) : NVLLM_ENOENT;
}

/* One rank needs no collectives, but a wrong word is refused all the same. */
static int check_comm(struct opening *o)
{
	const struct nvllm_component *comp = NULL;
	struct word_settings w;
	void *conf;

	if (strcmp(word(o, "comm"), "auto")) {
		comp = plugin_find(o->pl, NVLLM_KIND_COMM, word(o, "comm"), o->e->rank.info.caps, NULL);
		if (!comp)
			return NVLLM_ENOENT;
	}
	return section_fill(o->c, "comm", &w, comp, &conf);
}

static int settle(struct opening *o)
{
	struct nvllm_engine *e = o->e;
	struct graph_settings graphs;
	struct word_settings w;
	int rc = section_fill(o->c, "engine", &e->set, NULL, NULL);

	if (!rc)
		rc = section_fill(o->c, "graphs", &graphs, NULL, NULL);
	if (!rc)
		rc = open_device(o);
	if (!rc)
		rc = check_comm(o);
	if (!rc)
		rc = choose(o, "attention", NVLLM_KIND_ATTENTION, &w, &o->attn, &o->attn_conf);
	if (!rc)
		rc = choose(o, "sampler", NVLLM_KIND_SAMPLER, &o->sampler_set, &o->sampler, &o->sampler_conf);
	if (!rc)
		rc = choose(o, "cache", NVLLM_KIND_CACHE, &w, &o->cache, &o->cache_conf);
	if (!rc && e->set.tp > 1)
		rc = fail(NVLLM_ENOTSUP, "[engine] tp = %d: groups of ranks are not in this version; set it to 1", (int)e->set.tp);
	return rc ? rc : check_sections(o);
}

struct arch_pick { const char *arch; const struct nvllm_component *hit; char known[512]; };

static int match_arch(void *arg, const struct nvllm_component *c, const struct nvllm_plugin *p, const char *file,
	const char *why)
{
	struct arch_pick *k = arg;
	const struct nvllm_model_vt *vt = c ? c->vt : NULL;
	size_t n = strlen(k->known);

	for (const char *const *a = vt ? vt->architectures : NULL; a && *a; a++) {
		if (!strcmp(*a, k->arch)) {
			k->hit = c;
			return 1;
		}
		snprintf(k->known + n, sizeof(k->known) - n, "%s%s", n ? ", " : "", *a);
		n = strlen(k->known);
	}
	return 0;
}

static int choose_model(struct opening *o)
{
	struct nvllm_engine *e = o->e;
	struct source *s = e->source;
	const char *arch = s->ref.vt->meta(s->ref.loader, "architectures"), *w = word(o, "model");
	struct arch_pick k = { .arch = arch };

	if (strcmp(w, "auto")) {
		o->model = plugin_find(o->pl, NVLLM_KIND_MODEL, w, ~0ull, NULL);
		return o->model ? NVLLM_OK : NVLLM_ENOENT;
	}
	if (!arch)
		return fail(NVLLM_EINVAL, "%s: the checkpoint does not name its architecture; say it with [model] plugin", s->path);
	plugins_each(o->pl, NVLLM_KIND_MODEL, match_arch, &k);
	o->model = k.hit;
	if (k.hit)
		return NVLLM_OK;
	return fail(NVLLM_ENOTSUP, "%s: no model plugin knows the architecture '%s' (known: %s); docs/PLUGIN.md shows how to "
		"write one", s->path, arch, k.known);
}

/* Hyperparameters from the checkpoint, by the model's own table. */
static int read_hparams(struct opening *o, const struct nvllm_model_vt *vt, void **out)
{
	struct source *s = o->e->source;
	char why[256];

	*out = pool_alloc(conf_pool(o->c), vt->hparams_size + 1);
	if (!*out)
		return fail(NVLLM_ENOMEM, "no memory");
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

static int check_arch(const struct nvllm_engine *e, const char *model)
{
	const struct nvllm_arch *a = &e->rank.arch;

	if (a->n_layers < 1 || a->dim < 1 || a->vocab < 1 || a->vocab > INT32_MAX || a->max_len < 1 || !a->layers)
		return fail(NVLLM_EINVAL, "the model '%s' gave an architecture without layers, width, vocabulary or length", model);
	if (e->source->tok_info.n_tokens > a->vocab)
		return fail(NVLLM_EINVAL, "%s: the tokenizer has %d tokens, the model's vocabulary %lld: they do not belong "
			"together", e->source->path, e->source->tok_info.n_tokens, (long long)a->vocab);
	for (int i = 0; i < e->source->tok_info.n_eos_ids && i < NVLLM_STOP_IDS; i++)
		if (e->source->tok_info.eos_ids[i] >= a->vocab)
			return fail(NVLLM_EINVAL, "%s: end token %d is outside the vocabulary of %lld", e->source->path,
				e->source->tok_info.eos_ids[i], (long long)a->vocab);
	return NVLLM_OK;
}

static int open_model(struct opening *o)
{
	struct nvllm_engine *e = o->e;
	struct rank *r = &e->rank;
	void *hparams;
	int rc;

	rc = choose_model(o);
	if (!rc)
		rc = section_fill(o->c, "model", &e->model_set, o->model, &o->model_conf);
	if (rc)
		return rc;
	r->mvt = o->model->vt;
	r->host_model = host_for("model", o->model);
	r->arch.size = sizeof(r->arch);
	rc = read_hparams(o, r->mvt, &hparams);
	if (!rc)
		rc = r->mvt->create(r->host_model, hparams, o->model_conf, &r->model, &r->arch);
	return rc ? rc : check_arch(e, o->model->name);
}

/* Names and shapes of every weight, and how many bytes they take here. */
static int count_weights(struct opening *o)
{
	struct rank *r = &o->e->rank;
	struct weights w;
	int rc;

	weights_init(&w, &o->e->source->ref, r->dvt, r->dev, NULL);
	rc = r->mvt->bind(r->model, &w.pub);
	rc = rc ? rc : w.pub.status;
	r->weight_bytes = w.bytes;
	weights_finish(&w);
	return rc ? fail_prefix(rc, "%s: ", o->e->source->path) : NVLLM_OK;
}

static int open_attention(struct opening *o)
{
	struct nvllm_engine *e = o->e;
	struct rank *r = &e->rank;
	static const int32_t types[] = { NVLLM_F16, NVLLM_F32, NVLLM_F16, NVLLM_BF16 };
	int64_t len = e->set.max_model_len ? e->set.max_model_len : r->arch.max_len;
	int rc;

	if (len > r->arch.max_len)
		log_line(NVLLM_LOG_WARN, NULL, "[engine] max_model_len = %lld is beyond the %lld tokens this model was made for",
			(long long)len, (long long)r->arch.max_len);
	o->len_asked = e->set.max_model_len != 0;
	e->set.max_model_len = len;
	r->avt = o->attn->vt;
	r->host_attn = host_for("attention", o->attn);
	r->shape = (struct nvllm_attn_shape){
		.size = sizeof(r->shape), .n_layers = r->arch.n_layers, .kv_dtype = types[e->set.kv_dtype],
		.max_tokens = (int32_t)e->set.max_tokens, .max_seqs = (int32_t)e->set.max_seqs,
		.max_len = len, .layers = r->arch.layers,
	};
	r->layout.size = sizeof(r->layout);
	rc = r->avt->create(r->host_attn, &r->ref, &r->shape, o->attn_conf, &r->attn, &r->layout);
	if (rc)
		return rc;
	if (r->layout.page_tokens < 1 || !r->layout.layer_bytes || r->layout.workspace_bytes < 0)
		return fail(NVLLM_EINVAL, "the attention backend '%s' gave no layout for its pages", o->attn->name);
	for (int i = 0; i < r->arch.n_layers; i++)
		r->page_bytes += layer_stride(r, i);
	return NVLLM_OK;
}

static int open_sampler(struct opening *o)
{
	struct nvllm_engine *e = o->e;
	struct rank *r = &e->rank;
	int rc;

	r->svt = o->sampler->vt;
	e->sampler_name = o->sampler->name;
	if ((r->svt->flags & NVLLM_SAMPLER_HOST) && !(r->info.caps & NVLLM_DEV_HOST_MEM))
		return fail(NVLLM_ENOTSUP, "the sampler '%s' runs on the host, the device '%s' keeps its logits to itself",
			o->sampler->name, o->dev->name);
	r->host_sampler = host_for("sampler", o->sampler);
	r->sampler_env = (struct nvllm_sampler_env){ .size = sizeof(r->sampler_env), .max_rows = e->max_logits,
		.dev = &r->ref, .vocab = r->arch.vocab, .vocab_n = r->arch.vocab };
	rc = r->svt->create(r->host_sampler, &r->sampler_env, o->sampler_conf, &r->sampler);
	o->sampler_work = r->sampler_env.workspace_bytes;
	return rc ? rc : defaults_resolve(&e->defaults, o->c, &o->sampler_set, &e->source->ref);
}

static int open_chat(struct opening *o)
{
	struct nvllm_engine *e = o->e;
	struct nvllm_array t = { .size = sizeof(t) };
	const struct nvllm_str *s;
	const char *w = word(o, "chat");
	struct word_settings core;

	if (!strcmp(w, "auto")) {
		if (e->source->ref.vt->array(e->source->ref.loader, "tokenizer.chat_template", &t) || t.type != NVLLM_ARRAY_STR || t.n < 1)
			return section_fill(o->c, "chat", &core, NULL, NULL);
		s = t.data;
		if (!memmem(s->s, (size_t)s->len, "<|im_start|>", 12))
			return section_fill(o->c, "chat", &core, NULL, NULL);
		w = "chatml";
	}
	o->chat = plugin_find(o->pl, NVLLM_KIND_CHAT, w, ~0ull, NULL);
	if (!o->chat)
		return NVLLM_ENOENT;
	e->chat_vt = o->chat->vt;
	e->host_chat = host_for("chat", o->chat);
	if (section_fill(o->c, "chat", &core, o->chat, &o->chat_conf))
		return NVLLM_EINVAL;
	return e->chat_vt->open(e->host_chat, &e->source->ref, e->source->path, o->chat_conf, &e->chat);
}

static void add_eos(struct nvllm_engine *e, int32_t id)
{
	for (int i = 0; i < e->n_eos; i++)
		if (e->eos[i] == id)
			return;
	if (e->n_eos < NVLLM_STOP_IDS)
		e->eos[e->n_eos++] = id;
}

/* The ids that end an answer: the tokenizer's, and the token that ends a turn of the chat
 * template. */
static void eos_of(struct nvllm_engine *e)
{
	const struct source *s = e->source;
	const char *turn = e->chat && NVLLM_HAS(e->chat_vt, stop) && e->chat_vt->stop ? e->chat_vt->stop(e->chat) : NULL;
	int32_t id;

	for (int i = 0; i < s->tok_info.n_eos_ids; i++)
		add_eos(e, s->tok_info.eos_ids[i]);
	if (turn && s->tok_vt->encode(s->tok, turn, (int64_t)strlen(turn), 0, &id, 1) == 1)
		add_eos(e, id);
}

static int load_weights(struct opening *o)
{
	struct rank *r = &o->e->rank;
	struct weights w;
	int rc;

	weights_init(&w, &o->e->source->ref, r->dvt, r->dev, r->weight_mem);
	rc = r->mvt->bind(r->model, &w.pub);
	rc = rc ? rc : w.pub.status;
	if (!rc && w.bytes > r->weight_bytes)
		rc = fail(NVLLM_EINVAL, "the model '%s' bound more weights the second time", o->model->name);
	weights_finish(&w);
	return rc ? rc : r->dvt->sync(r->dev, r->dvt->stream(r->dev));
}

static int open_sched(struct opening *o)
{
	struct nvllm_engine *e = o->e;
	struct rank *r = &e->rank;
	struct sched_limits lim = { (int32_t)e->set.max_seqs, (int32_t)e->set.max_tokens, e->max_logits,
		r->layout.page_tokens, (int32_t)r->n_pages };
	int rc;

	e->cache_vt = o->cache->vt;
	e->host_cache = host_for("cache", o->cache);
	rc = e->cache_vt->create(e->host_cache, r->n_pages, r->layout.page_tokens, o->cache_conf, &e->cache);
	if (rc)
		return rc;
	e->sched = sched_create(&lim, e->cache_vt, e->cache);
	return e->sched ? NVLLM_OK : fail(NVLLM_ENOMEM, "no memory");
}

/* ---- the start line ---- */

static double ms(int64_t from, int64_t to) { return (double)(to - from) / 1e6; }

static void describe(struct opening *o)
{
	struct nvllm_engine *e = o->e;
	struct rank *r = &e->rank;
	const char *name = e->source->ref.vt->meta(e->source->ref.loader, "name");
	int64_t tokens = r->n_pages * r->layout.page_tokens, now = now_ns();

	e->info = (struct nvllm_info){ .size = sizeof(e->info), .vocab = (int32_t)r->arch.vocab,
		.max_model_len = e->set.max_model_len, .start_line = e->start_line, .version = NVLLM_VERSION,
		.has_chat = e->chat != NULL };
	e->info.model = *e->model_set.name ? e->model_set.name : name && *name ? name : e->source->path;
	snprintf(e->start_line, sizeof(e->start_line),
		"%s (%s, %d layers) from %s\n"
		"  device %s: %s, %d thread%s, %s; attention %s, sampler %s, cache %s, chat %s\n"
		"  memory: weights %.1f MiB, KV %.1f MiB (%lld tokens, %.1f sequences of %lld), workspace %.1f MiB\n"
		"  start: plugins %.0f ms, checkpoint and tokenizer %.0f ms, checks %.0f ms, weights %.0f ms, rest %.0f ms",
		e->info.model, o->model->name, r->arch.n_layers, e->source->path,
		o->dev->name, r->info.name, r->info.n_workers, r->info.n_workers == 1 ? "" : "s", r->info.isa, o->attn->name,
		o->sampler->name, o->cache->name, o->chat ? o->chat->name : "none",
		mib(r->weight_bytes), mib(r->kv_bytes), (long long)tokens, (double)tokens / (double)e->set.max_model_len,
		(long long)e->set.max_model_len, mib(r->work_bytes),
		ms(o->t0, o->t_plugins), ms(o->t_plugins, o->t_source), ms(o->t_source, o->t_check),
		ms(o->t_check, o->t_weights), ms(o->t_weights, now));
	e->stats.max_seqs = (int32_t)e->set.max_seqs;
	e->stats.pages = r->n_pages;
	e->stats.page_tokens = r->layout.page_tokens;
	e->stats.weight_bytes = r->weight_bytes;
	e->stats.kv_bytes = r->kv_bytes;
	e->stats.work_bytes = r->work_bytes;
}

/* ---- open and close ---- */

/* Everything that costs no weights. */
static int prepare(struct opening *o)
{
	struct nvllm_engine *e = o->e;
	const char *path = conf_get(o->c, "model", "path", NULL);
	int rc = settle(o);

	o->t_plugins = now_ns();
	if (!rc && (!path || !*path))
		rc = fail(NVLLM_EINVAL, "[model] path is not set: it names a GGUF file or a checkpoint folder "
			"(--set model.path=FILE)");
	if (!rc)
		rc = source_open(o->pl, o->c, path, true, &e->source);
	o->t_source = now_ns();
	/* every prompt_logprobs row is a row of logits: enough for a chunk of some size */
	e->max_logits = (int32_t)(e->set.max_seqs > 32 ? e->set.max_seqs : 32);
	if (!rc)
		rc = open_model(o);
	if (!rc)
		rc = count_weights(o);
	if (!rc)
		rc = open_attention(o);
	if (!rc)
		rc = open_sampler(o);
	if (!rc)
		rc = open_chat(o);
	if (!rc)
		rc = memory_measure(o);
	if (!rc)
		rc = open_sched(o);
	o->t_check = now_ns();
	return rc;
}

static uint64_t fresh_seed(const struct nvllm_engine *e)
{
	uint64_t s = (uint64_t)e->set.seed;

	if (e->set.seed >= 0 || getrandom(&s, sizeof(s), 0) == sizeof(s))
		return s;
	return (uint64_t)now_ns();
}

int engine_open(struct conf *c, struct plugins *pl, unsigned flags, struct nvllm_engine **out)
{
	struct nvllm_engine *e = calloc(1, sizeof(*e));
	struct opening o = { .e = e, .c = c, .pl = pl, .t0 = now_ns() };
	int rc;

	*out = NULL;
	if (!e)
		return fail(NVLLM_ENOMEM, "no memory");
	e->plugins = pl;
	e->conf = c;
	rc = prepare(&o);
	if (!rc && !(flags & ENGINE_CHECK)) {
		rc = memory_allocate(&o);
		if (!rc)
			rc = load_weights(&o);
	}
	o.t_weights = now_ns();
	if (!rc) {
		eos_of(e);
		e->seed = fresh_seed(e);
		describe(&o);
		if (!(flags & ENGINE_CHECK))
			rc = engine_start(e);
	}
	if (rc)
		engine_close(e);
	else
		*out = e;
	return rc;
}

static void close_rank(struct rank *r)
{
	void *const mem[] = { r->out_mem, r->batch_mem, r->sampler_work, r->attn_work, r->arena, r->kv_mem, r->weight_mem };

	if (r->sampler && NVLLM_HAS(r->svt, destroy) && r->svt->destroy)
		r->svt->destroy(r->sampler);
	if (r->attn && NVLLM_HAS(r->avt, destroy) && r->avt->destroy)
		r->avt->destroy(r->attn);
	if (r->model && NVLLM_HAS(r->mvt, destroy) && r->mvt->destroy)
		r->mvt->destroy(r->model);
	for (size_t i = 0; r->dev && i < sizeof(mem) / sizeof(*mem); i++)
		r->dvt->free(r->dev, mem[i]);
	if (r->dev)
		r->dvt->destroy(r->dev);
	free(r->kv);
	free(r->rows);
	free(r->host_mem);
	host_destroy(r->host_sampler);
	host_destroy(r->host_attn);
	host_destroy(r->host_model);
	host_destroy(r->host_dev);
}

void engine_close(struct nvllm_engine *e)
{
	if (!e)
		return;
	engine_stop(e);
	sched_destroy(e->sched);
	if (e->cache && NVLLM_HAS(e->cache_vt, destroy) && e->cache_vt->destroy)
		e->cache_vt->destroy(e->cache);
	host_destroy(e->host_cache);
	if (e->chat && NVLLM_HAS(e->chat_vt, close) && e->chat_vt->close)
		e->chat_vt->close(e->chat);
	host_destroy(e->host_chat);
	close_rank(&e->rank);
	source_close(e->source);
	free(e);
}
