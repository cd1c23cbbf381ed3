/* SPDX-License-Identifier: MIT */
/* spm_made.h - a tokenizer.model made in memory, written to a file, and the plugin opened on it. */
#ifndef SPM_MADE_H
#define SPM_MADE_H

#include <stdbool.h>
#include <unistd.h>

#include "bpe_fake.h"
#include "bpe_open.h"

static const struct nvllm_tokenizer_vt *spm;

enum { NORMAL = 1, UNKNOWN, CONTROL, USER, UNUSED, BYTE };
#define SPACE "\xE2\x96\x81"

/* A protobuf message that grows. */
struct message {
	unsigned char *s;
	size_t len, cap;
};

static inline void put_bytes(struct message *m, const void *s, size_t len)
{
	if (m->len + len > m->cap) {
		m->cap = (m->len + len) * 2 + 64;
		m->s = realloc(m->s, m->cap);
	}
	if (len)
		memcpy(m->s + m->len, s, len);
	m->len += len;
}

static inline void put_varint(struct message *m, uint64_t x)
{
	do {
		unsigned char c = (unsigned char)((x & 0x7F) | (x > 0x7F ? 0x80 : 0));

		put_bytes(m, &c, 1);
		x >>= 7;
	} while (x);
}

static inline void put_number(struct message *m, int field, uint64_t x)
{
	put_varint(m, (uint64_t)field << 3);
	put_varint(m, x);
}

static inline void put_field(struct message *m, int field, const void *s, size_t len)
{
	put_varint(m, (uint64_t)field << 3 | 2);
	put_varint(m, len);
	put_bytes(m, s, len);
}

/* A tokenizer.model in the making, and what is opened on it. */
struct model {
	struct fake_host host;
	struct message file, trainer, normal;
	int n;
	char texts[4096][24]; /* of the pieces, for references */
	float scores[4096];
	char dir[64], path[128];
	struct nvllm_tokenizer *t;
};

static inline int put_piece_n(struct model *m, const char *text, size_t len, float score, int type)
{
	struct message p = { 0 };

	put_field(&p, 1, text, len);
	put_varint(&p, 2 << 3 | 5);
	put_bytes(&p, &score, 4);
	if (type != NORMAL)
		put_number(&p, 3, (uint64_t)type);
	put_field(&m->file, 1, p.s, p.len);
	free(p.s);
	snprintf(m->texts[m->n], sizeof(m->texts[0]), "%.*s", (int)(len < 23 ? len : 23), text);
	m->scores[m->n] = score;
	return m->n++;
}

static inline int put_piece(struct model *m, const char *text, float score, int type)
{
	return put_piece_n(m, text, strlen(text), score, type);
}

static inline void put_all_bytes(struct model *m)
{
	char text[8];

	for (int b = 0; b < 256; b++) {
		snprintf(text, sizeof(text), "<0x%02X>", b);
		put_piece(m, text, 0, BYTE);
	}
}

/* Pieces 0, 1, 2 are <unk>, <s>, </s>. model_type: 1 Unigram, 2 BPE. Spaces stay as they are:
 * no dummy one, none removed. */
static inline void model_begin(struct model *m, int model_type, bool bytes)
{
	memset(m, 0, sizeof(*m));
	fake_host_init(&m->host);
	put_number(&m->trainer, 3, (uint64_t)model_type);
	put_number(&m->trainer, 35, bytes);
	put_number(&m->normal, 3, 0);
	put_number(&m->normal, 4, 0);
	put_piece(m, "<unk>", 0, UNKNOWN);
	put_piece(m, "<s>", 0, CONTROL);
	put_piece(m, "</s>", 0, CONTROL);
	if (bytes)
		put_all_bytes(m);
	strcpy(m->dir, "/tmp/nvllm-spm-XXXXXX");
	if (!mkdtemp(m->dir))
		abort();
	snprintf(m->path, sizeof(m->path), "%s/tokenizer.model", m->dir);
}

static inline void write_file(const struct model *m, const char *name, const void *s, size_t len)
{
	char path[160];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", m->dir, name);
	f = fopen(path, "wb");
	if (!f || fwrite(s, 1, len, f) != len || fclose(f))
		abort();
}

/* Writes what was put and opens it. */
static inline int model_open(struct model *m)
{
	struct message all = { 0 };
	int rc;

	put_bytes(&all, m->file.s, m->file.len);
	put_field(&all, 2, m->trainer.s, m->trainer.len);
	put_field(&all, 3, m->normal.s, m->normal.len);
	write_file(m, "tokenizer.model", all.s, all.len);
	free(all.s);
	rc = spm->open(&m->host.h, NULL, m->dir, NULL, &m->t);
	return rc;
}

static inline void model_end(struct model *m)
{
	static const char *const names[] = { "tokenizer.model", "tokenizer_config.json",
		"tokenizer.json", NULL };
	char path[160];

	if (m->t)
		spm->close(m->t);
	for (int i = 0; names[i]; i++) {
		snprintf(path, sizeof(path), "%s/%s", m->dir, names[i]);
		unlink(path);
	}
	rmdir(m->dir);
	fake_host_finish(&m->host);
	free(m->file.s);
	free(m->trainer.s);
	free(m->normal.s);
}

static inline void model_must_open(struct model *m)
{
	if (model_open(m) < 0)
		fail_msg("%s", m->host.said);
}

/* Encodes and compares with what the pieces' texts joined by '|' say. */
static inline void check_pieces(struct model *m, const char *text, uint32_t flags, const char *want)
{
	int32_t ids[512];
	char got[4096] = "";
	size_t at = 0;
	int64_t n = spm->encode(m->t, text, (int64_t)strlen(text), flags, ids, 512);

	if (n < 0 || n > 512)
		fail_msg("'%s': %lld: %s", text, (long long)n, m->host.said);
	for (int64_t i = 0; i < n; i++)
		at += (size_t)snprintf(got + at, sizeof(got) - at, "%s%s", i ? "|" : "",
			ids[i] < m->n ? m->texts[ids[i]] : "(added)");
	assert_string_equal(got, want);
}

static inline int spm_setup(void **state)
{
	const struct nvllm_component *c = component_open("tokenizer_spm.so");

	(void)state;
	if (!c || c->kind != NVLLM_KIND_TOKENIZER || strcmp(c->name, "spm") != 0) {
		print_error("there is no tokenizer_spm.so in NVLLM_PLUGIN_PATH\n");
		return -1;
	}
	spm = c->vt;
	return 0;
}

#endif
