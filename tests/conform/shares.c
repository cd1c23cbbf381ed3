/* SPDX-License-Identifier: MIT */
/* tests/conform/shares.c - a device's kernels as one rank of a group meets them: slices of
 * a table's rows and of a weight's columns, which together must be the whole, and shares
 * of nothing: no rows, no columns, no weight at all. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "device.h"

#define COUNT(a) (int)(sizeof(a) / sizeof(*(a)))

/* ---- a checkpoint's matrix, to be cut ---- */

struct source {
	int32_t dtype;
	int64_t rows, cols, stride;
	unsigned char *raw;
	double *v;
};

/* False: there is no oracle of this type, or no such row. */
static bool source_make(struct source *s, int32_t dtype, int64_t rows, int64_t cols, uint64_t seed)
{
	struct rng r = { seed };
	bool good = true;

	*s = (struct source){ .dtype = dtype, .rows = rows, .cols = cols,
		.stride = nvllm_row_bytes(dtype, cols) };
	s->raw = gmem_get("the checkpoint's rows", rows * s->stride, 1);
	gmem_apart(s->raw);
	s->v = calloc((size_t)(rows * cols), sizeof(double));
	for (int64_t i = 0; i < rows && good; i++)
		good = !ref_random_row(dtype, cols, &r, s->raw + i * s->stride, s->v + i * cols);
	return good;
}

static void source_free(struct source *s)
{
	gmem_put(s->raw);
	free(s->v);
}

/* Rows [row, row + rows) and columns [col, col + cols) stored as a weight of their own; one
 * of nothing is never stored. False: the device does not store the type, or a failed check. */
static bool cut(struct dev *d, const struct source *s, int64_t row, int64_t rows, int64_t col,
	int64_t cols, struct weight *w)
{
	int64_t bytes = 0;
	int status;

	*w = (struct weight){ .t = { .rows = rows, .cols = cols, .planes = 1, .dtype = s->dtype,
		.stride = nvllm_row_bytes(s->dtype, cols) } };
	if (!rows || !cols)
		return true;
	bytes = d->vt->store(d->d, &w->t);
	if (bytes < 0 && bytes != NVLLM_ENOTSUP)
		ck_bad("store returned %ld: %s", (long)bytes, fake_said());
	if (bytes < 0)
		return false;
	w->t.data = gmem_get("a stored weight", bytes, 256);
	status = d->vt->upload(d->d, &w->t, 0, 0, rows,
		s->raw + row * s->stride + nvllm_row_bytes(s->dtype, col), s->dtype, s->stride);
	if (status)
		ck_bad("upload returned %d: %s", status, fake_said());
	return status == 0;
}

/* A kernel's return, once it is done. */
static bool done(struct dev *d, int status)
{
	ck_step_end();
	d->vt->sync(d->d, d->stream);
	if (status)
		ck_bad("returned %d: %s", status, fake_said());
	return status == 0;
}

/* ---- slices ---- */

enum { TABLE_ROWS = 11, TABLE_TOKENS = 13, N_STATE = 2 };

static const int32_t table_tokens[TABLE_TOKENS] = { 0, 3, 4, 5, 10, 10, 3, -1, -2, 9, 1, 2, 7 };
static const int32_t table_last[N_STATE] = { 4, 8 };

static bool embed(struct dev *d, const struct weight *w, int64_t first, struct nvllm_tensor y)
{
	int32_t *tokens = gmem_get("the tokens", sizeof(table_tokens), 4),
		*last = gmem_get("last_token", sizeof(table_last), 4),
		*rest = gmem_get("n_left, done, stop_ids", N_STATE * (2 + NVLLM_STOP_IDS) * 4, 4);
	struct nvllm_slots state = { .size = sizeof(state), .n_slots = N_STATE, .last_token = last,
		.n_left = rest, .done = rest + N_STATE, .stop_ids = rest + 2 * N_STATE };
	struct nvllm_batch b = { .size = sizeof(b), .n_tokens = TABLE_TOKENS, .tokens = tokens,
		.state = &state };
	bool good;

	memcpy(tokens, table_tokens, sizeof(table_tokens));
	memcpy(last, table_last, sizeof(table_last));
	ck_step_begin();
	good = done(d, d->k->embed(d->d, d->stream, y, w->t, first, &b, 1.5));
	gmem_put(tokens), gmem_put(last), gmem_put(rest);
	return good;
}

/* A token's row in the slice that holds it, zeros in the others. A device may keep a slice of
 * one row in another type than the table: a matrix of one row may be a vector. */
static void check_slice(struct nvllm_tensor y, struct nvllm_tensor whole, int64_t first,
	int64_t end, bool same_type)
{
	for (int64_t r = 0; r < y.rows && ck_good(); r++) {
		int32_t t = table_tokens[r];
		bool mine;

		t = t < 0 ? table_last[-1 - t] : t;
		mine = t >= first && t < end;
		for (int64_t i = 0; i < y.cols && mine && !same_type; i++)
			if (fabs((double)mat_row(y, r)[i] - (double)mat_row(whole, r)[i]) >
				BF16_HALF * fabs((double)mat_row(y, r)[i]))
				ck_bad("token %d is %g in rows %ld to %ld and %g in the whole table", t,
					(double)mat_row(y, r)[i], (long)first, (long)end,
					(double)mat_row(whole, r)[i]);
		if (mine && same_type && memcmp(mat_row(y, r), mat_row(whole, r), (size_t)y.cols * 4))
			ck_bad("token %d has other bits in rows %ld to %ld than in the whole table",
				t, (long)first, (long)end);
		for (int64_t i = 0; i < y.cols && !mine; i++)
			if (mat_row(y, r)[i] != 0)
				ck_bad("token %d is not in rows %ld to %ld, and gives %g, not 0", t,
					(long)first, (long)end, (double)mat_row(y, r)[i]);
	}
}

static void check_table(struct dev *d, int type)
{
	static const int64_t first[] = { 0, 4, 4, 5, TABLE_ROWS }; /* 4 rows, none, 1, 6 */
	int64_t cols = nvllm_dtype_block(weight_types[type].dtype, NULL) == 1 ? 37
		: cols_of(weight_types[type].dtype, 96);
	struct nvllm_tensor whole = mat_new("y", TABLE_TOKENS, cols, 0);
	struct nvllm_tensor y = mat_new("y", TABLE_TOKENS, cols, 2);
	struct weight all = { .v = NULL };
	struct source s;

	ck_begin("embed %s, a table in slices", weight_types[type].name);
	if (!source_make(&s, weight_types[type].dtype, TABLE_ROWS, cols, 300 + (uint64_t)type) ||
		!cut(d, &s, 0, TABLE_ROWS, 0, cols, &all)) {
		if (ck_good())
			ck_skip("the device does not store it");
		else
			ck_end();
	} else {
		bool good = embed(d, &all, 0, whole);

		for (int i = 0; i + 1 < COUNT(first) && good; i++) {
			struct weight w;

			good = cut(d, &s, first[i], first[i + 1] - first[i], 0, cols, &w) &&
				embed(d, &w, first[i], y);
			if (good)
				check_slice(y, whole, first[i], first[i + 1],
					w.t.dtype == all.t.dtype);
			gmem_put(w.t.data);
		}
		ck_end();
	}
	gmem_put(all.t.data), gmem_put(whole.data), gmem_put(y.data);
	source_free(&s);
}

/* What the sum of the slices' products may lose: as product() in kernels.c, which rounds
 * each slice by its own largest. */
static double loss(const struct dev *d, const float *x, const double *v, int64_t cols)
{
	double top = 0, size = 0, sq = 0, xsq = 0;

	for (int64_t i = 0; i < cols; i++) {
		top = fmax(top, fabs((double)x[i]));
		size += fabs((double)x[i] * v[i]);
		sq += v[i] * v[i];
		xsq += (double)x[i] * (double)x[i] * v[i] * v[i];
	}
	return 1e-6 + 8e-6 * size + 16 * d->rounding * top * sqrt(sq / 12) +
		(d->act16 ? 8 * 2 * BF16_HALF * sqrt(xsq / 3) : 0);
}

static void check_sum(const struct dev *d, const struct source *s, struct nvllm_tensor x,
	const double *sum)
{
	for (int64_t r = 0; r < x.rows && ck_good(); r++)
		for (int64_t n = 0; n < s->rows && ck_good(); n++) {
			const double *v = s->v + n * s->cols;
			double want = 0, got = sum[r * s->rows + n];

			for (int64_t i = 0; i < s->cols; i++)
				want += (double)mat_row(x, r)[i] * v[i];
			if (!(fabs(got - want) <= loss(d, mat_row(x, r), v, s->cols)))
				ck_bad("row %ld, column %ld: the ranks' products add up to %.7g, "
					"expected %.7g within %.2g", (long)r, (long)n, got, want,
					loss(d, mat_row(x, r), v, s->cols));
		}
}

/* Each rank multiplies its columns of x, a view, and the products are summed. */
static void check_columns(struct dev *d, int type)
{
	static const int64_t first[] = { 0, 3, 5, 5, 6 }; /* units of each rank: 3, 2, none, 1 */
	int64_t block = nvllm_dtype_block(weight_types[type].dtype, NULL);
	int64_t unit = block == 1 ? 13 : block, rows = 3, n = 21;
	struct nvllm_tensor x = mat_random("x", rows, 6 * unit, 1, 310);
	double *sum = calloc((size_t)(rows * n), sizeof(double));
	struct source s;
	bool stored = source_make(&s, weight_types[type].dtype, n, 6 * unit, 320 + (uint64_t)type);

	ck_begin("linear %s, columns in slices", weight_types[type].name);
	for (int i = 0; i + 1 < COUNT(first) && stored && ck_good(); i++) {
		int64_t col = first[i] * unit, cols = first[i + 1] * unit - col;
		struct nvllm_tensor y = mat_new("y", rows, n, 4);
		struct weight w;

		stored = cut(d, &s, 0, n, col, cols, &w);
		if (stored) {
			ck_step_begin();
			done(d, d->k->linear(d->d, d->stream, y, nvllm_cols(x, col, cols), w.t,
				NULL, 0));
		}
		for (int64_t k = 0; k < rows * n && stored; k++)
			sum[k] += (double)mat_row(y, k / n)[k % n];
		gmem_put(w.t.data), gmem_put(y.data);
	}
	if (stored && ck_good())
		check_sum(d, &s, x, sum);
	if (!stored && ck_good())
		ck_skip("the device does not store it");
	else
		ck_end();
	gmem_put(x.data);
	source_free(&s);
	free(sum);
}

/* ---- nothing ---- */

static struct nvllm_tensor nothing(int64_t rows, int64_t cols)
{
	return (struct nvllm_tensor){ .rows = rows, .cols = cols, .stride = cols * 4, .planes = 1,
		.dtype = NVLLM_F32 };
}

/* x wT of no columns is zero: what is left is the bias, and y where it is added. */
static void check_no_columns(struct dev *d, int64_t rows, int64_t n, bool bias, bool add)
{
	struct nvllm_tensor b = mat_random("the bias", 1, n, 0, 330);
	struct nvllm_tensor y0 = mat_random("y before", rows, n, 0, 331);
	struct nvllm_tensor y = mat_new("y", rows, n, 3);

	ck_begin("linear of no columns, x %ld x 0, w %ld rows%s%s", (long)rows, (long)n,
		bias ? ", bias" : "", add ? ", added" : "");
	for (int64_t r = 0; r < rows && add; r++)
		memcpy(mat_row(y, r), mat_row(y0, r), (size_t)n * 4);
	ck_step_begin();
	if (done(d, d->k->linear(d->d, d->stream, y, nothing(rows, 0), nothing(n, 0),
		bias ? &b : NULL, add ? NVLLM_LINEAR_ADD : 0)))
		for (int64_t k = 0; k < rows * n && ck_good(); k++) {
			float want = (add ? mat_row(y0, k / n)[k % n] : 0) +
				(bias ? mat_row(b, 0)[k % n] : 0);

			if (mat_row(y, k / n)[k % n] != want)
				ck_bad("row %ld, column %ld: %g, expected %g", (long)(k / n),
					(long)(k % n), (double)mat_row(y, k / n)[k % n],
					(double)want);
		}
	gmem_put(b.data), gmem_put(y0.data), gmem_put(y.data);
	ck_end();
}

/* Every kernel on [rows][cols] of which one is 0: returns, having touched nothing. */
static void check_nothing(struct dev *d, int64_t rows, int64_t cols)
{
	const struct nvllm_kernels *k = d->k;
	struct nvllm_tensor y = nothing(rows, cols);
	struct nvllm_tensor x = mat_random("x", rows ? rows : 1, 64, 0, 340);
	struct nvllm_tensor freq = mat_random("inv_freq", 1, 8, 0, 341);
	struct nvllm_rotary r = { .size = sizeof(r), .dims = 16, .mscale = 1, .inv_freq = freq };
	struct source s;
	struct weight w, v;
	struct nvllm_norm norm = { .size = sizeof(norm), .kind = NVLLM_RMS_NORM, .eps = 1e-5 };
	int32_t *index = gmem_get("positions and row numbers", rows * 4, 4);
	int status;

	ck_begin("kernels on %ld rows of %ld columns do nothing", (long)rows, (long)cols);
	x.rows = rows;
	memset(index, 0, (size_t)rows * 4);
	if (source_make(&s, NVLLM_F32, cols ? cols : 1, 64, 342) &&
		cut(d, &s, 0, cols, 0, 64, &w) && cut(d, &s, 0, 1, 0, 16, &v)) {
		ck_step_begin();
		norm.w = v.t;
		status = k->linear(d->d, d->stream, y, x, w.t, NULL, 0);
		status = status ? status : k->norm(d->d, d->stream, y, y, &norm);
		status = status ? status : k->add(d->d, d->stream, y, y);
		status = status ? status : k->glu(d->d, d->stream, y, nothing(rows, 2 * cols),
			NVLLM_SILU);
		status = status ? status : k->rope(d->d, d->stream, y, index, 16, &r);
		status = status ? status : k->rows(d->d, d->stream, y, y, index);
		done(d, status);
		gmem_put(w.t.data), gmem_put(v.t.data);
	}
	gmem_put(x.data), gmem_put(freq.data), gmem_put(index);
	source_free(&s);
	ck_end();
}

void check_shares(struct dev *d)
{
	const struct nvllm_kernels *k = d->k;

	for (int i = 0; i < N_WEIGHT_TYPES; i++) {
		if (k->embed)
			check_table(d, i);
		if (k->linear)
			check_columns(d, i);
	}
	for (int i = 0; i < 4 && k->linear; i++)
		check_no_columns(d, 1 + 16 * (i % 2), 5 + 40 * (i / 2), i & 1, i & 2);
	if (!k->linear || !k->norm || !k->add || !k->glu || !k->rope || !k->rows)
		return;
	check_nothing(d, 5, 0);
	check_nothing(d, 0, 32);
	check_nothing(d, 0, 0);
}
