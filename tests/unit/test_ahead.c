/* SPDX-License-Identifier: MIT */
/* Running ahead and replaying graphs, on a fake device that does its work as late as it may:
 * tokens reach the host steps after they were drawn, requests end while steps with them are
 * in flight, and the answers are those of the CPU device, bit for bit. */
#include "same_rig.h"

#define FAKE "device.plugin=" FAKE_SO, "attention.plugin=" FAKE_SO, "sampler.plugin=" FAKE_SO

struct ahead { struct arm arm; int32_t depth; bool graphs; };

static const struct ahead arms[] = {
	{ { "depth 0", { "engine.run_ahead=0", "graphs.capture=off", NULL } }, 0, false },
	{ { "depth 1", { "engine.run_ahead=1", "graphs.capture=off", NULL } }, 1, false },
	{ { "depth 2", { "engine.run_ahead=2", "graphs.capture=off", NULL } }, 2, false },
	{ { "depth 3, chunks of 7", { "engine.run_ahead=3", "graphs.capture=off", "engine.max_tokens=7", NULL } }, 3, false },
	{ { "graphs, depth 0", { "engine.run_ahead=0", "graphs.sizes=1 2 4 8 16 32", NULL } }, 0, true },
	{ { "graphs, depth 2", { "engine.run_ahead=2", "graphs.sizes=3 25", "device.compare=true", NULL } }, 2, true },
	{ { "graphs at startup, depth 3, hash", { "engine.run_ahead=3", "graphs.capture=startup", "cache.plugin=hash", NULL },
		.twice = true, .hits = true }, 3, true },
	{ { "preempted, depth 2", { "engine.run_ahead=2", NULL }, .n_pages = 60 }, 2, true },
	{ { "preempted, depth 3, radix, chunks of 7", { "engine.run_ahead=3", "cache.plugin=radix", "engine.max_tokens=7",
		NULL }, .n_pages = 60 }, 3, true },
	{ { "a sampler on the host, out of reach", { "sampler.plugin=topk_topp", NULL } }, 0, false },
	{ { "a recording fails", { "device.fail_capture=2", "core.log_level=error", NULL } }, 2, true },
};

static void test_same_as_cpu(void **state)
{
	static const char *const cpu[] = { TINY, "engine.max_model_len=256", "attention.page_tokens=8", "attention.plugin=naive",
		"device.threads=1", NULL };
	struct fixture f = { .model = { TINY, "engine.max_model_len=256", "attention.page_tokens=8", FAKE, NULL },
		.page_scale = 100 };
	struct nvllm_stats s;

	tiny_prompts(&f);
	baseline(&f, cpu);
	for (size_t i = quick(); i < sizeof(arms) / sizeof(*arms); i += quick() ? 3 : 1) {
		run_arm(&f, &arms[i].arm, &s);
		assert_int_equal(s.run_ahead, arms[i].depth);
		if (arms[i].graphs ? !s.graph_steps : s.graph_steps)
			fail_msg("%s: %ld steps were replayed", arms[i].arm.name, (long)s.graph_steps);
	}
	drop(&f);
}

/* A device fault ends the requests of that step, with a sentence; the others go on. */
static void test_step_fails(void **state)
{
	static const char *const model[] = { TINY, "engine.max_model_len=256", FAKE, "device.fail_step=500", NULL };
	struct nvllm_engine *e = rig_open(model, (const char *const[]){ "engine.max_seqs=2", "engine.run_ahead=2",
		"graphs.capture=off", "engine.max_tokens=512", "engine.memory=64M", NULL }, NULL);
	struct ask *k = calloc(6, sizeof(*k));
	int failed = 0, whole = 0;
	struct nvllm_stats s;

	for (int i = 0; i < 6; i++) {
		k[i].n_prompt = 3 + i;
		for (int t = 0; t < k[i].n_prompt; t++)
			k[i].prompt[t] = 10 + i * 7 + t;
		k[i].max_tokens = 20;
		k[i].n = 1;
		rig_submit(e, &k[i], 1);
	}
	for (int i = 0; i < 6; i++) {
		nvllm_wait(e, k[i].id);
		failed += k[i].a[0].finish == NVLLM_FINISH_ERROR;
		whole += k[i].a[0].finish == NVLLM_FINISH_LENGTH && k[i].a[0].n == 20;
	}
	assert_in_range(failed, 1, 4); /* of two at once; steps queued behind it may fail too */
	assert_int_equal(failed + whole, 6);
	s = rig_quiet(e);
	assert_int_equal(s.failed, failed);
	assert_int_equal(s.pages_used, s.pages_cached);
	nvllm_close(e);
	free(k);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_same_as_cpu),
		cmocka_unit_test(test_step_fails),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
