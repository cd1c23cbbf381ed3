/* SPDX-License-Identifier: MIT */
/* The same answer every time. A request's logits are bitwise the same alone and in a crowd,
 * whatever the chunks, the cache, preemption and the threads; across attention plugins and
 * ranks they are within rounding. */
#include <math.h>

#include "same_rig.h"

#define SMOL "model.path=models/SmolLM2-135M-Instruct.Q4_1.gguf"

static const struct arm bitwise[] = {
	{ "crowd", { NULL } },
	{ "crowd of 5", { "engine.max_seqs=5", NULL } },
	{ "chunks of 1", { "engine.max_tokens=1", NULL } },
	{ "chunks of 7", { "engine.max_tokens=7", NULL } },
	{ "chunks of 64", { "engine.max_tokens=64", NULL } },
	{ "longest first", { "engine.order=longest-first", "engine.max_seqs=3", NULL } },
	{ "hash", { "cache.plugin=hash", NULL }, .twice = true, .hits = true },
	{ "hash, chunks of 7, few sequences", { "cache.plugin=hash", "engine.max_tokens=7", "engine.max_seqs=2", NULL },
		.hits = true },
	{ "hash of 8 bits", { "cache.plugin=hash", "cache.hash_bits=8", NULL }, .twice = true, .hits = true },
	{ "radix", { "cache.plugin=radix", NULL }, .twice = true, .hits = true },
	{ "radix, alone", { "cache.plugin=radix", NULL }, .alone = true, .twice = true, .hits = true },
	{ "two threads", { "device.threads=2", NULL } },
	{ "two threads, chunks of 7, hash", { "device.threads=2", "engine.max_tokens=7", "cache.plugin=hash", NULL },
		.twice = true, .hits = true },
	{ "preempted", { NULL }, .n_pages = 30 },
	{ "preempted, hash", { "cache.plugin=hash", NULL }, .n_pages = 30 },
	{ "preempted, radix, chunks of 7, two threads", { "cache.plugin=radix", "engine.max_tokens=7", "device.threads=2",
		NULL }, .n_pages = 30 },
};

static void test_tiny_bitwise(void **state)
{
	struct fixture f = { .model = { TINY, "engine.max_model_len=256", "attention.page_tokens=8", "device.threads=1", NULL },
		.page_scale = 200 };
	struct nvllm_stats s;

	tiny_prompts(&f);
	baseline(&f, f.model);
	for (size_t i = 0; i < sizeof(bitwise) / sizeof(*bitwise); i += quick() ? 3 : 1)
		run_arm(&f, &bitwise[i], &s);
	/* the rule holds for each attention plugin on its own */
	f.model[4] = "attention.plugin=naive";
	baseline(&f, f.model);
	for (size_t i = 0; i < sizeof(bitwise) / sizeof(*bitwise); i += quick() ? 8 : 3)
		run_arm(&f, &bitwise[i], &s);
	drop(&f);
}

static const char *const texts[] = {
	"The capital of France is", "Once upon a time, in a small village near the sea, there lived",
	"def fibonacci(n):\n    ", "Water boils at a temperature of",
	"The capital of France is Paris. The capital of Italy is", "Q: What is 2 + 2?\nA:",
};

/* False: no model, the test is skipped. */
static bool smol_prompts(struct fixture *f, int max_tokens)
{
	struct nvllm_engine *e;
	FILE *there = fopen("models/SmolLM2-135M-Instruct.Q4_1.gguf", "rb");

	if (!there)
		return false;
	fclose(there);
	make(f, 6);
	e = rig_open(f->model, NULL, NULL);
	for (int i = 0; i < f->n; i++) {
		struct ask *k = &f->want[i];

		k->n_prompt = (int32_t)nvllm_encode(e, texts[i], (int64_t)strlen(texts[i]), 0, k->prompt, 100);
		assert_true(k->n_prompt > 0);
		k->max_tokens = max_tokens;
		k->top = RIG_TOP;
		k->n = i == 3 ? 2 : 1;
		k->temperature = i % 2 ? 0.7 : 0;
	}
	nvllm_close(e);
	return true;
}

static void test_smol_bitwise(void **state)
{
	struct fixture f = { .model = { SMOL, "engine.max_model_len=128", "attention.page_tokens=4", "device.threads=1",
		"sampler.temperature=1", "sampler.top_p=1", NULL }, .page_scale = 120 };
	struct nvllm_stats s;

	if (quick() || !smol_prompts(&f, 24))
		skip();
	baseline(&f, f.model);
	for (size_t i = 0; i < sizeof(bitwise) / sizeof(*bitwise); i++)
		run_arm(&f, &bitwise[i], &s);
	drop(&f);
}

/* ---- within rounding ---- */

static const struct arm close_arms[] = {
	{ "naive", { "attention.plugin=naive", NULL } },
	{ "tp 2", { "engine.tp=2", NULL } },
	{ "tp 4", { "engine.tp=4", NULL } },
	{ "tp 3, hash, chunks of 7", { "engine.tp=3", "cache.plugin=hash", "engine.max_tokens=7", NULL } },
	{ "tp 2, naive", { "engine.tp=2", "attention.plugin=naive", NULL } },
};

/* The same tokens, each within 1e-4, up to one whose margin to the next is below 1e-3. */
static double compare_close(const struct answer *w, const struct answer *g, const char *arm, int prompt)
{
	double worst = 0;

	for (int t = 0; t < w->n && t < g->n; t++) {
		double d = fabs((double)w->logprob[t] - (double)g->logprob[t]);

		if (w->ids[t] != g->ids[t]) {
			if (w->top[t][0] - w->top[t][1] >= 1e-3f)
				fail_msg("%s: prompt %d: token %d is %d instead of %d, though the margin is %g", arm, prompt, t,
					g->ids[t], w->ids[t], (double)(w->top[t][0] - w->top[t][1]));
			return worst; /* from here on they are different texts */
		}
		for (int i = 0; i < RIG_TOP; i++)
			d = fmax(d, fabs((double)w->top[t][i] - (double)g->top[t][i]));
		if (!(d <= 1e-4))
			fail_msg("%s: prompt %d: log probability of token %d is off by %g", arm, prompt, t, d);
		worst = fmax(worst, d);
	}
	assert_int_equal(w->n, g->n);
	return worst;
}

static void run_close(struct fixture *f)
{
	for (int i = 0; i < f->n; i++) {
		f->want[i].temperature = 0;
		f->want[i].n = 1;
	}
	baseline(f, f->model);
	for (size_t i = 0; i < sizeof(close_arms) / sizeof(*close_arms); i++) {
		const struct arm *m = &close_arms[i];
		struct nvllm_engine *e = rig_open(f->model, m->sets, (const char *const[]){ "engine.memory=900M", NULL });
		double worst = 0;

		memcpy(f->got, f->want, (size_t)f->n * sizeof(*f->got));
		run(e, f->got, f->n, false);
		rig_quiet(e);
		nvllm_close(e);
		for (int k = 0; k < f->n; k++)
			worst = fmax(worst, compare_close(&f->want[k].a[0], &f->got[k].a[0], m->name, k));
		print_message("%s: largest error of a log probability %.2g\n", m->name, worst);
	}
}

static void test_tiny_close(void **state)
{
	struct fixture f = { .model = { TINY, "engine.max_model_len=256", "device.activations=f32", "engine.kv_dtype=f32",
		"device.threads=1", NULL } };

	tiny_prompts(&f);
	run_close(&f);
	drop(&f);
}

static void test_smol_close(void **state)
{
	struct fixture f = { .model = { SMOL, "engine.max_model_len=128", "device.activations=f32", "engine.kv_dtype=f32",
		"device.threads=1", NULL } };

	if (quick() || !smol_prompts(&f, 24))
		skip();
	run_close(&f);
	drop(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_tiny_bitwise),
		cmocka_unit_test(test_tiny_close),
		cmocka_unit_test(test_smol_bitwise),
		cmocka_unit_test(test_smol_close),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
