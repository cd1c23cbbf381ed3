/* SPDX-License-Identifier: MIT */
/* frontends/batch_parse.c - decides what a line of the input asks for, and refuses all
 * it does not understand: each key has a row in a table, and a key without a row is an
 * error of that line. Pure: no engine, no files. Names, defaults and ranges as vLLM's
 * OpenAI endpoints have them. */
#include "batch_parse.h"

#include <float.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define BOTH (BATCH_COMPLETION | BATCH_CHAT)

int batch_refuse(struct batch_error *err, int status, const char *param, const char *fmt, ...)
{
	va_list ap;

	err->status = status;
	snprintf(err->param, sizeof(err->param), "%s", param ? param : "");
	va_start(ap, fmt);
	vsnprintf(err->message, sizeof(err->message), fmt, ap);
	va_end(ap);
	return -1;
}

/* A value for a message: its number, or what kind of thing it is. */
static const char *shown(const cJSON *v, char buf[JSON_NUMBER_LEN])
{
	if (cJSON_IsNumber(v))
		return json_number_text(v, buf);
	return cJSON_IsString(v)    ? "a string"
		: cJSON_IsArray(v)  ? "an array"
		: cJSON_IsObject(v) ? "an object"
		: cJSON_IsTrue(v)   ? "true"
		: cJSON_IsFalse(v)  ? "false"
				    : "null";
}

int batch_wrong(struct reading *g, const char *name, const cJSON *v, const char *want)
{
	char buf[JSON_NUMBER_LEN];

	return batch_refuse(
		g->err, 400, name, "%s is %s: it must be %s", name, shown(v, buf), want);
}

/* ---- one function a kind of value ---- */

static int take_double(struct reading *g, const struct param *p, cJSON *v)
{
	double d;

	if (json_double(v, &d) || d < p->lo || d > p->hi)
		return batch_wrong(g, p->name, v, p->range);
	*(double *)((char *)&g->r->params + p->offset) = d;
	return 0;
}

static int take_int(struct reading *g, const struct param *p, cJSON *v)
{
	int64_t n;

	if (json_int64(v, &n) || n < p->ilo || n > p->ihi)
		return batch_wrong(g, p->name, v, p->range);
	*(int64_t *)((char *)&g->r->params + p->offset) = n;
	return 0;
}

/* A parameter nothing here takes, at the one value that does nothing. */
static int take_same(struct reading *g, const struct param *p, cJSON *v)
{
	double d;
	bool same = p->range ? cJSON_IsFalse(v) : !json_double(v, &d) && d == p->lo;
	char only[32];

	snprintf(only, sizeof(only), p->range ? "false" : "%g", p->lo);
	if (!same)
		return batch_refuse(g->err, 400, p->name,
			"nothing here takes %s: leave it out (or %s, which does nothing)", p->name,
			only);
	return 0;
}

static int take_bool(struct reading *g, const char *name, const cJSON *v, bool *out)
{
	if (!cJSON_IsBool(v))
		return batch_wrong(g, name, v, "true or false");
	*out = cJSON_IsTrue(v);
	return 0;
}

static int take_text(struct reading *g, const struct param *p, cJSON *v)
{
	return cJSON_IsString(v) ? 0 : batch_wrong(g, p->name, v, "a string");
}

/* Who shares cached prefixes: an empty one would be no secret, so vLLM refuses it too. */
static int take_salt(struct reading *g, const struct param *p, cJSON *v)
{
	if (!cJSON_IsString(v) || !*v->valuestring)
		return batch_wrong(g, p->name, v, "a text of at least one character");
	g->r->params.cache_salt = (struct nvllm_str){ v->valuestring, (int64_t)strlen(v->valuestring) };
	return 0;
}

static int take_ignore_eos(struct reading *g, const struct param *p, cJSON *v)
{
	bool on = false;
	int rc = take_bool(g, p->name, v, &on);

	g->r->params.ignore_eos = on;
	return rc;
}

static int take_return_ids(struct reading *g, const struct param *p, cJSON *v)
{
	return take_bool(g, p->name, v, &g->r->return_token_ids);
}

static int take_chat_logprobs(struct reading *g, const struct param *p, cJSON *v)
{
	return take_bool(g, p->name, v, &g->logprobs);
}

static int take_top_logprobs(struct reading *g, const struct param *p, cJSON *v)
{
	if (json_int64(v, &g->top_logprobs) || g->top_logprobs < 0 ||
		g->top_logprobs > BATCH_MAX_TOP)
		return batch_wrong(g, p->name, v, p->range);
	return 0;
}

static int take_max_tokens(struct reading *g, const struct param *p, cJSON *v)
{
	int64_t *out = strcmp(p->name, "max_tokens") ? &g->max_completion_tokens : &g->max_tokens;

	if (json_int64(v, out) || *out < 1)
		return batch_wrong(g, p->name, v, "a whole number, 1 or more");
	return 0;
}

/* As in vLLM, -1 asks for a seed of the engine's own. */
static int take_seed(struct reading *g, const struct param *p, cJSON *v)
{
	int64_t n;

	if (json_int64(v, &n) || n == NVLLM_UNSET)
		return batch_wrong(g, p->name, v, "a whole number above -2^63 and below 2^63");
	g->r->params.seed = n == -1 ? NVLLM_UNSET : n;
	return 0;
}

static int add_stop(struct reading *g, const cJSON *v)
{
	struct batch_request *r = g->r;

	if (!cJSON_IsString(v) || !*v->valuestring)
		return batch_wrong(
			g, "stop", v, "a text of at least one character, or a list of such texts");
	if (r->params.n_stops == BATCH_MAX_STOPS)
		return batch_refuse(
			g->err, 400, "stop", "stop has more than %d texts", BATCH_MAX_STOPS);
	r->stops[r->params.n_stops++] = (struct nvllm_str){ v->valuestring,
		(int64_t)strlen(v->valuestring) };
	r->params.stops = r->stops;
	return 0;
}

static int take_stop(struct reading *g, const struct param *p, cJSON *v)
{
	if (!cJSON_IsArray(v))
		return add_stop(g, v);
	for (cJSON *s = v->child; s; s = s->next)
		if (add_stop(g, s))
			return -1;
	return 0;
}

/* ---- the body ---- */

#define AT(m) offsetof(struct nvllm_params, m)
static const struct param params[] = {
	{ "model", BOTH, take_text },
	{ "user", BOTH, take_text },
	{ "prompt", BATCH_COMPLETION, batch_take_prompt },
	{ "messages", BATCH_CHAT, batch_take_messages },
	{ "max_tokens", BOTH, take_max_tokens },
	{ "max_completion_tokens", BATCH_CHAT, take_max_tokens },
	{ "temperature", BOTH, take_double, AT(temperature), 0, 1e6, 0, 0, "a number, 0 or more" },
	{ "top_p", BOTH, take_double, AT(top_p), DBL_TRUE_MIN, 1, 0, 0,
		"a number above 0 and at most 1" },
	{ "min_p", BOTH, take_double, AT(min_p), 0, 1, 0, 0, "a number from 0 to 1" },
	{ "typical_p", BOTH, take_double, AT(typical_p), DBL_TRUE_MIN, 1, 0, 0,
		"a number above 0 and at most 1" },
	{ "top_k", BOTH, take_int, AT(top_k), 0, 0, -1, INT64_MAX, "a whole number, -1 or more" },
	{ "repetition_penalty", BOTH, take_double, AT(repetition_penalty), DBL_TRUE_MIN, DBL_MAX, 0, 0,
		"a number above 0" },
	{ "presence_penalty", BOTH, take_double, AT(presence_penalty), -2, 2, 0, 0,
		"a number from -2 to 2" },
	{ "frequency_penalty", BOTH, take_double, AT(frequency_penalty), -2, 2, 0, 0,
		"a number from -2 to 2" },
	{ "logit_bias", BOTH, batch_take_bias },
	{ "allowed_token_ids", BOTH, batch_take_allowed },
	{ "bad_words", BOTH, batch_take_bad_words },
	{ "seed", BOTH, take_seed },
	{ "stop", BOTH, take_stop },
	{ "stop_token_ids", BOTH, batch_take_stop_ids },
	{ "min_tokens", BOTH, take_int, AT(min_tokens), 0, 0, 0, INT64_MAX, "a whole number, 0 or more" },
	{ "ignore_eos", BOTH, take_ignore_eos },
	{ "logprobs", BATCH_COMPLETION, take_int, AT(logprobs), 0, 0, 0, BATCH_MAX_TOP,
		"a whole number from 0 to 20" },
	{ "logprobs", BATCH_CHAT, take_chat_logprobs },
	{ "top_logprobs", BATCH_CHAT, take_top_logprobs, 0, 0, 0, 0, 0,
		"a whole number from 0 to 20" },
	{ "prompt_logprobs", BOTH, take_int, AT(prompt_logprobs), 0, 0, 0, BATCH_MAX_TOP,
		"a whole number from 0 to 20" },
	{ "return_token_ids", BOTH, take_return_ids },
	{ "n", BOTH, take_int, AT(n), 0, 0, 1, NVLLM_MAX_CHOICES, "a whole number from 1 to 128" },
	{ "priority", BOTH, take_int, AT(priority), 0, 0, NVLLM_UNSET + 1, INT64_MAX,
		"a whole number above -2^63 and below 2^63" },
	{ "cache_salt", BOTH, take_salt },
	{ "vllm_xargs", BOTH, batch_take_extra },
	{ "tools", BATCH_CHAT, batch_take_objects },
	{ "tool_choice", BATCH_CHAT, batch_take_tool_choice },
	{ "documents", BATCH_CHAT, batch_take_objects },
	{ "chat_template_kwargs", BATCH_CHAT, batch_take_kwargs },
	{ "reasoning_effort", BATCH_CHAT, batch_take_effort },
	{ "add_generation_prompt", BATCH_CHAT, batch_take_turn },
	{ "continue_final_message", BATCH_CHAT, batch_take_turn },
	{ "best_of", BATCH_COMPLETION, take_same, 0, 1 },
	{ "echo", BOTH, take_same, 0, 0, 0, 0, 0, "false" },
	{ "stream", BOTH, take_same, 0, 0, 0, 0, 0, "false" },
};
#undef AT
#define N_PARAMS (sizeof(params) / sizeof(params[0]))

/* Edits (insert, delete, replace; Levenshtein) from a to b; more than 3 counts as 9. */
static int distance(const char *a, const char *b)
{
	size_t n = strlen(a), m = strlen(b);
	int row[64];

	if (m >= 63 || n > m + 3 || m > n + 3)
		return 9;
	for (size_t j = 0; j <= m; j++)
		row[j] = (int)j;
	for (size_t i = 1; i <= n; i++) {
		int diagonal = row[0];

		row[0] = (int)i;
		for (size_t j = 1; j <= m; j++) {
			int best = diagonal + (a[i - 1] != b[j - 1]);

			diagonal = row[j];
			best = row[j] + 1 < best ? row[j] + 1 : best;
			row[j] = row[j - 1] + 1 < best ? row[j - 1] + 1 : best;
		}
	}
	return row[m] > 3 ? 9 : row[m];
}

/* The name nearest to word: at most 2 edits away, and fewer than half its letters. */
static const char *nearest(const char *word, const char *const *names, size_t n)
{
	const char *found = NULL;
	int best = 3;

	for (size_t i = 0; i < n; i++) {
		int d = distance(word, names[i]);

		if (d < best && 2 * (size_t)d < strlen(names[i])) {
			best = d;
			found = names[i];
		}
	}
	return found;
}

static int unknown(
	struct reading *g, const char *key, const char *where, const char *const *names, size_t n)
{
	const char *near = nearest(key, names, n);

	return batch_refuse(g->err, 400, key, "nothing here takes '%.60s' in %s%s%s%s", key, where,
		near ? "; did you mean '" : ": leave it out", near ? near : "", near ? "'?" : "");
}

static int take_param(struct reading *g, cJSON *v)
{
	const char *names[N_PARAMS];
	size_t n = 0;

	for (size_t i = 0; i < N_PARAMS; i++) {
		if (!(params[i].api & g->r->api))
			continue;
		if (!strcmp(params[i].name, v->string)) /* null is the same as not given */
			return cJSON_IsNull(v) ? 0 : params[i].take(g, &params[i], v);
		names[n++] = params[i].name;
	}
	return unknown(g, v->string, g->r->api == BATCH_CHAT ? "a chat completion" : "a completion",
		names, n);
}

/* What several keys decide together. */
static int settle(struct reading *g)
{
	struct batch_request *r = g->r;
	int64_t a = g->max_tokens, b = g->max_completion_tokens;

	if (r->api == BATCH_COMPLETION) {
		if (!r->prompt.s && !r->tokens)
			return batch_refuse(g->err, 400, "prompt", "body has no prompt");
		r->params.max_tokens = a == NVLLM_UNSET ? 16 : a;
		return 0;
	}
	if (!r->messages)
		return batch_refuse(g->err, 400, "messages", "body has no messages");
	if (a != NVLLM_UNSET && b != NVLLM_UNSET && a != b)
		return batch_refuse(g->err, 400, "max_tokens",
			"max_tokens is %lld and max_completion_tokens is %lld: they mean "
			"the same, give one",
			(long long)a, (long long)b);
	r->params.max_tokens = b == NVLLM_UNSET ? a : b;
	if (g->top_logprobs != NVLLM_UNSET && g->top_logprobs > 0 && !g->logprobs)
		return batch_refuse(
			g->err, 400, "top_logprobs", "top_logprobs needs logprobs to be true");
	if (g->logprobs)
		r->params.logprobs = g->top_logprobs == NVLLM_UNSET ? 0 : g->top_logprobs;
	return batch_settle_chat(g);
}

static int take_body(struct reading *g, cJSON *body)
{
	if (!cJSON_IsObject(body))
		return batch_refuse(g->err, 400, "body", "body is missing or no object");
	for (cJSON *v = body->child; v; v = v->next)
		if (take_param(g, v))
			return -1;
	return settle(g);
}

/* ---- the line ---- */

static int take_url(struct reading *g, const cJSON *url)
{
	if (!cJSON_IsString(url))
		return batch_refuse(g->err, 400, "url",
			"url is missing or no text: it must be /v1/completions or "
			"/v1/chat/completions");
	if (!strcmp(url->valuestring, "/v1/completions"))
		g->r->api = BATCH_COMPLETION;
	else if (!strcmp(url->valuestring, "/v1/chat/completions"))
		g->r->api = BATCH_CHAT;
	else
		return batch_refuse(g->err, 400, "url",
			"url is '%.80s': it must be /v1/completions or /v1/chat/completions",
			url->valuestring);
	return 0;
}

static int take_line(struct reading *g, const cJSON *line)
{
	static const char *const keys[] = { "custom_id", "method", "url", "body" };
	const cJSON *id = json_get(line, "custom_id"), *method = json_get(line, "method");

	if (!cJSON_IsObject(line))
		return batch_refuse(g->err, 400, NULL,
			"the line must be an object with custom_id, method, url and body");
	if (!cJSON_IsString(id) || !*id->valuestring)
		return batch_refuse(
			g->err, 400, "custom_id", "custom_id is missing, empty or no text");
	g->r->custom_id = id->valuestring;
	for (const cJSON *m = line->child; m; m = m->next) {
		size_t i = 0;

		while (i < 4 && strcmp(m->string, keys[i]))
			i++;
		if (i == 4)
			return unknown(g, m->string, "a line", keys, 4);
	}
	if (!cJSON_IsString(method) || strcmp(method->valuestring, "POST"))
		return batch_refuse(g->err, 400, "method", "method must be \"POST\"");
	return take_url(g, json_get(line, "url")) ? -1 : take_body(g, json_get(line, "body"));
}

int batch_parse(const char *line, size_t len, struct batch_request *out, struct batch_error *err)
{
	const struct json_limits limits = { .max_values = BATCH_MAX_VALUES };
	struct reading g = { .r = out,
		.err = err,
		.top_logprobs = NVLLM_UNSET,
		.max_tokens = NVLLM_UNSET,
		.max_completion_tokens = NVLLM_UNSET };
	struct json_error why;

	memset(out, 0, sizeof(*out));
	memset(err, 0, sizeof(*err));
	out->params = nvllm_params_none();
	if (json_parse(line, len, &limits, &out->json, &why))
		return batch_refuse(err, 400, NULL,
			"the line cannot be read as JSON: %s, at byte %zu", why.why, why.offset);
	return take_line(&g, out->json);
}

void batch_request_free(struct batch_request *r)
{
	cJSON_Delete(r->json);
	free(r->tokens);
	free(r->messages);
	free(r->message_list);
	json_buf_free(&r->body);
	free(r->bad_words);
	free(r->logit_bias);
	free(r->stop_token_ids);
	free(r->allowed_token_ids);
	json_buf_free(&r->extra);
	memset(r, 0, sizeof(*r));
}
