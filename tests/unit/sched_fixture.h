/* SPDX-License-Identifier: MIT */
/* sched_fixture.h - the scheduler's model driven by hand, for the tests of single rules. */
#ifndef SCHED_FIXTURE_H
#define SCHED_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#undef fail /* the core's own word */

#include "sched_model.h"

static const struct sched_limits roomy = { .max_seqs = 4, .max_tokens = 64, .max_logits = 16, .page_tokens = 4,
	.n_pages = 64 };

/* No answer ends by itself: each is as long as it may be. */
static struct model *make(const struct sched_limits *lim, enum policy_temper policy)
{
	struct model *m = model_brute(lim, policy);

	m->end_mask = ~0ull;
	return m;
}

/* Tokens first, first + 1, ... */
static struct req *add(struct model *m, int32_t n_prompt, int32_t n_out, int32_t first, struct seq like)
{
	int32_t tokens[1024];
	struct req *r;

	assert_true(n_prompt + n_out <= 1024);
	for (int32_t i = 0; i < n_prompt + n_out; i++)
		tokens[i] = first + i;
	like.tokens = tokens;
	like.n_prompt = n_prompt;
	like.n_max = n_prompt + n_out;
	r = model_add(m, &like);
	assert_non_null(r);
	return r;
}

#define PLAIN ((struct seq){ 0 })

static void expect_step(const struct sched_step *st, int32_t n, struct req *const *order)
{
	assert_non_null(st);
	assert_int_equal(st->n_seqs, n);
	for (int32_t i = 0; i < n; i++)
		assert_ptr_equal(st->entry[i].seq, &order[i]->seq);
}

static void run_out(struct model *m)
{
	model_drain(m);
	model_destroy(m);
}
#endif
