/* SPDX-License-Identifier: MIT */
/* bpe_made.h - a vocabulary made in memory and the tokenizer plugin opened on it. */
#ifndef BPE_MADE_H
#define BPE_MADE_H

#include "bpe_fake.h"
#include "bpe_open.h"

static const struct nvllm_tokenizer_vt *bpe;

/* A vocabulary and a tokenizer on it. */
struct made {
	struct fake_host host;
	struct nvllm_loader l;
	struct nvllm_loader_ref ref;
	struct nvllm_tokenizer *t;
};

static inline void made_begin(struct made *m, const char *pre)
{
	fake_host_init(&m->host);
	fake_vocab_init(&m->l, pre);
	m->ref = (struct nvllm_loader_ref){
		.size = sizeof(m->ref), .vt = &fake_loader_vt, .loader = &m->l
	};
	m->t = NULL;
}

static inline int made_open(struct made *m)
{
	return bpe->open(&m->host.h, &m->ref, "made.gguf", NULL, &m->t);
}

static inline void made_end(struct made *m)
{
	if (m->t)
		bpe->close(m->t);
	fake_host_finish(&m->host);
	fake_vocab_finish(&m->l);
}

static inline void must_open(struct made *m)
{
	if (made_open(m) < 0)
		fail_msg("%s", m->host.said);
}

/* Encodes and compares with what the token texts joined by '|' say. */
static inline void check_words(
	struct made *m, const char *text, size_t len, uint32_t flags, const char *want)
{
	int32_t ids[256];
	char got[2048] = "";
	size_t at = 0;
	int64_t n = bpe->encode(m->t, text, (int64_t)len, flags, ids, 256);

	if (n < 0 || n > 256)
		fail_msg("'%s': %lld: %s", text, (long long)n, m->host.said);
	for (int64_t i = 0; i < n; i++)
		at += (size_t)snprintf(got + at, sizeof(got) - at, "%s%s", i ? "|" : "",
			m->l.tokens[ids[i]].s);
	assert_string_equal(got, want);
}

/* Group setup of the tests: finds the plugin. */
static inline int made_setup(void **state)
{
	const struct nvllm_component *c = component_open("tokenizer_bpe.so");

	if (!c || c->kind != NVLLM_KIND_TOKENIZER || strcmp(c->name, "bpe") != 0) {
		print_error("there is no tokenizer_bpe.so in NVLLM_PLUGIN_PATH\n");
		return -1;
	}
	bpe = c->vt;
	return 0;
}

#endif
