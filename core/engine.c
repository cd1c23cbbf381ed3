/* SPDX-License-Identifier: MIT */
/* The engine's thread, and the way in and out of it: submit, cancel, wait, stats. The
 * lists of requests change under the lock; steps and callbacks run without it. */
#include <stdlib.h>
#include <string.h>

#include "engine_int.h"

static struct request *find(struct request *list, uint64_t id)
{
	for (; list; list = list->next)
		if (list->id == id)
			return list;
	return NULL;
}

static void unlink_request(struct nvllm_engine *e, struct request *q)
{
	for (struct request **at = &e->live; *at; at = &(*at)->next)
		if (*at == q) {
			*at = q->next;
			return;
		}
}

/* The request had its last event: out of the lists, its pages back. */
static void retire(struct nvllm_engine *e, struct request *q, int64_t *counter)
{
	sched_remove(e->sched, &q->seq);
	pthread_mutex_lock(&e->lock);
	unlink_request(e, q);
	++*counter;
	e->stats.prompt_tokens += q->seq.n_prompt;
	e->stats.cached_tokens += q->seq.n_cached;
	pthread_cond_broadcast(&e->over);
	pthread_mutex_unlock(&e->lock);
	request_destroy(q);
}

/* Takes what was submitted since the last step. With the lock held. */
static void take_inbox(struct nvllm_engine *e)
{
	struct request *q = e->inbox, *next;

	for (; q; q = next) {
		next = q->next;
		sched_add(e->sched, &q->seq);
		q->next = e->live;
		e->live = q;
	}
	e->inbox = NULL;
	e->inbox_tail = &e->inbox;
}

/* One cancelled request, or with all set any: NULL when there is none left. */
static struct request *next_cancelled(struct nvllm_engine *e, bool all)
{
	struct request *q;

	pthread_mutex_lock(&e->lock);
	for (q = e->live; q && !q->cancelled && !all; q = q->next)
		;
	if (!q)
		e->cancels = false;
	pthread_mutex_unlock(&e->lock);
	return q;
}

static void end_cancelled(struct nvllm_engine *e, bool all)
{
	struct request *q;

	while ((q = next_cancelled(e, all))) {
		request_finish(q, NVLLM_FINISH_CANCEL, -1, NULL, NVLLM_ECANCEL, NULL);
		retire(e, q, &e->stats.cancelled);
	}
}

/* First sight of a sequence: its slot's state on the device, its start time. */
static int begin(struct nvllm_engine *e, const struct sched_step *st)
{
	for (int32_t i = 0; i < st->n_seqs; i++) {
		struct request *q = request_of(st->entry[i].seq);
		int rc;

		if (q->slot_ready)
			continue;
		q->slot_ready = true;
		q->t_start = now_ns();
		rc = batch_admit(&e->rank.batch, &e->rank, q->seq.slot, (int32_t)q->p.max_tokens, e->eos,
			q->p.ignore_eos ? 0 : e->n_eos);
		if (rc)
			return rc;
	}
	return NVLLM_OK;
}

static void commit(struct nvllm_engine *e, const struct sched_step *st)
{
	int64_t sampled = 0;

	sched_commit(e->sched, st, e->rank.host_out.tokens);
	for (int32_t i = 0; i < st->n_seqs; i++) {
		struct request *q = request_of(st->entry[i].seq);

		sampled += st->entry[i].samples;
		if (request_advance(e, q, &st->entry[i]))
			retire(e, q, &e->stats.finished);
	}
	pthread_mutex_lock(&e->lock);
	e->stats.output_tokens += sampled;
	e->stats.steps++;
	pthread_mutex_unlock(&e->lock);
}

/* The step failed: everything in it ends with the sentence, the rest goes on. */
static void give_up(struct nvllm_engine *e, const struct sched_step *st, int status)
{
	char why[1024];

	snprintf(why, sizeof(why), "%s", *fail_text() ? fail_text() : "the step failed");
	log_line(NVLLM_LOG_ERROR, NULL, "a step failed, its %d requests end: %s", st->n_seqs, why);
	for (int32_t i = 0; i < st->n_seqs; i++) {
		struct request *q = request_of(st->entry[i].seq);

		request_finish(q, NVLLM_FINISH_ERROR, -1, NULL, status, why);
		retire(e, q, &e->stats.failed);
	}
}

/* Runs one step if there is one; false when all is quiet. */
static bool run_step(struct nvllm_engine *e)
{
	const struct sched_step *st;
	int rc;

	host_step(true);
	st = sched_next(e->sched);
	rc = st ? begin(e, st) : NVLLM_OK;
	if (st && !rc)
		rc = step_run(&e->rank, st);
	host_step(false);
	if (!st)
		return false;
	if (rc)
		give_up(e, st, rc);
	else
		commit(e, st);
	return true;
}

static void *loop(void *arg)
{
	struct nvllm_engine *e = arg;
	bool quiet = false, stop = false, cancels;

	while (!stop) {
		pthread_mutex_lock(&e->lock);
		while (quiet && !e->stop && !e->inbox && !e->cancels)
			pthread_cond_wait(&e->wake, &e->lock);
		take_inbox(e);
		stop = e->stop;
		cancels = e->cancels;
		pthread_mutex_unlock(&e->lock);
		if (stop || cancels)
			end_cancelled(e, stop);
		if (stop)
			break;
		quiet = !run_step(e);
		pthread_mutex_lock(&e->lock);
		sched_counts(e->sched, &e->stats.running, &e->stats.waiting, &e->stats.pages_used);
		pthread_mutex_unlock(&e->lock);
	}
	return NULL;
}

int engine_start(struct nvllm_engine *e)
{
	e->inbox_tail = &e->inbox;
	pthread_mutex_init(&e->lock, NULL);
	pthread_cond_init(&e->wake, NULL);
	pthread_cond_init(&e->over, NULL);
	if (pthread_create(&e->thread, NULL, loop, e))
		return fail(NVLLM_ENOMEM, "cannot start the engine's thread");
	e->threaded = true;
	return NVLLM_OK;
}

void engine_stop(struct nvllm_engine *e)
{
	if (!e->threaded)
		return;
	pthread_mutex_lock(&e->lock);
	e->stop = true;
	pthread_cond_broadcast(&e->wake);
	pthread_mutex_unlock(&e->lock);
	pthread_join(e->thread, NULL);
	e->threaded = false;
	pthread_cond_destroy(&e->over);
	pthread_cond_destroy(&e->wake);
	pthread_mutex_destroy(&e->lock);
}

/* ---- what a front end sees ---- */

static int submit(struct nvllm_engine *e, const struct nvllm_request *r, uint64_t *id)
{
	struct request *q;
	int rc = request_create(e, r, &q);

	if (rc)
		return rc;
	pthread_mutex_lock(&e->lock);
	request_name(e, q, ++e->last_id);
	*id = q->id;
	*e->inbox_tail = q;
	e->inbox_tail = &q->next;
	pthread_cond_signal(&e->wake);
	pthread_mutex_unlock(&e->lock);
	return NVLLM_OK;
}

static void cancel(struct nvllm_engine *e, uint64_t id)
{
	struct request *q;

	pthread_mutex_lock(&e->lock);
	q = find(e->live, id);
	if (!q)
		q = find(e->inbox, id);
	if (q) {
		q->cancelled = e->cancels = true;
		pthread_cond_signal(&e->wake);
	}
	pthread_mutex_unlock(&e->lock);
}

static void wait_for(struct nvllm_engine *e, uint64_t id)
{
	pthread_mutex_lock(&e->lock);
	while (find(e->live, id) || find(e->inbox, id))
		pthread_cond_wait(&e->over, &e->lock);
	pthread_mutex_unlock(&e->lock);
}

static void get_stats(struct nvllm_engine *e, struct nvllm_stats *out)
{
	uint32_t size = out->size;

	pthread_mutex_lock(&e->lock);
	e->stats.size = size < sizeof(*out) ? size : (uint32_t)sizeof(*out);
	memcpy(out, &e->stats, e->stats.size);
	pthread_mutex_unlock(&e->lock);
}

static const struct nvllm_info *get_info(struct nvllm_engine *e) { return &e->info; }

static int64_t encode(struct nvllm_engine *e, const char *text, int64_t len, uint32_t flags, int32_t *tokens, int64_t room)
{
	return e->source->tok_vt->encode(e->source->tok, text, len, flags, tokens, room);
}

static const char *piece(struct nvllm_engine *e, int32_t token, uint32_t flags, int32_t *len)
{
	return e->source->tok_vt->piece(e->source->tok, token, flags, len);
}

static int64_t render(struct nvllm_engine *e, const struct nvllm_chat_request *r, char *text, int64_t room)
{
	if (!e->chat)
		return fail(NVLLM_ENOTSUP, "this checkpoint has no chat template: use a plain prompt (--raw), or choose "
			"one with [chat] plugin");
	return e->chat_vt->render(e->chat, r, text, room);
}

static const char *error(struct nvllm_engine *e)
{
	(void)e;
	return fail_text();
}

static const struct nvllm_engine_vt functions = {
	.size = sizeof(functions), .submit = submit, .cancel = cancel, .wait = wait_for, .stats = get_stats,
	.info = get_info, .encode = encode, .piece = piece, .render = render, .error = error,
};

const struct nvllm_engine_vt *engine_functions(void) { return &functions; }
