/* SPDX-License-Identifier: MIT */
/* Many requests at once: what is shared is computed once; cancels, deadlines, priorities and
 * preemption at any moment; and after ten thousand requests nothing is left behind. */
#include <malloc.h>
#include <stdatomic.h>

#include "../sanitized.h"
#include "engine_rig.h"

#define TINY "model.path=tests/data/gguf/llama3.q8_0.gguf"

/* On the fake device the same, with steps in flight: its attention and sampler belong to it. */
#ifdef FAKE_SO
#define DEVICE "device.plugin=" FAKE_SO, "attention.plugin=" FAKE_SO, "sampler.plugin=" FAKE_SO, "graphs.sizes=2 8"
#define SLOW 4
#else
#define DEVICE "device.plugin=cpu"
#define SLOW 1
#endif

static const char *const tiny[] = { TINY, DEVICE, "engine.memory=64M", "engine.max_tokens=512", "engine.max_model_len=1024", "attention.page_tokens=16",
	NULL };

static void prompt(struct ask *k, int n_shared, int n_own, int32_t own)
{
	for (int i = 0; i < n_shared; i++)
		k->prompt[i] = 7 + i * 13 % 1000;
	for (int i = 0; i < n_own; i++)
		k->prompt[n_shared + i] = 100 + (own * 31 + i * 17) % 900;
	k->n_prompt = n_shared + n_own;
	k->n = 1;
}

static struct nvllm_stats stats_of(struct nvllm_engine *e)
{
	struct nvllm_stats s = { .size = sizeof(s) };

	nvllm_stats(e, &s);
	return s;
}

/* 16 requests with 800 tokens in common: these are computed once. */
static void check_shared(const char *cache, bool in_turn)
{
	struct nvllm_engine *e = rig_open(tiny, (const char *const[]){ cache, NULL }, NULL);
	struct ask *k = calloc(16, sizeof(*k));
	struct nvllm_stats s;

	for (int i = 0; i < 16; i++) {
		prompt(&k[i], 800, 10, i);
		k[i].max_tokens = 4;
		rig_submit(e, &k[i], 1);
		if (in_turn)
			nvllm_wait(e, k[i].id);
	}
	for (int i = 0; i < 16; i++)
		nvllm_wait(e, k[i].id);
	s = rig_quiet(e);
	assert_int_equal(s.computed_tokens, 800 + 16 * 10 + 16 * 3);
	assert_int_equal(s.cached_tokens, 15 * 800);
	assert_int_equal(s.prompt_tokens, 16 * 810);
	nvllm_close(e);
	free(k);
}

static void test_shared_prefix(void **state)
{
	check_shared("cache.plugin=hash", false);
	if (!SANITIZED) {
		check_shared("cache.plugin=hash", true);
		check_shared("cache.plugin=radix", false);
	}
	check_shared("cache.plugin=radix", true);
}

static void submit_salted(struct nvllm_engine *e, struct ask *k, const char *salt)
{
	struct nvllm_params p = nvllm_params_none();
	struct nvllm_request r = { .size = sizeof(r), .tokens = k->prompt, .n_tokens = k->n_prompt, .params = &p,
		.on_event = rig_event, .user = k };

	p.max_tokens = 1;
	p.temperature = 0;
	p.cache_salt = (struct nvllm_str){ salt, salt ? (int64_t)strlen(salt) : 0 };
	assert_int_equal(nvllm_submit(e, &r, &k->id), 0);
	nvllm_wait(e, k->id);
}

static void test_salt(void **state)
{
	struct nvllm_engine *e = rig_open(tiny, (const char *const[]){ "cache.plugin=hash", NULL }, NULL);
	static const struct { const char *salt; int cached; } turn[] = {
		{ NULL, 0 }, { NULL, 96 }, { "a", 0 }, { "b", 0 }, { "a", 96 }, { NULL, 96 },
	};
	struct ask *k = calloc(1, sizeof(*k));

	for (size_t i = 0; i < sizeof(turn) / sizeof(*turn); i++) {
		memset(k, 0, sizeof(*k));
		prompt(k, 100, 0, 0);
		submit_salted(e, k, turn[i].salt);
		assert_int_equal(k->a[0].usage.n_cached, turn[i].cached);
	}
	nvllm_close(e);
	free(k);
}

/* n = 3: the prompt once, and one row of it again for each further choice. */
static void test_choices_share(void **state)
{
	struct nvllm_engine *e = rig_open(tiny, NULL, NULL);
	struct ask *k = calloc(1, sizeof(*k));
	struct nvllm_stats s;

	prompt(k, 70, 0, 0);
	k->n = RIG_CHOICES;
	k->max_tokens = 12;
	k->temperature = 1;
	rig_submit(e, k, 5);
	nvllm_wait(e, k->id);
	s = rig_quiet(e);
	assert_int_equal(s.computed_tokens, 70 + (RIG_CHOICES - 1) + RIG_CHOICES * 11);
	assert_int_equal(s.finished, RIG_CHOICES);
	assert_int_equal(k->a[0].usage.n_cached, 0);
	assert_int_equal(k->a[1].usage.n_cached, 69);
	assert_memory_not_equal(k->a[0].ids, k->a[1].ids, 12 * sizeof(int32_t)); /* drawn on their own */
	nvllm_close(e);
	free(k);
}

/* ---- ending early ---- */

struct ender {
	struct ask ask;
	struct nvllm_engine *e;
	int32_t at, choice;     /* cancels `choice` at its at-th token */
};

static void ender_event(void *user, const struct nvllm_event *ev)
{
	struct ender *d = user;

	rig_event(&d->ask, ev);
	if (ev->type == NVLLM_EVENT_TOKENS && ev->choice == d->choice && d->ask.a[ev->choice].n == d->at) {
		nvllm_cancel(d->e, ev->id, d->choice);
		nvllm_cancel(d->e, ev->id, d->choice); /* twice is once */
	}
}

static void submit_with(struct nvllm_engine *e, struct ender *d, const struct nvllm_params *p)
{
	struct nvllm_request r = { .size = sizeof(r), .tokens = d->ask.prompt, .n_tokens = d->ask.n_prompt, .params = p,
		.on_event = ender_event, .user = d };

	d->e = e;
	if (nvllm_submit(e, &r, &d->ask.id))
		fail_msg("submit: %s", nvllm_error(e));
}

static void test_cancel_one_of_n(void **state)
{
	struct nvllm_engine *e = rig_open(tiny, NULL, NULL);
	struct ender *d = calloc(2, sizeof(*d));
	struct nvllm_params p = nvllm_params_none();

	p.n = RIG_CHOICES;
	p.max_tokens = 40;
	p.seed = 3;
	p.ignore_eos = 1;
	p.temperature = 1;
	for (int i = 0; i < 2; i++) {
		prompt(&d[i].ask, 30, 0, 0);
		d[i].choice = i ? 1 : -2;
		d[i].at = 5;
		submit_with(e, &d[i], &p);
		nvllm_wait(e, d[i].ask.id);
		assert_int_equal(d[i].ask.dones, RIG_CHOICES);
		assert_int_equal(d[i].ask.last_left, 0);
	}
	assert_int_equal(d[1].ask.a[1].finish, NVLLM_FINISH_CANCEL);
	assert_int_equal(d[1].ask.a[1].n, 5);
	for (int c = 0; c < RIG_CHOICES; c += 2) { /* the others are as if nothing had been */
		assert_int_equal(d[1].ask.a[c].finish, NVLLM_FINISH_LENGTH);
		assert_memory_equal(d[1].ask.a[c].ids, d[0].ask.a[c].ids, sizeof(int32_t) * 40);
	}
	rig_quiet(e);
	nvllm_close(e);
	free(d);
}

static void wait_for_rows(struct nvllm_engine *e, int64_t n)
{
	while (stats_of(e).computed_tokens < n)
		nanosleep(&(struct timespec){ .tv_nsec = 100000 }, NULL);
}

/* In the middle of a prompt's chunks; and one that never left the queue. */
static void test_cancel_early(void **state)
{
	struct nvllm_engine *e = rig_open(tiny, (const char *const[]){ "engine.max_tokens=1", "engine.max_seqs=1",
		"cache.plugin=radix", NULL }, NULL);
	struct ask *k = calloc(3, sizeof(*k));

	for (int i = 0; i < 3; i++) {
		prompt(&k[i], i < 2 ? 900 : 9, 0, i);
		k[i].max_tokens = 5;
		rig_submit(e, &k[i], 1);
	}
	wait_for_rows(e, 10);
	nvllm_cancel(e, k[1].id, NVLLM_ALL_CHOICES);
	nvllm_cancel(e, k[1].id, NVLLM_ALL_CHOICES);
	nvllm_wait(e, k[1].id);
	assert_int_equal(k[1].a[0].finish, NVLLM_FINISH_CANCEL);
	assert_int_equal(k[1].a[0].usage.started_ns, 0);
	nvllm_cancel(e, k[0].id, 0);
	nvllm_cancel(e, k[0].id, 0);
	for (int i = 0; i < 3; i++)
		nvllm_wait(e, k[i].id);
	assert_int_equal(k[0].a[0].finish, NVLLM_FINISH_CANCEL);
	assert_int_equal(k[0].a[0].n, 0);
	assert_int_equal(k[2].a[0].finish, NVLLM_FINISH_LENGTH);
	assert_true(stats_of(e).computed_tokens < 900);
	assert_int_equal(rig_quiet(e).cancelled, 2);
	nvllm_close(e);
	free(k);
}

static void test_timeout(void **state)
{
	struct nvllm_engine *e = rig_open(tiny, (const char *const[]){ "engine.max_seqs=1", "engine.max_tokens=2", NULL }, NULL);
	struct ender *d = calloc(3, sizeof(*d));
	struct nvllm_params p = nvllm_params_none();

	p.ignore_eos = 1;
	for (int i = 0; i < 3; i++) { /* the first runs into it, the second waits into it, the third is in time */
		prompt(&d[i].ask, 20, 0, i);
		d[i].choice = -2;
		p.timeout = i < 2 ? 0.02 : 1000;
		p.max_tokens = i < 2 ? 1000 : 3;
		submit_with(e, &d[i], &p);
	}
	for (int i = 0; i < 3; i++)
		nvllm_wait(e, d[i].ask.id);
	assert_int_equal(d[0].ask.a[0].finish, NVLLM_FINISH_TIMEOUT);
	assert_int_equal(d[1].ask.a[0].finish, NVLLM_FINISH_TIMEOUT);
	assert_int_equal(d[2].ask.a[0].finish, NVLLM_FINISH_LENGTH);
	rig_quiet(e);
	nvllm_close(e);
	free(d);
}

/* ---- order ---- */

struct turn { struct ask ask; int32_t *order, *n; int32_t me; };

static void turn_event(void *user, const struct nvllm_event *ev)
{
	struct turn *t = user;

	if (ev->type == NVLLM_EVENT_DONE)
		t->order[(*t->n)++] = t->me;
}

static void check_order(const char *set, const int64_t *priority, const int *length, const int32_t *want)
{
	struct nvllm_engine *e = rig_open(tiny, (const char *const[]){ "engine.max_seqs=1", "engine.max_tokens=8", set, NULL }, NULL);
	struct turn *t = calloc(5, sizeof(*t));
	int32_t order[5], n = 0;

	/* the first keeps the engine busy while the others come */
	for (int i = 0; i < 5; i++) {
		struct nvllm_params p = nvllm_params_none();
		struct nvllm_request r = { .size = sizeof(r), .tokens = t[i].ask.prompt, .params = &p, .on_event = turn_event,
			.user = &t[i] };

		prompt(&t[i].ask, i ? length[i - 1] : 600, 0, 0);
		t[i].order = order, t[i].n = &n, t[i].me = i;
		r.n_tokens = t[i].ask.n_prompt;
		p.max_tokens = i ? 2 : 100;
		p.ignore_eos = 1;
		p.priority = i ? priority[i - 1] : -1000;
		assert_int_equal(nvllm_submit(e, &r, &t[i].ask.id), 0);
		if (!i)
			wait_for_rows(e, 1);
	}
	for (int i = 0; i < 5; i++)
		nvllm_wait(e, t[i].ask.id);
	assert_int_equal(order[0], 0);
	for (int i = 0; i < 4; i++)
		assert_int_equal(order[i + 1], want[i]);
	nvllm_close(e);
	free(t);
}

static void test_order(void **state)
{
	check_order("engine.order=arrival", (const int64_t[]){ 0, 0, 0, 0 }, (const int[]){ 5, 50, 20, 9 },
		(const int32_t[]){ 1, 2, 3, 4 });
	check_order("engine.order=arrival", (const int64_t[]){ 2, 1, 1, -7 }, (const int[]){ 5, 50, 20, 9 },
		(const int32_t[]){ 4, 2, 3, 1 });
	check_order("engine.order=longest-first", (const int64_t[]){ 0, 0, 0, 1 }, (const int[]){ 5, 50, 20, 900 },
		(const int32_t[]){ 2, 3, 1, 4 });
}

static void test_refusals(void **state)
{
	struct nvllm_engine *e = rig_open(tiny, NULL, NULL);
	int32_t ids[2] = { 5, 6 };
	struct nvllm_params p;
	struct nvllm_request r = { .size = sizeof(r), .tokens = ids, .n_tokens = 2, .params = &p };
	static const int64_t n[] = { 0, -1, NVLLM_MAX_CHOICES + 1, INT64_MAX };
	static const double timeout[] = { 0, -1, 1e10, (double)INFINITY };
	uint64_t id;

	for (int i = 0; i < 4; i++) {
		p = nvllm_params_none();
		p.n = n[i];
		assert_int_equal(nvllm_submit(e, &r, &id), NVLLM_EINVAL);
		assert_non_null(strstr(nvllm_error(e), "n is"));
		p = nvllm_params_none();
		p.timeout = timeout[i];
		assert_int_equal(nvllm_submit(e, &r, &id), NVLLM_EINVAL);
		assert_non_null(strstr(nvllm_error(e), "timeout"));
	}
	p = nvllm_params_none();
	p.cache_salt = (struct nvllm_str){ "", 0 };
	assert_int_equal(nvllm_submit(e, &r, &id), NVLLM_EINVAL);
	assert_non_null(strstr(nvllm_error(e), "cache_salt"));
	nvllm_close(e);
}

/* Figures that cannot be, which nothing may follow into memory. */
static void test_hostile_requests(void **state)
{
	struct nvllm_engine *e = rig_open(tiny, NULL, NULL);
	int32_t ids[2] = { 5, 6 };
	struct nvllm_str stop = { "x", INT64_MAX };
	struct nvllm_params p = nvllm_params_none();
	struct nvllm_request r = { .size = sizeof(r), .tokens = ids, .n_tokens = 2, .params = &p };
	static const int64_t bad[] = { -1, INT64_MIN, NVLLM_UNSET };
	uint64_t id;

	for (int i = 0; i < 3; i++) {
		r.n_tokens = bad[i];
		assert_int_equal(nvllm_submit(e, &r, &id), NVLLM_EINVAL);
		r.n_tokens = 2;
		p.n_stops = bad[i];
		p.stops = &stop;
		assert_int_equal(nvllm_submit(e, &r, &id), NVLLM_EINVAL);
		assert_non_null(strstr(nvllm_error(e), "stop"));
		p.n_stops = 0;
	}
	p.n_stops = 1;
	assert_int_equal(nvllm_submit(e, &r, &id), NVLLM_EINVAL);
	p.n_stops = 0;
	r.tokens = NULL;
	r.prompt = (struct nvllm_str){ "x", -5 };
	assert_int_equal(nvllm_submit(e, &r, &id), NVLLM_EINVAL);
	nvllm_close(e);
}

struct late { struct nvllm_engine *e; int status, dones; };

static void late_event(void *user, const struct nvllm_event *ev)
{
	struct late *l = user;
	int32_t id = 5;
	uint64_t name;

	if (ev->type != NVLLM_EVENT_DONE)
		return;
	l->dones++;
	l->status = nvllm_submit(l->e, &(struct nvllm_request){ .size = sizeof(struct nvllm_request), .tokens = &id,
		.n_tokens = 1, .on_event = late_event, .user = l }, &name);
}

/* A callback that submits while the engine is being closed is told so. */
static void test_submit_at_close(void **state)
{
	struct nvllm_engine *e = rig_open(tiny, NULL, NULL);
	struct late l = { .e = e, .status = 1 };
	int32_t id = 5;
	uint64_t name;

	assert_int_equal(nvllm_submit(e, &(struct nvllm_request){ .size = sizeof(struct nvllm_request), .tokens = &id,
		.n_tokens = 1, .on_event = late_event, .user = &l }, &name), 0);
	nvllm_close(e);
	assert_int_equal(l.status, NVLLM_ECANCEL);
}

/* ---- ten thousand ---- */

enum { FLOOD = (SANITIZED ? 360 : 10000) / SLOW, WINDOW = 24 };

struct flood { atomic_int over, dones, events_late; int32_t left; };

static void flood_event(void *user, const struct nvllm_event *ev)
{
	struct flood *f = user;

	f->events_late += f->over;
	if (ev->type != NVLLM_EVENT_DONE)
		return;
	f->dones++;
	f->over = ev->n_left == 0;
}

static uint64_t flood_submit(struct nvllm_engine *e, struct flood *f, unsigned *seed)
{
	struct nvllm_params p = nvllm_params_none();
	static int32_t ids[1024];
	struct nvllm_request r = { .size = sizeof(r), .tokens = ids, .params = &p, .on_event = flood_event, .user = f };
	int32_t family = rand_r(seed) % 6, most = rand_r(seed) % 20 ? 40 : 150;
	uint64_t id = 0;

	r.n_tokens = 1 + rand_r(seed) % most;
	for (int64_t i = 0; i < r.n_tokens; i++)
		ids[i] = (int32_t)((family * 97 + i * 13 + (i > 30 ? rand_r(seed) : 0)) % 1000);
	p.max_tokens = 1 + rand_r(seed) % 24;
	p.n = rand_r(seed) % 8 ? 1 : 1 + rand_r(seed) % 4;
	p.priority = rand_r(seed) % 3;
	p.temperature = rand_r(seed) % 2;
	p.prompt_logprobs = rand_r(seed) % 16 ? NVLLM_UNSET : 1;
	p.timeout = rand_r(seed) % 10 ? (double)NAN : 1e-4 * (1 + rand_r(seed) % 200);
	p.cache_salt = (struct nvllm_str){ rand_r(seed) % 4 ? NULL : "salt", 4 };
	f->over = f->dones = f->events_late = 0;
	f->left = (int32_t)p.n;
	if (nvllm_submit(e, &r, &id))
		fail_msg("submit: %s", nvllm_error(e));
	if (rand_r(seed) % 10 == 0)
		nvllm_cancel(e, id, rand_r(seed) % 2 ? NVLLM_ALL_CHOICES : 0);
	return id;
}

static void flood_wait(struct nvllm_engine *e, struct flood *f, uint64_t id, unsigned *seed)
{
	if (rand_r(seed) % 12 == 0)
		nvllm_cancel(e, id, NVLLM_ALL_CHOICES);
	nvllm_wait(e, id);
	assert_int_equal(f->dones, f->left);
	assert_int_equal(f->events_late, 0);
}

/* Bytes that malloc has given out. */
static size_t in_use(void) { return SANITIZED ? 0 : mallinfo2().uordblks; }

static void flood(const char *cache, const char *order, int n)
{
	static const char *const base[] = { TINY, DEVICE, "engine.max_model_len=200", "engine.max_seqs=12", "engine.max_tokens=64",
		"attention.page_tokens=4", NULL };
	const char *more[] = { cache, order, NULL };
	char memory[64];
	struct nvllm_engine *e;
	struct flood f[WINDOW];
	uint64_t id[WINDOW] = { 0 };
	unsigned seed = 7;
	size_t early = 0, late;
	struct nvllm_stats s;

	rig_memory(memory, sizeof(memory), base, more, 56); /* tight: about one long request */
	e = rig_open(base, more, (const char *const[]){ memory, NULL });
	for (int i = 0; i < n; i++) {
		int at = i % WINDOW;

		if (id[at])
			flood_wait(e, &f[at], id[at], &seed);
		id[at] = flood_submit(e, &f[at], &seed);
		if (i == n / 4) {
			for (int k = 0; k < WINDOW; k++)
				if (id[k])
					flood_wait(e, &f[k], id[k], &seed);
			memset(id, 0, sizeof(id));
			rig_quiet(e);
			early = in_use();
		}
	}
	for (int k = 0; k < WINDOW; k++)
		if (id[k])
			flood_wait(e, &f[k], id[k], &seed);
	s = rig_quiet(e);
	late = in_use();
	assert_true(s.preempted > 0);
	assert_true(s.cancelled > 0);
	assert_int_equal(s.failed, 0);
	/* malloc's own caches come and go; one small piece lost a request would be 32 bytes each */
	if (late > early + 65536 + 8 * (size_t)n)
		fail_msg("%zu bytes in use after %d requests, %zu after %d", early, n / 4, late, n);
	print_message("%s: %ld finished, %ld cancelled or late, %ld preemptions, %ld of %ld prompt tokens cached\n", cache,
		(long)s.finished, (long)s.cancelled, (long)s.preempted, (long)s.cached_tokens, (long)s.prompt_tokens);
	nvllm_close(e);
}

static void test_flood(void **state)
{
	flood("cache.plugin=hash", "engine.order=arrival", FLOOD);
	flood("cache.plugin=radix", "engine.order=longest-first", FLOOD / 4);
	flood("cache.plugin=none", "engine.order=arrival", FLOOD / 4);
#ifndef FAKE_SO
	flood("cache.plugin=hash", "engine.tp=2", FLOOD / 10);
#endif
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_shared_prefix),
		cmocka_unit_test(test_salt),
		cmocka_unit_test(test_choices_share),
		cmocka_unit_test(test_cancel_one_of_n),
		cmocka_unit_test(test_cancel_early),
		cmocka_unit_test(test_timeout),
		cmocka_unit_test(test_order),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_hostile_requests),
		cmocka_unit_test(test_submit_at_close),
		cmocka_unit_test(test_flood),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
