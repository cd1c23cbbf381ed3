/* SPDX-License-Identifier: MIT */
/* spm_gguf.c - decides what a GGUF's tokenizer.ggml.* keys must hold to be a SentencePiece
 * vocabulary (tokenizer.ggml.model = "llama"). What the tokens say is checked in spm_vocab.c,
 * for every source alike. */
#include "spm.h"

#define KEY(name) "tokenizer.ggml." name

static const char *type_name(int32_t type)
{
	return type == NVLLM_ARRAY_STR ? "text" : type == NVLLM_I32 ? "whole numbers" : "numbers";
}

/* An array of the wanted type. A key that is not there gives data NULL, unless required. */
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
		return host->fail(host, NVLLM_EINVAL, "'%s' holds %s, not %s", key, type_name(out->type),
			type_name(type));
	if (out->n < 0 || (out->n > 0 && !out->data))
		return host->fail(host, NVLLM_EINVAL, "'%s' has %lld elements", key, (long long)out->n);
	return NVLLM_OK;
}

/* One of the arrays with an element for each token. */
static int get_each(const struct nvllm_host *host, const struct nvllm_loader_ref *from,
	const char *key, int32_t type, bool required, int64_t n, const void **out)
{
	struct nvllm_array a;
	int rc = get(host, from, key, type, required, &a);

	*out = a.data;
	if (rc < 0 || !a.data)
		return rc;
	return a.n == n ? NVLLM_OK : host->fail(host, NVLLM_EINVAL,
		"'%s' has %lld elements for the %lld of '%s'", key, (long long)a.n, (long long)n, KEY("tokens"));
}

/* A whole number within [0, hi], if it is there. */
static int get_int(const struct nvllm_host *host, const struct nvllm_loader_ref *from,
	const char *key, int64_t hi, int32_t *out)
{
	struct nvllm_array a;
	int rc = get(host, from, key, NVLLM_I32, false, &a);
	int32_t x;

	if (rc < 0 || !a.data)
		return rc;
	if (a.n != 1)
		return host->fail(host, NVLLM_EINVAL, "'%s' is a list of %lld, not one number", key,
			(long long)a.n);
	x = *(const int32_t *)a.data;
	if (x < 0 || x > hi)
		return host->fail(host, NVLLM_EINVAL, "'%s' is %d, outside 0..%lld", key, x, (long long)hi);
	*out = x;
	return NVLLM_OK;
}

static int get_numbers(const struct nvllm_host *host, const struct nvllm_loader_ref *from,
	struct spm_source *s)
{
	int32_t add_bos = 1, add_eos = 0, prefix = 1, squeeze = 0;
	const struct {
		const char *key;
		int64_t hi;
		int32_t *out;
	} rows[] = {
		{ KEY("bos_token_id"), s->n - 1, &s->bos },
		{ KEY("eos_token_id"), s->n - 1, &s->eos },
		{ KEY("padding_token_id"), s->n - 1, &s->pad },
		{ KEY("unknown_token_id"), s->n - 1, &s->unk },
		{ KEY("eot_token_id"), s->n - 1, &s->end[0] },
		{ KEY("eom_token_id"), s->n - 1, &s->end[1] },
		{ KEY("add_bos_token"), 1, &add_bos },
		{ KEY("add_eos_token"), 1, &add_eos },
		{ KEY("add_space_prefix"), 1, &prefix },
		{ KEY("remove_extra_whitespaces"), 1, &squeeze },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		int rc = get_int(host, from, rows[i].key, rows[i].hi, rows[i].out);

		if (rc < 0)
			return rc;
	}
	s->add_bos = add_bos && s->bos >= 0;
	s->add_eos = add_eos && s->eos >= 0;
	s->dummy_prefix = prefix;
	s->squeeze_spaces = squeeze;
	return NVLLM_OK;
}

static bool is_byte_text(const struct nvllm_str *t)
{
	return t->len == 6 && memcmp(t->s, "<0x", 3) == 0 && t->s[5] == '>';
}

/* A file without types has them by what the tokens look like. */
static int set_types(const struct nvllm_host *host, struct spm_source *s, const int32_t *types)
{
	int64_t n_bytes = 0;

	for (int64_t i = 0; i < s->n; i++) {
		if (types && (types[i] < SPM_NORMAL || types[i] > SPM_BYTE))
			return host->fail(host, NVLLM_EINVAL, "'%s'[%lld] is %d, not a type of 1..6",
				KEY("token_type"), (long long)i, types[i]);
		s->types[i] = types ? (uint8_t)types[i] : is_byte_text(&s->tokens[i]) ? SPM_BYTE :
			i == s->unk ? SPM_UNKNOWN : i == s->bos || i == s->eos ? SPM_CONTROL : SPM_NORMAL;
		n_bytes += s->types[i] == SPM_BYTE;
	}
	s->byte_fallback = n_bytes > 0;
	return NVLLM_OK;
}

/* Converters write the spaces of user-defined tokens as spaces. Such a token is taken for what
 * it was in the model: it stands in the normalised text, where U+2581 of any origin counts. */
static int restore_spaces(const struct nvllm_host *host, struct spm_source *s)
{
	for (int64_t i = 0; i < s->n; i++) {
		struct nvllm_str t = s->tokens[i];
		char *to;

		if (s->types[i] != SPM_USER || t.len <= 0 || t.len > SPM_MAX_PIECE ||
			!memchr(t.s, ' ', (size_t)t.len))
			continue;
		to = host->alloc(host, (size_t)t.len * 3);
		if (!to)
			return host->fail(host, NVLLM_ENOMEM, "no memory for token %lld", (long long)i);
		s->tokens[i] = (struct nvllm_str){ to, 0 };
		for (int64_t k = 0; k < t.len; k++) {
			bool space = t.s[k] == ' ';

			memcpy(to + s->tokens[i].len, space ? SPM_SPACE : t.s + k, space ? 3 : 1);
			s->tokens[i].len += space ? 3 : 1;
		}
	}
	return NVLLM_OK;
}

int spm_gguf(const struct nvllm_host *host, const struct nvllm_loader_ref *from,
	struct spm_source *s)
{
	struct nvllm_array tokens;
	const void *types, *scores;
	int rc;

	*s = (struct spm_source){ .name = KEY("tokens"), .model = SPM_BPE, .escape_spaces = true,
		.unk = -1, .bos = -1, .eos = -1, .pad = -1, .end = { -1, -1 } };
	rc = get(host, from, s->name, NVLLM_ARRAY_STR, true, &tokens);
	if (rc < 0)
		return rc;
	if (tokens.n < 1 || tokens.n > HF_MAX_IDS)
		return host->fail(host, NVLLM_EINVAL, "'%s' has %lld tokens; 1..%d are possible", s->name,
			(long long)tokens.n, HF_MAX_IDS);
	s->n = tokens.n;
	if ((rc = get_each(host, from, KEY("scores"), NVLLM_F32, true, s->n, &scores)) < 0 ||
	    (rc = get_each(host, from, KEY("token_type"), NVLLM_I32, false, s->n, &types)) < 0 ||
	    (rc = get_numbers(host, from, s)) < 0)
		return rc;
	s->tokens = host->alloc(host, (size_t)s->n * sizeof(*s->tokens));
	s->scores = host->alloc(host, (size_t)s->n * sizeof(*s->scores));
	s->types = host->alloc(host, (size_t)s->n);
	if (!s->tokens || !s->scores || !s->types)
		return host->fail(host, NVLLM_ENOMEM, "no memory for %lld tokens", (long long)s->n);
	memcpy(s->tokens, tokens.data, (size_t)s->n * sizeof(*s->tokens));
	memcpy(s->scores, scores, (size_t)s->n * sizeof(*s->scores));
	rc = set_types(host, s, types);
	if (rc >= 0)
		rc = restore_spaces(host, s);
	return rc < 0 ? rc : spm_added_init(host, s, true);
}
