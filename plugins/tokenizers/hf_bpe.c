/* SPDX-License-Identifier: MIT */
/* hf_bpe.c - the model BPE of tokenizer.json: decides which symbols a word begins with (characters,
 * bytes, the unknown token); bpe_merge.c merges them. */
#include "hf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bpe.h"
#include "utf8.h"

#define NO_UNK (-1)

struct hf_model {
	struct bpe_merges merges;
	int32_t byte_id[256];      /* of a byte, as its character of the byte alphabet; -1 = none */
	int32_t fallback_id[256];  /* of "<0xNN>"; -1 = none */
	int32_t unk;               /* -1 = none */
	const char *unk_text;      /* of one that the vocabulary lacks, NULL = all is well */
	bool byte_fallback, fuse_unk, ignore_merges;
	bool every_byte;           /* byte_id has no -1, or what is -1 vanishes */
};

struct scratch {
	struct bpe_word word;
	struct json_buf text;      /* a word in the byte alphabet */
};

/* ---- reading ---- */

/* An id. Of a number that is no plain one cJSON's node keeps the text; the others are their
 * doubles, which is quicker than json_int64. */
static bool is_id(const cJSON *item, int64_t *id)
{
	if (!cJSON_IsNumber(item) || item->valuestring)
		return json_int64(item, id) == 0;
	*id = (int64_t)item->valuedouble;
	return true;
}

static int read_vocab(struct hf *hf, const cJSON *model)
{
	const cJSON *vocab = json_get(model, "vocab"), *item;

	if (!cJSON_IsObject(vocab))
		return hf_bad(hf, "model", "has no object 'vocab'");
	cJSON_ArrayForEach(item, vocab) {
		size_t len = strlen(item->string);
		int64_t id;
		int rc;

		if (!is_id(item, &id))
			return hf_bad(hf, "model.vocab", "the id of '%.60s' is no whole number",
				item->string);
		rc = hf_token(hf, id, item->string, len, "model.vocab");
		if (rc < 0)
			return rc;
	}
	return hf->vocab.n ? hf_vocab_end(hf) : hf_bad(hf, "model.vocab", "is empty");
}

/* One merge: "left right", or [left, right]. */
static bool merge_parts(const cJSON *item, const char **left, size_t *n_left, const char **right,
	size_t *n_right)
{
	const char *both = cJSON_GetStringValue(item), *space;

	if (both) {
		space = strchr(both, ' ');
		*left = both;
		*n_left = space ? (size_t)(space - both) : 0;
		*right = space ? space + 1 : both;
		*n_right = strlen(*right);
		return space && !strchr(*right, ' ');
	}
	if (!cJSON_IsArray(item) || cJSON_GetArraySize(item) != 2)
		return false;
	*left = cJSON_GetStringValue(item->child);
	*right = cJSON_GetStringValue(item->child->next);
	if (!*left || !*right)
		return false;
	*n_left = strlen(*left);
	*n_right = strlen(*right);
	return true;
}

/* The id of left and right together; *last is what the merge before made: trainers number tokens in
 * the order of their merges. */
static int32_t find_both(struct hf *hf, const char *left, size_t n_left, const char *right,
	size_t n_right, struct json_buf *buf, int32_t *last)
{
	const struct hf_text *near = *last + 1 < hf->vocab.n ? &hf->vocab.texts[*last + 1] : NULL;
	int32_t id;

	if (near && near->s && (size_t)near->len == n_left + n_right &&
		!memcmp(near->s, left, n_left) && !memcmp(near->s + n_left, right, n_right)) {
		id = *last + 1;
	} else {
		buf->len = 0;
		json_put_raw(buf, left, n_left);
		json_put_raw(buf, right, n_right);
		id = buf->failed ? -1 : hf_find(hf, buf->s, buf->len);
	}
	*last = id >= 0 ? id : *last;
	return id;
}

static int read_merge(struct hf *hf, struct hf_model *m, const cJSON *item, int64_t i,
	struct json_buf *buf, int32_t *last)
{
	const char *left, *right;
	size_t n_left, n_right;
	int32_t a, b, both;
	char where[40];

	snprintf(where, sizeof(where), "model.merges[%lld]", (long long)i);
	if (!merge_parts(item, &left, &n_left, &right, &n_right))
		return hf_bad(hf, where, "is neither \"left right\" nor [\"left\", \"right\"]");
	a = hf_find(hf, left, n_left);
	b = hf_find(hf, right, n_right);
	both = a < 0 || b < 0 ? -1 : find_both(hf, left, n_left, right, n_right, buf, last);
	if (both < 0)
		return hf_bad(hf, where, "'%.*s' and '%.*s': model.vocab has no %s",
			(int)(n_left < 60 ? n_left : 60), left, (int)(n_right < 60 ? n_right : 60),
			right, a < 0 ? "left part" : b < 0 ? "right part" :
			"token that both give together");
	bpe_merges_put(&m->merges, a, b, (uint32_t)i, both);
	return NVLLM_OK;
}

static int read_merges(struct hf *hf, struct hf_model *m, const cJSON *model)
{
	const cJSON *merges = json_get(model, "merges"), *item;
	struct json_buf buf = { 0 };
	int64_t i = 0, n;
	int32_t last = -1;
	int rc;

	if (!cJSON_IsArray(merges))
		return hf_bad(hf, "model", "has no list 'merges'");
	n = cJSON_GetArraySize(merges);
	rc = bpe_merges_init(hf->host, &m->merges, n);
	cJSON_ArrayForEach(item, merges) {
		if (rc < 0)
			break;
		rc = read_merge(hf, m, item, i++, &buf, &last);
	}
	json_buf_free(&buf);
	return rc;
}

static int refuse_affix(struct hf *hf, const cJSON *model, const char *key)
{
	const char *s = cJSON_GetStringValue(json_get(model, key));

	return s && s[0] ? hf_bad(hf, "model", "'%s' is '%.40s': BPE with word affixes is not "
		"done here", key, s) : NVLLM_OK;
}

static int read_flags(struct hf *hf, struct hf_model *m, const cJSON *model)
{
	const cJSON *unk = json_get(model, "unk_token");
	const char *text;
	size_t len;
	int rc;

	if ((rc = refuse_affix(hf, model, "continuing_subword_prefix")) < 0 ||
	    (rc = refuse_affix(hf, model, "end_of_word_suffix")) < 0 ||
	    (rc = hf_get_bool(hf, model, "model", "byte_fallback", false, &m->byte_fallback)) < 0 ||
	    (rc = hf_get_bool(hf, model, "model", "fuse_unk", false, &m->fuse_unk)) < 0 ||
	    (rc = hf_get_bool(hf, model, "model", "ignore_merges", false, &m->ignore_merges)) < 0)
		return rc;
	m->unk = NO_UNK;
	if (!unk || cJSON_IsNull(unk))
		return NVLLM_OK;
	if ((rc = hf_get_text(hf, model, "model", "unk_token", NULL, &text, &len)) < 0)
		return rc;
	m->unk = hf_find(hf, text, len);
	m->unk_text = m->unk < 0 ? text : NULL;
	return NVLLM_OK;
}

static void byte_ids(struct hf *hf, struct hf_model *m)
{
	bool some = m->byte_fallback || m->unk >= 0 || m->unk_text;

	m->every_byte = true;
	for (int b = 0; b < 256; b++) {
		char c[2], text[8];
		int n = hf_byte_char((unsigned char)b, c);

		snprintf(text, sizeof(text), "<0x%02X>", (unsigned)b);
		m->byte_id[b] = hf_find(hf, c, (size_t)n);
		m->fallback_id[b] = hf_find(hf, text, 6);
		if (m->byte_id[b] < 0 && some)
			m->every_byte = false;
	}
}

static int create(struct hf *hf, const cJSON *model, struct hf_model **out)
{
	struct hf_model *m = hf_alloc(hf, 1, sizeof(*m));
	int rc;

	if (!m)
		return NVLLM_ENOMEM;
	if ((rc = read_vocab(hf, model)) < 0 || (rc = read_flags(hf, m, model)) < 0 ||
	    (rc = read_merges(hf, m, model)) < 0)
		return rc;
	byte_ids(hf, m);
	*out = m;
	return NVLLM_OK;
}

/* ---- a word ---- */

/* The unknown token as it waits to be put: with fuse_unk, more of it may follow. Byte tokens in
 * between do not end the wait, so they come before it; the reference has it so. */
struct unk {
	int n;
};

static int put_unk(const struct hf_model *m, struct hf_call *call, struct bpe_word *w,
	struct unk *unk)
{
	if (m->unk_text)
		return call->hf->host->fail(call->hf->host, NVLLM_EINVAL,
			"%s: the text has a character that the vocabulary lacks, and it lacks the "
			"unknown token '%.60s' too", call->hf->path, m->unk_text);
	if (m->unk < 0)
		return NVLLM_OK; /* it vanishes */
	if (unk->n && !m->fuse_unk)
		w->v[w->n++].id = m->unk;
	unk->n = 1;
	return NVLLM_OK;
}

/* A character's bytes as tokens "<0xNN>", if all of them are tokens. */
static bool put_bytes(const struct hf_model *m, struct bpe_word *w, const char *s, size_t n)
{
	if (!m->byte_fallback)
		return false;
	for (size_t i = 0; i < n; i++)
		if (m->fallback_id[(unsigned char)s[i]] < 0)
			return false;
	for (size_t i = 0; i < n; i++)
		w->v[w->n++].id = m->fallback_id[(unsigned char)s[i]];
	return true;
}

static int put_chars(const struct hf_model *m, struct hf_call *call, struct bpe_word *w,
	const char *s, size_t len)
{
	struct unk unk = { 0 };

	for (size_t at = 0, n; at < len; at += n) {
		int32_t id;
		int rc;

		n = utf8_decode(s + at, len - at, NULL);
		n = n ? n : 1;
		id = hf_find(call->hf, s + at, n);
		if (id >= 0) {
			if (unk.n)
				w->v[w->n++].id = m->unk;
			unk.n = 0;
			w->v[w->n++].id = id;
		} else if (!put_bytes(m, w, s + at, n)) {
			rc = put_unk(m, call, w, &unk);
			if (rc < 0)
				return rc;
		}
	}
	if (unk.n)
		w->v[w->n++].id = m->unk;
	return NVLLM_OK;
}

static bool to_alphabet(struct json_buf *b, const char *s, size_t len)
{
	b->len = 0;
	for (size_t i = 0; i < len; i++) {
		char c[2];
		int n = hf_byte_char((unsigned char)s[i], c);

		json_put_raw(b, c, (size_t)n);
	}
	return !b->failed;
}

static int no_memory(struct hf_call *call, size_t len)
{
	return call->hf->host->fail(call->hf->host, NVLLM_ENOMEM,
		"no memory for a word of %zu bytes", len);
}

static int word(const struct hf_model *m, struct hf_call *call, const char *s, size_t len)
{
	struct scratch *x = call->scratch;
	struct bpe_word *w = &x->word;
	bool bytes = call->byte_level;
	int rc = NVLLM_OK;

	if (bytes && (!m->every_byte ||
		(m->ignore_merges && len <= (size_t)call->hf->vocab.longest))) {
		if (!to_alphabet(&x->text, s, len)) {
			json_buf_free(&x->text);
			return no_memory(call, len);
		}
		if (!m->every_byte) {
			s = x->text.s;
			len = x->text.len;
			bytes = false;
		}
	}
	if (m->ignore_merges && len <= (size_t)call->hf->vocab.longest) {
		int32_t id = bytes ? hf_find(call->hf, x->text.s, x->text.len) :
			hf_find(call->hf, s, len);

		if (id >= 0)
			return hf_put(call, id);
	}
	if (len > INT32_MAX / 2 || bpe_word_room(w, (int64_t)len + 1) < 0)
		return no_memory(call, len);
	w->n = 0;
	for (size_t i = 0; bytes && i < len; i++) {
		w->v[w->n].id = m->byte_id[(unsigned char)s[i]];
		w->n += w->v[w->n].id >= 0; /* a byte without a token vanishes */
	}
	if (!bytes)
		rc = put_chars(m, call, w, s, len);
	if (w->n > 1)
		bpe_merge(&m->merges, w);
	for (int32_t i = 0; i < w->n && rc >= 0; i++)
		rc = hf_put(call, w->v[i].id);
	return rc;
}

static void scratch_finish(void *scratch)
{
	struct scratch *x = scratch;

	bpe_word_free(&x->word);
	json_buf_free(&x->text);
}

const struct hf_model_kind hf_bpe = {
	.type = "BPE", .create = create, .word = word, .scratch_finish = scratch_finish,
	.scratch_bytes = sizeof(struct scratch),
};
