/* SPDX-License-Identifier: MIT */
/* hf.c - how a tokenizer.json becomes an instance, and the members of its vtable. Decides which
 * tokens begin, end and pad a text, and which end an answer. */
#include "hf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONFIG "tokenizer_config.json"

int hf_create(const struct nvllm_host *host, const char *path, const struct hf_kinds *kinds,
	struct hf **out)
{
	struct hf *hf = host->alloc(host, sizeof(*hf));

	*out = hf;
	if (!hf)
		return host->fail(host, NVLLM_ENOMEM, "no memory for the tokenizer");
	hf->host = host;
	hf->kinds = kinds;
	hf->bos = hf->eos = hf->pad = -1;
	hf->path = "";
	hf->path = hf_copy(hf, path ? path : "", path ? strlen(path) : 0);
	if (!hf->path)
		return NVLLM_ENOMEM;
	return hf_pool_create(hf);
}

void hf_close(struct hf *hf)
{
	if (!hf)
		return;
	hf_pool_destroy(hf);
	if (hf->model && hf->kind->destroy)
		hf->kind->destroy(hf->model);
	for (int i = 0; i < hf->n_normals; i++)
		if (hf->normals[i].precompiled && hf->kinds->precompiled->destroy)
			hf->kinds->precompiled->destroy(hf->normals[i].precompiled);
	hf_regex_destroy(hf->regexes);
	free(hf->vocab.texts);
	free(hf->added);
	free(hf->added_slots);
	hf->model = NULL;
	hf->regexes = NULL;
	hf->vocab.texts = NULL;
	hf->added = NULL;
	hf->added_slots = NULL;
	hf->n_normals = 0;
}

/* ---- reading ---- */

static int read_model(struct hf *hf, const cJSON *root)
{
	const cJSON *model = json_get(root, "model");
	const char *type = cJSON_GetStringValue(json_get(model, "type"));

	if (!cJSON_IsObject(model))
		return hf_bad(hf, "", "has no object 'model'");
	if (!type) /* files of old say it by what the model has */
		type = json_get(model, "merges") ? "BPE" :
			cJSON_IsArray(json_get(model, "vocab")) ? "Unigram" : "?";
	for (int i = 0; hf->kinds->models[i]; i++) {
		if (!strcmp(hf->kinds->models[i]->type, type)) {
			hf->kind = hf->kinds->models[i];
			return hf->kind->create(hf, model, &hf->model);
		}
	}
	return hf_bad(hf, "model.type", "the model '%.40s' is not known to this tokenizer: choose "
		"another ([tokenizer] plugin)", type);
}

static int read_flags(struct hf *hf, const cJSON *item, const char *where, struct hf_added *a)
{
	static const char *const keys[] = { "special", "lstrip", "rstrip", "single_word",
		"normalized" };
	uint8_t *const to[] = { &a->special, &a->lstrip, &a->rstrip, &a->single_word,
		&a->normalized };
	bool special = false;

	for (int i = 0; i < 5; i++) {
		bool flag;
		/* What is not said: a special token is not normalised. */
		int rc = hf_get_bool(hf, item, where, keys[i], i == 4 && !special, &flag);

		if (rc < 0)
			return rc;
		special = i == 0 ? flag : special;
		*to[i] = flag;
	}
	return NVLLM_OK;
}

static int read_added(struct hf *hf, const cJSON *list)
{
	const cJSON *item;
	int i = 0;

	if (!list || cJSON_IsNull(list))
		return NVLLM_OK;
	if (!cJSON_IsArray(list))
		return hf_bad(hf, "added_tokens", "is no list");
	cJSON_ArrayForEach(item, list) {
		struct hf_added a = { .id = -1 };
		char where[40];
		const char *s;
		int64_t id;
		int rc;

		snprintf(where, sizeof(where), "added_tokens[%d]", i++);
		if (!cJSON_IsObject(item))
			return hf_bad(hf, where, "is no object");
		s = cJSON_GetStringValue(json_get(item, "content"));
		if (!s)
			return hf_bad(hf, where, "has no string 'content'");
		if ((rc = hf_get_int(hf, item, where, "id", 0, HF_MAX_IDS - 1, -1, &id)) < 0 ||
		    (rc = read_flags(hf, item, where, &a)) < 0 ||
		    (rc = hf_add(hf, s, strlen(s), &a)) < 0)
			return rc;
		if (s[0] && id >= 0 && hf->added[hf_added_index(hf, s, strlen(s))].id != id)
			hf->host->log(hf->host, NVLLM_LOG_WARN, "%s: %s: '%.60s' gets the id %d, "
				"not %lld: so does the tokenizers library", hf->path, where, s,
				hf->added[hf_added_index(hf, s, strlen(s))].id, (long long)id);
	}
	return NVLLM_OK;
}

int hf_pipeline(struct hf *hf, const cJSON *root)
{
	int rc;

	if ((rc = hf_normal_read(hf, json_get(root, "normalizer"))) < 0 ||
	    (rc = hf_split_read(hf, json_get(root, "pre_tokenizer"))) < 0 ||
	    (rc = hf_post_read(hf, json_get(root, "post_processor"))) < 0 ||
	    (rc = hf_decode_read(hf, json_get(root, "decoder"))) < 0)
		return rc;
	return read_added(hf, json_get(root, "added_tokens"));
}

/* ---- tokenizer_config.json ---- */

/* The token that a key names, as a text or as an object with its content; -1 = none. */
static int32_t config_token(const struct hf *hf, const cJSON *config, const char *key)
{
	const cJSON *v = json_get(config, key);
	const char *s = cJSON_GetStringValue(cJSON_IsObject(v) ? json_get(v, "content") : v);
	int32_t i = s ? hf_added_index(hf, s, strlen(s)) : -1;

	return i >= 0 ? hf->added[i].id : s ? hf_find(hf, s, strlen(s)) : -1;
}

/* Tokens that were added after tokenizer.json was written. The ids of the file count; one that is
 * taken by another text is left. */
static int config_added(struct hf *hf, const cJSON *list)
{
	const cJSON *item;

	cJSON_ArrayForEach(item, list) {
		const char *s = cJSON_GetStringValue(json_get(item, "content"));
		struct hf_added a = { .id = -1 };
		char *end = NULL;
		long id = strtol(item->string, &end, 10);
		int rc;

		if (!s || !s[0] || *end || id < 0 || id >= HF_MAX_IDS)
			return hf_bad(hf, CONFIG ": added_tokens_decoder",
				"'%.60s' is no id with a 'content'", item->string);
		if (hf_added_index(hf, s, strlen(s)) >= 0)
			continue;
		if (hf_find(hf, s, strlen(s)) < 0) {
			if (id < hf->vocab.n && hf_id_taken(hf, (int32_t)id)) {
				hf->host->log(hf->host, NVLLM_LOG_WARN, "%s: " CONFIG
					": '%.60s' is left out: its id %ld is another token's",
					hf->path, s, id);
				continue;
			}
			a.id = (int32_t)id;
		}
		if ((rc = read_flags(hf, item, CONFIG ": added_tokens_decoder", &a)) < 0 ||
		    (rc = hf_add(hf, s, strlen(s), &a)) < 0)
			return rc;
	}
	return NVLLM_OK;
}

static int read_config(struct hf *hf, const char *path)
{
	bool add_bos, add_eos;
	cJSON *config;
	int rc = hf_parse(hf, path, CONFIG, false, &config);

	if (rc < 0 || !config)
		return rc;
	if ((rc = config_added(hf, json_get(config, "added_tokens_decoder"))) < 0 ||
	    (rc = hf_get_bool(hf, config, CONFIG, "add_bos_token", false, &add_bos)) < 0 ||
	    (rc = hf_get_bool(hf, config, CONFIG, "add_eos_token", false, &add_eos)) < 0)
		goto out;
	hf->bos = config_token(hf, config, "bos_token");
	hf->eos = config_token(hf, config, "eos_token");
	hf->pad = config_token(hf, config, "pad_token");
	if (!hf->post_says && add_bos && hf->bos >= 0)
		hf->before[hf->n_before++] = hf->bos;
	if (!hf->post_says && add_eos && hf->eos >= 0)
		hf->after[hf->n_after++] = hf->eos;
out:
	cJSON_Delete(config);
	return rc;
}

/* ---- the end ---- */

void hf_end_id(struct hf *hf, int32_t id)
{
	for (int32_t i = 0; i < hf->n_eos_ids; i++)
		if (hf->eos_ids[i] == id)
			return;
	if (id >= 0 && hf->n_eos_ids < NVLLM_STOP_IDS)
		hf->eos_ids[hf->n_eos_ids++] = id;
}

/* Files name one end token, but chat models end a turn with one and a text with another. */
static void end_ids_init(struct hf *hf)
{
	static const char *const texts[] = { "<|im_end|>", "<|endoftext|>", "<|eot_id|>",
		"<|eom_id|>", "<|end_of_text|>", "<end_of_turn>", "<|end_of_turn|>", NULL };

	hf_end_id(hf, hf->eos);
	for (int i = 0; texts[i]; i++) {
		int32_t at = hf_added_index(hf, texts[i], strlen(texts[i]));

		if (at >= 0 && hf->added[at].special)
			hf_end_id(hf, hf->added[at].id);
	}
}

static int check_ids(struct hf *hf, const int32_t *ids, int32_t n)
{
	for (int32_t i = 0; i < n; i++)
		if (ids[i] >= hf->vocab.n)
			return hf_bad(hf, "post_processor",
				"the id %d is outside the vocabulary of %d", ids[i], hf->vocab.n);
	return NVLLM_OK;
}

int hf_end(struct hf *hf)
{
	int rc;

	if ((rc = check_ids(hf, hf->before, hf->n_before)) < 0 ||
	    (rc = check_ids(hf, hf->after, hf->n_after)) < 0 || (rc = hf_added_end(hf)) < 0 ||
	    (rc = hf_decode_end(hf)) < 0)
		return rc;
	end_ids_init(hf);
	return NVLLM_OK;
}

int hf_open(const struct nvllm_host *host, const char *path, const struct hf_kinds *kinds,
	struct hf **out)
{
	cJSON *root = NULL;
	struct hf *hf;
	int rc = hf_create(host, path, kinds, &hf);

	*out = NULL;
	if (rc >= 0)
		rc = hf_parse(hf, path, "tokenizer.json", true, &root);
	if (rc >= 0 && (rc = read_model(hf, root)) >= 0 && (rc = hf_pipeline(hf, root)) >= 0)
		rc = hf_is_folder(path) ? read_config(hf, path) : NVLLM_OK;
	cJSON_Delete(root);
	if (rc >= 0)
		rc = hf_end(hf);
	if (rc < 0) {
		hf_close(hf);
		return rc;
	}
	*out = hf;
	return NVLLM_OK;
}

/* ---- the vtable's members ---- */

int hf_info(const struct hf *hf, struct nvllm_tokenizer_info *out)
{
	out->n_tokens = hf->vocab.n;
	out->bos = hf->bos;
	out->eos = hf->eos;
	out->pad = hf->pad;
	out->max_piece = hf->pieces.longest;
	out->eos_ids = hf->eos_ids;
	out->n_eos_ids = hf->n_eos_ids;
	return NVLLM_OK;
}

const char *hf_piece(const struct hf *hf, int32_t token, uint32_t flags, int32_t *len)
{
	const struct hf_pieces *p = &hf->pieces;

	*len = 0;
	if (token < 0 || token >= hf->vocab.n)
		return NULL;
	if ((flags & NVLLM_PIECE_SKIP_SPECIAL) && p->special[token])
		return p->bytes;
	if (flags & NVLLM_PIECE_FIRST) {
		*len = p->first_len[token];
		return p->bytes + p->first_at[token];
	}
	*len = p->len[token];
	return p->bytes + p->at[token];
}

int32_t hf_byte(const struct hf *hf, int32_t token)
{
	return token >= 0 && token < hf->vocab.n ? hf->pieces.byte[token] : -1;
}
