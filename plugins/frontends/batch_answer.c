/* SPDX-License-Identifier: MIT */
/* frontends/batch_answer.c - keeps what the engine said of a request: it is called on
 * the engine's thread, so it copies and does nothing else. */
#include "batch.h"

#include <stdlib.h>
#include <string.h>

/* Room for n more elements of an array of cap with used of them taken. */
static bool room(
	struct batch_answer *a, void *array, size_t *cap, size_t used, size_t n, size_t size)
{
	size_t want, bytes, doubled = *cap ? 2 * *cap : 16;
	void *p;

	if (a->failed || __builtin_add_overflow(used, n, &want)) {
		a->failed = true;
		return false;
	}
	if (want <= *cap)
		return true;
	if (doubled < want)
		doubled = want;
	p = __builtin_mul_overflow(doubled, size, &bytes) ? NULL : realloc(*(void **)array, bytes);
	if (!p) {
		a->failed = true;
		return false;
	}
	*(void **)array = p;
	*cap = doubled;
	return true;
}

static void add_token(struct batch_answer *a, const struct nvllm_token *t, struct batch_token *out)
{
	*out = (struct batch_token){
		.id = t->id, .rank = t->rank, .logprob = t->logprob, .top_at = a->n_top
	};
	if (t->n_top <= 0 ||
		!room(a, &a->top, &a->cap_top, a->n_top, (size_t)t->n_top, sizeof(*a->top)))
		return;
	for (int32_t i = 0; i < t->n_top; i++)
		a->top[a->n_top++] = (struct batch_top){ t->top_ids[i], t->top_logprobs[i] };
	out->n_top = t->n_top;
}

static void add_tokens(struct batch_answer *a, const struct nvllm_event *ev,
	struct batch_token **list, size_t *used, size_t *cap)
{
	size_t n = ev->tokens && ev->n_tokens > 0 ? (size_t)ev->n_tokens : 0;

	if (!n || !room(a, list, cap, *used, n, sizeof(**list)))
		return;
	for (size_t i = 0; i < n; i++)
		add_token(a, ev->tokens[i], &(*list)[(*used)++]);
}

static void add_end(struct batch_answer *a, const struct nvllm_event *ev)
{
	a->finish = ev->finish;
	a->status = ev->status;
	a->stop_token = ev->stop_token;
	if (ev->stop_text) {
		a->stop_text = strdup(ev->stop_text);
		a->failed = a->failed || !a->stop_text;
	}
	if (ev->error)
		snprintf(a->error, sizeof(a->error), "%s", ev->error);
	if (ev->usage)
		memcpy(&a->usage, ev->usage,
			ev->usage->size < sizeof(a->usage) ? ev->usage->size : sizeof(a->usage));
}

bool batch_answer_add(struct batch_answer *a, const struct nvllm_event *ev)
{
	if (ev->type == NVLLM_EVENT_PROMPT)
		add_tokens(a, ev, &a->prompt, &a->n_prompt, &a->cap_prompt);
	else
		add_tokens(a, ev, &a->tokens, &a->n_tokens, &a->cap_tokens);
	if (ev->type != NVLLM_EVENT_PROMPT && ev->text.len > 0)
		json_put_raw(&a->text, ev->text.s, (size_t)ev->text.len);
	if (ev->type != NVLLM_EVENT_DONE)
		return false;
	add_end(a, ev);
	a->failed = a->failed || a->text.failed;
	return true;
}

void batch_answer_free(struct batch_answer *a)
{
	json_buf_free(&a->text);
	free(a->tokens);
	free(a->prompt);
	free(a->top);
	free(a->stop_text);
	memset(a, 0, sizeof(*a));
}
