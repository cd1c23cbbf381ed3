/* SPDX-License-Identifier: MIT */
/* bpe_fake.h - a host that remembers what was said, and a loader whose metadata is built in
 * memory: what the tests of the tokenizer and its fuzz target need of a core. */
#ifndef BPE_FAKE_H
#define BPE_FAKE_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <nvllm/plugin.h>
#include <nvllm/tokenizer.h>

/* ---- the host ---- */

struct fake_host {
	struct nvllm_host h;
	void **blocks;
	int n_blocks;
	int n_warnings;
	char said[1024];  /* the newest sentence */
	char warned[1024];
};

static inline struct fake_host *fake_of(const struct nvllm_host *h)
{
	return (struct fake_host *)(uintptr_t)h;
}

static inline void fake_log(const struct nvllm_host *h, int level, const char *fmt, ...)
{
	va_list ap;

	if (level > NVLLM_LOG_WARN)
		return;
	fake_of(h)->n_warnings++;
	va_start(ap, fmt);
	vsnprintf(fake_of(h)->warned, sizeof(fake_of(h)->warned), fmt, ap);
	va_end(ap);
}

static inline int fake_fail(const struct nvllm_host *h, int status, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(fake_of(h)->said, sizeof(fake_of(h)->said), fmt, ap);
	va_end(ap);
	return status;
}

static inline void *fake_alloc(const struct nvllm_host *h, size_t bytes)
{
	struct fake_host *f = fake_of(h);
	void *p = bytes < SIZE_MAX - 64 ? aligned_alloc(64, (bytes + 63) / 64 * 64 + 64) : NULL;

	if (!p)
		return NULL;
	memset(p, 0, bytes);
	f->blocks = realloc(f->blocks, (size_t)(f->n_blocks + 1) * sizeof(*f->blocks));
	f->blocks[f->n_blocks++] = p;
	return p;
}

static inline const void *fake_get(const struct nvllm_host *h, const char *id)
{
	(void)h;
	(void)id;
	return NULL;
}

static inline void fake_host_init(struct fake_host *f)
{
	*f = (struct fake_host){ .h = {
		.size = sizeof(f->h), .abi = NVLLM_ABI, .world = 1,
		.log = fake_log, .fail = fake_fail, .alloc = fake_alloc, .get = fake_get,
	} };
}

static inline void fake_host_finish(struct fake_host *f)
{
	while (f->n_blocks > 0)
		free(f->blocks[--f->n_blocks]);
	free(f->blocks);
	f->blocks = NULL;
}

/* ---- the loader: a vocabulary to be spoiled ---- */

#define FAKE_KEYS 24

struct nvllm_loader {
	struct {
		const char *key;
		struct nvllm_array a;
	} keys[FAKE_KEYS];
	int n_keys;
	struct nvllm_str *tokens, *merges;
	int32_t *types;
	int32_t n_tokens, n_merges;
	int32_t numbers[FAKE_KEYS];
	struct nvllm_str texts[FAKE_KEYS];
};

static inline int fake_array(struct nvllm_loader *l, const char *key, struct nvllm_array *out)
{
	for (int i = 0; i < l->n_keys; i++) {
		if (strcmp(l->keys[i].key, key) == 0) {
			*out = l->keys[i].a;
			return NVLLM_OK;
		}
	}
	return NVLLM_ENOENT;
}

static const struct nvllm_loader_vt fake_loader_vt = {
	.size = sizeof(fake_loader_vt), .array = fake_array,
};

/* Adds a key or gives it another value. */
static inline void fake_set(
	struct nvllm_loader *l, const char *key, int32_t type, int64_t n, const void *data)
{
	int i = 0;

	while (i < l->n_keys && strcmp(l->keys[i].key, key) != 0)
		i++;
	if (i == FAKE_KEYS)
		abort();
	l->n_keys += i == l->n_keys;
	l->keys[i].key = key;
	l->keys[i].a = (struct nvllm_array){
		.size = sizeof(l->keys[i].a), .type = type, .n = n, .data = data
	};
}

static inline void fake_unset(struct nvllm_loader *l, const char *key)
{
	for (int i = 0; i < l->n_keys; i++)
		if (strcmp(l->keys[i].key, key) == 0)
			l->keys[i] = l->keys[--l->n_keys];
}

static inline void fake_number(struct nvllm_loader *l, const char *key, int32_t x)
{
	fake_set(l, key, NVLLM_I32, 1, NULL);
	for (int i = 0; i < l->n_keys; i++) {
		if (strcmp(l->keys[i].key, key) == 0) {
			l->numbers[i] = x;
			l->keys[i].a.data = &l->numbers[i];
		}
	}
}

static inline void fake_text(struct nvllm_loader *l, const char *key, const char *s)
{
	fake_set(l, key, NVLLM_ARRAY_STR, 1, NULL);
	for (int i = 0; i < l->n_keys; i++) {
		if (strcmp(l->keys[i].key, key) == 0) {
			l->texts[i] = (struct nvllm_str){ s, (int64_t)strlen(s) };
			l->keys[i].a.data = &l->texts[i];
		}
	}
}

static inline char *fake_copy(const char *s, size_t len)
{
	char *p = malloc(len + 1);

	memcpy(p, s, len);
	p[len] = 0;
	return p;
}

/* Returns the new token's id. */
static inline int32_t fake_token(struct nvllm_loader *l, const char *text, size_t len, int32_t type)
{
	int32_t n = l->n_tokens++;

	l->tokens = realloc(l->tokens, (size_t)l->n_tokens * sizeof(*l->tokens));
	l->types = realloc(l->types, (size_t)l->n_tokens * sizeof(*l->types));
	l->tokens[n] = (struct nvllm_str){ fake_copy(text, len), (int64_t)len };
	l->types[n] = type;
	fake_set(l, "tokenizer.ggml.tokens", NVLLM_ARRAY_STR, l->n_tokens, l->tokens);
	fake_set(l, "tokenizer.ggml.token_type", NVLLM_I32, l->n_tokens, l->types);
	return n;
}

static inline int32_t fake_find(const struct nvllm_loader *l, const char *text, size_t len)
{
	for (int32_t i = 0; i < l->n_tokens; i++)
		if (l->tokens[i].len == (int64_t)len && memcmp(l->tokens[i].s, text, len) == 0)
			return i;
	return -1;
}

static inline void fake_merge_raw(struct nvllm_loader *l, const char *text)
{
	int32_t n = l->n_merges++;

	l->merges = realloc(l->merges, (size_t)l->n_merges * sizeof(*l->merges));
	l->merges[n] = (struct nvllm_str){ fake_copy(text, strlen(text)), (int64_t)strlen(text) };
	fake_set(l, "tokenizer.ggml.merges", NVLLM_ARRAY_STR, l->n_merges, l->merges);
}

/* A merge, and the token it makes where there is none yet. Returns that token. */
static inline int32_t fake_merge(struct nvllm_loader *l, const char *left, const char *right)
{
	char both[256], text[256];
	int32_t id;

	snprintf(text, sizeof(text), "%s %s", left, right);
	snprintf(both, sizeof(both), "%s%s", left, right);
	fake_merge_raw(l, text);
	id = fake_find(l, both, strlen(both));
	return id >= 0 ? id : fake_token(l, both, strlen(both), 1);
}

/* A byte as the byte alphabet writes it: the definition, by counting. */
static inline const char *fake_byte(unsigned char byte, char buf[3])
{
	unsigned c = 0, holes = 0;

	for (unsigned b = 0; b <= byte; b++) {
		int prints =
			(b >= 33 && b <= 126) || (b >= 161 && b <= 172) || (b >= 174 && b <= 255);

		c = prints ? b : 256 + holes++;
	}
	if (c < 128) {
		buf[0] = (char)c;
		buf[1] = 0;
	} else {
		buf[0] = (char)(0xC0 | c >> 6);
		buf[1] = (char)(0x80 | (c & 63));
		buf[2] = 0;
	}
	return buf;
}

/* Ids 0..255 are the bytes 0..255; no merges yet. */
static inline void fake_vocab_init(struct nvllm_loader *l, const char *pre)
{
	memset(l, 0, sizeof(*l));
	fake_text(l, "tokenizer.ggml.model", "gpt2");
	fake_text(l, "tokenizer.ggml.pre", pre);
	fake_set(l, "tokenizer.ggml.merges", NVLLM_ARRAY_STR, 0, NULL);
	for (int b = 0; b < 256; b++) {
		char buf[3];

		fake_byte((unsigned char)b, buf);
		fake_token(l, buf, strlen(buf), 1);
	}
}

static inline void fake_vocab_finish(struct nvllm_loader *l)
{
	for (int32_t i = 0; i < l->n_tokens; i++)
		free((void *)(uintptr_t)l->tokens[i].s);
	for (int32_t i = 0; i < l->n_merges; i++)
		free((void *)(uintptr_t)l->merges[i].s);
	free(l->tokens);
	free(l->merges);
	free(l->types);
}

#endif
