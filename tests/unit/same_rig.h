/* SPDX-License-Identifier: MIT */
/* same_rig.h - the same prompts under many arms of configuration, and whether every answer
 * is bit for bit the baseline's: seen through the log probabilities of the sampled token
 * and of the 20 likeliest, each of which depends on every logit. */
#ifndef SAME_RIG_H
#define SAME_RIG_H

#include "engine_rig.h"

#define TINY "model.path=tests/data/gguf/llama3.q8_0.gguf"

enum { MAX_ASKS = 16 };

struct arm {
	const char *name;
	const char *sets[6];
	int n_pages;         /* 0 = ample; else so few that sequences are preempted */
	bool alone, twice;   /* one after another; all of it twice, so that the cache has it */
	bool hits;           /* some prompt tokens must come from the cache */
};

struct fixture {
	const char *model[8];     /* sets for all its arms */
	int n, n_sure;            /* asks; in preempting arms page counts are for these */
	int page_scale;           /* n_pages of the arms, per cent */
	struct ask *want, *got;   /* [n] */
};

static void run(struct nvllm_engine *e, struct ask *k, int n, bool alone)
{
	for (int i = 0; i < n; i++) {
		rig_submit(e, &k[i], (uint64_t)i + 1);
		if (alone)
			nvllm_wait(e, k[i].id);
	}
	for (int i = 0; i < n; i++)
		nvllm_wait(e, k[i].id);
}

static bool same_bits(const struct answer *a, const struct answer *b)
{
	return a->n == b->n && !memcmp(a->ids, b->ids, sizeof(a->ids)) && !memcmp(a->logprob, b->logprob, sizeof(a->logprob)) &&
		!memcmp(a->top_ids, b->top_ids, sizeof(a->top_ids)) && !memcmp(a->top, b->top, sizeof(a->top));
}

static void compare(const struct fixture *f, const char *arm)
{
	for (int i = 0; i < f->n; i++) {
		assert_int_equal(f->got[i].dones, f->got[i].n);
		assert_int_equal(f->got[i].last_left, 0);
		for (int c = 0; c < f->got[i].n; c++) {
			const struct answer *w = &f->want[i].a[c], *g = &f->got[i].a[c];

			if (same_bits(w, g) && g->finish == NVLLM_FINISH_LENGTH && g->n == f->want[i].max_tokens)
				continue;
			for (int t = 0; t < g->n; t++)
				if (g->ids[t] != w->ids[t] || memcmp(&g->logprob[t], &w->logprob[t], 4))
					fail_msg("%s: prompt %d, choice %d: token %d is %d (%.9g), alone it was %d (%.9g)", arm, i, c, t,
						g->ids[t], (double)g->logprob[t], w->ids[t], (double)w->logprob[t]);
			fail_msg("%s: prompt %d, choice %d: %d tokens, finish %d, lists differ", arm, i, c, g->n, g->finish);
		}
	}
}

/* Runs the arm and compares; *stats: at its end. */
static void run_arm(struct fixture *f, const struct arm *m, struct nvllm_stats *stats)
{
	char memory[64];
	const char *mem[2] = { "engine.memory=400M", NULL };
	struct nvllm_engine *e;
	struct nvllm_stats s;

	if (m->n_pages) {
		rig_memory(memory, sizeof(memory), f->model, m->sets, m->n_pages * f->page_scale / 100);
		mem[0] = memory;
	}
	e = rig_open(f->model, m->sets, mem);
	for (int k = 0; k < 1 + m->twice; k++) {
		memcpy(f->got, f->want, (size_t)f->n * sizeof(*f->got));
		run(e, f->got, f->n, m->alone);
		compare(f, m->name);
	}
	s = rig_quiet(e);
	*stats = s;
	if (m->n_pages && !s.preempted)
		fail_msg("%s: nothing was preempted", m->name);
	if (m->hits && !s.cached_tokens)
		fail_msg("%s: nothing was found in the cache", m->name);
	assert_int_equal(s.failed + s.cancelled, 0);
	nvllm_close(e);
}

/* Alone, one after another, no cache, one thread: the oracle. model: sets. */
static void baseline(struct fixture *f, const char *const *model)
{
	struct nvllm_engine *e = rig_open(model, NULL, (const char *const[]){ "engine.memory=400M", "cache.plugin=none",
		NULL });

	run(e, f->want, f->n, true);
	rig_quiet(e);
	nvllm_close(e);
}

static inline bool quick(void)
{
	const char *s = getenv("NVLLM_GOLDEN"); /* "short" under sanitizers */

	return s && !strcmp(s, "short");
}

static void make(struct fixture *f, int n)
{
	f->n = n;
	f->want = calloc((size_t)n, sizeof(*f->want));
	f->got = calloc((size_t)n, sizeof(*f->got));
	assert_non_null(f->want);
	assert_non_null(f->got);
}

static void drop(struct fixture *f)
{
	free(f->want);
	free(f->got);
}

/* 16 prompts of 1 to 120 tokens; those after the first few begin like an earlier one. */
static void tiny_prompts(struct fixture *f)
{
	static const struct nvllm_bias bias[] = { { 7, 2.5f }, { 300, 4 }, { 301, -100 }, { 900, 3.5f } };
	uint32_t x = 12345;

	make(f, MAX_ASKS);
	for (int i = 0; i < f->n; i++) {
		struct ask *k = &f->want[i];
		int shared = i >= 4 ? 8 * (i % 4) + 9 : 0;

		k->n_prompt = i == 0 ? 1 : 8 * i + (i * 5) % 7;
		for (int t = 0; t < k->n_prompt; t++) {
			x = x * 1664525 + 1013904223;
			k->prompt[t] = t < shared ? f->want[3].prompt[t % f->want[3].n_prompt] : (int32_t)(x >> 8) % 1100;
		}
		k->top = RIG_TOP;
		k->temperature = i % 2 ? 0.8 : 0;
		k->n = i % 5 == 1 ? RIG_CHOICES : 1;
		k->bias = i % 4 == 2 ? bias : NULL;
		k->n_bias = i % 4 == 2 ? 4 : 0;
		k->max_tokens = k->bias ? 44 : 64; /* steps with such rows are not replayed */
	}
}

#endif
