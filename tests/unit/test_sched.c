/* SPDX-License-Identifier: MIT */
/* The scheduler as a state machine without a device: order, budgets, preemption, steps in
 * flight, and random traffic against the model of sched_model.h, which checks all always. */
#include "sched_fixture.h"

#include "bpe_open.h"
#include "sched_drive.h"

/* ---- order ---- */

static void test_arrival(void **state)
{
	struct sched_limits lim = roomy;
	struct req *r[3];
	struct model *m;

	lim.max_seqs = 2;
	m = make(&lim, POLICY_NONE);
	for (int i = 0; i < 3; i++)
		r[i] = add(m, 5, 3, 100 * i, PLAIN);
	expect_step(model_next(m), 2, r);
	model_commit(m);
	model_remove(m, r[0]);
	expect_step(model_next(m), 2, r + 1);
	model_commit(m);
	run_out(m);
}

static void test_priority(void **state)
{
	struct model *m = make(&roomy, POLICY_NONE);
	struct req *low = add(m, 5, 9, 0, (struct seq){ .priority = 2 }), *mid = add(m, 5, 3, 100, PLAIN),
		*high = add(m, 5, 3, 200, (struct seq){ .priority = -5 });

	expect_step(model_next(m), 3, (struct req *[]){ high, mid, low });
	model_commit(m);
	expect_step(model_next(m), 3, (struct req *[]){ high, mid, low });
	model_commit(m);
	run_out(m);
}

static void test_longest_first(void **state)
{
	struct sched_limits lim = roomy;
	struct req *a, *b, *c, *d;
	struct model *m;

	lim.order = SCHED_LONGEST_FIRST;
	m = make(&lim, POLICY_NONE);
	a = add(m, 3, 3, 0, PLAIN);
	b = add(m, 3, 9, 100, PLAIN);
	c = add(m, 9, 3, 200, PLAIN); /* as long as b, later */
	d = add(m, 2, 2, 300, (struct seq){ .priority = -1 });
	expect_step(model_next(m), 4, (struct req *[]){ d, b, c, a });
	model_commit(m);
	run_out(m);
}

/* Decode rows, the rest of prompts, and only then new ones; all within the budget. */
static void test_step_order(void **state)
{
	struct sched_limits lim = roomy;
	struct req *a, *b, *c;
	const struct sched_step *st;
	struct model *m;

	lim.max_tokens = 8;
	m = make(&lim, POLICY_NONE);
	a = add(m, 12, 4, 0, PLAIN);
	st = model_next(m);
	assert_int_equal(st->n_tokens, 8);
	assert_int_equal(st->n_logits, 0);
	model_commit(m);
	b = add(m, 2, 4, 100, (struct seq){ .priority = 5 });
	expect_step(model_next(m), 2, (struct req *[]){ a, b });
	model_commit(m);
	c = add(m, 12, 4, 200, (struct seq){ .priority = -5 });
	st = model_next(m);
	expect_step(st, 3, (struct req *[]){ a, b, c });
	assert_int_equal(st->entry[2].n, 6);
	assert_true(st->entry[2].admitted && !st->entry[2].samples && !st->entry[0].admitted);
	model_commit(m);
	expect_step(model_next(m), 3, (struct req *[]){ a, b, c });
	model_commit(m);
	run_out(m);
}

/* The first in order has a prompt to compute, and others would fill the step with decode rows. */
static void test_first_advances(void **state)
{
	struct sched_limits lim = roomy;
	const struct sched_step *st;
	struct req *late;
	struct model *m;

	lim.max_tokens = 3;
	m = make(&lim, POLICY_NONE);
	for (int i = 0; i < 3; i++)
		add(m, 1, 30, 100 * i, PLAIN);
	model_next(m);
	model_commit(m);
	model_remove(m, m->req[2]);
	late = add(m, 9, 3, 300, (struct seq){ .priority = -1 });
	for (int i = 0; i < 9; i++) {
		st = model_next(m);
		assert_int_equal(st->n_tokens, 3);
		assert_non_null(entry_of(st, late));
		model_commit(m);
	}
	assert_int_equal(late->n_known, 10);
	run_out(m);
}

/* ---- the door ---- */

static void test_never_fits(void **state)
{
	struct model *m = make(&roomy, POLICY_NONE);

	assert_int_equal(sched_admissible(m->s, 64 * 4), 0);
	assert_int_equal(sched_admissible(m->s, 64 * 4 + 1), NVLLM_EINVAL);
	assert_non_null(strstr(fail_text(), "max_tokens"));
	assert_non_null(strstr(fail_text(), "256"));
	assert_int_equal(sched_admissible(m->s, INT64_MAX), NVLLM_EINVAL);
	run_out(m);
}

/* One that takes the whole pool runs, and so does the one behind it, afterwards. */
static void test_whole_pool(void **state)
{
	struct sched_limits lim = roomy;
	struct req *r[2];
	struct model *m;

	lim.n_pages = 5;
	for (int policy = POLICY_KEEPS; policy <= POLICY_NONE; policy += POLICY_NONE) {
		m = make(&lim, policy);
		r[0] = add(m, 19, 1, 0, PLAIN);
		r[1] = add(m, 2, 18, 0, PLAIN);
		expect_step(model_next(m), 1, r);
		run_out(m);
	}
}

/* ---- preemption ---- */

/* Two grow out of a pool of four pages: the last goes, and comes back in its old place with
 * the tokens it had; nobody draws a token twice (the model compares). */
static void test_preemption(void **state)
{
	struct sched_limits lim = roomy;
	struct req *r[3];
	struct model *m;

	lim.n_pages = 4;
	m = make(&lim, POLICY_NONE);
	r[0] = add(m, 6, 9, 0, PLAIN);
	r[1] = add(m, 3, 9, 100, PLAIN);
	expect_step(model_next(m), 2, r);
	r[2] = add(m, 3, 2, 200, PLAIN);
	do
		model_commit(m);
	while (model_next(m) && !m->n_preempted);
	assert_int_equal(m->n_preempted, 1);
	assert_int_equal(r[1]->n_preempted, 1);
	assert_int_equal(r[1]->seq.state, SEQ_WAITING);
	assert_ptr_equal(r[1]->seq.next, &r[2]->seq);
	assert_int_equal(r[1]->n_known, 3 + 3);
	run_out(m);
}

/* With steps in flight nobody is preempted: first they land. */
static void test_waits_for_steps(void **state)
{
	struct sched_limits lim = roomy;
	struct model *m;

	lim.n_pages = 4;
	lim.run_ahead = 3;
	m = make(&lim, POLICY_NONE);
	add(m, 6, 9, 0, PLAIN);
	add(m, 3, 9, 100, PLAIN);
	while (!m->n_preempted) {
		while (model_next(m))
			;
		assert_true(m->n_preempted || m->in_flight > 0);
		model_commit(m);
	}
	assert_true(m->n_late > 0);
	run_out(m);
}

/* Pages of one that is gone stay away from the next until the steps that knew them are done. */
static void test_deferred(void **state)
{
	struct sched_limits lim = roomy;
	struct model *m;
	struct req *a;

	lim.n_pages = 4;
	lim.run_ahead = 2;
	m = make(&lim, POLICY_NONE);
	a = add(m, 13, 3, 0, PLAIN);
	add(m, 13, 3, 100, PLAIN);
	model_next(m);
	model_next(m);
	model_remove(m, a);
	assert_int_equal(pages_left(sched_pages(m->s)), 0);
	assert_int_equal(pages_deferred(sched_pages(m->s)), 4);
	assert_null(model_next(m));
	model_commit(m);
	assert_int_equal(pages_deferred(sched_pages(m->s)), 4);
	assert_null(model_next(m));
	model_commit(m);
	assert_int_equal(pages_left(sched_pages(m->s)), 4);
	assert_non_null(model_next(m));
	run_out(m);
}

/* The same after all was quiet once. */
static void test_removal_nulls(void **state)
{
	struct sched_limits lim = roomy;
	struct req *r[3];
	struct model *m;

	lim.run_ahead = 2;
	m = make(&lim, POLICY_KEEPS);
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < 3; i++)
			r[i] = add(m, 6, 5, 100 * i, PLAIN);
		for (int k = 0; k < 3; k++)
			expect_step(model_next(m), 3, r);
		assert_null(model_next(m)); /* as far ahead as it may */
		assert_int_equal(sched_in_flight(m->s), 3);
		m->n_nulled = 0;
		model_remove(m, r[1]);
		assert_int_equal(m->n_nulled, 3);
		assert_null(sched_oldest(m->s)->entry[1].seq);
		model_commit(m);
		model_remove(m, r[0]);
		assert_int_equal(m->n_nulled, 5);
		assert_null(sched_oldest(m->s)->entry[0].seq);
		assert_ptr_equal(sched_oldest(m->s)->entry[2].seq, &r[2]->seq);
		model_drain(m);
	}
	model_destroy(m);
}

/* ---- policies that err, or are in need ---- */

/* It says that it could give pages up and does not: no loop, no crash, and a name. */
static void test_stuck(void **state)
{
	struct sched_limits lim = roomy;
	struct req *r;
	struct model *m;

	lim.n_pages = 4;
	m = make(&lim, POLICY_STINGY);
	add(m, 9, 1, 0, PLAIN);
	model_drain(m);
	r = add(m, 9, 4, 100, PLAIN);
	for (int i = 0; i < 3; i++) {
		assert_null(sched_next(m->s));
		assert_ptr_equal(sched_stuck(m->s), &r->seq);
	}
	model_remove(m, r);
	assert_null(sched_stuck(m->s));
	r = add(m, 4, 8, 200, PLAIN); /* gets in and cannot grow */
	while (model_next(m))
		model_commit(m);
	assert_ptr_equal(sched_stuck(m->s), &r->seq);
	model_remove(m, r);
	assert_null(sched_next(m->s));
	assert_null(sched_stuck(m->s));
	model_destroy(m);
}

/* One page is needed with steps in flight: the cache loses one, though it is not free yet. */
static void test_evicts_one(void **state)
{
	struct sched_limits lim = roomy;
	struct model *m;
	struct req *a;

	lim.n_pages = 16;
	lim.run_ahead = 3;
	m = make(&lim, POLICY_KEEPS);
	add(m, 40, 1, 0, PLAIN);
	model_drain(m);
	a = add(m, 24, 20, 100, PLAIN);
	while (pages_left(sched_pages(m->s)) || a->n_computed % 4 || a->seq.n_pages * 4 > a->n_computed) {
		assert_non_null(model_next(m));
		if (m->in_flight == 2)
			model_commit(m);
	}
	assert_int_equal(m->n_evicted, 0);
	model_next(m);
	assert_int_equal(m->n_evicted, 1);
	model_next(m);
	assert_int_equal(m->n_evicted, 1);
	run_out(m);
}

/* ---- random traffic ---- */

static void test_random_traffic(void **state)
{
	static struct model sum;
	const struct other_policy no_other = { 0 };
	struct feed feed = { .state = 4 };

	while (sum.n_ops < 200000)
		drive(&feed, 400, &no_other, NULL, NULL, &sum);
	/* it went everywhere */
	assert_true(sum.n_preempted > 100 && sum.n_copies > 100 && sum.n_strips > 100 && sum.n_hits > 100 &&
		sum.n_evicted > 100 && sum.n_late > 100 && sum.n_nulled > 100 && sum.n_finished > 1000);
}

/* The same with a policy of the build tree in each session, at its defaults. */
static void drive_real(const struct nvllm_component *c)
{
	static struct model sum;
	struct other_policy other = { .vt = c->vt, .only = true };
	void *values = calloc(1, c->conf_size + 1);
	struct conf_table table = { c->name, c->options, values, c->conf_size };
	struct feed feed = { .state = 9 };
	struct conf *conf;

	sum = (struct model){ 0 };
	other.conf = values;
	assert_int_equal(conf_open(NULL, &conf), 0);
	assert_int_equal(conf_fill(conf, "cache", &table, 1), 0);
	while (sum.n_ops < 30000) {
		struct nvllm_host *host = host_create("cache", 0, 1);

		other.host = host;
		drive(&feed, 400, &other, NULL, NULL, &sum);
		host_destroy(host);
	}
	assert_true(sum.n_hits > 100 && sum.n_evicted > 100 && sum.n_preempted > 30);
	conf_close(conf);
	free(values);
}

static void test_real_policies(void **state)
{
	const char *const file[] = { "cache_hash.so", "cache_radix.so" };

	for (int i = 0; i < 2; i++) {
		const struct nvllm_component *c = component_open(file[i]);

		if (c)
			drive_real(c);
		else
			print_message("%s is not built: not tried\n", file[i]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_arrival),
		cmocka_unit_test(test_priority),
		cmocka_unit_test(test_longest_first),
		cmocka_unit_test(test_step_order),
		cmocka_unit_test(test_first_advances),
		cmocka_unit_test(test_never_fits),
		cmocka_unit_test(test_whole_pool),
		cmocka_unit_test(test_preemption),
		cmocka_unit_test(test_waits_for_steps),
		cmocka_unit_test(test_deferred),
		cmocka_unit_test(test_removal_nulls),
		cmocka_unit_test(test_stuck),
		cmocka_unit_test(test_evicts_one),
		cmocka_unit_test(test_random_traffic),
		cmocka_unit_test(test_real_policies),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
