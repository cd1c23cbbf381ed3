/* SPDX-License-Identifier: MIT */
/* frontends/shell_answer.c - one request, streamed. The engine's thread copies text into
 * a buffer; this thread writes it out, and hears Ctrl-C and a reader that left. */
#define _GNU_SOURCE
#include "shell.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* Between the engine's thread and this one. */
struct stream {
	pthread_mutex_t lock;      /* guards all below but event */
	struct json_buf fresh;     /* text not yet taken */
	bool done;
	int finish, status;
	char error[400];
	struct nvllm_usage usage;
	int event;                 /* eventfd: something changed */
};

/* This thread's side. */
struct writer {
	struct shell *sh;
	struct stream *st;
	struct shell_answer *out;
	uint64_t id;
	struct json_buf pending;   /* taken, not yet written from `at` on */
	size_t at;
	bool done;
};

/* On the engine's thread. */
static void on_event(void *user, const struct nvllm_event *ev)
{
	struct stream *st = user;

	pthread_mutex_lock(&st->lock);
	if (ev->text.len > 0)
		json_put_raw(&st->fresh, ev->text.s, (size_t)ev->text.len);
	if (ev->type == NVLLM_EVENT_DONE) {
		st->finish = ev->finish;
		st->status = ev->status;
		snprintf(st->error, sizeof(st->error), "%s", ev->error ? ev->error : "");
		if (ev->usage)
			memcpy(&st->usage, ev->usage,
				ev->usage->size < sizeof(st->usage) ? ev->usage->size
								    : sizeof(st->usage));
		st->done = true;
	}
	eventfd_write(st->event, 1);
	pthread_mutex_unlock(&st->lock);
}

/* A terminal obeys control characters, and a model may write any: only newline and tab
 * go through there. A file gets the bytes. */
static void put_for_reader(struct writer *w, const char *s, size_t len)
{
	size_t from = 0;

	for (size_t i = 0; w->sh->out_tty && i < len; i++) {
		unsigned char c = (unsigned char)s[i];
		bool c1 = c == 0xc2 && i + 1 < len && (unsigned char)s[i + 1] < 0xa0;

		if ((c >= 0x20 && c != 0x7f && !c1) || c == '\n' || c == '\t')
			continue;
		json_put_raw(&w->pending, s + from, i - from);
		i += c1;
		from = i + 1;
	}
	json_put_raw(&w->pending, s + from, len - from);
}

static void take(struct writer *w)
{
	struct stream *st = w->st;
	eventfd_t count;

	eventfd_read(st->event, &count);
	pthread_mutex_lock(&st->lock);
	if (st->fresh.len) {
		json_put_raw(&w->out->text, st->fresh.s, st->fresh.len);
		put_for_reader(w, st->fresh.s, st->fresh.len);
		st->fresh.len = 0;
	}
	w->done = st->done;
	pthread_mutex_unlock(&st->lock);
}

/* Once standard output can take some. At most PIPE_BUF at a time, which a pipe that
 * polled writable takes without blocking. */
static void write_some(struct writer *w)
{
	size_t left = w->pending.len - w->at;
	ssize_t n = write(STDOUT_FILENO, w->pending.s + w->at, left < PIPE_BUF ? left : PIPE_BUF);

	if (n < 0 && errno != EINTR && errno != EAGAIN) {
		w->out->out_error = errno;
		w->sh->vt->cancel(w->sh->engine, w->id, NVLLM_ALL_CHOICES);
		n = (ssize_t)left;
	}
	if (n > 0)
		w->at += (size_t)n;
	if (w->at == w->pending.len)
		w->at = w->pending.len = 0;
}

/* Until the request is done and its text written; after Ctrl-C what is not yet written
 * may stay so, or a stuck reader would hold us. */
static void pump(struct writer *w)
{
	struct shell *sh = w->sh;

	while (!w->done || (w->at < w->pending.len && !w->out->interrupted)) {
		bool waiting = w->at < w->pending.len;
		struct pollfd fds[3] = { { .fd = w->st->event, .events = POLLIN },
			{ .fd = sh->interrupt.fd, .events = POLLIN },
			{ .fd = waiting ? STDOUT_FILENO : -1, .events = POLLOUT } };

		poll(fds, 3, -1);
		if (interrupt_taken(&sh->interrupt)) {
			w->out->interrupted = true;
			sh->vt->cancel(sh->engine, w->id, NVLLM_ALL_CHOICES);
		}
		take(w);
		if (w->out->out_error)
			w->at = w->pending.len = 0;
		else if (waiting && fds[2].revents)
			write_some(w);
	}
}

int shell_engine_failed(struct shell *sh, int status)
{
	const char *why = sh->vt->error(sh->engine);

	return sh->host->fail(
		sh->host, status, "%s", *why ? why : "the engine refused the request");
}

static int ask(struct shell *sh, struct stream *st, const struct nvllm_request *q,
	struct shell_answer *out)
{
	struct writer w = { .sh = sh, .st = st, .out = out };
	int rc = sh->vt->submit(sh->engine, q, &w.id);

	if (rc)
		return shell_engine_failed(sh, rc);
	pump(&w);
	out->usage = st->usage;
	out->finish = st->finish;
	if (out->text.failed || st->fresh.failed || w.pending.failed)
		rc = sh->host->fail(sh->host, NVLLM_ENOMEM, "no memory for the answer");
	else if (st->finish == NVLLM_FINISH_ERROR)
		rc = sh->host->fail(sh->host, st->status ? st->status : NVLLM_EIO, "%s",
			*st->error ? st->error : "the engine failed");
	json_buf_free(&w.pending);
	return rc;
}

int shell_ask(struct shell *sh, struct nvllm_str prompt, uint32_t encode_flags, int64_t max_tokens,
	struct shell_answer *out)
{
	struct stream st = { .event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC) };
	struct nvllm_params params = nvllm_params_none();
	const struct nvllm_request q = { .size = sizeof(q),
		.encode_flags = encode_flags,
		.prompt = prompt,
		.params = &params,
		.on_event = on_event,
		.user = &st };
	int rc;

	memset(out, 0, sizeof(*out));
	if (st.event < 0)
		return sh->host->fail(sh->host, NVLLM_EIO,
			"cannot make a descriptor for events: %s", strerror(errno));
	if (max_tokens > 0)
		params.max_tokens = max_tokens;
	pthread_mutex_init(&st.lock, NULL);
	rc = ask(sh, &st, &q, out);
	pthread_mutex_destroy(&st.lock);
	json_buf_free(&st.fresh);
	close(st.event);
	return rc;
}

void shell_answer_free(struct shell_answer *a)
{
	json_buf_free(&a->text);
}

void shell_say_figures(const struct nvllm_usage *u)
{
	double first = (double)u->first_token_ns * 1e-9,
	       s = (double)(u->done_ns - u->first_token_ns) * 1e-9;

	fprintf(stderr, "prompt %d tokens (%d cached), generated %d tokens", u->n_prompt,
		u->n_cached, u->n_output);
	if (u->n_output > 0)
		fprintf(stderr, ", first token after %.3f s", first);
	if (u->n_output > 1 && s > 0)
		fprintf(stderr, ", %.1f tokens/s", (u->n_output - 1) / s);
	fprintf(stderr, "\n");
}
