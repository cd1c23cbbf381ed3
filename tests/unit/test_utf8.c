/* SPDX-License-Identifier: MIT */
/* test_utf8.c - util/utf8: what is a character, where text breaks off, and U+FFFD. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "utf8.h"

struct sink {
	char s[4096];
	size_t n;
};

static void to_sink(void *arg, const char *s, size_t len)
{
	struct sink *k = arg;

	assert_true(len > 0 && k->n + len <= sizeof(k->s));
	assert_int_equal(utf8_check(s, len), len); /* each piece is well-formed by itself */
	memcpy(k->s + k->n, s, len);
	k->n += len;
}

static void test_decode(void **state)
{
	static const struct {
		const char *s;
		size_t len, bytes;
		uint32_t cp;
	} rows[] = {
		{ "a", 1, 1, 'a' },
		{ "", 1, 1, 0 },
		{ "\x7F", 1, 1, 0x7F },
		{ "\xC2\x80", 2, 2, 0x80 },
		{ "\xDF\xBF", 2, 2, 0x7FF },
		{ "\xE0\xA0\x80", 3, 3, 0x800 },
		{ "\xED\x9F\xBF", 3, 3, 0xD7FF },
		{ "\xEE\x80\x80", 3, 3, 0xE000 },
		{ "\xEF\xBF\xBF", 3, 3, 0xFFFF },
		{ "\xF0\x90\x80\x80", 4, 4, 0x10000 },
		{ "\xF4\x8F\xBF\xBF", 4, 4, 0x10FFFF },
		{ "\x80", 1, 0, 0 },
		{ "\xC0\x80", 2, 0, 0 },
		{ "\xC1\xBF", 2, 0, 0 },
		{ "\xE0\x9F\xBF", 3, 0, 0 },
		{ "\xED\xA0\x80", 3, 0, 0 },
		{ "\xF0\x8F\xBF\xBF", 4, 0, 0 },
		{ "\xF4\x90\x80\x80", 4, 0, 0 },
		{ "\xF5\x80\x80\x80", 4, 0, 0 },
		{ "\xFF", 1, 0, 0 },
		{ "\xE2\x82", 2, 0, 0 },
		{ "\xC3", 1, 0, 0 },
		{ "\xC3(", 2, 0, 0 },
		{ "\xE2\x82\xAC", 2, 0, 0 },
		{ "x", 0, 0, 0 },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		uint32_t cp = 0;

		assert_int_equal(utf8_decode(rows[i].s, rows[i].len, &cp), rows[i].bytes);
		assert_int_equal(cp, rows[i].cp);
		if (rows[i].bytes == rows[i].len)
			assert_int_equal(utf8_check(rows[i].s, rows[i].len), rows[i].len);
		else
			assert_int_equal(utf8_check(rows[i].s, rows[i].len), 0);
	}
}

static void test_all_code_points(void **state)
{
	for (uint32_t cp = 0; cp <= 0x110010; cp++) {
		char s[4];
		uint32_t back = 0;
		size_t n = utf8_encode(cp, s);

		if (cp > 0x10FFFF || (cp >= 0xD800 && cp <= 0xDFFF)) {
			assert_int_equal(n, 0);
			continue;
		}
		assert_int_equal(utf8_decode(s, n, &back), n);
		assert_int_equal(back, cp);
		for (size_t cut = 1; cut < n; cut++)
			assert_int_equal(utf8_complete(s, cut), 0);
		assert_int_equal(utf8_complete(s, n), n);
	}
}

static void test_check_offset(void **state)
{
	char text[64];

	/* Every place, so that the step of eight bytes is crossed in every way. */
	for (size_t at = 0; at < 40; at++) {
		memset(text, 'x', sizeof(text));
		text[at] = (char)0xFE;
		assert_int_equal(utf8_check(text, 40), at);
		memcpy(text + at, "\xE2\x82\xAC", 3);
		assert_int_equal(utf8_check(text, 43), 43);
		assert_int_equal(utf8_check(text, at + 2), at);
	}
}

static void test_complete(void **state)
{
	static const struct {
		const char *s;
		size_t len, send;
	} rows[] = {
		{ "", 0, 0 },
		{ "abc", 3, 3 },
		{ "ab\xC3", 3, 2 },
		{ "ab\xE2\x82", 4, 2 },
		{ "ab\xF0\x9F\x98", 5, 2 },
		{ "ab\xF0\x9F\x98\x80", 6, 6 },
		{ "ab\x80", 3, 3 },
		{ "ab\xED\xA0", 4, 4 },
		{ "ab\xFF", 3, 3 },
		{ "\xE2\x82\xE2\x82", 4, 2 },
		{ "\x80\x80\x80\x80", 4, 4 },
		{ "\xC3\x80\x80", 3, 3 },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		assert_int_equal(utf8_complete(rows[i].s, rows[i].len), rows[i].send);
}

/* The examples of the Unicode standard, tables 3-8 to 3-11. */
static void test_stream_examples(void **state)
{
#define R "\xEF\xBF\xBD"
	static const struct {
		const char *in, *out;
	} rows[] = {
		{ "\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41", R R R R R R R R "A" },
		{ "\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41", R R R R R R R R "A" },
		{ "\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42", R R R R R "A" R R "B" },
		{ "\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", R R R R "A" },
		{ "a\xE2\x82\xAC" "b\xE2\x82", "a\xE2\x82\xAC" "b" R },
	};
#undef R
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		for (size_t step = 1; step <= 9; step++) {
			struct utf8_stream u = { .n = 0 };
			struct sink k = { .n = 0 };
			size_t len = strlen(rows[i].in);

			for (size_t at = 0; at < len; at += step)
				utf8_push(&u, rows[i].in + at, len - at < step ? len - at : step,
					to_sink, &k);
			utf8_flush(&u, to_sink, &k);
			assert_int_equal(k.n, strlen(rows[i].out));
			assert_memory_equal(k.s, rows[i].out, k.n);
		}
	}
}

/* Random bytes cut at random places give what they give in one piece, and nothing waits
 * that could go: what is held back is the incomplete end, byte for byte. */
static void test_stream_random(void **state)
{
	static const unsigned char some[] = { 'a', 0x80, 0xBF, 0xC2, 0xE0, 0xA0, 0xED, 0x9F, 0xF0,
		0x90, 0xF4, 0x8F, 0xFF, 0xE2 };

	srand(7);
	for (int round = 0; round < 20000; round++) {
		struct utf8_stream one = { .n = 0 }, cut = { .n = 0 };
		struct sink a = { .n = 0 }, b = { .n = 0 };
		char s[24];
		size_t len = (size_t)rand() % sizeof(s), at = 0;

		for (size_t i = 0; i < len; i++)
			s[i] = (char)some[(size_t)rand() % sizeof(some)];
		utf8_push(&one, s, len, to_sink, &a);
		assert_int_equal(one.n, len - utf8_complete(s, len));
		assert_memory_equal(one.tail, s + len - one.n, one.n);
		while (at < len) {
			size_t n = (size_t)rand() % 5;

			n = n < len - at ? n : len - at;
			utf8_push(&cut, s + at, n, to_sink, &b);
			at += n;
		}
		utf8_flush(&one, to_sink, &a);
		utf8_flush(&cut, to_sink, &b);
		assert_int_equal(a.n, b.n);
		assert_memory_equal(a.s, b.s, a.n);
		assert_int_equal(one.n + cut.n, 0);
		if (utf8_check(s, len) == len) {
			assert_int_equal(a.n, len);
			assert_memory_equal(a.s, s, len);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_decode),
		cmocka_unit_test(test_all_code_points),
		cmocka_unit_test(test_check_offset),
		cmocka_unit_test(test_complete),
		cmocka_unit_test(test_stream_examples),
		cmocka_unit_test(test_stream_random),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
