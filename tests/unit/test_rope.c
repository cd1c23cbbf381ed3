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
	assert_int_equal(rope_table(&llama3, NULL, scaled, &mscale), 0);
	assert_int_equal(rope_table(&plain, NULL, base, &mscale), 0);
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

	assert_int_equal(rope_table(&r, NULL, f, &mscale), 0);
	for (int i = 0; i < 4; i++)
		assert_true(fabs((double)f[i] - pow(10, -i)) < 1e-6 * pow(10, -i));
	r.scaling = NVLLM_ROPE_LINEAR;
	r.factor = 4;
	assert_int_equal(rope_table(&r, NULL, f, &mscale), 0);
	assert_true(fabsf(f[0] - 0.25f) < 1e-7f);
	assert_true(mscale == 1);
}

static void test_refusals(void **state)
{
	struct nvllm_rope r = { .size = sizeof(r), .dims = 7, .theta = 10000 };
	float f[8];
	double mscale;

	assert_int_equal(rope_table(&r, NULL, f, &mscale), NVLLM_EINVAL);
	r.dims = 8;
	r.scaling = NVLLM_ROPE_YARN;
	r.factor = 2;
	assert_int_equal(rope_table(&r, NULL, f, &mscale), NVLLM_ENOTSUP);
	assert_non_null(strstr(fail_text(), "yarn"));
	r.scaling = NVLLM_ROPE_LINEAR;
	r.factor = 0;
	assert_int_equal(rope_table(&r, NULL, f, &mscale), NVLLM_EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_llama3),
		cmocka_unit_test(test_default_and_linear),
		cmocka_unit_test(test_refusals),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
