/* SPDX-License-Identifier: MIT */
/* test_quant.cc - dequantise(): every element of every format, bit for bit what the formats' definitions give
 * in f32 (their products are exact, or like e4m3's one product, so a double rounded once is that), and rounded once
 * more for bf16. fp8_rows(): scales and bytes against a search of the nearest. */
#include <float.h>

#include "mat.h"
#include "../../backends/cuda/quant.cu"

static void one(struct nvllm_device *dev, int dtype, int64_t rows, int64_t cols, int64_t pad, int64_t skip, int64_t row, int64_t n,
	int to, double std)
{
	struct rnd r = rnd_seed((uint64_t)(dtype * 1000 + cols));
	struct mat w = mat_new(dtype, rows, cols, pad, skip), y = mat_new(to, n, cols);
	int64_t bad = 0;

	mat_fill(&w, &r, std);
	CHECK_EQ(dequantise(dev, NULL, y.t.data, to, w.t, row, n), 0, "type %d to %d", dtype, to);
	for (int64_t i = 0; i < n; i++)
		for (int64_t c = 0; c < cols; c++) {
			const float want = (float)mat_num(&w, row + i, c), got = (float)mat_get(&y, i, c);

			bad += got != (to == NVLLM_F32 ? want : to_f32(from_f32<bf16>(want)));
		}
	CHECK_EQ(bad, 0, "type %d [%d][%d], rows %d to %d, to %d", dtype, (int)rows, (int)cols, (int)row, (int)(row + n), to);
	CHECK(mat_gaps_ok(&y) && mat_gaps_ok(&w), "nothing else is written");
	mat_free(&w), mat_free(&y);
}

/* ---- to e4m3 ---- */

/* The nearest of the 127 positive numbers and zero; of two, the one whose byte is even. */
static uint8_t nearest(double x)
{
	const double a = fabs(x);
	int best = 0;

	for (int b = 1; b < 0x7f; b++) {
		const double d = fabs(e4m3_num((uint8_t)b) - a) - fabs(e4m3_num((uint8_t)best) - a);

		if (d < 0 || (d == 0 && b % 2 == 0))
			best = b;
	}
	return (uint8_t)(best | (signbit(x) ? 0x80 : 0));
}

static float largest(const struct mat *x, int64_t r)
{
	double most = 0;

	for (int64_t c = 0; c < x->t.cols; c++) {
		const double v = fabs(mat_get(x, r, c));

		if (!(v <= most))
			most = v;
		if (!(v < INFINITY))
			return NAN;
	}
	return (float)most;
}

static void check_rows(struct nvllm_device *dev, const struct mat *x, const char *what)
{
	struct mat y = mat_new(NVLLM_F8_E4M3, x->t.rows, x->t.cols, 2, 1);
	int64_t bad = 0;

	CHECK_EQ(fp8_rows(dev, NULL, y.t.data, y.t.stride, x->t.data, x->t.dtype, x->t.stride, x->t.rows, x->t.cols), 0, "%s", what);
	for (int64_t r = 0; r < x->t.rows; r++) {
		const float most = largest(x, r), *head = (const float *)mat_row(&y, r);
		const float scale = most == 0 ? 1 : fmaxf(most / 448, FLT_MIN);

		bad += most == most ? head[0] != scale : head[0] == head[0];
		bad += head[1] != 0 || head[2] != 0 || head[3] != 0;
		for (int64_t c = 0; c < x->t.cols; c++) {
			const uint8_t got = ((const uint8_t *)head)[FP8_HEAD + c];

			bad += got != (most == most ? nearest((double)((float)mat_get(x, r, c) / scale)) : 0);
		}
	}
	CHECK_EQ(bad, 0, "%s: [%d][%d] of type %d", what, (int)x->t.rows, (int)x->t.cols, x->t.dtype);
	CHECK(mat_gaps_ok(&y), "nothing else is written");
	mat_free(&y);
}

/* Rows as they come, and those that are at the edges of something. */
static void to_e4m3(struct nvllm_device *dev)
{
	static const int types[] = { NVLLM_F32, NVLLM_F16, NVLLM_BF16 };
	struct rnd r = rnd_seed(11);

	for (int type : types) {
		struct mat x = mat_new(type, 9, 1040, type == NVLLM_F32 ? 4 : 8, 8), odd = mat_new(type, 9, 32);

		mat_fill(&x, &r, 0.02);
		check_rows(dev, &x, "random rows");
		mat_fill(&odd, &r, 1);
		for (int c = 0; c < 32; c++) {
			mat_set(&odd, 0, c, c % 2 ? -0.0 : 0.0);
			mat_set(&odd, 1, c, c == 31 ? -448 : (c + 0.5) * 0x1p-9);  /* halves between denormals, and their end */
			mat_set(&odd, 2, c, c == 7 ? 448 : 16 * (c + 17));         /* halves at the top: 272, 304, ... 448 */
			mat_set(&odd, 3, c, c == 3 ? INFINITY : c);
			mat_set(&odd, 4, c, c == 30 ? NAN : c);
			mat_set(&odd, 5, c, type == NVLLM_F16 ? 65504 : (c % 2 ? 1 : -1) * 3.3e38);
			mat_set(&odd, 6, c, c * ldexp(1, type == NVLLM_F16 ? -24 : -133)); /* denormals */
			mat_set(&odd, 7, c, c == 0 ? 1 : ldexp(1, -c));            /* most of a row rounds to zero */
		}
		for (int c = 0; c < 32; c++)
			mat_set(&odd, 2, c, fmin(mat_get(&odd, 2, c), 448));
		check_rows(dev, &odd, "odd rows");
		mat_free(&x), mat_free(&odd);
	}
}

/* There and back: each number is off by at most a sixteenth of itself, or half the smallest step. */
static void there_and_back(struct nvllm_device *dev)
{
	struct mat x = mat_new(NVLLM_F32, 6, 512), q = mat_new(NVLLM_F8_E4M3, 6, 512), y = mat_new(NVLLM_F32, 6, 512);
	struct rnd r = rnd_seed(12);
	int64_t bad = 0;

	mat_fill(&x, &r, 3);
	CHECK_EQ(fp8_rows(dev, NULL, q.t.data, q.t.stride, x.t.data, x.t.dtype, x.t.stride, 6, 512), 0, "there");
	CHECK_EQ(dequantise(dev, NULL, y.t.data, NVLLM_F32, q.t, 0, 6), 0, "and back");
	for (int64_t i = 0; i < 6; i++)
		for (int64_t c = 0; c < 512; c++) {
			const double v = mat_get(&x, i, c), step = (double)largest(&x, i) / 448 * 0x1p-10;

			bad += !(fabs(mat_get(&y, i, c) - v) <= fabs(v) / 16 * 1.000001 + step);
		}
	CHECK_EQ(bad, 0, "numbers stay near");
	mat_free(&x), mat_free(&q), mat_free(&y);
}

static void refusals(struct nvllm_device *dev)
{
	struct mat x = mat_new(NVLLM_F32, 3, 32), q = mat_new(NVLLM_F8_E4M3, 3, 32);
	struct nvllm_tensor w = q.t;

	CHECK(fp8_rows(dev, NULL, q.t.data, q.t.stride, x.t.data, NVLLM_Q8_0, 128, 3, 32) == NVLLM_ENOTSUP && *check_said(), "from Q8_0");
	CHECK(fp8_rows(dev, NULL, q.t.data, q.t.stride, x.t.data, NVLLM_F32, 128, 3, 24) == NVLLM_EINVAL && *check_said(), "24 columns");
	CHECK(fp8_rows(dev, NULL, q.t.data, 32, x.t.data, NVLLM_F32, 128, 3, 32) == NVLLM_EINVAL && *check_said(), "rows that overlap");
	CHECK_EQ(fp8_rows(dev, NULL, q.t.data, q.t.stride, x.t.data, NVLLM_F32, 128, 0, 32), 0, "no rows");
	w.layout = 0;
	CHECK(dequantise(dev, NULL, x.t.data, NVLLM_F32, w, 0, 3) == NVLLM_EINVAL && *check_said(), "e4m3 without scales");
	mat_free(&x), mat_free(&q);
}

int main(void)
{
	static const int types[] = { NVLLM_Q4_0, NVLLM_Q4_1, NVLLM_Q8_0, NVLLM_Q4_K, NVLLM_Q6_K, NVLLM_F8_E4M3 };
	struct nvllm_device *dev = check_device(NVLLM_BF16);
	struct nvllm_tensor w = {};

	for (int dtype : types) {
		const int64_t block = nvllm_dtype_block(dtype, NULL);

		for (int to = NVLLM_F32; to <= NVLLM_BF16; to += NVLLM_BF16) {
			one(dev, dtype, 7, block > 1 ? block : 16, 0, 0, 0, 7, to, 1);
			one(dev, dtype, 5, block > 1 ? block * 3 : 208, 1, 3, 1, 3, to, 1e-3);
			one(dev, dtype, 2, 4096, 0, 0, 1, 1, to, 100);
		}
	}
	to_e4m3(dev);
	there_and_back(dev);
	refusals(dev);
	w.data = &w, w.rows = 1, w.cols = 32, w.stride = 22, w.dtype = NVLLM_Q5_0;
	CHECK(dequantise(dev, NULL, &w, NVLLM_F32, w, 0, 1) == NVLLM_ENOTSUP && *check_said(), "a format without a kernel");
	w.dtype = NVLLM_Q4_0;
	CHECK(dequantise(dev, NULL, dev, NVLLM_F32, w, 1, 1) == NVLLM_EINVAL && *check_said(), "a row that is not there");
	return check_done();
}
