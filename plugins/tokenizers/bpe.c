/* SPDX-License-Identifier: MIT */
/* bpe.c - byte-level BPE, of a tokenizer.json (hf.h has all of that) or of a GGUF. For the latter
 * it decides the order in which a text is taken apart: added tokens first, then words, then the
 * bytes of each word, which merge; and which tokens end an answer. */
#include "bpe.h"

#include <nvllm/plugin.h>

#include <stdlib.h>
#include <string.h>

#include "hf.h"
#include "utf8.h"

#define MAX_END_IDS NVLLM_STOP_IDS

struct nvllm_tokenizer {
	const struct nvllm_host *host;
	struct hf *hf;      /* of a tokenizer.json; then nothing below is used */
	struct hf *nfc;     /* knows NFC, where the text is to be composed first; else NULL */
	struct bpe_vocab vocab;
	struct bpe_added added;
	struct bpe_split split;
	int32_t bos, eos, pad;
	bool add_bos, add_eos;
	int32_t end_ids[MAX_END_IDS];
	int32_t n_end_ids;
};

/* One call of encode: where the ids go, and its scratch. */
struct encoder {
	const struct nvllm_tokenizer *t;
	int32_t *tokens;
	int64_t n, room;
	struct bpe_walk walk;
	struct bpe_word word;
	struct bpe_matches matches;
	char *text;  /* [max_word + 2] a word in the byte alphabet, where whole words count */
	struct json_buf composed;
};

/* A GGUF's model: 1 = byte-level BPE, 0 = another, -1 = no GGUF. */
static int gguf_model(const struct nvllm_loader_ref *loader)
{
	struct nvllm_array a = { .size = sizeof(a) };
	const struct nvllm_str *model;

	if (!loader || !loader->vt->array ||
	    loader->vt->array(loader->loader, "tokenizer.ggml.model", &a) < 0)
		return -1;
	if (a.type != NVLLM_ARRAY_STR || a.n != 1)
		return 0;
	model = a.data;
	return model->len == 4 && memcmp(model->s, "gpt2", 4) == 0;
}

static int probe(const struct nvllm_loader_ref *loader, const char *path)
{
	int gguf = gguf_model(loader);

	if (gguf >= 0)
		return gguf ? 90 : 0;
	switch (hf_classify(path)) {
	case HF_BYTE_LEVEL: return 90;
	case HF_DAMAGED: return 10; /* so that open says what is wrong with it */
	default: return 0;
	}
}

static void end_id_add(struct nvllm_tokenizer *t, int32_t id)
{
	for (int32_t i = 0; i < t->n_end_ids; i++)
		if (t->end_ids[i] == id)
			return;
	if (id >= 0 && t->n_end_ids < MAX_END_IDS)
		t->end_ids[t->n_end_ids++] = id;
}

/* Files name one end token, but chat models end a turn with one and a text with another. */
static void end_ids_init(struct nvllm_tokenizer *t, const struct bpe_source *s)
{
	static const char *const texts[] = { "<|im_end|>", "<|endoftext|>", "<|eot_id|>",
		"<|eom_id|>", "<|end_of_text|>", "<end_of_turn>", "<|end_of_turn|>", NULL };

	end_id_add(t, s->eos);
	end_id_add(t, s->end[0]);
	end_id_add(t, s->end[1]);
	for (int i = 0; texts[i]; i++) {
		int32_t id = bpe_vocab_find(&t->vocab, texts[i], strlen(texts[i]));

		if (id >= 0 && bpe_is_special(&t->vocab, id))
			end_id_add(t, id);
	}
}

static void close(struct nvllm_tokenizer *t)
{
	if (t) {
		hf_close(t->hf);
		hf_close(t->nfc);
		bpe_split_finish(&t->split);
	}
}

static int open_json(struct nvllm_tokenizer *t, const char *path, struct nvllm_tokenizer **out)
{
	static const struct hf_model_kind *const models[] = { &hf_bpe, NULL };
	static const struct hf_kinds kinds = { .models = models };
	int rc = hf_open(t->host, path, &kinds, &t->hf);

	if (rc >= 0)
		*out = t;
	return rc;
}

static int open(const struct nvllm_host *host, const struct nvllm_loader_ref *loader,
	const char *path, const void *conf, struct nvllm_tokenizer **out)
{
	int gguf = gguf_model(loader);
	struct nvllm_tokenizer *t;
	struct bpe_source s;
	int rc;

	if (gguf == 0 || (gguf < 0 && hf_classify(path) == HF_NOT))
		return host->fail(host, NVLLM_ENOTSUP,
			"'%s' has no byte-level BPE vocabulary (neither a tokenizer.json nor a "
			"'tokenizer.ggml.model' that is 'gpt2'): choose another tokenizer",
			path ? path : "");
	t = host->alloc(host, sizeof(*t));
	if (!t)
		return host->fail(host, NVLLM_ENOMEM, "no memory for the tokenizer");
	t->host = host;
	if (gguf < 0)
		return open_json(t, path, out);
	if ((rc = bpe_gguf(host, loader, &s)) < 0 ||
	    (rc = bpe_vocab_init(host, &s, &t->vocab)) < 0 ||
	    (rc = bpe_added_init(host, &t->vocab, &t->added)) < 0 ||
	    (rc = bpe_split_init(host, s.pre, &t->split)) < 0)
		return rc;
	if (t->split.compose && ((rc = hf_create(host, path, NULL, &t->nfc)) < 0 ||
		(rc = hf_nfc_init(t->nfc)) < 0)) {
		close(t);
		return rc;
	}
	t->bos = s.bos;
	t->eos = s.eos;
	t->pad = s.pad;
	t->add_bos = s.add_bos >= 0 ? s.add_bos : t->split.add_bos && s.bos >= 0;
	t->add_eos = s.add_eos == 1;
	end_ids_init(t, &s);
	*out = t;
	return NVLLM_OK;
}

static int info(struct nvllm_tokenizer *t, struct nvllm_tokenizer_info *out)
{
	if (t->hf)
		return hf_info(t->hf, out);
	out->n_tokens = t->vocab.n;
	out->bos = t->bos;
	out->eos = t->eos;
	out->pad = t->pad;
	out->max_piece = t->vocab.max_piece;
	out->eos_ids = t->end_ids;
	out->n_eos_ids = t->n_end_ids;
	return NVLLM_OK;
}

static void emit(struct encoder *e, int32_t id)
{
	if (e->n < e->room)
		e->tokens[e->n] = id;
	e->n++;
}

/* The token that a word is as a whole, -1 if none. */
static int32_t whole_word(struct encoder *e, const char *s, size_t len)
{
	const struct bpe_vocab *v = &e->t->vocab;
	size_t n = 0;
	int32_t id;

	for (size_t i = 0; i < len; i++) {
		if (n > (size_t)v->max_word)
			return -1;
		n += (size_t)hf_byte_char((unsigned char)s[i], e->text + n);
	}
	id = bpe_vocab_find(v, e->text, n);
	return id >= 0 && v->types[id] != BPE_USER && !bpe_is_special(v, id) ? id : -1;
}

static int word(void *arg, const char *s, size_t len)
{
	struct encoder *e = arg;
	const struct bpe_vocab *v = &e->t->vocab;
	int32_t id = e->text ? whole_word(e, s, len) : -1, n = 0;

	if (id >= 0) {
		emit(e, id);
		return 0;
	}
	if (len > INT32_MAX || bpe_word_room(&e->word, (int64_t)len) < 0)
		return e->t->host->fail(
			e->t->host, NVLLM_ENOMEM, "no memory for a word of %zu bytes", len);
	for (size_t i = 0; i < len; i++) {
		id = v->byte_id[(unsigned char)s[i]];
		e->word.v[n].id = id;
		n += id >= 0; /* a byte without a token vanishes, and its neighbours may merge */
	}
	e->word.n = n;
	if (n > 1)
		bpe_merge(&v->merges, &e->word);
	for (int32_t i = 0; i < e->word.n; i++)
		emit(e, e->word.v[i].id);
	return 0;
}

/* The text between two added tokens. */
static int encode_part(struct encoder *e, const char *s, size_t len)
{
	const struct hf *nfc = e->t->nfc;

	if (!nfc || hf_is_nfc(nfc, s, len))
		return bpe_walk(&e->walk, s, len);
	e->composed.len = 0;
	if (hf_unicode_form(nfc, HF_NFC, s, len, &e->composed) < 0 || e->composed.failed)
		return e->t->host->fail(e->t->host, NVLLM_ENOMEM,
			"no memory to compose a text of %zu bytes", len);
	return bpe_walk(&e->walk, e->composed.s, e->composed.len);
}

/* The text between added tokens is taken apart by itself. In plain text special tokens are not
 * recognised, but what they cover is not searched for others, as in the tokenizers library. */
static int encode_text(struct encoder *e, const char *text, int64_t len, uint32_t flags)
{
	const struct bpe_vocab *v = &e->t->vocab;
	int64_t done = 0, seen = 0;
	int rc = 0;

	for (int64_t i = e->matches.n - 1; i >= 0 && rc >= 0; i--) {
		const struct bpe_match *m = &e->matches.v[i];

		if (m->at < seen)
			continue;
		seen = m->at + v->start[m->id + 1] - v->start[m->id];
		if ((flags & NVLLM_ENCODE_PLAIN) && bpe_is_special(v, m->id))
			continue;
		rc = encode_part(e, text + done, (size_t)(m->at - done));
		emit(e, m->id);
		done = seen;
	}
	return rc < 0 ? rc : encode_part(e, text + done, (size_t)(len - done));
}

static int encoder_init(
	struct encoder *e, const struct nvllm_tokenizer *t, const char *text, int64_t len)
{
	if (bpe_added_find(&t->added, text, len, &e->matches) < 0 ||
	    bpe_walk_init(&e->walk, (size_t)len) < 0)
		goto fail;
	if (t->split.whole_words) {
		e->text = malloc((size_t)t->vocab.max_word + 2);
		if (!e->text)
			goto fail;
	}
	return NVLLM_OK;
fail:
	return t->host->fail(t->host, NVLLM_ENOMEM, "no memory to tokenize a text of %lld bytes",
		(long long)len);
}

static void encoder_finish(struct encoder *e)
{
	bpe_walk_finish(&e->walk);
	bpe_word_free(&e->word);
	free(e->matches.v);
	free(e->text);
	json_buf_free(&e->composed);
}

static int64_t encode(struct nvllm_tokenizer *t, const char *text, int64_t len, uint32_t flags,
	int32_t *tokens, int64_t room)
{
	struct encoder e = { .t = t, .tokens = tokens, .room = tokens ? room : 0,
		.walk = { .host = t->host, .split = &t->split, .word = word, .arg = &e } };
	size_t good;
	int rc;

	if (t->hf)
		return hf_encode(t->hf, text, len, flags, tokens, room);
	good = len > 0 ? utf8_check(text, (size_t)len) : 0;
	if (len < 0 || (int64_t)good < len)
		return t->host->fail(t->host, NVLLM_EINVAL,
			"the text is not valid UTF-8: byte %zu (of %lld) begins no character",
			good, (long long)len);
	rc = encoder_init(&e, t, text, len);
	if (rc >= 0) {
		if ((flags & NVLLM_ENCODE_SPECIAL) && t->add_bos)
			emit(&e, t->bos);
		rc = len > 0 ? encode_text(&e, text, len, flags) : 0;
		if ((flags & NVLLM_ENCODE_SPECIAL) && t->add_eos)
			emit(&e, t->eos);
	}
	encoder_finish(&e);
	return rc < 0 ? rc : e.n;
}

static const char *piece(struct nvllm_tokenizer *t, int32_t token, uint32_t flags, int32_t *len)
{
	const struct bpe_vocab *v = &t->vocab;
	bool in = token >= 0 && token < v->n;

	if (t->hf)
		return hf_piece(t->hf, token, flags, len);
	*len = 0;
	if (in && !((flags & NVLLM_PIECE_SKIP_SPECIAL) && bpe_is_special(v, token)))
		*len = (int32_t)(v->start[token + 1] - v->start[token]);
	return in ? v->bytes + v->start[token] : NULL;
}

static int32_t byte(struct nvllm_tokenizer *t, int32_t token)
{
	return t->hf ? hf_byte(t->hf, token) : -1;
}

static const struct nvllm_tokenizer_vt vt = {
	.size = sizeof(vt), .probe = probe, .open = open, .info = info, .encode = encode,
	.piece = piece, .close = close, .byte = byte,
};

static const struct nvllm_component bpe = {
	.size = sizeof(bpe), .kind = NVLLM_KIND_TOKENIZER, .name = "bpe",
	.summary = "byte-level BPE of GPT-2, Llama 3, Qwen, SmolLM, from tokenizer.json or a GGUF",
	.vt = &vt,
};

static const struct nvllm_component *const components[] = { &bpe, NULL };

const struct nvllm_plugin nvllm_plugin = {
	.abi = NVLLM_ABI, .size = sizeof(nvllm_plugin), .name = "tokenizer_bpe", .version = "0.1.0",
	.components = components,
};
