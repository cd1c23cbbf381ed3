/* SPDX-License-Identifier: MIT */
/* tune.c - which of cuBLASLt's algorithms are the fastest here: timed for the shapes of this model's
 * weights, over the weights of several layers, so that they come from memory as they do in a step;
 * and kept in a file for the next start. A file made with another GPU, driver or library is
 * not used, and written anew.
 *
 * The file: a line that names those, then a line a plan: the key's numbers, the algorithm's words. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "lt.h"

#define TIMED_CALLS 8                      /* in one graph */
#define ROUNDS 2                           /* of which the quicker counts */
#define MOST_DECODE 512                    /* rows of a decode step: more is a prompt's, and timed on one call */
#define BUDGET_NS 100000000                /* of tune = on, at a start */
#define MOST_BYTES ((int64_t)1 << 30)      /* of x and y: larger products are not timed */

void tune_note(struct nvllm_device *dev, const struct nvllm_tensor *w)
{
	struct lt *lt = dev->lt;
	struct lt_shape *s = lt->shapes, *end = lt->shapes + lt->n_shapes;

	if ((w->dtype != NVLLM_F32 && w->dtype != NVLLM_BF16) || w->rows < 2 || w->planes > 1)
		return;
	while (s < end && (s->rows != w->rows || s->cols != w->cols || s->stride != w->stride || s->dtype != w->dtype ||
	       s->cut != w->cut))
		s++;
	if (s == end) {
		if (lt->n_shapes == LT_SHAPES)
			return;
		lt->n_shapes++;
		*s = (struct lt_shape){ .rows = w->rows, .cols = w->cols, .stride = w->stride, .dtype = w->dtype, .cut = w->cut };
	}
	if (s->n < LT_COPIES)
		s->w[s->n++] = w->data;
}

/* ---- timing ---- */

struct timing {
	struct nvllm_device *dev;
	cudaEvent_t from, to;
	void *x, *y;
	const struct lt_shape *shape;
	struct lt_call call;
	int n;                   /* products that were timed */
};

static int record(struct timing *t, const cublasLtMatmulAlgo_t *algo, nvllm_graph *graph)
{
	struct nvllm_device *dev = t->dev;
	cublasStatus_t st = CUBLAS_STATUS_SUCCESS;
	int err = cu_graph_begin(dev, dev->stream);

	if (err)
		return err;
	for (int i = 0; i < (t->call.key.t > MOST_DECODE ? 1 : TIMED_CALLS) && !st; i++) {
		t->call.w_data = t->shape->w[i % t->shape->n];
		st = lt_run(dev, dev->stream, &t->call, algo);
	}
	err = cu_graph_end(dev, dev->stream, graph);
	if (!err && st) {
		cu_graph_free(dev, *graph);
		err = NVLLM_ENOTSUP;
	}
	return err;
}

/* Milliseconds of the quickest round; negative: it does not run. As a graph, as in a decode step: most of these
 * products take less time than to launch them one by one. */
static float time_one(struct timing *t, const cublasLtMatmulAlgo_t *algo)
{
	struct nvllm_device *dev = t->dev;
	nvllm_graph graph = NULL;
	float best = -1, ms;
	int err;

	/* once outside a graph: the library loads the kernel */
	t->call.w_data = t->shape->w[0];
	if (lt_run(dev, dev->stream, &t->call, algo) || record(t, algo, &graph))
		return -1;
	err = cu_graph_launch(dev, dev->stream, graph);
	for (int i = 0; i < ROUNDS && !err; i++) {
		err = cudaEventRecord(t->from, dev->stream);
		err = err ? err : cu_graph_launch(dev, dev->stream, graph);
		err = err ? err : (int)cudaEventRecord(t->to, dev->stream);
		err = err ? err : (int)cudaEventSynchronize(t->to);
		err = err ? err : (int)cudaEventElapsedTime(&ms, t->from, t->to);
		if (!err && (best < 0 || ms < best))
			best = ms;
	}
	cu_graph_free(dev, graph);
	return err ? -1 : best;
}

/* The quickest of the library's first choices for t->call becomes its plan. */
static void choose(struct timing *t)
{
	cublasLtMatmulHeuristicResult_t r[LT_CHOICES];
	const int n = lt_choices(t->dev, &t->call, t->call.key.t, r, LT_CHOICES);
	struct lt_plan *p;
	float best = -1;
	int winner = -1;
	bool fresh;

	p = lt_find(t->dev->lt, &t->call.key, &fresh);
	if (!p || p->tuned)
		return;
	for (int i = 0; i < n; i++) {
		const float ms = time_one(t, &r[i].algo);

		if (ms >= 0 && (best < 0 || ms < best)) {
			best = ms;
			winner = i;
		}
	}
	t->n++;
	p->none = winner < 0;
	p->tuned = winner >= 0;
	if (p->tuned)
		p->algo = r[winner].algo;
}

/* How the core uses a weight of this shape: where it adds to the residual stream, or writes f32. */
static uint32_t use_of(const struct nvllm_device *dev, const struct lt_shape *s, int32_t *y_dtype)
{
	const bool partial = s->cut == NVLLM_CUT_COLS || s->cut == NVLLM_CUT_HEADS_IN, alone = dev->host->world <= 1;

	*y_dtype = partial || s->cut == NVLLM_CUT_VOCAB ? NVLLM_F32 : dev->act;
	return partial && alone ? NVLLM_LINEAR_ADD : 0;
}

static int64_t row_bytes(int64_t cols, int32_t dtype)
{
	return cols * (dtype == NVLLM_F32 ? 4 : 2);
}

static void tune_shape(struct timing *t, int64_t T)
{
	const struct lt_shape *s = t->shape;
	int32_t y_dtype;
	const uint32_t flags = use_of(t->dev, s, &y_dtype);
	const struct nvllm_tensor w = { .data = (void *)(uintptr_t)s->w[0], .rows = s->rows, .cols = s->cols, .stride = s->stride,
		.planes = 1, .dtype = s->dtype };
	const struct nvllm_tensor x = { .data = t->x, .rows = T, .cols = s->cols, .stride = row_bytes(s->cols, s->dtype), .planes = 1,
		.dtype = s->dtype };
	const struct nvllm_tensor y = { .data = t->y, .rows = T, .cols = s->rows, .stride = row_bytes(s->rows, y_dtype), .planes = 1,
		.dtype = y_dtype };

	if (x.stride * T <= MOST_BYTES / 2 && y.stride * T <= MOST_BYTES / 2 && !lt_describe(t->dev, &t->call, y, x, w, flags))
		choose(t);
}

static int64_t clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ll + ts.tv_nsec;
}

/* Those of decode steps before those of prompts, which the library's first choices suit well; of either the
 * last first: more rows, more time. */
static void tune_all(struct timing *t, const int32_t *rows, int32_t n)
{
	struct nvllm_device *dev = t->dev;
	const int64_t until = dev->conf->tune == TUNE_FULL ? INT64_MAX : clock_ns() + BUDGET_NS;

	for (int prompts = 0; prompts < 2; prompts++)
		for (int32_t i = n; i-- > 0;)
			for (int32_t s = 0; s < dev->lt->n_shapes && clock_ns() < until; s++) {
				t->shape = &dev->lt->shapes[s];
				if (rows[i] > SKINNY_ROWS && (rows[i] > MOST_DECODE) == prompts)
					tune_shape(t, lt_bucket(rows[i]));
			}
}

/* Bytes of the largest x and y that tune_shape() will use. */
static int64_t largest(const struct lt *lt, const int32_t *rows, int32_t n)
{
	int64_t most = 256;

	for (int32_t s = 0; s < lt->n_shapes; s++)
		for (int32_t i = 0; i < n; i++) {
			const struct lt_shape *h = &lt->shapes[s];
			const int64_t bytes = row_bytes(h->rows > h->cols ? h->rows : h->cols, NVLLM_F32) * lt_bucket(rows[i]);

			if (bytes > most)
				most = bytes;
		}
	return most < MOST_BYTES / 2 ? most : MOST_BYTES / 2;
}

/* ---- the file ---- */

static void machine_line(const struct nvllm_device *dev, char *line, size_t size)
{
	int driver = 0;

	cudaDriverGetVersion(&driver);
	snprintf(line, size, "nvllm-tune 1; %s; driver %d; cublaslt %zu\n", dev->name, driver, dev->lt->api.version());
}

static bool read_plan(FILE *f, struct lt_plan *p)
{
	struct lt_key *k = &p->key;

	if (fscanf(f, "%" SCNd64 "%" SCNd64 "%" SCNd64 "%" SCNd64 "%" SCNd64 "%" SCNd64 "%d%d%d%d",
		&k->n, &k->k, &k->t, &k->w_ld, &k->x_ld, &k->y_ld, &k->type, &k->y_type, &k->add, &k->align) != 10)
		return false;
	for (int i = 0; i < 8; i++)
		if (fscanf(f, "%" SCNx64, &p->algo.data[i]) != 1)
			return false;
	p->tuned = true;
	return k->n > 0;
}

void tune_load(struct nvllm_device *dev)
{
	const struct nvllm_host *host = dev->host;
	FILE *f = dev->conf->tune != TUNE_OFF && *dev->conf->tune_file ? fopen(dev->conf->tune_file, "re") : NULL;
	struct lt_plan p = { .none = false }, *to;
	char line[256], want[256];
	int n = 0;
	bool fresh;

	if (!f)
		return;
	machine_line(dev, want, sizeof(want));
	if (fgets(line, sizeof(line), f) && !strcmp(line, want))
		while (read_plan(f, &p)) {
			to = lt_find(dev->lt, &p.key, &fresh);
			if (!to)
				continue;
			p.used = to->used;
			*to = p;
			n++;
		}
	host->log(host, NVLLM_LOG_INFO, "%d timed products from %s", n, dev->conf->tune_file);
	fclose(f);
}

static void write_plan(FILE *f, const struct lt_plan *p)
{
	const struct lt_key *k = &p->key;

	fprintf(f, "%" PRId64 " %" PRId64 " %" PRId64 " %" PRId64 " %" PRId64 " %" PRId64 " %d %d %d %d",
		k->n, k->k, k->t, k->w_ld, k->x_ld, k->y_ld, k->type, k->y_type, k->add, k->align);
	for (int i = 0; i < 8; i++)
		fprintf(f, " %" PRIx64, p->algo.data[i]);
	fputc('\n', f);
}

/* Written beside it and moved there: another process may read it at any time. */
static void save(struct nvllm_device *dev)
{
	const struct nvllm_host *host = dev->host;
	const struct lt_plan *p = dev->lt->plans[0], *end = p + LT_SETS * LT_WAYS;
	char line[256], tmp[4096];
	bool good;
	FILE *f;

	if (!*dev->conf->tune_file || host->rank || snprintf(tmp, sizeof(tmp), "%s.new", dev->conf->tune_file) >= (int)sizeof(tmp))
		return;
	f = fopen(tmp, "we");
	if (f) {
		machine_line(dev, line, sizeof(line));
		fputs(line, f);
		for (; p < end; p++)
			if (p->key.n && p->tuned)
				write_plan(f, p);
	}
	good = f && !ferror(f);
	if (!f || fclose(f) || !good || rename(tmp, dev->conf->tune_file))
		host->log(host, NVLLM_LOG_WARN, "[device] tune_file = %s cannot be written: the products are timed again at the next "
			"start", dev->conf->tune_file);
}

/* What timing needs; false: there is no memory for it. */
static bool get_room(struct timing *t, int64_t bytes)
{
	if (!cudaMalloc(&t->x, (size_t)bytes) && !cudaMalloc(&t->y, (size_t)bytes) && !cudaEventCreate(&t->from) &&
	    !cudaEventCreate(&t->to))
		return true;
	cudaGetLastError();
	return false;
}

static void free_room(struct timing *t)
{
	if (t->from)
		cudaEventDestroy(t->from);
	if (t->to)
		cudaEventDestroy(t->to);
	cudaFree(t->x);
	cudaFree(t->y);
}

/* y zero, x numbers: products of zeros are faster. */
static int fill_room(struct timing *t, int64_t bytes)
{
	struct nvllm_device *dev = t->dev;
	const int64_t half = bytes / 2 / 16 * 16;
	int err = cu_check(dev, cudaMemsetAsync(t->y, 0, (size_t)bytes, dev->stream), "writing to its memory");

	return err ? err : cu_fill_random(dev, dev->stream, t->x, dev->act, half, 2, half / (dev->act == NVLLM_F32 ? 4 : 2), 0, 0, 1,
		0, 1);
}

int cu_prepare(struct nvllm_device *dev, const int32_t *rows, int32_t n)
{
	const struct nvllm_host *host = dev->host;
	struct timing t = { .dev = dev };
	const int64_t start = clock_ns();
	int64_t bytes;
	int err = lt_ready(dev);

	if (err || dev->conf->tune == TUNE_OFF || !dev->lt->n_shapes)
		return err;
	cudaSetDevice(dev->ordinal);
	bytes = largest(dev->lt, rows, n);
	if (get_room(&t, bytes)) {
		err = fill_room(&t, bytes);
		if (!err)
			tune_all(&t, rows, n);
		err = err ? err : cu_check(dev, cudaStreamSynchronize(dev->stream), "timing matrix products");
		if (!err)
			save(dev);
		host->log(host, NVLLM_LOG_DEBUG, "timed %d products in %.0f ms", t.n, (double)(clock_ns() - start) / 1e6);
	} else {
		host->log(host, NVLLM_LOG_WARN, "no %lld MiB of memory is free to time matrix products: cuBLASLt's first "
			"choices are used; lower [engine] memory, or set [device] tune = off", (long long)(2 * bytes) >> 20);
	}
	free_room(&t);
	return err;
}
