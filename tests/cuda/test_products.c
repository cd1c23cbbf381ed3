/* SPDX-License-Identifier: MIT */
/* Products of the CUDA device, likewise: which routine computes one and with which views, plans and what was
 * timed for them. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <cuda_runtime_api.h>

#include "../../backends/cuda/lt.h"
#include "rig.h"

/* ---- products ---- */

struct product { int64_t T, N, K, pad; int32_t w, x, y; int bias, add; };

static void check_product(const struct product *p)
{
	char *src = random_rows(p->w, p->N, p->K, 0);
	struct nvllm_tensor w = stored_cut(p->w, p->N, p->K, NVLLM_CUT_HEADS), x = matrix(p->x, p->T, p->K, p->pad), y = matrix(p->y, p->T, p->N, p->pad);
	struct nvllm_tensor bias = matrix(NVLLM_F32, 1, p->N, 0);
	double *want = malloc(sizeof(double) * (size_t)(p->T * p->N)), *size = malloc(sizeof(double) * (size_t)(p->T * p->N)), worst = 0;

	assert_int_equal(vt->upload(dev, &w, 0, 0, p->N, src, p->w, nvllm_row_bytes(p->w, p->K)), 0);
	assert_int_equal(vt->sync(dev, vt->stream(dev)), 0);
	for (int64_t n = 0; n < p->N; n++) {
		float *row = num_weight_row(&w, n);

		for (int64_t t = 0; t < p->T; t++) {
			double sum = p->add ? (double)num_get(p->y, (char *)y.data + t * y.stride, n) : 0;

			sum += p->bias ? (double)num_get(NVLLM_F32, bias.data, n) : 0;
			size[t * p->N + n] = 1 + fabs(sum);
			for (int64_t k = 0; k < p->K; k++) {
				const double v = (double)row[k] * (double)num_get(p->x, (char *)x.data + t * x.stride, k);

				sum += v;
				size[t * p->N + n] += fabs(v);
			}
			want[t * p->N + n] = sum;
		}
		free(row);
	}
	if (vt->kernels->linear(dev, vt->stream(dev), y, x, w, p->bias ? &bias : NULL, p->add ? NVLLM_LINEAR_ADD : 0))
		fail_msg("%s", said);
	assert_int_equal(vt->sync(dev, vt->stream(dev)), 0);
	for (int64_t t = 0; t < p->T; t++)
		for (int64_t n = 0; n < p->N; n++) {
			const double off = fabs((double)num_get(p->y, (char *)y.data + t * y.stride, n) - want[t * p->N + n]) /
				size[t * p->N + n];

			worst = off > worst || isnan(off) ? off : worst;
		}
	/* numbers of x and float weights are short: only y and what blocks stand for are rounded */
	if (!(worst < (p->y == NVLLM_BF16 || (w.dtype > NVLLM_BF16 && p->x == NVLLM_BF16) ? 4e-3 : 1e-6)))
		fail_msg("T %d N %d K %d, types %d %d %d: off by %g", (int)p->T, (int)p->N, (int)p->K, p->w, p->x, p->y, worst);
	for (int64_t t = 0; t + 1 < p->T; t++)
		for (int64_t b = p->N * (p->y == NVLLM_F32 ? 4 : 2); b < y.stride; b++)
			assert_int_equal(((unsigned char *)y.data)[t * y.stride + b], 0xFF);
	vt->free(dev, w.data), vt->free(dev, x.data), vt->free(dev, y.data), vt->free(dev, bias.data);
	free(src);
	free(want);
	free(size);
}

static void test_products(void **state)
{
	static const struct product all[] = {
		{ 1, 40, 64, 0, NVLLM_BF16, NVLLM_BF16, NVLLM_BF16, 0, 0 }, { SKINNY_ROWS, 40, 64, 0, NVLLM_BF16, NVLLM_BF16, NVLLM_F32, 1, 1 },
		{ SKINNY_ROWS + 1, 40, 64, 0, NVLLM_BF16, NVLLM_BF16, NVLLM_F32, 0, 0 }, { 33, 41, 19, 3, NVLLM_BF16, NVLLM_BF16, NVLLM_F32, 1, 1 },
		{ 2 * SKINNY_ROWS + 4, 40, 64, 8, NVLLM_BF16, NVLLM_BF16, NVLLM_BF16, 1, 0 }, { 2 * SKINNY_ROWS + 4, 40, 64, 0, NVLLM_BF16, NVLLM_F32, NVLLM_F32, 1, 1 },
		{ 600, 24, 32, 0, NVLLM_BF16, NVLLM_BF16, NVLLM_F32, 0, 1 }, { 2 * SKINNY_ROWS + 4, 1, 64, 0, NVLLM_F32, NVLLM_BF16, NVLLM_BF16, 0, 0 },
		{ 2 * SKINNY_ROWS + 4, 70, 64, 1, NVLLM_Q4_0, NVLLM_BF16, NVLLM_F32, 1, 1 }, { 2 * SKINNY_ROWS + 4, 70, 256, 0, NVLLM_Q6_K, NVLLM_BF16, NVLLM_BF16, 0, 0 },
		{ 2 * SKINNY_ROWS + 4, 70, 64, 0, NVLLM_Q8_0, NVLLM_F32, NVLLM_F32, 1, 0 }, { 2 * SKINNY_ROWS + 4, 70, 64, 0, NVLLM_Q4_1, NVLLM_F32, NVLLM_BF16, 1, 0 },
		{ 3, 70, 256, 0, NVLLM_Q6_K, NVLLM_BF16, NVLLM_F32, 1, 0 }, { 30, 50, 96, 0, NVLLM_Q5_0, NVLLM_BF16, NVLLM_F32, 0, 0 },
	};

	(void)state;
	for (int round = 0; round < 4; round++) {
		open_good(BF16);
		fake.least_align = round == 1 ? 16 : 1; /* then some are for skinny */
		if (round == 2)
			dev->scratch_bytes = 64 * 512; /* slices of 64 rows and fewer, with a rest */
		if (round == 3)
			dev->scratch_bytes = 96 * 128; /* and those that are no multiple of 64 */
		fake.only_exact = round == 3;
		for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
			if (round == 1 && all[i].w == NVLLM_Q6_K)
				continue; /* neither way, here */
			check_product(&all[i]);
		}
		close_device();
	}
}

static void test_products_f32(void **state)
{
	static const struct product all[] = {
		{ SKINNY_ROWS + 1, 40, 64, 0, NVLLM_BF16, NVLLM_F32, NVLLM_F32, 1, 1 }, { 33, 41, 19, 3, NVLLM_F32, NVLLM_F32, NVLLM_F32, 1, 1 },
		{ SKINNY_ROWS, 41, 19, 0, NVLLM_F16, NVLLM_F32, NVLLM_F32, 0, 0 }, { 2 * SKINNY_ROWS + 4, 70, 256, 0, NVLLM_Q6_K, NVLLM_F32, NVLLM_F32, 0, 1 },
	};

	(void)state;
	open_good(F32);
	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		check_product(&all[i]);
	close_device();
}

/* Weights of e4m3: rows up to twice FP8_TILE_ROWS read them, more of them, and f32, are multiplied with as numbers of x's type. */
static void test_products_fp8(void **state)
{
	static const struct product all[] = {
		{ 1, 40, 64, 0, NVLLM_BF16, NVLLM_BF16, NVLLM_BF16, 0, 0 }, { SKINNY_ROWS, 41, 80, 0, NVLLM_F32, NVLLM_BF16, NVLLM_F32, 1, 1 },
		{ SKINNY_ROWS + 1, 40, 64, 0, NVLLM_BF16, NVLLM_BF16, NVLLM_F32, 0, 1 }, { 70, 130, 48, 8, NVLLM_F16, NVLLM_BF16, NVLLM_BF16, 1, 0 },
		{ 2 * FP8_TILE_ROWS, 20, 48, 0, NVLLM_F16, NVLLM_BF16, NVLLM_F32, 1, 1 }, { 2 * FP8_TILE_ROWS + 1, 70, 64, 0, NVLLM_BF16, NVLLM_BF16, NVLLM_F32, 0, 1 },
		{ 70, 130, 48, 0, NVLLM_F16, NVLLM_F32, NVLLM_F32, 1, 0 }, { 33, 70, 64, 0, NVLLM_BF16, NVLLM_F32, NVLLM_BF16, 0, 0 },
		{ 33, 70, 72, 0, NVLLM_BF16, NVLLM_BF16, NVLLM_F32, 0, 0 }, /* 72 columns: stays bf16 */
	};

	(void)state;
	conf.weights = WEIGHTS_FP8;
	for (int round = 0; round < 3; round++) {
		open_good(round == 2 ? F32 : BF16);
		if (round == 1)
			dev->scratch_bytes = 64 * 128; /* slices, with a rest */
		for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
			check_product(&all[i]);
		assert_int_equal(fake.n_fp8, 8);
		assert_int_equal(fake.n_tiled, round == 2 ? 0 : 1 + 2 + 2); /* 70 rows are two parts */
		assert_true(fake.n_dequantised >= 2 + (round == 1 ? 2 : 0)); /* and not where f32 would have to become bf16 */
		assert_true(fake.n_skinny > 2);
		close_device();
	}
	conf.weights = WEIGHTS_AUTO;
}

static void test_which_routine(void **state)
{
	struct nvllm_tensor w, x, y;
	struct nvllm_norm norm = { .size = sizeof(norm) };
	const struct nvllm_kernels *k;
	nvllm_stream s;

	(void)state;
	open_good(BF16);
	k = vt->kernels;
	s = vt->stream(dev);
	w = stored(NVLLM_BF16, 32, 64);
	memset(w.data, 0, (size_t)(32 * w.stride));
	x = matrix(NVLLM_BF16, SKINNY_ROWS + 1, 64, 0);
	y = matrix(NVLLM_BF16, SKINNY_ROWS + 1, 32, 0);
	norm.w = (struct nvllm_tensor){ .cols = 64, .rows = 1, .dtype = NVLLM_F32 };
	assert_int_equal(k->norm_linear(dev, s, y, x, &norm, w, NULL), NVLLM_ENOTSUP); /* too many rows */
	y.cols = 16;
	assert_int_equal(k->norm_linear_glu(dev, s, y, x, &norm, w, NVLLM_SILU), NVLLM_ENOTSUP);
	assert_int_equal(fake.n_skinny, 0);
	x.rows = y.rows = SKINNY_ROWS;
	assert_int_equal(k->norm_linear_glu(dev, s, y, x, &norm, w, NVLLM_SILU), 0);
	y.cols = 32;
	assert_int_equal(k->norm_linear(dev, s, y, x, &norm, w, NULL), 0);
	norm.w.cols = 32; /* of halves of a row */
	assert_int_equal(k->norm_linear(dev, s, y, x, &norm, w, NULL), NVLLM_ENOTSUP);
	assert_int_equal(fake.n_skinny, 2);
	assert_int_equal(fake.n_matmul, 0);
	y.cols = 31;
	assert_int_equal(k->linear(dev, s, y, x, w, NULL, 0), NVLLM_EINVAL);
	y.cols = 32;
	y.rows = x.rows = 0;
	assert_int_equal(k->linear(dev, s, y, x, w, NULL, 0), 0);
	vt->free(dev, w.data), vt->free(dev, x.data), vt->free(dev, y.data);
	close_device();
}

/* A rank that holds nothing of the weight. */
static void test_no_columns(void **state)
{
	struct nvllm_tensor w = { .rows = 10, .planes = 1, .dtype = NVLLM_BF16 }, x, y, b;

	(void)state;
	open_good(BF16);
	x = matrix(NVLLM_BF16, 12, 1, 0);
	x.cols = 0;
	y = matrix(NVLLM_F32, 12, 10, 3);
	b = matrix(NVLLM_F32, 1, 10, 0);
	assert_int_equal(vt->kernels->linear(dev, vt->stream(dev), y, x, w, NULL, NVLLM_LINEAR_ADD), 0);
	assert_int_equal(vt->kernels->linear(dev, vt->stream(dev), y, x, w, &b, 0), 0);
	assert_int_equal(vt->kernels->linear(dev, vt->stream(dev), y, x, w, &b, NVLLM_LINEAR_ADD), 0);
	assert_int_equal(vt->sync(dev, vt->stream(dev)), 0);
	for (int64_t r = 0; r < 12; r++)
		for (int64_t i = 0; i < 10; i++)
			assert_true(num_get(NVLLM_F32, (char *)y.data + r * y.stride, i) == 2 * num_get(NVLLM_F32, b.data, i));
	/* no row: store() never chose a type for it */
	w = (struct nvllm_tensor){ .cols = 16, .planes = 1, .dtype = NVLLM_Q5_K };
	x.cols = 16, y.cols = 0;
	assert_int_equal(vt->kernels->linear(dev, vt->stream(dev), y, x, w, NULL, 0), 0);
	vt->free(dev, x.data), vt->free(dev, y.data), vt->free(dev, b.data);
	close_device();
}

/* ---- plans ---- */

static void product_of(struct nvllm_tensor w, int64_t T)
{
	struct nvllm_tensor x = matrix(NVLLM_BF16, T, w.cols, 0), y = matrix(NVLLM_F32, T, w.rows, 0);

	assert_int_equal(lt_product(dev, vt->stream(dev), y, x, w, 0), 0);
	assert_int_equal(vt->sync(dev, vt->stream(dev)), 0);
	vt->free(dev, x.data), vt->free(dev, y.data);
}

static void test_plans(void **state)
{
	struct lt_key key = { .n = 1 };
	struct lt_plan *p;
	struct nvllm_tensor w;
	bool fresh;
	int n;

	(void)state;
	assert_int_equal(lt_bucket(512), 512);
	assert_int_equal(lt_bucket(513), 576);
	open_good(BF16);
	w = stored(NVLLM_BF16, 16, 16);
	memset(w.data, 0, (size_t)(16 * w.stride));
	for (int64_t T = 9; T < 20; T++)
		product_of(w, T);
	product_of(w, 600), product_of(w, 640), product_of(w, 577);
	n = fake.n_heuristic;
	assert_int_equal(n, 12);
	for (int64_t T = 9; T < 20; T++)
		product_of(w, T);
	assert_int_equal(fake.n_heuristic, n);
	fake.only_exact = 1; /* the bucket's algorithm is refused: its own is asked for */
	product_of(w, 578);
	assert_int_equal(fake.n_heuristic, n + 1);
	/* a full table forgets the oldest, and never what was timed */
	key.t = -1;
	p = lt_find(dev->lt, &key, &fresh);
	assert_true(p && fresh);
	p->tuned = true;
	for (key.t = 0; key.t < 50 * LT_SETS * LT_WAYS; key.t++) {
		p = lt_find(dev->lt, &key, &fresh);
		assert_true(p && fresh && !p->tuned);
	}
	key.t--;
	lt_find(dev->lt, &key, &fresh);
	assert_false(fresh);
	key.t = -1;
	p = lt_find(dev->lt, &key, &fresh);
	assert_true(!fresh && p->tuned);
	vt->free(dev, w.data);
	close_device();
}

static void weights_for_timing(struct nvllm_tensor *w)
{
	for (int i = 0; i < 3; i++) {
		w[i] = stored(NVLLM_BF16, 16, 16);
		assert_int_equal(vt->random(dev, &w[i], 0, 0, 16, 1, 0, 1), 0);
	}
}

static void free_weights(struct nvllm_tensor *w)
{
	for (int i = 0; i < 3; i++)
		vt->free(dev, w[i].data);
}

/* bf16 y: what the core asks of a weight that is not cut. */
static int algo_used(struct nvllm_tensor w, int64_t T)
{
	struct nvllm_tensor x = matrix(NVLLM_BF16, T, w.cols, 0), y = matrix(NVLLM_BF16, T, w.rows, 0);

	fake.last_algo = -1;
	assert_int_equal(lt_product(dev, vt->stream(dev), y, x, w, 0), 0);
	assert_int_equal(vt->sync(dev, vt->stream(dev)), 0);
	vt->free(dev, x.data), vt->free(dev, y.data);
	return fake.last_algo;
}

static void test_timing(void **state)
{
	static const int32_t rows[] = { SKINNY_ROWS, SKINNY_ROWS + 1, 100, 600 };
	char path[] = "nvllm-tune-XXXXXX";
	struct nvllm_tensor w[3];
	int n;

	(void)state;
	close(mkstemp(path));
	conf.tune_file = path;
	open_good(BF16);
	weights_for_timing(w);
	assert_int_equal(dev->lt->n_shapes, 1);
	assert_int_equal(dev->lt->shapes[0].n, 3);
	fake.best = 3;
	if (cu_prepare(dev, rows, 4))
		fail_msg("%s", said);
	assert_int_equal(algo_used(w[0], SKINNY_ROWS + 1), 3);
	assert_int_equal(algo_used(w[0], 600), 3);
	assert_int_equal(algo_used(w[0], 99), 0); /* was not timed */
	free_weights(w);
	close_device();
	/* the file says it, and nothing is timed again */
	open_good(BF16);
	weights_for_timing(w);
	assert_int_equal(algo_used(w[0], 100), 3);
	n = fake.n_matmul;
	assert_int_equal(cu_prepare(dev, rows, 4), 0);
	assert_int_equal(fake.n_matmul, n);
	free_weights(w);
	close_device();
	/* a file of another machine is not used */
	fake_reset();
	fake.driver = 13010;
	assert_int_equal(open_device(BF16), 0);
	weights_for_timing(w);
	assert_int_equal(algo_used(w[0], 100), 0);
	free_weights(w);
	close_device();
	/* no memory to time with: no error */
	conf.tune_file = "";
	open_good(BF16);
	weights_for_timing(w);
	fake.room = 1000;
	assert_int_equal(cu_prepare(dev, rows, 4), 0);
	fake.room = 1 << 28;
	assert_int_equal(algo_used(w[0], 100), 0);
	free_weights(w);
	close_device();
	unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_products), cmocka_unit_test(test_products_f32), cmocka_unit_test(test_products_fp8),
		cmocka_unit_test(test_which_routine),
		cmocka_unit_test(test_no_columns), cmocka_unit_test(test_plans), cmocka_unit_test(test_timing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
