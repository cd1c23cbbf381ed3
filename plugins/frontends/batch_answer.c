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

static void add_token(
	struct batch_answer *a, struct batch_tokens *l, const struct nvllm_token *t, struct batch_token *out)
{
	*out = (struct batch_token){
		.id = t->id, .rank = t->rank, .logprob = t->logprob, .top_at = l->n_top
	};
	if (t->n_top <= 0 ||
		!room(a, &l->top, &l->cap_top, l->n_top, (size_t)t->n_top, sizeof(*l->top)))
		return;
	for (int32_t i = 0; i < t->n_top; i++)
		l->top[l->n_top++] = (struct batch_top){ t->top_ids[i], t->top_logprobs[i] };
	out->n_top = t->n_top;
}

static void add_tokens(struct batch_answer *a, struct batch_tokens *l, const struct nvllm_event *ev)
{
	size_t n = ev->tokens && ev->n_tokens > 0 ? (size_t)ev->n_tokens : 0;

	if (!n || !room(a, &l->v, &l->cap, l->n, n, sizeof(*l->v)))
		return;
	for (size_t i = 0; i < n; i++)
		add_token(a, l, ev->tokens[i], &l->v[l->n++]);
}

static void add_end(struct batch_answer *a, struct batch_choice *c, const struct nvllm_event *ev)
{
	c->finish = ev->finish;
	c->status = ev->status;
	c->stop_token = ev->stop_token;
	if (ev->stop_text) {
		c->stop_text = strdup(ev->stop_text);
		a->failed = a->failed || !c->stop_text;
	}
	if (ev->error)
		snprintf(c->error, sizeof(c->error), "%s", ev->error);
	if (ev->usage)
		memcpy(&c->usage, ev->usage,
			ev->usage->size < sizeof(c->usage) ? ev->usage->size : sizeof(c->usage));
	a->failed = a->failed || c->text.failed;
}

bool batch_answer_init(struct batch_answer *a, int64_t n)
{
	memset(a, 0, sizeof(*a));
	a->choices = calloc((size_t)n, sizeof(*a->choices));
	a->n = a->choices ? (int32_t)n : 0;
	for (int32_t i = 0; i < a->n; i++)
		a->choices[i].stop_token = -1;
	return a->choices != NULL;
}

bool batch_answer_add(struct batch_answer *a, const struct nvllm_event *ev)
{
	struct batch_choice *c = &a->choices[ev->choice];

	if (ev->type == NVLLM_EVENT_PROMPT) {
		add_tokens(a, &a->prompt, ev);
		return false;
	}
	add_tokens(a, &c->tokens, ev);
	if (ev->text.len > 0)
		json_put_raw(&c->text, ev->text.s, (size_t)ev->text.len);
	if (ev->type != NVLLM_EVENT_DONE)
		return false;
	add_end(a, c, ev);
	return ev->n_left == 0;
}

const struct batch_choice *batch_answer_find(const struct batch_answer *a, int finish)
{
	for (int32_t i = 0; i < a->n; i++)
		if (a->choices[i].finish == finish)
			return &a->choices[i];
	return NULL;
}

void batch_answer_count(const struct batch_answer *a, int64_t *prompt, int64_t *output, int64_t *cached)
{
	*prompt = a->choices[0].usage.n_prompt;
	*cached = a->choices[0].usage.n_cached;
	*output = 0;
	for (int32_t i = 0; i < a->n; i++) {
		const struct nvllm_usage *u = &a->choices[i].usage;

		*output += u->n_output;
		*cached = u->n_cached < *cached ? u->n_cached : *cached;
	}
}

void batch_answer_free(struct batch_answer *a)
{
	for (int32_t i = 0; i < a->n; i++) {
		struct batch_choice *c = &a->choices[i];

		json_buf_free(&c->text);
		free(c->tokens.v);
		free(c->tokens.top);
		free(c->stop_text);
	}
	free(a->choices);
	free(a->prompt.v);
	free(a->prompt.top);
	memset(a, 0, sizeof(*a));
}
