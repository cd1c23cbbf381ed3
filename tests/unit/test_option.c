/* SPDX-License-Identifier: MIT */
/* Option tables, "did you mean", and the small things of the core: error sentences,
 * the log, pools, hosts. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#undef fail /* cmocka's: from here on the core's is meant */
#include "core.h"

#define SAY(...) (print_error(__VA_ARGS__), _fail(__FILE__, __LINE__))

struct need_conf { const char *input; };
struct all_conf {
	int64_t count, bytes;
	double ratio;
	int32_t flag, kind;
	const char *path;
	struct nvllm_ints sizes;
	struct nvllm_floats scales;
};

static const char *const kinds[] = { "auto", "f32", "bf16", NULL };
static const struct nvllm_option all_options[] = {
	NVLLM_INT(all_conf, count, "page_tokens", "16", 1, 1024, "tokens in a page"),
	NVLLM_SIZE(all_conf, bytes, "memory", "1M", 1, 1LL << 50, "bytes to use"),
	NVLLM_FLOAT(all_conf, ratio, "share", "0.5", 0, 1, "share of memory"),
	NVLLM_BOOL(all_conf, flag, "verify", "no", "check each step"),
	NVLLM_ENUM(all_conf, kind, "kv_dtype", "auto", kinds, "type of the cache"),
	NVLLM_STR(all_conf, path, "path", "", "a file"),
	NVLLM_INTS(all_conf, sizes, "sizes", "1 2 4", 1, 64, "batch sizes"),
	{ "scales", "scales of layers", "", NULL, -10, 10, NVLLM_OPT_FLOATS, 0,
		offsetof(struct all_conf, scales) },
	NVLLM_OPTIONS_END,
};
static const struct nvllm_option need_options[] = {
	NVLLM_STR(need_conf, input, "input", NULL, "file to read"),
	NVLLM_OPTIONS_END,
};

/* ---- tables ---- */

#define INT_AT(offset_) { "a", "h", "1", NULL, 0, 0, NVLLM_OPT_INT, 0, offset_ }

static const struct { struct nvllm_option o[3]; const char *says;
} bad_tables[] = {
	{ { { "A b", "h", "1", NULL, 0, 0, NVLLM_OPT_INT, 0, 0 } }, "option key 'A b'" },
	{ { { "", "h", "1", NULL, 0, 0, NVLLM_OPT_INT, 0, 0 } }, "option key ''" },
	{ { { "a", "h", "1", NULL, 0, 0, 0, 0, 0 } }, "type 0" },
	{ { { "a", "h", "1", NULL, 0, 0, 99, 0, 0 } }, "type 99" },
	{ { { "a", NULL, "1", NULL, 0, 0, NVLLM_OPT_INT, 0, 0 } }, "no help" },
	{ { { "a", "h", NULL, NULL, 0, 0, NVLLM_OPT_INT, 0, 0 } }, "no default" },
	{ { { "a", "h", "x", NULL, 0, 0, NVLLM_OPT_INT, 0, 0 } },
		"its default is refused: 'x' is not" },
	{ { { "a", "h", "5", NULL, 1, 4, NVLLM_OPT_INT, 0, 0 } }, "5 is outside 1..4" },
	{ { { "a", "h", "5", NULL, 4, 1, NVLLM_OPT_INT, 0, 0 } }, "bounds 4..1" },
	{ { { "a", "h", "5", NULL, (double)NAN, 1, NVLLM_OPT_INT, 0, 0 } }, "bounds" },
	{ { { "a", "h", "x", NULL, 0, 0, NVLLM_OPT_ENUM, 0, 0 } }, "ENUM without names" },
	{ { INT_AT(9) }, "bytes 9..17 of a conf struct of 16" },
	{ { INT_AT(UINT64_MAX) }, "of a conf struct of 16" },
	{ { INT_AT(UINT64_MAX - 3) }, "of a conf struct of 16" },
	{ { INT_AT(0), INT_AT(8) }, "option 'a' is in the table twice" },
};

static void test_tables(void **state)
{
	static const struct nvllm_option end = NVLLM_OPTIONS_END, fits = INT_AT(8);
	struct nvllm_option *many = calloc(1100, sizeof(*many));
	static char keys[1100][8];

	assert_non_null(many);
	assert_int_equal(option_check_table(all_options, sizeof(struct all_conf), "x"), NVLLM_OK);
	assert_int_equal(option_check_table(NULL, 0, "x"), NVLLM_OK);
	assert_int_equal(option_check_table(need_options, sizeof(struct need_conf), "x"), NVLLM_OK);
	for (size_t i = 0; i < sizeof(bad_tables) / sizeof(bad_tables[0]); i++) {
		fail_clear();
		assert_int_equal(
			option_check_table(bad_tables[i].o, 16, "attention.x"), NVLLM_EINVAL);
		assert_memory_equal(fail_text(), "attention.x: ", 13);
		if (!strstr(fail_text(), bad_tables[i].says))
			SAY("table %zu gave: %s, want: %s\n", i, fail_text(), bad_tables[i].says);
	}
	many[0] = fits, many[1] = end;
	assert_int_equal(option_check_table(many, 16, "x"), NVLLM_OK);
	assert_int_equal(option_check_table(many, 7, "x"), NVLLM_EINVAL);
	for (int i = 0; i < 1100; i++) {
		snprintf(keys[i], sizeof(keys[i]), "k%d", i);
		many[i] = fits;
		many[i].key = keys[i];
	}
	many[1099] = end;
	assert_int_equal(option_check_table(many, 16, "x"), NVLLM_EINVAL);
	assert_non_null(strstr(fail_text(), "does the table end with"));
	free(many);
}

static void test_nearest(void **state)
{
	static const char *const words[] = { "temperature", "top_k", "top_p", "min_p", "a", NULL };
	static const char *const none[] = { NULL };

	assert_string_equal(option_nearest("temprature", words), "temperature");
	assert_string_equal(option_nearest("tempreature", words), "temperature");
	assert_string_equal(option_nearest("temp", words), "temperature");
	assert_string_equal(option_nearest("top_K", words), "top_k");
	assert_string_equal(option_nearest("tpo_p", words), "top_p");
	assert_string_equal(option_nearest("top_pp", words), "top_p");
	assert_null(option_nearest("zzzz", words));
	assert_null(option_nearest("", words));
	assert_null(option_nearest("x", none));
	assert_null(option_nearest(
		"temperaturetemperaturetemperaturetemperaturetemperaturetemperature", words));
}

static void test_explain(void **state)
{
	char *out = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&out, &len);

	assert_non_null(f);
	for (const struct nvllm_option *o = all_options; o->key; o++)
		option_explain(o, f);
	option_explain(need_options, f);
	fclose(f);
	assert_non_null(strstr(out, "page_tokens = 16"));
	assert_non_null(strstr(out, "whole number, 1..1024\n      tokens in a page\n"));
	assert_non_null(strstr(out, "one of auto, f32 or bf16"));
	assert_non_null(strstr(out, "input = (must be set)"));
	free(out);
}

/* ---- sentences, memory, hosts ---- */

static void test_sentences(void **state)
{
	char text[3000];

	assert_int_equal(fail(NVLLM_EIO, "%d of %s", 3, "x"), NVLLM_EIO);
	assert_string_equal(fail_text(), "3 of x");
	assert_int_equal(fail_prefix(NVLLM_ENOMEM, "a.ini:%d: ", 4), NVLLM_ENOMEM);
	assert_string_equal(fail_text(), "a.ini:4: 3 of x");
	assert_int_equal(fail(NVLLM_OK, "%s, again", fail_text()), NVLLM_EINVAL);
	assert_string_equal(fail_text(), "a.ini:4: 3 of x, again");
	fail(NVLLM_EIO, "steer \x1b[0m");
	assert_string_equal(fail_text(), "steer ?[0m");
	for (size_t i = 0; i + 2 < sizeof(text); i += 2)
		memcpy(text + i, "\xc3\xa9", 3);
	fail(NVLLM_EIO, "%s", text);
	assert_true(strlen(fail_text()) >= 1020 && strlen(fail_text()) < 1024);
	assert_memory_equal(fail_text() + strlen(fail_text()) - 5, "\xc3\xa9...", 5);
	fail_clear();
	assert_string_equal(fail_text(), "");
}

static void test_pool(void **state)
{
	struct pool *p = pool_create();
	char *last = NULL;

	assert_non_null(p);
	for (size_t i = 0; i < 400; i++) {
		size_t n = i * 97;
		char *s = pool_alloc(p, n);

		assert_non_null(s);
		assert_int_equal((uintptr_t)s % 64, 0);
		for (size_t j = 0; j < n; j++)
			assert_int_equal(s[j], 0);
		memset(s, 'x', n);
		assert_true(!last || last[0] == 'x');
		last = n ? s : NULL;
	}
	assert_null(pool_alloc(p, SIZE_MAX));
	assert_null(pool_alloc(p, SIZE_MAX / 2));
	assert_string_equal(pool_printf(p, "%s %d", "a", 7), "a 7");
	assert_string_equal(pool_strdup(p, ""), "");
	pool_destroy(p);
	pool_destroy(NULL);
}

static void test_host(void **state)
{
	struct nvllm_host *h = host_create("attention.x", 1, 2);

	assert_non_null(h);
	assert_int_equal(h->abi, NVLLM_ABI);
	assert_int_equal(h->rank, 1);
	assert_int_equal(h->world, 2);
	assert_non_null(h->alloc(h, 100));
	assert_int_equal(h->fail(h, NVLLM_ENOTSUP, "%d heads", 3), NVLLM_ENOTSUP);
	assert_string_equal(fail_text(), "3 heads");
	assert_null(h->get(h, "nvllm.nothing/1"));
	host_step(true);
	assert_null(h->alloc(h, 8));
	assert_non_null(strstr(fail_text(), "plugin 'attention.x' called host->alloc in [step]"));
	host_step(false);
	assert_non_null(h->alloc(h, 8));
	host_destroy(h);
	host_destroy(NULL);
}

/* A line said over and over is written once; the level holds back the rest. */
static void test_log(void **state)
{
	char path[] = "/tmp/nvllm-log-XXXXXX", text[1024] = "";
	int fd = mkstemp(path), saved = dup(2);
	struct nvllm_host *h = host_create("x.y", 1, 2);

	assert_true(fd >= 0 && saved >= 0 && h);
	dup2(fd, 2);
	for (int i = 0; i < 3; i++)
		log_line(NVLLM_LOG_WARN, "x.y", "again %s", "and again");
	log_line(NVLLM_LOG_DEBUG, NULL, "not this");
	log_line(NVLLM_LOG_INFO, NULL, "bell \x07");
	h->log(h, NVLLM_LOG_ERROR, "of rank %d", 1);
	dup2(saved, 2);
	close(saved);
	assert_true(pread(fd, text, sizeof(text) - 1, 0) > 0);
	close(fd);
	unlink(path);
	host_destroy(h);
	assert_string_equal(text, "nvllm: warning: x.y: again and again\nnvllm: bell ?\n"
		"nvllm: error: x.y rank 1: of rank 1\n");
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_tables),
		cmocka_unit_test(test_nearest),
		cmocka_unit_test(test_explain),
		cmocka_unit_test(test_sentences),
		cmocka_unit_test(test_pool),
		cmocka_unit_test(test_host),
		cmocka_unit_test(test_log),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
