/* SPDX-License-Identifier: MIT */
/* What the tests of the CUDA device's host side share: a core's host, the device, random weights. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <cuda_runtime_api.h>

#include "rig.h"

/* ---- a host ---- */

char said[1024];
static void *given[64];
static int n_given;

__attribute__((format(printf, 3, 4)))
static void host_log(const struct nvllm_host *h, int level, const char *fmt, ...) { (void)h, (void)level, (void)fmt; }

__attribute__((format(printf, 3, 4)))
static int host_fail(const struct nvllm_host *h, int status, const char *fmt, ...)
{
	va_list ap;

	(void)h;
	va_start(ap, fmt);
	vsnprintf(said, sizeof(said), fmt, ap);
	va_end(ap);
	return status;
}

static void *host_alloc(const struct nvllm_host *h, size_t bytes)
{
	(void)h;
	assert_true(n_given < 64);
	given[n_given] = calloc(1, bytes);
	return given[n_given++];
}

const struct nvllm_host host = { .size = sizeof(host), .world = 1, .log = host_log, .fail = host_fail, .alloc = host_alloc };
const struct nvllm_device_vt *vt;
struct nvllm_device *dev;
struct device_conf conf;
int live_before;

int open_device(int activations)
{
	vt = nvllm_plugin.components[0]->vt;
	conf.activations = activations;
	conf.cublaslt = FAKE_LT;
	conf.tune = TUNE_FULL;
	if (!conf.tune_file)
		conf.tune_file = "";
	*said = 0;
	dev = NULL;
	live_before = fake.live;
	return vt->create(&host, 0, &conf, &dev);
}

void close_device(void)
{
	if (dev)
		vt->destroy(dev);
	assert_int_equal(fake.live, live_before);
	while (n_given)
		free(given[--n_given]);
	dev = NULL;
}

void open_good(int activations)
{
	fake_reset();
	if (open_device(activations))
		fail_msg("%s", said);
}

/* ---- weights and matrices ---- */

static uint32_t seed = 1;

uint32_t next(void)
{
	seed = seed * 1664525 + 1013904223;
	return seed >> 8;
}

/* Random rows of a type: halves as scales stay small. */
char *random_rows(int32_t dtype, int64_t rows, int64_t cols, int64_t pad)
{
	const int64_t bytes = nvllm_row_bytes(dtype, cols), stride = bytes + pad;
	int64_t block, n = nvllm_dtype_block(dtype, &block);
	char *p = malloc((size_t)(rows * stride + 1));

	(void)n;
	for (int64_t r = 0; r < rows; r++) {
		char *row = p + r * stride;

		for (int64_t i = 0; i < stride; i++)
			row[i] = (char)next();
		if (dtype == NVLLM_F32 || dtype == NVLLM_BF16)
			for (int64_t i = 0; i < cols; i++)
				num_put(dtype, row, i, (float)((int)(next() % 64) - 32) / 16);
		else if (dtype == NVLLM_F16)
			for (int64_t i = 0; i < cols; i++)
				row[2 * i + 1] = (char)(next() % 2 ? 0x34 : 0xb8), row[2 * i] = (char)(next() % 4 << 6);
		else
			for (int64_t b = 0; b < bytes; b += block) {
				/* where the halves are: at the start, or for Q6_K at the end */
				const int64_t at = dtype == NVLLM_Q6_K ? b + 208 : b;

				row[at] = 0, row[at + 1] = 0x24;
				row[b + 3] = (dtype == NVLLM_Q4_1 || dtype == NVLLM_Q4_K) ? 0x20 : row[b + 3];
			}
	}
	return p;
}

struct nvllm_tensor stored_cut(int32_t dtype, int64_t rows, int64_t cols, int32_t cut)
{
	struct nvllm_tensor t = { .rows = rows, .cols = cols, .planes = 1, .dtype = dtype, .stride = nvllm_row_bytes(dtype, cols),
		.cut = cut };
	const int64_t bytes = vt->store(dev, &t);

	assert_true(bytes > 0);
	assert_int_equal(t.stride % 16, 0);
	t.data = vt->alloc(dev, bytes);
	return t;
}

struct nvllm_tensor stored(int32_t dtype, int64_t rows, int64_t cols)
{
	return stored_cut(dtype, rows, cols, NVLLM_WHOLE);
}

struct nvllm_tensor matrix(int32_t dtype, int64_t rows, int64_t cols, int64_t pad)
{
	const int64_t size = dtype == NVLLM_F32 ? 4 : 2;
	struct nvllm_tensor t = { .rows = rows, .cols = cols, .stride = (cols + pad) * size, .planes = 1, .dtype = dtype };

	t.data = vt->alloc(dev, rows * t.stride);
	for (int64_t r = 0; r < rows; r++)
		for (int64_t i = 0; i < cols; i++)
			num_put(dtype, (char *)t.data + r * t.stride, i, (float)((int)(next() % 32) - 16) / 8);
	return t;
}
