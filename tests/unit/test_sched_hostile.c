/* SPDX-License-Identifier: MIT */
/* A cache policy that answers anything: counts too large or negative, pages it does not have
 * or that do not exist. The scheduler believes none of it, keeps its pages in order, and
 * every sequence still ends. Meant to be run under AddressSanitizer too. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#undef fail /* the core's own word */

#include "core.h"
#include "scheduler.h"

enum { N_PAGES = 24, PAGE = 4, MAX_SEQS = 4, N_SEQS = 400, LONGEST = 60 };

struct nvllm_cache { unsigned seed; };

static int32_t anything(struct nvllm_cache *c, int32_t n)
{
	static const int32_t odd[] = { -1, INT32_MIN, INT32_MAX, N_PAGES, 1 << 20 };
	int32_t r = (int32_t)(rand_r(&c->seed) % 8);

	return r < 5 && rand_r(&c->seed) % 3 == 0 ? odd[r] : (int32_t)(rand_r(&c->seed) % (unsigned)(n + 2));
}

/* Writes as many pages as the contract gives room for, whatever it says. */
static int32_t lie(struct nvllm_cache *c, int32_t *pages, int32_t room)
{
	for (int32_t i = 0; i < room; i++)
		if (rand_r(&c->seed) % 2)
			pages[i] = anything(c, N_PAGES);
	return anything(c, room);
}

static int32_t match(struct nvllm_cache *c, uint64_t salt, const int32_t *tokens, int32_t n, int32_t *pages, int32_t max)
{
	for (int32_t i = 0; i < max; i++)
		pages[i] = anything(c, N_PAGES);
	return anything(c, max);
}

static int32_t insert(struct nvllm_cache *c, uint64_t salt, const int32_t *tokens, int32_t n, int32_t *pages)
{
	return lie(c, pages, n);
}

static void release(struct nvllm_cache *c, const int32_t *pages, int32_t n) { }

static int32_t evict(struct nvllm_cache *c, int32_t want, int32_t *pages)
{
	for (int32_t i = 0; i < want; i++)
		pages[i] = anything(c, N_PAGES);
	return anything(c, want);
}

static void stats(struct nvllm_cache *c, struct nvllm_cache_stats *s)
{
	s->held = anything(c, N_PAGES);
	s->pinned = anything(c, N_PAGES);
}

static const struct nvllm_cache_vt liar = { .size = sizeof(liar), .match = match, .insert = insert, .release = release,
	.evict = evict, .stats = stats };

static void seq_make(struct seq *q, unsigned *seed)
{
	memset(q, 0, sizeof(*q));
	q->n_prompt = 1 + (int32_t)(rand_r(seed) % 40);
	q->n_max = q->n_prompt + 1 + (int32_t)(rand_r(seed) % 19);
	q->tokens = calloc(LONGEST, sizeof(*q->tokens));
	q->pages = calloc(LONGEST / PAGE + 1, sizeof(*q->pages));
	q->family = rand_r(seed) % 3 ? 0 : 7;
}

static void seq_end(struct sched *s, struct seq *q)
{
	sched_remove(s, q);
	free(q->tokens);
	free(q->pages);
	q->tokens = q->pages = NULL;
}

/* One step there and back; returns how many sequences ended. */
static int turn(struct sched *s)
{
	const struct sched_step *st = sched_next(s);
	int32_t tokens[64] = { 0 };
	int ended = 0;

	if (!st && !sched_in_flight(s)) {
		struct seq *q = sched_stuck(s);

		if (q)
			seq_end(s, q);
		return q != NULL;
	}
	if (st && sched_in_flight(s) < 2)
		return 0; /* one more ahead */
	st = sched_oldest(s);
	for (int32_t i = 0; i < st->n_seqs; i++)
		for (int32_t k = 0; st->entry[i].seq && k < (st->entry[i].from + st->entry[i].n + PAGE - 1) / PAGE; k++)
			assert_in_range(st->entry[i].seq->pages[k], 0, N_PAGES - 1);
	sched_commit(s, tokens);
	for (int32_t i = 0; i < st->n_seqs; i++) {
		struct seq *q = st->entry[i].seq;

		if (q && q->n_known == q->n_max) {
			seq_end(s, q);
			ended++;
		}
	}
	return ended;
}

static void test_liar(void **state)
{
	for (unsigned seed = 1; seed <= 30; seed++) {
		const struct sched_limits lim = { .max_seqs = MAX_SEQS, .max_tokens = 16, .max_logits = 8, .page_tokens = PAGE,
			.n_pages = N_PAGES, .run_ahead = (int32_t)(seed % 3) };
		struct nvllm_cache c = { .seed = seed };
		struct sched *s = sched_create(&lim, &liar, &c);
		struct seq *q = calloc(N_SEQS, sizeof(*q));
		unsigned r = seed;
		int n = 0, ended = 0, turns = 0;

		while (ended < N_SEQS && turns++ < 200000) {
			if (n < N_SEQS && turns % 3 == 0) {
				seq_make(&q[n], &r);
				sched_add(s, &q[n++]);
			}
			ended += turn(s);
		}
		assert_int_equal(ended, N_SEQS);
		sched_destroy(s);
		free(q);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_liar) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
