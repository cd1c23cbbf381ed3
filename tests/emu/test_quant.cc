/* SPDX-License-Identifier: MIT */
/* test_quant.cc - dequantise(): every element of every format, bit for bit what the formats' definitions give
 * in f32 (their products are exact, so a double rounded once is that), and rounded once more for bf16. */
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

int main(void)
{
	static const int types[] = { NVLLM_Q4_0, NVLLM_Q4_1, NVLLM_Q8_0, NVLLM_Q4_K, NVLLM_Q6_K };
	struct nvllm_device *dev = check_device(NVLLM_BF16);
	struct nvllm_tensor w = {};

	for (int dtype : types) {
		const int64_t block = nvllm_dtype_block(dtype, NULL);

		for (int to = NVLLM_F32; to <= NVLLM_BF16; to += NVLLM_BF16) {
			one(dev, dtype, 7, block, 0, 0, 0, 7, to, 1);
			one(dev, dtype, 5, block * 3, 1, 3, 1, 3, to, 1e-3);
			one(dev, dtype, 2, 4096, 0, 0, 1, 1, to, 100);
		}
	}
	w.data = &w, w.rows = 1, w.cols = 32, w.stride = 22, w.dtype = NVLLM_Q5_0;
	CHECK(dequantise(dev, NULL, &w, NVLLM_F32, w, 0, 1) == NVLLM_ENOTSUP && *check_said(), "a format without a kernel");
	w.dtype = NVLLM_Q4_0;
	CHECK(dequantise(dev, NULL, dev, NVLLM_F32, w, 1, 1) == NVLLM_EINVAL && *check_said(), "a row that is not there");
	return check_done();
}
