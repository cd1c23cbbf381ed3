/* SPDX-License-Identifier: MIT */
/* linear.c - which routine computes a product:
 *   few rows             skinny.cu: weights as they are stored, norm, bias and activation in it
 *   floats               cuBLASLt; the bias is added by a kernel of its own
 *   e4m3, more rows      fp8_tiles.cu: as they are stored too, several times where the rows are many
 *   blocks, e4m3         a slice of the weight after the other becomes floats in the scratch, and cuBLASLt
 *                        multiplies with it: many rows make up for that
 *   x of another type    a few thousand rows of x after the other become w's type in the scratch
 * and what cuBLASLt has nothing for (rows that are not aligned), a few rows at a time by skinny.cu. */
#include <stdbool.h>

#include <cuda_runtime_api.h>

#include "cuda.h"

static bool is_number(int32_t dtype)
{
	return dtype == NVLLM_F32 || dtype == NVLLM_BF16;
}

static int64_t size_of(int32_t dtype)
{
	return dtype == NVLLM_F32 ? 4 : 2;
}

static int check(const struct nvllm_device *dev, const struct nvllm_tensor *y, const struct nvllm_tensor *x,
	const struct nvllm_tensor *w, const struct nvllm_tensor *bias)
{
	const struct nvllm_host *host = dev->host;
	const int64_t row = stored_bytes(w);

	if (!is_number(y->dtype) || !is_number(x->dtype) || (bias && bias->dtype != NVLLM_F32))
		return host->fail(host, NVLLM_EINVAL, "linear: y of type %d, x of %d, bias of %d: y and x must be F32 or BF16, a "
			"bias F32", y->dtype, x->dtype, bias ? bias->dtype : NVLLM_F32);
	if (x->cols != w->cols || y->cols != w->rows || y->rows != x->rows || (bias && bias->cols != w->rows))
		return host->fail(host, NVLLM_EINVAL, "linear: shapes do not fit: x [%lld][%lld], w [%lld][%lld], y [%lld][%lld], "
			"bias of %lld", (long long)x->rows, (long long)x->cols, (long long)w->rows, (long long)w->cols,
			(long long)y->rows, (long long)y->cols, (long long)(bias ? bias->cols : 0));
	/* a rank may hold no row: there is nothing then, of no type */
	if (w->rows && (row < 0 || (w->cols && (!w->data || (w->rows > 1 && w->stride < row)))))
		return host->fail(host, NVLLM_EINVAL, "linear: a weight of type number %d, layout %d, rows of %lld bytes %lld apart, "
			"at %p: weights must pass through store() and upload()", w->dtype, w->layout, (long long)row,
			(long long)w->stride, w->data);
	return NVLLM_OK;
}

static struct nvllm_tensor rows_of(struct nvllm_tensor t, int64_t row, int64_t n)
{
	t.data = (char *)t.data + row * t.stride;
	t.rows = n;
	return t;
}

static int add_bias(struct nvllm_device *dev, nvllm_stream stream, struct nvllm_tensor y, const struct nvllm_tensor *bias)
{
	struct nvllm_tensor d;

	if (!bias)
		return NVLLM_OK;
	d = *bias;
	d.rows = y.rows;
	d.stride = 0; /* one row for all */
	return cu_add(dev, stream, y, d);
}

/* This rank holds no column of w: x wT is zero. */
static int nothing(struct nvllm_device *dev, nvllm_stream stream, struct nvllm_tensor y, const struct nvllm_tensor *bias,
	uint32_t flags)
{
	const int64_t bytes = y.cols * size_of(y.dtype);
	int err = NVLLM_OK;

	if (!(flags & NVLLM_LINEAR_ADD))
		err = cu_check(dev, cudaMemset2DAsync(y.data, (size_t)(y.rows > 1 ? y.stride : bytes), 0, (size_t)bytes,
			(size_t)y.rows, stream), "writing zeros");
	return err ? err : add_bias(dev, stream, y, bias);
}

/* A few rows at a time, with everything. */
static int few_rows(struct nvllm_device *dev, nvllm_stream stream, struct nvllm_tensor y, struct nvllm_tensor x,
	struct nvllm_tensor w, const struct nvllm_tensor *bias, uint32_t flags)
{
	const struct nvllm_host *host = dev->host;
	int err = NVLLM_OK;

	if (!skinny_has(dev, &w))
		return host->fail(host, NVLLM_ENOTSUP, "linear: neither cuBLASLt nor this plugin has a kernel for x [%lld][%lld] of type "
			"number %d and a weight of %lld rows of type %d, %lld bytes apart", (long long)x.rows, (long long)x.cols,
			x.dtype, (long long)w.rows, w.dtype, (long long)w.stride);
	for (int64_t row = 0; row < x.rows && !err; row += SKINNY_ROWS) {
		const int64_t n = x.rows - row < SKINNY_ROWS ? x.rows - row : SKINNY_ROWS;

		err = skinny(dev, stream, rows_of(y, row, n), rows_of(x, row, n), NULL, w, bias, flags, -1);
	}
	return err;
}

/* How many of n rows of `bytes` fit the scratch at once, in even parts. 0: not one. */
static int64_t part(const struct nvllm_device *dev, int64_t n, int64_t bytes)
{
	const int64_t most = dev->scratch_bytes / bytes;
	int64_t parts, rows;

	if (most < 1 || n <= most)
		return most < 1 ? 0 : n;
	parts = (n + most - 1) / most;
	rows = ((n + parts - 1) / parts + 63) / 64 * 64;
	return rows <= most ? rows : most;
}

/* w in blocks or e4m3: slices of it as numbers of x's type. */
static int from_blocks(struct nvllm_device *dev, nvllm_stream stream, struct nvllm_tensor y, struct nvllm_tensor x,
	struct nvllm_tensor w, uint32_t flags)
{
	const int64_t bytes = w.cols * size_of(x.dtype), n = part(dev, w.rows, bytes);
	int err = NVLLM_OK;

	if (!n || (x.dtype == NVLLM_F32 && y.dtype != NVLLM_F32))
		return NVLLM_ENOTSUP;
	for (int64_t row = 0; row < w.rows && !err; row += n) {
		const int64_t k = w.rows - row < n ? w.rows - row : n;
		struct nvllm_tensor slice = { .data = dev->scratch, .rows = k, .cols = w.cols, .stride = bytes, .planes = 1,
			.dtype = x.dtype }, to = y;

		to.data = (char *)y.data + row * size_of(y.dtype);
		to.cols = k;
		err = dequantise(dev, stream, dev->scratch, x.dtype, w, row, k);
		err = err ? err : lt_product(dev, stream, to, x, slice, flags);
		if (err == NVLLM_ENOTSUP) { /* the rest, and only that, another way */
			to.cols = w.rows - row;
			return few_rows(dev, stream, to, x, rows_of(w, row, w.rows - row), NULL, flags);
		}
	}
	return err;
}

/* e4m3 as they are, for even parts of the rows of x. Each reads the weight once, by one byte a number; from_blocks()
 * reads one, writes two and reads them again, most of that to and from memory. */
#define FP8_PASSES 2

static int from_fp8(struct nvllm_device *dev, nvllm_stream stream, struct nvllm_tensor y, struct nvllm_tensor x,
	struct nvllm_tensor w, uint32_t flags)
{
	const int64_t passes = (x.rows + FP8_TILE_ROWS - 1) / FP8_TILE_ROWS, n = ((x.rows + passes - 1) / passes + 7) / 8 * 8;
	int err = passes <= FP8_PASSES ? NVLLM_OK : NVLLM_ENOTSUP;

	/* the first part is the largest: what it can do, so can the others */
	for (int64_t row = 0; row < x.rows && !err; row += n) {
		const int64_t k = x.rows - row < n ? x.rows - row : n;

		err = fp8_tiles(dev, stream, rows_of(y, row, k), rows_of(x, row, k), w, flags);
	}
	return err;
}

/* x of another float type than w: parts of it in w's. */
static int from_other(struct nvllm_device *dev, nvllm_stream stream, struct nvllm_tensor y, struct nvllm_tensor x,
	struct nvllm_tensor w, uint32_t flags)
{
	const int64_t bytes = (w.cols * size_of(w.dtype) + 15) / 16 * 16, n = part(dev, x.rows, bytes);
	int err = NVLLM_OK;

	if (!n || (w.dtype == NVLLM_F32 && y.dtype != NVLLM_F32))
		return NVLLM_ENOTSUP;
	for (int64_t row = 0; row < x.rows && !err; row += n) {
		const int64_t k = x.rows - row < n ? x.rows - row : n;
		const struct nvllm_tensor from = rows_of(x, row, k);
		struct nvllm_tensor same = { .data = dev->scratch, .rows = k, .cols = w.cols, .stride = bytes, .planes = 1,
			.dtype = w.dtype };

		err = cu_convert(dev, stream, same.data, w.dtype, bytes, from.data, x.dtype, x.stride, k, w.cols);
		err = err ? err : lt_product(dev, stream, rows_of(y, row, k), same, w, flags);
		if (err == NVLLM_ENOTSUP) /* the rest, and only that, another way */
			return few_rows(dev, stream, rows_of(y, row, x.rows - row), rows_of(x, row, x.rows - row), w, NULL, flags);
	}
	return err;
}

int cu_linear(struct nvllm_device *dev, nvllm_stream stream, struct nvllm_tensor y, struct nvllm_tensor x,
	struct nvllm_tensor w, const struct nvllm_tensor *bias, uint32_t flags)
{
	int err = check(dev, &y, &x, &w, bias);

	if (err || y.rows == 0 || y.cols == 0)
		return err;
	if (w.cols == 0)
		return nothing(dev, stream, y, bias, flags);
	if (x.rows <= SKINNY_ROWS && skinny_has(dev, &w))
		return skinny(dev, stream, y, x, NULL, w, bias, flags, -1);
	err = w.dtype == NVLLM_F8_E4M3 ? from_fp8(dev, stream, y, x, w, flags) : NVLLM_ENOTSUP;
	if (!err)
		return add_bias(dev, stream, y, bias);
	if (err != NVLLM_ENOTSUP)
		return err;
	if (!is_number(w.dtype))
		err = from_blocks(dev, stream, y, x, w, flags);
	else if (x.dtype != w.dtype)
		err = from_other(dev, stream, y, x, w, flags);
	else
		err = lt_product(dev, stream, y, x, w, flags);
	if (err == NVLLM_ENOTSUP)
		return few_rows(dev, stream, y, x, w, bias, flags);
	return err ? err : add_bias(dev, stream, y, bias);
}

/* Is this a product that one of skinny.cu's kernels does with its norm? Else the core composes it. */
static bool fuses(const struct nvllm_device *dev, const struct nvllm_tensor *x, const struct nvllm_tensor *w)
{
	return x->rows <= SKINNY_ROWS && w->rows > 0 && w->cols > 0 && w->data && stored_bytes(w) >= 0 && skinny_has(dev, w);
}

int cu_norm_linear(struct nvllm_device *dev, nvllm_stream stream, struct nvllm_tensor y, struct nvllm_tensor x,
	const struct nvllm_norm *n, struct nvllm_tensor w, const struct nvllm_tensor *bias)
{
	int err;

	if (!fuses(dev, &x, &w) || n->w.cols != x.cols)
		return NVLLM_ENOTSUP;
	err = check(dev, &y, &x, &w, bias);
	return err || y.rows == 0 ? err : skinny(dev, stream, y, x, n, w, bias, 0, -1);
}

int cu_norm_linear_glu(struct nvllm_device *dev, nvllm_stream stream, struct nvllm_tensor y, struct nvllm_tensor x,
	const struct nvllm_norm *n, struct nvllm_tensor w, int act)
{
	struct nvllm_tensor whole = y;
	int err;

	if (!fuses(dev, &x, &w) || n->w.cols != x.cols || w.rows % 2)
		return NVLLM_ENOTSUP;
	whole.cols *= 2; /* what check() compares with w's rows */
	err = check(dev, &whole, &x, &w, NULL);
	return err || y.rows == 0 ? err : skinny(dev, stream, y, x, n, w, NULL, 0, act);
}
