/* SPDX-License-Identifier: MIT */
/* hf_encode.c - one call of encode: decides the order in which a text is taken apart, and which
 * words' ids are kept for the next time. Scratch is taken from a pool and given back, so calls at
 * once do not share any, and what was learned about words stays. */
#include "hf.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "utf8.h"

#define POOL_KEEPS 8               /* calls at once whose scratch is kept */
#define KEEP_BYTES ((size_t)4 << 20) /* of a buffer that is kept */

/* ---- words seen before ---- */

/* A table without chains: a word's place is by its hash, the newest word takes it. Entries fill a
 * cache line. */
#define WORD_BITS 15
#define WORD_BYTES 26
#define WORD_IDS 8

struct word_slot {
	uint32_t hash;
	uint8_t len, n;    /* len 0: free */
	char s[WORD_BYTES];
	int32_t ids[WORD_IDS];
};

struct hf_words {
	struct word_slot slots[1 << WORD_BITS];
};

_Static_assert(sizeof(struct word_slot) == 64, "a cache line");

/* Of up to WORD_BYTES bytes: eight at a time, the last eight overlapping. */
static inline uint64_t word_hash(const char *s, size_t len)
{
	uint64_t h = len * 0x9E3779B97F4A7C15ull, x = 0;

	if (len < 8) {
		if (len >= 4) {
			uint32_t a, b;

			memcpy(&a, s, 4);
			memcpy(&b, s + len - 4, 4);
			x = (uint64_t)a << 32 | b;
		} else {
			x = (uint64_t)(unsigned char)s[0] << 16 |
				(uint64_t)(unsigned char)s[len / 2] << 8 |
				(unsigned char)s[len - 1];
		}
		h = (h ^ x) * 0xD6E8FEB86659FD93ull;
		return h ^ h >> 32;
	}
	for (size_t i = 0; i + 8 < len; i += 8) {
		memcpy(&x, s + i, 8);
		h = (h ^ x) * 0xD6E8FEB86659FD93ull;
		h ^= h >> 32;
	}
	memcpy(&x, s + len - 8, 8);
	h = (h ^ x) * 0xD6E8FEB86659FD93ull;
	return h ^ h >> 32;
}

/* Without the memory for it, words are looked up anew each time. */
static bool words_create(struct hf_call *call)
{
	call->words = calloc(1, sizeof(*call->words));
	return call->words != NULL;
}

int hf_word(struct hf_call *call, const char *s, size_t len)
{
	const struct hf *hf = call->hf;
	struct word_slot *slot;
	int64_t was = call->n_ids, n;
	uint64_t hash;
	int rc;

	if (len > WORD_BYTES || (!call->words && !words_create(call)))
		return hf->kind->word(hf->model, call, s, len);
	hash = word_hash(s, len);
	slot = &call->words->slots[hash >> (32 - WORD_BITS) & ((1 << WORD_BITS) - 1)];
	if (slot->hash == (uint32_t)hash && slot->len == len && !memcmp(slot->s, s, len) &&
		call->n_ids + WORD_IDS <= call->room) {
		memcpy(call->ids + call->n_ids, slot->ids, sizeof(slot->ids));
		call->n_ids += slot->n;
		return 0;
	}
	rc = hf->kind->word(hf->model, call, s, len);
	n = call->n_ids - was;
	if (rc < 0 || n > WORD_IDS)
		return rc;
	slot->hash = (uint32_t)hash;
	slot->len = (uint8_t)len;
	slot->n = (uint8_t)n;
	memcpy(slot->s, s, len);
	if (n) /* else there may be no list yet */
		memcpy(slot->ids, call->ids + was, (size_t)n * sizeof(*slot->ids));
	return 0;
}

int hf_put(struct hf_call *call, int32_t id)
{
	if (call->n_ids + WORD_IDS >= call->room) {
		int64_t room = call->room ? call->room * 2 : 1024;
		int32_t *ids = realloc(call->ids, (size_t)room * sizeof(*ids));

		if (!ids)
			return call->hf->host->fail(call->hf->host, NVLLM_ENOMEM,
				"no memory for %lld tokens of a text", (long long)room);
		call->ids = ids;
		call->room = room;
	}
	call->ids[call->n_ids++] = id;
	return NVLLM_OK;
}

/* ---- scratch ---- */

struct hf_pool {
	pthread_mutex_t lock;
	struct hf_call *free;
	int n_free;
};

int hf_pool_create(struct hf *hf)
{
	hf->pool = hf_alloc(hf, 1, sizeof(*hf->pool));
	if (!hf->pool)
		return NVLLM_ENOMEM;
	pthread_mutex_init(&hf->pool->lock, NULL);
	return NVLLM_OK;
}

void hf_pool_destroy(struct hf *hf)
{
	if (!hf->pool)
		return;
	while (hf->pool->free) {
		struct hf_call *call = hf->pool->free;

		hf->pool->free = call->next;
		hf_call_destroy(call);
	}
	pthread_mutex_destroy(&hf->pool->lock);
	hf->pool = NULL;
}

struct hf_call *hf_call_create(const struct hf *hf)
{
	struct hf_call *call = calloc(1, sizeof(*call));

	if (!call)
		goto fail;
	call->hf = hf;
	call->byte_level = hf->byte_level;
	call->part = calloc(HF_MAX_STEPS, sizeof(*call->part));
	call->scratch = calloc(1, hf->kind ? hf->kind->scratch_bytes + 1 : 1);
	if (call->part && call->scratch)
		return call;
fail:
	hf_call_destroy(call);
	hf->host->fail(hf->host, NVLLM_ENOMEM, "no memory to tokenize a text");
	return NULL;
}

void hf_call_destroy(struct hf_call *call)
{
	if (!call)
		return;
	if (call->scratch && call->hf->kind && call->hf->kind->scratch_finish)
		call->hf->kind->scratch_finish(call->scratch);
	for (int i = 0; call->part && i < HF_MAX_STEPS; i++)
		json_buf_free(&call->part[i]);
	hf_match_finish(call);
	json_buf_free(&call->text[0]);
	json_buf_free(&call->text[1]);
	free(call->raw.v);
	free(call->normal.v);
	free(call->part);
	free(call->words);
	free(call->scratch);
	free(call->ids);
	free(call);
}

static struct hf_call *pool_take(const struct hf *hf)
{
	struct hf_call *call;

	pthread_mutex_lock(&hf->pool->lock);
	call = hf->pool->free;
	if (call) {
		hf->pool->free = call->next;
		hf->pool->n_free--;
	}
	pthread_mutex_unlock(&hf->pool->lock);
	if (!call)
		return hf_call_create(hf);
	call->n_ids = 0;
	return call;
}

/* Whether its buffers are small enough to wait for another call. */
static bool is_small(const struct hf_call *call)
{
	size_t bytes = (size_t)call->room * 4 + call->text[0].cap + call->text[1].cap +
		(size_t)(call->raw.room + call->normal.room) * sizeof(*call->raw.v);

	for (int i = 0; i < HF_MAX_STEPS; i++)
		bytes += call->part[i].cap;
	return bytes <= KEEP_BYTES * 4;
}

static void pool_give(const struct hf *hf, struct hf_call *call)
{
	bool keep = is_small(call);

	pthread_mutex_lock(&hf->pool->lock);
	keep = keep && hf->pool->n_free < POOL_KEEPS;
	if (keep) {
		call->next = hf->pool->free;
		hf->pool->free = call;
		hf->pool->n_free++;
	}
	pthread_mutex_unlock(&hf->pool->lock);
	if (!keep)
		hf_call_destroy(call);
}

/* ---- a text ---- */

static int no_memory(const struct hf *hf, size_t len)
{
	return hf->host->fail(hf->host, NVLLM_ENOMEM, "no memory to tokenize a text of %zu bytes",
		len);
}

/* A part between added tokens of the raw text: normalised, then cut once more. */
static int encode_part(struct hf_call *call, const char *s, size_t len, bool first, bool plain)
{
	const struct hf *hf = call->hf;
	int rc = hf_normalize(hf, call, s, len, &s, &len);

	if (rc < 0 || len == 0)
		return rc;
	first = first && !call->cut;
	if (!hf->normal.nodes)
		return hf_walk(call, 0, (struct hf_part){ .s = s, .len = len, .first = first });
	if (hf_added_cut(hf, &hf->normal, s, len, plain, &call->normal) < 0)
		return no_memory(hf, len);
	for (int64_t i = 0; i < call->normal.n && rc >= 0; i++) {
		const struct hf_hit *h = &call->normal.v[i];

		rc = h->token >= 0 ? hf_put(call, hf->added[h->token].id) :
			hf_walk(call, 0, (struct hf_part){ .s = s + h->at,
				.len = (size_t)(h->end - h->at), .first = first && h->at == 0 });
	}
	return rc;
}

static int encode_text(struct hf_call *call, const char *s, size_t len, bool plain)
{
	const struct hf *hf = call->hf;
	int rc = 0;

	if (!hf->raw.nodes)
		return encode_part(call, s, len, true, plain);
	if (hf_added_cut(hf, &hf->raw, s, len, plain, &call->raw) < 0)
		return no_memory(hf, len);
	for (int64_t i = 0; i < call->raw.n && rc >= 0; i++) {
		const struct hf_hit *h = &call->raw.v[i];

		rc = h->token >= 0 ? hf_put(call, hf->added[h->token].id) :
			encode_part(call, s + h->at, (size_t)(h->end - h->at), h->at == 0, plain);
	}
	return rc;
}

int64_t hf_encode(const struct hf *hf, const char *text, int64_t len, uint32_t flags,
	int32_t *tokens, int64_t room)
{
	size_t good = len > 0 ? utf8_check(text, (size_t)len) : 0;
	bool special = flags & NVLLM_ENCODE_SPECIAL;
	struct hf_call *call;
	int64_t n;
	int rc = 0;

	if (len < 0 || (int64_t)good < len)
		return hf->host->fail(hf->host, NVLLM_EINVAL,
			"the text is not valid UTF-8: byte %zu (of %lld) begins no character",
			good, (long long)len);
	call = pool_take(hf);
	if (!call)
		return NVLLM_ENOMEM;
	for (int32_t i = 0; special && i < hf->n_before && rc >= 0; i++)
		rc = hf_put(call, hf->before[i]);
	if (rc >= 0 && len > 0)
		rc = encode_text(call, text, (size_t)len, flags & NVLLM_ENCODE_PLAIN);
	for (int32_t i = 0; special && i < hf->n_after && rc >= 0; i++)
		rc = hf_put(call, hf->after[i]);
	n = rc < 0 ? rc : call->n_ids;
	if (n > 0 && tokens && room > 0)
		memcpy(tokens, call->ids, (size_t)(n < room ? n : room) * sizeof(*tokens));
	pool_give(hf, call);
	return n;
}
