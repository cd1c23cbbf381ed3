/* SPDX-License-Identifier: MIT */
/* moe.c - a mixture of experts: which experts a row goes to, and how the rows are grouped so
 * that an expert's weights are read once for all of its rows. The products are linear()'s.
 *
 * For T rows and n choices each, R = T * n; a choice is t * n + k, its place is where it
 * lies among R once sorted by expert. The caller's scratch is, in this order:
 *   p       [T][experts]   probabilities; when all have chosen, the ends of the groups
 *   x       [R][dim]       rows by place, and then what the experts make of them
 *   hidden  [R][2 * ffn]   gate and up; act(gate) * up goes to its first half
 *   weight  [R]            of each choice
 *   expert, place  [R]     of each choice
 *   source  [R]            the row of x that a place holds
 * What a row gets depends on it alone: its choices are made row by row, linear() and glu()
 * keep to their rows, and the last sum is in the order of the choices. */
#include <math.h>
#include <string.h>

#include "cpu.h"

struct moe_job {
	struct nvllm_device *dev;
	const struct nvllm_moe *m;
	struct nvllm_tensor y, x;        /* the caller's */
	struct nvllm_tensor p, rows, hidden;
	float *weight;
	int32_t *expert, *place, *source;
	int64_t n_choices, ffn;          /* T * n_top; columns of an expert's middle */
};

static float *row_of(const struct nvllm_tensor *t, int64_t row)
{
	return (float *)((char *)t->data + row * t->stride);
}

static struct nvllm_tensor matrix(float *data, int64_t rows, int64_t cols)
{
	return (struct nvllm_tensor){ .data = data, .rows = rows, .cols = cols,
		.stride = cols * (int64_t)sizeof(float), .planes = 1, .dtype = NVLLM_F32 };
}

/* Rows [row, row + n), of cols columns. */
static struct nvllm_tensor part(struct nvllm_tensor t, int64_t row, int64_t n, int64_t cols)
{
	t.data = row_of(&t, row);
	t.rows = n;
	t.cols = cols;
	return t;
}

/* ---- choosing ---- */

/* Softmax in f32, as torch's: NaN everywhere if one logit is NaN or all are -inf. */
static void softmax(float *p, int64_t n)
{
	float most = p[0], sum = 0;

	for (int64_t i = 1; i < n; i++)
		most = p[i] > most ? p[i] : most;
	for (int64_t i = 0; i < n; i++) {
		p[i] = expf(p[i] - most);
		sum += p[i];
	}
	for (int64_t i = 0; i < n; i++)
		p[i] /= sum;
}

/* The likeliest that is left, the lower of equals; among NaNs the first. -1 marks those
 * that are gone. */
static int32_t take_best(float *p, int64_t n, float *weight)
{
	int32_t best = -1;

	for (int32_t i = 0; i < n; i++)
		if (!(p[i] < 0) && (best < 0 || p[i] > p[best]))
			best = i;
	*weight = p[best];
	p[best] = -1;
	return best;
}

static void choose_rows(void *arg, int64_t begin, int64_t end, int32_t worker)
{
	const struct moe_job *j = arg;
	const int64_t n = j->m->n_top;

	for (int64_t t = begin; t < end; t++) {
		float *p = row_of(&j->p, t), *weight = j->weight + t * n, sum = 0;

		softmax(p, j->p.cols);
		for (int64_t k = 0; k < n; k++) {
			j->expert[t * n + k] = take_best(p, j->p.cols, &weight[k]);
			sum += weight[k];
		}
		for (int64_t k = 0; k < n && j->m->norm_topk; k++)
			weight[k] /= sum;
	}
}

/* A counting sort of the choices by expert. Returns ends[experts]: expert e has the places
 * [ends[e - 1], ends[e]). */
static const int32_t *group(const struct moe_job *j)
{
	int32_t *ends = j->p.data, before = 0;

	memset(ends, 0, (size_t)j->p.cols * sizeof(*ends));
	for (int64_t i = 0; i < j->n_choices; i++)
		ends[j->expert[i]]++;
	for (int64_t e = 0; e < j->p.cols; e++) {
		const int32_t n = ends[e];

		ends[e] = before;
		before += n;
	}
	for (int64_t i = 0; i < j->n_choices; i++) {
		j->place[i] = ends[j->expert[i]]++;
		j->source[j->place[i]] = (int32_t)(i / j->m->n_top);
	}
	return ends;
}

/* ---- the experts ---- */

static void gather_rows(void *arg, int64_t begin, int64_t end, int32_t worker)
{
	const struct moe_job *j = arg;

	for (int64_t i = begin; i < end; i++)
		memcpy(row_of(&j->rows, i), row_of(&j->x, j->source[i]),
			(size_t)j->x.cols * sizeof(float));
}

/* In place: each element is read before it is written. */
static void glu_rows(void *arg, int64_t begin, int64_t end, int32_t worker)
{
	const struct moe_job *j = arg;

	for (int64_t i = begin; i < end; i++) {
		float *gate = row_of(&j->hidden, i);

		j->dev->isa.glu(gate, gate, gate + j->ffn, j->ffn, j->m->act);
	}
}

/* Sum over the choices of weight * row, the likeliest first. */
static void sum_rows(void *arg, int64_t begin, int64_t end, int32_t worker)
{
	const struct moe_job *j = arg;
	const int64_t n = j->m->n_top;

	for (int64_t t = begin; t < end; t++) {
		float *y = row_of(&j->y, t);

		for (int64_t k = 0; k < n; k++) {
			const float *row = row_of(&j->rows, j->place[t * n + k]);
			const float weight = j->weight[t * n + k];

			for (int64_t i = 0; i < j->y.cols; i++)
				y[i] = k ? y[i] + weight * row[i] : weight * row[i];
		}
	}
}

static struct nvllm_tensor plane_of(struct nvllm_tensor w, int64_t plane)
{
	w.data = (char *)w.data + plane * w.plane_stride;
	w.planes = 1;
	w.plane_stride = 0;
	return w;
}

/* One of the two products, for each expert that was chosen. */
static int multiply(const struct moe_job *j, const int32_t *ends, struct nvllm_tensor y,
	struct nvllm_tensor x, const struct nvllm_tensor *w)
{
	int32_t from = 0;
	int err = NVLLM_OK;

	for (int64_t e = 0; e < j->p.cols && !err; from = ends[e++])
		if (ends[e] > from)
			err = linear(j->dev, NULL, part(y, from, ends[e] - from, w->rows),
				part(x, from, ends[e] - from, w->cols), plane_of(*w, e), NULL, 0);
	return err;
}

static int run(struct moe_job *j)
{
	struct nvllm_device *dev = j->dev;
	const int64_t T = j->x.rows, dim = j->x.cols;
	const int32_t *ends;
	int err = linear(dev, NULL, j->p, j->x, j->m->router, NULL, 0);

	if (err)
		return err;
	run_rows(dev, T, (16 + j->m->n_top) * j->p.cols, choose_rows, j);
	ends = group(j);
	run_rows(dev, j->n_choices, dim, gather_rows, j);
	if ((err = multiply(j, ends, j->hidden, j->rows, &j->m->gate_up)))
		return err;
	run_rows(dev, j->n_choices, 8 * j->ffn, glu_rows, j);
	if ((err = multiply(j, ends, j->rows, j->hidden, &j->m->down)))
		return err;
	run_rows(dev, T, dim * j->m->n_top, sum_rows, j);
	return NVLLM_OK;
}

/* ---- what is given ---- */

static bool planes_lie(const struct nvllm_tensor *w, int64_t n)
{
	const int64_t planes = w->planes > 0 ? w->planes : 1;
	int64_t bytes;

	return planes == n && (n == 1 || w->rows == 0 || w->cols == 0 ||
		(!__builtin_mul_overflow(w->rows, w->stride, &bytes) && w->plane_stride >= bytes));
}

static int check_shapes(struct nvllm_device *dev, const struct nvllm_tensor *y,
	const struct nvllm_tensor *x, const struct nvllm_moe *m)
{
	const struct nvllm_host *host = dev->host;
	const struct nvllm_tensor *r = &m->router, *g = &m->gate_up, *d = &m->down;

	if (m->n_top < 1 || m->n_top > r->rows || r->rows > INT32_MAX)
		return host->fail(host, NVLLM_EINVAL, "moe: %d of %lld experts cannot be chosen",
			m->n_top, (long long)r->rows);
	if (m->act < NVLLM_SILU || m->act > NVLLM_RELU)
		return host->fail(host, NVLLM_ENOTSUP, "moe: no activation %d", m->act);
	if (y->rows != x->rows || y->cols != x->cols || r->cols != x->cols || g->cols != x->cols ||
			d->rows != x->cols || d->cols < 0 || g->rows / 2 != d->cols ||
			g->rows % 2 || !planes_lie(g, r->rows) || !planes_lie(d, r->rows))
		return host->fail(host, NVLLM_EINVAL, "moe: shapes do not fit: x [%lld][%lld], "
			"router [%lld][%lld], gate and up %d of [%lld][%lld], down %d of "
			"[%lld][%lld]", (long long)x->rows, (long long)x->cols, (long long)r->rows,
			(long long)r->cols, g->planes, (long long)g->rows, (long long)g->cols,
			d->planes, (long long)d->rows, (long long)d->cols);
	return NVLLM_OK;
}

/* The parts of the scratch, in the order of this file's first comment. */
static int lay_out(struct moe_job *j, const struct nvllm_tensor *scratch)
{
	const struct nvllm_host *host = j->dev->host;
	const int64_t T = j->x.rows, dim = j->x.cols, experts = j->m->router.rows;
	float *s = scratch->data;
	int64_t each, all;

	if (__builtin_mul_overflow(T, (int64_t)j->m->n_top, &j->n_choices) ||
			j->n_choices > INT32_MAX ||
			__builtin_add_overflow(dim + 4, 2 * j->ffn, &each) ||
			__builtin_mul_overflow(each, j->n_choices, &each) ||
			__builtin_mul_overflow(T, experts, &all) ||
			__builtin_add_overflow(all, each, &all) || !s || scratch->rows < 1 ||
			scratch->cols < all)
		return host->fail(host, NVLLM_EINVAL, "moe: scratch of [%lld][%lld] at %p is too "
			"small for %lld rows: see nvllm_moe_scratch()", (long long)scratch->rows,
			(long long)scratch->cols, scratch->data, (long long)T);
	j->p = matrix(s, T, experts);
	j->rows = matrix(s += T * experts, j->n_choices, dim);
	j->hidden = matrix(s += j->n_choices * dim, j->n_choices, 2 * j->ffn);
	j->weight = s += j->n_choices * 2 * j->ffn;
	j->expert = (int32_t *)(s += j->n_choices);
	j->place = j->expert + j->n_choices;
	j->source = j->place + j->n_choices;
	return NVLLM_OK;
}

int moe(struct nvllm_device *dev, nvllm_stream stream, struct nvllm_tensor y,
	struct nvllm_tensor x, const struct nvllm_moe *m, struct nvllm_tensor scratch)
{
	struct moe_job j = { .dev = dev, .m = m, .y = y, .x = x };
	int err;

	if ((err = check_f32(dev, &y, "moe: y")) || (err = check_f32(dev, &x, "moe: x")) ||
			(err = check_shapes(dev, &y, &x, m)))
		return err;
	if (y.rows == 0 || y.cols == 0)
		return NVLLM_OK;
	j.ffn = m->down.cols;
	if (j.ffn == 0) { /* another rank's */
		for (int64_t i = 0; i < y.rows; i++)
			memset(row_of(&y, i), 0, (size_t)y.cols * sizeof(float));
		return NVLLM_OK;
	}
	if (!m->gate_up.data || !m->down.data)
		return dev->host->fail(dev->host, NVLLM_EINVAL, "moe: no weights: gate and up "
			"lies at %p, down at %p", m->gate_up.data, m->down.data);
	if ((err = check_f32(dev, &scratch, "moe: scratch")) || (err = lay_out(&j, &scratch)))
		return err;
	return run(&j);
}
