/* SPDX-License-Identifier: MIT */
/* Which value of a sampling parameter wins - request, then command line and INI file,
 * then the checkpoint's generation config, then the API's default - and refusing what
 * cannot be. Ranges as vLLM has them. */
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "engine_int.h"

struct rule {
	const char *name, *range;
	double min, max, def, off;  /* off: the value that does nothing */
	bool open_min;              /* min itself is out */
	uint64_t takes;             /* what the sampler must take for any value but `off` */
	size_t at, text;            /* in struct nvllm_params, and in struct sampler_settings */
};

#define AT(p, s) offsetof(struct nvllm_params, p), offsetof(struct sampler_settings, s)
static const struct rule rules[P_N] = {
	[P_TEMPERATURE] = { "temperature", "0 or more", 0, 1e6, 1, 0, false, NVLLM_TAKES_TEMPERATURE,
		AT(temperature, temperature) },
	[P_TOP_P] = { "top_p", "above 0 and at most 1", 0, 1, 1, 1, true, NVLLM_TAKES_TOP_P, AT(top_p, top_p) },
	[P_MIN_P] = { "min_p", "0 to 1", 0, 1, 0, 0, false, NVLLM_TAKES_MIN_P, AT(min_p, min_p) },
	[P_TYPICAL_P] = { "typical_p", "above 0 and at most 1", 0, 1, 1, 1, true, NVLLM_TAKES_TYPICAL_P,
		AT(typical_p, typical_p) },
	[P_REPETITION] = { "repetition_penalty", "above 0", 0, 1e6, 1, 1, true, NVLLM_TAKES_REPETITION,
		AT(repetition_penalty, repetition_penalty) },
	[P_PRESENCE] = { "presence_penalty", "-2 to 2", -2, 2, 0, 0, false, NVLLM_TAKES_PRESENCE,
		AT(presence_penalty, presence_penalty) },
	[P_FREQUENCY] = { "frequency_penalty", "-2 to 2", -2, 2, 0, 0, false, NVLLM_TAKES_FREQUENCY,
		AT(frequency_penalty, frequency_penalty) },
};
#undef AT

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
	int rc = NVLLM_OK;

	for (int i = 0; i < P_N && !rc; i++)
		rc = resolve(&d->v[i], c, *(const char *const *)((const char *)s + rules[i].text), &rules[i], loader);
	return rc ? rc : resolve_top_k(&d->top_k, c, s->top_k, loader);
}

static int not_taken(const char *sampler, const char *name)
{
	return fail(NVLLM_EINVAL, "the sampler '%s' does not take %s: leave it out, or choose another with "
		"[sampler] plugin", sampler, name);
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
	return own && *v != r->off && !(takes & r->takes) ? not_taken(sampler, r->name) : NVLLM_OK;
}

/* ---- what processors of logits carry out ---- */

static int check_ids(const struct nvllm_engine *e, const char *name, const int32_t *id, int64_t n, size_t each)
{
	int64_t vocab = e->ranks[0].arch.vocab;

	for (int64_t i = 0; i < n; i++) {
		int32_t t = *(const int32_t *)(const void *)((const char *)id + (size_t)i * each);

		if (t < 0 || t >= vocab)
			return fail(NVLLM_EINVAL, "%s names token %d: ids are 0 to %lld", name, t, (long long)vocab - 1);
	}
	return NVLLM_OK;
}

static int check_number(const char *name, const void *list, int64_t n, int64_t most)
{
	if (n < 0 || n > most)
		return fail(NVLLM_EINVAL, "%s has %lld entries: there may be 0 to %lld", name, (long long)n, (long long)most);
	return !n || list ? NVLLM_OK : fail(NVLLM_EINVAL, "%s is NULL, and is said to have %lld entries", name, (long long)n);
}

/* Texts of 1 to MAX_STOP_BYTES bytes: every choice has its own copy of them. */
static int check_texts(const char *name, const struct nvllm_str *text, int64_t n)
{
	int64_t sum = 0;

	for (int64_t i = 0; i < n; i++) {
		if (text[i].len < 1 || text[i].len > MAX_STOP_BYTES)
			return fail(NVLLM_EINVAL, "%s %lld has %lld bytes: it must have 1 to %d", name, (long long)i,
				(long long)text[i].len, MAX_STOP_BYTES);
		sum += text[i].len;
	}
	return sum <= MAX_TEXT_BYTES ? NVLLM_OK :
		fail(NVLLM_EINVAL, "the %lld %ss have %lld bytes together: there may be %d", (long long)n, name, (long long)sum,
			MAX_TEXT_BYTES);
}

static int check_lists(const struct nvllm_engine *e, const struct nvllm_params *p)
{
	int64_t vocab = e->ranks[0].arch.vocab;
	int rc = check_number("stop_token_ids", p->stop_token_ids, p->n_stop_token_ids, MAX_STOPS);

	rc = rc ? rc : check_number("bad_words", p->bad_words, p->n_bad_words, MAX_STOPS);
	rc = rc ? rc : check_number("logit_bias", p->logit_bias, p->n_logit_bias, vocab);
	rc = rc ? rc : check_number("allowed_token_ids", p->allowed_token_ids, p->n_allowed_token_ids, vocab);
	rc = rc ? rc : check_ids(e, "stop_token_ids", p->stop_token_ids, p->n_stop_token_ids, sizeof(int32_t));
	rc = rc ? rc : check_ids(e, "allowed_token_ids", p->allowed_token_ids, p->n_allowed_token_ids, sizeof(int32_t));
	rc = rc ? rc : check_ids(e, "logit_bias", p->logit_bias ? &p->logit_bias->token : NULL, p->n_logit_bias,
		sizeof(*p->logit_bias));
	for (int64_t i = 0; i < p->n_logit_bias && !rc; i++)
		if (!(p->logit_bias[i].bias >= -100 && p->logit_bias[i].bias <= 100))
			rc = fail(NVLLM_EINVAL, "logit_bias of token %d is %g: it must be -100 to 100", p->logit_bias[i].token,
				(double)p->logit_bias[i].bias);
	rc = rc ? rc : check_texts("bad word", p->bad_words, p->n_bad_words);
	if (!rc && p->allowed_token_ids && !p->n_allowed_token_ids)
		rc = fail(NVLLM_EINVAL, "allowed_token_ids is empty: leave it out, or allow at least one token");
	return rc;
}

static int check_processors(const struct nvllm_engine *e, struct nvllm_params *p)
{
	int rc = check_lists(e, p);

	p->min_tokens = p->min_tokens == NVLLM_UNSET ? 0 : p->min_tokens;
	if (!rc && (p->min_tokens < 0 || p->min_tokens > p->max_tokens))
		rc = fail(NVLLM_EINVAL, "min_tokens is %lld: it must be 0 to max_tokens, %lld", (long long)p->min_tokens,
			(long long)p->max_tokens);
	if (!rc) {
		const struct { bool asked; uint64_t bit; const char *name; } rows[] = {
			{ p->n_allowed_token_ids > 0, NVLLM_TAKES_ALLOWED, "allowed_token_ids" },
			{ p->n_bad_words > 0, NVLLM_TAKES_BAD_WORDS, "bad_words" },
			{ p->min_tokens > 0, NVLLM_TAKES_MIN_TOKENS, "min_tokens" },
			{ p->n_logit_bias > 0, NVLLM_TAKES_LOGIT_BIAS, "logit_bias" },
		};

		for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]) && !rc; i++)
			if (rows[i].asked && !(e->proc_takes & rows[i].bit))
				rc = fail(NVLLM_EINVAL, "no processor of logits carries out %s: leave it out, or add 'standard' to "
					"[logits] plugin", rows[i].name);
	}
	return rc ? rc : process_check_extra(e, p->extra);
}

static int check_counts(const struct nvllm_engine *e, int64_t n_prompt, struct nvllm_params *p)
{
	int64_t room = e->set.max_model_len - n_prompt;
	int rc;

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
	rc = check_number("stop", p->stops, p->n_stops, MAX_STOPS);
	return rc ? rc : check_texts("stop text", p->stops, p->n_stops);
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
	for (int i = 0; i < P_N; i++) {
		rc = choose((double *)((char *)out + rules[i].at), e->defaults.v[i], &rules[i], takes, name);
		if (rc)
			return rc;
	}
	if (out->top_k == NVLLM_UNSET)
		out->top_k = takes & NVLLM_TAKES_TOP_K ? e->defaults.top_k : 0;
	if (out->top_k < -1)
		return fail(NVLLM_EINVAL, "top_k is %lld: it must be -1, 0 or more", (long long)out->top_k);
	if (out->top_k > 0 && !(takes & NVLLM_TAKES_TOP_K))
		return not_taken(name, "top_k");
	out->top_k = out->top_k < 0 ? 0 : out->top_k;
	if (out->seed != NVLLM_UNSET && !(takes & NVLLM_TAKES_SEED))
		return not_taken(name, "seed");
	rc = check_service(out);
	rc = rc ? rc : check_counts(e, n_prompt, out);
	return rc ? rc : check_processors(e, out);
}
