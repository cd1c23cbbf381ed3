/* SPDX-License-Identifier: MIT */
/* Rotary tables against figures from outside: the factors that llama.cpp's converter wrote
 * into a GGUF for the same configuration, and powers anyone can compute. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#undef fail

#include "engine_int.h"

/* rope_freqs.weight of tests/data/gguf/llama3.q8_0.gguf: default / llama3 frequencies. */
static const struct nvllm_rope llama3 = { .size = sizeof(llama3), .dims = 64, .theta = 500000,
	.scaling = NVLLM_ROPE_LLAMA3, .factor = 8, .low_freq_factor = 1, .high_freq_factor = 4, .original_len = 64 };

static void test_llama3(void **state)
{
	struct plugins *pl = plugins_create((const char *const[]){ NULL }, conf_env("NVLLM_PLUGIN_PATH"));
	struct source *s;
	struct nvllm_tensor_info f = { .size = sizeof(f) };
	struct nvllm_rope plain = llama3;
	float factor[32], scaled[32], base[32];
	double mscale;

	assert_int_equal(source_open(pl, NULL, "tests/data/gguf/llama3.q8_0.gguf", true, &s), 0);
	assert_int_equal(s->ref.vt->find(s->ref.loader, "rope_freqs.weight", &f), 0);
	assert_int_equal(f.cols, 32);
	assert_int_equal(s->ref.vt->read(s->ref.loader, "rope_freqs.weight", 0, 0, 1, factor), 0);
	plain.scaling = NVLLM_ROPE_DEFAULT;
	assert_int_equal(rope_table(&llama3, 0, NULL, scaled, &mscale), 0);
	assert_int_equal(rope_table(&plain, 0, NULL, base, &mscale), 0);
	for (int i = 0; i < 32; i++)
		assert_true(fabsf(base[i] / scaled[i] - factor[i]) < 1e-5f * factor[i]);
	/* all three bands are there: untouched, mixed, slowed by the whole factor */
	assert_true(factor[0] == 1 && factor[31] == 8);
	source_close(s);
	plugins_destroy(pl);
}

static void test_default_and_linear(void **state)
{
	struct nvllm_rope r = { .size = sizeof(r), .dims = 8, .theta = 10000 };
	float f[4];
	double mscale;

	assert_int_equal(rope_table(&r, 0, NULL, f, &mscale), 0);
	for (int i = 0; i < 4; i++)
		assert_true(fabs((double)f[i] - pow(10, -i)) < 1e-6 * pow(10, -i));
	r.scaling = NVLLM_ROPE_LINEAR;
	r.factor = 4;
	assert_int_equal(rope_table(&r, 0, NULL, f, &mscale), 0);
	assert_true(fabsf(f[0] - 0.25f) < 1e-7f);
	assert_true(mscale == 1);
}

/* Up to the original length nothing changes; beyond it the base grows (the figures by the
 * formula of transformers' _compute_dynamic_ntk_parameters). */
static void test_dynamic(void **state)
{
	struct nvllm_rope r = { .size = sizeof(r), .dims = 8, .theta = 10000, .scaling = NVLLM_ROPE_DYNAMIC, .factor = 2,
		.original_len = 1000 };
	double base = 10000 * pow(2 * 3000 / 1000.0 - 1, 8 / 6.0), mscale;
	float f[4];

	assert_int_equal(rope_table(&r, 500, NULL, f, &mscale), 0);
	assert_true(fabsf(f[1] - 0.1f) < 1e-7f);
	assert_int_equal(rope_table(&r, 3000, NULL, f, &mscale), 0);
	for (int i = 0; i < 4; i++)
		assert_true(fabs((double)f[i] * pow(base, i / 4.0) - 1) < 1e-5);
}

/* Fast dimensions stay, slow ones are divided by the factor, in between they fall from one
 * to the other; cos and sin grow by 0.1 ln(factor) + 1. */
static void test_yarn(void **state)
{
	struct nvllm_rope r = { .size = sizeof(r), .dims = 128, .theta = 1e6, .scaling = NVLLM_ROPE_YARN, .factor = 4,
		.beta_fast = 32, .beta_slow = 1, .original_len = 32768 };
	float f[64], plain[64], last = 1;
	double mscale, low, high;

	assert_int_equal(rope_table(&r, 0, NULL, f, &mscale), 0);
	assert_true(fabs(mscale - (0.1 * log(4) + 1)) < 1e-12);
	r.scaling = NVLLM_ROPE_DEFAULT;
	assert_int_equal(rope_table(&r, 0, NULL, plain, &mscale), 0);
	/* dimension d turns n times in L tokens where d = dims ln(L / (2 pi n)) / (2 ln theta) */
	low = floor(128 * log(32768 / (32 * 2 * 3.14159265358979)) / (2 * log(1e6)));
	high = ceil(128 * log(32768 / (2 * 3.14159265358979)) / (2 * log(1e6)));
	for (int i = 0; i < 64; i++) {
		float ratio = f[i] / plain[i];
		double mix = ((double)i - low) / (high - low), want = mix < 0 ? 0 : mix > 1 ? 1 : mix;

		assert_true(fabs((double)ratio - (want / 4 + 1 - want)) < 1e-5);
		assert_true(ratio <= last + 1e-6f);
		last = ratio;
	}
	assert_true(f[0] == plain[0] && fabsf(f[63] / plain[63] - 0.25f) < 1e-6f);
	r.scaling = NVLLM_ROPE_YARN;
	r.attention_factor = 1.5;
	assert_int_equal(rope_table(&r, 0, NULL, f, &mscale), 0);
	assert_true(mscale == 1.5);
	r.attention_factor = 0;
	r.mscale = r.mscale_all_dim = 0.7;
	assert_int_equal(rope_table(&r, 0, NULL, f, &mscale), 0);
	assert_true(mscale == 1);
}

static void test_refusals(void **state)
{
	struct nvllm_rope r = { .size = sizeof(r), .dims = 7, .theta = 10000 };
	float f[8];
	double mscale;

	assert_int_equal(rope_table(&r, 0, NULL, f, &mscale), NVLLM_EINVAL);
	r.dims = 8;
	r.scaling = NVLLM_ROPE_YARN;
	r.factor = 2;
	assert_int_equal(rope_table(&r, 0, NULL, f, &mscale), NVLLM_EINVAL);
	assert_non_null(strstr(fail_text(), "yarn"));
	r.scaling = 7;
	assert_int_equal(rope_table(&r, 0, NULL, f, &mscale), NVLLM_EINVAL);
	r.scaling = NVLLM_ROPE_LLAMA3;
	r.original_len = 8192;
	assert_int_equal(rope_table(&r, 0, NULL, f, &mscale), NVLLM_EINVAL);
	assert_non_null(strstr(fail_text(), "low_freq_factor"));
	r.low_freq_factor = r.high_freq_factor = 4; /* between them nothing could be mixed */
	assert_int_equal(rope_table(&r, 0, NULL, f, &mscale), NVLLM_EINVAL);
	r.high_freq_factor = 5;
	assert_int_equal(rope_table(&r, 0, NULL, f, &mscale), 0);
	r.scaling = NVLLM_ROPE_LINEAR;
	r.factor = 0;
	assert_int_equal(rope_table(&r, 0, NULL, f, &mscale), NVLLM_EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_llama3),
		cmocka_unit_test(test_default_and_linear),
		cmocka_unit_test(test_dynamic),
		cmocka_unit_test(test_yarn),
		cmocka_unit_test(test_refusals),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
