/* SPDX-License-Identifier: MIT */
/* test_jinja_golden.c - templates of a line or two, and what Jinja2 (as transformers sets it
 * up) makes of them: tests/data/chat/jinja.jsonl. The first line has the names they
 * see; each other line a template and "rendered", or "error" where Jinja2 raises one: then there
 * must be an error here too, in whatever words. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdbool.h>

#include "bpe_open.h"
#include "jinja_rig.h"
#include "json.h"

#define GOLDENS "tests/data/chat/jinja.jsonl"

static const struct nvllm_chat_vt *plugin(void)
{
	const struct nvllm_component *c = component_open("chat_jinja.so");

	if (!c) {
		print_message("skipped: there is no chat_jinja.so\n");
		skip();
	}
	return c->vt;
}

static bool as_expected(struct rig *r, const cJSON *line, const char *body)
{
	const char *text = cJSON_GetStringValue(json_get(line, "template"));
	const char *want = cJSON_GetStringValue(json_get(line, "rendered"));
	char *got = NULL;
	int64_t n;
	bool ok;

	assert_non_null(text);
	if (rig_open(r, text, strlen(text)) == 0)
		got = rig_render(r, body, strlen(body), &n);
	ok = want ? got && !strcmp(got, want) : !got;
	if (!ok)
		print_error("%s\n  made: %s%s\n  want: %s\n", text, got ? got : "error: ",
			got ? "" : r->said, want ? want : "an error");
	free(got);
	return ok;
}

static void goldens(void **state)
{
	const struct nvllm_chat_vt *vt = plugin();
	const char *path = getenv("NVLLM_JINJA_GOLDENS");
	FILE *f = fopen(path ? path : GOLDENS, "rb");
	char *line = NULL, *body = NULL;
	size_t room = 0;
	ssize_t len;
	int n = 0, bad = 0;

	assert_non_null(f);
	while ((len = getline(&line, &room, f)) > 0) {
		struct json_error err;
		cJSON *json;
		struct rig r;

		if (json_parse(line, (size_t)len, NULL, &json, &err))
			fail_msg("line %d: %s", n + 1, err.why);
		if (!body) {
			const char *at = strchr(line, ':'); /* numbers as they stand, not as cJSON prints them */

			assert_true(asprintf(&body, "{\"messages\":[],\"chat_template_kwargs\":%.*s",
				(int)(len - (at + 1 - line)), at + 1) > 0);
		} else {
			rig_init(&r, vt);
			bad += !as_expected(&r, json, body);
			rig_finish(&r);
			n++;
		}
		cJSON_Delete(json);
	}
	fclose(f);
	free(line);
	free(body);
	print_message("%d templates, %d not as Jinja2\n", n, bad);
	assert_true(n > 300);
	assert_int_equal(bad, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(goldens),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
