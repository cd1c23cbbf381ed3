/* SPDX-License-Identifier: MIT */
/* pool.c - how work reaches the threads, and how they wait for it.
 *
 * A job is a range handed out in chunks by one atomic counter. Nobody waits for a
 * thread that has not begun: when the chunks are gone the caller closes the job and
 * waits only for those who joined, so a thread that a busy neighbour keeps off its
 * core costs its own chunk and no more. Waiting is a bounded spin, then a futex.
 *
 * A thread that loses its core in the middle of a chunk makes the caller wait for a time slice
 * of the system, milliseconds. Where that happens another process wants this core, and the
 * caller goes on alone for so long that such waits cost a few parts in a hundred; for twice as long
 * as the last time where it then had company for less than that. (Company that has half a core is no
 * help: measured, the caller did less in it than alone.) */
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "cpu.h"

/* The word `state`: whether a job may be joined, who waits, and how many joined. */
#define OPEN    0x80000000u
#define WAITER  0x40000000u /* the caller sleeps until the last one leaves */
#define JOINED  0x0000ffffu
#define SPINS   2000        /* pauses before sleeping: some 20 to 80 microseconds */
#define LATE    200000      /* a wait, ns, beyond LATE_CHUNKS chunks: that thread was stopped */
#define LATE_CHUNKS 3
#define ALONE   20          /* how many times as long as the wait the caller goes on alone, */
#define ALONE_MAX 500000000 /* and ns at most */

struct worker {
	struct pool *pool;
	pthread_t thread;
	int32_t id;
};

struct pool {
	int32_t n_workers;
	int32_t n_threads;        /* started: n_workers - 1 */
	struct worker *workers;   /* [n_threads] */
	/* The job: written while nobody has joined, read by those who have. */
	void (*fn)(void *arg, int64_t begin, int64_t end, int32_t worker);
	void *arg;
	int64_t n, grain;
	int64_t alone, alone_until; /* how long the caller goes on alone, and till when, ns; its own */
	_Alignas(64) atomic_llong next;  /* first index not handed out */
	_Alignas(64) atomic_uint state;
	_Alignas(64) atomic_uint seq;    /* counts jobs; threads sleep on it */
	atomic_int sleepers;
	atomic_bool stop;
};

static void pause_cpu(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

static void futex_wait(atomic_uint *word, unsigned value)
{
	syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void futex_wake(atomic_uint *word, int n)
{
	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}

static int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* How many it took. */
static int64_t take_chunks(struct pool *p, int32_t id)
{
	const int64_t n = p->n, grain = p->grain;
	int64_t begin, taken = 0;

	for (; (begin = atomic_fetch_add_explicit(&p->next, grain, memory_order_relaxed)) < n; taken++)
		p->fn(p->arg, begin, n - begin < grain ? n : begin + grain, id);
	return taken;
}

/* True if there is an open job, which then cannot end without this thread. */
static bool join(struct pool *p)
{
	unsigned s = atomic_load_explicit(&p->state, memory_order_relaxed);

	while (s & OPEN) {
		if (atomic_compare_exchange_weak_explicit(&p->state, &s, s + 1,
				memory_order_acquire, memory_order_relaxed))
			return true;
	}
	return false;
}

static void leave(struct pool *p)
{
	if (atomic_fetch_sub_explicit(&p->state, 1, memory_order_release) == (WAITER | 1))
		futex_wake(&p->state, 1);
}

/* Returns the new value of seq, once it is not `seen` any more. */
static unsigned wait_job(struct pool *p, unsigned seen)
{
	unsigned now;

	for (int i = 0; i < SPINS; i++) {
		now = atomic_load_explicit(&p->seq, memory_order_acquire);
		if (now != seen)
			return now;
		pause_cpu();
	}
	/* sleepers is raised before the kernel compares seq, and the caller raises seq
	 * before it reads sleepers: one of the two sees the other. */
	atomic_fetch_add(&p->sleepers, 1);
	while ((now = atomic_load(&p->seq)) == seen)
		futex_wait(&p->seq, seen);
	atomic_fetch_sub(&p->sleepers, 1);
	return now;
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	struct pool *p = w->pool;
	unsigned seen = 0;

	while (!atomic_load(&p->stop)) {
		seen = wait_job(p, seen);
		if (join(p)) {
			take_chunks(p, w->id);
			leave(p);
		}
	}
	return NULL;
}

/* The caller had done its part, begun at `start`, and then waited since `idle`. */
static void note_wait(struct pool *p, int64_t start, int64_t idle, int64_t taken)
{
	const int64_t now = now_ns(), wait = now - idle;
	int64_t alone = wait * ALONE;

	if (taken == 0 || wait <= LATE + LATE_CHUNKS * (idle - start) / taken)
		return;
	if (now - p->alone_until < p->alone && alone < 2 * p->alone)
		alone = 2 * p->alone;
	p->alone = alone < ALONE_MAX ? alone : ALONE_MAX;
	p->alone_until = now + p->alone;
}

/* Nobody joins any more; returns when all who did have left, true if the caller had to sleep. */
static bool close_job(struct pool *p)
{
	bool slept = false;
	unsigned s = atomic_fetch_and_explicit(&p->state, ~OPEN, memory_order_acquire) & ~OPEN;

	for (int i = 0; (s & JOINED) && i < SPINS; i++) {
		pause_cpu();
		s = atomic_load_explicit(&p->state, memory_order_acquire);
	}
	while (s & JOINED) {
		if ((s & WAITER) || atomic_compare_exchange_weak_explicit(&p->state, &s, s | WAITER,
				memory_order_acquire, memory_order_acquire))
			futex_wait(&p->state, s | WAITER);
		s = atomic_load_explicit(&p->state, memory_order_acquire);
		slept = true;
	}
	atomic_store_explicit(&p->state, 0, memory_order_relaxed);
	return slept;
}

static void announce(struct pool *p, int64_t chunks)
{
	int asleep;

	atomic_fetch_add(&p->seq, 1);
	asleep = atomic_load(&p->sleepers);
	if (asleep > 0)
		futex_wake(&p->seq, chunks - 1 < asleep ? (int)(chunks - 1) : asleep);
}

void pool_run(struct pool *p, int64_t n, int64_t grain,
	void (*fn)(void *arg, int64_t begin, int64_t end, int32_t worker), void *arg)
{
	int64_t chunks, start, idle, taken;

	if (n <= 0)
		return;
	if (grain < 1)
		grain = 1;
	chunks = n / grain + (n % grain != 0);
	start = p->n_threads && chunks > 1 ? now_ns() : 0;
	if (p->n_threads == 0 || chunks == 1 || start < p->alone_until) {
		for (int64_t i = 0; i < n; i += grain)
			fn(arg, i, n - i < grain ? n : i + grain, 0);
		return;
	}
	p->fn = fn, p->arg = arg, p->n = n, p->grain = grain;
	atomic_store_explicit(&p->next, 0, memory_order_relaxed);
	atomic_store_explicit(&p->state, OPEN, memory_order_release);
	announce(p, chunks);
	taken = take_chunks(p, 0);
	idle = now_ns();
	if (close_job(p))
		note_wait(p, start, idle, taken);
}

static int start_threads(struct pool *p)
{
	sigset_t all, old;
	int err = 0;

	sigfillset(&all); /* signals are for the program's own threads */
	pthread_sigmask(SIG_SETMASK, &all, &old);
	for (int32_t i = 0; i < p->n_workers - 1 && !err; i++) {
		p->workers[i] = (struct worker){ .pool = p, .id = i + 1 };
		err = pthread_create(&p->workers[i].thread, NULL, worker_main, &p->workers[i]);
		p->n_threads += !err;
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return err;
}

struct pool *pool_create(int32_t n_workers)
{
	struct pool *p = aligned_alloc(64, (sizeof(*p) + 63) / 64 * 64);

	if (!p)
		return NULL;
	*p = (struct pool){ .n_workers = n_workers };
	if (n_workers < 2)
		return p;
	p->workers = calloc((size_t)n_workers - 1, sizeof(*p->workers));
	if (!p->workers || start_threads(p)) {
		pool_destroy(p);
		return NULL;
	}
	return p;
}

void pool_destroy(struct pool *p)
{
	if (!p)
		return;
	atomic_store(&p->stop, true);
	atomic_fetch_add(&p->seq, 1);
	futex_wake(&p->seq, p->n_threads);
	for (int32_t i = 0; i < p->n_threads; i++)
		pthread_join(p->workers[i].thread, NULL);
	free(p->workers);
	free(p);
}
