/* SPDX-License-Identifier: MIT */
/* Weights by name: checks them against the checkpoint, joins {a,b,c} along rows, takes this
 * rank's share of them (cuts.c), and uploads it in the form the device wants. Used twice
 * for each model: dry, to refuse and to count bytes before anything is read, and then for
 * real. */
#include <stdlib.h>
#include <string.h>

#include "engine_int.h"

#define MAX_PARTS 8
#define MAX_EXPERTS 4096
#define BOUNCE (4 << 20)

static struct weights *of(struct nvllm_weights *w) { return (struct weights *)(void *)w; }

static struct nvllm_tensor none(void) { return (struct nvllm_tensor){ .planes = 1 }; }

struct parts {
	char name[MAX_PARTS][256];  /* '*' stands for the expert's number */
	struct nvllm_tensor_info info[MAX_PARTS];
	bool joined[MAX_PARTS];     /* experts are planes of one tensor; else each has its own */
	int n;
};

/* The tensor that holds part i of an expert, and the plane of it. */
static const char *part_at(const struct parts *p, int i, int32_t expert, char name[256], int32_t *plane)
{
	const char *star = p->joined[i] ? NULL : strchr(p->name[i], '*');

	*plane = p->joined[i] ? expert : 0;
	if (!star)
		return p->name[i];
	snprintf(name, 256, "%.*s%d%s", (int)(star - p->name[i]), p->name[i], expert, star + 1);
	return name;
}

/* "x.{q,k}_proj.weight" to its two names. */
static int expand(const char *name, struct parts *p)
{
	const char *open = strchr(name, '{'), *close = open ? strchr(open, '}') : NULL, *at;

	p->n = 0;
	if (!open || !close) {
		snprintf(p->name[p->n++], sizeof(p->name[0]), "%s", name);
		return NVLLM_OK;
	}
	for (at = open + 1; at <= close; at++) {
		int len = (int)strcspn(at, ",}");

		if (p->n == MAX_PARTS)
			return fail(NVLLM_EINVAL, "%s: more than %d parts", name, MAX_PARTS);
		snprintf(p->name[p->n++], sizeof(p->name[0]), "%.*s%.*s%s", (int)(open - name), name, len, at, close + 1);
		at += len;
	}
	return NVLLM_OK;
}

static int find(const struct weights *w, const char *name, struct nvllm_tensor_info *f)
{
	*f = (struct nvllm_tensor_info){ .size = sizeof(*f) };
	return w->loader->vt->find(w->loader->loader, name, f);
}

static int missing(const char *name, const struct parts *p, int64_t rows, int64_t cols)
{
	bool vec = cols == 0;

	return fail(NVLLM_EINVAL, "tensor '%s' is missing from the checkpoint: the model needs it%s as [%lld][%lld]; "
		"the file is incomplete or of another architecture", name, p->n > 1 ? " and those it is joined with" : "",
		(long long)(vec ? 1 : rows), (long long)(vec ? rows : cols));
}

/* Part i of each of `planes` experts: one tensor of planes, or tensors that are all alike. */
static int look_up_experts(const struct weights *w, struct parts *p, int i, int64_t planes, int64_t rows, int64_t cols)
{
	struct nvllm_tensor_info *f = &p->info[i], other;
	char name[256];
	int32_t plane;

	p->joined[i] = find(w, p->name[i], f) == 0;
	if (p->joined[i])
		return f->planes == planes ? NVLLM_OK : fail(NVLLM_EINVAL, "tensor '%s' has %d experts, the configuration says "
			"%lld", p->name[i], f->planes, (long long)planes);
	if (find(w, part_at(p, i, 0, name, &plane), f))
		return missing(name, p, rows, cols);
	if (f->planes != 1)
		return fail(NVLLM_EINVAL, "tensor '%s' has %d planes: one expert's weight is a matrix", name, f->planes);
	for (int32_t e = 1; e < planes; e++) {
		if (find(w, part_at(p, i, e, name, &plane), &other))
			return missing(name, p, rows, cols);
		if (other.dtype != f->dtype || other.rows != f->rows || other.cols != f->cols || other.planes != 1)
			return fail(NVLLM_EINVAL, "tensor '%s' has another type or shape than that of expert 0", name);
	}
	return NVLLM_OK;
}

/* Finds every part and checks that they make up [rows][cols], of each expert where planes
 * is above 0. */
static int look_up(struct weights *w, struct parts *p, int64_t planes, int64_t rows, int64_t cols)
{
	int64_t sum = 0, vec = cols == 0;

	for (int i = 0; i < p->n; i++) {
		struct nvllm_tensor_info *f = &p->info[i];
		int rc = NVLLM_OK;

		if (planes)
			rc = look_up_experts(w, p, i, planes, rows, cols);
		else if (find(w, p->name[i], f))
			rc = missing(p->name[i], p, rows, cols);
		if (rc)
			return rc;
		if ((!planes && f->planes != 1) || (vec ? f->rows != 1 : f->cols != cols))
			return fail(NVLLM_EINVAL, "tensor '%s' is [%lld][%lld], the configuration says %lld columns",
				p->name[i], (long long)f->rows, (long long)f->cols, (long long)(vec ? rows : cols));
		sum += vec ? f->cols : f->rows;
	}
	if (sum != rows)
		return fail(NVLLM_EINVAL, "tensor '%s'%s has %lld %s, the configuration says %lld", p->name[0],
			p->n > 1 ? " and those it is joined with" : "", (long long)sum, vec ? "elements" : "rows",
			(long long)rows);
	return NVLLM_OK;
}

/* The type the joined tensor is kept in: the parts' own, f32 for vectors and mixtures. */
static int32_t kept_as(const struct parts *p, bool vec)
{
	for (int i = 1; i < p->n; i++)
		if (p->info[i].dtype != p->info[0].dtype)
			return NVLLM_F32;
	return vec ? NVLLM_F32 : p->info[0].dtype;
}

/* Room on the device for t; sets t->data unless dry. */
static int place(struct weights *w, struct nvllm_tensor *t, const char *name)
{
	int64_t bytes = w->dvt->store(w->dev, t);

	if (bytes < 0)
		return fail_prefix((int)bytes, "tensor '%s': ", name);
	t->data = w->dry ? NULL : w->base + w->bytes;
	w->bytes += align256(bytes);
	w->n_tensors++;
	return NVLLM_OK;
}

static int bounce(struct weights *w, int64_t bytes)
{
	if (bytes <= w->bounce_bytes)
		return NVLLM_OK;
	free(w->bounce);
	w->bounce_bytes = bytes > BOUNCE ? bytes : BOUNCE;
	w->bounce = malloc((size_t)w->bounce_bytes);
	if (w->bounce)
		return NVLLM_OK;
	w->bounce_bytes = 0;
	return fail(NVLLM_ENOMEM, "no memory for a read buffer of %lld bytes", (long long)bytes);
}

/* ---- reading ---- */

/* A tensor of the file and where rows of it go. */
struct reading {
	const struct weights *w;
	const char *name;
	int32_t plane;
	int64_t from, row_bytes;
	char *to;
	int status;                 /* one of the workers', for all of them */
};

static void read_range(void *arg, int64_t begin, int64_t end, int32_t worker)
{
	struct reading *r = arg;
	int rc = r->w->loader->vt->read(r->w->loader->loader, r->name, r->plane, r->from + begin, end - begin,
		r->to + begin * r->row_bytes);

	(void)worker;
	if (rc)
		__atomic_store_n(&r->status, rc, __ATOMIC_RELAXED);
}

/* Rows that are kept as the file has them go straight to their place, by all threads. */
static int read_in_place(struct weights *w, const struct nvllm_tensor *t, int32_t plane, int64_t row, struct reading *r,
	int64_t n)
{
	int64_t grain = BOUNCE / r->row_bytes;

	r->to = (char *)t->data + plane * t->plane_stride + row * t->stride;
	if (!(w->info->caps & NVLLM_DEV_PARALLEL))
		read_range(r, 0, n, 0);
	else
		w->dvt->parallel_for(w->dev, n, grain > 0 ? grain : 1, read_range, r);
	if (!r->status)
		return NVLLM_OK;
	r->status = 0;
	read_range(r, 0, n, 0); /* again here: a sentence belongs to its thread */
	return r->status;
}

/* Rows that go to a device of its own memory, pieces of them read by several threads. */
struct ahead {
	const struct reading *r;
	const struct nvllm_tensor *t;
	const struct nvllm_tensor_info *f;
	int32_t plane;
	int64_t row, n, step, skip;
};

static int64_t ahead_rows(const struct ahead *a, int64_t i)
{
	return a->n - i * a->step < a->step ? a->n - i * a->step : a->step;
}

static int ahead_read(void *arg, int64_t i, void *buf)
{
	const struct ahead *a = arg;
	const struct nvllm_loader_ref *l = a->r->w->loader;

	return l->vt->read(l->loader, a->r->name, a->r->plane, a->r->from + i * a->step, ahead_rows(a, i), buf);
}

static int ahead_use(void *arg, int64_t i, void *buf)
{
	const struct ahead *a = arg;
	const struct weights *w = a->r->w;

	return w->dvt->upload(w->dev, a->t, a->plane, a->row + i * a->step, ahead_rows(a, i), (char *)buf + a->skip,
		a->f->dtype, a->f->row_bytes);
}

static int upload_ahead(struct weights *w, const struct nvllm_tensor *t, int32_t plane, int64_t row,
	const struct reading *r, const struct nvllm_tensor_info *f, int64_t n, int64_t skip)
{
	struct ahead a = { r, t, f, plane, row, n, readahead_piece(w->ahead) / f->row_bytes, skip };

	return readahead_run(w->ahead, (n + a.step - 1) / a.step, ahead_read, ahead_use, &a);
}

/* Reads rows [from, from + n) of a tensor, a few at a time, and hands columns `col` of them
 * to the device as rows row.. of t's plane. */
static int upload(struct weights *w, const struct nvllm_tensor *t, int32_t plane, int64_t row, struct reading *r,
	const struct nvllm_tensor_info *f, int64_t n, struct slice col)
{
	int64_t step, from = r->from, skip = nvllm_row_bytes(f->dtype, col.first);
	int rc;

	r->w = w;
	r->row_bytes = f->row_bytes;
	if ((w->info->caps & NVLLM_DEV_HOST_MEM) && !t->layout && t->dtype == f->dtype && col.n == f->cols &&
	    t->stride == f->row_bytes)
		return read_in_place(w, t, plane, row, r, n);
	if (!(w->info->caps & NVLLM_DEV_HOST_MEM) && n * f->row_bytes > 2 * BOUNCE && f->row_bytes <= BOUNCE) {
		w->ahead = w->ahead ? w->ahead : readahead_create(BOUNCE);
		if (w->ahead)
			return upload_ahead(w, t, plane, row, r, f, n, skip);
	}
	rc = bounce(w, f->row_bytes);
	if (rc)
		return rc;
	step = w->bounce_bytes / f->row_bytes;
	for (int64_t at = 0; at < n && !rc; at += step) {
		int64_t k = n - at < step ? n - at : step;

		rc = w->loader->vt->read(w->loader->loader, r->name, r->plane, from + at, k, w->bounce);
		if (!rc)
			rc = w->dvt->upload(w->dev, t, plane, row + at, k, (char *)w->bounce + skip, f->dtype, f->row_bytes);
	}
	return rc;
}

/* Elements [from, from + n) of one vector as elements at.. of t. */
static int upload_run(struct weights *w, const struct nvllm_tensor *t, int64_t at, const char *name,
	const struct nvllm_tensor_info *f, int64_t from, int64_t n)
{
	struct reading r = { .name = name };
	struct nvllm_tensor run = *t;

	if (n != t->cols && (t->dtype != NVLLM_F32 || t->layout))
		return fail(NVLLM_ENOTSUP, "tensor '%s': the device keeps vectors in a form of its own, "
			"and this one is joined or cut", name);
	if (nvllm_row_bytes(f->dtype, from) < 0 || nvllm_row_bytes(f->dtype, n) < 0)
		return fail(NVLLM_EINVAL, "tensor '%s' is a vector in blocks of %lld (type number %d), which elements "
			"%lld to %lld cut through: lower [engine] tp", name,
			(long long)nvllm_dtype_block(f->dtype, NULL), f->dtype, (long long)from, (long long)(from + n));
	run.data = (char *)t->data + at * (int64_t)sizeof(float);
	run.cols = n;
	return upload(w, &run, 0, 0, &r, f, 1, (struct slice){ from, n });
}

/* The ranges of the joined tensor that are this rank's, each from the parts it lies in; of
 * one expert. */
static int upload_cut(struct weights *w, const struct nvllm_tensor *t, int32_t expert, const struct parts *p,
	const struct cut_part *cut, bool vec)
{
	char buf[256];
	int64_t to = 0;
	int rc = NVLLM_OK;

	for (int r = 0; r < cut->n_rows; r++) {
		int64_t begin = 0, lo = cut->row[r].first, end = lo + cut->row[r].n;

		for (int i = 0; i < p->n && lo < end && !rc; i++) {
			const struct nvllm_tensor_info *f = &p->info[i];
			int64_t next = begin + (vec ? f->cols : f->rows), n = (next < end ? next : end) - lo;

			if (lo < next) {
				struct reading rd = { .from = lo - begin };

				rd.name = part_at(p, i, expert, buf, &rd.plane);
				rc = vec ? upload_run(w, t, to, rd.name, f, lo - begin, n)
					: upload(w, t, expert, to, &rd, f, n, cut->col);
				to += n;
				lo += n;
			}
			begin = next;
		}
	}
	return rc;
}

/* ---- weights without data ---- */

static bool is_dummy(const struct weights *w) { return w->loader->vt->flags & NVLLM_LOADER_DUMMY; }

/* The device makes them up; a tensor's name is its seed. */
static int make_up(struct weights *w, const struct nvllm_tensor *t, int32_t plane, const char *name, bool vec)
{
	const char *text = w->loader->vt->meta(w->loader->loader, "dummy.std");
	double std = text ? strtod(text, NULL) : 0.02;
	uint64_t seed = 0;

	if (!NVLLM_HAS(w->dvt, random) || !w->dvt->random)
		return fail(NVLLM_ENOTSUP, "this device makes no random weights, which the loader 'dummy' needs: choose another "
			"[device] plugin");
	for (const char *c = name; *c; c++)
		seed = (seed ^ (uint8_t)*c) * 0x9E3779B97F4A7C15u;
	return w->dvt->random(w->dev, t, plane, 0, t->rows, seed, vec ? 1 : 0, vec ? 0 : std);
}

/* Columns are cut between blocks only. What the MLP needs is told to the caller, who cuts
 * anew in larger units; heads have their size. *fits = false: this tensor cannot be
 * placed, and need not be. */
static int check_blocks(struct weights *w, int cut, const struct parts *p, const struct cut_part *part, bool *fits)
{
	*fits = true;
	for (int i = 0; i < p->n; i++) {
		int32_t dtype = p->info[i].dtype;
		int64_t block = nvllm_dtype_block(dtype, NULL);

		if (nvllm_row_bytes(dtype, part->col.first) >= 0 && nvllm_row_bytes(dtype, part->col.n) >= 0)
			continue;
		if (cut != NVLLM_CUT_COLS || !w->dry)
			return fail(NVLLM_EINVAL, "tensor '%s' (type number %d) is stored in blocks of %lld columns, and rank %d of "
				"%d would hold columns %lld to %lld: lower [engine] tp, or take a checkpoint of a type with "
				"smaller blocks", p->name[i], dtype, (long long)block, w->cuts->rank, w->cuts->world,
				(long long)part->col.first, (long long)(part->col.first + part->col.n));
		*fits = false;
		w->unit_wanted = block > w->unit_wanted ? block : w->unit_wanted;
	}
	return NVLLM_OK;
}

/* planes 0: no experts. */
static int fetch(struct weights *w, int cut, int64_t planes, int64_t rows, int64_t cols, const char *name,
	struct nvllm_tensor *t)
{
	bool vec = cols == 0, fits;
	struct cut_part part;
	struct parts p = { .n = 0 };
	int64_t n = 0;
	int rc = expand(name, &p);

	if (!rc)
		rc = look_up(w, &p, planes, rows, cols);
	if (rc)
		return rc;
	rc = planes ? cuts_expert(w->cuts, cut, rows, cols, &part) :
		cuts_part(w->cuts, cut, w->pub.layer, rows, cols, &part);
	if (rc)
		return fail_prefix(rc, "tensor '%s': ", p.name[0]);
	rc = check_blocks(w, cut, &p, &part, &fits);
	if (rc)
		return rc;
	for (int i = 0; i < part.n_rows; i++)
		n += part.row[i].n;
	t->cut = cut;
	t->planes = planes ? (int32_t)planes : 1;
	t->rows = vec ? 1 : n;
	t->cols = vec ? n : part.col.n;
	t->dtype = kept_as(&p, vec);
	t->stride = fits ? nvllm_row_bytes(t->dtype, t->cols) : 0;
	t->plane_stride = planes ? t->rows * t->stride : 0;
	if (!fits || !t->rows || !t->cols)
		return NVLLM_OK;
	rc = place(w, t, p.name[0]);
	for (int32_t e = 0; e < t->planes && !rc && !w->dry; e++)
		rc = is_dummy(w) ? make_up(w, t, e, p.name[0], vec) : upload_cut(w, t, e, &p, &part, vec);
	return rc;
}

static struct nvllm_tensor vget(struct nvllm_weights *pub, int cut, int64_t planes, int64_t rows, int64_t cols,
	const char *fmt, va_list ap)
{
	struct nvllm_tensor t = none();
	char name[256];

	if (pub->status)
		return t;
	vsnprintf(name, sizeof(name), fmt, ap);
	pub->status = fetch(of(pub), cut, planes, rows, cols, name, &t);
	return pub->status ? none() : t;
}

static struct nvllm_tensor get(struct nvllm_weights *pub, int cut, int64_t rows, int64_t cols, const char *fmt, ...)
{
	struct nvllm_tensor t;
	va_list ap;

	va_start(ap, fmt);
	t = vget(pub, cut, 0, rows, cols, fmt, ap);
	va_end(ap);
	return t;
}

static struct nvllm_tensor experts(struct nvllm_weights *pub, int cut, int64_t n, int64_t rows, int64_t cols,
	const char *fmt, ...)
{
	struct nvllm_tensor t;
	va_list ap;

	if (!pub->status && (n < 1 || n > MAX_EXPERTS || cols < 1))
		pub->status = fail(NVLLM_EINVAL, "a layer of %lld experts of %lld columns: there may be 1 to %d experts, and 1 "
			"column is the least", (long long)n, (long long)cols, MAX_EXPERTS);
	va_start(ap, fmt);
	t = vget(pub, cut, n, rows, cols, fmt, ap);
	va_end(ap);
	return t;
}

static int has(struct nvllm_weights *pub, const char *name)
{
	struct nvllm_tensor_info f;

	return find(of(pub), name, &f) == 0;
}

/* The vector that divides the frequencies, as floats. */
static int read_factors(struct weights *w, const char *name, int64_t n, float *out)
{
	struct nvllm_tensor_info f;

	if (find(w, name, &f))
		return fail(NVLLM_EINVAL, "tensor '%s' is missing from the checkpoint", name);
	if (f.dtype != NVLLM_F32 || f.rows != 1 || f.cols != n)
		return fail(NVLLM_EINVAL, "tensor '%s' must be %lld numbers of type f32", name, (long long)n);
	return w->loader->vt->read(w->loader->loader, name, 0, 0, 1, out);
}

static int make_rope(struct weights *w, const struct nvllm_rope *r, struct nvllm_rotary *out)
{
	int64_t n = r->dims / 2;
	struct nvllm_tensor *t = &out->inv_freq;
	float *buf;
	int rc = NVLLM_OK;

	if (r->dims < 2 || r->dims > 4096)
		return fail(NVLLM_EINVAL, "rotary embedding of %d elements a head: expected 2 to 4096", r->dims);
	buf = calloc((size_t)n * 2, sizeof(*buf));
	if (!buf)
		return fail(NVLLM_ENOMEM, "no memory for the rotary table");
	if (r->factors)
		rc = read_factors(w, r->factors, n, buf + n);
	if (!rc)
		rc = rope_table(r, w->max_len, r->factors ? buf + n : NULL, buf, &out->mscale);
	*t = (struct nvllm_tensor){ .rows = 1, .cols = n, .stride = n * 4, .planes = 1, .dtype = NVLLM_F32 };
	if (!rc)
		rc = place(w, t, "rotary table");
	if (!rc && !w->dry)
		rc = w->dvt->upload(w->dev, t, 0, 0, 1, buf, NVLLM_F32, n * 4);
	free(buf);
	return rc;
}

static struct nvllm_rotary rope(struct nvllm_weights *pub, const struct nvllm_rope *r)
{
	struct nvllm_rotary out = { .size = sizeof(out), .dims = r->dims, .interleaved = r->interleaved, .mscale = 1 };
	struct nvllm_rope own = { .size = 0 };

	memcpy(&own, r, r->size < sizeof(own) ? r->size : sizeof(own)); /* its writer may know fewer members */
	if (!pub->status)
		pub->status = make_rope(of(pub), &own, &out);
	return out;
}

void weights_init(struct weights *w, const struct nvllm_loader_ref *loader, const struct nvllm_device_ref *dev,
	const struct cuts *cuts, int64_t max_len, void *base)
{
	*w = (struct weights){
		.pub = { .size = sizeof(w->pub), .get = get, .has = has, .rope = rope, .experts = experts },
		.loader = loader, .dvt = dev->vt, .dev = dev->dev, .info = dev->info, .cuts = cuts, .max_len = max_len,
		.dry = !base, .base = base,
	};
}

void weights_finish(struct weights *w)
{
	free(w->bounce);
	w->bounce = NULL;
	w->bounce_bytes = 0;
	readahead_destroy(w->ahead);
	w->ahead = NULL;
}
