/* SPDX-License-Identifier: MIT */
/* test_bpe_hostile.c - vocabularies that must be refused, with a sentence that names key and
 * index, and odd ones that real files have. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "bpe_made.h"

#define K(name) "tokenizer.ggml." name

static void no_tokens(struct nvllm_loader *l)
{
	fake_set(l, K("tokens"), NVLLM_ARRAY_STR, 0, NULL);
}
static void many_tokens(struct nvllm_loader *l)
{
	fake_set(l, K("tokens"), NVLLM_ARRAY_STR, (int64_t)INT32_MAX + 1, l->tokens);
}
static void negative_tokens(struct nvllm_loader *l)
{
	fake_set(l, K("tokens"), NVLLM_ARRAY_STR, -1, l->tokens);
}
static void absent_tokens(struct nvllm_loader *l) { fake_unset(l, K("tokens")); }
static void absent_merges(struct nvllm_loader *l) { fake_unset(l, K("merges")); }
static void number_tokens(struct nvllm_loader *l)
{
	fake_set(l, K("tokens"), NVLLM_I32, 3, l->types);
}
static void number_pre(struct nvllm_loader *l) { fake_number(l, K("pre"), 3); }
static void text_types(struct nvllm_loader *l)
{
	fake_set(l, K("token_type"), NVLLM_ARRAY_STR, l->n_tokens, l->tokens);
}
static void short_types(struct nvllm_loader *l)
{
	fake_set(l, K("token_type"), NVLLM_I32, l->n_tokens - 1, l->types);
}
static void odd_type(struct nvllm_loader *l) { l->types[7] = 9; }
static void bos_out(struct nvllm_loader *l) { fake_number(l, K("bos_token_id"), l->n_tokens); }
static void eos_out(struct nvllm_loader *l) { fake_number(l, K("eos_token_id"), -1); }
static void pad_out(struct nvllm_loader *l) { fake_number(l, K("padding_token_id"), INT32_MAX); }
static void eot_out(struct nvllm_loader *l) { fake_number(l, K("eot_token_id"), INT32_MIN); }
static void eos_text(struct nvllm_loader *l) { fake_text(l, K("eos_token_id"), "2"); }
static void eos_list(struct nvllm_loader *l)
{
	fake_set(l, K("eos_token_id"), NVLLM_I32, 2, l->types);
}
static void bos_flag(struct nvllm_loader *l) { fake_number(l, K("add_bos_token"), 2); }
static void bos_none(struct nvllm_loader *l) { fake_number(l, K("add_bos_token"), 1); }
static void eos_none(struct nvllm_loader *l) { fake_number(l, K("add_eos_token"), 1); }
static void bad_utf8(struct nvllm_loader *l) { fake_token(l, "ab\xFF", 3, 1); }
static void bad_utf8_special(struct nvllm_loader *l) { fake_token(l, "\xC3", 1, 3); }
static void twice(struct nvllm_loader *l) { fake_token(l, "a", 1, 1); }
static void negative_len(struct nvllm_loader *l) { l->tokens[5].len = -1; }
static void huge_len(struct nvllm_loader *l) { l->tokens[5].len = INT64_MAX; }
static void wrapping_len(struct nvllm_loader *l) { l->tokens[5].len = (int64_t)INT32_MAX + 1; }
static void null_text(struct nvllm_loader *l)
{
	free((void *)(uintptr_t)l->tokens[5].s);
	l->tokens[5].s = NULL;
}
static void merge_space(struct nvllm_loader *l) { fake_merge_raw(l, "abc"); }
static void merge_spaces(struct nvllm_loader *l) { fake_merge_raw(l, "a b c"); }
static void merge_front(struct nvllm_loader *l) { fake_merge_raw(l, " ab"); }
static void merge_back(struct nvllm_loader *l) { fake_merge_raw(l, "ab "); }
static void merge_empty(struct nvllm_loader *l) { fake_merge_raw(l, ""); }
static void merge_left(struct nvllm_loader *l)
{
	fake_token(l, "abc", 3, 1);
	fake_merge_raw(l, "ab c");
}
static void merge_right(struct nvllm_loader *l)
{
	fake_token(l, "abc", 3, 1);
	fake_merge_raw(l, "a bc");
}
static void merge_result(struct nvllm_loader *l) { fake_merge_raw(l, "a b"); }
static void merge_len(struct nvllm_loader *l) { fake_merge(l, "a", "b"); l->merges[0].len = -3; }
static void many_merges(struct nvllm_loader *l)
{
	fake_merge(l, "a", "b");
	fake_set(l, K("merges"), NVLLM_ARRAY_STR, (int64_t)UINT32_MAX, l->merges);
}

static void test_hostile(void **state)
{
	static const struct {
		void (*spoil)(struct nvllm_loader *);
		const char *said[2];
	} rows[] = {
		{ no_tokens, { "tokenizer.ggml.tokens", "0 tokens" } },
		{ many_tokens, { "tokens", "2147483648" } },
		{ negative_tokens, { "tokens", "-1" } },
		{ absent_tokens, { "no 'tokenizer.ggml.tokens'", "" } },
		{ absent_merges, { "no 'tokenizer.ggml.merges'", "" } },
		{ number_tokens, { "tokens", "not text" } },
		{ number_pre, { "tokenizer.ggml.pre", "not text" } },
		{ text_types, { "token_type", "not whole numbers" } },
		{ short_types, { "token_type", "255" } },
		{ odd_type, { "token_type'[7]", "9" } },
		{ bos_out, { "bos_token_id", "256" } },
		{ eos_out, { "eos_token_id", "-1" } },
		{ pad_out, { "padding_token_id", "2147483647" } },
		{ eot_out, { "eot_token_id", "-2147483648" } },
		{ eos_text, { "eos_token_id", "text" } },
		{ eos_list, { "eos_token_id", "list of 2" } },
		{ bos_flag, { "add_bos_token", "2" } },
		{ bos_none, { "add_bos_token", "bos_token_id" } },
		{ eos_none, { "add_eos_token", "eos_token_id" } },
		{ bad_utf8, { "tokens'[256]", "UTF-8" } },
		{ bad_utf8_special, { "tokens'[256]", "UTF-8" } },
		{ twice, { "tokens'[256]", "[97]" } },
		{ negative_len, { "tokens'[5]", "-1" } },
		{ huge_len, { "tokens'[5]", "bytes" } },
		{ wrapping_len, { "tokens'[5]", "2147483648" } },
		{ null_text, { "tokens'[5]", "bytes" } },
		{ merge_space, { "merges'[0]", "'abc'" } },
		{ merge_spaces, { "merges'[0]", "'a b c'" } },
		{ merge_front, { "merges'[0]", "' ab'" } },
		{ merge_back, { "merges'[0]", "'ab '" } },
		{ merge_empty, { "merges'[0]", "0 bytes" } },
		{ merge_left, { "merges'[0]", "left part" } },
		{ merge_right, { "merges'[0]", "right part" } },
		{ merge_result, { "merges'[0]", "give together" } },
		{ merge_len, { "merges'[0]", "-3" } },
		{ many_merges, { "merges", "4294967295" } },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct made m;

		made_begin(&m, "gpt-2");
		rows[i].spoil(&m.l);
		if (made_open(&m) != NVLLM_EINVAL)
			fail_msg("row %zu was not refused", i);
		for (int k = 0; k < 2; k++)
			if (!strstr(m.host.said, rows[i].said[k]))
				fail_msg("row %zu: '%s' is not in '%s'", i, rows[i].said[k],
					m.host.said);
		assert_null(m.t);
		made_end(&m);
	}
}

/* What real files have, and must open: no types, tokens of equal text where one is added, a
 * vocabulary without some bytes. */
static void test_lenient(void **state)
{
	struct made m;
	int32_t id;

	made_begin(&m, "gpt-2");
	fake_unset(&m.l, K("token_type"));
	must_open(&m);
	check_words(&m, "ab", 2, 0, "a|b");
	made_end(&m);

	made_begin(&m, "gpt-2");
	fake_merge(&m.l, "a", "b");
	id = fake_token(&m.l, "ab", 2, 4);
	fake_token(&m.l, "ab", 2, 4);
	fake_token(&m.l, "b", 1, 5);
	must_open(&m);
	check_words(&m, "xab", 3, 0, "x|ab");
	{
		int32_t ids[4];

		assert_int_equal(bpe->encode(m.t, "ab", 2, 0, ids, 4), 1);
		assert_int_equal(ids[0], id);
	}
	made_end(&m);

	made_begin(&m, "gpt-2");
	m.l.n_tokens = 100;
	fake_set(&m.l, K("tokens"), NVLLM_ARRAY_STR, 100, m.l.tokens);
	fake_set(&m.l, K("token_type"), NVLLM_I32, 100, m.l.types);
	must_open(&m);
	check_words(&m, "ab\xC3\xA9" "c", 5, 0, "a|b|c");
	m.l.n_tokens = 256;
	made_end(&m);
}

/* A host without memory: a status and a sentence at every allocation, and no leak. */
static int allocs_left;

static void *stingy_alloc(const struct nvllm_host *h, size_t bytes)
{
	return allocs_left-- > 0 ? fake_alloc(h, bytes) : NULL;
}

static void test_no_memory(void **state)
{
	int rc = NVLLM_ENOMEM, tries = 0;

	for (; rc == NVLLM_ENOMEM; tries++) {
		struct made m;

		made_begin(&m, "smollm");
		fake_token(&m.l, "<x>", 3, 3);
		m.host.h.alloc = stingy_alloc;
		allocs_left = tries;
		rc = made_open(&m);
		if (rc < 0)
			assert_non_null(strstr(m.host.said, "no memory"));
		made_end(&m);
	}
	assert_int_equal(rc, 0);
	assert_true(tries > 4);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_hostile),
		cmocka_unit_test(test_lenient),
		cmocka_unit_test(test_no_memory),
	};

	return cmocka_run_group_tests(tests, made_setup, NULL);
}
