/* SPDX-License-Identifier: MIT */
/* bpe_gguf.c - decides what a GGUF's tokenizer.ggml.* keys must hold to be a byte-level
 * vocabulary. What the tokens say is checked in bpe_vocab.c, for every source alike. */
#include "bpe.h"

#include <string.h>

#define KEY(name) "tokenizer.ggml." name

static const char *type_name(int32_t type)
{
	return type == NVLLM_ARRAY_STR ? "text" : type == NVLLM_I32 ? "whole numbers" : "numbers";
}

/* An array of the wanted type. A key that is not there gives n 0 and data NULL, unless it is
 * required. */
static int get(const struct nvllm_host *host, const struct nvllm_loader_ref *from, const char *key,
	int32_t type, bool required, struct nvllm_array *out)
{
	int rc;

	*out = (struct nvllm_array){ .size = sizeof(*out) };
	rc = from->vt->array(from->loader, key, out);
	if (rc == NVLLM_ENOENT) {
		*out = (struct nvllm_array){ .size = sizeof(*out) };
		return required ? host->fail(host, NVLLM_EINVAL,
			"the checkpoint has no '%s': it cannot be tokenized", key) : NVLLM_OK;
	}
	if (rc < 0)
		return rc;
	if (out->type != type)
		return host->fail(host, NVLLM_EINVAL, "'%s' holds %s, not %s", key,
			type_name(out->type), type_name(type));
	if (out->n < 0 || (out->n > 0 && !out->data))
		return host->fail(
			host, NVLLM_EINVAL, "'%s' has %lld elements", key, (long long)out->n);
	return NVLLM_OK;
}

/* A single whole number within [lo, hi]; `none` where the key is absent. */
static int get_int(const struct nvllm_host *host, const struct nvllm_loader_ref *from,
	const char *key, int64_t lo, int64_t hi, int32_t none, int32_t *out)
{
	struct nvllm_array a;
	int rc = get(host, from, key, NVLLM_I32, false, &a);
	int32_t x;

	*out = none;
	if (rc < 0 || !a.data)
		return rc;
	if (a.n != 1)
		return host->fail(host, NVLLM_EINVAL, "'%s' is a list of %lld, not one number", key,
			(long long)a.n);
	x = *(const int32_t *)a.data;
	if (x < lo || x > hi)
		return host->fail(host, NVLLM_EINVAL, "'%s' is %d, outside %lld..%lld", key, x,
			(long long)lo, (long long)hi);
	*out = x;
	return NVLLM_OK;
}

static int get_numbers(const struct nvllm_host *host, const struct nvllm_loader_ref *from,
	struct bpe_source *s)
{
	const struct {
		const char *key;
		int64_t hi;
		int32_t *out;
	} rows[] = {
		{ KEY("bos_token_id"), s->n_tokens - 1, &s->bos },
		{ KEY("eos_token_id"), s->n_tokens - 1, &s->eos },
		{ KEY("padding_token_id"), s->n_tokens - 1, &s->pad },
		{ KEY("eot_token_id"), s->n_tokens - 1, &s->end[0] },
		{ KEY("eom_token_id"), s->n_tokens - 1, &s->end[1] },
		{ KEY("add_bos_token"), 1, &s->add_bos },
		{ KEY("add_eos_token"), 1, &s->add_eos },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		int rc = get_int(host, from, rows[i].key, 0, rows[i].hi, -1, rows[i].out);

		if (rc < 0)
			return rc;
	}
	if (s->add_bos == 1 && s->bos < 0)
		return host->fail(host, NVLLM_EINVAL, "'%s' is true, but there is no '%s'",
			KEY("add_bos_token"), KEY("bos_token_id"));
	if (s->add_eos == 1 && s->eos < 0)
		return host->fail(host, NVLLM_EINVAL, "'%s' is true, but there is no '%s'",
			KEY("add_eos_token"), KEY("eos_token_id"));
	return NVLLM_OK;
}

static int get_types(const struct nvllm_host *host, const struct nvllm_loader_ref *from,
	struct bpe_source *s)
{
	struct nvllm_array a;
	int rc = get(host, from, KEY("token_type"), NVLLM_I32, false, &a);

	if (rc < 0 || !a.data)
		return rc;
	if (a.n != s->n_tokens)
		return host->fail(host, NVLLM_EINVAL, "'%s' has %lld elements for the %lld of '%s'",
			KEY("token_type"), (long long)a.n, (long long)s->n_tokens, s->tokens_key);
	s->types = a.data;
	for (int64_t i = 0; i < a.n; i++)
		if (s->types[i] < BPE_NORMAL || s->types[i] > BPE_BYTE)
			return host->fail(host, NVLLM_EINVAL,
				"'%s'[%lld] is %d, not a type of 1..6", KEY("token_type"),
				(long long)i, s->types[i]);
	return NVLLM_OK;
}

int bpe_gguf(const struct nvllm_host *host, const struct nvllm_loader_ref *from,
	struct bpe_source *s)
{
	struct nvllm_array tokens, merges, pre;
	int rc;

	*s = (struct bpe_source){ .tokens_key = KEY("tokens"), .merges_key = KEY("merges") };
	if ((rc = get(host, from, s->tokens_key, NVLLM_ARRAY_STR, true, &tokens)) < 0 ||
	    (rc = get(host, from, s->merges_key, NVLLM_ARRAY_STR, true, &merges)) < 0 ||
	    (rc = get(host, from, KEY("pre"), NVLLM_ARRAY_STR, false, &pre)) < 0)
		return rc;
	if (tokens.n < 1 || tokens.n > INT32_MAX)
		return host->fail(host, NVLLM_EINVAL, "'%s' has %lld tokens; 1..%d are possible",
			s->tokens_key, (long long)tokens.n, INT32_MAX);
	if (merges.n >= BPE_NO_RANK)
		return host->fail(host, NVLLM_EINVAL, "'%s' has %lld merges, more than possible",
			s->merges_key, (long long)merges.n);
	s->tokens = tokens.data;
	s->n_tokens = tokens.n;
	s->merges = merges.data;
	s->n_merges = merges.n;
	if (pre.n > 0)
		s->pre = *(const struct nvllm_str *)pre.data;
	rc = get_types(host, from, s);
	return rc < 0 ? rc : get_numbers(host, from, s);
}
