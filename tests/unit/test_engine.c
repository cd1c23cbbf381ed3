/* SPDX-License-Identifier: MIT */
/* The engine through its embedding API, with a tiny checkpoint: many threads submit, cancel
 * and wait at once; events come in order; answers do not depend on who else is there;
 * nothing is left behind. Also run under ThreadSanitizer. */
#include <pthread.h>
#include <setjmp.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
#include <string.h>
#include <cmocka.h>

#include <nvllm/engine.h>

#include "../sanitized.h"

/* Counts what the engine's thread allocates inside a step: nothing may. glibc's own
 * entries stand behind; sanitizers bring their own allocator, so there it is not counted. */
bool log_in_step(void); /* core/log.c */
void host_step(bool inside);
static atomic_int n_in_step;
#if !SANITIZED
#define COUNTS_MALLOC 1
extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);

void *malloc(size_t n)
{
	n_in_step += log_in_step();
	return __libc_malloc(n);
}

void *calloc(size_t k, size_t n)
{
	n_in_step += log_in_step();
	return __libc_calloc(k, n);
}

void *realloc(void *p, size_t n)
{
	n_in_step += log_in_step();
	return __libc_realloc(p, n);
}
#else
#define COUNTS_MALLOC 0
#endif

#define MODEL "model.path=tests/data/gguf/llama3.q8_0.gguf"

struct answer {
	pthread_mutex_t lock;
	int32_t ids[64], n, finish, prompt_events, after_done;
	struct nvllm_usage usage;
	float prompt_logprob[64];
	struct nvllm_engine *cancel_at;  /* cancels from within the callback after 3 tokens */
};

static void on_event(void *user, const struct nvllm_event *ev)
{
	struct answer *a = user;

	pthread_mutex_lock(&a->lock);
	a->after_done += a->finish != 0;
	if (ev->type == NVLLM_EVENT_PROMPT) {
		a->prompt_events++;
		for (int i = 0; i < ev->n_tokens && i < 64; i++)
			a->prompt_logprob[i] = ev->tokens[i]->logprob;
	}
	if (ev->type == NVLLM_EVENT_TOKENS)
		for (int i = 0; i < ev->n_tokens && a->n < 64; i++)
			a->ids[a->n++] = ev->tokens[i]->id;
	if (ev->type == NVLLM_EVENT_DONE) {
		a->finish = ev->finish;
		a->usage = *ev->usage;
	}
	pthread_mutex_unlock(&a->lock);
	if (a->cancel_at && a->n == 3)
		nvllm_cancel(a->cancel_at, ev->id, NVLLM_ALL_CHOICES);
}

static void answer_init(struct answer *a)
{
	memset(a, 0, sizeof(*a));
	pthread_mutex_init(&a->lock, NULL);
}

static struct nvllm_engine *open_engine(const char *const *more)
{
	const char *sets[16] = { MODEL, "core.log_level=error", "engine.memory=64M", "engine.seed=1" };
	struct nvllm_open o = { .size = sizeof(o), .sets = sets };
	struct nvllm_engine *e;
	char err[1024];
	int n = 4;

	for (; *more; more++)
		sets[n++] = *more;
	sets[n] = NULL;
	if (nvllm_open(&o, &e, err, sizeof(err)))
		fail_msg("open: %s", err);
	return e;
}

static uint64_t submit(struct nvllm_engine *e, struct answer *a, int32_t first, int64_t n_prompt, int64_t max_tokens,
	double temperature, bool prompt_logprobs)
{
	struct nvllm_params p = nvllm_params_none();
	int32_t ids[64];
	struct nvllm_request r = { .size = sizeof(r), .tokens = ids, .n_tokens = n_prompt, .params = &p,
		.on_event = on_event, .user = a };
	uint64_t id = 0;

	for (int64_t i = 0; i < n_prompt; i++)
		ids[i] = (int32_t)((first * 31 + i * 17) % 1000);
	p.max_tokens = max_tokens;
	p.temperature = temperature;
	p.seed = first;
	p.ignore_eos = 1;
	if (prompt_logprobs)
		p.prompt_logprobs = 0;
	if (nvllm_submit(e, &r, &id))
		fail_msg("submit: %s", nvllm_error(e));
	assert_true(id != 0);
	return id;
}

static void check_empty(struct nvllm_engine *e)
{
	struct nvllm_stats s = { .size = sizeof(s) };

	for (int i = 0; i < 1000; i++) { /* the last step's figures follow the last event */
		nvllm_stats(e, &s);
		if (!s.running && !s.waiting && s.pages_used == s.pages_cached)
			return;
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	}
	fail_msg("left behind: %d running, %d waiting, %ld pages", s.running, s.waiting,
		(long)(s.pages_used - s.pages_cached));
}

/* The same answer alone, in a crowd, in small chunks, on another attention plugin's pages,
 * greedy and sampled. */
static void test_same_answer(void **state)
{
	static const char *const arms[][4] = {
		{ NULL }, { "engine.max_tokens=3", NULL }, { "engine.max_seqs=2", NULL },
		{ "attention.page_tokens=5", NULL }, { "device.threads=2", "engine.max_tokens=40", NULL },
	};
	struct answer *want = calloc(12, sizeof(*want)), *a = calloc(12, sizeof(*a));

	for (size_t k = 0; k < sizeof(arms) / sizeof(*arms); k++) {
		struct nvllm_engine *e = open_engine(arms[k]);

		for (int i = 0; i < 12; i++) {
			struct answer *at = k ? &a[i] : &want[i];
			uint64_t id;

			answer_init(at);
			id = submit(e, at, i + 1, 1 + i * 3, 20, i % 2 ? 0.8 : 0, i % 3 == 0);
			if (!k)
				nvllm_wait(e, id); /* alone */
		}
		for (uint64_t id = 1; id <= 12; id++)
			nvllm_wait(e, id);
		check_empty(e);
		nvllm_close(e);
		for (int i = 0; i < 12 && k; i++) {
			assert_int_equal(a[i].n, 20);
			assert_memory_equal(a[i].ids, want[i].ids, sizeof(int32_t) * 20);
			assert_int_equal(a[i].finish, NVLLM_FINISH_LENGTH);
			assert_int_equal(a[i].prompt_events, i % 3 == 0);
			/* bitwise: NaN is the first token's */
			assert_memory_equal(a[i].prompt_logprob, want[i].prompt_logprob, sizeof(a[i].prompt_logprob));
		}
	}
	free(want);
	free(a);
}

struct worker { struct nvllm_engine *e; unsigned seed; int done, cancelled; };

static void *work(void *arg)
{
	struct worker *w = arg;

	for (int i = 0; i < 25; i++) {
		struct answer a;
		uint64_t id;

		answer_init(&a);
		if (rand_r(&w->seed) % 5 == 0)
			a.cancel_at = w->e;
		id = submit(w->e, &a, (int32_t)(rand_r(&w->seed) % 100), 1 + rand_r(&w->seed) % 30, 1 + rand_r(&w->seed) % 20,
			1, rand_r(&w->seed) % 4 == 0);
		if (rand_r(&w->seed) % 4 == 0)
			nvllm_cancel(w->e, id, NVLLM_ALL_CHOICES);
		if (rand_r(&w->seed) % 8 == 0)
			nvllm_cancel(w->e, id, NVLLM_ALL_CHOICES);
		nvllm_wait(w->e, id);
		assert_true(a.finish == NVLLM_FINISH_LENGTH || a.finish == NVLLM_FINISH_CANCEL);
		assert_int_equal(a.after_done, 0);
		assert_int_equal(a.usage.n_output, a.n);
		w->cancelled += a.finish == NVLLM_FINISH_CANCEL;
		w->done++;
	}
	return NULL;
}

static void test_threads(void **state)
{
	struct nvllm_engine *e = open_engine((const char *const[]){ "engine.max_seqs=5", "engine.max_tokens=24",
		"device.threads=2", NULL });
	struct nvllm_stats s = { .size = sizeof(s) };
	struct worker w[4];
	pthread_t t[4];
	int cancelled = 0;

	for (int i = 0; i < 4; i++) {
		w[i] = (struct worker){ .e = e, .seed = (unsigned)i + 1 };
		pthread_create(&t[i], NULL, work, &w[i]);
	}
	for (int i = 0; i < 4; i++) {
		pthread_join(t[i], NULL);
		assert_int_equal(w[i].done, 25);
		cancelled += w[i].cancelled;
	}
	check_empty(e);
	nvllm_stats(e, &s);
	assert_int_equal(s.cancelled, cancelled);
	assert_int_equal(s.finished + s.cancelled, 100);
	assert_int_equal(s.failed, 0);
	nvllm_close(e);
}

static void test_steps_allocate_nothing(void **state)
{
	struct nvllm_engine *e;
	struct answer a[8];
	void *volatile kept;

	if (!COUNTS_MALLOC)
		skip();
	e = open_engine((const char *const[]){ "engine.max_seqs=3", "engine.max_tokens=11", NULL });
	n_in_step = 0;
	for (int i = 0; i < 8; i++) {
		answer_init(&a[i]);
		submit(e, &a[i], i, 1 + i * 7, 20, i % 2 ? 0.9 : 0, i % 2);
	}
	for (uint64_t id = 1; id <= 8; id++)
		nvllm_wait(e, id);
	assert_int_equal(n_in_step, 0);
	/* the counter counts */
	host_step(true);
	kept = malloc(1); /* volatile: not to be optimised away */
	free(kept);
	host_step(false);
	assert_int_equal(n_in_step, 1);
	nvllm_close(e);
}

/* Closing ends what runs and what waits, each with its last event. */
static void test_close(void **state)
{
	struct nvllm_engine *e = open_engine((const char *const[]){ "engine.max_seqs=2", NULL });
	struct answer a[6];

	for (int i = 0; i < 6; i++) {
		answer_init(&a[i]);
		submit(e, &a[i], i, 20, 400, 1, false);
	}
	nvllm_close(e);
	for (int i = 0; i < 6; i++)
		assert_true(a[i].finish == NVLLM_FINISH_CANCEL || a[i].finish == NVLLM_FINISH_LENGTH);
	nvllm_close(NULL);
}

static void test_refusals(void **state)
{
	struct nvllm_engine *e = open_engine((const char *const[]){ "sampler.plugin=greedy", NULL });
	struct nvllm_params p = nvllm_params_none();
	int32_t ids[2] = { 5, 6 };
	struct nvllm_request r = { .size = sizeof(r), .tokens = ids, .n_tokens = 2, .params = &p };
	uint64_t id = 0;

	p.temperature = 0.7; /* greedy does not take it */
	assert_int_equal(nvllm_submit(e, &r, &id), NVLLM_EINVAL);
	assert_non_null(strstr(nvllm_error(e), "temperature"));
	assert_non_null(strstr(nvllm_error(e), "greedy"));
	p.temperature = 0;
	p.max_tokens = 2;
	assert_int_equal(nvllm_submit(e, &r, &id), 0);
	nvllm_wait(e, id);
	ids[1] = 1111;
	assert_int_equal(nvllm_submit(e, &r, &id), NVLLM_EINVAL);
	assert_non_null(strstr(nvllm_error(e), "1111"));
	nvllm_cancel(e, 12345, NVLLM_ALL_CHOICES);
	nvllm_wait(e, 12345);
	nvllm_close(e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_same_answer),
		cmocka_unit_test(test_threads),
		cmocka_unit_test(test_steps_allocate_nothing),
		cmocka_unit_test(test_close),
		cmocka_unit_test(test_refusals),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
