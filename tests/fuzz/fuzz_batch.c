/* SPDX-License-Identifier: MIT */
/* Bytes as one line of a batch file. Whatever they are: the line is read or refused with
 * a sentence, and what is written of it - the refusal, or an answer whose tokens are
 * pieces of the same bytes - is a line of strict JSON that carries the custom_id. */
#include <stdlib.h>
#include <string.h>

#include "../../plugins/frontends/batch.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define N_TOKENS 6

struct nvllm_engine {
	const char *bytes;
	size_t len;
};

/* Token t is a slice of the input, any bytes at all. */
static const char *piece(struct nvllm_engine *e, int32_t token, uint32_t flags, int32_t *len)
{
	size_t at = e->len ? (size_t)token * 7 % e->len : 0, n = (size_t)token % 5;

	*len = (int32_t)(n < e->len - at ? n : e->len - at);
	return e->bytes + at;
}

static const struct nvllm_engine_vt vt = { .size = sizeof(vt), .piece = piece };

/* Says all there is to say of one choice, as the engine would. True: it was the last. */
static bool fill_choice(
	struct batch_answer *a, const struct batch_request *r, int32_t choice, const char *s, size_t n)
{
	const int32_t ids[3] = { 3, 8, 4 };
	const float lps[3] = { -0.5f, -1.25f, -1e30f * 1e30f };
	struct nvllm_token t[N_TOKENS];
	const struct nvllm_token *list[N_TOKENS + 1] = { NULL };
	struct nvllm_usage u = { .size = sizeof(u), .n_prompt = 2, .n_output = N_TOKENS };
	struct nvllm_event ev = { .size = sizeof(ev), .type = NVLLM_EVENT_PROMPT, .tokens = list,
		.n_tokens = N_TOKENS };

	for (int i = 0; i < N_TOKENS; i++) {
		t[i] = (struct nvllm_token){ .size = sizeof(t[i]),
			.id = i,
			.logprob = -1.5f * (float)i,
			.rank = i,
			.n_top = i % 4,
			.top_ids = ids,
			.top_logprobs = lps };
		list[i] = &t[i];
	}
	if (r->params.prompt_logprobs != NVLLM_UNSET && !a->prompt.n)
		batch_answer_add(a, &ev);
	ev.choice = choice;
	ev.type = NVLLM_EVENT_TOKENS;
	ev.text = (struct nvllm_str){ s, (int64_t)(n < 40 ? n : 40) };
	batch_answer_add(a, &ev);
	ev.type = NVLLM_EVENT_DONE;
	ev.n_tokens = 0;
	ev.finish = NVLLM_FINISH_STOP;
	ev.stop_token = n & 1 ? 7 : -1;
	ev.stop_text = r->params.n_stops ? "stop" : NULL;
	ev.usage = &u;
	ev.n_left = choice; /* the last one ends first */
	return batch_answer_add(a, &ev);
}

static void fill_answer(
	struct batch_answer *a, const struct batch_request *r, const char *s, size_t n)
{
	int64_t choices = r->params.n == NVLLM_UNSET ? 1 : r->params.n;

	if (!batch_answer_init(a, choices))
		abort();
	for (int32_t k = (int32_t)choices - 1; k >= 0; k--)
		if (fill_choice(a, r, k, s, n) != (k == 0) || a->failed)
			abort();
}

/* The line must be one line, strict JSON, with the same custom_id. */
static void check_line(const struct json_buf *b, const char *custom_id)
{
	struct json_error why;
	const cJSON *id;
	cJSON *v;

	if (b->failed || memchr(b->s, '\n', b->len) || json_parse(b->s, b->len, NULL, &v, &why))
		abort();
	id = json_get(v, "custom_id");
	if (custom_id ? !cJSON_IsString(id) || strcmp(id->valuestring, custom_id)
		      : !cJSON_IsNull(id))
		abort();
	if (!json_get(json_get(v, "response"), "status_code") || !json_get(v, "error"))
		abort();
	cJSON_Delete(v);
}

/* Text that is made of a part of the line: strict JSON, an object. */
static void check_object(const struct json_buf *b)
{
	struct json_error why;
	cJSON *v;

	if (b->failed || json_parse(b->s, b->len, NULL, &v, &why) || !cJSON_IsObject(v))
		abort();
	cJSON_Delete(v);
}

static void check_lists(const struct nvllm_params *p)
{
	for (int64_t i = 0; i < p->n_logit_bias; i++)
		if (p->logit_bias[i].token < 0 || !(fabsf(p->logit_bias[i].bias) <= 100))
			abort();
	for (int64_t i = 0; i < p->n_stop_token_ids; i++)
		if (p->stop_token_ids[i] < 0)
			abort();
	for (int64_t i = 0; i < p->n_allowed_token_ids; i++)
		if (p->allowed_token_ids[i] < 0)
			abort();
	for (int64_t i = 0; i < p->n_bad_words; i++)
		if (p->bad_words[i].len < 1)
			abort();
	if (p->repetition_penalty <= 0 || p->typical_p <= 0 || fabs(p->presence_penalty) > 2 ||
		fabs(p->frequency_penalty) > 2)
		abort();
}

/* What holds of every line that was read. */
static void check_request(const struct batch_request *r)
{
	bool chat = r->api == BATCH_CHAT;

	if (!r->custom_id || (chat ? !r->messages : !r->prompt.s && !r->tokens))
		abort();
	if (r->params.max_tokens != NVLLM_UNSET && r->params.max_tokens < 1)
		abort();
	if (r->params.temperature < 0 || r->params.top_p <= 0 || r->params.top_p > 1 ||
		r->params.n_stops > BATCH_MAX_STOPS)
		abort();
	if (r->params.n != NVLLM_UNSET && (r->params.n < 1 || r->params.n > NVLLM_MAX_CHOICES))
		abort();
	if (r->params.cache_salt.s && r->params.cache_salt.len < 1)
		abort();
	check_lists(&r->params);
	if (chat)
		check_object(&r->body);
	if (r->params.extra.s)
		check_object(&r->extra);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct nvllm_engine engine = { (const char *)data, size };
	const struct batch_writer w = { .vt = &vt, .engine = &engine, .model = "m" };
	const int32_t prompt_ids[2] = { 1, 2 };
	struct batch_answer a = { 0 };
	struct batch_request r;
	struct batch_error err;
	struct json_buf out = { 0 };

	if (batch_parse((const char *)data, size, &r, &err)) {
		if (err.status < 400 || !*err.message)
			abort();
		batch_put_refusal(&out, &w, 1, r.custom_id, &err);
	} else {
		check_request(&r);
		fill_answer(&a, &r, (const char *)data, size);
		batch_put_answer(&out, &w, 1, &r, &a, r.return_token_ids ? prompt_ids : NULL);
	}
	check_line(&out, r.custom_id);
	json_buf_free(&out);
	batch_answer_free(&a);
	batch_request_free(&r);
	return 0;
}
