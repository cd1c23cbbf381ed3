/* SPDX-License-Identifier: MIT */
/* spm_vocab.c - decides which vocabularies are accepted, and finds a token by its text. */
#include "spm.h"

#include <stdlib.h>

#include "utf8.h"

static uint64_t load(const char *s, size_t n)
{
	uint64_t x = 0;

	memcpy(&x, s, n);
	return x;
}

uint64_t spm_hash(const char *s, size_t len)
{
	uint64_t h = len * 0x9E3779B97F4A7C15ull;

	for (; len > 8; s += 8, len -= 8) {
		h = (h ^ load(s, 8)) * 0xD6E8FEB86659FD93ull;
		h ^= h >> 32;
	}
	h = (h ^ load(s, len)) * 0xD6E8FEB86659FD93ull;
	h ^= h >> 32;
	h *= 0x9E3779B97F4A7C15ull;
	return h ^ h >> 29;
}

/* Higher scores have lower ranks, in the order of the floats; -0 is 0. */
static uint32_t rank_of(float score)
{
	uint32_t bits;
	float x = score + 0.0f;

	memcpy(&bits, &x, sizeof(bits));
	return bits & 1u << 31 ? bits : ~bits & ~(1u << 31);
}

static bool is_piece(uint8_t type)
{
	return type == SPM_NORMAL || type == SPM_USER || type == SPM_UNUSED;
}

static struct spm_slot *slot_of(const struct spm_vocab *v, const char *s, size_t len, uint64_t hash)
{
	uint64_t i = hash & v->mask;

	for (; v->slots[i].id >= 0; i = (i + 1) & v->mask) {
		const struct nvllm_str *t = &v->tokens[v->slots[i].id];

		if (v->slots[i].hash == hash && (size_t)t->len == len && memcmp(t->s, s, len) == 0)
			break;
	}
	return &v->slots[i];
}

const struct spm_slot *spm_vocab_find(const struct spm_vocab *v, const char *s, size_t len)
{
	const struct spm_slot *slot;

	if (len > v->max_match)
		return NULL;
	slot = slot_of(v, s, len, spm_hash(s, len));
	return slot->id >= 0 ? slot : NULL;
}

/* Of two tokens of one text the first counts. */
static int slots_init(const struct nvllm_host *host, struct spm_vocab *v)
{
	uint64_t n = 16;

	while (n < (uint64_t)v->n * 2)
		n *= 2;
	v->mask = n - 1;
	v->slots = host->alloc(host, n * sizeof(*v->slots));
	if (!v->slots)
		return host->fail(host, NVLLM_ENOMEM, "no memory for a vocabulary of %d tokens", v->n);
	memset(v->slots, 0xFF, n * sizeof(*v->slots));
	for (int32_t id = 0; id < v->n; id++) {
		const struct nvllm_str *t = &v->tokens[id];
		struct spm_slot *slot;
		uint64_t hash;

		if (!is_piece(v->types[id]) || t->len == 0)
			continue;
		hash = spm_hash(t->s, (size_t)t->len);
		slot = slot_of(v, t->s, (size_t)t->len, hash);
		if (slot->id < 0)
			*slot = (struct spm_slot){ hash, id, rank_of(v->scores[id]) };
	}
	return NVLLM_OK;
}

/* "<0xE4>" -> 0xE4, else -1. */
static int byte_text(const struct nvllm_str *t)
{
	static const char digits[] = "0123456789ABCDEF";
	const char *hi, *lo;

	if (t->len != 6 || memcmp(t->s, "<0x", 3) != 0 || t->s[5] != '>' || !t->s[3] || !t->s[4])
		return -1;
	hi = strchr(digits, t->s[3]);
	lo = strchr(digits, t->s[4]);
	return hi && lo ? (int)((hi - digits) * 16 + (lo - digits)) : -1;
}

void spm_glue_add(uint8_t glue[256], const char *s, size_t len)
{
	bool after_other = false;

	for (size_t i = 0; i < len; i++) {
		bool space = len - i >= 3 && memcmp(s + i, SPM_SPACE, 3) == 0;

		if (space && after_other)
			glue[(unsigned char)s[i - 1]] = 1;
		after_other = !space;
		i += space ? 2 : 0;
	}
}

size_t spm_word_len(const uint8_t glue[256], const char *s, size_t len)
{
	size_t i = 0;

	while (i < len) {
		const char *p;

		while (len - i >= 3 && memcmp(s + i, SPM_SPACE, 3) == 0)
			i += 3;
		do {
			p = i < len ? memchr(s + i + 1, SPM_SPACE[0], len - i - 1) : NULL;
			i = p ? (size_t)(p - s) : len;
		} while (p && (len - i < 3 || memcmp(p, SPM_SPACE, 3) != 0));
		if (p && !glue[(unsigned char)p[-1]])
			break;
	}
	return i;
}

static int check_token(const struct nvllm_host *host, struct spm_vocab *v, int32_t id)
{
	const struct nvllm_str *t = &v->tokens[id];
	int byte;

	if (t->len < 0 || t->len > SPM_MAX_PIECE || (t->len > 0 && !t->s))
		return host->fail(host, NVLLM_EINVAL, "'%s'[%d] has %lld bytes; %d are possible", v->name,
			id, (long long)t->len, SPM_MAX_PIECE);
	if (utf8_check(t->s, (size_t)t->len) < (size_t)t->len ||
		(t->len && memchr(t->s, 0, (size_t)t->len)))
		return host->fail(host, NVLLM_EINVAL, "'%s'[%d] is no UTF-8 text", v->name, id);
	if (!(v->scores[id] - v->scores[id] == 0)) /* also NaN */
		return host->fail(host, NVLLM_EINVAL, "'%s'[%d] has the score %g: the file is damaged",
			v->name, id, (double)v->scores[id]);
	if (v->types[id] == SPM_BYTE) {
		byte = byte_text(t);
		if (byte < 0)
			return host->fail(host, NVLLM_EINVAL,
				"'%s'[%d] is a byte token, but its text '%.*s' is not like '<0xE4>'",
				v->name, id, (int)(t->len < 40 ? t->len : 40), t->s);
		v->byte_id[byte] = id;
	}
	if (v->types[id] == SPM_UNKNOWN && v->unk < 0)
		v->unk = id;
	return NVLLM_OK;
}

/* What one token adds to the sums about all. */
static void count_token(struct spm_vocab *v, int32_t id)
{
	const struct nvllm_str *t = &v->tokens[id];

	if (!is_piece(v->types[id]) || t->len == 0)
		return;
	v->has_user |= v->types[id] == SPM_USER;
	v->has_unused |= v->types[id] == SPM_UNUSED;
	spm_glue_add(v->glue, t->s, (size_t)t->len);
	v->max_match = (size_t)t->len > v->max_match ? (size_t)t->len : v->max_match;
	if (v->types[id] == SPM_NORMAL) {
		v->min_score = v->scores[id] < v->min_score ? v->scores[id] : v->min_score;
		v->max_score = v->scores[id] > v->max_score ? v->scores[id] : v->max_score;
	}
}

static int user_init(const struct nvllm_host *host, struct spm_vocab *v)
{
	struct nvllm_str *texts = malloc(((size_t)v->n + 1) * sizeof(*texts));
	int32_t *ids = malloc(((size_t)v->n + 1) * sizeof(*ids));
	int64_t n = 0;
	int rc = NVLLM_ENOMEM;

	for (int32_t id = 0; texts && ids && id < v->n; id++) {
		if (v->types[id] == SPM_USER && v->tokens[id].len > 0) {
			texts[n] = v->tokens[id];
			ids[n++] = id;
		}
	}
	if (texts && ids)
		rc = spm_trie_init(host, &v->user, texts, ids, n);
	else
		host->fail(host, rc, "no memory for a vocabulary of %d tokens", v->n);
	free(texts);
	free(ids);
	return rc;
}

/* Whatever the text, there must be a token for it. */
static int check_unknown(const struct nvllm_host *host, const struct spm_vocab *v)
{
	int missing = 0;

	for (int b = 0; b < 256; b++)
		missing += v->byte_id[b] < 0;
	if (v->byte_fallback && missing)
		return host->fail(host, NVLLM_EINVAL,
			"'%s': unknown characters become bytes, but %d of 256 byte tokens are missing", v->name,
			missing);
	if (!v->byte_fallback && v->unk < 0)
		return host->fail(host, NVLLM_EINVAL,
			"'%s' has neither an unknown token nor byte tokens: most texts have no ids", v->name);
	return NVLLM_OK;
}

int spm_added_init(const struct nvllm_host *host, struct spm_source *s, bool user_too)
{
	int32_t n = 0;

	for (int pass = 0; pass < 2; pass++) {
		for (int32_t i = 0; i < s->n; i++) {
			bool special = s->types[i] == SPM_UNKNOWN || s->types[i] == SPM_CONTROL;

			if (s->tokens[i].len <= 0 || (!special && (!user_too || s->types[i] != SPM_USER ||
					memmem(s->tokens[i].s, (size_t)s->tokens[i].len, SPM_SPACE, 3))))
				continue;
			if (pass)
				s->added[s->n_added++] = (struct spm_added){ .text = s->tokens[i], .id = i,
					.special = special };
			n++;
		}
		if (!pass)
			s->added = host->alloc(host, ((size_t)n + 1) * sizeof(*s->added));
		if (!s->added)
			return host->fail(host, NVLLM_ENOMEM, "no memory for %d added tokens", n);
	}
	return NVLLM_OK;
}

int spm_vocab_init(const struct nvllm_host *host, const struct spm_source *s, struct spm_vocab *v)
{
	int rc = NVLLM_OK;

	/* FLT_MIN: where the reference begins, so that all scores below 0 give about 0. */
	*v = (struct spm_vocab){ .name = s->name, .n = (int32_t)s->n, .tokens = s->tokens,
		.scores = s->scores, .types = s->types, .unk = s->unk,
		.byte_fallback = s->byte_fallback, .min_score = __FLT_MAX__, .max_score = __FLT_MIN__ };
	memset(v->byte_id, 0xFF, sizeof(v->byte_id));
	for (int32_t id = 0; id < v->n && rc >= 0; id++) {
		rc = check_token(host, v, id);
		if (rc >= 0)
			count_token(v, id);
	}
	if (rc >= 0)
		rc = check_unknown(host, v);
	if (rc >= 0)
		rc = slots_init(host, v);
	return rc >= 0 && v->has_user ? user_init(host, v) : rc;
}
