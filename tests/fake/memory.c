/* SPDX-License-Identifier: MIT */
/* Addresses: device memory is NaN at first (0xFF) and out of the host's reach but while
 * jobs run or a weight is uploaded; host memory is counted. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "fake.h"

const struct block *block_of(const struct blocks *l, const void *p)
{
	uintptr_t at = (uintptr_t)p;

	for (int i = 0; i < l->n; i++)
		if (at >= (uintptr_t)l->v[i].p &&
			at - (uintptr_t)l->v[i].p < (uintptr_t)l->v[i].bytes)
			return &l->v[i];
	return NULL;
}

bool block_holds(const struct block *b, const void *p, int64_t bytes)
{
	return b && bytes >= 0 && bytes <= b->bytes - ((const char *)p - b->p);
}

static bool block_add(struct blocks *l, struct block b)
{
	if (l->n == l->room) {
		int room = l->room ? 2 * l->room : 16;
		struct block *v = realloc(l->v, (size_t)room * sizeof(*v));

		if (!v)
			return false;
		l->v = v;
		l->room = room;
	}
	l->v[l->n++] = b;
	return true;
}

/* Takes the block that begins at p out of the list. */
static bool block_take(struct blocks *l, const void *p, struct block *out)
{
	for (int i = 0; i < l->n; i++)
		if (l->v[i].p == p) {
			*out = l->v[i];
			l->v[i] = l->v[--l->n];
			return true;
		}
	return false;
}

static void reach(const struct nvllm_device *d, const struct block *b, bool open)
{
	if (d->conf->protect)
		mprotect(b->p, (size_t)b->mapped, open ? PROT_READ | PROT_WRITE : PROT_NONE);
}

void memory_open(struct nvllm_device *d, bool open)
{
	for (int i = 0; i < d->mem.n; i++)
		reach(d, &d->mem.v[i], open);
}

void *memory_alloc(struct nvllm_device *d, int64_t bytes)
{
	struct block b = { .bytes = bytes };

	if (bytes < 1 || bytes > (int64_t)1 << 46)
		return NULL;
	if (d->recording || d->head != d->tail) {
		misuse(d, "alloc %s", d->recording ? "inside a recording" : "while work is queued");
		return NULL;
	}
	b.mapped = (bytes + 4095) & ~(int64_t)4095;
	b.p = mmap(
		NULL, (size_t)b.mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (b.p == MAP_FAILED)
		return NULL;
	if (!block_add(&d->mem, b)) {
		munmap(b.p, (size_t)b.mapped);
		return NULL;
	}
	memset(b.p, 0xFF, (size_t)b.mapped);
	reach(d, &b, false);
	return b.p;
}

void memory_free(struct nvllm_device *d, void *p)
{
	struct block b;

	if (!p)
		return;
	if (d->recording || d->head != d->tail) { /* queued jobs may mean it: it stays */
		misuse(d, "free %s", d->recording ? "inside a recording" : "while work is queued");
	} else if (!block_take(&d->mem, p, &b)) {
		misuse(d, "free of %p, which alloc did not give or which is free already", p);
	} else {
		munmap(b.p, (size_t)b.mapped);
	}
}

void *memory_host_alloc(struct nvllm_device *d, int64_t bytes)
{
	struct block b = { .p = bytes < 1 ? NULL : malloc((size_t)bytes), .bytes = bytes };

	if (!b.p)
		return NULL;
	memset(b.p, 0xFF, (size_t)bytes);
	if (block_add(&d->host_mem, b))
		return b.p;
	free(b.p);
	return NULL;
}

void memory_host_free(struct nvllm_device *d, void *p)
{
	struct block b;

	if (!p)
		return;
	if (d->head != d->tail)
		misuse(d, "host_free while work is queued");
	if (block_take(&d->host_mem, p, &b))
		free(b.p);
	else
		misuse(d, "host_free of %p, which host_alloc did not give or which is free already",
			p);
}

void memory_finish(struct nvllm_device *d)
{
	if (d->mem.n)
		misuse(d, "destroyed with %d blocks of device memory left, the first of %lld bytes",
			d->mem.n, (long long)d->mem.v[0].bytes);
	if (d->host_mem.n)
		misuse(d, "destroyed with %d blocks of host memory left", d->host_mem.n);
	for (int i = 0; i < d->mem.n; i++)
		munmap(d->mem.v[i].p, (size_t)d->mem.v[i].mapped);
	for (int i = 0; i < d->host_mem.n; i++)
		free(d->host_mem.v[i].p);
	free(d->mem.v);
	free(d->host_mem.v);
}

bool on_device(
	struct nvllm_device *d, const char *op, const char *what, const void *p, int64_t bytes)
{
	if (bytes == 0 || block_holds(block_of(&d->mem, p), p, bytes))
		return true;
	misuse(d, "%s: %s: %lld bytes at %p lie outside the device's memory", op, what,
		(long long)bytes, p);
	return false;
}

bool tensor_on_device(struct nvllm_device *d, const char *op, const char *what,
	const struct nvllm_tensor *t)
{
	const int64_t row = nvllm_row_bytes(t->dtype, t->cols),
		      planes = t->planes > 1 ? t->planes : 1;
	int64_t bytes, more;

	if (t->rows == 0 || t->cols == 0)
		return true;
	if (row < 0 || t->rows < 0 || t->stride < 0 || t->plane_stride < 0 ||
		__builtin_mul_overflow(t->rows - 1, t->stride, &bytes) ||
		__builtin_mul_overflow(planes - 1, t->plane_stride, &more) ||
		__builtin_add_overflow(bytes, more, &bytes) ||
		__builtin_add_overflow(bytes, row, &bytes)) {
		misuse(d, "%s: %s: no tensor has type %d, %lld rows, %lld columns, stride %lld", op,
			what, t->dtype, (long long)t->rows, (long long)t->cols,
			(long long)t->stride);
		return false;
	}
	return on_device(d, op, what, t->data, bytes);
}
