/* SPDX-License-Identifier: MIT */
/* frontends/bench_run.c - decides what a run of the bench is. Conversations start together, or
 * `arrival` ms apart, at most `batch` of them at once; each is `turns` requests, of which the
 * next goes on from the last one's prompt and answer. Prompts are random, answers greedy,
 * end tokens ignored: every run does the same work, and no run finds another's prompts in a
 * prefix cache. The engine's thread takes times; this thread submits. Requests of a file are
 * submitted all at once instead; a second counted run of them finds the first one's prompts. */
#define _GNU_SOURCE
#include "bench.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "interrupt.h"

#define SAMPLE_MS 20   /* how often the pages in use are looked at */
#define WARM_TOKENS 64 /* of the answer before a file's requests */

struct run;

/* A conversation. Its request's figures are the engine thread's until it is in run.done. */
struct talk {
	struct run *run;
	struct talk *next_done;
	int32_t *ids;              /* [cap]: this turn's prompt, then its answer */
	int64_t n, cap, n_prompt;
	int64_t gen;               /* tokens of an answer */
	int64_t index;             /* in run.talks; -1 = the long prompt's */
	int64_t turn;
	uint64_t id;
	int64_t submitted, last;   /* ns: when; its newest token */
	int64_t mark_n, mark_ns;   /* ids and newest token when the last answer began */
	struct nvllm_usage usage;
	int finish;
	char error[300];
};

struct run {
	const struct nvllm_host *host;
	const struct nvllm_engine_vt *vt;
	struct nvllm_engine *engine;
	const struct bench_conf *conf;
	struct bench_result *result;
	bool counted;              /* not the first run */
	int64_t n_talks, at_once;  /* conversations in all, and at once */
	bool together;             /* all are one request, and start as one */
	uint32_t rng;
	int32_t *prefix;           /* [conf->prefix] */
	struct talk **talks;       /* [n_talks]; NULL = not begun, or over */
	struct talk *extra;        /* the long prompt's; NULL = not begun, or over */
	int64_t n_begun, n_over, n_active;
	int64_t begin, sampled;    /* ns */
	bool extra_begun;
	struct interrupt interrupt;
	bool interrupted;
	int rc;                    /* the first failure; 0 = none */
	int event;                 /* eventfd: something is in done, or all answers run */
	pthread_mutex_t lock;      /* guards what follows */
	struct talk *done;
	bool reading_long;         /* the long prompt is submitted and has no token yet */
	int64_t n_first;           /* first turns that have a token */
	int64_t all_first;         /* ns: when the last of them came */
	int64_t started;           /* ns: when a step first worked on one */
	int64_t ended;             /* ns: the last token of all */
	uint64_t last_id;          /* of the request that had it */
	double gen_phase, long_ttft;
};

static int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* ---- on the engine's thread, under the lock ---- */

/* Every answer runs from here on: where each of them is. */
static void mark_all(struct run *r, int64_t now)
{
	r->all_first = now;
	for (int64_t i = 0; r->together && i < r->n_begun; i++)
		if (r->talks[i]) {
			r->talks[i]->mark_n = r->talks[i]->n;
			r->talks[i]->mark_ns = r->talks[i]->last;
		}
	eventfd_write(r->event, 1);
}

static void take_tokens(struct run *r, struct talk *t, const struct nvllm_event *ev, int64_t now)
{
	bool first = t->n == t->n_prompt;

	for (int64_t i = 0; i < ev->n_tokens && t->n < t->cap; i++)
		t->ids[t->n++] = ev->tokens[i]->id;
	if (!first && r->counted && t != r->extra) {
		bench_times_add(&r->result->gap, now - t->last);
		if (r->reading_long)
			bench_times_add(&r->result->gap_long, now - t->last);
	}
	t->last = now;
	if (first && t == r->extra)
		r->reading_long = false;
	else if (first && t->turn == 0 && ++r->n_first == r->at_once)
		mark_all(r, now);
}

/* The first answer to end closes the time in which all ran: what it was given since they all
 * ran, times their number, is what the engine made. */
static void close_phase(struct run *r, const struct talk *t, int64_t now)
{
	int64_t n = t->n - t->mark_n, ns = now - t->mark_ns;

	if (r->gen_phase == 0 && r->all_first && n > 0 && ns > 0)
		r->gen_phase = (double)(n * r->at_once) * 1e9 / (double)ns;
	else if (r->gen_phase == 0)
		r->gen_phase = -1; /* one ended before the last one began */
}

static void take_end(struct run *r, struct talk *t, const struct nvllm_event *ev, int64_t now)
{
	memcpy(&t->usage, ev->usage,
		ev->usage->size < sizeof(t->usage) ? ev->usage->size : sizeof(t->usage));
	t->finish = ev->finish;
	snprintf(t->error, sizeof(t->error), "%s", ev->error ? ev->error : "it ended early");
	if (t == r->extra)
		r->reading_long = false;
	else if (r->together)
		close_phase(r, t, now);
	if (!r->started || t->submitted + t->usage.started_ns < r->started)
		r->started = t->submitted + t->usage.started_ns;
	r->ended = now;
	r->last_id = ev->id;
	t->next_done = r->done;
	r->done = t;
	eventfd_write(r->event, 1);
}

static void on_event(void *user, const struct nvllm_event *ev)
{
	struct talk *t = user;
	struct run *r = t->run;
	int64_t now = now_ns();

	pthread_mutex_lock(&r->lock);
	if (ev->tokens && ev->n_tokens > 0)
		take_tokens(r, t, ev, now);
	if (ev->type == NVLLM_EVENT_DONE)
		take_end(r, t, ev, now);
	pthread_mutex_unlock(&r->lock);
}

/* ---- requests ---- */

/* Nothing new starts, what runs is cancelled. */
static void stop(struct run *r)
{
	for (int64_t i = 0; i < r->n_begun; i++)
		if (r->talks[i])
			r->vt->cancel(r->engine, r->talks[i]->id, NVLLM_ALL_CHOICES);
	if (r->extra)
		r->vt->cancel(r->engine, r->extra->id, NVLLM_ALL_CHOICES);
}

static void run_fail(struct run *r, int rc)
{
	if (!rc || r->rc)
		return;
	r->rc = rc;
	stop(r);
}

static void add_random(struct run *r, int32_t *ids, int64_t n)
{
	uint32_t vocab = (uint32_t)r->vt->info(r->engine)->vocab;

	for (int64_t i = 0; i < n; i++) { /* Numerical Recipes' generator */
		r->rng = r->rng * 1664525u + 1013904223u;
		ids[i] = (int32_t)((r->rng >> 8) % vocab);
	}
}

static void talk_free(struct talk *t)
{
	if (t)
		free(t->ids);
	free(t);
}

/* With room for cap ids. NULL: no memory, and said so. */
static struct talk *talk_create(struct run *r, int64_t cap)
{
	struct talk *t = calloc(1, sizeof(*t));

	if (t)
		t->ids = malloc((size_t)cap * sizeof(*t->ids));
	if (!t || !t->ids) {
		talk_free(t);
		run_fail(r, r->host->fail(r->host, NVLLM_ENOMEM,
			"no memory for a prompt of %lld tokens", (long long)cap));
		return NULL;
	}
	t->run = r;
	t->cap = cap;
	t->index = -1;
	return t;
}

/* Submits what its ids are; false: refused, and said so. */
static bool talk_submit(struct run *r, struct talk *t)
{
	struct nvllm_params p = nvllm_params_none();
	const struct nvllm_request q = { .size = sizeof(q), .tokens = t->ids, .n_tokens = t->n,
		.params = &p, .on_event = on_event, .user = t };
	int rc;

	p.temperature = r->conf->temperature;
	p.top_p = 1; /* whatever the checkpoint's own defaults */
	p.top_k = 0;
	p.ignore_eos = 1;
	p.max_tokens = t->gen;
	t->n_prompt = t->n;
	t->submitted = t->last = now_ns();
	rc = r->vt->submit(r->engine, &q, &t->id);
	if (rc)
		run_fail(r, r->host->fail(r->host, rc, "%s", r->vt->error(r->engine)));
	else
		r->n_active++;
	return !rc;
}

/* The conversation is over. */
static void forget(struct run *r, struct talk *t)
{
	pthread_mutex_lock(&r->lock);
	if (t->index < 0) {
		r->extra = NULL;
		r->reading_long = false;
	} else {
		r->talks[t->index] = NULL;
		r->n_over++;
	}
	pthread_mutex_unlock(&r->lock);
	talk_free(t);
}

/* One of random tokens. */
static struct talk *random_talk(struct run *r)
{
	const struct bench_conf *c = r->conf;
	int64_t own = c->depth + c->prompt;
	struct talk *t = talk_create(r, c->prefix + own + c->gen + (c->turns - 1) * (c->prompt + c->gen));

	if (!t)
		return NULL;
	memcpy(t->ids, r->prefix, (size_t)c->prefix * sizeof(*t->ids));
	add_random(r, t->ids + c->prefix, own);
	t->n = c->prefix + own;
	t->gen = c->gen;
	return t;
}

/* One of the file's requests. The run that is not counted is the first of them, cut short. */
static struct talk *asked_talk(struct run *r)
{
	const struct bench_ask *a = &r->conf->trace->asks[r->n_begun];
	struct talk *t = talk_create(r, a->n + a->gen);

	if (!t)
		return NULL;
	memcpy(t->ids, a->ids, (size_t)a->n * sizeof(*t->ids));
	t->n = a->n;
	t->gen = r->counted || a->gen < WARM_TOKENS ? a->gen : WARM_TOKENS;
	return t;
}

/* The next conversation begins. */
static void begin_talk(struct run *r)
{
	struct talk *t = r->conf->trace ? asked_talk(r) : random_talk(r);

	if (!t)
		return;
	pthread_mutex_lock(&r->lock); /* mark_all reads them */
	t->index = r->n_begun++;
	r->talks[t->index] = t;
	pthread_mutex_unlock(&r->lock);
	if (!talk_submit(r, t))
		forget(r, t);
}

static void begin_long(struct run *r)
{
	int64_t n = r->conf->long_prompt;
	struct talk *t = talk_create(r, n + r->conf->gen);

	r->extra_begun = true;
	if (!t)
		return;
	add_random(r, t->ids, n);
	t->n = n;
	t->gen = r->conf->gen;
	pthread_mutex_lock(&r->lock);
	r->extra = t;
	r->reading_long = true;
	pthread_mutex_unlock(&r->lock);
	if (!talk_submit(r, t))
		forget(r, t);
}

/* Submits what is due. */
static void begin_due(struct run *r)
{
	const struct bench_conf *c = r->conf;
	bool all_run;

	while (!r->rc && r->n_begun < r->n_talks && r->n_begun - r->n_over < r->at_once &&
		now_ns() - r->begin >= r->n_begun * c->arrival * 1000000)
		begin_talk(r);
	pthread_mutex_lock(&r->lock);
	all_run = r->n_first >= r->at_once;
	pthread_mutex_unlock(&r->lock);
	if (!r->rc && c->long_prompt && !r->extra_begun && all_run)
		begin_long(r);
}

/* ---- what ended ---- */

static void count(struct run *r, const struct talk *t)
{
	struct bench_result *out = r->result;
	const struct nvllm_usage *u = &t->usage;

	if (!r->counted)
		return;
	out->n_prompt += u->n_prompt;
	out->n_output += u->n_output;
	out->n_cached += u->n_cached;
	if (t == r->extra) {
		r->long_ttft = (double)u->first_token_ns / 1e9;
		return;
	}
	bench_times_add(&out->ttft, u->first_token_ns);
	if (u->n_output > 1)
		bench_times_add(&out->tpot, (u->done_ns - u->first_token_ns) / (u->n_output - 1));
}

/* A request is done: the conversation's next turn, or its end. */
static void finish(struct run *r, struct talk *t)
{
	r->n_active--;
	if (t->finish != NVLLM_FINISH_LENGTH && !r->interrupted && !r->rc) /* the first is told */
		run_fail(r, r->host->fail(r->host, NVLLM_EIO, "a request failed: %s", t->error));
	if (!r->rc && !r->interrupted)
		count(r, t);
	if (r->rc || r->interrupted || t == r->extra || ++t->turn == r->conf->turns) {
		forget(r, t);
		return;
	}
	add_random(r, t->ids + t->n, r->conf->prompt);
	t->n += r->conf->prompt;
	if (!talk_submit(r, t))
		forget(r, t);
}

static void take_done(struct run *r)
{
	struct talk *list, *next;
	eventfd_t n;

	eventfd_read(r->event, &n);
	pthread_mutex_lock(&r->lock);
	list = r->done;
	r->done = NULL;
	pthread_mutex_unlock(&r->lock);
	for (; list; list = next) {
		next = list->next_done;
		finish(r, list);
	}
}

/* ---- one run ---- */

static void take_interrupt(struct run *r)
{
	if (r->interrupted || !interrupt_taken(&r->interrupt))
		return;
	r->interrupted = true;
	interrupt_let_kill(&r->interrupt);
	stop(r);
}

static void sample(struct run *r)
{
	struct nvllm_stats s = { .size = sizeof(s) };
	int64_t now = now_ns();

	if (now - r->sampled < SAMPLE_MS * 1000000)
		return;
	r->sampled = now;
	r->vt->stats(r->engine, &s);
	if (r->counted && s.pages_used > r->result->pages_peak)
		r->result->pages_peak = s.pages_used;
}

static void loop(struct run *r)
{
	for (;;) {
		struct pollfd fds[2] = { { .fd = r->event, .events = POLLIN },
			{ .fd = r->interrupt.fd, .events = POLLIN } };
		int wait = SAMPLE_MS;

		if (!r->rc && !r->interrupted)
			begin_due(r);
		if (!r->n_active && (r->rc || r->interrupted || r->n_over == r->n_talks))
			return;
		if (r->conf->arrival && r->n_begun < r->n_talks)
			wait = 1;
		poll(fds, 2, wait);
		take_interrupt(r);
		sample(r);
		take_done(r);
	}
}

static void put_row(const struct run *r, int64_t n_prompt, int64_t n_output, struct bench_row *row)
{
	const struct bench_conf *c = r->conf;
	int64_t read = (c->prefix + c->depth + c->prompt) * r->at_once;

	row->seconds = (double)(r->ended - r->begin) / 1e9;
	row->prompt = (double)n_prompt / row->seconds;
	row->output = (double)n_output / row->seconds;
	row->long_ttft = r->long_ttft;
	if (!r->together)
		return;
	row->prompt_phase = (double)read * 1e9 / (double)(r->all_first - r->started);
	row->gen_phase = r->gen_phase > 0 ? r->gen_phase : 0;
}

static int run_once(struct run *r, struct bench_row *row)
{
	struct bench_result *out = r->result;
	int64_t n_prompt = out->n_prompt, n_output = out->n_output;

	r->n_begun = r->n_over = r->n_active = 0;
	r->n_first = r->all_first = r->started = 0;
	r->gen_phase = r->long_ttft = 0;
	r->extra_begun = false;
	add_random(r, r->prefix, r->conf->prefix);
	r->begin = now_ns();
	loop(r);
	r->vt->wait(r->engine, r->last_id); /* then it is in the engine's figures too */
	if (!r->rc && !r->interrupted && row)
		put_row(r, out->n_prompt - n_prompt, out->n_output - n_output, row);
	return r->rc ? r->rc : r->interrupted ? NVLLM_EXIT_INTERRUPTED : 0;
}

static int run_all(struct run *r)
{
	struct bench_result *out = r->result;
	const int64_t n_talks = r->n_talks, at_once = r->at_once;
	int rc;

	if (r->conf->trace)
		r->n_talks = r->at_once = 1;
	rc = run_once(r, NULL);
	r->n_talks = n_talks;
	r->at_once = at_once;
	out->before.size = out->after.size = sizeof(out->after);
	r->vt->stats(r->engine, &out->before);
	r->counted = true;
	for (int64_t k = 0; k < r->conf->repeat && !rc; k++)
		rc = run_once(r, &out->rows[k]);
	r->vt->stats(r->engine, &out->after);
	if (out->after.pages_used > out->pages_peak)
		out->pages_peak = out->after.pages_used;
	return rc;
}

static int run_opened(struct run *r)
{
	int rc;

	r->prefix = malloc((size_t)r->conf->prefix * sizeof(*r->prefix) + 1);
	r->talks = calloc((size_t)r->n_talks, sizeof(struct talk *));
	r->result->rows = calloc((size_t)r->conf->repeat, sizeof(*r->result->rows));
	if (!r->prefix || !r->talks || !r->result->rows)
		return r->host->fail(r->host, NVLLM_ENOMEM, "no memory for the runs");
	r->event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (r->event < 0)
		return r->host->fail(r->host, NVLLM_EIO, "cannot make a descriptor for events: %s",
			strerror(errno));
	if (interrupt_begin(&r->interrupt)) {
		rc = r->host->fail(
			r->host, NVLLM_EIO, "cannot listen for Ctrl-C: %s", strerror(errno));
	} else {
		rc = run_all(r);
		interrupt_end(&r->interrupt);
	}
	close(r->event);
	return rc;
}

int bench_run(const struct nvllm_host *host, const struct nvllm_engine_vt *vt,
	struct nvllm_engine *engine, const struct bench_conf *conf, struct bench_result *out)
{
	struct run r = { .host = host, .vt = vt, .engine = engine, .conf = conf, .result = out,
		.rng = 1, .n_talks = conf->requests ? conf->requests : conf->batch };
	int rc;

	if (conf->trace) /* all of them at once */
		r.n_talks = conf->trace->n;
	r.at_once = r.n_talks < conf->batch || conf->trace ? r.n_talks : conf->batch;
	r.together = r.n_talks == r.at_once && conf->turns == 1 && !conf->arrival &&
		!conf->long_prompt && !conf->trace;
	memset(out, 0, sizeof(*out));
	pthread_mutex_init(&r.lock, NULL);
	rc = run_opened(&r);
	pthread_mutex_destroy(&r.lock);
	free(r.prefix);
	free(r.talks);
	return rc;
}

void bench_result_free(struct bench_result *out)
{
	free(out->rows);
	memset(out, 0, sizeof(*out));
}
