/* SPDX-License-Identifier: MIT */
/* When work is done: only in a wait, in order, and no further than what is waited for.
 * What went wrong is said at the next wait, as a GPU does. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fake.h"

/* ---- faults ---- */

/* Keeps the first fault for the next wait. */
static void fault(struct nvllm_device *d, const char *why)
{
	if (d->fault)
		return;
	d->fault = NVLLM_EDEVICE;
	snprintf(d->why, sizeof(d->why), "%s", why);
}

void note(const struct nvllm_device *d, const char *line)
{
	FILE *f = *d->conf->log ? fopen(d->conf->log, "a") : NULL;

	if (!f)
		return;
	fprintf(f, "%s\n", line);
	fclose(f);
}

void misuse(struct nvllm_device *d, const char *fmt, ...)
{
	char line[400], whole[440];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	snprintf(whole, sizeof(whole), "misuse: %s", line);
	d->broken = true; /* a recording that is open comes to nothing */
	d->n_faults++;
	d->host->log(d->host, NVLLM_LOG_ERROR, "%s", whole);
	note(d, whole);
	fault(d, whole);
}

static int report(struct nvllm_device *d)
{
	int status = d->fault;

	if (!status)
		return NVLLM_OK;
	d->fault = 0;
	return d->host->fail(d->host, status, "fake device: %s", d->why);
}

/* ---- jobs ---- */

/* An address that is nobody else's, and not NULL: a caller that makes its own up is seen. */
nvllm_stream stream_of(struct nvllm_device *d)
{
	return &d->head;
}

struct job *job_new(struct nvllm_device *d, nvllm_stream s, const struct job_type *type)
{
	struct job *j;

	if (s != stream_of(d)) {
		misuse(d, "%s: the stream %p is not this device's", type->name, s);
		return NULL;
	}
	if (d->recording) {
		j = graph_job(d);
	} else if (d->tail - d->head == (uint64_t)d->conf->queue) {
		d->host->fail(d->host, NVLLM_ENOMEM,
			"the fake device's queue of %lld is full: wait, or "
			"raise [device] queue",
			(long long)d->conf->queue);
		j = NULL;
	} else {
		j = &d->ring[d->tail++ % (uint64_t)d->conf->queue];
		if ((int64_t)(d->tail - d->head) > d->most_queued)
			d->most_queued = (int64_t)(d->tail - d->head);
	}
	if (j) {
		memset(j, 0, sizeof(*j));
		j->type = type;
	}
	return j;
}

/* A wrong stream is a misuse, which the next wait reports. */
int job_none(struct nvllm_device *d, nvllm_stream s)
{
	return s == stream_of(d) ? NVLLM_ENOMEM : NVLLM_OK;
}

void job_run(struct nvllm_device *d, const struct job *j)
{
	char line[500];

	if (j->type->kernel && ++d->n_kernels == d->conf->fail_step) {
		snprintf(line, sizeof(line), "kernel %lld, %s, failed, as fail_step asks",
			(long long)d->n_kernels, j->type->name);
		fault(d, line);
		return;
	}
	d->words.said[0] = 0;
	if (j->type->run(d, j)) {
		snprintf(line, sizeof(line), "%s: %.440s", j->type->name, d->words.said);
		fault(d, line);
	}
}

static void run_until(struct nvllm_device *d, uint64_t at)
{
	if (d->head >= at)
		return;
	memory_open(d, true);
	for (; d->head < at; d->head++)
		job_run(d, &d->ring[d->head % (uint64_t)d->conf->queue]);
	memory_open(d, false);
}

/* No wait inside a recording: what is waited for would never come. */
static int wait_for(struct nvllm_device *d, const char *what, uint64_t at)
{
	d->n_waits++;
	if (d->recording) {
		misuse(d, "%s inside a recording", what);
		return d->host->fail(
			d->host, NVLLM_EDEVICE, "fake device: %s inside a recording", what);
	}
	run_until(d, at);
	return report(d);
}

int queue_sync(struct nvllm_device *d, nvllm_stream s)
{
	if (s != stream_of(d))
		misuse(d, "sync: the stream %p is not this device's", s);
	return wait_for(d, "sync", d->tail);
}

/* ---- marks ---- */

static struct mark *mark_find(struct nvllm_device *d, nvllm_mark m)
{
	struct mark *k = d->marks;

	while (k && k != m)
		k = k->next;
	return k;
}

int mark_create(struct nvllm_device *d, nvllm_mark *out)
{
	struct mark *m = calloc(1, sizeof(*m));

	if (!m)
		return d->host->fail(d->host, NVLLM_ENOMEM, "no memory for a mark");
	m->next = d->marks;
	d->marks = m;
	*out = m;
	return NVLLM_OK;
}

void mark_free(struct nvllm_device *d, nvllm_mark mark)
{
	struct mark **p = &d->marks, *m = mark;

	while (*p && *p != m)
		p = &(*p)->next;
	if (!*p) {
		if (m)
			misuse(d, "mark_free of %p, which is no mark", mark);
		return;
	}
	*p = m->next;
	free(m);
}

int mark_set(struct nvllm_device *d, nvllm_stream s, nvllm_mark mark)
{
	struct mark *m = mark_find(d, mark);

	if (!m || s != stream_of(d)) {
		misuse(d, "mark_set: %s is not this device's", m ? "the stream" : "the mark");
		return NVLLM_OK;
	}
	if (d->recording)
		misuse(d, "mark_set inside a recording");
	if (m->state == MARK_SET)
		misuse(d, "mark_set of a mark that was set and not waited for since");
	m->state = MARK_SET;
	m->at = d->tail;
	return NVLLM_OK;
}

int mark_wait(struct nvllm_device *d, nvllm_mark mark)
{
	struct mark *m = mark_find(d, mark);

	if (!m || m->state == MARK_NEW) {
		misuse(d, "mark_wait: %s",
			m ? "the mark was never set" : "the mark is not this device's");
		return report(d);
	}
	m->state = MARK_WAITED;
	return wait_for(d, "mark_wait", m->at);
}
