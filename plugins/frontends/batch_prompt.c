/* SPDX-License-Identifier: MIT */
/* frontends/batch_prompt.c - decides what a prompt and a list of messages may be: one
 * text, one list of token ids, or messages of text. Messages may have members beside role
 * and content: templates know them. */
#include "batch_parse.h"

#include <stdlib.h>
#include <string.h>

static int take_ids(struct reading *g, cJSON *list)
{
	int64_t n = 0, id;

	for (cJSON *v = list->child; v; v = v->next, n++)
		if (json_int64(v, &id) || id < 0 || id > INT32_MAX)
			return batch_refuse(g->err, 400, "prompt",
				"prompt[%lld] is no token id: a prompt is a text, a list of one "
				"text, or a list of token ids",
				(long long)n);
	g->r->tokens = malloc((size_t)n * sizeof(int32_t));
	if (!g->r->tokens)
		return batch_refuse(g->err, 500, "prompt", "no memory for a prompt of %lld tokens",
			(long long)n);
	n = 0;
	for (cJSON *v = list->child; v; v = v->next) {
		json_int64(v, &id);
		g->r->tokens[n++] = (int32_t)id;
	}
	g->r->n_tokens = n;
	return 0;
}

int batch_take_prompt(struct reading *g, const struct param *p, cJSON *v)
{
	cJSON *first = cJSON_IsArray(v) ? v->child : NULL;

	if (first && !cJSON_IsNumber(first)) {
		if (first->next)
			return batch_refuse(g->err, 400, "prompt",
				"prompt is a list of several prompts: a line takes one, give "
				"each its own line");
		v = first;
		first = cJSON_IsArray(v) ? v->child : NULL;
	}
	if (cJSON_IsArray(v) && !first)
		return batch_refuse(
			g->err, 400, "prompt", "prompt is empty: it must have at least one token");
	if (first)
		return take_ids(g, v);
	if (!cJSON_IsString(v))
		return batch_wrong(
			g, p->name, v, "a text, a list of one text, or a list of token ids");
	g->r->prompt = (struct nvllm_str){ v->valuestring, (int64_t)strlen(v->valuestring) };
	return 0;
}

/* ---- messages ---- */

/* The text of one part of a content list, or NULL and the refusal. */
static const char *part_text(struct reading *g, const cJSON *part, int i)
{
	const cJSON *type = json_get(part, "type"), *text = json_get(part, "text");

	if (!cJSON_IsString(type) || strcmp(type->valuestring, "text") || !cJSON_IsString(text)) {
		batch_refuse(g->err, 400, "messages",
			"messages[%d].content has a part that is not {\"type\": \"text\", "
			"\"text\": \"...\"}: this model takes text alone",
			i);
		return NULL;
	}
	for (const cJSON *m = part->child; m; m = m->next)
		if (strcmp(m->string, "type") && strcmp(m->string, "text")) {
			batch_refuse(g->err, 400, "messages",
				"messages[%d].content: nothing here takes '%.60s'", i, m->string);
			return NULL;
		}
	return text->valuestring;
}

/* A list of text parts becomes one text, joined by newlines as vLLM does. It hangs on
 * the list's own node, which frees it with the tree. */
static const char *join_parts(struct reading *g, cJSON *list, int i)
{
	struct json_buf b = { 0 };

	for (const cJSON *part = list->child; part; part = part->next) {
		const char *text = part_text(g, part, i);

		if (!text) {
			json_buf_free(&b);
			return NULL;
		}
		json_put(&b, part == list->child ? "" : "\n");
		json_put(&b, text);
	}
	if (!b.s || b.failed) {
		batch_refuse(g->err, b.failed ? 500 : 400, "messages",
			b.failed ? "no memory for messages[%d]"
				 : "messages[%d].content is an empty list",
			i);
		json_buf_free(&b);
		return NULL;
	}
	list->valuestring = b.s;
	return b.s;
}

/* A turn of the assistant that calls tools need not say anything. */
static bool may_be_silent(const cJSON *message, const cJSON *role, const cJSON *content)
{
	const cJSON *calls = json_get(message, "tool_calls");

	return (!content || cJSON_IsNull(content)) && !strcmp(role->valuestring, "assistant") &&
	       cJSON_IsArray(calls) && calls->child;
}

static int take_message(struct reading *g, cJSON *v, int i, struct nvllm_chat_message *out)
{
	cJSON *role = json_get(v, "role"), *content = json_get(v, "content");
	const char *text;

	if (!cJSON_IsObject(v))
		return batch_refuse(g->err, 400, "messages",
			"messages[%d] must be an object with role and content", i);
	if (!cJSON_IsString(role) || !*role->valuestring)
		return batch_refuse(
			g->err, 400, "messages", "messages[%d].role is missing or no text", i);
	if (cJSON_IsArray(content))
		text = join_parts(g, content, i);
	else if (cJSON_IsString(content))
		text = content->valuestring;
	else if (may_be_silent(v, role, content))
		text = "";
	else
		return batch_refuse(g->err, 400, "messages",
			"messages[%d].content is missing, or neither a text nor a list of text parts", i);
	if (!text)
		return -1;
	out->size = sizeof(*out);
	out->role = (struct nvllm_str){ role->valuestring, (int64_t)strlen(role->valuestring) };
	out->content = (struct nvllm_str){ text, (int64_t)strlen(text) };
	return 0;
}

int batch_take_messages(struct reading *g, const struct param *p, cJSON *v)
{
	struct batch_request *r = g->r;
	int n = cJSON_IsArray(v) ? cJSON_GetArraySize(v) : 0, i = 0;

	if (n < 1)
		return batch_wrong(g, p->name, v, "a list of at least one message");
	g->list = v;
	r->messages = calloc((size_t)n, sizeof(*r->messages));
	r->message_list = calloc((size_t)n + 1, sizeof(*r->message_list));
	if (!r->messages || !r->message_list)
		return batch_refuse(g->err, 500, "messages", "no memory for %d messages", n);
	for (cJSON *m = v->child; m; m = m->next, i++) {
		if (take_message(g, m, i, &r->messages[i]))
			return -1;
		r->message_list[i] = &r->messages[i];
	}
	return 0;
}
