/* SPDX-License-Identifier: MIT */
/* spm_config.c - decides what the tokenizer_config.json beside a tokenizer.model adds to it:
 * added tokens, which tokens begin and end a text, and how spaces before words are made. What
 * transformers does with the two files when there is no tokenizer.json is the measure. */
#include "spm.h"

#include <stdlib.h>

/* Ids that a file may leave out between the model's last one and an added one. */
#define MAX_BEYOND (1 << 20)
#define N_NAMED 3 /* bos, eos, pad */

struct config {
	const struct nvllm_host *host;
	const char *where;
	const cJSON *root;
	struct spm_source *s;
};

static int bad_key(const struct config *c, const char *key, const char *want)
{
	return c->host->fail(c->host, NVLLM_EINVAL, "%s: '%s' is not %s", c->where, key, want);
}

static int get_bool(const struct config *c, const cJSON *obj, const char *key, bool *out)
{
	const cJSON *v = json_get(obj, key);

	if (!v || cJSON_IsNull(v))
		return NVLLM_OK;
	if (!cJSON_IsBool(v))
		return bad_key(c, key, "true or false");
	*out = cJSON_IsTrue(v);
	return NVLLM_OK;
}

static struct nvllm_str copy(const struct config *c, const char *s)
{
	size_t len = strlen(s);
	char *p = c->host->alloc(c->host, len + 1);

	if (p)
		memcpy(p, s, len);
	return (struct nvllm_str){ p, p ? (int64_t)len : 0 };
}

static int added_flags(const struct config *c, const cJSON *v, struct spm_added *a)
{
	int rc;

	/* AddedToken's defaults: a token that is not special is looked for in normalised text */
	if ((rc = get_bool(c, v, "special", &a->special)) < 0)
		return rc;
	a->normalized = !a->special;
	if ((rc = get_bool(c, v, "lstrip", &a->lstrip)) < 0 ||
	    (rc = get_bool(c, v, "rstrip", &a->rstrip)) < 0 ||
	    (rc = get_bool(c, v, "single_word", &a->single_word)) < 0)
		return rc;
	return get_bool(c, v, "normalized", &a->normalized);
}

static int added_one(const struct config *c, const cJSON *v, struct spm_added *a)
{
	const char *text = cJSON_GetStringValue(json_get(v, "content"));
	char *end = NULL;
	long id = v->string ? strtol(v->string, &end, 10) : -1;

	*a = (struct spm_added){ 0 };
	if (!end || *end || end == v->string || id < 0 || id >= HF_MAX_IDS || id > c->s->n + MAX_BEYOND)
		return c->host->fail(c->host, NVLLM_EINVAL,
			"%s: added_tokens_decoder: '%.40s' is no id of a vocabulary of %lld pieces", c->where,
			v->string ? v->string : "", (long long)c->s->n);
	if (!text || !*text || strlen(text) > SPM_MAX_PIECE)
		return c->host->fail(c->host, NVLLM_EINVAL,
			"%s: added_tokens_decoder: token %ld has no 'content' of 1..%d bytes", c->where, id,
			SPM_MAX_PIECE);
	a->id = (int32_t)id;
	a->text = copy(c, text);
	if (!a->text.s)
		return c->host->fail(c->host, NVLLM_ENOMEM, "no memory for the added tokens");
	return added_flags(c, v, a);
}

/* What the file lists, before what the model's own control tokens were taken for. */
static int added_all(const struct config *c)
{
	const cJSON *list = json_get(c->root, "added_tokens_decoder"), *v;
	struct spm_source *s = c->s;
	struct spm_added *old = s->added;
	int32_t n_old = s->n_added;
	uint8_t *listed;
	int rc = NVLLM_OK;

	if (list && !cJSON_IsNull(list) && !cJSON_IsObject(list))
		return bad_key(c, "added_tokens_decoder", "an object of ids");
	/* and room for those that are named alone */
	s->added = c->host->alloc(
		c->host, ((size_t)n_old + (size_t)cJSON_GetArraySize(list) + N_NAMED) * sizeof(*old));
	listed = calloc(HF_MAX_IDS, 1);
	if (!s->added || !listed)
		rc = c->host->fail(c->host, NVLLM_ENOMEM, "no memory for the added tokens");
	s->n_added = 0;
	cJSON_ArrayForEach(v, list) {
		if (rc >= 0)
			rc = added_one(c, v, &s->added[s->n_added]);
		if (rc < 0)
			break;
		listed[s->added[s->n_added++].id] = 1;
	}
	for (int32_t i = 0; i < n_old && rc >= 0; i++)
		if (!listed[old[i].id])
			s->added[s->n_added++] = old[i];
	free(listed);
	return rc;
}

/* Ids beyond the model's, and other texts for the model's ids. */
static int extend(const struct config *c)
{
	struct spm_source *s = c->s, old = *s;

	for (int32_t i = 0; i < s->n_added; i++)
		s->n = s->added[i].id >= s->n ? s->added[i].id + 1 : s->n;
	if (s->n > old.n) {
		s->tokens = c->host->alloc(c->host, (size_t)s->n * sizeof(*s->tokens));
		s->scores = c->host->alloc(c->host, (size_t)s->n * sizeof(*s->scores));
		s->types = c->host->alloc(c->host, (size_t)s->n);
		if (!s->tokens || !s->scores || !s->types)
			return c->host->fail(c->host, NVLLM_ENOMEM, "no memory for the added tokens");
		memcpy(s->tokens, old.tokens, (size_t)old.n * sizeof(*s->tokens));
		memcpy(s->scores, old.scores, (size_t)old.n * sizeof(*s->scores));
		memcpy(s->types, old.types, (size_t)old.n);
		memset(s->types + old.n, SPM_CONTROL, (size_t)(s->n - old.n));
	}
	for (int32_t i = 0; i < s->n_added; i++)
		if (s->added[i].id >= old.n)
			s->tokens[s->added[i].id] = s->added[i].text;
	return NVLLM_OK;
}

static bool same(const struct nvllm_str *a, const char *s)
{
	return (size_t)a->len == strlen(s) && memcmp(a->s, s, (size_t)a->len) == 0;
}

/* The id of a token that the file names: a text, or an object with its content. */
static int named_token(const struct config *c, const char *key, int32_t *out)
{
	const cJSON *v = json_get(c->root, key);
	const char *text;

	if (!v)
		return NVLLM_OK;
	if (cJSON_IsObject(v))
		v = json_get(v, "content");
	text = cJSON_GetStringValue(v);
	if (!text && v && !cJSON_IsNull(v))
		return bad_key(c, key, "a text");
	*out = -1;
	for (int32_t i = 0; text && i < c->s->n_added; i++)
		if (same(&c->s->added[i].text, text)) {
			*out = c->s->added[i].id;
			return NVLLM_OK;
		}
	for (int32_t i = 0; text && i < c->s->n && *out < 0; i++)
		*out = same(&c->s->tokens[i], text) ? i : -1;
	if (*out >= 0) /* what is named so is special */
		c->s->added[c->s->n_added++] = (struct spm_added){ .text = c->s->tokens[*out], .id = *out,
			.special = true };
	return NVLLM_OK;
}

/* Classes whose ids are not the model's own: they move them to make room for others. */
static int check_class(const struct config *c, const char *name)
{
	static const char *const moved[] = { "XLMRoberta", "Camembert", "MBart", "Barthez", "XGLM",
		"Pegasus", "NllbT", "M2M100", "Marian", "BigBirdP", "FNet", "DebertaV2", NULL };

	for (int i = 0; name && moved[i]; i++)
		if (strncmp(name, moved[i], strlen(moved[i])) == 0)
			return c->host->fail(c->host, NVLLM_ENOTSUP,
				"%s: the class '%.60s' gives other ids than its tokenizer.model: put the "
				"checkpoint's tokenizer.json beside it", c->where, name);
	return NVLLM_OK;
}

static int read(const struct config *c)
{
	const char *name = cJSON_GetStringValue(json_get(c->root, "tokenizer_class"));
	bool t5 = name && strncmp(name, "T5", 2) == 0, legacy = true, prefix = c->s->dummy_prefix;
	int rc;

	c->s->add_bos = !t5;
	c->s->add_eos = t5;
	if ((rc = check_class(c, name)) < 0 || (rc = added_all(c)) < 0 || (rc = extend(c)) < 0 ||
	    (rc = named_token(c, "bos_token", &c->s->bos)) < 0 ||
	    (rc = named_token(c, "eos_token", &c->s->eos)) < 0 ||
	    (rc = named_token(c, "pad_token", &c->s->pad)) < 0 ||
	    (rc = get_bool(c, c->root, "add_bos_token", &c->s->add_bos)) < 0 ||
	    (rc = get_bool(c, c->root, "add_eos_token", &c->s->add_eos)) < 0 ||
	    (rc = get_bool(c, c->root, "legacy", &legacy)) < 0 ||
	    (rc = get_bool(c, c->root, "add_prefix_space", &prefix)) < 0)
		return rc;
	c->s->dummy_prefix &= prefix;
	c->s->prefix_once = !legacy && c->s->dummy_prefix;
	return NVLLM_OK;
}

int spm_config(const struct nvllm_host *host, const char *where, const char *text, size_t len,
	struct spm_source *s)
{
	struct json_error err;
	cJSON *root;
	struct config c = { host, where, NULL, s };
	int rc;

	if (json_parse(text, len, NULL, &root, &err))
		return host->fail(host, NVLLM_EINVAL, "%s:%d: byte %zu: %s", where, err.line,
			err.offset + 1, err.why);
	c.root = root;
	rc = cJSON_IsObject(root) ? read(&c) :
		host->fail(host, NVLLM_EINVAL, "%s: it is no JSON object", where);
	cJSON_Delete(root);
	return rc;
}
