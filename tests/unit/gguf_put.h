/* SPDX-License-Identifier: MIT */
/* tests/unit/gguf_put.h - GGUF files made byte by byte for the loader's tests, with marks at
 * their parts so that a test can damage just one. Nothing is checked. */
#ifndef TESTS_GGUF_PUT_H
#define TESTS_GGUF_PUT_H

#include "gguf_host.h"

struct mark { char name[192]; size_t at; };

struct file {
	uint8_t bytes[8192];
	size_t n;
	struct mark marks[160];
	int n_marks;
};

static inline void put(struct file *f, const char *mark, const char *part, const void *p, size_t n)
{
	struct mark *m = &f->marks[f->n_marks++];

	snprintf(m->name, sizeof(m->name), "%s%s", mark, part);
	m->at = f->n;
	memcpy(f->bytes + f->n, p, n);
	f->n += n;
}

static inline void put_int(struct file *f, const char *mark, const char *part, uint64_t v, size_t n)
{
	put(f, mark, part, &v, n);
}

static inline void put_str(struct file *f, const char *mark, const char *part, const char *s)
{
	char of[96];

	snprintf(of, sizeof(of), "%s len", part);
	put_int(f, mark, of, strlen(s), 8);
	put(f, mark, part, s, strlen(s));
}

/* size 0: a string. */
static inline void put_kv(struct file *f, const char *key, uint32_t type, uint64_t v, size_t size,
	const char *s)
{
	put_str(f, key, " key", key);
	put_int(f, key, " type", type, 4);
	if (size)
		put_int(f, key, " value", v, size);
	else
		put_str(f, key, " value", s);
}

static inline void put_tensor(struct file *f, const char *name, int n_dims, uint64_t d0, uint64_t d1,
	uint32_t type, uint64_t at)
{
	put_str(f, name, " name", name);
	put_int(f, name, " dims", (uint64_t)n_dims, 4);
	put_int(f, name, " d0", d0, 8);
	if (n_dims > 1)
		put_int(f, name, " d1", d1, 8);
	put_int(f, name, " ggml", type, 4);
	put_int(f, name, " offset", at, 8);
}

static inline size_t mark_at(const struct file *f, const char *name)
{
	for (int i = 0; i < f->n_marks; i++)
		if (!strcmp(f->marks[i].name, name))
			return f->marks[i].at;
	fail_msg("the test's own file has no '%s'", name);
	return 0;
}

/* Magic, version and counts. */
static inline void put_begin(struct file *f, uint64_t n_tensors, uint64_t n_kvs)
{
	memset(f, 0, sizeof(*f));
	put(f, "magic", "", "GGUF", 4);
	put_int(f, "version", "", 3, 4);
	put_int(f, "n_tensors", "", n_tensors, 8);
	put_int(f, "n_kvs", "", n_kvs, 8);
}

/* A key of type float32. */
static inline void put_real(struct file *f, const char *key, float v)
{
	uint32_t bits;

	memcpy(&bits, &v, 4);
	put_kv(f, key, 6, bits, 4, NULL);
}

/* A tensor of three dimensions, f32. */
static inline void put_planes(struct file *f, const char *name, uint64_t d0, uint64_t d1, uint64_t d2,
	uint64_t at)
{
	put_str(f, name, " name", name);
	put_int(f, name, " dims", 3, 4);
	put_int(f, name, " d0", d0, 8);
	put_int(f, name, " d1", d1, 8);
	put_int(f, name, " d2", d2, 8);
	put_int(f, name, " ggml", 0, 4);
	put_int(f, name, " offset", at, 8);
}

/* The data: n bytes, each unlike its neighbours. */
static inline void put_data(struct file *f, int n)
{
	while (f->n % 32)
		f->n++;
	put(f, "data", "", "", 0);
	for (int i = 0; i < n; i++)
		f->bytes[f->n++] = (uint8_t)(i * 7);
}

#endif
