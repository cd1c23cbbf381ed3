/* SPDX-License-Identifier: MIT */
/* Copies between host and device, late: the source is read, and the destination written,
 * when the copy's turn comes. Host memory that changes in between is found out. */
#include <string.h>

#include "fake.h"

/* FNV-1a (Fowler, Noll, Vo) by words of 8 bytes: the copy of a step's inputs is long. */
static uint64_t hash_bytes(const void *p, int64_t n)
{
	uint64_t h = 0xcbf29ce484222325u, w;
	const char *s = p;

	for (; n >= 8; n -= 8, s += 8) {
		memcpy(&w, s, 8);
		h = (h ^ w) * 0x100000001b3u;
		h ^= h >> 29;
	}
	for (; n > 0; n--, s++)
		h = (h ^ (unsigned char)*s) * 0x100000001b3u;
	return h;
}

static int run_copy(struct nvllm_device *d, const struct job *j)
{
	const int64_t n = j->u.copy.bytes;

	if (j->watched && hash_bytes(j->u.copy.src, n) != j->hash)
		misuse(d,
			"copy: %lld bytes of host memory at %p changed between the copy and "
			"the wait for it",
			(long long)n, j->u.copy.src);
	memmove(j->u.copy.dst, j->u.copy.src, (size_t)n);
	return NVLLM_OK;
}
static const struct job_type copy_type = { "copy", false, run_copy };

/* 1: device memory, 0: the host's, -1: neither one whole. kept: of host_alloc. */
static int side(struct nvllm_device *d, const void *p, int64_t bytes, bool *kept)
{
	const struct block *b = block_of(&d->mem, p), *h = block_of(&d->host_mem, p);

	*kept = h != NULL;
	if (b)
		return block_holds(b, p, bytes) ? 1 : -1;
	return p && (!h || block_holds(h, p, bytes)) ? 0 : -1;
}

int copy(struct nvllm_device *d, nvllm_stream s, void *dst, const void *src, int64_t bytes)
{
	bool kept_to, kept_from;
	int to = side(d, dst, bytes, &kept_to), from = side(d, src, bytes, &kept_from);
	struct job *j;

	if (bytes == 0)
		return NVLLM_OK;
	if (bytes < 0 || to < 0 || from < 0 || (!to && !from)) {
		misuse(d, "copy of %lld bytes from %p to %p: %s", (long long)bytes, src, dst,
			to == 0 && from == 0 ? "neither is on the device" : "no such range");
		return NVLLM_OK;
	}
	if (d->recording && ((!to && !kept_to) || (!from && !kept_from))) {
		misuse(d, "copy inside a recording with host memory that is not of host_alloc");
		return NVLLM_OK;
	}
	j = job_new(d, s, &copy_type);
	if (!j)
		return job_none(d, s);
	j->u.copy.dst = dst;
	j->u.copy.src = src;
	j->u.copy.bytes = bytes;
	j->watched = !from && !d->recording;
	if (j->watched)
		j->hash = hash_bytes(src, bytes);
	if (!to && !d->recording) /* from now on it is the device's: who reads it early sees */
		memset(dst, 0xFF, (size_t)bytes);
	return NVLLM_OK;
}
