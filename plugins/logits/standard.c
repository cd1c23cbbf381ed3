/* SPDX-License-Identifier: MIT */
/* standard - the processors of vLLM and the OpenAI API, in vLLM's order:
 *   allowed_token_ids   all other tokens are forbidden
 *   bad_words           a token that would complete one is forbidden; only what was
 *                       answered counts, not the prompt
 *   min_tokens          tokens that end an answer are forbidden while it has fewer
 *   logit_bias          is added; of two for one token, both
 * A forbidden token's logit is -inf, which no bias lifts. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <nvllm/plugin.h>
#include <nvllm/sampler.h>

#include "words.h"

struct nvllm_logits {
	const struct nvllm_host *host;
	const struct nvllm_logits_env *env;
};

/* One block; the lists lie behind it. */
struct nvllm_logits_state {
	int64_t n_allowed, n_bias, n_end, n_words;
	int64_t min_tokens;
	struct nvllm_bias *bias;
	int32_t *allowed;  /* ascending, each once */
	int32_t *end;
	int32_t *words;    /* a length, then that many ids, and so on */
};

static int create(const struct nvllm_host *host, const struct nvllm_logits_env *env,
	const void *conf, struct nvllm_logits **out)
{
	struct nvllm_logits *l = host->alloc(host, sizeof(*l));

	(void)conf;
	if (!l)
		return host->fail(host, NVLLM_ENOMEM, "no memory for the processor of logits");
	*l = (struct nvllm_logits){ host, env };
	*out = l;
	return NVLLM_OK;
}

/* ---- [any] ---- */

static int by_id(const void *a, const void *b)
{
	int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;

	return (x > y) - (x < y);
}

/* Sorts ids and takes out what is there twice; returns how many are left. */
static int64_t sort_once(int32_t *ids, int64_t n)
{
	int64_t m = 0;

	qsort(ids, (size_t)n, sizeof(*ids), by_id);
	for (int64_t i = 0; i < n; i++)
		if (m == 0 || ids[i] != ids[m - 1])
			ids[m++] = ids[i];
	return m;
}

static int in_vocabulary(const struct nvllm_logits *l, int64_t id)
{
	return id >= 0 && id < l->env->vocab;
}

static int check_ids(const struct nvllm_logits *l, const struct nvllm_params *p)
{
	const char *list = NULL;
	int64_t bad = 0;

	for (int64_t i = 0; i < p->n_allowed_token_ids && !list; i++)
		if (!in_vocabulary(l, bad = p->allowed_token_ids[i]))
			list = "allowed_token_ids";
	for (int64_t i = 0; i < p->n_logit_bias && !list; i++)
		if (!in_vocabulary(l, bad = p->logit_bias[i].token))
			list = "logit_bias";
	return !list ? NVLLM_OK : l->host->fail(l->host, NVLLM_EINVAL, "%s: there is no token "
		"%lld, the model has 0 to %lld", list, (long long)bad,
		(long long)l->env->vocab - 1);
}

/* Room for all lists behind the state; NULL: no memory, or no such number of bytes. */
static struct nvllm_logits_state *make(const struct nvllm_logits_ask *ask, const struct words *w)
{
	const struct nvllm_params *p = ask->params;
	struct nvllm_logits_state *s;
	int64_t ids, bytes, biases;

	if (__builtin_add_overflow(p->n_allowed_token_ids, w->n + ask->n_end_ids, &ids) ||
	    __builtin_mul_overflow(ids, (int64_t)sizeof(int32_t), &ids) ||
	    __builtin_mul_overflow(p->n_logit_bias, (int64_t)sizeof(*s->bias), &biases) ||
	    __builtin_add_overflow(ids, biases, &bytes) ||
	    __builtin_add_overflow(bytes, (int64_t)sizeof(*s), &bytes))
		return NULL;
	s = calloc(1, (size_t)bytes);
	if (!s)
		return NULL;
	s->bias = (struct nvllm_bias *)(s + 1);
	s->allowed = (int32_t *)(s->bias + p->n_logit_bias);
	s->end = s->allowed + p->n_allowed_token_ids;
	s->words = s->end + ask->n_end_ids;
	return s;
}

static void copy(void *to, const void *from, int64_t n, size_t size)
{
	if (n > 0)
		memcpy(to, from, (size_t)n * size);
}

static void fill(const struct nvllm_logits *l, struct nvllm_logits_state *s,
	const struct nvllm_logits_ask *ask, const struct words *w)
{
	const struct nvllm_params *p = ask->params;

	s->min_tokens = p->min_tokens;
	s->n_bias = p->n_logit_bias;
	s->n_words = w->n;
	copy(s->bias, p->logit_bias, s->n_bias, sizeof(*s->bias));
	copy(s->words, w->ids, w->n, sizeof(*s->words));
	copy(s->allowed, p->allowed_token_ids, p->n_allowed_token_ids, sizeof(*s->allowed));
	s->n_allowed = p->n_allowed_token_ids ? sort_once(s->allowed, p->n_allowed_token_ids) : 0;
	for (int32_t i = 0; i < ask->n_end_ids; i++)
		if (in_vocabulary(l, ask->end_ids[i]))
			s->end[s->n_end++] = ask->end_ids[i];
}

static int open_state(struct nvllm_logits *l, const struct nvllm_logits_ask *ask,
	struct nvllm_logits_state **out)
{
	const struct nvllm_params *p = ask->params;
	struct words w = { NULL, 0, 0 };
	int rc = check_ids(l, p);

	*out = NULL;
	if (p->n_allowed_token_ids <= 0 && p->n_bad_words <= 0 && p->n_logit_bias <= 0 &&
	    (p->min_tokens <= 0 || ask->n_end_ids <= 0))
		return NVLLM_OK;
	rc = rc ? rc : words_read(l->host, l->env, p, &w);
	if (!rc) {
		*out = make(ask, &w);
		if (*out)
			fill(l, *out, ask, &w);
		else
			rc = l->host->fail(l->host, NVLLM_ENOMEM, "no memory for %lld "
				"allowed_token_ids, %lld logit_bias and %lld tokens of bad_words",
				(long long)p->n_allowed_token_ids, (long long)p->n_logit_bias,
				(long long)w.n);
	}
	free(w.ids);
	return rc;
}

static void close_state(struct nvllm_logits *l, struct nvllm_logits_state *s)
{
	(void)l;
	free(s);
}

/* ---- [step] ---- */

static void forbid(float *logits, int64_t from, int64_t to)
{
	for (; from < to; from++)
		logits[from] = -INFINITY;
}

static void forbid_words(const struct nvllm_logits_state *s, float *logits, const int32_t *output,
	int32_t n_output)
{
	for (int64_t at = 0; at < s->n_words; at += 1 + s->words[at]) {
		const int32_t *ids = s->words + at + 1;
		int32_t said = s->words[at] - 1; /* tokens that must have come already */

		if (said <= n_output &&
		    !memcmp(output + n_output - said, ids, (size_t)said * sizeof(*ids)))
			logits[ids[said]] = -INFINITY;
	}
}

static int apply(struct nvllm_logits *l, struct nvllm_logits_state *s, float *logits,
	const int32_t *tokens, int32_t n_prompt, int32_t n_tokens)
{
	int32_t n_output = n_tokens - n_prompt;
	int64_t next = 0;

	for (int64_t i = 0; i < s->n_allowed; next = (int64_t)s->allowed[i++] + 1)
		forbid(logits, next, s->allowed[i]);
	if (s->n_allowed > 0)
		forbid(logits, next, l->env->vocab);
	forbid_words(s, logits, tokens + n_prompt, n_output);
	for (int64_t i = 0; i < s->n_end && n_output < s->min_tokens; i++)
		logits[s->end[i]] = -INFINITY;
	for (int64_t i = 0; i < s->n_bias; i++)
		logits[s->bias[i].token] += s->bias[i].bias;
	return NVLLM_OK;
}

static const struct nvllm_logits_vt vt = {
	.size = sizeof(vt),
	.takes = NVLLM_TAKES_ALLOWED | NVLLM_TAKES_BAD_WORDS | NVLLM_TAKES_MIN_TOKENS |
		NVLLM_TAKES_LOGIT_BIAS,
	.create = create, .open = open_state, .apply = apply, .close = close_state,
};
static const struct nvllm_component component = {
	.size = sizeof(component), .kind = NVLLM_KIND_LOGITS, .name = "standard",
	.summary = "allowed_token_ids, bad_words, min_tokens and logit_bias, as vLLM orders them",
	.vt = &vt,
};
static const struct nvllm_component *const components[] = { &component, NULL };
NVLLM_EXPORT const struct nvllm_plugin nvllm_plugin = {
	.abi = NVLLM_ABI, .size = sizeof(nvllm_plugin), .name = "logits_standard",
	.version = "0.1.0", .components = components,
};
