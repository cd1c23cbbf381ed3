/* SPDX-License-Identifier: MIT */
/* frontends/shell_talk.c - a conversation as the text of a prompt: what was said, in
 * order, rendered whole each turn. */
#include "shell.h"

#include <stdlib.h>
#include <string.h>

static int no_memory(struct shell *sh)
{
	return sh->host->fail(sh->host, NVLLM_ENOMEM, "no memory for the conversation");
}

static int grow(struct shell_talk *t)
{
	int64_t cap = t->cap ? 2 * t->cap : 16;
	struct nvllm_chat_message *m = realloc(t->messages, (size_t)cap * sizeof(*m));
	const struct nvllm_chat_message **list;

	if (!m)
		return no_memory(t->sh);
	t->messages = m;
	list = realloc(t->list, (size_t)(cap + 1) * sizeof(*list));
	if (!list)
		return no_memory(t->sh);
	t->list = list;
	t->cap = cap;
	return 0;
}

int shell_talk_add(struct shell_talk *t, const char *role, const char *content, size_t len)
{
	char *copy;

	if (t->n == t->cap && grow(t))
		return NVLLM_ENOMEM;
	copy = malloc(len + 1);
	if (!copy)
		return no_memory(t->sh);
	memcpy(copy, content, len);
	copy[len] = '\0';
	t->messages[t->n] = (struct nvllm_chat_message){ .size = sizeof(*t->messages),
		.role = { role, (int64_t)strlen(role) }, .content = { copy, (int64_t)len } };
	t->n++;
	return 0;
}

void shell_talk_drop(struct shell_talk *t)
{
	if (t->n > 0)
		free((char *)(uintptr_t)t->messages[--t->n].content.s);
}

int shell_talk_begin(struct shell_talk *t, struct shell *sh)
{
	memset(t, 0, sizeof(*t));
	t->sh = sh;
	if (!sh->vt->info(sh->engine)->has_chat)
		return sh->host->fail(sh->host, NVLLM_ENOTSUP,
			"this model has no chat template: use --raw to give it text as "
			"it is, or choose a template with [chat] plugin");
	if (*sh->conf->template_kwargs) { /* an object: shell.c checked */
		json_put(&t->body, "{\"chat_template_kwargs\": ");
		json_put(&t->body, sh->conf->template_kwargs);
		json_put(&t->body, "}");
		if (t->body.failed)
			return no_memory(sh);
	}
	return *sh->conf->system
		? shell_talk_add(t, "system", sh->conf->system, strlen(sh->conf->system))
		: 0;
}

int shell_talk_render(struct shell_talk *t, struct nvllm_str *text)
{
	const struct nvllm_engine_vt *vt = t->sh->vt;
	struct nvllm_engine *engine = t->sh->engine;
	const struct nvllm_chat_request q = { .size = sizeof(q), .add_generation_prompt = 1,
		.messages = t->list, .body = { t->body.s, (int64_t)t->body.len } };
	int64_t n;
	char *s;

	for (int64_t i = 0; i < t->n; i++)
		t->list[i] = &t->messages[i];
	t->list[t->n] = NULL;
	n = vt->render(engine, &q, NULL, 0);
	if (n < 0)
		return shell_engine_failed(t->sh, (int)n);
	s = malloc((size_t)n + 1);
	if (!s)
		return no_memory(t->sh);
	if (vt->render(engine, &q, s, n) != n) {
		free(s);
		return t->sh->host->fail(
			t->sh->host, NVLLM_EINVAL, "the chat template gave two different texts");
	}
	*text = (struct nvllm_str){ s, n };
	return 0;
}

void shell_talk_end(struct shell_talk *t)
{
	while (t->n)
		shell_talk_drop(t);
	free(t->messages);
	free(t->list);
	json_buf_free(&t->body);
	memset(t, 0, sizeof(*t));
}
