/* SPDX-License-Identifier: MIT */
/* What the scheduler computes once for many: prefixes that the cache policy keeps, and the
 * prompts of families. Rows and copies are counted. */
#include "sched_fixture.h"

/* ---- prefixes ---- */

enum { N_EQUAL = 16, LONG = 800 };

static const struct sched_limits wide = { .max_seqs = 16, .max_tokens = 64, .max_logits = 32, .page_tokens = 16,
	.n_pages = 600 };

/* 16 equal prompts: 800 rows for the first; the others compute what match may never give,
 * the rest after the last page but one. */
static void test_prefix_once(void **state)
{
	for (int together = 0; together < 2; together++) {
		struct model *m = make(&wide, POLICY_KEEPS);

		for (int i = 0; i < N_EQUAL; i++) {
			add(m, LONG, 3, 7, PLAIN);
			for (int k = 0; !together && k < 3 * i; k++) { /* one after another, at any time */
				model_next(m);
				model_commit(m);
			}
		}
		model_drain(m);
		assert_int_equal(m->n_finished, N_EQUAL);
		assert_int_equal(m->n_rows, LONG + (N_EQUAL - 1) * 16 + N_EQUAL * 2);
		model_destroy(m);
	}
}

/* A prefix that is equal for a while, and another salt, which shares nothing. */
static void test_prefix_salt(void **state)
{
	struct model *m = make(&wide, POLICY_KEEPS);

	add(m, 160, 1, 7, PLAIN);
	add(m, 161, 1, 7, PLAIN);
	add(m, 160, 1, 7, (struct seq){ .salt = 1 });
	add(m, 160, 1, 7, (struct seq){ .salt = 1 });
	model_drain(m);
	assert_int_equal(m->n_rows, 160 + 1 + 160 + 16);
	model_destroy(m);
}

/* A policy that keeps nothing: nobody waits for what will never be there. */
static void test_keeps_none(void **state)
{
	struct model *m = make(&wide, POLICY_KEEPS_NONE);
	struct req *r[3];

	for (int round = 0; round < 2; round++) {
		for (int i = 0; i < 3; i++)
			r[i] = add(m, 20, 4, 7, PLAIN);
		expect_step(model_next(m), round ? 3 : 1, r); /* by the second round it knows */
		model_commit(m);
		model_drain(m);
		assert_int_equal(m->n_rows, (round + 1) * 3 * 23);
	}
	model_destroy(m);
}

/* The one computing is removed halfway: those that waited go on with what is there. */
static void test_prefix_orphan(void **state)
{
	struct model *m = make(&wide, POLICY_KEEPS);
	struct req *a = add(m, 200, 2, 7, PLAIN);

	add(m, 200, 2, 7, PLAIN);
	add(m, 200, 2, 7, PLAIN);
	model_next(m);
	model_commit(m);
	model_next(m);
	assert_int_equal(m->n_rows, 128);
	model_remove(m, a);
	model_commit(m);
	model_drain(m);
	/* the second step of the first had not landed: its rows are computed again */
	assert_int_equal(m->n_rows, 128 + (200 - 64) + 8 + 2);
	model_destroy(m);
}

/* ---- families ---- */

/* Four answers to one prompt of 10 tokens in pages of 4: the prompt once, one row for each
 * sibling, and a copy of the last page for all but the last who writes it. */
static void test_family(void **state)
{
	for (int policy = POLICY_KEEPS; policy <= POLICY_NONE; policy += POLICY_NONE) {
		struct model *m = make(&roomy, policy);

		for (int i = 0; i < 4; i++)
			add(m, 10, 3, 7, (struct seq){ .family = 5 });
		model_next(m);
		assert_int_equal(m->n_rows, 10);
		model_commit(m);
		assert_int_equal(m->n_shares, 3);
		model_drain(m);
		assert_int_equal(m->n_rows, 10 + 3 + 4 * 2);
		assert_int_equal(m->n_copies, 3);
		model_destroy(m);
	}
}

/* The first is gone and the others wait with what it computed: the policy must not think
 * that it could give that up. */
static void test_family_pins(void **state)
{
	struct model *m = make(&roomy, POLICY_KEEPS);
	struct sched_counts c;
	struct req *a;

	a = add(m, 10, 3, 7, (struct seq){ .family = 5 });
	add(m, 10, 3, 7, (struct seq){ .family = 5 });
	model_next(m);
	model_commit(m);
	model_remove(m, a);
	sched_count(m->s, &c);
	assert_int_equal(c.waiting, 1);
	assert_int_equal(c.pages_used, 3);
	assert_int_equal(c.pages_cached, 0);
	run_out(m);
}

/* The prompt fills its last page: the first one goes on to a page of its own; the siblings
 * write the prompt's last row, so all but one copy, or all where the policy has the page. */
static void test_family_full_page(void **state)
{
	for (int policy = POLICY_KEEPS; policy <= POLICY_NONE; policy += POLICY_NONE) {
		struct model *m = make(&roomy, policy);

		for (int i = 0; i < 4; i++)
			add(m, 8, 3, 7, (struct seq){ .family = 5 });
		model_drain(m);
		assert_int_equal(m->n_rows, 8 + 3 + 4 * 2);
		assert_int_equal(m->n_copies, 3);
		model_destroy(m);
	}
}

/* A family larger than the slots: those who still wait hold pages that a running one needs. */
static void test_family_stripped(void **state)
{
	struct sched_limits lim = roomy;
	struct model *m;

	lim.max_seqs = 2;
	lim.n_pages = 6;
	m = make(&lim, POLICY_NONE);
	for (int i = 0; i < 4; i++)
		add(m, 10, 14, 7, (struct seq){ .family = 5 });
	model_drain(m);
	assert_int_equal(m->n_finished, 4);
	assert_true(m->n_strips > 0);
	model_destroy(m);
}

/* The same with a pool of the prompt alone: what the sibling gives back ends the sharing, so
 * the first needs no page more. */
static void test_family_alone(void **state)
{
	struct sched_limits lim = roomy;

	lim.n_pages = 3;
	for (int policy = POLICY_KEEPS; policy <= POLICY_NONE; policy += POLICY_NONE) {
		struct model *m = make(&lim, policy);

		for (int i = 0; i < 2; i++)
			add(m, 10, 2, 7, (struct seq){ .family = 5 });
		model_next(m);
		model_commit(m);
		assert_int_equal(m->n_shares, 1);
		assert_non_null(model_next(m));
		assert_null(sched_stuck(m->s));
		assert_int_equal(m->n_strips, 1);
		assert_int_equal(m->n_copies, 0);
		model_commit(m);
		run_out(m);
	}
}

/* Nobody is preempted for a page that is not shared any more. */
static void test_strip_is_enough(void **state)
{
	struct sched_limits lim = roomy;
	struct req *other;
	struct model *m;

	lim.n_pages = 5;
	m = make(&lim, POLICY_NONE);
	for (int i = 0; i < 2; i++)
		add(m, 10, 2, 7, (struct seq){ .family = 5 });
	other = add(m, 4, 2, 100, (struct seq){ .priority = -1 }); /* grows first, by the last free page */
	model_next(m);
	assert_int_equal(other->state, SEQ_RUNNING);
	model_commit(m);
	assert_non_null(model_next(m));
	assert_int_equal(m->n_strips, 1);
	assert_int_equal(m->n_copies, 0);
	assert_int_equal(m->n_preempted, 0);
	model_commit(m);
	run_out(m);
}

/* Every prompt row of a family has logits once. */
static void test_all_logits(void **state)
{
	struct sched_limits lim = roomy;
	struct model *m;

	lim.max_logits = 3;
	m = make(&lim, POLICY_KEEPS);
	add(m, 10, 2, 7, PLAIN);
	model_drain(m);
	assert_int_equal(m->n_steps, 2);
	add(m, 10, 2, 7, (struct seq){ .all_logits = true }); /* cached, and yet computed */
	model_drain(m);
	assert_int_equal(m->n_steps, 2 + 4 + 1);
	assert_int_equal(m->n_hits, 0);
	model_destroy(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_prefix_once),
		cmocka_unit_test(test_prefix_salt),
		cmocka_unit_test(test_keeps_none),
		cmocka_unit_test(test_prefix_orphan),
		cmocka_unit_test(test_family),
		cmocka_unit_test(test_family_pins),
		cmocka_unit_test(test_family_full_page),
		cmocka_unit_test(test_family_stripped),
		cmocka_unit_test(test_family_alone),
		cmocka_unit_test(test_strip_is_enough),
		cmocka_unit_test(test_all_logits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
