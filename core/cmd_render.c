/* SPDX-License-Identifier: MIT */
/* cmd_render.c - `nvllm render`: the prompt text that a chat request makes. Decides what of the
 * request's body is the request's own: messages, tools and the rest are the chat plugin's. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cmd.h"
#include "engine_int.h"
#include "json.h"

#define MAX_INPUT ((size_t)256 << 20)

/* All of standard input. */
static int read_input(struct json_buf *b)
{
	char part[65536];
	size_t n;

	while ((n = fread(part, 1, sizeof(part), stdin)) > 0) {
		json_put_raw(b, part, n);
		if (b->failed || b->len > MAX_INPUT)
			return fail(NVLLM_EINVAL, "standard input: larger than %zu MiB", MAX_INPUT >> 20);
	}
	if (ferror(stdin))
		return fail(NVLLM_EIO, "standard input cannot be read: %s", strerror(errno));
	return NVLLM_OK;
}

/* The list of messages for a plugin that looks at no body: those with a role and a text. */
struct listed {
	struct nvllm_chat_message *m;
	const struct nvllm_chat_message **list;
};

static int list_messages(const cJSON *messages, struct listed *l)
{
	int n = cJSON_GetArraySize(messages), i = 0;
	const cJSON *item;

	l->m = calloc((size_t)n + 1, sizeof(*l->m));
	l->list = calloc((size_t)n + 1, sizeof(*l->list));
	if (!l->m || !l->list)
		return fail(NVLLM_ENOMEM, "no memory");
	cJSON_ArrayForEach(item, messages) {
		const char *role = cJSON_GetStringValue(json_get(item, "role"));
		const char *content = cJSON_GetStringValue(json_get(item, "content"));

		l->m[i] = (struct nvllm_chat_message){ .size = sizeof(l->m[i]),
			.role = { role ? role : "", role ? (int64_t)strlen(role) : 0 },
			.content = { content ? content : "", content ? (int64_t)strlen(content) : 0 } };
		l->list[i] = &l->m[i];
		i++;
	}
	return NVLLM_OK;
}

static int check_body(const cJSON *body)
{
	const cJSON *add = json_get(body, "add_generation_prompt");

	if (!cJSON_IsObject(body))
		return fail(NVLLM_EINVAL, "standard input: a chat request is a JSON object with \"messages\"");
	if (!cJSON_IsArray(json_get(body, "messages")))
		return fail(NVLLM_EINVAL, "standard input: \"messages\" is missing, or no list");
	if (add && !cJSON_IsBool(add) && !cJSON_IsNull(add))
		return fail(NVLLM_EINVAL, "standard input: \"add_generation_prompt\" is neither true nor false");
	return NVLLM_OK;
}

static int print_prompt(const struct chat_ref *chat, const struct nvllm_chat_request *req)
{
	int64_t n = chat->vt->render(chat->chat, req, NULL, 0), m;
	char *text;

	if (n < 0)
		return (int)n;
	text = malloc((size_t)n + 1);
	if (!text)
		return fail(NVLLM_ENOMEM, "no memory for a prompt of %lld bytes", (long long)n);
	m = chat->vt->render(chat->chat, req, text, n);
	if (m == n)
		fwrite(text, 1, (size_t)n, stdout);
	free(text);
	if (m >= 0 && m != n)
		return fail(NVLLM_EINVAL, "the prompt's length changed from %lld to %lld bytes",
			(long long)n, (long long)m);
	return m < 0 ? (int)m : NVLLM_OK;
}

static int render_body(const struct chat_ref *chat, const struct json_buf *in, const char *now)
{
	struct nvllm_chat_request req = { .size = sizeof(req), .now = now,
		.body = { in->s, (int64_t)in->len } };
	struct listed l = { NULL, NULL };
	struct json_error err;
	cJSON *body = NULL;
	int rc;

	if (json_parse(in->s ? in->s : "", in->len, NULL, &body, &err))
		return fail(NVLLM_EINVAL, "standard input, line %d, byte %zu: %s", err.line,
			err.offset + 1, err.why);
	rc = check_body(body);
	if (!rc)
		rc = list_messages(json_get(body, "messages"), &l);
	if (!rc) {
		const cJSON *add = json_get(body, "add_generation_prompt");

		req.messages = l.list;
		req.add_generation_prompt = !cJSON_IsFalse(add);
		rc = print_prompt(chat, &req);
	}
	free(l.m);
	free(l.list);
	cJSON_Delete(body);
	return rc;
}

/* Is it of the form 2025-03-09T14:05:07, and a day that there is? */
static bool is_time(const char *s)
{
	struct tm tm = { .tm_isdst = 0 };
	const char *end = strlen(s) == 19 ? strptime(s, "%Y-%m-%dT%H:%M:%S", &tm) : NULL;
	int day = tm.tm_mday;

	return end && !*end && tm.tm_sec < 60 && timegm(&tm) != (time_t)-1 && tm.tm_mday == day;
}

int cmd_render(const struct cli *c, struct conf *conf, struct plugins *plugins)
{
	const char *path = NULL, *now = NULL, *s;
	struct json_buf in = { 0 };
	struct chat_ref chat = { 0 };
	struct source *src = NULL;
	int at = 0, rc;

	while ((s = next_word(c, &at))) {
		if (!strncmp(s, "--now=", 6))
			now = s + 6;
		else if (!strcmp(s, "--now")) {
			now = next_word(c, &at);
			if (!now)
				return usage("'--now' needs a time such as 2025-03-09T14:05:07");
		} else if (s[0] == '-' || path) {
			return usage("'render' takes no '%.80s'", s);
		} else {
			path = s;
		}
	}
	if (!path)
		return usage("'render' needs the PATH of a checkpoint or of a template");
	rc = now && !is_time(now) ? fail(NVLLM_EINVAL, "'--now' is '%.40s': it needs a time such as "
		"2025-03-09T14:05:07", now) : source_open_chat(plugins, conf, path, &src);
	if (!rc)
		rc = chat_open(plugins, conf, src->ref.loader ? &src->ref : NULL, path, &chat);
	if (!rc && !chat.comp)
		rc = fail(NVLLM_ENOENT, "%s: has no chat template that a plugin knows; name one with "
			"[chat] plugin, `nvllm plugins` lists them", path);
	if (!rc)
		rc = read_input(&in);
	if (!rc)
		rc = render_body(&chat, &in, now);
	json_buf_free(&in);
	chat_close(&chat);
	source_close(src);
	return rc ? failed() : finish_output(NVLLM_EXIT_OK);
}
