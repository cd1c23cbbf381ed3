/* SPDX-License-Identifier: MIT */
/* Weights by name: checks them against the checkpoint, joins {a,b,c} along rows, takes this
 * rank's share of them (cuts.c), and uploads it in the form the device wants. Used twice
 * for each model: dry, to refuse and to count bytes before anything is read, and then for
 * real. */
#include <stdlib.h>
#include <string.h>

#include "engine_int.h"

#define MAX_PARTS 8
#define BOUNCE (4 << 20)

static struct weights *of(struct nvllm_weights *w) { return (struct weights *)(void *)w; }

static struct nvllm_tensor none(void) { return (struct nvllm_tensor){ .planes = 1 }; }

struct parts { char name[MAX_PARTS][256]; struct nvllm_tensor_info info[MAX_PARTS]; int n; };

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

/* Finds every part and checks that they make up [rows][cols]. */
static int look_up(struct weights *w, struct parts *p, int64_t rows, int64_t cols)
{
	int64_t sum = 0, vec = cols == 0;

	for (int i = 0; i < p->n; i++) {
		struct nvllm_tensor_info *f = &p->info[i];

		*f = (struct nvllm_tensor_info){ .size = sizeof(*f) };
		if (w->loader->vt->find(w->loader->loader, p->name[i], f))
			return fail(NVLLM_EINVAL, "tensor '%s' is missing from the checkpoint: the model needs it as [%lld][%lld]; "
				"the file is incomplete or of another architecture", p->name[i], (long long)(vec ? 1 : rows),
				(long long)(vec ? rows : cols));
		if (f->planes != 1 || (vec ? f->rows != 1 : f->cols != cols))
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

/* Reads rows [from, from + n) of a part, a few at a time, and hands columns `col` of them
 * to the device as rows row.. of t. */
static int upload(struct weights *w, const struct nvllm_tensor *t, int64_t row, const char *name,
	const struct nvllm_tensor_info *f, int64_t from, int64_t n, struct slice col)
{
	int64_t step, skip = nvllm_row_bytes(f->dtype, col.first);
	int rc = bounce(w, f->row_bytes);

	if (rc)
		return rc;
	step = w->bounce_bytes / f->row_bytes;
	for (int64_t at = 0; at < n && !rc; at += step) {
		int64_t k = n - at < step ? n - at : step;

		rc = w->loader->vt->read(w->loader->loader, name, 0, from + at, k, w->bounce);
		if (!rc)
			rc = w->dvt->upload(w->dev, t, 0, row + at, k, (char *)w->bounce + skip, f->dtype, f->row_bytes);
	}
	return rc;
}

/* Elements [from, from + n) of one vector as elements at.. of t. */
static int upload_run(struct weights *w, const struct nvllm_tensor *t, int64_t at, const char *name,
	const struct nvllm_tensor_info *f, int64_t from, int64_t n)
{
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
	return upload(w, &run, 0, name, f, 0, 1, (struct slice){ from, n });
}

/* The ranges of the joined tensor that are this rank's, each from the parts it lies in. */
static int upload_cut(struct weights *w, const struct nvllm_tensor *t, const struct parts *p,
	const struct cut_part *cut, bool vec)
{
	int64_t to = 0;
	int rc = NVLLM_OK;

	for (int r = 0; r < cut->n_rows; r++) {
		int64_t begin = 0, lo = cut->row[r].first, end = lo + cut->row[r].n;

		for (int i = 0; i < p->n && lo < end && !rc; i++) {
			const struct nvllm_tensor_info *f = &p->info[i];
			int64_t next = begin + (vec ? f->cols : f->rows), n = (next < end ? next : end) - lo;

			if (lo < next) {
				rc = vec ? upload_run(w, t, to, p->name[i], f, lo - begin, n)
					: upload(w, t, to, p->name[i], f, lo - begin, n, cut->col);
				to += n;
				lo += n;
			}
			begin = next;
		}
	}
	return rc;
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

static int fetch(struct weights *w, int cut, int64_t rows, int64_t cols, const char *name, struct nvllm_tensor *t)
{
	bool vec = cols == 0, fits;
	struct cut_part part;
	struct parts p;
	int64_t n = 0;
	int rc = expand(name, &p);

	if (!rc)
		rc = look_up(w, &p, rows, cols);
	if (rc)
		return rc;
	rc = cuts_part(w->cuts, cut, w->pub.layer, rows, cols, &part);
	if (rc)
		return fail_prefix(rc, "tensor '%s': ", p.name[0]);
	rc = check_blocks(w, cut, &p, &part, &fits);
	if (rc)
		return rc;
	for (int i = 0; i < part.n_rows; i++)
		n += part.row[i].n;
	t->cut = cut;
	t->rows = vec ? 1 : n;
	t->cols = vec ? n : part.col.n;
	t->dtype = kept_as(&p, vec);
	t->stride = fits ? nvllm_row_bytes(t->dtype, t->cols) : 0;
	if (!fits || !t->rows || !t->cols)
		return NVLLM_OK;
	rc = place(w, t, p.name[0]);
	return rc || w->dry ? rc : upload_cut(w, t, &p, &part, vec);
}

static struct nvllm_tensor get(struct nvllm_weights *pub, int cut, int64_t rows, int64_t cols, const char *fmt, ...)
{
	struct weights *w = of(pub);
	struct nvllm_tensor t = none();
	char name[256];
	va_list ap;

	if (pub->status)
		return t;
	va_start(ap, fmt);
	vsnprintf(name, sizeof(name), fmt, ap);
	va_end(ap);
	pub->status = fetch(w, cut, rows, cols, name, &t);
	return pub->status ? none() : t;
}

static int has(struct nvllm_weights *pub, const char *name)
{
	struct weights *w = of(pub);
	struct nvllm_tensor_info f = { .size = sizeof(f) };

	return w->loader->vt->find(w->loader->loader, name, &f) == 0;
}

/* The vector that divides the frequencies, as floats. */
static int read_factors(struct weights *w, const char *name, int64_t n, float *out)
{
	struct nvllm_tensor_info f = { .size = sizeof(f) };

	if (w->loader->vt->find(w->loader->loader, name, &f))
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
		rc = rope_table(r, r->factors ? buf + n : NULL, buf, &out->mscale);
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

	if (!pub->status)
		pub->status = make_rope(of(pub), r, &out);
	return out;
}

void weights_init(struct weights *w, const struct nvllm_loader_ref *loader, const struct nvllm_device_vt *dvt,
	struct nvllm_device *dev, const struct cuts *cuts, void *base)
{
	*w = (struct weights){
		.pub = { .size = sizeof(w->pub), .get = get, .has = has, .rope = rope },
		.loader = loader, .dvt = dvt, .dev = dev, .cuts = cuts, .dry = !base, .base = base,
	};
}

void weights_finish(struct weights *w)
{
	free(w->bounce);
	w->bounce = NULL;
	w->bounce_bytes = 0;
}
