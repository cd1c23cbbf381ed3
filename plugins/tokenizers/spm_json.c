/* SPDX-License-Identifier: MIT */
/* spm_json.c - decides what a tokenizer.json may have that comes from SentencePiece: the model
 * Unigram and the normalizer Precompiled, as the tokenizers library runs them (its
 * models/unigram/model.rs, and the crate spm_precompiled). Its BPE with byte fallback is the
 * pipeline's own. */
#include "spm.h"

#include <stdio.h>
#include <stdlib.h>

/* A text that a piece longer than this stands in could be made slow. */
#define MAX_JSON_PIECE SPM_MAX_PIECE

struct hf_model {
	const struct nvllm_host *host;
	struct spm_unigram unigram;
	int32_t byte_id[256];
	bool byte_fallback;
	double min_score;
};

struct scratch {
	struct spm_path *path;
	size_t room;
};

/* Pieces on their way: a run of unknown characters is one. */
struct sink {
	const struct hf_model *m;
	struct hf_call *call;
	const char *run;  /* NULL = none */
	size_t run_len;
};

/* As bytes if all of them have tokens, else as one unknown token. */
static int flush(struct sink *k)
{
	bool bytes = k->m->byte_fallback;
	int rc = NVLLM_OK;

	for (size_t i = 0; i < k->run_len && bytes; i++)
		bytes = k->m->byte_id[(unsigned char)k->run[i]] >= 0;
	if (k->run_len && !bytes)
		rc = hf_put(k->call, k->m->unigram.unk);
	for (size_t i = 0; i < k->run_len && bytes && rc >= 0; i++)
		rc = hf_put(k->call, k->m->byte_id[(unsigned char)k->run[i]]);
	k->run_len = 0;
	return rc;
}

static int put_piece(void *arg, int32_t id, const char *s, size_t len)
{
	struct sink *k = arg;
	int rc;

	if (id == k->m->unigram.unk) {
		if (id < 0)
			return k->m->host->fail(k->m->host, NVLLM_EINVAL,
				"the text has the character '%.*s', which no piece of the vocabulary stands "
				"for, and tokenizer.json has no unk_id", (int)len, s);
		k->run = k->run_len ? k->run : s;
		k->run_len += len;
		return NVLLM_OK;
	}
	rc = flush(k);
	return rc < 0 ? rc : hf_put(k->call, id);
}

static int word(const struct hf_model *m, struct hf_call *call, const char *s, size_t len)
{
	struct scratch *x = call->scratch;
	struct sink k = { .m = m, .call = call };
	int rc;

	if (x->room < len + 1) {
		free(x->path);
		x->room = 0;
		x->path = len < UINT32_MAX ? malloc((len + len / 4 + 64) * sizeof(*x->path)) : NULL;
		if (!x->path)
			return m->host->fail(m->host, NVLLM_ENOMEM, "no memory to tokenize %zu bytes", len);
		x->room = len + len / 4 + 64;
	}
	rc = spm_unigram_walk(&m->unigram, s, len, x->path, put_piece, &k);
	return rc < 0 ? rc : flush(&k);
}

static void scratch_finish(void *scratch)
{
	free(((struct scratch *)scratch)->path);
}

/* ---- reading ---- */

/* What create() collects: `texts` and `ids` are freed at its end. */
struct reading {
	struct hf *hf;
	struct hf_model *m;
	struct nvllm_str *texts;
	int32_t *ids;
	double *scores;
	int64_t n;
};

/* model.vocab[n]: [text, score]. */
static int read_piece(struct reading *r, const cJSON *v)
{
	const cJSON *text = cJSON_GetArrayItem(v, 0), *score = cJSON_GetArrayItem(v, 1);
	const char *s = cJSON_GetStringValue(text);
	char where[48];
	double x;
	size_t len;

	snprintf(where, sizeof(where), "model.vocab[%lld]", (long long)r->n);
	if (!cJSON_IsArray(v) || !s || json_double(score, &x) || cJSON_GetArraySize(v) != 2)
		return hf_bad(r->hf, where, "it is not a list of a text and a number");
	len = strlen(s);
	if (len > MAX_JSON_PIECE)
		return hf_bad(r->hf, where, "it has %zu bytes; %d are possible", len, MAX_JSON_PIECE);
	r->m->min_score = x < r->m->min_score ? x : r->m->min_score;
	r->scores[r->n] = x;
	r->texts[r->n] = (struct nvllm_str){ s, (int64_t)len };
	r->ids[r->n] = (int32_t)r->n;
	if (hf_token(r->hf, r->n, s, len, where) < 0)
		return NVLLM_EINVAL;
	r->n++;
	return NVLLM_OK;
}

static int read_all(struct reading *r, const cJSON *model, const cJSON *vocab)
{
	struct hf *hf = r->hf;
	struct hf_model *m = r->m;
	int64_t unk = -1;
	const cJSON *v;
	int rc;

	cJSON_ArrayForEach(v, vocab) {
		rc = read_piece(r, v);
		if (rc < 0)
			return rc;
	}
	if ((rc = hf_get_int(hf, model, "model", "unk_id", 0, r->n - 1, -1, &unk)) < 0 ||
	    (rc = hf_get_bool(hf, model, "model", "byte_fallback", false, &m->byte_fallback)) < 0 ||
	    (rc = hf_vocab_end(hf)) < 0)
		return rc;
	for (int b = 0; b < 256; b++) {
		char text[8];

		snprintf(text, sizeof(text), "<0x%02X>", b);
		m->byte_id[b] = hf_find(hf, text, 6);
	}
	m->unigram = (struct spm_unigram){ .scores = r->scores, .unk = (int32_t)unk,
		.unk_score = m->min_score - 10.0 };
	return spm_trie_init(hf->host, &m->unigram.trie, r->texts, r->ids, r->n);
}

static int create(struct hf *hf, const cJSON *model, struct hf_model **out)
{
	const cJSON *vocab = json_get(model, "vocab");
	int64_t n = cJSON_GetArraySize(vocab);
	struct reading r = { .hf = hf };
	int rc = NVLLM_ENOMEM;

	if (!cJSON_IsArray(vocab) || n < 1 || n > HF_MAX_IDS)
		return hf_bad(hf, "model.vocab", "it is not a list of 1..%d pieces", HF_MAX_IDS);
	*out = r.m = hf_alloc(hf, 1, sizeof(*r.m));
	r.scores = hf_alloc(hf, (size_t)n, sizeof(*r.scores));
	r.texts = malloc((size_t)n * sizeof(*r.texts));
	r.ids = malloc((size_t)n * sizeof(*r.ids));
	if (r.m && r.scores && r.texts && r.ids) {
		r.m->host = hf->host;
		r.m->min_score = __DBL_MAX__;
		rc = read_all(&r, model, vocab);
	} else {
		hf->host->fail(hf->host, rc, "no memory for a vocabulary of %lld pieces", (long long)n);
	}
	free(r.texts);
	free(r.ids);
	return rc;
}

static const struct hf_model_kind unigram = {
	.type = "Unigram", .create = create, .word = word, .scratch_finish = scratch_finish,
	.scratch_bytes = sizeof(struct scratch),
};

/* ---- Precompiled ---- */

struct hf_precompiled {
	struct spm_charsmap map;
};

static int digit64(char c)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	const char *p = c ? strchr(digits, c) : NULL;

	return p ? (int)(p - digits) : -1;
}

/* base64 (RFC 4648) in place of its bytes; -1 where it is none. */
static int64_t decode64(const char *s, size_t len, unsigned char *out)
{
	uint32_t bits = 0;
	int64_t n = 0;
	size_t i = 0;

	if (len % 4)
		return -1;
	while (len > 0 && s[len - 1] == '=' && len % 4 != 2)
		len--;
	for (; i < len; i++) {
		int d = digit64(s[i]);

		if (d < 0)
			return -1;
		bits = bits << 6 | (uint32_t)d;
		if (i % 4)
			out[n++] = (unsigned char)(bits >> (6 - 2 * (i % 4)));
	}
	return n;
}

static int precompiled_create(struct hf *hf, const cJSON *o, const char *where,
	struct hf_precompiled **out)
{
	const char *text;
	unsigned char *blob;
	size_t len;
	int64_t n;
	int rc = hf_get_text(hf, o, where, "precompiled_charsmap", NULL, &text, &len);

	if (rc < 0)
		return rc;
	*out = hf_alloc(hf, 1, sizeof(**out));
	blob = hf_alloc(hf, len + 1, 1);
	if (!*out || !blob)
		return NVLLM_ENOMEM;
	n = decode64(text, len, blob);
	if (n < 0)
		return hf_bad(hf, where, "'precompiled_charsmap' is not base64");
	return spm_charsmap_init(hf->host, where, blob, (size_t)n, &(*out)->map);
}

static int append(void *arg, const char *s, size_t len)
{
	struct json_buf *b = arg;

	json_put_raw(b, s, len);
	return b->failed ? NVLLM_ENOMEM : NVLLM_OK;
}

static int precompiled_run(const struct hf_precompiled *p, struct hf_call *call, const char *s,
	size_t len, struct json_buf *out)
{
	const struct nvllm_host *host = call->hf->host;

	return spm_charsmap_text(&p->map, s, len, append, out) < 0 ?
		host->fail(host, NVLLM_ENOMEM, "no memory to normalise %zu bytes", len) : NVLLM_OK;
}

static const struct hf_precompiled_kind precompiled = {
	.create = precompiled_create, .run = precompiled_run,
};

/* ---- BPE ---- */

/* The pipeline's own, which merges a text without a pre-tokenizer as one word. It can be cut at
 * the words that no merge crosses. With ignore_merges a text that is a token would be that
 * token, so it is not cut. */
static int bpe_create(struct hf *hf, const cJSON *model, struct hf_model **out)
{
	struct spm_kinds *k = (struct spm_kinds *)(uintptr_t)hf->kinds; /* its first member */
	int rc = hf_bpe.create(hf, model, out);

	k->cut = !cJSON_IsTrue(json_get(model, "ignore_merges"));
	for (int32_t i = 0; rc >= 0 && i < hf->vocab.n; i++)
		if (hf->vocab.texts[i].s)
			spm_glue_add(k->glue, hf->vocab.texts[i].s, (size_t)hf->vocab.texts[i].len);
	return rc;
}

static int cut_words(struct hf_call *call, const struct hf_step *step, int next,
	struct hf_part part)
{
	const struct spm_kinds *k = (const struct spm_kinds *)call->hf->kinds;
	int rc = NVLLM_OK;

	while (part.len && rc >= 0) {
		size_t n = spm_word_len(k->glue, part.s, part.len);

		rc = hf_walk(call, next, (struct hf_part){ .s = part.s, .len = n, .first = part.first });
		part.s += n;
		part.len -= n;
		part.first = false;
	}
	return rc;
}

void spm_kinds_init(struct spm_kinds *k)
{
	*k = (struct spm_kinds){ .bpe = hf_bpe };
	k->bpe.create = bpe_create;
	k->models[0] = &k->bpe;
	k->models[1] = &unigram;
	k->kinds = (struct hf_kinds){ .models = k->models, .precompiled = &precompiled };
}

int spm_json_open(const struct nvllm_host *host, const char *path, struct spm_kinds *k,
	struct hf **out)
{
	int rc = hf_open(host, path, &k->kinds, out);
	struct hf *hf = *out;

	if (rc >= 0 && k->cut && !hf->byte_level && hf->n_steps < HF_MAX_STEPS)
		hf->steps[hf->n_steps++] = (struct hf_step){ .run = cut_words };
	return rc;
}
