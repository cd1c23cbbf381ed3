/* SPDX-License-Identifier: MIT */
/* What a request's owner is told: the tokens of each landed step, their text, and the end. */
#include <string.h>

#include "engine_int.h"

static void send(struct request *q, struct nvllm_event *ev)
{
	ev->size = sizeof(*ev);
	ev->id = q->id;
	if (q->on_event)
		q->on_event(q->user, ev);
}

/* What the step's arrays say of logits row `row`, for token id. */
static void read_row(const struct flight *f, int32_t row, int64_t want, int32_t id, struct nvllm_token *t)
{
	const struct step_out *o = &f->out;

	*t = (struct nvllm_token){ .size = sizeof(*t), .id = id, .logprob = NAN };
	if (want == NVLLM_UNSET)
		return;
	t->logprob = o->logprobs[row];
	t->rank = o->ranks[row];
	t->n_top = (int32_t)want;
	t->top_ids = o->top_ids + (int64_t)row * f->n_top;
	t->top_logprobs = o->top_logprobs + (int64_t)row * f->n_top;
}

/* Rows of the prompt say how likely the prompt's next token was. */
static void take_prompt(const struct choice *c, const struct sched_entry *s, const struct flight *f)
{
	struct request *q = c->req;
	int64_t top = q->p.prompt_logprobs;

	for (int32_t t = 0; t < s->n_logits; t++) {
		int32_t next = s->from + s->n - s->n_logits + t + 1;
		struct nvllm_token *k;

		if (next >= c->seq.n_prompt)
			break;
		k = &q->ptok[next];
		read_row(f, s->logit_from + t, top, c->seq.tokens[next], k);
		memcpy(q->ptop_ids + next * top, k->top_ids, (size_t)top * sizeof(*q->ptop_ids));
		memcpy(q->ptop + next * top, k->top_logprobs, (size_t)top * sizeof(*q->ptop));
		k->top_ids = q->ptop_ids + next * top;
		k->top_logprobs = q->ptop + next * top;
	}
}

static void send_prompt(struct choice *c)
{
	struct request *q = c->req;

	if (!q->ptok || q->prompt_sent)
		return;
	q->prompt_sent = true;
	send(q, &(struct nvllm_event){ .type = NVLLM_EVENT_PROMPT, .tokens = q->plist, .n_tokens = c->seq.n_prompt,
		.stop_token = -1 });
}

static bool is_end(const struct request *q, int32_t id)
{
	for (int i = 0; i < q->n_end_ids; i++)
		if (q->end_ids[i] == id)
			return true;
	return false;
}

void choice_finish(struct choice *c, int finish, int32_t stop_token, const char *stop_text, int status, const char *error)
{
	struct request *q = c->req;
	const struct seq *s = &c->seq;
	/* a token drawn from logits that a processor could not finish was not answered */
	int32_t n_answer = s->n_known - s->n_prompt - (finish == NVLLM_FINISH_ERROR && c->failed);
	struct nvllm_usage u = { .size = sizeof(u), .n_prompt = s->n_prompt,
		.n_output = n_answer > 0 ? n_answer : 0,
		.n_cached = s->n_cached, .n_preempted = s->n_preempted,
		.started_ns = c->t_start ? c->t_start - q->t_submit : 0,
		.first_token_ns = c->t_first ? c->t_first - q->t_submit : 0, .done_ns = now_ns() - q->t_submit };
	struct nvllm_event ev = { .type = NVLLM_EVENT_DONE, .choice = c->index, .finish = finish, .stop_token = stop_token,
		.stop_text = stop_text, .status = status, .error = error, .usage = &u, .n_left = --q->n_left };

	c->over = true;
	ev.text = text_take(c->text, true);
	send(q, &ev);
}

/* The new token's text goes to the answer. Returns the stop text that ends it, or NULL. */
static const char *add_text(struct nvllm_engine *e, struct choice *c, int32_t id, int32_t n_out)
{
	const struct source *s = e->source;
	uint32_t flags = NVLLM_PIECE_SKIP_SPECIAL;
	int32_t len = 0;
	const char *bytes = s->tok_vt->piece(s->tok, id, flags, &len);

	if (!bytes || !len)
		return NULL;
	if (!c->begun)
		bytes = s->tok_vt->piece(s->tok, id, flags | NVLLM_PIECE_FIRST, &len);
	c->begun = true;
	return text_push(c->text, bytes, len, source_byte(s, id), n_out > c->req->p.min_tokens);
}

bool choice_advance(struct nvllm_engine *e, struct choice *c, const struct sched_entry *s, const struct flight *f)
{
	int32_t row = s->logit_from + s->n_logits - 1, id, n_out;
	struct request *q = c->req;
	const char *stop = NULL;
	struct nvllm_token tok;
	const struct nvllm_token *list[2] = { &tok, NULL };
	struct nvllm_event ev = { .type = NVLLM_EVENT_TOKENS, .choice = c->index, .tokens = list, .n_tokens = 1,
		.stop_token = -1 };
	bool end;

	if (q->ptok && !q->prompt_sent)
		take_prompt(c, s, f);
	if (!s->samples)
		return false;
	if (c->failed) {
		choice_finish(c, NVLLM_FINISH_ERROR, -1, NULL, c->failed, c->why);
		return true;
	}
	id = f->out.tokens[row];
	n_out = c->seq.n_known - c->seq.n_prompt;
	if (n_out == 1)
		c->t_first = now_ns();
	send_prompt(c);
	read_row(f, row, q->p.logprobs, id, &tok);
	end = is_end(q, id);
	if (!end)
		stop = add_text(e, c, id, n_out);
	ev.text = text_take(c->text, false);
	send(q, &ev);
	if (!end && !stop && n_out < q->p.max_tokens)
		return false;
	choice_finish(c, end || stop ? NVLLM_FINISH_STOP : NVLLM_FINISH_LENGTH, end ? id : -1, stop, 0, NULL);
	return true;
}
