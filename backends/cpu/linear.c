/* SPDX-License-Identifier: MIT */
/* linear.c - how a product is cut up: activations in blocks of X_ROWS rows, weights in
 * panels of a few rows, and a panel is what a thread takes at a time. A panel is read
 * from memory once for a whole block of activations.
 *
 * A block-quantised weight is multiplied with activations rounded to 16 or 8 bits (once
 * a call, into xq) or, with activations = f32, decoded a panel at a time and multiplied
 * in f32, as the 16-bit floats always are. */
#include <stdlib.h>
#include <string.h>

#include "cpu.h"

struct job {
	struct nvllm_device *dev;
	struct nvllm_tensor y, x, w;  /* y and x: this block's rows */
	const float *bias;            /* [w.rows] or NULL */
	uint32_t flags;
	enum fmt fmt;
	/* Rounds a row of x to xq; NULL = x is multiplied as it is. */
	void (*round)(void *y, const float *x, int64_t cols);
	void (*mul)(const struct product *);
	int64_t xq_bytes;              /* of a row there */
	int64_t panel_rows, row_bytes; /* of the weight */
};

static int64_t xq_row_bytes(enum activations act, int64_t cols)
{
	return cols / QK * (int64_t)(act == ACT_Q16 ? sizeof(struct q16_block)
		: sizeof(struct q8_block));
}

/* What the device's setting and the weight's form come to. */
static void choose(struct job *j)
{
	const struct isa *isa = &j->dev->isa;
	const bool q16 = j->dev->activations == ACT_Q16;

	j->mul = isa->mul_f32;
	j->panel_rows = isa->rows_f32;
	if (j->dev->activations == ACT_F32 || !isa->mul_q8[j->fmt])
		return;
	j->round = q16 ? isa->to_q16[j->fmt] : isa->to_q8[j->fmt];
	j->mul = q16 ? isa->mul_q16[j->fmt] : isa->mul_q8[j->fmt];
	j->xq_bytes = xq_row_bytes(j->dev->activations, j->x.cols);
	j->panel_rows = isa->rows_q8;
}

static void round_rows(void *arg, int64_t begin, int64_t end, int32_t worker)
{
	const struct job *j = arg;
	struct nvllm_device *dev = j->dev;

	for (int64_t i = begin; i < end; i++)
		j->round(dev->xq + i * j->xq_bytes,
			(const float *)((const char *)j->x.data + i * j->x.stride), j->x.cols);
}

/* One row's sums to y; with n a constant this becomes a few instructions, as all is read
 * before anything is written. */
static inline void finish_row(float *y, const float *out, const float *bias, bool add, int64_t n)
{
	float v[PANEL_MAX];

	for (int64_t k = 0; k < n; k++)
		v[k] = bias ? out[k] + bias[k] : out[k];
	for (int64_t k = 0; k < n && add; k++)
		v[k] = y[k] + v[k];
	memcpy(y, v, (size_t)n * sizeof(*y));
}

/* The sums of some panels to y: rows [first, first + n) of the weight are its columns. */
static void finish(const struct job *j, const float *out, int64_t first, int64_t n)
{
	const float *bias = j->bias ? j->bias + first : NULL;
	const bool add = j->flags & NVLLM_LINEAR_ADD;

	for (int64_t i = 0; i < j->x.rows; i++, out += PANEL_MAX) {
		float *y = (float *)((char *)j->y.data + i * j->y.stride) + first;

		if (n == PANEL_MAX && !bias)
			finish_row(y, out, NULL, add, PANEL_MAX);
		else
			finish_row(y, out, bias, add, n);
	}
}

/* Asks for a row of the next panel; past the weight's end it asks for nothing. */
static void prefetch(const char *row, int64_t bytes)
{
	for (int64_t i = 0; i < bytes; i += 64)
		__builtin_prefetch(row + i);
}

/* Rows of the weight as float: its own memory, or decoded into the worker's scratch. */
static void as_float(const struct job *j, struct product *p)
{
	const int64_t bytes = p->cols * (int64_t)sizeof(float);

	if (j->fmt == FMT_F32)
		return;
	for (int64_t i = 0; i < p->n_w; i++) {
		const char *row = p->w + i * p->w_stride;

		prefetch(row + j->panel_rows * p->w_stride, j->row_bytes);
		j->dev->isa.decode[j->fmt]((float *)(p->panel + i * bytes), row, p->cols);
	}
	p->w = p->panel;
	p->w_stride = bytes;
}

static void mul_one(const struct job *j, float *out, int64_t panel, int32_t worker)
{
	struct nvllm_device *dev = j->dev;
	const int64_t first = panel * j->panel_rows, left = j->w.rows - first;
	struct product p = {
		.out = out,
		.x = j->round ? dev->xq : j->x.data,
		.w = (const char *)j->w.data + first * j->w.stride,
		.x_stride = j->round ? j->xq_bytes : j->x.stride,
		.w_stride = j->w.stride,
		.n_x = j->x.rows,
		.n_w = left < j->panel_rows ? left : j->panel_rows,
		.cols = j->x.cols,
		.panel = dev->panels + worker * panel_bytes(dev->max_cols),
	};

	if (!j->round)
		as_float(j, &p);
	j->mul(&p);
}

/* Panels to the width of PANEL_MAX side by side: a cache line of y, which lies far from
 * the row above's, is then written once. */
static void mul_panels(void *arg, int64_t begin, int64_t end, int32_t worker)
{
	const struct job *j = arg;
	const int64_t group = PANEL_MAX / j->panel_rows;
	_Alignas(64) float out[X_ROWS * PANEL_MAX];

	for (int64_t panel = begin; panel < end; panel += group) {
		const int64_t stop = end - panel < group ? end : panel + group;
		const int64_t first = panel * j->panel_rows;
		int64_t last = stop * j->panel_rows;

		for (int64_t i = panel; i < stop; i++)
			mul_one(j, out + (i - panel) * j->panel_rows, i, worker);
		last = last < j->w.rows ? last : j->w.rows;
		finish(j, out, first, last - first);
	}
}

/* With no column of the weight here x wT is zero; what is added to it stays. */
static void rest_rows(void *arg, int64_t begin, int64_t end, int32_t worker)
{
	const struct job *j = arg;

	for (int64_t i = begin; i < end; i++) {
		float *y = (float *)((char *)j->y.data + i * j->y.stride);

		for (int64_t k = 0; k < j->y.cols; k++) {
			const float rest = j->bias ? j->bias[k] : 0;

			y[k] = j->flags & NVLLM_LINEAR_ADD ? y[k] + rest : rest;
		}
	}
}

static int check(struct nvllm_device *dev, const struct nvllm_tensor *y,
	const struct nvllm_tensor *x, const struct nvllm_tensor *w, const struct nvllm_tensor *bias)
{
	const struct nvllm_host *host = dev->host;
	int64_t row = nvllm_row_bytes(w->dtype, w->cols);
	int err;

	if ((err = check_f32(dev, y, "linear: y")) || (err = check_f32(dev, x, "linear: x")) ||
			(bias && (err = check_f32(dev, bias, "linear: bias"))))
		return err;
	if (fmt_of(w->dtype) == FMT_N || w->layout != 0)
		return host->fail(host, NVLLM_ENOTSUP, "linear: no product with a weight of type "
			"number %d, layout %d: weights must pass through store() and upload()",
			w->dtype, w->layout);
	if (x->cols != w->cols || y->cols != w->rows || y->rows != x->rows ||
			(bias && bias->cols != w->rows))
		return host->fail(host, NVLLM_EINVAL, "linear: shapes do not fit: x [%lld][%lld], "
			"w [%lld][%lld], y [%lld][%lld], bias of %lld", (long long)x->rows,
			(long long)x->cols, (long long)w->rows, (long long)w->cols,
			(long long)y->rows, (long long)y->cols, (long long)(bias ? bias->cols : 0));
	if (row < 0 || w->stride < row || (!w->data && w->rows && w->cols))
		return host->fail(host, NVLLM_EINVAL, "linear: a weight row has %lld bytes, its "
			"stride says %lld, it lies at %p", (long long)row, (long long)w->stride,
			w->data);
	if (w->cols > dev->max_cols)
		return host->fail(host, NVLLM_EINVAL,
			"linear: no scratch for rows of %lld elements: "
			"store() was told of %lld at most", (long long)w->cols,
			(long long)dev->max_cols);
	return NVLLM_OK;
}

int linear(struct nvllm_device *dev, nvllm_stream stream, struct nvllm_tensor y,
	struct nvllm_tensor x, struct nvllm_tensor w, const struct nvllm_tensor *bias,
		uint32_t flags)
{
	const enum fmt fmt = fmt_of(w.dtype);
	int err = check(dev, &y, &x, &w, bias);
	struct job j = {
		.dev = dev, .y = y, .x = x, .w = w, .flags = flags, .fmt = fmt,
		.bias = bias ? bias->data : NULL,
	};
	int64_t n_panels;

	if (err || y.rows == 0 || y.cols == 0)
		return err;
	if (w.cols == 0) {
		run_rows(dev, y.rows, y.cols, rest_rows, &j);
		return NVLLM_OK;
	}
	choose(&j);
	j.row_bytes = nvllm_row_bytes(w.dtype, w.cols);
	n_panels = (w.rows + j.panel_rows - 1) / j.panel_rows;
	for (int64_t row = 0; row < x.rows; row += X_ROWS) {
		j.x.rows = x.rows - row < X_ROWS ? x.rows - row : X_ROWS;
		j.x.data = (char *)x.data + row * x.stride;
		j.y.data = (char *)y.data + row * y.stride;
		if (j.round)
			run_rows(dev, j.x.rows, 4 * x.cols, round_rows, &j);
		run_rows(dev, n_panels, (j.x.rows + 2) * j.panel_rows * x.cols / 4, mul_panels, &j);
	}
	return NVLLM_OK;
}

int linear_reserve(struct nvllm_device *dev, int64_t cols)
{
	char *xq, *panels;

	if (cols <= dev->max_cols)
		return NVLLM_OK;
	if (cols > (1 << 28))
		return dev->host->fail(dev->host, NVLLM_ENOTSUP,
			"a weight row of %lld elements is longer than this device takes (2^28)",
			(long long)cols);
	xq = aligned_alloc(64, (size_t)(xq_row_bytes(ACT_Q16, cols + QK) * X_ROWS + 63) / 64 * 64);
	panels = aligned_alloc(64, (size_t)(panel_bytes(cols) * dev->n_workers));
	if (!xq || !panels) {
		free(xq);
		free(panels);
		return dev->host->fail(dev->host, NVLLM_ENOMEM,
			"no memory for the scratch of products with rows of %lld elements",
			(long long)cols);
	}
	free(dev->xq);
	free(dev->panels);
	dev->xq = xq;
	dev->panels = panels;
	dev->max_cols = cols;
	return NVLLM_OK;
}
