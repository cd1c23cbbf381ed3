/* SPDX-License-Identifier: MIT */
/* Recordings: jobs kept instead of queued, and queued as one as often as wanted. All of them
 * lie in one array made at create(): nothing is allocated while steps run. */
#include <string.h>

#include "fake.h"

int graph_begin(struct nvllm_device *d, nvllm_stream s)
{
	if (s != stream_of(d) || d->recording) {
		misuse(d, "graph_begin: %s", d->recording ? "a recording is open already" :
			"the stream is not this device's");
		return d->host->fail(d->host, NVLLM_EINVAL, "fake device: graph_begin was misused");
	}
	d->recording = true;
	d->broken = false;
	d->record_from = d->used;
	d->n_records++;
	return NVLLM_OK;
}

struct job *graph_job(struct nvllm_device *d)
{
	if (d->used < FAKE_GRAPH_JOBS)
		return &d->graph_jobs[d->used++];
	d->broken = true;
	d->host->fail(d->host, NVLLM_ENOMEM,
		"the fake device has no room for more than %d recorded "
		"jobs",
		FAKE_GRAPH_JOBS);
	return NULL;
}

static bool same_job(const struct job *a, const struct job *b)
{
	return a->type == b->type && !memcmp(&a->u, &b->u, sizeof(a->u));
}

/* compare = true: a recording of the step that was just enqueued must be that step, job by
 * job. The queue still holds it: nothing was enqueued since. */
static bool is_the_newest(const struct nvllm_device *d, int64_t n)
{
	const uint64_t room = (uint64_t)d->conf->queue;

	if ((uint64_t)n > d->tail || (uint64_t)n > room)
		return false;
	for (int64_t i = 0; i < n; i++)
		if (!same_job(&d->graph_jobs[d->record_from + i],
				&d->ring[(d->tail - (uint64_t)n + (uint64_t)i) % room]))
			return false;
	return true;
}

static struct graph *free_graph(struct nvllm_device *d)
{
	for (int i = 0; i < FAKE_GRAPHS; i++)
		if (!d->graphs[i].live)
			return &d->graphs[i];
	return NULL;
}

int graph_end(struct nvllm_device *d, nvllm_stream s, nvllm_graph *out)
{
	const int64_t n = d->used - d->record_from;
	struct graph *g = free_graph(d);
	const char *why = NULL;

	*out = NULL;
	if (!d->recording || s != stream_of(d)) {
		misuse(d, "graph_end: %s", d->recording ? "the stream is not this device's" :
			"no recording is open");
		return d->host->fail(d->host, NVLLM_EINVAL, "fake device: graph_end was misused");
	}
	d->recording = false;
	if (d->broken)
		why = "something in it cannot be recorded";
	else if (!g)
		why = "there are too many graphs";
	else if (d->n_records == d->conf->fail_capture)
		why = "fail_capture asks for it";
	if (d->conf->compare && !why && !is_the_newest(d, n)) {
		misuse(d, "a recording of %lld jobs is not the step that was enqueued just before",
			(long long)n);
		why = "it is not the step before";
	}
	if (why) {
		d->used = d->record_from;
		return d->host->fail(d->host, NVLLM_EDEVICE,
			"fake device: recording %lld failed: %s", (long long)d->n_records, why);
	}
	*g = (struct graph){ .live = true, .from = d->record_from, .n = n };
	*out = g;
	return NVLLM_OK;
}

static struct graph *graph_find(struct nvllm_device *d, nvllm_graph graph)
{
	for (int i = 0; i < FAKE_GRAPHS; i++)
		if (&d->graphs[i] == graph && d->graphs[i].live)
			return &d->graphs[i];
	return NULL;
}

static int run_launch(struct nvllm_device *d, const struct job *j)
{
	struct graph *g = j->u.launch.g;

	for (int64_t i = 0; i < g->n; i++)
		job_run(d, &d->graph_jobs[g->from + i]);
	g->queued--;
	return NVLLM_OK;
}
static const struct job_type launch_type = { "graph_launch", false, run_launch };

int graph_launch(struct nvllm_device *d, nvllm_stream s, nvllm_graph graph)
{
	struct graph *g = graph_find(d, graph);
	struct job *j;

	if (!g || d->recording) {
		misuse(d, "graph_launch %s", g ? "inside a recording" : "of what is no graph");
		return NVLLM_OK;
	}
	j = job_new(d, s, &launch_type);
	if (!j)
		return job_none(d, s);
	j->u.launch.g = g;
	g->queued++;
	d->n_launches++;
	return NVLLM_OK;
}

void graph_free(struct nvllm_device *d, nvllm_graph graph)
{
	struct graph *g = graph_find(d, graph);

	if (!g) {
		if (graph)
			misuse(d, "graph_free of %p, which is no graph or is free already", graph);
		return;
	}
	if (g->queued) { /* it stays: the queue means it */
		misuse(d, "graph_free while %d launches of it are queued", g->queued);
		return;
	}
	g->live = false;
	if (!d->recording && g->from + g->n == d->used)
		d->used = g->from;
}
