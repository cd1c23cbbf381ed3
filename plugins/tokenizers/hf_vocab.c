/* SPDX-License-Identifier: MIT */
/* hf_vocab.c - decides which ids and texts a vocabulary may have, and finds one by the other. */
#include "hf.h"

#include <stdlib.h>
#include <string.h>

#include "utf8.h"

#define BLOCK ((size_t)256 << 10)

/* ---- memory of the instance ---- */

void *hf_alloc(struct hf *hf, size_t n, size_t size)
{
	size_t bytes;
	void *p = NULL;

	if (!__builtin_mul_overflow(n, size, &bytes))
		p = hf->host->alloc(hf->host, bytes ? bytes : 1);
	if (!p)
		hf->host->fail(hf->host, NVLLM_ENOMEM,
			"no memory for the tokenizer: %zu x %zu bytes", n, size);
	return p;
}

char *hf_copy(struct hf *hf, const char *s, size_t len)
{
	char *p;

	if (len >= hf->free_bytes) {
		size_t room = len >= BLOCK / 4 ? len + 1 : BLOCK;

		p = hf_alloc(hf, room, 1);
		if (!p)
			return NULL;
		if (room != BLOCK) {
			memcpy(p, s, len);
			return p;
		}
		hf->free = p;
		hf->free_bytes = room;
	}
	p = hf->free;
	memcpy(p, s, len);
	p[len] = 0;
	hf->free += len + 1;
	hf->free_bytes -= len + 1;
	return p;
}

/* ---- the byte alphabet of GPT-2 ---- */

/* bytes_to_unicode in openai/gpt-2, src/encoder.py: bytes that print in Latin-1 stand for
 * themselves, the other 68 for U+0100 on, in order. */
static uint32_t byte_to_char(unsigned char byte)
{
	if ((byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD))
		return byte;
	return byte <= 0x20 ? 256u + byte : byte == 0xAD ? 323u : 256u + 33u + (byte - 0x7Fu);
}

int hf_char_byte(uint32_t c)
{
	if (c < 256)
		return byte_to_char((unsigned char)c) == c ? (int)c : -1;
	if (c <= 256 + 32)
		return (int)c - 256;
	return c < 323 ? (int)c - 289 + 0x7F : c == 323 ? 0xAD : -1;
}

int hf_byte_char(unsigned char byte, char out[2])
{
	char utf8[4];
	size_t n = utf8_encode(byte_to_char(byte), utf8);

	memcpy(out, utf8, n); /* at most U+0143: 2 bytes */
	return (int)n;
}

/* ---- ids by text ---- */

/* FNV-1a */
uint32_t hf_hash(const char *s, size_t len)
{
	uint32_t h = 2166136261u;

	for (size_t i = 0; i < len; i++)
		h = (h ^ (unsigned char)s[i]) * 16777619u;
	return h ^ h >> 15;
}

static struct hf_slot *slot_of(const struct hf_vocab *v, const char *s, size_t len, uint32_t hash)
{
	uint32_t i = hash & v->mask;

	for (; v->slots[i].id >= 0; i = (i + 1) & v->mask) {
		const struct hf_text *t = &v->texts[v->slots[i].id];

		if (v->slots[i].hash == hash && (size_t)t->len == len && !memcmp(t->s, s, len))
			break;
	}
	return &v->slots[i];
}

int32_t hf_find(const struct hf *hf, const char *s, size_t len)
{
	return slot_of(&hf->vocab, s, len, hf_hash(s, len))->id;
}

int hf_room_for(struct hf *hf, int64_t id)
{
	struct hf_vocab *v = &hf->vocab;
	int64_t room = v->room ? v->room : 1024;
	struct hf_text *more;

	while (room <= id)
		room *= 2;
	if (room > v->room) {
		more = realloc(v->texts, (size_t)room * sizeof(*more));
		if (!more)
			return hf->host->fail(hf->host, NVLLM_ENOMEM,
				"no memory for a vocabulary of %lld tokens", (long long)room);
		memset(more + v->room, 0, (size_t)(room - v->room) * sizeof(*more));
		v->texts = more;
		v->room = (int32_t)room;
	}
	v->n = id >= v->n ? (int32_t)id + 1 : v->n;
	return NVLLM_OK;
}

bool hf_id_taken(const struct hf *hf, int32_t id)
{
	return hf->vocab.texts[id].s != NULL;
}

int hf_token(struct hf *hf, int64_t id, const char *s, size_t len, const char *where)
{
	struct hf_vocab *v = &hf->vocab;
	char *copy;

	if (id < 0 || id >= HF_MAX_IDS)
		return hf_bad(hf, where, "the id of '%.*s' is %lld, outside 0..%d",
			(int)(len < 60 ? len : 60), s, (long long)id, HF_MAX_IDS - 1);
	if (len > INT32_MAX / 4)
		return hf_bad(hf, where, "token %lld has %zu bytes", (long long)id, len);
	if (id < v->room && v->texts[id].s)
		return hf_bad(hf, where, "'%.*s' and '%.*s' have the same id, %lld",
			(int)(v->texts[id].len < 60 ? v->texts[id].len : 60), v->texts[id].s,
			(int)(len < 60 ? len : 60), s, (long long)id);
	if (hf_room_for(hf, id) < 0)
		return NVLLM_ENOMEM;
	copy = hf_copy(hf, s, len);
	if (!copy)
		return NVLLM_ENOMEM;
	v->texts[id] = (struct hf_text){ .s = copy, .len = (int32_t)len };
	v->n_model++;
	v->longest = (int32_t)len > v->longest ? (int32_t)len : v->longest;
	return NVLLM_OK;
}

/* Of equal texts (which no tokenizer.json has, but other files may) the lowest id counts. */
int hf_vocab_end(struct hf *hf)
{
	struct hf_vocab *v = &hf->vocab;
	uint32_t slots = 16;

	while (slots < (uint32_t)v->n_model * 2)
		slots *= 2;
	v->mask = slots - 1;
	v->slots = hf_alloc(hf, slots, sizeof(*v->slots));
	if (!v->slots)
		return NVLLM_ENOMEM;
	memset(v->slots, 0xFF, slots * sizeof(*v->slots));
	for (int32_t id = 0; id < v->n; id++) {
		const struct hf_text *t = &v->texts[id];
		uint32_t hash = t->s ? hf_hash(t->s, (size_t)t->len) : 0;
		struct hf_slot *slot = t->s ? slot_of(v, t->s, (size_t)t->len, hash) : NULL;

		if (slot && slot->id < 0)
			*slot = (struct hf_slot){ .hash = hash, .id = id };
	}
	return NVLLM_OK;
}
