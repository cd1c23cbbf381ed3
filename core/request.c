/* SPDX-License-Identifier: MIT */
/* One request from submit to its last event: what it needs is allocated at the door, so
 * that steps allocate nothing; its events are made here. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine_int.h"

int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* splitmix64 (Steele, Lea, Flood 2014): one well-mixed number from two. */
static uint64_t mix(uint64_t a, uint64_t b)
{
	uint64_t x = a + b * 0x9E3779B97F4A7C15ull;

	x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
	x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
	return x ^ (x >> 31);
}

static int no_memory(void) { return fail(NVLLM_ENOMEM, "no memory for another request"); }

/* The prompt's ids into *out (malloc); a text far too long is refused before it is read. */
static int64_t prompt_ids(struct nvllm_engine *e, const struct nvllm_request *r, int32_t **out)
{
	int64_t limit = e->set.max_model_len, room, n;
	const struct source *src = e->source;

	if (r->tokens) {
		n = r->n_tokens;
		if (n > limit)
			return fail(NVLLM_EINVAL, "the prompt is %lld tokens long; this model's context is %lld: shorten it",
				(long long)n, (long long)limit);
		for (int64_t i = 0; i < n; i++)
			if (r->tokens[i] < 0 || r->tokens[i] >= e->rank.arch.vocab)
				return fail(NVLLM_EINVAL, "token %lld of the prompt is %d: ids are 0 to %lld", (long long)i,
					r->tokens[i], (long long)e->rank.arch.vocab - 1);
		*out = malloc((size_t)n * sizeof(**out) + 1);
		if (!*out)
			return no_memory();
		if (n)
			memcpy(*out, r->tokens, (size_t)n * sizeof(**out));
		return n;
	}
	if (r->prompt.len / src->tok_info.max_piece > limit)
		return fail(NVLLM_EINVAL, "the prompt is %lld bytes long, more than the context of %lld tokens can hold: "
			"shorten it", (long long)r->prompt.len, (long long)limit);
	room = r->prompt.len + 16 < limit + 1 ? r->prompt.len + 16 : limit + 1;
	*out = malloc((size_t)room * sizeof(**out));
	if (!*out)
		return no_memory();
	n = src->tok_vt->encode(src->tok, r->prompt.s, r->prompt.len, r->encode_flags, *out, room);
	if (n > limit)
		return fail(NVLLM_EINVAL, "the prompt is %lld tokens long; this model's context is %lld and must also hold "
			"the answer: shorten the prompt", (long long)n, (long long)limit);
	return n;
}

/* Room for the log probabilities of the prompt. */
static int prompt_room(struct request *q)
{
	int64_t n = q->seq.n_prompt, top = q->p.prompt_logprobs;

	q->ptok = calloc((size_t)n, sizeof(*q->ptok));
	q->plist = calloc((size_t)n + 1, sizeof(*q->plist));
	q->ptop_ids = calloc((size_t)(n * top) + 1, sizeof(*q->ptop_ids));
	q->ptop = calloc((size_t)(n * top) + 1, sizeof(*q->ptop));
	if (!q->ptok || !q->plist || !q->ptop_ids || !q->ptop)
		return no_memory();
	for (int64_t i = 0; i < n; i++) {
		q->ptok[i] = (struct nvllm_token){ .size = sizeof(*q->ptok), .id = q->seq.tokens[i], .logprob = NAN };
		q->plist[i] = &q->ptok[i];
	}
	return NVLLM_OK;
}

static int request_fill(struct nvllm_engine *e, const struct nvllm_request *r, struct request *q)
{
	int32_t *ids, pt = e->rank.layout.page_tokens;
	int64_t n = prompt_ids(e, r, &q->seq.tokens), n_max;
	int rc = n < 0 ? (int)n : params_resolve(e, r->params, n, &q->p);

	if (!rc)
		rc = sched_admissible(e->sched, n + q->p.max_tokens);
	if (rc)
		return rc;
	n_max = n + q->p.max_tokens;
	ids = realloc(q->seq.tokens, (size_t)n_max * sizeof(*ids));
	if (!ids)
		return no_memory();
	q->seq.tokens = ids;
	q->seq.n_prompt = (int32_t)n;
	q->seq.n_max = (int32_t)n_max;
	q->seq.all_logits = q->p.prompt_logprobs != NVLLM_UNSET;
	q->seq.pages = calloc((size_t)((n_max + pt - 1) / pt), sizeof(*q->seq.pages));
	q->text = text_create(q->p.stops, q->p.n_stops, e->source->tok_info.max_piece);
	q->p.stops = NULL; /* the caller's; text has its own */
	if (!q->seq.pages || !q->text)
		return no_memory();
	return q->seq.all_logits ? prompt_room(q) : NVLLM_OK;
}

int request_create(struct nvllm_engine *e, const struct nvllm_request *r, struct request **out)
{
	struct request *q = calloc(1, sizeof(*q));
	int rc;

	*out = NULL;
	if (!q)
		return no_memory();
	q->on_event = r->on_event;
	q->user = r->user;
	q->t_submit = now_ns();
	rc = request_fill(e, r, q);
	if (rc)
		request_destroy(q);
	else
		*out = q;
	return rc;
}

void request_name(struct nvllm_engine *e, struct request *q, uint64_t id)
{
	q->id = id;
	if (q->p.seed == NVLLM_UNSET)
		q->p.seed = (int64_t)mix(e->seed, id);
}

void request_destroy(struct request *q)
{
	if (!q)
		return;
	text_destroy(q->text);
	free(q->seq.tokens);
	free(q->seq.pages);
	free(q->ptok);
	free(q->plist);
	free(q->ptop_ids);
	free(q->ptop);
	free(q);
}

static void send(struct request *q, struct nvllm_event *ev)
{
	ev->size = sizeof(*ev);
	ev->id = q->id;
	if (q->on_event)
		q->on_event(q->user, ev);
}

/* What the step's arrays say of logits row `row`, for token id. */
static void read_row(const struct rank *r, int32_t row, int64_t want, int32_t id, struct nvllm_token *t)
{
	const struct step_out *o = &r->host_out;

	*t = (struct nvllm_token){ .size = sizeof(*t), .id = id, .logprob = NAN };
	if (want == NVLLM_UNSET)
		return;
	t->logprob = o->logprobs[row];
	t->rank = o->ranks[row];
	t->n_top = (int32_t)want;
	t->top_ids = o->top_ids + (int64_t)row * r->n_top;
	t->top_logprobs = o->top_logprobs + (int64_t)row * r->n_top;
}

/* Rows of the prompt say how likely the prompt's next token was. */
static void take_prompt(const struct rank *r, struct request *q, const struct sched_entry *s)
{
	int64_t top = q->p.prompt_logprobs;

	for (int32_t t = 0; t < s->n_logits; t++) {
		int32_t next = s->from + s->n - s->n_logits + t + 1;
		struct nvllm_token *k;

		if (next >= q->seq.n_prompt)
			break;
		k = &q->ptok[next];
		read_row(r, s->logit_from + t, top, q->seq.tokens[next], k);
		memcpy(q->ptop_ids + next * top, k->top_ids, (size_t)top * sizeof(*q->ptop_ids));
		memcpy(q->ptop + next * top, k->top_logprobs, (size_t)top * sizeof(*q->ptop));
		k->top_ids = q->ptop_ids + next * top;
		k->top_logprobs = q->ptop + next * top;
	}
}

static bool is_end(const struct nvllm_engine *e, const struct request *q, int32_t id)
{
	for (int i = 0; i < e->n_eos && !q->p.ignore_eos; i++)
		if (e->eos[i] == id)
			return true;
	return false;
}

void request_finish(struct request *q, int finish, int32_t stop_token,
	const char *stop_text, int status, const char *error)
{
	int64_t now = now_ns();
	struct nvllm_usage u = { .size = sizeof(u), .n_prompt = q->seq.n_prompt,
		.n_output = q->seq.n_tokens > q->seq.n_prompt ? q->seq.n_tokens - q->seq.n_prompt : 0,
		.n_cached = q->seq.n_cached, .started_ns = q->t_start ? q->t_start - q->t_submit : 0,
		.first_token_ns = q->t_first ? q->t_first - q->t_submit : 0, .done_ns = now - q->t_submit };
	struct nvllm_event ev = { .type = NVLLM_EVENT_DONE, .finish = finish, .stop_token = stop_token,
		.stop_text = stop_text, .status = status, .error = error, .usage = &u };

	ev.text = text_take(q->text, true);
	send(q, &ev);
}

bool request_advance(struct nvllm_engine *e, struct request *q, const struct sched_entry *s)
{
	int32_t row = s->logit_from + s->n_logits - 1, id, len = 0, n_out;
	const char *stop = NULL, *bytes;
	struct nvllm_token tok;
	const struct nvllm_token *list[2] = { &tok, NULL };
	struct nvllm_event ev = { .type = NVLLM_EVENT_TOKENS, .tokens = list, .n_tokens = 1, .stop_token = -1 };
	bool end;

	if (q->ptok)
		take_prompt(&e->rank, q, s);
	if (!s->samples)
		return false;
	id = e->rank.host_out.tokens[row];
	n_out = q->seq.n_tokens - q->seq.n_prompt;
	if (n_out == 1)
		q->t_first = now_ns();
	if (n_out == 1 && q->ptok)
		send(q, &(struct nvllm_event){ .type = NVLLM_EVENT_PROMPT, .tokens = q->plist,
			.n_tokens = q->seq.n_prompt, .stop_token = -1 });
	read_row(&e->rank, row, q->p.logprobs, id, &tok);
	end = is_end(e, q, id);
	bytes = e->source->tok_vt->piece(e->source->tok, id,
		NVLLM_PIECE_SKIP_SPECIAL | (n_out == 1 ? NVLLM_PIECE_FIRST : 0), &len);
	if (!end && bytes)
		stop = text_push(q->text, bytes, len);
	ev.text = text_take(q->text, false);
	send(q, &ev);
	if (!end && !stop && n_out < q->p.max_tokens)
		return false;
	request_finish(q, end || stop ? NVLLM_FINISH_STOP : NVLLM_FINISH_LENGTH, end ? id : -1, stop, 0, NULL);
	return true;
}
