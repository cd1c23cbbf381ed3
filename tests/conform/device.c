/* SPDX-License-Identifier: MIT */
/* tests/conform/device.c - a device's kernels against the formulas in double, for each
 * instruction set its `isa` option can be forced to: odd shapes, every weight type it
 * stores, strided rows, rows alone or together bit for bit, nothing written outside. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "device.h"

/* ---- the harness: one kernel call on rows [row, row + n), and what it must give ---- */

int64_t mat_align = 4;

struct nvllm_tensor mat_new_as(const char *name, int32_t dtype, int64_t rows, int64_t cols,
	int64_t pad)
{
	int64_t bytes = nvllm_row_bytes(dtype, 1);
	int64_t align = mat_align < bytes ? bytes : mat_align == 4 ? bytes : mat_align;
	struct nvllm_tensor t = { .rows = rows, .cols = cols, .planes = 1, .dtype = dtype,
		.stride = (cols + pad) * bytes };
	int64_t size;

	t.stride = (t.stride + align - 1) / align * align;
	size = rows ? (rows - 1) * t.stride + cols * bytes : 0;
	t.data = gmem_get(name, size, align);
	return t;
}

struct nvllm_tensor mat_new(const char *name, int64_t rows, int64_t cols, int64_t pad)
{
	return mat_new_as(name, NVLLM_F32, rows, cols, pad);
}

/* f32 and bf16. */
double mat_get(struct nvllm_tensor t, int64_t row, int64_t col)
{
	uint32_t u;
	float f;

	if (t.dtype == NVLLM_F32)
		return (double)mat_row(t, row)[col];
	u = (uint32_t)((const uint16_t *)(const void *)mat_row(t, row))[col] << 16;
	memcpy(&f, &u, 4);
	return (double)f;
}

/* x must be a number of the type already. */
static void mat_put(struct nvllm_tensor t, int64_t row, int64_t col, float x)
{
	uint32_t u;

	memcpy(&u, &x, 4);
	if (t.dtype == NVLLM_F32)
		mat_row(t, row)[col] = x;
	else
		((uint16_t *)(void *)mat_row(t, row))[col] = (uint16_t)(u >> 16);
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

/* One row to each, where from.stride is 0. */
static void mat_copy(struct nvllm_tensor to, struct nvllm_tensor from)
{
	for (int64_t i = 0; i < to.rows; i++)
		for (int64_t j = 0; j < to.cols; j++)
			mat_put(to, i, j, mat_row(from, i)[j]);
}

static void mat_round(struct nvllm_tensor t, int32_t dtype)
{
	for (int64_t i = 0; t.data && i < t.rows; i++)
		for (int64_t j = 0; j < t.cols; j++)
			mat_row(t, i)[j] = (float)ref_round(dtype, (double)mat_row(t, i)[j]);
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

static const char *form_name(const struct dcase *k)
{
	static const char *const names[] = { "", "x bf16: ", "y bf16: ", "x and y bf16: " };

	return names[k->form];
}

/* y's rows, which are rows [row, ..) of the case. */
static void check_values(struct dcase *k, int64_t row, struct nvllm_tensor y)
{
	double *want = malloc(sizeof(double) * (size_t)y.cols),
	       *tol = malloc(sizeof(double) * (size_t)y.cols);

	for (int64_t r = 0; r < y.rows && ck_good(); r++) {
		for (int64_t i = 0; i < y.cols; i++)
			tol[i] = NAN;
		k->want(k, row + r, want, tol);
		for (int64_t i = 0; i < y.cols && ck_good(); i++) {
			double t = isnan(tol[i]) ? 2e-6 + 3e-5 * fabs(want[i]) : tol[i];
			double got = mat_get(y, r, i);

			t += y.dtype == NVLLM_BF16 ? BF16_HALF * 1.01 * fabs(want[i]) : 0;
			if (!(fabs(got - want[i]) <= t))
				ck_bad("%srow %ld of %ld%s, column %ld: %.7g, expected %.7g within "
				       "%.2g",
					form_name(k), (long)(row + r), (long)k->rows,
					y.rows < k->rows ? ", alone" : "", (long)i, got, want[i], t);
		}
	}
	free(want), free(tol);
}

static void check_gaps(struct nvllm_tensor y)
{
	int64_t used = nvllm_row_bytes(y.dtype, y.cols);

	for (int64_t r = 0; r + 1 < y.rows; r++)
		for (int64_t b = used; b < y.stride; b++)
			if (((unsigned char *)mat_row(y, r))[b] != 0xFF) {
				ck_bad("wrote between the rows of y, after row %ld", (long)r);
				return;
			}
}

static bool same_rows(struct nvllm_tensor a, int64_t ra, struct nvllm_tensor b, int64_t rb)
{
	return !memcmp(mat_row(a, ra), mat_row(b, rb), (size_t)nvllm_row_bytes(a.dtype, a.cols));
}

/* Every row alone: the same bits, or, where the device says that they vary, right. */
static void check_alone(struct dcase *k, struct nvllm_tensor y)
{
	for (int64_t r = 0; r < k->rows && ck_good(); r += k->dev->varies && r > 4 ? 13 : 1) {
		struct nvllm_tensor one = mat_new_as("y of one row", y.dtype, 1, k->cols, 0);

		if (call(k, r, 1, one) == 0 && k->dev->varies)
			check_values(k, r, one);
		else if (ck_good() && !same_rows(one, 0, y, r))
			ck_bad("%srow %ld has other bits alone than among %ld rows", form_name(k),
				(long)r, (long)k->rows);
		gmem_put(one.data);
	}
}

/* All rows: right, nothing between them, the same bits a second time. */
static void check_form(struct dcase *k)
{
	int32_t type = k->form & Y16 ? NVLLM_BF16 : NVLLM_F32;
	struct nvllm_tensor y = mat_new_as("y", type, k->rows, k->cols, k->pad);
	struct nvllm_tensor again = mat_new_as("y again", type, k->rows, k->cols, k->pad);

	if (call(k, 0, k->rows, y) == 0) {
		check_values(k, 0, y);
		check_gaps(y);
	}
	if (ck_good() && call(k, 0, k->rows, again) == 0)
		for (int64_t r = 0; r < k->rows && ck_good(); r++)
			if (!same_rows(y, r, again, r))
				ck_bad("%srow %ld has other bits the second time", form_name(k),
					(long)r);
	check_alone(k, y);
	gmem_put(y.data), gmem_put(again.data);
}

void dcase_check(struct dcase *k)
{
	int last = k->dev->act16 ? k->may : 0;

	for (int form = 0; form <= last && ck_good(); form++) {
		if (form & ~last)
			continue;
		k->form = form;
		k->xk = k->x;
		if (form & Y16)
			mat_round(k->y0, NVLLM_BF16);
		if (form & X16 && k->x.data) {
			struct nvllm_tensor one = k->x; /* stride 0: its one row */

			one.rows = k->x.stride ? k->x.rows : 1;
			mat_round(one, NVLLM_BF16);
			k->xk = mat_new_as("x", NVLLM_BF16, one.rows, one.cols, 1);
			mat_copy(k->xk, one);
			k->xk.rows = k->x.rows;
			k->xk.stride = k->x.stride ? k->xk.stride : 0;
		}
		check_form(k);
		if (k->xk.data != k->x.data)
			gmem_put(k->xk.data);
	}
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

void weight_rounded(const struct nvllm_tensor *stored, int32_t dtype, double *v, int64_t n)
{
	for (int64_t i = 0; i < n && stored->dtype == NVLLM_BF16 && dtype != NVLLM_BF16; i++)
		v[i] = ref_round(NVLLM_BF16, v[i]);
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

	gmem_apart(src);
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
	weight_rounded(&w->t, dtype, w->v, all * cols);
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

/* ---- variants ---- */

static int dev_open(struct dev *d, const struct nvllm_component *c, const char *const *sets)
{
	struct nvllm_device_ref ref;
	int err, status;
	const void *conf = ck_conf(c, sets, &err);

	memset(d, 0, sizeof(*d));
	if (err)
		return -1;
	status = ck_device_open(c, conf, &ref, &d->info);
	if (status)
		return ck_good() ? 1 : -1;
	d->vt = ref.vt;
	d->k = d->vt->kernels;
	d->d = ref.dev;
	d->stream = d->vt->stream(d->d);
	d->act16 = NVLLM_HAS(&d->info, act_dtype) && d->info.act_dtype == NVLLM_BF16;
	d->varies = d->info.caps & NVLLM_DEV_VARIES;
	return 0;
}

/* How far an activation may be rounded, as a share of its row's largest: the option
 * `activations` names it; what it does not name may be as coarse as 8 bits. */
static double rounding(const char *activations)
{
	if (!activations || !strcmp(activations, "f32"))
		return 0;
	return !strcmp(activations, "q16") ? 1.0 / 32767 : 1.0 / 127;
}

/* The names of an ENUM option, "auto" first; one NULL where there is none. */
static const char *const *names_of(const struct nvllm_component *c, const char *key)
{
	static const char *const none[] = { NULL, NULL }; /* the loops look at one more */

	for (const struct nvllm_option *o = c->options; o && o->key; o++)
		if (!strcmp(o->key, key) && o->type == NVLLM_OPT_ENUM)
			return o->names;
	return none;
}

/* On memory that the host does not share, by way of its mirror: first what the engine has,
 * addresses of whole vectors, then any that an element may have. */
static void run_mirrored(struct dev *d)
{
	struct nvllm_device_ref ref = { .size = sizeof(ref), .vt = d->vt, .dev = d->d,
		.info = &d->info };
	char who[sizeof(ck_board->who)];

	ck_begin("memory for the suite");
	(void)mirror_open(&ref, (int64_t)8 << 20);
	ck_end();
	if (!mirror_on())
		return;
	d->vt = mirror_device();
	d->k = d->vt->kernels;
	snprintf(who, sizeof(who), "%s", ck_board->who);
	mat_align = 64;
	check_kernels(d);
	mat_align = 4;
	ck_who("%.80s unaligned", who);
	check_kernels(d);
	mirror_close();
	d->vt = ref.vt;
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
		run_mirrored(d);
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
	d.rounding = d.act16 ? 0 : rounding(acts || !ck_has_option(c, "activations") ? acts : "auto");
	if (status == 1 && isa && strcmp(isa, "auto")) {
		ck_skip("refused: %s", fake_said()); /* this machine has other instructions */
		return;
	}
	if (status == 1 && strcmp(c->name, "cuda") == 0) {
		ck_skip("skipped: no CUDA device: %s", fake_said());
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
