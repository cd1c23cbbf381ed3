/* SPDX-License-Identifier: MIT */
/* arena.c - decides where small things with one common end of life lie: in chunks
 * that go all at once. One owner, one thread at a time. */
#include <stdlib.h>
#include <string.h>

#include "core.h"

#define ALIGN      64
#define CHUNK      (16 * 1024)
#define CHUNK_HEAD ALIGN

struct chunk {
	struct chunk *next;
	size_t used, room; /* bytes behind the head */
};

struct pool {
	struct chunk *chunks; /* the newest first */
};

struct pool *pool_create(void)
{
	return calloc(1, sizeof(struct pool));
}

void pool_destroy(struct pool *p)
{
	struct chunk *c = p ? p->chunks : NULL;

	while (c) {
		struct chunk *next = c->next;

		free(c);
		c = next;
	}
	free(p);
}

static struct chunk *chunk_add(struct pool *p, size_t room)
{
	struct chunk *c = aligned_alloc(ALIGN, CHUNK_HEAD + room);

	if (!c)
		return NULL;
	memset(c, 0, CHUNK_HEAD + room);
	c->room = room;
	/* A big piece gets a chunk of its own, and the open one stays in front. */
	if (p->chunks && room > CHUNK) {
		c->next = p->chunks->next;
		p->chunks->next = c;
	} else {
		c->next = p->chunks;
		p->chunks = c;
	}
	return c;
}

void *pool_alloc(struct pool *p, size_t bytes)
{
	struct chunk *c = p->chunks;
	size_t need;
	char *at;

	if (__builtin_add_overflow(bytes, (size_t)(ALIGN - 1), &need) ||
		need > PTRDIFF_MAX - CHUNK_HEAD)
		return NULL;
	need &= ~(size_t)(ALIGN - 1);
	if (need == 0)
		need = ALIGN;
	if (!c || c->room - c->used < need)
		c = chunk_add(p, need > CHUNK ? need : CHUNK);
	if (!c)
		return NULL;
	at = (char *)c + CHUNK_HEAD + c->used;
	c->used += need;
	return at;
}

char *pool_strdup(struct pool *p, const char *s)
{
	size_t n = strlen(s) + 1;
	char *copy = pool_alloc(p, n);

	return copy ? memcpy(copy, s, n) : NULL;
}

char *pool_printf(struct pool *p, const char *fmt, ...)
{
	va_list ap, again;
	char *s = NULL;
	int n;

	va_start(ap, fmt);
	va_copy(again, ap);
	n = vsnprintf(NULL, 0, fmt, ap);
	if (n >= 0)
		s = pool_alloc(p, (size_t)n + 1);
	if (s)
		vsnprintf(s, (size_t)n + 1, fmt, again);
	va_end(again);
	va_end(ap);
	return s;
}
