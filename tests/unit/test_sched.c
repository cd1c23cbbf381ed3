/* SPDX-License-Identifier: MIT */
/* The scheduler as a state machine without a device: random traffic against the rules that
 * must always hold. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#undef fail /* the core's own word */

#include "core.h"
#include "scheduler.h"

enum { MAX_SEQS = 4, MAX_TOKENS = 16, MAX_LOGITS = 6, PAGE = 4, N_PAGES = 24, N_REQ = 400 };

struct req {
	struct seq seq;
	int32_t expect;   /* next position it must compute */
	bool added, done;
};

static struct req *req_make(int i)
{
	struct req *r = calloc(1, sizeof(*r));

	r->seq.n_prompt = 1 + rand() % 40;
	r->seq.n_max = r->seq.n_prompt + 1 + rand() % 20;
	r->seq.tokens = calloc((size_t)r->seq.n_max, sizeof(int32_t));
	r->seq.pages = calloc((size_t)(r->seq.n_max / PAGE + 1), sizeof(int32_t));
	r->seq.all_logits = rand() % 4 == 0;
	for (int t = 0; t < r->seq.n_prompt; t++)
		r->seq.tokens[t] = i * 1000 + t;
	return r;
}

static void req_free(struct req *r)
{
	free(r->seq.tokens);
	free(r->seq.pages);
	free(r);
}

/* No page has two owners, and the counts say how many are owned. */
static void check_pages(const struct sched *s, struct req **req, int n)
{
	uint8_t owner[N_PAGES] = { 0 };
	int32_t running, waiting, used = 0, in_state[4] = { 0 };
	int64_t pages_used;

	for (int i = 0; i < n; i++) {
		in_state[req[i]->seq.state]++;
		for (int p = 0; p < req[i]->seq.n_pages; p++) {
			int32_t page = req[i]->seq.pages[p];

			assert_in_range(page, 0, N_PAGES - 1);
			assert_int_equal(owner[page], 0);
			owner[page] = 1;
			used++;
		}
	}
	sched_counts(s, &running, &waiting, &pages_used);
	assert_int_equal(running, in_state[SEQ_RUNNING]);
	assert_int_equal(waiting, in_state[SEQ_WAITING]);
	assert_int_equal(pages_used, used);
	assert_true(running <= MAX_SEQS);
}

static void check_step(const struct sched_step *st)
{
	int32_t tokens = 0, logits = 0;

	assert_in_range(st->n_seqs, 1, MAX_SEQS);
	for (int i = 0; i < st->n_seqs; i++) {
		const struct sched_entry *e = &st->entry[i];
		struct req *r = (struct req *)(void *)e->seq;

		assert_int_equal(e->from, r->expect);
		assert_true(e->n > 0 && e->from + e->n <= e->seq->n_tokens);
		assert_int_equal(e->logit_from, logits);
		assert_int_equal(e->samples, e->from + e->n == e->seq->n_tokens);
		assert_true(e->n_logits >= e->samples && e->n_logits <= e->n);
		if (e->seq->all_logits && e->from < e->seq->n_prompt)
			assert_int_equal(e->n_logits, e->n);
		assert_true((int64_t)e->seq->n_pages * PAGE >= e->from + e->n);
		for (int k = 0; k < i; k++)
			assert_int_not_equal(st->entry[k].seq->slot, e->seq->slot);
		tokens += e->n;
		logits += e->n_logits;
	}
	assert_int_equal(tokens, st->n_tokens);
	assert_int_equal(logits, st->n_logits);
	assert_true(tokens <= MAX_TOKENS && logits <= MAX_LOGITS);
}

static void run_step(struct sched *s, struct req **req, int n, int *done)
{
	const struct sched_step *st = sched_next(s);
	int32_t token[MAX_LOGITS], first = -1;
	struct seq *seqs[MAX_SEQS];
	int n_seqs;

	if (!st)
		return;
	check_step(st);
	for (int i = 0; i < MAX_LOGITS; i++)
		token[i] = 7000 + i;
	sched_commit(s, st, token);
	n_seqs = st->n_seqs;
	for (int i = 0; i < n_seqs; i++) {
		struct req *r = (struct req *)(void *)st->entry[i].seq;

		seqs[i] = st->entry[i].seq;
		r->expect += st->entry[i].n;
		if (st->entry[i].samples)
			assert_int_equal(r->seq.tokens[r->seq.n_tokens - 1],
				7000 + st->entry[i].logit_from + st->entry[i].n_logits - 1);
	}
	for (int i = 0; i < n_seqs; i++)
		if (seqs[i]->n_tokens == seqs[i]->n_max) {
			sched_remove(s, seqs[i]);
			((struct req *)(void *)seqs[i])->done = true;
			++*done;
		}
	check_pages(s, req, n);
	(void)first;
}

static void test_random_traffic(void **state)
{
	const struct sched_limits lim = { MAX_SEQS, MAX_TOKENS, MAX_LOGITS, PAGE, N_PAGES };
	struct sched *s = sched_create(&lim, NULL, NULL);
	struct req *req[N_REQ];
	int n = 0, done = 0, idle = 0;

	srand(1);
	while (done < N_REQ && idle < 100000) {
		if (n < N_REQ && rand() % 3 == 0) {
			req[n] = req_make(n);
			assert_int_equal(sched_admissible(s, req[n]->seq.n_max), 0);
			sched_add(s, &req[n++]->seq);
		}
		if (n && rand() % 40 == 0) { /* cancelled, wherever it is */
			struct req *r = req[rand() % n];

			if (!r->done) {
				sched_remove(s, &r->seq);
				r->done = true;
				done++;
			}
		}
		run_step(s, req, n, &done);
		idle++;
	}
	assert_int_equal(done, N_REQ);
	for (int i = 0; i < n; i++)
		req_free(req[i]);
	sched_destroy(s);
}

static void test_arrival_order(void **state)
{
	const struct sched_limits lim = { 2, 64, 64, PAGE, N_PAGES };
	struct sched *s = sched_create(&lim, NULL, NULL);
	struct req *r[3];
	const struct sched_step *st;

	srand(2);
	for (int i = 0; i < 3; i++)
		sched_add(s, &(r[i] = req_make(i))->seq);
	st = sched_next(s);
	assert_int_equal(st->n_seqs, 2);
	assert_ptr_equal(st->entry[0].seq, &r[0]->seq);
	assert_ptr_equal(st->entry[1].seq, &r[1]->seq);
	sched_remove(s, &r[0]->seq);
	st = sched_next(s);
	assert_ptr_equal(st->entry[0].seq, &r[1]->seq);
	assert_ptr_equal(st->entry[1].seq, &r[2]->seq);
	for (int i = 1; i < 3; i++)
		sched_remove(s, &r[i]->seq);
	assert_null(sched_next(s));
	for (int i = 0; i < 3; i++)
		req_free(r[i]);
	sched_destroy(s);
}

static void test_never_fits(void **state)
{
	const struct sched_limits lim = { 2, 64, 64, PAGE, N_PAGES };
	struct sched *s = sched_create(&lim, NULL, NULL);

	assert_int_equal(sched_admissible(s, N_PAGES * PAGE), 0);
	assert_int_equal(sched_admissible(s, N_PAGES * PAGE + 1), NVLLM_EINVAL);
	assert_non_null(strstr(fail_text(), "max_tokens"));
	sched_destroy(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_random_traffic),
		cmocka_unit_test(test_arrival_order),
		cmocka_unit_test(test_never_fits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
