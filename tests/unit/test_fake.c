/* SPDX-License-Identifier: MIT */
/* The fake device is what the engine's run-ahead is tested on, so it is tested itself: work
 * happens late, in order, no further than asked; numbers are the CPU device's; nothing
 * allocates in a step. (test_fake_misuse.c: what the contract forbids is found out.) */
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../sanitized.h"
#include "rig.h"

/* Counts what is allocated while a step is enqueued and waited for. */
static atomic_int stepping, n_allocs;
#if !SANITIZED
#define COUNTS_MALLOC 1
extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);

void *malloc(size_t n)
{
	n_allocs += stepping;
	return __libc_malloc(n);
}

void *calloc(size_t k, size_t n)
{
	n_allocs += stepping;
	return __libc_calloc(k, n);
}
#else
#define COUNTS_MALLOC 0
#endif

static const char *const open_memory[] = { "protect", "false", NULL };

/* ---- late, in order, no further ---- */

static void kernels_run_in_a_wait(void **state)
{
	struct four x, y;
	struct rig r;

	(void)state;
	open_fours(&r, open_memory, &x, &y);
	rig_ok(&r, r.k->add(r.d, r.s, x.t, y.t));
	rig_ok(&r, r.k->add(r.d, r.s, x.t, y.t));
	assert_float_equal(x.p[0], 1, 0);
	rig_ok(&r, r.vt->sync(r.d, r.s));
	assert_float_equal(x.p[0], 21, 0);
	rig_ok(&r, r.vt->sync(r.d, r.s));
	assert_float_equal(x.p[0], 21, 0);
	assert_int_equal(close_fours(&r, &x, &y), 0);
}

static void a_mark_is_as_far_as_it_goes(void **state)
{
	nvllm_mark m[3];
	struct four x, y;
	struct rig r;

	(void)state;
	open_fours(&r, open_memory, &x, &y);
	for (int i = 0; i < 3; i++) {
		rig_ok(&r, r.vt->mark_create(r.d, &m[i]));
		rig_ok(&r, r.k->add(r.d, r.s, x.t, y.t));
		rig_ok(&r, r.vt->mark_set(r.d, r.s, m[i]));
	}
	rig_ok(&r, r.vt->mark_wait(r.d, m[0]));
	assert_float_equal(x.p[3], 11, 0);
	rig_ok(&r, r.vt->mark_wait(r.d, m[2])); /* past the one between */
	assert_float_equal(x.p[3], 31, 0);
	rig_ok(&r, r.vt->mark_wait(r.d, m[1]));
	rig_ok(&r, r.k->add(r.d, r.s, x.t, y.t));
	rig_ok(&r, r.vt->mark_set(r.d, r.s, m[1])); /* again */
	assert_float_equal(x.p[3], 31, 0);
	rig_ok(&r, r.vt->mark_wait(r.d, m[1]));
	assert_float_equal(x.p[3], 41, 0);
	for (int i = 0; i < 3; i++)
		r.vt->mark_free(r.d, m[i]);
	assert_int_equal(close_fours(&r, &x, &y), 0);
}

static void copies_are_late_both_ways(void **state)
{
	float *in, *out;
	struct four x, y;
	struct rig r;

	(void)state;
	open_fours(&r, open_memory, &x, &y);
	in = r.vt->host_alloc(r.d, 16);
	out = r.vt->host_alloc(r.d, 16);
	for (int i = 0; i < 4; i++)
		in[i] = 5, out[i] = 0;
	rig_ok(&r, r.vt->copy(r.d, r.s, x.p, in, 16));
	rig_ok(&r, r.k->add(r.d, r.s, x.t, y.t));
	rig_ok(&r, r.vt->copy(r.d, r.s, y.p, x.p, 16));
	rig_ok(&r, r.vt->copy(r.d, r.s, out, y.p, 16));
	assert_float_equal(x.p[1], 1, 0);
	assert_true(out[1] != out[1]); /* the device's now: NaN until it is written */
	rig_ok(&r, r.vt->sync(r.d, r.s));
	assert_float_equal(out[1], 15, 0);
	/* Staging used again too early: what is copied is what is there later. */
	rig_ok(&r, r.vt->copy(r.d, r.s, x.p, in, 16));
	in[0] = 6;
	rig_bad(&r, "changed between the copy and the wait");
	assert_float_equal(x.p[0], 6, 0);
	r.vt->host_free(r.d, in);
	r.vt->host_free(r.d, out);
	assert_int_equal(close_fours(&r, &x, &y), 1);
}

static void what_is_pointed_to_by_the_host_is_copied(void **state)
{
	struct nvllm_norm n = { .size = sizeof(n), .kind = NVLLM_RMS_NORM, .eps = 1e-5 };
	struct four x, y;
	float got[4];
	struct rig r;

	(void)state;
	open_fours(&r, NULL, &x, &y);
	n.w = y.t;
	rig_ok(&r, r.k->norm(r.d, r.s, x.t, x.t, &n));
	memset(&n, 0xFF, sizeof(n));
	rig_get(&r, got, x.p, 16);
	assert_float_equal(got[2], 10, 1e-3);
	assert_int_equal(close_fours(&r, &x, &y), 0);
}

/* ---- recordings ---- */

static void a_recording_runs_when_launched(void **state)
{
	nvllm_graph g, empty;
	struct four x, y;
	struct rig r;

	(void)state;
	open_fours(&r, open_memory, &x, &y);
	rig_ok(&r, r.vt->graph_begin(r.d, r.s));
	rig_ok(&r, r.k->add(r.d, r.s, x.t, y.t));
	rig_ok(&r, r.vt->copy(r.d, r.s, y.p, x.p, 16));
	rig_ok(&r, r.vt->graph_end(r.d, r.s, &g));
	rig_ok(&r, r.vt->graph_begin(r.d, r.s));
	rig_ok(&r, r.vt->graph_end(r.d, r.s, &empty));
	rig_ok(&r, r.vt->sync(r.d, r.s));
	assert_float_equal(x.p[0], 1, 0);
	rig_ok(&r, r.vt->graph_launch(r.d, r.s, g));
	rig_ok(&r, r.vt->graph_launch(r.d, r.s, empty));
	rig_ok(&r, r.k->add(r.d, r.s, x.t, y.t));
	rig_ok(&r, r.vt->graph_launch(r.d, r.s, g));
	assert_float_equal(x.p[0], 1, 0);
	rig_ok(&r, r.vt->sync(r.d, r.s)); /* 11, 11; 22; 33, 33 */
	assert_float_equal(x.p[0], 33, 0);
	assert_float_equal(y.p[0], 33, 0);
	r.vt->graph_free(r.d, g);
	r.vt->graph_free(r.d, empty);
	assert_int_equal(close_fours(&r, &x, &y), 0);
}

/* Freed graphs give their room back, in any order that ends. */
static void graphs_come_and_go(void **state)
{
	struct four x, y;
	struct rig r;
	nvllm_graph g;

	(void)state;
	open_fours(&r, NULL, &x, &y);
	for (int i = 0; i < 300; i++) {
		rig_ok(&r, r.vt->graph_begin(r.d, r.s));
		for (int k = 0; k < 1000; k++)
			rig_ok(&r, r.k->add(r.d, r.s, x.t, y.t));
		rig_ok(&r, r.vt->graph_end(r.d, r.s, &g));
		r.vt->graph_free(r.d, g);
	}
	assert_int_equal(close_fours(&r, &x, &y), 0);
}

static void failures_asked_for(void **state)
{
	static const char *const words[] = { "fail_capture", "2", "fail_step", "3", NULL };
	nvllm_graph g = NULL;
	struct four x, y;
	struct rig r;

	(void)state;
	open_fours(&r, words, &x, &y);
	for (int i = 1; i <= 3; i++) {
		rig_ok(&r, r.vt->graph_begin(r.d, r.s));
		rig_ok(&r, r.k->add(r.d, r.s, x.t, y.t));
		assert_int_equal(r.vt->graph_end(r.d, r.s, &g), i == 2 ? NVLLM_EDEVICE : 0);
		assert_true(i == 2 ? g == NULL : g != NULL);
		r.vt->graph_free(r.d, g);
	}
	for (int i = 0; i < 4; i++)
		rig_ok(&r, r.k->add(r.d, r.s, x.t, y.t));
	rig_bad(&r, "kernel 3, add, failed");
	{
		float got[4];

		rig_get(&r, got, x.p, 16);
		assert_float_equal(got[0], 31, 0); /* the others ran */
	}
	/* An error of the CPU's kernel itself comes late too, with its sentence. */
	x.t.rows = 1, y.t.cols = 2;
	rig_ok(&r, r.k->add(r.d, r.s, x.t, y.t));
	rig_bad(&r, "shapes do not fit");
	assert_int_equal(r.d->used, 0); /* recordings, freed or failed, gave their room back */
	assert_int_equal(close_fours(&r, &x, &y), 0);
}

static void a_recording_is_compared(void **state)
{
	static const char *const words[] = { "compare", "true", "queue", "8", NULL };
	struct nvllm_norm n = { .size = sizeof(n), .kind = NVLLM_RMS_NORM, .eps = 1e-5 };
	nvllm_graph g;
	struct four x, y;
	struct rig r;

	(void)state;
	open_fours(&r, words, &x, &y);
	n.w = y.t;
	for (int i = 0; i < 8; i++) /* what was in the queue's slots before is no difference */
		rig_ok(&r, r.k->norm(r.d, r.s, x.t, x.t, &n));
	rig_ok(&r, r.vt->sync(r.d, r.s));
	for (int twist = 0; twist < 3; twist++) {
		rig_ok(&r, r.k->add(r.d, r.s, x.t, y.t));
		rig_ok(&r, r.vt->copy(r.d, r.s, y.p, x.p, 16));
		rig_ok(&r, r.vt->graph_begin(r.d, r.s));
		rig_ok(&r, r.k->add(r.d, r.s, x.t, twist == 1 ? x.t : y.t));
		if (twist < 2)
			rig_ok(&r, r.vt->copy(r.d, r.s, y.p, x.p, 16));
		assert_int_equal(r.vt->graph_end(r.d, r.s, &g), twist ? NVLLM_EDEVICE : 0);
		r.vt->graph_free(r.d, g);
		if (twist)
			rig_bad(&r, "not the step that was enqueued just before");
		else
			rig_ok(&r, r.vt->sync(r.d, r.s));
	}
	assert_int_equal(close_fours(&r, &x, &y), 2);
}

static void a_full_queue_is_refused(void **state)
{
	static const char *const words[] = { "queue", "4", NULL };
	struct four x, y;
	struct rig r;

	(void)state;
	open_fours(&r, words, &x, &y);
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < 4; i++)
			rig_ok(&r, r.k->add(r.d, r.s, x.t, y.t));
		assert_int_equal(r.k->add(r.d, r.s, x.t, y.t), NVLLM_ENOMEM);
		assert_non_null(strstr(r.host.said, "queue of 4 is full"));
		rig_ok(&r, r.vt->sync(r.d, r.s));
	}
	assert_int_equal(close_fours(&r, &x, &y), 0);
}

/* Nobody wrote it: it is NaN, whatever device wrote there before. */
static void new_memory_is_nan(void **state)
{
	float v[4] = { 0 };
	struct rig r;
	char *p;

	(void)state;
	rig_open(&r, FAKE_SO, NULL);
	p = r.vt->alloc(r.d, 5000);
	rig_get(&r, v, p + 4984, sizeof(v));
	for (int i = 0; i < 4; i++)
		assert_true(v[i] != v[i]);
	r.vt->free(r.d, p);
	assert_int_equal(rig_close(&r), 0);
}

/* The host reads or writes device memory, new or used: it ends there. */
static void memory_is_apart(void **state)
{
	struct four x, y;
	struct rig r;
	float *fresh;

	(void)state;
	open_fours(&r, NULL, &x, &y);
	fresh = r.vt->alloc(r.d, 64);
	for (int i = 0; i < 4; i++) {
		const bool write = i & 1;
		pid_t pid = fork();
		int status = 0;

		if (pid == 0) {
			volatile float *p = i & 2 ? fresh : x.p;

			signal(SIGSEGV, SIG_DFL); /* cmocka would go on with the next test */
			close(STDERR_FILENO); /* a sanitizer would tell a long story */
			if (write)
				*p = 1;
			else
				(void)*p;
			_exit(0);
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_false(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	}
	r.vt->free(r.d, fresh);
	assert_int_equal(close_fours(&r, &x, &y), 0);
}

/* ---- the same numbers as the CPU device ---- */

enum { ROWS = 3, COLS = 64, VALS = ROWS * COLS };

static struct nvllm_tensor tensor(void *data, int64_t rows, int64_t cols)
{
	return (struct nvllm_tensor){ .data = data, .rows = rows, .cols = cols, .stride = COLS * 4,
		.planes = 1, .dtype = NVLLM_F32 };
}

/* Where each kernel finds its input and leaves its result, in bytes from the start. */
enum { X = 0, Y = 1024, HALF = 2048, FREQ = 3072, INDEX = 3200, TARGETS = 3300, DRAWN = 3400,
	PROBS = 4096, PRODUCT = 5120, WEIGHT = 8192, ALL = 16384 };
struct results { float y[VALS], half[VALS], probs[ROWS * 6], product[VALS]; };

static void put_inputs(struct rig *r, char *m)
{
	static const int32_t index[ROWS] = { 2, 0, 2 }, targets[ROWS] = { 5, -1, -2 },
		drawn[ROWS] = { -1, -1, 7 };
	float v[VALS], freq[16], zero[ALL / 4] = { 0 };

	for (int i = 0; i < VALS; i++)
		v[i] = (float)((i * 7919) % 501) / 100 - 2.5f;
	for (int i = 0; i < 16; i++)
		freq[i] = 1.0f / (float)(1 + i);
	rig_put(r, m, zero, sizeof(zero));
	rig_put(r, m + X, v, sizeof(v));
	rig_put(r, m + FREQ, freq, sizeof(freq));
	rig_put(r, m + INDEX, index, sizeof(index));
	rig_put(r, m + TARGETS, targets, sizeof(targets));
	rig_put(r, m + DRAWN, drawn, sizeof(drawn));
}

/* y = x wT + x's first row as the bias; w is x's own rows as the device stores them. */
static void run_product(struct rig *r, char *m)
{
	struct nvllm_tensor w = tensor(NULL, ROWS, COLS), bias = tensor(m + X, 1, ROWS);
	float v[VALS];

	rig_get(r, v, m + Y, sizeof(v));
	assert_in_range(r->vt->store(r->d, &w), 1, ALL - WEIGHT);
	w.data = m + WEIGHT;
	rig_ok(r, r->vt->upload(r->d, &w, 0, 0, ROWS, v, NVLLM_F32, COLS * 4));
	rig_ok(r, r->k->linear(r->d, r->s, tensor(m + PRODUCT, ROWS, ROWS),
		tensor(m + X, ROWS, COLS), w, &bias, 0));
}

/* Each kernel that a step of the model above has not, from the same floats. */
static void run_kernels(const char *so, struct results *got)
{
	struct nvllm_rotary rot = { .size = sizeof(rot), .dims = 32, .mscale = 1 };
	struct nvllm_norm n = { .size = sizeof(n), .kind = NVLLM_RMS_NORM, .eps = 1e-5 };
	struct nvllm_logprobs q = { .size = sizeof(q), .n_top = 2 };
	struct nvllm_tensor x, y, one;
	struct rig r;
	char *m;

	rig_open(&r, so, NULL);
	m = r.vt->alloc(r.d, ALL);
	put_inputs(&r, m);
	x = tensor(m + X, ROWS, COLS), y = tensor(m + Y, ROWS, COLS), one = x;
	one.stride = 0; /* one row for all */
	rot.inv_freq = n.w = tensor(m + FREQ, 1, 16);
	rig_ok(&r, r.k->rope(r.d, r.s, x, (int32_t *)(void *)(m + INDEX), 64, &rot));
	rig_ok(&r, r.k->rows(r.d, r.s, y, x, (int32_t *)(void *)(m + INDEX)));
	rig_ok(&r, r.k->add(r.d, r.s, y, one));
	rig_ok(&r, r.k->norm(r.d, r.s, y, y, &n)); /* of heads of 16 */
	rig_ok(&r, r.k->glu(r.d, r.s, tensor(m + HALF, ROWS, COLS / 2), y, NVLLM_SILU));
	q.targets = (int32_t *)(void *)(m + TARGETS);
	q.tokens = (int32_t *)(void *)(m + DRAWN);
	q.target_logprob = (float *)(void *)(m + PROBS);
	q.target_rank = (int32_t *)(void *)(m + PROBS + ROWS * 4);
	q.top_ids = (int32_t *)(void *)(m + PROBS + ROWS * 8);
	q.top_logprobs = (float *)(void *)(m + PROBS + ROWS * 16);
	rig_ok(&r, r.k->logprobs(r.d, r.s, y, &q));
	run_product(&r, m);
	rig_get(&r, got->y, m + Y, sizeof(got->y));
	rig_get(&r, got->half, m + HALF, sizeof(got->half));
	rig_get(&r, got->probs, m + PROBS, sizeof(got->probs));
	rig_get(&r, got->product, m + PRODUCT, sizeof(got->product));
	r.vt->free(r.d, m);
	assert_int_equal(rig_close(&r), 0);
}

static void kernels_have_the_cpus_bits(void **state)
{
	static struct results cpu, fake;

	(void)state;
	run_kernels(FAKE_CPU, &cpu);
	run_kernels(FAKE_SO, &fake);
	assert_memory_equal(&cpu, &fake, sizeof(cpu));
	assert_true(cpu.y[0] != 0 && cpu.half[0] != 0 && cpu.probs[0] < 0 && cpu.probs[2] < 0 &&
		cpu.product[1] != 0);
}

static void decode(const char *so, struct world_out *out, int n_steps)
{
	static const int32_t rows[] = { 3, 3, 5, 2, 8, 1, 3, 3, 4, 8 };
	struct nvllm_tensor logits;
	struct world w;

	world_open(&w, so, NULL);
	for (int i = 0; i < n_steps; i++) {
		stepping = 1;
		world_inputs(&w, 0, rows[i], rows[i]);
		rig_ok(&w.r, world_forward(&w, &logits));
		world_results(&w, 0, logits);
		world_wait(&w, 0);
		stepping = 0;
		memset(&out[i], 0, sizeof(out[i]));
		memcpy(out[i].tokens, w.out[0]->tokens, (size_t)rows[i] * 4);
		memcpy(out[i].logits, w.out[0]->logits, (size_t)rows[i] * VOCAB * 4);
	}
	assert_int_equal(world_close(&w), 0);
}

static void steps_have_the_cpus_bits(void **state)
{
	static struct world_out cpu[10], fake[10];
	int differ = 0;

	(void)state;
	decode(FAKE_CPU, cpu, 10);
	n_allocs = 0;
	decode(FAKE_SO, fake, 10);
	assert_memory_equal(cpu, fake, sizeof(cpu));
	for (int i = 1; i < 10; i++)
		differ += cpu[i].tokens[0] != cpu[0].tokens[0];
	assert_true(differ > 0); /* they are no constants */
	if (COUNTS_MALLOC)
		assert_int_equal(n_allocs, 0);
}

/* Steps 1 .. 3 are enqueued before step 0 is waited for; their tokens feed each other on
 * the device. Staging is used again once its step was waited for. */
static void running_ahead_changes_nothing(void **state)
{
	static struct world_out plain[10];
	static const int32_t rows[] = { 3, 3, 5, 2, 8, 1, 3, 3, 4, 8 };
	struct nvllm_tensor logits;
	struct world w;

	(void)state;
	decode(FAKE_SO, plain, 10);
	world_open(&w, FAKE_SO, NULL);
	for (int i = 0; i < 10 + STAGES - 1; i++) {
		int done = i - (STAGES - 1);

		if (i < 10) {
			world_inputs(&w, i % STAGES, rows[i], rows[i]);
			rig_ok(&w.r, world_forward(&w, &logits));
			world_results(&w, i % STAGES, logits);
		}
		if (done < 0)
			continue;
		world_wait(&w, done % STAGES);
		assert_memory_equal(
			w.out[done % STAGES]->tokens, plain[done].tokens, (size_t)rows[done] * 4);
		assert_memory_equal(w.out[done % STAGES]->logits, plain[done].logits,
			(size_t)rows[done] * VOCAB * 4);
	}
	assert_true(w.r.d->most_queued > 30);
	assert_int_equal(world_close(&w), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(kernels_run_in_a_wait),
		cmocka_unit_test(a_mark_is_as_far_as_it_goes),
		cmocka_unit_test(copies_are_late_both_ways),
		cmocka_unit_test(what_is_pointed_to_by_the_host_is_copied),
		cmocka_unit_test(a_recording_runs_when_launched),
		cmocka_unit_test(graphs_come_and_go),
		cmocka_unit_test(failures_asked_for),
		cmocka_unit_test(a_recording_is_compared),
		cmocka_unit_test(a_full_queue_is_refused),
		cmocka_unit_test(new_memory_is_nan),
		cmocka_unit_test(memory_is_apart),
		cmocka_unit_test(kernels_have_the_cpus_bits),
		cmocka_unit_test(steps_have_the_cpus_bits),
		cmocka_unit_test(running_ahead_changes_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
