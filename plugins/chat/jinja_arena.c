/* SPDX-License-Identifier: MIT */
/* jinja_arena.c - the memory of one parse or one render, and how both stop: decides when a
 * template has taken too much. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <nvllm/base.h>

#include "jinja.h"

#define CHUNK 65536

void jin_begin(struct jin *j, size_t max_memory, int64_t max_steps)
{
	memset(j, 0, sizeof(*j));
	j->max_memory = max_memory;
	j->max_steps = max_steps;
	j->max_output = JIN_MAX_OUTPUT;
	j->status = NVLLM_EINVAL;
	j->stack = __builtin_frame_address(0);
}

void jin_end(struct jin *j)
{
	while (j->chunks) {
		struct chunk *c = j->chunks;

		j->chunks = c->next;
		free(c);
	}
}

void jin_fail(struct jin *j, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(j->why, sizeof(j->why), fmt, ap);
	va_end(ap);
	longjmp(j->stop, 1);
}

static struct chunk *chunk_new(struct jin *j, size_t bytes)
{
	size_t cap = bytes > CHUNK / 4 ? bytes : CHUNK;
	struct chunk *c;

	if (cap > j->max_memory || j->memory > j->max_memory - cap)
		jin_fail(j, "the template needs more than %zu MiB of memory", j->max_memory >> 20);
	c = malloc(sizeof(*c) + cap);
	if (!c) {
		j->status = NVLLM_ENOMEM;
		jin_fail(j, "no memory");
	}
	j->memory += cap;
	c->used = 0;
	c->cap = cap;
	return c;
}

void *jin_alloc(struct jin *j, size_t bytes)
{
	struct chunk *c = j->chunks;
	char *p;

	if (bytes > j->max_memory)
		chunk_new(j, bytes); /* says so */
	bytes = (bytes + 15) & ~(size_t)15;
	if (!c || c->cap - c->used < bytes) {
		struct chunk *fresh = chunk_new(j, bytes);

		if (c && bytes > CHUNK / 4) { /* has a chunk for itself: the open one stays first */
			fresh->next = c->next;
			c->next = fresh;
		} else {
			fresh->next = c;
			j->chunks = fresh;
		}
		c = fresh;
	}
	p = c->data + c->used;
	c->used += bytes;
	memset(p, 0, bytes);
	return p;
}

void *jin_array(struct jin *j, int64_t n, size_t size)
{
	size_t bytes;

	if (n < 0 || __builtin_mul_overflow((size_t)n, size, &bytes))
		bytes = SIZE_MAX / 2;
	return jin_alloc(j, bytes);
}

void jin_step(struct jin *j)
{
	if (++j->steps > j->max_steps)
		jin_fail(j, "the template takes more than %lld steps: it may never end",
			(long long)j->max_steps);
}

void jin_charge(struct jin *j, int64_t bytes)
{
	j->steps += bytes / 64;
	jin_step(j);
}

void jin_deeper(struct jin *j)
{
	ptrdiff_t used = j->stack - (const char *)__builtin_frame_address(0);

	if (++j->depth > JIN_MAX_DEPTH || used > JIN_MAX_STACK || -used > JIN_MAX_STACK)
		jin_fail(j, "too deep: maximum recursion depth exceeded");
}

char *jin_printf(struct jin *j, const char *fmt, ...)
{
	char text[512];
	va_list ap;
	size_t n;
	char *s;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	n = strlen(text);
	s = jin_alloc(j, n + 1);
	memcpy(s, text, n);
	return s;
}

static void sbuf_room(struct jin *j, struct sbuf *b, int64_t len)
{
	int64_t need, cap;
	char *s;

	if (__builtin_add_overflow(b->len, len, &need) || need > (int64_t)j->max_memory)
		jin_fail(j, "the template makes a text of more than %zu MiB", j->max_memory >> 20);
	if (need <= b->cap)
		return;
	cap = b->cap ? b->cap * 2 : 64;
	cap = cap < need ? need : cap;
	s = jin_alloc(j, (size_t)cap);
	if (b->len)
		memcpy(s, b->s, (size_t)b->len);
	b->s = s;
	b->cap = cap;
}

void sbuf_put(struct jin *j, struct sbuf *b, const char *s, int64_t len)
{
	if (len <= 0)
		return;
	j->steps += len / 64;
	if (b == j->out && b->len + len > j->max_output)
		jin_fail(j, "the prompt grows beyond %lld bytes", (long long)j->max_output);
	sbuf_room(j, b, len);
	memcpy(b->s + b->len, s, (size_t)len);
	b->len += len;
}

void sbuf_puts(struct jin *j, struct sbuf *b, const char *s)
{
	sbuf_put(j, b, s, (int64_t)strlen(s));
}

void sbuf_fill(struct jin *j, struct sbuf *b, const char *s, int64_t len, int64_t times)
{
	int64_t all;

	if (times <= 0 || len <= 0)
		return;
	if (__builtin_mul_overflow(len, times, &all))
		all = INT64_MAX;
	sbuf_room(j, b, all);
	j->steps += all / 64;
	for (int64_t i = 0; i < times; i++)
		memcpy(b->s + b->len + i * len, s, (size_t)len);
	b->len += all;
}

struct val sbuf_str(struct jin *j, struct sbuf *b)
{
	struct val v = v_str(j, b->s ? b->s : "", b->len);
	struct tail *t;

	if (b->cap < 256)
		return v;
	t = jin_alloc(j, sizeof(*t)); /* what is appended to it later goes into the rest */
	*t = (struct tail){ b->s, b->len, b->cap };
	((struct str *)v.s)->tail = t;
	return v;
}
