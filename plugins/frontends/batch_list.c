/* SPDX-License-Identifier: MIT */
/* frontends/batch_list.c - decides what a list of token ids, of texts or of biases may be.
 * The engine checks ids against the vocabulary; here they are numbers that can be ids. */
#include "batch_parse.h"

#include <stdlib.h>
#include <string.h>

static int no_memory(struct reading *g, const char *name)
{
	return batch_refuse(g->err, 500, name, "no memory for %s", name);
}

/* [*n] ids; *out is allocated, also where one of them is refused. */
static int take_ids(struct reading *g, const char *name, cJSON *v, int32_t **out, int64_t *n)
{
	int64_t id, i = 0;

	if (!cJSON_IsArray(v))
		return batch_wrong(g, name, v, "a list of token ids");
	*out = calloc((size_t)cJSON_GetArraySize(v) + 1, sizeof(**out));
	if (!*out)
		return no_memory(g, name);
	for (const cJSON *e = v->child; e; e = e->next, i++) {
		if (json_int64(e, &id) || id < 0 || id > INT32_MAX)
			return batch_refuse(g->err, 400, name, "%s[%lld] is no token id", name,
				(long long)i);
		(*out)[i] = (int32_t)id;
	}
	*n = i;
	return 0;
}

int batch_take_stop_ids(struct reading *g, const struct param *p, cJSON *v)
{
	struct batch_request *r = g->r;
	int rc = take_ids(g, p->name, v, &r->stop_token_ids, &r->params.n_stop_token_ids);

	r->params.stop_token_ids = r->stop_token_ids;
	return rc;
}

int batch_take_allowed(struct reading *g, const struct param *p, cJSON *v)
{
	struct batch_request *r = g->r;

	if (take_ids(g, p->name, v, &r->allowed_token_ids, &r->params.n_allowed_token_ids))
		return -1;
	r->params.allowed_token_ids = r->allowed_token_ids;
	if (!r->params.n_allowed_token_ids)
		return batch_refuse(g->err, 400, p->name,
			"allowed_token_ids is empty: it would allow nothing; leave it out");
	return 0;
}

int batch_take_bad_words(struct reading *g, const struct param *p, cJSON *v)
{
	struct batch_request *r = g->r;
	int64_t n = 0;

	if (!cJSON_IsArray(v))
		return batch_wrong(g, p->name, v, "a list of texts");
	r->bad_words = calloc((size_t)cJSON_GetArraySize(v) + 1, sizeof(*r->bad_words));
	if (!r->bad_words)
		return no_memory(g, p->name);
	for (const cJSON *e = v->child; e; e = e->next, n++) {
		if (!cJSON_IsString(e) || !*e->valuestring)
			return batch_refuse(g->err, 400, p->name,
				"bad_words[%lld] must be a text of at least one character",
				(long long)n);
		r->bad_words[n] = (struct nvllm_str){ e->valuestring,
			(int64_t)strlen(e->valuestring) };
	}
	r->params.bad_words = r->bad_words;
	r->params.n_bad_words = n;
	return 0;
}

/* A key of logit_bias: digits alone. */
static int token_key(const char *s, int32_t *out)
{
	size_t n = strspn(s, "0123456789");
	long long id;

	if (!n || s[n] || n > 10)
		return -1;
	id = strtoll(s, NULL, 10);
	if (id > INT32_MAX)
		return -1;
	*out = (int32_t)id;
	return 0;
}

/* Token ids, as texts, to numbers; those beyond 100 are cut to it, as vLLM does. */
int batch_take_bias(struct reading *g, const struct param *p, cJSON *v)
{
	struct batch_request *r = g->r;
	int64_t n = 0;
	double d;

	if (!cJSON_IsObject(v))
		return batch_wrong(g, p->name, v, "an object of token ids and numbers");
	r->logit_bias = calloc((size_t)cJSON_GetArraySize(v) + 1, sizeof(*r->logit_bias));
	if (!r->logit_bias)
		return no_memory(g, p->name);
	for (const cJSON *e = v->child; e; e = e->next, n++) {
		if (token_key(e->string, &r->logit_bias[n].token))
			return batch_refuse(g->err, 400, p->name,
				"logit_bias has the key '%.60s': it must be a token id", e->string);
		if (json_double(e, &d))
			return batch_refuse(g->err, 400, p->name,
				"logit_bias of token %s must be a number from -100 to 100", e->string);
		r->logit_bias[n].bias = (float)(d < -100 ? -100 : d > 100 ? 100 : d);
	}
	r->params.logit_bias = r->logit_bias;
	r->params.n_logit_bias = n;
	return 0;
}

/* An object for the processors of logits, which know its members. */
int batch_take_extra(struct reading *g, const struct param *p, cJSON *v)
{
	struct batch_request *r = g->r;

	if (!cJSON_IsObject(v))
		return batch_wrong(g, p->name, v, "an object");
	batch_put_value(&r->extra, v);
	if (r->extra.failed)
		return no_memory(g, p->name);
	r->params.extra = (struct nvllm_str){ r->extra.s, (int64_t)r->extra.len };
	return 0;
}
