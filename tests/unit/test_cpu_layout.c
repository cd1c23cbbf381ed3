/* SPDX-License-Identifier: MIT */
/* test_cpu_layout.c - how a weight is kept changes no bit of a result: panels made at load, by
 * pieces that come in any order, or anew for each product. */
#include "test_cpu.h"

enum { X = 5, LONG = 1536 };

/* Rows of raw in pieces, the last first, so that no piece but by chance is a whole panel. */
static struct nvllm_tensor by_pieces(struct dev *dev, int dtype, int64_t rows, int64_t cols, const uint8_t *raw,
	int64_t step)
{
	struct nvllm_tensor t = { .rows = rows, .cols = cols, .dtype = dtype, .planes = 1 };
	const int64_t stride = nvllm_row_bytes(dtype, cols);
	const int64_t bytes = vt->store(dev->d, &t);

	t.data = vt->alloc(dev->d, bytes);
	memset(t.data, 0xff, (size_t)bytes); /* NaN where nothing is written */
	for (int64_t row = (rows - 1) / step * step; row >= 0; row -= step)
		assert_int_equal(vt->upload(dev->d, &t, 0, row, rows - row < step ? rows - row : step,
			raw + row * stride, dtype, stride), 0);
	return t;
}

static void check_layouts(int isa, int act, int dtype, int64_t rows, int64_t cols)
{
	uint8_t *raw = random_weight(dtype, rows, cols);
	struct nvllm_tensor x = matrix(X, cols, 0), y[4], e[4];
	static const int64_t steps[] = { 1 << 20, 1 << 20, 1, 5 };
	int32_t tokens[X];
	struct nvllm_batch b = { .size = sizeof(b), .n_tokens = X, .tokens = tokens };

	for (int i = 0; i < X; i++)
		tokens[i] = (int32_t)(bits() % (uint32_t)rows);
	for (int i = 0; i < N(y); i++) {
		struct nvllm_tensor w;
		struct dev dev;

		repack = i == 0; /* off */
		assert_true(open_isa(&dev, 1 + i % 3, isa, act));
		repack = 0;
		w = by_pieces(&dev, dtype, rows, cols, raw, steps[i]);
		y[i] = matrix(X, rows, 2), e[i] = matrix(X, cols, 0);
		assert_int_equal(vt->kernels->linear(dev.d, NULL, y[i], x, w, NULL, 0), 0);
		assert_int_equal(vt->kernels->embed(dev.d, NULL, e[i], w, 0, &b, 1), 0);
		for (int64_t r = 0; r < X && i; r++) {
			assert_memory_equal(at(y[i], r), at(y[0], r), rows * 4);
			assert_memory_equal(at(e[i], r), at(e[0], r), cols * 4);
		}
		vt->free(dev.d, w.data);
		close_dev(&dev);
	}
	for (int i = 0; i < N(y); i++)
		free(y[i].data), free(e[i].data);
	free(raw), free(x.data);
}

void layouts_change_no_bit(void **state)
{
	static const int64_t rows[] = { 2, 7, 8, 16, 17, 37, 150 }, cols[] = { 32, 96, LONG };
	struct dev dev;

	for (int isa = FIRST; isa < N_ISA; isa++)
		for (int act = F32; act <= BF16; act++) {
			if (!open_isa(&dev, 1, isa, act))
				continue;
			close_dev(&dev);
			for (int i = 0; i < N(dtypes) * N(rows); i++)
				check_layouts(isa, act, dtypes[i % N(dtypes)], rows[i / N(dtypes)],
					cols[bits() % N(cols)]);
			for (int i = 0; i < 3 * N(rows); i++)
				check_layouts(isa, act, NVLLM_Q4_K + i % 3, rows[i / 3], 256 * (1 + bits() % 3));
			check_layouts(isa, act, NVLLM_F16, 19, 77);
			check_layouts(isa, act, NVLLM_F32, 19, 77);
		}
}
