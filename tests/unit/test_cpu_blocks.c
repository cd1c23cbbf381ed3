/* SPDX-License-Identifier: MIT */
/* test_cpu_blocks.c - every form a weight may have: known blocks bit for bit, and products,
 * planes and vectors of the forms that are decoded on the way. */
#include "test_cpu.h"

/* tests/data/blocks/NAME.bin: random blocks, and FNV-1a of the floats that gguf-py 0.19.0
 * makes of them (Q8_K: of d * q). NAME_all has every entry of the type's code book. */
static const struct known {
	const char *name;
	int dtype;
	uint64_t hash;
} known[] = {
	{ "BF16", NVLLM_BF16, 0xf11df1797a643166ull },
	{ "F16", NVLLM_F16, 0x507f5fa4630f2fe9ull },
	{ "IQ1_M", NVLLM_IQ1_M, 0xd8cc84ddc223627bull },
	{ "IQ1_S", NVLLM_IQ1_S, 0x9af6e38ab6b8ead0ull },
	{ "IQ2_S", NVLLM_IQ2_S, 0x345e29b54ae9462bull },
	{ "IQ2_XS", NVLLM_IQ2_XS, 0xa90a8a399d9c0992ull },
	{ "IQ2_XXS", NVLLM_IQ2_XXS, 0x63e3177cced26ad4ull },
	{ "IQ3_S", NVLLM_IQ3_S, 0x3d25497903b2cb7aull },
	{ "IQ3_XXS", NVLLM_IQ3_XXS, 0xc4ecf90636c6c529ull },
	{ "IQ4_NL", NVLLM_IQ4_NL, 0xcb537aabff550a58ull },
	{ "IQ4_XS", NVLLM_IQ4_XS, 0x9c757168adcd5b70ull },
	{ "MXFP4", NVLLM_MXFP4, 0xb2d13b0592404fb1ull },
	{ "Q2_K", NVLLM_Q2_K, 0x74d9df9cfa256304ull },
	{ "Q3_K", NVLLM_Q3_K, 0x8b2fc4a6ba791b7bull },
	{ "Q4_0", NVLLM_Q4_0, 0x816095afe739c34aull },
	{ "Q4_1", NVLLM_Q4_1, 0x38cf46607a731d4eull },
	{ "Q4_K", NVLLM_Q4_K, 0xf19209caf532d35cull },
	{ "Q5_0", NVLLM_Q5_0, 0x719c32ab14b8b7d6ull },
	{ "Q5_1", NVLLM_Q5_1, 0x7da47ae81e5d1d1dull },
	{ "Q5_K", NVLLM_Q5_K, 0xb3ca9d8ab0c5a6f0ull },
	{ "Q6_K", NVLLM_Q6_K, 0x02b2d91db65e3849ull },
	{ "Q8_0", NVLLM_Q8_0, 0xb78ef4066184d7bcull },
	{ "Q8_K", NVLLM_Q8_K, 0x39e4bcf882f47f7cull },
	{ "TQ1_0", NVLLM_TQ1_0, 0x47cd876c4ffc4742ull },
	{ "TQ2_0", NVLLM_TQ2_0, 0x588ff23c963d38d0ull },
	{ "IQ1_S_all", NVLLM_IQ1_S, 0xfb7fc5e955fe9efbull },
	{ "IQ2_XXS_all", NVLLM_IQ2_XXS, 0x575464c13e12f972ull },
	{ "IQ2_XS_all", NVLLM_IQ2_XS, 0xff76ac6196b6e496ull },
	{ "IQ2_S_all", NVLLM_IQ2_S, 0xd4358c09e3755ee3ull },
	{ "IQ3_XXS_all", NVLLM_IQ3_XXS, 0x24eafd5aa4da3debull },
	{ "IQ3_S_all", NVLLM_IQ3_S, 0x7a1524b58331e9d6ull },
};

static uint8_t *read_file(const char *name, size_t *len)
{
	char path[256];
	uint8_t *p = malloc(1 << 16);
	FILE *f;

	snprintf(path, sizeof(path), "tests/data/blocks/%s.bin", name);
	f = fopen(path, "rb");
	if (!f)
		fail_msg("%s is missing (run from the source root)", path);
	*len = fread(p, 1, 1 << 16, f);
	fclose(f);
	return p;
}

/* FNV-1a, 64 bits (Fowler, Noll, Vo). */
static uint64_t hash_of(const void *data, size_t len)
{
	const uint8_t *p = data;
	uint64_t h = 0xcbf29ce484222325u;

	for (size_t i = 0; i < len; i++)
		h = (h ^ p[i]) * 0x100000001b3u;
	return h;
}

/* A block a row, read by embed; and all of them as one vector, decoded by upload. */
static void check_blocks(struct dev *dev, const struct known *k)
{
	size_t len;
	uint8_t *raw = read_file(k->name, &len);
	int64_t size = 0, cols = nvllm_dtype_block(k->dtype, &size), n = (int64_t)len / size;
	int32_t *tokens = calloc((size_t)n, 4);
	struct nvllm_batch b = { .size = sizeof(b), .n_tokens = (int32_t)n, .tokens = tokens };
	struct nvllm_tensor y = matrix(n, cols, 0);

	for (int64_t i = 0; i < n; i++)
		tokens[i] = (int32_t)i;
	for (int64_t rows = n, i = 0; i < 2; i++, rows = 1) {
		struct nvllm_tensor t = { .rows = rows, .cols = cols * n / rows, .dtype = k->dtype,
			.planes = 1 };

		t.data = vt->alloc(dev->d, vt->store(dev->d, &t));
		assert_int_equal(t.dtype, rows == 1 ? NVLLM_F32 : k->dtype);
		assert_true(rows > 1 || t.layout == 0);
		assert_int_equal(vt->upload(dev->d, &t, 0, 0, rows, raw, k->dtype,
			(int64_t)len / rows), 0);
		poison(y);
		if (rows > 1)
			assert_int_equal(vt->kernels->embed(dev->d, NULL, y, t, 0, &b, 1), 0);
		else
			memcpy(y.data, t.data, (size_t)(n * cols) * 4);
		if (hash_of(y.data, (size_t)(n * cols) * 4) != k->hash)
			fail_msg("%s: other bits, %s; the first and the last are %a and %a",
				k->name, rows > 1 ? "as rows" : "as a vector", at(y, 0)[0],
				at(y, n - 1)[cols - 1]);
		vt->free(dev->d, t.data);
	}
	free(raw), free(tokens), free(y.data);
}

void blocks_have_their_values(void **state)
{
	struct dev dev;

	for (int isa = FIRST; isa < N_ISA; isa++) {
		if (!open_isa(&dev, 1, isa, AUTO))
			continue;
		for (int i = 0; i < N(known); i++)
			check_blocks(&dev, &known[i]);
		close_dev(&dev);
	}
}

/* All bytes there are, scales that are no numbers among them: what the fastest makes of them
 * is what plain C makes, but for the bits of a NaN. */
void any_bytes_are_rows(void **state)
{
	static float y[2][1024];
	uint8_t raw[4 * 292];

	for (int round = 0; round < 20 * N_MORE; round++) {
		const int dtype = more_dtypes[round % N_MORE];
		const int64_t cols = 4 * nvllm_dtype_block(dtype, NULL);

		for (int i = 0; i < N(raw); i++)
			raw[i] = (uint8_t)bits();
		for (int i = 0; i < 2; i++) {
			struct dev dev;

			assert_true(open_isa(&dev, 1, i ? AUTO : SCALAR, AUTO));
			decode_row(&dev, dtype, raw, cols, y[i]);
			close_dev(&dev);
		}
		for (int64_t k = 0; k < cols; k++)
			assert_true(memcmp(&y[0][k], &y[1][k], 4) == 0 ||
				(isnan(y[0][k]) && isnan(y[1][k])));
	}
}

/* ---- the forms without products of their own ---- */

/* The same bits whatever the setting of activations, and those of the decoded rows as a
 * weight of f32. */
static void check_product(struct dev *dev, int isa, int act, int dtype, int64_t rows, int64_t n,
	int64_t blocks)
{
	const int64_t cols = blocks * nvllm_dtype_block(dtype, NULL);
	struct nvllm_tensor x = matrix(rows, cols, 1), y = matrix(rows, n, 2), z = matrix(rows, n,
		0);
	struct weight w = make_weight(dev, dtype, n, cols);
	float *plain = malloc((size_t)(n * cols) * 4);
	struct weight f;

	for (int64_t i = 0; i < n * cols; i++)
		plain[i] = (float)w.value[i];
	f = put_weight(dev, NVLLM_F32, n, cols, (uint8_t *)plain, cols * 4);
	poison(y), poison(z);
	assert_int_equal(vt->kernels->linear(dev->d, NULL, y, x, w.t, NULL, 0), 0);
	assert_int_equal(vt->kernels->linear(dev->d, NULL, z, x, f.t, NULL, 0), 0);
	for (int64_t i = 0; i < rows; i++) {
		assert_memory_equal(at(y, i), at(z, i), n * 4);
		for (int64_t k = 0; k < n; k++) {
			double sum = 0, size = 0;

			for (int64_t c = 0; c < cols; c++) {
				const double v = w_of(isa, act, w.value[k * cols + c]);

				sum += x_of(act, at(x, i)[c]) * v;
				size += fabs(at(x, i)[c] * v);
			}
			check_near(at(y, i)[k], sum, 4e-6 * size + 1e-6);
		}
	}
	check_gaps(y);
	free(x.data), free(y.data), free(z.data), free(plain);
	free_weight(dev, &w), free_weight(dev, &f);
}

void decoded_forms_multiply(void **state)
{
	struct dev dev;

	for (int isa = FIRST; isa < N_ISA; isa++)
		for (int act = AUTO; act <= BF16; act++) {
			if (!open_isa(&dev, 2, isa, act))
				continue;
			for (int i = 0; i < N_MORE; i++) {
				if (is_k(more_dtypes[i]) && act != F32 && act != BF16)
					continue; /* linear_is_right() */
				check_product(&dev, isa, act, more_dtypes[i], 1, 19, 2);
				check_product(&dev, isa, act, more_dtypes[i], 5, 6, 1);
				check_product(&dev, isa, act, more_dtypes[i], 67, 5, 1);
			}
			close_dev(&dev);
		}
}

/* ---- planes ---- */

/* Each plane is filled by itself, in pieces, in any order, and is a weight of its own. */
static void check_planes(struct dev *dev, int dtype)
{
	enum { PLANES = 5, ROWS = 7 };
	const int64_t cols = 2 * nvllm_dtype_block(dtype, NULL) + (dtype == NVLLM_F32 ? 5 : 0);
	const int64_t row = nvllm_row_bytes(dtype, cols);
	struct nvllm_tensor t = { .rows = ROWS, .cols = cols, .dtype = dtype, .planes = PLANES };
	struct nvllm_tensor x = matrix(3, cols, 0), y = matrix(3, ROWS, 0), z = matrix(3, ROWS, 0);
	uint8_t *raw = random_weight(dtype, PLANES * ROWS, cols);
	int64_t bytes = vt->store(dev->d, &t);

	assert_int_equal(t.dtype, dtype);
	assert_true(t.plane_stride >= ROWS * t.stride && bytes >= PLANES * t.plane_stride);
	t.data = vt->alloc(dev->d, bytes);
	for (int p = PLANES - 1; p >= 0; p--) {
		const uint8_t *src = raw + p * ROWS * row;

		assert_int_equal(vt->upload(dev->d, &t, p, 3, ROWS - 3, src + 3 * row, dtype, row),
			0);
		assert_int_equal(vt->upload(dev->d, &t, p, 0, 3, src, dtype, row), 0);
	}
	assert_int_equal(vt->upload(dev->d, &t, PLANES, 0, 1, raw, dtype, row), NVLLM_EINVAL);
	assert_int_equal(vt->upload(dev->d, &t, -1, 0, 1, raw, dtype, row), NVLLM_EINVAL);
	for (int p = 0; p < PLANES; p++) {
		struct weight one = put_weight(dev, dtype, ROWS, cols, raw + p * ROWS * row, row);
		struct nvllm_tensor view = t;

		view.data = (char *)t.data + p * t.plane_stride;
		view.planes = 1, view.plane_stride = 0;
		assert_int_equal(vt->kernels->linear(dev->d, NULL, y, x, view, NULL, 0), 0);
		assert_int_equal(vt->kernels->linear(dev->d, NULL, z, x, one.t, NULL, 0), 0);
		assert_memory_equal(y.data, z.data, 3 * ROWS * 4);
		free_weight(dev, &one);
	}
	vt->free(dev->d, t.data);
	free(raw), free(x.data), free(y.data), free(z.data);
}

void planes_are_apart(void **state)
{
	struct dev dev;

	assert_int_equal(open_dev(&dev, 2, AUTO, AUTO), 0);
	for (int i = 0; i < N(dtypes); i++)
		check_planes(&dev, dtypes[i]);
	for (int i = 0; i < N_MORE; i++)
		check_planes(&dev, more_dtypes[i]);
	close_dev(&dev);
}
