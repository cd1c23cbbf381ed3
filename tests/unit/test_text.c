/* SPDX-License-Identifier: MIT */
/* Tokens to text: the pieces join to the whole, no piece ends within a character or within
 * what may become a stop text, and the earliest stop text ends it - however the bytes are
 * cut into tokens. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#undef fail

#include "engine_int.h"
#include "utf8.h"

struct run { char out[4096]; size_t len; const char *stop; };

/* Feeds s cut at random into tokens of at most 5 bytes. */
static void feed(struct run *r, const char *s, size_t len, const struct nvllm_str *stops, int n)
{
	struct text *t = text_create(stops, n, 5);
	size_t at = 0;

	memset(r, 0, sizeof(*r));
	while (at < len && !r->stop) {
		size_t k = 1 + (size_t)rand() % 5;
		struct nvllm_str piece;
		static char stop_copy[64];

		k = k > len - at ? len - at : k;
		r->stop = text_push(t, s + at, (int32_t)k, -1, true);
		if (r->stop)
			r->stop = strcpy(stop_copy, r->stop);
		at += k;
		piece = text_take(t, r->stop != NULL);
		assert_int_equal(utf8_check(piece.s, (size_t)piece.len), piece.len);
		memcpy(r->out + r->len, piece.s, (size_t)piece.len);
		r->len += (size_t)piece.len;
	}
	if (!r->stop) {
		struct nvllm_str piece = text_take(t, true);

		memcpy(r->out + r->len, piece.s, (size_t)piece.len);
		r->len += (size_t)piece.len;
	}
	text_destroy(t);
}

static void test_whole(void **state)
{
	const char *s = "na\xC3\xAFve caf\xC3\xA9 \xE2\x82\xAC \xF0\x9F\x98\x80 end";
	struct run r;

	for (int i = 0; i < 500; i++) {
		feed(&r, s, strlen(s), NULL, 0);
		assert_string_equal(r.out, s);
	}
}

static void test_broken_bytes(void **state)
{
	struct run r;

	for (int i = 0; i < 100; i++) {
		feed(&r, "a\xFFz\xE2\x82", 5, NULL, 0);
		assert_string_equal(r.out, "a\xEF\xBF\xBDz\xEF\xBF\xBD");
	}
}

static void test_stops(void **state)
{
	static const struct { const char *text, *stop[2], *out, *hit; } t[] = {
		{ "one two three", { "two", NULL }, "one ", "two" },
		{ "one two three", { "four", NULL }, "one two three", NULL },
		{ "aaab", { "aab", NULL }, "a", "aab" },
		{ "ababac", { "abac", NULL }, "ab", "abac" },
		{ "xx\xC3\xA9y", { "\xC3\xA9", NULL }, "xx", "\xC3\xA9" },
		{ "end\n\nmore", { "\n\n", NULL }, "end", "\n\n" },
		{ "late then early", { "early", "then" }, "late ", "then" },
		{ "stop", { "stop", NULL }, "", "stop" },
		{ "sto", { "stop", NULL }, "sto", NULL },
		{ "okEND\xE2\x80", { "END", NULL }, "ok", "END" },
	};
	struct run r;

	for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++)
		for (int k = 0; k < 200; k++) {
			struct nvllm_str stops[2];
			int n = 0;

			for (; n < 2 && t[i].stop[n]; n++)
				stops[n] = (struct nvllm_str){ t[i].stop[n], (int64_t)strlen(t[i].stop[n]) };
			feed(&r, t[i].text, strlen(t[i].text), stops, n);
			assert_string_equal(r.out, t[i].out);
			if (t[i].hit)
				assert_string_equal(r.stop, t[i].hit);
			else
				assert_null(r.stop);
		}
}

/* Byte tokens of -1-ended rows between pieces: what is sent after each. */
static void test_byte_tokens(void **state)
{
	struct text *t = text_create(NULL, 0, 8);
	/* the euro sign; a byte that begins nothing; a cut character before a piece and at the end */
	static const int bytes[] = { 0xE2, 0x82, 0xAC, 0xFF, 0x41, -1, 0xE2, 0x82, -1, 0xE2 };
	static const char *const sent[] = { "", "", "\xE2\x82\xAC", "\xEF\xBF\xBD", "\xEF\xBF\xBD", "ab", "", "",
		("\xEF\xBF\xBD\xEF\xBF\xBD" "ab"), "" };
	struct nvllm_str s;

	for (size_t i = 0; i < sizeof(bytes) / sizeof(*bytes); i++) {
		char c = (char)bytes[i];

		text_push(t, bytes[i] < 0 ? "ab" : &c, bytes[i] < 0 ? 2 : 1, bytes[i], true);
		s = text_take(t, false);
		assert_int_equal(s.len, strlen(sent[i]));
		assert_memory_equal(s.s, sent[i], s.len);
	}
	s = text_take(t, true);
	assert_int_equal(s.len, 3);
	assert_memory_equal(s.s, "\xEF\xBF\xBD", 3);
	text_destroy(t);
}

/* A stop text that comes too early is text. */
static void test_not_yet(void **state)
{
	const struct nvllm_str stop = { "stop", 4 };
	struct text *t = text_create(&stop, 1, 8);
	struct nvllm_str s;

	assert_null(text_push(t, "a stop ", 7, -1, false));
	s = text_take(t, false);
	assert_int_equal(s.len, 7);
	assert_string_equal(text_push(t, "b stop", 6, -1, true), "stop");
	s = text_take(t, true);
	assert_int_equal(s.len, 2);
	text_destroy(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_byte_tokens),
		cmocka_unit_test(test_not_yet),
		cmocka_unit_test(test_whole),
		cmocka_unit_test(test_broken_bytes),
		cmocka_unit_test(test_stops),
	};

	srand(3);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
