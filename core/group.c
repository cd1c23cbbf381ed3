/* SPDX-License-Identifier: MIT */
/* Who talks to whom: the tensor-parallel group of one process. Each rank works on a thread
 * of its own; the first one on the engine's. */
#include <pthread.h>
#include <stdlib.h>

#include "engine_int.h"

struct worker {
	struct group *group;
	pthread_t thread;
	int32_t rank;
	int status;
	char why[1024];
};

struct group {
	int32_t world, n_started, n_busy;
	struct worker *worker;   /* [world]: the first has no thread */
	pthread_mutex_t lock;    /* guards what follows, n_busy, and the workers' results */
	pthread_cond_t begin, done;
	uint64_t job;            /* counts the calls of group_run */
	bool stop;
	int (*fn)(void *, int32_t);
	void *arg;
};

static void run(struct worker *w, int (*fn)(void *, int32_t), void *arg)
{
	fail_clear();
	w->status = fn(arg, w->rank);
	snprintf(w->why, sizeof(w->why), "%s", w->status ? fail_text() : "");
}

static void *work(void *arg)
{
	struct worker *w = arg;
	struct group *g = w->group;
	uint64_t seen = 0;

	pthread_mutex_lock(&g->lock);
	for (;;) {
		int (*fn)(void *, int32_t);
		void *fn_arg;

		while (g->job == seen && !g->stop)
			pthread_cond_wait(&g->begin, &g->lock);
		if (g->stop)
			break;
		seen = g->job;
		fn = g->fn;
		fn_arg = g->arg;
		pthread_mutex_unlock(&g->lock);
		run(w, fn, fn_arg);
		pthread_mutex_lock(&g->lock);
		if (--g->n_busy == 0)
			pthread_cond_signal(&g->done);
	}
	pthread_mutex_unlock(&g->lock);
	return NULL;
}

struct group *group_create(int32_t world)
{
	struct group *g = calloc(1, sizeof(*g));

	if (g)
		g->worker = calloc((size_t)world, sizeof(*g->worker));
	if (!g || !g->worker) {
		free(g);
		fail(NVLLM_ENOMEM, "no memory for a group of %d ranks", world);
		return NULL;
	}
	g->world = world;
	pthread_mutex_init(&g->lock, NULL);
	pthread_cond_init(&g->begin, NULL);
	pthread_cond_init(&g->done, NULL);
	for (int32_t i = 0; i < world; i++) {
		struct worker *w = &g->worker[i];

		w->group = g;
		w->rank = i;
		if (i && pthread_create(&w->thread, NULL, work, w)) {
			group_destroy(g);
			fail(NVLLM_ENOMEM, "cannot start a thread for rank %d", i);
			return NULL;
		}
		g->n_started = i + 1;
	}
	return g;
}

void group_destroy(struct group *g)
{
	if (!g)
		return;
	pthread_mutex_lock(&g->lock);
	g->stop = true;
	pthread_cond_broadcast(&g->begin);
	pthread_mutex_unlock(&g->lock);
	for (int32_t i = 1; i < g->n_started; i++)
		pthread_join(g->worker[i].thread, NULL);
	pthread_cond_destroy(&g->done);
	pthread_cond_destroy(&g->begin);
	pthread_mutex_destroy(&g->lock);
	free(g->worker);
	free(g);
}

/* One that only waited in vain for another is not the cause. */
static int first_failure(const struct group *g)
{
	const struct worker *hit = NULL;

	for (int32_t i = 0; i < g->world; i++) {
		const struct worker *w = &g->worker[i];

		if (w->status && (!hit || (hit->status == NVLLM_ECOMM && w->status != NVLLM_ECOMM)))
			hit = w;
	}
	return hit ? fail(hit->status, "rank %d: %s", hit->rank, hit->why) : NVLLM_OK;
}

int group_run(struct group *g, int (*fn)(void *, int32_t), void *arg)
{
	if (g->world == 1)
		return fn(arg, 0);
	pthread_mutex_lock(&g->lock);
	g->fn = fn;
	g->arg = arg;
	g->n_busy = g->world - 1;
	g->job++;
	pthread_cond_broadcast(&g->begin);
	pthread_mutex_unlock(&g->lock);
	run(&g->worker[0], fn, arg);
	pthread_mutex_lock(&g->lock);
	while (g->n_busy)
		pthread_cond_wait(&g->done, &g->lock);
	pthread_mutex_unlock(&g->lock);
	return first_failure(g);
}

/* ---- collectives ---- */

struct connecting {
	struct nvllm_engine *e;
	const void *conf;
	uint8_t id[NVLLM_COMM_ID_BYTES];
};

static int connect_rank(void *arg, int32_t rank)
{
	struct connecting *c = arg;
	struct rank *r = &c->e->ranks[rank];

	return r->cvt->create(r->host_comm, &r->ref, c->id, rank, c->e->tp, c->conf, &r->comm);
}

int group_connect(struct nvllm_engine *e, const struct nvllm_component *comp, const void *conf)
{
	struct connecting c = { .e = e, .conf = conf };
	int rc;

	for (int32_t i = 0; i < e->tp; i++) {
		e->ranks[i].cvt = comp->vt;
		e->ranks[i].host_comm = host_for(comp, i, e->tp);
		if (!e->ranks[i].host_comm)
			return out_of_memory();
	}
	rc = e->ranks[0].cvt->make_id(e->ranks[0].host_comm, c.id);
	return rc ? rc : group_run(e->group, connect_rank, &c);
}
