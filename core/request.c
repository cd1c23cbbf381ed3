/* SPDX-License-Identifier: MIT */
/* One request and its choices: what they need is allocated at the door, so that steps
 * allocate nothing. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

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

	if (r->tokens ? r->n_tokens < 0 : r->prompt.len < 0)
		return fail(NVLLM_EINVAL, "the prompt has a length of %lld: it must be 0 or more",
			(long long)(r->tokens ? r->n_tokens : r->prompt.len));
	if (r->tokens) {
		n = r->n_tokens;
		if (n > limit)
			return fail(NVLLM_EINVAL, "the prompt is %lld tokens long; this model's context is %lld: shorten it",
				(long long)n, (long long)limit);
		for (int64_t i = 0; i < n; i++)
			if (r->tokens[i] < 0 || r->tokens[i] >= e->ranks[0].arch.vocab)
				return fail(NVLLM_EINVAL, "token %lld of the prompt is %d: ids are 0 to %lld", (long long)i,
					r->tokens[i], (long long)e->ranks[0].arch.vocab - 1);
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
	if (n > room && n <= limit) { /* a normaliser may make more of a text than it has bytes */
		free(*out);
		*out = malloc((size_t)n * sizeof(**out));
		if (!*out)
			return no_memory();
		room = n;
		n = src->tok_vt->encode(src->tok, r->prompt.s, r->prompt.len, r->encode_flags, *out, room);
	}
	if (n > limit)
		return fail(NVLLM_EINVAL, "the prompt is %lld tokens long; this model's context is %lld and must also hold "
			"the answer: shorten the prompt", (long long)n, (long long)limit);
	for (int64_t i = 0; i < n; i++)
		if ((*out)[i] < 0 || (*out)[i] >= e->ranks[0].arch.vocab)
			return fail(NVLLM_EINVAL, "token %lld of the prompt is %d, which the tokenizer has and the model has not: its "
				"vocabulary is %lld", (long long)i, (*out)[i], (long long)e->ranks[0].arch.vocab);
	return n;
}

/* Room for the log probabilities of the prompt. */
static int prompt_room(struct request *q, const int32_t *tokens, int64_t n)
{
	int64_t top = q->p.prompt_logprobs;

	q->ptok = calloc((size_t)n, sizeof(*q->ptok));
	q->plist = calloc((size_t)n + 1, sizeof(*q->plist));
	q->ptop_ids = calloc((size_t)(n * top) + 1, sizeof(*q->ptop_ids));
	q->ptop = calloc((size_t)(n * top) + 1, sizeof(*q->ptop));
	if (!q->ptok || !q->plist || !q->ptop_ids || !q->ptop)
		return no_memory();
	for (int64_t i = 0; i < n; i++) {
		q->ptok[i] = (struct nvllm_token){ .size = sizeof(*q->ptok), .id = tokens[i], .logprob = NAN };
		q->plist[i] = &q->ptok[i];
	}
	return NVLLM_OK;
}

/* Requests with different salts share no page. Keyed with a secret of the process, so that
 * nobody can choose a salt that meets another's. */
static uint64_t salt_of(const struct nvllm_engine *e, const struct nvllm_params *p)
{
	uint64_t h = p->cache_salt.s ? XXH3_64bits_withSeed(p->cache_salt.s, (size_t)p->cache_salt.len, e->salt_seed) : 0;

	return h || !p->cache_salt.s ? h : 1;
}

static int choice_fill(struct nvllm_engine *e, struct request *q, struct choice *c, const int32_t *ids, int64_t n,
	uint64_t salt)
{
	int64_t n_max = n + q->p.max_tokens, pt = e->ranks[0].layout.page_tokens;

	c->seq.tokens = malloc((size_t)n_max * sizeof(*ids));
	c->seq.pages = calloc((size_t)((n_max + pt - 1) / pt), sizeof(*c->seq.pages));
	c->text = text_create(q->p.stops, q->p.n_stops, e->source->tok_info.max_piece);
	if (!c->seq.tokens || !c->seq.pages || !c->text)
		return no_memory();
	memcpy(c->seq.tokens, ids, (size_t)n * sizeof(*ids));
	c->seq.n_prompt = (int32_t)n;
	c->seq.n_max = (int32_t)n_max;
	c->seq.all_logits = q->p.prompt_logprobs != NVLLM_UNSET;
	c->seq.salt = salt;
	c->seq.priority = q->p.priority;
	return NVLLM_OK;
}

/* The tokens that end the answer: the checkpoint's, then the request's own. */
static int end_ids(const struct nvllm_engine *e, struct request *q)
{
	q->end_ids = malloc(((size_t)e->n_eos + (size_t)q->p.n_stop_token_ids + 1) * sizeof(*q->end_ids));
	if (!q->end_ids)
		return no_memory();
	for (int i = 0; i < e->n_eos; i++)
		q->end_ids[q->n_end_ids++] = e->eos[i];
	q->n_eos = q->n_end_ids;
	for (int64_t i = 0; i < q->p.n_stop_token_ids; i++)
		q->end_ids[q->n_end_ids++] = q->p.stop_token_ids[i];
	return NVLLM_OK;
}

/* From here on the checkpoint's own end nothing, if the request says so. */
static void ignore_eos(struct request *q)
{
	q->n_end_ids -= q->n_eos;
	memmove(q->end_ids, q->end_ids + q->n_eos, (size_t)q->n_end_ids * sizeof(*q->end_ids));
	q->n_eos = 0;
}

/* The lists are the caller's: what is kept of them was copied. */
static void drop_lists(struct nvllm_params *p)
{
	p->stops = p->bad_words = NULL;
	p->logit_bias = NULL;
	p->stop_token_ids = p->allowed_token_ids = NULL;
	p->cache_salt.s = p->extra.s = NULL;
}

static int request_fill(struct nvllm_engine *e, struct request *q, const struct nvllm_params *p, const int32_t *ids, int64_t n)
{
	struct nvllm_logits_ask ask = { .size = sizeof(ask), .params = &q->p, .prompt = ids, .n_prompt = (int32_t)n };
	uint64_t salt = salt_of(e, p);
	int rc;

	q->p = *p;
	q->t_submit = now_ns();
	if (!isnan(p->timeout))
		q->deadline = q->t_submit + (int64_t)(p->timeout * 1e9);
	rc = end_ids(e, q);
	ask.end_ids = q->end_ids;
	ask.n_end_ids = q->n_end_ids;
	for (int32_t i = 0; i < p->n && !rc; i++, q->n++) {
		q->choice[i].req = q;
		q->choice[i].index = ask.choice = i;
		rc = choice_fill(e, q, &q->choice[i], ids, n, salt);
		rc = rc ? rc : process_ask(e, &q->choice[i], &ask);
	}
	if (!rc && p->ignore_eos)
		ignore_eos(q);
	q->n_left = q->n;
	drop_lists(&q->p);
	return rc || p->prompt_logprobs == NVLLM_UNSET ? rc : prompt_room(q, ids, n);
}

int request_create(struct nvllm_engine *e, const struct nvllm_request *r, struct request **out)
{
	struct nvllm_params p;
	struct request *q = NULL;
	int32_t *ids = NULL;
	int64_t n = prompt_ids(e, r, &ids);
	int rc = n < 0 ? (int)n : params_resolve(e, r->params, n, &p);

	*out = NULL;
	if (!rc)
		rc = sched_admissible(e->sched, n + p.max_tokens);
	if (!rc) {
		q = calloc(1, sizeof(*q) + (size_t)p.n * sizeof(q->choice[0]));
		if (q)
			q->engine = e;
		rc = q ? request_fill(e, q, &p, ids, n) : no_memory();
	}
	free(ids);
	if (rc) {
		request_destroy(q);
		return rc;
	}
	q->on_event = r->on_event;
	q->user = r->user;
	*out = q;
	return NVLLM_OK;
}

void request_name(struct nvllm_engine *e, struct request *q, uint64_t id)
{
	q->id = id;
	if (q->p.seed == NVLLM_UNSET)
		q->p.seed = (int64_t)mix(e->seed, id);
	for (int32_t i = 0; i < q->n && q->n > 1; i++)
		q->choice[i].seq.family = id;
}

void request_destroy(struct request *q)
{
	if (!q)
		return;
	for (int64_t i = 0; i < q->p.n && q->choice[i].req; i++) {
		process_forget(q->engine, &q->choice[i]);
		text_destroy(q->choice[i].text);
		free(q->choice[i].seq.tokens);
		free(q->choice[i].seq.pages);
	}
	free(q->end_ids);
	free(q->ptok);
	free(q->plist);
	free(q->ptop_ids);
	free(q->ptop);
	free(q);
}
