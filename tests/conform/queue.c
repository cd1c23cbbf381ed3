/* SPDX-License-Identifier: MIT */
/* tests/conform/queue.c - a device's stream: marks that the host waits for, and graphs, also of a
 * device whose memory is not the host's. */
#include <stdlib.h>

#include "device.h"

/* Host memory for copies, 64 floats. */
static float *staging(struct dev *d)
{
	if (NVLLM_HAS(d->vt, host_alloc) && d->vt->host_alloc)
		return d->vt->host_alloc(d->d, 256);
	return malloc(256);
}

static void staging_free(struct dev *d, float *p)
{
	if (NVLLM_HAS(d->vt, host_free) && d->vt->host_free)
		d->vt->host_free(d->d, p);
	else
		free(p);
}

static void fill(float *p, float value)
{
	for (int i = 0; i < 64; i++)
		p[i] = value;
}

/* Copies in on its way through the device to out, with a mark after each half. */
static void check_round(struct dev *d, nvllm_mark *m, char *dev, float *in, float *out, float value)
{
	int status;

	fill(in, value);
	status = d->vt->copy(d->d, d->stream, dev, in, 256);
	status = status ? status : d->vt->mark_set(d->d, d->stream, m[0]);
	status = status ? status : d->vt->copy(d->d, d->stream, dev + 256, dev, 256);
	status = status ? status : d->vt->copy(d->d, d->stream, out, dev + 256, 256);
	status = status ? status : d->vt->mark_set(d->d, d->stream, m[1]);
	status = status ? status : d->vt->mark_wait(d->d, m[0]);
	fill(in, -1); /* it was read: it is ours again */
	status = status ? status : d->vt->mark_wait(d->d, m[1]);
	if (status)
		ck_bad("a copy or a mark returned %d: %s", status, fake_said());
	else if (out[0] != value || out[63] != value)
		ck_bad("after the mark was waited for, %g and %g arrived in place of %g",
			(double)out[0], (double)out[63], (double)value);
}

static void check_rounds(struct dev *d)
{
	float *in = staging(d), *out = staging(d);
	char *dev = d->vt->alloc(d->d, 512);
	nvllm_mark m[2] = { NULL };

	if (!in || !out || !dev || d->vt->mark_create(d->d, &m[0]) ||
		d->vt->mark_create(d->d, &m[1]))
		ck_bad("no memory or no marks: %s", fake_said());
	for (int i = 0; i < 3 && ck_good(); i++)
		check_round(d, m, dev, in, out, (float)i + 1);
	for (int i = 0; i < 2; i++)
		if (m[i])
			d->vt->mark_free(d->d, m[i]);
	d->vt->sync(d->d, d->stream);
	d->vt->free(d->d, dev);
	staging_free(d, in), staging_free(d, out);
}

void check_marks(struct dev *d)
{
	ck_begin("marks: what lies before one is done when it was waited for, again and again");
	if (!(d->info.caps & NVLLM_DEV_ASYNC)) {
		ck_skip("the device does not run ahead");
		return;
	}
	if (NVLLM_HAS(d->vt, mark_wait) && d->vt->mark_create && d->vt->mark_free &&
		d->vt->mark_set && d->vt->mark_wait)
		check_rounds(d);
	else
		ck_bad("NVLLM_DEV_ASYNC, and a mark member is NULL");
	ck_end();
}

/* 64 floats on the device, all of one value. */
static void put(struct dev *d, const struct nvllm_tensor *t, float value)
{
	float v[64];

	fill(v, value);
	if (d->vt->copy(d->d, d->stream, t->data, v, sizeof(v)) || d->vt->sync(d->d, d->stream))
		ck_bad("copy or sync failed: %s", fake_said());
}

static void want(struct dev *d, const struct nvllm_tensor *t, float value, const char *when)
{
	float v[64];

	fill(v, -1);
	if (d->vt->copy(d->d, d->stream, v, t->data, sizeof(v)) || d->vt->sync(d->d, d->stream))
		ck_bad("%s: copy or sync failed: %s", when, fake_said());
	for (int i = 0; i < 64; i++)
		if (v[i] != value) {
			ck_bad("%s: element %d is %g, expected %g", when, i, (double)v[i],
				(double)value);
			return;
		}
}

/* x += d; d = x, as a graph. */
static int record(struct dev *d, struct nvllm_tensor x, struct nvllm_tensor y, nvllm_graph *g)
{
	int status = d->vt->graph_begin(d->d, d->stream), end;

	if (status)
		return status;
	status = d->k->add(d->d, d->stream, x, y);
	status = status ? status : d->vt->copy(d->d, d->stream, y.data, x.data, 256);
	end = d->vt->graph_end(d->d, d->stream, g);
	return status ? status : end;
}

static void launch(struct dev *d, nvllm_graph g)
{
	int status = d->vt->graph_launch(d->d, d->stream, g);

	if (status)
		ck_bad("graph_launch returned %d: %s", status, fake_said());
}

static void check_replays(struct dev *d, struct nvllm_tensor x, struct nvllm_tensor y)
{
	nvllm_graph g = NULL, other = NULL;
	int status;

	put(d, &x, 1), put(d, &y, 10);
	status = record(d, x, y, &g);
	status = status ? status : record(d, y, x, &other);
	if (status) {
		ck_bad("recording returned %d: %s", status, fake_said());
		return;
	}
	want(d, &x, 1, "after the recording, which runs nothing");
	launch(d, g);
	want(d, &x, 11, "after a launch");
	put(d, &x, 2), put(d, &y, 3);
	launch(d, g);
	launch(d, g);
	want(d, &x, 10, "after two more, on new values at the same addresses");
	launch(d, other); /* 20, 20 */
	if (d->k->add(d->d, d->stream, x, y))
		ck_bad("add: %s", fake_said());
	launch(d, g); /* 40, 20: 60, 60 */
	want(d, &y, 60, "after another graph, a kernel and the graph, in that order");
	d->vt->graph_free(d->d, g);
	launch(d, other);
	want(d, &x, 120, "after the first graph is gone");
	d->vt->graph_free(d->d, other);
}

/* Whether the bad call or the end refuses is the device's choice; after the end the stream
 * must work. */
static void check_given_up(struct dev *d, struct nvllm_tensor x, struct nvllm_tensor y)
{
	struct nvllm_tensor no_fit = y;
	nvllm_graph g = NULL;

	no_fit.cols = 8;
	put(d, &x, 1), put(d, &y, 10);
	if (d->vt->graph_begin(d->d, d->stream)) {
		ck_bad("graph_begin: %s", fake_said());
		return;
	}
	(void)d->k->add(d->d, d->stream, x, no_fit);
	if (!d->vt->graph_end(d->d, d->stream, &g))
		d->vt->graph_free(d->d, g);
	if (d->k->add(d->d, d->stream, x, y))
		ck_bad("add after a recording that was given up: %s", fake_said());
	want(d, &x, 11, "after a recording that was given up");
}

void check_graphs(struct dev *d)
{
	struct nvllm_tensor x = { .rows = 4, .cols = 16, .stride = 64, .planes = 1,
		.dtype = NVLLM_F32 }, y = x;

	ck_begin("graphs: recorded, not run; launched in order, on what the addresses hold then");
	if (!(d->info.caps & NVLLM_DEV_GRAPHS)) {
		ck_skip("the device has no graphs");
		return;
	}
	if (!NVLLM_HAS(d->vt, graph_free) || !d->vt->graph_begin || !d->vt->graph_end ||
		!d->vt->graph_launch || !d->vt->graph_free || !d->k->add) {
		ck_bad("NVLLM_DEV_GRAPHS, and a graph member or the kernel add is NULL");
		ck_end();
		return;
	}
	x.data = d->vt->alloc(d->d, 256);
	y.data = d->vt->alloc(d->d, 256);
	check_replays(d, x, y);
	ck_end();
	ck_begin("graphs: the stream works after a recording that was given up");
	check_given_up(d, x, y);
	ck_end();
	d->vt->free(d->d, x.data);
	d->vt->free(d->d, y.data);
}
