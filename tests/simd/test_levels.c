/* SPDX-License-Identifier: MIT */
/* test_levels.c - products with AVX-512, VNNI and AMX's bytes give the same bits, as their blocks'
 * sums are exact integers; plain C gives the same numbers, but for the rounding of sums. And a weight of
 * so many rows that a thread takes whole groups of panels, in the largest tiles there are: each row
 * of activations has the bits that it has alone. */
#include "../unit/test_cpu.h"

enum { AVX512 = SCALAR + 2, VNNI };

static const int forms[] = { NVLLM_F32, NVLLM_F16, NVLLM_BF16, NVLLM_Q4_0, NVLLM_Q4_1, NVLLM_Q8_0,
	NVLLM_Q4_K, NVLLM_Q5_K, NVLLM_Q6_K };
static const int64_t rows[] = { 1, 2, 3, 4, 7, 8, 45, 16, 64, 77 };

/* The product of x and the weight, and the sizes of what it adds up where size is not NULL. */
static struct nvllm_tensor multiply(int isa, int act, int dtype, const uint8_t *raw, int64_t n,
	struct nvllm_tensor x, double *size)
{
	struct nvllm_tensor y = matrix(x.rows, n, 1);
	struct weight w;
	struct dev dev;

	assert_true(open_isa(&dev, 2, isa, act));
	w = put_weight(&dev, dtype, n, x.cols, raw, nvllm_row_bytes(dtype, x.cols));
	assert_int_equal(vt->kernels->linear(dev.d, NULL, y, x, w.t, NULL, 0), 0);
	for (int64_t i = 0; i < x.rows * n && size; i++) {
		size[i] = 0;
		for (int64_t k = 0; k < x.cols; k++)
			size[i] += fabs(at(x, i / n)[k] * w.value[i % n * x.cols + k]);
	}
	free_weight(&dev, &w);
	close_dev(&dev);
	return y;
}

static void compare(int act, int dtype, int64_t n_x, int64_t n, int64_t cols)
{
	struct nvllm_tensor x = matrix(n_x, cols, 3), a, v, t, c;
	double *size = malloc((size_t)(n_x * n) * sizeof(*size));
	uint8_t *raw = random_weight(dtype, n, cols);

	c = multiply(SCALAR, act, dtype, raw, n, x, size);
	a = multiply(AVX512, act, dtype, raw, n, x, NULL);
	v = multiply(VNNI, act, dtype, raw, n, x, NULL);
	t = multiply(AMX, act, dtype, raw, n, x, NULL);
	for (int64_t i = 0; i < n_x * n; i++) {
		const float *got = at(a, i / n) + i % n, *vnni = at(v, i / n) + i % n, *amx = at(t, i / n) + i % n;

		if (memcmp(got, vnni, sizeof(*got)) || memcmp(got, amx, sizeof(*got)))
			fail_msg("type %d, activations %d, row %d of %d, column %d: AVX-512 gives %a, VNNI %a, AMX %a",
				dtype, act, (int)(i / n), (int)n_x, (int)(i % n), *got, *vnni, *amx);
		check_near(*got, at(c, i / n)[i % n], 4e-6 * size[i] + 1e-6);
	}
	free(x.data), free(a.data), free(v.data), free(t.data), free(c.data), free(raw), free(size);
}

/* Some number of columns that the form may have. */
static int64_t some_cols(int dtype)
{
	const int64_t block = nvllm_dtype_block(dtype, NULL);

	return block * (1 + bits() % (block == 1 ? 600 : block == 32 ? 20 : 3));
}

static void levels_agree(void **state)
{
	for (int act = F32; act <= Q12; act++)
		for (int f = 0; f < N(forms); f++)
			for (int r = 0; r < N(rows); r++)
				compare(act, forms[f], rows[r], 1 + bits() % 130, some_cols(forms[f]));
}

static void alone(int isa, int act, int dtype, int64_t n_x, int64_t n, int64_t cols)
{
	struct nvllm_tensor x = matrix(n_x, cols, 0), y = matrix(n_x, n, 0), z = matrix(1, n, 0);
	struct weight w;
	struct dev dev;

	assert_true(open_isa(&dev, 1, isa, act));
	w = make_weight(&dev, dtype, n, cols);
	assert_int_equal(vt->kernels->linear(dev.d, NULL, y, x, w.t, NULL, 0), 0);
	for (int64_t i = 0; i < n_x; i++) {
		struct nvllm_tensor one = { .data = at(x, i), .rows = 1, .cols = cols, .stride = x.stride,
			.planes = 1 };

		assert_int_equal(vt->kernels->linear(dev.d, NULL, z, one, w.t, NULL, 0), 0);
		assert_memory_equal(z.data, at(y, i), n * 4);
	}
	free(x.data), free(y.data), free(z.data);
	free_weight(&dev, &w);
	close_dev(&dev);
}

static void rows_have_their_own_bits(void **state)
{
	for (int isa = AVX512; isa <= AMX; isa++)
		for (int act = F32; act <= BF16; act++)
			for (int f = 0; f < N(forms); f++)
				for (int r = 2; r < N(rows); r += 2)
					alone(isa, act, forms[f], rows[r], 16 * 37 + 5, some_cols(forms[f]));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(levels_agree),
		cmocka_unit_test(rows_have_their_own_bits),
	};

	return cmocka_run_group_tests(tests, open_plugin, NULL);
}
