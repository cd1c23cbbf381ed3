/* SPDX-License-Identifier: MIT */
/* Weights by name: checks them against the checkpoint, joins {a,b,c} along rows, and
 * uploads them in the form the device wants. Used twice for each model: dry, to refuse
 * and to count bytes before anything is read, and then for real. */
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

/* Reads one part and hands it to the device, a few rows at a time, as rows row.. of t. */
static int upload(struct weights *w, const struct nvllm_tensor *t, int64_t row, const char *name,
	const struct nvllm_tensor_info *f)
{
	int64_t step;
	int rc = bounce(w, f->row_bytes);

	if (rc)
		return rc;
	step = w->bounce_bytes / f->row_bytes;
	for (int64_t at = 0; at < f->rows && !rc; at += step) {
		int64_t n = f->rows - at < step ? f->rows - at : step;

		rc = w->loader->vt->read(w->loader->loader, name, 0, at, n, w->bounce);
		if (!rc)
			rc = w->dvt->upload(w->dev, t, 0, row + at, n, w->bounce, f->dtype, f->row_bytes);
	}
	return rc;
}

static int fetch(struct weights *w, int cut, int64_t rows, int64_t cols, const char *name, struct nvllm_tensor *t)
{
	struct parts p;
	int64_t row = 0;
	int rc = expand(name, &p);

	if (!rc)
		rc = look_up(w, &p, rows, cols);
	if (rc)
		return rc;
	t->cut = cut;
	t->rows = cols ? rows : 1;
	t->cols = cols ? cols : rows;
	t->dtype = kept_as(&p, cols == 0);
	t->stride = nvllm_row_bytes(t->dtype, t->cols);
	if (cols == 0 && p.n > 1)
		return fail(NVLLM_ENOTSUP, "%s: vectors are not joined", name);
	rc = place(w, t, p.name[0]);
	for (int i = 0; i < p.n && !rc && !w->dry; i++) {
		rc = upload(w, t, row, p.name[i], &p.info[i]);
		row += p.info[i].rows;
	}
	return rc;
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
	struct nvllm_device *dev, void *base)
{
	*w = (struct weights){
		.pub = { .size = sizeof(w->pub), .get = get, .has = has, .rope = rope },
		.loader = loader, .dvt = dvt, .dev = dev, .dry = !base, .base = base,
	};
}

void weights_finish(struct weights *w)
{
	free(w->bounce);
	w->bounce = NULL;
	w->bounce_bytes = 0;
}
