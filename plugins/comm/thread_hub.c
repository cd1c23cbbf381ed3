/* SPDX-License-Identifier: MIT */
/* thread_hub.c - decides how ranks meet: by an id at the beginning, at a barrier from then
 * on, and what becomes of a group when one does not come.
 *
 * The barrier is a counter of arrivals and a word that counts the barriers passed. Who comes
 * last moves the word on, who has waited too long marks it as broken: both by compare and
 * exchange, so that one of them wins and all ranks agree. */
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "thread.h"

#define SPIN_MOST 50000 /* ns; a sleep and its wake cost about 10 us, and more where the core naps */
#define SPIN_LEAST 5000
#define BROKEN 1u

/* Where the ranks of an id meet: rank 0's, which outlives every create(). */
struct ticket {
	pthread_mutex_t lock;
	pthread_cond_t come;
	struct hub *hub;     /* from the first rank that comes; the ranks' once ready */
	uint64_t joined;     /* bit r: rank r is here */
	int32_t n_in;        /* ranks in create() */
	int64_t n_threads;   /* of all ranks' devices */
	bool ready, over;    /* all have come; given up */
};

struct id { char magic[16]; int64_t pid; struct ticket *ticket; };
static const char magic[16] = "nvllm thread 1";

static int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* "rank 2" or "ranks 1, 3". */
static const char *names(uint64_t mask, char *buf, size_t len)
{
	int n = snprintf(buf, len, mask & (mask - 1) ? "ranks" : mask ? "rank" : "a rank");

	for (int r = 0, any = 0; r < MAX_WORLD && n < (int)len; r++)
		if (mask >> r & 1)
			n += snprintf(buf + n, len - (size_t)n, any++ ? ", %d" : " %d", r);
	return buf;
}

/* ---- the barrier ---- */

static void wake(struct hub *h)
{
	if (atomic_load(&h->sleepers))
		syscall(SYS_futex, &h->word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

/* Until the word is no longer `was`, at most ns; or sooner. */
static void doze(struct hub *h, unsigned was, int64_t ns)
{
	struct timespec t = { .tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000 };

	atomic_fetch_add(&h->sleepers, 1);
	syscall(SYS_futex, &h->word, FUTEX_WAIT_PRIVATE, was, ns < 0 ? NULL : &t, NULL, 0);
	atomic_fetch_sub(&h->sleepers, 1);
}

/* 1: all have come since the word was `was`; -1: they never will; 0: not yet. */
static int settled(struct hub *h, unsigned was)
{
	unsigned w = atomic_load_explicit(&h->word, memory_order_acquire);

	return (w ^ was) >> 1 ? 1 : w & BROKEN ? -1 : 0;
}

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

/* Longer after it was of use, shorter after it was not: ranks with unlike shares, or a
 * machine with other work, are better slept through. */
static int spin(struct nvllm_comm *c, unsigned was)
{
	int64_t end = now_ns() + c->spin_ns;
	int s;

	for (unsigned i = 1; !(s = settled(c->hub, was)); i++) {
		relax();
		if (i % 32 == 0 && now_ns() > end)
			break;
	}
	c->spin_ns = s ? c->spin_ns * 2 : c->spin_ns / 2;
	c->spin_ns = c->spin_ns > SPIN_MOST ? SPIN_MOST : c->spin_ns < SPIN_LEAST ? SPIN_LEAST : c->spin_ns;
	return s;
}

/* Ranks that have not come to this rank's call. */
static uint64_t missing(const struct nvllm_comm *c)
{
	uint64_t mask = 0;

	for (int r = 0; r < c->world; r++)
		if (atomic_load_explicit(&c->hub->offer[r].calls, memory_order_relaxed) != c->calls)
			mask |= 1ull << r;
	return mask;
}

/* Ends the group, unless the others came at this very moment. */
static void give_up(struct nvllm_comm *c, unsigned was)
{
	uint64_t mask = missing(c);

	if (!atomic_compare_exchange_strong(&c->hub->word, &was, was | BROKEN))
		return;
	atomic_fetch_or(&c->hub->late, mask);
	wake(c->hub);
}

static int wait_others(struct nvllm_comm *c, unsigned was, bool limit)
{
	struct hub *h = c->hub;
	int64_t end, left = -1;
	int s = h->spin ? spin(c, was) : settled(h, was);

	if (s)
		return s;
	for (end = now_ns() + c->timeout * 1000000000; !(s = settled(h, was)); doze(h, was, left)) {
		if (!limit)
			continue;
		left = end - now_ns();
		if (left > 0)
			continue;
		left = 0;
		give_up(c, was);
	}
	return s;
}

int hub_barrier(struct nvllm_comm *c, bool limit)
{
	struct hub *h = c->hub;
	unsigned was = atomic_load_explicit(&h->word, memory_order_acquire);

	if (was & BROKEN)
		return -1;
	if (atomic_fetch_add(&h->arrived, 1) + 1 < (unsigned)c->world)
		return wait_others(c, was, limit) < 0 ? -1 : 0;
	atomic_store_explicit(&h->arrived, 0, memory_order_relaxed);
	if (!atomic_compare_exchange_strong(&h->word, &was, was + 2))
		return -1;
	wake(h);
	return 0;
}

int hub_broken(const struct nvllm_comm *c, const char *what)
{
	uint64_t late = atomic_load(&c->hub->late), left = atomic_load(&c->hub->left);
	char buf[256];

	if (!late && left)
		return c->host->fail(c->host, NVLLM_ECOMM, "%s: %s left the group, which is over with that", what,
			names(left, buf, sizeof(buf)));
	return c->host->fail(c->host, NVLLM_ECOMM, "%s: %s did not come within %d s, and the group is broken: it hangs or "
		"died, or is slow and [comm] timeout too short", what,
		names(late ? late : missing(c), buf, sizeof(buf)), (int)c->timeout);
}

/* ---- coming together ---- */

int hub_make_id(const struct nvllm_host *host, uint8_t id[NVLLM_COMM_ID_BYTES])
{
	struct ticket *t = host->alloc(host, sizeof(*t));
	struct id i = { .pid = getpid(), .ticket = t };
	pthread_condattr_t attr;

	if (!t)
		return NVLLM_ENOMEM;
	memcpy(i.magic, magic, sizeof(magic));
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_mutex_init(&t->lock, NULL);
	pthread_cond_init(&t->come, &attr);
	pthread_condattr_destroy(&attr);
	memset(id, 0, NVLLM_COMM_ID_BYTES);
	memcpy(id, &i, sizeof(i));
	return NVLLM_OK;
}

static struct hub *hub_create(int32_t world)
{
	size_t bytes = sizeof(struct hub) + (size_t)world * sizeof(struct offer);
	struct hub *h = aligned_alloc(64, (bytes + 63) / 64 * 64);

	if (h) {
		memset(h, 0, bytes);
		h->world = world;
		atomic_init(&h->refs, (unsigned)world);
	}
	return h;
}

/* Spinning is worth it where every thread of every rank has a core of its own; else it takes
 * the core from the very thread that is waited for. */
static bool may_spin(int64_t n_threads)
{
	cpu_set_t set;

	return sched_getaffinity(0, sizeof(set), &set) == 0 && n_threads <= CPU_COUNT(&set);
}

/* Under the ticket's lock. */
static int enter(struct nvllm_comm *c, struct ticket *t, int64_t n_threads)
{
	const struct nvllm_host *host = c->host;

	if (t->over)
		return host->fail(host, NVLLM_ECOMM, "rank %d comes to a group that was given up: make a new one", c->rank);
	if (t->ready || t->joined >> c->rank & 1)
		return host->fail(host, NVLLM_EINVAL, "rank %d comes to the group a second time", c->rank);
	if (t->hub && t->hub->world != c->world)
		return host->fail(host, NVLLM_EINVAL, "rank %d takes the group for %d ranks, another for %d", c->rank, c->world,
			t->hub->world);
	if (!t->hub && !(t->hub = hub_create(c->world)))
		return host->fail(host, NVLLM_ENOMEM, "no memory for a group of %d ranks", c->world);
	t->joined |= 1ull << c->rank;
	t->n_threads += n_threads > 0 ? n_threads : 1;
	if (t->joined == UINT64_MAX >> (MAX_WORLD - c->world)) {
		t->ready = true;
		t->hub->spin = may_spin(t->n_threads);
	}
	return NVLLM_OK;
}

static int wait_ready(struct nvllm_comm *c, struct ticket *t)
{
	struct timespec end;
	uint64_t absent;
	char buf[256];

	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_sec += c->timeout;
	while (!t->ready && !t->over && pthread_cond_timedwait(&t->come, &t->lock, &end) != ETIMEDOUT)
		continue;
	if (t->ready)
		return NVLLM_OK;
	absent = ~t->joined & UINT64_MAX >> (MAX_WORLD - c->world);
	return c->host->fail(c->host, NVLLM_ECOMM, "%s of %d did not join the group: it failed or hangs, or needs "
		"longer than [comm] timeout = %d seconds", names(absent, buf, sizeof(buf)), c->world, (int)c->timeout);
}

int hub_join(struct nvllm_comm *c, const uint8_t id[NVLLM_COMM_ID_BYTES], int64_t n_threads)
{
	struct ticket *t;
	struct id i;
	int rc;

	memcpy(&i, id, sizeof(i));
	if (memcmp(i.magic, magic, sizeof(magic)) || i.pid != getpid())
		return c->host->fail(c->host, NVLLM_EINVAL, "the group's id was made by another plugin or in another process: "
			"ranks of comm 'thread' are threads of one process");
	t = i.ticket;
	pthread_mutex_lock(&t->lock);
	t->n_in++;
	rc = enter(c, t, n_threads);
	if (!rc)
		rc = wait_ready(c, t);
	if (!t->ready && rc)
		t->over = true;
	pthread_cond_broadcast(&t->come);
	c->hub = rc ? NULL : t->hub;
	c->spin_ns = SPIN_MOST;
	if (--t->n_in == 0 && t->over) {
		free(t->hub);
		t->hub = NULL;
	}
	pthread_mutex_unlock(&t->lock);
	return rc;
}

/* Who still waits for this rank, or calls later, is told. The last one frees. */
void hub_leave(struct nvllm_comm *c)
{
	struct hub *h = c->hub;

	if (!h)
		return;
	atomic_fetch_or(&h->left, 1ull << c->rank);
	atomic_fetch_or(&h->word, BROKEN);
	wake(h);
	c->hub = NULL;
	if (atomic_fetch_sub(&h->refs, 1) == 1)
		free(h);
}
