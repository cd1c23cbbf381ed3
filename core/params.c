/* SPDX-License-Identifier: MIT */
/* Which value of a sampling parameter wins - request, then command line and INI file,
 * then the checkpoint's generation config, then the API's default - and refusing what
 * cannot be. Ranges as vLLM has them. */
#include <math.h>
#include <string.h>

#include "engine_int.h"

struct rule {
	const char *name, *range;
	double min, max, def;
	bool open_min;       /* min itself is out */
	uint64_t takes;      /* what the sampler must take for any value but `off` */
	double off;
};

static const struct rule rule_temperature = { "temperature", "0 or more", 0, 1e6, 1, false, NVLLM_TAKES_TEMPERATURE, 0 };
static const struct rule rule_top_p = { "top_p", "above 0 and at most 1", 0, 1, 1, true, NVLLM_TAKES_TOP_P, 1 };
static const struct rule rule_min_p = { "min_p", "0 to 1", 0, 1, 0, false, NVLLM_TAKES_MIN_P, 0 };

static bool in_range(const struct rule *r, double v)
{
	return isfinite(v) && v <= r->max && (r->open_min ? v > r->min : v >= r->min);
}

/* One default: the [sampler] key unless it says auto, else the checkpoint's, else the API's. */
static int resolve(double *out, struct conf *c, const char *text, const struct rule *r,
	const struct nvllm_loader_ref *loader)
{
	const struct nvllm_option o = { .key = r->name, .type = NVLLM_OPT_FLOAT };
	const char *origin = NULL, *meta;
	char why[128], key[64];

	*out = r->def;
	snprintf(key, sizeof(key), "generation.%s", r->name);
	if (strcmp(text, "auto")) {
		if (option_set(&o, text, out, conf_pool(c), why, sizeof(why)) || !in_range(r, *out)) {
			conf_get(c, "sampler", r->name, &origin);
			return fail(NVLLM_EINVAL, "%s: [sampler] %s: '%s' is not a number in range (%s), nor 'auto'",
				origin ? origin : "default", r->name, text, r->range);
		}
		return NVLLM_OK;
	}
	meta = loader->loader ? loader->vt->meta(loader->loader, key) : NULL;
	if (meta && (option_set(&o, meta, out, conf_pool(c), why, sizeof(why)) || !in_range(r, *out))) {
		log_line(NVLLM_LOG_WARN, NULL, "the checkpoint's %s is '%s', which is no legal value: using %g", key, meta, r->def);
		*out = r->def;
	}
	return NVLLM_OK;
}

static int resolve_top_k(int64_t *out, struct conf *c, const char *text, const struct nvllm_loader_ref *loader)
{
	const struct nvllm_option o = { .key = "top_k", .type = NVLLM_OPT_INT, .min = -1, .max = 1e9 };
	const char *origin = NULL, *meta;
	char why[128];

	*out = 0;
	meta = loader->loader ? loader->vt->meta(loader->loader, "generation.top_k") : NULL;
	if (strcmp(text, "auto")) {
		if (option_set(&o, text, out, conf_pool(c), why, sizeof(why))) {
			conf_get(c, "sampler", "top_k", &origin);
			return fail(NVLLM_EINVAL, "%s: [sampler] top_k: %s (a whole number from -1, or 'auto')",
				origin ? origin : "default", why);
		}
	} else if (meta && option_set(&o, meta, out, conf_pool(c), why, sizeof(why))) {
		log_line(NVLLM_LOG_WARN, NULL, "the checkpoint's top_k is '%s', which is no legal value: ignored", meta);
		*out = 0;
	}
	*out = *out < 0 ? 0 : *out;
	return NVLLM_OK;
}

int defaults_resolve(struct defaults *d, struct conf *c, const struct sampler_settings *s,
	const struct nvllm_loader_ref *loader)
{
	int rc = resolve(&d->temperature, c, s->temperature, &rule_temperature, loader);

	if (!rc)
		rc = resolve(&d->top_p, c, s->top_p, &rule_top_p, loader);
	if (!rc)
		rc = resolve(&d->min_p, c, s->min_p, &rule_min_p, loader);
	return rc ? rc : resolve_top_k(&d->top_k, c, s->top_k, loader);
}

/* A request's own value, else the default; what the sampler does not take is refused
 * where the request set it, and left out where only a default did. */
static int choose(double *v, double def, const struct rule *r, uint64_t takes, const char *sampler)
{
	bool own = !isnan(*v);

	if (!own)
		*v = takes & r->takes ? def : r->off;
	if (!in_range(r, *v))
		return fail(NVLLM_EINVAL, "%s is %g: it must be %s", r->name, *v, r->range);
	if (own && *v != r->off && !(takes & r->takes))
		return fail(NVLLM_EINVAL, "the sampler '%s' does not take %s: leave it out, or choose another with "
			"[sampler] plugin", sampler, r->name);
	return NVLLM_OK;
}

static int check_counts(const struct nvllm_engine *e, int64_t n_prompt, struct nvllm_params *p)
{
	int64_t room = e->set.max_model_len - n_prompt;

	if (n_prompt < 1)
		return fail(NVLLM_EINVAL, "the prompt is empty: it must have at least one token");
	if (room < 1)
		return fail(NVLLM_EINVAL, "the prompt is %lld tokens long; this model's context is %lld and must also hold "
			"the answer: shorten the prompt%s", (long long)n_prompt, (long long)e->set.max_model_len,
			e->set.max_model_len < e->ranks[0].arch.max_len ? " or raise [engine] max_model_len" : "");
	if (p->max_tokens == NVLLM_UNSET)
		p->max_tokens = room;
	if (p->max_tokens < 1)
		return fail(NVLLM_EINVAL, "max_tokens is %lld: it must be at least 1", (long long)p->max_tokens);
	if (p->max_tokens > room)
		return fail(NVLLM_EINVAL, "the prompt has %lld tokens and max_tokens is %lld, together more than the context "
			"of %lld: max_tokens can be %lld at most", (long long)n_prompt, (long long)p->max_tokens,
			(long long)e->set.max_model_len, (long long)room);
	if (p->logprobs != NVLLM_UNSET && (p->logprobs < 0 || p->logprobs > MAX_TOP))
		return fail(NVLLM_EINVAL, "logprobs is %lld: it must be 0 to %d", (long long)p->logprobs, MAX_TOP);
	if (p->prompt_logprobs != NVLLM_UNSET && (p->prompt_logprobs < 0 || p->prompt_logprobs > MAX_TOP))
		return fail(NVLLM_EINVAL, "prompt_logprobs is %lld: it must be 0 to %d", (long long)p->prompt_logprobs, MAX_TOP);
	if (p->n_stops < 0 || p->n_stops > MAX_STOPS)
		return fail(NVLLM_EINVAL, "there are %lld stop texts: there may be 0 to %d", (long long)p->n_stops, MAX_STOPS);
	for (int64_t i = 0; i < p->n_stops; i++)
		if (p->stops[i].len < 1 || p->stops[i].len > MAX_STOP_BYTES)
			return fail(NVLLM_EINVAL, "stop text %lld has %lld bytes: it must have 1 to %d", (long long)i,
				(long long)p->stops[i].len, MAX_STOP_BYTES);
	return NVLLM_OK;
}

/* What belongs to scheduling and the cache. */
static int check_service(struct nvllm_params *p)
{
	p->n = p->n == NVLLM_UNSET ? 1 : p->n;
	p->priority = p->priority == NVLLM_UNSET ? 0 : p->priority;
	if (p->n < 1 || p->n > NVLLM_MAX_CHOICES)
		return fail(NVLLM_EINVAL, "n is %lld: it must be 1 to %d", (long long)p->n, NVLLM_MAX_CHOICES);
	if (!isnan(p->timeout) && !(p->timeout > 0 && p->timeout <= 1e9))
		return fail(NVLLM_EINVAL, "timeout is %g: it must be above 0 and at most 1e9 seconds", p->timeout);
	if (p->cache_salt.s && p->cache_salt.len < 1)
		return fail(NVLLM_EINVAL, "cache_salt is empty: leave it out, or give it at least one character");
	return NVLLM_OK;
}

int params_resolve(const struct nvllm_engine *e, const struct nvllm_params *given, int64_t n_prompt,
	struct nvllm_params *out)
{
	uint64_t takes = e->ranks[0].svt->takes;
	const char *name = e->sampler_name;
	int rc;

	*out = nvllm_params_none();
	if (given)
		memcpy(out, given, given->size < sizeof(*out) ? given->size : sizeof(*out));
	out->size = sizeof(*out);
	rc = choose(&out->temperature, e->defaults.temperature, &rule_temperature, takes, name);
	if (!rc)
		rc = choose(&out->top_p, e->defaults.top_p, &rule_top_p, takes, name);
	if (!rc)
		rc = choose(&out->min_p, e->defaults.min_p, &rule_min_p, takes, name);
	if (rc)
		return rc;
	if (out->top_k == NVLLM_UNSET)
		out->top_k = takes & NVLLM_TAKES_TOP_K ? e->defaults.top_k : 0;
	if (out->top_k < -1)
		return fail(NVLLM_EINVAL, "top_k is %lld: it must be -1, 0 or more", (long long)out->top_k);
	if (out->top_k > 0 && !(takes & NVLLM_TAKES_TOP_K))
		return fail(NVLLM_EINVAL, "the sampler '%s' does not take top_k: leave it out, or choose another with "
			"[sampler] plugin", name);
	out->top_k = out->top_k < 0 ? 0 : out->top_k;
	rc = check_service(out);
	return rc ? rc : check_counts(e, n_prompt, out);
}
