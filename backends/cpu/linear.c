/* SPDX-License-Identifier: MIT */
/* linear.c - y = x wT: which product, in what tiles, on which threads.
 *
 * Rows of x are taken in blocks of at most X_ROWS, rows of w in groups of panels, which are
 * what a thread takes at a time. A panel is read from memory once for a whole block of x.
 *
 * The product depends on the CPU, the device's setting and the weight's form, never on the
 * number of rows. Where the setting has none for a form, the form is multiplied in f32, as it
 * is or decoded a panel at a time. */
#include <stdlib.h>
#include <string.h>

#include "cpu.h"

struct job {
	struct nvllm_device *dev;
	struct nvllm_tensor y, x, w;  /* y and x: this block's rows */
	const float *bias;            /* [w.rows] or NULL */
	uint32_t flags;
	enum fmt fmt, panel_fmt;      /* as stored, and as multiplied: the same or F32 */
	/* Brings a row of x to its form in xq; NULL = x is multiplied as it is. */
	void (*round)(void *y, const float *x, int64_t cols);
	/* Puts it among 16 of them; NULL = the product takes rows. */
	void (*to_tile)(char *tile, int64_t i, const char *row, int64_t cols);
	void (*mul)(const struct product *);
	int64_t xq_bytes;             /* of a row there */
	int64_t x_rows;               /* of a block */
	int64_t panel_bytes;
	int64_t n_panels, unit;       /* of the weight; panels in a unit that a thread takes */
};

/* A row of activations in their form. */
static int64_t xq_row_bytes(enum act act, int64_t cols)
{
	switch (act) {
	case ACT_Q8: return whole_blocks(cols) / QK * (int64_t)sizeof(struct q8_block);
	case ACT_Q16:
	case ACT_Q12: return whole_blocks(cols) / QK * (int64_t)sizeof(struct q16_block);
	case ACT_BF16: return whole_blocks(cols) * 2;
	default: return cols * (int64_t)sizeof(float);
	}
}

/* bf16 products go through a panel so fast that its decoding would show. */
static int64_t block_rows(enum act act)
{
	return act == ACT_BF16 ? X_ROWS : 64;
}

/* The product that there is for the device's activations and the form: *act becomes ACT_F32
 * and the result FMT_F32 where there is none. */
static enum fmt product_of(const struct nvllm_device *dev, enum fmt fmt, enum act *act)
{
	*act = dev->activations;
	if (dev->isa.mul[*act][fmt])
		return fmt;
	if (*act == ACT_BF16 && dev->isa.mul[*act][FMT_F32])
		return FMT_F32;
	*act = ACT_F32;
	return dev->isa.mul[ACT_F32][fmt] ? fmt : FMT_F32;
}

bool linear_panels(const struct nvllm_device *dev, enum fmt fmt)
{
	enum act act;

	return dev->repack && product_of(dev, fmt, &act) == fmt;
}

static void choose(struct job *j)
{
	const struct isa *isa = &j->dev->isa;
	enum act act;

	j->panel_fmt = product_of(j->dev, j->fmt, &act);
	j->round = isa->round[act][j->panel_fmt];
	if (j->dev->activations == ACT_BF16 && act == ACT_F32)
		j->round = round_bf16;
	j->to_tile = isa->to_tile[act][j->panel_fmt];
	j->mul = isa->mul[act][j->panel_fmt];
	j->xq_bytes = xq_row_bytes(act, j->x.cols);
	j->x_rows = block_rows(act);
	j->panel_bytes = panel_bytes(j->panel_fmt, isa->lanes, j->x.cols);
	j->n_panels = (j->w.rows + isa->lanes - 1) / isa->lanes;
	/* whole cache lines of y; where there are 16 lanes, what its products take at a time */
	j->unit = isa->lanes < 16 ? 16 / isa->lanes : 4;
}

static void round_row(const struct job *j, void *to, int64_t i)
{
	j->round(to, (const float *)((const char *)j->x.data + i * j->x.stride), j->x.cols);
}

/* How many of x's rows are in tiles: whole sixteens. */
static int64_t rows_in_tiles(const struct job *j)
{
	return j->to_tile ? j->x.rows / TILE_ROWS * TILE_ROWS : 0;
}

/* Tiles, and then rows. A tile is one thread's: rows of it share cache lines. */
static void round_rows(void *arg, int64_t begin, int64_t end, int32_t worker)
{
	const struct job *j = arg;
	struct nvllm_device *dev = j->dev;
	const int64_t tiles = rows_in_tiles(j) / TILE_ROWS;
	char *line = dev->scratch + worker * scratch_bytes(dev->max_cols);

	for (int64_t u = begin; u < end; u++) {
		char *tile = dev->xq + u * TILE_ROWS * j->xq_bytes;
		const int64_t row = tiles * TILE_ROWS + u - tiles;

		if (u >= tiles)
			round_row(j, dev->xq + row * j->xq_bytes, row);
		for (int64_t i = 0; u < tiles && i < TILE_ROWS; i++) {
			round_row(j, line, u * TILE_ROWS + i);
			j->to_tile(tile, i, line, j->x.cols);
		}
	}
}

static void round_block(struct job *j)
{
	const int64_t in_tiles = rows_in_tiles(j), n = in_tiles / TILE_ROWS + j->x.rows - in_tiles;

	run_rows(j->dev, n, (in_tiles ? TILE_ROWS : 1) * 4 * j->x.cols, round_rows, j);
}

/* One row's sums to y; with n a constant this becomes a few instructions, as all is read
 * before anything is written. */
static inline void finish_row(float *y, const float *out, const float *bias, bool add, int64_t n)
{
	float v[GROUP];

	for (int64_t k = 0; k < n; k++)
		v[k] = bias ? out[k] + bias[k] : out[k];
	for (int64_t k = 0; k < n && add; k++)
		v[k] = y[k] + v[k];
	memcpy(y, v, (size_t)n * sizeof(*y));
}

/* Asks for what is needed soon; past its end that asks for nothing. */
static void prefetch(const char *row, int64_t bytes)
{
	for (int64_t i = 0; i < bytes; i += 64)
		__builtin_prefetch(row + i);
}

#define FINISH_AHEAD 12 /* rows of y, each a few lines that are far: as many as a core can wait for at a time */

/* The sums of some panels to y: rows [first, first + n) of the weight are its columns. */
static void finish(const struct job *j, const float *out, int64_t first, int64_t n)
{
	const float *bias = j->bias ? j->bias + first : NULL;
	const bool add = j->flags & NVLLM_LINEAR_ADD;

	for (int64_t i = 0; i < j->x.rows; i++, out += GROUP) {
		float *y = (float *)((char *)j->y.data + i * j->y.stride) + first;

		if (i + FINISH_AHEAD < j->x.rows)
			prefetch((char *)y + FINISH_AHEAD * j->y.stride, n * (int64_t)sizeof(*y));
		if (n == GROUP && !bias)
			finish_row(y, out, NULL, add, GROUP);
		else
			finish_row(y, out, bias, add, n);
	}
}

/* One panel of a weight that is kept in rows, in the worker's scratch. */
static const char *make_panel(const struct job *j, int64_t panel, char *scratch)
{
	const struct isa *isa = &j->dev->isa;
	const int64_t lanes = isa->lanes, first = panel * lanes, cols = j->x.cols;
	const int64_t n = j->w.rows - first < lanes ? j->w.rows - first : lanes;
	const int64_t bytes = cols * (int64_t)sizeof(float);
	const char *rows = (const char *)j->w.data + first * j->w.stride;
	char *decoded = scratch + part_bytes(cols);

	for (int64_t i = 0; i < n; i++)
		prefetch(rows + (lanes + i) * j->w.stride, j->w.stride);
	for (int64_t i = 0; i < n && j->panel_fmt != j->fmt; i++)
		isa->decode[j->fmt]((float *)(decoded + i * bytes), rows + i * j->w.stride, cols);
	if (j->panel_fmt != j->fmt)
		panel_pack(isa, scratch, j->panel_fmt, n, cols, 0, n, decoded, bytes);
	else
		panel_pack(isa, scratch, j->panel_fmt, n, cols, 0, n, rows, j->w.stride);
	return scratch;
}

/* n panels from one on; of a weight kept in rows, one. */
static void mul_some(const struct job *j, float *out, int64_t panel, int64_t n, char *scratch)
{
	const struct nvllm_device *dev = j->dev;
	struct product p = {
		.out = out,
		.x = j->round ? dev->xq : j->x.data,
		.w = j->w.layout ? (const char *)j->w.data + panel * j->panel_bytes
			: make_panel(j, panel, scratch),
		.x_stride = j->round ? j->xq_bytes : j->x.stride,
		.panel_bytes = j->panel_bytes,
		.n_x = j->x.rows,
		.n_w = n,
		.lanes = dev->isa.lanes,
		.cols = j->x.cols,
		.scratch = scratch + part_bytes(j->x.cols),
	};

	j->mul(&p);
}

/* Units [begin, end). Panels to the width of GROUP side by side: a cache line of y, which lies
 * far from the row above's, is then written once. */
static void mul_panels(void *arg, int64_t begin, int64_t end, int32_t worker)
{
	const struct job *j = arg;
	const int64_t last_panel = end * j->unit < j->n_panels ? end * j->unit : j->n_panels;
	const int64_t lanes = j->dev->isa.lanes, group = GROUP / lanes, each = j->w.layout ? group : 1;
	char *scratch = j->dev->scratch + worker * scratch_bytes(j->dev->max_cols);
	_Alignas(64) float out[X_ROWS * GROUP];

	for (int64_t panel = begin * j->unit; panel < last_panel; panel += group) {
		const int64_t stop = last_panel - panel < group ? last_panel : panel + group;
		int64_t last = stop * lanes;

		for (int64_t i = panel; i < stop; i += each)
			mul_some(j, out + (i - panel) * lanes, i, each < stop - i ? each : stop - i, scratch);
		last = last < j->w.rows ? last : j->w.rows;
		finish(j, out, panel * lanes, last - panel * lanes);
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
	const int64_t row = nvllm_row_bytes(w->dtype, w->cols);
	int err;

	if ((err = check_f32(dev, y, "linear: y")) || (err = check_f32(dev, x, "linear: x")) ||
			(bias && (err = check_f32(dev, bias, "linear: bias"))))
		return err;
	if (fmt_of(w->dtype) == FMT_N || (w->layout != 0 && w->layout != dev->isa.lanes))
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
	int64_t n_units;

	if (err || y.rows == 0 || y.cols == 0)
		return err;
	if (w.cols == 0) {
		run_rows(dev, y.rows, y.cols, rest_rows, &j);
		return NVLLM_OK;
	}
	choose(&j);
	n_units = (j.n_panels + j.unit - 1) / j.unit;
	for (int64_t row = 0; row < x.rows; row += j.x_rows) {
		j.x.rows = x.rows - row < j.x_rows ? x.rows - row : j.x_rows;
		j.x.data = (char *)x.data + row * x.stride;
		j.y.data = (char *)y.data + row * y.stride;
		if (j.round)
			round_block(&j);
		run_rows(dev, n_units, (j.x.rows + 2) * j.unit * dev->isa.lanes * x.cols / 4, mul_panels, &j);
	}
	return NVLLM_OK;
}

int linear_reserve(struct nvllm_device *dev, int64_t cols)
{
	char *xq, *scratch;

	if (cols <= dev->max_cols)
		return NVLLM_OK;
	if (cols > (1 << 28))
		return dev->host->fail(dev->host, NVLLM_ENOTSUP,
			"a weight row of %lld elements is longer than this device takes (2^28)",
			(long long)cols);
	/* bf16 may have to make do with f32 (choose()) */
	xq = aligned_alloc(64, (size_t)(xq_row_bytes(dev->activations, cols) *
		block_rows(dev->activations) + 63) / 64 * 64);
	scratch = aligned_alloc(64, (size_t)(scratch_bytes(cols) * dev->n_workers));
	if (!xq || !scratch) {
		free(xq);
		free(scratch);
		return dev->host->fail(dev->host, NVLLM_ENOMEM,
			"no memory for the scratch of products with rows of %lld elements",
			(long long)cols);
	}
	free(dev->xq);
	free(dev->scratch);
	dev->xq = xq;
	dev->scratch = scratch;
	dev->max_cols = cols;
	return NVLLM_OK;
}
