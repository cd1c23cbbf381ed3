/* SPDX-License-Identifier: MIT */
/* frontends/batch_file.c - lines of a file in bounded memory, and their hashes. */
#define _GNU_SOURCE
#include "batch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HASH_PRIME 0x100000001b3ull
#define AHEAD      65536

uint64_t batch_hash(uint64_t h, const char *s, size_t len)
{
	for (size_t i = 0; i < len; i++)
		h = (h ^ (unsigned char)s[i]) * HASH_PRIME;
	return h;
}

int batch_reader_open(struct batch_reader *r, const char *path, size_t max)
{
	memset(r, 0, sizeof(*r));
	r->max = max;
	r->fd = -1;
	r->ahead = malloc(AHEAD);
	if (r->ahead)
		r->fd = open(path, O_RDONLY | O_CLOEXEC);
	return r->fd < 0 ? -1 : 0;
}

static bool keep_byte(struct batch_reader *r, int c)
{
	if (r->len == r->cap) {
		size_t cap = r->cap ? 2 * r->cap : 4096;
		char *s = realloc(r->s, cap);

		if (!s) {
			r->failed = true;
			return false;
		}
		r->s = s;
		r->cap = cap;
	}
	r->s[r->len++] = (char)c;
	return true;
}

/* Reads once. False: the end, or failed. */
static bool fill(struct batch_reader *r)
{
	ssize_t n = read(r->fd, r->ahead, AHEAD);

	r->at = 0;
	r->end = n > 0 ? (size_t)n : 0;
	if (n < 0 && errno != EINTR && errno != EAGAIN)
		r->failed = true;
	return n > 0 || (n < 0 && !r->failed);
}

static void begin_line(struct batch_reader *r)
{
	r->len = 0;
	r->hash = BATCH_HASH;
	r->too_long = r->torn = false;
	r->open_line = true;
}

/* What was read, up to the end of the line. True: it ended. */
static bool take_ahead(struct batch_reader *r)
{
	while (r->at < r->end && !r->failed) {
		char c = r->ahead[r->at++];

		if (!r->open_line)
			begin_line(r);
		r->bytes++;
		if (c == '\n')
			return true;
		r->hash = (r->hash ^ (unsigned char)c) * HASH_PRIME;
		if (r->len == r->max)
			r->too_long = true;
		else if (!keep_byte(r, c))
			return false;
	}
	return false;
}

enum batch_read batch_reader_try(struct batch_reader *r)
{
	bool had = r->at < r->end, whole = take_ahead(r);

	if (!whole && !r->failed && (had || fill(r)))
		return BATCH_MORE;
	if (r->failed || (!whole && !r->open_line))
		return BATCH_END;
	r->torn = !whole;
	r->open_line = false;
	r->n++;
	return BATCH_LINE;
}

bool batch_reader_next(struct batch_reader *r)
{
	enum batch_read got;

	while ((got = batch_reader_try(r)) == BATCH_MORE)
		;
	return got == BATCH_LINE;
}

void batch_reader_close(struct batch_reader *r)
{
	if (r->ahead && r->fd >= 0) /* a zeroed one was never open */
		close(r->fd);
	free(r->ahead);
	free(r->s);
	memset(r, 0, sizeof(*r));
	r->fd = -1;
}

bool batch_is_blank(const char *s, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (!strchr(" \t\r\f\v", s[i]) || !s[i])
			return false;
	return true;
}

/* ---- the set: open addressing, a zero is an empty slot ---- */

static int put(uint64_t *slots, size_t cap, uint64_t v)
{
	size_t i = (size_t)(v * 0x9E3779B97F4A7C15ull) & (cap - 1);

	while (slots[i] && slots[i] != v)
		i = (i + 1) & (cap - 1);
	if (slots[i])
		return 0;
	slots[i] = v;
	return 1;
}

static int grow(struct batch_set *s)
{
	size_t cap = s->cap ? 2 * s->cap : 1024;
	uint64_t *slots = calloc(cap, sizeof(*slots));

	if (!slots)
		return -1;
	for (size_t i = 0; i < s->cap; i++)
		if (s->slots[i])
			put(slots, cap, s->slots[i]);
	free(s->slots);
	s->slots = slots;
	s->cap = cap;
	return 0;
}

int batch_set_add(struct batch_set *s, uint64_t v)
{
	int fresh;

	if (2 * s->n >= s->cap && grow(s))
		return -1;
	fresh = put(s->slots, s->cap, v ? v : 1);
	s->n += (size_t)fresh;
	return fresh;
}

void batch_set_free(struct batch_set *s)
{
	free(s->slots);
	memset(s, 0, sizeof(*s));
}
