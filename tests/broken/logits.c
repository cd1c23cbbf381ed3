/* SPDX-License-Identifier: MIT */
/* tests/broken/logits.c - a processor of logits that nvllm-check accepts (logit_bias,
 * min_tokens, and a key "ban" with a token that is never drawn after the first), and, with
 * one word of -D, one that it must refuse. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <nvllm/logits.h>
#include <nvllm/plugin.h>
#include <nvllm/sampler.h>

struct nvllm_logits {
	const struct nvllm_host *host;
	const struct nvllm_logits_env *env;
	int64_t n_apart; /* how many tokens the newest call's answer had */
};

struct nvllm_logits_state {
	int64_t min_tokens, n_bias, n_end, n_calls;
	int32_t ban;
	int32_t end[16];
	struct nvllm_bias bias[];
};

static int create(const struct nvllm_host *host, const struct nvllm_logits_env *env,
	const void *conf, struct nvllm_logits **out)
{
	struct nvllm_logits *l = host->alloc(host, sizeof(*l));

	(void)conf;
	if (!l)
		return host->fail(host, NVLLM_ENOMEM, "no memory for the processor");
	l->host = host;
	l->env = env;
	*out = l;
	return NVLLM_OK;
}

/* *ban becomes the number of {"ban": number}, -1 without one. */
static int read_ban(struct nvllm_logits *l, struct nvllm_str extra, int32_t *ban)
{
	const char *at = NULL;
	int64_t v = 0;

	*ban = -1;
	for (int64_t i = 0; i + 7 <= extra.len && !at; i++)
		at = memcmp(extra.s + i, "\"ban\": ", 7) ? NULL : extra.s + i + 7;
	if (!at)
		return NVLLM_OK;
#ifdef CRASHES_ON_VALUE
	if (*at == '[')
		*(volatile int *)NULL = 1;
#endif
	for (; *at >= '0' && *at <= '9' && v < 1000000; at++)
		v = v * 10 + *at - '0';
	if (*at != '}' || at[-1] == ' ' || v >= l->env->vocab)
#ifdef MUTE_REFUSAL
		return NVLLM_EINVAL;
#else
		return l->host->fail(l->host, NVLLM_EINVAL, "ban must be a token of the model's");
#endif
	*ban = (int32_t)v;
	return NVLLM_OK;
}

static int open_state(struct nvllm_logits *l, const struct nvllm_logits_ask *ask,
	struct nvllm_logits_state **out)
{
	const struct nvllm_params *p = ask->params;
	size_t bytes = sizeof(**out) + (size_t)p->n_logit_bias * sizeof(struct nvllm_bias);
	struct nvllm_logits_state *s;
	int32_t ban;
	int rc = read_ban(l, p->extra, &ban);

	*out = NULL;
#ifdef WORKS_FOR_ALL
	if (rc)
#else
	if (rc || (p->n_logit_bias == 0 && p->min_tokens == 0 && ban < 0))
#endif
		return rc;
#ifdef HOST_ALLOC
	s = l->host->alloc(l->host, bytes);
#else
	s = calloc(1, bytes);
#endif
	if (!s)
		return l->host->fail(l->host, NVLLM_ENOMEM, "no memory for a request");
	*s = (struct nvllm_logits_state){ .min_tokens = p->min_tokens, .n_bias = p->n_logit_bias,
		.n_end = ask->n_end_ids < 16 ? ask->n_end_ids : 16, .ban = ban };
	memcpy(s->end, ask->end_ids, (size_t)s->n_end * sizeof(*s->end));
	if (s->n_bias)
		memcpy(s->bias, p->logit_bias, (size_t)s->n_bias * sizeof(*s->bias));
	*out = s;
	return NVLLM_OK;
}

static int apply(struct nvllm_logits *l, struct nvllm_logits_state *s, float *logits,
	const int32_t *tokens, int32_t n_prompt, int32_t n_tokens)
{
	int64_t n = n_tokens - n_prompt;

#ifdef READS_PROMPT
	n = n_tokens;
#endif
#ifdef COUNTS_CALLS
	n = s->n_calls++;
#endif
#ifdef SHARES_STATE
	n = l->n_apart++ % 40;
#endif
#ifdef ALLOCATES
	void *volatile copy = malloc(64);

	free(copy);
#endif
#ifdef ONE_EARLY
	n++;
#endif
	for (int64_t i = 0; i < s->n_end && n < s->min_tokens; i++)
		logits[s->end[i]] = -INFINITY;
	for (int64_t i = 0; i < s->n_bias; i++)
		logits[s->bias[i].token] += s->bias[i].bias;
#ifdef BIAS_TWICE
	for (int64_t i = 0; i < s->n_bias && n > 20; i++)
		logits[s->bias[i].token] += s->bias[i].bias;
#endif
	if (s->ban >= 0 && n > 0)
		logits[s->ban] = -INFINITY;
#ifdef PAST_LOGITS
	logits[l->env->vocab] = 0;
#endif
#ifdef WRITES_TOKENS
	((int32_t *)(uintptr_t)tokens)[n_tokens - 1] = 0;
#endif
	(void)l, (void)tokens;
	return NVLLM_OK;
}

static void close_state(struct nvllm_logits *l, struct nvllm_logits_state *s)
{
	(void)l;
#if !defined(LEAKS) && !defined(HOST_ALLOC)
	free(s);
#else
	(void)s;
#endif
}

static const char *const keys[] = { "ban", NULL };
static const struct nvllm_logits_vt vt = {
	.size = sizeof(vt), .takes = NVLLM_TAKES_LOGIT_BIAS | NVLLM_TAKES_MIN_TOKENS, .keys = keys,
	.create = create, .open = open_state, .apply = apply, .close = close_state,
};
static const struct nvllm_component component = {
	.size = sizeof(component), .kind = NVLLM_KIND_LOGITS, .name = "test_logits",
	.summary = "a processor of logits for tests", .vt = &vt,
};
const struct nvllm_plugin nvllm_plugin = {
	.abi = NVLLM_ABI, .size = sizeof(nvllm_plugin), .name = "test_logits", .version = "0.1.0",
	.components = (const struct nvllm_component *const[]){ &component, NULL },
};
