/* SPDX-License-Identifier: MIT */
/* test_cpu_share.c - the CPU device as one rank of a group: slices of a table and of a
 * weight's columns, shares of nothing, and how many threads a rank takes. */
#include "test_cpu.h"

/* ---- slices ---- */

/* A row is whole in one slice and zero in the others: their sum is the whole, to the bit. */
static void check_table(struct dev *dev, int dtype)
{
	enum { ROWS = 11, COLS = 96, T = 14 };
	const int64_t stride = nvllm_row_bytes(dtype, COLS);
	int64_t first[] = { 0, 4, 4, 5, ROWS }; /* 4 rows, none, 1, 6 */
	int32_t tokens[T] = { 0, 3, 4, 5, 10, 10, 3, -1, -2, 9, 1, 2, 6, 7 }, last[] = { 4, 8 };
	struct nvllm_slots st = { .size = sizeof(st), .n_slots = 2, .last_token = last };
	struct nvllm_batch b = { .size = sizeof(b), .n_tokens = T, .tokens = tokens, .state = &st };
	uint8_t *raw = random_weight(dtype, ROWS, COLS);
	struct weight all = put_weight(dev, dtype, ROWS, COLS, raw, stride);
	struct nvllm_tensor whole = matrix(T, COLS, 0), y = matrix(T, COLS, 3);
	float zero[COLS] = { 0 };

	assert_int_equal(vt->kernels->embed(dev->d, NULL, whole, all.t, 0, &b, 0.75), 0);
	for (int k = 0; k + 1 < N(first); k++) {
		const int64_t n = first[k + 1] - first[k];
		struct weight part = put_weight(dev, dtype, n, COLS, raw + first[k] * stride,
			stride);

		if (!n)
			vt->free(dev->d, part.t.data), part.t.data = NULL;
		poison(y);
		assert_int_equal(vt->kernels->embed(dev->d, NULL, y, part.t, first[k], &b, 0.75),
			0);
		for (int i = 0; i < T; i++) {
			const int32_t t = tokens[i] < 0 ? last[-1 - tokens[i]] : tokens[i];
			const int mine = t >= first[k] && t < first[k + 1];

			assert_memory_equal(at(y, i), mine ? at(whole, i) : zero, COLS * 4);
		}
		check_gaps(y);
		free_weight(dev, &part);
	}
	free_weight(dev, &all);
	free(raw), free(whole.data), free(y.data);
}

void tables_come_in_slices(void **state)
{
	struct dev dev;

	for (int isa = FIRST; isa < N_ISA; isa++) {
		if (!open_isa(&dev, 2, isa, AUTO))
			continue;
		for (int i = 0; i < N(dtypes); i++)
			check_table(&dev, dtypes[i]);
		close_dev(&dev);
	}
}

/* What f32 sums of a row's products may lose, over all of its terms. */
static double margin_of(const float *x, const double *w, int64_t n)
{
	double size = 0, most = 0;

	for (int64_t i = 0; i < n; i++) {
		size += fabs((double)x[i]);
		most = fmax(most, fabs(w[i]));
	}
	return 1e-5 * size * most + 1e-6;
}

/* x wT as `ranks` ranks compute it, each from its columns, and summed in their order. */
static void check_columns(struct dev *dev, int dtype, int64_t rows, int64_t n, int64_t units,
	int ranks)
{
	const int64_t unit = is_blocks(dtype) ? 32 : 7, cols = units * unit;
	const int64_t stride = nvllm_row_bytes(dtype, cols);
	uint8_t *raw = random_weight(dtype, n, cols);
	struct weight w = put_weight(dev, dtype, n, cols, raw, stride);
	struct nvllm_tensor x = matrix(rows, cols, 0), whole = matrix(rows, n, 0);
	struct nvllm_tensor part = matrix(rows, n, 2), sum = matrix(rows, n, 0);

	assert_int_equal(vt->kernels->linear(dev->d, NULL, whole, x, w.t, NULL, 0), 0);
	memset(sum.data, 0, (size_t)(rows * n) * 4);
	for (int r = 0; r < ranks; r++) { /* as evenly as units go, the lower ranks first */
		const int64_t more = units % ranks, least = units / ranks;
		const int64_t from = (r * least + (r < more ? r : more)) * unit;
		const int64_t wide = (least + (r < more)) * unit;
		struct weight mine = put_weight(dev, dtype, n, wide,
			raw + nvllm_row_bytes(dtype, from), stride);

		poison(part);
		assert_int_equal(vt->kernels->linear(dev->d, NULL, part,
			nvllm_cols(x, from, wide), mine.t, NULL, 0), 0);
		for (int64_t i = 0; i < rows * n; i++)
			at(sum, i / n)[i % n] += at(part, i / n)[i % n];
		check_gaps(part);
		free_weight(dev, &mine);
	}
	for (int64_t i = 0; i < rows * n; i++)
		check_near(at(sum, i / n)[i % n], at(whole, i / n)[i % n],
			margin_of(at(x, i / n), w.value + i % n * cols, cols));
	free_weight(dev, &w);
	free(raw), free(x.data), free(whole.data), free(part.data), free(sum.data);
}

void products_come_in_slices(void **state)
{
	struct dev dev;

	for (int isa = FIRST; isa < N_ISA; isa++) {
		for (int act = F32; act <= BF16; act++) {
			if (!open_isa(&dev, 2, isa, act))
				continue;
			for (int i = 0; i < N(dtypes) * 9; i++)
				check_columns(&dev, dtypes[i % N(dtypes)], 1 + i % 7, 5 + i % 13,
					1 + (int64_t)(bits() % 12), 1 + i / N(dtypes) % 4);
			close_dev(&dev);
		}
	}
}

/* A vector is filled in pieces too, each a view of it: of several in a row, or of its own
 * elements. Nothing is written, or read, beyond a piece. */
void vectors_come_in_pieces(void **state)
{
	static const int from[] = { 0, 5, 37, 64 };
	float src[64], *piece;
	struct dev dev;

	assert_int_equal(open_dev(&dev, 1, AUTO, AUTO), 0);
	for (int as = 0; as < 2; as++) {
		const int dtype = as ? NVLLM_BF16 : NVLLM_F32, size = as ? 2 : 4;
		struct nvllm_tensor t = { .rows = 1, .cols = 64, .dtype = dtype, .planes = 1 };

		t.data = vt->alloc(dev.d, vt->store(dev.d, &t));
		assert_int_equal(t.dtype, NVLLM_F32);
		memset(t.data, 0xff, 64 * 4);
		for (int i = 0; i < 64; i++)
			src[i] = (float)i;
		for (int i = N(from) - 2; i >= 0; i--) { /* backwards: no later piece mends */
			struct nvllm_tensor view = t;

			view.data = (float *)t.data + from[i];
			view.cols = from[i + 1] - from[i];
			piece = malloc((size_t)(view.cols * size)); /* of that length */
			for (int k = 0; k < view.cols; k++)
				memcpy((char *)piece + k * size,
					(char *)&src[from[i] + k] + (4 - size), (size_t)size);
			assert_int_equal(vt->upload(dev.d, &view, 0, 0, 1, piece, dtype,
				view.cols * size), 0);
			free(piece);
			for (int k = 0; k < from[i]; k++)
				assert_true(isnan(((float *)t.data)[k]));
		}
		assert_memory_equal(t.data, src, sizeof(src)); /* whole numbers of 8 bits at most */
		vt->free(dev.d, t.data);
	}
	close_dev(&dev);
}

/* ---- nothing ---- */

/* No columns: the product is zero, bias and y stay. */
static void check_no_columns(struct dev *dev, int dtype, int64_t rows, int64_t n)
{
	struct nvllm_tensor w = { .rows = n, .dtype = dtype, .planes = 1 };
	struct nvllm_tensor x = { .rows = rows, .planes = 1 };
	struct nvllm_tensor y = matrix(rows, n, 2), old = matrix(rows, n, 0);
	struct nvllm_tensor bias = matrix(1, n, 0);

	assert_int_equal(vt->store(dev->d, &w), 0);
	assert_int_equal(vt->upload(dev->d, &w, 0, 0, n, NULL, dtype, 0), 0);
	for (int i = 0; i < 4; i++) {
		poison(y);
		for (int64_t r = 0; r < rows && (i & 2); r++)
			memcpy(at(y, r), at(old, r), (size_t)n * 4);
		assert_int_equal(vt->kernels->linear(dev->d, NULL, y, x, w, i & 1 ? &bias : NULL,
			i & 2 ? NVLLM_LINEAR_ADD : 0), 0);
		for (int64_t k = 0; k < rows * n; k++)
			assert_true(at(y, k / n)[k % n] == (i & 2 ? at(old, k / n)[k % n] : 0) +
				(i & 1 ? at(bias, 0)[k % n] : 0));
		check_gaps(y);
	}
	free(y.data), free(old.data), free(bias.data);
}

/* No rows of a weight, no rows of x, no columns of an activation: nothing is done. */
static void check_empty(struct dev *dev, int64_t rows, int64_t cols)
{
	const struct nvllm_tensor none = { .rows = rows, .cols = cols, .stride = cols * 4,
		.planes = 1 }, twice = { .rows = rows, .cols = 2 * cols, .stride = cols * 8,
		.planes = 1 };
	struct weight w = make_weight(dev, NVLLM_Q8_0, cols, 64);
	struct nvllm_tensor x = matrix(rows, 64, 0), d = none, no_weight = w.t;
	struct nvllm_norm norm = { .size = sizeof(norm), .w = { .rows = 1, .cols = 64,
		.stride = 256, .data = x.data } };
	struct nvllm_rotary rotary = { .size = sizeof(rotary), .dims = 2, .mscale = 1 };
	struct nvllm_batch b = { .size = sizeof(b), .n_tokens = (int32_t)rows };
	const struct nvllm_kernels *k = vt->kernels;

	if (!cols)
		no_weight.data = NULL;
	assert_int_equal(k->linear(dev->d, NULL, none, x, no_weight, NULL, 0), 0);
	assert_int_equal(k->norm(dev->d, NULL, none, none, &norm), 0);
	norm.w = (struct nvllm_tensor){ .rows = 1, .planes = 1 };
	assert_int_equal(k->norm(dev->d, NULL, none, none, &norm), 0);
	assert_int_equal(k->add(dev->d, NULL, none, none), 0);
	d.stride = 0;
	assert_int_equal(k->add(dev->d, NULL, none, d), 0);
	assert_int_equal(k->glu(dev->d, NULL, none, twice, NVLLM_SILU), 0);
	assert_int_equal(k->rope(dev->d, NULL, none, NULL, 64, &rotary), 0);
	assert_int_equal(k->rows(dev->d, NULL, none, none, NULL), 0);
	if (!rows)
		assert_int_equal(k->embed(dev->d, NULL, x, w.t, 0, &b, 1), 0);
	free_weight(dev, &w);
	free(x.data);
}

void nothing_is_a_share_too(void **state)
{
	struct dev dev;

	for (int isa = FIRST; isa < N_ISA; isa++) {
		if (!open_isa(&dev, 2, isa, AUTO))
			continue;
		for (int i = 0; i < N(dtypes); i++) { /* before any scratch was asked for, too */
			check_no_columns(&dev, dtypes[i], 1, 5);
			check_no_columns(&dev, dtypes[i], 70, 700);
		}
		check_empty(&dev, 3, 0);
		check_empty(&dev, 0, 64);
		check_empty(&dev, 0, 0);
		close_dev(&dev);
	}
}

/* ---- threads ---- */

static int32_t workers_of(int threads, int32_t ranks)
{
	struct nvllm_device_info in = { .size = sizeof(in) };
	struct dev dev;

	world = ranks;
	assert_int_equal(open_dev(&dev, threads, AUTO, AUTO), 0);
	world = 1;
	assert_int_equal(vt->info(dev.d, &in), 0);
	close_dev(&dev);
	return in.n_workers;
}

void ranks_share_the_cores(void **state)
{
	const int32_t all = workers_of(0, 1);

	for (int32_t ranks = 2; ranks <= 9; ranks++) {
		assert_int_equal(workers_of(0, ranks), all / ranks > 1 ? all / ranks : 1);
		assert_int_equal(workers_of(3, ranks), 3);
	}
}
