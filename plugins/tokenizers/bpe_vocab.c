/* SPDX-License-Identifier: MIT */
/* bpe_vocab.c - decides which vocabularies are accepted, and builds what encoding and
 * decoding look up: the bytes of each token, the token of each text, the merges. */
#include "bpe.h"

#include <stdlib.h>
#include <string.h>

#include "hf.h"
#include "utf8.h"

static bool same_text(const struct nvllm_str *a, const char *s, size_t len)
{
	return (size_t)a->len == len && memcmp(a->s, s, len) == 0;
}

/* The place of a text in the table: its own, or the free one where it would go. */
static struct bpe_text_slot *text_slot(
	const struct bpe_vocab *v, const char *s, size_t len, uint32_t hash)
{
	uint32_t i = hash & v->by_text_mask;

	for (; v->by_text[i].id >= 0; i = (i + 1) & v->by_text_mask)
		if (v->by_text[i].hash == hash && same_text(&v->tokens[v->by_text[i].id], s, len))
			break;
	return &v->by_text[i];
}

int32_t bpe_vocab_find(const struct bpe_vocab *v, const char *text, size_t len)
{
	return text_slot(v, text, len, hf_hash(text, len))->id;
}

static bool is_added(uint8_t type)
{
	return type == BPE_CONTROL || type == BPE_USER || type == BPE_UNKNOWN;
}

/* Which of two tokens of one text is meant by that text: a normal token rather than an added
 * one (a converter that rewrites added tokens may make such pairs), then the lower id.
 * Two normal ones would leave the merges without a meaning. */
static int text_table_add(const struct nvllm_host *host, const struct bpe_source *s,
	struct bpe_vocab *v, int32_t id)
{
	const struct nvllm_str *t = &s->tokens[id];
	struct bpe_text_slot *slot;
	uint32_t hash;
	int32_t old;

	if (t->len == 0 || v->types[id] == BPE_UNUSED)
		return NVLLM_OK;
	hash = hf_hash(t->s, (size_t)t->len);
	slot = text_slot(v, t->s, (size_t)t->len, hash);
	old = slot->id;
	if (old >= 0 && !is_added(v->types[old]) && !is_added(v->types[id]))
		return host->fail(host, NVLLM_EINVAL, "'%s'[%d] is the same text as [%d]: '%.*s'",
			s->tokens_key, id, old, (int)(t->len < 60 ? t->len : 60), t->s);
	if (old < 0 || (is_added(v->types[old]) && !is_added(v->types[id])))
		*slot = (struct bpe_text_slot){ .hash = hash, .id = id };
	return NVLLM_OK;
}

static int text_table_init(const struct nvllm_host *host, const struct bpe_source *s,
	struct bpe_vocab *v)
{
	uint64_t slots = 16;

	while (slots < (uint64_t)s->n_tokens * 2)
		slots *= 2;
	v->by_text_mask = (uint32_t)(slots - 1); /* at most 2^32 slots */
	v->by_text = host->alloc(host, slots * sizeof(*v->by_text));
	if (!v->by_text)
		return host->fail(host, NVLLM_ENOMEM, "no memory for a vocabulary of %lld tokens",
			(long long)s->n_tokens);
	memset(v->by_text, 0xFF, slots * sizeof(*v->by_text));
	for (int32_t id = 0; id < v->n; id++) {
		int rc = text_table_add(host, s, v, id);

		if (rc < 0)
			return rc;
	}
	return NVLLM_OK;
}

/* A token's bytes at `to`; returns how many. Added tokens are text as it stands. A normal
 * token with a character outside the byte alphabet is text as it stands too: so the
 * tokenizers library's ByteLevel decoder has it, and real files have such tokens. A hole in
 * the ids is no text. */
static int64_t piece_bytes(const struct nvllm_str *t, uint8_t type, char *to)
{
	int64_t n = 0, i = 0;
	int byte = 0;

	if (t->len == 0 || type == BPE_UNUSED)
		return 0;
	while (i < t->len && byte >= 0 && !is_added(type)) {
		uint32_t c = 0;

		i += (int64_t)utf8_decode(t->s + i, (size_t)(t->len - i), &c);
		byte = hf_char_byte(c);
		to[n++] = (char)byte;
	}
	if (byte >= 0 && !is_added(type))
		return n;
	memcpy(to, t->s, (size_t)t->len);
	return t->len;
}

/* Checks the texts; *total becomes the bytes of all. An empty token is allowed, because real
 * files have some: it stands for nothing and nothing gives it. */
static int check_texts(const struct nvllm_host *host, const struct bpe_source *s, int64_t *total)
{
	*total = 0;
	for (int64_t i = 0; i < s->n_tokens; i++) {
		const struct nvllm_str *t = &s->tokens[i];

		if (t->len < 0 || t->len > INT32_MAX || (t->len > 0 && !t->s) ||
		    __builtin_add_overflow(*total, t->len, total))
			return host->fail(host, NVLLM_EINVAL, "'%s'[%lld] has %lld bytes",
				s->tokens_key, (long long)i, (long long)t->len);
		if (utf8_check(t->s, (size_t)t->len) < (size_t)t->len)
			return host->fail(host, NVLLM_EINVAL,
				"'%s'[%lld] is not UTF-8, from its byte %lld", s->tokens_key,
				(long long)i, (long long)utf8_check(t->s, (size_t)t->len));
	}
	return NVLLM_OK;
}

static int pieces_init(
	const struct nvllm_host *host, const struct bpe_source *s, struct bpe_vocab *v)
{
	int64_t total, at = 0;
	int rc = check_texts(host, s, &total);

	if (rc < 0)
		return rc;
	v->types = host->alloc(host, (size_t)v->n);
	v->start = host->alloc(host, ((size_t)v->n + 1) * sizeof(*v->start));
	v->bytes = host->alloc(host, (size_t)total + 1);
	if (!v->types || !v->start || !v->bytes)
		return host->fail(
			host, NVLLM_ENOMEM, "no memory for a vocabulary of %d tokens", v->n);
	for (int32_t id = 0; id < v->n; id++) {
		const struct nvllm_str *t = &s->tokens[id];
		int32_t n;

		v->types[id] = s->types ? (uint8_t)s->types[id] : BPE_NORMAL;
		n = (int32_t)piece_bytes(t, v->types[id], v->bytes + at);
		at += n;
		v->start[id + 1] = at;
		v->max_piece = n > v->max_piece ? n : v->max_piece;
		if (!is_added(v->types[id]) && t->len > v->max_word)
			v->max_word = (int32_t)t->len;
	}
	return NVLLM_OK;
}

/* Not every byte has a token in every vocabulary: 21 have none in SmolLM2's. Such bytes
 * vanish from the text, as in the tokenizers library, which has no unknown token there. */
static void byte_ids_init(struct bpe_vocab *v)
{
	for (int b = 0; b < 256; b++) {
		char c[2];
		int n = hf_byte_char((unsigned char)b, c);

		v->byte_id[b] = bpe_vocab_find(v, c, (size_t)n);
	}
}

/* bpe_vocab_find, but trying one id first: trainers number tokens in the order of their merges,
 * and a look at the neighbour costs less than one into the table. */
static int32_t find_near(const struct bpe_vocab *v, const char *text, size_t len, int32_t guess)
{
	if (guess < v->n && v->types[guess] == BPE_NORMAL &&
		same_text(&v->tokens[guess], text, len))
		return guess;
	return bpe_vocab_find(v, text, len);
}

/* One merge, "left right". A pair that is listed twice has its last rank, as in the
 * tokenizers library. buf has room for the whole text; *last is what the merge before made. */
static int merge_add(const struct nvllm_host *host, const struct bpe_source *s, struct bpe_vocab *v,
	int64_t i, char *buf, int32_t *last)
{
	const struct nvllm_str *m = &s->merges[i];
	const char *space = memchr(m->s, ' ', (size_t)m->len);
	size_t n_left = space ? (size_t)(space - m->s) : 0, n_right = (size_t)m->len - n_left - 1;
	int show = (int)(m->len < 60 ? m->len : 60);
	int32_t left, right, both;

	if (n_left == 0 || n_right == 0 || memchr(space + 1, ' ', n_right))
		return host->fail(host, NVLLM_EINVAL,
			"'%s'[%lld] is '%.*s', not two tokens with one space between",
			s->merges_key, (long long)i, show, m->s);
	left = bpe_vocab_find(v, m->s, n_left);
	right = bpe_vocab_find(v, space + 1, n_right);
	memcpy(buf, m->s, n_left);
	memcpy(buf + n_left, space + 1, n_right);
	both = find_near(v, buf, n_left + n_right, *last + 1);
	*last = both;
	if (left < 0 || right < 0 || both < 0)
		return host->fail(host, NVLLM_EINVAL,
			"'%s'[%lld] is '%.*s', but '%s' has no such %s", s->merges_key,
			(long long)i, show, m->s, s->tokens_key,
			left < 0 ? "left part" :
			right < 0 ? "right part" : "token as both give together");
	bpe_merges_put(&v->merges, left, right, (uint32_t)i, both);
	return NVLLM_OK;
}

static int merges_init(
	const struct nvllm_host *host, const struct bpe_source *s, struct bpe_vocab *v)
{
	int64_t longest = 0;
	int rc = bpe_merges_init(host, &v->merges, s->n_merges);
	int32_t last = -1;
	char *buf;

	for (int64_t i = 0; i < s->n_merges && rc >= 0; i++) {
		const struct nvllm_str *m = &s->merges[i];

		if (m->len < 3 || m->len > INT32_MAX || !m->s)
			rc = host->fail(host, NVLLM_EINVAL,
				"'%s'[%lld] has %lld bytes: no two tokens with a space between",
				s->merges_key, (long long)i, (long long)m->len);
		longest = m->len > longest ? m->len : longest;
	}
	if (rc < 0)
		return rc;
	buf = malloc((size_t)longest + 1);
	if (!buf)
		return host->fail(host, NVLLM_ENOMEM, "no memory for the merges");
	for (int64_t i = 0; i < s->n_merges && rc >= 0; i++)
		rc = merge_add(host, s, v, i, buf, &last);
	free(buf);
	return rc;
}

int bpe_vocab_init(const struct nvllm_host *host, const struct bpe_source *s, struct bpe_vocab *v)
{
	int rc;

	*v = (struct bpe_vocab){ .n = (int32_t)s->n_tokens, .tokens = s->tokens };
	if ((rc = pieces_init(host, s, v)) < 0 || (rc = text_table_init(host, s, v)) < 0)
		return rc;
	byte_ids_init(v);
	return merges_init(host, s, v);
}
