/* SPDX-License-Identifier: MIT */
/* spm_native.c - decides how a SentencePiece model is used within the pipeline of hf.h: added
 * tokens are found first, each stretch of text between them is normalised and cut into pieces
 * as SentencePiece does it, and ids go back to text as the tokenizers library's decoders for
 * such models do. */
#include "spm.h"

#include <stdlib.h>

/* The model of the pipeline. Its scratch is struct scratch. */
struct hf_model {
	const struct nvllm_host *host;
	struct spm_vocab vocab;
	struct spm_norm norm;
	struct spm_unigram unigram;
	bool is_unigram;
};

struct scratch {
	struct spm_buf text;
	struct spm_bpe bpe;
	struct spm_path *path;
	size_t path_room;
};

/* Where pieces go. */
struct sink {
	const struct spm_vocab *vocab;
	struct hf_call *call;
	bool after_unk;  /* one token stands for a run of unknown pieces */
};

static int put_piece(void *arg, int32_t id, const char *s, size_t len)
{
	struct sink *k = arg;
	bool unknown = id < 0 || id == k->vocab->unk, again = unknown && k->after_unk;
	int rc = NVLLM_OK;

	k->after_unk = unknown;
	if (!unknown)
		return hf_put(k->call, id);
	if (!k->vocab->byte_fallback)
		return again ? rc : hf_put(k->call, k->vocab->unk);
	for (size_t i = 0; i < len && rc >= 0; i++)
		rc = hf_put(k->call, k->vocab->byte_id[(unsigned char)s[i]]);
	return rc;
}

static int run_unigram(const struct hf_model *m, struct scratch *x, struct sink *k)
{
	if (x->path_room < x->text.len + 1) {
		free(x->path);
		x->path_room = x->text.len + x->text.len / 4 + 64;
		x->path = malloc(x->path_room * sizeof(*x->path));
		if (!x->path) {
			x->path_room = 0;
			return NVLLM_ENOMEM;
		}
	}
	return spm_unigram_walk(&m->unigram, x->text.s, x->text.len, x->path, put_piece, k);
}

static int word(const struct hf_model *m, struct hf_call *call, const char *s, size_t len)
{
	struct scratch *x = call->scratch;
	struct sink k = { .vocab = &m->vocab, .call = call };
	int rc = NVLLM_ENOMEM;

	x->text.len = 0;
	x->text.failed = false;
	spm_normalize(&m->norm, s, len, &x->text);
	if (!x->text.failed && x->text.len == 0)
		return NVLLM_OK;
	if (!x->text.failed)
		rc = m->is_unigram ? run_unigram(m, x, &k) :
			spm_bpe_walk(&x->bpe, &m->vocab, x->text.s, x->text.len, put_piece, &k);
	return rc == NVLLM_ENOMEM ?
		m->host->fail(m->host, rc, "no memory to tokenize %zu bytes", len) : rc;
}

static void scratch_finish(void *scratch)
{
	struct scratch *x = scratch;

	free(x->text.s);
	free(x->path);
	spm_bpe_finish(&x->bpe);
}

static const struct hf_model_kind native = {
	.type = "SentencePiece", .word = word, .scratch_finish = scratch_finish,
	.scratch_bytes = sizeof(struct scratch),
};

/* All pieces that the model makes, and their scores as they are added. */
static int unigram_init(struct hf *hf, const struct spm_source *s, struct hf_model *m)
{
	double *scores = hf_alloc(hf, (size_t)s->n, sizeof(*scores));
	uint8_t *lengthy = hf_alloc(hf, (size_t)s->n, 1);
	struct nvllm_str *texts = malloc(((size_t)s->n + 1) * sizeof(*texts));
	int32_t *ids = malloc(((size_t)s->n + 1) * sizeof(*ids));
	int64_t n = 0;
	int rc = NVLLM_ENOMEM;

	if (!texts || !ids)
		hf->host->fail(hf->host, rc, "no memory for a vocabulary of %lld pieces", (long long)s->n);
	for (int32_t i = 0; texts && ids && scores && lengthy && i < s->n; i++) {
		scores[i] = s->scores[i];
		lengthy[i] = s->types[i] == SPM_USER;
		if ((s->types[i] != SPM_NORMAL && s->types[i] != SPM_USER) || s->tokens[i].len == 0)
			continue;
		texts[n] = s->tokens[i];
		ids[n++] = i;
	}
	m->unigram = (struct spm_unigram){ .scores = scores, .lengthy = lengthy,
		.max_score = m->vocab.max_score, .unk_score = (double)(m->vocab.min_score - 10.0f),
		.unk = m->vocab.unk, .single = true };
	if (texts && ids && scores && lengthy)
		rc = spm_trie_init(hf->host, &m->unigram.trie, texts, ids, n);
	free(texts);
	free(ids);
	return rc;
}

static int model_init(struct hf *hf, const struct spm_source *s)
{
	struct hf_model *m = hf_alloc(hf, 1, sizeof(*m));
	int rc;

	if (!m)
		return NVLLM_ENOMEM;
	m->host = hf->host;
	m->is_unigram = s->model == SPM_UNIGRAM;
	rc = spm_vocab_init(hf->host, s, &m->vocab);
	if (rc < 0)
		return rc;
	m->norm = (struct spm_norm){ .vocab = &m->vocab, .squeeze_spaces = s->squeeze_spaces,
		.dummy_prefix = s->dummy_prefix && !s->prefix_once, .escape_spaces = s->escape_spaces,
		.space_after = s->space_after };
	if (s->charsmap.len)
		rc = spm_charsmap_init(hf->host, "normalizer_spec.precompiled_charsmap", s->charsmap.s,
			(size_t)s->charsmap.len, &m->norm.charsmap);
	if (rc >= 0 && m->is_unigram)
		rc = unigram_init(hf, s, m);
	for (int32_t i = 0; i < s->n && rc >= 0; i++)
		if (s->tokens[i].len)
			rc = hf_token(hf, i, s->tokens[i].s, (size_t)s->tokens[i].len, s->name);
	hf->kind = &native;
	hf->model = m;
	if (rc >= 0 && s->n > 0) /* pieces without a text have ids too: the unknown one's may be the last */
		rc = hf_room_for(hf, s->n - 1);
	return rc < 0 ? rc : hf_vocab_end(hf);
}

/* ---- the rest of the pipeline, as a tokenizer.json would have it ---- */

static cJSON *step(cJSON *list, const char *type)
{
	cJSON *o = cJSON_CreateObject();

	cJSON_AddStringToObject(o, "type", type);
	cJSON_AddItemToArray(list, o);
	return o;
}

static void add_decoder(cJSON *root, const struct spm_source *s)
{
	cJSON *list, *o = cJSON_AddObjectToObject(root, "decoder");

	cJSON_AddStringToObject(o, "type", "Sequence");
	list = cJSON_AddArrayToObject(o, "decoders");
	o = step(list, "Replace");
	cJSON_AddStringToObject(cJSON_AddObjectToObject(o, "pattern"), "String", SPM_SPACE);
	cJSON_AddStringToObject(o, "content", " ");
	if (s->byte_fallback)
		step(list, "ByteFallback");
	step(list, "Fuse");
	if (!s->dummy_prefix || s->space_after) /* one at the end is sent before the end is known */
		return;
	o = step(list, "Strip");
	cJSON_AddStringToObject(o, "content", " ");
	cJSON_AddNumberToObject(o, "start", 1);
	cJSON_AddNumberToObject(o, "stop", 0);
}

static void template_token(cJSON *list, cJSON *names, const char *name, int32_t id)
{
	cJSON *o = cJSON_CreateObject(), *t = cJSON_AddObjectToObject(o, "SpecialToken");
	cJSON *n = cJSON_AddObjectToObject(names, name), *ids;

	cJSON_AddStringToObject(t, "id", name);
	cJSON_AddNumberToObject(t, "type_id", 0);
	cJSON_AddItemToArray(list, o);
	cJSON_AddStringToObject(n, "id", name);
	ids = cJSON_AddArrayToObject(n, "ids");
	cJSON_AddItemToArray(ids, cJSON_CreateNumber(id));
	cJSON_AddItemToArray(cJSON_AddArrayToObject(n, "tokens"), cJSON_CreateString(name));
}

static void add_template(cJSON *root, const struct spm_source *s)
{
	cJSON *p = cJSON_AddObjectToObject(root, "post_processor"), *single, *names, *o, *a;

	cJSON_AddStringToObject(p, "type", "TemplateProcessing");
	single = cJSON_AddArrayToObject(p, "single");
	cJSON_AddArrayToObject(p, "pair");
	names = cJSON_AddObjectToObject(p, "special_tokens");
	if (s->add_bos && s->bos >= 0)
		template_token(single, names, "bos", s->bos);
	o = cJSON_CreateObject();
	a = cJSON_AddObjectToObject(o, "Sequence");
	cJSON_AddStringToObject(a, "id", "A");
	cJSON_AddNumberToObject(a, "type_id", 0);
	cJSON_AddItemToArray(single, o);
	if (s->add_eos && s->eos >= 0)
		template_token(single, names, "eos", s->eos);
}

/* Texts are NUL-ended here: a vocabulary's are checked to hold none within. */
static bool add_added(cJSON *root, const struct spm_source *s)
{
	cJSON *list = cJSON_AddArrayToObject(root, "added_tokens");
	char text[SPM_MAX_PIECE + 1];

	for (int32_t i = 0; i < s->n_added; i++) {
		const struct spm_added *a = &s->added[i];
		cJSON *o = cJSON_CreateObject();

		memcpy(text, a->text.s, (size_t)a->text.len);
		text[a->text.len] = 0;
		cJSON_AddItemToArray(list, o);
		cJSON_AddNumberToObject(o, "id", a->id);
		cJSON_AddStringToObject(o, "content", text);
		cJSON_AddBoolToObject(o, "special", a->special);
		cJSON_AddBoolToObject(o, "lstrip", a->lstrip);
		cJSON_AddBoolToObject(o, "rstrip", a->rstrip);
		cJSON_AddBoolToObject(o, "single_word", a->single_word);
		if (!cJSON_AddBoolToObject(o, "normalized", a->normalized))
			return false;
	}
	return true;
}

static int pipeline(struct hf *hf, const struct spm_source *s)
{
	cJSON *root = cJSON_CreateObject(), *o;
	int rc = NVLLM_ENOMEM;

	if (s->prefix_once) {
		o = cJSON_AddObjectToObject(root, "pre_tokenizer");
		cJSON_AddStringToObject(o, "type", "Metaspace");
		cJSON_AddStringToObject(o, "replacement", SPM_SPACE);
		cJSON_AddStringToObject(o, "prepend_scheme", "first");
		cJSON_AddFalseToObject(o, "split");
	}
	add_decoder(root, s);
	add_template(root, s);
	if (add_added(root, s))
		rc = hf_pipeline(hf, root);
	else
		hf->host->fail(hf->host, rc, "no memory for %d added tokens", s->n_added);
	cJSON_Delete(root);
	return rc;
}

int spm_native(const struct nvllm_host *host, const char *path, const struct spm_source *s,
	const struct hf_kinds *kinds, struct hf **out)
{
	int rc = hf_create(host, path, kinds, out);

	if (rc < 0 || (rc = model_init(*out, s)) < 0 || (rc = pipeline(*out, s)) < 0)
		return rc;
	(*out)->bos = s->bos;
	(*out)->eos = s->eos;
	(*out)->pad = s->pad;
	if (s->eos >= 0)
		hf_end_id(*out, s->eos);
	for (int i = 0; i < 2; i++)
		if (s->end[i] >= 0)
			hf_end_id(*out, s->end[i]);
	return hf_end(*out);
}
