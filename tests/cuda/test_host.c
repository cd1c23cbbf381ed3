/* SPDX-License-Identifier: MIT */
/* The host side of the CUDA device on a runtime and a cuBLASLt of plain C: refusals, memory, uploads, graphs, marks,
 * and that nothing is left over. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <cuda_runtime_api.h>

#include "../../backends/cuda/lt.h"
#include "rig.h"

/* ---- refusals ---- */

static void refused(const char *word, const char *other)
{
	assert_int_not_equal(open_device(BF16), 0);
	if (!strstr(said, word) || !strstr(said, other))
		fail_msg("'%s' does not say '%s' and '%s'", said, word, other);
	close_device();
}

static void test_refusals(void **state)
{
	(void)state;
	fake_reset();
	fake.count_error = cudaErrorInsufficientDriver, fake.driver = 0;
	refused("no NVIDIA driver", "plugin = cpu");
	fake.driver = 12080;
	refused("CUDA 12.8", "CUDA 13.0");
	fake_reset();
	fake.n_devices = 0;
	refused("no GPU", "CUDA_VISIBLE_DEVICES");
	fake.count_error = cudaErrorSystemNotReady;
	refused("cudaErrorName", "nvidia-smi");
	fake_reset();
	fake.cc = 75;
	refused("7.5", "8.0");
	fake_reset();
	fake.cc = 89;
	fake.kernel_error = cudaErrorNoKernelImageForDevice;
	refused(NVLLM_GPU_ARCH, "gpu_arch=89");
	fake_reset();
	fake.room = 1 << 20;
	refused("96 MiB", "nvidia-smi");
	fake_reset();
	assert_int_equal(vt->create(&host, 2, &conf, &dev), NVLLM_EINVAL);
	assert_non_null(strstr(said, "there is no CUDA device 2"));
	vt->destroy(NULL);
}

/* The library is looked for on a thread: it is missed at the first sync. */
static void test_no_library(void **state)
{
	(void)state;
	fake_reset();
	assert_int_equal(open_device(BF16), 0);
	close_device();
	fake_reset();
	fake.lt_status = CUBLAS_STATUS_NOT_INITIALIZED;
	assert_int_equal(open_device(BF16), 0);
	assert_int_equal(vt->sync(dev, vt->stream(dev)), NVLLM_EDEVICE);
	assert_non_null(strstr(said, "CUBLAS_STATUS_OF_FAKE"));
	close_device();
	fake_reset();
	vt = nvllm_plugin.components[0]->vt;
	conf.cublaslt = "/nowhere/libcublasLt.so";
	live_before = fake.live;
	assert_int_equal(vt->create(&host, 0, &conf, &dev), 0);
	assert_int_equal(vt->sync(dev, vt->stream(dev)), NVLLM_ENOENT);
	assert_non_null(strstr(said, "/nowhere/libcublasLt.so"));
	close_device();
}

static void test_info_and_memory(void **state)
{
	struct nvllm_device_info in = { .size = sizeof(in) };
	void *p, *q;

	(void)state;
	open_good(F32);
	assert_int_equal(vt->info(dev, &in), 0);
	assert_string_equal(in.name, "Fake GPU");
	assert_string_equal(in.isa, "sm_90, 132 SMs, f32");
	assert_int_equal(in.act_dtype, NVLLM_F32);
	assert_int_equal(in.kv_dtype, NVLLM_F32);
	assert_true(in.mem_free > 0 && in.mem_free < in.mem_total);
	p = vt->alloc(dev, 100);
	q = vt->host_alloc(dev, 100);
	assert_true(p && q && (uintptr_t)p % 256 == 0);
	assert_null(vt->alloc(dev, INT64_MAX));
	assert_null(vt->alloc(dev, -1));
	assert_null(vt->host_alloc(dev, INT64_MAX));
	assert_int_equal(fake.last_error, 0);
	vt->free(dev, p);
	vt->free(dev, NULL);
	vt->host_free(dev, q);
	close_device();
}

/* ---- weights ---- */

static void check_stored(const struct nvllm_tensor *t, const char *src, int32_t dtype, int64_t stride)
{
	float *want = malloc(sizeof(float) * (size_t)t->cols);

	assert_int_equal(vt->sync(dev, vt->stream(dev)), 0);
	for (int64_t r = 0; r < t->rows; r++) {
		float *got = num_weight_row(t, r);

		blocks_to_f32(want, src + r * stride, dtype, t->cols);
		for (int64_t i = 0; i < t->cols; i++) {
			char two[4];

			num_put(t->dtype == NVLLM_BF16 ? NVLLM_BF16 : NVLLM_F32, two, 0, want[i]);
			want[i] = num_get(t->dtype == NVLLM_BF16 ? NVLLM_BF16 : NVLLM_F32, two, 0);
			if (got[i] != want[i])
				fail_msg("row %d, column %d: %g, expected %g", (int)r, (int)i, (double)got[i], (double)want[i]);
		}
		free(got);
	}
	free(want);
}

static void upload_one(int32_t dtype, int64_t rows, int64_t cols, int64_t pad, int32_t expect)
{
	const int64_t stride = nvllm_row_bytes(dtype, cols) + pad;
	char *src = random_rows(dtype, rows, cols, pad), *copy = malloc((size_t)(rows * stride + 1));
	struct nvllm_tensor t = stored(dtype, rows, cols);
	const int64_t half = rows / 2;

	memcpy(copy, src, (size_t)(rows * stride));
	assert_int_equal(t.dtype, expect);
	if (half)
		assert_int_equal(vt->upload(dev, &t, 0, 0, half, src, dtype, stride), 0);
	assert_int_equal(vt->upload(dev, &t, 0, half, rows - half, src + half * stride, dtype, stride), 0);
	memset(src, 0x55, (size_t)(rows * stride)); /* it was read */
	check_stored(&t, copy, dtype, stride);
	vt->free(dev, t.data);
	free(src);
	free(copy);
}

static void test_uploads(void **state)
{
	(void)state;
	open_good(BF16);
	upload_one(NVLLM_BF16, 7, 19, 0, NVLLM_BF16);
	upload_one(NVLLM_BF16, 5, 64, 6, NVLLM_BF16);
	upload_one(NVLLM_F32, 5, 19, 4, NVLLM_BF16);
	upload_one(NVLLM_F16, 6, 33, 0, NVLLM_BF16);
	upload_one(NVLLM_F32, 1, 50, 0, NVLLM_F32);
	upload_one(NVLLM_BF16, 1, 50, 0, NVLLM_F32);
	upload_one(NVLLM_Q8_0, 1, 64, 0, NVLLM_F32);
	upload_one(NVLLM_Q4_0, 9, 96, 0, NVLLM_Q4_0);
	upload_one(NVLLM_Q8_0, 9, 96, 2, NVLLM_Q8_0);
	upload_one(NVLLM_Q6_K, 3, 512, 0, NVLLM_Q6_K);
	upload_one(NVLLM_Q5_0, 9, 96, 0, NVLLM_BF16);
	upload_one(NVLLM_IQ4_NL, 9, 96, 0, NVLLM_BF16);
	/* more than the buffers hold, so that they are used again; in types that travel as they are or not */
	upload_one(NVLLM_BF16, 12000, 2048, 0, NVLLM_BF16);
	upload_one(NVLLM_F32, 3000, 4099, 4, NVLLM_BF16);
	close_device();
	open_good(F32);
	upload_one(NVLLM_BF16, 7, 19, 0, NVLLM_F32);
	upload_one(NVLLM_Q5_0, 9, 96, 0, NVLLM_F32);
	upload_one(NVLLM_Q4_K, 2, 256, 0, NVLLM_Q4_K);
	close_device();
}

static void test_planes_and_pieces(void **state)
{
	struct nvllm_tensor t = { .rows = 3, .cols = 20, .planes = 4, .dtype = NVLLM_F32, .stride = 80, .plane_stride = 240 }, v, piece;
	float row[20], *got;
	int64_t bytes;

	(void)state;
	open_good(BF16);
	bytes = vt->store(dev, &t);
	assert_int_equal(t.plane_stride, 3 * 48);
	assert_int_equal(bytes, 4 * 3 * 48);
	t.data = vt->alloc(dev, bytes);
	for (int i = 0; i < 20; i++)
		row[i] = (float)i;
	assert_int_equal(vt->upload(dev, &t, 3, 2, 1, row, NVLLM_F32, 0), 0);
	assert_int_equal(vt->sync(dev, vt->stream(dev)), 0);
	v = t;
	v.data = (char *)t.data + 3 * t.plane_stride;
	got = num_weight_row(&v, 2);
	assert_true(got[19] == 19 && got[1] == 1);
	free(got);
	assert_int_equal(vt->upload(dev, &t, 4, 0, 1, row, NVLLM_F32, 80), NVLLM_EINVAL);
	assert_int_equal(vt->upload(dev, &t, 0, 2, 2, row, NVLLM_F32, 80), NVLLM_EINVAL);
	assert_int_equal(vt->upload(dev, &t, 0, 0, 1, row, NVLLM_I32, 80), NVLLM_EINVAL);
	assert_int_equal(vt->random(dev, &t, 2, 1, 2, 9, 1, 2), 0);
	assert_int_equal(vt->sync(dev, vt->stream(dev)), 0);
	v.data = (char *)t.data + 2 * t.plane_stride;
	got = num_weight_row(&v, 2);
	assert_true(got[7] == 1 + 2 * num_drawn(9, 2, 2, 7));
	free(got);
	vt->free(dev, t.data);
	/* a vector in two pieces */
	v = stored(NVLLM_F32, 1, 20);
	for (int i = 0; i < 20; i += 10) {
		piece = v;
		piece.data = (char *)v.data + i * 4;
		piece.cols = 10;
		assert_int_equal(vt->upload(dev, &piece, 0, 0, 1, row + i, NVLLM_F32, 40), 0);
	}
	check_stored(&v, (const char *)row, NVLLM_F32, 80);
	vt->free(dev, v.data);
	t = (struct nvllm_tensor){ .rows = 4, .cols = 30, .planes = 1, .dtype = NVLLM_Q4_0 };
	assert_int_equal(vt->store(dev, &t), NVLLM_EINVAL);
	t.dtype = NVLLM_I16;
	assert_int_equal(vt->store(dev, &t), NVLLM_ENOTSUP);
	t = stored(NVLLM_Q4_0, 4, 32);
	assert_int_equal(vt->random(dev, &t, 0, 0, 4, 1, 0, 1), NVLLM_ENOTSUP);
	vt->free(dev, t.data);
	close_device();
}

/* From pinned memory rows travel without a buffer between, and are read when upload returns. */
static void test_pinned_source(void **state)
{
	const int64_t rows = 5000, cols = 1001, stride = cols * 2 + 6;
	char *copy, *src;
	struct nvllm_tensor t;

	(void)state;
	open_good(BF16);
	t = stored(NVLLM_BF16, rows, cols);
	copy = random_rows(NVLLM_BF16, rows, cols, 6);
	src = vt->host_alloc(dev, rows * stride);
	memcpy(src, copy, (size_t)(rows * stride));
	assert_int_equal(vt->upload(dev, &t, 0, 0, rows, src, NVLLM_BF16, stride), 0);
	assert_null(dev->staging);
	memset(src, 0, (size_t)(rows * stride));
	check_stored(&t, copy, NVLLM_BF16, stride);
	/* what the compute stream was given before goes before */
	memcpy(src, copy, (size_t)(rows * stride));
	assert_int_equal(vt->copy(dev, vt->stream(dev), t.data, (char *)t.data + t.stride, t.stride), 0);
	assert_int_equal(vt->upload(dev, &t, 0, 0, rows, src, NVLLM_BF16, stride), 0);
	check_stored(&t, copy, NVLLM_BF16, stride);
	vt->host_free(dev, src);
	vt->free(dev, t.data);
	free(copy);
	close_device();
}

/* ---- [device] weights = fp8 ---- */

static void open_fp8(int activations)
{
	conf.weights = WEIGHTS_FP8;
	open_good(activations);
	conf.weights = WEIGHTS_FP8; /* the device reads it where it lies */
}

static void close_fp8(void)
{
	close_device();
	conf.weights = WEIGHTS_AUTO;
}

static void test_fp8_choice(void **state)
{
	static const struct { int32_t dtype, cut, rows, cols, planes, expect; } all[] = {
		{ NVLLM_BF16, NVLLM_CUT_HEADS, 6, 64, 1, NVLLM_F8_E4M3 }, { NVLLM_F16, NVLLM_CUT_HEADS_IN, 6, 48, 1, NVLLM_F8_E4M3 },
		{ NVLLM_F32, NVLLM_CUT_COLS, 6, 16, 3, NVLLM_F8_E4M3 }, { NVLLM_BF16, NVLLM_CUT_ROWS, 2, 64, 1, NVLLM_F8_E4M3 },
		{ NVLLM_BF16, NVLLM_CUT_VOCAB, 6, 64, 1, NVLLM_BF16 },  /* embeddings, heads */
		{ NVLLM_BF16, NVLLM_WHOLE, 6, 64, 1, NVLLM_BF16 },      /* a router */
		{ NVLLM_BF16, NVLLM_CUT_HEADS, 1, 64, 1, NVLLM_F32 },   /* a bias */
		{ NVLLM_BF16, NVLLM_CUT_ROWS, 6, 72, 1, NVLLM_BF16 },   /* columns that are no sixteens */
		{ NVLLM_Q8_0, NVLLM_CUT_ROWS, 6, 64, 1, NVLLM_Q8_0 }, { NVLLM_Q5_0, NVLLM_CUT_ROWS, 6, 64, 1, NVLLM_BF16 },
	};
	struct nvllm_device_info in = { .size = sizeof(in) };
	struct nvllm_tensor t;

	(void)state;
	open_fp8(BF16);
	assert_int_equal(vt->info(dev, &in), 0);
	assert_string_equal(in.isa, "sm_90, 132 SMs, bf16, weights fp8");
	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
		int64_t bytes;

		t = (struct nvllm_tensor){ .rows = all[i].rows, .cols = all[i].cols, .planes = all[i].planes, .dtype = all[i].dtype,
			.cut = all[i].cut };
		bytes = vt->store(dev, &t);
		assert_int_equal(t.dtype, all[i].expect);
		assert_int_equal(t.layout, t.dtype == NVLLM_F8_E4M3 ? LAYOUT_FP8 : 0);
		if (t.layout)
			assert_int_equal(t.stride, FP8_HEAD + t.cols);
		assert_int_equal(bytes, t.planes * t.rows * t.stride);
	}
	/* numbers of 8 bits in the file have their scales elsewhere, and come from no loader */
	t = (struct nvllm_tensor){ .rows = 4, .cols = 64, .planes = 1, .dtype = NVLLM_F8_E4M3, .cut = NVLLM_CUT_ROWS };
	assert_int_equal(vt->store(dev, &t), NVLLM_ENOTSUP);
	assert_non_null(strstr(said, "F32, F16, BF16"));
	close_fp8();
	open_good(BF16); /* off unless asked for */
	t = stored_cut(NVLLM_BF16, 6, 64, NVLLM_CUT_HEADS);
	assert_int_equal(t.dtype, NVLLM_BF16);
	vt->free(dev, t.data);
	close_device();
}

/* Row r of t against the numbers it came from: the scale exactly, each number within half a step. */
static void check_fp8_row(const struct nvllm_tensor *t, int64_t r, const float *from)
{
	float *got = num_weight_row(t, r), most = 0, scale;

	memcpy(&scale, (const char *)t->data + r * t->stride, 4);
	for (int64_t i = 0; i < t->cols; i++)
		most = fabsf(from[i]) > most ? fabsf(from[i]) : most;
	if (scale != (most > 0 ? most / 448 : 1))
		fail_msg("row %d: its scale is %g, the largest number %g", (int)r, (double)scale, (double)most);
	for (int64_t i = 0; i < t->cols; i++) {
		const float off = fabsf(got[i] - from[i]);

		if (!(off <= fabsf(from[i]) / 15.9f || off <= scale * 0x1p-9f))
			fail_msg("row %d, column %d: %g, of %g", (int)r, (int)i, (double)got[i], (double)from[i]);
	}
	free(got);
}

/* Rows in pieces, of a type that may be another than the joined weight's. */
static void upload_fp8(int32_t as, int32_t dtype, int64_t rows, int64_t cols, int64_t pad)
{
	const int64_t stride = nvllm_row_bytes(dtype, cols) + pad, third = rows / 3;
	char *src = random_rows(dtype, rows, cols, pad), *copy = malloc((size_t)(rows * stride + 1));
	struct nvllm_tensor t = stored_cut(as, rows, cols, NVLLM_CUT_ROWS);
	float *want = malloc(sizeof(float) * (size_t)cols);

	memcpy(copy, src, (size_t)(rows * stride));
	assert_int_equal(t.dtype, NVLLM_F8_E4M3);
	assert_int_equal(vt->upload(dev, &t, 0, third, rows - third, src + third * stride, dtype, stride), 0);
	assert_int_equal(vt->upload(dev, &t, 0, 0, third, src, dtype, stride), 0);
	memset(src, 0x55, (size_t)(rows * stride)); /* it was read */
	assert_int_equal(vt->sync(dev, vt->stream(dev)), 0);
	for (int64_t r = 0; r < rows; r++) {
		blocks_to_f32(want, copy + r * stride, dtype, cols);
		check_fp8_row(&t, r, want);
	}
	vt->free(dev, t.data);
	free(want);
	free(copy);
	free(src);
}

static void test_fp8_uploads(void **state)
{
	struct nvllm_tensor t;
	float rows[3][32];

	(void)state;
	open_fp8(BF16);
	upload_fp8(NVLLM_BF16, NVLLM_BF16, 7, 48, 0);
	upload_fp8(NVLLM_BF16, NVLLM_BF16, 7, 48, 6);
	upload_fp8(NVLLM_F16, NVLLM_F16, 9, 64, 0);
	upload_fp8(NVLLM_F32, NVLLM_F32, 5, 16, 4);
	upload_fp8(NVLLM_F32, NVLLM_Q8_0, 6, 96, 0); /* a joined weight of several types is one of f32 */
	upload_fp8(NVLLM_F32, NVLLM_Q5_0, 6, 96, 2);
	upload_fp8(NVLLM_BF16, NVLLM_BF16, 100, 4096 * 16, 0); /* more than a buffer holds */
	t = stored_cut(NVLLM_BF16, 3, 32, NVLLM_CUT_ROWS);
	assert_int_equal(vt->upload(dev, &t, 0, 0, 3, rows, NVLLM_F8_E4M3, 32), NVLLM_EINVAL);
	assert_non_null(strstr(said, "cannot come from"));
	assert_int_equal(vt->upload(dev, &t, 0, 0, 3, rows, NVLLM_I32, 128), NVLLM_EINVAL);
	assert_int_equal(vt->upload(dev, &t, 0, 1, 3, rows, NVLLM_F32, 128), NVLLM_EINVAL);
	for (int i = 0; i < 32; i++)
		rows[0][i] = 0, rows[1][i] = (float)i, rows[2][i] = (float)-i / 1000;
	assert_int_equal(vt->upload(dev, &t, 0, 0, 3, rows, NVLLM_F32, 128), 0);
	assert_int_equal(vt->sync(dev, vt->stream(dev)), 0);
	for (int i = 0; i < 3; i++)
		check_fp8_row(&t, i, rows[i]);
	vt->free(dev, t.data);
	close_fp8();
	open_fp8(F32);
	upload_fp8(NVLLM_BF16, NVLLM_BF16, 7, 48, 0);
	close_fp8();
}

static void test_fp8_planes(void **state)
{
	struct nvllm_tensor t = { .rows = 5, .cols = 32, .planes = 3, .dtype = NVLLM_F32, .cut = NVLLM_CUT_COLS }, v;
	float src[5][32], drawn[64], *pinned, *long_row;
	int64_t bytes;

	(void)state;
	open_fp8(BF16);
	bytes = vt->store(dev, &t);
	assert_int_equal(t.plane_stride, 5 * 48);
	assert_int_equal(bytes, 3 * 5 * 48);
	t.data = vt->alloc(dev, bytes);
	for (int plane = 0; plane < 3; plane++) {
		for (int i = 0; i < 5 * 32; i++)
			src[i / 32][i % 32] = (float)((plane + 1) * (i * 7 % 13 - 6));
		assert_int_equal(vt->upload(dev, &t, plane, 0, 2, src, NVLLM_F32, 128), 0);
		assert_int_equal(vt->upload(dev, &t, plane, 2, 3, src[2], NVLLM_F32, 128), 0);
	}
	assert_int_equal(vt->upload(dev, &t, 3, 0, 2, src, NVLLM_F32, 128), NVLLM_EINVAL);
	assert_int_equal(vt->sync(dev, vt->stream(dev)), 0);
	for (int plane = 0; plane < 3; plane++) {
		v = t;
		v.data = (char *)t.data + plane * t.plane_stride;
		for (int i = 0; i < 5 * 32; i++)
			src[i / 32][i % 32] = (float)((plane + 1) * (i * 7 % 13 - 6));
		for (int r = 0; r < 5; r++)
			check_fp8_row(&v, r, src[r]);
	}
	/* from pinned memory, without a buffer between */
	pinned = vt->host_alloc(dev, sizeof(src));
	memcpy(pinned, src, sizeof(src));
	v.data = (char *)t.data + t.plane_stride;
	store_close(dev);
	assert_int_equal(vt->upload(dev, &t, 1, 0, 5, pinned, NVLLM_F32, 128), 0);
	assert_null(dev->staging);
	assert_int_equal(vt->sync(dev, vt->stream(dev)), 0);
	for (int r = 0; r < 5; r++)
		check_fp8_row(&v, r, src[r]);
	/* made up */
	assert_int_equal(vt->random(dev, &t, 1, 1, 4, 9, 1, 2), 0);
	assert_int_equal(vt->sync(dev, vt->stream(dev)), 0);
	for (int r = 1; r < 5; r++) {
		for (int i = 0; i < 32; i++)
			drawn[i] = 1 + 2 * num_drawn(9, 1, r, i);
		check_fp8_row(&v, r, drawn);
	}
	check_fp8_row(&v, 0, src[0]);
	vt->host_free(dev, pinned);
	vt->free(dev, t.data);
	/* in more than one piece */
	t = stored_cut(NVLLM_BF16, 300, 65536, NVLLM_CUT_ROWS);
	fake.n_fp8 = 0;
	assert_int_equal(vt->random(dev, &t, 0, 0, 129, 9, 1, 2), 0);
	assert_int_equal(fake.n_fp8, 3);
	assert_int_equal(vt->sync(dev, vt->stream(dev)), 0);
	long_row = malloc(sizeof(float) * 65536);
	for (int r = 63; r < 129; r += 65) {
		for (int i = 0; i < 65536; i++)
			long_row[i] = 1 + 2 * num_drawn(9, 0, r, i);
		check_fp8_row(&t, r, long_row);
	}
	free(long_row);
	vt->free(dev, t.data);
	close_fp8();
}

/* ---- graphs and marks ---- */

static void test_graphs(void **state)
{
	struct nvllm_tensor x, d;
	nvllm_graph g;
	nvllm_stream s;

	(void)state;
	open_good(F32);
	s = vt->stream(dev);
	x = matrix(NVLLM_F32, 1, 4, 0), d = matrix(NVLLM_F32, 1, 4, 0);
	num_put(NVLLM_F32, x.data, 0, 1), num_put(NVLLM_F32, d.data, 0, 2);
	assert_int_equal(vt->graph_begin(dev, s), 0);
	assert_int_equal(vt->graph_begin(dev, s), NVLLM_EDEVICE);
	assert_int_equal(vt->kernels->add(dev, s, x, d), 0);
	assert_int_equal(vt->graph_end(dev, s, &g), 0);
	assert_int_equal(vt->sync(dev, s), 0);
	assert_true(num_get(NVLLM_F32, x.data, 0) == 1);
	assert_int_equal(vt->graph_launch(dev, s, g), 0);
	assert_int_equal(vt->graph_launch(dev, s, g), 0);
	assert_int_equal(vt->sync(dev, s), 0);
	assert_true(num_get(NVLLM_F32, x.data, 0) == 5);
	vt->graph_free(dev, g);
	assert_int_equal(vt->graph_end(dev, s, &g), NVLLM_EDEVICE); /* none was begun */
	assert_null(g);
	vt->graph_free(dev, NULL);
	vt->free(dev, x.data), vt->free(dev, d.data);
	close_device();
}

static void test_marks(void **state)
{
	char in[16] = "abc", out[16] = "";
	nvllm_mark m;
	char *p;

	(void)state;
	open_good(BF16);
	p = vt->alloc(dev, 16);
	assert_int_equal(vt->mark_create(dev, &m), 0);
	assert_int_equal(vt->copy(dev, vt->stream(dev), p, in, 16), 0);
	assert_int_equal(vt->copy(dev, vt->stream(dev), out, p, 16), 0);
	assert_int_equal(vt->copy(dev, vt->stream(dev), out, NULL, 0), 0);
	assert_int_equal(vt->mark_set(dev, vt->stream(dev), m), 0);
	assert_string_equal(out, "");
	assert_int_equal(vt->mark_wait(dev, m), 0);
	assert_string_equal(out, "abc");
	vt->mark_free(dev, m);
	vt->mark_free(dev, NULL);
	vt->free(dev, p);
	close_device();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_refusals), cmocka_unit_test(test_no_library), cmocka_unit_test(test_info_and_memory),
		cmocka_unit_test(test_uploads), cmocka_unit_test(test_planes_and_pieces), cmocka_unit_test(test_pinned_source),
		cmocka_unit_test(test_fp8_choice), cmocka_unit_test(test_fp8_uploads), cmocka_unit_test(test_fp8_planes),
		cmocka_unit_test(test_graphs), cmocka_unit_test(test_marks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
