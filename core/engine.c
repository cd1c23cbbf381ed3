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

/* What the scheduler counts. With the lock held. */
static void take_counts(struct nvllm_engine *e)
{
	struct sched_counts c;

	sched_count(e->sched, &c);
	e->stats.running = c.running;
	e->stats.waiting = c.waiting;
	e->stats.pages_used = c.pages_used;
	e->stats.pages_cached = c.pages_cached;
	e->stats.preempted = c.preempted;
}

/* The choice had its last event: its pages back; with the last one, the request goes. */
static void retire(struct nvllm_engine *e, struct choice *c, int64_t *counter)
{
	struct request *q = c->req;

	sched_remove(e->sched, &c->seq);
	pthread_mutex_lock(&e->lock);
	++*counter;
	take_counts(e);
	if (!q->n_left) {
		unlink_request(e, q);
		e->n_deadlines -= q->deadline != 0;
		pthread_cond_broadcast(&e->over);
	}
	pthread_mutex_unlock(&e->lock);
	if (!q->n_left)
		request_destroy(q);
}

/* Takes what was submitted since the last step. With the lock held. */
static void take_inbox(struct nvllm_engine *e)
{
	struct request *q = e->inbox, *next;

	for (; q; q = next) {
		next = q->next;
		for (int32_t i = 0; i < q->n; i++)
			sched_add(e->sched, &q->choice[i].seq);
		q->next = e->live;
		e->live = q;
		e->n_deadlines += q->deadline != 0;
	}
	e->inbox = NULL;
	e->inbox_tail = &e->inbox;
}

/* One choice to end before its time: cancelled, past its deadline, or with all set any.
 * NULL when there is none left. *late: by its deadline. */
static struct choice *next_ending(struct nvllm_engine *e, bool all, int64_t now, bool *late)
{
	struct choice *hit = NULL;

	pthread_mutex_lock(&e->lock);
	for (struct request *q = e->live; q && !hit; q = q->next)
		for (int32_t i = 0; i < q->n && !hit; i++) {
			struct choice *c = &q->choice[i];

			*late = !all && !c->cancelled && q->deadline && q->deadline <= now;
			if (!c->over && (all || c->cancelled || *late))
				hit = c;
		}
	if (!hit)
		e->cancels = false;
	pthread_mutex_unlock(&e->lock);
	return hit;
}

/* Ends a choice for another reason than its tokens. */
static void end(struct nvllm_engine *e, struct choice *c, int finish, int status, const char *why, int64_t *counter)
{
	choice_finish(c, finish, -1, NULL, status, why);
	retire(e, c, counter);
}

static void end_early(struct nvllm_engine *e, bool all)
{
	int64_t now = now_ns();
	struct choice *c;
	bool late;

	while ((c = next_ending(e, all, now, &late)))
		end(e, c, late ? NVLLM_FINISH_TIMEOUT : NVLLM_FINISH_CANCEL, NVLLM_ECANCEL, NULL, &e->stats.cancelled);
}

/* ---- steps ---- */

struct stepping { struct nvllm_engine *e; const struct sched_step *st; };

static int issue_rank(void *arg, int32_t rank)
{
	struct stepping *s = arg;
	int rc;

	host_step(true);
	rc = step_issue(&s->e->ranks[rank], s->st);
	host_step(false);
	return rc;
}

static int land_rank(void *arg, int32_t rank)
{
	struct stepping *s = arg;
	int rc;

	host_step(true);
	rc = step_land(&s->e->ranks[rank], s->st);
	host_step(false);
	return rc;
}

/* A step was issued: what it says of those it is the first of, and of the engine's work. */
static void count_issued(struct nvllm_engine *e, const struct sched_step *st)
{
	int64_t now = now_ns();

	pthread_mutex_lock(&e->lock);
	e->stats.computed_tokens += st->n_tokens;
	e->stats.steps++;
	e->stats.graph_steps = e->ranks[0].graph_steps;
	for (int32_t i = 0; i < st->n_seqs; i++) {
		struct choice *c = choice_of(st->entry[i].seq);

		if (c->t_start)
			continue;
		c->t_start = now;
		e->stats.prompt_tokens += c->seq.n_prompt;
		e->stats.cached_tokens += c->seq.n_cached;
	}
	pthread_mutex_unlock(&e->lock);
}

/* Issues steps as far ahead as may be. After one that failed, no more until it has had its
 * turn to land. */
static void issue(struct nvllm_engine *e)
{
	struct stepping s = { .e = e };

	while (!e->broken) {
		host_step(true);
		s.st = sched_next(e->sched);
		host_step(false);
		if (!s.st)
			return;
		count_issued(e, s.st);
		e->broken = group_run(e->group, issue_rank, &s);
		if (e->broken)
			snprintf(e->broken_why, sizeof(e->broken_why), "%s", fail_text());
	}
}

static void commit(struct nvllm_engine *e, const struct sched_step *st)
{
	const struct flight *f = step_flight(&e->ranks[0], st);
	int64_t sampled = 0;

	sched_commit(e->sched, f->out.tokens);
	for (int32_t i = 0; i < st->n_seqs; i++) {
		const struct choice *c = choice_of(st->entry[i].seq);

		sampled += c && st->entry[i].samples && !c->failed;
	}
	pthread_mutex_lock(&e->lock);
	e->stats.output_tokens += sampled; /* before anyone who waits is told */
	pthread_mutex_unlock(&e->lock);
	for (int32_t i = 0; i < st->n_seqs; i++) {
		struct choice *c = choice_of(st->entry[i].seq);

		/* none: it ended while the step was in flight */
		if (c && choice_advance(e, c, &st->entry[i], f))
			retire(e, c, c->failed ? &e->stats.failed : &e->stats.finished);
	}
}

/* The step failed: everything in it ends with the sentence, the rest goes on. */
static void give_up(struct nvllm_engine *e, const struct sched_step *st, int status, const char *why)
{
	if (status == NVLLM_ECOMM) { /* a group does not come back */
		pthread_mutex_lock(&e->lock);
		snprintf(e->dead, sizeof(e->dead), "%s", why);
		pthread_mutex_unlock(&e->lock);
	}
	log_line(NVLLM_LOG_ERROR, NULL, "a step failed, its %d sequences end: %s", st->n_seqs, why);
	for (int32_t i = 0; i < st->n_seqs; i++) {
		struct choice *c = choice_of(st->entry[i].seq);

		if (c)
			end(e, c, NVLLM_FINISH_ERROR, status, why, &e->stats.failed);
	}
	sched_commit(e->sched, NULL); /* nobody is left in it */
}

/* Nothing can run although something waits: a cache policy keeps what it should give up. */
static bool unstick(struct nvllm_engine *e)
{
	struct seq *q = sched_stuck(e->sched);

	if (!q)
		return false;
	end(e, choice_of(q), NVLLM_FINISH_ERROR, NVLLM_ENOPAGES, "no KV page is left for this request, and the cache policy "
		"gives none up: a fault of that plugin (nvllm check shows it); choose another [cache] plugin", &e->stats.failed);
	return true;
}

/* Runs steps until the oldest has landed; false when all is quiet. */
static bool run_step(struct nvllm_engine *e)
{
	struct stepping s = { .e = e };
	char why[1024];
	int rc;

	issue(e);
	s.st = sched_oldest(e->sched);
	if (!s.st)
		return unstick(e);
	rc = group_run(e->group, land_rank, &s);
	if (rc)
		snprintf(why, sizeof(why), "%s", *fail_text() ? fail_text() : "the step failed");
	if (e->broken && sched_in_flight(e->sched) == 1) { /* it is the one that was not issued whole */
		rc = e->broken;
		snprintf(why, sizeof(why), "%s", *e->broken_why ? e->broken_why : "the step failed");
		e->broken = 0;
	}
	if (rc)
		give_up(e, s.st, rc, why);
	else
		commit(e, s.st);
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
		cancels = e->cancels || e->n_deadlines;
		pthread_mutex_unlock(&e->lock);
		if (stop || cancels)
			end_early(e, stop);
		quiet = stop || !run_step(e);
		pthread_mutex_lock(&e->lock);
		take_counts(e);
		pthread_mutex_unlock(&e->lock);
	}
	/* whatever is still in flight is nobody's: let it land before memory goes */
	while (sched_in_flight(e->sched))
		run_step(e);
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
	if (e->stop || *e->dead) {
		rc = e->stop ? fail(NVLLM_ECANCEL, "the engine is closing: no request is taken any more") :
			fail(NVLLM_ECOMM, "the ranks have lost each other and cannot go on: start nvllm again (%s)", e->dead);
		pthread_mutex_unlock(&e->lock);
		request_destroy(q);
		return rc;
	}
	request_name(e, q, ++e->last_id);
	*id = q->id;
	*e->inbox_tail = q;
	e->inbox_tail = &q->next;
	pthread_cond_signal(&e->wake);
	pthread_mutex_unlock(&e->lock);
	return NVLLM_OK;
}

static void cancel(struct nvllm_engine *e, uint64_t id, int32_t choice)
{
	struct request *q;

	pthread_mutex_lock(&e->lock);
	q = find(e->live, id);
	if (!q)
		q = find(e->inbox, id);
	for (int32_t i = 0; q && i < q->n; i++)
		if (choice < 0 || choice == i)
			q->choice[i].cancelled = e->cancels = true;
	if (e->cancels)
		pthread_cond_signal(&e->wake);
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
	if (!e->chat.chat)
		return fail(NVLLM_ENOTSUP, "this checkpoint has no chat template: use a plain prompt (--raw), or choose "
			"one with [chat] plugin");
	return e->chat.vt->render(e->chat.chat, r, text, room);
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
