/* SPDX-License-Identifier: MIT */
/* Reading ahead: decides how many threads read, and how far they may be ahead. Piece i has
 * buffer i % BUFFERS; it is read when the piece before it in that buffer was used. */
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "readahead.h"

#define THREADS 4
#define BUFFERS 8

struct readahead {
	pthread_t thread[THREADS];
	int n_threads;
	int64_t piece;
	char *buffers;
	pthread_mutex_t lock;     /* guards what follows */
	pthread_cond_t work, done;
	int (*read)(void *arg, int64_t i, void *buf);
	void *arg;
	int64_t n, next, used;    /* pieces: all, to be read next, used up */
	bool stop;
	struct { int64_t piece; int status; } ready[BUFFERS]; /* piece -1: none */
};

static char *buffer(struct readahead *r, int64_t i) { return r->buffers + i % BUFFERS * r->piece; }

static void *reader(void *arg)
{
	struct readahead *r = arg;

	pthread_mutex_lock(&r->lock);
	while (!r->stop) {
		int64_t i = r->next;
		int rc;

		if (i >= r->n || i >= r->used + BUFFERS) {
			pthread_cond_wait(&r->work, &r->lock);
			continue;
		}
		r->next++;
		pthread_mutex_unlock(&r->lock);
		rc = r->read(r->arg, i, buffer(r, i));
		pthread_mutex_lock(&r->lock);
		r->ready[i % BUFFERS].piece = i;
		r->ready[i % BUFFERS].status = rc;
		pthread_cond_signal(&r->done);
	}
	pthread_mutex_unlock(&r->lock);
	return NULL;
}

struct readahead *readahead_create(int64_t piece_bytes)
{
	struct readahead *r = calloc(1, sizeof(*r));

	if (!r)
		return NULL;
	r->piece = piece_bytes;
	r->buffers = malloc((size_t)piece_bytes * BUFFERS);
	pthread_mutex_init(&r->lock, NULL);
	pthread_cond_init(&r->work, NULL);
	pthread_cond_init(&r->done, NULL);
	while (r->buffers && r->n_threads < THREADS && !pthread_create(&r->thread[r->n_threads], NULL, reader, r))
		r->n_threads++;
	if (r->n_threads)
		return r;
	readahead_destroy(r);
	return NULL;
}

void readahead_destroy(struct readahead *r)
{
	if (!r)
		return;
	pthread_mutex_lock(&r->lock);
	r->stop = true;
	pthread_cond_broadcast(&r->work);
	pthread_mutex_unlock(&r->lock);
	for (int i = 0; i < r->n_threads; i++)
		pthread_join(r->thread[i], NULL);
	pthread_cond_destroy(&r->done);
	pthread_cond_destroy(&r->work);
	pthread_mutex_destroy(&r->lock);
	free(r->buffers);
	free(r);
}

int64_t readahead_piece(const struct readahead *r) { return r->piece; }

/* Nothing more is to be read; waits for what is being read. With the lock held. */
static void end_run(struct readahead *r, int64_t used)
{
	r->n = r->next;
	for (int64_t i = used; i < r->next; i++)
		while (r->ready[i % BUFFERS].piece != i)
			pthread_cond_wait(&r->done, &r->lock);
	r->n = r->next = r->used = 0;
}

int readahead_run(struct readahead *r, int64_t n, int (*read)(void *arg, int64_t i, void *buf),
	int (*use)(void *arg, int64_t i, void *buf), void *arg)
{
	int64_t i = 0;
	int rc = 0;

	pthread_mutex_lock(&r->lock);
	for (int k = 0; k < BUFFERS; k++)
		r->ready[k].piece = -1;
	r->read = read, r->arg = arg, r->n = n;
	pthread_cond_broadcast(&r->work);
	for (; i < n && !rc; i++) {
		while (r->ready[i % BUFFERS].piece != i)
			pthread_cond_wait(&r->done, &r->lock);
		rc = r->ready[i % BUFFERS].status;
		pthread_mutex_unlock(&r->lock);
		if (rc)
			rc = read(arg, i, buffer(r, i)); /* a sentence belongs to its thread */
		if (!rc)
			rc = use(arg, i, buffer(r, i));
		pthread_mutex_lock(&r->lock);
		r->used = i + 1;
		pthread_cond_broadcast(&r->work);
	}
	end_run(r, i);
	pthread_mutex_unlock(&r->lock);
	return rc;
}
