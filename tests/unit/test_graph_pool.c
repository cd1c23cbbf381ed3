/* SPDX-License-Identifier: MIT */
/* The graph pool on the fake device: which bucket a step gets, that a replay is the step
 * bit by bit, and that a recording which fails costs nobody an answer. The core's words
 * (log_line, fail) are this file's own, to be counted. */
#include <stdio.h>
#include <string.h>

#include "rig.h"

#undef fail /* cmocka's */
#include "core.h"
#include "graph_pool.h"

#define N(a) ((int)(sizeof(a) / sizeof((a)[0])))

/* ---- the core's words ---- */

static int n_warnings;
static char warning[512], sentence[512];

void log_line(int level, const char *who, const char *fmt, ...)
{
	va_list ap;

	(void)who;
	assert_int_equal(level, NVLLM_LOG_WARN);
	va_start(ap, fmt);
	vsnprintf(warning, sizeof(warning), fmt, ap);
	va_end(ap);
	n_warnings++;
}

int fail(int status, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	memcpy(sentence, text, sizeof(text));
	return status;
}

const char *fail_text(void)
{
	return sentence;
}

void fail_clear(void)
{
	sentence[0] = 0;
}

static int reset(void **state)
{
	(void)state;
	n_warnings = 0;
	warning[0] = sentence[0] = 0;
	return 0;
}

/* ---- a device of which only the graph members are ever called ---- */

static struct { int begun, ended, launched, freed, bad_begin, bad_end, bad_launch; } mock;

static int mock_begin(struct nvllm_device *d, nvllm_stream s)
{
	(void)d, (void)s;
	if (mock.bad_begin) /* 2: without a word */
		return mock.bad_begin == 2 ? NVLLM_EDEVICE : fail(NVLLM_EDEVICE, "begin said no");
	mock.begun++;
	return 0;
}

static int mock_end(struct nvllm_device *d, nvllm_stream s, nvllm_graph *out)
{
	(void)d, (void)s;
	mock.ended++;
	*out = NULL;
	if (mock.bad_end)
		return fail(NVLLM_EDEVICE, "end said no");
	*out = &mock;
	return 0;
}

static int mock_launch(struct nvllm_device *d, nvllm_stream s, nvllm_graph g)
{
	(void)d, (void)s;
	assert_ptr_equal(g, &mock);
	mock.launched++;
	return mock.bad_launch ? fail(NVLLM_EDEVICE, "launch said no") : 0;
}

static void mock_free(struct nvllm_device *d, nvllm_graph g)
{
	(void)d;
	assert_ptr_equal(g, &mock);
	mock.freed++;
}

static const struct nvllm_device_vt mock_vt = { .size = sizeof(mock_vt), .graph_begin = mock_begin,
	.graph_end = mock_end, .graph_launch = mock_launch, .graph_free = mock_free };
static const struct nvllm_device_info mock_info = {
	.size = sizeof(mock_info), .caps = NVLLM_DEV_GRAPHS};

#define MIXED 1000 /* rows of the largest step with chunks */

static struct graph_shape decode_of(int32_t n) { return (struct graph_shape){ n, n }; }

static int32_t bucket(const struct graph_pool *p, int32_t n)
{
	struct graph_shape s = graph_pool_decode(p, n);

	assert_int_equal(s.n_tokens, s.n_seqs);
	return s.n_seqs;
}

static struct graph_pool *mock_pool(const struct nvllm_device_vt *vt, uint64_t caps, bool capture,
	const int64_t *sizes, int n, int32_t max_seqs)
{
	struct nvllm_device_info info = mock_info;
	struct nvllm_device_ref ref = { .size = sizeof(ref), .vt = vt, .info = &info };
	struct graph_pool *p;

	memset(&mock, 0, sizeof(mock));
	info.caps = caps;
	p = graph_pool_create(&ref, NULL, capture, sizes, n, max_seqs, MIXED);
	assert_non_null(p);
	return p;
}

/* ---- sizes and buckets ---- */

static void buckets_are_the_sizes_that_fit(void **state)
{
	static const int64_t sizes[] = { 16, 4, 0, 1, 4, 64, -3, 8, 16, INT64_MAX,
		(1ll << 32) + 2 };
	static const int32_t want[] = { 1, 4, 8, 16 }, *got;
	struct graph_pool *p = mock_pool(&mock_vt, NVLLM_DEV_GRAPHS, true, sizes, N(sizes), 20);

	(void)state;
	assert_int_equal(graph_pool_sizes(p, &got), 4);
	assert_memory_equal(got, want, sizeof(want));
	for (int32_t n = -2; n <= 25; n++)
		assert_int_equal(bucket(p, n), n < 1 || n > 16 ? 0
							  : n == 1        ? 1
							  : n <= 4        ? 4
							  : n <= 8        ? 8
									  : 16);
	graph_pool_destroy(p);
	graph_pool_destroy(NULL);
}

/* A bucket holds the step, is not much larger, and is never taken for one of decode rows. */
static void mixed_buckets_hold_their_steps(void **state)
{
	static const int64_t sizes[] = { 1, 2, 4, 8, 16 };
	struct graph_pool *p = mock_pool(&mock_vt, NVLLM_DEV_GRAPHS, true, sizes, N(sizes), 20);

	(void)state;
	for (int32_t t = 1; t <= MIXED + 10; t++)
		for (int32_t n = 1; n <= 20; n++) {
			struct graph_shape s = graph_pool_mixed(p, t, n), again;

			if (t > MIXED || n > 16) {
				assert_int_equal(s.n_tokens + s.n_seqs, 0);
				continue;
			}
			assert_true(s.n_seqs == bucket(p, n) && s.n_tokens > s.n_seqs);
			assert_true(s.n_tokens >= t && s.n_tokens <= MIXED);
			assert_true(s.n_tokens <= t + (t < 128 ? 32 : t / 8));
			again = graph_pool_mixed(p, s.n_tokens, s.n_seqs);
			assert_true(again.n_tokens == s.n_tokens && again.n_seqs == s.n_seqs);
		}
	graph_pool_destroy(p);
}

static int count_calls(void *arg, struct nvllm_tensor *logits)
{
	*logits = (struct nvllm_tensor){ .data = &mock, .rows = 3 };
	++*(int *)arg;
	return 0;
}

static void no_graphs_is_capacity_0(void **state)
{
	static const int64_t sizes[] = { 1, 2, 4 };
	struct nvllm_device_vt old = mock_vt, half = mock_vt;
	const struct {
		const struct nvllm_device_vt *vt;
		uint64_t caps;
		bool capture;
		int n;
	} kinds[] = {
		{&mock_vt, NVLLM_DEV_ASYNC | NVLLM_DEV_HOST_MEM, true, 3}, /* no capability */
		{&mock_vt, NVLLM_DEV_GRAPHS, false, 3},                    /* capture = off */
		{&mock_vt, NVLLM_DEV_GRAPHS, true, 0},                     /* no sizes */
		{&mock_vt, NVLLM_DEV_GRAPHS, true, -1},
		{&old, NVLLM_DEV_GRAPHS, true, 3},
		{&half, NVLLM_DEV_GRAPHS, true, 3},
	};

	(void)state;
	old.size = offsetof(struct nvllm_device_vt, graph_begin);
	half.graph_end = NULL;
	for (int i = 0; i < N(kinds); i++) {
		struct graph_pool *p = mock_pool(kinds[i].vt, kinds[i].caps, kinds[i].capture,
			kinds[i].n ? sizes : NULL, kinds[i].n, 8);
		struct nvllm_tensor logits = { .rows = 0 };
		bool replayed = true;
		const int32_t *got;
		int calls = 0;

		assert_int_equal(graph_pool_sizes(p, &got), 0);
		assert_int_equal(bucket(p, 1), 0);
		for (int k = 1; k <= 3; k++) { /* the same code path, eager */
			assert_int_equal(
				graph_pool_run(p, decode_of(0), count_calls, &calls, &logits, &replayed), 0);
			assert_int_equal(calls, k);
			assert_false(replayed);
			assert_int_equal(logits.rows, 3);
		}
		assert_int_equal(mock.begun + mock.ended + mock.launched, 0);
		graph_pool_destroy(p);
		assert_int_equal(mock.freed, 0);
	}
	assert_int_equal(n_warnings, 0);
}

/* ---- what a run calls, and in which order ---- */

/* A step that fails, or moves its logits, when it is called for the n-th time. */
struct script { int calls, fail_at, move_at; char place[8]; };

static int follow(void *arg, struct nvllm_tensor *logits)
{
	struct script *s = arg;

	s->calls++;
	*logits = (struct nvllm_tensor){ .data = s->place + (s->calls == s->move_at), .rows = 2 };
	return s->calls == s->fail_at ? fail(NVLLM_EINVAL, "the step said no") : 0;
}

/* One step in bucket 2 of a pool of { 2, 4 }. */
static int run_one(struct graph_pool *p, struct script *s, bool *replayed)
{
	struct nvllm_tensor logits = { .rows = 0 };
	int rc = graph_pool_run(p, decode_of(2), follow, s, &logits, replayed);

	if (!rc)
		assert_true(logits.data == s->place && logits.rows == 2);
	return rc;
}

static struct graph_pool *pool_of_two(void)
{
	static const int64_t sizes[] = { 2, 4 };

	return mock_pool(&mock_vt, NVLLM_DEV_GRAPHS, true, sizes, 2, 8);
}

/* A shape with chunks is recorded when it comes up again, and 64 of them at most. */
static void mixed_is_recorded_the_second_time(void **state)
{
	struct graph_pool *p = pool_of_two();
	struct nvllm_tensor logits;
	bool replayed;

	(void)state;
	for (int32_t k = 0; k < 70; k++) {
		struct script s = { 0 };

		for (int i = 0; i < 4; i++) {
			struct graph_shape shape = { 16 + k, 2 };

			assert_int_equal(graph_pool_run(p, shape, follow, &s, &logits, &replayed), 0);
			assert_int_equal(replayed, k < 64 && i >= 2);
		}
		assert_int_equal(s.calls, k < 64 ? 3 : 4);
	}
	assert_int_equal(mock.begun, 64);
	graph_pool_destroy(p);
	assert_int_equal(mock.freed, 64);
}

static void recorded_once_then_launched(void **state)
{
	struct graph_pool *p = pool_of_two();
	struct script s = { 0 };
	bool replayed;

	(void)state;
	for (int i = 0; i < 5; i++) {
		assert_int_equal(run_one(p, &s, &replayed), 0);
		assert_int_equal(replayed, i > 0);
		assert_int_equal(s.calls, 2);
		assert_int_equal(mock.launched, i);
	}
	assert_int_equal(mock.begun, 1);
	assert_int_equal(mock.ended, 1);
	/* A bucket that there is not is eager. */
	{
		struct nvllm_tensor logits;

		assert_int_equal(graph_pool_run(p, decode_of(3), follow, &s, &logits, &replayed), 0);
	}
	assert_false(replayed);
	assert_int_equal(mock.begun, 1);
	mock.bad_launch = 1; /* this one is the step's error */
	assert_int_equal(run_one(p, &s, &replayed), NVLLM_EDEVICE);
	assert_string_equal(sentence, "launch said no");
	mock.bad_launch = 0;
	assert_int_equal(run_one(p, &s, &replayed), 0); /* and the graph is kept */
	assert_true(replayed);
	graph_pool_destroy(p);
	assert_int_equal(mock.freed, 1);
	assert_int_equal(n_warnings, 0);
}

static void an_eager_failure_is_the_steps(void **state)
{
	struct graph_pool *p = pool_of_two();
	struct script s = { .fail_at = 1 };
	bool replayed;

	(void)state;
	assert_int_equal(run_one(p, &s, &replayed), NVLLM_EINVAL);
	assert_string_equal(sentence, "the step said no");
	assert_int_equal(mock.begun, 0);
	assert_int_equal(bucket(p, 2), 2); /* no reason to give up graphs */
	assert_int_equal(run_one(p, &s, &replayed), 0);
	assert_int_equal(mock.begun, 1);
	assert_int_equal(run_one(p, &s, &replayed), 0);
	assert_true(replayed);
	graph_pool_destroy(p);
	assert_int_equal(n_warnings, 0);
}

/* A failed recording: no error, one warning with the reason, no graph left, eager for good. */
static void check_given_up(
	struct graph_pool *p, struct script *s, const char *why, int ended, int freed)
{
	bool replayed = true;
	int calls;

	assert_int_equal(run_one(p, s, &replayed), 0);
	assert_false(replayed);
	assert_string_equal(fail_text(), "");
	assert_int_equal(n_warnings, 1);
	assert_non_null(strstr(warning, why));
	assert_non_null(strstr(warning, "steps of 2 rows of 2 sequences"));
	assert_int_equal(bucket(p, 2), 2); /* padded as on the other ranks */
	assert_int_equal(bucket(p, 1), 2);
	assert_int_equal(bucket(p, 3), 4);
	assert_int_equal(mock.ended, ended);
	memset(&mock.bad_begin, 0, sizeof(int) * 3);
	calls = s->calls;
	for (int i = 1; i <= 3; i++) {
		assert_int_equal(run_one(p, s, &replayed), 0);
		assert_false(replayed);
		assert_int_equal(s->calls, calls + i);
	}
	assert_int_equal(mock.ended, ended);
	assert_int_equal(n_warnings, 1);
	graph_pool_destroy(p);
	assert_int_equal(mock.freed, freed);
	assert_int_equal(mock.launched, 0);
	reset(NULL);
}

static void a_failed_recording_costs_the_graph_only(void **state)
{
	struct graph_pool *p = pool_of_two();

	(void)state;
	mock.bad_begin = 1;
	check_given_up(p, &(struct script){ 0 }, "begin said no", 0, 0);
	p = pool_of_two();
	mock.bad_end = 1;
	check_given_up(p, &(struct script){ 0 }, "end said no", 1, 0);
	/* The second call fails: the recording is ended all the same, its graph dropped, and
	 * the first reason is the one that is told. */
	p = pool_of_two();
	check_given_up(p, &(struct script){ .fail_at = 2 }, "the step said no", 1, 1);
	p = pool_of_two();
	mock.bad_end = 1;
	check_given_up(p, &(struct script){ .fail_at = 2 }, "the step said no", 1, 0);
	p = pool_of_two();
	check_given_up(p, &(struct script){ .move_at = 2 }, "logits in two places", 1, 1);
}

/* What was said before is no reason of this recording's. */
static void an_old_sentence_is_not_the_reason(void **state)
{
	struct graph_pool *p = pool_of_two();
	bool replayed;

	(void)state;
	fail(NVLLM_EINVAL, "an old story");
	mock.bad_begin = 2;
	run_one(p, &(struct script){ 0 }, &replayed);
	assert_null(strstr(warning, "an old story"));
	assert_non_null(strstr(warning, "does not say why"));
	graph_pool_destroy(p);
}

/* ---- on the fake device ---- */

enum { STEPS = 24 };
static const int32_t rows[STEPS] = {
	3, 3, 4, 1, 2, 8, 5, 6, 7, 3, 1, 1, 2, 8, 4, 3, 3, 7, 1, 2, 5, 6, 1, 8};

struct run {
	const char *so, *const *words;
	bool capture;   /* graphs */
	int ahead;      /* steps enqueued before the oldest is waited for */
	int replayed;   /* out */
	int misuses, launches, recordings;
	struct world_out out[STEPS];
};

static void keep_result(struct world *w, struct run *r, int i)
{
	memset(&r->out[i], 0, sizeof(r->out[i]));
	memcpy(r->out[i].tokens, w->out[i % STAGES]->tokens, (size_t)rows[i] * 4);
	memcpy(r->out[i].logits, w->out[i % STAGES]->logits, (size_t)rows[i] * VOCAB * 4);
}

static void step(struct world *w, struct graph_pool *p, struct run *r, int i)
{
	int32_t size = bucket(p, rows[i]);
	struct nvllm_tensor logits;
	bool replayed;

	world_inputs(w, i % STAGES, rows[i], size ? size : rows[i]);
	rig_ok(&w->r, graph_pool_run(p, decode_of(size), world_forward, w, &logits, &replayed));
	r->replayed += replayed;
	world_results(w, i % STAGES, logits);
}

static void decode(struct run *r)
{
	static const int64_t sizes[] = { 8, 1, 4, 4, 32 };
	struct world w;
	struct graph_pool *p;

	world_open(&w, r->so, r->words);
	p = graph_pool_create(&w.r.ref, w.r.s, r->capture, sizes, N(sizes), SEQS, MIXED);
	assert_non_null(p);
	for (int i = 0; i < STEPS + r->ahead; i++) {
		if (i < STEPS)
			step(&w, p, r, i);
		if (i < r->ahead)
			continue;
		world_wait(&w, (i - r->ahead) % STAGES);
		keep_result(&w, r, i - r->ahead);
	}
	if (w.r.info.caps & FAKE_CAP) {
		r->launches = (int)w.r.d->n_launches;
		r->recordings = (int)w.r.d->n_records;
	}
	graph_pool_destroy(p);
	r->misuses = world_close(&w);
}

/* The CPU device has no graphs, so its steps are not padded: the oracle. */
static struct run cpu = { .so = FAKE_CPU, .capture = true };

static void same_as_cpu(const struct run *r)
{
	for (int i = 0; i < STEPS; i++) {
		assert_memory_equal(r->out[i].tokens, cpu.out[i].tokens, sizeof(cpu.out[i].tokens));
		assert_memory_equal(r->out[i].logits, cpu.out[i].logits, sizeof(cpu.out[i].logits));
	}
	assert_int_equal(r->misuses, 0);
}

static int decode_cpu(void **state)
{
	(void)state;
	decode(&cpu);
	return cpu.replayed || cpu.misuses;
}

/* Each recording is compared, job by job, with the eager step that it repeats. */
static void a_replay_is_the_step(void **state)
{
	static const char *const words[] = { "compare", "true", NULL };
	static struct run eager = { .so = FAKE_SO };
	static struct run lazy = { .so = FAKE_SO, .words = words, .capture = true };

	(void)state;
	decode(&eager);
	assert_int_equal(eager.replayed + eager.recordings + eager.launches, 0);
	same_as_cpu(&eager);
	decode(&lazy);
	same_as_cpu(&lazy);
	assert_int_equal(lazy.recordings, 3);
	assert_int_equal(lazy.replayed, STEPS - 3);
	assert_int_equal(lazy.launches, STEPS - 3);
	assert_int_equal(n_warnings, 0);
}

static void replays_run_ahead(void **state)
{
	static const char *const words[] = { "compare", "true", NULL };
	static struct run r = { .so = FAKE_SO, .words = words, .capture = true };

	(void)state;
	for (r.ahead = 1; r.ahead < STAGES; r.ahead++) {
		r.replayed = 0;
		decode(&r);
		same_as_cpu(&r);
		assert_int_equal(r.replayed, STEPS - 3);
	}
}

/* Whichever recording fails, the answers are the same, and the others are replayed. */
static void a_failed_recording_on_the_device(void **state)
{
	static const char *const nth[] = { "1", "2", "3" };
	static const int lost[] = { 9, 4, 8 }; /* replays of the buckets 4, 1 and 8 */
	int n = 0;

	(void)state;
	for (int i = 0; i < 3; i++) {
		const char *const words[] = { "fail_capture", nth[i], NULL };
		static struct run r;

		r = (struct run){ .so = FAKE_SO, .words = words, .capture = true, .ahead = i };
		decode(&r);
		same_as_cpu(&r);
		assert_int_equal(n_warnings, ++n);
		assert_int_equal(r.recordings, 3);
		assert_int_equal(r.launches, r.replayed);
		assert_int_equal(r.replayed, STEPS - 3 - lost[i]);
		assert_string_equal(fail_text(), "");
	}
}

static int live_graphs(const struct nvllm_device *d)
{
	int n = 0;

	for (int i = 0; i < FAKE_GRAPHS; i++)
		n += d->graphs[i].live;
	return n;
}

static void the_pool_frees_its_graphs(void **state)
{
	static const int64_t sizes[] = { 2, 4 };
	struct nvllm_tensor logits;
	struct graph_pool *p;
	struct world w;
	bool replayed;

	(void)state;
	world_open(&w, FAKE_SO, NULL);
	p = graph_pool_create(&w.r.ref, w.r.s, true, sizes, 2, SEQS, MIXED);
	for (int32_t n = 1; n <= 3; n += 2) {
		world_inputs(&w, 0, n, n + 1);
		rig_ok(&w.r, graph_pool_run(p, decode_of(n + 1), world_forward, &w, &logits, &replayed));
		rig_ok(&w.r, w.r.vt->sync(w.r.d, w.r.s));
	}
	assert_int_equal(live_graphs(w.r.d), 2);
	graph_pool_destroy(p);
	assert_int_equal(live_graphs(w.r.d), 0);
	assert_int_equal(world_close(&w), 0);
}

#define TEST(fn) cmocka_unit_test_setup(fn, reset)
int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(buckets_are_the_sizes_that_fit),
		TEST(mixed_buckets_hold_their_steps),
		TEST(mixed_is_recorded_the_second_time),
		TEST(no_graphs_is_capacity_0),
		TEST(recorded_once_then_launched),
		TEST(an_eager_failure_is_the_steps),
		TEST(a_failed_recording_costs_the_graph_only),
		TEST(an_old_sentence_is_not_the_reason),
		TEST(a_replay_is_the_step),
		TEST(replays_run_ahead),
		TEST(a_failed_recording_on_the_device),
		TEST(the_pool_frees_its_graphs),
	};

	return cmocka_run_group_tests(tests, decode_cpu, NULL);
}
