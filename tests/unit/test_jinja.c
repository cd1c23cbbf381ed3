/* SPDX-License-Identifier: MIT */
/* test_jinja.c - the chat plugin `jinja`: what a mistake in a template is told, that templates
 * without end come to one, renders beside each other, rooms too small. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdbool.h>

#include "bpe_open.h"
#include "jinja_rig.h"

#define EMPTY "{\"messages\":[]}"

static const struct nvllm_chat_vt *plugin(void)
{
	const struct nvllm_component *c = component_open("chat_jinja.so");

	if (!c) {
		print_message("skipped: there is no chat_jinja.so\n");
		skip();
	}
	return c->vt;
}

/* The template must fail, at open or at render, with these words. */
static void must_fail(const struct nvllm_chat_vt *vt, const char *text, const char *words)
{
	struct rig r;
	char *got = NULL;
	int64_t n;

	rig_init(&r, vt);
	if (rig_open(&r, text, strlen(text)) == 0)
		got = rig_render(&r, EMPTY, strlen(EMPTY), &n);
	if (got)
		fail_msg("%.200s: made %.200s", text, got);
	if (!strstr(r.said, words))
		fail_msg("%.200s: said %s; not %s", text, r.said, words);
	rig_finish(&r);
}

static void says_where(void **state)
{
	static const char *const cases[][2] = {
		{ "a\n\n{{ x.y }}", "line 3: 'x' is undefined" },
		{ "{% set d = {} %}\n{{ d.a.b }}", "line 2: 'dict object' has no attribute 'a'" },
		{ "{{ none.a.b }}", "'None' has no attribute 'a'" },
		{ "{{ [1][5].b }}", "list object has no element 5" },
		{ "\n{{ 'a' + 1 }}", "line 2: can only concatenate str (not \"int\") to str" },
		{ "{{ 1 + 'a' }}", "unsupported operand type(s) for +: 'int' and 'str'" },
		{ "{{ 1 < 'a' }}", "'<' not supported between instances of 'int' and 'str'" },
		{ "{% for x in 5 %}{% endfor %}", "'int' object is not iterable" },
		{ "{{ 5() }}", "'int' object is not callable" },
		{ "{{ raise_exception('no ' ~ 1) }}", "line 1: no 1" },
		{ "{% macro m(a) %}\n{{ a.b }}\n{% endmacro %}\n{{ m() }}", "line 2: parameter 'a' was not provided" },
		{ "{{ [].append(1) }}", "access to attribute 'append' of 'list' object is unsafe." },
		{ "{{ ''.__class__.x }}", "unsafe" },
		{ "a\n{% if x %}\nb", "line 3: Unexpected end of template. Jinja was looking for the "
			"following tags: 'elif' or 'else' or 'endif'." },
		{ "{% foo %}", "line 1: Encountered unknown tag 'foo'." },
		{ "\n{{ x|foo }}", "line 2: No filter named 'foo'." },
		{ "{{ x is foo }}", "No test named 'foo'." },
		{ "{{ 1 2 }}", "expected 'end of print statement', got 'integer'" },
		{ "{{ (1 }}", "unexpected '}', expected ')'" },
		{ "\n\n{{ 'abc }}", "line 3: unexpected char '''" },
		{ "{{ $ }}", "unexpected char '$'" }, { "{{ a ! b }}", "unexpected char '!'" },
		{ "\n{# x", "line 2: Missing end of comment tag" },
		{ "{% raw %}", "Missing end of raw directive" },
		{ "{% include 'a' %}", "{% include %} is not supported" },
		{ "{% break %}", "'break' outside loop" },
		{ "{% set 1 = 2 %}", "can't assign to 'const'" },
		{ "{% set d = {} %}{% set d.x = 1 %}", "cannot assign attribute on non-namespace object" },
		{ "{{ namespace(_x=1) }}", "underscore-prefixed" },
		{ "{{ self.x }}", "'self' is not supported" },
		{ "{{ dict.items() }}", "needs a dict before the dot" },
		{ "{{ 1 in dict.keys() }}", "needs a dict before the dot" },
		{ "{{ '{:c}'.format(1114112) }}", "no character" },
		{ "{{ '{0a}'.format(1) }}", "no argument '0a'" },
		{ "{{ range(0, 9223372036854775807, 9223372036854775806)[2:] }}", "int too large" },
		{ "{{ '\\ud800' }}", "an escape that is no character" },
		{ "{{ 9223372036854775807 * 9223372036854775807 + 1 }}", "64 bits" },
	};
	const struct nvllm_chat_vt *vt = plugin();

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		must_fail(vt, cases[i][0], cases[i][1]);
	must_fail(vt, "a\xFF", "no UTF-8 from byte 1");
}

/* Each is far more than anybody has: the answer is an error, and it comes. */
static void bombs(void **state)
{
#define LOOP "{% for i in range(99999) %}"
#define GROW "{% set ns = namespace(s=[]) %}" LOOP "{% set ns.s = [ns.s] %}{% endfor %}"
	static const char *const cases[][2] = {
		{ "{% for x in range(10**9) %}{% endfor %}", "Range too big" },
		{ LOOP LOOP "{% endfor %}{% endfor %}", "steps" },
		{ "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "maximum recursion depth" },
		{ "{% macro m(x) %}{{ m(m(x)) }}{% endmacro %}{{ m(1) }}", "maximum recursion depth" },
		{ "{% for x in [[1]] recursive %}{{ loop([x]) }}{% endfor %}", "maximum recursion depth" },
		{ "{{ 'a' * 10**9 }}", "64 MiB" }, { "{{ 'a' * 9223372036854775807 }}", "64 MiB" },
		{ "{{ [1] * 10**9 }}", "64 MiB" }, { "{{ [1] * 9223372036854775807 }}", "64 MiB" },
		{ "{% set ns = namespace(s='a') %}" LOOP "{% set ns.s = ns.s ~ ns.s %}{% endfor %}", "64 MiB" },
		{ GROW "{{ ns.s }}", "maximum recursion depth" },
		{ GROW "{{ ns.s|tojson }}", "maximum recursion depth" },
		{ GROW "{% set a = ns.s %}" GROW "{{ a == ns.s }}", "maximum recursion depth" },
		{ GROW "{% set a = ns.s %}" GROW "{{ a < ns.s }}", "maximum recursion depth" },
		{ "{% set ns = namespace(s=()) %}" LOOP "{% set ns.s = (ns.s,) %}{% endfor %}{{ {ns.s: 1} }}",
			"maximum recursion depth" },
		{ "{% set ns = namespace(s=[1]) %}" LOOP "{% set ns.s = ns.s|map('string') %}{% endfor %}"
		  "{{ ns.s|list }}", "maximum recursion depth" },
		{ "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}", "maximum recursion depth" },
		{ "{{ '%1000000000d' % 5 }}", "64 MiB" }, { "{{ '%*d' % (10**12, 5) }}", "64 MiB" },
		{ "{{ '%.1000000000f' % 5 }}", "1000 digits" }, { "{{ '{:1000000000}'.format(5) }}", "64 MiB" },
		{ "{{ 'a'.zfill(10**12) }}", "64 MiB" }, { "{{ 'a'|center(10**10) }}", "64 MiB" },
		{ "{{ 'a\\nb'|indent(10**10) }}", "64 MiB" }, { "{{ [1]|tojson(indent=10**10) }}", "64 MiB" },
		{ "{{ '\\t'.expandtabs(10**10) }}", "64 MiB" }, { "{{ []|slice(10**10)|list }}", "64 MiB" },
		{ "{{ [1]|batch(10**10, 1)|list }}", "64 MiB" },
		{ "{% set s = 'a' * 100000 %}{{ s|replace('a', s) }}", "64 MiB" },
		{ "{% set s = 'a' * 1000000 %}" LOOP "{{ s.count('b') }}{% endfor %}", "steps" },
		{ "{% set s = 'a' * 1000000 %}" LOOP "{{ s }}{% endfor %}", "the prompt grows beyond" },
		{ "{% set s = ' ' * 20000000 %}" LOOP "{% set t = s.strip() %}{% endfor %}", "steps" },
		{ "{% set s = '%c' * 1000 %}" LOOP "{% set t = strftime_now(s) %}{% endfor %}", "steps" },
		{ "{{ 10**10**10 }}", "64 bits" },
	};
	const struct nvllm_chat_vt *vt = plugin();

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		must_fail(vt, cases[i][0], cases[i][1]);
#undef LOOP
#undef GROW
}

/* begin, then 100000 times part, then end. */
static void must_fail_long(const struct nvllm_chat_vt *vt, const char *begin, const char *part,
	const char *end, const char *words)
{
	size_t n = strlen(part), len = strlen(begin);
	char *text = malloc(len + n * 100000 + strlen(end) + 1);

	strcpy(text, begin);
	for (int i = 0; i < 100000; i++, len += n)
		memcpy(text + len, part, n);
	strcpy(text + len, end);
	must_fail(vt, text, words);
	free(text);
}

static void deep_templates(void **state)
{
	const struct nvllm_chat_vt *vt = plugin();

	(void)state;
	must_fail_long(vt, "{{ ", "(", "", "100 brackets");
	must_fail_long(vt, "{{ ", "[", "", "100 brackets");
	must_fail_long(vt, "{{ ", "{", "", "100 brackets");
	must_fail_long(vt, "", "{% if t %}", "", "100 levels");
	must_fail_long(vt, "{{ ", "not ", "1 }}", "100 levels");
	must_fail_long(vt, "{{ ", "-", "1 }}", "100 levels");
	must_fail_long(vt, "{{ ", "1<", "1 }}", "100 comparisons");
	must_fail_long(vt, "{{ ", "1+", "1 }}", "maximum recursion depth");
	must_fail_long(vt, "{{ 1", "|string", " }}", "maximum recursion depth");
	must_fail_long(vt, "{{ a", ".b", " }}", "maximum recursion depth");
	must_fail_long(vt, "", "aaaaaaaaaaaaaaaa", "", "1048576 are the most");
}

static void room_and_messages(void **state)
{
	static const char text[] = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{{ tools is none }}";
	struct nvllm_chat_message a = { .size = sizeof(a), .role = { "user", 4 }, .content = { "h\xC3\xA9", 3 } };
	const struct nvllm_chat_message *list[] = { &a, NULL };
	struct nvllm_chat_request req = { .size = sizeof(req), .messages = list };
	char out[64];
	struct rig r;

	(void)state;
	rig_init(&r, plugin());
	assert_int_equal(rig_open(&r, text, sizeof(text) - 1), 0);
	memset(out, '#', sizeof(out));
	assert_int_equal(r.vt->render(r.chat, &req, out, 5), 13);
	assert_memory_equal(out, "<user###", 8);
	assert_int_equal(r.vt->render(r.chat, &req, out, sizeof(out)), 13);
	assert_memory_equal(out, "<user>h\xC3\xA9True#", 14);
	a.content = (struct nvllm_str){ "\xFF", 1 };
	assert_true(r.vt->render(r.chat, &req, out, sizeof(out)) < 0);
	assert_non_null(strstr(r.said, "no UTF-8"));
	a.content.len = -1;
	assert_true(r.vt->render(r.chat, &req, out, sizeof(out)) < 0);
	rig_finish(&r);
}

/* The last template of a conversation that grows: appending takes time in proportion. */
static void appends(void **state)
{
	static const char text[] = "{% set ns = namespace(s='') %}{% for i in range(90000) %}"
		"{% set ns.s = ns.s + 'abcdefghij' %}{% endfor %}{{ ns.s|length }}";
	struct rig r;
	int64_t n;
	char *got;

	(void)state;
	rig_init(&r, plugin());
	assert_int_equal(rig_open(&r, text, sizeof(text) - 1), 0);
	got = rig_render(&r, EMPTY, strlen(EMPTY), &n);
	if (!got)
		fail_msg("%s", r.said);
	assert_string_equal(got, "900000");
	free(got);
	rig_finish(&r);
}

struct job { struct rig *r; int id, bad; };

static void *job(void *arg)
{
	struct job *jb = arg;

	for (int i = 0; i < 200; i++) {
		char body[128], want[64], *got;
		struct rig own = *jb->r; /* said is written by the host: one each */
		int64_t n;
		int len = snprintf(body, sizeof(body),
			"{\"messages\":[{\"role\":\"user\",\"content\":\"%d\"}]}", jb->id * 1000 + i);

		snprintf(want, sizeof(want), "%d.%d.", jb->id * 1000 + i, jb->id * 1000 + i + 1);
		got = rig_render(&own, body, (size_t)len, &n);
		jb->bad += !got || strcmp(got, want);
		free(got);
	}
	return NULL;
}

static void threads(void **state)
{
	static const char text[] = "{% macro m(x) %}{{ x }}.{% endmacro %}{% set ns = namespace(n=0) %}"
		"{% for m2 in messages %}{{ m(m2.content) }}{% set ns.n = m2.content|int + 1 %}{% endfor %}{{ m(ns.n) }}";
	struct job jobs[4];
	pthread_t t[4];
	struct rig r;

	(void)state;
	rig_init(&r, plugin());
	assert_int_equal(rig_open(&r, text, sizeof(text) - 1), 0);
	for (int i = 0; i < 4; i++) {
		jobs[i] = (struct job){ &r, i + 1, 0 };
		assert_int_equal(pthread_create(&t[i], NULL, job, &jobs[i]), 0);
	}
	for (int i = 0; i < 4; i++) {
		pthread_join(t[i], NULL);
		assert_int_equal(jobs[i].bad, 0);
	}
	rig_finish(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(says_where), cmocka_unit_test(bombs), cmocka_unit_test(deep_templates),
		cmocka_unit_test(room_and_messages), cmocka_unit_test(appends), cmocka_unit_test(threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
