/* SPDX-License-Identifier: MIT */
/* An engine for tests, through the embedding API: opened with sets, given many requests at
 * once, every answer kept with the bits of its log probabilities. */
#ifndef ENGINE_RIG_H
#define ENGINE_RIG_H

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include <nvllm/engine.h>

enum { RIG_TOKENS = 96, RIG_TOP = 20, RIG_CHOICES = 3 };

/* One answer: written on the engine's thread, read after wait. */
struct answer {
	int32_t n, finish, events_after_done;
	int32_t ids[RIG_TOKENS];
	float logprob[RIG_TOKENS];
	int32_t top_ids[RIG_TOKENS][RIG_TOP];
	float top[RIG_TOKENS][RIG_TOP];
	struct nvllm_usage usage;
};

struct ask {
	int32_t prompt[1024], n_prompt;
	int32_t max_tokens, n, top;   /* n: choices; top: likeliest listed, at most RIG_TOP */
	double temperature;
	const struct nvllm_bias *bias; /* [n_bias] a processor of logits works on its rows */
	int32_t n_bias;
	struct answer a[RIG_CHOICES];
	int32_t dones, last_left;
	uint64_t id;
};

static inline void rig_token(struct answer *a, const struct nvllm_token *t)
{
	if (a->n == RIG_TOKENS)
		return;
	a->ids[a->n] = t->id;
	a->logprob[a->n] = t->logprob;
	for (int32_t i = 0; i < t->n_top && i < RIG_TOP; i++) {
		a->top_ids[a->n][i] = t->top_ids[i];
		a->top[a->n][i] = t->top_logprobs[i];
	}
	a->n++;
}

static inline void rig_event(void *user, const struct nvllm_event *ev)
{
	struct ask *k = user;
	struct answer *a = &k->a[ev->choice];

	a->events_after_done += a->finish != 0;
	for (int64_t i = 0; ev->type == NVLLM_EVENT_TOKENS && i < ev->n_tokens; i++)
		rig_token(a, ev->tokens[i]);
	if (ev->type != NVLLM_EVENT_DONE)
		return;
	a->finish = ev->finish;
	a->usage = *ev->usage;
	k->dones++;
	k->last_left = ev->n_left;
}

/* sets: lists of "section.key=value", each NULL-ended; any may be NULL. */
static struct nvllm_engine *rig_open(const char *const *a, const char *const *b, const char *const *c)
{
	const char *const *lists[] = { a, b, c };
	const char *sets[40] = { "core.log_level=error", "engine.seed=1" };
	struct nvllm_open o = { .size = sizeof(o), .sets = sets };
	struct nvllm_engine *e;
	char err[1024];
	int n = 2;

	for (int i = 0; i < 3; i++)
		for (const char *const *s = lists[i]; s && *s && n < 39; s++)
			sets[n++] = *s;
	sets[n] = NULL;
	if (nvllm_open(&o, &e, err, sizeof(err)))
		fail_msg("open: %s", err);
	return e;
}

static inline void rig_submit(struct nvllm_engine *e, struct ask *k, uint64_t seed)
{
	struct nvllm_params p = nvllm_params_none();
	struct nvllm_request r = { .size = sizeof(r), .tokens = k->prompt, .n_tokens = k->n_prompt, .params = &p,
		.on_event = rig_event, .user = k };

	memset(k->a, 0, sizeof(k->a));
	k->dones = k->last_left = 0;
	p.max_tokens = k->max_tokens;
	p.temperature = k->temperature;
	p.seed = (int64_t)seed;
	p.n = k->n;
	p.logprobs = k->top;
	p.ignore_eos = 1;
	p.logit_bias = k->bias;
	p.n_logit_bias = k->n_bias;
	if (nvllm_submit(e, &r, &k->id))
		fail_msg("submit: %s", nvllm_error(e));
}

/* The engine is at rest: nothing runs, and only the cache has pages. */
static inline struct nvllm_stats rig_quiet(struct nvllm_engine *e)
{
	struct nvllm_stats s = { .size = sizeof(s) };

	for (int i = 0; i < 2000; i++) { /* the last step's figures follow the last event */
		nvllm_stats(e, &s);
		if (!s.running && !s.waiting && s.pages_used == s.pages_cached)
			return s;
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	}
	fail_msg("left behind: %d running, %d waiting, %ld pages of which the cache has %ld", s.running, s.waiting,
		(long)s.pages_used, (long)s.pages_cached);
	return s;
}

/* "engine.memory=N" for a pool of n_pages, measured with an engine of the same sets. */
static inline void rig_memory(char *out, size_t len, const char *const *a, const char *const *b, int n_pages)
{
	struct nvllm_engine *e = rig_open(a, b, (const char *const[]){ "engine.memory=600M", NULL });
	struct nvllm_stats s = { .size = sizeof(s) };

	nvllm_stats(e, &s);
	snprintf(out, len, "engine.memory=%ld",
		(long)(s.weight_bytes + s.work_bytes + s.kv_bytes / s.pages * n_pages + 4096));
	nvllm_close(e);
}

#endif
