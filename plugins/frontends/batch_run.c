/* SPDX-License-Identifier: MIT */
/* frontends/batch_run.c - a file of requests to a file of answers, in the format of OpenAI's
 * batch API as `vllm run-batch` takes it. Decides what is in flight: lines are read as
 * there is room, finished ones go to a journal at once, and the ordered output appears
 * at the end. The engine's thread copies; this thread does all else. */
#define _GNU_SOURCE
#include "batch.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "interrupt.h"

struct run;

/* One line in flight. */
struct job {
	struct run *run;
	struct job *next, *prev;   /* in flight: the main thread's */
	struct job *next_done;     /* in run.finished */
	int64_t line;
	uint64_t hash, id_hash;    /* of the line; of its custom_id, 0 = none */
	uint64_t id;               /* the engine's */
	struct batch_request req;
	struct batch_answer answer;
	struct nvllm_str prompt;   /* what was submitted as text */
	char *rendered;            /* chat: the memory of prompt */
	uint32_t encode_flags;
};

struct run {
	const struct nvllm_host *host;
	const struct nvllm_engine_vt *vt;
	struct nvllm_engine *engine;
	const struct batch_conf *conf;
	struct batch_writer writer;
	struct batch_reader in;
	struct batch_journal journal;
	struct batch_set ids;
	struct batch_progress progress;
	struct interrupt interrupt;
	struct job *active;
	int64_t n_active, max_active;
	bool eof, interrupted;
	int rc;                    /* the first failure of the run itself; 0 = none */
	int64_t dropped;           /* lines cancelled, to be done again */
	int event;                 /* eventfd: something is in finished */
	pthread_mutex_t lock;      /* guards finished */
	struct job *finished;
};

/* ---- jobs ---- */

static void job_free(struct job *j)
{
	batch_request_free(&j->req);
	batch_answer_free(&j->answer);
	free(j->rendered);
	free(j);
}

static void job_activate(struct run *r, struct job *j)
{
	j->next = r->active;
	if (j->next)
		j->next->prev = j;
	r->active = j;
	r->n_active++;
}

static void job_deactivate(struct run *r, struct job *j)
{
	if (j->prev)
		j->prev->next = j->next;
	else
		r->active = j->next;
	if (j->next)
		j->next->prev = j->prev;
	r->n_active--;
}

/* On the engine's thread. */
static void on_event(void *user, const struct nvllm_event *ev)
{
	struct job *j = user;
	struct run *r = j->run;

	if (!batch_answer_add(&j->answer, ev))
		return;
	pthread_mutex_lock(&r->lock);
	j->next_done = r->finished;
	r->finished = j;
	eventfd_write(r->event, 1);
	pthread_mutex_unlock(&r->lock);
}

/* Nothing new starts, what runs is cancelled. */
static void stop(struct run *r)
{
	for (struct job *j = r->active; j; j = j->next)
		r->vt->cancel(r->engine, j->id, NVLLM_ALL_CHOICES);
}

static void run_fail(struct run *r, int rc)
{
	if (!rc || r->rc)
		return;
	r->rc = rc;
	stop(r);
}

/* ---- what a line becomes ---- */

static void journal_add(struct run *r, const struct job *j, int status, struct json_buf *out)
{
	run_fail(r, batch_journal_add(&r->journal, j->line, j->hash, j->id_hash, status, out));
	json_buf_free(out);
}

/* The line ends here, with its own error. */
static void refuse_job(struct run *r, struct job *j, const struct batch_error *err)
{
	struct json_buf out = { 0 };

	batch_put_refusal(&out, &r->writer, j->line, j->req.custom_id, err);
	journal_add(r, j, err->status, &out);
	job_free(j);
}

/* The engine's status as HTTP has it: whose fault it was. */
static int http_status(int status)
{
	bool theirs = status == NVLLM_EINVAL || status == NVLLM_ENOTSUP || status == NVLLM_ENOPAGES;

	return theirs ? 400 : 500;
}

static int engine_refused(struct run *r, int status, struct batch_error *err)
{
	const char *why = r->vt->error(r->engine);

	return batch_refuse(err, http_status(status), NULL, "%s",
		*why ? why : "the engine refused the request");
}

static int render(struct run *r, struct job *j, struct batch_error *err)
{
	const struct nvllm_chat_request chat = { .size = sizeof(chat),
		.add_generation_prompt = j->req.add_generation_prompt,
		.messages = j->req.message_list,
		.body = { j->req.body.s, (int64_t)j->req.body.len } };
	int64_t n;

	if (!r->vt->info(r->engine)->has_chat)
		return batch_refuse(
			err, 400, "url", "this model has no chat template: use /v1/completions");
	n = r->vt->render(r->engine, &chat, NULL, 0);
	if (n < 0)
		return engine_refused(r, (int)n, err);
	j->rendered = malloc((size_t)n + 1);
	if (!j->rendered)
		return batch_refuse(
			err, 500, NULL, "no memory for a prompt of %lld bytes", (long long)n);
	j->prompt = (struct nvllm_str){ j->rendered,
		r->vt->render(r->engine, &chat, j->rendered, n) };
	return j->prompt.len == n
		? 0
		: batch_refuse(err, 500, NULL, "the chat template gave two different texts");
}

static int submit(struct run *r, struct job *j, struct batch_error *err)
{
	struct nvllm_request q = {
		.size = sizeof(q), .params = &j->req.params, .on_event = on_event, .user = j
	};
	int rc;

	if (j->req.api == BATCH_CHAT) {
		if (render(r, j, err))
			return -1;
	} else {
		j->prompt = j->req.prompt;
		j->encode_flags = NVLLM_ENCODE_SPECIAL;
	}
	if (!batch_answer_init(&j->answer, j->req.params.n == NVLLM_UNSET ? 1 : j->req.params.n))
		return batch_refuse(err, 500, NULL, "no memory for another request");
	q.prompt = j->prompt;
	q.encode_flags = j->encode_flags;
	q.tokens = j->req.tokens;
	q.n_tokens = j->req.n_tokens;
	rc = r->vt->submit(r->engine, &q, &j->id);
	return rc ? engine_refused(r, rc, err) : 0;
}

static int read_job(struct run *r, struct job *j, struct batch_error *err)
{
	const char *id;
	int fresh;

	if (r->in.too_long)
		return batch_refuse(err, 400, NULL,
			"the line has more than %lld bytes, the limit set by [batch] max_line",
			(long long)r->conf->max_line);
	if (batch_parse(r->in.s, r->in.len, &j->req, err) && !j->req.custom_id)
		return -1;
	id = j->req.custom_id;
	j->id_hash = batch_hash(BATCH_HASH, id, strlen(id));
	fresh = batch_set_add(&r->ids, j->id_hash);
	if (fresh < 0)
		return batch_refuse(err, 500, NULL, "no memory for another custom_id");
	if (!fresh)
		return batch_refuse(err, 400, "custom_id",
			"an earlier line has the custom_id '%.100s' too", id);
	return err->status ? -1 : submit(r, j, err);
}

/* The line that was just read: skipped, refused or submitted. */
static void start_line(struct run *r)
{
	const struct batch_entry *done = batch_journal_find(&r->journal, r->in.n);
	struct batch_error err = { 0 };
	struct job *j;

	if (done) {
		if (done->id && batch_set_add(&r->ids, done->id) < 0)
			run_fail(r,
				r->host->fail(
					r->host, NVLLM_ENOMEM, "no memory for another custom_id"));
		return;
	}
	if (!r->in.too_long && batch_is_blank(r->in.s, r->in.len))
		return;
	j = calloc(1, sizeof(*j));
	if (!j) {
		run_fail(r,
			r->host->fail(r->host, NVLLM_ENOMEM, "no memory for line %lld",
				(long long)r->in.n));
		return;
	}
	j->run = r;
	j->line = r->in.n;
	j->hash = r->in.hash;
	if (read_job(r, j, &err))
		refuse_job(r, j, &err);
	else
		job_activate(r, j);
}

static void next_line(struct run *r)
{
	enum batch_read got = batch_reader_try(&r->in);

	if (got == BATCH_LINE)
		start_line(r);
	if (got != BATCH_END)
		return;
	r->eof = true;
	if (r->in.failed)
		run_fail(r,
			r->host->fail(r->host, NVLLM_EIO, "cannot read %s after line %lld: %s",
				r->conf->input, (long long)r->in.n, strerror(errno)));
}

/* ---- what an answer becomes ---- */

/* The ids of the prompt: as given, or as the engine made them of the text. NULL and
 * *memory to free. */
static const int32_t *prompt_ids(struct run *r, const struct job *j, int32_t **memory)
{
	int64_t n = j->answer.choices[0].usage.n_prompt, got;

	if (j->req.tokens)
		return j->req.tokens;
	*memory = malloc((size_t)n * sizeof(**memory) + 1);
	if (!*memory)
		return NULL;
	got = r->vt->encode(r->engine, j->prompt.s, j->prompt.len, j->encode_flags, *memory, n);
	return got == n ? *memory : NULL;
}

/* An answer is whole or it is an error: one choice that failed fails the line. */
static int ended_early(const struct batch_answer *a, struct batch_error *err)
{
	const struct batch_choice *c = batch_answer_find(a, NVLLM_FINISH_ERROR);
	int status = c ? http_status(c->status) : 500;

	if (!c)
		c = batch_answer_find(a, NVLLM_FINISH_CANCEL);
	if (!c)
		return 0;
	return batch_refuse(err, status, NULL, "%s",
		*c->error ? c->error : "the engine ended the request early");
}

static void put_answer(struct run *r, struct job *j, struct json_buf *out, struct batch_error *err)
{
	const int32_t *ids = NULL;
	int32_t *memory = NULL;

	if (ended_early(&j->answer, err))
		return;
	if (j->req.return_token_ids) {
		ids = prompt_ids(r, j, &memory);
		if (!ids)
			batch_refuse(err, 500, NULL,
				"no memory for the ids of the prompt, or they changed");
	}
	if (!err->status)
		batch_put_answer(out, &r->writer, j->line, &j->req, &j->answer, ids);
	if (j->answer.failed || out->failed)
		batch_refuse(err, 500, NULL, "no memory for the answer");
	free(memory);
}

static void finish_job(struct run *r, struct job *j)
{
	struct json_buf out = { 0 };
	struct batch_error err = { 0 };
	int64_t n_prompt, n_output, n_cached;

	job_deactivate(r, j);
	if (r->rc || (r->interrupted && batch_answer_find(&j->answer, NVLLM_FINISH_CANCEL))) {
		r->dropped++;
		job_free(j);
		return;
	}
	put_answer(r, j, &out, &err);
	if (err.status) {
		json_buf_free(&out);
		refuse_job(r, j, &err);
		return;
	}
	batch_answer_count(&j->answer, &n_prompt, &n_output, &n_cached);
	r->progress.n_prompt += n_prompt;
	r->progress.n_output += n_output;
	r->progress.n_cached += n_cached;
	journal_add(r, j, 200, &out);
	job_free(j);
}

static void take_finished(struct run *r)
{
	struct job *list, *next;
	eventfd_t count;

	eventfd_read(r->event, &count);
	pthread_mutex_lock(&r->lock);
	list = r->finished;
	r->finished = NULL;
	pthread_mutex_unlock(&r->lock);
	for (; list; list = next) {
		next = list->next_done;
		finish_job(r, list);
	}
}

/* ---- the run ---- */

static void draw(struct run *r)
{
	struct nvllm_stats s = { .size = sizeof(s) };

	if (!r->progress.on)
		return;
	r->vt->stats(r->engine, &s);
	batch_progress_draw(&r->progress, r->journal.done, s.output_tokens);
}

static void take_interrupt(struct run *r)
{
	if (r->interrupted || !interrupt_taken(&r->interrupt))
		return;
	r->interrupted = true;
	batch_progress_clear(&r->progress);
	fprintf(stderr,
		"batch: interrupted; the running step ends first (Ctrl-C again: at once)\n");
	interrupt_let_kill(&r->interrupt);
	stop(r);
}

static void loop(struct run *r)
{
	for (;;) {
		bool room = !r->eof && !r->interrupted && !r->rc && r->n_active < r->max_active;
		bool ahead = r->in.at < r->in.end; /* what was read may hold more lines */
		struct pollfd fds[3] = { { .fd = r->event, .events = POLLIN },
			{ .fd = r->interrupt.fd, .events = POLLIN },
			{ .fd = room && !ahead ? r->in.fd : -1, .events = POLLIN } };

		if (!room && !r->n_active)
			return;
		poll(fds, 3, room && ahead ? 0 : r->progress.on ? 100 : -1);
		take_interrupt(r);
		take_finished(r);
		if (room && (ahead || fds[2].revents) && !r->interrupted && !r->rc)
			next_line(r);
		draw(r);
	}
}

static void say_summary(const struct run *r)
{
	const struct batch_journal *j = &r->journal;
	const struct batch_progress *p = &r->progress;
	double s = batch_progress_seconds(p);

	fprintf(stderr, "batch: %lld lines, %lld failed", (long long)j->done, (long long)j->failed);
	if (p->before)
		fprintf(stderr, ", %lld kept from an earlier run", (long long)p->before);
	fprintf(stderr, "; %lld prompt (%lld cached) and %lld generated tokens in %.2f s (%.1f tokens/s); ",
		(long long)p->n_prompt, (long long)p->n_cached, (long long)p->n_output, s,
		s > 0 ? (double)p->n_output / s : 0);
	fprintf(stderr, "written to %s\n", r->conf->output);
}

/* What the loop left: the output, or a journal to go on with. */
static int conclude(struct run *r)
{
	int rc = r->rc;

	batch_progress_clear(&r->progress);
	if (!rc && r->interrupted && (r->dropped || !r->eof)) {
		fprintf(stderr,
			"batch: interrupted: %lld lines are finished and kept in %s; go on with "
			"--resume\n",
			(long long)r->journal.done, r->journal.path);
		return NVLLM_EXIT_INTERRUPTED;
	}
	if (!rc)
		rc = batch_journal_finish(&r->journal, r->conf);
	if (rc)
		return rc;
	say_summary(r);
	return r->journal.failed ? NVLLM_EXIT_FAIL : NVLLM_EXIT_OK;
}

static int64_t max_active(struct run *r)
{
	struct nvllm_stats s = { .size = sizeof(s) };

	if (r->conf->max_inflight > 0)
		return r->conf->max_inflight;
	r->vt->stats(r->engine, &s);
	return s.max_seqs > 0 ? 2 * (int64_t)s.max_seqs : 16;
}

static int open_files(struct run *r)
{
	const char *model = r->vt->info(r->engine)->model;
	struct timespec now;
	int rc;

	clock_gettime(CLOCK_REALTIME, &now);
	r->writer = (struct batch_writer){ r->vt, r->engine, model ? model : "", now.tv_sec, 0 };
	r->writer.run = batch_hash(BATCH_HASH, (const char *)&now, sizeof(now));
	if (batch_reader_open(&r->in, r->conf->input, (size_t)r->conf->max_line))
		return r->host->fail(
			r->host, NVLLM_EIO, "cannot read %s: %s", r->conf->input, strerror(errno));
	rc = batch_journal_open(&r->journal, r->host, r->conf, true);
	if (!rc)
		rc = batch_journal_check_input(&r->journal, r->conf);
	return rc ? rc : batch_journal_begin(&r->journal, r->writer.model);
}

static int run_opened(struct run *r)
{
	int rc = open_files(r);

	if (rc)
		return rc;
	r->event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (r->event < 0 || interrupt_begin(&r->interrupt)) {
		rc = r->host->fail(r->host, NVLLM_EIO, "cannot make a descriptor for events: %s",
			strerror(errno));
	} else {
		r->max_active = max_active(r);
		batch_progress_begin(&r->progress, r->conf, r->journal.done);
		loop(r);
		rc = conclude(r);
		interrupt_end(&r->interrupt);
	}
	if (r->event >= 0)
		close(r->event);
	return rc;
}

int batch_run(const struct nvllm_host *host, const struct nvllm_engine_vt *vt,
	struct nvllm_engine *engine, const void *conf)
{
	struct run r = { .host = host, .vt = vt, .engine = engine, .conf = conf };
	int rc;

	pthread_mutex_init(&r.lock, NULL);
	rc = run_opened(&r);
	batch_journal_close(&r.journal);
	batch_reader_close(&r.in);
	batch_set_free(&r.ids);
	pthread_mutex_destroy(&r.lock);
	return rc;
}
