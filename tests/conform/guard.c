/* SPDX-License-Identifier: MIT */
/* tests/conform/guard.c - decides how memory given to a component is watched: the last
 * byte lies against an unreadable page, the first close behind another; what alignment
 * leaves over is filled with a pattern and looked at after each check. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"

#define MAX_REGIONS 8192
#define SLACK 0xC5

static struct region {
	char name[48];
	unsigned char *map, *data; /* map NULL = free entry */
	size_t map_bytes;
	int64_t bytes, far; /* far: see mirror.c; -1 = nowhere yet */
	bool apart;
} regions[MAX_REGIONS];
static int n_regions;

static struct region *region_new(void)
{
	for (int i = 0; i < n_regions; i++)
		if (!regions[i].map)
			return &regions[i];
	return n_regions < MAX_REGIONS ? &regions[n_regions++] : NULL;
}

void *gmem_get(const char *name, int64_t bytes, int64_t align)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), body;
	struct region *r = region_new();
	unsigned char *end;

	if (!r || bytes < 0 || bytes > (int64_t)1 << 32)
		return NULL;
	body = ((size_t)bytes + (size_t)align + page - 1) / page * page;
	r->map_bytes = body + 2 * page;
	r->map = mmap(
		NULL, r->map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (r->map == MAP_FAILED) {
		r->map = NULL;
		return NULL;
	}
	end = r->map + page + body;
	mprotect(r->map, page, PROT_NONE);
	mprotect(end, page, PROT_NONE);
	r->data = end - bytes;
	r->data -= (uintptr_t)r->data % (uintptr_t)align;
	r->bytes = bytes;
	r->far = -1;
	r->apart = false;
	snprintf(r->name, sizeof(r->name), "%s", name);
	memset(r->map + page, SLACK, body);
	memset(r->data, 0xFF, (size_t)bytes);
	return r->data;
}

static struct region *region_of(const void *p)
{
	for (int i = 0; i < n_regions; i++)
		if (regions[i].map && regions[i].data == p)
			return &regions[i];
	return NULL;
}

void gmem_apart(void *p)
{
	struct region *r = region_of(p);

	if (r)
		r->apart = true;
}

bool gmem_view(int i, struct gmem_view *v)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	struct region *r = &regions[i];

	*v = (struct gmem_view){ .bytes = 0 };
	if (i < n_regions && r->map && !r->apart)
		*v = (struct gmem_view){ r->map + page, r->map_bytes - 2 * page, &r->far };
	return i < n_regions;
}

static void region_check(const struct region *r)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	const unsigned char *from = r->map + page, *to = r->map + r->map_bytes - page;

	for (const unsigned char *p = from; p < r->data; p++)
		if (*p != SLACK) {
			ck_bad("wrote outside %s: %ld bytes before it", r->name,
				(long)(r->data - p));
			return;
		}
	for (const unsigned char *p = r->data + r->bytes; p < to; p++)
		if (*p != SLACK) {
			ck_bad("wrote outside %s: %ld bytes past its end", r->name,
				(long)(p - r->data - r->bytes));
			return;
		}
}

void gmem_check(void)
{
	for (int i = 0; i < n_regions; i++)
		if (regions[i].map)
			region_check(&regions[i]);
}

void gmem_put(void *p)
{
	struct region *r = region_of(p);

	if (!r)
		return;
	region_check(r);
	munmap(r->map, r->map_bytes);
	r->map = NULL;
}

void gmem_put_all(void)
{
	for (int i = 0; i < n_regions; i++)
		if (regions[i].map)
			gmem_put(regions[i].data);
}

/* Runs on its own stack, names the memory beside the address, and dies of the signal. */
static void on_fault(int sig, siginfo_t *info, void *context)
{
	const unsigned char *at = info->si_addr;

	(void)context;
	for (int i = 0; i < n_regions && ck_board; i++) {
		const struct region *r = &regions[i];

		if (!r->map || at < r->map || at >= r->map + r->map_bytes)
			continue;
		snprintf(ck_board->fault, sizeof(ck_board->fault),
			"touched memory outside %s, %ld bytes %s it (signal %d)", r->name,
			(long)(at < r->data ? r->data - at : at - r->data - r->bytes),
			at < r->data ? "before" : "past", sig);
		break;
	}
	if (ck_board && !ck_board->fault[0])
		snprintf(ck_board->fault, sizeof(ck_board->fault),
			"crashed at address %p (signal %d)", info->si_addr, sig);
	signal(sig, SIG_DFL);
	raise(sig);
}

void gmem_catch_faults(void)
{
	static char stack[65536];
	stack_t alt = { .ss_sp = stack, .ss_size = sizeof(stack) };
	struct sigaction sa;

	memset(&sa, 0, sizeof(sa));
	sa.sa_sigaction = on_fault;
	sa.sa_flags = SA_SIGINFO | SA_ONSTACK;
	sigaltstack(&alt, NULL);
	sigaction(SIGSEGV, &sa, NULL);
	sigaction(SIGBUS, &sa, NULL);
	sigaction(SIGFPE, &sa, NULL);
	sigaction(SIGILL, &sa, NULL);
}
