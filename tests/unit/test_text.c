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
		r->stop = text_push(t, s + at, (int32_t)k);
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_whole),
		cmocka_unit_test(test_broken_bytes),
		cmocka_unit_test(test_stops),
	};

	srand(3);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
