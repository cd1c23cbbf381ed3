/* SPDX-License-Identifier: MIT */
/* frontends/batch_out.c - decides what a line of the output looks like: OpenAI's batch
 * object around OpenAI's completion object, with vLLM's extra members where vLLM puts
 * them (prompt_token_ids also at the top of the body, for both kinds). token_ids are all
 * that was sampled, the end token too; stop_reason is that token's id, or the stop text. */
#define _GNU_SOURCE
#include "batch.h"

#include <math.h>
#include <string.h>

/* JSON has no -inf; vLLM writes this in its place. */
#define LOWEST (-9999.0f)

/* One answer being written. */
struct out {
	struct json_buf *b;
	const struct batch_writer *w;
	const struct batch_request *r;
	const struct batch_answer *a;
	const struct batch_choice *c; /* the one being written */
};

static void put_str(struct json_buf *b, const char *s)
{
	if (s)
		json_put_string(b, s, strlen(s));
	else
		json_put(b, "null");
}

/* A key that is not the first of its object. */
static void put_key(struct json_buf *b, const char *key)
{
	json_put(b, ", \"");
	json_put(b, key);
	json_put(b, "\": ");
}

static const char *piece(const struct out *o, int32_t id, size_t *len)
{
	int32_t n = 0;
	const char *s = o->w->vt->piece(o->w->engine, id, 0, &n);

	*len = s && n > 0 ? (size_t)n : 0;
	return s ? s : "";
}

static void put_piece(const struct out *o, int32_t id)
{
	size_t n;
	const char *s = piece(o, id, &n);

	json_put_string(o->b, s, n);
}

static void put_logprob(struct json_buf *b, float v)
{
	json_put_float(b, isinf(v) && v < 0 ? LOWEST : v);
}

static void put_ids(struct json_buf *b, const int32_t *ids, size_t n)
{
	json_put(b, "[");
	for (size_t i = 0; i < n; i++) {
		json_put(b, i ? ", " : "");
		json_put_int(b, ids[i]);
	}
	json_put(b, "]");
}

static void put_token_ids(const struct out *o)
{
	put_key(o->b, "token_ids");
	if (!o->r->return_token_ids) {
		json_put(o->b, "null");
		return;
	}
	json_put(o->b, "[");
	for (size_t i = 0; i < o->c->tokens.n; i++) {
		json_put(o->b, i ? ", " : "");
		json_put_int(o->b, o->c->tokens.v[i].id);
	}
	json_put(o->b, "]");
}

static void put_prompt_ids(const struct out *o, const int32_t *ids)
{
	put_key(o->b, "prompt_token_ids");
	if (ids)
		put_ids(o->b, ids, (size_t)o->a->choices[0].usage.n_prompt);
	else
		json_put(o->b, "null");
}

/* ---- log probabilities ---- */

/* One entry of a map from text to logprob, unless the text is there already: two tokens
 * that are parts of characters may both read U+FFFD, and a key must not occur twice. */
static void put_top_entry(const struct out *o, size_t map, int32_t id, float logprob)
{
	struct json_buf *b = o->b;
	size_t from = b->len, key;

	json_put(b, b->len > map ? ", " : "");
	key = b->len;
	put_piece(o, id);
	json_put(b, ": ");
	if (!b->failed && memmem(b->s + map, from - map, b->s + key, b->len - key)) {
		b->len = from;
		return;
	}
	put_logprob(b, logprob);
}

/* "text": logprob, of one step: the sampled token, and the likeliest. */
static void put_top_map(const struct out *o, const struct batch_token *t)
{
	size_t map;

	json_put(o->b, "{");
	map = o->b->len;
	put_top_entry(o, map, t->id, t->logprob);
	for (int32_t i = 0; i < t->n_top; i++) {
		const struct batch_top *top = &o->c->tokens.top[t->top_at + (size_t)i];

		if (top->id != t->id)
			put_top_entry(o, map, top->id, top->logprob);
	}
	json_put(o->b, "}");
}

/* Characters (code points) of a piece as json_put_string writes it. */
static int64_t chars(const char *s, size_t n)
{
	struct json_buf b = { 0 };
	int64_t count = 0;

	json_put_string(&b, s, n);
	for (size_t i = 0; i < b.len; i++) {
		count += ((unsigned char)b.s[i] & 0xc0) != 0x80;
		if (b.s[i] == '\\')
			i += b.s[i + 1] == 'u' ? 5 : 1;
	}
	json_buf_free(&b);
	return count > 2 ? count - 2 : 0; /* without the quotes */
}

/* One of the parallel arrays of a completion's logprobs. */
static void put_column(const struct out *o, const char *key,
	void (*put)(const struct out *, const struct batch_token *, int64_t *at))
{
	int64_t at = 0;

	json_put(o->b, *key == '+' ? ", \"" : "\"");
	json_put(o->b, key + (*key == '+'));
	json_put(o->b, "\": [");
	for (size_t i = 0; i < o->c->tokens.n; i++) {
		json_put(o->b, i ? ", " : "");
		put(o, &o->c->tokens.v[i], &at);
	}
	json_put(o->b, "]");
}

static void put_offset(const struct out *o, const struct batch_token *t, int64_t *at)
{
	size_t n;
	const char *s = piece(o, t->id, &n);

	json_put_int(o->b, *at);
	*at += chars(s, n);
}

static void put_token_logprob(const struct out *o, const struct batch_token *t, int64_t *at)
{
	put_logprob(o->b, t->logprob);
}

static void put_token_text(const struct out *o, const struct batch_token *t, int64_t *at)
{
	put_piece(o, t->id);
}

static void put_token_top(const struct out *o, const struct batch_token *t, int64_t *at)
{
	put_top_map(o, t);
}

static void put_completion_logprobs(const struct out *o)
{
	json_put(o->b, "{");
	put_column(o, "text_offset", put_offset);
	put_column(o, "+token_logprobs", put_token_logprob);
	put_column(o, "+tokens", put_token_text);
	put_column(o, "+top_logprobs", put_token_top);
	json_put(o->b, "}");
}

/* "token": .., "logprob": .., "bytes": [..] of a chat's logprobs, the brace left open. */
static void put_chat_token(const struct out *o, int32_t id, float logprob)
{
	size_t n;
	const char *s = piece(o, id, &n);

	json_put(o->b, "{\"token\": ");
	json_put_string(o->b, s, n);
	put_key(o->b, "logprob");
	put_logprob(o->b, logprob);
	put_key(o->b, "bytes");
	json_put(o->b, "[");
	for (size_t i = 0; i < n; i++) {
		json_put(o->b, i ? ", " : "");
		json_put_int(o->b, (unsigned char)s[i]);
	}
	json_put(o->b, "]");
}

static void put_chat_logprobs(const struct out *o)
{
	json_put(o->b, "{\"content\": [");
	for (size_t i = 0; i < o->c->tokens.n; i++) {
		const struct batch_token *t = &o->c->tokens.v[i];

		json_put(o->b, i ? ", " : "");
		put_chat_token(o, t->id, t->logprob);
		put_key(o->b, "top_logprobs");
		json_put(o->b, "[");
		for (int32_t k = 0; k < t->n_top; k++) {
			const struct batch_top *top = &o->c->tokens.top[t->top_at + (size_t)k];

			json_put(o->b, k ? ", " : "");
			put_chat_token(o, top->id, top->logprob);
			json_put(o->b, "}");
		}
		json_put(o->b, "]}");
	}
	json_put(o->b, "]}");
}

static void put_logprobs(const struct out *o)
{
	put_key(o->b, "logprobs");
	if (o->r->params.logprobs == NVLLM_UNSET)
		json_put(o->b, "null");
	else if (o->r->api == BATCH_CHAT)
		put_chat_logprobs(o);
	else
		put_completion_logprobs(o);
}

static void put_prompt_entry(const struct out *o, int32_t id, float logprob, int32_t rank)
{
	json_put(o->b, "\"");
	json_put_int(o->b, id);
	json_put(o->b, "\": {\"logprob\": ");
	put_logprob(o->b, logprob);
	put_key(o->b, "rank");
	if (rank > 0)
		json_put_int(o->b, rank);
	else
		json_put(o->b, "null");
	put_key(o->b, "decoded_token");
	put_piece(o, id);
	json_put(o->b, "}");
}

/* One object a prompt token, keyed by id: the token itself, then the likeliest; null for
 * the first, which nothing foretells. */
static void put_prompt_logprobs(const struct out *o)
{
	const struct batch_answer *a = o->a;

	put_key(o->b, "prompt_logprobs");
	if (o->r->params.prompt_logprobs == NVLLM_UNSET) {
		json_put(o->b, "null");
		return;
	}
	json_put(o->b, "[");
	for (size_t i = 0; i < a->prompt.n; i++) {
		const struct batch_token *t = &a->prompt.v[i];

		json_put(o->b, i ? ", " : "");
		if (i == 0) {
			json_put(o->b, "null");
			continue;
		}
		json_put(o->b, "{");
		put_prompt_entry(o, t->id, t->logprob, t->rank);
		for (int32_t k = 0; k < t->n_top; k++) {
			const struct batch_top *top = &a->prompt.top[t->top_at + (size_t)k];

			if (top->id == t->id)
				continue;
			json_put(o->b, ", ");
			put_prompt_entry(o, top->id, top->logprob, k + 1);
		}
		json_put(o->b, "}");
	}
	json_put(o->b, "]");
}

/* ---- objects ---- */

/* A timeout, which no line asks for, would be "length": of the API's words it is the one that
 * says the answer was cut short by a limit. */
static void put_finish(const struct out *o)
{
	const struct batch_choice *c = o->c;

	put_key(o->b, "finish_reason");
	json_put(o->b, c->finish == NVLLM_FINISH_STOP ? "\"stop\"" : "\"length\"");
	put_key(o->b, "stop_reason");
	if (c->stop_text)
		put_str(o->b, c->stop_text);
	else if (c->stop_token >= 0)
		json_put_int(o->b, c->stop_token);
	else
		json_put(o->b, "null");
}

static void put_choice(const struct out *o, int32_t index, const int32_t *prompt_ids)
{
	const struct batch_choice *c = o->c;
	bool chat = o->r->api == BATCH_CHAT;

	json_put(o->b, "{\"index\": ");
	json_put_int(o->b, index);
	json_put(o->b, chat ? ", \"message\": {\"role\": \"assistant\", \"content\": "
		: ", \"text\": ");
	json_put_string(o->b, c->text.s ? c->text.s : "", c->text.len);
	json_put(o->b, chat ? "}" : "");
	put_logprobs(o);
	put_finish(o);
	put_token_ids(o);
	if (!chat) {
		put_prompt_logprobs(o);
		put_prompt_ids(o, prompt_ids);
	}
	json_put(o->b, "}");
}

static void put_choices(struct out *o, const int32_t *prompt_ids)
{
	put_key(o->b, "choices");
	json_put(o->b, "[");
	for (int32_t i = 0; i < o->a->n; i++) {
		o->c = &o->a->choices[i];
		json_put(o->b, i ? ", " : "");
		put_choice(o, i, prompt_ids);
	}
	json_put(o->b, "]");
}

static void put_usage(const struct out *o)
{
	int64_t prompt, output, cached;

	batch_answer_count(o->a, &prompt, &output, &cached);
	put_key(o->b, "usage");
	json_put(o->b, "{\"prompt_tokens\": ");
	json_put_int(o->b, prompt);
	put_key(o->b, "completion_tokens");
	json_put_int(o->b, output);
	put_key(o->b, "total_tokens");
	json_put_int(o->b, prompt + output);
	put_key(o->b, "prompt_tokens_details");
	json_put(o->b, "{\"cached_tokens\": ");
	json_put_int(o->b, cached);
	json_put(o->b, "}}");
}

/* An id: the same for one line of one run, another in another run. */
static void put_id(
	struct json_buf *b, const struct batch_writer *w, const char *prefix, int64_t line)
{
	char text[80];

	snprintf(text, sizeof(text), "\"%s%016llx%08llx\"", prefix, (unsigned long long)w->run,
		(unsigned long long)line);
	json_put(b, text);
}

/* The line's beginning, up to the body. */
static void put_head(struct json_buf *b, const struct batch_writer *w, int64_t line,
	const char *custom_id, int status)
{
	json_put(b, "{\"id\": ");
	put_id(b, w, "batch_req_", line);
	put_key(b, "custom_id");
	put_str(b, custom_id);
	put_key(b, "response");
	json_put(b, "{\"status_code\": ");
	json_put_int(b, status);
	put_key(b, "request_id");
	put_id(b, w, "req_", line);
	put_key(b, "body");
}

void batch_put_answer(struct json_buf *b, const struct batch_writer *w, int64_t line,
	const struct batch_request *r, const struct batch_answer *a, const int32_t *prompt_ids)
{
	struct out o = { b, w, r, a, NULL };
	bool chat = r->api == BATCH_CHAT;

	put_head(b, w, line, r->custom_id, 200);
	json_put(b, "{\"id\": ");
	put_id(b, w, chat ? "chatcmpl-" : "cmpl-", line);
	put_key(b, "object");
	json_put(b, chat ? "\"chat.completion\"" : "\"text_completion\"");
	put_key(b, "created");
	json_put_int(b, w->created);
	put_key(b, "model");
	put_str(b, w->model);
	put_choices(&o, prompt_ids);
	if (chat)
		put_prompt_logprobs(&o);
	put_prompt_ids(&o, prompt_ids);
	put_usage(&o);
	json_put(b, "}}, \"error\": null}");
}

void batch_put_refusal(struct json_buf *b, const struct batch_writer *w, int64_t line,
	const char *custom_id, const struct batch_error *err)
{
	bool ours = err->status >= 500;

	put_head(b, w, line, custom_id, err->status);
	json_put(b, "{\"error\": {\"message\": ");
	put_str(b, err->message);
	put_key(b, "type");
	json_put(b, ours ? "\"server_error\"" : "\"invalid_request_error\"");
	put_key(b, "param");
	put_str(b, *err->param ? err->param : NULL);
	put_key(b, "code");
	json_put_int(b, err->status);
	json_put(b, "}}}, \"error\": {\"code\": ");
	json_put(b, ours ? "\"server_error\"" : "\"invalid_request\"");
	put_key(b, "message");
	put_str(b, err->message);
	json_put(b, "}}");
}
