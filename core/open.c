/* SPDX-License-Identifier: MIT */
/* Building an engine from a configuration: everything is chosen, checked and measured
 * before the first weight is read. Teardown is the same list read backwards. */
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "opening.h"

#define MAX_LEN (1 << 30) /* as [engine] max_model_len has it: positions are int32_t */

/* ---- sections ---- */

/* The plugin a section names, before the section is filled. */
static const char *word(struct opening *o, const char *section)
{
	const char *v = conf_get(o->c, section, "plugin", NULL);

	return v ? v : core_options(section, NULL)->def;
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

static int make_ranks(struct nvllm_engine *e)
{
	e->tp = (int32_t)e->set.tp;
	e->ranks = calloc((size_t)e->tp, sizeof(*e->ranks));
	if (!e->ranks)
		return out_of_memory();
	for (int32_t i = 0; i < e->tp; i++) {
		e->ranks[i].index = i;
		e->ranks[i].world = e->tp;
	}
	return NVLLM_OK;
}

/* The device of the first rank: the others get the same kind. */
static int make_device(struct opening *o, const struct nvllm_component *comp)
{
	int rc = section_fill(o->c, "device", &o->dev_set, comp, &o->dev_conf);

	o->dev = comp;
	return rc ? rc : rank_open_device(o, &o->e->ranks[0]);
}

static int open_device(struct opening *o)
{
	const char *w = word(o, "device");
	struct rank *r = &o->e->ranks[0];
	const struct nvllm_component *comp = NULL;
	int rc = NVLLM_ENOENT;

	if (!strcmp(w, "auto")) {
		comp = plugin_find(o->pl, NVLLM_KIND_DEVICE, "cuda", ~0ull, NULL);
		if (comp)
			rc = make_device(o, comp);
		if (rc && r->host_dev) {
			/* a machine without one is nothing to speak of, one that does not work is */
			log_line(rc == NVLLM_ENOENT ? NVLLM_LOG_DEBUG : NVLLM_LOG_WARN, NULL, "no cuda device (%s): using the cpu", fail_text());
			rank_drop_device(r);
		}
		w = "cpu";
	}
	if (rc) {
		comp = plugin_find(o->pl, NVLLM_KIND_DEVICE, w, ~0ull, NULL);
		rc = comp ? make_device(o, comp) : NVLLM_ENOENT;
	}
	return rc;
}

/* The component of a section for this device. */
static int choose(struct opening *o, const char *section, int kind, void *core,
	const struct nvllm_component **comp, void **pconf)
{
	*comp = plugin_find(o->pl, kind, word(o, section), o->e->ranks[0].info.caps, NULL);
	return *comp ? section_fill(o->c, section, core, *comp, pconf) : NVLLM_ENOENT;
}

static int comm_fits(void *arg, const struct nvllm_component *c, const struct nvllm_plugin *p, const char *file,
	const char *why)
{
	struct opening *o = arg;

	(void)p, (void)file, (void)why;
	if (!c || (component_need(c) & ~o->e->ranks[0].info.caps))
		return 0;
	o->comm = c;
	return 1;
}

/* One rank needs no collectives, but a wrong word is refused all the same. */
static int choose_comm(struct opening *o)
{
	struct word_settings w;

	if (strcmp(word(o, "comm"), "auto")) {
		o->comm = plugin_find(o->pl, NVLLM_KIND_COMM, word(o, "comm"), o->e->ranks[0].info.caps, NULL);
		if (!o->comm)
			return NVLLM_ENOENT;
	} else if (o->e->tp > 1) {
		plugins_each(o->pl, NVLLM_KIND_COMM, comm_fits, o);
		if (!o->comm)
			return fail(NVLLM_ENOENT, "[engine] tp = %d needs a comm plugin that works with the device '%s', and there is "
				"none in the plugin folders: set tp = 1, or name one with [comm] plugin", o->e->tp, o->dev->name);
	}
	return section_fill(o->c, "comm", &w, o->comm, &o->comm_conf);
}

/* How much a step should hold for the device to be busy. */
static void size_steps(struct nvllm_engine *e)
{
	bool far = is_far(&e->ranks[0]);

	if (!e->set.max_seqs)
		e->set.max_seqs = far ? 256 : 64;
	if (!e->set.max_tokens)
		e->set.max_tokens = far ? 8192 : 256;
}

static int settle(struct opening *o)
{
	struct nvllm_engine *e = o->e;
	struct word_settings w;
	int rc = section_fill(o->c, "engine", &e->set, NULL, NULL);

	if (!rc)
		rc = section_fill(o->c, "graphs", &o->graph_set, NULL, NULL);
	if (!rc)
		rc = make_ranks(e);
	if (!rc)
		rc = open_device(o);
	if (!rc)
		size_steps(e);
	if (!rc)
		rc = choose_comm(o);
	if (!rc)
		rc = choose(o, "attention", NVLLM_KIND_ATTENTION, &w, &o->attn, &o->attn_conf);
	if (!rc)
		rc = choose(o, "sampler", NVLLM_KIND_SAMPLER, &o->sampler_set, &o->sampler, &o->sampler_conf);
	if (!rc)
		rc = choose(o, "cache", NVLLM_KIND_CACHE, &w, &o->cache, &o->cache_conf);
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

/* Every rank's device, model and share of it. A cut that parts a quantisation block asks
 * for larger units: then all cuts are made anew. */
static int open_models(struct opening *o)
{
	struct nvllm_engine *e = o->e;
	int64_t unit;
	int rc = choose_model(o);

	if (!rc)
		rc = section_fill(o->c, "model", &e->model_set, o->model, &o->model_conf);
	for (int32_t i = 0; i < e->tp && !rc; i++) {
		if (i)
			rc = rank_open_device(o, &e->ranks[i]);
		if (!rc)
			rc = rank_open_model(o, &e->ranks[i]);
	}
	o->ffn_unit = 1;
	do {
		unit = o->ffn_unit;
		for (int32_t i = 0; i < e->tp && !rc; i++)
			rc = rank_cut(o, &e->ranks[i]);
	} while (!rc && unit != o->ffn_unit);
	return rc;
}

/* The ranks' threads, and the collectives between them. */
static int open_group(struct opening *o)
{
	struct nvllm_engine *e = o->e;
	int rc;

	e->group = group_create(e->tp);
	if (!e->group)
		return NVLLM_ENOMEM;
	if (e->tp == 1)
		return NVLLM_OK;
	rc = group_connect(e, o->comm, o->comm_conf);
	return rc ? fail_prefix(rc, "[engine] tp = %d: ", e->tp) : NVLLM_OK;
}

/* How many steps may be queued before their tokens are known. */
static int32_t run_ahead(const struct opening *o)
{
	const struct rank *r = &o->e->ranks[0];
	bool host_plan = has_plan(r) && !plans_on_device(r);

	if (!(r->info.caps & NVLLM_DEV_ASYNC) || host_plan || samples_on_host(r))
		return 0;
	return (int32_t)o->e->set.run_ahead;
}

static int open_backends(struct opening *o)
{
	struct nvllm_engine *e = o->e;
	const struct nvllm_arch *a = &e->ranks[0].arch;
	int64_t own = a->max_len < MAX_LEN ? a->max_len : MAX_LEN, len = e->set.max_model_len ? e->set.max_model_len : own;
	int rc = NVLLM_OK;

	if (len > a->max_len)
		log_line(NVLLM_LOG_WARN, NULL, "[engine] max_model_len = %lld is beyond the %lld tokens this model was made for",
			(long long)len, (long long)a->max_len);
	o->len_asked = e->set.max_model_len != 0;
	e->set.max_model_len = len;
	e->sampler_name = o->sampler->name;
	for (int32_t i = 0; i < e->tp && !rc; i++) {
		rc = rank_open_attention(o, &e->ranks[i]);
		if (!rc)
			rc = rank_open_sampler(o, &e->ranks[i]);
	}
	if (rc)
		return rc;
	e->depth = run_ahead(o);
	for (int32_t i = 0; i < e->tp; i++)
		e->ranks[i].n_flights = e->depth + 1;
	return defaults_resolve(&e->defaults, o->c, &o->sampler_set, &e->source->ref);
}

static void add_eos(struct nvllm_engine *e, int32_t id)
{
	for (int i = 0; i < e->n_eos; i++)
		if (e->eos[i] == id)
			return;
	if (e->n_eos < MAX_EOS)
		e->eos[e->n_eos++] = id;
	else
		log_line(NVLLM_LOG_WARN, NULL, "%s: end token %d is ignored: there may be %d", e->source->path, id, MAX_EOS);
}

/* The ids that end an answer: the tokenizer's, those of the checkpoint's generation config,
 * and the token that ends a turn of the chat template. */
static void eos_of(struct nvllm_engine *e)
{
	const struct source *s = e->source;
	const struct chat_ref *c = &e->chat;
	const char *turn = c->chat && NVLLM_HAS(c->vt, stop) && c->vt->stop ? c->vt->stop(c->chat) : NULL;
	const char *list = s->ref.vt->meta(s->ref.loader, "generation.eos_token_id");
	int32_t id;

	for (int i = 0; i < s->tok_info.n_eos_ids; i++)
		add_eos(e, s->tok_info.eos_ids[i]);
	for (size_t n; list && *list; list += n + (list[n] != 0)) {
		char *end;
		long v = strtol(list, &end, 10);

		n = strcspn(list, " ");
		if (n && end == list + n && v >= 0 && v < e->ranks[0].arch.vocab)
			add_eos(e, (int32_t)v);
		else
			log_line(NVLLM_LOG_WARN, NULL, "%s: eos_token_id '%.*s' names no token of the vocabulary of %lld: ignored",
				s->path, (int)n, list, (long long)e->ranks[0].arch.vocab);
	}
	if (turn && s->tok_vt->encode(s->tok, turn, (int64_t)strlen(turn), 0, &id, 1) == 1)
		add_eos(e, id);
}

static int open_sched(struct opening *o)
{
	struct nvllm_engine *e = o->e;
	const struct rank *r = &e->ranks[0];
	struct sched_limits lim = { .max_seqs = (int32_t)e->set.max_seqs, .max_tokens = (int32_t)e->set.max_tokens,
		.max_logits = e->max_logits, .page_tokens = r->layout.page_tokens, .n_pages = (int32_t)r->n_pages,
		.run_ahead = e->depth, .order = e->set.order };
	int rc;

	e->cache_vt = o->cache->vt;
	e->host_cache = host_for(o->cache, 0, 1);
	if (!e->host_cache)
		return out_of_memory();
	rc = e->cache_vt->create(e->host_cache, r->n_pages, r->layout.page_tokens, o->cache_conf, &e->cache);
	if (rc)
		return rc;
	e->sched = sched_create(&lim, e->cache_vt, e->cache);
	return e->sched ? NVLLM_OK : out_of_memory();
}

static int open_graphs(void *arg, int32_t rank)
{
	struct opening *o = arg;

	return rank_open_graphs(o, &o->e->ranks[rank]);
}

/* All that takes memory and time: after it the ranks are ready for steps. */
static int load(struct opening *o)
{
	struct nvllm_engine *e = o->e;
	int rc = memory_allocate(o);

	for (int32_t i = 0; i < e->tp && !rc; i++)
		rc = rank_load_weights(o, &e->ranks[i]);
	return rc ? rc : group_run(e->group, open_graphs, o);
}

/* ---- the start line ---- */

static double ms(int64_t from, int64_t to) { return (double)(to - from) / 1e6; }

static void count_bytes(struct nvllm_engine *e)
{
	for (int32_t i = 0; i < e->tp; i++) {
		e->stats.weight_bytes += e->ranks[i].weight_bytes;
		e->stats.kv_bytes += e->ranks[i].kv_bytes;
		e->stats.work_bytes += e->ranks[i].work_bytes;
	}
	e->stats.max_seqs = (int32_t)e->set.max_seqs;
	e->stats.pages = e->ranks[0].n_pages;
	e->stats.page_tokens = e->ranks[0].layout.page_tokens;
	e->stats.tp = e->tp;
	e->stats.run_ahead = e->depth;
}

static void describe(struct opening *o)
{
	struct nvllm_engine *e = o->e;
	const struct rank *r = &e->ranks[0];
	const char *name = e->source->ref.vt->meta(e->source->ref.loader, "name");
	int64_t tokens = r->n_pages * r->layout.page_tokens, now = now_ns();
	char group[64] = "";

	count_bytes(e);
	if (e->tp > 1)
		snprintf(group, sizeof(group), "%d ranks (comm %s), each ", e->tp, o->comm->name);
	e->info = (struct nvllm_info){ .size = sizeof(e->info), .vocab = (int32_t)r->arch.vocab,
		.max_model_len = e->set.max_model_len, .start_line = e->start_line, .version = NVLLM_VERSION,
		.has_chat = e->chat.chat != NULL };
	e->info.model = *e->model_set.name ? e->model_set.name : name && *name ? name : e->source->path;
	snprintf(e->start_line, sizeof(e->start_line),
		"%s (%s, %d layers) from %s\n"
		"  device %s: %s%s, %d thread%s, %s; attention %s, sampler %s, cache %s, chat %s\n"
		"  memory: weights %.1f MiB, KV %.1f MiB (%lld tokens, %.1f sequences of %lld), workspace %.1f MiB\n"
		"  start: plugins %.0f ms, checkpoint and tokenizer %.0f ms, checks %.0f ms, weights %.0f ms, rest %.0f ms",
		e->info.model, o->model->name, r->arch.n_layers, e->source->path,
		o->dev->name, group, r->info.name, r->info.n_workers, r->info.n_workers == 1 ? "" : "s", r->info.isa,
		o->attn->name, o->sampler->name, o->cache->name, e->chat.comp ? e->chat.comp->name : "none",
		mib(e->stats.weight_bytes), mib(e->stats.kv_bytes), (long long)tokens,
		(double)tokens / (double)e->set.max_model_len, (long long)e->set.max_model_len, mib(e->stats.work_bytes),
		ms(o->t0, o->t_plugins), ms(o->t_plugins, o->t_source), ms(o->t_source, o->t_check),
		ms(o->t_check, o->t_weights), ms(o->t_weights, now));
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
		rc = open_models(o);
	if (!rc)
		rc = open_group(o);
	if (!rc)
		rc = open_backends(o);
	if (!rc)
		rc = process_open(o);
	if (!rc)
		rc = chat_open(o->pl, o->c, &e->source->ref, e->source->path, &e->chat);
	if (!rc)
		rc = memory_measure(o);
	if (!rc)
		rc = open_sched(o);
	o->t_check = now_ns();
	return rc;
}

static uint64_t fresh_seed(void)
{
	uint64_t s;

	return getrandom(&s, sizeof(s), 0) == sizeof(s) ? s : (uint64_t)now_ns();
}

int engine_open(struct conf *c, struct plugins *pl, unsigned flags, struct nvllm_engine **out)
{
	struct nvllm_engine *e = calloc(1, sizeof(*e));
	struct opening o = { .e = e, .c = c, .pl = pl, .t0 = now_ns() };
	int rc;

	*out = NULL;
	if (!e)
		return out_of_memory();
	e->plugins = pl;
	e->conf = c;
	rc = prepare(&o);
	if (!rc && !(flags & ENGINE_CHECK))
		rc = load(&o);
	o.t_weights = now_ns();
	if (!rc) {
		eos_of(e);
		e->seed = e->set.seed >= 0 ? (uint64_t)e->set.seed : fresh_seed();
		e->salt_seed = fresh_seed();
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

void engine_close(struct nvllm_engine *e)
{
	if (!e)
		return;
	engine_stop(e);
	group_destroy(e->group);
	sched_destroy(e->sched);
	if (e->cache && NVLLM_HAS(e->cache_vt, destroy) && e->cache_vt->destroy)
		e->cache_vt->destroy(e->cache);
	host_destroy(e->host_cache);
	chat_close(&e->chat);
	for (int32_t i = 0; e->ranks && i < e->tp; i++)
		rank_close(&e->ranks[i]);
	free(e->ranks);
	source_close(e->source);
	free(e);
}
