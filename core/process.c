/* SPDX-License-Identifier: MIT */
/* Processors of logits: the list of [logits] plugin, made once for each rank; what each
 * request asked of them; and running them over a row before it is sampled. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <nvllm/logits.h>

#include "json.h"
#include "opening.h"

/* The words of the list, in its order, and their options: one section for all of them. */
static int choose(struct opening *o, const struct nvllm_component *comp[MAX_PROCESSORS], void *conf[MAX_PROCESSORS],
	int *n)
{
	struct conf_table t[MAX_PROCESSORS + 1] = { { .who = "logits" } };
	struct word_settings w;
	const char *text = conf_get(o->c, "logits", "plugin", NULL);
	char *list = pool_strdup(conf_pool(o->c), text ? text : core_options("logits", NULL)->def), *save = NULL;

	t[0].options = core_options("logits", &t[0].conf_size);
	t[0].conf = &w;
	*n = 0;
	if (!list)
		return out_of_memory();
	for (char *word = strtok_r(list, " ,", &save); word; word = strtok_r(NULL, " ,", &save)) {
		int i = *n;

		if (!strcmp(word, "none"))
			continue;
		if (i == MAX_PROCESSORS)
			return fail(NVLLM_EINVAL, "[logits] plugin names more than %d processors", MAX_PROCESSORS);
		comp[i] = plugin_find(o->pl, NVLLM_KIND_LOGITS, word, ~0ull, NULL);
		if (!comp[i])
			return NVLLM_ENOENT;
		conf[i] = pool_alloc(conf_pool(o->c), comp[i]->conf_size + 1);
		t[1 + i] = (struct conf_table){ pool_printf(conf_pool(o->c), "logits.%s", comp[i]->name), comp[i]->options,
			conf[i], comp[i]->conf_size };
		++*n;
	}
	return conf_fill(o->c, "logits", t, 1 + *n);
}

int process_open(struct opening *o)
{
	const struct nvllm_component *comp[MAX_PROCESSORS];
	struct nvllm_engine *e = o->e;
	void *conf[MAX_PROCESSORS];
	int rc = choose(o, comp, conf, &e->n_procs);

	e->logits_env = (struct nvllm_logits_env){ .size = sizeof(e->logits_env), .vocab = e->ranks[0].arch.vocab,
		.tok_vt = e->source->tok_vt, .tok = e->source->tok };
	for (int32_t r = 0; r < e->tp && !rc; r++)
		for (int i = 0; i < e->n_procs && !rc; i++) {
			struct processor *p = &e->ranks[r].proc[i];

			p->name = comp[i]->name;
			p->vt = comp[i]->vt;
			p->host = host_for(comp[i], r, e->tp);
			rc = p->host ? p->vt->create(p->host, &e->logits_env, conf[i], &p->inst) : out_of_memory();
			e->proc_takes |= p->vt->takes;
		}
	return rc;
}

void process_close(struct rank *r)
{
	for (int i = 0; i < MAX_PROCESSORS; i++) {
		struct processor *p = &r->proc[i];

		if (p->inst && NVLLM_HAS(p->vt, destroy) && p->vt->destroy)
			p->vt->destroy(p->inst);
		host_destroy(p->host);
	}
}

/* ---- a request at the door ---- */

static bool reads(const struct processor *p, const char *key)
{
	for (const char *const *k = p->vt->keys; k && *k; k++)
		if (!strcmp(*k, key))
			return true;
	return false;
}

int process_check_extra(const struct nvllm_engine *e, struct nvllm_str extra)
{
	struct json_error err;
	cJSON *v;
	int rc = NVLLM_OK;

	if (extra.len < 1)
		return NVLLM_OK;
	if (json_parse(extra.s, (size_t)extra.len, NULL, &v, &err))
		return fail(NVLLM_EINVAL, "the parameters for processors of logits are no JSON: byte %zu: %s", err.offset + 1, err.why);
	if (!cJSON_IsObject(v))
		rc = fail(NVLLM_EINVAL, "the parameters for processors of logits must be a JSON object");
	for (const cJSON *m = v->child; m && !rc; m = m->next) {
		bool known = false;

		for (int i = 0; i < e->n_procs; i++)
			known = known || reads(&e->ranks[0].proc[i], m->string);
		if (!known)
			rc = fail(NVLLM_EINVAL, "no processor of logits reads '%.60s': leave it out, or name the plugin that does in "
				"[logits] plugin", m->string);
	}
	cJSON_Delete(v);
	return rc;
}

int process_ask(struct nvllm_engine *e, struct choice *c, const struct nvllm_logits_ask *ask)
{
	int n = e->n_procs, rc = NVLLM_OK;

	c->state = n ? calloc((size_t)(n * e->tp), sizeof(*c->state)) : NULL;
	if (n && !c->state)
		return fail(NVLLM_ENOMEM, "no memory for another request");
	for (int k = 0; k < n * e->tp && !rc; k++) {
		const struct processor *p = &e->ranks[k / n].proc[k % n];

		fail_clear();
		rc = p->vt->open(p->inst, ask, &c->state[k]);
		if (rc) /* what was refused is not there to be closed */
			c->state[k] = NULL;
		if (rc && !*fail_text())
			fail(rc, "the processor of logits '%s' refuses this request and does not say why", p->name);
		c->seq.lockstep = c->seq.lockstep || c->state[k];
	}
	return rc;
}

void process_forget(struct nvllm_engine *e, struct choice *c)
{
	for (int k = 0; c->state && k < e->n_procs * e->tp; k++) {
		const struct processor *p = &e->ranks[k / e->n_procs].proc[k % e->n_procs];

		if (c->state[k])
			p->vt->close(p->inst, c->state[k]);
	}
	free(c->state);
	c->state = NULL;
}

/* ---- a step ---- */

/* The choice ends when the step has landed. Any rank may say it, the first one counts; the
 * sentence is this thread's, and nobody else's failure. */
static void give_up(struct choice *c, const char *name, int status)
{
	const char *why = fail_text();
	int none = 0;

	if (__atomic_compare_exchange_n(&c->failed, &none, status, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		snprintf(c->why, sizeof(c->why), "processor of logits '%s': %s", name, *why ? why : "it failed and does not "
			"say why");
	fail_clear();
}

/* Is there a token left that may be drawn? */
static bool any_left(const float *logits, int64_t n)
{
	for (int64_t i = 0; i < n; i++)
		if (logits[i] > -HUGE_VALF)
			return true;
	return false;
}

void process_row(struct rank *r, struct choice *c, const struct nvllm_sample_row *row, float *logits)
{
	int n = c->req->engine->n_procs, rc;
	bool some = any_left(logits, r->arch.vocab);

	for (int i = 0; i < n; i++) {
		const struct processor *p = &r->proc[i];
		struct nvllm_logits_state *s = c->state[r->index * n + i];

		if (!s)
			continue;
		fail_clear();
		rc = p->vt->apply(p->inst, s, logits, row->tokens, row->n_prompt, row->n_tokens);
		if (!rc && some && !any_left(logits, r->arch.vocab))
			rc = fail(NVLLM_EINVAL, "after %d tokens nothing may be drawn any more: all %lld tokens are forbidden (by "
				"allowed_token_ids, bad_words, min_tokens or another processor of logits): ask for less", row->n_tokens -
				row->n_prompt, (long long)r->arch.vocab);
		if (rc) {
			give_up(c, p->name, rc);
			return;
		}
	}
}
