/* SPDX-License-Identifier: MIT */
/* Which steps are replayed: decides the bucket of a step, when its graph is recorded, and
 * that a recording which fails costs the bucket its graph and nobody their answer. */
#include <stdlib.h>
#include <string.h>

#include "core.h"
#include "graph_pool.h"

#define MAX_MIXED 64 /* buckets with chunks of prompts */

struct bucket {
	struct graph_shape shape;
	bool ready;                 /* graph and logits are good */
	bool eager;                 /* recording failed once: never again */
	nvllm_graph graph;
	struct nvllm_tensor logits; /* what the step gave when it was recorded */
};

struct graph_pool {
	const struct nvllm_device_vt *vt;
	struct nvllm_device *dev;
	nvllm_stream stream;
	int n, n_mixed;
	int32_t max_mixed;
	int32_t *sizes;         /* [n] ascending */
	struct bucket *buckets; /* [n] of the sizes, then MAX_MIXED, n_mixed of them in use */
};

static bool has_graphs(const struct nvllm_device_ref *ref)
{
	const struct nvllm_device_vt *vt = ref->vt;

	return ref->info->caps & NVLLM_DEV_GRAPHS && NVLLM_HAS(vt, graph_free) && vt->graph_begin &&
		vt->graph_end && vt->graph_launch && vt->graph_free;
}

static int by_size(const void *a, const void *b)
{
	int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;

	return (x > y) - (x < y);
}

/* Ascending, each once, within 1 .. max_seqs. */
static int keep_sizes(int32_t *out, const int64_t *sizes, int64_t n_sizes, int32_t max_seqs)
{
	int n = 0, kept = 0;

	for (int64_t i = 0; i < n_sizes; i++)
		if (sizes[i] >= 1 && sizes[i] <= max_seqs)
			out[n++] = (int32_t)sizes[i];
	qsort(out, (size_t)n, sizeof(*out), by_size);
	for (int i = 0; i < n; i++)
		if (kept == 0 || out[i] != out[kept - 1])
			out[kept++] = out[i];
	return kept;
}

struct graph_pool *graph_pool_create(const struct nvllm_device_ref *ref, nvllm_stream stream,
	bool capture, const int64_t *sizes, int64_t n_sizes, int32_t max_seqs, int32_t max_mixed)
{
	struct graph_pool *p = calloc(1, sizeof(*p));

	if (!capture || n_sizes < 0 || !has_graphs(ref))
		n_sizes = max_mixed = 0;
	if (p) {
		p->sizes = calloc((size_t)n_sizes + 1, sizeof(*p->sizes));
		p->buckets = calloc((size_t)n_sizes + MAX_MIXED, sizeof(*p->buckets));
	}
	if (!p || !p->sizes || !p->buckets) {
		graph_pool_destroy(p);
		fail(NVLLM_ENOMEM, "no memory for a pool of %lld graphs", (long long)n_sizes);
		return NULL;
	}
	p->vt = ref->vt;
	p->dev = ref->dev;
	p->stream = stream;
	p->n = keep_sizes(p->sizes, sizes, n_sizes, max_seqs);
	p->max_mixed = max_mixed;
	for (int i = 0; i < p->n; i++)
		p->buckets[i].shape = (struct graph_shape){ p->sizes[i], p->sizes[i] };
	return p;
}

void graph_pool_destroy(struct graph_pool *p)
{
	if (!p)
		return;
	for (int i = 0; i < p->n + p->n_mixed; i++)
		if (p->buckets[i].ready)
			p->vt->graph_free(p->dev, p->buckets[i].graph);
	free(p->sizes);
	free(p->buckets);
	free(p);
}

/* The next size, 0 = none is so large. */
static int32_t next_size(const struct graph_pool *p, int32_t n_seqs)
{
	for (int i = 0; n_seqs > 0 && i < p->n; i++)
		if (p->sizes[i] >= n_seqs)
			return p->sizes[i];
	return 0;
}

struct graph_shape graph_pool_decode(const struct graph_pool *p, int32_t n_seqs)
{
	int32_t n = next_size(p, n_seqs);

	return (struct graph_shape){ n, n };
}

/* Rows are rounded up by an eighth of them at most, from 128 on. */
struct graph_shape graph_pool_mixed(const struct graph_pool *p, int32_t n_tokens, int32_t n_seqs)
{
	struct graph_shape none = { 0, 0 }, s = { n_tokens, next_size(p, n_seqs) };
	int32_t unit = 16;

	if (n_tokens > p->max_mixed || !s.n_seqs)
		return none;
	if (s.n_tokens <= s.n_seqs)
		s.n_tokens = s.n_seqs + 1;
	while (s.n_tokens >= unit * 16)
		unit *= 2;
	s.n_tokens = (s.n_tokens + unit - 1) / unit * unit;
	if (s.n_tokens > p->max_mixed)
		s.n_tokens = p->max_mixed;
	return s.n_tokens > s.n_seqs ? s : none;
}

int graph_pool_sizes(const struct graph_pool *p, const int32_t **sizes)
{
	*sizes = p->sizes;
	return p->n;
}

/* A replay gives the logits where the recording put them: the step must put them there
 * each time. */
static int check_same(const struct nvllm_tensor *eager, const struct nvllm_tensor *recorded)
{
	if (eager->data == recorded->data && eager->rows == recorded->rows &&
	    eager->cols == recorded->cols && eager->stride == recorded->stride &&
	    eager->dtype == recorded->dtype)
		return NVLLM_OK;
	return fail(NVLLM_EINVAL, "the same step twice put its logits in two places");
}

/* Ends what begin began, whatever fn returned. */
static int record(struct graph_pool *p, struct bucket *b,
	int (*fn)(void *arg, struct nvllm_tensor *logits), void *arg,
	const struct nvllm_tensor *eager)
{
	nvllm_graph graph = NULL;
	int rc = p->vt->graph_begin(p->dev, p->stream), rc_end;

	if (rc)
		return rc;
	rc = fn(arg, &b->logits);
	if (!rc)
		rc = check_same(eager, &b->logits);
	/* The reason that counts is the first: end() may bring a sentence of its own. */
	if (rc) {
		char why[256];

		snprintf(why, sizeof(why), "%s", fail_text());
		if (!p->vt->graph_end(p->dev, p->stream, &graph))
			p->vt->graph_free(p->dev, graph);
		return fail(rc, "%s", why);
	}
	rc_end = p->vt->graph_end(p->dev, p->stream, &graph);
	if (rc_end)
		return rc_end;
	b->graph = graph;
	b->ready = true;
	return NVLLM_OK;
}

static void give_up(struct bucket *b)
{
	const char *why = fail_text();

	b->eager = true;
	log_line(NVLLM_LOG_WARN, NULL, "steps of %d rows of %d sequences cannot be recorded (%s): they run "
		"without a graph from now on", b->shape.n_tokens, b->shape.n_seqs, *why ? why : "the device does not say why");
	fail_clear();
}

/* NULL: this step has no bucket, or is the first of its shape with chunks. */
static struct bucket *find(struct graph_pool *p, struct graph_shape s)
{
	int n = p->n + p->n_mixed;

	for (int i = 0; s.n_tokens > 0 && i < n; i++)
		if (p->buckets[i].shape.n_tokens == s.n_tokens && p->buckets[i].shape.n_seqs == s.n_seqs)
			return &p->buckets[i];
	if (s.n_tokens > s.n_seqs && p->n_mixed < MAX_MIXED) {
		p->buckets[n].shape = s;
		p->n_mixed++;
	}
	return NULL;
}

int graph_pool_run(struct graph_pool *p, struct graph_shape shape,
	int (*fn)(void *arg, struct nvllm_tensor *logits), void *arg,
	struct nvllm_tensor *logits, bool *replayed)
{
	struct bucket *b = find(p, shape);
	int rc;

	*replayed = b && b->ready;
	if (*replayed) {
		*logits = b->logits;
		return p->vt->graph_launch(p->dev, p->stream, b->graph);
	}
	rc = fn(arg, logits);
	if (rc || !b || b->eager)
		return rc;
	fail_clear(); /* so that what is said of a failure is this recording's */
	if (record(p, b, fn, arg, logits))
		give_up(b);
	return NVLLM_OK;
}
