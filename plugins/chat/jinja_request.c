/* SPDX-License-Identifier: MIT */
/* jinja_request.c - a chat request to the names a template sees: decides what is changed on the
 * way. As transformers' apply_chat_template, and as vLLM where that has no say:
 *  - messages, tools, documents (none where they are not given) and add_generation_prompt, then
 *    reasoning_effort of the body, then all of chat_template_kwargs, which win.
 *  - Members of a message that are null are left out.
 *  - reasoning_content, thinking and reasoning are one thing: the first that is there is also
 *    found under the first two names (transformers 5).
 *  - Arguments of tool calls that are JSON text, as OpenAI's clients send them, become what they
 *    say (vLLM), where they say an object; an empty text becomes {}.
 *  - content given as parts stays as it is, unless the option `content` says: "join" makes one
 *    text of the text parts, a newline between them; "auto" does so where the template
 *    does not look into content (vLLM's content format). */
#include <string.h>

#include <nvllm/chat.h>

#include "jinja.h"
#include "json.h"

#define TAG "CONTINUE_FINAL_MESSAGE_TAG "

static struct val member(struct jin *j, const struct dict *d, const char *key)
{
	struct val v;

	return dict_get_text(j, d, key, &v) ? v : v_none;
}

/* Text parts as one text; other parts are left out. */
static struct val join_parts(struct jin *j, struct val content)
{
	struct sbuf b = { 0 };
	bool more = false;

	if (content.t != T_LIST)
		return content;
	for (int64_t i = 0; i < content.l->n; i++) {
		struct val part = content.l->v[i];

		if (part.t == T_DICT)
			part = member(j, part.d, "text");
		if (part.t != T_STR)
			continue;
		if (more)
			sbuf_put(j, &b, "\n", 1);
		sbuf_put(j, &b, part.s->s, part.s->len);
		more = true;
	}
	return sbuf_str(j, &b);
}

/* What an arguments text says, or the text itself. */
static struct val arguments_of(struct jin *j, struct val v)
{
	cJSON *json = NULL;
	jmp_buf saved;
	struct val out = v;

	if (v.t != T_STR)
		return v;
	if (!v.s->len)
		return v_dict(j);
	if (json_parse(v.s->s, (size_t)v.s->len, NULL, &json, NULL))
		return v;
	/* json_value may stop for want of memory: the tree must go then, too */
	memcpy(&saved, &j->stop, sizeof(saved));
	if (setjmp(j->stop)) {
		memcpy(&j->stop, &saved, sizeof(saved));
		cJSON_Delete(json);
		longjmp(j->stop, 1);
	}
	if (cJSON_IsObject(json))
		out = json_value(j, json);
	memcpy(&j->stop, &saved, sizeof(saved));
	cJSON_Delete(json);
	return out;
}

static struct val read_calls(struct jin *j, struct val calls)
{
	struct val out = v_list(j, T_LIST, 0);

	if (calls.t != T_LIST)
		return calls;
	for (int64_t i = 0; i < calls.l->n; i++) {
		struct val call = calls.l->v[i], fn, args;

		fn = call.t == T_DICT ? member(j, call.d, "function") : v_none;
		if (fn.t == T_DICT && dict_get_text(j, fn.d, "arguments", &args))
			dict_set(j, fn.d, v_text(j, "arguments"), arguments_of(j, args));
		list_add(j, out.l, call);
	}
	return out;
}

static struct val read_message(struct jin *j, struct val m, bool join, bool parse)
{
	static const char *const names[] = { "reasoning_content", "thinking", "reasoning" };
	struct val out = v_dict(j), reasoning = v_none, v;

	for (int i = 0; i < 3 && reasoning.t == T_NONE; i++)
		reasoning = member(j, m.d, names[i]);
	if (reasoning.t != T_NONE)
		dict_set(j, out.d, v_text(j, "thinking"), reasoning);
	for (int64_t i = 0; i < m.d->n; i++) {
		v = m.d->e[i].v;
		if (v.t == T_NONE)
			continue;
		if (join && str_is(m.d->e[i].key, "content"))
			v = join_parts(j, v);
		if (parse && str_is(m.d->e[i].key, "tool_calls"))
			v = read_calls(j, v);
		dict_set(j, out.d, m.d->e[i].key, v);
	}
	if (reasoning.t != T_NONE)
		dict_set(j, out.d, v_text(j, "reasoning_content"), reasoning);
	return out;
}

static struct val listed(struct jin *j, const struct nvllm_chat_message *const *m)
{
	struct val out = v_list(j, T_LIST, 0);

	for (; m && *m; m++) {
		struct val d = v_dict(j);

		dict_set(j, d.d, v_text(j, "role"), v_copy(j, (*m)->role.s, (*m)->role.len));
		dict_set(j, d.d, v_text(j, "content"), v_copy(j, (*m)->content.s, (*m)->content.len));
		list_add(j, out.l, d);
	}
	return out;
}

static struct val read_messages(struct jin *j, const struct nvllm_chat_request *req, const struct dict *body,
	bool join, bool parse)
{
	struct val in = member(j, body, "messages"), out = v_list(j, T_LIST, 0);

	if (in.t == T_NONE)
		in = listed(j, req->messages);
	if (in.t != T_LIST)
		jin_fail(j, "\"messages\" is no list");
	for (int64_t i = 0; i < in.l->n; i++) {
		if (in.l->v[i].t != T_DICT)
			jin_fail(j, "message %lld is no object", (long long)i + 1);
		list_add(j, out.l, read_message(j, in.l->v[i], join, parse));
	}
	return out;
}

/* Marks the end of the last message, so that what a template puts behind it can be cut. */
static void mark_final(struct jin *j, struct asked *a, const struct list *messages)
{
	struct val v, tag = v_text(j, TAG);
	struct dict *last;

	if (!messages->n)
		jin_fail(j, "continue_final_message is set but the conversation is empty");
	last = messages->v[messages->n - 1].d;
	v = member(j, last, "content");
	if (v.t == T_LIST) {
		for (int64_t i = v.l->n; i > 0; i--) {
			struct val part = v.l->v[i - 1], text;

			if (part.t != T_DICT || !dict_get_text(j, part.d, "text", &text) || text.t != T_STR)
				continue;
			dict_set(j, part.d, v_text(j, "text"), str_concat(j, text, tag));
			a->tag = text.s;
			return;
		}
	}
	if (v.t != T_STR)
		jin_fail(j, "continue_final_message is set but the final message has no content to continue");
	dict_set(j, last, v_text(j, "content"), str_concat(j, v, tag));
	a->tag = v.s;
}

/* The prompt without what follows the final message. */
struct val request_cut(struct jin *j, const struct asked *a, struct val text)
{
	static const char *const tag = TAG;
	int64_t n = (int64_t)strlen(tag), i;
	struct val final;

	if (!a->tag)
		return text;
	final = str_strip(j, (struct val){ .t = T_STR, .s = a->tag }, v_absent, 3);
	i = str_find(j, text.s->s, text.s->len, tag, n - 1, true);
	if (i < 0 || str_find(j, text.s->s, text.s->len, final.s->s, final.s->len, false) < 0)
		jin_fail(j, "continue_final_message is set but the final message does not appear in "
			"the prompt: the template changes it");
	if (i + n <= text.s->len && text.s->s[i + n - 1] == ' ')
		return v_str(j, text.s->s, i);
	/* the template trims: so the message's own end is trimmed too */
	return str_strip(j, v_str(j, text.s->s, i), v_absent, 2);
}

void request_read(struct jin *j, const struct nvllm_chat_request *req, const struct cJSON *json,
	enum content content, bool parts, bool parts_tools, bool parse, struct asked *out)
{
	static const char *const own[] = { "messages", "chat_template", "tokenize" };
	struct val body = json ? json_value(j, json) : v_dict(j), messages, more, v;
	bool join, going;
	struct dict *d = out->context.d;

	if (body.t != T_DICT)
		jin_fail(j, "the request is no JSON object");
	more = member(j, body.d, "chat_template_kwargs");
	if (more.t != T_DICT && more.t != T_NONE)
		jin_fail(j, "\"chat_template_kwargs\" is no object");
	out->tools = (more.t == T_DICT && dict_get_text(j, more.d, "tools", &v) ? v :
		member(j, body.d, "tools")).t != T_NONE;
	join = content == CONTENT_JOIN || (content == CONTENT_AUTO && !(out->tools ? parts_tools : parts));
	messages = read_messages(j, req, body.d, join, parse);
	v = member(j, body.d, "continue_final_message");
	if (v.t != T_BOOL && v.t != T_NONE)
		jin_fail(j, "\"continue_final_message\" is neither true nor false");
	going = v_true_of(j, v);
	if (going && v_true_of(j, member(j, body.d, "add_generation_prompt")))
		jin_fail(j, "continue_final_message and add_generation_prompt exclude each other");
	if (going)
		mark_final(j, out, messages.l);
	dict_set(j, d, v_text(j, "messages"), messages);
	dict_set(j, d, v_text(j, "tools"), member(j, body.d, "tools"));
	dict_set(j, d, v_text(j, "documents"), member(j, body.d, "documents"));
	dict_set(j, d, v_text(j, "add_generation_prompt"), v_bool(req->add_generation_prompt && !going));
	v = member(j, body.d, "reasoning_effort");
	if (v.t != T_NONE)
		dict_set(j, d, v_text(j, "reasoning_effort"), v);
	for (int64_t i = 0; more.t == T_DICT && i < more.d->n; i++) {
		for (int k = 0; k < 3; k++)
			if (str_is(more.d->e[i].key, own[k]))
				jin_fail(j, "chat_template_kwargs cannot set '%s'", own[k]);
		dict_set(j, d, more.d->e[i].key, more.d->e[i].v);
	}
}
