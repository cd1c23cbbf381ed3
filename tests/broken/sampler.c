/* SPDX-License-Identifier: MIT */
/* tests/broken/sampler.c - a greedy sampler with penalties that nvllm-check accepts, and, with
 * one word of -D, one that it must refuse: each broken plugin differs from the good one in one
 * place. */
#include <math.h>
#include <stdlib.h>

#include <nvllm/plugin.h>
#include <nvllm/sampler.h>

struct conf { int64_t one; };

struct nvllm_sampler {
	const struct nvllm_host *host;
	int32_t last;
};

#ifdef STATIC_STATE
static int calls; /* small enough to pass for the C runtime's own */
#endif
#ifdef BIG_STATIC
int32_t big_static[1024] __attribute__((visibility("hidden")));
#endif
#ifdef EXTRA_EXPORT
NVLLM_EXPORT int helper(int x);
NVLLM_EXPORT int helper(int x) { return x + 1; }
#endif
#ifdef CONSTRUCTOR
static void __attribute__((constructor)) early(void) { setenv("BROKEN", "1", 1); }
#endif

static int create(const struct nvllm_host *host, struct nvllm_sampler_env *env, const void *conf,
	struct nvllm_sampler **out)
{
	struct nvllm_sampler *s = host->alloc(host, sizeof(*s));

	(void)env, (void)conf;
	if (!s)
		return host->fail(host, NVLLM_ENOMEM, "no memory for the sampler");
#ifdef MUTE_REFUSAL
	if (env->vocab > 1000)
		return NVLLM_EINVAL;
#endif
#ifdef CRASHES
	*(volatile int *)NULL = 1;
#endif
	s->host = host;
	*out = s;
	return NVLLM_OK;
}

/* Logit i after the row's penalties. */
static float penalised(const struct nvllm_sample_row *r, float x, int64_t i)
{
	double v = (double)x;
	int seen = 0, count = 0;

	for (int32_t t = 0; r->tokens && t < r->n_tokens; t++) {
		if (r->tokens[t] != i)
			continue;
		seen++;
#ifdef COUNTS_PROMPT
		count++;
#else
		count += t >= r->n_prompt;
#endif
	}
#ifndef REPEATS_REPETITION
	seen = seen > 0;
#endif
	for (; seen; seen--)
#ifdef DIVIDES_ALL
		v /= r->repetition; /* a negative logit grows */
#else
		v = v > 0 ? v / r->repetition : v * r->repetition;
#endif
	return count ? (float)(v - r->frequency * count - r->presence) : (float)v;
}

static int32_t largest(const float *logits, int64_t n, const struct nvllm_sample_row *r)
{
	int32_t best = 0;
	float top = -INFINITY;

	for (int64_t i = 0; i < n; i++) {
		float x = penalised(r, logits[i], i);

#ifdef WRONG_RESULT
		if (x >= top) /* a tie goes to the highest id, not to the lowest */
#else
		if (x > top)
#endif
			top = x, best = (int32_t)i;
	}
	return best;
}

static int sample(struct nvllm_sampler *s, nvllm_stream stream, struct nvllm_tensor logits,
	const struct nvllm_sample_row *rows, int32_t n_rows, int32_t *tokens, void *workspace)
{
	(void)stream, (void)workspace;
#ifdef HANGS
	for (volatile int on = 1; on;)
		;
#endif
#ifdef ALLOCATES
	/* volatile: clang removes a pair of malloc and free that nothing uses */
	int32_t *volatile copy = malloc(sizeof(*copy) * (size_t)n_rows);

	if (!copy)
		return s->host->fail(s->host, NVLLM_ENOMEM, "no memory");
	free(copy);
#endif
	for (int32_t i = 0; i < n_rows; i++)
		tokens[i] = rows[i].slot < 0
			? 0
			: largest((const float *)((const char *)logits.data + i * logits.stride),
				  logits.cols, &rows[i]);
#ifdef STATIC_STATE
	if (++calls % 7 == 0)
		tokens[0] = (tokens[0] + 1) % (int32_t)logits.cols;
#endif
#ifdef PAST_TOKENS
	tokens[n_rows] = 0;
#endif
#ifdef WRITES_LOGITS
	*(float *)logits.data += 1;
#endif
	s->last = tokens[0];
	return NVLLM_OK;
}

static const struct nvllm_option options[] = {
#ifdef BAD_OPTION
	NVLLM_INT(conf, one, "one", "many", 0, 10, "a number whose default is none"),
#else
	NVLLM_INT(conf, one, "one", "1", 0, 10, "a number that does nothing"),
#endif
	NVLLM_OPTIONS_END
};

static const struct nvllm_sampler_vt vt = {
	.size = sizeof(vt), .flags = NVLLM_SAMPLER_HOST, .create = create,
	.takes = NVLLM_TAKES_REPETITION | NVLLM_TAKES_PRESENCE | NVLLM_TAKES_FREQUENCY,
#ifndef NO_MEMBER
	.sample = sample,
#endif
};

static const struct nvllm_component component = {
	.size = sizeof(component), .kind = NVLLM_KIND_SAMPLER, .name = "test_sampler",
	.summary = "a greedy sampler for tests", .vt = &vt, .options = options,
	.conf_size = sizeof(struct conf),
};

#ifdef WRONG_ABI
#define ABI (NVLLM_ABI + 7)
#else
#define ABI NVLLM_ABI
#endif
#ifdef NO_MEMBER
extern const void *const keep_sample;
const void *const keep_sample __attribute__((visibility("hidden"))) = (const void *)sample;
#endif

#ifdef NO_SYMBOL
NVLLM_EXPORT extern const struct nvllm_plugin not_the_symbol;
const struct nvllm_plugin not_the_symbol = {
#else
const struct nvllm_plugin nvllm_plugin = {
#endif
	.abi = ABI, .size = sizeof(nvllm_plugin), .name = "test_sampler", .version = "0.1.0",
	.components = (const struct nvllm_component *const[]){ &component, NULL },
};
