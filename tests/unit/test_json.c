/* SPDX-License-Identifier: MIT */
/* The JSON front door: what it lets in, what it refuses and where it says the fault
 * is, numbers kept exactly, and the writer's round trip. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"

struct bad {
	const char *text;
	size_t len; /* 0 = strlen */
	size_t offset;
	const char *why;
};

/* The traps of cJSON and their kin. */
static const struct bad bads[] = {
	{ "", 0, 0, "ends where a value" },
	{ "  \n", 0, 3, "ends where a value" },
	{ "[1e999]", 0, 1, "too large" },
	{ "[-1e999]", 0, 1, "too large" },
	{ "[NaN]", 0, 1, "a value must stand here" },
	{ "[-Infinity]", 0, 2, "a digit must follow" },
	{ "[nan]", 0, 1, "a value must stand here" },
	{ "[01]", 0, 1, "begin with 0" },
	{ "[-01]", 0, 1, "begin with 0" },
	{ "[1.]", 0, 3, "a digit must follow the point" },
	{ "[.5]", 0, 1, "a value must stand here" },
	{ "[+1]", 0, 1, "a value must stand here" },
	{ "[1e]", 0, 3, "a digit must follow the e" },
	{ "[1e+]", 0, 4, "a digit must follow the e" },
	{ "[-]", 0, 2, "a digit must follow the minus" },
	{ "[0x10]", 0, 2, "',' or ']'" },
	{ "[1] x", 0, 4, "something follows" },
	{ "{} {}", 0, 3, "something follows" },
	{ "[1]\0", 4, 3, "something follows" },
	{ "[1,]", 0, 3, "a value must stand here" },
	{ "[,1]", 0, 1, "a value must stand here" },
	{ "[1 2]", 0, 3, "',' or ']'" },
	{ "[1", 0, 2, "the end of the text" },
	{ "{\"a\":1,}", 0, 7, "a key in quotes" },
	{ "{\"a\" 1}", 0, 5, "':' must follow" },
	{ "{a:1}", 0, 1, "a key in quotes" },
	{ "{\"a\":1", 0, 6, "',' or '}'" },
	{ "{\"a\":1,\"a\":2}", 0, 7, "occurs twice" },
	{ "{\"a\":1,\"\\u0061\":2}", 0, 7, "occurs twice" },
	{ "[{\"x\":{\"k\":[1],\"k\":2}}]", 0, 15, "occurs twice" },
	{ "[\"a\tb\"]", 0, 3, "control character" },
	{ "[\"a\nb\"]", 0, 3, "control character" },
	{ "[\"a\0b\"]", 7, 3, "control character" },
	{ "[\"\\u0000\"]", 0, 2, "\\u0000" },
	{ "[\"\\ud800\"]", 0, 2, "surrogate" },
	{ "[\"\\udc00\"]", 0, 2, "surrogate" },
	{ "[\"\\ud800\\u0041\"]", 0, 2, "surrogate" },
	{ "[\"\\ud800\\ud800\"]", 0, 2, "surrogate" },
	{ "[\"\\u12g4\"]", 0, 2, "four hexadecimal" },
	{ "[\"\\u12", 0, 2, "four hexadecimal" },
	{ "[\"\\x41\"]", 0, 2, "no escape" },
	{ "[\"\\", 0, 2, "no closing quote" },
	{ "[\"abc", 0, 1, "no closing quote" },
	{ "[\"\xff\"]", 0, 2, "invalid UTF-8" },
	{ "[\"\xc0\xaf\"]", 0, 2, "invalid UTF-8" },         /* overlong */
	{ "[\"\xe0\x80\xaf\"]", 0, 2, "invalid UTF-8" },     /* overlong */
	{ "[\"\xf0\x80\x80\xaf\"]", 0, 2, "invalid UTF-8" }, /* overlong */
	{ "[\"\xed\xa0\x80\"]", 0, 2, "invalid UTF-8" },     /* a surrogate */
	{ "[\"\xf4\x90\x80\x80\"]", 0, 2, "invalid UTF-8" }, /* past U+10FFFF */
	{ "[\"\xe2\x82\"]", 0, 2, "invalid UTF-8" },         /* cut short */
	{ "{\"\xff\":1}", 0, 2, "invalid UTF-8" },
	{ "\xef\xbb\xbf{}", 0, 0, "a value must stand here" }, /* a byte order mark */
	{ "['a']", 0, 1, "a value must stand here" },
	{ "[1]//c", 0, 3, "something follows" },
	{ "[True]", 0, 1, "a value must stand here" },
	{ "tru", 0, 0, "a value must stand here" },
	{ "nullx", 0, 4, "something follows" },
	{ "[1.00000000000000000000000000000000000000000000000000000000000000001]", 0, 1,
		"more than 63 characters" },
};

static void refuses_what_is_no_json(void **state)
{
	for (size_t i = 0; i < sizeof(bads) / sizeof(bads[0]); i++) {
		const struct bad *b = &bads[i];
		size_t len = b->len ? b->len : strlen(b->text);
		char *copy = malloc(len + !len); /* no NUL behind it: ASan sees a read past the end */
		struct json_error err;
		cJSON *v = (cJSON *)&err;

		assert_non_null(copy);
		memcpy(copy, b->text, len);
		if (json_parse(copy, len, NULL, &v, &err) != -1)
			fail_msg("accepted: %s", b->text);
		assert_null(v);
		if (err.offset != b->offset || !strstr(err.why, b->why))
			fail_msg("%s: at %zu: %s", b->text, err.offset, err.why);
		assert_int_equal(json_parse(copy, len, NULL, &v, NULL), -1);
		free(copy);
	}
}

static void takes_what_is_json(void **state)
{
	static const char *const goods[] = {
		"0", "-0", "1e5", "1E+5", "1.5e-3", " [ ] ", "{}", "\t{ \"a\" : [ null , true , false ] }\r\n",
		"\"\\ud83d\\ude00\"", "\"\xf0\x9f\x98\x80 \xef\xbf\xbf\"", "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"",
		"{\"a\":1,\"A\":2}", "{\"\":1}", "[{\"a\":1},{\"a\":1}]", "\"\x7f\"", "1e-999",
	};

	for (size_t i = 0; i < sizeof(goods) / sizeof(goods[0]); i++) {
		struct json_error err;
		cJSON *v;

		if (json_parse(goods[i], strlen(goods[i]), NULL, &v, &err))
			fail_msg("%s: at %zu: %s", goods[i], err.offset, err.why);
		assert_non_null(v);
		cJSON_Delete(v);
	}
}

static void says_the_line(void **state)
{
	static const char text[] = "{\n\"a\": 1,\n\"b\": oops\n}";
	struct json_error err;
	cJSON *v;

	assert_int_equal(json_parse(text, strlen(text), NULL, &v, &err), -1);
	assert_int_equal(err.line, 3);
	assert_int_equal(err.offset, 15);
}

static char *nested(size_t depth)
{
	char *s = malloc(2 * depth + 1);

	assert_non_null(s);
	memset(s, '[', depth);
	memset(s + depth, ']', depth);
	s[2 * depth] = '\0';
	return s;
}

static int try_depth(size_t depth, int limit)
{
	struct json_limits limits = { .max_depth = limit };
	char *s = nested(depth);
	cJSON *v;
	int rc = json_parse(s, 2 * depth, &limits, &v, NULL);

	cJSON_Delete(v);
	free(s);
	return rc;
}

static void bounds_depth(void **state)
{
	assert_int_equal(try_depth(128, 0), 0);
	assert_int_equal(try_depth(129, 0), -1);
	assert_int_equal(try_depth(3, 3), 0);
	assert_int_equal(try_depth(4, 3), -1);
	assert_int_equal(try_depth(1000, 1000000), 0);
	assert_int_equal(try_depth(1001, 1000000), -1);
	assert_int_equal(try_depth(1000000, 1000000), -1);
}

static void counts_values_and_bytes(void **state)
{
	struct json_limits few = { .max_values = 4 }, small = { .max_bytes = 5 };
	cJSON *v;

	assert_int_equal(json_parse("[1,2,3]", 7, &few, &v, NULL), 0);
	cJSON_Delete(v);
	assert_int_equal(json_parse("[1,2,3,4]", 9, &few, &v, NULL), -1);
	assert_int_equal(json_parse("[1,2]", 5, &small, &v, NULL), 0);
	cJSON_Delete(v);
	assert_int_equal(json_parse("[1,2] ", 6, &small, &v, NULL), -1);
}

static cJSON *parse(const char *text)
{
	struct json_error err;
	cJSON *v;

	if (json_parse(text, strlen(text), NULL, &v, &err))
		fail_msg("%s: %s", text, err.why);
	return v;
}

static void keeps_numbers_exactly(void **state)
{
	static const char *const texts[] = { "9007199254740993", "-9007199254740993", "3.0", "3", "0", "-0",
		"1e3", "9223372036854775807", "18446744073709551615", "0.1", "999999999999999",
		"1000000000000000", "123456789012345678901234567890", "-5", "1E-2" };
	struct json_buf text = { 0 };
	char buf[JSON_NUMBER_LEN];
	int i = 0;
	cJSON *v, *n;

	/* Strings with digits and escaped quotes between them: the walk must not be misled. */
	json_put(&text, "{\"12\\\"3\":[");
	for (size_t k = 0; k < sizeof(texts) / sizeof(texts[0]); k++) {
		json_put(&text, k ? ",\"7\\\\\", " : "\"-8\\\"9\",");
		json_put(&text, texts[k]);
	}
	json_put(&text, "]}");
	v = parse(text.s);
	n = json_get(v, "12\"3");
	assert_non_null(n);
	for (n = n->child; n; n = n->next) {
		if (!cJSON_IsNumber(n))
			continue;
		assert_string_equal(json_number_text(n, buf), texts[i]);
		i++;
	}
	assert_int_equal(i, sizeof(texts) / sizeof(texts[0]));
	cJSON_Delete(v);
	json_buf_free(&text);
}

static int int64_of(const char *text, int64_t *out)
{
	cJSON *v = parse(text);
	int rc = json_int64(v, out);

	cJSON_Delete(v);
	return rc;
}

static int uint64_of(const char *text, uint64_t *out)
{
	cJSON *v = parse(text);
	int rc = json_uint64(v, out);

	cJSON_Delete(v);
	return rc;
}

static void integers_are_exact(void **state)
{
	static const char *const no[] = { "1.5", "3.0", "1e3", "9223372036854775808",
		"-9223372036854775809", "\"1\"", "null", "true", "[1]", "123456789012345678901234567890" };
	int64_t n = 77;
	uint64_t u = 77;

	for (size_t i = 0; i < sizeof(no) / sizeof(no[0]); i++)
		assert_int_equal(int64_of(no[i], &n), -1);
	assert_int_equal(n, 77);
	assert_int_equal(int64_of("9007199254740993", &n), 0);
	assert_true(n == 9007199254740993);
	assert_int_equal(int64_of("-9223372036854775808", &n), 0);
	assert_true(n == INT64_MIN);
	assert_int_equal(int64_of("-0", &n), 0);
	assert_true(n == 0);
	assert_int_equal(uint64_of("18446744073709551615", &u), 0);
	assert_true(u == UINT64_MAX);
	assert_int_equal(uint64_of("-0", &u), 0);
	assert_true(u == 0);
	assert_int_equal(uint64_of("-1", &u), -1);
	assert_int_equal(uint64_of("18446744073709551616", &u), -1);
	assert_int_equal(uint64_of("1.0", &u), -1);
}

static void members_by_exact_name(void **state)
{
	cJSON *v = parse("{\"Seed\":1,\"x\":{\"seed\":2}}");
	double d = 0;

	assert_null(json_get(v, "seed"));
	assert_non_null(json_get(v, "Seed"));
	assert_int_equal(json_double(json_get(json_get(v, "x"), "seed"), &d), 0);
	assert_true(d == 2);
	assert_int_equal(json_double(json_get(v, "x"), &d), -1);
	assert_null(json_get(NULL, "x"));
	assert_null(json_get(json_get(v, "Seed"), "x"));
	assert_int_equal(json_double(NULL, &d), -1);
	cJSON_Delete(v);
}

static void finds_twins_among_many(void **state)
{
	struct json_buf b = { 0 };
	struct json_error err;
	cJSON *v;

	json_put(&b, "{");
	for (int i = 0; i < 5000; i++) {
		json_put(&b, "\"k");
		json_put_int(&b, i);
		json_put(&b, "\":0,");
	}
	b.s[b.len - 1] = '}';
	assert_int_equal(json_parse(b.s, b.len, NULL, &v, NULL), 0);
	cJSON_Delete(v);
	b.s[b.len - 1] = ',';
	json_put(&b, "\"k77\":1}");
	assert_int_equal(json_parse(b.s, b.len, NULL, &v, &err), -1);
	assert_non_null(strstr(err.why, "\"k77\" occurs twice"));
	json_buf_free(&b);
}

static void writes_strings(void **state)
{
	static const struct { const char *in; size_t len; const char *out; } cases[] = {
		{ "", 0, "\"\"" },
		{ "plain", 5, "\"plain\"" },
		{ "q\" b\\ s/", 8, "\"q\\\" b\\\\ s/\"" },
		{ "\b\f\n\r\t", 5, "\"\\b\\f\\n\\r\\t\"" },
		{ "\x01\x1f\x7f", 3, "\"\\u0001\\u001f\x7f\"" },
		{ "a\0b", 3, "\"a\\u0000b\"" },
		{ "\xc3\xa9\xf0\x9f\x98\x80", 6, "\"\xc3\xa9\xf0\x9f\x98\x80\"" },
		{ "a\xff" "b", 3, "\"a\xef\xbf\xbd" "b\"" },
		{ "\xe2\x82", 2, "\"\xef\xbf\xbd\"" },          /* one for the maximal part */
		{ "\xe2\x82" "x", 3, "\"\xef\xbf\xbdx\"" },
		{ "\xed\xa0\x80", 3, "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"" },
		{ "\xf0\x9f\x98", 3, "\"\xef\xbf\xbd\"" },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct json_buf b = { 0 };

		json_put_string(&b, cases[i].in, cases[i].len);
		assert_false(b.failed);
		assert_string_equal(b.s, cases[i].out);
		json_buf_free(&b);
	}
}

static void strings_come_back(void **state)
{
	char in[512];
	size_t n = 0;
	struct json_buf b = { 0 };
	cJSON *v;

	for (int c = 1; c < 0x80; c++)
		in[n++] = (char)c;
	memcpy(in + n, "\xdf\xbf\xe0\xa0\x80\xef\xbf\xbd\xf4\x8f\xbf\xbf", 13);
	n += 12;
	json_put_string(&b, in, n);
	v = parse(b.s);
	assert_int_equal(strlen(v->valuestring), n);
	assert_memory_equal(v->valuestring, in, n);
	cJSON_Delete(v);
	json_buf_free(&b);
}

static void writes_numbers(void **state)
{
	static const double doubles[] = { 0, 1, -1, 0.1, 1.0 / 3, 1e300, 5e-324, 1.7976931348623157e308,
		123456789012345678.0, -2.5e-10, 0.30000000000000004 };
	struct json_buf b = { 0 };

	for (size_t i = 0; i < sizeof(doubles) / sizeof(doubles[0]); i++) {
		cJSON *v;
		double back = NAN;

		json_put_double(&b, doubles[i]);
		v = parse(b.s);
		assert_int_equal(json_double(v, &back), 0);
		assert_true(back == doubles[i]);
		cJSON_Delete(v);
		json_put_float(&b, 1); /* a full buffer, then freed: no state is left behind */
		json_buf_free(&b);
	}
	json_put_double(&b, 0.1);
	json_put(&b, " ");
	json_put_double(&b, NAN);
	json_put(&b, " ");
	json_put_double(&b, -INFINITY);
	json_put(&b, " ");
	json_put_float(&b, -0.1f);
	json_put(&b, " ");
	json_put_float(&b, NAN);
	json_put(&b, " ");
	json_put_int(&b, INT64_MIN);
	assert_string_equal(b.s, "0.1 null null -0.1 null -9223372036854775808");
	json_buf_free(&b);
}

static void float_text_reads_back(void **state)
{
	uint32_t x = 12345;

	for (int i = 0; i < 20000; i++) {
		struct json_buf b = { 0 };
		float f;

		x = x * 1664525u + 1013904223u;
		memcpy(&f, &x, sizeof(f));
		if (!isfinite(f))
			continue;
		json_put_float(&b, f);
		assert_true(strtof(b.s, NULL) == f);
		json_buf_free(&b);
	}
}

static void buffer_grows(void **state)
{
	struct json_buf b = { 0 };

	for (int i = 0; i < 10000; i++)
		json_put_raw(&b, "0123456789", 10);
	assert_int_equal(b.len, 100000);
	assert_int_equal(strlen(b.s), 100000);
	assert_memory_equal(b.s + 99990, "0123456789", 10);
	json_put_raw(&b, "x", SIZE_MAX - 5); /* cannot be: it sticks, nothing is written */
	assert_true(b.failed);
	json_put(&b, "more");
	assert_int_equal(b.len, 100000);
	json_buf_free(&b);
	assert_null(b.s);
}

/* A string by itself may hold a NUL. */
static void test_string(void **state)
{
	static const struct { const char *json, *text; size_t len; } good[] = {
		{ "\"\"", "", 0 }, { "  \"a\"\t", "a", 1 }, { "\"x\\u0000y\"", "x\0y", 3 },
		{ "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\/\b\f\n\r\t", 8 },
		{ "\"\\ud83d\\ude00\\u00e9\"", "\xF0\x9F\x98\x80\xC3\xA9", 6 },
	};
	static const char *const bad[] = { "", "1", "\"a", "\"a\" b", "\"\\ud83d\"", "\"\\u00\"", "\"\x01\"", "\"\xff\"", "[\"a\"]" };

	for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
		struct json_buf b = { 0 };

		assert_int_equal(json_string(good[i].json, strlen(good[i].json), &b, NULL), 0);
		assert_int_equal(b.len, good[i].len);
		assert_memory_equal(b.s ? b.s : "", good[i].text, b.len);
		json_buf_free(&b);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		struct json_buf b = { 0 };
		struct json_error err;

		assert_int_equal(json_string(bad[i], strlen(bad[i]), &b, &err), -1);
		assert_true(*err.why);
		json_buf_free(&b);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_string),
		cmocka_unit_test(refuses_what_is_no_json),
		cmocka_unit_test(takes_what_is_json),
		cmocka_unit_test(says_the_line),
		cmocka_unit_test(bounds_depth),
		cmocka_unit_test(counts_values_and_bytes),
		cmocka_unit_test(keeps_numbers_exactly),
		cmocka_unit_test(integers_are_exact),
		cmocka_unit_test(members_by_exact_name),
		cmocka_unit_test(finds_twins_among_many),
		cmocka_unit_test(writes_strings),
		cmocka_unit_test(strings_come_back),
		cmocka_unit_test(writes_numbers),
		cmocka_unit_test(float_text_reads_back),
		cmocka_unit_test(buffer_grows),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
