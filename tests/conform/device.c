/* SPDX-License-Identifier: MIT */
/* tests/conform/device.c - a device's kernels against the formulas in double, for each
 * instruction set its `isa` option can be forced to: odd shapes, every weight type it
 * stores, strided rows, rows alone or together bit for bit, nothing written outside. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "device.h"

/* ---- the harness: one kernel call on rows [row, row + n), and what it must give ---- */

struct nvllm_tensor mat_new(const char *name, int64_t rows, int64_t cols, int64_t pad)
{
	struct nvllm_tensor t = { .rows = rows,
		.cols = cols,
		.stride = (cols + pad) * 4,
		.planes = 1,
		.dtype = NVLLM_F32 };

	t.data = gmem_get(name, rows * t.stride - pad * 4, 4);
	return t;
}

struct nvllm_tensor mat_random(
	const char *name, int64_t rows, int64_t cols, int64_t pad, uint64_t seed)
{
	struct nvllm_tensor t = mat_new(name, rows, cols, pad);
	struct rng r = { seed };

	for (int64_t i = 0; i < rows; i++)
		for (int64_t j = 0; j < cols; j++)
			mat_row(t, i)[j] = (float)rng_unit(&r);
	return t;
}

float *mat_row(struct nvllm_tensor t, int64_t row)
{
	return (float *)((char *)t.data + row * t.stride);
}

struct nvllm_tensor mat_rows(struct nvllm_tensor t, int64_t row, int64_t n)
{
	if (t.data)
		t.data = mat_row(t, row);
	t.rows = n;
	return t;
}

static void mat_copy(struct nvllm_tensor to, struct nvllm_tensor from)
{
	for (int64_t i = 0; i < to.rows; i++)
		memcpy(mat_row(to, i), mat_row(from, i), (size_t)to.cols * 4);
}

static int call(struct dcase *k, int64_t row, int64_t n, struct nvllm_tensor y)
{
	int status;

	if (k->y0.data)
		mat_copy(y, mat_rows(k->y0, row, n));
	ck_step_begin();
	status = k->run(k, row, n, y);
	ck_step_end();
	k->dev->vt->sync(k->dev->d, k->dev->stream);
	return status ? ck_bad("returned %d: %s", status, fake_said()) : 0;
}

static void check_values(struct dcase *k, struct nvllm_tensor y)
{
	double *want = malloc(sizeof(double) * (size_t)y.cols),
	       *tol = malloc(sizeof(double) * (size_t)y.cols);

	for (int64_t r = 0; r < y.rows && ck_good(); r++) {
		for (int64_t i = 0; i < y.cols; i++)
			tol[i] = NAN;
		k->want(k, r, want, tol);
		for (int64_t i = 0; i < y.cols && ck_good(); i++) {
			double t = isnan(tol[i]) ? 2e-6 + 3e-5 * fabs(want[i]) : tol[i];

			if (!(fabs((double)mat_row(y, r)[i] - want[i]) <= t))
				ck_bad("row %ld of %ld, column %ld: %.7g, expected %.7g within "
				       "%.2g",
					(long)r, (long)y.rows, (long)i, (double)mat_row(y, r)[i],
					want[i], t);
		}
	}
	free(want), free(tol);
}

static void check_gaps(struct nvllm_tensor y)
{
	for (int64_t r = 0; r + 1 < y.rows; r++)
		for (int64_t b = y.cols * 4; b < y.stride; b++)
			if (((unsigned char *)mat_row(y, r))[b] != 0xFF) {
				ck_bad("wrote between the rows of y, after row %ld", (long)r);
				return;
			}
}

/* All rows, then every row alone: right, and the same bits. */
void dcase_check(struct dcase *k)
{
	struct nvllm_tensor y = mat_new("y", k->rows, k->cols, k->pad);

	if (call(k, 0, k->rows, y) == 0) {
		check_values(k, y);
		check_gaps(y);
	}
	for (int64_t r = 0; r < k->rows && ck_good(); r++) {
		struct nvllm_tensor one = mat_new("y of one row", 1, k->cols, 0);

		if (call(k, r, 1, one) == 0 &&
			memcmp(mat_row(one, 0), mat_row(y, r), (size_t)k->cols * 4))
			ck_bad("row %ld has other bits alone than among %ld rows", (long)r,
				(long)k->rows);
		gmem_put(one.data);
	}
	gmem_put(y.data);
	gmem_put(k->y0.data);
	gmem_put(k->x.data);
	ck_end();
}

/* ---- weights ---- */

void weight_free(struct weight *w)
{
	gmem_put(w->t.data);
	free(w->v);
}

int64_t cols_of(int32_t dtype, int64_t n)
{
	int64_t block = nvllm_dtype_block(dtype, NULL);

	return (n + block - 1) / block * block;
}

/* A plane in two pieces. */
static int upload(struct dev *d, const struct nvllm_tensor *t, int32_t plane, int32_t dtype,
	const unsigned char *src, int64_t src_stride)
{
	int64_t half = t->rows / 2;
	int status = 0;

	if (half)
		status = d->vt->upload(d->d, t, plane, 0, half, src, dtype, src_stride);
	return status ? status : d->vt->upload(d->d, t, plane, half, t->rows - half,
		src + half * src_stride, dtype, src_stride);
}

/* Random rows of a type, stored as the device likes. 1: the device does not store this
 * type. */
int weight_make_planes(struct dev *d, int32_t dtype, int planes, int64_t rows, int64_t cols,
	uint64_t seed, struct weight *w)
{
	int64_t src_stride = nvllm_row_bytes(dtype, cols), all = planes * rows, bytes;
	unsigned char *src = gmem_get("the checkpoint's rows", all * src_stride, 1);
	struct rng r = { seed };
	int status = 0;

	*w = (struct weight){ .t = { .rows = rows, .cols = cols, .stride = src_stride,
		.planes = planes, .plane_stride = planes > 1 ? rows * src_stride : 0,
		.dtype = dtype }, .v = malloc(sizeof(double) * (size_t)(all * cols)) };
	for (int64_t i = 0; i < all; i++)
		if (ref_random_row(dtype, cols, &r, src + i * src_stride, w->v + i * cols))
			status = 1;
	bytes = status ? -1 : d->vt->store(d->d, &w->t);
	if (bytes < 0 || status) {
		if (bytes != NVLLM_ENOTSUP && !status)
			ck_bad("store returned %ld: %s", (long)bytes, fake_said());
		gmem_put(src);
		return 1;
	}
	w->t.data = gmem_get("a stored weight", bytes, 256);
	for (int32_t p = planes - 1; p >= 0 && !status; p--)
		status = upload(d, &w->t, p, dtype, src + p * rows * src_stride, src_stride);
	gmem_put(src);
	return status ? ck_bad("upload returned %d: %s", status, fake_said()) : 0;
}

int weight_make(
	struct dev *d, int32_t dtype, int64_t rows, int64_t cols, uint64_t seed, struct weight *w)
{
	return weight_make_planes(d, dtype, 1, rows, cols, seed, w);
}

/* ---- the device itself ---- */

static void check_info(struct dev *d)
{
	ck_begin("info says what it is");
	if (d->info.n_workers < 1 || !d->info.name[0] || !memchr(d->info.name, 0, 64) ||
		!memchr(d->info.isa, 0, 64))
		ck_bad("n_workers %d, name '%.63s'", d->info.n_workers, d->info.name);
	if (d->info.mem_total <= 0 || d->info.mem_free <= 0 || d->info.mem_free > d->info.mem_total)
		ck_bad("mem_free %ld of mem_total %ld", (long)d->info.mem_free,
			(long)d->info.mem_total);
	if (!!(d->info.caps & NVLLM_DEV_PARALLEL) !=
		(NVLLM_HAS(d->vt, parallel_for) && d->vt->parallel_for))
		ck_bad("NVLLM_DEV_PARALLEL and parallel_for go together");
	ck_end();
}

static void check_memory(struct dev *d)
{
	char *p[8], text[300], back[300];

	ck_begin("alloc is aligned to 256 bytes, copy copies");
	memset(text, 'x', sizeof(text));
	for (int i = 0; i < 8; i++) {
		p[i] = d->vt->alloc(d->d, 300 + i);
		if (!p[i] || (uintptr_t)p[i] % 256)
			ck_bad("alloc of %d bytes gave %p", 300 + i, (void *)p[i]);
	}
	if (ck_good() && (d->vt->copy(d->d, d->stream, p[3], text, 300) ||
		d->vt->copy(d->d, d->stream, p[5], p[3], 300) ||
		d->vt->copy(d->d, d->stream, back, p[5], 300) || d->vt->sync(d->d, d->stream) ||
		memcmp(back, text, 300)))
		ck_bad("bytes copied to the device, within it and back are not the same");
	for (int i = 0; i < 8; i++)
		d->vt->free(d->d, p[i]);
	d->vt->free(d->d, NULL);
	ck_end();
	ck_begin("memory there is not gives NULL");
	if (d->vt->alloc(d->d, INT64_MAX / 2) || d->vt->alloc(d->d, INT64_MAX))
		ck_bad("alloc of 2^62 bytes gave an address");
	ck_end();
}

struct cover { int32_t *seen, *busy; int64_t n, grain, n_workers; int bad; };

static void cover_fn(void *arg, int64_t begin, int64_t end, int32_t worker)
{
	struct cover *c = arg;

	if (begin < 0 || end > c->n || begin >= end || end - begin > c->grain || worker < 0 ||
		worker >= c->n_workers ||
		__atomic_exchange_n(&c->busy[worker], 1, __ATOMIC_ACQ_REL)) {
		__atomic_store_n(&c->bad, 1, __ATOMIC_RELAXED);
		return;
	}
	for (int64_t i = begin; i < end; i++)
		__atomic_add_fetch(&c->seen[i], 1, __ATOMIC_RELAXED);
	__atomic_store_n(&c->busy[worker], 0, __ATOMIC_RELEASE);
}

static void check_parallel(struct dev *d)
{
	static const int64_t sizes[][2] = { { 0, 4 }, { 1, 1 }, { 1, 100 }, { 7, 3 }, { 1000, 1 },
		{ 1000, 7 }, { 64, 64 }, { 65, 64 }, { 3, 1000 } };

	ck_begin("parallel_for covers each range once, a worker's number never twice at once");
	for (int round = 0; round < 50; round++)
		for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes) && ck_good(); i++) {
			struct cover c = { .n = sizes[i][0],
				.grain = sizes[i][1],
				.n_workers = d->info.n_workers };

			c.seen = calloc((size_t)c.n + 1, sizeof(*c.seen));
			c.busy = calloc((size_t)c.n_workers, sizeof(*c.busy));
			ck_step_begin();
			d->vt->parallel_for(d->d, c.n, c.grain, cover_fn, &c);
			ck_step_end();
			for (int64_t j = 0; j < c.n; j++)
				if (c.seen[j] != 1)
					ck_bad("n %ld, grain %ld: item %ld was done %d times",
						(long)c.n, (long)c.grain, (long)j, c.seen[j]);
			if (c.bad)
				ck_bad("n %ld, grain %ld: a range or a worker's number out of "
				       "bounds, or two "
				       "calls at once with one number",
					(long)c.n, (long)c.grain);
			free(c.seen), free(c.busy);
		}
	ck_end();
}

/* ---- marks and graphs: also of a device whose memory is not the host's ---- */

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

static void check_marks(struct dev *d)
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

static void check_graphs(struct dev *d)
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

/* ---- variants ---- */

static int dev_open(struct dev *d, const struct nvllm_component *c, const char *const *sets)
{
	int err, status;
	const void *conf = ck_conf(c, sets, &err);

	memset(d, 0, sizeof(*d));
	if (err)
		return -1;
	d->vt = c->vt;
	d->k = d->vt->kernels;
	d->info.size = sizeof(d->info);
	fake_hush();
	status = d->vt->create(fake_host(), 0, conf, &d->d);
	if (ck_refusal(status, "create") < 0)
		return 1;
	if (!d->d || d->vt->info(d->d, &d->info))
		return ck_bad("create or info gave nothing");
	d->stream = d->vt->stream(d->d);
	return 0;
}

/* How far an activation may be rounded, as a share of its row's largest: the option
 * `activations` names it; what it does not name may be as coarse as 8 bits. */
static double rounding(const char *activations)
{
	if (!activations)
		return 0;
	if (!strcmp(activations, "f32"))
		return 0;
	return !strcmp(activations, "q16") ? 1.0 / 32767 : 1.0 / 127;
}

/* The names of an ENUM option, "auto" first; one NULL where there is none. */
static const char *const *names_of(const struct nvllm_component *c, const char *key)
{
	static const char *const none[] = { NULL };

	for (const struct nvllm_option *o = c->options; o && o->key; o++)
		if (!strcmp(o->key, key) && o->type == NVLLM_OPT_ENUM)
			return o->names;
	return none;
}

static void run_suite(struct dev *d, bool whole)
{
	if (whole) {
		check_info(d);
		check_memory(d);
		check_marks(d);
		check_graphs(d);
	}
	if (!(d->info.caps & NVLLM_DEV_HOST_MEM)) {
		ck_skip("its memory is not the host's: the suite cannot read it");
		return;
	}
	if (whole && d->info.caps & NVLLM_DEV_PARALLEL)
		check_parallel(d);
	check_kernels(d);
}

/* One setting of `isa` and `activations`, where the device has those options. */
static void run_variant(
	const struct nvllm_component *c, const char *isa, const char *acts, bool whole)
{
	char set_isa[64], set_acts[64];
	const char *sets[3] = { NULL };
	int n = 0, status;
	struct dev d;

	snprintf(set_isa, sizeof(set_isa), "isa=%s", isa ? isa : "");
	snprintf(set_acts, sizeof(set_acts), "activations=%s", acts ? acts : "");
	if (isa)
		sets[n++] = set_isa;
	if (acts)
		sets[n++] = set_acts;
	ck_who("device.%s%s%s%s%s", c->name, n ? " " : "", n ? sets[0] : "", n > 1 ? " " : "",
		n > 1 ? sets[1] : "");
	ck_begin("create");
	status = dev_open(&d, c, sets);
	d.rounding = rounding(acts);
	if (status == 1 && isa && strcmp(isa, "auto")) {
		ck_skip("refused: %s", fake_said()); /* this machine has other instructions */
		return;
	}
	if (status == 1)
		ck_bad("refused: %s", fake_said());
	ck_end();
	if (status)
		return;
	run_suite(&d, whole);
	d.vt->destroy(d.d);
}

void suite_device(const struct nvllm_component *c)
{
	const struct nvllm_device_vt *vt = c->vt;
	const char *const *isa = names_of(c, "isa"), *const *acts = names_of(c, "activations");
	bool whole = true;

	if (!vt->kernels) {
		ck_begin("has kernels");
		ck_bad("kernels is NULL");
		ck_end();
		return;
	}
	for (int i = 0; i == 0 || isa[i]; i++)
		for (int j = 0; j == 0 || acts[j]; j++) {
			run_variant(c, isa[i], acts[j], whole);
			whole = false;
			if (!acts[j])
				break;
		}
	vt->destroy(NULL);
}
