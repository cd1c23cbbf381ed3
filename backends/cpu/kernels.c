/* SPDX-License-Identifier: MIT */
/* kernels.c - the kernels that are no products: checks what they are given, then hands
 * rows to the threads. */
#include <math.h>
#include <string.h>

#include "cpu.h"

/* Below this a job is done before a thread has heard of it. */
#define SERIAL_COST 32768

void run_rows(struct nvllm_device *dev, int64_t n, int64_t cost,
	void (*fn)(void *arg, int64_t begin, int64_t end, int32_t worker), void *arg)
{
	const int64_t each = cost > 0 ? cost : 1;
	int64_t grain = SERIAL_COST / 2 / each + 1;
	const int64_t share = n / (dev->n_workers * 8);

	if (n <= SERIAL_COST / each)
		grain = n;
	pool_run(dev->pool, n, grain > share ? grain : share, fn, arg);
}

int check_f32(struct nvllm_device *dev, const struct nvllm_tensor *t, const char *what)
{
	const struct nvllm_host *host = dev->host;

	if (t->dtype != NVLLM_F32)
		return host->fail(host, NVLLM_ENOTSUP, "%s must be f32, is type number %d", what,
			t->dtype);
	if (t->rows < 0 || t->cols < 0 || t->cols > INT64_MAX / 4 || t->stride < t->cols * 4 ||
			t->stride % 4 || (!t->data && t->rows && t->cols))
		return host->fail(host, NVLLM_EINVAL,
			"%s: [%lld][%lld] with a stride of %lld bytes "
			"at %p is no matrix of f32", what, (long long)t->rows, (long long)t->cols,
			(long long)t->stride, t->data);
	return NVLLM_OK;
}

static float *row_of(const struct nvllm_tensor *t, int64_t row)
{
	return (float *)((char *)t->data + row * t->stride);
}

static int no_fit(struct nvllm_device *dev, const char *op, const struct nvllm_tensor *a,
	const struct nvllm_tensor *b)
{
	return dev->host->fail(dev->host, NVLLM_EINVAL,
		"%s: shapes do not fit: [%lld][%lld] and [%lld][%lld]", op, (long long)a->rows,
		(long long)a->cols, (long long)b->rows, (long long)b->cols);
}

/* Nothing to do: a rank may hold no column of a weight, and so none of an activation. */
static bool is_empty(const struct nvllm_tensor *t)
{
	return t->rows == 0 || t->cols == 0;
}

struct embed_job {
	struct nvllm_device *dev;
	const struct nvllm_tensor *y, *table;
	const struct nvllm_batch *batch;
	enum fmt fmt;
	int64_t first; /* the vocabulary entry that the table's first row is */
	float scale;
};

/* Row t of the table as float, through the worker's scratch where it lies in a panel. */
static void table_row(const struct embed_job *j, float *y, int64_t t, int32_t worker)
{
	const struct nvllm_device *dev = j->dev;
	const int64_t lanes = j->table->layout, cols = j->y->cols;
	const char *row = (const char *)j->table->data + t * j->table->stride;

	if (lanes)
		panel_decode(&dev->isa, y, j->fmt, t % lanes, row - t % lanes * j->table->stride, cols,
			dev->scratch + worker * scratch_bytes(dev->max_cols));
	else
		dev->isa.decode[j->fmt](y, row, cols);
}

static void embed_rows(void *arg, int64_t begin, int64_t end, int32_t worker)
{
	const struct embed_job *j = arg;

	for (int64_t i = begin; i < end; i++) {
		int64_t t = j->batch->tokens[i];
		float *y = row_of(j->y, i);

		if (t < 0)
			t = j->batch->state->last_token[-1 - t];
		if (t < j->first || t - j->first >= j->table->rows) { /* another rank's */
			memset(y, 0, (size_t)j->y->cols * sizeof(*y));
			continue;
		}
		t -= j->first;
		table_row(j, y, t, worker);
		for (int64_t k = 0; k < j->y->cols && j->scale != 1; k++)
			y[k] *= j->scale;
	}
}

static int embed(struct nvllm_device *dev, nvllm_stream stream, struct nvllm_tensor y,
	struct nvllm_tensor table, int64_t first, const struct nvllm_batch *batch, double scale)
{
	struct embed_job j = { dev, &y, &table, batch, fmt_of(table.dtype), first, (float)scale };
	const int64_t bytes = nvllm_row_bytes(table.dtype, table.cols);
	int err = check_f32(dev, &y, "embed: y");

	if (err)
		return err;
	if (j.fmt == FMT_N || (table.layout != 0 && table.layout != dev->isa.lanes) ||
			(table.layout && table.cols > dev->max_cols) || bytes < 0 || table.stride < bytes ||
			table.rows < 0 || (table.rows && !table.data))
		return dev->host->fail(dev->host, NVLLM_ENOTSUP,
			"embed: no table of type number %d, "
			"layout %d, %lld columns, stride %lld", table.dtype, table.layout,
			(long long)table.cols, (long long)table.stride);
	if (y.cols != table.cols || y.rows > batch->n_tokens || first < 0)
		return no_fit(dev, "embed", &y, &table);
	if (is_empty(&y))
		return NVLLM_OK;
	run_rows(dev, y.rows, y.cols, embed_rows, &j);
	return NVLLM_OK;
}

struct norm_job {
	struct nvllm_device *dev;
	const struct nvllm_tensor *y, *x;
	const struct nvllm_norm *norm;
};

static void norm_rows(void *arg, int64_t begin, int64_t end, int32_t worker)
{
	const struct norm_job *j = arg;
	const int64_t n = j->norm->w.cols;

	for (int64_t i = begin; i < end; i++)
		for (int64_t k = 0; k < j->x->cols; k += n)
			j->dev->isa.norm(row_of(j->y, i) + k, row_of(j->x, i) + k, j->norm, n);
}

static int norm(struct nvllm_device *dev, nvllm_stream stream, struct nvllm_tensor y,
	struct nvllm_tensor x, const struct nvllm_norm *n)
{
	struct norm_job j = { dev, &y, &x, n };
	int err;

	if ((err = check_f32(dev, &y, "norm: y")) || (err = check_f32(dev, &x, "norm: x")) ||
			(err = check_f32(dev, &n->w, "norm: its weight")) ||
			(n->b.data && (err = check_f32(dev, &n->b, "norm: its bias"))))
		return err;
	if (n->kind != NVLLM_RMS_NORM && n->kind != NVLLM_LAYER_NORM)
		return dev->host->fail(dev->host, NVLLM_ENOTSUP, "norm: no kind %d", n->kind);
	if (y.rows != x.rows || y.cols != x.cols)
		return no_fit(dev, "norm", &y, &x);
	if (is_empty(&y))
		return NVLLM_OK;
	if (n->w.cols < 1 || n->w.rows < 1 || x.cols % n->w.cols)
		return no_fit(dev, "norm", &x, &n->w);
	if (n->b.data && (n->b.cols != n->w.cols || n->b.rows < 1))
		return no_fit(dev, "norm", &n->w, &n->b);
	run_rows(dev, x.rows, 4 * x.cols, norm_rows, &j);
	return NVLLM_OK;
}

struct pair_job {
	struct nvllm_device *dev;
	const struct nvllm_tensor *y, *x;
	const int32_t *index;
	int act;
};

static void add_rows(void *arg, int64_t begin, int64_t end, int32_t worker)
{
	const struct pair_job *j = arg;

	for (int64_t i = begin; i < end; i++)
		j->dev->isa.add(row_of(j->y, i), row_of(j->x, i), j->y->cols);
}

static int add(struct nvllm_device *dev, nvllm_stream stream, struct nvllm_tensor x,
	struct nvllm_tensor d)
{
	struct pair_job j = { .dev = dev, .y = &x, .x = &d };
	struct nvllm_tensor one = d;
	int err;

	if (d.stride == 0) { /* one row for all: check that row */
		one.rows = d.rows > 0;
		one.stride = d.cols * (int64_t)sizeof(float);
	}
	if ((err = check_f32(dev, &x, "add: x")) || (err = check_f32(dev, &one, "add: d")))
		return err;
	if (x.rows != d.rows || x.cols != d.cols)
		return no_fit(dev, "add", &x, &d);
	if (is_empty(&x))
		return NVLLM_OK;
	run_rows(dev, x.rows, x.cols, add_rows, &j);
	return NVLLM_OK;
}

struct rope_job {
	struct nvllm_device *dev;
	const struct nvllm_tensor *x;
	const int32_t *positions;
	int64_t head_dim;
	const struct nvllm_rotary *rotary;
};

/* As Hugging Face: the angle is a float product, mscale multiplies cos and sin. */
static void angles(float *cs, const struct nvllm_rotary *r, int32_t position)
{
	const float *inv_freq = r->inv_freq.data, scale = (float)r->mscale;
	const int half = r->dims / 2;

	for (int i = 0; i < half; i++) {
		float s, c;

		sincosf((float)position * inv_freq[i], &s, &c);
		cs[i] = c * scale;
		cs[half + i] = s * scale;
	}
}

static void rope_rows(void *arg, int64_t begin, int64_t end, int32_t worker)
{
	const struct rope_job *j = arg;
	float cs[ROPE_MAX];

	for (int64_t i = begin; i < end; i++) {
		angles(cs, j->rotary, j->positions[i]);
		for (int64_t k = 0; k < j->x->cols; k += j->head_dim)
			j->dev->isa.rope(row_of(j->x, i) + k, cs, j->rotary->dims,
				j->rotary->interleaved);
	}
}

static int rope(struct nvllm_device *dev, nvllm_stream stream, struct nvllm_tensor x,
	const int32_t *positions, int64_t head_dim, const struct nvllm_rotary *r)
{
	struct rope_job j = { dev, &x, positions, head_dim, r };
	int err = check_f32(dev, &x, "rope: x");

	if (err || r->dims == 0 || is_empty(&x))
		return err;
	if (head_dim < 1 || x.cols % head_dim || r->dims < 0 || r->dims % 2 ||
			r->dims > head_dim || r->dims > ROPE_MAX)
		return dev->host->fail(dev->host, NVLLM_ENOTSUP,
			"rope: cannot turn %d elements (at "
			"most %d, even) of heads of %lld in rows of %lld", r->dims, ROPE_MAX,
			(long long)head_dim, (long long)x.cols);
	err = check_f32(dev, &r->inv_freq, "rope: inv_freq");
	if (err)
		return err;
	if (r->inv_freq.cols != r->dims / 2 || r->inv_freq.rows < 1)
		return no_fit(dev, "rope: inv_freq", &r->inv_freq, &x);
	run_rows(dev, x.rows, 8 * r->dims + x.cols, rope_rows, &j);
	return NVLLM_OK;
}

static void glu_rows(void *arg, int64_t begin, int64_t end, int32_t worker)
{
	const struct pair_job *j = arg;
	const int64_t n = j->y->cols;

	for (int64_t i = begin; i < end; i++)
		j->dev->isa.glu(row_of(j->y, i), row_of(j->x, i), row_of(j->x, i) + n, n, j->act);
}

static int glu(struct nvllm_device *dev, nvllm_stream stream, struct nvllm_tensor y,
	struct nvllm_tensor x, int act)
{
	struct pair_job j = { .dev = dev, .y = &y, .x = &x, .act = act };
	int err;

	if ((err = check_f32(dev, &y, "glu: y")) || (err = check_f32(dev, &x, "glu: x")))
		return err;
	if (act < NVLLM_SILU || act > NVLLM_RELU)
		return dev->host->fail(dev->host, NVLLM_ENOTSUP, "glu: no activation %d", act);
	if (y.rows != x.rows || x.cols % 2 || y.cols != x.cols / 2)
		return no_fit(dev, "glu", &y, &x);
	if (is_empty(&y))
		return NVLLM_OK;
	run_rows(dev, y.rows, 4 * x.cols, glu_rows, &j);
	return NVLLM_OK;
}

static void copy_rows(void *arg, int64_t begin, int64_t end, int32_t worker)
{
	const struct pair_job *j = arg;

	for (int64_t i = begin; i < end; i++)
		memcpy(row_of(j->y, i), row_of(j->x, j->index[i]), (size_t)j->y->cols * 4);
}

static int rows(struct nvllm_device *dev, nvllm_stream stream, struct nvllm_tensor y,
	struct nvllm_tensor x, const int32_t *index)
{
	struct pair_job j = { .dev = dev, .y = &y, .x = &x, .index = index };
	int err;

	if ((err = check_f32(dev, &y, "rows: y")) || (err = check_f32(dev, &x, "rows: x")))
		return err;
	if (y.cols != x.cols)
		return no_fit(dev, "rows", &y, &x);
	if (is_empty(&y))
		return NVLLM_OK;
	for (int64_t i = 0; i < y.rows; i++)
		if (index[i] < 0 || index[i] >= x.rows)
			return dev->host->fail(dev->host, NVLLM_EINVAL,
				"rows: index[%lld] is %d, x has %lld rows", (long long)i, index[i],
				(long long)x.rows);
	run_rows(dev, y.rows, y.cols, copy_rows, &j);
	return NVLLM_OK;
}

static bool is_stop(const int32_t *stop_ids, int32_t token)
{
	bool stop = false;

	for (int i = 0; i < NVLLM_STOP_IDS; i++)
		stop |= stop_ids[i] >= 0 && stop_ids[i] == token;
	return stop;
}

static int advance(struct nvllm_device *dev, nvllm_stream stream, const struct nvllm_batch *b,
	const int32_t *tokens)
{
	const struct nvllm_slots *st = b->state;

	for (int32_t i = 0; i < b->n_logits; i++) {
		const int32_t s = b->logit_slots[i];
		int64_t at;

		if (s < 0 || s >= st->n_slots || st->done[s])
			continue;
		st->last_token[s] = tokens[i];
		at = NVLLM_HAS(st, history_len) && st->history ? b->positions[b->logit_rows[i]] + 1 : INT64_MAX;
		if (at != INT64_MAX && at < st->history_len)
			st->history[(int64_t)s * st->history_len + at] = tokens[i];
		st->n_left[s] -= 1;
		st->done[s] = st->n_left[s] == 0 ||
			is_stop(st->stop_ids + (int64_t)s * NVLLM_STOP_IDS, tokens[i]);
	}
	return NVLLM_OK;
}

const struct nvllm_kernels cpu_kernels = {
	.size = sizeof(cpu_kernels),
	.embed = embed,
	.linear = linear,
	.norm = norm,
	.add = add,
	.rope = rope,
	.glu = glu,
	.rows = rows,
	.logprobs = logprobs,
	.advance = advance,
	.moe = moe,
};
