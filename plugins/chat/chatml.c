/* SPDX-License-Identifier: MIT */
/* chatml.c - the ChatML form of a conversation, as SmolLM2 and Qwen were trained on:
 *
 *	<|im_start|>ROLE\nCONTENT<|im_end|>\n ... <|im_start|>assistant\n
 *
 * Decides that text goes in as it is: a marker inside a message is not escaped, which is
 * also what the models' own templates do. */
#include <nvllm/chat.h>
#include <nvllm/plugin.h>

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"

#define MARK     "<|im_start|>"
#define MAX_FILE (64 << 20)

struct chatml_conf {
	const char *system;
};

struct nvllm_chat {
	const struct nvllm_host *host;
	struct nvllm_str system;  /* empty = none; the core's */
};

/* Text that grows in a buffer that may be too small: n counts on, room bounds what is written. */
struct out {
	char *text;
	int64_t n, room;
};

static bool has_token(const struct nvllm_loader_ref *loader)
{
	struct nvllm_array a = { .size = sizeof(a) };
	const struct nvllm_str *s;

	if (!loader || !loader->vt->array ||
	    loader->vt->array(loader->loader, "tokenizer.ggml.tokens", &a) ||
	    a.type != NVLLM_ARRAY_STR)
		return false;
	s = a.data;
	for (int64_t i = 0; i < a.n; i++)
		if (s[i].len == sizeof(MARK) - 1 && !memcmp(s[i].s, MARK, sizeof(MARK) - 1))
			return true;
	return false;
}

/* Is the mark in the text of a file of the folder? */
static bool has_mark(const char *dir, const char *name)
{
	char path[4096], *text = NULL;
	bool found = false;
	FILE *f;

	if (snprintf(path, sizeof(path), "%s/%s", dir, name) >= (int)sizeof(path))
		return false;
	f = fopen(path, "rb");
	text = f ? malloc(MAX_FILE) : NULL;
	if (text)
		found = memmem(text, fread(text, 1, MAX_FILE, f), MARK, sizeof(MARK) - 1) != NULL;
	free(text);
	if (f)
		fclose(f);
	return found;
}

/* Below a plugin that has the checkpoint's own template. */
static int probe(const struct nvllm_loader_ref *loader, const char *path)
{
	return has_token(loader) || has_mark(path, "tokenizer_config.json") ||
		has_mark(path, "tokenizer.json") ? 20 : 0;
}

static int open(const struct nvllm_host *host, const struct nvllm_loader_ref *loader,
	const char *path, const void *conf, struct nvllm_chat **out)
{
	const struct chatml_conf *c = conf;
	struct nvllm_chat *chat = host->alloc(host, sizeof(*chat));

	if (!chat)
		return host->fail(host, NVLLM_ENOMEM, "no memory for the chat template");
	chat->host = host;
	if (c && c->system)
		chat->system = (struct nvllm_str){ c->system, (int64_t)strlen(c->system) };
	*out = chat;
	return NVLLM_OK;
}

static void put(struct out *o, struct nvllm_str s)
{
	int64_t left = o->room - o->n, n = s.len < left ? s.len : left;

	if (n > 0)
		memcpy(o->text + o->n, s.s, (size_t)n);
	o->n += s.len;
}

static void put_text(struct out *o, const char *s)
{
	put(o, (struct nvllm_str){ s, (int64_t)strlen(s) });
}

static void put_message(struct out *o, struct nvllm_str role, struct nvllm_str content)
{
	put_text(o, "<|im_start|>");
	put(o, role);
	put_text(o, "\n");
	put(o, content);
	put_text(o, "<|im_end|>\n");
}

/* What ChatML has no place for: a request that brings it is refused, not cut. */
static const char *stranger(const cJSON *body)
{
	static const char *const keys[] = { "tools", "documents", "chat_template_kwargs",
		"continue_final_message", "reasoning_effort" };
	const cJSON *m, *k;

	for (size_t i = 0; i < sizeof(keys) / sizeof(*keys); i++) {
		const cJSON *v = json_get(body, keys[i]);

		if (v && (v->child || cJSON_IsTrue(v) || cJSON_IsString(v)))
			return keys[i];
	}
	cJSON_ArrayForEach(m, json_get(body, "messages")) {
		if (!cJSON_IsObject(m))
			return "a message that is no object";
		cJSON_ArrayForEach(k, m)
			if (!strcmp(k->string, "role") || !strcmp(k->string, "content")) {
				if (!cJSON_IsString(k))
					return "content that is no text";
			} else if (!cJSON_IsNull(k)) {
				return k->string;
			}
	}
	return NULL;
}

static int check_body(const struct nvllm_host *host, struct nvllm_str body)
{
	struct json_error err;
	const char *what;
	cJSON *v;
	int rc = NVLLM_OK;

	if (body.len < 1)
		return NVLLM_OK;
	if (json_parse(body.s, (size_t)body.len, NULL, &v, &err))
		return host->fail(host, NVLLM_EINVAL, "the request's body: byte %zu: %s", err.offset + 1, err.why);
	what = stranger(v);
	if (what)
		rc = host->fail(host, NVLLM_EINVAL, "the chat template 'chatml' knows messages of role and text alone, "
			"and the request has %.60s: take a checkpoint with a template of its own, or leave it out", what);
	cJSON_Delete(v);
	return rc;
}

/* Lengths that can be added up, and roles that are there. */
static int check(const struct nvllm_host *host, const struct nvllm_chat_request *req)
{
	int64_t total = 0;

	for (int64_t i = 0; req->messages[i]; i++) {
		const struct nvllm_chat_message *m = req->messages[i];

		if (m->role.len <= 0)
			return host->fail(
				host, NVLLM_EINVAL, "message %lld has no role", (long long)i + 1);
		if (m->content.len < 0 || __builtin_add_overflow(total, m->role.len, &total) ||
		    __builtin_add_overflow(total, m->content.len, &total) ||
		    __builtin_add_overflow(total, 64, &total))
			return host->fail(host, NVLLM_EINVAL,
				"message %lld has a length that cannot be", (long long)i + 1);
	}
	return NVLLM_OK;
}

static int64_t render(
	struct nvllm_chat *c, const struct nvllm_chat_request *req, char *text, int64_t room)
{
	static const struct nvllm_str system = { "system", 6 };
	const struct nvllm_chat_message *const *m = req->messages, *first = m[0];
	struct out o = { .text = text, .room = text ? room : 0 };
	int rc = check(c->host, req);

	if (rc == 0)
		rc = check_body(c->host, req->body);
	if (rc < 0)
		return rc;
	if (first && c->system.len > 0 &&
	    (first->role.len != system.len || memcmp(first->role.s, system.s, 6) != 0))
		put_message(&o, system, c->system);
	for (; *m; m++)
		put_message(&o, (*m)->role, (*m)->content);
	if (req->add_generation_prompt)
		put_text(&o, "<|im_start|>assistant\n");
	return o.n;
}

static const char *stop(struct nvllm_chat *c)
{
	return "<|im_end|>";
}

static const struct nvllm_option options[] = {
	NVLLM_STR(chatml_conf, system, "system", "",
		"system message of conversations that begin without one; empty = none"),
	NVLLM_OPTIONS_END
};

static const struct nvllm_chat_vt vt = {
	.size = sizeof(vt), .probe = probe, .open = open, .render = render, .stop = stop,
};

static const struct nvllm_component chatml = {
	.size = sizeof(chatml), .kind = NVLLM_KIND_CHAT, .name = "chatml",
	.summary = "<|im_start|>role ... <|im_end|>, as SmolLM2 and Qwen were trained on",
	.vt = &vt, .options = options, .conf_size = sizeof(struct chatml_conf),
};

static const struct nvllm_component *const components[] = { &chatml, NULL };

const struct nvllm_plugin nvllm_plugin = {
	.abi = NVLLM_ABI, .size = sizeof(nvllm_plugin), .name = "chat_chatml", .version = "0.1.0",
	.components = components,
};
