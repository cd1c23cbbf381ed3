/* SPDX-License-Identifier: MIT */
/* The bench front end against a fake engine: which prompts it submits, how many at once,
 * what it does with a failure; and the arithmetic of its medians. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <math.h>
#include <signal.h>
#include <unistd.h>

#include "../../plugins/frontends/bench.h"
#include "fake_engine.h"

#define MAX_SEEN 64

/* What the engine was given, in order. */
struct seen {
	int n;
	int32_t ids[MAX_SEEN][512];
	int64_t len[MAX_SEEN];
};

static struct seen seen;

static int submit(struct nvllm_engine *e, const struct nvllm_request *q, uint64_t *id)
{
	assert_true(seen.n < MAX_SEEN && q->n_tokens <= 512);
	memcpy(seen.ids[seen.n], q->tokens, (size_t)q->n_tokens * sizeof(int32_t));
	seen.len[seen.n++] = q->n_tokens;
	return fake_submit(e, q, id);
}

static int submit_refuses_third(struct nvllm_engine *e, const struct nvllm_request *q, uint64_t *id)
{
	return seen.n == 2 ? fake_refuse(e, NVLLM_EINVAL, "no third one") : submit(e, q, id);
}

struct bed {
	struct nvllm_engine engine;
	struct nvllm_engine_vt vt;
	struct bench_result *result;
};

static int set_up(void **state)
{
	struct bed *b = calloc(1, sizeof(*b));

	b->result = calloc(1, sizeof(*b->result));
	b->vt = fake_vt;
	b->vt.submit = submit;
	fake_open(&b->engine);
	memset(&seen, 0, sizeof(seen));
	*state = b;
	return 0;
}

static int tear_down(void **state)
{
	struct bed *b = *state;

	fake_close(&b->engine);
	bench_result_free(b->result);
	free(b->result);
	free(b);
	return 0;
}

static int bench(struct bed *b, struct bench_conf c)
{
	return bench_run(&fake_host, &b->vt, &b->engine, &c, b->result);
}

static void prompts_share_their_prefix(void **state)
{
	struct bed *b = *state;

	assert_int_equal(bench(b, (struct bench_conf){ .prompt = 10, .depth = 5, .prefix = 20, .gen = 3,
		.batch = 4, .turns = 1, .repeat = 2 }), 0);
	assert_int_equal(seen.n, 3 * 4);
	for (int i = 0; i < seen.n; i++) {
		int32_t *first = seen.ids[i / 4 * 4];

		assert_int_equal(seen.len[i], 35);
		assert_memory_equal(seen.ids[i], first, 20 * sizeof(*first));
		if (i % 4)
			assert_memory_not_equal(seen.ids[i] + 20, first + 20, 15 * sizeof(*first));
		if (i / 4) /* another run: another prefix */
			assert_memory_not_equal(first, seen.ids[0], 20 * sizeof(*first));
	}
	assert_int_equal(b->result->n_prompt, 2 * 4 * 35);
	assert_int_equal(b->result->n_output, 2 * 4 * 3);
	assert_int_equal(b->result->n_cached, 2 * 4); /* the fake engine says 1 of each */
	assert_int_equal(b->result->ttft.n, 8);
	assert_int_equal(b->result->gap.n, 8 * 2);
	assert_int_equal(b->result->gap_long.n, 0);
	for (int i = 0; i < 2; i++)
		assert_true(b->result->rows[i].seconds > 0 && b->result->rows[i].prompt_phase > 0);
}

static void conversations_grow(void **state)
{
	struct bed *b = *state;

	assert_int_equal(bench(b, (struct bench_conf){ .prompt = 8, .gen = 4, .batch = 1, .requests = 2,
		.turns = 3, .repeat = 1 }), 0);
	assert_int_equal(seen.n, 2 * 2 * 3);
	for (int i = 0; i < seen.n; i++) {
		int turn = i % 3;

		assert_int_equal(seen.len[i], 8 + 12 * turn);
		if (!turn)
			continue;
		assert_memory_equal(seen.ids[i], seen.ids[i - 1], (size_t)seen.len[i - 1] * 4);
		for (int k = 0; k < 4; k++) /* then its answer, which is its beginning in capitals */
			assert_int_equal(seen.ids[i][seen.len[i - 1] + k], toupper(seen.ids[i][k]));
	}
}

static void keeps_to_the_batch(void **state)
{
	struct bed *b = *state;

	assert_int_equal(bench(b, (struct bench_conf){ .prompt = 8, .gen = 2, .batch = 3, .requests = 20,
		.turns = 1, .repeat = 1 }), 0);
	assert_int_equal(seen.n, 40);
	assert_in_range(b->engine.most_in_flight, 1, 3);
	assert_true(b->result->rows[0].gen_phase == 0 && b->result->rows[0].output > 0);
}

static void a_long_prompt_comes_once(void **state)
{
	struct bed *b = *state;
	int found = 0;

	assert_int_equal(bench(b, (struct bench_conf){ .prompt = 8, .gen = 2, .batch = 2, .turns = 1,
		.long_prompt = 300, .repeat = 1 }), 0);
	assert_int_equal(seen.n, 6);
	for (int i = 0; i < seen.n; i++)
		found += seen.len[i] == 300;
	assert_int_equal(found, 2);
	assert_int_equal(b->result->ttft.n, 2); /* of the others alone */
	assert_true(b->result->rows[0].long_ttft > 0);
}

static void failures_are_said(void **state)
{
	struct bed *b = *state;
	struct bench_conf c = { .prompt = 8, .gen = 9, .batch = 4, .turns = 1, .repeat = 1 };

	/* the fake engine stops after 8 tokens, by an end token */
	assert_int_equal(bench(b, c), NVLLM_EIO);
	assert_non_null(strstr(fake_said, "a request failed"));
	bench_result_free(b->result);
	seen.n = 0;
	b->vt.submit = submit_refuses_third;
	c.gen = 2;
	assert_int_equal(bench(b, c), NVLLM_EINVAL);
	assert_string_equal(fake_said, "no third one");
	bench_result_free(b->result);
	c.prompt = FAKE_CONTEXT;
	b->vt.submit = fake_submit;
	assert_int_equal(bench(b, c), NVLLM_EINVAL);
}

static void *press(void *arg)
{
	const struct timespec pause = { 0, 30000000 };

	nanosleep(&pause, NULL);
	kill(getpid(), SIGINT);
	return NULL;
}

/* Until it is pressed the bench goes on and on. */
static void ctrl_c_ends_it(void **state)
{
	struct sigaction ignore = { .sa_handler = SIG_IGN }, old;
	struct bed *b = *state;
	pthread_t t;

	b->vt.submit = fake_submit;
	sigaction(SIGINT, &ignore, &old); /* should it come after the end */
	pthread_create(&t, NULL, press, NULL);
	assert_int_equal(bench(b, (struct bench_conf){ .prompt = 8, .gen = 4, .batch = 16,
		.requests = 1 << 20, .turns = 1, .repeat = 1 }), NVLLM_EXIT_INTERRUPTED);
	pthread_join(t, NULL);
	sigaction(SIGINT, &old, NULL);
	assert_int_equal(b->engine.in_flight, 0);
}

static void medians(void **state)
{
	struct bench_times *t = calloc(1, sizeof(*t));
	double v[5] = { 5, 1, 4, 2, 3 };

	assert_int_equal(bench_times_at(t, 0.5), 0);
	assert_true(bench_at(v, 5, 0.5) == 3 && bench_at(v, 5, 0.95) == 5 && bench_at(v, 5, 0.2) == 1);
	assert_true(bench_at(v, 4, 0.5) == 2.5 && bench_at(v, 0, 0.5) == 0);
	for (int64_t i = 1; i <= 1000; i++)
		bench_times_add(t, i * 1000003);
	for (int p = 1; p <= 100; p++) {
		double want = p * 10 * 1000003.0, got = (double)bench_times_at(t, p / 100.0);

		assert_true(fabs(got - want) <= want / 100);
	}
	assert_int_equal(bench_times_at(t, 1), 1000 * 1000003);
	memset(t, 0, sizeof(*t));
	for (int64_t i = 0; i < 127; i++) /* small ones are exact */
		bench_times_add(t, i);
	assert_int_equal(bench_times_at(t, 0.5), 63);
	bench_times_add(t, INT64_MAX);
	bench_times_add(t, -5);
	assert_int_equal(t->n, 129);
	assert_int_equal(t->cells[0], 2);
	assert_true(bench_times_at(t, 1) > INT64_MAX / 100 * 99);
	free(t);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		T(prompts_share_their_prefix),
		T(conversations_grow),
		T(keeps_to_the_batch),
		T(a_long_prompt_comes_once),
		T(failures_are_said),
		T(ctrl_c_ends_it),
		cmocka_unit_test(medians),
	};
#undef T

	return cmocka_run_group_tests(tests, NULL, NULL);
}
